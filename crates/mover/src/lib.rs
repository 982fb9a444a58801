//! Moves one tenant between two Postgres servers: copy, follow, fence, compare, cut over.
//!
//! Reads from top to bottom as a move does: [`plan`] finds what belongs to the tenant, [`prepare`] puts up the
//! fence, [`copy`] loads a snapshot, [`build`] makes keys and indexes, [`cut_over`] follows the changes, compares
//! every row, and changes the owner, [`retire`] takes away what is no longer needed. Each may run twice.
//!
//! Never knows `store`: who owns a tenant is asked and changed through [`Ownership`], edges through [`Edges`].

mod abilities;
mod alone;
mod archive;
mod back;
mod bare;
mod barred;
mod beside;
mod bound;
mod catalog;
mod closure;
mod compare;
mod control_table;
mod copy;
mod cutover;
mod edges;
mod equality;
mod erase;
mod error;
mod fence;
mod fence_rows;
mod follow;
#[cfg(fuzzing)]
pub mod fuzz;
mod hash;
mod import;
mod lane;
mod leaving;
mod loaded;
mod logins;
mod look;
mod name;
mod numbered;
mod opening;
mod outside;
mod owned;
mod ownership;
mod pace;
mod parts;
mod pgoutput;
mod plan;
mod prepare;
mod price;
mod progress;
mod purge;
mod read_ahead;
mod retention;
mod rights;
mod rules;
mod schema_watch;
mod sequence;
mod shared;
mod sides;
mod silence;
mod sql;
mod standbys;
mod stands;
mod survey;
mod taken;
mod transfer;
mod unfence;
mod wal;

pub use abilities::{Ability, abilities};
pub use alone::{TableComparison, compare, forget, lacks, place};
pub use archive::{
    Archive, ArchivedBeside, ArchivedColumn, ArchivedTable, Archives, Contents, Restored, archive, export,
    list as list_archives, probe, read as read_archive, restore,
};
pub use back::{close_way_back, keep, release};
pub use bare::build;
pub use beside::{
    Beside, BesideKind, BesidePlan, KeysBeside, ObjectsBeside, PLACE_OF_KEY, bring_late_objects, count_beside,
    may_be_removed, remove_all,
};
pub use bound::bound_log;
pub use catalog::schema_fingerprint;
pub use control_table::{ControlTable, NoEdges};
pub use copy::{Copied, copy};
pub use cutover::{CutOver, begin, cut_over, take};
pub use edges::{EdgeTrouble, Edges, HoldFigures};
pub use erase::{RowsOf, count_rows, erase_rows, may_be_erased};
pub use error::{Fault, MoveError, Obstacle, Side, refusal_detail};
pub use fence::fences;
pub use import::{forget_import, import_beside, import_rows, look_import, try_import, undo_import};
pub use look::{HostColumn, Look, RootGuess, ServerSeen, TableSeen, look};
pub use name::TableName;
pub use object_store::path::Path as ArchivePath;
pub use opening::give_up;
pub use ownership::{Change, Control, Ownership, Refusal, Verdict};
pub use plan::{
    DataRules, InnerReference, Link, LinkRule, MovePlan, MoveSpec, PlannedColumn, PlannedSequence, PlannedTable,
    Reference, SharedTable, Tuning, Unsure, Way,
};
pub use prepare::{prepare, retire};
pub use progress::{Phase, Progress, Watcher};
pub use purge::{Old, OldRows, old_rows, purge};
pub use read_ahead::ReadAhead;
pub use retention::Kept;
pub use rights::login_lacks;
pub use silence::{Patience, silence};
pub use sql::Endpoint;
pub use survey::{Discovery, discover, plan};
pub use transfer::{
    IdleFolder, count_files, find_archive, find_archives_of, idle_folders, read_file, remove_files, write_file,
};
pub use unfence::{disarm, unfence};
pub use wal::Lsn;
