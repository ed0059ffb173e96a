//! Backups of the future: PostgreSQL's clock is ahead of time, or was.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::conditions::{Conditions, Type};
use crate::contract::BackupSnapshot;

/// Clocks of well-kept machines differ by less.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// Writes the condition, or removes it where no backup is of the future.
pub(super) fn report(conditions: &mut Vec<Condition>, newest: &[BackupSnapshot], generation: i64, now: Timestamp) {
    let mut conditions = Conditions::new(conditions, generation, now);
    let of_the_future =
        |snapshot: &&BackupSnapshot| snapshot.taken_at.as_ref().is_some_and(|at| at.0 > now + TOLERANCE);
    let Some((snapshot, taken_at)) =
        newest.iter().find(of_the_future).and_then(|snapshot| Some((snapshot, snapshot.taken_at.as_ref()?)))
    else {
        conditions.clear(Type::ClockAhead);
        return;
    };
    let message = format!(
        "backup {:.8} is of {} by PostgreSQL's clock, and that is in the future. The order of the backups is that of their runs, so \
         nothing is lost. Set the clock of PostgreSQL's server right, or that of the operator's node",
        snapshot.id, taken_at.0
    );
    conditions.set(Type::ClockAhead, true, "BackupOfTheFuture", &message);
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::conditions::find;

    #[test]
    fn a_backup_of_the_future_is_a_condition_until_it_is_none() {
        let now: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
        let of = |minutes| {
            let taken_at = Some(Time(now + SignedDuration::from_mins(minutes)));
            BackupSnapshot { id: format!("{minutes}"), taken_at, ..BackupSnapshot::default() }
        };
        let mut list = Vec::new();
        report(&mut list, &[of(4), of(-60)], 1, now);
        assert_eq!(list, []);
        report(&mut list, &[of(-60), of(600)], 1, now);
        let condition = find(&list, Type::ClockAhead).expect("a condition");
        assert!(condition.message.contains("backup 600 is of 2026-11-28T22:00:00Z"), "{condition:?}");
        report(&mut list, &[of(-60)], 1, now);
        assert_eq!(list, []);
    }
}
