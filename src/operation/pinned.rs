//! The steps of a run, as they are put on record when it begins.

use jiff::Timestamp;

use crate::{
    api::{
        Duration,
        jobs::JobSettings,
        mounts::{Mount, Source},
        operation::{Cursor, DatabaseAccess, Interrupted, OperationStatus, Stage, StepSpec, StepStatus},
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
        in_order.sort_by_key(|step| {
            let stage = step.spec.stage;
            (stage.is_afterwards(), !stage.decides(), stage.is_offline())
        });
        steps.extend(in_order.into_iter().map(|step| {
            let mut spec = step.spec.clone();
            let cursor = cursors.iter().find(|cursor| cursor.step == spec.name);
            spec.args.extend(cursor.map(|cursor| format!("--cursor={}", cursor.position)));
            spec.deadline = deadline(spec.stage, jobs);
            StepStatus::pending(spec)
        }));
    }
    if let Some(first) = steps.iter().position(|step| step.spec.stage.is_offline()) {
        let placement = placement(&steps);
        steps.insert(first, placement);
    }
    steps
}

/// Where the offline steps will run: with their claims. Their Secrets are not needed for that.
fn placement(steps: &[StepStatus]) -> StepStatus {
    let offline = || steps.iter().map(|step| &step.spec).filter(|spec| spec.stage.is_offline());
    let is_claim = |mount: &&Mount| matches!(mount.source, Source::Claim { .. });
    StepStatus::pending(StepSpec {
        name: PLACEMENT.to_owned(),
        args: vec![PLACEMENT.to_owned()],
        database: offline().map(|spec| spec.database).max_by_key(|database| *database as u8).unwrap_or_default(),
        mounts: all_mounts(offline().flat_map(|spec| &spec.mounts).filter(is_claim)),
        memory_limit: offline().find_map(|spec| spec.memory_limit.clone()),
        deadline: Some(constant(PREFLIGHT_DEADLINE)),
        ..StepSpec::default()
    })
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
    let checks = wanted.iter().filter_map(|step| step.preflight.as_ref().map(|check| (&step.spec.name, check)));
    args.extend(checks.map(|(name, check)| format!("--step={name}={check}")));
    args.push(format!("--downtime-at-most={}", request.downtime.at_most.as_secs()));
    args.push(format!("--stated-at={created}"));
    args.extend(cursors.iter().map(|cursor| format!("--cursor={}={}", cursor.step, cursor.position)));
    if request.dry_run {
        args.push("--dry-run".to_owned());
    }
    let image = wanted.iter().find_map(|step| step.schema_from.clone());
    let own_synapse = image.map(|image| OwnSynapse { image, duty: Duty::TellsSchema });
    args.extend(own_synapse.iter().map(|_| format!("--synapse-schema-file={}", schema_file())));
    let with_disk = wanted.iter().any(|step| step.spec.database == DatabaseAccess::WithDisk);
    StepStatus::pending(StepSpec {
        name: PREFLIGHT.to_owned(),
        args,
        database: if with_disk { DatabaseAccess::WithDisk } else { DatabaseAccess::Connection },
        mounts: all_mounts(wanted.iter().flat_map(|step| &step.spec.mounts)),
        own_synapse,
        memory_limit: wanted.iter().find_map(|step| step.spec.memory_limit.clone()),
        deadline: Some(constant(PREFLIGHT_DEADLINE)),
        ..StepSpec::default()
    })
}

/// How long a step may take. What has a budget of the downtime has none; the rest is bounded so that what never answers, such
/// as a storage that hangs, does not hold the homeserver's Lease for ever.
fn deadline(stage: Stage, jobs: &JobSettings) -> Option<Duration> {
    let default = if stage.is_afterwards() { DEADLINE_AFTERWARDS } else { DEADLINE };
    (!stage.has_budget()).then(|| jobs.deadline.clone().unwrap_or_else(|| constant(default)))
}

fn constant(text: &str) -> Duration {
    text.parse().expect("a constant duration")
}

/// The step that rolls another one back: with the same Pod, and in a downtime where that one had one.
pub fn undo_of(done: &StepStatus) -> StepStatus {
    StepStatus::pending(StepSpec {
        name: format!("undo-{}", done.spec.name),
        stage: if done.spec.stage.is_offline() { Stage::Offline(Interrupted::Whole) } else { Stage::Online },
        args: done.spec.undo.clone(),
        database: done.spec.database,
        mounts: done.spec.mounts.clone(),
        memory_limit: done.spec.memory_limit.clone(),
        ..StepSpec::default()
    })
}
