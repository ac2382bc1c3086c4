//! Limits.

use axum::http::Method;
use serde_json::{Value, json};

use super::House;
use crate::budget::authority::Standing;
use crate::budget::draft::{Deed, LimitDraft, Quantity, Span};
use crate::budget::limit::{Scope, Unit};
use crate::key::admin::Role;
use crate::unit::charge::{CounterId, WindowId};
use crate::unit::clock::Timestamp;

fn gateway(amount_usd: &str) -> Value {
    json!({"scope": "gateway", "unit": "usd", "window": "month", "amount_usd": amount_usd})
}

impl House {
    async fn limit(&self, body: Value) -> Value {
        let answer = self.post("/admin/limits", body).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        answer.json()
    }

    /// Puts a limit into the configuration file and gives its id.
    fn configured(&self) -> String {
        let id = "config-0123456789abcdef";
        let draft = LimitDraft {
            name: None,
            scope: Scope::Gateway,
            subject: None,
            models: Vec::new(),
            unit: Unit::Requests,
            span: Span::Minute,
            timezone: None,
            burst: None,
            amount: Quantity::Count(60),
            deed: Deed::Refuse,
            downgrade_to: None,
            downgrade_below_percent: None,
            warn_at_percent: Vec::new(),
            enabled: true,
        };
        let limit = draft.limit(id.into(), Timestamp::default(), Timestamp::default()).unwrap();
        self.control.config_limits.lock().unwrap().push(limit);
        id.to_owned()
    }
}

#[tokio::test]
async fn a_limit_that_makes_no_sense_is_refused_with_the_field_and_the_reason() {
    let house = House::new().await;
    let (revoked, _) = house.key(json!({"name": "a"})).await;
    house.act(&format!("/admin/keys/{revoked}/revoke")).await;
    let (narrow, _) = house.key(json!({"name": "a", "models": ["gpt-*"]})).await;
    let changed = |field: &str, value: Value| {
        let mut body = gateway("1");
        body[field] = value;
        body
    };
    let of = |scope: &str, subject: &str| json!({"scope": scope, "subject": subject, "unit": "usd", "window": "day", "amount_usd": "1"});
    let nobody = "key_00000000000000000000000000";
    let bad: Vec<(&str, u16, Value)> = vec![
        ("scope", 400, changed("scope", json!("planet"))),
        ("unit", 400, changed("unit", json!("euro"))),
        ("window", 400, changed("window", json!("fortnight"))),
        ("action", 400, changed("action", json!("explode"))),
        ("amount_usd", 400, changed("amount_usd", json!("-1"))),
        ("amount_usd", 400, changed("amount_usd", json!("NaN"))),
        ("amount_usd", 400, changed("amount_usd", json!("1e3"))),
        ("amount_usd", 400, changed("amount_usd", json!("0.0000000001"))),
        ("amount_usd", 400, changed("amount_usd", json!("99999999999999999999"))),
        ("amount_usd", 400, changed("amount_usd", json!("1000000000.01"))),
        ("amount_usd", 400, changed("amount_usd", json!(12.5))),
        ("amount_nano_usd", 400, changed("amount_nano_usd", json!(1e30))),
        ("amount", 400, changed("amount", json!(5))),
        ("amount", 400, json!({"scope": "gateway", "unit": "usd", "window": "day"})),
        ("amount", 400, json!({"scope": "gateway", "unit": "usd", "window": "day", "amount": 5})),
        ("amount", 400, json!({"scope": "gateway", "unit": "tokens", "window": "day", "amount": -5})),
        ("amount_usd", 400, json!({"scope": "gateway", "unit": "tokens", "window": "day", "amount_usd": "5"})),
        ("window", 400, json!({"scope": "gateway", "unit": "concurrent", "window": "day", "amount": 5})),
        ("timezone", 400, changed("timezone", json!("Mars/Base"))),
        ("subject", 400, changed("subject", json!("all"))),
        ("subject", 400, of("team", "")),
        ("subject", 400, of("key", "my-key")),
        ("subject", 409, of("key", nobody)),
        ("subject", 409, of("key", &revoked)),
        ("subject", 409, of("team", "nobody")),
        ("subject", 409, of("org", "nobody")),
        ("subject", 409, of("user", "nobody")),
        ("subject", 400, of("session", "chat-17")),
        ("subject", 409, of("session", &format!("{nobody}/chat-17"))),
        ("subject", 409, of("session", &format!("{revoked}/chat-17"))),
        ("subject", 409, of("session", "my-key/chat-17")),
        ("subject", 400, of("tag", "no tag")),
        ("models", 400, changed("models", json!([""]))),
        ("models", 409, {
            let mut body = of("key", &narrow);
            body["models"] = json!(["claude"]);
            body
        }),
        ("downgrade_to", 400, changed("action", json!("downgrade"))),
        ("downgrade_to", 409, {
            let mut body = changed("action", json!("downgrade"));
            body["downgrade_to"] = json!("unknown");
            body["downgrade_below_percent"] = json!(20);
            body
        }),
        ("warn_at_percent", 400, changed("action", json!("warn"))),
        ("warn_at_percent", 400, changed("warn_at_percent", json!([101]))),
        ("amuont", 400, changed("amuont", json!(1))),
    ];
    for (field, status, body) in bad {
        let answer = house.post("/admin/limits", body.clone()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        assert_eq!(answer.json()["error"]["param"].as_str().unwrap_or_default(), field, "{body}: {}", answer.text);
    }
    assert_eq!(house.get("/admin/limits").await.json()["limits"], json!([]));
    assert!(house.control.limits.lock().unwrap().is_empty());
}

#[tokio::test]
async fn two_limits_that_contradict_are_refused_and_the_other_one_is_named() {
    let house = House::new().await;
    let configured = house.configured();
    let first = house.limit(gateway("10")).await;
    let id = first["id"].as_str().unwrap();
    let refused = house.post("/admin/limits", gateway("20")).await;
    assert_eq!(refused.status, 409);
    assert!(refused.text.contains(id), "{}", refused.text);
    let against = json!({"scope": "gateway", "unit": "requests", "window": "minute", "amount": 1});
    let refused = house.post("/admin/limits", against).await;
    assert!(refused.status == 409 && refused.text.contains(&configured), "{}", refused.text);
    // One that is off contradicts nothing until it is switched on.
    let mut off = gateway("30");
    off["enabled"] = json!(false);
    let path = format!("/admin/limits/{}", house.limit(off).await["id"].as_str().unwrap());
    let on = house.ask_as(Role::Admin, Method::PATCH, &path, Some(json!({"enabled": true}))).await;
    assert_eq!(on.status, 409, "{}", on.text);
    // Another unit, another window, other models: other things.
    for (field, value) in [("window", json!("day")), ("models", json!(["gpt-*"]))] {
        let mut body = gateway("20");
        body[field] = value;
        house.limit(body).await;
    }
    // The limit itself is not its own contradiction.
    let path = format!("/admin/limits/{id}");
    let changed = house.ask_as(Role::Admin, Method::PATCH, &path, Some(json!({"amount_usd": "20"}))).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
}

#[tokio::test]
async fn a_limit_is_in_force_when_its_answer_arrives_and_gone_when_it_is_deleted() {
    let house = House::new().await;
    house.key(json!({"name": "a", "team": "web"})).await;
    let made = house
        .limit(json!({
            "name": "web a month", "scope": "team", "subject": "web", "models": ["gpt-*"], "unit": "usd", "window": "month",
            "timezone": "Europe/Berlin", "amount_usd": "12.50", "action": "downgrade", "downgrade_to": "gpt-4o-mini",
            "downgrade_below_percent": 20, "warn_at_percent": [100, 80],
        }))
        .await;
    let id = made["id"].as_str().unwrap().to_owned();
    let expected = json!({
        "id": id, "name": "web a month", "origin": "stored", "scope": "team", "subject": "web", "models": ["gpt-*"],
        "unit": "usd", "window": "month", "timezone": "Europe/Berlin", "burst": null, "amount": null,
        "amount_usd": "12.500000000", "amount_nano_usd": 12_500_000_000_i64, "action": "downgrade",
        "downgrade_to": "gpt-4o-mini", "downgrade_below_percent": 20, "warn_at_percent": [80, 100], "enabled": true,
        "created_at": made["created_at"], "updated_at": made["updated_at"],
    });
    assert_eq!(made, expected);
    assert_eq!(*house.control.limits.lock().unwrap()[0].id, *id);
    let path = format!("/admin/limits/{id}");
    assert_eq!(house.get(&path).await.json(), expected);
    assert_eq!(house.get("/admin/limits?scope=team&subject=web").await.json()["limits"], json!([expected]));
    assert_eq!(house.get("/admin/limits?scope=org").await.json()["limits"], json!([]));
    let patch = json!({"amount_nano_usd": 5, "action": "refuse", "enabled": false});
    let patched = house.ask_as(Role::Operator, Method::PATCH, &path, Some(patch)).await.json();
    assert_eq!(
        (&patched["amount_usd"], &patched["downgrade_to"], &patched["enabled"], &patched["name"]),
        (&json!("0.000000005"), &json!(null), &json!(false), &json!("web a month"))
    );
    assert!(!house.control.limits.lock().unwrap()[0].enabled);
    let scope = house.ask_as(Role::Operator, Method::PATCH, &path, Some(json!({"scope": "org"}))).await;
    assert_eq!(scope.status, 400, "what it counts stays");
    assert_eq!(house.ask_as(Role::Operator, Method::DELETE, &path, None).await.status, 204);
    assert!(house.control.limits.lock().unwrap().is_empty());
    assert_eq!(house.ask_as(Role::Operator, Method::DELETE, &path, None).await.status, 404);
}

#[tokio::test]
async fn a_minute_may_slide_or_flow_in_evenly() {
    let house = House::new().await;
    let sliding = json!({"scope": "key", "unit": "requests", "window": "minute", "amount": 60});
    assert_eq!(house.limit(sliding).await["burst"], json!(null));
    let paced = json!({"scope": "user", "unit": "requests", "window": "minute", "amount": 60, "burst": 1});
    let paced = house.limit(paced).await;
    assert_eq!((&paced["window"], &paced["burst"]), (&json!("minute"), &json!(1)));
    let running = json!({"scope": "key", "unit": "concurrent", "window": "now", "amount": 4});
    assert_eq!(house.limit(running).await["window"], "now");
}

#[tokio::test]
async fn a_limit_of_the_configuration_file_is_shown_and_reset_but_not_changed() {
    let house = House::new().await;
    let id = house.configured();
    let path = format!("/admin/limits/{id}");
    let shown = house.get(&path).await.json();
    assert_eq!((&shown["origin"], &shown["created_at"]), (&json!("config"), &json!(null)));
    let patch = house.ask_as(Role::Admin, Method::PATCH, &path, Some(json!({"amount": 1}))).await;
    assert_eq!(patch.status, 409);
    assert_eq!(house.ask_as(Role::Admin, Method::DELETE, &path, None).await.status, 409);
    assert_eq!(house.post(&format!("{path}/reset"), json!({"subject": "a|b"})).await.json(), json!({"counters": 1}));
    assert_eq!(*house.control.resets.lock().unwrap(), [(id, Some("a|b".to_owned()))]);
    assert_eq!(house.get("/admin/limits/config-0000000000000000").await.status, 404);
    for wrong in ["config-x", "config-0123456789abcdef-0", "lim_x", "config-0123456789ABCDEF"] {
        assert_eq!(house.get(&format!("/admin/limits/{wrong}")).await.status, 400, "{wrong}");
    }
}

#[tokio::test]
async fn the_state_of_a_limit_tells_what_is_spent_leased_reserved_and_left() {
    let house = House::new().await;
    let made = house.limit(gateway("10")).await;
    let id = made["id"].as_str().unwrap();
    let window = WindowId::Calendar { from: 1_795_996_800, until: 1_796_083_200 };
    let counter = |limit: &str, subject: &str| CounterId { limit: limit.into(), window, subject: subject.into() };
    let standing = |counter: CounterId| Standing {
        counter,
        cap: 10_000_000_000,
        spent: 7_000_000_000,
        leases: vec![("a".to_owned(), 1_000_000_000), ("b".to_owned(), 500_000_000)],
    };
    let standings = vec![standing(counter(id, "")), standing(counter("lim_gone", "x"))];
    *house.control.standings.lock().unwrap() = Some(standings);
    let state = house.get(&format!("/admin/limits/{id}/state")).await.json();
    let one = &state["counters"][0];
    assert_eq!(state["counters"].as_array().unwrap().len(), 1);
    for (field, usd) in [
        ("cap", "10.000000000"),
        ("spent", "7.000000000"),
        ("leased", "1.500000000"),
        ("remaining", "1.500000000"),
        ("reserved_here", "0.000000007"),
    ] {
        assert_eq!(one[field]["amount_usd"], usd, "{field}");
    }
    assert_eq!(
        (&one["subject"], &one["resets_at"], &one["leases"][1]["owner"]),
        (&json!(null), &json!("2026-12-01T00:00:00.000000Z"), &json!("b"))
    );
    // Counters of a limit that is gone neither show nor crowd out those of others.
    let mut standings: Vec<Standing> = (0..20).map(|n| standing(counter("lim_gone", &n.to_string()))).collect();
    standings.push(standing(counter(id, "")));
    *house.control.standings.lock().unwrap() = Some(standings);
    let all = house.get("/admin/limits/state?limit=1").await.json();
    assert_eq!(all["counters"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!(all["counters"][0]["limit_id"], id);
    *house.control.standings.lock().unwrap() = None;
    assert_eq!(house.get("/admin/limits/state").await.status, 503);
    assert_eq!(house.get("/admin/limits/state?limit=0").await.status, 400);
}
