//! When an operation is due. Time comes in as a value, so that a year of schedule is tested in milliseconds.
//!
//! Missed runs are never replayed: of all the times that have passed since the last one that was dealt with, only the
//! latest counts, and only within `startWithin`.

use std::hash::{DefaultHasher, Hash, Hasher};

use croner::Cron;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::cron;
use crate::api::schedule::Schedule;

/// Clocks of two operators, of which one follows the other, differ by less.
const CLOCKS_DIFFER: SignedDuration = SignedDuration::from_mins(5);

/// What a schedule says at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing until then. `None`: the expression never comes up again.
    Later(Option<Timestamp>),
    /// A run is due: it was scheduled for `at` and may begin its work until `start_before`.
    Now { at: Timestamp, start_before: Timestamp },
    /// The latest run was missed by more than `startWithin`.
    Missed { at: Timestamp },
}

/// Why a schedule cannot be followed. A person must change it. The words begin with the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSchedule {
    #[error(
        "timeZone {0:?} is not in the time zone database: use a name such as Europe/Berlin, or leave it out for UTC"
    )]
    TimeZone(String),
    #[error("cron {cron:?} cannot be read: {why}. Write five fields: minute, hour, day of month, month, day of week")]
    Cron { cron: String, why: String },
    #[error("cron {0:?} never comes due: no date is on such a day of such a month")]
    Never(String),
}

impl InvalidSchedule {
    /// One word for a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TimeZone(_) => "UnknownTimeZone",
            Self::Cron { .. } | Self::Never(_) => "InvalidCron",
        }
    }
}

/// A schedule that can be followed.
#[derive(Debug)]
pub struct Calendar {
    cron: Cron,
    zone: TimeZone,
    delay: SignedDuration,
    start_within: SignedDuration,
}

impl Calendar {
    /// Reads a schedule. `seed` decides the object's own share of the jitter; it should be the object's UID.
    pub fn new(schedule: &Schedule, seed: &str) -> Result<Self, InvalidSchedule> {
        let zone = match &schedule.time_zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name).map_err(|_| InvalidSchedule::TimeZone(name.clone()))?,
        };
        let cron =
            cron::read(&schedule.cron).map_err(|why| InvalidSchedule::Cron { cron: schedule.cron.clone(), why })?;
        // The calendar repeats itself: what is never due from one moment on is never due from any.
        if cron.find_next_occurrence(&Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC), false).is_err() {
            return Err(InvalidSchedule::Never(schedule.cron.clone()));
        }
        let delay = schedule.jitter.as_ref().map_or(SignedDuration::ZERO, |jitter| {
            // DefaultHasher::new() has fixed keys: the same object has the same delay in every run and every operator.
            let mut hasher = DefaultHasher::new();
            seed.hash(&mut hasher);
            let span = jitter.as_secs().unsigned_abs() + 1;
            SignedDuration::from_secs((hasher.finish() % span) as i64)
        });
        Ok(Self { cron, zone, delay, start_within: schedule.start_within.to_signed() })
    }

    /// Up to when everything counts as run or skipped. A record of the future is that of an operator whose clock was ahead of time: no
    /// schedule waits for such a date. What came up until now counts as dealt with then, so that nothing runs twice.
    pub fn dealt_with(recorded: Timestamp, now: Timestamp) -> Timestamp {
        if recorded > now + CLOCKS_DIFFER { now } else { recorded }
    }

    /// What is due at `now`, when everything up to `dealt_with` has been run or skipped.
    pub fn due(&self, dealt_with: Timestamp, now: Timestamp) -> Due {
        match self.latest_until(now) {
            Some(at) if at > dealt_with => {
                let start_before = at + self.start_within;
                if now <= start_before { Due::Now { at, start_before } } else { Due::Missed { at } }
            }
            _ => Due::Later(self.next_after(now)),
        }
    }

    /// The first run after `time`.
    pub fn next_after(&self, time: Timestamp) -> Option<Timestamp> {
        let local = (time - self.delay).to_zoned(self.zone.clone());
        self.cron.find_next_occurrence(&local, false).ok().map(|at| at.timestamp() + self.delay)
    }

    /// The last run at or before `time`.
    fn latest_until(&self, time: Timestamp) -> Option<Timestamp> {
        let local = (time - self.delay).to_zoned(self.zone.clone());
        self.cron.find_previous_occurrence(&local, true).ok().map(|at| at.timestamp() + self.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(cron: &str, zone: Option<&str>) -> Schedule {
        Schedule {
            cron: cron.into(),
            time_zone: zone.map(Into::into),
            start_within: "1h".parse().unwrap(),
            jitter: None,
        }
    }

    fn calendar(cron: &str, zone: &str) -> Calendar {
        Calendar::new(&schedule(cron, Some(zone)), "uid").unwrap()
    }

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_restart_five_seconds_late_does_not_lose_the_week() {
        let due = calendar("0 3 * * 0", "UTC").due(time("2026-11-15T03:00:00Z"), time("2026-11-22T03:00:05Z"));
        assert_eq!(due, Due::Now { at: time("2026-11-22T03:00:00Z"), start_before: time("2026-11-22T04:00:00Z") });
    }

    #[test]
    fn of_a_month_of_missed_runs_only_the_latest_counts_and_only_within_its_time() {
        let nightly = calendar("0 3 * * *", "UTC");
        let last = time("2026-10-01T03:00:00Z");
        assert_eq!(nightly.due(last, time("2026-11-22T10:00:00Z")), Due::Missed { at: time("2026-11-22T03:00:00Z") });
        assert!(
            matches!(nightly.due(last, time("2026-11-22T03:30:00Z")), Due::Now { at, .. } if at == time("2026-11-22T03:00:00Z"))
        );
    }

    #[test]
    fn a_record_of_the_future_does_not_stop_a_schedule() {
        let nightly = calendar("0 3 * * *", "UTC");
        let (mut recorded, mut now) = (time("2031-01-01T03:00:00Z"), time("2026-11-22T10:00:00Z"));
        let mut runs = Vec::new();
        while now < time("2026-11-25T10:00:00Z") {
            recorded = Calendar::dealt_with(recorded, now);
            if let Due::Now { at, .. } = nightly.due(recorded, now) {
                runs.push(at.to_string());
                recorded = at;
            }
            now += SignedDuration::from_mins(7);
        }
        assert_eq!(runs, ["2026-11-23T03:00:00Z", "2026-11-24T03:00:00Z", "2026-11-25T03:00:00Z"]);
    }

    #[test]
    fn an_operator_whose_clock_is_a_little_behind_runs_nothing_twice() {
        let nightly = calendar("0 3 * * *", "UTC");
        let ran = time("2026-11-22T03:00:00Z");
        let (mut recorded, mut now) = (ran, time("2026-11-22T02:56:00Z"));
        while now < time("2026-11-22T12:00:00Z") {
            recorded = Calendar::dealt_with(recorded, now);
            assert!(matches!(nightly.due(recorded, now), Due::Later(_)), "{now}");
            now += SignedDuration::from_secs(20);
        }
    }

    #[test]
    fn what_was_dealt_with_is_not_due_again() {
        let due = calendar("0 3 * * *", "UTC").due(time("2026-11-22T03:00:00Z"), time("2026-11-22T03:10:00Z"));
        assert_eq!(due, Due::Later(Some(time("2026-11-23T03:00:00Z"))));
    }

    #[test]
    fn a_year_in_berlin_has_365_runs_at_three_local_time() {
        let nightly = calendar("0 3 * * *", "Europe/Berlin");
        let (mut dealt_with, mut now) = (time("2026-01-01T00:00:00Z"), time("2026-01-01T00:00:00Z"));
        let mut runs = Vec::new();
        while now < time("2027-01-01T00:00:00Z") {
            if let Due::Now { at, .. } = nightly.due(dealt_with, now) {
                runs.push(at);
                dealt_with = at;
            }
            now += SignedDuration::from_mins(7);
        }
        assert_eq!(runs.len(), 365);
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        assert!(runs.iter().all(|at| at.to_zoned(berlin.clone()).hour() == 3));
    }

    #[test]
    fn an_hour_that_daylight_saving_skips_still_has_its_run_and_one_that_it_repeats_has_one() {
        let nightly = calendar("30 2 * * *", "Europe/Berlin");
        for (from, to) in
            [("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z"), ("2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z")]
        {
            let (mut dealt_with, mut now, mut runs) = (time(from), time(from), 0);
            while now < time(to) {
                if let Due::Now { at, .. } = nightly.due(dealt_with, now) {
                    dealt_with = at;
                    runs += 1;
                }
                now += SignedDuration::from_mins(1);
            }
            assert_eq!(runs, 1, "{from}");
        }
    }

    #[test]
    fn jitter_is_bounded_and_the_same_for_every_run_of_an_object() {
        let mut jittered = schedule("0 3 * * *", None);
        jittered.jitter = Some("30m".parse().unwrap());
        let delays: Vec<_> = ["a", "b", "c", "d"]
            .iter()
            .map(|uid| {
                let calendar = Calendar::new(&jittered, uid).unwrap();
                let first = calendar.next_after(time("2026-11-22T12:00:00Z")).unwrap();
                let second = calendar.next_after(first).unwrap();
                assert_eq!(second.duration_since(first), SignedDuration::from_hours(24));
                first.duration_since(time("2026-11-23T03:00:00Z")).as_secs()
            })
            .collect();
        assert!(delays.iter().all(|delay| (0..=1800).contains(delay)), "{delays:?}");
        assert!(delays.windows(2).any(|pair| pair[0] != pair[1]), "{delays:?}");
    }

    #[test]
    fn what_cannot_be_read_names_the_field() {
        let zone = Calendar::new(&schedule("0 3 * * *", Some("Europe/Berlln")), "").unwrap_err();
        assert_eq!(zone.reason(), "UnknownTimeZone");
        assert!(zone.to_string().starts_with("timeZone \"Europe/Berlln\""));
        let cron = Calendar::new(&schedule("99 3 * * *", None), "").unwrap_err();
        assert!(
            cron.to_string().starts_with("cron \"99 3 * * *\" cannot be read: minute 99 is not between 0 and 59. ")
        );
    }

    #[test]
    fn what_never_comes_due_is_refused_and_what_is_rare_is_not() {
        for never in ["0 2 31 2 *", "0 2 30 FEB *", "0 2 31 4,6,9,11 *", "0 2 * * ,"] {
            let why = Calendar::new(&schedule(never, Some("Europe/Berlin")), "").unwrap_err();
            assert_eq!(why.reason(), "InvalidCron");
            assert!(why.to_string().starts_with(&format!("cron {never:?} never comes due")), "{why}");
        }
        for rare in ["0 2 29 2 *", "0 2 31 2 1", "30 2 31 3 *", "0 0 29 2 */7"] {
            Calendar::new(&schedule(rare, Some("Europe/Berlin")), "").expect(rare);
        }
    }
}
