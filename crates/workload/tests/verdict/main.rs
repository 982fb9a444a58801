//! The verdict turns red for each single fault, planted in a real Postgres or by a real server.
//!
//! The application's part is played by a few lines of our own, so that it can be made to lie.

#![allow(clippy::unwrap_used, reason = "a helper of a test ends the test, like the test itself")]

#[path = "../../../../apps/fleet/tests/contract/common/postgres.rs"]
#[allow(dead_code, reason = "the application's tests need more of it than these")]
mod postgres;
mod world;

use berth_workload::{
    Amounts, Class, FenceWrite, Findings, Load, LoadConfig, LoadError, MoveFigures, Phase, SeedError, Target, Verdict,
    check, check_stock, foreign_rows, ledger::Ledger, seed, take_stock,
};
use uuid::Uuid;
use world::{Fault, World};

/// The move that a run claims to have made; its figures are not what these tests are about.
fn moved() -> Vec<MoveFigures> {
    let rows = Some(1);
    vec![MoveFigures { tenant: "acme".into(), rows, rows_verified: rows, duration_s: Some(1.0), ..Default::default() }]
}

#[tokio::test]
async fn a_run_without_a_fault_is_green() {
    let world = World::start().await;
    let report = world.run(Fault::None).await;
    let findings = check(&report.ledger, &world.places()).await.unwrap();
    let stored =
        world.count("gps_positions where event_id is not null and speed is not null and heading is null").await;
    assert!(findings.is_clean(), "{findings:?}");
    assert!(findings.acknowledged > 50 && stored >= findings.acknowledged as i64, "{findings:?}, {stored} stored");
    assert!(findings.rows_checked > findings.acknowledged, "the former database was not looked at: {findings:?}");
    assert_eq!(report.failed, 0);
    let verdict = Verdict::new(&report, moved(), Some(&findings));
    assert!(verdict.is_green(), "{}", verdict.table());
    assert!(verdict.latency.movers.before.p99_ms.is_some() && verdict.latency.movers.during.p99_ms.is_none());
}

#[tokio::test]
async fn one_lost_one_doubled_and_one_changed_row_each_turn_the_verdict_red() {
    let world = World::start().await;
    let report = world.run(Fault::None).await;
    let write = report.ledger.writes()[report.ledger.writes().len() / 2];
    let event = write.event;
    let columns = "customer_id, vehicle_id, event_id, time, latitude, longitude, speed, heading, accuracy, altitude";
    for (plant, missing, duplicated, changed) in [
        (format!("delete from gps_positions where event_id = '{event}'"), 1, 0, 0),
        (
            format!(
                "insert into gps_positions ({columns}) select {columns} from gps_positions where event_id = '{event}'"
            ),
            0,
            1,
            0,
        ),
        (format!("update gps_positions set latitude = -latitude where event_id = '{event}'"), 0, 0, 1),
        (format!("update gps_positions set time = time + interval '1 us' where event_id = '{event}'"), 0, 0, 1),
        (format!("update gps_positions set speed = null where event_id = '{event}'"), 0, 0, 1),
        (format!("update gps_positions set altitude = 1 where event_id = '{event}'"), 0, 0, 1),
    ] {
        world.admin.batch_execute("create table kept as table gps_positions").await.unwrap();
        assert_eq!(world.admin.execute(&plant, &[]).await.unwrap(), 1, "{plant}");
        let findings = check(&report.ledger, &world.places()).await.unwrap();
        let found = (findings.missing, findings.duplicated, findings.changed);
        assert_eq!(found, (missing, duplicated, changed), "{plant}: {findings:?}");
        assert!(!Verdict::new(&report, moved(), Some(&findings)).is_green(), "{plant}");
        world.put_back("gps_positions").await;
    }
    assert!(check(&report.ledger, &world.places()).await.unwrap().is_clean(), "the plants were not undone");
}

#[tokio::test]
async fn one_replacement_or_removal_that_is_undone_turns_the_verdict_red() {
    let world = World::start().await;
    let load = Load::start(LoadConfig { fence_share: 0.9, ..world.load_config(11) }).unwrap();
    world.offered(&load.handle(), 300).await;
    let report = load.stop().await.unwrap();
    let at = |wanted: fn(u32) -> bool| {
        let found = report.ledger.fences().find(|fence| wanted(fence.revision));
        found.map_or_else(|| panic!("no such step among {:?}", report.ledger.fences().collect::<Vec<_>>()), |f| f.fence)
    };
    let (made, replaced) = (at(|revision| revision == 0), at(|revision| (1..FenceWrite::GONE).contains(&revision)));
    let (removed, old_name) = (at(|revision| revision == FenceWrite::GONE), FenceWrite::name(replaced, 0));
    let resurrect = "insert into geofences (id, customer_id, name, kind, center_lat, center_lng, radius_meters)";
    for (plant, missing, changed) in [
        (format!("update geofences set name = '{old_name}', radius_meters = 100 where id = '{replaced}'"), 0, 1),
        (format!("update geofences set radius_meters = 99 where id = '{replaced}'"), 0, 1),
        (format!("delete from geofences where id = '{made}'"), 1, 0),
        (format!("{resurrect} values ('{removed}', '{}', 'back', 'circle', 1, 1, 1)", world.tenant), 0, 1),
    ] {
        world.admin.batch_execute("create table kept as table geofences").await.unwrap();
        assert_eq!(world.admin.execute(&plant, &[]).await.unwrap(), 1, "{plant}");
        let findings = check(&report.ledger, &world.places()).await.unwrap();
        assert_eq!((findings.missing, findings.changed), (missing, changed), "{plant}: {findings:?}");
        assert!(!Verdict::new(&report, moved(), Some(&findings)).is_green(), "{plant}");
        world.put_back("geofences").await;
    }
}

#[tokio::test]
async fn one_row_of_the_former_database_that_is_gone_or_differs_turns_the_verdict_red() {
    let world = World::start().await;
    let report = world.run(Fault::None).await;
    for (table, column) in [
        ("customers", "metadata = '{\"a\": 1.0}'"),
        ("drivers", "name = name || ' '"),
        ("geofences", "geometry = '{\"coordinates\": 1.50}'"),
        ("sync_updates", "update_data = '\\x00'"),
        ("usage_metrics", "metric_value = (metric_value::text || '0')::numeric"),
        ("gps_positions", "event_id = null"),
    ] {
        let name = column.split_whitespace().next().unwrap();
        let one = format!("ctid = (select min(ctid) from {table} where {name} is not null)");
        let (before, plant) =
            (format!("create table kept as table {table}"), format!("update {table} set {column} where {one}"));
        world.admin.batch_execute(&before).await.unwrap();
        assert_eq!(world.admin.execute(&plant, &[]).await.unwrap(), 1, "{plant}");
        let findings = check(&Ledger::in_memory(), &world.places()).await.unwrap();
        assert_eq!((findings.missing, findings.changed), (0, 1), "{plant}: {findings:?}");
        assert!(!Verdict::new(&report, moved(), Some(&findings)).is_green(), "{plant}");
        world.put_back(table).await;
    }
    world.admin.batch_execute("delete from routes where ctid = (select min(ctid) from routes)").await.unwrap();
    let findings = check(&Ledger::in_memory(), &world.places()).await.unwrap();
    assert_eq!((findings.missing, findings.changed), (1, 0), "{findings:?}");
}

#[tokio::test]
async fn one_row_from_before_the_load_that_is_gone_or_differs_is_found_without_a_former_database() {
    let world = World::start().await;
    let mut place = world.places().remove(0);
    place.former = None;
    let stock = take_stock(&place).await.unwrap();
    let report = world.run(Fault::None).await;
    let looked = async || {
        let mut findings = Findings::default();
        check_stock(&place, &stock, &mut findings).await.unwrap();
        findings
    };
    let clean = looked().await;
    assert!(clean.is_clean() && report.ledger.acknowledged() > 0, "{clean:?}");
    assert!(clean.rows_checked > 500 + 5 + 5 + 6 * 10, "{clean:?}");
    for (table, plant, found) in [
        ("drivers", "update drivers set name = name || ' '", (0, 1)),
        ("routes", "delete from routes", (1, 1)),
        ("gps_positions", "update gps_positions set altitude = 1", (1, 2)),
        ("usage_metrics", "update usage_metrics set id = gen_random_uuid()", (2, 2)),
    ] {
        let plant = format!("{plant} where ctid = (select min(ctid) from {table})");
        assert_eq!(world.admin.execute(&plant, &[]).await.unwrap(), 1, "{plant}");
        let findings = looked().await;
        assert_eq!((findings.missing, findings.changed), found, "{plant}: {findings:?}");
    }
}

#[tokio::test]
async fn one_swallowed_error_turns_the_verdict_red() {
    let world = World::start().await;
    let report = world.run(Fault::AnswerOnce(500)).await;
    assert_eq!(report.failed, 1, "{:?}", report.failures);
    let failure = &report.failures[0];
    assert_eq!((failure.status.unwrap().as_u16(), failure.said.as_str()), (500, "planted"));
    let findings = check(&report.ledger, &world.places()).await.unwrap();
    assert!(findings.is_clean(), "what was not acknowledged is not looked for: {findings:?}");
    let verdict = Verdict::new(&report, moved(), Some(&findings));
    assert!(!verdict.is_green() && verdict.table().contains("500: planted"), "{}", verdict.table());
}

#[tokio::test]
async fn one_acknowledgement_without_a_row_turns_the_verdict_red() {
    let world = World::start().await;
    let report = world.run(Fault::LieOnce).await;
    assert_eq!(report.failed, 0);
    let findings = check(&report.ledger, &world.places()).await.unwrap();
    assert!(findings.missing >= 1, "{findings:?}");
    assert!(!Verdict::new(&report, moved(), Some(&findings)).is_green());
}

#[tokio::test]
async fn one_row_stored_twice_without_an_acknowledgement_is_found_too() {
    let world = World::start().await;
    let report = world.run(Fault::StoreTwiceAndAnswerOnce(503)).await;
    assert_eq!(report.failed, 1);
    let findings = check(&report.ledger, &world.places()).await.unwrap();
    assert!(findings.duplicated >= 1 && findings.missing == 0, "{findings:?}");
}

#[tokio::test]
async fn refusals_and_silence_count_as_failed_and_as_a_gap() {
    let world = World::start().await;
    for status in [429, 503, 301] {
        assert_eq!(world.run(Fault::AnswerOnce(status)).await.failed, 1, "{status}");
    }
    let report = world.run(Fault::SilentOnce).await;
    assert_eq!(report.failed, 1);
    assert!(report.failures[0].status.is_none() && report.failures[0].said.contains("5s"), "{:?}", report.failures);
}

#[tokio::test]
async fn the_same_seed_offers_the_same_events_and_makes_the_same_rows() {
    let world = World::start().await;
    let (one, two) = (world.run_with(Fault::None, 7).await, world.run_with(Fault::None, 7).await);
    let events = |ledger: &Ledger| -> Vec<_> {
        ledger.writes().iter().map(|write| (write.event, write.vehicle, write.latitude_e6)).collect()
    };
    let (first, second) = (events(&one.ledger), events(&two.ledger));
    assert!(first[..20].iter().all(|event| second.contains(event)), "{first:?}, {second:?}");
    // And sent twice into one database, each of them is a double.
    let mut both = one.ledger;
    both.merge(&two.ledger);
    let findings = check(&both, &world.places()).await.unwrap();
    assert!(findings.duplicated >= 20, "{findings:?}");
    assert_eq!(world.digest(&world.admin, "routes").await, world.digest(&world.former, "routes").await);
}

#[tokio::test]
async fn rows_of_other_tenants_in_a_dedicated_cell_are_counted() {
    let world = World::start().await;
    assert_eq!(foreign_rows(&world.owner_config(), &[world.tenant]).await.unwrap(), 0);
    let stranger = Uuid::new_v4();
    world.customer(&world.admin, stranger, "globex").await;
    assert_eq!(foreign_rows(&world.owner_config(), &[world.tenant]).await.unwrap(), 1);
    assert_eq!(foreign_rows(&world.owner_config(), &[world.tenant, stranger]).await.unwrap(), 0);
}

#[tokio::test]
async fn what_cannot_be_checked_is_an_error_and_no_clean_finding() {
    let world = World::start().await;
    let report = world.run(Fault::None).await;
    check(&report.ledger, &[]).await.expect_err("a ledger whose database nobody named");
    // A role under row security would see nothing and find nothing wrong.
    let mut places = world.places();
    places[0].owner.user("berth_app");
    check(&report.ledger, &places).await.expect_err("a role that row security hides rows from");
    let mut client = world.postgres.connect("postgres").await;
    let refused = seed(&mut client, Uuid::new_v4(), Amounts::default(), 1).await;
    assert!(matches!(refused, Err(SeedError::NoSuchTenant { .. })));
}

#[tokio::test]
async fn a_move_splits_latency_and_gap_into_its_time_and_the_rest() {
    let world = World::start().await;
    let load = world.load(3);
    let handle = load.handle();
    world.offered(&handle, 50).await;
    handle.move_begins("acme").unwrap();
    world.offered(&handle, 100).await;
    let gap_ms = handle.move_ends("acme").unwrap();
    world.offered(&handle, 150).await;
    assert!(matches!(handle.move_begins("nobody"), Err(LoadError::NoSuchTarget { .. })));
    let report = load.stop().await.unwrap();
    let verdict = Verdict::new(&report, moved(), None);
    let movers = &verdict.latency.movers;
    assert!(movers.before.p50_ms.is_some() && movers.during.p50_ms.is_some());
    assert_eq!(verdict.latency.neighbours.during.p50_ms, None, "there are none");
    assert!(report.latency.quantile_ms(Class::Mover, Phase::After, 0.5).is_some());
    assert!(gap_ms > 0.0);
    assert!((report.tenants[0].client_gap_ms - gap_ms).abs() < f64::EPSILON, "the gap of the move is the one reported");
}

#[tokio::test]
async fn a_mover_that_waits_for_its_turn_is_not_before_any_more() {
    let world = World::start().await;
    let mut config = world.load_config(13);
    let other = Target { name: "globex".into(), weight: 0.001, class: Class::Neighbour, ..config.targets[0].clone() };
    config.targets.push(other);
    let load = Load::start(config).unwrap();
    let handle = load.handle();
    handle.move_begins("globex").unwrap();
    let (_, answered, _) = handle.counts();
    world.offered(&handle, answered + 50).await;
    let report = load.stop().await.unwrap();
    assert!(report.latency.quantile_ms(Class::Mover, Phase::After, 0.5).is_some());
    let before = report.latency.len(Class::Mover, Phase::Before);
    assert!(before <= answered, "{before} counted as before, {answered} were answered by then");
}
