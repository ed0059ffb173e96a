//! Errors of a reconcile, and what kind of answer of the API server is what.

/// Why a reconcile did not come to its end. It is tried again, with backoff.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API server: {0}")]
    Kube(#[from] kube::Error),
    #[error("the API server did not answer in time")]
    TimedOut,
    #[error("the plan goes round in circles; this is a bug, please report it")]
    Circling,
}

impl Error {
    /// A word for a metric's label.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Kube(error) => match Refused::from(error) {
                Some(Refused::Conflict) => "conflict",
                Some(Refused::Forever(_)) => "refused",
                None => "transient",
            },
            Self::TimedOut => "timeout",
            Self::Circling => "bug",
        }
    }
}

/// An answer that is no accident of the network.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// The object changed meanwhile: read it again.
    Conflict,
    /// Forbidden (a right or a quota) or invalid (an admission rule): the same request gets the same answer.
    Forever(String),
}

impl Refused {
    /// `None`: another try may get another answer.
    pub fn from(error: &kube::Error) -> Option<Self> {
        match error {
            kube::Error::Api(status) if status.is_conflict() => Some(Self::Conflict),
            kube::Error::Api(status) if status.is_forbidden() || status.is_invalid() || status.code == 400 => {
                Some(Self::Forever(status.message.clone()))
            }
            _ => None,
        }
    }
}
