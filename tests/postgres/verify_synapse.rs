//! `task verify` with a real Synapse on the restored database: it is asked, and nothing leaves it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    backup::back_up,
    support::{Database, Listener, Program, Repository, Synapse, daemon::free_port, eventually, get, server},
    verify::{verdict, verify},
};

/// The drill of a backup, with a Synapse that waits in this folder.
fn drill(repository: &Repository, snapshot: &str, database: &str, place: &str, port: u16) -> Program {
    let with_synapse = ["--synapse-place", place, "--synapse-port", &port.to_string()];
    verify(repository, snapshot, database).with(&with_synapse)
}

/// A homeserver that has something to tell this listener: pushes for a user, and a message for another homeserver.
fn with_news_for(listener: &Listener, name: &str) -> Database {
    let database = Database::of_synapse(name);
    let port = listener.port;
    database.as_synapse_sql(&format!(
        "INSERT INTO pushers (id, user_name, profile_tag, kind, app_id, app_display_name, device_display_name, pushkey, ts, \
             data, last_stream_ordering, enabled) \
         VALUES (nextval('pushers_sequence'), '@bruno:example.org', '', 'http', 'app', 'App', 'Phone', 'key', 0, \
             '{{\"url\": \"http://127.0.0.1:{port}/_matrix/push/v1/notify\"}}', 0, true); \
         INSERT INTO destinations (destination, retry_last_ts, retry_interval, last_successful_stream_ordering) \
         VALUES ('127.0.0.1:{port}', 0, 0, 1); \
         INSERT INTO destination_rooms (destination, room_id, stream_ordering) \
         SELECT '127.0.0.1:{port}', room_id, stream_ordering FROM events WHERE type = 'm.room.message' \
         ORDER BY stream_ordering DESC LIMIT 1"
    ));
    database
}

/// A configuration that keeps Synapse from nothing.
fn at_large(database: &Database, port: u16) -> Value {
    json!({
        "server_name": "example.org", "report_stats": false, "trusted_key_servers": [], "ip_range_blacklist": [],
        "listeners": [{"port": port, "bind_addresses": ["127.0.0.1"], "type": "http", "resources": [{"names": ["client"]}]}],
        "database": {"name": "psycopg2", "args": {
            "host": server().socket(), "port": server().port, "user": "postgres", "dbname": database.name,
        }},
        "signing_key": "ed25519 a_drill AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "macaroon_secret_key": "a", "form_secret": "b", "enable_media_repo": false,
    })
}

/// Asks for somebody's profile who is at home where the listener is.
fn look_up_stranger(port: u16, token: &str, listener: &Listener) -> String {
    let profile = format!("/_matrix/client/v3/profile/@a:127.0.0.1:{}?access_token={token}", listener.port);
    get(port, &profile).expect("an answer")
}

async fn until_up(port: u16) {
    eventually("Synapse answers", || async { get(port, "/health").is_ok() }).await;
}

#[tokio::test]
async fn synapse_itself_is_asked_and_nothing_leaves_it() {
    let listener = Listener::silent();
    let database = with_news_for(&listener, "drill_synapse");
    let repository = Repository::new();
    let snapshot = back_up(&database, &repository).run().await.backup().snapshot.clone();
    let (synapse, port) = (Synapse::of_a_drill(), free_port());
    let place = synapse.place().display().to_string();
    let done = drill(&repository, &snapshot, "drill_synapse_drill", &place, port).run().await;
    let result = done.result();
    assert_eq!(verdict(done.report()).map(|found| found.is_whole), Some(true));
    for word in ["; Synapse 1.", "starts on it within", "gives a user of", "the newest that they sent, in a room of"] {
        assert!(result.summary.contains(word), "{word:?} is not in {}", result.summary);
    }
    assert_eq!(result.warnings, [""; 0], "it did not even try");

    // It still runs, and somebody asks it for more than a drill does.
    let drilled = Database { name: "drill_synapse_drill".to_owned(), server: server() };
    let token = "SELECT token FROM access_tokens ORDER BY id DESC LIMIT 1";
    let answer = look_up_stranger(port, &drilled.sql(token), &listener);
    assert!(answer.contains("M_") && !answer.contains("M_UNKNOWN_TOKEN"), "it looked: {answer}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((listener.heard(), synapse.refused().as_str()), (0, ""));
    drop(synapse);

    // The walls behind that: another configuration does not open the way out.
    let (walled, port) = (Synapse::of_a_drill(), free_port());
    walled.configure(&at_large(&database.copy("drill_synapse_walled"), port));
    until_up(port).await;
    let address = format!("('127.0.0.1', {})", listener.port);
    eventually("it was kept from it", || async { walled.refused().contains(&address) }).await;
    assert_eq!(listener.heard(), 0);
    drop(walled);

    // And the way is there: without either it is taken within the same time.
    let (free, port) = (database.copy("drill_synapse_free"), free_port());
    let _synapse = Synapse::at_large(&at_large(&free, port));
    until_up(port).await;
    eventually("the listener hears of it", || async { listener.heard() > 0 }).await;
}

#[tokio::test]
async fn a_synapse_that_cannot_start_on_it_is_told_in_its_own_words() {
    let database = Database::of_synapse("drill_too_new");
    database.as_synapse_sql(
        "UPDATE schema_version SET version = 9999; UPDATE schema_compat_version SET compat_version = 9999",
    );
    let repository = Repository::new();
    let snapshot = back_up(&database, &repository).run().await.backup().snapshot.clone();
    let synapse = Synapse::of_a_drill();
    let place = synapse.place().display().to_string();
    let done = drill(&repository, &snapshot, "drill_too_new_drill", &place, free_port()).run().await;
    done.refused("SynapseDidNotStart", &["exit code 1", "too new for the server to understand"]);
    assert_eq!(verdict(done.report()).map(|found| found.is_whole), Some(false));
}

#[tokio::test]
async fn what_synapse_answers_is_compared_with_the_database() {
    let database = Database::of_synapse("drill_wrong");
    let repository = Repository::new();
    let snapshot = back_up(&database, &repository).run().await.backup().snapshot.clone();
    // It knows everything but in which rooms anybody is.
    let imposter = Listener::answering(|path| {
        Some(match path.rsplit('/').next()? {
            "health" => json!("OK"),
            "server_version" => json!({"server_version": "1.0"}),
            "versions" => json!({"versions": ["v1.1"]}),
            "whoami" => json!({"user_id": "@bruno:example.org"}),
            _ => json!({"joined_rooms": []}),
        })
    });
    let place = tempfile::tempdir().unwrap();
    let place = place.path().display().to_string();
    let done = drill(&repository, &snapshot, "drill_wrong_drill", &place, imposter.port).run().await;
    done.refused("SynapseAnswersWrong", &["than the database", "It has printed nothing"]);
    assert_eq!(verdict(done.report()).map(|found| found.is_whole), Some(false));

    let silent = drill(&repository, &snapshot, "drill_wrong_silent", &place, free_port());
    let done = silent.with(&["--synapse-patience", "1"]).run().await;
    done.refused("SynapseSilent", &["within 1 s"]);
    assert_eq!(verdict(done.report()), None, "it says nothing of the backup");
}
