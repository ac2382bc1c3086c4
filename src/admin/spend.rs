//! Who spends most, from the request log.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::admin::requests::RecordQuery;
use crate::admin::respond::{self, Params2, Refusal};
use crate::admin::shape;
use crate::admin::time::Time;
use crate::error::Error;
use crate::ledger::query::{Filter, Group, Spender, Summary};
use crate::unit::clock::Timestamp;
use crate::unit::money::NanoUsd;

/// The period that is meant when the request does not say: 24 hours.
const PERIOD: std::time::Duration = std::time::Duration::from_secs(86_400);

/// How to group.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SpendQuery {
    /// What to group by.
    #[param(inline)]
    by: Group,
    /// The most groups in the answer.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<u32>,
}

/// What was used.
#[derive(Debug, Serialize, ToSchema)]
pub struct Sums {
    /// Exchanges.
    pub requests: u64,
    /// Those of them that were not answered well.
    pub errors: u64,
    /// Input tokens of every class, where known.
    pub input_tokens: u64,
    /// Output tokens of every class, where known.
    pub output_tokens: u64,
    /// The cost in dollars, as decimal text, of those where it is known; null where exchanges were served and of none it is known.
    pub cost_usd: Option<String>,
    /// The same in nano-dollars.
    pub cost_nano_usd: Option<i64>,
    /// Exchanges that a provider served at a cost that is not known: those are not in the cost.
    pub unpriced: u64,
}

impl From<&Summary> for Sums {
    fn from(sums: &Summary) -> Self {
        Self {
            requests: sums.records,
            errors: sums.errors,
            input_tokens: sums.input_tokens,
            output_tokens: sums.output_tokens,
            cost_usd: sums.known_cost().map(|cost| cost.to_string()),
            cost_nano_usd: sums.known_cost().map(NanoUsd::nanos),
            unpriced: sums.unpriced,
        }
    }
}

/// What one group used.
#[derive(Debug, Serialize, ToSchema)]
pub struct SpenderView {
    /// The key's id, or the name of the team, user, org, model, provider or tag; null for exchanges without one.
    pub name: Option<String>,
    /// What it used.
    #[serde(flatten)]
    pub sums: Sums,
}

impl From<Spender> for SpenderView {
    fn from(spender: Spender) -> Self {
        Self { name: spender.name, sums: Sums::from(&spender.sums) }
    }
}

/// Who spent most.
#[derive(Debug, Serialize, ToSchema)]
pub struct SpendList {
    /// What the groups are.
    pub by: Group,
    /// The beginning of the period.
    pub since: Time,
    /// The end of the period; null is now.
    pub until: Option<Time>,
    /// The dearest first. An exchange with several tags counts for each of them.
    pub spenders: Vec<SpenderView>,
}

/// Who spent most in a period; in the last 24 hours, if none is given.
#[utoipa::path(get, path = "/admin/spend", operation_id = "list_spend", tag = "spend", params(SpendQuery, RecordQuery),
    responses((status = 200, description = "The top spenders.", body = SpendList)))]
pub async fn list(state: State, query: Params2<SpendQuery, RecordQuery>) -> Result<Response, Refusal> {
    let Params2(SpendQuery { by, limit }, query) = query;
    let limit = shape::check_limit(limit)?;
    let filter = query.check()?;
    let since = filter.since.unwrap_or_else(|| filter.until.unwrap_or_else(Timestamp::now).minus(PERIOD));
    let filter = Filter { since: Some(since), ..filter };
    let spenders = state.ledger.top(&filter, by, limit).await.map_err(Error::from)?;
    Ok(respond::ok(&SpendList {
        by,
        since: since.into(),
        until: filter.until.map(Time),
        spenders: spenders.into_iter().map(SpenderView::from).collect(),
    }))
}
