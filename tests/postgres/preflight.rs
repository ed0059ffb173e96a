//! What a preflight promises, refuses, and leaves as it was.

use std::time::Duration;

use crate::support::{Database, Server, eventually, execute};

const FULL: &str = r#"vacuum-1={"vacuum":{"mode":"Full","minimumGain":"1Mi","freeSpace":"100Gi"}}"#;
const FULL_WITHOUT_SPACE: &str = r#"vacuum-1={"vacuum":{"mode":"Full","minimumGain":"1Mi"}}"#;
const ANALYZE: &str = r#"vacuum-0={"vacuum":{"mode":"Analyze"}}"#;

#[tokio::test]
async fn a_plan_of_what_each_step_would_do() {
    let database = Database::empty("plan");
    database.add_bloated("bloated", 60_000);
    database.add_bloated("small", 100);
    let before = database.files();
    let finished = database.task("preflight").with(&["--step", ANALYZE, "--step", FULL]).run().await;
    let [analyze, full] = finished.preflight().plan.as_slice() else { panic!("{finished:?}") };
    assert_eq!((analyze.step.as_str(), analyze.offline, analyze.expected_gain_bytes), ("vacuum-0", false, None));
    assert_eq!(analyze.tables.len(), 2);
    assert_eq!((full.step.as_str(), full.offline, full.free_bytes), ("vacuum-1", true, Some(100 << 30)));
    let bloated = &full.tables[0];
    assert_eq!((bloated.name.as_str(), bloated.dead_rows, &bloated.skipped), ("bloated", 45_000, &None));
    assert!(bloated.expected_gain_bytes > bloated.bytes / 2, "{bloated:?}");
    assert!(full.needed_bytes.is_some_and(|needed| (1 << 20..bloated.bytes).contains(&needed)), "{full:?}");
    assert_eq!(full.tables[1].skipped.as_deref(), Some("smaller than minimumGain (1.0 MiB)"));
    assert!(full.summary.starts_with("VACUUM FULL of 1 table would free about "), "{}", full.summary);
    assert_eq!(database.files(), before, "a preflight changes nothing");
}

#[tokio::test]
async fn too_little_disk_is_refused_or_told() {
    let database = Database::empty("preflight_disk");
    database.add_bloated("bloated", 60_000);
    let before = database.files();
    let small = r#"vacuum-1={"vacuum":{"mode":"Full","minimumGain":"1Mi","freeSpace":"8Mi"}}"#;
    for (step, reason) in [(small, "DiskTooSmall"), (FULL_WITHOUT_SPACE, "FreeSpaceUnknown")] {
        let task = || database.task("preflight").with(&["--step", step]);
        task().run().await.refused(reason, &["VACUUM FULL needs about", "for the new copy of bloated"]);
        let dry = task().with(&["--dry-run"]).run().await;
        assert!(dry.preflight().warnings[0].contains("Step vacuum-1 would be refused"), "{dry:?}");
        assert_eq!(dry.preflight().plan[0].tables.len(), 1);
        task().with(&["--data-volume", "/tmp"]).run().await.preflight();
        task().with(&["--data-volume", "/nowhere"]).run().await.refused("DataVolumeUnreadable", &["/nowhere"]);
    }
    assert_eq!(database.files(), before, "a dry run changes nothing");
}

#[tokio::test]
async fn what_does_not_fit_into_the_downtime_is_told() {
    let database = Database::empty("preflight_time");
    database.add_bloated("bloated", 60_000);
    database.add_bloated("second", 59_000);
    let finished = database.task("preflight").with(&["--step", FULL, "--downtime-at-most", "2"]).run().await;
    let plan = &finished.preflight().plan[0];
    assert_eq!(plan.tables[0].skipped, None);
    let reason = plan.tables[1].skipped.as_deref().unwrap_or_default();
    assert!(reason.contains("may not fit into the 1 s that downtime.atMost leaves"), "{plan:?}");
    assert!(plan.summary.contains("1 table does not fit"), "{}", plan.summary);
    let left = plan.tables[1].name.clone();
    let cursor = format!("vacuum-1={left}");
    let arguments = ["--step", FULL, "--downtime-at-most", "2", "--cursor", &cursor];
    let finished = database.task("preflight").with(&arguments).run().await;
    assert_eq!(finished.preflight().plan[0].tables[0].name, left, "what was left comes first");
}

#[tokio::test]
async fn the_second_step_has_what_the_first_leaves() {
    let database = Database::empty("preflight_steps");
    database.add_bloated("one", 60_000);
    database.add_bloated("two", 60_000);
    let step = |number, table| {
        format!(
            r#"vacuum-{number}={{"vacuum":{{"mode":"Full","minimumGain":"1Mi","freeSpace":"100Gi","tables":["{table}"]}}}}"#
        )
    };
    let (first, second) = (step(1, "one"), step(2, "two"));
    // Of 2 s, 1.5 are for work, and each table is taken for 1.
    for (at_most, skipped) in [("2", true), ("60", false)] {
        let arguments = ["--step", &first, "--step", &second, "--downtime-at-most", at_most];
        let finished = database.task("preflight").with(&arguments).run().await;
        let [one, two] = finished.preflight().plan.as_slice() else { panic!("{finished:?}") };
        assert_eq!((one.expected_seconds, &one.tables[0].skipped), (Some(1), &None));
        assert_eq!(two.tables[0].skipped.is_some(), skipped, "{two:?}");
        assert_eq!(two.expected_seconds, Some(if skipped { 0 } else { 1 }));
    }
}

#[tokio::test]
async fn a_plan_says_what_it_leaves_out_and_how_old_a_stated_figure_is() {
    let database = Database::empty("preflight_many");
    database.sql("DO $$ BEGIN FOR n IN 1..70 LOOP EXECUTE format('CREATE TABLE t%s (id int)', n); END LOOP; END $$");
    database
        .sql("DO $$ BEGIN FOR n IN 1..70 LOOP EXECUTE format('ALTER TABLE t%s OWNER TO synapse', n); END LOOP; END $$");
    database.add_bloated("bloated", 60_000);
    let arguments = ["--step", FULL, "--stated-at", "2024-01-31T03:30:00Z"];
    let finished = database.task("preflight").with(&arguments).run().await;
    let plan = &finished.preflight().plan[0];
    assert_eq!(plan.tables.len(), 50);
    assert!(plan.summary.contains("; of 71 tables, 50 are listed"), "{}", plan.summary);
    assert!(plan.summary.contains("; 100.0 GiB is free by vacuum.freeSpace, which was stated"), "{}", plan.summary);
    assert!(plan.summary.ends_with(" days old"), "{}", plan.summary);
}

#[tokio::test]
async fn tables_and_rights() {
    let database = Database::empty("preflight_rights");
    database.sql("CREATE TABLE foreign_table (id int); ALTER TABLE foreign_table OWNER TO stranger");
    let task = |table: &str| {
        let step = format!(r#"vacuum-1={{"vacuum":{{"mode":"Full","tables":["{table}"]}}}}"#);
        database.task("preflight").with(&["--step", &step])
    };
    task("foreign_table").run().await.refused("NotOwner", &["foreign_table", "belongs to role stranger"]);
    task("evnts").run().await.refused("TableMissing", &["evnts", "`tables`"]);
    let all = database.task("preflight").with(&["--step", FULL]).run().await;
    assert_eq!(all.preflight().plan[0].tables[0].skipped.as_deref(), Some("belongs to role stranger"));
    assert!(all.preflight().plan[0].summary.starts_with("nothing to do"), "{all:?}");
}

#[tokio::test]
async fn others_are_listed_and_synapse_is_expected() {
    let database = Database::empty("preflight_sessions");
    database.add_bloated("small", 100);
    let mut stranger = database.session("stranger", "metrics").await;
    execute(&mut stranger, "SELECT 1").await;
    let _synapse = database.session("synapse", "synapse").await;
    let finished = database.task("preflight").with(&["--step", FULL]).run().await;
    let [other] = finished.preflight().other_sessions.as_slice() else { panic!("{finished:?}") };
    assert!(other.starts_with("role stranger, application metrics, "), "{other}");
    assert!(other.contains("GRANT pg_read_all_stats shows where it comes from"), "{other}");
}

#[tokio::test]
async fn a_locale_that_synapse_does_not_accept() {
    let database = Database::empty("locale");
    database.server.psql(
        "postgres",
        "CREATE DATABASE other_locale OWNER synapse TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'",
    );
    database.server.psql("other_locale", "CREATE TABLE small (id int); ALTER TABLE small OWNER TO synapse");
    let task = crate::support::Program::task("preflight").database("127.0.0.1", database.server.port, "other_locale");
    let finished = task.with(&["--step", FULL]).run().await;
    let warning = &finished.preflight().warnings[0];
    assert!(warning.contains("UTF8, C.UTF-8, C.UTF-8; Synapse wants UTF8, C, C"), "{warning}");
}

/// What a preflight says of those for whom deleted rows are kept.
async fn told_of_old_transactions(database: &Database, arguments: &[&str]) -> String {
    let finished = database.task("preflight").with(&["--step", FULL]).with(arguments).run().await;
    finished.preflight().warnings.join("\n")
}

#[tokio::test]
async fn old_transactions_are_told_of_before_the_downtime() {
    let server = Server::of_its_own(&["max_prepared_transactions=1", "wal_level=logical"]);
    let [database, elsewhere] = ["old", "elsewhere"].map(|name| Database::on(server, name));
    let told = async |arguments: &[&str]| told_of_old_transactions(&database, arguments).await;
    const ANY: [&str; 2] = ["--old-transaction", "0"];
    let mut report = database.session("stranger", "a long report").await;
    execute(&mut report, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await;
    let mut script = elsewhere.session("stranger", "a script").await;
    execute(&mut script, "BEGIN; SELECT pg_current_xact_id()").await;
    let mut reader = elsewhere.session("stranger", "a reader elsewhere").await;
    execute(&mut reader, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await;

    database.add_bloated("small", 100);
    assert_eq!(told(&ANY).await, "", "without a table that is worth it there is no downtime");
    database.add_bloated("bloated", 6_000);
    assert_eq!(told(&[]).await, "", "they are young");
    for arguments in [ANY.as_slice(), &["--old-transaction", "0", "--dry-run"]] {
        let text = told(arguments).await;
        assert!(text.contains("VACUUM FULL may free less than planned"), "{text}");
        assert!(text.contains("[role stranger, application a long report, database old, pid "), "{text}");
        assert!(text.contains("[role stranger, application a script, database elsewhere, pid "), "{text}");
        assert!(text.contains("SELECT pg_terminate_backend("), "{text}");
        assert!(!text.contains("a reader elsewhere"), "what it can see is not here: {text}");
    }

    // With the right to see it, the time decides.
    database.sql("GRANT pg_read_all_stats TO synapse");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(told(&["--old-transaction", "600"]).await, "");
    let text = told(&["--old-transaction", "2"]).await;
    assert!(text.contains("a long report") && text.contains("state idle in transaction, for "), "{text}");
    execute(&mut report, "COMMIT").await;
    execute(&mut script, "COMMIT").await;
    database.sql("SELECT pg_create_logical_replication_slot('logical', 'test_decoding')");
    assert_eq!(told(&ANY).await, "", "a logical slot keeps rows of catalogs alone");

    // A plain VACUUM looks like an old transaction, but nobody waits for what it sees.
    let mut vacuum = database.session("synapse", "a vacuum").await;
    execute(&mut vacuum, "SET vacuum_cost_delay = 100").await;
    execute(&mut vacuum, "SET vacuum_cost_limit = 1").await;
    let vacuum = tokio::spawn(async move { execute(&mut vacuum, "VACUUM bloated").await });
    let snapshot = "SELECT backend_xmin FROM pg_stat_activity JOIN pg_stat_progress_vacuum USING (pid)";
    eventually("VACUUM is at work", async || !database.sql(snapshot).is_empty()).await;
    assert_eq!(told(&ANY).await, "");
    assert!(!database.sql(snapshot).is_empty(), "it was still at work");
    vacuum.abort();

    // A session that has ended leaves this behind.
    elsewhere.sql("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'two-phase'");
    let text = told(&ANY).await;
    assert!(text.contains("[prepared transaction two-phase, role postgres, database elsewhere, for "), "{text}");
    assert!(
        text.contains("COMMIT PREPARED 'two-phase' or ROLLBACK PREPARED 'two-phase' in database elsewhere"),
        "{text}"
    );
    assert_eq!(told(&[]).await, "");
}

#[tokio::test]
async fn a_standby_that_keeps_deleted_rows() {
    let server = Server::of_its_own(&[]);
    let database = Database::on(server, "fed_back");
    database.add_bloated("bloated", 6_000);
    let told = async |arguments: &[&str]| told_of_old_transactions(&database, arguments).await;
    for (slot, asking, named) in [
        (None, "SELECT backend_xmin FROM pg_stat_replication", "[standby walreceiver with hot_standby_feedback, for "),
        (
            Some("berlin"),
            "SELECT xmin FROM pg_replication_slots",
            "[replication slot berlin of a standby with hot_standby_feedback, for ",
        ),
    ] {
        let _standby = server.standby_with_feedback(slot);
        let asks = async || !database.sql(asking).is_empty();
        eventually("the standby asks for its rows", asks).await;
        assert_eq!(told(&[]).await, "", "it moves on");
        let text = told(&["--old-transaction", "0"]).await;
        assert!(text.contains(named) && text.contains("end the long query there"), "{text}");
    }
    let text = told(&[]).await;
    assert!(text.contains("replication slot berlin") && text.contains(", not connected, for "), "{text}");
    assert!(text.contains("SELECT pg_drop_replication_slot('berlin')"), "{text}");
}
