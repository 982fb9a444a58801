//! Where a tenant belongs and why, what that costs, and where a whole fleet belongs. Pure: catalogue in, decision out.
//!
//! [`Catalogue`] says what providers sell, [`Policy`] what the team wants, [`Engine`] joins both with the stack's plans
//! and cells, and decides. Hard constraints filter before anything is weighed: compliance, residency, regions, latency,
//! limits of the plan, capacity, upload size. Of what is left the least isolated class wins, then the cheapest plan that
//! covers the tenant, then the cheapest and nearest place. That order is why a stricter requirement never gives a
//! weaker placement: it only takes away places, and the order of the others stays.
//!
//! Never does I/O, never asks for the time or for randomness: a day and a seed are handed in.

mod alternatives;
mod catalogue;
mod decide;
mod dice;
mod distance;
mod elsewhere;
mod engine;
mod explain;
pub mod fleet;
pub mod guides;
mod money;
mod policy;
mod profile;
mod rank;
mod read_catalogue;
mod reader;
mod traffic;

pub use alternatives::Alternative;
pub use catalogue::{
    Arch, BENCHMARKS, CREDIT_SOON_DAYS, Catalogue, Credit, CreditEnd, Egress, Location, Offer, Place, PriceLine,
    Promises, Provider, Quota, RateLimit, Region, Shape, ShapeKind, Site, Trust,
};
pub use decide::{Constraint, Decision, Flip, Refusal};
pub use elsewhere::Leaving;
pub use engine::{CellFacts, Engine, Measured, PlanFacts, Size};
pub use money::{Micros, Rates};
pub use policy::{Bounds, Policy, PolicyFault, Rule, When};
pub use profile::{BadProfile, Profile};
pub use reader::{Fault, Mistake, Mistakes};
pub use traffic::TRAFFIC;
