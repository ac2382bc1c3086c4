//! `marg keys`.

use axum::http::Method;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use crate::cli::door::{Door, encode, with_query};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{self, Column, Format};
use crate::cli::span;
use crate::unit::clock::Timestamp;

/// What to do with application keys.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a key and print its token, which is shown this once only.
    Create(Create),
    /// List keys, newest first.
    List(List),
    /// Show one key.
    Show(Which),
    /// Revoke a key for ever.
    Revoke(Which),
    /// Give a key a new token, which is shown this once only; the old one stops working at once.
    Rotate(Which),
    /// Refuse a key until it is enabled again.
    Disable(Which),
    /// Accept a disabled key again.
    Enable(Which),
    /// End the suspension of a key.
    Release(Which),
    /// Delete a key. The request log keeps its id.
    Delete(Which),
}

/// Which key.
#[derive(Debug, Args)]
pub struct Which {
    /// The id, such as key_06d3m0s1x9qg3v5c8e7k2a4n1r.
    #[arg(value_name = "ID", value_parser = named)]
    id: String,
}

/// A new key.
#[derive(Debug, Args)]
pub struct Create {
    /// A name for people.
    #[arg(long)]
    name: String,
    /// The organisation that it acts for.
    #[arg(long)]
    org: Option<String>,
    /// The team that it acts for.
    #[arg(long)]
    team: Option<String>,
    /// The person or service that it acts for.
    #[arg(long)]
    user: Option<String>,
    /// A pattern of models that it may ask for, such as gpt-4*; may be repeated. None allows all.
    #[arg(long = "model", value_name = "PATTERN")]
    models: Vec<String>,
    /// A network that it may be used from, such as 10.0.0.0/8; may be repeated. None allows all.
    #[arg(long = "address", value_name = "NETWORK")]
    addresses: Vec<String>,
    /// A label; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// How long it works, such as 30d.
    #[arg(long, value_name = "SPAN", value_parser = span::span, conflicts_with = "expires_at")]
    expires_in: Option<std::time::Duration>,
    /// Until when it works: RFC 3339, or seconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = Timestamp::parse)]
    expires_at: Option<Timestamp>,
    /// Let it work for ever, whatever keys.defaults.expires_in says.
    #[arg(long, conflicts_with_all = ["expires_in", "expires_at"])]
    no_expiry: bool,
    /// The most input tokens of one request.
    #[arg(long, value_name = "TOKENS")]
    max_input_tokens: Option<u64>,
    /// The most output tokens of one request.
    #[arg(long, value_name = "TOKENS")]
    max_output_tokens: Option<u64>,
    /// How its token begins; left out, as the configuration says.
    #[arg(long, value_enum)]
    style: Option<Style>,
}

/// How a token begins.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Style {
    /// marg_live_…
    Marg,
    /// sk-…
    Openai,
    /// sk-ant-…
    Anthropic,
}

/// Which keys to list.
#[derive(Debug, Args)]
pub struct List {
    /// Only those of this organisation.
    #[arg(long)]
    org: Option<String>,
    /// Only those of this team.
    #[arg(long)]
    team: Option<String>,
    /// Only those of this user.
    #[arg(long)]
    user: Option<String>,
    /// Only those in this state.
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// The most keys to list.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "COUNT")]
    limit: u32,
    /// Go on where an earlier list ended.
    #[arg(long)]
    cursor: Option<String>,
}

/// The state of a key.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Status {
    /// It works.
    Active,
    /// It is refused until it is enabled again.
    Disabled,
    /// Its time is over.
    Expired,
    /// It rests, by a policy of the gate.
    Suspended,
    /// It never works again.
    Revoked,
}

const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("NAME", "/name"),
    ("STATUS", "/status"),
    ("ORG", "/org"),
    ("TEAM", "/team"),
    ("USER", "/user"),
    ("TOKEN", "/hint"),
    ("CREATED", "/created_at"),
    ("EXPIRES", "/expires_at"),
];

/// Runs one of the commands.
pub async fn run(command: Keys, door: &Door, format: Format) -> Result {
    match command {
        Keys::Create(create) => {
            let answer = door.ask(Method::POST, "/admin/keys", Some(&create.body())).await?;
            with_token(format, &answer, "key")
        }
        Keys::List(list) => {
            let answer = door.ask(Method::GET, &list.path(), None).await?;
            output::list(format, &answer, "/keys", COLUMNS)?;
            more(format, &answer)
        }
        Keys::Show(which) => output::item(format, &door.ask(Method::GET, &which.path(""), None).await?),
        Keys::Rotate(which) => {
            let answer = door.ask(Method::POST, &which.path("/rotate"), None).await?;
            with_token(format, &answer, "key")
        }
        Keys::Revoke(which) => change(door, format, &which.path("/revoke")).await,
        Keys::Disable(which) => change(door, format, &which.path("/disable")).await,
        Keys::Enable(which) => change(door, format, &which.path("/enable")).await,
        Keys::Release(which) => change(door, format, &which.path("/release")).await,
        Keys::Delete(which) => {
            door.ask(Method::DELETE, &which.path(""), None).await?;
            output::deleted(format, &which.id)
        }
    }
}

async fn change(door: &Door, format: Format, path: &str) -> Result {
    output::item(format, &door.ask(Method::POST, path, None).await?)
}

/// Prints a thing that came with a new token. In a table the token stands alone on the last line, to be copied.
///
/// # Errors
/// When the standard output cannot be written; the error names the thing, which is in force with a token that nobody has seen.
pub fn with_token(format: Format, answer: &Value, noun: &str) -> Result {
    print_with_token(format, answer, noun).map_err(|failure| unseen(failure, answer, noun))
}

fn unseen(failure: Failure, answer: &Value, noun: &str) -> Failure {
    let id = output::text(answer.get(noun).and_then(|thing| thing.get("id")));
    let text = format!("{id} is in force, but its token could not be printed; revoke it, or make it a new one");
    if failure.reader_gone {
        crate::cli::complain(&format!("marg: {text}."));
        return failure;
    }
    Failure { text: format!("{}; {text}.", failure.text), ..failure }
}

fn print_with_token(format: Format, answer: &Value, noun: &str) -> Result {
    if format != Format::Table {
        return output::item(format, answer);
    }
    output::item(format, answer.get(noun).unwrap_or(&Value::Null))?;
    crate::cli::complain("\nThe token is shown this once only:");
    output::line(answer.get("token").and_then(Value::as_str).unwrap_or_default())
}

/// Says on the standard error stream how to see the rest of a list.
pub fn more(format: Format, answer: &Value) -> Result {
    if let (Format::Table, Some(cursor)) = (format, answer.get("next_cursor").and_then(Value::as_str)) {
        crate::cli::complain(&format!("There is more: add --cursor {cursor}"));
    }
    Ok(())
}

/// An id or a name of something that is there.
///
/// # Errors
/// A sentence, when it is empty: it would lead to the list of all.
pub fn named(text: &str) -> std::result::Result<String, String> {
    if text.is_empty() { Err("it is empty".to_owned()) } else { Ok(text.to_owned()) }
}

pub fn label(text: &str) -> std::result::Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| format!("{text:?} is not a label; write name=value"))
}

impl Which {
    fn path(&self, verb: &str) -> String {
        format!("/admin/keys/{}{verb}", encode(&self.id))
    }
}

impl Create {
    fn body(&self) -> Value {
        let expires = self.expires_at.or_else(|| self.expires_in.map(|span| Timestamp::now().plus(span)));
        let labels: Map<String, Value> =
            self.labels.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        let style = self.style.and_then(|style| style.to_possible_value()).map(|value| value.get_name().to_owned());
        let mut body = json!({
            "name": self.name, "org": self.org, "team": self.team, "user": self.user, "addresses": self.addresses,
            "style": style,
        });
        // What is left out is as `keys.defaults` says.
        let given = [
            ("models", (!self.models.is_empty()).then(|| Value::from(self.models.clone()))),
            ("labels", (!labels.is_empty()).then_some(Value::Object(labels))),
            ("expires_at", self.no_expiry.then_some(Value::Null).or_else(|| expires.map(|at| at.rfc3339().into()))),
            ("max_input_tokens", self.max_input_tokens.map(Value::from)),
            ("max_output_tokens", self.max_output_tokens.map(Value::from)),
        ];
        if let Some(body) = body.as_object_mut() {
            body.extend(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        }
        body
    }
}

impl List {
    fn path(&self) -> String {
        let status = self.status.and_then(|status| status.to_possible_value()).map(|value| value.get_name().to_owned());
        with_query(
            "/admin/keys",
            &[
                ("org", self.org.clone()),
                ("team", self.team.clone()),
                ("user", self.user.clone()),
                ("status", status),
                ("limit", Some(self.limit.to_string())),
                ("cursor", self.cursor.clone()),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_whose_token_could_not_be_printed_is_named() {
        let answer = json!({"key": {"id": "key_1"}, "token": "secret"});
        let full = unseen(Failure::failed("No space left on device"), &answer, "key");
        assert!(full.text.starts_with("No space left on device; key_1 is in force"), "{}", full.text);
        assert!(!full.text.contains("secret"));
        let closed = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(unseen(closed, &answer, "key").reader_gone);
    }
}
