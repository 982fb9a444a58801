//! Servers that follow the source or the target and may be promoted in their place. One that lacks the closing of the
//! fence would let the tenant write where it no longer lives; one that lacks the last rows would not have them.
//!
//! What is flushed there counts, whether the primary waits for it or not (`synchronous_standby_names`). Those that follow
//! another standby are not seen from here.

use crate::sql::Doing;
use crate::{MoveError, Side};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Longer than this a pause would only wait for it.
const IN_STEP: Duration = Duration::from_millis(25);
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// By the process that serves each. One that catches up after an absence is one of them. Who keeps the log only
/// (`pg_receivewal`, a base backup under way) replays nothing, says when it has flushed once a segment, and is never promoted.
const STANDBYS: &str =
    "from pg_stat_replication r where r.state in ('streaming', 'catchup') and r.replay_lsn is not null
    and not exists (select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')";

/// Before the pause: which there are, or why it may not begin.
pub(crate) async fn in_step(client: &Client, side: Side) -> Result<Result<Vec<i32>, String>, MoveError> {
    // Of a session whose state is hidden from the mover it is not known whether it serves a standby.
    let hidden = "select exists (select from pg_stat_replication where state is null)";
    if client.query_one(hidden, &[]).await.doing(side, "looking at the standbys")?.get(0) {
        return Ok(Err(format!("the mover may not see the standbys of the {side}: it lacks pg_read_all_stats")));
    }
    let sql = format!("select pid, application_name {STANDBYS}");
    let rows = client.query(&sql, &[]).await.doing(side, "looking at the standbys")?;
    let pids: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    if have_it_all(client, side, &pids, IN_STEP).await? {
        return Ok(Ok(pids));
    }
    let names: Vec<String> = rows.iter().map(|row| format!("`{}`", row.get::<_, String>(1))).collect();
    Ok(Err(format!("a standby of the {side} ({}) is behind", names.join(", "))))
}

/// Waits until each standby that follows by now has flushed all that this server has. False when the time is over, or one of
/// `pids` has gone.
pub(crate) async fn have_it_all(client: &Client, side: Side, pids: &[i32], limit: Duration) -> Result<bool, MoveError> {
    let doing = "waiting for the standbys";
    let until = Instant::now() + limit;
    let row = client.query_one("select pg_current_wal_flush_lsn()::text", &[]).await.doing(side, doing)?;
    let flushed: String = row.get(0);
    let have = format!(
        "select count(*) filter (where r.pid = any ($1)),
                coalesce(bool_and(coalesce(r.flush_lsn >= $2::text::pg_lsn, false)), true) {STANDBYS}"
    );
    let have = client.prepare(&have).await.doing(side, doing)?;
    loop {
        let row = client.query_one(&have, &[&pids, &flushed]).await.doing(side, doing)?;
        if row.get::<_, i64>(0) != pids.len() as i64 {
            return Ok(false);
        }
        if row.get(1) {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
