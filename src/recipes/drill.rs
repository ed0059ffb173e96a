//! The recipe of a drill: it restores the newest backup of a `SynapseBackup` into a PostgreSQL that is thrown away.
//!
//! A [`Drill`] is the same object as its backup with another part of it for the engine to drive, on another schedule. Both
//! write the one status: each reads the object, changes its own part and is refused if the object has changed meanwhile.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::NamespaceResourceScope};
use serde::{Deserialize, Serialize};

use super::{
    Need, Operation, RecipeStep, Request, Sight, Wait,
    lane::{self, Lane},
    repository::{MEMORY_LIMIT, mounts, place},
};
use crate::{
    api::{
        SynapseBackup,
        operation::{DatabaseAccess, OperationStatus, StepSpec},
        verification::{Duty, OwnSynapse},
    },
    contract::pod::{SCRATCH_SOCKET, SYNAPSE},
    task::restore::Source,
};

/// A backup, as its drills see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Drill(pub SynapseBackup);

impl Resource for Drill {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        SynapseBackup::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        SynapseBackup::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        SynapseBackup::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        SynapseBackup::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

impl Operation for Drill {
    const NAME: &'static str = "Drill";
    const LANE: &'static Lane = &lane::DRILL;
    const CHANGES_DATABASE: bool = false;

    fn request(&self) -> Request {
        let spec = &self.0.spec;
        Request {
            synapse: spec.synapse_ref.name.clone(),
            schedule: spec.verify.as_ref().map(|verify| verify.schedule.clone()),
            suspend: spec.suspend,
            jobs: spec.jobs.clone(),
            image: if spec.verify.as_ref().is_some_and(|verify| verify.synapse) { Need::Must } else { Need::Not },
            waits_for: self.waits_for(),
            ..Request::default()
        }
    }

    fn steps(&self, Sight { homeserver, image, .. }: Sight<'_>) -> Vec<RecipeStep> {
        let Some(verify) = &self.0.spec.verify else { return Vec::new() };
        let newest = self.0.status.as_ref().and_then(|status| status.snapshots.first());
        let Some((newest, major)) = newest.and_then(|newest| Some((newest, newest.postgres_major?))) else {
            return Vec::new();
        };
        let mut args = vec!["verify".to_owned()];
        let source = Source {
            place: place(&self.0.spec.repository),
            server_name: homeserver.server_name.clone(),
            origins: self.0.origins(),
            snapshot: newest.id.clone(),
            before: None,
        };
        args.extend(source.to_args());
        args.extend([
            format!("--snapshot={}", newest.id),
            format!("--socket={SCRATCH_SOCKET}"),
            format!("--media={}", verify.media),
        ]);
        let own_synapse = image.map(|image| OwnSynapse { image: image.clone(), duty: Duty::Serves });
        args.extend(own_synapse.iter().map(|_| format!("--synapse-place={SYNAPSE}")));
        vec![RecipeStep {
            spec: StepSpec {
                name: "verify".to_owned(),
                args,
                database: DatabaseAccess::None,
                mounts: mounts(&self.0.spec.repository),
                server: Some(verify.server(major)),
                own_synapse,
                memory_limit: Some(MEMORY_LIMIT.to_owned()),
                ..StepSpec::default()
            },
            ..RecipeStep::default()
        }]
    }

    fn synapse(&self) -> &str {
        &self.0.spec.synapse_ref.name
    }

    fn status(&self) -> Option<&OperationStatus> {
        self.0.status.as_ref()?.verification.as_deref()
    }

    fn has_run(&self) -> bool {
        self.0.has_run()
    }

    fn set_status(&mut self, status: OperationStatus) {
        self.0.status.get_or_insert_default().absorb_drill(status);
    }

    fn memories(&mut self) -> Vec<&mut OperationStatus> {
        self.0.memories()
    }
}

impl Drill {
    /// Why none may begin.
    fn waits_for(&self) -> Option<Wait> {
        if self.0.spec.verify.is_none() {
            return Some(Wait { reason: "NoDrill", message: "spec.verify is not there: no drill begins" });
        }
        let newest = self.0.status.as_ref().and_then(|status| status.snapshots.first());
        let is_known = newest.is_some_and(|newest| newest.postgres_major.is_some());
        (!is_known).then_some(Wait { reason: "NoBackupYet", message: "there is no backup yet to verify" })
    }
}

#[cfg(test)]
mod tests;
