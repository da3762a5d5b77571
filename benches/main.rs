//! The figures of the README: speed beside its limit, measured in the same run on the same machine, and size.
//!
//! A bench is no test: it fails only where it cannot run, never on a time. `make bench` runs all of it; `--only NAME` one figure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench that cannot run says where and ends"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the table is what it is for")]
#![allow(unreachable_pub, missing_docs, reason = "nobody but this program uses it")]

mod figures;
mod harness;
mod reference;
#[path = "../tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};

use harness::busy::Compute;
use harness::{Plan, Row, machine, table};

#[derive(Parser)]
#[command(about = "Measures Segment Counter beside its limits and prints a table")]
struct Arguments {
    /// Short runs, and more noise.
    #[arg(long)]
    quick: bool,
    /// Only these figures.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Figure>,
    /// A JSON array of rows that were measured elsewhere, such as on a cluster; shown below ours.
    #[arg(long, value_name = "FILE")]
    rows: Vec<PathBuf>,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// What this program is where it is not the bench, but a process that something is measured beside.
#[derive(Subcommand)]
enum Role {
    /// Serves what stands beside the service.
    #[command(hide = true)]
    Reference,
    /// Computes for as long as who started it lives.
    #[command(hide = true)]
    Compute(Compute),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Figure {
    /// Streams of pairs beside the same statement by pgbench.
    Ndjson,
    /// Streams in which most pairs are repeats.
    Repeats,
    /// Four lanes beside one.
    Lanes,
    /// What a pair of a stream costs the service.
    Path,
    /// One pair a request beside one INSERT a request, a constant, and our own streams.
    Pairs,
    /// Single pairs beyond what there is room for.
    Overload,
    /// Hot counts beside a constant.
    Counts,
    /// Counts at the ledger beside SELECT 1.
    Cold,
    /// A large segment beside a small one.
    Large,
    /// The archive beside a bare DELETE into INSERT.
    Archive,
    /// Counts beside an archive.
    Beside,
    /// The recount beside one GROUP BY.
    Refresh,
    /// Bytes of a membership in PostgreSQL.
    Bytes,
    /// Bytes of a segment in Redis.
    Redis,
    /// Memory and the size of the binaries.
    Size,
}

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Reference) => return reference::serve().await,
        Some(Role::Compute(compute)) => return compute.run(),
        None => {}
    }
    let given: Vec<Row> = arguments.rows.iter().flat_map(|file| table::read(file)).collect();
    let plan = if arguments.quick { Plan::QUICK } else { Plan::FULL };
    let mut rows = Vec::new();
    for figure in Figure::value_variants() {
        if !arguments.only.is_empty() && !arguments.only.contains(figure) {
            continue;
        }
        let begun = Instant::now();
        eprintln!("{figure:?}");
        let measured = match figure {
            Figure::Ndjson => figures::ndjson::unique(&plan).await,
            Figure::Repeats => figures::ndjson::repeats(&plan).await,
            Figure::Lanes => figures::lanes::measure(&plan).await,
            Figure::Path => figures::path::measure(&plan).await,
            Figure::Pairs => figures::pairs::measure(&plan).await,
            Figure::Overload => figures::overload::measure(&plan).await,
            Figure::Counts => figures::counts::measure(&plan).await,
            Figure::Cold => figures::cold::measure(&plan).await,
            Figure::Large => figures::large::measure(&plan).await,
            Figure::Archive => figures::archive::speed(&plan).await,
            Figure::Beside => figures::archive::beside_counts(&plan).await,
            Figure::Refresh => figures::refresh::measure(&plan).await,
            Figure::Bytes => figures::bytes::in_postgres(&plan).await,
            Figure::Redis => figures::bytes::in_redis(&plan).await,
            Figure::Size => figures::size::measure(&plan).await,
        };
        // At once: what was measured is not lost where a later figure cannot run.
        eprintln!("  {:.1?}\n\n{}", begun.elapsed(), table::render(&measured));
        rows.extend(measured);
    }
    rows.extend(given);
    println!("\n{}\n\n{}", machine::describe(&plan), table::render(&rows));
}
