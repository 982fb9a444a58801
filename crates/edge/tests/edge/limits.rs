//! Limits as clients meet them: refused with what they need to come back, exact over cores, a neighbour's own.

use crate::world::{Client, World, route};
use berth_wire::edge::{RouteLimit, TenantRoute};
use http::{Method, StatusCode};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

pub fn limited(mut from: TenantRoute, limits: &[(&str, u64, u32)]) -> TenantRoute {
    let limit = |(class, requests, per_s): &(&str, u64, u32)| RouteLimit {
        class: (*class).to_owned(),
        requests: *requests,
        per_s: *per_s,
        until: None,
    };
    from.limits = limits.iter().map(limit).collect();
    from
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_over_its_limit_is_told_when_to_come_back_and_its_neighbour_is_served() {
    let world = World::start().await;
    let neighbour = limited(route(2, 1, "shared", &[&world.old]), &[("api", 3, 3600)]);
    world
        .control
        .put(vec![limited(world.home(), &[("api", 3, 3600), ("gps", 1, 3600), ("none", 0, 60)]), neighbour])
        .await;
    let mut client = world.edge.client().await;
    for _ in 0..3 {
        assert_eq!(client.ask(Method::GET, "t1.test", "/", "").await.status, StatusCode::OK);
    }
    let refused = client.ask(Method::POST, "t1.test", "/", "body").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.body.contains(r#""code":"rate_limited""#), "{}", refused.body);
    assert_eq!(refused.headers["ratelimit-policy"], "\"limit\";q=3;w=3600");
    let wait: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1100..=1200).contains(&wait), "a token comes back every 1200 s, in {wait}");
    assert_eq!(refused.headers["ratelimit"], format!("\"limit\";r=0;t={wait}"));
    // Another class has a bucket of its own, and so has another tenant.
    assert_eq!(client.ask(Method::GET, "t1.test", "/gps/1", "").await.status, StatusCode::OK);
    assert_eq!(client.ask(Method::GET, "t1.test", "/gps/1", "").await.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(client.ask(Method::GET, "t1.test", "/none", "").await.status, StatusCode::FORBIDDEN);
    assert_eq!(client.ask(Method::GET, "t2.test", "/", "").await.status, StatusCode::OK);
    assert_eq!(world.old.writes(), 0, "what is refused is not sent on");
    assert!(world.edge.admin("/metrics").await.contains("berth_edge_limited_total{tenant=\"t1\"} 3\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_limit_counts_from_the_next_request_and_gives_nobody_a_new_bucket() {
    let world = World::start().await;
    world.control.put(vec![limited(world.home(), &[("api", 2, 3600)])]).await;
    let mut client = world.edge.client().await;
    let mut status = async || client.ask(Method::GET, "t1.test", "/", "").await.status.as_u16();
    assert_eq!((status().await, status().await, status().await), (200, 200, 429));
    world.control.put(vec![limited(world.home(), &[("api", 2, 3600)])]).await;
    assert_eq!(status().await, 429, "the same limit again is the same bucket");
    world.control.put(vec![world.home()]).await;
    assert_eq!(status().await, 200, "no limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_spent_comes_back_with_the_next_period_though_nobody_says_so() {
    let world = World::start().await;
    let mut client = world.edge.client().await;
    // A machine that was too slow to ask before the end shows nothing of the refusal: another tenant has longer.
    let (mut number, mut lasts_s) = (0, 2);
    let (host, until) = loop {
        number += 1;
        let mut route = limited(route(number, 1, "shared", &[&world.old]), &[("gps", 0, 60), ("gps", 3, 3600)]);
        let until = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(lasts_s);
        route.limits[0].until = Some(until);
        world.control.put(vec![route]).await;
        let (host, before) = (format!("t{number}.test"), world.old.writes());
        let refused = client.ask(Method::POST, &host, "/gps/1", "body").await;
        if jiff::Timestamp::now() < until {
            assert_eq!(refused.status, StatusCode::FORBIDDEN);
            assert!(refused.body.contains(r#""code":"quota_spent""#), "{}", refused.body);
            let wait_s = refused.headers["retry-after"].to_str().unwrap().parse::<i64>().unwrap();
            assert!((1..=lasts_s).contains(&wait_s), "{wait_s} of {lasts_s}");
            assert_eq!(world.old.writes(), before, "what is refused is not sent on");
            break (host, until);
        }
        lasts_s *= 2;
        assert!(lasts_s < 60, "no refusal could be seen");
    };
    // Control says nothing more: the edge knows by itself, and then what the plan says of the class counts.
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let status = client.ask(Method::GET, &host, "/gps/1", "").await.status;
        if status == StatusCode::OK {
            break;
        }
        assert!(Instant::now() < deadline, "still {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(jiff::Timestamp::now() >= until);
    let mut status = async || client.ask(Method::GET, &host, "/gps/1", "").await.status.as_u16();
    assert_eq!((status().await, status().await, status().await), (200, 200, 429));
}

/// What clients got who asked as fast as they could.
#[derive(Clone, Copy, Debug, Default)]
pub struct Got {
    pub good: u64,
    /// When the first answer was there: the bucket has been emptied since then at the latest.
    pub first_s: f64,
    /// When the last request that was refused set out: until then at the earliest.
    pub refused_s: Option<f64>,
    pub whole_s: f64,
}

impl Got {
    pub fn add(&mut self, got: Self) {
        self.good += got.good;
        self.first_s = self.first_s.min(got.first_s);
        self.refused_s = match (self.refused_s, got.refused_s) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (one, other) => one.or(other),
        };
    }
}

/// For that time, and on a slow machine until somebody was refused: before that nothing is known of a limit.
pub fn goes_on(started: Instant, time: Duration, refused: &AtomicBool) -> bool {
    let elapsed = started.elapsed();
    elapsed < time || (!refused.load(Ordering::Relaxed) && elapsed < Duration::from_mins(1))
}

async fn hammered(world: &World, clients: usize, hop: bool, time: Duration) -> Got {
    let address = world.edge.address;
    let started = Instant::now();
    let at = move || started.elapsed().as_secs_f64();
    let refused = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..clients)
        .map(|_| {
            let refused = Arc::clone(&refused);
            tokio::spawn(async move {
                let mut got = Got { first_s: f64::INFINITY, ..Got::default() };
                let mut client = Client::connect(address).await;
                while goes_on(started, time, &refused) {
                    if hop {
                        client = Client::connect(address).await;
                    }
                    let asked_s = at();
                    match client.ask(Method::GET, "t1.test", "/", "").await.status {
                        StatusCode::OK => got.good += 1,
                        StatusCode::TOO_MANY_REQUESTS => {
                            refused.store(true, Ordering::Relaxed);
                            got.refused_s = Some(asked_s);
                        }
                        other => panic!("{other}"),
                    }
                    got.first_s = got.first_s.min(at());
                }
                got
            })
        })
        .collect();
    let mut all = Got { first_s: f64::INFINITY, ..Got::default() };
    for task in tasks {
        all.add(task.await.unwrap());
    }
    all.whole_s = at();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_gets_its_limit_to_one_in_a_hundred_however_its_clients_spread_over_cores() {
    // Sixty a second, and as much as four seconds at once: no client of a busy machine sleeps so long.
    for (clients, hop) in [(1, false), (8, false), (2, true)] {
        let world = World::with(|c| c.workers = 4).await;
        world.control.put(vec![limited(world.home(), &[("api", 240, 4)])]).await;
        let got = hammered(&world, clients, hop, Duration::from_secs(3)).await;
        let good = got.good as f64;
        let most = 240.0 + 60.0 * got.whole_s;
        assert!(good <= most * 1.01 + 1.0, "{clients} clients: {good} of {most}: {got:?}");
        let refused_s = got.refused_s.expect("asked for more than sixty a second");
        let least = 240.0 + 60.0 * (refused_s - got.first_s);
        assert!(good >= least * 0.99 - 1.0, "{clients} clients: {good} of {least}: {got:?}");
    }
}
