//! How long users wait for a restore: a real Synapse serves, a client asks it all the time, and a backup comes back over it.
//! Beside it, in the same round, what an administrator does by hand with `pg_restore`. `tests/bench/run restore` runs it.
//!
//! The program is the release binary, run as the Jobs of a SynapseRestore run it. PostgreSQL is the private one of the tests; it
//! does not wait for its disk, which spares most who restores while users wait. What a cluster adds is not in here: Pods
//! that are made, images that are pulled. It is done for databases of several sizes: users are to wait as long for a large one
//! as for a small one.

#[path = "../environment.rs"]
mod environment;
#[path = "../manual.rs"]
mod manual;
#[path = "../size.rs"]
mod size;
#[path = "../../tests/postgres/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the tests' support: it has more than is wanted here")]
mod support;
#[path = "../table.rs"]
mod table;

mod client;
mod homeserver;
mod ways;

use std::{env, fs, time::Duration};

use environment::number;
use homeserver::Homeserver;
use size::Size;
use support::{Database, Repository};
use table::Table;
use tempfile::TempDir;
use ways::{Course, by_hand, synapse_keeper};

const DOWNTIME: &str = "Downtime: the last answer to the first";
const TOTAL: &str = "From the order to the first answer";
const SYNC: &str = "The first /sync of everything, after that";
const OURS: &str = "synapse-keeper, step by step";
const PEER: &str = "By hand, step by step";

/// What a Synapse that has just started does by itself is over, and its client is used to it.
const SERVES_FOR: Duration = Duration::from_secs(5);

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (machine, full, rounds) = (environment::machine(), Size::from_environment(), number("ROUNDS", 3));
    let sizes = env::var("SIZES").unwrap_or_else(|_| "10 100".to_owned());
    let sizes = sizes.split_whitespace().map(|percent| {
        let percent: u32 = percent.parse().unwrap_or_else(|_| panic!("SIZES: {percent} is no percentage"));
        let size = Size { rooms: full.rooms * percent / 100, events: full.events * percent / 100 };
        runtime.block_on(Saved::new(&size, &format!("bench_{percent}")))
    });
    let sizes: Vec<Saved> = sizes.collect();
    let mut table = Table::default();
    for round in 1..=rounds {
        for saved in &sizes {
            eprintln!("round {round} of {rounds}: {}", saved.bytes);
            runtime.block_on(saved.play(round, &mut table));
        }
    }
    let what: Vec<String> = sizes.iter().map(|saved| format!("- {} has {}\n", saved.bytes, saved.holds)).collect();
    let load = environment::load();
    let text = format!("{machine}- load average at the end: {load}\n{}- {rounds} rounds\n\n{table}", what.concat());
    println!("\n{text}");
    fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench/restore.md"), text).expect("target/bench/restore.md");
}

/// A homeserver's database, and what either way has saved of it.
struct Saved {
    original: Database,
    bytes: String,
    holds: String,
    repository: Repository,
    folder: TempDir,
}

impl Saved {
    async fn new(size: &Size, name: &str) -> Self {
        let original = size.database(name);
        let (repository, folder) = (Repository::not_made(), tempfile::tempdir().expect("a directory"));
        repository.restic(&["init"]);
        original.task("backup").repository(&repository).run().await.backup();
        manual::pg_dump(&original, &folder.path().join("dump"));
        let bytes = size::of(&original);
        Self { original, bytes, holds: size.to_string(), repository, folder }
    }

    /// Both ways, each over a new copy; who was first is second in the next round.
    async fn play(&self, round: u32, table: &mut Table) {
        let (ours, waited, peer);
        if round % 2 == 1 {
            (ours, waited) = self.ours(round).await;
            peer = self.peer().await;
        } else {
            peer = self.peer().await;
            (ours, waited) = self.ours(round).await;
        }
        let bytes = &self.bytes;
        table.note(DOWNTIME, format!("{bytes}: by hand"), "s", peer.downtime);
        table.add(DOWNTIME, format!("{bytes}: synapse-keeper"), "s", "≤ 20", ours.downtime);
        table.note(DOWNTIME, format!("{bytes}: times as short"), "", peer.downtime / ours.downtime);
        table.note(DOWNTIME, format!("{bytes}: longest wait for an answer before it, of ours"), "s", waited);
        table.note(TOTAL, format!("{bytes}: by hand"), "s", peer.total);
        table.note(TOTAL, format!("{bytes}: synapse-keeper"), "s", ours.total);
        table.note(TOTAL, format!("{bytes}: of the time by hand"), "%", 100.0 * ours.total / peer.total);
        table.note(SYNC, format!("{bytes}: by hand"), "s", peer.everything);
        table.note(SYNC, format!("{bytes}: synapse-keeper"), "s", ours.everything);
        for (part, way) in [(OURS, ours), (PEER, peer)] {
            for (step, took) in way.steps {
                table.note(part, format!("{bytes}: {step}"), "s", took.as_secs_f64());
            }
        }
    }

    /// The second value is the longest that the client waited for an answer while the homeserver served, in seconds.
    async fn ours(&self, round: u32) -> (Seen, f64) {
        let mut homeserver = self.serve().await;
        let uid = format!("bench-{}-{round}", self.original.name);
        let (course, kept) = synapse_keeper(&mut homeserver, &self.repository, &uid).await;
        let waited = homeserver.client.longest_wait(course.ordered, course.told);
        let seen = self.look(homeserver, course);
        self.original.server.psql("postgres", &format!("DROP DATABASE {kept}"));
        (seen, waited.as_secs_f64())
    }

    async fn peer(&self) -> Seen {
        let mut homeserver = self.serve().await;
        let course = by_hand(&mut homeserver, &self.folder.path().join("dump")).await;
        self.look(homeserver, course)
    }

    async fn serve(&self) -> Homeserver {
        let database = self.original.copy("bench_live");
        database.sql("CHECKPOINT");
        let mut homeserver = Homeserver::new(database);
        homeserver.start().await;
        tokio::time::sleep(SERVES_FOR).await;
        homeserver
    }

    /// What came of it; the database that serves is what was saved.
    fn look(&self, mut homeserver: Homeserver, course: Course) -> Seen {
        let downtime = homeserver.client.outage_at(course.stopped);
        let everything = homeserver.client.takes_everything();
        homeserver.stop();
        let live = &homeserver.database;
        for table in ["events", "state_groups_state", "users"] {
            let rows = format!("SELECT count(*) FROM {table}");
            assert_eq!(live.sql(&rows), self.original.sql(&rows), "rows of {table}");
        }
        live.server.psql("postgres", &format!("DROP DATABASE {}", live.name));
        Seen {
            downtime: downtime.as_secs_f64(),
            total: (course.answered - course.ordered).as_secs_f64(),
            everything: everything.as_secs_f64(),
            steps: course.steps,
        }
    }
}

/// Times are in seconds.
struct Seen {
    downtime: f64,
    total: f64,
    everything: f64,
    steps: Vec<(&'static str, Duration)>,
}
