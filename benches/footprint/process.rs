//! A program under measurement: a process of its own, what memory it has, what CPU time it took.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Stops with the value.
pub struct Process {
    child: Child,
}

/// In megabytes of 10⁶ bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// What is in memory now, the program's own text included.
    pub resident: f64,
    /// The most that ever was.
    pub peak: f64,
    /// Heap and stacks.
    pub anonymous: f64,
}

impl Process {
    /// Starts a program with nothing in its environment but this. Must be called on a thread that outlives it.
    pub fn start(program: &Path, arguments: &[&str], environment: &[(&str, &str)], log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).expect("a log file");
        let child = Command::new("/usr/bin/setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .env_clear()
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {}: {error}", program.display()));
        Self { child }
    }

    pub fn memory(&self) -> Memory {
        let status = self.read("status");
        let megabytes = |field: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
            let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
            kilobytes.unwrap_or_else(|| panic!("the process ended, or has no {field}")) * 1024.0 / 1e6
        };
        Memory { resident: megabytes("VmRSS"), peak: megabytes("VmHWM"), anonymous: megabytes("RssAnon") }
    }

    /// CPU time until now.
    pub fn cpu(&self) -> Duration {
        let stat = self.read("stat");
        // The name, which may hold anything, is in parentheses; after it, user and system time are the 12th and 13th.
        let fields =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>()).unwrap_or_default();
        let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        // A tick is a hundredth of a second on every Linux, whatever the kernel counts with inside.
        Duration::from_millis(ticks * 10)
    }

    /// SIGTERM, and how long it took to end.
    pub async fn stop(mut self) -> Duration {
        let began = Instant::now();
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("it runs");
        while self.child.try_wait().expect("it is our child").is_none() {
            assert!(began.elapsed() < Duration::from_secs(60), "it does not end on SIGTERM");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        began.elapsed()
    }

    fn read(&self, file: &str) -> String {
        let path = format!("/proc/{}/{file}", self.child.id());
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it listens").port()
}
