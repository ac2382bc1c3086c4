use std::path::Path;

use super::*;
use crate::unit::commit::Salt;

/// Some salt.
pub fn salt() -> Salt {
    Salt::from_bytes(std::array::from_fn(|at| at as u8)).unwrap()
}

/// A plain exchange, as most are.
pub fn exchange(number: u128) -> Exchange {
    Exchange {
        at: Timestamp(1_790_000_000_000_000 + number as i64 * 1_000),
        refused: false,
        id: ExchangeId(uuid::Uuid::from_u128(0x019a_0000_0000_7000_8000_0000_0000_0000 + number)),
        request_id: None,
        operation: "chat".to_owned(),
        method: "POST".to_owned(),
        path: "/v1/chat/completions".to_owned(),
        address: Some("192.0.2.7".to_owned()),
        key: Some("key_01jd3c0000000000000000001v".into()),
        org: Some("acme".into()),
        team: Some("search".into()),
        user: Some(if number.is_multiple_of(2) { "ada" } else { "bob" }.into()),
        session: None,
        tags: Vec::new(),
        model_requested: Some("gpt-5-mini".to_owned()),
        model_served: Some("gpt-5-mini-2026-05-01".to_owned()),
        provider: Some("openai".into()),
        route: Some("default".into()),
        status: 200,
        outcome: "answered".to_owned(),
        reason: None,
        verdict: Some(Verdict {
            real: "permit".into(),
            effective: "permit".into(),
            policies: vec!["allow-search".into()],
            policy_set: Some("5d41402abc4b2a76b9719d911017c592".into()),
        }),
        attempts: vec![Attempt {
            provider: "openai".into(),
            model: "gpt-5-mini".to_owned(),
            permit: None,
            end: "served".to_owned(),
            status: Some(200),
            duration_us: 812_345,
        }],
        usage: Some(Tokens { input: 512, output: 128, ..Tokens::default() }),
        usage_source: Some(UsageSource::Reported),
        cost_nano_usd: Some(1_250_000),
        price: Some("genai-prices 2026-11-01 openai/gpt-5-mini".to_owned()),
        duration_us: 812_900,
        ttft_us: Some(120_000),
        bytes_in: 2_048,
        bytes_out: 1_024,
        prompt: Some(salt().commit(b"prompt")),
        answer: Some(salt().commit(b"answer")),
    }
}

pub fn event(noun: Noun, subject: &str) -> Event {
    Event {
        at: Timestamp(1_790_000_000_000_000),
        actor: Actor { kind: "admin_token".to_owned(), id: Some("tok_1".to_owned()), label: None, address: None },
        noun,
        verb: "created".to_owned(),
        subject: Some(subject.to_owned()),
        detail: Map::from_iter([("label".to_owned(), Value::from("für Ä"))]),
    }
}

/// One entry of each shape with the schema that it keeps to.
fn samples() -> Vec<(&'static str, Entry)> {
    let mut permitted = exchange(2);
    permitted.attempts[0].permit = Some(format!("{}-0", permitted.id));
    let refusal = Exchange { refused: true, verdict: None, usage: None, attempts: Vec::new(), ..exchange(1) };
    let gap = Gap { at: Timestamp(5), reason: "state_lost".to_owned(), detail: "…".to_owned() };
    vec![
        ("exchange", Entry::Exchange(Box::new(exchange(0)))),
        ("exchange", Entry::Exchange(Box::new(permitted))),
        ("exchange", Entry::Exchange(Box::new(refusal))),
        ("event", Entry::Event(event(Noun::AdminToken, "tok_2"))),
        ("rotation", Entry::Rotation(Rotation { at: Timestamp(5), note: "text\n\n— a b\n".to_owned() })),
        ("gap", Entry::Gap(gap)),
        (
            "amendment",
            Entry::Amendment(Amendment {
                at: Timestamp(5),
                id: exchange(0).id,
                usage: Tokens::default(),
                usage_source: UsageSource::Estimated,
                cost_nano_usd: None,
            }),
        ),
    ]
}

#[test]
fn the_published_schemas_are_those_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schemas/audit");
    let mut stale = Vec::new();
    for (name, schema) in schemas() {
        let path = folder.join(format!("{name}.v{VERSION}.json"));
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::fs::read_to_string(&path).unwrap_or_default() != text {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, text).unwrap();
            stale.push(name);
        }
    }
    assert!(stale.is_empty(), "{stale:?} were not up to date in docs/; they are now, read what changed");
}

#[test]
fn every_kind_keeps_to_its_schema_and_the_check_sees_faults() {
    let schemas = schemas();
    for (name, entry) in samples() {
        let schema = &schemas.iter().find(|(one, _)| *one == name).unwrap().1;
        let mut value: Value = serde_json::from_slice(&entry.to_bytes()).unwrap();
        assert_eq!(faults(schema, schema, &value, ""), Vec::<String>::new(), "{name}");
        value["unheard_of"] = Value::from(1);
        value["v"] = Value::from(2);
        value.as_object_mut().unwrap().remove("at");
        assert_eq!(faults(schema, schema, &value, "").len(), 3, "{name}");
    }
}

/// What contradicts a schema, for the words that ours use.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(name.trim_start_matches('#')).expect("a reference leads somewhere");
        found.extend(faults(root, target, value, at));
    }
    if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
        let fits = choices.iter().filter(|choice| faults(root, choice, value, at).is_empty()).count();
        found.extend((fits != 1).then(|| format!("{at}: {fits} of oneOf")));
    }
    found.extend(schema.get("const").filter(|one| *one != value).map(|_| format!("{at}: const")));
    let listed = |list: &Value| list.as_array().is_some_and(|list| list.contains(value));
    found.extend(schema.get("enum").filter(|list| !listed(list)).map(|_| format!("{at}: enum")));
    found.extend(schema.get("type").filter(|kind| !is_of(kind, value)).map(|_| format!("{at}: type")));
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    for (name, member) in value.as_object().unwrap_or(&none) {
        match properties.get(name) {
            Some(property) => found.extend(faults(root, property, member, &format!("{at}/{name}"))),
            None if schema.get("additionalProperties") == Some(&Value::from(false)) => {
                found.push(format!("{at}/{name}: unknown"));
            }
            None => {}
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        found.extend(value.get(name.as_str().unwrap()).is_none().then(|| format!("{at}/{name}: missing")));
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        found.extend(
            schema.get("items").into_iter().flat_map(|items| faults(root, items, item, &format!("{at}/{number}"))),
        );
    }
    found
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind {
        Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind, value)),
        kind => match kind.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "null" => value.is_null(),
            other => panic!("{other} is not checked"),
        },
    }
}

#[test]
fn entries_are_canonical_json() {
    for (_, entry) in samples() {
        let bytes = entry.to_bytes();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(serde_json_canonicalizer::to_vec(&value).unwrap(), bytes);
    }
    let gap = Entry::Gap(Gap { at: Timestamp(0), reason: "ü\u{1}\"".to_owned(), detail: String::new() });
    assert_eq!(
        String::from_utf8(gap.to_bytes()).unwrap(),
        "{\"at\":\"1970-01-01T00:00:00.000000Z\",\"detail\":\"\",\"kind\":\"gap\",\"reason\":\"ü\\u0001\\\"\",\"v\":1}"
    );
}

#[test]
fn no_entry_is_too_large_for_a_bundle() {
    let long = "ä".repeat(100_000);
    let mut large = exchange(1);
    large.path = long.clone();
    large.model_requested = Some(long.clone());
    large.attempts = vec![large.attempts[0].clone(); 1_000];
    large.tags = vec![Arc::from(long.as_str()); 100];
    let mut event = event(Noun::Config, "x");
    event.detail.insert("text".to_owned(), Value::from(long.clone()));
    let gap = Gap { at: Timestamp(0), reason: "x".to_owned(), detail: long };
    for entry in [Entry::Exchange(Box::new(large)), Entry::Event(event), Entry::Gap(gap)] {
        let bytes = entry.to_bytes();
        assert!(bytes.len() <= ENTRY_LIMIT_BYTES, "{}", bytes.len());
        assert!(serde_json::from_slice::<Value>(&bytes).is_ok());
    }
}
