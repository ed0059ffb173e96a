//! What an inspection tells.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Database, Program};

#[tokio::test]
async fn a_database_of_a_real_synapse() {
    let database = Database::of_synapse("inspect_synapse");
    let before = database.files();
    let finished = database.task("inspect").with(&["--server-name", "example.org"]).run().await;
    let found = finished.inspection();

    assert_eq!((found.encoding.as_str(), found.collate.as_str(), found.ctype.as_str()), ("UTF8", "C", "C"));
    assert!(found.postgres_version_num >= 140_000 && !found.in_recovery);
    assert!(found.schema_version.is_some_and(|version| version >= 90), "{found:?}");
    assert!(found.schema_compat_version <= found.schema_version);
    assert_eq!(found.pending_background_updates, Vec::<String>::new());
    assert_eq!(found.inconsistent_sequences, Vec::<String>::new());
    assert_eq!((&found.foreign_server, &found.foreign_tables), (&None, &None));
    assert_eq!(found.database_bytes.to_string(), database.sql("SELECT pg_database_size(current_database())"));
    assert_eq!(found.largest_tables.len(), 10);
    let bytes = database.sql(&format!("SELECT pg_total_relation_size('{}')", found.largest_tables[0].name));
    assert_eq!(found.largest_tables[0].bytes.to_string(), bytes);
    assert!(found.largest_tables.is_sorted_by(|a, b| a.bytes >= b.bytes));
    let redactions = database.sql("SELECT count(*) FROM redactions WHERE NOT have_censored");
    assert_eq!(found.uncensored_redactions.map(|count| count.to_string()), Some(redactions));
    assert_eq!(database.files(), before, "an inspection changes nothing");
}

#[tokio::test]
async fn rooms_that_nobody_is_in() {
    let database = Database::of_synapse("unused_rooms");
    let count = async || database.task("inspect").run().await.inspection().unused_rooms.expect("a count");
    let unused = count().await;
    assert!(unused > 0, "the fixture has rooms that everybody has left");
    database.sql("INSERT INTO rooms (room_id, is_public, creator, room_version, has_auth_chain_index) \
         VALUES ('!empty:example.org', false, '@a:example.org', '10', true), ('!invited:elsewhere.org', false, '@b:elsewhere.org', '12', true)");
    assert_eq!(count().await, unused + 2);
    database.sql(
        "INSERT INTO local_current_membership (room_id, user_id, event_id, membership) \
         VALUES ('!invited:elsewhere.org', '@a:example.org', '$x', 'invite')",
    );
    assert_eq!(count().await, unused + 1, "a room with a pending invite is in use");
    database.sql("INSERT INTO partial_state_rooms (room_id, device_lists_stream_id, joined_via) VALUES ('!empty:example.org', 1, 'x')");
    assert_eq!(count().await, unused, "a room that is just being joined is in use");
}

#[tokio::test]
async fn sequences_behind_their_tables_or_positions() {
    let database = Database::of_synapse("sequences");
    database.sql(
        "SELECT setval('state_group_id_seq', 1), setval('events_backfill_stream_seq', 7); \
         INSERT INTO stream_positions (stream_name, instance_name, stream_id) VALUES ('backfill', 'w', -42); \
         INSERT INTO stream_positions (stream_name, instance_name, stream_id) \
             SELECT 'receipts', 'w', last_value + 32 FROM receipts_sequence",
    );
    let highest = database.sql("SELECT max(id) FROM state_groups");
    let receipts = database.sql("SELECT last_value FROM receipts_sequence").parse::<i64>().unwrap();
    let finished = database.task("inspect").run().await;
    let expected = [
        "events_backfill_stream_seq is at 7, stream_positions is at 42".to_owned(),
        format!("receipts_sequence is at {receipts}, stream_positions is at {}", receipts + 32),
        format!("state_group_id_seq is at 1, state_groups.id is at {highest}"),
    ];
    assert_eq!(finished.inspection().inconsistent_sequences, expected);
}

#[tokio::test]
async fn a_sequence_that_a_writer_moves_afterwards_is_no_finding() {
    let database = Database::of_synapse("sequences_mended");
    let ahead = "INSERT INTO state_groups (id, room_id, event_id) SELECT last_value + 1000, '!room:example.org', '$event' \
                 FROM state_group_id_seq; \
                 UPDATE stream_positions SET stream_id = stream_id + 1000 WHERE stream_name = 'events'";
    let mend = "SELECT setval('state_group_id_seq', (SELECT max(id) FROM state_groups)), \
                setval('events_stream_seq', (SELECT max(stream_id) FROM stream_positions WHERE stream_name = 'events'))";
    database.sql(ahead);
    let looks = database.task("inspect").start().until_told("looks again at ").await;
    database.sql(mend);
    assert_eq!(looks.finish().await.inspection().inconsistent_sequences, Vec::<String>::new());

    // One of two is left.
    database.sql(ahead);
    let looks = database.task("inspect").start().until_told("looks again at ").await;
    database.sql("SELECT setval('state_group_id_seq', (SELECT max(id) FROM state_groups))");
    let found = looks.finish().await;
    let behind = &found.inspection().inconsistent_sequences;
    assert!(matches!(&behind[..], [one] if one.starts_with("events_stream_seq is at ")), "{behind:?}");
}

#[tokio::test]
async fn a_homeserver_that_writes_meanwhile_is_healthy() {
    let database = Database::of_synapse("sequences_busy");
    // As Synapse numbers: first the sequence, then the rows and the position, each transaction for itself.
    let name = database.name.clone();
    let server = database.server;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let writer = std::thread::spawn(move || {
        let mut rounds = 0;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            server.psql(
                &name,
                "DO $$ DECLARE n bigint; BEGIN FOR i IN 1..200 LOOP \
                     n := nextval('state_group_id_seq'); \
                     INSERT INTO state_groups (id, room_id, event_id) VALUES (n, '!room:example.org', '$event'); \
                     n := nextval('receipts_sequence'); \
                     UPDATE stream_positions SET stream_id = n WHERE stream_name = 'receipts'; COMMIT; \
                 END LOOP; END $$",
            );
            rounds += 1;
        }
        rounds
    });
    for _ in 0..5 {
        let found = database.task("inspect").run().await;
        assert_eq!(found.inspection().inconsistent_sequences, Vec::<String>::new());
        assert!(!found.printed.contains("looks again at "), "{}", found.printed);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(writer.join().expect("the writer") > 0);
}

#[tokio::test]
async fn an_empty_database_and_an_older_schema() {
    let empty = Database::empty("inspect_empty").task("inspect").run().await;
    let found = empty.inspection();
    assert_eq!((found.schema_version, found.unused_rooms, found.uncensored_redactions), (None, None, None));
    assert!(found.warnings.iter().any(|warning| warning.contains("no schema of Synapse")), "{found:?}");

    let database = Database::of_synapse("inspect_older");
    database.sql(
        "DROP TABLE partial_state_rooms_servers, partial_state_rooms, sticky_events, stream_positions CASCADE; \
         DROP SEQUENCE thread_subscriptions_sequence; ALTER TABLE ex_outlier_stream DROP COLUMN event_stream_ordering CASCADE; \
         DROP TABLE schema_compat_version; REVOKE SELECT ON redactions FROM synapse; \
         INSERT INTO background_updates (update_name, progress_json) VALUES ('an_index', '{}')",
    );
    let finished = database.task("inspect").run().await;
    let found = finished.inspection();
    assert!(found.schema_version.is_some() && found.schema_compat_version.is_none());
    assert!(found.unused_rooms.is_some());
    assert_eq!(found.pending_background_updates, ["an_index"]);
    assert_eq!(found.uncensored_redactions, None);
    assert!(
        found.warnings.iter().any(|warning| warning.contains("permission denied for table redactions")),
        "{found:?}"
    );
}

#[tokio::test]
async fn another_server_s_users() {
    let finished =
        Database::of_synapse("other_server").task("inspect").with(&["--server-name", "other.org"]).run().await;
    let foreign = finished.inspection().foreign_server.as_deref().unwrap_or_default();
    assert!(foreign.contains("of example.org, not of other.org"), "{foreign:?}");
}

#[tokio::test]
async fn tables_of_another_role() {
    let database = Database::of_synapse("foreign_owner");
    assert_eq!(database.task("inspect").run().await.inspection().foreign_tables, None);
    database.sql("ALTER TABLE rooms OWNER TO postgres; GRANT SELECT ON rooms TO synapse");
    let finished = database.task("inspect").run().await;
    let foreign = finished.inspection().foreign_tables.as_deref().unwrap_or_default();
    assert!(foreign.contains("belong to another role (such as rooms, of postgres)"), "{foreign:?}");
}

#[tokio::test]
async fn the_version_that_synapse_tells() {
    let database = Database::empty("version");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).await.unwrap();
        let answer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 28\r\n\r\n{\"server_version\":\"1.163.2\"}";
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    let finished = database.task("inspect").with(&["--synapse-url", &url]).run().await;
    assert_eq!(finished.inspection().synapse_version.as_deref(), Some("1.163.2"));
    assert!(served.await.unwrap().starts_with("GET /_synapse/admin/v1/server_version HTTP/1.1"));

    let finished = database.task("inspect").with(&["--synapse-url", "http://127.0.0.1:1"]).run().await;
    let found = finished.inspection();
    assert_eq!(found.synapse_version, None);
    let error = found.synapse_version_error.as_deref().unwrap_or_default();
    assert!(error.contains("Connection refused"), "a homeserver that is down fails no inspection: {error}");
}

#[tokio::test]
async fn the_task_by_hand() {
    let database = Database::empty("by_hand");
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_synapse-keeper"))
        .args(["task", "inspect", "--host", "127.0.0.1", "--port", &database.server.port.to_string()])
        .args(["--database", &database.name, "--username", "synapse"])
        .env("PGPASSWORD", crate::support::PASSWORD)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let socket = Program::task("inspect").database(&database.server.socket(), database.server.port, &database.name);
    // pg_hba.conf has no line for this role on the socket.
    socket.run().await.refused("PgHbaRefused", &["no pg_hba.conf entry for host \"[local]\""]);
}
