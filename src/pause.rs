//! The pause before what has failed is tried again.

use jiff::{SignedDuration, Timestamp};

/// More is no pause but an end.
const DOUBLED_AT_MOST: i32 = 9;

/// `first` after the first failure, and twice as long after each one more. `failures` counts from 1.
pub fn doubling(first: SignedDuration, failures: i32) -> SignedDuration {
    first * (1 << failures.saturating_sub(1).clamp(0, DOUBLED_AT_MOST))
}

/// What is left of a pause until `until`. `None`: nothing, or more than the longest pause: somebody whose clock was ahead of time has
/// written that moment down, and nothing waits for such a date.
pub fn left(until: Timestamp, longest: SignedDuration, now: Timestamp) -> Option<SignedDuration> {
    Some(until.duration_since(now)).filter(|pause| pause.is_positive() && *pause <= longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_a_clock_ahead_of_time_is_not_waited_for() {
        let (now, longest) = (Timestamp::UNIX_EPOCH, SignedDuration::from_mins(10));
        let left = |minutes| left(now + SignedDuration::from_mins(minutes), longest, now);
        assert_eq!((left(-1), left(0), left(11)), (None, None, None));
        assert_eq!(left(10), Some(longest));
    }

    #[test]
    fn it_doubles_and_never_ends_or_overflows() {
        let after = |failures| doubling(SignedDuration::from_secs(5), failures).as_secs();
        assert_eq!([1, 2, 3, 4].map(after), [5, 10, 20, 40]);
        assert_eq!([i32::MIN, 0, i32::MAX].map(after), [5, 5, 2560]);
    }
}
