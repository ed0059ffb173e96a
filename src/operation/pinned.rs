//! The steps of a run, as they are put on record when it begins.

use jiff::Timestamp;

use crate::{
    api::{
        Duration,
        jobs::JobSettings,
        mounts::{Mount, Source},
        operation::{Cursor, DatabaseAccess, OperationStatus, StepState, StepStatus},
        verification::{Duty, OwnSynapse},
    },
    operation::{job::synapse::schema_file, observed::Subject},
    recipes::{RecipeStep, Request},
};

/// Name of the first step of every run.
pub const PREFLIGHT: &str = "preflight";
/// Name of the step right before a downtime: its Pod is made as that of the step that follows will be, and does nothing. Since
/// preflight the node may have become full or been cordoned, or a quota been used up.
pub const PLACEMENT: &str = "placement";

/// Preflight reads, and the start of its Pod counts: an image may have to be pulled first.
const PREFLIGHT_DEADLINE: &str = "45m";
/// A database of some terabytes can be read or written in this time.
const DEADLINE: &str = "2d";
/// A first upload of media takes days, and nobody waits for it.
const DEADLINE_AFTERWARDS: &str = "14d";

/// Preflight, the online steps, and behind a placement the offline steps, which stand together in one downtime; then those that
/// come afterwards, and last those that decide nothing. A dry run has preflight alone; what does not work on the homeserver has
/// none. What was stated in the object is as old as the object, or younger.
pub fn steps(wanted: &[RecipeStep], subject: &Subject, jobs: &JobSettings) -> Vec<StepStatus> {
    let Subject { request, created, status: OperationStatus { cursors, .. }, .. } = subject;
    let mut steps: Vec<StepStatus> =
        subject.lane.holds_homeserver.then(|| preflight(wanted, request, cursors, *created)).into_iter().collect();
    if !request.dry_run {
        let mut in_order: Vec<&RecipeStep> = wanted.iter().collect();
        in_order.sort_by_key(|step| (step.afterwards, !step.decides, step.offline));
        steps.extend(in_order.into_iter().map(|step| {
            let mut args = step.args.clone();
            let cursor = cursors.iter().find(|cursor| cursor.step == step.name);
            args.extend(cursor.map(|cursor| format!("--cursor={}", cursor.position)));
            StepStatus {
                offline: step.offline,
                afterwards: step.afterwards,
                decides: step.decides,
                database: step.database,
                mounts: step.mounts.clone(),
                server: step.server.clone(),
                own_synapse: step.own_synapse.clone().filter(|own| own.duty == Duty::Serves),
                memory_limit: step.memory_limit.clone(),
                undo: step.undo.clone(),
                holds: step.holds,
                fills: step.fills,
                deadline: deadline(step, jobs),
                ..pending(&step.name, args)
            }
        }));
    }
    if let Some(first) = steps.iter().position(|step| step.offline) {
        let placement = placement(&steps);
        steps.insert(first, placement);
    }
    steps
}

/// Where the offline steps will run: with their claims. Their Secrets are not needed for that.
fn placement(steps: &[StepStatus]) -> StepStatus {
    let offline = || steps.iter().filter(|step| step.offline);
    let database = offline().map(|step| step.database).max_by_key(|database| *database as u8).unwrap_or_default();
    let memory_limit = offline().find_map(|step| step.memory_limit.clone());
    let is_claim = |mount: &&Mount| matches!(mount.source, Source::Claim { .. });
    let mounts = all_mounts(offline().flat_map(|step| &step.mounts).filter(is_claim));
    let deadline = Some(constant(PREFLIGHT_DEADLINE));
    StepStatus { database, mounts, memory_limit, deadline, ..pending(PLACEMENT, vec![PLACEMENT.to_owned()]) }
}

fn all_mounts<'a>(wanted: impl Iterator<Item = &'a Mount>) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in wanted {
        if !mounts.contains(mount) {
            mounts.push(mount.clone());
        }
    }
    mounts
}

/// It runs as the steps will: with all that they have mounted.
fn preflight(wanted: &[RecipeStep], request: &Request, cursors: &[Cursor], created: Timestamp) -> StepStatus {
    let mut args = vec![PREFLIGHT.to_owned()];
    let checks = wanted.iter().filter_map(|step| step.preflight.as_ref().map(|check| (&step.name, check)));
    args.extend(checks.map(|(name, check)| format!("--step={name}={check}")));
    args.push(format!("--downtime-at-most={}", request.downtime.at_most.as_secs()));
    args.push(format!("--stated-at={created}"));
    args.extend(cursors.iter().map(|cursor| format!("--cursor={}={}", cursor.step, cursor.position)));
    if request.dry_run {
        args.push("--dry-run".to_owned());
    }
    let tells_schema = |own: &&OwnSynapse| own.duty == Duty::TellsSchema;
    let own_synapse = wanted.iter().filter_map(|step| step.own_synapse.as_ref()).find(tells_schema).cloned();
    args.extend(own_synapse.iter().map(|_| format!("--synapse-schema-file={}", schema_file())));
    let mounts = all_mounts(wanted.iter().flat_map(|step| &step.mounts));
    let memory_limit = wanted.iter().find_map(|step| step.memory_limit.clone());
    let with_disk = wanted.iter().any(|step| step.database == DatabaseAccess::WithDisk);
    let database = if with_disk { DatabaseAccess::WithDisk } else { DatabaseAccess::Connection };
    let deadline = Some(constant(PREFLIGHT_DEADLINE));
    StepStatus { database, mounts, own_synapse, memory_limit, deadline, ..pending(PREFLIGHT, args) }
}

/// How long a step may take. What has a budget of the downtime has none; the rest is bounded so that what never answers, such
/// as a storage that hangs, does not hold the homeserver's Lease for ever.
fn deadline(step: &RecipeStep, jobs: &JobSettings) -> Option<Duration> {
    let has_budget = step.offline && !step.fills;
    let default = if step.afterwards { DEADLINE_AFTERWARDS } else { DEADLINE };
    (!has_budget).then(|| jobs.deadline.clone().unwrap_or_else(|| constant(default)))
}

fn constant(text: &str) -> Duration {
    text.parse().expect("a constant duration")
}

/// The step that takes another one back: with the same Pod.
pub fn undo_of(done: &StepStatus) -> StepStatus {
    StepStatus {
        offline: done.offline,
        database: done.database,
        mounts: done.mounts.clone(),
        memory_limit: done.memory_limit.clone(),
        ..pending(&format!("undo-{}", done.name), done.undo.clone())
    }
}

fn pending(name: &str, args: Vec<String>) -> StepStatus {
    StepStatus {
        name: name.to_owned(),
        offline: false,
        args,
        afterwards: false,
        decides: false,
        database: DatabaseAccess::default(),
        mounts: Vec::new(),
        server: None,
        own_synapse: None,
        memory_limit: None,
        undo: Vec::new(),
        holds: false,
        fills: false,
        was_in_doubt: false,
        state: StepState::Pending,
        attempt: 0,
        pod: None,
        job_uid: None,
        started_at: None,
        finished_at: None,
        retry_at: None,
        gives_way_to: None,
        outlived_by: None,
        deadline: None,
        reason: None,
        message: None,
        result: None,
    }
}
