//! Before a restore the image of the homeserver's own Synapse is asked which schema it knows.

use std::{path::Path, process::Command};

use serde_json::json;
use synapse_keeper::operation::job::synapse::TELL_SCHEMA;

use crate::{
    backup::back_up,
    support::{Database, PASSWORD, Program, Repository, synapse_python},
};

pub fn preflight(database: &Database, repository: &Repository, secret: &Path, told: Option<&Path>) -> Program {
    let mut wanted = repository.destination();
    let more = json!({
        "serverName": "example.org", "snapshot": "latest", "restore": "matrix/r", "existing": "Rename",
        "freeSpace": "10Gi", "adminCredentialsDir": secret,
    });
    wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let step = format!("database={}", json!({"restore": wanted}));
    let file: Vec<String> = told.iter().map(|file| format!("--synapse-schema-file={}", file.display())).collect();
    let file: Vec<&str> = file.iter().map(String::as_str).collect();
    database.task("preflight").repository_programs(repository).with(&["--step", &step]).with(&file)
}

#[tokio::test]
async fn the_synapse_that_will_run_decides_and_not_the_one_that_ran() {
    let (database, repository) = (Database::of_synapse("restore_schema"), Repository::new());
    back_up(&database, &repository).run().await.backup();
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("username"), "databases").unwrap();
    std::fs::write(secret.path().join("password"), PASSWORD).unwrap();
    let file = secret.path().join("schema.json");
    let asked = || preflight(&database, &repository, secret.path(), Some(&file)).run();

    // The real one, asked as its container is.
    let status = Command::new(synapse_python()).args(["-B", "-c", TELL_SCHEMA]).arg(&file).status().unwrap();
    assert!(status.success());
    let schema = database.sql("SELECT version FROM schema_version");
    let found = asked().await;
    let told = format!("--synapse-schema={schema}");
    assert_eq!(found.preflight().arguments["database"].last(), Some(&told), "the step is told what was looked at");
    assert_eq!(found.preflight().warnings, [""; 0]);

    let compat = database.sql("SELECT compat_version FROM schema_compat_version");
    let older = compat.parse::<i32>().unwrap() - 1;
    std::fs::write(&file, json!({"version": older}).to_string()).unwrap();
    asked().await.refused("SchemaTooNew", &[&format!("the image of the one that runs here knows schema {older}")]);

    // It was replaced by a newer one, which has not come to this database yet.
    database.as_synapse_sql("UPDATE schema_version SET version = 10");
    std::fs::write(&file, json!({"version": 99}).to_string()).unwrap();
    asked().await.preflight();
    // Nobody knows: what ran here is taken for it, and that is told.
    std::fs::write(&file, "{}").unwrap();
    asked().await.refused("SchemaTooNew", &["has made schema 10"]);
    database.as_synapse_sql("UPDATE schema_version SET version = 94");
    for told in [Some(file.as_path()), None] {
        let found = preflight(&database, &repository, secret.path(), told).run().await;
        assert!(found.preflight().warnings[0].contains("spec.image of the Synapse object"), "{found:?}");
        assert_eq!(found.preflight().arguments["database"].len(), 1, "{found:?}");
    }
}
