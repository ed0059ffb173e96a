//! What Synapse answers, compared with what is known.

use std::time::Duration;

use reqwest::Url;
use serde_json::Value;

use super::witness::{Event, Person, Witness};
use crate::{
    contract::{Result, TaskError},
    synapse::version,
};

/// A first answer may wait for caches that are empty.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Who asks.
pub struct Client {
    http: reqwest::Client,
    url: Url,
}

/// What came of it.
#[derive(Debug)]
pub struct Answered {
    /// Such as `Synapse 1.163.2`.
    pub version: String,
    pub summary: String,
}

/// Why an answer is wrong, for people.
type Told<T> = std::result::Result<T, String>;

impl Client {
    /// Of the Synapse on this port of the loopback.
    ///
    /// # Errors
    /// Transient, where no client can be made.
    pub fn new(port: u16) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(TIMEOUT).no_proxy().build();
        let http = http.map_err(|error| TaskError::transient("SynapseSilent", format!("No HTTP client: {error}.")))?;
        let url = format!("http://127.0.0.1:{port}").parse().expect("a URL");
        Ok(Self { http, url })
    }

    /// Whether it listens: it does not before its database is as it wants it.
    pub async fn is_up(&self) -> bool {
        let asked = self.http.get(at(&self.url, &["health"])).send().await;
        asked.is_ok_and(|response| response.status().is_success())
    }

    /// Asks for what the database knows.
    ///
    /// # Errors
    /// The first answer that is another.
    pub async fn examine(&self, witness: &Witness) -> Told<Answered> {
        let version = version::server_version(self.url.as_str()).await?;
        let versions = self.ask(&["_matrix", "client", "versions"], None).await?;
        if versions["versions"].as_array().is_none_or(Vec::is_empty) {
            return Err(format!("It speaks no version of the Matrix protocol: {versions}"));
        }
        let summary = match &witness.person {
            None => "answers; there is no user in whose name to ask".to_owned(),
            Some(person) => self.examine_for(person).await?,
        };
        Ok(Answered { version: format!("Synapse {version}"), summary })
    }

    async fn examine_for(&self, person: &Person) -> Told<String> {
        let Person { id, token, rooms, newest } = person;
        let as_them = Some(token.as_str());
        let whoami = self.ask(&["_matrix", "client", "v3", "account", "whoami"], as_them).await?;
        same("who asks", &whoami["user_id"], &Value::from(id.as_str()))?;
        let joined = self.ask(&["_matrix", "client", "v3", "joined_rooms"], as_them).await?;
        let joined = joined["joined_rooms"].as_array().map(Vec::len);
        same("in how many rooms they are", &Value::from(joined), &Value::from(*rooms))?;
        let Some(Event { id: event, room, type_, members }) = newest else {
            return Ok(format!("knows a user and their {rooms} rooms"));
        };
        let path = ["_matrix", "client", "v3", "rooms", room];
        let read = self.ask(&[&path[..], &["event", event]].concat(), as_them).await?;
        same("the newest event that they sent", &read["event_id"], &Value::from(event.as_str()))?;
        same("its type", &read["type"], &Value::from(type_.as_str()))?;
        same("its sender", &read["sender"], &Value::from(id.as_str()))?;
        let listed = self.ask(&[&path[..], &["joined_members"]].concat(), as_them).await?;
        let listed = listed["joined"].as_object().map(serde_json::Map::len);
        same("how many are in its room", &Value::from(listed), &Value::from(*members))?;
        Ok(format!("gives a user of {rooms} rooms the newest that they sent, in a room of {members}"))
    }

    async fn ask(&self, path: &[&str], token: Option<&str>) -> Told<Value> {
        let mut request = self.http.get(at(&self.url, path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let asked = format!("GET /{}", path.join("/"));
        let response = request.send().await.map_err(|error| format!("{asked} has no answer: {error}"))?;
        let status = response.status();
        let body = response.text().await.map_err(|error| format!("{asked} ends too early: {error}"))?;
        if !status.is_success() {
            return Err(format!("{asked} is answered with {status}: {body:.300}"));
        }
        serde_json::from_str(&body).map_err(|error| format!("{asked} is not answered in JSON ({error}): {body:.300}"))
    }
}

/// The address behind `base` whose path has these parts; ids of Matrix have what a path has not.
fn at(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    url.path_segments_mut().expect("it has a host").clear().extend(path);
    url
}

fn same(what: &str, answered: &Value, known: &Value) -> Told<()> {
    if answered == known {
        return Ok(());
    }
    Err(format!("Synapse answers otherwise than the database ({what}): {answered}, and there it is {known}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_matrix_are_no_paths() {
        let url = at(&"http://127.0.0.1:1".parse().unwrap(), &["rooms", "!a/b:example.org", "event", "$c?d"]);
        assert_eq!(url.as_str(), "http://127.0.0.1:1/rooms/!a%2Fb:example.org/event/$c%3Fd");
    }

    #[test]
    fn another_answer_is_told_with_what_is_known() {
        assert_eq!(same("rooms", &Value::from(3), &Value::from(3_i64)), Ok(()));
        let told = same("rooms", &Value::from(2), &Value::from(3)).unwrap_err();
        assert!(told.contains("rooms") && told.contains(": 2,") && told.contains("is 3"), "{told}");
    }
}
