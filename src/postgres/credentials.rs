//! The role and its password, from a mounted Secret.

use std::{fmt, fs, io, path::Path};

use super::Result;
use crate::contract::{TaskError, mounted};

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
    /// What may be the reason that the password is refused: nobody sees it, and nothing of it is repeated.
    pub fn oddity(&self) -> Option<&'static str> {
        let password = &self.password;
        if password.starts_with('\u{feff}') {
            return Some("It begins with a byte order mark, which an editor may have added: write it without.");
        }
        match (password.starts_with(char::is_whitespace), password.ends_with(char::is_whitespace)) {
            (true, true) => Some("It begins and ends with white space: does that belong to it?"),
            (true, false) => Some("It begins with white space: does that belong to it?"),
            (false, true) => Some("It ends with white space: does that belong to it?"),
            (false, false) if password.contains(char::is_control) => {
                Some("It has a control character in it, such as a tab, which PostgreSQL does not allow.")
            }
            (false, false) => None,
        }
    }

    /// Reads the files `username` and `password` of a directory: a Secret as Kubernetes mounts it.
    ///
    /// Line breaks at the end are dropped: `kubectl create secret --from-file` keeps the one that editors add, and no role's
    /// name or password can hold one in libpq's own password file either.
    ///
    /// # Errors
    /// Terminal, `SecretKeyMissing`, `SecretKeyEmpty` or `SecretUnreadable`, with the key's name. Jobs mount the Secret as optional, so that
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
            format!("{} It needs the keys `username` and `password`.", mounted::lacks(directory, key, field)),
        ),
        _ => TaskError::terminal("SecretUnreadable", format!("{} cannot be read: {error}.", path.display())),
    })?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(TaskError::terminal(
            "SecretKeyEmpty",
            format!("The key `{key}` in the Secret of {field} is empty."),
        ));
    }
    if text.contains(['\r', '\n', '\0']) {
        return Err(TaskError::terminal(
            "SecretUnreadable",
            format!("The key `{key}` in the Secret of {field} has more than one line: it must be one."),
        ));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_mounted_secret_and_drops_the_line_breaks_at_its_end() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("username"), "synapse\r\n").unwrap();
        fs::write(directory.path().join("password"), " p w\n\n").unwrap();
        let credentials = Credentials::read(directory.path()).unwrap();
        assert_eq!((credentials.username.as_str(), credentials.password.as_str()), ("synapse", " p w"));
        assert!(credentials.oddity().is_some_and(|why| why.starts_with("It begins with white space")));
        fs::write(directory.path().join("password"), "p\nw\n").unwrap();
        let error = Credentials::read(directory.path()).unwrap_err();
        assert!(error.message.contains("more than one line"), "{error}");
        assert!(!format!("{credentials:?}").contains("p w"));
    }

    #[test]
    fn a_password_that_is_odd_is_described_and_not_repeated() {
        let oddity = |password: &str| {
            Credentials { username: String::new(), password: password.to_owned() }.oddity().unwrap_or_default()
        };
        for (password, words) in [
            ("pw ", "ends with white space"),
            (" pw", "begins with white space"),
            ("\tpw\u{a0}", "begins and ends"),
            ("\u{feff}pw", "byte order mark"),
            ("p\tw", "a tab"),
        ] {
            assert!(oddity(password).contains(words), "{password:?}: {}", oddity(password));
        }
        assert_eq!(oddity("p w-ü"), "");
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
