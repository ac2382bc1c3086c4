//! The built-in price list: the `genai-prices` crate, reduced to cards.
//!
//! The crate answers "what does this usage cost", walking its whole list for every question, and shows no rates. A card is
//! found by asking it about chosen usages: each class alone, at each size of input where the price changes, and around the
//! moment asked for. What it answers is linear between those points, so a card gives the crate's own answers, exactly
//! (`a_card_costs_what_the_list_says_for_every_model` in the tests), in about 100 ns.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use genai_prices::{Calculator, PriceRequest, Usage as ListUsage, UsageKey};

use crate::catalog::card::{CLASSES, Card, Rates, Tier, nanos};
use crate::catalog::prices::{ModelCard, PriceQuery};
use crate::unit::clock::Timestamp;
use crate::unit::money::PriceRef;
use crate::unit::usage::ServiceTier;

/// The name and version of the list, as prices name their source.
pub(super) const SOURCE: &str = "genai-prices 0.2.1";

/// What prices from it are called whose audio is from [`AUDIO`].
pub(super) const SOURCE_WITH_AUDIO: &str = "genai-prices 0.2.1, audio by the vendor's page";

/// Where audio is billed apart and the list takes it for text: its name of the model, and dollars a million tokens of audio heard and
/// spoken.
///
/// *Sources*: <https://platform.openai.com/docs/models/gpt-4o-audio-preview>,
/// <https://platform.openai.com/docs/models/gpt-4o-mini-audio-preview>, <https://openrouter.ai/openai/gpt-audio>.
const AUDIO: [(&str, [u64; 2]); 3] = [
    ("openai/gpt-4o-audio-preview", [40, 80]),
    ("openai/gpt-4o-mini-audio-preview", [10, 20]),
    ("openrouter/openai/gpt-audio", [32, 64]),
];

/// Prices in the list change at midnight UTC or at a full or half hour of the day.
const SLOT: Duration = Duration::from_secs(30 * 60);
const SLOTS_A_DAY: i64 = 48;

/// Input sizes between which a change of rates is looked for; the largest is beyond every context window.
const SIZES: [u64; 7] = [1, 50_000, 150_000, 230_000, 400_000, 1_500_000, 20_000_000];

/// No rate in the list is above this, in dollars per million tokens.
const RATE_LIMIT_USD: f64 = 1e6;

/// A span of wall time, `from` included, `until` excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: Timestamp,
    pub(super) until: Timestamp,
}

impl Span {
    /// The day (UTC) that holds a time.
    pub(super) fn day(at: Timestamp) -> Self {
        let from = at.micros().div_euclid(86_400_000_000) * 86_400_000_000;
        Self { from: Timestamp(from), until: Timestamp(from.saturating_add(86_400_000_000)) }
    }

    /// Whether a time lies in it.
    pub(super) fn holds(&self, at: Timestamp) -> bool {
        self.from <= at && at < self.until
    }
}

/// The models of a provider, in the list's order; empty for an unknown provider.
pub(super) fn models(price_provider: &str) -> Vec<ModelCard> {
    let Ok(Some(provider)) = Calculator::bundled().find_provider(Some(price_provider), None) else {
        return Vec::new();
    };
    let card = |model: genai_prices::ModelInfo<'_>| ModelCard {
        id: model.id().to_owned(),
        name: model.name().map(str::to_owned),
        context_window: model.context_window(),
    };
    provider.models().map(card).collect()
}

/// The most tokens that a model reads and writes together, by the list's own names; `None` if the list does not say.
pub(super) fn context_window(price_provider: &str, id: &str) -> Option<u64> {
    let provider = Calculator::bundled().find_provider(Some(price_provider), None).ok()??;
    provider.models().find(|model| model.id() == id)?.context_window()
}

/// The card of a model at a time, and for how long it holds (at most until the end of the day). `None` if the list does not
/// have the model, or has it without a price in tokens or requests. A model without rates of its own for a tier has its ordinary
/// rates there.
///
/// Cost: some hundred walks of the list, about a millisecond.
pub(super) fn resolve(price_provider: &str, query: &PriceQuery<'_>) -> (Option<Card>, Span) {
    let PriceQuery { model, at, tier, .. } = *query;
    let day = Span::day(at);
    let probe = Probe { calculator: Calculator::bundled(), price_provider, model, at, tier };
    let Some(name) = probe.name() else { return (None, day) };
    let span = probe.span(day);
    let card = probe.card(name.clone()).filter(|card| !card.is_free() || is_known_free(&name));
    (card.map(with_audio), span)
}

/// A card with the rates of audio that the list leaves out. A list that has learned them is left alone.
fn with_audio(card: Card) -> Card {
    let Some((_, usd)) = AUDIO.iter().find(|(name, _)| *name == card.price.name) else { return card };
    let [input, read, write_5m, write_1h, in_audio, in_image, output, reasoning, out_audio, out_image] = card.base;
    if in_audio != input || out_audio != output {
        return card;
    }
    let [heard, spoken] = usd.map(|usd| usd * 1_000_000_000);
    let base = [input, read, write_5m, write_1h, heard, in_image, output, reasoning, spoken, out_image];
    let price = PriceRef { source: SOURCE_WITH_AUDIO.into(), ..card.price };
    Card { base, price, ..card }
}

/// Whether a model that the list has without any price is free of charge; of the others with an empty price nothing is known
/// (some come with a subscription, some have only a price by the hour or by the page).
fn is_known_free(name: &str) -> bool {
    name.ends_with(":free") || name == "openai/moderation"
}

/// One model, asked about at one time.
#[derive(Clone, Copy)]
struct Probe<'a> {
    calculator: &'static Calculator,
    price_provider: &'a str,
    model: &'a str,
    at: Timestamp,
    tier: ServiceTier,
}

impl Probe<'_> {
    /// The list's own name of the model, `provider/model`; `None` if it has none.
    fn name(&self) -> Option<String> {
        let found = self.calculate(&overlapping([0.0; CLASSES])).ok()?;
        Some(format!("{}/{}", found.provider_id, found.model_id))
    }

    fn calculate(&self, usage: &ListUsage) -> genai_prices::Result<genai_prices::PriceCalculation> {
        let micros = u64::try_from(self.at.micros()).unwrap_or_default();
        let time: SystemTime = UNIX_EPOCH + Duration::from_micros(micros);
        let request = PriceRequest::new(self.model, usage).with_provider_id(self.price_provider).with_timestamp(time);
        let request = match self.tier {
            ServiceTier::Standard => request,
            ServiceTier::Batch => request.with_price_context("processing", "batch"),
            ServiceTier::Flex | ServiceTier::Priority => request.with_price_context("service_tier", self.tier.as_str()),
        };
        self.calculator.calculate(&request)
    }

    /// The price in dollars of these counts, in the order of the classes.
    fn usd(&self, counts: [f64; CLASSES]) -> Option<f64> {
        self.calculate(&overlapping(counts)).ok().map(|found| found.total_price)
    }

    fn card(&self, name: String) -> Option<Card> {
        let per_request = self.usd([0.0; CLASSES])?;
        let price = PriceRef { source: SOURCE.into(), name, effective: None };
        let base = self.rates(1, per_request)?;
        let mut tiers = Vec::new();
        for above in self.steps(per_request)? {
            tiers.push(Tier { above, rates: self.rates(above.saturating_add(1), per_request)? });
        }
        Some(Card { base, tiers, per_request_nanos: nanos(per_request, RATE_LIMIT_USD)?, images: Vec::new(), price })
    }

    /// The rates of all classes when the input has this many tokens.
    fn rates(&self, input_total: u64, per_request: f64) -> Option<Rates> {
        let size = input_total as f64;
        let plain_input = self.usd(class(0, size))?;
        let mut rates = [0; CLASSES];
        for (index, rate) in rates.iter_mut().enumerate() {
            // The first six classes are input. A class of output is asked for on top of plain input of that size.
            let usd = if index < 6 {
                (self.usd(class(index, size))? - per_request) / size * 1e6
            } else {
                let mut counts = class(index, 1e6);
                if let Some(input) = counts.first_mut() {
                    *input = size;
                }
                self.usd(counts)? - plain_input
            };
            // A float difference may come out a hair below zero.
            *rate = nanos(if usd.abs() < 1e-9 { 0.0 } else { usd }, RATE_LIMIT_USD)?;
        }
        Some(rates)
    }

    /// The input sizes above which other rates hold, ascending.
    fn steps(&self, per_request: f64) -> Option<Vec<u64>> {
        let mut found = Vec::new();
        let mut last: Option<(u64, f64)> = None;
        for size in SIZES {
            let here = self.signature(size, per_request)?;
            if let Some((size_before, before)) = last {
                self.steps_between((size_before, before), (size, here), per_request, &mut found)?;
            }
            last = Some((size, here));
        }
        Some(found)
    }

    /// Adds the steps between two sizes. Halving finds every step whose rates do not return to those before it.
    fn steps_between(&self, low: (u64, f64), high: (u64, f64), per_request: f64, found: &mut Vec<u64>) -> Option<()> {
        if (low.1 - high.1).abs() <= 1e-9 * low.1.abs().max(high.1.abs()) {
            return Some(());
        }
        if high.0 - low.0 == 1 {
            found.push(low.0);
            return Some(());
        }
        let size = low.0 + (high.0 - low.0) / 2;
        let middle = (size, self.signature(size, per_request)?);
        self.steps_between(low, middle, per_request, found)?;
        self.steps_between(middle, high, per_request, found)
    }

    /// One figure that changes whenever the rate of any class does: the price, for each input token, of a mixture of all.
    fn signature(&self, input_total: u64, per_request: f64) -> Option<f64> {
        let size = input_total as f64;
        Some((self.usd(mixture(size))? - per_request) / size)
    }

    /// For how long around its time the price stays the same, within a day.
    fn span(&self, day: Span) -> Span {
        let slot_micros = SLOT.as_micros() as i64;
        let own = (self.at.micros() - day.from.micros()).div_euclid(slot_micros);
        let start_of = |slot: i64| Timestamp(day.from.micros().saturating_add(slot.saturating_mul(slot_micros)));
        let price_in = |slot: i64| {
            let probe = Self { at: start_of(slot), ..*self };
            // A small and a large input, since a price may change for only one of them.
            SIZES
                .first()
                .zip(SIZES.last())
                .map(|(small, large)| (probe.usd(mixture(*small as f64)), probe.usd(mixture(*large as f64))))
        };
        let price = price_in(own);
        let first = (0..own).rev().take_while(|slot| price_in(*slot) == price).last().unwrap_or(own);
        let last = (own + 1..SLOTS_A_DAY).take_while(|slot| price_in(*slot) == price).last().unwrap_or(own);
        Span { from: start_of(first), until: start_of(last + 1) }
    }
}

/// Only one class, by its position.
fn class(index: usize, count: f64) -> [f64; CLASSES] {
    std::array::from_fn(|position| if position == index { count } else { 0.0 })
}

/// A mixture of all classes whose input classes sum to `size`; its parts are halves of halves, so the sum is exact.
fn mixture(size: f64) -> [f64; CLASSES] {
    [1.0 / 2.0, 1.0 / 4.0, 1.0 / 8.0, 1.0 / 16.0, 1.0 / 32.0, 1.0 / 32.0, 1.0 / 2.0, 1.0 / 4.0, 1.0 / 8.0, 1.0 / 16.0]
        .map(|part| part * size)
}

/// The list's way of counting, where a general key contains the particular ones: `input_tokens` holds what the caches read
/// and wrote, audio and images; `output_tokens` holds reasoning. Caches and reasoning are taken to be text, since that is what
/// providers report. Keys that no class feeds are said to be zero, or the list would call the usage incomplete.
pub(super) fn overlapping(counts: [f64; CLASSES]) -> ListUsage {
    let [
        input,
        cache_read,
        write_5m,
        write_1h,
        input_audio,
        input_image,
        output,
        reasoning,
        output_audio,
        output_image,
    ] = counts;
    let write = write_5m + write_1h;
    let text_input = input + cache_read + write;
    let text_output = output + reasoning;
    let mut usage = ListUsage::from([
        (UsageKey::INPUT_TOKENS, text_input + input_audio + input_image),
        (UsageKey::INPUT_TEXT_TOKENS, text_input),
        (UsageKey::INPUT_AUDIO_TOKENS, input_audio),
        (UsageKey::INPUT_IMAGE_TOKENS, input_image),
        (UsageKey::CACHE_READ_TOKENS, cache_read),
        (UsageKey::CACHE_TEXT_READ_TOKENS, cache_read),
        (UsageKey::CACHE_WRITE_TOKENS, write),
        (UsageKey::CACHE_TEXT_WRITE_TOKENS, write),
        (UsageKey::CACHE_WRITE_5M_TOKENS, write_5m),
        (UsageKey::CACHE_TEXT_WRITE_5M_TOKENS, write_5m),
        (UsageKey::CACHE_WRITE_1H_TOKENS, write_1h),
        (UsageKey::CACHE_TEXT_WRITE_1H_TOKENS, write_1h),
        (UsageKey::OUTPUT_TOKENS, text_output + output_audio + output_image),
        (UsageKey::OUTPUT_TEXT_TOKENS, text_output),
        (UsageKey::OUTPUT_REASONING_TOKENS, reasoning),
        (UsageKey::OUTPUT_TEXT_REASONING_TOKENS, reasoning),
        (UsageKey::OUTPUT_AUDIO_TOKENS, output_audio),
        (UsageKey::OUTPUT_IMAGE_TOKENS, output_image),
    ]);
    for key in NOT_COUNTED {
        usage.insert(key, 0.0);
    }
    usage
}

/// Keys that lie within keys of ours and that no provider's usage tells us.
const NOT_COUNTED: [UsageKey; 10] = [
    UsageKey::CACHE_AUDIO_READ_TOKENS,
    UsageKey::CACHE_AUDIO_WRITE_TOKENS,
    UsageKey::CACHE_AUDIO_WRITE_5M_TOKENS,
    UsageKey::CACHE_AUDIO_WRITE_1H_TOKENS,
    UsageKey::CACHE_IMAGE_READ_TOKENS,
    UsageKey::CACHE_IMAGE_WRITE_TOKENS,
    UsageKey::CACHE_IMAGE_WRITE_5M_TOKENS,
    UsageKey::CACHE_IMAGE_WRITE_1H_TOKENS,
    UsageKey::OUTPUT_AUDIO_REASONING_TOKENS,
    UsageKey::OUTPUT_IMAGE_REASONING_TOKENS,
];
