//! Golden invoices: answers as vendors really end them, read and priced, against amounts that were worked out by hand.
//!
//! Each case names the vendor's price page and shows its arithmetic: tokens times nano-dollars a token (a dollar a million
//! tokens is 1,000). The prices are those of the day in `DAY`; where a vendor's page and the built-in list differ, the case says
//! so and uses an overlay.

use bytes::Bytes;

use crate::catalog::stored::{PriceRow, StoredPrice};
use crate::catalog::{Catalog, PriceQuery};
use crate::dialect::Operation;
use crate::dialect::answer::AnswerReader;
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;
use crate::unit::usage::Images;

/// A Wednesday on which all prices below are known.
const DAY: &str = "2026-11-18T12:00:00Z";

/// What an exchange costs whose answer ends like this.
fn cost(catalog: &Catalog, provider: &str, model: &str, time: &str, answer: &str) -> Option<NanoUsd> {
    let event_stream = answer.starts_with("data:");
    let operation = if answer.contains("\"object\":\"response\"") { Operation::Responses } else { Operation::Chat };
    let mut reader = AnswerReader::new(operation, event_stream, false);
    reader.push(Bytes::copy_from_slice(answer.as_bytes()), true);
    let usage = reader.usage().expect("usage");
    let query = PriceQuery {
        provider_name: provider,
        price_provider: Some(provider),
        model,
        served: None,
        at: Timestamp::parse(time).unwrap(),
        tier: reader.service_tier().unwrap_or_default(),
    };
    catalog.cost(&query, &usage).map(|cost| cost.amount)
}

#[track_caller]
fn check(provider: &str, model: &str, answer: &str, nanos: i64) {
    let catalog = Catalog::load(None).unwrap();
    assert_eq!(cost(&catalog, provider, model, DAY, answer), Some(NanoUsd(nanos)), "{provider} {model}");
}

#[test]
fn openai_gpt_4o_with_a_cached_prefix() {
    // https://openai.com/api/pricing: input 2.50, cached 1.25, output 10. `cached_tokens` lie inside `prompt_tokens`.
    // 86 × 2,500 + 1,920 × 1,250 + 300 × 10,000 = 215,000 + 2,400,000 + 3,000,000.
    let answer = r#"{"usage":{"prompt_tokens":2006,"completion_tokens":300,"total_tokens":2306,
        "prompt_tokens_details":{"cached_tokens":1920,"audio_tokens":0},
        "completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0}}}"#;
    check("openai", "gpt-4o-2024-08-06", answer, 5_615_000);
}

#[test]
fn openai_gpt_4_1_served_with_priority() {
    // https://openai.com/api-priority-processing: input 3.50, cached 0.875, output 14.
    // 600 × 3,500 + 400 × 875 + 200 × 14,000 = 2,100,000 + 350,000 + 2,800,000.
    let answer = r#"{"service_tier":"priority","usage":{"prompt_tokens":1000,"completion_tokens":200,"total_tokens":1200,
        "prompt_tokens_details":{"cached_tokens":400}}}"#;
    check("openai", "gpt-4.1-2025-04-14", answer, 5_250_000);
    // The same, asked for with priority and served without: 600 × 2,000 + 400 × 500 + 200 × 8,000.
    check("openai", "gpt-4.1-2025-04-14", &answer.replace("priority", "default"), 3_000_000);
}

#[test]
fn openai_o4_mini_whose_reasoning_lies_inside_the_completion() {
    // https://platform.openai.com/docs/pricing: input 1.10, cached 0.275, output 4.40, reasoning as output.
    // 75 × 1,100 + 162 × 4,400 + 1,024 × 4,400 = 82,500 + 712,800 + 4,505,600.
    let answer = r#"{"usage":{"prompt_tokens":75,"completion_tokens":1186,"total_tokens":1261,
        "prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":1024}}}"#;
    check("openai", "o4-mini-2025-04-16", answer, 5_300_900);
}

#[test]
fn openai_gpt_5_in_the_responses_api_served_flex() {
    // https://platform.openai.com/docs/pricing?latest-pricing=flex: input 0.625, cached 0.0625, output 5.
    // 2,000 × 625 + 10,000 × 62.5 + 900 × 5,000 = 1,250,000 + 625,000 + 4,500,000.
    let answer = r#"{"object":"response","status":"completed","service_tier":"flex","usage":{"input_tokens":12000,
        "input_tokens_details":{"cached_tokens":10000},"output_tokens":900,
        "output_tokens_details":{"reasoning_tokens":700},"total_tokens":12900}}"#;
    check("openai", "gpt-5-2025-08-07", answer, 6_375_000);
}

#[test]
fn openai_gpt_5_mini_in_a_stream() {
    // https://platform.openai.com/docs/pricing: input 0.25, output 2. 500 × 250 + 50 × 2,000 = 125,000 + 100,000.
    let answer = "data: {\"service_tier\":\"auto\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}],\"usage\":null}\n\n\
                  data: {\"service_tier\":\"default\",\"choices\":[],\"usage\":{\"prompt_tokens\":500,\"completion_tokens\":50,\
                  \"total_tokens\":550,\"prompt_tokens_details\":{\"cached_tokens\":0}}}\n\ndata: [DONE]\n\n";
    check("openai", "gpt-5-mini-2025-08-07", answer, 225_000);
}

#[test]
fn openai_gpt_4o_audio_preview_hears_and_speaks_at_prices_that_the_list_does_not_have() {
    // https://platform.openai.com/docs/models/gpt-4o-audio-preview: text 2.50 and 10, audio 40 and 80.
    // 17 × 2,500 + 100 × 40,000 + 20 × 10,000 + 40 × 80,000 = 42,500 + 4,000,000 + 200,000 + 3,200,000.
    let answer = r#"{"usage":{"prompt_tokens":117,"completion_tokens":60,"total_tokens":177,
        "prompt_tokens_details":{"cached_tokens":0,"audio_tokens":100},
        "completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":40}}}"#;
    check("openai", "gpt-4o-audio-preview-2025-06-03", answer, 7_442_500);
    // https://platform.openai.com/docs/models/gpt-4o-mini-audio-preview: text 0.15 and 0.60, audio 10 and 20.
    // 17 × 150 + 100 × 10,000 + 20 × 600 + 40 × 20,000 = 2,550 + 1,000,000 + 12,000 + 800,000.
    check("openai", "gpt-4o-mini-audio-preview", answer, 1_814_550);
    // https://openrouter.ai/openai/gpt-audio: text 2.50 and 10, audio 32 and 64.
    // 42,500 + 100 × 32,000 + 200,000 + 40 × 64,000 = 42,500 + 3,200,000 + 200,000 + 2,560,000.
    check("openrouter", "openai/gpt-audio", answer, 6_002_500);
}

#[test]
fn openai_embeddings_which_have_no_output() {
    // https://platform.openai.com/docs/pricing#embeddings: 0.02 and 0.13. 8,191 × 20 and 8,191 × 130.
    let answer = r#"{"object":"list","usage":{"prompt_tokens":8191,"total_tokens":8191}}"#;
    check("openai", "text-embedding-3-small", answer, 163_820);
    check("openai", "text-embedding-3-large", answer, 1_064_830);
}

#[test]
fn openai_gpt_audio_counts_audio_apart() {
    // https://platform.openai.com/docs/pricing#audio-tokens: text 2.50 in and 10 out, audio 32 in and 64 out.
    // 50 × 2,500 + 150 × 32,000 + 60 × 10,000 + 120 × 64,000 = 125,000 + 4,800,000 + 600,000 + 7,680,000.
    let answer = r#"{"usage":{"prompt_tokens":200,"completion_tokens":180,"total_tokens":380,
        "prompt_tokens_details":{"cached_tokens":0,"text_tokens":50,"audio_tokens":150,"image_tokens":0},
        "completion_tokens_details":{"reasoning_tokens":0,"text_tokens":60,"audio_tokens":120}}}"#;
    check("openai", "gpt-audio", answer, 13_205_000);
}

#[test]
fn openai_transcription_by_tokens_has_a_price_and_by_the_minute_has_none() {
    // https://platform.openai.com/docs/pricing#transcription-and-speech-generation: gpt-4o-transcribe text 2.50, audio 6, output
    // 10; whisper-1 costs 0.006 a minute, which is not by token. 10 × 2,500 + 4 × 6,000 + 101 × 10,000.
    let answer = r#"{"text":"x","usage":{"type":"tokens","input_tokens":14,"input_token_details":{"text_tokens":10,
        "audio_tokens":4},"output_tokens":101,"total_tokens":115}}"#;
    check("openai", "gpt-4o-transcribe", answer, 1_059_000);
    assert_eq!(cost(&Catalog::load(None).unwrap(), "openai", "whisper-1", DAY, answer), None);
}

#[test]
fn anthropic_sonnet_reads_and_writes_both_caches() {
    // https://docs.claude.com/en/docs/about-claude/pricing: input 3, read 0.30, write 3.75 (5 min) and 6 (1 h), output 15. All
    // counts stand beside `input_tokens`.
    // 21 × 3,000 + 18,086 × 300 + 500 × 3,750 + 1,200 × 6,000 + 393 × 15,000
    // = 63,000 + 5,425,800 + 1,875,000 + 7,200,000 + 5,895,000.
    let answer = r#"{"type":"message","usage":{"input_tokens":21,"cache_creation_input_tokens":1700,
        "cache_read_input_tokens":18086,"cache_creation":{"ephemeral_5m_input_tokens":500,
        "ephemeral_1h_input_tokens":1200},"output_tokens":393,"service_tier":"standard"}}"#;
    check("anthropic", "claude-sonnet-4-5-20250929", answer, 20_458_800);
}

#[test]
fn anthropic_opus_with_a_cache_hit() {
    // The same page: input 15, read 1.50, output 75. 100 × 15,000 + 1,000 × 1,500 + 50 × 75,000.
    let answer = r#"{"usage":{"input_tokens":100,"cache_creation_input_tokens":0,"cache_read_input_tokens":1000,
        "output_tokens":50}}"#;
    check("anthropic", "claude-opus-4-1-20250805", answer, 6_750_000);
}

#[test]
fn anthropic_haiku_in_the_names_of_openai_with_the_cache_beside_the_prompt() {
    // The same page: input 1, write 1.25 (5 min), output 5. 10 × 1,000 + 4,000 × 1,250 + 200 × 5,000.
    let answer = r#"{"usage":{"prompt_tokens":10,"completion_tokens":200,"total_tokens":4210,
        "cache_creation_input_tokens":4000,"cache_read_input_tokens":0}}"#;
    check("anthropic", "claude-haiku-4-5-20251001", answer, 6_010_000);
}

#[test]
fn gemini_pro_above_200_000_tokens_with_thinking_in_the_total_only() {
    // https://ai.google.dev/gemini-api/docs/pricing: above 200,000 tokens input 2.50 and output 15, thinking included.
    // 210,000 × 2,500 + 1,000 × 15,000 + 1,500 × 15,000 = 525,000,000 + 15,000,000 + 22,500,000.
    let answer = r#"{"usage":{"prompt_tokens":210000,"completion_tokens":1000,"total_tokens":212500}}"#;
    check("google", "gemini-2.5-pro", answer, 562_500_000);
    // 200,000 tokens are not above it: 200,000 × 1,250 + 2,500 × 10,000.
    let answer = r#"{"usage":{"prompt_tokens":200000,"completion_tokens":1000,"total_tokens":202500}}"#;
    check("google", "gemini-2.5-pro", answer, 275_000_000);
}

#[test]
fn gemini_flash() {
    // The same page: input 0.30, output 2.50. 1,000 × 300 + 100 × 2,500.
    let answer = r#"{"usage":{"prompt_tokens":1000,"completion_tokens":100,"total_tokens":1100}}"#;
    check("google", "gemini-2.5-flash", answer, 550_000);
}

/// 1,000 tokens missed the cache, 10,000 hit it, 500 were written, 300 of them in thought.
const DEEPSEEK: &str = r#"{"usage":{"prompt_tokens":11000,"completion_tokens":500,"total_tokens":11500,
    "prompt_tokens_details":{"cached_tokens":10000},"completion_tokens_details":{"reasoning_tokens":300},
    "prompt_cache_hit_tokens":10000,"prompt_cache_miss_tokens":1000}}"#;

#[test]
fn deepseek_by_the_hour_of_a_working_day() {
    // https://api-docs.deepseek.com/quick_start/pricing: off-peak miss 0.15, hit 0.003, output 0.60; twice that at peak, which is
    // 01:00 to 04:00 and 06:00 to 10:00 UTC. 1,000 × 150 + 10,000 × 3 + 500 × 600 = 150,000 + 30,000 + 300,000.
    check("deepseek", "deepseek-v4-flash", DEEPSEEK, 480_000);
    let catalog = Catalog::load(None).unwrap();
    let at_two = cost(&catalog, "deepseek", "deepseek-v4-flash", "2026-11-18T02:00:00Z", DEEPSEEK);
    assert_eq!(at_two, Some(NanoUsd(960_000)));
}

#[test]
fn deepseek_at_the_weekend_differs_from_the_list() {
    // The vendor's page has no peak on Saturdays and Sundays (nor on Chinese public holidays); the built-in list knows hours but
    // no days of the week, and so charges the peak. A stored price for the days of the weekend puts it right.
    let saturday = "2026-11-21T02:00:00Z";
    let listed = Catalog::load(None).unwrap();
    assert_eq!(cost(&listed, "deepseek", "deepseek-v4-flash", saturday, DEEPSEEK), Some(NanoUsd(960_000)));
    let rates = [("input", 0.15), ("cache_read", 0.003), ("output", 0.6)];
    let row = PriceRow {
        provider: Some("deepseek".to_owned()),
        model: "deepseek-v4-flash".to_owned(),
        effective: Some("2026-11-21".to_owned()),
        until: Some("2026-11-23".to_owned()),
        usd_per_million_tokens: Some(rates.map(|(class, usd)| (class.to_owned(), usd)).into()),
        ..PriceRow::default()
    };
    let ours = listed.with_stored(&[StoredPrice::new(row, "test", Timestamp(0))]).unwrap();
    assert_eq!(cost(&ours, "deepseek", "deepseek-v4-flash", saturday, DEEPSEEK), Some(NanoUsd(480_000)));
    let monday = "2026-11-23T02:00:00Z";
    assert_eq!(cost(&ours, "deepseek", "deepseek-v4-flash", monday, DEEPSEEK), Some(NanoUsd(960_000)));
}

#[test]
fn mistral_codestral_and_large() {
    // https://mistral.ai/pricing: Codestral 0.30 and 0.90, Large 3 0.50 and 1.50. 1,234 × 300 + 567 × 900.
    let answer = r#"{"usage":{"prompt_tokens":1234,"completion_tokens":567,"total_tokens":1801}}"#;
    check("mistral", "codestral-2508", answer, 880_500);
    // 1,234 × 500 + 567 × 1,500 = 617,000 + 850,500.
    check("mistral", "mistral-large-2512", answer, 1_467_500);
}

#[test]
fn groq_llama_whose_stream_ends_with_its_own_usage() {
    // https://groq.com/pricing: 0.59 and 0.79. 24 × 590 + 377 × 790 = 14,160 + 297,830.
    let answer = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"x_groq\":{\"id\":\"req_1\",\"usage\":\
                  {\"queue_time\":0.03,\"prompt_tokens\":24,\"prompt_time\":0.002,\"completion_tokens\":377,\
                  \"total_tokens\":401,\"total_time\":0.6}}}\n\ndata: [DONE]\n\n";
    check("groq", "llama-3.3-70b-versatile", answer, 311_990);
}

#[test]
fn xai_grok_whose_reasoning_lies_outside_the_completion() {
    // https://docs.x.ai/docs/models: input 3, cached 0.75, output 15, reasoning as output; only the total holds the reasoning.
    // 41 × 3,000 + (104 + 415) × 15,000 = 123,000 + 7,785,000.
    let answer = r#"{"usage":{"prompt_tokens":41,"completion_tokens":104,"total_tokens":560,
        "prompt_tokens_details":{"text_tokens":41,"audio_tokens":0,"image_tokens":0,"cached_tokens":0},
        "completion_tokens_details":{"reasoning_tokens":415,"audio_tokens":0}}}"#;
    check("x-ai", "grok-4-0709", answer, 7_908_000);
}

#[test]
fn a_batch_costs_half() {
    // https://docs.claude.com/en/docs/about-claude/pricing#batch-processing: half of every rate.
    // Sonnet 4.5: 1,000 × 1,500 + 100 × 7,500 = 1,500,000 + 750,000. The answer of a batch names its tier.
    let answer = r#"{"usage":{"input_tokens":1000,"output_tokens":100,"service_tier":"batch"}}"#;
    check("anthropic", "claude-sonnet-4-5", answer, 2_250_000);
}

/// What an images request costs at the prices of the example, as the gateway bills it.
fn drawn(model: &str, size: Option<&str>, quality: Option<&str>, answer: &str) -> Option<NanoUsd> {
    let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/prices.yaml");
    let catalog = Catalog::load(Some(&example)).unwrap();
    let mut reader = AnswerReader::new(Operation::Images, answer.starts_with("data:"), false);
    reader.push(Bytes::copy_from_slice(answer.as_bytes()), true);
    let (of_size, of_quality) = reader.image_kind();
    let images = Images {
        count: reader.images().expect("a count of images"),
        size: of_size.or(size).map(str::to_owned),
        quality: of_quality.or(quality).map(str::to_owned),
    };
    let query = PriceQuery {
        provider_name: "openai",
        price_provider: Some("openai"),
        model,
        served: None,
        at: Timestamp::parse(DAY).unwrap(),
        tier: reader.service_tier().unwrap_or_default(),
    };
    catalog.bill(&query, reader.usage().as_ref(), Some(&images)).map(|cost| cost.amount)
}

#[test]
fn openai_dall_e_3_is_billed_by_the_image_its_size_and_its_quality() {
    // https://platform.openai.com/docs/pricing#image-generation: standard 0.04 at 1024 x 1024 and 0.08 at 1024 x 1792 or
    // 1792 x 1024; HD 0.08 and 0.12. The answer counts no tokens and names neither size nor quality.
    let one = r#"{"created":1589478378,"data":[{"revised_prompt":"say \"data\"","url":"https://x.example/1"}]}"#;
    let two = r#"{"created":1589478378,"data":[{"b64_json":"iVBORw0K"},{"b64_json":"iVBORw0K"}]}"#;
    for (size, quality, answer, nanos) in [
        (None, None, one, 40_000_000),
        (Some("1024x1024"), Some("standard"), two, 80_000_000),
        (Some("1792x1024"), Some("standard"), one, 80_000_000),
        (Some("1024x1024"), Some("hd"), one, 80_000_000),
        (Some("1024x1792"), Some("hd"), two, 240_000_000),
    ] {
        assert_eq!(drawn("dall-e-3", size, quality, answer), Some(NanoUsd(nanos)), "{size:?} {quality:?} {answer}");
    }
}

#[test]
fn openai_gpt_image_1_is_billed_by_its_tokens() {
    // The same page, image tokens: text in 5, image in 10, image out 40; an image of 1024 x 1024 at low quality has 272 tokens.
    // 50 x 5,000 + 323 x 10,000 + 272 x 40,000 = 250,000 + 3,230,000 + 10,880,000.
    let answer = r#"{"created":1713833628,"background":"opaque","size":"1024x1024","quality":"low","data":[{"b64_json":"iVBO"}],
        "usage":{"total_tokens":645,"input_tokens":373,"output_tokens":272,
        "input_tokens_details":{"text_tokens":50,"image_tokens":323}}}"#;
    assert_eq!(drawn("gpt-image-1", None, None, answer), Some(NanoUsd(14_360_000)));
}
