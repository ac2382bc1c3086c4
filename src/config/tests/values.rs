//! Single values: their types, bounds and words.

use super::*;

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
fn scalars_mean_what_their_key_says() {
    let yaml = "providers: {on: {preset: ollama, models: [1.10, no, 'null']}}\ndefault_provider: on\nroutes: [{name: 007, to: 'on'}]";
    let config = load(yaml).unwrap().config;
    let models: Vec<&str> = config.providers["on"].models.iter().map(|model| model.as_str()).collect();
    assert_eq!(models, ["1.10", "no", "null"]);
    assert_eq!(config.routes[0].name.as_deref(), Some("007"));
}

#[test]
fn words_of_closed_lists_are_those_of_the_api() {
    for word in ["marg", "openai", "anthropic"] {
        let style: PrefixStyle = serde_json::from_value(word.into()).unwrap();
        assert_eq!(load::parse(&format!("keys: {{prefix_style: {word}}}"), "").unwrap().keys.prefix_style, style);
    }
}
