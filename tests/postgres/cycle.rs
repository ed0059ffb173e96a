//! What a homeserver lives through from its first inspection to its last restore, once, on whichever PostgreSQL the tests have
//! (`POSTGRES_MAJOR`): `tests/postgres/majors` runs these on several. All else is tested on one.

use std::{process::Command, time::Duration};

use rustix::process::Signal;

use crate::{
    backup::{MANIFEST, add_one_time_keys, back_up, content},
    dump, in_place,
    restore::{another, restore, swap},
    support::{Database, Repository, eventually, server, until_reached},
    verify::{verdict, verify},
};

const FULL: &str = r#"vacuum-1={"vacuum":{"mode":"Full","minimumGain":"1Mi","freeSpace":"10Gi"}}"#;

/// Tables whose rows a swap changes on purpose, and sequences, which it pushes on.
fn is_changed_by_a_swap(line: &str) -> bool {
    line.ends_with("|t") || line.ends_with("|f") || line.starts_with("device_lists_remote_resync")
}

fn rows_of(database: &Database) -> Vec<String> {
    content(database).into_iter().filter(|line| !is_changed_by_a_swap(line)).collect()
}

#[tokio::test]
async fn it_is_inspected_and_vacuumed() {
    let database = Database::of_synapse("cycle_vacuum");
    let version = database.sql("SHOW server_version_num");
    let inspected = database.task("inspect").with(&["--server-name", "example.org"]).run().await;
    let found = inspected.inspection();
    assert_eq!(found.postgres_version_num.to_string(), version);
    assert_eq!(found.inconsistent_sequences, Vec::<String>::new());
    assert!(found.schema_version.is_some_and(|version| version >= 90), "{found:?}");
    assert_eq!(found.database_bytes.to_string(), database.sql("SELECT pg_database_size(current_database())"));

    database.add_bloated("bloated", 60_000);
    let rows = database.checksum("bloated");
    let planned = database.task("preflight").with(&["--step", FULL]).run().await;
    let tables: Vec<&str> = planned.preflight().plan[0].tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(tables[0], "bloated");
    let size = || database.sql("SELECT pg_table_size('bloated')").parse::<u64>().unwrap();
    let before = size();
    let task = database.task("vacuum").with(&["--mode", "Full", "--minimum-gain", "1Mi", "--free-space", "10Gi"]);
    task.run().await.result();
    assert!(size() * 2 < before, "{before} bytes became {}", size());
    assert_eq!(database.checksum("bloated"), rows);
}

#[tokio::test]
async fn it_is_backed_up_drilled_and_restored_beside() {
    let database = Database::of_synapse("cycle_beside");
    add_one_time_keys(&database);
    let repository = Repository::new();
    let backup = back_up(&database, &repository).run().await.backup().clone();
    let drill = verify(&repository, &backup.snapshot, "cycle_beside_drill").run().await;
    assert!(verdict(drill.report()).is_some_and(|verdict| verdict.is_whole), "{drill:?}");
    let before = rows_of(&database);

    database.as_synapse_sql("DELETE FROM users");
    let lost = rows_of(&database);
    let uid = "cycle-00001";
    restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await.result();
    let swapped = swap(&database, uid).with(&["--existing", "rename"]).run().await;
    assert_eq!(rows_of(&database), before);
    assert_eq!(database.sql("SELECT count(*) FROM e2e_one_time_keys_json"), "0");
    let kept = swapped.result().restored.clone().unwrap().kept.expect("an old database");
    assert_eq!(rows_of(&another(&database, &kept)), lost);

    let back = swap(&database, uid).with(&["--existing", "rename", "--back"]).run().await;
    assert!(back.result().summary.contains("is the old database again"), "{back:?}");
    assert_eq!(rows_of(&database), lost);
}

#[tokio::test]
async fn it_is_restored_in_place() {
    let source = Database::of_synapse("cycle_source");
    let repository = Repository::new();
    back_up(&source, &repository).run().await.backup();
    let database = Database::empty("cycle_in_place");
    in_place::restore(&database, &repository, "cycle-00002").run().await.result();
    assert_eq!(rows_of(&database), rows_of(&source));
}

#[tokio::test]
async fn a_dump_of_pg_dump_comes_back() {
    let database = Database::of_synapse("cycle_dump");
    let before = rows_of(&database);
    let folder = tempfile::tempdir().unwrap();
    for (format, uid) in [("custom", "cycle-00003"), ("plain", "cycle-00004")] {
        let file = folder.path().join(format);
        let dumped = Command::new(database.server.program("pg_dump"))
            .args(["-U", "postgres", "-h", &database.server.socket(), "-p", &database.server.port.to_string()])
            .args(["--format", format, "--file"])
            .args([&file.display().to_string(), "cycle_dump"])
            .output()
            .unwrap();
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        dump::restore(&database, &file, uid).run().await.result();
        let swapped = dump::swap(&database, uid).run().await;
        assert_eq!(rows_of(&database), before, "{format}");
        let kept = swapped.result().restored.clone().unwrap().kept.expect("an old database");
        assert_ne!(kept, "cycle_dump");
    }
}

#[tokio::test]
async fn a_backup_and_a_restore_that_are_killed_leave_what_was_there() {
    let database = Database::of_synapse("cycle_killed");
    let repository = Repository::new();
    let held = repository.hold_streams();
    let running = back_up(&database, &repository).start();
    until_reached(&held).await;
    running.signal(Signal::KILL);
    running.finish().await;
    std::fs::remove_file(held).unwrap();
    assert!(repository.snapshots(MANIFEST).is_empty(), "it is no backup");
    let free = Repository::new();
    back_up(&database, &free).run().await.backup();

    let files = database.files();
    let uid = "cycle-00005";
    let beside = "SELECT count(*) FROM pg_database WHERE datname LIKE 'synapse\\_keeper\\_cle00005%'";
    let running = restore(&database, &free, uid).with(&["--existing", "rename"]).start();
    eventually("it is at work", Duration::from_secs(60), async || server().psql("postgres", beside).trim() == "1")
        .await;
    running.signal(Signal::KILL);
    running.finish().await;
    assert_eq!(database.files(), files);
    restore(&database, &free, uid).with(&["--existing", "rename", "--attempt", "2"]).run().await.result();
    assert_eq!(server().psql("postgres", beside).trim(), "1", "the first one's is gone");
}
