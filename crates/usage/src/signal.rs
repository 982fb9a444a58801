//! Whether a tenant outgrows its plan or leaves most of it unused: the guides' thresholds with a band around each, so
//! that usage which wavers about a threshold does not make anybody waver with it.

use serde::{Deserialize, Serialize};

/// When usage of a limit means something, in percent of the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Above this the plan is nearly used up. The guides' 0.8: exactly 80 of 100 is not above.
    pub upgrade_at_percent: u32,
    /// Below this a smaller plan may do. The guides' 0.2.
    pub downgrade_below_percent: u32,
    /// How far usage has to come back before a signal ends.
    pub band_percent: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { upgrade_at_percent: 80, downgrade_below_percent: 20, band_percent: 10 }
    }
}

impl Thresholds {
    /// A signal that ends where the other begins would be both at once.
    pub const fn are_apart(&self) -> bool {
        let Self { upgrade_at_percent: up, downgrade_below_percent: down, band_percent: band } = *self;
        up <= 100 && band >= 1 && down + band < up.saturating_sub(band)
    }

    /// Where usage of `used` has to fit so that it stands below the upgrade threshold: the limit that leaves room.
    pub fn with_room(&self, used: u64) -> u64 {
        room(used, self.upgrade_at_percent)
    }

    /// The same for a smaller plan: also below the end of the upgrade signal, or the move down would be undone soon.
    pub fn with_room_below(&self, used: u64) -> u64 {
        room(used, self.upgrade_at_percent - self.band_percent)
    }
}

fn room(used: u64, percent: u32) -> u64 {
    u64::try_from((u128::from(used) * 100).div_ceil(u128::from(percent.max(1)))).unwrap_or(u64::MAX)
}

/// What usage of one limit says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    #[default]
    Calm,
    Over,
    Under,
}

impl Signal {
    /// What it says now. It begins at its threshold, and ends a band away from it.
    pub fn after(self, used: u64, limit: u64, at: &Thresholds) -> Self {
        let used = u128::from(used) * 100;
        let of = |percent: u32| u128::from(limit) * u128::from(percent);
        if used > of(at.upgrade_at_percent) {
            Self::Over
        } else if used < of(at.downgrade_below_percent) {
            Self::Under
        } else {
            match self {
                Self::Over if used > of(at.upgrade_at_percent - at.band_percent) => Self::Over,
                Self::Under if used < of(at.downgrade_below_percent + at.band_percent) => Self::Under,
                _ => Self::Calm,
            }
        }
    }

    /// Of a tenant by those of its quotas: one that is nearly used up is enough to outgrow a plan; for a smaller one
    /// all have to be low.
    pub fn of_all(signals: impl IntoIterator<Item = Self>) -> Self {
        let mut under = false;
        let mut calm = false;
        for signal in signals {
            match signal {
                Self::Over => return Self::Over,
                Self::Under => under = true,
                Self::Calm => calm = true,
            }
        }
        if under && !calm { Self::Under } else { Self::Calm }
    }
}
