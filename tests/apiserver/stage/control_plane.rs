//! A real control plane on this machine's loopback: etcd, kube-apiserver, kube-controller-manager.
//!
//! No kubelet and no scheduler: [`super::kubelet`] plays them. Everything lives in one folder below `target/tmp` and on
//! free ports, so that several of these stand beside each other and beside a real cluster.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use super::setup;

/// The token of the tests' own client, which may do everything.
const ADMIN_TOKEN: &str = "admin";
/// The controllers that make Pods of workloads and Jobs, and clean up. What watches nodes would find ours dead.
const CONTROLLERS: &str = "deployment-controller,replicaset-controller,statefulset-controller,job-controller,\
    garbage-collector-controller,namespace-controller,serviceaccount-controller,resourcequota-controller";
/// How long a component may take to answer.
const START_WITHIN: Duration = Duration::from_secs(90);

/// Stops with the value, and by the kernel's hand if this process or thread is killed.
pub struct ControlPlane {
    /// Where everything of it lives; its `audit.log` too.
    pub dir: PathBuf,
    programs: PathBuf,
    port: u16,
    /// In the order of their start.
    children: Vec<Child>,
}

impl ControlPlane {
    /// Starts etcd and the API server. Must be called on a thread that outlives it: the kernel stops the children when the
    /// thread ends that started them.
    pub async fn start(name: &str) -> Self {
        let dir = fresh_dir(name);
        let keys = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate for an address");
        // It vouches for itself: the clients trust this very certificate.
        write(&dir, "server.crt", &keys.cert.pem());
        write(&dir, "server.key", &keys.signing_key.serialize_pem());
        let accounts = rcgen::KeyPair::generate().expect("a key pair");
        write(&dir, "accounts.key", &accounts.serialize_pem());
        write(&dir, "accounts.pub", &accounts.public_key_pem());
        write(&dir, "tokens.csv", &format!("{ADMIN_TOKEN},admin,admin,system:masters\n"));
        write(&dir, "audit.yaml", AUDIT_POLICY);

        let mut this = Self { dir, programs: programs(), port: free_port(), children: Vec::new() };
        write(&this.dir, "admin.kubeconfig", &this.kubeconfig(ADMIN_TOKEN));
        let etcd = this.start_etcd();
        this.start_api_server(&etcd);
        let began = Instant::now();
        let client = this.client(&this.kubeconfig(ADMIN_TOKEN)).await;
        while let Err(error) = client.apiserver_version().await {
            assert!(
                began.elapsed() < START_WITHIN,
                "the API server does not answer: {error}\n{}",
                this.log("kube-apiserver")
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        this
    }

    /// Starts the controllers. Call it when the CRDs are there: the garbage collector looks for new kinds only now and then.
    pub fn start_controllers(&mut self) {
        let kubeconfig = self.path("admin.kubeconfig");
        self.spawn(
            "kube-controller-manager",
            &[
                format!("--kubeconfig={kubeconfig}"),
                format!("--controllers={CONTROLLERS}"),
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
                // Many small clusters in one: no queueing on the client's side.
                "--kube-api-qps=5000".to_owned(),
                "--kube-api-burst=10000".to_owned(),
                "--concurrent-deployment-syncs=20".to_owned(),
                "--concurrent-replicaset-syncs=20".to_owned(),
                "--concurrent-statefulset-syncs=20".to_owned(),
                "--concurrent-job-syncs=20".to_owned(),
            ],
        );
    }

    /// A client with all rights, with its own connections.
    pub async fn admin(&self) -> Client {
        self.client(&self.kubeconfig(ADMIN_TOKEN)).await
    }

    /// What a client with all rights is made from.
    pub async fn admin_config(&self) -> Config {
        self.config(&self.kubeconfig(ADMIN_TOKEN)).await
    }

    /// The same for the holder of a token.
    pub async fn config_for(&self, token: &str) -> Config {
        self.config(&self.kubeconfig(token)).await
    }

    /// What ServiceAccounts of the tests have asked for, one JSON object a line.
    pub fn audit_log(&self) -> String {
        let mut log = fs::read_to_string(self.dir.join("audit.log")).unwrap_or_default();
        // Another test's line may be half written.
        log.truncate(log.rfind('\n').map_or(0, |end| end + 1));
        log
    }

    /// A program of the control plane's own version, such as `kubectl`, with all rights.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.env("KUBECONFIG", self.path("admin.kubeconfig")).env("HOME", &self.dir);
        command
    }

    async fn client(&self, kubeconfig: &str) -> Client {
        Client::try_from(self.config(kubeconfig).await).expect("a client of a kubeconfig of ours")
    }

    async fn config(&self, kubeconfig: &str) -> Config {
        let kubeconfig = Kubeconfig::from_yaml(kubeconfig).expect("a kubeconfig of ours");
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("a kubeconfig of ours")
    }

    /// A kubeconfig for the holder of a token, for a process of its own.
    pub fn kubeconfig(&self, token: &str) -> String {
        format!(
            "{{apiVersion: v1, kind: Config, current-context: it, contexts: [{{name: it, context: {{cluster: it, user: it}}}}], \
             clusters: [{{name: it, cluster: {{server: 'https://127.0.0.1:{}', certificate-authority: '{}'}}}}], \
             users: [{{name: it, user: {{token: '{token}'}}}}]}}",
            self.port,
            self.path("server.crt"),
        )
    }

    fn start_etcd(&mut self) -> String {
        let (clients, peers) = (url("http", free_port()), url("http", free_port()));
        let data = self.path("etcd");
        self.spawn(
            "etcd",
            &[
                "--name=it".to_owned(),
                format!("--data-dir={data}"),
                format!("--listen-client-urls={clients}"),
                format!("--advertise-client-urls={clients}"),
                format!("--listen-peer-urls={peers}"),
                format!("--initial-advertise-peer-urls={peers}"),
                format!("--initial-cluster=it={peers}"),
                "--unsafe-no-fsync".to_owned(),
                "--log-level=warn".to_owned(),
            ],
        );
        clients
    }

    fn start_api_server(&mut self, etcd: &str) {
        let file = |flag: &str, name: &str| format!("--{flag}={}", self.path(name));
        let flags = [
            format!("--etcd-servers={etcd}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.port),
            file("tls-cert-file", "server.crt"),
            file("tls-private-key-file", "server.key"),
            file("token-auth-file", "tokens.csv"),
            file("service-account-key-file", "accounts.pub"),
            file("service-account-signing-key-file", "accounts.key"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            // The tests run side by side; none may wait for another's requests.
            "--enable-priority-and-fairness=false".to_owned(),
            "--max-requests-inflight=4000".to_owned(),
            "--max-mutating-requests-inflight=2000".to_owned(),
            file("audit-policy-file", "audit.yaml"),
            file("audit-log-path", "audit.log"),
            "--audit-log-mode=blocking".to_owned(),
        ];
        self.spawn("kube-apiserver", &flags);
    }

    /// `setpriv` asks the kernel to kill the child when we die, however that happens.
    fn spawn(&mut self, program: &str, flags: &[String]) {
        let log = fs::File::create(self.dir.join(format!("{program}.log"))).expect("a log file");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(self.programs.join(program))
            .args(flags)
            .current_dir(&self.dir)
            // Memory is there, time is not: collect garbage more seldom.
            .env("GOGC", "400")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {program}: {error}"));
        self.children.push(child);
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).to_str().expect("a path in ASCII").to_owned()
    }

    fn log(&self, program: &str) -> String {
        let text = fs::read_to_string(self.dir.join(format!("{program}.log"))).unwrap_or_default();
        text.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if env::var_os("APISERVER_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Only what ServiceAccounts of the tests do: see `engine/rights.rs`.
const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    userGroups: ['system:serviceaccounts']
  - level: None
";

/// `$KUBE_BIN_DIR`, or what the cluster's build prints.
fn programs() -> PathBuf {
    if let Some(dir) = env::var_os("KUBE_BIN_DIR") {
        return dir.into();
    }
    setup::path("tests/cluster/bin-dir", &[])
}

/// An empty folder; what runs that were killed have left behind goes.
fn fresh_dir(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("apiserver");
    fs::create_dir_all(&root).expect("a folder below target");
    for entry in fs::read_dir(&root).expect("a folder below target").flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.rsplit('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let dir = root.join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder below target");
    dir
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn url(scheme: &str, port: u16) -> String {
    format!("{scheme}://127.0.0.1:{port}")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it listens").port()
}
