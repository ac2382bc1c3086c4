//! The REST API for operators: one file a noun, one table of doors.
//!
//! `doors` is the only way in: each row names who may use a handler, and both the router and the OpenAPI document are made
//! from it. To add a noun, add its file and its rows. Everything that a write changes about keys is in force in this process
//! before the answer leaves. Errors have one shape, answers are never cached, no other origin is let in, and neither a token
//! hash nor a credential is ever in an answer.

pub mod audit;
pub mod auth;
pub mod content;
pub mod control;
mod judge;
pub mod jwks;
pub mod keys;
pub mod limits;
mod live;
pub mod openapi;
pub mod orgs;
mod page;
pub mod parties;
pub mod policy;
pub mod prices;
pub mod providers;
pub mod reconcile;
pub mod record;
pub mod requests;
pub mod respond;
pub mod routes;
pub mod service;
pub mod sessions;
mod shape;
pub mod spend;
pub mod system;
pub mod teams;
pub mod time;
pub mod tokens;
mod trail;
pub mod users;
mod wire;
pub mod witness;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::middleware::{Next, from_fn, map_response};
use axum::routing::post;
use utoipa_axum::router::UtoipaMethodRouter;
use utoipa_axum::routes;

use crate::admin::auth::{Access, Door, Guesses};
pub use crate::admin::control::Control;
use crate::budget::store::LimitStore;
use crate::catalog::stored::PriceStore;
use crate::config::PrefixStyle;
use crate::kavach::memory::MemoryStore;
use crate::key::admin::AdminTokenStore;
use crate::key::party::PartyStore;
use crate::key::ring::Ring;
use crate::key::store::KeyStore;
use crate::key::token::HashKey;
use crate::ledger::Journal;
use crate::ledger::query::LedgerStore;
use crate::ledger::reprice::{Adjust, NoLimits, RepriceStore};
use crate::route::store::RouteStore;
use crate::store::Backend;
use crate::unit::clock::Timestamp;

/// What the admin side works with. Cheap to clone.
#[derive(Clone)]
pub struct State {
    /// Application keys in the store.
    pub keys: Arc<dyn KeyStore>,
    /// Application keys in memory; told of every change at once.
    pub ring: Arc<Ring>,
    /// What token hashes are keyed with.
    pub hash_key: Arc<HashKey>,
    /// Admin tokens.
    pub tokens: Arc<dyn AdminTokenStore>,
    /// Stored routes.
    pub routes: Arc<dyn RouteStore>,
    /// Stored limits.
    pub limits: Arc<dyn LimitStore>,
    /// Orgs, teams and users in the store.
    pub parties: Arc<dyn PartyStore>,
    /// Stored prices.
    pub prices: Arc<dyn PriceStore>,
    /// Pricing the request log again.
    pub repricing: Arc<dyn RepriceStore>,
    /// The counters of limits, for corrected prices.
    pub adjust: Arc<dyn Adjust>,
    /// What the gate remembers.
    pub memory: Arc<dyn MemoryStore>,
    /// The request log.
    pub ledger: Arc<dyn LedgerStore>,
    /// Where changes are written down; `None` only in tests of what is not about that.
    pub journal: Option<Arc<Journal>>,
    /// The running gateway.
    pub control: Arc<dyn Control>,
    /// How new tokens begin when the request does not say.
    pub prefix_style: PrefixStyle,
    /// When this process was started.
    pub started_at: Timestamp,
    /// Wrong tokens by address.
    pub guesses: Arc<Guesses>,
    /// Held while a change depends on what else is stored: the last administrator, the order of routes.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

impl State {
    /// An admin side over one store that holds everything, of a process that starts now.
    pub fn new(store: Arc<dyn Backend>, ring: Arc<Ring>, hash_key: Arc<HashKey>, control: Arc<dyn Control>) -> Self {
        Self {
            keys: store.clone(),
            ring,
            hash_key,
            tokens: store.clone(),
            routes: store.clone(),
            limits: store.clone(),
            parties: store.clone(),
            prices: store.clone(),
            repricing: store.clone(),
            adjust: Arc::new(NoLimits),
            memory: store.clone(),
            ledger: store,
            journal: None,
            control,
            prefix_style: PrefixStyle::default(),
            started_at: Timestamp::now(),
            guesses: Arc::default(),
            turn: Arc::default(),
        }
    }
}

impl FromRequestParts<State> for State {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(_: &mut Parts, state: &State) -> Result<Self, Self::Rejection> {
        Ok(state.clone())
    }
}

/// An operation of the API: who may use it, and what makes its route and its description.
pub type Operation = (Access, fn() -> UtoipaMethodRouter<State>);

/// Every operation of the API with who may use it. Each is built when it is asked for: the descriptions of all take ten megabytes.
pub const DOORS: &[Operation] = &[
    (Access::READ, || routes!(keys::list)),
    (Access::OPERATE, || routes!(keys::create)),
    (Access::READ, || routes!(keys::show)),
    (Access::OPERATE, || routes!(keys::patch)),
    (Access::OPERATE, || routes!(keys::delete)),
    (Access::OPERATE, || routes!(keys::revoke)),
    (Access::OPERATE, || routes!(keys::rotate)),
    (Access::OPERATE, || routes!(keys::enable)),
    (Access::OPERATE, || routes!(keys::disable)),
    (Access::OPERATE, || routes!(keys::release)),
    (Access::READ, || routes!(policy::show)),
    (Access::LEDGER, || routes!(policy::explain)),
    (Access::LEDGER, || routes!(policy::audit)),
    (Access::LEDGER, || routes!(policy::replay)),
    (Access::LEDGER, || routes!(sessions::list)),
    (Access::OPERATE, || routes!(sessions::reset)),
    (Access::OPERATE, || routes!(sessions::end)),
    (Access::LEDGER, || routes!(requests::list)),
    (Access::LEDGER, || routes!(requests::show)),
    (Access::LEDGER, || routes!(requests::export)),
    (Access::LEDGER, || routes!(requests::tail)),
    (Access::READ, || routes!(routes::list)),
    (Access::OPERATE, || routes!(routes::create)),
    (Access::READ, || routes!(routes::explain)),
    (Access::OPERATE, || routes!(routes::reorder)),
    (Access::READ, || routes!(routes::show)),
    (Access::OPERATE, || routes!(routes::replace)),
    (Access::OPERATE, || routes!(routes::delete)),
    (Access::READ, || routes!(limits::list)),
    (Access::OPERATE, || routes!(limits::create)),
    (Access::READ, || routes!(limits::states)),
    (Access::READ, || routes!(limits::show)),
    (Access::OPERATE, || routes!(limits::patch)),
    (Access::OPERATE, || routes!(limits::delete)),
    (Access::READ, || routes!(limits::state)),
    (Access::OPERATE, || routes!(limits::reset)),
    (Access::READ, || routes!(orgs::list)),
    (Access::OPERATE, || routes!(orgs::create)),
    (Access::READ, || routes!(orgs::show)),
    (Access::OPERATE, || routes!(orgs::patch)),
    (Access::OPERATE, || routes!(orgs::delete)),
    (Access::OPERATE, || routes!(orgs::enable)),
    (Access::OPERATE, || routes!(orgs::disable)),
    (Access::READ, || routes!(teams::list)),
    (Access::OPERATE, || routes!(teams::create)),
    (Access::READ, || routes!(teams::show)),
    (Access::OPERATE, || routes!(teams::patch)),
    (Access::OPERATE, || routes!(teams::delete)),
    (Access::OPERATE, || routes!(teams::enable)),
    (Access::OPERATE, || routes!(teams::disable)),
    (Access::READ, || routes!(users::list)),
    (Access::OPERATE, || routes!(users::create)),
    (Access::READ, || routes!(users::show)),
    (Access::OPERATE, || routes!(users::patch)),
    (Access::OPERATE, || routes!(users::delete)),
    (Access::OPERATE, || routes!(users::enable)),
    (Access::OPERATE, || routes!(users::disable)),
    (Access::LEDGER, || routes!(spend::list)),
    (Access::READ, || routes!(prices::list)),
    (Access::OPERATE, || routes!(prices::put)),
    (Access::READ, || routes!(prices::lookup)),
    (Access::READ, || routes!(prices::diff)),
    (Access::LEDGER, || routes!(prices::reprice)),
    (Access::OPERATE, || routes!(prices::delete)),
    (Access::LEDGER, || routes!(reconcile::reconcile)),
    (Access::READ, || routes!(providers::list)),
    (Access::READ, || routes!(providers::show)),
    (Access::TOKENS, || routes!(tokens::list)),
    (Access::ADMIN, || routes!(tokens::create)),
    (Access::TOKENS, || routes!(tokens::show)),
    (Access::ADMIN, || routes!(tokens::revoke)),
    (Access::OPERATE, || routes!(system::reload)),
    (Access::READ, || routes!(system::status)),
    (Access::READ, || routes!(system::version)),
    (Access::Open, || routes!(system::openapi)),
    (Access::LEDGER, || routes!(audit::status)),
    (Access::LEDGER, || routes!(audit::entries)),
    (Access::LEDGER, || routes!(audit::tail)),
    (Access::LEDGER, || routes!(audit::receipt)),
    (Access::LEDGER, || routes!(witness::show)),
    (Access::TOKENS, || routes!(content::text)),
    (Access::ADMIN, || routes!(content::erase)),
    (Access::Tiles, || routes!(audit::checkpoint)),
    (Access::Tiles, || routes!(audit::witnessed)),
    (Access::Tiles, || routes!(audit::consistency)),
    (Access::Tiles, || routes!(audit::tile)),
    (Access::Tiles, || routes!(audit::rotations)),
    (Access::Metrics, || routes!(system::metrics)),
    (Access::Open, || routes!(jwks::show)),
    (Access::Open, || routes!(system::health)),
    (Access::Open, || routes!(system::ready)),
];

/// The router of the whole admin side.
///
/// Requests may carry two extensions, which only this process can set: `auth::Peer`, the address they come from, and
/// `auth::Caller`, which stands in for a token.
pub fn router(state: State) -> Router {
    let mut router = page::router();
    for (access, routes) in DOORS.iter().copied() {
        let (_, mut paths, methods) = routes();
        let takes_query =
            paths.paths.values_mut().any(|item| openapi::operations(item).any(|one| openapi::takes_query(one)));
        let door = Door { state: state.clone(), access, takes_query };
        let methods =
            methods.route_layer(from_fn(move |request: Request, next: Next| door.clone().pass(request, next)));
        for path in paths.paths.keys() {
            // The document knows no parameter of several segments.
            router = router.route(&path.replace("/tile/{path}", "/tile/{*path}"), methods.clone());
        }
    }
    // Another protocol, whose requests prove themselves.
    let peers = Router::new().route("/audit/witness/add-checkpoint", post(witness::add_checkpoint));
    router
        .merge(peers)
        .fallback(respond::no_such_path)
        .method_not_allowed_fallback(respond::no_such_method)
        .layer(DefaultBodyLimit::disable())
        .layer(map_response(respond::harden))
        .with_state(state)
}
