//! What every reconcile shares.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder},
};

use crate::{api::conditions::truncate, metrics::Metrics};

/// How the operator was installed.
#[derive(Clone, Debug)]
pub struct Config {
    /// Image of the tools, in which tasks run.
    pub tools_image: String,
    /// Pull policy of that image.
    pub tools_image_pull_policy: String,
    /// The operator's own namespace and Pod, where it runs in one.
    pub own_pod: Option<(String, String)>,
    /// Longest time for one reconcile. It ends earlier than the API client's own retries, so that a dead connection is
    /// noticed; a reconcile that is cut off is the same as an operator that is killed, and as harmless.
    pub reconcile_timeout: Duration,
}

/// Shared by all reconciles.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub config: Config,
    pub recorder: Recorder,
    pub metrics: Metrics,
    uninstalling: Arc<AtomicBool>,
}

impl Context {
    pub fn new(client: Client, config: Config, recorder: Recorder, metrics: Metrics) -> Self {
        Self { client, config, recorder, metrics, uninstalling: Arc::default() }
    }

    /// Publishes an event. One that cannot be published is logged: it is no reason to fail. `action` is the API's word for what
    /// was done.
    pub async fn tell<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        type_: EventType,
        reason: &str,
        note: &str,
        action: &str,
    ) {
        let event = Event {
            type_,
            reason: truncate(reason, 128).to_owned(),
            note: Some(truncate(note, 1024).to_owned()),
            action: truncate(action, 128).to_owned(),
            secondary: None,
        };
        let published =
            tokio::time::timeout(Duration::from_secs(5), self.recorder.publish(&event, &object.object_ref(&()))).await;
        if let Ok(Err(error)) = published {
            tracing::warn!(%error, "could not publish an event");
        }
    }

    /// The chart's pre-delete hook has asked for everything to be brought back.
    pub fn is_uninstalling(&self) -> bool {
        self.uninstalling.load(Ordering::Relaxed)
    }

    /// Notes whether the hook is under way.
    pub fn set_uninstalling(&self, uninstalling: bool) {
        self.uninstalling.store(uninstalling, Ordering::Relaxed);
    }
}
