//! What edges would send over a public network without TLS. Pure; where a name leads is for the caller to know.

use crate::views;
use berth_config::Stack;
use berth_domain::{CellName, ServiceRole, is_in_the_open};
use berth_store::Member;
use serde_json::Value;

/// What helps in every case.
pub const REMEDY: &str =
    "give it an address with `https://`, set `edge.speaks: https` for its service, or put it on a private network";

/// Cells of the stack file that exist already, with an address of plain HTTP. `is_public`: whether what is at this
/// `host:port` can be reached by strangers.
pub fn endpoints(stack: &Stack, is_public: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let theirs = stack.providers.iter().filter(|(_, provider)| provider.adapter == "endpoint");
    let mut open = Vec::new();
    for (name, provider) in theirs {
        let cells = provider.settings.get("cells").and_then(Value::as_object).into_iter().flatten();
        for (cell, existing) in cells {
            let url = existing.get("url").and_then(Value::as_str).unwrap_or_default();
            let authority = url.strip_prefix("http://").and_then(|rest| rest.split('/').next());
            if authority.is_some_and(&is_public) {
                open.push((format!("providers.{name}.cells.{cell}.url"), url.to_owned()));
            }
        }
    }
    open
}

/// The same and what is seen of the cells that there are, in sentences.
pub(crate) fn warnings<'a>(stack: &Stack, members: impl Iterator<Item = (&'a CellName, &'a Member)>) -> Vec<String> {
    let said = |what: String| format!("requests to {what} pass a public network without TLS: {REMEDY}");
    let declared =
        endpoints(stack, |authority| is_in_the_open(&format!("http://{authority}"), berth_domain::Speaks::Http));
    let mut warnings: Vec<String> = declared.into_iter().map(|(key, url)| said(format!("`{url}` (`{key}`)"))).collect();
    for (cell, member) in members {
        let Some(address) = member.address.as_deref().filter(|_| member.service_role == ServiceRole::Web) else {
            continue;
        };
        if member.wanted && is_in_the_open(address, views::speaks(Some(stack), &member.service)) {
            warnings.push(said(format!("`{}` of cell `{cell}` at {address}", member.service)));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::endpoints;

    #[test]
    fn an_endpoint_of_plain_http_that_strangers_reach_is_named_with_its_key() {
        let file = "stack: s\nservices:\n  web: { command: [a], health: /h }\nproviders:\n  theirs:\n    adapter: endpoint\n    cells:\n      \
            a: { url: 'http://203.0.113.9:80', database: 'postgres://u:p@h/d' }\n      \
            b: { url: 'https://203.0.113.9', database: 'postgres://u:p@h/d' }\n      \
            c: { url: 'http://10.0.0.1', database: 'postgres://u:p@h/d' }\n";
        let stack = berth_config::parse(file, None, &|_| Err(std::io::Error::other("none"))).unwrap();
        let open = endpoints(&stack, |authority| authority == "203.0.113.9:80");
        assert_eq!(open, [("providers.theirs.cells.a.url".to_owned(), "http://203.0.113.9:80".to_owned())]);
    }
}
