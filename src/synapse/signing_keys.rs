//! With which keys a homeserver signs, by their ids: the keys themselves are nobody's business.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::postgres::{Explain, Result, Session};

/// The ids in a file of keys (`signing_key_path`): lines of `<algorithm> <version> <key>`, such as `ed25519 a_abcd …`, as
/// `signedjson.key.read_signing_keys` reads them. `None`: it is no such file.
pub fn ids(text: &str) -> Option<Vec<String>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let ids: Option<Vec<String>> = lines
        .map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["ed25519", version, _] => Some(format!("ed25519:{version}")),
            _ => None,
        })
        .collect();
    ids.filter(|ids| !ids.is_empty())
}

#[derive(Deserialize)]
struct Signed {
    #[serde(default)]
    signatures: BTreeMap<String, BTreeMap<String, String>>,
}

/// Ids of the keys with which the newest event of the homeserver's own users is signed. None: there is no such event.
///
/// # Errors
/// Those of PostgreSQL.
pub async fn of_newest_event(session: &mut Session, server_name: &str) -> Result<Vec<String>> {
    // The newest in the order of arrival; what was fetched for the past has a negative one.
    let json: Option<String> = sqlx::query_scalar(
        "SELECT j.json FROM events e JOIN event_json j USING (event_id) \
         WHERE e.stream_ordering > 0 AND e.sender LIKE '@%' AND substr(e.sender, strpos(e.sender, ':') + 1) = $1 \
         ORDER BY e.stream_ordering DESC LIMIT 1",
    )
    .bind(server_name)
    .fetch_optional(&mut session.connection)
    .await
    .explain("reading the newest event's signatures")?;
    let signed = json.and_then(|json| serde_json::from_str::<Signed>(&json).ok());
    let own = signed.and_then(|mut signed| signed.signatures.remove(server_name)).unwrap_or_default();
    Ok(own.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_taken_and_keys_are_not() {
        let one = ids("ed25519 a_demo R8cr+adpPk6FCTYT8UPHxPOdK0zP9QsYd95jphAfFwk\n");
        assert_eq!(one, Some(vec!["ed25519:a_demo".to_owned()]));
        let two = ids("\ned25519 a b\n  ed25519\tauto c\n");
        assert_eq!(two, Some(vec!["ed25519:a".to_owned(), "ed25519:auto".to_owned()]));
        for text in ["", "\n", "server_name: example.org", "ed25519 a", "rsa a b"] {
            assert_eq!(ids(text), None, "{text}");
        }
    }
}
