//! What the gate costs an exchange, with all that is built for it and written down of it.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;

use crate::assemble::live;
use crate::budget::memory::Memory;
use crate::budget::{Budget, BudgetSettings};
use crate::config::load::load;
use crate::key::Key;
use crate::key::draft::NewKey;
use crate::key::ring::Ring;
use crate::key::token::{HashKey, TokenStyle};
use crate::ledger::Line;
use crate::ledger::journal::{Journal, JournalSettings};
use crate::pipeline::count::Counter;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::{Gateway, attest};
use crate::unit::clock::{Tick, Timestamp};

const BODY: &str = r#"{"model":"gpt-4.1-mini","max_tokens":256,"messages":[{"role":"user","content":"How are you?"}]}"#;

fn gateway(folder: &Path, mode: &str, policies: &str) -> Arc<Gateway> {
    let at = |name: &str| folder.join(name).display().to_string();
    std::fs::create_dir_all(folder.join("data")).unwrap();
    std::fs::write(folder.join("policy.cedar"), policies).unwrap();
    let text = format!(
        "data_dir: {}\nproviders: {{main: {{base_url: 'http://127.0.0.1:9/v1', price_provider: openai}}}}\n\
         default_provider: main\nkavach: {{mode: {mode}, policy: {}}}\n",
        at("data"),
        at("policy.cedar"),
    );
    std::fs::write(folder.join("marg.yaml"), text).unwrap();
    let live = live::build(&load(&folder.join("marg.yaml")).unwrap(), &[], &[], None).unwrap();
    let settings = JournalSettings { segment_bytes: 1 << 28, max_bytes: 1 << 30 };
    let journal = Arc::new(Journal::open(folder.join("journal"), settings).unwrap());
    let counter = Counter::start(journal.clone()).unwrap();
    let budget = Budget::new(Arc::new(Memory::default()), "a".to_owned(), BudgetSettings::default());
    Arc::new(Gateway::new(live, Arc::new(Ring::new(HashKey::generate().unwrap())), budget, (journal, counter)))
}

fn key() -> Arc<Key> {
    let (name, team) = ("one".to_owned(), Some("research".to_owned()));
    let fields = NewKey { name, team, ..NewKey::default() }.check(Timestamp::now()).unwrap();
    Arc::new(fields.mint(TokenStyle::Marg, &HashKey::generate().unwrap(), Timestamp::now()).unwrap().0)
}

/// An exchange of which everything is known that the gate judges.
fn exchange(gateway: &Arc<Gateway>, key: &Arc<Key>) -> Exchange {
    let mut exchange = Exchange::begin(gateway);
    exchange.record.address = Some("192.0.2.7".to_owned());
    exchange.record.key_id = Some(Arc::clone(&key.id));
    exchange.record.team.clone_from(&key.principal.team);
    exchange.key = Some(Arc::clone(key));
    exchange.locate("POST", "/v1/chat/completions").unwrap();
    exchange.body = Bytes::from_static(BODY.as_bytes());
    exchange.understand(Some("application/json")).unwrap();
    exchange.plan(&HeaderMap::new()).unwrap();
    exchange
}

/// Policies of which five apply: one that permits, and four with conditions.
fn policies(count: usize, conditions: [&str; 4]) -> String {
    let mut text = "@id(\"all\") permit(principal, action, resource);\n".to_owned();
    for (number, condition) in conditions.iter().enumerate() {
        writeln!(text, "@id(\"c{number}\") forbid(principal, action, resource) when {{ {condition} }};").unwrap();
    }
    for number in 5..count {
        writeln!(text, "@id(\"o{number}\") permit(principal == Key::\"key_{number}\", action, resource);").unwrap();
    }
    text
}

/// Medians in nanoseconds: judging, settling, the audit entry, the column of the database; and the journal's bytes.
async fn cost(gateway: &Arc<Gateway>) -> [u128; 5] {
    const ROUNDS: usize = 20_000;
    let key = key();
    let headers = HeaderMap::new();
    let mut times: [Vec<u128>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let mut exchange = exchange(gateway, &key);
        let start = Tick::now();
        exchange.judge(&headers).await.unwrap();
        times[0].push(start.elapsed().as_nanos());
        let start = Tick::now();
        let shown = exchange.gate_headers().count();
        exchange.settle(crate::ledger::Outcome::Answered);
        times[1].push(start.elapsed().as_nanos() + shown as u128 / 8);
        let line = Line::Record(exchange.record.clone());
        let start = Tick::now();
        let entry = attest::entry(&line).unwrap().to_bytes();
        times[2].push(start.elapsed().as_nanos());
        let start = Tick::now();
        let column = exchange.record.verdict.as_ref().map(|verdict| serde_json::to_string(verdict).unwrap());
        times[3].push(start.elapsed().as_nanos());
        let whole = serde_json::to_string(&exchange.record).unwrap().len();
        times[4].push((whole + entry.len() + column.map_or(0, |column| column.len())) as u128);
    }
    times.map(|mut times| {
        times.sort_unstable();
        times[ROUNDS / 2]
    })
}

/// Prints medians with the gate off and on:
/// `cargo test --release --lib what_an_exchange_pays_for_its_judgement -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "it prints times, which say something only in a release build"]
async fn what_an_exchange_pays_for_its_judgement() {
    let mixed = [
        "context.max_output_tokens > 1000000",
        "context.tool_count > 1000",
        "context.session.requests > 1000000000000",
        "context.requested_model == \"no such model\"",
    ];
    let steady = ["context.max_output_tokens > 1000000"; 4];
    let fixed = ["resource.region == \"mars\""; 4];
    for (name, mode, conditions) in [
        ("off", "off", fixed),
        ("no context", "enforce", fixed),
        ("one field", "enforce", steady),
        ("four", "enforce", mixed),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let gateway = gateway(folder.path(), mode, &policies(100, conditions));
        let [judge, settle, entry, column, bytes] = cost(&gateway).await;
        println!(
            "{name}: judge {judge} ns, settle {settle} ns, entry {entry} ns, column {column} ns, sum {} ns, {bytes} bytes",
            judge + settle + entry + column
        );
    }
}
