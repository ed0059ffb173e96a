//! Single decisions, where the simulation is at a moment that chance seldom brings about.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use super::{
    Action, Plan, plan,
    simulation::{Moment, World},
};
use crate::{
    api::{
        conditions::{self, Type},
        operation::{OperationStatus, Outcome, Run, StepState, Trigger, Window},
    },
    contract::{Report, StepResult, TableResult, TaskError},
    operation::{
        claims, events,
        observed::{JobState, Observed, ObservedClaim, ObservedPod, Subject},
    },
};

const FULL: &str = "[{vacuum: {mode: Full}}]";

/// A world that came so far, one turn after the other.
fn until(steps: &str, there: impl Fn(&Run) -> bool) -> World {
    come(World::new(steps), there)
}

fn come(mut world: World, there: impl Fn(&Run) -> bool) -> World {
    for _ in 0..500 {
        if world.subject.status.run.as_deref().is_some_and(&there) {
            return world;
        }
        world.reconcile(1, Some(Moment::AfterAct));
        if world.subject.status.run.as_deref().is_some_and(&there) {
            return world;
        }
        world.tick(1);
    }
    panic!("it does not come so far: {:#?}", world.subject.status.run);
}

fn offline_job_seen(run: &Run) -> bool {
    run.steps.iter().any(|step| step.spec.stage.is_offline() && step.job_uid.is_some())
}

fn window(status: &OperationStatus) -> &Window {
    status.run.as_ref().unwrap().window.as_ref().unwrap()
}

fn failure(status: &OperationStatus) -> Option<(&str, &str)> {
    let failure = status.run.as_ref()?.failure.as_ref()?;
    Some((failure.reason.as_str(), failure.message.as_str()))
}

#[track_caller]
fn fails(plan: &Plan, wanted: &str, said: &[&str]) {
    let (reason, message) = failure(&plan.status).expect("it fails");
    assert_eq!(reason, wanted, "{message}");
    for word in said {
        assert!(message.contains(word), "{message:?} does not say {word:?}");
    }
}

#[test]
fn work_ends_while_there_is_time_to_start_again() {
    for (at_most, last, first) in [("1h", 3540, 3541), ("2m", 90, 91), ("4s", 3, 4)] {
        let world = until(&format!("{FULL}, downtime: {{atMost: {at_most}}}"), offline_job_seen);
        let recorded_at = window(&world.subject.status).recorded_at.0;
        let mut observed = world.observe();
        observed.job.as_mut().unwrap().started = true;
        let at = |seconds| plan(&world.subject, &observed, recorded_at + SignedDuration::from_secs(seconds));
        assert_eq!(failure(&at(last).status), None, "{at_most}");
        let exceeded = at(first);
        fails(
            &exceeded,
            "DowntimeExceeded",
            &[at_most, "spec.downtime.atMost", "raise it (in a new object", "vacuum.tables"],
        );
        assert_eq!(exceeded.action, Action::DeleteJob(2));
    }
}

#[test]
fn a_start_that_takes_longer_than_the_budget_is_told() {
    for (seconds, exceeds) in [(60, false), (600, true)] {
        let mut world = until(&format!("{FULL}, downtime: {{atMost: 2m}}"), offline_job_seen);
        world.workloads[0].hangs = true;
        let is_back = |world: &World| window(&world.subject.status).returned_at.is_some();
        while !is_back(&world) {
            world.tick(1);
            world.reconcile(60, None);
        }
        world.tick(seconds);
        world.reconcile(60, None);
        world.workloads[0].hangs = false;
        world.tick(1);
        world.reconcile(60, None);
        let status = &world.subject.status;
        let entry = &status.history[0];
        let message = entry.message.as_deref().unwrap_or_default();
        assert_eq!(entry.outcome, Outcome::Succeeded, "{message}");
        assert_eq!(message.contains("longer than downtime.atMost (2m): raise it"), exceeds, "{message}");
        assert_eq!(status.last.as_ref().unwrap().downtime_seconds > Some(120), exceeds);
        assert_eq!(conditions::find(&status.conditions, Type::Ready).unwrap().message, message);
    }
}

#[test]
fn what_went_wrong_is_told_while_it_waits_for_another_attempt() {
    let world = until(FULL, offline_job_seen);
    let mut observed = world.observe();
    let error = Some(TaskError::transient("LockNotGranted", "psql of dba holds the lock"));
    let job = observed.job.as_mut().unwrap();
    job.state = JobState::Failed("BackoffLimitExceeded".to_owned());
    job.report = Some(Report { error, ..Report::default() });
    let failed = plan(&world.subject, &observed, world.now);
    let subject = Subject { status: failed.status, ..world.subject.clone() };
    observed.job = None;
    let waits = plan(&subject, &observed, world.now);
    assert!(matches!(waits.action, Action::Wait(_)), "{:?}", waits.action);
    let ready = conditions::find(&waits.status.conditions, Type::Ready).unwrap();
    assert!(ready.message.contains("tries again: psql of dba holds the lock"), "{}", ready.message);
}

#[test]
fn pods_that_do_not_get_ready_again_say_why() {
    let mut world = until(FULL, offline_job_seen);
    let is_back = |world: &World| window(&world.subject.status).returned_at.is_some();
    world.workloads[0].hangs = true;
    while !is_back(&world) {
        world.tick(1);
        world.reconcile(60, None);
    }
    let words = "container synapse: CrashLoopBackOff: back-off 5m0s restarting failed container";
    let mut observed = world.observe();
    for live in &mut observed.workloads {
        live.pods = vec![ObservedPod { problem: Some(words.to_owned()), ..Default::default() }];
    }
    let began = window(&world.subject.status).resume_began_at.clone().unwrap().0;
    let at = |minutes| plan(&world.subject, &observed, began + SignedDuration::from_mins(minutes));
    assert_eq!(failure(&at(15).status), None);
    let gave_up = at(16);
    fails(
        &gave_up,
        "NotReadyAgain",
        &["StatefulSet/main has 0 of 1 Pods Ready", words, "kubectl -n matrix describe pods"],
    );
    let ready = conditions::find(&gave_up.status.conditions, Type::Ready).unwrap();
    assert!(ready.reason == "NotReadyAgain" && ready.message.contains(words), "{ready:?}");
}

#[test]
fn counts_that_another_holds_are_not_recorded_as_zeros() {
    let is_placed = |run: &Run| run.steps.get(1).is_some_and(|step| step.state == StepState::Succeeded);
    let world = until(FULL, is_placed);
    let held = Observed { counts_held_by: Some("SynapseMaintenance other".to_owned()), ..world.observe() };
    let refused = plan(&world.subject, &held, world.now);
    fails(&refused, "CountsHeldElsewhere", &["SynapseMaintenance other", "wait for it, or delete it"]);
    assert_eq!(refused.status.run.unwrap().window, None);
}

#[test]
fn a_job_of_somebody_else_is_left_alone() {
    let mut world = until(FULL, offline_job_seen);
    let mut observed = world.observe();
    observed.job.as_mut().unwrap().ours = false;
    let taken = plan(&world.subject, &observed, world.now);
    fails(&taken, "JobNameTaken", &["belongs to another object", "delete that Job"]);
    world.subject.status = taken.status;
    let next = plan(&world.subject, &observed, world.now);
    assert_eq!(next.action, Action::Continue, "it is not ours to delete");
}

#[test]
fn a_result_that_is_gone_is_no_success() {
    let mut world = until(FULL, offline_job_seen);
    let mut observed = world.observe();
    let job = observed.job.as_mut().unwrap();
    (job.state, job.report) = (JobState::Complete, None);
    for attempt in 1..=2 {
        let again = plan(&world.subject, &observed, world.now);
        assert_eq!(failure(&again.status), None);
        let step = again.status.run.as_ref().unwrap().steps[2].clone();
        assert_eq!((step.state, step.attempt, step.job_uid), (StepState::Pending, attempt, None));
        assert!(step.message.unwrap().contains("the result went with its Pod"));
        // The pause passes, and the next attempt's Job ends in the same way.
        world.subject.status = again.status;
        world.now = step.retry_at.unwrap().0;
        let begun = plan(&world.subject, &Observed { job: None, ..observed.clone() }, world.now);
        assert_eq!(begun.action, Action::CreateJob(2));
        world.subject.status = begun.status;
    }
    fails(&plan(&world.subject, &observed, world.now), "ResultUnknown", &["step vacuum-1", "finished Pods"]);
}

#[test]
fn a_run_that_was_missed_is_in_the_history_once() {
    let mut world = World::new(&format!("{FULL}, schedule: {{cron: '0 1 * * *', startWithin: 1h}}"));
    world.subject.created = world.now - SignedDuration::from_hours(24);
    for _ in 0..2 {
        let missed = plan(&world.subject, &world.observe(), world.now);
        let [entry] = missed.status.history.as_slice() else { panic!("{:?}", missed.status.history) };
        assert_eq!((entry.outcome, entry.reason.as_deref()), (Outcome::Skipped, Some("Missed")));
        assert!(entry.message.as_deref().unwrap_or_default().contains("2026-11-22T01:00:00Z"), "{entry:?}");
        assert_eq!(missed.status.run, None);
        let ready = conditions::find(&missed.status.conditions, Type::Ready).unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Scheduled"));
        assert_eq!(missed.status.next_run_at.as_ref().unwrap().0.to_string(), "2026-11-23T01:00:00Z");
        world.subject.status = missed.status;
    }
}

#[test]
fn a_schedule_goes_on_after_an_operator_whose_clock_was_ahead_of_time() {
    let mut world = World::new(&format!("{FULL}, schedule: {{cron: '0 1 * * *', startWithin: 1h}}"));
    world.subject.status.last_scheduled_at = Some(Time("2031-01-01T01:00:00Z".parse().unwrap()));
    let noticed = plan(&world.subject, &world.observe(), world.now).status;
    assert_eq!((noticed.last_scheduled_at.as_ref(), noticed.run.as_ref()), (Some(&Time(world.now)), None));
    let events = events::between(world.subject.lane, &world.subject.status, &noticed);
    let event = events.iter().find(|event| event.reason == "ClockAhead").expect("an event");
    assert!(event.warning && event.note.contains("2031-01-01T01:00:00Z"), "{event:?}");
    let next = noticed.next_run_at.clone().expect("a next run").0;
    world.subject.status = noticed;
    let due = plan(&world.subject, &world.observe(), next).status;
    assert_eq!(due.run.as_ref().map(|run| run.trigger), Some(Trigger::Schedule));
    assert!(
        !events::between(world.subject.lane, &world.subject.status, &due)
            .iter()
            .any(|event| event.reason == "ClockAhead")
    );
}

#[test]
fn what_somebody_asks_for_behind_the_record_is_not_taken_away() {
    let world = until(FULL, |run| run.window.is_some());
    let recorded = window(&world.subject.status).workloads.clone();
    assert!(recorded.iter().all(|one| !one.stopped), "{recorded:?}");
    for one in &recorded {
        let mut observed = world.observe();
        let live = observed.workloads.iter_mut().find(|live| live.workload == one.workload).unwrap();
        live.replicas = Some(one.replicas + 3);
        let stopped = plan(&world.subject, &observed, world.now);
        fails(&stopped, "Contested", &[&one.workload.to_string(), &format!("scaled to {}", one.replicas + 3)]);
        let scaled = matches!(&stopped.action, Action::Scale(changes) if changes.iter().any(|change| change.to == 0));
        assert!(!scaled, "{:?}", stopped.action);
    }
}

#[test]
fn a_place_is_looked_for_right_before_a_downtime_and_what_cannot_be_placed_takes_nobody_down() {
    let names = |steps: &str| {
        let world = until(steps, |run| !run.steps.is_empty());
        run_of(&world).steps.iter().map(|step| step.spec.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(FULL), ["preflight", "placement", "vacuum-1"]);
    let both = "[{vacuum: {mode: Full}}, {vacuum: {mode: Analyze}}, {vacuum: {mode: Full}}]";
    assert_eq!(names(both), ["preflight", "vacuum-2", "placement", "vacuum-1", "vacuum-3"]);
    assert_eq!(names("[{vacuum: {mode: Analyze}}]"), ["preflight", "vacuum-1"]);

    let world = until(FULL, |run| run.steps.get(1).is_some_and(|step| step.job_uid.is_some()));
    let unplaced = |world: &World, seconds: i64| {
        let mut observed = world.observe();
        let job = observed.job.as_mut().unwrap();
        (job.state, job.started, job.report) = (JobState::Active, false, None);
        job.pod = Some("Unschedulable: 0/1 nodes are available: 1 node(s) were unschedulable".to_owned());
        let step = run_of(world).steps.iter().find(|step| step.state == StepState::Running).unwrap();
        plan(&world.subject, &observed, step.started_at.clone().unwrap().0 + SignedDuration::from_secs(seconds))
    };
    assert_eq!(failure(&unplaced(&world, 200).status), None, "nobody is down: a node may come");
    let failed = unplaced(&world, 301);
    fails(&failed, "PodDoesNotStart", &["placement", "1 node(s) were unschedulable"]);
    assert_eq!(failed.status.run.unwrap().window, None);

    let world = until(FULL, offline_job_seen);
    assert_eq!(failure(&unplaced(&world, 10).status), None, "the scheduler may need a moment");
    let failed = unplaced(&world, 11);
    fails(&failed, "PodDoesNotStart", &["vacuum-1 has no node while the homeserver is down", "unschedulable"]);
}

fn run_of(world: &World) -> &Run {
    world.subject.status.run.as_ref().unwrap()
}

/// Two minutes are for a node that is lost. An operator that comes back after longer has not even asked yet.
#[test]
fn a_job_is_waited_for_from_its_deletion_on_however_long_ago_the_run_failed() {
    let mut world = until(FULL, offline_job_seen);
    let ago = |minutes| world.now - SignedDuration::from_mins(minutes);
    let (now, three_minutes_ago) = (world.now, ago(3));
    let failure = json!({"reason": "Contested", "message": "m", "class": "Transient", "at": ago(10).to_string()});
    world.subject.status.run.as_mut().unwrap().failure = Some(serde_json::from_value(failure).unwrap());
    let mut observed = world.observe();
    let mut action = |deleted_at| {
        observed.job.as_mut().unwrap().deleted_at = deleted_at;
        plan(&world.subject, &observed, now).action
    };
    assert_eq!(action(None), Action::DeleteJob(2));
    assert!(matches!(action(Some(now)), Action::Wait(_)));
    assert!(!matches!(action(Some(three_minutes_ago)), Action::Wait(_) | Action::DeleteJob(_)));
}

#[test]
fn what_was_done_before_a_failure_is_counted() {
    let mut world = until(FULL, offline_job_seen);
    let table =
        |name: &str| TableResult { name: name.to_owned(), bytes_before: 9, bytes_after: 2, ..Default::default() };
    let report = |error, name| Report {
        error,
        result: Some(StepResult { tables: vec![table(name)], ..StepResult::default() }),
        ..Report::default()
    };
    let mut observed = world.observe();
    let job = observed.job.as_mut().unwrap();
    job.state = JobState::Failed("BackoffLimitExceeded".to_owned());
    job.report = Some(report(Some(TaskError::transient("LockTimeout", "somebody holds it")), "events"));
    world.subject.status = plan(&world.subject, &observed, world.now).status;
    let step = |world: &World| world.subject.status.run.as_ref().unwrap().steps[2].clone();
    assert_eq!((step(&world).state, step(&world).result.map(|done| done.tables.len())), (StepState::Pending, Some(1)));

    let second = &mut world.subject.status.run.as_mut().unwrap().steps[2];
    (second.state, second.attempt) = (StepState::Running, 2);
    let job = observed.job.as_mut().unwrap();
    (job.state, job.report) = (JobState::Complete, Some(report(None, "state_groups_state")));
    world.subject.status = plan(&world.subject, &observed, world.now).status;
    let tables: Vec<String> = step(&world).result.unwrap().tables.into_iter().map(|table| table.name).collect();
    assert_eq!(tables, ["events", "state_groups_state"]);
}

/// A run whose work is done, with the Job of a step that comes afterwards; the step's place.
fn afterwards(name: &str) -> (World, usize) {
    let world = World::new(FULL).with_steps_afterwards();
    let is_seen = |run: &Run| run.steps.iter().any(|step| step.spec.name == name && step.job_uid.is_some());
    let world = come(world, is_seen);
    let index =
        world.subject.status.run.as_ref().unwrap().steps.iter().position(|step| step.spec.name == name).unwrap();
    (world, index)
}

/// What becomes of a run when the Job of the step under way ends with this error.
fn ends_with(world: &mut World, error: TaskError) -> Plan {
    let mut observed = world.observe();
    let job = observed.job.as_mut().unwrap();
    job.state = JobState::Failed("BackoffLimitExceeded".to_owned());
    job.report = Some(Report { error: Some(error), ..Report::default() });
    let failed = plan(&world.subject, &observed, world.now);
    world.subject.status = failed.status.clone();
    failed
}

#[test]
fn a_step_that_decides_fails_the_run_also_when_it_comes_afterwards() {
    let (mut world, index) = afterwards("deciding");
    let failed = ends_with(&mut world, TaskError::terminal("MediaUnreadable", "uid 991 may not read them"));
    fails(&failed, "MediaUnreadable", &["step deciding", "uid 991"]);
    world.reconcile(10, None);
    let status = &world.subject.status;
    assert_eq!(status.history[0].outcome, Outcome::Failed);
    let steps = &status.run.as_ref().unwrap().steps;
    assert_eq!((steps[index].state, steps[index + 1].attempt), (StepState::Failed, 0), "what comes after it");
    assert_eq!(conditions::find(&status.conditions, Type::RetentionFailed), None);
}

#[test]
fn a_step_that_decides_is_tried_again_also_when_it_comes_afterwards() {
    let (mut world, index) = afterwards("deciding");
    let again = ends_with(&mut world, TaskError::transient("RepositoryUnreachable", "no answer"));
    assert_eq!(failure(&again.status), None);
    let step = &again.status.run.as_ref().unwrap().steps[index];
    assert!(step.state == StepState::Pending && step.retry_at.is_some(), "{step:?}");
}

#[test]
fn who_deletes_the_object_stops_what_decides_also_when_it_comes_afterwards() {
    let (mut world, index) = afterwards("deciding");
    world.subject.deleting = true;
    let stopped = plan(&world.subject, &world.observe(), world.now);
    fails(&stopped, "Deleted", &[]);
    assert_eq!(stopped.action, Action::DeleteJob(index));
}

/// The last release knew one step that comes afterwards, and it decided nothing.
#[test]
fn a_run_that_the_last_release_began_ends_as_it_would_have() {
    let (mut world, _) = afterwards("optional");
    let mut run = serde_json::to_value(world.subject.status.run.as_ref().unwrap()).unwrap();
    let steps = run["steps"].as_array_mut().unwrap();
    steps.retain(|step| step["name"] != "deciding");
    let last = steps.len() - 1;
    for step in steps {
        step.as_object_mut().unwrap().remove("decides").expect("a field that is new");
    }
    world.subject.status.run = Some(serde_json::from_value(run).unwrap());
    let failed = ends_with(&mut world, TaskError::terminal("RepositoryFull", "the storage is full"));
    assert_eq!(failed.action, Action::DeleteJob(last));
    world.reconcile(10, None);
    let status = &world.subject.status;
    assert_eq!(status.history[0].outcome, Outcome::Succeeded);
    assert!(conditions::is_true(&status.conditions, Type::RetentionFailed));
}

#[test]
fn a_job_that_keeps_a_pod_from_its_volume_gives_way_and_is_done_again() {
    let (mut world, index) = afterwards("deciding");
    let wanted = Observed { claim_wanted_by: Some("synapse-main-0".to_owned()), ..world.observe() };
    let stopped = plan(&world.subject, &wanted, world.now);
    assert_eq!(stopped.action, Action::DeleteJob(index));
    world.subject.status = stopped.status;

    // The Pod may have its volume by now: the Job is stopped all the same, whichever operator does it.
    let mut observed = world.observe();
    observed.job.as_mut().unwrap().deleted_at = Some(world.now);
    assert!(matches!(plan(&world.subject, &observed, world.now).action, Action::Wait(_)));
    let lost = plan(&world.subject, &observed, world.now + SignedDuration::from_mins(3));
    assert_eq!(lost.status.run.as_ref().unwrap().steps[index].state, StepState::Pending, "it is on a lost node");
    observed.job = None;
    observed.task_pods = vec!["media-x".to_owned()];
    assert!(matches!(plan(&world.subject, &observed, world.now).action, Action::Wait(_)), "its Pod is still there");
    observed.task_pods.clear();
    let again = plan(&world.subject, &observed, world.now);
    assert_eq!(failure(&again.status), None);
    let step = &again.status.run.as_ref().unwrap().steps[index];
    assert_eq!((step.state, step.gives_way_to.as_deref()), (StepState::Pending, None));
    assert!(step.message.as_ref().unwrap().contains("Pod synapse-main-0"), "{step:?}");
}

#[test]
fn a_job_that_has_ended_is_in_nobody_s_way() {
    let (world, index) = afterwards("deciding");
    let mut observed = Observed { claim_wanted_by: Some("synapse-main-0".to_owned()), ..world.observe() };
    let job = observed.job.as_mut().unwrap();
    (job.state, job.report) = (JobState::Complete, Some(Report::default()));
    let done = plan(&world.subject, &observed, world.now);
    assert_eq!(done.status.run.unwrap().steps[index].state, StepState::Succeeded);
}

#[test]
fn a_job_goes_where_its_volume_is_at_that_moment() {
    let (mut world, index) = afterwards("deciding");
    let run = world.subject.status.run.as_mut().unwrap();
    let step = &mut run.steps[index];
    (step.state, step.job_uid) = (StepState::Pending, None);
    let on = |node: &str| ObservedClaim {
        name: "synapse-media".to_owned(),
        writable: false,
        modes: Some(vec!["ReadWriteOnce".to_owned()]),
        node: Some(node.to_owned()),
    };
    run.claims = claims::pin(&[on("node-1")]);
    let observed = Observed { claims: vec![on("node-2")], job: None, ..world.observe() };
    let begun = plan(&world.subject, &observed, world.now);
    assert_eq!(begun.action, Action::CreateJob(index));
    assert_eq!(begun.status.run.unwrap().claims, claims::pin(&[on("node-2")]));
}
