use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64};

use async_trait::async_trait;

use super::*;
use crate::error::StoreError;
use crate::key::Principal;
use crate::key::draft::NewKey;
use crate::key::store::{KeyChanges, KeyFilter, KeyList, KeyPage, KeyStore};
use crate::key::token::TokenStyle;

const NOW: Timestamp = Timestamp(1_000_000);

fn ring() -> (Ring, HashKey) {
    let hash_key = HashKey::generate().unwrap();
    (Ring::new(hash_key.clone()), hash_key)
}

fn make(hash_key: &HashKey) -> (Key, String) {
    let draft = NewKey { name: "app".to_owned(), ..NewKey::default() };
    let (key, minted) = draft.check(NOW).unwrap().mint(TokenStyle::Marg, hash_key, NOW).unwrap();
    (key, minted.token.expose().to_owned())
}

#[test]
fn each_reason_to_refuse_has_its_own_name() {
    let (ring, hash_key) = ring();
    let (key, token) = make(&hash_key);
    let refusal = |change: fn(&mut Key)| {
        let mut changed = key.clone();
        change(&mut changed);
        ring.put(changed);
        ring.admit(&token, Some(IpAddr::from([127, 0, 0, 1])), NOW).unwrap_err()
    };
    assert_eq!(ring.admit("hello", None, NOW).unwrap_err(), Refusal::Malformed);
    assert_eq!(ring.admit(&token, None, NOW).unwrap_err(), Refusal::Unknown);
    assert_eq!(refusal(|key| key.revoked_at = Some(NOW)), Refusal::Revoked);
    assert_eq!(refusal(|key| key.expires_at = Some(NOW)), Refusal::Expired);
    assert_eq!(refusal(|key| key.enabled = false), Refusal::Disabled);
    assert_eq!(refusal(|key| key.addresses = vec!["10.0.0.0/8".parse().unwrap()]), Refusal::Address);
    ring.put(key);
    assert!(ring.admit(&token, None, NOW).is_ok());
}

#[test]
fn a_token_hashed_with_another_key_is_unknown() {
    let (ring, _) = ring();
    let (key, token) = make(&HashKey::generate().unwrap());
    ring.put(key);
    assert_eq!(ring.admit(&token, None, NOW).unwrap_err(), Refusal::Unknown);
}

#[test]
fn a_replaced_token_is_unknown_at_once_and_the_new_one_is_admitted() {
    let (ring, hash_key) = ring();
    let (mut key, old) = make(&hash_key);
    ring.put(key.clone());
    let new = key.rotate(TokenStyle::Marg, &hash_key, NOW).unwrap();
    ring.put(key.clone());
    assert_eq!(ring.admit(&old, None, NOW).unwrap_err(), Refusal::Unknown);
    assert_eq!(ring.admit(new.token.expose(), None, NOW).unwrap().id, key.id);
    assert_eq!(ring.len(), 1);
}

#[test]
fn removal_and_replacement_of_all_take_effect_at_once() {
    let (ring, hash_key) = ring();
    let made: Vec<(Key, String)> = (0..2_000).map(|_| make(&hash_key)).collect();
    ring.replace_all(made.iter().map(|(key, _)| Arc::new(key.clone())).collect(), None);
    assert_eq!(ring.len(), 2_000);
    assert!(made.iter().all(|(key, token)| ring.admit(token, None, NOW).unwrap().id == key.id));
    let shards: HashSet<usize> = made.iter().map(|(key, _)| shard_of(&key.hash)).collect();
    assert!(shards.len() > 200, "keys spread over {} shards", shards.len());

    let (first, token) = &made[0];
    assert!(ring.remove(&first.id) && !ring.remove(&first.id));
    assert_eq!(ring.admit(token, None, NOW).unwrap_err(), Refusal::Unknown);
    assert!(ring.get(&first.id).is_none() && ring.get(&made[1].0.id).is_some());
    ring.replace_all(Vec::new(), None);
    assert!(ring.is_empty());
    assert_eq!(ring.admit(&made[1].1, None, NOW).unwrap_err(), Refusal::Unknown);
}

#[test]
fn a_key_that_stays_is_admitted_throughout_a_replacement_of_all() {
    let (ring, hash_key) = ring();
    let (key, token) = make(&hash_key);
    ring.put(key.clone());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(ring.admit(&token, None, NOW).is_ok());
            }
        });
        for _ in 0..200 {
            ring.replace_all(vec![Arc::new(key.clone()), Arc::new(make(&hash_key).0)], None);
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// A store of one key that counts how often all are read. The first time is slow enough, if a ring is named, that the key is put
/// into that ring meanwhile, and is not in what was read.
struct Counted<'a> {
    key: Key,
    generation: AtomicU64,
    reads: AtomicU64,
    overtaken: Option<&'a Ring>,
}

#[async_trait]
impl KeyStore for Counted<'_> {
    async fn insert(&self, _: &Key) -> Result<(), StoreError> {
        Err(StoreError::NotFound)
    }
    async fn update(&self, _: &Key) -> Result<(), StoreError> {
        Err(StoreError::NotFound)
    }
    async fn suspend(&self, _: &str, _: Option<&crate::key::Suspension>) -> Result<(), StoreError> {
        Err(StoreError::NotFound)
    }
    async fn delete(&self, _: &str) -> Result<(), StoreError> {
        Err(StoreError::NotFound)
    }
    async fn get(&self, _: &str) -> Result<Option<Key>, StoreError> {
        Ok(Some(self.key.clone()))
    }
    async fn list(&self, _: &KeyFilter, _: &KeyPage) -> Result<KeyList, StoreError> {
        Ok(KeyList { keys: Vec::new(), next: None })
    }
    async fn all(&self) -> Result<Vec<Arc<Key>>, StoreError> {
        let first = self.reads.fetch_add(1, Ordering::Relaxed) == 0;
        if let Some(ring) = self.overtaken.filter(|_| first) {
            ring.put(self.key.clone());
            return Ok(Vec::new());
        }
        Ok(vec![Arc::new(self.key.clone())])
    }
    async fn changed_after(&self, generation: u64) -> Result<Option<KeyChanges>, StoreError> {
        let is_known = generation >= 5;
        Ok(is_known.then(|| KeyChanges { keys: vec![self.key.clone()], gone: Vec::new() }))
    }
    async fn generation(&self) -> Result<u64, StoreError> {
        Ok(self.generation.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn a_refresh_does_not_lose_a_key_that_was_put_while_it_read() {
    let (ring, hash_key) = ring();
    let (key, token) = make(&hash_key);
    let (generation, reads) = (AtomicU64::new(7), AtomicU64::default());
    let store = Counted { key, generation, reads, overtaken: Some(&ring) };
    assert_eq!(ring.refresh(&store).await.unwrap(), 7);
    assert_eq!(store.reads.load(Ordering::Relaxed), 2);
    assert!(ring.admit(&token, None, NOW).is_ok());
}

/// The resident memory of this process in bytes (proc_pid_statm(5)).
#[cfg(target_os = "linux")]
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[cfg(target_os = "linux")]
#[test]
fn memory_per_key_stays_bounded() {
    const KEYS: usize = 100_000;
    let (ring, hash_key) = ring();
    let (mut model, _) = make(&hash_key);
    model.name = "a-service".to_owned();
    let before = resident_bytes();
    let keys = (0..KEYS).map(|n| Key {
        id: crate::unit::id::mint("key").into(),
        hash: hash_key.hash(&n.to_string()),
        principal: Principal {
            org: Some("acme-corporation".into()),
            team: Some("platform-team".into()),
            user: Some("service-17".into()),
        },
        ..model.clone()
    });
    ring.replace_all(keys.map(Arc::new).collect(), None);
    let each = resident_bytes().saturating_sub(before) / KEYS;
    // Other tests of this process allocate meanwhile, so the bound leaves room above the documented figure.
    assert!(each < 1_500, "{each} bytes a key");
    println!("{each} bytes a key");
}

#[test]
fn while_the_store_is_away_an_unknown_key_is_unsure_and_a_mistyped_one_is_malformed() {
    let ring = Ring::new(HashKey::generate().unwrap());
    let token = crate::key::token::mint(TokenStyle::Marg).unwrap().token;
    let admit = |token: &str| ring.admit(token, None, Timestamp(1)).unwrap_err();
    assert_eq!(admit(token.expose()), Refusal::Unknown);
    ring.set_stale(true);
    assert_eq!(admit(token.expose()), Refusal::Unsure);
    assert_eq!(admit("marg_live_typo"), Refusal::Malformed);
    ring.set_stale(false);
    assert_eq!(admit(token.expose()), Refusal::Unknown);
}

#[test]
fn what_runs_with_a_key_may_go_on_until_the_key_is_withdrawn() {
    let (ring, hash_key) = ring();
    let (key, _) = make(&hash_key);
    ring.put(key.clone());
    let news = ring.news().listen();
    let after = |change: fn(&mut Key)| {
        let mut changed = key.clone();
        change(&mut changed);
        ring.put(changed);
        ring.still_admits(&key, NOW)
    };
    let rest = |until| Some(Suspension { until, reason: "odd".into() });
    assert_eq!(after(|key| key.revoked_at = Some(NOW)), Err(Refusal::Revoked));
    assert_eq!(after(|key| key.enabled = false), Err(Refusal::Disabled));
    assert_eq!(after(|key| key.expires_at = Some(NOW)), Ok(()));
    assert_eq!(after(|key| key.addresses = vec!["10.0.0.0/8".parse().unwrap()]), Ok(()));
    // Another token in place of the one that it runs with.
    assert_eq!(after(|key| key.hash = TokenHash([7; 32])), Ok(()));
    ring.put(key.clone());
    ring.suspend(&key.id, rest(None).unwrap()).unwrap();
    assert_eq!(ring.still_admits(&key, NOW), Err(Refusal::Suspended(None)));
    ring.is_stored(&key.id, &rest(None).unwrap());
    let both = Key { expires_at: Some(NOW), suspension: rest(None), ..key.clone() };
    ring.put(both);
    assert_eq!(ring.still_admits(&key, NOW), Err(Refusal::Suspended(None)), "an expiry hides that it rests");
    ring.put(Key { suspension: rest(Some(NOW)), ..key.clone() });
    assert_eq!(ring.still_admits(&key, NOW), Ok(()), "a rest that is over still counts");
    assert!(news.has_changed().unwrap());
    ring.remove(&key.id);
    assert_eq!(ring.still_admits(&key, NOW), Err(Refusal::Unknown));
}

#[test]
fn a_suspension_lies_over_whatever_is_read_until_the_store_has_it_or_an_operator_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let (ring, hash_key) = ring();
    let (key, token) = make(&hash_key);
    let until = |ring: &Ring| match ring.admit(&token, None, NOW) {
        Err(Refusal::Suspended(until)) => Some(until),
        other => other.map(|_| None).unwrap(),
    };
    let rest = |end: Option<i64>| Suspension { until: end.map(Timestamp), reason: "odd".into() };
    ring.keep_suspensions_in(folder.path()).unwrap();
    ring.put(key.clone());
    ring.suspend(&key.id, rest(Some(3_000_000))).unwrap();
    // Neither a write of this process nor a reading of all ends it, nor a shorter one.
    ring.put(key.clone());
    assert_eq!(until(&ring), Some(Some(Timestamp(3_000_000))));
    ring.replace_all(vec![Arc::new(key.clone())], None);
    ring.suspend(&key.id, rest(Some(2_000_000))).unwrap();
    assert_eq!(until(&ring), Some(Some(Timestamp(3_000_000))));
    // The store may know of a longer one already.
    ring.put(Key { suspension: Some(rest(None)), ..key.clone() });
    assert_eq!(until(&ring), Some(None));
    ring.put(key.clone());
    // The next process finds it, whether its keys were read before or after.
    for keys_first in [true, false] {
        let next = Ring::new(hash_key.clone());
        if keys_first {
            next.replace_all(vec![Arc::new(key.clone())], None);
        }
        next.keep_suspensions_in(folder.path()).unwrap();
        next.replace_all(vec![Arc::new(key.clone())], None);
        assert_eq!(until(&next), Some(Some(Timestamp(3_000_000))));
        assert_eq!(next.unstored().len(), 1);
    }
    ring.is_stored(&key.id, &rest(None));
    assert_eq!(ring.unstored().len(), 1, "another one was stored");
    ring.is_stored(&key.id, &rest(Some(3_000_000)));
    assert_eq!(ring.unstored(), []);
    ring.put(key.clone());
    assert_eq!(until(&ring), None);
    ring.suspend(&key.id, rest(None)).unwrap();
    ring.release(key.clone());
    assert_eq!((until(&ring), ring.unstored()), (None, Vec::new()));
    let next = Ring::new(hash_key.clone());
    next.keep_suspensions_in(folder.path()).unwrap();
    assert_eq!(next.unstored(), []);
}

#[test]
fn a_suspension_that_a_full_disk_did_not_take_is_written_once_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let rests = folder.path().join("rests");
    let (ring, hash_key) = ring();
    let (key, _) = make(&hash_key);
    ring.put(key.clone());
    ring.keep_suspensions_in(&rests).unwrap();
    // A folder that is gone stands for a disk that takes nothing.
    std::fs::remove_dir(&rests).unwrap();
    ring.suspend(&key.id, Suspension { until: None, reason: "odd".into() }).unwrap_err();
    ring.write_lacking_suspensions().unwrap_err();
    std::fs::create_dir(&rests).unwrap();
    ring.write_lacking_suspensions().unwrap();
    let next = Ring::new(hash_key);
    next.keep_suspensions_in(&rests).unwrap();
    assert_eq!(next.unstored(), ring.unstored());
    assert_eq!(next.unstored().len(), 1);
}

#[tokio::test]
async fn all_keys_are_read_only_where_what_changed_cannot_be_told() {
    let (ring, hash_key) = ring();
    let (key, token) = make(&hash_key);
    let (generation, reads) = (AtomicU64::new(4), AtomicU64::default());
    let store = Counted { key, generation, reads, overtaken: None };
    let at = async |generation: u64| {
        store.generation.store(generation, Ordering::Relaxed);
        let before = store.reads.load(Ordering::Relaxed);
        assert_eq!(ring.refresh(&store).await.unwrap(), generation);
        assert!(ring.admit(&token, None, NOW).is_ok());
        store.reads.load(Ordering::Relaxed) > before
    };
    assert!(at(4).await, "nothing was read before");
    assert!(at(6).await, "the store does not know any more");
    assert!(!at(7).await && !at(7).await && !at(9).await);
    assert!(at(8).await, "the store went back in time");
    assert!(!at(9).await);
    ring.set_stale(true);
    ring.set_stale(false);
    assert!(at(10).await, "the store was away");
    ring.replace_all(Vec::new(), None);
    assert!(at(11).await, "what was put in place is of no generation");
    ring.replace_all(Vec::new(), Some(11));
    assert!(!at(11).await, "what was read with its generation is not read twice");
    for number in 0..100 {
        ring.remove(&format!("key_{number}"));
    }
    assert!(ring.is_in_doubt());
    assert!(at(12).await, "so much was changed here that looking it up would cost more");
    assert!(!ring.is_in_doubt() && !at(13).await);
}
