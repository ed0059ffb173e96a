//! What the offline step does to the homeserver's databases, and what it leaves when it is cut off.

use super::{jobs::Fate, world::World};
use crate::contract::Leaves;

/// What the offline step is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::operation::plan) enum Work {
    /// It changes nothing that could be taken back.
    Vacuum,
    /// One database gives its name to another, in one transaction.
    Swap,
    /// Two do, on two servers: the service's first.
    TwoSwaps,
    /// It writes into the homeserver's own database.
    InPlace,
}

/// Which databases have been swapped.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::operation::plan) struct Pair {
    service: bool,
    synapse: bool,
}

impl Pair {
    pub(in crate::operation::plan) const OLD: Self = Self { service: false, synapse: false };
    pub(in crate::operation::plan) const RESTORED: Self = Self { service: true, synapse: true };

    pub(in crate::operation::plan) fn is_in_step(self) -> bool {
        self.service == self.synapse
    }

    /// What a task leaves that has done one transaction of those that it has, or another number.
    fn after(self, work: Work, restored: bool, done: i64) -> Self {
        match (work, done) {
            (Work::TwoSwaps, 1) => Self { service: restored, ..self },
            (_, 2) => Self { service: restored, synapse: restored },
            _ => self,
        }
    }
}

impl World {
    /// Synapse and its service may start with what is there.
    pub(super) fn may_be_served(&self) -> bool {
        !self.mark && self.pair.is_in_step()
    }

    /// The task has ended that does the offline step, or that takes it `back`. `fate`: none, it was cut off. Returns what it
    /// reports of what it has left: never more than it can know.
    pub(super) fn task_ends(&mut self, back: bool, fate: Option<Fate>, whim: i64) -> Option<Leaves> {
        match self.work {
            Work::Vacuum => None,
            Work::InPlace => self.filling_ends(back, fate, whim),
            Work::Swap | Work::TwoSwaps => self.swap_ends(back, fate, whim),
        }
    }

    fn filling_ends(&mut self, back: bool, fate: Option<Fate>, whim: i64) -> Option<Leaves> {
        match (back, fate) {
            (_, Some(Fate::Succeeds)) => self.mark = false,
            (true, _) => {}
            (false, Some(Fate::Transient | Fate::Terminal)) if whim % 2 == 0 => return Some(Leaves::AsItWas),
            (false, Some(Fate::Transient | Fate::Terminal)) => {
                self.mark = false;
                return Some(Leaves::Empty);
            }
            (false, _) => self.mark = true,
        }
        None
    }

    fn swap_ends(&mut self, back: bool, fate: Option<Fate>, whim: i64) -> Option<Leaves> {
        let done = match fate {
            Some(Fate::Succeeds) => 2,
            Some(Fate::LeavesHalf) => 1,
            _ => whim % 4,
        };
        self.pair = self.pair.after(self.work, !back, done);
        if !matches!(fate, Some(Fate::Transient | Fate::Terminal)) {
            return None;
        }
        if done == 0 {
            return Some(Leaves::AsItWas);
        }
        // A swap that fails between the two takes the service's back by itself.
        if !back && !self.pair.synapse {
            self.pair = Pair::OLD;
        }
        let nothing_to_take_back = self.pair.is_in_step() && (back || self.pair == Pair::OLD);
        nothing_to_take_back.then_some(Leaves::InStep)
    }
}
