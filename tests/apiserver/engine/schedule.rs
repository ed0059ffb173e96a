//! Scheduled operations against the real clock. What a schedule says at which moment is tested in `operation::schedule`.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::DeleteParams;
use synapse_keeper::api::{
    SynapseMaintenance,
    conditions::Type,
    operation::{Outcome, Trigger},
};

use super::told;
use crate::stage::{
    Stage,
    ledger::Entry,
    script::{Fate, Script, failure, success},
    tests,
    world::{ANALYZE, FULL, World, is, outcomes},
};

tests![
    an_annotation_asks_for_a_run_now_and_each_value_for_one,
    a_suspended_schedule_starts_nothing,
    a_schedule_that_cannot_be_followed_is_stalled_and_says_why,
    a_run_comes_at_its_minute_and_is_skipped_when_the_homeserver_stays_busy,
    a_failed_run_is_not_the_end_of_a_schedule,
    what_a_run_left_is_begun_with_in_the_next,
];

const YEARLY: &str = "schedule: {cron: '@yearly', timeZone: Europe/Berlin}";

async fn an_annotation_asks_for_a_run_now_and_each_value_for_one(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.begin(&format!("{YEARLY}\n{ANALYZE}")).await;
    world.until_condition("m", Type::Ready, "True", "Scheduled").await;
    let next = world.api::<SynapseMaintenance>().get("m").await.expect("it is there").status.unwrap().next_run_at;
    assert!(next.is_some_and(|next| next.0.to_string().contains("-12-31T23:00:00Z")), "New Year in Berlin");
    for (value, runs) in [("1", 1), ("1", 1), ("2", 2)] {
        world.run_now::<SynapseMaintenance>("m", value).await;
        let ran = world
            .until_maintenance("m", "has run", |object| outcomes(object).len() == runs && is(object, Type::Ready))
            .await;
        let status = ran.status.unwrap();
        assert_eq!(status.history[0].trigger, Trigger::Annotation);
        assert_eq!((status.history[0].number, status.run_now_answered.as_deref()), (runs as i64, Some(value)));
    }
    assert_eq!(world.place.ledger.begun().len(), 4, "two runs of preflight and one step: {}", world.place.ledger);
}

async fn a_suspended_schedule_starts_nothing(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.begin(&format!("suspend: true\n{YEARLY}\n{ANALYZE}")).await;
    world.run_now::<SynapseMaintenance>("m", "1").await;
    let message = world.until_condition("m", Type::Ready, "False", "Suspended").await;
    assert!(message.contains("spec.suspend"), "{message}");
    world.maintain("m", &format!("suspend: false\n{YEARLY}\n{ANALYZE}")).await;
    world.until_maintenance("m", "has run", |object| outcomes(object).len() == 1).await;
}

async fn a_schedule_that_cannot_be_followed_is_stalled_and_says_why(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.begin(&format!("schedule: {{cron: '@weekly', timeZone: Europe/Berlln}}\n{ANALYZE}")).await;
    let message = world.until_condition("m", Type::Stalled, "True", "UnknownTimeZone").await;
    assert!(message.contains("spec.schedule.timeZone") && message.contains("Europe/Berlln"), "{message}");
    assert_eq!(told(&world, "m", "UnknownTimeZone").await, ("Warning".to_owned(), message));
    world.maintain("m", &format!("schedule: {{cron: '61 3 * * 0'}}\n{ANALYZE}")).await;
    let message = world.until_condition("m", Type::Stalled, "True", "InvalidCron").await;
    assert!(message.contains("spec.schedule.cron") && message.contains("61 3 * * 0"), "{message}");
    assert_eq!(told(&world, "m", "InvalidCron").await, ("Warning".to_owned(), message));
    world.maintain("m", &format!("schedule: {{cron: '1 3 * * 0'}}\n{ANALYZE}")).await;
    world.until_condition("m", Type::Ready, "True", "Scheduled").await;
    assert!(!is(&world.api::<SynapseMaintenance>().get("m").await.expect("it is there"), Type::Stalled));
}

async fn a_run_comes_at_its_minute_and_is_skipped_when_the_homeserver_stays_busy(
    stage: Arc<Stage>,
    test: &'static str,
) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(
        Script::default().tasks(|task| (task.name() == "preflight").then(|| Fate::Held(Fate::RunsUntilDeleted.into()))),
    );
    world.begin(ANALYZE).await;
    world.until::<Lease>("synapse-keeper-example", "is held", |lease| lease.is_some()).await;
    world.maintain("minutely", &format!("schedule: {{cron: '* * * * *', startWithin: 3s}}\n{ANALYZE}")).await;
    let skipped =
        world.until_maintenance("minutely", "was skipped", |object| outcomes(object).contains(&Outcome::Skipped)).await;
    let entry = skipped.status.unwrap().history[0].clone();
    assert_eq!(
        (entry.outcome, entry.trigger, entry.reason.as_deref()),
        (Outcome::Skipped, Trigger::Schedule, Some("StartWithinExceeded"))
    );
    let message = entry.message.unwrap();
    assert!(message.contains("spec.schedule.startWithin") && message.contains("SynapseMaintenance m"), "{message}");
    assert_eq!(world.place.ledger.begun().len(), 1, "{}", world.place.ledger);

    world.play(Script::default());
    world.api::<SynapseMaintenance>().delete("m", &DeleteParams::default()).await.expect("it is there");
    world.maintain("minutely", &format!("schedule: {{cron: '* * * * *', startWithin: 50s}}\n{ANALYZE}")).await;
    let ran =
        world.until_maintenance("minutely", "has run", |object| outcomes(object).contains(&Outcome::Succeeded)).await;
    assert!(is(&ran, Type::Ready));
}

async fn a_failed_run_is_not_the_end_of_a_schedule(stage: Arc<Stage>, test: &'static str) {
    use synapse_keeper::contract::ErrorClass::Terminal;
    let mut world = World::with_homeserver(&stage, test).await;
    let refused = failure(Terminal, "PasswordRefused", "password authentication failed");
    world.play(
        Script::default().tasks(move |task| (task.name() == "preflight").then(|| Fate::Reports(refused.clone()))),
    );
    world.begin(&format!("{YEARLY}\n{ANALYZE}")).await;
    world.run_now::<SynapseMaintenance>("m", "1").await;
    world.until_condition("m", Type::Failed, "True", "PasswordRefused").await;
    assert!(
        !is(&world.api::<SynapseMaintenance>().get("m").await.expect("it is there"), Type::Stalled),
        "the next run may succeed"
    );
    world.play(Script::default());
    world.run_now::<SynapseMaintenance>("m", "2").await;
    let ran = world.until_maintenance("m", "is well again", |object| is(object, Type::Ready)).await;
    assert_eq!(outcomes(&ran), [Outcome::Succeeded, Outcome::Failed]);
    assert!(!is(&ran, Type::Failed));
}

async fn what_a_run_left_is_begun_with_in_the_next(stage: Arc<Stage>, test: &'static str) {
    let mut world = World::with_homeserver(&stage, test).await;
    world.play(Script::default().tasks(|task| {
        let mut report = success(task);
        let result = report.result.as_mut()?;
        result.cursor = task.flag("--cursor").is_none().then(|| "events,state_groups_state".to_owned());
        Some(Fate::Reports(report))
    }));
    world.begin(&format!("{YEARLY}\n{FULL}")).await;
    for (value, runs) in [("1", 1), ("2", 2), ("3", 3)] {
        world.run_now::<SynapseMaintenance>("m", value).await;
        let ran = world.until_maintenance("m", "has run", |object| outcomes(object).len() == runs).await;
        let left: Vec<String> = ran.status.unwrap().cursors.into_iter().map(|cursor| cursor.position).collect();
        let expected: &[&str] = if runs == 2 { &[] } else { &["events,state_groups_state"] };
        assert_eq!(left, expected, "run {runs}");
    }
    let entries = world.place.ledger.entries();
    let cursors: Vec<Option<&str>> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::TaskBegan { task, .. } if !["inspect", "placement"].contains(&task.name()) => {
                Some(task.flag("--cursor"))
            }
            _ => None,
        })
        .collect();
    let (preflight, step) = ("vacuum-1=events,state_groups_state", "events,state_groups_state");
    assert_eq!(cursors, [None, None, Some(preflight), Some(step), None, None]);

    world.maintain("once", FULL).await;
    let once = world.until_complete("once").await.status.unwrap();
    assert_eq!(once.cursors, [], "one that runs once does not go on");
    let result = once.run.unwrap().steps.pop().and_then(|step| step.result).expect("a result");
    assert_eq!(result.cursor.as_deref(), Some("events,state_groups_state"), "but says what it left");
}
