//! A person with a client, through Synapse's own API.

use serde_json::Value;

use crate::{kubectl::run, world::World};

/// Somebody who has signed up with one device and thirty one-time keys, and has made a room.
pub struct Person<'a> {
    world: &'a World,
    token: String,
    room: String,
}

impl<'a> Person<'a> {
    pub fn sign_up(world: &'a World, name: &str) -> Self {
        let made = ask(world, &["sign-up", name]).expect("a new account");
        let text = |key: &str| made[key].as_str().expect(key).to_owned();
        Self { world, token: text("token"), room: text("room") }
    }

    pub fn says(&self, text: &str) {
        ask(self.world, &["send", &self.token, &self.room, text]).expect("an event");
    }

    /// Uploads a file; its id.
    pub fn shares(&self, text: &str) -> String {
        let shared = ask(self.world, &["share", &self.token, text]).expect("a file");
        shared["media_id"].as_str().expect("an id").to_owned()
    }

    /// The messages in the room, and how many one-time keys the homeserver has of the device; the error where there is none.
    pub fn looks(&self) -> Result<(Vec<String>, u64), String> {
        let seen = ask(self.world, &["look", &self.token, &self.room])?;
        let messages = seen["messages"].as_array().expect("a list").iter();
        Ok((
            messages.map(|text| text.as_str().unwrap_or_default().to_owned()).collect(),
            seen["one_time_keys"].as_u64().expect("a count"),
        ))
    }

    /// Uploads one-time keys; how many there are then.
    pub fn uploads_keys(&self, count: u64) -> u64 {
        let seen = ask(self.world, &["upload-keys", &self.token, &count.to_string()]).expect("a count");
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
