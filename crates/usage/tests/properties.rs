//! What has to hold whatever is used, in whatever order it is heard of. Never repeats the arithmetic of the crate: what
//! it compares with is counted one by one.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use berth_domain::{CellClass, Cents, TenantId, UsagePeriod};
use berth_usage::{
    Agreed, Asked, Direction, Event, Forecast, Issue, Load, Place, Purse, Quota, Rollup, RollupKey, Scale, Served,
    Signal, TOTAL_MAX, Thresholds, UNATTENDED_EVERY, agreed, faults, performance, period_end, period_start,
    plan_copies, propose, rolled_up,
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use uuid::Uuid;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = (0..40_u32, 0..3_u128, 0..2_usize, 0..1_000_u64, 0..10_000_000_i64).prop_map(
        |(key, tenant, metric, amount, s)| Event {
            key: format!("k{key}"),
            tenant: TenantId::new(Uuid::from_u128(tenant)),
            metric: ["gps_points", "vehicles"][metric].to_owned(),
            amount,
            unit: String::new(),
            at: at(s),
        },
    );
    prop::collection::vec(one, 0..60)
}

/// As a store does it: what was counted under its key is left out.
fn counted_once(events: &[Event]) -> Vec<Event> {
    let mut seen = HashSet::new();
    events.iter().filter(|event| seen.insert((event.tenant, event.key.clone()))).cloned().collect()
}

fn merged(parts: &[&[Event]]) -> BTreeMap<RollupKey, Rollup> {
    let mut all: BTreeMap<RollupKey, Rollup> = BTreeMap::new();
    for part in parts {
        for (key, rollup) in rolled_up(*part) {
            all.entry(key).and_modify(|sum| *sum = sum.and(rollup)).or_insert(rollup);
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn neither_order_nor_batches_nor_repeats_change_what_events_come_to(
        all in events(), order in any::<u64>(), cut in any::<prop::sample::Index>(),
    ) {
        let once = counted_once(&all);
        let whole = rolled_up(&once);
        let mut shuffled = once.clone();
        let mut dice = order;
        for at in (1..shuffled.len()).rev() {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(at, usize::try_from(dice >> 33).unwrap() % (at + 1));
        }
        prop_assert_eq!(&rolled_up(&shuffled), &whole);
        let (head, tail) = shuffled.split_at(if shuffled.is_empty() { 0 } else { cut.index(shuffled.len()) });
        prop_assert_eq!(&merged(&[head, tail]), &whole);
        prop_assert_eq!(&merged(&[tail, head]), &whole);
        // The same report twice, filtered as a store filters it.
        let twice: Vec<Event> = once.iter().chain(&once).cloned().collect();
        prop_assert_eq!(&rolled_up(&counted_once(&twice)), &whole);
    }

    #[test]
    fn a_period_holds_its_own_moments_and_no_other(second in -1_000_000_000..1_000_000_000_i64) {
        for period in UsagePeriod::ALL {
            let (from, to) = (period_start(*period, at(second)), period_end(*period, at(second)));
            prop_assert!(from <= at(second) && at(second) < to);
            prop_assert_eq!(period_start(*period, from), from);
            prop_assert_eq!(period_start(*period, to), to);
            prop_assert_eq!(period_end(*period, from), to);
        }
    }

    #[test]
    fn usage_that_wavers_within_the_band_changes_a_signal_once_at_most(
        limit in 100..1_000_000_u64, low in 0..95_u64, steps in prop::collection::vec(0..=9_u64, 1..60),
    ) {
        let at = Thresholds::default();
        let mut signal = Signal::Calm;
        let mut changes = 0;
        for (n, step) in steps.iter().enumerate() {
            // Never further apart than the band of 10 %.
            let next = signal.after(limit * (low + step) / 100, limit, &at);
            // The first look finds what was before it; from there on it may change once.
            changes += u32::from(n > 0 && next != signal);
            signal = next;
        }
        prop_assert!(changes <= 1, "{changes} changes");
    }

    #[test]
    fn what_is_proposed_is_not_taken_back_by_the_same_usage(used in 0..1_000_000_u64, limits in prop::collection::vec(1..1_000_000_u64, 2..6)) {
        let at = Thresholds::default();
        let mut plans = limits;
        plans.sort_unstable();
        plans.dedup();
        let place = |plan: usize| Place {
            plan: format!("p{plan}"), class: CellClass::Shared, cell: Some("c".into()),
            price_cents: Cents::new(i64::try_from(plan).unwrap() * 1000),
        };
        let fits = |room: u64| plans.iter().position(|limit| room <= *limit);
        for here in 0..plans.len() {
            let signal = Signal::Calm.after(used, plans[here], &at);
            let room = if signal == Signal::Under { at.with_room_below(used) } else { at.with_room(used) };
            let Some(then) = fits(room) else { continue };
            let Some(direction) = propose(&place(here), &place(then), signal, &[]) else { continue };
            prop_assert_eq!(direction, if then > here { Direction::Upgrade } else { Direction::Downgrade });
            // There, the same usage says nothing that leads back.
            let signal = Signal::Calm.after(used, plans[then], &at);
            let room = if signal == Signal::Under { at.with_room_below(used) } else { at.with_room(used) };
            let back = fits(room).and_then(|back| propose(&place(then), &place(back), signal, &[]));
            prop_assert!(back.is_none() || (direction == Direction::Upgrade) == (back == Some(Direction::Upgrade)),
                "{direction:?} from {} to {} of {plans:?} and then {back:?}, using {used}", plans[here], plans[then]);
        }
    }

    #[test]
    fn nobody_is_moved_without_a_person_twice_within_a_month(
        days in prop::collection::vec((0..10_i64, 0.5..=1.0_f64, any::<bool>(), 0..90_i64), 1..80),
    ) {
        let mut now = at(0);
        let mut moved: Vec<Timestamp> = Vec::new();
        for (later, confidence, has_issue, days_here) in days {
            now = now.checked_add(SignedDuration::from_hours(24 * later)).unwrap();
            let asked = Asked { confidence, has_issue, days_here, caution: None, automatic: true, last_unattended: moved.last().copied() };
            if let Agreed::Alone { .. } = agreed(&asked, now) {
                prop_assert!((confidence > 0.9 && has_issue) || (confidence > 0.95 && days_here > 30));
                moved.push(now);
            }
            prop_assert!(matches!(agreed(&Asked { automatic: false, ..asked }, now), Agreed::Ask { .. }), "off is off");
        }
        for two in moved.windows(2) {
            prop_assert!(two[1].duration_since(two[0]) >= UNATTENDED_EVERY);
        }
    }

    #[test]
    fn a_line_is_found_through_outliers(slope in -50.0..50.0_f64, start in 5_000.0..10_000.0_f64, bad in prop::collection::vec((0..60_usize, 0.0..1e6_f64), 0..15)) {
        let mut days: Vec<(i32, f64)> = (0..60).map(|day| (day, start + slope * f64::from(day))).collect();
        for (day, amount) in bad {
            days[day].1 = amount;
        }
        let line = Forecast::of(&days).unwrap();
        prop_assert!((line.per_day() - slope).abs() < 1e-6 * start, "{} for {slope}", line.per_day());
        let expected = (start + slope * 90.0).max(0.0);
        prop_assert!((line.at(90).expected - expected).abs() < 1e-6 * start);
    }

    #[test]
    fn the_interval_holds_what_comes_as_often_as_it_says(seed in any::<u64>()) {
        // 100 series of 30 days with noise as dice throw it; a day a month ahead is within its interval in 19 of 20.
        let mut dice = seed;
        let mut uniform = move || {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) as f64 / f64::from(1_u32 << 31)
        };
        let mut noise = move || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        let mut held = 0;
        for _ in 0..100 {
            let days: Vec<(i32, f64)> = (0..30).map(|day| (day, 1000.0 + 20.0 * f64::from(day) + 30.0 * noise())).collect();
            let there = Forecast::of(&days).unwrap().at(44);
            let came = 1000.0 + 20.0 * 44.0 + 30.0 * noise();
            held += u32::from((there.low..=there.high).contains(&came));
            prop_assert!(there.low <= there.expected && there.expected <= there.high);
        }
        prop_assert!(held >= 80, "{held} of 100");
    }

    #[test]
    fn a_limit_is_met_earliest_first(slope in 0.0..20.0_f64, limit in 100..5_000_u64, wobble in 0.0..50.0_f64) {
        let days: Vec<(i32, f64)> = (0..30).map(|d| (d, 100.0 + slope * f64::from(d) + if d % 2 == 0 { wobble } else { 0.0 })).collect();
        let until = Forecast::of(&days).unwrap().until(limit, 30);
        let day = |days: Option<u32>| days.unwrap_or(u32::MAX);
        prop_assert!(day(until.earliest_days) <= day(until.expected_days));
        prop_assert!(day(until.expected_days) <= day(until.latest_days));
    }

    #[test]
    fn copies_stay_within_bounds_budget_and_patience(
        copies in 1..20_u16, min in 1..4_u16, more in 0..12_u16, cpu in 0.0..400.0_f64, memory in 0.0..200.0_f64,
        price in 1..5_000_i64, left in -1_000..20_000_i64, changed in 0..600_i64,
    ) {
        let scale = Scale { min, max: min + more, cpu_percent: 70, memory_percent: 80, cooldown: SignedDuration::from_secs(300) };
        let loads = vec![Load { cpu_percent: Some(cpu), memory_percent: Some(memory) }; usize::from(copies)];
        let purse = Purse { price_cents: price, left_cents: left };
        let then = at(changed);
        match plan_copies(&scale, copies, &loads, Some(at(0)), Some(&purse), then) {
            None => {}
            Some(plan) => {
                prop_assert!((scale.min..=scale.max).contains(&plan.copies));
                prop_assert_ne!(plan.copies, copies);
                let within = (scale.min..=scale.max).contains(&copies);
                prop_assert!(!within || changed >= 300, "changed again after {changed} s");
                if within && plan.copies > copies {
                    prop_assert!(i64::from(plan.copies - copies) * price <= left.max(0), "more than the budget has");
                    prop_assert!(plan.copies <= copies * 2);
                    prop_assert!(cpu > 70.0 || memory > 80.0);
                }
                if within && plan.copies < copies {
                    prop_assert!(cpu < 70.0 && memory < 80.0);
                    // What is left has no more to do than it should.
                    let after = f64::from(copies) / f64::from(plan.copies);
                    prop_assert!(cpu * after <= 70.0 + 1e-6 && memory * after <= 80.0 + 1e-6 || plan.copies == scale.min || plan.copies * 2 >= copies);
                }
            }
        }
    }
}

#[test]
fn the_guides_vectors_have_their_answers() {
    let thresholds = Thresholds::default();
    assert!(thresholds.are_apart());
    // A22: 40 001 of 50 000 is a suggestion, 40 000 is none; and the plan that is asked for has the room.
    assert_eq!(Signal::Calm.after(40_001, 50_000, &thresholds), Signal::Over);
    assert_eq!(Signal::Calm.after(40_000, 50_000, &thresholds), Signal::Calm);
    assert_eq!((thresholds.with_room(40_000), thresholds.with_room(40_001)), (50_000, 50_002));
    assert_eq!(Signal::Calm.after(9_999, 50_000, &thresholds), Signal::Under);
    assert_eq!(Signal::Calm.after(10_000, 50_000, &thresholds), Signal::Calm);
    // A21: 0.92 with processors at 0.85 alone, 0.92 without an issue by a person, 0.96 after 31 days alone.
    let issue = performance(&Served { cpu_share: Some(0.85), ..Served::default() });
    let asked = Asked {
        confidence: 0.92,
        has_issue: issue.is_some(),
        days_here: 3,
        caution: None,
        automatic: true,
        last_unattended: None,
    };
    assert!(matches!(agreed(&asked, at(0)), Agreed::Alone { .. }));
    assert!(matches!(agreed(&Asked { has_issue: false, ..asked }, at(0)), Agreed::Ask { .. }));
    let patient = Asked { confidence: 0.96, has_issue: false, days_here: 31, ..asked };
    assert!(matches!(agreed(&patient, at(0)), Agreed::Alone { .. }));
    assert!(matches!(agreed(&Asked { days_here: 30, ..patient }, at(0)), Agreed::Ask { .. }));
}

#[test]
fn slow_failing_or_busy_is_an_issue_and_a_handful_of_requests_is_not() {
    let fine = Served {
        requests: 5_000,
        response_ms: Some(200.0),
        error_share: Some(0.05),
        cpu_share: Some(0.8),
        wanted_ms: None,
    };
    assert_eq!(performance(&fine), None, "the limits themselves are no issue yet");
    for served in [
        Served { response_ms: Some(201.0), ..fine },
        Served { error_share: Some(0.051), ..fine },
        Served { cpu_share: Some(0.81), ..fine },
    ] {
        assert!(matches!(performance(&served), Some(Issue::Performance { .. })), "{served:?}");
    }
    assert_eq!(performance(&Served { requests: 99, response_ms: Some(900.0), ..fine }), None);
    assert_eq!(performance(&Served::default()), None, "what nobody measured is no issue");
    let strict = Served { wanted_ms: Some(50.0), response_ms: Some(51.0), ..fine };
    assert!(
        matches!(performance(&strict), Some(Issue::Performance { says }) if says.contains("51 ms on average, more than 50"))
    );
    assert_eq!(performance(&Served { response_ms: Some(50.0), ..strict }), None);
    assert!(
        performance(&Served { wanted_ms: Some(900.0), response_ms: Some(201.0), ..fine }).is_some(),
        "slow is slow"
    );
}

#[test]
fn an_issue_alone_leads_up_or_across_and_never_to_a_cheaper_plan() {
    use berth_domain::CellClass::{Dedicated, Shared};
    let place = |plan: &str, class, cell: Option<&str>, cents| Place {
        plan: plan.into(),
        class,
        cell: cell.map(str::to_owned),
        price_cents: Cents::new(cents),
    };
    let here = place("hobby", Shared, Some("shared-1"), 1500);
    let slow = [Issue::Performance { says: "slow".into() }];
    let broken = [Issue::Compliance { says: "soc2".into() }];
    let beside = place("hobby", Shared, Some("shared-2"), 1500);
    let new = place("hobby", Shared, None, 1500);
    let up = place("starter", Dedicated, None, 4900);
    let cheaper = place("free", Shared, Some("shared-2"), 0);
    for issue in [&slow, &broken] {
        assert_eq!(propose(&here, &beside, Signal::Calm, issue), Some(Direction::Across));
        assert_eq!(propose(&here, &new, Signal::Calm, issue), Some(Direction::Across), "a cell that is to be made");
        assert_eq!(propose(&here, &up, Signal::Calm, issue), Some(Direction::Upgrade));
        assert_eq!(propose(&here, &here, Signal::Calm, issue), None, "nowhere is better");
        assert_eq!(
            propose(&here, &cheaper, Signal::Under, issue),
            if issue == &broken { Some(Direction::Across) } else { None }
        );
    }
    assert_eq!(propose(&here, &beside, Signal::Calm, &[]), None, "what a cheaper cell saves is the fleet plan's");
    assert_eq!(propose(&here, &up, Signal::Calm, &[]), None);
    assert_eq!(propose(&here, &cheaper, Signal::Under, &[]), Some(Direction::Downgrade));
}

#[test]
fn a_quantity_names_its_metric_and_its_period() {
    let of = |name: &str| {
        let quota = Quota::of(name);
        (quota.metric, quota.period)
    };
    assert_eq!(of("gps_points_per_day"), ("gps_points".into(), Some(UsagePeriod::Day)));
    assert_eq!(of("requests_per_month"), ("requests".into(), Some(UsagePeriod::Month)));
    assert_eq!(of("uploads_per_hour"), ("uploads".into(), Some(UsagePeriod::Hour)));
    assert_eq!(of("vehicles"), ("vehicles".into(), None));
    assert_eq!(of("_per_day"), ("_per_day".into(), None));
    let quota = Quota::of("gps_points_per_day");
    assert_eq!((quota.used(None, false), quota.used(None, true)), (None, Some(0)), "unknown is not 0");
    assert_eq!(quota.resets_at(at(0)), Some(period_end(UsagePeriod::Day, at(0))));
}

#[test]
fn every_bad_event_is_named_with_its_place() {
    let good = Event {
        key: "a".into(),
        tenant: TenantId::new(Uuid::nil()),
        metric: "m".into(),
        amount: 1,
        unit: String::new(),
        at: at(0),
    };
    let bad = [
        Event { key: String::new(), ..good.clone() },
        Event { key: "b\n".into(), ..good.clone() },
        Event { key: "c".into(), metric: "GPS".into(), ..good.clone() },
        Event { key: "d".into(), amount: u64::MAX, ..good.clone() },
        Event { key: "e".into(), at: at(-36 * 86_400), ..good.clone() },
        Event { key: "f".into(), at: at(3_600), ..good.clone() },
        Event { amount: 2, ..good.clone() },
    ];
    let mut all = vec![good.clone(), good];
    assert_eq!(faults(&all, at(0)), [], "the same twice is no mistake");
    all.extend(bad);
    let places: Vec<usize> = faults(&all, at(0)).iter().map(|(place, _)| *place).collect();
    assert_eq!(places, [2, 3, 4, 5, 6, 7, 8]);
}

#[test]
fn sums_stop_where_numbers_end() {
    let huge = Rollup { total: TOTAL_MAX - 1, greatest: 1, latest: 1, latest_at: at(0), events: 1 };
    assert_eq!(huge.and(huge).total, TOTAL_MAX);
}
