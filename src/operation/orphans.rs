//! Bringing back what an operation left behind that is no more.
//!
//! A homeserver's Lease outlives its operation's object, its CRD and the operator. A Lease whose holder is dead is an
//! orphan: what its holder ran is stopped, its counts go back, and only then it is deleted. Dead means gone, replaced
//! (another UID) or finished; never that time has passed. This needs `/scale`, Jobs and the Lease, and no CRD.
//!
//! One thing keeps the counts on the Lease: a database that is unfinished, see [`lease::keep_down`].

use k8s_openapi::api::{batch::v1::Job, coordination::v1::Lease};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};

use super::{
    act::delete_lease,
    job, kinds, lease,
    observe::{job_state, task_pods},
    observed::JobState,
    scale,
};
use crate::{
    context::Context,
    error::Error,
    recipes::lane,
    requests::{in_our_name, remove},
};

/// What was found and done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its holder lives: it is not ours to touch.
    Alive,
    /// The dead holder's Jobs are ending; look again soon.
    Stopping,
    /// The counts went back and the Lease is gone.
    Freed,
    /// The dead holder has left the homeserver's database unfinished: the counts stay on the Lease, for who goes on.
    KeptDown,
    /// What is on the Lease cannot be read: a person must look at it. Nothing was touched.
    Unreadable(String),
}

/// Looks after one homeserver's Lease. `everyone_is_dead`: the operator is gone for good (the uninstall hook).
///
/// # Errors
/// What the API server answers.
pub async fn tend(context: &Context, held: &Lease, everyone_is_dead: bool) -> Result<Outcome, Error> {
    let namespace = held.namespace().unwrap_or_default();
    if let Some(holder) = lease::holder(held).and_then(lease::Holder::parse)
        && !everyone_is_dead
        && is_alive(context, &namespace, &holder).await?
    {
        return Ok(Outcome::Alive);
    }
    // It may be old: by now another may hold the Lease, and have the homeserver down. Replicas must not rest on that.
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), &namespace);
    let Some(now) = leases.get_opt(&held.name_any()).await? else { return Ok(Outcome::Freed) };
    if lease::holder(&now) != lease::holder(held) {
        return Ok(Outcome::Alive);
    }
    bring_back(context, &namespace, &now).await
}

/// Stops what the dead holder ran, gives its counts back, frees its Lease.
async fn bring_back(context: &Context, namespace: &str, held: &Lease) -> Result<Outcome, Error> {
    let Some(holder) = lease::holder(held).and_then(lease::Holder::parse) else {
        return Ok(Outcome::Unreadable("its holderIdentity is not kind/name/uid".to_owned()));
    };
    let counts = match lease::counts(held) {
        Ok(counts) => counts.unwrap_or_default(),
        Err(error) => return Ok(Outcome::Unreadable(format!("its counts cannot be read: {error}"))),
    };
    if !jobs_are_gone(context, namespace, holder.uid).await? {
        return Ok(Outcome::Stopping);
    }
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), namespace);
    if lease::is_unfinished(held) {
        keep_down(&leases, held).await?;
        return Ok(Outcome::KeptDown);
    }
    // Stopped last, started first.
    for count in counts.iter().rev().filter(|count| count.replicas > 0) {
        scale::write(&context.client, namespace, &count.workload, 0, count.replicas).await?;
        tracing::warn!(namespace, workload = %count.workload, replicas = count.replicas, "brought back what {holder} had left at 0");
    }
    delete_lease(&leases, held).await?;
    Ok(Outcome::Freed)
}

/// Says on the Lease what there is to do. What its holder did last is not known, and unknown is not whole.
async fn keep_down(leases: &Api<Lease>, held: &Lease) -> kube::Result<()> {
    if lease::kept_down(held).is_some() {
        return Ok(());
    }
    let mut held = held.clone();
    lease::keep_down(&mut held);
    leases.replace(&held.name_any(), &in_our_name(), &held).await.map(drop)
}

/// The holder is there, is the same object, and has a run that is not finished.
async fn is_alive(context: &Context, namespace: &str, holder: &lease::Holder<'_>) -> Result<bool, Error> {
    let status = kinds::status_of(context, namespace, holder).await?;
    Ok(status.is_some_and(|status| status.active_run().is_some()))
}

/// Ends the Jobs of an owner that worked on the homeserver; true when none of them works any more, and no Pod of theirs.
async fn jobs_are_gone(context: &Context, namespace: &str, owner_uid: &str) -> Result<bool, Error> {
    let of_owner = ListParams::default().labels(&job::of_owner(owner_uid, &lane::OWN));
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), namespace);
    let works = |job: &Job| job_state(job) == JobState::Active && job.metadata.deletion_timestamp.is_none();
    for job in jobs.list(&of_owner).await?.items.into_iter().filter(works) {
        remove(&jobs, &job.name_any(), &DeleteParams::foreground()).await?;
    }
    Ok(task_pods(context, namespace, owner_uid, &lane::OWN).await?.is_empty())
}
