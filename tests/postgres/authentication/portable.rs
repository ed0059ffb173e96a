//! The database of the Matrix Authentication Service with what belongs to the server or to a superuser: the same rules as for Synapse's.
//! And a homeserver with that service whose other half is not whole.

use serde_json::json;

use super::*;
use crate::{
    support::PASSWORD,
    verify::{verdict, verify},
};

fn assert_told(lines: &[String], words: &[&str]) {
    for word in words {
        assert!(lines.iter().any(|line| line.contains(word)), "{word:?} is not in {lines:#?}");
    }
}

#[tokio::test]
async fn what_a_superuser_has_made_in_the_service_s_database_is_left_out_and_said_from_preflight_on() {
    let homeserver = Homeserver::on_two_servers("mas_portable");
    let Homeserver { synapse, mas, repository } = &homeserver;
    mas.sql("CREATE EXTENSION pg_stat_statements; CREATE PUBLICATION everything FOR ALL TABLES");
    let words = [
        "Matrix Authentication Service: extension pg_stat_statements",
        "publication everything: only a superuser can make it",
    ];
    let task = synapse.task("preflight").repository_programs(repository);
    let mut destination = repository.destination();
    destination["serverName"] = json!("example.org");
    destination["init"] = json!(false);
    let service = json!({
        "masHost": "127.0.0.1", "masPort": mas.server.port, "masDatabase": mas.name,
        "masCredentialsDir": task.mounted("of-mas", "mas", PASSWORD),
    });
    let check = json!({"backup": {"destination": destination, "config": {}, "authenticationService": service}});
    let would = task.with(&["--step", &format!("database={check}")]).run().await;
    assert_told(&would.preflight().warnings, &words);

    let made = homeserver.back_up().run().await;
    assert_eq!(would.preflight().coverage, made.result().coverage);
    let drilled = verify(repository, "latest", "mas_portable_drill").run().await;
    drilled.result();
    assert!(verdict(drilled.report()).is_some_and(|found| found.is_whole), "{drilled:?}");
    let uid = "mas-portable-1";
    let restored = homeserver.restore(uid).run().await;
    assert_told(&restored.result().warnings, &["not restored: extension pg_stat_statements", "publication everything"]);
    homeserver.swap(uid).run().await.result();
    assert_eq!(mas.sql("SELECT count(*) FROM users"), "200");
    let made =
        "SELECT (SELECT count(*) FROM pg_publication), count(*) FROM pg_extension WHERE extname = 'pg_stat_statements'";
    assert_eq!(mas.sql(made), "0|0");
}

#[tokio::test]
async fn what_a_table_of_the_service_needs_is_refused_before_and_the_advice_works() {
    let homeserver = Homeserver::on_two_servers("mas_needed");
    let Homeserver { mas, repository, .. } = &homeserver;
    mas.sql("CREATE EXTENSION bloom; CREATE INDEX blooms ON users USING bloom (username)");
    let made = homeserver.back_up().run().await;
    let coverage = made.result().coverage.clone().expect("it is said");
    assert_told(&coverage.superuser_needed, &["Matrix Authentication Service: ", "extension bloom"]);
    let drilled = verify(repository, "latest", "mas_needed_drill").run().await;
    assert_told(&drilled.result().warnings, &["made what tables need: extension bloom"]);

    let databases = || mas.server.psql("postgres", "SELECT count(*) FROM pg_database");
    let before = databases();
    let refused = homeserver.restore("mas-needed-1").run().await;
    let words = ["spec.matrixAuthenticationService", "which index public.blooms needs", "synapse_keeper_template_mas"];
    let message = refused.refused("SuperuserNeeded", &words).message.clone();
    assert_eq!(databases(), before, "nothing was made");
    let (_, advice) = message.split_once("from which the restore makes its own: ").expect("advice");
    let (creation, within) = advice.split_once("; and in synapse_keeper_template_mas: ").expect("advice");
    mas.server.psql("postgres", creation);
    mas.server.psql("synapse_keeper_template_mas", within);
    homeserver.restore("mas-needed-2").run().await.result();
    homeserver.swap("mas-needed-2").run().await.result();
    assert_eq!(mas.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = 'blooms'::regclass"), "t");
}

#[tokio::test]
async fn half_a_homeserver_with_the_service_is_neither_backed_up_nor_restored_over() {
    let homeserver = Homeserver::on_two_servers("mas_half");
    let Homeserver { synapse, mas, repository } = &homeserver;
    homeserver.back_up().run().await.backup();
    let stored = repository.snapshots(crate::backup::ALL).len();
    synapse.sql("DROP TABLE state_groups, state_group_edges, state_groups_state CASCADE");
    let words = ["state_groups_state", "`databases:` of homeserver.yaml", "not supported yet"];
    homeserver.back_up().with(&["--run", "2"]).run().await.refused("DatabaseSplit", &words);
    assert_eq!(repository.snapshots(crate::backup::ALL).len(), stored, "neither of the two is stored");
    homeserver
        .restore("mas-half-1")
        .run()
        .await
        .refused("DatabaseSplit", &["state_groups_state", "Nothing was changed"]);
    let made = "SELECT count(*) FROM pg_database WHERE datname LIKE 'synapse_keeper_%'";
    assert_eq!(mas.server.psql("postgres", made).trim(), "0");
    assert_eq!(mas.sql("SELECT count(*) FROM users"), "200");
}
