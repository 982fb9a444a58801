//! What Postgres does not look at in sessions that load (`session_replication_role = replica`): foreign keys, and unique keys and
//! exclusions that may be deferred. Asked of all rows when they are compared, and of every row that has changed since. Changes
//! nothing.
//!
//! What others write afterwards is looked at in their sessions, where the tenant's rows are seen by then.

use crate::compare::{KEYS_PER_QUERY, KeyRef, key_list};
use crate::pgoutput::Datum;
use crate::sql::{Doing, ident, idents};
use crate::{MoveError, MovePlan, MoveSpec, Obstacle, Side, TableName, taken};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use std::collections::{BTreeSet, HashSet};
use tokio_postgres::{Client, SimpleQueryMessage};

const WHAT: &str = "looking at what a load does not check";

/// Questions that are on their way before the first answer is awaited: in the pause users wait for each round trip.
const AT_ONCE: usize = 16;

/// Questions to the target, by its own catalogue.
#[derive(Default)]
pub(crate) struct Unchecked(Vec<Question>);

struct Question {
    table: TableName,
    /// Its place in the plan, and its key.
    nth: usize,
    key: Vec<String>,
    /// The statement up to the condition on the rows that are asked about, and the rest of it.
    before: String,
    after: String,
    columns: String,
    missing: Option<Missing>,
    /// What would make the foreign key.
    create_sql: Option<String>,
}

/// What a reference names.
struct Missing {
    to: TableName,
    /// Its place in the plan, where its rows are the tenant's.
    to_nth: Option<usize>,
}

impl Question {
    /// `and`: a condition on the rows that are asked about, or nothing.
    async fn asked(&self, target: &Client, and: &str) -> Result<(), MoveError> {
        // Not prepared first: that would be a round trip more.
        let sql = format!("{}{and}{}", self.before, self.after);
        let said = target.simple_query(&sql).await.doing(Side::Target, WHAT)?;
        let row = said.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((row.get(0)?, row.get(1)?)),
            _ => None,
        });
        // Where there are none, there is no first one.
        let Some((rows, first_key)) = row else { return Ok(()) };
        let rows: i64 = rows.parse().map_err(|_| MoveError::Decode(format!("`{rows}` is no number of rows")))?;
        let first_key = first_key.to_owned();
        let (table, columns) = (self.table.clone(), self.columns.clone());
        let found = match &self.missing {
            None => Obstacle::KeyTaken { table, columns, rows, first_key },
            Some(Missing { to, to_nth: Some(_) }) => Obstacle::TwoTenants { table, columns, to: to.clone(), rows },
            Some(Missing { to, .. }) => Obstacle::LeftOutMissing { table, columns, to: to.clone(), rows, first_key },
        };
        Err(MoveError::Obstacles(vec![found]))
    }
}

/// Names of so many columns, of the row called `berth_row`, as no table of the application is.
fn of_row(columns: usize) -> Vec<String> {
    (1..=columns).map(|n| format!("berth_row.k{n}")).collect()
}

fn named(columns: &[String]) -> String {
    columns.iter().zip(1..).map(|(column, n)| format!("{column} as k{n}")).collect::<Vec<_>>().join(", ")
}

impl Unchecked {
    pub async fn of(spec: &MoveSpec, plan: &MovePlan, target: &Client) -> Result<Self, MoveError> {
        let mut all = references(spec, plan, target).await?;
        // Where nobody else has rows, those of the tenant are apart as they are in the source.
        for (nth, table) in plan.tables.iter().enumerate().filter(|_| !spec.alone) {
            let uniques = taken::uniques(table, target).await?;
            for unique in uniques.iter().filter(|unique| !unique.immediate) {
                let (name, keys) = (table.table.sql(), of_row(unique.keys.len()));
                let only = unique.only.as_ref().map(|only| format!(" and ({only})")).unwrap_or_default();
                all.push(Question {
                    table: table.table.clone(),
                    nth,
                    key: table.key.clone(),
                    before: format!(
                        "select count(*), min(concat_ws(', ', {})) from (select {}, tableoid as part, ctid as place from {name} where {}{only}",
                        keys.join(", "),
                        named(&unique.keys),
                        plan.travelling(table, &spec.tenant)
                    ),
                    after: format!(
                        ") berth_row where exists (select from {name} where {}{only} and (tableoid, ctid) <> (berth_row.part, berth_row.place))",
                        unique.meets(&keys)
                    ),
                    columns: unique.keys.join(", "),
                    missing: None,
                    create_sql: None,
                });
            }
        }
        Ok(Self(all))
    }

    /// Of all rows: the plan has looked at what refers to what, but before the rows were read that came, and an earlier worker
    /// has forgotten which of them changed. Not of the foreign keys of `made`: the target looked at all rows of the load when it
    /// made them, and those that changed since are known; but where one that is referred to has `changed`, all are asked about.
    pub async fn all(
        &self,
        target: &Client,
        made: &BTreeSet<String>,
        changed: &HashSet<usize>,
    ) -> Result<(), MoveError> {
        let holds = |question: &&Question| {
            let is_made = question.create_sql.as_ref().is_some_and(|sql| made.contains(sql));
            let to = question.missing.as_ref().and_then(|missing| missing.to_nth);
            is_made && to.is_some_and(|to| !changed.contains(&to))
        };
        for question in self.0.iter().filter(|question| !holds(question)) {
            question.asked(target, "").await?;
        }
        Ok(())
    }

    /// The same of these rows alone, however many.
    pub async fn of_keys(&self, target: &Client, keys: &[(KeyRef, Vec<Datum>)]) -> Result<(), MoveError> {
        let mut asked = Vec::new();
        for question in &self.0 {
            let of_table: Vec<&Vec<Datum>> =
                keys.iter().filter(|(k, _)| k.table == question.nth).map(|(_, v)| v).collect();
            for part in of_table.chunks(KEYS_PER_QUERY) {
                let part = part.to_vec();
                asked.push(async move {
                    let and = format!(" and ({}) in ({})", idents(&question.key), key_list(&part));
                    question.asked(target, &and).await
                });
            }
        }
        stream::iter(asked).buffered(AT_ONCE).try_collect().await
    }
}

/// By foreign keys. Rows of nobody come by themselves, and are looked at there.
async fn references(spec: &MoveSpec, plan: &MovePlan, target: &Client) -> Result<Vec<Question>, MoveError> {
    let names: Vec<String> = plan.tables.iter().map(|t| t.table.sql()).collect();
    let rows = target
        .query(
            "with t as (select to_regclass(name)::oid as oid, nth::int from unnest($1::text[]) with ordinality u(name, nth))
             select t.nth - 1, n.nspname::text, p.relname::text,
                    array(select a.attname::text from unnest(c.conkey) with ordinality k(num, place)
                          join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.num order by k.place),
                    array(select a.attname::text from unnest(c.confkey) with ordinality k(num, place)
                          join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.num order by k.place),
                    array(select format('operator(%I.%s)', s.nspname, o.oprname) from unnest(c.conpfeqop) with ordinality k(op, place)
                          join pg_operator o on o.oid = k.op join pg_namespace s on s.oid = o.oprnamespace order by k.place),
                    format('alter table %s add constraint %I %s', c.conrelid::regclass, c.conname, pg_get_constraintdef(c.oid))
             from pg_constraint c join t on t.oid = c.conrelid
             join pg_class p on p.oid = c.confrelid join pg_namespace n on n.oid = p.relnamespace
             where c.contype = 'f' and c.convalidated and c.conparentid = 0",
            &[&names],
        )
        .await
        .doing(Side::Target, "reading the foreign keys")?;
    let mut all = Vec::new();
    for row in rows {
        let nth = row.get::<_, i32>(0) as usize;
        let to = TableName::new(row.get::<_, String>(1), row.get::<_, String>(2));
        let (columns, to_columns, operators): (Vec<String>, Vec<String>, Vec<String>) =
            (row.get(3), row.get(4), row.get(5));
        // One that holds for a period asks for more than one row.
        let is_plain = operators.iter().all(|by| by.ends_with(".=)"));
        if spec.rules.shared.contains(&to) || !is_plain {
            continue;
        }
        let table = &plan.tables[nth];
        let to_nth = plan.tables.iter().position(|t| t.table == to);
        let keys = of_row(columns.len());
        let quoted: Vec<String> = columns.iter().map(|column| ident(column)).collect();
        let named_all: Vec<String> = keys.iter().map(|key| format!("{key} is not null")).collect();
        let same = to_columns.iter().zip(&operators).zip(&keys);
        let same: Vec<String> = same.map(|((column, by), key)| format!("p.{} {by} {key}", ident(column))).collect();
        all.push(Question {
            table: table.table.clone(),
            nth,
            key: table.key.clone(),
            before: format!(
                "select count(*), min(concat_ws(', ', {})) from (select {} from {} where {}",
                keys.join(", "),
                named(&quoted),
                table.table.sql(),
                plan.travelling(table, &spec.tenant)
            ),
            after: format!(
                ") berth_row where {} and not exists (select from {} p where {})",
                named_all.join(" and "),
                to.sql(),
                same.join(" and ")
            ),
            columns: columns.join(", "),
            missing: Some(Missing { to, to_nth }),
            create_sql: Some(row.get(6)),
        });
    }
    Ok(all)
}
