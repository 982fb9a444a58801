//! Rows of nobody that the tenant's rows refer to: they travel along, have to agree where they exist already, and are
//! looked at again whenever the stream says that they, or the references to them, changed.
//!
//! They have no fence, because both sides go on with their own: the stack file has to name their tables.

use crate::compare::{Hash, key_hash};
use crate::pgoutput::Datum;
use crate::plan::{column_list, row_hash_sql};
use crate::sql::{Doing, ident, idents, literal};
use crate::{MoveError, MovePlan, MoveSpec, Obstacle, Reference, SharedTable, Side, Way};
use berth_domain::Token;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

/// Rows read or written by one statement.
const BATCH: usize = 200;

/// A key's values in text form, in the order of the key.
type Key = Vec<String>;

/// A row of nobody as the source has it, in text form.
struct Row {
    values: Vec<Option<String>>,
    hash: String,
}

/// Rows of nobody, by table of the plan.
pub(crate) struct Nobodys(Vec<BTreeMap<Key, Row>>);

impl Nobodys {
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(BTreeMap::is_empty)
    }

    /// Which rows they are, as a condition on each of the plan's tables.
    pub fn conditions(&self, plan: &MovePlan) -> Vec<String> {
        let one = |(table, rows): (&SharedTable, &BTreeMap<Key, Row>)| {
            let keys: Vec<Key> = rows.keys().cloned().collect();
            if keys.is_empty() {
                "false".to_owned()
            } else {
                format!("({}) in ({})", idents(&table.key), tuples(&keys))
            }
        };
        plan.shared.iter().zip(&self.0).map(one).collect()
    }

    pub fn hashes(&self) -> impl Iterator<Item = (usize, Hash)> + '_ {
        self.0
            .iter()
            .enumerate()
            .flat_map(|(nth, rows)| rows.keys().map(move |key| (nth, key_hash(&datums(key), None))))
    }
}

fn datums(key: &Key) -> Vec<Datum> {
    key.iter().map(|text| Datum::Text(bytes::Bytes::copy_from_slice(text.as_bytes()))).collect()
}

/// What the stream has said of rows of nobody since they were last looked at.
#[derive(Default)]
pub(crate) struct Watched {
    known: HashSet<(usize, Hash)>,
    /// Rows are being brought: which ones will be known is not known yet.
    bringing: bool,
    /// Of those that are pending, the ones that a row of the tenant refers to.
    referred: HashSet<(usize, Hash)>,
    pending: HashMap<(usize, Hash), Vec<Datum>>,
}

impl Watched {
    /// A row of the tenant refers to this one.
    pub fn referred(&mut self, table: usize, key: Vec<Datum>) {
        let id = (table, key_hash(&key, None));
        if !self.known.contains(&id) {
            self.referred.insert(id);
            self.pending.insert(id, key);
        }
    }

    /// This one changed.
    pub fn changed(&mut self, table: usize, key: Vec<Datum>) {
        let id = (table, key_hash(&key, None));
        if self.bringing || self.known.contains(&id) {
            self.pending.insert(id, key);
        }
    }

    /// From here on until [`Watched::knows`] every change counts.
    pub fn brings(&mut self) {
        self.bringing = true;
    }

    pub fn is_quiet(&self) -> bool {
        self.pending.is_empty()
    }

    pub fn knows(&mut self, rows: &Nobodys) {
        self.known.extend(rows.hashes());
        self.bringing = false;
        let known = &self.known;
        self.pending.retain(|id, _| known.contains(id) || self.referred.contains(id));
    }

    /// The keys to be looked at, by table, of `tables` many.
    pub fn take(&mut self, tables: usize) -> Vec<BTreeSet<Key>> {
        let mut keys = vec![BTreeSet::new(); tables];
        self.referred.clear();
        // Nothing to bring: nobody will say what is known then, and changes of strangers must not count for ever.
        self.bringing = !self.pending.is_empty();
        for ((table, _), key) in self.pending.drain() {
            let texts = key.iter().map(|d| match d {
                Datum::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                Datum::Null | Datum::Unchanged => None,
            });
            if let Some(key) = texts.collect::<Option<Key>>() {
                keys[table].insert(key);
            }
        }
        keys
    }
}

/// The keys that the tenant's rows refer to, by table.
pub(crate) async fn referred(
    spec: &MoveSpec,
    plan: &MovePlan,
    client: &Client,
    side: Side,
) -> Result<Vec<BTreeSet<Key>>, MoveError> {
    let mut keys = vec![BTreeSet::new(); plan.shared.len()];
    for table in &plan.tables {
        for reference in &table.refers {
            let columns = idents(&reference.columns);
            let sql = format!(
                "select distinct {columns} from {} where {} and ({columns}) is not null",
                table.table.sql(),
                plan.filter(table, &spec.tenant)
            );
            for row in texts(client, side, &sql).await? {
                keys[reference.to].extend(row.into_iter().collect::<Option<Key>>());
            }
        }
    }
    Ok(keys)
}

/// Reads the rows of `keys`, and those that they refer to in their turn.
pub(crate) async fn gather(
    plan: &MovePlan,
    client: &Client,
    side: Side,
    mut keys: Vec<BTreeSet<Key>>,
) -> Result<Nobodys, MoveError> {
    let mut found: Vec<BTreeMap<Key, Row>> = plan.shared.iter().map(|_| BTreeMap::new()).collect();
    while let Some(nth) = keys.iter().position(|k| !k.is_empty()) {
        let table = &plan.shared[nth];
        let asked: Vec<Key> = std::mem::take(&mut keys[nth]).into_iter().collect();
        for part in asked.chunks(BATCH) {
            let sql = format!(
                "select {}, {} from {} where ({}) in ({})",
                row_hash_sql(&table.columns),
                column_list(&table.columns),
                table.table.sql(),
                idents(&table.key),
                tuples(part)
            );
            for mut row in texts(client, side, &sql).await? {
                let hash = row.remove(0).unwrap_or_default();
                let Some(key) = picked(table, &table.key, &row) else { continue };
                for Reference { columns, to } in &table.refers {
                    if let Some(next) = picked(table, columns, &row)
                        && !found[*to].contains_key(&next)
                        && (*to, &next) != (nth, &key)
                    {
                        keys[*to].insert(next);
                    }
                }
                found[nth].insert(key, Row { values: row, hash });
            }
        }
        let have = &found[nth];
        keys[nth].retain(|key| !have.contains_key(key));
    }
    Ok(Nobodys(found))
}

fn picked(table: &SharedTable, columns: &[String], row: &[Option<String>]) -> Option<Key> {
    let at = |column: &String| table.columns.iter().position(|c| c.name == *column);
    columns.iter().map(|column| row.get(at(column)?)?.clone()).collect()
}

fn tuples(keys: &[Key]) -> String {
    let tuple = |key: &Key| format!("({})", key.iter().map(|v| literal(v)).collect::<Vec<_>>().join(", "));
    keys.iter().map(tuple).collect::<Vec<_>>().join(", ")
}

/// All values in the text form that the change stream has too.
async fn texts(client: &Client, side: Side, sql: &str) -> Result<Vec<Vec<Option<String>>>, MoveError> {
    let said = client.simple_query(sql).await.doing(side, "reading rows of nobody")?;
    let row = |message: SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect()),
        _ => None,
    };
    Ok(said.into_iter().filter_map(row).collect())
}

/// Key to row hash of what the target has under these keys.
async fn there(client: &Client, table: &SharedTable, keys: &[Key]) -> Result<HashMap<Key, String>, MoveError> {
    let mut found = HashMap::new();
    for part in keys.chunks(BATCH) {
        let sql = format!(
            "select {}, {} from {} where ({}) in ({})",
            row_hash_sql(&table.columns),
            idents(&table.key),
            table.table.sql(),
            idents(&table.key),
            tuples(part)
        );
        for mut row in texts(client, Side::Target, &sql).await? {
            let hash = row.remove(0).unwrap_or_default();
            if let Some(key) = row.into_iter().collect::<Option<Key>>() {
                found.insert(key, hash);
            }
        }
    }
    Ok(found)
}

/// Counts them, and says which exist in the target with other values.
pub(crate) async fn measure(
    spec: &MoveSpec,
    plan: &mut MovePlan,
    source: &Client,
    target: &Client,
    obstacles: &mut Vec<Obstacle>,
) -> Result<(), MoveError> {
    if plan.shared.is_empty() {
        return Ok(());
    }
    let keys = referred(spec, plan, source, Side::Source).await?;
    let rows = gather(plan, source, Side::Source, keys).await?;
    for (table, rows) in plan.shared.iter_mut().zip(&rows.0) {
        table.rows = i64::try_from(rows.len()).unwrap_or(i64::MAX);
        let keys: Vec<Key> = rows.keys().cloned().collect();
        let theirs = there(target, table, &keys).await?;
        let other: Vec<&Key> =
            rows.iter().filter(|(key, row)| theirs.get(*key).is_some_and(|h| *h != row.hash)).map(|(k, _)| k).collect();
        if let Some(first) = other.first() {
            obstacles.push(Obstacle::SharedDiffers {
                table: table.table.clone(),
                rows: other.len() as u64,
                first_key: first.join(", "),
            });
        }
    }
    Ok(())
}

/// Puts them into the target where they are missing, and up to date where this move brought them. One transaction,
/// under the target's fence.
pub(crate) async fn bring(
    spec: &MoveSpec,
    plan: &MovePlan,
    target: &mut Client,
    rows: &Nobodys,
    token: Token,
) -> Result<(), MoveError> {
    let what = "bringing rows of nobody";
    if rows.is_empty() {
        return Ok(());
    }
    let tx = target.transaction().await.doing(Side::Target, what)?;
    crate::prepare::hold_closed(spec, &tx, token).await?;
    tx.batch_execute("set local session_replication_role = replica").await.doing(Side::Target, what)?;
    for (table, rows) in plan.shared.iter().zip(&rows.0) {
        let all: Vec<(&Key, &Row)> = rows.iter().collect();
        for part in all.chunks(BATCH) {
            let lines: Vec<String> = part.iter().map(|(_, row)| line(&row.values)).collect();
            let relation = table.table.sql();
            let key_texts: Vec<String> = table.key.iter().map(|k| format!("{}::text", ident(k))).collect();
            tx.batch_execute(&format!(
                "with new as (insert into {relation} ({}) overriding system value values {} on conflict do nothing returning {})
                 insert into berth.brought (move, relation, key) select '{}', {}, array[{}] from new on conflict do nothing",
                column_list(&table.columns),
                lines.join(", "),
                idents(&table.key),
                spec.short_id(),
                literal(&relation),
                key_texts.join(", ")
            ))
            .await
            .doing(Side::Target, what)?;
        }
        let keys: Vec<Key> = rows.keys().cloned().collect();
        let theirs = there(tx.client(), table, &keys).await?;
        for (key, row) in rows.iter().filter(|(key, row)| theirs.get(*key) != Some(&row.hash)) {
            if !theirs.contains_key(key) || !update(spec, table, &tx, key, row).await? {
                // Undone, the old cell's own rows stay as they are: it is theirs as much as the tenant's.
                if spec.way == Way::There || !theirs.contains_key(key) {
                    let (table, key) = (table.table.clone(), key.join(", "));
                    return Err(MoveError::SharedDiffers { table, key });
                }
            }
        }
    }
    tx.commit().await.doing(Side::Target, what)
}

fn line(values: &[Option<String>]) -> String {
    let values: Vec<String> =
        values.iter().map(|v| v.as_ref().map_or_else(|| "null".to_owned(), |text| literal(text))).collect();
    format!("({})", values.join(", "))
}

/// Brings a row up to date, if this move brought it.
async fn update(
    spec: &MoveSpec,
    table: &SharedTable,
    tx: &tokio_postgres::Transaction<'_>,
    key: &Key,
    row: &Row,
) -> Result<bool, MoveError> {
    let sets: Vec<String> = table
        .columns
        .iter()
        .zip(&row.values)
        .filter(|(column, _)| !column.always_identity)
        .map(|(column, value)| {
            format!("{} = {}", ident(&column.name), value.as_ref().map_or_else(|| "null".to_owned(), |v| literal(v)))
        })
        .collect();
    let sql = format!(
        "update {} set {} where ({}) in ({})
         and exists (select from berth.brought b where b.move = '{}' and b.relation = {} and b.key = $1)",
        table.table.sql(),
        sets.join(", "),
        idents(&table.key),
        tuples(std::slice::from_ref(key)),
        spec.short_id(),
        literal(&table.table.sql())
    );
    let updated = tx.execute(&sql, &[key]).await.doing(Side::Target, "bringing a row of nobody up to date")?;
    Ok(updated == 1)
}

/// What this move brought and nobody refers to goes out of the target again.
pub(crate) async fn take_back(
    spec: &MoveSpec,
    plan: &MovePlan,
    tx: &tokio_postgres::Transaction<'_>,
) -> Result<(), MoveError> {
    let what = "removing rows of nobody";
    tx.batch_execute("set local session_replication_role = origin; set constraints all immediate")
        .await
        .doing(Side::Target, what)?;
    let mut open = Vec::new();
    for table in &plan.shared {
        let relation = table.table.sql();
        let brought = tx
            .query("select key from berth.brought where move = $1 and relation = $2", &[&spec.short_id(), &relation])
            .await
            .doing(Side::Target, what)?;
        open.extend(brought.into_iter().map(|row| (table, row.get::<_, Key>(0))));
    }
    // They may refer to each other: those that nobody refers to go first, until no more do.
    loop {
        let before = open.len();
        let mut held = Vec::new();
        for (table, key) in open {
            if is_referred_to(tx, table, &key).await? {
                held.push((table, key));
                continue;
            }
            let sql = format!(
                "savepoint one; delete from {} where ({}) in ({})",
                table.table.sql(),
                idents(&table.key),
                tuples(std::slice::from_ref(&key))
            );
            match tx.batch_execute(&sql).await {
                Ok(()) => {}
                Err(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION) => {
                    tx.batch_execute("rollback to one").await.doing(Side::Target, what)?;
                    held.push((table, key));
                }
                Err(source) => return Err(MoveError::Statement { side: Side::Target, doing: what, source }),
            }
        }
        // What is left by then somebody else's rows refer to: it stays.
        if held.len() == before {
            return forget(spec, tx).await;
        }
        open = held;
    }
}

/// Whether any row of the database refers to this one: deleted, it would take that along or leave it without.
async fn is_referred_to(
    tx: &tokio_postgres::Transaction<'_>,
    table: &SharedTable,
    key: &Key,
) -> Result<bool, MoveError> {
    let what = "looking for who refers to a row of nobody";
    let referring = tx
        .query(
            "select format('%I.%I', n.nspname, r.relname),
                    (select array_agg(a.attname::text order by k.nth) from unnest(c.conkey) with ordinality k(num, nth)
                     join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.num),
                    (select array_agg(a.attname::text order by k.nth) from unnest(c.confkey) with ordinality k(num, nth)
                     join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.num)
             from pg_constraint c join pg_class r on r.oid = c.conrelid join pg_namespace n on n.oid = r.relnamespace
             where c.contype = 'f' and c.conparentid = 0 and c.confrelid = $1::text::regclass",
            &[&table.table.sql()],
        )
        .await
        .doing(Side::Target, what)?;
    for row in referring {
        let (name, from, to): (String, Vec<String>, Vec<String>) = (row.get(0), row.get(1), row.get(2));
        let same: Vec<String> = from.iter().zip(&to).map(|(f, t)| format!("c.{} = p.{}", ident(f), ident(t))).collect();
        let sql = format!(
            "select exists (select from {name} c, {} p where {} and ({}) in ({}))",
            table.table.sql(),
            same.join(" and "),
            table.key.iter().map(|k| format!("p.{}", ident(k))).collect::<Vec<_>>().join(", "),
            tuples(std::slice::from_ref(key))
        );
        if tx.query_one(&sql, &[]).await.doing(Side::Target, what)?.get(0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The move's bookkeeping of what it brought goes.
pub(crate) async fn forget(spec: &MoveSpec, client: &impl tokio_postgres::GenericClient) -> Result<(), MoveError> {
    client
        .execute("delete from berth.brought where move = $1", &[&spec.short_id()])
        .await
        .doing(Side::Target, "forgetting what was brought")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Nobodys, Row, Watched, datums};
    use std::collections::BTreeMap;

    fn key(text: &str) -> Vec<crate::pgoutput::Datum> {
        datums(&vec![text.to_owned()])
    }

    fn rows(key: &str) -> Nobodys {
        Nobodys(vec![BTreeMap::from([(vec![key.to_owned()], Row { values: vec![], hash: String::new() })])])
    }

    #[test]
    fn a_strangers_change_counts_only_while_rows_are_brought() {
        let mut watched = Watched::default();
        assert!(watched.take(1)[0].is_empty());
        watched.changed(0, key("stranger"));
        assert!(watched.is_quiet(), "a look that found nothing to bring is over at once");
        watched.brings();
        watched.changed(0, key("stranger"));
        watched.changed(0, key("ours"));
        watched.knows(&rows("ours"));
        assert_eq!(
            watched.take(1)[0].iter().flatten().collect::<Vec<_>>(),
            ["ours"],
            "it changed while it was brought"
        );
        watched.knows(&rows("ours"));
        watched.changed(0, key("stranger"));
        assert!(watched.is_quiet());
        watched.referred(0, key("new"));
        assert!(!watched.is_quiet());
    }
}
