//! A tenant's rows leave a database in small batches: first those to which no other row refers, so that foreign keys,
//! which are enforced meanwhile, hold none of them back and a cascade takes none along. Rows that refer to each other in
//! a circle go together. The application's triggers fire.

use crate::back::APPLICATIONS_PATH;
use crate::erase::count;
use crate::outside::{self, Outside, Which};
use crate::prepare::hold_closed;
use crate::sql::{Doing, ident, idents, literal};
use crate::{MoveError, MovePlan, MoveSpec, Phase, PlannedTable, Progress, Side, TableName, Watcher};
use berth_domain::Token;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};

/// Rows that leave in one transaction.
pub(crate) const BATCH_ROWS: u32 = 1_000;
/// Circles are looked for from so many rows at once. Where that leads to more than a batch, from one.
const CIRCLES_AT_ONCE: u32 = BATCH_ROWS / 8;

const WHAT: &str = "removing the rows that were left behind";

/// Whose rows go.
pub(crate) struct Leaving<'s> {
    pub left: &'s MoveSpec,
    /// That the tenant does not live here is looked at under this token in every transaction; none where it does.
    pub guard: Option<Token>,
}

impl Leaving<'_> {
    async fn begin<'c>(&self, client: &'c mut Client) -> Result<Transaction<'c>, MoveError> {
        let tx = client.transaction().await.doing(Side::Source, WHAT)?;
        if let Some(token) = self.guard {
            hold_closed(self.left, &tx, token).await?;
        }
        tx.batch_execute(APPLICATIONS_PATH).await.doing(Side::Source, WHAT)?;
        Ok(tx)
    }
}

/// A reference by which a row of `from` holds one of `to`.
#[derive(Clone)]
struct Hold {
    from: TableName,
    columns: Vec<String>,
    to: TableName,
    to_columns: Vec<String>,
    /// Only rows in which this column has this value.
    when: Option<(String, String)>,
}

/// Foreign keys between tables of the plan, and the links by which rows belong to the tenant without one.
async fn holds(client: &Client, plan: &MovePlan) -> Result<Vec<Hold>, MoveError> {
    let names: Vec<String> = plan.tables.iter().map(|t| t.table.sql()).collect();
    let rows = client
        .query(
            "with t as (select to_regclass(name)::oid as oid, nth::int from unnest($1::text[]) with ordinality u(name, nth))
             select child.nth - 1, parent.nth - 1,
                    array(select a.attname::text from unnest(c.conkey) with ordinality k(num, place)
                          join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.num order by k.place),
                    array(select a.attname::text from unnest(c.confkey) with ordinality k(num, place)
                          join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.num order by k.place)
             from pg_constraint c join t child on child.oid = c.conrelid join t parent on parent.oid = c.confrelid
             where c.contype = 'f'",
            &[&names],
        )
        .await
        .doing(Side::Source, "looking at foreign keys")?;
    let name = |nth: i32| plan.tables[nth as usize].table.clone();
    let declared = rows.iter().map(|row| Hold {
        from: name(row.get(0)),
        columns: row.get(2),
        to: name(row.get(1)),
        to_columns: row.get(3),
        when: None,
    });
    let mut found: Vec<Hold> = declared.collect();
    for table in &plan.tables {
        for link in table.through.iter().filter(|link| !link.declared) {
            let Some(to) = plan.table(&link.to) else { continue };
            found.push(Hold {
                from: table.table.clone(),
                columns: link.columns.clone(),
                to: to.table.clone(),
                to_columns: to.key.clone(),
                when: link.when.clone(),
            });
        }
    }
    Ok(found)
}

impl From<Outside> for Hold {
    fn from(Outside { table, columns, to, to_columns }: Outside) -> Self {
        Self { from: table, columns, to, to_columns, when: None }
    }
}

impl Hold {
    fn is_own(&self) -> bool {
        self.from == self.to
    }

    fn when_of(&self, row: &str) -> Option<String> {
        self.when.as_ref().map(|(column, value)| format!("{row}.{} = {}", ident(column), literal(value)))
    }

    /// No row holds the row called `p`, but for those of its own table that are called `but`.
    fn holds_none(&self, key: &[String], but: &[&str]) -> String {
        let same = equal("c", &self.columns, "p", &self.to_columns);
        let others = but.iter().filter(|_| self.is_own()).map(|row| differ("c", row, key));
        let all: Vec<String> = std::iter::once(same).chain(self.when_of("c")).chain(others).collect();
        format!("not exists (select from {} c where {})", self.from.sql(), all.join(" and "))
    }
}

fn of(row: &str, columns: &[String]) -> String {
    columns.iter().map(|column| format!("{row}.{}", ident(column))).collect::<Vec<_>>().join(", ")
}

fn equal(one: &str, columns: &[String], other: &str, others: &[String]) -> String {
    let pairs = columns.iter().zip(others).map(|(a, b)| format!("{one}.{} = {other}.{}", ident(a), ident(b)));
    pairs.collect::<Vec<_>>().join(" and ")
}

fn differ(one: &str, other: &str, key: &[String]) -> String {
    format!("({}) <> ({})", of(one, key), of(other, key))
}

/// A table whose turn comes.
struct Going<'p> {
    table: &'p PlannedTable,
    /// By whom its rows may still be held then: by rows of its own, of a table with which it stands in a circle, or of one
    /// that stays.
    held: Vec<Hold>,
}

fn going<'p>(order: &[&'p PlannedTable], holds: &[Hold]) -> Vec<Going<'p>> {
    let place = |name: &TableName| order.iter().position(|t| t.table == *name);
    // Where one that refers comes after what it refers to, a circle has begun, and it is the end of the order.
    let circle = holds.iter().filter(|h| place(&h.from) > place(&h.to)).filter_map(|h| place(&h.to)).min();
    let circling = |name: &TableName| circle.is_some_and(|first| place(name) >= Some(first));
    let is_outside = |hold: &Hold| place(&hold.from).is_none();
    let stays = |hold: &Hold| hold.is_own() || is_outside(hold) || (circling(&hold.from) && circling(&hold.to));
    order
        .iter()
        .map(|&table| Going {
            table,
            held: holds.iter().filter(|hold| hold.to == table.table && stays(hold)).cloned().collect(),
        })
        .collect()
}

/// Deletes in small batches, in this order and again where others came first. Returns how many rows went.
pub(crate) async fn delete_rows(
    leaving: &Leaving<'_>,
    plan: &MovePlan,
    order: &[&PlannedTable],
    client: &mut Client,
    watcher: &dyn Watcher,
) -> Result<u64, MoveError> {
    let mut holds = holds(client, plan).await?;
    // A tenant that is deleted goes as the application has said. One that has moved takes nothing along that stays.
    if leaving.guard.is_some() {
        holds.extend(outside::references(client, plan, Which::Every).await?.into_iter().map(Hold::from));
    }
    let all = going(order, &holds);
    let mut gone = 0;
    loop {
        let before = gone;
        let mut waiting = Vec::new();
        for next in &all {
            // More than these are made by their own going, and would be for ever.
            let most = 2 * count(leaving.left, plan, next.table, client).await? + u64::from(BATCH_ROWS);
            let first = gone;
            loop {
                let began = may_begin(watcher)?;
                match delete_some(leaving, plan, next, client).await? {
                    Deleted::Rows(0) => break,
                    Deleted::Rows(rows) => gone += rows,
                    Deleted::ReferredTo => {
                        waiting.push(next.table);
                        break;
                    }
                }
                rest(watcher, gone, began).await;
                if gone - first > most {
                    let rows = count(leaving.left, plan, next.table, client).await?;
                    return Err(MoveError::RowsStay { table: next.table.table.clone(), rows });
                }
            }
        }
        if waiting.is_empty() {
            return Ok(gone);
        }
        if gone == before {
            // What is held by now is held in a circle.
            loop {
                let began = may_begin(watcher)?;
                let rows = delete_circle(leaving, plan, &holds, &waiting, client).await?;
                if rows == 0 {
                    break;
                }
                gone += rows;
                rest(watcher, gone, began).await;
            }
        }
        if gone == before {
            return Ok(gone);
        }
        // A trigger may have written to a table that was done: all of them are looked at again.
    }
}

fn may_begin(watcher: &dyn Watcher) -> Result<Instant, MoveError> {
    if watcher.cancelled() { Err(MoveError::Cancelled) } else { Ok(Instant::now()) }
}

/// As long idle as busy, for the neighbours.
async fn rest(watcher: &dyn Watcher, gone: u64, began: Instant) {
    watcher.progress(Progress { rows_done: Some(gone), ..Progress::of(Phase::Keep) });
    tokio::time::sleep(began.elapsed()).await;
}

enum Deleted {
    Rows(u64),
    ReferredTo,
}

async fn delete_some(
    leaving: &Leaving<'_>,
    plan: &MovePlan,
    next: &Going<'_>,
    client: &mut Client,
) -> Result<Deleted, MoveError> {
    let (name, filter) = (next.table.table.sql(), plan.filter(next.table, &leaving.left.tenant));
    let tx = leaving.begin(client).await?;
    let sql = if next.held.is_empty() { deletion(next.table, &filter) } else { leaves(next, &filter) };
    let rows = match taken(&tx, &sql).await {
        Ok(rows) => rows,
        Err(error) if is_referred_to(&error) => {
            tx.rollback().await.doing(Side::Source, WHAT)?;
            return Ok(Deleted::ReferredTo);
        }
        Err(source) => return Err(MoveError::Statement { side: Side::Source, doing: WHAT, source }),
    };
    if rows == 0 && !next.held.is_empty() {
        let there = format!("select exists (select from {name} where {filter})");
        let there: bool = tx.query_one(&there, &[]).await.doing(Side::Source, WHAT)?.get(0);
        tx.rollback().await.doing(Side::Source, WHAT)?;
        return Ok(if there { Deleted::ReferredTo } else { Deleted::Rows(0) });
    }
    tx.commit().await.doing(Side::Source, WHAT)?;
    Ok(Deleted::Rows(rows))
}

/// What a commit would check of references is checked at once: there the failure would be nobody's in particular.
async fn taken(tx: &Transaction<'_>, sql: &str) -> Result<u64, tokio_postgres::Error> {
    let rows = tx.execute(sql, &[]).await?;
    tx.batch_execute("set constraints all immediate").await?;
    Ok(rows)
}

/// From version 18 on `ON DELETE RESTRICT` has a word of its own.
fn is_referred_to(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::FOREIGN_KEY_VIOLATION | &SqlState::RESTRICT_VIOLATION))
}

/// Any rows of a table, as many as go at once.
pub(crate) fn deletion(table: &PlannedTable, filter: &str) -> String {
    let (name, key) = (table.table.sql(), idents(&table.key));
    format!(
        "delete from {name} where {filter} and ({key}) in (select {key} from {name} where {filter} limit {BATCH_ROWS})"
    )
}

/// Rows that no other row holds, and those that are held by these alone, and so on: also of a chain a whole batch goes.
/// A row comes after the only one that holds it, so that as many as fit are always enough of them.
fn leaves(next: &Going<'_>, filter: &str) -> String {
    let (name, key) = (next.table.table.sql(), &next.table.key);
    let own: Vec<&Hold> = next.held.iter().filter(|hold| hold.is_own()).collect();
    let columns: BTreeSet<&String> = key.iter().chain(own.iter().flat_map(|hold| &hold.columns)).collect();
    let columns: Vec<String> = columns.into_iter().cloned().collect();
    let free = |but: &[&str]| next.held.iter().map(|hold| hold.holds_none(key, but)).collect::<Vec<_>>().join(" and ");
    let rows = format!("select {} from (select * from {name} where {filter}) p", of("p", &columns));
    let upwards: Vec<String> = own
        .iter()
        .map(|hold| {
            let same = equal("p", &hold.to_columns, "g", &hold.columns);
            let when = hold.when_of("g").map(|when| format!(" and {when}")).unwrap_or_default();
            format!("{rows} where {same}{when} and {} and {}", differ("p", "g", key), free(&["p", "g"]))
        })
        .collect();
    let upwards = if upwards.is_empty() {
        String::new()
    } else {
        let up = upwards.join(" union ");
        format!(" union all select {} from leaf g cross join lateral ({up}) n", of("n", &columns))
    };
    let key = idents(key);
    format!(
        "with recursive leaf as (({rows} where {} limit {BATCH_ROWS}){upwards})
         delete from {name} where {filter} and ({key}) in (select {key} from leaf limit {BATCH_ROWS})",
        free(&["p"])
    )
}

/// The text of a key's values.
type Key = Vec<String>;
type Rows = BTreeMap<TableName, BTreeSet<Key>>;

/// Deletes rows that hold each other, with everything that holds them. Returns how many.
async fn delete_circle(
    leaving: &Leaving<'_>,
    plan: &MovePlan,
    holds: &[Hold],
    waiting: &[&PlannedTable],
    client: &mut Client,
) -> Result<u64, MoveError> {
    let what = "removing rows that refer to each other";
    let tx = leaving.begin(client).await?;
    let few = circle(leaving, plan, holds, waiting, &tx, Some(BATCH_ROWS as usize)).await?;
    let rows = match few {
        Some(rows) => rows,
        None => circle(leaving, plan, holds, waiting, &tx, None).await?.unwrap_or_default(),
    };
    if rows.is_empty() {
        tx.rollback().await.doing(Side::Source, what)?;
        return Ok(0);
    }
    tx.batch_execute("set constraints all deferred").await.doing(Side::Source, what)?;
    // One statement: what is not deferrable is checked at its end, when all of them are gone.
    let parts = rows.iter().enumerate().filter_map(|(n, (name, keys))| {
        let table = plan.table(name)?;
        let filter = plan.filter(table, &leaving.left.tenant);
        let (name, key) = (name.sql(), idents(&table.key));
        Some(format!("d{n} as (delete from {name} where {filter} and ({key}) in ({}) returning 1)", tuples(keys)))
    });
    let parts: Vec<String> = parts.collect();
    let counts: Vec<String> = (0..rows.len()).map(|n| format!("(select count(*) from d{n})")).collect();
    let sql = format!("with {} select {}", parts.join(", "), counts.join(" + "));
    let gone: i64 = tx.query_one(&sql, &[]).await.doing(Side::Source, what)?.get(0);
    tx.commit().await.doing(Side::Source, what)?;
    Ok(gone.unsigned_abs())
}

/// Some of the tenant's rows and all that hold them, table by table; none where that is more than `most`.
async fn circle(
    leaving: &Leaving<'_>,
    plan: &MovePlan,
    holds: &[Hold],
    waiting: &[&PlannedTable],
    tx: &Transaction<'_>,
    most: Option<usize>,
) -> Result<Option<Rows>, MoveError> {
    let mut open: Vec<(TableName, Vec<Key>)> = Vec::new();
    let first = if most.is_some() { CIRCLES_AT_ONCE } else { 1 };
    for table in waiting {
        let filter = plan.filter(table, &leaving.left.tenant);
        let sql = format!("select {} from {} p where {filter} limit {first}", texts(&table.key), table.table.sql());
        let keys = keys(tx, &sql).await?;
        if !keys.is_empty() {
            open.push((table.table.clone(), keys));
            break;
        }
    }
    let mut found = Rows::new();
    while let Some((name, keys)) = open.pop() {
        let known = found.entry(name.clone()).or_default();
        let new: BTreeSet<Key> = keys.into_iter().filter(|key| known.insert(key.clone())).collect();
        if most.is_some_and(|most| found.values().map(BTreeSet::len).sum::<usize>() > most) {
            return Ok(None);
        }
        let Some(to) = plan.table(&name).filter(|_| !new.is_empty()) else { continue };
        for hold in holds.iter().filter(|hold| hold.to == name) {
            let Some(from) = plan.table(&hold.from) else {
                none_stays(tx, hold, to, &new).await?;
                continue;
            };
            let when = hold.when_of("p").map(|when| format!(" and {when}")).unwrap_or_default();
            let sql = format!(
                "select {} from {} p where ({}) in (select {} from {} where ({}) in ({})){when}",
                texts(&from.key),
                from.table.sql(),
                of("p", &hold.columns),
                idents(&hold.to_columns),
                to.table.sql(),
                idents(&to.key),
                tuples(&new)
            );
            let holding = self::keys(tx, &sql).await?;
            if !holding.is_empty() {
                open.push((hold.from.clone(), holding));
            }
        }
    }
    Ok(Some(found))
}

/// Rows that stay must not refer to those that go.
async fn none_stays(
    tx: &Transaction<'_>,
    hold: &Hold,
    to: &PlannedTable,
    going: &BTreeSet<Key>,
) -> Result<(), MoveError> {
    let sql = format!(
        "select count(*) from {} where ({}) in (select {} from {} where ({}) in ({}))",
        hold.from.sql(),
        idents(&hold.columns),
        idents(&hold.to_columns),
        to.table.sql(),
        idents(&to.key),
        tuples(going)
    );
    let rows: i64 = tx.query_one(&sql, &[]).await.doing(Side::Source, WHAT)?.get(0);
    if rows > 0 {
        return Err(MoveError::ReferredTo { table: hold.from.clone(), to: to.table.clone(), rows });
    }
    Ok(())
}

/// A key of the row called `p`, each value as text.
fn texts(key: &[String]) -> String {
    let values: Vec<String> = key.iter().map(|column| format!("p.{}::text", ident(column))).collect();
    format!("array[{}]", values.join(", "))
}

async fn keys(tx: &Transaction<'_>, sql: &str) -> Result<Vec<Key>, MoveError> {
    let rows = tx.query(sql, &[]).await.doing(Side::Source, "looking for rows that refer to each other")?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn tuples(keys: &BTreeSet<Key>) -> String {
    let tuple = |key: &Key| format!("({})", key.iter().map(|v| literal(v)).collect::<Vec<_>>().join(", "));
    keys.iter().map(tuple).collect::<Vec<_>>().join(", ")
}
