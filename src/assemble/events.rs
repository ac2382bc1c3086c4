//! What the gateway itself notes for the audit log: that it starts and stops, and what a reload changes.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::assemble::Source;
use crate::assemble::audit::Keeper;
use crate::assemble::changes::Changes;
use crate::audit::merkle::sha256;
use crate::audit::texts::Texts;
use crate::config::{AuditMode, Config};
use crate::ledger::{Journal, Line};
use crate::pipeline::Gateway;
use crate::route::config::RouteConfig;
use crate::route::name_of;
use crate::unit::event;

/// Writes something that the gateway did to the journal, from where it goes to the log.
fn note(journal: &Journal, event: event::Event) {
    if let Err(error) = journal.append_or_keep(Line::Event(event)) {
        tracing::error!(%error, "an event of the gateway could not be written down; it is tried again");
    }
}

/// Notes that the process started, and with what; and lets exchanges in as the log stands.
pub fn begin(gateway: &Gateway, source: &Source, config: &Config, keeper: Option<&Keeper>) {
    if let Some(keeper) = keeper {
        gateway.audit.keep_texts(Texts::of(keeper.folder()));
        gateway.audit.set(true, config.audit.mode == AuditMode::Enforce && keeper.fails());
    }
    let journal = &gateway.journal;
    let detail = json!({
        "version": crate::unit::version::VERSION, "config_sha256": config_hash(source), "process": journal.owner(),
        "audit_mode": config.audit.mode.name(), "kavach_mode": config.kavach.mode.name(),
    });
    note(journal, event::Event::of_gateway("start", detail));
}

/// Notes that the process stops.
pub fn note_stop(journal: &Journal) {
    note(journal, event::Event::of_gateway("stop", json!({"process": journal.owner()})));
}

/// Notes that another configuration is in force, or other content behind its references, and each part and mode that it changed.
pub fn note_reload(
    journal: &Journal,
    (source, actor): (&Source, &str),
    (before, after): (&Config, &Config),
    changes: &Changes,
) {
    if changes.paths.is_empty() {
        return;
    }
    let tell = |noun: &str, subject: Option<String>, verb: &str, detail: serde_json::Value| {
        let event = event::Event::of_gateway(verb, detail);
        note(journal, event::Event { noun: noun.to_owned(), subject, actor: actor.into(), ..event });
    };
    tell("config", None, "reload", json!({"changed": changes.paths, "config_sha256": config_hash(source)}));
    for (noun, subject, verb, detail) in parts(before, after, changes) {
        tell(noun, Some(subject), verb, detail);
    }
    let modes = [
        ("audit", before.audit.mode.name(), after.audit.mode.name()),
        ("kavach", before.kavach.mode.name(), after.kavach.mode.name()),
    ];
    for (subject, from, to) in modes.into_iter().filter(|(_, from, to)| from != to) {
        tell("mode", Some(subject.to_owned()), "change", json!({"from": from, "to": to}));
    }
}

/// A noun, its name, a verb, and what more there is to tell.
type Part = (&'static str, String, &'static str, serde_json::Value);

/// Which providers, routes, limits and prices came, went or changed, in the file or behind its references.
fn parts(before: &Config, after: &Config, changes: &Changes) -> Vec<Part> {
    let providers = |config: &Config| config.providers.clone();
    let named = |(place, route): (usize, &RouteConfig)| (name_of(route, place), route.clone());
    let routes = |config: &Config| config.routes.iter().enumerate().map(named).collect();
    let limits = |config: &Config| config.limits.iter().map(|limit| (limit.id.to_string(), limit.clone())).collect();
    let mut parts = Vec::new();
    parts.extend(differences("provider", &providers(before), &providers(after)));
    for (name, keys) in &changes.providers {
        let detail = json!({ "changed": keys });
        match parts.iter_mut().find(|(_, known, ..)| known == name) {
            Some(part) => part.3 = detail,
            None => parts.push(("provider", name.clone(), "update", detail)),
        }
    }
    parts.extend(differences("route", &routes(before), &routes(after)));
    parts.extend(differences("limit", &limits(before), &limits(after)));
    if before.prices != after.prices || changes.prices {
        let hash = after.prices.overlay.as_deref().and_then(hash_of);
        parts.push(("price", "prices".to_owned(), "update", json!({ "overlay_sha256": hash })));
    }
    parts
}

fn differences<T: PartialEq>(
    noun: &'static str,
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
) -> Vec<Part> {
    let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| (name, "delete"));
    let rest = after.iter().filter_map(|(name, now)| match before.get(name) {
        None => Some((name, "create")),
        Some(old) if old != now => Some((name, "update")),
        Some(_) => None,
    });
    gone.chain(rest).map(|(name, verb)| (noun, name.clone(), verb, serde_json::Value::Null)).collect()
}

/// What `sha256sum` says of the configuration file; `None` if there is none.
fn config_hash(source: &Source) -> Option<String> {
    let Source::File(path) = source else { return None };
    hash_of(path)
}

fn hash_of(path: &Path) -> Option<String> {
    std::fs::read(path).ok().map(|bytes| sha256(&[&bytes]).hex())
}
