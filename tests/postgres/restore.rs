//! `task restore-database` and `task swap-database`: a backup comes back beside the database that serves, and takes its
//! place when it is whole.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use synapse_keeper::{contract::DatabaseLeft, task::restore::prefix_beside};

use crate::{
    backup::{MANIFEST, add_one_time_keys, back_up, content},
    support::{Database, Finished, PASSWORD, Program, Repository, eventually, execute},
};

/// A restore with all that its Job has. Tests share a server: each has UIDs of its own.
pub fn restore(database: &Database, repository: &Repository, uid: &str) -> Program {
    // The object of another UID may have the same name.
    let name = uid.strip_prefix("again-").unwrap_or(uid);
    database.task("restore-database").of_server(repository).administrator("databases").with(&[
        "--operation",
        uid,
        "--restore",
        name,
        "--free-space",
        "10Gi",
    ])
}

pub fn swap(database: &Database, uid: &str) -> Program {
    database.task("swap-database").administrator("databases").with(&["--operation", uid])
}

/// A homeserver's database with a backup in a new repository.
pub async fn backed_up(name: &str) -> (Database, Repository) {
    let (database, repository) = (Database::of_synapse(name), Repository::new());
    add_one_time_keys(&database);
    back_up(&database, &repository).run().await.backup();
    (database, repository)
}

/// All databases and their marks.
fn databases(database: &Database) -> String {
    let marks = "SELECT datname, shobj_description(oid, 'pg_database') FROM pg_database";
    database.server.psql("postgres", &format!("{marks} WHERE datname LIKE '{}%' ORDER BY 1", database.name))
}

pub fn another(database: &Database, name: &str) -> Database {
    Database { name: name.to_owned(), server: database.server }
}

/// Of the lines of `content`.
fn is_sequence(line: &str) -> bool {
    line.ends_with("|t") || line.ends_with("|f")
}

fn kept(finished: &Finished) -> String {
    finished.result().restored.clone().expect("a swap").kept.expect("an old database")
}

#[tokio::test]
async fn a_backup_comes_back_beside_and_takes_the_place() {
    let (database, repository) = backed_up("restore_whole").await;
    database.sql("TRUNCATE e2e_one_time_keys_json");
    let before = content(&database);
    add_one_time_keys(&database);
    database.sql("ALTER DATABASE restore_whole SET work_mem = '7MB'; ALTER DATABASE restore_whole SET search_path = public, pg_temp");
    database
        .sql("GRANT CONNECT ON DATABASE restore_whole TO stranger; REVOKE TEMP ON DATABASE restore_whole FROM PUBLIC");
    // After the backup.
    database.as_synapse_sql("SELECT setval('events_stream_seq', 5000000); DELETE FROM users");

    let uid = "whole-00001";
    let finished = restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await;
    assert!(finished.result().summary.contains("beside restore_whole"), "{finished:?}");
    let swapped = swap(&database, uid).with(&["--existing", "rename"]).run().await;
    let kept = kept(&swapped);
    assert!(kept.starts_with("restore_whole_before_"), "{kept}");
    assert!(
        swapped.result().restored.clone().unwrap().kept_size.is_some_and(|size| size.ends_with("MiB")),
        "{swapped:?}"
    );
    let (sequences, tables): (Vec<String>, Vec<String>) =
        content(&database).into_iter().partition(|line| is_sequence(line));
    let (_, tables_before): (Vec<String>, Vec<String>) = before.into_iter().partition(|line| is_sequence(line));
    let changed: Vec<&String> = tables.iter().filter(|line| !tables_before.contains(line)).collect();
    assert!(changed.iter().all(|line| line.starts_with("device_lists_remote_resync")), "{changed:?}");
    assert!(!sequences.is_empty());
    assert_eq!(database.sql("SELECT last_value, is_called FROM events_stream_seq"), "6000001|f");
    assert_eq!(database.sql("SELECT count(*) FROM e2e_one_time_keys_json"), "0");
    assert_eq!(database.sql("SHOW work_mem"), "7MB");
    assert_eq!(database.sql("SHOW search_path"), "public, pg_temp");
    assert_eq!(
        database.sql(
            "SELECT has_database_privilege('stranger', current_database(), 'CONNECT'), \
             has_database_privilege('stranger', current_database(), 'TEMP')"
        ),
        "t|f"
    );
    assert_eq!(
        database.sql("SELECT pg_get_userbyid(datdba), datcollate FROM pg_database WHERE datname = current_database()"),
        "synapse|C"
    );
    // The old one is all there.
    let old = another(&database, &kept);
    assert_eq!(old.sql("SELECT count(*) FROM e2e_one_time_keys_json"), "50");

    // The Pod died before it could say that it had swapped.
    let again = swap(&database, uid).with(&["--existing", "rename", "--attempt", "2"]).run().await;
    assert_eq!(again.result().restored, swapped.result().restored);

    // The object was deleted and made again: nothing a second time. A vacuum or so has nothing against it.
    restore(&database, &repository, "again-whole-00001")
        .with(&["--existing", "rename"])
        .run()
        .await
        .refused("AlreadyRestored", &["restore_whole", "take a new name"]);
    old.server.psql("postgres", &format!("DROP DATABASE \"{kept}\""));
}

/// What an inspection of this homeserver finds of a restore: tests share a server.
async fn left(database: &Database, uid: &str) -> Vec<DatabaseLeft> {
    let found = database.task("inspect").run().await;
    let prefix = prefix_beside(uid);
    found.inspection().left_databases.iter().filter(|left| left.name.starts_with(&prefix)).cloned().collect()
}

#[tokio::test]
async fn what_a_restore_leaves_is_found_by_an_inspection() {
    let (database, repository) = backed_up("restore_left").await;
    let (uid, other) = ("left-0000001", "left-0000002");
    assert_eq!(left(&database, uid).await, []);
    // It is whole, and the run failed before the swap: somebody scaled the homeserver up, or deleted the object.
    let restored = restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await;
    let made = restored.result().beside.clone().expect("it is told");
    assert_eq!((made.restore.as_deref(), made.bytes > 1 << 20), (Some(uid), true), "{made:?}");
    let found = left(&database, uid).await;
    assert!(matches!(&found[..], [one] if one.name == made.name && one.restore == made.restore), "{found:?}");
    assert_eq!(
        found[0].bytes.to_string(),
        another(&database, &made.name).sql("SELECT pg_database_size(current_database())")
    );

    // In its place it is none, and neither is the old one, which is kept on purpose.
    let swapped = swap(&database, uid).with(&["--existing", "rename"]).run().await;
    assert_eq!(swapped.result().beside, None);
    assert_eq!(left(&database, uid).await, []);
    let back = swap(&database, uid).with(&["--back"]).run().await;
    let kept = back.result().beside.clone().expect("it is told");
    let found = left(&database, uid).await;
    assert!(matches!(&found[..], [one] if one.name == kept.name), "{found:?}");
    database.server.psql("postgres", &kept.drop_statement());
    assert_eq!(left(&database, uid).await, []);

    // A task was killed in the middle, or before it could mark what it had made; what is somebody else's is not ours to tell.
    let make = |attempt: i32, owner: &str, comment: &str| {
        let name = format!("{}{attempt}", prefix_beside(other));
        database.server.psql("postgres", &format!("CREATE DATABASE {name} OWNER {owner}"));
        database.server.psql("postgres", &format!("COMMENT ON DATABASE {name} IS {comment}"));
        name
    };
    let unmarked = make(1, "synapse", "NULL");
    let others = [make(2, "synapse", "'a copy for the auditors'"), make(3, "stranger", "NULL")];
    let found = left(&database, other).await;
    assert!(matches!(&found[..], [one] if one.name == unmarked && one.restore.is_none()), "{found:?}");
    for name in others.iter().chain([&unmarked]) {
        database.server.psql("postgres", &format!("DROP DATABASE {name}"));
    }
}

#[tokio::test]
async fn a_database_in_use_is_not_touched() {
    let (database, repository) = backed_up("restore_refused").await;
    let (files, before) = (database.files(), databases(&database));
    restore(&database, &repository, "refused-001").run().await.refused(
        "DatabaseInUse",
        &[
            "restore_refused is in use",
            "create a new SynapseRestore with spec.database: {existing: Rename}",
            "Nothing was changed",
        ],
    );
    assert_eq!((database.files(), databases(&database)), (files, before));
}

#[tokio::test]
async fn a_database_that_nobody_has_used_is_put_aside() {
    let (database, repository) = backed_up("restore_source").await;
    let fresh = database.copy("restore_unused");
    fresh.sql("SET session_replication_role = replica; TRUNCATE users, events CASCADE");
    let uid = "unused-0001";
    restore(&fresh, &repository, uid).run().await.result();
    let swapped = swap(&fresh, uid).run().await;
    assert!(kept(&swapped).starts_with("restore_unused_before_"));
    assert_ne!(fresh.sql("SELECT count(*) FROM users"), "0");
}

#[tokio::test]
async fn a_lost_database_comes_back() {
    let (database, repository) = backed_up("restore_lost").await;
    let users = database.sql("SELECT count(*) FROM users");
    database.server.psql("postgres", "DROP DATABASE restore_lost");
    let uid = "lost-000001";
    restore(&database, &repository, uid).run().await.result();
    let swapped = swap(&database, uid).run().await;
    assert_eq!(swapped.result().restored.clone().unwrap().kept, None);
    assert_eq!(database.sql("SELECT count(*) FROM users"), users);
    swap(&database, uid).with(&["--back"]).run().await.refused("NothingToTakeBack", &[]);
}

#[tokio::test]
async fn a_role_that_may_not_is_told_what_it_lacks() {
    let (database, repository) = backed_up("restore_rights").await;
    let restore = |role| {
        database
            .task("restore-database")
            .of_server(&repository)
            .administrator(role)
            .with(&["--free-space", "10Gi"])
            .run()
    };
    restore("synapse").await.refused("CannotCreateDatabases", &["ALTER ROLE \"synapse\" CREATEDB", "adminCredentials"]);
    database.sql("ALTER ROLE stranger CREATEDB");
    restore("stranger").await.refused("CannotCreateDatabases", &["GRANT \"synapse\" TO \"stranger\""]);
    database.sql("ALTER ROLE stranger NOCREATEDB");
}

#[tokio::test]
async fn what_the_disk_cannot_hold_is_not_begun() {
    let (database, repository) = backed_up("restore_space").await;
    let restore = || {
        database
            .task("restore-database")
            .of_server(&repository)
            .administrator("databases")
            .with(&["--existing", "rename"])
    };
    restore().run().await.refused("FreeSpaceUnknown", &["postgres.dataVolume", "spec.database.freeSpace"]);
    restore().with(&["--free-space", "1Mi"]).run().await.refused("DiskTooSmall", &["1.0 MiB is free"]);
}

#[tokio::test]
async fn a_killed_restore_begins_again_and_leaves_nothing() {
    let (database, repository) = backed_up("restore_killed").await;
    let uid = "killed-0001";
    let files = database.files();
    let wanted = || restore(&database, &repository, uid).with(&["--existing", "rename"]);
    let mine = || {
        let names = database
            .server
            .psql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'synapse_keeper_lled0001%'");
        names.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    for (attempt, signal) in [("1", Signal::KILL), ("2", Signal::TERM)] {
        let running = wanted().with(&["--attempt", attempt]).start();
        eventually("the new database has tables", || async {
            mine().first().filter(|name| name.ends_with(attempt)).is_some_and(|name| {
                let count = database.server.psql(name, "SELECT count(*) FROM pg_class WHERE relname = 'events'");
                count.trim() == "1"
            })
        })
        .await;
        running.signal(signal);
        let finished = running.finish().await;
        if signal == Signal::TERM {
            finished.refused("Stopped", &[]);
            assert_eq!(mine(), Vec::<String>::new(), "what is stopped in order takes its database away");
        }
    }
    wanted().with(&["--attempt", "3"]).run().await.result();
    assert_eq!(mine(), ["synapse_keeper_lled0001_3"]);
    assert_eq!(database.files(), files, "the old one is as it was");
    // The Pod died before it could say so: what is whole is not made again.
    let again = wanted().with(&["--attempt", "4"]).run().await;
    assert!(again.result().summary.contains("an earlier attempt"), "{again:?}");
    assert_eq!(mine(), ["synapse_keeper_lled0001_3"]);
    database.server.psql("postgres", "DROP DATABASE synapse_keeper_lled0001_3");
}

#[tokio::test]
async fn who_writes_to_the_old_database_stops_the_swap_and_who_reads_is_sent_away() {
    let (database, repository) = backed_up("restore_contested").await;
    let uid = "contest-001";
    restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await.result();
    database.sql("GRANT CONNECT ON DATABASE restore_contested TO stranger");
    let mut exporter = database.session("stranger", "postgres_exporter").await;
    restore(&database, &repository, "occupied-01")
        .with(&["--existing", "rename"])
        .run()
        .await
        .refused("CannotEndSessions", &["postgres_exporter", "GRANT pg_signal_backend TO \"databases\""]);
    database.sql("GRANT pg_signal_backend TO databases");
    let mut synapse = database.session("synapse", "synapse-main").await;
    let until = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3)).to_string();
    let in_time = swap(&database, uid).with(&["--existing", "rename", "--until", &until]).run();
    in_time.await.refused("Contested", &["synapse-main"]);
    execute(&mut synapse, "SELECT 1").await;
    drop(synapse);
    let swapped = swap(&database, uid).with(&["--existing", "rename"]).run().await;
    assert!(kept(&swapped).starts_with("restore_contested_before_"));
    assert!(sqlx::query("SELECT 1").execute(&mut exporter).await.is_err(), "it was sent away");
    database.sql("REVOKE pg_signal_backend FROM databases");
}

#[tokio::test]
async fn a_swap_goes_back_unless_synapse_has_used_what_it_found() {
    let (database, repository) = backed_up("restore_back").await;
    let uid = "back-000001";
    database.as_synapse_sql("CREATE TABLE only_in_the_old_one (a int)");
    restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await.result();
    let swap = || swap(&database, uid).with(&["--existing", "rename"]);
    let kept = kept(&swap().run().await);
    let is_old = || database.sql("SELECT count(*) FROM pg_class WHERE relname = 'only_in_the_old_one'") == "1";
    assert!(!is_old());

    database.as_synapse_sql("SELECT nextval('events_stream_seq')");
    swap().with(&["--back"]).run().await.refused("RestoredDatabaseUsed", &["clients hold tokens", &kept]);
    assert!(!is_old());

    database.as_synapse_sql("SELECT setval('events_stream_seq', 7000000, false)");
    for attempt in ["2", "3"] {
        let back = swap().with(&["--back", "--attempt", attempt]).run().await;
        assert!(back.result().summary.contains("is the old database again"), "{back:?}");
        assert!(is_old());
    }
}

#[tokio::test]
async fn purges_of_before_do_not_go_on_by_themselves() {
    let database = Database::of_synapse("restore_tasks");
    database.as_synapse_sql(
        "INSERT INTO scheduled_tasks (id, action, status, timestamp, resource_id) VALUES \
         ('a', 'shutdown_and_purge_room', 'active', 0, '!room:example.org'), ('b', 'purge_history', 'complete', 0, '!b'), \
         ('c', 'delete_device_messages', 'scheduled', 0, 'D')",
    );
    let repository = Repository::new();
    back_up(&database, &repository).run().await.backup();
    for (uid, wish, status) in [("keep-000001", "keep", "active"), ("cancel-0001", "cancel", "cancelled")] {
        restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await.result();
        let swapped = swap(&database, uid).with(&["--existing", "rename", "--scheduled-tasks", wish]).run().await;
        let warnings = &swapped.result().warnings;
        assert!(
            warnings.iter().any(|line| line.contains("shutdown_and_purge_room of !room:example.org")),
            "{warnings:?}"
        );
        let found =
            database.sql("SELECT string_agg(status, ' ' ORDER BY id) FROM scheduled_tasks WHERE id IN ('a', 'b', 'c')");
        assert_eq!(found, format!("{status} complete scheduled"));
    }
}

#[tokio::test]
async fn a_backup_that_does_not_fit_is_refused() {
    let (database, repository) = backed_up("restore_unfit").await;
    let restore = || {
        database.task("restore-database").of_server(&repository).administrator("databases").with(&[
            "--existing",
            "rename",
            "--free-space",
            "10Gi",
        ])
    };
    restore().with(&["--snapshot", "ffff"]).run().await.refused("SnapshotNotFound", &["There is: "]);
    restore().with(&["--before", "2020-01-01T00:00:00Z"]).run().await.refused("SnapshotNotFound", &["before 2020"]);
    // The Synapse that runs here is older than the backup's.
    database.as_synapse_sql("UPDATE schema_version SET version = 10");
    restore().run().await.refused("SchemaTooNew", &["schema 10", "or a newer one"]);
}

#[tokio::test]
async fn preflight_finds_the_backup_and_the_steps_are_told_which() {
    let (database, repository) = backed_up("restore_preflight").await;
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("username"), "databases").unwrap();
    std::fs::write(secret.path().join("password"), PASSWORD).unwrap();
    let wanted = |existing: &str| {
        let mut wanted = repository.destination();
        let more = json!({
            "serverName": "example.org", "snapshot": "latest", "restore": "matrix/r", "existing": existing,
            "freeSpace": "10Gi", "adminCredentialsDir": secret.path(),
        });
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("database={}", json!({"restore": wanted}))
    };
    let media = format!("media={}", json!({"restoreMedia": {"mediaStore": "/nowhere", "ifAny": true}}));
    let preflight = |existing: &str, media: &str| {
        let task = database.task("preflight").repository_programs(&repository);
        task.with(&["--step", &wanted(existing), "--step", media]).run()
    };
    let before = databases(&database);
    let found = preflight("Rename", &media).await;
    let found = found.preflight();
    let snapshot = format!("--snapshot={}", repository.snapshots(MANIFEST)[0]);
    for step in ["database", "media"] {
        assert_eq!(found.arguments[step], std::slice::from_ref(&snapshot));
    }
    let told: Vec<&str> = found.plan.iter().map(|plan| plan.summary.as_str()).collect();
    assert!(told[0].contains("restore_preflight would be kept as restore_preflight_before_"), "{told:?}");
    assert_eq!(told[1], "the backup has no media");
    preflight("Refuse", &media).await.refused("DatabaseInUse", &[]);
    let wants_media = media.replace("true", "false");
    preflight("Rename", &wants_media).await.refused("NoMediaInBackup", &[]);
    assert_eq!(databases(&database), before, "it changes nothing");
}

/// At each of its progress: nothing has a name that somebody uses before it is whole, and each attempt begins where the last one
/// was killed.
#[tokio::test]
async fn killed_at_every_step_it_comes_to_its_end_and_the_old_database_is_as_it_was() {
    let (database, repository) = backed_up("restore_series").await;
    let files = database.files();
    let mut attempt = 0;
    loop {
        attempt += 1;
        let running = restore(&database, &repository, "series-0001")
            .with(&["--existing", "rename", "--attempt", &attempt.to_string()])
            .start();
        if !running.killed_after(attempt).await {
            break;
        }
        assert_eq!(database.files(), files, "killed after {attempt}");
        let marks = database.server.psql(
            "postgres",
            "SELECT count(*) FROM pg_database WHERE datname LIKE 'synapse_keeper_ries0001%' \
             AND shobj_description(oid, 'pg_database') LIKE '%\"whole\"%'",
        );
        assert_eq!(marks.trim(), "0", "killed after {attempt}: nothing is whole yet");
    }
    assert!(attempt > 5, "killed only {attempt} times");
    let left = "SELECT string_agg(datname, ' ') FROM pg_database WHERE datname LIKE 'synapse_keeper_ries0001%'";
    assert_eq!(database.server.psql("postgres", left).trim(), format!("synapse_keeper_ries0001_{attempt}"));
    swap(&database, "series-0001").with(&["--existing", "rename"]).run().await.result();
}

/// Until the third format the rows were `pg_dump`'s plain SQL, and restic compressed them.
#[tokio::test]
async fn a_backup_of_the_second_format_comes_back() {
    let (database, repository) = backed_up("restore_older").await;
    let newest = repository.snapshots(MANIFEST).remove(0);
    let manifest = std::fs::read_to_string(repository.fetch(&newest, "manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&manifest).unwrap();
    let dump = std::process::Command::new(database.server.program("pg_dump"))
        .args([
            "--format=plain",
            "--data-only",
            "--exclude-table-data=*.e2e_one_time_keys_json",
            "--no-unlogged-table-data",
        ])
        .args(["-U", "postgres", "-h", &database.server.socket(), "-p", &database.server.port.to_string()])
        .arg(&database.name)
        .output()
        .unwrap();
    let tags = ["synapse-keeper", "origin=6e7a", "server=example.org", "format=2", "attempt=older.1.1"];
    let rows = repository.store_with_tags("data-1.sql", &String::from_utf8(dump.stdout).unwrap(), &tags);
    let schema = manifest["parts"]["schema.dump"].clone();
    let parts = manifest["parts"].as_object().unwrap().values();
    let counted: serde_json::Map<String, Value> =
        parts.flat_map(|part| part["rows"].as_object().unwrap().clone()).collect();
    manifest["format"] = json!(2);
    manifest["parts"] = json!({"schema.dump": schema, "data-1.sql": {"snapshot": rows, "bytes": 1, "rows": counted}});
    let of_manifest = ["manifest", "parts=1", "taken-at=2026-01-01T00:00:00Z", "postgres=15"];
    let older = repository.store_with_tags("manifest.json", &manifest.to_string(), &[&tags[..], &of_manifest].concat());

    let uid = "older-00001";
    let restored =
        restore(&database, &repository, uid).with(&["--existing", "rename", "--snapshot", &older]).run().await;
    restored.result();
    let swapped = swap(&database, uid).with(&["--existing", "rename"]).run().await;
    let kept = another(&database, &kept(&swapped));
    kept.sql("TRUNCATE e2e_one_time_keys_json");
    let is_changed_by_the_swap = |line: &str| is_sequence(line) || line.starts_with("device_lists_remote_resync");
    let rows_of = |database: &Database| {
        content(database).into_iter().filter(|line| !is_changed_by_the_swap(line)).collect::<Vec<_>>()
    };
    assert_eq!(rows_of(&database), rows_of(&kept));
}

#[tokio::test]
async fn a_swap_that_is_killed_at_any_moment_leaves_one_whole_database_by_the_homeserver_s_name() {
    let (database, repository) = backed_up("restore_halves").await;
    database.as_synapse_sql("CREATE TABLE only_in_the_old_one (a int)");
    let uid = "halves-0001";
    restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await.result();
    let users = database.sql("SELECT count(*) FROM users");
    let is_old = || database.sql("SELECT count(*) FROM pg_class WHERE relname = 'only_in_the_old_one'") == "1";
    // There and back again, each time a little later until it was too late.
    let (mut times, mut later) = (0, Duration::from_millis(100));
    for round in 0..200 {
        let was_old = is_old();
        let back: &[&str] = if was_old { &[] } else { &["--back"] };
        let mut running = swap(&database, uid).with(&["--existing", "rename"]).with(back).start();
        tokio::time::sleep(later).await;
        running.child.kill().await.unwrap();
        database.server.ends_sessions_of(uid).await;
        assert_eq!(database.sql("SELECT count(*) FROM users"), users, "round {round}");
        let has_keys = database.sql("SELECT count(*) FROM e2e_one_time_keys_json") != "0";
        assert_eq!(has_keys, is_old(), "round {round}");
        if is_old() == was_old {
            later += Duration::from_millis(40);
            continue;
        }
        times += 1;
        later = later.saturating_sub(Duration::from_millis(200));
        if times == 4 {
            return;
        }
    }
    panic!("swapped {times} times in 200 attempts");
}
