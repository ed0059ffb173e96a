//! The recipe of `SynapseBackup`.

use std::path::Path;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    Operation, RecipeStep, Refusal, Request, Sight,
    authentication::{self, Access},
    repository::{MEMORY_LIMIT, mounts, place},
};
use crate::{
    api::{
        SynapseBackup, SynapseSpec,
        backup::{BackupStatus, Content},
        mounts::{Mount, Source},
        operation::{DatabaseAccess, Interrupted, OperationStatus, Stage, StepSpec, Weight},
        synapse::{self, ConfigSources},
    },
    contract::pod::{CONFIG, MEDIA, SIGNING_KEY},
    task::{
        authentication::AuthenticationService,
        backup::{ConfigObjects, Destination, Wanted, media::MediaStore, retain::Keep},
        preflight::Check,
    },
};

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
            place: place(&self.spec.repository),
            // A repository that had a backup and is not there is a mistyped name, or a loss: no new one hides that.
            init: self.status.as_ref().is_none_or(|status| status.last_success_at.is_none()),
            server_name: homeserver.server_name.clone(),
            origin: self.uid().unwrap_or_default(),
            adopted: self.adopted_origins(),
        };
        let media = homeserver.media_store.as_ref().filter(|_| self.wants(Content::Media));
        let media = media.map(|store| self.media(store, destination.clone()));
        let database = self.database(homeserver, destination.clone(), media.is_some());
        [database].into_iter().chain(media).chain([self.retention(destination)]).collect()
    }

    fn refusal(&self, homeserver: &SynapseSpec) -> Option<Refusal> {
        let lists = |content| self.spec.contents.iter().flatten().any(|listed| *listed == content);
        let field = match () {
            () if lists(Content::Media) && homeserver.media_store.is_none() => "mediaStore",
            () if lists(Content::Config) && config(homeserver).0 == ConfigObjects::default() => "config",
            () => return None,
        };
        Some(Refusal {
            reason: "ContentsNotNamed",
            message: format!(
                "spec.contents lists what Synapse {} does not name: set spec.{field} there, or take it out of the list",
                self.spec.synapse_ref.name
            ),
        })
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
        let adopter = self.adopter();
        self.status.get_or_insert_default().absorb(status, &adopter);
    }

    fn memories(&mut self) -> Vec<&mut OperationStatus> {
        let Some(BackupStatus { operation, verification, .. }) = &mut self.status else { return Vec::new() };
        [operation].into_iter().chain(verification.as_deref_mut()).collect()
    }
}

impl SynapseBackup {
    /// Whether the object wants it, if there is such a thing.
    fn wants(&self, content: Content) -> bool {
        self.spec.contents.as_ref().is_none_or(|contents| contents.contains(&content))
    }

    /// All but the media; a draft, if these are to come.
    fn database(&self, homeserver: &SynapseSpec, destination: Destination, draft: bool) -> RecipeStep {
        let (config, config_mounts) = match self.wants(Content::Config) {
            true => config(homeserver),
            false => Default::default(),
        };
        let (service, service_mounts) = authentication::of(homeserver, Access::Connection);
        let mut args = vec!["backup".to_owned()];
        args.extend(destination.to_args());
        args.extend(config.to_args());
        let exclude = self.spec.exclude.clone().unwrap_or_default();
        args.extend(exclude.to_args());
        args.extend(service.iter().flat_map(AuthenticationService::to_args));
        args.extend(homeserver.admin_api.iter().map(|api| format!("--synapse-url={}", api.url)));
        args.extend(draft.then(|| "--draft".to_owned()));
        let wanted = Wanted { destination, config, authentication_service: service, exclude };
        RecipeStep {
            spec: StepSpec {
                name: "database".to_owned(),
                stage: if self.spec.quiesce { Stage::Offline(Interrupted::Whole) } else { Stage::Online },
                args,
                database: DatabaseAccess::Connection,
                mounts: [mounts(&self.spec.repository), config_mounts, service_mounts].concat(),
                memory_limit: Some(MEMORY_LIMIT.to_owned()),
                ..StepSpec::default()
            },
            preflight: Some(Check::Backup(Box::new(wanted)).to_json()),
            ..RecipeStep::default()
        }
    }

    /// The first may take days: nobody waits for it, but without it there is no backup.
    fn media(&self, store: &synapse::MediaStore, destination: Destination) -> RecipeStep {
        let of_run = self.of_run(&destination);
        let folder = MediaStore {
            media_store: Path::new(MEDIA).join(&store.path),
            remote_media: self.spec.remote_media,
            media_elsewhere: store.elsewhere,
        };
        let mut args = vec!["backup-media".to_owned()];
        args.extend(Destination { init: false, ..destination }.to_args());
        args.extend(folder.to_args());
        args.push(of_run);
        RecipeStep {
            spec: StepSpec {
                name: "media".to_owned(),
                args,
                stage: Stage::Afterwards(Weight::Decides),
                database: DatabaseAccess::None,
                mounts: [mounts(&self.spec.repository), vec![Mount::readable_claim(MEDIA, &store.claim_name)]].concat(),
                memory_limit: Some(MEMORY_LIMIT.to_owned()),
                ..StepSpec::default()
            },
            preflight: Some(Check::Media(folder).to_json()),
            ..RecipeStep::default()
        }
    }

    /// Which run's backup it is.
    fn of_run(&self, destination: &Destination) -> String {
        let run = self.status.as_ref().and_then(|status| status.operation.run.as_ref());
        format!("--of-run={}.{}", destination.origin, run.map_or(0, |run| run.number))
    }

    /// Also without a retention: what failed attempts left behind goes. It must not come before the media are stored: until then
    /// the database's part of this run is such a thing.
    fn retention(&self, destination: Destination) -> RecipeStep {
        let mut args = vec!["retain".to_owned(), self.of_run(&destination)];
        args.extend(Destination { init: false, ..destination }.to_args());
        args.extend(self.spec.retention.iter().flat_map(Keep::to_args));
        let zone = self.spec.schedule.as_ref().and_then(|schedule| schedule.time_zone.as_ref());
        args.extend(zone.map(|zone| format!("--time-zone={zone}")));
        RecipeStep {
            spec: StepSpec {
                name: "retention".to_owned(),
                args,
                stage: Stage::Afterwards(Weight::Optional),
                database: DatabaseAccess::None,
                mounts: mounts(&self.spec.repository),
                memory_limit: Some(MEMORY_LIMIT.to_owned()),
                ..StepSpec::default()
            },
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
mod tests;
