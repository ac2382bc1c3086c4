//! `GET /v1/models`: what a key can reach, as routes, price lists and the providers themselves say.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::client::Call;
use crate::support::marg::Setup;
use crate::support::reply::{Answer, Body};
use crate::support::until;
use crate::support::upstream::Upstream;

fn list(ids: &[&str]) -> Answer {
    let models: Vec<Value> = ids.iter().map(|id| json!({"id": id, "object": "model"})).collect();
    let body = json!({"object": "list", "data": models}).to_string();
    Answer::new(200, "application/json", Body::Whole(Bytes::from(body)))
}

#[tokio::test]
async fn the_models_that_a_provider_lists_can_be_found_and_others_cannot() {
    let upstream = Upstream::http1().await;
    // The gateway's own question carries no case.
    upstream.answer("", list(&["llama-local", "bad\u{7}name"]).into());
    let headers = json!({"headers": {"x-tenant": "one"}});
    let setup = Setup::new().provider("main", &upstream, headers).set("default_provider", json!("main"));
    let marg = setup.start().await;
    let models = until("the provider's models are listed", || async {
        let models = marg.send(Call::new("GET", "/v1/models")).await.json();
        (!models["data"].as_array().unwrap().is_empty()).then_some(models)
    })
    .await;
    assert_eq!(models["data"], json!([{"id": "llama-local", "object": "model", "created": 0, "owned_by": "main"}]));
    assert_eq!(marg.send(Call::new("GET", "/v1/models/llama-local")).await.status, 200);
    marg.send(Call::new("GET", "/v1/models/other")).await.assert_error(404, "model_not_found");
    let asked = upstream.wait_for("", 1).await.remove(0);
    assert!(asked.header("authorization").unwrap_or_default().starts_with("Bearer "), "{asked:?}");
    assert_eq!(asked.header("x-tenant"), Some("one"));
}

#[tokio::test]
async fn a_key_is_shown_only_the_models_that_it_may_ask_for() {
    let upstream = Upstream::http1().await;
    upstream.answer("", list(&["llama-local", "qwen-local"]).into());
    let marg = Setup::with_default(&upstream).start().await;
    let (token, _) = marg.make_key(&["--model", "qwen-*"]).await;
    let mine = || Call::new("GET", "/v1/models").without_key().header("authorization", &format!("Bearer {token}"));
    let models = until("the key's models are listed", || async {
        let models = marg.send(mine()).await.json();
        (!models["data"].as_array().unwrap().is_empty()).then_some(models)
    })
    .await;
    let ids: Vec<&str> = models["data"].as_array().unwrap().iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(ids, ["qwen-local"]);
}
