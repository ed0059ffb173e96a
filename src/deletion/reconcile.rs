//! observe → plan → report → act for `SynapseBackup` objects whose data go with them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{controller::Action as Requeue, events::EventType},
};

use super::plan::{self, Action, Seen};
use crate::{
    api::{
        DATA_FINALIZER, Duration, Synapse, SynapseBackup,
        backup::BackupStatus,
        conditions::{self, Type},
        deletion::DeletionPolicy,
        jobs::JobSettings,
        operation::StepState,
    },
    context::Context,
    contract::TaskError,
    error::{Error, Refused},
    operation::{
        act::{clear_jobs, set_finalizer},
        job, observe,
    },
    recipes::{deletion, lane},
    requests::{create_once, find, in_our_name, in_time},
};

/// A Job whose operator never comes back is taken away after this many seconds: it has no owner that would take it along.
const KEPT_FOR: i32 = 3600;
/// The Job is ended after this many seconds, unless the settings of Jobs say otherwise: a storage may never answer.
const DEADLINE: i64 = 86_400;

/// One reconcile of one backup. One that is not deleted, or leaves its data, costs no request.
///
/// # Errors
/// What the API server answers, or that it took too long. The caller tries again, with backoff.
pub async fn reconcile(cached: Arc<SynapseBackup>, context: Arc<Context>) -> Result<Requeue, Error> {
    if plan::plan(&BackupStatus::default(), &first_look(&cached), Timestamp::now()).1 == Action::Rest {
        return Ok(Requeue::await_change());
    }
    in_time(context.config.reconcile_timeout, drive(&cached, &context)).await
}

async fn drive(cached: &SynapseBackup, context: &Context) -> Result<Requeue, Error> {
    let namespace = cached.namespace().unwrap_or_default();
    let api: Api<SynapseBackup> = Api::namespaced(context.client.clone(), &namespace);
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
    loop {
        let Some(mut object) = find(&api, &cached.name_any()).await? else { return Ok(Requeue::await_change()) };
        let before = object.status.clone().unwrap_or_default();
        let seen = observe(context, &object, &before).await?;
        let (status, action) = plan::plan(&before, &seen, Timestamp::now());
        write(context, &api, &mut object, status.clone()).await?;
        let done = match action {
            Action::Rest => return Ok(Requeue::await_change()),
            Action::Wait(time) => return Ok(Requeue::requeue(time.unsigned_abs())),
            Action::AddFinalizer => set_finalizer(context, &object, DATA_FINALIZER, true).await,
            Action::LetGo => set_finalizer(context, &object, DATA_FINALIZER, false).await,
            Action::ClearJobs => clear_jobs(&jobs, &of(&object)).await,
            Action::CreateJob => create_job(context, &jobs, &object, &status).await,
        };
        let Err(error) = done else { continue };
        if is_terminating(&error) {
            tell_kept(context, &object).await;
            set_finalizer(context, &object, DATA_FINALIZER, false).await?;
            return Ok(Requeue::await_change());
        }
        let Some(Refused::Forever(why)) = Refused::from(&error).filter(|_| action == Action::CreateJob) else {
            return Err(error.into());
        };
        let mut refused = status;
        let error = TaskError::terminal("ApiRefused", format!("The API server refuses to create a Job: {why}."));
        let Action::Wait(pause) = plan::fail(&mut refused, &seen, Timestamp::now(), &error) else { continue };
        write(context, &api, &mut object, refused).await?;
        return Ok(Requeue::requeue(pause.unsigned_abs()));
    }
}

/// What the object itself says.
fn first_look(object: &SynapseBackup) -> Seen {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let status = object.status.as_ref();
    let drills = status.and_then(|status| status.verification.as_ref());
    let is_busy = status.is_some_and(|status| status.operation.active_run().is_some())
        || drills.is_some_and(|drills| drills.active_run().is_some());
    let never_ran = status.is_none_or(|status| status.operation.run.is_none());
    Seen {
        generation: object.metadata.generation.unwrap_or_default(),
        policy: object.spec.deletion_policy,
        deleting: object.metadata.deletion_timestamp.is_some(),
        has_finalizer: object.finalizers().iter().any(|finalizer| finalizer == DATA_FINALIZER),
        is_busy,
        has_nothing: never_ran && object.adopted_origins().is_empty(),
        way_out: format!(
            "kubectl -n {namespace} patch synapsebackup {name} --type merge -p \
             '{{\"spec\":{{\"deletionPolicy\":\"{:?}\"}}}}'",
            DeletionPolicy::Retain
        ),
        ..Seen::default()
    }
}

async fn observe(context: &Context, object: &SynapseBackup, status: &BackupStatus) -> kube::Result<Seen> {
    let mut seen = Seen { uninstalling: context.is_uninstalling(), ..first_look(object) };
    if !seen.deleting || seen.is_busy {
        return Ok(seen);
    }
    let namespace = object.namespace().unwrap_or_default();
    let running = status.deletion.as_ref().filter(|deletion| deletion.state == StepState::Running);
    if let (Some(running), DeletionPolicy::Delete) = (running, seen.policy) {
        let uid = object.uid().unwrap_or_default();
        let name = job::name(&object.name_any(), &uid, 0, &deletion(object).name, running.attempt);
        seen.job = observe::job(context, &namespace, &name, &uid).await?;
    } else {
        seen.jobs_left = observe::jobs_left(context, &namespace, &of(object)).await?;
    }
    Ok(seen)
}

/// The label selector of all Jobs of an object.
fn of(object: &SynapseBackup) -> String {
    format!("{}={}", job::OWNER_UID, object.uid().unwrap_or_default())
}

/// As the `Synapse` object wants Jobs now; where that is gone, as those of the last run were.
async fn settings(context: &Context, object: &SynapseBackup, status: &BackupStatus) -> kube::Result<JobSettings> {
    let synapses: Api<Synapse> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    let synapse = find(&synapses, &object.spec.synapse_ref.name).await?;
    let base = synapse.map(|synapse| synapse.spec.jobs).or(status.jobs.clone()).unwrap_or_default();
    Ok(object.spec.jobs.clone().or(&base))
}

async fn create_job(
    context: &Context,
    jobs: &Api<Job>,
    object: &SynapseBackup,
    status: &BackupStatus,
) -> kube::Result<()> {
    let Some(attempt) = status.deletion.as_ref().map(|deletion| deletion.attempt) else { return Ok(()) };
    let step = deletion(object);
    let settings = settings(context, object, status).await?;
    let mut built = job::build(&job::Blueprint {
        namespace: &object.namespace().unwrap_or_default(),
        owner: object.controller_owner_ref(&()).expect("an object from the API server has a name and a UID"),
        lane: &lane::OWN,
        synapse: &object.spec.synapse_ref.name,
        settings: &settings,
        image: settings.image.as_deref().unwrap_or(&context.config.tools_image),
        image_pull_policy: &context.config.tools_image_pull_policy,
        postgres: None,
        nodes: Vec::new(),
        step: &step,
        run: 0,
        attempt,
        until: None,
        deadline_seconds: Some(settings.deadline.as_ref().map_or(DEADLINE, Duration::as_secs)),
    });
    // With an owner that is deleted in the foreground it would be deleted at once.
    built.metadata.owner_references = None;
    if let Some(spec) = &mut built.spec {
        spec.ttl_seconds_after_finished = Some(KEPT_FOR);
    }
    create_once(jobs, &built).await
}

/// Nothing is made any more in a namespace that is being deleted.
fn is_terminating(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.is_forbidden() && causes.map(|cause| &cause.reason).any(|reason| reason == "NamespaceTerminating")
}

/// Writes the status if it says something new, and tells of it.
async fn write(
    context: &Context,
    api: &Api<SynapseBackup>,
    object: &mut SynapseBackup,
    status: BackupStatus,
) -> Result<(), Error> {
    let before = object.status.clone().unwrap_or_default();
    if status == before {
        return Ok(());
    }
    object.status = Some(status);
    *object = api.replace_status(&object.name_any(), &in_our_name(), object).await?;
    let found = |status: &BackupStatus| {
        let condition = conditions::find(&status.operation.conditions, Type::DataDeleted)?;
        Some((condition.reason.clone(), condition.status == "True", condition.message.clone()))
    };
    let (was, is) = (found(&before), object.status.as_ref().and_then(found));
    let Some((reason, is_done, message)) = is else { return Ok(()) };
    if was.is_none_or(|(was, ..)| was != reason) {
        let is_well = is_done || ["DeletingData", "DataDeletionWaits"].contains(&reason.as_str());
        publish(context, object, is_well, &reason, &message).await;
    }
    Ok(())
}

/// In such a namespace no event can be made either: the log has it.
async fn tell_kept(context: &Context, object: &SynapseBackup) {
    let message = "the namespace is being deleted, where no Job can be made: the object goes, and its backups stay in the \
                   repository. With restic they can be deleted by the tag origin=<UID of the object>";
    tracing::warn!(namespace = object.namespace(), name = object.name_any(), uid = object.uid(), "{message}");
    publish(context, object, false, "DataKept", message).await;
}

async fn publish(context: &Context, object: &SynapseBackup, is_well: bool, reason: &str, message: &str) {
    let type_ = if is_well { EventType::Normal } else { EventType::Warning };
    context.tell(object, type_, reason, message, "Delete").await;
}
