//! The way back where the homeserver does not come up again: what is said, and what is taken back.

use jiff::SignedDuration;

use super::{
    plan,
    simulation::{Fate, Moment, Work, World},
};
use crate::{
    api::{
        conditions::{self, Type},
        operation::{HistoryEntry, Outcome, Run},
    },
    operation::{
        events::{self, Event},
        observed::{Live, ObservedPod},
    },
    recipes::lane,
};

const FULL: &str = "[{vacuum: {mode: Full}}]";

fn run(world: &World) -> &Run {
    world.subject.status.run.as_ref().unwrap()
}

/// Goes on to the end; gives the run's entry in the history and the events on the way.
fn to_its_end(world: &mut World) -> (HistoryEntry, Vec<Event>) {
    let mut told = Vec::new();
    for _ in 0..4000 {
        if world.subject.status.run.as_ref().is_some_and(|run| run.is_finished()) {
            return (world.subject.status.history[0].clone(), told);
        }
        let before = world.subject.status.clone();
        world.reconcile(1, Some(Moment::AfterAct));
        told.extend(events::between(&lane::OWN, &before, &world.subject.status));
        world.tick(1);
    }
    panic!("it does not end: {:#?}", world.subject.status.run);
}

fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn a_run_that_failed_and_leaves_the_homeserver_down_says_both() {
    for (hangs, is_down) in [(true, true), (false, false)] {
        let mut world = World::new(&format!("{FULL}, downtime: {{readyWithin: 15s}}"));
        while world.subject.status.run.as_ref().is_none_or(|run| run.window.is_none()) {
            world.next_fate = Fate::Succeeds;
            world.reconcile(1, Some(Moment::AfterAct));
            world.tick(1);
        }
        world.next_fate = Fate::Terminal;
        while run(&world).window.as_ref().is_none_or(|window| window.stopped_at.is_none()) {
            world.reconcile(1, Some(Moment::AfterAct));
            world.tick(1);
        }
        world.does_not_start = hangs;
        let (entry, told) = to_its_end(&mut world);
        let message = entry.message.unwrap();
        assert_eq!((entry.outcome, entry.reason.as_deref()), (Outcome::Failed, Some("Refused")), "{message}");
        assert_eq!(message.contains("and the homeserver is not Ready again: "), is_down, "{message}");
        assert_eq!(message.contains("StatefulSet/main has 0 of 1 Pods Ready"), is_down, "{message}");
        let ready = conditions::find(&world.subject.status.conditions, Type::Ready).unwrap();
        assert_eq!(ready.message, message);
        let of = |reason: &str| told.iter().filter(|event| event.reason == reason).count();
        assert_eq!(of("NotReadyAgain"), usize::from(is_down), "{told:?}");
        let end = &told.iter().find(|event| event.reason == "Failed").expect("its end is told").note;
        says(end, &[if is_down { "the homeserver is not Ready" } else { "every replica is back" }]);
        // It is down still: the figure is what it was at least.
        let downtime = entry.figures.downtime.unwrap();
        assert_eq!(downtime.starts_with("> "), is_down, "{downtime}");
        assert!(!is_down || entry.figures.downtime_seconds >= Some(15), "{:?}", entry.figures.downtime_seconds);
    }
}

#[test]
fn what_nobody_could_try_is_not_taken_back_and_what_does_not_start_is() {
    for (no_room, taken_back) in [(true, false), (false, true)] {
        let mut world = World::new(&format!("{FULL}, downtime: {{readyWithin: 20s}}"));
        world.work = Work::Swap;
        while world.subject.status.run.as_ref().is_none_or(|run| run.window.is_none()) {
            world.reconcile(1, Some(Moment::AfterAct));
            world.tick(1);
        }
        (world.no_room, world.does_not_start) = (no_room, true);
        let (entry, _) = to_its_end(&mut world);
        let message = entry.message.unwrap();
        assert_eq!(entry.reason.as_deref(), Some("NotReadyAgain"), "{message}");
        assert_eq!(run(&world).undo.is_some(), taken_back, "{message}");
        if taken_back {
            says(&message, &["it was rolled back", "describe pods"]);
        } else {
            let words =
                ["no Pod can be made: exceeded quota", "what step vacuum-1 did stays", "kubectl -n matrix describe"];
            says(&message, &words);
        }
    }
}

#[test]
fn a_stateful_set_that_waits_for_its_own_order_says_what_frees_it() {
    let mut world = World::new(&format!("{FULL}, downtime: {{stopWithin: 25s}}"));
    while world.subject.status.run.as_ref().is_none_or(|run| run.window.is_none()) {
        world.reconcile(1, Some(Moment::AfterAct));
        world.tick(1);
    }
    world.workloads.iter_mut().for_each(|one| one.hangs = true);
    while run(&world).window.as_ref().unwrap().workloads.iter().any(|one| !one.stopped) {
        world.reconcile(1, Some(Moment::AfterAct));
    }
    let pod = |number: i32, ready, terminating| ObservedPod {
        name: format!("main-{number}"),
        ready,
        terminating,
        ..ObservedPod::default()
    };
    let free = "kubectl -n matrix delete pod main-10 main-9 main-0";
    for (ordered, pods, is_held) in [
        (true, vec![pod(0, true, false), pod(9, false, false), pod(10, false, false)], true),
        (false, vec![pod(0, true, false), pod(9, false, false), pod(10, false, false)], false),
        (true, vec![pod(0, true, false), pod(9, true, false), pod(10, false, true)], false),
        (true, vec![pod(0, true, false), pod(9, true, false), pod(10, true, false)], false),
    ] {
        let mut observed = world.observe();
        for live in &mut observed.workloads {
            live.pods.clear();
        }
        let live: &mut Live = &mut observed.workloads[0];
        (live.ordered, live.pods) = (ordered, pods.clone());
        let began = run(&world).window.as_ref().unwrap().recorded_at.0;
        let at = |seconds| plan(&world.subject, &observed, began + SignedDuration::from_secs(seconds));
        let waits = at(20).status;
        let ready = conditions::find(&waits.conditions, Type::Ready).unwrap();
        assert_eq!(ready.message.contains(free), is_held, "{pods:?}: {}", ready.message);
        let gave_up = at(26).status.run.unwrap().failure.expect("it gives up");
        assert_eq!(gave_up.reason, "PodsDoNotStop");
        assert_eq!(gave_up.message.contains(free), is_held, "{}", gave_up.message);
        says(&gave_up.message, &["spec.downtime.stopWithin", "StatefulSet/main"]);
    }
}
