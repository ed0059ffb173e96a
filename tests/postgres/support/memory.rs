//! As much memory as a container has.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Where control groups are, of the first kind and of the second.
const FIRST: &str = "/sys/fs/cgroup/memory";
const SECOND: &str = "/sys/fs/cgroup";

/// A control group. The kernel ends a process in it that wants more than the limit, as in a Pod. What the page cache holds counts,
/// and goes first. Dropped: gone.
pub struct Memory {
    group: PathBuf,
    is_first: bool,
}

impl Memory {
    /// With a limit as Kubernetes has it, such as `1Gi`.
    ///
    /// # Panics
    /// If there are no control groups for memory, or none can be made.
    pub fn of(limit: &str) -> Self {
        let (number, unit) = limit.split_at(limit.find(|c: char| !c.is_ascii_digit()).expect("a unit"));
        let unit: u64 = match unit {
            "Mi" => 1 << 20,
            "Gi" => 1 << 30,
            other => panic!("the unit {other}"),
        };
        let bytes = number.parse::<u64>().expect("a number") * unit;
        let is_first = Path::new(FIRST).join("memory.limit_in_bytes").exists();
        let name = tempfile::Builder::new().prefix("synapse-keeper-").tempdir().expect("a name");
        let name = name.path().file_name().expect("a name").to_owned();
        let group = Path::new(if is_first { FIRST } else { SECOND }).join(name);
        if !is_first {
            // It may be so already.
            let _ = fs::write(Path::new(SECOND).join("cgroup.subtree_control"), "+memory");
        }
        fs::create_dir(&group).expect("a control group: these tests run as root");
        let memory = Self { group, is_first };
        let file = if is_first { "memory.limit_in_bytes" } else { "memory.max" };
        fs::write(memory.group.join(file), bytes.to_string()).expect("control groups for memory");
        if !is_first {
            fs::write(memory.group.join("memory.swap.max"), "0").ok();
        }
        memory
    }

    /// The file that takes process ids.
    pub fn processes(&self) -> PathBuf {
        self.group.join("cgroup.procs")
    }

    /// Takes a process in, and those that it has started.
    pub fn take(&self, process: i32) {
        fs::write(self.processes(), process.to_string()).expect("a process");
        let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).expect("a process");
        for child in children.split_whitespace() {
            // It may have ended since.
            let _ = fs::write(self.processes(), child);
        }
    }

    /// How many processes the kernel has ended for want of memory.
    pub fn ended(&self) -> u64 {
        let file = if self.is_first { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.group.join(file)).expect("a count");
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).expect("a count")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The last process may be just ending; what goes on is moved out.
        let parent = self.group.parent().expect("a group").join("cgroup.procs");
        for process in fs::read_to_string(self.processes()).unwrap_or_default().lines() {
            let _ = fs::write(&parent, process);
        }
        let began = Instant::now();
        while fs::remove_dir(&self.group).is_err() && began.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(50));
        }
    }
}
