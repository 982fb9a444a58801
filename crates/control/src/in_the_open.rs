//! What edges would send over a public network without TLS. Pure but for asking where a name leads.

use crate::views;
use berth_config::{Mistake, Mistakes, Problem, Provider, Stack};
use berth_domain::{CellName, ProviderName, ServiceRole, is_in_the_open, is_private};
use berth_store::Member;
use futures_util::future::join_all;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

/// How long a name is asked for.
const RESOLVE_MAX: Duration = Duration::from_secs(2);

/// What helps in every case.
pub const REMEDY: &str = "give it an address with `https://`, set `edge.speaks: https` for its service, or put it on a \
     private network; edges send nothing there, unless the stack file has `https.members_over_plain_http: true`";

/// Cells of the stack file that exist already, with an address of plain HTTP. `is_public`: whether what is at this
/// `host:port` can be reached by strangers.
pub fn endpoints(
    providers: &BTreeMap<ProviderName, Provider>,
    is_public: impl Fn(&str) -> bool,
) -> Vec<(String, String)> {
    let theirs = providers.iter().filter(|(_, provider)| provider.adapter == "endpoint");
    let mut open = Vec::new();
    for (name, provider) in theirs {
        let cells = provider.settings.get("cells").and_then(Value::as_object).into_iter().flatten();
        for (cell, existing) in cells {
            let url = existing.get("url").and_then(Value::as_str).unwrap_or_default();
            if authority(url).is_some_and(&is_public) {
                open.push((format!("providers.{name}.cells.{cell}.url"), url.to_owned()));
            }
        }
    }
    open
}

/// The `host:port` of an address of plain HTTP.
fn authority(url: &str) -> Option<&str> {
    url.strip_prefix("http://")?.split('/').next()
}

/// Those of the `host:port`s of these cells that strangers reach, asked of the resolver: edges send nothing there, whatever
/// it is called. One that leads nowhere within [`RESOLVE_MAX`] is for the edge to say.
pub(crate) async fn public_ones(stack: &Stack) -> HashSet<String> {
    let all =
        endpoints(&stack.providers, |_| true).into_iter().filter_map(|(_, url)| authority(&url).map(str::to_owned));
    let asked = all.map(async |authority| {
        let with_port = if has_port(&authority) { authority.clone() } else { format!("{authority}:80") };
        let found = tokio::time::timeout(RESOLVE_MAX, tokio::net::lookup_host(with_port)).await;
        let mut at = found.ok()?.ok()?;
        at.any(|at| !is_private(at.ip())).then_some(authority)
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// The same and what is seen of the cells that there are: in sentences where the stack file takes it on itself, else
/// refused.
pub(crate) fn warnings<'a>(
    stack: &Stack,
    is_public: impl Fn(&str) -> bool,
    members: impl Iterator<Item = (&'a CellName, &'a Member)>,
) -> Result<Vec<String>, Mistakes> {
    let declared = endpoints(&stack.providers, is_public);
    let mut open: Vec<_> = declared.into_iter().map(|(key, url)| (format!("`{url}`"), key)).collect();
    for (cell, member) in members {
        let Some(address) = member.address.as_deref().filter(|_| member.service_role == ServiceRole::Web) else {
            continue;
        };
        if member.wanted && is_in_the_open(address, views::speaks(Some(stack), &member.service)) {
            let what = format!("`{}` of cell `{cell}` at {address}", member.service);
            open.push((what, "https.members_over_plain_http".to_owned()));
        }
    }
    if stack.https.members_over_plain_http == Some(true) {
        let said =
            |(what, key): (String, String)| format!("requests to {what} (`{key}`) pass a public network without TLS");
        return Ok(open.into_iter().map(said).collect());
    }
    let refused = open.into_iter().map(|(what, key)| {
        let problem = Problem::InTheOpen { what, remedy: REMEDY };
        Mistake { key, line: None, file: None, problem }
    });
    Mistakes::found(refused.collect()).map_or(Ok(Vec::new()), Err)
}

#[cfg(test)]
mod tests {
    use super::{REMEDY, endpoints, public_ones, warnings};
    use std::iter;

    #[tokio::test]
    async fn an_endpoint_of_plain_http_that_strangers_reach_is_named_with_its_key() {
        let file = "stack: s\nservices:\n  web: { command: [a], health: /h }\nproviders:\n  theirs:\n    adapter: endpoint\n    cells:\n      \
            a: { url: 'http://203.0.113.9:80', database: 'postgres://u:p@h/d' }\n      \
            b: { url: 'https://203.0.113.9', database: 'postgres://u:p@h/d' }\n      \
            c: { url: 'http://10.0.0.1', database: 'postgres://u:p@h/d' }\n      \
            d: { url: 'http://localhost', database: 'postgres://u:p@h/d' }\n      \
            e: { url: 'http://app.invalid', database: 'postgres://u:p@h/d' }\n";
        let stack = berth_config::parse(file, None, &|_| Err(std::io::Error::other("none"))).unwrap();
        let open = endpoints(&stack.providers, |authority| authority == "203.0.113.9:80");
        assert_eq!(open, [("providers.theirs.cells.a.url".to_owned(), "http://203.0.113.9:80".to_owned())]);

        let public = public_ones(&stack).await;
        assert_eq!(public.iter().collect::<Vec<_>>(), ["203.0.113.9:80"]);
        let is_public = |authority: &str| public.contains(authority);
        let refused = warnings(&stack, is_public, iter::empty()).unwrap_err();
        let all: Vec<_> = refused.iter().map(|mistake| (mistake.key.as_str(), mistake.problem.hint())).collect();
        assert_eq!(all, [("providers.theirs.cells.a.url", Some(REMEDY.to_owned()))]);
        let allowed = format!("{file}https: {{ members_over_plain_http: true }}\n");
        let mut stack = berth_config::parse(&allowed, None, &|_| Err(std::io::Error::other("none"))).unwrap();
        assert_eq!(warnings(&stack, is_public, iter::empty()).unwrap().len(), 1, "it is still said");
        stack.https.members_over_plain_http = Some(false);
        assert!(warnings(&stack, is_public, iter::empty()).is_err());
        assert!(warnings(&stack, |authority| authority == "app.invalid", iter::empty()).is_err(), "names too");
    }
}
