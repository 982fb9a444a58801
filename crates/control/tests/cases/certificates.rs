//! Certificates: what is taken, what is refused, and what an edge hears of them.

use crate::world::{STACK, World, change, follow, read, speaks};
use berth_control::{
    certificates,
    edges::{self, Takes},
};
use berth_domain::{EdgeId, Revision};
use berth_wire::{
    CertificateAdd,
    edge::{EdgeEvent, HttpsSettings},
};
use futures_util::StreamExt as _;
use std::time::Duration;
use uuid::Uuid;

fn made(names: &[&str]) -> CertificateAdd {
    let made = rcgen::generate_simple_self_signed(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
    CertificateAdd { chain_pem: made.cert.pem(), key_pem: made.signing_key.serialize_pem() }
}

fn good_from(first: i32, last: i32) -> CertificateAdd {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(first, 1, 1);
    params.not_after = rcgen::date_time_ymd(last, 1, 1);
    CertificateAdd { chain_pem: params.self_signed(&key).unwrap().pem(), key_pem: key.serialize_pem() }
}

#[tokio::test]
async fn a_certificate_that_edges_could_not_serve_is_refused_with_the_reason() {
    let world = World::new().await;
    let (one, other) = (made(&["a.test"]), made(&["a.test"]));
    let mixed = CertificateAdd { key_pem: other.key_pem.clone(), ..one.clone() };
    let keyless = CertificateAdd { key_pem: String::new(), ..one.clone() };
    let empty = CertificateAdd { chain_pem: String::new(), ..one.clone() };
    let with_key_in_chain = CertificateAdd { chain_pem: format!("{}{}", one.key_pem, one.chain_pem), ..one.clone() };
    let on_one_line = CertificateAdd { chain_pem: one.key_pem.replace('\n', " "), ..one.clone() };
    for (bad, why) in [
        (mixed, "certificate and key do not fit"),
        (keyless, "there is no private key"),
        (empty, "there is no certificate"),
        (good_from(2020, 2021), "it ended on 2021-01-01"),
        (good_from(2999, 3000), "it begins on 2999-01-01"),
        (with_key_in_chain, "the chain holds more than certificates"),
        (on_one_line, "the chain is no PEM"),
    ] {
        let refused = certificates::add(&world.app, &change(), bad).await.unwrap_err();
        assert_eq!(refused.code(), "bad_certificate");
        let text = refused.to_string();
        assert!(text.contains(why), "{text}");
        assert!(!text.contains("PRIVATE"), "{text}");
    }
    assert!(certificates::list(&world.app, &read()).await.unwrap().is_empty());
    let added = certificates::add(&world.app, &change(), made(&["shop.test", "*.shop.test"])).await.unwrap();
    assert_eq!(added.names, ["*.shop.test", "shop.test"]);
    assert!(added.not_after > added.not_before && added.issuer.starts_with("CN="), "{added:?}");
}

#[tokio::test]
async fn an_edge_gets_all_certificates_first_and_then_what_changes() {
    let world = World::new().await;
    let first = certificates::add(&world.app, &change(), made(&["a.test"])).await.unwrap();
    let instance = EdgeId::new(Uuid::now_v7());
    let fra = "fra".parse().unwrap();
    let stream = edges::routes(&world.app, &follow(), fra, instance, Revision::default(), speaks(3)).await.unwrap();
    let mut stream = Box::pin(stream);
    let mut next = async || loop {
        let event = tokio::time::timeout(Duration::from_secs(30), stream.next()).await;
        match event.expect("an edge hears something every five seconds").unwrap().unwrap() {
            EdgeEvent::Certificates { full, certificates, gone } => return (full, certificates, gone),
            EdgeEvent::Settings { settings } => assert_eq!(settings.https, HttpsSettings::default()),
            EdgeEvent::Challenges { .. } | EdgeEvent::Routes { .. } | EdgeEvent::Ping { .. } => {}
        }
    };
    let (full, all, gone) = next().await;
    assert!(full && gone.is_empty());
    assert_eq!(all.iter().map(|certificate| certificate.id).collect::<Vec<_>>(), [first.id]);
    assert!(all[0].key_pem.expose().contains("PRIVATE KEY"), "opened for the edge");
    assert!(!format!("{all:?}").contains("PRIVATE"), "and in no log");

    let second = certificates::add(&world.app, &change(), made(&["a.test", "b.test"])).await.unwrap();
    let (full, changed, gone) = next().await;
    assert!(!full && gone.is_empty());
    assert_eq!((changed.len(), changed[0].id, &changed[0].names), (1, second.id, &second.names));
    assert!(changed[0].version > all[0].version, "the later one has the name");
    certificates::remove(&world.app, &change(), second.id).await.unwrap();
    assert_eq!(next().await, (false, Vec::new(), vec![second.id]));
    let again = certificates::remove(&world.app, &change(), second.id).await.unwrap_err();
    assert_eq!(again.code(), "no_certificate");
}

#[tokio::test]
async fn an_edge_that_has_routes_hears_of_them_before_all_keys_are_opened() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    for host in ["a.test", "b.test"] {
        certificates::add(&world.app, &change(), made(&[host])).await.unwrap();
    }
    let has = world.store.route_head().await.unwrap();
    let kinds = async |after: Revision| {
        let (instance, fra) = (EdgeId::new(Uuid::now_v7()), "fra".parse().unwrap());
        let stream = edges::routes(&world.app, &follow(), fra, instance, after, speaks(3)).await.unwrap();
        let events: Vec<_> = Box::pin(stream).take(3).collect().await;
        let kind = |event: &_| match event {
            Ok(EdgeEvent::Settings { .. }) => "settings",
            Ok(EdgeEvent::Certificates { certificates, .. }) if certificates.len() == 2 => "certificates",
            Ok(EdgeEvent::Routes { .. }) => "routes",
            Ok(EdgeEvent::Ping { .. }) => "ping",
            _ => "else",
        };
        events.iter().map(kind).collect::<Vec<_>>()
    };
    assert_eq!(kinds(has).await, ["settings", "ping", "certificates"]);
    let fresh = ["settings", "certificates", "routes"];
    assert_eq!(kinds(Revision::default()).await, fresh, "one that has nothing serves nothing before it can");
}

#[tokio::test]
async fn an_edge_that_ends_no_tls_is_handed_no_keys() {
    let world = World::new().await;
    certificates::add(&world.app, &change(), made(&["a.test"])).await.unwrap();
    let (instance, fra) = (EdgeId::new(Uuid::now_v7()), "fra".parse().unwrap());
    let stream = edges::routes(&world.app, &follow(), fra, instance, Revision::default(), speaks(2)).await.unwrap();
    let mut stream = Box::pin(stream);
    // Settings, all routes, and whatever comes until it is silent.
    for _ in 0..3 {
        let event = tokio::time::timeout(Duration::from_secs(30), stream.next()).await.unwrap().unwrap().unwrap();
        assert!(!matches!(event, EdgeEvent::Certificates { .. }), "{event:?}");
    }
}

#[tokio::test]
async fn an_edge_that_others_may_read_along_with_is_handed_no_keys_unless_the_stack_file_says_so() {
    let world = World::new().await;
    certificates::add(&world.app, &change(), made(&["a.test"])).await.unwrap();
    let told = async || {
        let (instance, fra) = (EdgeId::new(Uuid::now_v7()), "fra".parse().unwrap());
        let takes = Takes { in_the_open: true, ..speaks(3) };
        let stream = edges::routes(&world.app, &follow(), fra, instance, Revision::default(), takes).await.unwrap();
        // Settings, certificates where they may be told, all routes.
        let events: Vec<_> = Box::pin(stream).take(3).collect().await;
        let certificates = events.iter().any(|event| matches!(event, Ok(EdgeEvent::Certificates { .. })));
        let signs = |event: &_| matches!(event, Ok(EdgeEvent::Settings { settings }) if !settings.cookie_key.expose().is_empty());
        (certificates, events.iter().any(signs))
    };
    assert_eq!(told().await, (false, false));
    world.apply(&format!("{STACK}https: {{ keys_over_plain_http: true }}\n")).await.unwrap();
    assert_eq!(told().await, (true, true));
}

#[tokio::test]
async fn a_key_lies_sealed_in_the_database() {
    let world = World::new().await;
    let wanted = made(&["a.test"]);
    certificates::add(&world.app, &change(), wanted.clone()).await.unwrap();
    let owner = world.control.connect(berth_infra::Role::Owner).await;
    let row = owner.query_one("SELECT row_to_json(c)::text FROM certificates c", &[]).await.unwrap();
    let text: String = row.get(0);
    assert!(text.contains("a.test") && !text.contains("PRIVATE"), "{}", text.len());
    let sealed: Vec<u8> = owner.query_one("SELECT key_sealed FROM certificates", &[]).await.unwrap().get(0);
    let key = wanted.key_pem.as_bytes();
    assert!(!sealed.windows(16).any(|part| key.windows(16).any(|other| other == part)));
}
