//! Orgs, teams and users, caps and defaults of keys, and who spends most.

use axum::http::Method;
use serde_json::{Value, json};

use super::{House, exchange};
use crate::key::admin::Role;
use crate::key::draft::KeyDefaults;
use crate::key::party::{PartyKind, RequestCaps};
use crate::key::ring::Refusal;
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;

impl House {
    async fn patch(&self, path: &str, body: Value) -> super::Answer {
        self.ask_as(Role::Operator, Method::PATCH, path, Some(body)).await
    }
}

#[tokio::test]
async fn a_party_with_a_bad_field_is_refused_by_name() {
    let house = House::new().await;
    for (path, field, body) in [
        ("/admin/teams", "name", json!({"name": " "})),
        ("/admin/teams", "name", json!({"name": "x".repeat(129)})),
        ("/admin/orgs", "org", json!({"name": "a", "org": "b"})),
        ("/admin/teams", "team", json!({"name": "a", "team": "b"})),
        ("/admin/users", "description", json!({"name": "a", "description": "x".repeat(1025)})),
        ("/admin/users", "models", json!({"name": "a", "models": [""]})),
        ("/admin/users", "max_input_tokens", json!({"name": "a", "max_input_tokens": 0})),
        ("/admin/users", "max_input_tokens", json!({"name": "a", "max_input_tokens": -1})),
        ("/admin/users", "kind", json!({"name": "a", "kind": "org"})),
        ("/admin/users", "name", json!({})),
    ] {
        let answer = house.post(path, body.clone()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text);
        assert_eq!(answer.json()["error"]["param"].as_str().unwrap_or_default(), field, "{body}");
    }
    for kind in ["orgs", "teams", "users"] {
        assert_eq!(house.get(&format!("/admin/{kind}")).await.json()["items"], json!([]));
        assert_eq!(house.get(&format!("/admin/{kind}/nobody")).await.status, 404);
        assert_eq!(house.act(&format!("/admin/{kind}/nobody/disable")).await.status, 404);
    }
}

#[tokio::test]
async fn a_party_that_is_disabled_refuses_its_keys_at_once_and_no_others() {
    let house = House::new().await;
    let admits = |token: String| house.state.ring.admit(&token, None, Timestamp::now()).map(drop);
    let (_, inside) = house.key(json!({"name": "a", "team": "web/ops"})).await;
    let (_, outside) = house.key(json!({"name": "b", "user": "web/ops"})).await;
    assert_eq!(house.post("/admin/teams", json!({"name": "web/ops"})).await.status, 201);
    assert_eq!(house.post("/admin/teams", json!({"name": "web/ops"})).await.status, 409);
    assert_eq!(admits(inside.clone()), Ok(()));
    assert_eq!(house.act("/admin/teams/web%2Fops/disable").await.json()["enabled"], false);
    assert_eq!(admits(inside.clone()), Err(Refusal::Party(PartyKind::Team)));
    assert_eq!(admits(outside), Ok(()));
    assert_eq!(house.act("/admin/teams/web%2Fops/enable").await.json()["enabled"], true);
    assert_eq!(admits(inside.clone()), Ok(()));
    house.act("/admin/teams/web%2Fops/disable").await;
    assert_eq!(house.ask_as(Role::Operator, Method::DELETE, "/admin/teams/web%2Fops", None).await.status, 204);
    assert_eq!(admits(inside), Ok(()), "a name without a row refuses nothing");
}

#[tokio::test]
async fn caps_of_a_key_and_its_parties_meet_in_the_smallest() {
    let house = House::new().await;
    let (id, _) = house.key(json!({"name": "a", "team": "web", "max_output_tokens": 500})).await;
    let body = json!({"name": "web", "max_output_tokens": 900, "max_input_tokens": 100, "models": ["gpt-*"]});
    assert_eq!(house.post("/admin/teams", body).await.status, 201);
    let key = || house.state.ring.get(&id).unwrap();
    let caps = |input, output| RequestCaps { max_input_tokens: input, max_output_tokens: output };
    assert_eq!(house.state.ring.caps(&key()), caps(Some(100), Some(500)));
    assert!(house.state.ring.allows_model(&key(), "gpt-4o") && !house.state.ring.allows_model(&key(), "claude"));
    let patched = house.patch("/admin/teams/web", json!({"max_output_tokens": 50, "max_input_tokens": null})).await;
    assert_eq!((patched.status.as_u16(), &patched.json()["models"]), (200, &json!(["gpt-*"])));
    assert_eq!(house.state.ring.caps(&key()), caps(None, Some(50)));
    let patched = house.patch(&format!("/admin/keys/{id}"), json!({"max_output_tokens": 10})).await.json();
    assert_eq!(patched["max_output_tokens"], 10);
    assert_eq!(house.state.ring.caps(&key()), caps(None, Some(10)));
    for wrong in [json!({"max_output_tokens": 0}), json!({"max_input_tokens": 1_000_000_001})] {
        assert_eq!(house.patch(&format!("/admin/keys/{id}"), wrong).await.status, 400);
    }
}

#[tokio::test]
async fn a_new_key_is_what_the_operator_set_where_the_request_says_nothing() {
    let house = House::new().await;
    *house.control.key_defaults.lock().unwrap() = KeyDefaults {
        caps: RequestCaps { max_input_tokens: Some(1000), max_output_tokens: Some(100) },
        expires_in: Some(std::time::Duration::from_secs(86_400)),
        labels: [("env".to_owned(), "dev".to_owned())].into(),
        models: vec![Glob::new("gpt-*").unwrap()],
    };
    let made = house.post("/admin/keys", json!({"name": "a"})).await.json();
    let key = &made["key"];
    assert_eq!((&key["labels"], &key["models"]), (&json!({"env": "dev"}), &json!(["gpt-*"])));
    assert_eq!((&key["max_input_tokens"], &key["max_output_tokens"]), (&json!(1000), &json!(100)));
    assert!(key["expires_at"].is_string());
    let own = json!({"name": "a", "labels": {}, "models": [], "max_input_tokens": null, "expires_at": null});
    let key = house.post("/admin/keys", own).await.json()["key"].clone();
    assert_eq!((&key["labels"], &key["models"]), (&json!({}), &json!([])));
    assert_eq!((&key["max_input_tokens"], &key["max_output_tokens"]), (&json!(null), &json!(100)));
    assert_eq!(key["expires_at"], json!(null));
}

#[tokio::test]
async fn a_team_shows_its_keys_its_limits_and_what_it_used() {
    let house = House::new().await;
    house.key(json!({"name": "a", "team": "web"})).await;
    house.key(json!({"name": "b", "team": "web"})).await;
    house.post("/admin/teams", json!({"name": "web", "org": "acme", "description": "The site"})).await;
    for subject in [json!("web"), json!(null)] {
        let body = json!({"scope": "team", "subject": subject, "unit": "requests", "window": "day", "amount": 5});
        assert_eq!(house.post("/admin/limits", body).await.status, 201);
    }
    house.record(vec![exchange(Timestamp::now().micros()), exchange(1_000_000)]).await;
    let shown = house.get("/admin/teams/web").await.json();
    assert_eq!((&shown["keys"], &shown["org"], &shown["counters"]), (&json!(2), &json!("acme"), &json!([])));
    assert_eq!(shown["limits"].as_array().unwrap().len(), 2);
    assert_eq!(shown["last_30_days"]["requests"], 1);
    assert_eq!(shown["last_30_days"]["cost_usd"], "0.001250000");
    *house.control.standings.lock().unwrap() = None;
    let shown = house.get("/admin/teams/web").await.json();
    assert_eq!((&shown["keys"], &shown["counters"]), (&json!(2), &json!(null)), "the rest is worth showing");
}

#[tokio::test]
async fn top_spenders_are_grouped_by_whatever_is_asked_for() {
    let house = House::new().await;
    let now = Timestamp::now().micros();
    let spent = |team: Option<&str>, cost: i64, tags: &[&str]| {
        let mut record = exchange(now);
        record.team = team.map(Into::into);
        record.cost = Some(crate::unit::money::NanoUsd(cost));
        record.tags = tags.iter().map(|tag| (*tag).into()).collect();
        record
    };
    house.record(vec![spent(Some("web"), 5, &["x", "y"]), spent(Some("ops"), 7, &["y"]), spent(None, 1, &[])]).await;
    let names = |answer: Value| -> Vec<(Value, i64)> {
        let rows = answer["spenders"].as_array().unwrap().iter();
        rows.map(|row| (row["name"].clone(), row["cost_nano_usd"].as_i64().unwrap())).collect()
    };
    let by_team = house.get("/admin/spend?by=team").await.json();
    assert_eq!(names(by_team), [(json!("ops"), 7), (json!("web"), 5), (json!(null), 1)]);
    let by_tag = house.get("/admin/spend?by=tag").await.json();
    assert_eq!(names(by_tag), [(json!("y"), 12), (json!("x"), 5)]);
    let first = house.get("/admin/spend?by=team&limit=1&team=web").await.json();
    assert_eq!(names(first), [(json!("web"), 5)]);
    let before = house.get("/admin/spend?by=model&until=2001-01-01T00:00:00Z").await.json();
    assert_eq!(names(before), []);
    let mut unpriced = spent(Some("dark"), 0, &[]);
    unpriced.cost = None;
    house.record(vec![unpriced]).await;
    let dark = house.get("/admin/spend?by=team&team=dark").await.json()["spenders"][0].clone();
    assert_eq!((&dark["cost_usd"], &dark["cost_nano_usd"], &dark["unpriced"]), (&json!(null), &json!(null), &json!(1)));
    for by in ["key", "org", "user", "model", "provider"] {
        assert_eq!(house.get(&format!("/admin/spend?by={by}")).await.status, 200, "{by}");
    }
    for wrong in ["/admin/spend", "/admin/spend?by=colour", "/admin/spend?by=team&limit=0"] {
        assert_eq!(house.get(wrong).await.status, 400, "{wrong}");
    }
}
