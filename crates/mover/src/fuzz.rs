//! What must hold for any bytes at all, for the parsers of what a Postgres server sends. Built by `cargo fuzz` alone, with
//! `--cfg fuzzing`; `scripts/soak fuzz` runs it.
//!
//! Never opens a connection.

use crate::{
    MovePlan, PlannedColumn, PlannedTable, SharedTable, TableName,
    owned::Owned,
    pgoutput::{Datum, Decoded, Decoder, Op},
    wal::{self, Lsn},
};
use bytes::{BufMut as _, Bytes, BytesMut};

const TENANT: &str = "a";

fn column(name: &str) -> PlannedColumn {
    PlannedColumn { name: name.into(), type_name: "text".into(), always_identity: false, not_null: false }
}

/// A table of tenants' rows and one of nobody's.
fn plan() -> MovePlan {
    MovePlan {
        tables: vec![PlannedTable {
            table: TableName::new("public", "t"),
            tenant_column: Some("tenant".into()),
            through: vec![],
            refers: vec![],
            columns: vec![column("id"), column("tenant"), column("body")],
            key: vec!["id".into()],
            rows: 0,
            bytes: 0,
            binary: true,
            kept: None,
        }],
        shared: vec![SharedTable {
            table: TableName::new("public", "s"),
            columns: vec![column("id")],
            key: vec!["id".into()],
            refers: vec![],
            rows: 0,
        }],
        inner: vec![],
        unsure: vec![],
        notes: vec![],
        beside: vec![],
        sequences: vec![],
        rows: 0,
        bytes: 0,
        fingerprint: String::new(),
        estimated_s: 0.0,
    }
}

/// What the server announces of a table before its rows.
fn announced(id: u32, table: &str, columns: &[&str]) -> Bytes {
    let mut m = BytesMut::new();
    m.put_u8(b'R');
    m.put_u32(id);
    m.put_slice(b"public\0");
    m.put_slice(table.as_bytes());
    m.put_slice(b"\0d");
    m.put_u16(columns.len() as u16);
    for column in columns {
        m.put_u8(0);
        m.put_slice(column.as_bytes());
        m.put_u8(0);
        m.put_u32(25);
        m.put_u32(0);
    }
    m.freeze()
}

/// Messages of any kind, each after a byte that says how long it is: no insert of another tenant's is ever taken, and no
/// row has more or fewer columns than the plan.
pub fn pgoutput(mut bytes: &[u8]) {
    let plan = plan();
    let mut decoder = Decoder::new(&plan, Owned::new(&plan, TENANT), "m1:", Lsn::default());
    for (id, table, columns) in [(1, "t", &["tenant", "id", "body"][..]), (2, "s", &["id"][..])] {
        decoder.message(announced(id, table, columns)).expect("it is as the plan has it");
    }
    while let Some((length, rest)) = bytes.split_first() {
        let (message, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        bytes = rest;
        match decoder.message(Bytes::copy_from_slice(message)) {
            Err(_) => return,
            Ok(Decoded::Nothing) => {}
            Ok(Decoded::Transaction(transaction)) => {
                for change in &transaction.changes {
                    let columns = plan.tables[change.table].columns.len();
                    match &change.op {
                        Op::Insert(row) => {
                            assert!(
                                row.len() == columns && row[1] == Datum::Text(Bytes::from_static(TENANT.as_bytes()))
                            );
                        }
                        Op::Update { old, new } => {
                            assert!(new.len() == columns && old.iter().all(|old| old.len() == columns));
                        }
                        Op::Delete(row) => assert!(row.len() == columns),
                    }
                }
                assert!(transaction.markers.iter().all(|marker| marker.starts_with("m1:")));
            }
        }
    }
}

/// A row of an answer is read whole or refused.
pub fn row(bytes: &[u8]) {
    if let Ok(row) = wal::row(Bytes::copy_from_slice(bytes)) {
        assert_eq!(row.len(), usize::from(u16::from_be_bytes([bytes[0], bytes[1]])));
    }
}
