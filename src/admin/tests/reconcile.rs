//! Holding the request log against an export.

use axum::body::Body;
use axum::http::{Method, Request, header};
use serde_json::{Value, json};

use super::{Answer, House, exchange};
use crate::key::admin::Role;
use crate::ledger::Record;
use crate::ledger::query::{Filter, LedgerStore};
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;
use crate::unit::usage::Usage;

impl House {
    async fn reconcile(&self, query: &str, export: &str) -> Answer {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/admin/reconcile?{query}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token(Role::Auditor)))
            .body(Body::from(export.to_owned()));
        self.send(request.unwrap()).await
    }
}

/// An exchange of gpt-4o in a minute of 2026-11-01, priced as the list prices it.
fn record(minute: i64, usage: Usage, nanos: i64) -> Record {
    let at = Timestamp::parse("2026-11-01T00:00:00Z").unwrap().0 + minute * 60_000_000;
    let served = Some("gpt-4o-2024-08-06".to_owned());
    Record { usage: Some(usage), cost: Some(NanoUsd(nanos)), model_served: served, ..exchange(at) }
}

/// A page of OpenAI's usage API about that day.
fn page(input: u64, cached: u64, output: u64, requests: u64) -> String {
    let start = Timestamp::parse("2026-11-01T00:00:00Z").unwrap().seconds();
    json!({"object": "page", "data": [{"start_time": start, "end_time": start + 86_400, "results": [{
        "input_tokens": input, "input_cached_tokens": cached, "output_tokens": output, "num_model_requests": requests,
        "model": "gpt-4o-2024-08-06",
    }]}]})
    .to_string()
}

#[tokio::test]
async fn what_cannot_be_compared_is_refused() {
    let house = House::new().await;
    for (query, export) in [
        ("", "{}"),
        ("vendor=nobody", "{}"),
        ("vendor=openai&since=yesterday", "{}"),
        ("vendor=openai&provider=", "{}"),
        ("vendor=openai", "not an export"),
        ("vendor=google", "{}"),
    ] {
        let answer = house.reconcile(query, export).await;
        assert_eq!(answer.status, 400, "{query}: {}", answer.text);
    }
    let empty = house.reconcile("vendor=openai", r#"{"data":[]}"#).await.json();
    assert_eq!((&empty["rows"], &empty["total"]["cause"]), (&json!(0), &Value::Null));
}

#[tokio::test]
async fn equal_counts_have_no_gap() {
    let house = House::new().await;
    let usage = Usage { input: 600_000, cache_read: 400_000, output: 200_000, reasoning: 100_000, ..Usage::default() };
    house.record(vec![record(5, usage, 5_000_000_000)]).await;
    // What OpenAI calls output holds the reasoning.
    let answer = house.reconcile("vendor=openai", &page(1_000_000, 400_000, 300_000, 1)).await.json();
    assert_eq!((&answer["grain"], &answer["total"]["cause"]), (&json!("day"), &Value::Null));
    assert_eq!((&answer["total"]["gap_cents"], &answer["spans"]), (&json!("0.00"), &json!([])));
}

#[tokio::test]
async fn the_class_that_causes_a_gap_is_named_with_its_cents() {
    let house = House::new().await;
    // The ledger took 400,000 cached tokens for plain ones: 2.50 instead of 1.25 a million, half a dollar too much.
    let usage = Usage { input: 1_000_000, output: 300_000, ..Usage::default() };
    house.record(vec![record(5, usage, 5_500_000_000)]).await;
    let answer = house.reconcile("vendor=openai", &page(1_000_000, 400_000, 300_000, 1)).await.json();
    assert_eq!(answer["total"]["gap_cents"], "-50.00");
    assert_eq!(answer["total"]["cause"], "input");
    let classes = answer["models"][0]["classes"].as_array().unwrap();
    assert_eq!(classes[0]["worth_nano_usd"], -1_000_000_000);
    assert_eq!((&classes[1]["class"], &classes[1]["worth_nano_usd"]), (&json!("cache_read"), &json!(500_000_000)));
}

#[tokio::test]
async fn requests_that_only_the_provider_knows_are_told() {
    let house = House::new().await;
    let usage = Usage { input: 600_000, cache_read: 400_000, output: 300_000, ..Usage::default() };
    house.record(vec![record(5, usage, 5_000_000_000)]).await;
    let answer = house.reconcile("vendor=openai", &page(1_000_000, 400_000, 900_000, 3)).await.json();
    assert_eq!((&answer["total"]["gap_cents"], &answer["total"]["cause"]), (&json!("600.00"), &json!("output")));
    let detail = answer["total"]["detail"].as_str().unwrap();
    assert!(
        detail.contains("600000 more tokens") && detail.contains("2 requests are known to the provider only"),
        "{detail}"
    );
    let none = house.reconcile("vendor=openai&provider=other", &page(1_000_000, 400_000, 900_000, 3)).await.json();
    assert_eq!((&none["total"]["ledger_records"], &none["total"]["export_requests"]), (&json!(0), &json!(3)));
}

#[tokio::test]
async fn another_price_is_told_where_the_tokens_agree() {
    let house = House::new().await;
    let usage = Usage { input: 1_000_000, ..Usage::default() };
    house.record(vec![record(5, usage, 2_500_000_000)]).await;
    let csv = "start_time_iso,amount_value,amount_currency,line_item\n\
               2026-11-01T00:00:00Z,2.00,usd,\"gpt-4o-2024-08-06, input\"\nnonsense,1,usd,x\n";
    let answer = house.reconcile("vendor=openai", csv).await.json();
    assert_eq!((&answer["total"]["gap_cents"], &answer["total"]["cause"]), (&json!("-50.00"), &json!("price")));
    assert_eq!(answer["bad"][0]["place"], "line 3");
}

#[tokio::test]
async fn sums_are_the_same_by_the_database_and_page_by_page() {
    /// A store that knows no better than the trait.
    struct Plain(std::sync::Arc<crate::store::Store>);

    #[async_trait::async_trait]
    impl LedgerStore for Plain {
        async fn position(&self, _: &str) -> Result<u64, crate::error::StoreError> {
            unreachable!()
        }
        async fn write_batch(
            &self,
            _: &[crate::ledger::Line],
            _: &crate::ledger::query::Position,
        ) -> Result<u64, crate::error::StoreError> {
            unreachable!()
        }
        async fn sync(&self) -> Result<(), crate::error::StoreError> {
            unreachable!()
        }
        async fn segments(&self) -> Result<Vec<String>, crate::error::StoreError> {
            unreachable!()
        }
        async fn forget(&self, _: &str) -> Result<(), crate::error::StoreError> {
            unreachable!()
        }
        async fn get(&self, _: crate::unit::id::ExchangeId) -> Result<Option<Record>, crate::error::StoreError> {
            unreachable!()
        }
        async fn find(&self, filter: &Filter) -> Result<crate::ledger::query::Page, crate::error::StoreError> {
            self.0.find(filter).await
        }
        async fn end(&self) -> Result<crate::ledger::query::Cursor, crate::error::StoreError> {
            unreachable!()
        }
        async fn summarize(&self, _: &Filter) -> Result<crate::ledger::query::Summary, crate::error::StoreError> {
            unreachable!()
        }
        async fn top(
            &self,
            _: &Filter,
            _: crate::ledger::query::Group,
            _: usize,
        ) -> Result<Vec<crate::ledger::query::Spender>, crate::error::StoreError> {
            unreachable!()
        }
        async fn delete_before(&self, _: Timestamp, _: u32) -> Result<u64, crate::error::StoreError> {
            unreachable!()
        }
    }

    let house = House::new().await;
    let usage = |n: u64| Usage { input: n, cache_read: 2 * n, reasoning: 3 * n, output_image: 4, ..Usage::default() };
    let mut records: Vec<Record> = (0..200).map(|n| record(n * 7, usage(n as u64), n)).collect();
    for (n, record) in records.iter_mut().enumerate() {
        record.attempts[0].credential = (n % 3 > 0).then_some((n % 3) as u32);
        record.outcome = if n % 5 == 0 { crate::ledger::Outcome::ClientGone } else { record.outcome };
        record.cost = record.cost.filter(|_| n % 7 > 0);
        record.usage = record.usage.filter(|_| n % 11 > 0);
        record.status = if n % 13 == 0 { 500 } else { 200 };
        record.model_served = record.model_served.take().filter(|_| n % 2 == 0);
        record.provider = record.provider.take().filter(|_| n % 17 > 0);
    }
    house.record(records).await;
    for width in [3_600_000_000, 86_400_000_000, i64::MAX] {
        let filter = Filter { provider: Some("openai".to_owned()), ..Filter::default() };
        let (by_database, by_page) = (
            house.store.sums(&filter, width).await.unwrap(),
            Plain(house.store.clone()).sums(&filter, width).await.unwrap(),
        );
        assert!(by_database.len() > 3);
        assert_eq!(by_database, by_page, "{width}");
    }
}
