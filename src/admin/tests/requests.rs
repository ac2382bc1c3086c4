//! The request log.

use axum::http::header;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::{House, exchange, request};
use crate::key::admin::Role;
use crate::ledger::{Outcome, Record};

const SECOND: i64 = 1_000_000;

/// Ten exchanges, a second apart; the odd ones failed for the team `batch`.
async fn house_with_ten() -> (House, Vec<Record>) {
    let house = House::new().await;
    let records: Vec<Record> = (1..=10)
        .map(|number| {
            let mut record = exchange(number * SECOND);
            if number % 2 == 1 {
                record.team = Some("batch".into());
                record.status = 502;
                record.outcome = Outcome::UpstreamFailed;
            }
            record
        })
        .collect();
    house.record(records.clone()).await;
    (house, records)
}

fn ids(page: &Value) -> Vec<String> {
    page["requests"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused() {
    let house = House::new().await;
    for bad in [
        "limit=0",
        "limit=2000",
        "order=up",
        "cursor=1",
        "cursor=-1.1",
        "since=yesterday",
        "since=5",
        "status=4x",
        "status=600x",
        "status=+404",
        "status=4XX",
        "key_id=k",
        "model=",
        "model=%7F",
        "errors_only=1",
        "outcome=bad",
        "provider=a%20b",
        "format=csv",
        "tea=x",
        "team=a&team=b",
        "operation=",
    ] {
        let answer = house.get(&format!("/admin/requests?{bad}")).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "invalid_request"), "{bad}");
    }
    for bad in ["", "format=xml", "format=csv&limit=5", "format=csv&since=x"] {
        assert_eq!(house.get(&format!("/admin/requests/export?{bad}")).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn records_are_filtered_and_paged_without_gaps() {
    let (house, records) = house_with_ten().await;
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = house.get(&format!("/admin/requests?limit=4{cursor}")).await.json();
        found.extend(ids(&page));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let newest_first: Vec<String> = records.iter().rev().map(|record| record.id.to_string()).collect();
    assert_eq!(found, newest_first);
    let count = |query: &'static str| {
        let house = &house;
        async move { ids(&house.get(&format!("/admin/requests?{query}")).await.json()).len() }
    };
    assert_eq!(count("errors_only=true").await, 5);
    assert_eq!(count("team=batch&status=5xx").await, 5);
    assert_eq!(count("status=200&model=gpt-*&provider=openai&outcome=answered&operation=chat").await, 5);
    assert_eq!(count("since=1970-01-01T00:00:03Z&until=1970-01-01T00:00:05Z").await, 2);
    assert_eq!(count("model=claude").await, 0);
    let oldest = house.get("/admin/requests?order=oldest&limit=1").await.json();
    assert_eq!(ids(&oldest), [records[0].id.to_string()]);
}

#[tokio::test]
async fn one_record_is_found_by_its_id_only() {
    let (house, records) = house_with_ten().await;
    let id = records[1].id.to_string();
    for (status, id) in [(400, "x"), (400, &id.to_uppercase()), (404, "01999999-0000-7000-8000-000000000000")] {
        assert_eq!(house.get(&format!("/admin/requests/{id}")).await.status, status, "{id}");
    }
    let one = house.get(&format!("/admin/requests/{id}")).await.json();
    assert_eq!((&one["cost_nano_usd"], &one["cost_usd"]), (&Value::from(1_250_000), &Value::from("0.001250000")));
    assert_eq!(
        (&one["started_at"], &one["usage"]["input"]),
        (&Value::from("1970-01-01T00:00:02.000000Z"), &Value::from(10))
    );
    assert_eq!(one["attempts"][0]["end"], "served");
}

#[tokio::test]
async fn an_export_holds_every_record_once_and_in_order() {
    let house = House::new().await;
    // More than two pieces of an export.
    let records: Vec<Record> = (1..=1_200).map(|number| exchange(number * SECOND)).collect();
    house.record(records.clone()).await;
    let expected: Vec<String> = records.iter().map(|record| record.id.to_string()).collect();
    let jsonl = house.get("/admin/requests/export?format=jsonl").await;
    assert_eq!(jsonl.headers[header::CONTENT_TYPE], "application/jsonl");
    let disposition = jsonl.headers[header::CONTENT_DISPOSITION].to_str().unwrap();
    assert!(
        disposition.starts_with("attachment; filename=\"marg-requests-") && disposition.ends_with(".jsonl\""),
        "{disposition}"
    );
    let lines =
        jsonl.text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned());
    assert_eq!(lines.collect::<Vec<_>>(), expected);
    let csv = house.get("/admin/requests/export?format=csv").await;
    assert_eq!(csv.headers[header::CONTENT_TYPE], "text/csv; charset=utf-8");
    let mut rows = csv.text.split_terminator("\r\n");
    let heading = rows.next().unwrap();
    assert!(heading.starts_with("id,started_at,"));
    let first: Vec<String> = rows.map(|row| row.split(',').next().unwrap().to_owned()).collect();
    assert_eq!(first, expected);
    let filtered = house.get("/admin/requests/export?format=csv&errors_only=true").await;
    assert_eq!(filtered.text, format!("{heading}\r\n"));
}

#[tokio::test]
async fn a_caller_cannot_put_a_formula_into_an_export() {
    let house = House::new().await;
    let mut record = exchange(SECOND);
    record.model_requested = Some("=HYPERLINK(\"http://evil\",\"x\")\r\n@SUM(A1)".to_owned());
    record.request_id = Some("+1".to_owned());
    house.record(vec![record]).await;
    let csv = house.get("/admin/requests/export?format=csv").await.text;
    assert!(csv.contains(",\"'=HYPERLINK(\"\"http://evil\"\",\"\"x\"\")\r\n@SUM(A1)\","), "{csv}");
    assert!(csv.contains(",\"'+1\","), "{csv}");
}

/// Reads a live stream until so many events came.
async fn events(
    house: &House,
    query: &str,
    last: Option<&str>,
    count: usize,
    late: Vec<Record>,
) -> (Vec<Value>, String) {
    let mut request = request(
        Some(house.token(Role::Auditor)),
        "GET".parse().unwrap(),
        &format!("/admin/requests/tail?{query}"),
        None,
    );
    if let Some(last) = last {
        request.headers_mut().insert("last-event-id", last.parse().unwrap());
    }
    let answer = house.router.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = answer.into_body();
    let mut text = String::new();
    // The first bytes come at once, so that the client knows that it is connected.
    text.push_str(std::str::from_utf8(body.frame().await.unwrap().unwrap().data_ref().unwrap()).unwrap());
    house.record(late).await;
    while text.matches("event: request").count() < count || !text.ends_with("\n\n") {
        let frame = body.frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
    }
    let data =
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|data| serde_json::from_str(data).unwrap());
    let last = text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap_or_default().to_owned();
    (data.collect(), last)
}

#[tokio::test]
async fn a_tail_shows_what_arrives_even_if_it_started_long_ago() {
    let (house, _) = house_with_ten().await;
    // A long exchange: it started before all that are there and ends now.
    let (long, mut other) = (exchange(1), exchange(20 * SECOND));
    other.team = Some("other".into());
    let (found, last) = events(&house, "team=web", None, 1, vec![other.clone(), long.clone()]).await;
    assert_eq!(found.iter().map(|one| one["id"].as_str().unwrap()).collect::<Vec<_>>(), [long.id.to_string()]);
    // Coming back with the last id misses nothing and repeats nothing.
    let next = exchange(2);
    let (found, _) = events(&house, "", Some(&last), 1, vec![next.clone()]).await;
    assert_eq!(found[0]["id"], next.id.to_string());
    assert_eq!(
        house
            .send({
                let mut request =
                    request(Some(house.token(Role::Auditor)), "GET".parse().unwrap(), "/admin/requests/tail", None);
                request.headers_mut().insert("last-event-id", "nonsense".parse().unwrap());
                request
            })
            .await
            .status,
        400
    );
}

#[tokio::test]
async fn a_tail_ends_when_the_gateway_stops() {
    let house = House::new().await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut request = request(Some(house.token(Role::Auditor)), "GET".parse().unwrap(), "/admin/requests/tail", None);
    request.extensions_mut().insert(crate::admin::live::Closing(stopped));
    let answer = house.router.clone().oneshot(request).await.unwrap();
    stop.send_replace(true);
    answer.into_body().collect().await.unwrap();
}

#[tokio::test]
async fn a_tail_tells_nothing_more_once_its_token_is_revoked() {
    let house = House::new().await;
    let request = request(Some(house.token(Role::Auditor)), "GET".parse().unwrap(), "/admin/requests/tail", None);
    let mut body = house.router.clone().oneshot(request).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    let revoked = house.act(&format!("/admin/tokens/{}/revoke", house.token_id(Role::Auditor))).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    house.record(vec![exchange(SECOND)]).await;
    let rest = body.collect().await.unwrap().to_bytes();
    assert_eq!(rest, "");
}
