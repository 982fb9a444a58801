//! Partitions: each has properties of its own, which what is said of its table does not tell. Reads them from the catalogue
//! and says what stands in a move's way. Changes nothing.

use crate::catalog::{Catalogue, Table};
use crate::sql::Doing;
use crate::{MoveError, MovePlan, MoveSpec, Obstacle, Side, TableName};
use tokio_postgres::Client;

/// A partition that holds rows itself. Foreign tables are none: beside them there is no unique key of the whole table.
pub(crate) struct Part {
    pub name: TableName,
    unlogged: bool,
    /// The columns by which the change stream names a row of it; none where it carries the whole row.
    identity: Option<Vec<String>>,
    always_trigger: Option<String>,
}

/// Every partition, with the number of the table whose rows it holds.
pub(crate) async fn all(client: &Client, side: Side) -> Result<Vec<(u32, Part)>, MoveError> {
    let rows = client
        .query(
            "with recursive parts as (
                 select i.inhparent as root, i.inhrelid as oid from pg_inherits i join pg_class c on c.oid = i.inhparent
                 where c.relkind = 'p' and not c.relispartition
                 union all
                 select parts.root, i.inhrelid from parts join pg_inherits i on i.inhparent = parts.oid)
             select parts.root, n.nspname::text, c.relname::text, c.relpersistence = 'u',
                    case when c.relreplident <> 'f' then array(
                        select a.attname::text from pg_index i
                        cross join lateral unnest(i.indkey::int2[]) with ordinality k(attnum, nth)
                        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                        where i.indrelid = c.oid and i.indisvalid and i.indimmediate and k.nth <= i.indnkeyatts
                          and case c.relreplident when 'd' then i.indisprimary when 'i' then i.indisreplident else false end) end,
                    (select t.tgname::text from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal
                        and t.tgenabled in ('A', 'R') and t.tgname not like 'berth\\_%' limit 1)
             from parts join pg_class c on c.oid = parts.oid join pg_namespace n on n.oid = c.relnamespace
             where c.relkind = 'r' order by parts.root, 2, 3",
            &[],
        )
        .await
        .doing(side, "reading the partitions")?;
    let part = |row: &tokio_postgres::Row| Part {
        name: TableName::new(row.get::<_, String>(1), row.get::<_, String>(2)),
        unlogged: row.get(3),
        identity: row.get(4),
        always_trigger: row.get(5),
    };
    Ok(rows.iter().map(|row| (row.get(0), part(row))).collect())
}

/// What keeps changes of a table out of the stream, besides what is seen of the table alone.
pub(crate) fn unfit(table: &Table, obstacles: &mut Vec<Obstacle>) {
    // Where there is no key at all, that has been said of the table.
    let keyed = table.has_identity && !table.key.is_empty();
    if keyed && table.deferrable_key {
        obstacles.push(Obstacle::NoIdentity { table: table.name.clone() });
    }
    for column in table.columns.iter().filter(|c| c.generated && table.key.contains(&c.name)) {
        obstacles.push(Obstacle::KeyGenerated { table: table.name.clone(), column: column.name.clone() });
    }
    for part in &table.parts {
        if part.unlogged {
            obstacles.push(Obstacle::Unlogged { table: part.name.clone() });
        }
        let named = part.identity.as_ref().is_none_or(|columns| table.key.iter().all(|key| columns.contains(key)));
        if keyed && !table.deferrable_key && !named {
            obstacles.push(Obstacle::NoIdentity { table: part.name.clone() });
        }
    }
}

/// Whether what changes in a table can be followed row by row.
pub(crate) fn can_be_followed(table: &Table) -> bool {
    let mut found = Vec::new();
    unfit(table, &mut found);
    found.is_empty() && table.has_identity && !table.key.is_empty() && !table.unlogged
}

/// Whether a crash of its server empties a table, or a part of it.
pub(crate) fn is_unlogged(table: &Table) -> bool {
    table.unlogged || table.parts.iter().any(|part| part.unlogged)
}

/// What whoever looks after partitions has to know while there is a way back.
pub(crate) fn upkeep(spec: &MoveSpec, plan: &MovePlan, ours: &Catalogue) -> Option<String> {
    let parted = plan.tables.iter().filter_map(|t| ours.find(&t.table)).filter(|(_, table)| table.partitioned);
    let names: Vec<String> = parted.map(|(_, table)| format!("`{}`", table.name)).collect();
    (spec.way_back && !names.is_empty()).then(|| {
        format!(
            "partitioned: {}. While the move can be undone, attaching a partition in the target ends the way back, and one that is dropped, detached or truncated there has to go in the source too, or an undo is refused",
            names.join(", ")
        )
    })
}

/// The trigger that would fire on rows that the mover writes.
pub(crate) fn fires(table: &Table) -> Option<Obstacle> {
    let own = table.always_trigger.as_ref().map(|trigger| (&table.name, trigger));
    let of_part = || table.parts.iter().find_map(|part| Some((&part.name, part.always_trigger.as_ref()?)));
    own.or_else(of_part)
        .map(|(table, trigger)| Obstacle::AlwaysTrigger { table: table.clone(), trigger: trigger.clone() })
}
