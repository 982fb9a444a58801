//! The adapter against a Postgres and an application that somebody else started.

use super::{EndpointOptions, Endpoints, Existing as At};
use crate::local::{Afterwards, EmbeddedOptions, EmbeddedPostgres, end_all};
use berth_domain::CellName;
use berth_infra::{
    CellSpec, Compute, Database, DatabaseName, Health, MemberName, Observed, Provider, ProviderError, Role,
    conformance::{Existing, cell},
};
use secrecy::ExposeSecret;
use std::{fs, path::PathBuf};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Somebody's Postgres and somebody's application.
struct There {
    root: PathBuf,
    postgres: EmbeddedPostgres,
    endpoints: Endpoints,
}

async fn application(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 512];
            // A look that goes away before it asks is no matter.
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
        }
    });
    url
}

fn of(name: &str, at: At) -> Result<Endpoints, ProviderError> {
    Endpoints::new(EndpointOptions { cells: [(CellName::new(name).unwrap(), at)].into() })
}

fn at(url: &str, database: &str) -> At {
    At { url: url.to_owned(), health: "/health".to_owned(), database: Some(database.into()), database_file: None }
}

async fn there() -> There {
    let root = PathBuf::from(format!("/tmp/berth-endpoint-{}", uuid::Uuid::new_v4().simple()));
    let options = EmbeddedOptions { durable: false, ..EmbeddedOptions::default() };
    let postgres = EmbeddedPostgres::start_with(&root, "shop", options).await.unwrap();
    let url = application("200 OK").await;
    let endpoints = of("existing-1", at(&url, postgres.database().url(Role::Mover).expose_secret())).unwrap();
    There { root, postgres, endpoints }
}

impl Drop for There {
    fn drop(&mut self) {
        let ended = end_all(&self.root, Afterwards::Delete);
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

impl Existing for There {
    fn provider(&self) -> Provider {
        self.endpoints.provider()
    }
    fn cell(&self) -> CellSpec {
        cell("existing-1")
    }
}
berth_infra::conformance_foreign!(super::there);

#[test]
fn what_cannot_be_a_cell_is_refused_without_its_password() {
    for (url, database, why) in [
        ("app.example.com", "postgres://a:geheim@h/d", "neither `http://`"),
        ("http://app.example.com/x", "postgres://a:geheim@h/d", "a path"),
        ("http://app.example.com", "postgres://a:geheim@h/d?sslmode=verify", "none of disable, require"),
        ("http://app.example.com", "postgres://a:geheim@h", "no database"),
        ("http://app.example.com", "user=a password=geheim dbname=d", "no host"),
        ("http://app.example.com", "mysql://a:geheim@h/d", "connection string cannot be used"),
    ] {
        let refused = of("existing-1", at(url, database)).err().unwrap();
        let text = format!("{refused} {refused:?}");
        assert!(text.contains(why) && !text.contains("geheim"), "{text}");
    }
    let both = At { database_file: Some("/x".into()), ..at("http://a", "postgres://a@h/d") };
    assert!(of("existing-1", both).is_err());
    let known = of("existing-1", at("http://a", "postgres://a:geheim@h/d")).unwrap();
    assert!(!format!("{:?}", known.cells.values().next().unwrap().existing).contains("geheim"));
}

#[tokio::test]
async fn over_tls_the_name_is_the_address_that_edges_get() {
    let known = of("b", at("https://127.0.0.1:1", "postgres://a@h/d")).unwrap();
    let name = MemberName::of(&CellName::new("b").unwrap(), &"web".parse().unwrap(), 0);
    let Observed::Present(member) = known.observe_member(&name).await.unwrap() else { panic!("it is there") };
    assert_eq!(format!("{}:{}", member.host, member.port), "https://127.0.0.1:1");
    assert!(matches!(member.health, Health::Unhealthy { .. }), "nobody listens");
}

#[tokio::test]
async fn a_password_that_changes_in_its_file_is_taken_up_and_a_silent_server_is_unknown() {
    let there = there().await;
    let file = there.root.join("connection");
    let url = application("503 Service Unavailable").await;
    let known = of("b", At { database: None, database_file: Some(file.clone()), ..at(&url, "") }).unwrap();
    let name = DatabaseName::new("b").unwrap();
    let Observed::Unknown { reason } = known.observe_database(&name).await.unwrap() else { panic!("no file yet") };
    assert!(reason.contains("connection"), "{reason}");
    let good = there.postgres.database().url(Role::Mover);
    fs::write(&file, format!("{}\n", good.expose_secret())).unwrap();
    assert!(matches!(known.observe_database(&name).await.unwrap(), Observed::Present(_)));
    fs::write(&file, "postgres://berth_mover:wrong@127.0.0.1:1/shop").unwrap();
    let Observed::Unknown { reason } = known.observe_database(&name).await.unwrap() else { panic!("nobody listens") };
    assert!(!reason.contains("wrong"), "{reason}");
    let silent = known.ensure_database(&cell("b")).await.unwrap_err();
    assert!(matches!(silent, ProviderError::NoAnswer { .. }) && silent.retryable(), "{silent}");

    let member = MemberName::of(&CellName::new("b").unwrap(), &"web".parse().unwrap(), 0);
    let Observed::Present(sick) = known.observe_member(&member).await.unwrap() else { panic!("it has an address") };
    assert_eq!(sick.health, Health::Unhealthy { reason: "`/health` answered 503".to_owned() });
}

#[tokio::test]
async fn a_standby_is_named_as_one_and_is_no_cell() {
    let there = there().await;
    let url = there.postgres.database().url(Role::Mover);
    let (client, connection) = tokio_postgres::connect(url.expose_secret(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let data: String = client.query_one("select current_setting('data_directory')", &[]).await.unwrap().get(0);
    drop(client);
    fs::write(PathBuf::from(data).join("standby.signal"), "").unwrap();
    there.postgres.stop().await.unwrap();
    let options = EmbeddedOptions { durable: false, ..EmbeddedOptions::default() };
    EmbeddedPostgres::start_with(&there.root, "shop", options).await.unwrap();
    let refused = there.endpoints.ensure_database(&cell("existing-1")).await.unwrap_err();
    assert!(refused.to_string().contains("it is a standby that takes no writes; name the primary"), "{refused}");
    let name = DatabaseName::new("existing-1").unwrap();
    let seen = there.endpoints.observe_database(&name).await.unwrap();
    assert!(matches!(seen, Observed::Unknown { reason } if reason.contains("standby")));
}
