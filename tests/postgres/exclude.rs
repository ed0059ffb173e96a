//! `spec.exclude`: what is left out of a backup by its exact name, and what may not be.

use serde_json::Value;
use synapse_keeper::{api::exclude::Exclude, contract::ErrorClass};

use crate::{
    backup::{ALL, back_up},
    restore::{another, restore, swap},
    somebody_else::preflight_without,
    support::{Database, Program, Repository},
    verify::{verdict, verify},
};

fn exclude(schemas: &[&str], tables: &[&str]) -> Exclude {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Exclude { schemas: owned(schemas), tables: owned(tables) }
}

pub fn back_up_without(database: &Database, repository: &Repository, exclude: &Exclude) -> Program {
    let arguments = exclude.to_args();
    back_up(database, repository).with(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

fn relations(database: &Database) -> Vec<String> {
    let sql = "SELECT format('%I.%I', n.nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE relkind IN ('r', 'p', 'S', 'v', 'm') AND nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1";
    database.sql(sql).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn what_is_not_synapse_s_is_left_out_by_its_exact_name() {
    let (database, repository) = (Database::of_synapse("exclude_names"), Repository::new());
    let of_synapse = relations(&database);
    // Of the superuser: our role may read none of them.
    database.sql(
        "CREATE SCHEMA bridge; CREATE TYPE bridge.mood AS ENUM ('well'); \
         CREATE TABLE bridge.portal (id serial PRIMARY KEY, mood bridge.mood); INSERT INTO bridge.portal (mood) VALUES ('well'); \
         CREATE FUNCTION bridge.f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$; \
         CREATE TRIGGER t BEFORE INSERT ON bridge.portal FOR EACH ROW EXECUTE FUNCTION bridge.f(); \
         CREATE VIEW bridge.seen AS SELECT id FROM bridge.portal; \
         CREATE SCHEMA \"Odd.one*\"; CREATE TABLE \"Odd.one*\".\"x.y\" (a int); \
         CREATE TABLE public.\"Log\" (id int GENERATED ALWAYS AS IDENTITY); CREATE TABLE public.\"l*g\" (a int); \
         CREATE TABLE public.\"quo\"\"te.d$\" (a int); CREATE SEQUENCE public.\"It's\"; \
         CREATE TABLE public.parts (a int) PARTITION BY LIST (a); CREATE TABLE public.of_one PARTITION OF parts FOR VALUES IN (1); \
         CREATE TABLE public.parent (a int); CREATE TABLE public.child () INHERITS (public.parent); \
         CREATE UNLOGGED TABLE public.hits (a int); CREATE TABLE public.two (a int, b int); \
         CREATE MATERIALIZED VIEW public.sum AS SELECT count(*) FROM parent; \
         CREATE STATISTICS public.both ON a, b FROM public.two",
    );
    // What a pattern would take along.
    database.as_synapse_sql(
        "CREATE SCHEMA bridge_2; CREATE TABLE bridge_2.portal (a int); INSERT INTO bridge_2.portal VALUES (1); \
         CREATE TABLE log (a int); INSERT INTO log VALUES (1); CREATE TABLE lag (a int)",
    );
    let left_out = exclude(
        &["bridge", "Odd.one*"],
        &[
            "public.Log",
            "public.l*g",
            "public.\"quo\"\"te.d$\"",
            "public.It's",
            "public.parts",
            "public.parent",
            "public.hits",
            "public.sum",
            "public.two",
        ],
    );
    let would = preflight_without(&database, &repository, &left_out).run().await;
    let ahead = would.preflight().coverage.clone().expect("it is said");
    let made = back_up_without(&database, &repository, &left_out).run().await;
    made.backup();
    let file = repository.fetch(&made.backup().snapshot, "manifest.json");
    let manifest: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let listed: Vec<&str> = manifest["excluded"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    for name in [
        "schema bridge",
        "table bridge.portal",
        "table \"Odd.one*\".\"x.y\"",
        "table public.\"Log\"",
        "table public.\"quo\"\"te.d$\"",
        "sequence public.\"It's\"",
        "table public.of_one",
        "table public.child",
        "table public.hits",
        "materialized view public.sum",
    ] {
        assert!(listed.contains(&name), "{name}: {listed:?}");
    }
    let coverage = made.result().coverage.clone().expect("it is said");
    assert_eq!(ahead, coverage);
    let [line] = &coverage.not_restored[..] else { panic!("{coverage:?}") };
    assert!(line.starts_with("schema \"Odd.one*\"") || line.starts_with("schema Odd.one*"), "{line}");
    assert!(line.ends_with(" more: spec.exclude of the SynapseBackup leaves it out"), "{line}");

    let drilled = verify(&repository, "latest", "exclude_names_drill").run().await;
    assert!(verdict(drilled.report()).is_some_and(|found| found.is_whole), "{drilled:?}");
    let uid = "exclude-names";
    let restored = restore(&database, &repository, uid).with(&["--existing", "rename"]).run().await;
    let warnings = restored.result().warnings.join("\n");
    assert!(warnings.contains("not restored: schema") && warnings.contains("spec.exclude"), "{warnings}");
    let swapped = swap(&database, uid).with(&["--existing", "rename"]).run().await;
    let old = another(&database, &swapped.result().restored.clone().unwrap().kept.unwrap());
    let mut wanted = of_synapse;
    wanted.extend(["bridge_2.portal", "public.lag", "public.log"].map(str::to_owned));
    wanted.sort();
    assert_eq!(relations(&database), wanted);
    for table in ["users", "events", "bridge_2.portal", "log"] {
        assert_eq!(database.checksum(table), old.checksum(table), "{table}");
    }
    assert_eq!(old.sql("SELECT count(*) FROM bridge.portal"), "1", "the old database has all of it");
}

#[tokio::test]
async fn what_is_synapse_s_or_is_needed_is_refused_before_anything_is_stored() {
    let repository = Repository::new();
    let needed = "ExcludedNeeded";
    for (name, sql, left_out, reason, words) in [
        ("table", "", exclude(&[], &["public.events"]), "ExcludesSynapse", &["table public.events"][..]),
        ("keys", "", exclude(&[], &["public.e2e_one_time_keys_json"]), "ExcludesSynapse", &["e2e_one_time_keys_json"]),
        ("stream", "", exclude(&[], &["public.events_stream_seq"]), "ExcludesSynapse", &["sequence public.events_"]),
        ("schema", "", exclude(&["public"], &[]), "ExcludesSynapse", &["schema public", "Take it out of spec.exclude"]),
        ("no_schema", "", exclude(&[], &["log"]), "ExcludeInvalid", &["has log: write schema.table"]),
        (
            "view",
            "CREATE TABLE b.t (a int); CREATE VIEW v AS SELECT * FROM b.t",
            exclude(&[], &["b.t"]),
            needed,
            &["view public.v needs table b.t", "Nothing was stored"],
        ),
        (
            "of_all",
            "CREATE TABLE b.t (a int); CREATE MATERIALIZED VIEW v AS SELECT * FROM b.t",
            exclude(&["b"], &[]),
            needed,
            &["materialized view public.v needs table b.t"],
        ),
        (
            "foreign_key",
            "CREATE TABLE b.t (a int PRIMARY KEY); CREATE TABLE k (a int REFERENCES b.t)",
            exclude(&["b"], &[]),
            needed,
            &["table constraint k_a_fkey on public.k needs table b.t"],
        ),
        (
            "key_of_partition",
            "CREATE TABLE p (a int PRIMARY KEY) PARTITION BY LIST (a); CREATE TABLE b.p1 PARTITION OF p FOR VALUES IN (1); \
             CREATE TABLE k (a int REFERENCES p)",
            exclude(&[], &["b.p1"]),
            needed,
            &["on public.k needs table b.p1"],
        ),
        (
            "default",
            "CREATE SEQUENCE b.s; CREATE TABLE k (a int DEFAULT nextval('b.s'))",
            exclude(&[], &["b.s"]),
            needed,
            &["default value for public.k.a needs sequence b.s"],
        ),
        (
            "owned",
            "CREATE TABLE b.t (id serial); CREATE TABLE k (a int DEFAULT nextval('b.t_id_seq'))",
            exclude(&[], &["b.t"]),
            needed,
            &["default value for public.k.a needs sequence b.t_id_seq"],
        ),
        (
            "trigger",
            "CREATE FUNCTION b.f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$; CREATE TABLE k (a int); \
             CREATE TRIGGER t BEFORE INSERT ON k FOR EACH ROW EXECUTE FUNCTION b.f()",
            exclude(&["b"], &[]),
            needed,
            &["trigger t on public.k needs function b.f()"],
        ),
        (
            "column",
            "CREATE TYPE b.mood AS ENUM ('well'); CREATE TABLE k (a b.mood[])",
            exclude(&["b"], &[]),
            needed,
            &["table public.k needs type b.mood[]"],
        ),
        (
            "index",
            "CREATE FUNCTION b.f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'; CREATE TABLE k (a int); \
             CREATE INDEX i ON k (b.f(a)); CREATE TABLE c (a int CHECK (b.f(a) > 0))",
            exclude(&["b"], &[]),
            needed,
            &["index public.i needs function b.f(", "table constraint c_a_check on public.c needs function"],
        ),
        (
            "policy",
            "CREATE TABLE b.t (a int); CREATE TABLE k (a int); CREATE POLICY p ON k USING (a IN (SELECT a FROM b.t)); \
             CREATE RULE r AS ON INSERT TO k DO ALSO INSERT INTO b.t VALUES (1)",
            exclude(&["b"], &[]),
            needed,
            &["policy p on public.k needs table b.t", "rule r on public.k needs table b.t"],
        ),
        (
            "function",
            "CREATE TABLE b.t (a int); CREATE FUNCTION f() RETURNS SETOF b.t LANGUAGE sql AS 'SELECT * FROM b.t'; \
             CREATE FUNCTION g() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM b.t; END",
            exclude(&[], &["b.t"]),
            needed,
            &["function public.f() needs type b.t", "function public.g() needs table b.t"],
        ),
        (
            "extension",
            "RESET ROLE; CREATE EXTENSION pg_trgm SCHEMA b",
            exclude(&["b"], &[]),
            needed,
            &["extension pg_trgm needs schema b"],
        ),
    ] {
        let database = Database::of_synapse(&format!("exclude_{name}"));
        database.as_synapse_sql(&format!("CREATE SCHEMA b; {sql}"));
        let refused = preflight_without(&database, &repository, &left_out).run().await;
        assert_eq!(refused.refused(reason, words).class, ErrorClass::Terminal, "{name}");
        // Also where somebody makes it after the preflight.
        back_up_without(&database, &repository, &left_out).run().await.refused(reason, words);
        assert_eq!(repository.snapshots(ALL).len(), 0, "{name}");
    }
}

#[tokio::test]
async fn a_name_that_is_not_there_is_a_warning() {
    let (database, repository) = (Database::of_synapse("exclude_nothing"), Repository::new());
    database.as_synapse_sql("CREATE TABLE \"Log\" (a int)");
    let left_out = exclude(&["brigde", "pg_catalog"], &["public.log", "public.L*"]);
    let words = "schema brigde, schema pg_catalog, table public.log, table public.L*";
    let would = preflight_without(&database, &repository, &left_out).run().await;
    let made = back_up_without(&database, &repository, &left_out).run().await;
    for warnings in [&would.preflight().warnings, &made.result().warnings] {
        assert!(warnings.iter().any(|line| line.contains(words) && line.contains("Names are exact")), "{warnings:?}");
    }
    assert_eq!(made.result().coverage.clone().expect("it is said").not_restored, [""; 0]);
}
