//! One tenant in two databases, and a server that stores positions and can be told to go wrong once.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use berth_workload::{Amounts, Class, Load, LoadConfig, LoadHandle, Report, Target, TenantPlace, seed, vehicle_ids};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

use crate::postgres::Postgres;

const SCHEMA: &str = include_str!("../../../../apps/fleet/src/schema.sql");
const AMOUNTS: Amounts = Amounts { vehicles: 5, positions: 500, others: 10 };
const SEED: u64 = 42;

/// What the server does wrong, with one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Stores nothing and says so.
    AnswerOnce(u16),
    /// Stores nothing and acknowledges.
    LieOnce,
    StoreTwiceAndAnswerOnce(u16),
    /// Never answers.
    SilentOnce,
}

pub struct World {
    pub postgres: Postgres,
    pub tenant: Uuid,
    /// The owner's database, as a superuser.
    pub admin: Client,
    /// The database that the tenant left.
    pub former: Client,
    edge: SocketAddr,
    faults: Arc<Mutex<VecDeque<Fault>>>,
}

impl World {
    pub async fn start() -> Self {
        let postgres = Postgres::start().await;
        let tenant = Uuid::from_u128(7);
        let mut admin = postgres.connect("postgres").await;
        admin.batch_execute("create database former owner berth_owner").await.unwrap();
        let mut former = connect(&config(&postgres, "former")).await;
        for client in [&mut admin, &mut former] {
            client.batch_execute(SCHEMA).await.unwrap();
            client.execute("select customer_create($1, 'acme', 'starter')", &[&tenant]).await.unwrap();
            // The moment of birth is the one thing that the seed does not decide.
            client.batch_execute("update customers set created_at = '2025-01-01Z'").await.unwrap();
            let seeded = seed(client, tenant, AMOUNTS, SEED).await.unwrap();
            assert_eq!(seeded.vehicles, vehicle_ids(tenant, SEED, AMOUNTS.vehicles));
            assert_eq!(seeded.rows, 500 + 5 + 5 + 6 * 10);
        }
        let faults = Arc::new(Mutex::new(VecDeque::new()));
        let store = Arc::new(postgres.connect("postgres").await);
        let edge = serve(store, tenant, faults.clone()).await;
        Self { postgres, tenant, admin, former, edge, faults }
    }

    pub fn owner_config(&self) -> Config {
        config(&self.postgres, "app")
    }

    pub fn places(&self) -> Vec<TenantPlace> {
        let former = Some(config(&self.postgres, "former"));
        vec![TenantPlace { name: "acme".into(), key: self.tenant, owner: self.owner_config(), former }]
    }

    pub async fn count(&self, from: &str) -> i64 {
        self.admin.query_one(&format!("select count(*) from {from}"), &[]).await.unwrap().get(0)
    }

    pub async fn digest(&self, client: &Client, table: &str) -> String {
        let sql = format!("select md5(string_agg(t::text, '|' order by t::text)) from {table} t");
        client.query_one(&sql, &[]).await.unwrap().get(0)
    }

    pub async fn customer(&self, client: &Client, tenant: Uuid, slug: &str) {
        client.execute("select customer_create($1, $2, 'hobby')", &[&tenant, &slug]).await.unwrap();
    }

    /// Undoes a plant: the table's rows are those of `kept` again. Without triggers, or a root row would take its
    /// tenant along.
    pub async fn put_back(&self, table: &str) {
        let sql = format!(
            "begin; set local session_replication_role = replica; delete from {table}; insert into {table} table kept;
             drop table kept; commit"
        );
        self.admin.batch_execute(&sql).await.unwrap();
    }

    /// A load of 500 requests a second on the one tenant.
    pub fn load(&self, seed: u64) -> Load {
        Load::start(self.load_config(seed)).unwrap()
    }

    pub fn load_config(&self, seed: u64) -> LoadConfig {
        let target = Target {
            name: "acme".into(),
            key: self.tenant,
            host: "acme.example.test".into(),
            weight: 1.0,
            class: Class::Mover,
            vehicles: vehicle_ids(self.tenant, SEED, AMOUNTS.vehicles),
        };
        LoadConfig::new(self.edge, 500.0, vec![target], seed)
    }

    pub async fn offered(&self, handle: &LoadHandle, requests: u64) {
        let begun = Instant::now();
        while handle.counts().0 < requests {
            assert!(begun.elapsed() < Duration::from_secs(30), "offered so far: {:?}", handle.counts());
            tokio::task::yield_now().await;
        }
    }

    pub async fn run(&self, fault: Fault) -> Report {
        // A seed of its own for each run: the same one twice would double its events.
        let (_, low) = Uuid::new_v4().as_u64_pair();
        self.run_with(fault, low).await
    }

    /// Offers a few hundred requests, one of which meets the fault.
    pub async fn run_with(&self, fault: Fault, seed: u64) -> Report {
        let load = self.load(seed);
        let handle = load.handle();
        self.offered(&handle, 100).await;
        if fault != Fault::None {
            self.faults.lock().unwrap().push_back(fault);
        }
        self.offered(&handle, 200).await;
        let report = load.stop().await.unwrap();
        assert!(self.faults.lock().unwrap().is_empty(), "the fault was not met");
        report
    }
}

fn config(postgres: &Postgres, database: &str) -> Config {
    let mut config: Config = postgres.url("postgres").parse().unwrap();
    config.dbname(database);
    config
}

async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn serve(store: Arc<Client>, tenant: Uuid, faults: Arc<Mutex<VecDeque<Fault>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (store, faults) = (store.clone(), faults.clone());
            let service = service_fn(move |request| answer(request, store.clone(), tenant, faults.clone()));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn answer(
    request: Request<Incoming>,
    store: Arc<Client>,
    tenant: Uuid,
    faults: Arc<Mutex<VecDeque<Fault>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    assert_eq!(request.headers()["host"], "acme.example.test");
    let says = |status: u16, body: &'static str| Ok(Response::builder().status(status).body(body.into()).unwrap());
    if request.method() == Method::GET {
        return says(200, "[]");
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request.into_body().collect().await?.to_bytes();
    let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    if let Some(id) = path.strip_prefix("/api/v1/geofences") {
        // Faults are for positions; what the tests change of geofences, they change in the database.
        let id = id.trim_start_matches('/').parse().unwrap_or_else(|_| body["id"].as_str().unwrap().parse().unwrap());
        let sql = match method {
            Method::DELETE => "delete from geofences where id = $1 and $2::uuid is not null and $3::jsonb is null",
            Method::PUT => {
                "update geofences set name = $3::jsonb->>'name', radius_meters = ($3::jsonb->'radius_meters')::float8
                  where id = $1 and customer_id = $2"
            }
            _ => {
                "insert into geofences (id, customer_id, name, kind, center_lat, center_lng, radius_meters)
                 values ($1, $2, $3::jsonb->>'name', 'circle', 1, 2, ($3::jsonb->'radius_meters')::float8)"
            }
        };
        let body = Some(&body).filter(|body| !body.is_null());
        let id: Uuid = id;
        let touched = store.execute(sql, &[&id, &tenant, &body]).await.unwrap();
        return says(if touched == 1 { 200 } else { 404 }, "{}");
    }
    let body = if body.is_array() { body } else { Value::Array(vec![body]) };
    let fault = faults.lock().unwrap().pop_front().unwrap_or(Fault::None);
    let times = match fault {
        Fault::None => 1,
        Fault::StoreTwiceAndAnswerOnce(_) => 2,
        Fault::AnswerOnce(_) | Fault::LieOnce | Fault::SilentOnce => 0,
    };
    let insert = "insert into gps_positions (customer_id, vehicle_id, event_id, time, latitude, longitude, speed)
        select $1, vehicle_id, event_id, time, latitude, longitude, speed
          from jsonb_populate_recordset(null::gps_positions, $2)";
    for _ in 0..times {
        store.execute(insert, &[&tenant, &body]).await.unwrap();
    }
    match fault {
        Fault::None | Fault::LieOnce => says(201, "{}"),
        Fault::AnswerOnce(status) | Fault::StoreTwiceAndAnswerOnce(status) => says(status, "planted"),
        Fault::SilentOnce => std::future::pending().await,
    }
}
