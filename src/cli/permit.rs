//! `marg permit`: permits that the gateway signed, verified without it; and the keys that sign them.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::admin::jwks;
use crate::assemble::{fetch, permits};
use crate::cli::Common;
use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::local;
use crate::cli::output::{self, Format};
use crate::kavach::permits::jwk::{Algorithm, JwkSet, MAX_SET_BYTES};
use crate::kavach::permits::key::PermitKeys;
use crate::kavach::permits::token::{self, Expected, LEEWAY, TokenError, Verified};
use crate::unit::clock::Timestamp;

/// The largest body that is read to compare it.
const MAX_BODY_BYTES: u64 = 1 << 30;
/// The largest key file that is read.
const MAX_KEY_BYTES: u64 = 64 * 1024;

/// What to do with permits.
#[derive(Debug, Subcommand)]
pub enum Permit {
    /// Verify a permit and print what it says. Exit code 0: it is good; 1: it is not, and why; 2: it could not be verified.
    Verify(Verify),
    /// Care for the keys that sign permits.
    #[command(subcommand)]
    Key(Key),
}

/// A permit to verify.
#[derive(Debug, Args)]
pub struct Verify {
    /// The permit as the header had it; from the standard input if it is left out or `-`.
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
    /// The public keys: a file with a JWK set. Nothing is asked over the network then.
    #[arg(long, alias = "keys", value_name = "FILE", required_unless_present = "url", conflicts_with = "url")]
    jwks: Option<PathBuf>,
    /// The public keys: where a gateway publishes them. Without a path, /.well-known/jwks.json is meant.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// For whom it has to be.
    #[arg(long, value_name = "TEXT", required_unless_present = "any_audience")]
    audience: Option<String>,
    /// Take a permit for whomever it is.
    #[arg(long, conflicts_with = "audience")]
    any_audience: bool,
    /// The body that it has to be for, as it was sent.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// An algorithm that has to have signed it, ed25519 or ml-dsa-65; may be repeated, and all of them have to.
    #[arg(long = "algorithm", value_name = "ALGORITHM", value_parser = algorithm)]
    algorithms: Vec<Algorithm>,
    /// Take it only if the gate's policies permitted the call: not if the gate was off, or only observed.
    #[arg(long)]
    enforced: bool,
    /// The time to verify it for instead of now: RFC 3339, or seconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    at: Option<Timestamp>,
    /// How many seconds the signer's clock may be apart from this one.
    #[arg(long, value_name = "SECONDS", default_value_t = LEEWAY.as_secs(), value_parser = clap::value_parser!(u64).range(..=3600))]
    leeway: u64,
}

/// What to do with the keys that sign.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key file of mode 0600, for `kavach.permits.key`; an existing file is not replaced.
    Create(Named),
    /// Put a new key in the place of permit.key in the data folder. The gateway signs with it from its next reload on, and
    /// publishes the old one until its last permit has expired.
    Rotate,
    /// Print the public keys of a key file as a JWK set.
    Show(Named),
}

/// A key file.
#[derive(Debug, Args)]
pub struct Named {
    /// The key file.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    Algorithm::named(text).ok_or_else(|| "write ed25519 or ml-dsa-65".to_owned())
}

/// Runs the command.
pub async fn run(command: Permit, common: &Common) -> Result {
    match command {
        Permit::Verify(order) => verify(order, common.output).await,
        Permit::Key(Key::Create(Named { file })) => {
            create(&file)?;
            show(&file)
        }
        Permit::Key(Key::Rotate) => rotate(common),
        Permit::Key(Key::Show(Named { file })) => show(&file),
    }
}

async fn verify(order: Verify, format: Format) -> Result {
    let keys = match (&order.jwks, &order.url) {
        (Some(path), _) => {
            let set = JwkSet::parse(&read(path, MAX_SET_BYTES as u64)?);
            set.map_err(|error| Failure::usage(format!("{}: {error}.", path.display())))?
        }
        (None, url) => published(url.as_deref().unwrap_or_default()).await?,
    };
    let body = order.body.as_deref().map(|path| read(path, MAX_BODY_BYTES)).transpose()?;
    let token = token(order.token.as_deref())?;
    let expected = Expected {
        audience: order.audience.as_deref(),
        now: order.at.unwrap_or_else(Timestamp::now),
        leeway: Duration::from_secs(order.leeway),
        algorithms: &order.algorithms,
        body: body.as_deref(),
        enforced: order.enforced,
    };
    match token::verify(&token, &keys, &expected) {
        Ok(verified) => output::item(format, &told(&verified)),
        Err(error) => refused(&error, format),
    }
}

/// What a good permit says, and by which keys.
fn told(verified: &Verified) -> Value {
    let mut told = serde_json::to_value(&verified.claims).unwrap_or_default();
    if let Value::Object(fields) = &mut told {
        let signed = verified.signed.iter().map(|(algorithm, key)| format!("{algorithm} {key}"));
        fields.insert("valid".to_owned(), true.into());
        fields.insert("signed_by".to_owned(), signed.collect::<Vec<_>>().into());
    }
    told
}

/// Says what is wrong: on the standard output for programs, on the standard error stream for people.
fn refused(error: &TokenError, format: Format) -> Result {
    let text = format!("This permit is refused: {error}.");
    if format == Format::Table {
        return Err(Failure::new(Exit::Failed, text));
    }
    output::item(format, &json!({"valid": false, "reason": error.word(), "text": text}))?;
    Err(Failure::new(Exit::Failed, ""))
}

async fn published(url: &str) -> Result<JwkSet> {
    let document = fetch::document(url, jwks::PATH, MAX_SET_BYTES).await;
    let document = document.map_err(|error| {
        Failure::new(Exit::Unreachable, format!("The public keys at {url} cannot be read: {error}."))
    })?;
    JwkSet::parse(&document).map_err(|error| Failure::usage(format!("{url}: {error}.")))
}

/// The permit of the command line, or of the standard input; space around it is not part of it.
fn token(given: Option<&str>) -> Result<String> {
    if let Some(text) = given.filter(|text| *text != "-") {
        return Ok(text.trim().to_owned());
    }
    let mut text = String::new();
    // One byte more than is looked at, so that what is too long is seen to be.
    let most = token::MAX_BYTES as u64 + 64;
    std::io::stdin()
        .take(most)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("The standard input cannot be read: {error}.")))?;
    Ok(text.trim().to_owned())
}

fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let cannot = |error: std::io::Error| Failure::usage(format!("{} cannot be read: {error}.", path.display()));
    let mut bytes = Vec::new();
    std::fs::File::open(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes)).map_err(cannot)?;
    if bytes.len() as u64 > most {
        return Err(Failure::usage(format!("{} is larger than {most} bytes.", path.display())));
    }
    Ok(bytes)
}

fn create(file: &Path) -> Result {
    if file.exists() {
        return Err(Failure::new(Exit::Conflict, format!("{} is there already.", file.display())));
    }
    permits::save(file, Timestamp::now()).map_err(|error| Failure::failed(format!("{error:#}.")))
}

fn rotate(common: &Common) -> Result {
    let config = local::configuration(&common.config)?.config;
    if let Some(reference) = &config.kavach.permits.key {
        let text = format!(
            "The key comes from {reference} (kavach.permits.key); make a new one with `marg permit key create` and put it there."
        );
        return Err(Failure::new(Exit::Conflict, text));
    }
    let file = config.data_dir.join(permits::KEY_FILE);
    if !file.exists() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("There is no {}; nothing signs permits yet.", file.display()),
        ));
    }
    permits::replace(&file, Timestamp::now()).map_err(|error| Failure::failed(format!("{error:#}.")))?;
    show(&file)
}

fn show(file: &Path) -> Result {
    let text = String::from_utf8(read(file, MAX_KEY_BYTES)?)
        .map_err(|_| Failure::usage(format!("{} is no key file.", file.display())))?;
    let keys =
        PermitKeys::open(text.trim_end()).map_err(|error| Failure::usage(format!("{}: {error}.", file.display())))?;
    let set = JwkSet::new(keys.public().to_vec()).to_value();
    output::line(&serde_json::to_string_pretty(&set).unwrap_or_default())
}
