//! Cells of one host kept apart: members of each run as a user of their own, and the kernel lets nobody but that user,
//! Postgres, root, whoever came in over SSH and the users of `serve` and the edge connect to the cell's address. Never touches
//! other rules of the host.
//!
//! A password would keep strangers out of a database as well; this keeps them from trying, and from its bugs.

use super::agent::{program, program_with};
use super::calls::Home;
use berth_domain::CellName;
use berth_infra::ProviderError;
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeSet, HashMap},
    fs,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

/// The addresses of all cells: see `address` in `ssh.rs`.
const CELLS: &str = "127.64.0.0/10";
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Who connects beside root, the cell's members and whoever came in over SSH: Postgres itself; and, on a server with a control
/// plane of its own, `serve` to the database and the edge to its own ways (`ways.rs`). Members of `local` cells there are
/// `berth` too: to those a password alone stands in the way.
const MAY: [&str; 3] = ["postgres", "berth", "berth-edge"];

fn applies(home: &Home) -> bool {
    home.separate && rustix::process::geteuid().is_root()
}

/// A name of at most 32 characters, as Linux has them, whatever the cell's is.
fn name(home: &Home) -> String {
    let digest = Sha256::digest(home.cell.as_str());
    format!("cell-{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3])
}

fn uid(user: &str) -> Option<u32> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(user))?;
    line.split(':').nth(2)?.parse().ok()
}

/// Who connects to every cell.
fn may() -> BTreeSet<u32> {
    MAY.into_iter().filter_map(uid).chain([0, came_in_as()]).collect()
}

/// Whom the rules let in, as `nft list chain` writes them. `None`: there are none.
fn lets_in(rules: &str) -> Option<BTreeSet<u32>> {
    if !rules.contains("reject") {
        return None;
    }
    let (among, _) = rules.split_once("skuid {")?.1.split_once('}')?;
    among.split(',').map(|uid| uid.trim().parse().ok()).collect()
}

/// The user of the cell's members, once it is there.
pub fn user(home: &Home) -> Option<String> {
    let name = name(home);
    (applies(home) && uid(&name).is_some()).then_some(name)
}

pub async fn ensure(home: &Home) -> Result<(), ProviderError> {
    if !applies(home) {
        return Ok(());
    }
    let name = name(home);
    if uid(&name).is_none() {
        let comment = format!("Berth cell {}", home.cell);
        let made = program_with(
            "useradd",
            &["--system", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
                .into_iter()
                .chain(["--user-group", "--comment", &comment, &name])
                .collect::<Vec<_>>(),
            "",
        )
        .await?;
        // Two callers at once: the other one made it.
        if let (Err(said), None) = (made, uid(&name)) {
            return Err(ProviderError::Refused { what: format!("a user for cell {}", home.cell), reason: said });
        }
    }
    let own = uid(&name).ok_or_else(|| ProviderError::Busy { what: format!("the user of cell {}", home.cell) })?;
    let may = may().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    // The table is made where it is missing, its chain is written anew, its set of cells is added to: as one change.
    let rules = format!(
        "table inet berth_cells {{\n\
           set members {{ type ipv4_addr . uid; }}\n\
           chain out {{ type filter hook output priority 0; policy accept; }}\n\
         }}\n\
         flush chain inet berth_cells out\n\
         add rule inet berth_cells out ip daddr {CELLS} ct state established,related accept\n\
         add rule inet berth_cells out ip daddr {CELLS} meta skuid {{ {may} }} accept\n\
         add rule inet berth_cells out ip daddr . meta skuid @members accept\n\
         add rule inet berth_cells out ip daddr {CELLS} reject\n\
         add element inet berth_cells members {{ {} . {own} }}\n",
        home.address
    );
    let set = program_with("nft", &["-f", "-"], &rules).await?;
    set.map(drop).map_err(|said| ProviderError::Refused {
        what: format!("keeping cell {} apart from others", home.cell),
        reason: format!("nftables: {said}; `separate: false` in the cell's settings goes without"),
    })
}

/// The same, where it is not so any more: whoever starts the host's own firewall anew flushes every table, and a user may
/// have come since, as the edge's. Looked at by and by, since a healthy cell is only looked at. Whoever is let in beside
/// stays so: another login may be at work here.
pub async fn keep(home: &Home) -> Result<(), ProviderError> {
    static LOOKED: OnceLock<Mutex<HashMap<CellName, Instant>>> = OnceLock::new();
    let Some(own) = uid(&name(home)).filter(|_| applies(home)) else { return Ok(()) };
    let looked = || LOOKED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if looked().get(&home.cell).is_some_and(|at| at.elapsed() < LOOK_EVERY) {
        return Ok(());
    }
    let element = format!("{{ {} . {own} }}", home.address);
    let known = program_with("nft", &["get", "element", "inet", "berth_cells", "members", &element], "").await?;
    let chain = program_with("nft", &["list", "chain", "inet", "berth_cells", "out"], "").await?;
    let is_so = chain.ok().and_then(|rules| lets_in(&rules)).is_some_and(|they| they.is_superset(&may()));
    if known.is_err() || !is_so {
        ensure(home).await?;
    }
    // What failed is not good for a while: it is tried again at the next look.
    looked().insert(home.cell.clone(), Instant::now());
    Ok(())
}

/// Forwards of SSH are made by processes of this user.
#[expect(clippy::disallowed_methods, reason = "sudo says in its variables who called it, and nowhere else")]
fn came_in_as() -> u32 {
    std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()).unwrap_or(0)
}

pub async fn remove(home: &Home) -> Result<(), ProviderError> {
    if !applies(home) {
        return Ok(());
    }
    let name = name(home);
    if let Some(own) = uid(&name) {
        let element = format!("{{ {} . {own} }}", home.address);
        // Gone already, or the whole table is: the same.
        let _ = program_with("nft", &["delete", "element", "inet", "berth_cells", "members", &element], "").await?;
        program("userdel", &[&name]).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::lets_in;
    use std::collections::BTreeSet;

    /// As nft 1.0.6 writes it.
    #[test]
    fn whom_the_rules_let_in_is_read_and_nobody_without_the_last_of_them() {
        let accepts = "table inet berth_cells {\n\tchain out {\n\t\ttype filter hook output priority filter; policy accept;\n\
                       \t\tip daddr 127.64.0.0/10 ct state established,related accept\n\
                       \t\tip daddr 127.64.0.0/10 meta skuid { 0, 104, 1001 } accept\n\
                       \t\tip daddr . meta skuid @members accept\n";
        let whole = format!("{accepts}\t\tip daddr 127.64.0.0/10 reject\n\t}}\n}}\n");
        let they = lets_in(&whole).unwrap();
        assert!(
            they.is_superset(&BTreeSet::from([0, 1001])) && !they.is_superset(&BTreeSet::from([0, 998])),
            "{they:?}"
        );
        assert_eq!(lets_in(accepts), None);
        assert_eq!(lets_in("table inet berth_cells {\n\tchain out {\n\t}\n}\n"), None);
    }
}
