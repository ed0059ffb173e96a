//! A restic repository in a folder, and the real restic to look into it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use tempfile::TempDir;

use super::{Program, eventually, setup, synapse_python};

/// The repository's own password; nobody prints it.
pub const REPOSITORY_PASSWORD: &str = "correct-horse-battery";

/// Where restic is, built once by a script.
pub(super) static PROGRAMS: LazyLock<PathBuf> = LazyLock::new(|| setup::path("tests/storage/bin-dir", &[]));

/// A repository that was made once: its configuration, and its key with its name.
static MADE: LazyLock<[(PathBuf, Vec<u8>); 2]> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a directory");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/storage/quick_key.py");
    let mut init = Command::new(PROGRAMS.join("restic"));
    init.args(["--no-cache", "init", "--repo"]);
    let mut quicken = Command::new(synapse_python());
    quicken.arg("-B").arg(script);
    for mut program in [init, quicken] {
        let made = program.arg(folder.path()).env("RESTIC_PASSWORD", REPOSITORY_PASSWORD).output().expect("a program");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let mut keys = fs::read_dir(folder.path().join("keys")).expect("a directory");
    let key = Path::new("keys").join(keys.next().expect("a key").expect("a key").file_name());
    [PathBuf::from("config"), key].map(|file| (file.clone(), fs::read(folder.path().join(file)).expect("a file")))
});

/// Lets a little through, says so by a file with the ending `reached`, and the rest when a file is gone. The end of the other side
/// ends it at any time, as it would end the pipe.
const VALVE: &str = "\
import os, select, shutil, sys
os.write(1, os.read(0, 1000))
open(sys.argv[1] + '.reached', 'w').close()
end = select.poll()
end.register(0, 0)
while os.path.exists(sys.argv[1]):
    if end.poll(50):
        sys.exit()
shutil.copyfileobj(open(0, 'rb', 0), open(1, 'wb', 0))
";

/// When a restic waits.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    Before,
    After,
}

/// Waits until a restic has come to where it is held by this file.
pub async fn until_reached(held: &Path) {
    let reached = held.with_extension("reached");
    eventually("restic is held", async || reached.exists()).await;
}

/// A folder for a repository, and the Secret that names it.
pub struct Repository {
    folder: TempDir,
}

impl Repository {
    /// No backup is in there yet. Its key is derived quickly.
    pub fn new() -> Self {
        let repository = Self::not_made();
        for directory in ["data", "index", "keys", "locks", "snapshots"] {
            fs::create_dir_all(repository.path().join(directory)).expect("a directory");
        }
        for (file, content) in &*MADE {
            fs::write(repository.path().join(file), content).expect("a file");
        }
        repository
    }

    /// Nothing is in there yet.
    pub fn not_made() -> Self {
        let repository = Self { folder: tempfile::tempdir().expect("a directory") };
        fs::create_dir(repository.secret()).expect("a directory");
        fs::create_dir(repository.programs()).expect("a directory");
        std::os::unix::fs::symlink(PROGRAMS.join("restic"), repository.programs().join("restic")).expect("a link");
        repository.mount("RESTIC_REPOSITORY", &repository.path().display().to_string());
        repository.mount("RESTIC_PASSWORD", REPOSITORY_PASSWORD);
        repository
    }

    /// The same once more, in another place.
    pub fn copy(&self) -> Self {
        let copy = Self::not_made();
        let done = Command::new("cp").arg("-a").arg(self.path()).arg(copy.path()).status().expect("cp");
        assert!(done.success(), "a copy");
        copy
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn secret(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    fn programs(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    /// As preflight is told of it.
    pub fn destination(&self) -> serde_json::Value {
        serde_json::json!({"repositoryDir": self.secret(), "origin": "6e7a"})
    }

    /// Puts a key into the mounted Secret.
    pub fn mount(&self, key: &str, value: &str) {
        self.mount_bytes(key, value.as_bytes());
    }

    /// The same with what need not be text.
    pub fn mount_bytes(&self, key: &str, value: &[u8]) {
        fs::write(self.secret().join(key), value).expect("a mounted key");
    }

    /// The real restic.
    pub fn program(&self) -> PathBuf {
        PROGRAMS.join("restic")
    }

    pub fn unmount(&self, key: &str) {
        fs::remove_file(self.secret().join(key)).expect("a mounted key");
    }

    /// From now on restic gets the beginning of a stream at once and the rest when the returned file is gone. See
    /// [`until_reached`].
    pub fn hold_streams(&self) -> PathBuf {
        let held = self.folder.path().join("held");
        fs::write(&held, "").expect("a file");
        let _ = fs::remove_file(held.with_extension("reached"));
        let (path, valve) = (self.programs().join("restic"), self.programs().join("valve"));
        fs::write(&valve, VALVE).expect("a script");
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *--stdin*) ;; *) exec '{restic}' \"$@\" ;; esac\n\
             pipe=$0.$$\n/usr/bin/mkfifo \"$pipe\"\nexec 3<&0\n\
             '{python}' '{valve}' '{held}' <&3 >\"$pipe\" &\n\
             exec '{restic}' \"$@\" <\"$pipe\" 3<&-\n",
            restic = PROGRAMS.join("restic").display(),
            python = synapse_python().display(),
            valve = valve.display(),
            held = held.display(),
        );
        fs::remove_file(&path).expect("the link");
        fs::write(&path, script).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script");
        held
    }

    /// From now on a restic with these words in its arguments waits, before or after its work, until the returned file is gone.
    /// It waits when the file with the ending `reached` is there. As in a container it ends with the task that started it.
    pub fn hold(&self, moment: Moment, words: &str) -> PathBuf {
        let held = self.folder.path().join("held");
        fs::write(&held, "").expect("a file");
        let path = self.programs().join("restic");
        let restic = format!("/usr/bin/setpriv --pdeathsig KILL '{}' \"$@\"", PROGRAMS.join("restic").display());
        let work = match moment {
            Moment::Before => format!("hold; exec {restic}"),
            Moment::After => format!("{restic}; code=$?; hold; exit $code"),
        };
        let script = format!(
            "#!/bin/sh\nhold() {{\n: >'{held}.reached'\n\
             while [ -e '{held}' ]; do kill -0 $PPID 2>/dev/null || exit 1; /bin/sleep 0.02; done\nkill -0 $PPID 2>/dev/null || exit 1\n}}\n\
             case \"$*\" in *'{words}'*) {work} ;; *) exec {restic} ;; esac\n",
            held = held.display(),
        );
        let _ = fs::remove_file(held.with_extension("reached"));
        fs::remove_file(&path).expect("the link or a script");
        fs::write(&path, script).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script");
        held
    }

    /// From now on restic ends with the task that started it, as it does in a container.
    pub fn ends_with_the_task(&self) {
        let held = self.hold(Moment::Before, "never among the arguments");
        fs::remove_file(held).expect("a file");
    }

    /// `restic`, which must succeed; what it printed.
    pub fn restic(&self, arguments: &[&str]) -> String {
        let output = Command::new(PROGRAMS.join("restic"))
            .args(["--no-cache", "--repo"])
            .arg(self.path())
            .args(arguments)
            .env("RESTIC_PASSWORD", REPOSITORY_PASSWORD)
            .output()
            .expect("restic");
        assert!(output.status.success(), "restic {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Ends a prune by SIGKILL while it has the exclusive lock; the locks that are left.
    pub fn prune_that_is_killed(&self) -> String {
        let mut prune = Command::new(PROGRAMS.join("restic"))
            .args(["--no-cache", "--repo"])
            .arg(self.path())
            .arg("prune")
            .env("RESTIC_PASSWORD", REPOSITORY_PASSWORD)
            .spawn()
            .expect("restic");
        let locks = self.path().join("locks");
        let is_whole = |file: fs::DirEntry| file.file_name().len() == 64;
        while !fs::read_dir(&locks).is_ok_and(|mut files| files.any(|file| file.is_ok_and(is_whole))) {
            let ended = prune.try_wait().expect("its state");
            assert!(ended.is_none(), "it was faster");
        }
        prune.kill().expect("it runs");
        prune.wait().expect("it ends");
        self.restic(&["list", "locks", "--no-lock"])
    }

    /// Writes a file of a snapshot to the folder of the test, whoever holds a lock.
    pub fn fetch(&self, snapshot: &str, file: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{snapshot:.8}-{file}"));
        self.restic(&["dump", "--no-lock", "--target", &path.display().to_string(), snapshot, &format!("/{file}")]);
        path
    }

    /// Stores a text as a file, without a tag; the snapshot's id.
    pub fn store(&self, file: &str, text: &str) -> String {
        self.store_with_tags(file, text, &[])
    }

    /// The same with tags.
    pub fn store_with_tags(&self, file: &str, text: &str, tags: &[&str]) -> String {
        let path = self.folder.path().join("stored");
        fs::write(&path, text).expect("a file");
        let backup = ["backup", "--json", "--tag", &tags.join(","), "--stdin-filename", file];
        let path = path.display().to_string();
        let said = self.restic(&[backup.as_slice(), &["--stdin-from-command", "--", "cat", &path]].concat());
        let summary = said.lines().last().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        summary.and_then(|summary| Some(summary["snapshot_id"].as_str()?.to_owned())).expect("an id")
    }

    /// The snapshots with a tag, as restic lists them, whoever holds a lock.
    pub fn list(&self, tag: &str) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.restic(&["snapshots", "--json", "--no-lock", "--tag", tag])).expect("JSON")
    }

    /// Ids of the snapshots with a tag.
    pub fn snapshots(&self, tag: &str) -> Vec<String> {
        self.list(tag).iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
    }
}

impl Program {
    /// The task is told of a repository and of whose backups it is about.
    pub fn repository(self, repository: &Repository) -> Self {
        self.repository_of(repository, "6e7a")
    }

    /// The task finds restic.
    pub fn repository_programs(self, repository: &Repository) -> Self {
        self.programs(&repository.programs())
    }

    /// The task is told of a repository and of a homeserver.
    pub fn of_server(self, repository: &Repository) -> Self {
        let secret = repository.secret().display().to_string();
        self.with(&["--repository-dir", &secret, "--server-name", "example.org"]).programs(&repository.programs())
    }

    /// The task is told where the repository is, and of no homeserver.
    pub fn place(self, repository: &Repository) -> Self {
        let secret = repository.secret().display().to_string();
        self.with(&["--repository-dir", &secret]).programs(&repository.programs())
    }

    pub fn repository_of(self, repository: &Repository, origin: &str) -> Self {
        let secret = repository.secret().display().to_string();
        self.with(&["--repository-dir", &secret, "--server-name", "example.org", "--origin", origin])
            .programs(&repository.programs())
    }
}
