//! Why a controller makes no Pod, in its own words: a quota, an admission rule, a missing account. It tells them as events, and
//! nowhere else.

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, api::ListParams};

use crate::api::conditions::truncate;

/// A controller tries again within this time, so nobody asks for its words before.
pub const EARLY: jiff::SignedDuration = jiff::SignedDuration::from_secs(10);
/// As many bytes of somebody else's words go into a status.
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

/// When it was told last. The controllers use the older API's fields.
fn told_at(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().map(|series| series.last_observed_time.0);
    let old = event.deprecated_last_timestamp.as_ref().map(|time| time.0);
    series.or(old).or(event.event_time.as_ref().map(|time| time.0))
}
