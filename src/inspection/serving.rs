//! Whether anybody is served: a Pod of the main process is Ready. It is looked at without a Job, also when the operation is over
//! that left it down.

use jiff::{SignedDuration, Timestamp};
use kube::Client;

use crate::{
    api::{
        conditions::{self, Conditions, Type},
        operation::Role,
        synapse::{SynapseSpec, SynapseStatus},
    },
    operation::resolve::{self, Found},
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
            "nobody is served: {} is scaled to 0, and no operation has the homeserver down. To start it: kubectl -n {namespace} \
             scale {plural}/{name} --replicas=1",
            first.workload
        );
        return Some(Err(NotServing { reason: "ScaledToZero", message }));
    }
    let one = serving.iter().find(|one| one.replicas > 0).unwrap_or(first);
    let message = format!(
        "nobody is served: {} has 0 of {} Pods Ready. See why with kubectl -n {namespace} describe {} {}, and describe pods",
        one.workload,
        one.replicas,
        one.workload.kind.plural(),
        one.workload.name
    );
    Some(Err(NotServing { reason: "NoPodReady", message }))
}

/// Writes the condition. An outage is Unknown first: a restart looks the same. `gave_up_at`: a run stopped waiting for the
/// Pods then. What it has left down is no restart.
pub fn write(
    status: &mut SynapseStatus,
    generation: i64,
    serving: &Serving,
    gave_up_at: Option<Timestamp>,
    now: Timestamp,
) {
    let was = conditions::find(&status.conditions, Type::Serving);
    let since = was.filter(|was| was.status != "True").map(|was| (was.status == "False", was.last_transition_time.0));
    // Nobody has seen since that somebody is served.
    let is_left_down = gave_up_at.is_some_and(|at| was.is_none_or(|was| was.last_transition_time.0 <= at));
    let mut conditions = Conditions::new(&mut status.conditions, generation, now);
    match serving {
        Ok(message) => {
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
            if is_sure {
                conditions.set(Type::Serving, false, reason, message);
            } else {
                conditions.set_unknown(Type::Serving, reason, message);
            }
        }
    }
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
        let down: Serving = Err(NotServing { reason: "NoPodReady", message: "nobody is served".to_owned() });
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
            write(&mut status, 1, serving, gave_up_at.map(at), at(second));
            let condition = conditions::find(&status.conditions, Type::Serving).unwrap();
            let since = condition.last_transition_time.0.as_second();
            assert_eq!((condition.status.as_str(), since), wanted, "at {second}");
        }
        let mut unknown = SynapseStatus::default();
        write(&mut unknown, 1, &down, Some(at(100)), at(102));
        assert!(conditions::is_false(&unknown.conditions, Type::Serving), "nobody looked before");
    }
}
