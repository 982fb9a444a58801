//! What can be seen of an operation that does not end: its last steps, and what the databases of its cells are at.

use crate::demo::{say, world::World};
use berth_domain::CellName;
use berth_wire::Operation;
use tokio_postgres::{Client, NoTls};

const SESSIONS: &str = "
    select concat_ws(' ', pid, backend_type, usename, application_name, state, wait_event_type, wait_event,
                     'blocked by', pg_blocking_pids(pid)::text, 'for', clock_timestamp() - query_start, left(query, 200))
    from pg_stat_activity where pid <> pg_backend_pid() and backend_type in ('client backend', 'walsender') order by pid";
const SLOTS: &str = "
    select concat_ws(' ', slot_name, 'read by', active_pid, 'from', restart_lsn, 'confirmed', confirmed_flush_lsn, wal_status,
                     'now', pg_current_wal_lsn())
    from pg_replication_slots order by slot_name";

/// Never fails: what cannot be seen is said too.
pub async fn tell(world: &World, operation: &Operation, cells: [&CellName; 2]) {
    for step in operation.steps.iter().rev().take(4).rev() {
        say(format!("  step {step:?}"));
    }
    say(format!("  at {:?}, progress {:?}", operation.state, operation.progress));
    for cell in cells {
        for (what, sql) in [("session", SESSIONS), ("slot", SLOTS)] {
            match seen(world, cell, sql).await {
                Ok(lines) => lines.iter().for_each(|line| say(format!("  {cell} {what} {line}"))),
                Err(why) => say(format!("  {cell}: {why}")),
            }
        }
    }
}

async fn seen(world: &World, cell: &CellName, sql: &str) -> Result<Vec<String>, String> {
    let config = world.database(cell).await.map_err(|failure| failure.screen())?;
    let (client, connection): (Client, _) = config.connect(NoTls).await.map_err(|error| error.to_string())?;
    tokio::spawn(async move { connection.await.ok() });
    let rows = client.query(sql, &[]).await.map_err(|error| error.to_string())?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
