//! TLS to the server: whom it has to be vouched for by, and the name that its certificate has to bear.
//!
//! Never believes a certificate that does not bear the host of the URL.

use crate::ClientError;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use std::{
    io,
    sync::{Arc, OnceLock},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What a connection to one server takes.
#[derive(Clone)]
pub(crate) struct Secure {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Secure {
    /// As the system has it, or the file that `SSL_CERT_FILE` names.
    pub fn new(host: &str) -> Option<Self> {
        static SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();
        let name = ServerName::try_from(host.to_owned()).ok()?;
        let system = SYSTEM.get_or_init(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            config(roots)
        });
        Some(Self { config: Arc::clone(system), name })
    }

    /// Only those of this PEM vouch for it.
    pub fn trusting(self, pem: &str) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let added = certificate.ok().and_then(|certificate| roots.add(certificate).ok());
            added.ok_or(ClientError::BadAuthority)?;
        }
        if roots.is_empty() {
            return Err(ClientError::BadAuthority);
        }
        Ok(Self { config: config(roots), ..self })
    }

    pub async fn connect(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(Arc::clone(&self.config)).connect(self.name.clone(), stream).await
    }
}

fn config(roots: RootCertStore) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("ring speaks both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}
