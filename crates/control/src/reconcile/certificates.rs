//! Hosts have certificates that are good for long, where the stack file names an authority. One order's trouble is no
//! other's.

use super::Loop;
use crate::{
    App, ControlError,
    orders::{self, Asked},
};
use async_trait::async_trait;
use berth_domain::OrderState;
use berth_store::{Order, StoreError};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use std::time::{Duration, Instant};
use tracing::{debug, warn};

/// Orders that are carried on beside each other.
const AT_ONCE: usize = 8;
/// Orders that one round takes up.
const DUE: i64 = 64;
/// A look at all hosts is made again after so many times what it took.
const REST: u32 = 20;

/// New orders wait so long after one was too many: of thousands that are due not each has to be told so.
const LIMITED_PAUSE: Duration = Duration::from_mins(1);

#[derive(Default)]
pub(super) struct Certificates {
    looked: Option<(Instant, Duration)>,
    /// When an authority last said that too many were asked for. It may mean one host or all.
    limited: Option<Instant>,
}

#[async_trait]
impl Loop for Certificates {
    const NAME: &'static str = "certificates";
    const PAUSE: Duration = Duration::from_secs(2);

    async fn round(&mut self, app: &App) -> Result<(), ControlError> {
        let authority = orders::authority(app).await?;
        if self.looked.is_none_or(|(then, took)| then.elapsed() > took * REST) {
            let begun = Instant::now();
            orders::follow_hosts(app, authority.is_some()).await?;
            self.looked = Some((begun, begun.elapsed()));
        }
        let Some((at, way)) = authority else { return Ok(()) };
        let now = Timestamp::now();
        let mut due = app.store().orders_due(now, DUE).await?;
        if self.limited.is_some_and(|since| since.elapsed() < LIMITED_PAUSE) {
            due.retain(|order| order.state == OrderState::Ordered);
        }
        if due.is_empty() {
            return Ok(());
        }
        let certificates = app.store().certificate_list().await?;
        let asked = Asked { account: orders::account(app, &at).await?, at, way, certificates };
        let asked = &asked;
        let carried = |mut order: Order| async move {
            let host = order.host.to_string();
            match orders::advance(app, asked, &mut order, now).await {
                Ok(limited) => return limited,
                // Another server goes on with it.
                Err(ControlError::Store(StoreError::Stale(_))) => debug!(host, "another server has the order"),
                Err(error) => {
                    warn!(host, error = error.full(), "the order for {host} stands still: {}", error.full());
                    if let Err(error) = orders::put_off(app, &order, &error).await {
                        debug!(host, error = error.full(), "nor can it be put off");
                    }
                }
            }
            false
        };
        let limited = &mut self.limited;
        let all = futures_util::stream::iter(due).map(carried).buffer_unordered(AT_ONCE);
        all.for_each(|limits| {
            if limits {
                *limited = Some(Instant::now());
            }
            std::future::ready(())
        })
        .await;
        Ok(())
    }
}
