//! Leader election: of several replicas one works.
//!
//! Every write carries the `resourceVersion` that was read, so that of two candidates one gets a conflict. kube has no
//! election of its own, and the crates that offer one write without it. Two leaders would be safe (what they do is on
//! record before it is done), but they would get into each other's way.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, api::ObjectMeta};
use tokio_util::sync::CancellationToken;

use crate::context::in_our_name;

/// A leader that has not renewed for this long is gone.
const DURATION: Duration = Duration::from_secs(30);
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

/// Leadership, renewed in the background.
pub struct Leadership {
    lost: CancellationToken,
}

impl Leadership {
    /// Returns when the leadership is lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// Waits for the leadership. `None`: shut down meanwhile. After `shutdown` it is given up at once.
pub async fn acquire(client: Client, lease: LeaderLease, shutdown: CancellationToken) -> Option<Leadership> {
    let api: Api<Lease> = Api::namespaced(client, &lease.namespace);
    // What others wrote is timed by our own clock from when we saw it change: clocks of nodes differ.
    let mut seen: Option<(Option<String>, std::time::Instant)> = None;
    tracing::info!(lease = lease.name, identity = lease.identity, "stands for election");
    loop {
        match tokio::time::timeout(EVERY, try_acquire(&api, &lease, &mut seen)).await {
            Ok(Ok(true)) => break,
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "could not look at the election's Lease"),
            Err(_) => tracing::warn!("the API server did not answer in time when asked for the election's Lease"),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY / 2) => {}
            () = shutdown.cancelled() => return None,
        }
    }
    tracing::info!("leads");
    let lost = CancellationToken::new();
    tokio::spawn(keep(api, lease, shutdown, lost.clone()));
    Some(Leadership { lost })
}

async fn try_acquire(
    api: &Api<Lease>,
    lease: &LeaderLease,
    seen: &mut Option<(Option<String>, std::time::Instant)>,
) -> kube::Result<bool> {
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
            if !free && since.elapsed() < DURATION {
                return Ok(false);
            }
        }
        _ if free => {}
        _ => {
            *seen = Some((version, std::time::Instant::now()));
            return Ok(false);
        }
    }
    let taken = Lease { spec: Some(held_by(&lease.identity, spec.lease_transitions.unwrap_or(0) + 1)), ..found };
    settled(api.replace(&lease.name, &in_our_name(), &taken).await)
}

/// A conflict is an answer: another was faster.
fn settled(written: kube::Result<Lease>) -> kube::Result<bool> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
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

async fn keep(api: Api<Lease>, lease: LeaderLease, shutdown: CancellationToken, lost: CancellationToken) {
    let _lost = lost.drop_guard();
    let mut renewed = std::time::Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = shutdown.cancelled() => return drop(renew(&api, &lease, None).await),
        }
        match tokio::time::timeout(EVERY, renew(&api, &lease, Some(Timestamp::now()))).await {
            Ok(Ok(true)) => renewed = std::time::Instant::now(),
            Ok(Ok(false)) => return tracing::error!("another holds the election's Lease"),
            Ok(Err(error)) => tracing::warn!(%error, "could not renew the election's Lease"),
            Err(_) => tracing::warn!("the API server did not answer in time to renew the election's Lease"),
        }
        if renewed.elapsed() > GIVE_UP {
            return tracing::error!("could not renew the election's Lease in time");
        }
    }
}

/// Renews, or with `None` gives up. False: another holds it.
async fn renew(api: &Api<Lease>, lease: &LeaderLease, now: Option<Timestamp>) -> kube::Result<bool> {
    let mut found = api.get(&lease.name).await?;
    let spec = found.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() != Some(&lease.identity) {
        return Ok(false);
    }
    match now {
        Some(now) => spec.renew_time = Some(MicroTime(now)),
        None => spec.holder_identity = None,
    }
    api.replace(&lease.name, &in_our_name(), &found).await?;
    Ok(true)
}
