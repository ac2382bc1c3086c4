//! Money in tests: a model whose calls cost a known amount, calls that race, and what the counters say.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::client::{Call, Client};
use crate::support::marg::{Marg, Setup};
use crate::support::until;

/// What a call of [`fixed`] costs: 3 output tokens at 10 dollars a million.
pub const COST_NANO_USD: i64 = 30_000;

/// Gives a gateway the price of the models `fixed` and `levels`, at the provider `main`.
pub fn priced(setup: Setup) -> Setup {
    let price = |model| {
        format!("  - provider: main\n    model: {model}\n    usd_per_million_tokens: {{input: 0.0, output: 10.0}}\n")
    };
    let overlay = format!("prices:\n{}{}", price("fixed"), price("levels"));
    let path = setup.path("prices.yaml");
    std::fs::write(&path, overlay).unwrap();
    setup.set("prices", json!({"overlay": path}))
}

/// A call that costs [`COST_NANO_USD`], reserved and in truth alike.
pub fn fixed() -> Value {
    asking("fixed")
}

/// The same call to another model.
pub fn asking(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 3})
}

/// Sends so many calls at once, each on a connection of its own, to the gateways in turn; how many had which status.
pub async fn storm(addresses: &[SocketAddr], key: &str, calls: usize, call: &Call) -> Vec<(u16, usize)> {
    let mut tasks = JoinSet::new();
    for number in 0..calls {
        let (address, key, call) = (addresses[number % addresses.len()], key.to_owned(), call.clone());
        tasks.spawn(async move {
            let mut client = Client::http1(address, &key).await;
            let answer = client.send(call).await;
            assert!(matches!(answer.status, 200 | 429), "{}: {}", answer.status, answer.text());
            answer.status
        });
    }
    let mut counts = BTreeMap::<u16, usize>::new();
    while let Some(status) = tasks.join_next().await {
        *counts.entry(status.unwrap()).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// How the counters of the limit of that name stand, or of all limits of that name.
pub async fn counters(marg: &Marg, name: &str) -> Vec<Value> {
    let limits = marg.ask_admin("GET", "/admin/limits", None).await.json();
    let limits = limits["limits"].as_array().unwrap();
    let limit = limits.iter().find(|limit| limit["name"] == name);
    let id = limit.unwrap_or_else(|| panic!("there is no limit {name}"))["id"].as_str().unwrap();
    let answer = marg.ask_admin("GET", &format!("/admin/limits/{id}/state"), None).await;
    match answer.status {
        200 => answer.json()["counters"].as_array().unwrap().clone(),
        503 => Vec::new(),
        _ => panic!("{}: {}", answer.status, answer.text()),
    }
}

/// What is spent of the limit of that name: nano-dollars for money. Of one subject, or of all.
pub async fn spent(marg: &Marg, name: &str, subject: Option<&str>) -> i64 {
    let all = counters(marg, name).await;
    let picked = all.iter().filter(|counter| subject.is_none_or(|subject| counter["subject"] == subject));
    picked.map(|counter| figure(&counter["spent"])).sum()
}

/// An amount, in the unit of its limit.
pub fn figure(figure: &Value) -> i64 {
    figure["amount_nano_usd"].as_i64().or(figure["amount"].as_i64()).unwrap_or_else(|| panic!("no figure: {figure}"))
}

/// Waits until so much is spent of the limit of that name; it must never be more.
pub async fn spent_is(marg: &Marg, name: &str, subject: Option<&str>, amount: i64) {
    until(&format!("{amount} is spent of {name}"), || async {
        let spent = spent(marg, name, subject).await;
        assert!(spent <= amount, "{spent} is spent of {name}, which is beyond {amount}");
        (spent == amount).then_some(())
    })
    .await;
}
