//! The steps of a run, as they are put on record when it begins.

use jiff::Timestamp;

use crate::{
    api::operation::{Cursor, StepState, StepStatus},
    recipes::Request,
};

/// Name of the first step of every run.
pub const PREFLIGHT: &str = "preflight";

/// Preflight, the online steps, the offline steps: these stand together in one downtime. A dry run has preflight alone.
/// What was stated in the object is as old as the object, or younger.
pub fn steps(request: &Request, cursors: &[Cursor], created: Timestamp) -> Vec<StepStatus> {
    let (offline, online): (Vec<_>, Vec<_>) = request.steps.iter().partition(|step| step.offline);
    let mut preflight = vec![PREFLIGHT.to_owned()];
    preflight.extend(request.steps.iter().map(|step| format!("--step={}={}", step.name, step.preflight)));
    preflight.push(format!("--downtime-at-most={}", request.downtime.at_most.as_secs()));
    preflight.push(format!("--stated-at={created}"));
    preflight.extend(cursors.iter().map(|cursor| format!("--cursor={}={}", cursor.step, cursor.position)));
    if request.dry_run {
        preflight.push("--dry-run".to_owned());
    }
    let mut steps = vec![pending(PREFLIGHT.to_owned(), false, preflight)];
    if !request.dry_run {
        steps.extend(online.into_iter().chain(offline).map(|step| {
            let mut args = step.args.clone();
            let cursor = cursors.iter().find(|cursor| cursor.step == step.name);
            args.extend(cursor.map(|cursor| format!("--cursor={}", cursor.position)));
            pending(step.name.clone(), step.offline, args)
        }));
    }
    steps
}

fn pending(name: String, offline: bool, args: Vec<String>) -> StepStatus {
    StepStatus {
        name,
        offline,
        args,
        state: StepState::Pending,
        attempt: 0,
        job_uid: None,
        started_at: None,
        finished_at: None,
        retry_at: None,
        message: None,
        result: None,
    }
}
