//! What is measured, and on what.

use std::{env, fmt::Write, fs, path::PathBuf, time::Duration};

use jiff::Timestamp;

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
            k8up: path("K8UP").zip(path("K8UP_CRDS")),
        }
    }
}

fn number(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Date, machine, and how busy it was: to be taken before the first round.
pub fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map(|(_, name)| name)
        .collect();
    let commit = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let mut text = String::new();
    let _ = writeln!(text, "- {}, commit {commit}", Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"));
    let _ = writeln!(text, "- {} × {}", models.len(), models.first().unwrap_or(&"a CPU without a name"));
    let _ = writeln!(text, "- load average at the start: {}", load());
    text
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

fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
