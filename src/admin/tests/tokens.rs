//! Admin tokens.

use axum::http::Method;
use serde_json::{Value, json};

use super::House;
use crate::key::admin::Role;

#[tokio::test]
async fn a_token_cannot_revoke_itself() {
    let house = House::new().await;
    let path = format!("/admin/tokens/{}/revoke", house.token_id(Role::Admin));
    let answer = house.act(&path).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "conflict"));
    assert_eq!(house.get("/admin/tokens").await.status, 200);
}

#[tokio::test]
async fn the_last_active_administrator_cannot_be_revoked() {
    let house = House::new().await;
    // Somebody in this process, who has no token that could be its own.
    let mut request =
        super::request(None, Method::POST, &format!("/admin/tokens/{}/revoke", house.token_id(Role::Admin)), None);
    request.extensions_mut().insert(crate::admin::auth::Caller::in_process());
    let answer = house.send(request).await;
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert!(answer.text.contains("last active"), "{}", answer.text);
    assert_eq!(house.get("/admin/tokens").await.status, 200);
}

#[tokio::test]
async fn an_administrator_may_go_when_another_stays() {
    let house = House::new().await;
    let made = house.post("/admin/tokens", json!({"label": "second", "role": "admin"})).await;
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.json()["admin_token"]["id"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        let answer = house.act(&format!("/admin/tokens/{id}/revoke")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        assert_eq!(answer.json()["status"], "revoked");
    }
    assert_eq!(house.act("/admin/tokens/adm_00000000000000000000000000/revoke").await.status, 404);
}

#[tokio::test]
async fn the_text_of_a_token_is_shown_once_and_its_hash_never() {
    let house = House::new().await;
    let made = house
        .post("/admin/tokens", json!({"label": "ci", "role": "read-only", "expires_at": "2999-01-01T00:00:00Z"}))
        .await;
    assert_eq!(made.headers["cache-control"], "no-store");
    let token = made.json()["token"].as_str().unwrap().to_owned();
    assert!(token.starts_with("marg_admin_"));
    let list = house.get("/admin/tokens").await;
    let one = house.get(&format!("/admin/tokens/{}", made.json()["admin_token"]["id"].as_str().unwrap())).await;
    for answer in [&list, &one] {
        assert!(!answer.text.contains(&token) && !answer.text.contains("hash"), "{}", answer.text);
    }
    assert_eq!(list.json()["admin_tokens"].as_array().unwrap().len(), 5);
}

#[tokio::test]
async fn a_token_with_a_bad_field_is_not_made() {
    let house = House::new().await;
    let bad: &[(u16, Value)] = &[
        (400, json!({"role": "admin"})),
        (400, json!({"label": "x"})),
        (400, json!({"label": "", "role": "admin"})),
        (400, json!({"label": "a\nb", "role": "admin"})),
        (400, json!({"label": "x", "role": "root"})),
        (400, json!({"label": "x", "role": "admin", "hash": "00"})),
        (400, json!({"label": "x", "role": "admin", "expires_at": 5})),
        (409, json!({"label": "x", "role": "admin", "expires_at": "2001-01-01T00:00:00Z"})),
    ];
    for (status, body) in bad {
        assert_eq!(house.post("/admin/tokens", body.clone()).await.status, *status, "{body}");
    }
    assert_eq!(house.get("/admin/tokens").await.json()["admin_tokens"].as_array().unwrap().len(), 4);
}
