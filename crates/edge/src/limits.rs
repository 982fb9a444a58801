//! How many requests a tenant may make: a token bucket per tenant and class, exact over all cores of this edge.
//! With other edges it is shared by [`crate::shared`].
//!
//! A bucket is one atomic that all cores share: the moment at which it would be full again. Taking a token moves that
//! moment on by one compare-and-set, so however a client spreads over connections and cores, it gets what one bucket
//! has. Knows no clock: a bucket is given nanoseconds of a monotonic one, so that a wall clock that jumps changes nothing; only
//! the end of a spent quota is a time of day.

use crate::{routing::plain_path, shared::Hand};
use berth_domain::TenantId;
use berth_wire::edge::RouteLimit;
use jiff::Timestamp;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// The class of requests that belong to no other.
pub const REST: &str = "api";
const SECOND_NS: u64 = 1_000_000_000;
/// Buckets of tenants that no core serves any more are looked for when there are this many more.
const SWEEP_FROM: usize = 1024;
/// Buckets of which the next process is told.
const OWED_MAX: usize = 100_000;

/// What a limit allows: so many requests at once, and as many again in the time it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub requests: u64,
    pub per_s: u32,
    /// A token comes back after this long.
    every_ns: u64,
    full_ns: u64,
}

impl Rate {
    /// `None`: nothing is allowed.
    pub fn new(requests: u64, per_s: u32) -> Option<Self> {
        let period_ns = u64::from(per_s.max(1)) * SECOND_NS;
        // More than one a nanosecond is no limit that anybody could reach.
        let every_ns = period_ns.checked_div(requests)?.max(1);
        Some(Self { requests, per_s: per_s.max(1), every_ns, full_ns: every_ns.saturating_mul(requests) })
    }

    /// What one of so many edges may give out by itself. Less than one request at once is none at all, so it is one.
    pub fn part(&self, edges: u32) -> Self {
        let every_ns = self.every_ns.saturating_mul(edges.max(1).into());
        Self { every_ns, full_ns: self.full_ns.max(every_ns), ..*self }
    }

    /// A token comes back after this long.
    #[cfg(any(feature = "cluster", test))]
    pub fn every_ns(&self) -> u64 {
        self.every_ns
    }

    /// And all of them after this.
    #[cfg(any(feature = "cluster", test))]
    pub fn full_ns(&self) -> u64 {
        self.full_ns
    }

    /// Until there is a token in a bucket that is full after this long.
    pub fn wait_ns(&self, owed_ns: u64) -> u64 {
        owed_ns.saturating_add(self.every_ns).saturating_sub(self.full_ns)
    }

    /// `full_at`: the moment at which the bucket is full.
    pub fn take(&self, full_at: &AtomicU64, now_ns: u64) -> Taken {
        let mut seen = full_at.load(Ordering::Relaxed);
        loop {
            let after = seen.max(now_ns).saturating_add(self.every_ns);
            let owed = after - now_ns;
            if owed > self.full_ns {
                return Taken::Empty { wait_ns: owed - self.full_ns };
            }
            match full_at.compare_exchange_weak(seen, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Taken::Token { left: (self.full_ns - owed) / self.every_ns },
                Err(other) => seen = other,
            }
        }
    }
}

/// A token was there, or will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Token {
        left: u64,
    },
    Empty {
        /// Until there is one.
        wait_ns: u64,
    },
    /// Other edges have to be asked.
    Unknown,
}

/// A bucket of this edge, and its hand in the common one.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Tenant and class, as all edges write it.
    pub name: Box<str>,
    /// The moment at which it will be full, in nanoseconds of the edge's clock.
    pub full_at_ns: AtomicU64,
    pub hand: Hand,
}

impl Bucket {
    pub fn take(&self, rate: &Rate, now_ns: u64) -> Taken {
        rate.take(&self.full_at_ns, now_ns)
    }

    /// Forgetting it now would give nobody a token.
    pub fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns.load(Ordering::Relaxed) <= now_ns
    }
}

/// One class's limit of one tenant, as a core uses it.
#[derive(Clone, Debug)]
pub struct Limit {
    pub class: Box<str>,
    /// `None`: no request of this class at all.
    pub rate: Option<Rate>,
    /// A quota is spent: by the wall clock, for a period's end is a time of day. From then on this one is not there.
    pub until: Option<Timestamp>,
    pub bucket: Arc<Bucket>,
}

/// A tenant's limits by class.
#[derive(Clone, Debug, Default)]
pub struct TenantLimits(Box<[Limit]>);

impl TenantLimits {
    /// The limit that a request to this path comes under: of the class whose name begins a part of the path, as `gps`
    /// begins `gps-positions` in `/api/v1/gps-positions`, else of `api`; a letter that is escaped is the same letter. `day` tells the time of day, where it matters.
    pub fn of(&self, path: &str, day: impl Fn() -> Timestamp) -> Option<&Limit> {
        let path = plain_path(path);
        let class =
            |limit: &&Limit| *limit.class != *REST && path.split('/').any(|part| part.starts_with(&*limit.class));
        let mut there = self.0.iter().filter(|limit| limit.until.is_none_or(|until| day() < until));
        there.clone().find(class).or_else(|| there.find(|limit| *limit.class == *REST))
    }

    pub fn are_full(&self, now_ns: u64) -> bool {
        self.0.iter().all(|limit| limit.bucket.is_full(now_ns))
    }
}

/// The buckets of this process, for as long as a core serves their tenant.
#[derive(Debug, Default)]
pub struct Buckets {
    all: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    buckets: HashMap<(TenantId, Box<str>), Weak<Bucket>>,
    /// What the process before this one had given out of buckets that nobody has asked for here: when each is full.
    before_ns: HashMap<Box<str>, u64>,
    sweep_at: usize,
}

impl Buckets {
    /// With buckets that another process of this edge gave out of until now. This edge's clock begins now.
    pub fn owing(before_ns: HashMap<Box<str>, u64>) -> Self {
        Self { all: Mutex::new(Kept { before_ns, ..Kept::default() }) }
    }

    /// Another process of this edge has given out of them until now, and gives no more.
    pub fn owe(&self, owed_ns: HashMap<Box<str>, u64>, now_ns: u64) {
        let mut kept = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, owed_ns) in owed_ns {
            kept.before_ns.insert(name, now_ns.saturating_add(owed_ns));
        }
        let Kept { buckets, before_ns, .. } = &mut *kept;
        for bucket in buckets.values().filter_map(Weak::upgrade) {
            if let Some(full_at_ns) = before_ns.remove(&bucket.name) {
                // What has been given here by then is no less.
                bucket.full_at_ns.fetch_max(full_at_ns, Ordering::Relaxed);
            }
        }
    }

    /// Buckets that are not full, and for how long not.
    pub fn owed_ns(&self, now_ns: u64) -> HashMap<Box<str>, u64> {
        let kept = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let owing = kept.buckets.values().filter_map(Weak::upgrade).filter_map(|bucket| {
            let owed_ns = bucket.full_at_ns.load(Ordering::Relaxed).saturating_sub(now_ns);
            (owed_ns > 0).then_some((owed_ns, bucket))
        });
        let mut owing: Vec<_> = owing.collect();
        drop(kept);
        if owing.len() > OWED_MAX {
            // Those that owe the most: what is left out is full the soonest.
            owing.select_nth_unstable_by_key(OWED_MAX, |(owed_ns, _)| std::cmp::Reverse(*owed_ns));
            owing.truncate(OWED_MAX);
        }
        owing.into_iter().map(|(owed_ns, bucket)| (bucket.name.clone(), owed_ns)).collect()
    }

    /// The same buckets for every core, and the same after a change of the limits.
    pub fn of(&self, tenant: TenantId, limits: &[RouteLimit]) -> TenantLimits {
        if limits.is_empty() {
            return TenantLimits::default();
        }
        let mut kept = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.buckets.len() >= kept.sweep_at {
            kept.buckets.retain(|_, bucket| bucket.strong_count() > 0);
            kept.sweep_at = kept.buckets.len() * 2 + SWEEP_FROM;
        }
        let Kept { buckets, before_ns, .. } = &mut *kept;
        let limit = |limit: &RouteLimit| {
            let class: Box<str> = limit.class.as_str().into();
            let slot = buckets.entry((tenant, class.clone())).or_default();
            let bucket = slot.upgrade().unwrap_or_else(|| {
                // Braces: all classes of a tenant lie in one slot of a cluster.
                let name: Box<str> = format!("{{{tenant}}}:{class}").into();
                let full_at_ns = AtomicU64::new(before_ns.remove(&name).unwrap_or_default());
                let bucket = Arc::new(Bucket { name, full_at_ns, hand: Hand::default() });
                *slot = Arc::downgrade(&bucket);
                bucket
            });
            Limit { class, rate: Rate::new(limit.requests, limit.per_s), until: limit.until, bucket }
        };
        TenantLimits(limits.iter().map(limit).collect())
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
