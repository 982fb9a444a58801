//! Smoke checks: a request to one new member, before any client's reaches it. Asked through the provider's reach, since
//! no edge knows the member yet; signed as the edges' requests are where the service has a key for that. Never follows a
//! redirect.

use crate::ask::{self, Answer};
use berth_config::Smoke;
use berth_domain::{Signed, Signer};
use berth_infra::{MemberName, Reach, ReachTarget};
use jiff::Timestamp;
use std::time::Duration;
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(10);

/// Beside no tenant: the request is nobody's.
const GENERATION: &str = "0";

/// `Err`: why the member is not what was asked for.
pub(crate) async fn ask(
    reach: &dyn Reach,
    member: &MemberName,
    smoke: &Smoke,
    signer: Option<&Signer>,
) -> Result<(), String> {
    let answer = tokio::time::timeout(LIMIT, answer(reach, member, &smoke.path, signer)).await;
    let answer = match answer {
        Ok(answer) => answer.map_err(|why| format!("`{}`: {why}", smoke.path))?,
        Err(_) => return Err(format!("`{}` did not answer within {} s", smoke.path, LIMIT.as_secs())),
    };
    judge(answer.as_ref(), smoke)
}

async fn answer(
    reach: &dyn Reach,
    member: &MemberName,
    path: &str,
    signer: Option<&Signer>,
) -> Result<Option<Answer>, String> {
    let mut stream = reach.reach(ReachTarget::Member(member), 0).await.map_err(|error| error.to_string())?;
    let signed = signer.map_or_else(String::new, |signer| proof(signer, Timestamp::now()));
    let head = format!("GET {path} HTTP/1.0\r\nHost: {member}\r\nUser-Agent: berth\r\n{signed}");
    ask::ask(&mut stream, &head, b"").await.map_err(|error| error.to_string())
}

/// The headers that an application proves. There is none of the tenant: an application may take one that is empty for a
/// tenant, and one that does not prove smoke paths sees the request that it always saw.
fn proof(signer: &Signer, now: Timestamp) -> String {
    let id = Uuid::now_v7().to_string();
    let signed = Signed { tenant: b"", generation: GENERATION.as_bytes(), request_id: id.as_bytes() };
    let signature = signer.sign(signed, u64::try_from(now.as_second()).unwrap_or(0));
    format!("Berth-Generation: {GENERATION}\r\nX-Request-Id: {id}\r\nBerth-Signature: {signature}\r\n")
}

fn judge(answer: Option<&Answer>, smoke: &Smoke) -> Result<(), String> {
    let Some(Answer { status, body }) = answer else {
        return Err(format!("`{}` gave no HTTP answer", smoke.path));
    };
    match smoke.status {
        Some(wanted) if *status != wanted => return Err(format!("`{}` answered {status}, not {wanted}", smoke.path)),
        None if !(200..400).contains(status) => return Err(format!("`{}` answered {status}", smoke.path)),
        _ => {}
    }
    match &smoke.contains {
        Some(text) if !body.windows(text.len()).any(|part| part == text.as_bytes()) => {
            Err(format!("`{}` answered {status} without `{text}` in it", smoke.path))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{ask, judge as judged};
    use crate::ask::read;
    use async_trait::async_trait;
    use berth_config::Smoke;
    use berth_domain::{ServiceName, Signed, Signer};
    use berth_infra::{MemberName, ProviderError, Reach, ReachTarget, Stream};
    use std::sync::Mutex;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    /// A way to one member, gone once.
    struct Once(Mutex<Option<DuplexStream>>);

    #[async_trait]
    impl Reach for Once {
        async fn reach(&self, _target: ReachTarget<'_>, _port: u16) -> Result<Stream, ProviderError> {
            Ok(Box::new(self.0.lock().unwrap().take().unwrap()))
        }
    }

    /// The lines that a member is asked with.
    async fn asked(signer: Option<Signer>) -> Vec<String> {
        let (near, mut far) = tokio::io::duplex(4096);
        let member = tokio::spawn(async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(far.read_buf(&mut head).await.unwrap() > 0, "it ended early");
            }
            far.write_all(b"HTTP/1.0 200 OK\r\n\r\n").await.unwrap();
            String::from_utf8(head).unwrap()
        });
        let smoke =
            Smoke { service: ServiceName::new("web").unwrap(), path: "/v".to_owned(), status: None, contains: None };
        let name = MemberName::new("shared-1.web.0.r1").unwrap();
        ask(&Once(Mutex::new(Some(near))), &name, &smoke, signer.as_ref()).await.unwrap();
        member.await.unwrap().lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_member_whose_service_has_a_key_is_asked_with_a_signature_of_no_tenant() {
        let plain = asked(None).await;
        assert!(!plain.iter().any(|line| line.starts_with("Berth-")), "{plain:?}");
        let lines = asked(Signer::new(KEY)).await;
        let value = |name: &str| {
            let of = |line: &String| line.strip_prefix(name)?.strip_prefix(':').map(|it| it.trim().to_owned());
            lines.iter().find_map(of).unwrap_or_else(|| panic!("no `{name}` in {lines:?}"))
        };
        let (generation, id) = (value("Berth-Generation"), value("X-Request-Id"));
        assert!(!lines.iter().any(|line| line.starts_with("Berth-Tenant")), "{lines:?}");
        assert_eq!(generation, "0");
        let said = value("Berth-Signature");
        let time: u64 = said.split_once(",v1=").unwrap().0.strip_prefix("t=").unwrap().parse().unwrap();
        assert!(jiff::Timestamp::now().as_second().unsigned_abs().abs_diff(time) <= 60, "{said}");
        let signed = Signed { tenant: b"", generation: generation.as_bytes(), request_id: id.as_bytes() };
        assert_eq!(Signer::new(KEY).unwrap().sign(signed, time).to_string(), said);
        assert_eq!(id.len(), 36, "{id}");
    }

    fn judge(answer: &[u8], smoke: &Smoke) -> Result<(), String> {
        judged(read(answer).as_ref(), smoke)
    }

    #[test]
    fn an_answer_is_judged_by_its_status_and_its_text() {
        let smoke = |status, contains: Option<&str>| Smoke {
            service: ServiceName::new("web").unwrap(),
            path: "/v".to_owned(),
            status,
            contains: contains.map(str::to_owned),
        };
        let fine = b"HTTP/1.1 200 OK\r\nX: ready\r\n\r\nversion 2";
        assert_eq!(judge(fine, &smoke(None, None)), Ok(()));
        assert_eq!(judge(fine, &smoke(Some(200), Some("version 2"))), Ok(()));
        for (answer, smoke, word) in [
            (&fine[..], smoke(Some(204), None), "answered 200, not 204"),
            (fine, smoke(None, Some("ready")), "without `ready`"),
            (b"HTTP/1.1 500 No\r\n\r\n", smoke(None, None), "answered 500"),
            (b"SSH-2.0", smoke(None, None), "no HTTP answer"),
            (b"", smoke(Some(200), None), "no HTTP answer"),
        ] {
            let said = judge(answer, &smoke).unwrap_err();
            assert!(said.contains(word), "{said}");
        }
    }
}
