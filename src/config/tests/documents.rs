//! What is written for users agrees with what Marg does.

use std::collections::BTreeMap;

use super::super::keys::{Bounds, KEYS};
use super::super::problem::Report;
use super::super::tree::{self, Node, Value};
use super::super::{Config, load};
use crate::dialect::CeilingField;
use crate::provider::config::{Auth, ProviderConfig, UrlRef};
use crate::provider::preset::{BaseUrl, Preset, TABLE};
use crate::unit::secret::SecretRef;

const EXAMPLE: &str = include_str!("../../../conf/marg.yaml");
const PROVIDERS: &str = include_str!("../../../conf/example-providers.yaml");
const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

/// The example with its optional keys switched on: lines that begin with `#` and an even number of blanks; prose has one
/// blank, or three.
fn switched_on() -> String {
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(rest) if rest.bytes().take_while(|byte| *byte == b' ').count() % 2 == 0 => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every key of a text, in the form of `KEYS`, with its value if that is a single one.
fn keys_of(text: &str) -> BTreeMap<String, String> {
    let mut report = Report::new("");
    let node = tree::read(text, &mut report).unwrap();
    assert_eq!(report.finish(), Ok(Vec::new()));
    let mut keys = BTreeMap::new();
    collect(&node, "", &mut keys);
    keys
}

fn collect(node: &Node, path: &str, keys: &mut BTreeMap<String, String>) {
    let text = match &node.value {
        Value::Scalar { text, .. } => text.clone(),
        Value::List(items) => {
            items.iter().for_each(|item| collect(item, &format!("{path}[]"), keys));
            if items.is_empty() { "[]".to_owned() } else { String::new() }
        }
        Value::Map { entries, .. } => {
            for (name, value) in entries {
                let name = if path == "providers" { "*" } else { &name.text };
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                collect(value, &path, keys);
            }
            if entries.is_empty() { "{}".to_owned() } else { String::new() }
        }
    };
    keys.entry(path.to_owned()).or_insert(text);
}

#[test]
fn the_annotated_example_equals_the_defaults() {
    assert_eq!(load::parse(EXAMPLE, "conf/marg.yaml"), Ok(Config::default()));
}

#[test]
fn the_annotated_example_holds_every_key_once_switched_on() {
    let keys = keys_of(&switched_on());
    for key in KEYS {
        assert!(keys.contains_key(key.path), "conf/marg.yaml lacks {}", key.path);
    }
    let config = load::parse(&switched_on(), "conf/marg.yaml").unwrap();
    assert!(config.server.tls.is_some() && config.keys.hash_key.is_some() && config.prices.overlay.is_some());
    let shown = ProviderConfig {
        preset: Preset::named("openai"),
        base_url: Some(UrlRef::Bare("https://api.openai.com/v1".to_owned())),
        credentials: vec![SecretRef::Env("OPENAI_API_KEY".to_owned())],
        auth: Some(Auth::Bearer),
        ca_file: Some("/etc/marg/tls/company-ca.pem".into()),
        price_provider: Some("openai".to_owned()),
        region: Some("eu".to_owned()),
        stream_usage: Some(true),
        output_ceiling: Some(CeilingField::MaxTokens),
        ..ProviderConfig::default()
    };
    assert_eq!(config.providers["openai"], shown, "every other key shows its default");
}

#[test]
fn the_annotated_example_marks_the_keys_that_need_a_restart() {
    let mut marked: Vec<&str> = Vec::new();
    let (mut restart, mut comment) = (false, false);
    for line in EXAMPLE.lines() {
        let bare = line.trim_start_matches(['#', ' ']);
        let prose = line.trim_start().starts_with("# ") && !line.starts_with("#  ") || line.trim().is_empty();
        if prose {
            restart = line.contains("(restart)") || (comment && restart && !line.trim().is_empty());
        } else if let Some((name, _)) = bare.split_once(':').filter(|_| restart) {
            marked.push(name);
        }
        comment = prose;
    }
    let restarts: Vec<&str> =
        KEYS.iter().filter(|key| key.restart).filter_map(|key| key.path.rsplit('.').next()).collect();
    let marked: Vec<&str> = marked.into_iter().filter(|name| *name != "tls").collect();
    assert_eq!(marked, restarts);
}

#[test]
fn the_example_of_providers_loads_without_a_warning() {
    let environment = |name: &str| name.contains("_API_KEY").then(|| format!("value-of-{name}").into());
    let loaded = load::load_text(PROVIDERS, "conf/example-providers.yaml", &environment).unwrap();
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.providers.len(), 4);
    let missing = load::load_text(PROVIDERS, "conf/example-providers.yaml", &|_| None).unwrap_err();
    assert_eq!(missing.len(), 4, "{missing:?}");
}

#[test]
fn the_document_tells_every_key_with_bounds_default_and_reload() {
    let defaults = keys_of(EXAMPLE);
    for key in KEYS {
        let begins = format!("| `{}` |", key.path);
        let rows: Vec<&str> = DOCUMENT.lines().filter(|line| line.starts_with(&begins)).collect();
        let [row] = rows[..] else { panic!("docs/configuration.md has {} rows for {}", rows.len(), key.path) };
        let bounds = match key.bounds {
            Bounds::Free => "–".to_owned(),
            Bounds::Number(least, most) => format!("{least} to {most}"),
            Bounds::Items(most) => format!("at most {most}"),
        };
        let applied = if key.restart { "restart" } else { "reload" };
        assert!(row.contains(&format!("| {bounds} | {applied} |")), "{row}");
        if let Some(default) = defaults.get(key.path) {
            assert!(row.contains(&format!("| `{default}` |")), "{row} should say {default}");
        }
    }
}

#[test]
fn the_document_lists_every_preset_as_it_is() {
    for row in TABLE {
        let (BaseUrl::Known(url) | BaseUrl::Given(url)) = row.base_url;
        let line = DOCUMENT.lines().find(|line| line.starts_with(&format!("| `{}` |", row.name)));
        let line = line.unwrap_or_else(|| panic!("docs/configuration.md lacks the preset {}", row.name));
        let quoted = |text: &str| format!("`{text}`");
        let mut parts: Vec<String> = row.aliases.iter().map(|alias| quoted(alias)).collect();
        parts.extend([quoted(url), row.key_variable.map_or("none needed".to_owned(), quoted)]);
        parts.push(row.price_provider.map_or("–".to_owned(), quoted));
        parts.push(format!("| {} |", if row.stream_usage { "yes" } else { "no" }));
        for part in parts {
            assert!(line.contains(&part), "{line} should say {part}");
        }
    }
}
