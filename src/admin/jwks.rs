//! The public keys of permits, for whoever verifies one. The data plane serves the same document.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::State;

/// Where the document is (RFC 8615 has such paths; verifiers look here by custom).
pub const PATH: &str = "/.well-known/jwks.json";
/// What it is (RFC 7517 section 8.5.2).
pub const CONTENT_TYPE: &str = "application/jwk-set+json";
/// A new key is fetched by whoever meets its id, so that the set may be kept for a while. On the data plane; answers of the
/// admin side are never kept.
pub const CACHE_CONTROL: &str = "public, max-age=300";

/// Public keys (RFC 7517 section 5).
#[derive(Debug, Serialize, ToSchema)]
pub struct KeySet {
    /// The keys that sign permits first, then those whose permits may still be good.
    pub keys: Vec<PublicKey>,
}

/// A public key: of Ed25519 (RFC 8037) or ML-DSA-65 (RFC 9964).
#[derive(Debug, Serialize, ToSchema)]
pub struct PublicKey {
    /// Its type: `OKP` or `AKP`.
    pub kty: String,
    /// The curve `Ed25519`, of an `OKP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// What it verifies: `EdDSA` or `ML-DSA-65`.
    pub alg: String,
    /// What it is for: `sig`.
    #[serde(rename = "use")]
    pub purpose: String,
    /// Its id: the thumbprint of RFC 7638.
    pub kid: String,
    /// The key of an `OKP`, in base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// The key of an `AKP`, in base64url.
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    pub public: Option<String>,
}

/// The public keys that permits are verified by.
///
/// Needs no token, and no secret is in it; the data plane serves the same at the same path. Empty while permits are off and no
/// earlier one can still be good.
#[utoipa::path(get, path = "/.well-known/jwks.json", operation_id = "permit_keys", tag = "system", responses(
    (status = 200, description = "A JWK set.", body = KeySet, content_type = "application/jwk-set+json"),
))]
pub async fn show(state: State) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], state.control.permit_keys()).into_response()
}
