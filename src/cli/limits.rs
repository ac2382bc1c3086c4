//! `marg limits`.

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::cli::door::{Door, encode, with_query};
use crate::cli::failure::Result;
use crate::cli::output::{self, Column, Format};

/// What to do with limits.
#[derive(Debug, Subcommand)]
pub enum Limits {
    /// List limits: those of the configuration file, then the stored ones.
    List(List),
    /// Make a limit.
    Create(Create),
    /// Show one limit.
    Show(Which),
    /// Change a stored limit. What is spent on it stays.
    Update(Update),
    /// Delete a stored limit, and forget what is spent on it.
    Delete(Which),
    /// Take back what is spent on a limit.
    Reset(Reset),
    /// Show what is spent, leased and left, the most spent first.
    State(State),
}

/// Which limit.
#[derive(Debug, Args)]
pub struct Which {
    /// The id, such as lim_06d3m0s1x9qg3v5c8e7k2a4n1r.
    #[arg(value_name = "ID", value_parser = crate::cli::keys::named)]
    id: String,
}

/// Which limits to list.
#[derive(Debug, Args)]
pub struct List {
    /// Only those of this scope.
    #[arg(long)]
    scope: Option<String>,
    /// Only those for this subject.
    #[arg(long)]
    subject: Option<String>,
}

/// What may be said of a new limit and of a change alike.
#[derive(Debug, Args)]
pub struct Fields {
    /// A name for people.
    #[arg(long)]
    name: Option<String>,
    /// A pattern of models that it is for, as callers name them; may be repeated. None is all.
    #[arg(long = "model", value_name = "PATTERN")]
    models: Vec<String>,
    /// The amount of tokens, requests or running calls.
    #[arg(long, conflicts_with = "amount_usd", value_name = "NUMBER", allow_negative_numbers = true)]
    amount: Option<i64>,
    /// The amount in dollars, such as 12.50; for the unit usd.
    #[arg(long, value_name = "DOLLARS", allow_negative_numbers = true)]
    amount_usd: Option<String>,
    /// What happens when a call does not fit: refuse, downgrade or warn.
    #[arg(long)]
    action: Option<String>,
    /// The model that is asked for instead; of downgrade only.
    #[arg(long, value_name = "MODEL")]
    downgrade_to: Option<String>,
    /// The share of the amount that must be left for the model that was asked for, in percent; of downgrade only.
    #[arg(long, value_name = "PERCENT")]
    downgrade_below: Option<u8>,
    /// A share of the amount at which operators are told, in percent; may be repeated.
    #[arg(long = "warn-at", value_name = "PERCENT")]
    warn_at: Vec<u8>,
}

/// A new limit.
#[derive(Debug, Args)]
pub struct Create {
    /// Whose consumption: gateway, org, team, user, key, model, tag or session.
    #[arg(long)]
    scope: String,
    /// Whose exactly: a name, or a key's id. Left out, each one by itself.
    #[arg(long)]
    subject: Option<String>,
    /// What it counts: usd, input_tokens, output_tokens, tokens, requests or concurrent.
    #[arg(long)]
    unit: String,
    /// The span of time: minute, hour, day, month, total, or now for concurrent.
    #[arg(long)]
    window: String,
    /// The time zone of a day or a month, such as Europe/Berlin; UTC when left out.
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,
    /// Let the amount of a minute flow in evenly, at most so much at once; 1 is strict spacing.
    #[arg(long, conflicts_with = "burst_usd", value_name = "NUMBER", allow_negative_numbers = true)]
    burst: Option<i64>,
    /// The same in dollars, for the unit usd.
    #[arg(long, value_name = "DOLLARS", allow_negative_numbers = true)]
    burst_usd: Option<String>,
    /// Make it, but let it count nothing yet.
    #[arg(long)]
    disabled: bool,
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
    /// Put it in force.
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Let it count and refuse nothing.
    #[arg(long)]
    disable: bool,
}

/// What to take back.
#[derive(Debug, Args)]
pub struct Reset {
    #[command(flatten)]
    which: Which,
    /// Only of this subject.
    #[arg(long)]
    subject: Option<String>,
}

/// Whose state to show.
#[derive(Debug, Args)]
pub struct State {
    /// The id of one limit; left out, all.
    #[arg(value_name = "ID")]
    id: Option<String>,
    /// The most counters to show.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "COUNT")]
    limit: u32,
}

/// The columns of limits; also of those that an org, a team or a user has.
pub const COLUMNS: &[Column] = &[
    ("ID", "/id"),
    ("NAME", "/name"),
    ("SCOPE", "/scope"),
    ("SUBJECT", "/subject"),
    ("AMOUNT", "/shown"),
    ("UNIT", "/unit"),
    ("WINDOW", "/window"),
    ("ACTION", "/action"),
    ("ENABLED", "/enabled"),
    ("ORIGIN", "/origin"),
];

const STATE_COLUMNS: &[Column] = &[
    ("LIMIT", "/limit_name"),
    ("SUBJECT", "/subject"),
    ("UNIT", "/unit"),
    ("CAP", "/cap/shown"),
    ("SPENT", "/spent/shown"),
    ("LEASED", "/leased/shown"),
    ("REMAINING", "/remaining/shown"),
    ("RESETS", "/resets_at"),
];

/// Runs one of the commands.
pub async fn run(command: Limits, door: &Door, format: Format) -> Result {
    match command {
        Limits::List(List { scope, subject }) => {
            let path = with_query("/admin/limits", &[("scope", scope), ("subject", subject)]);
            let answer = door.ask(Method::GET, &path, None).await?;
            output::list(format, &for_people(format, answer), "/limits", COLUMNS)
        }
        Limits::Create(create) => {
            output::item(format, &door.ask(Method::POST, "/admin/limits", Some(&create.body())).await?)
        }
        Limits::Show(which) => output::item(format, &door.ask(Method::GET, &which.path(""), None).await?),
        Limits::Update(update) => {
            let body = update.body();
            output::item(format, &door.ask(Method::PATCH, &update.which.path(""), Some(&body)).await?)
        }
        Limits::Delete(which) => {
            door.ask(Method::DELETE, &which.path(""), None).await?;
            output::deleted(format, &which.id)
        }
        Limits::Reset(Reset { which, subject }) => {
            let body = json!({ "subject": subject });
            output::item(format, &door.ask(Method::POST, &which.path("/reset"), Some(&body)).await?)
        }
        Limits::State(State { id, limit }) => {
            let path = id.map_or_else(|| "/admin/limits/state".to_owned(), |id| Which { id }.path("/state"));
            let answer = door.ask(Method::GET, &with_query(&path, &[("limit", Some(limit.to_string()))]), None).await?;
            output::list(format, &for_people(format, answer), "/counters", STATE_COLUMNS)
        }
    }
}

/// Puts one amount, whatever its unit, where the columns of a table find it.
pub fn for_people(format: Format, mut answer: Value) -> Value {
    fn visit(value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(visit),
            Value::Object(fields) => {
                let amount =
                    ["amount_usd", "amount"].iter().find_map(|name| fields.get(*name).filter(|one| !one.is_null()));
                if let Some(amount) = amount.cloned() {
                    fields.insert("shown".to_owned(), amount);
                }
                fields.values_mut().for_each(visit);
            }
            _ => {}
        }
    }
    if format == Format::Table {
        visit(&mut answer);
    }
    answer
}

impl Which {
    fn path(&self, verb: &str) -> String {
        format!("/admin/limits/{}{verb}", encode(&self.id))
    }
}

impl Fields {
    /// The fields that were given; what was not is left out, so that it stays as it is.
    fn body(&self) -> Map<String, Value> {
        let Self { name, models, amount, amount_usd, action, downgrade_to, downgrade_below, warn_at } = self;
        let given = [
            ("name", name.as_deref().map(Value::from)),
            ("models", (!models.is_empty()).then(|| Value::from(models.clone()))),
            ("amount", amount.map(Value::from)),
            ("amount_usd", amount_usd.as_deref().map(Value::from)),
            ("action", action.as_deref().map(Value::from)),
            ("downgrade_to", downgrade_to.as_deref().map(Value::from)),
            ("downgrade_below_percent", downgrade_below.map(Value::from)),
            ("warn_at_percent", (!warn_at.is_empty()).then(|| Value::from(warn_at.clone()))),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

impl Create {
    fn body(&self) -> Value {
        let mut body = self.fields.body();
        let own = json!({
            "scope": self.scope, "subject": self.subject, "unit": self.unit, "window": self.window, "timezone": self.timezone,
            "burst": self.burst, "burst_usd": self.burst_usd, "enabled": !self.disabled,
        });
        body.extend(own.as_object().into_iter().flatten().map(|(name, value)| (name.clone(), value.clone())));
        Value::Object(body)
    }
}

impl Update {
    fn body(&self) -> Value {
        let mut body = self.fields.body();
        if self.enable || self.disable {
            body.insert("enabled".to_owned(), Value::from(self.enable));
        }
        Value::Object(body)
    }
}
