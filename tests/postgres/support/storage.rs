//! A real S3 server on the loopback, and a wire to it that a test may cut.

use std::{
    fs,
    net::TcpStream,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{self, TcpListener},
    sync::watch,
};

use super::{
    REPOSITORY_PASSWORD, Repository,
    daemon::{self, Daemon, Volume, free_port},
    repository::PROGRAMS,
};

const ACCESS_KEY: &str = "backups";
/// Who has it may write.
pub const SECRET_KEY: &str = "staple-horse-battery";

/// An S3 server with its data in a folder.
pub struct Storage {
    daemon: Option<Daemon>,
    data: PathBuf,
    megabytes: Option<u32>,
    /// Secrets lead to a user whom a policy of the bucket binds, and not to the server's own account.
    has_users: bool,
    pub port: u16,
}

impl Storage {
    pub fn start() -> Self {
        Self::with(None, false)
    }

    /// With a bucket and a repository in it, and a user whom [`Self::deny`] binds.
    pub fn with_a_user() -> Self {
        let storage = Self::with(None, true);
        storage.restic(&["init"]);
        storage.deny(&[]);
        storage
    }

    /// With a repository in a bucket that keeps what is deleted or overwritten as an old version.
    pub fn with_versions() -> Self {
        let storage = Self::start();
        storage.restic(&["init"]);
        storage.write("versioning", "\u{1}");
        storage
    }

    /// Old versions that the bucket keeps.
    pub fn old_versions(&self) -> usize {
        let kept = Command::new("find").arg(self.data.join("versions")).args(["-type", "f"]).output().expect("find");
        String::from_utf8_lossy(&kept.stdout).lines().count()
    }

    /// The user may do everything in the bucket but delete what begins so, such as `data/`.
    pub fn deny(&self, deletes_of: &[&str]) {
        let bucket = "arn:aws:s3:::backups";
        let statement = |effect: &str, action: &str, resources: &[String]| serde_json::json!({"Effect": effect, "Principal": "*", "Action": action, "Resource": resources});
        let mut statements = vec![statement("Allow", "s3:*", &[bucket.to_owned(), format!("{bucket}/*")])];
        let denied: Vec<String> = deletes_of.iter().map(|prefix| format!("{bucket}/{prefix}*")).collect();
        statements.extend((!denied.is_empty()).then(|| statement("Deny", "s3:DeleteObject", &denied)));
        self.write("policy", &serde_json::json!({"Statement": statements}).to_string());
    }

    /// What is written from now on cannot be deleted before tomorrow.
    pub fn lock_objects(&self) {
        let retention = serde_json::json!({"Mode": "GOVERNANCE", "Days": 1, "Years": null});
        let lock = serde_json::json!({"Enabled": true, "DefaultRetention": retention, "CreatedAt": jiff::Timestamp::now().to_string()});
        self.write("bucket-lock", &lock.to_string());
    }

    /// Where the server keeps what it knows of the bucket.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.data.join("beside/backups/meta").join(name), text).expect("a file beside the bucket");
    }

    /// All that it stores is on a disk of its own.
    pub fn on_a_small_disk(megabytes: u32) -> Self {
        Self::with(Some(megabytes), false)
    }

    fn with(megabytes: Option<u32>, has_users: bool) -> Self {
        let data = daemon::new_directory();
        let mut storage = Self { daemon: None, data, megabytes, has_users, port: free_port() };
        storage.restart(SECRET_KEY);
        storage
    }

    /// Starts it, or starts it again with another key. A small disk does not outlive that.
    pub fn restart(&mut self, secret_key: &str) {
        self.daemon = None;
        let directory = daemon::new_directory();
        let program = directory.join("versitygw");
        fs::copy(PROGRAMS.join("versitygw"), &program).expect("a copy that its user may run");
        let (buckets, beside) = (self.data.join("buckets"), self.data.join("beside"));
        let users = self.data.join("users");
        let versions = self.data.join("versions");
        for folder in [&buckets, &beside, &users, &versions] {
            fs::create_dir_all(folder).expect("a folder");
        }
        let user =
            serde_json::json!({"access": ACCESS_KEY, "secret": SECRET_KEY, "role": "user", "userID": 0, "groupID": 0});
        let known = serde_json::json!({"accessAccounts": {ACCESS_KEY: user}});
        fs::write(users.join("users.json"), known.to_string()).expect("a file");
        daemon::give_to_postgres(&self.data);
        let volume = self.megabytes.map(|megabytes| Volume { directory: self.data.clone(), megabytes });
        let of_users = self.has_users.then(|| format!("--iam-dir={}", users.display()));
        let words = [
            "env".to_owned(),
            format!("ROOT_ACCESS_KEY={}", self.root()),
            format!("ROOT_SECRET_KEY={secret_key}"),
            program.display().to_string(),
            "--quiet".to_owned(),
            format!("--port=127.0.0.1:{}", self.port),
        ];
        let posix = [
            "posix".to_owned(),
            format!("--sidecar={}", beside.display()),
            format!("--versioning-dir={}", versions.display()),
            buckets.display().to_string(),
        ];
        let words: Vec<String> = words.into_iter().chain(of_users).chain(posix).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let daemon = Daemon::start_on(volume.as_ref(), directory, "KILL", &words);
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "versitygw did not start:\n{}", daemon.log());
            thread::sleep(Duration::from_millis(50));
        }
        self.daemon = Some(daemon);
    }

    /// The access key of the server's own account, which has the same secret key.
    fn root(&self) -> &'static str {
        if self.has_users { "root" } else { ACCESS_KEY }
    }

    /// A Secret that leads to it through a wire.
    pub fn secret(&self, wire: &Wire) -> Repository {
        self.secret_for(wire.port)
    }

    /// A Secret that leads to it.
    pub fn direct_secret(&self) -> Repository {
        self.secret_for(self.port)
    }

    fn secret_for(&self, port: u16) -> Repository {
        self.secret_at("127.0.0.1", port)
    }

    /// A Secret that names this host and port, whoever listens there.
    pub fn secret_at(&self, host: &str, port: u16) -> Repository {
        let repository = Repository::not_made();
        repository.mount("RESTIC_REPOSITORY", &format!("s3:http://{host}:{port}/backups"));
        repository.mount("AWS_ACCESS_KEY_ID", ACCESS_KEY);
        repository.mount("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        repository
    }

    /// `restic` on the server itself, which must succeed; what it printed.
    pub fn restic(&self, arguments: &[&str]) -> String {
        let output = Command::new(PROGRAMS.join("restic"))
            .args(["--no-cache", "--repo", &location(self.port)])
            .args(arguments)
            .env("RESTIC_PASSWORD", REPOSITORY_PASSWORD)
            .env("AWS_ACCESS_KEY_ID", self.root())
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .output()
            .expect("restic");
        assert!(output.status.success(), "restic {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Ids of the snapshots with a tag.
    pub fn snapshots(&self, tag: &str) -> Vec<String> {
        let listed = self.restic(&["snapshots", "--no-lock", "--json", "--tag", tag]);
        let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("JSON");
        listed.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.daemon = None;
        let _ = fs::remove_dir_all(&self.data);
    }
}

fn location(port: u16) -> String {
    format!("s3:http://127.0.0.1:{port}/backups")
}

/// What a wire does with what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// It takes connections and a little of what comes, and then nothing.
    Stalled,
    /// Connections break.
    Cut,
}

/// A TCP proxy.
pub struct Wire {
    pub port: u16,
    way: watch::Sender<Way>,
    /// As many bytes may still pass to the server before it becomes so.
    left: Arc<AtomicU64>,
    then: watch::Sender<Way>,
}

impl Wire {
    /// An open one.
    pub async fn to(storage: &Storage) -> Self {
        Self::to_port(storage.port).await
    }

    /// An open one to whoever listens there.
    pub async fn to_port(server: u16) -> Self {
        Self::from_port(0, server).await
    }

    /// One that begins at this port, where nobody has listened before.
    pub async fn from_port(port: u16, server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let wire = Self {
            port,
            way: watch::Sender::new(Way::Open),
            left: Arc::new(AtomicU64::new(u64::MAX)),
            then: watch::Sender::new(Way::Open),
        };
        let (way, left, then) = (wire.way.clone(), wire.left.clone(), wire.then.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (way, left, then) = (way.clone(), left.clone(), then.clone());
                tokio::spawn(async move {
                    let Ok(server) = net::TcpStream::connect(("127.0.0.1", server)).await else { return };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    let mut watched = way.subscribe();
                    tokio::select! {
                        () = carry(from_client, to_server, &way, Some((&left, &then))) => {}
                        () = carry(from_server, to_client, &way, None) => {}
                        _ = watched.wait_for(|way| *way == Way::Cut) => {}
                    }
                });
            }
        });
        wire
    }

    /// It becomes so when as many bytes more have passed to the server.
    pub fn after(&self, bytes: u64, way: Way) {
        self.then.send_replace(way);
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// It becomes so now.
    pub fn becomes(&self, way: Way) {
        self.way.send_replace(way);
    }

    pub fn open(&self) {
        self.left.store(u64::MAX, Ordering::SeqCst);
        self.way.send_replace(Way::Open);
    }

    /// Waits until it has become so.
    pub async fn until(&self, way: Way) {
        self.way.subscribe().wait_for(|now| *now == way).await.expect("it is there");
    }
}

async fn carry(
    mut from: net::tcp::OwnedReadHalf,
    mut to: net::tcp::OwnedWriteHalf,
    way: &watch::Sender<Way>,
    counted: Option<(&AtomicU64, &watch::Sender<Way>)>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if let Some((left, then)) = counted {
            let before = left.load(Ordering::SeqCst);
            if before != u64::MAX {
                left.store(before.saturating_sub(length as u64), Ordering::SeqCst);
                if before <= length as u64 {
                    way.send_replace(*then.borrow());
                }
            }
        }
        if way.subscribe().wait_for(|way| *way != Way::Stalled).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
