//! Every org, team and user that has a row, in memory: what admission asks of them costs three look-ups at most.
//!
//! Readers take no lock: the maps are immutable behind an atomic pointer, and a change copies them, since parties change
//! rarely. A name without a row refuses nothing and caps nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::Principal;
use super::news::News;
use super::party::{Party, PartyKind, PartyStore, RequestCaps};
use crate::error::StoreError;
use crate::unit::glob::Glob;

/// All parties by name, one map for each kind, in the order of [`PartyKind::ALL`].
#[derive(Clone, Debug, Default)]
struct Maps([HashMap<Arc<str>, Arc<Party>>; 3]);

impl Maps {
    fn of(&self, kind: PartyKind) -> &HashMap<Arc<str>, Arc<Party>> {
        let [orgs, teams, users] = &self.0;
        match kind {
            PartyKind::Org => orgs,
            PartyKind::Team => teams,
            PartyKind::User => users,
        }
    }

    fn of_mut(&mut self, kind: PartyKind) -> &mut HashMap<Arc<str>, Arc<Party>> {
        let [orgs, teams, users] = &mut self.0;
        match kind {
            PartyKind::Org => orgs,
            PartyKind::Team => teams,
            PartyKind::User => users,
        }
    }

    /// The rows of those whom a principal names, the widest first.
    fn named<'a>(&'a self, principal: &'a Principal) -> impl Iterator<Item = &'a Arc<Party>> {
        PartyKind::ALL.into_iter().filter_map(move |kind| self.of(kind).get(principal.party(kind)?))
    }
}

/// All parties that have a row.
#[derive(Debug, Default)]
pub struct Parties {
    maps: ArcSwap<Maps>,
    /// Counts single changes, so that a refresh notices one that it has not seen.
    changes: Mutex<u64>,
    news: News,
}

impl Parties {
    /// Where changes of parties are told.
    pub(super) fn news(&self) -> &News {
        &self.news
    }

    /// The kind of the first of a principal's parties that is switched off, the widest first.
    pub fn refuses(&self, principal: &Principal) -> Option<PartyKind> {
        self.maps.load().named(principal).find(|party| !party.enabled).map(|party| party.kind)
    }

    /// Whether every party of a principal allows that model. An empty list allows all.
    pub fn allows_model(&self, principal: &Principal, model: &str) -> bool {
        self.maps
            .load()
            .named(principal)
            .all(|party| party.models.is_empty() || party.models.iter().any(|pattern| pattern.matches(model)))
    }

    /// Whether a party of a principal leaves any model out.
    pub fn restricts_models(&self, principal: &Principal) -> bool {
        self.maps.load().named(principal).any(|party| leaves_out(&party.models))
    }

    /// The caps on a single request of a key: the smallest of its own and those of its parties.
    pub fn caps(&self, principal: &Principal, own: RequestCaps) -> RequestCaps {
        self.maps.load().named(principal).fold(own, |caps, party| caps.smallest(party.caps))
    }

    /// The row of that name, if it has one.
    pub fn get(&self, kind: PartyKind, name: &str) -> Option<Arc<Party>> {
        self.maps.load().of(kind).get(name).cloned()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.maps.load().0.iter().map(HashMap::len).sum()
    }

    /// Whether there is no row at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads all parties from the store. A [`Parties::put`] or [`Parties::remove`] that happens meanwhile is not undone.
    ///
    /// # Errors
    /// Those of the store, and [`StoreError::Conflict`] when changes in this process never paused; all stays as it was.
    pub async fn refresh(&self, store: &dyn PartyStore) -> Result<(), StoreError> {
        for _ in 0..16 {
            let seen = *self.writer();
            let parties = store.list(None).await?;
            let writer = self.writer();
            if *writer == seen {
                self.install(parties);
                return Ok(());
            }
        }
        Err(StoreError::Conflict("the parties change too fast to be read".into()))
    }

    /// Replaces all parties.
    pub fn replace_all(&self, parties: Vec<Party>) {
        let _alone = self.writer();
        self.install(parties);
    }

    /// Adds a party, or replaces the one of its name, at once. Call it after the store has taken it.
    pub fn put(&self, party: Party) {
        self.change(|maps| drop(maps.of_mut(party.kind).insert(party.name.clone(), Arc::new(party))));
    }

    /// Removes a party at once. Call it after the store has removed it.
    pub fn remove(&self, kind: PartyKind, name: &str) {
        self.change(|maps| drop(maps.of_mut(kind).remove(name)));
    }

    fn install(&self, parties: Vec<Party>) {
        let mut maps = Maps::default();
        for party in parties {
            maps.of_mut(party.kind).insert(party.name.clone(), Arc::new(party));
        }
        self.maps.store(Arc::new(maps));
        self.news.tell();
    }

    fn change(&self, change: impl FnOnce(&mut Maps)) {
        let mut changes = self.writer();
        *changes += 1;
        let mut maps = Maps::clone(&self.maps.load());
        change(&mut maps);
        self.maps.store(Arc::new(maps));
        self.news.tell();
    }

    fn writer(&self) -> MutexGuard<'_, u64> {
        // A panic cannot leave the maps half changed: they are swapped as a whole.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a list of models leaves any out: an empty one allows all, as one with a lone star does.
pub(super) fn leaves_out(models: &[Glob]) -> bool {
    !models.is_empty() && models.iter().all(|pattern| pattern.as_str() != "*")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::clock::Timestamp;

    fn party(kind: PartyKind, name: &str) -> Party {
        let now = Timestamp(1);
        Party {
            kind,
            name: name.into(),
            org: None,
            team: None,
            description: String::new(),
            labels: Default::default(),
            models: Vec::new(),
            caps: RequestCaps::NONE,
            enabled: true,
            created_at: now,
            updated_at: now,
        }
    }

    fn principal() -> Principal {
        Principal { org: Some("acme".into()), team: Some("web".into()), user: Some("ann".into()) }
    }

    #[test]
    fn a_name_without_a_row_refuses_and_caps_nothing() {
        let parties = Parties::default();
        assert_eq!(parties.refuses(&principal()), None);
        assert!(parties.allows_model(&principal(), "gpt-4o"));
        let own = RequestCaps { max_input_tokens: Some(7), max_output_tokens: None };
        assert_eq!(parties.caps(&principal(), own), own);
    }

    #[test]
    fn a_party_that_is_switched_off_refuses_its_keys_and_no_others() {
        let parties = Parties::default();
        parties.put(Party { enabled: false, ..party(PartyKind::Team, "web") });
        assert_eq!(parties.refuses(&principal()), Some(PartyKind::Team));
        assert_eq!(parties.refuses(&Principal { team: Some("ops".into()), ..principal() }), None);
        // The same name of another kind is another party.
        assert_eq!(parties.refuses(&Principal { team: None, user: Some("web".into()), ..principal() }), None);
        parties.remove(PartyKind::Team, "web");
        assert_eq!(parties.refuses(&principal()), None);
    }

    #[test]
    fn the_smallest_cap_counts_and_every_party_must_allow_a_model() {
        let parties = Parties::default();
        let caps = |input, output| RequestCaps { max_input_tokens: input, max_output_tokens: output };
        parties.put(Party { caps: caps(Some(100), Some(50)), ..party(PartyKind::Org, "acme") });
        parties.put(Party {
            caps: caps(Some(200), Some(20)),
            models: vec![Glob::new("gpt-*").unwrap()],
            ..party(PartyKind::User, "ann")
        });
        assert_eq!(parties.caps(&principal(), caps(None, Some(30))), caps(Some(100), Some(20)));
        assert!(parties.allows_model(&principal(), "gpt-4o") && !parties.allows_model(&principal(), "claude"));
    }
}
