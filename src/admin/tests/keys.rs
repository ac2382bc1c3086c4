//! Application keys.

use axum::http::Method;
use serde_json::{Value, json};

use super::House;
use crate::key::admin::Role;
use crate::key::ring::Refusal;
use crate::unit::clock::Timestamp;

impl House {
    fn admits(&self, token: &str) -> Result<(), Refusal> {
        self.state.ring.admit(token, None, Timestamp::now()).map(drop)
    }
}

#[tokio::test]
async fn a_key_with_a_bad_field_is_refused_by_name() {
    let house = House::new().await;
    let bad: &[(&str, u16, Value)] = &[
        ("name", 400, json!({"name": ""})),
        ("name", 400, json!({"name": "  "})),
        ("name", 400, json!({"name": "x".repeat(129)})),
        ("name", 400, json!({"name": "a\u{7}b"})),
        ("org", 400, json!({"name": "a", "org": ""})),
        ("labels", 400, json!({"name": "a", "labels": {"": "x"}})),
        ("labels", 400, json!({"name": "a", "labels": {"x": "y".repeat(257)}})),
        ("models", 400, json!({"name": "a", "models": [""]})),
        ("models", 400, json!({"name": "a", "models": ["a\u{7f}"]})),
        ("models", 400, json!({"name": "a", "models": ["é".repeat(257)]})),
        ("addresses", 400, json!({"name": "a", "addresses": ["10.0.0.0/33"]})),
        ("expires_at", 409, json!({"name": "a", "expires_at": "2001-01-01T00:00:00Z"})),
        ("hash", 400, json!({"name": "a", "hash": "00"})),
        ("enabled", 400, json!({"name": "a", "enabled": true})),
        ("name", 400, json!({"name": 5})),
        ("", 400, json!(["name"])),
        ("name", 400, json!({})),
    ];
    for (param, status, body) in bad {
        let answer = house.post("/admin/keys", body.clone()).await;
        assert_eq!(answer.status, *status, "{body}: {}", answer.text);
        assert_eq!(answer.json()["error"]["param"].as_str().unwrap_or_default(), *param, "{body}");
    }
    assert_eq!(house.get("/admin/keys").await.json()["keys"], json!([]));
}

#[tokio::test]
async fn a_revoked_key_is_not_changed() {
    let house = House::new().await;
    let (id, _) = house.key(json!({"name": "a"})).await;
    house.act(&format!("/admin/keys/{id}/revoke")).await;
    let path = format!("/admin/keys/{id}");
    let answer = house.ask_as(Role::Admin, Method::PATCH, &path, Some(json!({"name": "b"}))).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "conflict"));
    assert_eq!(house.get(&path).await.json()["name"], "a");
}

#[tokio::test]
async fn null_removes_and_models_may_be_of_any_script() {
    let house = House::new().await;
    let fields =
        json!({"name": "a", "org": "o", "labels": {"x": "y"}, "models": ["模型-*"], "addresses": ["10.0.0.0/8"]});
    let (id, _) = house.key(fields).await;
    let path = format!("/admin/keys/{id}");
    assert_eq!(house.get(&path).await.json()["models"], json!(["模型-*"]));
    for field in ["name", "enabled"] {
        let answer = house.ask_as(Role::Admin, Method::PATCH, &path, Some(json!({field: null}))).await;
        assert_eq!(answer.status, 400, "{field}");
    }
    let nulls = json!({"org": null, "labels": null, "models": null, "addresses": null});
    let answer = house.ask_as(Role::Admin, Method::PATCH, &path, Some(nulls)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let key = answer.json();
    let left = json!([key["org"], key["labels"], key["models"], key["addresses"]]);
    assert_eq!(left, json!([null, {}, [], []]));
}

#[tokio::test]
async fn the_token_of_a_key_is_shown_once_and_works_at_once() {
    let house = House::new().await;
    let answer = house
        .post("/admin/keys", json!({"name": "ci", "team": "web", "models": ["gpt-*"], "addresses": ["10.0.0.0/8"], "labels": {"env": "prod"}}))
        .await;
    assert_eq!(answer.status, 201);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let json = answer.json();
    let (id, token) = (json["key"]["id"].as_str().unwrap(), json["token"].as_str().unwrap());
    assert!(token.starts_with("marg_live_"));
    assert_eq!(house.admits(token), Err(Refusal::Address), "known, though not from here");
    for path in ["/admin/keys".to_owned(), format!("/admin/keys/{id}")] {
        let text = house.get(&path).await.text;
        assert!(!text.contains(token) && !text.contains("hash"), "{text}");
    }
    let shown = house.get(&format!("/admin/keys/{id}")).await.json();
    assert_eq!(shown, json["key"]);
    assert_eq!(
        (&shown["status"], &shown["team"], &shown["labels"]["env"]),
        (&json!("active"), &json!("web"), &json!("prod"))
    );
}

#[tokio::test]
async fn the_style_of_a_token_can_be_chosen_and_survives_rotation() {
    let house = House::new().await;
    for (style, prefix) in [("marg", "marg_live_"), ("openai", "sk-"), ("anthropic", "sk-ant-")] {
        let (id, token) = house.key(json!({"name": "a", "style": style})).await;
        let rotated = house.act(&format!("/admin/keys/{id}/rotate")).await.json();
        for token in [token.as_str(), rotated["token"].as_str().unwrap()] {
            assert!(token.starts_with(prefix), "{token}");
            assert_eq!(token.starts_with("sk-ant-"), style == "anthropic", "{token}");
        }
    }
}

#[tokio::test]
async fn rotation_kills_the_old_token_at_once() {
    let house = House::new().await;
    let (id, old) = house.key(json!({"name": "a"})).await;
    assert_eq!(house.admits(&old), Ok(()));
    let answer = house.act(&format!("/admin/keys/{id}/rotate")).await;
    assert_eq!((answer.status.as_u16(), answer.headers["cache-control"].to_str().unwrap()), (200, "no-store"));
    let new = answer.json()["token"].as_str().unwrap().to_owned();
    assert_eq!((house.admits(&old), house.admits(&new)), (Err(Refusal::Unknown), Ok(())));
    assert!(answer.json()["key"]["rotated_at"].is_string());
}

#[tokio::test]
async fn a_key_goes_off_and_on_and_ends_for_ever() {
    let house = House::new().await;
    let (id, token) = house.key(json!({"name": "a"})).await;
    let act = |verb: &str| {
        let path = format!("/admin/keys/{id}/{verb}");
        let house = &house;
        async move { house.act(&path).await }
    };
    assert_eq!(act("disable").await.json()["status"], "disabled");
    assert_eq!(house.admits(&token), Err(Refusal::Disabled));
    assert_eq!(act("enable").await.json()["status"], "active");
    assert_eq!(house.admits(&token), Ok(()));
    let revoked = act("revoke").await.json();
    assert_eq!(revoked["status"], "revoked");
    assert_eq!(house.admits(&token), Err(Refusal::Revoked));
    assert_eq!(act("revoke").await.json()["revoked_at"], revoked["revoked_at"], "the first time counts");
    for verb in ["enable", "disable", "rotate"] {
        assert_eq!(act(verb).await.status, 409, "{verb}");
    }
    let path = format!("/admin/keys/{id}");
    assert_eq!(house.ask_as(Role::Admin, Method::DELETE, &path, None).await.status, 204);
    assert_eq!(house.admits(&token), Err(Refusal::Unknown));
    assert_eq!(house.get(&path).await.status, 404);
    assert_eq!(house.ask_as(Role::Admin, Method::DELETE, &path, None).await.status, 404);
    assert_eq!(act("revoke").await.status, 404);
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_null_removes() {
    let house = House::new().await;
    let (id, token) =
        house.key(json!({"name": "a", "team": "web", "user": "u", "expires_at": "2999-01-01T00:00:00Z"})).await;
    let path = format!("/admin/keys/{id}");
    let patch = |body: Value| {
        let (house, path) = (&house, &path);
        async move { house.ask_as(Role::Operator, Method::PATCH, path, Some(body)).await }
    };
    for bad in
        [json!({"name": null}), json!({"enabled": null}), json!({"labels": 7}), json!({"id": "x"}), json!({"name": ""})]
    {
        assert_eq!(patch(bad.clone()).await.status, 400, "{bad}");
    }
    assert_eq!(patch(json!({"expires_at": "2001-01-01T00:00:00Z"})).await.status, 409);
    let before = house.get(&path).await.json();
    assert_eq!(patch(json!({})).await.json(), before);
    let after =
        patch(json!({"name": "b", "team": null, "expires_at": null, "models": ["x"], "enabled": false})).await.json();
    let seen =
        (&after["name"], &after["team"], &after["user"], &after["expires_at"], &after["models"], &after["status"]);
    assert_eq!(seen, (&json!("b"), &json!(null), &json!("u"), &json!(null), &json!(["x"]), &json!("disabled")));
    assert_eq!(house.admits(&token), Err(Refusal::Disabled));
}

#[tokio::test]
async fn an_expired_key_can_still_be_renamed() {
    let house = House::new().await;
    let draft =
        crate::key::draft::NewKey { name: "old".to_owned(), expires_at: Some(Timestamp(10)), ..Default::default() };
    let fields = draft.check(Timestamp(1)).unwrap();
    let (key, _) = fields.mint(crate::key::token::TokenStyle::Marg, &house.state.hash_key, Timestamp(1)).unwrap();
    house.state.keys.insert(&key).await.unwrap();
    let path = format!("/admin/keys/{}", key.id);
    let answer = house.ask_as(Role::Admin, Method::PATCH, &path, Some(json!({"name": "new"}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!((&answer.json()["name"], &answer.json()["status"]), (&json!("new"), &json!("expired")));
}

#[tokio::test]
async fn lists_are_bounded_filtered_and_paged_without_gaps() {
    let house = House::new().await;
    for number in 0..7 {
        let team = if number % 2 == 0 { "even" } else { "odd" };
        house.key(json!({"name": format!("key {number}"), "team": team, "labels": {"n": number.to_string()}})).await;
    }
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "cursor=x",
        "team=",
        "status=odd",
        "teams=odd",
        "team=a&team=b",
        "label=x",
    ] {
        assert_eq!(house.get(&format!("/admin/keys?{bad}")).await.status, 400, "{bad}");
    }
    let names = |page: &Value| -> Vec<String> {
        page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
    };
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = house.get(&format!("/admin/keys?limit=3{cursor}")).await.json();
        found.extend(names(&page));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(found, (0..7).rev().map(|number| format!("key {number}")).collect::<Vec<_>>());
    let only = |query: &'static str| {
        let house = &house;
        async move { names(&house.get(&format!("/admin/keys?{query}")).await.json()) }
    };
    assert_eq!(only("team=odd").await, ["key 5", "key 3", "key 1"]);
    assert_eq!(only("label=n%3D4").await, ["key 4"]);
    assert_eq!(only("name=KEY%206").await, ["key 6"]);
    assert_eq!(only("status=revoked").await, Vec::<String>::new());
}
