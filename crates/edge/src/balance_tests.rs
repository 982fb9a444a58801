//! How 100,000 requests fall on members, for every way of balancing.

use super::{Choice, Chooser, Wish, digest, mix};
use berth_domain::Balance;
use std::cell::Cell;

const PICKS: usize = 100_000;

struct Member {
    weight: u32,
    busy: Cell<u32>,
    able: Cell<bool>,
    seed: u64,
}

struct List(Vec<Member>);

impl List {
    fn of(weights: &[u32]) -> Self {
        let member = |(n, weight): (usize, &u32)| Member {
            weight: *weight,
            busy: Cell::new(0),
            able: Cell::new(true),
            seed: digest(format!("10.0.0.{n}:80").as_bytes()),
        };
        Self(weights.iter().enumerate().map(member).collect())
    }
}

impl Choice for List {
    fn number(&self) -> usize {
        self.0.len()
    }
    fn may(&self, at: usize) -> bool {
        self.0[at].able.get()
    }
    fn weight(&self, at: usize) -> u32 {
        self.0[at].weight
    }
    fn busy(&self, at: usize) -> u32 {
        self.0[at].busy.get()
    }
    fn seed(&self, at: usize) -> u64 {
        self.0[at].seed
    }
}

/// Numbers that look random and are the same in every run.
fn numbers(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(1);
        mix(state)
    }
}

fn spread(how: Balance, list: &List, picks: usize) -> Vec<usize> {
    let (chooser, mut random) = (Chooser::default(), numbers(7));
    let mut counts = vec![0; list.number()];
    for client in 0..picks {
        let wish =
            Wish { client: digest(format!("198.51.{}.{}", client >> 8, client & 255).as_bytes()), ..Wish::default() };
        counts[chooser.choose(how, list, wish, &mut random).unwrap()] += 1;
    }
    counts
}

/// Each within `percent` of its exact share.
fn assert_shares(counts: &[usize], weights: &[u32], percent: f64) {
    let (all, total) = (counts.iter().sum::<usize>() as f64, weights.iter().sum::<u32>());
    for (count, weight) in counts.iter().zip(weights) {
        let exact = all * f64::from(*weight) / f64::from(total);
        let off = (*count as f64 - exact).abs() / exact * 100.0;
        assert!(off <= percent, "{counts:?} for {weights:?}: {off} % off");
    }
}

#[test]
fn turns_are_exact_and_those_who_are_out_leave_their_share_to_all() {
    let list = List::of(&[1, 1, 1, 1, 1]);
    assert_eq!(spread(Balance::RoundRobin, &list, PICKS), [20_000; 5]);
    list.0[2].able.set(false);
    assert_eq!(spread(Balance::RoundRobin, &list, PICKS), [25_000, 25_000, 0, 25_000, 25_000]);
}

#[test]
fn weighted_turns_are_exact_and_smooth() {
    let weights = [5, 1, 1];
    assert_shares(&spread(Balance::Weighted, &List::of(&weights), PICKS), &weights, 0.01);
    let (chooser, list, mut random) = (Chooser::default(), List::of(&weights), numbers(1));
    let seven: Vec<_> =
        (0..7).map(|_| chooser.choose(Balance::Weighted, &list, Wish::default(), &mut random).unwrap()).collect();
    assert_eq!(seven, [0, 0, 1, 0, 2, 0, 0]);
    let weights = [1, 2, 3, 100];
    assert_shares(&spread(Balance::Weighted, &List::of(&weights), PICKS), &weights, 0.1);
}

#[test]
fn the_weighted_ways_come_within_two_percent_of_their_shares() {
    let weights = [3, 2, 1];
    for how in [Balance::Weighted, Balance::Sticky, Balance::ClientAddress] {
        assert_shares(&spread(how, &List::of(&weights), PICKS), &weights, 2.0);
    }
    assert_shares(&spread(Balance::TwoChoices, &List::of(&[1; 4]), PICKS), &[1; 4], 2.0);
}

/// 100,000 requests come and go in no order; a member's number is what it has under way.
fn churn(how: Balance, list: &List) -> Vec<u32> {
    let (chooser, mut random, mut dice) = (Chooser::default(), numbers(3), numbers(11));
    let mut under_way = Vec::new();
    let mut most = vec![0; list.number()];
    for _ in 0..PICKS {
        if under_way.len() < 60 || dice() % 2 == 0 {
            let at = chooser.choose(how, list, Wish::default(), &mut random).unwrap();
            list.0[at].busy.set(list.0[at].busy.get() + 1);
            most[at] = most[at].max(list.0[at].busy.get());
            under_way.push(at);
        }
        if under_way.len() > 100 || (under_way.len() > 50 && dice() % 2 == 0) {
            let at = under_way.swap_remove(dice() as usize % under_way.len());
            list.0[at].busy.set(list.0[at].busy.get() - 1);
        }
    }
    most
}

#[test]
fn the_least_busy_is_chosen_in_proportion_to_its_weight() {
    let list = List::of(&[1, 1, 2]);
    let most = churn(Balance::LeastConnections, &list);
    // At most 101 are under way: a quarter, a quarter and a half of them, and what chance adds.
    assert!(most[0] <= 35 && most[1] <= 35 && most[2] <= 62, "{most:?}");
    let list = List::of(&[1, 1, 1, 1]);
    assert_eq!(spread(Balance::LeastConnections, &list, PICKS), [25_000; 4], "equally busy, they take turns");
}

#[test]
fn of_two_that_are_drawn_the_less_busy_is_chosen() {
    let list = List::of(&[1; 10]);
    list.0[4].busy.set(1_000);
    let counts = spread(Balance::TwoChoices, &list, PICKS);
    assert_eq!(counts[4], 0, "it always loses against the other one");
    let most = churn(Balance::TwoChoices, &List::of(&[1; 4]));
    assert!(most.iter().all(|most| *most <= 40), "{most:?}");
    let one = List::of(&[1]);
    assert_eq!(spread(Balance::TwoChoices, &one, 10), [10]);
}

#[test]
fn a_client_keeps_its_member_and_only_those_of_one_that_goes_are_moved() {
    let list = List::of(&[1; 8]);
    let (chooser, mut random) = (Chooser::default(), numbers(1));
    let mut choose = |client: u64| {
        let wish = Wish { client: mix(client), ..Wish::default() };
        chooser.choose(Balance::ClientAddress, &list, wish, &mut random).unwrap()
    };
    let before: Vec<_> = (0..10_000).map(&mut choose).collect();
    assert_eq!(before, (0..10_000).map(&mut choose).collect::<Vec<_>>());
    list.0[3].able.set(false);
    let after: Vec<_> = (0..10_000).map(&mut choose).collect();
    for (before, after) in before.iter().zip(&after) {
        assert!(if *before == 3 { *after != 3 } else { after == before });
    }
    list.0[3].able.set(true);
    assert_eq!(before, (0..10_000).map(&mut choose).collect::<Vec<_>>(), "it has its own back");
}

#[test]
fn a_sticky_client_stays_while_its_member_may_be_chosen() {
    let list = List::of(&[1; 3]);
    let (chooser, mut random) = (Chooser::default(), numbers(1));
    let mut choose =
        |sticky| chooser.choose(Balance::Sticky, &list, Wish { sticky, ..Wish::default() }, &mut random).unwrap();
    for _ in 0..100 {
        assert_eq!(choose(Some(1)), 1);
        choose(None);
    }
    list.0[0].able.set(false);
    assert_eq!(choose(Some(1)), 1, "what happens to others changes nothing");
    list.0[1].able.set(false);
    assert_eq!(choose(Some(1)), 2);
    assert_eq!(choose(Some(17)), 2, "a place that there is not");
}

#[test]
fn nobody_is_chosen_when_nobody_may_be() {
    let (chooser, mut random) = (Chooser::default(), numbers(1));
    let (none, out) = (List::of(&[]), List::of(&[1, 1]));
    for member in &out.0 {
        member.able.set(false);
    }
    for how in Balance::ALL {
        for list in [&none, &out] {
            assert_eq!(chooser.choose(*how, list, Wish::default(), &mut random), None, "{how}");
        }
    }
}
