//! Databases that a test may spoil.

use std::{
    path::PathBuf,
    process::Command,
    sync::{LazyLock, Mutex},
};

use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use super::{PASSWORD, Program, Server, eventually, server, setup};

/// A database of the role `synapse`, made as Synapse wants it: UTF8, C, C.
pub struct Database {
    pub name: String,
    pub server: &'static Server,
}

impl Database {
    /// An empty one.
    pub fn empty(name: &str) -> Self {
        Self::on(server(), name)
    }

    /// An empty one on a server of its own.
    pub fn on(server: &'static Server, name: &str) -> Self {
        Self::from_template(server, name, "template0")
    }

    /// One that a real Synapse made and filled: schema, users, rooms, messages.
    pub fn of_synapse(name: &str) -> Self {
        static TEMPLATE: LazyLock<Database> = LazyLock::new(|| Database::of_synapse_on(server(), "synapse_template"));
        TEMPLATE.copy(name)
    }

    /// The same on a server of its own.
    pub fn of_synapse_on(server: &'static Server, name: &str) -> Self {
        let dump = fixture();
        let database = Self::on(server, name);
        let (socket, port) = (database.server.socket(), database.server.port.to_string());
        // Of the major that made it: a newer one may say what an older server does not know.
        let done = Command::new(setup::path("tests/postgres/programs", &[]).join("pg_restore"))
            .args(["--no-owner", "--no-acl", "--role=synapse", "-U", "postgres", "-h", &socket, "-p", &port])
            .args(["-d", &database.name])
            .arg(dump)
            .status()
            .expect("pg_restore");
        assert!(done.success(), "pg_restore of the fixture failed");
        // A Synapse that runs holds locks now and then: no test may depend on whether it did.
        database.as_synapse_sql(
            "INSERT INTO worker_read_write_locks (lock_name, lock_key, instance_name, write_lock, token, last_renewed_ts) \
             VALUES ('new_event_during_purge', '!room:example.org', 'main', false, 'token', 0)",
        );
        database.server.psql(&database.name, "ANALYZE");
        database
    }

    /// The same database once more.
    pub fn copy(&self, name: &str) -> Self {
        Self::from_template(self.server, name, &self.name)
    }

    fn from_template(server: &'static Server, name: &str, template: &str) -> Self {
        // PostgreSQL refuses a second copy of a template that is just being copied.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let with = format!("OWNER synapse TEMPLATE {template} ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'");
        server.psql("postgres", &format!("CREATE DATABASE \"{}\" {with}", name.replace('"', "\"\"")));
        server.psql(name, "GRANT ALL ON SCHEMA public TO synapse");
        Self { name: name.to_owned(), server }
    }

    /// A table of `rows` rows of about 430 bytes with an index, of which only every fourth is alive.
    ///
    /// The others were never committed. Deleted ones would stay as long as any transaction of another test is open.
    pub fn add_bloated(&self, table: &str, rows: u32) {
        let insert = format!(
            "INSERT INTO {table} SELECT i, md5(i::text) || repeat(md5((-i)::text), 11) \
             FROM generate_series(chunk * {0} + 1, (chunk + 1) * {0}) i WHERE i % 4",
            rows / 10
        );
        self.as_synapse_sql(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, body text NOT NULL); \
             DO $$ BEGIN FOR chunk IN 0..9 LOOP \
                 {insert} = 0; \
                 BEGIN {insert} <> 0; RAISE 'undo'; EXCEPTION WHEN raise_exception THEN NULL; END; \
             END LOOP; END $$; \
             ANALYZE {table};"
        ));
        // Before PostgreSQL 15 a collector counts, some time later. What a test does is compared with what was counted before it.
        self.sql(&format!(
            "DO $$ BEGIN WHILE pg_stat_get_analyze_count('{table}'::regclass) = 0 LOOP \
                 PERFORM pg_sleep(0.05), pg_stat_clear_snapshot(); END LOOP; END $$"
        ));
    }

    /// A table whose index takes `seconds` to build once [`Self::slow_down`] was called: VACUUM FULL builds it anew.
    pub fn add_slow(&self, table: &str, seconds: u32) {
        self.as_synapse_sql(&format!(
            "CREATE TABLE {table}_switch (slow boolean); \
             CREATE FUNCTION {table}_wait(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN \
                 IF EXISTS (SELECT FROM public.{table}_switch WHERE slow) THEN PERFORM pg_sleep(0.1); END IF; \
                 RETURN $1; END $$; \
             CREATE TABLE {table} (id integer); \
             INSERT INTO {table} SELECT generate_series(1, {}); \
             CREATE INDEX ON {table} (public.{table}_wait(id)); \
             INSERT INTO {table}_switch VALUES (true);",
            seconds * 10
        ));
    }

    /// Runs SQL as the superuser.
    pub fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.name, sql).trim().to_owned()
    }

    /// Runs SQL as the owner.
    pub fn as_synapse_sql(&self, sql: &str) -> String {
        self.sql(&format!("SET ROLE synapse; {sql}"))
    }

    /// A session over the loopback, such as Synapse's own.
    pub async fn session(&self, role: &str, application: &str) -> PgConnection {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.server.port)
            .username(role)
            .password(PASSWORD)
            .database(&self.name)
            .application_name(application);
        PgConnection::connect_with(&options).await.expect("a session")
    }

    /// What sessions of ours do now, such as `active VACUUM (FULL) public.slow`.
    pub fn our_sessions(&self) -> String {
        self.sql(&format!(
            "SELECT state, query FROM pg_stat_activity WHERE datname = '{}' AND application_name LIKE 'synapse-keeper/%'",
            self.name
        ))
    }

    /// Waits until no session of ours is left. PostgreSQL notices a moment later that a client, or a pooler, has closed its
    /// connection.
    pub async fn sessions_of_tasks_end(&self) {
        eventually("the sessions of tasks have ended", async || self.our_sessions().is_empty()).await;
    }

    /// Whether our VACUUM FULL is at work.
    pub fn is_vacuuming(&self) -> bool {
        self.our_sessions().lines().any(|line| line.starts_with("active|VACUUM (FULL)"))
    }

    /// Every table with its file and its size: equal before and after where nothing was changed.
    pub fn files(&self) -> String {
        self.sql(
            "SELECT relname, pg_relation_filenode(oid), pg_relation_size(oid), \
             pg_stat_get_vacuum_count(oid), pg_stat_get_analyze_count(oid) \
             FROM pg_class WHERE relkind IN ('r', 'i', 't') AND relnamespace = 'public'::regnamespace ORDER BY 1",
        )
    }

    /// A checksum of a table's rows, whatever their order.
    pub fn checksum(&self, table: &str) -> String {
        self.sql(&format!("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table} t"))
    }

    /// The program, told to use this database.
    pub fn task(&self, task: &str) -> Program {
        Program::task(task).database("127.0.0.1", self.server.port, &self.name)
    }
}

/// Executes any statement in a session.
pub async fn execute(session: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(session).await.expect(sql);
}

/// The Python that has the Synapse of the fixture.
pub fn synapse_python() -> PathBuf {
    fixture().parent().expect("a folder").join("venv/bin/python3")
}

/// The dump of a real Synapse: made once by a script and kept outside the checkout.
fn fixture() -> PathBuf {
    if let Some(path) = std::env::var_os("SYNAPSE_KEEPER_FIXTURE") {
        return path.into();
    }
    setup::path("tests/homeserver/fixture", &[])
}
