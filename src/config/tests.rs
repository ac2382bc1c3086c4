//! Behaviour of loading as a whole: text in, faults or settings out.

use std::ffi::OsString;
use std::path::Path;

use proptest::prelude::*;

use super::keys::{Bounds, KEYS};
use super::load::{self, Loaded};
use super::problem::Problem;
use super::*;
use crate::provider::config::{Auth, HttpVersion};
use crate::provider::preset::{BaseUrl, TABLE};

mod budget;
mod demo;
mod documents;
mod parts;
mod reloading;
mod text;
mod values;

/// The environment of these tests. Each value holds the word `hidden`, so that a leak is seen.
fn environment(name: &str) -> Option<OsString> {
    let value = match name {
        "A_KEY" => "hidden-a".to_owned(),
        "B_KEY" => "hidden-b".to_owned(),
        "A_URL" => "https://hidden.example/v1/".to_owned(),
        "BAD_URL" => "https://user:hidden@a.example".to_owned(),
        "BAD_KEY" => "hidden key".to_owned(),
        "BAD_HEADER" => "hidden\u{e9}".to_owned(),
        "EMPTY" => String::new(),
        "HEX" => "0f".repeat(32),
        _ => return None,
    };
    Some(value.into())
}

fn load(yaml: &str) -> Result<Loaded, Vec<Problem>> {
    load::load_text(yaml, "marg.yaml", &environment)
}

/// Every fault as `line:column: path: text`.
fn check(yaml: &str) -> Vec<String> {
    lines(&load(yaml).err().unwrap_or_default())
}

fn warnings(yaml: &str) -> Vec<String> {
    match load(yaml) {
        Ok(loaded) => lines(&loaded.warnings),
        Err(problems) => panic!("{problems:?}"),
    }
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(|problem| problem.to_string().trim_start_matches("marg.yaml:").to_owned()).collect()
}

/// Asserts that a text has exactly one fault, which begins and goes on as given.
#[track_caller]
fn refuses(yaml: &str, begins: &str, contains: &str) {
    let faults = check(yaml);
    assert_eq!(faults.len(), 1, "{yaml}\n{faults:#?}");
    assert!(faults[0].starts_with(begins) && faults[0].contains(contains), "{yaml}\n{faults:#?}");
}

const A: &str = "providers: {a: {base_url: 'https://a.example/v1'}, b: {preset: openai, credentials: ['env:B_KEY']}}\n";

/// A file that sets one key.
fn with(path: &str, value: &str) -> String {
    if let Some(name) = path.strip_prefix("providers.*.") {
        return format!("providers: {{a: {{base_url: 'http://a', {name}: {value}}}}}");
    }
    if path == "routes[].split[].weight" {
        return format!("{A}routes: [{{split: [{{to: a, weight: 1}}, {{to: b, weight: {value}}}]}}]");
    }
    if let Some(name) = path.strip_prefix("limits[].") {
        return limit_with(name, value);
    }
    let mut names: Vec<&str> = path.split('.').collect();
    let last = format!("{}: {value}", names.pop().unwrap());
    names.iter().rev().fold(last, |inner, section| format!("{section}: {{{inner}}}"))
}

/// A file with a limit that sets one key, and those without which there is no limit.
fn limit_with(name: &str, value: &str) -> String {
    let required = [("scope", "gateway"), ("unit", "requests"), ("window", "minute"), ("amount", "5")];
    let rest = required.iter().filter(|(key, _)| *key != name).map(|(key, value)| format!(", {key}: {value}"));
    format!("limits: [{{{name}: {value}{}}}]", rest.collect::<String>())
}

#[test]
fn ten_faults_of_one_file_are_reported_at_once_with_their_positions() {
    let yaml = "\
server:
  listen: localhost
  max_body_bytes: 10
  threds: 4
log:
  level: verbose
  level: info
providers:
  a:
    base_url: https://a.example/v1?key=x
    credentials: [sk-hidden, 'env:NOPE']
  b:
    preset: opnai
    models: [\"\"]
    first_byte_timeout_ms: 10s
routes:
  - to: c
  - match: {model: x}
    enabled: yes
";
    let places: Vec<String> = check(yaml)
        .iter()
        .map(|line| line.splitn(4, ':').take(3).map(str::trim).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        places,
        [
            "2 11 server.listen",
            "3 19 server.max_body_bytes",
            "4 3 server.threds",
            "6 10 log.level",
            "7 3 log.level",
            "10 15 providers.a.base_url",
            "11 19 providers.a.credentials[0]",
            "11 30 providers.a.credentials[1]",
            "13 13 providers.b.preset",
            "14 14 providers.b.models[0]",
            "15 28 providers.b.first_byte_timeout_ms",
            "17 9 routes[0].to",
            "19 5 routes[1].enabled",
        ],
        "{:#?}",
        check(yaml)
    );
}

#[test]
fn secret_references_are_looked_up_at_load() {
    let key = |reference: &str| format!("providers: {{a: {{preset: openai, credentials: ['{reference}']}}}}");
    refuses(&key("sk-hidden"), "1:47: providers.a.credentials[0]", "plain:VALUE, env:NAME or file:PATH");
    refuses(&key("env:NOPE"), "1:47", "the environment variable NOPE is not set");
    refuses(&key("env:EMPTY"), "1:47", "is empty");
    refuses(&key("env:BAD_KEY"), "1:47", "no blanks");
    refuses(&key("file:/nowhere/key"), "1:47", "cannot read /nowhere/key");
    refuses(&key("file:/"), "1:47", "not a plain file");
    refuses("keys: {hash_key: 'env:A_KEY'}", "1:18: keys.hash_key", "64 hexadecimal digits");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        key(&format!("file:{}", path.display()))
    };
    refuses(&file("empty", b"\n"), "1:47", "is empty");
    refuses(&file("large", &[b'x'; 70_000]), "1:47", "larger than 65536 bytes");
    refuses(&file("two-lines", b"hidden\n\n"), "1:47", "no line ends");
    refuses(&file("binary", &[0xff, 0xfe]), "1:47", "not UTF-8");
    for content in ["value", "value\n", "value\r\n"] {
        let loaded = load(&file("good", content.as_bytes())).unwrap();
        assert_eq!(loaded.providers[0].credentials[0].expose(), "value");
    }
    let loaded = load("keys: {hash_key: 'env:HEX'}").unwrap();
    assert_eq!(loaded.hash_key.unwrap().expose().len(), 64);
}

#[test]
fn a_fault_in_one_item_does_not_move_the_position_of_the_next() {
    let yaml = "providers:\n  a:\n    preset: openai\n    credentials:\n    - bare\n    - env:NOPE\n";
    let faults = check(yaml);
    assert!(faults.len() == 2 && faults[1].starts_with("6:7: providers.a.credentials[1]"), "{faults:?}");
}

#[test]
fn files_that_are_missing_or_wrong_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "no certificate").unwrap();
    let path = path.display();
    let faults = check("server: {tls: {certificate: /nowhere/c.pem, key: /nowhere/k.pem}}");
    assert!(faults.len() == 2 && faults[0].contains("certificate: cannot read /nowhere/c.pem"), "{faults:?}");
    refuses("server: {tls: {certificate: /nowhere/c.pem}}", "1:", "");
    refuses(&format!("server: {{tls: {{certificate: {path}, key: {path}}}}}").replace("key: ", "kye: "), "1:", "");
    refuses("providers: {a: {preset: ollama, ca_file: /nowhere}}", "1:42: providers.a.ca_file", "cannot read");
    refuses(&format!("providers: {{a: {{preset: ollama, ca_file: {path}}}}}"), "1:42", "no certificate");
    refuses("prices: {overlay: /nowhere}", "1:19: prices.overlay", "cannot be read");
    refuses("prices: {default: {input: 1}}", "1:10: prices.default", "output");
    refuses("prices: {default: {input: -1, output: 1}}", "1:27: prices.default.input", "dollars per million");
    refuses("prices: {overlay: /}", "1:19: prices.overlay", "not a plain file");
    refuses(&format!("data_dir: {path}"), "1:11: data_dir", "not a folder");
}

#[test]
fn a_missing_or_unreadable_file_is_one_fault() {
    let problems = load::load(Path::new("/nowhere/marg.yaml")).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].to_string().starts_with("/nowhere/marg.yaml: cannot read"), "{}", problems[0]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("marg.yaml");
    std::fs::write(&path, b"data_dir: x\nlog: \xff").unwrap();
    let problems = load::load(&path).unwrap_err();
    assert_eq!((problems[0].line, problems[0].column), (2, 6));
}

#[test]
fn no_secret_is_shown_anywhere() {
    let yaml = "\
keys: {hash_key: 'plain:hidden'}
providers:
  a:
    base_url: env:A_URL
    credentials: ['env:A_KEY', 'plain:hidden-plain', hidden-bare, {hidden: x}, [hidden], 'env:BAD_KEY']
    headers: {x-a: 'env:A_KEY', x-b: 'plain:hidden', x-c: 'env:BAD_HEADER', host: 'plain:hidden'}
  b: {base_url: 'plain:https://u:hidden@b', auth: bearer}
  c: {base_url: 'hidden.example', credentials: hidden}
";
    let problems = load(yaml).unwrap_err();
    assert!(problems.len() > 8, "{problems:#?}");
    let shown = format!("{problems:?}") + &lines(&problems).join("\n");
    assert!(!shown.contains("hidden"), "{shown}");
    let good = "\
providers:
  a: {base_url: 'env:A_URL', credentials: ['env:A_KEY', 'plain:hidden'], headers: {x-a: 'env:A_KEY', x-b: 'plain:hidden'}}
default_provider: a
";
    let loaded = load(good).unwrap();
    assert!(!format!("{loaded:?}").contains("hidden"), "{loaded:?}");
    assert_eq!(loaded.providers[0].base_url.expose(), "https://hidden.example/v1");
}

#[test]
fn a_preset_fills_in_what_is_left_out_and_nothing_else() {
    let yaml = "\
providers:
  a: {preset: mistral, credentials: ['env:A_KEY', 'env:B_KEY'], http: 2, headers: {X-Org: red}, connect_timeout_ms: 1}
  b: {preset: mistral, base_url: 'HTTPS://B.example:443/v1/', auth: api-key, price_provider: openai, stream_usage: true}
  c: {base_url: 'http://localhost:1', region: eu-1}
default_provider: a
";
    let loaded = load(yaml).unwrap();
    let [a, b, c] = &loaded.providers[..] else { panic!("three providers") };
    assert_eq!(a.base_url.expose(), "https://api.mistral.ai/v1");
    assert_eq!((a.auth, a.http, a.stream_usage), (Auth::Bearer, HttpVersion::Http2, false));
    assert_eq!(a.credentials.iter().map(|key| key.expose()).collect::<Vec<_>>(), ["hidden-a", "hidden-b"]);
    assert_eq!(a.price_provider.as_deref(), Some("mistral"));
    assert_eq!(a.headers[0].0, "x-org");
    assert!(a.headers[0].1.is_sensitive());
    assert_eq!(a.connect_timeout.as_millis(), 1);
    assert_eq!(b.base_url.expose(), "https://b.example/v1");
    assert_eq!((b.auth, b.price_provider.as_deref(), b.stream_usage), (Auth::ApiKey, Some("openai"), true));
    assert_eq!((c.auth, c.price_provider.as_deref(), c.stream_usage), (Auth::Bearer, None, true));
    assert_eq!((&*b.region, &*c.region), ("", "eu-1"));
}

#[test]
fn what_of_a_providers_headers_is_secret_is_known() {
    let yaml = "\
providers:
  a:
    base_url: 'http://localhost:1'
    headers:
      x-a: 'plain:hidden-value'
      x-b: 'plain:Bearer hidden-token'
      x-c: 'plain:short'
      x-d: not-hidden-at-all
      x-e-auth: hidden-by-name
      x-f: 'plain:hidden words of a sentence'
";
    let loaded = load(yaml).unwrap();
    let secrets: Vec<_> = loaded.providers[0].header_secrets.iter().map(|secret| secret.expose()).collect();
    let all = ["hidden-value", "Bearer hidden-token", "hidden-token", "hidden-by-name", "hidden words of a sentence"];
    assert_eq!(secrets, all);
}

#[test]
fn a_text_without_content_is_refused_and_empty_braces_are_the_defaults() {
    for yaml in
        ["", " \n", "\u{feff}", "# nothing\n", "---\n", "---\n# nothing\n...\n", "~", "null\n", "--- null", "&a ~"]
    {
        let faults = load::parse(yaml, "x").unwrap_err();
        assert!(faults.len() == 1 && faults[0].text.starts_with("the file is empty"), "{yaml:?}: {faults:?}");
    }
    for yaml in ["{}", "# nothing\n---\n{}\n", "server:\nadmin: {}\nroutes:\nproviders: ~\n"] {
        assert_eq!(load::parse(yaml, "x"), Ok(Config::default()), "{yaml:?}");
    }
}

#[test]
fn every_key_that_is_read_is_in_the_list() {
    let mut decoder = decode::Decoder::new(problem::Report::new(""));
    let yaml = "server: {tls: {}}\nprices: {default: {}}\nproviders: {a: {}}\nroutes: [{split: [{}]}]\nlimits: [{}]";
    let node = tree::read(yaml, &mut decoder.report);
    decoder.root(node.as_ref(), shape::config);
    let parts = [
        "database",
        "server",
        "server.tls",
        "admin",
        "log",
        "keys",
        "ledger",
        "prices",
        "prices.default",
        "routes[].match",
        "budget",
        "budget.default_caps",
        "redis",
        "keys.defaults",
        "kavach",
        "kavach.session",
        "kavach.drift",
        "kavach.permits",
        "audit",
    ];
    let mut read: Vec<&str> = decoder.asked.iter().map(String::as_str).filter(|key| !parts.contains(key)).collect();
    let mut listed: Vec<&str> = KEYS.iter().map(|key| key.path).collect();
    read.sort_unstable();
    listed.sort_unstable();
    assert_eq!(read, listed);
}

#[test]
fn every_known_base_url_is_in_its_one_form() {
    for row in TABLE {
        if let BaseUrl::Known(url) = row.base_url {
            assert_eq!(super::url::normalise(url), Ok(url.to_owned()), "{}", row.name);
        }
    }
}
