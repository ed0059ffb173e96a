//! A drill with the homeserver's own Synapse on the restored database: it answers, and nothing of it gets out.

use serde_json::{Value, json};

use crate::{
    audit,
    homeserver::world,
    world::{World, condition, text},
};

/// Prints a line for each connection. Pushes for a user of the homeserver go here.
const LISTENER: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: listener}
spec:
  selector: {app: listener}
  ports: [{port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: listener, labels: {app: listener}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 991, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: listener
      image: localhost/synapse:1.163.2
      imagePullPolicy: IfNotPresent
      command: [python3, -u, -c]
      args:
        - |
          import socket
          server = socket.create_server(("", 8080))
          while True:
              print("heard", server.accept()[1])
      readinessProbe: {exec: {command: ["true"]}}
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"#;

/// Synapse as anybody runs it, on the homeserver's own database, with nothing that keeps it in.
const AT_LARGE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: at-large}
data:
  homeserver.yaml: |
    server_name: example.org
    report_stats: false
    trusted_key_servers: []
    ip_range_blacklist: []
    listeners: [{port: 8008, type: http, bind_addresses: [0.0.0.0], resources: [{names: [client]}]}]
    database: {name: psycopg2, args: {host: postgres, dbname: synapse, user: synapse, password: demo-synapse}}
    signing_key: ed25519 a_drill AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA
    macaroon_secret_key: a
    form_secret: b
    enable_media_repo: false
---
apiVersion: v1
kind: Pod
metadata: {name: at-large}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  securityContext: {runAsNonRoot: true, runAsUser: 991, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: synapse
      image: localhost/synapse:1.163.2
      imagePullPolicy: IfNotPresent
      command: [python3, -B, -m, synapse.app.homeserver, --config-path, /config/homeserver.yaml]
      workingDir: /tmp
      readinessProbe: {httpGet: {path: /health, port: 8008}, periodSeconds: 1}
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
      volumeMounts: [{name: config, mountPath: /config}]
  volumes: [{name: config, configMap: {name: at-large}}]
"#;

const RESTORE: &str = "
apiVersion: synapse-keeper.dev/v1alpha1
kind: SynapseRestore
metadata: {name: too-new}
spec:
  synapseRef: {name: example}
  from: {backupRef: {name: too-new}}
  database: {existing: Rename}
";

#[test]
fn synapse_answers_on_the_restored_database_and_nothing_leaves_it() {
    let world = world("drill");
    world.apply(LISTENER);
    let pusher = "INSERT INTO pushers (id, user_name, profile_tag, kind, app_id, app_display_name, device_display_name, \
            pushkey, ts, data, last_stream_ordering, enabled) \
        VALUES (nextval('pushers_sequence'), '@bruno:example.org', '', 'http', 'app', 'App', 'Phone', 'key', 0, \
            '{\"url\": \"http://listener:8080/_matrix/push/v1/notify\"}', 0, true)";
    world.sql(pusher);
    world.apply_file("examples/backup-volume.yaml");
    world.wait_phase_of("synbk/before-the-upgrade", "Succeeded");
    let done = drill(&world, "before-the-upgrade", 1);
    let verified = condition(&done, "Verified");
    assert_eq!((&verified["status"], &verified["reason"]), (&json!("True"), &json!("Verified")), "{verified:#}");
    let message = text(&verified["message"]);
    assert!(
        message.contains("Synapse 1.163.2 starts on it") && message.contains("the newest that they sent"),
        "{message}"
    );
    let step = &done["status"]["verification"]["run"]["steps"][0];
    assert_eq!(step["ownSynapse"]["image"], "localhost/synapse:1.163.2", "the image of the main process: {step:#}");
    assert!(step["result"]["warnings"].is_null(), "it wanted out: {step:#}");
    assert_eq!(world.kubectl(&["logs", "listener"]), "");
    let left = world.kubectl(&["get", "jobs,pods", "-l", "synapse-keeper.dev/lane", "-o", "name"]);
    assert_eq!(left, "", "nothing of it is left");
    world.assert_untouched_or_restored();

    an_image_that_is_no_synapse_is_told(&world);
    a_backup_that_this_synapse_does_not_know_is_told(&world);
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));
    // The listener was there to be found all the time.
    world.apply(AT_LARGE);
    world.kubectl(&["wait", "--for=condition=Ready", "pod/at-large", "--timeout=3m"]);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !world.kubectl(&["logs", "listener"]).contains("heard") {
        assert!(std::time::Instant::now() < until, "{}", world.kubectl(&["logs", "at-large"]));
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
}

fn an_image_that_is_no_synapse_is_told(world: &World) {
    let patch = |image: Value| {
        let spec = json!({"image": image, "jobs": {"startWithin": if image.is_null() { "5m" } else { "20s" }}});
        world.kubectl(&["patch", "synapse", "example", "--type=merge", "-p", &json!({"spec": spec}).to_string()]);
    };
    patch(json!("localhost/postgres:15"));
    let verified = condition(&drill(world, "before-the-upgrade", 2), "Verified");
    assert_eq!(
        (&verified["status"], &verified["reason"]),
        (&json!("Unknown"), &json!("PodDoesNotStart")),
        "{verified:#}"
    );
    let message = text(&verified["message"]);
    assert!(message.contains("container synapse") && message.contains("python3"), "{message}");
    patch(Value::Null);
}

/// As if a newer Synapse had been here in between: neither a drill nor a restore lets it come to a homeserver that is down.
fn a_backup_that_this_synapse_does_not_know_is_told(world: &World) {
    world.sql("UPDATE schema_version SET version = 9999; UPDATE schema_compat_version SET compat_version = 9999");
    let backup = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/backup-volume.yaml")).unwrap();
    world.apply(&backup.rsplit("---").next().unwrap().replace("before-the-upgrade", "too-new"));
    world.wait_phase_of("synbk/too-new", "Succeeded");
    world.sql("UPDATE schema_version SET version = 94; UPDATE schema_compat_version SET compat_version = 84");
    let verified = condition(&drill(world, "too-new", 1), "Verified");
    assert_eq!(
        (&verified["status"], &verified["reason"]),
        (&json!("False"), &json!("SynapseDidNotStart")),
        "{verified:#}"
    );
    assert!(text(&verified["message"]).contains("too new for the server to understand"), "{verified:#}");

    let admin = json!({"spec": {"postgres": {"adminCredentials": {"secretName": "postgres-admin"}}}});
    world.kubectl(&["patch", "synapse", "example", "--type=merge", "-p", &admin.to_string()]);
    world.apply(RESTORE);
    let refused = world.wait_phase_of("synrs/too-new", "Failed");
    let ready = condition(&refused, "Ready");
    assert_eq!(ready["reason"], "SchemaTooNew", "{ready:#}");
    assert!(text(&ready["message"]).contains("the image of the one that runs here knows schema 94"), "{ready:#}");
    assert!(refused["status"]["run"]["window"].is_null(), "a refusal touches nothing");
    world.assert_untouched_or_restored();
}

fn drill(world: &World, backup: &str, number: u32) -> Value {
    drill_on("localhost/postgres:15", world, backup, number)
}

/// Asks for a drill with Synapse on a PostgreSQL of this image, and waits for its end.
pub fn drill_on(image: &str, world: &World, backup: &str, number: u32) -> Value {
    let verify = json!({"cron": "@yearly", "image": image, "synapse": true});
    let annotations = json!({"synapse-keeper.dev/verify-now": number.to_string()});
    let patch = json!({"metadata": {"annotations": annotations}, "spec": {"verify": verify}});
    world.kubectl(&["patch", "synbk", backup, "--type=merge", "-p", &patch.to_string()]);
    world.wait(&format!("synbk/{backup}"), "through with a drill", |object| {
        object["status"]["verification"]["history"][0]["number"] == number
    })
}
