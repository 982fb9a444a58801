//! Servers that are come to over networks of others: encrypted and proved, or not at all.

use crate::common::{MemoryOwnership, Two, run_move};
use berth_infra::Role;
use berth_mover::{Endpoint, MoveError, MoveSpec};
use berth_pg::Tls;
use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

/// From now on nobody comes in over TCP without TLS.
async fn insist(two: &Two, certificate: &str, key: &str) {
    let admin = two.client("postgres", Role::Mover).await;
    let row =
        admin.query_one("select current_setting('data_directory'), current_setting('hba_file')", &[]).await.unwrap();
    let (data, hba): (String, String) = (row.get(0), row.get(1));
    let owner = fs::metadata(&data).unwrap();
    for (name, text) in [("proof.crt", certificate), ("proof.key", key)] {
        let path = Path::new(&data).join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let rules = fs::read_to_string(&hba).unwrap();
    let rules: Vec<String> = rules
        .lines()
        .map(|line| match line.strip_prefix("host ") {
            Some(rest) => format!("hostssl {rest}"),
            None => line.to_owned(),
        })
        .collect();
    fs::write(&hba, rules.join("\n") + "\n").unwrap();
    for set in ["ssl_cert_file = 'proof.crt'", "ssl_key_file = 'proof.key'", "ssl = on"] {
        admin.batch_execute(&format!("alter system set {set}")).await.unwrap();
    }
    admin.execute("select pg_reload_conf()", &[]).await.unwrap();
}

async fn refusal(end: Endpoint, spec: &MoveSpec) -> String {
    let error = berth_mover::plan(&MoveSpec { source: end, ..spec.clone() }).await.unwrap_err();
    let MoveError::Connect { source, .. } = &error else { panic!("{error:?}") };
    let mut text = source.to_string();
    let mut cause = std::error::Error::source(source);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_moves_between_servers_that_are_only_spoken_to_over_tls() {
    let two = Two::filled(500).await;
    let dir = tempfile::tempdir().unwrap();
    let (roots, certificate, key) = berth_testkit::certificate(&["127.0.0.1"]);
    let path = dir.path().join("roots.pem");
    fs::write(&path, roots).unwrap();
    let tls = Tls { roots: Some(path) };
    let plain = two.spec();
    let proved = |end: &Endpoint| Endpoint { tls: Some(tls.clone()), ..end.clone() };

    // Asked for and not had: never in plain instead.
    assert!(refusal(proved(&plain.source), &plain).await.contains("TLS"));
    insist(&two, &certificate, &key).await;
    let spec = MoveSpec { source: proved(&plain.source), target: proved(&plain.target), ..plain.clone() };
    berth_testkit::wait_until("the server takes TLS", async || berth_mover::plan(&spec).await, Result::is_ok)
        .await
        .unwrap();
    let unencrypted = refusal(plain.source.clone(), &plain).await;
    assert!(unencrypted.contains("no encryption"), "{unencrypted}");

    // Its authority is none of this machine's, and it has one name.
    let by_machine = Endpoint { tls: Some(Tls::default()), ..plain.source.clone() };
    let unknown = refusal(by_machine, &plain).await;
    assert!(unknown.contains("UnknownIssuer") || unknown.contains("trusts no authority"), "{unknown}");
    let elsewhere = Endpoint { host: "localhost".into(), ..proved(&plain.source) };
    assert!(refusal(elsewhere, &plain).await.contains("not valid for name"));
    let missing = Endpoint { tls: Some(Tls { roots: Some("/nonexistent/roots.pem".into()) }), ..plain.source.clone() };
    assert!(refusal(missing, &plain).await.contains("/nonexistent/roots.pem"));

    // The stream's connection, which the mover makes by itself, is as careful.
    let started = async |tls: Tls, host: &str| {
        let stream = tokio::net::TcpStream::connect((plain.source.host.as_str(), plain.source.port)).await.unwrap();
        tls.start(stream, host).await.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(started(tls.clone(), "127.0.0.1").await, Ok(()));
    assert!(started(tls.clone(), "localhost").await.unwrap_err().contains("not valid for name"));
    assert!(started(Tls::default(), "127.0.0.1").await.is_err());

    // Rows and the stream of changes.
    run_move(&spec, &MemoryOwnership::new()).await.unwrap();
    let target = berth_pg::connect(&two.pg.config(Role::Mover, &two.target), Some(&tls)).await.unwrap();
    let over = target
        .query_one("select ssl, (select count(*) from positions) from pg_stat_ssl where pid = pg_backend_pid()", &[])
        .await
        .unwrap();
    assert_eq!((over.get::<_, bool>(0), over.get::<_, i64>(1)), (true, 500));
}
