//! From a device's position to a moved tenant, with the programs as people start them: the application reports what its
//! traffic used, a threshold is passed, a proposal appears, a person agrees, and the tenant moves while it is served.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod running;

use berth_domain::{ApprovalState, CellClass, Mode, TenantState, UsagePeriod};
use berth_testkit::wait_until;
use running::{Place, World, finishes, fleet};
use serde_json::{Value, json};
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};
use uuid::Uuid;

fn stack(place: &Place) -> String {
    let (program, root) = (json!(fleet()), json!(place.dir.join("cells")));
    let (url, key) = (json!(place.url), json!(place.new_key("usage", "usage")));
    format!(
        "stack: fleet
services:
  web:
    command: [{program}, serve]
    migrate: [{program}, migrate]
    health: /health
    socket: /socket
    env: {{ BERTH_URL: {url}, BERTH_USAGE_KEY: {key} }}
data:
  root: public.customers
  key: id
  tenant_column: customer_id
  hooks:
    create: {{ file: tenant_create.sql }}
    plan: {{ file: tenant_plan.sql }}
plans:
  hobby: {{ price: 15, class: shared, limits: {{ quantities: {{ vehicles: 5, geofences: 2, gps_points_per_day: 50 }} }} }}
  starter: {{ price: 49, class: dedicated, limits: {{ quantities: {{ vehicles: 25, geofences: 10, gps_points_per_day: 500 }} }} }}
providers:
  local: {{ adapter: local, root: {root}, stop_grace_ms: 3000 }}
cells:
  shared-1: {{ class: shared, provider: local, max_tenants: 10 }}
edges: [edge-1]
"
    )
}

impl World {
    /// One request of a device, through the edge.
    fn device(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let Ok(mut stream) = TcpStream::connect(self.edge) else { return (0, "no edge".into()) };
        let body = body.to_string();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: acme.test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut answer = String::new();
        // What breaks off is an answer without a status.
        let _ = stream.write_all(text.as_bytes());
        let _ = stream.read_to_string(&mut answer);
        (answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0), answer)
    }
}

fn positions(vehicle: Uuid, count: usize) -> Value {
    let one = json!({ "vehicle_id": vehicle, "time": jiff::Timestamp::now(), "latitude": 52.5, "longitude": 13.4 });
    Value::from(vec![one; count])
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_over_a_threshold_becomes_a_proposal_and_when_it_is_agreed_to_a_move() {
    let world = World::start(stack).await;
    world.tenant("acme", "hobby").await;

    let vehicle = Uuid::new_v4();
    let body = json!({ "id": vehicle, "name": "v", "vehicle_identifier": "V1" });
    let create = || async { world.device("POST", "/api/v1/vehicles", &body) };
    wait_until("the edge serves the tenant", create, |(status, _): &(u16, String)| *status == 201).await;
    let (status, answer) = world.device("POST", "/api/v1/gps-positions", &positions(vehicle, 41));
    assert_eq!(status, 201, "{answer}");
    // The application asked what the plan allows, and counts what is not reported yet.
    let (status, answer) = world.device("POST", "/api/v1/gps-positions", &positions(vehicle, 10));
    assert_eq!((status, answer.contains("quota_spent")), (403, true), "{answer}");

    // 41 of 50 are over four fifths.
    let look = || async { world.client.approvals(Some("acme"), Some(ApprovalState::Open)).await.unwrap() };
    let open = wait_until("a proposal", look, |all: &Vec<_>| !all.is_empty()).await;
    assert_eq!((open[0].then.plan.as_str(), open[0].then.class), ("starter", CellClass::Dedicated), "{open:?}");
    let done = world.json(&["approval", "approve", &open[0].id.to_string()]);
    let operation = done["operation"].as_str().unwrap_or_else(|| panic!("{done}")).parse().unwrap();
    finishes(&world.client, operation).await;

    let tenant = world.client.tenant("acme").await.unwrap();
    assert_eq!((tenant.state, tenant.mode), (TenantState::Active, Some(Mode::SingleTenant)));
    assert_eq!(tenant.plan.as_str(), "starter");
    // Its rows came along, and the larger plan lets the devices go on.
    let (status, answer) = world.device("GET", "/api/v1/gps-positions/recent?limit=1000", &json!(null));
    assert_eq!((status, answer.matches("\"latitude\"").count()), (200, 41), "{answer}");
    let more = || async { world.device("POST", "/api/v1/gps-positions", &positions(vehicle, 10)) };
    wait_until("the new limit is known", more, |(status, _): &(u16, String)| *status == 201).await;
    let area = json!({ "name": "a", "kind": "circle", "latitude": 1.0, "longitude": 2.0, "radius_meters": 3.0 });
    assert_eq!(world.device("POST", "/api/v1/geofences", &area).0, 201);
    let areas = || async {
        let quotas = world.client.tenant_entitlements("acme").await.unwrap().quotas;
        quotas.into_iter().find(|quota| quota.quantity == "geofences").and_then(|quota| quota.used)
    };
    wait_until("the platform knows of its area", areas, |used: &Option<u64>| *used == Some(1)).await;
    let approval = world.json(&["approval", "show", &open[0].id.to_string()]);
    assert_eq!(approval["state"], "carried_out");

    // What the cell does is measured over the member that serves it, and stands where its provider's word stood.
    world.json(&["cell", "measure", "shared-1"]);
    let cell = world.json(&["cell", "show", "shared-1"]);
    let figure = |what: &str| {
        let all = cell["measured"].as_array().unwrap_or_else(|| panic!("{cell}"));
        all.iter().find(|figure| figure["what"] == what).unwrap_or_else(|| panic!("no {what}: {cell}")).clone()
    };
    for what in
        ["api", "socket", "websocket", "query_simple", "query_complex", "ingest", "upload_10_mib", "backup_1_gib"]
    {
        assert!(figure(what)["value"].as_f64().is_some_and(|value| value > 0.0), "{what}: {cell}");
    }
    for (what, unit, samples) in [("api", "ms", 100), ("socket", "ms", 100), ("websocket", "ms", 100)] {
        assert_eq!((figure(what)["unit"].as_str(), figure(what)["samples"].as_u64()), (Some(unit), Some(samples)));
    }
    let value = |what: &str| figure(what)["value"].as_f64().unwrap();
    assert!(value("api") > value("socket"), "an answer takes longer than a connection: {cell}");

    // What the edge carried is counted too.
    let carried = || async {
        let usage = world.client.tenant_usage("acme", UsagePeriod::Day).await.unwrap();
        usage.usage.iter().find(|row| row.metric == "requests").map_or(0, |row| row.total)
    };
    wait_until("the edge's counters arrive", carried, |requests: &u64| *requests >= 4).await;
}

/// Two copies of the application, neither of which knows of the other, and a plan that sells five vehicles.
#[tokio::test(flavor = "multi_thread")]
async fn the_sixth_vehicle_is_refused_however_many_ask_at_once() {
    let world = World::start(|place| stack(place).replace("    socket: /socket\n", "    copies: 2\n")).await;
    world.tenant("acme", "hobby").await;
    let list = || async { world.device("GET", "/api/v1/vehicles", &json!(null)) };
    wait_until("the edge serves the tenant", list, |(status, _): &(u16, String)| *status == 200).await;

    let all: Vec<u16> = std::thread::scope(|scope| {
        let ask = |n: usize| {
            let body = json!({ "name": "v", "vehicle_identifier": format!("V{n}") });
            let world = &world;
            scope.spawn(move || world.device("POST", "/api/v1/vehicles", &body).0)
        };
        let asking: Vec<_> = (0..24).map(ask).collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let of = |status: u16| all.iter().filter(|it| **it == status).count();
    assert_eq!((of(201), of(403)), (5, 19), "{all:?}");
    let (_, listed) = world.device("GET", "/api/v1/vehicles", &json!(null));
    assert_eq!(listed.matches("vehicle_identifier").count(), 5, "{listed}");
    let (status, answer) =
        world.device("POST", "/api/v1/vehicles", &json!({ "name": "v", "vehicle_identifier": "V99" }));
    assert!(status == 403 && answer.contains("quota_spent") && answer.contains('5'), "{status} {answer}");

    // Areas are sold too: two of them, and another one in the place of one that is gone.
    let area = |id: Uuid| json!({ "id": id, "name": "a", "kind": "circle", "latitude": 1.0, "longitude": 2.0, "radius_meters": 3.0 });
    let ids: Vec<Uuid> = (0..3).map(|_| Uuid::new_v4()).collect();
    let made = ids.iter().map(|id| world.device("POST", "/api/v1/geofences", &area(*id)));
    let made: Vec<(u16, String)> = made.collect();
    assert_eq!(made.iter().map(|(status, _)| *status).collect::<Vec<_>>(), [201, 201, 403], "{made:?}");
    assert!(made[2].1.contains("quota_spent") && made[2].1.contains("2 geofences"), "{made:?}");
    // Who asks again after a lost answer is told the same as below the limit.
    let again = world.device("POST", "/api/v1/geofences", &area(ids[1]));
    assert_eq!(again.0, 409, "{again:?}");
    let gone = world.device("DELETE", &format!("/api/v1/geofences/{}", ids[0]), &json!(null));
    assert_eq!(gone.0, 204, "{gone:?}");
    assert_eq!(world.device("POST", "/api/v1/geofences", &area(ids[2])).0, 201);
}
