//! What VACUUM gives back, which tables it takes, and when it stops.

use jiff::{SignedDuration, Timestamp};

use crate::support::{Database, PASSWORD, Server, execute};

const FULL: [&str; 4] = ["--mode", "Full", "--free-space", "100Gi"];

fn soon(seconds: i64) -> String {
    (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string()
}

#[tokio::test]
async fn full_frees_the_disk_and_keeps_every_row() {
    let database = Database::empty("full");
    database.add_bloated("bloated", 60_000);
    database.add_bloated("second", 30_000);
    let rows = ["bloated", "second"].map(|table| database.checksum(table));
    let size = |table: &str| database.sql(&format!("SELECT pg_total_relation_size('{table}')")).parse::<i64>().unwrap();
    let before = size("bloated");

    let finished = database.task("vacuum").with(&FULL).with(&["--minimum-gain", "1Mi"]).run().await;
    let result = finished.result();
    assert_eq!(["bloated", "second"].map(|table| database.checksum(table)), rows);
    let done = &result.tables[0];
    assert_eq!(
        (done.name.as_str(), done.bytes_before, done.bytes_after, done.rows),
        ("bloated", before, size("bloated"), 15_000)
    );
    assert!(done.bytes_after * 3 < done.bytes_before, "three of four rows were gone: {done:?}");
    assert_eq!(result.tables.len(), 2);
    let freed: i64 = result.tables.iter().map(|table| table.bytes_before - table.bytes_after).sum();
    let database_freed = result.bytes_before.unwrap() - result.bytes_after.unwrap();
    assert!((database_freed - freed).abs() < 1 << 20, "{database_freed} of the database, {freed} by tables");
    assert!(result.summary.starts_with("freed ") && result.summary.contains(" in 2 tables in "), "{}", result.summary);
    assert_eq!(result.cursor, None);
    let analyzed = database.sql("SELECT reltuples FROM pg_class WHERE relname = 'bloated'");
    assert_eq!(analyzed, "15000");

    // What is small now is left alone: a second attempt does nothing twice.
    let again = database.task("vacuum").with(&FULL).with(&["--minimum-gain", "1Mi"]).run().await;
    assert_eq!(again.result().tables, []);
}

#[tokio::test]
async fn a_table_that_gains_little_is_left_alone() {
    let database = Database::empty("little_gain");
    database.add_bloated("bloated", 60_000);
    database.as_synapse_sql(
        "CREATE TABLE compact AS SELECT i AS id, repeat(md5(i::text), 12) AS body FROM generate_series(1, 60000) i; \
         CREATE INDEX ON compact (id); CREATE TABLE small AS SELECT 1 AS id; DELETE FROM small",
    );
    let file = |table: &str| database.sql(&format!("SELECT pg_relation_filenode('{table}')"));
    let before = ["compact", "small"].map(file);
    let finished = database.task("vacuum").with(&FULL).run().await;
    let result = finished.result();
    assert_eq!(result.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["bloated"]);
    assert_eq!(["compact", "small"].map(file), before);
    let skipped = result.skipped.join("\n");
    assert!(skipped.contains("compact: would give back about 0 B, less than minimumGain (16.0 MiB)"), "{skipped}");
    assert!(skipped.contains("small: smaller than minimumGain (16.0 MiB)"), "{skipped}");
}

/// The estimate against the truth, on tables as Synapse makes them: few wide rows, many narrow ones, long values.
#[tokio::test]
async fn the_estimate_is_close_to_what_comes_out() {
    let database = Database::empty("estimate");
    database.as_synapse_sql(
        "CREATE TABLE wide (id bigint PRIMARY KEY, a text, b text, n bigint, c text); \
         INSERT INTO wide SELECT i, repeat(md5(i::text), 20), md5(i::text), i, 'x' FROM generate_series(1, 40000) i; \
         DELETE FROM wide WHERE id % 3 <> 0; \
         CREATE TABLE narrow (id bigint, type text, key text, event text); \
         INSERT INTO narrow SELECT i / 10, 'm.room.member', '@user' || i || ':example.org', '$' || md5(i::text) FROM generate_series(1, 300000) i; \
         CREATE INDEX ON narrow (id); CREATE INDEX ON narrow (event); DELETE FROM narrow WHERE id % 2 = 0; \
         CREATE TABLE long (id bigint PRIMARY KEY, body text); ALTER TABLE long ALTER body SET STORAGE EXTERNAL; \
         INSERT INTO long SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 4000) i; DELETE FROM long WHERE id % 4 <> 0;",
    );
    // A plain VACUUM first: dead rows are forgotten then, the space in the files is not.
    for table in ["wide", "narrow", "long"] {
        database.sql(&format!("VACUUM {table}"));
    }
    let step = r#"v={"vacuum":{"mode":"Full","minimumGain":"1Mi","freeSpace":"100Gi"}}"#;
    let plan = database.task("preflight").with(&["--step", step]).run().await.preflight().plan[0].clone();
    let finished = database.task("vacuum").with(&FULL).with(&["--minimum-gain", "1Mi"]).run().await;
    for done in &finished.result().tables {
        let planned = plan.tables.iter().find(|table| table.name == done.name).unwrap();
        let gain = done.bytes_before - done.bytes_after;
        let error = (planned.expected_gain_bytes - gain) as f64 / done.bytes_before as f64;
        assert!(error.abs() < 0.1, "{}: expected {}, came {gain}", done.name, planned.expected_gain_bytes);
        assert!((planned.expected_seconds as f64) >= done.seconds, "{planned:?} took {} s", done.seconds);
    }
    assert_eq!(finished.result().tables.len(), 3, "{:?}", finished.report());
}

#[tokio::test]
async fn an_open_transaction_elsewhere_keeps_deleted_rows() {
    let (database, elsewhere) = (Database::empty("horizon"), Database::empty("elsewhere"));
    let mut report = elsewhere.session("stranger", "a long report").await;
    execute(&mut report, "BEGIN; SELECT pg_current_xact_id()").await;
    database.as_synapse_sql(
        "CREATE TABLE purged AS SELECT i AS id, repeat(md5(i::text), 12) AS body FROM generate_series(1, 20000) i",
    );
    database.sql("DELETE FROM purged WHERE id % 4 <> 0");
    let task = || database.task("vacuum").with(&FULL).with(&["--minimum-gain", "1Mi"]);
    let finished = task().run().await;
    let warning = &finished.result().warnings[0];
    assert!(warning.contains("purged gave back ") && warning.contains("instead of about "), "{warning}");
    assert!(warning.contains("role stranger, application a long report, database elsewhere"), "{warning}");
    execute(&mut report, "COMMIT").await;
    let finished = task().run().await;
    // Other tests have open transactions as well: whichever it is, it is told.
    assert!(!finished.result().warnings.iter().any(|warning| warning.contains("a long report")), "{finished:?}");
}

#[tokio::test]
async fn a_prepared_transaction_keeps_deleted_rows_and_a_logical_slot_does_not() {
    let server = Server::of_its_own(&["max_prepared_transactions=1", "wal_level=logical"]);
    let [database, elsewhere] = ["horizon", "elsewhere"].map(|name| Database::on(server, name));
    database.sql("SELECT pg_create_logical_replication_slot('logical', 'test_decoding')");
    elsewhere.sql("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'two-phase'");
    database.as_synapse_sql(
        "CREATE TABLE purged AS SELECT i AS id, repeat(md5(i::text), 12) AS body FROM generate_series(1, 20000) i",
    );
    database.sql("DELETE FROM purged WHERE id % 4 <> 0");
    let task = || database.task("vacuum").with(&FULL).with(&["--minimum-gain", "1Mi"]);
    let finished = task().run().await;
    let [warning] = finished.result().warnings.as_slice() else { panic!("{finished:?}") };
    // From 17 on the new file is a little smaller all the same.
    let gave_back = warning.strip_prefix("purged gave back ").and_then(|rest| rest.split_once(" instead of about "));
    let gave_back = gave_back.and_then(|(amount, _)| amount.split_once(' ')).map(|(_, unit)| unit);
    assert!(matches!(gave_back, Some("B" | "KiB")), "{warning}");
    assert!(warning.contains("[prepared transaction two-phase, role postgres, database elsewhere, for "), "{warning}");
    elsewhere.sql("ROLLBACK PREPARED 'two-phase'");
    let kept = database.sql("SELECT xmin IS NULL AND catalog_xmin IS NOT NULL FROM pg_replication_slots");
    assert_eq!(kept, "t", "a logical slot keeps rows of catalogs, not of tables");
    let finished = task().run().await;
    assert_eq!(finished.result().warnings, Vec::<String>::new());
    assert!(finished.result().tables[0].bytes_after * 3 < finished.result().tables[0].bytes_before, "{finished:?}");
}

#[tokio::test]
async fn time_that_is_over_leaves_the_rest_for_the_next_run() {
    let database = Database::empty("budget");
    database.add_bloated("bloated", 30_000);
    database.add_slow("slow", 30);
    let file = database.sql("SELECT pg_relation_filenode('slow')");
    let started = std::time::Instant::now();
    let arguments = ["--minimum-gain", "0", "--table", "bloated", "--table", "slow"];
    let finished = database.task("vacuum").with(&FULL).with(&arguments).with(&["--until", &soon(9)]).run().await;
    assert!(started.elapsed().as_secs() < 9, "the task must have ended by then: {:?}", started.elapsed());
    let result = finished.result();
    assert_eq!(result.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["bloated"]);
    assert_eq!(result.cursor.as_deref(), Some("slow"));
    assert!(result.summary.ends_with("; 1 left, for lack of time"), "{}", result.summary);
    assert_eq!(database.sql("SELECT pg_relation_filenode('slow')"), file);

    database.sql("UPDATE slow_switch SET slow = false");
    let finished = database.task("vacuum").with(&FULL).with(&arguments).with(&["--cursor", "slow"]).run().await;
    assert_eq!(finished.result().tables[0].name, "slow", "what was left comes first");
    assert_eq!(finished.result().cursor, None);
}

#[tokio::test]
async fn no_time_at_all_touches_nothing() {
    let database = Database::empty("no_time");
    database.add_bloated("bloated", 30_000);
    let before = database.files();
    let finished =
        database.task("vacuum").with(&FULL).with(&["--minimum-gain", "0", "--until", &soon(-60)]).run().await;
    assert_eq!((finished.result().tables.len(), finished.result().cursor.as_deref()), (0, Some("bloated")));
    assert_eq!(database.files(), before);
}

#[tokio::test]
async fn analyze_works_beside_synapse() {
    let database = Database::of_synapse("analyze");
    database.add_bloated("bloated", 3_000);
    let _synapse = database.session("synapse", "synapse").await;
    let catalogs = || {
        database.sql(
            "SELECT sum(pg_stat_get_vacuum_count(oid)) FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace",
        )
    };
    let catalogs_before = catalogs();
    let finished = database.task("vacuum").with(&["--mode", "Analyze"]).run().await;
    let result = finished.result();
    assert_eq!(result.tables[0].name, "bloated", "most dead rows first");
    assert_eq!((result.tables[0].rows, result.tables.len()), (750, 50));
    assert!(result.summary.starts_with("vacuumed and analyzed 17"), "{}", result.summary);
    assert_eq!(database.sql("SELECT pg_stat_get_vacuum_count('bloated'::regclass)"), "1");
    assert_eq!(catalogs(), catalogs_before, "system catalogs are not ours");
}

#[tokio::test]
async fn a_disk_that_is_too_small_changes_nothing() {
    let database = Database::empty("small_disk");
    database.add_bloated("bloated", 60_000);
    let before = database.files();
    let task = || database.task("vacuum").with(&["--mode", "Full", "--minimum-gain", "1Mi"]);
    let finished = task().with(&["--free-space", "8Mi"]).run().await;
    let error =
        finished.refused("DiskTooSmall", &["for the new copy of bloated", "for WAL", "8.0 MiB is free", "stated"]);
    assert!(error.message.contains("VACUUM FULL needs about 1"), "{}", error.message);
    task().run().await.refused("FreeSpaceUnknown", &["postgres.dataVolume", "vacuum.freeSpace"]);
    assert_eq!(database.files(), before);
    // The volume says it itself, and it goes before a figure that somebody once wrote.
    let finished = task().with(&["--data-volume", "/tmp", "--free-space", "1"]).run().await;
    assert_eq!(finished.result().tables.len(), 1);
}

#[tokio::test]
async fn tables_of_somebody_else() {
    let database = Database::empty("not_owned");
    database.add_bloated("bloated", 3_000);
    database.sql("CREATE TABLE foreign_table AS SELECT generate_series(1, 100000) i; ALTER TABLE foreign_table OWNER TO stranger");
    let before = database.sql("SELECT pg_relation_filenode('foreign_table')");
    for mode in ["Full", "Analyze"] {
        let task = || database.task("vacuum").with(&["--mode", mode, "--free-space", "1Gi", "--minimum-gain", "0"]);
        let finished = task().run().await;
        assert!(
            finished.result().skipped.contains(&"foreign_table: belongs to role stranger".to_owned()),
            "{finished:?}"
        );
        assert_eq!(finished.result().tables.len(), 1);
        task().with(&["--table", "foreign_table"]).run().await.refused("NotOwner", &["foreign_table", "stranger"]);
        task().with(&["--table", "no_such"]).run().await.refused("TableMissing", &["no_such"]);
        task().with(&["--table", "pg_class"]).run().await.refused("TableMissing", &["pg_class"]);
    }
    assert_eq!(database.sql("SELECT pg_relation_filenode('foreign_table')"), before);
    assert_eq!(database.sql("SELECT pg_stat_get_vacuum_count('foreign_table'::regclass)"), "0");
}

/// Names are Synapse's, but nothing relies on it.
#[tokio::test]
async fn a_table_with_a_name_that_needs_quotes() {
    let database = Database::empty("quoted");
    database.as_synapse_sql(
        r#"CREATE TABLE "Odd ""name; --" ("a ""b" text, "select" int); INSERT INTO "Odd ""name; --" SELECT 'x', i FROM generate_series(1, 1000) i"#,
    );
    let finished = database.task("vacuum").with(&FULL).with(&["--minimum-gain", "0"]).run().await;
    assert_eq!(finished.result().tables[0].name, r#"Odd "name; --"#);
}

#[tokio::test]
async fn a_whole_synapse() {
    let database = Database::of_synapse("whole");
    let tables = ["events", "event_json", "state_groups_state", "event_search", "room_memberships"];
    let before = tables.map(|table| database.checksum(table));
    let finished = database.task("vacuum").with(&FULL).with(&["--minimum-gain", "0"]).run().await;
    let result = finished.result();
    assert!(result.summary.contains("17") && result.skipped.is_empty(), "{result:?}");
    assert_eq!(tables.map(|table| database.checksum(table)), before);
    assert!(result.tables.iter().all(|table| table.bytes_after <= table.bytes_before), "{result:?}");
    database.sessions_of_tasks_end().await;
    assert!(!finished.printed.contains(PASSWORD));
}
