//! What was used and what that means: usage events to usage, thresholds, hysteresis, forecast, and who bears which cost.
//!
//! Pure: never does I/O, and never asks for the time; a moment is handed in.

pub mod cost;
