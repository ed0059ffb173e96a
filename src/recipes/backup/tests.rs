use super::*;
use crate::{
    api::{
        SynapseBackupSpec,
        conditions::{self, Type},
        mounts::Source,
        operation::{OperationStatus, Run},
    },
    contract::{BackupSnapshot, Coverage, ListedBackups, MediaSample, StepPlan, StepResult, pod},
    recipes::tests::homeserver,
};

fn object(spec: &str) -> SynapseBackup {
    let spec: SynapseBackupSpec = serde_yaml_ng::from_str(&format!("{{synapseRef: {{name: a}}, {spec}}}")).unwrap();
    let mut object = SynapseBackup::new("nightly", spec);
    object.metadata.uid = Some("uid-1".to_owned());
    object
}

fn step(object: &SynapseBackup) -> RecipeStep {
    let steps = object.steps(Sight::of(&homeserver("")));
    let names: Vec<&str> = steps.iter().map(|step| step.spec.name.as_str()).collect();
    assert_eq!(names, ["database", "retention"]);
    steps.into_iter().next().unwrap()
}

const MEDIA_STORE: &str = ", mediaStore: {claimName: synapse-media, path: data/media}";

#[test]
fn media_come_when_the_homeserver_is_free_again_and_complete_the_backup_of_their_run() {
    let mut object = object("repository: {secretName: s3}, remoteMedia: true");
    let run: Run = serde_json::from_value(serde_json::json!({
        "number": 7, "trigger": "Once", "generation": 1, "startedAt": "2026-11-22T02:00:00Z", "downtime": {},
    }))
    .unwrap();
    object.set_status(OperationStatus { run: Some(Box::new(run)), ..OperationStatus::default() });
    let steps = object.steps(Sight::of(&homeserver(MEDIA_STORE)));
    let [database, media, retention] = &steps[..] else { panic!("{steps:?}") };
    assert!(database.spec.args.contains(&"--draft".to_owned()), "{database:?}");
    assert_eq!(
        (media.spec.name.as_str(), media.spec.stage.is_afterwards(), media.spec.stage.decides()),
        ("media", true, true)
    );
    assert!(retention.spec.stage.is_afterwards() && !retention.spec.stage.decides());
    let own = ["--media-store=/var/run/synapse-keeper/media/data/media", "--remote-media", "--of-run=uid-1.7"];
    assert_eq!(media.spec.args[media.spec.args.len() - 3..], own, "{:?}", media.spec.args);
    assert!(!media.spec.args.contains(&"--init".to_owned()), "the database's step has made it");
    let claim = Mount::readable_claim("/var/run/synapse-keeper/media", "synapse-media");
    assert_eq!(media.spec.mounts, [Mount::secret(pod::REPOSITORY, "s3"), claim]);
    let check: Check = serde_json::from_str(media.preflight.as_ref().unwrap()).unwrap();
    assert!(matches!(check, Check::Media(store) if store.remote_media && store.media_store.ends_with("data/media")));
}

#[test]
fn media_that_a_storage_provider_has_are_not_looked_for() {
    let store = ", mediaStore: {claimName: synapse-media, path: media, elsewhere: true}";
    let step = object("repository: {secretName: s3}").steps(Sight::of(&homeserver(store))).remove(1);
    assert!(step.spec.args.contains(&"--media-elsewhere".to_owned()), "{:?}", step.spec.args);
    let check: Check = serde_json::from_str(step.preflight.as_ref().unwrap()).unwrap();
    assert!(matches!(check, Check::Media(store) if store.media_elsewhere));
}

#[test]
fn media_that_are_missing_are_a_condition_of_the_backup() {
    let mut object = object("repository: {secretName: s3}");
    let run = serde_json::json!({
        "number": 1, "trigger": "Once", "generation": 1, "startedAt": "2026-11-22T02:00:00Z", "downtime": {},
    });
    let found = |missing| MediaSample { looked_for: 9, missing, example: "local_content/aa/bb/cc".to_owned() };
    let looked = |object: &mut SynapseBackup, missing: Option<i64>| {
        let media = missing.map(found);
        let plan = vec![StepPlan { step: "media".to_owned(), media, ..StepPlan::default() }];
        let before = object.status.take().unwrap_or_default();
        object.status = Some(BackupStatus { operation: OperationStatus::default(), ..before.clone() });
        let run: Run = serde_json::from_value(run.clone()).unwrap();
        object.set_status(OperationStatus { run: Some(Box::new(run)), plan, ..before.operation });
        let status = object.status.as_ref().unwrap();
        assert_eq!(status.operation.plan[0].media, None, "it is noted once");
        conditions::find(&status.operation.conditions, Type::MediaMissing).map(|found| found.message.clone())
    };
    let message = looked(&mut object, Some(2)).expect("a condition");
    assert!(message.starts_with("2 of 9 files of media") && message.contains("the media store"), "{message}");
    assert_eq!(looked(&mut object, None), Some(message), "nobody has looked again");
    assert_eq!(looked(&mut object, Some(0)), None);

    // The drill looks into the backup.
    let drill = |missing, finished: bool| -> OperationStatus {
        let result = StepResult { media: Some(found(missing)), ..StepResult::default() };
        let mut run = run.clone();
        run["steps"] = serde_json::json!([{"name": "verify", "state": "Succeeded", "result": result}]);
        if finished {
            run["finishedAt"] = "2026-11-22T03:00:00Z".into();
        }
        OperationStatus { run: Some(serde_json::from_value(run).unwrap()), ..OperationStatus::default() }
    };
    let status = object.status.as_mut().unwrap();
    status.absorb_drill(drill(1, false));
    status.absorb_drill(drill(1, true));
    let condition = conditions::find(&status.operation.conditions, Type::MediaMissing).expect("a condition");
    assert!(condition.message.contains("not in the newest backup"), "{condition:?}");
}

#[test]
fn only_what_is_listed_is_taken_and_by_default_all_that_there_is() {
    let all = format!("{MEDIA_STORE}, config: {{secrets: [key]}}");
    let names = |spec: &str, homeserver_has: &str| {
        let steps = object(spec).steps(Sight::of(&homeserver(homeserver_has)));
        let with_config = steps[0].spec.args.contains(&"--config-secret=key".to_owned());
        let names: Vec<String> = steps.into_iter().map(|step| step.spec.name).collect();
        (names.join(" "), with_config)
    };
    let named = |names: &str, with_config| (names.to_owned(), with_config);
    let list = |contents: &str| format!("repository: {{secretName: s3}}, contents: [{contents}]");
    assert_eq!(names("repository: {secretName: s3}", &all), named("database media retention", true));
    assert_eq!(names("repository: {secretName: s3}", ""), named("database retention", false));
    assert_eq!(names(&list("Database"), &all), named("database retention", false));
    assert_eq!(names(&list("Database, Media"), &all), named("database media retention", false));
    assert_eq!(names(&list("Database, Config"), &all), named("database retention", true));
}

#[test]
fn what_is_listed_and_not_named_is_refused() {
    for (contents, field) in [("Database, Media", "spec.mediaStore"), ("Database, Config", "spec.config")] {
        let object = object(&format!("repository: {{secretName: s3}}, contents: [{contents}]"));
        let refusal = object.refusal(&homeserver("")).expect("it is refused");
        assert!(refusal.reason == "ContentsNotNamed" && refusal.message.contains(field), "{refusal:?}");
        let all = format!("{MEDIA_STORE}, config: {{secrets: [key]}}");
        assert_eq!(object.refusal(&homeserver(&all)), None);
    }
    assert_eq!(object("repository: {secretName: s3}").refusal(&homeserver("")), None);
}

#[test]
fn old_backups_go_when_the_homeserver_is_free_again() {
    let object = object(
        "repository: {secretName: s3}, retention: {keepDaily: 7, keepYearly: 2}, schedule: {cron: '@daily', timeZone: Europe/Berlin}",
    );
    let retention = object.steps(Sight::of(&homeserver(""))).pop().unwrap();
    assert!(retention.spec.stage.is_afterwards() && retention.spec.database == DatabaseAccess::None, "{retention:?}");
    let own = ["--keep-daily=7", "--keep-yearly=2", "--time-zone=Europe/Berlin"];
    assert_eq!(retention.spec.args[5..], own, "{:?}", retention.spec.args);
    assert!(!retention.spec.args.contains(&"--init".to_owned()));
}

#[test]
fn a_secret_is_all_that_restic_needs() {
    let step = step(&object("repository: {secretName: s3}"));
    assert_eq!(step.spec.mounts, [Mount::secret(pod::REPOSITORY, "s3")]);
    let args = [
        "backup",
        "--repository-dir=/var/run/synapse-keeper/repository",
        "--init",
        "--server-name=example.org",
        "--origin=uid-1",
    ];
    assert_eq!(step.spec.args, args);
    assert!(!step.spec.stage.is_offline() && step.preflight.is_some_and(|check| check.contains(r#""init":true"#)));
}

#[test]
fn synapse_is_asked_for_its_version_where_it_is_known() {
    let homeserver = homeserver(", adminApi: {url: 'http://synapse:8008'}");
    let step = object("repository: {secretName: s3}").steps(Sight::of(&homeserver)).remove(0);
    assert!(step.spec.args.contains(&"--synapse-url=http://synapse:8008".to_owned()), "{:?}", step.spec.args);
}

#[test]
fn a_volume_has_its_password_elsewhere() {
    let step = step(&object(
        "quiesce: true, repository: {volume: {claimName: backups, path: a/b}, passwordSecret: {name: p, key: restic}}",
    ));
    let [password, volume] = &step.spec.mounts[..] else { panic!("{step:?}") };
    let Source::SecretKey { name, key, file } = &password.source else { panic!("{step:?}") };
    assert_eq!([name, key, file], ["p", "restic", "RESTIC_PASSWORD"]);
    assert_eq!(*volume, Mount::writable_claim(pod::REPOSITORY_VOLUME, "backups"));
    assert!(step.spec.args.contains(&"--repository=/var/run/synapse-keeper/backups/a/b".to_owned()), "{step:?}");
    assert!(step.spec.stage.is_offline());
}

#[test]
fn the_configuration_is_mounted_object_by_object() {
    let step = object("repository: {secretName: s3}")
        .steps(Sight::of(&homeserver(", config: {secrets: [signing-key], configMaps: [homeserver]}")))
        .remove(0);
    let mounts = [
        Mount::secret(pod::REPOSITORY, "s3"),
        Mount::secret("/var/run/synapse-keeper/config/secrets/signing-key", "signing-key"),
        Mount::config_map("/var/run/synapse-keeper/config/configmaps/homeserver", "homeserver"),
    ];
    assert_eq!(step.spec.mounts, mounts);
    for wanted in
        ["--config-dir=/var/run/synapse-keeper/config", "--config-secret=signing-key", "--config-map=homeserver"]
    {
        assert!(step.spec.args.contains(&wanted.to_owned()), "{wanted} is not in {:?}", step.spec.args);
    }
}

#[test]
fn the_ids_of_the_signing_keys_are_noted() {
    let step = object("repository: {secretName: s3}")
        .steps(Sight::of(&homeserver(", signingKey: {secretName: ess-generated, key: SYNAPSE_SIGNING_KEY}")))
        .remove(0);
    assert!(step.spec.args.contains(&"--signing-key-file=/var/run/synapse-keeper/signing-key/signing.key".to_owned()));
    let Some(Mount { source: Source::SecretKey { name, key, .. }, .. }) = step.spec.mounts.last() else {
        panic!("{step:?}")
    };
    assert_eq!([name, key], ["ess-generated", "SYNAPSE_SIGNING_KEY"]);
}

#[test]
fn a_backup_of_the_future_hides_no_old_one() {
    let moment = |text: &str| Some(Time(text.parse().unwrap()));
    let snapshot = |id: &str, at: &str| BackupSnapshot::new(id.to_owned(), moment(at), 10, 5);
    let run = |listed: ListedBackups| -> Run {
        let result = StepResult { backups: Some(listed), ..StepResult::default() };
        serde_json::from_value(serde_json::json!({
            "number": 2, "trigger": "Once", "generation": 1, "startedAt": "2026-11-22T02:00:00Z", "downtime": {},
            "steps": [{
                "name": "database", "state": "Succeeded", "finishedAt": "2026-11-22T02:05:00Z", "result": result,
            }],
        }))
        .unwrap()
    };
    let mut object = object("repository: {secretName: s3}");
    let ahead = ListedBackups::new(vec![snapshot("b", "2031-01-01T00:00:00Z"), snapshot("a", "2026-11-21T02:00:00Z")]);
    object.set_status(OperationStatus { run: Some(Box::new(run(ahead))), ..OperationStatus::default() });
    let status = object.status.as_ref().unwrap();
    assert_eq!(status.last_success_at, moment("2026-11-22T02:05:00Z"), "when it was seen");
    let condition = conditions::find(&status.operation.conditions, Type::ClockAhead).expect("a condition");
    assert!(condition.message.contains("2031-01-01T00:00:00Z"), "{condition:?}");
    let well = ListedBackups::new(vec![snapshot("c", "2026-11-22T02:00:00Z"), snapshot("a", "2026-11-21T02:00:00Z")]);
    object.set_status(OperationStatus { run: Some(Box::new(run(well))), ..OperationStatus::default() });
    let status = object.status.as_ref().unwrap();
    assert_eq!(status.last_success_at, moment("2026-11-22T02:00:00Z"));
    assert_eq!(conditions::find(&status.operation.conditions, Type::ClockAhead), None);
}

#[test]
fn what_a_restore_will_not_bring_back_is_a_condition_until_a_backup_has_none_of_it() {
    let after = |object: &mut SynapseBackup, coverage: Option<Coverage>| {
        let result = StepResult { coverage, ..StepResult::default() };
        let run: Run = serde_json::from_value(serde_json::json!({
            "number": 1, "trigger": "Once", "generation": 1, "startedAt": "2026-11-22T02:00:00Z",
            "downtime": {}, "steps": [{"name": "database", "state": "Succeeded", "result": result}],
        }))
        .unwrap();
        let conditions = object.status.take().map(|status| status.operation.conditions).unwrap_or_default();
        object.set_status(OperationStatus { run: Some(Box::new(run)), conditions, ..OperationStatus::default() });
        let conditions = &object.status.as_ref().unwrap().operation.conditions;
        conditions::find(conditions, Type::NotAllRestored).map(|found| (found.reason.clone(), found.message.clone()))
    };
    let mut object = object("repository: {secretName: s3}");
    let left_out = vec!["extension a: only a superuser can make it".to_owned()];
    let coverage = Coverage { not_restored: left_out.clone(), ..Coverage::default() };
    let (reason, message) = after(&mut object, Some(coverage)).expect("it is said");
    assert_eq!(reason, "PartsLeftOut");
    assert_eq!(message, "A restore does not bring back extension a: only a superuser can make it");
    assert_eq!(after(&mut object, None).expect("it stays").0, "PartsLeftOut");
    let coverage = Coverage { not_restored: left_out, superuser_needed: vec!["Tables need it.".to_owned()] };
    let (reason, message) = after(&mut object, Some(coverage)).expect("it is said");
    assert_eq!(reason, "SuperuserNeeded");
    assert!(message.starts_with("Tables need it. A restore"), "{message}");
    assert_eq!(after(&mut object, Some(Coverage::default())), None);
}

#[test]
fn a_repository_that_had_a_backup_is_not_made_again() {
    let mut object = object("repository: {secretName: s3}");
    let taken_at = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
    let listed = ListedBackups::new(vec![BackupSnapshot::new("a".to_owned(), taken_at, 10, 5)]);
    let result = StepResult { backups: Some(listed), ..StepResult::default() };
    let run: Run = serde_json::from_value(serde_json::json!({
        "number": 1, "trigger": "Once", "generation": 1, "startedAt": "2026-11-22T02:00:00Z",
        "downtime": {}, "steps": [{"name": "database", "state": "Succeeded", "result": result}],
    }))
    .unwrap();
    object.set_status(OperationStatus { run: Some(Box::new(run)), ..OperationStatus::default() });
    assert!(!step(&object).spec.args.contains(&"--init".to_owned()));
    // Nor after the run's own record is gone.
    object.set_status(OperationStatus::default());
    let status = object.status.as_ref().unwrap();
    assert_eq!((status.snapshot_count, status.snapshots[0].size.as_str()), (Some(1), "10 B"));
    assert!(!step(&object).spec.args.contains(&"--init".to_owned()));
}
