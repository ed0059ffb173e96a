//! What the kubelet saw, in the order in which it happened: the evidence for "never beside each other" and "never twice".

use std::{collections::BTreeSet, fmt};

use tokio::sync::watch;

use super::world::PATIENCE;

/// The task in a Job's Pod, as its arguments say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// UID of the object that the Job works for.
    pub owner: String,
    pub args: Vec<String>,
}

impl Task {
    /// `preflight`, `vacuum`, `inspect`.
    pub fn name(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }

    /// Value of a flag such as `--mode=Full`.
    pub fn flag(&self, flag: &str) -> Option<&str> {
        self.args.iter().find_map(|arg| arg.strip_prefix(flag)?.strip_prefix('='))
    }

    /// Whether it has a flag without a value.
    pub fn has(&self, flag: &str) -> bool {
        self.args.iter().any(|arg| arg == flag)
    }

    pub fn attempt(&self) -> i32 {
        self.flag("--attempt").and_then(|attempt| attempt.parse().ok()).unwrap_or_default()
    }

    /// It may run beside another operation.
    fn leaves_homeserver_alone(&self) -> bool {
        matches!(self.name(), "inspect" | "retain" | "backup-media" | "verify" | "delete-backups")
    }

    /// Nobody may write to the database meanwhile.
    pub fn is_offline(&self) -> bool {
        self.flag("--until").is_some() || self.flag("--method") == Some("in-place")
    }

    /// What must not happen twice: the work of a step in a run.
    pub fn work(&self) -> String {
        let run = self.flag("--run").unwrap_or_default();
        format!("{} {}{} run {run}", self.owner, self.name(), self.flag("--mode").unwrap_or_default())
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A Pod of the homeserver was seen for the first time.
    PodCame(String),
    /// A Pod of the homeserver is gone from the API server.
    PodWent(String),
    /// A task began. `beside`: the homeserver's Pods that the API server had at that moment.
    TaskBegan { pod: String, task: Task, beside: Vec<String> },
    /// A task ended by itself; `success`: it reported one.
    TaskEnded { pod: String, task: Task, success: bool },
    /// A task was told to stop before its end, and did.
    TaskStopped { pod: String, task: Task },
}

/// The entries of one namespace.
pub struct Ledger(watch::Sender<Vec<Entry>>);

impl Default for Ledger {
    fn default() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }
}

impl Ledger {
    pub fn write(&self, entry: Entry) {
        self.0.send_modify(|entries| entries.push(entry));
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.0.borrow().clone()
    }

    /// Waits until an entry is there for which `wanted` holds.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Entry) -> bool) {
        let mut entries = self.0.subscribe();
        let found = entries.wait_for(|entries| entries.iter().any(&wanted));
        let found = tokio::time::timeout(PATIENCE, found).await.map(drop);
        assert!(found.is_ok(), "waited in vain until {what}:\n{self}");
    }

    /// Works that succeeded, with repetitions.
    pub fn successes(&self) -> Vec<String> {
        self.works(|entry| match entry {
            Entry::TaskEnded { task, success: true, .. } => Some(task.work()),
            _ => None,
        })
    }

    /// Works that began, with repetitions.
    pub fn begun(&self) -> Vec<String> {
        self.works(|entry| match entry {
            Entry::TaskBegan { task, .. } => Some(task.work()),
            _ => None,
        })
    }

    /// Inspections may come and go, and who looks for a place does nothing; they are left out.
    fn works(&self, which: impl Fn(&Entry) -> Option<String>) -> Vec<String> {
        let is_work = |work: &String| !work.contains(" inspect") && !work.contains(" placement");
        self.entries().iter().filter_map(which).filter(is_work).collect()
    }

    /// What must never be: an offline task that began beside a Pod of the homeserver.
    pub fn offline_beside_pods(&self) -> Vec<Entry> {
        let mut alive = BTreeSet::new();
        let mut bad = Vec::new();
        for entry in self.entries() {
            match &entry {
                Entry::PodCame(pod) => drop(alive.insert(pod.clone())),
                Entry::PodWent(pod) => drop(alive.remove(pod)),
                Entry::TaskBegan { task, beside, .. }
                    if task.is_offline() && !(alive.is_empty() && beside.is_empty()) =>
                {
                    bad.push(entry.clone());
                }
                _ => {}
            }
        }
        bad
    }

    /// Tasks of operations on the homeserver that began while another ran: their Pods.
    pub fn tasks_beside_tasks(&self) -> Vec<String> {
        let (mut running, mut bad) = (BTreeSet::new(), Vec::new());
        for entry in self.entries() {
            match entry {
                Entry::TaskBegan { pod, task, .. } if !task.leaves_homeserver_alone() => {
                    if !running.is_empty() {
                        bad.push(pod.clone());
                    }
                    running.insert(pod);
                }
                Entry::TaskEnded { pod, .. } | Entry::TaskStopped { pod, .. } => drop(running.remove(&pod)),
                _ => {}
            }
        }
        bad
    }

    /// Pods of the homeserver that came while an offline task ran.
    pub fn pods_beside_offline(&self) -> Vec<String> {
        let mut running = BTreeSet::new();
        let mut bad = Vec::new();
        for entry in self.entries() {
            match entry {
                Entry::TaskBegan { pod, task, .. } if task.is_offline() => drop(running.insert(pod)),
                Entry::TaskEnded { pod, .. } | Entry::TaskStopped { pod, .. } => drop(running.remove(&pod)),
                Entry::PodCame(pod) if !running.is_empty() => bad.push(pod),
                _ => {}
            }
        }
        bad
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in self.entries() {
            match entry {
                Entry::PodCame(pod) => writeln!(f, "  Pod {pod} came")?,
                Entry::PodWent(pod) => writeln!(f, "  Pod {pod} went")?,
                Entry::TaskBegan { pod, task, beside } => {
                    writeln!(f, "  {pod}: {} attempt {} began beside {beside:?}", task.work(), task.attempt())?;
                }
                Entry::TaskEnded { pod, success, .. } => writeln!(f, "  {pod}: ended, success: {success}")?,
                Entry::TaskStopped { pod, .. } => writeln!(f, "  {pod}: stopped")?,
            }
        }
        Ok(())
    }
}
