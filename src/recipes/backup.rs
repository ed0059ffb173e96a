//! The recipe of `SynapseBackup`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    Operation, RecipeStep, Request, Sight,
    repository::{MEMORY_LIMIT, SECRET, location, mounts},
};
use crate::{
    api::{
        SynapseBackup, SynapseSpec,
        backup::BackupStatus,
        mounts::{Mount, Source},
        operation::{DatabaseAccess, OperationStatus},
        synapse::ConfigSources,
    },
    task::{
        backup::{ConfigObjects, Destination, retain::Keep},
        preflight::Check,
    },
};

/// Where the homeserver's configuration is mounted.
const CONFIG: &str = "/var/run/synapse-keeper/config";
/// Where the homeserver's signing keys are mounted.
const SIGNING_KEY: &str = "/var/run/synapse-keeper/signing-key";
const SIGNING_KEY_FILE: &str = "signing.key";

impl Operation for SynapseBackup {
    const NAME: &'static str = "SynapseBackup";
    const CHANGES_DATABASE: bool = false;

    fn request(&self) -> Request {
        let spec = &self.spec;
        Request {
            synapse: spec.synapse_ref.name.clone(),
            schedule: spec.schedule.clone(),
            suspend: spec.suspend,
            dry_run: false,
            downtime: spec.downtime.clone(),
            jobs: spec.jobs.clone(),
            ..Request::default()
        }
    }

    fn steps(&self, Sight { homeserver, .. }: Sight<'_>) -> Vec<RecipeStep> {
        let destination = Destination {
            repository_dir: SECRET.into(),
            repository: location(&self.spec.repository),
            // A repository that had a backup and is not there is a mistyped name, or a loss: no new one hides that.
            init: self.status.as_ref().is_none_or(|status| status.last_success_at.is_none()),
            server_name: homeserver.server_name.clone(),
            origin: self.uid().unwrap_or_default(),
        };
        let (config, config_mounts) = config(homeserver);
        let mut args = vec!["backup".to_owned()];
        args.extend(destination.to_args());
        args.extend(config.to_args());
        let database = RecipeStep {
            name: "database".to_owned(),
            offline: self.spec.quiesce,
            args,
            preflight: Some(Check::Backup { destination: destination.clone(), config }.to_json()),
            database: DatabaseAccess::Connection,
            mounts: [mounts(&self.spec.repository), config_mounts].concat(),
            memory_limit: Some(MEMORY_LIMIT.to_owned()),
            ..RecipeStep::default()
        };
        vec![database, self.retention(destination)]
    }

    fn synapse(&self) -> &str {
        &self.spec.synapse_ref.name
    }

    fn status(&self) -> Option<&OperationStatus> {
        self.status.as_ref().map(|status| &status.operation)
    }

    fn newest_backup(&self) -> Option<&Time> {
        self.status.as_ref()?.last_success_at.as_ref()
    }

    fn newest_verified(&self) -> Option<&Time> {
        self.status.as_ref()?.last_verified_at.as_ref()
    }

    /// Of either lane.
    fn has_run(&self) -> bool {
        let Some(BackupStatus { operation, verification, .. }) = &self.status else { return false };
        operation.run.is_some() || verification.as_ref().is_some_and(|drills| drills.run.is_some())
    }

    fn set_status(&mut self, status: OperationStatus) {
        self.status.get_or_insert_default().absorb(status);
    }

    fn memories(&mut self) -> Vec<&mut OperationStatus> {
        let Some(BackupStatus { operation, verification, .. }) = &mut self.status else { return Vec::new() };
        [operation].into_iter().chain(verification.as_deref_mut()).collect()
    }
}

impl SynapseBackup {
    /// Also without a retention: what failed attempts left behind goes.
    fn retention(&self, destination: Destination) -> RecipeStep {
        let mut args = vec!["retain".to_owned()];
        args.extend(Destination { init: false, ..destination }.to_args());
        args.extend(self.spec.retention.iter().flat_map(Keep::to_args));
        let zone = self.spec.schedule.as_ref().and_then(|schedule| schedule.time_zone.as_ref());
        args.extend(zone.map(|zone| format!("--time-zone={zone}")));
        RecipeStep {
            name: "retention".to_owned(),
            args,
            afterwards: true,
            database: DatabaseAccess::None,
            mounts: mounts(&self.spec.repository),
            memory_limit: Some(MEMORY_LIMIT.to_owned()),
            ..RecipeStep::default()
        }
    }
}

/// The homeserver's configuration, and its mounts.
fn config(homeserver: &SynapseSpec) -> (ConfigObjects, Vec<Mount>) {
    let sources = homeserver.config.clone().unwrap_or_default();
    let config = ConfigObjects {
        config_dir: (sources != ConfigSources::default()).then(|| CONFIG.into()),
        config_secrets: sources.secrets,
        config_maps: sources.config_maps,
        signing_key_file: homeserver.signing_key.as_ref().map(|_| format!("{SIGNING_KEY}/{SIGNING_KEY_FILE}").into()),
    };
    let secrets = config.config_secrets.iter().map(|name| Mount::secret(&format!("{CONFIG}/secrets/{name}"), name));
    let maps = config.config_maps.iter().map(|name| Mount::config_map(&format!("{CONFIG}/configmaps/{name}"), name));
    let key = homeserver.signing_key.iter().map(|key| Mount {
        path: SIGNING_KEY.to_owned(),
        source: Source::SecretKey {
            name: key.secret_name.clone(),
            key: key.key.clone(),
            file: SIGNING_KEY_FILE.to_owned(),
        },
    });
    let mounts = secrets.chain(maps).chain(key).collect();
    (config, mounts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{
            SynapseBackupSpec,
            backup::{BackupSnapshot, ListedBackups},
            mounts::Source,
            operation::{OperationStatus, Run},
        },
        recipes::{repository::VOLUME, tests::homeserver},
        task::report::StepResult,
    };

    fn object(spec: &str) -> SynapseBackup {
        let spec: SynapseBackupSpec = serde_yaml_ng::from_str(&format!("{{synapseRef: {{name: a}}, {spec}}}")).unwrap();
        let mut object = SynapseBackup::new("nightly", spec);
        object.metadata.uid = Some("uid-1".to_owned());
        object
    }

    fn step(object: &SynapseBackup) -> RecipeStep {
        let steps = object.steps(Sight::of(&homeserver("")));
        let names: Vec<&str> = steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["database", "retention"]);
        steps.into_iter().next().unwrap()
    }

    #[test]
    fn old_backups_go_when_the_homeserver_is_free_again() {
        let object = object(
            "repository: {secretName: s3}, retention: {keepDaily: 7, keepYearly: 2}, schedule: {cron: '@daily', timeZone: Europe/Berlin}",
        );
        let retention = object.steps(Sight::of(&homeserver(""))).pop().unwrap();
        assert!(retention.afterwards && retention.database == DatabaseAccess::None, "{retention:?}");
        let own = ["--keep-daily=7", "--keep-yearly=2", "--time-zone=Europe/Berlin"];
        assert_eq!(retention.args[4..], own, "{:?}", retention.args);
        assert!(!retention.args.contains(&"--init".to_owned()));
    }

    #[test]
    fn a_secret_is_all_that_restic_needs() {
        let step = step(&object("repository: {secretName: s3}"));
        assert_eq!(step.mounts, [Mount::secret(SECRET, "s3")]);
        let args = [
            "backup",
            "--repository-dir=/var/run/synapse-keeper/repository",
            "--init",
            "--server-name=example.org",
            "--origin=uid-1",
        ];
        assert_eq!(step.args, args);
        assert!(!step.offline && step.preflight.is_some_and(|check| check.contains(r#""init":true"#)));
    }

    #[test]
    fn a_volume_has_its_password_elsewhere() {
        let step = step(&object(
            "quiesce: true, repository: {volume: {claimName: backups, path: a/b}, passwordSecret: {name: p, key: restic}}",
        ));
        let [password, volume] = &step.mounts[..] else { panic!("{step:?}") };
        let Source::SecretKey { name, key, file } = &password.source else { panic!("{step:?}") };
        assert_eq!([name, key, file], ["p", "restic", "RESTIC_PASSWORD"]);
        assert_eq!(*volume, Mount::writable_claim(VOLUME, "backups"));
        assert!(step.args.contains(&"--repository=/var/run/synapse-keeper/backups/a/b".to_owned()), "{step:?}");
        assert!(step.offline);
    }

    #[test]
    fn the_configuration_is_mounted_object_by_object() {
        let step = object("repository: {secretName: s3}")
            .steps(Sight::of(&homeserver(", config: {secrets: [signing-key], configMaps: [homeserver]}")))
            .remove(0);
        let mounts = [
            Mount::secret(SECRET, "s3"),
            Mount::secret("/var/run/synapse-keeper/config/secrets/signing-key", "signing-key"),
            Mount::config_map("/var/run/synapse-keeper/config/configmaps/homeserver", "homeserver"),
        ];
        assert_eq!(step.mounts, mounts);
        for wanted in
            ["--config-dir=/var/run/synapse-keeper/config", "--config-secret=signing-key", "--config-map=homeserver"]
        {
            assert!(step.args.contains(&wanted.to_owned()), "{wanted} is not in {:?}", step.args);
        }
    }

    #[test]
    fn the_ids_of_the_signing_keys_are_noted() {
        let step = object("repository: {secretName: s3}")
            .steps(Sight::of(&homeserver(", signingKey: {secretName: ess-generated, key: SYNAPSE_SIGNING_KEY}")))
            .remove(0);
        assert!(step.args.contains(&"--signing-key-file=/var/run/synapse-keeper/signing-key/signing.key".to_owned()));
        let Some(Mount { source: Source::SecretKey { name, key, .. }, .. }) = step.mounts.last() else {
            panic!("{step:?}")
        };
        assert_eq!([name, key], ["ess-generated", "SYNAPSE_SIGNING_KEY"]);
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
        assert!(!step(&object).args.contains(&"--init".to_owned()));
        // Nor after the run's own record is gone.
        object.set_status(OperationStatus::default());
        let status = object.status.as_ref().unwrap();
        assert_eq!((status.snapshot_count, status.snapshots[0].size.as_str()), (Some(1), "10 B"));
        assert!(!step(&object).args.contains(&"--init".to_owned()));
    }
}
