//! The stack file and cells.

use crate::world::{STACK, World, change, read};
use berth_control::{ControlError, Kind, cells, endpoints, stack};
use berth_domain::{CellState, OperationState};
use berth_infra::{MemberName, RunOutcome};
use berth_testkit::{OtherServer, TestPg};
use berth_wire as wire;
use secrecy::ExposeSecret;
use std::collections::BTreeMap;

#[tokio::test]
async fn applying_a_file_makes_its_cells_and_applying_it_again_nothing() {
    let world = World::bare().await;
    let wanted = wire::StackApply { file: STACK.to_owned(), files: BTreeMap::new(), dry_run: true };
    let shown = stack::apply(&world.app, &change(), &wanted).await.unwrap();
    assert!(shown.dry_run && shown.revision == 0 && !shown.differences.is_empty() && shown.operations.is_empty());
    assert!(
        matches!(stack::show(&world.app, &read()).await, Err(ControlError::NoStack)),
        "a dry run changed something"
    );

    let applied = world.apply(STACK).await.unwrap();
    assert_eq!((applied.revision, applied.operations.len()), (1, 1));
    assert_eq!(world.carry_out(applied.operations[0]).await, OperationState::Succeeded);
    world.fake.holds_exactly(["shared-1"]);
    let cell = cells::show(&world.app, &read(), "shared-1").await.unwrap();
    assert_eq!((cell.state, cell.members.len(), cell.max_tenants), (CellState::Ready, 2, 2));
    assert!(cell.members.iter().all(|member| member.state == berth_domain::MemberState::Healthy));

    let env = world.fake.member_env(&MemberName::new("shared-1.web.0").unwrap());
    let env: BTreeMap<&str, &str> = env.iter().map(|v| (v.name.as_str(), v.value.expose_secret())).collect();
    assert_eq!(
        (env["DEPLOYMENT_MODE"], env["INFRASTRUCTURE_PROVIDER"], env["BERTH_CELL"]),
        ("multi_tenant", "fake", "shared-1")
    );
    assert!(env["DATABASE_URL"].starts_with("postgres://berth_app:"));
    assert!(world.fake.runs().iter().all(|run| {
        run.env
            .iter()
            .any(|v| v.name == "DATABASE_URL" && v.value.expose_secret().starts_with("postgres://berth_owner:"))
    }));

    let again = world.apply(STACK).await.unwrap();
    assert_eq!((again.revision, again.differences.len(), again.operations.len()), (1, 0, 0));
    let larger = world.apply(&STACK.replace("max_tenants: 2", "max_tenants: 9")).await.unwrap();
    assert_eq!((larger.revision, larger.operations.len()), (2, 0));
    assert_eq!(cells::show(&world.app, &read(), "shared-1").await.unwrap().max_tenants, 9);
}

#[tokio::test]
async fn a_file_that_would_move_a_cell_or_is_for_another_stack_is_refused() {
    let world = World::new().await;
    for (file, code) in [
        (STACK.replace("shared-1: { class: shared", "shared-1: { class: pool"), "cell_fixed"),
        (STACK.replace("stack: parcels", "stack: other"), "other_stack"),
        (STACK.replace("adapter: fake", "adapter: northwind"), "no_adapter"),
        (STACK.replace("price: 15", "price: cheap"), "bad_stack_file"),
    ] {
        let error = world.apply(&file).await.unwrap_err();
        assert_eq!((error.code(), error.kind()), (code, Kind::Invalid), "{error}");
        assert!(error.hint().is_some() || code == "bad_stack_file", "{code} has no hint");
    }
    assert_eq!(stack::show(&world.app, &read()).await.unwrap().revision, 1);
}

#[tokio::test]
async fn of_two_who_apply_at_once_one_is_told() {
    let world = World::new().await;
    let (one, two) = (STACK.replace("price: 15", "price: 16"), STACK.replace("price: 15", "price: 17"));
    let (one, two) = tokio::join!(world.apply(&one), world.apply(&two));
    let errors: Vec<_> = [one, two].into_iter().filter_map(Result::err).collect();
    // Either they met, and one was told; or one came after the other, and both are revisions.
    let revision = stack::show(&world.app, &read()).await.unwrap().revision;
    assert_eq!(revision as usize + errors.len(), 3, "{errors:?}");
    assert!(errors.iter().all(|error| error.code() == "applied_meanwhile"), "{errors:?}");
}

#[tokio::test]
async fn a_migration_that_fails_leaves_no_cell_and_says_what_it_wrote() {
    let world = World::bare().await;
    world.fake.next_run(RunOutcome { exit_code: Some(3), timed_out: false, output: "relation is missing".into() });
    let applied = world.apply(STACK).await.unwrap();
    assert_eq!(world.carry_out(applied.operations[0]).await, OperationState::Failed);
    world.fake.holds_exactly([]);
    let (operation, _) = berth_workflow::Journal::show(&world.store, applied.operations[0]).await.unwrap().unwrap();
    let error = operation.error.unwrap();
    assert_eq!(error.kind, "migrate_failed");
    assert!(error.message.contains("relation is missing") && error.message.contains("ended with 3"), "{error}");
}

/// As CockroachDB: tenants are routed to it and limited, and what a move needs is lacking.
#[tokio::test]
async fn a_cell_that_somebody_else_runs_need_not_be_postgresql() {
    let (world, other) = (World::bare().await, OtherServer::start().await);
    let mut there = TestPg::shared().await.cell().clone();
    (there.host, there.port, there.socket_dir) = ("127.0.0.1".to_owned(), other.port, None);
    world.fake.stand_on(there);
    let applied = world.apply(&STACK.replace("{ adapter: fake }", "{ adapter: theirs }")).await.unwrap();
    assert_eq!(world.carry_out(applied.operations[0]).await, OperationState::Succeeded);
    let cell = world.store.cell_by_name(&"shared-1".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((cell.state, cell.schema_fingerprint), (CellState::Ready, None));
    let found = endpoints::abilities(&world.app, &read(), "shared-1").await.unwrap();
    let lacks: Vec<&str> = found.items.iter().filter(|item| !item.can).map(|item| item.ability.as_str()).collect();
    assert!(!lacks.contains(&"serves") && !lacks.contains(&"takes_writes"), "{lacks:?}");
    assert!(lacks.contains(&"reads_changes") && lacks.contains(&"is_run_by_berth"), "{lacks:?}");
}

#[tokio::test]
async fn only_an_empty_cell_is_removed() {
    let world = World::new().await;
    world.create("acme", "hobby").await;
    let refused = cells::remove(&world.app, &change(), "shared-1").await.unwrap_err();
    assert_eq!((refused.code(), refused.kind()), ("cell_not_empty", Kind::Conflict));
    assert!(refused.hint().is_some());
    assert_eq!(cells::drain(&world.app, &change(), "shared-1").await.unwrap().state, CellState::Draining);
    assert_eq!(
        cells::drain(&world.app, &change(), "shared-1").await.unwrap().state,
        CellState::Draining,
        "twice is once"
    );
    let full = berth_control::tenants::create(&world.app, &change(), crate::world::wanted("beta", "hobby")).await;
    assert_eq!(full.unwrap_err().code(), "no_room", "a draining cell takes nobody");

    let deleted = berth_control::tenants::delete(&world.app, &change(), "acme").await.unwrap();
    world.carry_out(deleted.id).await;
    let removed = cells::remove(&world.app, &change(), "shared-1").await.unwrap();
    assert_eq!(world.carry_out(removed.id).await, OperationState::Succeeded);
    world.fake.holds_exactly([]);
    assert_eq!(cells::show(&world.app, &read(), "shared-1").await.unwrap_err().code(), "no_cell");
}

#[tokio::test]
async fn members_write_and_people_read_it() {
    let world = World::new().await;
    let lines = cells::logs(&world.app, &read(), "shared-1", Some("web"), 10).await.unwrap();
    assert_eq!(lines.iter().map(|line| line.line.as_str()).collect::<Vec<_>>(), ["start 1", "start 1"]);
    assert!(cells::logs(&world.app, &read(), "shared-1", Some("worker"), 10).await.unwrap().is_empty());
}
