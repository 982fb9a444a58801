//! One GET over HTTP or HTTPS, for looks at an application that runs elsewhere. Never follows a redirect, never reads
//! a body, never sends a secret.

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use std::{fmt, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Where an application answers: scheme, host and port of its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub https: bool,
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = self.port == if self.https { 443 } else { 80 };
        let scheme = if self.https { "https" } else { "http" };
        if usual { write!(f, "{scheme}://{}", self.host) } else { write!(f, "{scheme}://{}:{}", self.host, self.port) }
    }
}

impl Origin {
    /// From `http://host`, `https://host:port`; a path is refused, since requests keep their own.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (https, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err("it begins with neither `http://` nor `https://`".to_owned()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err("it carries a login, which has no place in a URL".to_owned());
        }
        if rest.contains(['/', '?', '#']) {
            return Err("it has a path; name scheme, host and port alone".to_owned());
        }
        let bracketed = rest.starts_with('[');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !bracketed || host.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("`{port}` is no port"))?)
            }
            _ => (rest, if https { 443 } else { 80 }),
        };
        let clean = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b));
        if !clean || port == 0 {
            return Err("it names no host".to_owned());
        }
        Ok(Self { https, host: host.to_owned(), port })
    }

    /// The status of `GET path`, or why there was none.
    pub async fn get(&self, path: &str, limit: Duration) -> Result<u16, String> {
        match timeout(limit, self.status(path)).await {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(format!("{self}{path}: {error}")),
            Err(_) => Err(format!("{self}{path} did not answer within {} s", limit.as_secs())),
        }
    }

    async fn status(&self, path: &str) -> std::io::Result<u16> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, self.port)).await?;
        if !self.https {
            return self.ask(stream, path).await;
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(std::io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(tls())).connect(name, stream).await?;
        self.ask(stream, path).await
    }

    async fn ask(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> std::io::Result<u16> {
        let shown = self.to_string();
        let authority = shown.split_once("://").map_or(shown.as_str(), |(_, rest)| rest);
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: berth\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        let mut head = Vec::new();
        // `HTTP/1.1 200` is all that counts.
        while head.len() < 12 {
            if stream.read_buf(&mut head).await? == 0 {
                break;
            }
        }
        let digits = head.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..5)?).ok());
        let status = digits.and_then(|digits| digits.parse().ok());
        status.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "no HTTP answer"))
    }
}

/// Certificates are verified against the public authorities, and names always.
fn tls() -> ClientConfig {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[cfg(test)]
mod tests {
    use super::Origin;
    use std::time::Duration;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    #[test]
    fn an_origin_is_scheme_host_and_port_and_nothing_else() {
        for (url, shown) in [
            ("http://app.example.com", "http://app.example.com"),
            ("http://app.example.com:80/", "http://app.example.com"),
            ("https://10.0.0.2:8443", "https://10.0.0.2:8443"),
            ("http://[::1]:8000", "http://[::1]:8000"),
            ("http://[::1]", "http://[::1]"),
        ] {
            assert_eq!(Origin::parse(url).unwrap().to_string(), shown);
        }
        for bad in [
            "app.example.com",
            "ftp://a",
            "http://u:p@a",
            "http://a/path",
            "http://a?x",
            "http://a:x",
            "http://",
            "http://a b",
        ] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_look_says_the_status_or_why_there_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in [&b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..], b"SSH-2.0-OpenSSH_9.2"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(answer).await.unwrap();
            }
        });
        let origin = Origin::parse(&format!("http://127.0.0.1:{port}")).unwrap();
        let limit = Duration::from_secs(5);
        assert_eq!(origin.get("/h", limit).await, Ok(503));
        assert!(origin.get("/h", limit).await.unwrap_err().ends_with("no HTTP answer"));
        assert!(origin.get("/h", limit).await.is_err(), "nobody listens any more");
    }
}
