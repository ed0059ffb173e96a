//! A real Synapse on a database, and a client that asks it all the time.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    client::Client,
    support::{Database, PASSWORD, Synapse, daemon::free_port},
};

/// Synapse gives up on a database long before.
const STARTS_WITHIN: Duration = Duration::from_secs(180);

/// Whose sessions are many: the user who is in most rooms.
const TOKEN: &str = "SELECT token FROM access_tokens t JOIN local_current_membership m USING (user_id) \
     WHERE membership = 'join' AND NOT EXISTS (SELECT FROM users u WHERE u.name = user_id AND deactivated = 1) \
     GROUP BY token ORDER BY count(*) DESC, token LIMIT 1";

/// Dropped: both ended.
pub struct Homeserver {
    pub database: Database,
    pub client: Client,
    config: Value,
    synapse: Option<Synapse>,
    _media: TempDir,
}

impl Homeserver {
    /// One that does not run yet.
    pub fn new(database: Database) -> Self {
        let (port, media) = (free_port(), tempfile::tempdir().expect("a directory"));
        let client = Client::new(port, &database.sql(TOKEN));
        let config = config(&database, port, &media);
        Self { database, client, config, synapse: None, _media: media }
    }

    /// Runs it until the client has its first answer; when that was.
    ///
    /// # Panics
    /// If there is none, with what Synapse has printed.
    pub async fn start(&mut self) -> Instant {
        let began = Instant::now();
        let synapse = self.synapse.insert(Synapse::at_large(&self.config));
        loop {
            if let Some(answered) = self.client.first_after(began) {
                return answered;
            }
            if began.elapsed() > STARTS_WITHIN {
                let printed = fs::read_to_string(synapse.place().join("log")).unwrap_or_default();
                panic!("Synapse does not answer: {printed}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, as a Pod is told, and the end of its process.
    pub fn stop(&mut self) {
        self.synapse = None;
    }
}

/// As a homeserver has it, but that it may talk to nobody.
fn config(database: &Database, port: u16, media: &TempDir) -> Value {
    json!({
        "server_name": "example.org", "report_stats": false, "trusted_key_servers": [], "federation_domain_whitelist": [],
        "listeners": [{
            "port": port, "bind_addresses": ["127.0.0.1"], "type": "http",
            "resources": [{"names": ["client", "federation"]}],
        }],
        "database": {"name": "psycopg2", "args": {
            "host": "127.0.0.1", "port": database.server.port, "dbname": database.name, "user": "synapse",
            "password": PASSWORD, "application_name": "synapse", "cp_min": 5, "cp_max": 10,
        }},
        "signing_key": "ed25519 a_bench AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "macaroon_secret_key": "a", "form_secret": "b", "media_store_path": media.path(),
    })
}
