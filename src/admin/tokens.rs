//! Admin tokens: who may use this API, and for what.
//!
//! Nobody can lock everybody out: a token cannot revoke itself, and the last active one of the role admin cannot be revoked.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::admin::auth::Caller;
use crate::admin::respond::{self, Body, ErrorAnswer, Refusal, Segment};
use crate::admin::shape;
use crate::admin::time::Time;
use crate::error::Error;
use crate::key::admin::{AdminToken, Role};
use crate::unit::clock::Timestamp;

/// What the holder of a token may do.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RoleName {
    /// Everything.
    Admin,
    /// See all but the administrators; change keys and routes; reload.
    Operator,
    /// See everything.
    Auditor,
    /// See everything except the request log and the administrators.
    ReadOnly,
}

impl From<Role> for RoleName {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Operator => Self::Operator,
            Role::Auditor => Self::Auditor,
            Role::ReadOnly => Self::ReadOnly,
        }
    }
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Admin => Self::Admin,
            RoleName::Operator => Self::Operator,
            RoleName::Auditor => Self::Auditor,
            RoleName::ReadOnly => Self::ReadOnly,
        }
    }
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenStatus {
    /// It is accepted.
    Active,
    /// Past its expiry.
    Expired,
    /// Ended for ever.
    Revoked,
}

/// An admin token as administrators see it; neither the token nor its hash is part of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenView {
    /// `adm_` and 26 characters; never changes.
    pub id: String,
    /// Who or what it is for.
    pub label: String,
    /// What the holder may do.
    pub role: RoleName,
    /// The beginning and the end of the token.
    pub hint: String,
    /// What it is good for now.
    pub status: TokenStatus,
    /// When it was made.
    pub created_at: Time,
    /// From when on it is refused.
    pub expires_at: Option<Time>,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
}

impl From<&AdminToken> for TokenView {
    fn from(token: &AdminToken) -> Self {
        let status = match token.revoked_at {
            Some(_) => TokenStatus::Revoked,
            None if token.is_active(Timestamp::now()) => TokenStatus::Active,
            None => TokenStatus::Expired,
        };
        Self {
            id: token.id.to_string(),
            label: token.label.clone(),
            role: token.role.into(),
            hint: token.hint.clone(),
            status,
            created_at: token.created_at.into(),
            expires_at: token.expires_at.map(Time),
            revoked_at: token.revoked_at.map(Time),
        }
    }
}

/// An admin token and its text.
#[derive(Serialize, ToSchema)]
pub struct TokenWithText {
    /// The admin token.
    pub admin_token: TokenView,
    /// Its text. It is shown this once only.
    pub token: String,
}

/// Every admin token.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenList {
    /// Newest first.
    pub admin_tokens: Vec<TokenView>,
}

/// A new admin token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// Who or what it is for, of at most 128 characters, not only white space.
    #[schema(schema_with = shape::name)]
    label: String,
    /// What the holder may do.
    role: RoleName,
    /// From when on it is refused; it must lie ahead (409).
    #[serde(default)]
    expires_at: Option<Time>,
}

/// Which admin token.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "it only describes the parameter; `Segment` reads it")]
struct TokenPath {
    /// The admin token.
    #[param(pattern = "^adm_[0-9a-v]{26}$")]
    id: String,
}

/// Lists every admin token, newest first.
#[utoipa::path(get, path = "/admin/tokens", operation_id = "list_admin_tokens", tag = "tokens", responses(
    (status = 200, description = "Every admin token.", body = TokenList),
))]
pub async fn list(state: State) -> Result<Response, Refusal> {
    let all = state.tokens.all().await.map_err(Error::from)?;
    Ok(respond::ok(&TokenList { admin_tokens: all.iter().map(TokenView::from).collect() }))
}

/// Makes an admin token.
///
/// The answer holds its text; it is shown this once only.
#[utoipa::path(post, path = "/admin/tokens", operation_id = "create_admin_token", tag = "tokens",
    request_body = TokenCreate, responses(
    (status = 201, description = "The admin token and its text.", body = TokenWithText),
    (status = 409, description = "The expiry does not lie ahead, or there are too many.", body = ErrorAnswer),
))]
pub async fn create(state: State, Body(body): Body<TokenCreate>) -> Result<Response, Refusal> {
    let now = Timestamp::now();
    shape::check_ahead(body.expires_at, now)?;
    let expires_at = body.expires_at.map(|at| at.0);
    let (token, minted) = AdminToken::mint(&body.label, body.role.into(), expires_at, &state.hash_key, now)?;
    state.tokens.insert(&token).await.map_err(Error::from)?;
    let answer = TokenWithText { admin_token: TokenView::from(&token), token: minted.token.expose().to_owned() };
    Ok(respond::created(&answer))
}

/// Shows an admin token.
#[utoipa::path(get, path = "/admin/tokens/{id}", operation_id = "get_admin_token", tag = "tokens",
    params(TokenPath), responses(
    (status = 200, description = "The admin token.", body = TokenView),
    (status = 404, description = "There is no such admin token.", body = ErrorAnswer),
))]
pub async fn show(state: State, id: Segment) -> Result<Response, Refusal> {
    let token = state.tokens.get(id.id("adm")?).await.map_err(Error::from)?;
    let token = token.ok_or_else(|| Refusal::missing("admin token"))?;
    Ok(respond::ok(&TokenView::from(&token)))
}

/// Revokes an admin token for ever.
///
/// It stops working at once. Revoking it again changes nothing.
#[utoipa::path(post, path = "/admin/tokens/{id}/revoke", operation_id = "revoke_admin_token", tag = "tokens",
    params(TokenPath), responses(
    (status = 200, description = "The admin token as it is now.", body = TokenView),
    (status = 404, description = "There is no such admin token.", body = ErrorAnswer),
    (status = 409, description = "It is the one that asks, or the last active one of the role admin.", body = ErrorAnswer),
))]
pub async fn revoke(state: State, caller: Caller, id: Segment) -> Result<Response, Refusal> {
    let id = id.id("adm")?;
    if caller.token.as_deref() == Some(id) {
        return Err(Refusal::conflict("An admin token cannot revoke itself; use another one."));
    }
    let now = Timestamp::now();
    let _turn = state.turn.lock().await;
    let all = state.tokens.all().await.map_err(Error::from)?;
    let token = all.iter().find(|token| &*token.id == id).ok_or_else(|| Refusal::missing("admin token"))?;
    if token.revoked_at.is_some() {
        return Ok(respond::ok(&TokenView::from(token)));
    }
    let rules = |token: &&AdminToken| token.role == Role::Admin && token.is_active(now);
    if rules(&token) && all.iter().filter(rules).count() == 1 {
        return Err(Refusal::conflict(
            "This is the last active admin token of the role admin; make another one first.",
        ));
    }
    let mut token = token.clone();
    token.revoked_at = Some(now);
    state.tokens.update(&token).await.map_err(|error| shape::missing_or(error, "admin token"))?;
    Ok(respond::ok(&TokenView::from(&token)))
}
