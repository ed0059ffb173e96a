//! Why a Pod does not run, for people. Pure.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};

/// Reasons of a container that never ran.
const START_ERRORS: [&str; 2] = ["StartError", "ContainerCannotRun"];

/// In the words of scheduler and kubelet: unschedulable, an image that cannot be pulled, a container that keeps ending.
pub fn why(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let waiting = containers
        .filter_map(|container| Some((container, container.state.as_ref()?.waiting.as_ref()?)))
        .find(|(_, waiting)| !matches!(waiting.reason.as_deref(), Some("ContainerCreating" | "PodInitializing")));
    if let Some((container, waiting)) = waiting {
        let words = [Some(waiting.reason.as_deref().unwrap_or("Waiting")), waiting.message.as_deref()];
        let words = words.into_iter().flatten().collect::<Vec<_>>().join(": ");
        let ended = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let ended = ended.map(|ended| format!("; it ended with {}", end_of(ended))).unwrap_or_default();
        return Some(format!("container {}: {words}{ended}", container.name));
    }
    let condition = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some(format!("{}: {}", condition.reason.as_deref()?, condition.message.as_deref().unwrap_or_default()))
}

/// How a container ended, in the kubelet's words. The words of the program itself stay in its log: they may have secrets.
fn end_of(ended: &ContainerStateTerminated) -> String {
    let reason = ended.reason.as_deref().unwrap_or("Error");
    match &ended.message {
        // It never ran, so the words are the container runtime's.
        Some(message) if START_ERRORS.contains(&reason) => format!("{reason}: {message}"),
        _ => format!("{reason}, exit code {}", ended.exit_code),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn waiting(last: Value) -> Option<String> {
        let container = json!({
            "name": "synapse", "image": "", "imageID": "", "ready": false, "restartCount": 1, "lastState": last,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}},
        });
        why(&serde_json::from_value(json!({"status": {"containerStatuses": [container]}})).unwrap())
    }

    #[test]
    fn a_container_that_keeps_ending_says_how_it_ended() {
        let loops = "container synapse: CrashLoopBackOff: back-off 10s restarting failed container";
        assert_eq!(waiting(json!({})).unwrap(), loops);
        for (ended, words) in [
            (
                json!({"reason": "StartError", "message": "exec: python3: not found", "exitCode": 128}),
                "StartError: exec: python3: not found",
            ),
            (json!({"reason": "OOMKilled", "exitCode": 137}), "OOMKilled, exit code 137"),
            (json!({"reason": "Error", "message": "password=secret", "exitCode": 1}), "Error, exit code 1"),
        ] {
            assert_eq!(waiting(json!({"terminated": ended})).unwrap(), format!("{loops}; it ended with {words}"));
        }
    }
}
