//! The one binary: the operator, its tasks, and its CRDs.

use clap::{Parser, Subcommand};

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
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Cli::parse().command {
        Command::Crds => {
            for crd in synapse_keeper::api::crds::all() {
                print!("---\n{}", serde_yaml_ng::to_string(&crd)?);
            }
        }
    }
    Ok(())
}
