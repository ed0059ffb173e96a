//! The one binary: the operator, its tasks, and its CRDs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use synapse_keeper::{api, task};

#[derive(Parser)]
#[command(name = "synapse-keeper", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the CustomResourceDefinitions as YAML.
    Crds,
    /// Do one task and report: what the operator's Jobs run. Works by hand as well.
    Task(Box<task::Task>),
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    // Whoever speaks TLS in this process takes this one; a second call only says that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match Cli::parse().command {
        Command::Crds => {
            for crd in api::crds::all() {
                print!("---\n{}", serde_yaml_ng::to_string(&crd)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Task(task) => Ok(task::main(*task)?),
    }
}
