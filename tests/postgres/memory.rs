//! What users may write is not too much for a backup, a drill and a restore within the memory that their Jobs give.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};
use synapse_keeper::{operation::job, recipes::repository::MEMORY_LIMIT};

use crate::{
    backup::back_up,
    restore::{another, restore},
    support::{
        Database, Finished, Memory, Program, Repository, Server, Synapse, daemon::free_port, eventually, get, server,
    },
};

/// Synapse takes a request of so many bytes: 200 events of 64 KiB (`synapse/app/_base.py`, `max_request_body_size`).
const REQUEST: usize = 200 * 65_536;

/// Runs a task within the memory of its Job.
async fn within(program: Program, limit: &str) -> Finished {
    let memory = Memory::of(limit);
    let done = program.within(&memory).run().await;
    assert_eq!(memory.ended(), 0, "the kernel ended a process for want of memory: {}", done.printed);
    done
}

/// What a user, or a hundred, can fill within Synapse's limits: account data, keys of a key backup and filters as large as a request,
/// profiles and the state of rooms by 64 KiB, names of devices of 100 characters. Of characters that Synapse writes as `\\ud83d\\ude00`,
/// and that PostgreSQL writes with two backslashes each.
fn attack(database: &Database) {
    let emoji = (REQUEST - 100) / 4;
    let hex = (REQUEST - 100) / 32;
    database.as_synapse_sql(&format!(
        r#"
        INSERT INTO account_data (user_id, account_data_type, stream_id, content)
            SELECT '@attacker:example.org', 'plain.' || i, nextval('account_data_sequence'), '{{"a":"' || repeat(md5(i::text), {hex}) || '"}}'
            FROM generate_series(1, 80) i;
        INSERT INTO account_data (user_id, account_data_type, stream_id, content)
            SELECT '@attacker:example.org', 'emoji.' || i, nextval('account_data_sequence'), '{{"a":"' || repeat('\ud83d\ude00', {emoji}) || '"}}'
            FROM generate_series(1, 8) i;
        INSERT INTO room_account_data (user_id, room_id, account_data_type, stream_id, content)
            SELECT '@attacker:example.org', '!r:example.org', 'random.' || i, nextval('account_data_sequence'), '{{"a":"' || random || '"}}'
            FROM generate_series(1, 6) i,
                 LATERAL (SELECT string_agg(replace(encode(sha512((i || '-' || j)::bytea) || sha512((j || '-' || i)::bytea), 'base64'), E'\n', ''), '') AS random
                          FROM generate_series(1, {REQUEST} / 176) j) r;
        INSERT INTO e2e_room_keys (user_id, room_id, session_id, version, first_message_index, forwarded_count, is_verified, session_data)
            SELECT '@attacker:example.org', '!r:example.org', i::text, 1, 0, 0, false, '{{"a":"' || repeat(md5(i::text), {hex}) || '"}}'
            FROM generate_series(1, 4) i;
        INSERT INTO user_filters (user_id, full_user_id, filter_id, filter_json)
            SELECT 'attacker', '@attacker:example.org', i, convert_to('{{"a":"' || repeat(md5(i::text), {hex}) || '"}}', 'UTF8')
            FROM generate_series(1, 4) i;
        INSERT INTO devices (user_id, device_id, display_name, last_seen, ip, user_agent, hidden)
            SELECT '@attacker:example.org', 'D' || i, repeat(U&'\+01F600', 100), 0, '', repeat('x', 16000), false
            FROM generate_series(1, 2000) i;
        INSERT INTO profiles (user_id, full_user_id, displayname, avatar_url)
            SELECT 'attacker' || i, '@attacker' || i || ':example.org', repeat(U&'\+01F600', 256), repeat('x', 1000)
            FROM generate_series(1, 2000) i;
        INSERT INTO event_json (event_id, room_id, internal_metadata, json, format_version)
            SELECT '$attack' || i, '!r:example.org', '{{}}', '{{"content":{{"a":"' || repeat('\ud83d\ude00', 16000) || '"}}}}', 3
            FROM generate_series(1, 1000) i;
        "#
    ));
}

/// The long columns, and some rows of each: all of them are a GB, and take a minute to be read.
const LONG: [(&str, &str, &str); 4] = [
    ("account_data", "content", "account_data_type LIKE '%.1'"),
    ("room_account_data", "content", "account_data_type = 'random.1'"),
    ("e2e_room_keys", "session_data", "session_id = '1'"),
    ("user_filters", "filter_json", "filter_id = 1"),
];

/// What is there, with checksums.
fn content(database: &Database) -> Vec<String> {
    let long = LONG.map(|(table, column, some)| {
        database.sql(&format!(
            "SELECT count(*), sum(octet_length({column})), \
             (SELECT sum(hashtextextended({column}::text, 0)) FROM {table} WHERE {some}) FROM {table}"
        ))
    });
    let short = ["devices", "profiles", "event_json", "users"].map(|table| database.checksum(table));
    long.into_iter().chain(short).collect()
}

#[tokio::test]
async fn what_users_may_write_fits_into_the_memory_of_a_backup_a_drill_and_a_restore() {
    let database = Database::of_synapse("memory");
    attack(&database);
    let longest = "SELECT max(octet_length(content)) FROM account_data";
    assert!(database.sql(longest).parse::<usize>().unwrap() > 39_000_000, "a request of 13 MB is a row of 39 MB");
    let repository = Repository::new();
    let made = within(back_up(&database, &repository), MEMORY_LIMIT).await;
    let snapshot = made.backup().snapshot.clone();

    // The throw-away PostgreSQL has a container of its own.
    let scratch = Server::of_its_own(&job::server::SETTINGS.map(|setting| match setting {
        "listen_addresses=" => "listen_addresses=127.0.0.1",
        other => other,
    }));
    let beside = Memory::of(job::server::MEMORY_LIMIT);
    beside.take(scratch.pid());
    let (socket, port) = (scratch.socket(), scratch.port.to_string());
    let drill = ["--socket", &socket, "--port", &port, "--database", "drill", "--snapshot", &snapshot];
    let drilled = within(Program::task("verify").repository(&repository).with(&drill), MEMORY_LIMIT).await;
    assert_eq!(drilled.result().verdict.as_ref().map(|verdict| verdict.is_whole), Some(true), "{drilled:?}");
    assert_eq!(beside.ended(), 0, "PostgreSQL was ended for want of memory");
    let copy = Database { name: "drill".to_owned(), server: scratch };
    let before = content(&database);
    assert_eq!(content(&copy), before);

    let restored = restore(&database, &repository, "memory").with(&["--existing", "rename"]);
    within(restored, MEMORY_LIMIT).await.result();
    let restored = another(&database, "synapse_keeper_memory_0");
    assert_eq!(content(&restored), before);
    database.server.psql("postgres", "DROP DATABASE synapse_keeper_memory_0");
    scratch.psql("postgres", "DROP DATABASE drill");
}

fn config(database: &Database, port: u16) -> Value {
    json!({
        "server_name": "example.org", "report_stats": false, "trusted_key_servers": [],
        "listeners": [{"port": port, "bind_addresses": ["127.0.0.1"], "type": "http", "resources": [{"names": ["client"]}]}],
        "database": {"name": "psycopg2", "args": {
            "host": server().socket(), "port": server().port, "user": "postgres", "dbname": database.name,
        }},
        "signing_key": "ed25519 a_memory AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "macaroon_secret_key": "a", "form_secret": "b", "enable_media_repo": false,
    })
}

/// The first line of the answer.
fn put(port: u16, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("Synapse");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket");
    let head = format!("PUT {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn synapse_itself_takes_rows_as_long_as_the_attack_has_them() {
    let database = Database::of_synapse("memory_synapse");
    let port = free_port();
    let _synapse = Synapse::at_large(&config(&database, port));
    eventually("Synapse answers", || async { get(port, "/health").is_ok() }).await;
    let token = database.sql("SELECT user_id, token FROM access_tokens ORDER BY id DESC LIMIT 1");
    let (user, token) = token.split_once('|').expect("a token");
    let path = format!("/_matrix/client/v3/user/{user}/account_data/org.example.attack?access_token={token}");
    let body = format!(r#"{{"a":"{}"}}"#, "\u{1f600}".repeat((REQUEST - 100) / 4));
    let answer = put(port, &path, &body);
    assert!(answer.contains("200"), "{answer}");
    let length = "SELECT octet_length(content) FROM account_data WHERE account_data_type = 'org.example.attack'";
    assert!(database.sql(length).parse::<usize>().unwrap() > 39_000_000);
    let repository = Repository::new();
    within(back_up(&database, &repository), "512Mi").await.backup();
}
