//! Both databases in one backup, and the drill that restores both.

use serde_json::{Value, json};
use synapse_keeper::postgres::Locale;

use super::*;
use crate::{
    backup::{ALL, MANIFEST, back_up},
    media::{draft, media, media_store},
    support::{PASSWORD, Program},
    verify::verify,
};

fn manifest(repository: &Repository, snapshot: &str) -> Value {
    let text = std::fs::read_to_string(repository.fetch(snapshot, "manifest.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

impl Homeserver {
    pub(super) fn back_up(&self) -> Program {
        back_up(&self.synapse, &self.repository).authentication_service(&self.mas)
    }
}

#[tokio::test]
async fn both_databases_are_of_one_moment_and_the_backup_says_how_far_apart_they_are() {
    for homeserver in [Homeserver::on_one_server("mas_one"), Homeserver::on_two_servers("mas_two")] {
        let Homeserver { mas, repository, .. } = &homeserver;
        let finished = homeserver.back_up().run().await;
        let found = finished.backup();
        let apart = found.apart_seconds.expect("both");
        assert!(apart > 0.0 && apart < 60.0, "{apart}");
        let summary = &finished.result().summary;
        for words in
            ["1379 rows of 11 tables of the Matrix Authentication Service", &format!("no more than {apart:.3} s")]
        {
            assert!(summary.contains(words), "{words:?} is not in {summary}");
        }
        let listed = &finished.result().backups.as_ref().unwrap().newest[0];
        assert_eq!(listed.authentication_apart_seconds, Some(apart));

        let manifest = manifest(repository, &found.snapshot);
        let service = &manifest["authenticationService"];
        assert_eq!(service["migration"], json!(20_260_121_121_140_i64));
        assert_eq!(service["apartSeconds"], json!(apart));
        assert_eq!(service["leftOut"], json!(["public.queue_leader"]), "what an unlogged table holds is worth nothing");
        let locale: Locale = serde_json::from_value(service.clone()).unwrap();
        assert_eq!(locale, Locale::libc("UTF8", AUTHENTICATION_LOCALE));
        let moments = [&manifest["takenAt"], &service["takenAt"]];
        let [one, other] = moments.map(|at| at.as_str().unwrap().parse::<jiff::Timestamp>().unwrap());
        assert!(one.duration_since(other).abs().as_secs_f64() <= apart, "one machine has one clock");
        let users =
            service["parts"].as_object().unwrap().values().find_map(|part| part["rows"]["public.users"].as_u64());
        assert_eq!(users, Some(200));
        assert!(manifest["parts"].as_object().unwrap().keys().all(|file| !file.starts_with("mas-")), "{manifest:#}");
        mas.sessions_of_tasks_end().await;
    }
}

/// A reader of format 2 knows nothing of a second database: it would bring back Synapse's alone.
#[tokio::test]
async fn a_release_that_knows_nothing_of_it_sees_no_backup_rather_than_half_of_one() {
    let homeserver = Homeserver::on_one_server("mas_format");
    let found = homeserver.back_up().run().await.backup().clone();
    let stored = homeserver.repository.list(ALL);
    assert_eq!(stored.len(), 7, "two schemas, two streams of rows each, and the manifest");
    for snapshot in &stored {
        let tags: Vec<&str> = snapshot["tags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(tags.contains(&"format=4"), "it would take this for what a failed attempt left: {tags:?}");
    }
    assert_eq!(manifest(&homeserver.repository, &found.snapshot)["format"], json!(4));
    assert_eq!(homeserver.repository.snapshots(MANIFEST), [found.snapshot]);
}

#[tokio::test]
async fn with_media_the_backup_has_both_databases_when_the_media_are_stored() {
    let Homeserver { synapse, mas, repository } = Homeserver::on_one_server("mas_media");
    let store = media_store();
    let drafted = draft(&synapse, &repository, "1").authentication_service(&mas).run().await;
    assert!(drafted.backup().apart_seconds.is_some(), "{drafted:?}");
    assert_eq!(repository.snapshots(MANIFEST), Vec::<String>::new());
    let stored = media(store.path(), &repository).run().await;
    let newest = &stored.result().backups.as_ref().unwrap().newest[0];
    assert_eq!(newest.authentication_apart_seconds, drafted.backup().apart_seconds);
    let manifest = manifest(&repository, &newest.id);
    assert!(manifest["media"].is_object() && manifest["authenticationService"].is_object(), "{manifest:#}");
}

#[tokio::test]
async fn a_database_that_is_not_the_service_s_is_refused() {
    let Homeserver { synapse, mas, repository } = Homeserver::on_one_server("mas_wrong");
    let empty = Database::empty_of_authentication_service(server(), "mas_wrong_empty");
    let other = Database::empty_of_authentication_service(server(), "mas_wrong_other");
    other.sql("SET ROLE mas; CREATE TABLE _sqlx_migrations (version bigint, success boolean)");
    let wrong = |of: &Database, service: &Database, role: &str| {
        back_up(of, &repository).authentication_service_as(service, role, PASSWORD).run()
    };
    let field = "spec.matrixAuthenticationService";
    let is = |finished: crate::support::Finished, words: &str| {
        finished.refused("NoAuthenticationSchema", &[field, words, "postgres.database right"]);
    };
    is(wrong(&synapse, &synapse, "synapse").await, "This is Synapse's database");
    is(wrong(&synapse, &other, "mas").await, "no schema of the service");
    wrong(&synapse, &empty, "mas").await.refused("NoAuthenticationSchema", &[field, "has the service ever started?"]);
    back_up(&mas, &repository)
        .credentials("mas", PASSWORD)
        .run()
        .await
        .refused("NoSynapseSchema", &["of the Matrix Authentication Service, not of Synapse"]);
    assert_eq!(repository.snapshots(MANIFEST), Vec::<String>::new());
}

#[tokio::test]
async fn a_wrong_password_says_of_which_database() {
    let Homeserver { synapse, mas, repository } = Homeserver::on_one_server("mas_password");
    let step = |destination: Value| format!("database={}", json!({"backup": destination}));
    let wrong = back_up(&synapse, &repository).authentication_service_as(&mas, "mas", "wrong");
    let words = ["spec.matrixAuthenticationService", "postgres.credentials", "\"mas\""];
    wrong.run().await.refused("PasswordRefused", &words);
    let told = back_up(&synapse, &repository).authentication_service(&mas).credentials("synapse", "wrong").run().await;
    let error = told.refused("PasswordRefused", &["postgres.credentials", "\"synapse\""]);
    assert!(!error.message.contains("Authentication"), "{error}");

    // Preflight finds it out first.
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("username"), "mas").unwrap();
    let mut destination = repository.destination();
    destination["serverName"] = json!("example.org");
    destination["init"] = json!(true);
    let service = json!({
        "masHost": "127.0.0.1", "masPort": mas.server.port, "masDatabase": mas.name, "masCredentialsDir": secret.path(),
    });
    let check = json!({"destination": destination, "config": {}, "authenticationService": service});
    let preflight =
        || synapse.task("preflight").repository_programs(&repository).with(&["--step", &step(check.clone())]);
    let missing = preflight().run().await;
    missing.refused("SecretKeyMissing", &["spec.matrixAuthenticationService", "no key `password`"]);
    std::fs::write(secret.path().join("password"), PASSWORD).unwrap();
    let found = preflight().run().await;
    let summary = &found.preflight().plan[0].summary;
    assert!(summary.contains("of the Matrix Authentication Service, into the repository"), "{summary}");
}

#[tokio::test]
async fn who_upgrades_the_service_goes_first() {
    let homeserver = Homeserver::on_two_servers("mas_upgrade");
    let held = homeserver.repository.hold_streams();
    let running = homeserver.back_up().start();
    crate::support::eventually("the tables are locked", || async {
        homeserver.mas.our_sessions().contains("idle in transaction")
    })
    .await;
    let mut upgrade = homeserver.mas.session("mas", "mas-upgrade").await;
    crate::support::execute(&mut upgrade, "ALTER TABLE users ADD COLUMN is_guest boolean").await;
    let words = ["spec.matrixAuthenticationService", "the backup gave way", "mas-upgrade"];
    running.finish().await.refused("GivesWay", &words);
    homeserver.mas.sessions_of_tasks_end().await;
    homeserver.synapse.sessions_of_tasks_end().await;
    let _ = std::fs::remove_file(held);
}

#[tokio::test]
async fn a_drill_restores_both_and_counts_both() {
    let homeserver = Homeserver::on_one_server("mas_drill");
    let found = homeserver.back_up().run().await.backup().clone();
    let done = verify(&homeserver.repository, &found.snapshot, "mas_drill_restored").run().await;
    let summary = &done.result().summary;
    assert!(summary.contains("1379 rows of 12 tables of the Matrix Authentication Service"), "{summary}");
    let restored = Database { name: "mas_drill_restored_mas".to_owned(), server: server() };
    assert_eq!(restored.checksum("users"), homeserver.mas.checksum("users"));
    assert_eq!(restored.sql("SELECT count(*) FROM queue_leader"), "0");

    // One row less than the manifest says: the backup is not good, and the verdict says of which database.
    let mut manifest = manifest(&homeserver.repository, &found.snapshot);
    for part in manifest["authenticationService"]["parts"].as_object_mut().unwrap().values_mut() {
        if part["rows"]["public.users"].is_u64() {
            part["rows"]["public.users"] = json!(201);
        }
    }
    let wrong = homeserver.repository.store("manifest.json", &manifest.to_string());
    let done = verify(&homeserver.repository, &wrong, "mas_drill_wrong").run().await;
    done.refused("RowsDiffer", &["Matrix Authentication Service", "public.users has 200 rows of 201"]);
    assert!(!done.report().result.clone().unwrap().verdict.unwrap().is_whole);
}
