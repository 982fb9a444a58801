//! What must hold for any bytes at all, for the parsers of what a Postgres server sends. Built by `cargo fuzz` alone, with
//! `--cfg fuzzing`; `scripts/soak fuzz` runs it.
//!
//! Never opens a connection.

use crate::{
    MovePlan, SharedTable, TableName,
    owned::Owned,
    pgoutput::{Datum, Decoded, Decoder, Op, sample},
    wal::{self, Lsn},
};
use bytes::Bytes;

const TENANT: &str = "a";

/// A table of tenants' rows and one of nobody's.
fn plan() -> MovePlan {
    let shared = SharedTable {
        table: TableName::new("public", "s"),
        columns: vec![sample::column("id")],
        key: vec!["id".into()],
        refers: vec![],
        rows: 0,
    };
    MovePlan { shared: vec![shared], ..sample::plan() }
}

/// Messages of any kind, each after a byte that says how long it is: no insert of another tenant's is ever taken, and no
/// row has more or fewer columns than the plan.
pub fn pgoutput(mut bytes: &[u8]) {
    let plan = plan();
    let mut decoder = Decoder::new(&plan, Owned::new(&plan, TENANT), "m1:", Lsn::default());
    for (id, table, columns) in [(1, "t", &["tenant", "id", "body"][..]), (2, "s", &["id"][..])] {
        decoder.message(sample::relation(None, id, table, columns)).expect("it is as the plan has it");
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
