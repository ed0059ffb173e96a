//! The network of a Pod opens some seconds late, as with a service mesh: what is closed at first is tried again, and what another
//! try does not change is not.

use std::{fs, path::Path};

use synapse_keeper::{contract::ErrorClass, postgres::connect::NETWORK_OPENS_WITHIN};

use crate::{
    append_only,
    backup::back_up,
    support::{Database, Program, Repository, Storage, Way, Wire, daemon::free_port, server},
};

/// No test waits for so long: the network opens as soon as a first try was in vain.
const LONG: &str = "120";

const TRIES_AGAIN: &str = "tries again";

/// As a Job runs it.
fn of_a_job(program: Program, within: &str) -> Program {
    program.variable(NETWORK_OPENS_WITHIN, within)
}

fn inspect(database: &Database, host: &str, port: u16) -> Program {
    Program::task("inspect").database(host, port, &database.name)
}

#[tokio::test]
async fn a_port_where_nobody_listens_yet() {
    let (database, port) = (Database::of_synapse("late_port"), free_port());
    let task = of_a_job(inspect(&database, "127.0.0.1", port), LONG).start();
    let task = task.until_told("Connection refused").await;
    let _wire = Wire::from_port(port, database.server.port).await;
    task.finish().await.inspection();
}

/// A sidecar takes connections before it can pass them on.
#[tokio::test]
async fn a_sidecar_that_closes_every_connection_at_first() {
    let database = Database::of_synapse("late_sidecar");
    let wire = Wire::to_port(database.server.port).await;
    wire.becomes(Way::Cut);
    let task = of_a_job(inspect(&database, "127.0.0.1", wire.port), LONG).start();
    let task = task.until_told(TRIES_AGAIN).await;
    wire.open();
    task.finish().await.inspection();
}

#[tokio::test]
async fn a_name_that_does_not_resolve_yet() {
    let database = Database::of_synapse("late_name");
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let task = inspect(&database, "late-postgres.invalid", database.server.port).hosts(hosts.path());
    let task = of_a_job(task, LONG).start().until_told("does not resolve").await;
    fs::write(hosts.path(), "127.0.0.1 late-postgres.invalid\n").unwrap();
    task.finish().await.inspection();
}

/// A task that needs two sessions, and programs of PostgreSQL's.
#[tokio::test]
async fn a_backup_whose_network_opens_late() {
    let (database, repository, port) = (Database::of_synapse("late_backup"), Repository::new(), free_port());
    let task = Program::task("backup").repository(&repository).database("127.0.0.1", port, &database.name);
    let task = of_a_job(task, LONG).start().until_told("Connection refused").await;
    let _wire = Wire::from_port(port, database.server.port).await;
    task.finish().await.backup();
}

#[tokio::test]
async fn what_stays_closed_is_given_up_with_the_reason() {
    let finished = of_a_job(Program::task("inspect").database("127.0.0.1", 1, "any"), "2").run().await;
    let error = finished.refused("ConnectionRefused", &["127.0.0.1:1", "Connection refused"]);
    assert_eq!(error.class, ErrorClass::Transient);
    assert!(finished.printed.contains(TRIES_AGAIN), "{}", finished.printed);
    // By hand, outside of a Pod, a mistyped port is reported at once.
    let by_hand = Program::task("inspect").database("127.0.0.1", 1, "any").run().await;
    by_hand.refused("ConnectionRefused", &[]);
    assert!(!by_hand.printed.contains(TRIES_AGAIN), "{}", by_hand.printed);
}

/// Each further try could lock the role out.
#[tokio::test]
async fn what_another_try_does_not_change_is_tried_once() {
    let database = Database::empty("late_refused");
    database.sql("CREATE ROLE late_refused LOGIN PASSWORD 'right-4711'");
    let wrong = database.task("inspect").credentials("late_refused", "wrong-4711");
    let finished = of_a_job(wrong, LONG).run().await;
    assert_eq!(finished.refused("PasswordRefused", &["late_refused"]).class, ErrorClass::Terminal);
    let log = server().log();
    let tried = log.matches("password authentication failed for user \"late_refused\"").count();
    assert!((1..=2).contains(&tried), "an inspection has two sessions: {log}");
    assert!(!finished.printed.contains(TRIES_AGAIN), "{}", finished.printed);

    let nowhere = Program::task("inspect").database("127.0.0.1", server().port, "late_nowhere");
    let finished = of_a_job(nowhere, LONG).run().await;
    finished.refused("DatabaseMissing", &[]);
    assert!(!finished.printed.contains(TRIES_AGAIN), "{}", finished.printed);
}

/// A backup into a storage whose port, or whose name, is not there at first. `opens` makes it so.
async fn is_stored(name: &str, secret: &Repository, hosts: Option<&Path>, opens: impl AsyncFnOnce() -> Option<Wire>) {
    let database = Database::of_synapse(name);
    let task = of_a_job(back_up(&database, secret).with(&["--init"]), LONG);
    let task = match hosts {
        Some(hosts) => task.hosts(hosts),
        None => task,
    };
    let task = task.start().until_told("restic tries again").await;
    let _wire = opens().await;
    append_only::is_whole(task.finish().await, back_up(&database, secret)).await;
}

#[tokio::test]
async fn a_bucket_whose_server_is_reached_late() {
    let (storage, port) = (Storage::start(), free_port());
    let opens = async || Some(Wire::from_port(port, storage.port).await);
    is_stored("late_s3", &storage.secret_at("127.0.0.1", port), None, opens).await;
}

#[tokio::test]
async fn a_bucket_whose_server_has_no_name_yet() {
    let storage = Storage::start();
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let opens = async || {
        fs::write(hosts.path(), "127.0.0.1 late-storage.invalid\n").unwrap();
        None
    };
    let secret = storage.secret_at("late-storage.invalid", storage.port);
    is_stored("late_s3_name", &secret, Some(hosts.path()), opens).await;
}

#[tokio::test]
async fn a_rest_server_that_is_reached_late() {
    let (rest, port) = (append_only::Server::append_only("me", "secret-4711"), free_port());
    let opens = async || Some(Wire::from_port(port, rest.port).await);
    is_stored("late_rest", &append_only::Server::secret_at("me:secret-4711", "127.0.0.1", port), None, opens).await;
}
