//! The operator is killed at every request that it makes, and another one takes over.
//!
//! A kill point is the n-th request of an operator's life, which is never sent, or the n-th write, which is sent and answered
//! but whose answer is never seen. Every request counts: those of watches, of inspections, of events. For each point a
//! whole operation is run; whatever the point, it must end the same. The series is over when an operation comes to its end
//! before the cut does.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures::future::BoxFuture;
use kube::ResourceExt;
use synapse_keeper::{
    api::{SynapseMaintenance, conditions::Type, operation::Outcome},
    contract::ErrorClass,
};
use tokio::task::JoinSet;

use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    operator::{Cut, Operator},
    script::{Fate, Script, failure},
    tests,
    world::{ANALYZE_AND_FULL, World, is, outcomes, run},
};

tests![
    killed_at_every_request_of_an_operation,
    killed_at_every_request_after_a_step_failed,
    killed_at_every_request_after_the_object_was_deleted,
];

/// Operations that run beside each other, each in a namespace of its own.
const AT_ONCE: usize = 10;

/// One operation with one cut. True: the cut was reached.
pub type Point = for<'a> fn(&'a World, &'a str, usize, Cut) -> BoxFuture<'a, bool>;

/// Tries point after point until one is not reached any more; gives their number.
pub async fn series(stage: &Arc<Stage>, test: &'static str, script: fn() -> Script, point: Point) {
    let next = Arc::new([AtomicUsize::new(1), AtomicUsize::new(1)]);
    let end = Arc::new([AtomicUsize::new(usize::MAX), AtomicUsize::new(usize::MAX)]);
    let mut slots = JoinSet::new();
    for slot in 0..AT_ONCE {
        let (stage, next, end) = (stage.clone(), next.clone(), end.clone());
        slots.spawn(async move {
            let world = World::with_homeserver(&stage, test).await;
            world.play(script());
            // Some begin with the writes, which are fewer, and then help the others.
            let kinds =
                if slot % 4 == 0 { [(1, Cut::After), (0, Cut::Before)] } else { [(0, Cut::Before), (1, Cut::After)] };
            for (kind, cut) in kinds {
                loop {
                    let n = next[kind].fetch_add(1, Ordering::SeqCst);
                    if n > end[kind].load(Ordering::SeqCst) {
                        break;
                    }
                    let name = format!("m{kind}-{n}");
                    if n % 20 == 0 {
                        println!("{test}: {cut:?} request {n}");
                    }
                    if !point(&world, &name, n, cut).await {
                        end[kind].fetch_min(n, Ordering::SeqCst);
                    }
                    world.assert_all_is_back().await;
                    // The next one finds the homeserver as this one left it: as it was.
                    let _ = world.api::<SynapseMaintenance>().delete(&name, &Default::default()).await;
                    world.until_gone::<SynapseMaintenance>(&name).await;
                }
            }
        });
    }
    while let Some(slot) = slots.join_next().await {
        if let Err(error) = slot {
            slots.abort_all();
            std::panic::resume_unwind(error.into_panic());
        }
    }
    let reached = end.each_ref().map(|end| end.load(Ordering::SeqCst) - 1);
    println!(
        "{test}: {} kill points ({} before a request, {} after a write)",
        reached[0] + reached[1],
        reached[0],
        reached[1]
    );
}

async fn killed_at_every_request_of_an_operation(stage: Arc<Stage>, test: &'static str) {
    series(&stage, test, Script::default, |world, name, n, cut| {
        Box::pin(async move {
            let before = world.generations().await;
            world.maintain(name, ANALYZE_AND_FULL).await;
            let reached = two_lives(world, n, cut, world.until_complete(name)).await;

            let done = world.until_complete(name).await;
            let point = format!("{cut:?} request {n} in {}:\n{}", world.namespace, world.place.ledger);
            assert_eq!(outcomes(&done), [Outcome::Succeeded], "{point}");
            assert!(is(&done, Type::Ready) && !is(&done, Type::Reconciling) && !is(&done, Type::Quiesced), "{point}");
            assert_eq!(
                works(world, &done),
                (["preflight", "vacuumAnalyze", "vacuumFull"].map(str::to_owned).to_vec(), 3),
                "{point}"
            );
            world.assert_all_is_back().await;
            let twice = [2, 2, 0, 2].iter().zip(&before).map(|(scales, before)| before + scales).collect::<Vec<_>>();
            assert_eq!(world.generations().await, twice, "scaled other than down once and up once: {point}");
            reached
        })
    })
    .await;
}

async fn killed_at_every_request_after_a_step_failed(stage: Arc<Stage>, test: &'static str) {
    let fails = || {
        let refused = failure(ErrorClass::Terminal, "DiskTooFull", "the disk cannot hold the copy of table events");
        Script::default()
            .tasks(move |task| task.is_offline().then(|| Fate::Held(Fate::Reports(refused.clone()).into())))
    };
    series(&stage, test, fails, |world, name, n, cut| {
        Box::pin(async move {
            let (operator, _) = offline(world, name).await;
            operator.wire.cut_at(n, cut);
            world.place.release();
            let reached = lives_on(world, operator, world.until_failed(name)).await;

            let (reason, message) = world.until_failed(name).await;
            let point = format!("{cut:?} request {n} in {}:\n{}", world.namespace, world.place.ledger);
            assert_eq!(reason, "DiskTooFull", "{point}");
            assert!(message.contains("table events"), "{message} {point}");
            let done = world.api::<SynapseMaintenance>().get(name).await.expect("it is there");
            assert_eq!(outcomes(&done), [Outcome::Failed], "{point}");
            assert_eq!(works(world, &done), (["preflight", "vacuumAnalyze"].map(str::to_owned).to_vec(), 3), "{point}");
            reached
        })
    })
    .await;
}

async fn killed_at_every_request_after_the_object_was_deleted(stage: Arc<Stage>, test: &'static str) {
    let waits = || Script::default().tasks(|task| task.is_offline().then_some(Fate::RunsUntilDeleted));
    series(&stage, test, waits, |world, name, n, cut| {
        Box::pin(async move {
            let (operator, owner) = offline(world, name).await;
            operator.wire.cut_at(n, cut);
            world.api::<SynapseMaintenance>().delete(name, &Default::default()).await.expect("it is there");
            let reached = lives_on(world, operator, world.until_gone::<SynapseMaintenance>(name)).await;

            world.until_gone::<SynapseMaintenance>(name).await;
            world.assert_all_is_back().await;
            let of_owner = |task: &Task| task.owner == owner && task.is_offline();
            let stopped = |entry: &Entry| matches!(entry, Entry::TaskStopped { task, .. } if of_owner(task));
            world.place.ledger.until("the offline task was stopped", stopped).await;
            reached
        })
    })
    .await;
}

/// An operation whose offline task runs: its operator and its UID.
async fn offline(world: &World, name: &str) -> (Operator, String) {
    world.maintain(name, ANALYZE_AND_FULL).await;
    let operator = world.operator();
    let has_job = |object: &SynapseMaintenance| {
        run(object).is_some_and(|run| run.steps.last().is_some_and(|step| step.job_uid.is_some()))
    };
    let owner = world.until_maintenance(name, "has its offline Job", has_job).await.uid().expect("a UID");
    let runs =
        |entry: &Entry| matches!(entry, Entry::TaskBegan { task, .. } if task.is_offline() && task.owner == owner);
    world.place.ledger.until("the offline task runs", runs).await;
    (operator, owner)
}

/// A life with a cut, then, if it was reached, one without. True: it was reached.
pub async fn two_lives<T>(world: &World, n: usize, cut: Cut, end: impl Future<Output = T>) -> bool {
    lives_on(world, Operator::start_cut(&world.installation, n, cut), end).await
}

async fn lives_on<T>(world: &World, first: Operator, end: impl Future<Output = T>) -> bool {
    let mut end = std::pin::pin!(end);
    tokio::select! {
        _ = &mut end => return false,
        () = first.severed() => {}
    }
    first.kill().await;
    let second = world.operator();
    end.await;
    // What follows the end (events, the next inspection) may be cut off as well; the next point's lives go on with it.
    second.kill().await;
    true
}

/// The works that succeeded for this object, and how many Pods were started for them in all.
fn works(world: &World, object: &SynapseMaintenance) -> (Vec<String>, usize) {
    let owner = object.uid().unwrap_or_default();
    let of_owner = |work: &String| work.starts_with(&owner);
    let short = |work: String| work[owner.len()..].trim().trim_end_matches(" run 1").to_owned();
    let ledger = &world.place.ledger;
    let successes = ledger.successes().into_iter().filter(of_owner).map(short).collect();
    (successes, ledger.begun().iter().filter(|work| of_owner(work)).count())
}
