//! Other sessions: who stops a step, who is only listed, and who is named.

use std::time::Duration;

use synapse_keeper::contract::ErrorClass;

use crate::support::{Database, eventually, execute};

const FULL: [&str; 6] = ["--mode", "Full", "--free-space", "1Gi", "--minimum-gain", "0"];

#[tokio::test]
async fn a_session_of_synapse_stops_a_full_vacuum_and_is_left_alone() {
    let database = Database::empty("synapse_present");
    database.add_bloated("bloated", 3_000);
    let before = database.files();
    let mut synapse = database.session("synapse", "synapse-main").await;
    let finished = database.task("vacuum").with(&FULL).run().await;
    let words = ["role synapse, application synapse-main, address 127.0.0.1, state idle", "postgres.ignoreSessions"];
    assert_eq!(finished.refused("SessionsOfSynapse", &words).class, ErrorClass::Terminal);
    execute(&mut synapse, "SELECT 1").await;
    assert_eq!(database.files(), before);
}

#[tokio::test]
async fn sessions_that_are_ignored_or_foreign_do_no_harm() {
    let database = Database::empty("exporter");
    database.add_bloated("bloated", 3_000);
    let mut exporter = database.session("synapse", "postgres_exporter").await;
    let mut stranger = database.session("stranger", "metrics").await;
    let ignore = ["--ignore-session", "role=synapse,applicationName=postgres_exporter"];
    let finished = database.task("vacuum").with(&FULL).with(&ignore).run().await;
    assert_eq!(finished.result().tables.len(), 1);
    for session in [&mut exporter, &mut stranger] {
        execute(session, "SELECT 1").await;
    }
}

#[tokio::test]
async fn a_session_of_synapse_that_goes_in_time() {
    let database = Database::empty("synapse_goes");
    database.add_bloated("bloated", 3_000);
    let synapse = database.session("synapse", "synapse-main").await;
    let task = database.task("vacuum").with(&FULL).start();
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(synapse);
    assert_eq!(task.finish().await.result().tables.len(), 1);
}

#[tokio::test]
async fn synapse_comes_back_in_the_middle() {
    let database = Database::empty("synapse_comes");
    database.add_slow("slow", 60);
    let file = database.sql("SELECT pg_relation_filenode('slow')");
    let task = database.task("vacuum").with(&FULL).with(&["--table", "slow"]).start().at_work(&database).await;
    let mut synapse = database.session("synapse", "synapse-worker").await;
    let took = eventually("our statement is cancelled", async || !database.is_vacuuming()).await;
    // By itself it takes a minute.
    assert!(took < Duration::from_secs(30), "{took:?}");
    let finished = task.finish().await;
    finished.refused("Contested", &["application synapse-worker", "cancelled and rolled back"]);
    execute(&mut synapse, "SELECT count(*) FROM slow").await;
    assert_eq!(database.sql("SELECT pg_relation_filenode('slow')"), file);
}

#[tokio::test]
async fn somebody_begins_to_write_in_the_middle() {
    let database = Database::empty("writer_comes");
    database.add_bloated("bloated", 3_000);
    database.add_slow("slow", 60);
    database.sql("GRANT ALL ON bloated TO stranger");
    let task = database.task("vacuum").with(&FULL).with(&["--table", "slow"]).start().at_work(&database).await;
    let mut writer = database.session("stranger", "a script").await;
    execute(&mut writer, "BEGIN; UPDATE bloated SET body = 'x' WHERE id = 4").await;
    task.finish().await.refused("Contested", &["role stranger, application a script", "writes to bloated"]);
    execute(&mut writer, "COMMIT").await;
}

#[tokio::test]
async fn whoever_holds_the_lock_is_named() {
    let database = Database::empty("blocker");
    database.add_bloated("bloated", 3_000);
    database.sql("GRANT SELECT ON bloated TO stranger");
    let mut reader = database.session("stranger", "a long report").await;
    execute(&mut reader, "BEGIN; SELECT count(*) FROM bloated").await;
    let finished = database.task("vacuum").with(&FULL).run().await;
    let words = ["lock timeout [55P03]", "held by role stranger, application a long report"];
    assert_eq!(finished.refused("LockTimeout", &words).class, ErrorClass::Transient);
}

#[tokio::test]
async fn two_tasks_at_once() {
    let database = Database::empty("two_tasks");
    database.add_slow("slow", 60);
    let first =
        ["--table", "slow", "--operation", "11111111-0000-0000-0000-000000000001", "--run", "3", "--attempt", "2"];
    let mut first = database.task("vacuum").with(&FULL).with(&first).start().at_work(&database).await;
    let second = database.task("vacuum").with(&["--mode", "Analyze", "--table", "slow_switch"]).run().await;
    let words = ["synapse-keeper/11111111-0000-0000-0000-000000000001/3.2"];
    assert_eq!(second.refused("DatabaseBusy", &words).class, ErrorClass::Transient);
    // Nobody is locked out for a step that would have to wait.
    let step = r#"vacuum-1={"vacuum": {"mode": "Full", "tables": ["slow_switch"]}}"#;
    let preflight = database.task("preflight").with(&["--step", step]).run().await;
    assert_eq!(preflight.refused("DatabaseBusy", &words).class, ErrorClass::Transient);
    assert!(database.is_vacuuming(), "the first one goes on");
    first.child.start_kill().unwrap();
}
