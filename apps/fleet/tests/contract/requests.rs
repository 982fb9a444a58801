//! What the application acknowledges is committed, what it refuses is not, and it says which.

use crate::common::Fleet;
use serde_json::{Value, json};
use uuid::Uuid;

fn position(vehicle: Uuid) -> Value {
    json!({ "event_id": Uuid::new_v4(), "vehicle_id": vehicle, "time": "2026-01-01T00:00:00.25Z",
            "latitude": 52.520_008, "longitude": -13.404_954, "speed": 12.5 })
}

#[tokio::test]
async fn an_acknowledged_position_is_committed_as_it_was_sent() {
    let world = Fleet::start().await;
    let acme = world.customer("acme").await;
    let van = world.vehicle(acme, "v-1").await;
    let sent = position(van);
    let answer = world.post(acme, "/api/v1/gps-positions", &sent.to_string()).await;
    assert_eq!((answer.status, &answer.body), (201, &json!({ "accepted": 1 })));
    let stored = world
        .admin
        .query_one(
            "select event_id, latitude::text, longitude::text, speed, extract(epoch from time)::text
               from gps_positions where customer_id = $1",
            &[&acme],
        )
        .await
        .unwrap();
    assert_eq!(stored.get::<_, Uuid>(0).to_string(), sent["event_id"]);
    assert_eq!((stored.get(1), stored.get(2)), ("52.520008", "-13.404954"));
    assert_eq!((stored.get::<_, f64>(3), stored.get(4)), (12.5, "1767225600.250000"));
    let recent = world.get(acme, &format!("/api/v1/gps-positions/recent?vehicle_id={van}&limit=5")).await;
    assert_eq!(recent.body[0]["event_id"], sent["event_id"]);
    assert_eq!(recent.body[0]["latitude"], sent["latitude"]);
}

#[tokio::test]
async fn pool_wait_and_name_of_connections_are_what_the_platform_says() {
    let world = Fleet::start().await;
    let acme = world.customer("acme").await;
    let van = world.vehicle(acme, "v-1").await;
    // Both connections of the pool wait for this lock, and a third request for one of them.
    world.admin.batch_execute("begin; lock table gps_positions in access exclusive mode").await.unwrap();
    let sent = position(van).to_string();
    let post = || world.post(acme, "/api/v1/gps-positions", &sent);
    let held = async {
        let (one, two) = tokio::join!(post(), post());
        [one.status, two.status]
    };
    // Not the session with the lock: within a transaction the view stays as it was first seen.
    let seen = world.postgres.connect("postgres").await;
    let watched = async {
        let waiting =
            "select count(*) from pg_stat_activity where application_name = 'own_name' and wait_event_type = 'Lock'";
        while seen.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) < 2 {}
        let third = world.get(acme, "/api/v1/vehicles").await;
        let named = "select count(*) from pg_stat_activity where application_name = 'own_name'";
        let connections: i64 = seen.query_one(named, &[]).await.unwrap().get(0);
        world.admin.batch_execute("commit").await.unwrap();
        (third.status, connections)
    };
    let (held, (third, connections)) = tokio::join!(held, watched);
    assert_eq!((held, third, connections), ([201, 201], 503, 2), "the third waited 400 ms and was told so");
}

#[tokio::test]
async fn a_position_sent_twice_is_there_twice() {
    let world = Fleet::start().await;
    let acme = world.customer("acme").await;
    let sent = position(world.vehicle(acme, "v-1").await).to_string();
    for _ in 0..2 {
        assert_eq!(world.post(acme, "/api/v1/gps-positions", &sent).await.status, 201);
    }
    assert_eq!(world.count("gps_positions").await, 2);
}

#[tokio::test]
async fn a_commit_that_fails_is_not_acknowledged() {
    let world = Fleet::start().await;
    let acme = world.customer("acme").await;
    let van = world.vehicle(acme, "v-1").await;
    // Raises at the commit itself: an application that answered after the insert would have said 201.
    world
        .admin
        .batch_execute(
            "create function refuse() returns trigger language plpgsql as
                 $$ begin raise exception 'not today' using errcode = '40001'; end $$;
             create constraint trigger at_commit after insert on gps_positions
                 deferrable initially deferred for each row execute function refuse()",
        )
        .await
        .unwrap();
    let answer = world.post(acme, "/api/v1/gps-positions", &position(van).to_string()).await;
    assert_eq!((answer.status, &answer.body["code"]), (503, &"busy".into()));
    assert_eq!(answer.header("berth-fenced"), None);
    assert_eq!(world.count("gps_positions").await, 0);
    // The connection goes back to the pool fit for the next request.
    world.admin.batch_execute("drop trigger at_commit on gps_positions").await.unwrap();
    assert_eq!(world.post(acme, "/api/v1/gps-positions", &position(van).to_string()).await.status, 201);
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let world = Fleet::start().await;
    let acme = world.customer("acme").await;
    let van = world.vehicle(acme, "v-1").await;
    let mut batch: Vec<_> = (0..10).map(|_| position(van)).collect();
    let answer = world.post(acme, "/api/v1/gps-positions", &json!(batch).to_string()).await;
    assert_eq!((answer.status, &answer.body), (201, &json!({ "accepted": 10 })));

    batch[9]["vehicle_id"] = json!(Uuid::new_v4());
    assert_eq!(world.post(acme, "/api/v1/gps-positions", &json!(batch).to_string()).await.status, 422);
    batch[9] = position(van);
    batch[9]["latitude"] = json!(91);
    let answer = world.post(acme, "/api/v1/gps-positions", &json!(batch).to_string()).await;
    assert_eq!(answer.status, 422);
    assert!(answer.body["detail"].as_str().unwrap().contains("position 9: `latitude`"), "{}", answer.body);
    assert_eq!(world.count("gps_positions").await, 10);
}

#[tokio::test]
async fn a_fenced_write_names_the_generation_that_took_over() {
    let world = Fleet::start().await;
    let (acme, globex) = (world.customer("acme").await, world.customer("globex").await);
    let (van, car) = (world.vehicle(acme, "v-1").await, world.vehicle(globex, "v-1").await);
    for (raise, expected) in [
        (format!("'tenant {acme} moved to generation 7' using errcode = 'BF001', detail = 'generation=8'"), "8"),
        (format!("'tenant {acme} moved to generation 7' using errcode = 'BF001'"), "7"),
    ] {
        world
            .admin
            .batch_execute(&format!(
                "create or replace function fence() returns trigger language plpgsql as
                     $$ begin raise exception {raise}; end $$;
                 create or replace trigger fence after insert on gps_positions for each row
                     when (new.customer_id = '{acme}') execute function fence();
                 create or replace trigger fence after insert on vehicles for each row
                     when (new.customer_id = '{acme}') execute function fence()"
            ))
            .await
            .unwrap();
        let vehicle = json!({ "name": "a", "vehicle_identifier": "v-2" });
        for (path, body) in [
            ("/api/v1/gps-positions", position(van)),
            ("/api/v1/gps-positions", json!([position(van), position(van)])),
            ("/api/v1/vehicles", vehicle),
        ] {
            let answer = world.post(acme, path, &body.to_string()).await;
            assert_eq!((answer.status, answer.header("berth-fenced")), (503, Some(expected)), "{}", answer.body);
        }
        assert_eq!(world.get(acme, "/api/v1/gps-positions/recent").await.status, 200, "reading goes on");
    }
    assert_eq!(world.count("gps_positions").await, 0);
    assert_eq!(world.post(globex, "/api/v1/gps-positions", &position(car).to_string()).await.status, 201);
}

#[tokio::test]
async fn a_body_that_cannot_be_taken_is_refused_with_a_reason() {
    let world = Fleet::start().await;
    let acme = world.customer("acme").await;
    let van = world.vehicle(acme, "v-1").await;
    let positions = "/api/v1/gps-positions";
    let too_many = json!(vec![position(van); 1001]).to_string();
    let mut strange = position(van);
    strange["colour"] = json!("red");
    let mut no_time = position(van);
    no_time["time"] = json!("yesterday");
    let huge = format!(r#"{{"name":"{}","vehicle_identifier":"v-9"}}"#, "x".repeat(1024 * 1024));
    for (path, body, status, code) in [
        (positions, "", 400, "malformed"),
        (positions, "{", 400, "malformed"),
        (positions, "\u{0}", 400, "malformed"),
        (positions, "null", 422, "invalid"),
        (positions, "[]", 422, "invalid"),
        (positions, "[1]", 422, "invalid"),
        (positions, &too_many, 422, "invalid"),
        (positions, &strange.to_string(), 422, "invalid"),
        (positions, &no_time.to_string(), 422, "invalid"),
        ("/api/v1/vehicles", r#"{"name":" ","vehicle_identifier":"v"}"#, 422, "invalid"),
        ("/api/v1/vehicles", r#"{"name":"a","vehicle_identifier":"v","vehicle_type":"boat"}"#, 422, "invalid"),
        ("/api/v1/vehicles", r#"{"name":"a\u0000","vehicle_identifier":"v"}"#, 422, "invalid"),
        ("/api/v1/vehicles", r#"{"name":"a","vehicle_identifier":"v-1"}"#, 409, "conflict"),
        ("/api/v1/vehicles", &huge, 413, "too_large"),
        ("/api/v1/geofences", r#"{"name":"a","kind":"circle","latitude":1}"#, 422, "invalid"),
        ("/api/v1/geofences", r#"{"name":"a","kind":"square"}"#, 422, "invalid"),
        ("/api/v1/geofences", r#"{"name":"a","kind":"polygon","geometry":{},"customer_id":"b"}"#, 422, "invalid"),
        (
            "/api/v1/geofences",
            r#"{"name":"a","kind":"circle","latitude":1,"longitude":999,"radius_meters":1}"#,
            422,
            "invalid",
        ),
        ("/api/v1/status", "", 405, "no_such_method"),
        ("/nowhere", "", 404, "no_such_path"),
    ] {
        let answer = world.post(acme, path, body).await;
        let shown = &body[..body.len().min(80)];
        assert_eq!((answer.status, &answer.body["code"]), (status, &code.into()), "{path} {shown}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path} {shown}");
    }
    for query in ["limit=0", "limit=1001", "limit=x", "vehicle_id=7", "customer_id=1"] {
        let answer = world.get(acme, &format!("/api/v1/gps-positions/recent?{query}")).await;
        assert!((400..=422).contains(&answer.status), "{query}: {}", answer.body);
    }
    assert_eq!((world.count("gps_positions").await, world.count("vehicles").await), (0, 1));
}

#[tokio::test]
async fn a_lost_database_is_503_without_a_generation_and_unhealthy() {
    let mut world = Fleet::start().await;
    let acme = world.customer("acme").await;
    let van = world.vehicle(acme, "v-1").await;
    assert_eq!(world.request("GET /health HTTP/1.1\r\n", "").await.status, 200);
    world.postgres.crash();
    for _ in 0..2 {
        let answer = world.post(acme, "/api/v1/gps-positions", &position(van).to_string()).await;
        assert_eq!((answer.status, answer.header("berth-fenced")), (503, None));
        assert_eq!(answer.body["code"], "database_lost");
    }
    assert_eq!(world.request("GET /health HTTP/1.1\r\n", "").await.status, 503);
}

#[tokio::test]
async fn status_says_where_it_runs_and_the_highest_generation_it_was_told() {
    let world = Fleet::start().await;
    let acme = world.customer("acme").await;
    assert_eq!(world.get(acme, "/api/v1/status").await.body["generation"], Value::Null);
    for generation in [4, 3] {
        let head = format!("GET /api/v1/status HTTP/1.1\r\nBerth-Tenant: {acme}\r\nBerth-Generation: {generation}\r\n");
        let body = world.request(&head, "").await.body;
        assert_eq!(body["generation"], 4);
        assert_eq!((&body["cell"], &body["mode"]), (&"cell-1".into(), &"single_tenant".into()));
        assert_eq!(body["customer"]["name"], "acme");
    }
}

#[tokio::test]
async fn a_term_signal_lets_the_request_in_flight_finish() {
    let mut world = Fleet::start().await;
    let acme = world.customer("acme").await;
    let van = world.vehicle(acme, "v-1").await;
    // The insert waits for a lock that is ours, so the request is in flight for as long as we like.
    let blocker = world.postgres.connect("postgres").await;
    blocker.batch_execute("begin; lock table gps_positions in exclusive mode").await.unwrap();
    let body = position(van).to_string();
    let (answer, ()) = tokio::join!(world.post(acme, "/api/v1/gps-positions", &body), async {
        world.sessions("wait_event_type = 'Lock'", 1).await;
        world.terminate();
        world.stops_listening().await;
        blocker.batch_execute("commit").await.unwrap();
    });
    assert_eq!(answer.status, 201);
    assert_eq!(world.count("gps_positions").await, 1);
    assert!(world.ended().success());
}

#[tokio::test]
async fn a_geofence_is_made_replaced_and_removed_by_its_own_tenant_only() {
    let world = Fleet::start().await;
    let (acme, globex) = (world.customer("acme").await, world.customer("globex").await);
    let id = Uuid::new_v4();
    let path = format!("/api/v1/geofences/{id}");
    let circle =
        json!({ "id": id, "name": "Yard", "kind": "circle", "latitude": 1.5, "longitude": 2, "radius_meters": 9 });
    let polygon = json!({ "name": "Yard", "kind": "polygon", "geometry": { "type": "Polygon" } }).to_string();

    assert_eq!(world.put(acme, &path, &polygon).await.status, 404, "nothing to replace yet");
    assert_eq!(world.post(acme, "/api/v1/geofences", &circle.to_string()).await.status, 201);
    assert_eq!(world.post(acme, "/api/v1/geofences", &circle.to_string()).await.status, 409);
    for answer in [world.put(globex, &path, &polygon).await, world.delete(globex, &path).await] {
        assert_eq!((answer.status, &answer.body["code"]), (404, &"not_found".into()), "a neighbour's geofence");
    }
    assert_eq!(world.put(Uuid::new_v4(), &path, &polygon).await.body["code"], "unknown_tenant");
    assert_eq!(world.put(acme, "/api/v1/geofences/7", &polygon).await.status, 404);

    let listed = world.get(acme, "/api/v1/geofences").await.body;
    assert_eq!((&listed[0]["kind"], &listed[0]["latitude"]), (&"circle".into(), &1.5.into()), "still the circle");
    assert_eq!(world.put(acme, &path, &polygon).await.status, 200);
    let listed = world.get(acme, "/api/v1/geofences").await.body;
    assert_eq!((&listed[0]["kind"], &listed[0]["latitude"]), (&"polygon".into(), &Value::Null));
    assert_eq!(world.delete(acme, &path).await.status, 204);
    assert_eq!(world.delete(acme, &path).await.status, 404);
    assert_eq!(world.count("geofences").await, 0);
}

#[tokio::test]
async fn a_client_that_leaves_midway_leaves_no_open_transaction() {
    let world = Fleet::start().await;
    let acme = world.customer("acme").await;
    let van = world.vehicle(acme, "v-1").await;
    let body = position(van).to_string();
    // Once before, or it would be the preparing of the statement that waits.
    assert_eq!(world.post(acme, "/api/v1/gps-positions", &body).await.status, 201);
    let blocker = world.postgres.connect("postgres").await;
    blocker.batch_execute("begin; lock table gps_positions in exclusive mode").await.unwrap();
    tokio::select! {
        answer = world.post(acme, "/api/v1/gps-positions", &body) => panic!("answered {}: {}", answer.status, answer.body),
        () = world.sessions("wait_event_type = 'Lock'", 1) => {}
    }
    blocker.batch_execute("commit").await.unwrap();
    // Its `commit` was on the way already, so it ends by itself; and the connection serves the next one.
    world.sessions("state <> 'idle'", 0).await;
    assert_eq!(world.count("gps_positions").await, 2);
    assert_eq!(world.post(acme, "/api/v1/gps-positions", &body).await.status, 201);
}
