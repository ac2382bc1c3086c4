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
fn a_broken_text_tells_the_place_and_the_faults_before_it() {
    let faults = check("serve: 1\nlog: {level: info\nadmin: 2\n");
    assert!(
        faults.iter().any(|fault| fault.starts_with("1:1: serve: unknown key \"serve\"; did you mean `server`?")),
        "{faults:?}"
    );
    assert!(faults.iter().any(|fault| fault.contains("this is not YAML")), "{faults:?}");
    assert!(!faults.iter().any(|fault| fault.contains("missing")), "{faults:?}");
}

#[test]
fn yaml_that_is_more_than_a_plain_document_is_refused() {
    refuses("data_dir: x\n---\ndata_dir: y\n", "2:1", "second document");
    refuses("data_dir: !!str x\n", "1:", "tags");
    refuses("? [a]\n: 1\n", "1:3", "a key must be a plain text");
    refuses("<<: {data_dir: x}\n", "1:1", "merge keys are not understood");
    refuses("data_dir: *x\n", "1:", "names no anchor");
    refuses("server:\n\th2c: true\n", "2:", "indent with blanks");
    refuses("[]", "1:1", "expected a mapping");
    refuses("hello", "1:1", "expected a mapping");
    refuses("data_dir: x\ndata_dir: y\n", "2:1: data_dir", "already given in line 1");
    refuses("providers: {a: {preset: ollama}, a: {preset: ollama}}\n", "1:34: providers.a", "already given");
}

#[test]
fn texts_that_grow_or_nest_are_refused_quickly() {
    let deep = "[".repeat(100_000);
    assert!(check(&deep)[0].contains("nested"), "{:?}", check(&deep));
    let deep = (0..2000).map(|level| format!("{}a:\n", " ".repeat(level))).collect::<String>();
    assert!(check(&deep).iter().any(|fault| fault.contains("nested")));
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (this, last) in ('b'..='i').zip('a'..) {
        bomb.push_str(&format!(
            "{this}: &{this} [*{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}, *{last}]\n"
        ));
    }
    assert!(check(&bomb).iter().any(|fault| fault.contains("too large")), "{:?}", check(&bomb));
    assert!(check("a: &a [*a]\n").iter().any(|fault| fault.contains("stands inside")));
    assert!(check(&" ".repeat(5 * 1024 * 1024))[0].contains("larger than"));
    assert!(check(&"- \n".repeat(1_000_000)).len() <= 2);
    let many = (0..3000).map(|index| format!("k{index}: 1\n")).collect::<String>();
    let faults = check(&many);
    assert_eq!(faults.len(), 1001);
    assert!(faults[1000].contains("more than 1000"));
}

#[test]
fn an_alias_stands_for_what_it_names() {
    let yaml = "providers:\n  a: &a {preset: ollama, connect_timeout_ms: 7}\n  b: *a\n";
    let config = load(yaml).unwrap().config;
    assert_eq!(config.providers["b"].connect_timeout_ms, 7);
}

#[test]
fn wrong_types_are_named() {
    refuses("server: 5", "1:9: server", "expected a mapping");
    refuses(
        "server: {threads: many}",
        "1:19: server.threads",
        "many is not a whole number; write a whole number from 0 to 1024",
    );
    refuses("server: {threads: '4'}", "1:19", "without quotes");
    refuses("server: {threads: -1}", "1:19", "not a whole number");
    refuses("server: {threads: 1.5}", "1:19", "not a whole number");
    refuses("server: {threads: 99999999999999999999}", "1:19", "out of range");
    refuses("server: {threads: }", "1:10", "found nothing");
    refuses("server: {threads: [1]}", "1:19", "found a list");
    refuses("server: {h2c: yes}", "1:15: server.h2c", "expected true or false");
    refuses("server: {trusted_proxies: 10.0.0.0/8}", "1:27", "expected a list");
    refuses("server: {trusted_proxies: [10.0.0.0/33]}", "1:28: server.trusted_proxies[0]", "not a network");
    refuses("admin: {listen: ':8081'}", "1:17: admin.listen", "not an address");
    refuses("data_dir: [x]", "1:11: data_dir", "expected a text, found a list");
    refuses("data_dir:", "1:1: data_dir", "expected a text, found nothing");
    refuses("providers: [a]", "1:12: providers", "expected a mapping");
    refuses("routes: {to: a}", "1:9: routes", "expected a list");
    refuses("routes:\n  -\n", "2:", "expected a mapping");
    refuses("log: {level: INFO}", "1:14: log.level", "did you mean info? Allowed: error, warn, info, debug, trace");
    refuses("keys: {prefix_style: x}", "1:22: keys.prefix_style", "Allowed: marg, openai, anthropic");
    refuses("providers: {a: {preset: ollama, http: 3}}", "1:39: providers.a.http", "Allowed: 1.1, 2");
    refuses("providers: {a: {preset: ollama, auth: basic}}", "1:39", "Allowed: bearer");
    refuses("providers: {a: {preset: grog}}", "1:25: providers.a.preset", "did you mean groq?");
    refuses(
        "providers: {a: {preset: ollama, credentials: [plain: x]}}",
        "1:47: providers.a.credentials[0]",
        "no space",
    );
}

#[test]
fn every_number_is_bounded_on_both_sides() {
    for key in KEYS {
        let Bounds::Number(least, most) = key.bounds else { continue };
        for (number, allowed) in
            [(least.checked_sub(1), false), (Some(least), true), (Some(most), true), (Some(most + 1), false)]
        {
            let Some(number) = number else { continue };
            let faults = check(&with(key.path, &number.to_string()));
            let hit = faults.iter().any(|fault| fault.contains("out of range"));
            assert_eq!(hit, !allowed, "{} {number}: {faults:?}", key.path);
        }
    }
}

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
fn lists_and_tables_are_bounded() {
    for key in KEYS {
        let Bounds::Items(most) = key.bounds else { continue };
        if matches!(key.path, "audit.witnesses" | "audit.witness_peers" | "kavach.permits.algorithms") {
            // Each would need a valid key of its own; and of algorithms there are no more.
            continue;
        }
        let item = |index: usize| match key.path {
            "server.trusted_proxies" => format!("10.0.0.{}", index % 250),
            "providers" => format!("p{index}: {{preset: ollama}}"),
            "providers.*.credentials" => format!("'plain:k{index}'"),
            "providers.*.models" => format!("m{index}"),
            "providers.*.headers" => format!("h{index}: x"),
            "routes" => format!("{{match: {{model: m{index}}}, to: a}}"),
            "routes[].split" => format!("{{to: 'a:m{index}', weight: 1}}"),
            "routes[].fallback" => format!("'a:m{index}'"),
            "keys.defaults.labels" => format!("l{index}: x"),
            "keys.defaults.models" | "limits[].models" => format!("m{index}"),
            "limits" => format!("{{scope: team, subject: t{index}, unit: requests, window: day, amount: 1}}"),
            "redis.urls" => format!("'plain:redis://r{index}'"),
            "limits[].warn_at_percent" => (index + 1).to_string(),
            path => panic!("{path} needs an item"),
        };
        let count = |count: usize| {
            let items = (0..count).map(item).collect::<Vec<_>>().join(", ");
            let yaml = match key.path {
                "providers" => format!("providers: {{{items}}}"),
                "keys.defaults.labels" => with(key.path, &format!("{{{items}}}")),
                "providers.*.headers" => format!("providers: {{a: {{preset: ollama, headers: {{{items}}}}}}}"),
                "routes" => format!("{A}routes: [{items}]"),
                "routes[].split" => format!("{A}routes: [{{split: [{items}]}}]"),
                "routes[].fallback" => format!("{A}routes: [{{to: b, fallback: [{items}]}}]"),
                path => with(path, &format!("[{items}]")),
            };
            check(&yaml)
        };
        assert_eq!(count(most), Vec::<String>::new(), "{}", key.path);
        let faults = count(most + 1);
        assert!(faults.len() == 1 && faults[0].contains("the most is"), "{}: {faults:?}", key.path);
    }
}

#[test]
fn a_provider_must_say_where_it_is_and_only_that() {
    refuses("providers: {a: {}}", "1:13: providers.a", "needs a `preset` or a `base_url`");
    refuses("providers: {a: }", "1:13: providers.a", "needs a `preset` or a `base_url`");
    refuses("providers: {a: {preset: databricks}}", "1:13: providers.a", "needs a `base_url` of the form https://");
    let url = |url: &str| format!("providers: {{a: {{base_url: \"{url}\"}}}}");
    refuses(&url("ftp://a"), "1:27: providers.a.base_url", "begins with http:// or https://");
    refuses(&url("a.example/v1"), "1:27", "begins with http:// or https://");
    refuses(&url("https://u:hidden@a/"), "1:27", "user name");
    refuses(&url("https://a/?k=hidden"), "1:27", "query");
    refuses(&url("https://a/#hidden"), "1:27", "fragment");
    refuses(&url("https:///v1"), "1:27", "URL");
    refuses(&url("http://169.254.169.254/v1"), "1:27", "metadata service");
    refuses(&url("env:BAD_URL"), "1:27", "user name");
    refuses(&url("env:NO_URL"), "1:27", "the environment variable NO_URL is not set");
    refuses("providers: {'a b': {preset: ollama}}", "1:13: providers[\"a b\"]", "1 to 64 of the characters");
    refuses(&format!("providers: {{{}: {{preset: ollama}}}}", "a".repeat(65)), "1:13", "1 to 64");
}

#[test]
fn one_mistake_is_reported_once() {
    // Each of these would also be a provider without a URL, or a route without a target.
    refuses("providers: {a: {base_ur: 'https://a'}}", "1:17", "did you mean `base_url`?");
    refuses("providers: {a: {api_base: 'https://a'}}", "1:17", "did you mean `base_url`?");
    refuses("providers: {a: {presett: openai}}", "1:17", "did you mean `preset`?");
    refuses("providers: 5\ndefault_provider: a\nroutes: [{to: a}]", "1:12", "expected a mapping");
    refuses(&format!("{A}routes: [{{too: a}}]"), "2:11", "did you mean `to`?");
    refuses(&format!("{A}routes: [{{to: ':x'}}]"), "2:15: routes[0].to", "write provider or provider:model");
    refuses(&format!("{A}routes: [{{matc: {{model: x}}, to: a}}, {{to: b}}]"), "2:11", "did you mean `match`?");
}

#[test]
fn headers_that_would_break_a_request_are_refused() {
    let header =
        |line: &str| format!("providers: {{a: {{preset: ollama, credentials: ['plain:k'], headers: {{{line}}}}}}}");
    for name in ["Host", "content-length", "Transfer-Encoding", "connection", "expect", "accept-encoding"] {
        refuses(&header(&format!("{name}: x")), "1:", "Marg's own");
    }
    refuses(&header("Authorization: x"), "1:", "would replace the provider's credential");
    refuses(&header("'a b': x"), "1:", "not the name of a header");
    refuses(&header("a: \"x\\ny\""), "1:", "visible ASCII");
    refuses(&header("a: 'env:BAD_HEADER'"), "1:", "visible ASCII");
    refuses(&header("a: 'env:NOPE'"), "1:", "NOPE is not set");
    refuses(&header("a: 'env:'"), "1:", "names nothing");
    refuses(&header("a: x, A: y"), "1:", "already given as \"A\"");
    assert_eq!(check("providers: {a: {preset: ollama, headers: {Authorization: x}}}"), Vec::<String>::new());
    let auth = "providers: {a: {preset: ollama, auth: x-api-key, credentials: ['plain:k'], headers: {x-api-key: x}}}";
    refuses(auth, "1:", "would replace");
}

#[test]
fn routes_must_lead_somewhere() {
    let route = |text: &str| format!("{A}routes: [{{{text}}}]");
    refuses(&route("to: c"), "2:15: routes[0].to", "there is no provider \"c\"; there are a, b");
    refuses(&route("to: a, fallback: [b, bb]"), "2:32: routes[0].fallback[1]", "there is no provider");
    refuses("providers: {groq: {preset: ollama}}\ndefault_provider: qroq", "2:19", "did you mean \"groq\"?");
    refuses(&route("split: [{to: c, weight: 1}]"), "2:24: routes[0].split[0].to", "no provider");
    refuses(&route("match: {model: x}"), "2:10: routes[0]", "needs `to` or `split`");
    refuses(&route("to: a, split: [{to: b, weight: 1}]"), "2:18: routes[0].split", "not both");
    refuses(&route("split: [{to: a, weight: 0}, {to: b, weight: 0}]"), "2:11: routes[0].split", "every weight is 0");
    refuses(&route("split: [{to: a, weight: 1000001}]"), "2:35: routes[0].split[0].weight", "out of range");
    refuses(&route("split: [{to: a}]"), "2:19: routes[0].split[0]", "`weight` is missing");
    refuses(&route("split: [{weight: 1}]"), "2:19: routes[0].split[0]", "`to` is missing");
    refuses(&route("to: a, fallback: [b, a]"), "2:32: routes[0].fallback[1]", "a is already at routes[0].to");
    refuses(&route("split: [{to: a, weight: 1}, {to: a, weight: 2}]"), "2:44", "already at routes[0].split[0].to");
    refuses(&route("name: '', to: a"), "2:17: routes[0].name", "1 to 64 bytes");
    refuses(
        &route("name: n, to: a, match: {model: x}}, {name: n, to: a"),
        "2:54: routes[1].name",
        "routes[0] has this name",
    );
    refuses(&route("match: {model: ''}, to: a"), "2:26: routes[0].match.model", "a pattern may not be empty");
    refuses(&format!("{A}default_provider: c"), "2:19: default_provider", "there is no provider");
    refuses("default_provider: c", "1:19: default_provider", "`providers` is empty");
    assert_eq!(
        check(&route("split: [{to: a, weight: 1}, {to: b, weight: 0}], fallback: [a, b]")),
        Vec::<String>::new()
    );
}

#[test]
fn a_target_must_be_a_model_that_its_provider_serves() {
    let route =
        |text: &str| format!("providers: {{a: {{preset: ollama, models: ['llama*', qwen]}}}}\nroutes: [{{{text}}}]");
    refuses(&route("to: 'a:gpt-4'"), "2:15: routes[0].to", "does not serve \"gpt-4\"");
    refuses(&route("match: {model: gpt-4}, to: a"), "2:38: routes[0].to", "does not serve \"gpt-4\"");
    for good in ["to: 'a:llama3:8b'", "match: {model: qwen}, to: a", "match: {model: 'gpt-*'}, to: a"] {
        assert_eq!(check(&route(good)), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn a_route_that_an_earlier_one_hides_is_refused_with_both_names() {
    let routes = |routes: &str| format!("{A}routes:\n{routes}");
    refuses(
        &routes("- {name: all, to: a}\n- {match: {model: x}, to: b}\n"),
        "4:3: routes[1]",
        "routes[0] \"all\" in line 3",
    );
    refuses(
        &routes("- {match: {model: 'gpt-*'}, to: a}\n- {match: {model: 'gpt-4*', team: red}, to: b}\n"),
        "4:3",
        "routes[0] in line 3",
    );
    refuses(&routes("- {match: {model: x}, to: a}\n- {match: {model: x}, to: b}\n"), "4:3", "never match");
    for good in [
        "- {match: {model: x}, to: a}\n- {to: b}\n",
        "- {match: {model: '*'}, to: a}\n- {to: b}\n",
        "- {match: {team: red}, to: a}\n- {match: {model: x}, to: b}\n",
        "- {match: {model: 'gpt-4*'}, to: a}\n- {match: {model: 'gpt-*'}, to: b}\n",
    ] {
        assert_eq!(check(&routes(good)), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn parts_that_do_not_fit_each_other_are_refused() {
    refuses(
        "server: {listen: '0.0.0.0:81'}\nadmin: {listen: '127.0.0.1:81'}",
        "2:17: admin.listen",
        "same port as server.listen",
    );
    refuses("server: {max_body_bytes: 2048, max_buffered_bytes: 1024}", "1:52", "one body must fit");
    refuses("ledger: {journal_max_bytes: 4096}", "1:29", "one segment must fit");
    for good in [
        "server: {listen: '127.0.0.1:0'}\nadmin: {listen: '127.0.0.1:0'}",
        "server: {listen: '127.0.0.1:81'}\nadmin: {listen: '127.0.0.2:81'}",
        "server: {listen: '127.0.0.1:81'}\nadmin: {listen: '127.0.0.1:81', enabled: false}",
    ] {
        assert_eq!(check(good), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn what_is_allowed_but_hardly_meant_is_a_warning() {
    let warns = |yaml: &str, begins: &str, contains: &str| {
        let found = warnings(yaml);
        assert!(found.iter().any(|line| line.starts_with(begins) && line.contains(contains)), "{yaml}\n{found:#?}");
    };
    let off = "providers: {a: {preset: ollama, enabled: false}, b: {preset: ollama}}\n";
    warns(&format!("{off}default_provider: a"), "2:19: default_provider", "not enabled");
    warns(&format!("{off}routes: [{{to: a, fallback: [b]}}]"), "2:15: routes[0].to", "not enabled");
    warns(off, "1:1: providers", "neither routes nor a default_provider");
    let narrow = "providers: {a: {base_url: http://h, models: [a*]}}\ndefault_provider: a\n";
    let limit = |what: &str| format!("{narrow}limits: [{{{what}, unit: requests, window: day, amount: 1}}]");
    warns(&limit("scope: model, subject: b"), "3:", "limits[0].subject");
    warns(&limit("scope: key, models: [b, c]"), "3:", "limits[0].models");
    assert!(warnings(&limit("scope: model, subject: a1")).is_empty());
    assert!(warnings(&limit("scope: key, models: [b, 'c*']")).is_empty(), "what patterns match is not looked at");
    warns("providers: {a: {preset: groq}}", "1:13: providers.a", "credentials: [env:GROQ_API_KEY]");
    warns("providers: {a: {preset: groq, enabled: false, credentials: ['env:NOPE']}}", "1:61", "NOPE is not set");
    warns("providers: {a: {preset: ollama, auth: none, credentials: ['plain:k']}}", "1:", "never sent");
    warns("providers: {a: {base_url: 'http://a', credentials: ['plain:k']}}", "1:13", "unencrypted");
    warns("providers: {a: {preset: openai, credentials: ['plain:k', 'plain:k']}}", "1:", "the same as one before");
    warns("providers: {a: {preset: ollama, price_provider: opnai}}", "1:49", "did you mean openai?");
    warns("server: {body_idle_timeout_ms: 9000, body_timeout_ms: 8000}", "1:32", "never ends anything");
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
    refuses("prices: {overlay: /nowhere}", "1:19: prices.overlay", "cannot read");
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
  c: {base_url: 'http://localhost:1'}
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
}

#[test]
fn an_empty_file_is_the_defaults() {
    for yaml in ["", "\u{feff}", "# nothing\n", "---\n", "server:\nadmin: {}\nroutes:\nproviders: ~\n"] {
        assert_eq!(load::parse(yaml, "x"), Ok(Config::default()), "{yaml:?}");
    }
}

#[test]
fn scalars_mean_what_their_key_says() {
    let yaml = "providers: {on: {preset: ollama, models: [1.10, no, 'null']}}\ndefault_provider: on\nroutes: [{name: 007, to: 'on'}]";
    let config = load(yaml).unwrap().config;
    let models: Vec<&str> = config.providers["on"].models.iter().map(|model| model.as_str()).collect();
    assert_eq!(models, ["1.10", "no", "null"]);
    assert_eq!(config.routes[0].name.as_deref(), Some("007"));
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
fn permits_that_would_take_the_place_of_something_else_are_refused() {
    let permits = |text: &str| format!("{A}kavach: {{permits: {{{text}}}}}");
    for (text, part) in [
        ("send_to: all", "all"),
        ("header: Cookie", "means something else"),
        ("header: X-Forwarded-For", "means something else"),
        ("header: 'a:b'", "not the name of a header"),
        ("audience: 'a\"b'", "visible ASCII"),
        ("caller_audience: ''", "visible ASCII"),
        ("algorithms: []", "at least one"),
        ("algorithms: [ed25519, rsa]", "rsa"),
        ("algorithms: [ml-dsa-65, ml-dsa-65]", "once"),
        ("ttl_ms: 999", "out of range"),
        ("send_to: both, key: 'env:A_KEY'", "no key file for permits"),
        ("send_to: both, caller_audience: b", "could show its own there"),
        ("send_to: both, audience: x, caller_audience: x", "could show its own there"),
    ] {
        refuses(&permits(text), "2:", part);
    }
    let headers = "providers: {a: {base_url: 'https://a.example/v1', headers: {X-Marg-Permit: x}}}\n";
    refuses(&format!("{headers}kavach: {{permits: {{send_to: upstream}}}}"), "2:", "sets this header itself");
    assert!(check(headers).is_empty());
    let warnings = warnings(&permits("send_to: caller, caller_audience: b"));
    assert!(warnings.iter().any(|warning| warning.contains("`gate: off`")), "{warnings:?}");
    let config = load(&permits("send_to: both, header: X-My-Permit, algorithms: [ml-dsa-65, ed25519]")).unwrap().config;
    assert_eq!(config.kavach.permits.header.as_str(), "x-my-permit");
}

#[test]
fn words_of_closed_lists_are_those_of_the_api() {
    for word in ["marg", "openai", "anthropic"] {
        let style: PrefixStyle = serde_json::from_value(word.into()).unwrap();
        assert_eq!(load::parse(&format!("keys: {{prefix_style: {word}}}"), "").unwrap().keys.prefix_style, style);
    }
}

/// A value for a key that differs from its default.
fn other_value(path: &str) -> &'static str {
    match path {
        "data_dir" => "/elsewhere",
        "database.url" | "database.listen_url" => "postgres://other@host/name",
        "database.pooler" => "true",
        "database.connections" => "7",
        "server.listen" | "admin.listen" => "127.0.0.1:1",
        "server.tls.certificate" | "server.tls.key" | "prices.overlay" => "/file.pem",
        "server.h2c" | "server.provider_header" | "admin.open_metrics" | "ledger.strict_sync" => "true",
        "admin.enabled" => "false",
        "server.trusted_proxies" => "[10.0.0.0/8]",
        "server.max_buffered_bytes" | "ledger.journal_max_bytes" => "5000000000",
        "ledger.batch_rows" | "server.max_exchanges" | "server.max_connections" | "server.threads" => "7",
        "log.level" => "debug",
        "log.format" => "json",
        "prices.default.input" | "prices.default.output" => "2.5",
        "keys.prefix_style" => "openai",
        "keys.hash_key" | "budget.webhook_secret" => "env:HEX",
        "keys.defaults.expires_in" => "90d",
        "keys.defaults.labels" => "{env: dev}",
        "keys.defaults.models" => "[gpt-*]",
        "keys.running_calls" => "cut",
        "budget.authority" => "redis",
        "redis.urls" => "['env:REDIS']",
        "redis.mode" => "cluster",
        "redis.sentinel_master" | "redis.username" | "redis.key_prefix" => "other",
        "redis.password" => "env:HEX",
        "redis.ca_file" => "/etc/ssl/certs/other.pem",
        "redis.request_timeout_ms" | "redis.background_timeout_ms" => "77",
        "budget.when_away" => "admit",
        "budget.dead_node" => "release",
        "database.away_at_start" => "wait",
        "budget.dead_node_after_ms" => "20000",
        "budget.webhook_url" => "https://hooks.example/x?y=z",
        "kavach.mode" => "observe, policy: x",
        "kavach.policy" | "kavach.drift.geo_database" => "/policy",
        "kavach.reveal" => "nothing",
        "kavach.time_zone" => "Asia/Kolkata",
        "kavach.cache_entries"
        | "kavach.session.max_sessions"
        | "kavach.drift.geo_speed_km_h"
        | "kavach.drift.max_keys" => "7",
        "kavach.drift.geo" | "kavach.drift.device" | "kavach.drift.session_age" | "kavach.drift.behaviour" => "true",
        "kavach.permits.send_to" => "caller",
        "kavach.permits.header" | "kavach.permits.audience" | "kavach.permits.caller_audience" => "x-other",
        "kavach.permits.algorithms" => "[ml-dsa-65]",
        "kavach.permits.key" => "env:KEY",
        "kavach.permits.extra_keys" => "/keys.json",
        "audit.enabled" => "false",
        "audit.mode" => "enforce",
        "audit.content" => "full_text",
        "audit.origin" => "marg.example.com/1",
        "audit.folder" => "/audit",
        "audit.key" | "audit.next_key" | "audit.passphrase" | "audit.witness_key" => "env:KEY",
        "audit.witness_peers" => "['PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW']",
        "audit.witnesses" => "['w witness.example.com+94947cf1+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea']",
        "audit.quorum" => {
            "1, witnesses: ['w witness.example.com+94947cf1+BNdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea']"
        }
        "audit.open_tiles" => "true",
        "default_provider" => "a",
        path if path.ends_with("_tokens") => "77",
        path if path.ends_with("_ms") || path.ends_with("_bytes") || path.ends_with("_days") => "5000",
        _ => "",
    }
}

#[test]
fn a_reload_reports_exactly_the_keys_that_need_a_restart() {
    let parse = |yaml: &str| load::parse(yaml, "x").unwrap();
    for key in KEYS {
        let (value, path) = (other_value(key.path), key.path);
        if value.is_empty() {
            assert!(
                !key.restart && ["providers", "routes", "limits"].iter().any(|part| path.starts_with(part)),
                "{path}"
            );
            continue;
        }
        let (old, new) = match path {
            "server.tls.certificate" => (
                "server: {tls: {certificate: a, key: b}}".to_owned(),
                "server: {tls: {certificate: c, key: b}}".to_owned(),
            ),
            "server.tls.key" => (
                "server: {tls: {certificate: a, key: b}}".to_owned(),
                "server: {tls: {certificate: a, key: c}}".to_owned(),
            ),
            "prices.default.input" => (
                "prices: {default: {input: 1, output: 1}}".to_owned(),
                "prices: {default: {input: 2.5, output: 1}}".to_owned(),
            ),
            "prices.default.output" => (
                "prices: {default: {input: 1, output: 1}}".to_owned(),
                "prices: {default: {input: 1, output: 2.5}}".to_owned(),
            ),
            "audit.quorum" => {
                let one = other_value(path);
                (with(path, &format!("0{}", &one[1..])), with(path, one))
            }
            "budget.authority" => {
                let urls = "redis: {urls: ['env:A']}\n";
                (urls.to_owned(), format!("{urls}budget: {{authority: redis}}"))
            }
            "default_provider" => (A.to_owned(), format!("{A}default_provider: a")),
            _ => (String::new(), with(path, value)),
        };
        let (old, new) = (parse(&old), parse(&new));
        assert_ne!(old, new, "{path}");
        let expected: &[&str] = if key.restart { &[path] } else { &[] };
        assert_eq!(reload::restart_needed(&old, &new), expected, "{path}");
        assert_eq!(reload::restart_needed(&new, &new), Vec::<&str>::new());
    }
    assert_eq!(reload::restart_needed(&parse(""), &parse(A)), Vec::<&str>::new());
}

#[test]
fn every_known_base_url_is_in_its_one_form() {
    for row in TABLE {
        if let BaseUrl::Known(url) = row.base_url {
            assert_eq!(super::url::normalise(url), Ok(url.to_owned()), "{}", row.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*") {
        drop(load(&text));
    }

    #[test]
    fn text_that_looks_like_a_configuration_never_panics(
        lines in proptest::collection::vec("( {0,6})(- )?(server|routes|providers|to|a|split|match|weight|headers|credentials|[&*!]a)?(: |:)?([\\[{'\"]?)(a|env:A|plain:x|1|~|\\]|\\}|,)?", 0..30),
    ) {
        drop(load(&lines.join("\n")));
    }

    #[test]
    fn every_fault_has_a_place_in_the_text(junk in "[a-z]{1,12}", value in "[a-z0-9 ]{0,8}") {
        for problem in load(&format!("# one\n{junk}x: {value}\n")).err().unwrap_or_default() {
            prop_assert!(problem.line == 2 && problem.column >= 1, "{}", problem);
        }
    }
}

#[test]
fn a_redis_that_cannot_be_reached_as_written_is_refused() {
    refuses("budget: {authority: redis}", "1:21: budget.authority", "redis.urls");
    refuses("redis: {urls: ['plain:redis://a'], mode: sentinel}", "1:42: redis.mode", "redis.sentinel_master");
    refuses("redis: {urls: ['plain:http://a']}", "1:9: redis.urls", "rediss://");
    refuses("redis: {key_prefix: '{x}'}", "1:21: redis.key_prefix", "prefix of keys");
    let loaded = load("redis: {urls: ['plain:rediss://:hidden@a:1']}\nbudget: {authority: redis}").unwrap();
    assert_eq!(loaded.redis.as_ref().unwrap().urls.len(), 1);
    assert!(!format!("{loaded:?}").contains("hidden"));
}

#[test]
fn a_gate_with_an_unknown_mode_or_without_policies_does_not_load() {
    refuses("kavach: {mode: enforced}", "1:16: kavach.mode", "enforce");
    refuses("kavach: {mode: Observe}", "1:16: kavach.mode", "observe");
    refuses("kavach: {mode: enforce}", "1:16: kavach.mode", "needs `policy`");
    refuses("kavach: {policy: /nowhere.cedar}", "1:18: kavach.policy", "cannot be read");
    refuses("kavach: {mode: observe, policy: /nowhere.cedar}", "1:33: kavach.policy", "cannot be read");
    refuses("kavach: {time_zone: Mars/Base}", "1:21: kavach.time_zone", "no such time zone");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.cedar");
    std::fs::write(&file, "permit(principal, action, resource) when { context.max_tokens < 1 };").unwrap();
    let yaml = format!("kavach: {{mode: observe, policy: {}}}", file.display());
    refuses(&yaml, "1:33: kavach.policy", ":1:44: policy policy#1: attribute `max_tokens`");
}
