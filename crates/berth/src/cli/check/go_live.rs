//! `berth check --go-live`: asks the control plane, the hosts it serves and the ports around them, and shows the list. What an
//! answer means is for `berth_check::golive`. Changes nothing.

use super::{CliError, Context, live};
use crate::cli::in_force;
use berth_check::{
    Report,
    golive::{self, Budget, Cell, Database, Edge, Facts, Item, LIST, Outcome, Ports, Releases, Server, Told, When},
    live::Host,
};
use berth_config::Stack;
use berth_domain::{CellState, MemberState, RollState};
use berth_wire as wire;
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket},
    time::Duration,
};
use tokio::task::spawn_blocking;

/// More would take minutes, and the others are made alike.
const HOSTS_MOST: usize = 20;
/// Long enough for an answer over any ocean; a firewall that drops says nothing at all.
const PORT_LIMIT: Duration = Duration::from_secs(3);
/// PostgreSQL, Redis, Berth's API, its metrics and its edges' own page.
const PORTS: [u16; 5] = [5432, 6379, 7600, 7601, 7603];
/// Smaller tables are read whole in no time.
const ROWS_LEAST: u64 = 10_000;

#[derive(Debug, Serialize)]
struct Shown {
    passed: usize,
    failed: usize,
    unknown: usize,
    items: Vec<Item>,
}

pub async fn run(cx: &Context, report: Report, done: &[String]) -> Result<(), CliError> {
    if let Some(other) = done.iter().find(|id| !LIST.iter().any(|task| task.id == **id)) {
        let ids: Vec<&str> = LIST.iter().map(|task| task.id).collect();
        return Err(CliError::request(format!("the list has no `{other}`"), format!("it has {}", ids.join(", "))));
    }
    // The first question also says whether anybody answers at all: without a server the list is empty talk.
    let overview = cx.client.status().await?;
    let items = golive::judge(&facts(cx, report, &overview).await, done, cx.now);
    let count = |outcome| items.iter().filter(|item| item.outcome == outcome).count();
    let (passed, failed, unknown) = (count(Outcome::Passed), count(Outcome::Failed), count(Outcome::Unknown));
    cx.show(&Shown { passed, failed, unknown, items }, screen)?;
    if failed == 0 { Ok(()) } else { Err(CliError::Found { errors: failed }) }
}

fn why(error: &berth_client::ClientError) -> String {
    format!("the server was asked and says: {error}")
}

async fn facts(cx: &Context, report: Report, overview: &wire::Overview) -> Facts {
    let (stack, differs) = match overview.stack {
        None => (Ok(None), None),
        Some(_) => match cx.client.stack().await {
            Err(error) => (Err(why(&error)), None),
            Ok(stack) => (parsed(&stack.file), fs::read_to_string("berth.yaml").ok().map(|here| here != stack.file)),
        },
    };
    let port = stack.as_ref().ok().and_then(Option::as_ref).and_then(|stack| stack.https.port).unwrap_or(443);
    let names = cx.client.hosts(None).await.map_err(|error| why(&error)).map(served);
    let hosts_more = names.as_ref().map_or(0, |names| names.len().saturating_sub(HOSTS_MOST));
    let asked: Told<Vec<String>> = names.map(|names| names.into_iter().take(HOSTS_MOST).collect());
    let servers = cx.client.servers().await.map_err(|error| why(&error));
    let unasked: Vec<String> = asked.as_ref().err().into_iter().chain(servers.as_ref().err()).cloned().collect();
    let around = around(asked.as_deref().unwrap_or_default(), servers.as_deref().unwrap_or_default());
    Facts {
        findings: report.findings,
        looked_at: report.files.len(),
        stack,
        differs,
        private: is_private(&cx.client.url()).await,
        hosts: match &asked {
            Ok(names) => Ok(hosts(names, port).await),
            Err(why) => Err(why.clone()),
        },
        hosts_more,
        cells: cells(cx).await,
        edges: Ok(overview
            .edges
            .iter()
            .filter(|edge| !edge.leaving)
            .map(|edge| Edge { name: edge.name.to_string(), alive: edge.alive, behind: edge.behind })
            .collect()),
        releases: cx.client.rollout().await.map(releases).map_err(|error| why(&error)),
        servers: servers.map(|all| all.into_iter().map(server).collect()),
        ports: ports(around, &unasked).await,
        budget: cx
            .client
            .costs(None)
            .await
            .map_err(|error| why(&error))
            .map(|costs| Budget { level: costs.budget.map(|budget| budget.level), unpriced: costs.unknown.len() }),
        attention: Ok(overview.attention.iter().map(|it| format!("{}: {}", it.subject, it.detail)).collect()),
    }
}

fn parsed(text: &str) -> Told<Option<Box<Stack>>> {
    match in_force::parsed(text) {
        Ok(stack) => Ok(Some(Box::new(stack))),
        Err(mistakes) => {
            let first = mistakes.iter().next().map(ToString::to_string).unwrap_or_default();
            Err(format!("this program cannot read the stack file in force: {first}"))
        }
    }
}

/// Those that have one name; what a pattern stands for nobody knows.
fn served(hosts: Vec<wire::Host>) -> Vec<String> {
    let plain = hosts.into_iter().filter(|host| host.served).map(|host| host.host.to_string());
    let names =
        plain.filter(|host| !host.contains('*')).map(|host| host.split('/').next().unwrap_or_default().to_owned());
    names.collect::<BTreeSet<_>>().into_iter().collect()
}

async fn hosts(names: &[String], port: u16) -> Vec<Host> {
    let asked: Vec<_> = names.iter().map(|name| format!("{name}:{port}")).collect();
    let all = asked.into_iter().map(|target| spawn_blocking(move || live::host(&target)));
    let answers = futures_util::future::join_all(all).await;
    answers.into_iter().filter_map(Result::ok).collect()
}

async fn cells(cx: &Context) -> Told<Vec<Cell>> {
    let mut all = Vec::new();
    for cell in cx.client.cells().await.map_err(|error| why(&error))? {
        let name = cell.name.as_str();
        let lacks = cx.client.cell_abilities(name).await.map_err(|error| why(&error));
        let top = cx.client.cell_database_top(name).await.map_err(|error| why(&error));
        all.push(Cell {
            state: cell.state.to_string(),
            ready: cell.state == CellState::Ready,
            members: cell.members.len(),
            healthy: cell.members.iter().filter(|member| member.state == MemberState::Healthy).count(),
            measured: !cell.measured.is_empty(),
            lacks: lacks.map(|all| all.items.into_iter().filter(|it| !it.can).map(|it| it.ability).collect()),
            database: top.map(|top| database(&top)),
            name: cell.name.to_string(),
        });
    }
    Ok(all)
}

fn database(top: &wire::DatabaseTop) -> Database {
    let large = top.tables.iter().filter(|table| table.rows + table.dead_rows >= ROWS_LEAST);
    let dead = large.map(|table| (table.table.clone(), table.dead_rows * 100 / (table.rows + table.dead_rows)));
    let idle = top.statements.iter().filter(|it| it.state.starts_with("idle in transaction"));
    Database { dead: dead.collect(), idle_s: idle.map(|it| it.age_s).fold(0.0, f64::max) }
}

fn releases(status: wire::ReleaseStatus) -> Releases {
    let stopped = status.roll.filter(|roll| roll.state == RollState::Stopped);
    Releases {
        current: status.current,
        cells: status.cells.into_iter().map(|it| (it.cell.to_string(), it.release, it.schema)).collect(),
        stopped: stopped.map(|roll| roll.reason.unwrap_or_else(|| "nobody said why".to_owned())),
    }
}

fn server(server: wire::Server) -> Server {
    let none = server.because.unwrap_or_else(|| "it says nothing of itself".to_owned());
    let disk = server.machine.map(|machine| (machine.disk_bytes, machine.disk_free_bytes)).ok_or(none);
    Server { cell: server.cell.to_string(), disk }
}

/// Machines that clients reach, each with what it is called in words: those the hosts lead to, and those cells stand on.
fn around(hosts: &[String], servers: &[wire::Server]) -> BTreeMap<String, String> {
    let hosts = hosts.iter().map(|host| (host.clone(), format!("`{host}`")));
    let servers = servers.iter().map(|it| (it.host.clone(), format!("the server of `{}`", it.cell)));
    hosts.chain(servers).collect()
}

async fn addresses(name: String) -> Vec<IpAddr> {
    let look = move || (name.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let found = spawn_blocking(look).await.ok().and_then(Result::ok).unwrap_or_default();
    found.into_iter().map(|at| at.ip()).collect()
}

/// Whatever is answered to this machine itself says nothing of what is answered to others.
fn is_own(at: IpAddr) -> bool {
    at.is_loopback() || UdpSocket::bind(SocketAddr::new(at, 0)).is_ok()
}

/// `unasked`: why some machines are not even known.
async fn ports(names: BTreeMap<String, String>, unasked: &[String]) -> Told<Ports> {
    if names.is_empty() && unasked.is_empty() {
        return Err("there is no host or server yet whose ports could be tried".to_owned());
    }
    let (mut all, mut own, mut nowhere) = (BTreeSet::new(), false, Vec::new());
    for (name, called) in names {
        let found = addresses(name).await;
        if found.is_empty() {
            nowhere.push(called);
        }
        for at in found {
            if is_own(at) {
                own = true;
            } else {
                all.insert(at);
            }
        }
    }
    let tries = all.iter().flat_map(|at| PORTS.map(|port| SocketAddr::new(*at, port)));
    let tries: Vec<_> = tries
        .map(|at| spawn_blocking(move || TcpStream::connect_timeout(&at, PORT_LIMIT).is_ok().then(|| at.to_string())))
        .collect();
    let tried = tries.len();
    let open =
        futures_util::future::join_all(tries).await.into_iter().filter_map(|tried| tried.ok().flatten()).collect();
    Ok(Ports { tried, open, left_out: left_out(own, &nowhere, unasked) })
}

/// One machine that nobody tried may be the one that answers.
fn left_out(own: bool, nowhere: &[String], unasked: &[String]) -> Option<String> {
    let mut why: Vec<String> = unasked.to_vec();
    match nowhere {
        [] => {}
        [first] => why.push(format!("{first} has no address")),
        [first, others @ ..] => why.push(format!("{first} and {} more have no address", others.len())),
    }
    if own {
        why.push("this machine is one of those that would be tried: start this from another one".to_owned());
    }
    (!why.is_empty()).then(|| why.join("; "))
}

/// Over TLS, or nowhere past private networks.
async fn is_private(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("http://") else { return true };
    let name = rest.rsplit_once(':').map_or(rest, |(name, _)| name).trim_matches(['[', ']']).to_owned();
    let found = addresses(name).await;
    !found.is_empty() && found.into_iter().all(berth_domain::is_private)
}

fn screen(shown: &Shown) -> String {
    let mut text = String::new();
    for (when, head) in [(When::Before, "before"), (When::After, "after")] {
        text.push_str(&format!("{head} going live\n"));
        for item in shown.items.iter().filter(|item| item.when == when) {
            let word = match item.outcome {
                Outcome::Passed => "passed ",
                Outcome::Failed => "FAILED ",
                Outcome::Unknown => "unknown",
            };
            text.push_str(&format!("  {word}  {}: {}: {}\n", item.id, item.what, item.says));
            if let Some(remedy) = item.remedy {
                text.push_str(&format!("           {remedy}\n"));
            }
        }
        text.push('\n');
    }
    text.push_str(&format!(
        "{} passed, {} failed, {} cannot be told from here.\n",
        shown.passed, shown.failed, shown.unknown
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::{Item, Outcome, Shown, When, left_out, ports, screen};
    use std::collections::BTreeMap;

    #[tokio::test]
    async fn a_firewall_passes_only_where_every_machine_was_tried() {
        let at = |name: &str, called: &str| BTreeMap::from([(name.to_owned(), called.to_owned())]);
        let why = async |names, unasked: &[String]| ports(names, unasked).await.unwrap().left_out.unwrap();
        assert_eq!(why(at("", "the server of `fra-1`"), &[]).await, "the server of `fra-1` has no address");
        assert!(why(at("127.0.0.1", "`a.test`"), &[]).await.starts_with("this machine is one of those"));
        let unasked = ["the server was asked and says: no".to_owned()];
        assert_eq!(why(BTreeMap::new(), &unasked).await, unasked[0]);
        assert!(ports(BTreeMap::new(), &[]).await.is_err());
        assert_eq!(left_out(false, &[], &[]), None);
        let two = ["`a.test`".to_owned(), "`b.test`".to_owned()];
        assert_eq!(left_out(false, &two, &[]).unwrap(), "`a.test` and 1 more have no address");
        assert!(left_out(true, &two, &unasked).unwrap().starts_with(&unasked[0]));
    }

    #[test]
    fn what_failed_is_shown_with_its_remedy_and_what_passed_without() {
        let item = |id, outcome, remedy| Item {
            id,
            when: When::Before,
            what: "backups are made, somewhere else",
            outcome,
            says: "none are stated".to_owned(),
            remedy,
        };
        let items = vec![item("backups", Outcome::Failed, Some("set them up")), item("stack", Outcome::Passed, None)];
        assert_eq!(
            screen(&Shown { passed: 1, failed: 1, unknown: 0, items }),
            "before going live\n  FAILED   backups: backups are made, somewhere else: none are stated\n           set them up\n  \
             passed   stack: backups are made, somewhere else: none are stated\n\nafter going live\n\n\
             1 passed, 1 failed, 0 cannot be told from here.\n"
        );
    }
}
