//! The tier between unit tests and a cluster: the operator against a real kube-apiserver, etcd and controller-manager,
//! with a kubelet that the tests play. See `stage/` for what they stand on.
//!
//! `cargo test --test apiserver -- [FILTER]`. It needs the programs of `tests/cluster/bin-dir`, or `KUBE_BIN_DIR`; and Go.

mod api;
mod engine;
mod gitops;
mod stage;

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use libtest_mimic::Arguments;
use tracing_subscriber::EnvFilter;

use self::stage::{Stage, trial};

/// Tests wait for Pods most of the time.
const AT_ONCE: usize = 12;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("off")))
        .with_writer(std::io::stderr)
        .init();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_ONCE);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");

    let stage = Arc::new(OnceLock::new());
    let tests = [api::tests(), engine::tests(), gitops::tests()].concat();
    let trials = tests.into_iter().map(|test| trial(test, &stage, runtime.handle())).collect();
    if !arguments.list {
        // On this thread, which lives as long as the process: the kernel ends the control plane with it.
        let _ = stage.set(Arc::new(runtime.block_on(Stage::set("shared"))));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(runtime);
    drop(stage);
    conclusion.exit_code()
}
