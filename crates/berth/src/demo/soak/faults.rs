//! How each fault is done, by a process of its own that also ends it: what was stopped goes on, what was cut off is
//! back, whatever becomes of us meanwhile.
//!
//! Cutting a network and filling a disk happen in namespaces of our own, which `scripts/soak` makes: never on the machine.

use super::super::world::World;
use super::plan::{Cell, Fault, Process, Victim};
use crate::fail::{Failure, FailureExt as _};
use berth_domain::{CellName, MoveId};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

/// Reads the record at the last moment and looks at the start time, so that no stranger under an old pid is hit.
const RECORD: &str = r#"
sleep "$1"; read -r pid start kind < "$2"; [ -n "$kind" ] || exit 3
stat=$(cat "/proc/$pid/stat") || exit 3
set -- "$1" "$2" "$3" ${stat##*) }; [ "${23}" = "$start" ] || exit 3
"#;
/// Each says the moment at which it struck, in milliseconds.
const KILL: &str = r#"at=$(date +%s%3N); kill -9 "$pid" && echo "$at""#;
const STOP: &str = r#"at=$(date +%s%3N); kill -STOP "$pid" && echo "$at"; sleep "$3"; kill -CONT "$pid""#;
/// One of the sessions that the mover has there: a reader of the stream, a writer of rows, who arms the fence.
const STOP_BACKEND: &str = r#"
for child in $(cat "/proc/$pid/task/$pid/children"); do
    case $(tr '\0' ' ' < "/proc/$child/cmdline") in *berth_mover*) found="$found $child" ;; esac
done
set -- "$3" $found; more=$(($$ % $# )); hold=$1; shift; [ $# -gt 0 ] || exit 3
[ "$more" -lt $# ] || more=0; shift "$more"
at=$(date +%s%3N); kill -STOP "$1" && echo "$at"; sleep "$hold"; kill -CONT "$1""#;
/// Packets vanish, in both directions: nobody is told that a connection is gone.
const CUT: &str = r#"
port=$(sed -n 4p "/proc/$pid/cwd/postmaster.pid"); [ -n "$port" ] || exit 3
at=$(date +%s%3N); table=berth_cut_$$
nft "add table ip $table; add chain ip $table out { type filter hook output priority 0; }
     add rule ip $table out tcp dport $port drop; add rule ip $table out tcp sport $port drop" && echo "$at"
sleep "$3"; nft delete table ip "$table""#;
/// The disk that everything here lies on shrinks to what is on it.
const FULL: &str = r#"
sleep "$1"; at=$(date +%s%3N); used=$(df -k --output=used "$2" | tail -n 1)
mount -o remount,size="${used##* }"k "$2" && echo "$at"; sleep "$3"; mount -o remount,size="$4"k "$2""#;

/// What can be done on this machine without touching it.
#[derive(Clone, Debug)]
pub struct Able {
    pub cut: bool,
    /// The folder of a small disk that is only ours, and its size.
    pub full: Option<(PathBuf, u64)>,
}

impl Able {
    pub fn here(world: &World) -> Self {
        let namespace = |of: &str, what: &str| std::fs::read_link(format!("/proc/{of}/ns/{what}")).ok();
        let own = |what: &str| namespace("self", what).is_some_and(|ours| namespace("1", what) != Some(ours));
        let mut nft = std::process::Command::new("nft");
        let nft = nft.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        let disk = world.dir.parent().and_then(|under| Some((under.to_owned(), tmpfs_kb(under)?)));
        Self { cut: own("net") && nft.is_ok_and(|status| status.success()), full: disk.filter(|_| own("mnt")) }
    }

    /// What is not, in words.
    pub fn lacks(&self) -> Option<String> {
        let lacks: Vec<&str> =
            [(!self.cut).then_some("no network is cut"), self.full.is_none().then_some("no disk fills up")]
                .into_iter()
                .flatten()
                .collect();
        (!lacks.is_empty()).then(|| {
            format!("{}: that needs root, nftables and namespaces of its own; kill -9 instead", lacks.join(" and "))
        })
    }
}

/// Its size, if a tmpfs is mounted at exactly this folder.
fn tmpfs_kb(folder: &Path) -> Option<u64> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let wanted = folder.to_str()?;
    let line = mounts.lines().rev().find(|line| line.split(' ').nth(1) == Some(wanted))?;
    let mut words = line.split(' ').skip(2);
    let (kind, options) = (words.next()?, words.next()?);
    let size = options.split(',').find_map(|option| option.strip_prefix("size=")?.strip_suffix('k'))?;
    (kind == "tmpfs").then(|| size.parse().ok()).flatten()
}

/// The cells of the move that is under way.
pub struct Scene<'w> {
    pub world: &'w World,
    pub able: &'w Able,
    pub source: CellName,
    pub target: CellName,
    /// The move whose slots these are: of an undo, the one that it undoes.
    pub of: MoveId,
}

impl Scene<'_> {
    fn cell(&self, cell: Cell) -> &CellName {
        match cell {
            Cell::Source => &self.source,
            Cell::Target => &self.target,
        }
    }

    /// Where the process is written down.
    fn record(&self, victim: Victim) -> PathBuf {
        let dir = &self.world.dir;
        let cells = dir.join("cells/run");
        match victim {
            Victim::Control => dir.join("run/program.serve"),
            Victim::ControlPostgres => dir.join("serve/postgres/run/database.control"),
            Victim::Edge => dir.join("run/program.edge"),
            Victim::Postgres(cell) => cells.join(format!("database.{}", self.cell(cell))),
            Victim::Member(cell) => cells.join(format!("member.{}.web.0", self.cell(cell))),
        }
    }

    /// Sends it off: it strikes after the delay.
    pub fn send(&self, fault: Fault, delay: Duration) -> Result<Striker, Failure> {
        let fault = match fault {
            Fault::Cut(cell, _) if !self.able.cut => Fault::Kill(Victim::Postgres(cell)),
            Fault::Full(_) if self.able.full.is_none() => Fault::Kill(Victim::ControlPostgres),
            fault => fault,
        };
        let seconds = |time: Duration| format!("{:.3}", time.as_secs_f64());
        let by_record = |script: &str, victim, hold: Duration| {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{RECORD}{script}"), "fault", &seconds(delay)]);
            command.arg(self.record(victim)).arg(seconds(hold));
            command
        };
        let mut command = match fault {
            Fault::Kill(victim) => by_record(KILL, victim, Duration::ZERO),
            Fault::Stop(Process::Control, hold) => by_record(STOP, Victim::Control, hold),
            Fault::Stop(Process::Edge, hold) => by_record(STOP, Victim::Edge, hold),
            Fault::Stop(Process::Backend(cell), hold) => by_record(STOP_BACKEND, Victim::Postgres(cell), hold),
            Fault::Cut(cell, hold) => by_record(CUT, Victim::Postgres(cell), hold),
            Fault::Full(hold) => {
                let (folder, size_kb) = self.able.full.as_ref().expect("looked at above");
                let mut command = Command::new("sh");
                command.args(["-c", FULL, "fault", &seconds(delay)]).arg(folder);
                command.args([seconds(hold), size_kb.to_string()]);
                command
            }
            Fault::Slot(cell) => return Ok(Striker { fault, done: Done::Slot(self.slot_lost(cell, delay)) }),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ours("a fault could not be started")?;
        Ok(Striker { fault, done: Done::Child(child) })
    }

    /// A slot of this move in the cell is dropped under its reader.
    fn slot_lost(&self, cell: Cell, delay: Duration) -> JoinHandle<Option<Timestamp>> {
        let hex = self.of.uuid().simple().to_string();
        let pattern = format!("berth\\_{}%", &hex[12..]);
        let name = self.cell(cell).clone();
        let cells = self.world.cells();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            let config = cells.database_as(&name, berth_infra::Role::Mover).await.ok()?;
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.ok()?;
            tokio::spawn(connection);
            // Its reader comes back at once: who drops it has to be quicker.
            for _ in 0..20 {
                let sql = "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name like $1 and active";
                client.execute(sql, &[&pattern]).await.ok()?;
                let sql =
                    "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like $1";
                match client.execute(sql, &[&pattern]).await {
                    Ok(0) => return None,
                    Ok(_) => return Some(Timestamp::now()),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
            None
        })
    }
}

enum Done {
    Child(Child),
    Slot(JoinHandle<Option<Timestamp>>),
}

pub struct Striker {
    fault: Fault,
    done: Done,
}

impl Striker {
    /// When it struck, after it is over; `None` where there was nothing to strike.
    pub async fn struck(self) -> Result<(Fault, Option<Timestamp>), Failure> {
        let at = match self.done {
            Done::Slot(task) => task.await.ours("dropping a slot")?,
            Done::Child(child) => {
                let output = child.wait_with_output().await.ours("waiting for a fault")?;
                let said = String::from_utf8_lossy(&output.stdout);
                said.trim().parse().ok().and_then(|ms| Timestamp::from_millisecond(ms).ok())
            }
        };
        Ok((self.fault, at))
    }
}
