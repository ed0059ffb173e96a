//! One operation: what it asks of the API server, how soon it begins, and how long the homeserver is down for it.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{ResourceExt, runtime::watcher};
use synapse_keeper::api::SynapseMaintenance;
use tokio::task::JoinHandle;

use crate::{
    audit::{self, Request},
    round::{ELECTION, Operator, until_inspected},
    stage::world::{FULL, World},
    table::Table,
};

const REQUESTS: &str = "Requests of one operation, to Complete";
const TIMES: &str = "Times of one operation";

/// Runs operations one after the other, notes their figures, and gives back the last one's object. `when` is part of what
/// the rows are called.
pub async fn measure(
    operator: &Operator,
    world: &World,
    count: usize,
    when: &str,
    table: &mut Table,
) -> SynapseMaintenance {
    let witness = Witness::new(world);
    let mut inspected = until_inspected(world, 0).await;
    let mut last = None;
    for _ in 0..count {
        let name = format!("m{}", Timestamp::now().as_millisecond());
        let applied = Timestamp::now();
        world.maintain(&name, FULL).await;
        last = Some(world.until_complete(&name).await);
        let complete = Timestamp::now();
        world.assert_all_is_back().await;
        inspected = until_inspected(world, inspected).await;

        let requests = operator.requests(applied, Timestamp::now()).await;
        let requests: Vec<Request> = requests.into_iter().filter(|one| !one.is_of_election(ELECTION)).collect();
        let of_operation: Vec<&Request> = requests.iter().filter(|request| request.received <= complete).collect();
        let writes = of_operation.iter().filter(|request| request.is_write()).count();
        table.note(REQUESTS, format!("all{when}"), "", of_operation.len() as f64);
        table.note(REQUESTS, format!("of them writes{when}"), "", writes as f64);
        table.note(REQUESTS, format!("all, with the inspection that follows{when}"), "", requests.len() as f64);
        for (kind, count) in audit::counts(of_operation.iter().copied()).into_iter().filter(|_| when.is_empty()) {
            table.note(REQUESTS, kind, "", count as f64);
        }
        Course::new(applied, &of_operation, &witness.sights(applied)).note(complete, when, table);
    }
    last.expect("there is at least one operation")
}

/// What was to be seen of the homeserver.
#[derive(Clone, Debug)]
enum Sight {
    Ready { workload: String },
    Gone { workload: String },
    JobEnded { name: String },
}

/// Watches of our own, so that it is known when the others did their share.
struct Witness {
    sights: Arc<Mutex<Vec<(Timestamp, Sight)>>>,
    watches: [JoinHandle<()>; 2],
}

impl Witness {
    fn new(world: &World) -> Self {
        let sights = Arc::<Mutex<Vec<(Timestamp, Sight)>>>::default();
        let (of_pods, of_jobs) = (sights.clone(), sights.clone());
        let note = |sights: &Mutex<Vec<_>>, sight| {
            sights.lock().unwrap_or_else(PoisonError::into_inner).push((Timestamp::now(), sight));
        };

        let labelled = watcher::Config::default().labels("homeserver");
        let mut pods = Box::pin(watcher(world.api::<Pod>(), labelled));
        let pods = tokio::spawn(async move {
            let mut ready = HashSet::new();
            while let Some(event) = pods.next().await {
                match event {
                    Ok(watcher::Event::Apply(pod)) if is_ready(&pod) && ready.insert(pod.uid()) => {
                        note(&of_pods, Sight::Ready { workload: pod.labels()["part"].clone() });
                    }
                    Ok(watcher::Event::Delete(pod)) => {
                        note(&of_pods, Sight::Gone { workload: pod.labels()["part"].clone() });
                    }
                    _ => {}
                }
            }
        });

        let mut jobs = Box::pin(watcher(world.api::<Job>(), watcher::Config::default()));
        let jobs = tokio::spawn(async move {
            let mut ended = HashSet::new();
            while let Some(event) = jobs.next().await {
                if let Ok(watcher::Event::Apply(job)) = event
                    && is_complete(&job)
                    && ended.insert(job.uid())
                {
                    note(&of_jobs, Sight::JobEnded { name: job.name_any() });
                }
            }
        });
        Self { sights, watches: [pods, jobs] }
    }

    fn sights(&self, since: Timestamp) -> Vec<(Timestamp, Sight)> {
        let sights = self.sights.lock().unwrap_or_else(PoisonError::into_inner);
        sights.iter().filter(|(at, _)| *at >= since).cloned().collect()
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_complete(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Complete" && condition.status == "True")
}

/// When what happened, in one operation.
struct Course {
    applied: Timestamp,
    /// The scale-down of each workload, and when its last Pod was gone.
    down: BTreeMap<String, (Timestamp, Timestamp)>,
    /// The scale-up of each workload, and when its last Pod was Ready.
    up: BTreeMap<String, (Timestamp, Timestamp)>,
    /// Creation and end of the two Jobs.
    preflight: (Timestamp, Timestamp),
    vacuum: (Timestamp, Timestamp),
}

impl Course {
    fn new(applied: Timestamp, requests: &[&Request], sights: &[(Timestamp, Sight)]) -> Self {
        let (mut down, mut up) = (BTreeMap::new(), BTreeMap::new());
        for write in requests.iter().filter(|one| one.is_write() && one.object_ref.subresource == "scale") {
            let (name, at) = (write.object_ref.name.clone(), write.received);
            // A second write of a workload that is down brings it back.
            let last = |of: fn(&Sight) -> Option<&String>| {
                let times = sights.iter().filter(|(seen, sight)| *seen >= at && of(sight) == Some(&name));
                times.map(|(seen, _)| *seen).max().unwrap_or(at)
            };
            if down.contains_key(&name) {
                up.insert(
                    name.clone(),
                    (at, last(|sight| if let Sight::Ready { workload } = sight { Some(workload) } else { None })),
                );
            } else {
                down.insert(
                    name.clone(),
                    (at, last(|sight| if let Sight::Gone { workload } = sight { Some(workload) } else { None })),
                );
            }
        }
        let created: Vec<Timestamp> =
            requests.iter().filter(|one| one.kind() == "create jobs").map(|one| one.received).collect();
        let ended = |step: &str| {
            let ended =
                sights.iter().find(|(_, sight)| matches!(sight, Sight::JobEnded { name } if name.contains(step)));
            ended.unwrap_or_else(|| panic!("no Job of step {step} in {sights:?}")).0
        };
        let [preflight, vacuum, ..] = created[..] else { panic!("{} Jobs were created", created.len()) };
        assert_eq!(down.len(), up.len(), "every workload goes down and comes back: {down:?} {up:?}");
        Self { applied, down, up, preflight: (preflight, ended("preflight")), vacuum: (vacuum, ended("vacuum")) }
    }

    fn note(&self, complete: Timestamp, when: &str, table: &mut Table) {
        let seconds = |(from, to): (Timestamp, Timestamp)| to.duration_since(from).as_secs_f64();
        let longest = |workloads: &BTreeMap<String, (Timestamp, Timestamp)>| {
            workloads.values().copied().map(seconds).fold(0.0, f64::max)
        };
        let went = self.down.values().map(|(at, _)| *at).min().expect("something goes down");
        let ready = self.up.values().map(|(_, ready)| *ready).max().expect("something comes back");
        let begun = seconds((self.applied, went));
        let preflight = seconds(self.preflight);
        let downtime = seconds((went, ready));
        let (stop, job, start) = (longest(&self.down), seconds(self.vacuum), longest(&self.up));

        let mut note = |what: &str, aim: &str, value| table.add(TIMES, format!("{what}{when}"), "s", aim, value);
        note("apply to the first scale-down", "", begun);
        note("… less the preflight's Job", "", begun - preflight);
        note("downtime: the first scale-down to the last Pod Ready", "", downtime);
        note("… the Pods' stop", "", stop);
        note("… the Job, created to Complete", "", job);
        note("… the Pods' start", "", start);
        note("… the rest: the operator's own", "≤ 2", downtime - stop - job - start);
        note("the last Pod Ready to Complete", "", seconds((ready, complete)));
    }
}
