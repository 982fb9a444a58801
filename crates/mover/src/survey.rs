//! Looks at both databases before a move: the plan, or everything that stands in its way at once. Changes nothing.

use crate::catalog::{Catalogue, Column, Table, catalogue, fingerprint};
use crate::closure::{Closure, closure};
use crate::sql::{Doing, connect, ident, idents};
use crate::{
    DataRules, Endpoint, InnerReference, MoveError, MovePlan, MoveSpec, Obstacle, PlannedSequence, PlannedTable,
    SharedTable, Side, TableName, Unsure, beside, price::price, retention, rules, shared, sides, taken,
};
use tokio_postgres::Client;

/// Rows a second that a move of fleet rows reached on two cores (`scripts/bench moves`); only for the estimate.
const ESTIMATED_ROWS_PER_S: f64 = 60_000.0;

/// Connections that a move makes in each of its servers at the same time, at most.
const CONNECTIONS: i64 = 12;

/// What belongs to a tenant of a database, whichever tenant it is.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Discovery {
    /// Parents before those that belong to a tenant through them. Without figures.
    pub tables: Vec<PlannedTable>,
    pub shared: Vec<SharedTable>,
    pub unsure: Vec<Unsure>,
    pub obstacles: Vec<Obstacle>,
}

/// Reads the closure from the catalogue alone: no row is looked at.
pub async fn discover(endpoint: &Endpoint, rules: &DataRules) -> Result<Discovery, MoveError> {
    let client = connect(endpoint, Side::Source, "berth-discover").await?;
    let mut obstacles = Vec::new();
    let found = closure(rules, &catalogue(&client, Side::Source).await?, &mut obstacles);
    Ok(Discovery { tables: found.tables, shared: found.shared, unsure: found.unsure, obstacles })
}

/// Makes the plan, or says everything that stands in the way at once.
pub async fn plan(spec: &MoveSpec) -> Result<MovePlan, MoveError> {
    let session = format!("{}plan", spec.session_prefix());
    let source = connect(&spec.source, Side::Source, &session).await?;
    let mut target = connect(&spec.target, Side::Target, &session).await?;
    let mut obstacles = Vec::new();
    servers(spec, &source, &target, &mut obstacles).await?;
    let ours = catalogue(&source, Side::Source).await?;
    let theirs = catalogue(&target, Side::Target).await?;
    let Closure { tables, shared, unsure, inner } = closure(&spec.rules, &ours, &mut obstacles);
    for name in tables.iter().map(|t| &t.table).chain(shared.iter().map(|t| &t.table)) {
        if let Some((_, table)) = ours.find(name) {
            compare_shapes(table, &theirs, &mut obstacles);
        }
    }
    let mut plan = MovePlan {
        tables,
        shared,
        inner,
        unsure,
        notes: sides::differences(&source, &target, &mut obstacles).await?,
        neighbours: Vec::new(),
        beside: Vec::new(),
        sequences: Vec::new(),
        rows: 0,
        bytes: 0,
        fingerprint: String::new(),
        estimated_s: 0.0,
    };
    rules::compare(&plan, &source, &target, &theirs, &mut obstacles).await?;
    retention::plan(spec, &mut plan, &mut obstacles);
    plan.beside = Box::pin(beside::plan(spec, &mut obstacles)).await?;
    // The root first, and alone: without it the other questions have no answer.
    let known = match plan.tables.first() {
        Some(_) => measure(spec, &mut plan, 0..1, &source, &target, &theirs, &mut obstacles).await?,
        None => false,
    };
    if known {
        let all = 1..plan.tables.len();
        if obstacles.is_empty() {
            let (second, by_now) = (connect(&spec.source, Side::Source, &session).await?, plan.clone());
            let mut found = Vec::new();
            tokio::try_join!(
                measure(spec, &mut plan, all, &source, &target, &theirs, &mut obstacles),
                strays(spec, &by_now, &second, &mut found)
            )?;
            obstacles.append(&mut found);
        } else {
            measure(spec, &mut plan, all, &source, &target, &theirs, &mut obstacles).await?;
        }
    }
    if let Some(root) = plan.tables.iter().find(|t| t.table == spec.rules.root)
        && root.rows == 0
    {
        obstacles.push(Obstacle::NoTenant { table: root.table.clone(), key: spec.tenant.to_string() });
    }
    if obstacles.is_empty() {
        beside::must_be_told_apart(&source, Side::Source, &spec.rules, &spec.beside, &mut obstacles).await?;
        beside::must_be_told_apart(&target, Side::Target, &spec.rules, &spec.beside, &mut obstacles).await?;
    }
    plan.rows = plan.tables.iter().map(|t| t.rows).sum();
    plan.bytes = plan.tables.iter().map(|t| t.bytes).sum();
    plan.estimated_s = 1.0 + plan.rows as f64 / ESTIMATED_ROWS_PER_S;
    if let Some(free) = spec.target_free_bytes {
        // Rows and indexes, and as much again for the sorts that build the indexes.
        let needed = u64::try_from(plan.bytes).unwrap_or(0).saturating_mul(2).saturating_add(64 << 20);
        if free < needed {
            obstacles.push(Obstacle::Disk { free_mb: free >> 20, needed_mb: needed >> 20 });
        }
    }
    if obstacles.is_empty() {
        shared::measure(spec, &mut plan, &source, &target, &mut obstacles).await?;
        taken::keys(spec, &plan, &source, &mut target, &mut obstacles).await?;
        taken::left_out(spec, &plan, &source, &mut target, &mut obstacles).await?;
    }
    if !obstacles.is_empty() {
        return Err(MoveError::Obstacles(obstacles));
    }
    retention::measure(spec, &mut plan, &source).await?;
    plan.notes.append(&mut rules::notes(&plan, &source, &target, &ours).await?);
    plan.neighbours = price(spec, &plan, &source, &target).await?;
    plan.sequences = sequences(&source, &plan.tables).await?;
    plan.fingerprint = fingerprint(&source, Side::Source, &plan.tables).await?;
    Ok(plan)
}

pub(crate) async fn servers(
    spec: &MoveSpec,
    source: &Client,
    target: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    let facts = source
        .query_one(
            "select current_setting('wal_level'), pg_is_in_recovery(),
                    (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::bigint,
                    (select count(*) from pg_stat_replication), current_setting('max_wal_senders')::bigint,
                    (select system_identifier::text from pg_control_system()), current_database()::text,
                    (select rolsuper from pg_roles where rolname = session_user), session_user::text,
                    pg_postmaster_start_time()::text, current_setting('data_directory')",
            &[],
        )
        .await
        .doing(Side::Source, "looking at the server")?;
    let wal_level: String = facts.get(0);
    if wal_level != "logical" {
        obstacles.push(Obstacle::WalLevel { side: Side::Source, found: wal_level });
    }
    if facts.get(1) {
        obstacles.push(Obstacle::Standby { side: Side::Source });
    }
    // A slot of this very move, left by an earlier try, is used again.
    for (what, used, most) in [
        ("replication slots", facts.get::<_, i64>(2), facts.get::<_, i64>(3)),
        ("WAL senders", facts.get(4), facts.get(5)),
    ] {
        if used >= most {
            obstacles.push(Obstacle::NoFree { side: Side::Source, what: what.into(), used, most });
        }
    }
    for (client, side) in [(source, Side::Source), (target, Side::Target)] {
        let sql =
            "select count(*) filter (where backend_type = 'client backend'), current_setting('max_connections')::bigint
                   from pg_stat_activity";
        let row = client.query_one(sql, &[]).await.doing(side, "counting connections")?;
        let (used, most): (i64, i64) = (row.get(0), row.get(1));
        if used + CONNECTIONS > most {
            obstacles.push(Obstacle::NoFree { side, what: format!("{CONNECTIONS} connections"), used, most });
        }
    }
    if !facts.get::<_, bool>(8) {
        obstacles.push(Obstacle::Rights { side: Side::Source, role: facts.get(9), right: "SUPERUSER".into() });
    }
    let other = target
        .query_one(
            "select pg_is_in_recovery(), (select system_identifier::text from pg_control_system()), current_database()::text,
                    (select rolsuper from pg_roles where rolname = session_user), session_user::text,
                    pg_postmaster_start_time()::text, current_setting('data_directory'), current_setting('wal_level'),
                    (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::bigint",
            &[],
        )
        .await
        .doing(Side::Target, "looking at the server")?;
    if spec.way_back {
        let (found, used, most): (String, i64, i64) = (other.get(7), other.get(8), other.get(9));
        if found != "logical" {
            obstacles.push(Obstacle::WalLevel { side: Side::Target, found });
        }
        if used >= most {
            obstacles.push(Obstacle::NoFree { side: Side::Target, what: "replication slots".into(), used, most });
        }
    }
    if other.get(0) {
        obstacles.push(Obstacle::Standby { side: Side::Target });
    }
    if !other.get::<_, bool>(3) {
        obstacles.push(Obstacle::Rights { side: Side::Target, role: other.get(4), right: "SUPERUSER".into() });
    }
    for (client, side) in [(source, Side::Source), (target, Side::Target)] {
        // Startup options that are not in force were thrown away by somebody in between.
        let sql = "select current_setting('row_security') = 'off' and current_setting('extra_float_digits') = '3'";
        if !client.query_one(sql, &[]).await.doing(side, "looking at the session")?.get::<_, bool>(0) {
            obstacles.push(Obstacle::Pooler { side });
        }
    }
    for (client, side) in [(source, Side::Source), (target, Side::Target)] {
        // A write of such a session passes the fence, and would be lost after the last comparison.
        let sql = "select count(*), session_user::text from pg_stat_activity
                    where datname = current_database() and usename = session_user and backend_type = 'client backend'
                      and application_name not like 'berth%'";
        let row = client.query_one(sql, &[]).await.doing(side, "looking at who is connected")?;
        if row.get::<_, i64>(0) > 0 {
            obstacles.push(Obstacle::SharedLogin { side, sessions: row.get(0), role: row.get(1) });
        }
    }
    // Clusters made from one template share the system identifier; start time and directory tell them apart.
    let same = |a: usize, b: usize| facts.get::<_, String>(a) == other.get::<_, String>(b);
    if same(6, 1) && same(7, 2) && same(10, 5) && same(11, 6) {
        obstacles.push(Obstacle::SameDatabase);
    }
    Ok(())
}

fn compare_shapes(ours: &Table, theirs: &Catalogue, obstacles: &mut Vec<Obstacle>) {
    let Some((_, other)) = theirs.find(&ours.name) else {
        obstacles.push(Obstacle::NoTable { side: Side::Target, table: ours.name.clone() });
        return;
    };
    let mut differs = |difference: String| {
        obstacles.push(Obstacle::SchemaDiffers { table: ours.name.clone(), difference });
    };
    for column in &ours.columns {
        match other.columns.iter().find(|c| c.name == column.name) {
            None => differs(format!("the target lacks column `{}`", column.name)),
            Some(c) if c.type_name != column.type_name => {
                differs(format!("column `{}` is {} here and {} there", column.name, column.type_name, c.type_name));
            }
            Some(c) if c.collation != column.collation => {
                let name = |c: &Column| c.collation.clone().unwrap_or_else(|| "the database's collation".into());
                differs(format!("column `{}` is sorted by {} here and {} there", column.name, name(column), name(c)));
            }
            Some(c) if c.not_null != column.not_null || c.generated != column.generated => {
                differs(format!("column `{}` has other rules there", column.name));
            }
            Some(_) => {}
        }
    }
    for column in &other.columns {
        if !ours.columns.iter().any(|c| c.name == column.name) {
            differs(format!("the source lacks column `{}`", column.name));
        }
    }
    if ours.key != other.key {
        differs("the keys are not the same".into());
    }
    if let Some(trigger) = &other.always_trigger {
        obstacles.push(Obstacle::AlwaysTrigger { table: ours.name.clone(), trigger: trigger.clone() });
    }
}

/// Counts the tenant's rows of some of the tables on both sides. False when there is no such tenant.
async fn measure(
    spec: &MoveSpec,
    plan: &mut MovePlan,
    which: std::ops::Range<usize>,
    source: &Client,
    target: &Client,
    theirs: &Catalogue,
    obstacles: &mut Vec<Obstacle>,
) -> Result<bool, MoveError> {
    for nth in which {
        let table = &plan.tables[nth];
        if table.tenant_column.is_none() && table.through.is_empty() {
            // Nothing says which of its rows are the tenant's, which is an obstacle by now.
            continue;
        }
        let filter = plan.filter(table, &spec.tenant);
        let count =
            format!("select count(*) from {} where {}", table.table.sql(), plan.travelling(table, &spec.tenant));
        let whole = format!("select count(*) from {} where {filter}", table.table.sql());
        let rows: i64 = match source.query_one(&count, &[]).await {
            Ok(row) => row.get(0),
            Err(error) if is_bad_key(&error) => {
                obstacles.push(Obstacle::NoTenant { table: spec.rules.root.clone(), key: spec.tenant.to_string() });
                return Ok(false);
            }
            Err(error) => return Err(error).doing(Side::Source, "counting the tenant's rows"),
        };
        if table.table == spec.rules.root {
            let text =
                format!("select {}::text from {} where {filter}", ident(&spec.rules.key_column), table.table.sql());
            if let Some(row) = source.query_opt(&text, &[]).await.doing(Side::Source, "reading the tenant's key")? {
                let stored: String = row.get(0);
                if stored != spec.tenant.as_str() {
                    obstacles.push(Obstacle::KeyForm { given: spec.tenant.to_string(), stored });
                }
            }
        }
        if theirs.find(&table.table).is_some() {
            let there: i64 = match target.query_one(&whole, &[]).await {
                Ok(row) => row.get(0),
                // A column that differs has been reported by `compare_shapes`.
                Err(_) => 0,
            };
            if there > 0 {
                obstacles.push(Obstacle::RowsInTarget { table: table.table.clone(), rows: there });
            }
        }
        let table = &mut plan.tables[nth];
        table.rows = rows;
        table.bytes *= rows;
    }
    Ok(true)
}

/// Rows of the tenant that refer to rows that are not the tenant's: they would arrive without them. Where no column says
/// whose a row is, also the other way round: such rows would stay behind and go with what they refer to.
async fn strays(
    spec: &MoveSpec,
    plan: &MovePlan,
    source: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    for reference in &plan.inner {
        let Some(child) = plan.table(&reference.table) else { continue };
        let mut ways = vec![Stray::Ours];
        ways.extend((!child.through.is_empty()).then_some(Stray::Others));
        for way in ways {
            let rows = count_strays(spec, plan, reference, way, source, Side::Source).await?;
            if rows > 0 {
                let (table, columns) = (reference.table.clone(), reference.columns.join(", "));
                let to = reference.to.clone();
                obstacles.push(match way {
                    Stray::Ours => Obstacle::TwoTenants { table, columns, to, rows },
                    Stray::Others => Obstacle::OthersRefer { table, columns, to, rows },
                });
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stray {
    /// The tenant's rows that refer to others'.
    Ours,
    /// Others' rows that refer to the tenant's.
    Others,
}

pub(crate) async fn count_strays(
    spec: &MoveSpec,
    plan: &MovePlan,
    reference: &InnerReference,
    way: Stray,
    client: &Client,
    side: Side,
) -> Result<i64, MoveError> {
    let (Some(child), Some(parent)) = (plan.table(&reference.table), plan.table(&reference.to)) else { return Ok(0) };
    let same = reference.to_columns.iter().zip(&reference.columns);
    let same: Vec<String> = same.map(|(k, c)| format!("p.{} = c.{}", ident(k), ident(c))).collect();
    let (is_ours, is_there) = match way {
        Stray::Ours => ("is true", "not exists"),
        Stray::Others => ("is not true", "exists"),
    };
    let sql = format!(
        "select count(*) from {} c where ({}) {is_ours} and ({}) is not null and {is_there} (select from {} p where {} and {})",
        child.table.sql(),
        plan.filter(child, &spec.tenant),
        idents(&reference.columns),
        parent.table.sql(),
        same.join(" and "),
        plan.filter(parent, &spec.tenant)
    );
    Ok(client.query_one(&sql, &[]).await.doing(side, "looking for rows of two tenants")?.get(0))
}

/// The key's text is no value of the key's type: no such tenant can exist.
fn is_bad_key(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| code.code().starts_with("22"))
}

pub(crate) async fn sequences(source: &Client, tables: &[PlannedTable]) -> Result<Vec<PlannedSequence>, MoveError> {
    let rows = source
        .query(
            "select sn.nspname::text, s.relname::text, tn.nspname::text, t.relname::text, a.attname::text
             from pg_depend d
             join pg_class s on s.oid = d.objid and s.relkind = 'S' join pg_namespace sn on sn.oid = s.relnamespace
             join pg_class t on t.oid = d.refobjid join pg_namespace tn on tn.oid = t.relnamespace
             join pg_attribute a on a.attrelid = t.oid and a.attnum = d.refobjsubid
             where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')",
            &[],
        )
        .await
        .doing(Side::Source, "reading the sequences")?;
    Ok(rows
        .into_iter()
        .map(|row| PlannedSequence {
            sequence: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            table: TableName::new(row.get::<_, String>(2), row.get::<_, String>(3)),
            column: row.get(4),
        })
        .filter(|s| tables.iter().any(|t| t.table == s.table))
        .collect())
}
