//! The command line: argv → one command → one exit code.
//!
//! Every command that reads or changes something takes the same way as the admin API (`door`), against a running instance
//! (`--server`) or against the store. Results go to the standard output, everything else to the standard error stream; a
//! reader that goes away ends a command without a word. `docs/cli.md` lists every command, flag and exit code.

mod audit;
mod check;
mod db;
mod door;
mod failure;
mod init;
mod keys;
mod limits;
mod local;
mod output;
mod parties;
mod permit;
mod policy;
mod prices;
mod reconcile;
mod requests;
mod routes;
mod sessions;
mod span;
mod spend;
mod start;
mod tokens;
mod version;
mod witness;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::door::Door;
use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::output::Format;
use crate::config::load;
use crate::unit::secret::Secret;

/// A gateway between applications and AI model providers.
#[derive(Debug, Parser)]
#[command(name = "marg", version = crate::unit::version::VERSION, propagate_version = false, max_term_width = 110)]
struct Line {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
struct Common {
    /// The configuration file.
    #[arg(long, global = true, env = "MARG_CONFIG", default_value = "marg.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Print results as a table, as JSON or as YAML.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Work against a running instance instead of the store, such as http://127.0.0.1:8081.
    #[arg(long, global = true, env = "MARG_SERVER", value_name = "URL")]
    server: Option<String>,
    /// The admin token for --server. Prefer --token-file: other users of this machine can read a command line.
    #[arg(long, global = true, env = "MARG_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
    /// A file whose content is the admin token for --server; it wins over --token.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Start,
    /// Run the gateway with embedded defaults and a simulated provider, to try it out.
    Demo(start::Demo),
    /// Make a folder with everything that a gateway needs. Running it again changes nothing.
    Init(init::Init),
    /// Check the configuration file and list every error with its line and column.
    Check(check::Check),
    /// Make, show and change application keys.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Make, show and change limits, and see how they stand.
    #[command(subcommand)]
    Limits(limits::Limits),
    /// List routes, and delete stored ones.
    #[command(subcommand)]
    Routes(routes::Routes),
    /// Make, show and change organisations.
    #[command(subcommand)]
    Orgs(parties::Parties),
    /// Make, show and change teams.
    #[command(subcommand)]
    Teams(parties::Parties),
    /// Make, show and change users.
    #[command(subcommand)]
    Users(parties::Parties),
    /// Show who spent most in a period; in the last 24 hours, if none is given.
    Spend(spend::Spend),
    /// Check, try, import and compare the policies of the gate.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// List, reset and end sessions of a running gateway.
    #[command(subcommand)]
    Sessions(sessions::Sessions),
    /// Verify permits that the gateway signed, and care for the keys that sign them.
    #[command(subcommand)]
    Permit(permit::Permit),
    /// Read the request log.
    #[command(subcommand)]
    Requests(requests::Requests),
    /// Show, compare and change prices, and price the request log again.
    #[command(subcommand)]
    Prices(prices::Prices),
    /// Hold the request log against a provider's usage or cost export.
    Reconcile(reconcile::Reconcile),
    /// Care for the database.
    #[command(subcommand)]
    Db(db::Db),
    /// Care for the administrators.
    #[command(subcommand)]
    Admin(tokens::Admin),
    /// Prove what happened: keys, receipts, verification, searches of the audit log.
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Cosign the checkpoints of known audit logs, over HTTP, until interrupted.
    Witness(witness::Run),
    /// Say what this program is and what it was built from.
    Version(version::Version),
}

/// Runs the command line of this process and gives its exit code.
pub fn main() -> ExitCode {
    let line = match parse() {
        Ok(line) => line,
        Err(error) => {
            // Help and version are answers (0), the rest are errors of usage (2). If nobody reads them, nobody needs them.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    match run(line) {
        Ok(code) => code,
        Err(failure) if failure.reader_gone => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.text.is_empty() {
                complain(&format!("marg: {}", failure.text));
            }
            failure.exit.into()
        }
    }
}

fn parse() -> Result<Line, clap::Error> {
    let mut matches = command(load::is_empty_variable).try_get_matches()?;
    Line::from_arg_matches_mut(&mut matches)
}

/// The grammar of the command line. A variable that is set to nothing counts as one that is not set, as scripts mean it.
fn command(is_empty: fn(&std::ffi::OsStr) -> bool) -> clap::Command {
    Line::command().mut_args(|arg| match arg.get_env() {
        Some(variable) if is_empty(variable) => arg.env(None::<&'static str>),
        _ => arg,
    })
}

/// Writes a line to the standard error stream. If even that cannot be written there is nobody to tell.
fn complain(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

fn run(line: Line) -> Result<ExitCode> {
    let Line { common, command } = line;
    match command {
        Command::Start => return start::start(&common.config),
        Command::Demo(demo) => return start::demo(demo),
        Command::Init(init) => wait(init::run(init, common.output)),
        Command::Check(check) => check::run(check, &common),
        Command::Permit(permit) => wait(permit::run(permit, &common)),
        Command::Policy(policy) => policy::run(policy, &common),
        Command::Keys(keys) => wait(async { keys::run(keys, &common.door()?, common.output).await }),
        Command::Limits(limits) => wait(async { limits::run(limits, &common.door()?, common.output).await }),
        Command::Routes(routes) => wait(async { routes::run(routes, &common.door()?, common.output).await }),
        Command::Orgs(orgs) => wait(async { parties::run(orgs, "orgs", &common.door()?, common.output).await }),
        Command::Teams(teams) => wait(async { parties::run(teams, "teams", &common.door()?, common.output).await }),
        Command::Users(users) => wait(async { parties::run(users, "users", &common.door()?, common.output).await }),
        Command::Spend(spend) => wait(async { spend::run(spend, &common.door()?, common.output).await }),
        Command::Sessions(sessions) => wait(async { sessions::run(sessions, &common.door()?, common.output).await }),
        Command::Requests(requests) => wait(async { requests::run(requests, &common.door()?, common.output).await }),
        Command::Prices(prices) => wait(async { prices::run(prices, &common.door()?, common.output).await }),
        Command::Reconcile(order) => wait(async { reconcile::run(order, &common.door()?, common.output).await }),
        Command::Db(db) => wait(db::run(db, &common)),
        Command::Admin(admin) => wait(async { tokens::run(admin, &common.door()?, common.output).await }),
        Command::Audit(audit) => wait(audit::run(audit, &common)),
        Command::Witness(run) => wait(until_interrupted(witness::run(run))),
        Command::Version(version) => version::run(version, common.output),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a command on a runtime of its own.
fn wait<F: Future<Output = Result>>(command: F) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}

/// Runs what goes on until somebody interrupts it: that is its proper end.
async fn until_interrupted(work: impl Future<Output = Result>) -> Result {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

impl Common {
    /// Where commands go, by the flags.
    fn door(&self) -> Result<Door> {
        let Some(server) = &self.server else { return Ok(Door::Store { config: self.config.clone() }) };
        let authority = Door::authority(server)?;
        let token = match (&self.token, &self.token_file) {
            (_, Some(path)) => Secret::new(read_token(path)?),
            (Some(token), None) => Secret::new(token.trim()),
            (None, None) => {
                return Err(Failure::new(
                    Exit::Refused,
                    "--server needs an admin token: give --token-file, --token or MARG_ADMIN_TOKEN.",
                ));
            }
        };
        Door::to_server(authority, token)
    }
}

fn read_token(path: &std::path::Path) -> Result<String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) => Err(Failure::failed(format!("{} cannot be read: {error}.", path.display()))),
    }
}

/// The grammar of the command line, for the test that holds `docs/cli.md` to it.
#[cfg(test)]
fn grammar() -> clap::Command {
    command(|_| false)
}

#[cfg(test)]
mod tests;
