//! `marg spend`.

use axum::http::Method;
use clap::{Args, ValueEnum};

use crate::cli::door::{Door, with_query};
use crate::cli::failure::Result;
use crate::cli::output::{self, Column, Format};
use crate::cli::requests::Which;

/// Who spent most.
#[derive(Debug, Args)]
pub struct Spend {
    /// What to group by.
    #[arg(long, value_enum, default_value_t)]
    by: By,
    #[command(flatten)]
    which: Which,
    /// The most groups to list.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "COUNT")]
    limit: u32,
}

/// What to group by.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum By {
    /// The key.
    #[default]
    Key,
    /// The organisation of the key.
    Org,
    /// The team of the key.
    Team,
    /// The user of the key.
    User,
    /// The model served.
    Model,
    /// The provider that answered.
    Provider,
    /// The tags that callers sent.
    Tag,
}

const COLUMNS: &[Column] = &[
    ("NAME", "/name"),
    ("REQUESTS", "/requests"),
    ("ERRORS", "/errors"),
    ("INPUT TOKENS", "/input_tokens"),
    ("OUTPUT TOKENS", "/output_tokens"),
    ("COST USD", "/cost_usd"),
    ("UNPRICED", "/unpriced"),
];

/// Prints who spent most.
pub async fn run(spend: Spend, door: &Door, format: Format) -> Result {
    let by = spend.by.to_possible_value().map(|value| value.get_name().to_owned());
    let mut pairs = vec![("by", by), ("limit", Some(spend.limit.to_string()))];
    pairs.extend(spend.which.pairs());
    let answer = door.ask(Method::GET, &with_query("/admin/spend", &pairs), None).await?;
    output::list(format, &answer, "/spenders", COLUMNS)
}
