//! What a bucket gives over time, over threads and over changes of its limit. Given moments, no clock.

use super::{Bucket, Buckets, Rate, Taken};
use berth_domain::TenantId;
use berth_wire::edge::RouteLimit;
use jiff::Timestamp;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

const SECOND_NS: u64 = 1_000_000_000;

fn taken(bucket: &Bucket, rate: &Rate, now_ns: u64) -> bool {
    matches!(bucket.take(rate, now_ns), Taken::Token { .. })
}

#[test]
fn a_full_bucket_gives_its_burst_at_once_and_then_one_token_at_a_time() {
    let (bucket, rate) = (Bucket::default(), Rate::new(100, 60).unwrap());
    let now = 5 * SECOND_NS;
    let left: Vec<_> = (0..100).map(|_| bucket.take(&rate, now)).collect();
    assert_eq!((left[0], left[99]), (Taken::Token { left: 99 }, Taken::Token { left: 0 }));
    assert_eq!(bucket.take(&rate, now), Taken::Empty { wait_ns: 600_000_000 });
    assert_eq!(bucket.take(&rate, now + 599_999_999), Taken::Empty { wait_ns: 1 });
    assert_eq!(bucket.take(&rate, now + 600_000_000), Taken::Token { left: 0 });
    assert!(!bucket.is_full(now + 60 * SECOND_NS));
    assert!(bucket.is_full(now + 61 * SECOND_NS));
}

/// Vector A16 of the guides, in docs/vectors.md: twenty at once, then ten a second. A bucket is as large as what it is filled
/// with in its time, so that is twenty in two seconds.
#[test]
fn a16_twenty_are_accepted_at_once_and_then_ten_a_second() {
    let (bucket, rate) = (Bucket::default(), Rate::new(20, 2).unwrap());
    let now = 5 * SECOND_NS;
    assert_eq!((0..30).filter(|_| taken(&bucket, &rate, now)).count(), 20);
    for second in 1..=5 {
        // Asked for a thousand times in that second.
        let given =
            (1..=1_000).filter(|n| taken(&bucket, &rate, now + (second - 1) * SECOND_NS + n * SECOND_NS / 1_000));
        assert_eq!(given.count(), 10, "second {second}");
    }
}

#[test]
fn what_is_given_over_a_long_time_is_the_burst_and_the_rate_whatever_the_rate_is() {
    for (requests, per_s) in [(1, 60), (7, 60), (10, 60), (100, 60), (1_000, 60), (100_000, 1), (3, 1)] {
        let (bucket, rate) = (Bucket::default(), Rate::new(requests, per_s).unwrap());
        let seconds = 20 * u64::from(per_s);
        // Asked twice as often as is allowed, at moments that fall on nothing.
        let asked = requests * 40;
        let given = (0..asked).filter(|n| taken(&bucket, &rate, n * (seconds * SECOND_NS / asked) + 17)).count() as f64;
        let allowed = (requests + requests * seconds / u64::from(per_s)) as f64;
        assert!((given - allowed).abs() <= (allowed / 100.0).max(1.0), "{requests}/{per_s} s: {given} of {allowed}");
    }
}

#[test]
fn threads_together_get_what_one_would() {
    let (bucket, rate) = (Bucket::default(), Rate::new(50_000, 1).unwrap());
    let (given, clock) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100_000 {
                    // All four walk through the same four seconds together.
                    let now = clock.fetch_add(10_000, Ordering::Relaxed);
                    given.fetch_add(u64::from(taken(&bucket, &rate, now)), Ordering::Relaxed);
                }
            });
        }
    });
    let allowed = 50_000.0 + 50_000.0 * 4.0;
    let given = given.into_inner() as f64;
    assert!((given - allowed).abs() <= allowed / 100.0, "{given} of {allowed}");
}

#[test]
fn a_limit_of_none_gives_nothing_and_an_absent_one_is_none() {
    assert_eq!(Rate::new(0, 60), None);
    let buckets = Buckets::default();
    let tenant = TenantId::new(uuid::Uuid::from_u128(1));
    assert!(buckets.of(tenant, &[]).of("/", never).is_none());
}

fn limit(class: &str, requests: u64) -> RouteLimit {
    RouteLimit { class: class.to_owned(), requests, per_s: 60, until: None }
}

/// The time of day is asked for only where something ends.
fn never() -> Timestamp {
    panic!("nothing here ends")
}

#[test]
fn a_wall_clock_that_jumps_gives_and_takes_no_token() {
    let (tenant, buckets) = (TenantId::new(uuid::Uuid::from_u128(1)), Buckets::default());
    let end = Timestamp::from_second(1_750_000_000).unwrap();
    let spent = RouteLimit { until: Some(end), ..limit("gps", 0) };
    let limits = buckets.of(tenant, &[spent, limit("gps", 60), limit("api", 60)]);
    // Ten minutes of the edge's own clock, ten requests a second, while the time of day leaps by years both ways.
    let (mut given, mut refused) = (0_u64, 0_u64);
    for n in 0..6_000_u64 {
        let leap = [0, 94_608_000, -94_608_000, 1, -3_600][n as usize % 5];
        let day = || Timestamp::from_second(1_700_000_000 + leap).unwrap();
        let taken = |path: &str| {
            let limit = limits.of(path, day).unwrap();
            limit.rate.map(|rate| taken(&limit.bucket, &rate, n * SECOND_NS / 10))
        };
        given += u64::from(taken("/") == Some(true));
        // Of the quota the time of day decides, and only whether it is there.
        refused += u64::from(taken("/gps").is_none());
        assert_eq!(taken("/gps").is_none(), day() < end);
    }
    assert_eq!(given, 60 + 599, "what was there, and one a second");
    assert_eq!(refused, 6_000 * 4 / 5);
}

#[test]
fn what_was_spent_ends_by_itself_and_the_plans_own_limit_counts_again() {
    let tenant = TenantId::new(uuid::Uuid::from_u128(1));
    let end = Timestamp::from_second(86_400).unwrap();
    let spent = |class| RouteLimit { until: Some(end), ..limit(class, 0) };
    let (before, after) = (|| Timestamp::from_second(86_399).unwrap(), || Timestamp::from_second(86_400).unwrap());
    let limits = Buckets::default().of(tenant, &[limit("api", 5), spent("gps"), limit("gps", 2), spent("upload")]);
    let rate = |path, at: &dyn Fn() -> Timestamp| limits.of(path, at).map(|limit| limit.rate.map(|rate| rate.requests));
    for (path, then, later) in [("/gps", None, Some(2)), ("/upload", None, Some(5)), ("/", Some(5), Some(5))] {
        assert_eq!(rate(path, &before), Some(then), "{path} before the end");
        assert_eq!(rate(path, &after), Some(later), "{path} from the end on");
    }
    // What an older control plane says has no end.
    let old: RouteLimit = serde_json::from_str(r#"{"class":"gps","requests":0,"per_s":60}"#).unwrap();
    assert_eq!(old, limit("gps", 0));
    assert_eq!(serde_json::to_string(&old).unwrap(), r#"{"class":"gps","requests":0,"per_s":60}"#);
}

#[test]
fn a_request_comes_under_the_class_that_its_path_names() {
    let tenant = TenantId::new(uuid::Uuid::from_u128(1));
    let limits = Buckets::default().of(tenant, &[limit("api", 1), limit("gps", 2), limit("upload", 3)]);
    for (path, class) in [
        ("/", "api"),
        ("/api/v1/gps-positions", "gps"),
        ("/gps", "gps"),
        ("/api/uploads/7", "upload"),
        ("/my-gps", "api"),
        ("/api/v1/vehicles", "api"),
        ("/api/v1/%75ploads", "upload"),
        ("/%67%70%73", "gps"),
        ("/api%2Fuploads", "api"),
        ("/%2575ploads", "api"),
    ] {
        assert_eq!(limits.of(path, never).map(|l| &*l.class), Some(class), "{path}");
    }
}

#[test]
fn cores_share_a_tenants_bucket_and_a_changed_limit_does_not_fill_it() {
    let (one, other) = (TenantId::new(uuid::Uuid::from_u128(1)), TenantId::new(uuid::Uuid::from_u128(2)));
    let buckets = Buckets::default();
    let core = buckets.of(one, &[limit("api", 10)]);
    let limit_of = |limits: &super::TenantLimits| limits.of("/", never).cloned().unwrap();
    for _ in 0..10 {
        assert!(taken(&limit_of(&core).bucket, &limit_of(&core).rate.unwrap(), 0));
    }
    let same = limit_of(&buckets.of(one, &[limit("api", 10)]));
    assert!(Arc::ptr_eq(&same.bucket, &limit_of(&core).bucket));
    assert!(!taken(&same.bucket, &same.rate.unwrap(), 0));
    let wider = limit_of(&buckets.of(one, &[limit("api", 20)]));
    assert!(!taken(&wider.bucket, &wider.rate.unwrap(), 0), "sixty seconds are owed, whatever the limit is now");
    let theirs = limit_of(&buckets.of(other, &[limit("api", 10)]));
    assert!(taken(&theirs.bucket, &theirs.rate.unwrap(), 0), "a neighbour's bucket is its own");
}

#[test]
fn what_another_process_has_given_meanwhile_is_owed_by_buckets_in_use_and_by_those_to_come() {
    let (tenant, limit) = (TenantId::new(uuid::Uuid::from_u128(1)), |class: &str| RouteLimit {
        class: class.into(),
        requests: 3,
        per_s: 3,
        until: None,
    });
    let name = |class: &str| -> Box<str> { format!("{{{tenant}}}:{class}").into() };
    let buckets = Buckets::owing([(name("gps"), SECOND_NS)].into());
    let used = buckets.of(tenant, &[limit("api")]);
    let rate = Rate::new(3, 3).unwrap();
    assert!(taken(&used.0[0].bucket, &rate, SECOND_NS), "by a process that did not wait");
    buckets.owe([(name("api"), 3 * SECOND_NS), (name("gps"), 2 * SECOND_NS)].into(), SECOND_NS);
    assert!(!taken(&used.0[0].bucket, &rate, SECOND_NS));
    let both = buckets.of(tenant, &[limit("api"), limit("gps")]);
    assert!(taken(&both.0[1].bucket, &rate, SECOND_NS), "one of three was left");
    assert!(!taken(&both.0[1].bucket, &rate, SECOND_NS));
    assert_eq!(buckets.owed_ns(SECOND_NS), [(name("api"), 3 * SECOND_NS), (name("gps"), 3 * SECOND_NS)].into());
}
