use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{
        conditions::{self, Type},
        operation::Outcome,
        verification::SynapseImage,
    },
    operation::{
        observed::{JobLeft, JobState, LeaseState, Observed, ObservedJob, ObservedSynapse, Subject},
        plan::{Action, plan},
        reconcile::subject,
    },
    recipes::tests::homeserver,
    task::report::{Report, StepResult, TaskError, Verdict},
};

/// Two days after its backup was made.
const NOW: &str = "2026-11-24T05:00:10Z";

fn backup(spec: &Value, status: &Value) -> Drill {
    let mut fields =
        json!({"synapseRef": {"name": "example"}, "repository": {"secretName": "s3"}, "schedule": {"cron": "@daily"}});
    fields.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "synapse-keeper.dev/v1alpha1", "kind": "SynapseBackup",
        "metadata": {
            "name": "nightly", "namespace": "matrix", "uid": "uid-1", "generation": 3,
            "creationTimestamp": "2026-11-22T00:00:00Z", "finalizers": ["synapse-keeper.dev/replicas"],
        },
        "spec": fields, "status": status,
    }))
    .unwrap()
}

/// At five each morning, with a backup that there is.
fn due() -> Drill {
    backup(
        &json!({"verify": {"cron": "0 5 * * *"}}),
        &json!({"snapshots": [newest()], "lastSuccessAt": newest()["takenAt"]}),
    )
}

fn newest() -> Value {
    json!({"id": "abc", "takenAt": "2026-11-22T02:00:00Z", "postgresMajor": 15})
}

fn observed(drill: &Drill) -> Observed {
    let spec = homeserver("");
    let steps = drill.steps(Sight::of(&spec));
    let synapse = ObservedSynapse { uid: "s".to_owned(), generation: 1, deleting: false, spec };
    Observed { synapse: Some(synapse), steps, image: "tools".to_owned(), ..Default::default() }
}

/// One turn of a reconcile: the status is written.
fn turn(drill: &mut Drill, observed: &Observed) -> Action {
    let planned = plan(&subject(drill), observed, NOW.parse().unwrap());
    drill.set_status(planned.status);
    planned.action
}

/// A drill whose Job has ended with this report, up to what follows.
fn ended(report: Report) -> Drill {
    let mut drill = due();
    let mut observed = observed(&drill);
    assert_eq!(turn(&mut drill, &observed), Action::Continue, "it starts");
    assert_eq!(turn(&mut drill, &observed), Action::Continue, "it is on record");
    assert_eq!(turn(&mut drill, &observed), Action::CreateJob(0));
    let state = match report.error {
        None => JobState::Complete,
        Some(_) => JobState::Failed("BackoffLimitExceeded".to_owned()),
    };
    observed.job = Some(ObservedJob::of(state, Some(report)));
    assert_eq!(turn(&mut drill, &observed), Action::Continue, "its result is on record");
    observed.job = None;
    let left = |is_going| vec![JobLeft { name: "nightly-verify".to_owned(), is_going }];
    observed.jobs_left = left(false);
    while turn(&mut drill, &observed) != Action::ClearJobs {}
    observed.jobs_left = left(true);
    assert!(matches!(turn(&mut drill, &observed), Action::Wait(_)), "until its volumes are gone");
    observed.jobs_left = Vec::new();
    while drill.status().unwrap().active_run().is_some() {
        assert_eq!(turn(&mut drill, &observed), Action::Continue);
    }
    drill
}

fn found(is_whole: bool) -> StepResult {
    let taken_at = Some(Time("2026-11-22T02:00:00Z".parse().unwrap()));
    let verdict = Verdict { snapshot: "abc".to_owned(), taken_at, is_whole };
    StepResult { summary: "restored all".to_owned(), verdict: Some(verdict), ..StepResult::default() }
}

fn verified(drill: &Drill) -> (String, String, String) {
    let status = drill.0.status.as_ref().unwrap();
    let condition = conditions::find(&status.operation.conditions, Type::Verified).expect("it is told");
    (condition.status.clone(), condition.reason.clone(), condition.message.clone())
}

fn told(status: &str, reason: &str, message: &str) -> (String, String, String) {
    (status.to_owned(), reason.to_owned(), message.to_owned())
}

#[test]
fn it_wants_a_backup_to_restore() {
    let drill = backup(&json!({"verify": {"cron": "0 5 * * *"}}), &json!({}));
    let planned = plan(&subject(&drill), &observed(&drill), NOW.parse().unwrap());
    assert_eq!(planned.status.active_run(), None);
    let ready = conditions::find(&planned.status.conditions, Type::Ready).unwrap();
    assert_eq!(ready.reason, "NoBackupYet", "{ready:?}");
    let none = backup(&json!({}), &json!({"snapshots": [newest()]}));
    assert_eq!(none.request().waits_for.map(|wait| wait.reason), Some("NoDrill"));
}

#[test]
fn the_server_is_of_the_backup_s_major_and_knows_nothing_of_the_homeserver_s() {
    let of = |verify: Value| {
        let drill = backup(&json!({ "verify": verify }), &json!({"snapshots": [newest()]}));
        let [step] = &drill.steps(Sight::of(&homeserver("")))[..] else { panic!("one step") };
        step.clone()
    };
    let step = of(json!({"cron": "@daily"}));
    let server = step.server.unwrap();
    assert_eq!(
        (server.image.as_str(), server.run_as_user, server.volume),
        ("docker.io/library/postgres:15", 999, None)
    );
    assert_eq!(step.database, DatabaseAccess::None);
    let own =
        ["--origin=uid-1", "--snapshot=abc", "--socket=/var/run/synapse-keeper/postgres-socket", "--media=sample"];
    assert_eq!(step.args[step.args.len() - 4..], own);
    assert!(!step.args.contains(&"--init".to_owned()));
    let image = of(json!({"cron": "@daily", "image": "registry.example.org/postgres:15-alpine", "runAsUser": 70}));
    assert_eq!(
        image.server.map(|server| (server.image, server.run_as_user)),
        Some(("registry.example.org/postgres:15-alpine".to_owned(), 70))
    );
}

#[test]
fn synapse_is_asked_where_the_object_wants_it() {
    let verify = json!({"cron": "@daily", "synapse": true, "media": "All"});
    let drill = backup(&json!({"verify": verify}), &json!({"snapshots": [newest()]}));
    assert_eq!(drill.request().image, Need::Must);
    assert_eq!(due().request().image, Need::Not);
    let image = SynapseImage { image: "synapse:1".to_owned(), ..SynapseImage::default() };
    let spec = homeserver("");
    let [step] = &drill.steps(Sight { image: Some(&image), ..Sight::of(&spec) })[..] else { panic!("one step") };
    assert_eq!(step.args[step.args.len() - 2..], ["--media=all", "--synapse-place=/var/run/synapse-keeper/synapse"]);
    assert_eq!(step.own_synapse, Some(OwnSynapse { image, duty: Duty::Serves }));
}

#[test]
fn it_takes_no_lease_and_touches_no_finalizer_and_leaves_nothing() {
    let drill = ended(Report { result: Some(found(true)), ..Report::default() });
    let history = &drill.status().unwrap().history;
    assert_eq!((history.len(), history[0].outcome), (1, Outcome::Succeeded));
    let Subject { has_finalizer, .. } = subject(&drill);
    assert!(!has_finalizer, "that of the backup's own runs is none of its business");
    assert_eq!(observed(&drill).lease, LeaseState::Free);
    assert_eq!(drill.0.status.as_ref().unwrap().operation.run, None, "the backup's own part is as it was");
}

#[test]
fn a_good_backup_is_verified_and_a_damaged_one_is_not() {
    let good = ended(Report { result: Some(found(true)), ..Report::default() });
    assert_eq!(verified(&good), told("True", "Verified", "restored all"));
    let status = good.0.status.clone().unwrap();
    assert_eq!(status.last_verified_at, status.snapshots[0].taken_at);
    assert_eq!(status.snapshots[0].verified_at, Some(Time(NOW.parse::<Timestamp>().unwrap())));

    let error = TaskError::terminal("RowsDiffer", "events has 1 row of 2");
    let bad = ended(Report { error: Some(error), result: Some(found(false)), ..Report::default() });
    assert_eq!(verified(&bad), told("False", "RowsDiffer", "step verify: events has 1 row of 2"));
    let status = bad.0.status.clone().unwrap();
    assert_eq!((status.last_verified_at, status.snapshots[0].verified_at.clone()), (None, None));
}

#[test]
fn a_drill_that_could_not_be_carried_out_says_nothing_good_and_nothing_bad() {
    let error = TaskError::terminal("RepositoryPasswordRefused", "no");
    let failed = Report { error: Some(error), ..Report::default() };
    let mut drill = ended(failed);
    assert_eq!(verified(&drill), told("Unknown", "RepositoryPasswordRefused", "step verify: no"));

    // What was found damaged is damaged until another is found whole.
    let status = drill.0.status.as_mut().unwrap();
    let run = status.verification.as_ref().and_then(|drills| drills.run.clone()).unwrap();
    let mut before = *status.verification.clone().unwrap();
    before.run.as_mut().unwrap().outcome = None;
    let mut list = conditions::Conditions::new(&mut status.operation.conditions, 1, Timestamp::UNIX_EPOCH);
    list.set(Type::Verified, false, "RowsDiffer", "lost");
    status.verification = Some(Box::new(before.clone()));
    status.absorb_drill(OperationStatus { run: Some(run), ..before });
    assert_eq!(verified(&drill), told("False", "RowsDiffer", "lost"));
}

#[test]
fn success_without_a_verdict_is_none() {
    let drill = ended(Report { result: Some(StepResult::default()), ..Report::default() });
    assert_eq!(conditions::find(&drill.0.status.unwrap().operation.conditions, Type::Verified), None);
}

#[test]
fn what_it_remembers_is_no_business_of_the_backup_s_own_runs() {
    let mut backup = ended(Report { result: Some(found(true)), ..Report::default() }).0;
    let drills = backup.status.clone().unwrap().verification;
    let own = OperationStatus { phase: Some("Scheduled".to_owned()), ..backup.status().cloned().unwrap() };
    backup.set_status(own);
    let status = backup.status.clone().unwrap();
    assert_eq!(status.verification, drills);
    assert!(conditions::is_true(&status.operation.conditions, Type::Verified));
    assert!(backup.has_run(), "the cache may not have all of it");
    assert_eq!(backup.memories().len(), 2);
}
