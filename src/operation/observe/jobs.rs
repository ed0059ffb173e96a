//! A Job and what became of its Pod.
//!
//! The end of the task's container is the end of a step. A Job ends later: when every container of its Pod has, those
//! included that others have put into it, such as a service mesh.

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::{Job, JobCondition},
    core::v1::{ContainerStateTerminated, Pod},
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, LogParams},
};

use super::is_lost;
use crate::{
    api::{conditions::truncate, operation::Outlived},
    context::Context,
    contract::Report,
    operation::{
        job,
        observed::{JobState, ObservedJob},
        pod_trouble, refused_pods, scale,
    },
    task::verify::SILENT,
};

/// How much of a log goes into a message.
const LOG_LINES: i64 = 10;
/// How long a report may be, in the pieces of 16 KiB into which the container runtime cuts a line.
const LONGEST_REPORT: i64 = 32;
/// As many bytes of somebody else's words go into a status: it is written at every turn, and must never be too large.
const WORDS: usize = 4096;

/// A Job of ours and what became of its Pod.
///
/// # Errors
/// What the API server answers.
pub async fn job(context: &Context, namespace: &str, name: &str, owner_uid: &str) -> kube::Result<Option<ObservedJob>> {
    let jobs: Api<Job> = Api::namespaced(context.client.clone(), namespace);
    let Some(found) = jobs.get_opt(name).await? else { return Ok(None) };
    let mut observed = ObservedJob {
        uid: found.uid().unwrap_or_default(),
        ours: belongs_to(&found, owner_uid),
        deleted_at: found.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        state: job_state(&found),
        report: None,
        pod: None,
        node: None,
        started: false,
        out_of_memory: false,
        outlived: None,
    };
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let list = pods.list(&ListParams::default().labels(&format!("batch.kubernetes.io/job-name={name}"))).await?;
    let Some(pod) = list.items.into_iter().max_by_key(|pod| pod.creation_timestamp()) else {
        let made_at = found.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let is_late = Timestamp::now().duration_since(made_at) >= refused_pods::EARLY;
        if is_late && observed.state == JobState::Active {
            let why = refused_pods::why(&context.client, namespace, "Job", name, made_at).await;
            observed.pod = why.map(|why| {
                let advice = refused_pods::advice(&why).map(|advice| format!(". {advice}")).unwrap_or_default();
                format!("no Pod could be made for its Job: {why}{advice}")
            });
        }
        return Ok(Some(observed));
    };
    let container = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .find(|status| status.name == job::CONTAINER);
    let state = container.and_then(|status| status.state.clone()).unwrap_or_default();
    observed.started = state.running.is_some() || state.terminated.is_some();
    observed.node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    observed.pod = evicted(&pod).or_else(|| pod_trouble::why(&pod));
    if observed.state == JobState::Active {
        observed.outlived = outlived(&pod);
        observed.state = state_of_task(&found, &pod);
    }
    if let (Some(ended), true) = (state.terminated, observed.state != JobState::Active) {
        observed.out_of_memory = ended.reason.as_deref() == Some("OOMKilled");
        observed.report = report(&pods, &pod.name_any(), &ended).await;
        // What becomes of other containers is not the task's.
        if ended.exit_code == 0 {
            observed.state = JobState::Complete;
        }
        match observed.report.as_ref().map(|report| &report.error) {
            None => observed.pod = Some(last_words(&pods, &pod, &ended).await),
            // The task cannot say why.
            Some(Some(error)) if error.reason == SILENT => {
                observed.pod = words_of(&pods, &pod, job::server::CONTAINER).await.or(observed.pod);
            }
            Some(_) => {}
        }
    }
    Ok(Some(observed))
}

/// Whose it is. One without an owner, which goes on while that is being deleted, has its label.
fn belongs_to(job: &Job, owner_uid: &str) -> bool {
    let owners = job.owner_references();
    let is_labelled = || job.labels().get(job::OWNER_UID).is_some_and(|uid| uid == owner_uid);
    owners.iter().any(|owner| owner.uid == owner_uid) || (owners.is_empty() && is_labelled())
}

/// Why the kubelet ended a Pod, in its words: `Evicted: The node was low on resource: memory.`
fn evicted(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    Some(format!("{}: {}", status.reason.as_ref()?, status.message.as_deref().unwrap_or_default()))
}

/// A Job has ended only when `Complete` or `Failed` is true. `FailureTarget` and `SuccessCriteriaMet` come earlier, while
/// Pods still run.
pub fn job_state(job: &Job) -> JobState {
    for condition in true_conditions(job) {
        match condition.type_.as_str() {
            "Complete" => return JobState::Complete,
            "Failed" => return JobState::Failed(words_of_condition(condition)),
            _ => {}
        }
    }
    JobState::Active
}

fn true_conditions(job: &Job) -> impl Iterator<Item = &JobCondition> {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.status == "True")
}

fn words_of_condition(condition: &JobCondition) -> String {
    let reason = condition.reason.as_deref().unwrap_or("Failed");
    format!("{reason}: {}", condition.message.as_deref().unwrap_or_default())
}

/// What has become of the task of a Job that is active. Where the whole Pod has ended the Job says so in a moment.
fn state_of_task(job: &Job, pod: &Pod) -> JobState {
    if scale::has_ended(pod) {
        return JobState::Active;
    }
    let name = pod.name_any();
    if let Some(ended) = ended(pod) {
        return match ended.exit_code {
            0 => JobState::Complete,
            code => JobState::Failed(format!("container {} of Pod {name} ended with exit code {code}", job::CONTAINER)),
        };
    }
    if is_lost(pod, Timestamp::now()) {
        // A Job whose deadline is over waits for the end of its Pod.
        let target = true_conditions(job).find(|condition| condition.type_ == "FailureTarget");
        let why = target.map(|target| format!("{}; ", words_of_condition(target))).unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        let namespace = pod.namespace().unwrap_or_default();
        // While the Job is there its controller keeps a Pod that has not ended, also from `--force`.
        return JobState::Failed(format!(
            "{why}Pod {name} on node {node} does not stop: the node is lost, or a volume does not answer. When the node is \
             repaired or shut down: kubectl -n {namespace} delete job {}; kubectl -n {namespace} delete pod {name} --force",
            job.name_any()
        ));
    }
    JobState::Active
}

/// How the task's container has ended, if it has.
pub(super) fn ended(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == job::CONTAINER)?.state.as_ref()?.terminated.as_ref()
}

/// The containers that keep a Pod alive whose task has ended. Init containers that go on running are ended by the kubelet.
fn outlived(pod: &Pod) -> Option<Outlived> {
    ended(pod)?;
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let has_ended = |name: &str| {
        let status = statuses.iter().find(|status| status.name == name);
        status.and_then(|status| status.state.as_ref()).is_some_and(|state| state.terminated.is_some())
    };
    let others = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| &container.name);
    let containers: Vec<String> = others.filter(|name| !has_ended(name)).cloned().collect();
    (!containers.is_empty()).then(|| Outlived { pod: pod.name_any(), containers, job_deleted: false })
}

/// The task's report: its termination message, or the last line of its log where that did not hold it all.
async fn report(pods: &Api<Pod>, pod: &str, ended: &ContainerStateTerminated) -> Option<Report> {
    let mut report: Report = serde_json::from_str(ended.message.as_deref()?.trim()).ok()?;
    if report.details_in_log {
        // Each piece of a long line counts as a line.
        let log = log(pods, pod, job::CONTAINER, LONGEST_REPORT).await;
        let whole = log.and_then(|log| serde_json::from_str(log.trim_end().lines().next_back()?).ok());
        report = whole.unwrap_or(report);
    }
    if let Some(error) = &mut report.error {
        error.message = truncate(&error.message, WORDS).to_owned();
    }
    Some(report)
}

/// How a container ended that reported nothing, with the end of its log.
async fn last_words(pods: &Api<Pod>, pod: &Pod, ended: &ContainerStateTerminated) -> String {
    let reason = ended.reason.as_deref().unwrap_or("ended");
    let evicted = evicted(pod).map(|why| format!(" ({why})"));
    let log = words_of(pods, pod, job::CONTAINER).await.map(|log| format!("; {log}")).unwrap_or_default();
    format!("{reason}, exit code {}{}{log}", ended.exit_code, evicted.unwrap_or_default())
}

/// The end of what a container printed.
async fn words_of(pods: &Api<Pod>, pod: &Pod, container: &str) -> Option<String> {
    let log = log(pods, &pod.name_any(), container, LOG_LINES).await?;
    let log = log.trim();
    let end = &log[log.ceil_char_boundary(log.len().saturating_sub(WORDS))..];
    (!end.is_empty()).then(|| format!("the end of the log of container {container}: {end}"))
}

/// The end of a log. A log that cannot be read is no reason to fail: it only makes a message longer.
async fn log(pods: &Api<Pod>, pod: &str, container: &str, lines: i64) -> Option<String> {
    let params = LogParams {
        container: Some(container.to_owned()),
        tail_lines: Some(lines),
        limit_bytes: Some(1 << 20),
        ..Default::default()
    };
    pods.logs(pod, &params).await.ok()
}
