//! What belongs to the server or to a superuser: it never stops a restore late, a backup says at once that it will not come back,
//! and a drill has no more rights than a restore.

use serde_json::{Value, json};

use crate::{
    backup::{ALL, back_up},
    in_place,
    restore::{another, restore, swap},
    support::{Database, Finished, PASSWORD, Program, Repository, Server, server},
    verify::{verdict, verify},
};

/// What only a superuser can make, and what hangs on it. None of Synapse's tables needs any of it.
const OF_A_SUPERUSER: &str = "\
    CREATE EXTENSION pg_stat_statements; CREATE EXTENSION postgres_fdw; CREATE EXTENSION pg_trgm; \
    COMMENT ON EXTENSION pg_trgm IS 'ours'; \
    CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'elsewhere'); \
    CREATE USER MAPPING FOR synapse SERVER elsewhere OPTIONS (user 'a', password 'b'); \
    CREATE FOREIGN TABLE far (a int) SERVER elsewhere; CREATE VIEW near AS SELECT * FROM far; \
    CREATE VIEW slow AS SELECT query FROM pg_stat_statements; \
    CREATE FUNCTION pages(regclass) RETURNS bigint LANGUAGE c STRICT AS '$libdir/pgstattuple', 'pg_relpagesbyid'; \
    CREATE FUNCTION noop() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN END$$; \
    CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION noop(); \
    CREATE PUBLICATION everything FOR ALL TABLES; CREATE PUBLICATION users_only FOR TABLE users; \
    CREATE CAST (text AS jsonb) WITH INOUT; \
    CREATE OPERATOR CLASS own FOR TYPE int4 USING btree AS OPERATOR 1 <, FUNCTION 1 btint4cmp(int4, int4); \
    CREATE TEXT SEARCH TEMPLATE template (LEXIZE = dsimple_lexize); \
    SELECT lo_create(0); SELECT lo_create(0); \
    CREATE UNLOGGED TABLE hits (a int); INSERT INTO hits VALUES (1); ALTER TABLE hits OWNER TO synapse; \
    GRANT SELECT ON far, near, slow TO synapse; \
    CREATE INDEX trigrams ON users USING gin (name gin_trgm_ops)";

/// An extension that no server has the files of, with a table in which its users have a row.
fn add_missing_extension(database: &Database, name: &str) {
    database.sql(&format!(
        "CREATE TABLE {name}_jobs (a int); INSERT INTO {name}_jobs VALUES (1); GRANT SELECT ON {name}_jobs TO synapse; \
         INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion, extconfig, extcondition) \
         VALUES (4000000000, '{name}', 10, 'public'::regnamespace, false, '1', \
             ARRAY['{name}_jobs'::regclass::oid], ARRAY[''])"
    ));
    database.sql(&format!("ALTER EXTENSION {name} ADD TABLE {name}_jobs"));
}

fn preflight(database: &Database, repository: &Repository, method: &str) -> Program {
    let task = database.task("preflight").repository_programs(repository);
    let mut wanted = repository.destination();
    let more = json!({
        "serverName": "example.org", "snapshot": "latest", "restore": "matrix/r", "existing": "Rename", "freeSpace": "10Gi",
        "method": method,
    });
    wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    if method == "Beside" {
        wanted["adminCredentialsDir"] = json!(task.mounted("admin", "databases", PASSWORD));
    }
    let step = format!("database={}", json!({"restore": wanted}));
    task.with(&["--step", &step])
}

/// A drill on this server.
fn drill(repository: &Repository, database: &str, on: &'static Server) -> Program {
    let (socket, port) = (on.socket(), on.port.to_string());
    let arguments = ["--socket", &socket, "--port", &port, "--database", database, "--snapshot", "latest"];
    Program::task("verify").repository(repository).with(&arguments)
}

fn assert_told(lines: &[String], words: &[&str]) {
    for word in words {
        assert!(lines.iter().any(|line| line.contains(word)), "{word:?} is not in {lines:#?}");
    }
}

fn manifest(repository: &Repository, finished: &Finished) -> Value {
    let file = repository.fetch(&finished.backup().snapshot, "manifest.json");
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

#[tokio::test]
async fn what_a_superuser_has_made_is_left_out_and_said_from_the_backup_on() {
    let (database, repository) = (Database::of_synapse("portable_all"), Repository::new());
    database.sql("ALTER ROLE postgres SET allow_in_place_tablespaces = on");
    database.sql("CREATE TABLESPACE portable_fast LOCATION ''");
    database.sql("CREATE ROLE portable_exporter");
    database.sql(OF_A_SUPERUSER);
    database.sql("CREATE SUBSCRIPTION portable_sub CONNECTION 'dbname=x' PUBLICATION y WITH (connect = false)");
    database.sql(
        "ALTER TABLE users SET TABLESPACE portable_fast; CREATE TABLE hidden (a int); ALTER TABLE hidden OWNER TO synapse; \
         INSERT INTO hidden VALUES (1); CREATE POLICY p ON hidden TO portable_exporter USING (true); \
         GRANT SELECT ON users TO portable_exporter",
    );
    add_missing_extension(&database, "portable_cron");
    let made = back_up(&database, &repository).run().await;
    let by_superusers = [
        "extension pg_stat_statements",
        "extension postgres_fdw",
        "server elsewhere",
        "user mapping synapse SERVER elsewhere",
        "foreign table public.far",
        "view public.near",
        "view public.slow",
        "function public.pages(regclass)",
        "event trigger watch",
        "publication everything",
        "cast (text AS jsonb)",
        "operator class public.own",
        "text search template public.template",
        "extension portable_cron: the server does not have its files",
        "table public.users: in tablespace portable_fast",
    ];
    let unsaved = [
        "2 large objects: they are not backed up",
        "table public.hits: it is unlogged",
        "table public.portable_cron_jobs: its rows are an extension's",
        "subscription portable_sub: a subscription belongs to a server",
    ];
    let not_restored = manifest(&repository, &made)["notRestored"].as_array().expect("a list").clone();
    let listed: Vec<String> = not_restored
        .iter()
        .map(|one| format!("{}: {}", one["what"].as_str().unwrap(), one["why"].as_str().unwrap()))
        .collect();
    let by_itself: Vec<&str> = by_superusers.iter().chain(&unsaved).copied().collect();
    assert_told(&listed, &by_itself);
    for there in ["pg_trgm", "users_only", "trigrams", "portable_exporter", "noop"] {
        assert!(!listed.iter().any(|line| line.contains(there)), "{there} comes back: {listed:?}");
    }
    let coverage = made.result().coverage.clone().expect("it is said");
    assert_eq!(coverage.superuser_needed, Vec::<String>::new());
    assert_told(&coverage.not_restored, &unsaved);
    assert_told(&made.result().warnings, &["does not bring back", "extension portable_cron"]);

    // A server without the role and the tablespace says as much of the backup.
    let other = Server::of_its_own(&[]);
    for (on, name) in [(server(), "portable_all_drill"), (other, "portable_other_drill")] {
        let drilled = drill(&repository, name, on).run().await;
        drilled.result();
        assert!(verdict(drilled.report()).is_some_and(|found| found.is_whole), "{drilled:?}");
        let restored = Database { name: name.to_owned(), server: on };
        assert_eq!(restored.checksum("users"), database.checksum("users"));
        let rights = "SELECT DISTINCT rolsuper FROM pg_class JOIN pg_roles r ON r.oid = relowner WHERE relname IN ('users', 'hidden')";
        assert_eq!(restored.sql(rights), "f", "a drill has no more rights than a restore");
        assert_eq!(restored.sql("SELECT polroles::regrole[]::text FROM pg_policy"), "{portable_exporter}");
    }

    // A subscription follows the old database.
    preflight(&database, &repository, "Beside").run().await.refused("DatabaseReplicated", &["portable_sub"]);
    for name in ["SUBSCRIPTION portable_sub DISABLE", "SUBSCRIPTION portable_sub SET (slot_name = NONE)"] {
        database.sql(&format!("ALTER {name}"));
    }
    database.sql("DROP SUBSCRIPTION portable_sub");
    let would = preflight(&database, &repository, "Beside").run().await;
    assert_told(&would.preflight().warnings, &["not restored: extension pg_stat_statements", "portable_cron"]);
    let uid = "portable-all-1";
    let restored = restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await;
    assert_told(
        &restored.result().warnings,
        &["not restored: extension pg_stat_statements", "tablespace portable_fast"],
    );
    let swapped = swap(&database, uid).with(&["--existing", "rename"]).run().await;
    let old = another(&database, &swapped.result().restored.clone().unwrap().kept.unwrap());
    for table in ["users", "events", "hidden"] {
        assert_eq!(database.checksum(table), old.checksum(table), "{table}");
    }
    for (what, count) in [
        ("pg_extension WHERE extname IN ('pg_trgm')", "1"),
        ("pg_extension WHERE extname IN ('pg_stat_statements', 'postgres_fdw', 'portable_cron')", "0"),
        ("pg_event_trigger", "0"),
        ("pg_class WHERE relname = 'trigrams'", "1"),
        ("pg_publication", "1"),
        ("pg_policy", "1"),
        ("pg_proc WHERE proname = 'noop'", "1"),
    ] {
        assert_eq!(database.sql(&format!("SELECT count(*) FROM {what}")), count, "{what}");
    }
    assert_eq!(database.sql("SELECT has_table_privilege('portable_exporter', 'users', 'SELECT')"), "t");

    // Onto another server: the role is not there.
    let elsewhere = Database::on(other, "portable_all");
    let restored = restore(&elsewhere, &repository, "portable-all-2").run().await;
    restored.result();
    elsewhere.server.psql("postgres", "DROP DATABASE portable_all");
    old.server.psql("postgres", &format!("DROP DATABASE \"{}\"", old.name));
}

fn preflight_of_a_backup(database: &Database, repository: &Repository) -> Program {
    let mut destination = repository.destination();
    destination["serverName"] = json!("example.org");
    destination["init"] = json!(false);
    let step = format!("database={}", json!({"backup": {"destination": destination, "config": {}}}));
    database.task("preflight").repository_programs(repository).with(&["--step", &step])
}

#[tokio::test]
async fn preflight_of_a_backup_says_what_does_not_come_back_before_anything_is_stored() {
    let nothing = "CREATE EXTENSION pg_trgm; CREATE INDEX ON users USING gin (name gin_trgm_ops)";
    let left_out =
        "CREATE EXTENSION pg_stat_statements; CREATE PUBLICATION everything FOR ALL TABLES; SELECT lo_create(0)";
    let needed = "CREATE EXTENSION bloom; CREATE INDEX blooms ON users USING bloom (name)";
    let cases: [(&str, &str, &[&str]); 3] = [
        ("portable_ahead_0", nothing, &[]),
        (
            "portable_ahead_1",
            left_out,
            &[
                "a restore does not bring back extension pg_stat_statements",
                "publication everything",
                "a restore does not bring back 1 large object:",
            ],
        ),
        (
            "portable_ahead_2",
            needed,
            &["extension bloom (only a superuser can make it), which index public.blooms needs", "CREATE EXTENSION"],
        ),
    ];
    for (name, sql, words) in cases {
        let (database, repository) = (Database::of_synapse(name), Repository::new());
        database.sql(sql);
        let would = preflight_of_a_backup(&database, &repository).run().await;
        let findings = would.preflight().clone();
        assert_told(&findings.warnings, words);
        assert_eq!(repository.snapshots(ALL).len(), 0, "{name}");
        // The step says the same.
        let made = back_up(&database, &repository).run().await;
        assert_eq!(findings.coverage, made.result().coverage, "{name}");
        assert_eq!(findings.coverage.is_some_and(|found| found.warnings().is_empty()), words.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn in_place_a_schema_that_cannot_be_made_is_refused_before_and_the_grant_works() {
    for (name, sql) in [
        ("portable_schema_0", "CREATE SCHEMA \"of mine\"; CREATE TABLE \"of mine\".notes (a int)"),
        // Without a table in it.
        (
            "portable_schema_1",
            "CREATE SCHEMA helpers; CREATE FUNCTION helpers.one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ),
    ] {
        let (source, repository) = (Database::of_synapse(name), Repository::new());
        source.as_synapse_sql(sql);
        back_up(&source, &repository).run().await.backup();
        let target = Database::empty(&format!("{name}_target"));
        target.sql(&format!("REVOKE CREATE ON DATABASE {} FROM synapse, PUBLIC", target.name));
        let grant = format!("GRANT CREATE ON DATABASE \"{}\" TO \"synapse\";", target.name);
        let words = ["has schemas besides public", "Nothing was changed", &grant];
        preflight(&target, &repository, "InPlace").run().await.refused("NotDatabaseOwner", &words);
        let uid = format!("{name}-1");
        in_place::restore(&target, &repository, &uid).run().await.refused("NotDatabaseOwner", &words);
        assert_eq!(in_place::comment(&target), "", "it was not touched");
        target.sql(&grant);
        in_place::restore(&target, &repository, &uid).run().await.result();
        assert_eq!(target.checksum("users"), source.checksum("users"));
    }
}

#[tokio::test]
async fn a_policy_for_a_role_that_is_not_there_is_left_out_of_a_restore() {
    let (database, repository) = (Database::of_synapse("portable_policy"), Repository::new());
    database.sql("CREATE ROLE portable_reader");
    database.as_synapse_sql("CREATE TABLE hidden (a int); CREATE POLICY p ON hidden TO portable_reader USING (true)");
    back_up(&database, &repository).run().await.backup();
    let elsewhere = Database::on(Server::of_its_own(&[]), "portable_policy");
    let restored = restore(&elsewhere, &repository, "portable-policy").run().await;
    let told = "not restored: policy public.hidden p: the server has no role portable_reader";
    assert_told(&restored.result().warnings, &[told]);
}

/// The statements that the message has for the superuser, of the template and within it.
pub fn advised(message: &str) -> (String, String) {
    let (_, advice) = message.split_once("from which the restore makes its own: ").expect(message);
    let (creation, within) = advice.split_once("; and in synapse_keeper_template: ").expect(message);
    (creation.to_owned(), within.to_owned())
}

#[tokio::test]
async fn what_a_table_needs_is_refused_before_and_the_advice_works() {
    // The template is the server's.
    let other: &'static Server = Server::of_its_own(&[]);
    let (source, repository) = (Database::of_synapse("portable_needed"), Repository::new());
    source.sql(
        "CREATE SCHEMA \"Ext\"; CREATE EXTENSION bloom SCHEMA \"Ext\"; CREATE INDEX blooms ON users USING bloom (name); \
         CREATE FUNCTION half(int) RETURNS int LANGUAGE internal IMMUTABLE AS 'int4up'; \
         ALTER TABLE rooms ADD halved int DEFAULT half(2)",
    );
    let made = back_up(&source, &repository).run().await;
    made.backup();
    let coverage = made.result().coverage.clone().expect("it is said");
    let words = [
        "extension bloom (only a superuser can make it), which index public.blooms needs",
        "function public.half(integer)",
    ];
    assert_told(&coverage.superuser_needed, &words);
    // A drill owns its server, and makes it by itself. All else it makes with the rights of a restore.
    let drilled = verify(&repository, "latest", "portable_needed_drill").run().await;
    let told = ["made what tables need: extension bloom, function public.half(integer)", "NotAllRestored"];
    assert_told(&drilled.result().warnings, &told);
    assert!(verdict(drilled.report()).is_some_and(|found| found.is_whole), "{drilled:?}");
    let restored = Database { name: "portable_needed_drill".to_owned(), server: server() };
    assert_eq!(restored.checksum("rooms"), source.checksum("rooms"));
    let owners = "SELECT string_agg(DISTINCT tableowner, ' ') FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(restored.sql(owners), "synapse_keeper_drill");

    let database = Database::on(other, "portable_needed");
    let before = other.psql("postgres", "SELECT count(*) FROM pg_database");
    let refused = preflight(&database, &repository, "Beside").run().await;
    let (creation, within) = advised(&refused.refused("SuperuserNeeded", &words).message);
    restore(&database, &repository, "portable-need1").run().await.refused("SuperuserNeeded", &words);
    assert_eq!(other.psql("postgres", "SELECT count(*) FROM pg_database"), before, "nothing was made");
    preflight(&database, &repository, "InPlace")
        .run()
        .await
        .refused("SuperuserNeeded", &["in database portable_needed: CREATE SCHEMA IF NOT EXISTS \"Ext\"; "]);

    other.psql("postgres", &creation);
    other.psql("synapse_keeper_template", &within);
    restore(&database, &repository, "portable-need2").run().await.result();
    swap(&database, "portable-need2").run().await.result();
    assert_eq!(database.sql("SELECT count(*) FROM pg_index WHERE indexrelid = 'blooms'::regclass AND indisvalid"), "1");
    assert_eq!(database.checksum("rooms"), source.checksum("rooms"));

    let again = back_up(&database, &Repository::new()).run().await.result().coverage.clone().expect("it is said");
    assert_eq!(again.superuser_needed, [""; 0], "the template is there");

    let in_place = Database::on(other, "portable_in_place");
    in_place.sql(&within);
    let task = in_place.task("restore-database").of_server(&repository);
    let arguments = ["--operation", "portable-need3", "--method", "in-place", "--free-space", "10Gi"];
    task.with(&arguments).run().await.result();
    assert_eq!(in_place.checksum("users"), source.checksum("users"));
}

#[tokio::test]
async fn what_only_the_server_of_a_drill_lacks_is_no_verdict() {
    let (database, repository) = (Database::of_synapse("portable_lacking"), Repository::new());
    add_missing_extension(&database, "portable_type");
    database.sql("CREATE TYPE mood AS ENUM ('well'); ALTER EXTENSION portable_type ADD TYPE mood; ALTER TABLE rooms ADD mood mood");
    // As `initdb` makes it where the machine has the locale.
    database.sql(
        "CREATE COLLATION pg_catalog.\"tlh_XX\" (locale = 'C'); \
         ALTER TABLE users ADD klingon text COLLATE \"tlh_XX\"",
    );
    back_up(&database, &repository).run().await.backup();
    let drilled = verify(&repository, "latest", "portable_lacking_drill").run().await;
    let words = [
        "extension portable_type (the server does not have its files), which table public.rooms needs",
        "table public.users (the server has no collation tlh_XX)",
        "Its superuser cannot make it either: extension portable_type: ",
        "Set spec.verify.image to an image of the same major",
    ];
    drilled.refused("SuperuserNeeded", &words);
    assert_eq!(verdict(drilled.report()), None, "it is neither whole nor damaged");
}

#[tokio::test]
async fn materialized_views_are_filled_and_one_that_cannot_be_is_told() {
    // The function's text hides what it needs. From 17 on a view is filled with an empty search_path.
    let (database, repository) = (Database::of_synapse("portable_views"), Repository::new());
    database.as_synapse_sql(
        "CREATE MATERIALIZED VIEW z_counted AS SELECT count(*) FROM events; CREATE VIEW between AS SELECT * FROM z_counted; \
         CREATE MATERIALIZED VIEW a_on_top AS SELECT * FROM between; CREATE UNIQUE INDEX ON a_on_top (count); \
         CREATE MATERIALIZED VIEW never AS SELECT 1 WITH NO DATA; \
         CREATE FUNCTION hiding() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count FROM public.z_counted); END $$; \
         CREATE MATERIALIZED VIEW \"A function\" AS SELECT hiding()",
    );
    database.as_synapse_sql(
        "CREATE TABLE divisor (a int); INSERT INTO divisor VALUES (1); \
         CREATE MATERIALIZED VIEW broken AS SELECT 1 / a AS b FROM divisor; UPDATE divisor SET a = 0",
    );
    back_up(&database, &repository).run().await.backup();
    let drilled = verify(&repository, "latest", "portable_views_drill").run().await;
    assert_told(&drilled.result().warnings, &["materialized view public.broken is empty"]);
    let uid = "portable-views";
    let restored = restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await;
    let told: Vec<&String> = restored.result().warnings.iter().filter(|line| line.contains("view")).collect();
    let [told] = told[..] else { panic!("{told:?}") };
    assert!(told.contains("REFRESH MATERIALIZED VIEW public.broken") && told.contains("division by zero"), "{told}");
    swap(&database, uid).with(&["--existing", "rename"]).run().await.result();
    let filled =
        "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'm' AND relispopulated";
    assert_eq!(database.sql(filled), "A function a_on_top z_counted");
    assert_eq!(database.sql("SELECT count FROM a_on_top"), database.sql("SELECT count(*) FROM events"));
}

#[tokio::test]
async fn an_event_trigger_that_refuses_what_a_restore_does_is_named() {
    let (database, repository) = (Database::of_synapse("portable_source"), Repository::new());
    back_up(&database, &repository).run().await.backup();
    let fresh = Database::empty("portable_trigger");
    fresh.sql(
        "CREATE FUNCTION no_index() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$; \
         CREATE EVENT TRIGGER watchman ON ddl_command_start WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION no_index()",
    );
    let would = preflight(&fresh, &repository, "InPlace").run().await;
    assert_told(&would.preflight().warnings, &["watchman (on ddl_command_start, function no_index, of role postgres)"]);
    let task = fresh.task("restore-database").of_server(&repository);
    let arguments = ["--operation", "portable-trigger", "--method", "in-place", "--free-space", "10Gi"];
    let failed = task.with(&arguments).run().await;
    failed.refused("RestoreFailed", &["not today", "watchman (on ddl_command_start"]);

    // Also where the database is only emptied.
    let used = Database::empty("portable_trigger_2");
    used.as_synapse_sql("CREATE VIEW old AS SELECT 1");
    used.sql(
        "CREATE FUNCTION no_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$; \
         CREATE EVENT TRIGGER watchman ON ddl_command_start WHEN TAG IN ('DROP VIEW') EXECUTE FUNCTION no_drop()",
    );
    let task = used.task("restore-database").of_server(&repository);
    let failed = task.with(&arguments).run().await;
    let message = &failed.report().error.as_ref().expect("an error").message;
    assert!(message.contains("not today") && message.contains("watchman (on ddl_command_start"), "{message}");
}
