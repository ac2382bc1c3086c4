//! What routes must keep to: targets that exist and serve the model, and no route that an earlier one hides.

use std::collections::{BTreeMap, HashMap};

use crate::config::problem::Report;
use crate::config::{Config, suggest};
use crate::provider::config::ProviderConfig;
use crate::route::config::{RouteConfig, RouteMatch, TargetConfig};
use crate::unit::glob::Glob;

/// The longest name of a route, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Notes every fault and every oddity of the routes and the default provider.
pub(super) fn check(config: &Config, report: &mut Report) {
    default_provider(config, report);
    let paths = report.items("routes", config.routes.len());
    let routes: Vec<(&str, &RouteConfig)> = paths.iter().map(String::as_str).zip(&config.routes).collect();
    let mut names: HashMap<&str, &str> = HashMap::new();
    for (index, (path, route)) in routes.iter().enumerate() {
        if let Some(name) = route.name.as_deref() {
            self::name(path, name, report);
            if let Some(first) = names.insert(name, path) {
                report.error(&format!("{path}.name"), format!("{first} has this name already; choose another"));
            }
        }
        shape(path, route, report);
        targets(path, route, &config.providers, report);
        if !report.is_faulty(&format!("{path}.match"))
            && let Some((earlier, before)) = routes
                .iter()
                .take(index)
                .find(|(earlier, before)| !report.is_faulty(earlier) && covers(&before.matches, &route.matches))
        {
            let line = report.line(earlier);
            let called = before.name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
            report.error(
                path,
                format!("this route can never match: {earlier}{called} in line {line} takes all its calls first; put this one before it, or remove it"),
            );
        }
    }
}

fn default_provider(config: &Config, report: &mut Report) {
    let Some(name) = config.default_provider.as_deref() else {
        if !config.providers.is_empty() && config.routes.is_empty() {
            report.warn(
                "providers",
                "there are neither routes nor a default_provider, so every model is refused until routes are stored",
            );
        }
        return;
    };
    match config.providers.get(name) {
        Some(provider) if !provider.enabled => {
            report.warn("default_provider", format!("the provider {name:?} is not enabled, so nothing is sent to it"));
        }
        Some(_) => {}
        None => unknown_provider("default_provider", name, &config.providers, report),
    }
}

fn name(path: &str, name: &str, report: &mut Report) {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        report.error(&format!("{path}.name"), "a route's name has 1 to 64 bytes and no control characters");
    }
}

fn shape(path: &str, route: &RouteConfig, report: &mut Report) {
    match (&route.to, route.split.as_slice()) {
        (None, []) => report.error(path, "a route needs `to` or `split`"),
        (Some(_), [_, ..]) => {
            report.error(&format!("{path}.split"), "a route has `to` or `split`, not both; remove one of them");
        }
        (None, sides) if sides.iter().all(|side| side.weight == 0) => {
            report.error(&format!("{path}.split"), "every weight is 0; at least one side needs more");
        }
        _ => {}
    }
}

/// Checks every target by itself, and that none is there twice: among the sides of a split, or in `to` and `fallback`.
fn targets(path: &str, route: &RouteConfig, providers: &BTreeMap<String, ProviderConfig>, report: &mut Report) {
    let mut sides: Vec<(String, &TargetConfig)> = Vec::new();
    for (item, side) in report.items(&format!("{path}.split"), route.split.len()).iter().zip(&route.split) {
        sides.push((format!("{item}.to"), &side.to));
    }
    let mut chain: Vec<(String, &TargetConfig)> = Vec::new();
    chain.extend(route.to.as_ref().map(|to| (format!("{path}.to"), to)));
    chain.extend(report.items(&format!("{path}.fallback"), route.fallback.len()).into_iter().zip(&route.fallback));
    for list in [&sides, &chain] {
        for (index, (at, target)) in list.iter().enumerate() {
            if let Some((first, _)) = list.iter().take(index).find(|(_, before)| before == target) {
                report.error(at, format!("{target} is already at {first}; a target is tried once, remove one of them"));
            }
            self::target(at, target, route.matches.model.as_ref(), providers, report);
        }
    }
}

fn target(
    path: &str,
    target: &TargetConfig,
    asked: Option<&Glob>,
    providers: &BTreeMap<String, ProviderConfig>,
    report: &mut Report,
) {
    let Some(provider) = providers.get(&target.provider) else {
        unknown_provider(path, &target.provider, providers, report);
        return;
    };
    if !provider.enabled {
        report.warn(path, format!("the provider {:?} is not enabled, so this target is skipped", target.provider));
    }
    // Without a model of its own the target serves the one that the caller names, which a literal pattern makes known.
    let model = target.model.as_deref().or(asked.filter(|glob| glob.is_literal()).map(Glob::as_str));
    if let Some(model) = model
        && !provider.models.is_empty()
        && !provider.models.iter().any(|glob| glob.matches(model))
    {
        let name = &target.provider;
        report.error(path, format!("the provider {name:?} does not serve {model:?}; it is not among its `models`"));
    }
}

fn unknown_provider(path: &str, name: &str, providers: &BTreeMap<String, ProviderConfig>, report: &mut Report) {
    if report.is_faulty("providers") && providers.is_empty() {
        return;
    }
    let names: Vec<&str> = providers.keys().map(String::as_str).collect();
    let shown = suggest::shorten(name);
    let text = match suggest::nearest(name, &names) {
        Some(near) => format!("there is no provider {shown:?}; did you mean {near:?}?"),
        None if names.is_empty() => format!("there is no provider {shown:?}; `providers` is empty"),
        None => {
            let known: Vec<&str> = names.iter().copied().take(10).collect();
            format!("there is no provider {shown:?}; there are {}", suggest::shorten_to(&known.join(", "), 200))
        }
    };
    report.error(path, text);
}

/// Whether one match certainly takes every call that the other one takes. A pattern never takes a call without that part,
/// so it does not cover a match that leaves the part out.
fn covers(this: &RouteMatch, other: &RouteMatch) -> bool {
    let part = |this: &Option<Glob>, other: &Option<Glob>| match (this, other) {
        (None, _) => true,
        (Some(this), Some(other)) => this.covers(other),
        (Some(_), None) => false,
    };
    let RouteMatch { model, team } = this;
    part(model, &other.model) && part(team, &other.team)
}
