//! `task backup` into a real restic repository: all of it comes back, and what could spoil it does not.

use std::{fs, process::Command, time::Duration};

use rustix::process::Signal;
use serde_json::Value;
use synapse_keeper::task::backup::snapshot::ROWS_ARE_LEFT_OUT;
use tokio::time::timeout;

use crate::support::{Database, Program, Repository, execute, until_reached};

/// The tags of restic's snapshots.
pub const ALL: &str = "synapse-keeper";
pub const MANIFEST: &str = "manifest";
/// Of one backup without media: the schema, two streams of rows and the manifest.
pub const SNAPSHOTS: usize = 4;

pub fn back_up(database: &Database, repository: &Repository) -> Program {
    database.task("backup").repository(repository)
}

/// Restores a backup with PostgreSQL's own programs and nothing of ours, into a new database.
fn restore(repository: &Repository, snapshot: &str, name: &str) -> Database {
    let database = Database::empty(name);
    let manifest: Value =
        serde_json::from_slice(&fs::read(repository.fetch(snapshot, "manifest.json")).unwrap()).unwrap();
    let stored = |file: &str| {
        let part = manifest["parts"][file]["snapshot"].as_str().unwrap();
        repository.fetch(part, file).display().to_string()
    };
    let schema = stored("schema.dump");
    let program = |program: &str, arguments: &[&str]| {
        let (socket, port) = (database.server.socket(), database.server.port.to_string());
        let output = Command::new(database.server.program(program))
            .args(["-U", "postgres", "-h", &socket, "-p", &port, "-d", &database.name])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let psql = |file: &str| program("psql", &["-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-f", file]);
    program("pg_restore", &["--section=pre-data", &schema]);
    for file in manifest["parts"].as_object().unwrap().keys().filter(|file| file.ends_with(".sql.zst")) {
        let sql = unpacked(&stored(file));
        let head = fs::read_to_string(sql.path()).unwrap();
        assert!(head.starts_with("\\restrict "), "psql takes no commands out of {file}");
        psql(&sql.path().display().to_string());
    }
    program("pg_restore", &["--section=post-data", &schema]);
    database
}

/// As `zstd -d` writes it.
fn unpacked(compressed: &str) -> tempfile::NamedTempFile {
    let mut sql = tempfile::NamedTempFile::new().unwrap();
    zstd::stream::copy_decode(fs::File::open(compressed).unwrap(), &mut sql).unwrap();
    sql
}

/// A checksum of every table whose rows are backed up, and the value of every sequence.
pub fn content(database: &Database) -> Vec<String> {
    let names = |kind: char| {
        let names = database.sql(&format!(
            "SELECT c.relname FROM pg_class c WHERE c.relkind = '{kind}' AND c.relnamespace = 'public'::regnamespace \
             AND NOT {ROWS_ARE_LEFT_OUT} ORDER BY 1"
        ));
        names.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let tables = names('r').into_iter().map(|table| format!("{table}: {}", database.checksum(&quoted(&table))));
    let sequences = names('S').into_iter().map(|sequence| {
        format!("{sequence}: {}", database.sql(&format!("SELECT last_value, is_called FROM {}", quoted(&sequence))))
    });
    tables.chain(sequences).collect()
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub fn add_one_time_keys(database: &Database) {
    database.as_synapse_sql(
        "INSERT INTO e2e_one_time_keys_json (user_id, device_id, algorithm, key_id, ts_added_ms, key_json) \
         SELECT '@a:example.org', 'D', 'signed_curve25519', i::text, 0, '{}' FROM generate_series(1, 50) i",
    );
}

#[tokio::test]
async fn an_attempt_is_stored_once() {
    let database = Database::of_synapse("backup_once");
    let repository = Repository::new();
    let again = |more: &'static [&'static str]| {
        back_up(&database, &repository).with(&["--operation", "mine", "--run", "3"]).with(more)
    };
    let made = again(&[]).run().await.backup().snapshot.clone();
    let before = repository.snapshots(ALL);
    for more in [&[][..], &["--draft"]] {
        let refused = again(more).run().await;
        refused
            .refused("AttemptStored", &[&made[..8], "operation mine, run 3", "Nothing was stored", "--operation out"]);
        assert_eq!(repository.snapshots(ALL), before);
    }
    again(&["--attempt", "1"]).run().await.backup();

    // Half of one, such as a draft or what was killed.
    again(&["--attempt", "2", "--draft"]).run().await.result();
    again(&["--attempt", "2"]).run().await.refused("AttemptStored", &["no whole backup"]);
    back_up(&database, &repository).run().await.backup();
    back_up(&database, &repository).run().await.backup();
}

#[tokio::test]
async fn everything_comes_back_but_the_one_time_keys() {
    let database = Database::of_synapse("backup_whole");
    add_one_time_keys(&database);
    database.as_synapse_sql(
        "CREATE TABLE \"Odd \"\"(name\" (id int GENERATED ALWAYS AS IDENTITY, body text, twice int GENERATED ALWAYS AS (1) STORED); \
         INSERT INTO \"Odd \"\"(name\" (body) VALUES (E'\\\\.'), (E'a\\nb\\tc'), (NULL), (''), (repeat('x', 3000000)); \
         CREATE UNLOGGED TABLE of_no_worth (a int); INSERT INTO of_no_worth VALUES (1)",
    );
    let repository = Repository::not_made();
    // A Synapse that does not answer is no reason to be without a backup.
    let finished = back_up(&database, &repository).with(&["--init", "--synapse-url", "http://127.0.0.1:1"]).run().await;
    let found = finished.backup();
    assert!(finished.result().summary.contains("into a new repository"), "{finished:?}");
    let warnings = &finished.result().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("password outside of the cluster")), "{warnings:?}");
    assert_eq!(repository.snapshots(MANIFEST), std::slice::from_ref(&found.snapshot));
    assert_eq!(repository.snapshots(ALL).len(), SNAPSHOTS);

    let restored = restore(&repository, &found.snapshot, "backup_whole_restored");
    assert_eq!(restored.sql("SELECT count(*) FROM e2e_one_time_keys_json"), "0");
    assert_eq!(restored.sql("SELECT count(*) FROM of_no_worth"), "0");
    assert_eq!(restored.sql("SELECT count(*) FROM worker_read_write_locks"), "0");
    assert_eq!(content(&restored), content(&database));

    let manifest: Value =
        serde_json::from_slice(&fs::read(repository.fetch(&found.snapshot, "manifest.json")).unwrap()).unwrap();
    let left_out: Vec<&str> = manifest["leftOut"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    // Two are Synapse's own unlogged tables: locks of workers that are gone by then.
    let wanted = ["e2e_one_time_keys_json", "of_no_worth", "worker_read_write_locks", "worker_read_write_locks_mode"];
    assert_eq!(left_out, wanted.map(|table| format!("public.{table}")));
    let parts = manifest["parts"].as_object().unwrap().values();
    let rows: u64 =
        parts.flat_map(|part| part["rows"].as_object().unwrap().values()).map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(rows, found.rows);
    assert_eq!(manifest["synapseVersion"], Value::Null);
    for key in ["schemaVersion", "schemaCompatVersion", "postgresVersion", "databaseBytes"] {
        assert!(manifest[key].as_i64() > Some(0), "{key} in {manifest:#}");
    }
}

#[tokio::test]
async fn the_second_night_stores_what_is_new() {
    let database = Database::of_synapse("backup_twice");
    database.as_synapse_sql(
        "CREATE TABLE filler AS SELECT i, (SELECT string_agg(md5(i || '/' || j), '') FROM generate_series(1, 16) j) \
         FROM generate_series(1, 60000) i",
    );
    let repository = Repository::new();
    let first = back_up(&database, &repository).run().await;
    database.as_synapse_sql("INSERT INTO filler SELECT i, md5(i::text) FROM generate_series(60001, 61000) i");
    let second = back_up(&database, &repository).run().await;
    let (first, second) = (first.backup().clone(), second.backup().clone());
    assert_eq!(second.rows, first.rows + 1000);
    // A chunk of restic's has between half a MiB and 8 MiB, as chance has it; 1,000 rows can spoil two.
    assert!(second.added * 3 < first.added, "{second:?} after {first:?}");
    assert_eq!(repository.snapshots(MANIFEST).len(), 2);
}

#[tokio::test]
async fn a_table_is_not_emptied_under_the_backup() {
    let database = Database::of_synapse("backup_truncate");
    let repository = Repository::new();
    let rows = database.sql("SELECT count(*) FROM events");
    let held = repository.hold_streams();
    let running = back_up(&database, &repository).start();
    until_reached(&held).await;
    let refused = database.sql(
        "DO $$ BEGIN SET lock_timeout = '500ms'; TRUNCATE events CASCADE; RAISE 'truncated'; \
         EXCEPTION WHEN lock_not_available THEN NULL; END $$; SELECT 'waited'",
    );
    assert!(refused.ends_with("waited"), "{refused}");
    fs::remove_file(held).unwrap();
    let finished = running.finish().await;
    let restored = restore(&repository, &finished.backup().snapshot, "backup_truncate_restored");
    assert_eq!(restored.sql("SELECT count(*) FROM events"), rows);
}

#[tokio::test]
async fn who_waits_for_the_backup_goes_first() {
    let database = Database::of_synapse("backup_gives_way");
    let repository = Repository::new();
    let held = repository.hold_streams();
    let running = back_up(&database, &repository).start();
    until_reached(&held).await;
    let mut synapse = database.session("synapse", "synapse-main").await;
    // Synapse upgrades its schema.
    let upgrade = execute(&mut synapse, "ALTER TABLE events ADD COLUMN new_in_this_version int");
    timeout(Duration::from_secs(60), upgrade).await.expect("the upgrade goes on");
    fs::remove_file(held).unwrap();
    running.finish().await.refused("GivesWay", &["synapse-main", "ALTER TABLE events"]);
    assert_eq!(repository.snapshots(MANIFEST), Vec::<String>::new());
    assert_eq!(repository.restic(&["list", "locks"]), "", "restic took its locks away");
}

#[tokio::test]
async fn what_is_killed_leaves_no_backup_and_the_next_one_works() {
    let database = Database::of_synapse("backup_killed");
    let repository = Repository::new();
    for signal in [Signal::KILL, Signal::TERM] {
        let held = repository.hold_streams();
        let running = back_up(&database, &repository).start();
        until_reached(&held).await;
        running.signal(signal);
        let finished = running.finish().await;
        if signal == Signal::TERM {
            finished.refused("Stopped", &[]);
        }
        assert_eq!(repository.snapshots(MANIFEST), Vec::<String>::new(), "{signal:?}");
        fs::remove_file(held).unwrap();
    }
    assert!(back_up(&database, &repository).run().await.backup().rows > 0);
}

#[tokio::test]
async fn users_do_not_wait_for_it_longer_than_they_should() {
    let database = Database::of_synapse("backup_until");
    let repository = Repository::new();
    let _held = repository.hold_streams();
    let until = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(8)).to_string();
    let finished = back_up(&database, &repository).with(&["--until", &until]).run().await;
    finished.refused("DowntimeTooShort", &[&until, "downtime.atMost", "quiesce"]);
    assert_eq!(repository.snapshots(MANIFEST), Vec::<String>::new());
}

#[tokio::test]
async fn a_lost_connection_leaves_no_backup() {
    let database = Database::of_synapse("backup_lost");
    let repository = Repository::new();
    let held = repository.hold_streams();
    let running = back_up(&database, &repository).start();
    until_reached(&held).await;
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE datname = current_database() AND application_name LIKE 'synapse-keeper/%'",
    );
    fs::remove_file(held).unwrap();
    let finished = running.finish().await;
    let error = finished.report().error.as_ref().expect("an error");
    assert!(["ConnectionLost", "DumpFailed"].contains(&error.reason.as_str()), "{error}");
    assert_eq!(repository.snapshots(MANIFEST), Vec::<String>::new());
}

#[tokio::test]
async fn each_mistake_about_the_repository_has_an_answer_of_its_own() {
    let database = Database::of_synapse("backup_mistakes");
    let nowhere = Repository::not_made();
    let finished = back_up(&database, &nowhere).run().await;
    finished.refused("RepositoryMissing", &["RESTIC_REPOSITORY"]);
    assert!(!nowhere.path().exists(), "a mistyped place must not become a repository");

    let repository = Repository::new();
    repository.mount("RESTIC_PASSWORD", "another");
    back_up(&database, &repository).run().await.refused("RepositoryPasswordRefused", &["RESTIC_PASSWORD"]);
    repository.unmount("RESTIC_PASSWORD");
    back_up(&database, &repository).run().await.refused("SecretKeyMissing", &["RESTIC_PASSWORD"]);
    repository.unmount("RESTIC_REPOSITORY");
    back_up(&database, &repository).run().await.refused("SecretKeyMissing", &["RESTIC_REPOSITORY"]);
}

#[tokio::test]
async fn each_mistake_about_the_database_has_an_answer_of_its_own() {
    let database = Database::of_synapse("backup_of_another");
    let repository = Repository::new();
    database.as_synapse_sql("UPDATE users SET name = replace(name, ':example.org', ':example.net')");
    back_up(&database, &repository).run().await.refused("ServerNameDiffers", &["example.net", "example.org"]);
    let empty = Database::empty("backup_of_nothing");
    back_up(&empty, &repository).run().await.refused("NoSynapseSchema", &["postgres.database"]);
    back_up(&database, &repository)
        .credentials("synapse", "wrong")
        .run()
        .await
        .refused("PasswordRefused", &["synapse"]);
    let without = back_up(&database, &repository).programs(std::path::Path::new("/nowhere"));
    without.run().await.refused("ResticMissing", &[]);
    assert_eq!(repository.snapshots(ALL), Vec::<String>::new());
}

/// A folder as a Job has it: a Secret and a ConfigMap.
pub fn mounted_config() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |path: &str, value: &[u8]| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value).unwrap();
    };
    put("secrets/signing-key/signing.key", b"ed25519 a_test 0123\n");
    put("secrets/signing-key/binary", &[0, 255, 10]);
    put("configmaps/homeserver/homeserver.yaml", b"server_name: example.org\n");
    folder
}

#[tokio::test]
async fn the_configuration_comes_back_as_manifests() {
    let database = Database::of_synapse("backup_config");
    let repository = Repository::not_made();
    let config = mounted_config();
    let directory = config.path().display().to_string();
    let with_config = |secret: &str| {
        let program = back_up(&database, &repository).with(&["--init", "--config-dir", &directory]);
        program.with(&["--config-secret", secret, "--config-map", "homeserver"])
    };
    with_config("missing").run().await.refused("ConfigMissing", &["Secret missing", "spec.config.secrets"]);
    assert!(!repository.path().exists(), "it was refused before anything was stored");
    let snapshot = with_config("signing-key").run().await.backup().snapshot.clone();
    // The newest has none.
    let newest = back_up(&database, &repository).run().await.backup().snapshot.clone();

    let output = config.path().join("config.yaml");
    let restored = |name: &str| {
        let path = output.display().to_string();
        Program::task("restore-config").of_server(&repository).with(&["--snapshot", name, "--output", &path])
    };
    restored("latest").run().await.refused("NoConfigInBackup", &[&newest[..8]]);
    restored("ffff").run().await.refused("SnapshotNotFound", &[&snapshot[..8], &newest[..8]]);
    let path = output.display().to_string();
    let mistyped = ["--server-name", "example.com", "--output", &path];
    let mistyped = Program::task("restore-config").place(&repository).with(&mistyped);
    mistyped.run().await.refused("SnapshotNotFound", &["backups of another homeserver: example.org"]);
    let done = restored(&snapshot[..8]).run().await;
    assert!(done.result().summary.starts_with("wrote 2 objects"), "{done:?}");
    let documents: Vec<Value> = serde_yaml_ng::Deserializer::from_str(&fs::read_to_string(&output).unwrap())
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .collect();
    let [secret, config_map] = &documents[..] else { panic!("{documents:?}") };
    assert_eq!((&secret["kind"], &secret["metadata"]["name"]), (&"Secret".into(), &"signing-key".into()));
    assert_eq!(secret["data"]["binary"], "AP8K");
    assert_eq!(secret["data"]["signing.key"], "ZWQyNTUxOSBhX3Rlc3QgMDEyMwo=");
    assert_eq!(config_map["data"]["homeserver.yaml"], "server_name: example.org\n");
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&output).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "Secrets are in it");
    // What is there is not overwritten.
    restored(&snapshot).run().await.refused("OutputNotWritten", &["config.yaml"]);
}

#[tokio::test]
async fn preflight_finds_what_a_backup_would_fail_for() {
    let database = Database::of_synapse("backup_preflight");
    let repository = Repository::not_made();
    let preflight = |init: bool, server_name: &str, config: Value| {
        let mut destination = repository.destination();
        destination["init"] = init.into();
        destination["serverName"] = server_name.into();
        let check = serde_json::json!({"backup": {"destination": destination, "config": config}});
        let program = database.task("preflight").repository_programs(&repository);
        program.with(&["--step", &format!("database={check}")]).run()
    };
    let nothing = || serde_json::json!({});
    let missing = serde_json::json!({"configDir": "/nowhere", "configSecrets": ["signing-key"]});
    preflight(true, "example.org", missing).await.refused("ConfigMissing", &["signing-key"]);
    preflight(false, "example.org", nothing()).await.refused("RepositoryMissing", &["RESTIC_REPOSITORY"]);
    preflight(true, "example.com", nothing()).await.refused("ServerNameDiffers", &["example.org"]);
    let finished = preflight(true, "example.org", nothing()).await;
    let plan = &finished.preflight().plan[0];
    assert!(plan.summary.contains("into the repository, which would be made"), "{plan:?}");
    assert!(!repository.path().exists(), "a preflight changes nothing");
}
