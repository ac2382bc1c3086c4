//! What an exchange cost.
//!
//! Sources, in this order: prices stored by operators, the overlay file, the small prices of the simulated provider, the list
//! built into the `genai-prices` crate, and a default price if the operator set one. Admission, settlement and pricing again all
//! go through `Catalog::find`, which says whether the name that was asked for or the one that was served decides. A model that none
//! of them has costs `None`, never zero. Nothing is guessed: a provider
//! without an id in the list gets prices from the overlay only, whatever its models are called. A price once found is kept
//! (at most 4,096 of them), so that `cost` takes about 100 ns.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use genai_prices::Calculator;

use crate::catalog::card::{CLASSES, Card, Media, nanos};
use crate::catalog::list::{self, Span};
use crate::catalog::names;
use crate::catalog::overlay::{Overlay, RATE_LIMIT_USD};
use crate::catalog::simulated;
use crate::catalog::stored::StoredPrice;
use crate::unit::clock::Timestamp;
use crate::unit::money::{NanoUsd, PriceRef};
use crate::unit::usage::{Images, ServiceTier, Usage};

/// Every price that this process knows. Share it behind an `Arc`; a new overlay file makes a new catalog.
pub struct Catalog {
    stored: Overlay,
    overlay: Arc<Overlay>,
    default: Option<Card>,
    hasher: RandomState,
    shards: [RwLock<HashMap<u64, Known>>; SHARDS],
}

const SHARDS: usize = 16;

/// Entries in one shard; a full shard is cleared, since every entry can be found again.
const SHARD_LIMIT: usize = 256;

/// Spans of time that are kept for one model. Two are in use around midnight.
const SPANS_LIMIT: usize = 4;

/// The longest model name that is priced, in bytes.
const MODEL_LIMIT_BYTES: usize = 512;

/// What to price.
#[derive(Clone, Copy, Debug)]
pub struct PriceQuery<'a> {
    /// The provider's name in the configuration; overlay rows may name it.
    pub provider_name: &'a str,
    /// Its id in the price list, if it has one: of the list (`openai`, `openrouter`, …) or `simulated`.
    pub price_provider: Option<&'a str>,
    /// The model that was asked of the provider; dated and prefixed names are understood as the list does.
    pub model: &'a str,
    /// The model that the provider says it served, once it has answered.
    pub served: Option<&'a str>,
    /// When the exchange began.
    pub at: Timestamp,
    /// In which tier it was served, or asked to be.
    pub tier: ServiceTier,
}

/// What an exchange cost, and by which price.
#[derive(Clone, Debug, PartialEq)]
pub struct Cost {
    /// The amount, rounded up once.
    pub amount: NanoUsd,
    /// The price used.
    pub price: PriceRef,
}

/// What the price list knows of a model, for a list of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCard {
    /// The model's id, as its provider calls it.
    pub id: String,
    /// The name for people, if known.
    pub name: Option<String>,
    /// The most tokens that input and output may have together, if known.
    pub context_window: Option<u64>,
}

/// What was found out about one model.
struct Known {
    provider_name: Box<str>,
    price_provider: Option<Box<str>>,
    model: Box<str>,
    tier: ServiceTier,
    /// The latest find first.
    spans: Vec<(Span, Option<Arc<Found>>)>,
}

/// A price, and where it was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    place: Place,
    pub(super) card: Card,
}

/// Where a price was found; what comes first holds first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// In the store, by the model's name.
    Stored,
    /// In the store, by a pattern.
    StoredPattern,
    /// In the overlay file, by the model's name.
    File,
    /// In the overlay file, by a pattern.
    FilePattern,
    /// In the list, or among the prices of the simulated provider.
    List,
    /// It is the price of models without one.
    Default,
}

impl Known {
    fn new(query: &PriceQuery<'_>) -> Self {
        Self {
            provider_name: query.provider_name.into(),
            price_provider: query.price_provider.map(Into::into),
            model: query.model.into(),
            tier: query.tier,
            spans: Vec::new(),
        }
    }

    fn is_about(&self, query: &PriceQuery<'_>) -> bool {
        *self.model == *query.model
            && self.tier == query.tier
            && *self.provider_name == *query.provider_name
            && self.price_provider.as_deref() == query.price_provider
    }
}

impl Catalog {
    /// Reads the operator's overlay file, if there is one. The built-in list is decoded when it is first needed, or by
    /// [`Catalog::warm`].
    ///
    /// # Errors
    /// Every fault of the file, each as `path:line:column: sentence`; a missing file is a fault.
    pub fn load(overlay: Option<&Path>) -> Result<Self, Vec<String>> {
        let overlay = Arc::new(overlay.map(Overlay::load).transpose()?.unwrap_or_default());
        let stored = Overlay::default();
        Ok(Self { stored, overlay, default: None, hasher: RandomState::new(), shards: Default::default() })
    }

    /// The same catalog with prices that operators stored.
    ///
    /// # Errors
    /// Every fault, each as `id:line:column: sentence`.
    pub fn with_stored(mut self, prices: &[StoredPrice]) -> Result<Self, Vec<String>> {
        self.stored = Overlay::stored(prices)?;
        self.shards = Default::default();
        Ok(self)
    }

    /// A catalog with the same file, as it was read, and the same default, and with other prices that operators stored.
    ///
    /// # Errors
    /// As for [`Catalog::with_stored`].
    pub fn restored(&self, prices: &[StoredPrice]) -> Result<Self, Vec<String>> {
        let (overlay, default) = (Arc::clone(&self.overlay), self.default.clone());
        let stored = Overlay::stored(prices)?;
        Ok(Self { stored, overlay, default, hasher: RandomState::new(), shards: Default::default() })
    }

    /// Whether the file of the other one held the same prices when it was read.
    pub fn has_file_of(&self, other: &Self) -> bool {
        self.overlay == other.overlay
    }

    /// The same catalog with a price for models that nothing else prices, in dollars per million tokens of input and output of
    /// every class. An absurd price (below 0, not a number, above 100,000) is not taken; the configuration refuses it before.
    pub fn with_default(mut self, input_usd: f64, output_usd: f64) -> Self {
        // What was found out before may not hold any more.
        self.shards = Default::default();
        let rates = nanos(input_usd, RATE_LIMIT_USD).zip(nanos(output_usd, RATE_LIMIT_USD));
        self.default = rates.map(|(input, output)| {
            let base: [u64; CLASSES] = std::array::from_fn(|class| if class < 6 { input } else { output });
            let price = PriceRef { source: "prices.default".into(), name: "*/*".to_owned(), effective: None };
            Card { base, tiers: Vec::new(), per_request_nanos: 0, images: Vec::new(), price }
        });
        self
    }

    /// Decodes the built-in list on a thread of its own and returns at once. Call it at start if a provider has an id in the
    /// list, so that the first exchange does not wait for it.
    ///
    /// Cost, once in a process: 60 to 75 ms of CPU, 6.4 MB of live memory, 16 to 20 MB of resident memory after the decoder's
    /// own blocks went back to the allocator. A process that only uses the simulated provider or the overlay never pays it.
    pub fn warm(&self) {
        if let Err(error) = std::thread::Builder::new().name("price-list".to_owned()).spawn(Calculator::bundled) {
            // The first exchange that needs the list decodes it instead.
            tracing::warn!(%error, "no thread to decode the price list");
        }
    }

    /// What an exchange cost; `None` if its model has no price, or if the amount is beyond the range of [`NanoUsd`].
    ///
    /// Prices are by token, by request and by image; what a provider bills by other measures (searches, seconds, pages) is not in it.
    /// Images are not either; see [`Catalog::bill`].
    /// Cost: 100 ns (210 ns while two threads ask for the same model), measured; about a millisecond for the first exchange of
    /// a model on a day (UTC).
    pub fn cost(&self, query: &PriceQuery<'_>, usage: &Usage) -> Option<Cost> {
        self.find(query)?.card.cost(usage)
    }

    /// The same with the images that it drew. Without `usage`, tokens that nobody knows: `None` unless they cost nothing, because
    /// the model is billed by the request or by the image, or is free. Cost: as [`Catalog::cost`].
    pub fn bill(&self, query: &PriceQuery<'_>, usage: Option<&Usage>, images: Option<&Images>) -> Option<Cost> {
        self.find(query)?.card.bill(usage, images)
    }

    /// The most that an exchange can cost, if it consumes at most so many tokens: what admission reserves. `None` if its model
    /// has no price; an amount beyond the range of [`NanoUsd`] is the end of it.
    ///
    /// It takes the dearest rates of input (plain, cache reads and writes, and of `media` what may occur) and of output, at the
    /// dearest size of input within the bound, in the tier of the query or the standard one, whichever is dearer, since a provider
    /// may serve another tier than was asked for; plus the price of the request and of its images, each at the dearest price that
    /// what was asked for leaves open. A provider that serves *another model* than it
    /// was asked for (`openrouter/auto`) may cost more. Cost: as [`Catalog::cost`].
    pub fn most(
        &self,
        query: &PriceQuery<'_>,
        input_tokens: u64,
        output_tokens: u64,
        media: Media<'_>,
    ) -> Option<NanoUsd> {
        let asked = self.find(query)?.card.most(input_tokens, output_tokens, media);
        if query.tier == ServiceTier::Standard {
            return Some(asked);
        }
        let standard = PriceQuery { tier: ServiceTier::Standard, ..*query };
        Some(asked.max(self.find(&standard)?.card.most(input_tokens, output_tokens, media)))
    }

    /// The most tokens that a model reads and writes together; `None` if the list does not know the model or does not say. Cost:
    /// a walk of the provider's models.
    pub fn context_window(&self, query: &PriceQuery<'_>) -> Option<u64> {
        let found = self.find(query)?;
        let (provider, id) = found.card.price.name.split_once('/')?;
        list::context_window(provider, id)
    }

    /// The models that the list has of a provider, in the list's order; empty for a provider that it does not have.
    pub fn models(&self, price_provider: &str) -> Vec<ModelCard> {
        if price_provider == simulated::PROVIDER { simulated::models() } else { list::models(price_provider) }
    }

    /// The price in force. Everything that prices asks here.
    ///
    /// The provider bills what it served, so that name is looked up first, in every source. The name that was asked for is looked up,
    /// too, where both mean the same model: then the source decides, and so does, within one, a name before a pattern. If another
    /// model was served, what was asked for counts only where the served one has no price but the default.
    pub(super) fn find(&self, query: &PriceQuery<'_>) -> Option<Arc<Found>> {
        let Some(name) = query.served.filter(|served| *served != query.model) else { return self.find_named(query) };
        let served = self.find_named(&PriceQuery { model: name, ..*query });
        let is_priced = served.as_ref().is_some_and(|served| served.place < Place::Default);
        if is_priced && !names::same(name, query.model) {
            return served;
        }
        match (served, self.find_named(query)) {
            (Some(served), Some(asked)) => Some(if asked.place < served.place { asked } else { served }),
            (served, asked) => served.or(asked),
        }
    }

    /// The price of the model that a query asks about, whatever was served.
    fn find_named(&self, query: &PriceQuery<'_>) -> Option<Arc<Found>> {
        if query.model.len() > MODEL_LIMIT_BYTES {
            return None;
        }
        let hash = self.hasher.hash_one((query.provider_name, query.price_provider, query.model, query.tier));
        let shard = self.shards.get(hash as usize % SHARDS)?;
        {
            let known = shard.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = known.get(&hash).filter(|entry| entry.is_about(query))
                && let Some((_, found)) = entry.spans.iter().find(|(span, _)| span.holds(query.at))
            {
                return found.clone();
            }
        }
        // Found without the lock: two callers may do it twice, none waits for the other.
        let (found, span) = self.resolve(query);
        let found = found.map(Arc::new);
        let mut known = shard.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= SHARD_LIMIT && !known.contains_key(&hash) {
            known.clear();
        }
        let entry = known.entry(hash).or_insert_with(|| Known::new(query));
        if !entry.is_about(query) {
            *entry = Known::new(query);
        }
        entry.spans.truncate(SPANS_LIMIT - 1);
        entry.spans.insert(0, (span, found.clone()));
        found
    }

    /// Asks the sources in turn. Rows of the overlay begin at midnight UTC, so no answer holds beyond its day.
    fn resolve(&self, query: &PriceQuery<'_>) -> (Option<Found>, Span) {
        let day = Span::day(query.at);
        let own =
            [(&self.stored, [Place::StoredPattern, Place::Stored]), (&self.overlay, [Place::FilePattern, Place::File])];
        for (rows, [by_pattern, by_name]) in own {
            if let Some(hit) = rows.find(query) {
                let place = if hit.named { by_name } else { by_pattern };
                return (Some(Found { place, card: hit.card.clone() }), day);
            }
        }
        let (card, span) = Self::listed(query, day);
        let listed = card.map(|card| Found { place: Place::List, card });
        (listed.or_else(|| self.default.clone().map(|card| Found { place: Place::Default, card })), span)
    }

    fn listed(query: &PriceQuery<'_>, day: Span) -> (Option<Card>, Span) {
        match query.price_provider {
            Some(simulated::PROVIDER) => (simulated::card(query.model), day),
            None if query.provider_name == simulated::PROVIDER => (simulated::card(query.model), day),
            Some(provider) => list::resolve(provider, query),
            None => (None, day),
        }
    }
}

#[cfg(test)]
mod tests;
