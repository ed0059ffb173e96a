//! What must not leave the task, whoever says it: values of the repository's Secret, and the user-info of URLs.
//!
//! A long value is masked wherever it stands. A short one is masked where it stands alone: `key` as a password must not make
//! `monkey` unreadable. Both are known in each form in which a program may write them.

use std::collections::BTreeSet;

use serde_json::Value;

/// Stands in the place of a secret.
const MASK: &str = "***";

/// A shorter value is masked only where it stands alone.
const LONG: usize = 8;

/// Keys whose values are no secrets: everybody may read them.
const PLAIN: &[&str] = &[
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AZURE_ENDPOINT_SUFFIX",
    "GOOGLE_PROJECT_ID",
    "OS_REGION_NAME",
    "RESTIC_CACHE_DIR",
    "RESTIC_COMPRESSION",
    "RESTIC_FEATURES",
    "RESTIC_HOST",
    "RESTIC_KEY_HINT",
    "RESTIC_PACK_SIZE",
    "RESTIC_PASSWORD_FILE",
    "RESTIC_PROGRESS_FPS",
    "RESTIC_READ_CONCURRENCY",
    "RESTIC_REPOSITORY_FILE",
];

/// Keys with one of these in their names hold secrets, however short.
const TELLING: &[&str] = &["PASS", "KEY", "SECRET", "TOKEN", "CRED", "SAS"];

/// Keys with one of these endings name an account: no more than a name, which may be an ordinary word.
const NAMING: &[&str] = &["_ACCESS_KEY_ID", "_ACCOUNT_ID", "_ACCOUNT_NAME", "_USERNAME", "_USER"];

/// All that is masked.
#[derive(Clone, Default)]
pub struct Secrets {
    /// The longest first.
    forms: Vec<String>,
}

impl Secrets {
    /// Learns what is secret in these keys' values.
    pub fn of<'a>(keys: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let values: BTreeSet<String> = keys.into_iter().flat_map(|(key, value)| secrets_in(key, value)).collect();
        let forms: BTreeSet<String> = values.iter().flat_map(|value| forms(value)).collect();
        let mut forms: Vec<String> = forms.into_iter().collect();
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        Self { forms }
    }

    /// A line that a program has printed. Of JSON the texts are masked, not the syntax.
    pub fn mask_line(&self, line: &str) -> String {
        match serde_json::from_str::<Value>(line) {
            Ok(mut object @ Value::Object(_)) => {
                self.mask_texts(&mut object);
                object.to_string()
            }
            _ => self.mask(line),
        }
    }

    fn mask_texts(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.mask(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.mask_texts(value)),
            Value::Object(members) => {
                let texts = members.iter_mut().filter(|(name, _)| *name != "message_type");
                texts.for_each(|(_, value)| self.mask_texts(value));
            }
            _ => {}
        }
    }

    /// A text without any secret in it.
    pub fn mask(&self, text: &str) -> String {
        let mut masked = String::with_capacity(text.len());
        let mut at = 0;
        while let Some(next) = text[at..].chars().next() {
            if let Some(form) = self.forms.iter().find(|form| is_at(text, at, form)) {
                masked.push_str(MASK);
                at += form.len();
            } else {
                masked.push(next);
                at += next.len_utf8();
            }
        }
        without_user_info(&masked)
    }
}

fn is_at(text: &str, at: usize, form: &str) -> bool {
    if !text[at..].starts_with(form) {
        return false;
    }
    let is_letter = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    let goes_on = |inside: Option<char>, outside: Option<char>| is_letter(inside) && is_letter(outside);
    form.len() >= LONG
        || !(goes_on(form.chars().next(), text[..at].chars().next_back())
            || goes_on(form.chars().next_back(), text[at + form.len()..].chars().next()))
}

/// What is secret in a key's value.
fn secrets_in(key: &str, value: &str) -> Vec<String> {
    let tells = TELLING.iter().any(|word| key.contains(word));
    let is_switch = || value.parse::<f64>().is_ok() || ["true", "false"].contains(&value.trim());
    let is_short_name = || value.len() < LONG && NAMING.iter().any(|ending| key.ends_with(ending));
    if PLAIN.contains(&key) || is_short_name() {
        vec![]
    } else if key.ends_with("_COMMAND") {
        // A password may stand in the command itself.
        value.split_whitespace().skip(1).chain([value]).map(|word| word.trim_matches(['\'', '"']).to_owned()).collect()
    } else if key == "RESTIC_REPOSITORY" || (value.contains("://") && !tells) {
        in_location(value)
    } else if tells || value.len() >= LONG || !is_switch() {
        vec![value.to_owned()]
    } else {
        vec![]
    }
}

/// What is secret in the place of a repository: the user-info of a URL, and options of rclone.
fn in_location(location: &str) -> Vec<String> {
    let Some(user_info) = user_info(location) else {
        // rclone:remote,user=me,pass=secret:path
        let options = location.strip_prefix("rclone:").and_then(|rest| rest.rsplit_once(':')).map(|(remote, _)| remote);
        let options = options.iter().flat_map(|remote| remote.split([',', ':']));
        return options.filter_map(|option| Some(option.split_once('=')?.1.to_owned())).collect();
    };
    let mut secrets = vec![user_info.to_owned()];
    // Without a colon it is a token. With one, a name is in front of it, which programs print.
    let password = user_info.split_once(':').map_or(user_info, |(_, password)| password);
    secrets.push(password.to_owned());
    // Where somebody has not escaped it, programs cut it in pieces and print these.
    secrets.extend(password.split(['/', '?', '#', '@']).map(str::to_owned));
    secrets
}

/// All between `://` and the host. A password may hold an @, and a / where somebody has not escaped it.
fn user_info(location: &str) -> Option<&str> {
    let rest = location.split_once("://")?.1;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_host = |authority: &str| {
        let (_, port) = authority.rsplit_once(':').unwrap_or((authority, ""));
        authority.ends_with(']') || port.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !authority.contains('@') && is_host(authority) {
        return None;
    }
    rest.rsplit_once('@').map(|(user_info, _)| user_info)
}

/// A text in which no URL has user-info.
fn without_user_info(text: &str) -> String {
    let mut parts = text.split("://");
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|letter: char| letter.is_whitespace() || "\"'`/?#".contains(letter)).unwrap_or(part.len());
        let host = part[..end].rfind('@').map(|at| &part[at..]);
        masked.extend(["://", if host.is_some() { MASK } else { "" }, host.unwrap_or(part)]);
    }
    masked
}

/// A value in each form in which a program may write it.
fn forms(value: &str) -> BTreeSet<String> {
    let mut plain = BTreeSet::from([value.to_owned(), value.trim().to_owned()]);
    plain.extend(plain.clone().iter().map(|text| decoded(text)));
    plain.extend(plain.clone().iter().flat_map(|text| text.lines().map(|line| line.trim().to_owned())));
    let mut forms = plain.clone();
    for text in &plain {
        // Of a URL's parts, each has letters of its own that need not be escaped (RFC 3986).
        for unescaped in ["", "$&+,;=", "$&+,;=:@", "!$&'()*+,;="] {
            let encoded = encoded(text, unescaped);
            forms.insert(encoded.replace("%20", "+"));
            forms.insert(lower_case_escapes(&encoded));
            forms.insert(encoded);
        }
        let json = Value::from(text.as_str()).to_string();
        let json = json.trim_start_matches('"').strip_suffix('"').unwrap_or(&json).to_owned();
        forms.insert(json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"));
        forms.insert(json);
    }
    forms.retain(|form| !form.is_empty());
    forms
}

fn encoded(text: &str, unescaped: &str) -> String {
    let escape = |byte: u8| {
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || unescaped.as_bytes().contains(&byte);
        if is_plain { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escape).collect()
}

fn lower_case_escapes(encoded: &str) -> String {
    let mut parts = encoded.split('%');
    let mut lower = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        lower.extend(["%", &part[..2].to_ascii_lowercase(), &part[2..]]);
    }
    lower
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let escaped = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        decoded.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(key: &str, value: &str, text: &str) -> String {
        Secrets::of([(key, value)]).mask(text)
    }

    #[test]
    fn the_user_info_of_a_location_is_masked_whole() {
        for (location, expected) in [
            ("rest:https://u:p@ss@host/", "rest:https://***@host/"),
            ("rest:https://token@host", "rest:https://***@host"),
            ("rest:https://u:p/s?s#x@host:8000/a", "rest:https://***@host:8000/a"),
            ("rest:https://u:p%40ss@host/a", "rest:https://***@host/a"),
            ("s3:https://key:secret@[::1]:9000/a", "s3:https://***@[::1]:9000/a"),
            ("sftp://me@host//backups", "sftp://***@host//backups"),
            ("s3:https://s3.example.org:9000/backups@home", "s3:https://s3.example.org:9000/backups@home"),
            ("/backups", "/backups"),
        ] {
            assert_eq!(mask("RESTIC_REPOSITORY", location, location), expected);
        }
        let of_rclone = mask("RESTIC_REPOSITORY", "rclone::sftp,host=h,pass=geheim12:a", "pass=geheim12");
        assert_eq!(of_rclone, "pass=***");
    }

    #[test]
    fn parts_of_a_password_that_programs_print_are_masked() {
        for (location, said, expected) in [
            // What restic 0.18 says of each.
            ("rest:http://u:p/ss@h/", r#"invalid port ":p" after host"#, r#"invalid port ":***" after host"#),
            ("rest:http://u:p#ss@h/", r#"parse "http://u:p": invalid"#, r#"parse "http://u:***": invalid"#),
            ("rest:http://u:p%40ss@h/", r#"Head "http://u:p@ss@h/": EOF"#, r#"Head "http://***@h/": EOF"#),
            ("rest:http://u:p%40ss@h/", "the password p@ss, p%40ss", "the password ***, ***"),
        ] {
            assert_eq!(mask("RESTIC_REPOSITORY", location, said), expected);
        }
        let unknown = Secrets::default().mask("proxy http://me:other@proxy:3128 and https://host/x@y");
        assert_eq!(unknown, "proxy http://***@proxy:3128 and https://host/x@y");
    }

    #[test]
    fn a_short_value_is_masked_where_it_stands_alone() {
        assert_eq!(
            mask("RESTIC_PASSWORD", "key", "the key of a monkey: 'key', key=1"),
            "the *** of a monkey: '***', ***=1"
        );
        assert_eq!(mask("B2_ACCOUNT_KEY", "a", "a bad thing"), "*** bad thing");
        assert_eq!(mask("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI", "xwJalrXUtnFEMIx"), "x***x");
        assert_eq!(mask("RESTIC_PASSWORD", "ü!", "über ü! fü!"), "über *** fü!");
    }

    #[test]
    fn what_is_no_secret_stays_readable() {
        for (key, value) in [("AWS_DEFAULT_REGION", "eu-central-1"), ("SOME_SWITCH", "1"), ("SOME_SWITCH", "true")] {
            let text = format!("in {value}, retrying after {value}s");
            assert_eq!(mask(key, value, &text), text);
        }
        let text = "no account backups has a bucket backups";
        assert_eq!(mask("AWS_ACCESS_KEY_ID", "backups", text), text);
        let text = "Post https://auth.example.org/v3: refused";
        assert_eq!(mask("OS_AUTH_URL", "https://auth.example.org/v3", text), text);
        assert_eq!(mask("HTTPS_PROXY", "http://me:pw@proxy:3128", "pw of proxy:3128"), "*** of proxy:3128");
    }

    #[test]
    fn each_form_of_a_value_is_masked() {
        let value = "a b+ü/\"<&\\";
        let secrets = Secrets::of([("RESTIC_REST_PASSWORD", value)]);
        for form in [
            value,
            "a%20b%2B%C3%BC%2F%22%3C%26%5C",
            "a%20b%2b%c3%bc%2f%22%3c%26%5c",
            "a+b%2B%C3%BC%2F%22%3C%26%5C",
            "a b+ü/\\\"<&\\\\",
            "a b+ü/\\\"\\u003c\\u0026\\\\",
        ] {
            assert_eq!(secrets.mask(&format!("it is {form}.")), "it is ***.");
        }
        assert_eq!(mask("RESTIC_PASSWORD", "geheim1\r\n", "geheim1 was"), "*** was");
        assert_eq!(mask("RESTIC_PASSWORD_COMMAND", "echo 'hunter2'", "exec: hunter2"), "exec: ***");
    }

    #[test]
    fn of_json_the_texts_are_masked() {
        let secrets = Secrets::of([("RESTIC_PASSWORD", "error"), ("B2_ACCOUNT_KEY", "message")]);
        let line = r#"{"message_type":"error","error":{"message":"an error, a message"}}"#;
        let masked: Value = serde_json::from_str(&secrets.mask_line(line)).unwrap();
        assert_eq!(masked["message_type"], "error");
        assert_eq!(masked["error"]["message"], "an ***, a ***");
        assert_eq!(secrets.mask_line("no JSON: error"), "no JSON: ***");
    }
}
