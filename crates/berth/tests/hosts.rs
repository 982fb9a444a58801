//! `berth host` and `berth cert` as commands, with everything real: a server, an edge, a DNS server, an authority.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod running;

use berth_testkit::{TestAuthority, TestNames, free_port, wait_until};
use berth_wire::{StackApply, TenantCreate};
use running::{BERTH, Place, World, finishes, fleet};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path};

/// A server and an edge that serves over TLS, with a stack whose hosts need proof and get certificates of `authority`.
async fn world(names: &TestNames) -> Option<(World, TestAuthority)> {
    let mut place = Place::new();
    place.serve().await;
    let [http, https] = [free_port(), free_port()].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let (key, url) = (place.new_key("edge-1", "edge"), place.url.clone());
    let (listen, listen_tls) = (http.to_string(), https.to_string());
    let data = place.dir.join("edge").to_string_lossy().into_owned();
    let words = ["edge", "--name", "edge-1", "--listen", &listen, "--listen-tls", &listen_tls];
    let rest = ["--admin", "127.0.0.1:0", "--control", &url, "--data-dir", &data];
    place.start("edge", BERTH, &[&words[..], &rest].concat(), &[("BERTH_API_KEY", &key)]);
    let authority = TestAuthority::start(names, http.port(), https.port(), &[]).await?;
    let (program, root) = (json!(fleet()), json!(place.dir.join("cells")));
    let (resolver, nobody) = (names.resolver, free_port());
    let (directory, ca) = (authority.directory(), json!(authority.ca_file()));
    let file = format!(
        "stack: fleet
services:
  web: {{ command: [{program}, serve], migrate: [{program}, migrate], health: /health }}
data:
  root: public.customers
  key: id
  tenant_column: customer_id
  hooks:
    create: {{ file: tenant_create.sql }}
plans:
  hobby: {{ price: 15, class: shared }}
providers:
  local: {{ adapter: local, root: {root}, stop_grace_ms: 3000 }}
cells:
  shared-1: {{ class: shared, provider: local, max_tenants: 10 }}
edges: [edge-1]
hosts: {{ own: [fleet.test], proof: required, resolver: '{resolver}', http_port: {nobody} }}
https: {{ acme: {{ directory: '{directory}', ca_file: {ca} }} }}
"
    );
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../apps/fleet/hooks/tenant_create.sql");
    let files = BTreeMap::from([("tenant_create.sql".to_owned(), fs::read_to_string(hook).unwrap())]);
    let client = place.client();
    let applied = client.stack_apply(&StackApply { file, files, dry_run: false }).await.unwrap();
    for operation in applied.operations {
        finishes(&client, operation).await;
    }
    Some((World { place, client, edge: http }, authority))
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_are_claimed_proved_listed_and_removed_and_certificates_listed_and_renewed() {
    let Some(names) = TestNames::start().await else { return };
    let Some((world, _authority)) = world(&names).await else { return };
    let wanted = TenantCreate {
        name: "acme".parse().unwrap(),
        plan: "hobby".parse().unwrap(),
        hosts: vec!["acme.fleet.test".parse().unwrap()],
        key: None,
        cell: None,
        profile: None,
    };
    finishes(&world.client, world.client.tenant_create(&wanted).await.unwrap().id).await;

    let (status, said, _) = world.berth(&["host", "add", "acme", "shop.acme.test"]);
    assert!(status == 0 && said.contains("not routed before it is proved"), "{said}");
    let all = world.json(&["host", "list", "--tenant", "acme"]);
    let shop = all.as_array().unwrap().iter().find(|host| host["host"] == "shop.acme.test").unwrap();
    assert_eq!(shop["served"], false);
    let (status, _, error) = world.berth(&["host", "verify", "shop.acme.test"]);
    assert!(status == 1 && error.starts_with("error: "), "{error}");
    let show = |what: &str| shop["show"][what].as_str().unwrap();
    names.set_txt(show("txt_name"), show("txt_value")).await;
    let (status, said, error) = world.berth(&["host", "verify", "shop.acme.test", "--tenant", "acme"]);
    assert_eq!((status, said.as_str()), (0, "shop.acme.test is routed to acme (proof: txt)\n"), "{error}");
    let (_, list, _) = world.berth(&["host", "list"]);
    assert!(list.contains("acme.fleet.test") && list.contains("shop.acme.test"), "{list}");
    let (status, said, _) = world.berth(&["host", "remove", "shop.acme.test"]);
    assert_eq!((status, said.as_str()), (0, "shop.acme.test is taken away from acme\n"));
    let (status, _, error) = world.berth(&["host", "remove", "shop.acme.test"]);
    assert!(status == 1 && error.contains("hint: "), "{error}");
    assert_eq!(world.json(&["host", "list", "--tenant", "acme"]).as_array().unwrap().len(), 1);

    let certificate = async || {
        let all = world.json(&["cert", "list"]);
        let own = |one: &&Value| one["names"] == json!(["acme.fleet.test"]);
        all.as_array().unwrap().iter().find(own).map(|one| one["id"].clone())
    };
    let first = wait_until("a certificate is there", certificate, Option::is_some).await;
    let orders = async || world.berth(&["cert", "list", "--orders"]).1;
    wait_until("its order is served", orders, |text| text.contains("acme.fleet.test: served")).await;
    let (_, list, _) = world.berth(&["cert", "list"]);
    assert!(list.contains("acme.fleet.test") && list.contains("acme "), "{list}");
    let (status, said, error) = world.berth(&["cert", "renew", "acme.fleet.test"]);
    assert!(status == 0 && said.starts_with("a new certificate for acme.fleet.test is asked for now"), "{said}{error}");
    wait_until("another one is there", certificate, |now| now.is_some() && *now != first).await;
    let (status, _, error) = world.berth(&["cert", "renew", "nobody.test"]);
    assert!(status == 1 && error.starts_with("error: "), "{error}");
}
