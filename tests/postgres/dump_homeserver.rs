//! A dump that is no whole homeserver of this name, or that the Synapse which runs here cannot use, is refused by preflight: before
//! anything is made, and with the reason that the database would give that it becomes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use tempfile::TempDir;

use crate::{
    dump::{Dumps, left, restore},
    half::HALVES,
    support::{Database, PASSWORD, Program, Repository},
    tables_elsewhere::MOVE,
};

/// How somebody may have dumped it.
const WAYS: [(&str, &[&str]); 5] = [
    ("custom", &["-Fc"]),
    ("plain", &[]),
    ("quoted", &["--quote-all-identifiers", "--clean", "--if-exists"]),
    ("inserts", &["--inserts", "--on-conflict-do-nothing"]),
    ("columns", &["-Fc", "--column-inserts", "--rows-per-insert=50"]),
];

const OF_ANOTHER: &str = "SET session_replication_role = replica; \
    UPDATE users SET name = replace(name, ':example.org', ':other.org') WHERE name = (SELECT max(name) FROM users)";

const NEWER: &str = "UPDATE schema_compat_version SET compat_version = 10000";

/// The Secret of a preflight, and its calls.
struct Preflights(TempDir);

impl Preflights {
    fn new() -> Self {
        let secret = tempfile::tempdir().expect("a directory");
        fs::write(secret.path().join("username"), "databases").expect("a file");
        fs::write(secret.path().join("password"), PASSWORD).expect("a file");
        Self(secret)
    }

    fn of(&self, database: &Database, dump: &Path, repository: Option<&Repository>) -> Program {
        let mut wanted = json!({
            "dump": dump, "serverName": "example.org", "snapshot": "latest", "restore": "matrix/r", "existing": "Rename",
            "freeSpace": "10Gi", "adminCredentialsDir": self.0.path(),
        });
        if let Some(repository) = repository {
            wanted["repositoryDir"] = repository.destination()["repositoryDir"].clone();
        }
        let step = format!("database={}", json!({"restoreDump": wanted}));
        let task = database.task("preflight").with(&["--step", &step]);
        match repository {
            Some(repository) => task.repository_programs(repository),
            None => task,
        }
    }
}

fn packed(path: &Path) -> PathBuf {
    assert!(Command::new("gzip").args(["-1", "--keep"]).arg(path).status().expect("gzip").success());
    PathBuf::from(format!("{}.gz", path.display()))
}

/// A database, its change, the reason and what the message says.
fn bad() -> Vec<(Database, &'static str, Vec<&'static str>)> {
    let changed = |name: &str, change: &str| {
        let database = Database::of_synapse(&format!("dumpbad_{name}"));
        database.sql(change);
        database
    };
    let mut bad: Vec<_> = HALVES
        .into_iter()
        .map(|(name, loss, reason, missing)| (changed(name, loss), reason, vec!["In the dump", missing]))
        .collect();
    let none = Database::empty("dumpbad_none");
    // Of a Matrix Authentication Service, for one.
    none.as_synapse_sql("CREATE TABLE users (username text PRIMARY KEY); INSERT INTO users VALUES ('a')");
    let elsewhere = |name: &str, change: &str| changed(name, &format!("{change}; {MOVE}"));
    bad.extend([
        (none, "NoSynapseSchema", vec!["no table schema_version"]),
        (changed("name", OF_ANOTHER), "ServerNameDiffers", vec![":other.org", "example.org"]),
        (changed("newer", NEWER), "SchemaTooNew", vec!["The dump needs", "10000"]),
        (elsewhere("syn_main", HALVES[0].1), HALVES[0].2, vec!["In the dump", HALVES[0].3]),
        (elsewhere("syn_name", OF_ANOTHER), "ServerNameDiffers", vec![":other.org"]),
        (elsewhere("syn_newer", NEWER), "SchemaTooNew", vec!["10000"]),
    ]);
    bad
}

#[tokio::test]
async fn what_is_no_whole_homeserver_of_this_name_is_refused_by_preflight() {
    let (here, dumps, preflights) = (Database::of_synapse("dumpbad_here"), Dumps::new(), Preflights::new());
    let files = here.files();
    for (number, (bad, reason, words)) in bad().into_iter().enumerate() {
        for (way, arguments) in WAYS {
            let dump = dumps.dump(&bad, &format!("{number}-{way}"), arguments);
            let preflight = preflights.of(&here, &dump, None).run().await;
            preflight.refused(reason, &words);
            // By hand there is no preflight.
            if matches!(way, "custom" | "plain") {
                let uid = format!("dumpbad-{way}-{number:02}");
                let restored = restore(&here, &dump, &uid).run().await;
                let said = &restored.refused(reason, &words).message;
                assert!(!restored.printed.contains("made database"), "{} {way}: {restored:?}", bad.name);
                assert_eq!(left(&here, &uid), "", "{} {way}", bad.name);
                assert_eq!(*said, preflight.refused(reason, &words).message);
            }
        }
    }
    assert_eq!(here.files(), files);
}

#[tokio::test]
async fn a_dump_without_what_a_database_needs_is_refused_by_preflight() {
    let (database, dumps, preflights) = (Database::of_synapse("dumpbad_parts"), Dumps::new(), Preflights::new());
    let parts: [(&[&str], &str, &str); 4] = [
        (&["--data-only"], "DumpIncomplete", "makes no table"),
        (&["--section=data"], "DumpIncomplete", "makes no table"),
        (&["--section=pre-data", "--section=data"], "DumpIncomplete", "not one unique index"),
        (&["--schema-only"], "NoSynapseSchema", "with a version in it"),
    ];
    for (arguments, reason, words) in parts {
        for format in ["-Fc", "-Fp"] {
            let dump = dumps.dump(&database, "part", &[&[format], arguments].concat());
            preflights.of(&database, &dump, None).run().await.refused(reason, &[words]);
        }
    }
}

#[tokio::test]
async fn a_whole_homeserver_passes_preflight_however_it_was_dumped() {
    let (here, dumps, preflights) = (Database::of_synapse("dumpgood_here"), Dumps::new(), Preflights::new());
    let elsewhere = Database::of_synapse("dumpgood_syn");
    elsewhere.sql(MOVE);
    // An empty second set, as a Synapse makes it that does not find the first one.
    let twice = elsewhere.copy("dumpgood_twice");
    twice.as_synapse_sql(
        "CREATE TABLE public.schema_version (LIKE syn.schema_version); INSERT INTO public.schema_version SELECT * FROM syn.schema_version; \
         CREATE TABLE public.applied_schema_deltas (LIKE syn.applied_schema_deltas); CREATE TABLE public.users (LIKE syn.users)",
    );
    let bridged = Database::of_synapse("dumpgood_bridge");
    bridged.as_synapse_sql(
        "CREATE SCHEMA bridge; CREATE TABLE bridge.users (name text); INSERT INTO bridge.users VALUES ('@a:elsewhere.org'); \
         CREATE TABLE bridge.schema_version (version text); INSERT INTO bridge.schema_version VALUES ('a'); \
         CREATE TABLE odd (\"a.users\" text); INSERT INTO odd VALUES ('@a:elsewhere.org')",
    );
    for database in [&here, &elsewhere, &twice, &bridged] {
        for (way, arguments) in WAYS {
            let dump = dumps.dump(database, &format!("{}-{way}", database.name), arguments);
            preflights.of(&here, &dump, None).run().await.preflight();
        }
    }
    let script = dumps.dump(&here, "plain.sql", &[]);
    preflights.of(&here, &packed(&script), None).run().await.preflight();
    // As pg_dump wrote before 2018, without schemas.
    let old = dumps.changed(&script, "old.sql", |script| {
        script
            .replace("SELECT pg_catalog.set_config('search_path', '', false);", "SET search_path = public, pg_catalog;")
            .replace("CREATE TABLE public.", "CREATE TABLE ")
            .replace("\nCOPY public.", "\nCOPY ")
    });
    assert!(fs::read_to_string(&old).unwrap().contains("\nCOPY users ("));
    preflights.of(&here, &old, None).run().await.preflight();
}

/// Of what is far away only the beginning is read before: what is not in it is found once it is there.
#[tokio::test]
async fn of_a_dump_in_a_repository_preflight_finds_what_its_beginning_and_its_contents_say() {
    let (here, dumps, preflights) = (Database::of_synapse("dumpfar_here"), Dumps::new(), Preflights::new());
    let repository = Repository::new();
    let (_, loss, reason, missing) = HALVES[0];
    let half = Database::of_synapse("dumpfar_half");
    half.sql(loss);
    let other = Database::of_synapse("dumpfar_name");
    other.sql(OF_ANOTHER);
    // Without these rows the users are in the first MiB.
    let small = ["--exclude-table-data=event*", "--exclude-table-data=state_*"];
    let cases: [(&Database, &[&str], &str, &str, bool); 4] = [
        (&half, &["-Fc"], reason, missing, true),
        (&half, &[], reason, missing, false),
        (&other, &["-Fc"], "ServerNameDiffers", ":other.org", false),
        (&other, &small, "ServerNameDiffers", ":other.org", true),
    ];
    for (number, (database, arguments, reason, word, is_found)) in cases.into_iter().enumerate() {
        let dump = dumps.dump(database, &format!("{number}.dump"), arguments);
        repository.restic(&["backup", &dump.display().to_string()]);
        let preflight = preflights.of(&here, &dump, Some(&repository)).run().await;
        if is_found {
            preflight.refused(reason, &[word]);
        } else {
            preflight.preflight();
        }
        let uid = format!("dumpfar-{number:04}");
        let restored = restore(&here, &dump, &uid).of_repository(&repository).run().await;
        restored.refused(reason, &[word]);
        assert_eq!(restored.printed.contains("made database"), !is_found, "{number}: {restored:?}");
        assert_eq!(left(&here, &uid), "", "{number}");
    }
}
