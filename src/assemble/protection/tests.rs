//! The gate in an exchange: what reaches it from an address database, and what it costs, with all that is built for it and
//! written down of it.

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
use crate::pipeline::{Gateway, attest, recall};
use crate::unit::clock::{Tick, Timestamp};

const BODY: &str = r#"{"model":"gpt-4.1-mini","max_tokens":256,"messages":[{"role":"user","content":"How are you?"}]}"#;

fn gateway(folder: &Path, kavach: &str, policies: &str) -> Arc<Gateway> {
    let at = |name: &str| folder.join(name).display().to_string();
    std::fs::create_dir_all(folder.join("data")).unwrap();
    std::fs::write(folder.join("policy.cedar"), policies).unwrap();
    let text = format!(
        "data_dir: {}\nproviders: {{main: {{base_url: 'http://127.0.0.1:9/v1', price_provider: openai}}}}\n\
         default_provider: main\nkavach: {{{kavach}, policy: {}}}\n",
        at("data"),
        at("policy.cedar"),
    );
    std::fs::write(folder.join("marg.yaml"), text).unwrap();
    let loaded = load(&folder.join("marg.yaml")).unwrap();
    let live = live::build(&loaded, &loaded.config.data_dir, &[], &[], None).unwrap();
    let settings = JournalSettings { segment_bytes: 1 << 28, max_bytes: 1 << 30 };
    let journal = Arc::new(Journal::open(folder.join("journal"), settings).unwrap());
    let counter = Counter::start(journal.clone()).unwrap();
    let budget = Budget::new(Arc::new(Memory::default()), "a".to_owned(), BudgetSettings::default());
    let ring = Arc::new(Ring::new(HashKey::generate().unwrap()));
    let gateway = Arc::new(Gateway::new(live, ring, budget, (journal, counter)));
    super::configure(&gateway, &loaded.config.kavach);
    gateway
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
    let facts = crate::dialect::understand(exchange.operation(), Some("application/json"), &exchange.body).unwrap();
    exchange.heed(facts, None).unwrap();
    exchange.plan(&HeaderMap::new()).unwrap();
    exchange
}

/// The database is one of our own making (`mmdb_writer` 0.2.7): 192.0.2.0/25 is DE, 192.0.2.128/25 IN, 198.51.100.0/24 BR
/// without a position, 203.0.113.0/24 a position without a country, 2001:db8::/32 FR.
#[tokio::test]
async fn a_country_of_the_address_database_reaches_a_policy() {
    let database = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/kavach/places.mmdb");
    let kavach = format!("mode: enforce, drift: {{geo: true, geo_database: '{}'}}", database.display());
    let folder = tempfile::tempdir().unwrap();
    let policy = "@id(\"here\") permit(principal, action, resource) when { context has country && \
                  [\"DE\", \"BR\", \"FR\"].contains(context.country) };";
    let gateway = gateway(folder.path(), &kavach, policy);
    for (address, country) in [
        ("192.0.2.7", Some("DE")),
        ("::ffff:192.0.2.7", Some("DE")),
        ("192.0.2.200", Some("IN")),
        ("198.51.100.1", Some("BR")),
        ("2001:db8::1", Some("FR")),
        ("203.0.113.1", None),
        ("10.0.0.1", None),
    ] {
        let mut exchange = exchange(&gateway, &key());
        exchange.record.address = Some(address.to_owned());
        let is_let_in = exchange.judge(&HeaderMap::new()).await.is_ok();
        assert_eq!(is_let_in, country.is_some_and(|country| country != "IN"), "{address}");
        let judged = recall::call(&exchange.record).unwrap();
        assert_eq!(judged.facts.country.as_deref(), country, "{address}");
        exchange.forget();
    }
    // Far away within the same moment: the positions of the database tell.
    let key = key();
    let mut scores = Vec::new();
    for address in ["192.0.2.7", "192.0.2.200"] {
        let mut exchange = exchange(&gateway, &key);
        exchange.record.address = Some(address.to_owned());
        drop(exchange.judge(&HeaderMap::new()).await);
        scores.push(recall::call(&exchange.record).unwrap().facts.drift.geo);
        exchange.forget();
    }
    assert_eq!(scores, [0, 100]);
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
    for (name, kavach, conditions) in [
        ("off", "mode: off", fixed),
        ("no context", "mode: enforce", fixed),
        ("one field", "mode: enforce", steady),
        ("four", "mode: enforce", mixed),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let gateway = gateway(folder.path(), kavach, &policies(100, conditions));
        let [judge, settle, entry, column, bytes] = cost(&gateway).await;
        println!(
            "{name}: judge {judge} ns, settle {settle} ns, entry {entry} ns, column {column} ns, sum {} ns, {bytes} bytes",
            judge + settle + entry + column
        );
    }
}
