//! What a person calls the files that a task has mounted: a Secret, its key, and the field that names it. The task itself knows
//! paths only, so its Job says what is behind them.

use std::{path::Path, sync::LazyLock};

use serde::{Deserialize, Serialize};

/// The environment variable in which a Job says it, as JSON.
pub const VARIABLE: &str = "SYNAPSE_KEEPER_SECRETS";

/// A Secret that is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountedSecret {
    /// The directory.
    pub path: String,
    pub secret: String,
    /// Keys that are files of another name: the file, and the key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<(String, String)>,
    /// The field of an object that names it.
    pub field: String,
}

static MOUNTED: LazyLock<Vec<MountedSecret>> = LazyLock::new(|| {
    let said = std::env::var(VARIABLE).unwrap_or_default();
    serde_json::from_str(&said).unwrap_or_default()
});

/// What is wrong where a file of a mounted Secret is not there. By hand nobody says what is behind a path: then `field` names it.
pub fn lacks(directory: &Path, file: &str, field: &str) -> String {
    lacking(&MOUNTED, directory, file, field)
}

fn lacking(mounted: &[MountedSecret], directory: &Path, file: &str, field: &str) -> String {
    let found = mounted.iter().find(|mounted| Path::new(&mounted.path) == directory);
    match found {
        Some(MountedSecret { secret, keys, field, .. }) => {
            let key = keys.iter().find(|(name, _)| name == file).map_or(file, |(_, key)| key);
            format!("Secret {secret} does not exist or has no key `{key}` ({field}).")
        }
        None => format!(
            "The Secret of {field} does not exist or has no key `{file}` (there is no file {}).",
            directory.join(file).display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::contract::mounted::*;

    #[test]
    fn a_file_that_is_not_there_is_told_by_what_the_user_wrote() {
        let mounted = [MountedSecret {
            path: "/run/repository".to_owned(),
            secret: "nightly-password".to_owned(),
            keys: vec![("RESTIC_PASSWORD".to_owned(), "passwd".to_owned())],
            field: "spec.repository.passwordSecret".to_owned(),
        }];
        let said: Vec<MountedSecret> = serde_json::from_str(&serde_json::to_string(&mounted).unwrap()).unwrap();
        assert_eq!(
            lacking(&said, Path::new("/run/repository"), "RESTIC_PASSWORD", "repository"),
            "Secret nightly-password does not exist or has no key `passwd` (spec.repository.passwordSecret)."
        );
        assert_eq!(
            lacking(&said, Path::new("/run/other"), "password", "postgres.credentials"),
            "The Secret of postgres.credentials does not exist or has no key `password` (there is no file /run/other/password)."
        );
    }
}
