//! Holds across all cores of this edge: from the order to the report that it is in force, refused, or over.
//!
//! Pure: is told what the cores say, and says what is to be done and reported.

use crate::{core::News, hold::Account};
use berth_domain::{TenantId, Token};
use berth_wire::edge::{HoldOutcome, HoldReport};
use std::collections::HashMap;

/// What follows from what a core said.
#[derive(Debug, PartialEq)]
pub enum Consequence {
    Report(HoldReport),
    /// Every core is to let this hold go, and a restart must not bring it back.
    Lift {
        tenant: TenantId,
        token: Token,
        serial: u64,
    },
    /// All cores have answered a hold that could not be had: this many requests were in flight.
    Refused {
        tenant: TenantId,
        token: Token,
        in_flight: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Draining,
    InForce,
    Refused,
    /// Another route has come; the last parked requests are leaving.
    Ending,
}

#[derive(Debug)]
struct Page {
    tenant: TenantId,
    token: Token,
    phase: Phase,
    /// Cores that have not said yet how draining went.
    unheard: usize,
    in_flight: u32,
    /// Cores that have not said yet what the hold came to.
    unsettled: usize,
    account: Account,
}

/// All holds of this process that are not forgotten yet.
#[derive(Debug, Default)]
pub struct Book {
    pages: HashMap<u64, Page>,
    current: HashMap<TenantId, u64>,
    last_serial: u64,
}

impl Book {
    /// A hold has been ordered: its serial. One that the same tenant had goes on under the new one.
    pub fn ordered(&mut self, tenant: TenantId, token: Token, cores: usize) -> u64 {
        self.last_serial += 1;
        let serial = self.last_serial;
        if let Some(old) = self.current.insert(tenant, serial) {
            self.pages.remove(&old);
        }
        let page = Page {
            tenant,
            token,
            phase: Phase::Draining,
            unheard: cores,
            in_flight: 0,
            unsettled: cores,
            account: Account::default(),
        };
        self.pages.insert(serial, page);
        serial
    }

    /// Another route of the tenant is about to be put in force.
    pub fn followed(&mut self, tenant: TenantId) {
        let Some(serial) = self.current.remove(&tenant) else { return };
        if let Some(page) = self.pages.get_mut(&serial) {
            if page.phase == Phase::Refused {
                self.pages.remove(&serial);
            } else {
                page.phase = Phase::Ending;
            }
        }
    }

    /// Somebody is held, or is to be.
    pub fn holds(&self) -> bool {
        self.current.values().any(|serial| self.pages.get(serial).is_some_and(|page| page.phase != Phase::Refused))
    }

    /// The order came again: what was said of it, if anything has been.
    pub fn repeated(&self, tenant: TenantId) -> Option<HoldReport> {
        let page = self.pages.get(self.current.get(&tenant)?)?;
        (page.phase == Phase::InForce).then(|| page.report(HoldOutcome::InForce))
    }

    pub fn heard(&mut self, news: &News) -> Vec<Consequence> {
        match news {
            News::Drained { serial } => self.drained(*serial, None),
            News::Slow { serial, in_flight } => self.drained(*serial, Some(*in_flight)),
            News::Over { serial, account } => self.over(*serial, *account),
        }
    }

    fn drained(&mut self, serial: u64, slow: Option<u32>) -> Vec<Consequence> {
        let Some(page) = self.pages.get_mut(&serial) else { return Vec::new() };
        if page.phase == Phase::Ending {
            return Vec::new();
        }
        page.unheard = page.unheard.saturating_sub(1);
        let mut follows = Vec::new();
        if let Some(in_flight) = slow {
            page.in_flight += in_flight;
            if page.phase == Phase::Draining {
                page.phase = Phase::Refused;
                follows.push(Consequence::Lift { tenant: page.tenant, token: page.token, serial });
            }
        }
        if page.unheard == 0 && page.phase == Phase::Draining {
            page.phase = Phase::InForce;
            follows.push(Consequence::Report(page.report(HoldOutcome::InForce)));
        }
        if page.unheard == 0 && page.phase == Phase::Refused {
            follows.push(page.refused());
        }
        follows
    }

    fn over(&mut self, serial: u64, account: Account) -> Vec<Consequence> {
        let Some(page) = self.pages.get_mut(&serial) else { return Vec::new() };
        page.account = page.account.and(account);
        page.unsettled = page.unsettled.saturating_sub(1);
        if page.phase == Phase::Refused {
            return Vec::new();
        }
        if page.unsettled > 0 {
            return Vec::new();
        }
        let outcome = HoldOutcome::Ended {
            pause_ms: page.account.pause_ms(),
            held_requests: page.account.held,
            expired_requests: page.account.expired,
        };
        let report = page.report(outcome);
        self.pages.remove(&serial);
        vec![Consequence::Report(report)]
    }
}

impl Page {
    fn report(&self, outcome: HoldOutcome) -> HoldReport {
        HoldReport { tenant: self.tenant, token: self.token, outcome }
    }

    fn refused(&self) -> Consequence {
        Consequence::Refused { tenant: self.tenant, token: self.token, in_flight: self.in_flight }
    }
}

#[cfg(test)]
mod tests {
    use super::{Book, Consequence};
    use crate::{core::News, hold::Account};
    use berth_domain::{TenantId, Token};
    use berth_wire::edge::HoldOutcome;
    use std::time::{Duration, Instant};

    const TENANT: TenantId = TenantId::new(uuid::Uuid::from_u128(1));
    const TOKEN: Token = Token::new(7);

    fn outcomes(follows: Vec<Consequence>) -> Vec<HoldOutcome> {
        let outcome = |c| match c {
            Consequence::Report(report) => report.outcome,
            other => panic!("{other:?}"),
        };
        follows.into_iter().map(outcome).collect()
    }

    #[test]
    fn a_hold_is_in_force_when_every_core_has_drained() {
        let mut book = Book::default();
        let serial = book.ordered(TENANT, TOKEN, 2);
        assert_eq!(book.heard(&News::Drained { serial }), []);
        assert_eq!(book.repeated(TENANT), None);
        assert_eq!(outcomes(book.heard(&News::Drained { serial })), [HoldOutcome::InForce]);
        assert_eq!(book.repeated(TENANT).unwrap().outcome, HoldOutcome::InForce);
    }

    #[test]
    fn one_slow_core_lifts_the_hold_everywhere_and_the_refusal_adds_up_all_of_them() {
        let mut book = Book::default();
        let serial = book.ordered(TENANT, TOKEN, 3);
        assert_eq!(book.heard(&News::Drained { serial }), []);
        let lift = Consequence::Lift { tenant: TENANT, token: TOKEN, serial };
        assert_eq!(book.heard(&News::Slow { serial, in_flight: 2 }), [lift]);
        let refused = Consequence::Refused { tenant: TENANT, token: TOKEN, in_flight: 3 };
        assert_eq!(book.heard(&News::Slow { serial, in_flight: 1 }), [refused]);
        // Its parked requests leave, and nobody is told: the hold has never been.
        assert_eq!(book.heard(&News::Over { serial, account: Account::default() }), []);
    }

    #[test]
    fn the_end_is_told_once_when_every_core_has_let_its_last_request_go() {
        let mut book = Book::default();
        let serial = book.ordered(TENANT, TOKEN, 2);
        book.heard(&News::Drained { serial });
        book.heard(&News::Drained { serial });
        book.followed(TENANT);
        let start = Instant::now();
        let account = |first, last, held| Account {
            first: Some(start + Duration::from_millis(first)),
            last: Some(start + Duration::from_millis(last)),
            held,
            expired: 1,
        };
        assert_eq!(book.heard(&News::Over { serial, account: account(3, 9, 4) }), []);
        let told = outcomes(book.heard(&News::Over { serial, account: account(5, 13, 2) }));
        assert_eq!(told, [HoldOutcome::Ended { pause_ms: 10.0, held_requests: 6, expired_requests: 2 }]);
        assert_eq!(book.heard(&News::Over { serial, account: account(5, 13, 2) }), []);
    }

    #[test]
    fn a_route_that_comes_while_draining_ends_the_hold_without_it_having_been_in_force() {
        let mut book = Book::default();
        let serial = book.ordered(TENANT, TOKEN, 1);
        book.followed(TENANT);
        assert_eq!(book.heard(&News::Slow { serial, in_flight: 1 }), []);
        let told = outcomes(book.heard(&News::Over { serial, account: Account::default() }));
        assert_eq!(told, [HoldOutcome::Ended { pause_ms: 0.0, held_requests: 0, expired_requests: 0 }]);
    }

    #[test]
    fn what_a_core_says_of_a_hold_taken_over_concerns_nobody() {
        let mut book = Book::default();
        let old = book.ordered(TENANT, TOKEN, 1);
        let new = book.ordered(TENANT, TOKEN.next(), 1);
        assert_eq!(book.heard(&News::Slow { serial: old, in_flight: 1 }), []);
        assert_eq!(outcomes(book.heard(&News::Drained { serial: new })), [HoldOutcome::InForce]);
    }
}
