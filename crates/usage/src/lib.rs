//! What was used and what that means: usage events to usage, thresholds, hysteresis, forecast, and who bears which cost.
//!
//! Pure: never does I/O, and never asks for the time; a moment is handed in.

pub mod cost;
mod event;
mod forecast;
mod judge;
mod quota;
mod scale;
mod signal;

pub use event::{
    AMOUNT_MAX, BadEvent, Event, REMEMBERED_FOR, Rollup, RollupKey, TAKEN_FOR, TOTAL_MAX, faults, is_metric,
    period_end, period_start, rolled_up,
};
pub use forecast::{Between, DAYS_MAX, DAYS_MIN, Forecast, Until};
pub use judge::{
    Agreed, Asked, Caution, Direction, Issue, Place, Served, UNATTENDED_EVERY, agreed, caution, performance, propose,
};
pub use quota::{Quota, left};
pub use scale::{Load, Purse, Scale, Scaling, plan_copies};
pub use signal::{Signal, Thresholds};
