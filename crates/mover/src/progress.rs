//! What a move tells about itself while it runs.

use serde::{Deserialize, Serialize};

/// What a move is doing, in the order it does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Plan,
    Prepare,
    Copy,
    Build,
    Follow,
    Compare,
    CutOver,
    Keep,
}

impl Phase {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Prepare => "prepare",
            Self::Copy => "copy",
            Self::Build => "build",
            Self::Follow => "follow",
            Self::Compare => "compare",
            Self::CutOver => "cut_over",
            Self::Keep => "keep",
        }
    }
}

/// A moment of a move. Figures are measured; what is not known yet is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub phase: Phase,
    pub rows_done: Option<u64>,
    pub rows_total: Option<u64>,
    /// Keys changed since they were last compared.
    pub open_keys: Option<u64>,
    /// Attempts at the cut-over so far.
    pub attempts: Option<u32>,
    /// WAL that has not been applied on the other side, in bytes.
    pub bytes_behind: Option<u64>,
    pub note: Option<String>,
}

impl Progress {
    pub fn of(phase: Phase) -> Self {
        Self {
            phase,
            rows_done: None,
            rows_total: None,
            open_keys: None,
            attempts: None,
            bytes_behind: None,
            note: None,
        }
    }
}

/// Who watches a move, and may stop it before the commit point.
pub trait Watcher: Send + Sync {
    fn progress(&self, progress: Progress);
    fn cancelled(&self) -> bool;
}
