//! The role and its password, from a mounted Secret.

use std::{fmt, fs, io, path::Path};

use super::Result;
use crate::task::report::TaskError;

/// A role and its password. Never shown: `Debug` hides the password, and nothing prints it.
#[derive(Clone)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the files `username` and `password` of a directory: a Secret as Kubernetes mounts it.
    ///
    /// One line break at the end is dropped: `kubectl create secret --from-file` keeps the one that editors add, and no
    /// role's name or password can hold one in libpq's own password file either.
    ///
    /// # Errors
    /// Terminal, `SecretKeyMissing` or `SecretKeyEmpty`, with the key's name. Jobs mount the Secret as optional, so that
    /// a missing one is told in these words instead of by a Pod that never starts.
    pub fn read(directory: &Path) -> Result<Self> {
        Self::read_of("postgres.credentials", directory)
    }

    /// The same of a Secret that another field of the `Synapse` object names.
    ///
    /// # Errors
    /// As [`Self::read`], with the field's name.
    pub fn read_of(field: &str, directory: &Path) -> Result<Self> {
        Ok(Self { username: key(field, directory, "username")?, password: key(field, directory, "password")? })
    }
}

fn key(field: &str, directory: &Path, key: &str) -> Result<String> {
    let path = directory.join(key);
    let text = fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => TaskError::terminal(
            "SecretKeyMissing",
            format!(
                "The Secret of {field} does not exist or has no key `{key}` (there is no file {}). It needs \
                 the keys `username` and `password`.",
                path.display()
            ),
        ),
        _ => TaskError::terminal("SecretUnreadable", format!("{} cannot be read: {error}.", path.display())),
    })?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if text.is_empty() {
        return Err(TaskError::terminal(
            "SecretKeyEmpty",
            format!("The key `{key}` in the Secret of {field} is empty."),
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_mounted_secret_and_drops_one_line_break() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("username"), "synapse\r\n").unwrap();
        fs::write(directory.path().join("password"), " p w\n\n").unwrap();
        let credentials = Credentials::read(directory.path()).unwrap();
        assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("synapse", " p w\n"));
        assert!(!format!("{credentials:?}").contains("p w"));
    }

    #[test]
    fn names_the_key_that_is_missing_or_empty() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("username"), "synapse").unwrap();
        let error = Credentials::read(directory.path()).unwrap_err();
        assert_eq!(error.reason, "SecretKeyMissing");
        assert!(error.message.contains("no key `password`"), "{}", error.message);
        fs::write(directory.path().join("password"), "\n").unwrap();
        let error = Credentials::read(directory.path()).unwrap_err();
        assert_eq!(error.reason, "SecretKeyEmpty");
        assert!(error.message.contains("`password`"), "{}", error.message);
    }
}
