//! The gateway under test: everything that the harness knows about Marg's command line and configuration is in this file.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::features::{Features, MOST_LIMITS};
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
    /// What is switched on.
    pub features: Features,
    /// The address of a Redis, for `features.redis`.
    pub redis: Option<SocketAddr>,
}

/// Writes a configuration into `folder`, makes a key and says how to start the gateway with both. `name` is what reports call
/// it.
///
/// # Errors
/// When the binary is missing or does not give a key.
pub fn recipe(name: &'static str, folder: &Path, wanted: &Wanted) -> anyhow::Result<Recipe> {
    let (data, admin) = (free_address()?, free_address()?);
    let config = folder.join("marg.yaml");
    if wanted.features.policies > 0 {
        fs::write(folder.join(POLICY_FILE), policies(wanted.features.policies))?;
    }
    fs::write(&config, configuration(folder, data, admin, wanted))?;
    let token = create_key(&wanted.marg, &config)?;
    Ok(Recipe {
        target: Target {
            name,
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
pub const LIMITS: [&str; MOST_LIMITS] = [
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

const POLICY_FILE: &str = "policy.cedar";

/// Policies of which five apply to every call: one that permits it and four that look at different facts and do not forbid it.
/// The others are about keys and models that nobody uses.
fn policies(count: usize) -> String {
    let applying = [
        "permit(principal, action in Action::\"call\", resource);",
        "forbid(principal, action, resource) when { context.max_output_tokens > 1000000 };",
        "forbid(principal, action, resource) when { context.tool_count > 1000 };",
        "forbid(principal, action, resource) when { context.session.requests > 1000000000000 };",
        "forbid(principal, action, resource) when { context.requested_model == \"no such model\" };",
    ];
    let others = (0..).map(|number| match number % 2 {
        0 => format!("permit(principal == Key::\"key_{number}\", action in Action::\"call\", resource);"),
        _ => format!("forbid(principal, action in Action::\"call\", resource == Model::\"model-{number}\");"),
    });
    let all = applying.into_iter().map(str::to_owned).chain(others).take(count).enumerate();
    all.map(|(number, policy)| format!("@id(\"policy-{number}\")\n{policy}\n")).collect()
}

/// Marg as it comes: only addresses, threads, the provider and the wanted features are set. Keys are required; the ledger, the
/// audit log, metrics and the log are on by default.
fn configuration(folder: &Path, data: SocketAddr, admin: SocketAddr, wanted: &Wanted) -> String {
    let Wanted { mock, threads, log_level, features, redis, .. } = wanted;
    let quoted = |name: &str| serde_json::Value::from(folder.join(name).display().to_string());
    let mut text = format!(
        "data_dir: {}\n\
         server:\n  listen: \"{data}\"\n  threads: {threads}\n\
         admin:\n  listen: \"{admin}\"\n\
         log:\n  level: {log_level}\n  format: json\n\
         providers:\n  mock:\n    base_url: \"http://{mock}/v1\"\n    credentials: [\"plain:mock\"]\n\
         default_provider: mock\n{PRICES}",
        quoted("data")
    );
    if features.limits > 0 {
        text += "limits:\n";
        text.extend(LIMITS.iter().take(features.limits).map(|limit| format!("  - {{{limit}}}\n")));
    }
    if let Some(address) = redis.filter(|_| features.redis) {
        text += &format!("budget:\n  authority: redis\nredis:\n  urls: [\"plain:redis://{address}\"]\n");
    }
    if features.policies > 0 {
        text += &format!("kavach:\n  mode: enforce\n  policy: {}\n", quoted(POLICY_FILE));
    }
    if !features.audit {
        text += "audit:\n  enabled: false\n";
    }
    text
}

/// How many keys the scenario `keys` adds.
pub const MANY_KEYS: u64 = 100_000;

/// Adds keys to the database of a gateway that is not running: names, teams and users as an organisation has them, and hashes that
/// no token has.
///
/// # Errors
/// When there is no database, or its keys look otherwise.
pub async fn add_keys(folder: &Path, count: u64) -> anyhow::Result<()> {
    let path = folder.join("data").join("marg.db");
    let mut database = SqliteConnectOptions::new().filename(&path).connect().await?;
    let statement = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?1) \
         INSERT INTO app_key (id, name, hint, hash, org, team, user, labels, models, addresses, enabled, created_at) \
         SELECT printf('key_%026d', n), printf('service-%d', n), printf('%04d', n % 10000), randomblob(32), 'acme', \
         printf('team-%d', n % 500), printf('user-%d', n % 20000), '{}', '[]', '[]', 1, 1700000000000000 + n FROM numbers";
    let added = sqlx::query(statement).bind(i64::try_from(count)?).execute(&mut database).await;
    let added = added.with_context(|| format!("add keys to {}", path.display()))?;
    ensure!(added.rows_affected() == count, "{} of {count} keys were added", added.rows_affected());
    database.close().await.context("close the database")
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
