//! The program under test, run as a Job runs it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use synapse_keeper::contract::{
    BackupFindings, Findings, InspectionFindings, PreflightFindings, Report, StepResult, TaskError,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::{
    Database, Memory, PASSWORD, REPOSITORY_PASSWORD,
    said::{Said, processes},
    server::{self, programs},
};

/// Longer than a task waits for a storage that stalls (five minutes): then its own words say what it waited for.
const ENDS_WITHIN: Duration = Duration::from_secs(450);

/// A call of `synapse-keeper task …` with its mounts.
pub struct Program {
    arguments: Vec<String>,
    mounts: TempDir,
    credentials: Vec<(&'static str, String)>,
    path: Option<std::ffi::OsString>,
    variables: Vec<(String, String)>,
    is_no_superuser: bool,
    /// In the place of /etc/hosts.
    hosts: Option<PathBuf>,
    /// Where it writes its process id before it starts.
    group: Option<PathBuf>,
}

/// A call that has started.
pub struct Running {
    pub child: Child,
    mounts: TempDir,
    /// What was read of its output, and is still to be looked at.
    read: Vec<u8>,
}

/// A call that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; none: killed.
    pub code: Option<i32>,
    /// Everything that was printed, to both outputs.
    pub printed: String,
    report: Option<Report>,
}

impl Program {
    /// A task, with the Secret of the role `synapse` mounted.
    pub fn task(task: &str) -> Self {
        let credentials = vec![("username", "synapse".to_owned()), ("password", PASSWORD.to_owned())];
        let mounts = tempfile::tempdir().expect("a directory");
        Self {
            arguments: vec!["task".to_owned(), task.to_owned()],
            mounts,
            credentials,
            path: None,
            variables: Vec::new(),
            is_no_superuser: false,
            hosts: None,
            group: None,
        }
    }

    /// Only programs in this folder are found on the PATH. PostgreSQL's are where Debian has them.
    pub fn programs(mut self, folder: &Path) -> Self {
        self.path = Some(folder.as_os_str().to_owned());
        self
    }

    pub fn database(self, host: &str, port: u16, database: &str) -> Self {
        let port = port.to_string();
        self.with(&["--host", host, "--port", &port, "--database", database])
    }

    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Mounts the Secret of another role, or a wrong one.
    pub fn credentials(mut self, username: &str, password: &str) -> Self {
        self.credentials = vec![("username", username.to_owned()), ("password", password.to_owned())];
        self
    }

    /// Has this environment variable.
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What the mode of a file forbids is forbidden, whoever runs the tests: as in a Pod.
    pub fn no_superuser(mut self) -> Self {
        self.is_no_superuser = true;
        self
    }

    /// It reads this file as /etc/hosts, and what is written there later. Only root may mount.
    pub fn hosts(mut self, hosts: &Path) -> Self {
        self.hosts = Some(hosts.to_owned());
        self
    }

    /// It has no more memory than this, with all the programs that it starts: as in a container.
    pub fn within(mut self, memory: &Memory) -> Self {
        self.group = Some(memory.processes());
        self
    }

    /// Mounts the Secret of a role that may make databases.
    pub fn administrator(self, username: &str) -> Self {
        let directory = self.mounted("administrator", username, PASSWORD);
        self.with(&["--admin-credentials-dir", &directory])
    }

    /// Mounts one more Secret of a role; its directory.
    pub fn mounted(&self, name: &str, username: &str, password: &str) -> String {
        let directory = self.mounts.path().join(name);
        fs::create_dir(&directory).expect("a directory");
        for (key, value) in [("username", username), ("password", password)] {
            fs::write(directory.join(key), value).expect("a mounted key");
        }
        directory.display().to_string()
    }

    /// Mounts a Secret without this key.
    pub fn without_key(mut self, key: &str) -> Self {
        self.credentials.retain(|(name, _)| *name != key);
        self
    }

    pub fn start(self) -> Running {
        let secret = self.mounts.path().join("secret");
        fs::create_dir(&secret).expect("a directory");
        for (name, value) in &self.credentials {
            fs::write(secret.join(name), value).expect("a mounted key");
        }
        // The kubelet makes it before the container starts.
        fs::write(termination_log(&self.mounts), "").expect("a termination log");
        // Benchmarks name the release build.
        let program = std::env::var_os("SYNAPSE_KEEPER").unwrap_or_else(|| env!("CARGO_BIN_EXE_synapse-keeper").into());
        let mut words: Vec<std::ffi::OsString> = Vec::new();
        if let Some(group) = self.group {
            words.extend(["/bin/sh".into(), "-c".into(), r#"echo $$ >"$0" && exec "$@""#.into(), group.into()]);
        }
        if let Some(hosts) = self.hosts {
            let mounts = r#"/usr/bin/mount --bind "$0" /etc/hosts && exec "$@""#;
            words.extend(["/usr/bin/unshare", "--mount", "/bin/sh", "-c", mounts].map(Into::into));
            words.push(hosts.into());
        }
        if self.is_no_superuser {
            let setpriv = ["/usr/bin/setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"];
            words.extend(setpriv.map(Into::into));
        }
        words.push(program);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.envs(self.variables);
        if let Some(path) = search_path(self.path) {
            command.env("PATH", path);
        }
        // Not every task is told of a database.
        if self.arguments.iter().any(|argument| argument == "--host") {
            command.arg("task").arg(&self.arguments[1]).arg("--credentials-dir").arg(secret).args(&self.arguments[2..]);
        } else {
            command.args(&self.arguments);
        }
        let child = command
            .env("SYNAPSE_KEEPER_TERMINATION_LOG", termination_log(&self.mounts))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program");
        Running { child, mounts: self.mounts, read: Vec::new() }
    }

    pub async fn run(self) -> Finished {
        self.start().finish().await
    }
}

/// Where programs are looked for; `None`: where the tests look. A task finds PostgreSQL's of another major than the machine's on
/// the PATH alone.
fn search_path(folder: Option<std::ffi::OsString>) -> Option<std::ffi::OsString> {
    if server::major().is_none() {
        return folder;
    }
    let others = folder.or_else(|| std::env::var_os("PATH")).unwrap_or_default();
    let folders = [programs().to_owned()].into_iter().chain(std::env::split_paths(&others));
    Some(std::env::join_paths(folders).expect("paths without a colon"))
}

fn termination_log(mounts: &TempDir) -> PathBuf {
    mounts.path().join("termination-log")
}

impl Running {
    /// Waits until the task's VACUUM FULL holds its lock.
    ///
    /// # Panics
    /// If the task ends before, with what it printed.
    pub async fn at_work(mut self, database: &Database) -> Self {
        let started = Instant::now();
        while !database.is_vacuuming() {
            if started.elapsed() > Duration::from_secs(60) || self.child.try_wait().expect("the program").is_some() {
                self.child.start_kill().ok();
                panic!("the task does not vacuum: {}", self.finish().await.printed);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self
    }

    /// Waits until the task tells of progress with these words. What it has printed until then is not in its end.
    ///
    /// # Panics
    /// If it ends before.
    pub async fn until_told(mut self, words: &str) -> Self {
        let mut told = BufReader::new(self.child.stdout.take().expect("its output is a pipe"));
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(told.read_line(&mut line).await.expect("text") > 0, "it ends without {words:?}");
        }
        self.read = told.buffer().to_vec();
        self.child.stdout = Some(told.into_inner());
        self
    }

    /// As the kubelet, or the kernel, sends it.
    pub fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it runs");
        kill_process(pid, signal).expect("it runs");
    }

    /// Ends it by SIGKILL as soon as it has told of its progress so many times. False: it had ended before.
    pub async fn killed_after(mut self, lines: usize) -> bool {
        let mut told = BufReader::new(self.child.stdout.take().expect("its output is a pipe")).lines();
        for _ in 0..lines {
            let line = told.next_line().await.expect("text");
            if !line.is_some_and(|line| line.contains("\"progress\"")) {
                self.child.wait().await.expect("its end");
                return false;
            }
        }
        self.child.kill().await.expect("it runs");
        true
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it takes too long, if the exit code and the two reports disagree, or if a password was printed.
    pub async fn finish(self) -> Finished {
        let Self { mut child, mounts, read } = self;
        let mut said = Said::of(&mut child, read);
        let ended = tokio::time::timeout(ENDS_WITHIN, async {
            let status = child.wait().await.expect("the program's end");
            said.close().await;
            status
        });
        let Ok(status) = ended.await else {
            let (stdout, stderr) = said.texts();
            panic!("a task that does not end. Its processes:\n{}\nIt printed:\n{stdout}{stderr}", processes(&child));
        };
        let (stdout, stderr) = said.texts();
        let message = fs::read_to_string(termination_log(&mounts)).expect("the termination message");
        for (place, text) in [("stdout", &stdout), ("stderr", &stderr), ("the termination message", &message)] {
            assert!(!text.contains(PASSWORD), "{place} holds the password:\n{text}");
            assert!(!text.contains(REPOSITORY_PASSWORD), "{place} holds the repository's password:\n{text}");
        }
        assert!(message.len() <= 4096, "the kubelet cuts a termination message of {} bytes", message.len());

        let last_line = stdout.lines().last().unwrap_or_default();
        let report: Option<Report> = serde_json::from_str(last_line).ok();
        if let (Some(code), Some(report)) = (status.code(), &report) {
            let message: Report = serde_json::from_str(&message).expect("a report as the termination message");
            assert!(message.details_in_log || message == *report, "the two reports differ:\n{message:?}\n{report:?}");
            let expected = report.error.as_ref().map_or(0, |error| match error.class {
                synapse_keeper::contract::ErrorClass::Terminal => 10,
                synapse_keeper::contract::ErrorClass::Transient => 11,
            });
            assert_eq!(code, expected, "{report:?}");
        }
        Finished { code: status.code(), printed: format!("{stdout}{stderr}"), report }
    }
}

impl Finished {
    /// The report.
    ///
    /// # Panics
    /// If there is none.
    pub fn report(&self) -> &Report {
        self.report.as_ref().unwrap_or_else(|| panic!("no report: {}", self.printed))
    }

    /// What was done, by a task that succeeded.
    pub fn result(&self) -> &StepResult {
        assert_eq!(self.report().error, None, "{}", self.printed);
        self.report().result.as_ref().expect("a result")
    }

    pub fn inspection(&self) -> &InspectionFindings {
        match &self.report().findings {
            Some(Findings::Inspection(findings)) => findings,
            other => panic!("{other:?}: {}", self.printed),
        }
    }

    pub fn preflight(&self) -> &PreflightFindings {
        match &self.report().findings {
            Some(Findings::Preflight(findings)) => findings,
            other => panic!("{other:?}: {}", self.printed),
        }
    }

    /// What was stored, by a backup that succeeded.
    pub fn backup(&self) -> &BackupFindings {
        assert_eq!(self.report().error, None, "{}", self.printed);
        match &self.report().findings {
            Some(Findings::Backup(findings)) => findings,
            other => panic!("{other:?}: {}", self.printed),
        }
    }

    /// The error, which must have this reason and all these words.
    pub fn refused(&self, reason: &str, words: &[&str]) -> &TaskError {
        let error = self.report().error.as_ref().unwrap_or_else(|| panic!("no error: {}", self.printed));
        assert_eq!(error.reason, reason, "{error}");
        for word in words {
            assert!(error.message.contains(word), "{word:?} is not in: {}", error.message);
        }
        error
    }
}
