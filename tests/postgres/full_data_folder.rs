//! A disk that fills while a database comes back. It is that of the data folder itself, so a checkpoint that finds no room stops
//! PostgreSQL, and with it the homeserver that still serves.

use synapse_keeper::{bytes, contract::ErrorClass, postgres::disk};

use crate::{
    backup::back_up,
    dump::{self, Dumps},
    full_disk::Ballast,
    in_place,
    restore::{restore, swap},
    support::{Database, Finished, Repository, Server, eventually},
};

const MIB: i64 = 1 << 20;

/// A database that somebody uses, on a server whose data folder is on a small disk.
struct Serving {
    database: Database,
    rows: String,
}

impl Serving {
    fn new(name: &str, megabytes: u32) -> Self {
        let database = Database::on(Server::on_a_small_disk("data", megabytes, &[]), name);
        database.as_synapse_sql("CREATE TABLE old (id int); INSERT INTO old SELECT generate_series(1, 1000)");
        database.sql("CHECKPOINT");
        let rows = database.checksum("old");
        Self { database, rows }
    }

    /// It serves as before, nothing is left, and PostgreSQL can still do what it needs a disk for.
    fn goes_on(&self, free_before: i64, at: &str) {
        let Self { database, rows } = self;
        let left =
            database.server.psql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'synapse_keeper_%'");
        assert_eq!(left.trim(), "", "{at}");
        database.sql("CHECKPOINT");
        let lost = free_before - disk::free_bytes(&database.server.small_disk()).unwrap();
        assert!(lost < MIB, "{at}: {} stay on the disk", bytes::human(lost));
        assert_eq!(database.checksum("old"), *rows, "{at}");
        database.as_synapse_sql("INSERT INTO old VALUES (-1); DELETE FROM old WHERE id = -1");
    }
}

fn is_full(finished: &Finished, at: &str) {
    let error = finished.refused("DiskFull", &["he volume larger"]);
    assert_eq!(error.class, ErrorClass::Terminal, "{at}");
    assert!(!error.message.contains("was not dropped"), "{at}: {error}");
}

/// Nobody knew how much is free, or somebody took it meanwhile.
#[tokio::test]
async fn the_database_that_serves_outlives_a_restore_beside() {
    let (origin, repository) = (Database::of_synapse("full_beside_origin"), Repository::new());
    back_up(&origin, &repository).run().await.backup();
    let serving = Serving::new("full_beside", 256);
    let database = &serving.database;
    let disk = database.server.small_disk();
    let attempt = |number: usize| {
        let number = number.to_string();
        restore(database, &repository, "full-000001").with(&["--existing", "rename", "--attempt", &number])
    };
    // Not even an empty database fits; it fits and no table does; some rows do; more of them do.
    let rooms = [3 * MIB, 8 * MIB, 10 * MIB, 14 * MIB];
    for (number, room) in rooms.into_iter().enumerate() {
        let ballast = Ballast::leaving(room, &disk);
        let before = disk::free_bytes(&disk).unwrap();
        let at = format!("{} are free", bytes::human(room));
        let finished = attempt(number + 1).run().await;
        is_full(&finished, &at);
        serving.goes_on(before, &at);
        drop(ballast);
    }
    attempt(rooms.len() + 1).run().await.result();
    swap(database, "full-000001").with(&["--existing", "rename"]).run().await.result();
    assert_eq!(database.sql("SELECT count(*) FROM users"), origin.sql("SELECT count(*) FROM users"));
}

#[tokio::test]
async fn the_database_that_serves_outlives_a_restore_from_a_dump() {
    let dumps = Dumps::new();
    let dump = dumps.dump(&Database::of_synapse("full_dump_origin"), "synapse.dump", &["--format=custom"]);
    let serving = Serving::new("full_dump", 256);
    let disk = serving.database.server.small_disk();
    for room in [8 * MIB, 14 * MIB] {
        let ballast = Ballast::leaving(room, &disk);
        let before = disk::free_bytes(&disk).unwrap();
        let at = format!("{} are free", bytes::human(room));
        is_full(&dump::restore(&serving.database, &dump, "full-dump-1").run().await, &at);
        serving.goes_on(before, &at);
        drop(ballast);
    }
}

#[tokio::test]
async fn the_databases_that_serve_outlive_a_restore_in_place() {
    let (origin, repository) = (Database::of_synapse("full_in_place_origin"), Repository::new());
    back_up(&origin, &repository).run().await.backup();
    let serving = Serving::new("full_in_place_other", 256);
    let database = Database::on(serving.database.server, "full_in_place");
    database.sql("COMMENT ON DATABASE full_in_place IS 'of Synapse'");
    database.sql("CHECKPOINT");
    let disk = database.server.small_disk();
    for room in [3 * MIB, 6 * MIB, 9 * MIB, 11 * MIB] {
        let ballast = Ballast::leaving(room, &disk);
        let before = disk::free_bytes(&disk).unwrap();
        let at = format!("{} are free", bytes::human(room));
        let finished = in_place::restore(&database, &repository, "full-place-1").run().await;
        is_full(&finished, &at);
        assert_eq!(in_place::comment(&database), "of Synapse", "{at}: {finished:?}");
        assert_eq!(database.sql("SELECT count(*) FROM pg_class WHERE relkind = 'r' AND oid >= 16384"), "0", "{at}");
        // The catalogs of the database that was filled have grown.
        serving.goes_on(before - 4 * MIB, &at);
        drop(ballast);
    }
    in_place::restore(&database, &repository, "full-place-2").run().await.result();
    assert_eq!(database.sql("SELECT count(*) FROM users"), origin.sql("SELECT count(*) FROM users"));
}

/// Somebody else fills the disk. Where the volume can be seen, nobody waits for PostgreSQL to run into it.
#[tokio::test]
async fn a_restore_stops_while_there_is_room_for_postgresql() {
    let (origin, repository) = (Database::of_synapse("full_seen_origin"), Repository::new());
    // Its index takes a minute.
    origin.add_slow("slow", 60);
    back_up(&origin, &repository).run().await.backup();
    let serving = Serving::new("full_seen", 256);
    let disk = serving.database.server.small_disk();
    let before = disk::free_bytes(&disk).unwrap();
    let volume = ["--existing", "rename", "--data-volume", disk.to_str().unwrap()];
    let task = restore(&serving.database, &repository, "seen-000001").with(&volume).start();
    let indexes =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%' AND datname LIKE 'synapse_keeper_%'";
    let at_work = async || serving.database.server.psql("postgres", indexes).trim() != "0";
    eventually("it makes indexes", at_work).await;
    let kept = disk::kept_free(&disk).unwrap();
    let ballast = Ballast::leaving(kept - MIB, &disk);
    let finished = task.finish().await;
    is_full(&finished, "it was seen");
    let needs = format!("PostgreSQL needs {} for its WAL and its checkpoints", bytes::human(kept));
    finished.refused("DiskFull", &["postgres.dataVolume is nearly full", &needs, "the restore stopped"]);
    drop(ballast);
    serving.goes_on(before, "it was seen");
    // What stays free counts before it begins.
    let _ballast = Ballast::leaving(40 * MIB, &disk);
    let error = restore(&serving.database, &repository, "seen-000002").with(&volume).run().await;
    error.refused("DiskTooSmall", &["40.0 MiB is free on the volume of postgres.dataVolume"]);
}
