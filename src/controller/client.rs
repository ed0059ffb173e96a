//! The client of the operator and of the uninstall hook. It waits for no answer for ever.

use std::time::Duration;

use kube::{Client, Config};

/// A connection on which nothing comes for this long is dead. Longer than a watch may be quiet: the API server ends each
/// after 290 s, and kube gives it up at 295.
const QUIET: Duration = Duration::from_secs(300);

/// The client as the environment wants it: a kubeconfig, or the Pod's account.
///
/// # Errors
/// When there is neither.
pub async fn client() -> kube::Result<Client> {
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    Client::try_from(impatient(config, QUIET))
}

/// kube bounds how long it connects and writes, but not how long it waits for an answer: on a connection whose other end
/// is gone without a word, a watch would wait for its first list for ever.
fn impatient(mut config: Config, quiet: Duration) -> Config {
    config.read_timeout = Some(quiet);
    // It counts from the request on, not from when its pooled connection was last used.
    config.reset_reader_on_write = true;
    config
}

#[cfg(test)]
pub mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// An API server that accepts and never answers.
    pub async fn silent_server() -> Config {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut connections = Vec::new();
            while let Ok(connection) = listener.accept().await {
                connections.push(connection);
            }
        });
        let mut config = Config::new(format!("http://{address}").parse().expect("a URL"));
        config.default_retry = false;
        config
    }

    #[tokio::test]
    async fn a_request_that_is_never_answered_ends() {
        let config = impatient(silent_server().await, Duration::from_millis(200));
        let asked = Client::try_from(config).expect("a client");
        let answer = tokio::time::timeout(Duration::from_secs(20), asked.apiserver_version()).await;
        assert!(answer.expect("it ended").is_err());
    }
}
