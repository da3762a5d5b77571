//! Runs `SegmentCounter` objects, and prints their definition.

use std::{io::Write, net::SocketAddr, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use segment_counter::{
    crd,
    operator::{Options, run},
    runtime::telemetry::{self, LogFormat},
};

/// The operator of segment counters.
#[derive(Parser)]
#[command(name = "segment-counter-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look after the SegmentCounters of a cluster.
    Run(Run),
    /// Print the CustomResourceDefinition as YAML.
    Crds,
}

#[derive(Args)]
struct Run {
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:9090")]
    health_listen: SocketAddr,
    /// Namespaces to look after, separated by commas.
    #[arg(
        long,
        value_delimiter = ',',
        required_unless_present = "watch_cluster",
        conflicts_with = "watch_cluster"
    )]
    watch_namespaces: Vec<String>,
    /// Look after every namespace.
    #[arg(long)]
    watch_cluster: bool,
    /// The API's image where an object names none.
    #[arg(long)]
    image: String,
    /// Act only while holding the lease.
    #[arg(long)]
    leader_elect: bool,
    /// Name of this process.
    #[arg(long, env = "POD_NAME", default_value = "segment-counter-operator")]
    pod_name: String,
    /// Namespace of the lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pod_namespace: String,
    /// `text` or `json`.
    #[arg(long, default_value = "json")]
    log_format: LogFormat,
}

#[tokio::main]
async fn main() -> ExitCode {
    let result: Result<(), Box<dyn std::error::Error>> = match Cli::parse().command {
        Command::Crds => crds(),
        Command::Run(args) => start(args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "segment-counter-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn crds() -> Result<(), Box<dyn std::error::Error>> {
    std::io::stdout().write_all(crd::crd_yaml()?.as_bytes())?;
    Ok(())
}

async fn start(args: Run) -> Result<(), Box<dyn std::error::Error>> {
    telemetry::init(args.log_format)?;
    run(Options {
        health_listen: args.health_listen,
        namespaces: (!args.watch_cluster).then_some(args.watch_namespaces),
        image: args.image,
        leader_elect: args.leader_elect,
        identity: args.pod_name,
        own_namespace: args.pod_namespace,
    })
    .await?;
    Ok(())
}
