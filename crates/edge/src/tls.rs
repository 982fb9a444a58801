//! TLS for clients: certificates by name from memory, changed one by one while connections go on.
//!
//! Never reads a key from a file of a person's: the control plane sends them. One that does not fit its certificate is
//! refused, and what was in force for its names stays.

use arc_swap::ArcSwap;
use berth_domain::CertificateId;
use berth_wire::edge::EdgeCertificate;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// A certificate that cannot be served. Nothing of the key is in it.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    /// What is wrong is not repeated: the message could hold a part of it.
    #[error("it is no PEM")]
    Pem,
    #[error("it is empty")]
    Empty,
    #[error("certificate and key do not fit")]
    Key(#[from] rustls::Error),
}

type ByName = HashMap<Box<str>, Arc<CertifiedKey>>;

/// What every core answers handshakes from.
#[derive(Debug, Default)]
pub struct Certificates {
    by_name: ArcSwap<ByName>,
}

impl Certificates {
    /// The one for a host: its own, else that of all names beside it.
    pub fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let all = self.by_name.load();
        if let Some(own) = all.get(host) {
            return Some(Arc::clone(own));
        }
        let (_, parent) = host.split_once('.')?;
        all.get(format!("*.{parent}").as_str()).cloned()
    }

    /// Whether a connection that began with one name may go on with another: they have one certificate.
    pub fn same(&self, one: &str, other: &str) -> bool {
        one == other || matches!((self.find(one), self.find(other)), (Some(a), Some(b)) if Arc::ptr_eq(&a, &b))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?;
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            self.find(&name.to_ascii_lowercase())
        } else {
            self.find(name)
        }
    }
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, resumption by tickets that any core can read.
pub fn server_config(certificates: Arc<Certificates>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13, &TLS12])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified(from: &EdgeCertificate) -> Result<Arc<CertifiedKey>, BadCertificate> {
    let chain = CertificateDer::pem_slice_iter(from.chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| BadCertificate::Pem)?;
    if chain.is_empty() {
        return Err(BadCertificate::Empty);
    }
    let key = PrivateKeyDer::from_pem_slice(from.key_pem.expose().as_bytes()).map_err(|_| BadCertificate::Pem)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider())?))
}

/// All certificates of this edge, as the control plane sent them. The coordinator's.
#[derive(Debug, Default)]
pub struct Kept {
    all: BTreeMap<CertificateId, (EdgeCertificate, Arc<CertifiedKey>)>,
}

impl Kept {
    /// Takes what changed, and puts it in force. Says whether anything did.
    pub fn take(
        &mut self,
        full: bool,
        changed: Vec<EdgeCertificate>,
        gone: &[CertificateId],
        in_force: &Certificates,
    ) -> bool {
        let before = self.all.len();
        if full {
            self.all.retain(|id, _| changed.iter().any(|certificate| certificate.id == *id));
        }
        self.all.retain(|id, _| !gone.contains(id));
        let mut different = self.all.len() != before;
        for certificate in changed {
            if self.all.get(&certificate.id).is_some_and(|(known, _)| *known == certificate) {
                continue;
            }
            match certified(&certificate) {
                Ok(key) => {
                    different = true;
                    self.all.insert(certificate.id, (certificate, key));
                }
                Err(error) => {
                    let names = certificate.names.join(", ");
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(error, certificate.id = %certificate.id, "the certificate for {names} was refused; what was in force stays");
                }
            }
        }
        if different {
            in_force.by_name.store(Arc::new(self.by_name()));
        }
        different
    }

    fn by_name(&self) -> ByName {
        let mut oldest_first: Vec<_> = self.all.values().collect();
        oldest_first.sort_by_key(|(certificate, _)| certificate.version);
        let named = oldest_first.into_iter().flat_map(|(certificate, key)| {
            certificate.names.iter().map(|name| (name.to_ascii_lowercase().into(), Arc::clone(key)))
        });
        named.collect()
    }

    pub fn to_write(&self) -> Vec<EdgeCertificate> {
        self.all.values().map(|(certificate, _)| certificate.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Certificates, Kept, server_config};
    use berth_domain::CertificateId;
    use berth_wire::edge::{EdgeCertificate, Hidden};
    use std::sync::Arc;
    use uuid::Uuid;

    fn made(id: u128, version: u64, names: &[&str]) -> EdgeCertificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(names.clone()).unwrap();
        EdgeCertificate {
            id: CertificateId::new(Uuid::from_u128(id)),
            version,
            names,
            chain_pem: made.cert.pem(),
            key_pem: Hidden::new(made.signing_key.serialize_pem()),
        }
    }

    #[test]
    fn a_host_has_its_own_certificate_before_that_of_all_beside_it() {
        let (mut kept, certificates) = (Kept::default(), Certificates::default());
        let all = vec![made(1, 1, &["*.example.com"]), made(2, 2, &["shop.example.com", "example.com"])];
        assert!(kept.take(true, all.clone(), &[], &certificates));
        assert!(!kept.take(true, all, &[], &certificates), "the same again changes nothing");
        let same = |one, other| certificates.same(one, other);
        assert!(same("a.example.com", "b.example.com") && same("shop.example.com", "example.com"));
        assert!(!same("a.example.com", "shop.example.com"));
        for unknown in ["a.b.example.com", "example.org", "com", ""] {
            assert!(certificates.find(unknown).is_none(), "{unknown}");
        }
        assert!(server_config(Arc::new(certificates)).is_ok());
    }

    #[test]
    fn the_later_of_two_has_the_name_and_gives_it_back_when_it_goes() {
        let (mut kept, certificates) = (Kept::default(), Certificates::default());
        kept.take(true, vec![made(1, 1, &["a.test"])], &[], &certificates);
        let first = certificates.find("a.test").unwrap();
        kept.take(false, vec![made(2, 2, &["a.test", "b.test"])], &[], &certificates);
        let second = certificates.find("a.test").unwrap();
        assert!(!Arc::ptr_eq(&first, &second) && certificates.same("a.test", "b.test"));
        assert!(kept.take(false, Vec::new(), &[CertificateId::new(Uuid::from_u128(2))], &certificates));
        assert!(Arc::ptr_eq(&first, &certificates.find("a.test").unwrap()));
        assert!(certificates.find("b.test").is_none());
        kept.take(true, Vec::new(), &[], &certificates);
        assert!(certificates.find("a.test").is_none());
    }

    #[test]
    fn one_that_does_not_fit_its_key_is_refused_and_the_running_one_kept() {
        let (mut kept, certificates) = (Kept::default(), Certificates::default());
        let good = made(1, 1, &["a.test"]);
        kept.take(true, vec![good.clone()], &[], &certificates);
        let running = certificates.find("a.test").unwrap();
        let mut mixed = made(1, 2, &["a.test"]);
        mixed.key_pem = made(3, 3, &["a.test"]).key_pem;
        let mut broken = made(1, 2, &["a.test"]);
        broken.chain_pem = broken.chain_pem.replace('A', "!");
        let mut empty = made(1, 2, &["a.test"]);
        empty.chain_pem = String::new();
        let mut keyless = made(1, 2, &["a.test"]);
        keyless.key_pem = Hidden::default();
        for bad in [mixed, broken, empty, keyless] {
            assert!(!kept.take(false, vec![bad], &[], &certificates));
            assert!(Arc::ptr_eq(&running, &certificates.find("a.test").unwrap()));
        }
        assert_eq!(kept.to_write(), [good]);
    }
}
