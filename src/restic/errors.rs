//! What restic answers, in words. Exit codes are those of restic 0.17 and newer (its manual, "Exit status codes").

use std::{io, path::Path, process::ExitStatus, time::Duration};

use super::{
    Repository,
    said::{cause, message, retried},
};
use crate::contract::{ErrorClass, TaskError};

/// There is no repository.
pub const MISSING: &str = "RepositoryMissing";

/// A signal ended restic.
pub const KILLED: &str = "ResticKilled";

/// The password opens no key of the repository.
pub const PASSWORD_REFUSED: &str = "RepositoryPasswordRefused";

/// The storage, or the file system, refuses it.
pub const ACCESS_DENIED: &str = "RepositoryAccessDenied";

/// Somebody holds a lock.
pub const LOCKED: &str = "RepositoryLocked";

/// What is stored is not what was stored, or not all of it.
pub const DAMAGED: &str = "RepositoryDamaged";

const DAMAGE: &str = "Something in the repository is damaged or missing: look with `restic check`, and mend what can be \
                      mended with `restic repair`.";

/// What follows for who may add and not delete.
const MAY_NOT_DELETE: &str = "This access may not delete: neither retention nor deletionPolicy: Delete can work with it. The \
                              backups are not hurt.";

const NO_REPOSITORY: &str = "There is no repository: is RESTIC_REPOSITORY right? It is made by the first backup of an \
                             object, and never where that object has had one.";

/// restic ended with an error.
pub fn explain(repository: &Repository, doing: &str, status: ExitStatus, stderr: &str) -> TaskError {
    use ErrorClass::{Terminal, Transient};
    let advice = |advice: &str| advice.to_owned();
    let (class, reason, advice) = match status.code() {
        Some(10) => (Terminal, MISSING, advice(NO_REPOSITORY)),
        Some(11) => (Transient, LOCKED, advice("Another restic holds the lock of the repository.")),
        Some(12) => (Terminal, PASSWORD_REFUSED, repository.about_the_password()),
        code => match known(repository, stderr) {
            Some((reason, advice)) => (Terminal, reason, advice),
            // A prune may have moved it just now.
            None if lacks_data(stderr) => (Transient, DAMAGED, advice(DAMAGE)),
            None if code.is_none() => {
                (Transient, KILLED, advice("Somebody ended restic, or it had too little memory."))
            }
            None => (Transient, "ResticFailed", String::new()),
        },
    };
    TaskError {
        class,
        reason: reason.to_owned(),
        message: format!("While {doing}: {} {advice}", cause(stderr)).trim_end().to_owned(),
    }
}

/// The error of a restic that stores. Others store beside it, and not every storage hides a file until all of it is written (an
/// older `rclone serve restic`): an index that is no whole one yet is one at the next try.
pub fn while_storing(error: TaskError) -> TaskError {
    let is_half_written = error.reason == DAMAGED && error.message.contains("LoadRaw(<index/");
    if is_half_written { TaskError::transient(DAMAGED, error.message) } else { error }
}

/// What restic says while it goes on trying: an error, where that does not go away by itself.
///
/// Of an object storage it asks for the file `config` before anything else, and for a quarter of an hour, also where the
/// answer is that there is no such bucket. So it does with a file that may not be deleted. Other errors are left to it: by then
/// it has shown that it can get in.
pub fn in_vain(repository: &Repository, doing: &str, line: &str) -> Option<TaskError> {
    let text = message(line);
    retried(&text).filter(|_| text.contains("(<config/") || text.starts_with("Remove("))?;
    let (reason, advice) = known(repository, line)?;
    Some(TaskError::terminal(reason, format!("While {doing}: {} {advice}", cause(line))))
}

/// The storage does not let restic take its own lock out, now that the work is done.
pub fn is_about_a_lock_that_stays(line: &str) -> bool {
    let line = message(line);
    line.starts_with("Remove(<lock/") && is_about_access(&line)
}

/// The storage lets nobody delete, or not yet.
pub fn is_about_deleting(error: &TaskError) -> bool {
    error.reason == ACCESS_DENIED && error.message.contains(MAY_NOT_DELETE)
}

/// Files that restic was to delete, and did not, though it calls that a success.
pub fn not_deleted(repository: &Repository, doing: &str, stderr: &str) -> Option<TaskError> {
    let refused: String =
        stderr.lines().filter(|line| line.starts_with("Remove(") || line.contains("unable to remove")).collect();
    let known = known(repository, stderr).map(|(reason, advice)| (ErrorClass::Terminal, reason, advice));
    let (class, reason, advice) = known.unwrap_or((ErrorClass::Transient, "ResticFailed", String::new()));
    (!refused.is_empty()).then(|| TaskError {
        class,
        reason: reason.to_owned(),
        message: format!("While {doing}: {} {advice}", cause(stderr)).trim_end().to_owned(),
    })
}

/// Why restic tries a request once more, if that is what a line tells.
pub fn tries_again(line: &str) -> Option<String> {
    retried(&message(line)).map(str::to_owned)
}

/// restic was given up: it tried the same again and again, and came no further.
pub fn came_no_further(repository: &Repository, doing: &str, within: Duration, complaint: &str) -> TaskError {
    let said = cause(complaint);
    match known(repository, complaint) {
        Some((reason, advice)) => TaskError::terminal(reason, format!("While {doing}: {said} {advice}")),
        None => TaskError::transient(
            "RepositoryUnreachable",
            format!(
                "While {doing}: restic came no further for {} s. {said} Is it up and not full, and the network between well?",
                within.as_secs()
            ),
        ),
    }
}

/// The reason and the advice for what does not go away by itself.
fn known(repository: &Repository, said: &str) -> Option<(&'static str, String)> {
    let advice = |advice: &str| advice.to_owned();
    if is_about_access(said) {
        let deletes = said.contains("Remove(") || said.contains("unable to remove") || said.contains("RemoveObject");
        return Some((ACCESS_DENIED, if deletes { advice(MAY_NOT_DELETE) } else { repository.about_access() }));
    }
    if said.contains("read-only file system") {
        return Some((ACCESS_DENIED, format!("{} is mounted read-only.", repository.place())));
    }
    if said.contains("certificate") {
        return Some((
            "RepositoryCertificateRefused",
            advice("Put the certificate authority of the storage into the repository's Secret as ca.crt."),
        ));
    }
    if is_full(said) {
        let place = repository.place();
        return Some((
            "RepositoryFull",
            format!("{place} is full, or its quota is used up. The backups that are there are not hurt."),
        ));
    }
    if said.contains("specified bucket does not exist") {
        return Some((MISSING, advice(NO_REPOSITORY)));
    }
    if is_damage(said) {
        return Some((DAMAGED, advice(DAMAGE)));
    }
    said.contains("failed to find snapshot").then(|| {
        (
            "SnapshotNotFound",
            advice("The backup is not in the repository any more: did the retention take it, or somebody?"),
        )
    })
}

/// Snapshots that restic could not read, and passed over (`Ignoring "…": …`; cmd/restic/find.go).
pub fn passed_over(stderr: &str) -> Option<TaskError> {
    let complaints: Vec<String> = stderr.lines().map(message).filter(|line| line.starts_with("Ignoring ")).collect();
    let said = cause(&complaints.join("\n"));
    (!complaints.is_empty())
        .then(|| TaskError::transient(DAMAGED, format!("restic cannot read every snapshot: {said} {DAMAGE}")))
}

/// Somebody works on the repository.
pub fn locked(host: &str, waited: Duration) -> TaskError {
    let minutes = waited.as_secs() / 60;
    TaskError::transient(
        LOCKED,
        format!(
            "{host} has held a lock on the repository for more than {minutes} min: a prune, or a long backup. Try later."
        ),
    )
}

/// Who holds the lock, as restic names him: "… already locked exclusively by PID 7 on <host> by <user> (UID 0, GID 0)".
pub fn holder(locked: &TaskError) -> String {
    let after = locked.message.split_once(" by PID ").and_then(|(_, rest)| rest.split_once(" on "));
    after.and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or("Somebody").to_owned()
}

/// A file that was to show whether a folder can be written to.
pub fn not_written(repository: &Repository, folder: &Path, error: &io::Error) -> TaskError {
    let said = match error.kind() {
        // In restic's words, which are Go's.
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "read-only file system".to_owned(),
        io::ErrorKind::StorageFull => "no space left on device".to_owned(),
        io::ErrorKind::QuotaExceeded => "disk quota exceeded".to_owned(),
        _ => error.to_string(),
    };
    let message = format!("While making a file in {}: {said}.", folder.display());
    match known(repository, &said) {
        Some((reason, advice)) => TaskError::terminal(reason, format!("{message} {advice}")),
        None => TaskError::transient("ResticFailed", message),
    }
}

/// restic is not there.
pub fn not_started(error: &io::Error) -> TaskError {
    TaskError::terminal(
        "ResticMissing",
        format!("restic cannot be started: {error}. The tools image has it on its PATH."),
    )
}

/// Nobody answers, or nothing that helps.
pub fn no_answer(doing: &str, within: Duration, stderr: &str) -> TaskError {
    let seconds = within.as_secs();
    let said = if stderr.trim().is_empty() { String::new() } else { cause(stderr) + " " };
    TaskError::transient(
        "RepositoryUnreachable",
        format!(
            "While {doing}: no answer within {seconds} s. {said}Is the host in RESTIC_REPOSITORY right, and is it up?"
        ),
    )
}

fn is_about_access(said: &str) -> bool {
    [
        "Access Denied",
        "AccessDenied",
        "Access denied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        // What S3 says with these codes; restic leaves the codes out. Not all servers use the same words.
        "request signature we calculated does not match",
        "does not exist in our records",
        "No user exists with the provided access key",
        "401 Unauthorized",
        "403 Forbidden",
        "permission denied",
        "operation not permitted",
        // A lock on the object, in the words of MinIO, Azure and Google.
        "WORM protected",
        "BlobImmutableDueToPolicy",
        "retention policy",
        "does not have storage.objects.",
    ]
    .iter()
    .any(|words| said.contains(words))
}

/// Words of restic 0.18, with one byte changed in each kind of file.
fn is_damage(said: &str) -> bool {
    [
        "ciphertext verification failed",
        "invalid data returned",
        "is damaged",
        "not found in repository",
        "not found in snapshot",
    ]
    .iter()
    .any(|words| said.contains(words))
}

/// A file with data is not there.
fn lacks_data(said: &str) -> bool {
    let reads = ["cannot dump file", "loading tree for snapshot"].iter().any(|words| said.contains(words));
    reads && ["no such file or directory", "does not exist", "NoSuchKey"].iter().any(|words| said.contains(words))
}

fn is_full(said: &str) -> bool {
    // The last is MinIO's.
    [
        "no space left on device",
        "disk quota exceeded",
        "QuotaExceeded",
        "507 Insufficient",
        "minimum free drive threshold",
    ]
    .iter()
    .any(|words| said.contains(words))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const DOING: &str = "running restic cat config";

    fn repository() -> Repository {
        let mounted = tempfile::tempdir().unwrap();
        std::fs::write(mounted.path().join("RESTIC_PASSWORD"), "a").unwrap();
        Repository::from_directory(mounted.path(), Some("s3:https://s3/backups"), mounted.path()).unwrap()
    }

    /// What restic 0.18 says of its look at `config`.
    fn looked(why: &str) -> String {
        format!("Stat(<config/>) returned error, retrying after 1.080247773s: Stat: {why}")
    }

    /// What restic 0.18 says of an index that another one is writing.
    #[test]
    fn an_index_that_is_half_written_is_tried_again_by_who_stores() {
        let class = |file: &str| {
            let said = format!("LoadRaw({file}): invalid data returned");
            let error = explain(&repository(), "storing rows", ExitStatus::from_raw(1 << 8), &said);
            assert_eq!((error.class, error.reason.as_str()), (ErrorClass::Terminal, DAMAGED), "for who reads");
            while_storing(error).class
        };
        assert_eq!(class("<index/60dd9a6c51>"), ErrorClass::Transient);
        assert_eq!(class("<data/60dd9a6c51>"), ErrorClass::Terminal);
    }

    #[test]
    fn what_does_not_go_away_is_told_at_once() {
        let reason = |line: &str| in_vain(&repository(), DOING, line).map(|error| error.reason);
        for (why, expected) in [
            ("The specified bucket does not exist.", MISSING),
            (
                "Get \"https://s3/backups/?location=\": tls: failed to verify certificate: x509: certificate signed by \
                 unknown authority",
                "RepositoryCertificateRefused",
            ),
            (
                "The request signature we calculated does not match the signature you provided. Check your key and \
                 signing method.",
                "RepositoryAccessDenied",
            ),
            ("The AWS Access Key Id you provided does not exist in our records.", "RepositoryAccessDenied"),
            ("No user exists with the provided access key ID.", "RepositoryAccessDenied"),
            ("Access Denied.", "RepositoryAccessDenied"),
        ] {
            assert_eq!(reason(&looked(why)).as_deref(), Some(expected), "{why}");
        }
        assert_eq!(reason(&looked("dial tcp 10.0.0.1:7070: connect: connection refused")), None, "it may come back");
        let later = looked("Access Denied.").replace("<config/>", "<data/0123456789>");
        assert_eq!(reason(&later), None, "restic is inside and may hold a lock");
        let error = in_vain(&repository(), DOING, &looked("Access Denied.")).unwrap();
        assert!(
            error.message.starts_with("While running restic cat config: Stat: Access Denied. The storage"),
            "{error:?}"
        );
    }

    #[test]
    fn who_does_not_answer_is_told_with_the_reason_once() {
        let refused = looked("dial tcp: lookup s3: no such host");
        let error = no_answer(DOING, Duration::from_secs(60), &format!("{refused}\n{refused}\n"));
        assert_eq!(error.reason, "RepositoryUnreachable");
        let expected = "no answer within 60 s. Stat: dial tcp: lookup s3: no such host. Is the host";
        assert!(error.message.contains(expected), "{}", error.message);
        let error = no_answer(DOING, Duration::from_secs(60), "");
        assert!(error.message.contains("60 s. Is the host"), "{}", error.message);
    }
}
