//! An import and an erasure survive a crash at every point: no row twice, none left, and the document of an erasure says
//! what was there, whatever was broken off in between.

use crate::{
    brought::{Files, brought, mentions, taken_along, wanted},
    try_move::{Moving, rows},
    world::{STACK, change, read, read_tenant},
};
use async_trait::async_trait;
use berth_control::{App, archives, erasures, imports, moves, workflows};
use berth_domain::{OperationId, OperationState, TenantId, TenantState};
use berth_infra::Role;
use berth_store::{Tenant, Tx};
use berth_wire::Erased;
use berth_workflow::{Failing, Journal, Registry, testing, testing::TestWorld};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use tempfile::TempDir;
use uuid::Uuid;

fn next() -> u32 {
    static TRIES: AtomicU32 = AtomicU32::new(0);
    TRIES.fetch_add(1, Ordering::Relaxed)
}

/// A control plane whose place for archives outlives a crash, as a folder does.
struct Home {
    moving: Moving,
    _folder: TempDir,
}

impl Home {
    async fn new() -> Self {
        let (moving, folder) = (Moving::new().await, tempfile::tempdir().unwrap());
        let file = STACK.replace("max_tenants: 2", "max_tenants: 90000");
        let place = folder.path().display();
        moving.world.apply(&format!("{file}archives: {{ directory: {place} }}\n")).await.unwrap();
        moving.world.finish().await;
        Self { moving, _folder: folder }
    }

    async fn erased(&self, name: &str) {
        let begun = erasures::start(&self.moving.world.app, &change(), name).await.unwrap();
        assert_eq!(self.moving.world.carry_out(begun.id).await, OperationState::Succeeded);
    }
}

/// A tenant that was exported and erased.
struct Gone {
    home: Home,
    files: Files,
    tenant: Tenant,
    rows: Vec<String>,
}

impl Gone {
    async fn new() -> Arc<Self> {
        let home = Home::new().await;
        let tenant = home.moving.tenant("gone").await;
        let rows = rows(&home.moving.world.tenants.connect(Role::Mover).await, &tenant).await;
        let files = taken_along(&home.moving, "gone").await;
        home.erased("gone").await;
        Arc::new(Self { home, files, tenant, rows })
    }
}

/// It comes in again under another name.
struct TryImport {
    gone: Arc<Gone>,
    archive: OperationId,
    name: String,
}

impl TryImport {
    async fn new(gone: &Arc<Gone>) -> Self {
        // A try that no fault came by is over without having been looked at. Its erasure would take what is brought here.
        let called = format!("key:{}", gone.tenant.key);
        let known = gone.home.moving.world.store.tenants_called(std::slice::from_ref(&called)).await.unwrap();
        if let Some(tenant) = known.get(&called) {
            gone.home.erased(&tenant.to_string()).await;
        }
        let archive = brought(&gone.home.moving.world.app, &gone.files).await;
        Self { gone: gone.clone(), archive, name: format!("back{}", next()) }
    }

    async fn rows(&self) -> Vec<String> {
        rows(&self.gone.home.moving.world.tenants.connect(Role::Mover).await, &self.gone.tenant).await
    }

    async fn nothing_brought_is_kept(&self) {
        let left = imports::forget_files(&self.gone.home.moving.world.app, &change(), self.archive).await.unwrap();
        assert_eq!(left, 0, "files that were brought");
    }
}

#[async_trait]
impl TestWorld for TryImport {
    type Cx = App;

    fn journal(&self) -> Arc<dyn Journal<Tx = Tx>> {
        Arc::new(self.gone.home.moving.world.store.clone())
    }
    fn registry(&self) -> Arc<Registry<App>> {
        Arc::new(workflows::registry())
    }
    fn cx(&self) -> Arc<App> {
        Arc::new(self.gone.home.moving.world.another())
    }

    async fn start(&self) -> OperationId {
        let app = &self.gone.home.moving.world.app;
        imports::start(app, &change(), wanted(self.archive, &self.name)).await.unwrap().id
    }

    async fn assert_done(&self) {
        assert_eq!(self.rows().await, self.gone.rows, "every row, once");
        let back = self.gone.home.moving.known(&self.name).await;
        assert_eq!((back.state, &back.key), (TenantState::Active, &self.gone.tenant.key));
        assert_eq!(back.hosts[0].as_str(), format!("{}.test", self.name));
        self.nothing_brought_is_kept().await;
        // Its key is free for the next try.
        self.gone.home.erased(&self.name).await;
        assert!(self.rows().await.is_empty());
    }

    async fn assert_as_before(&self) {
        let store = &self.gone.home.moving.world.store;
        assert!(self.rows().await.is_empty(), "rows of an import that failed");
        assert!(store.tenant_by_name(&self.name.parse().unwrap()).await.unwrap().is_none());
        let host: berth_domain::Hostname = format!("{}.test", self.name).parse().unwrap();
        let taken = store.begin().await.unwrap().hosts_near(&[host.into()], TenantId::new(Uuid::nil())).await.unwrap();
        assert!(taken.is_empty(), "its host");
        self.nothing_brought_is_kept().await;
    }
}

mod import_tenant {
    use super::{Failing, Gone, TryImport, testing};

    #[tokio::test]
    async fn survives_a_crash_at_every_point() {
        let gone = Gone::new().await;
        testing::survives_a_crash_at_every_point(async || TryImport::new(&gone).await).await;
    }
    #[tokio::test]
    async fn undoes_a_failure_of_every_step() {
        let gone = Gone::new().await;
        testing::undoes_a_failure_of_every_step(async || TryImport::new(&gone).await).await;
    }
    #[tokio::test]
    async fn undo_of_a_step_that_ran_survives_a_crash_at_every_point() {
        let gone = Gone::new().await;
        let fresh = async || TryImport::new(&gone).await;
        testing::undo_survives_a_crash_at_every_point_after(Failing::AfterRun, fresh).await;
    }
}

/// A tenant with an archive that has just moved, so that the old cell holds its rows too.
struct TryErase {
    home: Arc<Home>,
    tenant: Tenant,
    /// What is outside the control database.
    there: Vec<Erased>,
    neighbours: Vec<String>,
}

impl TryErase {
    async fn new(home: &Arc<Home>) -> Self {
        let (app, name) = (&home.moving.world.app, format!("leaves{}x", next()));
        let tenant = home.moving.tenant(&name).await;
        let exported = archives::export(app, &change(), &name).await.unwrap();
        assert_eq!(home.moving.world.carry_out(exported.id).await, OperationState::Succeeded);
        let to = "shared-2".parse().unwrap();
        let moved = moves::start(app, &change(), &name, Some(&to)).await.unwrap();
        assert_eq!(home.moving.world.carry_out(moved.id).await, OperationState::Succeeded);
        let plan = erasures::plan(app, &read_tenant(), &name).await.unwrap();
        let there = outside(plan.erased);
        assert!(there.len() >= 4, "{there:?}");
        let stays = home.moving.known("stays").await;
        let neighbours = rows(&home.moving.world.tenants.connect(Role::Mover).await, &stays).await;
        Self { home: home.clone(), tenant, there, neighbours }
    }
}

fn outside(mut erased: Vec<Erased>) -> Vec<Erased> {
    erased.retain(|line| line.place != "control database");
    erased.sort_by_key(|line| (line.place.clone(), line.what.clone()));
    erased
}

#[async_trait]
impl TestWorld for TryErase {
    type Cx = App;

    fn journal(&self) -> Arc<dyn Journal<Tx = Tx>> {
        Arc::new(self.home.moving.world.store.clone())
    }
    fn registry(&self) -> Arc<Registry<App>> {
        Arc::new(workflows::registry())
    }
    fn cx(&self) -> Arc<App> {
        Arc::new(self.home.moving.world.another())
    }

    async fn start(&self) -> OperationId {
        erasures::start(&self.home.moving.world.app, &change(), self.tenant.name.as_str()).await.unwrap().id
    }

    async fn assert_done(&self) {
        let moving = &self.home.moving;
        for database in [&moving.world.tenants, &moving.target] {
            assert!(rows(&database.connect(Role::Mover).await, &self.tenant).await.is_empty());
        }
        let mentioned = mentions(moving, self.tenant.name.as_str()).await;
        assert!(mentioned.is_empty(), "{mentioned:?}");
        let stays = moving.known("stays").await;
        assert_eq!(rows(&moving.world.tenants.connect(Role::Mover).await, &stays).await, self.neighbours);
        let mut told = erasures::list(&moving.world.app, &read()).await.unwrap().items;
        told.retain(|document| document.tenant == self.tenant.id);
        assert_eq!(told.len(), 1, "one document: {told:?}");
        assert_eq!(outside(told.remove(0).erased), self.there, "it says what was there");
    }

    /// From the start it only goes forward.
    async fn assert_as_before(&self) {
        panic!("an erasure was taken back");
    }
}

/// Past its point of no return from the start: there is no way back to test.
mod erase_tenant {
    use super::{Arc, Home, TryErase, testing};

    async fn home() -> Arc<Home> {
        let home = Home::new().await;
        home.moving.tenant("stays").await;
        Arc::new(home)
    }

    #[tokio::test]
    async fn survives_a_crash_at_every_point() {
        let home = home().await;
        testing::survives_a_crash_at_every_point(async || TryErase::new(&home).await).await;
    }
}
