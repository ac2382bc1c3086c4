//! The gateway as a whole, and what every answer carries.

use axum::http::{Method, header};

use super::{House, request};
use crate::admin::control::{ReadyStatus, ReloadProblem, ReloadReport};
use crate::key::admin::Role;

#[tokio::test]
async fn a_reload_with_errors_names_each_of_them() {
    let house = House::new().await;
    let problem =
        ReloadProblem { line: 3, column: 5, path: "routes[0].to".to_owned(), text: "no such provider".to_owned() };
    *house.control.reload.lock().unwrap() = ReloadReport { errors: vec![problem], ..ReloadReport::default() };
    let answer = house.act("/admin/reload").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (409, "conflict"));
    assert_eq!(answer.json()["error"]["problems"][0]["line"], 3);
    *house.control.reload.lock().unwrap() =
        ReloadReport { applied: true, changed: vec!["routes".to_owned()], ..ReloadReport::default() };
    let answer = house.act("/admin/reload").await;
    assert_eq!((answer.status.as_u16(), answer.json()["changed"][0].as_str()), (200, Some("routes")));
}

#[tokio::test]
async fn a_draining_gateway_is_not_ready_but_alive() {
    let house = House::new().await;
    let open = |path: &'static str| house.send(request(None, Method::GET, path, None));
    for status in [ReadyStatus::Draining, ReadyStatus::Refusing] {
        *house.control.ready.lock().unwrap() = status;
        assert_eq!((open("/ready").await.status.as_u16(), open("/health").await.status.as_u16()), (503, 200));
    }
    *house.control.ready.lock().unwrap() = ReadyStatus::Degraded;
    let ready = open("/ready").await;
    assert_eq!((ready.status.as_u16(), ready.json()["status"].as_str()), (200, Some("degraded")));
}

#[tokio::test]
async fn every_answer_forbids_caching_framing_and_foreign_scripts() {
    let house = House::new().await;
    for path in ["/", "/page.js", "/nothing", "/health", "/admin/keys", "/admin/openapi.json", "/metrics"] {
        let answer = house.send(request(None, Method::GET, path, None)).await;
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store", "{path}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(answer.headers["x-frame-options"], "DENY", "{path}");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer", "{path}");
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert!(!answer.headers.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN), "{path}");
    }
}

#[tokio::test]
async fn the_page_holds_no_script_or_style_of_its_own() {
    let house = House::new().await;
    let page = house.send(request(None, Method::GET, "/", None)).await;
    assert_eq!(page.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    assert!(page.text.contains("<title>Marg</title>") && page.text.contains("/admin/openapi.json"));
    assert!(
        !page.text.contains("<style") && !page.text.contains(" on") && page.text.contains("<script src="),
        "{}",
        page.text
    );
}

#[tokio::test]
async fn a_provider_is_shown_with_its_health_but_not_its_credentials() {
    let house = House::new().await;
    for (status, name) in [(404, "nobody"), (400, "a%20b"), (400, "%FF"), (200, "openai")] {
        let answer = house.get(&format!("/admin/providers/{name}")).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text);
    }
    let list = house.ask_as(Role::ReadOnly, Method::GET, "/admin/providers", None).await.json();
    assert_eq!(list["providers"][0]["last_error_at"], "1970-01-01T00:00:01.000000Z");
    let status = house.ask_as(Role::ReadOnly, Method::GET, "/admin/status", None).await.json();
    assert_eq!((&status["providers_healthy"], &status["readiness"]["status"]), (&1.into(), &"ready".into()));
}
