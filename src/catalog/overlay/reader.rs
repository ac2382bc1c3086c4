//! Reads a price file: walks its tree, row by row, and gathers every fault with its place.

use std::sync::Arc;

use super::{Dated, Group, Overlay, RATE_LIMIT_USD};
use crate::catalog::card::{CLASS_NAMES, Card, ImagePrice, Rates, Tier, nanos};
use crate::catalog::yaml::{Node, Value};
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;
use crate::unit::money::PriceRef;
use crate::unit::usage::ServiceTier;

/// The most rows in a file.
const ROWS_LIMIT: usize = 10_000;

/// The most sizes of input at which the rates of a row change.
const TIERS_LIMIT: usize = 16;

/// The most prices of images by size and quality in a row.
const IMAGES_LIMIT: usize = 64;

/// The longest name of a size or quality, in bytes.
const KIND_LIMIT_BYTES: usize = 32;

/// The dearest price of one request, or of one image, that is believed, in dollars.
const REQUEST_LIMIT_USD: f64 = 10_000.0;

/// The largest factor for a tier of service.
const FACTOR_LIMIT: f64 = 100.0;

/// Adds the rows of a text to an overlay; every fault, each as `source:line:column: sentence`.
pub(super) fn read(source: &str, text: &str, overlay: &mut Overlay) -> Vec<String> {
    let mut reader = Reader { source: source.into(), faults: Vec::new(), overlay };
    match Node::parse(text) {
        Ok(root) => reader.root(&root),
        Err((line, column, sentence)) => reader.faults.push(format!("{source}:{line}:{column}: {sentence}")),
    }
    reader.faults
}

/// Walks the tree and gathers faults.
struct Reader<'o> {
    source: Arc<str>,
    faults: Vec<String>,
    overlay: &'o mut Overlay,
}

impl Reader<'_> {
    fn fault(&mut self, at: &Node, sentence: &str) {
        self.faults.push(format!("{}:{}:{}: {sentence}", self.source, at.line, at.column));
    }

    fn root(&mut self, root: &Node) {
        let Value::Map(entries) = &root.value else {
            self.fault(root, "a price file is a map with the one key `prices`");
            return;
        };
        let mut rows = None;
        for (key, value) in entries {
            match &key.value {
                Value::Text(name) if name == "prices" => rows = Some(value),
                _ => self.fault(key, "unknown key; a price file has the one key `prices`"),
            }
        }
        match rows.map(|node| (node, &node.value)) {
            Some((_, Value::List(rows))) if rows.len() <= ROWS_LIMIT => rows.iter().for_each(|row| self.row(row)),
            Some((node, Value::List(_))) => self.fault(node, &format!("more than {ROWS_LIMIT} rows")),
            Some((node, _)) => self.fault(node, &format!("`prices` is a list of rows, not {}", node.kind())),
            None => self.fault(root, "the key `prices` is missing"),
        }
    }

    fn row(&mut self, node: &Node) {
        let Value::Map(entries) = &node.value else {
            self.fault(node, &format!("a row is a map with `model` and a price, not {}", node.kind()));
            return;
        };
        let faults_before = self.faults.len();
        let mut row = Row::default();
        for (key, value) in entries {
            match &key.value {
                Value::Text(name) => self.field(&mut row, name, key, value),
                _ => self.fault(key, "a key is a text"),
            }
        }
        if row.model.is_none() && self.faults.len() == faults_before {
            self.fault(node, "the row has no `model`; write a name or a pattern such as gpt-4o*");
        }
        if let (Some((from, _)), Some(until)) = (&row.effective, row.until)
            && until <= *from
        {
            self.fault(node, "the row ends before it begins; `until` is the first day on which it no longer holds");
        }
        if !row.priced && self.faults.len() == faults_before {
            let text =
                "the row has no price; write `usd_per_million_tokens`, `per_request_usd`, `per_image_usd` or several";
            self.fault(node, text);
        }
        if !row.images.is_empty() && row.per_image_nanos.is_none() && self.faults.len() == faults_before {
            self.fault(node, "`image_prices` needs `per_image_usd`, the price of every other image");
        }
        if self.faults.len() == faults_before {
            self.take(node, row);
        }
    }

    fn field(&mut self, row: &mut Row, name: &str, key: &Node, value: &Node) {
        match (name, &value.value) {
            ("provider", Value::Text(text)) if !text.is_empty() => row.provider = Some(text.clone()),
            ("provider", _) => self.fault(value, "`provider` is the name of a provider; leave it out for any"),
            ("model", Value::Text(text)) => match Glob::new(text) {
                Ok(model) => row.model = Some(model),
                Err(sentence) => self.fault(value, &sentence),
            },
            ("model", _) => self.fault(value, "`model` is a name or a pattern such as gpt-4o*"),
            ("effective", Value::Text(text)) => match midnight(text) {
                Some(from) => row.effective = Some((from, text.clone())),
                None => self.fault(value, "`effective` is a date since 1970 such as 2026-01-31"),
            },
            ("effective", _) => self.fault(value, "`effective` is a date such as 2026-01-31"),
            ("until", Value::Text(text)) => match midnight(text) {
                Some(until) => row.until = Some(until),
                None => self.fault(value, "`until` is a date since 1970 such as 2026-01-31"),
            },
            ("until", _) => self.fault(value, "`until` is a date such as 2026-01-31"),
            ("tiers", _) => row.tiers = self.tiers(value),
            ("service_tiers", Value::Map(entries)) => {
                row.services = entries.iter().filter_map(|(key, value)| self.service(key, value)).collect();
            }
            ("service_tiers", _) => self.fault(value, "`service_tiers` is a map such as {batch: 0.5}"),
            ("per_request_usd", _) => {
                row.priced = true;
                row.per_request_nanos = self.price(value, REQUEST_LIMIT_USD).unwrap_or_default();
            }
            ("per_image_usd", _) => {
                row.priced = true;
                row.per_image_nanos = self.price(value, REQUEST_LIMIT_USD);
            }
            ("image_prices", _) => row.images = self.images(value),
            ("usd_per_million_tokens", Value::Map(entries)) => {
                row.priced = true;
                row.rates = self.rates(value, entries).unwrap_or_default();
            }
            ("usd_per_million_tokens", _) => {
                self.fault(value, "`usd_per_million_tokens` is a map such as {input: 2.5, output: 10}");
            }
            _ => self.fault(
                key,
                &format!(
                    "unknown key `{}`; a row has provider, model, effective, until, usd_per_million_tokens, tiers, \
                     per_request_usd, per_image_usd, image_prices, service_tiers",
                    name.escape_debug()
                ),
            ),
        }
    }

    /// Prices of images by size and quality, none of which an earlier one hides.
    fn images(&mut self, node: &Node) -> Vec<ImagePrice> {
        let items = match &node.value {
            Value::List(items) if items.len() <= IMAGES_LIMIT => items,
            _ => {
                let text = format!(
                    "`image_prices` is a list of at most {IMAGES_LIMIT} kinds such as {{quality: hd, per_image_usd: 0.08}}"
                );
                self.fault(node, &text);
                return Vec::new();
            }
        };
        let mut images: Vec<ImagePrice> = Vec::new();
        for item in items {
            let Some(image) = self.image(item) else { continue };
            let hides = |earlier: &ImagePrice| {
                let covers = |earlier: &Option<String>, later: &Option<String>| {
                    earlier.as_deref().is_none_or(|name| later.as_deref().is_some_and(|x| x.eq_ignore_ascii_case(name)))
                };
                covers(&earlier.size, &image.size) && covers(&earlier.quality, &image.quality)
            };
            if images.iter().any(hides) {
                self.fault(item, "an earlier kind hides this one; write the particular ones first");
            }
            images.push(image);
        }
        images
    }

    fn image(&mut self, node: &Node) -> Option<ImagePrice> {
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            _ => &[],
        };
        let (mut size, mut quality, mut price) = (None, None, None);
        for (key, value) in entries {
            match (&key.value, &value.value) {
                (Value::Text(name), Value::Text(kind)) if (1..=KIND_LIMIT_BYTES).contains(&kind.len()) => {
                    match name.as_str() {
                        "size" => size = Some(kind.clone()),
                        "quality" => quality = Some(kind.clone()),
                        _ => self.fault(key, "unknown key; a kind of image has size, quality, per_image_usd"),
                    }
                }
                (Value::Text(name), _) if name == "per_image_usd" => price = Some(self.price(value, REQUEST_LIMIT_USD)),
                (Value::Text(name), _) if name == "size" || name == "quality" => {
                    self.fault(value, &format!("`{name}` is a name of at most {KIND_LIMIT_BYTES} bytes"));
                }
                _ => self.fault(key, "unknown key; a kind of image has size, quality, per_image_usd"),
            }
        }
        match price {
            // A price that is none was told of already.
            Some(nanos) if size.is_some() || quality.is_some() => Some(ImagePrice { size, quality, nanos: nanos? }),
            _ => {
                self.fault(node, "a kind of image needs `size`, `quality` or both, and `per_image_usd`");
                None
            }
        }
    }

    /// Rates for larger inputs, which must ascend.
    fn tiers(&mut self, node: &Node) -> Vec<Tier> {
        let items = match &node.value {
            Value::List(items) if items.len() <= TIERS_LIMIT => items,
            _ => {
                let text = format!("`tiers` is a list of at most {TIERS_LIMIT} sizes, each with above_input_tokens");
                self.fault(node, &text);
                return Vec::new();
            }
        };
        let mut tiers: Vec<Tier> = Vec::new();
        for item in items {
            let Some(tier) = self.tier(item) else { continue };
            if tiers.last().is_some_and(|last| last.above >= tier.above) {
                self.fault(item, "the sizes of `tiers` ascend");
            }
            tiers.push(tier);
        }
        tiers
    }

    fn tier(&mut self, node: &Node) -> Option<Tier> {
        let Value::Map(entries) = &node.value else {
            self.fault(node, "a tier is a map with `above_input_tokens` and `usd_per_million_tokens`");
            return None;
        };
        let (mut above, mut rates) = (None, None);
        for (key, value) in entries {
            match (&key.value, &value.value) {
                (Value::Text(name), Value::Number(size)) if name == "above_input_tokens" => {
                    let whole = (1.0..=1e12).contains(size) && size.fract() == 0.0;
                    above = whole.then_some(*size as u64);
                }
                (Value::Text(name), Value::Map(entries)) if name == "usd_per_million_tokens" => {
                    rates = Some(self.rates(value, entries)?);
                }
                _ => self.fault(key, "a tier has the keys `above_input_tokens` and `usd_per_million_tokens`"),
            }
        }
        if above.is_none() || rates.is_none() {
            self.fault(node, "a tier needs a whole number of `above_input_tokens` and `usd_per_million_tokens`");
        }
        Some(Tier { above: above?, rates: rates? })
    }

    /// One tier of service: a factor on the ordinary price, or rates of its own.
    fn service(&mut self, key: &Node, value: &Node) -> Option<(ServiceTier, Service)> {
        let known = [ServiceTier::Batch, ServiceTier::Flex, ServiceTier::Priority];
        let tier = match &key.value {
            Value::Text(name) => known.into_iter().find(|tier| tier.as_str() == name),
            _ => None,
        };
        let Some(tier) = tier else {
            self.fault(key, "unknown tier of service; there are batch, flex, priority");
            return None;
        };
        match &value.value {
            Value::Number(factor) if (0.0..=FACTOR_LIMIT).contains(factor) => {
                Some((tier, Service::Factor((factor * 1e6).round() as u64)))
            }
            Value::Map(entries) => self.service_rates(value, entries).map(|service| (tier, service)),
            _ => {
                let text = format!(
                    "a tier of service is a factor from 0 to {FACTOR_LIMIT} on the ordinary price, or a map with \
                     `usd_per_million_tokens`"
                );
                self.fault(value, &text);
                None
            }
        }
    }

    fn service_rates(&mut self, node: &Node, entries: &[(Node, Node)]) -> Option<Service> {
        let (mut rates, mut tiers) = (None, Vec::new());
        for (key, value) in entries {
            match (&key.value, &value.value) {
                (Value::Text(name), Value::Map(entries)) if name == "usd_per_million_tokens" => {
                    rates = Some(self.rates(value, entries)?);
                }
                (Value::Text(name), _) if name == "tiers" => tiers = self.tiers(value),
                _ => self.fault(key, "a tier of service has the keys `usd_per_million_tokens` and `tiers`"),
            }
        }
        if rates.is_none() {
            self.fault(node, "a tier of service needs `usd_per_million_tokens`, or is a plain factor");
        }
        Some(Service::Rates(rates?, tiers))
    }

    /// The rates of a row. A class that is left out costs what the class that contains it costs: caches, audio and images of
    /// the input as `input`; reasoning, audio and images of the output as `output`.
    fn rates(&mut self, node: &Node, entries: &[(Node, Node)]) -> Option<Rates> {
        let mut found: [Option<u64>; CLASS_NAMES.len()] = [None; CLASS_NAMES.len()];
        let faults_before = self.faults.len();
        for (key, value) in entries {
            let slot = match &key.value {
                Value::Text(name) => CLASS_NAMES.iter().position(|class| class == name),
                _ => None,
            };
            match slot.and_then(|slot| found.get_mut(slot)) {
                Some(slot) => *slot = self.price(value, RATE_LIMIT_USD),
                None => self.fault(key, &format!("unknown class of tokens; there are {}", CLASS_NAMES.join(", "))),
            }
        }
        let [input, cache_read, write_5m, write_1h, input_audio, input_image, output, reasoning, audio, image] = found;
        let (Some(plain_input), Some(plain_output)) = (input, output) else {
            if self.faults.len() == faults_before {
                self.fault(node, "both `input` and `output` are needed; write 0 for what costs nothing");
            }
            return None;
        };
        let of_input = |price: Option<u64>| price.unwrap_or(plain_input);
        let of_output = |price: Option<u64>| price.unwrap_or(plain_output);
        Some([
            plain_input,
            of_input(cache_read),
            of_input(write_5m),
            write_1h.or(write_5m).unwrap_or(plain_input),
            of_input(input_audio),
            of_input(input_image),
            plain_output,
            of_output(reasoning),
            of_output(audio),
            of_output(image),
        ])
    }

    fn price(&mut self, node: &Node, limit_usd: f64) -> Option<u64> {
        let found = match node.value {
            Value::Number(usd) => nanos(usd, limit_usd),
            _ => None,
        };
        if found.is_none() {
            self.fault(node, &format!("a price is a number of dollars from 0 to {limit_usd}"));
        }
        found
    }

    fn take(&mut self, node: &Node, row: Row) {
        let Some(model) = row.model else { return };
        let (from, date) = row.effective.map_or((Timestamp(0), None), |(from, date)| (from, Some(date)));
        let name = format!("{}/{model}", row.provider.as_deref().unwrap_or("*"));
        let price = PriceRef { source: Arc::clone(&self.source), name, effective: date };
        let mut images = row.images;
        images.extend(row.per_image_nanos.map(|nanos| ImagePrice { size: None, quality: None, nanos }));
        let per_request_nanos = row.per_request_nanos;
        let standard = Card { base: row.rates, tiers: row.tiers, per_request_nanos, images, price };
        let card_of = |service: Service| match service {
            Service::Factor(millionths) => standard.scaled(millionths),
            Service::Rates(base, tiers) => Card { base, tiers, ..standard.clone() },
        };
        let tiers = row.services.into_iter().map(|(tier, service)| (tier, card_of(service))).collect();
        let dated = Dated { from, until: row.until, standard, tiers };
        let same = |group: &&mut Group| group.provider == row.provider && group.model == model;
        let Some(group) = self.overlay.groups.iter_mut().find(same) else {
            self.overlay.groups.push(Group { provider: row.provider, model, rows: vec![dated] });
            return;
        };
        match group.rows.binary_search_by_key(&from, |row| row.from) {
            Ok(_) => self.fault(node, "another row has the same provider, model and date"),
            Err(index) => group.rows.insert(index, dated),
        }
    }
}

/// What is read of a row so far.
#[derive(Default)]
struct Row {
    provider: Option<String>,
    model: Option<Glob>,
    effective: Option<(Timestamp, String)>,
    until: Option<Timestamp>,
    rates: Rates,
    tiers: Vec<Tier>,
    services: Vec<(ServiceTier, Service)>,
    per_request_nanos: u64,
    per_image_nanos: Option<u64>,
    images: Vec<ImagePrice>,
    priced: bool,
}

/// What a tier of service costs.
enum Service {
    /// So many millionths of the ordinary price, those of the request and of images included.
    Factor(u64),
    /// Rates of its own; the request and images cost the same.
    Rates(Rates, Vec<Tier>),
}

/// The first moment (UTC) of a date written YYYY-MM-DD.
fn midnight(text: &str) -> Option<Timestamp> {
    let date: jiff::civil::Date = (text.len() == 10).then(|| text.parse().ok()).flatten()?;
    let moment = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_microsecond();
    (moment >= 0).then_some(Timestamp(moment))
}
