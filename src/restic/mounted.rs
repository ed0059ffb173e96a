//! A mounted Secret with what restic reads from its environment.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::secrets::Secrets;
use crate::contract::{Result, TaskError, mounted::lacks};

/// Where the repository is.
pub const LOCATION: &str = "RESTIC_REPOSITORY";

/// The repository's password.
pub const PASSWORD: &str = "RESTIC_PASSWORD";

/// The key of a Secret with the certificate authority of a server behind TLS, as in a Secret of type `kubernetes.io/tls`.
const CA: &str = "ca.crt";

/// Environment variables that restic and its storages know begin so.
const KNOWN: &[&str] = &["RESTIC_", "AWS_", "AZURE_", "B2_", "GOOGLE_", "OS_", "ST_", "RCLONE_"];

/// What the Secret says.
pub struct Mounted {
    /// All but the location, where that is given otherwise, and the password.
    pub environment: Vec<(OsString, OsString)>,
    /// Ways to give the password, the usual one first.
    pub passwords: Vec<Password>,
    pub secrets: Secrets,
    /// A digest of the Secret.
    pub word: String,
    /// What is odd about values, for people: it may be why the storage refuses them.
    pub oddities: Vec<String>,
}

/// One environment variable that gives restic the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    pub variable: &'static str,
    pub value: OsString,
}

impl Mounted {
    /// Reads it.
    ///
    /// # Errors
    /// Terminal: `SecretKeyMissing`, `SecretUnreadable`, `SecretKeyWhiteSpace`.
    pub fn read(directory: &Path, location: Option<&str>) -> Result<Self> {
        let mounted = directory;
        let missing = |key: &str| TaskError::terminal("SecretKeyMissing", lacks(mounted, key, "the repository"));
        let unreadable = |error: io::Error| {
            let message = format!("The Secret of the repository cannot be read in {}: {error}.", mounted.display());
            TaskError::terminal("SecretUnreadable", message)
        };
        let first = if location.is_some() { PASSWORD } else { LOCATION };
        // restic runs in other folders than ours.
        let directory = &directory.canonicalize().map_err(|_| missing(first))?;
        let entries = fs::read_dir(directory).map_err(unreadable)?;
        let mut keys: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|key| is_known(key) && !(location.is_some() && key == LOCATION))
            .collect();
        keys.sort();
        let has = |names: &[&str]| names.iter().any(|name| keys.iter().any(|key| key == name));
        if location.is_none() && !has(&[LOCATION]) {
            return Err(missing(LOCATION));
        }
        if !has(&[PASSWORD, "RESTIC_PASSWORD_COMMAND", "RESTIC_PASSWORD_FILE"]) {
            return Err(missing(PASSWORD));
        }
        let mut environment = Vec::new();
        let (mut passwords, mut texts, mut oddities) = (Vec::new(), Vec::new(), Vec::new());
        let mut word = Sha256::new();
        for key in &keys {
            let path = directory.join(key);
            let content = fs::read(&path).map_err(unreadable)?;
            word.update(&content);
            if key == CA {
                environment.push(("RESTIC_CACERT".into(), path.into()));
                continue;
            }
            // `kubectl create secret --from-file` keeps the line break that editors add.
            let value = without_line_breaks(&content);
            if key == PASSWORD {
                passwords = ways(path, &content);
                texts.push((key.as_str(), String::from_utf8_lossy(&content).into_owned()));
            } else if let Some(text) = std::str::from_utf8(value).ok().filter(|text| !text.contains('\0')) {
                texts.push((key, text.to_owned()));
                environment.push((key.into(), text.into()));
            } else if KNOWN.iter().any(|known| key.starts_with(known)) {
                return Err(TaskError::terminal(
                    "SecretUnreadable",
                    format!("The key {key} in the Secret of the repository is not text: write it as stringData."),
                ));
            }
            if let Some(odd) = oddity(value) {
                if key == LOCATION {
                    let message = format!("{LOCATION} in the Secret of the repository {odd}: take that out.");
                    return Err(TaskError::terminal("SecretKeyWhiteSpace", message));
                }
                oddities.push(format!("{key} {odd}"));
            }
        }
        environment.extend(location.map(|location| (LOCATION.into(), location.into())));
        let location = location.map(|location| (LOCATION, location));
        Ok(Self {
            environment,
            passwords,
            secrets: Secrets::of(texts.iter().map(|(key, text)| (*key, text.as_str())).chain(location)),
            word: word.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect(),
            oddities,
        })
    }
}

/// restic drops all white space around what is in a file, and a byte order mark. A program that gave it the password as an
/// environment variable, such as a container with `secretKeyRef`, made the repository with what it drops.
fn ways(path: PathBuf, content: &[u8]) -> Vec<Password> {
    let mut ways = vec![Password { variable: "RESTIC_PASSWORD_FILE", value: path.into() }];
    for value in [content, without_line_breaks(content)] {
        let way = Password { variable: PASSWORD, value: OsStr::from_bytes(value).to_owned() };
        if value != bare(content) && !value.is_empty() && !value.contains(&0) && !ways.contains(&way) {
            ways.push(way);
        }
    }
    ways
}

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// As restic reads a file.
fn bare(content: &[u8]) -> &[u8] {
    content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content).trim_ascii()
}

fn without_line_breaks(mut content: &[u8]) -> &[u8] {
    while let [before @ .., b'\n' | b'\r'] = content {
        content = before;
    }
    content
}

/// What does not show when a value is looked at.
fn oddity(value: &[u8]) -> Option<&'static str> {
    if value.starts_with(BYTE_ORDER_MARK) {
        return Some("begins with a byte order mark");
    }
    if value.first().is_some_and(u8::is_ascii_whitespace) {
        return Some("begins with white space");
    }
    value.last().is_some_and(u8::is_ascii_whitespace).then_some("ends with white space")
}

/// Kubernetes keeps links of its own beside the keys (`..data`).
fn is_known(key: &str) -> bool {
    let mut characters = key.chars();
    key == CA
        || (characters.next().is_some_and(|first| first.is_ascii_uppercase() || first == '_')
            && characters.all(|next| next.is_ascii_uppercase() || next.is_ascii_digit() || next == '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &[(&str, &[u8])], location: Option<&str>) -> Result<Mounted> {
        let directory = tempfile::tempdir().unwrap();
        for (key, value) in keys {
            fs::write(directory.path().join(key), value).unwrap();
        }
        Mounted::read(directory.path(), location)
    }

    #[test]
    fn a_mounted_secret_is_restic_s_environment() {
        let mounted = read(
            &[
                ("RESTIC_REPOSITORY", b"s3:https://minio/backups\r\n"),
                ("RESTIC_PASSWORD", b"geheim"),
                ("AWS_SECRET_ACCESS_KEY", b"wJalrXUtnFEMI\n\n"),
                ("ca.crt", b"PEM"),
                ("..data", b"Kubernetes' own"),
                ("notes.txt", b"of the admin"),
                ("EXTRA", b"\xff\xfe\x00"),
            ],
            None,
        )
        .unwrap();
        let names: Vec<&str> = mounted.environment.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["AWS_SECRET_ACCESS_KEY", "RESTIC_REPOSITORY", "RESTIC_CACERT"]);
        assert_eq!(mounted.environment[0].1, "wJalrXUtnFEMI", "without the line's end");
        assert_eq!(mounted.environment[1].1, "s3:https://minio/backups", "without the line's end");
        let [file] = &mounted.passwords[..] else { panic!("no way but its file") };
        assert_eq!(file.variable, "RESTIC_PASSWORD_FILE");
        assert_eq!(mounted.secrets.mask("key wJalrXUtnFEMI, geheim"), "key ***, ***");
        assert!(mounted.oddities.is_empty());
    }

    #[test]
    fn a_password_is_given_as_restic_reads_a_file_and_then_as_it_is() {
        let ways = |password: &[u8]| {
            let mounted = read(&[("RESTIC_PASSWORD", password)], Some("/a")).unwrap();
            let ways = mounted.passwords.iter().filter(|way| way.variable == "RESTIC_PASSWORD");
            ways.map(|way| way.value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(ways(b"abc"), Vec::<String>::new());
        assert_eq!(ways(b"abc\n"), ["abc\n"]);
        assert_eq!(ways(b" abc\r\n"), [" abc\r\n", " abc"]);
        assert_eq!(ways("\u{feff}abc".as_bytes()), ["\u{feff}abc"]);
        assert_eq!(ways(b"\n"), ["\n"]);
    }

    #[test]
    fn what_is_missing_or_odd_is_named() {
        let refused = |keys: &[(&str, &[u8])]| {
            let error = read(keys, None).err().expect("an error");
            format!("{}: {}", error.reason, error.message)
        };
        let (place, password): (&str, &str) = ("RESTIC_REPOSITORY", "RESTIC_PASSWORD");
        assert!(refused(&[(password, b"a")]).contains(place));
        assert!(refused(&[(place, b"/a")]).contains(password));
        assert!(refused(&[]).contains(place));
        for (value, odd) in [(&b"/a "[..], "ends with"), (b"\t/a", "begins with"), (b"\xef\xbb\xbf/a", "byte order")] {
            let why = refused(&[(place, value), (password, b"a")]);
            assert!(why.starts_with("SecretKeyWhiteSpace") && why.contains(odd), "{why}");
        }
        let binary = refused(&[(place, b"/a"), (password, b"a"), ("AWS_SESSION_TOKEN", b"\xff")]);
        assert!(binary.starts_with("SecretUnreadable") && binary.contains("AWS_SESSION_TOKEN"), "{binary}");
        let odd = read(&[("RESTIC_PASSWORD", b" a "), ("B2_ACCOUNT_KEY", b"k \n")], Some("/a")).unwrap();
        assert_eq!(odd.oddities, ["B2_ACCOUNT_KEY ends with white space", "RESTIC_PASSWORD begins with white space"]);
    }
}
