//! `task verify` with a real restic and a real PostgreSQL: a good backup is found whole, and nothing else is.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use synapse_keeper::contract::Verdict;

use crate::{
    backup::{ALL, SNAPSHOTS, back_up, mounted_config},
    media::{database_with_media, draft, media, media_store},
    retain::retain,
    support::{Database, Program, Repository, server},
};

/// The backup of this name, restored into a new database with this name.
pub fn verify(repository: &Repository, snapshot: &str, database: &str) -> Program {
    let (socket, port) = (server().socket(), server().port.to_string());
    let server = ["--socket", &socket, "--port", &port, "--database", database, "--snapshot", snapshot];
    Program::task("verify").repository(repository).with(&server)
}

pub fn verdict(report: &synapse_keeper::contract::Report) -> Option<&Verdict> {
    report.result.as_ref()?.verdict.as_ref()
}

/// The key with which the fixture's Synapse signs.
fn signing_key_of(database: &Database) -> String {
    let sql = "SELECT DISTINCT jsonb_object_keys(json::jsonb -> 'signatures' -> 'example.org') FROM event_json";
    database.sql(sql).strip_prefix("ed25519:").expect("one key").to_owned()
}

/// A folder with a file of signing keys, as it is mounted.
fn key_file(version: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), format!("ed25519 {version} R8cr+adpPk6FCTYT8UPHxPOdK0zP9QsYd95jphAfFwk\n")).unwrap();
    file
}

#[tokio::test]
async fn a_good_backup_is_found_whole_and_the_repository_remembers_it() {
    let database = Database::of_synapse("verify_good");
    let repository = Repository::new();
    let (config, key) = (mounted_config(), key_file(&signing_key_of(&database)));
    let (config, key) = (config.path().display().to_string(), key.path().display().to_string());
    let made = back_up(&database, &repository)
        .with(&["--config-dir", &config, "--config-secret", "signing-key", "--signing-key-file", &key])
        .run()
        .await;
    let first = made.backup().clone();
    let manifest = fs::read_to_string(repository.fetch(&first.snapshot, "manifest.json")).unwrap();
    assert!(!manifest.contains("R8cr"), "the key itself is nobody's business");

    let done = verify(&repository, &first.snapshot, "verify_good_drill").run().await;
    let result = done.result();
    let found = verdict(done.report()).expect("a verdict");
    assert!(found.is_whole && found.snapshot == first.snapshot, "{found:?}");
    assert_eq!(found.taken_at, Some(first.taken_at.clone()));
    for word in [
        &format!("restored {} rows", first.rows) as &str,
        "sequences are ahead",
        "the signing key is that of the newest event",
        "1 object of the configuration can be read",
    ] {
        assert!(result.summary.contains(word), "{word:?} is not in {}", result.summary);
    }
    let restored = Database { name: "verify_good_drill".to_owned(), server: server() };
    assert_eq!(restored.checksum("events"), database.checksum("events"));

    // It is never taken away before another was verified; the newest never is.
    for _ in 0..2 {
        back_up(&database, &repository).run().await.backup();
    }
    let kept = retain(&repository).with(&["--keep-last=1"]).run().await;
    let listed = kept.result().backups.clone().unwrap();
    assert_eq!((listed.count, &listed.verified), (2, &Some(first.taken_at)));
    assert_eq!(listed.newest[1].id, first.snapshot);
    assert!(listed.newest[1].verified_at.is_some() && listed.newest[0].verified_at.is_none(), "{listed:?}");
    let newest = listed.newest[0].id.clone();
    verify(&repository, "latest", "verify_good_again").run().await.result();
    let kept = retain(&repository).with(&["--keep-last=1"]).run().await;
    let listed = kept.result().backups.clone().unwrap();
    assert_eq!((listed.count, listed.newest[0].id.as_str()), (1, newest.as_str()));
    assert_eq!(repository.snapshots(ALL).len(), SNAPSHOTS + 1, "the backup and its mark: the other's went with it");
}

/// Every file of a repository under these folders, one after the other.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found.sort();
    found
}

/// Changes one byte near the beginning: of a pack, in its first blob.
fn change_a_byte(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    bytes[10] ^= 0x41;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn one_byte_that_is_not_as_it_was_is_found() {
    let database = Database::of_synapse("verify_damaged");
    let repository = Repository::new();
    let snapshot = back_up(&database, &repository).run().await.backup().snapshot.clone();
    let whole = repository.path();
    let of = |folder: &str| {
        let found = files(&whole.join(folder)).into_iter();
        found.map(|file| file.strip_prefix(&whole).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (mut indexes, mut snapshots, mut packs) = (of("index"), of("snapshots"), of("data"));
    assert!(packs.len() >= 8, "rows, schema and manifest, and a tree of each: {packs:?}");
    // They are all alike; of packs the small ones are trees and the large ones rows.
    indexes.truncate(1);
    snapshots.truncate(2);
    packs.sort_by_key(|pack| fs::metadata(whole.join(pack)).unwrap().len());
    packs = packs.into_iter().step_by(2).collect();
    let gone: Vec<PathBuf> = indexes.iter().chain(packs.iter().step_by(3)).cloned().collect();
    let changed = [vec!["config".into()], of("keys"), indexes, snapshots, packs].concat();
    type Damage = fn(&Path);
    let remove: Damage = |file| fs::remove_file(file).unwrap();
    let change: Damage = change_a_byte;
    let damages = changed.into_iter().map(|place| (place, change)).chain(gone.into_iter().map(|place| (place, remove)));
    // Each spends most of its time on the derivation of restic's key.
    let looks = damages.enumerate().map(|(number, (place, damage))| {
        let (damaged, snapshot) = (repository.copy(), &snapshot);
        damage(&damaged.path().join(&place));
        async move { refused(&damaged, snapshot, &format!("verify_damaged_{number}"), &place).await }
    });
    stream::iter(looks).buffer_unordered(4).collect::<Vec<()>>().await;
}

async fn refused(damaged: &Repository, snapshot: &str, database: &str, place: &Path) {
    let done = verify(damaged, snapshot, database).run().await;
    done.refused("RepositoryDamaged", &["restic check"]);
    let found = verdict(done.report()).expect("a verdict");
    assert!(!found.is_whole && found.snapshot == snapshot, "{}: {found:?}", place.display());
    if server().psql("postgres", &format!("SELECT count(*) FROM pg_database WHERE datname = '{database}'")).trim()
        == "1"
    {
        server().psql("postgres", &format!("DROP DATABASE {database}"));
    }
}

#[tokio::test]
async fn a_manifest_that_is_not_this_backup_s_is_found() {
    let database = Database::of_synapse("verify_manifest");
    let repository = Repository::new();
    let key = key_file(&signing_key_of(&database));
    let key = key.path().display().to_string();
    let made = back_up(&database, &repository).with(&["--signing-key-file", &key]).run().await;
    let snapshot = made.backup().snapshot.clone();
    let manifest: Value =
        serde_json::from_slice(&fs::read(repository.fetch(&snapshot, "manifest.json")).unwrap()).unwrap();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut manifest = manifest.clone();
        change(&mut manifest);
        repository.store("manifest.json", &manifest.to_string())
    };
    let set = |field: &'static str, value: Value| changed(&|manifest| manifest[field] = value.clone());
    let one_row_more = changed(&|manifest| {
        for part in manifest["parts"].as_object_mut().unwrap().values_mut() {
            if let Some(rows) = part["rows"].get_mut("public.events") {
                *rows = json!(rows.as_u64().unwrap() + 1);
            }
        }
    });
    let schema_is_rows = changed(&|manifest| {
        manifest["parts"]["schema.dump"]["snapshot"] = manifest["parts"]["data-1.sql.zst"]["snapshot"].clone();
    });
    for (number, (id, reason, words)) in [
        (set("serverName", json!("example.net")), "ServerNameDiffers", "example.net"),
        (set("origin", json!("another")), "ServerNameDiffers", "another"),
        (set("format", json!(99)), "ManifestUnreadable", "99"),
        (set("parts", json!({})), "ManifestUnreadable", "schema.dump"),
        (set("takenAt", json!("yesterday")), "ManifestUnreadable", "cannot be read"),
        (set("signingKeyIds", json!(["ed25519:a_other"])), "SigningKeyDiffers", "ed25519:a_other"),
        (one_row_more, "RowsDiffer", "public.events"),
        (schema_is_rows, "RepositoryDamaged", "schema.dump"),
    ]
    .into_iter()
    .enumerate()
    {
        let done = verify(&repository, &id, &format!("verify_manifest_{number}")).run().await;
        done.refused(reason, &[words]);
        assert_eq!(verdict(done.report()).map(|found| found.is_whole), Some(false), "{reason}");
    }
}

#[tokio::test]
async fn media_are_looked_at_and_what_is_missing_is_found() {
    let database = database_with_media("verify_media");
    let (repository, store) = (Repository::new(), media_store());
    draft(&database, &repository, "1").run().await.result();
    let snapshot = media(store.path(), &repository).run().await.backup().snapshot.clone();
    let done = verify(&repository, &snapshot, "verify_media_drill").run().await;
    let seen = "3 files of media are there";
    assert!(done.result().summary.contains(seen), "{done:?}");
    assert!(done.result().summary.ends_with("3 read byte by byte"), "{done:?}");
    let all = verify(&repository, &snapshot, "verify_media_all").with(&["--media", "all"]).run().await;
    assert!(all.result().summary.ends_with("all read byte by byte"), "{all:?}");

    let manifest = fs::read_to_string(repository.fetch(&snapshot, "manifest.json")).unwrap();
    let mut one_more: Value = serde_json::from_str(&manifest).unwrap();
    one_more["media"]["files"] = json!(4);
    let one_more = repository.store("manifest.json", &one_more.to_string());
    let done = verify(&repository, &one_more, "verify_media_missing").run().await;
    done.refused("MediaDiffer", &["there are 3 files", "there were 4"]);
    assert_eq!(verdict(done.report()).map(|found| found.is_whole), Some(false));
}

#[tokio::test]
async fn a_drill_that_could_not_look_gives_no_verdict() {
    let database = Database::of_synapse("verify_blind");
    let repository = Repository::new();
    let snapshot = back_up(&database, &repository).run().await.backup().snapshot.clone();
    let manifest = fs::read_to_string(repository.fetch(&snapshot, "manifest.json")).unwrap();
    let mut newer: Value = serde_json::from_str(&manifest).unwrap();
    newer["postgresVersion"] = json!(990_001);
    let newer = repository.store("manifest.json", &newer.to_string());
    let nowhere = tempfile::tempdir().unwrap();
    let silent = Program::task("verify").repository(&repository).with(&["--snapshot", &snapshot, "--patience", "1"]);
    let silent = silent.with(&["--socket", &nowhere.path().display().to_string()]);
    let missing = "0".repeat(64);
    for (program, reason, words) in [
        (silent, "ScratchServerSilent", "spec.verify.image"),
        (verify(&repository, &newer, "verify_blind_newer"), "ScratchServerDiffers", "PostgreSQL 99"),
        (verify(&repository, &missing, "verify_blind_missing"), "SnapshotNotFound", "retention"),
    ] {
        let done = program.run().await;
        done.refused(reason, &[words]);
        assert_eq!(verdict(done.report()), None, "{reason}");
    }
    repository.mount("RESTIC_PASSWORD", "another");
    let done = verify(&repository, &snapshot, "verify_blind_password").run().await;
    done.refused("RepositoryPasswordRefused", &["not a password"]);
    assert_eq!(verdict(done.report()), None);
}

#[tokio::test]
async fn a_database_on_which_synapse_would_not_start_is_found() {
    let database = Database::of_synapse("verify_sequence");
    database.sql("SELECT setval('events_stream_seq', 1)");
    let repository = Repository::new();
    let snapshot = back_up(&database, &repository).run().await.backup().snapshot.clone();
    let done = verify(&repository, &snapshot, "verify_sequence_drill").run().await;
    done.refused("SequenceBehind", &["events_stream_seq is at 1"]);
    assert_eq!(verdict(done.report()).map(|found| found.is_whole), Some(false));
    let listed = retain(&repository).run().await.result().backups.clone().unwrap();
    assert_eq!(listed.verified, None, "its mark says that it is not whole");
}

/// The demo's homeserver is seeded through its API and grows by SQL. A drill compares the newest event's key with the Secret's.
#[tokio::test]
async fn a_homeserver_that_was_inflated_signs_with_its_own_key() {
    let database = Database::of_synapse("verify_inflated");
    let signed = || {
        database.sql(
            "SELECT stream_ordering, json_object_keys(json::json -> 'signatures' -> 'example.org') FROM events JOIN event_json USING (event_id) \
             WHERE stream_ordering > 0 AND sender LIKE '@%:example.org' ORDER BY stream_ordering DESC LIMIT 1",
        )
    };
    let newest_of_server = || {
        let (ordering, key) =
            signed().split_once('|').map(|(one, other)| (one.to_owned(), other.to_owned())).expect("two");
        (ordering.parse::<i64>().expect("a number"), key)
    };
    let (before, key) = newest_of_server();
    let rooms: i64 = database.sql("SELECT count(*) FROM rooms").parse().unwrap();
    let events: i64 = database.sql("SELECT count(*) FROM events").parse().unwrap();
    let (socket, port) = (database.server.socket(), database.server.port.to_string());
    let inflated = std::process::Command::new(database.server.program("psql"))
        .args(["-Xq", "-U", "postgres", "-h", &socket, "-p", &port, "-d", &database.name])
        .args(["-v", &format!("rooms={}", rooms + 10), "-v", &format!("events={}", events + 400)])
        .args(["-f", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/homeserver/inflate.sql")])
        .output()
        .expect("psql");
    assert!(inflated.status.success(), "{}", String::from_utf8_lossy(&inflated.stderr));
    let (after, still) = newest_of_server();
    assert!(after > before, "it has grown");
    assert_eq!((key.as_str(), still.as_str()), ("ed25519:a_demo", "ed25519:a_demo"));
}
