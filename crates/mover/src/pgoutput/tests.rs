//! Messages built by hand, as the protocol's documentation describes them.

use super::{
    Datum, Decoded, Decoder, Op, concerns,
    sample::{self, plan},
};
use crate::owned::Owned;
use crate::wal::Lsn;
use crate::{MoveError, MovePlan};
use bytes::{BufMut, Bytes, BytesMut};

fn decoder(plan: &MovePlan) -> Decoder<'_> {
    Decoder::new(plan, Owned::new(plan, "a"), "m1:", Lsn::default())
}

fn message(build: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut m = BytesMut::new();
    build(&mut m);
    m.freeze()
}

/// Columns arrive in another order than the plan's.
fn relation(block: Option<u32>) -> Bytes {
    sample::relation(block, 7, "t", &["tenant", "id", "body"])
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
    let plan = plan();
    let mut decoder = decoder(&plan);
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

/// An update as it comes with the key as identity, then what the fence says of the table.
fn gone_from_the_tenant(tenant: Option<&str>) -> MoveError {
    let plan = plan();
    let mut decoder = decoder(&plan);
    let update = message(|m| {
        m.put_u8(b'U');
        m.put_u32(7);
        m.put_u8(b'N');
        put_row(m, &[tenant, Some("1"), None]);
    });
    for m in [begin(5), relation(None), update] {
        decoder.message(m).unwrap();
    }
    decoder.message(said(None, "berth.tenant", "public.t")).unwrap_err()
}

#[test]
fn a_row_whose_tenant_becomes_null_is_told_from_one_that_becomes_anothers() {
    let error = gone_from_the_tenant(None);
    assert_eq!(error.to_string(), "a row of `t` lost its tenant during the move: an update set its `tenant` to null");
    assert!(
        error.hint().contains(r#"ALTER TABLE "public"."t" ALTER COLUMN "tenant" SET NOT NULL"#),
        "{}",
        error.hint()
    );
    let error = gone_from_the_tenant(Some("b"));
    assert_eq!(error.to_string(), "a row of `t` changed its tenant during the move");
}

fn said(block: Option<u32>, prefix: &str, content: &str) -> Bytes {
    message(|m| {
        m.put_u8(b'M');
        if let Some(xid) = block {
            m.put_u32(xid);
        }
        m.put_u8(1);
        m.put_u64(1);
        m.put_slice(prefix.as_bytes());
        m.put_u8(0);
        m.put_u32(content.len() as u32);
        m.put_slice(content.as_bytes());
    })
}

fn stream_start(xid: u32) -> Bytes {
    message(|m| {
        m.put_u8(b'S');
        m.put_u32(xid);
        m.put_u8(1);
    })
}

fn stream_stop() -> Bytes {
    Bytes::from_static(b"E")
}

fn stream_commit(xid: u32) -> Bytes {
    message(|m| {
        m.put_u8(b'c');
        m.put_u32(xid);
        m.put_u8(0);
        m.put_u64(1);
        m.put_u64(77);
        m.put_u64(0);
    })
}

#[test]
fn what_is_streamed_before_the_beginning_counts_when_it_is_committed_after_it() {
    let plan = plan();
    let mut decoder = decoder(&plan).beginning_at(Some("m1:opened".into()));
    let done = |decoder: &mut Decoder<'_>, message: Bytes| match decoder.message(message) {
        Ok(Decoded::Transaction(done)) => done,
        other => panic!("no transaction: {other:?}"),
    };
    // Three transactions begin; one is over before the beginning, and so is a small one.
    for xid in [8, 9, 10] {
        for m in [
            stream_start(xid),
            relation(Some(xid)),
            insert(Some(xid), &[Some("a"), Some("1"), None]),
            said(Some(xid), "berth.ddl", if xid == 9 { "ALTER TABLE public.other" } else { "ALTER TABLE public.t" }),
            stream_stop(),
        ] {
            assert!(matches!(decoder.message(m).unwrap(), Decoded::Nothing));
        }
    }
    assert!(done(&mut decoder, stream_commit(8)).changes.is_empty());
    for m in [begin(5), relation(None), insert(None, &[Some("a"), Some("2"), None])] {
        decoder.message(m).unwrap();
    }
    assert!(done(&mut decoder, commit()).changes.is_empty());
    for m in [begin(6), said(None, "berth", "m1:opened")] {
        decoder.message(m).unwrap();
    }
    assert_eq!(done(&mut decoder, commit()).markers, ["m1:opened"]);
    assert_eq!(done(&mut decoder, stream_commit(9)).changes.len(), 1);
    let ended = decoder.message(stream_commit(10));
    assert!(matches!(ended, Err(MoveError::SchemaChanged { .. })), "{ended:?}");
}

#[test]
fn markers_of_other_moves_are_not_taken_for_our_own() {
    let marker = |content: &str| said(None, "berth", content);
    let plan = plan();
    let mut decoder = decoder(&plan);
    for m in [begin(5), marker("m2:3:arm"), marker("m1:3:arm"), marker("m11:3:arm")] {
        decoder.message(m).unwrap();
    }
    let Decoded::Transaction(done) = decoder.message(commit()).unwrap() else { panic!("no transaction") };
    assert_eq!(done.markers, ["m1:3:arm"]);
}

#[test]
fn a_streamed_transaction_loses_its_aborted_part() {
    let plan = plan();
    let mut decoder = decoder(&plan);
    let abort = message(|m| {
        m.put_u8(b'A');
        m.put_u32(8);
        m.put_u32(9);
    });
    for m in [
        stream_start(8),
        relation(Some(8)),
        insert(Some(8), &[Some("a"), Some("1"), None]),
        insert(Some(9), &[Some("a"), Some("2"), None]),
        stream_stop(),
    ] {
        decoder.message(m).unwrap();
    }
    assert!(decoder.has_large_transaction());
    decoder.message(abort).unwrap();
    let Decoded::Transaction(done) = decoder.message(stream_commit(8)).unwrap() else { panic!("no transaction") };
    assert_eq!((done.end.0, done.changes.len()), (77, 1));
    assert!(!decoder.has_large_transaction());
}

#[test]
fn a_cut_off_message_is_an_error_and_never_a_panic() {
    let plan = plan();
    for whole in [relation(None), insert(None, &[Some("a"), Some("1"), None]), begin(1), commit()] {
        for cut in 0..whole.len() {
            let mut decoder = decoder(&plan);
            decoder.message(relation(None)).unwrap();
            let result = decoder.message(whole.slice(..cut));
            assert!(matches!(result, Err(MoveError::Decode(_))), "cut at {cut}: {result:?}");
        }
    }
}

#[test]
fn a_change_of_a_table_or_of_a_columns_type_concerns_the_move() {
    let mut plan = plan();
    plan.tables[0].columns[2].type_name = "public.\"Mood\"[]".into();
    for (change, ours) in [
        ("ALTER TABLE public.t", true),
        ("ALTER TABLE public.t_2", false),
        ("ALTER TYPE public.\"Mood\"", true),
        ("ALTER TYPE public.\"Moods\"", false),
        ("ALTER TYPE public.text", false),
    ] {
        assert_eq!(concerns(&plan, change), ours, "{change}");
    }
}

#[test]
fn a_new_column_ends_the_move() {
    let mut plan = plan();
    plan.tables[0].columns.pop();
    let result = decoder(&plan).message(relation(None));
    assert!(matches!(result, Err(MoveError::SchemaChanged { .. })), "{result:?}");
}
