//! What restic answers, in words. Exit codes are those of restic 0.17 and newer (its manual, "Exit status codes").

use std::{io, process::ExitStatus, time::Duration};

use super::Repository;
use crate::task::report::{ErrorClass, TaskError};

/// There is no repository.
pub const MISSING: &str = "RepositoryMissing";

/// As much of restic's own words is repeated.
const WORDS: usize = 1500;

/// restic ended with an error.
pub fn explain(repository: &Repository, doing: &str, status: ExitStatus, stderr: &str) -> TaskError {
    use ErrorClass::{Terminal, Transient};
    let said = words(&repository.without_secrets(stderr));
    let (class, reason, advice) = match status.code() {
        Some(10) => (
            Terminal,
            MISSING,
            "There is no repository: is RESTIC_REPOSITORY right? It is made by the first backup of an object, and never \
             where that object has had one.",
        ),
        Some(11) => (Transient, "RepositoryLocked", "Another restic holds the lock of the repository."),
        Some(12) => (
            Terminal,
            "RepositoryPasswordRefused",
            "RESTIC_PASSWORD is not a password of this repository. Without it nobody can read the backups.",
        ),
        _ if is_about_access(&said) => (
            Terminal,
            "RepositoryAccessDenied",
            "The storage refuses the access: look at the credentials in the repository's Secret and at their rights.",
        ),
        _ if said.contains("certificate") => (
            Terminal,
            "RepositoryCertificateRefused",
            "Put the certificate authority of the storage into the repository's Secret as ca.crt.",
        ),
        _ if is_full(&said) => (
            Terminal,
            "RepositoryFull",
            "The storage is full, or its quota is. The backups that are there are not hurt.",
        ),
        None => (Transient, "ResticKilled", "Somebody ended restic, or it had too little memory."),
        _ => (Transient, "ResticFailed", ""),
    };
    TaskError {
        class,
        reason: reason.to_owned(),
        message: format!("While {doing}: {said} {advice}").trim_end().to_owned(),
    }
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

/// Nobody answers.
pub fn no_answer(doing: &str, within: Duration) -> TaskError {
    TaskError::transient(
        "RepositoryUnreachable",
        format!(
            "While {doing}: no answer within {} s. Is the host in RESTIC_REPOSITORY right, and is it up?",
            within.as_secs()
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
        "403 Forbidden",
        "permission denied",
    ]
    .iter()
    .any(|words| said.contains(words))
}

fn is_full(said: &str) -> bool {
    ["no space left on device", "disk quota exceeded", "QuotaExceeded", "507 Insufficient"]
        .iter()
        .any(|words| said.contains(words))
}

/// The end of what was said, on one line: there restic says why.
fn words(said: &str) -> String {
    let lines: Vec<String> = said.lines().map(message).filter(|line| !line.is_empty()).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

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
