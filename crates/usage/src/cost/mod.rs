//! Who bears which cost: a month's invoices spread over the tenants that lived where they were run up.
//!
//! [`allocate`] is the whole rule. Amounts are whole cents and are rounded together, so that what tenants bear and what
//! stood idle add up to the invoices, to the cent. Never looks anything up: invoices, stays and rates are handed in.

mod advice;
mod allocate;
mod budget;
mod month;
mod phases;
mod rounding;

pub use advice::{Advice, CellFacts, Machine, ServerShape, TenantFacts, Used, advise, break_even, needed};
pub use allocate::{Allocation, Basis, CellCost, CellTime, Charge, Share, Stay, UnknownCurrency, allocate};
pub use budget::{BudgetLevel, Limits, level};
pub use month::{BadMonth, Month, Span};
pub use phases::{PHASES, Phase, PhaseAdvice, Transition, Trigger, next_phase, phase_by_cost};
pub use rounding::{apportion, rounded_together};
