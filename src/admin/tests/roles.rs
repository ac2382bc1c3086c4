//! Who may do what.

use axum::http::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::{House, from_address, request};
use crate::admin::auth::WRONG_PER_MINUTE;
use crate::kavach::admin::Operation;
use crate::key::admin::{AdminToken, AdminTokenStore, Role};
use crate::unit::clock::Timestamp;

/// Who may use what, written down a second time: method, path, then admin, operator, auditor, read-only.
const TABLE: &[(&str, &str, [bool; 4])] = &[
    ("GET", "/admin/keys", [true, true, true, true]),
    ("POST", "/admin/keys", [true, true, false, false]),
    ("GET", "/admin/keys/{id}", [true, true, true, true]),
    ("PATCH", "/admin/keys/{id}", [true, true, false, false]),
    ("DELETE", "/admin/keys/{id}", [true, true, false, false]),
    ("POST", "/admin/keys/{id}/revoke", [true, true, false, false]),
    ("POST", "/admin/keys/{id}/rotate", [true, true, false, false]),
    ("POST", "/admin/keys/{id}/enable", [true, true, false, false]),
    ("POST", "/admin/keys/{id}/disable", [true, true, false, false]),
    ("POST", "/admin/keys/{id}/release", [true, true, false, false]),
    ("GET", "/admin/policy", [true, true, true, true]),
    ("POST", "/admin/policy/explain", [true, true, true, false]),
    ("GET", "/admin/policy/audit", [true, true, true, false]),
    ("POST", "/admin/policy/replay", [true, true, true, false]),
    ("GET", "/admin/sessions", [true, true, true, false]),
    ("POST", "/admin/sessions/reset", [true, true, false, false]),
    ("POST", "/admin/sessions/end", [true, true, false, false]),
    ("GET", "/admin/audit", [true, true, true, false]),
    ("GET", "/admin/audit/checkpoint", [true, true, true, false]),
    ("GET", "/admin/audit/consistency", [true, true, true, false]),
    ("GET", "/admin/audit/entries", [true, true, true, false]),
    ("GET", "/admin/audit/receipts/{id}", [true, true, true, false]),
    ("GET", "/admin/audit/rotations", [true, true, true, false]),
    ("GET", "/admin/audit/tail", [true, true, true, false]),
    ("GET", "/admin/audit/witness", [true, true, true, false]),
    ("GET", "/admin/audit/witnessed", [true, true, true, false]),
    ("GET", "/admin/audit/texts/{id}", [true, false, true, false]),
    ("GET", "/admin/audit/tile/{path}", [true, true, true, false]),
    ("POST", "/admin/audit/erase", [true, false, false, false]),
    ("GET", "/admin/requests", [true, true, true, false]),
    ("GET", "/admin/requests/{id}", [true, true, true, false]),
    ("GET", "/admin/requests/export", [true, true, true, false]),
    ("GET", "/admin/requests/tail", [true, true, true, false]),
    ("GET", "/admin/routes", [true, true, true, true]),
    ("POST", "/admin/routes", [true, true, false, false]),
    ("GET", "/admin/routes/explain", [true, true, true, true]),
    ("PUT", "/admin/routes/order", [true, true, false, false]),
    ("GET", "/admin/routes/{id}", [true, true, true, true]),
    ("PUT", "/admin/routes/{id}", [true, true, false, false]),
    ("DELETE", "/admin/routes/{id}", [true, true, false, false]),
    ("GET", "/admin/prices", [true, true, true, true]),
    ("PUT", "/admin/prices", [true, true, false, false]),
    ("GET", "/admin/prices/lookup", [true, true, true, true]),
    ("POST", "/admin/prices/diff", [true, true, true, true]),
    ("POST", "/admin/prices/reprice", [true, true, true, false]),
    ("DELETE", "/admin/prices/{id}", [true, true, false, false]),
    ("POST", "/admin/reconcile", [true, true, true, false]),
    ("GET", "/admin/orgs", [true, true, true, true]),
    ("POST", "/admin/orgs", [true, true, false, false]),
    ("GET", "/admin/orgs/{name}", [true, true, true, true]),
    ("PATCH", "/admin/orgs/{name}", [true, true, false, false]),
    ("DELETE", "/admin/orgs/{name}", [true, true, false, false]),
    ("POST", "/admin/orgs/{name}/enable", [true, true, false, false]),
    ("POST", "/admin/orgs/{name}/disable", [true, true, false, false]),
    ("GET", "/admin/teams", [true, true, true, true]),
    ("POST", "/admin/teams", [true, true, false, false]),
    ("GET", "/admin/teams/{name}", [true, true, true, true]),
    ("PATCH", "/admin/teams/{name}", [true, true, false, false]),
    ("DELETE", "/admin/teams/{name}", [true, true, false, false]),
    ("POST", "/admin/teams/{name}/enable", [true, true, false, false]),
    ("POST", "/admin/teams/{name}/disable", [true, true, false, false]),
    ("GET", "/admin/users", [true, true, true, true]),
    ("POST", "/admin/users", [true, true, false, false]),
    ("GET", "/admin/users/{name}", [true, true, true, true]),
    ("PATCH", "/admin/users/{name}", [true, true, false, false]),
    ("DELETE", "/admin/users/{name}", [true, true, false, false]),
    ("POST", "/admin/users/{name}/enable", [true, true, false, false]),
    ("POST", "/admin/users/{name}/disable", [true, true, false, false]),
    ("GET", "/admin/limits", [true, true, true, true]),
    ("POST", "/admin/limits", [true, true, false, false]),
    ("GET", "/admin/limits/state", [true, true, true, true]),
    ("GET", "/admin/limits/{id}", [true, true, true, true]),
    ("PATCH", "/admin/limits/{id}", [true, true, false, false]),
    ("DELETE", "/admin/limits/{id}", [true, true, false, false]),
    ("GET", "/admin/limits/{id}/state", [true, true, true, true]),
    ("POST", "/admin/limits/{id}/reset", [true, true, false, false]),
    ("GET", "/admin/spend", [true, true, true, false]),
    ("GET", "/admin/providers", [true, true, true, true]),
    ("GET", "/admin/providers/{name}", [true, true, true, true]),
    ("GET", "/admin/tokens", [true, false, true, false]),
    ("POST", "/admin/tokens", [true, false, false, false]),
    ("GET", "/admin/tokens/{id}", [true, false, true, false]),
    ("POST", "/admin/tokens/{id}/revoke", [true, false, false, false]),
    ("POST", "/admin/reload", [true, true, false, false]),
    ("GET", "/admin/status", [true, true, true, true]),
    ("GET", "/admin/version", [true, true, true, true]),
    ("GET", "/metrics", [true, true, true, true]),
];

/// What needs no token.
const OPEN: &[(&str, &str)] =
    &[("GET", "/admin/openapi.json"), ("GET", "/.well-known/jwks.json"), ("GET", "/health"), ("GET", "/ready")];

/// Sends a request whose input is wrong, so that a role that may pass changes nothing and a stream does not begin.
async fn status(house: &House, token: Option<&str>, method: &str, path: &str) -> StatusCode {
    let path = path.replace("{id}", "nonsense").replace("{name}", "a%20b");
    let request = request(token, Method::from_bytes(method.as_bytes()).unwrap(), &format!("{path}?no=such"), None);
    house.send(request).await.status
}

#[tokio::test]
async fn every_endpoint_lets_in_exactly_its_roles() {
    let house = House::new().await;
    for (method, path, roles) in TABLE {
        assert_eq!(status(&house, None, method, path).await, 401, "{method} {path} without a token");
        for (role, allowed) in Role::ALL.into_iter().zip(roles) {
            let status = status(&house, Some(house.token(role)), method, path).await;
            assert_eq!(status != 403, *allowed, "{method} {path} as {role}: {status}");
            assert_ne!(status, 401, "{method} {path} as {role}");
        }
    }
    for (method, path) in OPEN {
        assert_eq!(house.send(request(None, method.parse().unwrap(), path, None)).await.status, 200, "{method} {path}");
    }
}

#[tokio::test]
async fn the_table_above_names_every_operation_of_the_document() {
    let document = crate::admin::openapi::document();
    let mut known: Vec<String> = TABLE.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    known.extend(OPEN.iter().map(|(method, path)| format!("{method} {path}")));
    let mut declared = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        declared.extend(item.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())));
    }
    known.sort();
    declared.sort();
    assert_eq!(known, declared);
    for (method, path, roles) in TABLE {
        let scopes = &document["paths"][*path][method.to_lowercase()]["security"][0]["admin_token"];
        let allowed = scopes.as_array().unwrap();
        for (role, expected) in Role::ALL.into_iter().zip(roles) {
            assert_eq!(allowed.contains(&Value::from(role.as_str())), *expected, "{method} {path} {role}");
        }
    }
}

#[test]
fn policies_can_name_every_operation() {
    for (method, path, _) in TABLE {
        let path = path.replace("{id}", "x").replace("{name}", "x");
        let (noun, subject, verb) = crate::admin::trail::meaning(method, &path);
        let verb = if *method == "GET" { "read".to_owned() } else { verb };
        let operation = Operation {
            token: "adm_1".into(),
            role: Role::Admin,
            verb,
            noun,
            subject,
            address: None,
            time: Timestamp(0),
        };
        // A new word belongs in conf/kavach-admin.cedarschema and in kavach/admin.rs.
        assert_ne!((operation.action(), operation.resource()), ("other", operation.resource()), "{method} {path}");
        assert_ne!(operation.resource(), "other", "{method} {path}");
    }
}

#[tokio::test]
async fn metrics_are_open_only_when_the_operator_says_so() {
    let house = House::new().await;
    assert_eq!(house.send(request(None, Method::GET, "/metrics", None)).await.status, 401);
    house.control.open_metrics.store(true, std::sync::atomic::Ordering::Relaxed);
    let answer = house.send(request(None, Method::GET, "/metrics", None)).await;
    assert_eq!((answer.status.as_u16(), answer.text.as_str()), (200, "marg_up 1\n"));
}

#[tokio::test]
async fn a_token_that_is_wrong_revoked_expired_or_malformed_is_refused_alike() {
    let house = House::new().await;
    let now = Timestamp::now();
    let (mut revoked, minted_revoked) = AdminToken::mint("a", Role::Admin, None, &house.state.hash_key, now).unwrap();
    revoked.revoked_at = Some(now);
    AdminTokenStore::insert(&*house.store, &revoked).await.unwrap();
    let (expired, minted_expired) =
        AdminToken::mint("b", Role::Admin, Some(Timestamp(10)), &house.state.hash_key, Timestamp(1)).unwrap();
    AdminTokenStore::insert(&*house.store, &expired).await.unwrap();
    let (_, stranger) = AdminToken::mint("c", Role::Admin, None, &house.state.hash_key, now).unwrap();
    let mut texts = Vec::new();
    for token in
        [minted_revoked.token.expose(), minted_expired.token.expose(), stranger.token.expose(), "x", "marg_admin_"]
    {
        let answer = house.send(request(Some(token), Method::GET, "/admin/keys", None)).await;
        assert_eq!(answer.status, 401, "{token}");
        assert!(answer.headers.contains_key(header::WWW_AUTHENTICATE));
        texts.push(answer.text);
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "the answers differ: {texts:?}");
}

#[tokio::test]
async fn only_one_bearer_token_in_the_header_counts() {
    let house = House::new().await;
    let token = house.token(Role::Admin);
    let send = |values: Vec<String>| {
        let mut request = request(None, Method::GET, "/admin/version", None);
        for value in values {
            request.headers_mut().append(header::AUTHORIZATION, value.parse().unwrap());
        }
        house.send(request)
    };
    for wrong in [
        vec![token.to_owned()],
        vec![format!("Basic {token}")],
        vec![format!("Bearer {token}"); 2],
        vec![String::new()],
    ] {
        assert_eq!(send(wrong.clone()).await.status, 401, "{wrong:?}");
    }
    assert_eq!(send(vec![format!("bEARER {token}")]).await.status, 200);
    let in_query = request(None, Method::GET, &format!("/admin/keys?token={token}"), None);
    assert_eq!(house.send(in_query).await.status, 401);
}

#[tokio::test]
async fn guessing_ends_with_429_while_those_at_work_go_on() {
    let house = House::new().await;
    let get = |token: &str, address: &str| {
        house.send(from_address(request(Some(token), Method::GET, "/admin/version", None), address))
    };
    assert_eq!(get(house.token(Role::Admin), "10.0.0.1").await.status, 200);
    for _ in 0..WRONG_PER_MINUTE {
        assert_eq!(get("wrong", "10.0.0.1").await.status, 401);
    }
    let refused = get("wrong", "10.0.0.1").await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (429, "limit_exceeded"));
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    // A right token that has not shown itself before looks like a lucky guess.
    assert_eq!(get(house.token(Role::Auditor), "10.0.0.1").await.status, 429);
    assert_eq!(get(house.token(Role::Admin), "10.0.0.1").await.status, 200);
    assert_eq!(get("wrong", "10.0.0.2").await.status, 401);
    // A token that is sent without any is no guess.
    assert_eq!(
        house.send(from_address(request(None, Method::GET, "/admin/version", None), "10.0.0.1")).await.status,
        401
    );
}

#[tokio::test]
async fn a_network_of_ipv6_counts_as_one_party() {
    let house = House::new().await;
    for last in 0..WRONG_PER_MINUTE {
        let address = format!("2001:db8::{last:x}");
        house.send(from_address(request(Some("wrong"), Method::GET, "/admin/version", None), &address)).await;
    }
    let request = from_address(request(Some("wrong"), Method::GET, "/admin/version", None), "2001:db8::ffff");
    assert_eq!(house.send(request).await.status, 429);
}

#[tokio::test]
async fn a_revoked_admin_token_stops_working_at_once() {
    let house = House::new().await;
    assert_eq!(house.ask_as(Role::Operator, Method::GET, "/admin/keys", None).await.status, 200);
    let path = format!("/admin/tokens/{}/revoke", house.token_id(Role::Operator));
    assert_eq!(house.ask_as(Role::Admin, Method::POST, &path, Some(json!({}))).await.status, 200);
    assert_eq!(house.ask_as(Role::Operator, Method::GET, "/admin/keys", None).await.status, 401);
}
