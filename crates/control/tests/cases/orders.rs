//! Orders of certificates as far as they go without an authority: who has a certificate, and what ends or waits. Those with
//! an authority are tested over the API.

use crate::{
    upkeep::serving,
    world::{STACK, World, change, read},
};
use berth_control::{certificates, hosts, orders, status};
use berth_domain::{CertificateId, Hostname, OrderState};
use berth_store::NewCertificate;
use berth_testkit::wait_until;
use berth_wire::{Certificate, CertificateAdd};
use jiff::{Timestamp, ToSpan as _};
use uuid::Uuid;

const DIRECTORY: &str = "https://authority.test/directory";

fn with_authority() -> String {
    format!(
        "{STACK}hosts: {{ own: [acme.test] }}\nhttps: {{ acme: {{ directory: '{DIRECTORY}', email: ops@a.test }} }}\n"
    )
}

fn host() -> Hostname {
    "acme.test".parse().unwrap()
}

/// A tenant with a host of the stack's own, and an account at an authority that nobody can ask here.
async fn world() -> World {
    let world = World::new().await;
    world.apply(&with_authority()).await.unwrap();
    world.create("acme", "hobby").await;
    world.store.acme_account_keep(DIRECTORY, &"account".to_owned().into()).await.unwrap();
    world
}

async fn added(world: &World, days: i64) -> Certificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["acme.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    let end = (Timestamp::now() + (days * 24).hours()).strftime("%Y-%m-%d").to_string();
    let parts: Vec<i32> = end.split('-').map(|part| part.parse().unwrap()).collect();
    params.not_after = rcgen::date_time_ymd(parts[0], u8::try_from(parts[1]).unwrap(), u8::try_from(parts[2]).unwrap());
    let pem = CertificateAdd { chain_pem: params.self_signed(&key).unwrap().pem(), key_pem: key.serialize_pem() };
    certificates::add(&world.app, &change(), pem).await.unwrap()
}

/// Waits, with a server at work, until the order is so.
async fn order_is(world: &World, good: impl Fn(&berth_store::Order) -> bool) -> berth_store::Order {
    let look = async || world.store.order_get(&host()).await.unwrap();
    let found = async { wait_until("the order is so", look, |order| order.as_ref().is_some_and(&good)).await.unwrap() };
    serving(world, found).await
}

#[tokio::test]
async fn a_host_whose_certificate_is_taken_away_is_ordered_for_at_once() {
    let world = world().await;
    let theirs = added(&world, 365).await;
    let served = order_is(&world, |order| order.state == OrderState::Served).await;
    assert_eq!(served.certificate, Some(theirs.id));
    assert!(served.next_at > Timestamp::now() + (300 * 24).hours(), "it is left alone for long");
    certificates::remove(&world.app, &change(), theirs.id).await.unwrap();
    let due = world.store.orders_due(Timestamp::now(), 10).await.unwrap();
    let [order] = &due[..] else { panic!("{due:?}") };
    assert_eq!((order.state, order.certificate), (OrderState::Waiting, None));
}

#[tokio::test]
async fn a_persons_certificate_takes_the_place_of_berths_own() {
    let world = world().await;
    let own = NewCertificate {
        id: CertificateId::new(Uuid::now_v7()),
        names: vec!["acme.test".to_owned()],
        issuer: "CN=authority".to_owned(),
        not_before: Timestamp::now(),
        not_after: Timestamp::now() + 48.hours(),
        chain_pem: "chain".to_owned(),
        key_pem: "key".to_owned().into(),
        added_by: "berth".to_owned(),
        ordered_for: Some(host()),
    };
    let mut tx = world.store.begin().await.unwrap();
    world.store.certificate_insert(&mut tx, &own).await.unwrap();
    tx.commit().await.unwrap();
    let theirs = added(&world, 365).await;
    order_is(&world, |order| order.certificate == Some(theirs.id)).await;
    let left: Vec<_> = certificates::list(&world.app, &read()).await.unwrap().iter().map(|one| one.id).collect();
    assert_eq!(left, [theirs.id]);
}

#[tokio::test]
async fn an_order_that_stands_still_for_a_reason_of_our_own_waits_and_says_why() {
    let world = world().await;
    // This program asks nobody outside.
    let order = order_is(&world, |order| order.detail.is_some()).await;
    assert_eq!((order.state, order.failures), (OrderState::Waiting, 0), "it is nobody's failure");
    assert!(order.next_at > Timestamp::now() + 30.seconds(), "others have their turn");
    let detail = order.detail.unwrap();
    assert!(detail.starts_with("Berth could not go on with it: "), "{detail}");
    let overview = status::overview(&world.app, &read()).await.unwrap();
    assert!(!overview.attention.iter().any(|it| it.code == "certificate_not_renewed"), "{overview:?}");
}

#[tokio::test]
async fn without_an_authority_nothing_is_renewed_and_what_was_ordered_goes_with_its_host() {
    let world = world().await;
    order_is(&world, |order| order.detail.is_some()).await;
    let asked = orders::renew(&world.app, &change(), &host()).await.unwrap();
    assert!(asked.next_at <= Timestamp::now());
    let owner = world.control.connect(berth_infra::Role::Owner).await;
    let told = "SELECT target, after->>'host' FROM audit WHERE action = 'certificate.renew'";
    let told = owner.query_one(told, &[]).await.unwrap();
    assert_eq!((told.get(0), told.get(1)), ("tenant/acme", "acme.test"), "it is made nameless with its tenant");

    world.apply(&format!("{STACK}hosts: {{ own: [acme.test] }}\n")).await.unwrap();
    let refused = orders::renew(&world.app, &change(), &host()).await.unwrap_err();
    assert_eq!(refused.code(), "no_order", "nobody would be asked");
    hosts::remove(&world.app, &change(), &host().into(), None).await.unwrap();
    let left = async || world.store.order_list().await.unwrap().len();
    serving(&world, wait_until("the order goes", left, |left| *left == 0)).await;
}
