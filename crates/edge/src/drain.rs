//! When a long-lived connection is to end: at once because its tenant is elsewhere, or some time soon because the tenant,
//! its member or this edge is drained.
//!
//! Never ends it itself, and never ends two of a drain at the same moment on purpose: those who are sent away come back.

use crate::{core::Core, tenant::Tenant};
use berth_domain::MemberId;
use std::{rc::Rc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Returns when the connection is to end. A drain that is taken back before that lets it be.
pub async fn farewell(core: Rc<Core>, tenant: Rc<Tenant>, member: MemberId, left: CancellationToken) {
    let mut ends_at = None;
    loop {
        // Before the look, so that no change falls between.
        let changed = tenant.changed.notified();
        let grace = core.draining_ms().or_else(|| tenant.route().draining_ms(member));
        ends_at = grace.map(|grace_ms| ends_at.unwrap_or_else(|| Instant::now() + part(grace_ms, core.random())));
        let over = async {
            match ends_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = left.cancelled() => return,
            () = over => return,
            () = changed => {}
        }
    }
}

/// Somewhere between nothing and all of it.
fn part(grace_ms: u32, random: u64) -> Duration {
    Duration::from_millis(u64::from(grace_ms).saturating_mul(random >> 32) >> 32)
}

#[cfg(test)]
mod tests {
    use super::part;
    use crate::balance::mix;

    #[test]
    fn ends_are_spread_over_the_whole_grace() {
        let ends: Vec<_> = (0..1_000).map(|n| part(30_000, mix(n)).as_millis()).collect();
        for tenth in 0..10 {
            let number = ends.iter().filter(|end| **end / 3_000 == tenth).count();
            assert!((60..140).contains(&number), "{number} of 1,000 in one tenth");
        }
        assert_eq!(part(0, u64::MAX).as_millis(), 0);
    }
}
