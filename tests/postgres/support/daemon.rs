//! A program in the background that ends with the tests, however they end.

use std::{
    fs,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::server::programs;

/// A shell starts the program and waits for the end of its standard input: the pipe closes when the tests end, also by a
/// panic or SIGKILL. Then it stops the program, which a test may have left asleep, and removes the directory.
const GUARDIAN: &str = r#"signal=$1 directory=$2; shift 2
"$@" >>"$directory/log" 2>&1 & program=$!
cat >/dev/null
kill -s "$signal" "$program"; kill -s CONT "$program"; wait "$program"; rm -rf "$directory""#;

/// Gives the program a small disk that nobody else sees: the kernel unmounts it with the last process in there.
const WITH_VOLUME: &str = r#"directory=$1 size=$2; shift 2
mount -t tmpfs -o "size=$size" tmpfs /mnt && cp -a "$directory/." /mnt && mount --move /mnt "$directory" && exec "$@""#;

/// A file system in memory in the place of a directory, with what is in there.
pub struct Volume {
    pub directory: PathBuf,
    pub megabytes: u32,
}

/// A program in the background. Dropped: stopped, and its directory gone.
pub struct Daemon {
    guardian: Child,
    pub directory: PathBuf,
}

impl Daemon {
    /// Starts `command` as the user `postgres`, who owns `directory` from here on; its output goes to `log` in there.
    pub fn start(directory: PathBuf, stop_signal: &str, command: &[&str]) -> Self {
        Self::start_on(None, directory, stop_signal, command)
    }

    /// The same, with a small disk. Only root may mount.
    pub fn start_on(volume: Option<&Volume>, directory: PathBuf, stop_signal: &str, command: &[&str]) -> Self {
        give_to_postgres(&directory);
        let with_volume = volume.map(|Volume { directory, megabytes }| {
            let words = ["unshare", "--mount", "sh", "-c", WITH_VOLUME, "with-volume"].map(str::to_owned);
            words.into_iter().chain([directory.display().to_string(), format!("{megabytes}m")])
        });
        let words = with_volume.into_iter().flatten().chain(as_postgres().iter().map(|word| (*word).to_owned()));
        let words: Vec<String> = words.chain(command.iter().map(|word| (*word).to_owned())).collect();
        Self::guard(directory, stop_signal, &words)
    }

    /// Starts `command` as who runs the tests.
    pub fn guard(directory: PathBuf, stop_signal: &str, command: &[String]) -> Self {
        let guardian = Command::new("sh")
            .args(["-c", GUARDIAN, "guardian", stop_signal])
            .arg(&directory)
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C at the terminal is for the tests; the guardian comes after them.
            .process_group(0)
            .spawn()
            .expect("sh");
        Self { guardian, directory }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.guardian.stdin.take());
        let _ = self.guardian.wait();
    }
}

/// PostgreSQL refuses to run as root. Its package makes the user, so it is installed first.
fn as_postgres() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() {
        programs();
        &["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    } else {
        &[]
    }
}

/// Runs a program of PostgreSQL to its end, as the user `postgres`.
///
/// # Panics
/// If it fails, with its output.
pub fn run(command: &[&str]) -> String {
    let words: Vec<&str> = as_postgres().iter().chain(command).copied().collect();
    let output = Command::new(words[0]).args(&words[1..]).current_dir("/").output().expect(words[0]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A new directory under `/tmp`: the path of a Unix socket may have 107 bytes.
pub fn new_directory() -> PathBuf {
    let directory = tempfile::Builder::new().prefix("synapse-keeper-").tempdir_in("/tmp").expect("a directory").keep();
    give_to_postgres(&directory);
    directory
}

pub(super) fn give_to_postgres(path: &Path) {
    if rustix::process::geteuid().is_root() {
        programs();
        let done = Command::new("chown").args(["-R", "postgres:postgres"]).arg(path).status().expect("chown");
        assert!(done.success());
    }
}

/// A port of the loopback that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}
