//! What a bench is told, and where it runs.

use std::{env, fmt::Write, fs, process::Command, str::FromStr};

use jiff::Timestamp;

/// A setting; `tests/bench/run` says which there are.
pub fn number<T: FromStr>(name: &str, default: T) -> T {
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
    let commit = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let mut text = String::new();
    let _ = writeln!(text, "- {}, commit {commit}", Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"));
    let _ = writeln!(text, "- {} × {}", models.len(), models.first().unwrap_or(&"a CPU without a name"));
    let _ = writeln!(text, "- load average at the start: {}", load());
    text
}

/// Of the last minute, five and fifteen.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
