//! What follows from measured usage where the stack file lets Berth act alone: the decision, the agreement and a move that
//! completes between real databases; and where a person is asked all the same. A whole server is at work.

use crate::try_move::{CUSTOMERS, Moving, VEHICLES, rows, write};
use crate::world::{STACK, change, follow, read};
use berth_control::{Caller, Report, WorkerOptions, approvals, serve, usage};
use berth_domain::{ApprovalState, CellClass, EdgeId, TenantState};
use berth_infra::{CellDatabase, Role};
use berth_store::{MoveOutcome, Tenant};
use berth_testkit::{TestDatabase, TestPg, wait_until};
use berth_wire::{
    Approval, UsageEvent,
    edge::{EdgeMeters, TenantMeter},
};
use tokio::sync::watch;
use uuid::Uuid;

async fn serving<T>(moving: &Moving, test: impl Future<Output = T>) -> T {
    let (stop, stopped) = watch::channel(false);
    let app = moving.world.another();
    let server = tokio::spawn(async move { serve::work(&app, stopped, WorkerOptions::named("server")).await });
    let outcome = test.await;
    stop.send_replace(true);
    server.await.unwrap().unwrap();
    outcome
}

/// Two shared cells and one for one tenant with a database of its own, and a stack file whose rule may agree alone.
async fn automatic() -> (Moving, TestDatabase) {
    let (moving, own) = (Moving::new().await, TestDatabase::new().await);
    own.connect(Role::Owner).await.batch_execute(&format!("{CUSTOMERS};{VEHICLES}")).await.unwrap();
    let plans = "plans:
  hobby: { price: 15, class: shared, limits: { quantities: { vehicles: 5 } } }
  crew: { price: 29, class: shared, limits: { quantities: { vehicles: 10 } } }
  business: { price: 399, class: dedicated }
";
    let (head, rest) = STACK.split_once("plans:\n").unwrap();
    let tail = &rest[rest.find("providers:").unwrap()..];
    let file = format!("{head}{plans}{tail}usage: {{ automatic: true, judge_every: 1s }}\n");
    moving.world.apply(&file.replace("max_tenants: 2", "max_tenants: 90000")).await.unwrap();
    moving.world.finish().await;
    let server = TestPg::shared().await;
    moving.world.fake.stand_on(CellDatabase { database: own.name().to_owned(), ..server.cell().clone() });
    let new = berth_wire::CellCreate {
        name: "own-1".parse().unwrap(),
        class: CellClass::Dedicated,
        provider: None,
        region: None,
        max_tenants: None,
    };
    berth_control::cells::create(&moving.world.app, &change(), new).await.unwrap();
    moving.world.finish().await;
    (moving, own)
}

/// The edges carried so many of its requests, each as long.
async fn answered(moving: &Moving, tenant: &Tenant, requests: u64, each_ms: u64) {
    let meter = TenantMeter {
        tenant: tenant.id,
        requests,
        failed_requests: 0,
        limited_requests: 0,
        received_bytes: 0,
        sent_bytes: 0,
        request_time_us: requests * each_ms * 1000,
    };
    let said = EdgeMeters { instance: EdgeId::new(Uuid::now_v7()), tenants: vec![meter] };
    usage::edge_meters(&moving.world.app, &follow(), &"edge-1".parse().unwrap(), said).await.unwrap();
}

async fn report(moving: &Moving, tenant: &Tenant, metric: &str, amount: u64) {
    let event = UsageEvent {
        key: format!("{metric}-{amount}"),
        tenant: tenant.name.to_string(),
        metric: metric.into(),
        amount,
        unit: None,
        at: None,
    };
    usage::record(&moving.world.app, &Caller::berth().may(Report).unwrap(), vec![event]).await.unwrap();
}

async fn of(moving: &Moving, tenant: &Tenant) -> Vec<Approval> {
    approvals::list(&moving.world.app, &read(), Some(tenant.name.as_str()), None).await.unwrap().items
}

/// The first that is in this state.
async fn approval(moving: &Moving, tenant: &Tenant, state: ApprovalState) -> Approval {
    let look = async || of(moving, tenant).await;
    let all = wait_until("an approval", look, |all: &Vec<Approval>| all.iter().any(|it| it.state == state)).await;
    all.into_iter().find(|it| it.state == state).unwrap()
}

/// It lives there, and what it had is there.
async fn lives_in(moving: &Moving, before: &Tenant, there: &TestDatabase, had: &[String]) -> Tenant {
    let look = async || moving.known(before.name.as_str()).await;
    let is_over = |tenant: &Tenant| tenant.state == TenantState::Active && tenant.cell != before.cell;
    let tenant = wait_until("its move is over", look, is_over).await;
    assert_eq!(rows(&there.connect(Role::Mover).await, before).await, had);
    assert_eq!(write(&there.connect(Role::App).await, before).await, Ok(1), "its new cell takes its writes");
    let refused = write(&moving.world.tenants.connect(Role::App).await, before).await;
    assert_eq!(refused, Err("BF001".to_owned()), "its old cell takes none");
    let moves = moving.world.store.move_list(Some(before.id), 10).await.unwrap();
    assert_eq!(moves.iter().map(|m| m.outcome).collect::<Vec<_>>(), [Some(MoveOutcome::Moved)]);
    tenant
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_served_slowly_is_moved_across_alone_and_the_second_time_a_person_is_asked() {
    let (moving, _own) = automatic().await;
    let slow = moving.tenant("slow").await;
    // One that is as slow stays: of a slow cell one leaves at a time, and a day says whether that was enough.
    let other = moving.tenant("other").await;
    let had = rows(&moving.world.tenants.connect(Role::Mover).await, &slow).await;
    answered(&moving, &slow, 1000, 450).await;
    serving(&moving, async {
        let done = approval(&moving, &slow, ApprovalState::CarriedOut).await;
        assert!(done.unattended && done.operation.is_some() && done.decision.confidence > 0.9, "{done:?}");
        assert_eq!((done.direction.as_str(), done.then.cell.as_deref()), ("across", Some("shared-2")));
        assert_eq!((done.now.plan.as_str(), done.then.plan.as_str()), ("hobby", "hobby"), "its plan is kept");
        let says = |what: &str| done.because.iter().any(|because| because.contains(what));
        assert!(says("answers take 450 ms on average") && says("above 0.90, and there is an issue"), "{done:?}");
        let refused = &done.decision.refused[0];
        assert_eq!((refused.cell.as_deref(), refused.constraint.as_str()), (Some("shared-1"), "service"));
        lives_in(&moving, &slow, &moving.target, &had).await;

        // What was slow in the old cell says nothing of the new one.
        let said = async || {
            let permit = crate::world::read_tenant();
            usage::of_tenant(&moving.world.app, &permit, "slow", berth_domain::UsagePeriod::Day, None).await.unwrap()
        };
        let fine = |it: &berth_wire::TenantUsage| it.says.as_ref().is_some_and(|it| it.contains("where it belongs"));
        wait_until("it is judged where it is now", said, fine).await;
        assert!(of(&moving, &slow).await.iter().all(|it| it.state == ApprovalState::CarriedOut));
        // Three hours later it is as slow there. Within the month nobody but a person moves it again.
        let earlier = "UPDATE moves SET ended_at = now() - interval '3 hours', started_at = now() - interval '4 hours'";
        moving.world.control.connect(Role::Owner).await.batch_execute(earlier).await.unwrap();
        let open = approval(&moving, &slow, ApprovalState::Open).await;
        assert!(!open.unattended && open.operation.is_none(), "{open:?}");
        assert!(
            open.because.iter().any(|it| it.contains("moved without a person within the last 30 days")),
            "{open:?}"
        );

        answered(&moving, &other, 1000, 450).await;
        let judged = async || {
            let permit = crate::world::read_tenant();
            usage::of_tenant(&moving.world.app, &permit, "other", berth_domain::UsagePeriod::Day, None).await.unwrap()
        };
        let said =
            wait_until("it waits", judged, |it| it.says.as_ref().is_some_and(|it| it.contains("another tenant"))).await;
        assert_eq!(of(&moving, &other).await, [], "{said:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_outgrows_every_shared_plan_moves_a_tenant_of_a_month_into_its_own_cell_alone() {
    let (moving, own) = automatic().await;
    let grown = moving.tenant("grown").await;
    let had = rows(&moving.world.tenants.connect(Role::Mover).await, &grown).await;
    let aged = format!("UPDATE tenants SET created_at = now() - interval '31 days' WHERE name = '{}'", grown.name);
    moving.world.control.connect(Role::Owner).await.batch_execute(&aged).await.unwrap();
    // With room for a quarter more it needs 25: far above what any shared plan holds, and no neighbour of it differs.
    report(&moving, &grown, "vehicles", 20).await;
    serving(&moving, async {
        let done = approval(&moving, &grown, ApprovalState::CarriedOut).await;
        assert!(done.unattended && done.operation.is_some(), "{done:?}");
        assert_eq!((done.direction.as_str(), done.then.plan.as_str()), ("upgrade", "business"));
        let says = |what: &str| done.because.iter().any(|because| because.contains(what));
        assert!(says("vehicles stands at 20, 400 % of 5") && says("above 0.95 after 31 days here"), "{done:?}");
        let there = lives_in(&moving, &grown, &own, &had).await;
        assert_eq!((there.cell_class, there.plan.as_str()), (CellClass::Dedicated, "business"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_call_a_young_tenant_and_a_stack_file_that_says_nothing_ask_a_person() {
    let (moving, _own) = automatic().await;
    let close = moving.tenant("close").await;
    let young = moving.tenant("young").await;
    let aged = format!("UPDATE tenants SET created_at = now() - interval '31 days' WHERE name = '{}'", close.name);
    moving.world.control.connect(Role::Owner).await.batch_execute(&aged).await.unwrap();
    // It needs exactly the ten that the plan holds: nearly half of its neighbours need one more.
    report(&moving, &close, "vehicles", 8).await;
    // As sure as can be, but here for a moment only, and nothing is wrong with how it is served.
    report(&moving, &young, "vehicles", 20).await;
    serving(&moving, async {
        let open = approval(&moving, &close, ApprovalState::Open).await;
        assert_eq!(open.then.plan.as_str(), "crew");
        assert!(open.decision.confidence < 0.9, "{open:?}");
        assert!(open.because.iter().any(|it| it.contains("is not enough to act alone")), "{open:?}");
        let open = approval(&moving, &young, ApprovalState::Open).await;
        assert!(!open.unattended && open.decision.confidence > 0.95, "{open:?}");
    })
    .await;
    assert_eq!(moving.known("close").await.plan.as_str(), "hobby");

    // As shipped nobody agrees alone, however sure the engine is.
    moving.world.apply(&STACK.replace("max_tenants: 2", "max_tenants: 90000")).await.unwrap();
    moving.world.finish().await;
    let calm = moving.created("calm", "shared-2").await;
    answered(&moving, &calm, 1000, 450).await;
    serving(&moving, async {
        let open = approval(&moving, &calm, ApprovalState::Open).await;
        assert!(open.because.iter().any(|it| it.contains("lets nobody but a person agree")), "{open:?}");
    })
    .await;
}
