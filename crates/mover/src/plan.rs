//! What is to be moved: the request, and the plan made from the source's catalogue.
//!
//! A plan is data: it is journalled, shown by `--dry-run`, and read again by a worker that takes over.

use crate::compare::{Hash, key_hash};
use crate::pgoutput::Datum;
use crate::{Beside, BesidePlan, Endpoint, Kept, ReadAhead, TableName};
use berth_domain::{CellId, MoveId, TenantKey};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// What the catalogue cannot say and the stack file does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRules {
    /// The table with one row per tenant.
    pub root: TableName,
    /// Its key column.
    pub key_column: String,
    /// The column that names the tenant in every other table.
    pub tenant_column: String,
    /// Tables whose tenant column has another name.
    pub tenant_columns: BTreeMap<TableNameText, String>,
    /// Tables that stay where they are (bookkeeping of migrations, the same rows in every cell).
    pub leave_out: Vec<TableName>,
    /// Tables whose rows belong to no tenant and travel along where the tenant's rows refer to them. Afterwards each
    /// database has its own copy.
    #[serde(default)]
    pub shared: Vec<TableName>,
    /// References that no foreign key declares.
    #[serde(default)]
    pub links: Vec<LinkRule>,
    /// Tables of which a plan keeps the younger rows only, and the column that says when a row is from.
    #[serde(default)]
    pub retention: BTreeMap<TableNameText, String>,
}

impl DataRules {
    /// Root table, its key, and the column that names the tenant elsewhere; nothing else said.
    pub fn of(root: &str, key_column: &str, tenant_column: &str) -> Self {
        Self {
            root: TableName::parse(root),
            key_column: key_column.to_owned(),
            tenant_column: tenant_column.to_owned(),
            tenant_columns: BTreeMap::new(),
            leave_out: Vec::new(),
            shared: Vec::new(),
            links: Vec::new(),
            retention: BTreeMap::new(),
        }
    }
}

/// A reference that no foreign key declares: rows of `table` name rows of `to` by its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRule {
    pub table: TableName,
    /// In the order of the key of `to`.
    pub columns: Vec<String>,
    pub to: TableName,
    /// Only rows in which this column has this value refer there: a polymorphic reference.
    #[serde(default)]
    pub when: Option<(String, String)>,
}

/// `schema.table` as a map key.
pub type TableNameText = String;

/// One move, as asked for.
#[derive(Clone, Debug)]
pub struct MoveSpec {
    pub id: MoveId,
    pub tenant: TenantKey,
    pub rules: DataRules,
    pub source: Endpoint,
    pub target: Endpoint,
    pub source_cell: CellId,
    pub target_cell: CellId,
    /// Free room where the target keeps its data, if its provider says so.
    pub target_free_bytes: Option<u64>,
    /// Nobody else has rows in the target or gets any while the tenant moves: a large table may lose its keys for the
    /// load, and is emptied as a whole when the copy starts again.
    pub alone: bool,
    /// On a move down: of the tables in [`DataRules::retention`] only rows from this day on travel, in UTC.
    pub keep_from: Option<jiff::civil::Date>,
    /// Whether the source is to be kept up to date after the cut-over, so that the move can be undone.
    pub way_back: bool,
    pub way: Way,
    /// What travels besides rows.
    pub beside: Beside,
    pub tuning: Tuning,
    /// Shared by the steps of one run in one process.
    pub ahead: ReadAhead,
}

/// Which way a move's changes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    There,
    /// The same move with its sides exchanged: what keeps the old side up to date, and what undoes it.
    Back,
}

/// Bounds and batch sizes. The defaults are those of the design's promises.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Copies that run side by side.
    pub copy_workers: usize,
    /// A table with at least this many rows of the tenant is loaded bare when the tenant is alone in the target and the
    /// table is empty there: its keys and indexes are built afterwards.
    pub bare_load_rows: i64,
    /// A lock that neighbours would queue behind is waited for this long at most, in milliseconds; at first half as long.
    pub lock_wait_ms: u64,
    /// Keys still to be compared when the pause may begin.
    pub open_keys_most: usize,
    /// The whole pause, from hold to commit point, in milliseconds.
    pub pause_most_ms: u64,
    /// A transaction of the tenant older than this keeps the pause from beginning, in milliseconds.
    pub old_transaction_ms: u64,
    /// Attempts at the cut-over before the move is given up.
    pub attempts: u32,
    /// How long edges wait for requests in flight, in milliseconds.
    pub drain_ms: u32,
    /// WAL that a way back may hold in the server it starts from, in bytes; beyond it the way back is given up.
    pub way_back_wal_bytes: u64,
    /// WAL that a move may hold in its source, in bytes; beyond it the move ends rather than the server's disk.
    pub move_wal_bytes: u64,
    /// How long a server may take to make a replication slot, in milliseconds: it waits for every transaction that has
    /// written and is not over. Then the move names who is waited for, and asks again.
    pub slot_wait_ms: u64,
    /// A copy rests while the neighbours' commits take longer than before it, by this factor. Up to 1: it never rests.
    pub neighbours_slowdown: f64,
    /// The largest share of the time that a copy rests, in thousandths, below 1,000.
    pub rest_most_permille: u32,
}

impl Tuning {
    pub(crate) fn slot_wait(&self) -> Duration {
        Duration::from_millis(self.slot_wait_ms)
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            copy_workers: 2,
            bare_load_rows: 20_000,
            lock_wait_ms: 10,
            open_keys_most: 100,
            pause_most_ms: 100,
            old_transaction_ms: 20,
            attempts: 200,
            drain_ms: 50,
            way_back_wal_bytes: 4 << 30,
            move_wal_bytes: 16 << 30,
            slot_wait_ms: 60_000,
            neighbours_slowdown: 2.0,
            rest_most_permille: 600,
        }
    }
}

/// One table of the closure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTable {
    pub table: TableName,
    /// The column that holds the tenant's key: the root's key column in the root table. None where rows belong to the
    /// tenant only through others.
    pub tenant_column: Option<String>,
    /// The rows that a row belongs to. Counts where there is no tenant column, and where that is null.
    #[serde(default)]
    pub through: Vec<Link>,
    /// References to rows of nobody: columns, and the index of their table in [`MovePlan::shared`].
    #[serde(default)]
    pub refers: Vec<Reference>,
    /// Columns that travel, in the source's order. Generated ones are computed by the target.
    pub columns: Vec<PlannedColumn>,
    /// The columns that identify a row in the change stream.
    pub key: Vec<String>,
    /// The tenant's rows and the bytes they are estimated to take.
    pub rows: i64,
    pub bytes: i64,
    /// Whether COPY may pass binary images through: not when a type's number is the database's own.
    pub binary: bool,
    /// What of its rows travels, where not all of them do.
    #[serde(default)]
    pub kept: Option<Kept>,
}

/// A reference by which a row belongs to the tenant that its parent belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// In the order of the parent's key.
    pub columns: Vec<String>,
    pub to: TableName,
    #[serde(default)]
    pub when: Option<(String, String)>,
    /// Whether a foreign key declares it.
    pub declared: bool,
    /// Whether that foreign key holds at every statement's end: then the parent comes first in the stream.
    pub checked: bool,
}

/// A reference to a row of nobody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// In the order of that table's key.
    pub columns: Vec<String>,
    /// Its place in [`MovePlan::shared`].
    pub to: usize,
}

/// A reference that must not lead from one tenant to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerReference {
    pub table: TableName,
    pub columns: Vec<String>,
    pub to: TableName,
    pub to_columns: Vec<String>,
}

/// A table of nobody whose rows travel along where the tenant's rows refer to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedTable {
    pub table: TableName,
    pub columns: Vec<PlannedColumn>,
    pub key: Vec<String>,
    /// Its own references to rows of nobody.
    pub refers: Vec<Reference>,
    /// Rows that the tenant's rows refer to, directly or through others.
    pub rows: i64,
}

/// What the catalogue does not say for sure, and the line of the stack file that would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsure {
    pub table: TableName,
    pub says: String,
    /// To be added under `data`.
    pub line: String,
}

/// One column that travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedColumn {
    pub name: String,
    pub type_name: String,
    /// `GENERATED ALWAYS AS IDENTITY`: an update may not name it, not even with the value that it has.
    #[serde(default)]
    pub always_identity: bool,
    #[serde(default)]
    pub not_null: bool,
}

/// A sequence that fills a column of the closure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedSequence {
    pub sequence: TableName,
    pub table: TableName,
    pub column: String,
}

/// Everything a move will do, before it does anything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MovePlan {
    /// Parents before those that belong to the tenant through them.
    pub tables: Vec<PlannedTable>,
    /// Rows of nobody that travel along.
    #[serde(default)]
    pub shared: Vec<SharedTable>,
    /// References between its tables, besides those by which rows belong to a tenant.
    #[serde(default)]
    pub inner: Vec<InnerReference>,
    #[serde(default)]
    pub unsure: Vec<Unsure>,
    /// What a person has to know before the move.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What it costs those who stay where they are.
    #[serde(default)]
    pub neighbours: Vec<String>,
    /// Keys and objects that travel along, and are not fenced.
    #[serde(default)]
    pub beside: Vec<BesidePlan>,
    pub sequences: Vec<PlannedSequence>,
    pub rows: i64,
    pub bytes: i64,
    /// Columns, types and rules of the closure, hashed; equal on both sides. How the source's tables stand (partitions,
    /// files, the fence's triggers) is noted elsewhere when they are copied.
    pub fingerprint: String,
    /// Computed from the rows and the rate that the first measured moves had; shown as an estimate.
    pub estimated_s: f64,
}

impl PlannedTable {
    pub(crate) fn column_list(&self) -> String {
        column_list(&self.columns)
    }

    /// A row's text form, as both sides compute it: named columns, settings pinned by the session.
    pub(crate) fn row_hash_sql(&self) -> String {
        row_hash_sql(&self.columns)
    }

    /// A key's hash, which the follower computes from the stream too: see [`PlannedTable::key_hash`].
    pub(crate) fn key_hash_sql(&self) -> String {
        self.key.iter().zip(self.uuids_of_key()).fold("0".to_owned(), |before, (column, is_uuid)| {
            let c = crate::sql::ident(column);
            if is_uuid {
                return uuid_hash_sql(&c, &before);
            }
            // Not `::text`: of a bool or inet that is another text than the one in the stream.
            format!("pg_catalog.hashtextextended(pg_catalog.concat({c}) collate \"C\", {before})")
        })
    }

    pub(crate) fn key_hash(&self, key: &[Datum]) -> Hash {
        key_hash(key, self.uuids_of_key())
    }

    /// Of each column of the key, whether it is a uuid.
    pub(crate) fn uuids_of_key(&self) -> impl Iterator<Item = bool> + '_ {
        self.key.iter().map(|column| self.columns.iter().any(|c| c.name == *column && c.type_name == "uuid"))
    }

    pub(crate) fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|c| c.name == column)
    }
}

pub(crate) fn column_list(columns: &[PlannedColumn]) -> String {
    crate::sql::idents(&columns.iter().map(|c| c.name.as_str()).collect::<Vec<_>>())
}

/// Types whose text is never ambiguous beside another one's: it holds no unit separator.
const PLAIN_TYPES: &[&str] =
    &["uuid", "smallint", "integer", "bigint", "numeric", "boolean", "date", "time", "timestamp", "interval", "bytea"];
/// A function of Postgres takes 100 arguments; a column needs up to three.
const COLUMNS_AT_ONCE: usize = 30;

/// The hash of a row's text form: each column's text, with its length where it could run into the next one's, and
/// whether it is null where that can be; what is null is left out. `ROW(…)::text` says the same and takes almost twice as
/// long (a million rows of eight columns on a busy core: 2.3 s against 1.25; with separators as arguments of `concat` 1.53).
/// What the server hashes without loss needs no text and goes into the seed of what follows: a uuid that is not to be null, of
/// which all bytes are read, and floating-point numbers, of which only -0 is taken for 0: a zero is written out, with its place.
/// (Three uuids, three numbers and a time, with the key's hash: 0.40 s a million rows against 0.63 with the numbers as text.)
/// The server's hash of a bigint or a time folds their halves, so that two of them can have the same one whatever the seed.
pub(crate) fn row_hash_sql(columns: &[PlannedColumn]) -> String {
    let part = |(nth, column): &(usize, &PlannedColumn)| {
        let c = crate::sql::ident(&column.name);
        let null = if column.not_null { String::new() } else { format!("{c} is null, ") };
        if float_hash(column).is_some() {
            // No other part begins with a `z`.
            return format!(
                "{null}case when {c} OPERATOR(pg_catalog.=) '0' then pg_catalog.concat('z{nth}:', {c}) end"
            );
        }
        let plain = PLAIN_TYPES.iter().any(|known| {
            column.type_name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with(['(', ' ']))
                && !column.type_name.ends_with("[]")
        });
        let is_text = ["text", "character varying"].iter().any(|known| {
            column.type_name.strip_prefix(known).is_some_and(|rest| rest.is_empty() || rest.starts_with('('))
        });
        match (plain, is_text) {
            (true, _) => format!("{null}{c}"),
            (false, true) => format!("{null}pg_catalog.octet_length({c}), {c}"),
            (false, false) => format!("{null}pg_catalog.octet_length(pg_catalog.concat({c})), {c}"),
        }
    };
    let (uuids, others): (Vec<_>, Vec<_>) =
        columns.iter().enumerate().partition(|(_, c)| c.not_null && c.type_name == "uuid");
    let groups = others.chunks(COLUMNS_AT_ONCE).map(|group| {
        format!("pg_catalog.concat_ws(U&'\\001F', {})", group.iter().map(part).collect::<Vec<_>>().join(", "))
    });
    let mut text = groups.collect::<Vec<_>>().join(" || U&'\\001F' || ");
    if text.is_empty() {
        "''".clone_into(&mut text);
    }
    let seed = uuids
        .iter()
        .fold("0".to_owned(), |before, (_, column)| uuid_hash_sql(&crate::sql::ident(&column.name), &before));
    let seed = others.iter().fold(seed, |before, (_, column)| match float_hash(column) {
        Some(hash) => format!("{hash}(coalesce({}, '0'), {before})", crate::sql::ident(&column.name)),
        None => before,
    });
    format!("pg_catalog.hashtextextended(({text}) collate \"C\", {seed})")
}

/// The server's hash of a floating-point number, which takes -0 for 0 and nothing else for anything else. Of 0 it is the seed.
fn float_hash(column: &PlannedColumn) -> Option<&'static str> {
    match column.type_name.as_str() {
        "real" => Some("pg_catalog.hashfloat4extended"),
        "double precision" => Some("pg_catalog.hashfloat8extended"),
        _ => None,
    }
}

fn uuid_hash_sql(column: &str, before: &str) -> String {
    format!("coalesce(pg_catalog.uuid_hash_extended({column}, {before}), 0)")
}

impl Link {
    /// Which rows this is a reference of at all.
    fn applies(&self) -> String {
        self.when.as_ref().map_or_else(String::new, |(column, value)| {
            format!("{} OPERATOR(pg_catalog.=) {} and ", crate::sql::ident(column), crate::sql::literal(value))
        })
    }
}

impl MovePlan {
    pub(crate) fn table(&self, name: &TableName) -> Option<&PlannedTable> {
        self.tables.iter().find(|t| t.table == *name)
    }

    /// Which rows of a table are the tenant's, as a condition on its columns. The untyped literal takes the column's
    /// type.
    pub(crate) fn filter(&self, table: &PlannedTable, tenant: &TenantKey) -> String {
        self.owned(table, tenant, false)
    }

    /// As [`MovePlan::filter`] of the rows that travel: those that stay behind are the tenant's too.
    pub(crate) fn travelling(&self, table: &PlannedTable, tenant: &TenantKey) -> String {
        let filter = self.filter(table, tenant);
        table.kept.as_ref().map_or_else(|| filter.clone(), |kept| format!("{filter} and {}", kept.travels()))
    }

    /// As [`MovePlan::filter`] of the rows that stay behind; none where all travel.
    pub(crate) fn left_behind(&self, table: &PlannedTable, tenant: &TenantKey) -> Option<String> {
        let kept = table.kept.as_ref()?;
        Some(format!("{} and not {}", self.filter(table, tenant), kept.travels()))
    }

    /// Rows of the tenant that stay behind, as the plan counted them.
    pub fn left_rows(&self) -> i64 {
        self.tables.iter().filter_map(|t| t.kept.as_ref()).map(|kept| kept.left_rows).sum()
    }

    /// Key and row hashes of the tenant's rows in a table, for COPY in binary form.
    pub(crate) fn hashes_sql(&self, table: &PlannedTable, tenant: &TenantKey) -> String {
        self.some_hashes_sql(table, tenant, "")
    }

    /// The same of some rows only; `and`: nothing, or ` and CONDITION`.
    pub(crate) fn some_hashes_sql(&self, table: &PlannedTable, tenant: &TenantKey, and: &str) -> String {
        format!(
            "copy (select {}, {} from {} where {}{and}) to stdout (format binary)",
            table.key_hash_sql(),
            table.row_hash_sql(),
            table.table.sql(),
            self.travelling(table, tenant)
        )
    }

    /// As [`MovePlan::filter`] of the rows that a trigger calls `new_rows`, but takes in those that may be the tenant's for
    /// all that an old snapshot shows: those that refer, without a foreign key, to a row that it does not show. With a
    /// foreign key such a row is refused by the server, or its parent is written by the same transaction and passes a
    /// fence of its own.
    pub(crate) fn filter_widely(&self, table: &PlannedTable, tenant: &TenantKey) -> String {
        self.owned(table, tenant, true)
    }

    fn owned(&self, table: &PlannedTable, tenant: &TenantKey, widely: bool) -> String {
        use crate::sql::{ident, idents, literal};
        let mut ways = Vec::new();
        let mut only_where = String::new();
        if let Some(column) = &table.tenant_column {
            ways.push(format!("{} OPERATOR(pg_catalog.=) {}", ident(column), literal(tenant.as_str())));
            only_where = format!("{} is null and ", ident(column));
        }
        for link in &table.through {
            let Some(to) = self.table(&link.to) else { continue };
            let (applies, columns, key, parent) =
                (link.applies(), idents(&link.columns), idents(&to.key), to.table.sql());
            let theirs = self.owned(to, tenant, false);
            ways.push(format!("({only_where}{applies}({columns}) in (select {key} from {parent} where {theirs}))"));
            if widely && !link.declared {
                let same: Vec<String> = to
                    .key
                    .iter()
                    .zip(&link.columns)
                    .map(|(k, c)| format!("{} = new_rows.{}", ident(k), ident(c)))
                    .collect();
                ways.push(format!(
                    "({only_where}{applies}({columns}) is not null
                      and pg_catalog.current_setting('transaction_isolation') <> 'read committed'
                      and not exists (select from {parent} where {} and ({theirs}) is not true))",
                    same.join(" and ")
                ));
            }
        }
        if ways.len() == 1 { ways.remove(0) } else { format!("({})", ways.join(" or ")) }
    }
}

impl MoveSpec {
    /// The way back of this move: from where the tenant has moved to, to where it was.
    #[must_use]
    pub fn back(&self) -> Self {
        Self {
            source: self.target.clone(),
            target: self.source.clone(),
            source_cell: self.target_cell,
            target_cell: self.source_cell,
            target_free_bytes: None,
            way: match self.way {
                Way::There => Way::Back,
                Way::Back => Way::There,
            },
            alone: false,
            beside: self.beside.back(),
            ahead: ReadAhead::default(),
            ..self.clone()
        }
    }

    /// What sessions of this move are called in `pg_stat_activity`; a later worker ends those of an earlier token.
    pub(crate) fn session_name(&self, token: berth_domain::Token) -> String {
        format!("{}{token}", self.session_prefix())
    }

    /// Postgres cuts names at 63 bytes.
    pub(crate) fn session_prefix(&self) -> String {
        sessions_of(self.id)
    }

    /// What sessions are called that may make the tenant's fence. Of the tenant and not of the move: who takes the fence
    /// away ends those of every move.
    pub(crate) fn fencing_prefix(&self) -> String {
        format!("berth-fence-{:016x}-", crate::hash::text(self.tenant.as_str().as_bytes(), 0))
    }

    /// What sessions are called that take the tenant's fence away.
    pub(crate) fn unfencing(&self) -> String {
        format!("berth-unfence-{:016x}", crate::hash::text(self.tenant.as_str().as_bytes(), 0))
    }

    pub(crate) fn slot(&self) -> String {
        slot_of(self.id, self.way)
    }

    /// Named as the slot that reads it.
    pub(crate) fn publication(&self) -> String {
        self.slot()
    }

    /// What the move's markers in the stream begin with. Tokens are a tenant's own, so two moves out of one database
    /// have the same ones.
    pub(crate) fn marks(&self) -> String {
        format!("{}:", self.short_id())
    }

    /// The marker in the transaction that opens the target. In the target's own stream everything of the tenant before
    /// it is the mover's, and everything after it the application's.
    pub(crate) fn opened_mark(&self) -> String {
        format!("{}opened", self.marks())
    }

    /// See [`short`].
    pub(crate) fn short_id(&self) -> String {
        short(self.id)
    }
}

/// The random end of the move's id: its beginning is a time and would collide.
fn short(id: MoveId) -> String {
    let hex = id.uuid().simple().to_string();
    hex[12..].to_owned()
}

/// What the sessions of a move's workers are called, up to their token.
pub(crate) fn sessions_of(id: MoveId) -> String {
    format!("berth-move-{}-", short(id))
}

pub(crate) fn slot_of(id: MoveId, way: Way) -> String {
    match way {
        Way::There => format!("berth_{}", short(id)),
        Way::Back => format!("berth_{}_back", short(id)),
    }
}
