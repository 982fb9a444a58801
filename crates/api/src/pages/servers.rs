//! `/servers`: the servers over SSH that cells stand on, each looked at now, as `berth server list` shows them.

use super::{
    failure::{Failure, html},
    session::Session,
    shown::{Frame, State, bytes, cell_state, state},
};
use askama::Template;
use axum::response::Response;
use berth_wire::{Machine, Page, Server};

/// Less than this of memory or disk free wants somebody's eye.
const TIGHT_PERCENT: u64 = 10;

struct ServerRow {
    cell: String,
    cell_state: State,
    at: String,
    host_key: String,
    answers: State,
    /// What the server is and has; empty where it did not answer.
    system: String,
    load: String,
    memory: String,
    disk: String,
    because: String,
}

#[derive(Template)]
#[template(path = "pages/servers.html")]
struct ServersPage {
    frame: Frame,
    rows: Vec<ServerRow>,
}

/// `GET /servers`. Takes as long as the slowest of them takes to answer.
pub async fn page(session: Session) -> Result<Response, Failure> {
    let servers: Page<Server> = session.get("/v1/servers").await?;
    let rows = servers.items.iter().map(ServerRow::new).collect();
    html(&ServersPage { frame: Frame::of(&session, "servers"), rows })
}

impl ServerRow {
    fn new(server: &Server) -> Self {
        let machine = server.machine.as_ref();
        let said = |of: fn(&Machine) -> String| machine.map_or_else(|| "?".to_owned(), of);
        Self {
            cell: server.cell.to_string(),
            cell_state: cell_state(server.state),
            at: format!("{}@{}:{}", server.user, server.host, server.port),
            host_key: server.host_key.clone().unwrap_or_else(|| "none is pinned".to_owned()),
            answers: match machine {
                None => state("does not answer", "bad"),
                Some(it) if tight(it) => state("nearly full", "bad"),
                Some(it) if it.load_1m > f64::from(it.cpus) => state("busy", "busy"),
                Some(_) => state("answers", "good"),
            },
            system: said(|it| format!("{}, {}, {} cpus", it.system, it.arch, it.cpus)),
            load: said(|it| format!("{:.2}", it.load_1m)),
            memory: said(|it| format!("{} of {}", bytes(it.memory_free_bytes), bytes(it.memory_bytes))),
            disk: said(|it| format!("{} of {}", bytes(it.disk_free_bytes), bytes(it.disk_bytes))),
            because: server.because.clone().unwrap_or_default(),
        }
    }
}

fn tight(it: &Machine) -> bool {
    let little = |free: u64, all: u64| free < all / 100 * TIGHT_PERCENT;
    little(it.memory_free_bytes, it.memory_bytes) || little(it.disk_free_bytes, it.disk_bytes)
}
