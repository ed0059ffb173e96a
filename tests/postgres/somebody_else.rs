//! Tables of somebody else's in Synapse's database, and rows that PostgreSQL would not take again: found out before anything is stored
//! or stopped, or left as they are and told of.

use synapse_keeper::{api::exclude::Exclude, contract::ErrorClass};

use crate::{
    backup::back_up,
    dump::{Dumps, restore},
    exclude::back_up_without,
    support::{Database, Program, Repository, Server},
};

fn preflight(database: &Database, repository: &Repository) -> Program {
    preflight_without(database, repository, &Exclude::default())
}

/// Of a backup that leaves something out.
pub fn preflight_without(database: &Database, repository: &Repository, exclude: &Exclude) -> Program {
    let mut destination = repository.destination();
    destination["serverName"] = "example.org".into();
    let check = serde_json::json!({"backup": {"destination": destination, "config": {}, "exclude": exclude}});
    let program = database.task("preflight").repository_programs(repository);
    program.with(&["--step", &format!("database={check}")])
}

#[tokio::test]
async fn what_may_not_be_read_is_named_in_preflight_with_its_owner_and_the_grant() {
    let repository = Repository::new();
    for (name, sql, reason, words) in [
        (
            "other_schema",
            "CREATE SCHEMA monitoring; CREATE TABLE monitoring.t (a int)",
            "TableUnreadable",
            &[
                "monitoring.t of role postgres",
                "GRANT USAGE ON SCHEMA monitoring TO \"synapse\"",
                "GRANT SELECT ON monitoring.t",
            ][..],
        ),
        (
            "other_table",
            "CREATE TABLE public.\"T 1\" (a int)",
            "TableUnreadable",
            &["public.\"T 1\"", "GRANT SELECT ON public.\"T 1\" TO"],
        ),
        (
            "other_sequence",
            "CREATE SCHEMA monitoring; GRANT USAGE ON SCHEMA monitoring TO synapse; CREATE SEQUENCE monitoring.s",
            "TableUnreadable",
            &["monitoring.s of role postgres", "GRANT SELECT ON SEQUENCE monitoring.s"],
        ),
        (
            "row_security",
            "CREATE TABLE t (a int); GRANT SELECT ON t TO synapse; ALTER TABLE t ENABLE ROW LEVEL SECURITY",
            "RowSecurity",
            &["public.t of role postgres", "ALTER ROLE \"synapse\" BYPASSRLS"],
        ),
        (
            "partitioned",
            "CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
            "TableUnreadable",
            &["public.p of role postgres, public.p1 of role postgres"],
        ),
    ] {
        let database = Database::of_synapse(name);
        database.sql(sql);
        let finished = preflight(&database, &repository).run().await;
        let error = finished.refused(reason, words);
        assert_eq!(error.class, ErrorClass::Terminal);
        assert!(!error.message.contains("must be the role that owns the tables"), "{error}");
        // Both ways out that the message has: what stands in the object, and the grant.
        let (_, advice) = error.message.split_once("has no schedule): exclude: ").expect(&error.message);
        let exclude: Exclude = serde_yaml_ng::from_str(advice).expect(advice);
        assert_eq!(preflight_without(&database, &repository, &exclude).run().await.report().error, None, "{name}");
        assert!(back_up_without(&database, &repository, &exclude).run().await.backup().rows > 0, "{name}");
        if reason != "TableUnreadable" {
            continue;
        }
        // What the message says mends it.
        let grants: Vec<&str> = error.message.match_indices("GRANT ").map(|(at, _)| &error.message[at..]).collect();
        grants.iter().filter_map(|grant| grant.split_once(';')).for_each(|(grant, _)| drop(database.sql(grant)));
        assert_eq!(preflight(&database, &repository).run().await.report().error, None, "{name}");
        assert!(back_up(&database, &repository).run().await.backup().rows > 0, "{name}");
    }
}

/// Rows that PostgreSQL took once, and would not take into a new index, in a table of their own.
fn not_indexable(database: &Database, table: &str, index: &str, unchecked: &str, change: &str) {
    database.add_bloated(table, 20_000);
    if !index.is_empty() {
        database.as_synapse_sql(index);
    }
    // As if the index had been damaged: a row comes in without being looked for in it, or without its key.
    let but_key = if index.is_empty() { "" } else { "AND NOT indisprimary" };
    let set = |value: bool| {
        let of_table = format!("indrelid = '{table}'::regclass {but_key}");
        database.sql(&format!("UPDATE pg_index SET {unchecked} = {value} WHERE {of_table}"))
    };
    set(false);
    database.as_synapse_sql(change);
    set(true);
}

#[tokio::test]
async fn vacuum_full_leaves_tables_that_cannot_be_indexed_again_and_goes_on() {
    const LONG: &str = "UPDATE long SET body = (SELECT string_agg(md5(g::text || random()::text), '') \
        FROM generate_series(1, 110) g) WHERE ctid = (SELECT min(ctid) FROM long)";
    const PICKY: &str = "CREATE FUNCTION picky_one(body text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS \
        $$ BEGIN IF body = '' THEN RAISE 'too picky'; END IF; RETURN left(body, 9); END $$; \
        CREATE INDEX picky_index ON picky (picky_one(body))";
    let database = Database::empty("not_indexable");
    not_indexable(&database, "long", "CREATE INDEX long_body ON long (body)", "indisready", LONG);
    not_indexable(&database, "picky", PICKY, "indisready", "INSERT INTO picky VALUES (0, '')");
    let (index, change) = ("CREATE INDEX ratio_index ON ratio ((100 / id))", "INSERT INTO ratio VALUES (0, 'zero')");
    not_indexable(&database, "ratio", index, "indisready", change);
    database.add_bloated("good", 20_000);
    let spoilt = [
        ("long", ["[54000]", "long_body"]),
        ("picky", ["[P0001]", "too picky"]),
        ("ratio", ["[22012]", "division by zero"]),
    ];
    let before = spoilt.map(|(table, _)| database.checksum(table));
    let vacuum = ["--mode", "Full", "--free-space", "100Gi", "--minimum-gain", "1Mi"];
    let finished = database.task("vacuum").with(&vacuum).run().await;
    let result = finished.result();
    assert_eq!(result.tables.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["good"], "{finished:?}");
    for (table, words) in spoilt {
        let begins = format!("{table} is left as it was");
        let warning = result.warnings.iter().find(|warning| warning.starts_with(&begins));
        let warning = warning.unwrap_or_else(|| panic!("{table}: {:?}", result.warnings));
        for words in words.iter().chain(&["restore"]) {
            assert!(warning.contains(words), "{words}: {warning}");
        }
    }
    assert!(result.skipped.join("\n").contains("3 tables: a row cannot be indexed again"), "{:?}", result.skipped);
    assert_eq!(spoilt.map(|(table, _)| database.checksum(table)), before);
}

/// PostgreSQL does not check constraints when it writes a table anew: a restore meets rows that are there twice, VACUUM FULL does not.
#[tokio::test]
async fn vacuum_full_keeps_rows_that_are_there_twice() {
    let database = Database::empty("there_twice");
    not_indexable(&database, "twice", "", "indisunique", "INSERT INTO twice SELECT * FROM twice WHERE id = 4");
    let (index, change) = (
        "CREATE UNIQUE INDEX shouts_body ON shouts (lower(body))",
        "INSERT INTO shouts SELECT -id, upper(body) FROM shouts WHERE id = 8",
    );
    not_indexable(&database, "shouts", index, "indisunique", change);
    let before = ["twice", "shouts"].map(|table| database.checksum(table));
    let vacuum = ["--mode", "Full", "--free-space", "100Gi", "--minimum-gain", "1Mi"];
    let finished = database.task("vacuum").with(&vacuum).run().await;
    let result = finished.result();
    assert_eq!((result.tables.len(), result.warnings.len()), (2, 0), "{finished:?}");
    assert!(result.tables.iter().all(|table| table.bytes_after * 2 < table.bytes_before), "{finished:?}");
    assert_eq!(["twice", "shouts"].map(|table| database.checksum(table)), before);
    assert_eq!(database.sql("SELECT count(*) FROM twice WHERE id = 4"), "2");
}

#[tokio::test]
async fn of_small_tables_nothing_is_told() {
    let database = Database::of_synapse("minimum_gain_0");
    let vacuum = ["--mode", "Full", "--free-space", "100Gi", "--minimum-gain", "0"];
    let finished = database.task("vacuum").with(&vacuum).run().await;
    assert_eq!(finished.result().warnings, Vec::<String>::new());
}

#[tokio::test]
async fn a_lock_table_that_is_too_small_is_counted_in_preflight() {
    let server = Server::of_its_own(&["max_locks_per_transaction=10", "max_connections=20"]);
    let database = Database::of_synapse_on(server, "lock_table");
    // The server has not enough locks for all of them in one transaction.
    for chunk in 0..30 {
        database.as_synapse_sql(&format!(
            "DO $$ BEGIN FOR i IN 1..50 LOOP EXECUTE format('CREATE TABLE x{chunk}_%s (a int)', i); END LOOP; END $$"
        ));
    }
    let repository = Repository::new();
    let finished = preflight(&database, &repository).run().await;
    let words = ["max_locks_per_transaction is 10", "restart PostgreSQL", "ALTER SYSTEM SET max_locks_per_transaction"];
    assert_eq!(finished.refused("LockTableTooSmall", &words).class, ErrorClass::Terminal);
    // Also where the preflight has passed, for others have taken the locks since.
    let words = ["[53200]", "lock table is full", "max_locks_per_transaction"];
    let late = back_up(&database, &repository).run().await;
    assert_eq!(late.refused("LockTableTooSmall", &words).class, ErrorClass::Terminal);
}

#[tokio::test]
async fn a_row_that_postgresql_cannot_send_is_named() {
    let (database, repository) = (Database::of_synapse("too_large"), Repository::new());
    database.as_synapse_sql(
        "SET default_toast_compression = lz4; \
         CREATE TABLE bytes (id int, data bytea); INSERT INTO bytes VALUES (1, 'x'); \
         INSERT INTO bytes SELECT 2, convert_to(repeat('x', 540000000), 'UTF8'); \
         CREATE TABLE wide (a text, b text, c text); INSERT INTO wide SELECT repeat('x', 360000000); UPDATE wide SET b = a, c = a",
    );
    let tables =
        [("public.bytes", "(0,2), 1.0 GiB of it in column data"), ("public.wide", "(0,2), 343.3 MiB of it in column")];
    for (table, words) in tables {
        let others = tables.iter().filter(|(other, _)| *other != table).map(|(other, _)| (*other).to_owned()).collect();
        let others = Exclude { tables: others, ..Exclude::default() };
        let failed = back_up_without(&database, &repository, &others).run().await;
        let words = [&format!("Table {table} has a row") as &str, &format!("ctid {words}"), "exclude: {tables: ["];
        assert_eq!(failed.refused("RowTooLarge", &words).class, ErrorClass::Terminal);
    }
    let all = Exclude { tables: tables.map(|(table, _)| table.to_owned()).to_vec(), ..Exclude::default() };
    back_up_without(&database, &repository, &all).run().await.backup();
}

#[tokio::test]
async fn a_dump_of_a_newer_pg_dump_is_told_by_its_version() {
    let (database, dumps) = (Database::of_synapse("newer_archive"), Dumps::new());
    let archive = dumps.dump(&database, "newer.dump", &["-Fc"]);
    let mut bytes = std::fs::read(&archive).unwrap();
    // As a pg_dump may write it that is newer than all programs here.
    bytes[6] = 99;
    std::fs::write(&archive, bytes).unwrap();
    let finished = restore(&database, &archive, "newer").run().await;
    let error = finished.report().error.as_ref().expect("it is no archive of that version");
    assert_eq!(error.reason, "PostgresTooOld", "{error}");
    assert!(error.message.contains("pg_dump 19 or newer") && !error.message.contains("cut off"), "{error}");
}
