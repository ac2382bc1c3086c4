//! Organisations, whose rows say what their keys may do.

use axum::response::Response;

use crate::admin::State;
use crate::admin::parties::{self, PartyCreate, PartyDetail, PartyList, PartyPatch, PartyPath, PartyView};
use crate::admin::respond::{Body, ErrorAnswer, Refusal, Segment};
use crate::key::party::PartyKind;

const KIND: PartyKind = PartyKind::Org;

/// Lists the organisations that have a row.
#[utoipa::path(get, path = "/admin/orgs", operation_id = "list_orgs", tag = "orgs", responses(
    (status = 200, description = "The organisations, by name.", body = PartyList),
))]
pub async fn list(state: State) -> Result<Response, Refusal> {
    parties::list(&state, KIND).await
}

/// Makes an organisation.
#[utoipa::path(post, path = "/admin/orgs", operation_id = "create_org", tag = "orgs", request_body = PartyCreate, responses(
    (status = 201, description = "The organisation.", body = PartyView),
    (status = 409, description = "This name is there already.", body = ErrorAnswer),
))]
pub async fn create(state: State, Body(body): Body<PartyCreate>) -> Result<Response, Refusal> {
    parties::create(&state, KIND, body).await
}

/// Shows an organisation with its limits, how they stand, and what it used.
#[utoipa::path(get, path = "/admin/orgs/{name}", operation_id = "get_org", tag = "orgs", params(PartyPath), responses(
    (status = 200, description = "The organisation.", body = PartyDetail),
    (status = 404, description = "There is no such organisation.", body = ErrorAnswer),
))]
pub async fn show(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::show(&state, KIND, &name).await
}

/// Changes fields of an organisation.
///
/// What is left out stays; null removes.
#[utoipa::path(patch, path = "/admin/orgs/{name}", operation_id = "update_org", tag = "orgs", params(PartyPath),
    request_body = PartyPatch, responses(
    (status = 200, description = "The organisation as it is now.", body = PartyView),
    (status = 404, description = "There is no such organisation.", body = ErrorAnswer),
))]
pub async fn patch(state: State, name: Segment, Body(patch): Body<PartyPatch>) -> Result<Response, Refusal> {
    parties::patch(&state, KIND, &name, patch).await
}

/// Deletes an organisation.
///
/// Its keys keep its name and go on as if it had never had a row.
#[utoipa::path(delete, path = "/admin/orgs/{name}", operation_id = "delete_org", tag = "orgs", params(PartyPath),
    responses(
    (status = 204, description = "It is gone."),
    (status = 404, description = "There is no such organisation.", body = ErrorAnswer),
))]
pub async fn delete(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::delete(&state, KIND, &name).await
}

/// Admits the keys of an organisation again.
#[utoipa::path(post, path = "/admin/orgs/{name}/enable", operation_id = "enable_org", tag = "orgs", params(PartyPath),
    responses(
    (status = 200, description = "The organisation as it is now.", body = PartyView),
    (status = 404, description = "There is no such organisation.", body = ErrorAnswer),
))]
pub async fn enable(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::switch(&state, KIND, &name, true).await
}

/// Refuses every key of an organisation until it is enabled again.
#[utoipa::path(post, path = "/admin/orgs/{name}/disable", operation_id = "disable_org", tag = "orgs", params(PartyPath),
    responses(
    (status = 200, description = "The organisation as it is now.", body = PartyView),
    (status = 404, description = "There is no such organisation.", body = ErrorAnswer),
))]
pub async fn disable(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::switch(&state, KIND, &name, false).await
}
