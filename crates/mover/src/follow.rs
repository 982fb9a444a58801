//! Follows the source's changes into the target: reads the stream, applies whole transactions in commit order.
//!
//! Two tasks. The reader decodes and drops what is not the tenant's; the applier writes batches and, in the same
//! transaction, moves the cell's applied position from exactly the old value to the new. The slot's own
//! acknowledgement is never trusted: what comes twice is recognised by that position.

use crate::compare::{KeyRef, Tracker};
use crate::fence::Fence;
use crate::owned::Owned;
use crate::pgoutput::{Change, Datum, Decoded, Decoder, Op, Row, Transaction};
use crate::shared::Watched;
use crate::sql::{Doing, connect_both, connect_to_load, ident, idents};
use crate::wal::{Lsn, Replication, Streamed};
use crate::{MoveError, MovePlan, MoveSpec, PlannedTable, Side, Way, retention, sequence, wal};
use berth_domain::Token;
use bytes::BytesMut;
use futures_util::future::{MaybeDone, maybe_done};
use postgres_types::{Format, IsNull, ToSql, Type, to_sql_checked};
use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tokio_postgres::{Client, Statement};

/// Transactions between reader and applier.
const QUEUE: usize = 4_096;
/// Changes in one transaction of the target.
const BATCH_CHANGES: usize = 500;
/// How often the log that the slot holds back is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// At how many of these looks the sequences are held apart. Trouble with that may pass: the cut-over looks once more.
const JUMP_LOOKS: u32 = 10;
/// Slots whose server keeps a transaction's WAL hear from us this often.
const CONFIRM_EVERY: Duration = Duration::from_millis(500);

/// A value in text form, sent as such: the server's own input function reads it, whatever the type.
#[derive(Debug)]
struct Text<'a>(&'a Datum);

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.0 {
            Datum::Text(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            Datum::Null | Datum::Unchanged => Ok(IsNull::Yes),
        }
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }
    to_sql_checked!();
}

#[derive(Default)]
struct State {
    markers: HashSet<String>,
    error: Option<MoveError>,
    ended: bool,
}

/// Whether changed keys are remembered, for a comparison. Without one nothing would ever forget them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tracking {
    On,
    Off,
}

/// What reader, applier and their user share.
struct Shared {
    state: Mutex<State>,
    changed: Notify,
    tracker: Mutex<Tracker>,
    nobodys: Mutex<Watched>,
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // A poisoned lock means that a task panicked while it held plain data: the data is still whole.
        let result = act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
        result
    }

    fn fail(&self, error: MoveError) {
        self.with(|state| {
            state.error.get_or_insert(error);
            state.ended = true;
        });
    }
}

/// The running stream. Dropping it ends both tasks.
pub(crate) struct Follower {
    /// Where this one began: what was changed before it was not told of.
    pub from: Lsn,
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Follower {
    /// Starts following from the position that the target has applied.
    pub async fn start(
        spec: &MoveSpec,
        plan: &MovePlan,
        fence: &Fence,
        token: Token,
        tracking: Tracking,
    ) -> Result<Self, MoveError> {
        let name = spec.session_name(token);
        // The way back has a bound of its own, which looks at whether it catches up.
        let looks = async { if spec.way == Way::There { connect_both(spec, &name).await.map(Some) } else { Ok(None) } };
        let loads = Box::pin(connect_to_load(&spec.target, Side::Target, &name));
        let reads = Box::pin(Replication::connect(&spec.source, &name));
        let (target, mut replication, looks) = tokio::try_join!(loads, reads, looks)?;
        let (from, owned) = applied(spec, plan, &target).await?;
        replication.start(&spec.slot(), &spec.publication(), from).await.map_err(|error| match error {
            MoveError::StreamRefused { code, .. } if code == "55000" || code == "42704" => {
                MoveError::SlotLost { slot: spec.slot() }
            }
            other => other,
        })?;
        if let Some((looker, other)) = &looks {
            // Before rows arrive in the target with numbers that the source has given out meanwhile.
            sequence::jump(spec, looker, other, plan).await?;
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            changed: Notify::new(),
            tracker: Mutex::new(Tracker::default()),
            nobodys: Mutex::new(Watched::default()),
        });
        let (send, receive) = mpsc::channel(QUEUE);
        let (applied_send, applied) = watch::channel(from);
        let plan = Arc::new(plan.clone());
        // Back go all of them: what came to the new side with an old date must not be lost by an undo.
        let leaves_behind = spec.way == Way::There && plan.tables.iter().any(|t| t.kept.is_some());
        let leaves_behind = leaves_behind.then(|| Arc::clone(&plan));
        let reader = Reader { replication, from, applied, leaves_behind };
        let applier = Applier {
            plan: Arc::clone(&plan),
            target,
            tenant: spec.tenant.as_str().to_owned(),
            // Whose rows the others are is known from their keys, and their parents may be gone already.
            filters: plan
                .tables
                .iter()
                .map(|t| if t.through.is_empty() { plan.filter(t, &spec.tenant) } else { "true".to_owned() })
                .collect(),
            owners: plan.tables.iter().map(|t| plan.filter(t, &spec.tenant)).collect(),
            token,
            side: fence.side,
            way: spec.way,
            position: from,
            statements: HashMap::new(),
            tracking,
            shared: Arc::clone(&shared),
            applied: applied_send,
        };
        let numbered = Arc::clone(&plan);
        let marks = spec.marks();
        // Nothing applied yet on the way back: what stands before the opening is what the mover itself brought there.
        let begins_at = (spec.way == Way::Back && from == Lsn::default()).then(|| spec.opened_mark());
        let mut tasks = Vec::new();
        let on_end = Arc::clone(&shared);
        tasks.push(tokio::spawn(async move {
            let decoder = Decoder::new(&plan, owned, &marks, from).beginning_at(begins_at);
            if let Err(error) = reader.run(decoder, send).await {
                on_end.fail(error);
            }
        }));
        if let Some((looker, other)) = looks {
            let (on_end, spec) = (Arc::clone(&shared), spec.clone());
            tasks.push(tokio::spawn(async move {
                for looks in 1_u32.. {
                    match wal::held_back(&looker, &spec.slot(), spec.tuning.move_wal_bytes).await {
                        Ok(()) => tokio::time::sleep(LOOK_EVERY).await,
                        Err(error @ MoveError::TooMuchWal { .. }) => return on_end.fail(error),
                        // The stream itself says what is wrong with the server.
                        Err(_) => return,
                    }
                    if looks.is_multiple_of(JUMP_LOOKS)
                        && let Err(error @ MoveError::Obstacles(_)) =
                            sequence::jump(&spec, &looker, &other, &numbered).await
                    {
                        return on_end.fail(error);
                    }
                }
            }));
        }
        let on_end = Arc::clone(&shared);
        tasks.push(tokio::spawn(async move {
            if let Err(error) = applier.run(receive).await {
                on_end.fail(error);
            }
        }));
        Ok(Self { from, shared, tasks })
    }

    /// Fails when the stream has; otherwise says nothing.
    pub fn check(&self) -> Result<(), MoveError> {
        // Quietly: a look that woke its own waiter would never let it wait.
        self.shared.with_quietly(|state| match (state.error.take(), state.ended) {
            (Some(error), _) => Err(error),
            (None, true) => Err(MoveError::Stream(std::io::Error::other("the stream ended earlier"))),
            (None, false) => Ok(()),
        })
    }

    /// Returns when the transaction that carries `marker`, and all before it, are applied and durable.
    pub async fn wait_marker(&self, marker: &str, limit: Duration) -> Result<bool, MoveError> {
        let until = Instant::now() + limit;
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            self.check()?;
            if self.shared.with_quietly(|state| state.markers.remove(marker)) {
                return Ok(true);
            }
            if tokio::time::timeout_at(until.into(), changed).await.is_err() {
                return Ok(false);
            }
        }
    }

    pub fn nobodys<T>(&self, act: impl FnOnce(&mut Watched) -> T) -> T {
        act(&mut self.shared.nobodys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn tracker<T>(&self, act: impl FnOnce(&mut Tracker) -> T) -> T {
        act(&mut self.shared.tracker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
    /// As [`Shared::with`], for looks that wake nobody.
    fn with_quietly<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where the stream goes on, and which rows of the target are the tenant's where no column says it: both of one moment.
async fn applied(spec: &MoveSpec, plan: &MovePlan, target: &Client) -> Result<(Lsn, Owned), MoveError> {
    let what = "reading the applied position";
    target.batch_execute("begin isolation level repeatable read read only").await.doing(Side::Target, what)?;
    let from: String = target
        .query_one("select applied::text from berth.fence where tenant = $1", &[&spec.tenant.as_str()])
        .await
        .doing(Side::Target, what)?
        .get(0);
    let mut owned = Owned::new(plan, spec.tenant.as_str());
    for nth in owned.kept() {
        let table = &plan.tables[nth];
        let sql = format!(
            "select {} from {} where {}",
            table.key_hash_sql(),
            table.table.sql(),
            plan.filter(table, &spec.tenant)
        );
        let keys = target.query(&sql, &[]).await.doing(Side::Target, "reading the tenant's keys")?;
        owned.load(nth, keys.iter().map(|row| row.get::<_, i64>(0).cast_unsigned()));
    }
    target.batch_execute("commit").await.doing(Side::Target, what)?;
    Ok((from.parse()?, owned))
}

struct Reader {
    replication: Replication,
    from: Lsn,
    applied: watch::Receiver<Lsn>,
    /// The plan, where some of the tenant's rows stay behind.
    leaves_behind: Option<Arc<MovePlan>>,
}

impl Reader {
    async fn run(mut self, mut decoder: Decoder<'_>, send: mpsc::Sender<Transaction>) -> Result<(), MoveError> {
        let mut confirm = tokio::time::interval(CONFIRM_EVERY);
        confirm.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The end of the last transaction handed over, and of the last one seen: with all that was handed over
        // applied, everything seen may be confirmed, neighbours' transactions too.
        let (mut handed, mut seen) = (self.from, self.from);
        loop {
            tokio::select! {
                message = self.replication.next() => match message? {
                    Streamed::Data(bytes) => {
                        if let Decoded::Transaction(mut done) = decoder.message(bytes)? {
                            if let Some(plan) = &self.leaves_behind {
                                retention::leave_behind(plan, &mut done);
                            }
                            seen = seen.max(done.end);
                            let concerns_us =
                                !done.changes.is_empty() || !done.markers.is_empty() || !done.nobodys.is_empty();
                            if concerns_us {
                                handed = done.end;
                                if send.send(done).await.is_err() {
                                    return Ok(());
                                }
                            }
                        }
                    }
                    Streamed::Alive(end, wants_answer) => {
                        if !decoder.has_large_transaction() {
                            seen = seen.max(end);
                        }
                        if wants_answer {
                            self.confirm(handed, seen).await?;
                        }
                    }
                },
                _ = confirm.tick() => self.confirm(handed, seen).await?,
            }
        }
    }

    async fn confirm(&mut self, handed: Lsn, seen: Lsn) -> Result<(), MoveError> {
        let applied = *self.applied.borrow();
        self.replication.confirm(if applied >= handed { seen } else { applied }).await
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Form {
    Insert,
    /// Which columns are set: large values left alone are not in the stream.
    Update(Vec<bool>),
    Delete,
}

struct Applier {
    plan: Arc<MovePlan>,
    target: Client,
    tenant: String,
    filters: Vec<String>,
    /// Which rows of each table are the tenant's as they stand, for a row that may meet another one's.
    owners: Vec<String>,
    token: Token,
    side: Side,
    way: Way,
    position: Lsn,
    statements: HashMap<(usize, Form), Statement>,
    tracking: Tracking,
    shared: Arc<Shared>,
    applied: watch::Sender<Lsn>,
}

impl Applier {
    async fn run(mut self, mut queue: mpsc::Receiver<Transaction>) -> Result<(), MoveError> {
        while let Some(first) = queue.recv().await {
            let mut batch = vec![first];
            let mut changes = batch[0].changes.len();
            while changes < BATCH_CHANGES
                && let Ok(next) = queue.try_recv()
            {
                changes += next.changes.len();
                batch.push(next);
            }
            if let Err(error) = self.apply(&batch).await {
                return Err(self.judged(error).await);
            }
        }
        Ok(())
    }

    /// What rows that stand in the way mean. Another worker may have applied the same changes meanwhile: its rows and its position
    /// came in one transaction. Otherwise they stay there, and a way back that tried for ever would hold back log for nothing.
    async fn judged(&self, error: MoveError) -> MoveError {
        let Some(why) = error.rows_forbid() else { return error };
        if self.target.batch_execute("rollback").await.is_err() {
            return error;
        }
        let as_left = "select exists (select from berth.fence where tenant = $1 and applied = $2::text::pg_lsn
                                      and state = 'closed' and token <= $3)";
        let row =
            self.target.query_one(as_left, &[&self.tenant, &self.position.to_string(), &self.token.as_i64()]).await;
        match (row.map(|row| row.get::<_, bool>(0)), self.way) {
            (Err(_), _) | (Ok(true), Way::There) => error,
            (Ok(false), _) => MoveError::Fenced { side: self.side, held: self.token },
            (Ok(true), Way::Back) => MoveError::WayBackBarred { why },
        }
    }

    async fn apply(&mut self, batch: &[Transaction]) -> Result<(), MoveError> {
        let what = "applying changes";
        let Some(end) = batch.last().map(|t| t.end) else { return Ok(()) };
        // Before the rows can be seen in the target, so that a comparison never meets a change it was not told of.
        if self.tracking == Tracking::On {
            self.track(batch);
        }
        for transaction in batch {
            for change in &transaction.changes {
                self.prepare(change).await?;
            }
        }
        // Row by row, a swap of two unique values meets itself half done: what may be deferred is.
        self.target.batch_execute("begin; set constraints all deferred").await.doing(self.side, what)?;
        let all: Vec<&Change> = batch.iter().flat_map(|t| &t.changes).collect();
        for part in all.chunks(1_000) {
            self.apply_part(part).await?;
        }
        let moved = self
            .target
            .execute(
                "update berth.fence set applied = $1::text::pg_lsn, token = $2, changed_at = now()
                 where tenant = $3 and applied = $4::text::pg_lsn and state = 'closed' and token <= $2",
                &[&end.to_string(), &self.token.as_i64(), &self.tenant, &self.position.to_string()],
            )
            .await
            .doing(self.side, what)?;
        if moved != 1 {
            return Err(MoveError::Fenced { side: self.side, held: self.token });
        }
        self.target.batch_execute("commit").await.doing(self.side, what)?;
        self.position = end;
        self.applied.send_replace(end);
        self.shared.with(|state| state.markers.extend(batch.iter().flat_map(|t| t.markers.iter().cloned())));
        Ok(())
    }

    /// Sends all statements before the first answer is awaited: one round trip for the whole part.
    async fn apply_part(&self, part: &[&Change]) -> Result<(), MoveError> {
        type Sent<'a> = Pin<Box<MaybeDone<futures_util::future::BoxFuture<'a, Result<u64, tokio_postgres::Error>>>>>;
        let mut sent: Vec<Sent<'_>> = Vec::with_capacity(part.len());
        for change in part {
            let table = &self.plan.tables[change.table];
            let statement = &self.statements[&(change.table, form(change, table))];
            let values = values(change, table);
            let mut execution: Sent<'_> = Box::pin(maybe_done(Box::pin(async move {
                let texts: Vec<Text<'_>> = values.into_iter().map(Text).collect();
                let parameters: Vec<&(dyn ToSql + Sync)> = texts.iter().map(|t| t as &(dyn ToSql + Sync)).collect();
                self.target.execute(statement, &parameters).await
            })));
            // The first poll puts the statement on its way, and order is kept because it is polled here.
            let _ = futures_util::poll!(execution.as_mut());
            sent.push(execution);
        }
        for (change, mut execution) in part.iter().zip(sent) {
            execution.as_mut().await;
            let found =
                execution.as_mut().take_output().expect("awaited just above").doing(self.side, "applying changes")?;
            let right = matches!((&change.op, found), (Op::Insert(_) | Op::Update { .. }, 1) | (Op::Delete(_), 0 | 1));
            if !right {
                let table = &self.plan.tables[change.table];
                let stayed = table.kept.is_some() && self.way == Way::There && matches!(change.op, Op::Update { .. });
                if stayed && found == 0 {
                    return Err(MoveError::GrewYoung { table: table.table.clone(), key: key_text(change, table) });
                }
                return Err(MoveError::NotOneRow { table: table.table.clone(), found, key: key_text(change, table) });
            }
        }
        Ok(())
    }

    fn track(&self, batch: &[Transaction]) {
        let mut tracker = self.shared.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        let mut nobodys = self.shared.nobodys.lock().unwrap_or_else(PoisonError::into_inner);
        for transaction in batch {
            for (table, key) in &transaction.nobodys {
                nobodys.changed(*table, key.clone());
            }
            for change in &transaction.changes {
                let table = &self.plan.tables[change.table];
                for row in rows(change) {
                    let key = key_of(row, table);
                    tracker.changed(KeyRef { table: change.table, hash: table.key_hash(&key) }, transaction.xid, key);
                    for reference in &table.refers {
                        let at = reference.columns.iter().filter_map(|c| table.position(c));
                        let named: Vec<Datum> = at.map(|at| row[at].clone()).collect();
                        if named.iter().all(|value| matches!(value, Datum::Text(_))) {
                            nobodys.referred(reference.to, named);
                        }
                    }
                }
            }
        }
    }

    async fn prepare(&mut self, change: &Change) -> Result<(), MoveError> {
        let table = &self.plan.tables[change.table];
        let form = form(change, table);
        if self.statements.contains_key(&(change.table, form.clone())) {
            return Ok(());
        }
        let name = table.table.sql();
        let filter = &self.filters[change.table];
        let by_key = |from: usize| {
            let parts: Vec<String> =
                table.key.iter().enumerate().map(|(n, c)| format!("{} = ${}", ident(c), from + n)).collect();
            parts.join(" and ")
        };
        let sql = match &form {
            Form::Insert => {
                let places: Vec<String> = (1..=table.columns.len()).map(|n| format!("${n}")).collect();
                // Back to the old side may come a row that stayed behind there: brought back from its archive.
                let again =
                    if table.kept.is_some() { upsert(table, &self.owners[change.table]) } else { String::new() };
                format!(
                    "insert into {name} as here ({}) overriding system value values ({}){again}",
                    table.column_list(),
                    places.join(", ")
                )
            }
            Form::Update(set) => {
                let columns: Vec<&str> =
                    table.columns.iter().zip(set).filter(|(_, set)| **set).map(|(c, _)| c.name.as_str()).collect();
                let sets: Vec<String> =
                    columns.iter().enumerate().map(|(n, c)| format!("{} = ${}", ident(c), n + 1)).collect();
                format!("update {name} set {} where {} and {filter}", sets.join(", "), by_key(columns.len() + 1))
            }
            Form::Delete => format!("delete from {name} where {} and {filter}", by_key(1)),
        };
        let statement = self.target.prepare(&sql).await.doing(self.side, "preparing a change")?;
        self.statements.insert((change.table, form), statement);
        Ok(())
    }
}

/// What follows an insert that may find its row there already. `filter`: which rows are the tenant's.
fn upsert(table: &PlannedTable, filter: &str) -> String {
    let set = table.columns.iter().filter(|c| !table.key.contains(&c.name) && !c.always_identity).map(|c| {
        let c = ident(&c.name);
        format!("{c} = excluded.{c}")
    });
    let set: Vec<String> = set.collect();
    // Named even where nothing is left to set: then the row is the same, and counts as found.
    let set =
        if set.is_empty() { table.key.iter().map(|c| format!("{0} = excluded.{0}", ident(c))).collect() } else { set };
    // With the same key somebody else's row may be there: that is no row of ours, and ends the following.
    let same: Vec<String> = table.key.iter().map(|c| format!("mine.{0} = here.{0}", ident(c))).collect();
    format!(
        " on conflict ({}) do update set {} where exists (select from {} mine where {} and {filter})",
        idents(&table.key),
        set.join(", "),
        table.table.sql(),
        same.join(" and ")
    )
}

fn form(change: &Change, table: &PlannedTable) -> Form {
    match &change.op {
        Op::Insert(_) => Form::Insert,
        Op::Update { new, .. } => Form::Update(sets(new, table).collect()),
        Op::Delete(_) => Form::Delete,
    }
}

/// Which columns an update sets. One that is always generated as identity can only have kept its value, or got a new
/// one from its sequence (`SET DEFAULT`), which the comparison then finds.
fn sets<'a>(new: &'a Row, table: &'a PlannedTable) -> impl Iterator<Item = bool> + 'a {
    new.iter().zip(&table.columns).map(|(datum, column)| *datum != Datum::Unchanged && !column.always_identity)
}

/// The rows whose keys a change touches: both when the key itself changed.
fn rows(change: &Change) -> impl Iterator<Item = &Row> {
    let (first, second) = match &change.op {
        Op::Insert(row) | Op::Delete(row) => (row, None),
        Op::Update { old, new } => (new, old.as_ref()),
    };
    std::iter::once(first).chain(second)
}

fn key_of(row: &Row, table: &PlannedTable) -> Vec<Datum> {
    table.key.iter().filter_map(|c| table.position(c)).map(|at| row[at].clone()).collect()
}

fn key_text(change: &Change, table: &PlannedTable) -> String {
    let row = match &change.op {
        Op::Insert(row) | Op::Delete(row) => row,
        Op::Update { old, new } => old.as_ref().unwrap_or(new),
    };
    crate::compare::key_text(&key_of(row, table))
}

fn values<'a>(change: &'a Change, table: &PlannedTable) -> Vec<&'a Datum> {
    let key = |row: &'a Row| table.key.iter().filter_map(|c| table.position(c)).map(move |at| &row[at]);
    match &change.op {
        Op::Insert(row) => row.iter().collect(),
        Op::Update { old, new } => {
            let set = new.iter().zip(sets(new, table)).filter(|(_, set)| *set).map(|(datum, _)| datum);
            set.chain(key(old.as_ref().unwrap_or(new))).collect()
        }
        Op::Delete(row) => key(row).collect(),
    }
}
