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
    let (mut silent, mut counted, mut kept) = (false, 0, true);
    for client in clients.iter().cycle() {
        let told = tokio::time::timeout(PATIENCE, client.edge_ways(&edge, &opened)).await;
        match told.unwrap_or_else(|_| Err(ClientError::TooSlow { url: client.url(), limit_s: PATIENCE.as_secs() })) {
            Ok(told) => {
                silent = false;
                let mut now = known.clone();
                // What is not told of any more stays: a server that does not answer control may answer us.
                now.extend(told.into_iter().map(|way| (way.cell.to_string(), way)));
                if now != known || !kept {
                    known = now;
                    kept = keep_on_disk(&file, &known, kept);
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

/// Whether they are there. What the disk does not take is said once, and tried again by whoever asks.
fn keep_on_disk(file: &Path, known: &BTreeMap<String, EdgeWay>, kept: bool) -> bool {
    let draft = file.with_extension("new");
    let text = serde_json::to_vec(known).expect("ways have text keys");
    let _ = fs::remove_file(&draft);
    let written = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft).and_then(|mut out| {
        out.write_all(&text)?;
        out.sync_data()?;
        fs::rename(&draft, file)
    });
    if let Err(error) = &written
        && kept
    {
        warn!(%error, "the ways to servers are not on disk; this edge needs control after a restart");
    }
    written.is_ok()
}

#[cfg(test)]
mod tests {
    use super::{keep_on_disk, read};
    use berth_domain::CellName;
    use berth_wire::{EdgeWay, edge::Hidden};
    use std::{collections::BTreeMap, fs};

    fn way(port: u16) -> BTreeMap<String, EdgeWay> {
        let (cell, settings) = (CellName::new("here").unwrap(), Hidden::new("{}".to_owned()));
        [("here".to_owned(), EdgeWay { cell, settings, ports: vec![port] })].into()
    }

    #[test]
    fn ways_that_the_disk_does_not_take_leave_those_before_whole_and_are_taken_later() {
        let dir = tempfile::tempdir().unwrap();
        let (file, in_the_way) = (dir.path().join("ways.json"), dir.path().join("ways.new"));
        assert!(keep_on_disk(&file, &way(1), true));
        fs::create_dir(&in_the_way).unwrap();
        assert!(!keep_on_disk(&file, &way(2), true));
        assert!(read(&file) == way(1));
        fs::remove_dir(&in_the_way).unwrap();
        assert!(keep_on_disk(&file, &way(2), false));
        assert!(read(&file) == way(2));
        // Half of them are none.
        fs::write(&file, "{\"here\":{\"cell\":\"here\"").unwrap();
        assert!(read(&file).is_empty());
    }
}
