//! White space, line breaks and byte order marks in a repository's Secret: what opens it elsewhere opens it here, or the message
//! says what nobody sees.

use std::process::Command;

use crate::{
    backup::back_up,
    support::{Database, Program, Repository, Storage, Wire},
};

/// A repository that somebody has made with this password as an environment variable, as a container does.
fn made_with(password: &str) -> Repository {
    let repository = Repository::not_made();
    let mut restic = Command::new(repository.program());
    let made = restic.args(["--no-cache", "init", "--repo"]).arg(repository.path()).env("RESTIC_PASSWORD", password);
    let made = made.output().expect("restic");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    repository
}

#[tokio::test]
async fn the_password_that_opens_it_elsewhere_opens_it_here() {
    let database = Database::of_synapse("white_space");
    for (made, mounted) in [
        ("abcdefgh\n", "abcdefgh\n"),
        (" abcdefgh", " abcdefgh"),
        (" abcdefgh ", " abcdefgh \r\n"),
        ("\u{feff}abcdefgh", "\u{feff}abcdefgh"),
        ("abcdefgh", "\u{feff}abcdefgh \r\n\n"),
    ] {
        let repository = made_with(made);
        repository.mount("RESTIC_PASSWORD", mounted);
        let finished = back_up(&database, &repository).run().await;
        assert!(finished.backup().rows > 0, "{made:?}");
        assert!(!finished.printed.contains("abcdefgh"), "{}", finished.printed);
        let listed = Program::task("retain").repository(&repository).run().await;
        assert_eq!(listed.result().backups.as_ref().map(|backups| backups.count), Some(1), "{made:?}");
    }
    let repository = made_with("another");
    repository.mount("RESTIC_PASSWORD", "abcdefgh \n");
    let finished = back_up(&database, &repository).run().await;
    finished.refused("RepositoryPasswordRefused", &["begins or ends with white space", "with these and without"]);
    repository.mount("RESTIC_PASSWORD", "abcdefgh");
    let finished = back_up(&database, &repository).run().await;
    let error = finished.refused("RepositoryPasswordRefused", &["not a password of this repository"]);
    assert!(!error.message.contains("white space"), "{error}");
}

#[tokio::test]
async fn what_nobody_sees_is_named() {
    let database = Database::of_synapse("unseen");
    let repository = Repository::new();
    repository.mount("EXTRA", "no key of ours");
    repository.mount_bytes("BINARY", b"\xff\xfe\x00\x01");
    back_up(&database, &repository).run().await.backup();
    repository.mount_bytes("AWS_SESSION_TOKEN", b"\xff");
    let finished = back_up(&database, &repository).run().await;
    finished.refused("SecretUnreadable", &["AWS_SESSION_TOKEN", "not text"]);
    repository.unmount("AWS_SESSION_TOKEN");
    let place = repository.path().display().to_string();
    for (value, odd) in
        [(format!("{place} "), "ends with white space"), (format!("\u{feff}{place}"), "byte order mark")]
    {
        repository.mount("RESTIC_REPOSITORY", &value);
        let finished = back_up(&database, &repository).with(&["--init"]).run().await;
        finished.refused("SecretKeyWhiteSpace", &["RESTIC_REPOSITORY", odd]);
    }
    let beside = repository.path().parent().expect("its folder").read_dir().expect("a folder");
    assert!(beside.into_iter().all(|entry| !entry.expect("an entry").file_name().to_string_lossy().ends_with(' ')));

    let storage = Storage::start();
    let wire = Wire::to(&storage).await;
    let secret = storage.secret(&wire);
    secret.mount("AWS_SECRET_ACCESS_KEY", &format!("{} ", crate::support::SECRET_KEY));
    let finished = back_up(&database, &secret).with(&["--init"]).run().await;
    finished.refused("RepositoryAccessDenied", &["AWS_SECRET_ACCESS_KEY ends with white space"]);
}
