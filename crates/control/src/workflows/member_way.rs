//! The way to a member that is measured: its address and, where it speaks TLS, who vouches for its name, as for edges.
//!
//! Carries HTTP/1.1 alone. What a member says over HTTP/2 only is not measured, and the reason is said.

use berth_config::ServiceEdge;
use berth_domain::Speaks;
use berth_infra::Stream;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use std::{io, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(super) struct MemberWay {
    /// `host:port`.
    pub authority: String,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl MemberWay {
    /// `Err`: why nothing is measured there.
    pub fn new(address: &str, edge: &ServiceEdge) -> Result<Self, String> {
        let schemes = [("https://", Speaks::Https), ("h2c://", Speaks::H2c), ("http://", Speaks::Http)];
        let said = schemes.iter().find_map(|(scheme, speaks)| Some((address.strip_prefix(scheme)?, *speaks)));
        let (authority, speaks) = said.unwrap_or((address, edge.speaks));
        let tls = match speaks {
            Speaks::Http => None,
            Speaks::H2c => return Err("it speaks h2c, HTTP/2 without TLS, which is not measured".to_owned()),
            Speaks::Https => {
                let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                let name = edge.server_name.as_ref().map_or_else(|| host.to_owned(), ToString::to_string);
                let name = ServerName::try_from(name)
                    .map_err(|error| format!("its address names no host that a certificate could bear: {error}"))?;
                Some((Arc::new(config(edge.ca.as_deref())?), name))
            }
        };
        Ok(Self { authority: authority.to_owned(), tls })
    }

    /// Ready for a request: over TLS, its handshake is done.
    pub async fn connect(&self) -> io::Result<Stream> {
        let stream = TcpStream::connect(self.authority.as_str()).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((config, name)) => {
                Ok(Box::new(TlsConnector::from(Arc::clone(config)).connect(name.clone(), stream).await?))
            }
        }
    }
}

/// TLS to members that an authority of this PEM vouches for, or without one an authority that this machine knows.
fn config(ca: Option<&str>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = ca {
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| format!("`edge.ca` cannot be read: {error}"))?;
            roots.add(certificate).map_err(|error| format!("`edge.ca` vouches for nobody: {error}"))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
