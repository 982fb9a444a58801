//! What a workflow is made of: steps, and how patiently they are repeated.
//!
//! Never runs anything: see `run`.

use crate::StepError;
use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::time::Duration;

/// What steps are given: the handles through which they reach the world.
pub trait Context: Send + Sync + 'static {
    /// The journal's transaction, for steps that change control state.
    type Tx: Send + 'static;
}

/// One recorded part of a workflow that touches the world outside.
///
/// `run` may happen more than once and may be dropped at any await: what it does must be named before it is
/// requested, so that a second run, or an undo, finds what the first one made.
#[async_trait]
pub trait Step<Cx: Context>: Send + Sync + 'static {
    /// In the journal: never renamed once released.
    const NAME: &'static str;
    /// Travels through the journal's JSON even on the first run, so that a replay cannot see another value.
    type Output: Serialize + DeserializeOwned + Send;

    async fn run(&self, cx: &Cx) -> Result<Self::Output, StepError>;
    /// Reverses `run`; may happen more than once. `None`: nobody knows how far `run` came.
    async fn undo(&self, cx: &Cx, made: Option<Self::Output>) -> Result<(), StepError>;

    /// What the step is asked for, shown to operators and compared at every replay. Never a secret.
    fn input(&self) -> Value {
        Value::Null
    }
    fn retry(&self) -> Retry {
        Retry::default()
    }
}

/// One recorded part of a workflow that changes control state, inside the very transaction that records it.
///
/// So it happens exactly once, and its undo always knows what was made.
#[async_trait]
pub trait TxStep<Cx: Context>: Send + Sync + 'static {
    const NAME: &'static str;
    type Output: Serialize + DeserializeOwned + Send;

    async fn run(&self, tx: &mut Cx::Tx) -> Result<Self::Output, StepError>;
    async fn undo(&self, tx: &mut Cx::Tx, made: Self::Output) -> Result<(), StepError>;

    fn input(&self) -> Value {
        Value::Null
    }
    fn retry(&self) -> Retry {
        Retry::default()
    }
}

/// How a failing step is repeated: pauses double from `first` to `ceiling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    pub first: Duration,
    pub ceiling: Duration,
    /// Tries of a retryable error before it counts as permanent; undo has the same number before it is stuck.
    pub attempts: u32,
    /// Past the point of no return there is only forward, so every error is repeated, and for longer.
    pub attempts_past_return: u32,
}

impl Default for Retry {
    /// Ten tries in about a minute and a half; past the point of no return fifty in about three quarters of an hour.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(250),
            ceiling: Duration::from_mins(1),
            attempts: 10,
            attempts_past_return: 50,
        }
    }
}

impl Retry {
    /// The pause after the `failures`-th failure in a row; `chance` in 0..1 spreads those who failed together.
    ///
    /// At least half the pause is kept: full jitter now and then retries at once, which a server that is
    /// coming up does not need.
    pub fn pause(&self, failures: u32, chance: f64) -> Duration {
        let doubled = self.first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        let full = doubled.min(self.ceiling);
        full / 2 + (full / 2).mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::Retry;
    use std::time::Duration;

    #[test]
    fn pauses_double_up_to_their_ceiling_and_keep_at_least_half() {
        let retry = Retry::default();
        let full: Vec<_> = (1..=10).map(|failures| retry.pause(failures, 1.0).as_millis()).collect();
        assert_eq!(full, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        let least: Vec<_> = (1..=3).map(|failures| retry.pause(failures, 0.0).as_millis()).collect();
        assert_eq!(least, [125, 250, 500]);
        assert_eq!(retry.pause(u32::MAX, 1.0), Duration::from_mins(1), "no failure count overflows");
    }
}
