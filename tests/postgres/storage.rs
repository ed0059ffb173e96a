//! A storage that stalls, goes away, refuses or is full in the middle of an upload: nothing is half there, what was there stays,
//! and the next attempt succeeds once it is well again.

use std::time::{Duration, Instant};

use synapse_keeper::contract::ErrorClass;

use crate::{
    backup::{ALL, MANIFEST, SNAPSHOTS, back_up},
    retain::retain,
    support::{Database, PATIENCE, Program, Repository, Storage, Way, Wire, eventually},
};

/// Enough for the upload to begin.
const A_LITTLE: u64 = 2 << 20;

/// A homeserver's database with a backup, and much that is new since: random, for restic compresses.
async fn backed_up(name: &str, megabytes: u32, storage: &Storage) -> (Database, Wire, Repository, String) {
    let wire = Wire::to(storage).await;
    let secret = storage.secret(&wire);
    let database = Database::of_synapse(name);
    let first = back_up(&database, &secret).with(&["--init"]).run().await.backup().snapshot.clone();
    add_random(&database, megabytes);
    (database, wire, secret, first)
}

fn add_random(database: &Database, megabytes: u32) {
    database.as_synapse_sql(&format!(
        "CREATE TABLE much AS SELECT string_agg(md5(random()::text), '') AS body \
         FROM generate_series(1, {}) i GROUP BY i / 1000",
        megabytes * 32_768
    ));
}

fn impatient(database: &Database, secret: &Repository) -> Program {
    back_up(database, secret).with(&["--stalled-within", "6s"])
}

/// The last good backup is there, it alone, and all of it can be read.
fn only_the_first_is_there(storage: &Storage, first: &str) {
    assert_eq!(storage.snapshots(MANIFEST), [first]);
    let checked = storage.restic(&["check", "--no-lock", "--read-data"]);
    assert!(checked.contains("no errors were found"), "{checked}");
}

async fn the_next_succeeds(database: &Database, secret: &Repository, storage: &Storage, first: &str) {
    let second = back_up(database, secret).run().await.backup().snapshot.clone();
    let manifests = storage.snapshots(MANIFEST);
    assert!(manifests.len() == 2 && manifests.contains(&second) && manifests.iter().any(|id| id == first));
    retain(secret).run().await.result();
    assert_eq!(storage.snapshots(ALL).len(), 2 * SNAPSHOTS, "what had come to nothing is cleared away");
    let checked = storage.restic(&["check", "--read-data"]);
    assert!(checked.contains("no errors were found"), "{checked}");
}

#[tokio::test]
async fn an_upload_that_stalls_is_given_up_and_nobody_is_held_up() {
    let storage = Storage::start();
    let (database, wire, secret, first) = backed_up("s3_stalls", 24, &storage).await;
    wire.after(A_LITTLE, Way::Stalled);
    let began = Instant::now();
    let refused = impatient(&database, &secret).run().await;
    let words = ["s3:http://127.0.0.1", "/backups", "6 s", "Is it up"];
    assert_eq!(refused.refused("RepositoryUnreachable", &words).class, ErrorClass::Transient);
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    eventually("no lock is held", async || database.our_sessions().is_empty()).await;
    only_the_first_is_there(&storage, &first);
    wire.open();
    the_next_succeeds(&database, &secret, &storage, &first).await;
}

#[tokio::test]
async fn an_upload_that_is_cut_off_is_given_up_unless_the_storage_comes_back() {
    let storage = Storage::start();
    let (database, wire, secret, first) = backed_up("s3_cut", 24, &storage).await;
    wire.after(A_LITTLE, Way::Cut);
    let refused = impatient(&database, &secret).run().await;
    assert_eq!(refused.refused("RepositoryUnreachable", &["/backups"]).class, ErrorClass::Transient);
    only_the_first_is_there(&storage, &first);

    // restic tries again, and gets on.
    wire.open();
    wire.after(A_LITTLE, Way::Cut);
    let task = back_up(&database, &secret).with(&["--stalled-within", "60s"]).start();
    wire.until(Way::Cut).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    wire.open();
    task.finish().await.backup();
    assert_eq!(storage.snapshots(MANIFEST).len(), 2);
}

#[tokio::test]
async fn media_that_stall_are_given_up_and_their_backup_is_none() {
    let storage = Storage::start();
    let (database, wire, secret, first) = backed_up("s3_media", 1, &storage).await;
    let media = tempfile::tempdir().unwrap();
    let folder = media.path().join("local_content/aa/bb");
    std::fs::create_dir_all(&folder).unwrap();
    let mut noise = std::fs::File::open("/dev/urandom").unwrap();
    let mut file = std::fs::File::create(folder.join("file")).unwrap();
    std::io::copy(&mut std::io::Read::take(&mut noise, 24 << 20), &mut file).unwrap();
    let operation = ["--operation", "6e7a", "--run", "2"];
    back_up(&database, &secret).with(&["--draft"]).with(&operation).run().await.backup();
    let store = || {
        let folder = media.path().display().to_string();
        Program::task("backup-media").repository(&secret).with(&["--media-store", &folder, "--of-run", "6e7a.2"])
    };
    wire.after(A_LITTLE, Way::Stalled);
    let refused = store().with(&["--stalled-within", "6s"]).run().await;
    assert_eq!(refused.refused("RepositoryUnreachable", &["/backups"]).class, ErrorClass::Transient);
    only_the_first_is_there(&storage, &first);
    wire.open();
    store().run().await.result();
    assert_eq!(storage.snapshots(MANIFEST).len(), 2);
}

#[tokio::test]
async fn credentials_that_stop_working_in_the_middle_are_told() {
    let mut storage = Storage::start();
    let (database, wire, secret, first) = backed_up("s3_key", 24, &storage).await;
    wire.after(A_LITTLE, Way::Stalled);
    let task = back_up(&database, &secret).with(&["--stalled-within", "30s"]).start();
    wire.until(Way::Stalled).await;
    storage.restart("another-horse-battery");
    wire.open();
    let refused = task.finish().await;
    assert_eq!(refused.refused("RepositoryAccessDenied", &["credentials"]).class, ErrorClass::Terminal);
    storage.restart(crate::support::SECRET_KEY);
    only_the_first_is_there(&storage, &first);
    the_next_succeeds(&database, &secret, &storage, &first).await;
}

#[tokio::test]
async fn a_storage_that_is_full_hurts_no_backup_that_is_there() {
    let storage = Storage::on_a_small_disk(24);
    let (database, _wire, secret, first) = backed_up("s3_full", 48, &storage).await;
    // This server says no more than that it could not, or ends the connection before it has said it.
    let refused = impatient(&database, &secret).run().await;
    let words = ["came no further", "not full"];
    assert_eq!(refused.refused("RepositoryUnreachable", &words).class, ErrorClass::Transient);
    only_the_first_is_there(&storage, &first);
    // What is smaller fits again, once what had come to nothing is gone.
    database.as_synapse_sql("DROP TABLE much");
    retain(&secret).run().await.result();
    the_next_succeeds(&database, &secret, &storage, &first).await;
}
