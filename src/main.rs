//! The one binary: the operator, its tasks, its CRDs, and the chart's pre-delete hook.

use std::{io::IsTerminal, process::ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use synapse_keeper::{api, controller, task};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(name = "synapse-keeper", version, about)]
struct Cli {
    /// How the log looks.
    #[arg(long, env, default_value = "text", global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator.
    Controller(controller::Options),
    /// Print the CustomResourceDefinitions as YAML.
    Crds,
    /// Wait until every homeserver has its replicas back (the chart's pre-delete hook).
    Release(controller::release::Options),
    /// Do one task and report: what the operator's Jobs run. Works by hand as well.
    Task(Box<task::Task>),
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<ExitCode> {
    // Whoever speaks TLS in this process takes this one; a second call only says that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    match cli.command {
        Command::Crds => print_crds()?,
        Command::Controller(options) => {
            log(cli.log_format);
            run(async {
                let shutdown = shutdown_on_signal()?;
                controller::run(controller::client().await?, options, shutdown).await
            })?;
        }
        Command::Release(options) => {
            log(cli.log_format);
            run(async { controller::release::run(controller::client().await?, options).await })?;
        }
        Command::Task(task) => return Ok(task::main(*task)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_crds() -> Result<()> {
    for crd in api::crds::all() {
        print!("---\n{}", serde_yaml_ng::to_string(&crd)?);
    }
    Ok(())
}

/// One thread is plenty for an operator: it waits for the API server. Each costs memory of its own.
fn run(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// SIGTERM and SIGINT end the operator gracefully: what runs comes to its end, nothing new begins.
fn shutdown_on_signal() -> Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shuts down");
        cancel.cancel();
    });
    Ok(token)
}
