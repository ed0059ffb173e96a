//! Where a repository is and how to get in.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{io::AsyncReadExt, process::Command, sync::Notify};

use super::{
    Wants,
    errors::{self, explain},
    mounted::{LOCATION, Mounted, Password},
    pulse::{Pulse, TELLS},
    said::{each_complaint, keep},
    secrets::Secrets,
    upload::{Upload, interrupt},
};
use crate::{
    bytes,
    contract::{Result, output::progress},
};

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

/// A repository, as restic is told of it.
#[derive(Clone)]
pub struct Repository {
    environment: Vec<(OsString, OsString)>,
    passwords: Arc<[Password]>,
    /// Which of them is used; all copies use the same.
    password: Arc<AtomicUsize>,
    cache: PathBuf,
    /// What must not be repeated, whoever says it.
    pub(super) secrets: Secrets,
    word: String,
    oddities: Vec<String>,
    /// The PersistentVolumeClaim that it is on, where that is known.
    claim: Option<String>,
    /// A prune waits until what is read has been read.
    locks_to_read: bool,
    stalled_within: Duration,
}

impl Repository {
    /// Reads a mounted Secret: every key that could name an environment variable (`RESTIC_REPOSITORY`, `RESTIC_PASSWORD`,
    /// `AWS_ACCESS_KEY_ID`, …) becomes one, and `ca.crt` is the authority of the server's certificate. The password stays
    /// in its file, unless it opens nothing so. `location` is where the repository is, instead of `RESTIC_REPOSITORY`; restic's
    /// cache and scratch files go into `scratch`.
    ///
    /// # Errors
    /// Terminal: `SecretKeyMissing`, without a location or a password; `SecretUnreadable`, `SecretKeyWhiteSpace`.
    pub fn from_directory(directory: &Path, location: Option<&str>, scratch: &Path) -> Result<Self> {
        let Mounted { environment, passwords, secrets, word, oddities } = Mounted::read(directory, location)?;
        Ok(Self {
            environment,
            passwords: passwords.into(),
            password: Arc::default(),
            secrets,
            word,
            oddities,
            claim: None,
            cache: scratch.into(),
            locks_to_read: false,
            stalled_within: STALLED_WITHIN,
        })
    }

    /// It is on this PersistentVolumeClaim.
    #[must_use]
    pub fn on_claim(self, claim: Option<String>) -> Self {
        Self { claim, ..self }
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
            Ok(locks) if locks.is_empty() => Ok(false),
            Ok(_) => self.wait_for_locks(Wants::ToAdd).await.map(|()| false),
            Err(error) if may_make_it && error.reason == errors::MISSING => {
                self.run(&["init"], ANSWER_WITHIN).await.map(|_| true)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes sure that something can be written to it, by a lock that is given back; or, where there is no repository yet, that the
    /// folder for it can be made. What a person should know of it, if anything.
    ///
    /// # Errors
    /// Terminal: `RepositoryAccessDenied`, `RepositoryFull`. What restic answers.
    pub async fn try_to_write(&self, is_there: bool) -> Result<Option<String>> {
        if is_there {
            return match self.can_delete().await {
                Err(error) if errors::is_about_deleting(&error) => Ok(Some(error.message)),
                tried => tried.map(|()| None),
            };
        }
        let Some(folder) = self.folder() else { return Ok(None) };
        let there = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(&folder);
        let file = tempfile::Builder::new().prefix(".synapse-keeper-").tempfile_in(there);
        let written = file.and_then(|mut file| {
            std::io::Write::write_all(&mut file, &[0; 4096])?;
            file.as_file().sync_all()?;
            file.close()
        });
        written.map(|()| None).map_err(|error| errors::not_written(self, there, &error))
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
            let (_, complaints) = self.say(&arguments, LOCKED_WITHIN).await?;
            // It is not restic that fails where the storage refuses to delete.
            errors::not_deleted(self, "forgetting snapshots", &complaints).map_or(Ok(()), Err)?;
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
        loop {
            match self.say_once(arguments, within).await {
                Err(error) if error.reason == errors::PASSWORD_REFUSED && self.has_another_password() => {}
                said => return said,
            }
        }
    }

    /// From now on the password is given in another way, if there is one.
    fn has_another_password(&self) -> bool {
        let next = self.password.load(Ordering::Relaxed) + 1;
        let is_there = next < self.passwords.len();
        if is_there {
            self.password.store(next, Ordering::Relaxed);
        }
        is_there
    }

    async fn say_once(&self, arguments: &[&str], within: Duration) -> Result<(String, String)> {
        // Not the names of hundreds of snapshots.
        let doing = format!("running restic {}", arguments.iter().take(8).copied().collect::<Vec<_>>().join(" "));
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| errors::not_started(&error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (mut said, mut complained, mut in_vain) = (Vec::new(), String::new(), None);
        let mut tried = String::new();
        let gives_up = Notify::new();
        let running = async {
            let reading = async {
                if let Some(mut stdout) = stdout {
                    stdout.read_to_end(&mut said).await.map_err(|error| errors::not_started(&error))?;
                }
                Ok(())
            };
            let listening = each_complaint(stderr, self.secrets.clone(), |line| {
                if in_vain.is_none() {
                    in_vain = errors::in_vain(self, &doing, line);
                    in_vain.iter().for_each(|_| gives_up.notify_one());
                }
                if let Some(why) = errors::tries_again(line).filter(|why| *why != tried) {
                    progress(&format!("restic tries again: {why}"));
                    tried = why;
                }
                keep(&mut complained, line);
            });
            let waiting = async { child.wait().await.map_err(|error| errors::not_started(&error)) };
            tokio::select! {
                ended = async { tokio::try_join!(reading, async { listening.await; Ok(()) }, waiting) } => {
                    ended.map(|((), (), status)| Some(status))
                }
                () = gives_up.notified() => Ok(None),
            }
        };
        let ended = tokio::time::timeout(within, running).await;
        match ended {
            Ok(Ok(Some(status))) if status.success() => Ok((String::from_utf8_lossy(&said).into_owned(), complained)),
            Ok(Ok(Some(status))) => Err(explain(self, &doing, status, &complained)),
            Ok(Ok(None)) => {
                // It may hold a lock, which it takes away.
                interrupt(&mut child, None).await;
                Err(in_vain.unwrap_or_else(|| errors::no_answer(&doing, within, &complained)))
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(errors::no_answer(&doing, within, &complained)),
        }
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.envs(self.environment.iter().cloned()).env("RESTIC_CACHE_DIR", &self.cache).kill_on_drop(true);
        if let Some(Password { variable, value }) = self.passwords.get(self.password.load(Ordering::Relaxed)) {
            command.env(variable, value);
        }
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
        self.secrets.mask(&self.raw_location())
    }

    fn raw_location(&self) -> String {
        let location = self.environment.iter().find(|(key, _)| key == LOCATION);
        location.map(|(_, location)| location.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The folder that it is, where it is one.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        let location = self.raw_location();
        let path = location.strip_prefix("local:").unwrap_or(&location);
        (path.starts_with('/') || path.starts_with('.')).then(|| path.into())
    }

    /// What a person knows it by: the claim with its size, or the storage.
    pub(super) fn place(&self) -> String {
        let Some(folder) = self.folder() else { return "The storage".to_owned() };
        let name = self
            .claim
            .as_ref()
            .map_or_else(|| format!("The volume of {}", self.location()), |claim| format!("Claim {claim}"));
        let there = folder.ancestors().find(|folder| folder.exists());
        let Some(stat) = there.and_then(|folder| rustix::fs::statvfs(folder).ok()) else { return name };
        let bytes = |blocks: u64| bytes::human(i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX));
        format!("{name} ({}, {} of it free)", bytes(stat.f_blocks), bytes(stat.f_bavail))
    }

    /// What helps where the access is refused.
    pub(super) fn about_access(&self) -> String {
        if self.folder().is_some() {
            let name = self.claim.as_ref().map_or_else(|| "The folder".to_owned(), |claim| format!("Claim {claim}"));
            return format!(
                "{name} cannot be read and written as user {}: set jobs.runAsUser or jobs.fsGroup to what owns it.",
                rustix::process::geteuid().as_raw()
            );
        }
        let odd = match &self.oddities[..] {
            [] => String::new(),
            oddities => format!(" Beware: {}.", oddities.join(", ")),
        };
        format!(
            "The storage refuses the access: look at the credentials in the repository's Secret and at their rights.{odd}"
        )
    }

    /// What helps where the password is refused.
    pub(super) fn about_the_password(&self) -> String {
        let tried = match self.passwords.len() {
            0 | 1 => "",
            _ => " It begins or ends with white space or a byte order mark: it was tried with these and without.",
        };
        format!(
            "RESTIC_PASSWORD is not a password of this repository.{tried} Without the right one nobody can read the backups."
        )
    }
}
