//! `Berth-Signature`: by it a member that strangers can reach past the edge knows which requests came through it, or are
//! control's own.
//!
//! Pure: the time is handed in. Says whose the request is, under which generation, which one it is and when it was sent on;
//! never what is in it, since a body is not read before it is sent.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::fmt;

/// `t=`, twenty digits, `,v1=`, 64 hexadecimal digits.
const BYTES_MOST: usize = 90;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// Made when settings come, with the key taken in already: a request costs two or three turns of SHA-256.
pub struct Signer(Hmac<Sha256>);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

/// `t=SECONDS,v1=HEX`, the header's value.
#[derive(Clone, Copy, Debug)]
pub struct Signature {
    text: [u8; BYTES_MOST],
    len: usize,
}

impl Signature {
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }

    fn push(&mut self, part: &[u8]) {
        self.text[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

/// What is signed, as the member sees it in its headers.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    pub tenant: &'a [u8],
    pub generation: &'a [u8],
    pub request_id: &'a [u8],
}

impl Signer {
    /// `None`: there is no key, and a signature under an empty one could be made by anybody.
    pub fn new(key: &str) -> Option<Self> {
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(key.as_bytes()).ok()?;
        (!key.is_empty()).then_some(Self(mac))
    }

    /// Under the HMAC stand tenant, generation, request id and the seconds, a line end between them: none of them can hold
    /// one, so that no two requests are the same text.
    pub fn sign(&self, signed: Signed<'_>, now_s: u64) -> Signature {
        let mut digits = [0; 20];
        let time = decimal(now_s, &mut digits);
        let mut mac = self.0.clone();
        for (n, part) in [signed.tenant, signed.generation, signed.request_id, time].into_iter().enumerate() {
            if n > 0 {
                mac.update(b"\n");
            }
            mac.update(part);
        }
        let mut hex = [0; 64];
        for (digits, byte) in hex.chunks_exact_mut(2).zip(mac.finalize().into_bytes()) {
            digits.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        let mut signature = Signature { text: [0; BYTES_MOST], len: 0 };
        for part in [&b"t="[..], time, b",v1=", &hex] {
            signature.push(part);
        }
        signature
    }
}

/// The digits of a number, in the end of `room`.
fn decimal(mut number: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &room[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Signed, Signer};

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn written(key: &str, tenant: &str, generation: &str, request_id: &str, now_s: u64) -> String {
        let signed =
            Signed { tenant: tenant.as_bytes(), generation: generation.as_bytes(), request_id: request_id.as_bytes() };
        Signer::new(key).unwrap().sign(signed, now_s).to_string()
    }

    /// The value of the page in docs, made with `openssl dgst -sha256 -hmac`: applications are written after it.
    #[test]
    fn a_signature_is_the_one_that_the_docs_page_shows() {
        let id = "0192f1a4-7c1e-7a30-b5a1-3f2e9d0c4b77";
        assert_eq!(
            written(KEY, "acme", "7", id, 1_763_833_000),
            "t=1763833000,v1=1a671f7d6b3ca08c98fd4c7a67e635d55c93821ae9ce36801422ae0637cca9ba"
        );
        let page = include_str!("../../../docs/signature.md");
        assert!(page.contains("t=1763833000,v1=1a671f7d6b3ca08c98fd4c7a67e635d55c93821ae9ce36801422ae0637cca9ba"));
    }

    #[test]
    fn whatever_is_said_otherwise_is_signed_otherwise_and_nothing_is_signed_without_a_key() {
        let hmac = |text: &str| text.split_once(",v1=").unwrap().1.to_owned();
        let first = hmac(&written(KEY, "acme", "7", "id", 10));
        for other in [
            written("another key that nobody guesses", "acme", "7", "id", 10),
            written(KEY, "acmee", "7", "id", 10),
            written(KEY, "acme", "8", "id", 10),
            written(KEY, "acme", "7", "ie", 10),
            written(KEY, "acme", "7", "id", 11),
            // What stands on both sides of a line end cannot be pushed over it.
            written(KEY, "acme7", "", "id", 10),
            written(KEY, "acme", "7i", "d", 10),
        ] {
            assert_ne!(hmac(&other), first, "{other}");
        }
        assert!(Signer::new("").is_none());
        assert!(!format!("{:?}", Signer::new(KEY).unwrap()).contains(KEY));
        assert!(written(KEY, "a", "1", "i", 0).starts_with("t=0,v1="));
        assert!(written(KEY, "a", "1", "i", u64::MAX).starts_with("t=18446744073709551615,v1="));
    }
}
