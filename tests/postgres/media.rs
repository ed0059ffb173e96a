//! Media in a backup: with the database they are one backup, and until they are stored there is none.

use std::{fs, io::Read, os::unix::fs::PermissionsExt, path::Path};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    backup::{ALL, MANIFEST, back_up},
    support::{Database, Finished, Moment, Program, Repository, Storage, Way, Wire, eventually, until_reached},
};

pub const MEDIA: &str = "media";
const DRAFT: &str = "draft";
const RUN: &str = "0b5e9d6a-0000-4000-8000-000000000001.7";

/// A media store as Synapse makes it.
pub fn media_store() -> TempDir {
    let store = tempfile::tempdir().unwrap();
    for path in [
        "local_content/AA/bb/ccdd",
        "local_content/AA/bb/eeff",
        "local_thumbnails/AA/bb/ccdd/32-32-image-png-crop",
        "remote_content/example.net/xx/yy/zz",
        "remote_thumbnail/example.net/xx/yy/zz/32-32-image-png-crop",
        "url_cache/2026-11-22/aabb",
        "url_cache_thumbnails/2026-11-22/aabb/32-32-image-png-crop",
    ] {
        put(store.path(), path, &format!("{path} in the beginning"));
    }
    store
}

/// A homeserver whose database names the files of [`media_store`], and no others.
pub fn database_with_media(name: &str) -> Database {
    let database = Database::of_synapse(name);
    database.as_synapse_sql("DELETE FROM local_media_repository; DELETE FROM local_media_repository_thumbnails");
    upload(&database, &["AAbbccdd", "AAbbeeff"]);
    database.as_synapse_sql(
        "INSERT INTO local_media_repository_thumbnails (media_id, thumbnail_width, thumbnail_height, thumbnail_type, \
         thumbnail_method, thumbnail_length) VALUES ('AAbbccdd', 32, 32, 'image/png', 'crop', 1)",
    );
    database
}

/// The database names these.
pub fn upload(database: &Database, ids: &[&str]) {
    for id in ids {
        database.as_synapse_sql(&format!(
            "INSERT INTO local_media_repository (media_id, media_type, media_length, created_ts, user_id) \
             VALUES ('{id}', 'image/png', 1, 0, '@a:example.org')"
        ));
    }
}

/// What preflight says of a media store.
pub async fn check(database: &Database, store: &Path, more: Value) -> Finished {
    let mut check = json!({"mediaStore": store});
    check.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let check = json!({"media": check});
    database.task("preflight").no_superuser().with(&["--step", &format!("media={check}")]).run().await
}

pub fn put(store: &Path, path: &str, content: &str) {
    let path = store.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// The database's part of the backup.
pub fn draft(database: &Database, repository: &Repository, attempt: &str) -> Program {
    let (operation, run) = RUN.split_once('.').unwrap();
    let of_run = ["--operation", operation, "--run", run, "--attempt", attempt];
    back_up(database, repository).with(&["--draft"]).with(&of_run)
}

pub fn media(store: &Path, repository: &Repository) -> Program {
    let store = store.display().to_string();
    Program::task("backup-media").repository(repository).with(&["--media-store", &store, "--of-run", RUN])
}

pub fn manifest(repository: &Repository, snapshot: &str) -> Value {
    serde_json::from_slice(&fs::read(repository.fetch(snapshot, "manifest.json")).unwrap()).unwrap()
}

/// The files of a snapshot.
fn files(repository: &Repository, snapshot: &str) -> Vec<String> {
    let all = repository.restic(&["ls", snapshot, "--json"]);
    let nodes = all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    nodes.filter(|node| node["type"] == "file").map(|node| node["path"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn with_media_a_backup_is_there_when_they_are_stored() {
    let database = Database::of_synapse("media_whole");
    let (repository, store) = (Repository::new(), media_store());
    let drafted = draft(&database, &repository, "1").run().await;
    assert_eq!(drafted.result().backups, None, "there is none yet");
    assert_eq!((repository.snapshots(MANIFEST), repository.snapshots(DRAFT).len()), (vec![], 1));

    let done = media(store.path(), &repository).run().await;
    let found = done.backup();
    assert_eq!(repository.snapshots(MANIFEST), std::slice::from_ref(&found.snapshot));
    let listed = done.result().backups.as_ref().unwrap();
    assert_eq!((listed.count, listed.newest[0].id.as_str()), (1, found.snapshot.as_str()));
    assert!(listed.newest[0].media_bytes > Some(50), "{listed:?}");
    assert!(done.result().summary.starts_with("backed up 3 files of media in "), "{done:?}");

    let manifest = manifest(&repository, &found.snapshot);
    let kept = &manifest["media"];
    assert_eq!((&kept["files"], &kept["remote"]), (&json!(3), &json!(false)), "{manifest:#}");
    let expected =
        ["/local_content/AA/bb/ccdd", "/local_content/AA/bb/eeff", "/local_thumbnails/AA/bb/ccdd/32-32-image-png-crop"];
    assert_eq!(files(&repository, kept["snapshot"].as_str().unwrap()), expected);
    assert_eq!(found.taken_at, drafted.backup().taken_at, "the moment is the database's");

    // Asked once more, such as when nobody heard the answer.
    let again = media(store.path(), &repository).run().await;
    assert_eq!(again.result().backups, done.result().backups);
    assert_eq!((repository.snapshots(MANIFEST).len(), repository.snapshots(MEDIA).len()), (1, 1));
}

#[tokio::test]
async fn what_is_of_others_is_taken_if_it_is_wanted_and_previews_never() {
    let database = Database::of_synapse("media_remote");
    let (repository, store) = (Repository::new(), media_store());
    draft(&database, &repository, "1").run().await.backup();
    let done = media(store.path(), &repository).with(&["--remote-media"]).run().await;
    let manifest = manifest(&repository, &done.backup().snapshot);
    assert_eq!(manifest["media"]["remote"], true);
    let files = files(&repository, manifest["media"]["snapshot"].as_str().unwrap());
    assert_eq!(files.iter().filter(|file| file.starts_with("/remote_")).count(), 2, "{files:?}");
    assert!(!files.iter().any(|file| file.contains("url_cache")), "{files:?}");
}

#[tokio::test]
async fn the_second_night_reads_what_is_new_wherever_the_claim_is_mounted() {
    let database = Database::of_synapse("media_twice");
    let (repository, store) = (Repository::new(), media_store());
    draft(&database, &repository, "1").run().await.backup();
    media(store.path(), &repository).run().await.backup();
    let first = repository.snapshots(MEDIA).remove(0);

    let moved = tempfile::tempdir().unwrap();
    let elsewhere = moved.path().join("mounted/elsewhere");
    fs::create_dir(moved.path().join("mounted")).unwrap();
    fs::rename(store.path(), &elsewhere).unwrap();
    put(&elsewhere, "local_content/ZZ/new", "new");
    let later = ["--operation", "another", "--run", "8"];
    back_up(&database, &repository).with(&["--draft"]).with(&later).run().await.backup();
    let path = elsewhere.display().to_string();
    let second = Program::task("backup-media").repository(&repository).with(&["--media-store", &path]).run().await;
    assert!(second.result().summary.starts_with("backed up 4 files of media"), "{second:?}");

    let snapshots = repository.list(MEDIA);
    let second = snapshots.iter().find(|snapshot| snapshot["id"] != *first).unwrap();
    assert_eq!(second["parent"], *first, "{second:#}");
    let summary = &second["summary"];
    assert_eq!((&summary["files_new"], &summary["files_unmodified"]), (&json!(1), &json!(3)), "{summary:#}");
    assert_eq!(repository.snapshots(MANIFEST).len(), 2);
}

#[tokio::test]
async fn killed_at_any_moment_there_is_one_whole_backup_or_none() {
    let database = Database::of_synapse("media_killed");
    let (repository, store) = (Repository::new(), media_store());
    // The last attempt at the database's part counts.
    draft(&database, &repository, "1").run().await.backup();
    let last = draft(&database, &repository, "2").run().await.backup().taken_at.clone();
    for (moment, words, backups) in [
        (Moment::Before, "-- local_content", 0),
        (Moment::After, "-- local_content", 0),
        (Moment::Before, "--stdin-filename manifest.json", 0),
        (Moment::After, "--stdin-filename manifest.json", 1),
    ] {
        let held = repository.hold(moment, words);
        let running = media(store.path(), &repository).start();
        until_reached(&held).await;
        running.signal(Signal::KILL);
        running.finish().await;
        fs::remove_file(held).unwrap();
        assert_eq!(repository.snapshots(MANIFEST).len(), backups, "{moment:?} {words}");
    }
    assert_eq!(repository.snapshots(MEDIA).len(), 3);
    let done = media(store.path(), &repository).run().await;
    assert!(done.result().summary.contains("an earlier attempt had completed the backup"), "{done:?}");
    let listed = done.result().backups.clone().unwrap();
    assert_eq!((listed.count, listed.newest[0].taken_at.as_ref()), (1, Some(&last)));

    // What the killed ones left goes, and the backup stays whole.
    let cleared = Program::task("retain").repository(&repository).run().await;
    assert_eq!(cleared.result().backups, Some(listed.clone()), "{cleared:?}");
    assert_eq!(
        repository.snapshots(MEDIA),
        [manifest(&repository, &listed.newest[0].id)["media"]["snapshot"].as_str().unwrap()]
    );
    assert_eq!(repository.snapshots(ALL).len(), 6, "a schema, two streams, the draft, the media and the manifest");
    let checked = repository.restic(&["check", "--read-data"]);
    assert!(checked.contains("no errors were found"), "{checked}");
}

#[tokio::test]
async fn told_to_stop_it_leaves_no_backup_and_no_lock() {
    let database = Database::of_synapse("media_stopped");
    let (repository, store) = (Repository::new(), media_store());
    draft(&database, &repository, "1").run().await.backup();
    let large = fs::File::create(store.path().join("local_content/large")).unwrap();
    large.set_len(16 << 30).unwrap();
    let running = media(store.path(), &repository).start();
    let locked = || fs::read_dir(repository.path().join("locks")).unwrap().next().is_some();
    eventually("it uploads", async || locked()).await;
    running.signal(Signal::TERM);
    running.finish().await.refused("Stopped", &[]);
    assert_eq!((repository.snapshots(MANIFEST), repository.snapshots(MEDIA)), (vec![], vec![]));
    assert_eq!(repository.restic(&["list", "locks"]), "");
}

#[tokio::test]
async fn what_cannot_be_read_is_told_and_there_is_no_backup() {
    let database = Database::of_synapse("media_unreadable");
    let (repository, store) = (Repository::new(), media_store());
    draft(&database, &repository, "1").run().await.backup();
    let (file, words) = (store.path().join("local_content/AA/bb/eeff"), ["jobs.runAsUser", "jobs.fsGroup", "User "]);
    let forbid = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    forbid(0o000);
    let refused = media(store.path(), &repository).no_superuser().run().await;
    refused.refused("MediaUnreadable", &["local_content/AA/bb/eeff", words[0], words[1], words[2]]);
    assert_eq!(repository.snapshots(MANIFEST), Vec::<String>::new());
    forbid(0o600);
    media(store.path(), &repository).no_superuser().run().await.backup();
}

/// Synapse deletes media at any time: also when restic has listed a folder and has not come to the file.
#[tokio::test]
async fn what_is_deleted_while_restic_is_at_work_is_left_out() {
    const MB: u64 = 1 << 20;
    let storage = Storage::start();
    let wire = Wire::to(&storage).await;
    let secret = storage.secret(&wire);
    // So restic cannot read far ahead of what it has uploaded.
    secret.mount("RESTIC_PACK_SIZE", "4");
    let database = Database::of_synapse("media_deleted");
    draft(&database, &secret, "1").with(&["--init"]).run().await.backup();
    let store = media_store();
    let large = |number: u32| format!("local_content/AA/large-{number:02}");
    for number in 0..40 {
        let mut file = fs::File::create(store.path().join(large(number))).unwrap();
        std::io::copy(&mut fs::File::open("/dev/urandom").unwrap().take(2 * MB), &mut file).unwrap();
    }
    put(store.path(), "local_content/ZZ/zz/file", "deleted with its folder");
    wire.after(6 * MB, Way::Stalled);
    let running = media(store.path(), &secret).start();
    wire.until(Way::Stalled).await;
    (36..40).for_each(|number| fs::remove_file(store.path().join(large(number))).unwrap());
    fs::remove_dir_all(store.path().join("local_content/ZZ")).unwrap();
    wire.open();
    let done = running.finish().await;
    assert!(done.result().summary.starts_with("backed up 39 files of media in "), "{done:?}");
    let stored = storage.snapshots(MEDIA).remove(0);
    let listed = storage.restic(&["ls", "--no-lock", &stored]);
    assert!(listed.contains("/large-35") && !listed.contains("/large-36") && !listed.contains("/ZZ/zz"), "{listed}");
    assert_eq!(storage.snapshots(MANIFEST), [done.backup().snapshot.clone()]);
    let checked = storage.restic(&["check", "--no-lock"]);
    assert!(checked.contains("no errors were found"), "{checked}");
}

#[tokio::test]
async fn the_media_of_one_run_do_not_complete_the_backup_of_another() {
    let database = Database::of_synapse("media_of_another");
    let (repository, store) = (Repository::new(), media_store());
    draft(&database, &repository, "1").run().await.backup();
    let path = store.path().display().to_string();
    let another = ["--media-store", &path, "--of-run", "0b5e9d6a-0000-4000-8000-000000000001.70"];
    let refused = Program::task("backup-media").repository(&repository).with(&another).run().await;
    refused.refused("DraftMissing", &[]);
    let of_other = Program::task("backup-media").repository_of(&repository, "other").with(&another[..2]);
    of_other.run().await.refused("DraftMissing", &[]);
    assert_eq!((repository.snapshots(MANIFEST), repository.snapshots(MEDIA)), (vec![], vec![]));
}

#[tokio::test]
async fn preflight_finds_what_the_media_would_fail_for() {
    let database = database_with_media("media_preflight");
    let store = media_store();
    let database = &database;
    let check = |path: &Path| {
        let path = path.to_owned();
        async move { check(database, &path, json!({})).await }
    };
    let well = check(store.path()).await;
    let plan = &well.preflight().plan[0];
    assert_eq!(plan.summary, "would back up local_content, local_thumbnails");
    assert_eq!(plan.media.as_ref().map(|found| (found.looked_for, found.missing)), Some((3, 0)));
    check(&store.path().join("nowhere")).await.refused("MediaMissing", &["nowhere", "spec.mediaStore.path"]);

    let empty = tempfile::tempdir().unwrap();
    check(empty.path()).await.refused("MediaMissing", &["local_content", "spec.mediaStore.elsewhere"]);
    database.as_synapse_sql("DELETE FROM local_media_repository");
    assert!(check(empty.path()).await.preflight().plan[0].summary.contains("none yet"));

    // Also deep below the first file.
    for folder in ["local_thumbnails", "local_thumbnails/ZZ/zz"] {
        let folder = store.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o000)).unwrap();
        check(store.path()).await.refused("MediaUnreadable", &[&folder.display().to_string(), "jobs.runAsUser"]);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[tokio::test]
async fn a_homeserver_without_media_has_backups_too() {
    let database = Database::of_synapse("media_none");
    let (repository, store) = (Repository::new(), tempfile::tempdir().unwrap());
    draft(&database, &repository, "1").run().await.backup();
    let done = media(store.path(), &repository).run().await;
    assert_eq!(manifest(&repository, &done.backup().snapshot)["media"]["files"], 0);
    assert_eq!(repository.snapshots(MANIFEST).len(), 1);
}

#[tokio::test]
async fn media_come_back_and_nothing_is_deleted() {
    let database = Database::of_synapse("media_restored");
    let (repository, store) = (Repository::new(), media_store());
    draft(&database, &repository, "1").run().await.backup();
    media(store.path(), &repository).run().await.backup();
    let read = |path: &str| fs::read_to_string(store.path().join(path)).unwrap();
    let (deleted, changed) = ("local_content/AA/bb/ccdd", "local_content/AA/bb/eeff");
    fs::remove_file(store.path().join(deleted)).unwrap();
    // Spoilt by a disk: as long as before, and of the same time.
    let times = fs::metadata(store.path().join(changed)).unwrap().modified().unwrap();
    let spoilt = read(changed).replace("beginning", "BEGINNING");
    put(store.path(), changed, &spoilt);
    fs::File::options().write(true).open(store.path().join(changed)).unwrap().set_modified(times).unwrap();
    put(store.path(), "local_content/ZZ/extra", "uploaded since");
    put(store.path(), "url_cache/2026-11-22/aabb", "previews are left alone");

    let restore = |path: &Path| {
        let path = path.display().to_string();
        Program::task("restore-media").of_server(&repository).with(&["--media-store", &path])
    };
    restore(&store.path().join("nowhere")).run().await.refused("MediaMissing", &["nowhere"]);
    let done = restore(store.path()).no_superuser().run().await;
    assert!(done.result().summary.starts_with("3 files of media are as on 20"), "{done:?}");
    for path in [deleted, changed] {
        assert_eq!(read(path), format!("{path} in the beginning"));
    }
    assert_eq!(read("local_content/ZZ/extra"), "uploaded since");
    assert_eq!(read("url_cache/2026-11-22/aabb"), "previews are left alone");

    let elsewhere = tempfile::tempdir().unwrap();
    restore(elsewhere.path()).run().await.result();
    assert_eq!(fs::read_to_string(elsewhere.path().join(deleted)).unwrap(), read(deleted));
    fs::set_permissions(elsewhere.path().join("local_content/AA/bb"), fs::Permissions::from_mode(0o500)).unwrap();
    fs::remove_file(elsewhere.path().join(deleted)).unwrap();
    restore(elsewhere.path())
        .no_superuser()
        .run()
        .await
        .refused("MediaNotWritten", &["local_content/AA/bb/ccdd", "User "]);

    let database_alone = back_up(&database, &repository).run().await.backup().snapshot.clone();
    restore(store.path()).run().await.refused("NoMediaInBackup", &[&database_alone[..8]]);
}

#[tokio::test]
async fn a_bucket_beside_the_media_store_is_told_of() {
    let database = Database::of_synapse("media_bucket");
    let repository = Repository::new();
    let config = tempfile::tempdir().unwrap();
    let text = "server_name: example.org\nmedia_storage_providers:\n  - module: s3_storage_provider.S3StorageProviderBackend\n";
    put(config.path(), "secrets/synapse-config/homeserver.yaml", text);
    let directory = config.path().display().to_string();
    let told = ["--config-dir", &directory, "--config-secret", "synapse-config"];
    let done = draft(&database, &repository, "1").with(&told).run().await;
    // The other one is about the password of the new repository.
    let about_media = |warning: &&String| warning.contains("media_storage_providers");
    let warning = done.result().warnings.iter().find(about_media).unwrap_or_else(|| panic!("{done:?}"));
    assert!(warning.contains("homeserver.yaml of Secret synapse-config") && warning.contains("bucket"), "{warning}");
    let store = media_store();
    let sealed = media(store.path(), &repository).run().await;
    assert_eq!(manifest(&repository, &sealed.backup().snapshot)["warnings"], json!([warning]));
}
