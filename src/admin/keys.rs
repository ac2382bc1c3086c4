//! Application keys. A token is in exactly two answers: the one that makes it and the one that replaces it.
//!
//! Whatever a write changes is in force in this process before its answer leaves: the store takes it first, then the ring
//! gets what the store now holds, so a revocation by another process cannot be undone here by an old copy.

use std::collections::BTreeMap;

use axum::response::Response;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::admin::respond::{self, Body, ErrorAnswer, Params, Refusal, Segment};
use crate::admin::shape::{self, Labels};
use crate::admin::time::Time;
use crate::config::PrefixStyle;
use crate::kavach::memory;
use crate::key::draft::{KeyDefaults, NewKey};
use crate::key::party::RequestCaps;
use crate::key::store::{KeyFilter, KeyPage};
use crate::key::token::TokenStyle;
use crate::key::{Key, KeyState};
use crate::unit::clock::Timestamp;

/// A key as operators see it; neither the token nor its hash is part of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyView {
    /// `key_` and 26 characters; never changes.
    pub id: String,
    /// A name for people.
    pub name: String,
    /// The beginning and the end of the token.
    pub hint: String,
    /// The organisation that it acts for.
    pub org: Option<String>,
    /// The team that it acts for.
    pub team: Option<String>,
    /// The person or service that it acts for.
    pub user: Option<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Patterns of the models that it may ask for; empty allows all.
    pub models: Vec<String>,
    /// The networks that it may be used from; empty allows all.
    pub addresses: Vec<String>,
    /// What it is good for now.
    pub status: KeyStatus,
    /// Whether it is switched on.
    pub enabled: bool,
    /// When it was made.
    pub created_at: Time,
    /// From when on it is refused.
    pub expires_at: Option<Time>,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
    /// When its token was last replaced.
    pub rotated_at: Option<Time>,
    /// When its suspension ends by itself; null if it is not suspended, or until an operator releases it.
    pub suspended_until: Option<Time>,
    /// Why it is suspended.
    pub suspended_reason: Option<String>,
    /// The most input tokens of one request; null is no cap of its own.
    pub max_input_tokens: Option<u64>,
    /// The most output tokens of one request; null is no cap of its own.
    pub max_output_tokens: Option<u64>,
}

/// What a key is good for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyStatus {
    /// It is admitted.
    Active,
    /// Switched off until somebody switches it on.
    Disabled,
    /// Past its expiry.
    Expired,
    /// Resting, by a policy of the gate.
    Suspended,
    /// Ended for ever.
    Revoked,
}

impl From<KeyState> for KeyStatus {
    fn from(state: KeyState) -> Self {
        match state {
            KeyState::Active => Self::Active,
            KeyState::Disabled => Self::Disabled,
            KeyState::Expired => Self::Expired,
            KeyState::Suspended => Self::Suspended,
            KeyState::Revoked => Self::Revoked,
        }
    }
}

impl From<KeyStatus> for KeyState {
    fn from(status: KeyStatus) -> Self {
        match status {
            KeyStatus::Active => Self::Active,
            KeyStatus::Disabled => Self::Disabled,
            KeyStatus::Expired => Self::Expired,
            KeyStatus::Suspended => Self::Suspended,
            KeyStatus::Revoked => Self::Revoked,
        }
    }
}

impl From<&Key> for KeyView {
    fn from(key: &Key) -> Self {
        let fields = NewKey::of(key);
        Self {
            id: key.id.to_string(),
            name: fields.name,
            hint: key.hint.clone(),
            org: fields.org,
            team: fields.team,
            user: fields.user,
            labels: fields.labels,
            models: fields.models,
            addresses: fields.addresses,
            status: key.state(Timestamp::now()).into(),
            enabled: key.enabled,
            created_at: key.created_at.into(),
            expires_at: key.expires_at.map(Time),
            revoked_at: key.revoked_at.map(Time),
            rotated_at: key.rotated_at.map(Time),
            suspended_until: key.suspension.as_ref().and_then(|rest| rest.until).map(Time),
            suspended_reason: key.suspension.as_ref().map(|rest| rest.reason.to_string()),
            max_input_tokens: key.caps.max_input_tokens,
            max_output_tokens: key.caps.max_output_tokens,
        }
    }
}

/// A key and its token.
#[derive(Serialize, ToSchema)]
pub struct KeyWithToken {
    /// The key.
    pub key: KeyView,
    /// The token. It is shown this once only.
    pub token: String,
}

/// A page of keys.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyListView {
    /// The keys, newest first.
    pub keys: Vec<KeyView>,
    /// What to pass as `cursor` for the rest; null at the end.
    pub next_cursor: Option<String>,
}

/// Which keys to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeyQuery {
    /// Only those of this organisation.
    #[param(min_length = 1, max_length = 128)]
    org: Option<String>,
    /// Only those of this team.
    #[param(min_length = 1, max_length = 128)]
    team: Option<String>,
    /// Only those of this user.
    #[param(min_length = 1, max_length = 128)]
    user: Option<String>,
    /// Only those whose name has this part, in any case.
    #[param(min_length = 1, max_length = 128)]
    name: Option<String>,
    /// Only those with this label, written `name=value`.
    #[param(pattern = r"^[^=\x00-\x1f\x7f-\x9f]{1,64}=[^\x00-\x1f\x7f-\x9f]{0,256}$")]
    label: Option<String>,
    /// Only those in this state.
    #[param(inline)]
    status: Option<KeyStatus>,
    /// The most keys in the answer.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<u32>,
    /// Where an earlier page ended.
    #[param(pattern = "^key_[0-9a-v]{26}$")]
    cursor: Option<String>,
}

/// A new key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyCreate {
    /// A name for people, of at most 128 characters, not only white space.
    #[schema(schema_with = shape::name)]
    name: String,
    /// The organisation that it acts for.
    #[serde(default)]
    #[schema(schema_with = shape::name_or_null)]
    org: Option<String>,
    /// The team that it acts for.
    #[serde(default)]
    #[schema(schema_with = shape::name_or_null)]
    team: Option<String>,
    /// The person or service that it acts for.
    #[serde(default)]
    #[schema(schema_with = shape::name_or_null)]
    user: Option<String>,
    /// Free labels; left out, as the setting `keys.defaults.labels` says.
    #[serde(default, deserialize_with = "some")]
    #[schema(value_type = Labels)]
    labels: Option<Labels>,
    /// Patterns of the models that it may ask for (`*` any run, `?` one character); empty allows all. Left out, as the setting
    /// `keys.defaults.models` says.
    #[serde(default, deserialize_with = "some")]
    #[schema(schema_with = shape::patterns)]
    models: Option<Vec<String>>,
    /// Addresses or networks that it may be used from; empty allows all.
    #[serde(default)]
    #[schema(schema_with = shape::networks)]
    addresses: Vec<String>,
    /// From when on it is refused; it must lie ahead (409). Left out, as the setting `keys.defaults.expires_in` says; null is
    /// never.
    #[serde(default, deserialize_with = "some")]
    #[schema(value_type = Option<Time>)]
    expires_at: Option<Option<Time>>,
    /// The most input tokens of one request. Left out, as the setting `keys.defaults` says; null is no cap.
    #[serde(default, deserialize_with = "shape::some_count")]
    #[schema(schema_with = shape::cap)]
    max_input_tokens: Option<Option<u64>>,
    /// The most output tokens of one request. Left out, as the setting `keys.defaults` says; null is no cap.
    #[serde(default, deserialize_with = "shape::some_count")]
    #[schema(schema_with = shape::cap)]
    max_output_tokens: Option<Option<u64>>,
    /// How its token begins; left out, as the setting `keys.prefix_style` says.
    #[serde(default)]
    #[schema(inline)]
    style: Option<PrefixStyle>,
}

/// What to change about a key. What is left out stays; null removes, and stands for an empty list and no labels. A name and
/// whether it is switched on cannot be removed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyPatch {
    /// A name for people.
    #[serde(default, deserialize_with = "some")]
    #[schema(schema_with = shape::name)]
    name: Option<String>,
    /// The organisation that it acts for.
    #[serde(default, deserialize_with = "some")]
    #[schema(schema_with = shape::name_or_null)]
    org: Option<Option<String>>,
    /// The team that it acts for.
    #[serde(default, deserialize_with = "some")]
    #[schema(schema_with = shape::name_or_null)]
    team: Option<Option<String>>,
    /// The person or service that it acts for.
    #[serde(default, deserialize_with = "some")]
    #[schema(schema_with = shape::name_or_null)]
    user: Option<Option<String>>,
    /// Free labels; they replace all that there are.
    #[serde(default, deserialize_with = "some_or_none")]
    #[schema(value_type = Option<Labels>)]
    labels: Option<Labels>,
    /// Patterns of the models that it may ask for; they replace all that there are.
    #[serde(default, deserialize_with = "some_or_none")]
    #[schema(schema_with = shape::patterns_or_null)]
    models: Option<Vec<String>>,
    /// Addresses or networks that it may be used from; they replace all that there are.
    #[serde(default, deserialize_with = "some_or_none")]
    #[schema(schema_with = shape::networks_or_null)]
    addresses: Option<Vec<String>>,
    /// From when on it is refused; it must lie ahead (409).
    #[serde(default, deserialize_with = "some")]
    #[schema(value_type = Option<Time>)]
    expires_at: Option<Option<Time>>,
    /// Whether it is switched on.
    #[serde(default, deserialize_with = "some")]
    #[schema(nullable = false)]
    enabled: Option<bool>,
    /// The most input tokens of one request.
    #[serde(default, deserialize_with = "shape::some_count")]
    #[schema(schema_with = shape::cap)]
    max_input_tokens: Option<Option<u64>>,
    /// The most output tokens of one request.
    #[serde(default, deserialize_with = "shape::some_count")]
    #[schema(schema_with = shape::cap)]
    max_output_tokens: Option<Option<u64>>,
}

/// Which key.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "it only describes the parameter; `Segment` reads it")]
struct KeyPath {
    /// The key.
    #[param(pattern = "^key_[0-9a-v]{26}$")]
    id: String,
}

/// Tells a field that is there from one that is left out, so that null can mean something.
pub(super) fn some<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The same for what is empty rather than absent, so that null empties it.
pub(super) fn some_or_none<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(|value: Option<T>| Some(value.unwrap_or_default()))
}

/// Lists keys, newest first.
#[utoipa::path(get, path = "/admin/keys", operation_id = "list_keys", tag = "keys", params(KeyQuery), responses(
    (status = 200, description = "A page of keys.", body = KeyListView),
))]
pub async fn list(state: State, Params(query): Params<KeyQuery>) -> Result<Response, Refusal> {
    let (filter, page) = query.check()?;
    let found = state.keys.list(&filter, &page).await.map_err(crate::error::Error::from)?;
    Ok(respond::ok(&KeyListView { keys: found.keys.iter().map(KeyView::from).collect(), next_cursor: found.next }))
}

/// Makes a key.
///
/// The answer holds the token; it is shown this once only.
#[utoipa::path(post, path = "/admin/keys", operation_id = "create_key", tag = "keys", request_body = KeyCreate, responses(
    (status = 201, description = "The key and its token.", body = KeyWithToken),
    (status = 409, description = "The expiry does not lie ahead.", body = ErrorAnswer),
))]
pub async fn create(state: State, Body(body): Body<KeyCreate>) -> Result<Response, Refusal> {
    let now = Timestamp::now();
    shape::check_patterns("models", body.models.as_deref().unwrap_or_default())?;
    shape::check_ahead(body.expires_at.flatten(), now)?;
    let style = style(body.style.unwrap_or(state.prefix_style));
    let draft = body.draft(state.control.key_defaults(), now);
    let (key, minted) = draft.check(now)?.mint(style, &state.hash_key, now)?;
    state.keys.insert(&key).await.map_err(crate::error::Error::from)?;
    let answer = KeyWithToken { key: KeyView::from(&key), token: minted.token.expose().to_owned() };
    state.ring.put(key);
    Ok(respond::created(&answer))
}

/// Shows a key.
#[utoipa::path(get, path = "/admin/keys/{id}", operation_id = "get_key", tag = "keys",
    params(KeyPath), responses(
    (status = 200, description = "The key.", body = KeyView),
    (status = 404, description = "There is no such key.", body = ErrorAnswer),
))]
pub async fn show(state: State, id: Segment) -> Result<Response, Refusal> {
    Ok(respond::ok(&KeyView::from(&find(&state, &id).await?)))
}

/// Changes fields of a key.
///
/// What is left out stays; null removes. A revoked key stays as it is.
#[utoipa::path(patch, path = "/admin/keys/{id}", operation_id = "update_key", tag = "keys", request_body = KeyPatch,
    params(KeyPath), responses(
    (status = 200, description = "The key as it is now.", body = KeyView),
    (status = 404, description = "There is no such key.", body = ErrorAnswer),
    (status = 409, description = "The key is revoked, or the expiry does not lie ahead.", body = ErrorAnswer),
))]
pub async fn patch(state: State, id: Segment, Body(patch): Body<KeyPatch>) -> Result<Response, Refusal> {
    let now = Timestamp::now();
    shape::check_patterns("models", patch.models.as_deref().unwrap_or_default())?;
    shape::check_ahead(patch.expires_at.flatten(), now)?;
    change(&state, &id, |key| {
        check_not_revoked(key)?;
        patch.apply(key, now)
    })
    .await
}

/// Deletes a key.
///
/// Its token stops working at once; the request log keeps its id.
#[utoipa::path(delete, path = "/admin/keys/{id}", operation_id = "delete_key", tag = "keys",
    params(KeyPath), responses(
    (status = 204, description = "It is gone."),
    (status = 404, description = "There is no such key.", body = ErrorAnswer),
))]
pub async fn delete(state: State, id: Segment) -> Result<Response, Refusal> {
    let id = id.id("key")?;
    let _turn = state.turn.lock().await;
    state.keys.delete(id).await.map_err(|error| shape::missing_or(error, "key"))?;
    state.ring.remove(id);
    Ok(respond::nothing())
}

/// Revokes a key for ever.
///
/// Its token stops working at once. Revoking it again changes nothing.
#[utoipa::path(post, path = "/admin/keys/{id}/revoke", operation_id = "revoke_key", tag = "keys",
    params(KeyPath), responses(
    (status = 200, description = "The key as it is now.", body = KeyView),
    (status = 404, description = "There is no such key.", body = ErrorAnswer),
))]
pub async fn revoke(state: State, id: Segment) -> Result<Response, Refusal> {
    change(&state, &id, |key| {
        key.revoked_at = key.revoked_at.or_else(|| Some(Timestamp::now()));
        Ok(())
    })
    .await
}

/// Gives a key a new token.
///
/// The old token stops working at once. The new one begins as the old one did and is shown this once only.
#[utoipa::path(post, path = "/admin/keys/{id}/rotate", operation_id = "rotate_key", tag = "keys",
    params(KeyPath), responses(
    (status = 200, description = "The key and its new token.", body = KeyWithToken),
    (status = 404, description = "There is no such key.", body = ErrorAnswer),
    (status = 409, description = "The key is revoked.", body = ErrorAnswer),
))]
pub async fn rotate(state: State, id: Segment) -> Result<Response, Refusal> {
    let _turn = state.turn.lock().await;
    let mut key = find(&state, &id).await?;
    let minted = key.rotate(style_of(&key.hint), &state.hash_key, Timestamp::now())?;
    let stored = store(&state, &key).await?;
    // Whoever rotated in another process at the same time with a later clock has won; this token would be dead.
    if stored.hash != key.hash {
        return Err(Refusal::conflict("The key was rotated elsewhere at the same time; rotate it again."));
    }
    Ok(respond::ok(&KeyWithToken { key: KeyView::from(&stored), token: minted.token.expose().to_owned() }))
}

/// Switches a key on.
#[utoipa::path(post, path = "/admin/keys/{id}/enable", operation_id = "enable_key", tag = "keys",
    params(KeyPath), responses(
    (status = 200, description = "The key as it is now.", body = KeyView),
    (status = 404, description = "There is no such key.", body = ErrorAnswer),
    (status = 409, description = "The key is revoked.", body = ErrorAnswer),
))]
pub async fn enable(state: State, id: Segment) -> Result<Response, Refusal> {
    change(&state, &id, |key| switch(key, true)).await
}

/// Switches a key off until it is switched on again.
#[utoipa::path(post, path = "/admin/keys/{id}/disable", operation_id = "disable_key", tag = "keys",
    params(KeyPath), responses(
    (status = 200, description = "The key as it is now.", body = KeyView),
    (status = 404, description = "There is no such key.", body = ErrorAnswer),
    (status = 409, description = "The key is revoked.", body = ErrorAnswer),
))]
pub async fn disable(state: State, id: Segment) -> Result<Response, Refusal> {
    change(&state, &id, |key| switch(key, false)).await
}

/// Ends the suspension of a key.
///
/// What was learned of its habits is forgotten with it, or its next call would be as odd as the one before. Releasing a key
/// that does not rest changes nothing.
#[utoipa::path(post, path = "/admin/keys/{id}/release", operation_id = "release_key", tag = "keys",
    params(KeyPath), responses(
    (status = 200, description = "The key as it is now.", body = KeyView),
    (status = 404, description = "There is no such key.", body = ErrorAnswer),
))]
pub async fn release(state: State, id: Segment) -> Result<Response, Refusal> {
    let _turn = state.turn.lock().await;
    let name = id.id("key")?;
    let key = {
        let _alone = state.ring.turn_of_suspensions().await;
        state.keys.suspend(name, None).await.map_err(|error| shape::missing_or(error, "key"))?;
        let key = find(&state, &id).await?;
        state.ring.release(key.clone());
        key
    };
    memory::forget(&*state.memory, name, Timestamp::now()).await.map_err(crate::error::Error::from)?;
    if let Some(guard) = state.control.guard() {
        guard.memory.take_marks(Timestamp::now()).await.map_err(crate::error::Error::from)?;
    }
    Ok(respond::ok(&KeyView::from(&key)))
}

fn switch(key: &mut Key, on: bool) -> Result<(), Refusal> {
    check_not_revoked(key)?;
    key.enabled = on;
    Ok(())
}

fn check_not_revoked(key: &Key) -> Result<(), Refusal> {
    match key.revoked_at {
        Some(_) => Err(Refusal::conflict("The key is revoked; a revoked key never works again.")),
        None => Ok(()),
    }
}

async fn change(
    state: &State,
    id: &Segment,
    edit: impl FnOnce(&mut Key) -> Result<(), Refusal>,
) -> Result<Response, Refusal> {
    let _turn = state.turn.lock().await;
    let mut key = find(state, id).await?;
    edit(&mut key)?;
    Ok(respond::ok(&KeyView::from(&store(state, &key).await?)))
}

async fn find(state: &State, id: &Segment) -> Result<Key, Refusal> {
    let found = state.keys.get(id.id("key")?).await.map_err(crate::error::Error::from)?;
    found.ok_or_else(|| Refusal::missing("key"))
}

/// Writes a key and puts what the store then holds into the ring.
async fn store(state: &State, key: &Key) -> Result<Key, Refusal> {
    state.keys.update(key).await.map_err(|error| shape::missing_or(error, "key"))?;
    let stored = state.keys.get(&key.id).await.map_err(crate::error::Error::from)?;
    let stored = stored.ok_or_else(|| Refusal::missing("key"))?;
    state.ring.put(stored.clone());
    Ok(stored)
}

fn style(prefix: PrefixStyle) -> TokenStyle {
    match prefix {
        PrefixStyle::Marg => TokenStyle::Marg,
        PrefixStyle::OpenAi => TokenStyle::OpenAi,
        PrefixStyle::Anthropic => TokenStyle::Anthropic,
    }
}

/// The style of the token that a hint is from.
fn style_of(hint: &str) -> TokenStyle {
    let longest_first = [TokenStyle::Anthropic, TokenStyle::OpenAi];
    longest_first.into_iter().find(|style| hint.starts_with(style.prefix())).unwrap_or(TokenStyle::Marg)
}

impl KeyCreate {
    /// The key that is asked for, with the operator's defaults where the request says nothing.
    fn draft(self, defaults: KeyDefaults, now: Timestamp) -> NewKey {
        let KeyDefaults { caps, expires_in, labels, models } = defaults;
        let expiry = self.expires_at.map(|at| at.map(|at| at.0));
        NewKey {
            name: self.name,
            org: self.org,
            team: self.team,
            user: self.user,
            labels: self.labels.map_or(labels, |labels| labels.0),
            models: self.models.unwrap_or_else(|| models.iter().map(|pattern| pattern.as_str().to_owned()).collect()),
            addresses: self.addresses,
            disabled: false,
            expires_at: expiry.unwrap_or_else(|| expires_in.map(|span| now.plus(span))),
            caps: RequestCaps {
                max_input_tokens: self.max_input_tokens.unwrap_or(caps.max_input_tokens),
                max_output_tokens: self.max_output_tokens.unwrap_or(caps.max_output_tokens),
            },
        }
    }
}

impl KeyPatch {
    fn apply(self, key: &mut Key, now: Timestamp) -> Result<(), Refusal> {
        if self.enabled.is_some_and(|enabled| enabled != key.enabled) {
            switch(key, !key.enabled)?;
        }
        // An expiry that stays as it is may be over; only a new one must lie ahead.
        let since = if self.expires_at.is_some() { now } else { Timestamp(0) };
        let mut draft = NewKey::of(key);
        draft.name = self.name.unwrap_or(draft.name);
        draft.org = self.org.unwrap_or(draft.org);
        draft.team = self.team.unwrap_or(draft.team);
        draft.user = self.user.unwrap_or(draft.user);
        draft.labels = self.labels.map_or(draft.labels, |labels| labels.0);
        draft.models = self.models.unwrap_or(draft.models);
        draft.addresses = self.addresses.unwrap_or(draft.addresses);
        draft.expires_at = self.expires_at.map_or(draft.expires_at, |at| at.map(|at| at.0));
        draft.caps.max_input_tokens = self.max_input_tokens.unwrap_or(draft.caps.max_input_tokens);
        draft.caps.max_output_tokens = self.max_output_tokens.unwrap_or(draft.caps.max_output_tokens);
        draft.check(since)?.apply(key);
        Ok(())
    }
}

impl KeyQuery {
    fn check(self) -> Result<(KeyFilter, KeyPage), Refusal> {
        let limit = shape::check_limit(self.limit)?;
        shape::check_word("org", self.org.as_deref())?;
        shape::check_word("team", self.team.as_deref())?;
        shape::check_word("user", self.user.as_deref())?;
        shape::check_word("name", self.name.as_deref())?;
        let label = match &self.label {
            Some(text) => Some(shape::label(text)?),
            None => None,
        };
        if self.cursor.as_deref().is_some_and(|cursor| !respond::is_id("key", cursor)) {
            return Err(Refusal::invalid("cursor", "The cursor is not one that an earlier page gave."));
        }
        let state = self.status.map(|status| (status.into(), Timestamp::now()));
        let filter = KeyFilter { org: self.org, team: self.team, user: self.user, name: self.name, label, state };
        Ok((filter, KeyPage { after: self.cursor, limit }))
    }
}
