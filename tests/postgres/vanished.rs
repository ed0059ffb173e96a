//! PostgreSQL's node vanishes: no connection is closed, and nothing is answered any more. Steps beside a homeserver that serves
//! have no budget of downtime that would end them. Or the one session is gone that holds the task's lock.

use std::{fs, time::Instant};

use synapse_keeper::contract::{ErrorClass, Leaves};

use crate::{
    backup::back_up,
    support::{
        Database, Finished, Moment, PASSWORD, PATIENCE, Program, Repository, Running, Server, Way, Wire, eventually,
        execute, until_reached,
    },
};

fn told(since: Instant, finished: &Finished) {
    assert!(since.elapsed() < PATIENCE, "after {:?}: {}", since.elapsed(), finished.printed);
    let error = finished.refused("ConnectionLost", &["no sign of life", "its node is gone"]);
    assert_eq!(error.class, ErrorClass::Transient);
}

fn through(database: &Database, wire: &Wire, task: &str) -> Program {
    Program::task(task).database("127.0.0.1", wire.port, &database.name)
}

/// Waits until the task comes so far, and lets the node vanish.
async fn vanishes(wire: &Wire, mut running: Running) -> (Instant, Finished) {
    let is_early = tokio::select! {
        () = wire.until(Way::Stalled) => false,
        _ = running.child.wait() => true,
    };
    assert!(!is_early, "it ended before: {}", running.finish().await.printed);
    let since = Instant::now();
    (since, running.finish().await)
}

#[tokio::test]
async fn in_the_middle_of_an_inspection() {
    let database = Database::of_synapse("vanished_inspect");
    let wire = Wire::to_port(database.server.port).await;
    // Behind the beginning of both sessions.
    wire.after(9_000, Way::Stalled);
    let (since, finished) = vanishes(&wire, through(&database, &wire, "inspect").start()).await;
    told(since, &finished);
}

#[tokio::test]
async fn in_the_middle_of_a_vacuum() {
    let database = Database::empty("vanished_vacuum");
    database.add_slow("slow", 60);
    let wire = Wire::to_port(database.server.port).await;
    let running = through(&database, &wire, "vacuum").with(&["--mode", "Analyze"]).start();
    let works = || database.our_sessions().lines().any(|line| line.starts_with("active|VACUUM (ANALYZE) public.slow"));
    eventually("it vacuums", async || works()).await;
    wire.becomes(Way::Stalled);
    let since = Instant::now();
    let finished = running.finish().await;
    // Its own guard looks each second, and notices it before.
    assert!(since.elapsed() < PATIENCE, "{:?}", since.elapsed());
    finished.refused("ConnectionLost", &[]);
}

#[tokio::test]
async fn in_the_middle_of_a_backup() {
    let (database, repository) = (Database::of_synapse("vanished_backup"), Repository::new());
    let wire = Wire::to_port(database.server.port).await;
    wire.after(40_000, Way::Stalled);
    let backup = through(&database, &wire, "backup").repository(&repository).start();
    let (since, finished) = vanishes(&wire, backup).await;
    told(since, &finished);
    // A server that is gone keeps no session, and no lock.
    wire.becomes(Way::Cut);
    back_up(&database, &repository).run().await.backup();
}

#[tokio::test]
async fn the_service_s_server_in_the_middle_of_a_backup() {
    let (database, repository) = (Database::of_synapse("vanished_beside_mas"), Repository::new());
    let mas = Database::of_authentication_service(Server::of_its_own(&[]), "vanished_mas");
    let wire = Wire::to_port(mas.server.port).await;
    // Behind the beginning of the watching session.
    wire.after(9_000, Way::Stalled);
    let backup = back_up(&database, &repository);
    let secret = backup.mounted("mas", "mas", PASSWORD);
    let port = wire.port.to_string();
    let place = ["--mas-host", "127.0.0.1", "--mas-port", &port, "--mas-database", &mas.name];
    let backup = backup.with(&place).with(&["--mas-credentials-dir", &secret]);
    let (since, finished) = vanishes(&wire, backup.start()).await;
    told(since, &finished);
}

#[tokio::test]
async fn in_the_middle_of_a_restore_beside() {
    let (database, repository) = (Database::of_synapse("vanished_restore"), Repository::new());
    back_up(&database, &repository).run().await.backup();
    let wire = Wire::to_port(database.server.port).await;
    wire.after(1_000_000, Way::Stalled);
    let restore = through(&database, &wire, "restore-database").of_server(&repository).administrator("databases");
    let arguments = ["--operation", "vanished-1", "--restore", "v", "--free-space", "10Gi", "--existing", "rename"];
    let (since, finished) = vanishes(&wire, restore.with(&arguments).start()).await;
    told(since, &finished);
    drop(wire);
    // The next attempt drops what that one has left.
    crate::restore::restore(&database, &repository, "vanished-1")
        .with(&["--existing", "rename", "--attempt", "2"])
        .run()
        .await
        .result();
}

/// Who watches, by the databases in which they are.
const WATCHING: &str =
    "SELECT string_agg(datname, ' ') FROM pg_stat_activity WHERE application_name LIKE 'synapse-keeper/watch/%'";

#[tokio::test]
async fn in_the_middle_of_a_swap() {
    // Of its own: it is asked who watches.
    let server = Server::of_its_own(&[]);
    let (database, repository) = (Database::of_synapse_on(server, "vanished_swap"), Repository::new());
    back_up(&database, &repository).run().await.backup();
    crate::restore::restore(&database, &repository, "vanished-s").with(&["--existing", "rename"]).run().await.result();
    let oid = database.sql("SELECT oid FROM pg_database WHERE datname = current_database()");
    // The swap waits for this one.
    let synapse = database.session("synapse", "synapse-main").await;
    let wire = Wire::to_port(server.port).await;
    let swap = |wire: &Wire| through(&database, wire, "swap-database").administrator("databases");
    let running = swap(&wire).with(&["--operation", "vanished-s", "--existing", "rename"]).start();
    let waits = || database.our_sessions().contains("|WITH tables AS");
    eventually("it asks who is there", async || waits()).await;
    eventually("it is watched", async || server.psql("postgres", WATCHING).trim() == "postgres").await;
    wire.becomes(Way::Stalled);
    let since = Instant::now();
    let finished = running.finish().await;
    told(since, &finished);
    assert_eq!(finished.report().leaves, Some(Leaves::AsItWas), "{finished:?}");
    wire.becomes(Way::Cut);
    assert_eq!(database.sql("SELECT oid FROM pg_database WHERE datname = current_database()"), oid);
    drop(synapse);
    let again = crate::restore::swap(&database, "vanished-s").with(&["--existing", "rename", "--attempt", "2"]);
    again.run().await.result();
}

#[tokio::test]
async fn in_the_middle_of_emptying_a_database() {
    let (source, repository) = (Database::of_synapse("vanished_source"), Repository::new());
    back_up(&source, &repository).run().await.backup();
    let database = Database::empty("vanished_clear");
    let mut running = crate::in_place::restore(&database, &repository, "vanished-c").start();
    let has_table = || database.sql("SELECT count(*) FROM pg_class WHERE relname = 'events'") == "1";
    eventually("it fills it", async || has_table()).await;
    running.child.kill().await.expect("it runs");
    let wire = Wire::to_port(database.server.port).await;
    // Nobody can drop the table while somebody reads it.
    let mut reader = database.session("synapse", "synapse-keeper/reader").await;
    execute(&mut reader, "BEGIN; LOCK TABLE events IN ACCESS SHARE MODE").await;
    let running = through(&database, &wire, "clear-database").with(&["--operation", "vanished-c"]).start();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("it waits", async || database.sql(waits) == "1").await;
    wire.becomes(Way::Stalled);
    let since = Instant::now();
    let finished = running.finish().await;
    told(since, &finished);
    assert_eq!(finished.report().leaves, None, "{finished:?}");
    wire.becomes(Way::Cut);
    drop(reader);
    let cleared = database.task("clear-database").with(&["--operation", "vanished-c", "--attempt", "2"]).run().await;
    assert!(cleared.result().summary.contains("is empty again"), "{cleared:?}");
}

/// Ends the sessions that hold the task's lock in the session's database; how many there were.
const END_LOCKS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks \
     WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

#[tokio::test]
async fn a_restore_beside_that_loses_its_lock_ends_and_leaves_nothing() {
    let (database, repository) = (Database::of_synapse("lost_lock_beside"), Repository::new());
    back_up(&database, &repository).run().await.backup();
    let held = repository.hold(Moment::Before, "data-1.sql.zst");
    let restore = || crate::restore::restore(&database, &repository, "lost-lock-b").with(&["--existing", "rename"]);
    let running = restore().start();
    until_reached(&held).await;
    assert_eq!(database.sql(END_LOCKS), "1");
    let finished = running.finish().await;
    let error = finished.refused("ConnectionLost", &["lock of synapse-keeper", "[57P01]"]);
    assert_eq!(error.class, ErrorClass::Transient);
    let left = "SELECT count(*) FROM pg_database WHERE datname LIKE 'synapse\\_keeper\\_ostlockb\\_%'";
    assert_eq!(database.sql(left), "0");
    fs::remove_file(held).expect("a file");
    restore().with(&["--attempt", "2"]).run().await.result();
}

#[tokio::test]
async fn a_swap_that_loses_its_lock_ends_and_changes_no_name() {
    let (database, repository) = (Database::of_synapse("lost_lock_swap"), Repository::new());
    back_up(&database, &repository).run().await.backup();
    let uid = "lost-lock-s";
    crate::restore::restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await.result();
    let oid = database.sql("SELECT oid FROM pg_database WHERE datname = current_database()");
    // The swap waits for this one.
    let synapse = database.session("synapse", "synapse-main").await;
    let running = crate::restore::swap(&database, uid).with(&["--existing", "rename"]).start();
    eventually("it has the lock", async || database.sql(END_LOCKS) != "0").await;
    running.finish().await.refused("ConnectionLost", &["[57P01]"]);
    assert_eq!(database.sql("SELECT oid FROM pg_database WHERE datname = current_database()"), oid);
    drop(synapse);
    let swapped = crate::restore::swap(&database, uid).with(&["--existing", "rename", "--attempt", "2"]).run().await;
    swapped.result();
}

#[tokio::test]
async fn a_session_with_the_lock_that_is_lost_is_not_replaced() {
    let (source, repository) = (Database::of_synapse("lost_lock_source"), Repository::new());
    back_up(&source, &repository).run().await.backup();
    let database = Database::empty("lost_lock");
    let held = repository.hold(Moment::Before, "data-1.sql.zst");
    let arguments = ["--operation", "lost-lock", "--restore", "l", "--method", "in-place", "--free-space", "10Gi"];
    let running = database.task("restore-database").of_server(&repository).with(&arguments).start();
    until_reached(&held).await;
    assert_eq!(database.sql(END_LOCKS), "1");
    let finished = running.finish().await;
    fs::remove_file(held).expect("a file");
    finished.refused("ConnectionLost", &["lock of synapse-keeper", "[57P01]"]);
    assert_eq!(database.sql("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"), "0");
}
