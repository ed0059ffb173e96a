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
    contract::{Report, StepResult, TaskError, Verdict},
    operation::{
        observed::{JobLeft, JobState, LeaseState, Observed, ObservedJob, ObservedSynapse, Subject},
        plan::{Action, plan},
        reconcile::subject,
    },
    recipes::tests::homeserver,
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
    let server = step.spec.server.unwrap();
    assert_eq!(
        (server.image.as_str(), server.run_as_user, server.volume),
        ("docker.io/library/postgres:15", 999, None)
    );
    assert_eq!(step.spec.database, DatabaseAccess::None);
    let own =
        ["--origin=uid-1", "--snapshot=abc", "--socket=/var/run/synapse-keeper/postgres-socket", "--media=sample"];
    assert_eq!(step.spec.args[step.spec.args.len() - 4..], own);
    assert!(!step.spec.args.contains(&"--init".to_owned()));
    let image = of(json!({"cron": "@daily", "image": "registry.example.org/postgres:15-alpine", "runAsUser": 70}));
    assert_eq!(
        image.spec.server.map(|server| (server.image, server.run_as_user)),
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
    assert_eq!(
        step.spec.args[step.spec.args.len() - 2..],
        ["--media=all", "--synapse-place=/var/run/synapse-keeper/synapse"]
    );
    assert_eq!(step.spec.own_synapse, Some(OwnSynapse { image, duty: Duty::Serves }));
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

/// The same backup with another schedule of its drills, after one turn.
fn with_verify(mut drill: Drill, verify: Value) -> Drill {
    drill.0.spec.verify = Some(serde_json::from_value(verify).unwrap());
    let observed = observed(&drill);
    turn(&mut drill, &observed);
    drill
}

#[test]
fn a_schedule_that_cannot_be_followed_is_told_of_the_backup_and_the_last_verdict_comes_back() {
    for (verify, reason, named) in [
        (json!({"cron": "0 25 * * *"}), "InvalidCron", "hour 25"),
        (json!({"cron": "0 2 31 2 *"}), "InvalidCron", "never comes due"),
        (json!({"cron": "@daily", "timeZone": "Europe/Berln"}), "UnknownTimeZone", "Europe/Berln"),
    ] {
        let new = with_verify(due(), verify.clone());
        let (status, said, message) = verified(&new);
        assert_eq!((status.as_str(), said.as_str()), ("Unknown", reason));
        assert!(message.contains("spec.verify") && message.contains(named), "{message}");
        let mended = with_verify(new, json!({"cron": "0 4 1 1 *"}));
        assert_eq!(conditions::find(&mended.0.status.unwrap().operation.conditions, Type::Verified), None);

        let good = with_verify(ended(Report { result: Some(found(true)), ..Report::default() }), verify.clone());
        assert_eq!(verified(&good).0, "Unknown", "what it proves from now on is nothing");
        let good = with_verify(good, json!({"cron": "0 4 1 1 *"}));
        assert_eq!(verified(&good), told("True", "Verified", "restored all"));

        let error = Some(TaskError::terminal("RowsDiffer", "events has 1 row of 2"));
        let bad = ended(Report { error, result: Some(found(false)), ..Report::default() });
        assert_eq!(verified(&with_verify(bad, verify)).0, "False", "damaged is damaged");
    }
}

#[test]
fn a_drill_whose_pod_does_not_start_is_told_before_it_is_given_up() {
    let mut drill = due();
    let mut observed = observed(&drill);
    for _ in 0..3 {
        turn(&mut drill, &observed);
    }
    let pod = Some("container postgres: ErrImagePull: not found".to_owned());
    observed.job = Some(ObservedJob { started: false, pod, ..ObservedJob::of(JobState::Active, None) });
    let turn_at = |drill: &mut Drill, seconds: i64| {
        let now = NOW.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(seconds);
        let planned = plan(&subject(drill), &observed, now);
        drill.set_status(planned.status);
        conditions::find(&drill.0.status.as_ref().unwrap().operation.conditions, Type::Verified).cloned()
    };
    assert_eq!(turn_at(&mut drill, 3), None, "an image has to come first");
    let told = turn_at(&mut drill, 10).expect("it is told");
    assert_eq!((told.status.as_str(), told.reason.as_str()), ("Unknown", "PodDoesNotStart"));
    assert!(told.message.contains("ErrImagePull: not found"), "{told:?}");
    assert!(drill.status().unwrap().active_run().is_some_and(|run| run.failure.is_none()), "it is not given up yet");
}
