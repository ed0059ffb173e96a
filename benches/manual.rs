//! What Synapse's manual tells people to run, over the connection that our tasks have: TCP with TLS, as in a cluster.

use std::{path::Path, process::Command};

use crate::support::{Database, PASSWORD};

pub fn pg_dump(database: &Database, path: &Path) {
    run(database, "pg_dump", |command| {
        command.args(["-Fc", "--exclude-table-data", "e2e_one_time_keys_json", "-f"]).arg(path)
    });
}

/// Into a database that is empty.
pub fn pg_restore(database: &Database, dump: &Path) {
    run(database, "pg_restore", |command| command.args(["-j2", "--no-owner"]).arg(dump));
}

fn run(database: &Database, program: &str, with: impl FnOnce(&mut Command) -> &mut Command) {
    let mut command = Command::new(database.server.program(program));
    command.args(["-U", "synapse", "-h", "127.0.0.1", "-p", &database.server.port.to_string(), "-d", &database.name]);
    let done = with(&mut command).env("PGPASSWORD", PASSWORD).status().expect(program);
    assert!(done.success(), "{program} failed");
}
