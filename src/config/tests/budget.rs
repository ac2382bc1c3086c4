//! Limits, the section `budget`, and the defaults of keys.

use super::{check, load, refuses, warnings};
use crate::budget::WhenAway;
use crate::budget::limit::{Action, Unit, Window};
use crate::config::DeadNode;
use crate::unit::secret::Secret;

fn limit(fields: &str) -> String {
    format!("limits:\n  - {{scope: team, subject: web, {fields}}}\n")
}

#[test]
fn a_limit_that_makes_no_sense_is_refused_at_its_place() {
    for (fields, key, text) in [
        ("unit: usd, window: day, amount_usd: -1", "amount_usd", "not an amount of dollars"),
        ("unit: usd, window: day, amount_usd: .nan", "amount_usd", "not an amount of dollars"),
        ("unit: usd, window: day, amount_usd: 1e3", "amount_usd", "not an amount of dollars"),
        ("unit: usd, window: day, amount_usd: 99999999999999999999", "amount_usd", "more than 9,223,372,036 dollars"),
        ("unit: usd, window: day, amount_usd: 2000000000", "amount_usd", "nano-dollars"),
        ("unit: usd, window: day, amount: 5", "amount", "amount_usd"),
        ("unit: usd, window: day", "", "amount_usd"),
        ("unit: usd, window: day, amount: 5, amount_usd: 5", "amount", "not both"),
        ("unit: tokens, window: day, amount_usd: 5", "amount_usd", "does not count dollars"),
        ("unit: tokens, window: day, amount: -5", "amount", "not a whole number"),
        ("unit: tokens, window: day, amount: 5000000000000000000", "amount", "out of range"),
        ("unit: tokens, window: fortnight, amount: 5", "window", "minute"),
        ("unit: euro, window: day, amount: 5", "unit", "usd"),
        ("unit: concurrent, window: day, amount: 5", "window", "now"),
        ("unit: tokens, window: now, amount: 5", "window", "now"),
        ("unit: tokens, window: day, amount: 5, timezone: Mars/Base", "timezone", "not a time zone"),
        ("unit: tokens, window: hour, amount: 5, timezone: UTC", "timezone", "day and a month"),
        ("unit: tokens, window: hour, amount: 5, burst: 2", "burst", "minute"),
        ("unit: tokens, window: hour, amount: 5, action: downgrade", "", "needs a model"),
        ("unit: tokens, window: hour, amount: 5, downgrade_to: x", "downgrade_to", "action: downgrade"),
        ("unit: tokens, window: hour, amount: 5, action: warn", "", "warn at"),
        ("unit: tokens, window: hour, amount: 5, warn_at_percent: [0]", "warn_at_percent[0]", "from 1 to 100"),
        ("unit: tokens, window: hour, amount: 5, amuont: 5", "amuont", "amount"),
    ] {
        let faults = check(&limit(fields));
        let path = if key.is_empty() { "limits[0]".to_owned() } else { format!("limits[0].{key}") };
        assert!(faults.len() == 1 && faults[0].contains(&format!(" {path}: ")), "{fields}: {faults:?}");
        assert!(faults[0].starts_with("2:") && faults[0].contains(text), "{fields}: {faults:?}");
    }
    refuses("limits: [{scope: gateway, subject: x, unit: requests, window: day, amount: 1}]", "", "must be absent");
    refuses("limits: [{scope: key, subject: mine, unit: requests, window: day, amount: 1}]", "", "key_ and 26");
}

#[test]
fn two_limits_that_count_the_same_are_refused_with_the_line_of_the_first() {
    let one = "  - {scope: key, unit: usd, window: day, amount_usd: 1}\n";
    let faults = check(&format!("limits:\n{one}{one}"));
    assert!(faults.len() == 1 && faults[0].contains("limits[0] in line 2 counts the same"), "{faults:?}");
    let off = "  - {scope: key, unit: usd, window: day, amount_usd: 2, enabled: false}\n";
    assert_eq!(check(&format!("limits:\n{one}{off}")), Vec::<String>::new());
}

#[test]
fn an_amount_is_read_exactly_quoted_or_not() {
    for text in ["12.345678901", "'12.345678901'", "\"12.345678901\""] {
        let loaded =
            load(&limit(&format!("unit: usd, window: month, timezone: Europe/Berlin, amount_usd: {text}"))).unwrap();
        let limit = &loaded.config.limits[0];
        assert_eq!((limit.unit, limit.amount), (Unit::Usd, 12_345_678_901));
        assert_eq!(limit.window, Window::Month { timezone: "Europe/Berlin".to_owned() });
        assert_eq!(limit.name, "team web: usd a month");
    }
    let paced = load(&limit("unit: usd, window: minute, amount_usd: 1, burst_usd: 0.1")).unwrap();
    assert_eq!(paced.config.limits[0].window, Window::Paced { burst: 100_000_000 });
}

#[test]
fn the_id_of_a_limit_stays_when_its_place_and_its_amount_change() {
    let ids = |yaml: &str| -> Vec<String> {
        load(yaml).unwrap().config.limits.iter().map(|limit| limit.id.to_string()).collect()
    };
    let (a, b) =
        ("{scope: key, unit: usd, window: day, amount_usd: ", "{scope: key, unit: usd, window: month, amount_usd: ");
    let before = ids(&format!("limits: [{a}1}}, {b}2}}]"));
    let after = ids(&format!("limits: [{b}3, action: warn, warn_at_percent: [80]}}, {a}4, name: x}}]"));
    assert_eq!(before, [after[1].clone(), after[0].clone()]);
    assert!(before[0] != before[1] && before[0].starts_with("config-") && before[0].len() == 23, "{before:?}");
}

#[test]
fn a_downgrade_to_a_model_that_nothing_takes_is_a_warning() {
    let yaml = limit(
        "unit: usd, window: day, amount_usd: 1, action: downgrade, downgrade_to: small, downgrade_below_percent: 20",
    );
    assert!(warnings(&yaml).iter().any(|warning| warning.contains("no route takes")), "{:?}", warnings(&yaml));
    let limits = load(&yaml).unwrap().config.limits;
    assert_eq!(limits[0].action, Action::Downgrade { to: "small".to_owned(), below_percent: 20 });
}

#[test]
fn a_limit_smaller_than_what_a_call_may_read_unseen_is_a_warning() {
    let warned = |fields: &str, budget: &str| {
        let found = warnings(&format!("{}{budget}", limit(fields)));
        found.into_iter().find(|warning| warning.contains("budget.unseen_input"))
    };
    let small = "unit: input_tokens, window: day, amount: 127999";
    assert!(warned(small, "").is_some_and(|text| text.contains("takes all that is left")));
    assert!(warned(small, "budget: {unseen_input: refuse}\n").is_some_and(|text| text.contains("is refused")));
    assert!(warned("unit: tokens, window: minute, amount: 1000000, burst: 500", "").is_some());
    for fields in [
        "unit: input_tokens, window: day, amount: 128000",
        "unit: output_tokens, window: day, amount: 100",
        "unit: tokens, window: day, amount: 100, action: warn, warn_at_percent: [80]",
        "unit: tokens, window: day, amount: 100, enabled: false",
    ] {
        assert_eq!(warned(fields, ""), None, "{fields}");
    }
}

#[test]
fn a_webhook_is_looked_up_and_its_secrets_are_not_shown() {
    refuses("budget: {webhook_url: 'ftp://a'}", "", "http://");
    refuses("budget: {webhook_url: 'https://u:p@a/'}", "", "user name");
    refuses("budget: {webhook_url: 'https://u:p@a/'}", "", "path or query");
    refuses("budget: {webhook_url: 'https://a/#x'}", "", "fragment");
    refuses("budget: {webhook_url: 'https://a/?t=1#x'}", "", "fragment");
    refuses("budget: {webhook_url: 'plain:https://a/?t=é'}", "", "visible ASCII");
    refuses("budget: {webhook_secret: abc}", "", "plain:VALUE");
    let loaded = load(
        "budget: {webhook_url: 'plain:https://Hooks.example/x?token=hunter2', webhook_secret: 'plain:hunter3', when_away: admit, dead_node: release}",
    )
    .unwrap();
    let webhook = loaded.webhook.clone().unwrap();
    assert_eq!(webhook.url, Secret::new("https://hooks.example/x?token=hunter2"));
    assert_eq!(webhook.secret, Some(Secret::new("hunter3")));
    assert_eq!((loaded.config.budget.when_away, loaded.config.budget.dead_node), (WhenAway::Admit, DeadNode::Release));
    assert!(!format!("{loaded:?}").contains("hunter"));
    assert_eq!(warnings("budget: {webhook_secret: plain:x}").len(), 1);
}

#[test]
fn defaults_of_keys_are_held_to_what_a_key_may_be() {
    refuses("keys: {defaults: {expires_in: soon}}", "", "span of time");
    refuses("keys: {defaults: {expires_in: 0d}}", "", "span of time");
    refuses("keys: {defaults: {max_output_tokens: 0}}", "", "out of range");
    refuses("keys: {defaults: {models: ['']}}", "", "pattern");
    refuses("keys: {defaults: {labels: {' ': x}}}", "", "name of a label");
    let defaults = load("keys: {defaults: {expires_in: 2w, labels: {env: dev}}}").unwrap().config.keys.defaults;
    assert_eq!(defaults.expires_in, Some(std::time::Duration::from_secs(1_209_600)));
}
