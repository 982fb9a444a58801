//! Certificates and tokens near their end. Reads the end and nothing else of them.

use crate::{
    Kind,
    world::{Out, World},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use x509_cert::{Certificate, der::Decode as _, der::DecodePem as _};

/// Within which somebody should act: renewals that run by themselves happen a month before.
pub const SOON_DAYS: i64 = 21;

pub fn ends_soon(world: &World<'_>, out: &mut Out) {
    for file in world.of(Kind::Certificate) {
        for (line, block) in blocks(&file.text) {
            let Some(end) = pem_end(&block) else {
                out.note(file, line, "", "this is no certificate that can be read", "export it anew, as PEM");
                continue;
            };
            if let Some(message) = told(end, world.now, "the certificate") {
                let remedy = "renew it, and let a timer do so: `certbot renew` twice a day asks a month before the end";
                out.note(file, line, "", message, remedy);
            }
        }
    }
    for variable in world.variables() {
        if let Some(message) = token_end(&variable.value).and_then(|end| told(end, world.now, "the token")) {
            let remedy = "make a new one, and write its end into the calendar of whoever will renew it";
            out.note(variable.file, variable.line, &variable.key, message, remedy);
        }
    }
}

/// What to say about an end, if it is near or past.
pub fn told(end: Timestamp, now: Timestamp, what: &str) -> Option<String> {
    let days = (end.as_second() - now.as_second()).div_euclid(86_400);
    let date = end.strftime("%Y-%m-%d");
    match days {
        ..0 => Some(format!("{what} ended on {date}")),
        0..=SOON_DAYS => Some(format!("{what} ends on {date}, in {days} days")),
        _ => None,
    }
}

/// Whether a certificate, in DER, names itself as who signed it.
pub fn signs_itself(der: &[u8]) -> bool {
    Certificate::from_der(der).is_ok_and(|it| it.tbs_certificate.issuer == it.tbs_certificate.subject)
}

/// Each certificate of a file with the line in which it begins. Keys are passed over.
fn blocks(text: &str) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    let mut block: Option<(u64, String)> = None;
    for (n, line) in text.lines().enumerate() {
        if line.trim() == "-----BEGIN CERTIFICATE-----" {
            block = Some((n as u64 + 1, String::new()));
        }
        if let Some((_, text)) = &mut block {
            text.push_str(line.trim());
            text.push('\n');
        }
        if line.trim() == "-----END CERTIFICATE-----" {
            found.extend(block.take());
        }
    }
    found.extend(block);
    found
}

fn pem_end(pem: &str) -> Option<Timestamp> {
    end_of(&Certificate::from_pem(pem.as_bytes()).ok()?)
}

/// The end of a certificate in the form in which a server presents it.
pub fn certificate_end(der: &[u8]) -> Option<Timestamp> {
    end_of(&Certificate::from_der(der).ok()?)
}

fn end_of(certificate: &Certificate) -> Option<Timestamp> {
    let seconds = certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs();
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

/// The `exp` of a JSON web token.
fn token_end(value: &str) -> Option<Timestamp> {
    let mut parts = value.trim().split('.');
    let (head, body, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !head.starts_with("eyJ") {
        return None;
    }
    let body: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body).ok()?).ok()?;
    Timestamp::from_second(body.get("exp")?.as_i64()?).ok()
}
