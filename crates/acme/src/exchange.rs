//! One request over a connection of its own, and its answer, of which no more is read than was said.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::{body::Body, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

pub type Failed = Box<dyn std::error::Error + Send + Sync>;

pub async fn exchange<S, B>(stream: S, request: Request<B>, bytes_max: usize) -> Result<Response<Bytes>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Failed>,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asked = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, bytes_max).collect().await?.to_bytes();
        Ok::<_, Failed>(Response::from_parts(head, body))
    };
    // The connection is driven here and ends here.
    tokio::pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        ended = connection => {
            ended?;
            asked.await
        }
    }
}
