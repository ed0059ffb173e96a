//! What people upload: in a backup while Synapse serves, and back in another folder, with nothing but the repository.

use crate::{
    audit,
    person::Person,
    world::{World, text},
};

/// `task restore-media` by hand, into an empty folder, and what is there then.
const RESTORE: &str = "
apiVersion: v1
kind: Pod
metadata: {name: restore-media}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
  initContainers:
    - name: restore
      image: localhost/synapse-keeper-tools:dev
      imagePullPolicy: IfNotPresent
      command: [synapse-keeper, task, restore-media, --server-name=example.org, --repository-dir=/repository,
                --repository=/backups/restic, --media-store=/media]
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
      volumeMounts:
        - {name: backups, mountPath: /backups, readOnly: true}
        - {name: repository, mountPath: /repository, readOnly: true}
        - {name: media, mountPath: /media}
        - {name: tmp, mountPath: /tmp}
  containers:
    - name: look
      image: localhost/synapse:1.163.2
      imagePullPolicy: IfNotPresent
      command: [python3, -B, -c]
      args:
        - |
          import pathlib
          for file in sorted(pathlib.Path('/media').rglob('*')):
              if file.is_file():
                  print(file, file.read_text(errors='replace'))
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, readOnlyRootFilesystem: true}
      volumeMounts:
        - {name: media, mountPath: /media, readOnly: true}
  volumes:
    - {name: backups, persistentVolumeClaim: {claimName: backups, readOnly: true}}
    - {name: repository, secret: {secretName: backup-password, items: [{key: password, path: RESTIC_PASSWORD}]}}
    - {name: media, emptyDir: {}}
    - {name: tmp, emptyDir: {}}
";

#[test]
fn what_people_upload_comes_back_from_the_repository_alone() {
    let world = World::new("media");
    world.apply_file("tests/homeserver/manifests");
    world.kubectl(&["rollout", "status", "statefulset/synapse-main", "deployment/synapse-worker", "--timeout=4m"]);
    let alice = Person::sign_up(&world, "alice");
    let media_id = alice.shares("a photo of the cat");
    world.apply_file("examples/synapse.yaml");
    world.apply_file("examples/backup-volume.yaml");
    let done = world.wait_phase_of("synbk/before-the-upgrade", "Succeeded");
    let status = &done["status"];
    assert!(status["snapshots"][0]["mediaBytes"].as_i64() > Some(0), "{status:#}");
    let steps = status["run"]["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().filter_map(|step| step["name"].as_str()).collect();
    assert_eq!(names, ["preflight", "database", "media", "retention"]);
    let told = text(&status["history"][0]["message"]);
    assert!(told.contains("files of media"), "{told}");
    assert!(status["run"]["window"].is_null(), "the homeserver was taken down for a backup");

    alice.shares("after the backup");
    world.apply(RESTORE);
    world.wait("pod/restore-media", "done", |pod| {
        matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    });
    let restored = world.kubectl(&["logs", "restore-media", "-c", "restore"]);
    assert!(restored.contains("files of media are as they were on"), "{restored}");
    let files = world.kubectl(&["logs", "restore-media", "-c", "look"]);
    let path = format!("/media/local_content/{}/{}/{}", &media_id[..2], &media_id[2..4], &media_id[4..]);
    assert!(files.contains(&format!("{path} a photo of the cat")), "{files}");
    assert!(!files.contains("after the backup"), "{files}");
    audit::assert_nothing_was_denied(&format!("{}:keeper-synapse-keeper", world.namespace));
}
