//! A backup's time and bytes, and a restore's time, beside `pg_dump -Fc` and `pg_restore`, which Synapse's manual tells people to
//! run. `tests/bench/run` runs it.
//!
//! The program is the release binary, as in a Job; PostgreSQL is the private one of the tests, with a real Synapse's schema
//! and rows. Each round begins with a new copy of the database and a new repository; what is compared runs one after the
//! other in the same round.

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

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use environment::number;
use manual::{pg_dump, pg_restore};
use size::Size;
use support::{Database, Repository};
use table::Table;

const TIME: &str = "Backup";
const BYTES: &str = "Bytes in the repository";
const RESTORE: &str = "Restore";

fn main() {
    let (machine, rounds) = (environment::machine(), number("ROUNDS", 5));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let size = Size::from_environment();
    let original = size.database("bench");
    let bytes = size::of(&original);
    let mut table = Table::default();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let database = original.copy(&format!("bench_{round}"));
        database.sql("VACUUM ANALYZE");
        database.sql("CHECKPOINT");
        runtime.block_on(play(&database, &mut table));
        original.sql(&format!("DROP DATABASE {} WITH (FORCE)", database.name));
    }
    let load = environment::load();
    let what = format!("- {size}, a database of {bytes}; {rounds} rounds");
    let text = format!("{machine}- load average at the end: {load}\n{what}\n\n{table}");
    println!("\n{text}");
    fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench/backup.md"), text).expect("target/bench/backup.md");
}

async fn play(database: &Database, table: &mut Table) {
    let folder = tempfile::tempdir().expect("a directory");
    let dump = folder.path().join("peer.dump");
    let watch = Watch::start(database);
    pg_dump(database, &dump);
    let peer = watch.stop();
    let peer_bytes = fs::metadata(&dump).expect("the dump").len() as f64;
    table.note(TIME, "pg_dump -Fc", "s", peer.seconds);
    table.note(TIME, "pg_dump -Fc, of processors", "s", peer.of_processors);
    table.note(BYTES, "pg_dump -Fc", "MB", peer_bytes / 1e6);

    // With a key as everybody has it: its derivation is a part of what a backup costs.
    let repository = Repository::not_made();
    repository.restic(&["init"]);
    let (first, stored) = back_up(database, &repository).await;
    table.note(TIME, "synapse-keeper, first night", "s", first.seconds);
    table.note(TIME, "synapse-keeper, first night, of processors", "s", first.of_processors);
    table.add(TIME, "times as fast", "", "≥ 3", peer.seconds / first.seconds);
    table.note(BYTES, "synapse-keeper, first night", "MB", stored / 1e6);
    table.add(BYTES, "of pg_dump -Fc", "%", "≤ 100", 100.0 * stored / peer_bytes);

    restore(database, &repository, &dump, table).await;

    let (second, added) = back_up(database, &repository).await;
    table.note(TIME, "second night, nothing changed", "s", second.seconds);
    table.note(BYTES, "added where nothing changed, of the first", "%", 100.0 * added / stored);

    append(database);
    let (_, added) = back_up(database, &repository).await;
    table.add(BYTES, "added for 1 % of the rows appended, of the first", "%", "≤ 5", 100.0 * added / stored);

    scatter(database);
    let (_, added) = back_up(database, &repository).await;
    table.note(BYTES, "added for 1 % of the rows updated all over, of the first", "%", 100.0 * added / stored);
}

/// What it took, and bytes that came new into the repository.
async fn back_up(database: &Database, repository: &Repository) -> (Took, f64) {
    let watch = Watch::start(database);
    let finished = database.task("backup").repository(repository).run().await;
    (watch.stop(), finished.backup().added as f64)
}

/// Seconds of the clock, and of all processors together: those of programs that have ended and of PostgreSQL's sessions.
struct Took {
    seconds: f64,
    of_processors: f64,
}

struct Watch {
    began: Instant,
    server: i32,
    before: f64,
}

impl Watch {
    fn start(database: &Database) -> Self {
        let server = database.server.pid();
        Self { began: Instant::now(), server, before: Self::of_processors(server) }
    }

    fn stop(&self) -> Took {
        let seconds = self.began.elapsed().as_secs_f64();
        // The last session of a program that has ended is ending.
        std::thread::sleep(Duration::from_millis(200));
        Took { seconds, of_processors: Self::of_processors(self.server) - self.before }
    }

    /// `cutime` and `cstime` of `proc_pid_stat(5)`, in hundredths of a second on Linux: of children that have ended.
    fn of_processors(server: i32) -> f64 {
        let of_children = |process: &str| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
            let fields = stat.rsplit_once(')').expect("its name").1.split_whitespace().skip(13).take(2);
            fields.map(|field| field.parse::<f64>().expect("a number") / 100.0).sum::<f64>()
        };
        of_children("self") + of_children(&server.to_string())
    }
}

/// Into a new database each. Both end with ANALYZE: without it the first requests take minutes. Ours has counted every row by
/// then.
async fn restore(database: &Database, repository: &Repository, dump: &Path, table: &mut Table) {
    let watch = Watch::start(database);
    let peer = Database::empty(&format!("{}_peer", database.name));
    pg_restore(&peer, dump);
    peer.sql("ANALYZE");
    let peer_took = watch.stop();
    table.note(RESTORE, "pg_restore -j2, ANALYZE", "s", peer_took.seconds);
    table.note(RESTORE, "pg_restore -j2, ANALYZE, of processors", "s", peer_took.of_processors);
    database.server.psql("postgres", &format!("DROP DATABASE {}", peer.name));

    let uid = format!("bench-{}", database.name);
    let task = |task: &str| {
        let task = database.task(task).administrator("databases");
        task.with(&["--operation", &uid, "--existing", "rename"])
    };
    let watch = Watch::start(database);
    task("restore-database").of_server(repository).with(&["--free-space", "1Ti"]).run().await.result();
    let took = watch.stop();
    table.note(RESTORE, "synapse-keeper, with every row counted", "s", took.seconds);
    table.note(RESTORE, "synapse-keeper, of processors", "s", took.of_processors);
    table.add(RESTORE, "of pg_restore's time", "%", "≤ 70", 100.0 * took.seconds / peer_took.seconds);

    let began = Instant::now();
    let swapped = task("swap-database").run().await;
    table.note(RESTORE, "the swap, for which users wait", "s", began.elapsed().as_secs_f64());
    let kept = swapped.result().restored.clone().expect("a swap").kept.expect("an old database");
    // What follows is about the rows as they were.
    database.server.psql("postgres", &format!("DROP DATABASE {}", database.name));
    database.server.psql("postgres", &format!("ALTER DATABASE {kept} RENAME TO {}", database.name));
}

/// A day's new messages: copies of one row in a hundred under new ids, in the tables that hold most. Before them come ten
/// thousand transactions of the homeserver's that write elsewhere: here a day is three statements.
fn append(database: &Database) {
    database.sql("DO $$ BEGIN FOR i IN 1..10000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$");
    database.sql(
        "INSERT INTO event_json SELECT '~' || event_id, room_id, internal_metadata, json, format_version FROM event_json \
             WHERE abs(hashtext(event_id)) % 100 = 0; \
         INSERT INTO state_groups_state SELECT state_group + 1000000000, room_id, type, state_key, event_id \
             FROM state_groups_state WHERE abs(hashtext(event_id || state_key)) % 100 = 0; \
         INSERT INTO event_to_state_groups SELECT '~' || event_id, state_group FROM event_to_state_groups \
             WHERE abs(hashtext(event_id)) % 100 = 0",
    );
}

/// One row in a hundred, evenly, in the same tables.
fn scatter(database: &Database) {
    database.sql(
        "UPDATE event_json SET internal_metadata = internal_metadata || ' ' WHERE abs(hashtext(event_id)) % 100 = 1; \
         UPDATE state_groups_state SET event_id = '~' || event_id WHERE abs(hashtext(event_id || state_key)) % 100 = 1; \
         UPDATE event_to_state_groups SET state_group = state_group + 1 WHERE abs(hashtext(event_id)) % 100 = 1",
    );
}
