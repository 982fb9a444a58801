//! How far a move without a control plane has come, in a file: written whole and durably after each step.

use crate::fail::{Failure, FailureExt as _};
use berth_mover::{DataRules, MovePlan};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The last step that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reached {
    Planned,
    Prepared,
    Copied,
    Built,
    /// The target owns the tenant; the source follows if there is a way back.
    Moved,
    /// The source owns it again.
    Undone,
    /// Being given up: from here on nothing else happens.
    GivingUp,
    /// Given up before the owner changed; nothing of the move is left.
    GivenUp,
    /// Nothing of the move is left in either database but the tenant's rows in the target.
    Settled,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub id: Uuid,
    pub tenant: String,
    pub rules: DataRules,
    /// Without passwords.
    pub from: String,
    pub to: String,
    pub way_back: bool,
    /// Why it is not there any more, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way_back_ended: Option<String>,
    pub alone: bool,
    pub plan: MovePlan,
    pub reached: Reached,
}

/// A folder with one move in it, held by one process at a time.
pub struct Journal {
    folder: PathBuf,
    _lock: File,
}

impl Journal {
    pub fn open(folder: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(folder).ours("the journal's folder")?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock"));
        let lock = lock.ours("the journal's lock")?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Failure::request(
                format!("another process works with the journal {}", folder.display()),
                "wait for it, or end it: the next one goes on where it was",
            )
        })?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    pub fn read(&self) -> Result<Option<Record>, Failure> {
        match fs::read(self.file()) {
            Ok(text) => serde_json::from_slice(&text).ours("the journal").map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).ours("the journal"),
        }
    }

    pub fn write(&self, record: &Record) -> Result<(), Failure> {
        let (file, new) = (self.file(), self.folder.join("move.json.new"));
        let text = serde_json::to_vec_pretty(record).ours("the journal")?;
        let mut out = File::create(&new).ours("the journal")?;
        out.write_all(&text).ours("the journal")?;
        out.sync_all().ours("the journal")?;
        fs::rename(&new, &file).ours("the journal")?;
        File::open(&self.folder).ours("the journal's folder")?.sync_all().ours("the journal's folder")
    }

    fn file(&self) -> PathBuf {
        self.folder.join("move.json")
    }
}
