//! What somebody wants a key to be, checked into what a key can be.
//!
//! Every text has a bound and no control characters, every list a length, every pattern and network parses, an expiry lies
//! ahead. An error names the field at fault.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::party::RequestCaps;
use super::token::{self, HashKey, Minted, TokenStyle};
use super::{Key, Principal};
use crate::error::{Error, Kind, Result};
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;
use crate::unit::id;
use crate::unit::net::network;

/// The longest name, organisation, team or user, in characters.
pub const MAX_NAME_CHARS: usize = 128;
/// The most labels of a key.
pub const MAX_LABELS: usize = 32;
/// The longest name of a label, in characters.
pub const MAX_LABEL_NAME_CHARS: usize = 64;
/// The longest value of a label, in characters; it may be empty.
pub const MAX_LABEL_VALUE_CHARS: usize = 256;
/// The most model patterns of a key.
pub const MAX_MODELS: usize = 64;
/// The largest cap on the tokens of one request; more than any model takes.
pub const MAX_CAP_TOKENS: u64 = 1_000_000_000;
/// The most networks of a key.
pub const MAX_ADDRESSES: usize = 64;

/// The fields of a key as somebody wrote them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewKey {
    /// A name for people: 1 to [`MAX_NAME_CHARS`] characters.
    pub name: String,
    /// The organisation.
    pub org: Option<String>,
    /// The team.
    pub team: Option<String>,
    /// The person or service.
    pub user: Option<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Patterns for the models that it may ask for; empty allows all.
    pub models: Vec<String>,
    /// Addresses or networks (`10.0.0.7`, `10.0.0.0/8`, `2001:db8::/32`) that it may be used from; empty allows all.
    pub addresses: Vec<String>,
    /// Made, but refused until somebody enables it.
    pub disabled: bool,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// Caps on its single requests; each at least 1 and at most [`MAX_CAP_TOKENS`].
    pub caps: RequestCaps,
}

/// What a new key is where nobody said otherwise; an operator's setting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyDefaults {
    /// Caps on its single requests.
    pub caps: RequestCaps,
    /// How long it works; `None` is for ever.
    pub expires_in: Option<Duration>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The models that it may ask for; empty allows all.
    pub models: Vec<Glob>,
}

/// A [`NewKey`], checked. Only [`NewKey::check`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyFields {
    name: String,
    principal: Principal,
    labels: BTreeMap<String, String>,
    models: Vec<Glob>,
    addresses: Vec<IpNet>,
    enabled: bool,
    expires_at: Option<Timestamp>,
    caps: RequestCaps,
}

impl NewKey {
    /// The fields of an existing key, to be edited and checked again.
    pub fn of(key: &Key) -> Self {
        let text = |part: &Option<Arc<str>>| part.as_deref().map(str::to_owned);
        Self {
            name: key.name.clone(),
            org: text(&key.principal.org),
            team: text(&key.principal.team),
            user: text(&key.principal.user),
            labels: key.labels.clone(),
            models: key.models.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            addresses: key.addresses.iter().map(ToString::to_string).collect(),
            disabled: !key.enabled,
            expires_at: key.expires_at,
            caps: key.caps,
        }
    }

    /// Checks every field.
    ///
    /// # Errors
    /// `invalid_request` with the name of the first field at fault.
    pub fn check(self, now: Timestamp) -> Result<KeyFields> {
        let Self { name, org, team, user, labels, models, addresses, disabled, expires_at, caps } = self;
        check_text("name", &name)?;
        let principal = Principal { org: part("org", org)?, team: part("team", team)?, user: part("user", user)? };
        check_labels(&labels)?;
        if expires_at.is_some_and(|end| end <= now) {
            return Err(refuse("expires_at", "An expiry lies in the future."));
        }
        check_caps(caps)?;
        Ok(KeyFields {
            name,
            principal,
            labels,
            models: parse_models(&models)?,
            addresses: parse_addresses(&addresses)?,
            enabled: !disabled,
            expires_at,
            caps,
        })
    }
}

impl KeyFields {
    /// Makes a key with a new token.
    ///
    /// # Errors
    /// `internal_error` when the operating system has no random numbers.
    pub fn mint(self, style: TokenStyle, hash_key: &HashKey, now: Timestamp) -> Result<(Key, Minted)> {
        let minted = token::mint(style)?;
        let key = Key {
            id: id::mint("key").into(),
            name: self.name,
            hint: minted.hint.clone(),
            hash: hash_key.hash(minted.token.expose()),
            principal: self.principal,
            labels: self.labels,
            models: self.models,
            addresses: self.addresses,
            enabled: self.enabled,
            created_at: now,
            expires_at: self.expires_at,
            revoked_at: None,
            rotated_at: None,
            suspension: None,
            caps: self.caps,
        };
        Ok((key, minted))
    }

    /// Puts the fields into an existing key; its id, token and history stay.
    pub fn apply(self, key: &mut Key) {
        let Self { name, principal, labels, models, addresses, enabled, expires_at, caps } = self;
        key.name = name;
        key.principal = principal;
        key.labels = labels;
        key.models = models;
        key.addresses = addresses;
        key.enabled = enabled;
        key.expires_at = expires_at;
        key.caps = caps;
    }
}

impl Key {
    /// Gives the key a new token; the old one is unknown as soon as the key is stored.
    ///
    /// # Errors
    /// `internal_error` when the operating system has no random numbers; `conflict` when the key is revoked.
    pub fn rotate(&mut self, style: TokenStyle, hash_key: &HashKey, now: Timestamp) -> Result<Minted> {
        if self.revoked_at.is_some() {
            return Err(Error::new(Kind::Conflict, "The key is revoked; a revoked key never works again."));
        }
        let minted = token::mint(style)?;
        self.hint.clone_from(&minted.hint);
        self.hash = hash_key.hash(minted.token.expose());
        // Strictly later than the last rotation, because the store keeps the token with the latest time.
        let floor = self.rotated_at.map_or(now, |last| Timestamp(last.0.saturating_add(1)));
        self.rotated_at = Some(now.max(floor));
        Ok(minted)
    }
}

pub(super) fn refuse(field: &'static str, text: impl Into<String>) -> Error {
    Error::new(Kind::InvalidRequest, text.into()).param(field)
}

pub(super) fn check_text(field: &'static str, text: &str) -> Result<()> {
    if text.trim().is_empty() || text.chars().count() > MAX_NAME_CHARS || text.chars().any(char::is_control) {
        return Err(refuse(
            field,
            format!("`{field}` has 1 to {MAX_NAME_CHARS} characters, none of them a control character."),
        ));
    }
    Ok(())
}

pub(super) fn part(field: &'static str, text: Option<String>) -> Result<Option<Arc<str>>> {
    let Some(text) = text else { return Ok(None) };
    check_text(field, &text)?;
    Ok(Some(text.into()))
}

pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return Err(refuse("labels", format!("There are at most {MAX_LABELS} labels.")));
    }
    let good = |name: &str, value: &str| {
        !name.trim().is_empty()
            && name.chars().count() <= MAX_LABEL_NAME_CHARS
            && value.chars().count() <= MAX_LABEL_VALUE_CHARS
            && !name.chars().chain(value.chars()).any(char::is_control)
    };
    if labels.iter().all(|(name, value)| good(name, value)) {
        return Ok(());
    }
    Err(refuse(
        "labels",
        format!(
            "A label has a name of 1 to {MAX_LABEL_NAME_CHARS} characters and a value of at most {MAX_LABEL_VALUE_CHARS}, \
             none of them a control character."
        ),
    ))
}

pub(super) fn parse_models(patterns: &[String]) -> Result<Vec<Glob>> {
    if patterns.len() > MAX_MODELS {
        return Err(refuse("models", format!("There are at most {MAX_MODELS} model patterns.")));
    }
    let parse = |pattern: &String| Glob::new(pattern).map_err(|sentence| refuse("models", format!("{sentence}.")));
    patterns.iter().map(parse).collect()
}

/// Checks caps on single requests.
///
/// # Errors
/// `invalid_request` with the name of the cap that is 0 or beyond [`MAX_CAP_TOKENS`].
pub fn check_caps(caps: RequestCaps) -> Result<()> {
    for (field, cap) in [("max_input_tokens", caps.max_input_tokens), ("max_output_tokens", caps.max_output_tokens)] {
        if cap.is_some_and(|cap| !(1..=MAX_CAP_TOKENS).contains(&cap)) {
            return Err(refuse(field, format!("`{field}` is 1 to {MAX_CAP_TOKENS} tokens; null is no cap.")));
        }
    }
    Ok(())
}

fn parse_addresses(texts: &[String]) -> Result<Vec<IpNet>> {
    if texts.len() > MAX_ADDRESSES {
        return Err(refuse("addresses", format!("A key has at most {MAX_ADDRESSES} addresses.")));
    }
    texts.iter().map(|text| parse_address(text)).collect()
}

fn parse_address(text: &str) -> Result<IpNet> {
    network(text).map_err(|cause| {
        let shown: String = text.chars().filter(|symbol| !symbol.is_control()).take(64).collect();
        let sentence = format!("`{shown}` is neither an address nor a network; write 10.0.0.7 or 10.0.0.0/8.");
        refuse("addresses", sentence).because(cause)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn draft() -> NewKey {
        NewKey { name: "ci".to_owned(), ..NewKey::default() }
    }

    /// Spoils a draft and says which field was named.
    fn refused(spoil: impl FnOnce(&mut NewKey)) -> String {
        let mut draft = draft();
        spoil(&mut draft);
        let error = draft.check(NOW).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidRequest);
        error.field().unwrap().to_owned()
    }

    #[test]
    fn each_bad_field_is_refused_by_its_name() {
        assert_eq!(refused(|key| key.name = String::new()), "name");
        assert_eq!(refused(|key| key.name = " ".to_owned()), "name");
        assert_eq!(refused(|key| key.name = "x".repeat(129)), "name");
        assert_eq!(refused(|key| key.name = "a\r\nb".to_owned()), "name");
        assert_eq!(refused(|key| key.org = Some(String::new())), "org");
        assert_eq!(refused(|key| key.team = Some("t\0".to_owned())), "team");
        assert_eq!(refused(|key| key.user = Some("é".repeat(129))), "user");
        assert_eq!(refused(|key| key.labels = (0..33).map(|n| (n.to_string(), String::new())).collect()), "labels");
        assert_eq!(refused(|key| drop(key.labels.insert(String::new(), String::new()))), "labels");
        assert_eq!(refused(|key| drop(key.labels.insert("a".to_owned(), "x".repeat(257)))), "labels");
        assert_eq!(refused(|key| drop(key.labels.insert("a\n".to_owned(), String::new()))), "labels");
        assert_eq!(refused(|key| key.models = vec!["*".to_owned(); 65]), "models");
        assert_eq!(refused(|key| key.models = vec![String::new()]), "models");
        assert_eq!(refused(|key| key.addresses = vec!["10.0.0.0/8".to_owned(); 65]), "addresses");
        assert_eq!(refused(|key| key.addresses = vec!["10.0.0.0/33".to_owned()]), "addresses");
        assert_eq!(refused(|key| key.addresses = vec!["example.com".to_owned()]), "addresses");
        assert_eq!(refused(|key| key.expires_at = Some(NOW)), "expires_at");
    }

    #[test]
    fn a_good_draft_becomes_a_key_and_comes_back_unchanged() {
        let draft = NewKey {
            org: Some("acme".to_owned()),
            team: Some("web".to_owned()),
            labels: BTreeMap::from([("env".to_owned(), "prod".to_owned())]),
            models: vec!["gpt-*".to_owned()],
            addresses: vec!["10.0.0.0/8".to_owned(), "::1/128".to_owned()],
            expires_at: Some(Timestamp(NOW.0 + 1)),
            ..draft()
        };
        let hash_key = HashKey::generate().unwrap();
        let (key, minted) = draft.clone().check(NOW).unwrap().mint(TokenStyle::Marg, &hash_key, NOW).unwrap();
        assert_eq!(key.hash, hash_key.hash(minted.token.expose()));
        assert_eq!(NewKey::of(&key), draft);
        assert!(key.allows_model("gpt-4o") && !key.allows_model("claude"));
        assert_eq!(
            (key.state(NOW), key.state(Timestamp(NOW.0 + 1))),
            (super::super::KeyState::Active, super::super::KeyState::Expired)
        );
    }

    #[test]
    fn an_address_is_a_network_of_one_and_mapped_addresses_count_as_ipv4() {
        let mut draft = draft();
        draft.addresses = vec!["10.1.2.3".to_owned(), "::ffff:10.9.9.9".to_owned(), "192.168.7.9/16".to_owned()];
        let (key, _) = draft.check(NOW).unwrap().mint(TokenStyle::Marg, &HashKey::generate().unwrap(), NOW).unwrap();
        let allows = |text: &str| key.allows_address(Some(text.parse().unwrap()));
        assert!(allows("10.1.2.3") && allows("::ffff:10.1.2.3") && allows("10.9.9.9") && allows("192.168.0.1"));
        assert!(!allows("10.1.2.4") && !allows("::1") && !key.allows_address(None));
    }

    #[test]
    fn rotation_replaces_the_token_and_moves_forward_even_if_the_clock_does_not() {
        let hash_key = HashKey::generate().unwrap();
        let (mut key, first) = draft().check(NOW).unwrap().mint(TokenStyle::Marg, &hash_key, NOW).unwrap();
        let second = key.rotate(TokenStyle::OpenAi, &hash_key, NOW).unwrap();
        assert_ne!(key.hash, hash_key.hash(first.token.expose()));
        assert_eq!(key.hash, hash_key.hash(second.token.expose()));
        key.rotate(TokenStyle::Marg, &hash_key, Timestamp(5)).unwrap();
        assert_eq!(key.rotated_at, Some(Timestamp(NOW.0 + 1)));
        key.revoked_at = Some(NOW);
        assert_eq!(key.rotate(TokenStyle::Marg, &hash_key, NOW).unwrap_err().kind(), Kind::Conflict);
    }
}
