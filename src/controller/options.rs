//! How the operator is started: flags, or environment variables in a Deployment.

use std::net::SocketAddr;

use super::{leader::LeaderLease, watches::Scope};

/// Options of `synapse-keeper controller`.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Image in which tasks run.
    #[arg(long, env)]
    pub tools_image: String,
    /// Pull policy of that image.
    #[arg(long, env, default_value = "IfNotPresent")]
    pub tools_image_pull_policy: String,
    /// Watch this namespace alone; empty: all.
    #[arg(long, env, default_value = "")]
    pub watch_namespace: String,
    /// Name of the Lease for leader election in the operator's own namespace; empty: off.
    #[arg(long, env, default_value = "")]
    pub leader_election_lease: String,
    /// The operator's own namespace.
    #[arg(long, env)]
    pub pod_namespace: Option<String>,
    /// The operator's own Pod.
    #[arg(long, env)]
    pub pod_name: Option<String>,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env, default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
}

impl Options {
    pub(super) fn scope(&self) -> Scope {
        Scope {
            namespace: Some(self.watch_namespace.clone()).filter(|name| !name.is_empty()),
            own: self.pod_namespace.clone(),
        }
    }

    pub(super) fn own_pod(&self) -> Option<(String, String)> {
        Some((self.pod_namespace.clone()?, self.pod_name.clone()?))
    }

    pub(super) fn leader_election(&self) -> Option<LeaderLease> {
        let name = Some(self.leader_election_lease.clone()).filter(|name| !name.is_empty())?;
        let (namespace, identity) = self.own_pod()?;
        Some(LeaderLease { namespace, name, identity })
    }
}
