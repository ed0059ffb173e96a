//! Why a controller makes no Pod, in its own words: a quota, an admission rule, a missing account. It tells them as events, and
//! nowhere else.

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, api::ListParams};

use crate::api::conditions::truncate;

/// A controller tries again within this time, so nobody asks for its words before.
pub const EARLY: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);
/// At most so many bytes of a controller's words go into a status.
const WORDS: usize = 1024;

/// What the controller of this object has said last since then. `None`: it makes its Pods, or has not tried. Where events may
/// not be read nothing is known: that is no reason to fail.
pub async fn why(client: &Client, namespace: &str, kind: &str, name: &str, since: Timestamp) -> Option<String> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let fields = format!("regarding.kind={kind},regarding.name={name},reason=FailedCreate");
    let events = match api.list(&ListParams::default().fields(&fields)).await {
        Ok(events) => events.items,
        Err(error) => {
            tracing::debug!(namespace, kind, name, %error, "could not read events");
            return None;
        }
    };
    let newest = events.into_iter().filter(|event| told_at(event) >= Some(since)).max_by_key(told_at)?;
    newest.note.map(|note| truncate(&note, WORDS).to_owned())
}

/// The fields that decide whether a LimitRange or a quota that wants amounts lets a Pod of a Job in. `None`: these words are
/// about something else.
pub fn advice(why: &str) -> Option<&'static str> {
    // Of the admission plugins LimitRanger and ResourceQuota, and of the validation of what a LimitRange has filled in.
    let about_amounts = [
        "must specify ",
        " usage per Container is ",
        " usage per Pod is ",
        "limit to request ratio per ",
        "resources.requests: ",
    ];
    about_amounts.iter().any(|words| why.contains(words)).then_some(
        "Set spec.jobs.resources to amounts that the namespace's LimitRange and ResourceQuota allow \
         (for the container postgres of a drill: spec.verify.resources)",
    )
}

/// When it was reported last. The controllers use the older API's fields.
fn told_at(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    let old = event.deprecated_last_timestamp.as_ref().map(|time| time.0);
    series.or(old).or(event.event_time.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_that_a_namespace_does_not_allow_have_an_advice() {
        // As Kubernetes 1.36 writes them.
        let of_amounts = [
            "Error creating: pods \"a-b\" is forbidden: maximum memory usage per Container is 512Mi, but limit is 1Gi",
            "Error creating: pods \"a-b\" is forbidden: minimum cpu usage per Container is 50m, but request is 10m",
            "Error creating: pods \"a-b\" is forbidden: maximum memory usage per Pod is 2Gi, but limit is 3221225472",
            "Error creating: pods \"a-b\" is forbidden: memory max limit to request ratio per Container is 2, but provided ratio is 4.000000",
            "Error creating: pods \"a-b\" is forbidden: failed quota: tight: must specify limits.cpu for: task",
            "Error creating: Pod \"a-b\" is invalid: spec.containers[0].resources.requests: Invalid value: \"10m\": must be less than or equal to cpu limit of 5m",
        ];
        for words in of_amounts {
            assert!(advice(words).is_some_and(|advice| advice.contains("spec.jobs.resources")), "{words}");
        }
        let of_others = [
            "Error creating: pods \"a-b\" is forbidden: exceeded quota: tight, requested: pods=1, used: pods=4, limited: pods=4",
            "Error creating: pods \"a-b\" is forbidden: error looking up service account m/s: serviceaccount \"s\" not found",
        ];
        for words in of_others {
            assert_eq!(advice(words), None, "{words}");
        }
    }
}
