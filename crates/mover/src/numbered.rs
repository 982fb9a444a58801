//! Sequences that fill columns of the closure: which they are, whether both sides have the same ones, and whether they can
//! go as far as a move takes them (see [`crate::sequence`]). Changes nothing.

use crate::sequence::ROOM;
use crate::sql::{Doing, literal};
use crate::{MoveError, MovePlan, Obstacle, PlannedSequence, PlannedTable, Side, TableName, rights};
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// Every sequence with the column that it fills, as its own or by the column's default alone, which may make a text of the
/// number. One that fills several columns is there several times.
pub(crate) async fn sequences(
    client: &Client,
    side: Side,
    tables: &[PlannedTable],
) -> Result<Vec<PlannedSequence>, MoveError> {
    let all = every(client, side).await?;
    Ok(all.into_iter().filter(|s| tables.iter().any(|t| t.table == s.table)).collect())
}

/// The same, of all tables.
pub(crate) async fn every(client: &Client, side: Side) -> Result<Vec<PlannedSequence>, MoveError> {
    let rows = client
        .query(
            "with fills as (
                 select d.objid as sequence, d.refobjid as of, d.refobjsubid as num from pg_depend d
                 where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype in ('a', 'i')
                 union
                 select d.refobjid, f.adrelid, f.adnum::int4 from pg_attrdef f join pg_depend d on d.objid = f.oid
                 where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid <> f.adrelid)
             select sn.nspname::text, s.relname::text, tn.nspname::text, t.relname::text, a.attname::text
             from fills join pg_class s on s.oid = fills.sequence and s.relkind = 'S' join pg_namespace sn on sn.oid = s.relnamespace
             join pg_class t on t.oid = fills.of join pg_namespace tn on tn.oid = t.relnamespace
             join pg_attribute a on a.attrelid = t.oid and a.attnum = fills.num
             order by 1, 2, 3, 4, 5",
            &[],
        )
        .await
        .doing(side, "reading the sequences")?;
    Ok(rows
        .into_iter()
        .map(|row| PlannedSequence {
            sequence: TableName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            table: TableName::new(row.get::<_, String>(2), row.get::<_, String>(3)),
            column: row.get(4),
        })
        .collect())
}

/// The plan's sequences, each once. What is not the same on both sides, or has no room, is an obstacle.
pub(crate) async fn plan(
    plan: &mut MovePlan,
    source: &Client,
    target: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    let ours = sequences(source, Side::Source, &plan.tables).await?;
    let theirs = sequences(target, Side::Target, &plan.tables).await?;
    for (these, those, lacking) in [(&ours, &theirs, Side::Target), (&theirs, &ours, Side::Source)] {
        for it in these.iter().filter(|it| !those.contains(it)) {
            let difference =
                format!("the {lacking} does not fill column `{}` by sequence `{}`", it.column, it.sequence);
            obstacles.push(Obstacle::SchemaDiffers { table: it.table.clone(), difference });
        }
    }
    let mut seen = BTreeSet::new();
    plan.sequences = ours.into_iter().filter(|it| seen.insert(it.sequence.clone())).collect();
    for (client, side) in [(source, Side::Source), (target, Side::Target)] {
        obstacles.append(&mut rights::on_sequences(client, side, &plan.sequences, &[]).await?);
    }
    if obstacles.is_empty() {
        room(&plan.sequences, source, target, obstacles).await?;
    }
    Ok(())
}

/// Where a sequence stands, how it steps, and between what: its own bounds, and those of the column that it fills.
pub(crate) struct Standing {
    pub last: i64,
    pub step: i64,
    pub least: i64,
    pub most: i64,
}

pub(crate) async fn standing(
    client: &Client,
    side: Side,
    sequences: &[PlannedSequence],
) -> Result<Vec<Standing>, MoveError> {
    let each = sequences.iter().enumerate().map(|(nth, it)| {
        let name = it.sequence.sql();
        format!(
            "select {nth} as nth, v.last_value, s.seqincrement,
                    greatest(s.seqmin, case a.atttypid when 'int2'::regtype then -32768 when 'int4'::regtype then -2147483648 else s.seqmin end),
                    least(s.seqmax, case a.atttypid when 'int2'::regtype then 32767 when 'int4'::regtype then 2147483647 else s.seqmax end)
             from {name} v, pg_sequence s left join pg_attribute a on a.attrelid = {}::regclass and a.attname = {}
             where s.seqrelid = {}::regclass",
            literal(&it.table.sql()),
            literal(&it.column),
            literal(&name)
        )
    });
    let sql = format!("{} order by nth", each.collect::<Vec<_>>().join(" union all "));
    let rows = client.query(&sql, &[]).await.doing(side, "reading the sequences")?;
    let standing = |row: &tokio_postgres::Row| Standing {
        last: row.get(1),
        step: row.get(2),
        least: row.get(3),
        most: row.get(4),
    };
    Ok(rows.iter().map(standing).collect())
}

/// Those that are there under their names.
pub(crate) async fn found(
    client: &Client,
    side: Side,
    sequences: &[PlannedSequence],
) -> Result<Vec<PlannedSequence>, MoveError> {
    let names: Vec<String> = sequences.iter().map(|it| it.sequence.sql()).collect();
    let sql = "select to_regclass(name) is not null from unnest($1::text[]) with ordinality u(name, nth) order by nth";
    let rows = client.query(sql, &[&names]).await.doing(side, "looking for the sequences")?;
    Ok(sequences.iter().zip(&rows).filter(|(_, row)| row.get::<_, bool>(0)).map(|(it, _)| it.clone()).collect())
}

async fn room(
    sequences: &[PlannedSequence],
    source: &Client,
    target: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    if sequences.is_empty() {
        return Ok(());
    }
    let ours = standing(source, Side::Source, sequences).await?;
    let theirs = standing(target, Side::Target, sequences).await?;
    for (it, (ours, theirs)) in sequences.iter().zip(ours.iter().zip(&theirs)) {
        let last = if ours.step < 0 { ours.last.min(theirs.last) } else { ours.last.max(theirs.last) };
        let wanted = last.saturating_add(ROOM.saturating_mul(ours.step));
        for (side, bounds) in [(Side::Source, ours), (Side::Target, theirs)] {
            if wanted > bounds.most || wanted < bounds.least {
                obstacles.push(Obstacle::SequenceEnds {
                    side,
                    sequence: it.sequence.clone(),
                    table: it.table.clone(),
                    column: it.column.clone(),
                    last,
                    end: if ours.step < 0 { bounds.least } else { bounds.most },
                });
                break;
            }
        }
    }
    Ok(())
}
