//! Users, whose rows say what their keys may do.

use axum::response::Response;

use crate::admin::State;
use crate::admin::parties::{self, PartyCreate, PartyDetail, PartyList, PartyPatch, PartyPath, PartyView};
use crate::admin::respond::{Body, ErrorAnswer, Refusal, Segment};
use crate::key::party::PartyKind;

const KIND: PartyKind = PartyKind::User;

/// Lists the users that have a row.
#[utoipa::path(get, path = "/admin/users", operation_id = "list_users", tag = "users", responses(
    (status = 200, description = "The users, by name.", body = PartyList),
))]
pub async fn list(state: State) -> Result<Response, Refusal> {
    parties::list(&state, KIND).await
}

/// Makes a user.
#[utoipa::path(post, path = "/admin/users", operation_id = "create_user", tag = "users", request_body = PartyCreate, responses(
    (status = 201, description = "The user.", body = PartyView),
    (status = 409, description = "This name is there already.", body = ErrorAnswer),
))]
pub async fn create(state: State, Body(body): Body<PartyCreate>) -> Result<Response, Refusal> {
    parties::create(&state, KIND, body).await
}

/// Shows a user with its limits, how they stand, and what it used.
#[utoipa::path(get, path = "/admin/users/{name}", operation_id = "get_user", tag = "users", params(PartyPath), responses(
    (status = 200, description = "The user.", body = PartyDetail),
    (status = 404, description = "There is no such user.", body = ErrorAnswer),
))]
pub async fn show(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::show(&state, KIND, &name).await
}

/// Changes fields of a user.
///
/// What is left out stays; null removes.
#[utoipa::path(patch, path = "/admin/users/{name}", operation_id = "update_user", tag = "users", params(PartyPath),
    request_body = PartyPatch, responses(
    (status = 200, description = "The user as it is now.", body = PartyView),
    (status = 404, description = "There is no such user.", body = ErrorAnswer),
))]
pub async fn patch(state: State, name: Segment, Body(patch): Body<PartyPatch>) -> Result<Response, Refusal> {
    parties::patch(&state, KIND, &name, patch).await
}

/// Deletes a user.
///
/// Its keys keep its name and go on as if it had never had a row.
#[utoipa::path(delete, path = "/admin/users/{name}", operation_id = "delete_user", tag = "users", params(PartyPath),
    responses(
    (status = 204, description = "It is gone."),
    (status = 404, description = "There is no such user.", body = ErrorAnswer),
))]
pub async fn delete(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::delete(&state, KIND, &name).await
}

/// Admits the keys of a user again.
#[utoipa::path(post, path = "/admin/users/{name}/enable", operation_id = "enable_user", tag = "users", params(PartyPath),
    responses(
    (status = 200, description = "The user as it is now.", body = PartyView),
    (status = 404, description = "There is no such user.", body = ErrorAnswer),
))]
pub async fn enable(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::switch(&state, KIND, &name, true).await
}

/// Refuses every key of a user until it is enabled again.
#[utoipa::path(post, path = "/admin/users/{name}/disable", operation_id = "disable_user", tag = "users", params(PartyPath),
    responses(
    (status = 200, description = "The user as it is now.", body = PartyView),
    (status = 404, description = "There is no such user.", body = ErrorAnswer),
))]
pub async fn disable(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::switch(&state, KIND, &name, false).await
}
