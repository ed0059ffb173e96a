//! Where a task writes: JSON lines to standard output, the report to the container's termination message as well.

use std::{fs::OpenOptions, io::Write, path::Path};

use jiff::Timestamp;

use crate::contract::Report;

/// Where Kubernetes reads a container's termination message, unless told otherwise.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// The kubelet cuts a termination message here.
const TERMINATION_LOG_BYTES: usize = 4096;

/// Says how far the work is.
pub fn progress(message: &str) {
    let line = serde_json::json!({"time": format!("{:.3}", Timestamp::now()), "progress": message});
    // Who reads may be gone; the work goes on.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Writes the report: whole as the last line, and as the termination message as much of it as fits.
pub fn finish(report: &Report, termination_log: Option<&Path>) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{}", to_json(report)).and_then(|()| stdout.flush());
    // Made by the kubelet before the container starts. A task by hand must not leave a file in /dev.
    let path = termination_log.unwrap_or(Path::new(TERMINATION_LOG));
    let file = OpenOptions::new().write(true).truncate(true).create(termination_log.is_some()).open(path);
    if let Ok(mut file) = file {
        let _ = file.write_all(shortened(report, TERMINATION_LOG_BYTES).as_bytes());
    }
}

fn to_json(report: &Report) -> String {
    serde_json::to_string(report).expect("a report has only string keys")
}

/// The report in at most `limit` bytes: without its details if they do not fit, and with shorter texts if it must be.
fn shortened(report: &Report, limit: usize) -> String {
    let whole = to_json(report);
    if whole.len() <= limit {
        return whole;
    }
    let mut short = Report { findings: None, details_in_log: true, ..report.clone() };
    if let Some(result) = &mut short.result {
        result.tables.clear();
        result.skipped.clear();
        result.warnings.clear();
        result.backups = None;
        // Names of up to all tables. A cut cursor would name half of one.
        result.cursor.take_if(|cursor| cursor.len() > limit / 4);
    }
    let mut text = to_json(&short);
    // A tenth at a time: how many bytes JSON writes for a character differs.
    while text.len() > limit {
        let message = short.error.as_mut().map(|error| &mut error.message);
        let summary = short.result.as_mut().map(|result| &mut result.summary);
        let Some(longest) = message.into_iter().chain(summary).max_by_key(|text| text.len()) else { break };
        if longest.len() < 2 * '…'.len_utf8() {
            break;
        }
        longest.truncate(longest.floor_char_boundary(longest.len() * 9 / 10 - '…'.len_utf8()));
        longest.push('…');
        text = to_json(&short);
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::contract::{BackupSnapshot, ListedBackups, StepResult, TableResult, TaskError, output::*};

    fn table(number: usize) -> TableResult {
        TableResult { name: format!("a_table_with_a_rather_long_name_{number}"), ..TableResult::default() }
    }

    #[test]
    fn a_small_report_is_written_whole() {
        let report = Report { error: Some(TaskError::terminal("Reason", "message")), ..Report::default() };
        assert_eq!(serde_json::from_str::<Report>(&shortened(&report, 4096)).unwrap(), report);
    }

    #[test]
    fn a_long_report_loses_its_details_but_not_its_figures() {
        let result = StepResult {
            summary: "freed 1.2 GiB".to_owned(),
            bytes_before: Some(10),
            bytes_after: Some(1),
            tables: (0..50).map(table).collect(),
            cursor: Some("events".to_owned()),
            ..StepResult::default()
        };
        let backup = |number| BackupSnapshot::new(format!("{number:064}"), None, number, 0);
        let listed = StepResult {
            tables: vec![],
            backups: Some(ListedBackups::new((0..40).map(backup).collect())),
            ..result.clone()
        };
        for full in [result.clone(), listed] {
            let report = Report { result: Some(full), ..Report::default() };
            let text = shortened(&report, 2048);
            assert!(text.len() <= 2048);
            let read: Report = serde_json::from_str(&text).unwrap();
            assert!(read.details_in_log);
            assert_eq!(read.result.unwrap(), StepResult { tables: vec![], ..result.clone() });
        }
    }

    #[test]
    fn an_endless_message_is_cut_at_a_character() {
        for message in ["ü".repeat(9000), "\u{1}".repeat(9000), "\"\\\n".repeat(3000)] {
            let report = Report { error: Some(TaskError::transient("Reason", message)), ..Report::default() };
            let text = shortened(&report, 4096);
            assert!(text.len() <= 4096, "{}", text.len());
            let error = serde_json::from_str::<Report>(&text).unwrap().error.unwrap();
            assert_eq!(error.reason, "Reason");
            assert!(error.message.ends_with('…') && error.message.len() > 100, "{}", error.message.len());
        }
    }
}
