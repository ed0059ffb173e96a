//! What a restore writes on a database, as its comment: whose it is and how far it has come. It is all that is believed.
//!
//! A database without our mark is somebody else's. It is never dropped, whatever its name; it may be renamed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::task::authentication::Whose;

/// What a comment of ours begins with, for people as well.
const BEGINS: &str = "synapse-keeper ";

/// As many earlier restores stand on a database.
const REMEMBERED: usize = 100;

/// PostgreSQL cuts a longer name off.
const NAME_BYTES: usize = 63;

/// The mark of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    pub state: State,
    /// Namespace and name of the `SynapseRestore`: the same name restores nothing a second time.
    pub restore: String,
    /// Its UID.
    pub operation: String,
    /// restic's name of the backup, or of the snapshot with the dump; nothing: the dump was on a volume.
    pub snapshot: String,
    /// The dump of somebody else that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<Dumped>,
    /// The moment that it shows; of a dump, when it was written.
    pub taken_at: Timestamp,
    /// When this was written, by the clock of a node: for people.
    pub at: Timestamp,
    /// Restores by whose work the database before came to be: their names restore nothing again either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<String>,
    /// Whose database it is.
    #[serde(default, skip_serializing_if = "Whose::is_synapse")]
    pub whose: Whose,
    /// The database of the Matrix Authentication Service comes back with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_authentication: bool,
    /// The database whose place it took: it goes by this name now. None: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
    /// Where Synapse's tables are, as the backup has it. Absent: nobody has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// The comment of somebody else that was there before. One that is filled in place gets it back where that comes to nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// A dump, as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dumped {
    /// On its volume or in its snapshot.
    pub path: String,
    /// Of the file, in hexadecimal; nothing before it was read to its end.
    pub sha256: String,
}

/// How far a restored database has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It is being filled, or was when the task died.
    Unfinished,
    /// It was read back and found to be what was backed up.
    Whole,
    /// It has the homeserver's name.
    InPlace,
    /// It had the homeserver's name, until Synapse did not start with it.
    TakenBack,
    /// It has the homeserver's name, and is being filled, or was when the task died. Nobody must be served from it. It is not
    /// [`State::Unfinished`]: those are dropped.
    Filling,
}

impl Mark {
    /// From a database's comment.
    pub fn read(comment: &str) -> Option<Self> {
        serde_json::from_str(comment.strip_prefix(BEGINS)?).ok()
    }

    /// The comment.
    pub fn to_comment(&self) -> String {
        format!("{BEGINS}{}", serde_json::to_string(self).expect("plain data"))
    }

    /// Whether a restore of this name had a part in the database. One that has not finished has had none.
    pub fn is_of(&self, restore: &str) -> bool {
        self.restore == restore && !self.is_filling() || self.earlier.iter().any(|earlier| earlier == restore)
    }

    /// Whether nobody must be served from the database.
    pub fn is_filling(&self) -> bool {
        self.state == State::Filling
    }

    /// What was restored, for people.
    pub fn what(&self) -> String {
        match &self.dump {
            None => format!("backup {:.8}", self.snapshot),
            Some(dump) if self.snapshot.is_empty() => format!("the dump {}", dump.path),
            Some(dump) => format!("the dump {} of snapshot {:.8}", dump.path, self.snapshot),
        }
    }

    /// Whether both are the work of one operation on one source.
    pub fn is_as(&self, other: &Self) -> bool {
        let source =
            |mark: &Self| (mark.snapshot.clone(), mark.dump.as_ref().map(|dump| dump.path.clone()), mark.taken_at);
        let of = |mark: &Self| (mark.operation.clone(), mark.whose, mark.with_authentication);
        of(self) == of(other) && source(self) == source(other)
    }

    /// The names of the restores of a database that comes after this one, the last ones.
    pub fn history(&self) -> Vec<String> {
        let own = Some(&self.restore).filter(|_| !self.is_filling());
        let names: Vec<String> = self.earlier.iter().chain(own).cloned().collect();
        names[names.len().saturating_sub(REMEMBERED)..].to_vec()
    }

    /// The same, later.
    pub fn now(&self, state: State) -> Self {
        Self { state, at: Timestamp::now(), ..self.clone() }
    }
}

/// What the names begin with under which databases are filled.
const BESIDE: &str = "synapse_keeper_";

/// What the names of an operation's databases begin with while they are not in their place.
pub fn prefix_beside(operation: &str) -> String {
    let letters: Vec<char> = operation.chars().filter(char::is_ascii_alphanumeric).collect();
    let short: String = letters[letters.len().saturating_sub(8)..].iter().collect();
    format!("{BESIDE}{}_", short.to_ascii_lowercase())
}

/// The name under which a database is filled.
pub fn name_beside(operation: &str, attempt: i32) -> String {
    format!("{}{attempt}", prefix_beside(operation))
}

/// The name of the Matrix Authentication Service's database that is filled with it.
pub fn of_service(name: &str) -> String {
    format!("{name}_mas")
}

/// The names of all operations' databases, as SQL's `LIKE` has it.
pub fn name_pattern() -> String {
    format!("{}%", BESIDE.replace('_', r"\_"))
}

/// The name that a database gets whose place is taken.
pub fn name_aside(database: &str, at: Timestamp) -> String {
    let time = at.strftime("_before_%Y%m%d_%H%M%S").to_string();
    let kept = database.floor_char_boundary(NAME_BYTES - time.len());
    format!("{}{time}", &database[..kept])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_of_somebody_else_is_no_mark() {
        let mark = Mark {
            state: State::Whole,
            restore: "matrix/after-the-fire".to_owned(),
            operation: "uid".to_owned(),
            snapshot: "abc".to_owned(),
            dump: None,
            taken_at: Timestamp::UNIX_EPOCH,
            at: Timestamp::UNIX_EPOCH,
            earlier: vec![],
            whose: Whose::Synapse,
            with_authentication: false,
            replaced: None,
            schema: None,
            comment: None,
        };
        assert_eq!(Mark::read(&mark.to_comment()), Some(mark));
        for comment in
            ["", "default administrative connection database", "synapse-keeper is great", "synapse-keeper {}"]
        {
            assert_eq!(Mark::read(comment), None, "{comment}");
        }
    }

    #[test]
    fn names_fit_and_tell() {
        assert_eq!(name_beside("0a36cf4e-6ffa-4f0b-a6ae-5e1c5ae1e9ee", 2), "synapse_keeper_5ae1e9ee_2");
        let at: Timestamp = "2026-11-22T17:41:07Z".parse().unwrap();
        assert_eq!(name_aside("synapse", at), "synapse_before_20261122_174107");
        let long = name_aside(&"ü".repeat(40), at);
        assert!(long.len() <= 63 && long.ends_with("_before_20261122_174107"), "{long}");
    }
}
