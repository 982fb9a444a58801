//! Where something answers over HTTP: scheme, host and port of its URL, and a connection to it. Never speaks HTTP itself,
//! and never believes a certificate that does not bear the host.

use crate::Stream;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use std::{
    fmt, io,
    sync::{Arc, OnceLock},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub https: bool,
    /// An address of IPv6 in brackets.
    pub host: String,
    pub port: u16,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.https { "https" } else { "http" }, self.authority())
    }
}

impl Origin {
    /// From `http://host`, `https://host:port`; a path is refused, since requests keep their own.
    pub fn parse(url: &str) -> Result<Self, String> {
        match Self::split(url)? {
            (origin, "" | "/") => Ok(origin),
            _ => Err("it has a path; name scheme, host and port alone".to_owned()),
        }
    }

    /// The same with what follows: nothing, or what begins with `/`, `?` or `#`.
    pub fn split(url: &str) -> Result<(Self, &str), String> {
        let (https, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err("it begins with neither `http://` nor `https://`".to_owned()),
        };
        let (authority, tail) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err("it carries a login, which has no place in a URL".to_owned());
        }
        let bracketed = authority.starts_with('[');
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !bracketed || host.ends_with(']') => {
                (host, port.parse().map_err(|_| format!("`{port}` is no port"))?)
            }
            _ => (authority, if https { 443 } else { 80 }),
        };
        let clean = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b));
        if !clean || port == 0 {
            return Err("it names no host".to_owned());
        }
        Ok((Self { https, host: host.to_owned(), port }, tail))
    }

    /// As the `Host` header says it.
    pub fn authority(&self) -> String {
        let usual = self.port == if self.https { 443 } else { 80 };
        if usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Over TLS, certificates are verified against the public authorities, and names always.
    pub async fn connect(&self) -> io::Result<Stream> {
        let bare = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, self.port)).await?;
        if !self.https {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(tls()).connect(name, stream).await?))
    }
}

fn tls() -> Arc<ClientConfig> {
    static PUBLIC: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = || {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider speaks TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    };
    Arc::clone(PUBLIC.get_or_init(config))
}

#[cfg(test)]
mod tests {
    use super::Origin;

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
        let (origin, tail) = Origin::split("https://app.example.com:8443/hooks/a@b?x=1").unwrap();
        assert_eq!((origin.authority().as_str(), tail), ("app.example.com:8443", "/hooks/a@b?x=1"));
        assert_eq!(Origin::split("http://a?x").unwrap().1, "?x");
    }
}
