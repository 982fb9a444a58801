//! An edge's own ways to members on servers that are reached over SSH: told by the control plane, kept on disk, open when
//! control is gone. Never a way to a database: the key that it is told opens nothing but members' ports.

use berth_client::{Client, ClientError};
use berth_domain::{CellName, EdgeName};
use berth_providers::ssh::open_ways;
use berth_wire::EdgeWay;
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};
use tracing::{info, warn};

/// How soon a new member's port is known here. It is asked for before any route names it: a member is told of as soon
/// as it has a port, and routed to when it is healthy.
const EVERY: Duration = Duration::from_millis(500);

/// A control plane that hangs keeps neither the ways from being looked after nor the next one from being asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// Keeps them open for as long as it is polled.
pub async fn keep(clients: Vec<Client>, edge: EdgeName, data_dir: PathBuf) {
    let file = data_dir.join("ways.json");
    let mut known = read(&file);
    let mut opened = open(&known).await;
    let (mut silent, mut counted) = (false, 0);
    for client in clients.iter().cycle() {
        let told = tokio::time::timeout(PATIENCE, client.edge_ways(&edge, &opened)).await;
        match told.unwrap_or_else(|_| Err(ClientError::TooSlow { url: client.url(), limit_s: PATIENCE.as_secs() })) {
            Ok(told) => {
                silent = false;
                let mut now = known.clone();
                // What is not told of any more stays: a server that does not answer control may answer us.
                now.extend(told.into_iter().map(|way| (way.cell.to_string(), way)));
                if now != known {
                    known = now;
                    write(&file, &known);
                }
            }
            // Once, not every second; an older control plane knows no ways.
            Err(error) if !silent && error.problem().is_none() => {
                silent = true;
                warn!(%error, "control does not say how servers are reached; those that are known stay");
            }
            Err(_) => silent = true,
        }
        let now = open(&known).await;
        let news = now != opened;
        opened = now;
        if opened.len() != counted {
            counted = opened.len();
            info!(ports = counted, "{counted} ports of members on servers are reached over SSH");
        }
        // A release waits to hear of it.
        tokio::time::sleep(if news { EVERY / 10 } else { EVERY }).await;
    }
    // Without a control plane to ask there is nothing to keep.
    std::future::pending::<()>().await;
}

/// The ports that there is a way to now.
async fn open(known: &BTreeMap<String, EdgeWay>) -> Vec<(CellName, u16)> {
    let mut ports = Vec::new();
    for (cell, way) in known {
        match open_ways(&way.settings.expose().to_owned().into(), way.ports.iter().copied()).await {
            Ok(()) => ports.extend(way.ports.iter().map(|port| (way.cell.clone(), *port))),
            Err(error) => warn!(%error, cell, "no way into cell {cell}"),
        }
    }
    ports
}

fn read(file: &Path) -> BTreeMap<String, EdgeWay> {
    fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn write(file: &Path, known: &BTreeMap<String, EdgeWay>) {
    let draft = file.with_extension("new");
    let text = serde_json::to_vec(known).expect("ways have text keys");
    let _ = fs::remove_file(&draft);
    let written = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft).and_then(|mut out| {
        out.write_all(&text)?;
        out.sync_data()?;
        fs::rename(&draft, file)
    });
    if let Err(error) = written {
        warn!(%error, "the ways to servers are not on disk; this edge needs control after a restart");
    }
}
