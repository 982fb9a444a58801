//! TLS certificates of the hosts that edges serve: looked at, kept sealed, told to edges.
//!
//! Never shows a key, and takes none that does not fit its certificate: an edge would refuse it, and nobody would know.

use crate::{App, Change, ControlError, Permit, Read, audited};
use base64::Engine as _;
use berth_domain::{CertificateId, Hostname};
use berth_store::{Certificate, NewCertificate, StoreError};
use berth_wire::{
    self as wire,
    edge::{EdgeCertificate, Good, Hidden},
};
use jiff::{SignedDuration, Timestamp};
use rustls::{
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{PemObject as _, SectionKind},
    },
    sign::CertifiedKey,
};
use secrecy::ExposeSecret as _;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;
use x509_cert::{
    Certificate as Parsed,
    der::Decode as _,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// How far the clock of who made a certificate may be ahead.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);

/// Keys that are read and opened together: an edge with many hears all of them before it takes the stream for dead.
const SECRETS_AT_ONCE: usize = 500;

/// Takes a certificate with its key; edges serve its names from then on.
pub async fn add(
    app: &App,
    permit: &Permit<Change>,
    wanted: wire::CertificateAdd,
) -> Result<wire::Certificate, ControlError> {
    app.writable().await?;
    let read = read(&wanted).map_err(ControlError::BadCertificate)?;
    if read.not_after <= Timestamp::now() {
        return Err(ControlError::BadCertificate(format!("it ended on {}", read.not_after.strftime("%Y-%m-%d"))));
    }
    // A newer one is served before older ones, so it has to be good from now on.
    if read.not_before > Timestamp::now() + CLOCKS {
        let from = read.not_before.strftime("%Y-%m-%d %H:%M UTC");
        return Err(ControlError::BadCertificate(format!("it begins on {from}; add it then")));
    }
    let new = NewCertificate {
        id: CertificateId::new(Uuid::now_v7()),
        names: read.names,
        issuer: read.issuer,
        not_before: read.not_before,
        not_after: read.not_after,
        chain_pem: read.chain_pem,
        key_pem: wanted.key_pem.into(),
        added_by: permit.caller().name.clone(),
        ordered_for: None,
    };
    let mut tx = app.store().begin().await?;
    app.store().certificate_insert(&mut tx, &new).await?;
    let after = json!({ "names": new.names, "issuer": new.issuer, "not_after": new.not_after });
    audited(&mut tx, permit, "certificate.add", &format!("certificate/{}", new.id), None, Some(after)).await?;
    tx.settings_publish().await?;
    tx.commit().await?;
    let added = app.store().certificate_list().await?.into_iter().find(|certificate| certificate.id == new.id);
    added.map(shown).ok_or(ControlError::NoCertificate(new.id))
}

/// The newest first.
pub async fn list(app: &App, _permit: &Permit<Read>) -> Result<Vec<wire::Certificate>, ControlError> {
    Ok(app.store().certificate_list().await?.into_iter().map(shown).collect())
}

/// Edges no longer serve it; an older one for the same names is served again.
pub async fn remove(app: &App, permit: &Permit<Change>, id: CertificateId) -> Result<wire::Certificate, ControlError> {
    app.writable().await?;
    let known = app.store().certificate_list().await?.into_iter().find(|certificate| certificate.id == id);
    let known = known.ok_or(ControlError::NoCertificate(id))?;
    let mut tx = app.store().begin().await?;
    if !tx.certificate_delete(id).await? {
        return Err(ControlError::NoCertificate(id));
    }
    audited(&mut tx, permit, "certificate.remove", &format!("certificate/{id}"), None, None).await?;
    tx.settings_publish().await?;
    tx.commit().await?;
    Ok(shown(known))
}

fn shown(certificate: Certificate) -> wire::Certificate {
    wire::Certificate {
        id: certificate.id,
        names: certificate.names,
        issuer: certificate.issuer,
        not_before: certificate.not_before,
        not_after: certificate.not_after,
        added_at: certificate.added_at,
        ordered_for: certificate.ordered_for,
    }
}

/// Whether the stack file takes it on itself that others read along.
pub(crate) async fn keys_may_be_read(app: &App) -> Result<bool, ControlError> {
    match app.stack().await {
        Ok(in_force) => Ok(in_force.stack.https.keys_over_plain_http),
        Err(ControlError::NoStack) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What an edge has, and is told next.
#[derive(Debug, Default)]
pub(crate) struct Told {
    versions: Option<BTreeMap<CertificateId, i64>>,
}

/// What changed since the edge was told last. The first time that is everything.
pub(crate) type News = (bool, Vec<EdgeCertificate>, Vec<CertificateId>);

impl Told {
    /// `None`: nothing changed.
    pub(crate) async fn news(&mut self, app: &App) -> Result<Option<News>, ControlError> {
        let now = app.store().certificate_list().await?;
        let versions: BTreeMap<_, _> = now.iter().map(|certificate| (certificate.id, certificate.version)).collect();
        let full = self.versions.is_none();
        let before = self.versions.take().unwrap_or_default();
        let news: Vec<_> = now.into_iter().filter(|c| before.get(&c.id) != Some(&c.version)).collect();
        let mut changed = Vec::with_capacity(news.len());
        for page in news.chunks(SECRETS_AT_ONCE) {
            let ids: Vec<_> = page.iter().map(|certificate| certificate.id).collect();
            let mut secrets = app.store().certificate_secrets(&ids).await?;
            for certificate in page {
                // One that went in between is not told, and told as gone the next time.
                let secret = match secrets.remove(&certificate.id) {
                    None => continue,
                    // One that does not open must not keep routes and the other certificates from the edges.
                    Some(Err(StoreError::Seal(error))) => {
                        tracing::error!(certificate.id = %certificate.id, %error, "the key of a certificate cannot be opened; it is not served");
                        continue;
                    }
                    Some(secret) => secret?,
                };
                changed.push(EdgeCertificate {
                    id: certificate.id,
                    version: u64::try_from(certificate.version).unwrap_or(0),
                    names: certificate.names.clone(),
                    chain_pem: secret.chain_pem,
                    key_pem: Hidden::new(secret.key_pem.expose_secret().to_owned()),
                    good: Some(Good {
                        from_s: certificate.not_before.as_second(),
                        until_s: certificate.not_after.as_second(),
                    }),
                });
            }
        }
        let gone: Vec<_> = before.keys().filter(|id| !versions.contains_key(id)).copied().collect();
        self.versions = Some(versions);
        Ok((full || !changed.is_empty() || !gone.is_empty()).then_some((full, changed, gone)))
    }
}

pub(crate) struct Facts {
    /// Of the certificates alone: whatever else stood in the file is not kept.
    pub chain_pem: String,
    pub names: Vec<String>,
    pub issuer: String,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// `Err`: what is wrong with it, for people.
pub(crate) fn read(wanted: &wire::CertificateAdd) -> Result<Facts, String> {
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(wanted.chain_pem.as_bytes());
    // What is wrong is not repeated: somebody may have given the key in its place.
    let sections = sections.collect::<Result<Vec<_>, _>>().map_err(|_| "the chain is no PEM")?;
    if sections.iter().any(|(kind, _)| *kind != SectionKind::Certificate) {
        return Err("the chain holds more than certificates: give the key as the key".to_owned());
    }
    let chain_pem = sections.iter().map(|(_, der)| encoded(der)).collect();
    let chain: Vec<_> = sections.into_iter().map(|(_, der)| CertificateDer::from(der)).collect();
    let first = chain.first().ok_or("there is no certificate in the chain")?;
    let parsed = Parsed::from_der(first).map_err(|error| format!("its certificate cannot be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(wanted.key_pem.as_bytes());
    // What is wrong with a key is not repeated: the message could hold a part of it.
    let key = key.map_err(|_| "there is no private key in PEM")?;
    CertifiedKey::from_der(chain.clone(), key, &ring::default_provider())
        .map_err(|error| format!("certificate and key do not fit: {error}"))?;
    let names = names(&parsed)?;
    let validity = &parsed.tbs_certificate.validity;
    let moment = |time: x509_cert::time::Time| {
        let seconds = i64::try_from(time.to_unix_duration().as_secs()).unwrap_or(i64::MAX);
        Timestamp::from_second(seconds).map_err(|_| "its validity is no time".to_owned())
    };
    Ok(Facts {
        chain_pem,
        names,
        issuer: parsed.tbs_certificate.issuer.to_string(),
        not_before: moment(validity.not_before)?,
        not_after: moment(validity.not_after)?,
    })
}

/// A certificate as PEM (RFC 7468).
fn encoded(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The host names that it is for, each once.
fn names(parsed: &Parsed) -> Result<Vec<String>, String> {
    let listed = parsed.tbs_certificate.get::<SubjectAltName>();
    let listed = listed.map_err(|error| format!("its names cannot be read: {error}"))?;
    let mut names = BTreeSet::new();
    for name in listed.map(|(_, names)| names.0).unwrap_or_default() {
        let GeneralName::DnsName(name) = name else { continue };
        let name = name.as_str().to_ascii_lowercase();
        let host = name.strip_prefix("*.").unwrap_or(&name);
        if Hostname::new(host).is_err() {
            return Err(format!("`{name}` is no host name"));
        }
        names.insert(name);
    }
    if names.is_empty() { Err("it is for no host name".to_owned()) } else { Ok(names.into_iter().collect()) }
}
