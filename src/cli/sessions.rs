//! `marg sessions`: what belongs together, as the running gateway remembers it.

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::cli::door::{Door, with_query};
use crate::cli::failure::Result;
use crate::cli::output::{self, Column, Format};

const COLUMNS: &[Column] = &[
    ("KEY", "/key_id"),
    ("SESSION", "/id"),
    ("SEEN", "/seen_at"),
    ("CALLS", "/requests"),
    ("IN", "/input_tokens"),
    ("OUT", "/output_tokens"),
    ("NANO USD", "/cost_nano_usd"),
    ("ENDED UNTIL", "/ended_until"),
];

/// What to do with sessions.
#[derive(Debug, Subcommand)]
pub enum Sessions {
    /// List sessions, the latest first.
    List(List),
    /// Set the figures of a session to nothing, and take back that it was ended.
    Reset(Which),
    /// End a session: its calls are refused for kavach.session.ended_ms.
    End(Which),
}

/// Which sessions to list.
#[derive(Debug, Args)]
pub struct List {
    /// Only those of this key.
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// At most so many: 1 to 1000.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

/// Which session.
#[derive(Debug, Args)]
pub struct Which {
    /// The id of its key.
    #[arg(value_name = "KEY", value_parser = crate::cli::keys::named)]
    key: String,
    /// What identifies it for that key, as the list has it.
    #[arg(value_name = "SESSION", value_parser = crate::cli::keys::named)]
    id: String,
}

/// Runs one of the commands.
pub async fn run(command: Sessions, door: &Door, format: Format) -> Result {
    let (which, verb) = match command {
        Sessions::List(List { key, limit }) => {
            let pairs = [("key_id", key), ("limit", Some(limit.to_string()))];
            let answer = door.ask(Method::GET, &with_query("/admin/sessions", &pairs), None).await?;
            return output::list(format, &answer, "/sessions", COLUMNS);
        }
        Sessions::Reset(which) => (which, "reset"),
        Sessions::End(which) => (which, "end"),
    };
    let body = json!({"key_id": which.key, "id": which.id});
    door.ask(Method::POST, &format!("/admin/sessions/{verb}"), Some(&body)).await?;
    let done = if verb == "end" { "ended" } else { "reset" };
    match format {
        Format::Table => output::line(&format!("{done} {}", which.id)),
        _ => output::item(format, &json!({ done: which.id })),
    }
}
