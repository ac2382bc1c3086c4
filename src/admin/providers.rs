//! Providers and how they are doing.

use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::State;
use crate::admin::control::ProviderStatus;
use crate::admin::respond::{self, ErrorAnswer, Refusal, Segment};

/// Every provider.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProviderList {
    /// By name.
    pub providers: Vec<ProviderStatus>,
}

/// Lists every configured provider with its health.
#[utoipa::path(get, path = "/admin/providers", operation_id = "list_providers", tag = "providers", responses(
    (status = 200, description = "Every provider, by name.", body = ProviderList),
))]
pub async fn list(state: State) -> Response {
    respond::ok(&ProviderList { providers: state.control.providers() })
}

/// One provider with its health.
#[utoipa::path(get, path = "/admin/providers/{name}", operation_id = "get_provider", tag = "providers",
    params(("name" = String, Path, description = "The provider's name.", min_length = 1, max_length = 64,
        pattern = "^[A-Za-z0-9._-]{1,64}$")),
    responses(
        (status = 200, description = "The provider.", body = ProviderStatus),
        (status = 404, description = "No provider has that name.", body = ErrorAnswer),
    )
)]
pub async fn show(state: State, name: Segment) -> Result<Response, Refusal> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.0.is_empty() || name.0.len() > 64 || !name.0.bytes().all(known) {
        return Err(Refusal::invalid("name", "A provider's name is 1 to 64 of a-z A-Z 0-9 . _ -"));
    }
    match state.control.providers().into_iter().find(|provider| provider.name == name.0) {
        Some(provider) => Ok(respond::ok(&provider)),
        None => Err(Refusal::missing("provider")),
    }
}
