//! `marg orgs`, `marg teams` and `marg users`: the same commands for three nouns.

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use crate::cli::door::{Door, encode};
use crate::cli::failure::Result;
use crate::cli::keys::label;
use crate::cli::output::{self, Column, Format};

/// What to do with them.
#[derive(Debug, Subcommand)]
pub enum Parties {
    /// List those that have a row.
    List,
    /// Make one.
    Create(Create),
    /// Show one with its keys, its limits and what it used.
    Show(Which),
    /// Change one.
    Update(Update),
    /// Delete one. Its keys keep its name and go on.
    Delete(Which),
    /// Admit its keys again.
    Enable(Which),
    /// Refuse its keys until it is enabled again.
    Disable(Which),
}

/// Which one.
#[derive(Debug, Args)]
pub struct Which {
    /// The name, as keys give it.
    #[arg(value_name = "NAME", value_parser = crate::cli::keys::named)]
    name: String,
}

/// What may be said of it.
#[derive(Debug, Args)]
pub struct Fields {
    /// The organisation that a team or a user belongs to.
    #[arg(long)]
    org: Option<String>,
    /// The team that a user belongs to.
    #[arg(long)]
    team: Option<String>,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// A pattern of models that its keys may ask for; may be repeated. None allows all.
    #[arg(long = "model", value_name = "PATTERN")]
    models: Vec<String>,
    /// A label; may be repeated.
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// The most input tokens of one request.
    #[arg(long, value_name = "TOKENS")]
    max_input_tokens: Option<u64>,
    /// The most output tokens of one request.
    #[arg(long, value_name = "TOKENS")]
    max_output_tokens: Option<u64>,
}

/// A new one.
#[derive(Debug, Args)]
pub struct Create {
    /// The name, as keys give it.
    #[arg(long)]
    name: String,
    #[command(flatten)]
    fields: Fields,
}

/// What to change.
#[derive(Debug, Args)]
pub struct Update {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    fields: Fields,
}

const COLUMNS: &[Column] = &[
    ("NAME", "/name"),
    ("ENABLED", "/enabled"),
    ("ORG", "/org"),
    ("TEAM", "/team"),
    ("MODELS", "/models"),
    ("MAX INPUT", "/max_input_tokens"),
    ("MAX OUTPUT", "/max_output_tokens"),
    ("DESCRIPTION", "/description"),
];

/// Runs one of the commands; `noun` is `orgs`, `teams` or `users`.
pub async fn run(command: Parties, noun: &str, door: &Door, format: Format) -> Result {
    let all = format!("/admin/{noun}");
    let one = |which: &Which, verb: &str| format!("{all}/{}{verb}", encode(&which.name));
    let (method, path, body) = match &command {
        Parties::List => {
            let answer = door.ask(Method::GET, &all, None).await?;
            return output::list(format, &answer, "/items", COLUMNS);
        }
        Parties::Delete(which) => {
            door.ask(Method::DELETE, &one(which, ""), None).await?;
            return output::deleted(format, &which.name);
        }
        Parties::Create(create) => {
            let mut body = create.fields.body();
            body.insert("name".to_owned(), Value::from(create.name.as_str()));
            (Method::POST, all.clone(), Some(Value::Object(body)))
        }
        Parties::Update(update) => (Method::PATCH, one(&update.which, ""), Some(Value::Object(update.fields.body()))),
        Parties::Show(which) => (Method::GET, one(which, ""), None),
        Parties::Enable(which) => (Method::POST, one(which, "/enable"), None),
        Parties::Disable(which) => (Method::POST, one(which, "/disable"), None),
    };
    output::item(format, &door.ask(method, &path, body.as_ref()).await?)
}

impl Fields {
    /// The fields that were given; what was not is left out, so that it stays as it is.
    fn body(&self) -> Map<String, Value> {
        let Self { org, team, description, models, labels, max_input_tokens, max_output_tokens } = self;
        let pairs = || labels.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        let given = [
            ("org", org.as_deref().map(Value::from)),
            ("team", team.as_deref().map(Value::from)),
            ("description", description.as_deref().map(Value::from)),
            ("models", (!models.is_empty()).then(|| Value::from(models.clone()))),
            ("labels", (!labels.is_empty()).then(|| Value::Object(pairs()))),
            ("max_input_tokens", max_input_tokens.map(Value::from)),
            ("max_output_tokens", max_output_tokens.map(Value::from)),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}
