use std::time::Duration;

use genai_prices::PriceRequest;

use super::*;
use crate::catalog::card::Drawn;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// A day on which all the prices below are known.
const DAY: &str = "2026-11-21T12:00:00Z";

fn catalog(overlay: &str) -> Catalog {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prices.yaml");
    std::fs::write(&path, overlay).unwrap();
    Catalog::load(Some(&path)).unwrap()
}

fn query<'a>(provider: &'a str, model: &'a str, time: &str) -> PriceQuery<'a> {
    PriceQuery {
        provider_name: "mine",
        price_provider: Some(provider),
        model,
        served: None,
        at: at(time),
        tier: ServiceTier::Standard,
    }
}

#[track_caller]
fn check_invoice(provider: &str, model: &str, time: &str, usage: Usage, nanos: i64) {
    let catalog = Catalog::load(None).unwrap();
    let cost = catalog.cost(&query(provider, model, time), &usage).expect("a price");
    assert_eq!(cost.amount, NanoUsd(nanos), "{provider} {model} {usage:?}");
    assert_eq!(catalog.cost(&query(provider, model, time), &usage), Some(cost), "the second time, from the cache");
}

#[test]
fn an_unknown_model_has_no_price() {
    let catalog = Catalog::load(None).unwrap();
    let usage = Usage { input: 1, ..Usage::default() };
    for (provider, model) in
        [("openai", "no-such-model"), ("no-such-provider", "gpt-4o"), ("openai", ""), ("simulated", "gpt-4o")]
    {
        assert_eq!(catalog.cost(&query(provider, model, DAY), &usage), None, "{provider} {model}");
    }
    let long = "sim-".repeat(1_000);
    assert_eq!(catalog.cost(&query("simulated", &long, DAY), &usage), None);
}

#[test]
fn a_provider_outside_the_list_has_no_price_whatever_its_models_are_called() {
    let catalog = Catalog::load(None).unwrap();
    let query = PriceQuery {
        provider_name: "my-vllm",
        price_provider: None,
        model: "gpt-4o",
        served: None,
        at: at(DAY),
        tier: ServiceTier::Standard,
    };
    assert_eq!(catalog.cost(&query, &Usage { input: 1, ..Usage::default() }), None);
}

#[test]
fn a_model_whose_price_is_not_by_token_has_no_price() {
    let catalog = Catalog::load(None).unwrap();
    let usage = Usage { input: 10, output: 10, ..Usage::default() };
    // By the hour, by characters, and with a subscription.
    for (provider, model) in [("openai", "whisper-1"), ("openai", "tts-1"), ("github-copilot", "gpt-4o")] {
        assert_eq!(catalog.cost(&query(provider, model, DAY), &usage), None, "{provider} {model}");
    }
}

#[test]
fn a_free_model_costs_zero_which_is_a_price() {
    let usage = Usage { input: 10, output: 10, ..Usage::default() };
    check_invoice("openrouter", "deepseek/deepseek-r1:free", DAY, usage, 0);
}

#[test]
fn openai_invoice_with_cached_tokens() {
    // prompt_tokens 1,000 of which cached 400; completion_tokens 300: 600 at 2.50, 400 at 1.25, 300 at 10.
    let usage = Usage { input: 600, cache_read: 400, output: 300, ..Usage::default() };
    check_invoice("openai", "gpt-4o", DAY, usage, 5_000_000);
}

#[test]
fn openai_invoice_with_reasoning_before_and_after_a_change_of_price() {
    // completion_tokens 1,500 of which reasoning 1,000; 40 USD for a million before 2025-06-10, 8 after; input 10, then 2.
    let usage = Usage { input: 100, output: 500, reasoning: 1_000, ..Usage::default() };
    check_invoice("openai", "o3", "2025-06-09T23:59:59Z", usage, 61_000_000);
    check_invoice("openai", "o3", "2025-06-10T00:00:00Z", usage, 12_200_000);
}

#[test]
fn openai_invoice_with_audio() {
    // 100 text at 4, 50 cached at 0.40, 200 audio at 32; out: 50 text at 16, 100 audio at 64.
    let usage =
        Usage { input: 100, cache_read: 50, input_audio: 200, output: 50, output_audio: 100, ..Usage::default() };
    check_invoice("openai", "gpt-realtime", DAY, usage, 14_020_000);
}

#[test]
fn anthropic_invoice_with_both_kinds_of_cache_writes() {
    // 1,000 at 3, 2,000 read at 0.30, 500 written for 5 min at 3.75, 400 for 1 h at 6, 100 out at 15.
    let usage = Usage {
        input: 1_000,
        cache_read: 2_000,
        cache_write_5m: 500,
        cache_write_1h: 400,
        output: 100,
        ..Usage::default()
    };
    check_invoice("anthropic", "claude-sonnet-4-5-20250929", DAY, usage, 9_375_000);
}

#[test]
fn anthropic_invoice_above_200_000_input_tokens_counts_the_cache() {
    // 1 at 6, 200,000 read at 0.60, 10 out at 22.50.
    let usage = Usage { input: 1, cache_read: 200_000, output: 10, ..Usage::default() };
    check_invoice("anthropic", "claude-sonnet-4-5", DAY, usage, 120_231_000);
}

#[test]
fn deepseek_invoice_by_the_time_of_day() {
    let usage = Usage { input: 1_000, cache_read: 10_000, output: 500, ..Usage::default() };
    check_invoice("deepseek", "deepseek-v4-flash", "2026-11-21T00:59:59.999999Z", usage, 480_000);
    check_invoice("deepseek", "deepseek-v4-flash", "2026-11-21T01:00:00Z", usage, 960_000);
    check_invoice("deepseek", "deepseek-v4-flash", "2026-11-21T03:59:59.999999Z", usage, 960_000);
    check_invoice("deepseek", "deepseek-v4-flash", "2026-11-21T04:00:00Z", usage, 480_000);
}

#[test]
fn gemini_invoice_below_and_above_200_000_input_tokens() {
    let usage = |input| Usage { input, output: 1_000, ..Usage::default() };
    check_invoice("google", "gemini-2.5-pro", DAY, usage(200_000), 260_000_000);
    check_invoice("google", "gemini-2.5-pro", DAY, usage(200_001), 515_002_500);
}

#[test]
fn a_price_for_each_request_is_part_of_the_cost() {
    let usage = Usage { input: 1_000, output: 1_000, ..Usage::default() };
    check_invoice("perplexity", "sonar", DAY, usage, 14_000_000);
    check_invoice("perplexity", "sonar", DAY, Usage::default(), 12_000_000);
}

#[test]
fn dated_and_prefixed_names_find_the_same_price() {
    let catalog = Catalog::load(None).unwrap();
    let usage = Usage { input: 600, cache_read: 400, output: 300, ..Usage::default() };
    for (provider, model, name) in [
        ("openai", "gpt-4o-2024-08-06", "openai/gpt-4o"),
        ("openai", "GPT-4o", "openai/gpt-4o"),
        ("openrouter", "openai/gpt-4o", "openrouter/openai/gpt-4o"),
        ("azure", "gpt-4o", "azure/gpt-4o"),
        ("openai", "gpt-5-20250807", "openai/gpt-5"),
    ] {
        let cost = catalog.cost(&query(provider, model, DAY), &usage).expect(model);
        assert_eq!((cost.price.name.as_str(), &*cost.price.source), (name, list::SOURCE), "{provider} {model}");
    }
}

#[test]
fn the_simulated_provider_has_prices_by_name_and_by_price_provider() {
    let catalog = Catalog::load(None).unwrap();
    let usage = Usage { input: 1_000, output: 1_000, ..Usage::default() };
    let by_name = PriceQuery {
        provider_name: "simulated",
        price_provider: None,
        model: "sim-small",
        served: None,
        at: at(DAY),
        tier: ServiceTier::Standard,
    };
    assert_eq!(catalog.cost(&by_name, &usage).unwrap().amount, NanoUsd(500_000));
    let cost = catalog.cost(&query("simulated", "sim-error-503", DAY), &usage).unwrap();
    assert_eq!((cost.amount, cost.price.name.as_str()), (NanoUsd(500_000), "simulated/sim-small"));
}

#[test]
fn the_source_names_the_version_that_is_built_in() {
    let lock = include_str!("../../../Cargo.lock").replace("\r\n", "\n");
    let version = list::SOURCE.strip_prefix("genai-prices ").unwrap();
    assert!(lock.contains(&format!("name = \"genai-prices\"\nversion = \"{version}\"\n")));
    assert!(list::SOURCE_WITH_AUDIO.starts_with(&format!("{},", list::SOURCE)));
}

/// What the list itself says, in dollars; zero if it does not find the model, as happens for some of its own ids.
fn list_says(provider: &str, model: &str, time: Timestamp, usage: &Usage) -> f64 {
    let counted = list::overlapping(crate::catalog::card::counts(usage).map(|count| count as f64));
    let time = std::time::UNIX_EPOCH + Duration::from_micros(time.micros() as u64);
    let request = PriceRequest::new(model, &counted).with_provider_id(provider).with_timestamp(time);
    Calculator::bundled().calculate(&request).map_or(0.0, |found| found.total_price)
}

#[track_caller]
fn check_against_list(catalog: &Catalog, provider: &str, model: &str, time: Timestamp, usage: &Usage) {
    let query = PriceQuery {
        provider_name: "mine",
        price_provider: Some(provider),
        model,
        served: None,
        at: time,
        tier: ServiceTier::Standard,
    };
    // The list takes the audio of these for text.
    let knows_no_audio = model.contains("audio-preview") || (provider, model) == ("openrouter", "openai/gpt-audio");
    let usage = &match knows_no_audio {
        true => Usage { input_audio: 0, output_audio: 0, ..*usage },
        false => *usage,
    };
    let expected = list_says(provider, model, time, usage) * 1e9;
    let Some(cost) = catalog.cost(&query, usage) else {
        assert_eq!(expected, 0.0, "{provider} {model} has a price in the list and none here");
        return;
    };
    // Rounded up to a whole nano-dollar; a rate in the list with more than nine decimals adds up to a half more.
    let difference = cost.amount.nanos() as f64 - expected;
    assert!((-0.6..1.6).contains(&difference), "{provider} {model} {usage:?}: {cost:?}, the list says {expected}");
}

#[test]
fn a_card_costs_what_the_list_says_for_every_model() {
    let catalog = Catalog::load(None).unwrap();
    let mut seed = 1_u64;
    let mut random = |limit: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % limit
    };
    let mut checked = 0;
    for provider in Calculator::bundled().providers() {
        // Every model of the small providers and one in eleven of the large: the large repeat the small ones' shapes.
        let step = if provider.models().count() > 120 { 11 } else { 3 };
        for model in provider.models().step_by(step) {
            let time = at("2026-10-10T00:00:00Z").plus(Duration::from_secs(random(100 * 86_400)));
            for _ in 0..2 {
                let usage = Usage {
                    input: random(300_000),
                    cache_read: random(100_000),
                    cache_write_5m: random(100_000),
                    cache_write_1h: random(50_000),
                    input_audio: random(10_000),
                    input_image: random(10_000),
                    output: random(100_000),
                    reasoning: random(100_000),
                    output_audio: random(10_000),
                    output_image: random(10_000),
                };
                check_against_list(&catalog, provider.id(), model.id(), time, &usage);
                checked += 1;
            }
        }
    }
    assert!(checked > 500, "{checked}");
}

#[test]
fn no_usage_within_the_bounds_costs_more_than_the_most() {
    let catalog = Catalog::load(None).unwrap();
    let mut seed = 7_u64;
    let mut random = |limit: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % limit.max(1)
    };
    let mut checked = 0;
    for provider in Calculator::bundled().providers() {
        for model in provider.models() {
            let tier = ServiceTier::ALL[random(4) as usize];
            let at = at("2026-10-10T00:00:00Z").plus(Duration::from_secs(random(100 * 86_400)));
            let provider = Some(provider.id());
            let query = PriceQuery {
                provider_name: "mine",
                price_provider: provider,
                model: model.id(),
                served: None,
                at,
                tier,
            };
            for _ in 0..16 {
                let (input, output) = (random(600_000), random(100_000));
                let may = |may: bool, count: u64| if may { count } else { 0 };
                let media = Media {
                    input_audio: random(2) == 0,
                    input_image: random(2) == 0,
                    output_audio: random(2) == 0,
                    output_image: random(2) == 0,
                    cache_1h: random(2) == 0,
                    drawn: Drawn::default(),
                };
                let part = random(input + 1);
                let (first, second) = (random(part + 1), random(input - part + 1));
                let thought = random(output + 1);
                let usage = match random(4) {
                    0 => Usage { input: part, cache_read: input - part, output, ..Usage::default() },
                    1 => Usage {
                        cache_write_5m: part,
                        cache_write_1h: may(media.cache_1h, input - part),
                        reasoning: output,
                        ..Usage::default()
                    },
                    2 => Usage {
                        input: first,
                        input_audio: may(media.input_audio, part - first),
                        input_image: may(media.input_image, second),
                        output: thought,
                        output_audio: may(media.output_audio, output - thought),
                        ..Usage::default()
                    },
                    _ => Usage { input: 1, output_image: may(media.output_image, output), ..Usage::default() },
                };
                let most = catalog.most(&query, input.max(1), output, media);
                for served in [tier, ServiceTier::Standard] {
                    let cost = catalog.cost(&PriceQuery { tier: served, ..query }, &usage);
                    assert!(
                        cost.as_ref().map(|cost| cost.amount) <= most,
                        "{query:?} {usage:?} {media:?} {cost:?} {most:?}"
                    );
                    checked += usize::from(cost.is_some());
                }
            }
        }
    }
    assert!(checked > 50_000, "{checked}");
}

#[test]
fn a_tier_of_service_has_its_own_price_and_never_lowers_the_bound() {
    let catalog = Catalog::load(None).unwrap();
    let usage = Usage { input: 1_000_000, output: 100_000, ..Usage::default() };
    // gpt-5: 1.25 and 10 a million; flex and batch half of it; priority twice.
    for (tier, nanos) in [
        (ServiceTier::Standard, 2_250_000_000),
        (ServiceTier::Flex, 1_125_000_000),
        (ServiceTier::Batch, 1_125_000_000),
        (ServiceTier::Priority, 4_500_000_000),
    ] {
        let query = PriceQuery { tier, ..query("openai", "gpt-5", DAY) };
        assert_eq!(catalog.cost(&query, &usage).unwrap().amount, NanoUsd(nanos), "{tier:?}");
        let most = catalog.most(&query, 1_000_000, 100_000, Media::default());
        assert_eq!(most, Some(NanoUsd(nanos.max(2_250_000_000))), "{tier:?}");
    }
}

#[test]
fn a_default_price_stands_in_only_where_there_is_no_other() {
    let catalog = Catalog::load(None).unwrap().with_default(1.0, 4.0);
    let usage = Usage { input: 1_000, cache_read: 1_000, output: 1_000, ..Usage::default() };
    let cost = catalog.cost(&query("openai", "no-such-model", DAY), &usage).unwrap();
    assert_eq!((cost.amount, &*cost.price.source), (NanoUsd(6_000_000), "prices.default"));
    let known = catalog.cost(&query("openai", "gpt-4o", DAY), &usage).unwrap();
    assert_eq!(&*known.price.source, list::SOURCE);
    let absurd = Catalog::load(None).unwrap().with_default(-1.0, f64::NAN);
    assert_eq!(absurd.cost(&query("openai", "no-such-model", DAY), &usage), None);
}

#[test]
fn a_price_by_the_time_of_day_is_right_in_every_minute() {
    let catalog = Catalog::load(None).unwrap();
    let usage = Usage { input: 12_345, cache_read: 999, output: 777, ..Usage::default() };
    for minute in 0..1_440 {
        let time = at("2026-12-01T00:00:00Z").plus(Duration::from_secs(minute * 60 + 59));
        check_against_list(&catalog, "deepseek", "deepseek-v4-pro", time, &usage);
        check_against_list(&catalog, "deepseek", "deepseek-chat", time, &usage);
    }
}

#[test]
fn the_cache_is_bounded_and_keeps_telling_the_truth() {
    let catalog = Catalog::load(None).unwrap();
    let usage = Usage { input: 1_000, ..Usage::default() };
    for number in 0..6_000 {
        let model = format!("sim-{number}");
        assert!(catalog.cost(&query("simulated", &model, DAY), &usage).is_some());
    }
    let entries: usize = catalog.shards.iter().map(|shard| shard.read().unwrap().len()).sum();
    assert!(entries <= SHARDS * SHARD_LIMIT, "{entries}");
    for day in 1..20 {
        let time = format!("2026-11-{day:02}T00:00:00Z");
        assert!(catalog.cost(&query("simulated", "sim-small", &time), &usage).is_some());
    }
    let longest = catalog
        .shards
        .iter()
        .flat_map(|shard| shard.read().unwrap().values().map(|known| known.spans.len()).collect::<Vec<_>>());
    assert!(longest.max().unwrap() <= SPANS_LIMIT);
}

#[test]
fn the_models_of_a_provider_come_from_the_list() {
    let catalog = Catalog::load(None).unwrap();
    assert!(catalog.models("no-such-provider").is_empty());
    let cards = catalog.models("openai");
    let card = cards.iter().find(|card| card.id == "gpt-4o").unwrap();
    assert_eq!(card.context_window, Some(128_000));
    assert_eq!(catalog.models("simulated").len(), 3);
}

#[test]
fn the_overlay_wins_and_names_its_file_and_date() {
    let catalog = catalog(
        "prices:\n  - provider: openai\n    model: gpt-4o\n    effective: 2026-06-01\n    usd_per_million_tokens: {input: 1, output: 2}\n",
    );
    let usage = Usage { input: 1_000, cache_read: 1_000, output: 1_000, reasoning: 1_000, ..Usage::default() };
    let cost = catalog.cost(&query("openai", "gpt-4o", DAY), &usage).unwrap();
    assert_eq!(cost.amount, NanoUsd(6_000_000));
    assert!(cost.price.source.ends_with("prices.yaml"));
    assert_eq!((cost.price.name.as_str(), cost.price.effective.as_deref()), ("openai/gpt-4o", Some("2026-06-01")));
    let before = catalog.cost(&query("openai", "gpt-4o", "2026-05-31T23:59:59Z"), &usage).unwrap();
    assert_eq!(&*before.price.source, list::SOURCE);
    let dated = catalog.cost(&query("openai", "gpt-4o-2024-08-06", DAY), &usage).unwrap();
    assert_eq!(dated.price.name, "openai/gpt-4o", "with a date behind it, too");
    let another = catalog.cost(&query("openai", "gpt-4o-mini", DAY), &usage).unwrap();
    assert_eq!(&*another.price.source, list::SOURCE);
}

#[test]
fn a_missing_overlay_file_is_a_fault() {
    let faults = Catalog::load(Some(Path::new("/nowhere/prices.yaml"))).err().unwrap();
    assert_eq!(faults.len(), 1);
    assert!(faults[0].starts_with("/nowhere/prices.yaml: "), "{faults:?}");
}

#[test]
fn the_source_decides_between_the_name_that_was_asked_and_the_one_that_was_served() {
    use crate::catalog::stored::{PriceRow, StoredPrice};
    let row = |model: &str| PriceRow { model: model.to_owned(), per_request_usd: Some(1.0), ..PriceRow::default() };
    let stored: Vec<StoredPrice> = ["gpt-4o", "claude-3-5-haiku-latest", "house", "claude-3*"]
        .map(|model| StoredPrice::new(row(model), "test", Timestamp(0)))
        .to_vec();
    let overlay = "prices:\n  - {model: gpt-4o-2024-08-06, per_request_usd: 2}\n  - {model: openrouter/auto, per_request_usd: 3}\n";
    let catalog = catalog(overlay).with_stored(&stored).unwrap().with_default(1.0, 1.0);
    let named = |provider, asked, served| {
        let query = PriceQuery { served, ..query(provider, asked, DAY) };
        catalog.cost(&query, &Usage { input: 1, ..Usage::default() }).unwrap().price.name
    };
    for (provider, asked, served, price) in [
        ("openai", "gpt-4o", None, "*/gpt-4o"),
        ("openai", "gpt-4o", Some("gpt-4o"), "*/gpt-4o"),
        // The same model: a stored price, before a row of the file that names it more exactly.
        ("openai", "gpt-4o", Some("gpt-4o-2024-08-06"), "*/gpt-4o"),
        ("openai", "gpt-4o-2024-08-06", Some("gpt-4o-2024-08-06"), "*/gpt-4o"),
        ("openrouter", "openai/gpt-4o", Some("gpt-4o-2024-11-20"), "*/gpt-4o"),
        ("anthropic", "claude-3-5-haiku-latest", Some("claude-3-5-haiku-20241022"), "*/claude-3-5-haiku-latest"),
        // Another model: what the list says of it, before what an operator says of the one that was asked for.
        ("openai", "gpt-4o", Some("gpt-4o-mini-2024-07-18"), "openai/gpt-4o-mini"),
        ("openrouter", "openrouter/auto", Some("openai/gpt-4o-mini"), "openrouter/openai/gpt-4o-mini"),
        ("openrouter", "openrouter/auto", None, "*/openrouter/auto"),
        // A name that nobody knows, before the price of last resort.
        ("openai", "house", Some("weights-7"), "*/house"),
        ("openai", "nothing", Some("weights-7"), "*/*"),
    ] {
        assert_eq!(named(provider, asked, served), price, "{asked} {served:?}");
    }
}
