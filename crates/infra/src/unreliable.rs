//! Any adapter behind a bad line: answers get lost, requests arrive twice, callers die in between.
//! Never fails by itself: each fault is asked for, once, by a test.

use crate::{
    CellDatabase, CellSpec, Compute, Database, DatabaseName, Listed, Member, MemberLoad, MemberName, MemberSpec,
    Observed, Provider, ProviderError, RunOutcome, RunSpec, Source,
};
use async_trait::async_trait;
use berth_domain::{Artifact, CellName};
use std::{
    collections::VecDeque,
    future::{Future, pending},
    sync::{Arc, Mutex, PoisonError},
};

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The world changes; the caller hears nothing of it.
    LoseAnswer,
    /// Nothing happens; the caller cannot tell this from a lost answer.
    LoseRequest,
    /// The request arrives twice at once; the caller hears one answer.
    Twice,
    /// The world changes, and the caller is left waiting for good. Drop the future: that is the crash between the
    /// change and its record.
    Hang,
    /// The provider says that a limit is reached. Nothing happens.
    Quota,
}

/// Which call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    EnsureDatabase,
    ObserveDatabase,
    RemoveDatabase,
    StopDatabase,
    EnsureMember,
    ObserveMember,
    RemoveMember,
    RunOnce,
}

/// The faults still to come; a clone is the same list.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<VecDeque<(Call, Fault)>>>);

impl Faults {
    /// The next call of this kind that has no fault before it goes wrong like this.
    pub fn next(&self, call: Call, fault: Fault) {
        self.list().push_back((call, fault));
    }

    /// What was asked for and has not happened: a test that ends with some has tested less than it says.
    pub fn left(&self) -> Vec<(Call, Fault)> {
        self.list().iter().copied().collect()
    }

    fn take(&self, call: Call) -> Option<Fault> {
        let mut list = self.list();
        let at = list.iter().position(|(of, _)| *of == call)?;
        list.remove(at).map(|(_, fault)| fault)
    }

    fn list(&self) -> std::sync::MutexGuard<'_, VecDeque<(Call, Fault)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn through<T, F>(&self, call: Call, what: &str, make: impl Fn() -> F) -> Result<T, ProviderError>
    where
        F: Future<Output = Result<T, ProviderError>>,
    {
        let no_answer = || Err(ProviderError::NoAnswer { what: format!("{call:?} {what}") });
        match self.take(call) {
            None => make().await,
            Some(Fault::LoseAnswer) => make().await.and_then(|_| no_answer()),
            Some(Fault::LoseRequest) => no_answer(),
            Some(Fault::Twice) => tokio::join!(make(), make()).0,
            Some(Fault::Hang) => {
                let _ = make().await;
                pending().await
            }
            Some(Fault::Quota) => {
                Err(ProviderError::Quota { what: what.to_owned(), limit: "one fewer than asked for".to_owned() })
            }
        }
    }
}

/// The same provider with these faults on its line. `reach` is passed on as it is.
pub fn unreliable(provider: Provider, faults: &Faults) -> Provider {
    let faults = || faults.clone();
    Provider {
        database: provider.database.map(|inner| Arc::new(Line { inner, faults: faults() }) as Arc<dyn Database>),
        compute: provider.compute.map(|inner| Arc::new(Line { inner, faults: faults() }) as Arc<dyn Compute>),
        reach: provider.reach,
        foreign: provider.foreign,
    }
}

struct Line<T: ?Sized> {
    inner: Arc<T>,
    faults: Faults,
}

#[async_trait]
impl Database for Line<dyn Database> {
    async fn ensure_database(&self, spec: &CellSpec) -> Result<CellDatabase, ProviderError> {
        let call = || self.inner.ensure_database(spec);
        self.faults.through(Call::EnsureDatabase, spec.name.as_str(), call).await
    }
    async fn observe_database(&self, name: &DatabaseName) -> Result<Observed<CellDatabase>, ProviderError> {
        let call = || self.inner.observe_database(name);
        self.faults.through(Call::ObserveDatabase, name.as_str(), call).await
    }
    async fn remove_database(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        self.faults.through(Call::RemoveDatabase, name.as_str(), || self.inner.remove_database(name)).await
    }
    async fn stop_database(&self, name: &DatabaseName) -> Result<(), ProviderError> {
        self.faults.through(Call::StopDatabase, name.as_str(), || self.inner.stop_database(name)).await
    }
    async fn list_databases(&self) -> Result<Vec<Listed<DatabaseName>>, ProviderError> {
        self.inner.list_databases().await
    }
}

#[async_trait]
impl Compute for Line<dyn Compute> {
    async fn ensure_source(&self, cell: &CellName, source: &Source) -> Result<(), ProviderError> {
        self.inner.ensure_source(cell, source).await
    }
    async fn remove_image(&self, cell: &CellName, image: &Artifact) -> Result<bool, ProviderError> {
        self.inner.remove_image(cell, image).await
    }
    async fn ensure_member(&self, spec: &MemberSpec) -> Result<Member, ProviderError> {
        self.faults.through(Call::EnsureMember, spec.name.as_str(), || self.inner.ensure_member(spec)).await
    }
    async fn observe_member(&self, name: &MemberName) -> Result<Observed<Member>, ProviderError> {
        self.faults.through(Call::ObserveMember, name.as_str(), || self.inner.observe_member(name)).await
    }
    async fn remove_member(&self, name: &MemberName) -> Result<(), ProviderError> {
        self.faults.through(Call::RemoveMember, name.as_str(), || self.inner.remove_member(name)).await
    }
    async fn list_members(&self) -> Result<Vec<Listed<MemberName>>, ProviderError> {
        self.inner.list_members().await
    }
    async fn run_once(&self, spec: &RunSpec) -> Result<RunOutcome, ProviderError> {
        self.faults.through(Call::RunOnce, &spec.what, || self.inner.run_once(spec)).await
    }
    async fn member_logs(&self, name: &MemberName, lines: usize) -> Result<Vec<String>, ProviderError> {
        self.inner.member_logs(name, lines).await
    }
    async fn member_load(&self, name: &MemberName) -> Result<Option<MemberLoad>, ProviderError> {
        self.inner.member_load(name).await
    }
}
