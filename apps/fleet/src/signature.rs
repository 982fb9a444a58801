//! Whether a request came through the edge: `Berth-Signature`, for a copy of this service that strangers can reach.
//!
//! Without a key nothing is looked at. Never says which part of a signature was wrong, and never shows a key.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use axum::extract::FromRequestParts;
use hmac::{Hmac, Mac};
use http::{HeaderMap, request::Parts};
use sha2::Sha256;

use crate::{problem::Problem, server::App};

/// How long a signature is good, and how far the clock of an edge may be ahead of ours.
const VALID_S: u64 = 60;
/// Shorter ones can be found by trying.
const KEY_BYTES_MIN: usize = 32;

/// One key, or the new and the old one while it is being changed. Taken in once.
pub struct Keys(Vec<Hmac<Sha256>>);

impl Keys {
    /// Keys with commas between them.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        let keys = text.split(',').map(str::trim).map(|key| {
            ensure!(
                key.len() >= KEY_BYTES_MIN,
                "a key of BERTH_SIGNATURE_KEY is shorter than {KEY_BYTES_MIN} characters"
            );
            Ok(<Hmac<Sha256> as Mac>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length"))
        });
        Ok(Self(keys.collect::<anyhow::Result<_>>()?))
    }

    /// `now_s`: seconds since 1970.
    fn prove(&self, headers: &HeaderMap, now_s: u64) -> Result<(), &'static str> {
        let part = |name| headers.get(name).map(http::HeaderValue::as_bytes);
        let signature = headers.get("berth-signature").ok_or("the header `Berth-Signature` is missing")?;
        let wrong = "its signature is not made with this application's key";
        let said = signature.to_str().ok().and_then(|text| text.strip_prefix("t=")?.split_once(",v1="));
        let (time, hmac) = said.ok_or(wrong)?;
        let signed: u64 = time.parse().map_err(|_| wrong)?;
        let hmac = bytes_of(hmac).ok_or(wrong)?;
        let (Some(generation), Some(id)) = (part("berth-generation"), part("x-request-id")) else { return Err(wrong) };
        // What the platform itself asks is nobody's: its signature is of no tenant.
        let tenant = part("berth-tenant").unwrap_or_default();
        let text = [tenant, generation, id, time.as_bytes()].join(&b'\n');
        let made_with = |key: &Hmac<Sha256>| key.clone().chain_update(&text).verify_slice(&hmac).is_ok();
        if !self.0.iter().any(made_with) {
            return Err(wrong);
        }
        if signed.abs_diff(now_s) > VALID_S {
            return Err("its signature is more than 60 s away from this machine's clock");
        }
        Ok(())
    }
}

/// `None`: this is no hexadecimal.
fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

/// Asked for by whatever believes what the headers say.
pub struct ThroughEdge;

impl FromRequestParts<App> for ThroughEdge {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if let Some(keys) = &app.keys {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            keys.prove(&parts.headers, now).map_err(Problem::Unproved)?;
        }
        Ok(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::{Keys, bytes_of};
    use http::{HeaderMap, HeaderName, HeaderValue};

    const KEY: &str = "0123456789abcdef0123456789abcdef";
    const TIME: u64 = 1_763_833_000;
    /// The one of the platform's page on signatures.
    const SIGNATURE: &str = "t=1763833000,v1=1a671f7d6b3ca08c98fd4c7a67e635d55c93821ae9ce36801422ae0637cca9ba";

    fn headers(changed: &str, to: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("berth-tenant", "acme"),
            ("berth-generation", "7"),
            ("x-request-id", "0192f1a4-7c1e-7a30-b5a1-3f2e9d0c4b77"),
            ("berth-signature", SIGNATURE),
        ] {
            if let Some(value) = if name == changed { to } else { Some(value) } {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
            }
        }
        headers
    }

    #[test]
    fn a_signature_is_believed_for_a_minute_and_with_either_key_while_it_is_being_changed() {
        let other = "another key that is as long as it has to be";
        for keys in [KEY.to_owned(), format!("{other}, {KEY}"), format!("{KEY},{other}")] {
            let keys = Keys::read(&keys).unwrap();
            for now in [TIME - 60, TIME, TIME + 60] {
                assert_eq!(keys.prove(&headers("", None), now), Ok(()));
            }
            for now in [TIME - 61, TIME + 61, 0, u64::MAX] {
                assert!(keys.prove(&headers("", None), now).unwrap_err().contains("60 s"));
            }
        }
        assert!(Keys::read(other).unwrap().prove(&headers("", None), TIME).is_err());
        for short in ["", "short", &format!("{KEY},"), &KEY[1..]] {
            let refused = Keys::read(short).err().unwrap().to_string();
            assert!(refused.contains("shorter than 32") && !refused.contains("0123"), "{refused}");
        }
    }

    /// As `printf '\n0\n0192f1a4-7c1e-7a30-b5a1-3f2e9d0c4b77\n1763833000' | openssl dgst -sha256 -hmac KEY` has it.
    #[test]
    fn what_the_platform_itself_asks_is_signed_without_a_tenant_and_is_good_for_none() {
        let keys = Keys::read(KEY).unwrap();
        let signature = "t=1763833000,v1=b92cfb80c99bba0032cd088a0c2e10ec5aff1b23920e7604d879ca9b91df70d3";
        let mut asked = headers("berth-tenant", None);
        asked.insert("berth-generation", HeaderValue::from_static("0"));
        asked.insert("berth-signature", HeaderValue::from_static(signature));
        assert_eq!(keys.prove(&asked, TIME), Ok(()));
        asked.insert("berth-tenant", HeaderValue::from_static("acme"));
        assert!(keys.prove(&asked, TIME).is_err());
    }

    /// Vector A11 of the guides, in the platform's docs/vectors.md: their window of 300 s is five times as long as this one.
    #[test]
    fn a11_what_was_signed_301_seconds_ago_is_refused_and_so_is_what_was_signed_299_seconds_ago() {
        let keys = Keys::read(KEY).unwrap();
        for (age_s, accepted) in [(301, false), (299, false), (59, true)] {
            assert_eq!(keys.prove(&headers("", None), TIME + age_s).is_ok(), accepted, "{age_s} s");
        }
    }

    #[test]
    fn what_was_changed_left_out_or_made_up_is_not_believed() {
        let keys = Keys::read(KEY).unwrap();
        let later = SIGNATURE.replace("1763833000", "1763833001");
        let cut = &SIGNATURE[..SIGNATURE.len() - 2];
        for (name, to) in [
            ("berth-tenant", Some("acmf")),
            ("berth-tenant", None),
            ("berth-generation", Some("8")),
            ("berth-generation", None),
            ("x-request-id", Some("0192f1a4-7c1e-7a30-b5a1-3f2e9d0c4b78")),
            ("x-request-id", None),
            ("berth-signature", None),
            ("berth-signature", Some(later.as_str())),
            ("berth-signature", Some(cut)),
            ("berth-signature", Some("")),
            ("berth-signature", Some("t=1763833000,v1=")),
            ("berth-signature", Some("t=,v1=00")),
            ("berth-signature", Some("v1=00,t=1763833000")),
            ("berth-signature", Some("t=1763833000,v1=zz")),
        ] {
            assert!(keys.prove(&headers(name, to), TIME).is_err(), "{name} {to:?}");
        }
        assert_eq!((bytes_of("0aF0"), bytes_of("0"), bytes_of("+1")), (Some(vec![10, 240]), None, None));
    }
}
