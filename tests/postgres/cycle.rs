//! What a homeserver lives through from its first inspection to its last restore, once, on whichever PostgreSQL the tests have
//! (`POSTGRES_MAJOR`): `tests/postgres/majors` runs these on several. All else is tested on one.

use std::process::Command;

use rustix::process::Signal;

use crate::{
    backup::{MANIFEST, add_one_time_keys, back_up, content},
    dump, in_place,
    restore::{another, restore, swap},
    support::{Database, PASSWORD, Program, Repository, eventually, server, until_reached},
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
    eventually("it is at work", async || server().psql("postgres", beside).trim() == "1").await;
    running.signal(Signal::KILL);
    running.finish().await;
    assert_eq!(database.files(), files);
    restore(&database, &free, uid).with(&["--existing", "rename", "--attempt", "2"]).run().await.result();
    assert_eq!(server().psql("postgres", beside).trim(), "1", "the first one's is gone");
}

fn version() -> i32 {
    server().psql("postgres", "SHOW server_version_num").trim().parse().unwrap()
}

fn as_keeper(program: Program) -> Program {
    program.credentials("cycle_keeper", PASSWORD)
}

/// MAINTAIN, which is new in PostgreSQL 17, lets somebody vacuum who owns nothing.
#[tokio::test]
async fn who_may_vacuum_is_the_owner_or_has_the_right_to_maintain() {
    let database = Database::of_synapse("cycle_maintain");
    database.add_bloated("bloated", 20_000);
    database.sql(&format!("CREATE ROLE cycle_keeper LOGIN PASSWORD '{PASSWORD}'"));
    let full = ["--mode", "Full", "--minimum-gain", "1Mi", "--free-space", "10Gi"];
    let named = || as_keeper(database.task("vacuum")).with(&full).with(&["--table", "bloated"]);
    let step = r#"v={"vacuum":{"mode":"Full","tables":["bloated"],"minimumGain":"1Mi","freeSpace":"10Gi"}}"#;
    let planned = || as_keeper(database.task("preflight")).with(&["--step", step]);
    let files = database.files();
    let words = ["Table bloated belongs to role synapse", "GRANT synapse to the role", "GRANT MAINTAIN ON bloated"];
    named().run().await.refused("NotOwner", &words[..1]);
    planned().run().await.refused("NotOwner", &words);
    assert_eq!(database.files(), files);
    if version() < 170_000 {
        return;
    }

    // Who may not read a table cannot estimate what it would give back. That is no question of its owner.
    database.sql("GRANT MAINTAIN ON bloated TO cycle_keeper");
    let plan = planned().run().await.preflight().plan[0].clone();
    let why = plan.tables[0].skipped.clone().unwrap_or_default();
    assert!(why.contains("may not read it") && why.contains("GRANT SELECT"), "{why}");
    assert_eq!(named().run().await.result().skipped, [format!("bloated: {why}")]);
    let analyzed = as_keeper(database.task("vacuum")).with(&["--mode", "Analyze"]).run().await;
    let analyzed = analyzed.result();
    assert_eq!(analyzed.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["bloated"]);
    assert!(analyzed.skipped.join("\n").contains("tables: belongs to role synapse"), "{:?}", analyzed.skipped);

    database.sql("GRANT SELECT ON bloated TO cycle_keeper");
    let plan = planned().run().await.preflight().plan[0].clone();
    assert!(plan.tables[0].skipped.is_none() && plan.expected_gain_bytes > Some(1 << 20), "{plan:?}");
    let rows = database.checksum("bloated");
    let done = named().run().await;
    assert!(done.result().tables[0].bytes_after * 2 < done.result().tables[0].bytes_before, "{done:?}");
    assert_eq!(database.checksum("bloated"), rows);

    // The inspection says what such a role can do, and what it cannot.
    let said = async || {
        let inspected = as_keeper(database.task("inspect")).run().await;
        inspected.inspection().foreign_tables.clone().expect("it owns none")
    };
    database.sql("GRANT pg_read_all_data TO cycle_keeper");
    assert!(said().await.contains("The role may not vacuum 1"), "{}", said().await);
    database.sql("GRANT pg_maintain TO cycle_keeper");
    assert!(said().await.contains("may vacuum them (MAINTAIN), and a restore needs their owner"), "{}", said().await);
}

/// Another than the C library may compare: ICU in PostgreSQL 15 and later, PostgreSQL itself in 17 and later.
#[tokio::test]
async fn the_locale_that_sorts_is_the_one_that_counts() {
    let (server, version) = (server(), version());
    let mut locales =
        vec![("LC_COLLATE 'C' LC_CTYPE 'C'", "C", true), ("LC_COLLATE 'C.UTF-8' LC_CTYPE 'C'", "C.UTF-8", false)];
    let has_icu =
        server.psql("postgres", "SELECT count(*) > 0 FROM pg_collation WHERE collprovider = 'i'").trim() == "t";
    if version >= 150_000 && has_icu {
        locales.push(("LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' LC_COLLATE 'C' LC_CTYPE 'C'", "icu de-DE", false));
        locales.push(("LOCALE_PROVIDER icu ICU_LOCALE 'und' LC_COLLATE 'C' LC_CTYPE 'C'", "icu und", false));
    }
    if version >= 170_000 {
        // It compares code points, as C does, and no update of the operating system changes that.
        locales.push(("LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LC_COLLATE 'C' LC_CTYPE 'C'", "C", true));
    }
    let (source, repository) = (Database::of_synapse("cycle_locale"), Repository::new());
    back_up(&source, &repository).run().await.backup();
    for (number, (locale, shown, is_safe)) in locales.into_iter().enumerate() {
        let name = format!("cycle_locale_{number}");
        server.psql(
            "postgres",
            &format!("CREATE DATABASE {name} OWNER synapse TEMPLATE template0 ENCODING 'UTF8' {locale}"),
        );
        server.psql(&name, "GRANT ALL ON SCHEMA public TO synapse");
        let database = Database { name, server };
        let inspected = database.task("inspect").run().await;
        assert_eq!(inspected.inspection().collate, shown, "{locale}");
        let sorts = database.sql("SELECT 'B' < 'a'") == "t";
        assert_eq!(sorts, shown.starts_with('C'), "{locale}");
        let restored = in_place::restore(&database, &repository, &format!("cycle-locale-{number}")).run().await;
        if is_safe {
            restored.result();
        } else {
            restored.refused("LocaleNotC", &[shown, "Nothing was changed", "CREATE DATABASE"]);
            database.as_synapse_sql("CREATE TABLE small (id int)");
        }
        let planned = database.task("preflight").with(&["--step", FULL]).run().await;
        let warnings = planned.preflight().warnings.join("\n");
        assert_eq!(warnings.contains(&format!("The database is UTF8, {shown}, C;")), !is_safe, "{warnings}");
    }
}
