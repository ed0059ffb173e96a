//! Which tables, in which order, within which time. Nothing in here asks anybody anything.

use std::cmp::Ordering;

use crate::{api::maintenance::VacuumMode, bytes, contract::TablePlan, postgres::relations::Table};

/// Bytes a second of reading a table, and of writing it anew with its indexes and WAL. Modest network storage does both
/// several times over; a table that turns out faster makes the rest be taken for faster (see [`Pace`]).
const READ_RATE: f64 = (100 << 20) as f64;
const WRITE_RATE: f64 = (20 << 20) as f64;
/// Seconds that a table costs however small it is: locks, catalogs, ANALYZE.
const FIXED_SECONDS: f64 = 0.2;

/// A new size is planned with this much more, where the disk must have room for it.
const COPY_MARGIN: f64 = 1.25;

/// A table that could be vacuumed.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub table: Table,
    /// With indexes and TOAST, in bytes, estimated. Mode Analyze: the size that it has.
    pub bytes_after: i64,
}

impl Candidate {
    /// Bytes that would be given back to the disk.
    pub fn gain(&self) -> i64 {
        self.table.bytes - self.bytes_after
    }

    /// Bytes that the new files may need beside the old ones.
    pub fn copy_bytes(&self) -> i64 {
        ((self.bytes_after as f64 * COPY_MARGIN) as i64).min(self.table.bytes)
    }

    /// How long it takes on modest hardware.
    pub fn seconds(&self, mode: VacuumMode) -> f64 {
        let read = self.table.bytes as f64 / READ_RATE;
        let written = match mode {
            VacuumMode::Full => self.bytes_after as f64 / WRITE_RATE,
            // Every page may have to be written once: hint bits, the visibility map, pruned rows.
            VacuumMode::Analyze => read,
        };
        FIXED_SECONDS + read + written
    }

    /// The table in a plan.
    pub fn to_plan(&self, mode: VacuumMode, skipped: Option<String>) -> TablePlan {
        TablePlan {
            name: self.table.name.clone(),
            bytes: self.table.bytes,
            dead_rows: self.table.dead_rows,
            expected_gain_bytes: self.gain(),
            expected_seconds: self.seconds(mode).ceil() as i64,
            skipped,
        }
    }
}

/// Why a table is left alone; `None`: it is worth the work. Only mode Full asks for a gain.
pub fn too_little(candidate: &Candidate, minimum_gain: i64) -> Option<String> {
    (candidate.gain() < minimum_gain).then(|| {
        let (gain, minimum) = (bytes::human(candidate.gain()), bytes::human(minimum_gain));
        format!("would give back about {gain}, less than minimumGain ({minimum})")
    })
}

/// Puts first what the last run had to leave (so that a table that is bloated anew every week does not keep another one
/// waiting for ever), then what gives back most bytes a second; mode Analyze: what has the most dead rows.
pub fn order(candidates: &mut [Candidate], mode: VacuumMode, cursor: Option<&str>) {
    let left: Vec<&str> = cursor.unwrap_or_default().split(',').collect();
    let was_left = |candidate: &Candidate| left.contains(&candidate.table.name.as_str());
    let worth = |candidate: &Candidate| match mode {
        VacuumMode::Full => candidate.gain() as f64 / candidate.seconds(mode),
        VacuumMode::Analyze => candidate.table.dead_rows as f64,
    };
    candidates.sort_by(|a, b| {
        let by_worth = || worth(b).partial_cmp(&worth(a)).unwrap_or(Ordering::Equal);
        was_left(b).cmp(&was_left(a)).then_with(by_worth).then_with(|| a.table.name.cmp(&b.table.name))
    });
}

/// The first table that fits into the time that is left; all do if there is no limit.
pub fn next(candidates: &[Candidate], mode: VacuumMode, pace: Pace, seconds_left: Option<f64>) -> Option<usize> {
    candidates.iter().position(|candidate| seconds_left.is_none_or(|left| pace.seconds(candidate, mode) <= left))
}

/// What fits into the time, taken in order as [`next`] takes it, and what does not.
pub fn fit(candidates: &[Candidate], mode: VacuumMode, seconds: Option<f64>) -> (Vec<Candidate>, Vec<Candidate>) {
    let mut left = candidates.to_vec();
    let mut fitting = Vec::new();
    let mut seconds_left = seconds;
    while let Some(index) = next(&left, mode, Pace::default(), seconds_left) {
        let candidate = left.remove(index);
        seconds_left = seconds_left.map(|seconds| seconds - candidate.seconds(mode));
        fitting.push(candidate);
    }
    (fitting, left)
}

/// Where the next run goes on: the tables that were left.
pub fn cursor(left: &[Candidate]) -> Option<String> {
    let names: Vec<&str> = left.iter().map(|candidate| candidate.table.name.as_str()).collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// How fast this server is, learned from the tables that were done.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    expected: f64,
    measured: f64,
}

impl Pace {
    /// Less than this much expected work teaches nothing.
    const ENOUGH: f64 = 1.0;
    /// Tables differ: what was learned is taken with this much slack.
    const SLACK: f64 = 1.5;

    /// Takes note of a table that was done.
    pub fn learn(&mut self, candidate: &Candidate, mode: VacuumMode, seconds: f64) {
        self.expected += candidate.seconds(mode);
        self.measured += seconds;
    }

    /// How long a table will take.
    pub fn seconds(self, candidate: &Candidate, mode: VacuumMode) -> f64 {
        let factor = if self.expected < Self::ENOUGH { 1.0 } else { Self::SLACK * self.measured / self.expected };
        candidate.seconds(mode) * factor.max(0.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: i64 = 1 << 20;

    fn candidate(name: &str, before: i64, after: i64) -> Candidate {
        let table = Table { name: name.to_owned(), bytes: before * MIB, dead_rows: before, ..Table::default() };
        Candidate { table, bytes_after: after * MIB }
    }

    fn names(candidates: &[Candidate]) -> Vec<&str> {
        candidates.iter().map(|candidate| candidate.table.name.as_str()).collect()
    }

    #[test]
    fn most_bytes_a_second_come_first() {
        let mut tables =
            vec![candidate("compact", 1000, 900), candidate("half", 1000, 500), candidate("empty", 400, 0)];
        order(&mut tables, VacuumMode::Full, None);
        assert_eq!(names(&tables), ["empty", "half", "compact"]);
    }

    #[test]
    fn what_was_left_comes_before_what_gains_more() {
        let mut tables = vec![candidate("a", 400, 0), candidate("b", 1000, 500), candidate("c", 1000, 900)];
        order(&mut tables, VacuumMode::Full, Some("c,gone"));
        assert_eq!(names(&tables), ["c", "a", "b"]);
    }

    #[test]
    fn analyze_begins_with_the_most_dead_rows() {
        let mut tables = vec![candidate("a", 1, 1), candidate("b", 7, 7), candidate("c", 3, 3)];
        order(&mut tables, VacuumMode::Analyze, None);
        assert_eq!(names(&tables), ["b", "c", "a"]);
    }

    #[test]
    fn a_table_that_does_not_fit_gives_way_to_one_that_does() {
        // 1000 MiB read and written anew: 10 s + 40 s. The other: 1 s + 1 s.
        let tables = [candidate("large", 1000, 800), candidate("small", 100, 20)];
        let pace = Pace::default();
        assert_eq!(next(&tables, VacuumMode::Full, pace, None), Some(0));
        assert_eq!(next(&tables, VacuumMode::Full, pace, Some(60.0)), Some(0));
        assert_eq!(next(&tables, VacuumMode::Full, pace, Some(30.0)), Some(1));
        assert_eq!(next(&tables, VacuumMode::Full, pace, Some(1.0)), None);
        assert_eq!(cursor(&tables).as_deref(), Some("large,small"));
        assert_eq!(cursor(&[]), None);
    }

    #[test]
    fn a_fast_server_fits_more_and_a_slow_one_less() {
        let large = candidate("large", 1000, 800);
        let mut fast = Pace::default();
        fast.learn(&candidate("done", 100, 20), VacuumMode::Full, 0.44);
        assert!((fast.seconds(&large, VacuumMode::Full) - 15.06).abs() < 0.1);
        let mut slow = Pace::default();
        slow.learn(&candidate("done", 100, 20), VacuumMode::Full, 22.0);
        assert!(slow.seconds(&large, VacuumMode::Full) > 500.0);
        let mut tiny = Pace::default();
        tiny.learn(&candidate("tiny", 1, 1), VacuumMode::Full, 0.001);
        assert_eq!(tiny.seconds(&large, VacuumMode::Full), large.seconds(VacuumMode::Full));
    }

    #[test]
    fn little_gain_is_told_with_both_figures() {
        assert_eq!(too_little(&candidate("t", 100, 84), 16 * MIB), None);
        let reason = too_little(&candidate("t", 100, 85), 16 * MIB).unwrap();
        assert_eq!(reason, "would give back about 15.0 MiB, less than minimumGain (16.0 MiB)");
        assert_eq!(too_little(&candidate("t", 100, 100), 0), None, "0 takes every table");
    }

    #[test]
    fn the_copy_has_a_margin_but_is_never_larger_than_the_table() {
        assert_eq!(candidate("t", 100, 40).copy_bytes(), 50 * MIB);
        assert_eq!(candidate("t", 100, 95).copy_bytes(), 100 * MIB);
    }
}
