//! `marg prices`.

use std::path::PathBuf;

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::catalog::stored::{PriceRow, rows_of_file};
use crate::cli::door::{Door, encode, with_query};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::{self, Column, Format};
use crate::cli::span;
use crate::unit::clock::Timestamp;

/// What to do with prices.
#[derive(Debug, Subcommand)]
pub enum Prices {
    /// Show what a model costs and where its price is from; without a model, the stored prices.
    Show(Show),
    /// Say what a price file would change about the prices in force.
    Diff(File),
    /// Check a price file and store its rows, so that they win over the overlay file.
    Update(File),
    /// Store one price.
    Set(Box<Set>),
    /// Delete a stored price.
    Unset(Unset),
    /// Price a part of the request log again; a dry run unless --apply is given.
    Reprice(Reprice),
}

/// What to show.
#[derive(Debug, Args)]
pub struct Show {
    /// The model.
    #[arg(value_name = "MODEL")]
    model: Option<String>,
    /// At this provider: its name in the configuration or its id in the price list. Left out, at every configured one.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// At this time: RFC 3339, seconds since 1970, or a span such as 30d for that long ago. Left out, now.
    #[arg(long, value_name = "TIME", value_parser = span::past)]
    at: Option<Timestamp>,
}

/// A price file.
#[derive(Debug, Args)]
pub struct File {
    /// The file, with the keys of the overlay file.
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

/// One price. Dollars per million tokens.
#[derive(Debug, Args)]
pub struct Set {
    /// The model, or a pattern such as gpt-4o*.
    #[arg(value_name = "MODEL")]
    model: String,
    /// Of this provider only.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// From this day (UTC) on, such as 2026-01-31.
    #[arg(long, value_name = "DAY")]
    effective: Option<String>,
    /// The first day (UTC) on which it no longer holds.
    #[arg(long, value_name = "DAY")]
    until: Option<String>,
    /// Of input.
    #[arg(long, value_name = "USD", requires = "output_rate", value_parser = rate, allow_negative_numbers = true)]
    input: Option<f64>,
    /// Of output; `--output` is the format of what is printed.
    #[arg(long = "output-tokens", id = "output_rate", value_name = "USD", requires = "input", value_parser = rate, allow_negative_numbers = true)]
    output_rate: Option<f64>,
    /// Of another class, such as cache_read=0.25; may be repeated.
    #[arg(long = "class", value_name = "NAME=USD", value_parser = class, requires = "input")]
    classes: Vec<(String, f64)>,
    /// Of each request, in dollars.
    #[arg(long, value_name = "USD", required_unless_present_any = ["input", "per_image"], value_parser = rate, allow_negative_numbers = true)]
    per_request: Option<f64>,
    /// Of each image that is drawn, in dollars.
    #[arg(long, value_name = "USD", value_parser = rate, allow_negative_numbers = true)]
    per_image: Option<f64>,
    /// Of images of a size, of a quality, or of both, such as size=1024x1792,quality=hd,usd=0.12; may be repeated, the first that
    /// fits holds.
    #[arg(long = "image-price", value_name = "KIND", value_parser = image_price, requires = "per_image")]
    image_prices: Vec<Value>,
    /// A factor for a tier of service, such as batch=0.5; may be repeated.
    #[arg(long = "service-tier", value_name = "NAME=FACTOR", value_parser = class)]
    service_tiers: Vec<(String, f64)>,
}

/// Which stored price.
#[derive(Debug, Args)]
pub struct Unset {
    /// The id, such as prc_06d3m0s1x9qg3v5c8e7k2a4n1r.
    #[arg(value_name = "ID", value_parser = crate::cli::keys::named)]
    id: String,
}

/// Which part of the request log.
#[derive(Debug, Args)]
pub struct Reprice {
    /// Records that started at that time or later: RFC 3339, seconds since 1970, or a span such as 7d.
    #[arg(long, value_name = "TIME", value_parser = span::past)]
    since: Timestamp,
    /// Records that started before that time; left out, now.
    #[arg(long, value_name = "TIME", value_parser = span::past)]
    until: Option<Timestamp>,
    /// Records of models of this pattern, requested or served.
    #[arg(long, value_name = "PATTERN")]
    model: Option<String>,
    /// Records of this provider.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Write the new costs and move the counters of dollar limits.
    #[arg(long)]
    apply: bool,
}

const STORED: &[Column] = &[
    ("ID", "/id"),
    ("PROVIDER", "/price/provider"),
    ("MODEL", "/price/model"),
    ("EFFECTIVE", "/price/effective"),
    ("UNTIL", "/price/until"),
    ("INPUT", "/price/usd_per_million_tokens/input"),
    ("OUTPUT", "/price/usd_per_million_tokens/output"),
    ("REQUEST", "/price/per_request_usd"),
    ("IMAGE", "/price/per_image_usd"),
    ("CHANGED BY", "/changed_by"),
];

const RATES: &[Column] = &[
    ("PROVIDER", "/provider"),
    ("TIER", "/service_tier"),
    ("ABOVE", "/above"),
    ("INPUT", "/rates/input"),
    ("READ", "/rates/cache_read"),
    ("WRITE 5M", "/rates/cache_write_5m"),
    ("WRITE 1H", "/rates/cache_write_1h"),
    ("AUDIO IN", "/rates/input_audio"),
    ("IMAGE IN", "/rates/input_image"),
    ("OUTPUT", "/rates/output"),
    ("REASONING", "/rates/reasoning"),
    ("AUDIO OUT", "/rates/output_audio"),
    ("IMAGE OUT", "/rates/output_image"),
    ("REQUEST", "/request"),
    ("IMAGE", "/image"),
    ("OF KIND", "/kind"),
    ("SOURCE", "/source"),
    ("EFFECTIVE", "/effective"),
];

const CHANGES: &[Column] = &[
    ("PROVIDER", "/provider"),
    ("MODEL", "/model"),
    ("INPUT", "/before/usd_per_million_tokens/input"),
    ("NEW", "/after/usd_per_million_tokens/input"),
    ("OUTPUT", "/before/usd_per_million_tokens/output"),
    ("NEW", "/after/usd_per_million_tokens/output"),
    ("IMAGE", "/before/per_image_usd"),
    ("NEW", "/after/per_image_usd"),
    ("SOURCE", "/before/source"),
];

/// Runs one of the commands.
pub async fn run(command: Prices, door: &Door, format: Format) -> Result {
    match command {
        Prices::Show(show) => show.run(door, format).await,
        Prices::Diff(file) => {
            let answer = door.ask(Method::POST, "/admin/prices/diff", Some(&file.rows()?)).await?;
            output::list(format, &answer, "/changes", CHANGES)
        }
        Prices::Update(file) => {
            let answer = door.ask(Method::PUT, "/admin/prices", Some(&file.rows()?)).await?;
            output::list(format, &answer, "/prices", STORED)
        }
        Prices::Set(set) => {
            let body = json!({ "prices": [set.row()] });
            let answer = door.ask(Method::PUT, "/admin/prices", Some(&body)).await?;
            output::list(format, &answer, "/prices", STORED)
        }
        Prices::Unset(unset) => {
            door.ask(Method::DELETE, &format!("/admin/prices/{}", encode(&unset.id)), None).await?;
            match format {
                Format::Table => output::line(&format!("deleted {}", unset.id)),
                _ => output::item(format, &json!({ "deleted": unset.id })),
            }
        }
        Prices::Reprice(reprice) => {
            let answer = door.ask(Method::POST, "/admin/prices/reprice", Some(&reprice.body())).await?;
            told(format, &answer)
        }
    }
}

impl Show {
    async fn run(&self, door: &Door, format: Format) -> Result {
        let Some(model) = &self.model else {
            let answer = door.ask(Method::GET, "/admin/prices", None).await?;
            return output::list(format, &answer, "/prices", STORED);
        };
        let at = self.at.map(Timestamp::rfc3339);
        let pairs = [("model", Some(model.clone())), ("provider", self.provider.clone()), ("at", at)];
        let answer = door.ask(Method::GET, &with_query("/admin/prices/lookup", &pairs), None).await?;
        if format != Format::Table {
            return output::item(format, &answer);
        }
        let prices = answer.get("prices").and_then(Value::as_array);
        let rows: Vec<Value> = prices.into_iter().flatten().flat_map(rate_rows).collect();
        if rows.is_empty() {
            return Err(Failure::new(crate::cli::failure::Exit::NotFound, format!("{model} has no price.")));
        }
        output::line(output::table(&rows, RATES).trim_end())
    }
}

/// One row for each size of input and for each kind of image.
fn rate_rows(price: &Value) -> Vec<Value> {
    let of = |pointer: &str| price.pointer(pointer).cloned().unwrap_or_default();
    let row = |above: Value, rates: Value| {
        json!({
            "provider": of("/provider"), "service_tier": of("/price/service_tier"), "above": above, "rates": rates,
            "request": of("/price/per_request_usd"), "image": of("/price/per_image_usd"), "source": of("/price/source"),
            "effective": of("/price/effective"),
        })
    };
    let base = row(Value::Null, of("/price/usd_per_million_tokens"));
    let tiers = of("/price/tiers");
    let larger = tiers.as_array().into_iter().flatten().map(|tier| {
        let part = |name: &str| tier.get(name).cloned().unwrap_or_default();
        row(part("above_input_tokens"), part("usd_per_million_tokens"))
    });
    let kinds = of("/price/image_prices");
    let images = kinds.as_array().into_iter().flatten().map(|image| {
        let words = ["size", "quality"].iter().filter_map(|name| image.get(*name)?.as_str());
        json!({
            "provider": of("/provider"), "service_tier": of("/price/service_tier"), "image": image.get("per_image_usd"),
            "kind": words.collect::<Vec<_>>().join(" "), "source": of("/price/source"),
            "effective": of("/price/effective"),
        })
    });
    std::iter::once(base).chain(larger).chain(images).collect()
}

impl File {
    fn rows(&self) -> Result<Value> {
        let rows: Vec<PriceRow> = rows_of_file(&self.file).map_err(|faults| Failure::failed(faults.join("\n")))?;
        Ok(json!({ "prices": rows }))
    }
}

impl Set {
    fn row(&self) -> Value {
        let mut rates: Map<String, Value> =
            self.classes.iter().map(|(name, usd)| (name.clone(), Value::from(*usd))).collect();
        for (name, usd) in [("input", self.input), ("output", self.output_rate)] {
            if let Some(usd) = usd {
                rates.insert(name.to_owned(), Value::from(usd));
            }
        }
        let tiers: Map<String, Value> =
            self.service_tiers.iter().map(|(name, factor)| (name.clone(), Value::from(*factor))).collect();
        let rates = if rates.is_empty() { Value::Null } else { Value::Object(rates) };
        json!({
            "provider": self.provider, "model": self.model, "effective": self.effective, "until": self.until,
            "usd_per_million_tokens": rates, "per_request_usd": self.per_request, "service_tiers": tiers,
            "per_image_usd": self.per_image, "image_prices": self.image_prices,
        })
    }
}

impl Reprice {
    fn body(&self) -> Value {
        json!({
            "dry_run": !self.apply, "since": self.since.rfc3339(), "until": self.until.map(Timestamp::rfc3339),
            "model": self.model, "provider": self.provider,
        })
    }
}

fn rate(text: &str) -> std::result::Result<f64, String> {
    let usd = text.parse::<f64>().ok().filter(|usd| usd.is_finite() && *usd >= 0.0);
    usd.ok_or_else(|| "this is not a price; write dollars, 0 or more, such as 2.50".to_owned())
}

fn image_price(text: &str) -> std::result::Result<Value, String> {
    let wrong = || format!("{text:?} is no price of an image; write size=1024x1792,quality=hd,usd=0.12");
    let mut row = Map::new();
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        let (name, value) = match name.trim() {
            "usd" => ("per_image_usd", Value::from(rate(value.trim())?)),
            name @ ("size" | "quality") => (name, Value::from(value.trim())),
            _ => return Err(wrong()),
        };
        if row.insert(name.to_owned(), value).is_some() {
            return Err(wrong());
        }
    }
    if row.len() > 1 && row.contains_key("per_image_usd") { Ok(Value::Object(row)) } else { Err(wrong()) }
}

fn class(text: &str) -> std::result::Result<(String, f64), String> {
    let pair = text.split_once('=').and_then(|(name, usd)| Some((name.to_owned(), usd.parse::<f64>().ok()?)));
    pair.filter(|(name, usd)| !name.is_empty() && usd.is_finite())
        .ok_or_else(|| format!("{text:?} is not a name and a number; write name=0.25"))
}

/// Prints a report of pricing again: the totals first, then the largest differences.
fn told(format: Format, report: &Value) -> Result {
    if format != Format::Table {
        return output::item(format, report);
    }
    let number = |name: &str| report.get(name).and_then(Value::as_i64).unwrap_or_default();
    let usd = |name: &str| dollars(number(name));
    let dry = report.get("dry_run").and_then(Value::as_bool).unwrap_or(true);
    output::line(&format!(
        "{} of {} records {}: {} USD became {} USD, {} USD more",
        number("changed"),
        number("records"),
        if dry { "would change" } else { "were changed" },
        usd("before_nano_usd"),
        usd("after_nano_usd"),
        usd("difference_nano_usd"),
    ))?;
    for (name, sentence) in [
        ("unpriced", "have no price now and keep their cost"),
        ("without_usage", "have no token counts"),
        ("skipped", "changed in the meantime; run it again"),
    ] {
        if number(name) > 0 {
            output::line(&format!("{} {sentence}", number(name)))?;
        }
    }
    let mut rows = Vec::new();
    for part in ["models", "keys", "teams", "counters", "uncertain"] {
        for row in report.get(part).and_then(Value::as_array).into_iter().flatten() {
            let difference = row.get("difference_nano_usd").and_then(Value::as_i64).unwrap_or_default();
            rows.push(json!({ "part": part, "name": row.get("name"), "usd": dollars(difference) }));
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    output::line(output::table(&rows, &[("BY", "/part"), ("NAME", "/name"), ("USD MORE", "/usd")]).trim_end())
}

fn dollars(nanos: i64) -> String {
    crate::unit::money::NanoUsd(nanos).to_string()
}
