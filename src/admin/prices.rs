//! Prices: what models cost, the prices that operators store, and pricing the request log again.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::admin::auth::Caller;
use crate::admin::respond::{self, Body, ErrorAnswer, Params, Refusal, Segment};
use crate::admin::shape;
use crate::admin::time::Time;
use crate::catalog::stored::{MAX_STORED_PRICES, PriceRow, StoredPrice};
use crate::catalog::{PriceChange, PriceView};
use crate::error::{Error, Kind};
use crate::key::admin::Role;
use crate::ledger::query::Filter;
use crate::ledger::reprice::{self, Job, Report};
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;
use crate::unit::object::objects;
use crate::unit::usage::ServiceTier;

/// The longest name of a provider and of a model.
const MAX_NAME_BYTES: usize = 256;
/// The most rows in one request.
const MAX_ROWS: usize = 2_000;

/// A stored price.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredPriceView {
    /// `prc_` and 26 characters; never changes.
    pub id: String,
    /// What it says.
    pub price: PriceRow,
    /// Who changed it last: the id of an admin token, or `in-process`.
    pub changed_by: String,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
}

impl From<StoredPrice> for StoredPriceView {
    fn from(stored: StoredPrice) -> Self {
        Self {
            id: stored.id.to_string(),
            price: stored.row,
            changed_by: stored.changed_by,
            created_at: stored.created_at.into(),
            updated_at: stored.updated_at.into(),
        }
    }
}

/// Stored prices.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredPriceList {
    /// By id.
    pub prices: Vec<StoredPriceView>,
}

/// Rows of prices.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceRows {
    /// The rows, each with the keys of a row of the overlay file.
    #[serde(deserialize_with = "objects")]
    #[schema(min_items = 1, max_items = 2000)]
    prices: Vec<PriceRow>,
}

/// Which price to look up.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LookupQuery {
    /// The provider's name in the configuration, or its id in the price list; left out, every configured provider.
    #[param(min_length = 1, max_length = 256)]
    provider: Option<String>,
    /// The model.
    #[param(min_length = 1, max_length = 256)]
    model: String,
    /// At which time; left out, now.
    #[param(value_type = Option<Time>)]
    at: Option<String>,
}

/// What a model costs.
#[derive(Debug, Serialize, ToSchema)]
pub struct PriceAnswer {
    /// The price of each provider that has one, and of each tier of service that differs from the standard one.
    pub prices: Vec<ProviderPrice>,
}

/// What a model costs at a provider.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProviderPrice {
    /// The provider.
    pub provider: String,
    /// The model as it was asked for.
    pub model: String,
    /// Its price.
    pub price: PriceView,
}

/// What rows would change.
#[derive(Debug, Serialize, ToSchema)]
pub struct PriceDiff {
    /// The models whose price would be another.
    pub changes: Vec<PriceChange>,
}

/// What to price again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RepriceOrder {
    /// Only tell the difference, which is the default.
    #[serde(default = "yes")]
    #[schema(default = true)]
    dry_run: bool,
    /// Records that started at that time or later.
    since: Time,
    /// Records that started before that time; left out, now.
    until: Option<Time>,
    /// Records of models of this pattern, requested or served.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256, pattern = "^[^\\x00-\\x1f\\x7f-\\x9f]+$")]
    model: Option<String>,
    /// Records of this provider.
    #[schema(min_length = 1, max_length = 128)]
    provider: Option<String>,
}

fn yes() -> bool {
    true
}

/// Which stored price.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "it only describes the parameter; `Segment` reads it")]
struct PricePath {
    /// The stored price.
    #[param(pattern = "^prc_[0-9a-v]{26}$")]
    id: String,
}

/// Lists the stored prices.
#[utoipa::path(get, path = "/admin/prices", operation_id = "list_prices", tag = "prices", responses(
    (status = 200, description = "Every stored price.", body = StoredPriceList),
))]
pub async fn list(state: State) -> Result<Response, Refusal> {
    let stored = state.prices.prices().await.map_err(Error::from)?;
    Ok(respond::ok(&StoredPriceList { prices: stored.into_iter().map(Into::into).collect() }))
}

/// Stores prices, all or none. A row for the same provider, model and first day as a stored one replaces it.
#[utoipa::path(put, path = "/admin/prices", operation_id = "put_prices", tag = "prices", request_body = PriceRows,
    responses(
    (status = 200, description = "The prices as stored, in force now.", body = StoredPriceList),
    (status = 409, description = "There would be too many.", body = ErrorAnswer),
))]
pub async fn put(state: State, caller: Caller, Body(body): Body<PriceRows>) -> Result<Response, Refusal> {
    check_rows(&body.prices)?;
    let _turn = state.turn.lock().await;
    let (by, now) = (name_of(&caller), Timestamp::now());
    let prices: Vec<StoredPrice> = body.prices.into_iter().map(|row| StoredPrice::new(row, &by, now)).collect();
    let stored = state.prices.put_prices(&prices).await.map_err(Error::from)?;
    state.control.prices_changed().await?;
    Ok(respond::ok(&StoredPriceList { prices: stored.into_iter().map(Into::into).collect() }))
}

/// Deletes a stored price; what comes after it in the order of sources holds again.
#[utoipa::path(delete, path = "/admin/prices/{id}", operation_id = "delete_price", tag = "prices", params(PricePath),
    responses(
    (status = 204, description = "It is gone."),
    (status = 404, description = "There is no such stored price.", body = ErrorAnswer),
))]
pub async fn delete(state: State, id: Segment) -> Result<Response, Refusal> {
    let _turn = state.turn.lock().await;
    let gone = state.prices.delete_price(id.id("prc")?).await;
    gone.map_err(|error| shape::missing_or(error, "stored price"))?;
    state.control.prices_changed().await?;
    Ok(respond::nothing())
}

/// Says what a model costs, and where its price is from.
#[utoipa::path(get, path = "/admin/prices/lookup", operation_id = "lookup_price", tag = "prices", params(LookupQuery),
    responses(
    (status = 200, description = "Its prices; none if it has no price.", body = PriceAnswer),
))]
pub async fn lookup(state: State, Params(query): Params<LookupQuery>) -> Result<Response, Refusal> {
    let fits = |text: &str| (1..=MAX_NAME_BYTES).contains(&text.len());
    if !fits(&query.model) || !query.provider.as_deref().is_none_or(fits) {
        return Err(Refusal::invalid("model", format!("A provider and a model have 1 to {MAX_NAME_BYTES} bytes.")));
    }
    let at = query.at.as_deref().map(|text| {
        let time = serde_json::from_value::<Time>(text.into());
        time.map_err(|error| Refusal::invalid("at", format!("{error}.")))
    });
    let at = at.transpose()?.map_or_else(Timestamp::now, |time| time.0);
    let pricing = state.control.pricing()?;
    let names: Vec<String> =
        query.provider.map_or_else(|| pricing.providers.keys().cloned().collect(), |one| vec![one]);
    let mut prices = Vec::new();
    for provider in names {
        let find = |tier| pricing.catalog.rates(&pricing.lookup(&provider, &query.model, at, tier));
        let Some(standard) = find(ServiceTier::Standard) else { continue };
        for tier in ServiceTier::ALL {
            let own = find(tier).filter(|price| tier == ServiceTier::Standard || !price.costs_as(&standard));
            let model = query.model.clone();
            prices.extend(own.map(|price| ProviderPrice { provider: provider.clone(), model, price }));
        }
    }
    Ok(respond::ok(&PriceAnswer { prices }))
}

/// Says what rows of prices would change, without storing them.
#[utoipa::path(post, path = "/admin/prices/diff", operation_id = "diff_prices", tag = "prices", request_body = PriceRows,
    responses(
    (status = 200, description = "What would change.", body = PriceDiff),
))]
pub async fn diff(state: State, Body(body): Body<PriceRows>) -> Result<Response, Refusal> {
    check_rows(&body.prices)?;
    let pricing = state.control.pricing()?;
    let changes = pricing.diff(&body.prices, Timestamp::now());
    let changes = changes.map_err(|faults| Refusal::invalid("prices", faults.join(" ")))?;
    Ok(respond::ok(&PriceDiff { changes }))
}

/// Prices a part of the request log again, at the prices now in force for its time. A dry run, unless `dry_run` is false; that
/// needs the role of an operator, writes the new costs and moves the counters of dollar limits.
#[utoipa::path(post, path = "/admin/prices/reprice", operation_id = "reprice", tag = "prices",
    request_body = RepriceOrder, responses(
    (status = 200, description = "The difference.", body = Report),
))]
pub async fn reprice(state: State, caller: Caller, Body(order): Body<RepriceOrder>) -> Result<Response, Refusal> {
    if !order.dry_run && !matches!(caller.role, Role::Operator | Role::Admin) {
        let text = format!("The role {} may only make a dry run.", caller.role);
        return Err(Error::new(Kind::PermissionDenied, text).into());
    }
    if order.until.is_some_and(|until| until <= order.since) {
        return Err(Refusal::invalid("until", "`until` lies after `since`."));
    }
    shape::check_word("provider", order.provider.as_deref())?;
    let model = order.model.map(|text| {
        shape::check_patterns("model", std::slice::from_ref(&text))?;
        Glob::new(&text).map_err(|sentence| Refusal::invalid("model", sentence))
    });
    let filter = Filter {
        since: Some(order.since.0),
        until: order.until.map(|until| until.0),
        model: model.transpose()?,
        provider: order.provider,
        ..Filter::default()
    };
    let job = Job { filter, apply: !order.dry_run, by: name_of(&caller), now: Timestamp::now() };
    let pricing = state.control.pricing()?;
    let report = reprice::run(&*state.ledger, &*state.repricing, &*state.adjust, &pricing, job).await;
    Ok(respond::ok(&report.map_err(Error::from)?))
}

fn name_of(caller: &Caller) -> String {
    caller.token.clone().unwrap_or_else(|| "in-process".to_owned())
}

fn check_rows(rows: &[PriceRow]) -> Result<(), Refusal> {
    if rows.is_empty() || rows.len() > MAX_ROWS.min(MAX_STORED_PRICES) {
        return Err(Refusal::invalid("prices", format!("There are 1 to {MAX_ROWS} rows.")));
    }
    for (index, row) in rows.iter().enumerate() {
        row.check().map_err(|text| Refusal::invalid("prices", format!("Row {}: {text}.", index + 1)))?;
    }
    Ok(())
}
