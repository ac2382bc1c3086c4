//! Who may do what on the admin side.
//!
//! Every route is declared with an [`Access`]; there is no way to add one without. The guard in front of a route wants a
//! bearer token, finds it by its keyed hash (so no comparison tells how much of a guess was right) and refuses a role that
//! the route does not name. Wrong tokens are counted by address: past [`WRONG_PER_MINUTE`] only tokens that were right
//! before are looked at, so guessing stops while those at work go on.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pingora_limits::rate::Rate;

use crate::admin::State;
use crate::admin::respond::Refusal;
use crate::admin::{judge, trail};
use crate::error::{Error, Kind};
use crate::key::admin::Role;
use crate::key::token::{TokenHash, well_formed};
use crate::ledger::Journal;
use crate::unit::clock::Timestamp;

/// How many wrong tokens an address may send in a minute.
pub const WRONG_PER_MINUTE: isize = 30;

/// How many tokens that were right are remembered; beyond that the memory starts again.
const PROVEN: usize = 1024;

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody, without a token.
    Open,
    /// As the setting `admin.open_metrics` says: anybody, or every role.
    Metrics,
    /// As the setting `audit.open_tiles` says: anybody, or those who may read the request log.
    Tiles,
    /// These roles.
    Roles(&'static [Role]),
}

impl Access {
    /// Every role may read.
    pub const READ: Self = Self::Roles(&[Role::ReadOnly, Role::Auditor, Role::Operator, Role::Admin]);
    /// Who asked what is for those who must know.
    pub const LEDGER: Self = Self::Roles(&[Role::Auditor, Role::Operator, Role::Admin]);
    /// Changes to the gateway.
    pub const OPERATE: Self = Self::Roles(&[Role::Operator, Role::Admin]);
    /// Who the administrators are.
    pub const TOKENS: Self = Self::Roles(&[Role::Auditor, Role::Admin]);
    /// Changes to the administrators.
    pub const ADMIN: Self = Self::Roles(&[Role::Admin]);

    /// The roles that may use it; empty if none is needed.
    pub fn roles(self) -> &'static [Role] {
        match self {
            Self::Open => &[],
            Self::Metrics => Self::READ.roles(),
            Self::Tiles => Self::LEDGER.roles(),
            Self::Roles(roles) => roles,
        }
    }
}

/// The address that a connection comes from, if it has one. The service puts it into every request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub Option<IpAddr>);

/// Who asks, once the guard let the request pass.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The id of the admin token; `None` for code inside this process.
    pub token: Option<String>,
    /// What it may do.
    pub role: Role,
}

impl Caller {
    /// The holder of this very process, who can read the store anyway. It reaches the router as a request extension, which
    /// nothing from the network can set.
    pub fn in_process() -> Self {
        Self { token: None, role: Role::Admin }
    }
}

impl FromRequestParts<State> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> Result<Self, Refusal> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| unknown_caller().into())
    }
}

/// Counts wrong tokens by address.
pub struct Guesses {
    wrong: Rate,
    proven: Mutex<HashSet<TokenHash>>,
}

impl Default for Guesses {
    fn default() -> Self {
        Self { wrong: Rate::new(Duration::from_secs(60)), proven: Mutex::default() }
    }
}

impl Guesses {
    /// Whether a token from this address may be looked up.
    fn allows(&self, from: IpAddr, hash: &TokenHash) -> bool {
        self.wrong.observe(&from, 0) < WRONG_PER_MINUTE || self.proven().contains(hash)
    }

    fn was_wrong(&self, from: IpAddr) {
        self.wrong.observe(&from, 1);
    }

    fn was_right(&self, hash: TokenHash) {
        let mut proven = self.proven();
        if proven.len() >= PROVEN {
            proven.clear();
        }
        proven.insert(hash);
    }

    fn proven(&self) -> std::sync::MutexGuard<'_, HashSet<TokenHash>> {
        // A set stays whole whatever panics while it is held.
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands in front of a route.
#[derive(Clone)]
pub struct Door {
    /// What the admin side works with.
    pub state: State,
    /// Who may pass.
    pub access: Access,
    /// Whether the route reads a query; if not, one is refused.
    pub takes_query: bool,
}

impl Door {
    /// Lets a request pass to its route, or answers why not. Logs who changed what.
    pub async fn pass(self, mut request: Request, next: Next) -> Response {
        if self.is_closed() {
            let caller = match request.extensions().get::<Caller>() {
                Some(caller) => caller.clone(),
                None => match identify(&self.state, request.headers(), peer(&request)).await {
                    Ok(caller) => caller,
                    Err(error) => return Refusal::from(error).into_response(),
                },
            };
            if !self.access.roles().contains(&caller.role) {
                let text = format!("The role {} may not do this.", caller.role);
                return Refusal::from(Error::new(Kind::PermissionDenied, text)).into_response();
            }
            if let Err(refusal) = judge::judge(&self.state, &caller, &request) {
                return Refusal::from(refusal).into_response();
            }
            request.extensions_mut().insert(caller);
        }
        if !self.takes_query && request.uri().query().is_some_and(|query| !query.is_empty()) {
            let error = Error::new(Kind::InvalidRequest, "This endpoint takes no query parameters.");
            return Refusal::from(error).into_response();
        }
        run(self.state.journal, request, next).await
    }

    fn is_closed(&self) -> bool {
        match self.access {
            Access::Open => false,
            Access::Metrics => !self.state.control.open_metrics(),
            Access::Tiles => self.state.control.audit().is_none_or(|audit| !audit.open_tiles),
            Access::Roles(_) => true,
        }
    }
}

/// Runs the route, and logs who asked for what if it is a change.
async fn run(journal: Option<Arc<Journal>>, request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return next.run(request).await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let token = request.extensions().get::<Caller>().and_then(|caller| caller.token.clone());
    let answer = trail::follow(journal, request, next).await;
    let token = token.as_deref().unwrap_or("in-process");
    tracing::info!(token, %method, path, status = answer.status().as_u16(), "an administrator asked for a change");
    answer
}

/// Whether the token of somebody who was let in is still good. While the store is away nobody is thrown out.
pub async fn still_good(state: &State, caller: &Caller) -> bool {
    let Some(id) = &caller.token else { return true };
    match state.tokens.get(id).await {
        Ok(found) => found.is_some_and(|token| token.is_active(Timestamp::now())),
        Err(_) => true,
    }
}

pub(super) fn peer(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Peer>().and_then(|peer| peer.0)
}

async fn identify(state: &State, headers: &HeaderMap, peer: Option<IpAddr>) -> Result<Caller, Error> {
    let token = bearer(headers)?;
    let from = network(peer);
    let hash = state.hash_key.hash(token);
    if !state.guesses.allows(from, &hash) {
        let text = "Too many wrong tokens came from this address; wait a minute.";
        return Err(Error::new(Kind::LimitExceeded, text).retry_after(60));
    }
    let found = if well_formed(token) { state.tokens.find(&hash).await? } else { None };
    match found.filter(|token| token.is_active(Timestamp::now())) {
        Some(token) => {
            state.guesses.was_right(hash);
            Ok(Caller { token: Some(token.id.to_string()), role: token.role })
        }
        None => {
            state.guesses.was_wrong(from);
            Err(unknown_caller())
        }
    }
}

fn unknown_caller() -> Error {
    Error::new(Kind::InvalidApiKey, "Send a valid admin token as authorization: Bearer TOKEN.")
}

/// The one bearer token of a request (RFC 6750 section 2.1; the scheme's case does not matter, RFC 9110 section 11.1).
fn bearer(headers: &HeaderMap) -> Result<&str, Error> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(unknown_caller()) };
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(unknown_caller)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > 512 {
        return Err(unknown_caller());
    }
    Ok(token)
}

/// What one party is taken to own: an IPv4 address, or a /64 of IPv6 (RFC 6177 section 2).
fn network(address: Option<IpAddr>) -> IpAddr {
    match address.map(|address| address.to_canonical()) {
        Some(IpAddr::V6(address)) => {
            let high = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(high))
        }
        Some(address) => address,
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}
