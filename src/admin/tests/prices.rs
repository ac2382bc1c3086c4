//! Prices, and pricing the request log again.

use axum::http::Method;
use serde_json::{Value, json};

use super::{House, exchange};
use crate::key::admin::Role;
use crate::unit::clock::Timestamp;

fn row(model: &str, input: f64) -> Value {
    json!({"provider": "openai", "model": model, "usd_per_million_tokens": {"input": input, "output": 10}})
}

impl House {
    async fn price(&self, rows: Value) -> super::Answer {
        self.ask_as(Role::Operator, Method::PUT, "/admin/prices", Some(json!({ "prices": rows }))).await
    }

    async fn reprice(&self, role: Role, dry_run: bool) -> super::Answer {
        let body = json!({"since": "2026-01-01T00:00:00Z", "dry_run": dry_run});
        self.ask_as(role, Method::POST, "/admin/prices/reprice", Some(body)).await
    }
}

#[tokio::test]
async fn a_price_without_sense_is_not_kept() {
    let house = House::new().await;
    for rows in [
        json!([]),
        json!([row("", 1.0)]),
        json!([row("m", -1.0)]),
        json!([row("m", 100_001.0)]),
        json!([{"model": "m"}]),
        json!([{"model": "m", "usd_per_million_tokens": {"input": 1}}]),
        json!([{"model": "m", "per_request_usd": 1, "effective": "2026-02-30"}]),
        json!([{"model": "m", "per_request_usd": 1, "effective": "2026-02-03", "until": "2026-02-03"}]),
        json!([{"model": "m", "per_request_usd": 1, "service_tiers": {"fast": 2}}]),
        json!([{"model": "m", "per_request_usd": 1, "tiers": [{"above_input_tokens": 0, "usd_per_million_tokens": {"input": 1, "output": 1}}]}]),
        json!([["openai", "m"]]),
    ] {
        let answer = house.price(rows.clone()).await;
        assert_eq!(answer.status, 400, "{rows}: {}", answer.text);
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.len() > 20, "{message}");
    }
    assert_eq!(house.get("/admin/prices").await.json()["prices"], json!([]));
    assert_eq!(
        house
            .ask_as(Role::Auditor, Method::PUT, "/admin/prices", Some(json!({"prices": [row("m", 1.0)]})))
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn a_stored_price_is_in_force_at_once_and_its_deletion_too() {
    let house = House::new().await;
    let lookup = "/admin/prices/lookup?model=gpt-4o&provider=openai";
    let listed = house.get(lookup).await.json();
    assert_eq!(listed["prices"][0]["price"]["usd_per_million_tokens"]["input"], 2.5);
    let stored = house.price(json!([row("gpt-4o", 3.0)])).await;
    assert_eq!(stored.status, 200, "{}", stored.text);
    let id = stored.json()["prices"][0]["id"].as_str().unwrap().to_owned();
    let ours = house.get(lookup).await.json();
    assert_eq!(ours["prices"][0]["price"]["usd_per_million_tokens"]["input"], 3.0);
    assert_eq!(ours["prices"][0]["price"]["source"], id.as_str());
    assert_eq!(house.price(json!([row("gpt-4o", 4.0)])).await.json()["prices"][0]["id"], id.as_str(), "replaced");
    let path = format!("/admin/prices/{id}");
    assert_eq!(house.ask_as(Role::Operator, Method::DELETE, &path, None).await.status, 204);
    assert_eq!(house.ask_as(Role::Operator, Method::DELETE, &path, None).await.status, 404);
    assert_eq!(house.get(lookup).await.json(), listed);
    assert_eq!(house.get("/admin/prices/lookup?model=nobody&provider=openai").await.json()["prices"], json!([]));
    assert_eq!(house.get("/admin/prices/lookup?model=a&at=yesterday").await.status, 400);
}

#[tokio::test]
async fn a_difference_names_what_would_change_and_stores_nothing() {
    let house = House::new().await;
    let rows = json!({"prices": [row("gpt-4o", 2.5), row("gpt-4.1", 9.0), row("house-*", 1.0)]});
    let changes = house.post("/admin/prices/diff", rows).await.json();
    let models: Vec<&str> =
        changes["changes"].as_array().unwrap().iter().map(|change| change["model"].as_str().unwrap()).collect();
    // gpt-4o: the file has no price for cached input, so it costs 2.50 instead of 1.25.
    assert_eq!(models, ["gpt-4o", "gpt-4.1", "house-*"]);
    assert_eq!(changes["changes"][1]["before"]["usd_per_million_tokens"]["input"], 2.0);
    assert_eq!(changes["changes"][1]["after"]["usd_per_million_tokens"]["input"], 9.0);
    assert_eq!(changes["changes"][2]["before"], Value::Null);
    assert_eq!(house.get("/admin/prices").await.json()["prices"], json!([]));
}

#[tokio::test]
async fn records_are_priced_again_by_operators_only_and_a_dry_run_writes_nothing() {
    let house = House::new().await;
    let at = Timestamp::parse("2026-11-01T00:00:00Z").unwrap().0;
    house.record(vec![exchange(at), exchange(at + 1), exchange(at + 2)]).await;
    // 10 at 2.50 and 5 at 10 a million: 75 micro-dollars, where 1,250 were written.
    let told = house.reprice(Role::Auditor, true).await.json();
    assert_eq!((&told["dry_run"], &told["changed"]), (&json!(true), &json!(3)));
    assert_eq!(told["difference_nano_usd"], 3 * (75_000 - 1_250_000));
    assert_eq!(told["models"], json!([{"name": "gpt-4o", "difference_nano_usd": -3_525_000}]));
    assert_eq!(house.reprice(Role::Auditor, false).await.status, 403);
    assert_eq!(house.reprice(Role::Operator, true).await.json()["changed"], 3, "nothing was written");
    let done = house.reprice(Role::Operator, false).await.json();
    assert_eq!((&done["changed"], &done["difference_nano_usd"]), (&json!(3), &told["difference_nano_usd"]));
    assert_eq!(house.reprice(Role::Operator, false).await.json()["changed"], 0, "a second time there is nothing to do");
    let record = &house.get("/admin/requests").await.json()["requests"][0];
    assert_eq!((&record["cost_nano_usd"], &record["price"]["name"]), (&json!(75_000), &json!("openai/gpt-4o")));
}
