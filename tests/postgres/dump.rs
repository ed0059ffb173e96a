//! `task restore-dump`: what `pg_dump` wrote comes back beside the database that serves, and what would write elsewhere, or is
//! not all there, does not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::json;
use synapse_keeper::contract::ErrorClass;
use tempfile::TempDir;

use crate::{
    backup::{add_one_time_keys, content},
    portable::advised,
    support::{Database, PASSWORD, Program, Repository, Server, eventually},
};

/// Where somebody keeps dumps.
pub struct Dumps(TempDir);

impl Dumps {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What the real `pg_dump` writes of a database.
    pub fn dump(&self, database: &Database, name: &str, arguments: &[&str]) -> PathBuf {
        let path = self.path(name);
        run(database, "pg_dump", &[&["--file", &path.display().to_string()], arguments, &[&database.name]].concat());
        path
    }

    /// A script with something in it changed.
    pub fn changed(&self, script: &Path, name: &str, change: impl Fn(String) -> String) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, change(fs::read_to_string(script).expect("text"))).expect("a file");
        path
    }
}

fn run(database: &Database, program: &str, arguments: &[&str]) {
    let (socket, port) = (database.server.socket(), database.server.port.to_string());
    let output = Command::new(database.server.program(program))
        .args(["-U", "postgres", "-h", &socket, "-p", &port])
        .args(arguments)
        .output()
        .expect(program);
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A restore with all that its Job has.
pub fn restore(database: &Database, dump: &Path, uid: &str) -> Program {
    let dump = dump.display().to_string();
    let what = ["--dump", &dump, "--server-name", "example.org", "--operation", uid, "--restore", uid];
    let terms = ["--free-space", "10Gi", "--existing", "rename"];
    database.task("restore-dump").administrator("databases").with(&what).with(&terms)
}

pub fn swap(database: &Database, uid: &str) -> Program {
    let task = database.task("swap-database").administrator("databases");
    task.with(&["--operation", uid, "--existing", "rename"])
}

/// What a restore has made beside.
fn beside(database: &Database, uid: &str, attempt: &str) -> Database {
    let short = uid.replace('-', "").to_ascii_lowercase();
    Database { name: format!("synapse_keeper_{}_{attempt}", &short[short.len() - 8..]), server: database.server }
}

/// What restores of this UID have left.
pub fn left(database: &Database, uid: &str) -> String {
    let names = format!(
        "SELECT string_agg(datname, ' ') FROM pg_database WHERE datname LIKE '{}%'",
        beside(database, uid, "").name.replace('_', "\\_")
    );
    database.server.psql("postgres", &names).trim().to_owned()
}

/// A homeserver's database with what a careless reader of dumps would trip over.
fn homeserver(name: &str) -> Database {
    let database = Database::of_synapse(name);
    database.as_synapse_sql(
        "CREATE TABLE \"Odd \"\"(name\" (id int GENERATED ALWAYS AS IDENTITY, body text, twice int GENERATED ALWAYS AS (1) STORED); \
         INSERT INTO \"Odd \"\"(name\" (body) VALUES (E'\\\\connect postgres'), (E'\\\\.\\n\\\\.\\n\\\\! id'), (NULL), (''), \
             (E'''; DROP DATABASE synapse; --'), (repeat('x', 3000000)); \
         CREATE INDEX odd ON \"Odd \"\"(name\" ((left(body, 9) || E'\\\\;''')); \
         CREATE FUNCTION odd() RETURNS text LANGUAGE sql AS $odd$ SELECT 'a; $$ -- DROP DATABASE b;' $odd$; \
         GRANT SELECT ON events TO stranger; TRUNCATE e2e_one_time_keys_json",
    );
    database.sql(&format!("COMMENT ON TABLE events IS 'a; b'; ALTER DATABASE {name} SET work_mem = '7MB'"));
    database
}

#[tokio::test]
async fn a_custom_dump_comes_back_and_takes_the_place() {
    let (database, dumps) = (homeserver("dump_custom"), Dumps::new());
    add_one_time_keys(&database);
    // With the keys: whoever made it did not know.
    let dump = dumps.dump(&database, "synapse.dump", &["-Fc"]);
    database.sql("TRUNCATE e2e_one_time_keys_json");
    let before = content(&database);
    database.as_synapse_sql("DELETE FROM users");

    let uid = "dump-custom-01";
    let finished = restore(&database, &dump, uid).run().await;
    assert!(finished.result().summary.contains("beside dump_custom"), "{finished:?}");
    let warnings = &finished.result().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("one-time key")), "{warnings:?}");
    assert_eq!(content(&beside(&database, uid, "0")), before, "tables, and where sequences stand");
    let swapped = swap(&database, uid).run().await;
    let restored = swapped.result().restored.clone().expect("a swap");
    let of = restored.dump.expect("a dump");
    assert_eq!((of.path, restored.snapshot), (dump.display().to_string(), None));
    let summed = Command::new("sha256sum").arg(&dump).output().unwrap().stdout;
    assert_eq!(of.sha256, String::from_utf8_lossy(&summed[..64]));
    assert!(swapped.result().summary.contains("now has the dump "), "{swapped:?}");
    assert!(restored.kept.is_some_and(|kept| kept.starts_with("dump_custom_before_")));
    assert_eq!(database.sql("SELECT last_value > 1000000, is_called FROM events_stream_seq"), "t|f");
    assert_eq!(database.sql("SELECT count(*) FROM e2e_one_time_keys_json"), "0");
    assert_ne!(database.sql("SELECT count(*) FROM users"), "0");
    assert_eq!(database.sql("SHOW work_mem"), "7MB");
    // The Pod died before it could say so.
    let again = swap(&database, uid).with(&["--attempt", "2"]).run().await;
    assert_eq!(again.result().restored, swapped.result().restored);
}

#[tokio::test]
async fn sql_comes_back_whoever_owned_it() {
    let (database, dumps) = (homeserver("dump_sql"), Dumps::new());
    let before = content(&database);
    let script = dumps.dump(&database, "synapse.sql", &[]);
    let foreign = dumps.changed(&script, "foreign.sql", |script| {
        script.replace("OWNER TO synapse", "OWNER TO \"Nobody here\"").replace("TO stranger", "TO \"Nobody here\"")
    });
    let uid = "dump-sql-0001";
    let finished = restore(&database, &foreign, uid).run().await;
    let warnings = &finished.result().warnings;
    assert!(!warnings.iter().any(|warning| warning.contains("one-time keys")), "{warnings:?}");
    for kind in ["statements about owners", "statements about rights", "statements about comments"] {
        assert!(warnings.iter().any(|warning| warning.contains(kind)), "{kind}: {warnings:?}");
    }
    let restored = beside(&database, uid, "0");
    assert_eq!(content(&restored), before);
    assert_eq!(restored.sql("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'"), "synapse");
    let indexes = "SELECT count(*), sum(hashtext(indexdef)) FROM pg_indexes WHERE schemaname = 'public'";
    assert_eq!(restored.sql(indexes), database.sql(indexes));
    let constraints = "SELECT count(*), sum(hashtext(conname || pg_get_constraintdef(oid))) FROM pg_constraint";
    assert_eq!(restored.sql(constraints), database.sql(constraints));
    let triggers = "SELECT count(*) FROM pg_trigger";
    assert_eq!(restored.sql(triggers), database.sql(triggers));
    assert_eq!(restored.sql("SELECT odd()"), "a; $$ -- DROP DATABASE b;");

    // The Pod died before it could say so: what is whole is not made again.
    let again = restore(&database, &foreign, uid).with(&["--attempt", "1"]).run().await;
    assert!(again.result().summary.contains("an earlier attempt"), "{again:?}");
    // Another file under the same name is.
    fs::write(&foreign, fs::read_to_string(&script).unwrap()).unwrap();
    let later = std::time::SystemTime::now() + Duration::from_secs(60);
    fs::File::open(&foreign).unwrap().set_modified(later).unwrap();
    restore(&database, &foreign, uid).with(&["--attempt", "2"]).run().await.result();
    assert_eq!(left(&database, uid), beside(&database, uid, "2").name);
}

#[tokio::test]
async fn every_way_in_which_pg_dump_writes_a_database_comes_back() {
    let (database, dumps) = (homeserver("dump_ways"), Dumps::new());
    let before = content(&database);
    let script = dumps.dump(&database, "synapse.sql", &[]);
    let packed = |path: &Path| {
        assert!(Command::new("gzip").args(["-1", "--keep"]).arg(path).status().unwrap().success());
        PathBuf::from(format!("{}.gz", path.display()))
    };
    let ways = [
        packed(&script),
        packed(&dumps.dump(&database, "synapse.dump", &["-Fc"])),
        dumps.dump(&database, "clean.sql", &["--clean", "--if-exists"]),
        dumps.dump(&database, "inserts.sql", &["--column-inserts", "--on-conflict-do-nothing"]),
        dumps.dump(&database, "session.sql", &["--use-set-session-authorization", "--no-comments"]),
        // Of Windows, and of a `pg_dump` since August 2025.
        dumps.changed(&script, "restricted.sql", |script| format!("\\restrict a1\n{script}\\unrestrict a1\n")),
    ];
    for (number, way) in ways.iter().enumerate() {
        let uid = format!("dump-ways-{number:03}");
        restore(&database, way, &uid).run().await.result();
        assert_eq!(content(&beside(&database, &uid, "0")), before, "{}", way.display());
    }
}

#[tokio::test]
async fn rows_that_come_by_insert_are_counted() {
    let (database, dumps) = (Database::of_synapse("dump_counted"), Dumps::new());
    add_one_time_keys(&database);
    database.as_synapse_sql(
        "CREATE TABLE mixed (a int, b text); INSERT INTO mixed VALUES (1, 'x'), (2, 'y'); CREATE TABLE \"Bare\" (); \
         INSERT INTO \"Bare\" DEFAULT VALUES; CREATE TABLE parts (a int) PARTITION BY LIST (a); \
         CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1); INSERT INTO parts VALUES (1), (1)",
    );
    let script = dumps.dump(&database, "copy.sql", &[]);
    let ways = [
        script.clone(),
        dumps.dump(&database, "inserts.sql", &["--inserts"]),
        dumps.dump(&database, "several.sql", &["--rows-per-insert=7", "--load-via-partition-root"]),
        dumps.dump(&database, "inserts.dump", &["-Fc", "--column-inserts"]),
        dumps.changed(&script, "mixed.sql", |script| {
            let rows = "COPY public.mixed (a, b) FROM stdin;\n1\tx\n2\ty\n\\.\n";
            assert!(script.contains(rows));
            script
                .replace(rows, "INSERT INTO public.mixed VALUES (1, 'x');\nINSERT INTO public.mixed VALUES (2, 'y');\n")
        }),
    ];
    let forgotten = database.sql("SELECT count(*) FROM e2e_one_time_keys_json");
    let mut said = Vec::new();
    for (number, way) in ways.iter().enumerate() {
        let uid = format!("dump-count-{number:03}");
        let restored = restore(&database, way, &uid).run().await;
        let result = restored.result();
        let counts = result.summary.split_once(" of the dump").expect("a summary").0.to_owned();
        let keys = format!(
            "{} not restored: clients upload new ones",
            if forgotten == "1" {
                "1 one-time key of the dump is".to_owned()
            } else {
                format!("{forgotten} one-time keys of the dump are")
            }
        );
        assert!(result.warnings.iter().any(|line| line.starts_with(&keys)), "{}: {:?}", way.display(), result.warnings);
        assert_eq!(beside(&database, &uid, "0").sql("SELECT count(*) FROM parts"), "2");
        said.push(counts);
    }
    let tables = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace";
    assert!(said[0].ends_with(&format!("rows of {} tables", database.sql(tables))), "{said:?}");
    // By the root: the partition and the partitioned table change places.
    assert!(said.iter().all(|counts| *counts == said[0]), "{said:?}");
}

/// What its superuser has made in a database, and a view that must be filled.
const OF_A_SUPERUSER: &str = "\
    CREATE EXTENSION postgres_fdw; CREATE EXTENSION pg_stat_statements; \
    CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw; CREATE USER MAPPING FOR synapse SERVER elsewhere; \
    CREATE FOREIGN TABLE far (a int) SERVER elsewhere; CREATE VIEW near AS SELECT * FROM far; \
    CREATE MATERIALIZED VIEW copied AS SELECT * FROM far WITH NO DATA; CREATE INDEX ON copied (a); \
    CREATE VIEW slow AS SELECT query FROM pg_stat_statements; \
    CREATE FUNCTION pages(regclass) RETURNS bigint LANGUAGE c STRICT AS '$libdir/pgstattuple', 'pg_relpagesbyid'; \
    CREATE FUNCTION noop() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN END$$; \
    CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION noop(); CREATE PUBLICATION everything FOR ALL TABLES; \
    SELECT lo_from_bytea(0, 'large'); SELECT lo_create(0); \
    CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM events; CREATE MATERIALIZED VIEW above AS SELECT * FROM counted; \
    CREATE MATERIALIZED VIEW never AS SELECT 1 AS one WITH NO DATA";

#[tokio::test]
async fn what_a_superuser_has_made_is_left_out_and_views_are_filled() {
    let (database, dumps) = (Database::of_synapse("dump_portable"), Dumps::new());
    database.sql("TRUNCATE e2e_one_time_keys_json");
    database.sql(OF_A_SUPERUSER);
    let before = content(&database);
    for (name, format) in [("synapse.sql", "-Fp"), ("synapse.dump", "-Fc")] {
        // The rows of the foreign table are elsewhere.
        let dump = dumps.dump(&database, name, &[format]);
        let uid = format!("portable{format}-1");
        let finished = restore(&database, &dump, &uid).run().await;
        let warnings = finished.result().warnings.join("\n");
        let (extension, view) = match format {
            "-Fc" => ("extension postgres_fdw, function public.pages(regclass)", "view public.slow"),
            _ => ("statements about extensions", "not restored: CREATE VIEW public.slow"),
        };
        for words in [extension, view, "large objects", "public.near", "public.copied"] {
            assert!(warnings.contains(words), "{name}: {words:?} is not in\n{warnings}");
        }
        let restored = beside(&database, &uid, "0");
        assert_eq!(content(&restored), before, "{name}");
        let filled =
            "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'm' AND relispopulated";
        assert_eq!(restored.sql(filled), "above counted", "{name}");
        assert_eq!(restored.sql("SELECT count FROM above"), database.sql("SELECT count(*) FROM events"));
        assert_eq!(restored.sql("SELECT count(*) FROM pg_event_trigger"), "0");
        database.server.psql("postgres", &format!("DROP DATABASE \"{}\"", restored.name));
    }
}

#[tokio::test]
async fn what_a_dump_cannot_bring_is_found_before_its_rows_go_in() {
    let (database, dumps) = (Database::of_synapse("dump_early"), Dumps::new());
    database.sql("CREATE EXTENSION bloom; CREATE INDEX blooms ON users USING bloom (name)");
    let dump = dumps.dump(&database, "synapse.dump", &["-Fc"]);
    let uid = "dump-early-01";
    let words =
        ["extension bloom (only a superuser can make it), which index public.blooms needs", "synapse_keeper_template"];
    let refused = restore(&database, &dump, uid).run().await;
    refused.refused("SuperuserNeeded", &words);
    // Behind all rows of a file that is longer than what was looked at before.
    database.sql("DROP EXTENSION bloom CASCADE");
    let script = dumps.dump(&database, "synapse.sql", &[]);
    assert!(fs::metadata(&script).unwrap().len() > 1 << 20, "it must be longer than what is looked at in a repository");
    let script = dumps.changed(&script, "late.sql", |script| format!("{script}VACUUM;\n"));
    let running = restore(&database, &script, uid).run().await;
    running.refused("DumpNotAllowed", &["VACUUM"]);
    assert_eq!(left(&database, uid), "");
    assert!(!running.printed.contains("made database"), "nothing was made before it was seen: {running:?}");
}

/// A plain dump says nothing of what depends on what.
#[tokio::test]
async fn what_tables_of_a_plain_dump_need_of_a_superuser_is_found_before_its_rows_and_the_advice_works() {
    let (source, dumps, repository) = (Database::of_synapse("dump_needed"), Dumps::new(), Repository::new());
    source.sql(
        "TRUNCATE e2e_one_time_keys_json; CREATE SCHEMA \"Ext\"; CREATE EXTENSION bloom SCHEMA \"Ext\"; CREATE INDEX blooms ON users USING bloom (name); \
         CREATE EXTENSION pg_stat_statements; \
         CREATE FUNCTION half(int) RETURNS int LANGUAGE internal IMMUTABLE AS 'int4up'; \
         ALTER TABLE rooms ADD halved int DEFAULT half(2); \
         CREATE FUNCTION changed() RETURNS trigger LANGUAGE c AS '$libdir/moddatetime', 'moddatetime'; \
         CREATE TRIGGER stamped BEFORE UPDATE ON profiles FOR EACH ROW EXECUTE FUNCTION changed('a'); \
         CREATE EXTENSION pg_trgm; CREATE INDEX trigrams ON users USING gin (name gin_trgm_ops)",
    );
    let before = content(&source);
    let script = dumps.dump(&source, "synapse.sql", &[]);
    // The template is the server's.
    let target = Database::on(Server::of_its_own(&[]), "dump_needed");
    let uid = "dump-needed-1";
    let refused = restore(&target, &script, uid).run().await;
    let words = [
        "extension bloom (only a superuser can make it), which index blooms needs",
        "function public.half (only a superuser can make it), which table public.rooms needs",
        "function public.changed (only a superuser can make it), which trigger stamped needs",
    ];
    let (creation, within) = advised(&refused.refused("SuperuserNeeded", &words).message);
    assert!(!refused.printed.contains("made database"), "{refused:?}");

    // Out of a repository not all of it is looked at before: the tables are, indexes are not.
    repository.restic(&["backup", &script.display().to_string()]);
    let refused = restore(&target, &script, uid).of_repository(&repository).run().await;
    refused.refused("SuperuserNeeded", &["function public.half", "from which the restore makes its own: "]);
    assert!(!refused.printed.contains("made database"), "{refused:?}");
    source.sql("ALTER TABLE rooms ALTER halved DROP DEFAULT; DROP TRIGGER stamped ON profiles");
    let script = dumps.dump(&source, "later.sql", &[]);
    repository.restic(&["backup", &script.display().to_string()]);
    let late = restore(&target, &script, uid).of_repository(&repository).run().await;
    let error = late.refused("SuperuserNeeded", &["bloom", "CREATE EXTENSION", "synapse_keeper_template"]);
    assert_eq!(error.class, ErrorClass::Terminal, "it is not filled three times over");
    assert_eq!(left(&target, uid), "");

    target.server.psql("postgres", &creation);
    target.server.psql("synapse_keeper_template", &within);
    let script = dumps.path("synapse.sql");
    restore(&target, &script, uid).run().await.result();
    let restored = beside(&target, uid, "0");
    assert_eq!(content(&restored), before);
    let valid =
        "SELECT count(*) FROM pg_index WHERE indisvalid AND indexrelid IN ('blooms'::regclass, 'trigrams'::regclass)";
    assert_eq!(restored.sql(valid), "2", "an extension that its owner can make is made");
    assert_eq!(restored.sql("SELECT count(*) FROM pg_trigger WHERE tgname = 'stamped'"), "1");
}

#[tokio::test]
async fn a_dump_comes_back_out_of_a_restic_repository() {
    let (database, dumps, repository) = (homeserver("dump_restic"), Dumps::new(), Repository::new());
    let before = content(&database);
    for (name, format) in [("synapse.sql", "-Fp"), ("synapse.dump", "-Fc")] {
        let dump = dumps.dump(&database, name, &[format]);
        repository.restic(&["backup", &dump.display().to_string()]);
        // Newer, and of something else.
        repository.store("other.txt", "nothing");
        let uid = format!("restic{format}-001");
        let task = restore(&database, &dump, &uid).of_repository(&repository);
        let finished = task.run().await;
        let summary = &finished.result().summary;
        let moment = summary.split(" into ").next().and_then(|told| told.rsplit(' ').next());
        assert_eq!(moment.map(str::len), Some("2026-11-22T20:02:04Z".len()), "{summary}");
        assert_eq!(content(&beside(&database, &uid, "0")), before, "{name}");
    }
    let swapped = swap(&database, "restic-Fc-001").run().await.result().restored.clone().expect("a swap");
    let snapshot = swapped.snapshot.expect("of a snapshot");
    assert!(repository.restic(&["snapshots", "--json"]).contains(&snapshot));
    let gone = restore(&database, Path::new("/dumps/gone.sql"), "restic-gone-1").of_repository(&repository);
    gone.run().await.refused("SnapshotNotFound", &["/dumps/gone.sql"]);
    let snapshot = repository.store("other.txt", "nothing");
    let gone = restore(&database, Path::new("/gone.sql"), "restic-gone-1").of_repository(&repository);
    gone.with(&["--snapshot", &snapshot]).run().await.refused("DumpNotFound", &["/gone.sql", "restic ls"]);
}

impl Program {
    /// The dump is in a repository.
    pub fn of_repository(self, repository: &Repository) -> Self {
        let secret = repository.destination()["repositoryDir"].as_str().expect("a path").to_owned();
        self.with(&["--repository-dir", &secret]).repository_programs(repository)
    }
}

#[tokio::test]
async fn what_would_write_elsewhere_is_refused_and_leaves_nothing() {
    let (database, dumps) = (Database::of_synapse("dump_refused"), Dumps::new());
    let files = database.files();
    let script = dumps.dump(&database, "synapse.sql", &[]);
    let everything = dumps.path("all.sql");
    run(&database, "pg_dumpall", &["--exclude-database=*", "--file", &everything.display().to_string()]);
    let created = dumps.dump(&database, "created.sql", &["--create"]);
    let last = |line: &'static str| move |script: String| format!("{script}{line}\n");
    let uid = "dump-refused-1";
    let refusals: [(PathBuf, &str, &[&str]); 10] = [
        (everything.clone(), "DumpNotAllowed", &["pg_dumpall", "with pg_dump"]),
        (
            dumps.changed(&everything, "headless.sql", |script| {
                script
                    .replace("-- PostgreSQL database cluster dump", "")
                    .replace("SET default_transaction_read_only = off;", "")
                    .replace("CREATE ROLE ", "CREATE ROLE dump_refused_")
            }),
            "DumpNotAllowed",
            &["Line ", "CREATE ROLE dump_refused_", "without --create"],
        ),
        (created, "DumpNotAllowed", &["CREATE DATABASE dump_refused"]),
        (dumps.changed(&script, "a.sql", last("\\connect postgres")), "DumpNotAllowed", &["\\connect postgres"]),
        (dumps.changed(&script, "b.sql", last("\\! touch /tmp/dump_refused")), "DumpNotAllowed", &["\\! touch"]),
        (
            dumps.changed(&script, "c.sql", last("COPY public.users TO PROGRAM 'cat';")),
            "DumpNotAllowed",
            &["COPY public.users TO PROGRAM", "COPY may only"],
        ),
        (
            dumps.changed(&script, "d.sql", last("DO $$ BEGIN DROP DATABASE dump_refused; END $$;")),
            "DumpNotAllowed",
            &["Line ", "DO $$"],
        ),
        (dumps.changed(&script, "e.sql", last("DROP DATABASE dump_refused;")), "DumpNotAllowed", &["DROP DATABASE"]),
        (dumps.path("gone.sql"), "DumpNotFound", &["gone.sql", "spec.from.dump"]),
        (dumps.0.path().to_owned(), "DumpFormatUnknown", &["pg_dump -Fc"]),
    ];
    for (dump, reason, words) in refusals {
        restore(&database, &dump, uid).run().await.refused(reason, words);
        assert_eq!(left(&database, uid), "", "{}", dump.display());
    }
    assert_eq!(database.files(), files);
    // Other tests make roles on the same server.
    assert_eq!(database.sql("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'dump\\_refused%'"), "0");
    assert!(!Path::new("/tmp/dump_refused").exists());
}

#[tokio::test]
async fn what_is_not_all_there_or_another_server_s_is_refused() {
    let (database, dumps) = (Database::of_synapse("dump_part"), Dumps::new());
    let files = database.files();
    let script = dumps.dump(&database, "synapse.sql", &[]);
    let cut = |script: &Path, name: &str, part: u64| {
        let path = dumps.path(name);
        fs::copy(script, &path).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_len(fs::metadata(&path).unwrap().len() * part / 100).unwrap();
        path
    };
    let custom = dumps.dump(&database, "synapse.dump", &["-Fc"]);
    let other = database.copy("dump_part_other");
    other.sql(
        "SET session_replication_role = replica; UPDATE users SET name = replace(name, ':example.org', ':other.org')",
    );
    let newer = database.copy("dump_part_newer");
    newer.sql("UPDATE schema_compat_version SET compat_version = 10000");
    let empty = Database::empty("dump_part_empty");
    let uid = "dump-part-001";
    let refusals: [(PathBuf, &str, &[&str]); 11] = [
        (cut(&script, "a.sql", 50), "DumpIncomplete", &["cut off"]),
        (cut(&script, "b.sql", 99), "DumpIncomplete", &["cut off"]),
        (cut(&custom, "c.dump", 60), "DumpUnreadable", &["pg_restore", "cut off"]),
        (dumps.dump(&database, "d.dump", &["-Ft"]), "DumpFormatUnknown", &["tar"]),
        (dumps.dump(&other, "e.dump", &["-Fc"]), "ServerNameDiffers", &[":other.org", "example.org"]),
        (dumps.dump(&newer, "f.dump", &["-Fc"]), "SchemaTooNew", &["The dump needs", "10000"]),
        (dumps.dump(&empty, "g.sql", &[]), "NoSynapseSchema", &["schema_version"]),
        (dumps.dump(&database, "h.dump", &["-Fc", "--schema-only"]), "NoSynapseSchema", &[]),
        (
            dumps.dump(&database, "i.dump", &["-Fc", "--section=pre-data", "--section=data"]),
            "DumpIncomplete",
            &["unique index"],
        ),
        (
            dumps.changed(&script, "j.sql", |script| {
                script.replace("COPY public.users (name,", "COPY public.users (nobody,")
            }),
            "RestoreFailed",
            &["line ", "COPY public.users"],
        ),
        (
            dumps.changed(&script, "k.sql", |script| script.replace("database version 1", "database version 9")),
            "PostgresTooOld",
            &["The dump is of PostgreSQL 9"],
        ),
    ];
    for (dump, reason, words) in refusals {
        restore(&database, &dump, uid).run().await.refused(reason, words);
        assert_eq!(left(&database, uid), "", "{}", dump.display());
    }
    // What its image says of the Synapse that will run counts, not what ran here.
    let older = restore(&database, &custom, uid).with(&["--synapse-schema=1"]).run().await;
    older.refused("SchemaTooNew", &["The dump needs", "the image of the one that runs here knows schema 1"]);
    assert_eq!(left(&database, uid), "");
    assert_eq!(database.files(), files);
}

#[tokio::test]
async fn a_table_that_the_dump_lacks_is_told() {
    let (database, dumps) = (Database::of_synapse("dump_lacks"), Dumps::new());
    let dump = dumps.dump(&database, "synapse.dump", &["-Fc"]);
    database.as_synapse_sql("CREATE TABLE of_a_bridge (a int PRIMARY KEY)");
    let finished = restore(&database, &dump, "dump-lacks-01").run().await;
    let warnings = &finished.result().warnings;
    assert!(warnings.iter().any(|warning| warning.ends_with(": of_a_bridge, of_a_bridge_pkey")), "{warnings:?}");
}

#[tokio::test]
async fn killed_at_any_step_the_old_database_is_as_it_was_and_a_retry_succeeds() {
    let (database, dumps) = (homeserver("dump_killed"), Dumps::new());
    let before = content(&database);
    let dump = dumps.dump(&database, "synapse.dump", &["-Fc"]);
    let (files, uid) = (database.files(), "dump-killed-1");
    let running = restore(&database, &dump, uid).start();
    eventually("the new database has tables", || async {
        !left(&database, uid).is_empty() && beside(&database, uid, "0").sql("SELECT count(*) FROM pg_tables") != "62"
    })
    .await;
    running.signal(Signal::TERM);
    running.finish().await.refused("Stopped", &[]);
    assert_eq!(left(&database, uid), "", "what is stopped in order takes its database away");

    let mut attempt = 1;
    // Each time after more of its progress: a table is one.
    for lines in [1, 2, 40, 120, 175, 178, 181] {
        attempt += 1;
        let running = restore(&database, &dump, uid).with(&["--attempt", &attempt.to_string()]).start();
        if !running.killed_after(lines).await {
            break;
        }
        assert_eq!(database.files(), files, "killed after {lines}");
    }
    attempt += 1;
    restore(&database, &dump, uid).with(&["--attempt", &attempt.to_string()]).run().await.result();
    assert_eq!(left(&database, uid).split(' ').count(), 1);
    assert_eq!(content(&Database { name: left(&database, uid), server: database.server }), before);
    assert_eq!(database.files(), files);
}

#[tokio::test]
async fn preflight_looks_at_the_beginning_and_changes_nothing() {
    let (database, dumps) = (Database::of_synapse("dump_preflight"), Dumps::new());
    let secret = tempfile::tempdir().unwrap();
    fs::write(secret.path().join("username"), "databases").unwrap();
    fs::write(secret.path().join("password"), PASSWORD).unwrap();
    let preflight = |dump: &Path, more: serde_json::Value| {
        let mut wanted = json!({
            "dump": dump, "serverName": "example.org", "snapshot": "latest", "restore": "matrix/r", "existing": "Rename",
            "freeSpace": "10Gi", "adminCredentialsDir": secret.path(),
        });
        wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        database.task("preflight").with(&["--step", &format!("database={}", json!({"restoreDump": wanted}))])
    };
    let dump = dumps.dump(&database, "synapse.dump", &["-Fc"]);
    let found = preflight(&dump, json!({})).run().await;
    let plan = &found.preflight().plan[0].summary;
    assert!(plan.contains("would be kept as dump_preflight_before_"), "{plan}");
    assert!(found.preflight().arguments["database"].is_empty());
    assert!(found.preflight().warnings[0].contains("spec.image of the Synapse object"), "{found:?}");
    let told = secret.path().join("schema.json");
    fs::write(&told, r#"{"version": 94}"#).unwrap();
    let told = format!("--synapse-schema-file={}", told.display());
    let found = preflight(&dump, json!({})).with(&[&told]).run().await;
    assert_eq!(found.preflight().arguments["database"], ["--synapse-schema=94"]);
    assert_eq!(found.preflight().warnings, [""; 0]);
    preflight(&dump, json!({"existing": "Refuse"})).run().await.refused("DatabaseInUse", &[]);
    preflight(&dump, json!({"freeSpace": "1Mi"})).run().await.refused("DiskTooSmall", &["1.0 MiB is free"]);
    let created = dumps.dump(&database, "created.sql", &["--create"]);
    preflight(&created, json!({})).run().await.refused("DumpNotAllowed", &["CREATE DATABASE"]);

    let repository = Repository::new();
    let snapshot = repository.store("synapse.sql", &fs::read_to_string(dumps.dump(&database, "a.sql", &[])).unwrap());
    let place = json!({"repositoryDir": repository.destination()["repositoryDir"]});
    let found = preflight(Path::new("/synapse.sql"), place).repository_programs(&repository).run().await;
    assert_eq!(found.preflight().arguments["database"], [format!("--snapshot={snapshot}")]);
}
