//! What a route is packed into, and what of the tables a change touches.

use super::{Packed, Routes, SHARDS, keys, packed, unpacked};
use crate::measure::route;
use berth_domain::{Generation, Hostname, TenantId};
use berth_wire::edge::{RouteState, TenantRoute};
use hashbrown::HashTable;
use std::{
    collections::BTreeSet,
    hash::BuildHasher as _,
    ptr,
    sync::{Arc, RwLock},
};

#[test]
fn a_key_comes_out_as_it_went_in_and_one_that_is_a_uuid_is_kept_shorter() {
    for (key, bytes) in [
        ("0192f1a4-0000-7000-8000-00000000002a", 23),
        ("0192F1A4-0000-7000-8000-00000000002a", 36),
        ("0192f1a40000700080000000000000002a00", 36),
        ("acme", 4),
        ("\u{e4}", 2),
    ] {
        assert_eq!((packed(key).len(), &*unpacked(&packed(key))), (bytes, key));
    }
}

/// One entry: where in memory it lies, which route it names, and whose.
type Entry = (*const (), *const (), TenantId);

/// One table of one shard: its room and its entries. Equal to itself later only when nobody has written to it or put
/// another in its place.
#[derive(Debug, PartialEq)]
struct Laid {
    room: usize,
    entries: Vec<Entry>,
}

impl Laid {
    fn out<T>(shards: &[RwLock<HashTable<T>>], route: impl Fn(&T) -> &Arc<Packed>) -> Vec<Self> {
        let entry = |entry: &T| {
            let named = route(entry);
            (ptr::from_ref(entry).cast::<()>(), Arc::as_ptr(named).cast::<()>(), named.tenant)
        };
        let one = |shard: &RwLock<HashTable<T>>| {
            let table = shard.read().unwrap();
            Self { room: table.capacity(), entries: table.iter().map(&entry).collect() }
        };
        shards.iter().map(one).collect()
    }

    /// The routes that it names and that are not this tenant's.
    fn of_others(&self, tenant: TenantId) -> BTreeSet<*const ()> {
        let others = self.entries.iter().filter(|(_, _, of)| *of != tenant);
        others.map(|(_, route, _)| *route).collect()
    }
}

/// The tables of tenants and those of hosts.
fn laid(routes: &Routes) -> [Vec<Laid>; 2] {
    [Laid::out(&routes.tenants, |route| route), Laid::out(&routes.hosts, |owned| &owned.owner)]
}

/// Makes a change to one tenant's route, and looks that it wrote to the shards of this tenant and of its hosts, those before
/// and those after, and to nothing else. How many tables grew with it.
fn changed(routes: &Routes, before: Option<&TenantRoute>, after: Option<&TenantRoute>) -> usize {
    let shard = |hash: u64| (hash >> 40) as usize % SHARDS;
    let either = || before.into_iter().chain(after);
    let own = either().next().unwrap().tenant;
    let of_tenant: BTreeSet<usize> = [shard(routes.hasher.hash_one(own))].into();
    let of_hosts: BTreeSet<usize> = either().flat_map(keys).map(|key| shard(routes.hasher.hash_one(key))).collect();
    // Kept, so that no other route is put where one of them lay.
    let (kept, was) = (routes.all(), laid(routes));
    match after {
        Some(after) => routes.put(after, None),
        None => routes.remove(own),
    }
    let mut grown = 0;
    for ((was, is), wanted) in was.iter().zip(&laid(routes)).zip([of_tenant, of_hosts]) {
        let touched: BTreeSet<usize> = (0..SHARDS).filter(|at| was[*at] != is[*at]).collect();
        assert_eq!(touched, wanted, "of {SHARDS} shards");
        for at in touched {
            assert_eq!(was[at].of_others(own), is[at].of_others(own), "another tenant's route was put anew");
            grown += usize::from(is[at].room > was[at].room + was[at].room / 2);
        }
    }
    drop(kept);
    grown
}

#[test]
fn a_change_touches_its_own_entries_and_nothing_of_any_other_shard_however_many_routes_there_are() {
    let routes = Routes::default();
    for number in 0..3_200 {
        routes.put(&route(number, None), None);
    }
    let grown: usize = (3_200..3_500).map(|number| changed(&routes, None, Some(&route(number, None)))).sum();
    assert!(grown > 0, "a table that was full grew, and alone");
    for number in 0..50 {
        let old = route(number, None);
        let moved = TenantRoute { generation: Generation::new(2), ..old.clone() };
        changed(&routes, Some(&old), Some(&moved));
        let hosts = ["a", "b"].map(|which| Hostname::new(format!("{which}{number}.example.com")).unwrap());
        let renamed = TenantRoute { hosts: hosts.into(), ..moved.clone() };
        changed(&routes, Some(&moved), Some(&renamed));
        let suspended = TenantRoute { state: RouteState::Suspended, ..renamed.clone() };
        changed(&routes, Some(&renamed), Some(&suspended));
        let below = TenantRoute { hosts: Vec::new(), ..route(number, Some(&format!("*.w{number}.example.com"))) };
        changed(&routes, Some(&suspended), Some(&below));
        changed(&routes, Some(&below), None);
    }
    assert_eq!(routes.len(), 3_450);
}
