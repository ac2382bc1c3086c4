//! The gateway under test: everything that the harness knows about Marg's command line and configuration is in this file.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde::Deserialize;

use crate::fleet::Recipe;
use crate::target::{Target, free_address};

/// What to start.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The binary.
    pub marg: PathBuf,
    /// Its provider.
    pub mock: SocketAddr,
    /// Worker threads.
    pub threads: usize,
    /// The level of its log; `info` is Marg's default.
    pub log_level: String,
    /// How many limits apply to every call, none of which is ever reached.
    pub limits: usize,
}

/// Writes a configuration into `folder`, makes a key and says how to start the gateway with both.
///
/// # Errors
/// When the binary is missing or does not give a key.
pub fn recipe(folder: &Path, wanted: &Wanted) -> anyhow::Result<Recipe> {
    let (data, admin) = (free_address()?, free_address()?);
    let config = folder.join("marg.yaml");
    fs::write(&config, configuration(folder, data, admin, wanted))?;
    let token = create_key(&wanted.marg, &config)?;
    Ok(Recipe {
        target: Target {
            name: "gateway",
            address: data,
            base_path: "/v1".to_owned(),
            token,
            model_prefix: String::new(),
            pid: None,
        },
        program: wanted.marg.clone(),
        arguments: vec!["start".to_owned(), "--config".to_owned(), config.display().to_string()],
        stop_signal: Signal::TERM,
    })
}

/// The limits of `--limits`, in the order in which they are taken: one of each kind that operators use together.
pub const LIMITS: [&str; 8] = [
    "scope: key, unit: requests, window: minute, amount: 1000000000",
    "scope: key, unit: usd, window: day, amount_usd: 1000000",
    "scope: key, unit: tokens, window: minute, amount: 1000000000000",
    "scope: gateway, unit: usd, window: month, amount_usd: 1000000",
    "scope: key, unit: concurrent, window: now, amount: 100000",
    "scope: model, subject: '*', unit: output_tokens, window: hour, amount: 1000000000000",
    "scope: gateway, unit: requests, window: day, amount: 1000000000000",
    "scope: key, unit: input_tokens, window: total, amount: 1000000000000",
];
/// What limits in dollars need to know.
const PRICES: &str = "prices:\n  default: {input: 1, output: 2}\n";

/// Marg as it comes: only addresses, threads and the provider are set. Keys are required, the ledger, metrics and the log
/// are on by default.
fn configuration(folder: &Path, data: SocketAddr, admin: SocketAddr, wanted: &Wanted) -> String {
    let Wanted { mock, threads, log_level, limits, .. } = wanted;
    let limits: String = LIMITS.iter().take(*limits).map(|limit| format!("  - {{{limit}}}\n")).collect();
    let limits = if limits.is_empty() { limits } else { format!("limits:\n{limits}") };
    let folder = serde_json::Value::from(folder.join("data").display().to_string());
    format!(
        "data_dir: {folder}\n\
         server:\n  listen: \"{data}\"\n  threads: {threads}\n\
         admin:\n  listen: \"{admin}\"\n\
         log:\n  level: {log_level}\n  format: json\n\
         providers:\n  mock:\n    base_url: \"http://{mock}/v1\"\n    credentials: [\"plain:mock\"]\n\
         default_provider: mock\n{limits}{PRICES}"
    )
}

/// What `marg keys create --output json` prints, as far as it matters here.
#[derive(Deserialize)]
struct CreatedKey {
    token: String,
}

fn create_key(marg: &Path, config: &Path) -> anyhow::Result<String> {
    let mut command = Command::new(marg);
    command.args(["keys", "create", "--config"]).arg(config).args(["--name", "load", "--output", "json"]);
    let output = command.output().with_context(|| format!("start {}", marg.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}:\n{errors}", output.status);
    let created: CreatedKey = serde_json::from_slice(&output.stdout).with_context(|| {
        format!("{command:?} did not print a key:\n{}{errors}", String::from_utf8_lossy(&output.stdout))
    })?;
    Ok(created.token)
}
