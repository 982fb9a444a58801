//! A plan, and what a server announces of its tables: for the tests and for `cargo fuzz`.

use crate::{MovePlan, PlannedColumn, PlannedTable, TableName};
use bytes::{BufMut as _, Bytes, BytesMut};

/// One table of tenants' rows, `public.t (id, tenant, body)`.
pub(crate) fn plan() -> MovePlan {
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
        shared: vec![],
        inner: vec![],
        unsure: vec![],
        neighbours: Vec::new(),
        notes: vec![],
        beside: vec![],
        sequences: vec![],
        rows: 0,
        bytes: 0,
        fingerprint: String::new(),
        estimated_s: 0.0,
    }
}

pub(crate) fn column(name: &str) -> PlannedColumn {
    PlannedColumn { name: name.into(), type_name: "text".into(), always_identity: false, not_null: false }
}

/// What the server announces of a table before its rows. `block`: the streamed transaction that it is said in.
pub(crate) fn relation(block: Option<u32>, id: u32, table: &str, columns: &[&str]) -> Bytes {
    let mut m = BytesMut::new();
    m.put_u8(b'R');
    if let Some(xid) = block {
        m.put_u32(xid);
    }
    m.put_u32(id);
    m.put_slice(b"public\0");
    m.put_slice(table.as_bytes());
    m.put_slice(b"\0d");
    m.put_u16(u16::try_from(columns.len()).expect("a table has fewer"));
    for column in columns {
        m.put_u8(0);
        m.put_slice(column.as_bytes());
        m.put_u8(0);
        m.put_u32(25);
        m.put_u32(0);
    }
    m.freeze()
}
