//! `berth server check`: what `prepare` promises, found out by trying, from outside where outside is what counts. Changes
//! nothing, and never tries what would get its caller banned.

use super::{
    host::Host,
    prepare::{UPGRADES, USER, opened_by_match},
    steps::failed,
};
use crate::fail::Failure;
use berth_providers::ssh::{Connection, quoted, root};
use serde::Serialize;
use std::time::Duration;
use tokio::{net::TcpStream, time::timeout};

/// Long enough for an answer over any ocean; a firewall that drops says nothing at all.
const LIMIT: Duration = Duration::from_secs(3);

const UPGRADES_OFF: &str = "are off: `apt-config dump APT::Periodic Unattended-Upgrade` shows by what, and \
                            `berth server prepare` switches them on";

#[derive(Debug, Serialize)]
pub struct Finding {
    pub what: &'static str,
    pub good: bool,
    pub says: String,
}

pub async fn check(connection: &Connection, host: &Host) -> Result<Vec<Finding>, Failure> {
    let sudo = root(connection).await.map_err(failed)?;
    let run =
        async |script: &str| connection.run(&format!("{sudo}sh -c {}", quoted(script)), b"").await.map_err(failed);
    let mut all = Vec::new();
    let mut found = |what, good, says: String| all.push(Finding { what, good, says });

    let offered = Connection::offered(connection.target()).await.map_err(failed)?;
    let passwords: Vec<&String> = offered.iter().filter(|way| *way != "publickey").collect();
    found("passwords", passwords.is_empty(), format!("SSH offers {}", offered.join(", ")));

    // Asked and not tried: two tries and a typing error would be half a ban.
    let root_in = run("/usr/sbin/sshd -T | grep -qx 'permitrootlogin no'").await?.status != 0;
    found("root", !root_in, if root_in { "root may come in over SSH" } else { "root is not let in" }.to_owned());

    let open = opened_by_match(connection, sudo).await?;
    let says = if open.is_empty() { "undo none of it".to_owned() } else { open.replace('\n', "; ") };
    found("Match blocks", open.is_empty(), says);

    let own = host.again(connection, USER).await.is_ok();
    found("key", own, format!("`{USER}` is {}let in with your key", if own { "" } else { "not " }));

    let listening = run("ss -Hltn | awk '{print $4}'").await?.out;
    let allowed = [host.port(), 80, 443];
    let mut ports: Vec<u16> = listening
        .lines()
        .filter(|at| !at.starts_with("127.") && !at.starts_with("[::1]"))
        .filter_map(|at| at.rsplit(':').next()?.parse().ok())
        .filter(|port| !allowed.contains(port))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let mut open = Vec::new();
    // Those of Berth's own are tried whether they listen or not.
    for port in ports.iter().copied().chain([5432, 6379, 7600, 7601, 7603]) {
        if matches!(timeout(LIMIT, TcpStream::connect((host.name(), port))).await, Ok(Ok(_))) {
            open.push(port.to_string());
        }
    }
    let says = if open.is_empty() {
        format!("nothing answers from here but {allowed:?}; {} other ports listen there", ports.len())
    } else {
        format!("open from here: {}", open.join(", "))
    };
    found("ports", open.is_empty(), says);

    for (what, script, good, bad) in [
        ("firewall", "nft list table inet berth | grep -q 'policy drop'", "drops what is not named", "not there"),
        ("fail2ban", "fail2ban-client status sshd", "watches SSH", "does not watch SSH"),
        ("upgrades", UPGRADES, "are on", UPGRADES_OFF),
        ("postgres", "ls /usr/lib/postgresql/*/bin/postgres", "is installed", "is not installed"),
        ("containers", "podman --version", "podman is installed", "no engine is installed"),
    ] {
        let is = run(script).await?.status == 0;
        found(what, is, if is { good } else { bad }.to_owned());
    }
    Ok(all)
}
