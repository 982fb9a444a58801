//! Rounding several amounts so that their sum is the rounded sum: the method of the largest remainder.

/// Each of `parts / unit` rounded to a whole number, so that they add up to the rounded sum. Parts may be negative, as
/// credits are. Of equal remainders the first is rounded up: the same question has the same answer.
pub fn rounded_together(parts: &[i128], unit: i128) -> Vec<i64> {
    let sum: i128 = parts.iter().sum();
    let wanted = (sum * 2 + unit).div_euclid(unit * 2);
    let mut whole: Vec<i128> = parts.iter().map(|part| part.div_euclid(unit)).collect();
    // Between 0 and the number of parts: each floor took away less than one.
    let missing = usize::try_from(wanted - whole.iter().sum::<i128>()).unwrap_or(0);
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|at| (-parts[*at].rem_euclid(unit), *at));
    for at in order.into_iter().take(missing) {
        whole[at] += 1;
    }
    whole.into_iter().map(|n| i64::try_from(n).unwrap_or(i64::MAX)).collect()
}

/// A total in shares as the weights say. `None`: nobody has any weight.
pub fn apportion(total: i64, weights: &[u64]) -> Option<Vec<i64>> {
    let sum: i128 = weights.iter().map(|weight| i128::from(*weight)).sum();
    let parts: Vec<i128> = weights.iter().map(|weight| i128::from(total) * i128::from(*weight)).collect();
    (sum > 0).then(|| rounded_together(&parts, sum))
}

#[cfg(test)]
mod tests {
    use super::{apportion, rounded_together};
    use proptest::prelude::*;

    #[test]
    fn the_last_cent_goes_to_the_largest_remainder_and_then_to_the_first() {
        assert_eq!(apportion(100, &[1, 1, 1]), Some(vec![34, 33, 33]));
        assert_eq!(apportion(-100, &[1, 1, 1]), Some(vec![-33, -33, -34]));
        assert_eq!(apportion(10, &[5, 0, 1]), Some(vec![8, 0, 2]));
        assert_eq!(apportion(7, &[0, 0]), None);
        assert_eq!(apportion(7, &[]), None);
        assert_eq!(rounded_together(&[150, 150, -50], 100), [2, 2, -1], "2.5 is rounded up");
    }

    proptest! {
        #[test]
        fn shares_add_up_and_are_never_a_cent_off(total in -10_000_000i64..10_000_000, weights in prop::collection::vec(0u64..5_000_000, 1..60)) {
            let sum: u64 = weights.iter().sum();
            let Some(shares) = apportion(total, &weights) else { prop_assert_eq!(sum, 0); return Ok(()) };
            prop_assert_eq!(shares.iter().sum::<i64>(), total);
            for (share, weight) in shares.iter().zip(&weights) {
                let exact = total as f64 * *weight as f64 / sum as f64;
                prop_assert!((*share as f64 - exact).abs() < 1.0 + 1e-6, "{share} for {exact}");
            }
        }
    }
}
