//! Kavach's TOML policies and invariants, told in Cedar.
//!
//! There the first policy that matches decides; here a forbid wins. So each `refuse` becomes a forbid `unless` a permit
//! before it matches, which decides the same (`the_order_of_policies_is_kept`). What cannot be told never widens access: a
//! permit that holds it is left out, a refusal drops the condition and refuses more; both are reported. Permits are for the
//! action `chat` only, since nothing else was there to be permitted.

use std::collections::HashSet;

use jiff::tz::TimeZone;
use serde::Deserialize;
use toml::Value;

mod condition;

use condition::Told;

/// The Cedar text, and what an operator has to know of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The policies. Sound if at least one is in it.
    pub text: String,
    /// How many policies are in it.
    pub policies: usize,
    /// What could not be told, or means something a little different now: sentences, each naming its policy.
    pub notes: Vec<String>,
}

/// How to import.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The zone of `kavach.time_zone`, the only one with daylight saving time that policies can use.
    pub zone: TimeZone,
    /// Leave conditions `rate_limit` out of permits, because the operator makes limit rows of them.
    pub without_rate_limits: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    policy: Vec<Policy>,
    #[serde(default)]
    invariant: Vec<toml::Table>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    name: String,
    effect: Effect,
    #[serde(default)]
    conditions: Vec<toml::Table>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default = "ordinary")]
    priority: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Effect {
    Permit,
    Refuse,
}

fn ordinary() -> i64 {
    100
}

/// Tells a TOML text in Cedar.
///
/// # Errors
/// A sentence with its place, when the text is not TOML or holds a table or a field that Kavach does not have.
pub fn import(text: &str, settings: &Settings) -> Result<Imported, String> {
    let mut file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    // Stable, as there.
    file.policy.sort_by_key(|policy| policy.priority);
    let mut writer = Writer { settings, out: Imported::default(), ids: HashSet::new(), permits: Vec::new() };
    for policy in &file.policy {
        writer.policy(policy);
    }
    for invariant in &file.invariant {
        writer.invariant(invariant);
    }
    if writer.out.policies > 0 {
        writer.out.text = format!("// begin\n{}// end\n", writer.out.text);
    }
    Ok(writer.out)
}

struct Writer<'a> {
    settings: &'a Settings,
    out: Imported,
    ids: HashSet<String>,
    /// The conditions of the permits so far, each as one expression.
    permits: Vec<String>,
}

impl Writer<'_> {
    fn policy(&mut self, policy: &Policy) {
        let permits = policy.effect == Effect::Permit;
        let mut expressions = Vec::new();
        for table in &policy.conditions {
            let lenient = self.settings.without_rate_limits && table.contains_key("rate_limit");
            match condition::told(table, &self.settings.zone) {
                Told::Always => {}
                Told::When(expression, note) => {
                    expressions.push(expression);
                    self.out.notes.extend(note.map(|note| format!("{}: {note}", policy.name)));
                }
                Told::Never(why) => {
                    self.note(&policy.name, &format!("left out, because it never matched: {why}"));
                    return;
                }
                Told::Not(why) if permits && !lenient => {
                    self.note(&policy.name, &format!("left out, so that nothing is permitted that was not: {why}"));
                    return;
                }
                Told::Not(why) => self.note(&policy.name, &format!("written without a condition: {why}")),
            }
        }
        let about = policy.description.as_deref();
        let all = if expressions.is_empty() { "true".to_owned() } else { expressions.join(" && ") };
        if permits {
            self.write(&policy.name, about, ("permit", "action == Action::\"chat\""), &expressions, &[]);
            self.permits.push(format!("action == Action::\"chat\" && {all}"));
        } else {
            let before = self.permits.clone();
            self.write(&policy.name, about, ("forbid", "action in Action::\"call\""), &expressions, &before);
        }
    }

    fn invariant(&mut self, table: &toml::Table) {
        let name = table.get("name").and_then(Value::as_str).unwrap_or("invariant").to_owned();
        match condition::invariant(table) {
            Told::When(expression, note) => {
                self.out.notes.extend(note.map(|note| format!("{name}: {note}")));
                self.write(&name, None, ("forbid", "action in Action::\"call\""), &[expression], &[]);
            }
            Told::Always => self.write(&name, None, ("forbid", "action in Action::\"call\""), &[], &[]),
            Told::Never(why) | Told::Not(why) => self.note(&name, &format!("left out: {why}")),
        }
    }

    fn note(&mut self, name: &str, text: &str) {
        self.out.notes.push(format!("{name}: {text}"));
    }

    fn write(
        &mut self,
        name: &str,
        about: Option<&str>,
        (effect, action): (&str, &str),
        when: &[String],
        unless: &[String],
    ) {
        let id = self.id(name);
        let mut text = format!("\n@id(\"{id}\")\n");
        if let Some(about) = about.map(plain).filter(|about| !about.is_empty()) {
            let annotation = if effect == "forbid" { "reason" } else { "description" };
            text += &format!("@{annotation}({})\n", quoted(&about));
        }
        text += &format!("{effect} (principal, {action}, resource)");
        if !when.is_empty() {
            text += &format!("\nwhen {{ {} }}", when.join(" && "));
        }
        for expression in unless {
            text += &format!("\nunless {{ {expression} }}");
        }
        self.out.text += &text;
        self.out.text += ";\n";
        self.out.policies += 1;
    }

    /// An id that is allowed and new.
    fn id(&mut self, name: &str) -> String {
        let allowed = |letter: char| letter.is_ascii_alphanumeric() || "._:/-".contains(letter);
        let plain: String = name.chars().map(|letter| if allowed(letter) { letter } else { '-' }).take(100).collect();
        let plain = if plain.is_empty() { "policy".to_owned() } else { plain };
        let numbered = (2..).map(|number: u32| format!("{plain}-{number}"));
        let id = std::iter::once(plain.clone()).chain(numbered).find(|id| !self.ids.contains(id)).unwrap_or(plain);
        self.ids.insert(id.clone());
        id
    }
}

/// A text for an annotation: one line, at most 512 characters.
fn plain(text: &str) -> String {
    let line: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    line.trim().chars().take(512).collect()
}

/// A text as a Cedar string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            letter if letter.is_control() => out += &format!("\\u{{{:x}}}", u32::from(letter)),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}
