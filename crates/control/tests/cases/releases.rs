//! Releases over three cells, with a whole server at work and a provider whose failures are chosen.

use crate::{
    upkeep::serving,
    world::{STACK, World, artifact, change, read},
};
use berth_control::{ControlError, Kind, ReleaseError, WorkerOptions, moves, releases, serve};
use berth_domain::{CellName, EdgeId, MemberId, MoveId, OperationId, RollCellState, RollState, ServiceRole};
use berth_infra::{Call, Fault, MemberName, RunOutcome, Source};
use berth_store::{EdgeSaid, NewMember, Presence};
use berth_testkit::wait_until;
use berth_wire as wire;
use berth_workflow::Journal as _;
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::watch;

const CELLS: &str = "  shared-2: { class: shared, provider: fake, max_tenants: 2 }
  shared-3: { class: shared, provider: fake, max_tenants: 2 }
releases: { canary: shared-2, wave: 2, healthy_limit: 1s }
";

pub async fn three_cells(more: &str) -> World {
    let world = World::new().await;
    world.apply(&format!("{STACK}{CELLS}{more}")).await.unwrap();
    world.finish().await;
    world
}

pub async fn roll(world: &World, release: u32) -> Result<wire::Roll, ControlError> {
    releases::roll(&world.app, &change(), &wire::RollAsk { release, to: Vec::new() }).await
}

async fn status(world: &World) -> wire::ReleaseStatus {
    releases::status(&world.app, &read()).await.unwrap()
}

pub async fn over(world: &World) -> wire::Roll {
    let last = async || status(world).await.roll.unwrap();
    wait_until("the roll is over", last, |roll| roll.state != RollState::Rolling).await
}

/// `cell:release` of each.
async fn runs(world: &World) -> String {
    let cells = status(world).await.cells;
    cells.iter().map(|cell| format!("{}:{}", cell.cell, cell.release)).collect::<Vec<_>>().join(" ")
}

fn failing(exit_code: i32, output: &str) -> RunOutcome {
    RunOutcome { exit_code: Some(exit_code), timed_out: false, output: output.to_owned() }
}

#[tokio::test]
async fn a_release_names_digests_and_the_same_set_is_the_same_release() {
    let world = World::new().await;
    let create = async |service: &str, what: &str| {
        let services = BTreeMap::from([(service.to_owned(), what.to_owned())]);
        releases::create(&world.app, &change(), &wire::ReleaseCreate { services }).await
    };
    let (first, new) = create("web", &artifact("web", 1).to_string()).await.unwrap();
    assert!(new && first.number == 1 && !first.current);
    let (again, new) = create("web", &artifact("web", 1).to_string()).await.unwrap();
    assert!(!new && again.number == 1);
    for (service, what, code, word) in [
        ("web", "registry.test/web:latest", "bad_artifact", "a tag can be moved"),
        ("web", "web@sha256:00", "bad_artifact", "64 of"),
        ("wbe", &*artifact("web", 1).to_string(), "no_service", "`wbe`"),
    ] {
        let refused = create(service, what).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.full().contains(word) && refused.hint().is_some(), "{}", refused.full());
    }
    assert!(matches!(roll(&world, 9).await, Err(ControlError::Release(ReleaseError::NoRelease(9)))));
}

#[tokio::test]
async fn a_release_goes_from_the_canary_to_all_cells_and_back_in_one_command() {
    let world = three_cells("").await;
    let number = world.release(&["web"], 1).await;
    let plan =
        releases::plan_roll(&world.app, &read(), &wire::RollAsk { release: number, to: Vec::new() }).await.unwrap();
    let waves: Vec<Vec<&str>> =
        plan.waves.iter().map(|wave| wave.iter().map(|cell| cell.cell.as_str()).collect()).collect();
    assert_eq!(waves, [vec!["shared-2"], vec!["shared-1", "shared-3"]]);
    let ran = world.fake.runs().len();
    world.fake.next_run(RunOutcome { output: "added a column\n".to_owned(), ..failing(0, "") });
    serving(&world, async {
        let begun = roll(&world, number).await.unwrap();
        assert_eq!(roll(&world, number).await.unwrap().number, begun.number, "asked for again it is the same");
        let ended = over(&world).await;
        assert_eq!((ended.state, ended.reason.as_deref()), (RollState::Done, None));
        assert_eq!(ended.cells[0].output.as_deref(), Some("added a column\n"));
    })
    .await;
    assert_eq!(runs(&world).await, "shared-1:1 shared-2:1 shared-3:1");
    assert_eq!(world.fake.runs().len(), ran + 3, "`migrate` once in each cell");
    let names: Vec<String> =
        (1..=3).flat_map(|cell| (0..2).map(move |copy| format!("shared-{cell}.web.{copy}.r1"))).collect();
    assert_eq!(world.members(None).await, names);
    let name = MemberName::new("shared-1.web.0.r1").unwrap();
    assert!(
        matches!(world.fake.member_source(&name), Some(Source::Artifact { artifact: it, .. }) if it == artifact("web", 1))
    );
    // A cell that is made now runs it from the start.
    world.create("big", "business").await;
    assert!(world.members(None).await.contains(&"big-1.web.0.r1".to_owned()));

    let ran = world.fake.runs().len();
    serving(&world, async {
        releases::back(&world.app, &change(), &wire::BackAsk::default()).await.unwrap();
        assert_eq!(over(&world).await.state, RollState::Done);
    })
    .await;
    assert_eq!(runs(&world).await, "big-1:0 shared-1:0 shared-2:0 shared-3:0");
    assert_eq!(world.fake.runs().len(), ran, "no migration on the way back");
    let nothing = releases::back(&world.app, &change(), &wire::BackAsk::default()).await.unwrap_err();
    assert!(matches!(nothing, ControlError::Release(ReleaseError::NothingBefore)), "{nothing}");
}

#[tokio::test]
async fn the_way_back_of_some_cells_is_what_those_cells_ran() {
    let world = three_cells("").await;
    let (first, second) = (world.release(&["web"], 1).await, world.release(&["web"], 2).await);
    let only = |release: u32| wire::RollAsk { release, to: vec!["shared-1".parse().unwrap()] };
    serving(&world, async {
        for number in [first, second] {
            releases::roll(&world.app, &change(), &only(number)).await.unwrap();
            assert_eq!(over(&world).await.state, RollState::Done);
        }
        assert_eq!(runs(&world).await, "shared-1:2 shared-2:0 shared-3:0");
        releases::back(&world.app, &change(), &wire::BackAsk::default()).await.unwrap();
        assert_eq!(over(&world).await.state, RollState::Done);
        assert_eq!(runs(&world).await, "shared-1:1 shared-2:0 shared-3:0");
        // What had nothing to do is nothing to go back from.
        releases::roll(&world.app, &change(), &only(first)).await.unwrap();
        assert_eq!(over(&world).await.state, RollState::Done);
        let nothing = releases::back(&world.app, &change(), &wire::BackAsk::default()).await.unwrap_err();
        assert_eq!(nothing.code(), "nothing_before", "{nothing}");
    })
    .await;
}

#[tokio::test]
async fn a_migration_that_fails_in_the_second_of_three_cells_stops_there() {
    let world = three_cells("").await;
    world.apply(&format!("{STACK}{}", CELLS.replace("wave: 2", "wave: 1"))).await.unwrap();
    let number = world.release(&["web"], 1).await;
    world.fake.next_run(failing(0, "fine\n"));
    world.fake.next_run(failing(3, "begun\nno such column\n"));
    let before = world.members(None).await;
    let ran = world.fake.runs().len();
    serving(&world, async {
        roll(&world, number).await.unwrap();
        let ended = over(&world).await;
        let reason = ended.reason.unwrap();
        assert_eq!(ended.state, RollState::Stopped);
        for word in ["cell `shared-1`", "ended with 3", "no such column", "1 cells run r1", "2 what they ran before"] {
            assert!(reason.contains(word), "{reason}");
        }
        let states: Vec<_> = ended.cells.iter().map(|cell| (cell.cell.as_str(), cell.state)).collect();
        assert_eq!(
            states,
            [
                ("shared-2", RollCellState::Done),
                ("shared-1", RollCellState::Failed),
                ("shared-3", RollCellState::Waiting)
            ]
        );
        assert_eq!(ended.cells[1].output.as_deref(), Some("begun\nno such column\n"));
    })
    .await;
    assert_eq!(runs(&world).await, "shared-1:0 shared-2:1 shared-3:0");
    assert_eq!(world.fake.runs().len(), ran + 2, "the third was not begun");
    let now = world.members(None).await;
    let kept = |all: &[String]| all.iter().filter(|name| !name.starts_with("shared-2")).cloned().collect::<Vec<_>>();
    assert_eq!(kept(&now), kept(&before));
    assert_eq!(status(&world).await.current, 0);
}

#[tokio::test]
async fn what_is_not_well_or_not_there_never_serves_and_leaves_nothing_behind() {
    let world = three_cells("").await;
    let (sick, absent) = (world.release(&["web"], 2).await, world.release(&["web"], 3).await);
    world.fake.is_never_well(&artifact("web", 2));
    world.fake.has_no_image(&artifact("web", 3));
    let before = world.members(None).await;
    let ran = world.fake.runs().len();
    serving(&world, async {
        roll(&world, absent).await.unwrap();
        let ended = over(&world).await;
        assert_eq!(ended.state, RollState::Stopped);
        assert!(
            ended.reason.as_deref().unwrap().contains("could not be pulled: manifest unknown (push it)"),
            "{ended:?}"
        );
        assert_eq!(world.fake.runs().len(), ran, "nothing was migrated for an image that is not there");
        let head = world.store.route_head().await.unwrap();

        roll(&world, sick).await.unwrap();
        let ended = over(&world).await;
        let reason = ended.reason.unwrap();
        assert!(reason.contains("were not healthy within 1 s") && reason.contains("answered 500"), "{reason}");
        assert_eq!(world.store.route_head().await.unwrap(), head, "no edge ever heard of it");
    })
    .await;
    assert_eq!(world.members(None).await, before);
    assert_eq!(runs(&world).await, "shared-1:0 shared-2:0 shared-3:0");
}

#[tokio::test]
async fn an_image_that_one_cell_of_a_wave_cannot_have_keeps_the_release_out_of_all_of_that_wave() {
    let world = three_cells("").await;
    let number = world.release(&["web"], 4).await;
    // The canary has it; of the two cells of the second wave the later one has not.
    world.fake.has_no_image_in(&"shared-3".parse().unwrap(), &artifact("web", 4));
    let before = world.members(None).await;
    let ran = world.fake.runs().len();
    serving(&world, async {
        roll(&world, number).await.unwrap();
        let ended = over(&world).await;
        assert_eq!(ended.state, RollState::Stopped);
        let reason = ended.reason.as_deref().unwrap();
        assert!(reason.contains("`shared-3`") && reason.contains("could not be pulled: manifest unknown"), "{reason}");
        assert!(reason.contains("1 cells run r1, 2 what they ran before"), "{reason}");
        let states: Vec<_> = ended.cells.iter().map(|cell| (cell.cell.as_str(), cell.state)).collect();
        let failed = |name| (name, RollCellState::Failed);
        assert_eq!(states, [("shared-2", RollCellState::Done), failed("shared-1"), failed("shared-3")]);
        for cell in &ended.cells[1..] {
            assert!(cell.reason.as_deref().unwrap().contains("the provider of cell `shared-3`"), "{cell:?}");
        }
        assert_eq!(runs(&world).await, "shared-1:0 shared-2:1 shared-3:0");
        assert_eq!(world.fake.runs().len(), ran + 1, "only the canary was migrated");
        let kept = |all: &[String]| all.iter().filter(|it| !it.starts_with("shared-2")).cloned().collect::<Vec<_>>();
        assert_eq!(kept(&world.members(None).await), kept(&before));

        // On the way back each cell is by itself: what shared-3 lacks keeps nobody on a release that has to go.
        world.fake.has_image(&artifact("web", 4));
        roll(&world, number).await.unwrap();
        assert_eq!(over(&world).await.state, RollState::Done);
        let other = world.release(&["web"], 5).await;
        roll(&world, other).await.unwrap();
        assert_eq!(over(&world).await.state, RollState::Done);
        world.fake.has_no_image_in(&"shared-3".parse().unwrap(), &artifact("web", 4));
        releases::back(&world.app, &change(), &wire::BackAsk::default()).await.unwrap();
        let ended = over(&world).await;
        assert_eq!(ended.state, RollState::Stopped, "{ended:?}");
        assert_eq!(runs(&world).await, format!("shared-1:{number} shared-2:{number} shared-3:{other}"));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_dies_while_it_rolls_is_followed_by_another() {
    let world = three_cells("").await;
    let number = world.release(&["web"], 1).await;
    // The change happens and its record does not: as a kill between the two.
    world.fake.faults().next(Call::EnsureMember, Fault::Hang);
    let (_stop, stopped) = watch::channel(false);
    let dying = world.another();
    let options = || WorkerOptions { lease: Duration::from_secs(1), ..WorkerOptions::named("server") };
    let server = tokio::spawn({
        let options = options();
        async move { serve::work(&dying, stopped, options).await }
    });
    roll(&world, number).await.unwrap();
    let begun = async || world.fake.made().iter().filter(|made| made.rsplit('.').next() == Some("r1")).count();
    wait_until("the first new member is made", begun, |made| *made == 1).await;
    server.abort();
    let (stop, stopped) = watch::channel(false);
    let next = world.another();
    let server = tokio::spawn(async move { serve::work(&next, stopped, options()).await });
    assert_eq!(over(&world).await.state, RollState::Done);
    stop.send_replace(true);
    server.await.unwrap().unwrap();
    assert_eq!(runs(&world).await, "shared-1:1 shared-2:1 shared-3:1");
    let made = world.fake.made();
    let twice = made.iter().filter(|one| one.rsplit('.').next() == Some("r1")).count();
    assert_eq!(twice, 6, "each new member was made once: {made:?}");
}

#[tokio::test]
async fn a_cell_is_either_migrated_or_moved_out_of() {
    let world = three_cells("").await;
    world.create("acme", "hobby").await;
    let home = world.tenant("acme").await.cell.unwrap();
    let number = world.release(&["web"], 1).await;

    // A move under way keeps a release out of both its cells.
    let tenant = world.store.tenant_by_name(&"acme".parse().unwrap()).await.unwrap().unwrap();
    let source = world.store.cell_by_name(&home).await.unwrap().unwrap();
    let other = if home.as_str() == "shared-3" { "shared-1" } else { "shared-3" };
    let target = world.store.cell_by_name(&other.parse().unwrap()).await.unwrap().unwrap();
    let id = MoveId::new(uuid::Uuid::now_v7());
    let mut tx = world.store.begin().await.unwrap();
    tx.move_insert(id, tenant.id, "across", source.id, target.id).await.unwrap();
    tx.commit().await.unwrap();
    let refused = roll(&world, number).await.unwrap_err();
    assert_eq!(refused.code(), "cell_has_move");
    assert!(refused.to_string().contains("tenant `acme` is moving"), "{refused}");
    let mut tx = world.store.begin().await.unwrap();
    tx.move_end(id, berth_store::MoveOutcome::GivenUp, Some("a test")).await.unwrap();
    tx.commit().await.unwrap();

    // The other way round.
    for _ in 0..3 {
        world.fake.faults().next(Call::RunOnce, Fault::Hang);
    }
    let (stop, stopped) = watch::channel(false);
    let app = world.another();
    let server = tokio::spawn(async move { serve::work(&app, stopped, WorkerOptions::named("server")).await });
    let only = wire::RollAsk { release: number, to: vec![home.clone()] };
    releases::roll(&world.app, &change(), &only).await.unwrap();
    let rolling = async || status(&world).await.roll.unwrap().cells[0].state;
    wait_until("the cell is being migrated", rolling, |state| *state == RollCellState::Rolling).await;
    let refused = moves::start(&world.app, &change(), "acme", Some(&other.parse().unwrap())).await.unwrap_err();
    assert_eq!(refused.code(), "cell_has_release", "{refused}");
    assert_eq!(refused.to_string(), format!("release r{number} is rolling in cell {home}"));
    stop.send_replace(true);
    server.abort();
}

#[tokio::test]
async fn a_move_between_two_releases_names_the_one_that_is_missing_and_where() {
    let world = three_cells("").await;
    world.create("acme", "hobby").await;
    let home = world.tenant("acme").await.cell.unwrap();
    let other: CellName = if home.as_str() == "shared-3" { "shared-1" } else { "shared-3" }.parse().unwrap();
    let (first, second) = (world.release(&["web"], 1).await, world.release(&["web"], 2).await);
    // Once the target is behind, once the source.
    for (rolled, on, says, missing) in [
        (first, &home, format!("cell `{other}` runs what the stack file says, and `{home}` runs r{first}"), &other),
        (second, &other, format!("cell `{other}` runs r{second}, and `{home}` runs r{first}"), &home),
    ] {
        serving(&world, brought(&world, only(rolled, on.as_str()))).await;
        // All cells of this world are one database: what a migration would have made different is said here.
        let cell = world.store.cell_by_name(&other).await.unwrap().unwrap();
        world.store.cell_set_fingerprint(cell.id, &format!("beside r{rolled}")).await.unwrap();
        let refused = moves::start(&world.app, &change(), "acme", Some(&other)).await.unwrap_err();
        assert_eq!((refused.code(), refused.kind()), ("release_missing", Kind::Conflict), "{refused}");
        assert!(refused.to_string().contains(&says), "{refused}");
        let remedy = format!("`berth release roll r{rolled} --to {missing}`");
        assert!(refused.hint().is_some_and(|hint| hint.contains(&remedy)), "{:?}", refused.hint());
    }
}

fn only(release: u32, cell: &str) -> wire::RollAsk {
    wire::RollAsk { release, to: vec![cell.parse().unwrap()] }
}

/// Brings a release to one cell, or to all.
async fn brought(world: &World, ask: wire::RollAsk) {
    releases::roll(&world.app, &change(), &ask).await.unwrap();
    let ended = over(world).await;
    assert_eq!(ended.state, RollState::Done, "{ended:?}");
}

async fn taken_back(world: &World) {
    releases::back(&world.app, &change(), &wire::BackAsk::default()).await.unwrap();
    let ended = over(world).await;
    assert_eq!(ended.state, RollState::Done, "{ended:?}");
}

#[tokio::test]
async fn the_way_back_is_what_ran_in_each_cell() {
    let world = three_cells("").await;
    let (first, second) = (world.release(&["web"], 1).await, world.release(&["web"], 2).await);
    serving(&world, async {
        brought(&world, only(first, "shared-1")).await;
        brought(&world, wire::RollAsk { release: second, to: Vec::new() }).await;
        assert_eq!(runs(&world).await, "shared-1:2 shared-2:2 shared-3:2");
        let plan = releases::plan_back(&world.app, &read(), &wire::BackAsk::default()).await.unwrap();
        let gets: Vec<_> = plan.waves.concat().into_iter().map(|cell| (cell.cell.to_string(), cell.gets)).collect();
        let each =
            [("shared-1", 1), ("shared-2", 0), ("shared-3", 0)].map(|(cell, gets)| (cell.to_owned(), Some(gets)));
        assert_eq!(gets, each);
        taken_back(&world).await;
        assert_eq!(runs(&world).await, "shared-1:1 shared-2:0 shared-3:0");
        assert_eq!(status(&world).await.current, 0, "cells that are made now");

        // A canary that was brought by hand goes back with all others.
        brought(&world, only(second, "shared-2")).await;
        brought(&world, wire::RollAsk { release: second, to: Vec::new() }).await;
        taken_back(&world).await;
        assert_eq!(runs(&world).await, "shared-1:1 shared-2:0 shared-3:0");
    })
    .await;
}

#[tokio::test]
async fn a_roll_that_found_nothing_to_do_is_not_what_is_taken_back() {
    let world = three_cells("").await;
    let (first, second) = (world.release(&["web"], 1).await, world.release(&["web"], 2).await);
    serving(&world, async {
        brought(&world, only(first, "shared-1")).await;
        brought(&world, only(second, "shared-2")).await;
        brought(&world, only(second, "shared-2")).await;
        taken_back(&world).await;
        assert_eq!(runs(&world).await, "shared-1:1 shared-2:0 shared-3:0", "others were put there by hand");
        let nothing = releases::back(&world.app, &change(), &wire::BackAsk::default()).await.unwrap_err();
        assert!(matches!(nothing, ControlError::Release(ReleaseError::NothingBefore)), "{nothing}");

        // To all of them, twice: the second time it is there.
        for _ in 0..2 {
            brought(&world, wire::RollAsk { release: second, to: Vec::new() }).await;
        }
        taken_back(&world).await;
        assert_eq!(runs(&world).await, "shared-1:1 shared-2:0 shared-3:0");
    })
    .await;
}

#[tokio::test]
async fn a_cell_that_begins_while_the_release_is_taken_back_goes_back_too() {
    let world = three_cells("").await;
    let number = world.release(&["web"], 1).await;
    let begun = roll(&world, number).await.unwrap();
    let first = world.store.roll_cells(Some(begun.number)).await.unwrap()[0].cell;
    // As the loop does that begins with the cells of a wave, in the very moment of the way back.
    let mut tx = world.store.begin().await.unwrap();
    tx.rolls_lock().await.unwrap();
    let app = world.another();
    let back = tokio::spawn(async move { releases::back(&app, &change(), &wire::BackAsk::default()).await });
    let client = world.control.connect(berth_infra::Role::Owner).await;
    let waits = async || -> i64 {
        let waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'rolls'::regclass AND NOT granted";
        client.query_one(waiting, &[]).await.unwrap().get(0)
    };
    wait_until("the way back waits for the loop", waits, |waiting| *waiting == 1).await;
    tx.roll_cell_start(begun.number, first, OperationId::new(uuid::Uuid::now_v7()), 0).await.unwrap();
    tx.commit().await.unwrap();
    let back = back.await.unwrap().unwrap();
    let cells: Vec<_> = back.cells.iter().map(|cell| (cell.cell.as_str(), cell.gets)).collect();
    assert_eq!(cells, [("shared-2", Some(0))]);
}

#[tokio::test]
async fn a_copy_that_nobody_planned_does_not_outlive_its_release() {
    let world = three_cells("").await;
    let number = world.release(&["web"], 1).await;
    world.fake.faults().next(Call::EnsureMember, Fault::Hang);
    let dying = world.another();
    let (_stop, stopped) = watch::channel(false);
    let options = || WorkerOptions { lease: Duration::from_secs(1), ..WorkerOptions::named("server") };
    let server = tokio::spawn({
        let options = options();
        async move { serve::work(&dying, stopped, options).await }
    });
    releases::roll(&world.app, &change(), &only(number, "shared-1")).await.unwrap();
    let begun = async || world.fake.made().iter().filter(|made| made.strip_suffix(".r1").is_some()).count();
    wait_until("the first new member is made", begun, |made| *made == 1).await;
    server.abort();
    // An older server, which knows no releases when it scales.
    let cell = world.store.cell_by_name(&"shared-1".parse().unwrap()).await.unwrap().unwrap();
    let mut tx = world.store.begin().await.unwrap();
    let stray = NewMember {
        id: MemberId::new(uuid::Uuid::now_v7()),
        cell: cell.id,
        service: "web".parse().unwrap(),
        copy: 2,
        service_role: ServiceRole::Web,
        release: 0,
        arriving: false,
    };
    tx.member_want(&stray).await.unwrap();
    tx.commit().await.unwrap();
    serving(&world, async {
        assert_eq!(over(&world).await.state, RollState::Done);
        let rows = async || world.store.member_list(Some(cell.id)).await.unwrap();
        let old = rows().await.into_iter().find(|row| row.release == 0 && row.wanted);
        assert!(old.is_none(), "{old:?}");
        wait_until("it is ended", rows, |rows| rows.iter().all(|row| row.release == 1)).await;
    })
    .await;
    let names = world.members(None).await;
    assert!(!names.iter().any(|name| name == "shared-1.web.2"), "{names:?}");
}

#[tokio::test]
async fn old_members_end_when_every_edge_sends_elsewhere_also_one_that_is_cut_off() {
    let world = three_cells("").await;
    world.create("acme", "hobby").await;
    let home = world.tenant("acme").await.cell.unwrap().to_string();
    let (edge, instance) = ("edge-1".parse().unwrap(), EdgeId::new(uuid::Uuid::now_v7()));
    let head = world.store.route_head().await.unwrap();
    world.store.edge_seen(&edge, instance, head, false).await.unwrap();
    let client = world.control.connect(berth_infra::Role::Owner).await;
    client.batch_execute("UPDATE edges SET last_seen = now() - interval '1 minute'").await.unwrap();
    let number = world.release(&["web"], 1).await;
    serving(&world, async {
        releases::roll(&world.app, &change(), &only(number, &home)).await.unwrap();
        let ends = async || {
            let id = status(&world).await.roll.unwrap().cells[0].operation?;
            let (operation, steps) = world.store.show(id).await.unwrap()?;
            let ends = steps.last().is_some_and(|step| step.name == "end_old_members");
            (ends || operation.state.is_final()).then_some(operation.state)
        };
        wait_until("the old members are about to end", ends, Option::is_some).await;
        // Not at once, nor a second later.
        for _ in 0..20 {
            let names = world.members(None).await;
            assert!(names.contains(&format!("{home}.web.0")), "{names:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let head = world.store.route_head().await.unwrap();
        world.store.edge_seen(&edge, instance, head, false).await.unwrap();
        let said =
            EdgeSaid { edge, instance, revision: head, holds: Vec::new(), presence: Presence::Serving, challenges: 0 };
        world.store.edge_said(said).await.unwrap();
        assert_eq!(over(&world).await.state, RollState::Done);
        let names = world.members(None).await;
        assert!(!names.contains(&format!("{home}.web.0")), "{names:?}");
    })
    .await;
}

#[tokio::test]
async fn a_migration_whose_answer_is_lost_is_not_run_again() {
    let world = three_cells("").await;
    let number = world.release(&["web"], 1).await;
    world.fake.next_run(RunOutcome { output: "added a column\n".to_owned(), ..failing(0, "") });
    world.fake.faults().next(Call::RunOnce, Fault::LoseAnswer);
    let ran = world.fake.runs().len();
    serving(&world, async {
        brought(&world, only(number, "shared-1")).await;
        assert_eq!(status(&world).await.roll.unwrap().cells[0].output.as_deref(), Some("added a column\n"));
    })
    .await;
    assert!(world.fake.faults().left().is_empty());
    assert_eq!(world.fake.runs().len(), ran + 1);
}
