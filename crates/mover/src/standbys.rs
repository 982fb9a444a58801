//! Servers that follow the source or the target and may be promoted in their place. One that lacks the closing of the
//! fence would let the tenant write where it no longer lives; one that lacks the last rows would not have them.
//!
//! What is flushed there counts, whether the primary waits for it or not (`synchronous_standby_names`).

use crate::sql::Doing;
use crate::{MoveError, Side};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// Further behind than this a pause would only wait for it, in bytes of the write-ahead log.
const BEHIND_MOST: i64 = 1 << 20;
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Physical ones that are in step as far as their connection goes. Who keeps the log only (`pg_receivewal`) is never
/// promoted, and says when it has flushed once a segment.
const STANDBYS: &str =
    "from pg_stat_replication r where r.state = 'streaming' and r.application_name <> 'pg_receivewal'
    and not exists (select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')";

/// Before the pause: whether there are any, or why it may not begin.
pub(crate) async fn in_step(client: &Client, side: Side) -> Result<Result<bool, String>, MoveError> {
    let sql = format!(
        "select application_name, coalesce(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), flush_lsn), 0)::bigint {STANDBYS} order by 2 desc"
    );
    let rows = client.query(&sql, &[]).await.doing(side, "looking at the standbys")?;
    let Some(last) = rows.first() else { return Ok(Ok(false)) };
    let behind: i64 = last.get(1);
    if behind <= BEHIND_MOST {
        return Ok(Ok(true));
    }
    let name: String = last.get(0);
    Ok(Err(format!("standby `{name}` of the {side} is {} MB behind", behind >> 20)))
}

/// Waits until every one of them has flushed all that this server has. False when the time is over.
pub(crate) async fn have_it_all(client: &Client, side: Side, limit: Duration) -> Result<bool, MoveError> {
    let doing = "waiting for the standbys";
    let until = Instant::now() + limit;
    let row = client.query_one("select pg_current_wal_flush_lsn()::text", &[]).await.doing(side, doing)?;
    let flushed: String = row.get(0);
    let late = format!("select count(*) {STANDBYS} and (r.flush_lsn is null or r.flush_lsn < $1::text::pg_lsn)");
    loop {
        if client.query_one(&late, &[&flushed]).await.doing(side, doing)?.get::<_, i64>(0) == 0 {
            return Ok(true);
        }
        if Instant::now() >= until {
            return Ok(false);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
