//! `/healthz`, `/readyz` and `/metrics`.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, http::StatusCode, routing::get};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// What the operator waits for; `None` when it works.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<Option<String>>>);

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some("starts".to_owned()))))
    }
}

impl Readiness {
    /// It works.
    pub fn ready(&self) {
        self.set(None);
    }

    /// Another replica works. That is what a replica is for: it counts as ready.
    pub fn standing_by(&self) {
        self.set(None);
    }

    pub fn waiting_for(&self, what: &str) {
        self.set(Some(format!("waits for {what}")));
    }

    fn set(&self, waits: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = waits;
    }

    fn answer(&self) -> (StatusCode, String) {
        match self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(waits) => (StatusCode::SERVICE_UNAVAILABLE, format!("{waits}\n")),
        }
    }
}

/// Serves until `shutdown`.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(
    listen: SocketAddr,
    metrics: Metrics,
    readiness: Readiness,
    shutdown: CancellationToken,
) -> io::Result<JoinHandle<()>> {
    let app = Router::new()
        // Alive is alive, and nothing more: a restart heals nothing that is wrong outside.
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || async move { readiness.answer() }))
        .route("/metrics", get(move || async move { metrics.render() }));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    Ok(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await {
            tracing::error!(%error, "the health server ended");
        }
    }))
}
