use super::*;
use crate::{
    api::{
        conditions::{self, Type},
        synapse::WorkloadRef,
    },
    contract::{DatabaseLeft, ErrorClass, InspectionFindings},
    operation::observed::ObservedJob,
    recipes::Refusal,
};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const NOON: &str = "2026-11-22T12:00:00Z";

fn seen() -> Seen {
    Seen { generation: 1, asks_synapse: true, workloads: Some(Ok(Vec::new())), ..Seen::default() }
}

fn healthy() -> InspectionFindings {
    InspectionFindings {
        inspected_at: Some(Time(at(NOON))),
        postgres_version: "15.20 (Debian 15.20-0+deb12u1)".to_owned(),
        postgres_version_num: 150_020,
        encoding: "UTF8".to_owned(),
        collate: "C".to_owned(),
        ctype: "C".to_owned(),
        schema_version: Some(94),
        ..InspectionFindings::default()
    }
}

fn found(findings: InspectionFindings) -> ObservedJob {
    let findings = Some(Findings::Inspection(Box::new(findings)));
    ObservedJob::of(JobState::Complete, Some(Report { findings, ..Report::default() }))
}

/// One inspection from its beginning to its end.
fn inspected(before: &SynapseStatus, job: ObservedJob, now: Timestamp) -> SynapseStatus {
    let (begun, action) = plan(before, &seen(), now);
    assert_eq!(action, Action::CreateJob);
    let (ended, action) = plan(&begun, &Seen { job: Some(job), ..seen() }, now);
    assert_eq!(action, Action::DeleteJob);
    ended
}

#[test]
fn the_newest_backup_is_shown_and_is_no_reason_to_look_again() {
    let newest = Some(Time(at(NOON)));
    let healthy = inspected(&SynapseStatus::default(), found(healthy()), at(NOON));
    let (status, action) = plan(&healthy, &Seen { last_backup: newest.clone(), ..seen() }, at("2026-11-22T13:00:00Z"));
    assert_eq!(status.last_backup, newest);
    assert!(matches!(action, Action::Wait(_)), "{action:?}");
}

fn ready(status: &SynapseStatus) -> (&str, &str) {
    let condition = conditions::find(&status.conditions, Type::Ready).unwrap();
    (condition.status.as_str(), condition.reason.as_str())
}

#[test]
fn a_healthy_homeserver_is_looked_at_once_a_day() {
    let status = inspected(&SynapseStatus::default(), found(healthy()), at(NOON));
    assert_eq!(ready(&status), ("True", "Healthy"));
    assert_eq!(status.postgres_version.as_deref(), Some("15.20"));
    let (same, action) = plan(&status, &seen(), at(NOON));
    assert_eq!((same, action), (status.clone(), Action::Wait(SignedDuration::from_hours(24))));
    let (_, action) = plan(&status, &seen(), at("2026-11-23T12:00:01Z"));
    assert_eq!(action, Action::CreateJob);
}

#[test]
fn an_inspection_of_the_future_keeps_nobody_from_the_next() {
    let status = inspected(&SynapseStatus::default(), found(healthy()), at("2031-01-01T00:00:00Z"));
    assert_eq!(plan(&status, &seen(), at(NOON)).1, Action::CreateJob);
}

#[test]
fn a_change_and_a_finished_operation_ask_for_another_look() {
    let status = inspected(&SynapseStatus::default(), found(healthy()), at(NOON));
    let soon = at("2026-11-22T12:05:00Z");
    let (_, action) = plan(&status, &Seen { generation: 2, ..seen() }, soon);
    assert_eq!(action, Action::CreateJob, "the spec changed");
    let (_, action) = plan(&status, &Seen { last_operation: Some(soon), ..seen() }, soon);
    assert_eq!(action, Action::CreateJob, "an operation ended");
    let busy = Seen { last_operation: Some(soon), is_down: true, ..seen() };
    assert!(matches!(plan(&status, &busy, soon).1, Action::Wait(_)), "not while another has it down");
    assert!(matches!(plan(&status, &Seen { generation: 2, suspended: true, ..seen() }, soon).1, Action::Wait(_)));
}

#[test]
fn each_wrong_thing_is_a_condition_that_says_what_to_do() {
    let split = ["state_groups", "state_group_edges", "state_groups_state"].map(str::to_owned);
    let wrong: [(InspectionFindings, Type, &str, &str); 11] = [
        (
            InspectionFindings { collate: "en_US.UTF-8".to_owned(), ..healthy() },
            Type::LocaleSafe,
            "UnsafeLocale",
            "LC_COLLATE 'C'",
        ),
        (InspectionFindings { in_recovery: true, ..healthy() }, Type::DatabaseReachable, "Standby", "primary"),
        (
            InspectionFindings { schema_version: None, ..healthy() },
            Type::DatabaseReachable,
            "NoSynapseSchema",
            "postgres.database",
        ),
        (
            InspectionFindings { postgres_version_num: 130_001, ..healthy() },
            Type::PostgresSupported,
            "TooOld",
            "upgrade",
        ),
        (
            InspectionFindings { inconsistent_sequences: vec!["events_stream_seq is at 1".to_owned()], ..healthy() },
            Type::SequencesConsistent,
            "SequenceBehind",
            "Do not delete",
        ),
        (
            InspectionFindings { foreign_server: Some("the users are of other.org".to_owned()), ..healthy() },
            Type::DatabaseMatches,
            "ServerNameDiffers",
            "postgres.database",
        ),
        (
            InspectionFindings { missing_tables: split.to_vec(), ..healthy() },
            Type::DatabaseWhole,
            "DatabaseSplit",
            "not supported yet. It is not backed up",
        ),
        (
            InspectionFindings { missing_tables: vec!["event_json".to_owned()], ..healthy() },
            Type::DatabaseWhole,
            "TablesMissing",
            "missing: event_json.",
        ),
        (
            InspectionFindings { foreign_tables: Some("1 of 170 tables".to_owned()), ..healthy() },
            Type::TablesOwned,
            "ForeignOwner",
            "postgres.credentials",
        ),
        (
            InspectionFindings { synapse_version_error: Some("Connection refused".to_owned()), ..healthy() },
            Type::SynapseAnswers,
            "NoAnswer",
            "adminApi.url",
        ),
        (
            InspectionFindings { pending_background_updates: vec!["add_index".to_owned()], ..healthy() },
            Type::BackgroundUpdatesDone,
            "Pending",
            "add_index",
        ),
    ];
    for (findings, type_, reason, advice) in wrong {
        let status = inspected(&SynapseStatus::default(), found(findings), at(NOON));
        let condition = conditions::find(&status.conditions, type_).unwrap();
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", reason));
        assert!(condition.message.contains(advice), "{}", condition.message);
        assert_eq!(ready(&status), ("False", reason));
        // Background updates go on by themselves, and a homeserver that starts will answer.
        let passes = ["Pending", "NoAnswer"].contains(&reason);
        assert_eq!(kstatus(&status), if passes { "InProgress" } else { "Failed" }, "{reason}");
    }
}

/// As kstatus reads it: `Stalled` is failed, `Reconciling` is in progress, and both at once would mean nothing.
fn kstatus(status: &SynapseStatus) -> &'static str {
    let is = |type_| conditions::is_true(&status.conditions, type_);
    match (is(Type::Stalled), is(Type::Reconciling), is(Type::Ready)) {
        (true, false, false) => "Failed",
        (false, true, false) => "InProgress",
        (false, false, true) => "Current",
        other => panic!("{other:?}"),
    }
}

fn failed(class: ErrorClass, reason: &str) -> ObservedJob {
    let error = TaskError { class, reason: reason.to_owned(), message: "no".to_owned() };
    let report = Report { error: Some(error), ..Report::default() };
    ObservedJob::of(JobState::Failed("BackoffLimitExceeded".to_owned()), Some(report))
}

#[test]
fn only_what_a_person_must_change_is_stalled() {
    let refused = inspected(&SynapseStatus::default(), failed(ErrorClass::Transient, "ConnectionRefused"), at(NOON));
    assert_eq!((kstatus(&refused), ready(&refused)), ("InProgress", ("False", "ConnectionRefused")));
    let later = at("2026-11-22T13:00:00Z");
    let (begun, _) = plan(&refused, &seen(), later);
    assert_eq!(kstatus(&begun), "InProgress", "the next try does not change what the last one found");
    let wrong = inspected(&refused, failed(ErrorClass::Terminal, "PasswordRefused"), later);
    assert_eq!((kstatus(&wrong), ready(&wrong)), ("Failed", ("False", "PasswordRefused")));
    let standby = inspected(&refused, found(InspectionFindings { in_recovery: true, ..healthy() }), later);
    assert_eq!(kstatus(&standby), "Failed", "the error of the try before is forgotten");
    assert_eq!(kstatus(&inspected(&wrong, found(healthy()), at("2026-11-22T14:00:00Z"))), "Current");

    // A locale stays wrong while the database is away.
    let unsafe_locale = InspectionFindings { collate: "de_DE.UTF-8".to_owned(), ..healthy() };
    let status = inspected(&SynapseStatus::default(), found(unsafe_locale), at(NOON));
    let status = inspected(&status, failed(ErrorClass::Transient, "ConnectionRefused"), later);
    assert_eq!((kstatus(&status), ready(&status)), ("Failed", ("False", "ConnectionRefused")));
    let stalled = conditions::find(&status.conditions, Type::Stalled).unwrap();
    assert_eq!(stalled.reason, "UnsafeLocale");
}

#[test]
fn what_is_wrong_is_looked_at_again_soon_and_then_less_often() {
    let wrong = || found(InspectionFindings { pending_background_updates: vec!["add_index".to_owned()], ..healthy() });
    let (mut status, mut now, mut pauses) = (SynapseStatus::default(), at(NOON), Vec::new());
    for _ in 0..6 {
        status = inspected(&status, wrong(), now);
        let Action::Wait(pause) = plan(&status, &seen(), now).1 else { panic!("no pause") };
        pauses.push(pause.as_secs() / 60);
        now += pause;
    }
    assert_eq!(pauses, [10, 10, 20, 40, 60, 60]);
    status = inspected(&status, found(healthy()), now);
    assert_eq!(plan(&status, &seen(), now).1, Action::Wait(EVERY));
}

#[test]
fn a_job_of_somebody_else_is_left_alone() {
    let foreign = ObservedJob { ours: false, ..found(healthy()) };
    let status = inspected(&SynapseStatus::default(), foreign, at(NOON));
    assert_eq!(ready(&status), ("False", "JobNameTaken"));
    assert_eq!(status.postgres_version, None, "its result is not ours");
    let (next, action) = plan(&status, &seen(), at("2026-11-22T12:00:31Z"));
    assert_eq!((next.inspection.unwrap().number, action), (2, Action::CreateJob), "under another name");
}

#[test]
fn the_version_stays_while_synapse_does_not_answer_and_goes_with_admin_api() {
    let answers = InspectionFindings { synapse_version: Some("1.163.2".to_owned()), ..healthy() };
    let silent = InspectionFindings { synapse_version_error: Some("timeout".to_owned()), ..healthy() };
    let status = inspected(&SynapseStatus::default(), found(answers), at(NOON));
    assert!(conditions::is_true(&status.conditions, Type::SynapseAnswers));
    let tomorrow = at("2026-11-23T12:00:01Z");
    let quiet = inspected(&status, found(silent.clone()), tomorrow);
    assert_eq!((ready(&quiet), quiet.synapse_version.as_deref()), (("False", "NoAnswer"), Some("1.163.2")));

    let (begun, _) = plan(&status, &seen(), tomorrow);
    let (stopped, _) = plan(&begun, &Seen { job: Some(found(silent)), is_down: true, ..seen() }, tomorrow);
    assert_eq!(ready(&stopped), ("True", "Healthy"), "an operation stopped it in between");

    let (unasked, _) = plan(&quiet, &Seen { generation: 2, asks_synapse: false, ..seen() }, tomorrow);
    assert_eq!((unasked.synapse_version, ready(&quiet).0), (None, "False"));
    assert!(conditions::find(&unasked.conditions, Type::SynapseAnswers).is_none());
    assert!(conditions::is_true(&unasked.conditions, Type::Ready));
}

#[test]
fn failures_are_tried_again_with_growing_pauses_and_forgotten_at_success() {
    let (mut status, mut now, mut pauses) = (SynapseStatus::default(), at(NOON), Vec::new());
    for _ in 0..10 {
        status = inspected(&status, failed(ErrorClass::Terminal, "PasswordRefused"), now);
        assert_eq!(ready(&status), ("False", "PasswordRefused"));
        let Action::Wait(pause) = plan(&status, &seen(), now).1 else { panic!("no pause") };
        pauses.push(pause.as_secs());
        now += pause;
    }
    assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
    status = inspected(&status, found(healthy()), now);
    assert_eq!(ready(&status), ("True", "Healthy"));
}

#[test]
fn a_result_that_went_with_its_pod_is_not_success() {
    let status = inspected(&SynapseStatus::default(), ObservedJob::of(JobState::Complete, None), at(NOON));
    assert_eq!((kstatus(&status), ready(&status)), ("InProgress", ("False", "InspectionFailed")));
}

#[test]
fn a_job_that_was_never_made_is_made_and_one_that_was_deleted_counts_as_failed() {
    let (begun, _) = plan(&SynapseStatus::default(), &seen(), at(NOON));
    assert_eq!(plan(&begun, &seen(), at(NOON)).1, Action::CreateJob, "the operator died before it had made it");
    let active = ObservedJob::of(JobState::Active, None);
    let (running, _) = plan(&begun, &Seen { job: Some(active), ..seen() }, at(NOON));
    let (ended, action) = plan(&running, &seen(), at(NOON));
    assert_eq!((action, ended.inspection.unwrap().failures), (Action::DeleteJob, 1));
}

#[test]
fn workloads_that_an_operation_would_refuse_show_at_once() {
    let refusal = |reason| Refusal { reason, message: "correct it".to_owned() };
    let wrong = |reason| Seen { workloads: Some(Err(refusal(reason))), ..seen() };
    for (reason, reads) in [
        ("WorkloadsNotFound", "InProgress"),
        ("WorkloadNotFound", "InProgress"),
        ("InvalidSelector", "Failed"),
        ("DataOnEmptyDir", "Failed"),
    ] {
        let (begun, action) = plan(&SynapseStatus::default(), &wrong(reason), at(NOON));
        assert_eq!(action, Action::CreateJob, "the database is looked at all the same");
        assert_eq!((ready(&begun), kstatus(&begun)), (("False", reason), reads));
        let (status, _) = plan(&begun, &Seen { job: Some(found(healthy())), ..wrong(reason) }, at(NOON));
        assert_eq!(ready(&status), ("False", reason), "a healthy database does not make it well");
        let (_, action) = plan(&status, &wrong(reason), at(NOON));
        assert_eq!(action, Action::Wait(SAFETY), "they may come by themselves, and no Job is needed to see it");

        let main = WorkloadRef { kind: crate::api::synapse::WorkloadKind::StatefulSet, name: "main".to_owned() };
        let there = Seen { workloads: Some(Ok(vec![main])), ..seen() };
        let (mended, action) = plan(&status, &there, at(NOON));
        assert_eq!((ready(&mended), action), (("True", "Healthy"), Action::Wait(EVERY)));
        let condition = conditions::find(&mended.conditions, Type::WorkloadsFound).unwrap();
        assert_eq!((condition.reason.as_str(), condition.message.as_str()), ("Found", "StatefulSet/main"));
        assert!(!project::looks_for_workloads(&mended, 1), "at rest it costs no request");
        assert!(project::looks_for_workloads(&mended, 2), "the object was changed");
    }
}

#[test]
fn databases_that_restores_have_left_are_told_and_one_that_is_being_filled_is_none() {
    let one =
        |uid: &str, restore: Option<&str>| DatabaseLeft::new(&format!("{}1", prefix_beside(uid)), 390 << 20, restore);
    let left = vec![
        one("dead-00000001", Some("matrix/fire")),
        one("alive-0000002", Some("matrix/flood")),
        one("other-0000003", Some("elsewhere/storm")),
        one("killed-000004", None),
    ];
    let findings = InspectionFindings { left_databases: left, ..healthy() };
    let around = Seen { namespace: "matrix".to_owned(), at_work: vec!["alive-0000002".to_owned()], ..seen() };
    let (begun, _) = plan(&SynapseStatus::default(), &around, at(NOON));
    let (status, _) = plan(&begun, &Seen { job: Some(found(findings)), ..around.clone() }, at(NOON));
    let names: Vec<&str> = status.left_databases.iter().map(|left| left.name.as_str()).collect();
    assert_eq!(names, ["synapse_keeper_00000001_1", "synapse_keeper_ed000004_1"]);
    let condition = conditions::find(&status.conditions, Type::DatabasesLeft).expect("it is told");
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("True", "LeftByRestore"));
    for words in ["(390.0 MiB)", "matrix/fire", "DROP DATABASE \"synapse_keeper_00000001_1\""] {
        assert!(condition.message.contains(words), "{words}: {}", condition.message);
    }
    assert_eq!(ready(&status), ("True", "Healthy"), "the homeserver is as well as without");
    let healthy_still = conditions::find(&status.conditions, Type::Ready).unwrap();
    assert!(healthy_still.message.contains("synapse_keeper_00000001_1 (390.0 MiB)"), "{}", healthy_still.message);

    let (_, action) = plan(&status, &around, at(NOON));
    assert_eq!(action, Action::Wait(LONGEST_PAUSE), "who drops it sees that today");
    let again = inspected(&status, found(healthy()), at("2026-11-22T13:00:00Z"));
    assert_eq!(conditions::find(&again.conditions, Type::DatabasesLeft), None);
}

/// With the reason that it has for who is not served.
fn nobody_is_served() -> Option<serving::Serving> {
    Some(Err(serving::NotServing { reason: "NoPodReady", message: "0 of 1 Pods Ready".to_owned() }))
}

#[test]
fn a_homeserver_that_a_run_has_just_left_down_is_not_healthy() {
    let up = Seen { serving: Some(Ok("1 of 1 Pods Ready".to_owned())), ..seen() };
    let (healthy, _) = plan(&inspected(&SynapseStatus::default(), found(healthy()), at(NOON)), &up, at(NOON));
    assert_eq!(ready(&healthy), ("True", "Healthy"));
    let ended = at("2026-11-22T13:00:00Z");
    let restarts = Seen { serving: nobody_is_served(), ..seen() };
    let downtime = serving::Downtime { since: at("2026-11-22T12:59:30Z"), gave_up_at: Some(ended) };
    let left_down = Seen { downtime: Some(downtime), ..restarts.clone() };
    let (restarting, _) = plan(&healthy, &restarts, ended);
    assert_eq!(ready(&restarting), ("True", "Healthy"), "a restart looks the same");
    let (status, action) = plan(&healthy, &left_down, ended);
    assert_eq!((ready(&status), kstatus(&status)), (("False", "NoPodReady"), "InProgress"));
    assert_eq!(action, Action::Wait(SAFETY), "it is looked at again soon");
    // The Pods may be seen before the run ends.
    let (status, _) = plan(&restarting, &left_down, ended);
    assert_eq!(ready(&status), ("False", "NoPodReady"));
}

#[test]
fn a_downtime_counts_on_after_the_run_that_does_not_end_it() {
    let (since, ended) = (at("2026-11-22T13:00:00Z"), at("2026-11-22T13:00:33Z"));
    let healthy = inspected(&SynapseStatus::default(), found(healthy()), at(NOON));
    let downtime = |gave_up_at| Some(serving::Downtime { since, gave_up_at });
    let down = Seen { is_down: true, downtime: downtime(None), ..seen() };
    let left_down = Seen { serving: nobody_is_served(), downtime: downtime(Some(ended)), ..seen() };
    let kept_down = Seen { kept_down: Some("make a SynapseRestore".to_owned()), ..down.clone() };
    let (status, _) = plan(&healthy, &down, at("2026-11-22T13:00:02Z"));
    assert_eq!((status.not_served_since.clone(), ready(&status)), (Some(Time(since)), ("True", "Healthy")));
    for (seen, reason) in [(&left_down, "NoPodReady"), (&kept_down, "DatabaseUnfinished")] {
        let (first, _) = plan(&status, seen, ended);
        let (later, _) = plan(&first, seen, at("2026-11-22T19:00:00Z"));
        assert_eq!((later.not_served_since.clone(), ready(&later)), (Some(Time(since)), ("False", reason)));
        assert_eq!(first.conditions, later.conditions, "nothing is written anew each second");
        let message = &conditions::find(&later.conditions, Type::Ready).unwrap().message;
        assert!(message.starts_with("nobody has been served since 2026-11-22T13:00:00Z: "), "{message}");
    }
    let up = Seen { serving: Some(Ok("1 of 1 Pods Ready".to_owned())), ..left_down };
    let (served, _) = plan(&status, &up, at("2026-11-22T19:01:00Z"));
    assert_eq!((served.not_served_since.clone(), ready(&served)), (None, ("True", "Healthy")));
}
