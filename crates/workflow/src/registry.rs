//! Which workflow a name in the journal means.
//!
//! Never forgets a released name: an operation whose workflow is not here is not claimed, and waits for a program that knows it.

use crate::{Context, NewOperation, Run, StepError, kind};
use berth_domain::OperationId;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{collections::BTreeMap, future::Future, marker::PhantomData, pin::Pin, sync::Arc};

/// A workflow's name in the journal, tied to the type of its input: starting it with another one does not compile.
#[derive(Debug)]
pub struct Workflow<I> {
    name: &'static str,
    input: PhantomData<fn(&I)>,
}

impl<I: Serialize + DeserializeOwned + Send + 'static> Workflow<I> {
    /// The name is in the journal: never changed once released; an edited workflow gets a new one (`…_v2`).
    pub const fn named(name: &'static str) -> Self {
        Self { name, input: PhantomData }
    }
    pub const fn name(&self) -> &'static str {
        self.name
    }
    /// To be handed to [`crate::Journal::start`]. The same id twice is one operation.
    ///
    /// # Panics
    /// If the input is a map with keys that are no text, which is a mistake in the type, not in the value.
    pub fn with(&self, id: OperationId, input: &I) -> NewOperation {
        let input = serde_json::to_value(input).expect("a workflow's input is a struct of plain fields");
        NewOperation { id, workflow: self.name.to_owned(), subject: None, input }
    }
}

impl NewOperation {
    /// What it is about, to list by.
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }
}

/// `async fn(&mut Run<Cx>, Input) -> Result<Output, StepError>`. Spelled as a trait because a bound on an async
/// function cannot say that its future is `Send`.
pub trait WorkflowFn<'a, Cx: Context, I, O>: Send + Sync + 'static {
    type Running: Future<Output = Result<O, StepError>> + Send + 'a;
    fn call(&self, run: &'a mut Run<Cx>, input: I) -> Self::Running;
}

impl<'a, Cx, I, O, F, Running> WorkflowFn<'a, Cx, I, O> for F
where
    Cx: Context,
    F: Fn(&'a mut Run<Cx>, I) -> Running + Send + Sync + 'static,
    Running: Future<Output = Result<O, StepError>> + Send + 'a,
{
    type Running = Running;
    fn call(&self, run: &'a mut Run<Cx>, input: I) -> Running {
        self(run, input)
    }
}

type Running<'a> = Pin<Box<dyn Future<Output = Result<Value, StepError>> + Send + 'a>>;
type Erased<Cx> = Arc<dyn for<'a> Fn(&'a mut Run<Cx>, Value) -> Running<'a> + Send + Sync>;

/// All workflows that a worker can run.
pub struct Registry<Cx: Context> {
    by_name: BTreeMap<&'static str, Erased<Cx>>,
}

impl<Cx: Context> Default for Registry<Cx> {
    fn default() -> Self {
        Self { by_name: BTreeMap::new() }
    }
}

impl<Cx: Context> Registry<Cx> {
    pub fn new() -> Self {
        Self::default()
    }

    /// # Panics
    /// If the name is taken: two meanings of one name would replay one workflow's journal in another.
    pub fn with<I, O, F>(mut self, workflow: &Workflow<I>, function: F) -> Self
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
        F: for<'a> WorkflowFn<'a, Cx, I, O>,
    {
        let function = Arc::new(function);
        let erased: Erased<Cx> = Arc::new(move |run, input| {
            let function = Arc::clone(&function);
            Box::pin(async move {
                let input = serde_json::from_value(input)
                    .map_err(|error| StepError::permanent(kind::BAD_INPUT, error.to_string()))?;
                let output = function.call(run, input).await?;
                serde_json::to_value(output).map_err(|error| StepError::permanent(kind::BAD_OUTPUT, error.to_string()))
            })
        });
        let before = self.by_name.insert(workflow.name, erased);
        assert!(before.is_none(), "workflow `{}` is registered twice", workflow.name);
        self
    }

    pub fn names(&self) -> Vec<String> {
        self.by_name.keys().map(|name| (*name).to_owned()).collect()
    }

    pub(crate) fn find(&self, name: &str) -> Option<Erased<Cx>> {
        self.by_name.get(name).cloned()
    }
}
