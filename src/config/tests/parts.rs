//! Values that are good by themselves and do not fit each other.

use super::*;

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
    for name in
        ["Host", "content-length", "Transfer-Encoding", "connection", "expect", "accept-encoding", "X-Request-Id"]
    {
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
    for same in ["[::ffff:127.0.0.1]:81", "[::ffff:0.0.0.0]:81", "[::]:81"] {
        let ports = format!("server: {{listen: '127.0.0.1:81'}}\nadmin: {{listen: '{same}'}}");
        refuses(&ports, "2:17: admin.listen", "same port as server.listen");
    }
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
    warns("audit: {enabled: false, mode: enforce}", "1:31", "the log is off");
    warns("providers: {a: {preset: ollama, price_provider: opnai}}", "1:49", "did you mean openai?");
    warns("server: {body_idle_timeout_ms: 9000, body_timeout_ms: 8000}", "1:32", "never ends anything");
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

#[test]
fn what_a_start_would_refuse_is_refused_at_load() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let broken = file("broken.yaml", "prices: [");
    refuses(&format!("prices: {{overlay: {broken}}}"), "1:19: prices.overlay", "broken.yaml:1:");
    let unknown = file("unknown.yaml", "prices:\n  - {foo: 1}\n");
    let faults = check(&format!("prices: {{overlay: {unknown}}}"));
    assert!(!faults.is_empty() && faults.iter().all(|fault| fault.starts_with("1:19: prices.overlay")), "{faults:?}");
    refuses(&format!("prices: {{overlay: {}}}", folder.path().display()), "1:19", "not a plain file");
    refuses("prices: {overlay: /nowhere/prices.yaml}", "1:19", "cannot be read");
    for name in ["key", "next_key", "witness_key"] {
        refuses(&format!("audit: {{{name}: 'plain:hidden'}}"), &format!("1:{}: audit.{name}", name.len() + 11), "");
        assert_eq!(check(&format!("audit: {{enabled: false, {name}: 'plain:hidden'}}")), Vec::<String>::new());
    }
    let plain = file("plain", "");
    refuses(&format!("data_dir: {plain}/below/it"), "1:11: data_dir", "plain is not a folder");
    for (url, why) in [
        ("'sqlite:'", "names no file"),
        ("'sqlite://'", "names no file"),
        ("'sqlite::memory:'", "in memory"),
        ("'plain:sqlite::memory:'", "in memory"),
        ("'sqlite:x.db?mode=ro'", "may not hold a ?"),
        ("'postgres://u@h/d?PASSWORD=hidden'", "holds a password"),
    ] {
        refuses(&format!("database: {{url: {url}}}"), "1:17: database.url", why);
    }
    refuses("redis: {urls: ['plain:redis://hidden:99999']}", "1:", "expected redis://");
}

#[test]
fn faults_of_many_routes_are_all_told() {
    let routes: String = (0..1500).map(|_| "  - {nonsense: 1}\n").collect();
    assert_eq!(check(&format!("routes:\n{routes}")).len(), 1001);
}

#[test]
fn a_provider_with_a_key_in_a_header_is_not_said_to_have_none() {
    let provider = |more: &str| warnings(&format!("providers: {{a: {{preset: openai{more}}}}}\ndefault_provider: a"));
    assert!(provider("").iter().any(|text| text.contains("will be 401")));
    assert!(provider(", headers: {X-Other: x}").iter().any(|text| text.contains("will be 401")));
    assert_eq!(provider(", headers: {Authorization: 'env:A_KEY'}"), Vec::<String>::new());
}
