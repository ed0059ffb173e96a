//! What becomes of the Pods of a namespace, if a test wants something else than success.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use synapse_keeper::contract::{
    BackupSnapshot, ErrorClass, Findings, InspectionFindings, ListedBackups, PreflightFindings, Report, StepPlan,
    StepResult, TableResult, TaskError, Verdict,
};

use super::ledger::Task;

/// What becomes of a Job's Pod.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It ends and reports this.
    Reports(Report),
    /// The same, but the termination message says no more than that the report is in the log.
    ReportsInLog(Report),
    /// It is killed for memory, without a report.
    RunsOutOfMemory,
    /// The kubelet evicts it.
    Evicted,
    /// Its image cannot be pulled.
    NoImage,
    /// No node takes it.
    Unschedulable,
    /// It runs until it is told to stop.
    RunsUntilDeleted,
    /// The same, and it takes this many milliseconds.
    StopsSlowly(u64),
    /// It runs until the test lets tasks end, then this becomes of it.
    Held(Box<Fate>),
    /// Its node is lost: it is never seen to stop.
    OnLostNode,
}

/// What becomes of a homeserver's Pod that is not well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It ignores SIGTERM, or its node is lost.
    NeverStops,
    /// It runs but is never Ready.
    NeverReady,
    /// It takes this many milliseconds to stop.
    StopsSlowly(u64),
    /// Its volume does not come to its node.
    NeverStarts,
}

type OfTask = dyn Fn(&Task) -> Option<Fate> + Send + Sync;
type OfPod = dyn Fn(&str) -> Option<Trouble> + Send + Sync;

/// The plot of one namespace. `None` from a function: all goes well.
pub struct Script {
    of_task: Box<OfTask>,
    of_pod: Box<OfPod>,
}

impl Default for Script {
    fn default() -> Self {
        Self { of_task: Box::new(|_| None), of_pod: Box::new(|_| None) }
    }
}

impl Script {
    pub fn tasks(mut self, of_task: impl Fn(&Task) -> Option<Fate> + Send + Sync + 'static) -> Self {
        self.of_task = Box::new(of_task);
        self
    }

    pub fn pods(mut self, of_pod: impl Fn(&str) -> Option<Trouble> + Send + Sync + 'static) -> Self {
        self.of_pod = Box::new(of_pod);
        self
    }

    pub fn fate(&self, task: &Task) -> Fate {
        (self.of_task)(task).unwrap_or_else(|| Fate::Reports(success(task)))
    }

    pub fn trouble(&self, pod: &str) -> Option<Trouble> {
        (self.of_pod)(pod)
    }
}

/// What the real task would report where all is well.
pub fn success(task: &Task) -> Report {
    let (mut result, mut findings) = (None, None);
    match task.name() {
        "preflight" => findings = Some(Findings::Preflight(preflight(task))),
        "inspect" => findings = Some(Findings::Inspection(Box::new(inspection()))),
        "placement" => {}
        // What has no media yet is no backup.
        "backup" if task.has("--draft") => {
            result = Some(StepResult { summary: "drafted".to_owned(), ..Default::default() })
        }
        "backup" => result = Some(backup(task.flag("--run"))),
        "backup-media" => {
            result = Some(backup(task.flag("--of-run").and_then(|run| run.split_once('.')).map(|(_, run)| run)));
        }
        "verify" => result = Some(verdict(task, true)),
        "restore-database" | "swap-database" => {
            result = Some(StepResult { summary: format!("{} done", task.name()), ..Default::default() });
        }
        "delete-backups" => result = Some(StepResult { summary: "deleted".to_owned(), ..Default::default() }),
        "retain" => result = Some(StepResult { summary: "took none away".to_owned(), ..Default::default() }),
        _ => {
            let (before, after) = if task.is_offline() { (5_000_000, 3_000_000) } else { (5_000_000, 5_000_000) };
            result = Some(StepResult {
                summary: format!("{} done", task.flag("--mode").unwrap_or_default()),
                bytes_before: Some(before),
                bytes_after: Some(after),
                seconds: Some(0.1),
                tables: vec![TableResult { bytes_before: before, bytes_after: after, ..Default::default() }],
                ..Default::default()
            });
        }
    }
    Report { result, findings, ..Report::default() }
}

/// A task's failure, as it reports it.
pub fn failure(class: ErrorClass, reason: &str, message: &str) -> Report {
    let error = TaskError { class, reason: reason.to_owned(), message: message.to_owned() };
    Report { error: Some(error), ..Report::default() }
}

fn preflight(task: &Task) -> PreflightFindings {
    let steps = task.args.iter().filter_map(|arg| arg.strip_prefix("--step=")?.split_once('='));
    let plan = steps.map(|(name, step)| StepPlan {
        step: name.to_owned(),
        summary: "as asked for".to_owned(),
        offline: step.contains("Full"),
        ..Default::default()
    });
    PreflightFindings { plan: plan.collect(), ..Default::default() }
}

/// As many backups as runs.
fn backup(run: Option<&str>) -> StepResult {
    let number: i64 = run.and_then(|run| run.parse().ok()).expect("it belongs to a run");
    let all = (1..=number)
        .rev()
        .map(|n| BackupSnapshot::new(format!("snapshot-{n}"), Some(taken_at(n)), n << 30, 1 << 20))
        .map(|backup| BackupSnapshot { postgres_major: Some(15), ..backup });
    StepResult {
        summary: "backed up".to_owned(),
        backups: Some(ListedBackups::new(all.collect())),
        ..Default::default()
    }
}

/// What a drill says of the backup that it was told to restore.
pub fn verdict(task: &Task, is_whole: bool) -> StepResult {
    let snapshot = task.flag("--snapshot").expect("it is told which").to_owned();
    let number: i64 = snapshot.rsplit('-').next().and_then(|number| number.parse().ok()).expect("one of ours");
    let verdict = Verdict { snapshot, taken_at: Some(taken_at(number)), is_whole };
    StepResult { summary: "restored".to_owned(), verdict: Some(verdict), ..Default::default() }
}

/// The moment of a run's backup.
fn taken_at(number: i64) -> Time {
    Time(jiff::Timestamp::from_second(1_700_000_000 + number).expect("a time"))
}

fn inspection() -> InspectionFindings {
    InspectionFindings {
        inspected_at: Some(Time(jiff::Timestamp::now())),
        postgres_version: "17.6".to_owned(),
        postgres_version_num: 170_006,
        encoding: "UTF8".to_owned(),
        collate: "C".to_owned(),
        ctype: "C".to_owned(),
        database_bytes: 5_000_000,
        schema_version: Some(92),
        schema_compat_version: Some(90),
        synapse_version: Some("1.163.2".to_owned()),
        unused_rooms: Some(0),
        uncensored_redactions: Some(0),
        ..Default::default()
    }
}
