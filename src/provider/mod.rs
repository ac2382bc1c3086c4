//! Who serves: presets, credentials, endpoints, and how each provider has been doing.
//!
//! A provider's credentials are used in turn. One that was answered with 429 rests for that model for as long as the answer
//! said; one that was answered with 401 rests for every model; the others go on. Figures of health are for people and for
//! the admin side: they decide nothing here.

pub mod config;
pub mod credential;
pub mod endpoint;
pub mod preset;
pub mod simulated;
pub mod transport;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::catalog::prices::PriceQuery;
use crate::dialect::Confidential;
use crate::provider::config::ProviderSettings;
use crate::provider::credential::Credentials;
use crate::provider::endpoint::Endpoint;
use crate::provider::transport::Transport;
use crate::unit::clock::Timestamp;
use crate::unit::secret::Secret;
use crate::unit::usage::ServiceTier;

/// What is shorter is a word, not a secret that could be looked for in headers.
const SHORTEST_SECRET_BYTES: usize = 8;

/// A provider, ready to serve.
#[derive(Debug)]
pub struct Provider {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// Its settings, with secrets resolved.
    pub settings: ProviderSettings,
    /// Where it is.
    pub endpoint: Endpoint,
    /// How it is connected to.
    pub transport: Transport,
    /// What it is asked with.
    pub credentials: Credentials,
    /// The models that it said it has, sorted; empty until it was asked, and for providers that are not asked.
    pub discovered: ArcSwap<Vec<String>>,
    /// How it has been doing since it was built.
    pub health: Health,
}

impl Provider {
    /// Builds a provider from checked settings.
    ///
    /// # Errors
    /// A sentence, when the base URL has a form that cannot be used, or the file of certificate authorities cannot be read.
    pub fn new(settings: ProviderSettings) -> Result<Self, String> {
        let endpoint = Endpoint::parse(settings.base_url.expose())?;
        Ok(Self {
            name: Arc::from(settings.name.as_str()),
            transport: Transport::new(&settings, &endpoint)?,
            endpoint,
            credentials: Credentials::new(settings.credentials.clone()),
            discovered: ArcSwap::default(),
            health: Health::default(),
            settings,
        })
    }

    /// What its answers cost for that model, as a question to the list of prices, as long as nobody says which model it served.
    pub fn price_query<'a>(&'a self, model: &'a str, at: Timestamp, tier: ServiceTier) -> PriceQuery<'a> {
        let price_provider = self.settings.price_provider.as_deref();
        PriceQuery { provider_name: &self.name, price_provider, model, served: None, at, tier }
    }

    /// Whether one of these settings would be the same: equal settings, and the same authorities in their file as when this one
    /// was built.
    ///
    /// *Cost*: reads that file, if there is one.
    pub fn is_like(&self, settings: &ProviderSettings) -> bool {
        self.settings == *settings && self.transport.trusts_as(settings)
    }

    /// Whether it may be asked for that model at all.
    pub fn serves(&self, model: Option<&str>) -> bool {
        self.settings.enabled && self.offers(model)
    }

    /// Whether it would serve that model, were it enabled.
    pub fn offers(&self, model: Option<&str>) -> bool {
        match model {
            Some(model) if !self.settings.models.is_empty() => {
                self.settings.models.iter().any(|glob| glob.matches(model))
            }
            _ => true,
        }
    }

    /// Whether the value of a header that it sent gives away the credential that it was asked with, one of the secret headers, or
    /// where it is. Short credentials are words that occur anyway.
    ///
    /// *Cost*: a search for each of them, over a text that is short; no allocation.
    pub fn betrays(&self, credential: Option<&Secret>, value: &[u8]) -> bool {
        let holds = |secret: &Secret| {
            let secret = secret.expose().as_bytes();
            (SHORTEST_SECRET_BYTES..=value.len()).contains(&secret.len())
                && memchr::memmem::find(value, secret).is_some()
        };
        credential.into_iter().chain(&self.settings.header_secrets).any(holds) || self.endpoint.is_named_in(value)
    }
}

impl Confidential for Provider {
    fn secrets(&self) -> Vec<&str> {
        let secrets = self.credentials.secrets().iter().chain(&self.settings.header_secrets);
        secrets.map(|secret| secret.expose()).collect()
    }

    fn hosts(&self) -> Vec<&str> {
        vec![&self.endpoint.authority, &self.endpoint.host]
    }
}

/// Figures since the provider was built.
#[derive(Debug, Default)]
pub struct Health {
    attempts: AtomicU64,
    failures: AtomicU64,
    failures_in_a_row: AtomicU64,
    last: Mutex<Option<(Timestamp, String)>>,
}

/// A reading of [`Health`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HealthReading {
    /// Attempts made.
    pub attempts: u64,
    /// Those that failed through the provider's fault.
    pub failures: u64,
    /// Failures since the last success.
    pub failures_in_a_row: u64,
    /// The last failure: when, and what.
    pub last_failure: Option<(Timestamp, String)>,
}

impl Health {
    /// Counts an attempt that the provider answered properly.
    pub fn succeeded(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.failures_in_a_row.store(0, Ordering::Relaxed);
    }

    /// Counts an attempt that failed through the provider's fault. The text holds neither credentials nor addresses.
    pub fn failed(&self, at: Timestamp, text: &str) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, text.to_owned()));
    }

    /// The figures now.
    pub fn read(&self) -> HealthReading {
        HealthReading {
            attempts: self.attempts.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            failures_in_a_row: self.failures_in_a_row.load(Ordering::Relaxed),
            last_failure: self.last.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
