//! Nothing of one tenant is seen or touched by another, and nothing at all without a tenant.

use std::process::Stdio;

use crate::common::{Fleet, Postgres, TABLES, fleet};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

/// One row for the tenant in each table, planted past the application.
async fn a_row_in_each_table(world: &Fleet, tenant: Uuid, vehicle: Uuid) {
    world
        .admin
        .batch_execute(&format!(
            "insert into customer_users (customer_id, email) values ('{tenant}', 'a@b.invalid');
             insert into api_keys (customer_id, name, key_hash, key_prefix)
                 values ('{tenant}', 'k', sha256('{tenant}'), 'fk_live');
             insert into drivers (customer_id, name) values ('{tenant}', 'Ada');
             insert into gps_positions (customer_id, vehicle_id, time, latitude, longitude)
                 values ('{tenant}', '{vehicle}', now(), 1, 2);
             insert into geofences (customer_id, name, kind, geometry) values ('{tenant}', 'g', 'polygon', '{{}}');
             insert into routes (customer_id, vehicle_id, path, started_at)
                 values ('{tenant}', '{vehicle}', '[]', now());
             insert into usage_metrics (customer_id, metric_type, metric_value, unit, timestamp)
                 values ('{tenant}', 'calls', 1, 'n', now());
             insert into sync_updates (customer_id, document_id, update_data, update_version)
                 values ('{tenant}', 'd', '\\x00', 1)"
        ))
        .await
        .unwrap();
}

#[tokio::test]
async fn no_table_shows_a_row_to_the_app_role_without_a_tenant() {
    let world = Fleet::start().await;
    let tenant = world.customer("acme").await;
    let vehicle = world.vehicle(tenant, "v-1").await;
    a_row_in_each_table(&world, tenant, vehicle).await;
    for role in ["berth_app", "berth_owner"] {
        let session = world.postgres.connect(role).await;
        for (table, _) in TABLES {
            assert!(world.count(table).await > 0, "{table} has no row to hide");
            let seen: i64 = session.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0);
            assert_eq!(seen, 0, "{role} sees rows of {table} without a tenant");
        }
        // A pooled connection that has served a tenant is as blind as a new one.
        session.batch_execute(&format!("begin; set local app.current_customer_id = '{tenant}'; commit")).await.unwrap();
        for (table, _) in TABLES {
            let seen: i64 = session.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0);
            assert_eq!(seen, 0, "{role} sees rows of {table} after a tenant's transaction");
        }
    }
}

#[tokio::test]
async fn the_table_list_of_these_tests_is_the_schema() {
    let world = Fleet::start().await;
    let rows = world
        .admin
        .query(
            "select relname::text, relrowsecurity and relforcerowsecurity,
                    exists (select from pg_index where indrelid = c.oid and indisprimary),
                    relowner::regrole::text
               from pg_class c where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') order by 1",
            &[],
        )
        .await
        .unwrap();
    let mut expected: Vec<_> = TABLES.iter().map(|(table, _)| (*table).to_owned()).collect();
    expected.sort();
    assert_eq!(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), expected);
    for row in &rows {
        let table: String = row.get(0);
        assert!(row.get::<_, bool>(1), "{table}: row security is not forced");
        assert!(row.get::<_, bool>(2), "{table}: no primary key");
        assert_eq!(row.get::<_, String>(3), "berth_owner", "{table}: owner");
    }
    let app: bool = world
        .admin
        .query_one("select rolsuper or rolbypassrls from pg_roles where rolname = 'berth_app'", &[])
        .await
        .unwrap()
        .get(0);
    assert!(!app, "the application's role may pass row security");
}

#[tokio::test]
async fn a_tenant_neither_sees_nor_changes_its_neighbours_rows() {
    let world = Fleet::start().await;
    let (acme, globex) = (world.customer("acme").await, world.customer("globex").await);
    let van = world.vehicle(acme, "v-1").await;
    a_row_in_each_table(&world, acme, van).await;

    for path in ["/api/v1/vehicles", "/api/v1/geofences", "/api/v1/gps-positions/recent"] {
        assert_eq!(world.get(acme, path).await.body.as_array().unwrap().len(), 1, "{path}");
        assert_eq!(world.get(globex, path).await.body.as_array().unwrap().len(), 0, "{path}");
    }
    let recent = format!("/api/v1/gps-positions/recent?vehicle_id={van}");
    assert_eq!(world.get(globex, &recent).await.body.as_array().unwrap().len(), 0);

    // A position for the neighbour's vehicle, and one that names its tenant in the body.
    let position = format!(r#"{{"vehicle_id":"{van}","time":"2026-01-01T00:00:00Z","latitude":1,"longitude":2}}"#);
    assert_eq!(world.post(globex, "/api/v1/gps-positions", &position).await.status, 422);
    let named = position.replace('{', &format!(r#"{{"customer_id":"{acme}","#));
    assert_eq!(world.post(globex, "/api/v1/gps-positions", &named).await.status, 422);
    assert_eq!(world.count("gps_positions").await, 1);

    // Past the application, but in its role: each table refuses the neighbour's rows.
    let session = world.postgres.connect("berth_app").await;
    for (table, key) in TABLES {
        session.batch_execute(&format!("begin; set local app.current_customer_id = '{globex}'")).await.unwrap();
        let touched = session.execute(&format!("delete from {table} where {key} = $1"), &[&acme]).await.unwrap();
        assert_eq!(touched, 0, "{table}");
        let planted = session
            .execute(
                &format!("insert into {table} select (jsonb_populate_record(null::{table}, $1)).*"),
                &[&serde_json::json!({ key: acme, "id": acme })],
            )
            .await
            .expect_err("a row for the neighbour");
        let code = planted.code().unwrap().code().to_owned();
        // Which of the two comes first is the server's choice; both keep the row out.
        assert!(["42501", "23502"].contains(&code.as_str()), "{table}: {planted:?}");
        session.batch_execute("rollback").await.unwrap();
    }
}

#[tokio::test]
async fn a_tenant_whose_writes_wait_for_each_other_leaves_its_neighbours_their_connections() {
    // Two connections in all.
    let world = Fleet::told(&[("DATABASE_QUEUE_TARGET_MS", "20000")]).await;
    let (acme, globex) = (world.customer("acme").await, world.customer("globex").await);
    // Another copy of the program is at it.
    let other = world.postgres.connect("berth_app").await;
    other.batch_execute(&format!("begin; select pg_advisory_xact_lock(hashtextextended('{acme}', 0))")).await.unwrap();
    let adds = async |n: u32| {
        let body = format!(r#"{{"name":"Van","vehicle_identifier":"v-{n}","vehicle_type":"van"}}"#);
        world.post(acme, "/api/v1/vehicles", &body).await.status
    };
    let meanwhile = async {
        world.sessions("wait_event = 'advisory'", 1).await;
        for _ in 0..10 {
            assert_eq!(world.get(globex, "/api/v1/vehicles").await.status, 200);
        }
        world.sessions("wait_event = 'advisory'", 1).await;
        other.batch_execute("commit").await.unwrap();
    };
    let (a, b, c, d, ()) = tokio::join!(adds(1), adds(2), adds(3), adds(4), meanwhile);
    assert_eq!([a, b, c, d], [201; 4]);
}

#[tokio::test]
async fn a_request_without_a_known_tenant_is_refused() {
    let world = Fleet::start().await;
    let stranger = Uuid::new_v4();
    for path in ["/api/v1/status", "/api/v1/vehicles", "/api/v1/geofences", "/api/v1/gps-positions/recent"] {
        assert_eq!(world.request(&format!("GET {path} HTTP/1.1\r\n"), "").await.status, 400, "{path}");
        let answer = world.request(&format!("GET {path} HTTP/1.1\r\nBerth-Tenant: acme\r\n"), "").await;
        assert_eq!((answer.status, &answer.body["code"]), (400, &"bad_tenant".into()), "{path}");
        let answer = world.get(stranger, path).await;
        assert_eq!((answer.status, &answer.body["code"]), (404, &"unknown_tenant".into()), "{path}");
    }
    let position = format!(r#"{{"vehicle_id":"{stranger}","time":"2026-01-01T00:00:00Z","latitude":1,"longitude":2}}"#);
    for (path, body) in [
        ("/api/v1/gps-positions", position.as_str()),
        ("/api/v1/vehicles", r#"{"name":"a","vehicle_identifier":"b"}"#),
        ("/api/v1/geofences", r#"{"name":"a","kind":"circle","latitude":1,"longitude":2,"radius_meters":3}"#),
    ] {
        let answer = world.post(stranger, path, body).await;
        assert_eq!((answer.status, &answer.body["code"]), (404, &"unknown_tenant".into()), "{path}");
    }
}

#[tokio::test]
async fn the_hooks_lead_a_tenant_through_its_life_and_may_run_twice() {
    let world = Fleet::start().await;
    let (acme, other) = (world.customer("acme").await, world.customer("other").await);
    let van = world.vehicle(acme, "v-1").await;
    a_row_in_each_table(&world, acme, van).await;
    let status = async || {
        let body = world.get(acme, "/api/v1/status").await.body;
        (body["customer"]["status"].as_str().unwrap().to_owned(), body["customer"]["plan"].as_str().unwrap().to_owned())
    };
    for (hook, expected) in [
        (include_str!("../../hooks/tenant_create.sql"), ("active", "starter")),
        (include_str!("../../hooks/tenant_suspend.sql"), ("suspended", "starter")),
        (include_str!("../../hooks/tenant_resume.sql"), ("active", "starter")),
        (&include_str!("../../hooks/tenant_plan.sql").replace(":plan", "'business'"), ("active", "business")),
    ] {
        for _ in 0..2 {
            world.hook(hook, acme, "acme").await;
            assert_eq!(status().await, (expected.0.to_owned(), expected.1.to_owned()), "{hook}");
        }
    }
    for _ in 0..2 {
        world.hook(include_str!("../../hooks/tenant_delete.sql"), acme, "acme").await;
        for (table, key) in TABLES {
            let left = world.admin.query(&format!("select from {table} where {key} = $1"), &[&acme]).await.unwrap();
            assert!(left.is_empty(), "{table} keeps rows of a deleted tenant");
        }
    }
    assert_eq!(world.get(other, "/api/v1/status").await.status, 200);
    let app = world.postgres.connect("berth_app").await;
    let refused = app.execute("select customer_delete($1)", &[&other]).await.expect_err("only the owner may");
    assert_eq!(refused.code().unwrap().code(), "42501");
}

#[tokio::test]
async fn migrate_twice_changes_nothing() {
    let world = Fleet::start().await;
    let fingerprint = "select md5(string_agg(x, '|' order by x)) from (
        select c.oid::text || c.relname || c.relfilenode || c.relrowsecurity as x from pg_class c
         where relnamespace = 'public'::regnamespace
        union all select polrelid::text || oid || polname from pg_policy
        union all select conrelid::text || oid || conname from pg_constraint) as parts";
    let before: String = world.admin.query_one(fingerprint, &[]).await.unwrap().get(0);
    let again = fleet("migrate", &world.postgres.url("berth_owner")).output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    let after: String = world.admin.query_one(fingerprint, &[]).await.unwrap().get(0);
    assert_eq!(before, after);
}

#[tokio::test]
async fn two_migrations_of_an_empty_database_at_once_both_succeed() {
    let postgres = Postgres::start().await;
    let url = postgres.url("berth_owner");
    let both = [(); 2].map(|()| fleet("migrate", &url).stderr(Stdio::piped()).spawn().unwrap());
    for one in both {
        let ended = one.wait_with_output().unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
}

/// The headers of an edge that has this key.
fn signed(tenant: Uuid, key: &str, age_s: u64) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() - age_s;
    let (generation, id) = (3, Uuid::new_v4());
    let mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(key.as_bytes()).unwrap();
    let mac = mac.chain_update(format!("{tenant}\n{generation}\n{id}\n{now}")).finalize().into_bytes();
    let hex = mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
    format!(
        "Berth-Tenant: {tenant}\r\nBerth-Generation: {generation}\r\nX-Request-Id: {id}\r\n\
         Berth-Signature: t={now},v1={hex}\r\n"
    )
}

#[tokio::test]
async fn with_a_key_only_what_the_edge_has_signed_is_anybodys_request() {
    const KEY: &str = "0123456789abcdef0123456789abcdef";
    let world = Fleet::told(&[("BERTH_SIGNATURE_KEY", KEY)]).await;
    let (acme, other) = (world.customer("acme").await, world.customer("other").await);
    let status = async |headers: &str| {
        let answer = world.request(&format!("GET /api/v1/status HTTP/1.1\r\n{headers}"), "").await;
        (answer.status, answer.body["code"].as_str().map(str::to_owned))
    };
    assert_eq!(status(&signed(acme, KEY, 0)).await, (200, None));
    assert_eq!(status(&signed(acme, KEY, 30)).await, (200, None));
    let refused = (403, Some("unproved".to_owned()));
    assert_eq!(status(&format!("Berth-Tenant: {acme}\r\n")).await, refused);
    assert_eq!(status(&signed(acme, KEY, 90)).await, refused);
    assert_eq!(status(&signed(acme, "a key that somebody has made up....", 0)).await, refused);
    assert_eq!(status(&signed(acme, KEY, 0).replace(&acme.to_string(), &other.to_string())).await, refused);
    // Writes as well; the health path and the WebSocket are asked by who has no tenant.
    let body = r#"{"name":"Van","vehicle_identifier":"v-1","vehicle_type":"van"}"#;
    assert_eq!(world.post(acme, "/api/v1/vehicles", body).await.status, 403);
    assert_eq!(world.count("vehicles").await, 0);
    let (mut socket, mut said) = (world.connect().await, String::new());
    socket.write_all(b"GET /socket HTTP/1.1\r\nHost: fleet\r\nConnection: close\r\n\r\n").await.unwrap();
    socket.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 400"), "no WebSocket, and no refusal: {said}");
    assert_eq!(world.request("GET /health HTTP/1.1\r\n", "").await.status, 200);
    // Without a key nothing is looked at.
    let open = Fleet::start().await;
    let acme = open.customer("acme").await;
    assert_eq!(open.get(acme, "/api/v1/status").await.status, 200);
}

#[test]
fn a_key_that_is_too_short_is_refused_at_the_start_without_being_shown() {
    let refused = fleet("serve", "postgres://nobody@127.0.0.1:1/none").env("BERTH_SIGNATURE_KEY", "hunter2").output();
    let refused = refused.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("BERTH_SIGNATURE_KEY is shorter than 32"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
