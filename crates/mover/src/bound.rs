//! The bound of what a move holds back of its source's write-ahead log, where the stream's own reader does not look: beside work
//! that takes long, and for a move that nobody works on. Never reads what is held back.

use crate::plan::{sessions_of, slot_of};
use crate::sql::{Doing, connect};
use crate::wal::{drop_slot, held_back};
use crate::{Endpoint, MoveError, MoveSpec, Side, Tuning, Way};
use berth_domain::MoveId;
use std::time::Duration;
use tokio_postgres::Client;

/// How often it is looked at. Less often than the stream is: what goes on beside it reads nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// `work`, unless the slot of the move holds back too much in the source before it is done: then whoever does it is dropped.
/// A look that fails says nothing of the slot.
pub(crate) async fn within<T>(
    spec: &MoveSpec,
    source: &Client,
    work: impl Future<Output = Result<T, MoveError>>,
) -> Result<T, MoveError> {
    let (slot, most) = (spec.slot(), spec.tuning.move_wal_bytes);
    tokio::select! {
        done = work => done,
        error = over(|| held_back(source, &slot, most)) => Err(error),
    }
}

async fn over<F: Future<Output = Result<(), MoveError>>>(mut look: impl FnMut() -> F) -> MoveError {
    loop {
        if let Err(error @ MoveError::TooMuchWal { .. }) = look().await {
            return error;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Takes away the slot of a move that nobody works on and that holds back too much in `source`, rather than let it fill that
/// server's disk, and says so by its error. While a session of the move is there, its worker looks itself.
pub async fn bound_log(source: &Endpoint, id: MoveId, way: Way, tuning: &Tuning) -> Result<(), MoveError> {
    let most = match way {
        Way::There => tuning.move_wal_bytes,
        Way::Back => tuning.way_back_wal_bytes,
    };
    let client = connect(source, Side::Source, "berth-bound").await?;
    let slot = slot_of(id, way);
    let (held_mb, most_mb) = match held_back(&client, &slot, most).await {
        Err(MoveError::TooMuchWal { held_mb, most_mb }) => (held_mb, most_mb),
        other => return other,
    };
    let at_work = "select exists (select from pg_stat_activity where starts_with(application_name, $1))
                       or exists (select from pg_replication_slots where slot_name = $2 and active)";
    let at_work =
        client.query_one(at_work, &[&sessions_of(id), &slot]).await.doing(Side::Source, "looking for a worker")?;
    if at_work.get::<_, bool>(0) {
        return Ok(());
    }
    drop_slot(&client, &slot).await?;
    Err(match way {
        Way::There => MoveError::TooMuchWal { held_mb, most_mb },
        Way::Back => MoveError::WayBackOver { held_mb, most_mb },
    })
}

/// What a person has to know where a server bounds no slot: nobody looks while neither a worker nor Berth's server runs.
pub(crate) async fn notes(spec: &MoveSpec, source: &Client, target: &Client) -> Result<Vec<String>, MoveError> {
    let mut notes = Vec::new();
    let sides =
        [(source, Side::Source, spec.tuning.move_wal_bytes), (target, Side::Target, spec.tuning.way_back_wal_bytes)];
    for (client, side, most) in sides.into_iter().filter(|(_, side, _)| *side == Side::Source || spec.way_back) {
        let sql = "select current_setting('max_slot_wal_keep_size') = '-1'";
        if client.query_one(sql, &[]).await.doing(side, "looking at the bound of slots")?.get::<_, bool>(0) {
            notes.push(format!(
                "the {side} bounds no replication slot (`max_slot_wal_keep_size` is -1): Berth gives up at {} GB of held back write-ahead log, but while nothing of it runs the log grows until the disk is full. ALTER SYSTEM SET max_slot_wal_keep_size = '{}GB'; SELECT pg_reload_conf()",
                most >> 30,
                (most >> 30).max(1)
            ));
        }
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::over;
    use crate::MoveError;
    use std::future::ready;

    #[tokio::test(start_paused = true)]
    async fn only_too_much_of_the_log_ends_what_goes_on_beside() {
        let said = [Ok(()), Err(MoveError::ControlSilent), Err(MoveError::TooMuchWal { held_mb: 2, most_mb: 1 })];
        let mut said = said.into_iter();
        let error = over(|| ready(said.next().unwrap())).await;
        assert!(matches!(error, MoveError::TooMuchWal { held_mb: 2, most_mb: 1 }), "{error:?}");
    }
}
