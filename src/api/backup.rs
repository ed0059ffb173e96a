//! `SynapseBackup`: what a homeserver can be brought back from.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    clock,
    conditions::{self, Conditions, Type},
    deletion::{Deletion, DeletionPolicy},
    downtime::Downtime,
    exclude::Exclude,
    jobs::JobSettings,
    media,
    operation::{OperationStatus, Run, any_object},
    origins::{self, Adopter},
    references::SynapseRef,
    repository::Repository,
    retention::Retention,
    schedule::Schedule,
    verification::Verification,
};
use crate::contract::{BackupSnapshot, Coverage, OtherOrigin, Verdict};

/// Backups of a homeserver, once or on a schedule.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "synapse-keeper.dev",
    version = "v1alpha1",
    kind = "SynapseBackup",
    plural = "synapsebackups",
    shortname = "synbk",
    namespaced,
    status = "BackupStatus",
    category = "synapse-keeper",
    derive = "PartialEq",
    doc = "Backups of a Synapse homeserver in a restic repository, once or on a schedule.",
    validation = Rule::new("self.metadata.name.size() <= 52").message("metadata.name must have at most 52 characters: names of Jobs are made from it"),
    printcolumn(name = "Synapse", type_ = "string", json_path = ".spec.synapseRef.name"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.step"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Last-Success", type_ = "date", json_path = ".status.lastSuccessAt"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.snapshots[0].size"),
    printcolumn(name = "Snapshots", type_ = "integer", json_path = ".status.snapshotCount"),
    printcolumn(name = "Verified", type_ = "string", json_path = ".status.conditions[?(@.type==\"Verified\")].status"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule.cron", priority = 1),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextRunAt", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.schedule) == has(oldSelf.schedule)").message("a schedule can be neither added nor removed: make a new object").field_path(".schedule"))]
#[x_kube(validation = Rule::new("has(self.schedule) || (self.synapseRef == oldSelf.synapseRef && self.repository == oldSelf.repository && self.quiesce == oldSelf.quiesce && self.downtime == oldSelf.downtime && has(self.contents) == has(oldSelf.contents) && (!has(self.contents) || self.contents == oldSelf.contents) && self.remoteMedia == oldSelf.remoteMedia && has(self.exclude) == has(oldSelf.exclude) && (!has(self.exclude) || self.exclude == oldSelf.exclude))").message("a backup without a schedule runs once and is immutable: make a new object"))]
#[x_kube(validation = Rule::new("self.downtime.allowed || !self.quiesce").message("quiesce takes the homeserver down: set downtime.allowed to true or quiesce to false"))]
#[x_kube(validation = Rule::new("!has(self.contents) || 'Database' in self.contents").message("contents must have Database: media and configuration alone do not bring a homeserver back, and what they belong to is known from the database"))]
#[x_kube(validation = Rule::new("!self.remoteMedia || !has(self.contents) || 'Media' in self.contents").message("remoteMedia is about Media: put Media into contents"))]
pub struct SynapseBackupSpec {
    /// The homeserver.
    #[x_kube(validation = Rule::new("self == oldSelf").message("synapseRef is immutable"))]
    pub synapse_ref: SynapseRef,
    /// Where to. Several homeservers may share one.
    pub repository: Repository,
    /// What is backed up; without it all that the `Synapse` object names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub contents: Option<Vec<Content>>,
    /// Takes along what Synapse has fetched from other homeservers too. It can fetch most of it again.
    #[serde(default)]
    pub remote_media: bool,
    /// What of Synapse's database is left out: schemas and tables of other programs, such as the log of a bridge. Of Synapse's own
    /// nothing can be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude: Option<Exclude>,
    /// When to run. Without it: once, at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Starts no new run. One that is under way goes on to its end.
    #[serde(default)]
    pub suspend: bool,
    /// Which backups are kept; without it all of them. Days and weeks are those of `schedule.timeZone`. Old ones go only after
    /// a new one has succeeded, and the newest one never goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// When the newest backup is restored by a drill into a PostgreSQL that is thrown away. Without it: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verification>,
    /// What becomes of the backups when this object is deleted. Delete: they go out of the repository first, and the object waits
    /// for that. What is there when it is deleted counts, so Retain lets one go that waits.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Takes the homeserver down meanwhile. It need not be: the backup is of one moment either way.
    #[serde(default)]
    pub quiesce: bool,
    /// How long users may be locked out, with `quiesce`.
    #[serde(default)]
    pub downtime: Downtime,
    /// How the Jobs look, where it differs from the `Synapse` object.
    #[serde(default)]
    pub jobs: JobSettings,
}

/// A part of a homeserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Content {
    Database,
    /// The files that its users uploaded (`spec.mediaStore` of the `Synapse` object).
    Media,
    /// Its Secrets and ConfigMaps (`spec.config` of the `Synapse` object).
    Config,
}

/// What every operation has, and the backups that there are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BackupStatus {
    #[serde(flatten)]
    pub operation: OperationStatus,
    /// The moment of the newest backup, by PostgreSQL's clock; never later than when the backup was seen. The newest is that of the
    /// last run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_success_at: Option<Time>,
    /// How many backups of this object the repository holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_count: Option<i64>,
    /// The newest of them first; the rest is left out behind the first twenty. As the repository had them at the end of the
    /// last run that succeeded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub snapshots: Vec<BackupSnapshot>,
    /// The moment of the newest backup that was restored by a drill and found whole, by PostgreSQL's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verified_at: Option<Time>,
    /// Other objects' backups of the same homeserver in the repository. They are left alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub other_origins: Vec<OtherOrigin>,
    /// How the Jobs of the last run looked: the Synapse object may be gone when this one's data are to go.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub jobs: Option<JobSettings>,
    /// The deletion of the data, where the object is being deleted with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
    /// The drills, an operation beside that of the backups, with the same fields. The condition `Verified` has what came of
    /// the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub verification: Option<Box<OperationStatus>>,
}

impl BackupStatus {
    /// Takes the engine's memory, and from a step that listed the repository what it saw.
    pub fn absorb(&mut self, mut operation: OperationStatus, adopter: &Adopter) {
        let OperationStatus { run, conditions, plan, .. } = &mut operation;
        if let Some(run) = run {
            for found in plan.iter_mut().filter_map(|step| step.media.take()) {
                media::report(conditions, &found, "the media store", run.generation, run.started_at.0);
            }
            self.jobs = run.synapse.as_ref().map(|pinned| pinned.spec.jobs.clone()).or(self.jobs.take());
            for step in &mut run.steps {
                if let Some(coverage) = step.result.as_mut().and_then(|result| result.coverage.take()) {
                    let seen_at = step.finished_at.as_ref().unwrap_or(&run.started_at);
                    tell_coverage(conditions, &coverage, run.generation, seen_at.0);
                }
                let Some(listed) = step.result.as_mut().and_then(|result| result.backups.take()) else { continue };
                let seen_at = step.finished_at.as_ref().unwrap_or(&run.started_at);
                origins::tell(conditions, &listed.others, adopter, run.generation, seen_at.0);
                let newest = listed.newest.first().and_then(|newest| newest.taken_at.as_ref());
                self.last_success_at = newest.map(|taken_at| taken_at.min(seen_at).clone());
                clock::report(conditions, &listed.newest, run.generation, seen_at.0);
                self.snapshot_count = Some(listed.count);
                self.last_verified_at = listed.verified.map(|verified| verified.min(seen_at.clone()));
                self.snapshots = listed.newest;
                self.other_origins = listed.others;
            }
        }
        self.operation = operation;
    }

    /// Takes the engine's memory of the drills. The one that ends with it leaves a word about the backups.
    pub fn absorb_drill(&mut self, drill: OperationStatus) {
        let was_under_way = self.verification.as_ref().is_some_and(|before| before.active_run().is_some());
        if let Some(run) = drill.run.as_deref().filter(|_| was_under_way) {
            self.conclude(run);
        }
        self.say_what_keeps(&drill);
        self.verification = Some(Box::new(drill));
    }

    /// A drill that cannot run proves nothing, so what was proved before is not said any more. What was found damaged still is.
    /// When drills can run again, the last one has its say again.
    fn say_what_keeps(&mut self, drill: &OperationStatus) {
        let conditions = &mut self.operation.conditions;
        let Some(ready) = conditions::find(&drill.conditions, Type::Ready) else { return };
        let cannot_be_followed = conditions::is_true(&drill.conditions, Type::Stalled);
        let does_not_start = drill.active_run().is_some() && ready.reason == "PodDoesNotStart";
        if cannot_be_followed || does_not_start {
            if !conditions::is_false(conditions, Type::Verified) {
                let since = ready.last_transition_time.0;
                let generation = ready.observed_generation.unwrap_or_default();
                Conditions::new(conditions, generation, since).set_unknown(
                    Type::Verified,
                    &ready.reason,
                    &format!("no drill can run: {}", ready.message),
                );
            }
            return;
        }
        let verified = conditions::find(conditions, Type::Verified);
        if verified.is_some_and(|verified| matches!(verified.reason.as_str(), "InvalidCron" | "UnknownTimeZone")) {
            conditions.retain(|condition| condition.type_ != Type::Verified.as_str());
            if let Some(last) = &drill.run {
                self.conclude(last);
            }
        }
    }

    /// What a drill that has ended says of the backups. One that came to no verdict says nothing good: and nothing good is
    /// said of a backup that was found damaged, until another is found whole.
    fn conclude(&mut self, run: &Run) {
        let Some(ended) = &run.finished_at else { return };
        let mut results = run.steps.iter().filter_map(|step| step.result.as_ref());
        let verdict = results.find_map(|result| Some((result.verdict.as_ref()?, &result.summary)));
        if let Some((verdict, _)) = verdict {
            self.note(verdict, ended);
        }
        for found in run.steps.iter().filter_map(|step| step.result.as_ref()?.media.as_ref()) {
            media::report(&mut self.operation.conditions, found, "the newest backup", run.generation, ended.0);
        }
        let was_damaged = conditions::is_false(&self.operation.conditions, Type::Verified);
        let mut conditions = Conditions::new(&mut self.operation.conditions, run.generation, ended.0);
        match (verdict, &run.failure) {
            (Some((Verdict { is_whole: true, .. }, summary)), None) => {
                conditions.set(Type::Verified, true, "Verified", summary);
            }
            (Some((Verdict { is_whole: false, .. }, _)), Some(failure)) => {
                conditions.set(Type::Verified, false, &failure.reason, &failure.message);
            }
            (_, Some(failure)) if !was_damaged => {
                conditions.set_unknown(Type::Verified, &failure.reason, &failure.message);
            }
            _ => {}
        }
    }

    fn note(&mut self, verdict: &Verdict, at: &Time) {
        let of_it = self.snapshots.iter_mut().filter(|snapshot| snapshot.id == verdict.snapshot);
        of_it.for_each(|snapshot| snapshot.verified_at = verdict.is_whole.then(|| at.clone()));
        if verdict.is_whole {
            // The order of the list is that of the runs. What is not in it any more has its moment.
            let listed = self.snapshots.iter().find(|snapshot| snapshot.verified_at.is_some());
            let listed = listed.and_then(|snapshot| snapshot.taken_at.clone());
            let newest = listed.or_else(|| self.last_verified_at.take().max(verdict.taken_at.clone()));
            self.last_verified_at = newest.map(|newest| newest.min(at.clone()));
        } else {
            let whole = self.snapshots.iter().filter(|snapshot| snapshot.verified_at.is_some());
            self.last_verified_at = whole.filter_map(|snapshot| snapshot.taken_at.clone()).next();
        }
    }
}

/// Says what a restore does not bring back, from preflight on, until a restore brings back all of the database.
fn tell_coverage(conditions: &mut Vec<Condition>, coverage: &Coverage, generation: i64, now: Timestamp) {
    let mut conditions = Conditions::new(conditions, generation, now);
    let left_out = (!coverage.not_restored.is_empty())
        .then(|| format!("A restore does not bring back {}", coverage.not_restored.join("; ")));
    let message = coverage.superuser_needed.iter().cloned().chain(left_out).collect::<Vec<_>>().join(" ");
    match (coverage.superuser_needed.is_empty(), message.is_empty()) {
        (_, true) => conditions.clear(Type::NotAllRestored),
        (true, false) => conditions.set(Type::NotAllRestored, true, "PartsLeftOut", &message),
        (false, false) => conditions.set(Type::NotAllRestored, true, "SuperuserNeeded", &message),
    };
}
