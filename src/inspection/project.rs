//! What was found, as status and conditions. Each wrong thing is a condition that says what to do.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::serving;
use crate::{
    api::{
        conditions::{self, Conditions, Type},
        synapse::{Locale, SynapseStatus, WorkloadRef},
    },
    bytes,
    contract::{DatabaseLeft, ErrorClass, InspectionFindings, TaskError},
    inspection::seen::Seen,
    postgres::connect::OLDEST_POSTGRES,
    recipes::Refusal,
    synapse::{database, schema::Missing},
};

/// Takes over what an inspection found.
pub fn found(status: &mut SynapseStatus, generation: i64, findings: InspectionFindings, now: Timestamp) {
    let facts = findings.clone();
    if let Some(inspection) = &mut status.inspection {
        inspection.error_class = None;
    }
    // While it does not answer, the version that it last told stays.
    status.synapse_version = facts.synapse_version.or(status.synapse_version.take());
    status.schema_version = facts.schema_version;
    status.schema_compat_version = facts.schema_compat_version;
    // "15.20 (Debian 15.20-0+deb12u1)": what the distribution calls it is nobody's question here.
    status.postgres_version = facts.postgres_version.split_whitespace().next().map(str::to_owned);
    status.locale = Some(Locale { encoding: facts.encoding, collate: facts.collate, ctype: facts.ctype });
    status.database_bytes = Some(facts.database_bytes);
    status.database_size = Some(bytes::human(facts.database_bytes));
    status.dead_rows = Some(facts.dead_rows);
    status.largest_tables = facts.largest_tables;
    status.pending_background_updates = facts.pending_background_updates;
    status.inconsistent_sequences = facts.inconsistent_sequences;
    status.left_databases = facts.left_databases;
    status.unused_rooms = facts.unused_rooms;
    status.uncensored_redactions = facts.uncensored_redactions;
    status.inspected_at = facts.inspected_at.or(Some(Time(now)));

    let mut conditions = Conditions::new(&mut status.conditions, generation, now);
    reachable(&mut conditions, &findings);
    locale(&mut conditions, &findings);
    sequences(&mut conditions, &findings);
    background_updates(&mut conditions, &findings);
    postgres_version(&mut conditions, &findings);
    matches(&mut conditions, &findings);
    whole(&mut conditions, &findings);
    owned(&mut conditions, &findings);
    synapse_answers(&mut conditions, &findings);
    left_databases(&mut conditions, &findings.left_databases);
}

/// They take disk, and nothing else is wrong with them: the homeserver is as well as without.
fn left_databases(conditions: &mut Conditions<'_>, left: &[DatabaseLeft]) {
    if left.is_empty() {
        conditions.clear(Type::DatabasesLeft);
        return;
    }
    let each = left.iter().map(|left| {
        let by = left.restore.as_ref().map_or_else(|| "a restore".to_owned(), |restore| format!("restore {restore}"));
        format!("{left} was made by {by}, which did not succeed. Nobody uses it: {};", left.drop_statement())
    });
    let message = format!(
        "{} On a disk that is full, drop what is in it first (docs/restore.md)",
        each.collect::<Vec<_>>().join(" ")
    );
    conditions.set(Type::DatabasesLeft, true, "LeftByRestore", &message);
}

/// `adminApi` is not given: nobody asks Synapse for its version, so what it once told is not known any more.
pub fn forget_synapse(status: &mut SynapseStatus) {
    status.synapse_version = None;
    status.conditions.retain(|condition| condition.type_ != Type::SynapseAnswers.as_str());
}

/// The inspection came to no result. What was known stays, with its age; what is not known any more says so.
pub fn failed(status: &mut SynapseStatus, generation: i64, error: &TaskError, now: Timestamp) {
    if let Some(inspection) = &mut status.inspection {
        inspection.error_class = Some(error.class);
    }
    Conditions::new(&mut status.conditions, generation, now).set(
        Type::DatabaseReachable,
        false,
        &error.reason,
        &error.message,
    );
}

/// As many workloads are named in a message.
const NAMED: usize = 10;

/// Takes over which workloads there are. What is wrong with them shows before the night of the first run.
pub fn workloads(
    status: &mut SynapseStatus,
    generation: i64,
    found: &Result<Vec<WorkloadRef>, Refusal>,
    now: Timestamp,
) {
    let mut conditions = Conditions::new(&mut status.conditions, generation, now);
    match found {
        Ok(found) => {
            let mut named: Vec<String> = found.iter().take(NAMED).map(ToString::to_string).collect();
            if found.len() > NAMED {
                named.push(format!("{} more", found.len() - NAMED));
            }
            conditions.set(Type::WorkloadsFound, true, "Found", &named.join(", "));
        }
        Err(Refusal { reason, message }) => drop(conditions.set(Type::WorkloadsFound, false, reason, message)),
    }
}

/// Whether the workloads want to be looked at: not yet seen since the last change of the object, or something is wrong with
/// them, which changes without it.
pub fn looks_for_workloads(status: &SynapseStatus, generation: i64) -> bool {
    let found = conditions::find(&status.conditions, Type::WorkloadsFound);
    found.is_none_or(|found| found.status != "True" || found.observed_generation != Some(generation))
}

fn reachable(conditions: &mut Conditions<'_>, findings: &InspectionFindings) {
    if findings.in_recovery {
        let message = "postgres.host is a standby: nothing can be written there. Point it at the primary";
        conditions.set(Type::DatabaseReachable, false, "Standby", message);
    } else if findings.schema_version.is_none() {
        let message = "the database has no Synapse schema: correct postgres.database, or start Synapse once";
        conditions.set(Type::DatabaseReachable, false, "NoSynapseSchema", message);
    } else {
        let message = match findings.warnings.is_empty() {
            true => format!("PostgreSQL {} answers", findings.postgres_version),
            false => format!("PostgreSQL {} answers. {}", findings.postgres_version, findings.warnings.join(". ")),
        };
        conditions.set(Type::DatabaseReachable, true, "Reachable", &message);
    }
}

/// Synapse refuses anything but UTF8, C, C unless `allow_unsafe_locale` is set, and then a glibc upgrade can corrupt its
/// indexes (element-hq/synapse#6722).
fn locale(conditions: &mut Conditions<'_>, findings: &InspectionFindings) {
    let InspectionFindings { encoding, collate, ctype, .. } = findings;
    if database::accepts(encoding, collate, ctype) {
        conditions.set(Type::LocaleSafe, true, "Utf8AndC", "encoding UTF8, collation C, ctype C");
        return;
    }
    let message = format!(
        "encoding {encoding}, collation {collate}, ctype {ctype}: Synapse wants UTF8, C, C. A change of the operating system's \
         locale data can corrupt the indexes: move the data to a database made with ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    );
    conditions.set(Type::LocaleSafe, false, "UnsafeLocale", &message);
}

fn sequences(conditions: &mut Conditions<'_>, findings: &InspectionFindings) {
    match findings.inconsistent_sequences.as_slice() {
        [] => conditions.set(
            Type::SequencesConsistent,
            true,
            "Consistent",
            "every sequence is ahead of its tables and its stream positions",
        ),
        behind => {
            let message = format!(
                "{}. Synapse may refuse to start. Do not delete rows of stream_positions; move the sequences forward",
                behind.join("; ")
            );
            conditions.set(Type::SequencesConsistent, false, "SequenceBehind", &message)
        }
    };
}

fn background_updates(conditions: &mut Conditions<'_>, findings: &InspectionFindings) {
    match findings.pending_background_updates.as_slice() {
        [] => conditions.set(Type::BackgroundUpdatesDone, true, "Done", "Synapse has no background update left to do"),
        pending => {
            let message = format!(
                "Synapse still has to do: {}. Let it run; if the list does not get shorter, look into its log",
                pending.join(", ")
            );
            conditions.set(Type::BackgroundUpdatesDone, false, "Pending", &message)
        }
    };
}

fn postgres_version(conditions: &mut Conditions<'_>, findings: &InspectionFindings) {
    let version = &findings.postgres_version;
    if findings.postgres_version_num >= OLDEST_POSTGRES {
        conditions.set(Type::PostgresSupported, true, "Supported", &format!("PostgreSQL {version}"));
    } else {
        let message = format!("Synapse needs PostgreSQL 14 or newer, this is {version}: upgrade PostgreSQL");
        conditions.set(Type::PostgresSupported, false, "TooOld", &message);
    }
}

fn matches(conditions: &mut Conditions<'_>, findings: &InspectionFindings) {
    match &findings.foreign_server {
        None => {
            conditions.set(Type::DatabaseMatches, true, "ServerNameAgrees", "no user of another homeserver was found");
        }
        Some(foreign) => {
            let message = format!(
                "{foreign}: correct postgres.host or postgres.database; if spec.serverName is wrong, make the object anew"
            );
            conditions.set(Type::DatabaseMatches, false, "ServerNameDiffers", &message);
        }
    }
}

/// Without its state, a homeserver that comes back knows of no room who is in it.
fn whole(conditions: &mut Conditions<'_>, findings: &InspectionFindings) {
    match Missing::named(findings.missing_tables.clone()) {
        None if findings.schema_version.is_none() => conditions.clear(Type::DatabaseWhole),
        None => {
            conditions.set(Type::DatabaseWhole, true, "Whole", "the tables of a whole homeserver are in the database")
        }
        Some(missing) => {
            let message = format!("{}. It is not backed up, and nothing is restored into it", missing.message());
            conditions.set(Type::DatabaseWhole, false, missing.reason(), &message)
        }
    };
}

/// VACUUM leaves alone what the role does not own.
fn owned(conditions: &mut Conditions<'_>, findings: &InspectionFindings) {
    match &findings.foreign_tables {
        None => conditions.set(Type::TablesOwned, true, "Owned", "the role has the rights of every table's owner"),
        Some(foreign) => {
            let message = format!(
                "{foreign}: name the role that owns Synapse's tables in postgres.credentials, or ALTER TABLE … OWNER TO it"
            );
            conditions.set(Type::TablesOwned, false, "ForeignOwner", &message)
        }
    };
}

fn synapse_answers(conditions: &mut Conditions<'_>, findings: &InspectionFindings) {
    if let Some(version) = &findings.synapse_version {
        conditions.set(Type::SynapseAnswers, true, "Answers", &format!("Synapse {version} answers"));
    } else if let Some(error) = &findings.synapse_version_error {
        let message = format!(
            "Synapse does not tell its version: {error}. Is it running, is adminApi.url its main process, and does a \
             NetworkPolicy let the Job's Pod through?"
        );
        conditions.set(Type::SynapseAnswers, false, "NoAnswer", &message);
    }
}

/// What has to be true for `Ready`, in the order in which it gives its reason.
const GOOD: [Type; 11] = [
    Type::WorkloadsFound,
    Type::DatabaseReachable,
    Type::Serving,
    Type::PostgresSupported,
    Type::DatabaseMatches,
    Type::DatabaseWhole,
    Type::TablesOwned,
    Type::LocaleSafe,
    Type::SequencesConsistent,
    Type::SynapseAnswers,
    Type::BackgroundUpdatesDone,
];

/// What is not as it should be.
fn wrong(status: &SynapseStatus) -> impl Iterator<Item = (Type, &Condition)> {
    let found = GOOD.into_iter().filter_map(|type_| Some((type_, conditions::find(&status.conditions, type_)?)));
    found.filter(|(_, condition)| condition.status == "False")
}

/// Since when what an inspection found wrong is as it is; `None`: all is well.
pub fn wrong_since(status: &SynapseStatus) -> Option<Timestamp> {
    // The workloads are looked at without an inspection.
    let inspected = wrong(status).filter(|(type_, _)| ![Type::WorkloadsFound, Type::Serving].contains(type_));
    inspected.map(|(_, condition)| condition.last_transition_time.0).max()
}

/// Whether it can get well without a person.
fn may_pass(status: &SynapseStatus, type_: Type) -> bool {
    match type_ {
        Type::DatabaseReachable => {
            let class = status.inspection.as_ref().and_then(|inspection| inspection.error_class);
            class == Some(ErrorClass::Transient)
        }
        Type::Serving | Type::SynapseAnswers | Type::BackgroundUpdatesDone => true,
        Type::WorkloadsFound => {
            let reason = conditions::find(&status.conditions, type_).map(|found| found.reason.as_str());
            // Whoever applies all at once has the homeserver itself a moment later.
            matches!(reason, Some("WorkloadsNotFound" | "WorkloadNotFound"))
        }
        _ => false,
    }
}

/// `Ready`: all that was seen is well. The first thing that is not gives the reason. `Stalled` only for what a person must
/// change: kstatus reads it as failed.
pub fn ready(status: &mut SynapseStatus, seen: &Seen, now: Timestamp) {
    let under_way = status.inspection.as_ref().is_none_or(|inspection| inspection.finished_at.is_none());
    let first = status.inspected_at.is_none();
    let bad = wrong(status).next().map(|(_, condition)| condition.clone());
    let stalled = wrong(status).find(|(type_, _)| !may_pass(status, *type_)).map(|(_, condition)| condition.clone());
    let mut healthy = "all that was looked at is well".to_owned();
    if !status.left_databases.is_empty() {
        let left: Vec<String> = status.left_databases.iter().map(ToString::to_string).collect();
        healthy.push_str(&format!("; left by a restore: {}", left.join(", ")));
    }
    let not_served = status.not_served_since.as_ref().map(serving::not_served);
    let mut conditions = Conditions::new(&mut status.conditions, seen.generation, now);
    if let Some(message) = &seen.kept_down {
        let message = &not_served.map_or_else(|| message.clone(), |since| format!("{since}: {message}"));
        conditions
            .set(Type::Ready, false, "DatabaseUnfinished", message)
            .set(Type::Stalled, true, "DatabaseUnfinished", message)
            .clear(Type::Reconciling);
        return;
    }
    if seen.suspended {
        conditions
            .set(
                Type::Ready,
                false,
                "Suspended",
                "spec.suspend is true, or the operator is being uninstalled: nothing new is started",
            )
            .clear(Type::Reconciling)
            .clear(Type::Stalled);
        return;
    }
    match bad {
        Some(bad) => {
            conditions.set(Type::Ready, false, &bad.reason, &bad.message);
            match stalled {
                Some(stalled) => {
                    conditions.set(Type::Stalled, true, &stalled.reason, &stalled.message).clear(Type::Reconciling)
                }
                None => conditions.set(Type::Reconciling, true, &bad.reason, &bad.message).clear(Type::Stalled),
            };
        }
        None if first && under_way => {
            let message = "the first inspection is under way";
            conditions
                .set(Type::Ready, false, "Inspecting", message)
                .set(Type::Reconciling, true, "Inspecting", message)
                .clear(Type::Stalled);
        }
        None if first => {
            let message = "waits for the first inspection";
            conditions
                .set(Type::Ready, false, "Waiting", message)
                .set(Type::Reconciling, true, "Waiting", message)
                .clear(Type::Stalled);
        }
        None => {
            conditions.set(Type::Ready, true, "Healthy", &healthy).clear(Type::Reconciling).clear(Type::Stalled);
        }
    }
}
