//! The section `kavach.permits`: permits on paper.

use std::path::PathBuf;

use http::HeaderName;

use crate::config::Config;
use crate::config::decode::Table;
use crate::config::problem::Report;
use crate::config::resolve::read_file;
use crate::config::shape::word;
use crate::config::suggest;
use crate::kavach::permits::config::{HEADER, PermitsConfig, SendTo};
use crate::kavach::permits::jwk::{Algorithm, JwkSet, MAX_SET_BYTES};
use crate::kavach::permits::key::PermitKeys;
use crate::unit::secret::{Secret, SecretRef};

/// The longest audience, so that a classical permit stays below 4 KiB whatever else it says.
const MAX_AUDIENCE_BYTES: usize = 256;
/// Headers that mean something else on one of the two legs.
const TAKEN: &[&str] = &[
    "accept",
    "accept-encoding",
    "allow",
    "api-key",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "host",
    "keep-alive",
    "location",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "server",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
    "x-accel-buffering",
    "x-api-key",
    "x-goog-api-key",
    "x-real-ip",
    "x-request-id",
];
/// How the names of headers begin that are Marg's or a proxy's.
const TAKEN_BEGINNINGS: &[&str] = &["x-marg-", "x-kavach-", "x-forwarded-", "x-ratelimit-", "sec-"];

/// The section `kavach.permits`.
pub(super) fn permits(table: &mut Table<'_, '_>) -> PermitsConfig {
    const WHO: &[(&str, SendTo)] =
        &[("none", SendTo::Nobody), ("upstream", SendTo::Upstream), ("caller", SendTo::Caller), ("both", SendTo::Both)];
    let default = PermitsConfig::default();
    PermitsConfig {
        send_to: table.text_or("send_to", default.send_to, |text| word(text, WHO)),
        header: table.text_or("header", default.header, header),
        ttl_ms: table.number("ttl_ms", default.ttl_ms),
        audience: table.text("audience", audience),
        caller_audience: table.text_or("caller_audience", default.caller_audience, audience),
        algorithms: algorithms(table).unwrap_or(default.algorithms),
        key: table.text("key", SecretRef::parse),
        extra_keys: table.text("extra_keys", path),
    }
}

/// The algorithms that are written; `None` if none are, or not rightly.
fn algorithms(table: &mut Table<'_, '_>) -> Option<Vec<Algorithm>> {
    let found = table.texts("algorithms", |text| {
        let words = [Algorithm::Ed25519.name(), Algorithm::MlDsa65.name()];
        Algorithm::named(text).ok_or_else(|| suggest::unknown_word(text, &words))
    });
    if found.is_empty() && table.has("algorithms") {
        table.fault("algorithms", "name at least one of ed25519 and ml-dsa-65");
    }
    if let [first, second] = found[..]
        && first == second
    {
        table.fault("algorithms", "name each algorithm once");
    }
    (!found.is_empty()).then_some(found)
}

fn header(text: &str) -> Result<HeaderName, String> {
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| "this is not the name of a header".to_owned())?;
    let taken = TAKEN.contains(&name.as_str()) || TAKEN_BEGINNINGS.iter().any(|begin| name.as_str().starts_with(begin));
    if taken && name != HEADER {
        return Err(format!("this header means something else; leave {HEADER} or choose one of your own"));
    }
    Ok(name)
}

fn audience(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if (1..=MAX_AUDIENCE_BYTES).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(format!("an audience has 1 to {MAX_AUDIENCE_BYTES} visible ASCII characters without quotes and backslashes"))
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') { Err("write a path".to_owned()) } else { Ok(PathBuf::from(text)) }
}

/// Notes what the text alone can tell.
pub(super) fn check(config: &Config, report: &mut Report) {
    let permits = &config.kavach.permits;
    if permits.send_to == SendTo::Nobody {
        if permits.key.is_some() {
            report.warn("kavach.permits.key", "kavach.permits.send_to is none, so this signs nothing");
        }
        return;
    }
    let same = |name: &str| HeaderName::from_bytes(name.as_bytes()).is_ok_and(|name| name == permits.header);
    for (name, provider) in &config.providers {
        if provider.headers.keys().any(|header| same(header)) {
            let text = format!("the provider {name:?} sets this header itself; choose another, or remove it there");
            report.error("kavach.permits.header", text);
        }
    }
}

/// What the section refers to, looked up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PermitFiles {
    /// The text of the key file, if the section names one: a good one.
    pub key: Option<Secret>,
    /// Further public keys.
    pub extra: JwkSet,
}

/// Reads the further public keys.
pub(super) fn extra(config: &PermitsConfig, report: &mut Report) -> JwkSet {
    let Some(path) = &config.extra_keys else { return JwkSet::default() };
    let set = read_file(path, MAX_SET_BYTES as u64)
        .and_then(|bytes| JwkSet::parse(&bytes).map_err(|error| format!("{}: {error}", path.display())));
    set.unwrap_or_else(|text| {
        report.error("kavach.permits.extra_keys", text);
        JwkSet::default()
    })
}

/// Checks the text of a key file.
///
/// # Errors
/// A sentence that does not repeat it.
pub(super) fn check_key(text: &Secret) -> Result<(), String> {
    PermitKeys::open(text.expose()).map(drop).map_err(|error| error.to_string())
}
