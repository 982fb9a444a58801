//! The members of one cell as a core sees them: who may be chosen, who is chosen, and what came of it.
//!
//! One pool for all tenants of a cell, so turns and counts are the cell's. Never opens a connection itself.

use crate::{
    balance::{Choice, Chooser, Wish, digest},
    dial::Trust,
    geo::Spot,
    upstream::{Member, Upstreams},
};
use berth_domain::{Balance, MemberId, ServiceName, Signer};
use berth_wire::edge::{EdgeSettings, Ejection, MemberAddress, ServiceSettings};
use std::{
    cell::{Cell, RefCell},
    fmt::Display,
    rc::Rc,
    time::{Duration, Instant},
};

/// A member whose connect failed on this core is passed over for this long while others are there.
const PASSED_OVER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Pool {
    entries: Box<[Entry]>,
    balance: Cell<Balance>,
    /// Regions of the members, and where they are as far as that is known.
    regions: RefCell<Vec<(String, Option<Spot>)>>,
    chooser: Chooser,
    /// Nanoseconds are counted from here.
    epoch: Instant,
}

#[derive(Debug)]
struct Entry {
    id: MemberId,
    service: ServiceName,
    member: Rc<Member>,
    seed: u64,
    draining_ms: Option<u32>,
    weight: Cell<u32>,
    eject: Cell<Option<Ejection>>,
    /// Number of its region. `None`: where its cell is.
    region: Cell<Option<usize>>,
    /// Of its service. `None`: it is handed no signatures.
    signer: RefCell<Option<Rc<Signer>>>,
}

impl Pool {
    pub fn new(members: &[MemberAddress], upstreams: &Upstreams, epoch: Instant) -> Self {
        let entry = |from: &MemberAddress| Entry {
            id: from.member,
            service: from.service.clone(),
            member: upstreams.member(&from.address),
            seed: digest(from.member.uuid().as_bytes()),
            draining_ms: from.draining_ms,
            weight: Cell::new(1),
            eject: Cell::new(None),
            region: Cell::new(None),
            signer: RefCell::default(),
        };
        let entries = members.iter().map(entry).collect();
        Self { entries, balance: Cell::default(), regions: RefCell::default(), chooser: Chooser::default(), epoch }
    }

    /// Puts settings in force. Who is being served by whom stays.
    pub fn set(&self, settings: &EdgeSettings, trust: &Trust) {
        let usual = ServiceSettings::default();
        let mut regions: Vec<(String, Option<Spot>)> = Vec::new();
        for entry in &self.entries {
            let own = settings.services.get(&entry.service).unwrap_or(&usual);
            entry.weight.set(own.weight);
            entry.eject.set(own.eject);
            entry.region.set(own.region.as_ref().map(|name| {
                let known = regions.iter().position(|(other, _)| other == name);
                known.unwrap_or_else(|| {
                    let at = settings.geo.as_ref().and_then(|geo| geo.regions.get(name));
                    regions.push((name.clone(), at.map(|(north, east)| Spot { north: *north, east: *east })));
                    regions.len() - 1
                })
            }));
            let key = own.signature_key.as_ref();
            *entry.signer.borrow_mut() = key.and_then(|key| Signer::new(key.expose())).map(Rc::new);
            entry.member.set(own, trust);
            // The same for all services of a cell: the stack file is refused otherwise.
            self.balance.set(own.balance);
        }
        *self.regions.borrow_mut() = regions;
    }

    /// Its members are not all where their cell is.
    pub fn is_spread(&self) -> bool {
        !self.regions.borrow().is_empty()
    }

    /// The pool's number of a region; of one that it has not, a number that no member has.
    pub fn region(&self, name: &str) -> usize {
        self.regions.borrow().iter().position(|(other, _)| other == name).unwrap_or(usize::MAX)
    }

    /// Regions from the nearest on; last those of which nobody knows where they are, and members where their cell is.
    fn by_nearness(&self, spot: Spot) -> Vec<Group> {
        let regions = self.regions.borrow();
        let mut known: Vec<(usize, f32)> =
            regions.iter().enumerate().filter_map(|(n, (_, at))| Some((n, at.as_ref()?.far_from(spot)))).collect();
        known.sort_by(|one, other| one.1.total_cmp(&other.1));
        let unknown = (0..regions.len()).filter(|n| regions[*n].1.is_none());
        known.iter().map(|(n, _)| *n).chain(unknown).map(Group::Region).chain([Group::Home]).collect()
    }

    pub fn balance(&self) -> Balance {
        self.balance.get()
    }

    /// Place of the member with this id.
    pub fn place(&self, id: MemberId) -> Option<usize> {
        self.entries.iter().position(|entry| entry.id == id)
    }

    /// `None`: it is not drained, or not here.
    pub fn draining_ms(&self, id: MemberId) -> Option<u32> {
        self.entries.iter().find(|entry| entry.id == id)?.draining_ms
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// One that has not been tried for this request. Whoever failed lately comes last; who is down never.
    pub fn choose(self: &Rc<Self>, wish: Wish, tried: &[usize], random: &mut impl FnMut() -> u64) -> Option<Busy> {
        let part = |group, last_resort| Among { pool: self, tried, last_resort, only: wish.only, group };
        let mut choose = |among| self.chooser.choose(self.balance(), &among, wish, random);
        let mut near = || -> Option<usize> {
            let spot = wish.spot?;
            // Who has a member keeps it, wherever that is.
            if let Some(at) = wish.sticky.filter(|at| part(Group::All, false).may(*at)) {
                return Some(at);
            }
            self.by_nearness(spot).into_iter().find_map(|group| choose(part(group, false)))
        };
        let at = near().or_else(|| choose(part(Group::All, false))).or_else(|| choose(part(Group::All, true)))?;
        Some(Busy::new(self, at))
    }
}

/// The members that one choice is made among.
struct Among<'a> {
    pool: &'a Pool,
    tried: &'a [usize],
    /// Nobody else is left, so those that failed lately are tried too.
    last_resort: bool,
    /// The tenant is served in this region alone, and where its cell is.
    only: Option<usize>,
    group: Group,
}

/// A part of the members.
#[derive(Clone, Copy)]
enum Group {
    All,
    Region(usize),
    /// Where their cell is.
    Home,
}

impl Choice for Among<'_> {
    fn number(&self) -> usize {
        self.pool.entries.len()
    }

    fn may(&self, at: usize) -> bool {
        let Entry { member, draining_ms, region, .. } = &self.pool.entries[at];
        let here = region.get().is_none_or(|own| self.only.is_none_or(|only| only == own));
        let wanted = match self.group {
            Group::All => true,
            Group::Region(wanted) => region.get() == Some(wanted),
            Group::Home => region.get().is_none(),
        };
        let failed_lately = || member.failed_within(PASSED_OVER) || member.vital().is_ejected(|| self.pool.now_ns());
        here && wanted
            && draining_ms.is_none()
            && !member.vital().is_down()
            && !self.tried.contains(&at)
            && (self.last_resort || !failed_lately())
    }

    fn weight(&self, at: usize) -> u32 {
        self.pool.entries[at].weight.get()
    }

    fn busy(&self, at: usize) -> u32 {
        self.pool.entries[at].member.busy.get()
    }

    fn seed(&self, at: usize) -> u64 {
        self.pool.entries[at].seed
    }
}

/// A request or a tunnel at a member, counted while this lives.
#[derive(Debug)]
pub struct Busy {
    pool: Rc<Pool>,
    at: usize,
}

impl Busy {
    fn new(pool: &Rc<Pool>, at: usize) -> Self {
        let busy = &pool.entries[at].member.busy;
        busy.set(busy.get() + 1);
        Self { pool: Rc::clone(pool), at }
    }

    fn entry(&self) -> &Entry {
        &self.pool.entries[self.at]
    }

    pub fn member(&self) -> &Rc<Member> {
        &self.entry().member
    }

    pub fn id(&self) -> MemberId {
        self.entry().id
    }

    pub fn place(&self) -> usize {
        self.at
    }

    /// What the member is shown that a request came through here.
    pub fn signer(&self) -> Option<Rc<Signer>> {
        self.entry().signer.borrow().clone()
    }

    pub fn answered(&self) {
        let answers = &self.member().answers;
        answers.set(answers.get().wrapping_add(1));
        self.member().vital().answered();
    }

    /// It took no connection, or ended a new one without an answer.
    pub fn failed(&self, why: &impl Display) {
        let eject = self.entry().eject.get();
        self.passed_over(self.member().vital().failed(eject, self.pool.now_ns()), why);
    }

    /// It left a request without an answer, and answered nobody meanwhile. Checks may find a member well that does so.
    pub fn late(&self) {
        let eject = self.entry().eject.get();
        self.passed_over(self.member().vital().late(eject, self.pool.now_ns()), &"no answer in time");
    }

    fn passed_over(&self, is: bool, why: &impl Display) {
        let (entry, member) = (self.entry(), self.member());
        if is {
            tracing::warn!(
                service = %entry.service,
                address = member.address(),
                "a member of `{}` failed several requests and is passed over; the last: {why}",
                entry.service
            );
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let busy = &self.member().busy;
        busy.set(busy.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::Pool;
    use crate::{
        balance::{Wish, mix},
        upstream::Upstreams,
    };
    use berth_domain::{Balance, MemberId, ServiceName};
    use berth_wire::edge::{Ejection, MemberAddress};
    use std::{rc::Rc, sync::Arc, time::Instant};

    fn pool(upstreams: &Upstreams) -> Rc<Pool> {
        let member = |n: u128| MemberAddress {
            member: MemberId::new(uuid::Uuid::from_u128(n)),
            service: ServiceName::new("web").unwrap(),
            address: format!("10.0.0.{n}:80"),
            draining_ms: None,
        };
        upstreams.pool(&[member(1), member(2), member(3)])
    }

    fn turns(pool: &Rc<Pool>, number: usize) -> String {
        let mut text = String::new();
        for _ in 0..number {
            let busy = pool.choose(Wish::default(), &[], &mut || 0);
            text.push_str(&busy.map_or_else(|| "-".to_owned(), |busy| busy.place().to_string()));
        }
        text
    }

    #[test]
    fn who_failed_lately_comes_last_and_who_is_down_never() {
        let upstreams = Upstreams::new(Arc::default(), Arc::default(), Instant::now());
        let pool = pool(&upstreams);
        assert_eq!(turns(&pool, 6), "012012");
        let tried = pool.choose(Wish::default(), &[0, 1], &mut || 0).unwrap();
        assert_eq!(tried.place(), 2);
        assert!(pool.choose(Wish::default(), &[0, 1, 2], &mut || 0).is_none());

        let vitals: Vec<_> = (0..3).map(|at| Arc::clone(pool.entries[at].member.vital())).collect();
        let rule = Some(Ejection { failures: 1, for_ms: 600_000 });
        assert!(vitals[1].failed(rule, pool.now_ns()));
        assert!(!turns(&pool, 6).contains('1'));
        assert!(vitals[0].failed(rule, pool.now_ns()) && vitals[2].failed(rule, pool.now_ns()));
        assert!(turns(&pool, 6).contains('1'), "with nobody else left they are tried");
        for vital in &vitals {
            vital.set_well(false);
        }
        assert_eq!(turns(&pool, 3), "---");
        vitals[2].set_well(true);
        assert_eq!(turns(&pool, 3), "222");
    }

    #[test]
    fn what_is_under_way_is_counted_while_it_lives() {
        let upstreams = Upstreams::new(Arc::default(), Arc::default(), Instant::now());
        let pool = pool(&upstreams);
        let busy: Vec<_> = (0..6).map(|_| pool.choose(Wish::default(), &[], &mut || 0).unwrap()).collect();
        assert!(pool.entries.iter().all(|entry| entry.member.busy.get() == 2));
        drop(busy);
        assert!(pool.entries.iter().all(|entry| entry.member.busy.get() == 0));
    }

    #[test]
    fn after_a_hundred_thousand_requests_that_came_and_went_in_no_order_nobody_has_any() {
        let upstreams = Upstreams::new(Arc::default(), Arc::default(), Instant::now());
        let pool = pool(&upstreams);
        pool.balance.set(Balance::LeastConnections);
        let counts = || pool.entries.iter().map(|entry| entry.member.busy.get()).collect::<Vec<_>>();
        let mut under_way = Vec::new();
        for n in 0..100_000_u64 {
            let dice = mix(n) as usize;
            under_way.push(pool.choose(Wish::default(), &[], &mut || mix(n)).unwrap());
            // Up to a hundred at once, and again and again nearly none.
            let most = if n % 1_000 < 900 { 100 } else { 5 };
            while under_way.len() > most
                || (under_way.len() > 1 && dice.is_multiple_of(3) && under_way.len() > most / 2)
            {
                under_way.swap_remove(dice % under_way.len());
            }
            assert_eq!(counts().iter().sum::<u32>() as usize, under_way.len(), "at {n}");
        }
        drop(under_way);
        assert_eq!(counts(), [0; 3]);
    }

    #[test]
    fn tenants_of_a_cell_share_its_pool() {
        let upstreams = Upstreams::new(Arc::default(), Arc::default(), Instant::now());
        let (one, other) = (pool(&upstreams), pool(&upstreams));
        assert!(Rc::ptr_eq(&one, &other));
        assert_eq!((turns(&one, 1), turns(&other, 1)), ("0".to_owned(), "1".to_owned()));
    }
}
