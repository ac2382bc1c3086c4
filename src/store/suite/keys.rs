//! Keys, admin tokens and routes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Place;
use crate::error::StoreError;
use crate::key::admin::{AdminToken, AdminTokenStore, Role};
use crate::key::draft::NewKey;
use crate::key::ring::Ring;
use crate::key::store::{KeyChanges, KeyFilter, KeyPage, KeyStore};
use crate::key::token::{HashKey, TokenStyle};
use crate::key::{Key, KeyState, Suspension};
use crate::route::config::{RouteConfig, TargetConfig};
use crate::route::store::{RouteStore, StoredRoute};
use crate::store::Backend;
use crate::unit::clock::Timestamp;

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

pub fn key(name: &str) -> Key {
    let draft = NewKey {
        name: name.to_owned(),
        org: Some("acme".to_owned()),
        team: Some("web".to_owned()),
        labels: BTreeMap::from([("env".to_owned(), "prod 'quoted' \"so\" \\".to_owned())]),
        models: vec!["gpt-*".to_owned()],
        addresses: vec!["10.0.0.0/8".to_owned(), "2001:db8::/32".to_owned()],
        expires_at: Some(Timestamp(NOW.0 + 100)),
        ..NewKey::default()
    };
    draft.check(NOW).unwrap().mint(TokenStyle::Marg, &HashKey::generate().unwrap(), NOW).unwrap().0
}

pub fn route(name: &str, position: i64) -> StoredRoute {
    let to = Some(TargetConfig::parse("openai:gpt-4o").unwrap());
    StoredRoute::new(RouteConfig { name: Some(name.to_owned()), to, ..RouteConfig::default() }, position, NOW)
}

async fn route_names(store: &dyn Backend) -> Vec<String> {
    let routes = nouns(store).routes.list().await.unwrap();
    assert!(routes.iter().zip(0..).all(|(route, position)| route.position == position), "{routes:?}");
    routes.into_iter().map(|route| route.config.name.unwrap()).collect()
}

/// One store by the traits of its nouns, whose methods have the same names.
struct Nouns<'s> {
    keys: &'s dyn KeyStore,
    admin_tokens: &'s dyn AdminTokenStore,
    routes: &'s dyn RouteStore,
}

fn nouns(store: &dyn Backend) -> Nouns<'_> {
    Nouns { keys: store, admin_tokens: store, routes: store }
}

pub async fn a_duplicate_or_missing_key_is_refused_and_moves_no_generation(place: &Place) {
    let store = place.open().await;
    let first = key("first");
    nouns(&*store).keys.insert(&first).await.unwrap();
    let before = nouns(&*store).keys.generation().await.unwrap();
    let same_hash = Key { id: "key_other".into(), ..first.clone() };
    let same_id = Key { id: first.id.clone(), ..key("second") };
    assert!(matches!(nouns(&*store).keys.insert(&same_hash).await, Err(StoreError::Conflict(_))));
    assert!(matches!(nouns(&*store).keys.insert(&same_id).await, Err(StoreError::Conflict(_))));
    assert!(matches!(nouns(&*store).keys.update(&key("third")).await, Err(StoreError::NotFound)));
    assert!(matches!(nouns(&*store).keys.delete("key_none").await, Err(StoreError::NotFound)));
    assert_eq!(nouns(&*store).keys.get("' OR 1=1 --").await.unwrap(), None);
    assert_eq!(nouns(&*store).keys.generation().await.unwrap(), before);
    assert_eq!(nouns(&*store).keys.all().await.unwrap(), [Arc::new(first)]);
}

pub async fn each_write_is_seen_by_another_process_through_the_generation(place: &Place) {
    let server = place.open().await;
    // A second set of connections to the same file, as the command line has it while a server runs.
    let cli = place.open().await;
    let mut seen = nouns(&*server).keys.generation().await.unwrap();
    let mut moved = async |what: &str| {
        let now = nouns(&*server).keys.generation().await.unwrap();
        assert!(now > std::mem::replace(&mut seen, now), "{what}");
    };
    let mut made = key("made");
    nouns(&*cli).keys.insert(&made).await.unwrap();
    moved("key inserted").await;
    assert_eq!(nouns(&*server).keys.get(&made.id).await.unwrap(), Some(made.clone()));
    made.enabled = false;
    nouns(&*cli).keys.update(&made).await.unwrap();
    moved("key updated").await;
    let rest = Suspension { until: Some(NOW.plus(Duration::from_secs(60))), reason: "odd".into() };
    nouns(&*cli).keys.suspend(&made.id, Some(&rest)).await.unwrap();
    moved("key suspended").await;
    made.suspension = Some(rest.clone());
    // Two processes may suspend a key: the longer rest stays, and one without an end is the longest.
    let ending = |until| Suspension { until, reason: "later".into() };
    for until in [rest.until, Some(NOW)] {
        let done = nouns(&*server).keys.suspend(&made.id, Some(&ending(until))).await;
        assert!(matches!(done, Err(StoreError::NotFound)), "{done:?}");
        assert_eq!(nouns(&*server).keys.get(&made.id).await.unwrap(), Some(made.clone()));
    }
    nouns(&*server).keys.suspend(&made.id, Some(&ending(None))).await.unwrap();
    assert!(nouns(&*server).keys.suspend(&made.id, Some(&rest)).await.is_err());
    assert_eq!(nouns(&*server).keys.get(&made.id).await.unwrap().unwrap().suspension, Some(ending(None)));
    nouns(&*server).keys.suspend(&made.id, None).await.unwrap();
    nouns(&*server).keys.suspend(&made.id, Some(&rest)).await.unwrap();
    // Who changes an old copy of the key does not end its rest.
    nouns(&*cli).keys.update(&Key { suspension: None, ..made.clone() }).await.unwrap();
    assert_eq!(nouns(&*server).keys.get(&made.id).await.unwrap(), Some(made.clone()));
    moved("key updated again").await;
    nouns(&*cli).keys.delete(&made.id).await.unwrap();
    moved("key deleted").await;

    let (mut token, _) = AdminToken::mint("ops", Role::Admin, None, &HashKey::generate().unwrap(), NOW).unwrap();
    nouns(&*cli).admin_tokens.insert(&token).await.unwrap();
    moved("token inserted").await;
    token.revoked_at = Some(NOW);
    nouns(&*cli).admin_tokens.update(&token).await.unwrap();
    moved("token updated").await;

    let (first, second) = (route("a", 0), route("b", 1));
    nouns(&*cli).routes.insert(&first).await.unwrap();
    nouns(&*cli).routes.insert(&second).await.unwrap();
    moved("route inserted").await;
    nouns(&*cli).routes.reorder(&[&second.id, &first.id]).await.unwrap();
    moved("routes reordered").await;
    nouns(&*cli).routes.delete(&first.id).await.unwrap();
    moved("route deleted").await;
}

pub async fn a_running_ring_follows_what_the_command_line_writes(place: &Place) {
    let server = place.open().await;
    let hash_key = HashKey::generate().unwrap();
    let ring = Ring::new(hash_key.clone());
    let draft = NewKey { name: "cli".to_owned(), ..NewKey::default() };
    let (made, minted) = draft.check(NOW).unwrap().mint(TokenStyle::OpenAi, &hash_key, NOW).unwrap();
    let cli = place.open().await;
    nouns(&*cli).keys.insert(&made).await.unwrap();
    cli.close().await;
    let generation = ring.refresh(&*server).await.unwrap();
    assert_eq!(generation, nouns(&*server).keys.generation().await.unwrap());
    assert_eq!(*ring.admit(minted.token.expose(), None, NOW).unwrap(), made);
}

pub async fn an_old_copy_undoes_neither_a_revocation_nor_a_rotation(place: &Place) {
    let store = place.open().await;
    let hash_key = HashKey::generate().unwrap();
    let old = key("first");
    nouns(&*store).keys.insert(&old).await.unwrap();
    let mut rotated = old.clone();
    rotated.rotate(TokenStyle::Marg, &hash_key, NOW).unwrap();
    nouns(&*store).keys.update(&rotated).await.unwrap();
    let revoked = Key { revoked_at: Some(NOW), ..rotated.clone() };
    nouns(&*store).keys.update(&revoked).await.unwrap();
    nouns(&*store).keys.update(&Key { name: "renamed".to_owned(), ..old }).await.unwrap();
    let stored = nouns(&*store).keys.get(&rotated.id).await.unwrap().unwrap();
    assert_eq!(stored, Key { name: "renamed".to_owned(), ..revoked });
}

pub async fn filters_find_keys_by_every_field(place: &Place) {
    let store = place.open().await;
    let active = key("Alpha");
    let disabled = Key { enabled: false, ..key("beta") };
    let expired = Key { expires_at: Some(NOW), ..key("gamma") };
    let revoked = Key { revoked_at: Some(NOW), enabled: false, ..key("delta") };
    let mut foreign = key("alpine");
    foreign.principal.team = None;
    foreign.principal.user = Some("u%_".into());
    foreign.labels.clear();
    for key in [&active, &disabled, &expired, &revoked, &foreign] {
        nouns(&*store).keys.insert(key).await.unwrap();
    }
    let find = async |filter: KeyFilter| -> Vec<String> {
        let found = nouns(&*store).keys.list(&filter, &KeyPage::default()).await.unwrap();
        assert_eq!(found.next, None);
        found.keys.into_iter().map(|key| key.name).collect()
    };
    let text = |text: &str| Some(text.to_owned());
    let state = |state| KeyFilter { state: Some((state, NOW)), ..KeyFilter::default() };
    assert_eq!(find(KeyFilter::default()).await, ["alpine", "delta", "gamma", "beta", "Alpha"]);
    assert_eq!(find(KeyFilter { name: text("ALP"), ..KeyFilter::default() }).await, ["alpine", "Alpha"]);
    assert_eq!(find(KeyFilter { name: text("%"), ..KeyFilter::default() }).await, Vec::<String>::new());
    assert_eq!(find(KeyFilter { user: text("u%_"), org: text("acme"), ..KeyFilter::default() }).await, ["alpine"]);
    assert_eq!(find(KeyFilter { team: text("web"), name: text("beta"), ..KeyFilter::default() }).await, ["beta"]);
    let label = Some(("env".to_owned(), "prod 'quoted' \"so\" \\".to_owned()));
    assert_eq!(find(KeyFilter { label, ..KeyFilter::default() }).await.len(), 4);
    assert_eq!(find(state(KeyState::Active)).await, ["alpine", "Alpha"]);
    assert_eq!(find(state(KeyState::Disabled)).await, ["beta"]);
    assert_eq!(find(state(KeyState::Expired)).await, ["gamma"]);
    assert_eq!(find(state(KeyState::Revoked)).await, ["delta"]);
}

pub async fn pages_of_keys_neither_repeat_nor_skip_while_keys_come_and_go(place: &Place) {
    let store = place.open().await;
    let mut made = Vec::new();
    for n in 0..10 {
        made.push(key(&n.to_string()));
        nouns(&*store).keys.insert(&made[n]).await.unwrap();
    }
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = KeyPage { after: after.clone(), limit: 3 };
        let list = nouns(&*store).keys.list(&KeyFilter::default(), &page).await.unwrap();
        names.extend(list.keys.into_iter().map(|key| key.name));
        nouns(&*store).keys.insert(&key("newer")).await.unwrap();
        match list.next {
            None => break,
            // The key that the cursor names may go.
            Some(next) => {
                nouns(&*store).keys.delete(&next).await.unwrap();
                after = Some(next);
            }
        }
    }
    assert_eq!(names, ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"]);
}

pub async fn admin_tokens_are_found_by_hash_and_stay_revoked(place: &Place) {
    let store = place.open().await;
    let hash_key = HashKey::generate().unwrap();
    let (mut token, minted) =
        AdminToken::mint("ops", Role::Auditor, Some(Timestamp(NOW.0 + 1)), &hash_key, NOW).unwrap();
    let tokens = nouns(&*store).admin_tokens;
    tokens.insert(&token).await.unwrap();
    assert!(matches!(tokens.insert(&token).await, Err(StoreError::Conflict(_))));
    assert_eq!(tokens.find(&hash_key.hash(minted.token.expose())).await.unwrap(), Some(token.clone()));
    assert_eq!(tokens.find(&hash_key.hash("other")).await.unwrap(), None);
    token.revoked_at = Some(NOW);
    tokens.update(&token).await.unwrap();
    tokens.update(&AdminToken { revoked_at: None, label: "again".to_owned(), ..token.clone() }).await.unwrap();
    let stored = tokens.get(&token.id).await.unwrap().unwrap();
    assert_eq!((stored.revoked_at, stored.label.as_str()), (Some(NOW), "again"));
    tokens.delete(&token.id).await.unwrap();
    assert!(matches!(tokens.delete(&token.id).await, Err(StoreError::NotFound)));
    assert_eq!(tokens.all().await.unwrap(), []);
}

pub async fn routes_keep_their_order_through_inserts_deletes_and_reorders(place: &Place) {
    let store = place.open().await;
    let routes = nouns(&*store).routes;
    let mut ids = Vec::new();
    for (name, position) in [("c", 9), ("a", -5), ("b", 1)] {
        ids.push(routes.insert(&route(name, position)).await.unwrap().id);
    }
    assert_eq!(route_names(&*store).await, ["a", "b", "c"]);
    let [c, a, b] = ids.as_slice() else { panic!() };
    for wrong in [vec![a.as_ref(), b], vec![a, b, b], vec![a, b, c, c], vec![a, b, "rte_other"]] {
        assert!(matches!(routes.reorder(&wrong).await, Err(StoreError::Conflict(_))));
    }
    routes.reorder(&[c, a, b]).await.unwrap();
    assert_eq!(route_names(&*store).await, ["c", "a", "b"]);
    routes.delete(a).await.unwrap();
    assert_eq!(route_names(&*store).await, ["c", "b"]);
    assert!(matches!(routes.delete(a).await, Err(StoreError::NotFound)));

    let mut changed = routes.get(b).await.unwrap().unwrap();
    changed.config.fallback = vec![TargetConfig::parse("ollama:llama3:8b").unwrap()];
    changed.position = 77;
    changed.updated_at = Timestamp(NOW.0 + 1);
    routes.update(&changed).await.unwrap();
    assert_eq!(routes.get(b).await.unwrap().unwrap(), StoredRoute { position: 1, ..changed });
    assert!(matches!(routes.update(&route("x", 0)).await, Err(StoreError::NotFound)));
}

pub async fn a_closed_store_is_away(place: &Place) {
    let store = place.open().await;
    store.close().await;
    assert!(matches!(nouns(&*store).keys.all().await, Err(StoreError::Away(_))));
    assert!(matches!(nouns(&*store).keys.insert(&key("a")).await, Err(StoreError::Away(_))));
}

/// Random writes by two processes, read in pieces of random size: what changed, or all, is the same ring.
pub async fn a_ring_that_reads_changes_is_like_one_that_reads_all(place: &Place) {
    for seed in 1..=4_u64 {
        let place = place.fresh();
        let stores = [place.open().await, place.open().await];
        let [store, _] = &stores;
        let hash_key = HashKey::generate().unwrap();
        let ring = Ring::new(hash_key.clone());
        let mut known: Vec<Key> = Vec::new();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for round in 0..24 {
            for _ in 0..next(6) {
                let writer = nouns(&*stores[next(2) as usize]).keys;
                let at = if known.is_empty() { None } else { Some(next(known.len() as u64) as usize) };
                match (next(7), at) {
                    (0, Some(at)) => {
                        let gone = known.swap_remove(at);
                        writer.delete(&gone.id).await.unwrap();
                        if next(2) == 0 {
                            ring.remove(&gone.id);
                        }
                    }
                    (1, Some(at)) => {
                        // One that is revoked has no other token any more; it is written as it is.
                        let later = NOW.plus(Duration::from_secs(round));
                        drop(known[at].rotate(TokenStyle::Marg, &hash_key, later));
                        writer.update(&known[at]).await.unwrap();
                    }
                    (2, Some(at)) => {
                        known[at].revoked_at = Some(NOW);
                        writer.update(&known[at]).await.unwrap();
                    }
                    (3, Some(at)) => {
                        let rest =
                            Suspension { until: Some(NOW.plus(Duration::from_secs(next(9)))), reason: "odd".into() };
                        drop(writer.suspend(&known[at].id, (next(2) == 0).then_some(&rest)).await);
                    }
                    // An old copy reaches the ring after what was read; it must not stay.
                    (4, Some(at)) => ring.put(Key { name: "old".to_owned(), ..known[at].clone() }),
                    _ => {
                        let made = key(&format!("key {round}"));
                        writer.insert(&made).await.unwrap();
                        known.push(made);
                    }
                }
            }
            ring.refresh(&**store).await.unwrap();
            assert!(!ring.is_in_doubt());
            let mut all = nouns(&**store).keys.all().await.unwrap();
            all.sort_by(|one, other| one.id.cmp(&other.id));
            let here: Vec<_> = all.iter().filter_map(|key| ring.get(&key.id)).collect();
            assert_eq!((ring.len(), here), (all.len(), all), "seed {seed}, round {round}");
        }
    }
}

pub async fn changes_are_told_from_any_generation_on_and_not_from_one_of_another_database(place: &Place) {
    let store = place.open().await;
    let keys = nouns(&*store).keys;
    let (one, two) = (key("one"), key("two"));
    let start = keys.generation().await.unwrap();
    keys.insert(&one).await.unwrap();
    keys.insert(&two).await.unwrap();
    let between = keys.generation().await.unwrap();
    keys.delete(&one.id).await.unwrap();
    let told = keys.changed_after(start).await.unwrap().unwrap();
    assert_eq!((told.keys, told.gone), (vec![two.clone()], vec![one.id.clone()]));
    let told = keys.changed_after(between).await.unwrap().unwrap();
    assert_eq!((told.keys, told.gone), (Vec::new(), vec![one.id.clone()]));
    // A key that comes back is not gone.
    keys.insert(&one).await.unwrap();
    let told = keys.changed_after(between).await.unwrap().unwrap();
    assert_eq!((told.keys, told.gone), (vec![one], Vec::new()));
    let now = keys.generation().await.unwrap();
    assert_eq!(keys.changed_after(now).await.unwrap(), Some(KeyChanges::default()));
    // A database that was put back to an earlier state, and one that has forgotten.
    assert_eq!(keys.changed_after(now + 1).await.unwrap(), None);
}
