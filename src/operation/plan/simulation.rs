//! The plan against a simulated world: no API server, thousands of lives in a second.
//!
//! A random script of blows (somebody scales up, a Job dies, the Lease vanishes, the object is deleted, the operator is
//! killed between any two of its writes) falls on an operation; then the world is left in peace. Whatever came before, the
//! run must come to its end and the invariants below must have held at every moment.

mod databases;
mod jobs;
mod seen;
mod world;

use std::collections::BTreeMap;

use proptest::prelude::*;

use self::world::{DECIDING, OPTIONAL, SimLease, SimWorkload};
pub(super) use self::{
    databases::{Pair, Work},
    jobs::Fate,
    world::{Moment, World},
};
use crate::api::operation::{Outcome, Run, StepState};

/// What befalls the operation.
#[derive(Clone, Debug)]
enum Blow {
    /// Time passes: Pods come and go, Jobs go on.
    Tick(i64),
    /// The operator reconciles until it waits.
    Reconcile,
    /// The operator makes this many turns of a reconcile and is killed in the last: before the status is written, before
    /// the act, or after it.
    Killed(usize, Moment),
    /// Somebody sets a workload's replicas.
    Scale(usize, i32),
    /// The next Job that ends, ends like this.
    Fate(Fate),
    JobDeleted,
    LeaseDeleted,
    /// Another operation takes the Lease if it is free, and gives it back later.
    LeaseTaken,
    LeaseGivenBack,
    ObjectDeleted,
    SynapseDeleted,
    WorkloadDeleted(usize),
    Uninstalling(bool),
    /// A Pod that ignores SIGTERM, or one that does not become Ready.
    PodsHang(usize),
    /// A Pod waits on another node for a volume that the Job of a step that comes afterwards has, or waits no more.
    VolumeWanted(bool),
    /// Synapse does not start with what it finds, until that is taken back; or it does.
    DoesNotStart(bool),
    /// A quota that others have used up, or one that has room again.
    NoRoom(bool),
}

impl World {
    fn strike(&mut self, blow: &Blow) {
        match blow {
            Blow::Tick(seconds) => self.tick(*seconds),
            Blow::Reconcile => drop(self.reconcile(60, None)),
            Blow::Killed(turns, moment) => drop(self.reconcile(*turns, Some(*moment))),
            Blow::Scale(index, replicas) => {
                let one = &mut self.workloads[*index];
                one.meddled = true;
                one.replicas = one.replicas.map(|_| *replicas);
            }
            Blow::Fate(fate) => self.next_fate = *fate,
            Blow::JobDeleted => self.lose_jobs(),
            Blow::LeaseDeleted => self.lease = None,
            Blow::LeaseTaken => {
                let other = SimLease { holder: "SynapseMaintenance/other/x".to_owned(), ..SimLease::default() };
                self.lease.get_or_insert(other);
            }
            Blow::LeaseGivenBack => {
                let stays = |lease: &SimLease| lease.kept_down || lease.holder == self.subject.identity();
                self.lease = self.lease.take().filter(stays);
            }
            Blow::ObjectDeleted => {
                self.subject.deleting = true;
                self.exists &= self.subject.has_finalizer;
            }
            Blow::SynapseDeleted => self.synapse = None,
            Blow::WorkloadDeleted(index) => {
                let one = &mut self.workloads[*index];
                (one.replicas, one.pods, one.meddled) = (None, 0, true);
            }
            Blow::Uninstalling(uninstalling) => self.uninstalling = *uninstalling,
            Blow::VolumeWanted(wanted) => self.volume_wanted = *wanted,
            Blow::PodsHang(index) => self.workloads[*index].hangs = true,
            Blow::DoesNotStart(does_not) => self.does_not_start = *does_not,
            Blow::NoRoom(no_room) => self.no_room = *no_room,
        }
    }

    /// The world calms down; the operation must come to its end.
    pub(super) fn leave_in_peace(&mut self) {
        (self.uninstalling, self.volume_wanted) = (false, false);
        self.strike(&Blow::LeaseGivenBack);
        if self.subject.status.active_run().is_none_or(|run| run.synapse.is_none()) && self.synapse.is_none() {
            self.strike(&Blow::ObjectDeleted);
        }
        for _ in 0..3000 {
            self.reconcile(60, None);
            self.tick(5);
            let ended = self.subject.status.run.as_ref().is_some_and(|run| run.is_finished());
            let is_left = self.lease.as_ref().is_none_or(|lease| lease.kept_down);
            if self.exists && ended && !self.subject.has_finalizer || !self.exists && is_left {
                return;
            }
        }
        panic!("the run does not end: {:#?}", self.subject.status.run);
    }

    /// What keeps the workloads at 0.
    pub(super) fn is_kept_down(&self) -> bool {
        let by_run = self.subject.status.run.as_ref().is_some_and(|run| run.must_stay_down());
        by_run || self.lease.as_ref().is_some_and(|lease| lease.kept_down)
    }

    pub(super) fn assert_all_is_back(&self) {
        assert!(self.may_be_served(), "{:?}", self.pair);
        for one in self.workloads.iter().filter(|one| !one.meddled) {
            assert_eq!(one.replicas, Some(one.original), "{:?}", one.workload);
        }
        assert!(self.lease.as_ref().is_none_or(|lease| lease.holder != self.subject.identity()), "{:?}", self.lease);
        self.assert_is_over();
    }

    /// The mark stands, or may, and nobody can tell: all of it was tried.
    pub(super) fn assert_is_kept_down(&self) {
        let original = |one: &&SimWorkload| !one.meddled && one.original > 0;
        for one in self.workloads.iter().filter(original) {
            assert_eq!(one.replicas, Some(0), "{:?}", one.workload);
        }
        if self.exists {
            let run = self.subject.status.run.as_ref().unwrap();
            assert!(run.undo.as_ref().is_some_and(|undo| undo.failure.is_some()), "{run:#?}");
            let entry = &self.subject.status.history[0];
            assert_eq!(entry.reason.as_deref(), Some("DatabaseUnfinished"), "{entry:?}");
        }
        self.assert_is_over();
    }

    fn assert_is_over(&self) {
        assert!(!self.offline_job_runs());
        if !self.exists {
            return;
        }
        assert_eq!(self.outlived_jobs(), 0, "a container goes on in a Pod of ours");
        let history = &self.subject.status.history;
        assert_eq!(history.len(), 1, "{history:?}");
        let run = self.subject.status.run.as_ref().unwrap();
        let mut steps = run.steps.iter();
        match history[0].outcome {
            Outcome::Succeeded => assert!(steps.all(|step| {
                step.state == StepState::Succeeded || !step.spec.stage.decides() && step.state == StepState::Failed
            })),
            _ => assert!(steps.all(|step| step.spec.stage.decides() || step.attempt == 0), "{:?}", run.steps),
        }
        self.assert_what_is_served_is_what_is_said(run);
    }

    /// A run that has succeeded has swapped, and one that has failed has not, or says that it does not know or could not help it.
    fn assert_what_is_served_is_what_is_said(&self, run: &Run) {
        let swap = run.steps.iter().find(|step| !step.spec.undo.is_empty());
        let Some(swap) = swap.filter(|_| matches!(self.work, Work::Swap | Work::TwoSwaps)) else { return };
        let tried_in_vain = run.undo.as_ref().is_some_and(|undo| undo.failure.is_some());
        if run.in_doubt || tried_in_vain {
            assert!(tried_in_vain, "{run:#?}");
            return;
        }
        let is_swapped = swap.state == StepState::Succeeded && run.undo.is_none();
        assert_eq!(self.pair, if is_swapped { Pair::RESTORED } else { Pair::OLD }, "{run:#?}");
    }
}

fn blow() -> impl Strategy<Value = Blow> {
    let moment = prop_oneof![Just(Moment::BeforeStatus), Just(Moment::BeforeAct), Just(Moment::AfterAct)];
    let fate = prop_oneof![
        Just(Fate::Transient),
        Just(Fate::Terminal),
        Just(Fate::LeavesHalf),
        Just(Fate::DiesWithoutAWord),
        Just(Fate::NeverStarts),
        Just(Fate::Outlived)
    ];
    prop_oneof![
        30 => (1..5_i64).prop_map(Blow::Tick),
        1 => (60..4000_i64).prop_map(Blow::Tick),
        20 => Just(Blow::Reconcile),
        30 => (1..12_usize, moment).prop_map(|(turns, moment)| Blow::Killed(turns, moment)),
        3 => (0..4_usize, 0..3_i32).prop_map(|(index, replicas)| Blow::Scale(index, replicas)),
        4 => fate.prop_map(Blow::Fate),
        1 => Just(Blow::JobDeleted),
        1 => Just(Blow::LeaseDeleted),
        1 => Just(Blow::LeaseTaken),
        1 => Just(Blow::LeaseGivenBack),
        1 => Just(Blow::ObjectDeleted),
        1 => Just(Blow::SynapseDeleted),
        1 => (0..4_usize).prop_map(Blow::WorkloadDeleted),
        1 => any::<bool>().prop_map(Blow::Uninstalling),
        1 => (0..4_usize).prop_map(Blow::PodsHang),
        2 => any::<bool>().prop_map(Blow::VolumeWanted),
        2 => any::<bool>().prop_map(Blow::DoesNotStart),
        2 => any::<bool>().prop_map(Blow::NoRoom),
    ]
}

const STEPS: &str = "[{vacuum: {mode: Full}}, {vacuum: {mode: Analyze}}]";

#[test]
fn killed_at_every_turn_and_moment_it_ends_the_same() {
    for moment in [Moment::BeforeStatus, Moment::BeforeAct, Moment::AfterAct] {
        // Killed at each turn of each of its lives.
        for lives in 1..6 {
            let mut world = World::new(STEPS).with_steps_afterwards();
            for _ in 0..400 {
                world.reconcile(lives, Some(moment));
                world.reconcile(1, Some(Moment::AfterAct));
                world.tick(1);
            }
            world.leave_in_peace();
            world.assert_all_is_back();
            assert_eq!(world.subject.status.history[0].outcome, Outcome::Succeeded, "{moment:?}");
            let steps = ["preflight", "vacuum-2", "placement", "vacuum-1", DECIDING, OPTIONAL];
            let once = BTreeMap::from(steps.map(|step| (step.to_owned(), 1)));
            assert_eq!(world.successes, once, "no Job twice to effect");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, max_shrink_iters: 20_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_happens_the_replicas_come_back(afterwards: bool, swaps: bool, blows in prop::collection::vec(blow(), 1..120)) {
        let mut world = World::new(STEPS);
        world.afterwards = afterwards;
        world.work = if swaps { Work::Swap } else { Work::Vacuum };
        for blow in &blows {
            world.strike(blow);
        }
        world.leave_in_peace();
        world.assert_all_is_back();
    }

    #[test]
    fn whatever_happens_nobody_is_served_from_half_of_what_it_needs(
        work in prop_oneof![Just(Work::InPlace), Just(Work::TwoSwaps)],
        blows in prop::collection::vec(blow(), 1..120),
    ) {
        let mut world = World::new(STEPS);
        world.work = work;
        for blow in &blows {
            world.strike(blow);
        }
        world.leave_in_peace();
        if world.is_kept_down() {
            world.assert_is_kept_down();
        } else {
            world.assert_all_is_back();
        }
    }
}
