//! How many requests a tenant may make: a token bucket per tenant and class, exact over all cores of this edge.
//!
//! A bucket is one atomic that all cores share: the moment at which it would be full again. Taking a token moves that
//! moment on by one compare-and-set, so however a client spreads over connections and cores, it gets what one bucket
//! has. Knows no clock: it is given nanoseconds of a monotonic one, so that a wall clock that jumps changes nothing.

use berth_domain::TenantId;
use berth_wire::edge::RouteLimit;
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
}

/// The moment at which the bucket will be full, in nanoseconds of the edge's clock.
#[derive(Debug, Default)]
pub struct Bucket {
    full_at_ns: AtomicU64,
}

impl Bucket {
    pub fn take(&self, rate: &Rate, now_ns: u64) -> Taken {
        let mut full_at = self.full_at_ns.load(Ordering::Relaxed);
        loop {
            let after = full_at.max(now_ns).saturating_add(rate.every_ns);
            let owed = after - now_ns;
            if owed > rate.full_ns {
                return Taken::Empty { wait_ns: owed - rate.full_ns };
            }
            match self.full_at_ns.compare_exchange_weak(full_at, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Taken::Token { left: (rate.full_ns - owed) / rate.every_ns },
                Err(seen) => full_at = seen,
            }
        }
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
    pub bucket: Arc<Bucket>,
}

/// A tenant's limits by class.
#[derive(Clone, Debug, Default)]
pub struct TenantLimits(Box<[Limit]>);

impl TenantLimits {
    /// The limit that a request to this path comes under: of the class whose name begins a part of the path, as `gps`
    /// begins `gps-positions` in `/api/v1/gps-positions`, else of `api`.
    pub fn of(&self, path: &str) -> Option<&Limit> {
        let class =
            |limit: &&Limit| *limit.class != *REST && path.split('/').any(|part| part.starts_with(&*limit.class));
        self.0.iter().find(class).or_else(|| self.0.iter().find(|limit| *limit.class == *REST))
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
    sweep_at: usize,
}

impl Buckets {
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
        let limit = |limit: &RouteLimit| {
            let class: Box<str> = limit.class.as_str().into();
            let slot = kept.buckets.entry((tenant, class.clone())).or_default();
            let bucket = slot.upgrade().unwrap_or_else(|| {
                let bucket = Arc::default();
                *slot = Arc::downgrade(&bucket);
                bucket
            });
            Limit { class, rate: Rate::new(limit.requests, limit.per_s), bucket }
        };
        TenantLimits(limits.iter().map(limit).collect())
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
