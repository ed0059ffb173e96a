//! Whether anybody is served: a Pod of the main process is Ready. It is looked at without a Job, also when the operation is over
//! that left it down.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;

use crate::{
    api::{
        conditions::{self, Conditions, Type},
        operation::{Role, Run},
        synapse::{SynapseSpec, SynapseStatus},
    },
    operation::resolve::{self, Found},
    words::moment,
};

/// A restart takes less: it is no news.
const RESTARTS_WITHIN: SignedDuration = SignedDuration::from_secs(60);

/// What was seen: in `Err` why nobody is served.
pub type Serving = Result<String, NotServing>;

/// Why nobody is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotServing {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A downtime that has not ended with as many Pods Ready as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Downtime {
    pub since: Timestamp,
    /// When its run stopped waiting for the Pods. `None`: it is under way, or the homeserver is kept down.
    pub gave_up_at: Option<Timestamp>,
}

impl Downtime {
    /// That of a run. `is_kept_down`: the homeserver's Lease says that the replicas stay at 0.
    pub fn of(run: &Run, is_kept_down: bool) -> Option<Self> {
        let window = run.window.as_ref().filter(|window| window.ready_at.is_none())?;
        let gave_up_at = run.gave_up_at();
        let goes_on = !run.is_finished() || is_kept_down && run.must_stay_down();
        (goes_on || gave_up_at.is_some()).then_some(Self { since: window.recorded_at.0, gave_up_at })
    }

    /// Of those of several runs the one that counts: what is under way, or the last one.
    pub fn later(self, other: Option<Self>) -> Self {
        let rank = |one: &Self| (one.gave_up_at.is_none(), one.gave_up_at, one.since);
        other.filter(|other| rank(other) > rank(&self)).unwrap_or(self)
    }
}

/// Looks at the main process; where none is named, at all of Synapse's workloads. `None`: there is none.
///
/// # Errors
/// What the API server answers.
pub async fn look(client: &Client, namespace: &str, spec: &SynapseSpec) -> kube::Result<Option<Serving>> {
    let found = resolve::find(client, namespace, spec).await?;
    Ok(judge(&found, namespace))
}

fn judge(found: &[Found], namespace: &str) -> Option<Serving> {
    let role = if found.iter().any(|one| one.role == Role::Main) { Role::Main } else { Role::Worker };
    let serving: Vec<&Found> = found.iter().filter(|one| one.role == role).collect();
    let first = serving.first()?;
    if let Some(one) = serving.iter().find(|one| one.ready > 0) {
        return Some(Ok(format!("{} has {} of {} Pods Ready", one.workload, one.ready, one.replicas)));
    }
    let (plural, name) = (first.workload.kind.plural(), &first.workload.name);
    if serving.iter().all(|one| one.replicas == 0) {
        let message = format!(
            "{} is scaled to 0, and no operation has the homeserver down. To start it: kubectl -n {namespace} \
             scale {plural}/{name} --replicas=1",
            first.workload
        );
        return Some(Err(NotServing { reason: "ScaledToZero", message }));
    }
    let one = serving.iter().find(|one| one.replicas > 0).unwrap_or(first);
    let message = format!(
        "{} has 0 of {} Pods Ready. See why with kubectl -n {namespace} describe {} {}, and describe pods",
        one.workload,
        one.replicas,
        one.workload.kind.plural(),
        one.workload.name
    );
    Some(Err(NotServing { reason: "NoPodReady", message }))
}

/// Writes the condition, and since when nobody is served. An outage is Unknown first: a restart looks the same. What a run has
/// left down is no restart.
pub fn write(
    status: &mut SynapseStatus,
    generation: i64,
    serving: &Serving,
    downtime: Option<Downtime>,
    now: Timestamp,
) {
    let was = conditions::find(&status.conditions, Type::Serving);
    let since = was.filter(|was| was.status != "True").map(|was| (was.status == "False", was.last_transition_time.0));
    // An old one does not count when somebody was seen to be served since.
    let counts = |at: Timestamp| was.is_none_or(|was| was.last_transition_time.0 <= at);
    let downtime = downtime.filter(|downtime| downtime.gave_up_at.is_none_or(counts));
    let is_left_down = downtime.is_some_and(|downtime| downtime.gave_up_at.is_some());
    let mut conditions = Conditions::new(&mut status.conditions, generation, now);
    match serving {
        Ok(message) => {
            status.not_served_since = None;
            if is_left_down {
                // It was True before the downtime. It is True since now, so that the next restart is one.
                conditions.clear(Type::Serving);
            }
            conditions.set(Type::Serving, true, "Serves", message);
        }
        Err(NotServing { reason, message }) => {
            let was_long_enough =
                |(was_sure, since): (bool, Timestamp)| was_sure || now.duration_since(since) >= RESTARTS_WITHIN;
            let is_sure = is_left_down || since.is_some_and(was_long_enough);
            // A release before this one wrote the condition alone.
            let known = downtime.map(|downtime| downtime.since).or(since.map(|(_, since)| since));
            let since = earlier(&mut status.not_served_since, known.unwrap_or(now));
            let message = &format!("{}: {message}", not_served(since));
            if is_sure {
                conditions.set(Type::Serving, false, reason, message);
            } else {
                conditions.set_unknown(Type::Serving, reason, message);
            }
        }
    }
}

/// Since when nobody is served, in words that stay the same.
pub fn not_served(since: &Time) -> String {
    format!("nobody has been served since {}", moment(since.0))
}

/// An operation has the homeserver down. Nobody looks at its Pods, which are not there.
pub fn is_down(status: &mut SynapseStatus, downtime: Option<Downtime>, now: Timestamp) {
    earlier(&mut status.not_served_since, downtime.map_or(now, |downtime| downtime.since));
}

/// The Pods may be seen to go before the downtime is.
fn earlier(not_served_since: &mut Option<Time>, since: Timestamp) -> &Time {
    let known = not_served_since.take().filter(|known| known.0 <= since);
    not_served_since.insert(known.unwrap_or(Time(since)))
}

/// When it should be looked at again. `None`: who changes the workload wakes us.
pub fn look_again(status: &SynapseStatus) -> Option<SignedDuration> {
    let is_well = conditions::find(&status.conditions, Type::Serving).is_none_or(|serving| serving.status == "True");
    (!is_well).then_some(RESTARTS_WITHIN)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::json;

    use super::*;

    fn found(name: &str, role: Role, replicas: i32, ready: i32) -> Found {
        let deployment = json!({
            "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {}, "template": {}},
            "status": {"readyReplicas": ready},
        });
        let deployment: Deployment = serde_json::from_value(deployment).unwrap();
        Found { role, ..resolve::from_deployment(deployment) }
    }

    #[test]
    fn the_main_process_serves_and_where_none_is_named_any_of_them() {
        let reason =
            |found: &[Found]| judge(found, "matrix").map(|serving| serving.map_or_else(|why| why.reason, |_| "Serves"));
        use Role::{Authentication, Main, Worker};
        for (found, wanted) in [
            (vec![found("main", Main, 1, 1), found("w", Worker, 2, 0)], Some("Serves")),
            (vec![found("main", Main, 1, 0), found("w", Worker, 2, 2)], Some("NoPodReady")),
            (vec![found("main", Main, 0, 0), found("w", Worker, 2, 2)], Some("ScaledToZero")),
            (vec![found("a", Worker, 1, 0), found("b", Worker, 1, 1)], Some("Serves")),
            (vec![found("a", Worker, 0, 0), found("b", Worker, 1, 0)], Some("NoPodReady")),
            (vec![found("mas", Authentication, 1, 1)], None),
            (Vec::new(), None),
        ] {
            assert_eq!(reason(&found), wanted, "{found:?}");
        }
        let Some(Err(why)) = judge(&[found("main", Main, 1, 0)], "matrix") else { panic!("it does not serve") };
        assert!(why.message.contains("Deployment/main has 0 of 1 Pods Ready"), "{}", why.message);
        assert!(why.message.contains("kubectl -n matrix describe deployments main"), "{}", why.message);
    }

    #[test]
    fn a_restart_is_no_news_and_more_than_that_is() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut status = SynapseStatus::default();
        let down: Serving = Err(NotServing { reason: "NoPodReady", message: "0 of 1".to_owned() });
        let up: Serving = Ok("1 of 1".to_owned());
        for (serving, second, wanted) in [
            (&up, 0, "True"),
            (&down, 100, "Unknown"),
            (&down, 159, "Unknown"),
            (&up, 159, "True"),
            (&down, 200, "Unknown"),
            (&down, 260, "False"),
            (&down, 261, "False"),
            (&up, 300, "True"),
        ] {
            write(&mut status, 1, serving, None, at(second));
            let condition = conditions::find(&status.conditions, Type::Serving).unwrap();
            assert_eq!(condition.status, wanted, "at {second}");
            assert_eq!(look_again(&status).is_some(), wanted != "True");
        }
    }
    #[test]
    fn what_a_run_has_left_down_is_no_restart_until_somebody_was_served() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut status = SynapseStatus::default();
        let down: Serving = Err(NotServing { reason: "NoPodReady", message: "0 of 1".to_owned() });
        let up: Serving = Ok("1 of 1".to_owned());
        for (serving, gave_up_at, second, wanted) in [
            (&up, None, 0, ("True", 0)),
            // It was down in between, and nobody looked.
            (&down, Some(100), 101, ("False", 101)),
            (&up, Some(100), 110, ("True", 110)),
            // The run is on record for long.
            (&down, Some(100), 500, ("Unknown", 500)),
            (&up, Some(100), 510, ("True", 510)),
            // Again, and this time it was Ready before anybody looked.
            (&up, Some(600), 601, ("True", 601)),
            (&up, Some(600), 605, ("True", 601)),
            (&down, Some(600), 700, ("Unknown", 700)),
            (&up, Some(600), 710, ("True", 710)),
            // It was seen while the run waited for it.
            (&down, None, 800, ("Unknown", 800)),
            (&down, Some(815), 816, ("False", 816)),
        ] {
            let downtime = gave_up_at.map(|gave_up_at| Downtime { since: at(50), gave_up_at: Some(at(gave_up_at)) });
            write(&mut status, 1, serving, downtime, at(second));
            let condition = conditions::find(&status.conditions, Type::Serving).unwrap();
            let since = condition.last_transition_time.0.as_second();
            assert_eq!((condition.status.as_str(), since), wanted, "at {second}");
        }
        let mut unknown = SynapseStatus::default();
        let left_down = Downtime { since: at(50), gave_up_at: Some(at(100)) };
        write(&mut unknown, 1, &down, Some(left_down), at(102));
        assert!(conditions::is_false(&unknown.conditions, Type::Serving), "nobody looked before");
    }
    #[test]
    fn an_outage_counts_from_its_beginning_until_somebody_is_served() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut status = SynapseStatus::default();
        let down: Serving = Err(NotServing { reason: "NoPodReady", message: "0 of 1".to_owned() });
        let up: Serving = Ok("1 of 1".to_owned());
        let under_way = Some(Downtime { since: at(300), gave_up_at: None });
        let gave_up = Some(Downtime { since: at(300), gave_up_at: Some(at(340)) });
        for (serving, downtime, second, wanted) in [
            (&up, None, 0, None),
            // A crash.
            (&down, None, 100, Some(100)),
            (&down, None, 170, Some(100)),
            (&up, None, 180, None),
            // A downtime, whose Pods go before it is seen, and whose run waits for them and gives up.
            (&down, None, 301, Some(301)),
            (&down, under_way, 320, Some(300)),
            (&down, gave_up, 341, Some(300)),
            (&down, gave_up, 9_000, Some(300)),
            (&up, gave_up, 9_010, None),
            // A crash again: that run is over.
            (&down, gave_up, 9_500, Some(9_500)),
        ] {
            write(&mut status, 1, serving, downtime, at(second));
            let since = status.not_served_since.as_ref().map(|since| since.0.as_second());
            assert_eq!(since, wanted, "at {second}");
            let condition = conditions::find(&status.conditions, Type::Serving).unwrap();
            let said = wanted.map(|since| format!("nobody has been served since {}: 0 of 1", moment(at(since))));
            assert_eq!(condition.message, said.unwrap_or_else(|| "1 of 1".to_owned()));
        }
    }

    #[test]
    fn the_downtime_of_a_run_goes_on_until_its_pods_are_ready() {
        let time = |second: i64| moment(Timestamp::from_second(second).unwrap());
        let run = |window: serde_json::Value, more: serde_json::Value| {
            let mut run = json!({
                "number": 1, "trigger": "Once", "generation": 1, "startedAt": time(0), "steps": [],
                "downtime": {"atMost": "10m", "readyWithin": "30s"},
            });
            let object = run.as_object_mut().unwrap();
            object.extend(more.as_object().unwrap().clone());
            let mut recorded = json!({"workloads": [], "recordedAt": time(10)});
            recorded.as_object_mut().unwrap().extend(window.as_object().unwrap().clone());
            object.insert("window".to_owned(), recorded);
            let run: Run = serde_json::from_value(run).unwrap();
            let seconds = |at: Timestamp| at.as_second();
            let downtime = |is_kept_down| Downtime::of(&run, is_kept_down);
            [false, true].map(|kept| downtime(kept).map(|one| (seconds(one.since), one.gave_up_at.map(seconds))))
        };
        let up = json!({"resumeBeganAt": time(20), "returnedAt": time(21)});
        let ready = json!({"resumeBeganAt": time(20), "returnedAt": time(21), "readyAt": time(30)});
        let not_ready = json!({"resumeBeganAt": time(20), "returnedAt": time(21), "notReady": "0 of 1"});
        let failed = json!({"outcome": "Failed", "finishedAt": time(60)});
        let unfinished = json!({"outcome": "Failed", "finishedAt": time(60), "unfinished": true});
        assert_eq!(run(json!({}), json!({})), [Some((10, None)); 2], "it is down");
        assert_eq!(run(up, json!({})), [Some((10, None)); 2], "it waits for the Pods");
        assert_eq!(run(ready, json!({})), [None; 2]);
        assert_eq!(run(not_ready.clone(), json!({})), [Some((10, Some(50))); 2], "it has stopped waiting");
        assert_eq!(run(not_ready, failed.clone()), [Some((10, Some(60))); 2]);
        assert_eq!(run(json!({}), failed), [None; 2], "it was deleted: nobody waited");
        assert_eq!(run(json!({}), unfinished), [None, Some((10, None))], "until a person brings it back");
    }

    #[test]
    fn the_downtime_that_is_under_way_counts_and_then_the_last_one() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let over = |since| Downtime { since: at(since), gave_up_at: Some(at(since + 30)) };
        let under_way = Downtime { since: at(1), gave_up_at: None };
        for (one, other, wanted) in
            [(over(2), None, over(2)), (over(2), Some(over(5)), over(5)), (over(9), Some(under_way), under_way)]
        {
            assert_eq!(one.later(other), wanted);
            assert_eq!(other.unwrap_or(one).later(Some(one)), wanted);
        }
    }
}
