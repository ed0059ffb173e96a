//! Leader election: of several replicas one works.
//!
//! Every write carries the `resourceVersion` that was read, so that of two candidates one gets a conflict. kube has no
//! election of its own, and the crates that offer one write without it. Two leaders would be safe (what they do is on
//! record before it is done), but they would get into each other's way.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, ResourceExt, api::ObjectMeta};
use tokio_util::sync::CancellationToken;

use crate::{operation::scale::has_ended, requests::in_our_name};

/// A leader that has not renewed for this long is gone.
const DURATION: Duration = Duration::from_secs(30);
/// The same for a leader whose Pod is gone: longer than a leader takes to renew, because a Pod that was deleted by force may run
/// on.
const DURATION_WITHOUT_POD: Duration = Duration::from_secs(12);
/// How often a leader renews and a candidate looks.
const EVERY: Duration = Duration::from_secs(10);
/// A leader that could not renew for this long stops, before another may begin.
const GIVE_UP: Duration = Duration::from_secs(20);

/// The Lease of the election.
#[derive(Clone, Debug)]
pub struct LeaderLease {
    pub namespace: String,
    pub name: String,
    /// The candidate: its Pod's name.
    pub identity: String,
}

/// Why a leader must stop at once.
#[derive(Debug, thiserror::Error)]
#[error("lost the leadership: another operator works now")]
pub struct Lost;

/// Leadership. It lasts while [`Leadership::keep`] runs.
pub struct Leadership {
    api: Api<Lease>,
    held: Lease,
}

/// Waits for the leadership. `None`: shut down meanwhile.
pub async fn acquire(client: Client, lease: LeaderLease, shutdown: CancellationToken) -> Option<Leadership> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &lease.namespace);
    let api: Api<Lease> = Api::namespaced(client, &lease.namespace);
    // What others wrote is timed by our own clock from when we saw it change: clocks of nodes differ.
    let mut seen: Option<(Option<String>, std::time::Instant)> = None;
    tracing::info!(lease = lease.name, identity = lease.identity, "stands for election");
    loop {
        match tokio::time::timeout(EVERY, try_acquire(&api, &pods, &lease, &mut seen)).await {
            Ok(Ok(Some(held))) => {
                tracing::info!("leads");
                return Some(Leadership { api, held });
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not look at the election's Lease"),
            Err(_) => tracing::warn!("the API server did not answer in time when asked for the election's Lease"),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY / 2) => {}
            () = shutdown.cancelled() => return None,
        }
    }
}

/// The Lease as we have written it. `None`: another holds it.
async fn try_acquire(
    api: &Api<Lease>,
    pods: &Api<Pod>,
    lease: &LeaderLease,
    seen: &mut Option<(Option<String>, std::time::Instant)>,
) -> kube::Result<Option<Lease>> {
    let Some(found) = api.get_opt(&lease.name).await? else {
        let metadata = ObjectMeta { name: Some(lease.name.clone()), ..Default::default() };
        let fresh = Lease { metadata, spec: Some(held_by(&lease.identity, 0)) };
        return settled(api.create(&in_our_name(), &fresh).await);
    };
    let spec = found.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty());
    let free = holder.is_none_or(|holder| holder == lease.identity);
    let version = found.metadata.resource_version.clone();
    match seen {
        Some((last, since)) if *last == version => {
            let silent_for = since.elapsed();
            let is_over = silent_for >= DURATION || silent_for >= DURATION_WITHOUT_POD && is_gone(pods, holder).await;
            if !free && !is_over {
                return Ok(None);
            }
        }
        _ if free => {}
        _ => {
            *seen = Some((version, std::time::Instant::now()));
            return Ok(None);
        }
    }
    let taken = Lease { spec: Some(held_by(&lease.identity, spec.lease_transitions.unwrap_or(0) + 1)), ..found };
    settled(api.replace(&lease.name, &in_our_name(), &taken).await)
}

/// There is no such Pod, or it has ended. What cannot be seen is there.
async fn is_gone(pods: &Api<Pod>, holder: Option<&str>) -> bool {
    let Some(holder) = holder else { return true };
    match pods.get_opt(holder).await {
        Ok(pod) => pod.is_none_or(|pod| has_ended(&pod)),
        Err(_) => false,
    }
}

/// A conflict is an answer: another was faster.
fn settled(written: kube::Result<Lease>) -> kube::Result<Option<Lease>> {
    match written {
        Ok(held) => Ok(Some(held)),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(None),
        Err(error) => Err(error),
    }
}

fn held_by(identity: &str, transitions: i32) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..Default::default()
    }
}

impl Leadership {
    /// Renews it until the work is `done`, then frees the Lease: the next leader need not wait until it expires.
    ///
    /// # Errors
    /// When the leadership is lost: the work must stop where it is.
    pub async fn keep(self, done: CancellationToken) -> Result<(), Lost> {
        let Self { api, mut held } = self;
        let mut renewed = std::time::Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = done.cancelled() => {
                    give_up(&api, &held).await;
                    return Ok(());
                }
            }
            match tokio::time::timeout(EVERY, renew(&api, &held, Some(Timestamp::now()))).await {
                Ok(Ok(Some(newer))) => (held, renewed) = (newer, std::time::Instant::now()),
                Ok(Ok(None)) => {
                    tracing::error!("another holds the election's Lease");
                    return Err(Lost);
                }
                Ok(Err(error)) => tracing::warn!(%error, "could not renew the election's Lease"),
                Err(_) => tracing::warn!("the API server did not answer in time to renew the election's Lease"),
            }
            if renewed.elapsed() > GIVE_UP {
                tracing::error!("could not renew the election's Lease in time");
                return Err(Lost);
            }
        }
    }
}

/// Frees the Lease. Where that fails the next leader waits a little longer: no reason to end with an error.
async fn give_up(api: &Api<Lease>, held: &Lease) {
    match tokio::time::timeout(EVERY, renew(api, held, None)).await {
        Ok(Ok(_)) => tracing::info!("leads no more"),
        Ok(Err(error)) => tracing::warn!(%error, "could not free the election's Lease"),
        Err(_) => tracing::warn!("the API server did not answer in time to free the election's Lease"),
    }
}

/// Renews, or with `now` as `None` gives up. `None`: another holds it.
///
/// It writes over what was written last, without a look: where anybody has changed the Lease meanwhile, the
/// `resourceVersion` makes it a conflict. This is the one request that an idle operator sends.
async fn renew(api: &Api<Lease>, held: &Lease, now: Option<Timestamp>) -> kube::Result<Option<Lease>> {
    match write(api, held.clone(), now).await {
        Err(kube::Error::Api(status)) if status.is_conflict() => {}
        other => return other.map(Some),
    }
    // Somebody has put a label on it, or our own last write was not answered in time.
    let found = api.get(&held.name_any()).await?;
    let holder = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
    if holder(&found) != holder(held) {
        return Ok(None);
    }
    write(api, found, now).await.map(Some)
}

async fn write(api: &Api<Lease>, mut lease: Lease, now: Option<Timestamp>) -> kube::Result<Lease> {
    let spec = lease.spec.get_or_insert_default();
    match now {
        Some(now) => spec.renew_time = Some(MicroTime(now)),
        None => spec.holder_identity = None,
    }
    api.replace(&lease.name_any(), &in_our_name(), &lease).await
}
