//! What was acknowledged to clients: the promise that everything else is measured against.
//!
//! Kept in memory and, where a path is given, in a file that is only ever appended to, so that a checker in another
//! process can read it after this one was killed. Never holds what was only offered.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One position as it was sent, and when its acknowledgement came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    pub tenant: Uuid,
    /// Made by the client; nothing in the database keeps it from being there twice.
    pub event: Uuid,
    pub vehicle: Uuid,
    /// The position's own time: microseconds since 1970.
    pub time_us: i64,
    /// Millionths of a degree, so that equal means equal.
    pub latitude_e6: i32,
    pub longitude_e6: i32,
    /// Tenths, for the same reason.
    pub speed_e1: i32,
    /// Microseconds since the load began, by a clock that never goes back.
    pub acknowledged_us: u64,
}

/// One step in the life of a geofence: made, replaced several times, removed. Each step is offered after the one before
/// was acknowledged, so what must be in the database is known, but for one step whose answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceWrite {
    pub tenant: Uuid,
    pub fence: Uuid,
    /// What its name and its size say; 0 when it is made, [`FenceWrite::GONE`] when it is removed.
    pub revision: u32,
    pub acknowledged_us: u64,
}

impl FenceWrite {
    /// The step after the last replacement.
    pub const GONE: u32 = 4;

    pub fn name(fence: Uuid, revision: u32) -> String {
        format!("{fence} revision {revision}")
    }

    pub fn radius_meters(revision: u32) -> u32 {
        100 + revision
    }
}

/// A line of the file; the fields tell which.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Position(Write),
    Fence(FenceWrite),
}

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the ledger file `{path}` cannot be used")]
    File { path: PathBuf, source: std::io::Error },
    #[error("line {line} of the ledger file `{path}` is not an entry")]
    Line { path: PathBuf, line: usize, source: serde_json::Error },
}

impl LedgerError {
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::File { .. } => Some("a new ledger needs a path where no file is yet, and room on the disk"),
            Self::Line { .. } => Some("is it a ledger, and of this release?"),
        }
    }
}

#[derive(Debug, Default)]
pub struct Ledger {
    writes: Vec<Write>,
    /// The last acknowledged step of each.
    fences: HashMap<Uuid, FenceWrite>,
    acknowledged: u64,
    file: Option<(PathBuf, BufWriter<File>)>,
}

impl Ledger {
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Also appends to the file, which must not be there yet: two runs in one file could not be told apart.
    pub fn in_file(path: &Path) -> Result<Self, LedgerError> {
        let file = File::create_new(path).map_err(|source| LedgerError::File { path: path.into(), source })?;
        Ok(Self { file: Some((path.into(), BufWriter::new(file))), ..Self::default() })
    }

    /// Reads a file back. A torn last line is what a kill leaves, and is no entry: nobody had seen it.
    pub fn read(path: &Path) -> Result<Self, LedgerError> {
        let at = |source| LedgerError::File { path: path.into(), source };
        let mut reader = BufReader::new(File::open(path).map_err(at)?);
        let mut ledger = Self::default();
        let mut text = String::new();
        for line in 1.. {
            text.clear();
            reader.read_line(&mut text).map_err(at)?;
            if !text.ends_with('\n') {
                break;
            }
            let entry = serde_json::from_str(&text);
            ledger.book(entry.map_err(|source| LedgerError::Line { path: path.into(), line, source })?);
        }
        Ok(ledger)
    }

    pub fn append(&mut self, write: Write) -> Result<(), LedgerError> {
        self.put(Line::Position(write))
    }

    pub fn append_fence(&mut self, write: FenceWrite) -> Result<(), LedgerError> {
        self.put(Line::Fence(write))
    }

    fn book(&mut self, entry: Line) {
        self.acknowledged += 1;
        match entry {
            Line::Position(write) => self.writes.push(write),
            Line::Fence(write) => drop(self.fences.insert(write.fence, write)),
        }
    }

    fn put(&mut self, entry: Line) -> Result<(), LedgerError> {
        self.book(entry);
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        serde_json::to_writer(&mut *file, &entry)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"))
            .map_err(|source| LedgerError::File { path: path.clone(), source })
    }

    /// Hands what is buffered to the system, where a kill of this process no longer loses it.
    pub fn flush(&mut self) -> Result<(), LedgerError> {
        let Some((path, file)) = &mut self.file else { return Ok(()) };
        file.flush().map_err(|source| LedgerError::File { path: path.clone(), source })
    }

    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    pub fn fences(&self) -> impl Iterator<Item = &FenceWrite> {
        self.fences.values()
    }

    /// How many writes were acknowledged, each step of a geofence counted.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Takes in what another load was acknowledged, for one check over both.
    pub fn merge(&mut self, other: &Self) {
        self.writes.extend_from_slice(&other.writes);
        self.fences.extend(&other.fences);
        self.acknowledged += other.acknowledged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(n: u128) -> Write {
        let id = Uuid::from_u128(n);
        Write {
            tenant: id,
            event: id,
            vehicle: id,
            time_us: -1,
            latitude_e6: -90_000_000,
            longitude_e6: 7,
            speed_e1: 0,
            acknowledged_us: u64::MAX,
        }
    }

    #[test]
    fn a_ledger_comes_back_from_its_file_up_to_a_torn_last_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.jsonl");
        let mut ledger = Ledger::in_file(&path).unwrap();
        let fence =
            |revision| FenceWrite { tenant: Uuid::nil(), fence: Uuid::from_u128(9), revision, acknowledged_us: 1 };
        ledger.append(write(1)).unwrap();
        ledger.append_fence(fence(0)).unwrap();
        ledger.append(write(2)).unwrap();
        ledger.append_fence(fence(1)).unwrap();
        ledger.append(write(3)).unwrap();
        ledger.flush().unwrap();
        assert!(matches!(Ledger::in_file(&path), Err(LedgerError::File { .. })), "a second run in one file");
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let read = Ledger::read(&path).unwrap();
        assert_eq!(read.writes(), &ledger.writes()[..2]);
        assert_eq!(read.fences().collect::<Vec<_>>(), [&fence(1)], "the last step is the one that counts");
        assert_eq!((ledger.acknowledged(), read.acknowledged()), (5, 4));
        std::fs::write(&path, b"{}\n").unwrap();
        assert!(matches!(Ledger::read(&path), Err(LedgerError::Line { line: 1, .. })));
    }
}
