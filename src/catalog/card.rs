//! The price of one model during one span of time, and the exact arithmetic on it.
//!
//! Rates are whole nano-dollars per million tokens, so that an amount is a sum of integers with a single rounding, upwards,
//! at its end. The classes of `unit::usage::Usage` are disjoint, so each is simply multiplied by its rate.

use crate::catalog::prices::Cost;
use crate::unit::money::{NanoUsd, PriceRef};
use crate::unit::usage::{Images, Usage};

/// What an exchange may consume besides text, for an upper bound of its cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Media<'a> {
    /// The input holds audio.
    pub input_audio: bool,
    /// The input holds images.
    pub input_image: bool,
    /// Audio was asked for.
    pub output_audio: bool,
    /// Images were asked for.
    pub output_image: bool,
    /// The request asks for a cache that lives one hour.
    pub cache_1h: bool,
    /// What is to be drawn.
    pub drawn: Drawn<'a>,
}

/// Images that are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drawn<'a> {
    /// How many at most.
    pub most: u64,
    /// Their size; `None` leaves it to the provider.
    pub size: Option<&'a str>,
    /// Their quality; `None` leaves it to the provider.
    pub quality: Option<&'a str>,
}

/// Token counts in the fixed order of the classes: input, cache read, cache write 5 min, cache write 1 h, input audio, input
/// image; output, reasoning, output audio, output image.
pub(super) const CLASSES: usize = 10;

/// Nano-dollars per million tokens, one rate for each class, in the order of [`counts`].
pub(super) type Rates = [u64; CLASSES];

/// The names of the classes in files and answers, in the order of [`counts`].
pub(super) const CLASS_NAMES: [&str; CLASSES] = [
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "input_audio",
    "input_image",
    "output",
    "reasoning",
    "output_audio",
    "output_image",
];

/// The counts of a usage in the fixed order of the classes.
pub(super) fn counts(usage: &Usage) -> [u64; CLASSES] {
    [
        usage.input,
        usage.cache_read,
        usage.cache_write_5m,
        usage.cache_write_1h,
        usage.input_audio,
        usage.input_image,
        usage.output,
        usage.reasoning,
        usage.output_audio,
        usage.output_image,
    ]
}

/// The price of a model.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Card {
    /// The rates while the input is small.
    pub(super) base: Rates,
    /// Rates for larger inputs, ascending by `above`. The size of the whole input chooses one set of rates for the whole
    /// exchange; it is not a marginal scale.
    pub(super) tiers: Vec<Tier>,
    /// Nano-dollars for the exchange itself.
    pub(super) per_request_nanos: u64,
    /// What an image costs, besides its tokens: the first whose conditions hold. The last has none; empty, images have no price
    /// by the piece.
    pub(super) images: Vec<ImagePrice>,
    /// The name of the price.
    pub(super) price: PriceRef,
}

/// What one image of a kind costs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ImagePrice {
    /// Of this size; `None` for any, also one that nobody named.
    pub(super) size: Option<String>,
    /// Of this quality, likewise.
    pub(super) quality: Option<String>,
    pub(super) nanos: u64,
}

impl ImagePrice {
    /// Whether it is the price of images of that size and quality. What nobody named meets no condition.
    fn fits(&self, size: Option<&str>, quality: Option<&str>) -> bool {
        let meets = |wanted: &Option<String>, named: Option<&str>| match (wanted, named) {
            (None, _) => true,
            (Some(wanted), Some(named)) => wanted.eq_ignore_ascii_case(named),
            (Some(_), None) => false,
        };
        meets(&self.size, size) && meets(&self.quality, quality)
    }

    /// Whether it may turn out to be the price: what was not asked for by name the provider chooses.
    fn may_fit(&self, drawn: Drawn<'_>) -> bool {
        let may = |wanted: &Option<String>, named: Option<&str>| {
            wanted.as_deref().zip(named).is_none_or(|(wanted, named)| wanted.eq_ignore_ascii_case(named))
        };
        may(&self.size, drawn.size) && may(&self.quality, drawn.quality)
    }
}

/// Rates that hold when the exchange has more than `above` input tokens, of all classes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tier {
    pub(super) above: u64,
    pub(super) rates: Rates,
}

impl Card {
    /// What tokens and images cost. `None` if nobody knows the tokens and they cost something, or if the amount is beyond the range
    /// of [`NanoUsd`].
    pub(super) fn bill(&self, usage: Option<&Usage>, images: Option<&Images>) -> Option<Cost> {
        let cost = match usage {
            Some(usage) => self.cost(usage)?,
            None => self.fixed()?,
        };
        let Some(images) = images else { return Some(cost) };
        let fits = |price: &&ImagePrice| price.fits(images.size.as_deref(), images.quality.as_deref());
        let each = self.images.iter().find(fits).map_or(0, |price| price.nanos);
        let nanos = i64::try_from(u128::from(each).checked_mul(u128::from(images.count))?).ok()?;
        Some(Cost { amount: NanoUsd(cost.amount.nanos().checked_add(nanos)?), price: cost.price })
    }

    /// What a usage costs; `None` if the amount is beyond the range of [`NanoUsd`].
    pub(super) fn cost(&self, usage: &Usage) -> Option<Cost> {
        let input_total = usage.input_total();
        let rates =
            self.tiers.iter().rev().find(|tier| input_total > tier.above).map_or(&self.base, |tier| &tier.rates);
        // A count and a rate are below 2^64, so ten products stay below 2^132 only in theory: the sum is checked.
        let mut total: u128 = 0;
        for (count, rate) in counts(usage).into_iter().zip(rates) {
            total = total.checked_add(u128::from(count) * u128::from(*rate))?;
        }
        let nanos = total.div_ceil(1_000_000).checked_add(u128::from(self.per_request_nanos))?;
        let amount = NanoUsd(i64::try_from(nanos).ok()?);
        Some(Cost { amount, price: self.price.clone() })
    }

    /// The most that so many tokens may cost, whichever classes they turn out to be of; what is beyond the range of [`NanoUsd`] is
    /// its end. Holds for every smaller usage too, although rates may fall where the input grows.
    pub(super) fn most(&self, input: u64, output: u64, media: Media<'_>) -> NanoUsd {
        let mut most: u128 = 0;
        let mut steps = self.tiers.iter().filter(|tier| tier.above < input).peekable();
        let mut rates = &self.base;
        loop {
            let reach = steps.peek().map_or(input, |tier| tier.above);
            let (input_rate, output_rate) = dearest(rates, media);
            let of_output = u128::from(output).saturating_mul(output_rate);
            most = most.max(u128::from(reach).saturating_mul(input_rate).saturating_add(of_output));
            match steps.next() {
                Some(tier) => rates = &tier.rates,
                None => break,
            }
        }
        let each = self.images.iter().filter(|price| price.may_fit(media.drawn)).map(|price| price.nanos).max();
        let images = u128::from(each.unwrap_or(0)).saturating_mul(u128::from(media.drawn.most));
        let fees = u128::from(self.per_request_nanos).saturating_add(images);
        NanoUsd(i64::try_from(most.div_ceil(1_000_000).saturating_add(fees)).unwrap_or(i64::MAX))
    }

    /// The same price with every rate and fee multiplied by a whole number of millionths, to the nearest.
    pub(super) fn scaled(&self, millionths: u64) -> Self {
        let scale = |rate: u64| {
            let scaled = (u128::from(rate) * u128::from(millionths) + 500_000) / 1_000_000;
            u64::try_from(scaled).unwrap_or(u64::MAX)
        };
        let tiers = self.tiers.iter().map(|tier| Tier { above: tier.above, rates: tier.rates.map(scale) });
        let images = self.images.iter().map(|price| ImagePrice { nanos: scale(price.nanos), ..price.clone() });
        Self {
            base: self.base.map(scale),
            tiers: tiers.collect(),
            per_request_nanos: scale(self.per_request_nanos),
            images: images.collect(),
            price: self.price.clone(),
        }
    }

    /// What every exchange costs that drew nothing, whatever tokens it used; `None` where tokens cost something.
    pub(super) fn fixed(&self) -> Option<Cost> {
        let free = |rates: &Rates| rates.iter().all(|rate| *rate == 0);
        let no_tokens = free(&self.base) && self.tiers.iter().all(|tier| free(&tier.rates));
        if no_tokens { self.cost(&Usage::default()) } else { None }
    }

    /// Whether nothing in it costs anything.
    pub(super) fn is_free(&self) -> bool {
        self.per_request_nanos == 0 && self.images.iter().all(|price| price.nanos == 0) && self.fixed().is_some()
    }
}

/// The dearest rate of input and of output among the classes that may occur.
fn dearest(rates: &Rates, media: Media<'_>) -> (u128, u128) {
    let [input, read, write_5m, write_1h, in_audio, in_image, output, reasoning, audio, image] = rates.map(u128::from);
    let only = |may: bool, rate: u128| if may { rate } else { 0 };
    let of_input = [
        input,
        read,
        // Some providers write to a cache without being asked; only the hour must be asked for.
        write_5m,
        only(media.cache_1h, write_1h),
        only(media.input_audio, in_audio),
        only(media.input_image, in_image),
    ];
    let of_output = [output, reasoning, only(media.output_audio, audio), only(media.output_image, image)];
    (of_input.into_iter().max().unwrap_or(0), of_output.into_iter().max().unwrap_or(0))
}

/// A price in dollars as whole billionths, to the nearest; `None` if it is negative, not a number or above the limit.
pub(super) fn nanos(usd: f64, limit_usd: f64) -> Option<u64> {
    (0.0..=limit_usd).contains(&usd).then(|| (usd * 1e9).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(base: Rates) -> Card {
        let price = PriceRef { source: "test".into(), name: "any/any".to_owned(), effective: None };
        Card { base, tiers: Vec::new(), per_request_nanos: 0, images: Vec::new(), price }
    }

    #[test]
    fn an_amount_beyond_the_range_is_no_amount() {
        let card = card([u64::MAX; CLASSES]);
        assert_eq!(card.cost(&Usage { input: u64::MAX, output: u64::MAX, ..Usage::default() }), None);
        assert_eq!(card.cost(&Usage { input: u64::MAX, ..Usage::default() }), None);
    }

    #[test]
    fn an_amount_is_rounded_up_once_for_the_whole_exchange() {
        // 0.0004 nano-dollars a token in two classes: 3 tokens are 0.0012, rounded up to 1, not to 1 + 1.
        let card = card([400, 400, 0, 0, 0, 0, 0, 0, 0, 0]);
        let usage = Usage { input: 2, cache_read: 1, ..Usage::default() };
        assert_eq!(card.cost(&usage).map(|cost| cost.amount), Some(NanoUsd(1)));
        assert_eq!(card.cost(&Usage::default()).map(|cost| cost.amount), Some(NanoUsd(0)));
    }

    #[test]
    fn a_tier_begins_above_its_limit_and_counts_every_class_of_input() {
        let mut card = card([1_000_000, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        card.tiers = vec![Tier { above: 100, rates: [2_000_000, 0, 0, 0, 0, 0, 0, 0, 0, 0] }];
        let amount = |input, cache_read| {
            card.cost(&Usage { input, cache_read, ..Usage::default() }).map(|cost| cost.amount.nanos())
        };
        assert_eq!(amount(100, 0), Some(100));
        assert_eq!(amount(101, 0), Some(202));
        assert_eq!(amount(1, 100), Some(2));
    }

    #[test]
    fn only_where_tokens_cost_nothing_is_a_cost_known_without_them() {
        let mut by_request = card([0; CLASSES]);
        by_request.per_request_nanos = 7;
        assert_eq!(by_request.fixed().map(|cost| cost.amount), Some(NanoUsd(7)));
        let mut by_size = by_request.clone();
        by_size.tiers = vec![Tier { above: 100, rates: [0, 0, 0, 0, 0, 0, 0, 0, 0, 1] }];
        assert_eq!(by_size.fixed(), None);
        assert_eq!(card([0, 0, 0, 0, 0, 0, 1, 0, 0, 0]).fixed(), None);
        assert!(card([0; CLASSES]).is_free() && !by_request.is_free() && !by_size.is_free());
    }

    #[test]
    fn a_price_that_is_no_price_is_refused() {
        for usd in [-0.1, f64::NAN, f64::INFINITY, 100_000.1] {
            assert_eq!(nanos(usd, 100_000.0), None, "{usd}");
        }
        assert_eq!(nanos(0.0375, 100_000.0), Some(37_500_000));
    }
}
