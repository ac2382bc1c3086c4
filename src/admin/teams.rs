//! Teams, whose rows say what their keys may do.

use axum::response::Response;

use crate::admin::State;
use crate::admin::parties::{self, PartyCreate, PartyDetail, PartyList, PartyPatch, PartyPath, PartyView};
use crate::admin::respond::{Body, ErrorAnswer, Refusal, Segment};
use crate::key::party::PartyKind;

const KIND: PartyKind = PartyKind::Team;

/// Lists the teams that have a row.
#[utoipa::path(get, path = "/admin/teams", operation_id = "list_teams", tag = "teams", responses(
    (status = 200, description = "The teams, by name.", body = PartyList),
))]
pub async fn list(state: State) -> Result<Response, Refusal> {
    parties::list(&state, KIND).await
}

/// Makes a team.
#[utoipa::path(post, path = "/admin/teams", operation_id = "create_team", tag = "teams", request_body = PartyCreate, responses(
    (status = 201, description = "The team.", body = PartyView),
    (status = 409, description = "This name is there already.", body = ErrorAnswer),
))]
pub async fn create(state: State, Body(body): Body<PartyCreate>) -> Result<Response, Refusal> {
    parties::create(&state, KIND, body).await
}

/// Shows a team with its limits, how they stand, and what it used.
#[utoipa::path(get, path = "/admin/teams/{name}", operation_id = "get_team", tag = "teams", params(PartyPath), responses(
    (status = 200, description = "The team.", body = PartyDetail),
    (status = 404, description = "There is no such team.", body = ErrorAnswer),
))]
pub async fn show(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::show(&state, KIND, &name).await
}

/// Changes fields of a team.
///
/// What is left out stays; null removes.
#[utoipa::path(patch, path = "/admin/teams/{name}", operation_id = "update_team", tag = "teams", params(PartyPath),
    request_body = PartyPatch, responses(
    (status = 200, description = "The team as it is now.", body = PartyView),
    (status = 404, description = "There is no such team.", body = ErrorAnswer),
))]
pub async fn patch(state: State, name: Segment, Body(patch): Body<PartyPatch>) -> Result<Response, Refusal> {
    parties::patch(&state, KIND, &name, patch).await
}

/// Deletes a team.
///
/// Its keys keep its name and go on as if it had never had a row.
#[utoipa::path(delete, path = "/admin/teams/{name}", operation_id = "delete_team", tag = "teams", params(PartyPath),
    responses(
    (status = 204, description = "It is gone."),
    (status = 404, description = "There is no such team.", body = ErrorAnswer),
))]
pub async fn delete(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::delete(&state, KIND, &name).await
}

/// Admits the keys of a team again.
#[utoipa::path(post, path = "/admin/teams/{name}/enable", operation_id = "enable_team", tag = "teams", params(PartyPath),
    responses(
    (status = 200, description = "The team as it is now.", body = PartyView),
    (status = 404, description = "There is no such team.", body = ErrorAnswer),
))]
pub async fn enable(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::switch(&state, KIND, &name, true).await
}

/// Refuses every key of a team until it is enabled again.
#[utoipa::path(post, path = "/admin/teams/{name}/disable", operation_id = "disable_team", tag = "teams", params(PartyPath),
    responses(
    (status = 200, description = "The team as it is now.", body = PartyView),
    (status = 404, description = "There is no such team.", body = ErrorAnswer),
))]
pub async fn disable(state: State, name: Segment) -> Result<Response, Refusal> {
    parties::switch(&state, KIND, &name, false).await
}
