//! Smoke checks: a request to one new member, before any client's reaches it. Asked through the provider's reach, since
//! no edge knows the member yet. Never follows a redirect.

use crate::ask::{self, Answer};
use berth_config::Smoke;
use berth_infra::{MemberName, Reach, ReachTarget};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

/// `Err`: why the member is not what was asked for.
pub(crate) async fn ask(reach: &dyn Reach, member: &MemberName, smoke: &Smoke) -> Result<(), String> {
    let answer = tokio::time::timeout(LIMIT, answer(reach, member, &smoke.path)).await;
    let answer = match answer {
        Ok(answer) => answer.map_err(|why| format!("`{}`: {why}", smoke.path))?,
        Err(_) => return Err(format!("`{}` did not answer within {} s", smoke.path, LIMIT.as_secs())),
    };
    judge(answer.as_ref(), smoke)
}

async fn answer(reach: &dyn Reach, member: &MemberName, path: &str) -> Result<Option<Answer>, String> {
    let mut stream = reach.reach(ReachTarget::Member(member), 0).await.map_err(|error| error.to_string())?;
    let head = format!("GET {path} HTTP/1.0\r\nHost: {member}\r\nUser-Agent: berth\r\n");
    ask::ask(&mut stream, &head, b"").await.map_err(|error| error.to_string())
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
    use super::judge as judged;
    use crate::ask::read;
    use berth_config::Smoke;
    use berth_domain::ServiceName;

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
