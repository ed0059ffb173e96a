//! What keeps a database from being renamed, or would follow it: found before anything is made, and once more before the swap.

use synapse_keeper::contract::{ErrorClass, Leaves};

use crate::{
    backup::back_up,
    in_place,
    restore::{restore, swap},
    restore_schema::preflight,
    support::{Database, PASSWORD, Program, Repository, Server, execute},
};

/// A homeserver's database on a server of its own, made from a backup, with that backup.
async fn on_its_own(name: &str, settings: &[&str]) -> (Database, Repository) {
    let (origin, repository) = (Database::of_synapse(&format!("{name}_origin")), Repository::new());
    back_up(&origin, &repository).run().await.backup();
    let database = Database { name: name.to_owned(), server: Server::of_its_own(settings) };
    restore(&database, &repository, "of-origin-1").run().await.result();
    swap(&database, "of-origin-1").run().await.result();
    (database, repository)
}

fn renamed(program: Program) -> Program {
    program.with(&["--existing", "rename"])
}

fn secret() -> tempfile::TempDir {
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("username"), "databases").unwrap();
    std::fs::write(secret.path().join("password"), PASSWORD).unwrap();
    secret
}

fn made(database: &Database) -> String {
    database
        .server
        .psql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'synapse_keeper_%'")
        .trim()
        .to_owned()
}

#[tokio::test]
async fn logical_replication_and_prepared_transactions_are_found_before_anything_is_made() {
    let settings = ["wal_level=logical", "max_prepared_transactions=4"];
    let (database, repository) = on_its_own("aside", &settings).await;
    let secret = secret();
    let slot = "SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')";
    let subscription = "CREATE SUBSCRIPTION \"from elsewhere\" CONNECTION 'host=127.0.0.1 dbname=x' PUBLICATION p WITH (connect = false)";
    let transaction = "BEGIN; CREATE TABLE prepared (id int); PREPARE TRANSACTION 'it''s open'";
    for (number, (reason, obstacle, remedy, words)) in [
        (
            "DatabaseReplicated",
            slot,
            "SELECT pg_drop_replication_slot('debezium');",
            ["replication slot debezium", "WAL"],
        ),
        (
            "DatabaseReplicated",
            subscription,
            "DROP SUBSCRIPTION \"from elsewhere\";",
            ["subscription from elsewhere", "not the restored one"],
        ),
        (
            "PreparedTransactions",
            transaction,
            "ROLLBACK PREPARED 'it''s open';",
            ["it's open of role postgres", "COMMIT PREPARED"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let uid = format!("obstacle-00{number}");
        database.sql(obstacle);
        let words = [words[0], words[1], remedy, "Nothing was changed"];
        preflight(&database, &repository, secret.path(), None).run().await.refused(reason, &words);
        renamed(restore(&database, &repository, &uid)).run().await.refused(reason, &words);
        assert_eq!(made(&database), "0", "{reason}");
        if reason == "PreparedTransactions" {
            in_place::restore(&database, &repository, "obstacle-in").run().await.refused(reason, &words);
        }
        if obstacle == subscription {
            database.sql("ALTER SUBSCRIPTION \"from elsewhere\" SET (slot_name = NONE)");
        }
        database.sql(remedy);
        // It came while the backup was being restored.
        renamed(restore(&database, &repository, &uid)).run().await.result();
        database.sql(obstacle);
        let swapped = renamed(swap(&database, &uid)).run().await;
        assert_eq!(swapped.refused(reason, &words).class, ErrorClass::Terminal);
        assert_eq!(swapped.report().leaves, Some(Leaves::InStep), "{reason}");
        if obstacle == subscription {
            database.sql("ALTER SUBSCRIPTION \"from elsewhere\" SET (slot_name = NONE)");
        }
        database.sql(remedy);
        renamed(swap(&database, &uid)).run().await.result();
        // A slot of another database, or a physical one, is nobody's business here.
        database
            .server
            .psql("postgres", &format!("SELECT pg_create_logical_replication_slot('other{number}', 'pgoutput')"));
    }
}

#[tokio::test]
async fn a_database_of_another_role_or_in_a_tablespace_that_is_not_ours() {
    let (database, repository) = on_its_own("owned", &[]).await;
    let secret = secret();
    let refused = async |reason: &str, words: &[&str]| {
        preflight(&database, &repository, secret.path(), None).run().await.refused(reason, words);
        renamed(restore(&database, &repository, "owner-00001")).run().await.refused(reason, words);
        assert_eq!(made(&database), "0", "{reason}");
    };
    database.sql("ALTER DATABASE owned OWNER TO stranger");
    let words = ["belongs to role stranger", "GRANT \"stranger\" TO \"databases\";", "Nothing was changed"];
    refused("NotDatabaseOwner", &words).await;
    database.sql("GRANT stranger TO databases");

    let place = format!("{}/fast", database.server.socket());
    database.server.directory_for_postgres(&place);
    database.server.psql("postgres", &format!("CREATE TABLESPACE fast LOCATION '{place}'"));
    database.server.psql("postgres", "ALTER DATABASE owned SET TABLESPACE fast");
    refused("TablespaceDenied", &["tablespace fast", "GRANT CREATE ON TABLESPACE \"fast\" TO \"databases\";"]).await;
    database.sql("GRANT CREATE ON TABLESPACE fast TO databases");
    let found = preflight(&database, &repository, secret.path(), None).run().await;
    let warnings = found.preflight().warnings.join("\n");
    assert!(warnings.contains("owned is in tablespace fast"), "{warnings}");

    // What else a database has.
    database.sql(
        "ALTER DATABASE owned CONNECTION LIMIT 17; ALTER DATABASE owned IS_TEMPLATE true; \
         COMMENT ON DATABASE owned IS 'ask Bob'; ALTER DATABASE owned SET search_path = ''; \
         ALTER DATABASE owned SET temp_tablespaces = 'fast', ''; ALTER ROLE databases IN DATABASE owned SET search_path = '$user', \"Odd, one\"; \
         ALTER ROLE synapse IN DATABASE owned SET search_path = public",
    );
    let settings = || {
        database.sql(
            "SELECT datconnlimit, datistemplate, spcname, (SELECT string_agg(format('%s %s', setrole::regrole, setconfig), ' ' ORDER BY setrole) \
                 FROM pg_db_role_setting WHERE setdatabase = d.oid) \
             FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace WHERE datname = current_database()",
        )
    };
    let before = settings();
    renamed(restore(&database, &repository, "owner-00001")).run().await.result();
    let swapped = renamed(swap(&database, "owner-00001")).run().await;
    let warnings = swapped.result().warnings.join("\n");
    assert!(warnings.contains("owned belongs to role synapse now; the old one belongs to stranger"), "{warnings}");
    assert!(!warnings.contains("was not taken over"), "{warnings}");
    assert_eq!(settings(), before);
    assert!(in_place::comment(&database).contains("\"comment\":\"ask Bob\""), "{}", in_place::comment(&database));
    // And once more: it is not ours that is inherited.
    renamed(restore(&database, &repository, "owner-00002")).run().await.result();
    renamed(swap(&database, "owner-00002")).run().await.result();
    assert!(in_place::comment(&database).contains("\"comment\":\"ask Bob\""), "{}", in_place::comment(&database));
}

/// Two operators, or two Synapse objects for one database.
#[tokio::test]
async fn one_task_at_a_time_works_on_a_database() {
    let (database, repository) = (Database::of_synapse("locked"), Repository::new());
    back_up(&database, &repository).run().await.backup();
    database.add_slow("slow", 120);
    renamed(restore(&database, &repository, "locked-0001")).run().await.result();
    let first =
        ["--table", "slow", "--operation", "11111111-0000-0000-0000-000000000009", "--run", "3", "--attempt", "2"];
    let full = ["--mode", "Full", "--free-space", "1Gi", "--minimum-gain", "0"];
    let mut first = database.task("vacuum").with(&full).with(&first).start().at_work(&database).await;
    let secret = secret();
    for task in [
        renamed(swap(&database, "locked-0001")),
        renamed(restore(&database, &repository, "locked-0002")),
        in_place::restore(&database, &repository, "locked-0003"),
        preflight(&database, &repository, secret.path(), None),
    ] {
        let finished = task.run().await;
        let words = ["synapse-keeper/11111111-0000-0000-0000-000000000009/3.2, connected since", "Nothing was changed"];
        assert_eq!(finished.refused("DatabaseBusy", &words).class, ErrorClass::Transient);
        assert!(database.is_vacuuming(), "the first one goes on");
    }
    first.child.start_kill().unwrap();
    first.finish().await;
    database.server.ends_sessions_of("11111111-0000-0000-0000-000000000009").await;
    renamed(swap(&database, "locked-0001")).run().await.result();

    // A swap back as well.
    database.add_slow("slow", 120);
    let other = ["--table", "slow", "--operation", "other-operation"];
    let mut other = database.task("vacuum").with(&full).with(&other).start().at_work(&database).await;
    let back = swap(&database, "locked-0001").with(&["--back"]).run().await;
    back.refused("DatabaseBusy", &["synapse-keeper/other-operation/"]);
    assert!(database.is_vacuuming(), "the other one goes on");
    other.child.start_kill().unwrap();
    other.finish().await;
}

/// A bridge in Synapse's database, under Synapse's role.
#[tokio::test]
async fn tables_of_a_bridge_are_named_with_what_to_do() {
    let (database, repository) = (Database::of_synapse("bridge"), Repository::new());
    database.as_synapse_sql("CREATE TABLE portal (id int); CREATE SCHEMA signal; CREATE TABLE signal.puppet (id int)");
    let owns = "tables that are not Synapse's";
    let inspected = database.task("inspect").run().await;
    let warnings = inspected.inspection().warnings.join("\n");
    assert!(warnings.contains(owns) && warnings.contains("public.portal, signal.puppet"), "{warnings}");
    back_up(&database, &repository).run().await.backup();
    database.as_synapse_sql("CREATE TABLE message (id int)");
    let secret = secret();
    let found = preflight(&database, &repository, secret.path(), None).run().await;
    let warnings = found.preflight().warnings.join("\n");
    for words in [
        "tables that are not Synapse's (public.portal, signal.puppet): they go back in time with it",
        "neither Synapse's nor in the backup (public.message): they stay behind",
        "spec.workloads",
    ] {
        assert!(warnings.contains(words), "{words:?}: {warnings}");
    }
    renamed(restore(&database, &repository, "bridge-0001")).run().await.result();
    let mut bridge = database.session("synapse", "mautrix-signal").await;
    let words =
        [owns, "public.message, public.portal, signal.puppet", "add its Deployment or StatefulSet to spec.workloads"];
    let vacuum = database.task("vacuum").with(&["--mode", "Full", "--free-space", "1Gi"]).run().await;
    vacuum.refused("SessionsOfSynapse", &words);
    let soon = (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3)).to_string();
    renamed(swap(&database, "bridge-0001")).with(&["--until", &soon]).run().await.refused("Contested", &words);
    execute(&mut bridge, "SELECT 1").await;
}
