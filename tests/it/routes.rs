//! Routes whose providers are not there, or are switched off.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::client::{Answer, Call};
use crate::support::marg::{Marg, Setup};
use crate::support::until;
use crate::support::upstream::Upstream;

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "x"}]})
}

async fn store(marg: &Marg, model: &str, to: &str) -> Answer {
    let route = json!({"route": {"match": {"model": model}, "to": to, "name": model}});
    marg.ask_admin("POST", "/admin/routes", Some(&route)).await
}

/// The model that the provider was asked for.
async fn asked(marg: &Marg, model: &str) -> Value {
    let answer = marg.chat("asked", &chat(model)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["model"].clone()
}

async fn ready(marg: &Marg) -> Value {
    marg.send_unchecked(Call::new("GET", "/ready").without_key()).await.json()
}

/// What is wrong with each stored route.
async fn problems(marg: &Marg) -> Vec<Value> {
    let list = marg.ask_admin("GET", "/admin/routes", None).await.json();
    let stored = list["routes"].as_array().unwrap().iter().filter(|route| route["origin"] == "stored");
    stored.map(|route| route["problem"].clone()).collect()
}

#[tokio::test]
async fn a_stored_route_to_a_provider_that_is_gone_is_passed_over_until_it_is_back() {
    let upstream = Upstream::http1().await;
    let mut marg = Setup::with_default(&upstream).provider("other", &upstream, json!({})).start().await;
    let far = store(&marg, "far", "other:f").await;
    assert_eq!(far.status, 201, "{}", far.text());
    assert_eq!(store(&marg, "near", "main:n").await.status, 201);
    assert_eq!((asked(&marg, "far").await, asked(&marg, "near").await), (json!("f"), json!("n")));

    let whole = marg.config.clone();
    let mut less = whole.clone();
    less["providers"].as_object_mut().unwrap().remove("other");
    marg.rewrite(&less);
    let reload = marg.ask_admin("POST", "/admin/reload", None).await;
    assert_eq!(reload.status, 200, "{}", reload.text());
    let id = far.json()["id"].as_str().unwrap().to_owned();
    for start in [false, true] {
        if start {
            marg.signal(Signal::TERM);
            marg.ended().await;
            marg.restart().await;
        }
        assert_eq!(problems(&marg).await, [json!("there is no provider \"other\""), Value::Null]);
        assert_eq!((asked(&marg, "far").await, asked(&marg, "near").await), (json!("far"), json!("n")));
        let told = ready(&marg).await;
        assert!(told["status"] == "degraded" && told.to_string().contains("1 stored route is kept"), "{told}");
        assert!(!told.to_string().contains("other"), "what is configured is not for everybody: {told}");
        let warnings = || marg.logged().matches(&format!("the stored route {id} (far) is kept")).count();
        let wanted = 1 + usize::from(start);
        until("the gateway warns of it", || async { (warnings() >= wanted).then_some(()) }).await;
        assert_eq!(warnings(), wanted, "{}", marg.logged());
    }
    // A change is judged by the route that it is about.
    let third = store(&marg, "third", "main:t").await;
    assert_eq!(third.status, 201, "{}", third.text());
    assert_eq!(store(&marg, "fourth", "other:o").await.status, 409);
    assert_eq!((asked(&marg, "third").await, asked(&marg, "fourth").await), (json!("t"), json!("fourth")));

    marg.rewrite(&whole);
    assert_eq!(marg.ask_admin("POST", "/admin/reload", None).await.status, 200);
    assert_eq!((asked(&marg, "far").await, ready(&marg).await["status"].clone()), (json!("f"), json!("ready")));
}

#[tokio::test]
async fn the_command_line_lists_and_deletes_stored_routes() {
    let upstream = Upstream::http1().await;
    let marg = Setup::with_default(&upstream).provider("other", &upstream, json!({})).start().await;
    assert_eq!(store(&marg, "far", "other:f").await.status, 201);
    let mut less = marg.config.clone();
    less["providers"].as_object_mut().unwrap().remove("other");
    marg.rewrite(&less);
    let list = marg.command(&["routes", "list", "--output", "json"]).await;
    let far = &list["routes"][0];
    assert_eq!((&far["name"], &far["problem"]), (&json!("far"), &json!("there is no provider \"other\"")), "{list}");
    let id = far["id"].as_str().unwrap();
    let (code, _, errors) = marg.try_command(&["routes", "delete", id]).await;
    assert_eq!(code, 0, "{errors}");
    assert_eq!(marg.try_command(&["routes", "delete", id]).await.0, 3);
    until("the gateway knows", || async { problems(&marg).await.is_empty().then_some(()) }).await;
}

#[tokio::test]
async fn a_provider_that_is_switched_off_is_neither_drawn_nor_said_not_to_exist() {
    let upstream = Upstream::http1().await;
    let split = |one: &str, other: &str| json!([{"to": one, "weight": 1}, {"to": other, "weight": 1}]);
    let setup = Setup::new()
        .provider("on", &upstream, json!({}))
        .provider("few", &upstream, json!({"models": ["a", "b"]}))
        .provider("off", &upstream, json!({"enabled": false}))
        .route(json!({"match": {"model": "s"}, "split": split("on", "off")}))
        .route(json!({"match": {"model": "t*"}, "split": split("on", "few")}))
        .route(json!({"match": {"model": "o"}, "to": "off"}))
        .route(json!({"match": {"model": "p"}, "split": split("off:a", "off:b")}))
        .route(json!({"match": {"model": "q*"}, "to": "few"}));
    let marg = setup.set("default_provider", json!("off")).start().await;
    let mut client = marg.http1().await;
    for _ in 0..20 {
        for model in ["s", "t"] {
            let answer = client.send(Call::chat("split", &chat(model))).await;
            assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        }
    }
    for model in ["o", "p", "by default"] {
        let answer = client.send(Call::chat("off", &chat(model))).await;
        assert_eq!(answer.header("x-should-retry"), "false", "no retry switches it on");
        let sentence = answer.assert_error(503, "unavailable");
        assert!(sentence.contains("switched off"), "{sentence}");
    }
    client.send(Call::chat("none", &chat("q"))).await.assert_error(404, "model_not_found");
}
