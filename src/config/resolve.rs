//! Looking up what a configuration refers to: secrets in the environment and in files, certificates, price lists.
//!
//! Everything is looked up at load, so a running gateway never finds out later that a file is missing. What a disabled
//! provider refers to may be absent: that is a warning. Relative paths are taken from the current directory. Only plain
//! files are read, and only up to a bound. No text of a fault repeats a value.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::sign::CertifiedKey;

use crate::audit::key::{Purpose, SigningKeys};
use crate::catalog::prices::Catalog;
use crate::config::check::{self, MAX_HEADER_BYTES};
use crate::config::decode::join;
use crate::config::load::Webhook;
use crate::config::problem::Report;
use crate::config::{
    AuditConfig, AuditSecrets, BudgetConfig, Config, PermitFiles, RedisConfig, RedisSecrets, TlsConfig, pem, permits,
    redis, url,
};
use crate::dialect::CeilingField;
use crate::kavach::permits::config::PermitsConfig;
use crate::provider::config::{Auth, HeaderRef, ProviderConfig, ProviderSettings, UrlRef};
use crate::provider::endpoint::Endpoint;
use crate::provider::preset::BaseUrl;
use crate::unit::secret::{Secret, SecretRef};

/// The largest file that a secret is read from.
const MAX_SECRET_BYTES: u64 = 64 * 1024;
/// The largest PEM file.
const MAX_PEM_BYTES: u64 = 4 * 1024 * 1024;

/// The environment: a variable's value, by name.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// What was looked up.
pub(super) struct Resolved {
    pub(super) providers: Vec<ProviderSettings>,
    pub(super) tls: Option<Arc<CertifiedKey>>,
    pub(super) database_url: Option<Secret>,
    pub(super) listen_url: Option<Secret>,
    pub(super) hash_key: Option<Secret>,
    pub(super) webhook: Option<Webhook>,
    pub(super) redis: Option<RedisSecrets>,
    pub(super) audit: AuditSecrets,
    pub(super) permits: PermitFiles,
}

/// Looks everything up; faults go to the report, and what is at fault is left out.
pub(super) fn resolve(config: &Config, environment: Environment<'_>, report: &mut Report) -> Resolved {
    let tls = files(config, report);
    let mut database = |path, reference: &Option<UrlRef>| {
        let mut resolver = Resolver { environment, report: &mut *report, lenient: false };
        reference.as_ref().and_then(|reference| resolver.database(path, reference))
    };
    let database_url = database("database.url", &config.database.url);
    let listen_url = database("database.listen_url", &config.database.listen_url);
    let hash_key = config.keys.hash_key.as_ref().and_then(|reference| {
        let mut resolver = Resolver { environment, report, lenient: false };
        resolver.hash_key(reference)
    });
    let webhook = Resolver { environment, report, lenient: false }.webhook(&config.budget);
    let redis = Resolver { environment, report, lenient: false }.redis(&config.redis);
    let audit = Resolver { environment, report, lenient: !config.audit.enabled }.audit(&config.audit);
    let permits = PermitFiles {
        key: Resolver { environment, report, lenient: false }.permit_key(&config.kavach.permits),
        extra: permits::extra(&config.kavach.permits, report),
    };
    let mut providers = Vec::new();
    for (name, provider) in &config.providers {
        let mut resolver = Resolver { environment, report, lenient: !provider.enabled };
        providers.extend(resolver.provider(name, provider));
    }
    Resolved { providers, tls, database_url, listen_url, hash_key, webhook, redis, audit, permits }
}

/// Reads a plain file of at most so many bytes.
///
/// # Errors
/// A sentence that names the file and the reason.
pub(super) fn read_file(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    // Asked before opening, because opening a pipe waits for somebody to write to it.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err(format!("cannot read {}: it is not a plain file", path.display()));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(most.saturating_add(1)).read_to_end(&mut bytes)).map_err(cannot)?;
    if bytes.len() as u64 > most {
        return Err(format!("{} is larger than {most} bytes", path.display()));
    }
    Ok(bytes)
}

/// Checks the files that are named; gives what the port of applications shows under TLS.
fn files(config: &Config, report: &mut Report) -> Option<Arc<CertifiedKey>> {
    // What is missing is made, so the nearest that is there must be a folder.
    let nearest = config.data_dir.ancestors().find_map(|path| Some((path, std::fs::metadata(path).ok()?)));
    if let Some((path, _)) = nearest.filter(|(_, metadata)| !metadata.is_dir()) {
        report.error("data_dir", format!("{} is not a folder", path.display()));
    }
    let identity = config.server.tls.as_ref().and_then(|tls| identity(tls, report));
    if let Some(overlay) = &config.prices.overlay {
        match std::fs::metadata(overlay) {
            Ok(metadata) if !metadata.is_file() => report.error("prices.overlay", "this is not a plain file"),
            _ => {
                let faults = Catalog::load(Some(overlay)).err().unwrap_or_default();
                faults.into_iter().for_each(|fault| report.error("prices.overlay", fault));
            }
        }
    }
    crate::config::kavach::files(config, report);
    if let Some(path) = &config.redis.ca_file {
        check_pem("redis.ca_file", path, pem::certificates, report);
    }
    for (name, provider) in &config.providers {
        if let Some(path) = &provider.ca_file {
            check_pem(&join(&join("providers", name), "ca_file"), path, pem::certificates, report);
        }
    }
    identity
}

fn identity(tls: &TlsConfig, report: &mut Report) -> Option<Arc<CertifiedKey>> {
    const KEY: &str = "server.tls.key";
    let certificates = check_pem("server.tls.certificate", &tls.certificate, pem::certificates, report);
    let key = check_pem(KEY, &tls.key, pem::private_key, report);
    pem::identity(&certificates?, &key?).map_err(|text| report.error(KEY, text)).ok()
}

/// Reads a PEM file and checks it.
fn check_pem(key: &str, path: &Path, check: fn(&str) -> Result<(), String>, report: &mut Report) -> Option<String> {
    let read = read_file(path, MAX_PEM_BYTES).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    read.and_then(|text| check(&text).map(|()| text)).map_err(|text| report.error(key, text)).ok()
}

/// Looks up references, for one part of the configuration.
struct Resolver<'a> {
    environment: Environment<'a>,
    report: &'a mut Report,
    /// What is absent is a warning.
    lenient: bool,
}

/// A header as it is sent.
type Header = (http::HeaderName, http::HeaderValue);

/// Shorter values of headers are words, not secrets; taken out of a provider's sentences they would leave no sense.
const SHORTEST_HEADER_SECRET_BYTES: usize = 8;

/// What of a header's value must not be seen: all of it, and what stands behind the word of a scheme (RFC 9110 section 11.4).
fn secret_parts(value: &Secret) -> impl Iterator<Item = Secret> {
    let text = value.expose().trim();
    let behind = text.split_once(' ').map(|(_, rest)| rest.trim()).filter(|rest| !rest.contains(' '));
    let parts = std::iter::once(text).chain(behind).filter(|part| part.len() >= SHORTEST_HEADER_SECRET_BYTES);
    parts.map(Secret::new)
}

impl Resolver<'_> {
    fn provider(&mut self, name: &str, config: &ProviderConfig) -> Option<ProviderSettings> {
        let ProviderConfig {
            preset,
            base_url,
            credentials,
            auth: _,
            enabled,
            models,
            headers,
            connect_timeout_ms,
            first_byte_timeout_ms,
            idle_timeout_ms,
            http,
            ca_file,
            price_provider,
            region,
            stream_usage,
            output_ceiling,
        } = config;
        let path = join("providers", name);
        let row = preset.map(|preset| preset.row());
        let credentials = self.credentials(&join(&path, "credentials"), credentials);
        let headers: Vec<_> =
            headers.iter().filter_map(|(name, value)| self.header(&join(&path, "headers"), name, value)).collect();
        let (headers, secrets): (_, Vec<_>) = headers.into_iter().unzip();
        let base_url = match (base_url, row.map(|row| row.base_url)) {
            (Some(base_url), _) => self.url(&join(&path, "base_url"), base_url)?,
            (None, Some(BaseUrl::Known(url))) => url.to_owned(),
            // The check of the text has refused it.
            (None, _) => return None,
        };
        if let Err(text) = Endpoint::parse(&base_url) {
            self.fault(&join(&path, "base_url"), text);
        }
        let auth = check::auth(config);
        let travels_open = base_url.starts_with("http://") && !url::is_local(&base_url);
        if travels_open && auth != Auth::None && !credentials.is_empty() {
            self.report.warn(&path, "its credentials travel unencrypted, because its base URL begins with http://");
        }
        Some(ProviderSettings {
            name: name.to_owned(),
            preset: *preset,
            base_url: Secret::new(base_url),
            credentials,
            auth,
            enabled: *enabled,
            models: models.clone(),
            headers,
            header_secrets: secrets.iter().flatten().flat_map(secret_parts).collect(),
            connect_timeout: Duration::from_millis(*connect_timeout_ms),
            first_byte_timeout: Duration::from_millis(*first_byte_timeout_ms),
            idle_timeout: Duration::from_millis(*idle_timeout_ms),
            http: *http,
            ca_file: ca_file.clone(),
            price_provider: price_provider.clone().or(row.and_then(|row| row.price_provider).map(str::to_owned)),
            region: region.as_deref().unwrap_or_default().into(),
            stream_usage: stream_usage.unwrap_or(row.is_none_or(|row| row.stream_usage)),
            output_ceiling: output_ceiling.or(row.map(|row| row.ceiling)).unwrap_or(CeilingField::MaxTokens),
        })
    }

    fn credentials(&mut self, path: &str, references: &[SecretRef]) -> Vec<Secret> {
        let mut seen = HashSet::new();
        let mut credentials = Vec::new();
        for (path, reference) in self.report.items(path, references.len()).into_iter().zip(references) {
            let Some(secret) = self.secret(&path, reference) else { continue };
            if let Err(text) = credential(secret.expose()) {
                self.fault(&path, text);
            } else if seen.insert(secret.expose().to_owned()) {
                credentials.push(secret);
            } else {
                self.report.warn(&path, "this credential is the same as one before it; it is used once");
            }
        }
        credentials
    }

    /// The header, and its value once more if that is a secret.
    fn header(&mut self, path: &str, name: &str, value: &HeaderRef) -> Option<(Header, Option<Secret>)> {
        let at = join(path, name);
        // The check of the text has refused other names.
        let name = http::HeaderName::from_bytes(name.as_bytes()).ok()?;
        match value {
            HeaderRef::Bare(text) => {
                let secret = check::names_a_secret(&name).then(|| Secret::new(text.as_str()));
                check::header_value(text).ok().map(|value| ((name, value), secret))
            }
            HeaderRef::Ref(reference) => {
                let secret = self.secret(&at, reference)?;
                match check::header_value(secret.expose()) {
                    Ok(value) => Some(((name, value), Some(secret))),
                    Err(text) => {
                        self.fault(&at, text);
                        None
                    }
                }
            }
        }
    }

    fn database(&mut self, path: &str, url: &UrlRef) -> Option<Secret> {
        let secret = match url {
            UrlRef::Bare(text) => Secret::new(text.as_str()),
            UrlRef::Ref(reference) => self.secret(path, reference)?,
        };
        let known =
            ["sqlite:", "postgres://", "postgresql://"].iter().any(|scheme| secret.expose().starts_with(scheme));
        if !known {
            self.fault(
                path,
                "what it refers to is no address of a database; write sqlite:PATH or postgres://USER@HOST/NAME",
            );
            return None;
        }
        if let Err(text) = url::sqlite(secret.expose()) {
            self.fault(path, text);
            return None;
        }
        Some(secret)
    }

    fn url(&mut self, path: &str, url: &UrlRef) -> Option<String> {
        match url {
            UrlRef::Bare(text) => url::normalise(text).ok(),
            UrlRef::Ref(reference) => {
                let secret = self.secret(path, reference)?;
                match url::normalise(secret.expose()) {
                    Ok(url) => Some(url),
                    Err(text) => {
                        self.fault(path, text);
                        None
                    }
                }
            }
        }
    }

    fn audit(&mut self, config: &AuditConfig) -> AuditSecrets {
        let mut secret =
            |path, reference: &Option<SecretRef>| reference.as_ref().and_then(|reference| self.secret(path, reference));
        let found = AuditSecrets {
            key: secret("audit.key", &config.key),
            next_key: secret("audit.next_key", &config.next_key),
            passphrase: secret("audit.passphrase", &config.passphrase),
            witness_key: secret("audit.witness_key", &config.witness_key),
        };
        let passphrase = found.passphrase.as_ref();
        for (path, key, purpose) in [
            ("audit.key", &found.key, Purpose::Log),
            ("audit.next_key", &found.next_key, Purpose::Log),
            ("audit.witness_key", &found.witness_key, Purpose::Witness),
        ] {
            // Without the passphrase that could not be looked up it would fail for that alone.
            let is_blind = config.passphrase.is_some() && passphrase.is_none();
            if let Some(Err(error)) =
                key.as_ref().filter(|_| !is_blind).map(|key| SigningKeys::open(key.expose(), purpose, passphrase))
            {
                self.fault(path, error.to_string());
            }
        }
        found
    }

    fn permit_key(&mut self, config: &PermitsConfig) -> Option<Secret> {
        const KEY: &str = "kavach.permits.key";
        let secret = self.secret(KEY, config.key.as_ref()?)?;
        match permits::check_key(&secret) {
            Ok(()) => Some(secret),
            Err(text) => {
                self.fault(KEY, text);
                None
            }
        }
    }

    fn webhook(&mut self, config: &BudgetConfig) -> Option<Webhook> {
        const URL: &str = "budget.webhook_url";
        let secret = config.webhook_secret.as_ref().map(|reference| self.secret("budget.webhook_secret", reference));
        let url = match config.webhook_url.as_ref()? {
            UrlRef::Bare(text) => Secret::new(text.as_str()),
            UrlRef::Ref(reference) => self.secret(URL, reference)?,
        };
        match url::with_query(url.expose()) {
            Ok(url) => Some(Webhook { url: Secret::new(url), secret: secret.flatten() }),
            Err(text) => {
                self.fault(URL, text);
                None
            }
        }
    }

    fn hash_key(&mut self, reference: &SecretRef) -> Option<Secret> {
        let secret = self.secret("keys.hash_key", reference)?;
        let text = secret.expose();
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Some(secret);
        }
        self.fault("keys.hash_key", "expected 64 hexadecimal digits; `openssl rand -hex 32` makes them");
        None
    }

    fn redis(&mut self, config: &RedisConfig) -> Option<RedisSecrets> {
        let password = config.password.as_ref().and_then(|reference| self.secret("redis.password", reference));
        let urls: Vec<Secret> =
            config.urls.iter().filter_map(|reference| self.secret("redis.urls", reference)).collect();
        if urls.iter().any(|url| !redis::is_url(url.expose())) {
            self.fault("redis.urls", "expected redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// with TLS");
            return None;
        }
        (!urls.is_empty()).then_some(RedisSecrets { urls, password })
    }

    fn secret(&mut self, path: &str, reference: &SecretRef) -> Option<Secret> {
        look_up(reference, self.environment).map_err(|text| self.fault(path, text)).ok()
    }

    fn fault(&mut self, path: &str, text: impl Into<String>) {
        if self.lenient { self.report.warn(path, text) } else { self.report.error(path, text) }
    }
}

/// Looks up a reference, and checks that it can be sent as a credential.
///
/// # Errors
/// A sentence that does not repeat the value.
pub(super) fn try_credential(reference: &SecretRef, environment: Environment<'_>) -> Result<(), String> {
    look_up(reference, environment).and_then(|secret| credential(secret.expose()).map_err(str::to_owned))
}

pub(super) fn look_up(reference: &SecretRef, environment: Environment<'_>) -> Result<Secret, String> {
    match reference {
        SecretRef::Plain(secret) => Ok(secret.clone()),
        SecretRef::Env(name) => variable(name, environment),
        SecretRef::File(file) => secret_file(Path::new(file)),
    }
}

fn variable(name: &str, environment: Environment<'_>) -> Result<Secret, String> {
    let Some(value) = environment(name) else {
        return Err(format!("the environment variable {name} is not set"));
    };
    match value.into_string() {
        Ok(text) if text.is_empty() => Err(format!("the environment variable {name} is empty")),
        Ok(text) => Ok(Secret::new(text)),
        Err(_) => Err(format!("the environment variable {name} is not UTF-8")),
    }
}

/// Reads a secret from a file. One line end at its end is not part of it.
fn secret_file(path: &Path) -> Result<Secret, String> {
    let bytes = read_file(path, MAX_SECRET_BYTES)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", path.display()))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    Ok(Secret::new(text))
}

/// Checks that a secret can be sent as a credential.
fn credential(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_HEADER_BYTES {
        return Err("a credential has at most 8192 bytes");
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a credential holds visible ASCII characters only: no blanks, no line ends");
    }
    Ok(())
}
