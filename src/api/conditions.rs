//! Conditions and their types.
//!
//! They follow kstatus, so that Flux, Helm 4 and `kubectl wait` understand them: `Reconciling` and `Stalled` are present
//! only while they are true, `Ready` is always there. `docs/conditions.md` has the types and `docs/reasons.md` the reasons
//! for people; `tests/docs.rs` compares them with the source, so a reason is always written as a string literal.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The types of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    /// An operation: its last run succeeded, or it waits for its schedule. A Synapse: all that was seen of it is well.
    Ready,
    /// Work is under way, or waits for something that can come by itself.
    Reconciling,
    /// Nothing more happens until a person changes something.
    Stalled,
    /// A one-shot operation has done all its work (as a Job's).
    Complete,
    /// A run failed (as a Job's).
    Failed,
    /// The homeserver's workloads are at zero by our hand.
    Quiesced,
    /// A backup: the last run could not take old backups away. It has succeeded all the same.
    RetentionFailed,
    /// A backup: the last drill restored one and found it whole. Unknown: it could not be carried out.
    Verified,
    /// A backup: a restore of the newest one does not bring back all of the database.
    NotAllRestored,
    /// A backup: the repository has backups of the same homeserver that other objects made.
    OtherOrigins,
    /// A backup: one of the newest is of the future.
    ClockAhead,
    /// A backup: some media that the database names have no file.
    MediaMissing,
    /// A backup that is being deleted with its data: they are gone.
    DataDeleted,
    /// Synapse: restores have left databases that nobody uses.
    DatabasesLeft,
    /// Synapse: the workloads that it names are there and may be taken down.
    WorkloadsFound,
    /// Synapse: the main process has a Pod that is Ready.
    Serving,
    /// Synapse: PostgreSQL can be reached and read.
    DatabaseReachable,
    /// Synapse: the database is UTF8, C, C.
    LocaleSafe,
    /// Synapse: no sequence is behind its table or its stream position.
    SequencesConsistent,
    /// Synapse: Synapse's background updates are done.
    BackgroundUpdatesDone,
    /// Synapse: PostgreSQL is new enough for Synapse.
    PostgresSupported,
    /// Synapse: the database is that of this homeserver.
    DatabaseMatches,
    /// Synapse: the tables of a whole homeserver are in the database.
    DatabaseWhole,
    /// Synapse: the role owns every table.
    TablesOwned,
    /// Synapse: it tells its version.
    SynapseAnswers,
}

impl Type {
    pub const ALL: [Self; 25] = [
        Self::Ready,
        Self::Reconciling,
        Self::Stalled,
        Self::Complete,
        Self::Failed,
        Self::Quiesced,
        Self::RetentionFailed,
        Self::Verified,
        Self::NotAllRestored,
        Self::OtherOrigins,
        Self::ClockAhead,
        Self::MediaMissing,
        Self::DataDeleted,
        Self::DatabasesLeft,
        Self::WorkloadsFound,
        Self::Serving,
        Self::DatabaseReachable,
        Self::LocaleSafe,
        Self::SequencesConsistent,
        Self::BackgroundUpdatesDone,
        Self::PostgresSupported,
        Self::DatabaseMatches,
        Self::DatabaseWhole,
        Self::TablesOwned,
        Self::SynapseAnswers,
    ];

    /// The type as it stands in the object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "Ready",
            Self::Reconciling => "Reconciling",
            Self::Stalled => "Stalled",
            Self::Complete => "Complete",
            Self::Failed => "Failed",
            Self::Quiesced => "Quiesced",
            Self::RetentionFailed => "RetentionFailed",
            Self::Verified => "Verified",
            Self::NotAllRestored => "NotAllRestored",
            Self::OtherOrigins => "OtherOrigins",
            Self::ClockAhead => "ClockAhead",
            Self::MediaMissing => "MediaMissing",
            Self::DataDeleted => "DataDeleted",
            Self::DatabasesLeft => "DatabasesLeft",
            Self::WorkloadsFound => "WorkloadsFound",
            Self::Serving => "Serving",
            Self::DatabaseReachable => "DatabaseReachable",
            Self::LocaleSafe => "LocaleSafe",
            Self::SequencesConsistent => "SequencesConsistent",
            Self::BackgroundUpdatesDone => "BackgroundUpdatesDone",
            Self::PostgresSupported => "PostgresSupported",
            Self::DatabaseMatches => "DatabaseMatches",
            Self::DatabaseWhole => "DatabaseWhole",
            Self::TablesOwned => "TablesOwned",
            Self::SynapseAnswers => "SynapseAnswers",
        }
    }
}

/// The longest message that the API server takes.
const MAX_MESSAGE: usize = 32_768;

/// Changes a list of conditions, keeping `lastTransitionTime` where the *status* stays.
pub struct Conditions<'a> {
    list: &'a mut Vec<Condition>,
    generation: i64,
    now: Timestamp,
}

impl<'a> Conditions<'a> {
    pub fn new(list: &'a mut Vec<Condition>, generation: i64, now: Timestamp) -> Self {
        Self { list, generation, now }
    }

    /// Sets a condition.
    pub fn set(&mut self, type_: Type, status: bool, reason: &str, message: &str) -> &mut Self {
        self.put(type_, if status { "True" } else { "False" }, reason, message)
    }

    /// Sets a condition of which nobody knows whether it is true.
    pub fn set_unknown(&mut self, type_: Type, reason: &str, message: &str) -> &mut Self {
        self.put(type_, "Unknown", reason, message)
    }

    fn put(&mut self, type_: Type, status: &str, reason: &str, message: &str) -> &mut Self {
        let before = self.list.iter().position(|condition| condition.type_ == type_.as_str());
        let last_transition_time = before
            .map(|index| &self.list[index])
            .filter(|condition| condition.status == status)
            .map_or(Time(self.now), |condition| condition.last_transition_time.clone());
        let condition = Condition {
            type_: type_.as_str().to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: truncate(message, MAX_MESSAGE).to_owned(),
            observed_generation: Some(self.generation),
            last_transition_time,
        };
        match before {
            Some(index) => self.list[index] = condition,
            None => self.list.push(condition),
        }
        self
    }

    /// Takes a condition away. For those that are there only while they are true.
    pub fn clear(&mut self, type_: Type) -> &mut Self {
        self.list.retain(|condition| condition.type_ != type_.as_str());
        self
    }
}

/// The condition of a type, if it is there.
pub fn find(conditions: &[Condition], type_: Type) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == type_.as_str())
}

/// Whether a condition is there and true.
pub fn is_true(conditions: &[Condition], type_: Type) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// Whether a condition is there and false.
pub fn is_false(conditions: &[Condition], type_: Type) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "False")
}

/// The longest beginning of `text` that has at most `limit` bytes and ends at a character.
pub fn truncate(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let mut list = Vec::new();
        Conditions::new(&mut list, 1, at(10)).set(Type::Ready, false, "Waiting", "a");
        Conditions::new(&mut list, 2, at(20)).set(Type::Ready, false, "Running", "b");
        assert_eq!(list[0].last_transition_time, Time(at(10)));
        assert_eq!((list[0].reason.as_str(), list[0].observed_generation), ("Running", Some(2)));
        Conditions::new(&mut list, 2, at(30)).set(Type::Ready, true, "Succeeded", "c");
        assert_eq!(list[0].last_transition_time, Time(at(30)));
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn the_docs_have_every_type() {
        let docs = include_str!("../../docs/conditions.md");
        for type_ in Type::ALL {
            assert!(docs.contains(&format!("| `{}` |", type_.as_str())), "{type_:?} is not in docs/conditions.md");
        }
    }

    #[test]
    fn truncates_at_a_character() {
        assert_eq!(truncate("aé", 2), "a");
        assert_eq!(truncate("aé", 3), "aé");
    }
}
