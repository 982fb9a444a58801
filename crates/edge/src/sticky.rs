//! The cookie by which a client comes back to the member that it had.
//!
//! Pure. It names a member and nothing else, is signed, and counts for one tenant: nobody can choose a member by making
//! one up, and what one tenant's clients hold is worth nothing at another.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use berth_domain::{MemberId, TenantId};
use hmac::{Hmac, Mac};
use http::{HeaderMap, HeaderValue, header};
use sha2::Sha256;

const NAME: &str = "berth_member";
const ID_BYTES: usize = 16;
const SIGNATURE_BYTES: usize = 16;

/// Signs and reads. Made once per core.
#[derive(Clone)]
pub struct Cookies {
    /// With the key taken in already.
    mac: Hmac<Sha256>,
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookies")
    }
}

impl Cookies {
    /// `None`: there is no key, so no cookie is given or believed.
    pub fn new(key: &str) -> Option<Self> {
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(key.as_bytes()).ok()?;
        (!key.is_empty()).then_some(Self { mac })
    }

    fn signed(&self, tenant: TenantId, member: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(tenant.uuid().as_bytes());
        mac.update(member);
        mac
    }

    /// The member that a request asks for.
    pub fn read(&self, tenant: TenantId, headers: &HeaderMap) -> Option<MemberId> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut ours = cookies.flat_map(|value| value.split(';')).filter_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == NAME).then_some(value)
        });
        let value = URL_SAFE_NO_PAD.decode(ours.next()?).ok()?;
        let (member, signature) = value.split_at_checked(ID_BYTES)?;
        if signature.len() != SIGNATURE_BYTES {
            return None;
        }
        self.signed(tenant, member).verify_truncated_left(signature).ok()?;
        Some(MemberId::new(uuid::Uuid::from_slice(member).ok()?))
    }

    /// Ends with the browser's session. `secure`: the client came over TLS.
    pub fn give(&self, tenant: TenantId, member: MemberId, secure: bool) -> HeaderValue {
        let member = member.uuid();
        let signature = self.signed(tenant, member.as_bytes()).finalize().into_bytes();
        let value = URL_SAFE_NO_PAD.encode([&member.as_bytes()[..], &signature[..SIGNATURE_BYTES]].concat());
        let secure = if secure { "; Secure" } else { "" };
        let text = format!("{NAME}={value}; Path=/; HttpOnly; SameSite=Lax{secure}");
        HeaderValue::from_str(&text).expect("base64 and these words are a header value")
    }
}

#[cfg(test)]
mod tests {
    use super::Cookies;
    use berth_domain::{MemberId, TenantId};
    use http::{HeaderMap, HeaderValue, header::COOKIE};
    use uuid::Uuid;

    const TENANT: TenantId = TenantId::new(Uuid::from_u128(1));
    const MEMBER: MemberId = MemberId::new(Uuid::from_u128(7));

    fn sent(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(text).unwrap())])
    }

    #[test]
    fn a_cookie_names_its_member_to_its_tenant_and_to_no_other() {
        let cookies = Cookies::new("key").unwrap();
        let given = cookies.give(TENANT, MEMBER, true);
        let (pair, rest) = given.to_str().unwrap().split_once(';').unwrap();
        assert_eq!(rest, " Path=/; HttpOnly; SameSite=Lax; Secure");
        assert!(!cookies.give(TENANT, MEMBER, false).to_str().unwrap().contains("Secure"));
        for text in [pair.to_owned(), format!("a=b; {pair}"), format!("{pair};x=y")] {
            assert_eq!(cookies.read(TENANT, &sent(&text)), Some(MEMBER), "{text}");
        }
        assert_eq!(cookies.read(TenantId::new(Uuid::from_u128(2)), &sent(pair)), None);
        assert_eq!(Cookies::new("other").unwrap().read(TENANT, &sent(pair)), None);
        assert!(Cookies::new("").is_none());
    }

    #[test]
    fn what_was_not_given_here_names_nobody() {
        let cookies = Cookies::new("key").unwrap();
        let given = cookies.give(TENANT, MEMBER, false);
        let pair = given.to_str().unwrap().split(';').next().unwrap();
        for at in "berth_member=".len()..pair.len() {
            let other = if pair.as_bytes()[at] == b'A' { "Q" } else { "A" };
            let changed = format!("{}{other}{}", &pair[..at], &pair[at + 1..]);
            assert_eq!(cookies.read(TENANT, &sent(&changed)), None, "{changed}");
        }
        for text in ["", "berth_member=", "berth_member", "berth_member=AAAA", "berth_member=10.0.0.1:80", &pair[1..]] {
            assert_eq!(cookies.read(TENANT, &sent(text)), None, "{text}");
        }
        assert_eq!(cookies.read(TENANT, &sent(&pair[..pair.len() - 2])), None);
    }
}
