//! `synapse-keeper release`: what the chart's pre-delete hook runs.
//!
//! The hook's Job, by being there, tells the operator to bring every homeserver back. This waits until no Lease of a
//! homeserver is left. Where the operator is dead, it brings them back itself.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    runtime::events::{Recorder, Reporter},
};

use super::watches::Scope;
use crate::{
    api::{self, MANAGER},
    context::{Config, Context},
    metrics::Metrics,
    operation::{lease, orphans},
};

/// The operator may take this long to begin; then it counts as dead.
const PATIENCE: Duration = Duration::from_secs(120);

/// Options of `synapse-keeper release`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Look after this namespace alone; empty: all.
    #[arg(long, env, default_value = "")]
    pub watch_namespace: String,
    /// How long to try, such as 4m.
    #[arg(long, default_value = "10m")]
    pub timeout: api::Duration,
}

/// Waits until every homeserver is back.
///
/// # Errors
/// When one is not, in time: with the names of the Leases, which say what to type.
pub async fn run(client: Client, options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let scope = Scope { namespace: Some(options.watch_namespace).filter(|name| !name.is_empty()), own: None };
    let config = Config {
        tools_image: String::new(),
        tools_image_pull_policy: String::new(),
        own_pod: None,
        reconcile_timeout: Duration::from_secs(60),
    };
    let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.into(), instance: None });
    let context = Context::new(client.clone(), config, recorder, Metrics::default());
    let leases: Api<Lease> = scope.api(&client);
    let ours = ListParams::default().labels(&lease::selector());
    let began = Instant::now();
    loop {
        let held = leases.list(&ours).await?.items;
        if held.is_empty() {
            tracing::info!("every homeserver is back");
            return Ok(());
        }
        let names: Vec<String> = held
            .iter()
            .map(|lease| format!("{}/{}", lease.namespace().unwrap_or_default(), lease.name_any()))
            .collect();
        if began.elapsed() > options.timeout.to_signed().unsigned_abs() {
            return Err(
                format!("not back in time: {}. `kubectl describe lease` says what to type", names.join(", ")).into()
            );
        }
        tracing::info!(leases = names.join(", "), "waits until the homeservers are back");
        for lease in &held {
            let outcome = orphans::tend(&context, lease, began.elapsed() > PATIENCE).await;
            tracing::info!(lease = lease.name_any(), ?outcome, "looked");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
