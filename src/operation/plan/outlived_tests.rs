//! Containers of others in our Pods, and Jobs that take longer than they may.

use super::{
    Action, plan,
    simulation::{Fate, World},
};
use crate::{
    api::operation::{Outcome, Run},
    contract::{Report, TaskError},
    operation::{
        events,
        observed::{JobState, ObservedJob},
    },
    recipes::lane,
};

const STEPS: &str = "[{vacuum: {mode: Full}}, {vacuum: {mode: Full}}]";

fn run(world: &World) -> &Run {
    world.subject.status.run.as_ref().unwrap()
}

#[test]
fn what_lives_on_in_each_pod_ends_no_run_and_is_told_once() {
    let mut world = World::new(STEPS);
    let mut told = Vec::new();
    let began = world.now;
    while !world.subject.status.run.as_ref().is_some_and(|run| run.is_finished()) {
        world.next_fate = Fate::Outlived;
        let before = world.subject.status.clone();
        world.reconcile(1, Some(super::simulation::Moment::AfterAct));
        let events = events::between(&lane::OWN, &before, &world.subject.status);
        told.extend(events.into_iter().filter(|event| event.reason == "ContainerLivesOn"));
        world.tick(1);
        assert!(world.now.duration_since(began).as_secs() < 300, "{:#?}", run(&world));
    }
    assert_eq!(world.subject.status.history[0].outcome, Outcome::Succeeded);
    assert_eq!(world.outlived_jobs(), 0, "every Job is deleted");
    let [event] = told.as_slice() else { panic!("{told:?}") };
    for word in ["container task of Pod task has ended", "mesh-proxy goes on", "spec.jobs.labels"] {
        assert!(event.note.contains(word), "{word:?} is not in {:?}", event.note);
    }
}

/// A world in whose step with this name the Job was just seen.
fn in_step(mut world: World, name: &str) -> (World, usize) {
    for _ in 0..500 {
        let steps = world.subject.status.run.as_ref().map(|run| run.steps.as_slice()).unwrap_or_default();
        if let Some(index) = steps.iter().position(|step| step.spec.name == name && step.job_uid.is_some()) {
            return (world, index);
        }
        world.reconcile(1, Some(super::simulation::Moment::AfterAct));
        world.tick(1);
    }
    panic!("it does not come so far: {:#?}", world.subject.status.run);
}

#[test]
fn a_job_that_takes_longer_than_it_may_ends_the_run_and_says_what_to_look_at() {
    for (step, deadline, advice) in [
        ("preflight", "45m", "look at PostgreSQL"),
        ("vacuum-2", "2d", "raise spec.jobs.deadline"),
        ("deciding", "14d", "raise spec.jobs.deadline"),
    ] {
        let world = World::new("[{vacuum: {mode: Full}}, {vacuum: {mode: Analyze}}]").with_steps_afterwards();
        let (world, index) = in_step(world, step);
        assert_eq!(run(&world).steps[index].spec.deadline.as_ref().map(ToString::to_string).as_deref(), Some(deadline));
        // A task that was told to stop says so; that is not why.
        for error in [None, Some(TaskError::transient("Stopped", "The task was told to stop"))] {
            let words = "DeadlineExceeded: Job was active longer than specified deadline".to_owned();
            let report = error.map(|error| Report { error: Some(error), ..Report::default() });
            let mut observed = world.observe();
            observed.job = Some(ObservedJob {
                uid: run(&world).steps[index].job_uid.clone().unwrap(),
                pod: Some("the end of the log of container task: reads media".to_owned()),
                ..ObservedJob::of(JobState::Failed(words), report)
            });
            let failed = plan(&world.subject, &observed, world.now);
            let failure = failed.status.run.as_ref().unwrap().failure.clone().expect("it fails");
            assert_eq!(failure.reason, "DeadlineExceeded", "{failure:?}");
            for word in [step, &format!("within {deadline}"), advice, "reads media"] {
                assert!(failure.message.contains(word), "{word:?} is not in {:?}", failure.message);
            }
        }
    }
}

#[test]
fn what_has_a_budget_of_the_downtime_has_no_other_deadline() {
    let (world, index) = in_step(World::new(STEPS), "vacuum-1");
    assert_eq!(run(&world).steps[index].spec.deadline, None);
}

#[test]
fn a_job_is_deleted_before_anything_else_and_once() {
    let mut world = World::new(STEPS);
    world.next_fate = Fate::Outlived;
    let is_seen = |world: &World| world.subject.status.run.as_ref().is_some_and(|run| run.outlived_step().is_some());
    for _ in 0..100 {
        world.reconcile(1, Some(super::simulation::Moment::BeforeAct));
        if is_seen(&world) {
            break;
        }
        world.reconcile(1, Some(super::simulation::Moment::AfterAct));
        world.tick(1);
    }
    let index = run(&world).outlived_step().unwrap();
    let first = plan(&world.subject, &world.observe(), world.now);
    assert_eq!(first.action, Action::DeleteJob(index));
    assert_eq!(first.status.run.as_ref().unwrap().outlived_step(), Some(index), "not before it is deleted");
    let mut observed = world.observe();
    observed.outlived_job.as_mut().unwrap().deleted_at = Some(world.now);
    let then = plan(&world.subject, &observed, world.now);
    assert_eq!(then.status.run.as_ref().unwrap().outlived_step(), None);
}
