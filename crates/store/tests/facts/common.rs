//! A control database of its own per test, with a plan, a ready cell and as many tenants as asked for.

use berth_domain::{
    CellClass, CellId, CellName, CellState, Cents, Hostname, Plan, PlanLimits, PlanName, TenantEvent, TenantId,
    TenantKey, TenantName,
};
use berth_infra::Role;
use berth_store::{NewCell, NewStackRevision, NewTenant, Sealer, Store};
use berth_testkit::TestDatabase;
use serde_json::json;
use uuid::Uuid;

pub struct World {
    pub store: Store,
    pub database: TestDatabase,
    pub cell: CellId,
}

impl World {
    pub async fn new() -> Self {
        let database = TestDatabase::new().await;
        let store = open(&database).await;
        let mut tx = store.begin().await.unwrap();
        let revision = NewStackRevision {
            revision: 1,
            stack: "s".into(),
            source: "stack: s".into(),
            document: json!({}),
            applied_by: "test".into(),
        };
        tx.stack_insert(&revision).await.unwrap();
        tx.plans_replace(1, &[plan("hobby", CellClass::Shared)]).await.unwrap();
        tx.commit().await.unwrap();
        let cell = new_cell(&store, "shared-1").await;
        Self { store, database, cell }
    }

    /// A tenant that is served at `NAME.test`.
    pub async fn tenant(&self, name: &str) -> TenantId {
        let id = self.provisioning(name).await;
        let mut tx = self.store.begin().await.unwrap();
        tx.tenant_apply(id, TenantEvent::RoutePublished).await.unwrap().unwrap();
        tx.routes_publish(&[id]).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub async fn provisioning(&self, name: &str) -> TenantId {
        let new = new_tenant(name);
        let mut tx = self.store.begin().await.unwrap();
        tx.tenant_insert(&new).await.unwrap();
        tx.placement_insert(new.id, self.cell).await.unwrap();
        tx.hosts_replace(new.id, &[host(&format!("{name}.test"))]).await.unwrap();
        tx.commit().await.unwrap();
        new.id
    }
}

pub async fn open(database: &TestDatabase) -> Store {
    // The owner of the database: the control database's own role is no superuser either.
    Store::open(&database.url(Role::Owner), Sealer::ephemeral(), 8).await.unwrap()
}

pub async fn new_cell(store: &Store, name: &str) -> CellId {
    let id = CellId::new(Uuid::now_v7());
    let new = NewCell {
        id,
        name: CellName::new(name).unwrap(),
        class: CellClass::Shared,
        provider: "local".into(),
        region: None,
        max_tenants: 10,
        shape: json!({}),
        stack_revision: 1,
    };
    let mut tx = store.begin().await.unwrap();
    tx.cell_insert(&new).await.unwrap();
    tx.cell_set_state(id, CellState::Creating, CellState::Ready).await.unwrap();
    tx.commit().await.unwrap();
    id
}

pub fn plan(name: &str, class: CellClass) -> Plan {
    Plan {
        name: PlanName::new(name).unwrap(),
        price_cents: Cents::new(1500),
        class,
        limits: PlanLimits { body_bytes: Some(1024), ..PlanLimits::default() },
    }
}

pub fn new_tenant(name: &str) -> NewTenant {
    let id = TenantId::new(Uuid::now_v7());
    NewTenant {
        id,
        name: TenantName::new(name).unwrap(),
        key: TenantKey::new(format!("key of {name}")).unwrap(),
        plan: PlanName::new("hobby").unwrap(),
        settings: json!({}),
    }
}

pub fn host(name: &str) -> Hostname {
    Hostname::new(name).unwrap()
}
