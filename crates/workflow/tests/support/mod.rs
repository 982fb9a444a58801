//! A world that counts: a provider with named things, control state in the journal, and workflows over both.
//!
//! Never repeats the crate's rules: it only makes, removes and remembers.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part; a world of tests may panic

use async_trait::async_trait;
use berth_domain::OperationId;
use berth_workflow::{
    Context, Journal, MemoryJournal, MemoryTx, Options, Registry, Retry, Run, Step, StepError, TxStep, Worker,
    Workflow, testing::TestWorld,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// A provider of named things, which outlives every worker.
#[derive(Debug, Default)]
pub struct Provider {
    pub holds: Mutex<BTreeSet<String>>,
    /// Real creations by name: a thing that was there already is not created.
    pub created: Mutex<BTreeMap<String, u32>>,
    /// Answers to give before working again, by name of the call.
    pub answers: Mutex<BTreeMap<&'static str, VecDeque<StepError>>>,
    pub calls: Mutex<Vec<String>>,
}

impl Provider {
    pub fn will_answer(&self, call: &'static str, errors: impl IntoIterator<Item = StepError>) {
        self.answers.lock().unwrap().entry(call).or_default().extend(errors);
    }
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
    fn answer(&self, call: &'static str, name: &str) -> Result<(), StepError> {
        self.calls.lock().unwrap().push(format!("{call} {name}"));
        match self.answers.lock().unwrap().get_mut(call).and_then(VecDeque::pop_front) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
    fn ensure(&self, name: &str) -> Result<String, StepError> {
        self.answer("ensure", name)?;
        if self.holds.lock().unwrap().insert(name.to_owned()) {
            *self.created.lock().unwrap().entry(name.to_owned()).or_default() += 1;
        }
        Ok(format!("made:{name}"))
    }
    fn remove(&self, name: &str) -> Result<(), StepError> {
        self.answer("remove", name)?;
        self.holds.lock().unwrap().remove(name);
        Ok(())
    }
}

#[derive(Debug)]
pub struct Cx {
    pub provider: Arc<Provider>,
    /// Closed: a `Wait` step stays where it is.
    pub gate: Arc<Semaphore>,
}

impl Context for Cx {
    type Tx = MemoryTx;
}

pub struct Ensure(pub String);

#[async_trait]
impl Step<Cx> for Ensure {
    const NAME: &'static str = "ensure";
    type Output = String;
    async fn run(&self, cx: &Cx) -> Result<String, StepError> {
        cx.provider.ensure(&self.0)
    }
    async fn undo(&self, cx: &Cx, made: Option<String>) -> Result<(), StepError> {
        assert!(made.is_none_or(|made| made == format!("made:{}", self.0)));
        cx.provider.remove(&self.0)
    }
    fn input(&self) -> Value {
        json!(self.0)
    }
    fn retry(&self) -> Retry {
        Retry { attempts: 3, attempts_past_return: 4, ..Retry::default() }
    }
}

/// Counts up in control state: a second run would be seen.
pub struct Count;

#[async_trait]
impl TxStep<Cx> for Count {
    const NAME: &'static str = "count";
    type Output = u64;
    async fn run(&self, tx: &mut MemoryTx) -> Result<u64, StepError> {
        let count = tx.get("count").and_then(Value::as_u64).unwrap_or(0) + 1;
        tx.set("count", json!(count));
        Ok(count)
    }
    async fn undo(&self, tx: &mut MemoryTx, made: u64) -> Result<(), StepError> {
        if made == 1 {
            tx.remove("count");
        } else {
            tx.set("count", json!(made - 1));
        }
        Ok(())
    }
}

/// Stays until the gate opens, then ensures its name.
pub struct Wait(pub String);

#[async_trait]
impl Step<Cx> for Wait {
    const NAME: &'static str = "wait";
    type Output = ();
    async fn run(&self, cx: &Cx) -> Result<(), StepError> {
        cx.provider.answer("wait", &self.0)?;
        let _open = cx.gate.acquire().await.expect("the gate is never closed for good");
        cx.provider.ensure(&self.0).map(drop)
    }
    async fn undo(&self, cx: &Cx, _: Option<()>) -> Result<(), StepError> {
        cx.provider.remove(&self.0)
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Input {
    pub name: String,
}

pub const CREATE: Workflow<Input> = Workflow::named("create");
pub const HAND_OVER: Workflow<Input> = Workflow::named("hand_over");
pub const SWITCH: Workflow<Input> = Workflow::named("switch");
pub const WAITING: Workflow<Input> = Workflow::named("waiting");

/// Two things, one count, then a point of no return and a third thing.
pub async fn create(run: &mut Run<Cx>, input: Input) -> Result<String, StepError> {
    let first = run.step(Ensure(format!("{}-1", input.name))).await?;
    run.tx(Count).await?;
    run.step(Ensure(format!("{}-2", input.name))).await?;
    run.point_of_no_return().await?;
    run.step(Ensure(format!("{}-3", input.name))).await?;
    Ok(first)
}

/// Its point of no return is the commit of a control change, and that comes last but one.
pub async fn hand_over(run: &mut Run<Cx>, input: Input) -> Result<(), StepError> {
    run.step(Ensure(format!("{}-1", input.name))).await?;
    run.tx(Count).await?;
    run.tx_of_no_return(Count).await?;
    run.step(Ensure(format!("{}-2", input.name))).await?;
    Ok(())
}

/// Its point of no return is the record of a step that touches the world.
pub async fn switch(run: &mut Run<Cx>, input: Input) -> Result<(), StepError> {
    run.step(Ensure(format!("{}-1", input.name))).await?;
    run.step_of_no_return(Ensure(format!("{}-2", input.name))).await?;
    run.tx(Count).await?;
    Ok(())
}

pub async fn waiting(run: &mut Run<Cx>, input: Input) -> Result<(), StepError> {
    run.step(Wait(format!("{}-1", input.name))).await?;
    run.step(Ensure(format!("{}-2", input.name))).await?;
    Ok(())
}

pub fn registry() -> Registry<Cx> {
    Registry::new().with(&CREATE, create).with(&HAND_OVER, hand_over).with(&SWITCH, switch).with(&WAITING, waiting)
}

/// What is to be there when `workflow` has succeeded: things by name, and the count.
pub struct World {
    pub journal: Arc<MemoryJournal>,
    pub provider: Arc<Provider>,
    pub gate: Arc<Semaphore>,
    pub registry: Arc<Registry<Cx>>,
    workflow: &'static Workflow<Input>,
    things: &'static [&'static str],
    count: Option<u64>,
}

impl World {
    pub fn of(workflow: &'static Workflow<Input>, things: &'static [&'static str], count: Option<u64>) -> Self {
        Self {
            journal: Arc::new(MemoryJournal::new()),
            provider: Arc::default(),
            gate: Arc::new(Semaphore::new(1)),
            registry: Arc::new(registry()),
            workflow,
            things,
            count,
        }
    }
    pub fn create() -> Self {
        Self::of(&CREATE, &["acme-1", "acme-2", "acme-3"], Some(1))
    }
    pub fn hand_over() -> Self {
        Self::of(&HAND_OVER, &["acme-1", "acme-2"], Some(2))
    }
    pub fn switch() -> Self {
        Self::of(&SWITCH, &["acme-1", "acme-2"], Some(1))
    }
    pub fn waiting() -> Self {
        Self::of(&WAITING, &["acme-1", "acme-2"], None)
    }
    pub fn worker(&self, options: Options) -> Worker<Cx> {
        Worker::new(self.journal.clone(), self.registry.clone(), self.cx(), options)
    }
    /// Operator verbs run in a transaction of their own here.
    pub async fn abandon(&self, id: OperationId, force: bool) -> Result<(), berth_workflow::JournalError> {
        let mut tx = self.journal.begin().await?;
        self.journal.abandon(&mut tx, id, force).await?;
        self.journal.commit(tx).await
    }
    pub async fn retry(&self, id: OperationId) -> Result<(), berth_workflow::JournalError> {
        let mut tx = self.journal.begin().await?;
        self.journal.retry(&mut tx, id).await?;
        self.journal.commit(tx).await
    }
    pub async fn operation(&self, id: OperationId) -> berth_workflow::Operation {
        self.journal.show(id).await.unwrap().unwrap().0
    }
}

#[async_trait]
impl TestWorld for World {
    type Cx = Cx;
    fn journal(&self) -> Arc<dyn Journal<Tx = MemoryTx>> {
        self.journal.clone()
    }
    fn registry(&self) -> Arc<Registry<Cx>> {
        self.registry.clone()
    }
    fn cx(&self) -> Arc<Cx> {
        Arc::new(Cx { provider: self.provider.clone(), gate: self.gate.clone() })
    }
    async fn start(&self) -> OperationId {
        let id = OperationId::new(Uuid::now_v7());
        let mut tx = self.journal.begin().await.unwrap();
        let new = self.workflow.with(id, &Input { name: "acme".into() }).about("tenant/acme");
        self.journal.start(&mut tx, new).await.unwrap();
        self.journal.commit(tx).await.unwrap();
        id
    }
    async fn assert_done(&self) {
        let wanted: BTreeSet<_> = self.things.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(*self.provider.holds.lock().unwrap(), wanted);
        let twice: Vec<_> =
            self.provider.created.lock().unwrap().clone().into_iter().filter(|(_, n)| *n != 1).collect();
        assert!(twice.is_empty(), "created more than once: {twice:?}");
        assert_eq!(self.journal.control().await.get("count").and_then(Value::as_u64), self.count);
    }
    async fn assert_as_before(&self) {
        assert_eq!(*self.provider.holds.lock().unwrap(), BTreeSet::new());
        assert_eq!(self.journal.control().await, BTreeMap::new());
    }
}

/// Waits for a condition; on timeout the last value is in the message.
pub async fn eventually<T: std::fmt::Debug>(what: &str, mut look: impl AsyncFnMut() -> Result<(), T>) {
    let patience = Duration::from_mins(10); // of the test's own, paused clock
    let started = tokio::time::Instant::now();
    while let Err(last) = look().await {
        assert!(started.elapsed() < patience, "waited for {what}; last seen: {last:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
