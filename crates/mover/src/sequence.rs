//! Sequences jump ahead of the source before the pause, and are only checked inside it.
//!
//! `setval(greatest(…))` beside writers hands out ids twice. The target's sequence starts a window beyond the
//! source's, and nobody else uses the target's before the cut-over.

use crate::sql::{Doing, literal};
use crate::{MoveError, MovePlan, PlannedSequence, Side};
use tokio_postgres::Client;

/// Ids that the source may hand out between the jump and the cut-over. At 1,000 a second: a quarter of an hour.
const WINDOW: i64 = 1_000_000;

async fn last_value(client: &Client, side: Side, sequence: &PlannedSequence) -> Result<(i64, i64), MoveError> {
    let sql = format!(
        "select last_value, (select seqincrement from pg_sequence where seqrelid = {}::regclass) from {}",
        literal(&sequence.sequence.sql()),
        sequence.sequence.sql()
    );
    let row = client.query_one(&sql, &[]).await.doing(side, "reading a sequence")?;
    Ok((row.get(0), row.get(1)))
}

/// Moves the target's sequences beyond what the source can reach soon.
pub(crate) async fn jump(source: &Client, target: &Client, plan: &MovePlan) -> Result<(), MoveError> {
    for sequence in &plan.sequences {
        let (ours, increment) = last_value(source, Side::Source, sequence).await?;
        let (theirs, _) = last_value(target, Side::Target, sequence).await?;
        let wanted = ours.saturating_add(WINDOW.saturating_mul(increment));
        if (increment > 0 && theirs < wanted) || (increment < 0 && theirs > wanted) {
            let sql = format!("select setval({}::regclass, {wanted})", literal(&sequence.sequence.sql()));
            target.batch_execute(&sql).await.doing(Side::Target, "moving a sequence ahead")?;
        }
    }
    Ok(())
}

/// Whether every sequence of the target is beyond the source's.
pub(crate) async fn ahead(source: &Client, target: &Client, plan: &MovePlan) -> Result<bool, MoveError> {
    for sequence in &plan.sequences {
        let (ours, increment) = last_value(source, Side::Source, sequence).await?;
        let (theirs, _) = last_value(target, Side::Target, sequence).await?;
        if (increment > 0 && theirs <= ours) || (increment < 0 && theirs >= ours) {
            return Ok(false);
        }
    }
    Ok(true)
}
