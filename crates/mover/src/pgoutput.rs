//! Reads pgoutput, protocol version 2: messages to whole transactions, with only the tenant's rows in them.
//!
//! Rows of others are dropped on arrival, so a neighbour's large transaction costs its decoding and no memory.
//! Never touches a database.

use crate::wal::Lsn;
use crate::{MoveError, MovePlan};
use berth_domain::TenantKey;
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
}

/// What a message completed.
#[derive(Debug)]
pub(crate) enum Decoded {
    Nothing,
    Transaction(Transaction),
}

struct Relation {
    /// Index into the plan's tables; none for a table that does not travel.
    table: Option<usize>,
    /// For each column of the message its place in the plan, if it has one.
    columns: Vec<Option<usize>>,
}

/// Messages in, transactions out.
pub(crate) struct Decoder<'p> {
    plan: &'p MovePlan,
    tenant: &'p TenantKey,
    /// What this move's markers begin with: the stream carries those of every move out of the database.
    marks: &'p str,
    /// Until this marker nothing is taken.
    begins_at: Option<String>,
    relations: HashMap<u32, Relation>,
    open: Transaction,
    /// Transactions that are streamed while they still run, by their top-level id.
    streamed: HashMap<u32, Transaction>,
    /// The streamed transaction whose block is being read.
    block: Option<u32>,
}

impl<'p> Decoder<'p> {
    pub fn new(plan: &'p MovePlan, tenant: &'p TenantKey, marks: &'p str) -> Self {
        Self {
            plan,
            tenant,
            marks,
            begins_at: None,
            relations: HashMap::new(),
            open: Transaction::default(),
            streamed: HashMap::new(),
            block: None,
        }
    }

    /// Leaves out everything before the marker, if there is one.
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
                return Ok(Decoded::Transaction(done));
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
                return Ok(Decoded::Transaction(done));
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
                    if let Some(table) = self.relations.get(&u32_of(&mut m)?).and_then(|r| r.table) {
                        return Err(MoveError::Truncated { table: self.plan.tables[table].table.clone() });
                    }
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
        let table = self.plan.tables.iter().position(|t| t.table.schema == schema && t.table.name == name);
        let mut columns = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            u8_of(m)?;
            let column = text(m)?;
            u32_of(m)?;
            u32_of(m)?;
            let place = table.and_then(|t| self.plan.tables[t].position(&column));
            if table.is_some() && place.is_none() {
                return Err(MoveError::SchemaChanged { what: format!("`{name}` has a new column `{column}`") });
            }
            columns.push(place);
        }
        if let Some(t) = table
            && columns.len() != self.plan.tables[t].columns.len()
        {
            return Err(MoveError::SchemaChanged { what: format!("`{name}` has lost a column") });
        }
        self.relations.insert(id, Relation { table, columns });
        Ok(())
    }

    fn change(&mut self, id: u32, sub: u32, op: impl FnOnce(&Relation, usize) -> Op) -> Result<(), MoveError> {
        let relation = self
            .relations
            .get(&id)
            .ok_or_else(|| MoveError::Decode(format!("a change of relation {id}, which was not announced")))?;
        let Some(table) = relation.table.filter(|_| self.begins_at.is_none()) else { return Ok(()) };
        let planned = &self.plan.tables[table];
        let op = op(relation, planned.columns.len());
        let tenant = planned.position(&planned.tenant_column);
        let ours = |row: &Row| {
            tenant.is_some_and(|at| row[at] == Datum::Text(Bytes::copy_from_slice(self.tenant.as_str().as_bytes())))
        };
        let keep = match &op {
            Op::Insert(row) => ours(row),
            Op::Update { new, old } => {
                let was = old.as_ref().is_some_and(ours);
                if was && !ours(new) {
                    return Err(MoveError::TenantChanged { table: planned.table.to_string() });
                }
                ours(new)
            }
            // With the whole row as identity the tenant is known; with the key alone it is not.
            Op::Delete(row) => tenant.is_none_or(|at| row[at] == Datum::Null || ours(row)),
        };
        if keep {
            let transaction = match self.block {
                Some(xid) => self.streamed.entry(xid).or_default(),
                None => &mut self.open,
            };
            transaction.changes.push(Change { table, op, sub });
        }
        Ok(())
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
        if let Some(marker) = &self.begins_at {
            if prefix != "berth" || content != *marker {
                return Ok(());
            }
            self.begins_at = None;
        }
        match prefix.as_str() {
            "berth" if content.starts_with(self.marks) => {
                let transaction = match self.block {
                    Some(xid) => self.streamed.entry(xid).or_default(),
                    None => &mut self.open,
                };
                transaction.markers.push(content);
            }
            "berth.ddl" if self.plan.tables.iter().any(|t| t.table.is_named_in(&content)) => {
                return Err(MoveError::SchemaChanged { what: content });
            }
            "berth.tenant"
                if self.plan.tables.iter().any(|t| content == format!("{}.{}", t.table.schema, t.table.name)) =>
            {
                return Err(MoveError::TenantChanged { table: content });
            }
            _ => {}
        }
        Ok(())
    }
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

#[cfg(test)]
mod tests {
    use super::{Datum, Decoded, Decoder, Op};
    use crate::{MoveError, MovePlan, PlannedColumn, PlannedTable, TableName};
    use berth_domain::TenantKey;
    use bytes::{BufMut, Bytes, BytesMut};

    fn plan() -> MovePlan {
        let column = |name: &str| PlannedColumn { name: name.into(), type_name: "text".into(), always_identity: false };
        MovePlan {
            tables: vec![PlannedTable {
                table: TableName::new("public", "t"),
                tenant_column: "tenant".into(),
                columns: vec![column("id"), column("tenant"), column("body")],
                key: vec!["id".into()],
                rows: 0,
                bytes: 0,
                binary: true,
            }],
            sequences: vec![],
            rows: 0,
            bytes: 0,
            fingerprint: String::new(),
            estimated_s: 0.0,
        }
    }

    fn message(build: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut m = BytesMut::new();
        build(&mut m);
        m.freeze()
    }

    /// Columns arrive in another order than the plan's.
    fn relation(block: Option<u32>) -> Bytes {
        message(|m| {
            m.put_u8(b'R');
            if let Some(xid) = block {
                m.put_u32(xid);
            }
            m.put_u32(7);
            m.put_slice(b"public\0t\0d");
            m.put_u16(3);
            for name in ["tenant", "id", "body"] {
                m.put_u8(0);
                m.put_slice(name.as_bytes());
                m.put_u8(0);
                m.put_u32(25);
                m.put_u32(0);
            }
        })
    }

    fn put_row(m: &mut BytesMut, values: &[Option<&str>]) {
        m.put_u16(values.len() as u16);
        for value in values {
            match value {
                Some("~") => m.put_u8(b'u'),
                Some(v) => {
                    m.put_u8(b't');
                    m.put_u32(v.len() as u32);
                    m.put_slice(v.as_bytes());
                }
                None => m.put_u8(b'n'),
            }
        }
    }

    fn insert(block: Option<u32>, values: &[Option<&str>]) -> Bytes {
        message(|m| {
            m.put_u8(b'I');
            if let Some(sub) = block {
                m.put_u32(sub);
            }
            m.put_u32(7);
            m.put_u8(b'N');
            put_row(m, values);
        })
    }

    fn begin(xid: u32) -> Bytes {
        message(|m| {
            m.put_u8(b'B');
            m.put_u64(1);
            m.put_u64(2);
            m.put_u32(xid);
        })
    }

    fn commit() -> Bytes {
        message(|m| {
            m.put_u8(b'C');
            m.put_u8(0);
            m.put_u64(1);
            m.put_u64(99);
            m.put_u64(0);
        })
    }

    #[test]
    fn a_transaction_holds_the_tenants_rows_in_the_plans_order_and_no_others() {
        let (plan, tenant) = (plan(), TenantKey::new("a").unwrap());
        let mut decoder = Decoder::new(&plan, &tenant, "m1:");
        for m in [
            begin(5),
            relation(None),
            insert(None, &[Some("a"), Some("1"), None]),
            insert(None, &[Some("b"), Some("2"), None]),
        ] {
            assert!(matches!(decoder.message(m).unwrap(), Decoded::Nothing));
        }
        let Decoded::Transaction(done) = decoder.message(commit()).unwrap() else { panic!("no transaction") };
        assert_eq!((done.xid, done.end.0, done.changes.len()), (5, 99, 1));
        let text = |t: &'static str| Datum::Text(Bytes::from_static(t.as_bytes()));
        assert_eq!(done.changes[0].op, Op::Insert(vec![text("1"), text("a"), Datum::Null]));
    }

    #[test]
    fn markers_of_other_moves_are_not_taken_for_our_own() {
        let marker = |content: &str| {
            message(|m| {
                m.put_u8(b'M');
                m.put_u8(1);
                m.put_u64(1);
                m.put_slice(b"berth\0");
                m.put_u32(content.len() as u32);
                m.put_slice(content.as_bytes());
            })
        };
        let (plan, tenant) = (plan(), TenantKey::new("a").unwrap());
        let mut decoder = Decoder::new(&plan, &tenant, "m1:");
        for m in [begin(5), marker("m2:3:arm"), marker("m1:3:arm"), marker("m11:3:arm")] {
            decoder.message(m).unwrap();
        }
        let Decoded::Transaction(done) = decoder.message(commit()).unwrap() else { panic!("no transaction") };
        assert_eq!(done.markers, ["m1:3:arm"]);
    }

    #[test]
    fn a_streamed_transaction_loses_its_aborted_part() {
        let (plan, tenant) = (plan(), TenantKey::new("a").unwrap());
        let mut decoder = Decoder::new(&plan, &tenant, "m1:");
        let start = message(|m| {
            m.put_u8(b'S');
            m.put_u32(8);
            m.put_u8(1);
        });
        let stop = Bytes::from_static(b"E");
        let abort = message(|m| {
            m.put_u8(b'A');
            m.put_u32(8);
            m.put_u32(9);
        });
        let end = message(|m| {
            m.put_u8(b'c');
            m.put_u32(8);
            m.put_u8(0);
            m.put_u64(1);
            m.put_u64(77);
            m.put_u64(0);
        });
        for m in [
            start,
            relation(Some(8)),
            insert(Some(8), &[Some("a"), Some("1"), None]),
            insert(Some(9), &[Some("a"), Some("2"), None]),
            stop,
        ] {
            decoder.message(m).unwrap();
        }
        assert!(decoder.has_large_transaction());
        decoder.message(abort).unwrap();
        let Decoded::Transaction(done) = decoder.message(end).unwrap() else { panic!("no transaction") };
        assert_eq!((done.end.0, done.changes.len()), (77, 1));
        assert!(!decoder.has_large_transaction());
    }

    #[test]
    fn a_cut_off_message_is_an_error_and_never_a_panic() {
        let (plan, tenant) = (plan(), TenantKey::new("a").unwrap());
        for whole in [relation(None), insert(None, &[Some("a"), Some("1"), None]), begin(1), commit()] {
            for cut in 0..whole.len() {
                let mut decoder = Decoder::new(&plan, &tenant, "m1:");
                decoder.message(relation(None)).unwrap();
                let result = decoder.message(whole.slice(..cut));
                assert!(matches!(result, Err(MoveError::Decode(_))), "cut at {cut}: {result:?}");
            }
        }
    }

    #[test]
    fn a_new_column_ends_the_move() {
        let (mut plan, tenant) = (plan(), TenantKey::new("a").unwrap());
        plan.tables[0].columns.pop();
        let result = Decoder::new(&plan, &tenant, "m1:").message(relation(None));
        assert!(matches!(result, Err(MoveError::SchemaChanged { .. })), "{result:?}");
    }
}
