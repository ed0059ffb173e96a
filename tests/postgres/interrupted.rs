//! A task that is killed, stopped or cut off, at the worst moment: while VACUUM FULL holds its lock.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use synapse_keeper::contract::ErrorClass;
use tokio::process::Command;

use crate::support::{Database, Server, eventually};

const FULL: [&str; 8] = ["--mode", "Full", "--free-space", "1Gi", "--minimum-gain", "0", "--table", "slow"];
const OPERATION: [&str; 4] = ["--operation", "22222222-0000-0000-0000-000000000002", "--run", "1"];

/// A statement that ends by itself would end after a minute.
fn slow(name: &str) -> Database {
    let database = Database::empty(name);
    database.add_slow("slow", 60);
    database
}

#[tokio::test]
async fn the_statement_of_a_killed_task_ends_within_seconds() {
    let database = slow("killed");
    let mut task = database.task("vacuum").with(&FULL).start().at_work(&database).await;
    task.child.kill().await.unwrap();
    let took = eventually("the statement is gone", async || database.our_sessions().is_empty()).await;
    // By itself it takes a minute.
    assert!(took < Duration::from_secs(30), "{took:?}");
    database.sql("SET lock_timeout = '1s'; SELECT count(*) FROM slow");
}

/// Why every session of ours sets `client_connection_check_interval`: this one does not.
#[tokio::test]
async fn without_the_setting_it_would_go_on() {
    let database = slow("killed_psql");
    let mut psql = Command::new(database.server.program("psql"))
        .args(["-X", "-h", &database.server.socket(), "-p", &database.server.port.to_string()])
        .args(["-U", "postgres", "-d", &database.name, "-c", "VACUUM FULL slow"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let active =
        || database.sql("SELECT pid FROM pg_stat_activity WHERE query = 'VACUUM FULL slow' AND state = 'active'");
    eventually("VACUUM FULL is at work", async || !active().is_empty()).await;
    psql.kill().await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let pid = active();
    assert!(!pid.is_empty(), "PostgreSQL itself notices a killed client now: is the setting still needed?");
    database.sql(&format!("SELECT pg_terminate_backend({pid})"));
}

#[tokio::test]
async fn sigterm_cancels_the_statement() {
    let database = slow("sigterm");
    let task = database.task("vacuum").with(&FULL).start().at_work(&database).await;
    task.signal(Signal::TERM);
    let took = eventually("the statement is cancelled", async || !database.is_vacuuming()).await;
    assert!(took < Duration::from_secs(30), "{took:?}");
    let finished = task.finish().await;
    assert_eq!(finished.refused("Stopped", &["SIGTERM"]).class, ErrorClass::Transient);
    assert_eq!(finished.code, Some(11));
}

#[tokio::test]
async fn the_server_ends_the_session() {
    let database = slow("terminated");
    let rows = database.checksum("slow");
    let attempt = |number: &str| database.task("vacuum").with(&FULL).with(&OPERATION).with(&["--attempt", number]);
    let task = attempt("1").start().at_work(&database).await;
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND state = 'active' AND query LIKE 'VACUUM (FULL)%'",
    );
    let finished = task.finish().await;
    let words = ["terminating connection due to administrator command [57P01]"];
    assert_eq!(finished.refused("ConnectionLost", &words).class, ErrorClass::Transient);

    database.sql("UPDATE slow_switch SET slow = false");
    assert_eq!(attempt("2").run().await.result().tables.len(), 1);
    assert_eq!(database.checksum("slow"), rows);
}

/// As where one is killed for memory: PostgreSQL ends every session and starts anew.
#[tokio::test]
async fn another_process_of_the_server_crashes() {
    let server = Server::of_its_own(&[]);
    let database = Database::on(server, "crashed");
    database.add_slow("slow", 60);
    let rows = database.checksum("slow");
    let task = database.task("vacuum").with(&FULL).start().at_work(&database).await;
    let checkpointer = database.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
    kill_process(Pid::from_raw(checkpointer.parse().unwrap()).unwrap(), Signal::KILL).unwrap();
    let finished = task.finish().await;
    let words = ["the connection ended without a word. PostgreSQL crashed", "see its log"];
    assert_eq!(finished.refused("ConnectionLost", &words).class, ErrorClass::Transient);
    server.wait();
    database.sql("UPDATE slow_switch SET slow = false");
    assert_eq!(database.task("vacuum").with(&FULL).run().await.result().tables.len(), 1);
    assert_eq!(database.checksum("slow"), rows);
}

#[tokio::test]
async fn an_earlier_attempt_is_ended_first() {
    let database = slow("earlier");
    let attempt = |number: &str| database.task("vacuum").with(&FULL).with(&OPERATION).with(&["--attempt", number]);
    let first = attempt("1").start().at_work(&database).await;
    database.sql("UPDATE slow_switch SET slow = false");
    let second = attempt("2").run().await;
    assert!(second.printed.contains("ended 2 sessions of earlier attempts"), "{}", second.printed);
    assert_eq!(second.result().tables.len(), 1);
    first.finish().await.refused("ConnectionLost", &["[57P01]"]);
}

/// Tables that were done before the failure are told: their bytes are free already.
#[tokio::test]
async fn what_was_done_before_a_failure_is_reported() {
    let database = slow("partial");
    database.add_bloated("bloated", 30_000);
    let task = database.task("vacuum").with(&FULL).with(&["--table", "bloated"]).start().at_work(&database).await;
    eventually("the slow table's turn", async || database.our_sessions().contains("public.slow")).await;
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND state = 'active' AND query LIKE 'VACUUM (FULL)%'",
    );
    let finished = task.finish().await;
    finished.refused("ConnectionLost", &[]);
    let result = finished.report().result.as_ref().expect("the partial result");
    assert_eq!(result.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["bloated"]);
    assert!(result.tables[0].bytes_after < result.tables[0].bytes_before);
}
