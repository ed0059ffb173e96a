//! Reading what the next decision needs, and nothing else.
//!
//! Everything is read from the API server, not from a cache: a decision about somebody's replicas must not rest on what was
//! true a second ago.

mod jobs;

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, coordination::v1::Lease, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};

pub use jobs::{job, job_state};

use super::{
    claims, image, job, kinds, lease,
    observed::{JobLeft, KeptDown, LeaseState, Live, Observed, ObservedSynapse, Subject, TASK_STOPS_WITHIN},
    pinned, refused_pods,
    resolve::{self, Found},
    scale,
};
use crate::{
    api::{
        Synapse, SynapseBackup,
        operation::{RecordedWorkload, Run, StepState, StepStatus, Window},
        synapse::{WorkloadKind, WorkloadRef},
    },
    context::Context,
    recipes::{Lane, Need},
    requests::find,
};

/// Looks.
///
/// # Errors
/// What the API server answers.
pub async fn observe(context: &Context, subject: &Subject) -> kube::Result<Observed> {
    let mut observed = Observed {
        uninstalling: context.is_uninstalling(),
        image: context.config.tools_image.clone(),
        ..Default::default()
    };
    let Some(run) = subject.status.active_run() else { return Ok(observed) };
    if asks_for_synapse(run) {
        observed.synapse = synapse(context, subject).await?;
    }
    if subject.lane.holds_homeserver {
        observed.lease = lease_state(context, subject).await?;
    }
    let Some(pinned) = &run.synapse else {
        if let Some(name) = &subject.request.backup {
            let backups: Api<SynapseBackup> = Api::namespaced(context.client.clone(), &subject.namespace);
            observed.backup = find(&backups, name).await?;
        }
        look_for_image(context, subject, &mut observed).await?;
        return Ok(observed);
    };
    if let Some(step) = run.steps.iter().find(|step| step.state == StepState::Running) {
        let name = job::name(&subject.name, &subject.uid, run.number, &step.spec.name, step.attempt);
        observed.job = job(context, &subject.namespace, &name, &subject.uid).await?;
        // Only what takes long is in the way: the others are over before a Pod has come elsewhere.
        let node =
            observed.job.as_ref().and_then(|job| job.node.as_deref()).filter(|_| step.spec.stage.is_afterwards());
        let held = claims::pinned_for(step, &pinned.spec, &run.claims);
        if let (Some(node), false) = (node, held.is_empty()) {
            observed.claim_wanted_by = claims::wanted_by(&context.client, &subject.namespace, &held, node).await?;
        }
    }
    if let Some(step) = run.outlived_step().map(|index| &run.steps[index]) {
        let name = job::name(&subject.name, &subject.uid, run.number, &step.spec.name, step.attempt);
        observed.outlived_job = job(context, &subject.namespace, &name, &subject.uid).await?;
    }
    if let Some(step) = looks_for_claims(run) {
        let mounted = claims::of_step(step, &pinned.spec);
        observed.claims = claims::look(&context.client, &subject.namespace, &mounted).await?;
    }
    if observed.job.is_none() && may_have_left_pods(run) {
        observed.task_pods = task_pods(context, &subject.namespace, &subject.uid, subject.lane).await?;
    }
    if !subject.lane.holds_homeserver {
        if observed.job.is_none() && !subject.lane.keeps_jobs {
            let of_lane = job::of_owner(&subject.uid, subject.lane);
            observed.jobs_left = jobs_left(context, &subject.namespace, &of_lane).await?;
        }
        return Ok(observed);
    }
    match &run.window {
        None if takes_stock(subject, run) => {
            let found = resolve::find(&context.client, &subject.namespace, &pinned.spec).await?;
            let own_pod = context.config.own_pod.as_ref().map(|(namespace, pod)| (namespace.as_str(), pod.as_str()));
            let surroundings =
                resolve::surroundings(&context.client, &subject.namespace, &pinned.name, &pinned.spec, &found, own_pod)
                    .await?;
            observed.refusal = resolve::refuse(&found, &pinned.spec, &surroundings);
            observed.refusal = observed.refusal.or_else(|| claims::refuse(&observed.claims, &pinned.spec));
            for one in &found {
                observed.workloads.push(live(context, subject, one).await?);
            }
            observed.counts_held_by = counts_held_by(context, subject, &observed.workloads).await?;
        }
        None => {}
        Some(window) if window.ready_at.is_none() => {
            // All at once: a homeserver may have many workers.
            let found = resolve::find(&context.client, &subject.namespace, &pinned.spec).await?;
            for recorded in &window.workloads {
                observed.workloads.push(recorded_live(context, subject, window, recorded, &found).await?);
            }
            let on_record =
                |workload: &WorkloadRef| window.workloads.iter().any(|recorded| recorded.workload == *workload);
            let appeared = found.into_iter().filter(|one| one.replicas > 0 && !on_record(&one.workload));
            observed.appeared = appeared.map(|one| one.workload).collect();
        }
        Some(_) => {}
    }
    Ok(observed)
}

/// The image of the homeserver's own Synapse, for a run that is about to be pinned.
async fn look_for_image(context: &Context, subject: &Subject, observed: &mut Observed) -> kube::Result<()> {
    let Some(synapse) = observed.synapse.as_ref().filter(|_| subject.request.image != Need::Not) else { return Ok(()) };
    let found = resolve::find(&context.client, &subject.namespace, &synapse.spec).await?;
    match image::of_synapse(&synapse.spec, &found) {
        Ok(image) => observed.synapse_image = Some(image),
        Err(unknown) if subject.request.image == Need::Must => observed.refusal = Some(unknown),
        Err(_) => {}
    }
    Ok(())
}

/// A step was tried and has not succeeded, and the workloads are not on their way back.
fn may_have_left_pods(run: &Run) -> bool {
    let is_open = |window: &Window| window.resume_began_at.is_some() && window.ready_at.is_none();
    let resuming = run.window.as_ref().is_some_and(is_open);
    !resuming && run.steps.iter().any(|step| step.attempt > 0 && step.state != StepState::Succeeded)
}

/// It should have been gone for long: its node is lost, or its process waits for a storage that does not answer, where no
/// signal reaches it.
fn is_lost(object: &impl ResourceExt, now: Timestamp) -> bool {
    let deadline = object.meta().deletion_timestamp.as_ref();
    deadline.is_some_and(|deadline| now.duration_since(deadline.0) > TASK_STOPS_WITHIN)
}

/// The Jobs with these labels, but for those of a lost node, which never go.
///
/// # Errors
/// What the API server answers.
pub async fn jobs_left(context: &Context, namespace: &str, selector: &str) -> kube::Result<Vec<JobLeft>> {
    let api: Api<Job> = Api::namespaced(context.client.clone(), namespace);
    let now = Timestamp::now();
    let left =
        api.list(&ListParams::default().labels(selector)).await?.items.into_iter().filter(|job| !is_lost(job, now));
    Ok(left.map(|job| JobLeft { name: job.name_any(), is_going: job.metadata.deletion_timestamp.is_some() }).collect())
}

/// The Pods of an operation's Jobs that have not ended, by the operation's UID.
///
/// # Errors
/// What the API server answers.
pub async fn task_pods(context: &Context, namespace: &str, owner_uid: &str, lane: &Lane) -> kube::Result<Vec<String>> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let of_operation = ListParams::default().labels(&job::of_owner(owner_uid, lane));
    let pods = api.list(&of_operation).await?.items;
    let now = Timestamp::now();
    // What others have put into its Pod may go on when the task has ended.
    let works = |pod: &&Pod| !scale::has_ended(pod) && !is_lost(*pod, now) && jobs::ended(pod).is_none();
    Ok(pods.iter().filter(works).map(ResourceExt::name_any).collect())
}

/// The run is about to pin the `Synapse` object, or about to begin a step: whoever deletes it does not want that.
fn asks_for_synapse(run: &Run) -> bool {
    let begins = run.next_step().is_some_and(|index| run.steps[index].state != StepState::Running);
    run.synapse.is_none() || (run.failure.is_none() && begins)
}

/// The next thing is preflight, or the record of the counts: both want to know the workloads. The finalizer comes before
/// the record, and wants to know nothing.
fn takes_stock(subject: &Subject, run: &Run) -> bool {
    let next = run.next_step().map(|index| &run.steps[index]);
    next.filter(|step| step.state == StepState::Pending).is_some_and(|step| {
        if step.spec.stage.is_offline() {
            subject.has_finalizer
        } else {
            step.spec.name == pinned::PREFLIGHT && step.attempt == 0
        }
    })
}

/// The step that is about to begin, if it wants to know where claims are: preflight, for all that follow soon, the one right
/// before a downtime, and each that comes afterwards, when hours may have passed.
fn looks_for_claims(run: &Run) -> Option<&StepStatus> {
    let index = run.next_step().or_else(|| run.next_step_afterwards())?;
    let step = &run.steps[index];
    let wants =
        [pinned::PREFLIGHT, pinned::PLACEMENT].contains(&step.spec.name.as_str()) || step.spec.stage.is_afterwards();
    (wants && step.state == StepState::Pending && run.failure.is_none()).then_some(step)
}

async fn synapse(context: &Context, subject: &Subject) -> kube::Result<Option<ObservedSynapse>> {
    let api: Api<Synapse> = Api::namespaced(context.client.clone(), &subject.namespace);
    Ok(find(&api, &subject.request.synapse).await?.map(|synapse| ObservedSynapse {
        uid: synapse.uid().unwrap_or_default(),
        generation: synapse.metadata.generation.unwrap_or_default(),
        deleting: synapse.metadata.deletion_timestamp.is_some(),
        spec: synapse.spec,
    }))
}

async fn lease_state(context: &Context, subject: &Subject) -> kube::Result<LeaseState> {
    let api: Api<Lease> = Api::namespaced(context.client.clone(), &subject.namespace);
    let Some(found) = api.get_opt(&lease::name(&subject.request.synapse)).await? else { return Ok(LeaseState::Free) };
    let identity = subject.identity();
    Ok(match lease::holder(&found) {
        // What cannot be read is not ours to overwrite with what we remember: publishing again is harmless.
        Some(holder) if holder == identity => LeaseState::Mine {
            counts: lease::counts(&found).is_ok_and(|counts| counts.is_some()),
            unfinished: lease::is_unfinished(&found),
            kept_down: lease::kept_down(&found).is_some(),
        },
        Some(holder) if let (Some(message), Ok(counts)) = (lease::kept_down(&found), lease::counts(&found)) => {
            let counts = counts.unwrap_or_default().into_iter().map(Into::into).collect();
            LeaseState::KeptDown(KeptDown { holder: holder.to_owned(), counts, message: message.to_owned() })
        }
        Some(holder) => LeaseState::Theirs(
            lease::Holder::parse(holder).map_or_else(|| holder.to_owned(), |parts| parts.to_string()),
        ),
        None => LeaseState::Theirs(format!("Lease {} without a holder", found.name_any())),
    })
}

async fn live(context: &Context, subject: &Subject, found: &Found) -> kube::Result<Live> {
    let scale::Pods { alive: pods, kept } = scale::pods(&context.client, &subject.namespace, &found.selector).await?;
    // The Pods of a Deployment have other names each time.
    let kept = kept.filter(|_| found.workload.kind == WorkloadKind::StatefulSet);
    let (workload, role) = (found.workload.clone(), found.role);
    Ok(Live {
        workload,
        role,
        replicas: Some(found.replicas),
        pods,
        changed_by: None,
        ordered: found.ordered,
        cannot_make_pods: kept,
    })
}

/// A workload whose count is on record, though its labels may have changed since, or though it may be gone.
async fn recorded_live(
    context: &Context,
    subject: &Subject,
    window: &Window,
    recorded: &RecordedWorkload,
    found: &[Found],
) -> kube::Result<Live> {
    let RecordedWorkload { workload, role, .. } = recorded;
    let one = match found.iter().find(|one| one.workload == *workload) {
        Some(one) => Some(one.clone()),
        None => resolve::find_one(&context.client, &subject.namespace, workload).await?,
    };
    let Some(mut one) = one else {
        return Ok(Live {
            workload: workload.clone(),
            role: *role,
            replicas: None,
            pods: Vec::new(),
            changed_by: None,
            ordered: false,
            cannot_make_pods: None,
        });
    };
    let mut live = live(context, subject, &one).await?;
    if window.stopped_at.is_some() && one.replicas == 0 && !live.pods.is_empty() {
        // Somebody has scaled it up between the two looks, or made a Pod by hand: it makes a difference to who reads it.
        one = resolve::find_one(&context.client, &subject.namespace, workload).await?.unwrap_or(one);
        live.replicas = Some(one.replicas);
    }
    let changed_by = resolve::scaled_by(&one.managed_fields, window.recorded_at.0);
    let cannot_make_pods = match live.cannot_make_pods.take() {
        Some(kept) => Some(kept),
        None => why_pods_are_missing(context, subject, window, &one, &live).await,
    };
    Ok(Live { role: *role, changed_by, cannot_make_pods, ..live })
}

/// Why a workload that is coming back has fewer Pods than it wants. Not in the first seconds: its controller is at work then.
async fn why_pods_are_missing(
    context: &Context,
    subject: &Subject,
    window: &Window,
    found: &Found,
    live: &Live,
) -> Option<String> {
    let since = window.returned_at.as_ref()?.0;
    let is_early = Timestamp::now().duration_since(since) < refused_pods::EARLY;
    if is_early || live.pods.len() >= usize::try_from(found.replicas).unwrap_or(0) {
        return None;
    }
    if found.replica_failure.is_some() {
        return found.replica_failure.clone();
    }
    let WorkloadRef { kind, name } = &found.workload;
    refused_pods::why(&context.client, &subject.namespace, &format!("{kind:?}"), name, since).await
}

/// Another operation that has not given back the counts of one of these workloads.
async fn counts_held_by(context: &Context, subject: &Subject, workloads: &[Live]) -> kube::Result<Option<String>> {
    let mut holder = None;
    kinds::each(context, &subject.namespace, |other| {
        let is_live = |recorded: &RecordedWorkload| workloads.iter().any(|live| live.workload == recorded.workload);
        let run = other.status.active_run().filter(|run| run.holds_counts());
        let window = run.and_then(|run| run.window.as_ref());
        if other.uid != subject.uid && window.is_some_and(|window| window.workloads.iter().any(is_live)) {
            holder.get_or_insert_with(|| other.to_string());
        }
    })
    .await?;
    Ok(holder)
}
