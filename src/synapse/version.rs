//! Synapse's version, as it tells it.

use std::time::Duration;

/// An inspection must not wait for a homeserver that hangs.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the homeserver at `url` for its version. Needs no login.
///
/// # Errors
/// Why there is no answer, for people.
pub async fn server_version(url: &str) -> Result<String, String> {
    #[derive(serde::Deserialize)]
    struct Answer {
        server_version: String,
    }
    let url = format!("{}/_synapse/admin/v1/server_version", url.trim_end_matches('/'));
    let explain = |error: reqwest::Error| {
        // reqwest's own message names the URL; the cause stands behind it.
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    };
    // A service of the cluster: never by the proxy of an environment.
    let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build().map_err(explain)?;
    let response = client.get(&url).send().await.map_err(explain)?.error_for_status().map_err(explain)?;
    Ok(response.json::<Answer>().await.map_err(explain)?.server_version)
}
