//! Changes the owner: follow, compare, wait for a quiet moment, then the pause.
//!
//! A worker never believes what an earlier one did about hold, arming, applying or comparing: it takes a token of
//! its own and does all of it again. After the commit point there is only forward. Nothing is decided on a read that
//! says "not committed", because the commit may still be on its way: taking a new token settles that.

mod gate;

use crate::compare::Comparer;
use crate::fence::Fence;
use crate::follow::{Follower, Tracking};
use crate::opening::{open_target, open_until_done};
use crate::prepare::{Fences, Sessions};
use crate::sql::{connect, connect_both};
use crate::{
    Change, Control, Edges, HoldFigures, MoveError, MovePlan, MoveSpec, Ownership, Phase, Progress, Refusal, Side,
    Verdict, Watcher, beside, catalog, logins, sequence, shared, standbys,
    stands::{self, Stood},
};
use berth_domain::{EdgeName, Generation, MovePhase, Token};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_postgres::Client;

/// After a failed attempt the next one waits; each failure in a row doubles it, up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// An edge that has not heard of the new route by then is left behind: it gets it with its next snapshot, and until
/// then the source refuses what it sends there.
const ROUTE_LIMIT: Duration = Duration::from_millis(500);
/// How long the control row is asked before the worker gives the answer up.
pub(crate) const CONTROL_LIMIT: Duration = Duration::from_secs(30);

/// How long one question to the control row may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// A pause that is longer than it may be by this is not waited for: a session of it has stopped answering.
const STUCK_AFTER: Duration = Duration::from_millis(500);

/// A move that is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CutOver {
    pub generation: Generation,
    /// Rows read from both databases and compared. Zero when an earlier worker did it and died after the commit.
    pub rows_verified: u64,
    pub attempts: u32,
    /// From the hold to the opened target, by the mover's clock, in milliseconds; none if a worker died in between.
    pub closed_ms: Option<f64>,
    pub hold: Option<HoldFigures>,
    pub late_edges: Vec<EdgeName>,
    /// When each part of the pause was over, in milliseconds from its beginning.
    #[serde(default)]
    pub timeline: Vec<(String, f64)>,
    /// Objects from then on may not have been brought: see [`crate::bring_late_objects`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_objects_since: Option<jiff::Timestamp>,
}

/// Becomes the one worker that may act on this tenant. Also how a lost answer is settled: whatever an earlier token
/// still has on its way is refused from here on.
pub async fn take(ownership: &dyn Ownership) -> Result<Control, MoveError> {
    let until = Instant::now() + CONTROL_LIMIT;
    loop {
        match ask(ownership, Token::default(), Change::Take, ANSWER_LIMIT).await {
            Verdict::Changed(row) => return Ok(row),
            Verdict::Refused(refusal) => return Err(refusal.into()),
            Verdict::Unknown if Instant::now() < until => tokio::time::sleep(Duration::from_millis(100)).await,
            Verdict::Unknown => return Err(MoveError::ControlSilent),
        }
    }
}

/// An answer that does not come is a lost one.
async fn ask(ownership: &dyn Ownership, token: Token, what: Change, limit: Duration) -> Verdict {
    timeout(limit, ownership.change(token, what)).await.unwrap_or(Verdict::Unknown)
}

pub(crate) async fn change(ownership: &dyn Ownership, token: Token, what: Change) -> Result<Control, MoveError> {
    match ask(ownership, token, what, ANSWER_LIMIT).await {
        Verdict::Changed(row) => Ok(row),
        Verdict::Refused(Refusal::OldToken { held, .. }) => Err(MoveError::Fenced { side: Side::Source, held }),
        Verdict::Refused(refusal) => Err(refusal.into()),
        Verdict::Unknown => Err(MoveError::ControlSilent),
    }
}

/// Begins the move, or takes it up again: returns the row with this worker's token.
pub async fn begin(spec: &MoveSpec, ownership: &dyn Ownership) -> Result<Control, MoveError> {
    let row = take(ownership).await?;
    if row.phase == MovePhase::Committed || (row.phase == MovePhase::Idle && row.owner == spec.target_cell) {
        return Ok(row);
    }
    // Or nobody would follow what is written where it lives.
    if row.owner != spec.source_cell {
        return Err(MoveError::LivesElsewhere);
    }
    change(ownership, row.token, Change::Begin { target: spec.target_cell }).await
}

/// Follows, compares and cuts over. Safe to run again at any point.
pub async fn cut_over(
    spec: &MoveSpec,
    plan: &MovePlan,
    ownership: &dyn Ownership,
    edges: &dyn Edges,
    watcher: &dyn Watcher,
) -> Result<CutOver, MoveError> {
    let row = begin(spec, ownership).await?;
    match (row.phase, row.owner == spec.target_cell) {
        (MovePhase::Idle | MovePhase::Committed, true) => {
            // What the worker saw that committed is not known: everything of the last hour is looked at.
            let hour = jiff::SignedDuration::from_hours(1);
            let since = jiff::Timestamp::now().saturating_sub(hour).ok().filter(|_| !plan.beside.is_empty());
            let record = Record { late_objects_since: since, ..Record::default() };
            return forward(spec, ownership, edges, row, record).await;
        }
        (MovePhase::Running, false) => {}
        (phase, _) => return Err(Refusal::WrongPhase { phase }.into()),
    }
    // Before the sessions of whoever was here earlier end: one of them may be this run's own reader.
    let ahead = {
        let source = connect(&spec.source, Side::Source, &format!("berth-reading-{}", row.token)).await?;
        crate::bound::within(spec, &source, async { Ok(spec.ahead.take().await) }).await?
    };
    let mut cut = Box::pin(CutOverRun::start(spec, plan, ownership, edges, watcher, row)).await?;
    if row.holding {
        // A worker died in the pause: users are waiting, so they come first.
        cut.reopen().await?;
    }
    watcher.progress(Progress::of(Phase::Follow));
    cut.comparer.pass_marker(&cut.follower).await?;
    cut.stood[0].unchanged(&cut.source, plan, &cut.fences.source).await?;
    if !plan.shared.is_empty() {
        cut.follower.nobodys(shared::Watched::brings);
        let keys = shared::referred(spec, plan, &cut.source, Side::Source).await?;
        cut.bring(keys).await?;
    }
    let ahead = ahead.filter(|(from, _)| *from == cut.follower.from).map(|(_, rows)| rows);
    let compared = Box::pin(cut.comparer.all(&cut.follower, watcher, ahead));
    let analysed = async {
        crate::bare::analyse(spec, plan, &cut.target).await;
        Ok(())
    };
    let verified = tokio::try_join!(compared, analysed).map_err(|error: MoveError| error.on(spec.way))?.0;
    let mut wait = RETRY_FIRST;
    let mut last = String::new();
    for attempt in 1..=spec.tuning.attempts {
        if watcher.cancelled() {
            return Err(MoveError::Cancelled);
        }
        cut.follower.check()?;
        let outcome = Box::pin(cut.attempt()).await?;
        let note = match outcome {
            Attempt::Committed(row) => {
                let record = Record {
                    rows_verified: verified,
                    attempts: attempt,
                    clock: Some(cut.clock),
                    hold_token: Some(cut.hold_token),
                    late_objects_since: cut.beside.take().and_then(|followers| followers.late_since(spec)),
                    ready: Some((cut.fences.target, cut.target)),
                };
                return forward(spec, ownership, edges, row, record).await;
            }
            Attempt::NotYet(why) => why,
        };
        watcher.progress(Progress {
            attempts: Some(attempt),
            open_keys: Some(cut.follower.tracker(|t| t.len()) as u64),
            rows_done: Some(verified),
            note: Some(note.clone()),
            ..Progress::of(Phase::CutOver)
        });
        last = note;
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_LONGEST);
    }
    Err(MoveError::NoMoment { attempts: spec.tuning.attempts, last })
}

enum Attempt {
    /// The row after the commit point.
    Committed(Control),
    NotYet(String),
}

struct CutOverRun<'m> {
    spec: &'m MoveSpec,
    plan: &'m MovePlan,
    ownership: &'m dyn Ownership,
    edges: &'m dyn Edges,
    watcher: &'m dyn Watcher,
    fences: Fences,
    follower: Follower,
    comparer: Comparer<'m>,
    /// How the source's tables stood when their rows were read, and the target's before they were compared.
    stood: [Stood; 2],
    /// Of the source, when it was last looked at whether the same tables belong to the tenant.
    outline: String,
    source: Client,
    target: Client,
    /// Keys and objects; none until they are followed, and none again when that broke off.
    beside: Option<beside::Followers>,
    token: Token,
    /// The token that the hold of the last attempt named.
    hold_token: Token,
    /// Those of the source and of the target.
    standbys: [Vec<i32>; 2],
    /// Of the last attempt's pause.
    clock: Clock,
}

/// When the parts of a pause were over.
struct Clock {
    began: Instant,
    marks: Vec<(String, f64)>,
}

impl Clock {
    fn start() -> Self {
        Self { began: Instant::now(), marks: Vec::new() }
    }
    fn mark(&mut self, what: &str) {
        self.marks.push((what.to_owned(), self.began.elapsed().as_secs_f64() * 1_000.0));
    }
}

impl<'m> CutOverRun<'m> {
    async fn start(
        spec: &'m MoveSpec,
        plan: &'m MovePlan,
        ownership: &'m dyn Ownership,
        edges: &'m dyn Edges,
        watcher: &'m dyn Watcher,
        row: Control,
    ) -> Result<Self, MoveError> {
        let name = spec.session_name(row.token);
        let fences = Sessions::connect(spec, row.token).await?.fences(spec, ownership, row).await?;
        let follower = Follower::start(spec, plan, &fences.target, row.token, Tracking::On);
        let both = || connect_both(spec, &name);
        let (follower, (source, target), (reads_source, reads_target), (writer, second_target)) =
            tokio::try_join!(follower, both(), both(), both())?;
        let comparer = Comparer {
            spec,
            plan,
            source: reads_source,
            target: reads_target,
            second_target,
            writer,
            markers: 0,
            salt: row.token.to_string(),
            unchecked: crate::loaded::Unchecked::default(),
        };
        Ok(Self {
            stood: [
                Stood::of(spec, plan, &comparer.source, &fences.source).await?,
                stands::look(&comparer.target, plan, &fences.target).await?,
            ],
            spec,
            plan,
            ownership,
            edges,
            watcher,
            outline: String::new(),
            fences,
            follower,
            comparer,
            source,
            target,
            beside: None,
            token: row.token,
            hold_token: row.token,
            standbys: [Vec::new(), Vec::new()],
            clock: Clock::start(),
        })
    }

    async fn attempt(&mut self) -> Result<Attempt, MoveError> {
        if let Some(why) = self.gate().await? {
            return Ok(Attempt::NotYet(why));
        }
        self.clock = Clock::start();
        self.hold_token = self.token;
        match change(self.ownership, self.token, Change::Hold).await {
            Ok(_) => {}
            Err(MoveError::ControlSilent) => {
                // The hold may be in force all the same, and users must not wait until that is found out.
                self.reopen().await?;
                return Ok(Attempt::NotYet("the control row did not answer".into()));
            }
            Err(error) => return Err(error),
        }
        self.clock.mark("hold_written");
        let drain = Duration::from_millis(u64::from(self.spec.tuning.drain_ms) + 30);
        if let Err(trouble) = self.edges.wait_held(self.token, drain).await {
            change(self.ownership, self.token, Change::Release).await?;
            // The next attempt has a token of its own: an edge takes the same one for the same hold.
            let row = take(self.ownership).await?;
            if row.phase != MovePhase::Running {
                return Err(Refusal::WrongPhase { phase: row.phase }.into());
            }
            self.token = row.token;
            return Ok(Attempt::NotYet(trouble.to_string()));
        }
        self.clock.mark("edges_hold");
        let limit_ms = self.spec.tuning.pause_most_ms;
        let limit = Duration::from_millis(limit_ms) + STUCK_AFTER;
        let Ok(paused) = timeout(limit, self.pause()).await else {
            // Users are let go over other sessions. Those that answer again were only slow.
            return match self.reopen().await? {
                Some(row) => Ok(Attempt::Committed(row)),
                None if self.answer().await => {
                    Ok(Attempt::NotYet(format!("the pause took longer than {} ms", limit.as_millis())))
                }
                None => Err(MoveError::PauseOver { limit_ms }),
            };
        };
        match paused {
            Ok(Attempt::Committed(row)) => Ok(Attempt::Committed(row)),
            Ok(Attempt::NotYet(why)) => match self.reopen().await? {
                Some(row) => Ok(Attempt::Committed(row)),
                None => Ok(Attempt::NotYet(why)),
            },
            // Another worker has the move: it decides, and a token of ours would only be in its way.
            Err(error @ MoveError::Fenced { .. }) => Err(error),
            Err(error) => match self.reopen().await? {
                Some(row) => Ok(Attempt::Committed(row)),
                None if error.fault() == crate::Fault::Passing => Ok(Attempt::NotYet(error.to_string())),
                None => Err(error),
            },
        }
    }

    /// Whether every session that a pause uses answers, with nothing left open in it.
    async fn answer(&mut self) -> bool {
        self.beside = None;
        let comparer = &self.comparer;
        let (own, its) = ([&self.source, &self.target], [&comparer.source, &comparer.target, &comparer.writer]);
        let all = own.into_iter().chain(its).chain([&comparer.second_target]);
        let asked = futures_util::future::try_join_all(all.map(|client| client.batch_execute("rollback")));
        matches!(timeout(STUCK_AFTER, asked).await, Ok(Ok(_)))
    }

    /// From the hold in force to the commit point.
    async fn pause(&mut self) -> Result<Attempt, MoveError> {
        let most = Duration::from_millis(self.spec.tuning.pause_most_ms);
        let began = self.clock.began;
        let left = || most.saturating_sub(began.elapsed());
        let marker = format!("{}{}:arm", self.spec.marks(), self.token);
        let lock_wait = left().min(Duration::from_millis(50)).max(Duration::from_millis(1));
        self.fences.source.arm(&self.source, self.token, &marker, lock_wait).await?;
        self.clock.mark("source_closed");
        // Schema and sequences are looked at while the last changes are applied: both only matter from the arming on.
        let caught_up = async {
            if !self.follower.wait_marker(&marker, left()).await? {
                return Ok(false);
            }
            self.comparer.last_keys(&self.follower).await?;
            self.comparer.last_counts().await?;
            Ok(true)
        };
        let limit = left();
        let followers = &mut self.beside;
        let last_beside = async {
            match followers {
                Some(followers) => Box::pin(followers.last(limit)).await,
                None => Ok(true),
            }
        };
        let closed_there = standbys::have_it_all(&self.source, Side::Source, &self.standbys[0], limit);
        let (caught_up, others, closed_there, beside, ours, theirs, ahead, outline, (), ()) = tokio::try_join!(
            caught_up,
            logins::shared_by_now(&self.source, Side::Source),
            closed_there,
            last_beside,
            catalog::fingerprint(&self.source, Side::Source, &self.plan.tables),
            catalog::fingerprint(&self.target, Side::Target, &self.plan.tables),
            sequence::ahead(&self.source, &self.target, self.plan),
            catalog::outline(&self.comparer.source, self.spec, self.plan),
            Box::pin(self.stood[0].unchanged(&self.comparer.writer, self.plan, &self.fences.source)),
            Box::pin(self.stood[1].unchanged(&self.comparer.second_target, self.plan, &self.fences.target)),
        )?;
        if let Some(found) = others {
            return Ok(Attempt::NotYet(found.to_string()));
        }
        if !caught_up {
            return Ok(Attempt::NotYet("the target did not catch up within the pause".into()));
        }
        if !standbys::have_it_all(&self.target, Side::Target, &self.standbys[1], left()).await? {
            return Ok(Attempt::NotYet("a standby of the target did not catch up within the pause".into()));
        }
        if !closed_there {
            return Ok(Attempt::NotYet("a standby of the source did not catch up within the pause".into()));
        }
        if !beside {
            return Ok(Attempt::NotYet("keys or objects were not brought within the pause".into()));
        }
        if !self.follower.nobodys(|n| n.is_quiet()) {
            return Ok(Attempt::NotYet("rows of nobody that the tenant refers to changed".into()));
        }
        if ours != self.plan.fingerprint || theirs != self.plan.fingerprint {
            return Err(MoveError::SchemaChanged {
                what: "tables of the tenant have other columns than planned".into(),
            });
        }
        if outline != self.outline {
            // The next gate says whether one of them is the tenant's.
            return Ok(Attempt::NotYet("tables or references of the source were made or changed".into()));
        }
        if !ahead {
            return Ok(Attempt::NotYet("a sequence of the source has overtaken the target's".into()));
        }
        self.clock.mark("compared");
        if left().is_zero() {
            return Ok(Attempt::NotYet(format!("the pause took longer than {} ms", most.as_millis())));
        }
        match ask(self.ownership, self.token, Change::Commit, ANSWER_LIMIT).await {
            Verdict::Changed(row) => {
                self.clock.mark("committed");
                Ok(Attempt::Committed(row))
            }
            Verdict::Refused(Refusal::OldToken { held, .. }) => Err(MoveError::Fenced { side: Side::Source, held }),
            Verdict::Refused(refusal) => Err(refusal.into()),
            Verdict::Unknown => Ok(Attempt::NotYet("the answer to the commit was lost".into())),
        }
    }

    /// Gives an attempt up, unless it turns out to have been committed: then returns the row.
    ///
    /// A new token first: after that no commit of ours can still arrive. Then the source opens, then edges let go.
    async fn reopen(&mut self) -> Result<Option<Control>, MoveError> {
        let row = take(self.ownership).await?;
        if row.phase == MovePhase::Committed {
            return Ok(Some(row));
        }
        self.token = row.token;
        open_until_done(&self.fences.source, &self.spec.source, row.token, None).await?;
        change(self.ownership, row.token, Change::Release).await?;
        Ok(None)
    }
}

/// What is known of the attempt that was committed.
#[derive(Default)]
struct Record {
    rows_verified: u64,
    attempts: u32,
    clock: Option<Clock>,
    hold_token: Option<Token>,
    late_objects_since: Option<jiff::Timestamp>,
    /// A session in the target that is there already: making one takes milliseconds that users would wait.
    ready: Option<(Fence, Client)>,
}

/// After the commit point: open the target, let the edges go. Only ever forward.
async fn forward(
    spec: &MoveSpec,
    ownership: &dyn Ownership,
    edges: &dyn Edges,
    row: Control,
    record: Record,
) -> Result<CutOver, MoveError> {
    let mut late_edges = Vec::new();
    let mut clock = record.clock;
    let mut mark = |what: &str| {
        if let Some(clock) = &mut clock {
            clock.mark(what);
        }
    };
    if row.phase == MovePhase::Committed {
        let (opened, late) =
            tokio::join!(open_target(spec, row, record.ready), edges.wait_routed(row.generation, ROUTE_LIMIT));
        opened?;
        late_edges = late;
        mark("target_open");
        change(ownership, row.token, Change::Finish).await?;
        mark("released");
    }
    let timeline = clock.map(|clock| clock.marks).unwrap_or_default();
    let hold = match record.hold_token {
        Some(token) => edges.hold_figures(token, Duration::from_secs(3)).await,
        None => None,
    };
    Ok(CutOver {
        generation: row.generation,
        rows_verified: record.rows_verified,
        attempts: record.attempts,
        closed_ms: timeline.last().map(|(_, ms)| *ms),
        hold,
        late_edges,
        timeline,
        late_objects_since: record.late_objects_since,
    })
}
