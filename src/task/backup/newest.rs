//! Which of two snapshots is newer. Pure.
//!
//! The runs of one operation have numbers, and these decide. PostgreSQL's clock decides between operations: between objects, of
//! which one has adopted the backups of the other, and between calls by hand. A clock may be wrong. A moment that lies behind that
//! of a later run was ahead of time; one that lies in the future is replaced by the moment at which restic has stored the snapshot.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::restic::Listed;

/// What is known of when a snapshot was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// `<UID of the operation>.<run>.<attempt>`
    pub attempt: String,
    /// By PostgreSQL's clock.
    pub taken_at: Timestamp,
    /// By the clock of the node on which restic ran.
    pub stored_at: Timestamp,
}

impl Made {
    pub(super) fn read(snapshot: &Listed) -> Option<Self> {
        let taken_at = snapshot.tag("taken-at=")?.parse().ok()?;
        Some(Self { attempt: snapshot.tag("attempt=")?.to_owned(), taken_at, stored_at: snapshot.stored_at })
    }

    /// Operation, run and attempt. What has no such name is an operation of its own.
    fn place(&self) -> (&str, i64, i64) {
        let mut parts = self.attempt.rsplitn(3, '.');
        let numbers =
            (parts.next().and_then(|text| text.parse().ok()), parts.next().and_then(|text| text.parse().ok()));
        match (numbers, parts.next()) {
            ((Some(attempt), Some(run)), Some(operation)) => (operation, run, attempt),
            _ => (&self.attempt, 0, 0),
        }
    }

    /// A moment in the future says nothing.
    fn claimed(&self, now: Timestamp) -> Timestamp {
        if self.taken_at > now { self.stored_at.min(now) } else { self.taken_at }
    }
}

/// Sorts, the newest first. With each, the moment that counts: never later than the moment of a later run.
pub fn first<T>(all: Vec<T>, made: impl Fn(&T) -> &Made, now: Timestamp) -> Vec<(T, Timestamp)> {
    let mut by_operation: BTreeMap<String, Vec<T>> = BTreeMap::new();
    for one in all {
        let operation = made(&one).place().0.to_owned();
        by_operation.entry(operation).or_default().push(one);
    }
    let mut sorted = Vec::new();
    for (_, mut of_operation) in by_operation {
        let order = |one: &T| {
            let (_, run, attempt) = made(one).place();
            (run, attempt, made(one).taken_at)
        };
        of_operation.sort_by_key(|one| std::cmp::Reverse(order(one)));
        let mut limit = now;
        for one in of_operation {
            limit = limit.min(made(&one).claimed(now));
            sorted.push((one, limit));
        }
    }
    // Stable: of one operation the order of runs stays, where the moments are the same.
    sorted.sort_by_key(|(_, moment)| std::cmp::Reverse(*moment));
    sorted
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: &str = "2026-11-28T12:00:00Z";

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Attempt, PostgreSQL's clock, the node's clock.
    fn newest(all: &[(&str, &str, &str)]) -> Vec<String> {
        let made = all.iter().map(|(attempt, taken_at, stored_at)| Made {
            attempt: (*attempt).to_owned(),
            taken_at: time(taken_at),
            stored_at: time(stored_at),
        });
        first(made.collect(), |made| made, time(NOW)).into_iter().map(|(made, _)| made.attempt).collect()
    }

    const MONDAY: &str = "2026-11-23T02:00:00Z";
    const TUESDAY: &str = "2026-11-24T02:00:00Z";
    const WEDNESDAY: &str = "2026-11-25T02:00:00Z";
    const AHEAD: &str = "2031-01-01T00:00:00Z";
    const BEHIND: &str = "1999-01-01T00:00:00Z";

    #[test]
    fn the_number_of_the_run_decides_whatever_the_clock_says() {
        for odd in [AHEAD, BEHIND, "2026-11-27T02:00:00Z"] {
            let all = [("u.9.1", MONDAY, MONDAY), ("u.10.1", odd, TUESDAY), ("u.11.1", WEDNESDAY, WEDNESDAY)];
            assert_eq!(newest(&all), ["u.11.1", "u.10.1", "u.9.1"], "{odd}");
        }
        assert_eq!(newest(&[("u.1.1", MONDAY, MONDAY), ("u.2.1", AHEAD, AHEAD)]), ["u.2.1", "u.1.1"]);
    }

    #[test]
    fn between_objects_the_clock_decides_and_a_moment_in_the_future_does_not() {
        // The object that was made again begins with run 1.
        let all = [("old.57.1", MONDAY, MONDAY), ("new.1.1", TUESDAY, TUESDAY), ("new.2.1", WEDNESDAY, WEDNESDAY)];
        assert_eq!(newest(&all), ["new.2.1", "new.1.1", "old.57.1"]);
        // The last run of the lost cluster had a clock ahead of time.
        let all = [("old.57.1", AHEAD, MONDAY), ("new.1.1", TUESDAY, TUESDAY)];
        assert_eq!(newest(&all), ["new.1.1", "old.57.1"]);
        // One before its last had, and that date has passed.
        let all =
            [("old.56.1", "2026-11-27T00:00:00Z", AHEAD), ("old.57.1", MONDAY, MONDAY), ("new.1.1", TUESDAY, TUESDAY)];
        assert_eq!(newest(&all), ["new.1.1", "old.57.1", "old.56.1"]);
        // By hand each call is an operation of its own.
        let all = [("by-hand-1.0.0", AHEAD, MONDAY), ("by-hand-2.0.0", TUESDAY, TUESDAY)];
        assert_eq!(newest(&all), ["by-hand-2.0.0", "by-hand-1.0.0"]);
    }

    #[test]
    fn what_has_no_such_name_has_its_moment() {
        assert_eq!(newest(&[("odd", TUESDAY, TUESDAY), ("u.x.1", WEDNESDAY, WEDNESDAY)]), ["u.x.1", "odd"]);
    }

    proptest! {
        #[test]
        fn runs_of_one_operation_stay_in_their_order_and_no_moment_is_in_the_future(
            made in prop::collection::vec((0..3_u8, 0..20_i64, 0..4_000_000_000_i64), 0..40)
        ) {
            let made: Vec<Made> = made.into_iter().map(|(operation, run, second)| Made {
                attempt: format!("u{operation}.{run}.1"),
                taken_at: Timestamp::from_second(second).unwrap(),
                stored_at: Timestamp::from_second(second / 2).unwrap(),
            }).collect();
            let count = made.len();
            let sorted = first(made, |made| made, time(NOW));
            prop_assert_eq!(sorted.len(), count);
            prop_assert!(sorted.is_sorted_by(|(_, one), (_, other)| one >= other));
            prop_assert!(sorted.iter().all(|(_, moment)| *moment <= time(NOW)));
            for operation in ["u0", "u1", "u2"] {
                let runs = sorted.iter().map(|(made, _)| made.place()).filter(|(of, ..)| *of == operation);
                prop_assert!(runs.map(|(_, run, _)| run).is_sorted_by(|one, other| one >= other));
            }
        }
    }
}
