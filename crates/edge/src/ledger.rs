//! What this edge carried for whom since it began, over all its cores and all tenants that they ever met.
//!
//! A core hands over what it counted, once, and forgets it; who reads adds it up. So a core has counters only of whom it
//! served since it was asked last, and nothing that is kept for ever is ever copied on a core.

use crate::{
    core::{CoreReport, Order},
    meter::{Meter, Packed},
};
use berth_domain::TenantId;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{mpsc::UnboundedSender, oneshot},
    time::timeout,
};

/// A core that does not answer within this is left out; its counters come with the next report.
pub const CORE_TIME: Duration = Duration::from_secs(2);

/// What one core counted since it was asked last.
pub type Counted = HashMap<TenantId, Box<Meter>>;

#[derive(Debug, Default)]
pub struct Ledger {
    /// Handed over and not yet added: locked for as long as it takes to put one there, for cores do.
    new: Mutex<Vec<Counted>>,
    all: Mutex<Totals>,
}

impl Ledger {
    pub fn hand(&self, counted: Counted) {
        if !counted.is_empty() {
            self.new.lock().unwrap_or_else(PoisonError::into_inner).push(counted);
        }
    }

    /// All that was handed over, added up.
    pub fn read<R>(&self, read: impl FnOnce(&Totals) -> R) -> R {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let new = std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner));
        for (tenant, meter) in new.into_iter().flatten() {
            all.add(tenant, &meter);
        }
        read(&all)
    }
}

/// Every tenant's counters, which only rise.
#[derive(Debug, Default)]
pub struct Totals(HashMap<TenantId, Packed>);

impl Totals {
    fn add(&mut self, tenant: TenantId, more: &Meter) {
        let kept = self.0.entry(tenant).or_default();
        let mut sum = kept.meter();
        sum += more;
        *kept = Packed::of(&sum);
    }

    pub fn get(&self, tenant: TenantId) -> Option<Meter> {
        self.0.get(&tenant).map(Packed::meter)
    }

    pub fn iter(&self) -> impl Iterator<Item = (TenantId, Meter)> {
        self.0.iter().map(|(tenant, kept)| (*tenant, kept.meter()))
    }
}

/// Has all cores hand over what they counted. What they say of themselves.
pub async fn collect(cores: &[UnboundedSender<Order>]) -> Vec<CoreReport> {
    let mut reports = Vec::new();
    for core in cores {
        let (ask, answer) = oneshot::channel();
        if core.send(Order::Report(ask)).is_ok()
            && let Ok(Ok(report)) = timeout(CORE_TIME, answer).await
        {
            reports.push(report);
        }
    }
    reports
}

#[cfg(test)]
mod tests {
    use super::{Counted, Ledger};
    use crate::meter::Meter;
    use berth_domain::TenantId;

    fn tenant(number: u128) -> TenantId {
        TenantId::new(uuid::Uuid::from_u128(number))
    }

    fn counted(tenants: &[(u128, u16)]) -> Counted {
        let meter = |status| {
            let mut meter = Meter::default();
            meter.count(status, 700);
            Box::new(meter)
        };
        tenants.iter().map(|(number, status)| (tenant(*number), meter(*status))).collect()
    }

    #[test]
    fn what_cores_hand_over_is_added_once_and_read_as_often_as_anybody_likes() {
        let ledger = Ledger::default();
        ledger.hand(counted(&[(1, 200), (2, 200)]));
        ledger.hand(counted(&[(1, 503)]));
        for _ in 0..2 {
            let classes = |number| ledger.read(|all| all.get(tenant(number)).map(|meter| meter.classes));
            assert_eq!(classes(1), Some([0, 1, 0, 0, 1]));
            assert_eq!((classes(2), classes(3)), (Some([0, 1, 0, 0, 0]), None));
        }
        ledger.hand(counted(&[(1, 200)]));
        let seen = ledger.read(|all| all.iter().map(|(_, meter)| (meter.requests(), meter.time_us)).max());
        assert_eq!(seen, Some((3, 2_100)));
    }
}
