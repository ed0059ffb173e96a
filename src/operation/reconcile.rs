//! observe → plan → report → act, until there is nothing to do but wait.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, ResourceExt,
    runtime::{controller::Action as Requeue, events::EventType},
};

use super::{
    act::act,
    observe::observe,
    observed::{Observed, Subject},
    plan::{Action, Plan, plan},
};
use crate::{
    api::{
        FINALIZER,
        operation::{Failure, OperationStatus},
    },
    context::Context,
    contract::ErrorClass,
    error::{Error, Refused},
    recipes::{Operation, Sight},
    requests::{find, in_our_name, in_time},
};

/// More turns than an operation can need between two waits: a plan that goes round in circles ends here, in the log.
const MAX_TURNS: usize = 200;

/// One reconcile of one object.
///
/// # Errors
/// What the API server answers, or that it took too long. The caller tries again, with backoff.
pub async fn reconcile<K: Operation>(object: Arc<K>, context: Arc<Context>) -> Result<Requeue, Error> {
    in_time(context.config.reconcile_timeout, drive(&*object, &context)).await
}

async fn drive<K: Operation>(cached: &K, context: &Context) -> Result<Requeue, Error> {
    let api: Api<K> = Api::namespaced(context.client.clone(), &cached.namespace().unwrap_or_default());
    if let Some(wait) = rest(cached, context, &api).await? {
        return Ok(wait);
    }
    // The cache may lag behind our own last write. A decision about replicas must not rest on it.
    let Some(mut object) = find(&api, &cached.name_any()).await? else { return Ok(Requeue::await_change()) };
    for _ in 0..MAX_TURNS {
        let subject = subject(&object);
        let mut observed = observe(context, &subject).await?;
        if let Some(synapse) = &observed.synapse {
            let (backup, image) = (observed.backup.as_ref(), observed.synapse_image.as_ref());
            observed.steps = object.steps(Sight { homeserver: &synapse.spec, backup, image });
            // What the run has pinned is not refused any more.
            let begins = subject.status.active_run().is_some_and(|run| run.synapse.is_none());
            observed.refusal = object.refusal(&synapse.spec).filter(|_| begins).or(observed.refusal);
        }
        let now = Timestamp::now();
        let plan = plan(&subject, &observed, now);
        object = match write_status(context, &api, object, &subject, &plan.status).await {
            // Another lane's run goes on beside this one.
            Err(Error::Kube(kube::Error::Api(status))) if status.is_conflict() => {
                let Some(newer) = find(&api, &cached.name_any()).await? else { return Ok(Requeue::await_change()) };
                object = newer;
                continue;
            }
            written => written?,
        };
        if let Action::Wait(time) = plan.action {
            return Ok(Requeue::requeue(time.unsigned_abs()));
        }
        let subject = Subject { status: plan.status, ..subject };
        tracing::info!(action = ?plan.action, "acts");
        match act(context, &subject, &object, &plan.action, now).await {
            Ok(()) => {}
            Err(error) => match Refused::from(&error) {
                // Somebody changed it meanwhile: look again.
                Some(Refused::Conflict) => {}
                Some(Refused::Forever(why)) if may_give_up(&subject) => {
                    let status = given_up(&subject, &plan.action, &why, now);
                    object = write_status(context, &api, object, &subject, &status).await?;
                }
                _ => return Err(error.into()),
            },
        }
        if touches_object(&plan.action) {
            let Some(newer) = find(&api, &object.name_any()).await? else { return Ok(Requeue::await_change()) };
            object = newer;
        }
    }
    Err(Error::Circling)
}

/// The wait of an object that has nothing to do, decided from the cache alone. Of a thousand finished ones none costs a
/// request, and of a thousand new schedules each costs one: the write of its status, which the API server refuses where the
/// cache was out of date. `None`: it must be looked at.
async fn rest<K: Operation>(cached: &K, context: &Context, api: &Api<K>) -> Result<Option<Requeue>, Error> {
    let subject = subject(cached);
    if subject.status.active_run().is_some() {
        return Ok(None);
    }
    let observed = Observed { uninstalling: context.is_uninstalling(), ..Default::default() };
    let Plan { status, action: Action::Wait(time) } = plan(&subject, &observed, Timestamp::now()) else {
        return Ok(None);
    };
    // Of a finished run the cache has not all: it must not be written from there.
    if cached.has_run() && status != subject.status {
        return Ok(None);
    }
    match write_status(context, api, cached.clone(), &subject, &status).await {
        // Time changes nothing for what has no schedule, and waiting costs memory.
        Ok(_) if subject.request.schedule.is_none() => Ok(Some(Requeue::await_change())),
        Ok(_) => Ok(Some(Requeue::requeue(time.unsigned_abs()))),
        Err(Error::Kube(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes from an object for the cache what [`rest`] does not want to know: all that finished runs have done. There may be
/// thousands of them.
pub fn forget_finished_runs<K: Operation>(object: &mut K) {
    for status in object.memories() {
        let Some(run) = status.run.as_mut().filter(|run| run.is_finished()) else { continue };
        (run.synapse, run.steps, run.window) = (None, Vec::new(), None);
        status.plan = Vec::new();
        status.conditions.shrink_to_fit();
        status.history.shrink_to_fit();
    }
}

/// The object as the plan sees it.
pub fn subject<K: Operation>(object: &K) -> Subject {
    Subject {
        kind: K::NAME,
        lane: K::LANE,
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        generation: object.meta().generation.unwrap_or_default(),
        deleting: object.meta().deletion_timestamp.is_some(),
        has_finalizer: K::LANE.holds_homeserver && object.finalizers().iter().any(|finalizer| finalizer == FINALIZER),
        run_now: object.annotations().get(K::LANE.run_now).cloned(),
        created: object.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        request: object.request(),
        status: object.status().cloned().unwrap_or_default(),
    }
}

/// Writes the status if it says something new and nobody changed the object since it was read, and tells of it.
async fn write_status<K: Operation>(
    context: &Context,
    api: &Api<K>,
    object: K,
    subject: &Subject,
    status: &OperationStatus,
) -> Result<K, Error> {
    if *status == subject.status {
        return Ok(object);
    }
    let mut changed = object;
    changed.set_status(status.clone());
    let written = api.replace_status(&changed.name_any(), &in_our_name(), &changed).await?;
    for event in super::events::between(subject.lane, &subject.status, status) {
        let type_ = if event.warning { EventType::Warning } else { EventType::Normal };
        context.tell(&written, type_, &event.reason, &event.note, &event.action).await;
    }
    let has_ended = status.run.as_ref().is_some_and(|run| run.is_finished()) && subject.status.active_run().is_some();
    if has_ended {
        context.metrics.finished(subject.kind, &subject.namespace, &subject.request.synapse, status);
    }
    Ok(written)
}

/// The way back is never given up.
fn may_give_up(subject: &Subject) -> bool {
    subject.status.active_run().is_some_and(|run| run.failure_of_work().is_none())
}

/// The status of a run that fails because the API server refuses an act and would refuse it again. It goes the way back.
fn given_up(subject: &Subject, action: &Action, why: &str, now: Timestamp) -> OperationStatus {
    let mut status = subject.status.clone();
    let message = format!("the API server refuses {}: {why}", what(action));
    if let Some(run) = status.run.as_mut() {
        let reason = "ApiRefused".to_owned();
        run.fail(Failure { reason, message, class: ErrorClass::Terminal, at: Time(now) });
    }
    status
}

fn what(action: &Action) -> &'static str {
    match action {
        Action::Wait(_) | Action::Continue => "nothing",
        Action::AcquireLease
        | Action::TakeOverLease(_)
        | Action::PublishCounts
        | Action::KeepDown
        | Action::ReleaseLease => "to write the homeserver's Lease",
        Action::AddFinalizer | Action::RemoveFinalizer => "to change the object's finalizers",
        Action::Scale(_) => "to scale a workload",
        Action::CreateJob(_) => "to create a Job",
        Action::DeleteJob(_) | Action::SweepJobs | Action::ClearJobs => "to delete a Job",
    }
}

fn touches_object(action: &Action) -> bool {
    matches!(action, Action::AddFinalizer | Action::RemoveFinalizer)
}
