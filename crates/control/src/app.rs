//! The handle that every use case is given: the store, the stack in force, and the providers it names.
//!
//! Sees the contracts of infrastructure and no adapter: the binary hands over how one is built.

use crate::{ControlError, cell_access, edge_polls::Polls, ways_open::WaysOpen};
use berth_config::{Environment, Stack, Template};
use berth_domain::{CellId, CellName, ProviderName};
use berth_infra::{CellDatabase, Compute, Database, Outside, Provider, ProviderError};
use berth_mover::Archives;
use berth_store::{Cell, Store, Tx};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Instant,
};
use uuid::Uuid;

/// Builds the adapter of this name from its own section of the stack file. `None`: there is no such adapter.
pub type BuildAdapter = dyn Fn(&str, &Value) -> Option<Result<Provider, ProviderError>> + Send + Sync;

/// Opens the place of archives that the stack file names, or the server's own.
pub type OpenArchives =
    dyn Fn(Option<&berth_config::Archives>, &Environment) -> Result<Archives, ProviderError> + Send + Sync;

/// Cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    environment: Environment,
    build: Box<BuildAdapter>,
    archives: Box<OpenArchives>,
    /// Built adapters by their section: the same section gives the same adapter, with its connections.
    built: Mutex<HashMap<String, Provider>>,
    stack: Mutex<Option<Arc<StackInForce>>>,
    server: Uuid,
    outside: OnceLock<Arc<dyn Outside>>,
    ways_open: WaysOpen,
    edge_polls: Arc<Polls>,
    advice: Mutex<Option<KeptAdvice>>,
}

/// Advice on costs that took its time to make, for as long as it is good.
pub(crate) struct KeptAdvice {
    pub until: Instant,
    /// The stack's revision, and how many cells, stays and invoices it was made of.
    pub of: (i64, usize, usize, usize),
    pub advice: Vec<berth_wire::CostAdvice>,
}

/// The newest revision of the stack file, parsed.
#[derive(Debug)]
pub struct StackInForce {
    pub revision: i64,
    pub stack: Stack,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("server", &self.inner.server).finish_non_exhaustive()
    }
}

/// Steps of workflows are given the same handle.
impl berth_workflow::Context for App {
    type Tx = Tx;
}

impl App {
    pub fn new(store: Store, environment: Environment, build: Box<BuildAdapter>, archives: Box<OpenArchives>) -> Self {
        let inner = Inner {
            store,
            environment,
            build,
            archives,
            built: Mutex::default(),
            stack: Mutex::default(),
            server: Uuid::now_v7(),
            outside: OnceLock::new(),
            ways_open: WaysOpen::default(),
            edge_polls: Arc::default(),
            advice: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How the world outside is asked; without it nothing is proved and no certificate ordered.
    #[must_use]
    pub fn asking(self, outside: Arc<dyn Outside>) -> Self {
        // A second one would be the first one's equal.
        let _ = self.inner.outside.set(outside);
        self
    }

    pub(crate) fn outside(&self) -> Result<Arc<dyn Outside>, ControlError> {
        self.inner.outside.get().cloned().ok_or(ControlError::NoOutside)
    }

    /// Which ways into servers edges have open.
    pub(crate) fn ways_open(&self) -> &WaysOpen {
        &self.inner.ways_open
    }

    /// Streams of edges that poll.
    pub(crate) fn edge_polls(&self) -> &Arc<Polls> {
        &self.inner.edge_polls
    }

    pub(crate) fn kept_advice(&self) -> MutexGuard<'_, Option<KeptAdvice>> {
        self.inner.advice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// This server among those on the same database.
    pub fn server(&self) -> Uuid {
        self.inner.server
    }

    pub fn environment(&self) -> &Environment {
        &self.inner.environment
    }

    /// The stack in force now, also when another server has applied it.
    pub async fn stack(&self) -> Result<Arc<StackInForce>, ControlError> {
        let revision = self.store().stack_revision().await?.ok_or(ControlError::NoStack)?;
        if let Some(known) = self.inner.stack.lock().unwrap_or_else(PoisonError::into_inner).clone()
            && known.revision == revision
        {
            return Ok(known);
        }
        let newest = self.store().stack_newest().await?.ok_or(ControlError::NoStack)?;
        let read = StackInForce { revision: newest.revision, stack: serde_json::from_value(newest.document)? };
        let read = Arc::new(read);
        *self.inner.stack.lock().unwrap_or_else(PoisonError::into_inner) = Some(read.clone());
        Ok(read)
    }

    /// The provider of this name in the stack in force.
    pub async fn provider(&self, name: &str) -> Result<Provider, ControlError> {
        let in_force = self.stack().await?;
        self.provider_of(&in_force.stack, name).await
    }

    pub(crate) async fn provider_of(&self, stack: &Stack, name: &str) -> Result<Provider, ControlError> {
        let section = ProviderName::new(name).ok().and_then(|name| stack.providers.get(&name));
        let section = section.ok_or_else(|| ControlError::NoProvider(name.to_owned()))?;
        let mut settings = section.settings.clone();
        for setting in settings.values_mut() {
            self.resolve(setting)?;
        }
        // What was said of single cells over the API stands beside what the stack file says of them.
        let told = self.store().cell_settings(name).await?;
        if !told.is_empty() {
            let cells = settings.entry("cells").or_insert_with(|| Value::Object(serde_json::Map::new()));
            for (cell, told) in told {
                if let Some(cells) = cells.as_object_mut() {
                    cells.insert(cell.to_string(), serde_json::from_str(told.expose_secret())?);
                }
            }
        }
        let settings = Value::Object(settings);
        let key = format!("{} {settings}", section.adapter);
        let mut built = self.inner.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(provider) = built.get(&key) {
            return Ok(provider.clone());
        }
        let provider = (self.inner.build)(&section.adapter, &settings)
            .ok_or_else(|| ControlError::NoAdapter(section.adapter.clone()))?
            .map_err(|source| ControlError::BadProvider { name: name.to_owned(), source })?;
        built.insert(key, provider.clone());
        Ok(provider)
    }

    /// A provider of the stack as it would be with these settings of one more cell. Not kept.
    pub(crate) fn with_cell(
        &self,
        stack: &Stack,
        provider: &ProviderName,
        cell: &CellName,
        settings: &Value,
    ) -> Result<Provider, ProviderError> {
        let refused =
            |reason: &str| ProviderError::Refused { what: format!("provider `{provider}`"), reason: reason.to_owned() };
        let section = stack.providers.get(provider).ok_or_else(|| refused("the stack file does not name it"))?;
        let alone = serde_json::json!({ "cells": { cell.as_str(): settings } });
        (self.inner.build)(&section.adapter, &alone).unwrap_or_else(|| Err(refused("it has no adapter")))
    }

    /// Puts variables in where a setting of an adapter names them: its passwords need not stand in the file.
    fn resolve(&self, setting: &mut Value) -> Result<(), ControlError> {
        match setting {
            Value::String(text) if text.contains("${") => {
                // What is no template is for the adapter to refuse.
                if let Ok(template) = Template::new(text.clone()) {
                    template.resolve(self.environment())?.expose_secret().clone_into(text);
                }
                Ok(())
            }
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.resolve(item)),
            Value::Object(settings) => settings.values_mut().try_for_each(|item| self.resolve(item)),
            _ => Ok(()),
        }
    }

    /// Where rows go that leave a tenant's cell for good.
    pub async fn archives(&self) -> Result<Archives, ControlError> {
        let in_force = self.stack().await?;
        let opened = (self.inner.archives)(in_force.stack.archives.as_ref(), &self.inner.environment);
        opened.map_err(|source| ControlError::BadProvider { name: "archives".to_owned(), source })
    }

    /// A cell's place for objects, by its URL.
    pub(crate) fn objects_at(&self, url: &str) -> Result<Archives, ControlError> {
        let failed = |source| ControlError::BadProvider { name: "objects".to_owned(), source };
        let Some(folder) = url.strip_prefix("file://") else {
            let reason = format!("`{url}` is no place for objects that this version speaks to");
            return Err(failed(ProviderError::Refused { what: "the cell's objects".to_owned(), reason }));
        };
        let place = berth_config::Archives::Directory(folder.to_owned());
        (self.inner.archives)(Some(&place), &self.inner.environment).map_err(failed)
    }

    /// Where a cell's database is made, by its provider.
    pub async fn database_of(&self, cell: &Cell) -> Result<Arc<dyn Database>, ControlError> {
        let missing = || ControlError::NotOffered { provider: cell.provider.clone(), what: "database" };
        self.provider(&cell.provider).await?.database.ok_or_else(missing)
    }

    /// Where a cell's members run.
    pub async fn compute_of(&self, cell: &Cell) -> Result<Arc<dyn Compute>, ControlError> {
        let missing = || ControlError::NotOffered { provider: cell.provider.clone(), what: "compute" };
        self.provider(&cell.provider).await?.compute.ok_or_else(missing)
    }

    /// Whether a cell is run by somebody else: looked at and used, never made, changed or removed.
    pub async fn is_foreign(&self, cell: &Cell) -> Result<bool, ControlError> {
        Ok(self.provider(&cell.provider).await?.foreign)
    }

    /// How to log in to a cell's database, from the sealed record: it needs no answer of the provider, but for a way
    /// there where its address alone is none.
    pub async fn cell_database(&self, cell: &Cell) -> Result<CellDatabase, ControlError> {
        let sealed = self.store().cell_access(cell.id).await?;
        let text = sealed.ok_or_else(|| ControlError::NoDatabase(cell.name.clone()))?;
        let database = cell_access::read(&text)?;
        // A provider that the stack file does not name any more opens no ways; its cells' addresses stand all the same.
        if let Ok(provider) = self.database_of(cell).await {
            let opened = provider.open_way(&database).await;
            opened.map_err(|source| ControlError::Provider { cell: cell.name.clone(), source })?;
        }
        Ok(database)
    }

    /// A cell that must exist, since a row refers to it.
    pub async fn cell(&self, id: CellId) -> Result<Cell, ControlError> {
        self.store().cell_get(id).await?.ok_or_else(|| ControlError::NoCell(id.to_string()))
    }

    /// Refuses every change while the control database is behind the world.
    pub(crate) async fn writable(&self) -> Result<(), ControlError> {
        if self.store().world_ahead_any().await? { Err(ControlError::WorldAhead) } else { Ok(()) }
    }
}
