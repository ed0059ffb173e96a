//! A swap of which nobody knows what it has done: it is taken back before any replica comes back.

use super::{
    plan,
    simulation::{Fate, Moment, Pair, Work, World},
};
use crate::{
    api::operation::{Outcome, Run, StepState},
    contract::{Leaves, Report, TaskError},
    operation::observed::JobState,
};

const FULL: &str = "[{vacuum: {mode: Full}}]";
const SWAP: &str = "vacuum-1";
const UNDO: &str = "undo-vacuum-1";

fn run(world: &World) -> &Run {
    world.subject.status.run.as_ref().unwrap()
}

fn state(world: &World, name: &str) -> Option<StepState> {
    let run = world.subject.status.run.as_ref()?;
    run.steps.iter().find(|step| step.spec.name == name).map(|step| step.state)
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

/// The swap is about to begin, and its first Job has this fate.
fn swapping(work: Work, fate: Fate) -> World {
    let mut world = World::new(FULL);
    world.work = work;
    go_on_until(&mut world, |world| state(world, "placement") == Some(StepState::Succeeded));
    world.next_fate = fate;
    world
}

/// Nobody knows what the swap has done, and each Job that is to find out dies as well.
fn in_doubt_for_good(work: Work) -> World {
    let mut world = swapping(work, Fate::LeavesHalf);
    go_on_until(&mut world, |world| state(world, UNDO).is_some());
    for _ in 0..500 {
        if state(&world, UNDO) == Some(StepState::Failed) {
            return world;
        }
        world.next_fate = Fate::DiesWithoutAWord;
        world.reconcile(1, Some(Moment::AfterAct));
        world.tick(1);
    }
    panic!("it does not fail: {:#?}", run(&world));
}

fn ended(world: &World) -> (Outcome, &str, &str) {
    let entry = &world.subject.status.history[0];
    (entry.outcome, entry.reason.as_deref().unwrap_or_default(), entry.message.as_deref().unwrap_or_default())
}

#[test]
fn half_of_two_swaps_is_taken_back_before_anybody_starts() {
    for moment in [Moment::BeforeStatus, Moment::BeforeAct, Moment::AfterAct] {
        let mut world = swapping(Work::TwoSwaps, Fate::LeavesHalf);
        go_on_until(&mut world, |world| !world.pair.is_in_step());
        for _ in 0..600 {
            world.reconcile(3, Some(moment));
            world.reconcile(1, Some(Moment::AfterAct));
            world.tick(1);
        }
        world.leave_in_peace();
        world.assert_all_is_back();
        assert_eq!((world.pair, world.successes.get(UNDO)), (Pair::OLD, Some(&1)), "{moment:?}");
        let (outcome, reason, message) = ended(&world);
        assert_eq!((outcome, reason), (Outcome::Failed, "Refused"), "the first failure is the one that counts");
        assert!(message.contains("it was rolled back"), "{message}");
    }
}

#[test]
fn a_swap_that_nobody_has_heard_of_again_is_taken_back() {
    for work in [Work::Swap, Work::TwoSwaps] {
        let mut world = swapping(work, Fate::Succeeds);
        go_on_until(&mut world, |world| state(world, SWAP) == Some(StepState::Running));
        // All is swapped, and the object is deleted before anybody has read the report.
        world.tick(1);
        world.reconcile(2, Some(Moment::AfterAct));
        world.tick(3);
        assert_eq!(world.pair, Pair::RESTORED);
        world.subject.deleting = true;
        world.leave_in_peace();
        world.assert_all_is_back();
        assert_eq!(world.pair, Pair::OLD, "{work:?}");
    }
}

#[test]
fn two_that_may_be_out_of_step_keep_the_replicas_at_0_until_the_next_restore() {
    let mut world = in_doubt_for_good(Work::TwoSwaps);
    world.leave_in_peace();
    assert!(world.is_kept_down());
    world.assert_is_kept_down();
    let (outcome, reason, message) = ended(&world);
    assert_eq!((outcome, reason), (Outcome::Failed, "DatabaseUnfinished"));
    for said in ["may be out of step", "StatefulSet/main had 1", "make a SynapseRestore under a new name"] {
        assert!(message.contains(said), "{said:?} is not in {message:?}");
    }
    world.another("uid-2", true);
    world.leave_in_peace();
    world.assert_all_is_back();
    assert_eq!((world.pair, ended(&world).0), (Pair::RESTORED, Outcome::Succeeded));
}

#[test]
fn one_swap_alone_leaves_a_whole_database_and_keeps_nobody_down() {
    let mut world = in_doubt_for_good(Work::Swap);
    world.leave_in_peace();
    world.assert_all_is_back();
    let (outcome, reason, message) = ended(&world);
    assert_eq!((outcome, reason), (Outcome::Failed, "Refused"));
    assert!(message.contains("was done is unknown") && message.contains("either is whole"), "{message}");
}

#[test]
fn what_never_ran_has_nothing_to_take_back() {
    let mut world = swapping(Work::TwoSwaps, Fate::NeverStarts);
    world.leave_in_peace();
    world.assert_all_is_back();
    assert_eq!((ended(&world).1, state(&world, UNDO)), ("PodDoesNotStart", None));
}

#[test]
fn what_may_have_run_unseen_is_not_taken_for_what_never_ran() {
    let mut world = swapping(Work::TwoSwaps, Fate::LeavesHalf);
    go_on_until(&mut world, |world| !world.pair.is_in_step() || world.observe().job.is_some());
    // Its Job comes and goes, and nobody has seen it. The next one never starts.
    let run = world.subject.status.run.as_mut().unwrap();
    run.steps.iter_mut().for_each(|step| step.job_uid = None);
    world.lose_jobs();
    world.next_fate = Fate::NeverStarts;
    world.leave_in_peace();
    world.assert_all_is_back();
    assert_eq!((ended(&world).1, state(&world, UNDO)), ("PodDoesNotStart", Some(StepState::Succeeded)));
}

/// The swap's Job has ended with an error and says this of what it left.
fn failed_and_left(leaves: Option<Leaves>, was_in_doubt: bool) -> bool {
    let mut world = swapping(Work::TwoSwaps, Fate::Terminal);
    go_on_until(&mut world, |world| {
        state(world, SWAP) == Some(StepState::Running) && world.observe().job.is_some_and(|job| job.started)
    });
    let mut observed = world.observe();
    let job = observed.job.as_mut().unwrap();
    job.state = JobState::Failed("BackoffLimitExceeded: it failed".to_owned());
    let error = TaskError::terminal("PasswordRefused", "no");
    job.report = Some(Report { error: Some(error), leaves, ..Report::default() });
    let run = world.subject.status.run.as_mut().unwrap();
    run.steps.iter_mut().for_each(|step| step.was_in_doubt = was_in_doubt);
    plan(&world.subject, &observed, world.now).status.run.unwrap().in_doubt
}

#[test]
fn a_report_says_whether_there_is_anything_to_take_back() {
    for (leaves, was_in_doubt, in_doubt) in [
        (Some(Leaves::AsItWas), false, false),
        (Some(Leaves::AsItWas), true, true),
        (Some(Leaves::InStep), true, false),
        (None, false, true),
    ] {
        assert_eq!(failed_and_left(leaves, was_in_doubt), in_doubt, "{leaves:?} after {was_in_doubt}");
    }
}

#[test]
fn who_starts_synapse_in_the_middle_is_stopped_for_it_once() {
    let mut world = swapping(Work::TwoSwaps, Fate::DiesWithoutAWord);
    go_on_until(&mut world, |world| world.observe().job.is_some_and(|job| job.started));
    let main = world.workloads.iter_mut().find(|one| one.role() == crate::api::operation::Role::Main).unwrap();
    main.start();
    world.leave_in_peace();
    world.assert_all_is_back();
    assert_eq!((ended(&world).1, state(&world, UNDO)), ("Contested", Some(StepState::Succeeded)));
}

#[test]
fn a_swap_has_no_longer_than_the_downtime() {
    let mut world = swapping(Work::TwoSwaps, Fate::Succeeds);
    go_on_until(&mut world, |world| world.observe().job.is_some_and(|job| job.started));
    let later = plan(&world.subject, &world.observe(), world.now + jiff::SignedDuration::from_hours(2));
    assert_eq!(later.status.run.unwrap().failure.unwrap().reason, "DowntimeExceeded");
}
