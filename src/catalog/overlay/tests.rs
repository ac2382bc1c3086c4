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
    let query =
        PriceQuery { provider_name: provider, price_provider: Some("listed"), model, at, tier: ServiceTier::Standard };
    overlay.find(&query).map(|card| format!("{} {}", card.price.name, card.per_request_nanos / 1_000_000_000))
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
            at: Timestamp(0),
            tier: ServiceTier::Standard,
        };
        overlay.find(&query).unwrap().cost(&all).unwrap().amount
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
