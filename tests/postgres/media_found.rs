//! The media that the database names are looked for: a backup without them only looks good.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, net::UnixListener},
    path::Path,
    process::Command,
};

use serde_json::json;
use synapse_keeper::contract::MediaSample;

use crate::{
    media::{check, database_with_media, draft, media, media_store, put, upload},
    support::{Database, Finished, Program, Repository},
    verify::{verdict, verify},
};

/// What preflight has found.
fn found(done: &Finished) -> Option<(i64, i64)> {
    let plan = &done.preflight().plan[0];
    plan.media.as_ref().map(|MediaSample { looked_for, missing, .. }| (*looked_for, *missing))
}

/// An empty folder in its place, as when the claim that belongs there is not mounted.
fn empty(store: &Path, folder: &str) {
    fs::remove_dir_all(store.join(folder)).unwrap();
    fs::create_dir(store.join(folder)).unwrap();
}

/// A backup with these media, and its drill.
async fn drill(database: &Database, store: &Path, arguments: &[&str]) -> (Repository, Finished) {
    let repository = Repository::new();
    draft(database, &repository, "1").run().await.backup();
    let snapshot = media(store, &repository).with(arguments).run().await.backup().snapshot.clone();
    let name = format!("{}_drill", database.name);
    database.server.psql("postgres", &format!("DROP DATABASE IF EXISTS {name}"));
    let done = verify(&repository, &snapshot, &name).run().await;
    (repository, done)
}

#[tokio::test]
async fn a_folder_without_any_of_the_media_is_refused_and_no_drill_finds_it_whole() {
    let database = database_with_media("found_none");
    for folder in ["local_content", "local_thumbnails"] {
        let store = media_store();
        empty(store.path(), folder);
        let place = format!("{folder} of {}", store.path().display());
        let refused = check(&database, store.path(), json!({})).await;
        refused.refused("MediaMissing", &[&place, &format!("{folder}/AA/bb/"), "spec.mediaStore.elsewhere"]);
        // Something else than what the database names is none of it.
        put(store.path(), &format!("{folder}/ZZ/zz/other"), "of another homeserver");
        check(&database, store.path(), json!({})).await.refused("MediaMissing", &[&place]);

        let (_, done) = drill(&database, store.path(), &[]).await;
        done.refused("MediaMissing", &[&format!("{folder} of the backup")]);
        assert_eq!(verdict(done.report()).map(|found| found.is_whole), Some(false));

        let elsewhere = check(&database, store.path(), json!({"mediaElsewhere": true})).await;
        assert_eq!(found(&elsewhere), None, "a storage provider has them");
        let (_, done) = drill(&database, store.path(), &["--media-elsewhere"]).await;
        assert_eq!(
            (done.result().media.as_ref(), verdict(done.report()).map(|found| found.is_whole)),
            (None, Some(true))
        );
    }
}

#[tokio::test]
async fn some_that_are_missing_are_counted() {
    let database = database_with_media("found_some");
    let store = media_store();
    upload(&database, &["ZZyyxxww"]);
    let done = check(&database, store.path(), json!({})).await;
    assert_eq!(found(&done), Some((4, 1)));
    let (_, drilled) = drill(&database, store.path(), &[]).await;
    let sample = drilled.result().media.clone().expect("a sample");
    let expected = MediaSample { looked_for: 4, missing: 1, example: "local_content/ZZ/yy/xxww".to_owned() };
    assert_eq!(sample, expected);
    assert_eq!(verdict(drilled.report()).map(|found| found.is_whole), Some(true));
}

#[tokio::test]
async fn media_that_need_no_file_do_not_count() {
    let database = database_with_media("found_false");
    let store = media_store();
    upload(&database, &["previewaa", "pendingaa", "quarantined"]);
    database.as_synapse_sql(
        "UPDATE local_media_repository SET url_cache = 'https://example.net' WHERE media_id = 'previewaa'; \
         UPDATE local_media_repository SET media_length = NULL WHERE media_id = 'pendingaa'; \
         UPDATE local_media_repository SET quarantined_by = '@admin:example.org' WHERE media_id = 'quarantined'; \
         INSERT INTO local_media_repository_thumbnails (media_id, thumbnail_width, thumbnail_height, thumbnail_type, thumbnail_method) \
         SELECT id, 32, 32, 'image/png', 'crop' FROM unnest('{previewaa,quarantined,deletedaa}'::text[]) id",
    );
    assert_eq!(found(&check(&database, store.path(), json!({})).await), Some((3, 0)));
    let (_, drilled) = drill(&database, store.path(), &[]).await;
    assert_eq!(drilled.result().media.as_ref().map(|sample| (sample.looked_for, sample.missing)), Some((3, 0)));
}

#[tokio::test]
async fn of_other_homeservers_media_are_looked_for_where_they_are_wanted() {
    let database = database_with_media("found_remote");
    let store = media_store();
    database.as_synapse_sql(
        "DELETE FROM remote_media_cache; \
         INSERT INTO remote_media_cache (media_origin, media_id, media_type, created_ts, media_length, filesystem_id) \
         VALUES ('example.net', 'theirs', 'image/png', 0, 1, 'xxyyzz'), ('example.net', 'gone', 'image/png', 0, 1, 'vvwwxx')",
    );
    assert_eq!(found(&check(&database, store.path(), json!({})).await), Some((3, 0)));
    let wanted = check(&database, store.path(), json!({"remoteMedia": true})).await;
    assert_eq!(found(&wanted), Some((5, 1)));
    empty(store.path(), "remote_content");
    let refused = check(&database, store.path(), json!({"remoteMedia": true})).await;
    refused.refused("MediaMissing", &["remote_content of ", "remote_media_cache"]);
}

#[tokio::test]
async fn names_that_are_not_utf_8_come_back_byte_for_byte() {
    let database = database_with_media("found_bytes");
    let store = media_store();
    let folder = store.path().join("local_content/zz/zz");
    fs::create_dir_all(&folder).unwrap();
    // More than a drill reads: one of them is surely drawn.
    let names: Vec<Vec<u8>> = (0..25).map(|index: u8| [&[0xff, 0xfe, index.max(1)][..], b"\n"].concat()).collect();
    let odd = [b" lead".to_vec(), b"-x".to_vec(), b"a:b".to_vec(), b"*".to_vec(), "\u{fc}\u{fffd}".as_bytes().to_vec()];
    for name in names.iter().chain(&odd) {
        fs::write(folder.join(OsStr::from_bytes(name)), name).unwrap();
    }
    let (repository, done) = drill(&database, store.path(), &[]).await;
    assert_eq!(verdict(done.report()).map(|found| found.is_whole), Some(true), "{done:?}");
    let back = tempfile::tempdir().unwrap();
    let path = back.path().display().to_string();
    Program::task("restore-media").of_server(&repository).with(&["--media-store", &path]).run().await.result();
    for name in names.iter().chain(&odd) {
        let restored = back.path().join("local_content/zz/zz").join(OsStr::from_bytes(name));
        assert_eq!(&fs::read(restored).unwrap(), name);
    }
    let all = Command::new("diff").arg("-r").arg(folder).arg(back.path().join("local_content/zz/zz")).status().unwrap();
    assert!(all.success());
}

#[tokio::test]
async fn what_is_no_file_is_neither_read_nor_in_the_way() {
    let database = database_with_media("found_odd");
    let store = media_store();
    let folder = store.path().join("local_content/zz");
    fs::create_dir(&folder).unwrap();
    let _socket = UnixListener::bind(folder.join("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(folder.join("fifo")).status().unwrap().success());
    assert_eq!(found(&check(&database, store.path(), json!({})).await), Some((3, 0)));
    let (repository, done) = drill(&database, store.path(), &[]).await;
    assert_eq!(verdict(done.report()).map(|found| found.is_whole), Some(true), "{done:?}");
    let back = tempfile::tempdir().unwrap();
    let path = back.path().display().to_string();
    Program::task("restore-media").of_server(&repository).with(&["--media-store", &path]).run().await.result();
    assert!(back.path().join("local_content/AA/bb/ccdd").is_file());
}
