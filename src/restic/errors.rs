//! What restic answers, in words. Exit codes are those of restic 0.17 and newer (its manual, "Exit status codes").

use std::{io, process::ExitStatus, time::Duration};

use super::Repository;
use crate::task::report::{ErrorClass, TaskError};

/// There is no repository.
pub const MISSING: &str = "RepositoryMissing";

/// A signal ended restic.
pub const KILLED: &str = "ResticKilled";

/// What is stored is not what was stored, or not all of it.
pub const DAMAGED: &str = "RepositoryDamaged";

const DAMAGE: &str = "Something in the repository is damaged or missing: look with `restic check`, and mend what can be \
                      mended with `restic repair`.";

const NO_REPOSITORY: &str = "There is no repository: is RESTIC_REPOSITORY right? It is made by the first backup of an \
                             object, and never where that object has had one.";

/// As much of restic's own words is repeated.
const WORDS: usize = 1500;

/// restic ended with an error.
pub fn explain(repository: &Repository, doing: &str, status: ExitStatus, stderr: &str) -> TaskError {
    use ErrorClass::{Terminal, Transient};
    let said = words(&repository.without_secrets(stderr));
    let (class, reason, advice) = match status.code() {
        Some(10) => (Terminal, MISSING, NO_REPOSITORY),
        Some(11) => (Transient, "RepositoryLocked", "Another restic holds the lock of the repository."),
        Some(12) => (
            Terminal,
            "RepositoryPasswordRefused",
            "RESTIC_PASSWORD is not a password of this repository. Without it nobody can read the backups.",
        ),
        code => match known(&said) {
            Some((reason, advice)) => (Terminal, reason, advice),
            // A prune may have moved it just now.
            None if lacks_data(&said) => (Transient, DAMAGED, DAMAGE),
            None if code.is_none() => (Transient, KILLED, "Somebody ended restic, or it had too little memory."),
            None => (Transient, "ResticFailed", ""),
        },
    };
    TaskError {
        class,
        reason: reason.to_owned(),
        message: format!("While {doing}: {said} {advice}").trim_end().to_owned(),
    }
}

/// What restic says while it goes on trying: an error, where that does not go away by itself.
///
/// Of an object storage it asks for the file `config` before anything else, and for a quarter of an hour, also where the
/// answer is that there is no such bucket. Later errors are left to it: by then it has shown that it can get in, and may hold
/// a lock.
pub fn in_vain(repository: &Repository, doing: &str, line: &str) -> Option<TaskError> {
    let line = message(line);
    let said = words(&repository.without_secrets(retried(&line).filter(|_| line.contains("(<config/"))?));
    let (reason, advice) = known(&said)?;
    Some(TaskError::terminal(reason, format!("While {doing}: {said} {advice}")))
}

/// Why restic tries a request once more, if that is what a line tells.
pub fn tries_again(line: &str) -> Option<String> {
    retried(&message(line)).map(str::to_owned)
}

/// restic was given up: it tried the same again and again, and came no further.
pub fn came_no_further(repository: &Repository, doing: &str, within: Duration, complaint: &str) -> TaskError {
    let said = words(&repository.without_secrets(complaint));
    match known(&said) {
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
fn known(said: &str) -> Option<(&'static str, &'static str)> {
    if is_about_access(said) {
        return Some((
            "RepositoryAccessDenied",
            "The storage refuses the access: look at the credentials in the repository's Secret and at their rights.",
        ));
    }
    if said.contains("certificate") {
        return Some((
            "RepositoryCertificateRefused",
            "Put the certificate authority of the storage into the repository's Secret as ca.crt.",
        ));
    }
    if is_full(said) {
        return Some((
            "RepositoryFull",
            "The storage is full, or its quota is. The backups that are there are not hurt.",
        ));
    }
    if said.contains("specified bucket does not exist") {
        return Some((MISSING, NO_REPOSITORY));
    }
    if is_damage(said) {
        return Some((DAMAGED, DAMAGE));
    }
    said.contains("failed to find snapshot").then_some((
        "SnapshotNotFound",
        "The backup is not in the repository any more: did the retention take it, or somebody?",
    ))
}

/// Snapshots that restic could not read, and passed over (`Ignoring "…": …`; cmd/restic/find.go).
pub fn passed_over(repository: &Repository, stderr: &str) -> Option<TaskError> {
    let complaints: Vec<String> = stderr.lines().map(message).filter(|line| line.starts_with("Ignoring ")).collect();
    let said = words(&repository.without_secrets(&complaints.join("\n")));
    (!complaints.is_empty())
        .then(|| TaskError::transient(DAMAGED, format!("restic cannot read every snapshot: {said} {DAMAGE}")))
}

/// Somebody works on the repository.
pub fn locked(host: &str, waited: Duration) -> TaskError {
    let minutes = waited.as_secs() / 60;
    TaskError::transient(
        "RepositoryLocked",
        format!(
            "{host} has held a lock on the repository for more than {minutes} min: a prune, or a long backup. Try later."
        ),
    )
}

/// restic is not there.
pub fn not_started(error: &io::Error) -> TaskError {
    TaskError::terminal(
        "ResticMissing",
        format!("restic cannot be started: {error}. The tools image has it on its PATH."),
    )
}

/// Nobody answers, or nothing that helps.
pub fn no_answer(repository: &Repository, doing: &str, within: Duration, stderr: &str) -> TaskError {
    let seconds = within.as_secs();
    let said = if stderr.trim().is_empty() { String::new() } else { words(&repository.without_secrets(stderr)) + " " };
    TaskError::transient(
        "RepositoryUnreachable",
        format!(
            "While {doing}: no answer within {seconds} s. {said}Is the host in RESTIC_REPOSITORY right, and is it up?"
        ),
    )
}

/// What is secret in a key's value: all of it, or the password in a URL.
pub fn secret_parts(key: &str, value: &str) -> Option<String> {
    // Short ones are not secret: regions, numbers, "true".
    const SECRET: usize = 8;
    let secret = match key {
        "RESTIC_REPOSITORY" => {
            let (account, _) = value.split_once("://")?.1.split_once('@')?;
            return Some(account.split_once(':')?.1.to_owned()).filter(|password| !password.is_empty());
        }
        "AWS_DEFAULT_REGION" | "AWS_REGION" | "RESTIC_REPOSITORY_FILE" => return None,
        _ => value,
    };
    (secret.len() >= SECRET).then(|| secret.to_owned())
}

fn is_about_access(said: &str) -> bool {
    [
        "Access Denied",
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        // What S3 says with these codes; restic leaves the codes out. Not all servers use the same words.
        "request signature we calculated does not match",
        "does not exist in our records",
        "No user exists with the provided access key",
        "403 Forbidden",
        "permission denied",
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

/// The end of what was said, on one line: there restic says why.
fn words(said: &str) -> String {
    let mut lines: Vec<String> = said.lines().map(message).filter(|line| !line.is_empty()).collect();
    for line in &mut lines {
        if let Some(why) = retried(line) {
            *line = why.to_owned();
        }
    }
    // Of many tries, all for the same reason.
    lines.dedup();
    let text = lines.join("; ");
    let from = text.ceil_char_boundary(text.len().saturating_sub(WORDS));
    if text.is_empty() { "it said nothing.".to_owned() } else { format!("{}.", text[from..].trim_end_matches('.')) }
}

/// With `--json` an error is an object with the message in it.
fn message(line: &str) -> String {
    let object: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let message =
        object.as_ref().and_then(|object| object["message"].as_str().or_else(|| object["error"]["message"].as_str()));
    message.unwrap_or(line).trim().to_owned()
}

/// Why restic tries something once more, if that is what the line tells.
fn retried(line: &str) -> Option<&str> {
    let (_, tells) = line.split_once(" returned error, retrying after ")?;
    tells.split_once(": ").map(|(_, why)| why)
}

#[cfg(test)]
mod tests {
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
        let error = no_answer(&repository(), DOING, Duration::from_secs(60), &format!("{refused}\n{refused}\n"));
        assert_eq!(error.reason, "RepositoryUnreachable");
        let expected = "no answer within 60 s. Stat: dial tcp: lookup s3: no such host. Is the host";
        assert!(error.message.contains(expected), "{}", error.message);
        let error = no_answer(&repository(), DOING, Duration::from_secs(60), "");
        assert!(error.message.contains("60 s. Is the host"), "{}", error.message);
    }

    #[test]
    fn only_the_password_of_a_url_is_secret() {
        assert_eq!(
            secret_parts("RESTIC_REPOSITORY", "rest:https://me:correcthorse@host/"),
            Some("correcthorse".to_owned())
        );
        assert_eq!(secret_parts("RESTIC_REPOSITORY", "s3:https://s3.example.org/backups"), None);
        assert_eq!(secret_parts("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI"), Some("wJalrXUtnFEMI".to_owned()));
        assert_eq!(secret_parts("AWS_DEFAULT_REGION", "eu-central-1"), None);
    }

    #[test]
    fn json_and_plain_words_are_told_alike() {
        assert_eq!(
            words("{\"message_type\":\"exit_error\",\"code\":12,\"message\":\"Fatal: wrong password\"}\n"),
            "Fatal: wrong password."
        );
        assert_eq!(words("Fatal: a\n\nb\n"), "Fatal: a; b.");
        assert_eq!(words(""), "it said nothing.");
    }
}
