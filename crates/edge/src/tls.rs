//! TLS for clients: certificates by name and date from memory, changed one by one while connections go on.
//!
//! Never reads a key from a file of a person's: the control plane sends them. One that does not fit its certificate is
//! refused, and what was in force for its names stays.

use crate::challenges::Challenges;
use arc_swap::ArcSwap;
use berth_domain::CertificateId;
use berth_wire::edge::{EdgeCertificate, Good};
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
    time::{SystemTime, UNIX_EPOCH},
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

#[derive(Clone, Debug)]
struct Dated {
    good: Option<Good>,
    key: Arc<CertifiedKey>,
}

impl Dated {
    fn is_good(&self, now_s: i64) -> bool {
        self.good.is_none_or(|good| good.from_s <= now_s && now_s < good.until_s)
    }
}

/// Of each name the one that was added last is first.
type ByName = HashMap<Box<str>, Vec<Dated>>;

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What every core answers handshakes from.
#[derive(Debug, Default)]
pub struct Certificates {
    by_name: ArcSwap<ByName>,
    pub challenges: Challenges,
}

impl Certificates {
    /// The one for a host: its own, else that of all names beside it. Of several the last added that is good now; where
    /// none is, the last added all the same, so that a client hears what is wrong.
    pub fn find(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.find_at(host, now_s()).map(|(key, _)| key)
    }

    /// Whether there is one for a host that clients take.
    pub fn is_served(&self, host: &str) -> bool {
        self.find_at(host, now_s()).is_some_and(|(_, good)| good)
    }

    fn find_at(&self, host: &str, now_s: i64) -> Option<(Arc<CertifiedKey>, bool)> {
        let all = self.by_name.load();
        let own = all.get(host);
        let beside = || {
            let (_, parent) = host.split_once('.')?;
            all.get(format!("*.{parent}").as_str())
        };
        let good = |named: &Vec<Dated>| named.iter().find(|dated| dated.is_good(now_s)).map(|d| Arc::clone(&d.key));
        if let Some(key) = own.and_then(good) {
            return Some((key, true));
        }
        let beside = beside();
        if let Some(key) = beside.and_then(good) {
            return Some((key, true));
        }
        let last = own.or(beside)?.first()?;
        Some((Arc::clone(&last.key), false))
    }

    /// Whether a connection that began with one name may go on with another: they have one certificate.
    pub fn same(&self, one: &str, other: &str) -> bool {
        one == other || matches!((self.find(one), self.find(other)), (Some(a), Some(b)) if Arc::ptr_eq(&a, &b))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?;
        if asks_for_proof(&hello) {
            return self.challenges.handshake(&name.to_ascii_lowercase());
        }
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            self.find(&name.to_ascii_lowercase())
        } else {
            self.find(name)
        }
    }
}

/// The protocol in which an authority asks for proof of a host, and nothing else is said.
pub const PROOF: &[u8] = b"acme-tls/1";

/// A client that offers it beside others speaks those.
fn asks_for_proof(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| offered.next() == Some(PROOF) && offered.next().is_none())
}

/// TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1, resumption by tickets that any core can read.
pub fn server_config(certificates: Arc<Certificates>) -> Result<ServerConfig, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13, &TLS12])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), PROOF.to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified(chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, BadCertificate> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| BadCertificate::Pem)?;
    if chain.is_empty() {
        return Err(BadCertificate::Empty);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| BadCertificate::Pem)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &provider())?))
}

/// One that is shown to an authority alone. It says what only those understand, so it is not looked at.
pub fn for_proof(chain_pem: &str, key_pem: &str) -> Result<Arc<CertifiedKey>, BadCertificate> {
    let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|_| BadCertificate::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| BadCertificate::Pem)?;
    Ok(Arc::new(CertifiedKey::new(chain, provider().key_provider.load_private_key(key)?)))
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
            match certified(&certificate.chain_pem, certificate.key_pem.expose()) {
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
        let mut last_first: Vec<_> = self.all.values().collect();
        last_first.sort_by_key(|(certificate, _)| std::cmp::Reverse(certificate.version));
        let mut by_name = ByName::new();
        for (certificate, key) in last_first {
            let dated = Dated { good: certificate.good, key: Arc::clone(key) };
            for name in &certificate.names {
                by_name.entry(name.to_ascii_lowercase().into()).or_default().push(dated.clone());
            }
        }
        by_name
    }

    pub fn to_write(&self) -> Vec<EdgeCertificate> {
        self.all.values().map(|(certificate, _)| certificate.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Certificates, Kept, server_config};
    use berth_domain::CertificateId;
    use berth_wire::edge::{EdgeCertificate, Good, Hidden};
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
            good: None,
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
    fn one_that_is_over_or_begins_later_loses_and_the_last_added_is_served_where_none_is_good() {
        let dated = |id, good: (i64, i64), names: &[&str]| EdgeCertificate {
            good: Some(Good { from_s: good.0, until_s: good.1 }),
            ..made(id, id as u64, names)
        };
        let (mut kept, certificates) = (Kept::default(), Certificates::default());
        let all = vec![
            dated(1, (0, 100), &["a.test", "*.test"]),
            dated(2, (0, 50), &["a.test"]),
            dated(3, (80, 200), &["a.test"]),
            dated(4, (0, 10), &["b.test"]),
        ];
        kept.take(true, all, &[], &certificates);
        let shown = |host: &str, at| {
            let (key, good) = certificates.find_at(host, at)?;
            let id = kept.all.iter().find(|(_, (_, known))| Arc::ptr_eq(known, &key)).unwrap().0;
            Some((id.uuid().as_u128(), good))
        };
        assert_eq!(shown("a.test", 10), Some((2, true)), "of two that are good the one added last");
        assert_eq!(shown("a.test", 60), Some((1, true)), "that one is over, and the last begins later");
        assert_eq!(shown("a.test", 80), Some((3, true)));
        assert_eq!(shown("a.test", 500), Some((3, false)), "all are over");
        assert_eq!(shown("b.test", 60), Some((1, true)), "its own is over, that of all beside it is not");
        assert_eq!(shown("c.d", 60), None);
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
