//! `marg permit`: permits that the gateway signed, verified without it.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::Value;

use crate::cli::Common;
use crate::cli::failure::{Exit, Failure, Result};
use crate::cli::output;
use crate::kavach::permit_token::{self, TokenError};
use crate::unit::clock::Timestamp;

/// What to do with a permit.
#[derive(Debug, Subcommand)]
pub enum Permit {
    /// Verify a permit offline and print what it says.
    Verify {
        /// The token.
        #[arg(value_name = "TOKEN")]
        token: String,
        /// The public keys: a JWK set.
        #[arg(long, value_name = "FILE")]
        keys: PathBuf,
        /// For whom it has to be.
        #[arg(long, value_name = "TEXT")]
        audience: String,
        /// The body that it has to be for, as it was sent.
        #[arg(long, value_name = "FILE")]
        body: Option<PathBuf>,
        /// The time to verify it for instead of now: RFC 3339, or seconds since 1970.
        #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
        at: Option<Timestamp>,
    },
}

/// Runs the command.
pub fn run(command: Permit, common: &Common) -> Result {
    let Permit::Verify { token, keys, audience, body, at } = command;
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| Failure::failed(format!("{} cannot be read: {error}.", path.display())))
    };
    let jwks: Value = serde_json::from_slice(&read(&keys)?)
        .map_err(|error| Failure::failed(format!("{} is no JWK set: {error}.", keys.display())))?;
    let refused = |error: TokenError| Failure::new(Exit::Failed, format!("Refused: {error}."));
    let claims =
        permit_token::verify(token.trim(), &jwks, &audience, at.unwrap_or_else(Timestamp::now)).map_err(refused)?;
    if let Some(body) = body {
        claims.check_body(&read(&body)?).map_err(refused)?;
    }
    let claims = serde_json::to_value(&claims).map_err(|error| Failure::failed(error.to_string()))?;
    output::item(common.output, &claims)
}
