//! Prices that operators keep in the store, on the admin side or with `marg prices`: they win over the overlay file.
//!
//! A row has the same keys as a row of the overlay file and is checked by the same reader.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::catalog::overlay::{self, Overlay};
use crate::error::StoreError;
use crate::unit::clock::Timestamp;
use crate::unit::id;

/// The most stored prices; all are held in memory.
pub const MAX_STORED_PRICES: usize = 10_000;

/// Dollars per million tokens, by class (`input`, `cache_read`, …); `docs/prices.md` lists them.
pub type RatesRow = BTreeMap<String, f64>;

/// One row of prices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceRow {
    /// The provider's name in the configuration, or its id in the price list; left out, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 64)]
    pub provider: Option<String>,
    /// A model, or a pattern such as `gpt-4o*`.
    #[schema(min_length = 1, max_length = 256)]
    pub model: String,
    /// The day (UTC) from which it holds, such as `2026-01-31`; left out, always.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    pub effective: Option<String>,
    /// The first day (UTC) on which it no longer holds; left out, it has no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    pub until: Option<String>,
    /// Dollars per million tokens by class; `input` and `output` are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, f64>>)]
    pub usd_per_million_tokens: Option<RatesRow>,
    /// Dollars for each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 10000)]
    pub per_request_usd: Option<f64>,
    /// Dollars for each image that is drawn, besides its tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 10000)]
    pub per_image_usd: Option<f64>,
    /// Other prices of images by size and quality; the first that fits holds, else `per_image_usd`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub image_prices: Vec<ImagePriceRow>,
    /// Other rates for larger inputs, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub tiers: Vec<TierRow>,
    /// Tiers of service with prices of their own: `batch`, `flex`, `priority`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub service_tiers: BTreeMap<String, ServiceRow>,
}

/// What an image of a size, of a quality, or of both costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImagePriceRow {
    /// The size as requests and answers name it, such as `1024x1536`; left out, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 32)]
    pub size: Option<String>,
    /// The quality, such as `hd`; left out, any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 32)]
    pub quality: Option<String>,
    /// Dollars for each image.
    #[schema(minimum = 0, maximum = 10000)]
    pub per_image_usd: f64,
}

/// Rates that hold when the input has more than so many tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TierRow {
    /// The size.
    #[schema(minimum = 1, maximum = 1000000000000.0)]
    pub above_input_tokens: u64,
    /// Dollars per million tokens by class.
    #[schema(value_type = BTreeMap<String, f64>)]
    pub usd_per_million_tokens: RatesRow,
}

/// What a tier of service costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum ServiceRow {
    /// A factor on the ordinary price.
    Factor(f64),
    /// Rates of its own.
    Rates(ServiceRates),
}

/// Rates of a tier of service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceRates {
    /// Dollars per million tokens by class.
    #[schema(value_type = BTreeMap<String, f64>)]
    pub usd_per_million_tokens: RatesRow,
    /// Other rates for larger inputs, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 16)]
    pub tiers: Vec<TierRow>,
}

/// A price in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredPrice {
    /// `prc_` and 26 characters; never changes.
    pub id: Arc<str>,
    /// What it says.
    pub row: PriceRow,
    /// Who changed it last: the id of an admin token, or `in-process` for the command line on the machine.
    pub changed_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl StoredPrice {
    /// A new price with a new id.
    pub fn new(row: PriceRow, by: &str, now: Timestamp) -> Self {
        let id = id::mint("prc").into();
        Self { id, row, changed_by: by.to_owned(), created_at: now, updated_at: now }
    }
}

impl PriceRow {
    /// Checks it as the overlay file's rows are checked.
    ///
    /// # Errors
    /// The first fault as a sentence.
    pub fn check(&self) -> Result<(), String> {
        let faults = match Overlay::parse("row", &self.document()) {
            Ok(_) => return Ok(()),
            Err(faults) => faults,
        };
        let first = faults.first().map_or("it is no price", String::as_str);
        // The place is one in a text that nobody wrote.
        Err(first.splitn(4, ':').last().unwrap_or(first).trim().to_owned())
    }

    /// The price file that holds this row alone. JSON is YAML.
    pub(super) fn document(&self) -> String {
        serde_json::json!({ "prices": [self] }).to_string()
    }
}

/// The rows of a price file, checked.
///
/// # Errors
/// Every fault, each as `path:line:column: sentence`.
pub fn rows_of_file(path: &Path) -> Result<Vec<PriceRow>, Vec<String>> {
    #[derive(Deserialize)]
    struct File {
        prices: Vec<PriceRow>,
    }
    let (shown, text) = (path.display().to_string(), overlay::read(path)?);
    Overlay::parse(&shown, &text)?;
    let file = serde_saphyr::from_str::<File>(&text);
    file.map(|file| file.prices).map_err(|error| vec![format!("{shown}: {}", error.without_snippet())])
}

/// Where prices are kept. Every write moves the generation on (`KeyStore::generation`), in the same transaction.
///
/// All methods do I/O. All fail with [`StoreError::Away`] when the database cannot be reached and with
/// [`StoreError::Corrupt`] when a row cannot be read.
#[async_trait]
pub trait PriceStore: Send + Sync {
    /// All prices by id; at most [`MAX_STORED_PRICES`].
    async fn prices(&self) -> Result<Vec<StoredPrice>, StoreError>;

    /// Stores prices, all or none. One for the same provider, model and first day as one that is there replaces it, and gets its
    /// id and its time of making. Returns them as stored. [`StoreError::Conflict`] beyond [`MAX_STORED_PRICES`].
    async fn put_prices(&self, prices: &[StoredPrice]) -> Result<Vec<StoredPrice>, StoreError>;

    /// Removes a price. [`StoreError::NotFound`] when there is none of that id.
    async fn delete_price(&self, id: &str) -> Result<(), StoreError>;
}
