//! Where a repository is and how to get in.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::Command,
};

use super::{
    Wants,
    errors::{self, explain},
    pulse::{Pulse, TELLS},
    upload::Upload,
};
use crate::task::report::{Result, TaskError};

/// The program, on the PATH.
const PROGRAM: &str = "restic";

/// An endpoint that does not answer is asked by restic for a quarter of an hour. The first question has less time than
/// that.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A list reads every snapshot's file once; the cache is new with each task.
pub(super) const LIST_WITHIN: Duration = Duration::from_secs(600);

/// With the wait for another's lock.
const LOCKED_WITHIN: Duration = Duration::from_secs(45 * 60);

/// A prune reads every index and writes what it repacks.
const PRUNE_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// Wait for a lock that has come since [`Repository::wait_for_locks`].
pub(super) const RETRY_LOCK: &str = "5m";

/// A restic that complains, and comes no further for so long, is given up: the snapshot of the database is held meanwhile.
const STALLED_WITHIN: Duration = Duration::from_secs(5 * 60);

/// Where the repository is.
const LOCATION: &str = "RESTIC_REPOSITORY";

/// The key of a Secret with the certificate authority of a server behind TLS, as in a Secret of type `kubernetes.io/tls`.
const CA: &str = "ca.crt";

/// A repository, as restic is told of it.
#[derive(Clone)]
pub struct Repository {
    environment: Vec<(OsString, OsString)>,
    cache: PathBuf,
    /// What must not be repeated, whoever says it.
    secrets: Vec<String>,
    word: String,
    /// A prune waits until what is read has been read.
    locks_to_read: bool,
    stalled_within: Duration,
}

impl Repository {
    /// Reads a mounted Secret: every key that could name an environment variable (`RESTIC_REPOSITORY`, `RESTIC_PASSWORD`,
    /// `AWS_ACCESS_KEY_ID`, …) becomes one, and `ca.crt` is the authority of the server's certificate. The password stays
    /// in its file. `location` is where the repository is, instead of `RESTIC_REPOSITORY`; restic's cache and scratch files go
    /// into `scratch`.
    ///
    /// # Errors
    /// Terminal, `SecretKeyMissing`, without a location or a password.
    pub fn from_directory(directory: &Path, location: Option<&str>, scratch: &Path) -> Result<Self> {
        let missing = |what: &str| {
            let message = format!("The Secret of the repository lacks {what} (looked in {}).", directory.display());
            TaskError::terminal("SecretKeyMissing", message)
        };
        // restic runs in other folders than ours.
        let directory = &directory.canonicalize().map_err(|error| missing(&format!("everything: {error}")))?;
        let entries = fs::read_dir(directory).map_err(|error| missing(&format!("everything: {error}")))?;
        let mut keys: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|key| is_known(key) && !(location.is_some() && key == LOCATION))
            .collect();
        keys.sort();
        let mut environment = Vec::new();
        let mut secrets = Vec::new();
        let mut word = Sha256::new();
        for key in &keys {
            let path = directory.join(key);
            word.update(fs::read(&path).map_err(|error| missing(&format!("{key}: {error}")))?);
            match key.as_str() {
                CA => environment.push(("RESTIC_CACERT".into(), path.into())),
                "RESTIC_PASSWORD" => environment.push(("RESTIC_PASSWORD_FILE".into(), path.into())),
                key => {
                    let value = fs::read_to_string(&path).map_err(|error| missing(&format!("{key}: {error}")))?;
                    let value = value.trim_end_matches(['\r', '\n']).to_owned();
                    secrets.extend(errors::secret_parts(key, &value));
                    environment.push((key.into(), value.into()));
                }
            }
        }
        let has = |names: &[&str]| names.iter().any(|name| keys.iter().any(|key| key == name));
        match location {
            Some(location) => environment.push((LOCATION.into(), location.into())),
            None if has(&[LOCATION]) => {}
            None => return Err(missing("the key RESTIC_REPOSITORY")),
        }
        if !has(&["RESTIC_PASSWORD", "RESTIC_PASSWORD_COMMAND", "RESTIC_PASSWORD_FILE"]) {
            return Err(missing("the key RESTIC_PASSWORD"));
        }
        let word = word.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self {
            environment,
            secrets,
            word,
            cache: scratch.into(),
            locks_to_read: false,
            stalled_within: STALLED_WITHIN,
        })
    }

    /// A word of letters and digits, the same for as long as the Secret is, and known only to who has that.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// An upload or a restore of files is given up when it complains and comes no further within this time.
    #[must_use]
    pub fn stalled_within(self, stalled_within: Option<Duration>) -> Self {
        Self { stalled_within: stalled_within.unwrap_or(STALLED_WITHIN), ..self }
    }

    /// From now on a prune waits for who reads, and who reads for a prune. For those who can write to it: what they would
    /// miss meanwhile looks like damage.
    #[must_use]
    pub fn locking_to_read(self) -> Self {
        Self { locks_to_read: true, ..self }
    }

    /// Makes sure that the repository is there and can be opened. Changes nothing.
    ///
    /// # Errors
    /// Terminal: `RepositoryMissing`, `RepositoryPasswordRefused`. Transient: `RepositoryUnreachable`.
    pub async fn look(&self) -> Result<()> {
        self.locks().await.map(drop)
    }

    /// Makes sure that something can be added: the repository is there, can be opened, and nobody takes anything away. Only
    /// where `may_make_it` is it made: a mistyped bucket must not become a new, good and empty repository. True: it was.
    ///
    /// # Errors
    /// Those of [`Self::look`] and of [`Self::wait_for_locks`].
    pub async fn open(&self, may_make_it: bool) -> Result<bool> {
        // One question for all: each call of restic derives the key anew, which takes half a second of a core.
        match self.locks().await {
            Ok(locks) => self.wait_for(locks, Wants::ToAdd).await.map(|()| false),
            Err(error) if may_make_it && error.reason == errors::MISSING => {
                self.run(&["init"], ANSWER_WITHIN).await.map(|_| true)
            }
            Err(error) => Err(error),
        }
    }

    /// Begins to store what will be written to [`Upload::input`], as a file of this name in a snapshot of its own.
    ///
    /// # Errors
    /// restic cannot be started.
    pub fn store_stream(&self, name: &str, tags: &[String]) -> Result<Upload> {
        self.store(name, tags, &[])
    }

    /// The same with what is compressed already: restic would try it again, and take longer than for all the rest.
    ///
    /// # Errors
    /// restic cannot be started.
    pub fn store_compressed_stream(&self, name: &str, tags: &[String]) -> Result<Upload> {
        self.store(name, tags, &["--compression", "off"])
    }

    fn store(&self, name: &str, tags: &[String], compression: &[&str]) -> Result<Upload> {
        let mut command = self.telling_command();
        command.args(["backup", "--json", "--retry-lock", RETRY_LOCK]).args(compression);
        command.args(["--stdin", "--stdin-filename", name]).stdin(Stdio::piped());
        for tag in tags {
            command.args(["--tag", tag]);
        }
        Upload::start(command, self.clone(), name)
    }

    /// A small file of a snapshot, whole.
    ///
    /// # Errors
    /// What restic answers. Content that does not have its checksum any more is one of them.
    pub async fn fetch(&self, snapshot: &str, file: &str) -> Result<String> {
        let file = format!("/{file}");
        self.run(&[self.dump(), vec![snapshot, &file]].concat(), LIST_WITHIN).await
    }

    pub(super) fn dump(&self) -> Vec<&'static str> {
        [&["dump", "--quiet"], self.lock_to_read()].concat()
    }

    pub(super) fn lock_to_read(&self) -> &'static [&'static str] {
        if self.locks_to_read { &["--retry-lock", RETRY_LOCK] } else { &["--no-lock"] }
    }

    /// Takes snapshots out of the list. Their data stays until a [`Repository::prune`].
    ///
    /// # Errors
    /// What restic answers. Some may be gone by then.
    pub async fn forget(&self, ids: &[String]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        self.wait_for_locks(Wants::ToTakeAway).await?;
        // A command line has its limits.
        for some in ids.chunks(500) {
            let mut arguments = vec!["forget", "--quiet", "--retry-lock", RETRY_LOCK];
            arguments.extend(some.iter().map(String::as_str));
            self.run(&arguments, LOCKED_WITHIN).await?;
        }
        Ok(())
    }

    /// Gives the space back that no snapshot needs.
    ///
    /// # Errors
    /// What restic answers. A prune that is cut off hurts nothing.
    pub async fn prune(&self) -> Result<()> {
        self.wait_for_locks(Wants::ToTakeAway).await?;
        self.run(&["prune", "--quiet", "--retry-lock", RETRY_LOCK], PRUNE_WITHIN).await.map(drop)
    }

    /// A short question.
    pub(super) async fn ask(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments, ANSWER_WITHIN).await
    }

    /// A command that says nothing of interest but whether it succeeded; what it printed.
    pub(super) async fn run(&self, arguments: &[&str], within: Duration) -> Result<String> {
        self.say(arguments, within).await.map(|(said, _)| said)
    }

    /// The same, with what it complained of all the same.
    pub(super) async fn say(&self, arguments: &[&str], within: Duration) -> Result<(String, String)> {
        // Not the names of hundreds of snapshots.
        let doing = format!("running restic {}", arguments.iter().take(8).copied().collect::<Vec<_>>().join(" "));
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| errors::not_started(&error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (mut said, mut complained) = (Vec::new(), String::new());
        let reading = async {
            if let Some(mut stdout) = stdout {
                stdout.read_to_end(&mut said).await.map_err(|error| errors::not_started(&error))?;
            }
            Ok(())
        };
        let listening = async {
            let mut lines = stderr.map(|stderr| BufReader::new(stderr).split(b'\n'));
            while let Some(lines) = &mut lines
                && let Ok(Some(line)) = lines.next_segment().await
            {
                let line = String::from_utf8_lossy(&line);
                if let Some(error) = errors::in_vain(self, &doing, &line) {
                    return Err(error);
                }
                complained.extend([&line, "\n"]);
            }
            Ok(())
        };
        let running = async {
            tokio::try_join!(reading, listening)?;
            child.wait().await.map_err(|error| errors::not_started(&error))
        };
        match tokio::time::timeout(within, running).await {
            Ok(Ok(status)) if status.success() => Ok((String::from_utf8_lossy(&said).into_owned(), complained)),
            Ok(Ok(status)) => Err(explain(self, &doing, status, &complained)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(errors::no_answer(self, &doing, within, &complained)),
        }
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.envs(self.environment.iter().cloned()).env("RESTIC_CACHE_DIR", &self.cache).kill_on_drop(true);
        // It complains of a request with which nothing moves, and tries it again, well before it is given up.
        command.arg(format!("--stuck-request-timeout={}ms", (self.stalled_within / 2).as_millis()));
        command
    }

    /// One that tells, with `--json`, how far it has come.
    pub(super) fn telling_command(&self) -> Command {
        let mut command = self.command();
        let (key, value) = TELLS;
        command.env(key, value);
        command
    }

    /// What its progress is known by.
    pub(super) fn pulse(&self) -> Pulse {
        Pulse::new(self.stalled_within)
    }

    /// Where it is, without a password.
    pub(super) fn location(&self) -> String {
        let location = self.environment.iter().find(|(key, _)| key == LOCATION);
        self.without_secrets(&location.map(|(_, location)| location.to_string_lossy()).unwrap_or_default())
    }

    /// A text of restic without anything that came out of the Secret, but for where the repository is.
    pub(super) fn without_secrets(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

/// Kubernetes keeps links of its own beside the keys (`..data`).
fn is_known(key: &str) -> bool {
    let mut characters = key.chars();
    key == CA
        || (characters.next().is_some_and(|first| first.is_ascii_uppercase() || first == '_')
            && characters.all(|next| next.is_ascii_uppercase() || next.is_ascii_digit() || next == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(keys: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (key, value) in keys {
            fs::write(directory.path().join(key), value).unwrap();
        }
        directory
    }

    #[test]
    fn a_mounted_secret_is_restic_s_environment() {
        let keys = [
            ("RESTIC_REPOSITORY", "s3:https://minio/backups\n"),
            ("RESTIC_PASSWORD", "geheim"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"),
            ("ca.crt", "PEM"),
            ("..data", "Kubernetes' own"),
            ("notes.txt", "of the admin"),
        ];
        let mounted = directory(&keys);
        let repository = Repository::from_directory(mounted.path(), None, Path::new("/cache")).unwrap();
        let names: Vec<&str> = repository.environment.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        let expected = ["AWS_SECRET_ACCESS_KEY", "RESTIC_PASSWORD_FILE", "RESTIC_REPOSITORY", "RESTIC_CACERT"];
        assert_eq!(names, expected);
        assert_eq!(repository.environment[2].1, "s3:https://minio/backups", "without the line's end");
        assert!(!format!("{:?}", repository.environment).contains("geheim"), "the password stays in its file");
        assert_eq!(repository.without_secrets("key wJalrXUtnFEMI refused"), "key *** refused");
    }

    #[test]
    fn what_is_missing_is_named() {
        let reason = |keys: &[(&str, &str)]| {
            let mounted = directory(keys);
            Repository::from_directory(mounted.path(), None, Path::new("/cache")).err().map(|error| error.message)
        };
        assert!(reason(&[("RESTIC_PASSWORD", "a")]).unwrap().contains("RESTIC_REPOSITORY"));
        assert!(reason(&[("RESTIC_REPOSITORY", "/a")]).unwrap().contains("RESTIC_PASSWORD"));
        assert!(reason(&[]).unwrap().contains("RESTIC_REPOSITORY"));
    }
}
