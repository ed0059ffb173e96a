//! An S3 server of the test's own, with a certificate that only a private authority vouches for.

use serde_json::json;

use crate::{authority::certificate_for, world::World};

const ACCESS_KEY: &str = "backups";
const SECRET_KEY: &str = "correct-horse-battery";

/// Starts it, and makes the Secrets with which restic reaches its bucket: `repository`, and two that lack something,
/// `no-authority` and `wrong-key`. The bucket is not there yet.
pub fn start(world: &World) {
    let host = format!("s3.{}.svc", world.namespace);
    let signed = certificate_for(&host);
    let server = [
        ("tls.crt", signed.certificate.as_str()),
        ("tls.key", &signed.key),
        ("access-key", ACCESS_KEY),
        ("secret-key", SECRET_KEY),
    ];
    secret(world, "s3-server", &server);
    world.apply_file("tests/e2e/s3.yaml");
    let location = format!("s3:https://{host}:7070/matrix-backups");
    let restic = |secret_key: &'static str| {
        [
            ("RESTIC_REPOSITORY", location.as_str()),
            ("RESTIC_PASSWORD", "change-me-and-keep-a-copy"),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", secret_key),
            ("ca.crt", &signed.authority),
        ]
    };
    let right = restic(SECRET_KEY);
    secret(world, "repository", &right);
    secret(world, "no-authority", &right[..4]);
    secret(world, "wrong-key", &restic("wrong-horse-battery"));
    world.kubectl(&["rollout", "status", "deployment/s3", "--timeout=4m"]);
}

/// Gives another namespace the Secret with which restic reaches the bucket.
pub fn tell(vault: &World, world: &World) {
    let secret = vault.kubectl(&["get", "secret", "repository", "-o", "json"]);
    let secret: serde_json::Value = serde_json::from_str(&secret).expect("JSON");
    let copy =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "repository"}, "data": secret["data"]});
    world.apply(&copy.to_string());
}

/// Takes it down.
pub fn stop(world: &World) {
    world.kubectl(&["scale", "deployment/s3", "--replicas=0"]);
    world.kubectl(&["wait", "--for=delete", "pod", "-l", "app=s3", "--timeout=2m"]);
}

/// Brings it back, with what it had.
pub fn bring_back(world: &World) {
    world.kubectl(&["scale", "deployment/s3", "--replicas=1"]);
}

fn secret(world: &World, name: &str, keys: &[(&str, &str)]) {
    let data: serde_json::Map<_, _> = keys.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data});
    world.apply(&secret.to_string());
}
