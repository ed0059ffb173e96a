//! A backup of a homeserver whose Synapse goes on serving, and what there is to say when it cannot be made.

use crate::{
    audit,
    homeserver::world,
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
  securityContext: {runAsNonRoot: true, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
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
    assert!(snapshot["bytes"].as_i64() > Some(1 << 20), "{snapshot:#}");
    assert_eq!(snapshot["takenAt"], status["lastSuccessAt"]);
    assert!(status["run"]["window"].is_null(), "the homeserver was taken down for a backup");
    world.assert_untouched_or_restored();

    let shown = world.kubectl(&["get", "synbk"]);
    assert!(shown.contains("Succeeded") && shown.contains("MiB"), "{shown}");
    world.apply(LOOK);
    world.wait("pod/look", "done", |pod| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
    let said = world.kubectl(&["logs", "look"]);
    assert!(said.contains("no errors were found"), "{said}");
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));

    // Once is once.
    world.apply_file("examples/backup-volume.yaml");
    assert_eq!(world.get("synbk/before-the-upgrade")["status"]["run"]["number"], 1);
    a_wrong_password_is_told_and_no_second_repository_is_made(&world);
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
