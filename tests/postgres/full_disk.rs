//! A disk that is really full: what PostgreSQL says, what is left, and that preflight sees it coming.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};
use synapse_keeper::{bytes, contract::ErrorClass, postgres::disk};

use crate::support::{Database, Server, execute};

const MIB: i64 = 1 << 20;
/// Somebody is wrong about the disk.
const BELIEVED: [&str; 6] = ["--mode", "Full", "--minimum-gain", "1Mi", "--free-space", "100Gi"];
const STEP: &str = r#"vacuum-1={"vacuum":{"mode":"Full","minimumGain":"1Mi","freeSpace":"100Gi"}}"#;

/// Other files on a disk, up to where so much is free.
pub struct Ballast(PathBuf);

impl Ballast {
    pub fn leaving(free: i64, disk: &Path) -> Self {
        let file = disk.join("ballast");
        let length = disk::free_bytes(disk).unwrap() - free;
        fs::write(&file, vec![0; length.try_into().expect("a disk with room")]).unwrap();
        Self(file)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // A server that has stopped took its disk with it.
        let _ = fs::remove_file(&self.0);
    }
}

/// A database of which everything but the WAL is on a disk of its own.
fn on_a_small_disk(name: &str) -> (Database, PathBuf) {
    let server = Server::on_a_small_disk("small", 96, &[]);
    let database = Database::on(server, name);
    server.psql("postgres", &format!("CREATE TABLESPACE small LOCATION '{}/small'", server.socket()));
    server.psql("postgres", &format!("ALTER DATABASE {name} SET TABLESPACE small"));
    database.add_bloated("bloated", 60_000);
    database.sql("CHECKPOINT");
    (database, server.small_disk())
}

#[tokio::test]
async fn a_full_disk_undoes_the_statement_and_leaves_nothing_behind() {
    let (database, disk) = on_a_small_disk("filled");
    let (files, rows) = (database.files(), database.checksum("bloated"));
    let task = || database.task("vacuum").with(&BELIEVED);
    // Of a copy of 6.5 MiB: next to nothing fits, half of it, the table but not its index.
    for room in [MIB / 4, 3 * MIB, 25 * MIB / 4] {
        let ballast = Ballast::leaving(room, &disk);
        let before = disk::free_bytes(&disk).unwrap();
        let finished = task().run().await;
        let words = [
            "VACUUM (FULL) public.bloated",
            "No space left on device",
            "[53100]",
            "undid the statement",
            "Make the volume larger",
        ];
        assert_eq!(finished.refused("DiskFull", &words).class, ErrorClass::Terminal);
        assert_eq!(finished.report().result.as_ref().map(|result| result.tables.len()), Some(0));
        assert_eq!((database.files(), database.checksum("bloated")), (files.clone(), rows.clone()));
        let lost = before - disk::free_bytes(&disk).unwrap();
        assert!(lost < MIB / 4, "{} stay on the disk", bytes::human(lost));
        drop(ballast);
    }
    database.as_synapse_sql("UPDATE bloated SET body = body WHERE id = 4; INSERT INTO bloated VALUES (-1, 'new')");
    assert_eq!(task().run().await.result().tables.len(), 1);
}

#[tokio::test]
async fn a_disk_that_can_be_seen_is_refused_before_the_downtime() {
    let (database, disk) = on_a_small_disk("seen");
    let _ballast = Ballast::leaving(4 * MIB, &disk);
    let files = database.files();
    let free =
        format!("{} is free on the volume of postgres.dataVolume", bytes::human(disk::free_bytes(&disk).unwrap()));
    let volume = ["--data-volume", disk.to_str().unwrap()];
    let words = ["VACUUM FULL needs about ", "for the new copy of bloated", free.as_str(), "Make the volume larger"];
    let preflight = || database.task("preflight").with(&["--step", STEP]).with(&volume);
    let finished = preflight().run().await;
    finished.refused("DiskTooSmall", &words);
    let dry = preflight().with(&["--dry-run"]).run().await;
    assert!(dry.preflight().warnings[0].contains(&free), "{dry:?}");
    let plan = &dry.preflight().plan[0];
    assert!(plan.free_bytes.is_some_and(|free| free < 5 * MIB) && plan.needed_bytes > plan.free_bytes, "{plan:?}");
    database.task("vacuum").with(&BELIEVED).with(&volume).run().await.refused("DiskTooSmall", &words);
    assert_eq!(database.files(), files);
}

#[tokio::test]
async fn a_full_disk_under_the_wal_stops_postgresql() {
    let server = Server::on_a_small_disk("data/pg_wal", 128, &["wal_recycle=off"]);
    let database = Database::on(server, "full_wal");
    database.add_bloated("bloated", 60_000);
    database.sql("GRANT SELECT ON bloated TO stranger");
    database.sql("CHECKPOINT");
    let rows = database.checksum("bloated");
    let ballast = Ballast::leaving(2 * MIB, &server.small_disk());
    let mut reader = database.session("stranger", "a report").await;
    execute(&mut reader, "BEGIN; LOCK bloated IN ACCESS SHARE MODE").await;
    let task = database.task("vacuum").with(&BELIEVED).start().at_work(&database).await;
    // Asleep, so that it cannot try to recover before there is room: it would give up.
    let postgres = Pid::from_raw(server.pid()).unwrap();
    kill_process(postgres, Signal::STOP).unwrap();
    execute(&mut reader, "COMMIT").await;
    let finished = task.finish().await;
    let words = ["No space left on device [53100]", "WAL is full, and PostgreSQL stopped", "make the volume larger"];
    assert_eq!(finished.refused("DiskFull", &words).class, ErrorClass::Terminal);

    drop(ballast);
    kill_process(postgres, Signal::CONT).unwrap();
    server.wait();
    assert_eq!(database.checksum("bloated"), rows);
    assert_eq!(database.task("vacuum").with(&BELIEVED).run().await.result().tables.len(), 1);
}
