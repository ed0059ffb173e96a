//! Synapse's tables in a schema that is not `public`: whatever leads Synapse there, what comes back is found as well. A Synapse that
//! does not find its tables makes new, empty ones.

use std::{fs, process::Command};

use serde_json::json;

use crate::{
    backup::back_up,
    in_place,
    restore::{restore, swap},
    support::{Database, PASSWORD, Repository, synapse_python},
    verify::{verdict, verify},
};

/// Everything of Synapse's that is in `public` goes to schema `syn` of its role.
pub const MOVE: &str = "\
    CREATE SCHEMA syn AUTHORIZATION synapse; \
    DO $$ DECLARE statement text; BEGIN \
        FOR statement IN \
            SELECT format('ALTER %s public.%I SET SCHEMA syn', CASE relkind WHEN 'r' THEN 'TABLE' ELSE 'SEQUENCE' END, relname) \
            FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'S') \
                AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype IN ('a', 'i') AND c.relkind = 'S') \
            UNION ALL SELECT format('ALTER FUNCTION %s SET SCHEMA syn', oid::regprocedure) \
            FROM pg_proc WHERE pronamespace = 'public'::regnamespace \
        LOOP EXECUTE statement; END LOOP; END $$;";

fn moved(name: &str) -> Database {
    let database = Database::of_synapse(name);
    database.sql(MOVE);
    database
}

/// What a session of Synapse's role finds without naming a schema.
async fn users(database: &Database) -> i64 {
    let mut session = database.session("synapse", "synapse-main").await;
    sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&mut session).await.expect("its tables")
}

/// What the real Synapse does with its database before it starts.
fn synapse_starts_on(database: &Database) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("homeserver.yaml");
    let text = json!({
        "server_name": "example.org", "report_stats": false, "signing_key": "ed25519 a_drill AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "macaroon_secret_key": "a", "form_secret": "a",
        "database": {"name": "psycopg2", "args": {
            "host": "127.0.0.1", "port": database.server.port, "dbname": database.name, "user": "synapse", "password": PASSWORD,
        }},
    });
    fs::write(&config, text.to_string()).unwrap();
    let script = ["-m", "synapse._scripts.update_synapse_database", "--database-config"];
    let done = Command::new(synapse_python()).args(script).arg(&config).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

async fn restored(database: &Database, repository: &Repository, uid: &str) {
    restore(database, repository, uid).with(&["--existing", "rename"]).run().await.result();
    swap(database, uid).with(&["--existing", "rename"]).run().await.result();
}

#[tokio::test]
async fn whatever_leads_there_they_come_back_and_are_found() {
    for (name, setting) in [
        (
            "syn_role",
            "ALTER ROLE synapse IN DATABASE syn_role SET search_path = syn; \
                      ALTER ROLE synapse IN DATABASE syn_role SET work_mem = '7MB'",
        ),
        ("syn_database", "ALTER DATABASE syn_database SET search_path = syn, public"),
        // homeserver.yaml does (`options`).
        ("syn_nowhere", "SELECT 1"),
    ] {
        let (database, repository) = (moved(name), Repository::new());
        database.sql(setting);
        let tables = database.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'syn'");
        let inspected = database.task("inspect").run().await;
        let found = inspected.inspection();
        assert!(found.schema_version.is_some() && found.missing_tables.is_empty(), "{found:?}");
        let told = found.warnings.iter().any(|warning| warning.contains("are in schema syn"));
        assert_eq!(told, name == "syn_nowhere", "{found:?}");
        let vacuumed = database.task("vacuum").with(&["--mode", "Analyze"]).run().await;
        let summary = &vacuumed.result().summary;
        assert!(summary.starts_with(&format!("vacuumed and analyzed {tables} tables in")), "{summary}");

        let made = back_up(&database, &repository).run().await;
        let snapshot = made.backup().snapshot.clone();
        let drilled = verify(&repository, &snapshot, &format!("{name}_drill")).run().await;
        assert!(verdict(drilled.report()).is_some_and(|verdict| verdict.is_whole), "{drilled:?}");
        let summary = &drilled.result().summary;
        assert!(
            summary.contains(" sequences are ahead of their tables") && !summary.contains(" 0 sequences"),
            "{summary}"
        );

        let before: i64 = database.sql("SELECT count(*) FROM syn.users").parse().unwrap();
        database.sql("SELECT setval('syn.events_stream_seq', 5000000)");
        restored(&database, &repository, &format!("elsewhere-{name}")).await;
        assert_eq!(users(&database).await, before, "{name}");
        assert_eq!(database.sql("SELECT last_value FROM syn.events_stream_seq"), "6000001", "{name}");
        if name == "syn_role" {
            let mut session = database.session("synapse", "synapse-main").await;
            let memory: String = sqlx::query_scalar("SHOW work_mem").fetch_one(&mut session).await.unwrap();
            assert_eq!(memory, "7MB");
        }
        synapse_starts_on(&database);
        assert_eq!(database.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), "0", "{name}");
        assert_eq!(users(&database).await, before, "{name}");
    }
}

#[tokio::test]
async fn a_backup_from_before_the_tables_were_moved_is_found_and_so_is_a_lost_database() {
    let (database, repository) = (Database::of_synapse("syn_later"), Repository::new());
    back_up(&database, &repository).run().await.backup();
    database.sql(MOVE);
    database.sql("ALTER ROLE synapse IN DATABASE syn_later SET search_path = syn; SELECT setval('syn.events_stream_seq', 5000000)");
    let before = users(&database).await;
    restored(&database, &repository, "moved-00001").await;
    assert_eq!(
        (users(&database).await, database.sql("SELECT count(*) FROM public.users")),
        (before, before.to_string())
    );
    // It is beyond the old one, which was in the other schema.
    assert_eq!(database.sql("SELECT last_value FROM public.events_stream_seq"), "6000001");

    // With an empty second set of tables in `public`, as a Synapse makes it that does not find the first one.
    let lost = moved("syn_lost");
    lost.sql("ALTER ROLE synapse IN DATABASE syn_lost SET search_path = syn");
    lost.as_synapse_sql(
        "CREATE TABLE public.schema_version (LIKE syn.schema_version); INSERT INTO public.schema_version SELECT * FROM syn.schema_version; \
         CREATE TABLE public.applied_schema_deltas (LIKE syn.applied_schema_deltas); CREATE TABLE public.users (LIKE syn.users)",
    );
    let inspected = lost.task("inspect").run().await;
    let warnings = inspected.inspection().warnings.join("\n");
    assert!(warnings.contains("Schema public has tables of Synapse, too, which Synapse does not use"), "{warnings}");
    let repository = Repository::new();
    back_up(&lost, &repository).run().await.backup();
    lost.server.psql("postgres", "DROP DATABASE syn_lost");
    restored(&lost, &repository, "lost-syn-01").await;
    assert_eq!(users(&lost).await, before);
}

#[tokio::test]
async fn in_place_into_a_database_that_has_the_schema() {
    let (source, repository) = (moved("syn_place_source"), Repository::new());
    source.sql("TRUNCATE syn.e2e_one_time_keys_json");
    back_up(&source, &repository).run().await.backup();
    let database = Database::empty("syn_place");
    database.sql("CREATE SCHEMA syn AUTHORIZATION stranger; GRANT ALL ON SCHEMA syn TO synapse");
    let refused = in_place::restore(&database, &repository, "place-syn-1").run().await;
    refused.refused("NotSchemaOwner", &["Schema syn", "role stranger", "ALTER SCHEMA syn OWNER TO \"synapse\";"]);
    assert_eq!(in_place::comment(&database), "");
    database.sql("ALTER SCHEMA syn OWNER TO synapse; CREATE SCHEMA mine AUTHORIZATION synapse");
    in_place::restore(&database, &repository, "place-syn-1").run().await.result();
    assert_eq!(users(&database).await.to_string(), source.sql("SELECT count(*) FROM syn.users"));
    assert_eq!(database.sql("SELECT count(*) FROM pg_namespace WHERE nspname IN ('syn', 'mine')"), "2");
}

#[tokio::test]
async fn a_database_without_a_table_of_synapse_is_told_so() {
    let empty = Database::empty("syn_none");
    for mode in ["Analyze", "Full"] {
        let task = empty.task("vacuum").with(&["--mode", mode, "--free-space", "1Gi"]);
        task.run().await.refused("NoSynapseSchema", &["no table of Synapse", "postgres.database"]);
        let step = format!("vacuum-1={}", json!({"vacuum": {"mode": mode, "freeSpace": "1Gi"}}));
        empty.task("preflight").with(&["--step", &step]).run().await.refused("NoSynapseSchema", &[]);
    }
    empty.as_synapse_sql("CREATE TABLE of_somebody_else (id int)");
    let vacuumed = empty.task("vacuum").with(&["--mode", "Analyze"]).run().await;
    let summary = &vacuumed.result().summary;
    assert!(summary.contains("no table of Synapse is there"), "{summary}");
}
