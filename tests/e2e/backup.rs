//! A backup of a homeserver whose Synapse goes on serving, and what there is to say when it cannot be made.

use serde_json::{Value, json};

use crate::{
    audit,
    homeserver::world,
    s3,
    world::{World, condition, text},
};

/// What a Job of ours has in its Pod, for a look at the repository with restic itself.
const LOOK: &str = "
apiVersion: v1
kind: Pod
metadata: {name: look}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 991, fsGroup: 991, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: restic
      image: localhost/synapse-keeper-tools:dev
      imagePullPolicy: IfNotPresent
      command: [restic, --repo=/backups/restic, --password-file=/password/password, --cache-dir=/tmp, check, --read-data]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
      volumeMounts:
        - {name: backups, mountPath: /backups}
        - {name: password, mountPath: /password}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - {name: backups, persistentVolumeClaim: {claimName: backups}}
    - {name: password, secret: {secretName: backup-password}}
    - {name: tmp, emptyDir: {}}
";

#[test]
fn a_volume_holds_backups_that_restic_finds_whole() {
    let world = world("backup");
    world.apply_file("examples/backup-volume.yaml");
    let done = world.wait_phase_of("synbk/before-the-upgrade", "Succeeded");
    let status = &done["status"];
    assert_eq!(status["snapshotCount"], 1, "{status:#}");
    let synapse = world.wait("synapse/example", "told of it", |synapse| !synapse["status"]["lastBackup"].is_null());
    assert_eq!(synapse["status"]["lastBackup"], status["lastSuccessAt"]);
    let snapshot = &status["snapshots"][0];
    assert!(snapshot["bytes"].as_i64() > Some(100 << 10), "{snapshot:#}");
    assert_eq!(snapshot["takenAt"], status["lastSuccessAt"]);
    assert!(status["run"]["window"].is_null(), "the homeserver was taken down for a backup");
    world.assert_untouched_or_restored();

    let shown = world.kubectl(&["get", "synbk"]);
    assert!(shown.contains("Succeeded") && shown.contains(&text(&snapshot["size"])), "{shown}");
    world.apply(LOOK);
    world.wait("pod/look", "done", |pod| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
    let said = world.kubectl(&["logs", "look"]);
    assert!(said.contains("no errors were found"), "{said}");
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));

    // Once is once.
    world.apply_file("examples/backup-volume.yaml");
    assert_eq!(world.get("synbk/before-the-upgrade")["status"]["run"]["number"], 1);
    it_is_restored_for_a_test_and_nothing_of_that_is_left(&world);
    a_wrong_password_is_told_and_no_second_repository_is_made(&world);
}

fn it_is_restored_for_a_test_and_nothing_of_that_is_left(world: &World) {
    let verify = json!({"cron": "@yearly", "image": "localhost/postgres:15", "volume": {"size": "1Gi"}});
    let annotations = json!({"synapse-keeper.dev/verify-now": "1"});
    let patch = json!({"metadata": {"annotations": annotations}, "spec": {"verify": verify}});
    world.kubectl(&["patch", "synbk", "before-the-upgrade", "--type=merge", "-p", &patch.to_string()]);
    let done = world.wait("synbk/before-the-upgrade", "through with a drill", |object| {
        object["status"]["verification"]["history"][0]["number"] == 1
    });
    let verified = condition(&done, "Verified");
    assert_eq!((&verified["status"], &verified["reason"]), (&json!("True"), &json!("Verified")), "{verified:#}");
    assert!(text(&verified["message"]).contains("the rows are as many as were backed up"), "{verified:#}");
    let status = &done["status"];
    assert_eq!(status["lastVerifiedAt"], status["lastSuccessAt"], "{status:#}");
    assert!(status["snapshots"][0]["verifiedAt"].is_string(), "{status:#}");
    assert_eq!(status["run"]["number"], 1, "the backup's own runs are another matter");
    let shown = world.kubectl(&["get", "synbk", "before-the-upgrade"]);
    assert!(shown.contains("VERIFIED") && shown.contains("True"), "{shown}");
    world
        .wait("synapse/example", "told of it", |synapse| synapse["status"]["lastVerified"] == status["lastVerifiedAt"]);

    // Its claim goes when the garbage collector has seen that its Pod is gone.
    let left = || world.kubectl(&["get", "jobs,pods,pvc", "-l", "synapse-keeper.dev/lane", "-o", "name"]);
    assert!(!left().contains("job") && !left().contains("pod/"), "{}", left());
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !left().trim().is_empty() {
        assert!(std::time::Instant::now() < until, "{} is still there", left());
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    world.assert_untouched_or_restored();
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));
}

fn a_wrong_password_is_told_and_no_second_repository_is_made(world: &World) {
    world.kubectl(&["create", "secret", "generic", "typo", "--from-literal=password=wrong"]);
    let wrong = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/backup-volume.yaml")).unwrap();
    let wrong = wrong.rsplit("---").next().unwrap();
    let typo = wrong.replace("before-the-upgrade", "typo").replace("name: backup-password", "name: typo");
    world.apply(&typo);
    let failed = world.wait_phase_of("synbk/typo", "Failed");
    let ready = condition(&failed, "Ready");
    assert_eq!(ready["reason"], "RepositoryPasswordRefused", "{ready:#}");
    assert!(text(&ready["message"]).contains("not a password of this repository"), "{ready:#}");

    world.apply(&wrong.replace("before-the-upgrade", "missing").replace("name: backup-password", "name: nowhere"));
    let failed = world.wait_phase_of("synbk/missing", "Failed");
    let ready = condition(&failed, "Ready");
    assert_eq!(ready["reason"], "SecretKeyMissing", "{ready:#}");
}

/// A backup on a schedule that does not come up while the test runs.
const NIGHTLY: &str = "
apiVersion: synapse-keeper.dev/v1alpha1
kind: SynapseBackup
metadata: {name: nightly}
spec:
  synapseRef: {name: example}
  repository: {secretName: repository}
  schedule: {cron: '@yearly'}
  retention: {keepLast: 1}
";

#[test]
fn s3_behind_a_private_authority_holds_backups_and_what_is_wrong_with_it_is_told() {
    let world = world("backup-s3");
    s3::start(&world);
    world.apply(NIGHTLY);

    // There was no bucket.
    ask(&world, 1, json!({}));
    let first = newest(&ended(&world, 1, "Succeeded"));
    refused(&world, 2, "no-authority", "RepositoryCertificateRefused", "ca.crt");
    refused(&world, 3, "wrong-key", "RepositoryAccessDenied", "signature");
    assert_eq!(newest(&world.get("synbk/nightly")), first, "what failed took something away");

    let done = a_server_that_comes_back_is_waited_for(&world, 4);
    let status = &done["status"];
    assert_ne!(newest(&done), first);
    assert_eq!(status["snapshotCount"], 1, "{status:#}");
    // The first one was still there, until now.
    let message = text(&status["history"][0]["message"]);
    assert!(message.contains("deleted 1 old backup, 1 backup is kept"), "{message}");
    assert_eq!(condition(&done, "RetentionFailed"), Value::Null);
    world.assert_untouched_or_restored();
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));
}

fn refused(world: &World, run: u32, secret: &str, reason: &str, words: &str) {
    ask(world, run, json!({"repository": {"secretName": secret}}));
    let failed = ended(world, run, "Failed");
    assert_eq!(failed["status"]["history"][0]["reason"], reason, "{:#}", failed["status"]);
    let ready = condition(&failed, "Ready");
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!(reason)), "{ready:#}");
    assert!(text(&ready["message"]).contains(words), "{ready:#}");
    // Another try would not help.
    assert_eq!(failed["status"]["run"]["steps"][0]["attempt"], 1, "{:#}", failed["status"]);
}

fn a_server_that_comes_back_is_waited_for(world: &World, run: u32) -> Value {
    s3::stop(world);
    ask(world, run, json!({"repository": {"secretName": "repository"}}));
    let told = world.wait("synbk/nightly", "told that the server does not answer", |object| {
        let now = &object["status"]["run"];
        now["number"] == run && now["steps"][0]["message"].is_string()
    });
    let message = text(&told["status"]["run"]["steps"][0]["message"]);
    assert!(message.contains("no answer within 60 s") && message.contains("connection refused"), "{message}");
    s3::bring_back(world);
    ended(world, run, "Succeeded")
}

/// Asks for a run, with these fields of the spec.
fn ask(world: &World, run: u32, spec: Value) {
    let annotations = json!({"synapse-keeper.dev/run-now": run.to_string()});
    let patch = json!({"metadata": {"annotations": annotations}, "spec": spec});
    world.kubectl(&["patch", "synbk", "nightly", "--type=merge", "-p", &patch.to_string()]);
}

/// Waits until the run is over, and ended in this way.
fn ended(world: &World, run: u32, outcome: &str) -> Value {
    let object = world.wait("synbk/nightly", &format!("through with run {run}"), |object| {
        let status = &object["status"];
        status["history"][0]["number"] == run && status["phase"] == "Scheduled"
    });
    assert_eq!(object["status"]["history"][0]["outcome"], outcome, "{:#}", object["status"]);
    object
}

/// The newest backup that the repository has.
fn newest(backup: &Value) -> String {
    text(&backup["status"]["snapshots"][0]["id"])
}
