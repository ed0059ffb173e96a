//! What is measured, and on what.

use std::{env, path::PathBuf, time::Duration};

use crate::environment::{load, number};

/// From the environment; see `tests/bench/run`.
pub struct Settings {
    /// Everything is measured this often, each time on a new control plane.
    pub rounds: usize,
    /// Finished objects, and as many scheduled ones.
    pub objects: usize,
    /// Secrets and ConfigMaps that are not the operator's, together.
    pub foreign: usize,
    /// Operations, one after the other.
    pub operations: usize,
    /// How long the idle operator is watched.
    pub idle: Duration,
    /// How long a process is left alone before its memory is read.
    pub rest: Duration,
    pub operator: PathBuf,
    /// More of its environment, to try what another allocator or setting would do.
    pub environment: Vec<(String, String)>,
    /// k8up, and the folder with its CRDs.
    pub k8up: Option<(PathBuf, PathBuf)>,
}

impl Settings {
    pub fn from_environment() -> Self {
        let path = |name: &str| env::var_os(name).map(PathBuf::from);
        Self {
            rounds: number("ROUNDS", 3),
            objects: number("OBJECTS", 1000),
            foreign: number("FOREIGN", 10_000),
            operations: number("OPERATIONS", 5),
            idle: Duration::from_secs(number("IDLE_SECONDS", 180) as u64),
            rest: Duration::from_secs(number("REST_SECONDS", 20) as u64),
            operator: path("SYNAPSE_KEEPER").expect("SYNAPSE_KEEPER names the binary: use tests/bench/run"),
            environment: env::var("OPERATOR_ENV").unwrap_or_default().split_whitespace().map(pair).collect(),
            k8up: path("K8UP").zip(path("K8UP_CRDS")),
        }
    }
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or_else(|| panic!("OPERATOR_ENV: {text} is not NAME=value"));
    (name.to_owned(), value.to_owned())
}

/// What was measured, and how busy the machine was: to be taken at the end.
pub fn said(settings: &Settings) -> String {
    let Settings { rounds, objects, foreign, operations, idle, rest, .. } = settings;
    format!(
        "- load average at the end: {}\n\
         - {rounds} rounds, each on a new control plane, of {operations} operations, {objects} finished and {objects} \
         scheduled objects, {foreign} foreign ones; memory is read after {rest:?} of rest, idleness is watched for {idle:?}\n",
        load()
    )
}
