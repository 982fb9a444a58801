//! Compares every row of the tenant on both sides while the source is being written.
//!
//! A row is its text form: named columns under pinned settings, hashed in the server. A type's own notion of
//! equality would call 1.0 = 1.00 and 0 = -0 the same.
//!
//! A key must agree unless its last change in the stream belongs to a transaction that the source's snapshot does
//! not see. That is decided by transaction id, never by position: a commit is in the WAL before it is visible.
//! Such keys stay *open* and are compared again; a few are left for the pause.

use crate::follow::Follower;
use crate::loaded::Unchecked;
use crate::pgoutput::Datum;
use crate::read_ahead::Rows;
use crate::sql::{Doing, idents, literal};
use crate::{MoveError, MovePlan, MoveSpec, Phase, PlannedTable, Progress, Side, Watcher, hash};
use futures_util::TryStreamExt;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};
use uuid::Uuid;

/// A marker comes back within this, or the stream is as good as broken.
const MARKER_LIMIT: Duration = Duration::from_mins(10);
/// Keys in one look-up.
pub(crate) const KEYS_PER_QUERY: usize = 400;
/// A table with fewer rows of the tenant is not worth two readers.
const SPLIT_ROWS: i64 = 50_000;
/// Rows between two words of progress.
const REPORT_EVERY: u64 = 100_000;

/// [`crate::hash`]: two values that differ have one in 2^64 cases the same.
pub(crate) type Hash = u64;
/// A key's and its row's.
pub(crate) type Pair = (Hash, Hash);

/// One row's key, as a hash that both servers and the stream compute alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct KeyRef {
    pub table: usize,
    pub hash: Hash,
}

/// Each key column's text, or the bytes of a uuid, hashed with what came before it as seed: see
/// [`PlannedTable::key_hash_sql`]. `uuids`: which of the columns are of that type; none where no server's hash is compared with.
pub(crate) fn key_hash(key: &[Datum], uuids: impl IntoIterator<Item = bool>) -> Hash {
    let columns = key.iter().zip(uuids.into_iter().chain(std::iter::repeat(false)));
    columns.fold(0, |before, (datum, is_uuid)| match datum {
        Datum::Text(text) => match is_uuid.then(|| Uuid::try_parse_ascii(text)) {
            Some(Ok(uuid)) => hash::text(uuid.as_bytes(), before),
            Some(Err(_)) | None => hash::text(text, before),
        },
        Datum::Null | Datum::Unchanged => before,
    })
}

pub(crate) fn key_text(key: &[Datum]) -> String {
    let parts: Vec<String> = key
        .iter()
        .map(|d| match d {
            Datum::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Datum::Null | Datum::Unchanged => "null".into(),
        })
        .collect();
    parts.join(", ")
}

/// Which keys changed, and by whom last.
#[derive(Default)]
pub(crate) struct Tracker {
    changed: HashMap<KeyRef, (u32, Vec<Datum>)>,
}

impl Tracker {
    pub fn changed(&mut self, key: KeyRef, xid: u32, values: Vec<Datum>) {
        self.changed.insert(key, (xid, values));
    }

    pub fn len(&self) -> usize {
        self.changed.len()
    }

    fn open(&self) -> Vec<(KeyRef, Vec<Datum>)> {
        self.changed.iter().map(|(key, (_, values))| (*key, values.clone())).collect()
    }

    fn unseen(&self, key: KeyRef, snapshot: &Snapshot) -> bool {
        self.changed.get(&key).is_some_and(|(xid, _)| !snapshot.sees(*xid))
    }

    /// Forgets the keys that a comparison under `snapshot` has settled.
    fn settle(&mut self, snapshot: &Snapshot, within: impl Fn(&KeyRef) -> bool) {
        self.changed.retain(|key, (xid, _)| !within(key) || !snapshot.sees(*xid));
    }
}

/// `pg_current_snapshot()`: which transactions had ended.
#[derive(Debug)]
pub(crate) struct Snapshot {
    xmin: u64,
    xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// The one that the transaction at hand has.
    pub async fn of(client: &Client) -> Result<Self, MoveError> {
        let row = client.query_one("select pg_current_snapshot()::text", &[]).await;
        let text: String = row.doing(Side::Source, "reading the snapshot")?.get(0);
        Self::parse(&text).ok_or_else(|| MoveError::Decode(format!("`{text}` is no snapshot")))
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let list = parts.next()?;
        let running = list.split(',').filter(|x| !x.is_empty()).map(|x| x.parse().ok()).collect::<Option<_>>()?;
        Some(Self { xmin, xmax, running })
    }

    /// The stream carries 32 bits of a transaction's id; the rest is that of its neighbours in time.
    fn sees(&self, xid: u32) -> bool {
        let near = self.xmax;
        let mut full = (near & !0xffff_ffff) | u64::from(xid);
        if full > near + (1 << 31) {
            full = full.saturating_sub(1 << 32);
        } else if full + (1 << 31) < near {
            full += 1 << 32;
        }
        full < self.xmin || (full < self.xmax && !self.running.contains(&full))
    }
}

/// The sessions of a comparison.
pub(crate) struct Comparer<'m> {
    pub spec: &'m MoveSpec,
    pub plan: &'m MovePlan,
    pub source: Client,
    pub target: Client,
    /// Reads a half of what the target holds.
    pub second_target: Client,
    /// Writes markers: a marker inside the snapshot's own transaction would only come at its end.
    pub writer: Client,
    pub markers: u64,
    /// Makes markers of this worker different from those of an earlier one.
    pub salt: String,
    /// Known once all rows are compared.
    pub unchecked: Unchecked,
}

impl Comparer<'_> {
    /// Compares every row once. Returns how many. `ahead`: the source's rows, if they were read under the snapshot of
    /// the copy and this follower has seen every change since.
    pub async fn all(
        &mut self,
        follower: &Follower,
        watcher: &dyn Watcher,
        ahead: Option<Rows>,
    ) -> Result<u64, MoveError> {
        self.unchecked = Box::pin(Unchecked::of(self.spec, self.plan, &self.target)).await?;
        let made = self.spec.ahead.take_made();
        let (snapshot, mut read, made) = match ahead {
            Some(rows) => (rows.snapshot, Some(rows.tables.into_iter()), made),
            None => (self.begin_source().await?, None, BTreeSet::new()),
        };
        if read.is_none() {
            self.pass_marker(follower).await?;
        }
        self.begin_target().await?;
        let mut verified = 0;
        for (nth, table) in self.plan.tables.iter().enumerate() {
            if watcher.cancelled() {
                return Err(MoveError::Cancelled);
            }
            let total = u64::try_from(self.plan.rows).ok();
            let report = |rows: u64| {
                watcher.progress(Progress {
                    rows_done: Some(verified + rows),
                    rows_total: total,
                    ..Progress::of(Phase::Compare)
                });
            };
            let (ours, theirs) = match read.as_mut().map(|tables| tables.next().unwrap_or_default()) {
                Some(ours) => (ours, self.target_rows(table, &report).await?),
                None => {
                    let sql = self.plan.hashes_sql(table, &self.spec.tenant);
                    tokio::try_join!(scan(&self.source, Side::Source, &sql, &report), async {
                        Ok([scan(&self.target, Side::Target, &sql, &|_| {}).await?, Vec::new()])
                    })?
                }
            };
            follower.check()?;
            let (count, differing) = tokio::task::spawn_blocking(move || merge(ours, theirs))
                .await
                .map_err(|_| MoveError::Decode("the comparison was stopped".into()))?;
            Self::judge(follower, nth, table, &snapshot, &differing)?;
            verified += count;
        }
        if read.is_none() {
            self.source.batch_execute("commit").await.doing(Side::Source, "ending a snapshot")?;
        }
        for client in [&self.target, &self.second_target] {
            client.batch_execute("commit").await.doing(Side::Target, "ending a snapshot")?;
        }
        // Under no snapshot: that would hold everybody's vacuum back. What changes from here on is tracked, and asked about then.
        let changed = follower.tracker(|t| t.changed.keys().map(|key| key.table).collect());
        self.unchecked.all(&self.target, &made, &changed).await?;
        follower.tracker(|t| t.settle(&snapshot, |_| true));
        Ok(verified)
    }

    /// The target's rows alone: two sessions with one snapshot, each a half of a large table.
    async fn target_rows(
        &self,
        table: &PlannedTable,
        report: &(dyn Fn(u64) + Sync),
    ) -> Result<[Vec<Pair>; 2], MoveError> {
        let middle: i64 = self
            .target
            .query_one(
                "select pg_relation_size($1::text::regclass) / current_setting('block_size')::int8 / 2",
                &[&table.table.sql()],
            )
            .await
            .doing(Side::Target, "looking at a table")?
            .get(0);
        if middle == 0 || table.rows < SPLIT_ROWS {
            let sql = self.plan.hashes_sql(table, &self.spec.tenant);
            return Ok([scan(&self.target, Side::Target, &sql, report).await?, Vec::new()]);
        }
        let part = |and: &str| self.plan.some_hashes_sql(table, &self.spec.tenant, and);
        let (first, second) =
            (part(&format!(" and ctid < '({middle},0)'")), part(&format!(" and ctid >= '({middle},0)'")));
        let halves = tokio::try_join!(
            scan(&self.target, Side::Target, &first, report),
            scan(&self.second_target, Side::Target, &second, &|_| {})
        )?;
        Ok(halves.into())
    }

    /// Compares the open keys once more. Returns how many are open now.
    pub async fn open_keys(&mut self, follower: &Follower) -> Result<usize, MoveError> {
        let keys = follower.tracker(|t| t.open());
        if keys.is_empty() {
            return Ok(0);
        }
        let snapshot = self.begin_source().await?;
        let ours = look_up(self.spec, self.plan, &self.source, Side::Source, &keys).await?;
        // Nothing else is read under this snapshot, and everybody's vacuum waits for it.
        self.source.batch_execute("commit").await.doing(Side::Source, "ending a snapshot")?;
        self.pass_marker(follower).await?;
        let (theirs, ()) = tokio::try_join!(
            look_up(self.spec, self.plan, &self.target, Side::Target, &keys),
            self.unchecked.of_keys(&self.second_target, &keys)
        )?;
        for (key, values) in &keys {
            if ours.get(key) != theirs.get(key) && !follower.tracker(|t| t.unseen(*key, &snapshot)) {
                return Err(differs(self.plan, *key, values, 1));
            }
        }
        let compared: HashSet<KeyRef> = keys.iter().map(|(key, _)| *key).collect();
        follower.tracker(|t| t.settle(&snapshot, |key| compared.contains(key)));
        Ok(follower.tracker(|t| t.len()))
    }

    /// Inside the pause: both sides stand still, so every key that is still open must agree now.
    pub async fn last_keys(&self, follower: &Follower) -> Result<(), MoveError> {
        let keys = follower.tracker(|t| t.open());
        if keys.is_empty() {
            return Ok(());
        }
        let (ours, theirs, ()) = tokio::try_join!(
            look_up(self.spec, self.plan, &self.source, Side::Source, &keys),
            look_up(self.spec, self.plan, &self.target, Side::Target, &keys),
            // Or they would wait for each other.
            self.unchecked.of_keys(&self.second_target, &keys)
        )?;
        for (key, values) in &keys {
            if ours.get(key) != theirs.get(key) {
                return Err(differs(self.plan, *key, values, 1));
            }
        }
        Ok(())
    }

    /// Inside the pause: rows that belong to the tenant through a reference which no foreign key declares can become the
    /// tenant's, or cease to be, without a change of their own. Their number says so.
    pub async fn last_counts(&self) -> Result<(), MoveError> {
        for table in self.plan.tables.iter().filter(|t| t.through.iter().any(|link| !link.declared)) {
            let sql = format!(
                "select count(*) from {} where {}",
                table.table.sql(),
                self.plan.travelling(table, &self.spec.tenant)
            );
            let count = async |client: &Client, side: Side| -> Result<i64, MoveError> {
                Ok(client.query_one(&sql, &[]).await.doing(side, "counting rows")?.get(0))
            };
            let (ours, theirs) =
                tokio::try_join!(count(&self.source, Side::Source), count(&self.target, Side::Target))?;
            if ours != theirs {
                return Err(MoveError::Differs {
                    table: table.table.clone(),
                    rows: ours.abs_diff(theirs),
                    first_key: "not known: a row that it refers to came or went".into(),
                });
            }
        }
        Ok(())
    }

    /// Writes a marker into the source and waits until it has been applied: everything committed before is there.
    pub async fn pass_marker(&mut self, follower: &Follower) -> Result<Duration, MoveError> {
        self.markers += 1;
        let marker = format!("{}{}:compare:{}", self.spec.marks(), self.salt, self.markers);
        let sent = std::time::Instant::now();
        self.writer
            .execute("select pg_logical_emit_message(true, 'berth', $1::text)", &[&marker])
            .await
            .doing(Side::Source, "writing a marker")?;
        if follower.wait_marker(&marker, MARKER_LIMIT).await? {
            Ok(sent.elapsed())
        } else {
            Err(MoveError::Stream(std::io::Error::other("a marker did not come back")))
        }
    }

    async fn begin_source(&self) -> Result<Snapshot, MoveError> {
        let what = "taking a snapshot";
        self.source.batch_execute("begin isolation level repeatable read read only").await.doing(Side::Source, what)?;
        Snapshot::of(&self.source).await
    }

    async fn begin_target(&self) -> Result<(), MoveError> {
        let what = "taking a snapshot";
        let mut begin = "begin isolation level repeatable read read only".to_owned();
        if self.spec.alone {
            // Nearly every row is the tenant's, which statistics that are not made yet do not say.
            begin += "; set local enable_indexscan = off; set local enable_bitmapscan = off";
        }
        self.target.batch_execute(&begin).await.doing(Side::Target, what)?;
        let name = self.target.query_one("select pg_export_snapshot()", &[]).await.doing(Side::Target, what)?;
        let name: String = name.get(0);
        self.second_target
            .batch_execute(&begin.replacen("read only", &format!("read only; set transaction snapshot '{name}'"), 1))
            .await
            .doing(Side::Target, what)
    }

    fn judge(
        follower: &Follower,
        nth: usize,
        table: &PlannedTable,
        snapshot: &Snapshot,
        differing: &[Hash],
    ) -> Result<(), MoveError> {
        let wrong: Vec<&Hash> = differing
            .iter()
            .filter(|hash| !follower.tracker(|t| t.unseen(KeyRef { table: nth, hash: **hash }, snapshot)))
            .collect();
        match wrong.first() {
            None => Ok(()),
            Some(first) => Err(MoveError::Differs {
                table: table.table.clone(),
                rows: wrong.len() as u64,
                first_key: format!("with hash {first:016x}"),
            }),
        }
    }
}

fn differs(plan: &MovePlan, key: KeyRef, values: &[Datum], rows: u64) -> MoveError {
    MoveError::Differs { table: plan.tables[key.table].table.clone(), rows, first_key: key_text(values) }
}

/// Reads (key hash, row hash) pairs in binary: two 8-byte fields a row, nothing to parse. Sorted.
pub(crate) async fn scan(
    client: &Client,
    side: Side,
    sql: &str,
    report: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Pair>, MoveError> {
    const HEADER: usize = 19;
    const ROW: usize = 2 + 4 + 8 + 4 + 8;
    let what = "reading rows to compare";
    let stream = client.copy_out(sql).await.doing(side, what)?;
    tokio::pin!(stream);
    let mut pairs = Vec::new();
    let mut rest: Vec<u8> = Vec::new();
    let mut header_left = HEADER;
    while let Some(chunk) = stream.try_next().await.doing(side, what)? {
        let mut chunk: &[u8] = &chunk;
        if header_left > 0 {
            let skip = header_left.min(chunk.len());
            chunk = &chunk[skip..];
            header_left -= skip;
        }
        rest.extend_from_slice(chunk);
        let mut rows = rest.chunks_exact(ROW);
        for row in &mut rows {
            let field = |at: usize| Hash::from_be_bytes(row[at..at + 8].try_into().expect("a slice of 8 bytes"));
            // A null key or row has no hash and another length: it cannot be, and must not be read as something else.
            if row[..6] != [0, 2, 0, 0, 0, 8] {
                return Err(MoveError::Decode("a compared row of unknown form".into()));
            }
            pairs.push((field(6), field(18)));
            if (pairs.len() as u64).is_multiple_of(REPORT_EVERY) {
                report(pairs.len() as u64);
            }
        }
        let read = rest.len() - rows.remainder().len();
        rest.drain(..read);
    }
    if rest != [0xff, 0xff] {
        return Err(MoveError::Decode("the compared rows end in the middle".into()));
    }
    let sorted = tokio::task::spawn_blocking(move || {
        pairs.sort_unstable();
        pairs
    });
    sorted.await.map_err(|_| MoveError::Decode("the reading was stopped".into()))
}

/// How many rows the target has, and the keys that are not once on each side with the same row. Each part is sorted.
fn merge(ours: Vec<Pair>, theirs: [Vec<Pair>; 2]) -> (u64, Vec<Hash>) {
    let count = theirs.iter().map(|part| part.len() as u64).sum();
    let mut differing = Vec::new();
    let [mut first, mut second] = theirs.map(|part| part.into_iter().peekable());
    let both = std::iter::from_fn(|| {
        let is_first = second.peek().is_none_or(|y| first.peek().is_some_and(|x| x <= y));
        if is_first { first.next() } else { second.next() }
    });
    let (mut a, mut b) = (ours.into_iter().peekable(), both.peekable());
    loop {
        match (a.peek(), b.peek()) {
            (None, None) => break,
            (Some(x), Some(y)) if x == y => {
                a.next();
                b.next();
            }
            (Some(x), Some(y)) if x < y => differing.extend(a.next().map(|p| p.0)),
            (Some(_) | None, Some(_)) => differing.extend(b.next().map(|p| p.0)),
            (Some(_), None) => differing.extend(a.next().map(|p| p.0)),
        }
    }
    differing.sort_unstable();
    differing.dedup();
    (count, differing)
}

/// Keys as a list of rows in SQL.
pub(crate) fn key_list(keys: &[&Vec<Datum>]) -> String {
    let list: Vec<String> = keys
        .iter()
        .map(|key| {
            let values: Vec<String> = key
                .iter()
                .map(|d| match d {
                    Datum::Text(text) => literal(&String::from_utf8_lossy(text)),
                    Datum::Null | Datum::Unchanged => "null".into(),
                })
                .collect();
            format!("({})", values.join(", "))
        })
        .collect();
    list.join(", ")
}

fn keys_query(plan: &MovePlan, table: &PlannedTable, keys: &[&Vec<Datum>], tenant: &berth_domain::TenantKey) -> String {
    format!(
        "select {}, {} from {} where ({}) in ({}) and {}",
        table.key_hash_sql(),
        table.row_hash_sql(),
        table.table.sql(),
        idents(&table.key),
        key_list(keys),
        plan.travelling(table, tenant)
    )
}

/// The rows of these keys: key to row hash. A key that is there twice gets the two rows' hashes mixed, so that it
/// differs from a single one.
async fn look_up(
    spec: &MoveSpec,
    plan: &MovePlan,
    client: &Client,
    side: Side,
    keys: &[(KeyRef, Vec<Datum>)],
) -> Result<HashMap<KeyRef, Vec<i64>>, MoveError> {
    let asked: HashSet<KeyRef> = keys.iter().map(|(key, _)| *key).collect();
    let mut found: HashMap<KeyRef, Vec<i64>> = HashMap::new();
    let mut parts = Vec::new();
    for (nth, table) in plan.tables.iter().enumerate() {
        let of_table: Vec<&Vec<Datum>> = keys.iter().filter(|(k, _)| k.table == nth).map(|(_, v)| v).collect();
        for part in of_table.chunks(KEYS_PER_QUERY) {
            parts.push((nth, table, keys_query(plan, table, part, &spec.tenant)));
        }
    }
    // All are on their way before the first answer is awaited, and unprepared: in the pause each round trip is waited for by users.
    let answers = parts.iter().map(|(_, _, sql)| client.simple_query(sql));
    for ((nth, table, _), said) in parts.iter().zip(futures_util::future::join_all(answers).await) {
        for message in said.doing(side, "looking up open keys")? {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let (key_hash, row_hash) = (hash_in(&row, 0)?, hash_in(&row, 1)?);
            let key = KeyRef { table: *nth, hash: key_hash.cast_unsigned() };
            // Hashed otherwise here than there, it would be missed on both sides and taken for equal.
            if !asked.contains(&key) {
                let table = table.table.clone();
                return Err(MoveError::Decode(format!("a key of {table} hashes otherwise in the {side} than here")));
            }
            found.entry(key).or_default().push(row_hash);
        }
    }
    for rows in found.values_mut() {
        rows.sort_unstable();
    }
    Ok(found)
}

fn hash_in(row: &SimpleQueryRow, column: usize) -> Result<i64, MoveError> {
    let hash = row.get(column).and_then(|text| text.parse().ok());
    hash.ok_or_else(|| MoveError::Decode("a looked-up row without a hash".into()))
}

#[cfg(test)]
mod tests {
    use super::{Snapshot, key_hash, merge};
    use crate::pgoutput::Datum;
    use bytes::Bytes;

    #[test]
    fn a_snapshot_sees_what_had_ended() {
        let snapshot = Snapshot::parse("100:110:103,105").unwrap();
        for (xid, seen) in
            [(99, true), (100, true), (103, false), (104, true), (105, false), (109, true), (110, false), (500, false)]
        {
            assert_eq!(snapshot.sees(xid), seen, "{xid}");
        }
    }

    #[test]
    fn a_snapshot_sees_across_the_wrap_of_32_bits() {
        let snapshot = Snapshot::parse("4294967290:4294967300:4294967298").unwrap();
        assert!(snapshot.sees(4_294_967_289), "before the wrap");
        assert!(snapshot.sees(1), "after the wrap, ended: 4294967297");
        assert!(!snapshot.sees(2), "after the wrap, running: 4294967298");
        assert!(!snapshot.sees(5), "after the snapshot: 4294967301");
        assert!(Snapshot::parse("1:2").is_none());
    }

    #[test]
    fn merge_names_each_key_that_is_not_once_and_equal() {
        let h = |n: u64| n;
        let ours = vec![(h(1), h(1)), (h(2), h(2)), (h(3), h(3)), (h(4), h(4)), (h(5), h(5))];
        let theirs = [vec![(h(1), h(1)), (h(3), h(3)), (h(5), h(5))], vec![(h(2), h(9)), (h(3), h(3)), (h(6), h(6))]];
        let (count, differing) = merge(ours, theirs);
        assert_eq!(count, 6);
        assert_eq!(differing, vec![h(2), h(3), h(4), h(6)], "changed, doubled, missing, extra");
    }

    #[test]
    fn keys_of_two_columns_do_not_run_together() {
        let text = |t: &'static str| Datum::Text(Bytes::from_static(t.as_bytes()));
        assert_ne!(key_hash(&[text("ab"), text("c")], None), key_hash(&[text("a"), text("bc")], None));
    }
}
