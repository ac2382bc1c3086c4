//! What the admin side asks of the running gateway. `assemble` implements it; the admin side knows nothing of the rest.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use utoipa::ToSchema;

use crate::admin::time::Time;
use crate::audit::log::Log;
use crate::audit::witness::Witness;
use crate::budget::authority::Standing;
use crate::budget::limit::Limit;
use crate::catalog::Pricing;
use crate::error::Result;
use crate::kavach::Gate;
use crate::kavach::config::SessionConfig;
use crate::kavach::memory::Memory;
use crate::key::draft::KeyDefaults;
use crate::route::config::RouteConfig;

/// The running gateway, as far as operators may steer and see it.
#[async_trait]
pub trait Control: Send + Sync {
    /// Reads the configuration file again and applies it, all or nothing. `actor` is who wants it: the id of an admin token, or
    /// `in-process`.
    async fn reload(&self, actor: &str) -> ReloadReport;

    /// Every configured provider, by name, with its present health. No credential is in it.
    fn providers(&self) -> Vec<ProviderStatus>;

    /// Every route in matching order: those of the configuration file first, then the stored ones.
    fn routes(&self) -> Vec<RouteView>;

    /// Why a stored route is not in force; `None` if it is, or there is none of that id.
    fn route_problem(&self, _id: &str) -> Option<String> {
        None
    }

    /// Whether a route could be served: its providers exist and serve the models that it names.
    ///
    /// # Errors
    /// What does not fit, as a sentence for the caller. The kind is of no matter.
    fn check_route(&self, route: &RouteConfig) -> Result<()>;

    /// Builds the route table again, after the stored routes changed. Those that cannot be served are left out of it, see
    /// [`Control::route_problem`].
    ///
    /// # Errors
    /// When the stored routes cannot be read; the old table stays.
    async fn routes_changed(&self) -> Result<()>;

    /// What a new key is where the request does not say otherwise.
    fn key_defaults(&self) -> KeyDefaults;

    /// The limits of the configuration file, in its order. Those in the store are not among them.
    fn config_limits(&self) -> Vec<Limit>;

    /// Reads the stored limits again and puts them in force.
    ///
    /// # Errors
    /// When they cannot be read; those in force stay.
    async fn limits_changed(&self) -> Result<()>;

    /// How the counters of a limit, or of all, stand at present; at most `most`, the most spent first. One round trip to
    /// whoever owns them.
    ///
    /// # Errors
    /// `Unavailable` when the owner cannot be reached.
    async fn limit_states(&self, limit: Option<&str>, most: usize) -> Result<Vec<LimitState>>;

    /// Takes back what is spent on a limit: of one subject, or of all. How many counters that were.
    ///
    /// # Errors
    /// `Unavailable` when the owner of the counters cannot be reached.
    async fn reset_limit(&self, limit: &str, subject: Option<&str>) -> Result<u64>;
    /// The prices in force.
    ///
    /// # Errors
    /// When there are none, because no configuration was read.
    fn pricing(&self) -> Result<Pricing>;

    /// Builds the prices again, after the stored prices changed.
    ///
    /// # Errors
    /// When the stored prices cannot be read or make no sense; the old prices stay.
    async fn prices_changed(&self) -> Result<()>;

    /// Where a call would go, without making it.
    ///
    /// # Errors
    /// `ModelNotFound` when no route and no default provider takes it.
    fn explain(&self, question: &Question) -> Result<Explanation>;

    /// What decides and remembers in the running gateway; `None` where none runs, as for the command line on the store.
    fn guard(&self) -> Option<Guard> {
        None
    }

    /// How sessions are kept.
    fn session_config(&self) -> SessionConfig {
        SessionConfig::default()
    }

    /// The public keys of permits, as a JWK set; an empty one where none runs.
    fn permit_keys(&self) -> Bytes {
        Bytes::from_static(b"{\"keys\":[]}")
    }

    /// The audit log; `None` where there is none.
    fn audit(&self) -> Option<Auditing> {
        None
    }

    /// Returns when what was answered before the call is in the audit log, by which no signature is meant. The caller bounds it.
    ///
    /// # Errors
    /// `Unavailable` when the gateway stops.
    async fn audit_is_caught_up(&self) -> Result<()> {
        Ok(())
    }

    /// The witness of other logs; `None` where there is none.
    fn witness(&self) -> Option<Arc<Witness>> {
        None
    }

    /// Whether the gateway can do its work, part by part.
    fn readiness(&self) -> Readiness;

    /// Every metric in Prometheus' text format, version 0.0.4.
    fn metrics(&self) -> String;

    /// Whether `/metrics` is served without a token (`admin.open_metrics`).
    fn open_metrics(&self) -> bool;
}

/// What decides and remembers in the running gateway.
#[derive(Clone)]
pub struct Guard {
    /// The gate in force.
    pub gate: Arc<Gate>,
    /// Sessions, and what is usual for each key.
    pub memory: Arc<Memory>,
}

/// The audit log, as far as operators may see it.
#[derive(Clone)]
pub struct Auditing {
    /// The log; `None` while it is not open.
    pub log: Option<Arc<Log>>,
    /// Why it cannot be written; `None` while it can.
    pub trouble: Option<String>,
    /// What is wrong with it, each in a word.
    pub alarms: Vec<&'static str>,
    /// Whether no exchange is taken while it cannot be written.
    pub enforced: bool,
    /// Whether checkpoint and tiles are for everybody.
    pub open_tiles: bool,
    /// How the witnesses that are asked stand, by name.
    pub witnesses: Vec<WitnessState>,
}

/// How one key of a witness of the log stands.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct WitnessState {
    /// Its name in `audit.witnesses`.
    pub name: String,
    /// The size of the last checkpoint that it cosigned since this process started; 0 if none.
    pub cosigned: u64,
    /// When that was.
    pub cosigned_at: Option<Time>,
    /// Why it did not cosign when it was last asked; null if it did.
    pub trouble: Option<String>,
}

impl WitnessState {
    /// One that was not asked yet.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), cosigned: 0, cosigned_at: None, trouble: None }
    }
}

/// How a counter of a limit stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// As its owner tells it.
    pub standing: Standing,
    /// What calls that run in this process have reserved of this process's lease.
    pub reserved_here: i64,
    /// What of `standing.spent` this process only holds ahead for calls to come: of a paced window.
    pub held_ahead: i64,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ReloadReport {
    /// Whether the file on disk is in force now. If not, nothing changed.
    pub applied: bool,
    /// What differs from before, as key paths such as `providers.openai.credentials`.
    pub changed: Vec<String>,
    /// Which of those take effect only after a restart.
    pub needs_restart: Vec<String>,
    /// What is allowed but probably not meant, as `marg check` says it.
    pub warnings: Vec<ReloadProblem>,
    /// Why nothing was applied; empty if it was.
    pub errors: Vec<ReloadProblem>,
}

/// One error or warning about the configuration file.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ReloadProblem {
    /// The line, from 1; 0 if the error has no place.
    pub line: u32,
    /// The column, from 1; 0 if the error has no place.
    pub column: u32,
    /// The key path, such as `routes[2].to`; may be empty.
    pub path: String,
    /// What is wrong and what to write instead.
    pub text: String,
}

/// One provider and how it is doing.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ProviderStatus {
    /// Its name in the configuration.
    pub name: String,
    /// The row of the preset table that it is built on.
    pub preset: Option<String>,
    /// Whether it may be used at all.
    pub enabled: bool,
    /// Whether calls are sent to it now.
    pub healthy: bool,
    /// The host and port that calls go to, without path and without anything secret.
    pub base_host: Option<String>,
    /// The patterns of models that it serves; empty means any.
    pub models: Vec<String>,
    /// Its credentials by position; never their values.
    pub credentials: Vec<CredentialStatus>,
    /// Attempts since this process started.
    pub requests: u64,
    /// How many of those failed.
    pub failures: u64,
    /// What the last failure was, in words without credentials.
    pub last_error: Option<String>,
    /// When it was.
    pub last_error_at: Option<Time>,
}

/// One credential of a provider.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct CredentialStatus {
    /// Its position in the configuration, from 0.
    pub index: u32,
    /// Until when it rests after a 429 or a 401, if it does.
    pub resting_until: Option<Time>,
}

/// Where a route is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteOrigin {
    /// In the configuration file; it cannot be changed here.
    Config,
    /// In the store.
    Stored,
    /// It is not a route but the default provider.
    Default,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RouteView {
    /// The id of a stored route.
    pub id: Option<String>,
    /// Where it is written down.
    pub origin: RouteOrigin,
    /// The name that logs and the request log show.
    pub name: String,
    /// What it says.
    pub route: RouteConfig,
    /// Why this stored route is kept but not in force here; null if it is in force.
    pub problem: Option<String>,
}

/// A call that is not made.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The model that the caller would name.
    pub model: String,
    /// The team of its key.
    pub team: Option<String>,
}

/// Where a call would go.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Explanation {
    /// The name of the route that takes it.
    pub route: String,
    /// The id of that route, if it is a stored one.
    pub route_id: Option<String>,
    /// Where it is written down.
    pub origin: RouteOrigin,
    /// The targets in the order in which they would be tried; the sides of a split come together.
    pub targets: Vec<ExplainedTarget>,
}

/// One target of an explanation.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ExplainedTarget {
    /// The provider.
    pub provider: String,
    /// The model asked of it.
    pub model: String,
    /// Its part in the route.
    pub stage: TargetStage,
    /// Its weight, if it is one side of a split.
    pub weight: Option<u32>,
    /// Whether it would be tried now.
    pub usable: bool,
    /// Why not, if not.
    pub detail: Option<String>,
}

/// The part that a target plays in its route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetStage {
    /// Tried first.
    First,
    /// One of several, drawn by weight for each call.
    Split,
    /// Tried when those before it failed.
    Fallback,
}

/// Whether the gateway can do its work.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Readiness {
    /// The whole.
    pub status: ReadyStatus,
    /// The parts.
    pub parts: Vec<PartStatus>,
}

/// The whole gateway's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadyStatus {
    /// Everything works.
    Ready,
    /// Calls are served, but a part is away; the parts say which.
    Degraded,
    /// A part is away without which no call may be answered, or a newer version leases what limits count: it should be sent none
    /// at present.
    Refusing,
    /// It is stopping and takes no new calls.
    Draining,
}

impl ReadyStatus {
    /// Whether calls are taken: what a load balancer wants to know.
    pub fn serves(self) -> bool {
        matches!(self, Self::Ready | Self::Degraded)
    }
}

/// One part's state.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PartStatus {
    /// Its name, such as `database`, `journal`, `providers`.
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// More, in words; never a credential or a path.
    pub detail: String,
}
