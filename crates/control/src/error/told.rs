//! What is told of an error besides its words: whether asking again may help, which operation stands in the way, its causes.

use crate::{ControlError, Kind};
use berth_domain::{CellClass, CellName, OperationId, TenantName};
use berth_placement::Refusal;
use berth_workflow::StepError;

impl ControlError {
    /// The same request may succeed later without anybody changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            Self::Provider { source, .. } => source.retryable(),
            Self::StillUnderWay => true,
            other => matches!(other.kind(), Kind::Unavailable | Kind::Provider),
        }
    }

    /// The operation that stands in the way.
    pub fn operation(&self) -> Option<OperationId> {
        match self {
            Self::AlreadyMoving { operation, .. } | Self::TenantState { operation, .. } => *operation,
            Self::TenantBusy { operation, .. } => Some(*operation),
            _ => None,
        }
    }

    /// The error with its causes, for people: `Display` says its own part only.
    pub fn full(&self) -> String {
        StepError::chain(self)
    }
}

/// Several of them, as one sentence.
pub(super) fn each(of: impl IntoIterator<Item = impl ToString>) -> String {
    of.into_iter().map(|one| one.to_string()).collect::<Vec<_>>().join("; ")
}

pub(super) fn no_room(class: CellClass, already_in: Option<&CellName>) -> String {
    match already_in {
        None => format!("no {class} cell has room"),
        Some(cell) => format!("no other {class} cell has room: the tenant is already in `{cell}`"),
    }
}

pub(super) fn unfit(tenant: &TenantName, place: &str, refused: &Refusal) -> String {
    let Refusal { constraint, wanted, has, .. } = refused;
    format!("{place} breaks what tenant `{tenant}` needs: {constraint} (wanted: {wanted}, has: {has})")
}

/// `ended`: why the last move cannot be undone any more.
pub(super) fn no_way_back(tenant: &TenantName, ended: Option<&str>) -> String {
    match ended {
        None => format!("tenant `{tenant}` has no move that could be undone"),
        Some(why) => format!("the last move of tenant `{tenant}` cannot be undone any more: {why}"),
    }
}

/// More lines than people read at once are counted.
const LINES_SHOWN: usize = 20;

pub(super) fn bad_lines(lines: &[crate::usage::BadLine]) -> String {
    let mut text: Vec<String> =
        lines.iter().take(LINES_SHOWN).map(|bad| format!("event {}: {}", bad.line, bad.says)).collect();
    if lines.len() > LINES_SHOWN {
        text.push(format!("and {} more", lines.len() - LINES_SHOWN));
    }
    text.join("; ")
}
