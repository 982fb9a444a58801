//! What is sent, to whom and when: a sequence that the seed alone decides.
//!
//! Pure but for the random numbers it owns; sends nothing.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::StdRng};
use uuid::Uuid;

use super::{LoadConfig, Target};
use crate::ledger::FenceWrite;

/// One request, before it is sent.
#[derive(Debug)]
pub enum Offer {
    Write(Vec<Position>),
    /// The first step of a geofence, or the next one of another that waits for it.
    Fence {
        step: FenceStep,
        or_next: bool,
    },
    Read(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub event: Uuid,
    pub vehicle: Uuid,
    pub latitude_e6: i32,
    pub longitude_e6: i32,
    pub speed_e1: i32,
}

/// One step in the life of a geofence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FenceStep {
    pub fence: Uuid,
    pub revision: u32,
}

pub struct Plan {
    random: StdRng,
    /// Sum of the weights up to and including each target.
    weights: Vec<f64>,
    write_share: f64,
    batch_share: f64,
    fence_share: f64,
}

/// Positions in a small batch: what a device sends that was without a network for a moment.
const BATCH: std::ops::RangeInclusive<usize> = 2..=8;

impl Plan {
    pub fn new(config: &LoadConfig) -> Self {
        let running = |sum: &mut f64, target: &Target| {
            *sum += target.weight;
            Some(*sum)
        };
        Self {
            random: StdRng::seed_from_u64(config.seed),
            weights: config.targets.iter().scan(0.0, running).collect(),
            write_share: config.write_share,
            batch_share: config.batch_share,
            fence_share: config.fence_share,
        }
    }

    /// The time to the next request: arrivals are independent of each other, and of any answer.
    pub fn wait(&mut self, rate: f64) -> Duration {
        let uniform: f64 = self.random.random();
        Duration::from_secs_f64(-(1.0 - uniform).ln() / rate)
    }

    /// Which target, and what it is asked.
    pub fn next(&mut self, targets: &[Target]) -> (usize, Offer) {
        let all = self.weights.last().copied().unwrap_or_default();
        let point = self.random.random::<f64>() * all;
        let index = self.weights.partition_point(|sum| *sum <= point).min(targets.len() - 1);
        let target = &targets[index];
        let offer = if !target.vehicles.is_empty() && self.random.random_bool(self.write_share) {
            if self.random.random_bool(self.fence_share) {
                // Now and then a new one though others wait, so that some are left at each step.
                let or_next = self.random.random_bool(0.7);
                return (index, Offer::Fence { step: FenceStep { fence: self.id(), revision: 0 }, or_next });
            }
            let several = self.random.random_bool(self.batch_share);
            let count = if several { self.random.random_range(BATCH) } else { 1 };
            Offer::Write((0..count).map(|_| self.position(target)).collect())
        } else {
            Offer::Read(self.read(target))
        };
        (index, offer)
    }

    fn id(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.random.random()).into_uuid()
    }

    fn position(&mut self, target: &Target) -> Position {
        Position {
            event: self.id(),
            vehicle: target.vehicles[self.random.random_range(0..target.vehicles.len())],
            latitude_e6: self.random.random_range(-90_000_000..=90_000_000),
            longitude_e6: self.random.random_range(-180_000_000..=180_000_000),
            speed_e1: self.random.random_range(0..=1300),
        }
    }

    fn read(&mut self, target: &Target) -> String {
        match self.random.random_range(0..100) {
            0..10 => "/api/v1/vehicles".into(),
            10..15 => "/api/v1/geofences".into(),
            15..20 => "/api/v1/status".into(),
            20..80 if !target.vehicles.is_empty() => {
                let vehicle = target.vehicles[self.random.random_range(0..target.vehicles.len())];
                format!("/api/v1/gps-positions/recent?vehicle_id={vehicle}&limit=20")
            }
            _ => "/api/v1/gps-positions/recent?limit=20".into(),
        }
    }
}

impl FenceStep {
    pub fn json(self) -> String {
        let Self { fence, revision } = self;
        let (name, radius) = (FenceWrite::name(fence, revision), FenceWrite::radius_meters(revision));
        format!(
            r#"{{"id":"{fence}","name":"{name}","kind":"circle","latitude":1.5,"longitude":2.5,"radius_meters":{radius}}}"#
        )
    }

    /// None after the removal.
    pub fn next(self) -> Option<Self> {
        (self.revision < FenceWrite::GONE).then_some(Self { revision: self.revision + 1, ..self })
    }
}

impl Position {
    /// As the application takes it. The division is exact to the last digit that is printed.
    pub fn json(&self, time: &str) -> String {
        format!(
            r#"{{"event_id":"{}","vehicle_id":"{}","time":"{time}","latitude":{},"longitude":{},"speed":{}}}"#,
            self.event,
            self.vehicle,
            f64::from(self.latitude_e6) / 1e6,
            f64::from(self.longitude_e6) / 1e6,
            f64::from(self.speed_e1) / 10.0,
        )
    }
}
