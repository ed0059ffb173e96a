//! The recipe of `SynapseRestore`.

use std::path::Path;

use kube::ResourceExt;

use super::{
    Need, Operation, RecipeStep, Refusal, Request, Sight,
    authentication::{self, Access},
    dump,
    repository::{MEMORY_LIMIT, mounts, place},
};
use crate::{
    api::{
        SynapseBackup, SynapseRestore, SynapseSpec,
        backup::Content,
        mounts::Mount,
        operation::{DatabaseAccess, Interrupted, OperationStatus, Stage, StepSpec},
        repository::Repository,
        restore::Method,
        synapse::MediaStore,
    },
    contract::pod::{MEDIA, POSTGRES_ADMIN},
    task::{
        authentication::AuthenticationService,
        preflight::Check,
        restore::{Administrator, Source, Terms, Wanted, WantedMedia},
    },
};

impl Operation for SynapseRestore {
    const NAME: &'static str = "SynapseRestore";
    const CHANGES_DATABASE: bool = true;

    fn request(&self) -> Request {
        let spec = &self.spec;
        Request {
            synapse: spec.synapse_ref.name.clone(),
            downtime: spec.downtime.clone(),
            jobs: spec.jobs.clone(),
            backup: spec.from.backup_ref.as_ref().map(|backup| backup.name.clone()),
            image: Need::IfKnown,
            heals: true,
            ..Request::default()
        }
    }

    fn steps(&self, Sight { homeserver, backup, image }: Sight<'_>) -> Vec<RecipeStep> {
        let from = &self.spec.from;
        let secret = homeserver.postgres.admin_credentials.as_ref().map(|credentials| &credentials.secret_name);
        let administrator =
            Administrator { admin_credentials_dir: secret.map(|_| POSTGRES_ADMIN.into()), ..Administrator::default() };
        let administrator_mount = secret.map(|name| Mount::secret(POSTGRES_ADMIN, name));
        let terms = Terms {
            administrator: administrator.clone(),
            restore: format!("{}/{}", self.namespace().unwrap_or_default(), self.name_any()),
            existing: self.spec.database.existing,
            free_space: self.spec.database.free_space.clone(),
            synapse_schema: None,
        };
        let schema_from = image.cloned();
        let swap = self.swap(homeserver, &administrator, administrator_mount.clone());
        if let Some(dump) = &from.dump {
            let database = dump::database(dump, homeserver, terms, administrator_mount);
            return vec![RecipeStep { schema_from, ..database }, swap];
        }
        let Some(repository) = from.repository.as_ref().or(backup.map(|backup| &backup.spec.repository)) else {
            return Vec::new();
        };
        let (service, service_mounts) = authentication::of(homeserver, Access::AdministratorAndDisk);
        let wanted = Wanted {
            source: Source {
                place: place(repository),
                server_name: homeserver.server_name.clone(),
                origins: backup.map(SynapseBackup::origins).unwrap_or_default(),
                snapshot: from.snapshot.clone(),
                before: from.before(),
            },
            method: self.spec.database.method,
            terms,
            authentication_service: service,
        };
        let mut database = RecipeStep { schema_from, ..database(&wanted, repository, administrator_mount) };
        database.spec.mounts.extend(service_mounts);
        let media = homeserver.media_store.as_ref().filter(|_| self.wants(Content::Media));
        let media = media.map(|store| self.media(store, &wanted.source, repository));
        let steps = match self.spec.database.method {
            Method::Beside => [Some(database), media, Some(swap)],
            Method::InPlace => [media, Some(self.in_place(database, &administrator)), None],
        };
        steps.into_iter().flatten().collect()
    }

    /// The Matrix Authentication Service has a database of its own, with the sessions of all users: one of the two alone would go
    /// back in time. Whether the backup has it is known when its manifest has been read.
    fn refusal(&self, homeserver: &SynapseSpec) -> Option<Refusal> {
        let service = homeserver.matrix_authentication_service.as_ref()?;
        if self.spec.database.method == Method::InPlace {
            return Some(Refusal {
                reason: "AuthenticationNotInPlace",
                message: "in place only Synapse's own database comes back, not that of the Matrix Authentication Service: the two \
                          would be out of step. Name a role that may make databases (postgres.adminCredentials), and \
                          create a new SynapseRestore with spec.database: {method: Beside}"
                    .to_owned(),
            });
        }
        if self.spec.from.dump.is_some() {
            let message = format!(
                "Synapse {} has a Matrix Authentication Service, and a dump has Synapse's database alone: the two would be out of \
                 step. Bring back both by hand, from the same moment (docs/dumps.md)",
                self.spec.synapse_ref.name
            );
            return Some(Refusal { reason: "AuthenticationNotInBackup", message });
        }
        service.postgres.is_none().then(|| Refusal {
            reason: "AuthenticationNotNamed",
            message: format!(
                "Synapse {0} has a Matrix Authentication Service and does not name its database: the two would be out of step. Set \
                 spec.matrixAuthenticationService.postgres of Synapse {0}; if no backup has it yet, bring back both by hand, from \
                 the same moment (docs/dumps.md)",
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

    fn set_status(&mut self, status: OperationStatus) {
        self.status.get_or_insert_default().absorb(status);
    }

    fn memories(&mut self) -> Vec<&mut OperationStatus> {
        self.status.iter_mut().map(|status| &mut status.operation).collect()
    }
}

impl SynapseRestore {
    /// Whether the object wants it, if there is such a thing.
    fn wants(&self, content: Content) -> bool {
        self.spec.contents.as_ref().is_none_or(|contents| contents.contains(&content))
    }

    /// Before the swap, so that every file that the restored database knows of is there; those that are there already do not
    /// change.
    fn media(&self, store: &MediaStore, source: &Source, repository: &Repository) -> RecipeStep {
        let wanted = WantedMedia {
            media_store: Path::new(MEDIA).join(&store.path),
            // Who did not ask for them by name takes what there is.
            if_any: self.spec.contents.is_none(),
        };
        let mut args = vec!["restore-media".to_owned()];
        args.extend(source.to_args());
        args.push(format!("--media-store={}", wanted.media_store.display()));
        args.extend(wanted.if_any.then(|| "--if-any".to_owned()));
        RecipeStep {
            spec: StepSpec {
                name: "media".to_owned(),
                args,
                database: DatabaseAccess::None,
                mounts: [mounts(repository), vec![Mount::writable_claim(MEDIA, &store.claim_name)]].concat(),
                memory_limit: Some(MEMORY_LIMIT.to_owned()),
                ..StepSpec::default()
            },
            preflight: Some(Check::RestoreMedia(wanted).to_json()),
            ..RecipeStep::default()
        }
    }

    /// Into the homeserver's own database: users wait for all of it.
    fn in_place(&self, database: RecipeStep, administrator: &Administrator) -> RecipeStep {
        let scheduled_tasks = format!("--scheduled-tasks={}", self.spec.database.scheduled_tasks);
        RecipeStep {
            spec: StepSpec {
                stage: Stage::Offline(Interrupted::Unfinished),
                args: [database.spec.args, vec![scheduled_tasks]].concat(),
                undo: [vec!["clear-database".to_owned()], administrator.to_args()].concat(),
                ..database.spec
            },
            ..database
        }
    }

    /// Users wait for this alone. One database has its name at every moment, whatever becomes of the task. With the service's
    /// database there are two, and they may be on two servers, as only the task finds out: cut off in between, it leaves them out
    /// of step.
    fn swap(&self, homeserver: &SynapseSpec, administrator: &Administrator, mount: Option<Mount>) -> RecipeStep {
        let (service, service_mounts) = authentication::of(homeserver, Access::Administrator);
        let interrupted = if service.is_some() { Interrupted::OutOfStep } else { Interrupted::Whole };
        let service: Vec<String> = service.iter().flat_map(AuthenticationService::to_args).collect();
        let common = |task: &str| [vec![task.to_owned()], administrator.to_args(), service.clone()].concat();
        let mut args = common("swap-database");
        args.push(format!("--existing={}", self.spec.database.existing));
        args.push(format!("--scheduled-tasks={}", self.spec.database.scheduled_tasks));
        let mut undo = common("swap-database");
        undo.push("--back".to_owned());
        RecipeStep {
            spec: StepSpec {
                name: "swap".to_owned(),
                stage: Stage::Offline(interrupted),
                args,
                mounts: mount.into_iter().chain(service_mounts).collect(),
                undo,
                ..StepSpec::default()
            },
            ..RecipeStep::default()
        }
    }
}

/// Beside the database that serves.
fn database(wanted: &Wanted, repository: &Repository, administrator: Option<Mount>) -> RecipeStep {
    RecipeStep {
        spec: StepSpec {
            name: "database".to_owned(),
            args: [vec!["restore-database".to_owned()], wanted.to_args()].concat(),
            database: DatabaseAccess::WithDisk,
            mounts: mounts(repository).into_iter().chain(administrator).collect(),
            memory_limit: Some(MEMORY_LIMIT.to_owned()),
            ..StepSpec::default()
        },
        preflight: Some(Check::Restore(Box::new(wanted.clone())).to_json()),
        ..RecipeStep::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{SynapseBackup, SynapseRestoreSpec, verification::SynapseImage},
        contract::pod,
        recipes::tests::homeserver,
    };

    fn steps(spec: &str, homeserver_has: &str, backup: Option<&SynapseBackup>) -> Vec<RecipeStep> {
        let spec: SynapseRestoreSpec =
            serde_yaml_ng::from_str(&format!("{{synapseRef: {{name: a}}, {spec}}}")).unwrap();
        let mut object = SynapseRestore::new("after-the-fire", spec);
        object.metadata.namespace = Some("matrix".to_owned());
        let homeserver = homeserver(homeserver_has);
        object.steps(Sight { backup, ..Sight::of(&homeserver) })
    }

    #[test]
    fn the_image_is_asked_whatever_comes_back() {
        let image = SynapseImage { image: "synapse:1".to_owned(), ..SynapseImage::default() };
        let homeserver = homeserver("");
        for from in ["repository: {secretName: s3}", "dump: {claim: {claimName: dumps, path: synapse.dump}}"] {
            let spec = serde_yaml_ng::from_str(&format!("{{synapseRef: {{name: a}}, from: {{{from}}}}}")).unwrap();
            let object = SynapseRestore::new("after-the-fire", spec);
            let asked = |image| object.steps(Sight { image, ..Sight::of(&homeserver) })[0].schema_from.clone();
            assert_eq!(asked(Some(&image)), Some(image.clone()), "{from}");
            assert_eq!(asked(None), None, "{from}");
        }
    }

    #[test]
    fn what_users_wait_for_is_a_swap() {
        let steps = steps("from: {repository: {secretName: s3}}", "", None);
        let shape: Vec<_> = steps.iter().map(|step| (step.spec.name.as_str(), step.spec.stage)).collect();
        // At every moment there is one database by the name, and it is whole.
        assert_eq!(shape, [("database", Stage::Online), ("swap", Stage::Offline(Interrupted::Whole))]);
        assert_eq!(steps[1].spec.args, ["swap-database", "--existing=refuse", "--scheduled-tasks=cancel"]);
        assert_eq!(steps[1].spec.undo, ["swap-database", "--back"]);
        assert!(steps[0].spec.args.contains(&"--restore=matrix/after-the-fire".to_owned()));
        // Whoever made it: the cluster that did is gone.
        assert!(!steps[0].spec.args.iter().any(|arg| arg.starts_with("--origin")), "{:?}", steps[0].spec.args);
    }

    #[test]
    fn a_backup_s_repository_and_origin_are_its_own() {
        let spec = serde_yaml_ng::from_str("{synapseRef: {name: a}, repository: {secretName: of-nightly}}").unwrap();
        let mut backup = SynapseBackup::new("nightly", spec);
        backup.metadata.uid = Some("uid-1".to_owned());
        let from = "from: {backupRef: {name: nightly}, before: '2026-01-31T03:30:00Z'}";
        let steps = steps(from, ", config: {}", Some(&backup));
        assert_eq!(steps[0].spec.mounts, [Mount::secret(pod::REPOSITORY, "of-nightly")]);
        assert!(steps[0].spec.args.contains(&"--origin=uid-1".to_owned()), "{:?}", steps[0].spec.args);
        // Preflight finds the one; the steps are told which.
        let check: Check = serde_json::from_str(steps[0].preflight.as_ref().unwrap()).unwrap();
        let before = "2026-01-31T03:30:00Z".parse().ok();
        assert!(matches!(check, Check::Restore(wanted) if wanted.source.before == before));
        assert!(!steps[0].spec.args.iter().any(|arg| arg.contains("snapshot") || arg.contains("before")), "{steps:?}");
    }

    const MAS: &str = ", matrixAuthenticationService: {workloads: {refs: [{kind: Deployment, name: mas}]}";

    #[test]
    fn who_has_another_service_for_logins_and_does_not_name_its_database_is_refused() {
        let spec = serde_yaml_ng::from_str("{synapseRef: {name: a}, from: {repository: {secretName: s3}}}").unwrap();
        let object = SynapseRestore::new("after-the-fire", spec);
        assert_eq!(object.refusal(&homeserver("")), None);
        let refusal = object.refusal(&homeserver(&format!("{MAS}}}"))).expect("it is refused");
        assert_eq!(refusal.reason, "AuthenticationNotNamed");
        for words in ["Set spec.matrixAuthenticationService.postgres of Synapse a", "by hand"] {
            assert!(refusal.message.contains(words), "{refusal:?}");
        }
        let named = format!("{MAS}, postgres: {{host: db, database: mas, credentials: {{secretName: mas}}}}}}");
        assert_eq!(object.refusal(&homeserver(&named)), None, "its manifest says whether the backup has it");
        let refused = |object: &SynapseRestore| object.refusal(&homeserver(&named)).map(|refusal| refusal.reason);
        let mut in_place = object.clone();
        in_place.spec.database.method = Method::InPlace;
        assert_eq!(refused(&in_place), Some("AuthenticationNotInPlace"));
        let mut of_dump = object.clone();
        of_dump.spec.from = serde_yaml_ng::from_str("{dump: {claim: {claimName: dumps, path: synapse.dump}}}").unwrap();
        assert_eq!(refused(&of_dump), Some("AuthenticationNotInBackup"), "a dump has Synapse's alone");
    }

    #[test]
    fn the_service_s_database_comes_back_with_it_and_every_step_has_what_it_needs_for_that() {
        let named = format!(
            "{MAS}, postgres: {{host: db, database: mas, credentials: {{secretName: mas}}, adminCredentials: {{secretName: admin}}, \
             dataVolume: {{claimName: data}}}}}}"
        );
        let steps = steps("from: {repository: {secretName: s3}}", &named, None);
        let check: Check = serde_json::from_str(steps[0].preflight.as_ref().unwrap()).unwrap();
        assert!(matches!(check, Check::Restore(wanted) if wanted.authentication_service.is_some()));
        let paths = |step: &RecipeStep| {
            let last = |mount: &Mount| mount.path.rsplit_once('/').unwrap().1.to_owned();
            step.spec.mounts.iter().map(last).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(paths(&steps[0]), "repository mas-postgres mas-postgres-admin mas-postgres-data");
        assert_eq!(paths(&steps[1]), "mas-postgres mas-postgres-admin");
        // Nobody starts on two databases of which one was swapped.
        assert_eq!(steps[1].spec.stage, Stage::Offline(Interrupted::OutOfStep));
        for args in [&steps[0].spec.args, &steps[1].spec.args, &steps[1].spec.undo] {
            for arg in ["--mas-database=mas", "--mas-admin-credentials-dir=/var/run/synapse-keeper/mas-postgres-admin"]
            {
                assert!(args.contains(&arg.to_owned()), "{arg} is not in {args:?}");
            }
        }
    }

    #[test]
    fn in_place_nobody_is_served_until_all_of_it_is_there() {
        let store = ", mediaStore: {claimName: synapse-media, path: media}";
        let steps = steps("from: {repository: {secretName: s3}}, database: {method: InPlace}", store, None);
        let shape: Vec<_> = steps.iter().map(|step| (step.spec.name.as_str(), step.spec.stage)).collect();
        assert_eq!(shape, [("media", Stage::Online), ("database", Stage::Offline(Interrupted::Unfinished))]);
        for arg in ["--method=in-place", "--scheduled-tasks=cancel"] {
            assert!(steps[1].spec.args.contains(&arg.to_owned()), "{:?}", steps[1].spec.args);
        }
        assert_eq!(steps[1].spec.undo, ["clear-database"]);
        let check: Check = serde_json::from_str(steps[1].preflight.as_ref().unwrap()).unwrap();
        assert!(matches!(check, Check::Restore(wanted) if wanted.method == Method::InPlace));
    }

    #[test]
    fn media_are_back_before_the_swap() {
        let store = ", mediaStore: {claimName: synapse-media, path: data/media}";
        let shape = |spec: &str, homeserver_has: &str| {
            let steps = steps(&format!("from: {{repository: {{secretName: s3}}}}{spec}"), homeserver_has, None);
            let names: Vec<String> = steps.iter().map(|step| step.spec.name.clone()).collect();
            (names.join(" "), steps)
        };
        let (names, steps) = shape("", store);
        assert_eq!(names, "database media swap");
        assert_eq!((steps[1].spec.stage, steps[1].spec.database), (Stage::Online, DatabaseAccess::None));
        assert_eq!(steps[1].spec.mounts[1], Mount::writable_claim("/var/run/synapse-keeper/media", "synapse-media"));
        let own = ["--media-store=/var/run/synapse-keeper/media/data/media", "--if-any"];
        assert_eq!(steps[1].spec.args[steps[1].spec.args.len() - 2..], own, "{:?}", steps[1].spec.args);
        let (names, steps) = shape(", contents: [Database, Media]", store);
        assert_eq!(names, "database media swap");
        assert!(!steps[1].spec.args.contains(&"--if-any".to_owned()), "who asks for them wants them");
        assert_eq!(shape(", contents: [Database]", store).0, "database swap");
        assert_eq!(shape("", "").0, "database swap");
    }
}
