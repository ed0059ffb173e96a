//! Links in a media store: no backup stores one, and no restore replaces one.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    media::{MEDIA, check, database_with_media, draft, manifest, media, media_store},
    support::{Program, Repository},
    verify::{verdict, verify},
};

/// Where a link is, and where to. What is there goes behind the link, unless it leads nowhere.
const LINKS: [(&str, Option<&str>); 5] = [
    ("local_content", Some("content")),
    ("local_content", None),
    ("local_thumbnails", Some("thumbnails")),
    ("local_content/AA/bb", Some("folder")),
    ("local_content/AA/bb/ccdd", Some("file")),
];

/// A media store in which something is a link.
fn with_link(link: &str, to: Option<&str>) -> (TempDir, TempDir, PathBuf) {
    let (store, bigger) = (media_store(), tempfile::tempdir().unwrap());
    let (from, to) = (store.path().join(link), to.map(|to| bigger.path().join(to)));
    match &to {
        Some(to) => fs::rename(&from, to).unwrap(),
        None => fs::remove_dir_all(&from).unwrap(),
    }
    symlink(to.unwrap_or_else(|| bigger.path().join("nowhere")), &from).unwrap();
    (store, bigger, from)
}

fn restore(repository: &Repository, store: &Path) -> Program {
    let store = store.display().to_string();
    Program::task("restore-media").of_server(repository).with(&["--media-store", &store])
}

#[tokio::test]
async fn a_link_is_refused_before_anything_is_stored() {
    let database = database_with_media("links_stored");
    let repository = Repository::new();
    draft(&database, &repository, "1").run().await.backup();
    for (link, to) in LINKS {
        let (store, _bigger, from) = with_link(link, to);
        let words = [&format!("{} is a link to ", from.display()) as &str, "Nothing was changed"];
        check(&database, store.path(), json!({})).await.refused("MediaLinked", &words);
        media(store.path(), &repository).run().await.refused("MediaLinked", &words);
        assert_eq!(repository.snapshots(MEDIA), [""; 0], "{link}");
    }
}

#[tokio::test]
async fn a_restore_never_replaces_a_link() {
    let database = database_with_media("links_restored");
    let repository = Repository::new();
    draft(&database, &repository, "1").run().await.backup();
    media(media_store().path(), &repository).run().await.backup();
    for (link, to) in LINKS {
        let (store, bigger, from) = with_link(link, to);
        let before = fs::read_link(&from).unwrap();
        restore(&repository, store.path()).run().await.refused("MediaLinked", &[link]);
        assert_eq!(fs::read_link(&from).unwrap(), before, "{link}");
        drop(bigger);
        restore(&repository, store.path()).run().await.refused("MediaLinked", &[link]);
    }
}

#[tokio::test]
async fn a_media_store_that_is_a_link_is_followed() {
    let database = database_with_media("links_followed");
    let (repository, store, place) = (Repository::new(), media_store(), tempfile::tempdir().unwrap());
    let link = place.path().join("media_store");
    symlink(store.path(), &link).unwrap();
    let plan = check(&database, &link, json!({})).await;
    assert_eq!(plan.preflight().plan[0].media.as_ref().map(|found| found.missing), Some(0));
    draft(&database, &repository, "1").run().await.backup();
    let done = media(&link, &repository).run().await;
    assert_eq!(manifest(&repository, &done.backup().snapshot)["media"]["files"], 3);

    fs::remove_dir_all(store.path().join("local_content")).unwrap();
    restore(&repository, &link).run().await.result();
    assert!(link.is_symlink(), "it is one still");
    assert!(store.path().join("local_content/AA/bb/ccdd").is_file());

    fs::remove_file(&link).unwrap();
    symlink("/nowhere", &link).unwrap();
    check(&database, &link, json!({})).await.refused("MediaMissing", &["a link to /nowhere", "spec.mediaStore.path"]);
    restore(&repository, &link).run().await.refused("MediaMissing", &["media_store"]);
}

#[tokio::test]
async fn a_drill_finds_links_that_an_earlier_release_has_stored() {
    let database = database_with_media("links_drill");
    let (repository, store) = (Repository::new(), media_store());
    draft(&database, &repository, "1").run().await.backup();
    let snapshot = media(store.path(), &repository).run().await.backup().snapshot.clone();
    let (linked, _bigger, _) = with_link("local_content", Some("content"));
    let said = repository.restic(&["backup", "--json", &linked.path().display().to_string()]);
    let said: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    let mut text = manifest(&repository, &snapshot);
    text["media"]["snapshot"] = said["snapshot_id"].clone();
    let with_link = repository.store("manifest.json", &text.to_string());
    let done = verify(&repository, &with_link, "links_drill_drill").run().await;
    done.refused("MediaDiffer", &["1 link was stored", "local_content"]);
    assert_eq!(verdict(done.report()).map(|found| found.is_whole), Some(false));
}
