//! Settings that somebody has made for the roles, the database or the whole server: no task does its work in another way.

use std::fs;

use crate::{
    backup::{back_up, content},
    restore::{another, restore, swap},
    support::{Database, Program, Repository, Server},
};

/// All that would end a session, refuse a statement, or change how values and names are read and written. Below a second:
/// every session of ours is idle for longer.
const HOSTILE: [(&str, &str); 32] = [
    ("idle_session_timeout", "200ms"),
    ("idle_in_transaction_session_timeout", "100ms"),
    ("statement_timeout", "5ms"),
    ("lock_timeout", "1ms"),
    ("temp_file_limit", "64MB"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("array_nulls", "off"),
    ("default_tablespace", "closed"),
    ("temp_tablespaces", "closed"),
    ("row_security", "off"),
    ("client_encoding", "LATIN1"),
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "Asia/Kathmandu"),
    ("session_replication_role", "replica"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("escape_string_warning", "on"),
    ("transform_null_equals", "on"),
    ("quote_all_identifiers", "on"),
    ("bytea_output", "escape"),
    ("xmlbinary", "hex"),
    ("xmloption", "document"),
    ("extra_float_digits", "-15"),
    ("client_min_messages", "debug1"),
    ("vacuum_cost_delay", "100ms"),
    ("client_connection_check_interval", "0"),
    ("max_parallel_workers_per_gather", "8"),
    ("max_parallel_maintenance_workers", "8"),
    ("jit_above_cost", "0"),
];

/// New in PostgreSQL 17.
const TRANSACTION_TIMEOUT: (&str, &str) = ("transaction_timeout", "300ms");

/// Values whose text depends on such settings.
const ODD: &str = "CREATE TABLE odd (i interval, d date, t timestamptz, b bytea, f float8, x xml, a text[], s text); \
     INSERT INTO odd VALUES ('-1 days +02:03:04', '2026-02-01', '2026-11-28 12:00:00.5+01', '\\x00ff5c', 0.1::float8 + 0.2, \
     'no document <b/>', '{NULL,\"NULL\",\"ü\"}', E'a\\\\b''ü')";

/// A server of a test's own, with a homeserver's database on it. The superuser of the tests has PostgreSQL's defaults.
struct Stage {
    database: Database,
    hostile: Vec<(&'static str, &'static str)>,
}

impl Stage {
    fn new(name: &str) -> Self {
        let server = Server::of_its_own(&[]);
        let database = Database::of_synapse_on(server, name);
        database.as_synapse_sql(ODD);
        let location = server.new_folder("closed");
        server.psql("postgres", &format!("CREATE TABLESPACE closed LOCATION '{location}'"));
        let is_new = server.psql("postgres", "SHOW server_version_num").trim() >= "170000";
        let hostile: Vec<_> = HOSTILE.into_iter().chain(is_new.then_some(TRANSACTION_TIMEOUT)).collect();
        for (setting, _) in &hostile {
            let default = format!("SELECT boot_val FROM pg_settings WHERE lower(name) = lower('{setting}')");
            let default = server.psql("postgres", &default);
            server.psql("postgres", &format!("ALTER ROLE postgres SET {setting} TO '{}'", default.trim()));
        }
        Self { database, hostile }
    }

    fn set(&self, whose: &str) {
        for (setting, value) in &self.hostile {
            self.database.server.psql("postgres", &format!("ALTER {whose} SET {setting} TO '{value}'"));
        }
    }

    /// Everything that a homeserver goes through.
    async fn cycle(&self, uid: &str) {
        let Self { database, .. } = self;
        let repository = Repository::new();
        database.sql("TRUNCATE e2e_one_time_keys_json");
        let before = content(database);
        let inspection = database.task("inspect").run().await;
        assert_eq!(inspection.inspection().encoding, "UTF8");
        let step = r#"v={"vacuum":{"mode":"Full","minimumGain":"0","freeSpace":"100Gi"}}"#;
        assert!(!database.task("preflight").with(&["--step", step]).run().await.preflight().plan[0].tables.is_empty());
        let vacuum = |mode: &str| database.task("vacuum").with(&["--mode", mode, "--free-space", "100Gi"]);
        vacuum("Analyze").run().await.result();
        vacuum("Full").with(&["--minimum-gain", "0"]).run().await.result();
        back_up(database, &repository).run().await.backup();

        let (socket, port) = (database.server.socket(), database.server.port.to_string());
        let drill =
            ["--socket", &socket, "--port", &port, "--database", &format!("{uid}_drill"), "--snapshot", "latest"];
        Program::task("verify").repository(&repository).with(&drill).run().await.result();

        restore(database, &repository, uid).with(&["--existing", "rename"]).run().await.result();
        let swapped = swap(database, uid).with(&["--existing", "rename"]).run().await;
        let kept = swapped.result().restored.clone().unwrap().kept.expect("the old one");
        assert_eq!(rows(content(&another(database, &kept))), rows(before.clone()), "the old one is as it was");
        assert_eq!(rows(content(database)), rows(before.clone()));
        swap(database, uid).with(&["--back", "--attempt", "2"]).run().await.result();
        assert_eq!(content(database), before);

        let in_place = Database::on(database.server, &format!("{uid}_in_place"));
        let arguments =
            ["--operation", &format!("{uid}-i"), "--restore", "i", "--method", "in-place", "--free-space", "10Gi"];
        in_place.task("restore-database").of_server(&repository).with(&arguments).run().await.result();
        assert_eq!(rows(content(&in_place)), rows(before));
    }
}

/// Without the sequences, which a restore pushes on, and what it writes down for Synapse.
fn rows(content: Vec<String>) -> Vec<String> {
    let is_row = |line: &String| !(line.ends_with("|t") || line.ends_with("|f"));
    content.into_iter().filter(|line| is_row(line) && !line.starts_with("device_lists_remote_resync")).collect()
}

#[tokio::test]
async fn settings_of_the_roles() {
    let stage = Stage::new("hostile_roles");
    stage.set("ROLE synapse");
    stage.set("ROLE databases");
    stage.cycle("roles").await;
}

#[tokio::test]
async fn settings_of_the_databases() {
    let stage = Stage::new("hostile_database");
    for database in ["hostile_database", "postgres", "template1"] {
        stage.set(&format!("DATABASE {database}"));
    }
    stage.cycle("database").await;
}

#[tokio::test]
async fn settings_of_the_server() {
    let stage = Stage::new("hostile_server");
    let server = stage.database.server;
    let lines: Vec<String> = stage.hostile.iter().map(|(name, value)| format!("{name} = '{value}'\n")).collect();
    let data = server.psql("postgres", "SHOW data_directory");
    fs::write(format!("{}/postgresql.auto.conf", data.trim()), lines.concat()).expect("its settings");
    server.psql("postgres", "SELECT pg_reload_conf(), pg_sleep(0.5)");
    stage.cycle("server").await;
}

/// The one that Synapse's role may not set itself.
#[tokio::test]
async fn a_limit_of_temporary_files_is_named() {
    let server = Server::of_its_own(&[]);
    let database = Database::on(server, "few_files");
    database.add_bloated("large", 40_000);
    database.as_synapse_sql("CREATE INDEX ON large (body)");
    server.psql(
        "postgres",
        "ALTER ROLE synapse SET temp_file_limit = '128kB'; ALTER ROLE synapse SET maintenance_work_mem = '1MB'",
    );
    let finished =
        database.task("vacuum").with(&["--mode", "Full", "--free-space", "100Gi", "--minimum-gain", "0"]).run().await;
    finished.refused("TempFileLimit", &["[53400]", "ALTER ROLE … SET temp_file_limit = -1"]);
}
