//! Holding the request log against a provider's export.

use axum::extract::Request;
use axum::response::Response;
use serde::Deserialize;
use tokio::sync::Semaphore;
use utoipa::IntoParams;

use crate::admin::State;
use crate::admin::respond::{self, Params, Refusal};
use crate::admin::shape;
use crate::admin::time::Time;
use crate::error::{Error, Kind};
use crate::ledger::reconcile::{self, EXPORT_LIMIT_BYTES, Question, Reconciliation, Vendor};

/// Exports are read one at a time, so that all of them together hold no more memory than one.
static TURN: Semaphore = Semaphore::const_new(1);

/// What to compare with what.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReconcileQuery {
    /// Who made the export.
    vendor: Vendor,
    /// The provider's name in the configuration, whose records are meant; left out, the name of the vendor.
    #[param(min_length = 1, max_length = 128)]
    provider: Option<String>,
    /// Rows of the export that begin at that time or later.
    #[param(value_type = Option<Time>)]
    since: Option<String>,
    /// Rows of the export that end by that time.
    #[param(value_type = Option<Time>)]
    until: Option<String>,
}

/// Compares a provider's usage or cost export, which is the body, with the request log.
#[utoipa::path(post, path = "/admin/reconcile", operation_id = "reconcile", tag = "prices", params(ReconcileQuery),
    request_body(content = String, content_type = "application/octet-stream",
        description = "The export as it was downloaded, CSV or JSON, at most 64 MiB."),
    responses(
    (status = 200, description = "The gap, in total, by model and by span of time.", body = Reconciliation),
))]
pub async fn reconcile(
    state: State,
    Params(query): Params<ReconcileQuery>,
    request: Request,
) -> Result<Response, Refusal> {
    shape::check_word("provider", query.provider.as_deref())?;
    let time = |field: &'static str, text: Option<&str>| {
        let time = text.map(|text| serde_json::from_value::<Time>(text.into()).map(|time| time.0)).transpose();
        time.map_err(|error| Refusal::invalid(field, format!("{error}.")))
    };
    let (since, until) = (time("since", query.since.as_deref())?, time("until", query.until.as_deref())?);
    let vendor = query.vendor;
    let closed = |_| Error::new(Kind::Internal, "Exports are not read any more.");
    let _turn = TURN.acquire().await.map_err(closed)?;
    let body = respond::collect_up_to(request.into_body(), EXPORT_LIMIT_BYTES).await?;
    // Parsing is work of seconds for a large export.
    let parsed = tokio::task::spawn_blocking(move || reconcile::parse(vendor, &body)).await;
    let export = parsed.map_err(|error| Error::new(Kind::Internal, "The export could not be read.").because(error))?;
    let export = export.map_err(|text| Refusal::invalid("body", text))?;
    let own = match vendor {
        Vendor::Openai => "openai",
        Vendor::Anthropic => "anthropic",
        Vendor::Aws => "bedrock",
        Vendor::Google => "google",
    };
    let provider = query.provider.unwrap_or_else(|| own.to_owned());
    let pricing = state.control.pricing()?;
    let question = Question { vendor, provider, since, until };
    let found = reconcile::reconcile(&*state.ledger, &pricing, export, &question).await.map_err(Error::from)?;
    Ok(respond::ok(&found))
}
