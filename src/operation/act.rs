//! Doing the one thing. Each act is harmless when it is done twice: that is what happens after a crash.

use k8s_openapi::api::{batch::v1::Job, coordination::v1::Lease};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use super::{
    claims,
    job::{self, Blueprint},
    lease,
    observed::Subject,
    plan::Action,
    scale,
};
use crate::{
    api::{Duration, FINALIZER, MANAGER},
    context::Context,
    recipes::{Lane, Operation},
    requests::{create_once, in_our_name, remove},
};

/// Acts. `Wait` and `Continue` are nothing to do.
///
/// # Errors
/// What the API server answers, but for answers that mean that it is done already.
pub async fn act<K: Operation>(
    context: &Context,
    subject: &Subject,
    object: &K,
    action: &Action,
    now: jiff::Timestamp,
) -> kube::Result<()> {
    let client = &context.client;
    let namespace = subject.namespace.as_str();
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    match action {
        Action::Wait(_) | Action::Continue => Ok(()),
        Action::AcquireLease => create_once(&leases, &lease::build(subject, now)).await,
        Action::TakeOverLease(holder) => write_lease(&leases, subject, holder, false).await,
        Action::PublishCounts => write_lease(&leases, subject, &subject.identity(), false).await,
        Action::KeepDown => write_lease(&leases, subject, &subject.identity(), true).await,
        Action::ReleaseLease => release_lease(&leases, subject).await,
        Action::AddFinalizer => set_finalizer(context, object, FINALIZER, true).await,
        Action::RemoveFinalizer => set_finalizer(context, object, FINALIZER, false).await,
        Action::Scale(changes) => scale_all(client, namespace, changes).await,
        Action::CreateJob(index) => create_once(&jobs, &build_job(context, subject, object, *index, now)).await,
        // Those of the last run stayed for their logs.
        Action::SweepJobs => {
            let Some(run) = &subject.status.run else { return Ok(()) };
            sweep_jobs(&jobs, &subject.uid, subject.lane, Some(run.number)).await
        }
        Action::ClearJobs => clear_jobs(&jobs, &job::of_owner(&subject.uid, subject.lane)).await,
        Action::DeleteJob(index) => {
            let Some(run) = &subject.status.run else { return Ok(()) };
            let step = &run.steps[*index];
            // Foreground: the Job is gone only when its Pods are.
            let name = job::name(&subject.name, &subject.uid, run.number, &step.spec.name, step.attempt);
            remove(&jobs, &name, &DeleteParams::foreground()).await
        }
    }
}

/// Deletes the Jobs with these labels and lets their Pods end.
///
/// # Errors
/// What the API server answers.
pub async fn clear_jobs(jobs: &Api<Job>, selector: &str) -> kube::Result<()> {
    for left in jobs.list(&ListParams::default().labels(selector)).await?.items {
        // Foreground: a Job is gone only when its Pods are, and their volumes with them.
        remove(jobs, &left.name_any(), &DeleteParams::foreground()).await?;
    }
    Ok(())
}

/// Deletes the Jobs of an owner's lane, but for those of the run `kept`. They have served: results are in the status.
///
/// # Errors
/// What the API server answers.
pub async fn sweep_jobs(jobs: &Api<Job>, owner_uid: &str, lane: &Lane, kept: Option<i64>) -> kube::Result<()> {
    let mut selector = job::of_owner(owner_uid, lane);
    if let Some(number) = kept {
        selector.push_str(&format!(",{}!={number}", job::RUN));
    }
    for old in jobs.list(&ListParams::default().labels(&selector)).await?.items {
        remove(jobs, &old.name_any(), &DeleteParams::background()).await?;
    }
    Ok(())
}

/// Tries all of them, whatever becomes of the first: a workload that cannot be brought back must not keep down the others.
async fn scale_all(client: &Client, namespace: &str, changes: &[scale::Change]) -> kube::Result<()> {
    let mut result = Ok(());
    for scale::Change { workload, from, to } in changes {
        result = result.and(scale::write(client, namespace, workload, *from, *to).await);
    }
    result
}

/// A replace with the resourceVersion just read: nobody else's Lease is ever written.
async fn write_lease(leases: &Api<Lease>, subject: &Subject, holder: &str, keeps_down: bool) -> kube::Result<()> {
    let Some(run) = subject.status.active_run().filter(|run| run.counts().is_some()) else { return Ok(()) };
    let name = lease::name(&subject.request.synapse);
    let Some(mut held) = leases.get_opt(&name).await? else { return Ok(()) };
    if lease::holder(&held) != Some(holder) {
        return Ok(());
    }
    held.spec.get_or_insert_default().holder_identity = Some(subject.identity());
    lease::update(&mut held, subject, run);
    if keeps_down {
        lease::keep_down(&mut held);
    }
    leases.replace(&name, &in_our_name(), &held).await.map(drop)
}

async fn release_lease(leases: &Api<Lease>, subject: &Subject) -> kube::Result<()> {
    let name = lease::name(&subject.request.synapse);
    let Some(held) = leases.get_opt(&name).await? else { return Ok(()) };
    if lease::holder(&held) != Some(subject.identity().as_str()) {
        return Ok(());
    }
    delete_lease(leases, &held).await
}

/// Deletes this very Lease, as it was read.
///
/// # Errors
/// What the API server answers; a Lease that is gone is no error, one that has changed is (409).
pub async fn delete_lease(leases: &Api<Lease>, held: &Lease) -> kube::Result<()> {
    let preconditions = Preconditions { uid: held.uid(), resource_version: held.resource_version() };
    let params = DeleteParams { preconditions: Some(preconditions), ..Default::default() };
    remove(leases, &held.name_any(), &params).await
}

/// Puts a finalizer on an object, or takes it off. An object that is gone is no error.
///
/// # Errors
/// What the API server answers; 409 if the object has changed.
pub async fn set_finalizer<K: Operation>(
    context: &Context,
    object: &K,
    finalizer: &str,
    wanted: bool,
) -> kube::Result<()> {
    let mut finalizers = object.finalizers().to_vec();
    finalizers.retain(|present| present != finalizer);
    if wanted {
        finalizers.push(finalizer.to_owned());
    }
    let api: Api<K> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    // The resourceVersion keeps another controller's finalizer from being lost.
    let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": finalizers}});
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..Default::default() };
    match api.patch(&object.name_any(), &params, &Patch::Merge(patch)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

fn build_job<K: Operation>(
    context: &Context,
    subject: &Subject,
    object: &K,
    index: usize,
    now: jiff::Timestamp,
) -> Job {
    let run = subject.status.run.as_ref().expect("a Job belongs to a run");
    let pinned = run.synapse.as_ref().expect("a run has pinned its homeserver before its first Job");
    let step = &run.steps[index];
    let until = run.work_until().filter(|_| step.spec.stage.has_budget());
    let deadline_seconds = match until {
        Some(until) => Some(until.duration_since(now).as_secs().max(1)),
        None => step.spec.deadline.as_ref().map(Duration::as_secs),
    };
    job::build(&Blueprint {
        namespace: &subject.namespace,
        owner: object.controller_owner_ref(&()).expect("an object from the API server has a name and a UID"),
        lane: subject.lane,
        synapse: &pinned.name,
        settings: &pinned.spec.jobs,
        image: run.image.as_deref().unwrap_or(&context.config.tools_image),
        image_pull_policy: &context.config.tools_image_pull_policy,
        postgres: Some(&pinned.spec.postgres),
        nodes: claims::nodes(step, &pinned.spec, &run.claims),
        step: &step.spec,
        run: run.number,
        attempt: step.attempt,
        until,
        deadline_seconds,
    })
}
