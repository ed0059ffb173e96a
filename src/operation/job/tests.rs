use super::*;
use crate::{
    api::{
        SynapseSpec,
        verification::{Duty, OwnSynapse, ScratchServer, ScratchVolume, SynapseImage},
    },
    contract::pod,
    recipes::lane,
};

const SPEC: &str = "
serverName: example.org
workloads: {refs: [{kind: StatefulSet, name: synapse-main}]}
postgres:
  host: postgres
  database: synapse
  credentials: {secretName: synapse-postgres}
  tls: {mode: verify-full, caSecret: {name: ca, key: ca.crt}, clientSecret: {name: client, keyKey: client.key}}
  dataVolume: {claimName: data-postgres-0}
  ignoreSessions: [{role: exporter, applicationName: postgres_exporter}]
jobs:
  labels: {sidecar.istio.io/inject: 'false', app.kubernetes.io/managed-by: somebody}
  resources: {limits: {memory: 1Gi}}
  annotations: {a: b}
  nodeSelector: {disk: ssd}
  tolerations: [{key: dedicated, operator: Exists, effect: NoSchedule}]
  imagePullSecrets: [registry]
  priorityClassName: low
  runAsUser: 1000
  fsGroup: 1000
";

fn built() -> Job {
    built_on(false, &[])
}

/// The Job of a step for the backup `nightly`.
fn built_for(spec: &SynapseSpec, lane: &Lane, step: &StepSpec) -> Job {
    build(&Blueprint {
        namespace: "matrix",
        owner: OwnerReference { name: "nightly".to_owned(), uid: "uid".to_owned(), ..Default::default() },
        lane,
        synapse: "example",
        settings: &spec.jobs,
        image: "tools:1",
        image_pull_policy: "IfNotPresent",
        postgres: Some(&spec.postgres),
        nodes: Vec::new(),
        step,
        run: 1,
        attempt: 1,
        until: None,
        deadline_seconds: None,
    })
}

/// A step of this name and with this argument, which needs nothing of the database.
fn step(name: &str, argument: &str) -> StepSpec {
    StepSpec {
        name: name.to_owned(),
        args: vec![argument.to_owned()],
        database: DatabaseAccess::None,
        ..StepSpec::default()
    }
}

fn built_on(with_volume: bool, nodes: &[&str]) -> Job {
    let spec: SynapseSpec = serde_yaml_ng::from_str(SPEC).unwrap();
    let database = if with_volume { DatabaseAccess::WithDisk } else { DatabaseAccess::Connection };
    let step = StepSpec { database, memory_limit: Some("2Gi".to_owned()), ..step("vacuum-1", "vacuum") };
    build(&Blueprint {
        namespace: "matrix",
        owner: OwnerReference { name: "weekly".to_owned(), uid: "uid".to_owned(), ..Default::default() },
        lane: &lane::OWN,
        synapse: "example",
        settings: &spec.jobs,
        image: "tools:1",
        image_pull_policy: "IfNotPresent",
        postgres: Some(&spec.postgres),
        nodes: nodes.to_vec(),
        step: &step,
        run: 3,
        attempt: 2,
        until: None,
        deadline_seconds: Some(60),
    })
}

fn built_with(mounts: &[Mount]) -> PodSpec {
    let spec: SynapseSpec = serde_yaml_ng::from_str(&SPEC.replace("limits: {memory: 1Gi}", "")).unwrap();
    let memory_limit = Some("2Gi".to_owned());
    let step = StepSpec { mounts: mounts.to_vec(), memory_limit, ..step("database", "backup") };
    pod_of(&built_for(&spec, &lane::OWN, &step))
}

#[test]
fn a_step_s_own_mounts_are_added() {
    let password = Mount {
        path: "/repository".to_owned(),
        source: Source::SecretKey {
            name: "password".to_owned(),
            key: "restic".to_owned(),
            file: "RESTIC_PASSWORD".to_owned(),
        },
    };
    let pod = built_with(&[password, Mount::writable_claim("/backups", "claim"), Mount::secret("/all", "secret")]);
    let volumes = pod.volumes.unwrap();
    let of = |index: usize| volumes.iter().find(|volume| volume.name == format!("mount-{index}")).unwrap();
    let secret = of(0).secret.as_ref().unwrap();
    let item = &secret.items.as_ref().unwrap()[0];
    assert_eq!((item.key.as_str(), item.path.as_str(), secret.optional), ("restic", "RESTIC_PASSWORD", Some(true)));
    assert_eq!(of(1).persistent_volume_claim.as_ref().unwrap().claim_name, "claim");
    let all = of(2).secret.as_ref().unwrap();
    assert_eq!((all.secret_name.as_deref(), all.items.is_none(), all.optional), (Some("secret"), true, Some(true)));
    let mounts = pod.containers[0].volume_mounts.as_ref().unwrap();
    let read_only = |path: &str| mounts.iter().find(|mount| mount.mount_path == path).unwrap().read_only;
    assert_eq!(["/repository", "/backups", "/all"].map(read_only), [Some(true), Some(false), Some(true)]);
    assert!(!volumes.iter().any(|volume| volume.name == "postgres"), "it needs no database and has no password");
    assert_eq!(pod.containers[0].args, Some(vec!["backup".to_owned()]));
    let said = pod.containers[0].env.as_ref().unwrap()[0].value.clone().unwrap();
    let secrets: Vec<MountedSecret> = serde_json::from_str(&said).unwrap();
    let named: Vec<(&str, &str)> = secrets.iter().map(|one| (one.path.as_str(), one.secret.as_str())).collect();
    assert_eq!(named, [("/repository", "password"), ("/all", "secret")], "what a message calls them");
    assert_eq!(secrets[0].keys, [("RESTIC_PASSWORD".to_owned(), "restic".to_owned())]);
    let limits = pod.containers[0].resources.clone().unwrap().limits.unwrap();
    assert_eq!(limits["memory"].0, "2Gi", "what the step wants, where the user wants nothing");
}

fn pod_of(job: &Job) -> PodSpec {
    job.spec.as_ref().unwrap().template.spec.clone().unwrap()
}

#[test]
fn names_fit_a_label_and_differ_by_everything_that_matters() {
    let long = "m".repeat(52);
    let base = name(&long, "uid", 1, "vacuum-1", 1);
    assert!(base.len() <= 63 && !base.contains("--"), "{base}");
    let others =
        [("uie", 1, "vacuum-1", 1), ("uid", 2, "vacuum-1", 1), ("uid", 1, "vacuum-2", 1), ("uid", 1, "vacuum-1", 2)];
    for (uid, run, step, attempt) in others {
        assert_ne!(base, name(&long, uid, run, step, attempt));
    }
    assert_eq!(base, name(&long, "uid", 1, "vacuum-1", 1));
}

#[test]
fn its_pod_is_restricted_and_has_no_rights() {
    let pod = pod_of(&built());
    let security = pod.security_context.unwrap();
    assert_eq!(
        (security.run_as_non_root, security.run_as_user, security.fs_group),
        (Some(true), Some(1000), Some(1000))
    );
    assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
    assert_eq!(pod.automount_service_account_token, Some(false));
    let container = pod.containers[0].security_context.clone().unwrap();
    assert_eq!((container.allow_privilege_escalation, container.read_only_root_filesystem), (Some(false), Some(true)));
    assert_eq!(container.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
}

#[test]
fn its_pod_has_every_setting() {
    let job = built();
    let annotations = job.spec.as_ref().unwrap().template.metadata.clone().unwrap().annotations.unwrap();
    assert_eq!(annotations, BTreeMap::from([("a".to_owned(), "b".to_owned())]));
    let pod = pod_of(&job);
    assert_eq!(pod.node_selector, Some(BTreeMap::from([("disk".to_owned(), "ssd".to_owned())])));
    let tolerations = pod.tolerations.unwrap();
    assert_eq!(tolerations.len(), 1);
    let toleration = &tolerations[0];
    assert_eq!(
        (toleration.key.as_deref(), toleration.operator.as_deref(), toleration.effect.as_deref()),
        (Some("dedicated"), Some("Exists"), Some("NoSchedule"))
    );
    assert_eq!(pod.image_pull_secrets, Some(vec![LocalObjectReference { name: "registry".to_owned() }]));
    assert_eq!(pod.priority_class_name.as_deref(), Some("low"));
    // Without it the kubelet walks through the whole volume at every start.
    assert_eq!(pod.security_context.unwrap().fs_group_change_policy.as_deref(), Some("OnRootMismatch"));
    let resources = pod.containers[0].resources.clone().unwrap();
    assert_eq!(resources.limits.unwrap()["memory"].0, "1Gi");
    assert_eq!(resources.requests.unwrap()["cpu"].0, "10m", "what is not set is modest");
}

#[test]
fn a_missing_secret_must_not_keep_the_pod_from_starting() {
    let pod = pod_of(&built());
    let secrets: Vec<_> = pod.volumes.unwrap().into_iter().filter_map(|volume| volume.secret).collect();
    assert_eq!(secrets.len(), 3);
    assert!(secrets.iter().all(|secret| secret.optional == Some(true)));
    let names: Vec<&str> = pod.containers[0].env.iter().flatten().map(|variable| variable.name.as_str()).collect();
    let known = [mounted::VARIABLE, NETWORK_OPENS_WITHIN];
    assert_eq!(names, known, "a password in an environment variable shows up in many places");
}

#[test]
fn the_engine_s_labels_win_over_the_user_s() {
    let job = built();
    let labels = job.spec.unwrap().template.metadata.unwrap().labels.unwrap();
    assert_eq!(labels["sidecar.istio.io/inject"], "false");
    assert_eq!(labels[MANAGED_BY], MANAGER);
    assert_eq!((labels[OWNER_UID].as_str(), labels[RUN].as_str()), ("uid", "3"));
}

#[test]
fn the_data_volume_is_mounted_to_read_on_its_node() {
    let pod = pod_of(&built_on(true, &["node1"]));
    let mount = pod.containers[0].volume_mounts.iter().flatten().find(|mount| mount.name == "postgres-data").unwrap();
    assert_eq!(mount.read_only, Some(true));
    let args = pod.containers[0].args.clone().unwrap();
    assert!(args.contains(&format!("--data-volume={}", pod::POSTGRES_DATA)), "{args:?}");
    let required =
        pod.affinity.unwrap().node_affinity.unwrap().required_during_scheduling_ignored_during_execution.unwrap();
    let field = &required.node_selector_terms[0].match_fields.as_ref().unwrap()[0];
    assert_eq!((field.key.as_str(), field.values.as_deref()), ("metadata.name", Some(&["node1".to_owned()][..])));
}

#[test]
fn the_task_is_told_everything_but_the_password() {
    let args = pod_of(&built()).containers[0].args.clone().unwrap();
    for wanted in [
        "vacuum",
        "--host=postgres",
        "--tls-mode=verify-full",
        "--ca-file=/var/run/synapse-keeper/postgres-ca/ca.crt",
        "--client-cert-file=/var/run/synapse-keeper/postgres-client/tls.crt",
        "--client-key-file=/var/run/synapse-keeper/postgres-client/client.key",
        "--ignore-session=role=exporter,applicationName=postgres_exporter",
        "--operation=uid",
        "--run=3",
        "--attempt=2",
    ] {
        assert!(args.iter().any(|arg| arg == wanted), "{wanted} is not in {args:?}");
    }
    assert!(!args.iter().any(|arg| arg.starts_with("--data-volume")), "{args:?}");
}

#[test]
fn a_postgresql_beside_the_task_is_reached_by_its_socket_alone() {
    let spec: SynapseSpec = serde_yaml_ng::from_str(&SPEC.replace("  fsGroup: 1000\n", "")).unwrap();
    let scratch = |volume| ScratchServer { image: "postgres:15".to_owned(), run_as_user: 999, volume, resources: None };
    let built = |server: &ScratchServer| {
        built_for(&spec, &lane::DRILL, &StepSpec { server: Some(server.clone()), ..step("verify", "verify") })
    };
    let job = built(&scratch(None));
    let labels = job.metadata.labels.clone().unwrap();
    assert_eq!(labels[LANE], "drill");
    assert_eq!(
        of_owner("uid", &crate::recipes::lane::DRILL),
        "synapse-keeper.dev/owner-uid=uid,synapse-keeper.dev/lane=drill"
    );
    assert_eq!(
        of_owner("uid", &crate::recipes::lane::OWN),
        "synapse-keeper.dev/owner-uid=uid,!synapse-keeper.dev/lane"
    );
    let pod = pod_of(&job);
    let [server] = pod.init_containers.as_deref().unwrap() else { panic!("one init container") };
    assert_eq!(server.restart_policy.as_deref(), Some("Always"), "it goes on beside the task");
    let args = server.args.as_ref().unwrap();
    assert!(args.contains(&"listen_addresses=".to_owned()) && server.ports.is_none(), "{args:?}");
    let of = |mounts: &Option<Vec<VolumeMount>>, volume: &str| {
        mounts.iter().flatten().find(|mount| mount.name == volume).map(|mount| mount.mount_path.clone())
    };
    assert_eq!(of(&server.volume_mounts, "postgres-socket").as_deref(), Some("/var/run/postgresql"));
    assert_eq!(of(&pod.containers[0].volume_mounts, "postgres-socket").as_deref(), Some(pod::SCRATCH_SOCKET));
    assert_eq!(of(&pod.containers[0].volume_mounts, "postgres-data"), None);
    let security = server.security_context.as_ref().unwrap();
    assert_eq!((security.run_as_user, security.allow_privilege_escalation), (Some(999), Some(false)));
    assert_eq!(pod.security_context.unwrap().fs_group, None);

    let volume = ScratchVolume { size: "20Gi".to_owned(), storage_class_name: Some("fast".to_owned()) };
    let pod = pod_of(&built(&scratch(Some(volume))));
    let data = pod.volumes.unwrap().into_iter().find(|volume| volume.name == "postgres-data").unwrap();
    let template = data.ephemeral.unwrap().volume_claim_template.unwrap();
    assert_eq!(template.metadata.unwrap().labels.unwrap()[LANE], "drill");
    let claim = template.spec;
    assert_eq!(claim.storage_class_name.as_deref(), Some("fast"));
    assert_eq!(claim.resources.unwrap().requests.unwrap()["storage"], Quantity("20Gi".to_owned()));
    assert_eq!(pod.security_context.unwrap().fs_group, Some(999), "a new volume is root's");
}

#[test]
fn the_homeserver_s_own_synapse_is_beside_the_task_as_it_is_wanted() {
    let with_cpu = SPEC.replace("limits: {memory: 1Gi}", "limits: {memory: 1Gi, cpu: \"2\"}");
    let spec: SynapseSpec = serde_yaml_ng::from_str(&with_cpu).unwrap();
    let server = ScratchServer { image: "postgres:15".to_owned(), run_as_user: 999, volume: None, resources: None };
    let built = |duty, server| {
        let image = SynapseImage {
            image: "synapse:1".to_owned(),
            image_pull_policy: Some("IfNotPresent".to_owned()),
            image_pull_secrets: vec!["of-synapse".to_owned(), "registry".to_owned()],
        };
        let own_synapse = Some(OwnSynapse { image, duty });
        pod_of(&built_for(&spec, &lane::DRILL, &StepSpec { server, own_synapse, ..step("verify", "verify") }))
    };
    let pod = built(Duty::Serves, Some(server.clone()));
    let secrets: Vec<_> = pod.image_pull_secrets.iter().flatten().map(|secret| secret.name.as_str()).collect();
    assert_eq!(secrets, ["of-synapse", "registry"]);
    let [postgres, own] = pod.init_containers.as_deref().unwrap() else { panic!("two init containers") };
    assert_eq!((postgres.name.as_str(), own.name.as_str()), ("postgres", "synapse"));
    assert_eq!((own.image.as_deref(), own.image_pull_policy.as_deref()), (Some("synapse:1"), Some("IfNotPresent")));
    assert_eq!(own.restart_policy.as_deref(), Some("Always"), "it goes on beside the task");
    let limits = [postgres, own, &pod.containers[0]].map(|it| it.resources.clone().unwrap().limits.unwrap());
    assert_eq!(limits.each_ref().map(|limits| limits["cpu"].0.as_str()), ["2"; 3], "a quota may ask each for it");
    assert_eq!(limits.each_ref().map(|limits| limits["memory"].0.as_str()), ["1Gi"; 3]);
    let paths = |container: &Container| {
        let mounts = container.volume_mounts.iter().flatten();
        mounts.map(|mount| (mount.name.clone(), mount.mount_path.clone())).collect::<BTreeMap<_, _>>()
    };
    let (own_paths, task_paths) = (paths(own), paths(&pod.containers[0]));
    for shared in ["synapse", "postgres-socket"] {
        assert_eq!(own_paths[shared], task_paths[shared], "both find it in the same place");
    }
    assert_eq!(own_paths.len(), 3, "nothing of the homeserver's is mounted: {own_paths:?}");
    assert!(own.env.is_none() && own.ports.is_none(), "{own:?}");
    let security = own.security_context.as_ref().unwrap();
    assert_eq!((security.run_as_user, security.read_only_root_filesystem), (Some(1000), Some(true)));

    let pod = built(Duty::TellsSchema, None);
    let [own] = pod.init_containers.as_deref().unwrap() else { panic!("one init container") };
    assert_eq!(own.restart_policy, None, "it ends before the task begins");
    assert_eq!(own.args, Some(vec![synapse::schema_file()]));
    assert!(!paths(own).contains_key("postgres-socket"));
}
