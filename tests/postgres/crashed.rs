//! PostgreSQL itself is killed, as by the kernel or with its node: the whole of it, or the process behind one of our sessions. It
//! comes back, and so does the next attempt. Nothing half is ever taken for a whole, and the old database is as it was.

use std::{fs, time::Duration};

use synapse_keeper::contract::ErrorClass;

use crate::{
    backup::{MANIFEST, back_up, content},
    restore::{restore, swap},
    support::{Database, Program, Repository, Running, Server, eventually, until_reached},
};

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Postmaster,
    Backend,
}

const VICTIMS: [Victim; 2] = [Victim::Postmaster, Victim::Backend];

/// A homeserver's database on a server that nobody else needs, with a backup. It is made from a backup itself.
async fn alone(name: &str) -> (Database, Repository) {
    let (origin, repository) = (Database::of_synapse(&format!("{name}_origin")), Repository::new());
    back_up(&origin, &repository).run().await.backup();
    let database = Database { name: name.to_owned(), server: Server::of_its_own(&[]) };
    restore(&database, &repository, "of-origin-1").run().await.result();
    swap(&database, "of-origin-1").run().await.result();
    back_up(&database, &repository).run().await.backup();
    (database, repository)
}

/// The process behind a session of ours or of our programs, in any of these databases.
fn backend(database: &Database, condition: &str) -> Option<String> {
    let found = database.server.psql(
        "postgres",
        &format!(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() \
             AND {condition} ORDER BY backend_start DESC LIMIT 1"
        ),
    );
    Some(found.trim().to_owned()).filter(|pid| !pid.is_empty())
}

fn kill(database: &Database, victim: Victim, condition: &str) {
    match victim {
        Victim::Postmaster => database.server.crash(),
        Victim::Backend => database.server.crash_backend(&backend(database, condition).expect("a session")),
    }
}

fn comes_back(database: &Database, victim: Victim) {
    match victim {
        Victim::Postmaster => database.server.start_again(),
        Victim::Backend => database.server.wait(),
    }
}

/// It says that another try may help, whatever of it broke first.
async fn gives_up(running: Running, at: &str) {
    let finished = running.finish().await;
    let error = finished.report().error.as_ref().unwrap_or_else(|| panic!("{at}: {finished:?}"));
    assert_eq!(error.class, ErrorClass::Transient, "{at}: {error}");
}

#[tokio::test]
async fn a_server_that_is_killed_while_it_is_backed_up_leaves_no_half_backup() {
    let (database, repository) = alone("crashed_backup").await;
    let before = content(&database);
    for (number, victim) in VICTIMS.into_iter().enumerate() {
        let manifests = repository.snapshots(MANIFEST);
        let held = repository.hold_streams();
        let running = back_up(&database, &repository).start();
        until_reached(&held).await;
        kill(&database, victim, &format!("datname = '{}' AND application_name LIKE 'synapse-keeper/%'", database.name));
        fs::remove_file(held).unwrap();
        gives_up(running, &format!("{victim:?}")).await;
        assert_eq!(repository.snapshots(MANIFEST), manifests, "{victim:?}: nothing that could be selected");
        comes_back(&database, victim);
        back_up(&database, &repository).run().await.backup();
        assert_eq!(repository.snapshots(MANIFEST).len(), 3 + number, "{victim:?}");
        assert_eq!(content(&database), before, "{victim:?}");
    }
}

/// What a restore has made so far: names, and whether one of them is said to be whole.
fn beside(database: &Database) -> (Vec<String>, bool) {
    let rows = database.server.psql(
        "postgres",
        "SELECT datname, coalesce(shobj_description(oid, 'pg_database'), '') LIKE '%\"whole\"%' \
         FROM pg_database WHERE datname LIKE 'synapse_keeper_%' ORDER BY 1",
    );
    let rows: Vec<(&str, &str)> = rows.lines().filter_map(|row| row.split_once('|')).collect();
    (rows.iter().map(|(name, _)| (*name).to_owned()).collect(), rows.iter().any(|(_, whole)| *whole == "t"))
}

#[tokio::test]
async fn a_server_that_is_killed_while_a_database_is_filled_has_the_old_one_as_it_was() {
    let (database, repository) = alone("crashed_fill").await;
    database.as_synapse_sql("CREATE TABLE since_the_backup (a int); INSERT INTO since_the_backup VALUES (1)");
    let before = content(&database);
    let uid = "crashed-001";
    let wanted =
        |attempt: &str| restore(&database, &repository, uid).with(&["--existing", "rename", "--attempt", attempt]);
    let mut attempt = 0;
    for victim in VICTIMS {
        // When its tables are there, when rows are, and when there are indexes.
        for reached in
            ["relname = 'events'", "relname = 'events' AND relpages > 0", "relkind = 'i' AND relname LIKE 'event%'"]
        {
            attempt += 1;
            let at = format!("{victim:?} when {reached}");
            let running = wanted(&attempt.to_string()).start();
            let name = format!("synapse_keeper_ashed001_{attempt}");
            eventually(&at, async || {
                let (names, _) = beside(&database);
                let sql = format!("SELECT count(*) FROM pg_class WHERE {reached} AND oid >= 16384");
                names.contains(&name) && database.server.psql(&name, &sql).trim() != "0"
            })
            .await;
            kill(&database, victim, &format!("datname = '{name}'"));
            gives_up(running, &at).await;
            comes_back(&database, victim);
            assert!(!beside(&database).1, "{at}: it is not whole");
            assert_eq!(content(&database), before, "{at}");
        }
    }
    let attempt = (attempt + 1).to_string();
    wanted(&attempt).run().await.result();
    assert_eq!(beside(&database), (vec![format!("synapse_keeper_ashed001_{attempt}")], true));
    assert_eq!(content(&database), before);
    swap(&database, uid).with(&["--existing", "rename"]).run().await.result();
    assert_eq!(database.sql("SELECT count(*) FROM pg_class WHERE relname = 'since_the_backup'"), "0");
}

#[tokio::test]
async fn a_server_that_is_killed_while_names_are_swapped_has_one_whole_database_by_the_homeserver_s_name() {
    let (database, repository) = alone("crashed_swap").await;
    database.as_synapse_sql("CREATE TABLE since_the_backup (a int)");
    let users = database.sql("SELECT count(*) FROM users");
    let uid = "crashed-002";
    restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await.result();
    let is_old = || database.sql("SELECT count(*) FROM pg_class WHERE relname = 'since_the_backup'") == "1";
    let swap = |attempt: u32| -> Program {
        swap(&database, uid).with(&["--existing", "rename", "--attempt", &attempt.to_string()])
    };
    let mut later = Duration::from_millis(60);
    for attempt in 1..40 {
        let running = swap(attempt).start();
        tokio::time::sleep(later).await;
        database.server.crash();
        drop(running);
        database.server.start_again();
        let databases = database.server.psql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE '%swap%'");
        assert_eq!(database.sql("SELECT count(*) FROM users"), users, "killed after {later:?}: {databases}");
        if !is_old() {
            assert!(attempt > 2, "it was never killed before");
            // The old one has its rows, under its other name; and it is known that all is done.
            let done = swap(attempt + 1).run().await;
            let kept = done.result().restored.clone().unwrap().kept.expect("an old database");
            let old = Database { name: kept, server: database.server };
            assert_eq!(old.sql("SELECT count(*) FROM users"), users);
            return;
        }
        later += Duration::from_millis(60);
    }
    panic!("it never swapped");
}
