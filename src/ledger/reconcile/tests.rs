use super::row::{DAY, HOUR};
use super::*;
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;
use crate::unit::usage::Usage;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn read(vendor: Vendor, text: &str) -> Export {
    parse(vendor, text.as_bytes()).unwrap()
}

#[test]
fn what_is_no_export_is_refused_in_words() {
    for (vendor, text) in [
        (Vendor::Openai, ""),
        (Vendor::Openai, "a,b\n1,2\n"),
        (Vendor::Openai, "{\"data\": 7}"),
        (Vendor::Openai, "{"),
        (Vendor::Anthropic, "[1]"),
        (Vendor::Aws, "{}"),
        (Vendor::Aws, "identity/LineItemId\nx\n"),
        (Vendor::Google, "Invoice number,1\n"),
        (Vendor::Google, "[]"),
    ] {
        assert!(parse(vendor, text.as_bytes()).unwrap_err().len() > 20, "{vendor:?} {text}");
    }
    let heading = "start_time;end_time;input_tokens;output_tokens\n";
    for (bytes, word) in [
        (&b"\xff\xfe{\0"[..], "UTF-16"),
        (b"PK\x03\x04", "unpack"),
        (b"\x1f\x8b\x08", "unpack"),
        (b" \r\n", "empty"),
        (heading.as_bytes(), "commas"),
        (br#"{"data": [{"start_time": 1, "end_time": 2, "results": [{"input_tokens": -5}]}]}"#, "-5"),
        (b"{}", "`data`"),
    ] {
        let text = parse(Vendor::Openai, bytes).unwrap_err();
        assert!(text.contains(word) && !text.contains("untagged"), "{text}");
    }
    assert!(parse(Vendor::Aws, &vec![b' '; EXPORT_LIMIT_BYTES + 1]).is_err());
}

#[test]
fn a_row_with_cells_too_few_or_too_many_or_a_decimal_comma_is_told_and_not_guessed() {
    let export = read(
        Vendor::Openai,
        "start_time,end_time,model,num_model_requests,input_tokens,output_tokens\n\
         1795219200,1795305600,gpt-4o,5\n\
         1795219200,1795305600,gpt-4o,5,1,000,500\n\
         1795219200,1795305600,gpt-4o,5,\"1,5\",500\n\
         1795219200,1795305600,gpt-4o,5,\"1,500\",500,\n\
         1795219200,1795305600,gpt-4o,5,1500,500\n",
    );
    let places: Vec<&str> = export.bad.iter().map(|bad| bad.place.as_str()).collect();
    assert_eq!(places, ["line 2", "line 3", "line 4"], "{:?}", export.bad);
    assert_eq!(export.rows.len(), 2);
    assert!(export.rows.iter().all(|row| row.usage.unwrap().input == 1_500), "{:?}", export.rows);
    assert!(super::row::money("0,5", 1.0).is_err() && super::row::money("$1,234,567.50", 1.0).is_ok());
    assert!(super::row::money("-1,234.5", 1.0).is_ok() && super::row::money("12,34.5", 1.0).is_err());
}

#[test]
fn openai_usage_pages_become_disjoint_classes() {
    // The example of the reference, grouped by model and key, and one with every newer field.
    let page = r#"{"object":"page","data":[{"object":"bucket","start_time":1730419200,"end_time":1730505600,"results":[
        {"object":"organization.usage.completions.result","input_tokens":1000,"output_tokens":500,"input_cached_tokens":800,
         "num_model_requests":5,"project_id":null,"api_key_id":"key_abc","model":"gpt-4o-2024-08-06","batch":null},
        {"input_tokens":100,"input_text_tokens":60,"input_audio_tokens":30,"input_image_tokens":10,"input_cached_tokens":20,
         "output_tokens":50,"output_text_tokens":40,"output_audio_tokens":10,"num_model_requests":1,"model":"gpt-realtime"}
        ]}],"has_more":false,"next_page":null}"#;
    let export = read(Vendor::Openai, page);
    assert_eq!((export.rows.len(), export.bad_count), (2, 0));
    let [first, second] = &export.rows[..] else { panic!("two rows") };
    assert_eq!((first.from, first.until.micros() - first.from.micros()), (at("2024-11-01T00:00:00Z"), DAY));
    assert_eq!((first.model.as_deref(), first.credential.as_deref()), (Some("gpt-4o-2024-08-06"), Some("key_abc")));
    assert_eq!(first.usage, Some(Usage { input: 200, cache_read: 800, output: 500, ..Usage::default() }));
    assert_eq!((first.requests, first.cost), (Some(5), None));
    let usage = Usage {
        input: 40,
        cache_read: 20,
        input_audio: 30,
        input_image: 10,
        output: 40,
        output_audio: 10,
        ..Usage::default()
    };
    assert_eq!(second.usage, Some(usage));
}

#[test]
fn a_bad_row_is_told_with_its_line_whatever_ends_lines() {
    for end in ["\n", "\r\n", "\n\n", "\r\n\r\n"] {
        let rows = ["start_time,input_tokens,model", "1730419200,1,m", "1730419200,-1,m", "1730419200,x,m"];
        let export = read(Vendor::Openai, &rows.join(end));
        let places: Vec<&str> = export.bad.iter().map(|bad| bad.place.as_str()).collect();
        let expected = if end.matches('\n').count() == 1 { ["line 3", "line 4"] } else { ["line 5", "line 7"] };
        assert_eq!(places, expected, "{end:?}");
    }
}

#[test]
fn openai_images_are_counted_by_the_piece() {
    // The example of the reference for images.
    let page = r#"{"object":"page","data":[{"object":"bucket","start_time":1730419200,"end_time":1730505600,"results":[
        {"object":"organization.usage.images.result","images":2,"num_model_requests":2,"size":"1024x1024",
         "source":"image.generation","project_id":null,"model":"dall-e-3"}]}],"has_more":false,"next_page":null}"#;
    let export = read(Vendor::Openai, page);
    let [row] = &export.rows[..] else { panic!("one row") };
    assert_eq!((row.images, row.usage, row.requests), (Some(2), None, Some(2)));
    assert_eq!(row.model.as_deref(), Some("dall-e-3"));
    let csv = "start_time,end_time,images,num_model_requests,model\n1730419200,1730505600,3,1,dall-e-2\n1730419200,1730505600,-3,1,x\n";
    let export = read(Vendor::Openai, csv);
    assert_eq!((export.rows[0].images, export.bad_count), (Some(3), 1));
}

#[test]
fn openai_costs_come_as_json_and_as_csv() {
    let page = |value: &str| {
        format!(
            r#"{{"object":"page","data":[{{"object":"bucket","start_time":1730419200,"end_time":1730505600,"results":[
            {{"object":"organization.costs.result","amount":{{"value":{value},"currency":"usd"}},
            "line_item":"gpt-4o-2024-08-06, cached input","project_id":null}}]}}],"has_more":false}}"#
        )
    };
    // Two pages one behind the other, as a loop over `next_page` writes them.
    let export = read(Vendor::Openai, &format!("{}\n{}", page("0.06"), page("\"1.5\"")));
    let costs: Vec<_> = export.rows.iter().map(|row| row.cost).collect();
    assert_eq!(costs, [Some(NanoUsd(60_000_000)), Some(NanoUsd(1_500_000_000))]);
    assert_eq!((export.rows[0].model.as_deref(), &export.rows[0].usage), (Some("gpt-4o-2024-08-06"), &None));
    let csv = "start_time,start_time_iso,amount_value,amount_currency,line_item,project_id\n\
               1730419200,2024-11-01T00:00:00+00:00,0.06,usd,\"gpt-4o-2024-08-06, input\",proj_1\n\
               1730419200,2024-11-01T00:00:00+00:00,0.06,eur,\"gpt-4o-2024-08-06, input\",proj_1\n\
               1730419200,yesterday,0.06,usd,x,proj_1\n";
    let export = read(Vendor::Openai, csv);
    assert_eq!((export.rows.len(), export.bad_count), (1, 2));
    assert_eq!(export.bad[0].place, "line 3");
    assert!(export.bad[0].text.contains("USD") && export.bad[1].text.contains("yesterday"), "{:?}", export.bad);
    assert_eq!(export.rows[0].cost, Some(NanoUsd(60_000_000)));
}

#[test]
fn anthropic_reports_come_as_json_and_as_csv() {
    let page = r#"{"data":[{"starting_at":"2026-11-01T00:00:00Z","ending_at":"2026-11-01T01:00:00Z","results":[
        {"uncached_input_tokens":1500,"cache_creation":{"ephemeral_1h_input_tokens":1000,"ephemeral_5m_input_tokens":500},
         "cache_read_input_tokens":200,"output_tokens":500,"server_tool_use":{"web_search_requests":10},
         "api_key_id":"apikey_1","workspace_id":null,"model":"claude-sonnet-4-5-20250929","service_tier":"standard",
         "context_window":"0-200k"}]}],"has_more":false,"next_page":null}"#;
    let export = read(Vendor::Anthropic, page);
    let usage = Usage {
        input: 1_500,
        cache_read: 200,
        cache_write_5m: 500,
        cache_write_1h: 1_000,
        output: 500,
        ..Usage::default()
    };
    assert_eq!(export.rows[0].usage, Some(usage));
    assert_eq!(export.rows[0].until.micros() - export.rows[0].from.micros(), HOUR);
    // Costs are texts in cents; a search is not about tokens.
    let costs = r#"{"data":[{"starting_at":"2026-11-01T00:00:00Z","ending_at":"2026-11-02T00:00:00Z","results":[
        {"currency":"USD","amount":"123.78912","cost_type":"tokens","model":"claude-opus-4-5","token_type":"output_tokens"},
        {"currency":"USD","amount":"10","cost_type":"web_search","model":null}]}],"has_more":false}"#;
    let export = read(Vendor::Anthropic, costs);
    assert_eq!((export.rows.len(), export.other_count), (1, 1));
    assert_eq!(export.rows[0].cost, Some(NanoUsd(1_237_891_200)));
    let csv = "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,\
               usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,\
               usage_output_tokens,web_search_count,inference_geo,speed\n\
               2026-03-22,claude-sonnet-4-20250514,web,Default,standard,≤ 200k,46981,15969,7,11,16932,0,global,\n\
               2026-03-22,claude-sonnet-4-20250514,web,Default,standard,≤ 200k,-5,0,0,0,0,0,global,\n";
    let export = read(Vendor::Anthropic, csv);
    let usage = Usage {
        input: 46_981,
        cache_write_5m: 15_969,
        cache_write_1h: 7,
        cache_read: 11,
        output: 16_932,
        ..Usage::default()
    };
    assert_eq!((export.rows[0].usage, export.rows[0].from), (Some(usage), at("2026-03-22T00:00:00Z")));
    assert_eq!((export.bad_count, export.bad[0].place.as_str()), (1, "line 3"));
}

#[test]
fn an_aws_report_counts_thousands_of_tokens_in_either_generation() {
    let second = "line_item_product_code,line_item_usage_type,line_item_usage_start_date,line_item_usage_end_date,\
                  line_item_usage_amount,line_item_unblended_cost,line_item_currency_code\n\
                  AmazonBedrock,USW2-Claude4.5Sonnet-input-tokens,2026-11-01 00:00:00,2026-11-01 01:00:00,29.481,0.0972873,USD\n\
                  AmazonBedrock,USW2-Claude4.5Sonnet-cache-read-input-token-count,2026-11-01 00:00:00,2026-11-01 01:00:00,1.5,0.1,USD\n\
                  AmazonBedrock,USW2-Guardrail-ContentPolicyUnitsConsumed,2026-11-01 00:00:00,2026-11-01 01:00:00,1,1,USD\n\
                  AmazonEC2,BoxUsage:t3.micro,2026-11-01 00:00:00,2026-11-01 01:00:00,1,1,USD\n";
    let export = read(Vendor::Aws, second);
    assert_eq!((export.rows.len(), export.other_count, export.bad_count), (2, 2, 0));
    assert_eq!(export.rows[0].model.as_deref(), Some("Claude4.5Sonnet"));
    assert_eq!(export.rows[0].usage, Some(Usage { input: 29_481, ..Usage::default() }));
    assert_eq!(export.rows[0].cost, Some(NanoUsd(97_287_300)));
    assert_eq!(export.rows[1].usage, Some(Usage { cache_read: 1_500, ..Usage::default() }));
    let first = "lineItem/ProductCode,lineItem/UsageType,lineItem/UsageStartDate,lineItem/UsageEndDate,lineItem/UsageAmount,\
                 lineItem/UnblendedCost,pricing/unit\n\
                 AmazonBedrock,USE1-Nova2.0Lite-output-tokens,2026-11-01T00:00:00Z,2026-11-02T00:00:00Z,2,0.5,1M tokens\n\
                 AmazonBedrock,USE1-Nova2.0Lite-output-tokens,2026-11-01T00:00:00Z,2026-11-02T00:00:00Z,2,dear,1M tokens\n";
    let export = read(Vendor::Aws, first);
    assert_eq!(export.rows[0].usage, Some(Usage { output: 2_000_000, ..Usage::default() }));
    assert_eq!(export.bad[0].place, "line 3");
}

#[test]
fn a_google_cost_table_is_read_behind_the_lines_about_the_invoice() {
    let text = "Invoice number,1234567890,\nInvoice date,2026-06-30,\nCurrency,USD,\nTotal amount due,$5.72,\n\
                Billing account name,Billing account ID,Project name,Project ID,Project hierarchy,Service description,Service ID,\
                SKU description,SKU ID,Consumption model description,Credit type,Cost type,Usage start date,Usage end date,\
                Usage amount,Usage unit,Unrounded cost ($),Cost ($)\n\
                a,b,web,web-1,h,Vertex AI,s,Gemini 2.5 Pro Text Input - Predictions,k,Default,,Usage,2026-06-01,2026-06-30,\"1,980,000\",count,2.475,2.48\n\
                a,b,web,web-1,h,Vertex AI,s,Gemini 2.5 Pro Thinking Text Output - Predictions,k,Default,,Usage,2026-06-01,2026-06-30,1000,count,0.01,0.01\n\
                a,b,web,web-1,h,Vertex AI,s,Gemini 2.5 Pro Input Text Caching,k,Default,,Usage,2026-06-01,2026-06-30,500,count,0.0000625,0\n\
                a,b,web,web-1,h,Vertex AI,s,Gemini 2.5 Pro Text Input - Predictions,k,Default,Promotion,Usage,2026-06-01,2026-06-30,\"1,980,000\",count,-1,-1\n\
                a,b,web,web-1,h,Cloud Storage,s,Standard Storage,k,Default,,Usage,2026-06-01,2026-06-30,10,gibibyte,1,1\n\
                ,,,,,,,,,,,,,,,Total,5.72,5.72\n";
    let export = read(Vendor::Google, text);
    assert_eq!((export.rows.len(), export.other_count, export.bad_count), (4, 2, 0), "{:?}", export.bad);
    assert_eq!(export.rows[0].model.as_deref(), Some("Gemini 2.5 Pro"));
    assert_eq!((export.rows[0].from, export.rows[0].until), (at("2026-06-01T00:00:00Z"), at("2026-07-01T00:00:00Z")));
    assert_eq!(export.rows[0].usage, Some(Usage { input: 1_980_000, ..Usage::default() }));
    assert_eq!(export.rows[0].cost, Some(NanoUsd(2_475_000_000)));
    assert_eq!(export.rows[1].usage, Some(Usage { output: 1_000, ..Usage::default() }));
    assert_eq!(export.rows[2].usage, Some(Usage { cache_read: 500, ..Usage::default() }));
    assert_eq!(
        (export.rows[3].usage, export.rows[3].cost),
        (None, Some(NanoUsd(-1_000_000_000))),
        "a credit is no usage"
    );
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        for vendor in [Vendor::Openai, Vendor::Anthropic, Vendor::Aws, Vendor::Google] {
            drop(parse(vendor, &bytes));
        }
    }

    #[test]
    fn arbitrary_cells_never_panic(cells in proptest::collection::vec("[-0-9a-zé:.,T\"$ ]{0,24}", 9)) {
        let line = cells.join(",");
        for (vendor, heading) in [
            (Vendor::Openai, "start_time,end_time,input_tokens,input_cached_tokens,output_tokens,amount_value,model"),
            (Vendor::Anthropic, "usage_date_utc,cost_usd,usage_input_tokens_no_cache,usage_output_tokens,model_version"),
            (Vendor::Aws, "line_item_usage_type,line_item_usage_start_date,line_item_usage_end_date,line_item_usage_amount,line_item_unblended_cost"),
            (Vendor::Google, "Service description,SKU description,Usage start date,Usage end date,Usage amount,Cost ($)"),
        ] {
            drop(parse(vendor, format!("{heading}\n{line}\n").as_bytes()));
        }
    }
}
