//! A step that has left the homeserver's database unfinished: it is emptied, or the homeserver is kept down until another run
//! makes it whole.

use super::{
    Action, plan,
    simulation::{Fate, Moment, Work, World},
};
use crate::{
    api::{
        conditions::{self, Type},
        operation::{Outcome, StepState},
    },
    contract::ErrorClass,
};

const FULL: &str = "[{vacuum: {mode: Full}}]";
const UNDO: &str = "undo-vacuum-1";

fn state(world: &World, name: &str) -> Option<StepState> {
    let run = world.subject.status.run.as_ref()?;
    run.steps.iter().find(|step| step.spec.name == name).map(|step| step.state)
}

/// The step that holds is under way.
fn filling() -> World {
    let mut world = World::new(FULL);
    world.work = Work::InPlace;
    go_on_until(&mut world, |world| state(world, "placement") == Some(StepState::Succeeded));
    world.next_fate = Fate::LeavesHalf;
    go_on_until(&mut world, |world| {
        state(world, "vacuum-1") == Some(StepState::Running) && world.observe().job.is_some_and(|job| job.started)
    });
    world
}

fn go_on_until(world: &mut World, there: impl Fn(&World) -> bool) {
    for _ in 0..500 {
        if there(world) {
            return;
        }
        world.reconcile(1, Some(Moment::AfterAct));
        world.tick(1);
    }
    panic!("it does not come so far: {:#?}", world.subject.status.run);
}

/// The database could not be emptied either.
fn kept_down() -> World {
    let mut world = filling();
    go_on_until(&mut world, |world| state(world, UNDO).is_some());
    world.all_jobs_fail();
    world.leave_in_peace();
    assert!(world.mark && world.is_kept_down());
    world.assert_is_kept_down();
    world.jobs_do_well();
    world
}

fn reason(world: &World) -> (Outcome, Option<&str>) {
    let entry = &world.subject.status.history[0];
    (entry.outcome, entry.reason.as_deref())
}

#[test]
fn what_a_step_left_is_taken_out_and_the_replicas_come_back() {
    let mut world = filling();
    world.leave_in_peace();
    assert_eq!(state(&world, UNDO), Some(StepState::Succeeded));
    world.assert_all_is_back();
    assert_eq!(reason(&world), (Outcome::Failed, Some("Refused")), "the first failure is the one that counts");
}

#[test]
fn what_cannot_be_taken_out_keeps_the_replicas_at_0_and_says_how_to_go_on() {
    let world = kept_down();
    let status = &world.subject.status;
    let message = status.history[0].message.as_deref().unwrap();
    for said in ["StatefulSet/main had 1", "make a SynapseRestore under a new name", "kubectl describe lease"] {
        assert!(message.contains(said), "{said:?} is not in {message:?}");
    }
    let ready = conditions::find(&status.conditions, Type::Ready).unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "DatabaseUnfinished"));
    assert!(world.lease.as_ref().is_some_and(|lease| lease.kept_down), "{:?}", world.lease);
    assert!(!world.subject.has_finalizer, "who deletes the object need not wait");
}

#[test]
fn killed_at_every_turn_it_comes_to_the_same() {
    for moment in [Moment::BeforeStatus, Moment::BeforeAct, Moment::AfterAct] {
        for empties in [true, false] {
            let mut world = filling();
            for _ in 0..600 {
                if !empties && state(&world, UNDO).is_some() {
                    world.all_jobs_fail();
                }
                world.reconcile(3, Some(moment));
                world.reconcile(1, Some(Moment::AfterAct));
                world.tick(1);
            }
            world.leave_in_peace();
            match empties {
                true => world.assert_all_is_back(),
                false => world.assert_is_kept_down(),
            }
        }
    }
}

#[test]
fn another_restore_goes_on_and_brings_back_what_was_recorded_first() {
    for moment in [Moment::BeforeStatus, Moment::BeforeAct, Moment::AfterAct] {
        let mut world = kept_down();
        world.another("uid-2", true);
        for _ in 0..600 {
            world.reconcile(2, Some(moment));
            world.reconcile(1, Some(Moment::AfterAct));
            world.tick(1);
        }
        world.leave_in_peace();
        world.assert_all_is_back();
        assert_eq!(reason(&world), (Outcome::Succeeded, None));
    }
}

#[test]
fn one_that_fails_before_it_begins_leaves_it_as_it_was_for_the_next() {
    let mut world = kept_down();
    world.another("uid-2", true);
    world.all_jobs_fail();
    world.leave_in_peace();
    assert!(world.is_kept_down() && state(&world, "vacuum-1") == Some(StepState::Pending));
    assert_eq!(reason(&world), (Outcome::Failed, Some("DatabaseUnfinished")));
    world.jobs_do_well();
    world.another("uid-3", true);
    world.leave_in_peace();
    world.assert_all_is_back();
}

#[test]
fn it_is_unfinished_again_when_the_swap_is_taken_back_that_was_to_mend_it() {
    let mut world = kept_down();
    world.work = Work::Swap;
    world.another("uid-2", true);
    go_on_until(&mut world, |world| state(world, "placement") == Some(StepState::Succeeded));
    world.next_fate = Fate::LeavesHalf;
    world.leave_in_peace();
    assert_eq!(state(&world, UNDO), Some(StepState::Succeeded));
    assert_eq!(reason(&world), (Outcome::Failed, Some("DatabaseUnfinished")));
    assert!(world.is_kept_down() && world.workloads.iter().all(|one| one.is_down()));
}

#[test]
fn who_does_not_restore_waits_and_says_for_what() {
    let mut world = kept_down();
    world.another("uid-2", false);
    for _ in 0..20 {
        world.reconcile(60, None);
        world.tick(30);
    }
    let status = &world.subject.status;
    assert_eq!(conditions::find(&status.conditions, Type::Ready).unwrap().reason, "DatabaseUnfinished");
    assert!(status.run.as_ref().unwrap().steps.is_empty());
}

#[test]
fn a_deleted_object_does_not_leave_half_a_database() {
    let mut world = filling();
    world.subject.deleting = true;
    world.leave_in_peace();
    world.assert_all_is_back();
    assert_eq!(world.successes.get(UNDO), Some(&1));
}

#[test]
fn what_a_pod_never_became_ready_with_is_not_emptied() {
    let mut world = World::new(FULL);
    world.work = Work::InPlace;
    go_on_until(&mut world, |world| state(world, "vacuum-1") == Some(StepState::Running));
    world.does_not_start = true;
    world.leave_in_peace();
    assert_eq!(state(&world, UNDO), None);
    assert_eq!(reason(&world), (Outcome::Failed, Some("NotReadyAgain")));
    world.assert_all_is_back();
}

#[test]
fn a_step_that_holds_takes_the_time_that_it_takes() {
    let mut world = filling();
    go_on_until(&mut world, |world| world.observe().job.is_some());
    let mut observed = world.observe();
    observed.job.as_mut().unwrap().started = true;
    let later = plan(&world.subject, &observed, world.now + jiff::SignedDuration::from_hours(100));
    assert!(matches!(later.action, Action::Wait(_)), "{:?}", later.action);
    assert_eq!(later.status.run.unwrap().failure.map(|failure| failure.class), None::<ErrorClass>);
}
