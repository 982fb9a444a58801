//! Which tenants metrics name, so that what is said under a name, and of all others as one, only rises.
//!
//! Pure. A tenant is named when it is among the busiest, and stays so while it is routed and there is room. What had been
//! said of it as one of the others stays theirs: its own line begins with what came after.

use crate::{
    ledger::Totals,
    meter::{Meter, Packed},
};
use berth_domain::TenantId;
use std::{cmp::Reverse, collections::HashMap};

/// Tenants that are named because they are the busiest.
pub const BUSIEST: usize = 50;
/// Names at most, of those who have been among the busiest.
pub const NAMES_MAX: usize = 200;
/// All whom no line names.
const OTHERS: &str = "other";

#[derive(Debug, Default)]
pub struct Named {
    /// With what is said of each among the others.
    names: HashMap<TenantId, (String, Meter)>,
    /// What was said under the names of tenants that are not routed any more: nobody's now.
    gone: HashMap<TenantId, Packed>,
    /// A line of the others has been shown.
    others: bool,
}

impl Named {
    /// A line for each tenant that is named, busiest first, and one for all others. `name`: of tenants that are routed.
    pub fn lines(&mut self, all: &Totals, name: impl Fn(TenantId) -> Option<String>) -> Vec<(String, Meter)> {
        self.forget_gone(all, &name);
        let mut by_requests: Vec<_> = all.iter().map(|(tenant, meter)| (Reverse(meter.requests()), tenant)).collect();
        by_requests.sort_unstable();
        let routed = by_requests.into_iter().filter_map(|(_, tenant)| Some((tenant, name(tenant)?)));
        for (tenant, name) in routed.take(BUSIEST) {
            if self.names.contains_key(&tenant) || self.names.len() >= NAMES_MAX {
                continue;
            }
            let said = self.others || self.gone.contains_key(&tenant);
            let theirs = all.get(tenant).filter(|_| said).unwrap_or_default();
            self.names.insert(tenant, (name, theirs));
        }
        let (mut lines, mut other) = (Vec::new(), Meter::default());
        for (tenant, meter) in all.iter() {
            if let Some((name, theirs)) = self.names.get(&tenant) {
                lines.push((name.clone(), meter.without(theirs)));
                other += theirs;
            } else {
                self.others |= !self.gone.contains_key(&tenant);
                other += &meter;
            }
        }
        lines.sort_unstable_by(|(one, mine), (two, theirs)| {
            theirs.requests().cmp(&mine.requests()).then_with(|| one.cmp(two))
        });
        if self.others {
            let gone = self.gone.values().fold(other, |other, gone| other.without(&gone.meter()));
            lines.push((String::from(OTHERS), gone));
        }
        lines
    }

    /// A name may be another tenant's next: it goes with its route, and what was said under it does not leap to the others.
    fn forget_gone(&mut self, all: &Totals, name: &impl Fn(TenantId) -> Option<String>) {
        let gone = &mut self.gone;
        self.names.retain(|tenant, (said, theirs)| {
            let stays = name(*tenant).is_some_and(|now| now == *said);
            if !stays && let Some(meter) = all.get(*tenant) {
                let kept = gone.entry(*tenant).or_default();
                let mut sum = kept.meter();
                sum += &meter.without(theirs);
                *kept = Packed::of(&sum);
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{BUSIEST, NAMES_MAX, Named};
    use crate::{ledger::Ledger, meter::Meter};
    use berth_domain::TenantId;
    use std::collections::BTreeMap;

    fn tenant(number: usize) -> TenantId {
        TenantId::new(uuid::Uuid::from_u128(number as u128))
    }

    /// Counts so many requests for each of these.
    fn count(ledger: &Ledger, requests: impl Iterator<Item = (usize, usize)>) {
        let meter = |number| {
            let mut meter = Meter::default();
            (0..number).for_each(|_| meter.count(200, 1));
            Box::new(meter)
        };
        ledger.hand(requests.map(|(number, count)| (tenant(number), meter(count))).collect());
    }

    fn shown(named: &mut Named, ledger: &Ledger, gone: &[usize]) -> BTreeMap<String, u64> {
        let name = |tenant: TenantId| {
            let number = tenant.uuid().as_u128() as usize;
            (!gone.contains(&number)).then(|| format!("t{number:04}"))
        };
        let lines = ledger.read(|all| named.lines(all, name));
        lines.into_iter().map(|(name, meter)| (name, meter.requests())).collect()
    }

    #[test]
    fn no_line_ever_falls_whoever_is_busiest_and_no_request_is_shown_twice() {
        let (ledger, mut named) = (Ledger::default(), Named::default());
        let mut before = BTreeMap::new();
        let mut all = 0;
        for turn in 0..20 {
            // Another thirty are the busiest each time, far ahead of all who were before.
            count(&ledger, (0..1_000).map(|n| (n, if n / 30 == turn { (turn + 1) * 50 } else { 1 })));
            all += 970 + 30 * (turn + 1) * 50;
            let now = shown(&mut named, &ledger, &[]);
            for (name, requests) in &before {
                assert!(now.get(name) >= Some(requests), "{name} at {turn}: {requests}, then {:?}", now.get(name));
            }
            assert_eq!(now.values().sum::<u64>(), all as u64, "at {turn}");
            assert!(now.len() <= NAMES_MAX + 1, "{}", now.len());
            // Who is named for the first time has no past under its name, and the others have not lost it.
            let new = now.keys().filter(|name| turn > 0 && !before.contains_key(*name));
            assert!(new.clone().all(|name| now[name] == 0), "{:?}", new.collect::<Vec<_>>());
            before = now;
        }
        assert_eq!(before.len(), NAMES_MAX + 1);
    }

    #[test]
    fn while_there_is_a_name_for_each_a_line_has_all_that_is_its_tenants() {
        let (ledger, mut named) = (Ledger::default(), Named::default());
        for number in 0..BUSIEST {
            count(&ledger, [(number, 3)].into_iter());
            let now = shown(&mut named, &ledger, &[]);
            assert_eq!((now.len(), now.values().sum::<u64>()), (number + 1, 3 * (number as u64 + 1)));
        }
        count(&ledger, [(BUSIEST, 1)].into_iter());
        let now = shown(&mut named, &ledger, &[]);
        assert_eq!((now.len(), now["other"]), (BUSIEST + 1, 1));
    }

    #[test]
    fn who_is_not_routed_any_more_loses_its_name_and_its_past_does_not_leap_to_the_others() {
        let (ledger, mut named) = (Ledger::default(), Named::default());
        count(&ledger, (0..BUSIEST + 2).map(|n| (n, if n < BUSIEST { 100 } else { 1 })));
        assert_eq!(shown(&mut named, &ledger, &[])["other"], 2);
        let now = shown(&mut named, &ledger, &[7]);
        assert!(!now.contains_key("t0007"));
        assert_eq!((now.len(), now["other"]), (BUSIEST + 1, 2), "one of the two has its place");
        // A request that was under way then is one of the others.
        count(&ledger, [(7, 1)].into_iter());
        assert_eq!(shown(&mut named, &ledger, &[7])["other"], 3);
        // And routed again, it begins anew.
        let now = shown(&mut named, &ledger, &[]);
        assert_eq!((now["t0007"], now["other"]), (0, 3));
        count(&ledger, [(7, 5)].into_iter());
        let now = shown(&mut named, &ledger, &[]);
        assert_eq!((now["t0007"], now["other"]), (5, 3));
    }
}
