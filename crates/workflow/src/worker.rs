//! Takes operations and carries them out, as long as their leases hold.
//!
//! Any number of workers may share a journal, and any of them may die. Steps must not block their thread: the lease
//! is renewed beside them, on the same task, so that a lost lease drops the step at its next await.

use crate::{
    Cancelled, Claim, Context, Faults, Fenced, Journal, JournalError, Locked, Outcome, Registry, Run, pen::Pen,
};
use berth_domain::OperationId;
use std::{future::Future, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tracing::{Instrument, debug, error, info, info_span, warn};

/// How soon a worker has to let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    No,
    BeforeNextStep,
    Now,
}

/// How a worker works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Shown as holder of leases.
    pub name: String,
    /// How long after a worker's death its operations wait for another.
    pub lease: Duration,
    /// Operations at the same time, first come first served.
    pub concurrency: usize,
    /// Beside those.
    pub reserve: Reserve,
    /// Looks for work at least this often, nudged or not.
    pub poll: Duration,
    /// How long a shutdown waits for steps that are under way.
    pub grace: Duration,
    /// Progress is written at most this often.
    pub progress_every: Duration,
    pub faults: Faults,
}

impl Options {
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            lease: Duration::from_secs(15),
            concurrency: 8,
            reserve: Reserve::default(),
            poll: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            progress_every: Duration::from_millis(250),
            faults: Faults::none(),
        }
    }
}

/// Places that are kept for some workflows when all others are taken: short ones do not wait for long ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reserve {
    /// Their names in the journal.
    pub workflows: &'static [&'static str],
    pub places: usize,
}

/// How many operations of some workflows may be carried out yet.
struct Places {
    names: Vec<String>,
    free: Arc<Semaphore>,
}

impl Places {
    fn take(&self) -> Option<(&[String], OwnedSemaphorePermit)> {
        Some((&self.names, Arc::clone(&self.free).try_acquire_owned().ok()?))
    }
}

pub struct Worker<Cx: Context> {
    journal: Arc<dyn Journal<Tx = Cx::Tx>>,
    registry: Arc<Registry<Cx>>,
    cx: Arc<Cx>,
    options: Options,
}

impl<Cx: Context> Clone for Worker<Cx> {
    fn clone(&self) -> Self {
        Self {
            journal: Arc::clone(&self.journal),
            registry: Arc::clone(&self.registry),
            cx: Arc::clone(&self.cx),
            options: self.options.clone(),
        }
    }
}

impl<Cx: Context> Worker<Cx> {
    pub fn new(
        journal: Arc<dyn Journal<Tx = Cx::Tx>>,
        registry: Arc<Registry<Cx>>,
        cx: Arc<Cx>,
        options: Options,
    ) -> Self {
        Self { journal, registry, cx, options }
    }

    /// Works until `shutdown`; then lets steps under way end within the grace time, and lets go of the rest.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) {
        let places = self.places();
        let (stop, stopped) = watch::channel(Stop::No);
        let mut tasks = JoinSet::new();
        let mut due: Vec<Instant> = Vec::new(); // next tries of our own, so that they need not wait for the poll
        let mut shutdown = pin!(shutdown);
        loop {
            while let Some((names, place)) = places.iter().find_map(Places::take) {
                let asked = Instant::now();
                match self.journal.claim(&self.options.name, names, self.options.lease).await {
                    Ok(Some(claim)) => {
                        let (worker, stopped) = (self.clone(), stopped.clone());
                        // The place is free when it is known here how it ended, so that a backlog does not keep us claiming.
                        tasks.spawn(async move { (worker.drive(claim, asked, stopped).await, place) });
                    }
                    Ok(None) => break,
                    Err(error) => {
                        warn!(worker = self.options.name, error = %chain(&error), "looking for work failed");
                        break;
                    }
                }
            }
            let now = Instant::now();
            due.retain(|at| *at > now);
            let wait = due.iter().min().map_or(self.options.poll, |at| (*at - now).min(self.options.poll));
            let room = places.iter().any(|p| p.free.available_permits() > 0);
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => match ended {
                    Ok((Outcome::Waiting(pause), _)) => due.push(Instant::now() + pause),
                    Ok(_) => {}
                    Err(error) => error!(worker = self.options.name, %error, "a workflow panicked; it is taken up again when its lease ends"),
                },
                () = self.journal.wait_for_work(wait), if room => {}
            }
        }
        stop.send_replace(Stop::BeforeNextStep);
        if timeout(self.options.grace, drain(&mut tasks)).await.is_err() {
            stop.send_replace(Stop::Now);
            drain(&mut tasks).await;
        }
    }

    /// Those for everything come first, and who finds them taken looks at the kept ones.
    fn places(&self) -> [Places; 2] {
        let Reserve { workflows, places } = self.options.reserve;
        let of = |names, many| Places { names, free: Arc::new(Semaphore::new(many)) };
        let kept = workflows.iter().map(|name| (*name).to_owned()).collect();
        [of(self.registry.names(), self.options.concurrency), of(kept, places)]
    }

    /// Takes one operation, if one is due, and stays at it until it rests. For tests, and for programs with one thing to do.
    pub async fn turn(&self) -> Result<Option<(OperationId, Outcome)>, JournalError> {
        let asked = Instant::now();
        let names = self.registry.names();
        let Some(claim) = self.journal.claim(&self.options.name, &names, self.options.lease).await? else {
            return Ok(None);
        };
        let id = claim.operation.id;
        let (_stay, stop) = watch::channel(Stop::No);
        Ok(Some((id, self.drive(claim, asked, stop).await)))
    }

    /// `asked`: a moment before the claim was asked for. By our own clock the lease cannot have begun earlier, so
    /// that we never believe in it longer than the journal does.
    async fn drive(&self, claim: Claim, asked: Instant, mut stop: watch::Receiver<Stop>) -> Outcome {
        let operation = claim.operation.clone();
        let span = info_span!("operation", operation.id = %operation.id, workflow = operation.workflow, epoch = claim.epoch.get());
        let (told, cancelled) = watch::channel(operation.abandon);
        let (progress, _) = watch::channel(None);
        let pen = Pen {
            journal: Arc::clone(&self.journal),
            claim,
            faults: self.options.faults.clone(),
            progress: Arc::new(progress),
        };
        let outcome = async {
            let mut work = Box::pin(self.perform(pen.clone(), stop.clone(), Cancelled(cancelled)));
            tokio::select! {
                biased;
                outcome = &mut work => return outcome,
                () = self.keep(&pen, asked, &told) => return Outcome::Lost,
                Ok(_) = stop.wait_for(|stop| *stop == Stop::Now) => {}
            }
            drop(work); // the step ends at the await where it is
            let released = pen.write(|operation, now| {
                operation.release(now);
                None
            });
            released.await.map_or_else(pen_lost, |_| Outcome::Released)
        }
        .instrument(span.clone())
        .await;
        span.in_scope(|| tell(&outcome));
        outcome
    }

    async fn perform(&self, pen: Pen<Cx::Tx>, stop: watch::Receiver<Stop>, cancelled: Cancelled) -> Outcome {
        let read = async {
            let (mut tx, Locked { operation, .. }) = pen.journal.fenced(&pen.claim).await?;
            let records = pen.journal.steps(&mut tx, operation.id).await?;
            Ok::<_, JournalError>((operation, records))
        };
        let (operation, records) = match read.await {
            Ok(read) => read,
            Err(error) => return pen_lost(error),
        };
        let Some(workflow) = self.registry.find(&operation.workflow) else {
            return Outcome::Lost; // claimed by name, so this cannot be; another worker may know it
        };
        let mut run = Run::new(Arc::clone(&self.cx), pen, &operation, records, stop, cancelled);
        let answer = workflow(&mut run, operation.input).await;
        run.finish(answer).await
    }

    /// Renews the lease at a third of its length, writes progress and hears of cancellation. Returns when the lease is lost.
    async fn keep(&self, pen: &Pen<Cx::Tx>, asked: Instant, told: &watch::Sender<bool>) {
        let lease = self.options.lease;
        let mut progress = pen.progress.subscribe();
        let mut written = asked;
        let mut until = asked + lease;
        loop {
            let due = (written + lease / 3).min(until);
            let news = async {
                if progress.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                sleep_until(written + self.options.progress_every).await;
            };
            let _ = timeout_at(due, news).await; // news or time: either way it is written now
            progress.mark_unchanged();
            let sent = Instant::now();
            written = sent;
            let renewed = pen.write(|operation, now| {
                operation.renew(lease, now);
                None
            });
            match timeout_at(until, renewed).await {
                Ok(Ok(operation)) => {
                    until = sent + lease;
                    told.send_if_modified(|before| std::mem::replace(before, operation.abandon) != operation.abandon);
                }
                // By ourselves: the work has ended in the journal, and its own answer is on its way.
                Ok(Err(JournalError::Fenced { reason: Fenced::LetGo, .. })) => {
                    sleep_until((sent + lease / 10).min(until)).await;
                    return;
                }
                Err(_) | Ok(Err(JournalError::Fenced { .. } | JournalError::Missing(_))) => return,
                Ok(Err(error)) => {
                    warn!(error = %chain(&error), "renewing the lease failed");
                    sleep_until((sent + lease / 10).min(until)).await;
                    if Instant::now() >= until {
                        return;
                    }
                }
            }
        }
    }
}

fn pen_lost(error: JournalError) -> Outcome {
    crate::pen::Halt::Journal(error).into()
}

fn tell(outcome: &Outcome) {
    match outcome {
        Outcome::Succeeded => info!("finished"),
        Outcome::Undone => info!("undone"),
        Outcome::Waiting(pause) => info!(pause_ms = pause.as_millis() as u64, "a step failed and is tried again"),
        Outcome::Stuck(error) => error!(error.kind = %error.kind, %error, "stuck: a person has to look"),
        Outcome::Released => info!("let go of for a shutdown"),
        Outcome::Lost => info!("lease lost; another worker goes on"),
        Outcome::Unreachable(error) => {
            warn!(error = %chain(error), "the journal did not answer; it goes on when the lease has run out");
        }
        Outcome::Crashed => debug!("crashed on purpose"),
    }
}

fn chain(error: &JournalError) -> String {
    crate::StepError::chain(error)
}

async fn drain(tasks: &mut JoinSet<(Outcome, OwnedSemaphorePermit)>) {
    while tasks.join_next().await.is_some() {}
}
