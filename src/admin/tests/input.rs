//! Input that no endpoint takes: always a 4xx in the one error shape, and the next request is served.

use axum::body::Body;
use axum::http::{Method, Request, header};

use super::{House, request};
use crate::admin::respond::BODY_LIMIT_BYTES;
use crate::key::admin::Role;

async fn create(house: &House, kind: Option<&str>, body: impl Into<Body>) -> super::Answer {
    let mut request = Request::builder().method(Method::POST).uri("/admin/keys");
    request = request.header(header::AUTHORIZATION, format!("Bearer {}", house.token(Role::Admin)));
    if let Some(kind) = kind {
        request = request.header(header::CONTENT_TYPE, kind);
    }
    house.send(request.body(body.into()).unwrap()).await
}

#[tokio::test]
async fn a_body_that_is_not_one_json_object_is_refused() {
    let house = House::new().await;
    let json = Some("application/json");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        "",
        "{",
        "null",
        "[]",
        "\"a\"",
        "{\"name\":\"a\"} x",
        "{\"name\":\"a\"}{}",
        "{\"name\":\"a\",\"name\":\"b\"}",
        "{\"name\":\"a\",\"labels\":{\"x\":\"1\",\"x\":\"2\"}}",
        "{\"name\":\"\\ud800\"}",
        "{\"name\":1e999}",
        deep.as_str(),
        "{name:\"a\"}",
        "\u{feff}{\"name\":\"a\"}",
    ] {
        let answer = create(&house, json, body.to_owned()).await;
        let shown: String = body.chars().take(60).collect();
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_request"), "{shown}");
    }
    assert_eq!(create(&house, json, vec![b'{', 0xff, b'}']).await.status, 400);
    assert_eq!(create(&house, json, "{\"name\":\"a\"}").await.status, 201);
    assert_eq!(create(&house, Some("Application/JSON; charset=utf-8"), "{\"name\":\"a\"}").await.status, 201);
}

#[tokio::test]
async fn a_body_of_another_kind_or_size_is_refused() {
    let house = House::new().await;
    for kind in
        [None, Some("text/plain"), Some("application/jsonx"), Some(""), Some("application/x-www-form-urlencoded")]
    {
        let answer = create(&house, kind, "{\"name\":\"a\"}").await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (415, "invalid_request"), "{kind:?}");
    }
    let huge = format!("{{\"name\":\"{}\"}}", "a".repeat(BODY_LIMIT_BYTES));
    let answer = create(&house, Some("application/json"), huge).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "request_too_large"));
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let house = House::new().await;
    let (_pen, body) = crate::admin::live::Pen::new();
    let mut request = request(None, Method::POST, "/admin/keys", None);
    request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    // Nothing is read from the store before the body, so the clock may jump.
    request.extensions_mut().insert(crate::admin::auth::Caller::in_process());
    *request.body_mut() = body;
    tokio::time::pause();
    let answer = house.send(request).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (408, "request_timeout"));
}

#[tokio::test]
async fn a_path_or_method_that_is_not_there_is_refused_in_the_same_shape() {
    let house = House::new().await;
    for path in
        ["/x", "/admin", "/admin/", "/admin/keys/", "/admin/keys/a/b/c", "//", "/admin/keys/../keys", "/v1/models"]
    {
        let answer = house.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "not_found"), "{path}");
    }
    for (method, path, allow) in [
        (Method::PUT, "/admin/keys", "GET,HEAD,POST"),
        (Method::POST, "/admin/keys/x", "GET,HEAD,PATCH,DELETE"),
        (Method::DELETE, "/admin/routes/order", "PUT"),
        (Method::TRACE, "/health", "GET,HEAD"),
        (Method::OPTIONS, "/admin/tokens", "GET,HEAD,POST"),
        (Method::POST, "/", "GET,HEAD"),
    ] {
        let answer = house.send(request(None, method.clone(), path, None)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (405, "method_not_allowed"), "{method} {path}");
        let mut found: Vec<&str> = answer.headers[header::ALLOW].to_str().unwrap().split(',').collect();
        let mut wanted: Vec<&str> = allow.split(',').collect();
        found.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{method} {path}");
    }
}

#[tokio::test]
async fn an_id_of_another_form_is_refused_before_it_is_looked_up() {
    let house = House::new().await;
    for id in
        ["x", "key_", "key_0000000000000000000000000z", "rte_00000000000000000000000000", "%00", "%FF", "key_%E2%80%AE"]
    {
        for path in [format!("/admin/keys/{id}"), format!("/admin/keys/{id}/revoke")] {
            let method = if path.ends_with("revoke") { Method::POST } else { Method::GET };
            let answer = house.ask_as(Role::Admin, method, &path, None).await;
            assert_eq!(answer.status, 400, "{path}: {}", answer.text);
        }
    }
}
