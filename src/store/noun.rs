//! Keys, admin tokens, routes, limits, parties and prices as rows, both ways, whatever the backend.

use super::value::{Row, Value, json};
use crate::budget::limit::Limit;
use crate::catalog::stored::StoredPrice;
use crate::error::StoreError;
use crate::key::admin::AdminToken;
use crate::key::party::{Party, PartyKind, RequestCaps};
use crate::key::token::TokenHash;
use crate::key::{Key, Principal, Suspension};
use crate::route::store::StoredRoute;
use crate::unit::clock::Timestamp;

/// How many of a key's [`key_values`] an update sets or asks for: when a key was made never changes.
pub(super) const KEY_UPDATE: usize = 16;

/// The columns `name`, `org`, `team`, `user`, `labels`, `models`, `addresses`, `enabled`, `expires_at`, `revoked_at`,
/// `rotated_at`, `hint`, `hash`, `max_input_tokens`, `max_output_tokens`, `id`, `created_at`. A suspension is written by itself.
pub(super) fn key_values(key: &Key) -> Result<[Value<'_>; KEY_UPDATE + 1], StoreError> {
    Ok([
        Value::text(&key.name),
        Value::maybe(key.principal.org.as_deref()),
        Value::maybe(key.principal.team.as_deref()),
        Value::maybe(key.principal.user.as_deref()),
        Value::owned(Some(json(&key.labels)?)),
        Value::owned(Some(json(&key.models)?)),
        Value::owned(Some(json(&key.addresses)?)),
        Value::Flag(key.enabled),
        maybe_time(key.expires_at),
        maybe_time(key.revoked_at),
        maybe_time(key.rotated_at),
        Value::text(&key.hint),
        hash_value(&key.hash),
        cap(key.caps.max_input_tokens),
        cap(key.caps.max_output_tokens),
        Value::text(&key.id),
        time(key.created_at),
    ])
}

pub(super) fn key(row: &impl Row) -> Result<Key, StoreError> {
    let text = |column: &str| row.text(column).map(|text| text.map(Into::into));
    Ok(Key {
        id: row.word("id")?.into(),
        name: row.word("name")?,
        hint: row.word("hint")?,
        hash: hash(row)?,
        principal: Principal { org: text("org")?, team: text("team")?, user: text("user")? },
        labels: row.json("labels")?,
        models: row.json("models")?,
        addresses: row.json("addresses")?,
        enabled: row.flag("enabled")?,
        created_at: Timestamp(row.number("created_at")?),
        expires_at: row.time("expires_at")?,
        revoked_at: row.time("revoked_at")?,
        rotated_at: row.time("rotated_at")?,
        caps: caps(row)?,
        suspension: text("suspended_reason")?
            .map(|reason| Ok::<_, StoreError>(Suspension { until: row.time("suspended_until")?, reason }))
            .transpose()?,
    })
}

/// The columns `suspended_until` and `suspended_reason`.
pub(super) fn suspension_values(suspension: Option<&Suspension>) -> [Value<'_>; 2] {
    [maybe_time(suspension.and_then(|rest| rest.until)), Value::maybe(suspension.map(|rest| &*rest.reason))]
}

/// The columns `id`, `label`, `role`, `hint`, `hash`, `created_at`, `expires_at`, `revoked_at`.
pub(super) fn admin_token_values(token: &AdminToken) -> [Value<'_>; 8] {
    [
        Value::text(&token.id),
        Value::text(&token.label),
        Value::text(token.role.as_str()),
        Value::text(&token.hint),
        hash_value(&token.hash),
        time(token.created_at),
        maybe_time(token.expires_at),
        maybe_time(token.revoked_at),
    ]
}

/// The columns `label`, `role`, `expires_at`, `revoked_at`, `id`: what an update of a token sets.
pub(super) fn admin_token_changes(token: &AdminToken) -> [Value<'_>; 5] {
    let [id, label, role, _, _, _, expires_at, revoked_at] = admin_token_values(token);
    [label, role, expires_at, revoked_at, id]
}

pub(super) fn admin_token(row: &impl Row) -> Result<AdminToken, StoreError> {
    Ok(AdminToken {
        id: row.word("id")?.into(),
        label: row.word("label")?,
        role: row.word("role")?.parse().map_err(|sentence: String| StoreError::Corrupt(sentence.into()))?,
        hint: row.word("hint")?,
        hash: hash(row)?,
        created_at: Timestamp(row.number("created_at")?),
        expires_at: row.time("expires_at")?,
        revoked_at: row.time("revoked_at")?,
    })
}

/// The columns `name`, `scope`, `subject`, `models`, `unit`, `span`, `amount`, `action`, `warn_at_percent`, `enabled`,
/// `created_at`, `updated_at`, `id`.
pub(super) fn limit_values(limit: &Limit) -> Result<[Value<'_>; 13], StoreError> {
    Ok([
        Value::text(&limit.name),
        word(&limit.scope)?,
        Value::maybe(limit.subject.as_deref()),
        Value::owned(Some(json(&limit.models)?)),
        word(&limit.unit)?,
        Value::owned(Some(json(&limit.window)?)),
        Value::Integer(Some(limit.amount)),
        Value::owned(Some(json(&limit.action)?)),
        Value::owned(Some(json(&limit.warn_at_percent)?)),
        Value::Flag(limit.enabled),
        time(limit.created_at),
        time(limit.updated_at),
        Value::text(&limit.id),
    ])
}

pub(super) fn limit(row: &impl Row) -> Result<Limit, StoreError> {
    Ok(Limit {
        id: row.word("id")?.into(),
        name: row.word("name")?,
        scope: from_word(row, "scope")?,
        subject: row.text("subject")?.map(Into::into),
        models: row.json("models")?,
        unit: from_word(row, "unit")?,
        window: row.parsed("span")?,
        amount: row.number("amount")?,
        action: row.json("action")?,
        warn_at_percent: row.json("warn_at_percent")?,
        enabled: row.flag("enabled")?,
        created_at: Timestamp(row.number("created_at")?),
        updated_at: Timestamp(row.number("updated_at")?),
    })
}

/// The columns `org`, `team`, `description`, `labels`, `models`, `max_input_tokens`, `max_output_tokens`, `enabled`,
/// `created_at`, `updated_at`, `kind`, `name`.
pub(super) fn party_values(party: &Party) -> Result<[Value<'_>; 12], StoreError> {
    Ok([
        Value::maybe(party.org.as_deref()),
        Value::maybe(party.team.as_deref()),
        Value::text(&party.description),
        Value::owned(Some(json(&party.labels)?)),
        Value::owned(Some(json(&party.models)?)),
        cap(party.caps.max_input_tokens),
        cap(party.caps.max_output_tokens),
        Value::Flag(party.enabled),
        time(party.created_at),
        time(party.updated_at),
        Value::text(party.kind.as_str()),
        Value::text(&party.name),
    ])
}

pub(super) fn party(row: &impl Row) -> Result<Party, StoreError> {
    let kind = row.word("kind")?;
    let kind = PartyKind::ALL.into_iter().find(|known| known.as_str() == kind);
    Ok(Party {
        kind: kind.ok_or_else(|| StoreError::Corrupt("a party is of no known kind".into()))?,
        name: row.word("name")?.into(),
        org: row.text("org")?.map(Into::into),
        team: row.text("team")?.map(Into::into),
        description: row.word("description")?,
        labels: row.json("labels")?,
        models: row.json("models")?,
        caps: caps(row)?,
        enabled: row.flag("enabled")?,
        created_at: Timestamp(row.number("created_at")?),
        updated_at: Timestamp(row.number("updated_at")?),
    })
}

/// The columns `id`, `config`, `created_at`, `updated_at`, `position`.
pub(super) fn route_values(route: &StoredRoute, position: i64) -> Result<[Value<'_>; 5], StoreError> {
    Ok([
        Value::text(&route.id),
        Value::owned(Some(json(&route.config)?)),
        time(route.created_at),
        time(route.updated_at),
        Value::Integer(Some(position)),
    ])
}

/// The columns `config`, `updated_at`, `id`: what an update of a route sets.
pub(super) fn route_changes(route: &StoredRoute) -> Result<[Value<'_>; 3], StoreError> {
    let [id, config, _, updated_at, _] = route_values(route, route.position)?;
    Ok([config, updated_at, id])
}

pub(super) fn route(row: &impl Row) -> Result<StoredRoute, StoreError> {
    Ok(StoredRoute {
        id: row.word("id")?.into(),
        position: row.number("position")?,
        config: row.json("config")?,
        created_at: Timestamp(row.number("created_at")?),
        updated_at: Timestamp(row.number("updated_at")?),
    })
}

/// The columns `id`, `provider`, `model`, `effective`, `config`, `changed_by`, `created_at`, `updated_at`.
pub(super) fn price_values(price: &StoredPrice) -> Result<[Value<'_>; 8], StoreError> {
    Ok([
        Value::text(&price.id),
        Value::text(price.row.provider.as_deref().unwrap_or_default()),
        Value::text(&price.row.model),
        Value::text(price.row.effective.as_deref().unwrap_or_default()),
        Value::owned(Some(json(&price.row)?)),
        Value::text(&price.changed_by),
        time(price.created_at),
        time(price.updated_at),
    ])
}

pub(super) fn price(row: &impl Row) -> Result<StoredPrice, StoreError> {
    Ok(StoredPrice {
        id: row.word("id")?.into(),
        row: row.json("config")?,
        changed_by: row.word("changed_by")?,
        created_at: Timestamp(row.number("created_at")?),
        updated_at: Timestamp(row.number("updated_at")?),
    })
}

fn time(time: Timestamp) -> Value<'static> {
    Value::Integer(Some(time.micros()))
}

fn maybe_time(time: Option<Timestamp>) -> Value<'static> {
    Value::Integer(time.map(Timestamp::micros))
}

fn hash_value(hash: &TokenHash) -> Value<'_> {
    Value::Bytes(Some(hash.0.as_slice().into()))
}

fn hash(row: &impl Row) -> Result<TokenHash, StoreError> {
    let hash = row.bytes("hash")?.and_then(|bytes| bytes.try_into().ok());
    hash.map(TokenHash).ok_or_else(|| StoreError::Corrupt("a token hash has not 32 bytes".into()))
}

/// A cap as a column; beyond 2^63-1 it caps nothing that could be counted.
fn cap(cap: Option<u64>) -> Value<'static> {
    Value::Integer(cap.map(|cap| i64::try_from(cap).unwrap_or(i64::MAX)))
}

fn caps(row: &impl Row) -> Result<RequestCaps, StoreError> {
    let (input, output) = (row.count("max_input_tokens")?, row.count("max_output_tokens")?);
    Ok(RequestCaps { max_input_tokens: input, max_output_tokens: output })
}

/// The bare word of a value that JSON writes as one text.
fn word(value: &impl serde::Serialize) -> Result<Value<'static>, StoreError> {
    Ok(Value::owned(Some(json(value)?.trim_matches('"').to_owned())))
}

/// A column that holds such a word.
fn from_word<T: serde::de::DeserializeOwned>(row: &impl Row, column: &str) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(row.word(column)?))
        .map_err(|cause| StoreError::Corrupt(format!("column {column}: {cause}").into()))
}
