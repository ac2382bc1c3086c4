//! What happens to an exchange whose permit cannot be made; and what building permits leaves in the data folder.

use std::sync::Arc;

use super::{KEY_FILE, LIST_FILE, build};
use crate::assemble::live;
use crate::budget::memory::Memory;
use crate::budget::{Budget, BudgetSettings};
use crate::config::load::{Loaded, load};
use crate::error::Kind;
use crate::kavach::call::{Call, Target};
use crate::key::ring::Ring;
use crate::key::token::HashKey;
use crate::ledger::journal::{Journal, JournalSettings};
use crate::pipeline::attempt::{Current, Step};
use crate::pipeline::count::Counter;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::{Gateway, Live};
use crate::unit::clock::{Tick, Timestamp};

fn configured(folder: &std::path::Path, mode: &str, send_to: &str) -> Loaded {
    let at = |name: &str| folder.join(name).display().to_string();
    std::fs::write(at("policy.cedar"), "// begin\n@id(\"all\") permit(principal, action, resource);\n// end\n")
        .unwrap();
    let text = format!(
        "data_dir: {}\nproviders: {{main: {{base_url: 'http://127.0.0.1:9/v1'}}}}\ndefault_provider: main\n\
         kavach: {{mode: {mode}, policy: {}, permits: {{send_to: {send_to}}}}}\n",
        at("data"),
        at("policy.cedar"),
    );
    std::fs::create_dir_all(at("data")).unwrap();
    std::fs::write(at("marg.yaml"), text).unwrap();
    load(&folder.join("marg.yaml")).unwrap()
}

fn gateway(folder: &std::path::Path, live: Live) -> Arc<Gateway> {
    let journal = Arc::new(
        Journal::open(folder.join("journal"), JournalSettings { segment_bytes: 1 << 20, max_bytes: 1 << 30 }).unwrap(),
    );
    let counter = Counter::start(journal.clone()).unwrap();
    let budget = Budget::new(Arc::new(Memory::default()), "a".to_owned(), BudgetSettings::default());
    let ring = Arc::new(Ring::new(HashKey::generate().unwrap()));
    Arc::new(Gateway::new(live, ring, budget, (journal, counter)))
}

/// An exchange that is about to ask for a model.
fn exchange(gateway: &Arc<Gateway>, model: &str) -> Exchange {
    let mut exchange = Exchange::begin(gateway);
    let provider = exchange.live.providers["main"].clone();
    let target = Target { provider: provider.name.clone(), model: model.into(), ..Target::default() };
    let permit = exchange.live.gate.judge(&Call { target, ..Call::default() }).admit().unwrap();
    let step = Step { provider, model: model.to_owned(), permit: None };
    exchange.current = Some(Current {
        step,
        permit,
        credential: None,
        started: Tick::now(),
        renewed: false,
        sent: false,
        fault: None,
    });
    exchange
}

#[test]
fn what_cannot_be_permitted_on_paper_is_not_asked_for_where_the_gate_enforces() {
    for (mode, closes) in [("enforce", true), ("observe", false), ("off", false)] {
        let folder = tempfile::tempdir().unwrap();
        let live =
            live::build(&configured(folder.path(), mode, "both"), &folder.path().join("data"), &[], &[], None).unwrap();
        let gateway = gateway(folder.path(), live);
        let mut good = exchange(&gateway, "m");
        good.put_on_paper(b"body").unwrap();
        let papers = good.papers.clone().unwrap();
        assert!(papers.upstream.is_some() && papers.caller.is_some(), "{mode}");
        // No call can ask for a model of this length; it stands for whatever keeps a permit from being made.
        let mut long = exchange(&gateway, &"m".repeat(5_000));
        let done = long.put_on_paper(b"body").map_err(|error| error.kind());
        let expected = if closes { (Err(Kind::Unavailable), None) } else { (Ok(()), Some(())) };
        assert_eq!((done, long.current.as_ref().map(drop)), expected, "{mode}");
        assert_eq!(long.papers, None, "{mode}");
        // Nor does what an attempt before it had stay.
        good.current = exchange(&gateway, &"m".repeat(5_000)).current.take();
        assert_eq!(good.put_on_paper(b"body").is_err(), closes, "{mode}");
        assert_eq!(good.papers, None, "{mode}");
        for exchange in [&mut good, &mut long] {
            exchange.forget();
        }
    }
}

#[test]
fn the_keys_are_on_the_disk_before_the_first_permit_and_an_unreadable_list_stops_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (key, list) = (folder.path().join("data").join(KEY_FILE), folder.path().join("data").join(LIST_FILE));
    let ids = |loaded: &Loaded| {
        let permits = build(loaded, &folder.path().join("data"), Timestamp::now()).unwrap();
        permits.signing().iter().map(|id| (*id).to_owned()).collect::<Vec<_>>()
    };
    assert!(ids(&configured(folder.path(), "off", "none")).is_empty());
    assert!(!key.exists() && !list.exists());
    let loaded = configured(folder.path(), "off", "upstream");
    let first = ids(&loaded);
    assert!(std::fs::read_to_string(&list).unwrap().contains(&first[0]));
    assert_eq!(ids(&loaded), first);
    super::replace(&key, Timestamp::now()).unwrap();
    let second = ids(&loaded);
    assert_ne!(second, first);
    assert!(std::fs::read_to_string(&list).unwrap().contains(&first[0]));
    std::fs::write(&list, "[{}]").unwrap();
    assert!(build(&loaded, &folder.path().join("data"), Timestamp::now()).unwrap_err().contains(LIST_FILE));
}
