//! A small world for the mover: a private Postgres with two databases, a control row in memory, edges that agree.

pub mod zoo;

use async_trait::async_trait;
use berth_domain::{CellId, Generation, MoveId, MovePhase, TenantKey, Token};
use berth_infra::Role;
pub use berth_mover::NoEdges;
use berth_mover::{Change, Control, DataRules, Endpoint, MoveSpec, Ownership, Progress, Tuning, Verdict, Watcher};
use berth_testkit::TestPg;
use secrecy::ExposeSecret;
use secrecy::SecretString;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio_postgres::Client;
use uuid::Uuid;

pub const SCHEMA: &str = "
    create table customers (id uuid primary key, name text not null, settings jsonb not null default '{}');
    create table vehicles (
        id uuid primary key default gen_random_uuid(), customer_id uuid not null references customers on delete cascade,
        label text not null, odometer numeric(12,2) not null default 0, unique (customer_id, label));
    create table positions (
        id uuid primary key default gen_random_uuid(), customer_id uuid not null references customers on delete cascade,
        vehicle_id uuid not null references vehicles on delete cascade, event_id uuid not null,
        at timestamptz not null default clock_timestamp(), lat double precision not null, note text);
    create index positions_by_vehicle on positions (customer_id, vehicle_id, at);
    create table counters (
        customer_id uuid not null references customers on delete cascade, nth bigint generated always as identity,
        amount bigint not null default 0, doubled bigint generated always as (amount * 2) stored, primary key (customer_id, nth));
";

/// Two databases with one schema: `source` with two tenants, `target` empty.
pub struct Two {
    pub pg: TestPg,
    pub source: String,
    pub target: String,
    pub tenant: Uuid,
    pub neighbour: Uuid,
}

pub fn endpoint(pg: &TestPg, database: &str) -> Endpoint {
    let cell = pg.cell();
    let login = cell.login(Role::Mover);
    Endpoint {
        host: cell.host.clone(),
        port: cell.port,
        database: database.to_owned(),
        user: login.user.clone(),
        password: SecretString::from(login.password.expose_secret()),
        tls: None,
    }
}

impl Two {
    pub async fn with(schema: &str) -> Self {
        let pg = TestPg::new().await;
        let source = pg.database("source").await;
        let target = pg.database("target").await;
        for database in [&source, &target] {
            let client = pg.connect_to(Role::Owner, database).await;
            client.batch_execute(schema).await.unwrap();
        }
        Self { pg, source, target, tenant: Uuid::new_v4(), neighbour: Uuid::new_v4() }
    }

    /// The fleet-like schema, with rows for both tenants.
    pub async fn filled(rows: i64) -> Self {
        let two = Self::with(SCHEMA).await;
        let client = two.client(&two.source, Role::Mover).await;
        for tenant in [two.tenant, two.neighbour] {
            client
                .batch_execute(&format!(
                    "insert into customers values ('{tenant}', 'T');
                     insert into vehicles (customer_id, label) select '{tenant}', 'v' || n from generate_series(1, 10) n;
                     insert into counters (customer_id, amount) select '{tenant}', n from generate_series(1, 5) n;
                     insert into positions (customer_id, vehicle_id, event_id, lat, note)
                     select '{tenant}', (select id from vehicles where customer_id = '{tenant}' order by label limit 1), gen_random_uuid(), n * 0.1, repeat('x', (n % 50)::int)
                     from generate_series(1, {rows}::bigint) n"
                ))
                .await
                .unwrap();
        }
        two
    }

    pub async fn client(&self, database: &str, role: Role) -> Client {
        self.pg.connect_to(role, database).await
    }

    pub fn endpoint(&self, database: &str) -> Endpoint {
        endpoint(&self.pg, database)
    }

    pub fn spec(&self) -> MoveSpec {
        MoveSpec {
            id: MoveId::new(Uuid::now_v7()),
            tenant: TenantKey::new(self.tenant.to_string()).unwrap(),
            rules: DataRules::of("customers", "id", "customer_id"),
            source: self.endpoint(&self.source),
            target: self.endpoint(&self.target),
            source_cell: CellId::new(Uuid::from_u128(1)),
            target_cell: CellId::new(Uuid::from_u128(2)),
            target_free_bytes: Some(1 << 40),
            keep_from: None,
            alone: true,
            way_back: false,
            way: berth_mover::Way::There,
            tuning: Tuning { bare_load_rows: 1_000, ..Tuning::default() },
            beside: berth_mover::Beside::default(),
            ahead: berth_mover::ReadAhead::default(),
        }
    }
}

/// A control row in memory. Can lose answers.
pub struct MemoryOwnership {
    row: Mutex<Control>,
    /// The next commit is stored and its answer lost.
    pub lose_commit_answer: AtomicBool,
    /// The next commit's request is lost before it is stored.
    pub lose_commit: AtomicBool,
}

impl MemoryOwnership {
    pub fn new() -> Self {
        Self {
            row: Mutex::new(Control {
                owner: CellId::new(Uuid::from_u128(1)),
                generation: Generation::new(1),
                token: Token::new(0),
                phase: MovePhase::Idle,
                target: None,
                holding: false,
            }),
            lose_commit_answer: AtomicBool::new(false),
            lose_commit: AtomicBool::new(false),
        }
    }
    /// The same row, for another worker's task.
    pub fn from(row: Control) -> Self {
        let new = Self::new();
        *new.row.lock().unwrap() = row;
        new
    }
    pub fn row(&self) -> Control {
        *self.row.lock().unwrap()
    }
}

#[async_trait]
impl Ownership for MemoryOwnership {
    async fn read(&self) -> Option<Control> {
        Some(self.row())
    }
    async fn change(&self, held: Token, change: Change) -> Verdict {
        if change == Change::Commit && self.lose_commit.swap(false, Ordering::SeqCst) {
            return Verdict::Unknown;
        }
        let mut row = self.row.lock().unwrap();
        match row.after(held, change) {
            Ok(after) => {
                *row = after;
                if change == Change::Commit && self.lose_commit_answer.swap(false, Ordering::SeqCst) {
                    return Verdict::Unknown;
                }
                Verdict::Changed(after)
            }
            Err(refusal) => Verdict::Refused(refusal),
        }
    }
}

/// Watches nothing; may cancel.
#[derive(Default)]
pub struct Watch {
    pub cancel: AtomicBool,
    pub seen: Mutex<Vec<Progress>>,
}

impl Watcher for Watch {
    fn progress(&self, progress: Progress) {
        self.seen.lock().unwrap().push(progress);
    }
    fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::SeqCst)
    }
}

/// The whole move, step after step, as the workflow does it.
pub async fn run_move(
    spec: &MoveSpec,
    ownership: &dyn Ownership,
) -> Result<berth_mover::CutOver, berth_mover::MoveError> {
    let watch = Watch::default();
    let plan = berth_mover::plan(spec).await?;
    let row = berth_mover::begin(spec, ownership).await?;
    berth_mover::prepare(spec, &plan, row, ownership).await?;
    berth_mover::copy(spec, &plan, row.token, &watch).await?;
    berth_mover::build(spec, &plan, row.token, &watch).await?;
    let cut = berth_mover::cut_over(spec, &plan, ownership, &NoEdges, &watch).await?;
    berth_mover::retire(spec, &plan, true, row.token).await?;
    Ok(cut)
}

/// All rows of a tenant, as text, from one database.
pub async fn rows_of(client: &Client, tenant: Uuid) -> Vec<String> {
    let mut all = Vec::new();
    for (table, column) in
        [("customers", "id"), ("vehicles", "customer_id"), ("positions", "customer_id"), ("counters", "customer_id")]
    {
        for row in client
            .query(&format!("select '{table} ' || t::text from {table} t where {column} = $1"), &[&tenant])
            .await
            .unwrap()
        {
            all.push(row.get::<_, String>(0));
        }
    }
    all.sort();
    all
}

impl Two {
    /// On the server that tests share: quicker, and not to be restarted or counted in.
    pub async fn shared(schema: &str) -> Self {
        let pg = TestPg::shared().await;
        let name = Uuid::new_v4().simple().to_string();
        let source = pg.database(&format!("source_{name}")).await;
        let target = pg.database(&format!("target_{name}")).await;
        for database in [&source, &target] {
            pg.connect_to(Role::Owner, database).await.batch_execute(schema).await.unwrap();
        }
        Self { pg, source, target, tenant: Uuid::new_v4(), neighbour: Uuid::new_v4() }
    }

    /// A spec for another tenant of the same databases.
    pub fn spec_of(&self, tenant: Uuid) -> MoveSpec {
        MoveSpec { tenant: TenantKey::new(tenant.to_string()).unwrap(), ..self.spec() }
    }
}

/// Everything before the cut-over.
pub async fn until_built(spec: &MoveSpec, ownership: &dyn Ownership) -> (berth_mover::MovePlan, Token) {
    let watch = Watch::default();
    let plan = berth_mover::plan(spec).await.unwrap();
    let row = berth_mover::begin(spec, ownership).await.unwrap();
    berth_mover::prepare(spec, &plan, row, ownership).await.unwrap();
    berth_mover::copy(spec, &plan, row.token, &watch).await.unwrap();
    berth_mover::build(spec, &plan, row.token, &watch).await.unwrap();
    (plan, row.token)
}

pub async fn cut_over(
    spec: &MoveSpec,
    plan: &berth_mover::MovePlan,
    ownership: &dyn Ownership,
) -> Result<berth_mover::CutOver, berth_mover::MoveError> {
    berth_mover::cut_over(spec, plan, ownership, &NoEdges, &Watch::default()).await
}

/// No schema, trigger, publication or event trigger is left, and no slot of this database.
pub async fn nothing_of_berth(two: &Two, database: &str) {
    let look = two.client(database, Role::Mover).await;
    for what in [
        "pg_namespace where nspname = 'berth'",
        "pg_trigger where tgname like 'berth%'",
        "pg_publication",
        "pg_event_trigger where evtname like 'berth%'",
        "pg_replication_slots where database = current_database()",
    ] {
        let left: i64 = look.query_one(&format!("select count(*) from {what}"), &[]).await.unwrap().get(0);
        assert_eq!(left, 0, "{what}");
    }
}
