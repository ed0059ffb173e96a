//! A homeserver that is cheap to start: a real PostgreSQL with a real Synapse schema, and Pods that only wait in the place
//! of Synapse's. For what happens around the data. `examples.rs` has a Synapse that serves.

use std::process::Command;

use crate::{kubectl::run, setup, world::World};

/// Three workloads: a main process, two workers, and one that is off and must stay off.
const WORKLOADS: [(&str, u32); 3] = [("synapse-main", 1), ("synapse-worker", 2), ("synapse-off", 0)];

/// The `Synapse` object.
const SYNAPSE: &str = "
apiVersion: synapse-keeper.dev/v1alpha1
kind: Synapse
metadata: {name: example}
spec:
  serverName: example.org
  workloads:
    selector: {matchLabels: {app.kubernetes.io/name: synapse}}
    main: {kind: Deployment, name: synapse-main}
  postgres:
    host: postgres
    database: synapse
    credentials: {secretName: synapse-postgres}
    dataVolume: {claimName: data-postgres-0}
  config: {secrets: [synapse-signing-key]}
  jobs: {runAsUser: 991, fsGroup: 991}
";

/// A namespace with an operator and a homeserver.
pub fn world(name: &str) -> World {
    let world = World::new(name);
    set_up(&world);
    world
}

/// Puts the homeserver there.
pub fn set_up(world: &World) {
    world.apply_file("tests/homeserver/manifests/secrets.yaml");
    world.apply_file("tests/homeserver/manifests/postgres.yaml");
    for (name, replicas) in WORKLOADS {
        world.apply(&workload(name, replicas, "exec sleep infinity"));
    }
    world.kubectl(&["rollout", "status", "statefulset/postgres", "--timeout=4m"]);
    restore_fixture(world);
    world.apply(SYNAPSE);
    world.assert_untouched_or_restored();
}

/// A Deployment in Synapse's place; `script` is what its Pods run.
pub fn workload(name: &str, replicas: u32, script: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels: {{app.kubernetes.io/name: synapse}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      automountServiceAccountToken: false
      securityContext: {{runAsNonRoot: true, runAsUser: 991, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: synapse
          image: localhost/synapse:1.163.2
          imagePullPolicy: IfNotPresent
          command: [sh, -c, {script:?}]
          securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
    )
}

/// A real Synapse's database, as its dump has it.
fn restore_fixture(world: &World) {
    let root = env!("CARGO_MANIFEST_DIR");
    let path = setup::path("tests/homeserver/fixture", &[]).display().to_string();
    let restore = "pg_restore --no-owner --role=synapse -U postgres -d synapse";
    let kubectl =
        format!("{root}/tests/cluster/kubectl -n {} exec -i postgres-0 -- {restore} < {path}", world.namespace);
    let output = Command::new("sh").args(["-c", &kubectl]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes a table whose VACUUM FULL takes about so many seconds: its index calls a slow function for each row.
pub fn slow_table(world: &World, seconds: u32) {
    let rows = seconds * 20;
    world.sql(&format!(
        "SET ROLE synapse; {}; \
         CREATE TABLE slow_table (n int, filler text); \
         CREATE INDEX ON slow_table (slow(n)) WHERE n > 0; \
         INSERT INTO slow_table SELECT -n, repeat(md5(n::text), 200) FROM generate_series(1, 4000) n; \
         DELETE FROM slow_table; \
         INSERT INTO slow_table SELECT n, 'kept' FROM generate_series(1, {rows}) n; {}",
        slowness(0.0),
        slowness(0.05)
    ));
}

/// From now on the table is as quick as any.
pub fn hurry(world: &World) {
    world.sql(&slowness(0.0));
}

fn slowness(seconds: f64) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \
         $$ BEGIN PERFORM pg_sleep({seconds}); RETURN n; END $$"
    )
}

/// A maintenance with a VACUUM FULL of one table.
pub fn vacuum_full(name: &str, table: &str, more: &str) -> String {
    format!(
        "
apiVersion: synapse-keeper.dev/v1alpha1
kind: SynapseMaintenance
metadata: {{name: {name}}}
spec:
  synapseRef: {{name: example}}
  steps: [{{vacuum: {{mode: Full, tables: [{table}], minimumGain: '0'}}}}]
{more}
"
    )
}

/// Sets a Deployment's replicas in its manifest, as Argo CD does.
pub fn patch_replicas(world: &World, deployment: &str, replicas: u32) {
    let patch = format!("{{\"spec\":{{\"replicas\":{replicas}}}}}");
    let arguments = [
        "--namespace",
        &world.namespace,
        "patch",
        "deployment",
        deployment,
        "--field-manager=argocd-controller",
        "-p",
        &patch,
    ];
    let (success, said) = run("kubectl", &arguments, "");
    assert!(success, "{said}");
}
