//! What a configuration must keep to beyond the types of its keys, as far as the text alone can tell.

use std::collections::HashMap;

use http::{HeaderName, HeaderValue};

use crate::config::decode::join;
use crate::config::demo::SIMULATED;
use crate::config::problem::Report;
use crate::config::{
    AdminConfig, Config, LedgerConfig, ServerConfig, audit, budget, kavach, redis, routes, suggest, url,
};
use crate::provider::config::{Auth, HeaderRef, ProviderConfig, UrlRef};
use crate::provider::preset::{BaseUrl, TABLE};

/// The longest value of a header and the longest credential.
pub(super) const MAX_HEADER_BYTES: usize = 8 * 1024;

/// Headers that say how a message travels (RFC 9110 section 7.6.1, RFC 9112) or that Marg sets itself.
const RESERVED: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

/// Notes every fault and every oddity.
pub(super) fn check(config: &Config, report: &mut Report) {
    ports(&config.server, &config.admin, report);
    server(&config.server, report);
    ledger(&config.ledger, report);
    kavach::check(config, report);
    audit::check(config, report);
    for (name, provider) in &config.providers {
        self::provider(name, provider, report);
        // An overlay may hold providers of its own.
        if config.prices.overlay.is_none() {
            price_provider(name, provider, report);
        }
    }
    routes::check(config, report);
    budget::check(config, report);
    redis::check(config, report);
}

/// How a provider's credentials are sent.
pub(super) fn auth(provider: &ProviderConfig) -> Auth {
    provider.auth.or(provider.preset.map(|preset| preset.row().auth)).unwrap_or(Auth::Bearer)
}

fn ports(server: &ServerConfig, admin: &AdminConfig, report: &mut Report) {
    let (here, there) = (server.listen, admin.listen);
    // ::ffff:127.0.0.1 is 127.0.0.1 in other words (RFC 4291 section 2.5.5.2).
    let (this, that) = (here.ip().to_canonical(), there.ip().to_canonical());
    let same_host = this == that || this.is_unspecified() || that.is_unspecified();
    // Port 0 asks the system for any free port, which is another one each time.
    if admin.enabled && here.port() == there.port() && here.port() != 0 && same_host {
        report.error("admin.listen", format!("this is the same port as server.listen ({here}); choose another"));
    }
}

fn server(server: &ServerConfig, report: &mut Report) {
    let (body, all) = (server.max_body_bytes, server.max_buffered_bytes);
    if all < body {
        let text = format!("{all} is less than server.max_body_bytes ({body}); one body must fit");
        report.error("server.max_buffered_bytes", text);
    }
    if server.body_idle_timeout_ms > server.body_timeout_ms {
        report.warn("server.body_idle_timeout_ms", "longer than server.body_timeout_ms, so it never ends anything");
    }
}

fn ledger(ledger: &LedgerConfig, report: &mut Report) {
    let (segment, all) = (ledger.journal_segment_bytes, ledger.journal_max_bytes);
    if all < segment {
        let text = format!("{all} is less than ledger.journal_segment_bytes ({segment}); one segment must fit");
        report.error("ledger.journal_max_bytes", text);
    }
}

fn provider(name: &str, provider: &ProviderConfig, report: &mut Report) {
    let path = join("providers", name);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        report.error(&path, "a provider's name has 1 to 64 of the characters a-z A-Z 0-9 . _ -");
    }
    base_url(&path, provider, report);
    headers(&path, provider, report);
    let credentials = join(&path, "credentials");
    let auth = auth(provider);
    if auth == Auth::None && !provider.credentials.is_empty() {
        report.warn(&credentials, "these are never sent, because `auth` is none");
    }
    let needs_key = provider.preset.is_some_and(|preset| preset.row().key_variable.is_some());
    let carries =
        |name: &String| HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| carries_credential(&name, auth));
    let has_key = !provider.credentials.is_empty() || provider.headers.keys().any(carries);
    if provider.enabled && needs_key && auth != Auth::None && !has_key {
        let variable = provider.preset.and_then(|preset| preset.row().key_variable).unwrap_or_default();
        report
            .warn(&path, format!("no `credentials`, so its answers will be 401; write credentials: [env:{variable}]"));
    }
}

fn price_provider(name: &str, provider: &ProviderConfig, report: &mut Report) {
    let Some(id) = provider.price_provider.as_deref() else { return };
    // The built-in list is large; it is not read for the ids that are known without it.
    if id == SIMULATED || TABLE.iter().any(|row| row.price_provider == Some(id)) {
        return;
    }
    let known: Vec<&str> = genai_prices::Calculator::bundled().providers().map(|provider| provider.id()).collect();
    if !known.contains(&id) {
        let near = suggest::nearest(id, &known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        let path = join(&join("providers", name), "price_provider");
        let shown = suggest::shorten(id);
        report.warn(&path, format!("the price list has no provider {shown:?}, so its calls have no price{near}"));
    }
}

fn base_url(path: &str, provider: &ProviderConfig, report: &mut Report) {
    match (&provider.base_url, provider.preset.map(|preset| preset.row().base_url)) {
        (Some(UrlRef::Bare(text)), _) => {
            if let Err(text) = url::normalise(text) {
                report.error(&join(path, "base_url"), text);
            }
        }
        (Some(UrlRef::Ref(_)), _) | (None, Some(BaseUrl::Known(_))) => {}
        (None, Some(BaseUrl::Given(form))) => {
            report.error(path, format!("this preset needs a `base_url` of the form {form}"));
        }
        (None, None) => report.error(path, "a provider needs a `preset` or a `base_url`"),
    }
}

fn headers(path: &str, provider: &ProviderConfig, report: &mut Report) {
    let path = join(path, "headers");
    let mut seen: HashMap<HeaderName, &str> = HashMap::new();
    for (text, value) in &provider.headers {
        let at = join(&path, text);
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            report.error(&at, "this is not the name of a header");
            continue;
        };
        if RESERVED.contains(&name.as_str()) {
            report.error(&at, "this header is Marg's own to set; remove it");
        } else if !provider.credentials.is_empty() && carries_credential(&name, auth(provider)) {
            report.error(&at, "this header would replace the provider's credential; remove it or `credentials`");
        }
        if let HeaderRef::Bare(value) = value
            && let Err(text) = header_value(value)
        {
            report.error(&at, text);
        }
        if let Some(first) = seen.insert(name, text) {
            report.error(&at, format!("this header is already given as {first:?}; case makes no difference"));
        }
    }
}

fn carries_credential(name: &HeaderName, auth: Auth) -> bool {
    let header = match auth {
        Auth::Bearer | Auth::None => "authorization",
        Auth::ApiKey => "api-key",
        Auth::XApiKey => "x-api-key",
        Auth::XGoogApiKey => "x-goog-api-key",
    };
    name == header || name == "authorization"
}

/// Whether a header of that name holds a secret, however its value is written in the file.
pub(super) fn names_a_secret(name: &HeaderName) -> bool {
    let words = ["authorization", "key", "token", "secret", "password", "cookie"];
    name.as_str().ends_with("-auth") || words.iter().any(|word| name.as_str().contains(word))
}

/// The value as a header, marked as not to be shown.
///
/// # Errors
/// A sentence that does not repeat the value.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, &'static str> {
    if text.len() > MAX_HEADER_BYTES {
        return Err("the value of a header has at most 8192 bytes");
    }
    // RFC 9110 section 5.5: anything else is obsolete, and read differently by different servers.
    const FORM: &str = "the value of a header holds visible ASCII characters, blanks and tabs only";
    if !text.bytes().all(|byte| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\t')) {
        return Err(FORM);
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| FORM)?;
    value.set_sensitive(true);
    Ok(value)
}
