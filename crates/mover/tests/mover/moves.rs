//! A tenant moves while it is written; what must hold afterwards.

use crate::common::{self, MemoryOwnership, Two, Watch, rows_of, run_move, until_built};
use berth_domain::MovePhase;
use berth_infra::Role;
use berth_mover::{MoveError, Obstacle, Progress};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_tenant_arrives_whole_and_its_neighbour_stays() {
    let two = Two::filled(5_000).await;
    let source = two.client(&two.source, Role::Mover).await;
    let target = two.client(&two.target, Role::Mover).await;
    for side in [&source, &target] {
        side.batch_execute(
            "alter table positions add constraint \"Late one\" unique (event_id, at) include (lat) deferrable initially deferred;
             alter table positions add unique nulls not distinct (event_id, vehicle_id) with (fillfactor = 70);
             alter table positions add exclude using btree (event_id with =) where (lat > 80)",
        )
        .await
        .unwrap();
    }
    let before = rows_of(&source, two.tenant).await;
    let ownership = MemoryOwnership::new();
    let cut = run_move(&two.spec(), &ownership).await.unwrap();
    assert_eq!(cut.rows_verified, 5_000 + 10 + 5 + 1);
    assert_eq!(rows_of(&target, two.tenant).await, before);
    assert!(rows_of(&target, two.neighbour).await.is_empty());
    let row = ownership.row();
    assert_eq!((row.phase, row.holding, row.generation.get()), (MovePhase::Idle, false, 2));
    let built = "select indexdef from pg_indexes where schemaname = 'public'
                 union all select conname || ' ' || pg_get_constraintdef(oid) || ' ' || convalidated from pg_constraint
                 where connamespace = 'public'::regnamespace order by 1";
    let (here, there) = (source.query(built, &[]).await.unwrap(), target.query(built, &[]).await.unwrap());
    let texts = |rows: &[tokio_postgres::Row]| rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>();
    assert!(texts(&here).iter().any(|text| text.contains("Late one") && text.contains("INITIALLY DEFERRED")));
    assert_eq!(texts(&there), texts(&here), "the bare load put every index and constraint back as it was");
    let analysed = "select last_analyze is not null from pg_stat_user_tables where relname = 'positions'";
    assert!(target.query_one(analysed, &[]).await.unwrap().get::<_, bool>(0), "a table loaded bare has no statistics");
    let slots: i64 = source.query_one("select count(*) from pg_replication_slots", &[]).await.unwrap().get(0);
    assert_eq!(slots, 0);
}

/// A view may stand on a primary key and a function on a constraint's name; a comment hangs on an index. Such tables keep theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_keys_something_else_hangs_on_is_loaded_with_them() {
    let two = Two::filled(50).await;
    for database in [&two.source, &two.target] {
        let hung = "create view rides as select v.*, count(p.id) from vehicles v left join positions p on p.vehicle_id = v.id group by v.id;
            create function count_once(whose uuid) returns void language sql begin atomic
                insert into counters (customer_id, amount) values (whose, 1) on conflict on constraint counters_pkey do nothing; end;
            comment on index positions_by_vehicle is 'for the map'";
        two.client(database, Role::Owner).await.batch_execute(hung).await.unwrap();
    }
    let mut spec = two.spec();
    spec.tuning.bare_load_rows = 1;
    run_move(&spec, &MemoryOwnership::new()).await.unwrap();
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    assert_eq!(rows_of(&target, two.tenant).await, rows_of(&source, two.tenant).await);
    let said = "select obj_description('positions_by_vehicle'::regclass, 'pg_class')";
    assert_eq!(target.query_one(said, &[]).await.unwrap().get::<_, Option<String>>(0).as_deref(), Some("for the map"));
    let rides = "select sum(count)::bigint from rides where customer_id = $1";
    assert_eq!(target.query_one(rides, &[&two.tenant]).await.unwrap().get::<_, i64>(0), 50);
}

/// Writes through whichever side takes it, past the edge, and remembers what was acknowledged.
async fn writer(two: Arc<Two>, stop: Arc<AtomicBool>) -> (Vec<Uuid>, u64) {
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    let clients = [two.client(&two.source, Role::App).await, two.client(&two.target, Role::App).await];
    let mut at = 0;
    let mut n = 0_u32;
    while !stop.load(Ordering::SeqCst) {
        n += 1;
        let event = Uuid::new_v4();
        let written = clients[at]
            .execute(
                "insert into positions (customer_id, vehicle_id, event_id, lat)
                 select $1, id, $2, 1.5 from vehicles where customer_id = $1 order by label limit 1",
                &[&two.tenant, &event],
            )
            .await;
        match written {
            Ok(1) => acknowledged.push(event),
            // The target has no vehicles yet: not this tenant's home.
            Ok(_) => at = 0,
            Err(error) if error.code().is_some_and(|c| c.code() == "BF001") => {
                refused += 1;
                at = 1 - at;
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("{error:?}"),
        }
        if n.is_multiple_of(7) {
            let _ = clients[at]
                .execute(
                    "update vehicles set odometer = odometer + 1 where customer_id = $1 and label = 'v3'",
                    &[&two.tenant],
                )
                .await;
            let _ = clients[at]
                .execute("delete from positions where id in (select id from positions where customer_id = $1 and note is not null limit 1)", &[&two.tenant])
                .await;
        }
    }
    (acknowledged, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_write_is_lost_or_doubled_past_the_edge() {
    let two = Arc::new(Two::filled(20_000).await);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4).map(|_| tokio::spawn(writer(Arc::clone(&two), Arc::clone(&stop)))).collect();
    let ownership = MemoryOwnership::new();
    let cut = run_move(&two.spec(), &ownership).await.unwrap();
    let target = two.client(&two.target, Role::Mover).await;
    // Writers go on at the new home until each has been there.
    let count = "select count(*) from positions where customer_id = $1 and lat = 1.5";
    let at_cut: i64 = target.query_one(count, &[&two.tenant]).await.unwrap().get(0);
    berth_testkit::wait_until(
        "writers write to the new home",
        || async { target.query_one(count, &[&two.tenant]).await.unwrap().get::<_, i64>(0) },
        |now| *now > at_cut + 20,
    )
    .await;
    stop.store(true, Ordering::SeqCst);
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for writer in writers {
        let (written, refusals) = writer.await.unwrap();
        acknowledged.extend(written);
        refused += refusals;
    }
    let rows = target
        .query(
            "select event_id, count(*) from positions where customer_id = $1 and lat = 1.5 group by 1",
            &[&two.tenant],
        )
        .await
        .unwrap();
    let found: std::collections::HashMap<Uuid, i64> = rows.iter().map(|r| (r.get(0), r.get(1))).collect();
    let missing = acknowledged.iter().filter(|e| !found.contains_key(e)).count();
    let doubled = found.values().filter(|n| **n != 1).count();
    assert_eq!((missing, doubled, found.len()), (0, 0, acknowledged.len()));
    assert!(refused > 0, "the fence refused nobody: the test met no cut-over");
    assert!(cut.rows_verified >= 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_the_commit_ends_in_one_owner() {
    for stored in [true, false] {
        let two = Two::filled(500).await;
        let ownership = MemoryOwnership::new();
        let switch = if stored { &ownership.lose_commit_answer } else { &ownership.lose_commit };
        switch.store(true, Ordering::SeqCst);
        run_move(&two.spec(), &ownership).await.unwrap();
        let row = ownership.row();
        assert_eq!((row.owner, row.phase), (two.spec().target_cell, MovePhase::Idle));
        let target = two.client(&two.target, Role::App).await;
        let source = two.client(&two.source, Role::App).await;
        let write = "update customers set name = 'after' where id = $1";
        assert_eq!(target.execute(write, &[&two.tenant]).await.unwrap(), 1);
        let refused = source.execute(write, &[&two.tenant]).await.unwrap_err();
        assert_eq!(refused.code().map(|c| c.code().to_owned()).as_deref(), Some("BF001"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_opened_before_the_move_is_refused_after_it_at_every_isolation_level() {
    let two = Two::filled(200).await;
    let mut opened = Vec::new();
    for level in ["read committed", "repeatable read", "serializable"] {
        let client = two.client(&two.source, Role::App).await;
        client.batch_execute(&format!("begin isolation level {level}")).await.unwrap();
        client.query("select count(*) from customers", &[]).await.unwrap();
        opened.push((level, client));
    }
    run_move(&two.spec(), &MemoryOwnership::new()).await.unwrap();
    for (level, client) in opened {
        let refused = client
            .execute("update vehicles set label = label || '!' where customer_id = $1", &[&two.tenant])
            .await
            .unwrap_err();
        let db = refused.as_db_error().unwrap();
        assert_eq!(db.code().code(), "BF001", "{level}");
        assert_eq!(db.detail(), Some("generation=2"), "{level}");
        assert!(db.message().contains("moved to generation 2"), "{level}: {}", db.message());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_transaction_of_the_tenant_delays_the_pause_and_refuses_nobody() {
    let two = Arc::new(Two::filled(3_000).await);
    let spec = two.spec();
    let ownership = Arc::new(MemoryOwnership::new());
    let watch = Watch::default();
    let plan = berth_mover::plan(&spec).await.unwrap();
    let row = berth_mover::begin(&spec, &*ownership).await.unwrap();
    berth_mover::prepare(&spec, &plan, row, &*ownership).await.unwrap();
    let copied = berth_mover::copy(&spec, &plan, row.token, &watch).await.unwrap();
    assert_eq!(copied.rows as i64, plan.rows);
    berth_mover::build(&spec, &plan, row.token, &watch).await.unwrap();
    let client = two.client(&two.source, Role::App).await;
    client.batch_execute("begin").await.unwrap();
    client.execute("update customers set name = 'long' where id = $1", &[&two.tenant]).await.unwrap();
    let cutting = {
        let (spec, plan, ownership) = (spec.clone(), plan.clone(), Arc::clone(&ownership));
        tokio::spawn(async move {
            let watch = Watch::default();
            let cut = berth_mover::cut_over(&spec, &plan, &*ownership, &common::NoEdges, &watch).await;
            (cut, watch.seen.into_inner().unwrap())
        })
    };
    // The transaction ends only after the gate has been seen to wait for it.
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    client.batch_execute("commit").await.unwrap();
    let (cut, seen) = cutting.await.unwrap();
    assert!(cut.unwrap().attempts > 1);
    assert!(
        seen.iter().any(|p| p.note.as_deref().is_some_and(|n| n.contains("has been open for"))),
        "{:?}",
        seen.iter().filter_map(|p| p.note.clone()).collect::<Vec<_>>()
    );
    let waiting: Vec<&Progress> = seen.iter().filter(|p| p.attempts.is_some()).collect();
    assert!(!waiting.is_empty());
    assert!(
        waiting.iter().all(|p| p.open_keys.is_some() && p.rows_done.is_some_and(|rows| rows >= 3_000)),
        "{waiting:?}"
    );
    let target = two.client(&two.target, Role::Mover).await;
    let name: String =
        target.query_one("select name from customers where id = $1", &[&two.tenant]).await.unwrap().get(0);
    assert_eq!(name, "long");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_said_all_at_once_and_nothing_is_touched() {
    let two = Two::filled(10).await;
    let source = two.client(&two.source, Role::Owner).await;
    source
        .batch_execute(
            "create table loose (vehicle_id uuid references vehicles, note text);
             create unlogged table scratch (id int primary key, customer_id uuid);
             alter table counters drop constraint counters_pkey;",
        )
        .await
        .unwrap();
    let Err(MoveError::Obstacles(all)) = berth_mover::plan(&two.spec()).await else { panic!("a plan was made") };
    let has = |wanted: fn(&Obstacle) -> bool| assert!(all.iter().any(wanted), "{all:#?}");
    has(|o| matches!(o, Obstacle::NoIdentity { table } if table.name == "loose"));
    has(|o| matches!(o, Obstacle::Unlogged { table } if table.name == "scratch"));
    has(|o| matches!(o, Obstacle::NoIdentity { table } if table.name == "counters"));
    has(|o| matches!(o, Obstacle::NoTable { table, .. } if table.name == "scratch"));
    assert!(all.iter().all(|o| !o.hint().is_empty()));
    let schema: bool = source.query_one("select to_regclass('berth.fence') is null", &[]).await.unwrap().get(0);
    assert!(schema, "planning left something behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_given_up_leaves_the_tenant_where_it_was_and_can_be_made_again() {
    let two = Two::filled(3_000).await;
    let spec = two.spec();
    let ownership = MemoryOwnership::new();
    let watch = Watch::default();
    let plan = berth_mover::plan(&spec).await.unwrap();
    let row = berth_mover::begin(&spec, &ownership).await.unwrap();
    berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap();
    berth_mover::copy(&spec, &plan, row.token, &watch).await.unwrap();
    let target = two.client(&two.target, Role::Mover).await;
    let file =
        async || -> u32 { target.query_one("select pg_relation_filenode('positions')", &[]).await.unwrap().get(0) };
    let loaded = file().await;
    let token = berth_mover::give_up(&spec, &ownership).await.unwrap();
    berth_mover::retire(&spec, &plan, false, token).await.unwrap();
    assert!(rows_of(&target, two.tenant).await.is_empty());
    assert_ne!(file().await, loaded, "rows without keys were deleted one by one, and their room is not given back");
    let source = two.client(&two.source, Role::App).await;
    assert_eq!(source.execute("update customers set name = 'still' where id = $1", &[&two.tenant]).await.unwrap(), 1);
    let left: i64 = source
        .query_one("select (select count(*) from pg_replication_slots) + (select count(*) from pg_publication)", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(left, 0);
    run_move(&two.spec(), &ownership).await.unwrap();
}

/// Keys are built, and so the fence there is up for everybody but who built them.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_another_login_built_is_given_up() {
    let two = Two::filled(300).await;
    let (spec, ownership) = (two.spec(), MemoryOwnership::new());
    let (plan, _) = until_built(&spec, &ownership).await;
    let (source, target) = (two.client(&two.source, Role::Mover).await, two.client(&two.target, Role::Mover).await);
    source.batch_execute("create role another_mover superuser login password 'x'").await.unwrap();
    let mut by_another = spec.clone();
    for end in [&mut by_another.source, &mut by_another.target] {
        (end.user, end.password) = ("another_mover".into(), secrecy::SecretString::from("x"));
    }
    assert!(!rows_of(&target, two.tenant).await.is_empty());
    // As after a dump without comments: whom the fence lets through, its functions say.
    target.batch_execute("comment on schema berth is null").await.unwrap();
    let token = berth_mover::give_up(&by_another, &ownership).await.unwrap();
    berth_mover::retire(&by_another, &plan, false, token).await.unwrap();
    assert!(rows_of(&target, two.tenant).await.is_empty());
    assert_eq!(ownership.row().owner, spec.source_cell);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_row_in_the_target_is_found_before_it_opens() {
    for damage in [
        "update positions set lat = -0.0 where lat = 0.1 * 3",
        "update vehicles set label = label || ' ' where label = 'v5'",
        "delete from positions where lat = 0.1 * 7",
        "insert into positions (customer_id, vehicle_id, event_id, lat) select customer_id, id, gen_random_uuid(), 1 from vehicles limit 1",
        "update counters set amount = amount + 1 where amount = 2",
    ] {
        let two = Two::filled(1_500).await;
        let spec = two.spec();
        let ownership = MemoryOwnership::new();
        let watch = Watch::default();
        let plan = berth_mover::plan(&spec).await.unwrap();
        let row = berth_mover::begin(&spec, &ownership).await.unwrap();
        berth_mover::prepare(&spec, &plan, row, &ownership).await.unwrap();
        berth_mover::copy(&spec, &plan, row.token, &watch).await.unwrap();
        berth_mover::build(&spec, &plan, row.token, &watch).await.unwrap();
        let target = two.client(&two.target, Role::Mover).await;
        assert!(target.execute(damage, &[]).await.unwrap() > 0, "{damage} did no damage");
        let cut = berth_mover::cut_over(&spec, &plan, &ownership, &common::NoEdges, &watch).await;
        assert!(matches!(cut, Err(MoveError::Differs { .. })), "{damage}: {cut:?}");
        assert_eq!(ownership.row().owner, spec.source_cell);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn giving_up_a_move_that_is_over_takes_nothing_away() {
    let two = Two::filled(300).await;
    let spec = two.spec();
    let ownership = MemoryOwnership::new();
    run_move(&spec, &ownership).await.unwrap();
    let target = two.client(&two.target, Role::Mover).await;
    let rows = rows_of(&target, two.tenant).await;
    let given_up = berth_mover::give_up(&spec, &ownership).await;
    assert!(matches!(given_up, Err(MoveError::AlreadyMoved)), "{given_up:?}");
    // Somebody who does not ask first is stopped by the fence itself.
    let plan = berth_mover::plan(&spec).await;
    let Err(MoveError::Obstacles(found)) = plan else { panic!("the target holds the rows: {plan:?}") };
    assert!(found.iter().any(|o| matches!(o, Obstacle::RowsInTarget { .. })));
    assert_eq!(rows_of(&target, two.tenant).await, rows);
}
