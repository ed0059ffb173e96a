//! observe → plan → report → act for `Synapse` objects.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, coordination::v1::Lease};
use kube::{
    Api, Resource, ResourceExt,
    runtime::{controller::Action as Requeue, events::EventType},
};

use super::{
    plan::{Action, plan},
    project,
    serving::{self, Downtime},
};
use crate::{
    api::{
        Synapse,
        conditions::{self, Type},
        operation::{Run, StepSpec, StepStatus},
        synapse::SynapseStatus,
    },
    context::Context,
    contract::TaskError,
    error::{Error, Refused},
    inspection::seen::Seen,
    operation::{act::sweep_jobs, job, kinds, lease, observe, observed::JobState, pinned::PREFLIGHT, resolve},
    recipes::lane,
    requests::{create_once, find, in_our_name, in_time},
};

/// The inspection's name among the steps.
const STEP: &str = "inspect";
/// A refused Job is asked for again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// The inspection's Job is ended after this many seconds.
const DEADLINE: i64 = 900;

/// One reconcile of one `Synapse` object.
///
/// # Errors
/// What the API server answers, or that it took too long. The caller tries again, with backoff.
pub async fn reconcile(object: Arc<Synapse>, context: Arc<Context>) -> Result<Requeue, Error> {
    in_time(context.config.reconcile_timeout, drive(&object, &context)).await
}

async fn drive(cached: &Synapse, context: &Context) -> Result<Requeue, Error> {
    let namespace = cached.namespace().unwrap_or_default();
    let api: Api<Synapse> = Api::namespaced(context.client.clone(), &namespace);
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
    let Some(mut object) = find(&api, &cached.name_any()).await? else { return Ok(Requeue::await_change()) };
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::await_change());
    }
    loop {
        let before = object.status.clone().unwrap_or_default();
        let seen = observe(context, &object, &before).await?;
        let (status, action) = plan(&before, &seen, Timestamp::now());
        write(context, &api, &mut object, status.clone()).await?;
        match action {
            Action::Wait(time) => return Ok(Requeue::requeue(time.unsigned_abs())),
            Action::CreateJob => {
                let Err(error) = create_job(context, &jobs, &object).await else { continue };
                let Some(Refused::Forever(why)) = Refused::from(&error) else { return Err(error.into()) };
                write(context, &api, &mut object, refused(status, &seen, &why)).await?;
                // A quota or an admission rule: nobody tells when that changes.
                return Ok(Requeue::requeue(ASK_AGAIN));
            }
            Action::DeleteJob => {
                let number = status.inspection.as_ref().map_or(0, |inspection| inspection.number);
                // One that failed stays until the next, for its log.
                let failed = status.inspection.as_ref().is_some_and(|inspection| inspection.failures > 0);
                sweep_jobs(&jobs, &object.uid().unwrap_or_default(), &lane::OWN, failed.then_some(number)).await?;
            }
        }
    }
}

/// The status of an inspection whose Job the API server does not want.
fn refused(mut status: SynapseStatus, seen: &Seen, why: &str) -> SynapseStatus {
    let now = Timestamp::now();
    let message = format!("the API server refuses to create the inspection's Job: {why}");
    project::failed(&mut status, seen.generation, &TaskError::terminal("ApiRefused", message), now);
    project::ready(&mut status, seen, now);
    status
}

/// Writes the status if it says something new, and tells of it.
async fn write(
    context: &Context,
    api: &Api<Synapse>,
    object: &mut Synapse,
    status: SynapseStatus,
) -> Result<(), Error> {
    let before = object.status.clone().unwrap_or_default();
    if status == before {
        return Ok(());
    }
    object.status = Some(status.clone());
    *object = api.replace_status(&object.name_any(), &in_our_name(), object).await?;
    tell(context, object, &before, &status).await;
    Ok(())
}

async fn observe(context: &Context, object: &Synapse, status: &SynapseStatus) -> Result<Seen, Error> {
    let namespace = object.namespace().unwrap_or_default();
    let name = object.name_any();
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), &namespace);
    let held = leases.get_opt(&lease::name(&name)).await?;
    let mut seen = Seen {
        namespace: namespace.clone(),
        generation: object.metadata.generation.unwrap_or_default(),
        suspended: object.spec.suspend || context.is_uninstalling(),
        asks_synapse: object.spec.admin_api.is_some(),
        holder: held.as_ref().and_then(lease::holder).and_then(lease::Holder::parse).map(|holder| holder.to_string()),
        kept_down: held.as_ref().and_then(lease::kept_down).map(str::to_owned),
        ..Default::default()
    };
    seen.is_down = seen.kept_down.is_some();
    kinds::each(context, &namespace, |operation| {
        if operation.synapse != name {
            return;
        }
        let status = operation.status;
        seen.at_work.extend(status.active_run().map(|_| operation.uid.clone()));
        seen.is_down |= status.active_run().is_some_and(Run::holds_counts);
        let is_of_it = |run: &&Run| run.synapse.as_ref().map(|pinned| &pinned.uid) == object.metadata.uid.as_ref();
        let downtime =
            status.run.as_deref().filter(is_of_it).and_then(|run| Downtime::of(run, seen.kept_down.is_some()));
        seen.downtime = downtime.map(|downtime| downtime.later(seen.downtime)).or(seen.downtime);
        // Only what changed the database makes the old facts old. Preflight's result is what it found.
        let did = |step: &StepStatus| step.result.is_some() && step.spec.name != PREFLIGHT;
        let changed = |run: &&Run| operation.changes_database && run.is_finished() && run.steps.iter().any(did);
        let worked = status.run.as_deref().filter(changed);
        seen.last_backup = seen.last_backup.take().max(operation.newest_backup.clone());
        seen.last_verified = seen.last_verified.take().max(operation.newest_verified.clone());
        seen.last_operation =
            seen.last_operation.max(worked.and_then(|run| run.finished_at.as_ref()).map(|time| time.0));
    })
    .await?;
    if !seen.is_down {
        seen.serving = serving::look(&context.client, &namespace, &object.spec).await?;
    }
    if let Some(inspection) = status.inspection.as_ref().filter(|inspection| inspection.finished_at.is_none()) {
        seen.job =
            observe::job(context, &namespace, &job_name(object, inspection.number), &object.uid().unwrap_or_default())
                .await?;
    }
    let has_ended = seen.job.as_ref().is_some_and(|job| job.state != JobState::Active);
    if has_ended || project::looks_for_workloads(status, seen.generation) {
        let spec = &object.spec;
        let found = resolve::find(&context.client, &namespace, spec).await?;
        let own_pod = context.config.own_pod.as_ref().map(|(namespace, pod)| (namespace.as_str(), pod.as_str()));
        let around = resolve::surroundings(&context.client, &namespace, &name, spec, &found, own_pod).await?;
        seen.workloads = Some(match resolve::refuse(&found, spec, &around) {
            Some(refusal) => Err(refusal),
            None => Ok(found.into_iter().map(|one| one.workload).collect()),
        });
    }
    Ok(seen)
}

fn job_name(object: &Synapse, number: i64) -> String {
    job::name(&object.name_any(), &object.uid().unwrap_or_default(), number, STEP, 1)
}

async fn create_job(context: &Context, jobs: &Api<Job>, object: &Synapse) -> kube::Result<()> {
    let namespace = object.namespace().unwrap_or_default();
    let number =
        object.status.as_ref().and_then(|status| status.inspection.as_ref()).map_or(1, |inspection| inspection.number);
    let mut args = vec![STEP.to_owned(), format!("--server-name={}", object.spec.server_name)];
    args.extend(object.spec.admin_api.iter().map(|api| format!("--synapse-url={}", api.url)));
    let step = StepSpec { name: STEP.to_owned(), args, ..StepSpec::default() };
    let built = job::build(&job::Blueprint {
        namespace: &namespace,
        owner: object.controller_owner_ref(&()).expect("an object from the API server has a name and a UID"),
        lane: &lane::OWN,
        synapse: &object.name_any(),
        settings: &object.spec.jobs,
        image: object.spec.jobs.image.as_deref().unwrap_or(&context.config.tools_image),
        image_pull_policy: &context.config.tools_image_pull_policy,
        postgres: Some(&object.spec.postgres),
        nodes: Vec::new(),
        step: &step,
        run: number,
        attempt: 1,
        until: None,
        deadline_seconds: Some(DEADLINE),
    });
    // What an operator left behind that was killed before it had swept.
    sweep_jobs(jobs, &object.uid().unwrap_or_default(), &lane::OWN, Some(number)).await?;
    create_once(jobs, &built).await
}

/// An event when a condition changes its status: it gets worse, or well again.
async fn tell(context: &Context, object: &Synapse, before: &SynapseStatus, after: &SynapseStatus) {
    let was = conditions::find(&before.conditions, Type::Ready)
        .map(|condition| (condition.status.as_str(), condition.reason.as_str()));
    let Some(ready) = conditions::find(&after.conditions, Type::Ready) else { return };
    if was == Some((ready.status.as_str(), ready.reason.as_str())) || ready.reason == "Inspecting" {
        return;
    }
    let type_ = if ready.status == "True" { EventType::Normal } else { EventType::Warning };
    context.tell(object, type_, &ready.reason, &ready.message, "Inspect").await;
}
