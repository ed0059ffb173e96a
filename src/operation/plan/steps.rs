//! The work: preflight, then one Job after another.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Action, Next, POLL, Planner, SAFETY, elapsed};
use crate::{
    api::{
        Duration,
        downtime::Downtime,
        operation::{Cursor, PinnedSynapse, PodTrace, StepState, StepStatus, restart_reserve},
    },
    contract::{
        ErrorClass::{self, Terminal, Transient},
        Findings, Report, StepPlan, StepResult,
    },
    operation::{
        claims,
        headline::{Headline, Phase},
        job,
        observed::{JobState, ObservedJob, Subject},
        pinned, refused_pods,
    },
    pause::{self, doubling},
};

/// How often a step is tried.
const ATTEMPTS: i32 = 3;
/// The pause before the second attempt; it doubles.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// How long a Job's Pod may take until its container runs: an image of some hundred megabytes must have time to come.
const START_WITHIN: SignedDuration = SignedDuration::from_mins(5);
/// The same while users are locked out: preflight has just run the same image on the same cluster.
const START_WITHIN_OFFLINE: SignedDuration = SignedDuration::from_mins(1);
/// A Pod that has not started by then is in trouble: an image comes from a registry in less time, or the kubelet says that it
/// pulls it.
const TROUBLE_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// What the Job controller, and we, call a Job that took longer than it may.
const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// A Pod that has no node for this long while users are locked out is given up: the scheduler may need a moment to see what the
/// homeserver's Pods have left.
const UNSCHEDULABLE_FOR: SignedDuration = SignedDuration::from_secs(10);
/// A Job whose Pod has not started is looked at this often: the kubelet's reasons are not in the Job.
const LOOK_AT_POD: SignedDuration = SignedDuration::from_secs(3);

impl Planner<'_> {
    /// Puts on record what the run works on: edits of the specs wait for the next run.
    pub(super) fn pin(&mut self) -> Option<Next> {
        if self.run().synapse.is_some() {
            return None;
        }
        // The Lease is held and the objects were there a moment ago; what is gone by now is waited for as before.
        if self.backup_is_missing() {
            return None;
        }
        let synapse = self.observed.synapse.as_ref()?;
        if let Some(refusal) = self.observed.refusal.clone() {
            return self.failing(refusal.reason, Terminal, refusal.message);
        }
        let mut spec = synapse.spec.clone();
        spec.jobs = self.subject.request.jobs.clone().or(&spec.jobs);
        let image = spec.jobs.image.clone().unwrap_or_else(|| self.observed.image.clone());
        let (uid, generation) = (synapse.uid.clone(), synapse.generation);
        let steps = pinned::steps(&self.observed.steps, self.subject, &spec.jobs);
        let name = self.subject.request.synapse.clone();
        let run = self.run_mut();
        run.synapse = Some(Box::new(PinnedSynapse { name, uid, generation, spec }));
        run.image = Some(image);
        run.steps = steps;
        Some((Action::Continue, self.pending("Starting", "the homeserver is ours")))
    }

    /// The first step that has not succeeded.
    pub(super) fn work(&mut self) -> Option<Next> {
        if let Some(refusal) = self.observed.refusal.clone().filter(|_| self.run().window.is_none()) {
            return self.failing(refusal.reason, Terminal, refusal.message);
        }
        let index = self.run().next_step()?;
        if self.run().steps[index].spec.stage.is_offline()
            && let Some(next) = self.take_down()
        {
            return Some(next);
        }
        self.go_on(index)
    }

    /// The first step of those that come afterwards and has not ended, where all before it has succeeded.
    pub(super) fn afterwards(&mut self) -> Option<Next> {
        let run = self.run();
        let index = run.next_step_afterwards()?;
        if run.failure.is_some() || self.subject.deleting {
            return None;
        }
        if self.observed.uninstalling && run.steps[index].state == StepState::Pending {
            let message = "the operator is being uninstalled: waits for the next one";
            return Some((Action::Wait(SAFETY), self.step_headline(index, message)));
        }
        self.go_on(index)
    }

    fn go_on(&mut self, index: usize) -> Option<Next> {
        match self.run().steps[index].state {
            StepState::Pending | StepState::Failed => self.begin(index),
            StepState::Running => self.follow(index),
            StepState::Succeeded => None,
        }
    }

    /// Writes that there may be a Job from now on, and creates it.
    fn begin(&mut self, index: usize) -> Option<Next> {
        let now = Time(self.now);
        let step = &mut self.run_mut().steps[index];
        let longest = doubling(FIRST_PAUSE, ATTEMPTS);
        if let Some(pause) = step.retry_at.as_ref().and_then(|at| pause::left(at.0, longest, now.0)) {
            let why = step.message.as_deref().unwrap_or("it failed");
            let message = format!("waits before it tries again: {why}");
            return Some((Action::Wait(pause), self.step_headline(index, &message)));
        }
        if let Some(next) = self.wait_for_task_pods(index) {
            return Some(next);
        }
        if !self.observed.claims.is_empty() {
            self.run_mut().claims = claims::pin(&self.observed.claims);
        }
        let step = &mut self.run_mut().steps[index];
        step.pod = None;
        step.state = StepState::Running;
        step.attempt += 1;
        step.job_uid = None;
        step.retry_at = None;
        step.started_at = Some(now);
        // The Lease must say it before the Job can do it.
        if self.put_in_doubt(index) {
            return Some((Action::PublishCounts, self.step_headline(index, "its Job starts")));
        }
        Some(self.ask_for_job(index))
    }

    fn ask_for_job(&mut self, index: usize) -> Next {
        let step = &mut self.run_mut().steps[index];
        step.pod = Some(if step.pod.is_none() { PodTrace::Asked } else { PodTrace::MayHaveRun });
        (Action::CreateJob(index), self.step_headline(index, "its Job starts"))
    }

    /// Takes the Job's result, or waits for it.
    fn follow(&mut self, index: usize) -> Option<Next> {
        if let Some(next) = self.give_way(index) {
            return Some(next);
        }
        let Some(job) = self.observed.job.clone() else {
            return match self.run().steps[index].job_uid {
                // Its UID was never seen: the one before us died before it had created it, or before it had seen it.
                None => self.wait_for_task_pods(index).or_else(|| Some(self.ask_for_job(index))),
                Some(_) => self.try_again(
                    index,
                    Transient,
                    "JobDeleted",
                    "somebody deleted its Job: what it did is unknown. Keep them from its Jobs until the run is over"
                        .to_owned(),
                ),
            };
        };
        if !job.ours {
            let message = "a Job with the name of ours belongs to another object: delete that Job".to_owned();
            return self.give_up(index, "JobNameTaken", Terminal, message);
        }
        self.run_mut().steps[index].job_uid = Some(job.uid.clone());
        self.trace_pod(index, &job);
        self.run_mut().steps[index].outlived_by = job.outlived.clone();
        match &job.state {
            JobState::Active => self.watch_start(index, &job),
            JobState::Complete => match &job.report {
                Some(Report { error: None, .. }) => self.succeed(index, job.report.expect("it was just seen")),
                Some(report @ Report { error: Some(error), result, .. }) => {
                    let error = error.clone();
                    self.learn_what_is_left(index, Some(report));
                    self.keep(index, result.clone());
                    self.try_again(index, error.class, &error.reason, error.message)
                }
                // Its Pod is gone and took the result with it. Unknown is not success: do it again.
                None => self.try_again(
                    index,
                    Transient,
                    "ResultUnknown",
                    "its Job ended but the result went with its Pod. Keep what deletes finished Pods away until the run is \
                     over"
                        .to_owned(),
                ),
            },
            JobState::Failed(why) => self.job_failed(index, &job, why),
        }
    }

    /// A Pod of the homeserver's waits on another node for a claim that the Job has: it goes first. `None`: none does.
    fn give_way(&mut self, index: usize) -> Option<Next> {
        let job = self.observed.job.as_ref();
        let is_in_the_way = job.is_some_and(|job| job.ours && job.state == JobState::Active);
        let wanted_by = self.observed.claim_wanted_by.as_ref().filter(|_| is_in_the_way);
        let pod = self.run().steps[index].gives_way_to.as_ref().or(wanted_by)?.clone();
        let message = format!("Pod {pod} waits on another node for a volume that its Job had, so the Job gave it up");
        let headline = self.step_headline(index, &message);
        self.run_mut().steps[index].gives_way_to = Some(pod);
        match &self.observed.job {
            Some(job) if job.deleted_at.is_none() => Some((Action::DeleteJob(index), headline)),
            Some(job) if !self.is_lost(job) => Some((Action::Wait(POLL), headline)),
            Some(_) | None => {
                self.wait_for_task_pods(index).or_else(|| self.try_again(index, Transient, "VolumeWanted", message))
            }
        }
    }

    fn watch_start(&mut self, index: usize, job: &ObservedJob) -> Option<Next> {
        if job.started {
            return Some((Action::Wait(SAFETY), self.step_headline(index, "its Job runs")));
        }
        let step = &self.run().steps[index];
        let wanted = self.run().synapse.as_ref().and_then(|pinned| pinned.spec.jobs.start_within.as_ref());
        let default = if step.spec.stage.is_offline() { START_WITHIN_OFFLINE } else { START_WITHIN };
        let allowed = wanted.map_or(default, Duration::to_signed);
        let since = step.started_at.clone().unwrap_or(Time(self.now));
        let waited = elapsed(&since, self.now);
        let is_early = waited < refused_pods::EARLY && waited <= allowed;
        let why = job.pod.clone().unwrap_or_else(|| match &job.node {
            Some(node) => format!("its Pod starts on node {node}"),
            None if is_early => "waits for its Pod".to_owned(),
            None => format!("no Pod was made for its Job. See why with: {}", self.describe_job(step)),
        });
        // Users wait, and no node is about to come: what is full stays full.
        let is_hopeless =
            step.spec.stage.is_offline() && waited > UNSCHEDULABLE_FOR && why.starts_with("Unschedulable");
        if is_hopeless {
            let message = format!("the Pod of step {} has no node while the homeserver is down: {why}", step.spec.name);
            return self.give_up(index, "PodDoesNotStart", Terminal, message);
        }
        if waited > allowed {
            let message = format!("the Pod of step {} did not start within {allowed:#}: {why}", step.spec.name);
            return self.give_up(index, "PodDoesNotStart", Terminal, message);
        }
        let mut headline = self.step_headline(index, &why);
        if waited >= TROUBLE_AFTER && job.pod.is_some() {
            headline.reason = "PodDoesNotStart".to_owned();
        }
        Some((Action::Wait(LOOK_AT_POD), headline))
    }

    fn job_failed(&mut self, index: usize, job: &ObservedJob, why: &str) -> Option<Next> {
        self.learn_what_is_left(index, job.report.as_ref());
        self.keep(index, job.report.as_ref().and_then(|report| report.result.clone()));
        let deadline = self.run().steps[index].spec.deadline.clone().filter(|_| why.starts_with(DEADLINE_EXCEEDED));
        if let Some(deadline) = deadline {
            let message = too_long(&self.run().steps[index], &deadline, why, job.pod.as_deref());
            return self.try_again(index, Terminal, DEADLINE_EXCEEDED, message);
        }
        if let Some(error) = job.report.as_ref().and_then(|report| report.error.clone()) {
            // A task that was told to stop does not know why: the kubelet does.
            let message =
                job.pod.iter().map(String::as_str).chain([error.message.as_str()]).collect::<Vec<_>>().join(" ");
            return self.try_again(index, error.class, &error.reason, message);
        }
        let last = job.pod.as_deref().map(|pod| format!(": {pod}")).unwrap_or_default();
        if job.out_of_memory {
            let message = format!("its container was killed for memory. Raise spec.jobs.resources.limits.memory{last}");
            return self.try_again(index, Terminal, "OutOfMemory", message);
        }
        let said = format!("{why}{last}");
        let see = self.describe_job(&self.run().steps[index]);
        let message = format!("{}. See more with: {see}", said.trim_end_matches('.'));
        self.try_again(index, Transient, "JobFailed", message)
    }

    /// What to type to look at a step's Job.
    fn describe_job(&self, step: &StepStatus) -> String {
        let Subject { namespace, name, uid, .. } = self.subject;
        let job = job::name(name, uid, self.run().number, &step.spec.name, step.attempt);
        format!("kubectl -n {namespace} describe job {job}")
    }

    /// What an attempt had done before it failed stays done: the next one finds nothing left to do there.
    fn keep(&mut self, index: usize, done: Option<StepResult>) {
        let step = &mut self.run_mut().steps[index];
        if let Some(done) = done.filter(|done| !done.tables.is_empty() || done.verdict.is_some()) {
            step.result = Some(done.after(step.result.take()));
        }
    }

    /// Another attempt where one may help and is left; the end of the run otherwise.
    fn try_again(&mut self, index: usize, class: ErrorClass, reason: &str, message: String) -> Option<Next> {
        let now = self.now;
        let step = &mut self.run_mut().steps[index];
        step.message = Some(message.clone());
        step.job_uid = None;
        step.gives_way_to = None;
        if class == Transient && step.attempt < ATTEMPTS {
            let pause = doubling(FIRST_PAUSE, step.attempt);
            step.state = StepState::Pending;
            step.retry_at = Some(Time(now + pause));
            let message = format!("{message}. Attempt {} follows", step.attempt + 1);
            return Some((Action::Continue, self.step_headline(index, &message)));
        }
        let message = format!("step {}: {message}", step.spec.name);
        if step.spec.stage.decides() {
            step.state = StepState::Failed;
            step.finished_at = Some(Time(now));
        }
        self.give_up(index, reason, class, message)
    }

    /// The end of the run; of a step that decides nothing, no more than of that step.
    fn give_up(&mut self, index: usize, reason: &str, class: ErrorClass, message: String) -> Option<Next> {
        let now = self.now;
        let step = &mut self.run_mut().steps[index];
        if step.spec.stage.decides() {
            return self.failing(reason, class, message);
        }
        step.state = StepState::Failed;
        step.finished_at = Some(Time(now));
        step.reason = Some(reason.to_owned());
        step.message = Some(message.clone());
        // It may wait for a Pod that never starts.
        Some((Action::DeleteJob(index), self.step_headline(index, &message)))
    }

    fn succeed(&mut self, index: usize, report: Report) -> Option<Next> {
        let now = Time(self.now);
        if let Some(Findings::Preflight(findings)) = report.findings {
            let summaries: Vec<&str> = findings.plan.iter().map(|plan| plan.summary.as_str()).collect();
            let summary = summaries.join("; ");
            self.status.expected_downtime_seconds = expected_downtime(&findings.plan, &self.run().downtime);
            self.status.plan = findings.plan;
            for step in &mut self.run_mut().steps {
                step.spec.args.extend(findings.arguments.get(&step.spec.name).cloned().unwrap_or_default());
            }
            self.leave_out_what_does_nothing(&now);
            let step = &mut self.run_mut().steps[index];
            step.message = Some(findings.other_sessions.join("; ")).filter(|sessions| !sessions.is_empty());
            let (warnings, coverage) = (findings.warnings, findings.coverage);
            step.result = Some(StepResult { summary, warnings, coverage, ..StepResult::default() });
        }
        let name = self.run().steps[index].spec.name.clone();
        self.status.cursors.retain(|cursor| cursor.step != name);
        if let Some(result) = &report.result {
            // A one-shot does not go on: what it left is in its result.
            let position = result.cursor.clone().filter(|_| self.subject.request.schedule.is_some());
            self.status.cursors.extend(position.map(|position| Cursor { step: name, position }));
        }
        let step = &mut self.run_mut().steps[index];
        step.state = StepState::Succeeded;
        step.finished_at = Some(now);
        if let Some(result) = report.result {
            step.message = None;
            step.result = Some(result.after(step.result.take()));
        }
        self.put_beyond_doubt(index);
        Some((Action::Continue, self.step_headline(index, "done")))
    }

    /// Users are not locked out for nothing: an offline step that would leave every table alone counts as done.
    fn leave_out_what_does_nothing(&mut self, now: &Time) {
        let plans: Vec<StepPlan> =
            self.status.plan.iter().filter(|plan| plan.offline && does_nothing(plan)).cloned().collect();
        for step in self.run_mut().steps.iter_mut().filter(|step| step.state == StepState::Pending) {
            if let Some(plan) = plans.iter().find(|plan| plan.step == step.spec.name) {
                step.state = StepState::Succeeded;
                step.finished_at = Some(now.clone());
                step.result = Some(StepResult { summary: plan.summary.clone(), ..StepResult::default() });
            }
        }
        let steps = &mut self.run_mut().steps;
        let nobody_goes_down =
            !steps.iter().any(|step| step.spec.stage.is_offline() && step.state == StepState::Pending);
        for step in steps.iter_mut().filter(|step| nobody_goes_down && step.spec.name == pinned::PLACEMENT) {
            step.state = StepState::Succeeded;
            step.finished_at = Some(now.clone());
        }
    }

    /// `step vacuum-1 (2/3): …`
    pub(super) fn step_headline(&self, index: usize, what: &str) -> Headline {
        let steps = &self.run().steps;
        let step = &steps[index];
        let (phase, reason) = match (step.spec.name.as_str(), step.spec.stage.is_offline()) {
            (pinned::PREFLIGHT, _) => (Phase::Preflight, "Preflight"),
            (_, true) => (Phase::Offline, "Offline"),
            (_, false) => (Phase::Running, "Running"),
        };
        Headline {
            phase,
            reason: reason.to_owned(),
            message: format!("step {} ({}/{}): {what}", step.spec.name, index + 1, steps.len()),
        }
    }
}

/// Why a Job was ended that took longer than it may.
fn too_long(step: &StepStatus, deadline: &Duration, why: &str, pod: Option<&str>) -> String {
    let field = if step.spec.name == pinned::PREFLIGHT {
        ""
    } else {
        ". Where the work needs longer, raise spec.jobs.deadline"
    };
    let words = why.trim_start_matches(DEADLINE_EXCEEDED).trim_start_matches([':', ' ']).trim_end_matches('.');
    let last = pod.map(|pod| format!("; {pod}")).unwrap_or_default();
    format!(
        "it was not done within {deadline}, and its Job was ended ({words}{last}). Something does not answer: look at \
         PostgreSQL, at the repository's storage and at the volumes that the step mounts{field}"
    )
}

fn does_nothing(plan: &StepPlan) -> bool {
    !plan.tables.is_empty() && plan.tables.iter().all(|table| table.skipped.is_some())
}

/// How long the homeserver would be down, in seconds; `None`: no step takes it down.
fn expected_downtime(plan: &[StepPlan], downtime: &Downtime) -> Option<i64> {
    let offline: Vec<&StepPlan> = plan.iter().filter(|plan| plan.offline && !does_nothing(plan)).collect();
    let work: i64 = offline.iter().filter_map(|plan| plan.expected_seconds).sum();
    (!offline.is_empty()).then(|| work + restart_reserve(downtime.at_most.to_signed()).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::TablePlan;

    #[test]
    fn the_expected_downtime_is_that_of_all_offline_steps_with_stop_and_start() {
        let plan = |offline, seconds, skipped: Option<&str>| StepPlan {
            offline,
            expected_seconds: Some(seconds),
            tables: vec![TablePlan { skipped: skipped.map(str::to_owned), ..Default::default() }],
            ..Default::default()
        };
        let (online, one, other) = (plan(false, 100, None), plan(true, 30, None), plan(true, 20, None));
        let nothing = plan(true, 0, Some("too small"));
        let at_most = |text: &str| Downtime { at_most: text.parse().unwrap(), ..Default::default() };
        for (plan, downtime, expected) in [
            (vec![online.clone(), nothing.clone()], "1h", None),
            (vec![online.clone(), one.clone(), nothing], "1h", Some(90)),
            (vec![one.clone(), other.clone()], "1h", Some(110)),
            (vec![online, one, other], "2m", Some(80)),
        ] {
            assert_eq!(expected_downtime(&plan, &at_most(downtime)), expected);
        }
    }
}
