//! One round: a new control plane, a homeserver, and everything that is measured, one after the other.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Namespace, ServiceAccount},
    rbac::v1::ClusterRoleBinding,
};
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use synapse_keeper::api::Synapse;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    audit::{self, Request},
    idle, objects, operation,
    peer::K8up,
    process::{Process, free_port},
    settings::Settings,
    stage::{Stage, world::World},
    table::Table,
};

/// The operator's own namespace, ServiceAccount and election.
pub const OWN: &str = "synapse-keeper";
const USER: &str = "system:serviceaccount:synapse-keeper:synapse-keeper";
pub const ELECTION: &str = "synapse-keeper-leader";

const RESIDENT: &str = "Resident memory";
const ANONYMOUS: &str = "… of it heap and stacks";
const PEAK: &str = "… the most in the life of the process";
const START: &str = "Start and end";

/// Plays a round and notes its figures.
pub async fn play(settings: &Settings, round: usize, table: &mut Table) {
    let stage = Arc::new(Stage::set(&format!("bench{round}")).await);
    let world = World::with_homeserver(&stage, "bench").await;
    let installed = Installed::new(&stage, settings).await;

    let operator = installed.start().await;
    until_inspected(&world, 0).await;
    operator.note_memory(table, settings, "idle, one homeserver", "≤ 12").await;

    let finished = operation::measure(&operator, &world, settings.operations, "", table).await;
    operator.note_memory(table, settings, "after its operations", "").await;
    operator.stop().await;

    // The operator is away: it would begin to work on an object that has not got its status yet.
    objects::create_finished(&world, &finished, settings.objects).await;
    let operator = installed.start().await;
    let (many, both) = (settings.objects, 2 * settings.objects);
    operator.note_start(table, &format!("with {many} finished objects"));
    operator.note_memory(table, settings, &format!("{many} finished objects"), "≤ 20").await;

    objects::settle(&operator, &world, many, table).await;
    operator.note_memory(table, settings, &format!("{many} finished and {many} scheduled objects"), "≤ 20").await;

    let peer = match &settings.k8up {
        Some((program, crds)) => Some(K8up::measure(&installed, program, crds, settings, table).await),
        None => None,
    };
    let before = operator.process.memory().resident;
    objects::create_foreign(&stage.admin, settings.foreign).await;
    let what = format!("the same, and {} Secrets and ConfigMaps of others", settings.foreign);
    let after = operator.note_memory(table, settings, &what, "≤ 20").await;
    table.add(RESIDENT, "growth from what is not its own", "MB", "0", after - before);
    if let Some(peer) = peer {
        peer.measure_beside_foreign(settings, table).await;
    }

    idle::measure(&operator, settings.idle, &format!("{both} objects"), table).await;
    operation::measure(&operator, &world, 1, &format!(", beside {both} objects"), table).await;
    operator.note_memory(table, settings, &format!("after an operation beside {both} objects"), "").await;
    let took = operator.stop().await;
    table.note(START, "SIGTERM to the end", "s", took.as_secs_f64());

    let operator = installed.start().await;
    operator.note_start(table, &format!("with {both} objects"));
    operator.note_memory(table, settings, &format!("begun anew beside {both} objects"), "≤ 20").await;
}

/// Waits for an inspection after the one with this number; gives its number.
pub async fn until_inspected(world: &World, last: i64) -> i64 {
    let number = |synapse: &Synapse| {
        let inspection = synapse.status.as_ref()?.inspection.as_ref()?;
        inspection.finished_at.as_ref().map(|_| inspection.number)
    };
    let wanted = move |synapse: Option<&Synapse>| synapse.and_then(number).is_some_and(|number| number > last);
    let synapse = world.until::<Synapse>("example", "is inspected", wanted).await.expect("it is there");
    number(&synapse).expect("it was just seen")
}

/// The operator's ServiceAccount, with its rights and its kubeconfig.
pub struct Installed {
    pub stage: Arc<Stage>,
    operator: PathBuf,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    kubeconfig: PathBuf,
}

impl Installed {
    async fn new(stage: &Arc<Stage>, settings: &Settings) -> Self {
        let folder = stage.control_plane.dir.clone();
        let token = account(&stage.admin, OWN).await;
        let kubeconfig = folder.join("operator.kubeconfig");
        std::fs::write(&kubeconfig, stage.control_plane.kubeconfig(&token)).expect("a kubeconfig");
        let (operator, environment) = (settings.operator.clone(), settings.environment.clone());
        Self { stage: stage.clone(), operator, environment, folder, kubeconfig }
    }

    /// Starts the operator as its Deployment does, and waits until it watches.
    async fn start(&self) -> Operator {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let mut environment = vec![
            ("KUBECONFIG", self.kubeconfig.to_str().expect("a path in ASCII")),
            ("TOOLS_IMAGE", "localhost/tools:1"),
            ("LEADER_ELECTION_LEASE", ELECTION),
            ("POD_NAMESPACE", OWN),
            ("POD_NAME", "synapse-keeper-0"),
            ("LISTEN", &listen),
        ];
        environment.extend(self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let (started, began) = (Timestamp::now(), Instant::now());
        let log = self.folder.join("operator.log");
        let process = Process::start(&self.operator, &["controller"], &environment, &log);
        let mut operator = Operator { process, stage: self.stage.clone(), started, watched: started };
        while !is_ready(port).await || !operator.watches().await {
            assert!(began.elapsed() < Duration::from_secs(120), "the operator does not begin: see {}", log.display());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        operator
    }

    /// What a peer's kubeconfig and log are beside.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }
}

/// A ServiceAccount that may do everything, in a namespace of its own; its token.
pub async fn account(admin: &Client, name: &str) -> String {
    let object = |value: serde_json::Value| serde_json::from_value(value).expect("plain data");
    let params = PostParams::default();
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a namespace");
    Api::<Namespace>::all(admin.clone()).create(&params, &namespace).await.expect("a namespace");
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), name);
    accounts.create(&params, &object(json!({"metadata": {"name": name}}))).await.expect("a ServiceAccount");
    // How many rights it has makes no difference to what is measured.
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": name}],
    }))
    .expect("a binding");
    Api::<ClusterRoleBinding>::all(admin.clone()).create(&params, &binding).await.expect("a binding");
    let spec = TokenRequestSpec { expiration_seconds: Some(24 * 3600), ..Default::default() };
    let request = TokenRequest { spec, ..Default::default() };
    let token = accounts.create_token_request(name, &params, &request).await.expect("a token");
    token.status.expect("a token").token
}

/// The operator under measurement.
pub struct Operator {
    pub process: Process,
    pub stage: Arc<Stage>,
    started: Timestamp,
    /// When it began to watch its own kind.
    watched: Timestamp,
}

impl Operator {
    /// What it asked for between two times.
    pub async fn requests(&self, from: Timestamp, until: Timestamp) -> Vec<Request> {
        audit::requests(&self.stage.control_plane, USER, from, until).await
    }

    async fn watches(&mut self) -> bool {
        let requests = self.requests(self.started, Timestamp::MAX).await;
        let watch = requests.iter().find(|request| request.kind() == "watch synapsemaintenances");
        if let Some(watch) = watch {
            self.watched = watch.received;
        }
        watch.is_some()
    }

    /// Leaves it alone for a while and notes what memory it has then.
    async fn note_memory(&self, table: &mut Table, settings: &Settings, when: &str, aim: &str) -> f64 {
        tokio::time::sleep(settings.rest).await;
        let memory = self.process.memory();
        table.add(RESIDENT, when, "MB", aim, memory.resident);
        table.note(ANONYMOUS, when, "MB", memory.anonymous);
        table.note(PEAK, when, "MB", memory.peak);
        memory.resident
    }

    fn note_start(&self, table: &mut Table, when: &str) {
        let seconds = self.watched.duration_since(self.started).as_secs_f64();
        table.note(START, format!("exec to the watch of its kind, {when}"), "s", seconds);
    }

    async fn stop(self) -> Duration {
        self.process.stop().await
    }
}

async fn is_ready(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let request = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut answer = String::new();
    stream.write_all(request.as_bytes()).await.is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.starts_with("HTTP/1.1 200")
}
