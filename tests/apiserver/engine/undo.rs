//! A step of which nobody knows what it has done is taken back before any Pod of the homeserver comes; and what becomes of them
//! where that cannot be.

use std::sync::Arc;

use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use synapse_keeper::{
    api::{
        Synapse, SynapseRestore,
        operation::{HistoryEntry, Outcome},
    },
    contract::{ErrorClass, Leaves, Report},
};

use super::restore::{restore, until_ended, without_mas};
use crate::stage::{
    Stage,
    ledger::{Entry, Task},
    script::{Fate, Script, failure},
    tests,
    world::World,
};

tests![
    a_swap_that_died_without_a_word_is_taken_back_before_any_pod_comes,
    a_swap_that_is_stopped_is_taken_back_whoever_is_killed_and_whatever_is_deleted,
    a_swap_that_has_done_nothing_and_says_so_is_not_taken_back,
    a_swap_whose_pod_never_ran_is_not_taken_back,
    two_databases_that_may_be_out_of_step_keep_their_homeserver_down,
    one_database_is_whole_whichever_it_is_and_is_served,
];

const UNFINISHED: &str = "synapse-keeper.dev/database-unfinished";

/// The databases of both are named, so both come back.
async fn with_mas(stage: &Arc<Stage>, test: &str) -> World {
    let world = World::with_homeserver(stage, test).await;
    let postgres = json!({"host": "mas-db", "database": "mas", "credentials": {"secretName": "of-mas"}});
    let patch = Patch::Merge(json!({"spec": {"matrixAuthenticationService": {"postgres": postgres}}}));
    world.api::<Synapse>().patch("example", &PatchParams::default(), &patch).await.expect("it is there");
    world
}

fn swaps(task: &Task) -> bool {
    task.name() == "swap-database" && !task.has("--back")
}

fn takes_back(task: &Task) -> bool {
    task.name() == "swap-database" && task.has("--back")
}

fn began(which: fn(&Task) -> bool) -> impl Fn(&Entry) -> bool {
    move |entry| matches!(entry, Entry::TaskBegan { task, .. } if which(task))
}

/// The swap and its undo end like this.
fn ends(swap: Fate, undo: Option<Fate>) -> Script {
    Script::default().tasks(move |task| match () {
        () if swaps(task) => Some(swap.clone()),
        () if takes_back(task) => undo.clone(),
        () => None,
    })
}

/// A restore that has failed.
async fn fails(world: &World) -> HistoryEntry {
    world.apply(&restore("from: {repository: {secretName: s3}}")).await;
    let ended = until_ended(world).await.history.swap_remove(0);
    assert_eq!(ended.outcome, Outcome::Failed, "{ended:?}");
    ended
}

fn says(ended: &HistoryEntry, reason: &str, words: &[&str]) {
    let message = ended.message.as_deref().unwrap_or_default();
    assert_eq!(ended.reason.as_deref(), Some(reason), "{message}");
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

/// Each Pod that came after the swap came after its undo had ended.
fn assert_nobody_came_in_between(world: &World) {
    let entries = world.place.ledger.entries();
    let position = |wanted: &dyn Fn(&Entry) -> bool| entries.iter().position(wanted).expect("it happened");
    let swap = position(&began(swaps));
    let undone = position(&|entry| matches!(entry, Entry::TaskEnded { task, .. } if takes_back(task)));
    let came = entries[swap..].iter().position(|entry| matches!(entry, Entry::PodCame(_))).expect("all is back");
    assert!(swap < undone && undone < swap + came, "{}", world.place.ledger);
    assert!(world.place.ledger.offline_beside_pods().is_empty(), "{}", world.place.ledger);
}

async fn a_swap_that_died_without_a_word_is_taken_back_before_any_pod_comes(stage: Arc<Stage>, test: &'static str) {
    let world = with_mas(&stage, test).await;
    world.play(ends(Fate::RunsOutOfMemory, None));
    let _operator = world.operator();
    says(&fails(&world).await, "OutOfMemory", &["it was rolled back: swap-database done"]);
    world.assert_homeserver_is_back().await;
    assert_nobody_came_in_between(&world);
    assert_eq!(world.generations().await, [3, 3, 1, 3], "down once, and up once");
    let undos = world.place.ledger.entries().iter().filter(|entry| began(takes_back)(entry)).count();
    assert_eq!(undos, 1, "{}", world.place.ledger);
}

async fn a_swap_that_is_stopped_is_taken_back_whoever_is_killed_and_whatever_is_deleted(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let world = with_mas(&stage, test).await;
    world.play(ends(Fate::RunsUntilDeleted, None));
    let mut operator = world.operator();
    world.apply(&restore("from: {repository: {secretName: s3}}")).await;
    world.place.ledger.until("it is being swapped", began(swaps)).await;
    let lease = world.lease().await.expect("it is held");
    assert!(lease.annotations().contains_key(UNFINISHED), "the Lease knows it before the Job begins: {lease:?}");
    operator.kill().await;
    operator = world.operator();
    world.api::<SynapseRestore>().delete("after-the-fire", &DeleteParams::default()).await.expect("it is there");
    world.place.ledger.until("it is taken back", began(takes_back)).await;
    operator.kill().await;
    let _operator = world.operator();
    world.until_gone::<SynapseRestore>("after-the-fire").await;
    world.assert_homeserver_is_back().await;
    assert_nobody_came_in_between(&world);
}

async fn a_swap_that_has_done_nothing_and_says_so_is_not_taken_back(stage: Arc<Stage>, test: &'static str) {
    let world = with_mas(&stage, test).await;
    let refused = failure(ErrorClass::Terminal, "Contested", "somebody is there");
    world.play(ends(Fate::Reports(Report { leaves: Some(Leaves::AsItWas), ..refused }), None));
    let _operator = world.operator();
    says(&fails(&world).await, "Contested", &["somebody is there"]);
    world.assert_homeserver_is_back().await;
    assert!(!world.place.ledger.entries().iter().any(began(takes_back)), "{}", world.place.ledger);
}

/// Nor would the undo's run.
async fn a_swap_whose_pod_never_ran_is_not_taken_back(stage: Arc<Stage>, test: &'static str) {
    let world = with_mas(&stage, test).await;
    world.play(ends(Fate::NoImage, Some(Fate::NoImage)));
    let _operator = world.operator();
    world.apply(&restore("from: {repository: {secretName: s3}}\n  jobs: {startWithin: 30s}")).await;
    let ended = until_ended(&world).await.history.swap_remove(0);
    // Whether the Pod was made within that time is another matter.
    says(&ended, "PodDoesNotStart", &["did not start within 30s"]);
    world.assert_homeserver_is_back().await;
    assert_eq!(world.generations().await, [3, 3, 1, 3], "down once, and up once");
}

async fn two_databases_that_may_be_out_of_step_keep_their_homeserver_down(stage: Arc<Stage>, test: &'static str) {
    let world = with_mas(&stage, test).await;
    world.play(ends(Fate::RunsOutOfMemory, Some(Fate::RunsOutOfMemory)));
    let _operator = world.operator();
    says(
        &fails(&world).await,
        "DatabaseUnfinished",
        &["may be out of step", "StatefulSet/main had 1", "under a new name"],
    );
    assert_eq!(world.generations().await, [2, 2, 1, 2], "down, and not up again");
    let lease = world.lease().await.expect("it keeps the counts");
    assert!(lease.annotations().contains_key("synapse-keeper.dev/kept-down"), "{lease:?}");
}

async fn one_database_is_whole_whichever_it_is_and_is_served(stage: Arc<Stage>, test: &'static str) {
    let world = without_mas(&stage, test).await;
    world.play(ends(Fate::RunsOutOfMemory, Some(Fate::RunsOutOfMemory)));
    let _operator = world.operator();
    says(
        &fails(&world).await,
        "OutOfMemory",
        &["whether step swap was done is unknown", "either is whole", "shobj_description"],
    );
    world.assert_homeserver_is_back().await;
    assert_nobody_came_in_between(&world);
}
