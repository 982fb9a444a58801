//! Routes and holds on disk: a log of changes that is written out anew when it has grown too long.
//!
//! Never keeps a secret, and never answers a request: it is read once, at the start. One JSON record a line; a batch
//! ends with its [`Record::Mark`], so half a batch at the end of the file (a crash while writing) was never said to be
//! in force and is cut off.

use crate::routing::{Change, Table};
use berth_domain::{Revision, TenantId, Token};
use berth_wire::edge::TenantRoute;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The log is written anew when it has this many records more than twice what is alive.
const SLACK_RECORDS: usize = 1000;

/// A log written anew is cut into batches of so many, or its reader would hold all of it at once.
const BATCH_RECORDS: usize = 5_000;

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("{path} is in use by another edge")]
    InUse { path: PathBuf },
    #[error("{path} could not be {doing}")]
    Io {
        path: PathBuf,
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
enum Record {
    Put {
        route: Arc<TenantRoute>,
    },
    Remove {
        tenant: TenantId,
    },
    /// The hold was refused: nothing is parked under it, also after a restart.
    Lifted {
        tenant: TenantId,
        token: Token,
        in_flight: u32,
    },
    /// Ends a batch.
    Mark {
        revision: Revision,
    },
}

/// The open log. The lock goes with it, also when the process is killed.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    file: File,
    /// Whole batches end here. What is behind it was not acknowledged to anybody.
    good_bytes: u64,
    records: usize,
    /// Kept open: it is to be synced also when there is no descriptor left.
    folder: File,
    /// A new log has the name, and a power cut may bring the old one back.
    unsynced: bool,
    _lock: File,
}

impl Log {
    /// Opens or makes the log, and reads what it says.
    pub fn open(dir: &Path) -> Result<(Self, Table), SnapshotError> {
        let at = |path: &Path, doing| {
            let path = path.to_owned();
            move |source| SnapshotError::Io { path, doing, source }
        };
        fs::create_dir_all(dir).map_err(at(dir, "made"))?;
        let lock_path = dir.join("lock");
        let lock = options().open(&lock_path).map_err(at(&lock_path, "opened"))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| SnapshotError::InUse { path: dir.to_owned() })?;
        let path = dir.join("routes.log");
        let file = options().open(&path).map_err(at(&path, "opened"))?;
        let folder = File::open(dir).map_err(at(dir, "opened"))?;
        let mut log =
            Self { dir: dir.to_owned(), file, good_bytes: 0, records: 0, folder, unsynced: true, _lock: lock };
        let table = log.read().map_err(at(&path, "read"))?;
        log.cut().map_err(at(&path, "cut to its last whole batch"))?;
        log.sync_name().map_err(at(dir, "synced"))?;
        Ok((log, table))
    }

    fn read(&mut self) -> io::Result<Table> {
        let mut table = Table::default();
        let mut batch = Vec::new();
        let mut offset = 0;
        let mut lines = BufReader::new(&self.file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = lines.read_until(b'\n', &mut line)?;
            if read == 0 || line.last() != Some(&b'\n') {
                break;
            }
            offset += read as u64;
            let Ok(record) = serde_json::from_slice::<Record>(&line) else { break };
            let Record::Mark { revision } = record else {
                batch.push(record);
                continue;
            };
            self.records += batch.len() + 1;
            for record in batch.drain(..) {
                match record {
                    Record::Put { route } => table.apply(&Change::Put(route)),
                    Record::Remove { tenant } => table.apply(&Change::Remove(tenant)),
                    Record::Lifted { tenant, token, in_flight } => table.lift(tenant, token, in_flight),
                    Record::Mark { .. } => {}
                }
            }
            table.revision = revision;
            self.good_bytes = offset;
        }
        Ok(table)
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.good_bytes)?;
        self.file.seek(SeekFrom::Start(self.good_bytes))?;
        Ok(())
    }

    /// A new or renamed file survives a power cut only when its folder is synced too.
    fn sync_name(&mut self) -> io::Result<()> {
        if self.unsynced {
            self.folder.sync_all()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Writes a batch, and returns when the disk has it.
    pub fn append(&mut self, changes: &[Change], revision: Revision) -> Result<(), SnapshotError> {
        let records = changes.iter().map(|c| match c {
            Change::Put(route) => Record::Put { route: Arc::clone(route) },
            Change::Remove(tenant) => Record::Remove { tenant: *tenant },
        });
        self.write(records.collect(), revision)
    }

    pub fn lift(
        &mut self,
        tenant: TenantId,
        token: Token,
        in_flight: u32,
        revision: Revision,
    ) -> Result<(), SnapshotError> {
        self.write(vec![Record::Lifted { tenant, token, in_flight }], revision)
    }

    fn write(&mut self, mut records: Vec<Record>, revision: Revision) -> Result<(), SnapshotError> {
        records.push(Record::Mark { revision });
        let failed = |dir: &Path, doing| {
            let path = dir.join("routes.log");
            move |source| SnapshotError::Io { path, doing, source }
        };
        // A batch that failed half way (a full disk) is cut off first, so that the next one stands on its own.
        self.cut().map_err(failed(&self.dir, "cut to its last whole batch"))?;
        let bytes = lines(&records).map_err(failed(&self.dir, "put into words"))?;
        let written = self.sync_name().and_then(|()| self.file.write_all(&bytes)).and_then(|()| self.file.sync_data());
        written.map_err(failed(&self.dir, "written"))?;
        self.good_bytes += bytes.len() as u64;
        self.records += records.len();
        Ok(())
    }

    /// The log holds so much that is outdated that it should be written anew.
    pub fn is_long(&self, table: &Table) -> bool {
        self.records > 2 * table.len() + SLACK_RECORDS
    }

    /// Writes the log anew with what is alive. A crash leaves the old one or the new one, whole.
    pub fn compact(&mut self, table: &Table) -> Result<(), SnapshotError> {
        let path = self.dir.join("routes.log");
        let new_path = self.dir.join("routes.log.new");
        let replaced = || -> io::Result<(File, u64, usize)> {
            let file = options().truncate(true).open(&new_path)?;
            let mut out = BufWriter::new(file);
            let mut records = 0;
            let mut write = |record: &Record| -> io::Result<()> {
                records += 1;
                serde_json::to_writer(&mut out, record)?;
                out.write_all(b"\n")
            };
            for (number, packed) in table.oldest_first().into_iter().enumerate() {
                if number > 0 && number.is_multiple_of(BATCH_RECORDS) {
                    // A part is worth nothing without the rest, so it is of no revision; but it can be read by itself.
                    write(&Record::Mark { revision: Revision::default() })?;
                }
                write(&Record::Put { route: Arc::new(packed.route()) })?;
                if let (Some(in_flight), Some(token)) = (packed.lifted(), packed.hold_token()) {
                    write(&Record::Lifted { tenant: packed.tenant, token, in_flight })?;
                }
            }
            write(&Record::Mark { revision: table.revision })?;
            let mut file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.sync_all()?;
            let bytes = file.stream_position()?;
            fs::rename(&new_path, &path)?;
            Ok((file, bytes, records))
        };
        let failed = |source| SnapshotError::Io { path: path.clone(), doing: "written anew", source };
        (self.file, self.good_bytes, self.records) = replaced().map_err(|error| {
            // Half of one takes room that a full disk has not.
            let _ = fs::remove_file(&new_path);
            failed(error)
        })?;
        // From here on the name leads to the new one: what the old one was given would be lost.
        self.unsynced = true;
        self.sync_name().map_err(failed)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options
}

fn lines(records: &[Record]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for record in records {
        serde_json::to_writer(&mut bytes, record)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
