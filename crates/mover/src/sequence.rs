//! Sequences jump ahead of the source before the pause, and are only checked inside it.
//!
//! `setval(greatest(…))` beside writers hands out ids twice. The target's sequence starts a window beyond the source's.

use crate::sql::{Doing, literal};
use crate::{MoveError, MovePlan, PlannedSequence, Side};
use tokio_postgres::Client;

/// Ids that the source may hand out between the jump and the cut-over. At 1,000 a second: a quarter of an hour.
pub(crate) const WINDOW: i64 = 1_000_000;
/// Of jumps in one database.
const JUMP_LOCK: i64 = 0x4245_5254_4803;

async fn last_value(client: &Client, side: Side, sequence: &PlannedSequence) -> Result<(i64, i64), MoveError> {
    let sql = format!(
        "select last_value, (select seqincrement from pg_sequence where seqrelid = {}::regclass) from {}",
        literal(&sequence.sequence.sql()),
        sequence.sequence.sql()
    );
    let row = client.query_one(&sql, &[]).await.doing(side, "reading a sequence")?;
    Ok((row.get(0), row.get(1)))
}

/// Moves the target's sequences beyond what the source can reach soon, unless they are half that far already.
///
/// Others may take ids of the target's meanwhile. A jump from where the sequence stands when it is set goes a whole window
/// on, so it could hand one out twice only if a million were taken between two reads of one statement. Two jumps of one
/// sequence could undo each other: a lock lets one after the other.
pub(crate) async fn jump(source: &Client, target: &Client, plan: &MovePlan) -> Result<(), MoveError> {
    for sequence in &plan.sequences {
        let (ours, increment) = last_value(source, Side::Source, sequence).await?;
        let on = |ids: i64| ours.saturating_add(ids.saturating_mul(increment));
        let (near, wanted, step) = (on(WINDOW / 2), on(WINDOW), WINDOW.saturating_mul(increment));
        let (farther, before, most) =
            if increment > 0 { ("greatest", "<", "seqmax") } else { ("least", ">", "seqmin") };
        let name = sequence.sequence.sql();
        let sql = format!(
            "select pg_advisory_xact_lock({JUMP_LOCK});
             select setval({0}::regclass, case when last_value::numeric + ({step}) {before} {most} then {farther}(last_value + ({step}), {wanted}) else {wanted} end)
             from {name}, pg_sequence where seqrelid = {0}::regclass and last_value {before} {near}",
            literal(&name),
        );
        target.batch_execute(&sql).await.doing(Side::Target, "moving a sequence ahead")?;
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
