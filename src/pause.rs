//! The pause before what has failed is tried again.

use jiff::SignedDuration;

/// More is no pause but an end.
const DOUBLED_AT_MOST: i32 = 9;

/// `first` after the first failure, and twice as long after each one more. `failures` counts from 1.
pub fn doubling(first: SignedDuration, failures: i32) -> SignedDuration {
    first * (1 << failures.saturating_sub(1).clamp(0, DOUBLED_AT_MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_and_never_ends_or_overflows() {
        let after = |failures| doubling(SignedDuration::from_secs(5), failures).as_secs();
        assert_eq!([1, 2, 3, 4].map(after), [5, 10, 20, 40]);
        assert_eq!([i32::MIN, 0, i32::MAX].map(after), [5, 5, 2560]);
    }
}
