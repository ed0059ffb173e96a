//! The result: one row for each figure, with the smallest, the median and the largest of its repetitions.

use std::fmt;

/// In the order in which the rows were first filled.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

struct Row {
    part: &'static str,
    what: String,
    unit: &'static str,
    aim: String,
    values: Vec<f64>,
}

impl Table {
    /// One more repetition of a figure that has no aim.
    pub fn note(&mut self, part: &'static str, what: impl Into<String>, unit: &'static str, value: f64) {
        self.add(part, what, unit, "", value);
    }

    /// One more repetition of a figure, with what it should be.
    pub fn add(
        &mut self,
        part: &'static str,
        what: impl Into<String>,
        unit: &'static str,
        aim: impl Into<String>,
        value: f64,
    ) {
        let what = what.into();
        let row = self.rows.iter_mut().find(|row| row.part == part && row.what == what);
        eprintln!("  {part}: {what}: {} {unit}", number(value));
        match row {
            Some(row) => row.values.push(value),
            None => self.rows.push(Row { part, what, unit, aim: aim.into(), values: vec![value] }),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !parts.contains(&row.part) {
                parts.push(row.part);
            }
        }
        for part in parts {
            writeln!(f, "| {part} | aim | min | median | max | n |\n|---|---|---|---|---|---|")?;
            for row in self.rows.iter().filter(|row| row.part == part) {
                let mut values = row.values.clone();
                values.sort_by(f64::total_cmp);
                let (min, max) = (values[0], values[values.len() - 1]);
                let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
                let [min, median, max] = [min, median, max].map(number);
                let unit = if row.unit.is_empty() { String::new() } else { format!(", {}", row.unit) };
                writeln!(f, "| {}{unit} | {} | {min} | {median} | {max} | {} |", row.what, row.aim, values.len())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Three digits are more than these measurements are worth.
fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
