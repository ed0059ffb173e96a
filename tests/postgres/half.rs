//! Half a homeserver: a database of which Synapse has the rest elsewhere (`databases:` of homeserver.yaml), or that has lost
//! tables. A backup of it brings no homeserver back, and a whole one does not fit over it.

use serde_json::json;

use crate::{
    backup::{ALL, back_up},
    dump::{self, Dumps},
    in_place,
    restore::{another, restore, swap},
    support::{Database, Repository},
};

/// How it came about, and what an inspection and every refusal call it.
pub const HALVES: [(&str, &str, &str, &str); 3] = [
    (
        "main",
        "DROP TABLE state_groups, state_group_edges, state_groups_state CASCADE",
        "DatabaseSplit",
        "state_groups_state",
    ),
    ("state", OTHERS, "DatabaseSplit", "event_json"),
    ("lost", "DROP TABLE event_json, state_group_edges CASCADE", "TablesMissing", "event_json, state_group_edges"),
];

const OTHERS: &str = "\
    DO $$ DECLARE name text; BEGIN \
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'state\\_group%' \
            AND tablename NOT IN ('schema_version', 'schema_compat_version', 'applied_schema_deltas', 'background_updates') \
        LOOP EXECUTE format('DROP TABLE %I CASCADE', name); END LOOP; END $$";

#[tokio::test]
async fn it_is_told_and_neither_backed_up_nor_restored_over() {
    let (whole, good) = (Database::of_synapse("half_whole"), Repository::new());
    back_up(&whole, &good).run().await.backup();
    for (name, loss, reason, missing) in HALVES {
        let database = Database::of_synapse(&format!("half_{name}"));
        database.sql(loss);
        let inspected = database.task("inspect").run().await;
        let found = inspected.inspection().missing_tables.join(", ");
        assert!(found.contains(missing), "{name}: {found}");

        let repository = Repository::new();
        let words = [missing, "`databases:` of homeserver.yaml", "not supported yet"];
        back_up(&database, &repository).run().await.refused(reason, &words);
        assert_eq!(repository.snapshots(ALL).len(), 0, "{name}");
        let mut destination = repository.destination();
        destination["serverName"] = "example.org".into();
        destination["init"] = false.into();
        let step = format!("backup={}", json!({"backup": {"destination": destination, "config": {}}}));
        let task = database.task("preflight").repository_programs(&repository).with(&["--step", &step]);
        task.run().await.refused(reason, &words);

        let before = database.files();
        let beside = restore(&database, &good, "half-000001").with(&["--existing", "rename"]).run().await;
        beside.refused(reason, &[missing, "Nothing was changed", &format!("ALTER DATABASE \"half_{name}\" RENAME TO")]);
        in_place::restore(&database, &good, "half-000002").run().await.refused(reason, &[missing]);
        assert_eq!(database.files(), before, "{name}");

        let dumps = Dumps::new();
        let dump = dumps.dump(&database, "half.dump", &["--format=custom"]);
        dump::restore(&whole, &dump, &format!("half-dump-{name}"))
            .run()
            .await
            .refused(reason, &["In the dump", missing]);
    }
}

#[tokio::test]
async fn what_lost_tables_since_it_was_restored_is_not_swapped_in() {
    let (database, repository) = (Database::of_synapse("half_swap"), Repository::new());
    back_up(&database, &repository).run().await.backup();
    let swapped = || swap(&database, "halfswap-01").with(&["--existing", "rename"]).run();
    restore(&database, &repository, "halfswap-01").with(&["--existing", "rename"]).run().await.result();
    let beside = another(&database, "synapse_keeper_lfswap01_0");
    beside.sql("ALTER TABLE state_groups RENAME TO gone");
    swapped().await.refused("TablesMissing", &["state_groups", "synapse_keeper_lfswap01_0", "Nothing was replaced"]);
    beside.sql("ALTER TABLE gone RENAME TO state_groups");
    swapped().await.result();
}
