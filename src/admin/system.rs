//! The gateway as a whole: reload, status, version, metrics, health, and the document of this API.

use std::sync::OnceLock;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::State;
use crate::admin::auth::Caller;
use crate::admin::control::{Readiness, ReloadProblem, ReloadReport};
use crate::admin::respond;
use crate::admin::time::Time;
use crate::error::Kind;
use crate::unit::version::{self, Build};

/// What an operator wants to know first.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatusView {
    /// The version of Marg.
    pub version: String,
    /// When this process was started.
    pub started_at: Time,
    /// The time now, by this machine's clock.
    pub now: Time,
    /// Whether it can do its work, part by part.
    pub readiness: Readiness,
    /// How many providers are configured.
    pub providers: u32,
    /// How many of them calls are sent to now.
    pub providers_healthy: u32,
    /// How many routes are in force.
    pub routes: u32,
    /// How many application keys this process knows, revoked ones included.
    pub keys: u64,
}

/// The answer to a liveness probe.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// Always `ok`: the process answers.
    pub status: &'static str,
}

/// A reload that was refused: the error, and every problem of the file.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReloadRefusal {
    /// What happened.
    pub error: ReloadError,
}

/// What happened to a reload.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReloadError {
    /// `conflict`.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// Every problem of the file.
    pub problems: Vec<ReloadProblem>,
}

/// Reads the configuration file again and applies it, all or nothing.
///
/// The answer says what changed and what of it needs a restart, and warns as `marg check` does. A file with errors changes nothing (409).
#[utoipa::path(post, path = "/admin/reload", operation_id = "reload", tag = "system", responses(
    (status = 200, description = "The file on disk is in force.", body = ReloadReport),
    (status = 409, description = "The file has errors; the old configuration stays.", body = ReloadRefusal),
))]
pub async fn reload(state: State, caller: Caller) -> Response {
    let report = state.control.reload(caller.token.as_deref().unwrap_or("in-process")).await;
    if report.applied {
        return respond::ok(&report);
    }
    let refusal = ReloadRefusal {
        error: ReloadError {
            code: Kind::Conflict.code().to_owned(),
            message: "The configuration file has errors; the old configuration stays.".to_owned(),
            problems: report.errors,
        },
    };
    (StatusCode::CONFLICT, Json(refusal)).into_response()
}

/// What an operator wants to know first.
#[utoipa::path(get, path = "/admin/status", operation_id = "status", tag = "system", responses(
    (status = 200, description = "The state of the gateway.", body = StatusView),
))]
pub async fn status(state: State) -> Response {
    let providers = state.control.providers();
    let healthy = providers.iter().filter(|provider| provider.enabled && provider.healthy).count();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    respond::ok(&StatusView {
        version: version::VERSION.to_owned(),
        started_at: state.started_at.into(),
        now: crate::unit::clock::Timestamp::now().into(),
        readiness: state.control.readiness(),
        providers: count(providers.len()),
        providers_healthy: count(healthy),
        routes: count(state.control.routes().len()),
        keys: state.ring.len() as u64,
    })
}

/// What this program was built from.
#[utoipa::path(get, path = "/admin/version", operation_id = "version", tag = "system", responses(
    (status = 200, description = "The build.", body = Build),
))]
pub async fn version() -> Response {
    respond::ok(&version::build())
}

/// This document.
#[utoipa::path(get, path = "/admin/openapi.json", operation_id = "openapi", tag = "system", responses(
    (status = 200, description = "An OpenAPI 3.1 document.", body = Object, content_type = "application/json"),
))]
pub async fn openapi() -> Response {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    let document = DOCUMENT.get_or_init(|| crate::admin::openapi::document().to_string());
    ([(header::CONTENT_TYPE, "application/json")], document.as_str()).into_response()
}

/// Every metric, for Prometheus.
///
/// Needs a token unless the setting `admin.open_metrics` is on.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "system", responses(
    (status = 200, description = "Prometheus' text format.", body = String, content_type = "text/plain"),
))]
pub async fn metrics(state: State) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], state.control.metrics()).into_response()
}

/// Whether the process answers.
#[utoipa::path(get, path = "/health", operation_id = "health", tag = "system", responses(
    (status = 200, description = "It does.", body = Health),
))]
pub async fn health() -> Response {
    respond::ok(&Health { status: "ok" })
}

/// Whether the gateway can take calls, part by part.
#[utoipa::path(get, path = "/ready", operation_id = "ready", tag = "system", responses(
    (status = 200, description = "It takes calls; `degraded` says that a part is away.", body = Readiness),
    (status = 503, description = "It takes no new calls: `draining` when it is stopping, `refusing` while they could not be recorded, or while a newer version leases what limits count.", body = Readiness),
))]
pub async fn ready(state: State) -> Response {
    let readiness = state.control.readiness();
    let status = if readiness.status.serves() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}
