//! Who is parked and who is let through, the budget, the pause, over instants that the test names. No socket.

use super::{Account, Budget, Gate, HoldOrder, InTime, Parked, Room, Stopped};
use berth_domain::TenantId;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

fn order(serial: u64, all: bool, unsure: bool) -> HoldOrder {
    within(&Arc::new(Room::new(u64::MAX)), serial, all, unsure)
}

fn within(room: &Arc<Room>, serial: u64, all: bool, unsure: bool) -> HoldOrder {
    let budget = Arc::new(Budget::new(2, 10, room));
    let in_time = Arc::new(InTime::new(1));
    let (drain, park) = (Duration::from_millis(50), Duration::from_secs(2));
    HoldOrder { serial, all, unsure, drain, park, budget, in_time }
}

fn parked(gate: &Gate, bytes: u64, now: Instant) -> Option<Parked> {
    match gate.park(bytes, now)? {
        Stopped::Parked { parked, .. } => Some(parked),
        Stopped::Full => None,
    }
}

#[test]
fn who_is_let_through_depends_on_the_order() {
    //                     safe, writing, in flight that is waited for
    for (order, expected) in [
        (None, (true, true, 2)),
        (Some(order(1, false, false)), (true, false, 1)),
        (Some(order(1, true, false)), (false, false, 2)),
        (Some(order(1, false, true)), (false, false, 1)),
    ] {
        let mut gate = Gate::default();
        assert!(gate.enter(true) && gate.enter(false));
        let held = order.is_some();
        if let Some(order) = order {
            gate.hold(order);
        }
        let busy = gate.busy();
        let seen = (gate.enter(true), gate.enter(false), if held { busy } else { 2 });
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_hold_from_disk_lets_reads_through_once_control_has_spoken() {
    let mut gate = Gate::default();
    gate.hold(order(1, false, true));
    assert!(!gate.enter(true));
    gate.sure();
    assert!(gate.enter(true) && !gate.enter(false));
}

#[test]
fn all_tenants_of_an_edge_share_one_room_and_what_is_refused_takes_none() {
    let (room, now) = (Arc::new(Room::new(15)), Instant::now());
    let mut tenants = [Gate::default(), Gate::default(), Gate::default()];
    for (serial, gate) in (1..).zip(&mut tenants) {
        gate.hold(within(&room, serial, false, false));
    }
    let first = parked(&tenants[0], 10, now).unwrap();
    assert!(parked(&tenants[0], 1, now).is_none(), "its own budget is used up");
    assert_eq!(room.bytes(), 10);
    assert!(parked(&tenants[1], 6, now).is_none(), "the edge has 5 bytes left");
    assert_eq!(room.bytes(), 10);
    let second = parked(&tenants[1], 5, now).unwrap();
    let empty = parked(&tenants[2], 0, now).unwrap();
    assert!(parked(&tenants[2], 1, now).is_none());
    drop(first);
    let third = parked(&tenants[2], 10, now).unwrap();
    assert_eq!(room.bytes(), 15);
    second.sent_on(now);
    third.expired();
    drop(empty);
    assert_eq!(room.bytes(), 0);
}

#[test]
fn a_tenant_has_one_budget_on_all_cores_with_a_hold_and_without() {
    let (room, now) = (Arc::new(Room::new(1000)), Instant::now());
    let budget = |tenant: u128| room.budget(TenantId::new(Uuid::from_u128(tenant)), 2, 10);
    // As a core does with what the fence refused.
    let fenced = |tenant| match Gate::park_unordered(&budget(tenant), 6, Duration::from_secs(2), now) {
        Stopped::Parked { parked, .. } => Some(parked),
        Stopped::Full => None,
    };
    let first = fenced(1).unwrap();
    assert!(fenced(1).is_none(), "12 of 10 bytes");
    let mut gate = Gate::default();
    gate.hold(HoldOrder { budget: budget(1), ..order(1, false, false) });
    assert!(parked(&gate, 6, now).is_none(), "a hold that comes now is within the same");
    let other = fenced(2).expect("another tenant has its own");
    assert_eq!(room.bytes(), 12);
    drop(first);
    let held = parked(&gate, 6, now).unwrap();
    assert!(fenced(1).is_none());
    drop((gate, held, other));
    drop(fenced(1).expect("all of it came back"));
    assert_eq!(room.bytes(), 0);
}

#[test]
fn what_left_is_not_waited_for() {
    let mut gate = Gate::default();
    gate.enter(false);
    gate.enter(false);
    gate.hold(order(1, false, false));
    gate.finish(false, false);
    assert_eq!(gate.busy(), 1);
    gate.finish(false, false);
    assert_eq!(gate.busy(), 0);
}

#[test]
fn uploads_that_had_their_time_make_way_when_nothing_else_is_waited_for() {
    let mut gate = Gate::default();
    gate.enter(true);
    gate.enter(false);
    gate.enter(false);
    gate.set_overdue(false, true);
    assert!(!gate.waits_for(false) && !gate.waits_for_overdue_alone(), "nobody waits");
    gate.hold(order(1, false, false));
    assert!(gate.waits_for(false) && !gate.waits_for(true));
    assert!(!gate.waits_for_overdue_alone(), "one that writes is in its time");
    gate.finish(false, false);
    assert!(gate.waits_for_overdue_alone());
    gate.hold(order(2, true, false));
    assert!(gate.waits_for(true) && !gate.waits_for_overdue_alone(), "the one that reads is waited for too");
    gate.set_overdue(true, true);
    assert!(gate.waits_for_overdue_alone());
    gate.finish(true, true);
    gate.finish(false, true);
    assert!(!gate.waits_for_overdue_alone(), "nothing is left");
}

#[tokio::test]
async fn uploads_make_way_when_no_core_waits_for_anything_else() {
    let mut held = order(1, false, false);
    held.in_time = Arc::new(InTime::new(2));
    let in_time = Arc::clone(&held.in_time);
    let (mut here, mut there) = (Gate::default(), Gate::default());
    assert!(here.enter(false) && there.enter(false) && there.enter(false));
    here.set_overdue(false, true);
    here.hold(held.clone());
    assert!(!here.waits_for_overdue_alone(), "the other core has not looked");
    there.hold(held);
    assert!(!here.waits_for_overdue_alone(), "it waits for two that are in their time");
    there.set_overdue(false, true);
    assert!(!here.waits_for_overdue_alone() && !there.waits_for_overdue_alone(), "for one");
    let mut told = Box::pin(in_time.none_left.notified());
    assert!(futures_util::poll!(told.as_mut()).is_pending());
    there.finish(false, false);
    assert!(here.waits_for_overdue_alone() && there.waits_for_overdue_alone());
    assert!(futures_util::poll!(told.as_mut()).is_ready(), "the other core hears of it");
    // The upload over there is whole now: its request is one like all others.
    there.set_overdue(false, false);
    assert!(!here.waits_for_overdue_alone());
    there.finish(false, false);
    assert!(here.waits_for_overdue_alone());
}

#[test]
fn the_budget_is_exact_and_comes_back() {
    let mut gate = Gate::default();
    gate.hold(order(1, false, false));
    let now = Instant::now();
    let first = parked(&gate, 6, now).expect("fits");
    assert!(parked(&gate, 5, now).is_none(), "11 of 10 bytes");
    let second = parked(&gate, 4, now).expect("fits exactly");
    assert!(parked(&gate, 0, now).is_none(), "a third of two");
    drop(first);
    let third = parked(&gate, 6, now).expect("room came back");
    assert!(parked(&gate, 0, now).is_none());
    drop((second, third));
}

#[test]
fn the_pause_is_from_the_first_parked_to_the_last_sent_on() {
    let mut gate = Gate::default();
    gate.hold(order(1, false, false));
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let one = parked(&gate, 0, at(10)).unwrap();
    let other = parked(&gate, 0, at(20)).unwrap();
    other.sent_on(at(35));
    let late = parked(&gate, 0, at(30)).unwrap();
    late.expired();
    one.sent_on(at(32));
    let (serial, tally) = gate.release().unwrap();
    let account = *tally.account.borrow();
    assert_eq!((serial, account.held, account.expired), (1, 3, 1));
    assert!((account.pause_ms() - 25.0).abs() < 1e-9, "{account:?}");
    let core = Account { first: Some(at(5)), last: None, held: 1, expired: 1 };
    let both = account.and(core);
    assert_eq!((both.first, both.last, both.held, both.expired), (Some(at(5)), Some(at(35)), 4, 2));
    assert!(core.pause_ms().abs() < f64::EPSILON, "nothing was sent on");
}

#[test]
fn a_hold_taken_over_keeps_its_parked_and_its_room() {
    let mut gate = Gate::default();
    gate.hold(order(1, false, false));
    let now = Instant::now();
    let kept = parked(&gate, 0, now).unwrap();
    gate.hold(order(2, false, false));
    let second = parked(&gate, 0, now).unwrap();
    assert!(parked(&gate, 0, now).is_none(), "the room is one, not two");
    let (serial, tally) = gate.release().unwrap();
    assert_eq!((serial, tally.waiting.get()), (2, 2));
    drop((kept, second));
    assert_eq!((tally.waiting.get(), tally.account.borrow().held), (0, 2));
    assert!(gate.park(0, now).is_none(), "nothing is held any more");
}

#[tokio::test]
async fn a_hold_is_settled_when_the_last_parked_has_left() {
    let mut gate = Gate::default();
    gate.hold(order(1, false, false));
    let now = Instant::now();
    let (one, other) = (parked(&gate, 0, now).unwrap(), parked(&gate, 0, now).unwrap());
    let (_, tally) = gate.release().unwrap();
    let mut settled = Box::pin(tally.settled());
    assert!(futures_util::poll!(settled.as_mut()).is_pending());
    drop(one);
    assert!(futures_util::poll!(settled.as_mut()).is_pending());
    other.sent_on(now);
    assert_eq!(settled.await.held, 2);
}
