//! The configuration of a Synapse in a drill: ours, with nothing of the homeserver's in it but its name. Pure.

use serde_json::{Value, json};

use crate::postgres::Target;

/// Nobody knows the homeserver by this key: whatever were signed with it would be worth nothing.
const SIGNING_KEY: &str = "ed25519 a_drill AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// `homeserver.yaml`; JSON is YAML, too.
///
/// Who might talk to somebody is not there (media, e-mail, modules, Redis, application services) or told not to
/// (federation, pushers); of those who do it all the same every server and every address is refused. What is written here
/// instead of left out has a default that leads outside (`synapse/config`, 1.163).
pub fn homeserver(server_name: &str, port: u16, database: &Target) -> Value {
    json!({
        "server_name": server_name,
        "listeners": [{
            "port": port, "bind_addresses": ["127.0.0.1"], "type": "http", "resources": [{"names": ["client"]}],
        }],
        "database": {"name": "psycopg2", "args": {
            "host": database.host, "port": database.port, "dbname": database.database,
            "user": database.credentials.username, "cp_min": 1, "cp_max": 5,
        }},
        "signing_key": SIGNING_KEY,
        "macaroon_secret_key": "drill",
        "form_secret": "drill",
        "report_stats": false,
        "send_federation": false,
        "federation_domain_whitelist": [],
        "trusted_key_servers": [],
        "start_pushers": false,
        "app_service_config_files": [],
        "url_preview_enabled": false,
        "enable_media_repo": false,
        "ip_range_blacklist": ["0.0.0.0/0", "::/0"],
        "ip_range_whitelist": [],
        "enable_registration": false,
        "presence": {"enabled": false},
        "caches": {"global_factor": 0.1},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::postgres::TlsMode,
        postgres::{Application, Credentials},
    };

    #[test]
    fn it_talks_to_its_database_alone() {
        let database = Target {
            host: "/socket".to_owned(),
            port: 5433,
            database: "drill".to_owned(),
            tls: TlsMode::Disable,
            ca_file: None,
            client: None,
            credentials: Credentials { username: "postgres".to_owned(), password: String::new() },
            application: Application { operation: "drill".to_owned(), run: 0, attempt: 0 },
        };
        let config = homeserver("example.org", 18008, &database);
        assert_eq!(config["database"]["args"]["host"], "/socket");
        assert_eq!(config["listeners"][0]["bind_addresses"], json!(["127.0.0.1"]));
        assert_eq!(config["listeners"][0]["resources"], json!([{"names": ["client"]}]), "not federation");
        for none in
            ["federation_domain_whitelist", "trusted_key_servers", "app_service_config_files", "ip_range_whitelist"]
        {
            assert_eq!(config[none], json!([]), "{none}");
        }
        for off in ["send_federation", "start_pushers", "report_stats", "url_preview_enabled", "enable_media_repo"] {
            assert_eq!(config[off], json!(false), "{off}");
        }
        for absent in
            ["email", "modules", "redis", "media_storage_providers", "matrix_authentication_service", "oidc_providers"]
        {
            assert!(config.get(absent).is_none(), "{absent}");
        }
    }
}
