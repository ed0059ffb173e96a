//! The operator's footprint: memory, API requests, times, on a real API server. `tests/bench/run` runs it.
//!
//! The operator is the release binary in a process of its own, with the rights and the token of a ServiceAccount; the
//! control plane and the played kubelet are those of the API-server tier. Each round has a control plane of its own. What
//! the operator asked for is read from the API server's audit log, when something happened from watches of ours.

mod audit;
#[path = "../environment.rs"]
mod environment;
mod idle;
mod objects;
mod operation;
mod peer;
mod process;
mod round;
mod settings;
#[allow(dead_code, unused_imports, unused_macros, reason = "the tests' stage: it has more than is wanted here")]
#[path = "../../tests/apiserver/stage/mod.rs"]
mod stage;
#[path = "../table.rs"]
mod table;

use self::{settings::Settings, table::Table};

fn main() {
    // Whatever fails, fails it all: the kernel ends the control plane with us.
    let said = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        said(panic);
        std::process::exit(1);
    }));
    let settings = Settings::from_environment();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let machine = environment::machine();
    let mut table = Table::default();
    for round in 1..=settings.rounds {
        eprintln!("round {round} of {}", settings.rounds);
        // On this thread, which lives as long as the process: the kernel ends the control plane with it.
        runtime.block_on(round::play(&settings, round, &mut table));
    }
    let text = format!("{machine}{}\n{table}", settings::said(&settings));
    println!("\n{text}");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench/footprint.md");
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    eprintln!("also in {path}");
    // What the stage still has running would try for ever to reach its API server.
    runtime.shutdown_background();
}
