//! What errors mean on the way back: what is in the way of a row and no waiting passes, what ends it, and what an undo that differs has for
//! a reason.

use crate::{MoveError, Way};
use tokio_postgres::error::SqlState;

impl MoveError {
    /// What differs on the way back has another likely reason, and another remedy.
    pub(crate) fn on(self, way: Way) -> Self {
        match (way, self) {
            (Way::Back, Self::Differs { table, rows, first_key }) => Self::OldSideDiffers { table, rows, first_key },
            (_, error) => error,
        }
    }

    /// What the rows that stand in a database forbid, and no waiting changes: a key that another row has, a condition of the table, a
    /// row that is not the tenant's. Without values but the key's.
    pub(crate) fn rows_forbid(&self) -> Option<String> {
        match self {
            Self::NotOneRow { table, found, key } => {
                Some(format!("a change of `{table}` met {found} rows instead of one, key {key}"))
            }
            Self::Statement { source, .. } => {
                let answer = source.as_db_error()?;
                is_final(answer.code(), answer.constraint()).then(|| answer.message().to_owned())
            }
            _ => None,
        }
    }

    /// Whether a move cannot be undone any more after this: [`crate::keep`] would end with it for ever, and the new side would hold back
    /// its log for nothing.
    pub fn ends_the_way_back(&self) -> bool {
        matches!(
            self,
            Self::SlotLost { .. }
                | Self::WayBackOver { .. }
                | Self::WayBackBarred { .. }
                // A release, mostly: what is written in the new schema has no place in the old side's rows.
                | Self::SchemaChanged { .. }
                | Self::Truncated { .. }
                | Self::TenantChanged { .. }
                | Self::TenantCleared { .. }
        )
    }
}

/// A refusal that is no constraint's (nor of a null) is a partition that is missing, and may come.
fn is_final(code: &SqlState, constraint: Option<&str>) -> bool {
    *code == SqlState::NOT_NULL_VIOLATION || (code.code().starts_with("23") && constraint.is_some())
}

#[cfg(test)]
mod tests {
    use super::is_final;
    use crate::{MoveError, TableName};
    use tokio_postgres::error::SqlState;

    #[test]
    fn a_row_without_a_partition_waits_for_one() {
        assert!(is_final(&SqlState::UNIQUE_VIOLATION, Some("vehicles_pkey")));
        assert!(is_final(&SqlState::CHECK_VIOLATION, Some("vehicles_label_check")));
        assert!(is_final(&SqlState::NOT_NULL_VIOLATION, None));
        assert!(!is_final(&SqlState::CHECK_VIOLATION, None), "there is no partition for the row");
        assert!(!is_final(&SqlState::LOCK_NOT_AVAILABLE, None));
    }

    #[test]
    fn what_the_stream_cannot_carry_ends_the_way_back_and_what_passes_does_not() {
        let cleared =
            MoveError::TenantCleared { table: TableName::new("public", "Notes"), column: "customerId".into() };
        assert!(cleared.ends_the_way_back());
        assert!(MoveError::SchemaChanged { what: "a column".into() }.ends_the_way_back());
        assert!(MoveError::SlotLost { slot: "berth".into() }.ends_the_way_back());
        assert!(!MoveError::ControlSilent.ends_the_way_back());
        assert!(!MoveError::Cancelled.ends_the_way_back());
    }
}
