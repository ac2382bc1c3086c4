//! The admin side through its router, over a real store in a temporary folder.

mod document;
mod input;
mod keys;
mod limits;
mod parties;
mod prices;
mod reconcile;
mod requests;
mod roles;
mod routes;
mod system;
mod tokens;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::admin::auth::Peer;
use crate::admin::control::*;
use crate::admin::{State, router};
use crate::budget::authority::Standing;
use crate::budget::limit::Limit;
use crate::budget::store::LimitStore;
use crate::error::{Error, Kind, Result};
use crate::key::admin::{AdminToken, AdminTokenStore, Role};
use crate::key::draft::KeyDefaults;
use crate::key::ring::Ring;
use crate::key::token::HashKey;
use crate::ledger::journal::Line;
use crate::ledger::query::{LedgerStore, Position};
use crate::ledger::{Outcome, Record};
use crate::route::config::RouteConfig;
use crate::route::store::RouteStore;
use crate::store::Store;
use crate::unit::clock::Timestamp;
use crate::unit::id::ExchangeId;

/// An admin side with one token of every role.
pub struct House {
    pub router: Router,
    pub state: State,
    pub store: Arc<Store>,
    pub control: Arc<Fake>,
    tokens: Vec<(Role, String, String)>,
    _dir: tempfile::TempDir,
}

impl House {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(dir.path().join("marg.db")).await.unwrap());
        let hash_key = Arc::new(HashKey::generate().unwrap());
        let mut tokens = Vec::new();
        for role in Role::ALL {
            let (token, minted) = AdminToken::mint(role.as_str(), role, None, &hash_key, Timestamp::now()).unwrap();
            AdminTokenStore::insert(&*store, &token).await.unwrap();
            tokens.push((role, token.id.to_string(), minted.token.expose().to_owned()));
        }
        let control = Arc::new(Fake::over(store.clone()));
        let ring = Arc::new(Ring::new((*hash_key).clone()));
        let state = State::new(store.clone(), ring, hash_key, control.clone());
        Self { router: router(state.clone()), state, store, control, tokens, _dir: dir }
    }

    pub fn token(&self, role: Role) -> &str {
        &self.tokens.iter().find(|(known, ..)| *known == role).unwrap().2
    }

    pub fn token_id(&self, role: Role) -> &str {
        &self.tokens.iter().find(|(known, ..)| *known == role).unwrap().1
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    pub async fn ask_as(&self, role: Role, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send(request(Some(self.token(role)), method, path, body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask_as(Role::Admin, Method::GET, path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask_as(Role::Admin, Method::POST, path, Some(body)).await
    }

    pub async fn act(&self, path: &str) -> Answer {
        self.ask_as(Role::Admin, Method::POST, path, None).await
    }

    /// Makes a key and gives its id and token.
    pub async fn key(&self, fields: Value) -> (String, String) {
        let answer = self.post("/admin/keys", fields).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let json = answer.json();
        (json["key"]["id"].as_str().unwrap().to_owned(), json["token"].as_str().unwrap().to_owned())
    }

    /// Puts records into the ledger, as the feeder does.
    pub async fn record(&self, records: Vec<Record>) {
        static BATCH: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let segment = format!("test-{}", BATCH.fetch_add(1, Ordering::Relaxed));
        let lines: Vec<Line> = records.into_iter().map(Line::Record).collect();
        let position = Position { segment: segment.into(), from: 0, to: 1 };
        self.store.write_batch(&lines, &position).await.unwrap();
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

pub fn request(token: Option<&str>, method: Method, path: &str, body: Option<Value>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let Some(body) = body else { return request.body(Body::empty()).unwrap() };
    request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap()
}

pub fn from_address(mut request: Request<Body>, address: &str) -> Request<Body> {
    let address: IpAddr = address.parse().unwrap();
    request.extensions_mut().insert(Peer(Some(address)));
    request
}

/// A record of an answered exchange that started that many microseconds after the epoch.
pub fn exchange(started_us: i64) -> Record {
    let text = json!({
        "id": ExchangeId::new(), "started_at": started_us, "operation": "chat", "method": "POST", "path": "/v1/chat/completions",
        "team": "web", "model_requested": "gpt-4o", "provider": "openai", "status": 200, "outcome": "answered",
        "usage": {"input": 10, "output": 5}, "usage_source": "reported", "cost": 1_250_000, "duration_us": 1500,
        "bytes_in": 1, "bytes_out": 2,
        "attempts": [{"provider": "openai", "model": "gpt-4o", "end": "served", "status": 200, "started_us": 1, "duration_us": 2}],
    });
    let record: Record = serde_json::from_value(text).unwrap();
    assert_eq!(record.outcome, Outcome::Answered);
    record
}

/// A gateway that knows the providers `openai` and `groq`.
pub struct Fake {
    pub store: Arc<Store>,
    pub open_metrics: AtomicBool,
    pub table_broken: AtomicBool,
    pub reload: Mutex<ReloadReport>,
    pub ready: Mutex<ReadyStatus>,
    pub changes: Mutex<u32>,
    pub key_defaults: Mutex<KeyDefaults>,
    pub config_limits: Mutex<Vec<Limit>>,
    pub limits: Mutex<Vec<Limit>>,
    pub standings: Mutex<Option<Vec<Standing>>>,
    pub resets: Mutex<Vec<(String, Option<String>)>>,
    pub prices: Mutex<Vec<crate::catalog::stored::StoredPrice>>,
    pub witness: Mutex<Option<Arc<crate::audit::witness::Witness>>>,
}

impl Fake {
    fn over(store: Arc<Store>) -> Self {
        Self {
            store,
            open_metrics: AtomicBool::new(false),
            table_broken: AtomicBool::new(false),
            reload: Mutex::new(ReloadReport { applied: true, ..ReloadReport::default() }),
            ready: Mutex::new(ReadyStatus::Ready),
            changes: Mutex::new(0),
            key_defaults: Mutex::default(),
            config_limits: Mutex::default(),
            limits: Mutex::default(),
            standings: Mutex::new(Some(Vec::new())),
            resets: Mutex::default(),
            prices: Mutex::default(),
            witness: Mutex::default(),
        }
    }
}

#[async_trait]
impl Control for Fake {
    async fn reload(&self, _: &str) -> ReloadReport {
        self.reload.lock().unwrap().clone()
    }

    fn providers(&self) -> Vec<ProviderStatus> {
        vec![ProviderStatus {
            name: "openai".to_owned(),
            preset: Some("openai".to_owned()),
            enabled: true,
            healthy: true,
            base_host: Some("api.openai.com".to_owned()),
            models: Vec::new(),
            credentials: vec![CredentialStatus { index: 0, resting_until: None }],
            requests: 3,
            failures: 1,
            last_error: Some("timed out".to_owned()),
            last_error_at: Some(Timestamp(1_000_000).into()),
        }]
    }

    fn routes(&self) -> Vec<RouteView> {
        let route = RouteConfig::default();
        vec![RouteView { id: None, origin: RouteOrigin::Config, name: "route-1".to_owned(), route, problem: None }]
    }

    fn check_route(&self, route: &RouteConfig) -> Result<()> {
        match &route.to {
            Some(to) if to.provider != "openai" && to.provider != "groq" => {
                Err(Error::new(Kind::InvalidRequest, format!("There is no provider {:?}.", to.provider)))
            }
            _ => Ok(()),
        }
    }

    async fn routes_changed(&self) -> Result<()> {
        *self.changes.lock().unwrap() += 1;
        RouteStore::list(&*self.store).await?;
        if self.table_broken.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Internal, "The table cannot be built."));
        }
        Ok(())
    }

    fn key_defaults(&self) -> KeyDefaults {
        self.key_defaults.lock().unwrap().clone()
    }

    fn config_limits(&self) -> Vec<Limit> {
        self.config_limits.lock().unwrap().clone()
    }

    async fn limits_changed(&self) -> Result<()> {
        *self.limits.lock().unwrap() = LimitStore::list(&*self.store).await?;
        Ok(())
    }

    async fn limit_states(&self, limit: Option<&str>, most: usize) -> Result<Vec<LimitState>> {
        let standings = self.standings.lock().unwrap().clone();
        let standings = standings.ok_or_else(|| Error::new(Kind::Unavailable, "The owner of the counters is away."))?;
        let meant = standings.into_iter().filter(|one| limit.is_none_or(|limit| *one.counter.limit == *limit));
        Ok(meant.take(most).map(|standing| LimitState { standing, reserved_here: 7, held_ahead: 0 }).collect())
    }

    async fn reset_limit(&self, limit: &str, subject: Option<&str>) -> Result<u64> {
        self.resets.lock().unwrap().push((limit.to_owned(), subject.map(str::to_owned)));
        Ok(1)
    }

    fn pricing(&self) -> Result<crate::catalog::Pricing> {
        let stored = self.prices.lock().unwrap().clone();
        let catalog = crate::catalog::Catalog::load(None).unwrap().with_stored(&stored).unwrap();
        let providers = [("openai".to_owned(), Some("openai".to_owned()))].into();
        Ok(crate::catalog::Pricing { catalog: Arc::new(catalog), providers })
    }

    async fn prices_changed(&self) -> Result<()> {
        let stored = crate::catalog::stored::PriceStore::prices(&*self.store).await?;
        *self.prices.lock().unwrap() = stored;
        Ok(())
    }

    fn explain(&self, question: &Question) -> Result<Explanation> {
        if question.model == "unknown" {
            return Err(Error::new(Kind::ModelNotFound, "No route takes it."));
        }
        let target = ExplainedTarget {
            provider: "openai".to_owned(),
            model: question.model.clone(),
            stage: TargetStage::First,
            weight: None,
            usable: question.team.as_deref() == Some("web"),
            detail: None,
        };
        let route = "route-1".to_owned();
        Ok(Explanation { route, route_id: None, origin: RouteOrigin::Config, targets: vec![target] })
    }

    fn witness(&self) -> Option<Arc<crate::audit::witness::Witness>> {
        self.witness.lock().unwrap().clone()
    }

    fn readiness(&self) -> Readiness {
        let part = PartStatus { name: "database".to_owned(), ok: true, detail: "rows are written".to_owned() };
        Readiness { status: *self.ready.lock().unwrap(), parts: vec![part] }
    }

    fn metrics(&self) -> String {
        "marg_up 1\n".to_owned()
    }

    fn open_metrics(&self) -> bool {
        self.open_metrics.load(Ordering::Relaxed)
    }
}
