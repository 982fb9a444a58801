//! What a cell's database is busy with and what it keeps, for whoever is called at night. Looks and changes nothing; what
//! a statement says is shown without the values in it.

use crate::{
    App, ControlError, Permit, Read,
    cell_access::{connect, failed},
    cells,
};
use berth_infra::Role;
use berth_wire as wire;

/// Statements and tables that are shown at most.
const MOST: i64 = 20;

/// The sessions that are in a statement or a transaction, oldest first, with whom they wait for; the largest tables; slots.
pub async fn top(app: &App, _permit: &Permit<Read>, who: &str) -> Result<wire::DatabaseTop, ControlError> {
    let cell = cells::known(app, who).await?;
    let client = connect(&cell.name, &app.cell_database(&cell).await?, Role::Mover).await?;
    let asked = failed(&cell.name);
    let statements = client
        .query(
            "SELECT pid, coalesce(usename::text, backend_type), coalesce(application_name, ''), coalesce(state, ''),
                    extract(epoch FROM clock_timestamp() - coalesce(xact_start, query_start))::float8,
                    coalesce(wait_event_type || ' ' || wait_event, ''), pg_blocking_pids(pid),
                    -- What stands in quotes or is a number may be somebody's.
                    left(regexp_replace(regexp_replace(query, '''[^'']*''|\\$[^$]*\\$.*?\\$[^$]*\\$', '?', 'g'), '\\m[0-9]+\\M', '?', 'g'), 200)
             FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
             ORDER BY coalesce(xact_start, query_start) NULLS LAST LIMIT $1",
            &[&MOST],
        )
        .await
        .map_err(&asked)?;
    let tables = client
        .query(
            "SELECT CASE schemaname WHEN 'public' THEN '' ELSE schemaname || '.' END || relname, pg_total_relation_size(relid),
                    n_live_tup, n_dead_tup
             FROM pg_stat_user_tables ORDER BY 2 DESC, 1 LIMIT $1",
            &[&MOST],
        )
        .await
        .map_err(&asked)?;
    // Whoever runs the database may keep these from the role; what is asked for at night is shown without them then.
    let size = client.query_opt("SELECT pg_database_size(current_database())", &[]).await.ok().flatten();
    let slots = client
        .query(
            "SELECT slot_name::text, active,
                    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint END
             FROM pg_replication_slots WHERE database = current_database() ORDER BY 3 DESC NULLS LAST, 1 LIMIT $1",
            &[&MOST],
        )
        .await
        .unwrap_or_default();
    let whole = |n: i64| u64::try_from(n).unwrap_or(0);
    Ok(wire::DatabaseTop {
        cell: cell.name.clone(),
        statements: statements
            .iter()
            .map(|row| wire::DatabaseStatement {
                pid: row.get(0),
                role: row.get(1),
                application: row.get(2),
                state: row.get(3),
                age_s: row.get::<_, Option<f64>>(4).unwrap_or(0.0).max(0.0),
                waits_for: Some(row.get(5)).filter(|text: &String| !text.is_empty()),
                blocked_by: row.get(6),
                statement: row.get(7),
            })
            .collect(),
        tables: tables
            .iter()
            .map(|row| wire::DatabaseTable {
                table: row.get(0),
                bytes: whole(row.get(1)),
                rows: whole(row.get(2)),
                dead_rows: whole(row.get(3)),
            })
            .collect(),
        bytes: size.map(|row| whole(row.get(0))),
        slots: slots
            .iter()
            .map(|row| wire::DatabaseSlot {
                slot: row.get(0),
                read: row.get(1),
                bytes: row.get::<_, Option<i64>>(2).map(whole),
            })
            .collect(),
    })
}
