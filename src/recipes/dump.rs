//! The step that restores a dump of somebody else's.

use std::path::Path;

use super::{
    RecipeStep,
    repository::{MEMORY_LIMIT, mounts, place},
};
use crate::{
    api::{
        SynapseSpec,
        dump::DumpSource,
        mounts::Mount,
        operation::{DatabaseAccess, StepSpec},
    },
    contract::pod::DUMP,
    task::{
        dump::{Source, Wanted},
        preflight::Check,
        restore::Terms,
    },
};

/// Beside the database that serves.
pub fn database(dump: &DumpSource, homeserver: &SynapseSpec, terms: Terms, administrator: Option<Mount>) -> RecipeStep {
    let place = dump.repository.as_ref().map(place);
    let source = Source {
        dump: match &dump.claim {
            Some(claim) => Path::new(DUMP).join(&claim.path),
            None => dump.path.clone().unwrap_or_default().into(),
        },
        repository: place.as_ref().and_then(|place| place.repository.clone()),
        repository_dir: place.map(|place| place.repository_dir),
        snapshot: dump.snapshot.clone().unwrap_or_else(|| "latest".to_owned()),
    };
    let claim = dump.claim.iter().map(|claim| Mount::readable_claim(DUMP, &claim.claim_name));
    let repository = dump.repository.iter().flat_map(mounts);
    let wanted = Wanted { source, server_name: homeserver.server_name.clone(), terms };
    RecipeStep {
        spec: StepSpec {
            name: "database".to_owned(),
            args: [vec!["restore-dump".to_owned()], wanted.to_args()].concat(),
            database: DatabaseAccess::WithDisk,
            mounts: claim.chain(repository).chain(administrator).collect(),
            memory_limit: Some(MEMORY_LIMIT.to_owned()),
            ..StepSpec::default()
        },
        preflight: Some(Check::RestoreDump(Box::new(wanted)).to_json()),
        ..RecipeStep::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::restore::Existing, contract::pod, recipes::tests::homeserver, task::restore::Administrator};

    fn step(dump: &str) -> RecipeStep {
        let dump: DumpSource = serde_yaml_ng::from_str(dump).unwrap();
        let terms = Terms {
            administrator: Administrator::default(),
            restore: "matrix/r".to_owned(),
            existing: Existing::Rename,
            free_space: None,
            synapse_schema: None,
        };
        database(&dump, &homeserver(""), terms, Some(Mount::secret("/admin", "pg-admin")))
    }

    #[test]
    fn a_dump_on_a_claim_is_mounted_to_read() {
        let step = step("claim: {claimName: dumps, path: 2026/synapse.dump}");
        assert_eq!(step.spec.mounts, [Mount::readable_claim(DUMP, "dumps"), Mount::secret("/admin", "pg-admin")]);
        let args =
            ["restore-dump", "--dump=/var/run/synapse-keeper/dump/2026/synapse.dump", "--server-name=example.org"];
        assert_eq!(step.spec.args[..3], args);
        assert!(step.spec.args.contains(&"--existing=rename".to_owned()) && !step.spec.stage.is_offline());
    }

    #[test]
    fn of_a_repository_preflight_finds_the_snapshot() {
        let step = step(
            "{repository: {volume: {claimName: backups}, passwordSecret: {name: p, key: k}}, snapshot: abcd, path: /a.sql.gz}",
        );
        let sources: Vec<&str> = step.spec.mounts.iter().map(|mount| mount.path.as_str()).collect();
        assert_eq!(sources, [pod::REPOSITORY, pod::REPOSITORY_VOLUME, "/admin"]);
        let check: Check = serde_json::from_str(step.preflight.as_ref().unwrap()).unwrap();
        assert!(matches!(check, Check::RestoreDump(wanted) if wanted.source.snapshot == "abcd"
            && wanted.source.repository.is_some()));
        assert!(step.spec.args.contains(&"--dump=/a.sql.gz".to_owned()), "{:?}", step.spec.args);
        assert!(!step.spec.args.iter().any(|arg| arg.contains("snapshot")), "{:?}", step.spec.args);
    }
}
