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
    error::Error,
    metrics::Metrics,
    operation::{kinds, lease, orphans},
    requests::in_time,
};

/// The operator may take this long to begin; then it counts as dead.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest time for one request.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest time for one look at a Lease, so that one that hangs leaves time for the others.
const TEND: Duration = Duration::from_secs(30);

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
    let context = Context::new(client.clone(), config, recorder, Metrics::new(kinds::NAMES));
    let timeout = options.timeout.to_signed().unsigned_abs();
    let mut problem = Error::TimedOut.to_string();
    let leases: Api<Lease> = scope.api(&client);
    let all_back = bring_all_back(&context, &leases, patience(timeout), &mut problem);
    let ended = tokio::time::timeout(timeout, all_back).await;
    ended.unwrap_or(Err(problem)).map_err(Into::into)
}

/// How long the operator may take to begin. A short timeout leaves half of it to do its work.
fn patience(timeout: Duration) -> Duration {
    PATIENCE.min(timeout / 2)
}

/// Returns when every homeserver is back, or when it never will be. `problem`: what keeps it from that.
async fn bring_all_back(
    context: &Context,
    leases: &Api<Lease>,
    patience: Duration,
    problem: &mut String,
) -> Result<(), String> {
    let ours = ListParams::default().labels(&lease::selector());
    let began = Instant::now();
    loop {
        match in_time(ANSWER, async { Ok(leases.list(&ours).await?.items) }).await {
            // With a database that is unfinished nobody starts one: its Lease says what to do, and stays.
            Ok(held) if held.iter().all(|lease| lease::kept_down(lease).is_some()) => {
                for lease in &held {
                    tracing::warn!(lease = name(lease), why = lease::kept_down(lease), "is not brought back");
                }
                tracing::info!("every other homeserver is back");
                return Ok(());
            }
            Ok(held) => {
                let names = held.iter().map(name).collect::<Vec<_>>().join(", ");
                tracing::info!(leases = names, "waits until the homeservers are back");
                *problem = format!("not back in time: {names}. `kubectl describe lease` says what to type");
                for lease in &held {
                    let everyone_is_dead = began.elapsed() > patience;
                    let outcome = in_time(TEND, orphans::tend(context, lease, everyone_is_dead)).await;
                    tracing::info!(lease = name(lease), ?outcome, "looked");
                }
            }
            Err(error) => {
                *problem = format!("could not look for the homeservers' Leases: {error}");
                tracing::warn!("{problem}");
                if error.class() == "refused" {
                    return Err(problem.clone());
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

fn name(lease: &Lease) -> String {
    format!("{}/{}", lease.namespace().unwrap_or_default(), lease.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::client::tests::silent_server;

    #[test]
    fn the_hook_has_time_left_when_it_gives_the_operator_up() {
        let seconds = Duration::from_secs;
        assert_eq!(patience(seconds(600)), seconds(120));
        assert_eq!(patience(seconds(90)), seconds(45));
    }

    #[tokio::test]
    async fn an_api_server_that_never_answers_does_not_outlast_the_timeout() {
        let client = Client::try_from(silent_server().await).expect("a client");
        let options = Options { watch_namespace: String::new(), timeout: "2s".parse().expect("a duration") };
        let began = Instant::now();
        let error = run(client, options).await.expect_err("nobody answered").to_string();
        assert_eq!(error, "the API server did not answer in time");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
