//! A disk that takes nothing, as a full one: what is in force goes on, is told, and written when there is room.
//!
//! A folder stands where the new file is to be, which nobody can write over, root neither.

use crate::{
    tls::{connect, der, made},
    world::{Running, World, config, eventually},
};
use berth_domain::Revision;
use berth_wire::edge::{EdgeCertificate, EdgeEvent, EdgeSettings};
use http::StatusCode;
use rustls::version::TLS13;
use std::fs;

fn settings(referrer: &str) -> EdgeSettings {
    let headers = [("referrer-policy".to_owned(), referrer.to_owned())].into();
    EdgeSettings { headers, ..EdgeSettings::default() }
}

async fn referrer(edge: &Running) -> Option<String> {
    let answer = edge.get("t1.test", "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    Some(answer.headers.get("referrer-policy")?.to_str().unwrap().to_owned())
}

async fn has_failed(edge: &Running) {
    let look = async || edge.admin("/metrics").await;
    let counted =
        |page: &String| page.lines().any(|l| l.starts_with("berth_edge_disk_failures_total ") && !l.ends_with(" 0"));
    eventually("the failure is counted", look, counted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_the_disk_does_not_take_are_in_force_and_written_when_it_does() {
    let mut world = World::start().await;
    let (kept, in_the_way) = (world.dir.path().join("settings.json"), world.dir.path().join("settings.json.new"));
    let written = async || fs::read_to_string(&kept).unwrap_or_default();
    world.control.set(settings("origin"));
    eventually("they are written", &written, |text| text.contains("\"origin\"")).await;
    fs::create_dir(&in_the_way).unwrap();
    world.control.set(settings("no-referrer"));
    eventually("they are in force", async || referrer(&world.edge).await, |r| r.as_deref() == Some("no-referrer"))
        .await;
    has_failed(&world.edge).await;
    assert!(written().await.contains("\"origin\""), "the old ones are there, whole");
    world.control.die().await;
    world.edge.stop().await;
    let edge = Running::start(config(&world.control, world.dir.path()));
    assert_eq!(referrer(&edge).await.as_deref(), Some("origin"), "as the disk has it");
    world.control.rise();
    eventually("control says it again", async || referrer(&edge).await, |r| r.as_deref() == Some("no-referrer")).await;
    has_failed(&edge).await;
    // Room again: nobody says anything new, and it is written.
    fs::remove_dir(&in_the_way).unwrap();
    world.control.say(&EdgeEvent::Ping { revision: Revision::new(1) });
    eventually("they are written", &written, |text| text.contains("\"no-referrer\"")).await;
}

async fn certificate(edge: &Running) -> Option<Vec<u8>> {
    let connected = connect(edge.tls_address.unwrap(), "t1.test", b"http/1.1", &TLS13).await;
    connected.ok().map(|(_, certificate)| certificate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_the_disk_does_not_take_is_served_and_written_when_it_does() {
    let over_tls = |c: &mut berth_edge::EdgeConfig| c.listen_tls = Some("127.0.0.1:0".parse().unwrap());
    let mut world = World::with(over_tls).await;
    let folder = world.dir.path().to_owned();
    let (first, second) = (made(1, &["t1.test"]), made(2, &["t1.test"]));
    let say = |certificate: &EdgeCertificate| {
        let certificates = vec![certificate.clone()];
        world.control.say(&EdgeEvent::Certificates { full: true, certificates, gone: Vec::new() });
    };
    let written = async || {
        let text = fs::read_to_string(folder.join("certificates.json")).unwrap_or_default();
        serde_json::from_str::<Vec<EdgeCertificate>>(&text).unwrap_or_default()
    };
    say(&first);
    eventually("it is written", &written, |all| *all == [first.clone()]).await;
    fs::create_dir(folder.join("certificates.json.new")).unwrap();
    say(&second);
    let shown = async || certificate(&world.edge).await;
    eventually("it is served", shown, |shown| *shown == Some(der(&second))).await;
    has_failed(&world.edge).await;
    assert_eq!(written().await, [first], "the one before is there, whole");
    fs::remove_dir(folder.join("certificates.json.new")).unwrap();
    world.control.say(&EdgeEvent::Ping { revision: Revision::new(1) });
    eventually("it is written", &written, |all| *all == [second.clone()]).await;
    world.control.die().await;
    world.edge.stop().await;
    let mut config = config(&world.control, &folder);
    over_tls(&mut config);
    assert_eq!(certificate(&Running::start(config)).await, Some(der(&second)));
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_that_the_disk_does_not_take_are_told_by_the_process_that_has_them() {
    let world = World::start().await;
    world.control.die().await;
    fs::create_dir(world.dir.path().join("meters.new")).unwrap();
    for _ in 0..5 {
        assert_eq!(world.edge.get("t1.test", "/").await.status, StatusCode::OK);
    }
    has_failed(&world.edge).await;
    assert!(!world.dir.path().join("meters.json").exists());
    world.control.rise();
    eventually("all are reported", async || world.control.counted(1), |n| *n == 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_which_a_half_is_there_is_none() {
    let mut world = World::start().await;
    world.control.die().await;
    world.edge.stop().await;
    for (file, half) in [
        ("settings.json", "{\"headers\":{\"referrer-policy\":\"origin\"}"),
        ("certificates.json", "[{\"id\":"),
        ("meters.json", "[{\"instance\":"),
        // What was begun and never took the name.
        ("settings.json.new", "{\"headers\":{\"referrer-policy\":\"origin\"}}"),
        ("routes.log.new", "{\"record\":\"mark\",\"revision\":9}\n"),
    ] {
        fs::write(world.dir.path().join(file), half).unwrap();
    }
    let edge = Running::start(config(&world.control, world.dir.path()));
    assert_eq!(referrer(&edge).await, None, "served by the routes alone");
    assert!(edge.admin("/metrics").await.contains("berth_edge_revision 1\n"));
}
