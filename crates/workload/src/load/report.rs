//! What a load has seen so far, and what it hands over in the end.
//!
//! Never decides whether that is good: the verdict does.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use ::http::StatusCode;
use hdrhistogram::Histogram;

use super::{Arrival, Class, LoadError, Offer, Phase, Target, gap::Gap, millis, plan::FenceStep};
use crate::ledger::{FenceWrite, Ledger, LedgerError};

/// Failures kept word for word; of the others only the number is known.
const KEPT: usize = 20;
const KEPT_BYTES: usize = 500;

/// One offered request that got no 2xx answer in time.
#[derive(Clone, Debug)]
pub struct Failure {
    pub tenant: String,
    pub what: String,
    /// None: there was no answer at all.
    pub status: Option<StatusCode>,
    /// The answer's body, or what went wrong instead of one.
    pub said: String,
    /// Since the load began.
    pub at: Duration,
}

#[derive(Clone, Debug)]
pub struct TenantReport {
    pub name: String,
    pub requests: u64,
    pub failed: u64,
    pub acknowledged_writes: u64,
    /// In the tenant's last window: its move, if it had one.
    pub client_gap_ms: f64,
}

#[derive(Debug)]
pub struct Report {
    pub requests: u64,
    pub failed: u64,
    /// The first ones.
    pub failures: Vec<Failure>,
    pub latency: Latencies,
    pub tenants: Vec<TenantReport>,
    pub elapsed: Duration,
    pub offered_tps: f64,
    pub reached_tps: f64,
    pub ledger: Ledger,
}

/// Of requests that were answered 2xx, from when they were due.
#[derive(Debug, Default)]
pub struct Latencies(HashMap<(Class, Phase), Histogram<u64>>);

impl Latencies {
    fn record(&mut self, class: Class, phase: Phase, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.0.entry((class, phase)).or_insert_with(microseconds).saturating_record(micros);
    }

    /// Also those of another load: of a short one the hundredth part is a single request.
    pub fn merge(&mut self, other: &Self) {
        for (which, histogram) in &other.0 {
            let own = self.0.entry(*which).or_insert_with(microseconds);
            own.add(histogram).expect("all have the same bounds");
        }
    }

    pub fn len(&self, class: Class, phase: Phase) -> u64 {
        self.0.get(&(class, phase)).map_or(0, Histogram::len)
    }

    /// None where nothing was measured.
    pub fn quantile_ms(&self, class: Class, phase: Phase, quantile: f64) -> Option<f64> {
        let histogram = self.0.get(&(class, phase)).filter(|histogram| !histogram.is_empty())?;
        Some(histogram.value_at_quantile(quantile) as f64 / 1000.0)
    }
}

#[derive(Default)]
pub struct Lane {
    pub gap: Gap,
    phase: Phase,
    /// The gap of the last move, kept when it ended.
    move_gap_ms: Option<f64>,
    moving: bool,
    requests: u64,
    failed: u64,
    acknowledged: u64,
    /// Geofences whose last step was acknowledged and that have another one before them.
    fences: Vec<FenceStep>,
}

impl Offer {
    fn writes(&self) -> bool {
        match self {
            Self::Write(_) | Self::Fence { .. } => true,
            Self::Read(_) => false,
        }
    }
}

pub struct State {
    started: Instant,
    pub lanes: Vec<Lane>,
    /// The phase of everybody who is not moving.
    neighbours: Phase,
    latency: Latencies,
    failures: Vec<Failure>,
    ledger: Ledger,
    ledger_broke: Option<LedgerError>,
    last: Instant,
    pub offered: u64,
    pub succeeded: u64,
    pub failed: u64,
}

impl State {
    pub fn new(targets: usize, ledger: Ledger, now: Instant) -> Self {
        Self {
            started: now,
            lanes: std::iter::repeat_with(Lane::default).take(targets).collect(),
            neighbours: Phase::Before,
            latency: Latencies::default(),
            failures: Vec::new(),
            ledger,
            ledger_broke: None,
            last: now,
            offered: 0,
            succeeded: 0,
            failed: 0,
        }
    }

    /// Books a request that is about to be sent. A step for a geofence becomes the next one of a geofence that waits
    /// for it, if one does: never two steps of one geofence at once, or nobody could say which came last.
    pub fn offer(&mut self, arrival: &mut Arrival) {
        self.offered += 1;
        let lane = &mut self.lanes[arrival.target];
        lane.requests += 1;
        if let Offer::Fence { step, or_next: true } = &mut arrival.offer
            && let Some(waiting) = lane.fences.pop()
        {
            *step = waiting;
        }
        if arrival.offer.writes() {
            lane.gap.offered(arrival.due);
        }
    }

    /// Books a request's end: `refusal` is none where it was answered 2xx.
    pub fn settle(
        &mut self,
        target: &Target,
        arrival: &Arrival,
        time: jiff::Timestamp,
        now: Instant,
        refusal: Option<(Option<StatusCode>, String)>,
    ) {
        self.last = self.last.max(now);
        let lane = &mut self.lanes[arrival.target];
        if let Some((status, mut said)) = refusal {
            self.failed += 1;
            lane.failed += 1;
            if arrival.offer.writes() {
                lane.gap.failed();
            }
            if self.failures.len() < KEPT {
                said.truncate(said.floor_char_boundary(KEPT_BYTES));
                let what = match &arrival.offer {
                    Offer::Write(positions) => format!("write of {}", positions.len()),
                    Offer::Fence { step, .. } => format!("step {} of a geofence", step.revision),
                    Offer::Read(path) => format!("GET {path}"),
                };
                let at = now.saturating_duration_since(self.started);
                self.failures.push(Failure { tenant: target.name.clone(), what, status, said, at });
            }
            return;
        }
        self.succeeded += 1;
        let phase = match target.class {
            // It waits for its turn while another moves: neither of the two that are compared.
            Class::Mover if lane.phase == Phase::Before && self.neighbours != Phase::Before => Phase::After,
            Class::Mover => lane.phase,
            Class::Neighbour => self.neighbours,
        };
        self.latency.record(target.class, phase, now.saturating_duration_since(arrival.due));
        if !arrival.offer.writes() {
            return;
        }
        lane.gap.acknowledged(now);
        let acknowledged_us = now.saturating_duration_since(self.started).as_micros() as u64;
        let tenant = target.key;
        match &arrival.offer {
            Offer::Read(_) => {}
            Offer::Write(positions) => {
                lane.acknowledged += positions.len() as u64;
                for position in positions {
                    let booked = self.ledger.append(position.acknowledged(tenant, time, acknowledged_us));
                    self.ledger_broke = self.ledger_broke.take().or(booked.err());
                }
            }
            Offer::Fence { step, .. } => {
                lane.acknowledged += 1;
                let FenceStep { fence, revision } = *step;
                let booked = self.ledger.append_fence(FenceWrite { tenant, fence, revision, acknowledged_us });
                self.ledger_broke = self.ledger_broke.take().or(booked.err());
                lane.fences.extend(step.next());
            }
        }
    }

    pub fn flush(&mut self) {
        let flushed = self.ledger.flush();
        self.ledger_broke = self.ledger_broke.take().or(flushed.err());
    }

    pub fn move_begins(&mut self, index: usize, now: Instant) {
        let lane = &mut self.lanes[index];
        lane.phase = Phase::During;
        lane.moving = true;
        lane.gap.begin(now);
        self.neighbours = Phase::During;
    }

    pub fn move_ends(&mut self, index: usize, now: Instant) -> f64 {
        let lane = &mut self.lanes[index];
        lane.phase = Phase::After;
        lane.moving = false;
        let gap_ms = millis(lane.gap.longest_at(now));
        lane.move_gap_ms = Some(gap_ms);
        if self.lanes.iter().all(|lane| !lane.moving) {
            self.neighbours = Phase::After;
        }
        gap_ms
    }

    pub fn set_phase(&mut self, targets: &[Target], class: Class, phase: Phase) {
        match class {
            Class::Neighbour => self.neighbours = phase,
            Class::Mover => {
                let movers = self.lanes.iter_mut().zip(targets).filter(|(_, target)| target.class == Class::Mover);
                movers.for_each(|(lane, _)| lane.phase = phase);
            }
        }
    }

    /// Hands everything over. A ledger that could not be written is worse than none: the check would pass on a part.
    pub fn report(&mut self, targets: &[Target]) -> Result<Report, LoadError> {
        if let Some(broke) = self.ledger_broke.take() {
            return Err(broke.into());
        }
        let elapsed = self.last.saturating_duration_since(self.started);
        let a_second = |count: u64| if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() };
        let tenants = targets.iter().zip(&self.lanes).map(|(target, lane)| TenantReport {
            name: target.name.clone(),
            requests: lane.requests,
            failed: lane.failed,
            acknowledged_writes: lane.acknowledged,
            client_gap_ms: lane.move_gap_ms.unwrap_or_else(|| millis(lane.gap.longest_at(self.last))),
        });
        Ok(Report {
            requests: self.offered,
            failed: self.failed,
            tenants: tenants.collect(),
            failures: std::mem::take(&mut self.failures),
            latency: std::mem::take(&mut self.latency),
            elapsed,
            offered_tps: a_second(self.offered),
            reached_tps: a_second(self.succeeded),
            ledger: std::mem::take(&mut self.ledger),
        })
    }
}

/// From one microsecond to a minute, to three digits.
fn microseconds() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order and the digits are few")
}
