//! A storage that lets nobody delete: a bucket's policy, an object lock, an append-only server. Backups and drills work, nothing is
//! half taken away, and the reason that is given is the reason.

use std::{
    fs,
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use synapse_keeper::contract::ErrorClass;

use crate::{
    backup::{MANIFEST, SNAPSHOTS, back_up},
    retain::retain,
    support::{
        Database, Finished, PATIENCE, Program, Repository, Storage, Wire,
        daemon::{self, Daemon, free_port},
    },
    verify,
};

const NOTHING: &[&str] = &[];

fn delete(repository: &Repository) -> Program {
    Program::task("delete-backups").place(repository).with(&["--origin", "6e7a"])
}

/// That nothing may be deleted: at once, in restic's own words, and no stack of Go's.
async fn is_refused(task: Program) {
    let began = Instant::now();
    let finished = task.run().await;
    let error = finished.refused("RepositoryAccessDenied", &["may not delete", "deletionPolicy", "not hurt"]);
    assert_eq!(error.class, ErrorClass::Terminal);
    assert!(!error.message.contains(".go:") && !error.message.contains("runtime."), "{error}");
    assert!(error.message.len() < 500, "{error}");
    assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_bucket_without_the_right_to_delete_keeps_every_backup_whole() {
    let storage = Storage::with_a_user();
    let (database, secret) = (Database::of_synapse("append_only"), storage.direct_secret());
    // Deletes in locks/ alone are what restic recommends for append-only.
    for denied in [&[""][..], &["data/", "index/", "snapshots/"]] {
        storage.deny(denied);
        for _ in 0..2 {
            back_up(&database, &secret).run().await.backup();
        }
        let stored = storage.restic(&["list", "snapshots", "--no-lock"]);
        let index = storage.restic(&["list", "index", "--no-lock"]);
        for _ in 0..2 {
            is_refused(retain(&secret).with(&["--keep-last=1"])).await;
            is_refused(delete(&secret)).await;
        }
        assert_eq!(storage.restic(&["list", "snapshots", "--no-lock"]), stored, "nothing went, and nothing was added");
        assert_eq!(storage.restic(&["list", "index", "--no-lock"]), index, "nor does anything pile up");
        // The next night, with the locks that stay, of Pods with other names.
        let began = Instant::now();
        back_up(&database, &secret).run().await.backup();
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    }
    // Before there is anything to take away it is said, too, and no lock that keeps others out is among those that stay.
    storage.deny(&[""]);
    let early = retain(&secret).with(&["--keep-last=99"]).run().await;
    let [warning] = &early.result().warnings[..] else { panic!("{early:?}") };
    assert!(warning.contains("may not delete"), "{warning}");
    let report = verify::verify(&secret, "latest", "append_only_drill").run().await;
    assert!(report.result().verdict.as_ref().is_some_and(|verdict| verdict.is_whole), "{report:?}");
    // With the right to delete, the next retention takes away all that should have gone.
    storage.deny(NOTHING);
    storage.restic(&["unlock", "--remove-all"]);
    retain(&secret).with(&["--keep-last=1"]).run().await.result();
    assert_eq!(storage.snapshots("origin=6e7a").len(), SNAPSHOTS + 1, "with the mark of the drill");
    assert_eq!(storage.snapshots(MANIFEST).len(), 1);
    let checked = storage.restic(&["check", "--read-data"]);
    assert!(checked.contains("no errors were found"), "{checked}");
    delete(&secret).run().await.result();
    assert_eq!(storage.snapshots("origin=6e7a"), Vec::<String>::new());
}

/// What was written before the lock may go, what came after it may not.
#[tokio::test]
async fn under_an_object_lock_a_backup_is_whole_or_gone() {
    let storage = Storage::with_a_user();
    let (database, secret) = (Database::of_synapse("object_lock"), storage.direct_secret());
    back_up(&database, &secret).run().await.backup();
    storage.lock_objects();
    let began = Instant::now();
    back_up(&database, &secret).run().await.backup();
    assert!(began.elapsed() < PATIENCE, "restic's own lock stays: {:?}", began.elapsed());
    is_refused(retain(&secret).with(&["--keep-last=1"])).await;
    is_refused(delete(&secret)).await;
    assert_eq!(storage.snapshots(MANIFEST).len(), 2);
    assert_eq!(storage.snapshots("origin=6e7a").len(), 2 * SNAPSHOTS);
}

/// rclone's server, with restic's REST protocol.
pub struct Server {
    _daemon: Daemon,
    pub port: u16,
}

impl Server {
    pub fn append_only(user: &str, password: &str) -> Self {
        let need = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/need");
        let needed = Command::new(need).args(["rclone", "rclone"]).status().expect("hack/need");
        assert!(needed.success(), "rclone cannot be installed");
        let (directory, port) = (daemon::new_directory(), free_port());
        let data = directory.join("data");
        fs::create_dir(&data).expect("a folder");
        let (address, data) = (format!("127.0.0.1:{port}"), data.display().to_string());
        let words = ["rclone", "serve", "restic", "--append-only", "--config=/dev/null", "--addr", &address];
        let words = [&words[..], &["--user", user, "--pass", password, &data]].concat();
        let daemon = Daemon::start(directory, "KILL", &words);
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(30), "rclone did not start:\n{}", daemon.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { _daemon: daemon, port }
    }

    fn secret(&self, user_info: &str) -> Repository {
        Self::secret_at(user_info, "127.0.0.1", self.port)
    }

    /// A Secret that names this host and port, whoever listens there.
    pub fn secret_at(user_info: &str, host: &str, port: u16) -> Repository {
        let repository = Repository::not_made();
        repository.mount("RESTIC_REPOSITORY", &format!("rest:http://{user_info}@{host}:{port}/backups/"));
        repository
    }
}

/// Of a backup into that server: it is whole, or its next attempt is. Debian's rclone shows a file before it is whole, so one stream
/// of a backup may find half of another's index. The engine tries again then.
pub async fn is_whole(first: Finished, next: Program) {
    let again = first.report().error.as_ref().filter(|error| error.reason == "RepositoryDamaged");
    match again.map(|error| error.class) {
        Some(ErrorClass::Transient) => next.run().await.backup(),
        _ => first.backup(),
    };
}

#[tokio::test]
async fn an_append_only_server_keeps_every_backup_whole() {
    let server = Server::append_only("me", "p@ss/w");
    let (database, secret) = (Database::of_synapse("append_only_rest"), server.secret("me:p%40ss%2Fw"));
    for init in [&["--init"][..], &[]] {
        let backup = || back_up(&database, &secret);
        is_whole(backup().with(init).run().await, backup()).await;
    }
    is_refused(retain(&secret).with(&["--keep-last=1"])).await;
    is_refused(delete(&secret)).await;
    let kept = retain(&secret).with(&["--keep-last=2"]).run().await;
    assert_eq!(kept.result().backups.as_ref().map(|backups| backups.count), Some(2));
}

/// Whatever restic says of a place: a password within is in none of it.
#[tokio::test]
async fn no_part_of_a_password_in_a_url_is_told() {
    let server = Server::append_only("me", "geheim");
    for (user_info, parts) in [
        ("me:falsch@wort", &["falsch", "wort"][..]),
        ("tokenvonmir", &["tokenvonmir"]),
        ("me:zork/blat", &["zork", "blat"]),
        ("me:zork#blat", &["zork", "blat"]),
        ("me:zork%zzblat", &["zork", "blat"]),
        ("me:kurz", &["kurz"]),
        ("me:f%40lsch", &["f%40lsch", "f@lsch"]),
    ] {
        let secret = server.secret(user_info);
        let finished = Program::task("delete-backups").place(&secret).with(&["--origin", "6e7a"]).run().await;
        let error = finished.report().error.as_ref().expect("nobody gets in with that");
        for part in parts {
            assert!(!finished.printed.contains(part), "{part:?} of {user_info:?}: {}", finished.printed);
        }
        assert!(error.message.contains("***"), "{error}");
    }
    // One that the storage repeats, and a short one.
    let storage = Storage::start();
    let wire = Wire::to(&storage).await;
    let secret = storage.secret(&wire);
    secret.mount("AWS_SECRET_ACCESS_KEY", "kurz");
    let finished = delete(&secret).run().await;
    finished.refused("RepositoryAccessDenied", &["credentials"]);
    assert!(!finished.printed.contains("kurz"), "{}", finished.printed);
}
