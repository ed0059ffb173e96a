//! `task restore-database --method=in-place` and `task clear-database`: no role here may make a database.

use rustix::process::Signal;
use synapse_keeper::contract::Leaves;

use crate::{
    backup::{add_one_time_keys, back_up, content},
    support::{Database, Finished, Program, Repository, eventually},
};

const FILLING: &str = "\"filling\"";
const DONE: &str = "\"inPlace\"";

/// As Synapse's own role, which may make no database.
pub fn restore(database: &Database, repository: &Repository, uid: &str) -> Program {
    let name = uid.strip_prefix("again-").unwrap_or(uid);
    database.task("restore-database").of_server(repository).with(&[
        "--operation",
        uid,
        "--restore",
        name,
        "--method",
        "in-place",
        "--free-space",
        "10Gi",
    ])
}

fn clear(database: &Database, uid: &str) -> Program {
    database.task("clear-database").with(&["--operation", uid])
}

async fn backed_up(name: &str) -> (Database, Repository) {
    let (database, repository) = (Database::of_synapse(name), Repository::new());
    add_one_time_keys(&database);
    back_up(&database, &repository).run().await.backup();
    (database, repository)
}

/// As a Synapse that has just been installed leaves it: its tables, and nobody in them.
fn fresh(source: &Database, name: &str) -> Database {
    let fresh = source.copy(name);
    let tables = fresh.sql(
        "SELECT string_agg(format('%I.%I', schemaname, tablename), ', ') FROM pg_tables WHERE schemaname = 'public' \
         AND tablename NOT IN ('schema_version', 'applied_schema_deltas', 'schema_compat_version')",
    );
    fresh.as_synapse_sql(&format!("TRUNCATE {tables}"));
    fresh
}

pub fn comment(database: &Database) -> String {
    database.sql("SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = current_database()")
}

fn relations(database: &Database) -> String {
    database.sql("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
}

/// Nobody may write there who does not ask for it.
fn is_closed(database: &Database) -> bool {
    database.as_synapse_sql("SHOW default_transaction_read_only") == "on"
}

fn is_sequence(line: &&String) -> bool {
    line.ends_with("|t") || line.ends_with("|f")
}

/// What came back is what was backed up.
fn assert_whole(database: &Database, source: &Database) {
    let tables = |database: &Database| {
        let lines = content(database).into_iter().filter(|line| !is_sequence(&line));
        lines.filter(|line| !line.starts_with("device_lists_remote_resync")).collect::<Vec<_>>()
    };
    assert_eq!(tables(database), tables(source));
    assert_eq!(database.sql("SELECT count(*) FROM e2e_one_time_keys_json"), "0");
    assert!(comment(database).contains(DONE), "{}", comment(database));
    assert!(!is_closed(database));
}

fn leaves(finished: &Finished) -> Option<Leaves> {
    finished.report().leaves
}

#[tokio::test]
async fn a_backup_comes_back_into_an_empty_database_without_the_right_to_make_one() {
    let (source, repository) = backed_up("in_place_source").await;
    source.sql("TRUNCATE e2e_one_time_keys_json");
    let database = Database::empty("in_place_empty");
    let finished = restore(&database, &repository, "empty-00001").run().await;
    let result = finished.result();
    assert!(result.summary.contains("into in_place_empty"), "{result:?}");
    let restored = result.restored.clone().expect("a database that came back");
    assert_eq!((restored.database.as_str(), restored.kept), ("in_place_empty", None));
    assert_whole(&database, &source);
    let pushed = "SELECT last_value - 1000000, is_called FROM events_stream_seq";
    let next = "SELECT last_value + 1, false FROM events_stream_seq";
    assert_eq!(database.sql(pushed), source.sql(next), "beyond what the backup knows of");

    // The Pod died before it could say so.
    let again = restore(&database, &repository, "empty-00001").with(&["--attempt", "2"]).run().await;
    assert_eq!(again.result().restored, result.restored);
    // The object was deleted and made again.
    let again = restore(&database, &repository, "again-empty-00001").run().await;
    again.refused("AlreadyRestored", &["in_place_empty", "take a new name"]);
    assert_eq!(leaves(&again), Some(Leaves::AsItWas));
    // It is whole: there is nothing to take back.
    let cleared = clear(&database, "empty-00001").run().await;
    assert!(cleared.result().summary.contains("nothing was done"), "{cleared:?}");
    assert_whole(&database, &source);
}

#[tokio::test]
async fn what_a_fresh_synapse_has_made_goes_and_what_is_somebody_else_s_stays() {
    let (source, repository) = backed_up("in_place_installed").await;
    source.sql("TRUNCATE e2e_one_time_keys_json");
    let database = fresh(&source, "in_place_fresh");
    database.sql("COMMENT ON DATABASE in_place_fresh IS 'ask Bob'; CREATE TABLE monitored (a int); INSERT INTO monitored VALUES (1)");
    // Of a newer Synapse than the backup's.
    database.as_synapse_sql("CREATE TABLE new_in_synapse (a int)");
    restore(&database, &repository, "fresh-00001").run().await.result();
    assert_eq!(database.sql("SELECT count(*) FROM monitored"), "1");
    database.sql("DROP TABLE monitored");
    assert_whole(&database, &source);
}

#[tokio::test]
async fn a_database_that_somebody_has_used_is_not_touched() {
    let (database, repository) = backed_up("in_place_used").await;
    let refused = async |database: &Database, reason, words: &[&str]| {
        let before = (database.files(), comment(database));
        let finished = restore(database, &repository, "used-000001").run().await;
        finished.refused(reason, words);
        assert_eq!(leaves(&finished), Some(Leaves::AsItWas));
        assert_eq!((database.files(), comment(database)), before);
    };
    refused(&database, "DatabaseInUse", &["in_place_used is in use", "Nothing was changed", "adminCredentials"]).await;
    let shared = fresh(&database, "in_place_shared");
    shared.as_synapse_sql("CREATE TABLE portal (a int); INSERT INTO portal VALUES (1)");
    refused(&shared, "DatabaseShared", &["public.portal of role synapse", "a database of its own"]).await;
    let foreign = fresh(&database, "in_place_foreign");
    foreign.sql("ALTER TABLE users OWNER TO stranger; GRANT SELECT ON users TO synapse");
    refused(&foreign, "DatabaseShared", &["public.users of role stranger"]).await;
}

#[tokio::test]
async fn what_could_never_be_finished_is_not_begun() {
    let (database, repository) = backed_up("in_place_unfit").await;
    let server = database.server;
    let run = async |name: &str, reason, words: &[&str]| {
        let database = Database { name: name.to_owned(), server };
        restore(&database, &repository, "unfit-00001").run().await.refused(reason, words);
    };
    run("in_place_missing", "DatabaseMissing", &["CREATE DATABASE \"in_place_missing\" OWNER \"synapse\"", "'UTF8'"])
        .await;
    server.psql(
        "postgres",
        "CREATE DATABASE in_place_locale OWNER synapse TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'",
    );
    server.psql("in_place_locale", "GRANT ALL ON SCHEMA public TO synapse");
    run("in_place_locale", "LocaleNotC", &["C.UTF-8", "DROP DATABASE \"in_place_locale\"; CREATE DATABASE"]).await;
    Database::empty("in_place_of_another");
    server.psql("postgres", "ALTER DATABASE in_place_of_another OWNER TO stranger");
    run("in_place_of_another", "NotDatabaseOwner", &["ALTER DATABASE \"in_place_of_another\" OWNER TO \"synapse\""])
        .await;
    // Who may not make databases is told of this way.
    let beside = database.task("restore-database").of_server(&repository).with(&["--free-space", "10Gi"]).run().await;
    beside.refused("CannotCreateDatabases", &["new SynapseRestore with spec.database: {method: InPlace}"]);
}

/// At each of its progress: the mark stands until all of it is there, and each attempt begins anew.
#[tokio::test]
async fn killed_at_every_step_it_is_never_taken_for_whole_and_the_next_attempt_ends() {
    let (source, repository) = backed_up("in_place_series_source").await;
    source.sql("TRUNCATE e2e_one_time_keys_json");
    let database = fresh(&source, "in_place_series");
    let attempt =
        |number: usize| restore(&database, &repository, "series-0002").with(&["--attempt", &number.to_string()]);
    let mut number = 0;
    loop {
        number += 1;
        if !attempt(number).start().killed_after(number).await {
            break;
        }
        let comment = comment(&database);
        // The last line is told when it is whole.
        if comment.contains(DONE) {
            assert_whole(&database, &source);
            continue;
        }
        assert!(comment.contains(FILLING), "killed after {number}: {comment}");
        assert!(is_closed(&database), "killed after {number}");
    }
    assert!(number > 8, "killed only {number} times");
    assert_whole(&database, &source);
}

#[tokio::test]
async fn who_is_stopped_leaves_an_empty_database_and_who_is_killed_a_marked_one() {
    let (source, repository) = backed_up("in_place_stop_source").await;
    source.sql("TRUNCATE e2e_one_time_keys_json");
    let database = fresh(&source, "in_place_stop");
    database.sql("COMMENT ON DATABASE in_place_stop IS 'ask Bob'");
    let has_rows = || database.sql("SELECT count(*) FROM pg_class WHERE relname = 'events' AND relpages > 0") == "1";
    let begun = async |uid: &str| {
        let running = restore(&database, &repository, uid).start();
        eventually("rows have come", || async { comment(&database).contains(FILLING) && has_rows() }).await;
        running
    };
    let running = begun("stop-000001").await;
    running.signal(Signal::TERM);
    let stopped = running.finish().await;
    stopped.refused("Stopped", &[]);
    assert_eq!(leaves(&stopped), Some(Leaves::Empty));
    let is_as_before = || (comment(&database), relations(&database), is_closed(&database));
    assert_eq!(is_as_before(), ("ask Bob".to_owned(), "0".to_owned(), false));

    let mut running = begun("stop-000001").await;
    running.child.kill().await.unwrap();
    assert!(comment(&database).contains(FILLING) && is_closed(&database));
    // What the engine does when it does not know.
    for said in ["is empty again", "nothing was done"] {
        let cleared = clear(&database, "stop-000001").run().await;
        assert!(cleared.result().summary.contains(said), "{cleared:?}");
        assert_eq!(is_as_before(), ("ask Bob".to_owned(), "0".to_owned(), false));
    }

    // Another object goes on where one was left, and that one's name has restored nothing.
    let mut running = begun("stop-000002").await;
    running.child.kill().await.unwrap();
    let mut running = begun("other-000003").await;
    running.child.kill().await.unwrap();
    restore(&database, &repository, "again-stop-000002").run().await.result();
    assert_whole(&database, &source);
}

/// Whoever lends a role that may make databases meanwhile can have it beside.
#[tokio::test]
async fn an_unfinished_database_is_put_aside_and_never_comes_back() {
    let (source, repository) = backed_up("in_place_aside_source").await;
    source.sql("TRUNCATE e2e_one_time_keys_json");
    let database = Database::empty("in_place_aside");
    let mut running = restore(&database, &repository, "aside-00001").start();
    eventually("it is marked", || async { comment(&database).contains(FILLING) }).await;
    running.child.kill().await.unwrap();
    let beside = |task: &str| database.task(task).administrator("databases").with(&["--operation", "aside-00002"]);
    let restored = beside("restore-database").of_server(&repository).with(&["--free-space", "10Gi"]).run().await;
    restored.result();
    beside("swap-database").run().await.result();
    assert_whole(&database, &source);
    beside("swap-database").with(&["--back"]).run().await.refused("NothingToTakeBack", &["no whole database"]);
    assert_whole(&database, &source);
}
