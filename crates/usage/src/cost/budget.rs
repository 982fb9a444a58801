//! Where a month stands against the budget. The Chrono guide's figures: warned at 40, critical at 45, over at 50.

/// In one currency, in cents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub amount: i64,
    /// Absent: four fifths of the amount.
    pub warning: Option<i64>,
    /// Absent: nine tenths.
    pub critical: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BudgetLevel {
    Within,
    Warning,
    Critical,
    Over,
}

impl BudgetLevel {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Over => "over",
        }
    }
}

pub fn level(cents: i64, limits: &Limits) -> BudgetLevel {
    let warning = limits.warning.unwrap_or(limits.amount / 5 * 4);
    let critical = limits.critical.unwrap_or(limits.amount / 10 * 9);
    match cents {
        n if n > limits.amount => BudgetLevel::Over,
        n if n >= critical => BudgetLevel::Critical,
        n if n >= warning => BudgetLevel::Warning,
        _ => BudgetLevel::Within,
    }
}

#[cfg(test)]
mod tests {
    use super::{BudgetLevel as L, Limits, level};

    #[test]
    fn a4_the_chrono_guides_levels() {
        let guide = Limits { amount: 5000, warning: Some(4000), critical: Some(4500) };
        let levels = [3999, 4000, 4100, 4500, 4600, 5000, 5100].map(|cents| level(cents, &guide));
        assert_eq!(levels, [L::Within, L::Warning, L::Warning, L::Critical, L::Critical, L::Critical, L::Over]);
        assert_eq!(
            levels,
            [3999, 4000, 4100, 4500, 4600, 5000, 5100]
                .map(|cents| { level(cents, &Limits { warning: None, critical: None, ..guide }) }),
            "without figures of its own the same shares of the amount"
        );
    }
}
