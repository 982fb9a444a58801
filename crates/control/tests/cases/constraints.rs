//! What a tenant needs is kept wherever it is really put: at its creation, in a named cell, and in one made for it.

use crate::world::{STACK, World, change, read, read_tenant, wanted};
use berth_control::{Kind, approvals, decide, fleet, status, tenants, usage};
use berth_domain::{ApprovalState, OperationState, UsagePeriod};
use berth_infra::Role;
use berth_store::Cell;
use berth_wire::{Approval, FleetApply, Profile, TenantCreate};

const CELLS: &str = "shared-1: { class: shared, provider: fake, region: there, max_tenants: 9 }
  shared-2: { class: shared, provider: fake, region: here, max_tenants: 9 }
  own-1: { class: dedicated, provider: fake, region: there, shape: { memory_mib: 256 } }";

const CATALOGUE: &str = "placement:
  catalogue:
    regions:
      here: { title: Here, lat: 50, lon: 10, location: europe, residency: [eu] }
      there: { title: There, lat: 39, lon: -77.5, location: north-america, residency: [us] }
    providers:
      fake:
        title: Fake
        currency: USD
        checked: 2026-11-21
        source: a test
        compliance: [gdpr, soc2, hipaa]
        regions:
          here: { region: here, near_ms: 5, trust: claimed }
          there: { region: there, near_ms: 5, trust: claimed }
        shapes: { own: { kind: server, price: 40, cpu_millis: 2000, memory_mib: 4096, disk_gib: 80 } }
    offers:
      own-here: { class: dedicated, provider: fake, at: [[here]], parts: { own: 1 }, places: 1 }
";

/// With what the plan business promises of a cell.
fn file(promised: &str) -> String {
    let file = STACK.replace("shared-1: { class: shared, provider: fake, max_tenants: 2 }", CELLS);
    file.replace("class: dedicated }\n", &format!("class: dedicated{promised} }}\n")) + CATALOGUE
}

const PROMISED: &str = ", shape: { memory_mib: 1024 }";

async fn world() -> World {
    let world = World::bare().await;
    world.apply(&file(PROMISED)).await.unwrap();
    world.finish().await;
    world
}

fn resident(of: &str) -> Profile {
    Profile { residency: Some(of.to_owned()), ..Profile::default() }
}

fn under(standard: &str) -> Profile {
    Profile { compliance: vec![standard.to_owned()], ..Profile::default() }
}

fn with(name: &str, plan: &str, profile: Profile) -> TenantCreate {
    TenantCreate { profile: Some(profile), ..wanted(name, plan) }
}

/// The cell that it was put into.
async fn made(world: &World, wanted: TenantCreate) -> Cell {
    let name = wanted.name.to_string();
    let operation = tenants::create(&world.app, &change(), wanted).await.unwrap();
    assert_eq!(world.carry_out(operation.id).await, OperationState::Succeeded);
    let cell = world.tenant(&name).await.cell.unwrap();
    world.store.cell_by_name(&cell).await.unwrap().unwrap()
}

/// Refused, with the constraint.
async fn refused(world: &World, wanted: TenantCreate, says: &str) {
    let name = wanted.name.clone();
    let error = tenants::create(&world.app, &change(), wanted).await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("constraint_broken", Kind::Conflict), "{error}");
    assert!(error.to_string().contains(says) && error.hint().is_some(), "{error}");
    assert!(world.store.tenant_by_name(&name).await.unwrap().is_none(), "nothing of it was made");
}

#[tokio::test]
async fn a_tenant_is_created_with_its_profile_and_only_where_that_is_kept() {
    let world = world().await;
    assert_eq!(made(&world, wanted("any", "hobby")).await.name.as_str(), "shared-1");
    assert_eq!(made(&world, with("acme", "hobby", resident("eu"))).await.name.as_str(), "shared-2");
    let kept = decide::profile(&world.app, &read(), "acme").await.unwrap();
    assert_eq!((kept.residency.as_deref(), kept.cell.as_deref()), (Some("eu"), Some("shared-2")));

    let named = TenantCreate { cell: Some("shared-1".parse().unwrap()), ..with("nova", "hobby", resident("eu")) };
    refused(&world, named, "cell `shared-1` breaks what tenant `nova` needs: residency (wanted: eu, has: us)").await;
    // Its provider meets HIPAA; a cell with others in it does not, whoever names it.
    refused(&world, with("nova", "hobby", under("hipaa")), "compliance (wanted: hipaa, has: the policy's rule").await;
    let named = TenantCreate { cell: Some("shared-2".parse().unwrap()), ..with("nova", "hobby", under("soc2")) };
    refused(&world, named, "compliance (wanted: soc2").await;
    // Where cells have room and none of them will do, that is said, and not that there is no room.
    refused(&world, with("nova", "hobby", resident("sg")), "residency (wanted: sg, has: ").await;
    let error = tenants::create(&world.app, &change(), with("nova", "hobby", resident("mars"))).await.unwrap_err();
    assert_eq!(error.code(), "bad_profile", "{error}");
}

#[tokio::test]
async fn a_cell_made_for_a_tenant_keeps_what_it_needs_and_is_as_large_as_its_plan_promises() {
    let world = world().await;
    // The one that stands empty is smaller than the plan promises, so one is made like it and larger.
    let first = made(&world, wanted("first", "business")).await;
    assert_eq!((first.name.as_str(), first.region.as_deref()), ("first-1", Some("there")));
    assert_eq!(first.shape["memory_mib"], 1024);
    let regulated = made(&world, with("regulated", "business", under("hipaa"))).await;
    assert_eq!(regulated.region.as_deref(), Some("there"));
    // What the stack file's model cannot keep, an offer of the catalogue does.
    let european = made(&world, with("european", "business", resident("eu"))).await;
    assert_eq!((european.region.as_deref(), &european.shape["memory_mib"]), (Some("here"), &1024.into()));
    let says = "a dedicated cell made at provider `fake` in there breaks what tenant `asian` needs: \
                residency (wanted: sg, has: us)";
    refused(&world, with("asian", "business", resident("sg")), says).await;
}

#[tokio::test]
async fn a_fleet_plan_takes_a_tenant_out_of_a_cell_that_is_too_small_into_one_that_is_not() {
    let world = World::bare().await;
    world.apply(&file("")).await.unwrap();
    world.finish().await;
    assert_eq!(made(&world, wanted("acme", "business")).await.name.as_str(), "own-1");
    world.apply(&file(PROMISED)).await.unwrap();
    assert_eq!(fleet::plan(&world.app, &read()).await.unwrap().wrong_before, 1);
    let apply = async || {
        fleet::apply(&world.app, &change(), &FleetApply { moves: None, cells: true, only: Vec::new() }).await.unwrap()
    };
    let first = apply().await;
    let [opened] = &first.cells[..] else { panic!("{first:?}") };
    // Larger than its model in the stack file, or it would be too small as well and another one opened after it.
    let cell = world.store.cell_by_name(&opened.cell.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((cell.region.as_deref(), &cell.shape["memory_mib"]), (Some("here"), &1024.into()), "{first:?}");
    world.finish().await;
    let second = apply().await;
    let [moved] = &second.started[..] else { panic!("{second:?}") };
    assert_eq!((moved.tenant.as_str(), moved.to.as_str()), ("acme", opened.cell.as_str()));
    assert!(moved.operation.is_some(), "{second:?}");
}

/// A tenant in a cell of its own that is smaller than its new plan promises.
async fn too_small() -> World {
    let world = World::bare().await;
    let plans = "  hobby: { price: 15, class: shared, limits: { quantities: { vehicles: 5 } } }
  starter: { price: 49, class: dedicated, limits: { quantities: { vehicles: 25 } }, shape: { memory_mib: 512 } }
  pro: { price: 149, class: dedicated, limits: { quantities: { vehicles: 100 } }, shape: { memory_mib: 1024 } }
";
    let shipped = "  hobby: { price: 15, class: shared }\n  business: { price: 399, class: dedicated }\n";
    world.apply(&format!("{}{CATALOGUE}", STACK.replace(shipped, plans))).await.unwrap();
    world.finish().await;
    let small = made(&world, wanted("acme", "starter")).await;
    assert_eq!((small.name.as_str(), &small.shape["memory_mib"]), ("acme-1", &512.into()));
    tenants::set_plan(&world.app, &change(), "acme", &"pro".parse().unwrap(), None).await.unwrap();
    world
}

fn grown() -> Profile {
    Profile { quantities: [("vehicles".to_owned(), 60)].into(), ..Profile::default() }
}

/// What is proposed for acme when it needs this: a profile is judged when it is said, not a day later. Second, what the
/// judgement says.
async fn judged(world: &World, needs: Profile) -> (Vec<Approval>, String) {
    decide::set_profile(&world.app, &change(), "acme", needs).await.unwrap();
    let open = approvals::list(&world.app, &read(), Some("acme"), Some(ApprovalState::Open)).await.unwrap().items;
    let said = usage::of_tenant(&world.app, &read_tenant(), "acme", UsagePeriod::Day, None).await.unwrap().says;
    (open, said.unwrap_or_default())
}

/// Asked, rejected and judged again by the same: whether it is asked again.
async fn asked_again(world: &World, needs: Profile) -> bool {
    let (open, said) = judged(world, needs.clone()).await;
    let [asked] = &open[..] else { panic!("{said}: {open:?}") };
    assert_eq!(asked.direction, "across", "{asked:?}");
    let waits = status::overview(&world.app, &read()).await.unwrap().attention;
    assert!(waits.iter().any(|it| it.code == "approval_waits" && it.subject == "tenant acme"), "{waits:?}");
    approvals::reject(&world.app, &change(), asked.id, Some("not now")).await.unwrap();
    let waits = status::overview(&world.app, &read()).await.unwrap().attention;
    assert!(!waits.iter().any(|it| it.code == "approval_waits"), "{waits:?}");
    let (open, said) = judged(world, needs).await;
    assert!(said.starts_with("across: "), "it is still thought so: {said}");
    !open.is_empty()
}

#[tokio::test]
async fn what_a_person_rejected_is_not_proposed_again_but_where_nobody_may_agree_to_go_without() {
    assert!(!asked_again(&too_small().await, grown()).await, "its cell is too small, and it stays");

    let world = world().await;
    made(&world, wanted("acme", "hobby")).await;
    assert!(asked_again(&world, resident("eu")).await, "its rows may not lie where they lie");

    let world = self::world().await;
    assert_eq!(made(&world, wanted("acme", "hobby")).await.name.as_str(), "shared-1");
    let bound = "tenants: { region_routing: { tenant_region_mapping: { acme: here } } }\n";
    world.apply(&format!("{}{bound}", file(PROMISED))).await.unwrap();
    assert!(!asked_again(&world, Profile::default()).await, "the stack file binds it, and a person lets it be");
}

#[tokio::test]
async fn a_tenant_whose_cell_is_too_small_for_its_plan_is_proposed_one_that_is_made_where_it_was_decided() {
    let world = too_small().await;
    let (open, _) = judged(&world, grown()).await;
    let [asked] = &open[..] else { panic!("{open:?}") };
    assert_eq!((asked.direction.as_str(), asked.then.plan.as_str()), ("across", "pro"), "{asked:?}");
    assert!(asked.because.iter().any(|why| why.contains("shape: it needs") && why.contains("1024 MiB")), "{asked:?}");

    let done = approvals::approve(&world.app, &change(), asked.id).await.unwrap();
    assert!(done.state == ApprovalState::CarriedOut && done.operation.is_some(), "{done:?}");
    let large = world.store.cell_by_name(&"acme-2".parse().unwrap()).await.unwrap().unwrap();
    assert_eq!((large.region.as_deref(), &large.shape["memory_mib"]), (Some("here"), &1024.into()), "{large:?}");
}

/// Puts a policy in force as an earlier version took it.
async fn in_force(world: &World, policy: &str) {
    let client = world.control.connect(Role::Owner).await;
    let revision = format!(
        "INSERT INTO stack_revisions (revision, stack, source, document, applied_by)
         SELECT revision + 1, stack, source, jsonb_set(document, '{{placement,policy}}', '{policy}'), applied_by
         FROM stack_revisions ORDER BY revision DESC LIMIT 1"
    );
    client.batch_execute(&revision).await.unwrap();
}

#[tokio::test]
async fn a_policy_in_force_is_followed_although_it_would_be_refused_now() {
    let world = World::bare().await;
    let file = file(PROMISED) + "budget: { amount: 50, currency: USD }\n";
    let shares = "placement:\n  policy: { rules: [{ name: all, allow: [shared, pool] }] }\n";
    let error = world.apply(&file.replace("placement:\n", shares)).await.unwrap_err();
    assert_eq!(error.code(), "bad_placement", "{error}");
    assert!(error.to_string().contains("Berth's own for soc2 and hipaa"), "{error}");
    world.apply(&file).await.unwrap();
    world.finish().await;

    in_force(&world, r#"{"rules": [{"name": "all", "allow": ["shared", "pool"]}]}"#).await;
    assert_eq!(made(&world, wanted("acme", "hobby")).await.name.as_str(), "shared-1");
    refused(&world, with("nova", "hobby", under("hipaa")), "compliance (wanted: hipaa").await;
    let attention = status::overview(&world.app, &read()).await.unwrap().attention;
    assert!(!attention.iter().any(|it| it.subject == "budget"), "{attention:?}");

    // By one that says nothing of anybody nothing is decided, and everything else is still shown.
    in_force(&world, r#"{"rules": []}"#).await;
    let overview = status::overview(&world.app, &read()).await.unwrap();
    let budget = overview.attention.iter().find(|it| it.code == "budget_unknown").unwrap();
    assert!(budget.detail.contains("placement.policy") && budget.hint.is_some(), "{budget:?}");
    assert_eq!(overview.tenants.active, 1);
}
