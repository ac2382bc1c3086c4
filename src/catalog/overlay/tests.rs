use super::*;
use crate::unit::money::NanoUsd;
use crate::unit::usage::{ServiceTier, Usage};

fn faults(text: &str) -> Vec<String> {
    Overlay::parse("p.yaml", text).err().unwrap_or_default()
}

#[track_caller]
fn check_fault(text: &str, place: &str, words: &str) {
    let faults = faults(text);
    assert_eq!(faults.len(), 1, "{text}: {faults:?}");
    assert!(faults[0].starts_with(&format!("p.yaml:{place}: ")) && faults[0].contains(words), "{faults:?}");
}

fn row(line: &str) -> String {
    format!("prices:\n  - model: m\n    usd_per_million_tokens: {{input: 1, output: 2}}\n    {line}\n")
}

fn rates(entries: &str) -> String {
    format!("prices:\n  - model: m\n    usd_per_million_tokens: {{{entries}}}\n")
}

#[test]
fn what_is_not_a_price_file_is_refused() {
    check_fault("", "1:1", "prices");
    check_fault("[]", "1:1", "the one key `prices`");
    check_fault("prices: 7", "1:9", "a list of rows, not a number");
    check_fault("prices: []\nrates: []\n", "2:1", "unknown key");
    check_fault("prices:\n  - 7\n", "2:5", "a row is a map");
    assert_eq!(faults("prices: [").len(), 1);
    assert_eq!(faults("prices: []\nprices: []\n").len(), 1, "a duplicate key");
    assert!(!faults(&"[".repeat(100_000)).is_empty());
}

#[test]
fn a_row_with_a_fault_is_refused_in_its_place() {
    check_fault(&row("modell: x"), "4:5", "unknown key `modell`");
    check_fault(&row("provider:"), "4:13", "`provider`");
    check_fault(&row("provider: [a]"), "4:15", "`provider`");
    check_fault(&row("effective: 2026-02-30"), "4:16", "`effective`");
    check_fault(&row("effective: 1969-12-31"), "4:16", "`effective`");
    check_fault(&row("effective: 2026"), "4:16", "`effective`");
    check_fault(&row("per_request_usd: -1"), "4:22", "a price");
    check_fault(&row("per_request_usd: 10001"), "4:22", "a price");
    check_fault("prices:\n  - usd_per_million_tokens: {input: 1, output: 2}\n", "2:5", "no `model`");
    check_fault("prices:\n  - model: ''\n    per_request_usd: 1\n", "2:12", "empty");
    check_fault("prices:\n  - model: m\n", "2:5", "no price");
    check_fault("prices:\n  - model: m\n    usd_per_million_tokens: 7\n", "3:29", "a map such as");
}

#[test]
fn a_rate_that_is_no_price_is_refused() {
    check_fault(&rates("input: -0.1, output: 2"), "3:37", "a price");
    check_fault(&rates("input: 100000.1, output: 2"), "3:37", "a price");
    check_fault(&rates("input: '1', output: 2"), "3:37", "a price");
    check_fault(&rates("input: , output: 2"), "3:35", "a price");
    check_fault(&rates("input: 1, output: 2, thoughts: 3"), "3:51", "unknown class");
    check_fault(&rates("input: 1"), "3:29", "both `input` and `output`");
    assert!(!faults(&rates("input: .nan, output: 2")).is_empty());
    assert!(!faults(&rates("input: .inf, output: 2")).is_empty());
}

#[test]
fn all_faults_are_told_at_once() {
    let text = "prices:\n  - model: m\n    colour: red\n  - per_request_usd: -1\n  - model: ''\ntaxes: 1\n";
    assert_eq!(faults(text).len(), 4, "{:?}", faults(text));
}

#[test]
fn two_rows_for_the_same_thing_are_refused() {
    let text = "prices:\n  - {model: m, per_request_usd: 1}\n  - {model: m, per_request_usd: 2}\n";
    check_fault(text, "3:5", "another row");
}

fn find(text: &str, provider: &str, model: &str, day: &str) -> Option<String> {
    let overlay = Overlay::parse("p.yaml", text).unwrap();
    let at = Timestamp::parse(&format!("{day}T00:00:00Z")).unwrap();
    let query = PriceQuery {
        provider_name: provider,
        price_provider: Some("listed"),
        model,
        served: None,
        at,
        tier: ServiceTier::Standard,
    };
    overlay.find(&query).map(|hit| format!("{} {}", hit.card.price.name, hit.card.per_request_nanos / 1_000_000_000))
}

#[test]
fn the_first_match_of_the_file_wins_and_of_its_dates_the_latest_in_effect() {
    let text = "
prices:
  - {model: gpt-*, provider: mine, effective: 2026-03-01, per_request_usd: 3}
  - {model: gpt-4, per_request_usd: 9}
  - {model: gpt-*, provider: mine, effective: 2026-01-01, per_request_usd: 1}
  - {model: gpt-*, provider: listed, per_request_usd: 5}
";
    let found = |provider, model, day| find(text, provider, model, day);
    assert_eq!(found("mine", "claude", "2026-01-01"), None);
    assert_eq!(found("mine", "gpt-4", "2025-12-31").as_deref(), Some("*/gpt-4 9"));
    assert_eq!(found("mine", "gpt-4", "2026-01-01").as_deref(), Some("mine/gpt-* 1"));
    assert_eq!(found("mine", "gpt-4", "2026-03-01").as_deref(), Some("mine/gpt-* 3"));
    assert_eq!(found("mine", "gpt-5", "2025-12-31").as_deref(), Some("listed/gpt-* 5"));
    assert_eq!(found("other", "gpt-5", "2026-05-01").as_deref(), Some("listed/gpt-* 5"));
}

#[test]
fn a_row_for_a_name_holds_with_a_date_behind_it_unless_another_row_says_more() {
    let text = "
prices:
  - {model: gpt-4o, provider: mine, effective: 2026-02-01, per_request_usd: 1}
  - {model: gpt-*, per_request_usd: 2}
  - {model: gpt-4o-2024-05-*, per_request_usd: 3}
  - {model: gpt-4o-2024-11-20, per_request_usd: 4}
  - {model: gpt-4, per_request_usd: 5}
";
    let found = |provider, model| find(text, provider, model, "2026-03-01");
    assert_eq!(found("mine", "gpt-4o-mini").as_deref(), Some("*/gpt-* 2"), "another model");
    assert_eq!(found("mine", "gpt-4o-2024-08-06").as_deref(), Some("mine/gpt-4o 1"));
    assert_eq!(found("mine", "gpt-4o-2024-05-13").as_deref(), Some("*/gpt-4o-2024-05-* 3"));
    assert_eq!(found("mine", "gpt-4o-2024-11-20").as_deref(), Some("*/gpt-4o-2024-11-20 4"));
    assert_eq!(found("other", "gpt-4o-2024-08-06").as_deref(), Some("*/gpt-* 2"));
    assert_eq!(found("mine", "gpt-4-0613").as_deref(), Some("*/gpt-* 2"), "the pattern stands above it");
    assert_eq!(find(text, "mine", "gpt-4o-2024-08-06", "2026-01-01").as_deref(), Some("*/gpt-* 2"), "not yet");
}

#[test]
fn a_class_that_is_left_out_costs_what_its_kind_costs() {
    let all = Usage {
        input: 1_000_000,
        cache_read: 1_000_000,
        cache_write_5m: 1_000_000,
        cache_write_1h: 1_000_000,
        input_audio: 1_000_000,
        input_image: 1_000_000,
        output: 1_000_000,
        reasoning: 1_000_000,
        output_audio: 1_000_000,
        output_image: 1_000_000,
    };
    let usd = |entries: &str| {
        let overlay = Overlay::parse("p.yaml", &rates(entries)).unwrap();
        let query = PriceQuery {
            provider_name: "p",
            price_provider: None,
            model: "m",
            served: None,
            at: Timestamp(0),
            tier: ServiceTier::Standard,
        };
        overlay.find(&query).unwrap().card.cost(&all).unwrap().amount
    };
    assert_eq!(usd("input: 1, output: 10"), NanoUsd(46_000_000_000));
    assert_eq!(usd("input: 1, output: 10, cache_write_5m: 2, cache_read: 0"), NanoUsd(47_000_000_000));
    assert_eq!(usd("input: 1, output: 10, reasoning: 0, output_audio: 20"), NanoUsd(46_000_000_000));
}

#[test]
fn the_example_in_the_repository_is_good() {
    let text = include_str!("../../../conf/prices.yaml");
    let overlay = Overlay::parse("conf/prices.yaml", text).unwrap();
    assert!(overlay.groups.len() >= 4);
    let page = include_str!("../../../docs/prices.md");
    assert!(page.contains(text.split_once("prices:\n").unwrap().1.trim_end()), "docs/prices.md shows another file");
}

#[test]
fn a_row_with_tiers_that_make_no_sense_is_refused_in_its_place() {
    let tier = |more: &str| row(&format!("tiers: {more}"));
    check_fault(&tier("7"), "4:12", "`tiers` is a list");
    check_fault(&tier("[7]"), "4:13", "a tier is a map");
    check_fault(&tier("[{above_input_tokens: 5}]"), "4:13", "a tier needs");
    check_fault(
        &tier("[{above_input_tokens: 1.5, usd_per_million_tokens: {input: 1, output: 1}}]"),
        "4:13",
        "a tier needs",
    );
    let size = |above: u64| format!("{{above_input_tokens: {above}, usd_per_million_tokens: {{input: 1, output: 1}}}}");
    assert!(faults(&tier(&format!("[{}, {}]", size(5), size(5))))[0].contains("ascend"));
    check_fault(&row("service_tiers: 0.5"), "4:20", "`service_tiers` is a map");
    check_fault(&row("service_tiers: {fast: 2}"), "4:21", "unknown tier of service");
    check_fault(&row("service_tiers: {batch: -1}"), "4:28", "a factor from 0 to 100");
    check_fault(&row("service_tiers: {batch: {}}"), "4:28", "needs `usd_per_million_tokens`");
    check_fault(&row("effective: 2026-02-01\n    until: 2026-02-01"), "2:5", "ends before it begins");
}

#[test]
fn larger_inputs_and_tiers_of_service_have_their_own_rates() {
    let text = "prices:\n  - model: m\n    usd_per_million_tokens: {input: 2, output: 10}\n    per_request_usd: 1\n    \
                tiers: [{above_input_tokens: 100, usd_per_million_tokens: {input: 4, output: 20}}]\n    \
                service_tiers: {batch: 0.5, priority: {usd_per_million_tokens: {input: 3, output: 30}}}\n";
    let overlay = Overlay::parse("p.yaml", text).unwrap();
    let nanos = |tier, input| {
        let query =
            PriceQuery { provider_name: "p", price_provider: None, model: "m", served: None, at: Timestamp(0), tier };
        let usage = Usage { input, output: 10, ..Usage::default() };
        overlay.find(&query).unwrap().card.cost(&usage).unwrap().amount.nanos()
    };
    let fee = 1_000_000_000;
    assert_eq!(nanos(ServiceTier::Standard, 100), fee + 100 * 2_000 + 10 * 10_000);
    assert_eq!(nanos(ServiceTier::Standard, 101), fee + 101 * 4_000 + 10 * 20_000);
    assert_eq!(nanos(ServiceTier::Flex, 100), nanos(ServiceTier::Standard, 100), "no price of its own");
    assert_eq!(nanos(ServiceTier::Batch, 101) * 2, nanos(ServiceTier::Standard, 101), "the fee is halved too");
    assert_eq!(nanos(ServiceTier::Priority, 101), fee + 101 * 3_000 + 10 * 30_000, "its own rates, whatever the size");
}

#[test]
fn a_price_with_an_end_gives_way_to_the_one_before() {
    let text = "prices:\n  - model: m\n    per_request_usd: 2\n  - model: m\n    effective: 2026-06-01\n    \
                until: 2026-07-01\n    per_request_usd: 1\n";
    let overlay = Overlay::parse("p.yaml", text).unwrap();
    let nanos = |time: &str| {
        let (at, tier) = (Timestamp::parse(time).unwrap(), ServiceTier::Standard);
        let query = PriceQuery { provider_name: "p", price_provider: None, model: "m", served: None, at, tier };
        overlay.find(&query).unwrap().card.cost(&Usage::default()).unwrap().amount.nanos()
    };
    assert_eq!(nanos("2026-05-31T23:59:59Z"), 2_000_000_000);
    assert_eq!(nanos("2026-06-01T00:00:00Z"), 1_000_000_000);
    assert_eq!(nanos("2026-07-01T00:00:00Z"), 2_000_000_000);
}

#[test]
fn stored_prices_go_from_the_particular_to_the_general() {
    use crate::catalog::stored::{PriceRow, StoredPrice};
    let price = |provider: Option<&str>, model: &str, usd: f64| {
        let row = PriceRow {
            provider: provider.map(str::to_owned),
            model: model.to_owned(),
            per_request_usd: Some(usd),
            ..PriceRow::default()
        };
        StoredPrice::new(row, "tok", Timestamp(0))
    };
    let stored =
        [price(None, "*", 1.0), price(None, "gpt-*", 2.0), price(None, "gpt-4o", 3.0), price(Some("p"), "gpt-4o", 4.0)];
    let overlay = Overlay::stored(&stored).unwrap();
    let found = |provider_name, model| {
        let (at, tier) = (Timestamp(0), ServiceTier::Standard);
        let query = PriceQuery { provider_name, price_provider: None, model, served: None, at, tier };
        let cost = overlay.find(&query).unwrap().card.cost(&Usage::default()).unwrap();
        (cost.amount.nanos() / 1_000_000_000, cost.price.source)
    };
    assert_eq!(found("p", "claude"), (1, stored[0].id.clone()));
    assert_eq!(found("p", "gpt-5"), (2, stored[1].id.clone()));
    assert_eq!(found("q", "gpt-4o"), (3, stored[2].id.clone()));
    assert_eq!(found("p", "gpt-4o"), (4, stored[3].id.clone()));
}

#[test]
fn a_row_with_prices_of_images_that_make_no_sense_is_refused_in_its_place() {
    check_fault(&row("per_image_usd: -0.04"), "4:20", "a price");
    check_fault(&row("per_image_usd: 10001"), "4:20", "a price");
    let kinds = |more: &str| row(&format!("per_image_usd: 1\n    image_prices: {more}"));
    check_fault(&kinds("7"), "5:19", "`image_prices` is a list");
    check_fault(&kinds("[7]"), "5:20", "needs `size`, `quality` or both");
    check_fault(&kinds("[{per_image_usd: 1}]"), "5:20", "needs `size`, `quality` or both");
    check_fault(&kinds("[{quality: hd}]"), "5:20", "and `per_image_usd`");
    check_fault(&kinds("[{quality: hd, per_image_usd: .5, style: vivid}]"), "5:53", "unknown key");
    assert_eq!(faults(&kinds("[{quality: hd, per_image_usd: -1}]")).len(), 1);
    assert_eq!(
        faults(&kinds(&format!("[{{size: '', per_image_usd: 1}}, {{size: {}, per_image_usd: 1}}]", "9".repeat(40))))
            .len(),
        4
    );
    check_fault(
        &kinds("[{quality: hd, per_image_usd: 1}, {size: 1x1, quality: HD, per_image_usd: 2}]"),
        "5:53",
        "hides",
    );
    check_fault(&row("image_prices: [{quality: hd, per_image_usd: 1}]"), "2:5", "needs `per_image_usd`");
}

#[test]
fn an_image_costs_what_the_first_kind_that_fits_says_and_is_bounded_by_the_dearest_that_may() {
    use crate::catalog::card::{Drawn, Media};
    use crate::unit::usage::Images;
    let text = "prices:\n  - model: m\n    per_image_usd: 1\n    service_tiers: {batch: 0.5}\n    image_prices: \
                [{size: 2x2, quality: hd, per_image_usd: 4}, {quality: hd, per_image_usd: 3}, {size: 2x2, per_image_usd: 2}]\n";
    let overlay = Overlay::parse("p.yaml", text).unwrap();
    let card = |tier| {
        let query =
            PriceQuery { provider_name: "p", price_provider: None, model: "m", served: None, at: Timestamp(0), tier };
        overlay.find(&query).unwrap().card.clone()
    };
    let standard = card(ServiceTier::Standard);
    let cases = [
        (None, None, 1, 4),
        (Some("1x1"), None, 1, 3),
        (Some("2x2"), None, 2, 4),
        (None, Some("HD"), 3, 4),
        (Some("1x1"), Some("hd"), 3, 3),
        (Some("2X2"), Some("hd"), 4, 4),
        (Some("2x2"), Some("low"), 2, 2),
        (Some("1x1"), Some("low"), 1, 1),
    ];
    let usd = |amount: i64| Some(NanoUsd(amount * 1_000_000_000));
    for (size, quality, each, most) in cases {
        let named = |word: Option<&str>| word.map(str::to_owned);
        let images = Images { count: 3, size: named(size), quality: named(quality) };
        let bill = standard.bill(None, Some(&images)).map(|cost| cost.amount);
        assert_eq!(bill, usd(3 * each), "{size:?} {quality:?}");
        let media = Media { drawn: Drawn { most: 3, size, quality }, ..Media::default() };
        assert_eq!(Some(standard.most(10, 10, media)), usd(3 * most), "{size:?} {quality:?}");
    }
    let one = Images { count: 1, ..Images::default() };
    assert_eq!(card(ServiceTier::Batch).bill(None, Some(&one)).unwrap().amount, NanoUsd(500_000_000));
    assert_eq!(standard.bill(None, None).unwrap().amount, NanoUsd(0));
    assert_eq!(standard.bill(None, Some(&Images { count: u64::MAX, ..Images::default() })), None);
    let endless = Media { drawn: Drawn { most: u64::MAX, ..Drawn::default() }, ..Media::default() };
    assert_eq!(standard.most(u64::MAX, u64::MAX, endless), NanoUsd(i64::MAX), "too much is no missing price");
    assert!(!standard.is_free());
}

#[test]
fn images_are_priced_beside_their_tokens_and_not_at_all_while_those_are_unknown() {
    use crate::unit::usage::Images;
    let overlay = Overlay::parse("p.yaml", &row("per_image_usd: 0.5")).unwrap();
    let (at, tier) = (Timestamp(0), ServiceTier::Standard);
    let query = PriceQuery { provider_name: "p", price_provider: None, model: "m", served: None, at, tier };
    let card = overlay.find(&query).unwrap().card;
    let images = Images { count: 2, ..Images::default() };
    let usage = Usage { input: 1_000_000, ..Usage::default() };
    assert_eq!(card.bill(Some(&usage), Some(&images)).unwrap().amount, NanoUsd(2_000_000_000));
    assert_eq!(card.bill(None, Some(&images)), None);
}
