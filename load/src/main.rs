//! The load harness of Marg: `marg-load run` measures the gateway against an empty Pingora; see `load/README.md`.

mod baseline;
mod budget;
mod child;
mod clock;
mod drive;
mod exchange;
mod features;
mod fleet;
mod gateway;
mod histogram;
mod http1;
mod machine;
mod memory;
mod mock;
mod proc;
mod report;
mod request;
mod run;
mod scenario;
mod sse;
mod statistics;
mod target;
mod window;

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};

use features::{Features, MOST_LIMITS};
use run::{Plan, Subject};
use scenario::Name;
use target::Target;
use window::Span;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Marg against an empty Pingora pass-through. Exit codes: 0 measured; 1 failed requests, or with --check a
/// broken budget; 2 could not measure.
#[derive(Parser)]
#[command(name = "marg-load", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the scenarios, print a table, write a report.
    Run(Box<RunOptions>),
    /// Only the mock upstream; prints its address and serves until it is ended.
    Mock(MockOptions),
    /// Only the empty Pingora pass-through; serves until it is ended.
    Baseline(BaselineOptions),
}

#[derive(Args)]
struct RunOptions {
    /// Run only this scenario (may be given several times).
    #[arg(long)]
    scenario: Vec<Name>,
    /// Short windows: the whole run in under a minute, for a first look.
    #[arg(long)]
    quick: bool,
    /// Rounds of baseline and gateway in turn [default: 5; with --quick 2].
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds measured in each window [default: 3; with --quick 0.7].
    #[arg(long)]
    seconds: Option<f64>,
    /// Requests a second in the scenario `rate`.
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Cores for the target; its worker threads are as many. The rest is for mock and load.
    #[arg(long, default_value_t = 1)]
    target_cores: usize,
    /// The gateway's binary.
    #[arg(long, default_value = "target/release/marg", overrides_with = "marg")]
    marg: PathBuf,
    /// The level of the gateway's log.
    #[arg(long, default_value = "info")]
    log_level: String,
    /// How many limits the gateway holds every call to, 0 to 8.
    #[arg(long, default_value_t = 0, value_parser = limits())]
    limits: usize,
    /// How many policies the gate enforces, of which 5 apply to every call; 0 switches it off.
    #[arg(long, default_value_t = 0)]
    policies: usize,
    /// Switch the audit log off.
    #[arg(long)]
    no_audit: bool,
    /// Let Redis own the counters of limits; needs `redis-server`.
    #[arg(long)]
    redis: bool,
    /// Measure against another copy of Marg instead of the empty pass-through, with these features: a list of limits=N,
    /// policies=N, no-audit, redis. So `--limits 4 --redis --against limits=4` compares Redis with the own database.
    #[arg(long, conflicts_with_all = ["baseline_only", "url"])]
    against: Option<Features>,
    /// Measure the baseline alone.
    #[arg(long)]
    baseline_only: bool,
    /// Measure something that runs already: http://HOST:PORT with the path before /chat/completions. Its upstream should be
    /// the mock that --mock names.
    #[arg(long, conflicts_with = "baseline_only")]
    url: Option<String>,
    /// The process behind --url, for CPU time and memory. Pin it yourself.
    #[arg(long, requires = "url")]
    pid: Option<u32>,
    /// The key for --url.
    #[arg(long, requires = "url", default_value = "none", env = "MARG_LOAD_TOKEN", hide_env_values = true)]
    token: String,
    /// Written before the model name for --url, as in `mock/`.
    #[arg(long, requires = "url", default_value = "")]
    model_prefix: String,
    /// The address of a mock that runs already; the baseline uses it too.
    #[arg(long)]
    mock: Option<SocketAddr>,
    /// The folder for the report.
    #[arg(long, default_value = "load/out")]
    out: PathBuf,
    /// Exit with 1 if a budget is broken.
    #[arg(long)]
    check: bool,
}

#[derive(Args)]
struct MockOptions {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Worker threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Deltas of a stream, where the model name does not say (`mock-deltas50`).
    #[arg(long, default_value_t = 64)]
    deltas: u64,
    /// Milliseconds between two deltas (`mock-pace20`).
    #[arg(long, default_value_t = 0)]
    pace_ms: u64,
    /// Milliseconds before the first byte (`mock-delay5`).
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Letters in a delta (`mock-size200`).
    #[arg(long, default_value_t = 12)]
    size: usize,
}

#[derive(Args)]
struct BaselineOptions {
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Where requests go.
    #[arg(long)]
    upstream: SocketAddr,
    /// Worker threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Reads a number of limits.
fn limits() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(0..=MOST_LIMITS as u64)
}

fn main() -> ExitCode {
    match obey(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("marg-load: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn obey(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(options) => measure(&options),
        Command::Mock(MockOptions { listen, threads, deltas, pace_ms, delay_ms, size }) => {
            machine::raise_descriptor_limit()?;
            mock::serve(listen, threads, mock::Behaviour { deltas, pace_ms, delay_ms, size })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Baseline(BaselineOptions { listen, upstream, threads }) => {
            machine::raise_descriptor_limit()?;
            baseline::serve(listen, upstream, threads)
        }
    }
}

fn measure(options: &RunOptions) -> anyhow::Result<ExitCode> {
    let plan = plan(options)?;
    let report = run::run(&plan)?;
    println!("report    {}", report.write(&plan.out)?.display());
    let broken = options.check && report.budget.iter().any(|line| !line.is_kept());
    Ok(if report.is_valid() && !broken { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn plan(options: &RunOptions) -> anyhow::Result<Plan> {
    let quick = options.quick;
    let seconds = options.seconds.unwrap_or(if quick { 0.7 } else { 3.0 });
    let warm_up = Duration::from_millis(if quick { 250 } else { 1000 });
    Ok(Plan {
        scenarios: options.scenario.clone(),
        rounds: options.rounds.unwrap_or(if quick { 2 } else { 5 }).max(1),
        span: Span { warm_up, measured: Duration::try_from_secs_f64(seconds).context("--seconds")? },
        slow: Duration::from_secs(if quick { 2 } else { 10 }),
        starts: if quick { 3 } else { 7 },
        rate: options.rate,
        target_cores: options.target_cores,
        subject: subject(options)?,
        out: options.out.clone(),
        mock: options.mock,
    })
}

fn subject(options: &RunOptions) -> anyhow::Result<Subject> {
    let Some(url) = &options.url else {
        return Ok(match options.baseline_only {
            true => Subject::Nothing,
            false => Subject::Marg {
                marg: options.marg.clone(),
                log_level: options.log_level.clone(),
                features: Features {
                    limits: options.limits,
                    policies: options.policies,
                    audit: !options.no_audit,
                    redis: options.redis,
                },
                against: options.against,
            },
        });
    };
    let Some(rest) = url.strip_prefix("http://") else { bail!("--url begins with http://; got {url}") };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let address = host.to_socket_addrs().with_context(|| format!("look {host} up; --url needs a port"))?.next();
    Ok(Subject::External(Target {
        name: "gateway",
        address: address.with_context(|| format!("{host} has no address"))?,
        base_path: path.trim_end_matches('/').to_owned(),
        token: options.token.clone(),
        model_prefix: options.model_prefix.clone(),
        pid: options.pid,
    }))
}
