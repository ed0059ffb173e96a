//! SIGKILL, at moments spread over the whole of a task's life: what a backup, a retention and a drill leave is whole or not there.

use std::{collections::BTreeSet, fs, time::Instant};

use serde_json::Value;

use crate::{
    backup::{ALL, MANIFEST, SNAPSHOTS, back_up},
    retain::retain,
    support::{Database, Repository, Running},
    verify::verify,
};

/// Lets it come to its end once, and then kills it at moments spread over the time that this took; how often it was killed.
async fn killed_all_along(start: impl Fn(usize) -> Running, look: impl Fn(usize)) -> usize {
    let began = Instant::now();
    start(0).finish().await.result();
    let step = began.elapsed() / MOMENTS;
    let mut killed = 0;
    for (moment, after) in (1..=MOMENTS).map(|moment| (moment as usize, step * (moment - 1))) {
        let mut running = start(moment);
        tokio::time::sleep(after).await;
        killed += usize::from(running.child.try_wait().unwrap().is_none());
        running.child.kill().await.unwrap();
        look(moment);
    }
    killed
}

/// More than half of them must hit, however fast the machine is at the moment.
const MOMENTS: u32 = 8;
const HITS: usize = 4;

/// All backups that could be chosen, each with everything that its manifest names.
fn whole_backups(repository: &Repository) -> Vec<String> {
    let stored: BTreeSet<String> = repository.snapshots(ALL).into_iter().collect();
    let manifests = repository.snapshots(MANIFEST);
    for manifest in &manifests {
        let read: Value =
            serde_json::from_slice(&fs::read(repository.fetch(manifest, "manifest.json")).unwrap()).unwrap();
        for (file, part) in read["parts"].as_object().unwrap() {
            assert!(stored.contains(part["snapshot"].as_str().unwrap()), "{manifest:.8} has lost {file}");
        }
    }
    manifests
}

fn is_sound(repository: &Repository) {
    let checked = repository.restic(&["check", "--no-lock", "--read-data"]);
    assert!(checked.contains("no errors were found"), "{checked}");
}

#[tokio::test]
async fn a_backup_is_whole_or_it_is_not_there() {
    let database = Database::of_synapse("killed_backup");
    let repository = Repository::new();
    let first = back_up(&database, &repository).run().await.backup().snapshot.clone();
    repository.ends_with_the_task();
    let killed = killed_all_along(
        |_| back_up(&database, &repository).start(),
        |moment| assert!(whole_backups(&repository).contains(&first), "moment {moment}"),
    )
    .await;
    assert!(killed > HITS, "killed only {killed} times");

    let newest = back_up(&database, &repository).run().await.backup().snapshot.clone();
    let cleared = retain(&repository).run().await;
    assert!(cleared.result().summary.contains("of failed attempts"), "{cleared:?}");
    let whole = whole_backups(&repository);
    assert!(whole.contains(&first) && whole.contains(&newest), "{whole:?}");
    assert_eq!(repository.snapshots(ALL).len(), SNAPSHOTS * whole.len(), "nothing of those that were killed is left");
    is_sound(&repository);
}

#[tokio::test]
async fn a_retention_never_tears_a_backup_apart_and_never_takes_the_newest() {
    let database = Database::of_synapse("killed_retain");
    let original = Repository::new();
    for _ in 0..2 {
        back_up(&database, &original).run().await.backup();
    }
    let newest = back_up(&database, &original).run().await.backup().snapshot.clone();
    let copies: Vec<Repository> = (0..=MOMENTS).map(|_| original.copy()).collect();
    copies.iter().for_each(Repository::ends_with_the_task);
    let keep_one = |copy: usize| retain(&copies[copy]).with(&["--keep-last=1"]);
    let killed = killed_all_along(
        |copy| keep_one(copy).start(),
        |copy| assert!(whole_backups(&copies[copy]).contains(&newest), "moment {copy}"),
    )
    .await;
    assert!(killed > HITS, "killed only {killed} times");

    for (moment, repository) in copies.iter().enumerate() {
        keep_one(moment).run().await.result();
        assert_eq!(whole_backups(repository), std::slice::from_ref(&newest), "moment {moment}");
        assert_eq!(repository.snapshots(ALL).len(), SNAPSHOTS, "moment {moment}");
        is_sound(repository);
    }
}

#[tokio::test]
async fn a_drill_takes_nothing_from_the_repository() {
    let database = Database::of_synapse("killed_drill");
    let repository = Repository::new();
    let made = back_up(&database, &repository).run().await.backup().snapshot.clone();
    repository.ends_with_the_task();
    let drill = |moment: usize| verify(&repository, &made, &format!("killed_drill_{moment}"));
    let killed = killed_all_along(
        |moment| drill(moment).start(),
        |moment| assert_eq!(whole_backups(&repository), std::slice::from_ref(&made), "moment {moment}"),
    )
    .await;
    assert!(killed > HITS, "killed only {killed} times");
    drill(99).run().await.result();
    is_sound(&repository);
}
