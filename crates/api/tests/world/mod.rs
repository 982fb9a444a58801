//! A server on a real socket over a real Postgres, with a provider whose world is a map in memory.

pub mod pages;

use berth_api::Api;
use berth_client::{Client, ClientError};
use berth_config::Environment;
use berth_control::{App, Scope, WorkerOptions, keys};
use berth_domain::OperationState;
use berth_infra::{CellDatabase, Role, fake::Fake};
use berth_store::{Sealer, Store};
use berth_testkit::{TestDatabase, TestPg, wait_until};
use berth_wire::{Operation, Problem, StackApply, TenantCreate};
use secrecy::{ExposeSecret as _, SecretString};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub const STACK: &str = "\
stack: fleet
services:
  web: { command: [fleet, serve], migrate: [fleet, migrate], health: /health }
plans:
  starter: { price: 49.00, class: shared }
  business: { price: 399.00, class: dedicated }
providers:
  here: { adapter: fake }
cells:
  shared-1: { class: shared, max_tenants: 3 }
";

pub struct World {
    pub app: App,
    pub address: SocketAddr,
    pub admin: SecretString,
    stop: watch::Sender<bool>,
    #[allow(dead_code, reason = "one of the programs that share this looks into it")]
    pub control: TestDatabase,
    #[allow(dead_code, reason = "one of the programs that share this looks into it")]
    pub cells: TestDatabase,
}

impl World {
    /// A server with workers and no stack yet.
    pub async fn empty() -> Self {
        let control = TestDatabase::new().await;
        let (server, cells) = (TestPg::shared().await, TestDatabase::new().await);
        let fake = Fake::new();
        fake.stand_on(CellDatabase { database: cells.name().to_owned(), ..server.cell().clone() });
        let store = Store::open(&control.url(Role::Owner), Sealer::ephemeral(), 8).await.unwrap();
        let provider = fake.provider();
        let build = move |name: &str, _: &serde_json::Value| (name == "fake").then(|| Ok(provider.clone()));
        let archives: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let open = move |_: Option<&berth_config::Archives>, _: &Environment| Ok(Arc::clone(&archives));
        let app = App::new(store, Environment::default(), Box::new(build), Box::new(open))
            .asking(Arc::new(berth_acme::World));
        let admin = keys::create_for_berth(&app, "test", Scope::Admin).await.unwrap();

        let (stop, stopped) = watch::channel(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut told = stopped.clone();
        let until = async move { drop(told.wait_for(|stop| *stop).await) };
        tokio::spawn(berth_api::serve(listener, berth_api::v1(&Api::new(app.clone())), until));
        let (working, here) = (app.clone(), tokio::runtime::Handle::current());
        // A thread of its own: the work borrows across its waits, which a spawned task may not.
        tokio::task::spawn_blocking(move || {
            let options = WorkerOptions::named("test");
            here.block_on(async { berth_control::serve::work(&working, stopped, options).await })
        });
        Self { app, address, admin, stop, control, cells }
    }

    /// A server with the stack above, its shared cell ready.
    pub async fn new() -> Self {
        Self::of(STACK).await
    }

    /// A server with this stack, its cells ready.
    pub async fn of(stack: &str) -> Self {
        let world = Self::empty().await;
        let applied = world.client().stack_apply(&apply(stack)).await.unwrap();
        for operation in applied.operations {
            world.finishes(operation).await;
        }
        world
    }

    /// A tenant with one host, in this cell or in the best.
    pub async fn tenant(&self, name: &str, plan: &str, host: &str, cell: Option<&str>) {
        let wanted = TenantCreate {
            name: name.parse().unwrap(),
            plan: plan.parse().unwrap(),
            hosts: vec![host.parse().unwrap()],
            key: None,
            cell: cell.map(|cell| cell.parse().unwrap()),
            profile: None,
        };
        let begun = self.client().tenant_create(&wanted).await.unwrap();
        self.finishes(begun.id).await;
    }

    pub fn client(&self) -> Client {
        self.client_with(&self.admin)
    }

    pub fn client_with(&self, key: &SecretString) -> Client {
        Client::new(&format!("http://{}", self.address), Some(key.clone())).unwrap()
    }

    /// A key of this scope.
    pub async fn key(&self, scope: Scope) -> SecretString {
        keys::create_for_berth(&self.app, &format!("{scope}"), scope).await.unwrap()
    }

    /// Waits for the operation's good end.
    pub async fn finishes(&self, operation: berth_domain::OperationId) -> Operation {
        let client = self.client();
        let look = || async { client.operation(operation).await.unwrap() };
        let ended = wait_until("the operation ends", look, |operation: &Operation| {
            operation.state.is_final() || operation.state == OperationState::Stuck
        })
        .await;
        assert_eq!(ended.state, OperationState::Succeeded, "{:?}", ended.fault);
        ended
    }

    /// One request as bytes of our own, for what no client would send.
    pub async fn raw(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let key = self.admin.expose_secret();
        let length = body.len();
        let text = format!(
            "{head}\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).await.unwrap();
        // A server that refuses the head need not read the body.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        // The same: it may reset the connection after its answer.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, answer)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

pub fn apply(file: &str) -> StackApply {
    StackApply { file: file.to_owned(), files: std::collections::BTreeMap::new(), dry_run: false }
}

/// The problem that a call was refused with.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> Problem {
    match answer {
        Err(ClientError::Refused(problem)) => *problem,
        other => panic!("not refused: {other:?}"),
    }
}
