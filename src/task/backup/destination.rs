//! Whose backup it is, and where it goes.

use serde::{Deserialize, Serialize};

use crate::{api::origins::is_origin, task::place::Place};

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
    #[arg(long, value_parser = origin)]
    pub origin: String,
    /// Another object's UID, whose backups count as this one's; may be given several times.
    #[arg(long = "adopt", value_name = "UID", value_parser = origin)]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adopted: Vec<String>,
}

impl Destination {
    /// The same as arguments of the task.
    pub fn to_args(&self) -> Vec<String> {
        let mut args = self.place.to_args();
        args.extend(self.init.then(|| "--init".to_owned()));
        args.extend([format!("--server-name={}", self.server_name), format!("--origin={}", self.origin)]);
        args.extend(self.adopted.iter().map(|origin| format!("--adopt={origin}")));
        args
    }

    /// All whose backups count.
    pub fn origins(&self) -> Vec<String> {
        [&self.origin].into_iter().chain(&self.adopted).cloned().collect()
    }
}

/// An origin as it may stand in a tag.
pub(super) fn origin(text: &str) -> std::result::Result<String, String> {
    if is_origin(text) { Ok(text.to_owned()) } else { Err("write letters, digits and - only".to_owned()) }
}
