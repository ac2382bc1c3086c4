//! From a file to checked settings.
//!
//! Loading either gives settings that can run or every fault at once: those of the text, of the references between its
//! parts, and of what it refers to outside. The text is read once into a tree that knows positions, and taken apart key by
//! key; serde is not used here because it ends at the first fault. Text and tree are bounded, whatever the file holds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::config::Config;
use crate::config::check;
use crate::config::decode::Decoder;
use crate::config::problem::{Mark, Problem, Report};
use crate::config::resolve::{self, Environment};
use crate::config::{AuditSecrets, PermitFiles, RedisSecrets, shape, tree, url};
use crate::provider::config::{ProviderConfig, ProviderSettings, UrlRef};
use crate::unit::secret::Secret;

/// The largest file.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// What is said of a text without content: nothing, comments only, or a bare `null`.
const EMPTY: &str = "the file is empty, or holds only comments or null; a configuration of defaults only is written {}";

/// A configuration that is ready to run: checked, with every reference looked up.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration as written, defaults filled in.
    pub config: Config,
    /// The providers, sorted by name, disabled ones included.
    pub providers: Vec<ProviderSettings>,
    /// What the port of applications shows under TLS, if `server.tls` is set: read once, so that what was checked is served.
    pub tls: Option<Arc<CertifiedKey>>,
    /// The address of `database.url`, if it is set.
    pub database_url: Option<Secret>,
    /// The address of `database.listen_url`, if it is set.
    pub listen_url: Option<Secret>,
    /// The providers by name, each with its id in the price list, if it has one. Known even where the providers themselves
    /// are not looked up.
    pub price_providers: BTreeMap<String, Option<String>>,
    /// The secret of `keys.hash_key`, if it is set: 64 hexadecimal digits.
    pub hash_key: Option<Secret>,
    /// Where events of limits are posted, if `budget.webhook_url` is set.
    pub webhook: Option<Webhook>,
    /// What `redis` refers to, if it has addresses.
    pub redis: Option<RedisSecrets>,
    /// What `audit` refers to.
    pub audit: AuditSecrets,
    /// What `kavach.permits` refers to.
    pub permits: PermitFiles,
    /// What is allowed but probably not meant, in order of line and column.
    pub warnings: Vec<Problem>,
}

/// Where events of limits are posted, looked up.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// `http://` or `https://`, host, port, path and query. Many such URLs hold a token, so none is shown.
    pub url: Secret,
    /// What posts are signed with.
    pub secret: Option<Secret>,
}

/// Reads and checks a file of at most [`MAX_FILE_BYTES`], and looks up what it refers to. Relative paths in it are taken
/// from the current directory.
///
/// Cost: reads that file and every file that it refers to.
///
/// # Errors
/// Every fault, in order of line and column; never empty.
pub fn load(path: &Path) -> Result<Loaded, Vec<Problem>> {
    let (text, origin) = text_of(path)?;
    load_text(&text, &origin, &|name| std::env::var_os(name))
}

/// Like [`load`], for work on the store alone: the whole file is checked, but of its references only the database's and `keys.hash_key` are looked
/// up, so that whoever makes a key needs none of the providers' secrets. `Loaded::providers` is empty.
///
/// # Errors
/// As for [`load`].
pub fn load_for_store(path: &Path) -> Result<Loaded, Vec<Problem>> {
    let (text, origin) = text_of(path)?;
    let (mut config, report) = read(&text, &origin);
    let price_providers = price_providers(&config);
    config.providers.clear();
    config.budget.webhook_url = None;
    config.budget.webhook_secret = None;
    let audit = std::mem::take(&mut config.audit);
    let permits = std::mem::take(&mut config.kavach.permits);
    let overlay = config.prices.overlay.take();
    let mut loaded = complete(config, report, &|name| std::env::var_os(name))?;
    (loaded.config.audit, loaded.config.kavach.permits) = (audit, permits);
    loaded.config.prices.overlay = overlay;
    Ok(Loaded { price_providers, ..loaded })
}

/// The address of a database, written as `database.url` is.
///
/// # Errors
/// A sentence that does not repeat the text.
pub fn database_url(text: &str) -> Result<Secret, String> {
    match url::database(text)? {
        UrlRef::Bare(text) => Ok(Secret::new(text)),
        UrlRef::Ref(reference) => resolve::look_up(&reference, &|name| std::env::var_os(name)),
    }
}

/// Whether an environment variable is set to nothing.
pub fn is_empty_variable(name: &std::ffi::OsStr) -> bool {
    std::env::var_os(name).is_some_and(|value| value.is_empty())
}

fn text_of(path: &Path) -> Result<(String, String), Vec<Problem>> {
    let origin = path.display().to_string();
    let text = resolve::read_file(path, MAX_FILE_BYTES).map_err(|text| vec![fault(&origin, Mark::default(), text)])?;
    let text = String::from_utf8(text).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let mark = end_of(&String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default()));
        vec![fault(&origin, mark, "the file is not UTF-8 from here on".to_owned())]
    })?;
    Ok((text, origin))
}

/// Checks a text without looking up anything outside it. `origin` is what the text is called in faults.
///
/// # Errors
/// Every fault, in order of line and column; never empty.
pub fn parse(text: &str, origin: &str) -> Result<Config, Vec<Problem>> {
    let (config, report) = read(text, origin);
    report.finish().map(|_| config)
}

/// Like `load`, of a text and with an environment.
pub(super) fn load_text(text: &str, origin: &str, environment: Environment<'_>) -> Result<Loaded, Vec<Problem>> {
    let (config, report) = read(text, origin);
    complete(config, report, environment)
}

/// Looks up what a checked configuration refers to.
pub(super) fn complete(
    config: Config,
    mut report: Report,
    environment: Environment<'_>,
) -> Result<Loaded, Vec<Problem>> {
    if report.is_broken() {
        return Err(report.finish().err().unwrap_or_default());
    }
    let resolve::Resolved { providers, tls, database_url, listen_url, hash_key, webhook, redis, audit, permits } =
        resolve::resolve(&config, environment, &mut report);
    let warnings = report.finish()?;
    let price_providers = price_providers(&config);
    Ok(Loaded {
        config,
        providers,
        price_providers,
        tls,
        database_url,
        listen_url,
        hash_key,
        webhook,
        redis,
        audit,
        permits,
        warnings,
    })
}

fn price_providers(config: &Config) -> BTreeMap<String, Option<String>> {
    let id = |provider: &ProviderConfig| {
        let preset = provider.preset.and_then(|preset| preset.row().price_provider);
        provider.price_provider.clone().or(preset.map(str::to_owned))
    };
    config.providers.iter().map(|(name, provider)| (name.clone(), id(provider))).collect()
}

/// The configuration of a text, as far as it can be understood, and what is wrong with it.
fn read(text: &str, origin: &str) -> (Config, Report) {
    let mut report = Report::new(origin);
    if text.len() as u64 > MAX_FILE_BYTES {
        report.broken_at(Mark::default(), format!("the file is larger than {MAX_FILE_BYTES} bytes"));
        report.seal();
        return (Config::default(), report);
    }
    let node = tree::read(text.strip_prefix('\u{feff}').unwrap_or(text), &mut report);
    if !report.is_broken() && node.as_ref().is_none_or(tree::Node::is_null) {
        // A file that is being rewritten is empty for a moment; a reload then must not drop every provider.
        report.broken_at(Mark::default(), EMPTY);
    }
    let mut decoder = Decoder::new(report);
    let config = decoder.root(node.as_ref(), shape::config);
    let mut report = decoder.report;
    report.seal();
    // After a break the rest of the text is unknown, so nothing can be said about what its parts refer to.
    if !report.is_broken() {
        check::check(&config, &mut report);
    }
    (config, report)
}

fn fault(origin: &str, mark: Mark, text: String) -> Problem {
    Problem { origin: origin.to_owned(), line: mark.line, column: mark.column, path: String::new(), text }
}

/// The position after a text.
fn end_of(text: &str) -> Mark {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let line = text.matches('\n').count();
    let column = text.rsplit('\n').next().map_or(0, |last| last.chars().count());
    Mark { line: number(line).saturating_add(1), column: number(column).saturating_add(1) }
}
