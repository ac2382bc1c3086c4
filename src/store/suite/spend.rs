//! Limits, parties, prices.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Place;
use crate::budget::limit::{Action, Limit, Scope, Unit, Window};
use crate::budget::store::LimitStore;
use crate::catalog::stored::{PriceRow, StoredPrice};
use crate::error::StoreError;
use crate::key::party::{Party, PartyKind, PartyStore, RequestCaps};
use crate::key::store::KeyStore;
use crate::store::Backend;
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;

const ODD: &str = "équipe \"1\"; drop table spend_limit; -- \\ ' %_";

fn limit(id: &str) -> Limit {
    Limit {
        id: id.into(),
        name: ODD.to_owned(),
        scope: Scope::Gateway,
        subject: None,
        models: Vec::new(),
        unit: Unit::Usd,
        window: Window::Total,
        amount: 0,
        action: Action::Refuse,
        warn_at_percent: Vec::new(),
        enabled: true,
        created_at: Timestamp(1),
        updated_at: Timestamp(2),
    }
}

/// A limit of each scope, unit, window and action.
fn limits() -> Vec<Limit> {
    let zone = || "America/Sao_Paulo".to_owned();
    let windows = [
        Window::Minute,
        Window::Paced { burst: 1 },
        Window::Hour,
        Window::Day { timezone: zone() },
        Window::Month { timezone: zone() },
        Window::Total,
        Window::Now,
    ];
    let scopes =
        [Scope::Gateway, Scope::Org, Scope::Team, Scope::User, Scope::Key, Scope::Model, Scope::Tag, Scope::Session];
    let units = [Unit::Usd, Unit::InputTokens, Unit::OutputTokens, Unit::Tokens, Unit::Requests, Unit::Concurrent];
    let actions = [Action::Refuse, Action::Downgrade { to: ODD.to_owned(), below_percent: 99 }, Action::Warn];
    (0..scopes.len())
        .map(|number| Limit {
            scope: scopes[number],
            subject: (number % 2 == 1).then(|| ODD.into()),
            models: vec![Glob::new("gpt-*").unwrap(), Glob::new("o?").unwrap()],
            unit: units[number % units.len()],
            window: windows[number % windows.len()].clone(),
            amount: [0, 1, i64::MAX][number % 3],
            action: actions[number % actions.len()].clone(),
            warn_at_percent: vec![1, 50, 100],
            enabled: number % 4 != 0,
            ..limit(&format!("lim_{number}"))
        })
        .collect()
}

/// One store by the traits whose methods have the same names.
fn both(store: &Arc<dyn Backend>) -> (&dyn LimitStore, &dyn PartyStore) {
    (&**store, &**store)
}

async fn generation(store: &Arc<dyn Backend>) -> u64 {
    KeyStore::generation(&**store).await.unwrap()
}

pub async fn limits_of_every_kind_come_back_as_they_were_and_each_write_is_noticed(place: &Place) {
    let (store, other) = (place.open().await, place.open().await);
    let (kept, seen) = (both(&store).0, both(&other).0);
    let mut expected = limits();
    let mut before = generation(&other).await;
    let mut moved = async |what: &str| {
        let now = generation(&other).await;
        assert!(now > std::mem::replace(&mut before, now), "{what}");
    };
    for limit in expected.iter().rev() {
        kept.insert(limit).await.unwrap();
        moved("a limit is stored").await;
    }
    assert_eq!(seen.list().await.unwrap(), expected, "by id");
    expected[2] = Limit { scope: Scope::Model, amount: 7, updated_at: Timestamp(9), ..limit("lim_2") };
    kept.update(&expected[2]).await.unwrap();
    moved("a limit is changed").await;
    assert_eq!(seen.get("lim_2").await.unwrap().as_ref(), Some(&expected[2]));
    kept.delete("lim_0").await.unwrap();
    moved("a limit is removed").await;
    assert_eq!(seen.list().await.unwrap(), expected[1..]);
    assert_eq!(seen.get("lim_0").await.unwrap(), None);
}

pub async fn a_limit_that_is_there_or_is_not_is_refused_and_nothing_moves(place: &Place) {
    let store = place.open().await;
    let kept = both(&store).0;
    kept.insert(&limit("lim_a")).await.unwrap();
    let before = generation(&store).await;
    let taken = kept.insert(&Limit { amount: 5, ..limit("lim_a") }).await;
    assert!(matches!(&taken, Err(StoreError::Conflict(text)) if text.contains("already")), "{taken:?}");
    assert!(matches!(kept.update(&limit("lim_b")).await, Err(StoreError::NotFound)));
    assert!(matches!(kept.delete("lim_b").await, Err(StoreError::NotFound)));
    assert_eq!(kept.get("' OR 1=1 --").await.unwrap(), None);
    assert_eq!((kept.list().await.unwrap(), generation(&store).await), (vec![limit("lim_a")], before));
}

fn party(kind: PartyKind, name: &str) -> Party {
    Party {
        kind,
        name: name.into(),
        org: (kind != PartyKind::Org).then(|| ODD.into()),
        team: (kind == PartyKind::User).then(|| "web".into()),
        description: ODD.to_owned(),
        labels: BTreeMap::from([(ODD.to_owned(), ODD.to_owned()), ("env".to_owned(), String::new())]),
        models: vec![Glob::new("gpt-*").unwrap()],
        caps: RequestCaps { max_input_tokens: Some(0), max_output_tokens: Some(1_000_000_000) },
        enabled: false,
        created_at: Timestamp(1),
        updated_at: Timestamp(2),
    }
}

pub async fn parties_of_each_kind_are_kept_apart_and_each_write_is_noticed(place: &Place) {
    let (store, other) = (place.open().await, place.open().await);
    let (kept, seen) = (both(&store).1, both(&other).1);
    let mut before = generation(&other).await;
    let mut moved = async |what: &str| {
        let now = generation(&other).await;
        assert!(now > std::mem::replace(&mut before, now), "{what}");
    };
    // The same name three times: each kind has its own.
    let mut expected: Vec<Party> =
        PartyKind::ALL.into_iter().flat_map(|kind| [party(kind, "Zoë"), party(kind, "a")]).collect();
    for one in &expected {
        kept.insert(one).await.unwrap();
        moved("a party is stored").await;
    }
    let order = |one: &Party, two: &Party| (one.kind.as_str(), &one.name).cmp(&(two.kind.as_str(), &two.name));
    expected.sort_by(order);
    assert_eq!(seen.list(None).await.unwrap(), expected);
    let teams: Vec<Party> = expected.iter().filter(|one| one.kind == PartyKind::Team).cloned().collect();
    assert_eq!(seen.list(Some(PartyKind::Team)).await.unwrap(), teams);
    let bare = Party {
        org: None,
        description: String::new(),
        labels: BTreeMap::new(),
        models: Vec::new(),
        caps: RequestCaps::NONE,
        enabled: true,
        updated_at: Timestamp(9),
        ..party(PartyKind::Team, "a")
    };
    kept.update(&bare).await.unwrap();
    moved("a party is changed").await;
    assert_eq!(seen.get(PartyKind::Team, "a").await.unwrap(), Some(bare));
    assert_eq!(seen.get(PartyKind::User, "a").await.unwrap(), Some(party(PartyKind::User, "a")), "nobody else is");
    kept.delete(PartyKind::Team, "a").await.unwrap();
    moved("a party is removed").await;
    assert_eq!(seen.get(PartyKind::Team, "a").await.unwrap(), None);
    assert_eq!(seen.list(None).await.unwrap().len(), 5);
}

pub async fn a_party_that_is_there_or_is_not_is_refused_and_nothing_moves(place: &Place) {
    let store = place.open().await;
    let kept = both(&store).1;
    kept.insert(&party(PartyKind::Org, "acme")).await.unwrap();
    let before = generation(&store).await;
    let taken = kept.insert(&party(PartyKind::Org, "acme")).await;
    assert!(matches!(taken, Err(StoreError::Conflict(_))), "{taken:?}");
    assert!(matches!(kept.update(&party(PartyKind::Team, "acme")).await, Err(StoreError::NotFound)));
    assert!(matches!(kept.delete(PartyKind::User, "acme").await, Err(StoreError::NotFound)));
    assert_eq!(kept.get(PartyKind::Org, "' OR 1=1 --").await.unwrap(), None);
    assert_eq!((kept.list(None).await.unwrap().len(), generation(&store).await), (1, before));
}

fn price(model: &str, effective: Option<&str>, input: f64, now: i64) -> StoredPrice {
    let rates = [("input".to_owned(), input), ("output".to_owned(), 0.1)].into();
    let row = PriceRow {
        provider: Some("openai".to_owned()),
        model: model.to_owned(),
        effective: effective.map(str::to_owned),
        usd_per_million_tokens: Some(rates),
        per_request_usd: Some(0.000_000_001),
        ..PriceRow::default()
    };
    StoredPrice::new(row, "tok_1", Timestamp(now))
}

pub async fn a_price_for_the_same_model_and_day_replaces_the_one_before(place: &Place) {
    let (store, other) = (place.open().await, place.open().await);
    let before = generation(&other).await;
    let given = [price("m", None, 1.0, 1), price("m", Some("2026-01-31"), 1.0, 1), price("n", None, 0.123_456_789, 1)];
    let first = store.put_prices(&given).await.unwrap();
    assert_eq!(first, given);
    let stored = generation(&other).await;
    assert!(stored > before);
    let second = store.put_prices(&[price("m", None, 2.0, 2)]).await.unwrap();
    assert_eq!((&second[0].id, second[0].created_at, second[0].updated_at), (&first[0].id, Timestamp(1), Timestamp(2)));
    let mut expected = vec![second[0].clone(), first[1].clone(), first[2].clone()];
    expected.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(other.prices().await.unwrap(), expected, "by id");
    assert!(generation(&other).await > stored);
    store.delete_price(&first[0].id).await.unwrap();
    assert!(matches!(store.delete_price(&first[0].id).await, Err(StoreError::NotFound)));
    assert_eq!(other.prices().await.unwrap().len(), 2);
}

pub async fn prices_are_stored_all_or_none(place: &Place) {
    let store = place.open().await;
    let good = store.put_prices(&[price("kept", None, 1.0, 1)]).await.unwrap();
    let before = generation(&store).await;
    // Another row under an id that is taken: the second of two cannot be stored, so the first is not either.
    let clash = StoredPrice { id: good[0].id.clone(), ..price("other", None, 1.0, 1) };
    assert!(store.put_prices(&[price("new", None, 1.0, 1), clash]).await.is_err());
    assert_eq!((store.prices().await.unwrap(), generation(&store).await), (good, before));
}
