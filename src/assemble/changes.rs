//! What a reload changes: what the file says, and what the files, variables and references in it lead to.
//!
//! A reference that stayed as it was may lead to something else than before: another secret, another list of prices, other
//! policies. That counts as a change like one of the file itself, and is named by its key. What is compared is what was loaded
//! and is in force, never a file as it is now. No name holds anything of a secret.

use std::collections::BTreeMap;

use crate::config::PermitFiles;
use crate::config::load::{Loaded, Webhook};
use crate::config::reload::{changed, looked_up, restart_needed};
use crate::pipeline::Live;
use crate::provider::Provider;
use crate::provider::config::ProviderConfig;

/// What a reload changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Key paths: the sections and providers that the file writes otherwise, and then the keys that lead to something else
    /// although they are written as before.
    pub paths: Vec<String>,
    /// Of which providers other content is in force, and behind which of their keys.
    pub providers: BTreeMap<String, Vec<&'static str>>,
    /// Whether the file of prices holds others.
    pub prices: bool,
}

/// A configuration, and what was made of it.
pub type Side<'a> = (&'a Loaded, &'a Live);

/// Compares what is in force with what comes.
pub fn between(before: Side<'_>, after: Side<'_>) -> Changes {
    let (old, new) = (&before.0.config, &after.0.config);
    let mut paths = changed(old, new);
    let written = restart_needed(old, new);
    let waiting = looked_up(before.0, after.0).into_iter().filter(|key| !written.contains(key));
    paths.extend(waiting.map(str::to_owned));
    let prices = old.prices.overlay == new.prices.overlay && !before.1.catalog.has_file_of(&after.1.catalog);
    let places = old.kavach.drift.geo == new.kavach.drift.geo
        && old.kavach.drift.geo_database == new.kavach.drift.geo_database
        && before.1.places != after.1.places;
    let policy = old.kavach.policy == new.kavach.policy && before.1.gate.set_hash() != after.1.gate.set_hash();
    let keys = [("prices.overlay", prices), ("kavach.policy", policy), ("kavach.drift.geo_database", places)];
    let keys = keys.into_iter().chain(permits(before.0, after.0)).chain(webhook(before.0, after.0));
    paths.extend(keys.filter(|(_, differs)| *differs).map(|(key, _)| key.to_owned()));
    let providers = providers(before, after);
    paths.extend(
        providers.iter().flat_map(|(name, keys)| keys.iter().map(move |key| format!("providers.{name}.{key}"))),
    );
    Changes { paths, providers, prices }
}

fn permits(before: &Loaded, after: &Loaded) -> [(&'static str, bool); 2] {
    let (old, new) = (&before.config.kavach.permits, &after.config.kavach.permits);
    let PermitFiles { key, extra } = &after.permits;
    [
        ("kavach.permits.key", old.key == new.key && before.permits.key != *key),
        ("kavach.permits.extra_keys", old.extra_keys == new.extra_keys && before.permits.extra != *extra),
    ]
}

fn webhook(before: &Loaded, after: &Loaded) -> [(&'static str, bool); 2] {
    let (old, new) = (&before.config.budget, &after.config.budget);
    let url = |loaded: &Loaded| loaded.webhook.as_ref().map(|webhook: &Webhook| webhook.url.clone());
    let secret = |loaded: &Loaded| loaded.webhook.as_ref().and_then(|webhook| webhook.secret.clone());
    let same_url = old.webhook_url == new.webhook_url;
    [
        ("budget.webhook_url", same_url && url(before) != url(after)),
        // Without a URL nobody looks the secret up.
        (
            "budget.webhook_secret",
            same_url && old.webhook_secret == new.webhook_secret && secret(before) != secret(after),
        ),
    ]
}

/// The keys of providers that are written as before and lead to something else.
fn providers((before, old): Side<'_>, (after, new): Side<'_>) -> BTreeMap<String, Vec<&'static str>> {
    let mut found = BTreeMap::new();
    for (name, written) in &after.config.providers {
        let Some(was) = before.config.providers.get(name) else { continue };
        let (Some(one), Some(other)) = (old.providers.get(name.as_str()), new.providers.get(name.as_str())) else {
            // What a disabled provider refers to may be absent.
            if old.providers.contains_key(name.as_str()) != new.providers.contains_key(name.as_str())
                && was.base_url == written.base_url
            {
                found.insert(name.clone(), vec!["base_url"]);
            }
            continue;
        };
        let keys = keys((was, one), (written, other));
        if !keys.is_empty() {
            found.insert(name.clone(), keys);
        }
    }
    found
}

fn keys((was, old): (&ProviderConfig, &Provider), (written, new): (&ProviderConfig, &Provider)) -> Vec<&'static str> {
    let (one, other) = (&old.settings, &new.settings);
    let same_place = was.preset == written.preset && was.base_url == written.base_url;
    let keys = [
        ("base_url", same_place && one.base_url != other.base_url),
        ("credentials", was.credentials == written.credentials && one.credentials != other.credentials),
        ("headers", was.headers == written.headers && one.headers != other.headers),
        (
            "ca_file",
            was.ca_file == written.ca_file && was.http == written.http && !old.transport.is_like(&new.transport),
        ),
    ];
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}
