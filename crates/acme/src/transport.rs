//! HTTPS to an authority: one connection a request, its certificate verified against the public authorities or the
//! file that the stack file names. Remembers when the authority wants to be asked again.

use crate::exchange::{Failed, exchange};
use berth_infra::AuthorityAt;
use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use jiff::{SignedDuration, Timestamp};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(20);
const BYTES_MAX: usize = 1 << 20;

/// When an authority that refused wants to be asked again.
pub type Again = Arc<Mutex<Option<Timestamp>>>;

pub struct Https {
    tls: Arc<ClientConfig>,
    again: Again,
}

impl Https {
    pub fn new(at: &AuthorityAt) -> io::Result<(Self, Again)> {
        let mut roots = RootCertStore::empty();
        match &at.ca_file {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                let text = std::fs::read(path)?;
                for certificate in CertificateDer::pem_slice_iter(&text) {
                    roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
                }
                if roots.is_empty() {
                    return Err(io::Error::other("there is no certificate in it"));
                }
            }
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let again = Again::default();
        Ok((Self { tls: Arc::new(tls), again: Arc::clone(&again) }, again))
    }
}

async fn send(tls: Arc<ClientConfig>, request: Request<BodyWrapper<Bytes>>) -> Result<http::Response<Bytes>, Failed> {
    let uri = request.uri().clone();
    let authority = uri.authority().ok_or("the authority's URL names no host")?.clone();
    if uri.scheme_str() != Some("https") {
        return Err("an authority is asked over https alone".into());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let stream = TcpStream::connect((host.as_str(), authority.port_u16().unwrap_or(443))).await?;
    let stream = TlsConnector::from(tls).connect(ServerName::try_from(host)?, stream).await?;
    let (mut parts, body) = request.into_parts();
    parts.headers.insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    parts.uri = uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    let body = body.collect().await?.to_bytes();
    exchange(stream, Request::from_parts(parts, Full::new(body)), BYTES_MAX).await
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (tls, again) = (Arc::clone(&self.tls), Arc::clone(&self.again));
        Box::pin(async move {
            let sent = timeout(PATIENCE, send(tls, request)).await;
            let answer = sent.map_err(|_| Error::Other("no answer in time".into()))?.map_err(Error::Other)?;
            if matches!(answer.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                *again.lock().unwrap_or_else(PoisonError::into_inner) = wanted_again(answer.headers());
            }
            Ok(BytesResponse::from(answer.map(Full::new)))
        })
    }
}

/// `Retry-After`, in seconds or as a date.
fn wanted_again(headers: &http::HeaderMap) -> Option<Timestamp> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u32>() {
        Ok(seconds) => Timestamp::now().checked_add(SignedDuration::from_secs(seconds.into())).ok(),
        Err(_) => jiff::fmt::rfc2822::parse(text).ok().map(|at| at.timestamp()),
    }
}

#[cfg(test)]
mod tests {
    use super::wanted_again;
    use http::{HeaderMap, header};
    use jiff::Timestamp;

    #[test]
    fn an_authority_says_in_seconds_or_by_a_date_when_to_come_again() {
        let said = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            wanted_again(&headers)
        };
        let in_an_hour = said("3600").unwrap().as_second() - Timestamp::now().as_second();
        assert!((3598..=3600).contains(&in_an_hour), "{in_an_hour}");
        assert_eq!(said("Wed, 21 Oct 2037 07:28:00 GMT"), Some("2037-10-21T07:28:00Z".parse().unwrap()));
        assert_eq!(said("soon"), None);
    }
}
