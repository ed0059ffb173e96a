//! A step that Synapse does not start with is taken back: once, and only while nobody can have used it.

use super::simulation::{Moment, Work, World};
use crate::api::operation::{Outcome, RecordedWorkload, Role, Run, StepState};

const FULL: &str = "[{vacuum: {mode: Full}}]";

/// A homeserver that does not start with what it finds.
fn ill() -> World {
    let mut world = World::new(FULL);
    world.work = Work::Swap;
    // Before the downtime it served.
    while world.subject.status.run.as_ref().is_none_or(|run| run.window.is_none()) {
        world.reconcile(1, Some(Moment::AfterAct));
        world.tick(1);
    }
    world.does_not_start = true;
    world
}

fn run(world: &World) -> &Run {
    world.subject.status.run.as_ref().unwrap()
}

fn undone(world: &World) -> Option<StepState> {
    run(world).steps.iter().find(|step| step.spec.name == "undo-vacuum-1").map(|step| step.state)
}

#[test]
fn what_synapse_does_not_start_with_is_taken_back_and_the_run_has_failed() {
    let mut world = ill();
    world.leave_in_peace();
    world.assert_all_is_back();
    assert_eq!(undone(&world), Some(StepState::Succeeded));
    assert!(!world.does_not_start, "it starts with what was there before");
    let last = &world.subject.status.history[0];
    assert_eq!((last.outcome, last.reason.as_deref()), (Outcome::Failed, Some("NotReadyAgain")));
    let message = last.message.as_deref().unwrap();
    for said in ["Deployment/worker has 0 of 3 Pods Ready", "; it was rolled back"] {
        assert!(message.contains(said), "{said:?} is not in {message:?}");
    }
    assert!(run(&world).window.as_ref().unwrap().ready_at.is_some(), "it waits until it serves again");
}

#[test]
fn killed_at_every_turn_it_is_taken_back_once() {
    for moment in [Moment::BeforeStatus, Moment::BeforeAct, Moment::AfterAct] {
        let mut world = ill();
        for _ in 0..600 {
            world.reconcile(3, Some(moment));
            world.reconcile(1, Some(Moment::AfterAct));
            world.tick(3);
        }
        world.leave_in_peace();
        world.assert_all_is_back();
        assert_eq!(undone(&world), Some(StepState::Succeeded), "{moment:?}");
        assert_eq!(world.successes["undo-vacuum-1"], 1, "{moment:?}");
    }
}

#[test]
fn what_a_pod_was_ready_with_is_not_taken_back() {
    let mut world = ill();
    let came_back = |world: &World| run(world).window.as_ref().unwrap().returned_at.is_some();
    while !came_back(&world) {
        world.reconcile(1, Some(Moment::AfterAct));
        world.tick(1);
    }
    // One worker serves for a moment.
    world.does_not_start = false;
    world.workloads.iter_mut().filter(|one| one.role() != Role::Worker).for_each(|one| one.hangs = true);
    world.tick(1);
    world.reconcile(60, None);
    world.does_not_start = true;
    world.leave_in_peace();
    assert_eq!(undone(&world), None);
    assert!(world.does_not_start);
    assert_eq!(world.subject.status.history[0].reason.as_deref(), Some("NotReadyAgain"));
}

#[test]
fn what_cannot_be_taken_back_comes_up_all_the_same() {
    let mut world = ill();
    while undone(&world).is_none() {
        world.reconcile(1, Some(Moment::AfterAct));
        world.tick(5);
    }
    world.all_jobs_fail();
    world.leave_in_peace();
    world.assert_all_is_back();
    assert_eq!(undone(&world), Some(StepState::Failed));
    let message = world.subject.status.history[0].message.clone().unwrap();
    assert!(message.contains("it could not be rolled back: step undo-vacuum-1: no"), "{message}");
    assert!(run(&world).undo.as_ref().unwrap().failure.is_some());
}

#[test]
fn who_deletes_the_object_meanwhile_does_not_keep_synapse_from_starting() {
    let mut world = ill();
    while undone(&world).is_none() {
        world.reconcile(1, Some(Moment::AfterAct));
        world.tick(5);
    }
    world.subject.deleting = true;
    world.leave_in_peace();
    world.assert_all_is_back();
    assert!(!world.does_not_start, "it was taken back");
}

#[test]
fn the_homeserver_goes_down_with_the_counts_that_were_recorded_first() {
    let mut world = ill();
    let recorded = run(&world).window.clone().unwrap().workloads;
    while undone(&world) != Some(StepState::Running) {
        world.reconcile(1, Some(Moment::AfterAct));
        world.tick(5);
    }
    let again = run(&world).window.clone().unwrap().workloads;
    let counts = |workloads: &[RecordedWorkload]| {
        workloads.iter().map(|one| (one.workload.clone(), one.replicas, one.ready)).collect::<Vec<_>>()
    };
    assert_eq!(counts(&again), counts(&recorded));
}
