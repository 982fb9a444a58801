//! One request, one connection, one answer. Never decides what is asked.

use crate::{
    Client, ClientError,
    stream::{Download, Lines},
};
use berth_domain::is_private;
use berth_wire::{Problem, edge::IN_THE_OPEN};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use uuid::Uuid;

/// On a request whose answer others must not read.
#[derive(Clone, Copy)]
struct TellsOpen;

impl Client {
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.answer(&self.request(Method::GET, path, None)?).await
    }

    /// The same, with a word when others may read along: [`IN_THE_OPEN`].
    pub(crate) async fn get_telling<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let mut request = self.request(Method::GET, path, None)?;
        request.extensions_mut().insert(TellsOpen);
        self.answer(&request).await
    }

    /// A write without a version to rest on.
    pub(crate) async fn write<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.write_at(method, path, body, None).await
    }

    /// A write that rests on `version`: refused when somebody changed it meanwhile.
    pub(crate) async fn write_at<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        version: Option<u64>,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|source| ClientError::Unreadable { source })?;
        let mut request = self.request(method, path, (body != b"null").then_some(body))?;
        if let Some(version) = version {
            let tag = HeaderValue::from_str(&format!("\"{version}\"")).expect("digits in quotes are a header value");
            request.headers_mut().insert(header::IF_MATCH, tag);
        }
        match self.answer(&request).await {
            // The server may have done it or not. Under the same key it does it once, and answers what it answered.
            Err(ClientError::Broken { .. }) => self.answer(&request).await,
            answer => answer,
        }
    }

    /// A stream of lines that ends when the server ends it.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        let response = self.send(&self.request(Method::GET, path, None)?).await?;
        if response.status().is_success() {
            return Ok(Lines::new(self.url(), response.into_body()));
        }
        let status = response.status().as_u16();
        Err(self.refusal(status, &self.whole(response).await?))
    }

    /// A file, part by part, for as long as it takes.
    pub(crate) async fn download(&self, path: &str) -> Result<Download, ClientError> {
        let response = self.send(&self.request(Method::GET, path, None)?).await?;
        if response.status().is_success() {
            return Ok(Download::new(self.url(), response.into_body()));
        }
        let status = response.status().as_u16();
        Err(self.refusal(status, &self.whole(response).await?))
    }

    /// Sends a file as it is read, for as long as it takes. Sent again, it replaces what came before.
    pub(crate) async fn upload<S, E>(&self, path: &str, content: S) -> Result<(), ClientError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let (mut parts, _) = self.request(Method::PUT, path, None)?.into_parts();
        // The file is not kept to be sent again.
        parts.headers.remove("idempotency-key");
        let kind = HeaderValue::from_static("application/octet-stream");
        parts.headers.insert(header::CONTENT_TYPE, kind);
        let body = StreamBody::new(Box::pin(content.map(|part| part.map(Frame::data))));
        let response = self.deliver(Request::from_parts(parts, body)).await?;
        let status = response.status();
        let body = self.whole(response).await?;
        if status.is_success() { Ok(()) } else { Err(self.refusal(status.as_u16(), &body)) }
    }

    fn request(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder()
            .method(&method)
            .uri(path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::USER_AGENT, concat!("berth/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "application/json");
        if let Some(key) = &self.key {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", key.expose_secret())).map_err(|_| ClientError::BadKey)?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if method != Method::GET {
            request = request.header("idempotency-key", Uuid::new_v4().to_string());
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        Ok(request.body(Full::from(body.unwrap_or_default())).expect("every part was checked above"))
    }

    async fn answer<T: DeserializeOwned>(&self, request: &Request<Full<Bytes>>) -> Result<T, ClientError> {
        let asked = async {
            let response = self.send(request).await?;
            let status = response.status();
            let body = self.whole(response).await?;
            if !status.is_success() {
                return Err(self.refusal(status.as_u16(), &body));
            }
            let body = if body.is_empty() { Bytes::from_static(b"null") } else { body };
            serde_json::from_slice(&body).map_err(|source| ClientError::Unreadable { source })
        };
        match tokio::time::timeout(self.limit, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::TooSlow { url: self.url(), limit_s: self.limit.as_secs() }),
        }
    }

    async fn send(&self, request: &Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        self.deliver(request.clone()).await
    }

    async fn deliver<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, ClientError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let connect = TcpStream::connect((host, self.port));
        let stream = match tokio::time::timeout(self.limit, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(ClientError::Unreachable { url: self.url(), source }),
            Err(_) => return Err(ClientError::TooSlow { url: self.url(), limit_s: self.limit.as_secs() }),
        };
        let Some(secure) = &self.secure else {
            let private = stream.peer_addr().is_ok_and(|peer| is_private(peer.ip()));
            if request.extensions_mut().remove::<TellsOpen>().is_some() && !private {
                request.headers_mut().insert(IN_THE_OPEN, HeaderValue::from_static("1"));
            }
            return self.speak(stream, request).await;
        };
        match tokio::time::timeout(self.limit, secure.connect(stream)).await {
            Ok(Ok(stream)) => self.speak(stream, request).await,
            Ok(Err(source)) => Err(ClientError::Unproved { url: self.url(), source }),
            Err(_) => Err(ClientError::TooSlow { url: self.url(), limit_s: self.limit.as_secs() }),
        }
    }

    async fn speak<S, B>(&self, stream: S, request: Request<B>) -> Result<Response<Incoming>, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let broken = |source| ClientError::Broken { url: self.url(), source };
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the connection, which ends when the answer and `sender` are gone.
        tokio::spawn(connection);
        sender.send_request(request).await.map_err(broken)
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = response.into_body().collect().await;
        Ok(body.map_err(|source| ClientError::Broken { url: self.url(), source })?.to_bytes())
    }

    fn refusal(&self, status: u16, body: &[u8]) -> ClientError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => ClientError::Refused(Box::new(problem)),
            Err(_) => ClientError::NotBerth { url: self.url(), status },
        }
    }
}
