//! `task delete-backups` on a real restic repository: all that an object has stored goes, and nothing else; and backups of
//! another origin, which are told of until they are adopted.

use std::fs;

use rustix::process::Signal;

use crate::{
    backup::{ALL, MANIFEST, SNAPSHOTS, back_up},
    retain::retain,
    support::{Database, Moment, Program, Repository, until_reached},
};

const OWN: &str = "origin=6e7a";
const OF_OTHER: &str = "origin=other";

fn delete(repository: &Repository) -> Program {
    Program::task("delete-backups").place(repository).with(&["--origin", "6e7a"])
}

/// A repository with two backups of ours, one of another object, and a file of somebody's.
async fn shared(name: &str) -> (Database, Repository) {
    let (database, repository) = (Database::of_synapse(name), Repository::new());
    database.task("backup").repository_of(&repository, "other").run().await.backup();
    for _ in 0..2 {
        back_up(&database, &repository).run().await.backup();
    }
    repository.restic(&["backup", "--tag", "mine", "/etc/hostname"]);
    (database, repository)
}

/// What is left is what the others have stored, and it can be read.
fn others_are_whole(repository: &Repository) {
    assert_eq!(repository.snapshots(OWN), Vec::<String>::new());
    assert_eq!(repository.snapshots(OF_OTHER).len(), SNAPSHOTS);
    assert_eq!(repository.snapshots("mine").len(), 1);
    let checked = repository.restic(&["check", "--read-data"]);
    assert!(checked.contains("no errors were found"), "{checked}");
    assert_eq!(repository.restic(&["list", "locks"]).trim(), "");
}

#[tokio::test]
async fn all_of_an_object_goes_and_nothing_of_others() {
    let (_database, repository) = shared("delete_all").await;
    let damaged = ["--tag", "synapse-keeper,origin=6e7a,format=99,attempt=later.1.1"];
    repository.restic(&[&["backup"], damaged.as_slice(), &["/etc/hostname"]].concat());
    let done = delete(&repository).run().await;
    assert_eq!(done.result().summary, "deleted 2 backups and gave the space back");
    others_are_whole(&repository);
    // The Pod died before it could say so.
    assert!(delete(&repository).run().await.result().summary.contains("deleted 0 backups"));
    others_are_whole(&repository);
}

#[tokio::test]
async fn killed_at_any_of_its_steps_it_is_ended_by_the_next() {
    let (_database, whole) = shared("delete_killed").await;
    for (moment, words) in
        [(Moment::Before, "forget"), (Moment::After, "forget"), (Moment::Before, "prune"), (Moment::After, "prune")]
    {
        let repository = whole.copy();
        let held = repository.hold(moment, words);
        let task = delete(&repository).start();
        until_reached(&held).await;
        task.signal(Signal::KILL);
        task.finish().await;
        let at = format!("killed {moment:?} {words}");
        let own = repository.snapshots(OWN);
        let manifests = repository.snapshots(MANIFEST).into_iter().filter(|id| own.contains(id)).count();
        // A backup is there with all that it consists of, or it is not there.
        assert!(own.len() >= manifests * SNAPSHOTS, "{at}: {manifests} of {}", own.len());
        fs::remove_file(held).expect("the file that holds it");
        assert_eq!(delete(&repository).run().await.report().error, None, "{at}");
        others_are_whole(&repository);
    }
}

#[tokio::test]
async fn what_keeps_it_from_its_end_is_told_and_nothing_is_half_there() {
    let (_database, repository) = shared("delete_refused").await;
    let stored = repository.snapshots(ALL);
    repository.unmount("RESTIC_PASSWORD");
    delete(&repository).run().await.refused("SecretKeyMissing", &["RESTIC_PASSWORD"]);
    repository.mount("RESTIC_PASSWORD", "wrong");
    delete(&repository).run().await.refused("RepositoryPasswordRefused", &[]);
    repository.mount("RESTIC_PASSWORD", crate::support::REPOSITORY_PASSWORD);
    assert_eq!(repository.snapshots(ALL), stored);
    repository.mount("RESTIC_REPOSITORY", "/nowhere");
    delete(&repository).run().await.refused("RepositoryMissing", &["is RESTIC_REPOSITORY right"]);
    repository.mount("RESTIC_REPOSITORY", &repository.path().display().to_string());
    let done = delete(&repository).run().await;
    assert_eq!(done.report().error, None, "{done:?}");
    others_are_whole(&repository);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_may_be_one_that_should_go() {
    let (_database, repository) = shared("delete_damaged").await;
    let path = repository.path().join("snapshots").join(&repository.snapshots(OWN)[0]);
    fs::write(&path, b"damaged")
        .or_else(|_| fs::remove_file(&path).and_then(|()| fs::write(&path, b"damaged")))
        .unwrap();
    delete(&repository).run().await.refused("RepositoryDamaged", &["restic check"]);
    assert_eq!(repository.snapshots(OF_OTHER).len(), SNAPSHOTS);
    fs::remove_file(&path).unwrap();
    assert_eq!(delete(&repository).run().await.report().error, None);
    others_are_whole(&repository);
}

/// The cluster was lost, and the object that was made again has another UID.
#[tokio::test]
async fn backups_of_another_origin_are_told_and_count_once_they_are_adopted() {
    let (database, repository) = shared("adopt").await;
    let told = back_up(&database, &repository).run().await.result().backups.clone().unwrap();
    let [other] = &told.others[..] else { panic!("{told:?}") };
    assert_eq!((told.count, other.uid.as_str(), other.count), (3, "other", 1));
    assert!(other.newest.is_some());
    let kept = retain(&repository).with(&["--keep-last=1"]).run().await.result().backups.clone().unwrap();
    assert_eq!((kept.count, kept.others.len()), (1, 1), "what is another's stays");

    let adopted = back_up(&database, &repository).with(&["--adopt", "other"]).run().await;
    let listed = adopted.result().backups.clone().unwrap();
    assert_eq!((listed.count, listed.others.len()), (3, 0));
    let of_other: Vec<String> =
        repository.snapshots(MANIFEST).into_iter().filter(|id| repository.snapshots(OF_OTHER).contains(id)).collect();
    assert!(listed.newest.iter().any(|backup| of_other.contains(&backup.id)), "{listed:?}");

    let kept = retain(&repository).with(&["--adopt", "other", "--keep-last=2"]).run().await;
    assert_eq!(kept.result().backups.clone().unwrap().count, 2);
    assert_eq!(repository.snapshots(OF_OTHER), Vec::<String>::new(), "it was the oldest");
    assert_eq!(repository.snapshots("mine").len(), 1);
}

#[tokio::test]
async fn what_was_adopted_goes_with_the_object() {
    let (_database, repository) = shared("delete_adopted").await;
    let done = delete(&repository).with(&["--origin", "other"]).run().await;
    assert!(done.result().summary.contains("deleted 3 backups"), "{done:?}");
    assert_eq!(repository.snapshots(ALL), Vec::<String>::new());
    assert_eq!(repository.snapshots("mine").len(), 1);
}
