//! `marg admin token`.

use axum::http::Method;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use crate::cli::door::{Door, encode};
use crate::cli::failure::Result;
use crate::cli::keys::with_token;
use crate::cli::output::{self, Column, Format};
use crate::cli::span;
use crate::unit::clock::Timestamp;

/// What to care for.
#[derive(Debug, Subcommand)]
pub enum Admin {
    /// Admin tokens, with which people and programs use the admin API.
    #[command(subcommand)]
    Token(Tokens),
}

/// What to do with admin tokens.
#[derive(Debug, Subcommand)]
pub enum Tokens {
    /// Make an admin token and print it, this once only.
    Create(Create),
    /// List admin tokens.
    List,
    /// Revoke an admin token for ever. The last active one of the role admin cannot be revoked.
    Revoke(Which),
}

/// A new admin token.
#[derive(Debug, Args)]
pub struct Create {
    /// Who or what it is for.
    #[arg(long)]
    label: String,
    /// What it may do.
    #[arg(long, value_enum)]
    role: RoleName,
    /// How long it works, such as 30d.
    #[arg(long, value_name = "SPAN", value_parser = span::span, conflicts_with = "expires_at")]
    expires_in: Option<std::time::Duration>,
    /// Until when it works: RFC 3339, or seconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    expires_at: Option<Timestamp>,
}

/// What an admin token may do.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum RoleName {
    /// See everything except the request log and the administrators.
    ReadOnly,
    /// See everything.
    Auditor,
    /// See all but the administrators; change keys and routes; reload.
    Operator,
    /// Everything.
    Admin,
}

impl RoleName {
    fn wire(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::Auditor => "auditor",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Which admin token.
#[derive(Debug, Args)]
pub struct Which {
    /// The id.
    #[arg(value_name = "ID", value_parser = crate::cli::keys::named)]
    id: String,
}

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("LABEL", "/label"),
    ("ROLE", "/role"),
    ("STATUS", "/status"),
    ("TOKEN", "/hint"),
    ("CREATED", "/created_at"),
    ("EXPIRES", "/expires_at"),
];

/// Runs one of the commands.
pub async fn run(command: Admin, door: &Door, format: Format) -> Result {
    let Admin::Token(command) = command;
    match command {
        Tokens::Create(create) => {
            let expires = create.expires_at.or_else(|| create.expires_in.map(|span| Timestamp::now().plus(span)));
            let body = json!({
                "label": create.label, "role": create.role.wire(), "expires_at": expires.map(Timestamp::rfc3339),
            });
            with_token(format, &door.ask(Method::POST, "/admin/tokens", Some(&body)).await?, "admin_token")
        }
        Tokens::List => {
            let answer = door.ask(Method::GET, "/admin/tokens", None).await?;
            output::list(format, &answer, "/admin_tokens", COLUMNS)
        }
        Tokens::Revoke(which) => {
            let path = format!("/admin/tokens/{}/revoke", encode(&which.id));
            output::item(format, &door.ask(Method::POST, &path, None).await?)
        }
    }
}
