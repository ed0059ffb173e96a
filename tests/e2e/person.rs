//! A person with a client, through Synapse's own API.

use serde_json::Value;

use crate::{kubectl::run, world::World};

/// Somebody who has signed up with one device and thirty one-time keys, and has made a room.
pub struct Person<'a> {
    world: &'a World,
    client: Client,
}

/// What a client keeps.
#[derive(Clone)]
pub struct Client {
    token: String,
    room: String,
}

impl<'a> Person<'a> {
    pub fn sign_up(world: &'a World, name: &str) -> Self {
        let made = ask(world, &["sign-up", name]).expect("a new account");
        let text = |key: &str| made[key].as_str().expect(key).to_owned();
        Self { world, client: Client { token: text("token"), room: text("room") } }
    }

    /// Somebody with a client from before, whatever has become of the homeserver.
    pub fn with(world: &'a World, client: Client) -> Self {
        Self { world, client }
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub fn says(&self, text: &str) {
        ask(self.world, &["send", &self.client.token, &self.client.room, text]).expect("an event");
    }

    /// Uploads a file; its id.
    pub fn shares(&self, text: &str) -> String {
        let shared = ask(self.world, &["share", &self.client.token, text]).expect("a file");
        shared["media_id"].as_str().expect("an id").to_owned()
    }

    /// What a file of this id has in it; the error where there is none.
    pub fn sees(&self, media_id: &str) -> Result<String, String> {
        let seen = ask(self.world, &["see", &self.client.token, media_id])?;
        Ok(seen["content"].as_str().expect("text").to_owned())
    }

    /// The messages in the room, and how many one-time keys the homeserver has of the device; the error where there is none.
    pub fn looks(&self) -> Result<(Vec<String>, u64), String> {
        let seen = ask(self.world, &["look", &self.client.token, &self.client.room])?;
        let messages = seen["messages"].as_array().expect("a list").iter();
        Ok((
            messages.map(|text| text.as_str().unwrap_or_default().to_owned()).collect(),
            seen["one_time_keys"].as_u64().expect("a count"),
        ))
    }

    /// Uploads one-time keys; how many there are then.
    pub fn uploads_keys(&self, count: u64) -> u64 {
        let seen = ask(self.world, &["upload-keys", &self.client.token, &count.to_string()]).expect("a count");
        seen["one_time_keys"].as_u64().expect("a count")
    }
}

fn ask(world: &World, arguments: &[&str]) -> Result<Value, String> {
    let script = include_str!("../homeserver/person.py");
    let python = ["--namespace", &world.namespace, "exec", "-i", "synapse-main-0", "--", "python3", "-B", "-"];
    let common = ["http://localhost:8008", "demo-registration"];
    let (success, said) = run("kubectl", &[&python[..], &common, arguments].concat(), script);
    if success { Ok(serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))) } else { Err(said) }
}
