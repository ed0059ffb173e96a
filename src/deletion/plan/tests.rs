use super::*;
use crate::{api::conditions, contract::StepResult};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn deleting() -> Seen {
    Seen {
        policy: DeletionPolicy::Delete,
        deleting: true,
        has_finalizer: true,
        way_out: "kubectl patch".to_owned(),
        ..Seen::default()
    }
}

fn with(job: ObservedJob) -> Seen {
    Seen { job: Some(job), ..deleting() }
}

fn failed(reason: &str) -> ObservedJob {
    let error = TaskError::terminal(reason, "The Secret lacks RESTIC_PASSWORD.");
    ObservedJob::of(
        JobState::Failed("BackoffLimitExceeded".to_owned()),
        Some(Report { error: Some(error), ..Report::default() }),
    )
}

fn told(status: &BackupStatus) -> (&str, &str, &str) {
    let condition = conditions::find(&status.operation.conditions, Type::DataDeleted).expect("it is told");
    (condition.status.as_str(), condition.reason.as_str(), condition.message.as_str())
}

fn begun() -> BackupStatus {
    let (status, action) = plan(&BackupStatus::default(), &deleting(), at(0));
    assert_eq!((action, told(&status).1), (Action::CreateJob, "DeletingData"));
    status
}

#[test]
fn the_finalizer_is_there_while_the_policy_asks_for_it() {
    let action = |policy, deleting, has_finalizer| {
        let seen = Seen { policy, deleting, has_finalizer, ..Seen::default() };
        plan(&BackupStatus::default(), &seen, at(0)).1
    };
    use DeletionPolicy::{Delete, Retain};
    assert_eq!(action(Retain, false, false), Action::Rest);
    assert_eq!(action(Delete, false, false), Action::AddFinalizer);
    assert_eq!(action(Delete, false, true), Action::Rest);
    assert_eq!(action(Retain, false, true), Action::LetGo);
    assert_eq!(action(Retain, true, true), Action::LetGo, "at once");
    assert_eq!(action(Delete, true, false), Action::Rest, "it came too late, or somebody took it off");
}

#[test]
fn it_goes_when_its_data_have_gone() {
    let begun = begun();
    let report = Report {
        result: Some(StepResult { summary: "deleted 3 backups".to_owned(), ..StepResult::default() }),
        ..Report::default()
    };
    let (done, action) = plan(&begun, &with(ObservedJob::of(JobState::Complete, Some(report))), at(5));
    assert_eq!((action, told(&done)), (Action::ClearJobs, ("True", "DataDeleted", "deleted 3 backups")));
    let left = |is_going| vec![JobLeft { name: "j".to_owned(), is_going }];
    assert_eq!(plan(&done, &Seen { jobs_left: left(false), ..deleting() }, at(6)).1, Action::ClearJobs);
    assert_eq!(plan(&done, &Seen { jobs_left: left(true), ..deleting() }, at(6)).1, Action::Wait(POLL));
    assert_eq!(plan(&done, &deleting(), at(7)).1, Action::LetGo);
}

#[test]
fn a_run_that_is_under_way_ends_first_and_so_do_its_jobs() {
    let (status, action) = plan(&BackupStatus::default(), &Seen { is_busy: true, ..deleting() }, at(0));
    assert_eq!((action, status.deletion.as_ref()), (Action::Wait(POLL), None));
    let jobs_left = vec![JobLeft { name: "nightly-retention".to_owned(), is_going: false }];
    let (status, action) = plan(&status, &Seen { jobs_left, ..deleting() }, at(1));
    assert_eq!((action, status.deletion.as_ref()), (Action::ClearJobs, None));
    assert_eq!(plan(&status, &deleting(), at(2)).1, Action::CreateJob);
}

#[test]
fn a_pause_that_ends_in_a_far_future_is_none() {
    let (mut status, _) = plan(&begun(), &with(failed("SecretKeyMissing")), at(5));
    status.deletion.as_mut().unwrap().retry_at = Some(Time("2031-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(plan(&status, &deleting(), at(6)).1, Action::CreateJob);
}

#[test]
fn what_never_had_a_run_has_nothing_to_delete() {
    let seen = Seen { has_nothing: true, ..deleting() };
    assert_eq!(plan(&BackupStatus::default(), &seen, at(0)).1, Action::LetGo);
}

#[test]
fn whatever_fails_is_told_with_the_way_out_and_tried_again() {
    let (status, action) = plan(&begun(), &with(failed("SecretKeyMissing")), at(5));
    assert_eq!(action, Action::Wait(FIRST_PAUSE));
    let (is_done, reason, message) = told(&status);
    assert_eq!((is_done, reason), ("False", "SecretKeyMissing"));
    assert!(message.contains("RESTIC_PASSWORD") && message.contains("keep them: kubectl patch"), "{message}");
    assert_eq!(plan(&status, &deleting(), at(6)).1, Action::Wait(SignedDuration::from_secs(4)));
    let (again, action) = plan(&status, &deleting(), at(10));
    assert_eq!((action, again.deletion.as_ref().map(|deletion| deletion.attempt)), (Action::CreateJob, Some(2)));
    assert_eq!(told(&again).1, "SecretKeyMissing", "until it is known to be better");
    let (status, action) = plan(&again, &with(failed("SecretKeyMissing")), at(15));
    assert_eq!(action, Action::Wait(FIRST_PAUSE * 2));
    let late = Deletion { attempt: 99, ..again.deletion.unwrap() };
    let status = BackupStatus { deletion: Some(late), ..status };
    assert_eq!(plan(&status, &with(failed("SecretKeyMissing")), at(20)).1, Action::Wait(LONGEST_PAUSE));
}

#[test]
fn a_job_that_somebody_deletes_or_that_never_starts_is_made_again() {
    let begun = begun();
    assert_eq!(plan(&begun, &deleting(), at(1)).1, Action::CreateJob, "whoever was to make it was killed");
    let waiting = ObservedJob { started: false, ..ObservedJob::of(JobState::Active, None) };
    let (seen, action) = plan(&begun, &with(waiting.clone()), at(1));
    assert_eq!(action, Action::Wait(LOOK_AT_JOB));
    assert_eq!(told(&plan(&seen, &deleting(), at(2)).0).1, "JobDeleted");
    assert_eq!(told(&plan(&seen, &with(waiting), at(301)).0).1, "PodDoesNotStart");
    let foreign = ObservedJob { ours: false, ..ObservedJob::of(JobState::Complete, Some(Report::default())) };
    assert_eq!(told(&plan(&begun, &with(foreign), at(2)).0).1, "JobNameTaken");
    let unknown = ObservedJob::of(JobState::Complete, None);
    assert_eq!(told(&plan(&begun, &with(unknown), at(2)).0).1, "ResultUnknown");
}

#[test]
fn to_keep_the_data_stops_what_deletes_them() {
    let retain = Seen { policy: DeletionPolicy::Retain, ..deleting() };
    let jobs_left = vec![JobLeft { name: "j".to_owned(), is_going: false }];
    assert_eq!(plan(&begun(), &Seen { jobs_left, ..retain.clone() }, at(1)).1, Action::ClearJobs);
    assert_eq!(plan(&begun(), &retain, at(2)).1, Action::LetGo);
}

#[test]
fn while_the_operator_is_uninstalled_nothing_begins() {
    let seen = Seen { uninstalling: true, ..deleting() };
    assert_eq!(plan(&BackupStatus::default(), &seen, at(0)).1, Action::Wait(SAFETY));
}
