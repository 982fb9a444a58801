//! An archive of everything becomes a tenant again, in a database where it is not: its rows in one transaction, all of
//! them or none, its keys and objects before.
//!
//! Everything is looked at before that transaction commits: the schema, every file's hash, keys that others have, rows
//! that are referred to and are nowhere. A trial is the same transaction, rolled back. Never opens a fence and knows of
//! no route: whoever calls it makes the tenant visible afterwards.

use crate::archive::{self, Archive, ArchivedTable, Archives, Contents, unfit};
use crate::back::APPLICATIONS_PATH;
use crate::catalog::{self, catalogue};
use crate::closure::{Closure, closure};
use crate::sql::{Doing, connect, ident, idents, literal};
use crate::{
    MoveError, MovePlan, MoveSpec, Obstacle, Phase, Progress, Side, TableName, Watcher, beside, numbered, rights, taken,
};
use object_store::path::Path;
use std::collections::BTreeMap;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

const WHAT: &str = "importing rows";

/// Whether the archive at `at` could become the tenant of `spec` in its target, as far as a look tells: its files are not
/// read. Changes nothing.
pub async fn look_import(spec: &MoveSpec, store: &Archives, at: &Path) -> Result<Archive, MoveError> {
    let archive = complete(spec, store, at).await?;
    let mut obstacles = Vec::new();
    if let Some(free) = spec.target_free_bytes {
        // Twice for rows that are loaded beside their tables first, as much for their indexes.
        let needed = archive.bytes().saturating_mul(3).saturating_add(64 << 20);
        if free < needed {
            obstacles.push(Obstacle::Disk { free_mb: free >> 20, needed_mb: needed >> 20 });
        }
    }
    let client = connect(&spec.target, Side::Target, "berth-import").await?;
    let plan = fitting(spec, &archive, &client, &mut obstacles).await?;
    if obstacles.is_empty() {
        beside::must_be_told_apart(&client, Side::Target, &spec.rules, &spec.beside, &mut obstacles).await?;
        there_already(spec, &plan, &client, &mut obstacles).await?;
        beside::fits(&spec.beside, &spec.tenant, &archive, &mut obstacles).await?;
    }
    if obstacles.is_empty() { Ok(archive) } else { Err(MoveError::Obstacles(obstacles)) }
}

/// The same, and everything that only doing it tells: it is done and taken back. Changes nothing.
pub async fn try_import(
    spec: &MoveSpec,
    store: &Archives,
    at: &Path,
    watcher: &dyn Watcher,
) -> Result<Archive, MoveError> {
    let archive = look_import(spec, store, at).await?;
    beside::verify(&archive, store, at).await?;
    Box::pin(bring(spec, &archive, store, at, None, watcher)).await?;
    Ok(archive)
}

/// Brings the rows in, once under `mark`. Returns how many there are.
pub async fn import_rows(
    spec: &MoveSpec,
    store: &Archives,
    at: &Path,
    mark: Uuid,
    watcher: &dyn Watcher,
) -> Result<u64, MoveError> {
    let archive = complete(spec, store, at).await?;
    Box::pin(bring(spec, &archive, store, at, Some(mark), watcher)).await?;
    Ok(archive.rows())
}

/// Brings keys and objects in, which [`try_import`] has found to be missing. Safe to run again.
pub async fn import_beside(spec: &MoveSpec, store: &Archives, at: &Path) -> Result<(u64, u64), MoveError> {
    let archive = complete(spec, store, at).await?;
    beside::unpack(&spec.beside, &archive, store, at).await
}

/// Takes an import under `mark` back, as far as it came: rows that came in otherwise stay.
pub async fn undo_import(spec: &MoveSpec, mark: Uuid, watcher: &dyn Watcher) -> Result<(), MoveError> {
    let client = connect(&spec.target, Side::Target, "berth-import").await?;
    if is_marked(&client, mark).await? {
        crate::erase_rows(spec, watcher).await?;
    }
    forget_import(spec, mark).await
}

async fn is_marked(client: &Client, mark: Uuid) -> Result<bool, MoveError> {
    let row = client.query_one("select to_regclass($1) is not null", &[&marked(mark)]).await;
    Ok(row.doing(Side::Target, WHAT)?.get(0))
}

/// Forgets that the rows came in under `mark`, when nobody will ask any more.
pub async fn forget_import(spec: &MoveSpec, mark: Uuid) -> Result<(), MoveError> {
    let client = connect(&spec.target, Side::Target, "berth-import").await?;
    let sql = format!("drop table if exists {}", marked(mark));
    client.batch_execute(&sql).await.doing(Side::Target, "ending an import")?;
    // Where somebody else keeps something in it, it stays.
    let _kept = client.batch_execute("drop schema if exists berth_control").await;
    Ok(())
}

fn marked(mark: Uuid) -> String {
    format!("berth_control.imported_{}", mark.simple())
}

async fn complete(spec: &MoveSpec, store: &Archives, at: &Path) -> Result<Archive, MoveError> {
    let archive = archive::read(store, at).await?.ok_or_else(|| unfit("it has no manifest: it was cut off".into()))?;
    if archive.contents != Contents::Everything {
        return Err(unfit("it has only what a move left behind, and no whole tenant".into()));
    }
    if archive.tenant != spec.tenant.as_str() {
        return Err(unfit(format!("it is of the tenant with key {}", archive.tenant)));
    }
    Ok(archive)
}

/// `mark`: none to try it only.
async fn bring(
    spec: &MoveSpec,
    archive: &Archive,
    store: &Archives,
    at: &Path,
    mark: Option<Uuid>,
    watcher: &dyn Watcher,
) -> Result<(), MoveError> {
    let mut client = connect(&spec.target, Side::Target, "berth-import").await?;
    if let Some(mark) = mark
        && is_marked(&client, mark).await?
    {
        return Ok(());
    }
    let mut obstacles = Vec::new();
    let plan = fitting(spec, archive, &client, &mut obstacles).await?;
    if obstacles.is_empty() {
        there_already(spec, &plan, &client, &mut obstacles).await?;
    }
    if !obstacles.is_empty() {
        return Err(MoveError::Obstacles(obstacles));
    }
    let mut tx = client.transaction().await.doing(Side::Target, WHAT)?;
    archive::pass_the_fence(&tx, Side::Target, &spec.tenant).await?;
    // What the application's triggers made of these rows is in the archive.
    tx.batch_execute("set local session_replication_role = replica").await.doing(Side::Target, WHAT)?;
    for archived in &archive.shared {
        bring_nobodys(&tx, archived, store, at, &mut obstacles).await?;
    }
    let mut done = 0;
    // Parents first: whose a row is, its parent's row says.
    for table in &plan.tables {
        let Some(archived) = archive.tables.iter().find(|t| t.table == table.table) else { continue };
        if watcher.cancelled() {
            return Err(MoveError::Cancelled);
        }
        search_path(&tx, "pg_catalog").await?;
        archive::load(&tx, archived, store, at).await?;
        archive::only_the_tenants(&tx, &plan, table, &spec.tenant).await?;
        for unique in taken::uniques(table, tx.client()).await? {
            obstacles.extend(keys_taken(&mut tx, archived, &unique).await?);
        }
        if obstacles.is_empty() {
            insert(&tx, archived, &mut obstacles).await?;
        }
        tx.batch_execute("drop table pg_temp.berth_restore").await.doing(Side::Target, WHAT)?;
        if !obstacles.is_empty() {
            return Err(MoveError::Obstacles(obstacles));
        }
        done += archived.rows;
        let rows_total = Some(archive.rows());
        watcher.progress(Progress { rows_done: Some(done), rows_total, ..Progress::of(Phase::Copy) });
    }
    dangling(spec, &plan, tx.client(), &mut obstacles).await?;
    if !obstacles.is_empty() {
        return Err(MoveError::Obstacles(obstacles));
    }
    let Some(mark) = mark else { return tx.rollback().await.doing(Side::Target, WHAT) };
    ahead(spec, &plan, &tx).await?;
    tx.batch_execute(&format!("create schema if not exists berth_control; create table {}()", marked(mark)))
        .await
        .doing(Side::Target, WHAT)?;
    tx.commit().await.doing(Side::Target, WHAT)
}

async fn search_path(tx: &Transaction<'_>, path: &str) -> Result<(), MoveError> {
    tx.batch_execute(&format!("set local search_path = {path}")).await.doing(Side::Target, WHAT)
}

/// What belongs to the tenant in the target; every difference between its schema and the archive's is an obstacle, and so is every
/// right that the login lacks there.
async fn fitting(
    spec: &MoveSpec,
    archive: &Archive,
    client: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<MovePlan, MoveError> {
    let Closure { tables, shared, inner, unsure } =
        closure(&spec.rules, &catalogue(client, Side::Target).await?, obstacles);
    let plan = MovePlan { tables, shared, inner, unsure, ..MovePlan::default() };
    if archive.schema.is_empty() {
        // The first format: the tables that it has are all that can be compared.
        for archived in &archive.tables {
            archive::fits(archived, plan.table(&archived.table))?;
        }
    } else {
        obstacles.extend(differences(&archive.schema, &catalog::shape(client, Side::Target).await?));
    }
    // A table that belongs to tenants here and not where the archive was made: its rows are missing.
    if obstacles.is_empty()
        && let Some(table) = plan.tables.iter().find(|t| !archive.tables.iter().any(|a| a.table == t.table))
    {
        let name = &table.table;
        return Err(unfit(format!("it has no rows of `{name}`: what belongs to tenants is said otherwise here")));
    }
    // The other way round its rows would be left out without a word.
    if let Some(table) = archive.tables.iter().find(|t| plan.table(&t.table).is_none()) {
        let name = &table.table;
        return Err(unfit(format!(
            "its rows of `{name}` belong to no tenant here: `data` of the stack file says it otherwise"
        )));
    }
    // Rows of nobody come in past every fence: only into tables that are nobody's here too.
    if let Some(table) = archive.shared.iter().find(|t| !plan.shared.iter().any(|here| here.table == t.table)) {
        let name = &table.table;
        return Err(unfit(format!("it brings rows of nobody for `{name}`, which is not in `data.shared` here")));
    }
    obstacles.append(&mut rights::to_import(client, Side::Target, spec, &plan).await?);
    Ok(plan)
}

/// Table by table, what the archive's schema and the cell's do not have in common.
fn differences(archived: &BTreeMap<String, String>, here: &BTreeMap<String, String>) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut differs = |path: &str, difference: String| {
        let table = TableName::parse(path.rsplit_once('.').map_or(path, |(table, _)| table));
        found.push(Obstacle::SchemaDiffers { table, difference });
    };
    let column = |path: &str| path.rsplit_once('.').map_or_else(String::new, |(_, column)| column.to_owned());
    for (path, was) in archived {
        match here.get(path) {
            None => differs(path, format!("the archive has column `{}` ({was}), the cell has not", column(path))),
            Some(is) if is != was => {
                differs(path, format!("column `{}` is {was} in the archive and {is} in the cell", column(path)));
            }
            Some(_) => {}
        }
    }
    for (path, is) in here.iter().filter(|(path, _)| !archived.contains_key(*path)) {
        differs(path, format!("the cell has column `{}` ({is}), the archive has not", column(path)));
    }
    found
}

async fn there_already(
    spec: &MoveSpec,
    plan: &MovePlan,
    client: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    for table in &plan.tables {
        let sql = format!("select count(*) from {} where {}", table.table.sql(), plan.filter(table, &spec.tenant));
        let rows: i64 = client.query_one(&sql, &[]).await.doing(Side::Target, "counting the tenant's rows")?.get(0);
        if rows > 0 {
            obstacles.push(Obstacle::RowsInTarget { table: table.table.clone(), rows });
        }
    }
    Ok(())
}

/// Rows of nobody come in where they are missing, and have to be the same where they are not.
async fn bring_nobodys(
    tx: &Transaction<'_>,
    archived: &ArchivedTable,
    store: &Archives,
    at: &Path,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    search_path(tx, "pg_catalog").await?;
    archive::load(tx, archived, store, at).await?;
    let (name, columns, key) = (archived.table.sql(), archived.column_list(), idents(&archived.key));
    let sql = format!(
        "insert into {name} ({columns}) overriding system value select {columns} from pg_temp.berth_restore
         on conflict do nothing"
    );
    tx.batch_execute(&sql).await.doing(Side::Target, WHAT)?;
    // By their texts: not every type knows equality.
    let rows = |of: &str| format!("select ({key})::text as key, row({columns})::text as row from {of}");
    let sql = format!(
        "select count(*), min(o.key) from ({}) o where not exists
             (select from ({}) t where t.key = o.key and t.row = o.row)",
        rows("pg_temp.berth_restore"),
        rows(&format!("{name} where ({key}) in (select {key} from pg_temp.berth_restore)"))
    );
    let row = tx.query_one(&sql, &[]).await.doing(Side::Target, WHAT)?;
    let (rows, first_key): (i64, Option<String>) = (row.get(0), row.get(1));
    if let Some(first_key) = first_key {
        let (table, rows) = (archived.table.clone(), rows.unsigned_abs());
        obstacles.push(Obstacle::SharedDiffers { table, rows, first_key });
    }
    tx.batch_execute("drop table pg_temp.berth_restore").await.doing(Side::Target, WHAT)
}

/// Keys of loaded rows that rows of others have.
async fn keys_taken(
    tx: &mut Transaction<'_>,
    archived: &ArchivedTable,
    unique: &taken::Unique,
) -> Result<Option<Obstacle>, MoveError> {
    // An index over a column that the table makes by itself cannot be asked about here: the insertion finds it.
    let trial = tx.transaction().await.doing(Side::Target, WHAT)?;
    trial.batch_execute(APPLICATIONS_PATH).await.doing(Side::Target, WHAT)?;
    let only = unique.only.as_ref().map(|only| format!(" where ({only})")).unwrap_or_default();
    let ours: Vec<String> = (1..).zip(&unique.keys).map(|(n, key)| format!("{key} as k{n}")).collect();
    let names: Vec<String> = (1..=unique.keys.len()).map(|n| format!("r.k{n}")).collect();
    let and = unique.only.as_ref().map(|only| format!(" and ({only})")).unwrap_or_default();
    let sql = format!(
        "select count(*), min(concat_ws(', ', {})) from (select {} from pg_temp.berth_restore{only}) r
         where exists (select from {} where {}{and})",
        names.join(", "),
        ours.join(", "),
        archived.table.sql(),
        unique.meets(&names)
    );
    let answer = trial.query_one(&sql, &[]).await;
    trial.rollback().await.doing(Side::Target, WHAT)?;
    let (rows, first_key): (i64, Option<String>) = match answer {
        Ok(row) => (row.get(0), row.get(1)),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => return Ok(None),
        Err(error) => return Err(error).doing(Side::Target, "looking for keys in the target"),
    };
    let (table, columns) = (archived.table.clone(), unique.keys.join(", "));
    Ok(first_key.map(|first_key| Obstacle::KeyTaken { table, columns, rows, first_key }))
}

async fn insert(
    tx: &Transaction<'_>,
    archived: &ArchivedTable,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    let (name, columns) = (archived.table.sql(), archived.column_list());
    tx.batch_execute(APPLICATIONS_PATH).await.doing(Side::Target, WHAT)?;
    let sql = format!(
        "savepoint berth_insert;
         insert into {name} ({columns}) overriding system value select {columns} from pg_temp.berth_restore;
         release berth_insert"
    );
    match tx.batch_execute(&sql).await {
        Ok(()) => Ok(()),
        Err(error) => match error.as_db_error() {
            Some(db) if [SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION].contains(db.code()) => {
                let first_key = db.detail().unwrap_or_default().to_owned();
                let columns = db.constraint().unwrap_or_default().to_owned();
                obstacles.push(Obstacle::KeyTaken { table: archived.table.clone(), columns, rows: 1, first_key });
                tx.batch_execute("rollback to berth_insert").await.doing(Side::Target, WHAT)
            }
            _ => Err(MoveError::Copy { table: archived.table.clone(), source: error }),
        },
    }
}

/// Foreign keys were not looked at while the rows came in: each row that the tenant's refer to has to be there.
async fn dangling(
    spec: &MoveSpec,
    plan: &MovePlan,
    client: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    for reference in references(plan, client).await? {
        let Some(table) = plan.table(&reference.from) else { continue };
        let same: Vec<String> = reference
            .columns
            .iter()
            .zip(&reference.to_columns)
            .map(|(c, p)| format!("p.{} = c.{}", ident(p), ident(c)))
            .collect();
        let columns = idents(&reference.columns);
        let sql = format!(
            "select count(*) from (select {columns} from {} where {}) c
             where ({columns}) is not null and not exists (select from {} p where {})",
            table.table.sql(),
            plan.filter(table, &spec.tenant),
            reference.to.sql(),
            same.join(" and ")
        );
        // Types of the application may compare by functions of its own schemas.
        client.batch_execute(APPLICATIONS_PATH).await.doing(Side::Target, WHAT)?;
        let rows: i64 = client.query_one(&sql, &[]).await.doing(Side::Target, "looking at references")?.get(0);
        if rows > 0 {
            let (table, to) = (reference.from, reference.to);
            obstacles.push(Obstacle::ReferenceMissing { table, columns: reference.columns.join(", "), to, rows });
        }
    }
    Ok(())
}

struct ForeignKey {
    from: TableName,
    to: TableName,
    columns: Vec<String>,
    to_columns: Vec<String>,
}

async fn references(plan: &MovePlan, client: &Client) -> Result<Vec<ForeignKey>, MoveError> {
    let names: Vec<String> = plan.tables.iter().map(|t| t.table.sql()).collect();
    let rows = client
        .query(
            "select fn.nspname::text, f.relname::text, tn.nspname::text, t.relname::text,
                    array(select a.attname::text from unnest(c.conkey) with ordinality k(num, nth)
                          join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.num order by nth),
                    array(select a.attname::text from unnest(c.confkey) with ordinality k(num, nth)
                          join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.num order by nth)
             from pg_constraint c
             join pg_class f on f.oid = c.conrelid join pg_namespace fn on fn.oid = f.relnamespace
             join pg_class t on t.oid = c.confrelid join pg_namespace tn on tn.oid = t.relnamespace
             where c.contype = 'f' and c.conparentid = 0
               and c.conrelid in (select to_regclass(name)::oid from unnest($1::text[]) name)",
            &[&names],
        )
        .await
        .doing(Side::Target, "reading the foreign keys")?;
    let name =
        |row: &tokio_postgres::Row, at: usize| TableName::new(row.get::<_, String>(at), row.get::<_, String>(at + 1));
    Ok(rows
        .iter()
        .map(|row| ForeignKey { from: name(row, 0), to: name(row, 2), columns: row.get(4), to_columns: row.get(5) })
        .collect())
}

/// How far a sequence goes beyond the numbers that came in: whoever takes numbers while this looks stays behind it.
const BEYOND: i64 = 1_000_000;

/// Sequences go beyond the numbers that came in, and only where they are not: neighbours take numbers from them meanwhile,
/// and what is set to the value that was read a moment ago hands theirs out twice.
async fn ahead(spec: &MoveSpec, plan: &MovePlan, tx: &Transaction<'_>) -> Result<(), MoveError> {
    for sequence in numbered::sequences(tx.client(), Side::Target, &plan.tables).await? {
        let Some(table) = plan.table(&sequence.table) else { continue };
        // A number that stands inside of a text does not say how far the sequence is.
        let counts = |it: &str| {
            it.contains('.') || ["smallint", "integer", "bigint", "numeric"].iter().any(|n| it.starts_with(n))
        };
        if !table.columns.iter().any(|c| c.name == sequence.column && counts(&c.type_name)) {
            continue;
        }
        let (name, column) = (literal(&sequence.sequence.sql()), ident(&sequence.column));
        // A small sequence is not used up by it: a hundredth of what it has left.
        let sql = format!(
            "select setval({name}::regclass,
                           case when s.seqincrement > 0 then m.most + least({BEYOND}, (s.seqmax::numeric - m.most) / 100)::bigint
                                else m.least - least({BEYOND}, (m.least - s.seqmin::numeric) / 100)::bigint end)
             from pg_sequence s, {} v, (select max({column})::bigint most, min({column})::bigint least from {} where {}) m
             where s.seqrelid = {name}::regclass
               and case when s.seqincrement > 0 then m.most > v.last_value or (m.most = v.last_value and not v.is_called)
                        else m.least < v.last_value or (m.least = v.last_value and not v.is_called) end",
            sequence.sequence.sql(),
            table.table.sql(),
            plan.filter(table, &spec.tenant)
        );
        tx.batch_execute(&sql).await.doing(Side::Target, "moving a sequence ahead")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::differences;
    use std::collections::BTreeMap;

    #[test]
    fn each_difference_between_two_schemas_is_named() {
        let schema = |lines: &[(&str, &str)]| -> BTreeMap<String, String> {
            lines.iter().map(|(path, is)| ((*path).to_owned(), (*is).to_owned())).collect()
        };
        let archived = schema(&[("notes.id", "integer not null"), ("notes.body", "text"), ("a.x.n", "uuid")]);
        let here = schema(&[("notes.id", "bigint not null"), ("notes.made", "date"), ("a.x.n", "uuid")]);
        let found: Vec<String> = differences(&archived, &here).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "table `notes` differs between the sides: the archive has column `body` (text), the cell has not",
                "table `notes` differs between the sides: column `id` is integer not null in the archive and bigint not null in the cell",
                "table `notes` differs between the sides: the cell has column `made` (date), the archive has not",
            ]
        );
    }
}
