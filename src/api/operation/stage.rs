//! When a step runs, and what it means that it fails or is interrupted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a step runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StageFlags", into = "StageFlags")]
pub enum Stage {
    /// While the homeserver serves.
    #[default]
    Online,
    /// In the downtime.
    Offline(Interrupted),
    /// When the run has released the homeserver's Lease: the step does not touch the homeserver, and may take days.
    Afterwards(Weight),
}

/// What an offline step leaves in the database when it is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// A database with which Synapse may start.
    Whole,
    /// Maybe the database of Synapse from one moment, and that of its Matrix Authentication Service from another. Synapse must not
    /// start while the outcome is unknown.
    OutOfStep,
    /// Half a database, where there was nothing to serve before. Synapse must not start while the outcome is unknown. The step takes
    /// the time that it needs, and is not rolled back once the database is whole.
    Unfinished,
}

/// What the failure of a step means that runs afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The run has failed without it.
    Decides,
    /// The run has succeeded by then: the failure is reported, and changes nothing else. Such a step comes last.
    Optional,
}

impl Stage {
    /// The homeserver is down meanwhile.
    pub fn is_offline(self) -> bool {
        matches!(self, Self::Offline(_))
    }

    /// It runs when the homeserver's Lease has been released.
    pub fn is_afterwards(self) -> bool {
        matches!(self, Self::Afterwards(_))
    }

    /// The run fails with it.
    pub fn decides(self) -> bool {
        self != Self::Afterwards(Weight::Optional)
    }

    /// Synapse must not start while its outcome is unknown.
    pub fn keeps_down_in_doubt(self) -> bool {
        matches!(self, Self::Offline(Interrupted::OutOfStep | Interrupted::Unfinished))
    }

    /// It fills the homeserver's own database, in which there was nothing to serve.
    pub fn fills(self) -> bool {
        self == Self::Offline(Interrupted::Unfinished)
    }

    /// It must end within the budget of the downtime.
    pub fn has_budget(self) -> bool {
        self.is_offline() && !self.fills()
    }
}

/// A [`Stage`] as it stands in a status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StageFlags {
    /// Whether the homeserver is down meanwhile.
    offline: bool,
    /// It runs when the homeserver's Lease has been released.
    afterwards: bool,
    /// The run has failed without it, although it runs afterwards. The failure of another one is reported, and changes nothing
    /// else.
    decides: bool,
    /// Synapse must not start while its outcome is unknown.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    holds: bool,
    /// Before it there was nothing that could be served.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    fills: bool,
}

impl From<Stage> for StageFlags {
    fn from(stage: Stage) -> Self {
        Self {
            offline: stage.is_offline(),
            afterwards: stage.is_afterwards(),
            decides: stage == Stage::Afterwards(Weight::Decides),
            holds: stage.keeps_down_in_doubt(),
            fills: stage.fills(),
        }
    }
}

impl From<StageFlags> for Stage {
    fn from(flags: StageFlags) -> Self {
        match flags {
            StageFlags { afterwards: true, decides: true, .. } => Self::Afterwards(Weight::Decides),
            StageFlags { afterwards: true, .. } => Self::Afterwards(Weight::Optional),
            StageFlags { offline: true, fills: true, .. } => Self::Offline(Interrupted::Unfinished),
            StageFlags { offline: true, holds: true, .. } => Self::Offline(Interrupted::OutOfStep),
            StageFlags { offline: true, .. } => Self::Offline(Interrupted::Whole),
            _ => Self::Online,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_is_read_as_it_was_written() {
        for (stage, written) in [
            (Stage::Online, r#"{"offline":false,"afterwards":false,"decides":false}"#),
            (Stage::Offline(Interrupted::Whole), r#"{"offline":true,"afterwards":false,"decides":false}"#),
            (
                Stage::Offline(Interrupted::OutOfStep),
                r#"{"offline":true,"afterwards":false,"decides":false,"holds":true}"#,
            ),
            (
                Stage::Offline(Interrupted::Unfinished),
                r#"{"offline":true,"afterwards":false,"decides":false,"holds":true,"fills":true}"#,
            ),
            (Stage::Afterwards(Weight::Decides), r#"{"offline":false,"afterwards":true,"decides":true}"#),
            (Stage::Afterwards(Weight::Optional), r#"{"offline":false,"afterwards":true,"decides":false}"#),
        ] {
            assert_eq!(serde_json::to_string(&stage).unwrap(), written);
            assert_eq!(serde_json::from_str::<Stage>(written).unwrap(), stage);
        }
        assert_eq!(serde_json::from_str::<Stage>("{}").unwrap(), Stage::Online, "what is not written is false");
    }
}
