//! Reads pgoutput, protocol version 2: messages to whole transactions, with only the tenant's rows in them.
//!
//! Rows of others are dropped on arrival, so a neighbour's large transaction costs its decoding and no memory.
//! Never touches a database.

use crate::name::names;
use crate::owned::{Added, Owned};
use crate::wal::Lsn;
use crate::{MoveError, MovePlan};
use bytes::{Buf, Bytes};
use std::collections::HashMap;

/// One value of a row, in Postgres' text form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Datum {
    Null,
    Text(Bytes),
    /// A large value that the update left alone and the stream therefore leaves out.
    Unchanged,
}

pub(crate) type Row = Vec<Datum>;

/// A change of one row, columns in the plan's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Insert(Row),
    /// `old` is there when the key changed, or when the identity is the whole row.
    Update {
        old: Option<Row>,
        new: Row,
    },
    /// Carries the identity only, so it may be a neighbour's.
    Delete(Row),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Index into the plan's tables.
    pub table: usize,
    pub op: Op,
    /// The subtransaction it belongs to, as far as the stream says.
    sub: u32,
}

/// A committed transaction, as far as it concerns the tenant.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pub xid: u32,
    /// Position after its commit: the stream goes on here.
    pub end: Lsn,
    pub changes: Vec<Change>,
    /// Our own markers.
    pub markers: Vec<String>,
    /// Rows of nobody that changed: place in the plan's shared tables, key.
    pub nobodys: Vec<(usize, Vec<Datum>)>,
    added: Added,
    /// The table of the last update, where that left its row without a tenant.
    cleared: Option<usize>,
    /// What ends the following, should this transaction turn out to come after its beginning.
    ends: Option<Box<MoveError>>,
}

/// What a message completed.
#[derive(Debug)]
pub(crate) enum Decoded {
    Nothing,
    Transaction(Transaction),
}

/// What a relation of the stream is to the move.
#[derive(Clone, Copy)]
enum Place {
    /// Index into the plan's tables.
    Tenants(usize),
    /// Index into the plan's shared tables.
    Nobodys(usize),
    Stays,
}

struct Relation {
    place: Place,
    /// For each column of the message its place in the plan, if it has one.
    columns: Vec<Option<usize>>,
}

/// Messages in, transactions out.
pub(crate) struct Decoder<'p> {
    plan: &'p MovePlan,
    owned: Owned,
    /// Transactions that end here or earlier have been applied.
    from: Lsn,
    /// What this move's markers begin with: the stream carries those of every move out of the database.
    marks: &'p str,
    /// What is committed before this marker is not taken. What is only said before it, of a transaction that is streamed
    /// while it runs, may be committed after it.
    begins_at: Option<String>,
    relations: HashMap<u32, Relation>,
    open: Transaction,
    /// Transactions that are streamed while they still run, by their top-level id.
    streamed: HashMap<u32, Transaction>,
    /// The streamed transaction whose block is being read.
    block: Option<u32>,
}

impl<'p> Decoder<'p> {
    pub fn new(plan: &'p MovePlan, owned: Owned, marks: &'p str, from: Lsn) -> Self {
        Self {
            plan,
            owned,
            from,
            marks,
            begins_at: None,
            relations: HashMap::new(),
            open: Transaction::default(),
            streamed: HashMap::new(),
            block: None,
        }
    }

    /// Leaves out everything that is committed before the marker, if there is one.
    pub fn beginning_at(mut self, marker: Option<String>) -> Self {
        self.begins_at = marker;
        self
    }

    /// Whether a transaction of the tenant is under way that is too large to have been sent whole.
    pub fn has_large_transaction(&self) -> bool {
        self.streamed.values().any(|t| !t.changes.is_empty())
    }

    pub fn message(&mut self, mut m: Bytes) -> Result<Decoded, MoveError> {
        let tag = u8_of(&mut m)?;
        let sub = match (tag, self.block) {
            (b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M', Some(_)) => u32_of(&mut m)?,
            _ => 0,
        };
        match tag {
            b'B' => {
                u64_of(&mut m)?;
                u64_of(&mut m)?;
                self.open = Transaction { xid: u32_of(&mut m)?, ..Transaction::default() };
            }
            b'C' => {
                u8_of(&mut m)?;
                u64_of(&mut m)?;
                let mut done = std::mem::take(&mut self.open);
                done.end = Lsn(u64_of(&mut m)?);
                u64_of(&mut m)?;
                return self.committed(done);
            }
            b'S' => {
                let xid = u32_of(&mut m)?;
                self.streamed.entry(xid).or_insert_with(|| Transaction { xid, ..Transaction::default() });
                self.block = Some(xid);
            }
            b'E' => self.block = None,
            b'c' => {
                let xid = u32_of(&mut m)?;
                u8_of(&mut m)?;
                u64_of(&mut m)?;
                let mut done = self.streamed.remove(&xid).unwrap_or_default();
                done.xid = xid;
                done.end = Lsn(u64_of(&mut m)?);
                u64_of(&mut m)?;
                return self.committed(done);
            }
            b'A' => {
                let (xid, aborted) = (u32_of(&mut m)?, u32_of(&mut m)?);
                if xid == aborted {
                    self.streamed.remove(&xid);
                } else if let Some(transaction) = self.streamed.get_mut(&xid) {
                    transaction.changes.retain(|c| c.sub != aborted);
                }
            }
            b'R' => self.relation(&mut m)?,
            b'I' => {
                let id = u32_of(&mut m)?;
                u8_of(&mut m)?;
                let row = tuple(&mut m)?;
                self.change(id, sub, |relation, plan_columns| Op::Insert(relation.arrange(&row, plan_columns)))?;
            }
            b'U' => {
                let id = u32_of(&mut m)?;
                let mut old = None;
                let mut kind = u8_of(&mut m)?;
                if kind != b'N' {
                    old = Some(tuple(&mut m)?);
                    kind = u8_of(&mut m)?;
                }
                if kind != b'N' {
                    return Err(MoveError::Decode("an update without a new row".into()));
                }
                let new = tuple(&mut m)?;
                self.change(id, sub, |relation, n| Op::Update {
                    old: old.as_ref().map(|row| relation.arrange(row, n)),
                    new: relation.arrange(&new, n),
                })?;
            }
            b'D' => {
                let id = u32_of(&mut m)?;
                u8_of(&mut m)?;
                let row = tuple(&mut m)?;
                self.change(id, sub, |relation, n| Op::Delete(relation.arrange(&row, n)))?;
            }
            b'T' => {
                let count = u32_of(&mut m)?;
                u8_of(&mut m)?;
                for _ in 0..count {
                    let table = match self.relations.get(&u32_of(&mut m)?).map(|r| r.place) {
                        Some(Place::Tenants(table)) => &self.plan.tables[table].table,
                        Some(Place::Nobodys(table)) => &self.plan.shared[table].table,
                        Some(Place::Stays) | None => continue,
                    };
                    return Err(MoveError::Truncated { table: table.clone() });
                }
            }
            b'M' => self.marker(&mut m)?,
            // Origins and types say nothing that is needed: rows are text.
            b'O' | b'Y' => {}
            other => return Err(MoveError::Decode(format!("unknown message `{}`", char::from(other)))),
        }
        Ok(Decoded::Nothing)
    }

    fn relation(&mut self, m: &mut Bytes) -> Result<(), MoveError> {
        let id = u32_of(m)?;
        let (schema, name) = (text(m)?, text(m)?);
        u8_of(m)?;
        let count = u16_of(m)?;
        let is_named = |t: &crate::TableName| t.schema == schema && t.name == name;
        let place = if let Some(nth) = self.plan.tables.iter().position(|t| is_named(&t.table)) {
            Place::Tenants(nth)
        } else if let Some(nth) = self.plan.shared.iter().position(|t| is_named(&t.table)) {
            Place::Nobodys(nth)
        } else {
            Place::Stays
        };
        let planned: Option<&[crate::PlannedColumn]> = match place {
            Place::Tenants(nth) => Some(&self.plan.tables[nth].columns),
            Place::Nobodys(nth) => Some(&self.plan.shared[nth].columns),
            Place::Stays => None,
        };
        let mut columns = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            u8_of(m)?;
            let column = text(m)?;
            u32_of(m)?;
            u32_of(m)?;
            let at = planned.and_then(|p| p.iter().position(|c| c.name == column));
            if planned.is_some() && at.is_none() {
                return Err(MoveError::SchemaChanged { what: format!("`{name}` has a new column `{column}`") });
            }
            columns.push(at);
        }
        if planned.is_some_and(|p| p.len() != columns.len()) {
            return Err(MoveError::SchemaChanged { what: format!("`{name}` has lost a column") });
        }
        self.relations.insert(id, Relation { place, columns });
        Ok(())
    }

    fn change(&mut self, id: u32, sub: u32, op: impl FnOnce(&Relation, usize) -> Op) -> Result<(), MoveError> {
        let relation = self
            .relations
            .get(&id)
            .ok_or_else(|| MoveError::Decode(format!("a change of relation {id}, which was not announced")))?;
        let transaction = match self.block {
            Some(xid) => self.streamed.entry(xid).or_default(),
            None => &mut self.open,
        };
        match relation.place {
            Place::Stays => {}
            Place::Tenants(table) => {
                let op = op(relation, self.plan.tables[table].columns.len());
                if let Op::Update { new, .. } = &op {
                    transaction.cleared = self.owned.names_nobody(table, new).then_some(table);
                }
                if self.owned.leaves(table, &op) {
                    let error = left(self.plan, table, transaction.cleared == Some(table));
                    return self.ends(error);
                }
                if self.owned.may_be_ours(table, &op, &mut transaction.added) {
                    transaction.changes.push(Change { table, op, sub });
                }
            }
            Place::Nobodys(nth) => {
                let shared = &self.plan.shared[nth];
                let key_of = |row: &Row| -> Vec<Datum> {
                    let at = |k: &String| shared.columns.iter().position(|c| c.name == *k);
                    shared.key.iter().filter_map(at).map(|at| row[at].clone()).collect()
                };
                match op(relation, shared.columns.len()) {
                    Op::Insert(row) | Op::Delete(row) => transaction.nobodys.push((nth, key_of(&row))),
                    Op::Update { old, new } => {
                        transaction.nobodys.extend(old.iter().chain([&new]).map(|row| (nth, key_of(row))));
                    }
                }
            }
        }
        Ok(())
    }

    /// The transaction that is being read.
    fn current(&mut self) -> &mut Transaction {
        match self.block {
            Some(xid) => self.streamed.entry(xid).or_default(),
            None => &mut self.open,
        }
    }

    /// Before the beginning it is not known whether the transaction is committed after it.
    fn ends(&mut self, error: MoveError) -> Result<(), MoveError> {
        if self.begins_at.is_none() {
            return Err(error);
        }
        self.current().ends.get_or_insert_with(|| Box::new(error));
        Ok(())
    }

    /// What an earlier worker has applied is left out, what comes before the beginning, and what turns out not to be the
    /// tenant's.
    fn committed(&mut self, mut done: Transaction) -> Result<Decoded, MoveError> {
        if done.end <= self.from || self.begins_at.is_some() {
            return Ok(Decoded::Transaction(Transaction { xid: done.xid, end: done.end, ..Transaction::default() }));
        }
        if let Some(error) = done.ends.take() {
            return Err(*error);
        }
        self.owned.settle(&mut done.changes, |table, cleared| left(self.plan, table, cleared))?;
        Ok(Decoded::Transaction(done))
    }

    fn marker(&mut self, m: &mut Bytes) -> Result<(), MoveError> {
        u8_of(m)?;
        u64_of(m)?;
        let prefix = text(m)?;
        let length = u32_of(m)? as usize;
        if m.remaining() < length {
            return Err(short());
        }
        let content = String::from_utf8_lossy(&m.split_to(length)).into_owned();
        if prefix == "berth"
            && let Some(marker) = &self.begins_at
        {
            if content != *marker {
                return Ok(());
            }
            self.begins_at = None;
        }
        match prefix.as_str() {
            "berth" if content.starts_with(self.marks) => self.current().markers.push(content),
            "berth.ddl" if concerns(self.plan, &content) => {
                return self.ends(MoveError::SchemaChanged { what: content });
            }
            "berth.tenant" => {
                let is_named = |t: &crate::PlannedTable| content == format!("{}.{}", t.table.schema, t.table.name);
                if let Some(table) = self.plan.tables.iter().position(is_named) {
                    // The trigger that says it comes after the update.
                    let cleared = self.current().cleared == Some(table);
                    return self.ends(left(self.plan, table, cleared));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// What it is called that a row of this table went from or to the tenant. `cleared`: an update set its tenant column to null.
fn left(plan: &MovePlan, table: usize, cleared: bool) -> MoveError {
    let planned = &plan.tables[table];
    let name = planned.table.clone();
    match &planned.tenant_column {
        Some(column) if cleared => MoveError::TenantCleared { table: name, column: column.clone() },
        _ => MoveError::TenantChanged { table: name.to_string() },
    }
}

/// Whether a change of the schema is one of the plan's tables, or of the type of one of their columns. Only types of the
/// database's own are written with a schema; of an array or with a size, what is before that is the type.
fn concerns(plan: &MovePlan, change: &str) -> bool {
    let tables = plan.tables.iter().map(|t| (&t.table, &t.columns));
    tables.chain(plan.shared.iter().map(|t| (&t.table, &t.columns))).any(|(table, columns)| {
        let types = columns.iter().filter_map(|c| c.type_name.split(['(', '[']).next());
        table.is_named_in(change) || types.filter(|name| name.contains('.')).any(|name| names(change, name))
    })
}

impl Relation {
    fn arrange(&self, row: &[Datum], columns: usize) -> Row {
        let mut arranged = vec![Datum::Null; columns];
        for (datum, place) in row.iter().zip(&self.columns) {
            if let Some(place) = place {
                arranged[*place] = datum.clone();
            }
        }
        arranged
    }
}

fn tuple(m: &mut Bytes) -> Result<Row, MoveError> {
    let count = u16_of(m)?;
    let mut row = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        row.push(match u8_of(m)? {
            b'n' => Datum::Null,
            b'u' => Datum::Unchanged,
            b't' => {
                let length = u32_of(m)? as usize;
                if m.remaining() < length {
                    return Err(short());
                }
                Datum::Text(m.split_to(length))
            }
            other => return Err(MoveError::Decode(format!("a value of unknown form {other}"))),
        });
    }
    Ok(row)
}

fn short() -> MoveError {
    MoveError::Decode("a message that ends too early".into())
}

macro_rules! readers {
    ($($name:ident: $type:ty = $get:ident, $size:literal;)+) => {$(
        fn $name(m: &mut Bytes) -> Result<$type, MoveError> {
            if m.remaining() < $size { Err(short()) } else { Ok(m.$get()) }
        }
    )+};
}

readers! {
    u8_of: u8 = get_u8, 1;
    u16_of: u16 = get_u16, 2;
    u32_of: u32 = get_u32, 4;
    u64_of: u64 = get_u64, 8;
}

fn text(m: &mut Bytes) -> Result<String, MoveError> {
    let end = m.iter().position(|b| *b == 0).ok_or_else(short)?;
    let text = String::from_utf8_lossy(&m.split_to(end)).into_owned();
    m.advance(1);
    Ok(text)
}

#[cfg(any(test, fuzzing))]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
