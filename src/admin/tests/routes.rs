//! Routes.

use std::sync::atomic::Ordering;

use axum::http::Method;
use serde_json::{Value, json};

use super::House;
use crate::key::admin::Role;
use crate::route::store::RouteStore;

impl House {
    async fn route(&self, to: &str) -> String {
        let answer = self.post("/admin/routes", json!({"route": {"to": to}})).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    async fn stored(&self) -> Vec<String> {
        RouteStore::list(&*self.store).await.unwrap().into_iter().map(|route| route.id.to_string()).collect()
    }

    async fn put(&self, path: &str, body: Value) -> super::Answer {
        self.ask_as(Role::Operator, Method::PUT, path, Some(body)).await
    }
}

#[tokio::test]
async fn a_route_without_sense_is_not_kept() {
    let house = House::new().await;
    let bad: &[(u16, Value)] = &[
        (400, json!({})),
        (400, json!({"to": "openai", "split": [{"to": "groq", "weight": 1}]})),
        (400, json!({"split": [{"to": "groq", "weight": 0}]})),
        (400, json!({"split": [{"to": "groq", "weight": 1_000_001}]})),
        (400, json!({"split": []})),
        (400, json!({"to": ""})),
        (400, json!({"to": "open ai"})),
        (400, json!({"to": "openai:"})),
        (400, json!({"to": "openai:\n"})),
        (400, json!({"to": "openai", "name": ""})),
        (400, json!({"to": "openai", "name": "x".repeat(65)})),
        (400, json!({"to": "openai", "match": {"model": ""}})),
        (400, json!({"to": "openai", "match": {"modle": "x"}})),
        (400, json!({"to": "openai", "fallback": vec!["groq"; 16]})),
        (400, json!({"to": "openai", "match": ["x", null]})),
        (400, json!({"split": [["groq", 1]]})),
        (400, json!([null, {}, "openai"])),
        (409, json!({"to": "nobody"})),
    ];
    for (status, route) in bad {
        let answer = house.post("/admin/routes", json!({"route": route})).await;
        assert_eq!(answer.status, *status, "{route}: {}", answer.text);
    }
    assert_eq!(house.post("/admin/routes", json!({"route": {"to": "groq"}, "position": 10_001})).await.status, 400);
    assert_eq!((house.stored().await.len(), *house.control.changes.lock().unwrap()), (0, 0));
}

#[tokio::test]
async fn a_stored_route_is_made_shown_replaced_and_deleted() {
    let house = House::new().await;
    let id = house.route("openai:gpt-4o").await;
    let path = format!("/admin/routes/{id}");
    assert_eq!(house.get(&path).await.json()["route"], json!({"match": {}, "to": "openai:gpt-4o"}));
    assert_eq!(house.put(&path, json!({"to": "nobody"})).await.status, 409);
    let split = json!({"match": {"model": "gpt-*"}, "split": [{"to": "openai", "weight": 9}, {"to": "groq", "weight": 1}], "fallback": ["groq:x"]});
    let replaced = house.put(&path, split.clone()).await;
    assert_eq!((replaced.status.as_u16(), &replaced.json()["route"]), (200, &split));
    assert_eq!(house.ask_as(Role::Operator, Method::DELETE, &path, None).await.status, 204);
    for (method, body) in [(Method::GET, None), (Method::DELETE, None), (Method::PUT, Some(json!({"to": "groq"})))] {
        assert_eq!(house.ask_as(Role::Operator, method.clone(), &path, body).await.status, 404, "{method}");
    }
    assert_eq!(*house.control.changes.lock().unwrap(), 3, "each change was put in force");
}

#[tokio::test]
async fn an_order_must_name_every_stored_route_once() {
    let house = House::new().await;
    let (one, two) = (house.route("openai").await, house.route("groq").await);
    for (status, ids) in [(409, json!([one])), (409, json!([one, one])), (400, json!(["x"])), (409, json!([]))] {
        assert_eq!(house.put("/admin/routes/order", json!({"ids": ids})).await.status, status, "{ids}");
    }
    assert_eq!(house.stored().await, [one.clone(), two.clone()]);
    assert_eq!(house.put("/admin/routes/order", json!({"ids": [two, one]})).await.status, 200);
    assert_eq!(house.stored().await, [two.clone(), one.clone()]);
    let first = house.post("/admin/routes", json!({"route": {"to": "groq"}, "position": 0})).await.json();
    assert_eq!(house.stored().await, [first["id"].as_str().unwrap().to_owned(), two, one]);
}

#[tokio::test]
async fn a_change_that_cannot_be_put_in_force_is_taken_back() {
    let house = House::new().await;
    let (one, two) = (house.route("openai").await, house.route("groq").await);
    let before = RouteStore::list(&*house.store).await.unwrap();
    house.control.table_broken.store(true, Ordering::Relaxed);
    assert_eq!(house.post("/admin/routes", json!({"route": {"to": "groq"}})).await.status, 500);
    assert_eq!(house.put(&format!("/admin/routes/{one}"), json!({"to": "groq"})).await.status, 500);
    assert_eq!(house.put("/admin/routes/order", json!({"ids": [two, one]})).await.status, 500);
    assert_eq!(house.ask_as(Role::Admin, Method::DELETE, &format!("/admin/routes/{one}"), None).await.status, 500);
    assert_eq!(RouteStore::list(&*house.store).await.unwrap(), before);
}

#[tokio::test]
async fn a_dry_run_says_where_a_call_would_go() {
    let house = House::new().await;
    let (key, _) = house.key(json!({"name": "a", "team": "web", "models": ["gpt-*"]})).await;
    for (status, query) in [
        (400, ""),
        (400, "model="),
        (400, "model=x&key_id=x"),
        (400, "model=x&nothing=x"),
        (404, "model=x&key_id=key_00000000000000000000000000"),
        (404, "model=unknown"),
    ] {
        assert_eq!(house.get(&format!("/admin/routes/explain?{query}")).await.status, status, "{query}");
    }
    let answer = house.get(&format!("/admin/routes/explain?model=claude&key_id={key}")).await.json();
    assert_eq!(answer["key_allows"], false);
    assert_eq!(answer["explanation"]["targets"][0]["usable"], true, "the key's team was asked for");
    let answer = house.get(&format!("/admin/routes/explain?model=claude&key_id={key}&team=other")).await.json();
    assert_eq!(answer["explanation"]["targets"][0]["usable"], false);
}
