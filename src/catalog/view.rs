//! Prices for people: the rates of all classes of a model, and what a price file would change.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::catalog::card::{CLASS_NAMES, Card, ImagePrice, Rates};
use crate::catalog::overlay::Overlay;
use crate::catalog::prices::{Catalog, PriceQuery};
use crate::catalog::stored::PriceRow;
use crate::unit::clock::Timestamp;
use crate::unit::usage::ServiceTier;

/// The most models that a pattern of a price file is compared for.
const COMPARED_LIMIT: usize = 2_000;

/// The prices in force and the providers that they are asked for.
#[derive(Clone)]
pub struct Pricing {
    /// The prices.
    pub catalog: Arc<Catalog>,
    /// The configured providers by name, each with its id in the price list, if it has one.
    pub providers: BTreeMap<String, Option<String>>,
}

impl Pricing {
    /// A question about a model of a provider. One that is not configured (any more) has no id in the price list.
    pub fn query<'a>(&'a self, provider: &'a str, model: &'a str, at: Timestamp, tier: ServiceTier) -> PriceQuery<'a> {
        let price_provider = self.providers.get(provider).and_then(Option::as_deref);
        PriceQuery { provider_name: provider, price_provider, model, served: None, at, tier }
    }

    /// The same for people, who may also name a provider by its id in the price list.
    pub fn lookup<'a>(&'a self, provider: &'a str, model: &'a str, at: Timestamp, tier: ServiceTier) -> PriceQuery<'a> {
        let query = self.query(provider, model, at, tier);
        let known = self.providers.contains_key(provider);
        PriceQuery { price_provider: if known { query.price_provider } else { Some(provider) }, ..query }
    }
}

/// What a model costs at a time, in one tier of service.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct PriceView {
    /// Where the price is from: the id of a stored price, the overlay file, or the price list with its version.
    pub source: String,
    /// Its name there: `provider/model`.
    pub name: String,
    /// Since when it holds, if known.
    pub effective: Option<String>,
    /// The tier of service.
    pub service_tier: ServiceTier,
    /// Dollars for each request.
    pub per_request_usd: f64,
    /// Dollars for each image, besides its tokens.
    pub per_image_usd: f64,
    /// Other prices of images; the first that fits holds.
    pub image_prices: Vec<ImagePriceView>,
    /// Dollars per million tokens by class, while the input is small.
    pub usd_per_million_tokens: BTreeMap<String, f64>,
    /// Other rates for larger inputs, ascending.
    pub tiers: Vec<TierView>,
}

/// What an image of a size, of a quality, or of both costs.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct ImagePriceView {
    /// The size; null for any.
    pub size: Option<String>,
    /// The quality; null for any.
    pub quality: Option<String>,
    /// Dollars for each image.
    pub per_image_usd: f64,
}

/// Rates that hold when the input has more than so many tokens.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct TierView {
    /// The size.
    pub above_input_tokens: u64,
    /// Dollars per million tokens by class.
    pub usd_per_million_tokens: BTreeMap<String, f64>,
}

/// What a price file would change about one model.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct PriceChange {
    /// The provider, as the file or the configuration names it.
    pub provider: String,
    /// The model, or the pattern of the file where no model of the list matches it.
    pub model: String,
    /// The price in force; null if there is none.
    pub before: Option<PriceView>,
    /// The price of the file.
    pub after: Option<PriceView>,
}

impl Catalog {
    /// The rates of a model; `None` if it has no price. Cost: as [`Catalog::cost`], and some allocations.
    pub fn rates(&self, query: &PriceQuery<'_>) -> Option<PriceView> {
        self.find(query).map(|found| view(&found.card, query.tier))
    }
}

impl Pricing {
    /// What rows would change about the prices in force, in the order of the rows; what stays as it is is left out. A pattern
    /// is compared for the models of the price list that it matches, 2,000 in all at most.
    ///
    /// # Errors
    /// Every fault of the rows.
    pub fn diff(&self, rows: &[PriceRow], now: Timestamp) -> Result<Vec<PriceChange>, Vec<String>> {
        let text = serde_json::json!({ "prices": rows }).to_string();
        let file = Overlay::parse("file", &text)?;
        let mut changes = Vec::new();
        let mut left = COMPARED_LIMIT;
        for named in file.named(now) {
            let providers: Vec<&str> = match &named.provider {
                Some(provider) => vec![provider],
                None => self.providers.keys().map(String::as_str).collect(),
            };
            for provider in providers {
                for model in self.models(provider, &named.model, &mut left) {
                    let query = self.lookup(provider, &model, named.at, ServiceTier::Standard);
                    let before = self.catalog.rates(&query);
                    let after = file.find(&query).map(|hit| view(hit.card, query.tier));
                    let same = match (&before, &after) {
                        (Some(before), Some(after)) => before.costs_as(after),
                        (before, after) => before.is_none() && after.is_none(),
                    };
                    if !same {
                        changes.push(PriceChange { provider: provider.to_owned(), model, before, after });
                    }
                }
            }
        }
        Ok(changes)
    }

    /// The models of a provider that a pattern means: itself, if it is a name or matches none of the list.
    fn models(&self, provider: &str, pattern: &crate::unit::glob::Glob, left: &mut usize) -> Vec<String> {
        if pattern.is_literal() {
            return vec![pattern.as_str().to_owned()];
        }
        let listed = self.providers.get(provider).map_or(Some(provider), Option::as_deref);
        let cards = listed.map(|listed| self.catalog.models(listed)).unwrap_or_default();
        let matching = cards.into_iter().map(|card| card.id).filter(|id| pattern.matches(id));
        let models: Vec<String> = matching.take(*left).collect();
        *left -= models.len();
        if models.is_empty() { vec![pattern.as_str().to_owned()] } else { models }
    }
}

impl PriceView {
    /// Whether both say the same figures, wherever they are from.
    pub fn costs_as(&self, other: &Self) -> bool {
        self.per_request_usd == other.per_request_usd
            && self.per_image_usd == other.per_image_usd
            && self.image_prices == other.image_prices
            && self.usd_per_million_tokens == other.usd_per_million_tokens
            && self.tiers == other.tiers
    }
}

fn view(card: &Card, service_tier: ServiceTier) -> PriceView {
    let tier = |tier: &crate::catalog::card::Tier| TierView {
        above_input_tokens: tier.above,
        usd_per_million_tokens: named(&tier.rates),
    };
    let (kinds, plain) = match card.images.split_last() {
        Some((last, before)) => (before, last.nanos),
        None => (card.images.as_slice(), 0),
    };
    let kind = |price: &ImagePrice| ImagePriceView {
        size: price.size.clone(),
        quality: price.quality.clone(),
        per_image_usd: price.nanos as f64 / 1e9,
    };
    PriceView {
        source: card.price.source.to_string(),
        name: card.price.name.clone(),
        effective: card.price.effective.clone(),
        service_tier,
        per_request_usd: card.per_request_nanos as f64 / 1e9,
        per_image_usd: plain as f64 / 1e9,
        image_prices: kinds.iter().map(kind).collect(),
        usd_per_million_tokens: named(&card.base),
        tiers: card.tiers.iter().map(tier).collect(),
    }
}

fn named(rates: &Rates) -> BTreeMap<String, f64> {
    CLASS_NAMES.iter().zip(rates).map(|(name, rate)| ((*name).to_owned(), *rate as f64 / 1e9)).collect()
}
