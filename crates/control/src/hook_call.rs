//! HTTP hooks: a POST to a path of the cell's web service, over the provider's reach, or to an absolute URL. Asked once for
//! each try of the operation that needs it, always under the same idempotency key. Never follows a redirect.

use crate::{App, ControlError, ask, hook::HookTenant, member_spec};
use berth_domain::{MemberState, OperationId, ServiceRole};
use berth_infra::{MemberName, Origin, ReachTarget};
use berth_store::Cell;
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);
/// Of what an application says of its refusal.
const SAID_MOST: usize = 200;

/// How a call went wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// Nobody answered, or not now: the same again may help.
    Silent(String),
    /// It was refused, or its answer is none.
    Refused(String),
}

/// Which call, for which operation.
pub(crate) struct Called<'a> {
    pub hook: &'static str,
    pub operation: OperationId,
    pub tenant: &'a HookTenant,
}

impl Called<'_> {
    fn body(&self, cell: &Cell) -> String {
        let HookTenant { key, name, plan } = self.tenant;
        json!({ "event": self.hook, "id": key, "slug": name, "plan": plan, "cell": cell.name }).to_string()
    }

    fn head(&self, path: &str, authority: &str, length: usize) -> String {
        format!(
            "POST {path} HTTP/1.0\r\nHost: {authority}\r\nUser-Agent: berth\r\nBerth-Hook: {hook}\r\n\
             Idempotency-Key: {operation}-{hook}\r\nAccept: application/json\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n",
            hook = self.hook,
            operation = self.operation
        )
    }
}

/// Calls it, and answers with the key that it gave, if any.
pub(crate) async fn call(
    app: &App,
    cell: &Cell,
    url: &str,
    called: &Called<'_>,
) -> Result<Option<String>, ControlError> {
    let asked =
        if url.starts_with('/') { in_cell(app, cell, url, called).await? } else { abroad(cell, url, called).await };
    asked.and_then(|answer| judge(called.hook, &answer)).map_err(|wrong| match wrong {
        Wrong::Silent(message) => ControlError::HookSilent { cell: cell.name.clone(), hook: called.hook, message },
        Wrong::Refused(message) => ControlError::Hook { cell: cell.name.clone(), hook: called.hook, message },
    })
}

/// The first well copy of a web service.
async fn in_cell(
    app: &App,
    cell: &Cell,
    path: &str,
    called: &Called<'_>,
) -> Result<Result<ask::Answer, Wrong>, ControlError> {
    let members = app.store().member_list(Some(cell.id)).await?;
    let web = members.iter().find(|member| {
        member.service_role == ServiceRole::Web && member.wanted && member.state == MemberState::Healthy
    });
    let Some(web) = web else {
        return Ok(Err(Wrong::Silent(format!("no web member of the cell is healthy, so nobody hears `{path}`"))));
    };
    let reach = app.provider(&cell.provider).await?.reach;
    let missing = || ControlError::NotOffered { provider: cell.provider.clone(), what: "way to ask a member" };
    let reach = reach.ok_or_else(missing)?;
    let name = member_spec::member_name(&cell.name, web);
    Ok(within(path, over(&*reach, &name, path, &called.body(cell), called)).await)
}

async fn over(
    reach: &dyn berth_infra::Reach,
    member: &MemberName,
    path: &str,
    body: &str,
    called: &Called<'_>,
) -> Result<ask::Answer, String> {
    let mut stream = reach.reach(ReachTarget::Member(member), 0).await.map_err(|error| error.to_string())?;
    let head = called.head(path, member.as_str(), body.len());
    heard(ask::ask(&mut stream, &head, body.as_bytes()).await)
}

fn heard(answer: std::io::Result<Option<ask::Answer>>) -> Result<ask::Answer, String> {
    answer.map_err(|error| error.to_string())?.ok_or_else(|| "gave no HTTP answer".to_owned())
}

async fn within(url: &str, asked: impl Future<Output = Result<ask::Answer, String>>) -> Result<ask::Answer, Wrong> {
    match tokio::time::timeout(LIMIT, asked).await {
        Ok(answer) => answer.map_err(|why| Wrong::Silent(format!("`{url}`: {why}"))),
        Err(_) => Err(Wrong::Silent(format!("`{url}` did not answer within {} s", LIMIT.as_secs()))),
    }
}

async fn abroad(cell: &Cell, url: &str, called: &Called<'_>) -> Result<ask::Answer, Wrong> {
    let bad = |why: &str| Wrong::Refused(format!("`{url}` {why}"));
    let (origin, tail) = Origin::split(url).map_err(|why| bad(&format!("is no URL: {why}")))?;
    let tail = tail.split('#').next().unwrap_or_default();
    let path = if tail.starts_with('/') { tail.to_owned() } else { format!("/{tail}") };
    let body = called.body(cell);
    let head = called.head(&path, &origin.authority(), body.len());
    let asked = async {
        let mut stream = origin.connect().await.map_err(|error| error.to_string())?;
        heard(ask::ask(&mut stream, &head, body.as_bytes()).await)
    };
    within(url, asked).await
}

/// The key in an answer of success: `id` or `key` of a JSON object, as text or as a number.
fn judge(hook: &str, answer: &ask::Answer) -> Result<Option<String>, Wrong> {
    let status = answer.status;
    // What is gone already is what `delete` asks for.
    if hook == "delete" && matches!(status, 404 | 410) {
        return Ok(None);
    }
    if !(200..300).contains(&status) {
        let text = String::from_utf8_lossy(&answer.body);
        let said: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SAID_MOST).collect();
        let message =
            if said.is_empty() { format!("it answered {status}") } else { format!("it answered {status}: {said}") };
        let later = status >= 500 || matches!(status, 408 | 425 | 429);
        return Err(if later { Wrong::Silent(message) } else { Wrong::Refused(message) });
    }
    if hook != "create" || answer.body.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let odd = |why: &str| {
        Wrong::Refused(format!("it answered {status} with {why}, not with a JSON object like {{\"id\": \"7\"}}"))
    };
    let Ok(value) = serde_json::from_slice::<Value>(&answer.body) else {
        return Err(odd("something that is not JSON"));
    };
    match value.get("id").or_else(|| value.get("key")) {
        Some(Value::String(key)) if !key.is_empty() => Ok(Some(key.clone())),
        Some(Value::Number(key)) if key.is_u64() || key.is_i64() => Ok(Some(key.to_string())),
        Some(_) => Err(odd("a key that is neither text nor a whole number")),
        None if value.is_object() => Ok(None),
        None => Err(odd("JSON that is no object")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Wrong, judge};
    use crate::ask::Answer;

    #[test]
    fn what_an_application_answers_is_a_key_or_nothing_or_a_reason() {
        let answer = |status, body: &str| Answer { status, body: body.as_bytes().to_vec() };
        for (body, key) in [
            ("{\"id\": 7}", Some("7")),
            ("{\"id\": \"b-7\", \"name\": \"x\"}", Some("b-7")),
            ("{\"key\": \"k\"}", Some("k")),
            ("{\"ok\": true}", None),
            ("  ", None),
            ("", None),
        ] {
            assert_eq!(judge("create", &answer(200, body)), Ok(key.map(str::to_owned)), "{body}");
        }
        for body in ["<html>", "\"7\"", "[7]", "{\"id\": null}", "{\"id\": 1.5}", "{\"id\": \"\"}"] {
            assert!(matches!(judge("create", &answer(201, body)), Err(Wrong::Refused(_))), "{body}");
        }
        assert_eq!(judge("suspend", &answer(200, "<html>")), Ok(None), "nobody asked it for anything");
        assert_eq!(judge("delete", &answer(404, "")), Ok(None));
        assert!(matches!(judge("suspend", &answer(404, "")), Err(Wrong::Refused(_))));
        for status in [500, 503, 429, 408] {
            assert!(matches!(judge("create", &answer(status, "")), Err(Wrong::Silent(_))), "{status}");
        }
        let Err(Wrong::Refused(said)) = judge("create", &answer(422, "name\n is   taken")) else { panic!() };
        assert_eq!(said, "it answered 422: name is taken");
    }
}
