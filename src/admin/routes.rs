//! Routes: the table in force, and the stored ones, which can be changed here.
//!
//! A stored route is checked before it is kept, and the table is built again before the answer leaves. If that fails, or the
//! table leaves this route out, the change is taken back. What is wrong with other stored routes is no reason to refuse it: a
//! configuration that names fewer providers than before leaves such behind.

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::admin::State;
use crate::admin::control::{Explanation, Question, RouteView};
use crate::admin::respond::{self, Body, ErrorAnswer, Params, Refusal, Segment};
use crate::admin::shape;
use crate::admin::time::Time;
use crate::error::{Error, Kind};
use crate::route::config::{RouteConfig, TargetConfig};
use crate::route::store::StoredRoute;
use crate::route::{MAX_ROUTES, MAX_TARGETS};
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;
use crate::unit::object::{object, whole_or_null};

/// The longest name of a provider and of a route, in characters.
const MAX_NAME_CHARS: usize = 64;
/// The longest model in a target, in characters.
const MAX_MODEL_CHARS: usize = 255;
/// The largest weight of a split.
const MAX_WEIGHT: u32 = 1_000_000;

/// Every route.
#[derive(Debug, Serialize, ToSchema)]
pub struct RouteList {
    /// In matching order: those of the configuration file first, then the stored ones. A stored route with a `problem` is passed
    /// over.
    pub routes: Vec<RouteView>,
}

/// A stored route.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredRouteView {
    /// `rte_` and 26 characters; never changes.
    pub id: String,
    /// Its place among the stored routes, from 0.
    pub position: i64,
    /// What it says.
    pub route: RouteConfig,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed; moving it is no change.
    pub updated_at: Time,
}

impl From<StoredRoute> for StoredRouteView {
    fn from(stored: StoredRoute) -> Self {
        Self {
            id: stored.id.to_string(),
            position: stored.position,
            route: stored.config,
            created_at: stored.created_at.into(),
            updated_at: stored.updated_at.into(),
        }
    }
}

/// A new stored route.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteCreate {
    /// Its place among the stored routes, from 0; left out or beyond the end, the last.
    #[serde(default, deserialize_with = "whole_or_null")]
    #[schema(maximum = 10000)]
    position: Option<u32>,
    /// What it says.
    #[serde(deserialize_with = "object")]
    route: RouteConfig,
}

/// An order of the stored routes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteOrder {
    /// The id of every stored route, each once, in the order wanted.
    #[schema(schema_with = route_ids)]
    ids: Vec<String>,
}

/// A call that is not made.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExplainQuery {
    /// The model that the caller would name.
    #[param(min_length = 1, max_length = 256)]
    model: String,
    /// The team of its key; left out, the team of `key_id`.
    #[param(min_length = 1, max_length = 128)]
    team: Option<String>,
    /// The key that it would use.
    #[param(pattern = "^key_[0-9a-v]{26}$")]
    key_id: Option<String>,
}

/// Where a call would go.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExplainAnswer {
    /// Whether the key may ask for that model at all; null without a key.
    pub key_allows: Option<bool>,
    /// The route and its targets.
    pub explanation: Explanation,
}

/// Which stored route.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[allow(dead_code, reason = "it only describes the parameter; `Segment` reads it")]
struct RoutePath {
    /// The stored route.
    #[param(pattern = "^rte_[0-9a-v]{26}$")]
    id: String,
}

/// Lists the routes in matching order, stored ones that are not in force included.
#[utoipa::path(get, path = "/admin/routes", operation_id = "list_routes", tag = "routes", responses(
    (status = 200, description = "Every route.", body = RouteList),
))]
pub async fn list(state: State) -> Response {
    respond::ok(&RouteList { routes: state.control.routes() })
}

/// Stores a new route.
#[utoipa::path(post, path = "/admin/routes", operation_id = "create_route", tag = "routes",
    request_body = RouteCreate, responses(
    (status = 201, description = "The stored route.", body = StoredRouteView),
    (status = 409, description = "It names a provider or model that does not exist, or there are too many routes.",
        body = ErrorAnswer),
))]
pub async fn create(state: State, Body(body): Body<RouteCreate>) -> Result<Response, Refusal> {
    let position = body.position.unwrap_or(MAX_ROUTES as u32);
    if position as usize > MAX_ROUTES {
        return Err(Refusal::invalid("position", format!("The position is 0 to {MAX_ROUTES}.")));
    }
    check(&state, &body.route)?;
    let _turn = state.turn.lock().await;
    let route = StoredRoute::new(body.route, i64::from(position), Timestamp::now());
    let stored = state.routes.insert(&route).await.map_err(Error::from)?;
    if let Err(error) = put_in_force(&state, &stored.id).await {
        undo(state.routes.delete(&stored.id).await);
        return Err(error.into());
    }
    Ok(respond::created(&StoredRouteView::from(stored)))
}

/// Says where a call would go, without making it.
#[utoipa::path(get, path = "/admin/routes/explain", operation_id = "explain_route", tag = "routes",
    params(ExplainQuery), responses(
    (status = 200, description = "The route and its targets.", body = ExplainAnswer),
    (status = 404, description = "No route takes it, or there is no such key.", body = ErrorAnswer),
))]
pub async fn explain(state: State, Params(query): Params<ExplainQuery>) -> Result<Response, Refusal> {
    if query.model.is_empty() || query.model.chars().count() > 256 {
        return Err(Refusal::invalid("model", "A model has 1 to 256 characters."));
    }
    shape::check_word("team", query.team.as_deref())?;
    let key = match &query.key_id {
        Some(id) if !respond::is_id("key", id) => {
            return Err(Refusal::invalid("key_id", "A key's id is key_ and 26 characters of 0-9 and a-v."));
        }
        Some(id) => {
            let found = state.keys.get(id).await.map_err(Error::from)?;
            Some(found.ok_or_else(|| Refusal::missing("key"))?)
        }
        None => None,
    };
    let team_of_key = || key.as_ref().and_then(|key| key.principal.team.as_deref()).map(str::to_owned);
    let key_allows = key.as_ref().map(|key| state.ring.allows_model(key, &query.model));
    let question = Question { team: query.team.or_else(team_of_key), model: query.model };
    Ok(respond::ok(&ExplainAnswer { key_allows, explanation: state.control.explain(&question)? }))
}

/// Puts the stored routes into an order.
#[utoipa::path(put, path = "/admin/routes/order", operation_id = "reorder_routes", tag = "routes",
    request_body = RouteOrder, responses(
    (status = 200, description = "The routes in force.", body = RouteList),
    (status = 409, description = "The ids are not those of all stored routes, each once.", body = ErrorAnswer),
))]
pub async fn reorder(state: State, Body(order): Body<RouteOrder>) -> Result<Response, Refusal> {
    if order.ids.len() > MAX_ROUTES || !order.ids.iter().all(|id| respond::is_id("rte", id)) {
        return Err(Refusal::invalid("ids", "The ids are those of stored routes: rte_ and 26 characters each."));
    }
    let _turn = state.turn.lock().await;
    let before = state.routes.list().await.map_err(Error::from)?;
    let ids: Vec<&str> = order.ids.iter().map(String::as_str).collect();
    state.routes.reorder(&ids).await.map_err(Error::from)?;
    if let Err(error) = state.control.routes_changed().await {
        let before: Vec<&str> = before.iter().map(|route| &*route.id).collect();
        undo(state.routes.reorder(&before).await);
        return Err(error.into());
    }
    Ok(list(state.clone()).await)
}

/// Shows a stored route.
#[utoipa::path(get, path = "/admin/routes/{id}", operation_id = "get_route", tag = "routes", params(RoutePath), responses(
    (status = 200, description = "The stored route.", body = StoredRouteView),
    (status = 404, description = "There is no such stored route.", body = ErrorAnswer),
))]
pub async fn show(state: State, id: Segment) -> Result<Response, Refusal> {
    Ok(respond::ok(&StoredRouteView::from(find(&state, &id).await?)))
}

/// Replaces a stored route. Its place stays.
#[utoipa::path(put, path = "/admin/routes/{id}", operation_id = "replace_route", tag = "routes", params(RoutePath),
    request_body = RouteConfig, responses(
    (status = 200, description = "The stored route as it is now.", body = StoredRouteView),
    (status = 404, description = "There is no such stored route.", body = ErrorAnswer),
    (status = 409, description = "It names a provider or model that does not exist.", body = ErrorAnswer),
))]
pub async fn replace(state: State, id: Segment, Body(route): Body<RouteConfig>) -> Result<Response, Refusal> {
    check(&state, &route)?;
    let _turn = state.turn.lock().await;
    let before = find(&state, &id).await?;
    let after = StoredRoute { config: route, updated_at: Timestamp::now(), ..before.clone() };
    state.routes.update(&after).await.map_err(|error| shape::missing_or(error, "stored route"))?;
    if let Err(error) = put_in_force(&state, &after.id).await {
        undo(state.routes.update(&before).await);
        return Err(error.into());
    }
    Ok(respond::ok(&StoredRouteView::from(after)))
}

/// Deletes a stored route.
#[utoipa::path(delete, path = "/admin/routes/{id}", operation_id = "delete_route", tag = "routes", params(RoutePath),
    responses(
    (status = 204, description = "It is gone."),
    (status = 404, description = "There is no such stored route.", body = ErrorAnswer),
))]
pub async fn delete(state: State, id: Segment) -> Result<Response, Refusal> {
    let _turn = state.turn.lock().await;
    let before = find(&state, &id).await?;
    state.routes.delete(&before.id).await.map_err(|error| shape::missing_or(error, "stored route"))?;
    if let Err(error) = state.control.routes_changed().await {
        undo(state.routes.insert(&before).await);
        return Err(error.into());
    }
    Ok(respond::nothing())
}

/// Puts a change of the stored routes in force, and with it that route.
///
/// # Errors
/// As for `Control::routes_changed`; `Conflict` when the table leaves the route out.
async fn put_in_force(state: &State, id: &str) -> Result<(), Error> {
    state.control.routes_changed().await?;
    match state.control.route_problem(id) {
        Some(problem) => Err(Error::new(Kind::Conflict, format!("The route cannot be served: {problem}."))),
        None => Ok(()),
    }
}

/// Logs a change that could not be taken back: the store now differs from the table in force until the next change.
fn undo<T>(taken_back: Result<T, crate::error::StoreError>) {
    if let Err(error) = taken_back {
        tracing::error!(error = %error, "a change of stored routes could not be taken back");
    }
}

async fn find(state: &State, id: &Segment) -> Result<StoredRoute, Refusal> {
    let found = state.routes.get(id.id("rte")?).await.map_err(Error::from)?;
    found.ok_or_else(|| Refusal::missing("stored route"))
}

/// Checks a route's form here and its sense with the running gateway. What depends on the configuration is a conflict.
fn check(state: &State, route: &RouteConfig) -> Result<(), Refusal> {
    check_form(route)?;
    state.control.check_route(route).map_err(|error| match error.kind() {
        Kind::InvalidRequest | Kind::NotFound | Kind::ModelNotFound => Refusal::conflict(error.text()),
        _ => error.into(),
    })
}

fn check_form(route: &RouteConfig) -> Result<(), Refusal> {
    let name_fits =
        |name: &str| (1..=MAX_NAME_CHARS).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if route.name.as_deref().is_some_and(|name| !name_fits(name)) {
        let text = format!("A route's name has 1 to {MAX_NAME_CHARS} characters and no control characters.");
        return Err(Refusal::invalid("name", text));
    }
    for pattern in [&route.matches.model, &route.matches.team].into_iter().flatten() {
        if !shape::is_plain(pattern.as_str(), Glob::MAX_CHARS) {
            return Err(Refusal::invalid(
                "match",
                "A pattern in a route has 1 to 256 characters, none of them a control character.",
            ));
        }
    }
    if route.to.is_some() != route.split.is_empty() {
        return Err(Refusal::invalid("to", "A route has either `to` or `split`."));
    }
    if route.split.len() > MAX_TARGETS || route.fallback.len() >= MAX_TARGETS {
        return Err(Refusal::invalid("fallback", format!("A route has at most {MAX_TARGETS} targets.")));
    }
    let weights_fit = route.split.iter().all(|side| side.weight <= MAX_WEIGHT);
    if !weights_fit || (!route.split.is_empty() && route.split.iter().all(|side| side.weight == 0)) {
        let text = format!("A weight is 0 to {MAX_WEIGHT}, and at least one is not 0.");
        return Err(Refusal::invalid("split", text));
    }
    let mut targets = route.to.iter().chain(route.split.iter().map(|side| &side.to)).chain(&route.fallback);
    targets.try_for_each(check_target)
}

fn check_target(target: &TargetConfig) -> Result<(), Refusal> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let provider = &target.provider;
    let provider_fits = (1..=MAX_NAME_CHARS).contains(&provider.len()) && provider.bytes().all(known);
    let model_fits = target.model.as_deref().is_none_or(|model| shape::is_plain(model, MAX_MODEL_CHARS));
    if provider_fits && model_fits {
        return Ok(());
    }
    Err(Refusal::invalid(
        "to",
        "A target is a provider's name, or that, a colon and a model without control characters.",
    ))
}

fn route_ids() -> utoipa::openapi::schema::ArrayBuilder {
    use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
    let id = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^rte_[0-9a-v]{26}$"));
    ArrayBuilder::new().items(id).max_items(Some(MAX_ROUTES))
}

/// The schema of a route with what a derived one cannot say: `to` or `split`, and a weight above 0.
pub fn route_schema() -> Value {
    let target = json!({
        "type": "string", "maxLength": 320, "pattern": "^[A-Za-z0-9._-]{1,64}(:[^\\x00-\\x1f\\x7f-\\x9f]{1,255})?$",
        "description": "`provider`, or `provider:model`.",
    });
    let pattern = json!({ "type": ["string", "null"], "minLength": 1, "maxLength": 256, "pattern": shape::PLAIN });
    let side = json!({
        "type": "object", "required": ["to", "weight"], "additionalProperties": false,
        "properties": { "to": target, "weight": { "type": "integer", "minimum": 0, "maximum": MAX_WEIGHT } },
    });
    let mut to = target.clone();
    if let Some(kind) = to.get_mut("type") {
        *kind = json!(["string", "null"]);
    }
    json!({
        "type": "object",
        "description": "One route: `to` or `split`, not both; `fallback` may follow either.",
        "additionalProperties": false,
        "properties": {
            "name": {
                "type": ["string", "null"], "minLength": 1, "maxLength": MAX_NAME_CHARS,
                "pattern": "^[^\\x00-\\x1f\\x7f-\\x9f]+$", "description": "A name for logs and the request log.",
            },
            "match": {
                "type": "object", "additionalProperties": false,
                "properties": { "model": pattern, "team": pattern },
                "description": "Which calls it takes; everything given must match.",
            },
            "to": to,
            "split": {
                "type": "array", "items": side, "maxItems": MAX_TARGETS,
                "description": "One of these, drawn by weight for each call; at least one weight is not 0.",
            },
            "fallback": {
                "type": "array", "items": target, "maxItems": MAX_TARGETS - 1,
                "description": "The targets after it, in order.",
            },
        },
        "oneOf": [
            { "required": ["to"], "properties": { "to": { "type": "string" }, "split": { "maxItems": 0 } } },
            {
                "required": ["split"],
                "properties": {
                    "to": { "type": "null" },
                    "split": { "minItems": 1, "contains": { "properties": { "weight": { "minimum": 1 } } } },
                },
            },
        ],
    })
}
