//! What members with a key are shown, checked as an application would check it.

use crate::world::{Answer, Member, World, eventually, route};
use berth_wire::edge::{EdgeSettings, Hidden, MemberAddress, ServiceSettings};
use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use http::{Method, Request};
use http_body_util::Full;
use sha2::Sha256;
use std::time::{SystemTime, UNIX_EPOCH};

const KEY: &str = "0123456789abcdef0123456789abcdef";

fn key(key: Option<&str>) -> ServiceSettings {
    ServiceSettings { signature_key: key.map(|key| Hidden::new(key.into())), ..ServiceSettings::default() }
}

/// Asks as a client who has made up headers of its own.
async fn ask(world: &World, method: Method) -> Answer {
    let request = Request::builder().method(method).uri("/").header("host", "t1.test");
    let request = request.header("berth-signature", "t=1,v1=00").header("berth-tenant", "evil");
    world.edge.client().await.send(request.body(Full::new(Bytes::from_static(b"x"))).unwrap()).await
}

/// As the docs page says it: not older than a minute, and what the key makes of the three headers and the time.
fn proved(answer: &Answer, key: &str) -> bool {
    let (time, hmac) = answer.sent("berth-signature").unwrap().strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(time.parse().unwrap()) <= 60, "{time} beside {now}");
    let said = ["berth-tenant", "berth-generation", "x-request-id"].map(|name| answer.sent(name).unwrap());
    let text = format!("{}\n{time}", said.join("\n"));
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    let wanted = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    hmac == wanted
}

#[tokio::test(flavor = "multi_thread")]
async fn members_whose_service_has_a_key_can_prove_whose_each_request_is_and_a_client_cannot() {
    // Each core is told of the key by itself.
    let world = World::with(|c| c.workers = 1).await;
    let plain = ask(&world, Method::GET).await;
    assert_eq!((plain.sent("berth-signature"), plain.sent("berth-tenant")), (None, Some("key-1")), "{plain:?}");

    world.control.set_web(key(Some(KEY)));
    let look = async || ask(&world, Method::GET).await;
    let signed = eventually("the key is in force", look, |answer| answer.sent("berth-signature").is_some()).await;
    assert!(proved(&signed, KEY), "{signed:?}");
    assert!(!proved(&signed, "another key"));
    assert_eq!(signed.headers.get("berth-signature"), None, "clients are told nothing of it");
    let other = ask(&world, Method::POST).await;
    assert!(proved(&other, KEY), "{other:?}");
    assert_ne!(other.sent("berth-signature"), signed.sent("berth-signature"), "each request has its own");

    // After the move the generation is another one, and it is what is signed.
    world.control.put(vec![world.moved()]).await;
    let moved = ask(&world, Method::POST).await;
    assert_eq!((moved.by(), moved.sent("berth-generation")), ("new", Some("2")));
    assert!(proved(&moved, KEY), "{moved:?}");

    // The key is a secret of the settings: nothing that the edge shows has it.
    for path in ["/healthz", "/metrics", "/tenants"] {
        assert!(!world.edge.admin(path).await.contains(KEY), "{path}");
    }
    world.control.set_web(key(None));
    let look = async || ask(&world, Method::GET).await;
    eventually("nothing is signed any more", look, |answer| answer.sent("berth-signature").is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_one_cell_are_signed_for_with_their_own_keys_or_not_at_all() {
    let world = World::with(|c| c.workers = 1).await;
    let third = Member::start("third").await;
    let of = |member: &Member, service: &str| MemberAddress { service: service.parse().unwrap(), ..member.wire() };
    let mut home = route(1, 1, "shared", &[]);
    home.members = vec![of(&world.old, "one"), of(&world.new, "two"), of(&third, "none")];
    let services = [("one", Some(KEY)), ("two", Some("the key of the other service, which is long")), ("none", None)];
    let services = services.map(|(name, own)| (name.parse().unwrap(), key(own))).into();
    world.control.set(EdgeSettings { services, ..EdgeSettings::default() });
    world.control.put(vec![home]).await;
    let by = async |name: &str| {
        let look = async || ask(&world, Method::GET).await;
        eventually("it is this member's turn", look, |answer| answer.by() == name).await
    };
    let look = async || by("old").await;
    let one = eventually("the keys are in force", look, |answer| answer.sent("berth-signature").is_some()).await;
    let two = by("new").await;
    assert!(proved(&one, KEY) && !proved(&two, KEY), "{one:?} {two:?}");
    assert!(proved(&two, "the key of the other service, which is long"), "{two:?}");
    assert_eq!(by("third").await.sent("berth-signature"), None);
}
