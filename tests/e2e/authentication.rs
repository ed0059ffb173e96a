//! The database of the Matrix Authentication Service beside Synapse's: in its shape, not made by it, and Pods that only wait in the
//! place of the service's.

use serde_json::json;

use crate::{homeserver::workload, world::World};

const SCHEMA: &str = include_str!("../support/authentication.sql");

const SECRET: &str = "
apiVersion: v1
kind: Secret
metadata: {name: mas-postgres}
stringData: {username: mas, password: demo-mas}
";

/// Puts an empty database there, and says so in the `Synapse` object.
pub fn stands_beside(world: &World) {
    world.sql("CREATE ROLE mas LOGIN PASSWORD 'demo-mas'; GRANT mas TO keeper_admin");
    world.sql("CREATE DATABASE mas OWNER mas TEMPLATE template0 LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'");
    world.apply(SECRET);
    world.apply(&workload("mas", 1, "exec sleep infinity").replace("name: synapse}", "name: mas}"));
    let spec = json!({"matrixAuthenticationService": {
        "workloads": {"refs": [{"kind": "Deployment", "name": "mas"}]},
        "postgres": {
            "host": "postgres", "database": "mas", "credentials": {"secretName": "mas-postgres"},
            "adminCredentials": {"secretName": "postgres-admin"},
        },
    }});
    world.kubectl(&["patch", "synapse", "example", "--type=merge", "-p", &json!({"spec": spec}).to_string()]);
}

/// Users and their sessions.
pub fn is_used(world: &World) {
    world.sql_in("mas", &format!("SET ROLE mas; {SCHEMA}"));
}

/// Somebody signs in to the service.
pub fn somebody_signs_in(world: &World, name: &str) {
    let signs_in = format!("INSERT INTO users VALUES (gen_random_uuid(), '{name}', now())");
    world.sql_in("mas", &signs_in);
}

/// Whether the service knows somebody.
pub fn knows(world: &World, name: &str) -> bool {
    world.sql_in("mas", &format!("SELECT count(*) FROM users WHERE username = '{name}'")) == "1"
}

/// The service is up again.
pub fn serves(world: &World) {
    world.wait("deployment/mas", "Ready with one replica", |mas| {
        mas["spec"]["replicas"] == 1 && mas["status"]["readyReplicas"] == 1
    });
}
