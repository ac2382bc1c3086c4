//! What operators may steer and see of the running gateway.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::admin::control::{
    Auditing, Control, CredentialStatus, ExplainedTarget, Explanation, Guard, LimitState, PartStatus, ProviderStatus,
    Question, Readiness, ReadyStatus, ReloadProblem, ReloadReport, RouteOrigin, RouteView, TargetStage,
};
use crate::admin::jwks;
use crate::assemble::core::{Core, feeder_settings, journal_settings};
use crate::assemble::{audit, changes, events, limits, live, load, permits, protection, tell_warnings};
use crate::audit::witness::Witness;
use crate::budget::Budget;
use crate::budget::authority::Standing;
use crate::budget::limit::Limit;
use crate::catalog::Pricing;
use crate::config::problem::Problem;
use crate::config::reload::waiting;
use crate::error::{Error, Kind, Result};
use crate::kavach::config::SessionConfig;
use crate::key::draft::KeyDefaults;
use crate::ledger::feeder::ConsumerState;
use crate::pipeline::Live;
use crate::pipeline::answer::Answer;
use crate::provider::Provider;
use crate::proxy::StatePages;
use crate::route::config::RouteConfig;
use crate::route::{Table, Target};
use crate::telemetry::log;
use crate::telemetry::metrics::METRICS;
use crate::unit::clock::{Tick, Timestamp};
use crate::unit::version::VERSION;

/// After this many failures in a row a provider is called unhealthy. People see it; it decides nothing.
const UNHEALTHY_AFTER: u64 = 5;

#[async_trait]
impl Control for Core {
    async fn reload(&self, actor: &str) -> ReloadReport {
        self.reload_now(actor).await
    }

    fn providers(&self) -> Vec<ProviderStatus> {
        let live = self.gateway.live.load();
        let mut providers: Vec<ProviderStatus> = live.providers.values().map(|provider| status(provider)).collect();
        providers.sort_by(|one, other| one.name.cmp(&other.name));
        providers
    }

    fn routes(&self) -> Vec<RouteView> {
        live::routes(&self.loaded.load().config, &self.stored.load(), &self.gateway.live.load().table)
    }

    fn route_problem(&self, id: &str) -> Option<String> {
        self.gateway.live.load().table.problem_of(id).map(str::to_owned)
    }

    fn check_route(&self, route: &RouteConfig) -> Result<()> {
        let live = self.gateway.live.load();
        let names = live.providers.keys().cloned().collect();
        Table::build(std::slice::from_ref(route), &[], None, &names)
            .map_err(|faults| Error::new(Kind::InvalidRequest, faults.join(" ").replacen("route-1: ", "", 1)))?;
        let sides = route.split.iter().map(|side| &side.to);
        for target in route.to.iter().chain(sides).chain(&route.fallback) {
            let unknown = target.model.as_deref().is_some_and(|model| {
                let provider = live.providers.get(target.provider.as_str());
                provider.is_some_and(|provider| provider.settings.enabled && !provider.serves(Some(model)))
            });
            if unknown {
                let text =
                    format!("The provider `{}` does not serve the model of the target `{target}`.", target.provider);
                return Err(Error::new(Kind::InvalidRequest, text));
            }
        }
        Ok(())
    }

    async fn routes_changed(&self) -> Result<()> {
        self.take_routes().await
    }

    fn key_defaults(&self) -> KeyDefaults {
        self.loaded.load().config.keys.defaults.clone()
    }

    fn config_limits(&self) -> Vec<Limit> {
        self.loaded.load().config.limits.clone()
    }

    async fn limits_changed(&self) -> Result<()> {
        self.take_limits().await
    }

    async fn limit_states(&self, limit: Option<&str>, most: usize) -> Result<Vec<LimitState>> {
        let standings = limits::states(&*self.authority, limit, most).await?;
        let live = self.gateway.budget.live().into_iter();
        let live: HashMap<_, _> = live.map(|here| (here.counter, (here.reserved, here.held_ahead))).collect();
        let state = |standing: Standing| {
            let (reserved_here, held_ahead) = live.get(&standing.counter).copied().unwrap_or_default();
            LimitState { standing, reserved_here, held_ahead }
        };
        Ok(standings.into_iter().map(state).collect())
    }

    async fn reset_limit(&self, limit: &str, subject: Option<&str>) -> Result<u64> {
        limits::reset(&*self.authority, limit, subject).await
    }

    fn pricing(&self) -> Result<Pricing> {
        let providers = self.loaded.load().price_providers.clone();
        Ok(Pricing { catalog: self.gateway.live.load().catalog.clone(), providers })
    }

    async fn prices_changed(&self) -> Result<()> {
        self.take_prices().await
    }

    fn explain(&self, question: &Question) -> Result<Explanation> {
        let live = self.gateway.live.load();
        let found = live.table.explain(Some(&question.model), question.team.as_deref()).ok_or_else(|| {
            let text = format!("No route takes the model `{}`, and there is no default provider.", question.model);
            Error::new(Kind::ModelNotFound, text)
        })?;
        let configured = self.loaded.load().config.routes.len();
        let stored = found
            .index
            .and_then(|index| self.stored.load().get(index.checked_sub(configured)?).map(|route| route.id.clone()));
        let origin = match (found.index, &stored) {
            (None, _) => RouteOrigin::Default,
            (Some(_), Some(_)) => RouteOrigin::Stored,
            (Some(_), None) => RouteOrigin::Config,
        };
        let split = found.first.len() > 1;
        let first = found.first.iter().map(|(target, weight)| {
            let stage = if split { TargetStage::Split } else { TargetStage::First };
            explained(&live, target, &question.model, stage, split.then_some(*weight))
        });
        let rest =
            found.rest.iter().map(|target| explained(&live, target, &question.model, TargetStage::Fallback, None));
        Ok(Explanation {
            route: found.route.to_string(),
            route_id: stored.map(|id| id.to_string()),
            origin,
            targets: first.chain(rest).collect(),
        })
    }

    fn permit_keys(&self) -> Bytes {
        self.gateway.live.load().permits.document(Timestamp::now())
    }

    fn guard(&self) -> Option<Guard> {
        Some(Guard { gate: self.gateway.live.load().gate.clone(), memory: self.memory.clone() })
    }

    fn session_config(&self) -> SessionConfig {
        self.gateway.sessions.config()
    }

    async fn audit_is_caught_up(&self) -> Result<()> {
        let fed = self.feeder.flush_to(audit::CONSUMER).await;
        fed.map_err(|ended| Error::new(Kind::Unavailable, "The gateway stops.").because(ended))
    }

    fn readiness(&self) -> Readiness {
        let journal = self.gateway.journal.ready();
        let feeder = self.feeder.state();
        let records = journal.is_ok();
        // The feeder notices only when it has something to store; the watch asks all the time.
        let away_since = feeder.away_since.into_iter().chain(self.absence.since()).min();
        let mut parts = vec![
            PartStatus {
                name: "journal".to_owned(),
                ok: journal.is_ok(),
                detail: journal.err().map_or_else(|| "records are taken".to_owned(), |error| error.to_string()),
            },
            PartStatus {
                name: "database".to_owned(),
                ok: away_since.is_none(),
                detail: away_since.map_or_else(
                    || "records are stored".to_owned(),
                    |since| format!("away since {}; records wait in the journal", since.rfc3339()),
                ),
            },
        ];
        let refuses = self.gateway.audit.refuses();
        if let Some(keeper) = &self.keeper {
            let wrong = keeper.alarms().words();
            let detail = match wrong.as_slice() {
                [] => "entries are taken".to_owned(),
                _ if refuses => "it cannot be written, so no calls are taken; the log says why".to_owned(),
                ["writing", ..] => "it cannot be written; its entries wait in the journal, the log says why".to_owned(),
                other => format!("entries are taken, but something is wrong ({}); the log says what", other.join(", ")),
            };
            parts.push(PartStatus { name: "audit".to_owned(), ok: wrong.is_empty(), detail });
        }
        parts.extend(self.standby.part());
        parts.extend(routes(&self.gateway.live.load()));
        if self.gateway.budget.has_limits() {
            parts.push(counting(&self.gateway.budget));
        }
        // The keeper of the audit log speaks for itself.
        parts.extend(feeder.consumers.iter().filter(|other| other.name != audit::CONSUMER).map(consumer));
        let status = if self.gateway.is_draining() {
            ReadyStatus::Draining
        } else if !records || refuses || (self.gateway.budget.has_limits() && self.gateway.budget.is_outdated()) {
            ReadyStatus::Refusing
        } else if parts.iter().all(|part| part.ok) {
            ReadyStatus::Ready
        } else {
            ReadyStatus::Degraded
        };
        Readiness { status, parts }
    }

    fn metrics(&self) -> String {
        let backlog = self.gateway.journal.backlog_bytes();
        METRICS.journal_backlog_bytes.set(i64::try_from(backlog).unwrap_or(i64::MAX));
        for consumer in self.feeder.state().consumers {
            let backlog = i64::try_from(consumer.backlog_bytes).unwrap_or(i64::MAX);
            METRICS.consumer_backlog_bytes.with_label_values(&[consumer.name]).set(backlog);
            METRICS.consumer_away.with_label_values(&[consumer.name]).set(consumer.away_since.is_some().into());
        }
        let live = self.gateway.live.load();
        for provider in live.providers.values() {
            let resting = provider.credentials.resting(Tick::now()).iter().flatten().count();
            METRICS.resting.with_label_values(&[&*provider.name]).set(i64::try_from(resting).unwrap_or(i64::MAX));
        }
        if let Some(keeper) = &self.keeper {
            keeper.measure();
        }
        METRICS.render()
    }

    fn audit(&self) -> Option<Auditing> {
        let keeper = self.keeper.as_ref()?;
        Some(keeper.view(&self.loaded.load().config.audit))
    }

    fn witness(&self) -> Option<Arc<Witness>> {
        self.peers.witness()
    }

    fn open_metrics(&self) -> bool {
        self.loaded.load().config.admin.open_metrics
    }
}

impl Core {
    /// Reads the configuration again and applies it, all or nothing.
    pub async fn reload_now(&self, actor: &str) -> ReloadReport {
        let report =
            self.try_reload(actor).await.unwrap_or_else(|errors| ReloadReport { errors, ..ReloadReport::default() });
        METRICS.reloads.with_label_values(&[if report.applied { "applied" } else { "refused" }]).inc();
        if report.applied {
            tracing::info!(changed = ?report.changed, needs_restart = ?report.needs_restart, "reloaded");
        } else {
            for error in &report.errors {
                tracing::error!(error = placed(error), "configuration");
            }
            tracing::error!(errors = report.errors.len(), "the configuration was not reloaded; the one in force stays");
        }
        report
    }

    async fn try_reload(&self, actor: &str) -> Result<ReloadReport, Vec<ReloadProblem>> {
        let _alone = self.replacing.lock().await;
        let loaded = load(&self.source, self.simulated_address.as_deref())
            .map_err(|problems| problems.into_iter().map(tell).collect::<Vec<_>>())?;
        let before = self.loaded.load_full();
        let stored = self.stored.load_full();
        let built =
            live::build(&loaded, &self.house.folder, &stored, &self.prices.load(), Some(&self.gateway.live.load()));
        let live = built.map_err(|faults| faults.into_iter().map(unplaced).collect::<Vec<_>>())?;
        self.peers.apply(&loaded.config).map_err(|error| vec![unplaced(format!("{error:#}"))])?;
        let old = self.gateway.live.load_full();
        let changes = changes::between((&before, &old), (&loaded, &live));
        let report = ReloadReport {
            applied: true,
            changed: changes.paths.clone(),
            needs_restart: waiting(&self.first, &loaded).into_iter().map(str::to_owned).collect(),
            warnings: loaded.warnings.iter().cloned().map(tell).collect(),
            errors: Vec::new(),
        };
        log::set_level(loaded.config.log.level.into());
        tell_warnings(&loaded);
        self.gateway.journal.configure(journal_settings(&loaded.config));
        self.gateway.journal.set_strict(loaded.config.ledger.strict_sync);
        self.feeder.configure(feeder_settings(&loaded.config));
        let live = Arc::new(live);
        self.gateway.live.store(live.clone());
        protection::note_change(&self.gateway.journal, actor, (&old.gate, &live.gate));
        permits::note_change(&self.gateway.journal, actor, (Some(&old.permits), &live.permits));
        protection::configure(&self.gateway, &loaded.config.kavach);
        let configs = (&before.config, &loaded.config);
        events::note_reload(&self.gateway.journal, (&self.source, actor), configs, &changes);
        self.loaded.store(Arc::new(loaded));
        self.gateway.budget.configure(limits::settings(&self.config(), self.house.store.name()));
        self.apply_limits();
        self.reloaded.notify_one();
        Ok(report)
    }
}

/// That stored routes are not in force, if there are any such. Which and why is not for everybody.
fn routes(live: &Live) -> Option<PartStatus> {
    let count = match live.table.left_out().len() {
        0 => return None,
        1 => "1 stored route is".to_owned(),
        count => format!("{count} stored routes are"),
    };
    let detail = format!("{count} kept but not in force here; GET /admin/routes and the log say which and why");
    Some(PartStatus { name: "routes".to_owned(), ok: false, detail })
}

/// Whether limits can be counted.
fn counting(budget: &Budget) -> PartStatus {
    let (is_away, is_outdated) = (budget.is_away(), budget.is_outdated());
    let detail = if is_outdated {
        "a newer version of Marg leases from the same counters, so this one gets no leases and refuses calls under limits: \
         upgrade this instance and start it anew"
    } else if is_away {
        "whoever owns the counters of limits does not answer; calls live on what this process holds, then budget.when_away \
         applies"
    } else {
        "limits are counted"
    };
    PartStatus { name: "authority".to_owned(), ok: !is_away && !is_outdated, detail: detail.to_owned() }
}

/// Whether somebody who takes the journal's lines besides the database does so.
fn consumer(state: &ConsumerState) -> PartStatus {
    let detail = match state.away_since {
        None => "the journal's lines are taken".to_owned(),
        Some(since) => {
            format!("away since {}; {} bytes wait in the journal", since.rfc3339(), state.backlog_bytes)
        }
    };
    PartStatus { name: state.name.to_owned(), ok: state.away_since.is_none(), detail }
}

/// A problem as `line:column: key: text`, without the parts that are not known.
fn placed(problem: &ReloadProblem) -> String {
    let ReloadProblem { line, column, path, text } = problem;
    let place = if *line > 0 { format!("{line}:{column}: ") } else { String::new() };
    let key = if path.is_empty() { String::new() } else { format!("{path}: ") };
    format!("{place}{key}{text}")
}

fn tell(problem: Problem) -> ReloadProblem {
    ReloadProblem { line: problem.line, column: problem.column, path: problem.path, text: problem.text }
}

fn unplaced(text: String) -> ReloadProblem {
    ReloadProblem { line: 0, column: 0, path: String::new(), text }
}

fn status(provider: &Provider) -> ProviderStatus {
    let (now, health) = (Timestamp::now(), provider.health.read());
    let resting = provider.credentials.resting(Tick::now());
    let credentials = (0u32..)
        .zip(resting)
        .map(|(index, left)| CredentialStatus { index, resting_until: left.map(|left| now.plus(left).into()) });
    let (last_error_at, last_error) = health.last_failure.unzip();
    ProviderStatus {
        name: provider.name.to_string(),
        preset: provider.settings.preset.map(|preset| preset.row().name.to_owned()),
        enabled: provider.settings.enabled,
        healthy: provider.settings.enabled && health.failures_in_a_row < UNHEALTHY_AFTER,
        base_host: Some(provider.endpoint.authority.clone()),
        models: provider.settings.models.iter().map(|glob| glob.as_str().to_owned()).collect(),
        credentials: credentials.collect(),
        requests: health.attempts,
        failures: health.failures,
        last_error,
        last_error_at: last_error_at.map(Into::into),
    }
}

fn explained(live: &Live, target: &Target, asked: &str, stage: TargetStage, weight: Option<u32>) -> ExplainedTarget {
    let model = target.model.as_deref().unwrap_or(asked);
    let detail = match live.providers.get(&target.provider) {
        None => Some("there is no such provider"),
        Some(provider) if !provider.settings.enabled => Some("the provider is disabled"),
        Some(provider) if !provider.serves(Some(model)) => Some("the provider does not serve that model"),
        Some(_) if weight == Some(0) => Some("its weight is 0"),
        Some(_) => None,
    };
    ExplainedTarget {
        provider: target.provider.to_string(),
        model: model.to_owned(),
        stage,
        weight,
        usable: detail.is_none(),
        detail: detail.map(str::to_owned),
    }
}

impl StatePages for Core {
    fn page(&self, path: &str) -> Option<Answer> {
        match path {
            "/health" => Some(Answer::json(200, &br#"{"status":"ok"}"#[..])),
            jwks::PATH => Some(
                Answer { content_type: jwks::CONTENT_TYPE, ..Answer::json(200, self.permit_keys()) }
                    .header("cache-control", jwks::CACHE_CONTROL),
            ),
            "/version" => Some(Answer::json(200, format!("{{\"version\":\"{VERSION}\"}}"))),
            "/ready" => {
                let readiness = self.readiness();
                let body = serde_json::to_vec(&readiness).unwrap_or_default();
                Some(Answer::json(if readiness.status.serves() { 200 } else { 503 }, body))
            }
            _ => None,
        }
    }
}
