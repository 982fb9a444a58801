//! Looks at both databases before a move: the plan, or everything that stands in its way at once. Changes nothing.

use crate::catalog::{Catalogue, Column, Table, catalogue, fingerprint};
use crate::closure::{Closure, closure};
use crate::rights::{self, Part};
use crate::sql::{Doing, connect, connect_both, connect_to_look, ident, idents, is_postgres};
use crate::{
    DataRules, Endpoint, InnerReference, MoveError, MovePlan, MoveSpec, Obstacle, PlannedTable, SharedTable, Side,
    TableName, Unsure, beside, logins, numbered, outside, parts, price::price, retention, rules, shared, sides, taken,
};
use tokio_postgres::{Client, Row};

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

/// Reads the closure from the catalogue alone: no row is looked at, and its session is refused every write.
pub async fn discover(endpoint: &Endpoint, rules: &DataRules) -> Result<Discovery, MoveError> {
    let client = connect_to_look(endpoint, Side::Source, "berth-discover").await?;
    let mut obstacles = Vec::new();
    let catalogue = catalogue(&client, Side::Source).await?;
    let found = closure(rules, &catalogue, &mut obstacles);
    let names = found.tables.iter().map(|t| &t.table).chain(found.shared.iter().map(|t| &t.table));
    names.filter_map(|name| catalogue.find(name)).for_each(|(_, table)| parts::unfit(table, &mut obstacles));
    Ok(Discovery { tables: found.tables, shared: found.shared, unsure: found.unsure, obstacles })
}

/// Makes the plan, or says everything that stands in the way at once.
pub async fn plan(spec: &MoveSpec) -> Result<MovePlan, MoveError> {
    let session = format!("{}plan", spec.session_prefix());
    let (source, mut target) = connect_both(spec, &session).await?;
    let (mut obstacles, mut notes) = (Vec::new(), Vec::new());
    servers(spec, &source, &target, &mut obstacles, &mut notes).await?;
    if obstacles.iter().any(|it| matches!(it, Obstacle::NotPostgres { .. })) {
        return Err(MoveError::Obstacles(obstacles));
    }
    let ours = catalogue(&source, Side::Source).await?;
    let theirs = catalogue(&target, Side::Target).await?;
    let Closure { tables, shared, unsure, inner } = closure(&spec.rules, &ours, &mut obstacles);
    for name in tables.iter().map(|t| &t.table).chain(shared.iter().map(|t| &t.table)) {
        if let Some((_, table)) = ours.find(name) {
            parts::unfit(table, &mut obstacles);
            compare_shapes(spec, table, &theirs, &mut obstacles);
        }
    }
    let names: Vec<&TableName> = tables.iter().map(|t| &t.table).chain(shared.iter().map(|t| &t.table)).collect();
    obstacles.append(&mut rights::on_closure(spec, [&source, &target], spec.alone, &tables, &shared).await?);
    for (client, side) in [(&source, Side::Source), (&target, Side::Target)] {
        obstacles.append(&mut logins::members(client, side, &names, &mut notes).await?);
    }
    // What follows reads rows.
    if rights::are_lacking(&obstacles) {
        return Err(MoveError::Obstacles(obstacles));
    }
    notes.append(&mut sides::differences(&source, &target, &mut obstacles).await?);
    let mut plan = MovePlan {
        tables,
        shared,
        inner,
        unsure,
        notes,
        neighbours: Vec::new(),
        beside: Vec::new(),
        sequences: Vec::new(),
        rows: 0,
        bytes: 0,
        fingerprint: String::new(),
        estimated_s: 0.0,
    };
    rules::compare(&plan, &source, &target, &theirs, &mut obstacles).await?;
    crate::equality::of_keys(&plan, &source, &mut obstacles).await?;
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
    // Rows and indexes, and as much again for the sorts that build the indexes.
    let needed = u64::try_from(plan.bytes).unwrap_or(0).saturating_mul(2).saturating_add(64 << 20);
    match spec.target_free_bytes {
        Some(free) if free < needed => {
            obstacles.push(Obstacle::Disk { free_mb: free >> 20, needed_mb: needed >> 20 });
        }
        Some(_) => {}
        None => plan.notes.push(format!(
            "whether the target's disk has room was not looked at, because nobody says how much is free there: the move needs up to {} MB",
            needed >> 20
        )),
    }
    if obstacles.is_empty() {
        numbered::plan(&mut plan, &source, &target, &mut obstacles).await?;
    }
    if obstacles.is_empty() {
        shared::measure(spec, &mut plan, &source, &target, &mut obstacles).await?;
        outside::plan(spec, &plan, &source, &mut obstacles).await?;
        taken::keys(spec, &plan, &source, &mut target, &mut obstacles).await?;
        taken::left_out(spec, &plan, &source, &mut target, &mut obstacles).await?;
    }
    if !obstacles.is_empty() {
        return Err(MoveError::Obstacles(obstacles));
    }
    retention::measure(spec, &mut plan, &source).await?;
    plan.notes.append(&mut rules::notes(&plan, &source, &target, &ours).await?);
    plan.notes.extend(parts::upkeep(spec, &plan, &ours));
    plan.notes.append(&mut crate::bound::notes(spec, &source, &target).await?);
    plan.neighbours = price(spec, &plan, &source, &target).await?;
    plan.fingerprint = fingerprint(&source, Side::Source, &plan.tables).await?;
    Ok(plan)
}

pub(crate) async fn servers(
    spec: &MoveSpec,
    source: &Client,
    target: &Client,
    obstacles: &mut Vec<Obstacle>,
    notes: &mut Vec<String>,
) -> Result<(), MoveError> {
    for (client, side) in [(source, Side::Source), (target, Side::Target)] {
        let row = client.query_one("select version()", &[]).await.doing(side, "looking at the server")?;
        let version: String = row.get(0);
        if !is_postgres(&version) {
            obstacles.push(Obstacle::NotPostgres { side, version });
        }
    }
    // Of another one nothing that follows is known to be there.
    if !obstacles.is_empty() {
        return Ok(());
    }
    for (client, side) in [(source, Side::Source), (target, Side::Target)] {
        let is_source = side == Side::Source;
        let part = Part { takes_rows: !is_source || spec.way_back, tells_changes: is_source || spec.way_back };
        obstacles.append(&mut rights::lacks(client, side, part).await?);
    }
    let facts = source
        .query_one(
            "select current_setting('wal_level'), pg_is_in_recovery(),
                    (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::bigint,
                    (select count(*) from pg_stat_replication), current_setting('max_wal_senders')::bigint,
                    (select system_identifier::text from pg_control_system()), current_database()::text,
                    pg_postmaster_start_time()::text,
                    case when pg_has_role(session_user, 'pg_read_all_settings', 'usage') then current_setting('data_directory') end",
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
        // The last ones are kept for superusers, and since version 16 some for whom they are granted.
        let sql =
            "select count(*) filter (where coalesce(backend_type = 'client backend', datid is not null)), current_setting('max_connections')::bigint
                    - (select case when rolsuper then 0 else current_setting('superuser_reserved_connections')::bigint
                          + case when exists (select from pg_roles r where r.rolname = 'pg_use_reserved_connections' and pg_has_role(session_user, r.oid, 'usage'))
                                 then 0 else coalesce(current_setting('reserved_connections', true)::bigint, 0) end end
                       from pg_roles where rolname = session_user)
                   from pg_stat_activity";
        let row = client.query_one(sql, &[]).await.doing(side, "counting connections")?;
        let (used, most): (i64, i64) = (row.get(0), row.get(1));
        if used + CONNECTIONS > most {
            obstacles.push(Obstacle::NoFree { side, what: format!("{CONNECTIONS} connections"), used, most });
        }
    }
    let other = target
        .query_one(
            "select pg_is_in_recovery(), (select system_identifier::text from pg_control_system()), current_database()::text,
                    pg_postmaster_start_time()::text,
                    case when pg_has_role(session_user, 'pg_read_all_settings', 'usage') then current_setting('data_directory') end,
                    current_setting('wal_level'),
                    (select count(*) from pg_replication_slots), current_setting('max_replication_slots')::bigint,
                    (select count(*) from pg_stat_replication), current_setting('max_wal_senders')::bigint",
            &[],
        )
        .await
        .doing(Side::Target, "looking at the server")?;
    if spec.way_back {
        let found: String = other.get(5);
        if found != "logical" {
            obstacles.push(Obstacle::WalLevel { side: Side::Target, found });
        }
        for (what, used, most) in [
            ("replication slots", other.get::<_, i64>(6), other.get::<_, i64>(7)),
            ("WAL senders", other.get(8), other.get(9)),
        ] {
            if used >= most {
                obstacles.push(Obstacle::NoFree { side: Side::Target, what: what.into(), used, most });
            }
        }
    }
    if other.get(0) {
        obstacles.push(Obstacle::Standby { side: Side::Target });
    }
    for (client, side) in [(source, Side::Source), (target, Side::Target)] {
        // Startup options that are not in force were thrown away by somebody in between.
        let sql = "select current_setting('row_security') = 'off' and current_setting('extra_float_digits') = '3'";
        if !client.query_one(sql, &[]).await.doing(side, "looking at the session")?.get::<_, bool>(0) {
            obstacles.push(Obstacle::Pooler { side });
        }
    }
    for (client, side) in [(source, Side::Source), (target, Side::Target)] {
        obstacles.extend(logins::shared(client, side, notes).await?);
    }
    // Clusters made from one template share the system identifier; start time and directory tell them apart. The
    // directory is not for every login to see.
    let same = |a: usize, b: usize| facts.get::<_, String>(a) == other.get::<_, String>(b);
    let directory = |row: &Row, at: usize| row.get::<_, Option<String>>(at);
    let elsewhere = directory(&facts, 9).zip(directory(&other, 4)).is_some_and(|(a, b)| a != b);
    if same(6, 1) && same(7, 2) && same(8, 3) && !elsewhere {
        obstacles.push(Obstacle::SameDatabase);
    }
    Ok(())
}

/// What keeps these columns of a table from being laid beside those of its other side; the latter, where there is such a
/// table.
pub(crate) fn compare_columns<'a>(
    ours: &Table,
    columns: impl Iterator<Item = &'a Column>,
    theirs: &'a Catalogue,
    obstacles: &mut Vec<Obstacle>,
) -> Option<&'a Table> {
    let Some((_, other)) = theirs.find(&ours.name) else {
        obstacles.push(Obstacle::NoTable { side: Side::Target, table: ours.name.clone() });
        return None;
    };
    let mut differs = |difference: String| {
        obstacles.push(Obstacle::SchemaDiffers { table: ours.name.clone(), difference });
    };
    for column in columns {
        match other.column(&column.name) {
            None => differs(format!("the target lacks column `{}`", column.name)),
            Some(c) if c.type_name != column.type_name => {
                differs(format!("column `{}` is {} here and {} there", column.name, column.type_name, c.type_name));
            }
            Some(_) => {}
        }
    }
    Some(other)
}

fn compare_shapes(spec: &MoveSpec, ours: &Table, theirs: &Catalogue, obstacles: &mut Vec<Obstacle>) {
    let Some(other) = compare_columns(ours, ours.columns.iter(), theirs, obstacles) else { return };
    let mut differs = |difference: String| {
        obstacles.push(Obstacle::SchemaDiffers { table: ours.name.clone(), difference });
    };
    for column in &other.columns {
        if ours.column(&column.name).is_none() {
            differs(format!("the source lacks column `{}`", column.name));
        }
    }
    for column in &ours.columns {
        match other.column(&column.name) {
            Some(c) if c.type_name != column.type_name => {}
            Some(c) if c.collation != column.collation => {
                let name = |c: &Column| c.collation.clone().unwrap_or_else(|| "the database's collation".into());
                differs(format!("column `{}` is sorted by {} here and {} there", column.name, name(column), name(c)));
            }
            Some(c) if c.not_null != column.not_null || c.generated != column.generated => {
                differs(format!("column `{}` has other rules there", column.name));
            }
            Some(c) if c.identity != column.identity => {
                let kind = |c: &Column| match c.identity.as_str() {
                    "a" => "an identity always",
                    "d" => "an identity by default",
                    _ => "no identity",
                };
                differs(format!("column `{}` is {} here and {} there", column.name, kind(column), kind(c)));
            }
            Some(_) | None => {}
        }
    }
    if ours.key != other.key {
        differs("the keys are not the same".into());
    }
    if parts::is_unlogged(other) {
        differs("there it is unlogged, and a crash of the server empties it".into());
    } else if spec.way_back && !parts::can_be_followed(other) {
        differs("there it has no usable replica identity, without which there is no way back".into());
    }
    obstacles.extend(parts::fires(other));
    // On the way back the mover writes here.
    obstacles.extend(parts::fires(ours).filter(|it| spec.way_back && parts::fires(other).as_ref() != Some(it)));
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
