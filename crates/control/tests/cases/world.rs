//! A control plane with one shared cell's worth of stack file, on a fake provider whose databases are a real Postgres.
//!
//! One control database per test process; names differ from world to world, so that worlds do not meet.

use berth_config::Environment;
use berth_control::{App, Caller, Change, Follow, Permit, Read, ReadTenant, edges::Takes, releases, stack, workflows};
use berth_domain::{Artifact, OperationId, OperationState};
use berth_infra::{CellDatabase, Provider, Role, fake::Fake};
use berth_store::{Sealer, Store};
use berth_testkit::TestDatabase;
use berth_wire as wire;
use berth_workflow::{Faults, Journal, Options, Worker, testing};
use std::{collections::BTreeMap, sync::Arc};

/// What edges sign with, where a test's stack file says so.
pub const SIGNATURE_KEY: &str = "0123456789abcdef0123456789abcdef";

pub const STACK: &str = r"
stack: parcels
services:
  web: { command: [web, serve], migrate: [web, migrate], role: web, health: /health, copies: 2 }
data:
  root: public.customers
  hooks:
    create: { sql: 'INSERT INTO customers (id, name) VALUES (:id, :slug) ON CONFLICT (id) DO NOTHING; SELECT id FROM customers WHERE id = :id' }
    suspend: { sql: 'UPDATE customers SET suspended = true WHERE id = :id' }
    resume: { sql: 'UPDATE customers SET suspended = false WHERE id = :id' }
    delete: { sql: 'DELETE FROM customers WHERE id = :id' }
plans:
  hobby: { price: 15, class: shared }
  business: { price: 399, class: dedicated }
providers:
  fake: { adapter: fake }
cells:
  shared-1: { class: shared, provider: fake, max_tenants: 2 }
";

pub struct World {
    pub app: App,
    pub fake: Fake,
    pub store: Store,
    pub control: TestDatabase,
    /// What every cell's database really is.
    pub tenants: TestDatabase,
    /// Of servers from now on.
    pub environment: Environment,
}

impl World {
    /// Without a stack file.
    pub async fn bare() -> Self {
        let (control, tenants) = (TestDatabase::new().await, TestDatabase::new().await);
        let owner = tenants.connect(Role::Owner).await;
        owner
            .batch_execute(
                "CREATE TABLE customers (id text PRIMARY KEY, name text NOT NULL, suspended boolean DEFAULT false)",
            )
            .await
            .unwrap();
        let fake = Fake::new();
        let server = berth_testkit::TestPg::shared().await;
        let cell = CellDatabase { database: tenants.name().to_owned(), ..server.cell().clone() };
        fake.stand_on(cell);
        let store = Store::open(&control.url(Role::Owner), Sealer::ephemeral(), 8).await.unwrap();
        let environment =
            Environment::from_iter([("PULL_PASSWORD", "planted-three"), ("SIGNATURE_KEY", SIGNATURE_KEY)]);
        let app = app(&store, &fake, &environment);
        Self { app, fake, store, control, tenants, environment }
    }

    /// With the stack file above in force and its cell ready.
    pub async fn new() -> Self {
        let world = Self::bare().await;
        world.apply(STACK).await.unwrap();
        world.finish().await;
        world
    }

    pub async fn apply(&self, file: &str) -> Result<wire::StackApplied, berth_control::ControlError> {
        let wanted = wire::StackApply { file: file.to_owned(), files: BTreeMap::new(), dry_run: false };
        stack::apply(&self.app, &change(), &wanted).await
    }

    /// Carries out every operation that is open, and answers with how the last one ended.
    pub async fn finish(&self) -> Option<OperationState> {
        let mut ended = None;
        loop {
            let open = [OperationState::Queued, OperationState::Running, OperationState::Undoing];
            let filter = berth_workflow::Filter { states: open.to_vec(), ..Default::default() };
            let Some(operation) = self.store.list(&filter).await.unwrap().pop() else { return ended };
            ended = Some(self.carry_out(operation.id).await);
        }
    }

    pub async fn carry_out(&self, id: OperationId) -> OperationState {
        for _ in 0..100 {
            self.turn().await;
            let state = testing::make_due(&self.store, id).await;
            if state.is_final() || state == OperationState::Stuck {
                return state;
            }
        }
        panic!("operation {id} does not end: {:?}", self.store.show(id).await);
    }

    /// Goes on with whatever operation is due and nobody else's. Says which.
    pub async fn turn(&self) -> Option<OperationId> {
        let options = Options { faults: Faults::none(), ..Options::named("test") };
        let worker = Worker::new(
            Arc::new(self.store.clone()),
            Arc::new(workflows::registry()),
            Arc::new(self.app.clone()),
            options,
        );
        worker.turn().await.unwrap().map(|(id, _)| id)
    }

    /// A second server on the same database.
    pub fn another(&self) -> App {
        app(&self.store, &self.fake, &self.environment)
    }

    /// The application's root rows, as `id name`.
    pub async fn root_rows(&self) -> Vec<String> {
        let client = self.tenants.connect(Role::Mover).await;
        let rows = client.query("SELECT id || ' ' || name FROM customers ORDER BY 1", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    pub async fn create(&self, name: &str, plan: &str) -> wire::Tenant {
        let operation = berth_control::tenants::create(&self.app, &change(), wanted(name, plan)).await.unwrap();
        assert_eq!(
            self.carry_out(operation.id).await,
            OperationState::Succeeded,
            "{:?}",
            self.store.show(operation.id).await
        );
        self.tenant(name).await
    }

    pub async fn tenant(&self, name: &str) -> wire::Tenant {
        berth_control::tenants::show(&self.app, &read_tenant(), name).await.unwrap()
    }

    /// Members as the provider has them, by name: of this cell, or of all.
    pub async fn members(&self, cell: Option<&str>) -> Vec<String> {
        let listed = self.fake.provider().compute.unwrap().list_members().await.unwrap();
        let own = listed.into_iter().filter(|member| cell.is_none_or(|cell| member.cell.as_str() == cell));
        own.map(|member| member.name.to_string()).collect()
    }

    /// The release in which these services are the images of this number.
    pub async fn release(&self, services: &[&str], n: u8) -> u32 {
        let services = services.iter().map(|name| ((*name).to_owned(), artifact(name, n).to_string())).collect();
        releases::create(&self.app, &change(), &wire::ReleaseCreate { services }).await.unwrap().0.number
    }
}

pub fn artifact(service: &str, n: u8) -> Artifact {
    format!("registry.test/{service}@sha256:{}", format!("{n:02x}").repeat(32)).parse().unwrap()
}

fn app(store: &Store, fake: &Fake, environment: &Environment) -> App {
    let fake = fake.clone();
    let build = move |adapter: &str, _: &serde_json::Value| match adapter {
        "fake" => Some(Ok(fake.provider())),
        // Run by somebody else, as cells of the adapter `endpoint` are.
        "theirs" => Some(Ok(Provider { foreign: true, ..fake.provider() })),
        _ => None,
    };
    let archives: berth_mover::Archives = Arc::new(object_store::memory::InMemory::new());
    let open = move |place: Option<&berth_config::Archives>, _: &Environment| -> Result<berth_mover::Archives, _> {
        let Some(berth_config::Archives::Directory(folder)) = place else { return Ok(Arc::clone(&archives)) };
        std::fs::create_dir_all(folder).unwrap();
        Ok(Arc::new(object_store::local::LocalFileSystem::new_with_prefix(folder).unwrap()))
    };
    App::new(store.clone(), environment.clone(), Box::new(build), Box::new(open))
}

pub fn wanted(name: &str, plan: &str) -> wire::TenantCreate {
    wire::TenantCreate {
        name: name.parse().unwrap(),
        plan: plan.parse().unwrap(),
        hosts: vec![format!("{name}.test").parse().unwrap()],
        key: None,
        cell: None,
        profile: None,
    }
}

/// An edge of that version, beside us.
pub fn speaks(speaks: u32) -> Takes {
    Takes { speaks, ..Takes::default() }
}

pub fn change() -> Permit<Change> {
    Caller::berth().may(Change).unwrap()
}
pub fn read() -> Permit<Read> {
    Caller::berth().may(Read).unwrap()
}
pub fn read_tenant() -> Permit<ReadTenant> {
    Caller::berth().may(ReadTenant).unwrap()
}
pub fn follow() -> Permit<Follow> {
    Caller::berth().may(Follow).unwrap()
}
