//! Moves that cannot be: said before anything is touched, or given up with the tenant where it was.

use crate::try_move::{CUSTOMERS, Moving, VEHICLES};
use crate::world::{STACK, change, read_tenant};
use berth_control::{ControlError, Kind, cells, decide, moves, usage, workflows};
use berth_domain::{CellName, OperationState, TenantState};
use berth_infra::Role;
use berth_testkit::TestPg;
use berth_workflow::{Journal, testing};
use std::time::Duration;

fn told(error: &ControlError) -> (&'static str, Kind) {
    assert!(error.hint().is_some(), "no hint: {error}");
    (error.code(), error.kind())
}

#[tokio::test]
async fn a_stopped_source_or_target_is_said_and_the_tenant_stays() {
    let moving = Moving::new().await;
    let pg = TestPg::new().await;
    pg.connect(Role::Owner).await.batch_execute(&format!("{CUSTOMERS};{VEHICLES}")).await.unwrap();
    moving.cell("stopped", pg.cell().clone()).await;
    let (here, there) = (moving.tenant("here").await, moving.created("there", "stopped").await);
    assert_eq!(there.state, TenantState::Active);
    drop(pg); // ends the server
    for (tenant, to, side) in [(&here, "stopped", "target"), (&there, "shared-2", "source")] {
        let (app, to) = (&moving.world.app, to.parse::<CellName>().unwrap());
        let plan = moves::plan(app, &read_tenant(), tenant.name.as_str(), Some(&to)).await.unwrap_err();
        assert_eq!(told(&plan), ("database_unreachable", Kind::Provider), "{side}");
        let started = moves::start(app, &change(), tenant.name.as_str(), Some(&to)).await.unwrap();
        assert_eq!(moving.world.carry_out(started.id).await, OperationState::Failed);
        let (operation, _) = moving.world.store.show(started.id).await.unwrap().unwrap();
        let error = operation.error.unwrap();
        assert_eq!(error.kind, "database_unreachable");
        assert!(error.message.contains(side) && error.hint.is_some(), "{error:?}");
        let now = moving.known(tenant.name.as_str()).await;
        assert_eq!((now.state, now.cell, now.generation), (TenantState::Active, tenant.cell, tenant.generation));
    }
}

const KNOWN: &str = "placement:
  catalogue:
    regions: { here: { title: Here, lat: 50, lon: 10, location: europe, residency: [eu] } }
    providers:
      fake:
        title: Fake
        currency: USD
        checked: 2026-11-21
        source: a test
        regions: { here: { region: here }, elsewhere: { region: here } }
";

#[tokio::test]
async fn a_named_cell_that_keeps_less_than_the_tenants_own_is_refused_and_one_that_is_no_worse_is_not() {
    let moving = Moving::new().await;
    let tenant = moving.tenant("acme").await;
    let (app, to) = (&moving.world.app, "shared-2".parse::<CellName>().unwrap());
    // Of one cell it is known where it stands, of the other it is not.
    moving.world.apply(&(STACK.replace("max_tenants: 2", "max_tenants: 90000") + KNOWN)).await.unwrap();
    let control = moving.world.control.connect(Role::Owner).await;
    control.batch_execute("UPDATE cells SET region = 'here' WHERE name = 'shared-1'").await.unwrap();
    let plan = moves::plan(app, &read_tenant(), "acme", Some(&to)).await.unwrap();
    assert!(plan.blockers.is_empty(), "{:?}", plan.blockers);
    let usual = berth_wire::Profile::default;
    let alone = berth_wire::Profile { compliance: vec!["hipaa".to_owned()], ..usual() };
    let european = berth_wire::Profile { residency: Some("eu".to_owned()), ..usual() };

    decide::set_profile(app, &change(), "acme", european).await.unwrap();
    let plan = moves::plan(app, &read_tenant(), "acme", Some(&to)).await.unwrap();
    let [blocker] = &plan.blockers[..] else { panic!("{:?}", plan.blockers) };
    assert_eq!((blocker.code.as_str(), blocker.hint.is_some()), ("constraint_broken", true));
    let whole = "cell `shared-2` breaks what tenant `acme` needs: residency (wanted: eu, has: none)".to_owned();
    assert_eq!(blocker.detail, whole);
    assert!(plan.rows.is_some(), "the rest of the plan is there all the same");
    let started = moves::start(app, &change(), "acme", Some(&to)).await.unwrap_err();
    assert_eq!((told(&started), started.to_string()), (("constraint_broken", Kind::Conflict), whole));
    let now = moving.known("acme").await;
    assert_eq!((now.state, now.cell, now.generation), (TenantState::Active, tenant.cell, tenant.generation));

    // No place of this stack meets it, the tenant's own as little as the other.
    decide::set_profile(app, &change(), "acme", alone).await.unwrap();
    let judged = usage::of_tenant(app, &read_tenant(), "acme", berth_domain::UsagePeriod::Day, None).await.unwrap();
    assert!(judged.says.is_some_and(|says| says.contains("no plan and place meets")), "judged at once");
    let plan = moves::plan(app, &read_tenant(), "acme", Some(&to)).await.unwrap();
    assert!(plan.blockers.is_empty(), "{:?}", plan.blockers);
    cells::drain(app, &change(), "shared-1").await.unwrap();
    let started = moves::start(app, &change(), "acme", None).await.unwrap();
    assert_eq!(moving.world.carry_out(started.id).await, OperationState::Succeeded);
    assert_eq!(moving.known("acme").await.cell_name, to);
}

/// A plan names all of it at once, and the move that is started anyway ends with the same words.
#[tokio::test]
async fn what_stands_in_the_way_is_in_the_plan_and_in_the_operation() {
    let moving = Moving::new().await;
    let tenant = moving.tenant("acme").await;
    let owner = moving.world.tenants.connect(Role::Owner).await;
    owner.batch_execute("CREATE TABLE loose (customer_id text, note text)").await.unwrap();
    let to = "shared-2".parse().unwrap();
    let app = &moving.world.app;
    let plan = moves::plan(app, &read_tenant(), "acme", Some(&to)).await.unwrap();
    let codes: Vec<&str> = plan.blockers.iter().map(|b| b.code.as_str()).collect();
    assert_eq!(codes, ["no_identity", "no_table"], "{:?}", plan.blockers);
    assert!(plan.blockers.iter().all(|b| b.hint.is_some()));
    let started = moves::start(app, &change(), "acme", Some(&to)).await.unwrap();
    assert_eq!(moving.world.carry_out(started.id).await, OperationState::Failed);
    let (operation, _) = moving.world.store.show(started.id).await.unwrap().unwrap();
    let error = operation.error.unwrap();
    assert_eq!(error.kind, "move_refused");
    assert!(error.message.contains("`loose` has no usable replica identity"), "{error:?}");
    let now = moving.known("acme").await;
    assert_eq!((now.state, now.cell, now.generation), (TenantState::Active, tenant.cell, tenant.generation));
    let fenced = "SELECT to_regclass('berth.fence') IS NOT NULL";
    let fenced: bool = owner.query_one(fenced, &[]).await.unwrap().get(0);
    assert!(!fenced, "a move that was refused put up a fence");
}

#[tokio::test]
async fn a_full_cell_takes_no_move_and_the_only_shared_cell_is_said_to_be_the_tenants_own() {
    let moving = Moving::new().await;
    moving.tenant("acme").await;
    let full = "shared-2".parse().unwrap();
    let cell = moving.world.store.cell_by_name(&full).await.unwrap().unwrap();
    let mut tx = moving.world.store.begin().await.unwrap();
    tx.cell_set_room(cell.id, 1, cell.stack_revision).await.unwrap();
    tx.commit().await.unwrap();
    moving.created("beta", "shared-2").await;
    let start = async |to| moves::start(&moving.world.app, &change(), "acme", to).await.unwrap_err();
    assert_eq!(told(&start(Some(&full)).await), ("cell_full", Kind::Full));
    let error = start(None).await;
    assert_eq!(told(&error), ("no_room", Kind::Full));
    assert_eq!(error.to_string(), "no other shared cell has room: the tenant is already in `shared-1`");
    assert_eq!(moving.known("acme").await.state, TenantState::Active);
}

#[tokio::test]
async fn the_place_of_a_move_is_held_from_the_moment_it_is_asked_for() {
    let moving = Moving::new().await;
    for name in ["acme", "beta"] {
        moving.tenant(name).await;
    }
    let (app, to) = (&moving.world.app, "shared-2".parse().unwrap());
    let cell = moving.world.store.cell_by_name(&to).await.unwrap().unwrap();
    let mut tx = moving.world.store.begin().await.unwrap();
    tx.cell_set_room(cell.id, 1, cell.stack_revision).await.unwrap();
    tx.commit().await.unwrap();
    let first = moves::start(app, &change(), "acme", Some(&to)).await.unwrap();
    // Nothing of it has run yet.
    let second = moves::start(app, &change(), "beta", Some(&to)).await.unwrap_err();
    assert_eq!(told(&second), ("cell_full", Kind::Full));
    let removed = cells::remove(app, &change(), "shared-2").await.unwrap_err();
    assert_eq!(told(&removed), ("cell_not_empty", Kind::Conflict));
    assert_eq!(moving.world.carry_out(first.id).await, OperationState::Succeeded);
    assert_eq!(moving.known("acme").await.cell, cell.id);
    assert_eq!(moving.known("beta").await.state, TenantState::Active);
}

/// One too many waits, and goes on when an earlier one is over.
#[tokio::test]
async fn a_fifth_move_of_a_cell_waits_its_turn() {
    let moving = Moving::new().await;
    let app = &moving.world.app;
    let to = "shared-2".parse().unwrap();
    let (names, mut started) = (["one", "two", "three", "four", "five"], Vec::new());
    for name in names {
        moving.tenant(name).await;
    }
    for name in names {
        started.push(moves::start(app, &change(), name, Some(&to)).await.unwrap().id);
    }
    let fifth = *started.last().unwrap();
    // The first four are in the hands of another server.
    let names = workflows::registry().names();
    for id in &started[..4] {
        let claim = moving.world.store.claim("elsewhere", &names, Duration::from_mins(5)).await.unwrap().unwrap();
        assert_eq!(claim.operation.id, *id);
    }
    assert_eq!(moving.world.turn().await, Some(fifth));
    let (operation, steps) = moving.world.store.show(fifth).await.unwrap().unwrap();
    assert!(!operation.state.is_final());
    assert!(steps.iter().all(|step| step.name != "plan_move"), "it did not wait: {steps:?}");
    testing::make_due(&moving.world.store, started[0]).await;
    assert_eq!(moving.world.carry_out(started[0]).await, OperationState::Succeeded);
    assert_eq!(moving.world.carry_out(fifth).await, OperationState::Succeeded);
}
