//! Maintenance of a cell's database: what needs it, and how one statement of it is carried out without standing in
//! anybody's way. What is done in which order is `workflows/maintain_cell.rs`.
//!
//! Never as the mover's role, whose sessions a move has to be sure of, and never a lock that a neighbour queues behind: no
//! statement here waits for one for longer than [`LOCK_WAIT`], and one that somebody waits for is given up at once. Postgres does
//! that for its own autovacuum only.

use crate::{
    App, Change, ControlError, Permit, Read, ReleaseError, audited,
    cell_access::{connect, endpoint, failed},
    cells,
    operations::{self, Begun},
    tenants, views,
    workflows::{MAINTAIN_CELL, MaintainCell},
};
use berth_domain::{CellState, MoveId};
use berth_infra::Role;
use berth_mover::Side;
use berth_store::Cell;
use berth_wire as wire;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio_postgres::{CancelToken, Client, error::SqlState};

const LOCK_WAIT: &str = "2s";
/// How often it is looked whether somebody waits.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A tenth of a table that is dead, or that changed since it was looked at, is worth a pass over it.
const SHARE_PERCENT: i64 = 10;
const ROWS_LEAST: i64 = 1_000;
/// An index of which half is air costs twice the reads.
const AIR_PERCENT: i64 = 50;
const INDEX_BYTES_LEAST: i64 = 1 << 20;
/// Fewer pages a second than a neighbour would notice: Postgres rests for 2 ms after so much work.
const THROTTLE: &str = "set vacuum_cost_delay = '2ms'; set vacuum_cost_limit = 200";

/// A session whose server has died or was taken from its work ends within a second, as the mover's do.
const LOOKED_AFTER: &str = "set client_connection_check_interval = '1s'";

/// What a step of maintenance is about. Names are quoted for SQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Work {
    pub what: What,
    /// The table, or the index.
    pub name: String,
    /// For people, and the table of an index.
    pub table: String,
    pub rows: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Vacuum,
    Reindex,
    /// What a rebuild left that broke off.
    DropIndex,
}

impl Work {
    fn statement(&self) -> String {
        let name = &self.name;
        match self.what {
            // Giving the end of a file back takes a lock that readers queue behind.
            What::Vacuum => format!("vacuum (analyze, truncate false) {name}"),
            What::Reindex => format!("reindex index concurrently {name}"),
            What::DropIndex => format!("drop index concurrently if exists {name}"),
        }
    }

    pub(crate) fn said(&self) -> String {
        match self.what {
            What::Vacuum => format!("vacuum {}", self.table),
            What::Reindex => format!("build {} anew", self.name),
            What::DropIndex => format!("drop {}", self.name),
        }
    }
}

/// How a statement ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    /// `None`: it was done.
    pub left: Option<String>,
    pub freed_bytes: i64,
}

pub async fn plan(
    app: &App,
    _permit: &Permit<Read>,
    who: &str,
    _ask: wire::MaintainAsk,
) -> Result<wire::MaintainPlan, ControlError> {
    let cell = cells::known(app, who).await?;
    let client = connect(&cell.name, &app.cell_database(&cell).await?, Role::Owner).await?;
    let seen = look(&cell, &client).await?;
    Ok(wire::MaintainPlan {
        tables: seen.tables.into_iter().map(|it| it.shown).collect(),
        indexes: seen.indexes.into_iter().map(|it| it.shown).collect(),
        left_out: seen.left_out,
        slots: slots(app, &cell, &client).await?,
        fences: fences(app, &cell).await?,
        cell: cell.name,
    })
}

/// Begins it, as an operation. Asked for again while it is at it, it is the same one.
pub async fn start(
    app: &App,
    permit: &Permit<Change>,
    who: &str,
    ask: wire::MaintainAsk,
) -> Result<wire::Operation, ControlError> {
    app.writable().await?;
    let cell = cells::known(app, who).await?;
    if !matches!(cell.state, CellState::Ready | CellState::Draining) {
        return Err(ControlError::CellState { cell: cell.name, state: cell.state });
    }
    let mut tx = app.store().begin().await?;
    tx.cell_lock(cell.id).await?;
    let about = operations::about_cell(&cell.name);
    if let Some(open) = tx.operation_about(MAINTAIN_CELL.name(), &about).await? {
        drop(tx);
        let open = operations::known(app, open).await?;
        let does = open.input.get("reindex").and_then(serde_json::Value::as_bool) == Some(true);
        if ask.reindex && !does {
            return Err(ReleaseError::Maintained { cell: cell.name, operation: open.id }.into());
        }
        return Ok(views::operation(open, Vec::new()));
    }
    let input = MaintainCell { cell: cell.id, reindex: ask.reindex, asked_by: permit.caller().name.clone() };
    let operation = MAINTAIN_CELL.with(tenants::fresh(), &input).about(about);
    let started = operations::start(app, &mut tx, operation, Begun::Nothing).await?;
    let after = json!({ "reindex": ask.reindex, "operation": started.id });
    audited(&mut tx, permit, "database.maintain", &format!("cell/{}", cell.name), None, Some(after)).await?;
    tx.commit().await?;
    Ok(views::operation(started, Vec::new()))
}

struct Found<T> {
    work: Work,
    shown: T,
}

struct Seen {
    tables: Vec<Found<wire::MaintainTable>>,
    indexes: Vec<Found<wire::MaintainIndex>>,
    left_out: Vec<String>,
}

/// What needs it in this database, as statements.
pub(crate) async fn works(app: &App, cell: &Cell, reindex: bool) -> Result<Vec<Work>, ControlError> {
    let client = connect(&cell.name, &app.cell_database(cell).await?, Role::Owner).await?;
    let seen = look(cell, &client).await?;
    if reindex {
        return Ok(seen.indexes.into_iter().map(|it| it.work).collect());
    }
    Ok(seen.tables.into_iter().map(|it| it.work).collect())
}

fn whole(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

async fn look(cell: &Cell, client: &Client) -> Result<Seen, ControlError> {
    let asked = failed(&cell.name);
    let rows = client
        .query(
            "SELECT format('%I.%I', s.schemaname, s.relname),
                    CASE s.schemaname WHEN 'public' THEN '' ELSE s.schemaname || '.' END || s.relname,
                    pg_total_relation_size(s.relid), n_live_tup, n_dead_tup, n_mod_since_analyze,
                    last_analyze IS NULL AND last_autoanalyze IS NULL, pg_has_role(c.relowner, 'USAGE')
             FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid
             WHERE s.schemaname NOT IN ('berth', 'berth_control') AND c.relkind IN ('r', 'm')
             ORDER BY s.n_dead_tup DESC, 3 DESC, 1",
            &[],
        )
        .await
        .map_err(&asked)?;
    let (mut tables, mut left_out) = (Vec::new(), Vec::new());
    for row in rows {
        let (live, dead, changed): (i64, i64, i64) = (row.get(3), row.get(4), row.get(5));
        let Some(why) = why(live, dead, changed, row.get(6)) else { continue };
        let table: String = row.get(1);
        if !row.get::<_, bool>(7) {
            left_out.push(format!("{table}: the cell's owner does not own it"));
            continue;
        }
        let (bytes, rows) = (whole(row.get(2)), whole(live));
        tables.push(Found {
            work: Work { what: What::Vacuum, name: row.get(0), table: table.clone(), rows: live + dead },
            shown: wire::MaintainTable { table, bytes, rows, dead_rows: whole(dead), why },
        });
    }
    Ok(Seen { tables, indexes: indexes(cell, client).await?, left_out })
}

fn why(live: i64, dead: i64, changed: i64, never: bool) -> Option<String> {
    let share = |part: i64, of: i64| part >= ROWS_LEAST && part * 100 >= SHARE_PERCENT * of.max(1);
    if share(dead, live + dead) {
        return Some(format!("{} % of its rows are dead", dead * 100 / (live + dead).max(1)));
    }
    if never && live >= ROWS_LEAST {
        return Some("the planner has never looked at it".to_owned());
    }
    share(changed, live).then(|| format!("{changed} rows changed since the planner looked at it"))
}

/// By what their rows would take: the width of a column as the planner knows it, in pages that are nine tenths full.
async fn indexes(cell: &Cell, client: &Client) -> Result<Vec<Found<wire::MaintainIndex>>, ControlError> {
    let rows = client
        .query(
            "SELECT format('%I.%I', n.nspname, i.relname), format('%I.%I', n.nspname, t.relname),
                    pg_relation_size(i.oid), i.reltuples::float8, i.relpages::bigint, x.indisvalid, i.relname::text,
                    (SELECT sum(s.avg_width)::bigint FROM unnest(x.indkey::int2[]) k
                       JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k
                       JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = t.relname AND s.attname = a.attname)
             FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
                  JOIN pg_namespace n ON n.oid = i.relnamespace JOIN pg_am m ON m.oid = i.relam
             WHERE m.amname = 'btree' AND i.relkind = 'i' AND i.relpersistence = 'p' AND NOT x.indisexclusion
               AND NOT 0 = ANY (x.indkey::int2[]) AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'berth', 'berth_control')
               AND n.nspname <> 'information_schema' AND pg_has_role(t.relowner, 'USAGE')
             ORDER BY 3 DESC, 1",
            &[],
        )
        .await
        .map_err(failed(&cell.name))?;
    let mut found = Vec::new();
    for row in rows {
        let (bytes, valid): (i64, bool) = (row.get(2), row.get(5));
        let (index, table): (String, String) = (row.get(0), row.get(1));
        let (what, why) = if valid {
            let (rows, pages, width): (f64, i64, Option<i64>) = (row.get(3), row.get(4), row.get(7));
            let Some(percent) = air_percent(rows, pages, width) else { continue };
            if bytes < INDEX_BYTES_LEAST || percent < AIR_PERCENT {
                continue;
            }
            (What::Reindex, format!("{percent} % of it is air"))
        } else if is_left_over(&row.get::<_, String>(6)) {
            (What::DropIndex, "left over by a rebuild that broke off".to_owned())
        } else {
            continue;
        };
        let work = Work { what, name: index.clone(), table: table.clone(), rows: 0 };
        found.push(Found { work, shown: wire::MaintainIndex { index, table, bytes: whole(bytes), why } });
    }
    Ok(found)
}

/// As Postgres calls them: `…_ccnew`, `…_ccold2`.
fn is_left_over(index: &str) -> bool {
    let name = index.trim_end_matches(|c: char| c.is_ascii_digit());
    name.ends_with("_ccnew") || name.ends_with("_ccold")
}

/// `None`: nobody has looked at it yet.
fn air_percent(rows: f64, pages: i64, width: Option<i64>) -> Option<i64> {
    let width = width.filter(|_| rows >= 0.0 && pages > 0)?;
    // A row's head and its place in the page; then values, aligned.
    let row = 12 + width.div_euclid(8) * 8 + 8 * i64::from(width % 8 != 0);
    let needed = (rows * row as f64 / (8168.0 * 0.9)).ceil() as i64 + 2;
    Some(((pages - needed).max(0)) * 100 / pages)
}

/// One statement. Given up when somebody waits for it, when its own lock does not come, or when the operation is given up.
pub(crate) async fn gently(
    app: &App,
    cell: &Cell,
    work: &Work,
    cancelled: impl Fn() -> bool,
    progress: impl Fn(f64),
) -> Result<Ended, ControlError> {
    let asked = failed(&cell.name);
    let database = app.cell_database(cell).await?;
    let (at_work, looking) =
        (connect(&cell.name, &database, Role::Owner).await?, connect(&cell.name, &database, Role::Owner).await?);
    at_work
        .batch_execute(&format!(
            "set lock_timeout = '{LOCK_WAIT}'; set statement_timeout = 0; {THROTTLE}; {LOOKED_AFTER}"
        ))
        .await
        .map_err(&asked)?;
    let pid: i32 = at_work.query_one("select pg_backend_pid()", &[]).await.map_err(&asked)?.get(0);
    let before = size(&looking, &work.name).await.map_err(&asked)?;
    let stop = Stopping { token: at_work.cancel_token(), tls: database.tls.clone() };
    let statement = work.statement();
    let mut left = None;
    let outcome = {
        let running = at_work.batch_execute(&statement);
        tokio::pin!(running);
        loop {
            tokio::select! {
                outcome = &mut running => break outcome,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if left.is_none() {
                let waiting = waiting(&looking, pid).await.map_err(&asked)?;
                left = match (waiting, cancelled()) {
                    (true, _) => Some("somebody waited for the table"),
                    (false, true) => Some("it was given up"),
                    (false, false) => None,
                };
            }
            if left.is_some() {
                // Again at the next look, should it be lost.
                let _ = berth_pg::cancel(&stop.token, stop.tls.as_ref()).await;
            } else if let Some(done) = scanned(&looking, pid).await.map_err(&asked)? {
                progress(done);
            }
        }
    };
    let left = match outcome {
        Ok(()) => None,
        Err(error) => match error.code() {
            Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => {
                Some("others did not let go of the table in time".to_owned())
            }
            Some(code) if *code == SqlState::QUERY_CANCELED => Some(left.unwrap_or("somebody stopped it").to_owned()),
            // It was dropped meanwhile.
            Some(code) if *code == SqlState::UNDEFINED_TABLE || *code == SqlState::UNDEFINED_OBJECT => None,
            // This table or index cannot be done, and the others can.
            Some(code) if !is_the_servers(code) => Some(said(&error)),
            _ => return Err(asked(error)),
        },
    };
    let left = match left {
        Some(why) if work.what == What::Reindex => {
            let kept = tidy(&looking, work).await.map_err(&asked)?;
            Some(if kept.is_empty() { why } else { format!("{why}; not dropped yet: {}", kept.join(", ")) })
        }
        left => left,
    };
    let after = size(&looking, &work.name).await.map_err(&asked)?;
    Ok(Ended { left, freed_bytes: (before - after).max(0) })
}

/// Cancels what its session is at when nobody looks any more whether somebody waits.
struct Stopping {
    token: CancelToken,
    tls: Option<berth_pg::Tls>,
}

impl Drop for Stopping {
    fn drop(&mut self) {
        let (token, tls) = (self.token.clone(), self.tls.take());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // Where nothing runs any more, nothing happens.
            runtime.spawn(async move { berth_pg::cancel(&token, tls.as_ref()).await.ok() });
        }
    }
}

/// Connections, resources, and an operator at work: the next statement would fail the same way.
fn is_the_servers(code: &SqlState) -> bool {
    ["08", "53", "57", "58"].iter().any(|class| code.code().starts_with(class))
}

fn said(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// Drops what a rebuild leaves that was stopped, and names what did not get its lock either: the next look finds it again.
async fn tidy(client: &Client, work: &Work) -> Result<Vec<String>, tokio_postgres::Error> {
    client.batch_execute(&format!("set lock_timeout = '{LOCK_WAIT}'")).await?;
    let rows = client
        .query(
            "SELECT format('%I.%I', n.nspname, i.relname), i.relname::text FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
             JOIN pg_namespace n ON n.oid = i.relnamespace WHERE NOT x.indisvalid AND x.indrelid = to_regclass($1)",
            &[&work.table],
        )
        .await?;
    let mut kept = Vec::new();
    for row in rows.iter().filter(|row| is_left_over(&row.get::<_, String>(1))) {
        let name: String = row.get(0);
        if client.batch_execute(&format!("drop index concurrently if exists {name}")).await.is_err() {
            kept.push(name);
        }
    }
    Ok(kept)
}

async fn size(client: &Client, name: &str) -> Result<i64, tokio_postgres::Error> {
    let sql = "select coalesce(pg_total_relation_size(to_regclass($1)), 0)";
    Ok(client.query_one(sql, &[&name]).await?.get(0))
}

/// Whether a session of this database waits for a lock of ours.
async fn waiting(client: &Client, pid: i32) -> Result<bool, tokio_postgres::Error> {
    let sql = "select exists (select from pg_stat_activity where datname = current_database() and pid <> $1
                              and $1 = any (pg_blocking_pids(pid)))";
    Ok(client.query_one(sql, &[&pid]).await?.get(0))
}

/// How much of the table a vacuum has seen.
async fn scanned(client: &Client, pid: i32) -> Result<Option<f64>, tokio_postgres::Error> {
    let sql =
        "select heap_blks_scanned::float8 / nullif(heap_blks_total, 0) from pg_stat_progress_vacuum where pid = $1";
    Ok(client.query_opt(sql, &[&pid]).await?.and_then(|row| row.get(0)))
}

/// As the mover names them, by the random end of a move's id.
fn slots_of(id: MoveId) -> [String; 2] {
    let hex = id.uuid().simple().to_string();
    let short = &hex[12..];
    [format!("berth_{short}"), format!("berth_{short}_back")]
}

async fn slots(app: &App, cell: &Cell, client: &Client) -> Result<Vec<wire::MaintainSlot>, ControlError> {
    let rows = client
        .query(
            "SELECT slot_name::text, pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                                                     ELSE pg_current_wal_lsn() END, restart_lsn)::bigint
             FROM pg_replication_slots WHERE NOT active AND NOT temporary
               AND (database IS NULL OR database = current_database()) ORDER BY 2 DESC NULLS LAST, 1",
            &[],
        )
        .await
        .map_err(failed(&cell.name))?;
    let mut needed: BTreeMap<String, String> = BTreeMap::new();
    let (over, under_way): (Vec<_>, Vec<_>) =
        app.store().move_list(None, i64::MAX).await?.into_iter().partition(|it| it.ended_at.is_some());
    let over: BTreeSet<String> = over.iter().flat_map(|it| slots_of(it.id)).collect();
    for known in under_way {
        needed.extend(slots_of(known.id).map(|slot| (slot, format!("tenant `{}` is moving", known.tenant_name))));
    }
    for way in app.store().ways_back_unfinished(None).await? {
        let why = format!("a move can be undone until {}", way.until.strftime("%Y-%m-%d %H:%M UTC"));
        needed.extend(slots_of(way.id).map(|slot| (slot, why.clone())));
    }
    let shown = rows.into_iter().map(|row| {
        let slot: String = row.get(0);
        let bytes = row.get::<_, Option<i64>>(1).map(whole);
        let drop = || Some(format!("select pg_drop_replication_slot('{slot}')"));
        let (why, remedy) = match needed.get(&slot) {
            Some(why) => (format!("{why}; its reader comes back by itself"), None),
            None if over.contains(&slot) => ("left over by a move that is over".to_owned(), drop()),
            None => ("no reader at this moment, and no move of this control plane: ask whose it is".to_owned(), None),
        };
        wire::MaintainSlot { bytes, why, remedy, slot }
    });
    Ok(shown.collect())
}

async fn fences(app: &App, cell: &Cell) -> Result<Vec<wire::MaintainFence>, ControlError> {
    let database = app.cell_database(cell).await?;
    let fences = berth_mover::fences(&endpoint(&database), Side::Source).await?;
    let (by_key, ways) = (app.store().tenant_ids_by_key().await?, app.store().ways_back_unfinished(None).await?);
    let moving = app.store().move_list(None, i64::MAX).await?;
    let placed = app.store().placement_list().await?;
    let mut old = Vec::new();
    for (key, ..) in fences {
        let Some((id, name)) = by_key.get(&key) else {
            old.push(wire::MaintainFence { why: "no tenant has this key".to_owned(), key });
            continue;
        };
        let here = placed.iter().any(|it| it.tenant == *id && it.control.owner == cell.id);
        let kept = ways.iter().any(|way| way.tenant == *id && (way.old_cell == cell.id || way.new_cell == cell.id));
        let under_way = moving.iter().any(|it| it.tenant == *id && it.ended_at.is_none());
        if !here && !kept && !under_way {
            old.push(wire::MaintainFence {
                why: format!("tenant `{name}` lives elsewhere and cannot come back by undo"),
                key,
            });
        }
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::{air_percent, is_left_over, why};

    #[test]
    fn a_table_needs_it_for_its_dead_rows_first() {
        assert_eq!(why(90_000, 10_000, 0, false).as_deref(), Some("10 % of its rows are dead"));
        assert_eq!(why(91_000, 9_000, 0, false), None);
        assert_eq!(why(100, 900, 0, false), None, "small enough to be read whole");
        assert_eq!(why(5_000, 0, 0, true).as_deref(), Some("the planner has never looked at it"));
        assert_eq!(why(10_000, 0, 2_000, false).as_deref(), Some("2000 rows changed since the planner looked at it"));
    }

    #[test]
    fn air_is_what_the_rows_would_not_need() {
        // A million integers: 20 bytes a row.
        assert!(air_percent(1e6, 2_745, Some(4)).unwrap() < 5);
        assert!(air_percent(1e5, 2_745, Some(4)).unwrap() > 85);
        assert_eq!(air_percent(-1.0, 2_745, Some(4)), None);
    }

    #[test]
    fn what_a_rebuild_left_is_known_by_its_name() {
        assert!(is_left_over("orders_pkey_ccnew") && is_left_over("orders_pkey_ccold2"));
        assert!(!is_left_over("orders_pkey"));
    }
}
