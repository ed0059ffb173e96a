//! Whose backup it is, and where it goes.

use serde::{Deserialize, Serialize};

use crate::task::place::Place;

/// A homeserver's place in a repository.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Destination {
    #[command(flatten)]
    #[serde(flatten)]
    pub place: Place,
    /// Make the repository if there is none.
    #[arg(long)]
    #[serde(default)]
    pub init: bool,
    /// The homeserver's name; a database of another is refused.
    #[arg(long)]
    pub server_name: String,
    /// Whose backups these are: the UID of an object. Another's in the same repository are left alone.
    #[arg(long, value_parser = word)]
    pub origin: String,
}

impl Destination {
    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        let mut args = self.place.to_args();
        args.extend(self.init.then(|| "--init".to_owned()));
        args.extend([format!("--server-name={}", self.server_name), format!("--origin={}", self.origin)]);
        args
    }
}

/// restic takes a comma for the end of a tag.
fn word(text: &str) -> std::result::Result<String, String> {
    let is_word =
        !text.is_empty() && text.chars().all(|character| character.is_ascii_alphanumeric() || character == '-');
    if is_word { Ok(text.to_owned()) } else { Err("write letters, digits and - only".to_owned()) }
}
