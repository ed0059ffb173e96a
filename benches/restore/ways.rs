//! Two ways to bring a backup back over a homeserver that serves.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::json;
use synapse_keeper::operation::job::synapse::TELL_SCHEMA;

use crate::{
    homeserver::Homeserver,
    manual::pg_restore,
    support::{Database, PASSWORD, Program, Repository, synapse_python},
};

/// From the order to the first answer on the restored database.
pub struct Course {
    pub ordered: Instant,
    /// When Synapse was told to end.
    pub told: Instant,
    /// When it had ended.
    pub stopped: Instant,
    /// When the new one had answered.
    pub answered: Instant,
    /// What was done one after the other, and how long it took.
    pub steps: Vec<(&'static str, Duration)>,
}

/// Ours: the steps that the Jobs of a SynapseRestore run, one after the other. The second value is the name that the old
/// database has now.
pub async fn synapse_keeper(homeserver: &mut Homeserver, repository: &Repository, uid: &str) -> (Course, String) {
    let ordered = Instant::now();
    let found = preflight(&homeserver.database, repository, uid).await;
    let looked = Instant::now();
    let found: Vec<&str> = found.iter().map(String::as_str).collect();
    let task = |task: &str| {
        let task = homeserver.database.task(task).administrator("databases");
        task.with(&["--operation", uid, "--existing", "rename"])
    };
    let beside = task("restore-database").of_server(repository).with(&["--restore", uid, "--free-space", "1Ti"]);
    beside.with(&found).run().await.result();
    let swap = task("swap-database");
    let told = Instant::now();
    homeserver.stop();
    let stopped = Instant::now();
    let swapped = swap.run().await;
    let renamed = Instant::now();
    let answered = homeserver.start().await;
    let steps = vec![
        ("preflight, Synapse's image asked", looked - ordered),
        ("the database beside the one that serves", told - looked),
        ("Synapse ends", stopped - told),
        ("the swap", renamed - stopped),
        ("Synapse starts, to its first answer", answered - renamed),
    ];
    let kept = swapped.result().restored.clone().and_then(|restored| restored.kept).expect("an old database");
    (Course { ordered, told, stopped, answered, steps }, kept)
}

/// What the Job of a preflight does; what it tells the step after it.
async fn preflight(database: &Database, repository: &Repository, uid: &str) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a directory");
    let schema = folder.path().join("schema.json");
    let asked = Command::new(synapse_python()).args(["-B", "-c", TELL_SCHEMA]).arg(&schema).status().expect("python3");
    assert!(asked.success(), "Synapse does not tell its schema");
    let program = Program::task("preflight").database("127.0.0.1", database.server.port, &database.name);
    let administrator = program.mounted("administrator", "databases", PASSWORD);
    let mut wanted = repository.destination();
    wanted.as_object_mut().expect("an object").extend(
        json!({
            "serverName": "example.org", "snapshot": "latest", "restore": uid, "existing": "Rename", "freeSpace": "1Ti",
            "adminCredentialsDir": administrator,
        })
        .as_object()
        .expect("an object")
        .clone(),
    );
    let step = format!("database={}", json!({"restore": wanted}));
    let told = format!("--synapse-schema-file={}", schema.display());
    let found = program.repository_programs(repository).with(&["--step", &step, &told]).run().await;
    found.preflight().arguments["database"].clone()
}

/// What an administrator does by hand, and at once: nobody has to read or to type anything. No ANALYZE, which
/// users would wait for: it is for the requests that come after the first.
pub async fn by_hand(homeserver: &mut Homeserver, dump: &Path) -> Course {
    let ordered = Instant::now();
    homeserver.stop();
    let stopped = Instant::now();
    let Database { name, server } = &homeserver.database;
    server.psql("postgres", &format!("DROP DATABASE {name}"));
    let new = Database::on(server, name);
    let made = Instant::now();
    pg_restore(&new, dump);
    let restored = Instant::now();
    let answered = homeserver.start().await;
    let steps = vec![
        ("Synapse ends", stopped - ordered),
        ("the old database dropped, a new one made", made - stopped),
        ("pg_restore -j2", restored - made),
        ("Synapse starts, to its first answer", answered - restored),
    ];
    Course { ordered, told: ordered, stopped, answered, steps }
}
