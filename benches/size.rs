//! Databases as large as one wants them: what a real Synapse made, and years of use.

use std::{fmt, process::Command};

use crate::{environment::number, support::Database};

/// What such a database holds.
pub struct Size {
    pub rooms: u32,
    pub events: u32,
}

impl Size {
    /// `ROOMS` and `EVENTS`.
    pub fn from_environment() -> Self {
        Self { rooms: number("ROOMS", 2000), events: number("EVENTS", 250_000) }
    }

    /// A new one on the server of the tests.
    pub fn database(&self, name: &str) -> Database {
        let database = Database::of_synapse(name);
        let (socket, port) = (database.server.socket(), database.server.port.to_string());
        let done = Command::new(database.server.program("psql"))
            .args(["-X", "-q", "-U", "postgres", "-h", &socket, "-p", &port, "-d", &database.name])
            .args(["-v", "force=1", "-v", &format!("rooms={}", self.rooms), "-v", &format!("events={}", self.events)])
            .args(["-f", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/homeserver/inflate.sql")])
            .status()
            .expect("psql");
        assert!(done.success(), "inflate.sql failed");
        database
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rooms, {} events", self.rooms, self.events)
    }
}

/// What a database takes of the disk, for people.
pub fn of(database: &Database) -> String {
    database.sql("SELECT pg_size_pretty(pg_database_size(current_database()))")
}
