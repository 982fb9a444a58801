//! What a move without a control plane needs besides: the two sides compared as they stand, the end of both fences.

use crate::catalog::catalogue;
use crate::closure::closure;
use crate::compare::scan;
use crate::fence::{self, Fence};
use crate::rights::{self, Use};
use crate::sql::{Doing, connect, connect_both};
use crate::{Endpoint, MoveError, MovePlan, MoveSpec, Obstacle, Side, TableName, logins, numbered, survey};
use berth_domain::CellId;
use std::collections::HashMap;
use std::time::Duration;

/// One table of the tenant on both sides.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TableComparison {
    pub table: TableName,
    pub source_rows: u64,
    pub target_rows: u64,
    /// Rows that are not once on each side in the same text form.
    pub differing: u64,
}

/// Reads every row of the tenant on both sides as it is now. Follows nothing: beside writers it finds what they just
/// wrote to be different.
pub async fn compare(spec: &MoveSpec) -> Result<Vec<TableComparison>, MoveError> {
    let (source, target) = connect_both(spec, "berth-compare").await?;
    let mut obstacles = Vec::new();
    let ours = catalogue(&source, Side::Source).await?;
    let theirs = catalogue(&target, Side::Target).await?;
    let found = closure(&spec.rules, &ours, &mut obstacles);
    for (_, table) in found.tables.iter().filter_map(|t| ours.find(&t.table)) {
        // What the other side has besides, and what each computes for itself, is not laid beside anything.
        let columns = table.columns.iter().filter(|column| !column.generated);
        survey::compare_columns(table, columns, &theirs, &mut obstacles);
    }
    if !obstacles.is_empty() {
        return Err(MoveError::Obstacles(obstacles));
    }
    let plan = MovePlan { tables: found.tables, ..MovePlan::default() };
    let names: Vec<&TableName> = plan.tables.iter().map(|t| &t.table).collect();
    for (client, side) in [(&source, Side::Source), (&target, Side::Target)] {
        obstacles.append(&mut rights::on_tables(client, side, &names, Use::Reads).await?);
    }
    if !obstacles.is_empty() {
        return Err(MoveError::Obstacles(obstacles));
    }
    for (client, side) in [(&source, Side::Source), (&target, Side::Target)] {
        client
            .batch_execute("begin isolation level repeatable read read only")
            .await
            .doing(side, "taking a snapshot")?;
    }
    let mut compared = Vec::new();
    for table in &plan.tables {
        let sql = plan.hashes_sql(table, &spec.tenant);
        let (ours, theirs) =
            tokio::try_join!(scan(&source, Side::Source, &sql, &|_| {}), scan(&target, Side::Target, &sql, &|_| {}))?;
        let mut surplus: HashMap<_, i64> = HashMap::new();
        for pair in &ours {
            *surplus.entry(*pair).or_default() += 1;
        }
        for pair in &theirs {
            *surplus.entry(*pair).or_default() -= 1;
        }
        // A changed row is one pair too many on each side: it counts once.
        let (mut here, mut there) = (0_u64, 0_u64);
        for n in surplus.into_values() {
            if n > 0 {
                here += n.unsigned_abs();
            } else {
                there += n.unsigned_abs();
            }
        }
        compared.push(TableComparison {
            table: table.table.clone(),
            source_rows: ours.len() as u64,
            target_rows: theirs.len() as u64,
            differing: here.max(there),
        });
    }
    Ok(compared)
}

/// What the servers and the mover's roles lack for a move, whichever way it is made: of the tables that belong to a tenant,
/// or of any of the database where the rules find none.
pub async fn lacks(spec: &MoveSpec) -> Result<Vec<Obstacle>, MoveError> {
    let (source, target) = connect_both(spec, "berth-rights").await?;
    let mut obstacles = Vec::new();
    survey::servers(spec, &source, &target, &mut obstacles, &mut Vec::new()).await?;
    if obstacles.iter().any(|it| matches!(it, Obstacle::NotPostgres { .. })) {
        return Ok(obstacles);
    }
    let all = catalogue(&source, Side::Source).await?;
    let found = closure(&spec.rules, &all, &mut Vec::new());
    let is_known = !found.tables.is_empty();
    let names: Vec<&TableName> = if is_known {
        found.tables.iter().map(|t| &t.table).collect()
    } else {
        all.tables.values().map(|table| &table.name).collect()
    };
    if is_known {
        let clients = [&source, &target];
        obstacles.append(&mut rights::on_closure(spec, clients, true, &found.tables, &found.shared).await?);
    }
    obstacles.append(&mut rights::on_earlier(&source, Side::Source, "berth_control").await?);
    for (client, side, used) in [(&source, Side::Source, Use::Owns), (&target, Side::Target, Use::Rebuilds)] {
        if !is_known {
            obstacles.append(&mut rights::on_tables(client, side, &names, used).await?);
        }
        let mut sequences = numbered::every(client, side).await?;
        sequences.retain(|it| names.contains(&&it.table));
        let mut lacking = rights::on_sequences(client, side, &sequences, &obstacles).await?;
        obstacles.append(&mut lacking);
        obstacles.append(&mut logins::members(client, side, &names, &mut Vec::new()).await?);
    }
    Ok(obstacles)
}

/// What a database is called in a control row that knows no cells: its own address, hashed.
pub fn place(endpoint: &Endpoint) -> CellId {
    let address = format!("{}:{}/{}", endpoint.host, endpoint.port, endpoint.database);
    let half = |seed| u128::from(crate::hash::text(address.as_bytes(), seed));
    CellId::new(uuid::Uuid::from_u128((half(1) << 64) | half(2)))
}

/// Takes both fences away after a move that was given up: nothing of it stays in either database.
pub async fn forget(spec: &MoveSpec) -> Result<(), MoveError> {
    for (endpoint, side) in [(&spec.target, Side::Target), (&spec.source, Side::Source)] {
        let mut client = connect(endpoint, side, "berth-forget").await?;
        if !fence::is_installed(&client, side).await? {
            continue;
        }
        let Some(fence) = Fence::find(&client, side, &spec.tenant).await? else { continue };
        fence.remove_triggers(&client, Duration::from_millis(spec.tuning.lock_wait_ms)).await?;
        fence::remove(&mut client, &fence).await?;
    }
    Ok(())
}
