//! `task retain` on a real restic repository: what is kept stays whole, and what others have is left alone.

use std::{fs, os::unix::fs::PermissionsExt};

use rustix::process::Signal;

use crate::{
    backup::{ALL, MANIFEST, SNAPSHOTS, back_up},
    support::{Database, Program, Repository, Storage, until_reached},
};

pub fn retain(repository: &Repository) -> Program {
    Program::task("retain").repository(repository)
}

#[tokio::test]
async fn old_backups_go_and_the_rest_is_whole() {
    let database = Database::of_synapse("retain_old");
    let repository = Repository::new();
    let of_other = database.task("backup").repository_of(&repository, "other");
    let other = of_other.run().await.backup().snapshot.clone();
    repository.restic(&["backup", "--tag", "mine", "/etc/hostname"]);
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(back_up(&database, &repository).run().await.backup().snapshot.clone());
    }

    let all = retain(&repository).run().await;
    assert!(all.result().summary.contains("no old backup to delete, 3 backups are kept"), "{all:?}");
    let kept = retain(&repository).with(&["--keep-last=2", "--keep-daily=1"]).run().await;
    let listed = kept.result().backups.clone().unwrap();
    let ids: Vec<&str> = listed.newest.iter().map(|backup| backup.id.as_str()).collect();
    assert_eq!(ids, [made[2].as_str(), made[1].as_str()], "the newest first");

    let mut manifests = repository.snapshots(MANIFEST);
    let mut expected = vec![other, made[1].clone(), made[2].clone()];
    manifests.sort();
    expected.sort();
    assert_eq!(manifests, expected);
    assert_eq!(repository.snapshots(ALL).len(), 3 * SNAPSHOTS);
    assert_eq!(repository.snapshots("mine").len(), 1);
    let checked = repository.restic(&["check", "--read-data"]);
    assert!(checked.contains("no errors were found"), "{checked}");
    repository.fetch(&made[2], "manifest.json");
}

/// What is deleted there stays as an old version, and is gone for whoever does not ask for it.
#[tokio::test]
async fn a_bucket_with_versioning_is_as_good_as_one_without() {
    let storage = Storage::with_versions();
    let (database, secret) = (Database::of_synapse("retain_versions"), storage.direct_secret());
    let mut made = Vec::new();
    for _ in 0..2 {
        made.push(back_up(&database, &secret).run().await.backup().snapshot.clone());
    }
    let locks = storage.old_versions();
    assert!(locks > 0, "it keeps versions: those of locks");
    let kept = retain(&secret).with(&["--keep-last=1"]).run().await;
    assert_eq!(kept.result().backups.as_ref().map(|backups| backups.count), Some(1), "{kept:?}");
    assert!(storage.old_versions() > locks);
    assert_eq!(storage.snapshots(MANIFEST), [made[1].clone()]);
    assert_eq!(storage.snapshots(ALL).len(), SNAPSHOTS);
    let checked = storage.restic(&["check", "--read-data"]);
    assert!(checked.contains("no errors were found"), "{checked}");

    let all = Program::task("delete-backups").place(&secret).with(&["--origin", "6e7a"]).run().await;
    all.result();
    assert_eq!(storage.snapshots("origin=6e7a"), Vec::<String>::new());
    let again = back_up(&database, &secret).run().await.backup().snapshot.clone();
    assert_eq!(storage.snapshots(MANIFEST), [again]);
}

#[tokio::test]
async fn a_backup_of_the_future_is_not_the_newest_and_takes_nobody_s_place() {
    let database = Database::of_synapse("retain_future");
    let repository = Repository::new();
    let run = async |number: &str| {
        let done = back_up(&database, &repository).with(&["--operation", "uid", "--run", number]).run().await;
        done.backup().snapshot.clone()
    };
    let first = run("1").await;
    let stored = repository.list(MANIFEST).remove(0);
    let tags = stored["tags"].as_array().unwrap().iter().filter_map(|tag| tag.as_str());
    let was = tags.filter(|tag| tag.starts_with("taken-at=")).collect::<String>();
    // As PostgreSQL's clock would have it. The snapshot has another name then.
    repository.restic(&["tag", "--remove", &was, "--add", "taken-at=2031-01-01T00:00:00Z", &first]);
    let second = run("2").await;
    let listed = retain(&repository).run().await.result().backups.clone().unwrap();
    assert_eq!((listed.count, listed.newest[0].id.as_str()), (2, second.as_str()), "the last run is the newest");
    let ahead = listed.newest[1].taken_at.as_ref().unwrap();
    assert_eq!(ahead.0.to_string(), "2031-01-01T00:00:00Z");

    let kept = retain(&repository).with(&["--keep-last=1", "--of-run=uid.2"]).run().await;
    let listed = kept.result().backups.clone().unwrap();
    assert_eq!((listed.count, listed.newest[0].id.as_str()), (1, second.as_str()));
    // The run's own backup stays, whatever the order says.
    let third = run("1").await;
    let kept = retain(&repository).with(&["--keep-last=1", "--of-run=uid.1"]).run().await;
    let listed = kept.result().backups.clone().unwrap();
    assert_eq!(listed.newest.iter().map(|one| one.id.as_str()).collect::<Vec<_>>(), [second.as_str(), third.as_str()]);
}

#[tokio::test]
async fn what_was_killed_is_cleared_away_and_its_lock_is_no_hindrance() {
    let database = Database::of_synapse("retain_killed");
    let repository = Repository::new();
    let whole = back_up(&database, &repository).run().await.backup().snapshot.clone();
    let held = repository.hold_streams();
    let running = back_up(&database, &repository).start();
    until_reached(&held).await;
    running.signal(Signal::KILL);
    running.finish().await;
    fs::remove_file(held).unwrap();
    // What a killed attempt had stored before.
    let tags = "synapse-keeper,origin=6e7a,format=1,attempt=dead.1.1";
    repository.restic(&["backup", "--tag", tags, "/etc/hostname"]);

    let cleared = retain(&repository).with(&["--keep-last=7"]).run().await;
    assert!(cleared.result().summary.contains("of failed attempts"), "{cleared:?}");
    assert_eq!(repository.snapshots("attempt=dead.1.1"), Vec::<String>::new());
    assert_eq!(repository.snapshots(MANIFEST), [whole]);
    assert_eq!(repository.restic(&["list", "locks"]).trim(), "");
}

#[tokio::test]
async fn a_prune_that_was_killed_does_not_stop_the_next_backup() {
    let database = Database::of_synapse("retain_lock");
    let repository = Repository::new();
    let pruning = repository.prune_that_is_killed();
    assert!(!pruning.is_empty(), "it left a lock");
    let finished = back_up(&database, &repository).run().await;
    assert!(finished.backup().rows > 0);
}

#[tokio::test]
async fn a_wrong_password_takes_nothing_away() {
    let database = Database::of_synapse("retain_wrong");
    let repository = Repository::new();
    back_up(&database, &repository).run().await.backup();
    repository.mount("RESTIC_PASSWORD", "wrong");
    let refused = retain(&repository).with(&["--keep-last=1"]).run().await;
    refused.refused("RepositoryPasswordRefused", &["not a password of this repository"]);
    let unknown = retain(&repository).with(&["--keep-daily=1", "--time-zone=Europe/Berlim"]).run().await;
    unknown.refused("UnknownTimeZone", &["Europe/Berlim"]);
    assert_eq!(repository.snapshots(MANIFEST).len(), 1);
}

/// restic passes over a snapshot that it cannot read. The rest of that backup must not be taken for what an attempt left behind.
#[tokio::test]
async fn while_a_snapshot_cannot_be_read_nothing_is_taken_away() {
    let database = Database::of_synapse("retain_damaged");
    let repository = Repository::new();
    back_up(&database, &repository).run().await.backup();
    back_up(&database, &repository).run().await.backup();
    let stored = repository.snapshots(ALL);
    let path = repository.path().join("snapshots").join(&repository.snapshots(MANIFEST)[0]);
    let whole = fs::read(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let mut damaged = whole.clone();
    damaged[20] ^= 1;
    fs::write(&path, damaged).unwrap();
    let retain = || retain(&repository).with(&["--keep-last", "1"]).run();
    retain().await.refused("RepositoryDamaged", &["Ignoring", "restic check"]);
    // The storage gives it again.
    fs::write(&path, whole).unwrap();
    assert_eq!(repository.snapshots(ALL), stored);
    let done = retain().await;
    assert!(done.result().summary.contains("deleted 1 old backup, 1 backup is kept"), "{done:?}");
}
