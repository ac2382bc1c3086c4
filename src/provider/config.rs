//! The `providers:` part of the configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::dialect::CeilingField;
use crate::provider::preset::Preset;
use crate::unit::glob::Glob;
use crate::unit::secret::{Secret, SecretRef};

/// One provider. With a `preset`, only credentials are needed; without one, `base_url` is.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderConfig {
    /// A row of the preset table: base URL, way of authentication, price list.
    pub preset: Option<Preset>,
    /// Where it is: `http://` or `https://`, host, optional port and path prefix, as in `https://api.openai.com/v1`.
    pub base_url: Option<UrlRef>,
    /// The credentials, used in turn; each rests alone after a 429 or a 401. Empty for providers that need none.
    pub credentials: Vec<SecretRef>,
    /// How a credential is sent; left out, as the preset says.
    pub auth: Option<Auth>,
    /// Off: no target of it is tried.
    pub enabled: bool,
    /// The models that it serves; empty means any. A target whose model is not among them is refused at load.
    pub models: Vec<Glob>,
    /// Headers added to every request; values may be secret references or bare text.
    pub headers: BTreeMap<String, HeaderRef>,
    /// The time to open a connection, TLS included.
    pub connect_timeout_ms: u64,
    /// The time from sending the request to the first byte of the answer.
    pub first_byte_timeout_ms: u64,
    /// The time between two chunks of an answer. There is no limit on the whole.
    pub idle_timeout_ms: u64,
    /// Which HTTP to speak.
    pub http: HttpVersion,
    /// A PEM file of certificate authorities to believe instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The provider id in the price list; left out, as the preset says.
    pub price_provider: Option<String>,
    /// Where it works, for policies: 1 to 64 of `a-z A-Z 0-9 . _ -`.
    pub region: Option<String>,
    /// Whether `stream_options.include_usage` may be added to a streamed request, so that the provider reports what it
    /// used; left out, as the preset says, and yes without a preset.
    pub stream_usage: Option<bool>,
    /// The field of a chat request that bounds its output, where Marg must set one; left out, as the preset says, and
    /// `max_tokens` without a preset.
    pub output_ceiling: Option<CeilingField>,
}

impl Default for ProviderConfig {
    fn default() -> Self {
        Self {
            preset: None,
            base_url: None,
            credentials: Vec::new(),
            auth: None,
            enabled: true,
            models: Vec::new(),
            headers: BTreeMap::new(),
            connect_timeout_ms: 5_000,
            first_byte_timeout_ms: 120_000,
            idle_timeout_ms: 120_000,
            http: HttpVersion::default(),
            ca_file: None,
            price_provider: None,
            region: None,
            stream_usage: None,
            output_ceiling: None,
        }
    }
}

/// One provider as it runs: every reference looked up, every value checked, every default filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderSettings {
    /// Its name in the configuration: 1 to 64 of `a-z A-Z 0-9 . _ -`.
    pub name: String,
    /// The preset that it was made from.
    pub preset: Option<Preset>,
    /// `http://` or `https://`, host, optional port, optional path without a slash at its end. No user name, query or
    /// fragment. Secret because some URLs hold a token in their path.
    pub base_url: Secret,
    /// The credentials in the order of the file; each can be a header value. Empty for providers that need none.
    pub credentials: Vec<Secret>,
    /// How a credential is sent.
    pub auth: Auth,
    /// Off: no target of it is tried.
    pub enabled: bool,
    /// The models that it serves; empty means any.
    pub models: Vec<Glob>,
    /// Headers added to every request, in order of their names, each name once; values are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What of their values is secret: what was referred to, and what stands behind the word of a scheme (`Bearer`) in it. At least
    /// eight bytes each.
    pub header_secrets: Vec<Secret>,
    /// The time to open a connection, TLS included.
    pub connect_timeout: Duration,
    /// The time from sending the request to the first byte of the answer.
    pub first_byte_timeout: Duration,
    /// The time between two chunks of an answer.
    pub idle_timeout: Duration,
    /// Which HTTP to speak.
    pub http: HttpVersion,
    /// A PEM file of certificate authorities to believe instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The provider id in the price list.
    pub price_provider: Option<String>,
    /// Where it works, for policies; empty if the configuration does not say.
    pub region: Arc<str>,
    /// Whether `stream_options.include_usage` may be added to a streamed request.
    pub stream_usage: bool,
    /// The field of a chat request that bounds its output, where Marg must set one.
    pub output_ceiling: CeilingField,
}

/// Which HTTP version to speak to a provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by ALPN over TLS (falling back to 1.1), by prior knowledge without TLS.
    Http2,
}

/// How a credential is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `authorization: Bearer …` (RFC 6750).
    Bearer,
    /// `api-key: …` (Azure).
    ApiKey,
    /// `x-api-key: …` (Anthropic).
    XApiKey,
    /// `x-goog-api-key: …` (Google).
    XGoogApiKey,
    /// Nothing is sent.
    None,
}

/// A URL, bare or by reference (`plain:`, `env:`, `file:`), since some URLs hold secrets.
#[derive(Clone, Debug, PartialEq)]
pub enum UrlRef {
    /// Written out.
    Bare(String),
    /// To be looked up.
    Ref(SecretRef),
}

impl UrlRef {
    /// Parses a URL that begins with `http://` or `https://`, or a reference.
    ///
    /// # Errors
    /// A sentence that does not repeat the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        if matches!(scheme.as_deref(), Some("http" | "https")) {
            return Ok(Self::Bare(text.to_owned()));
        }
        SecretRef::parse(text).map(Self::Ref).map_err(|_| {
            "a URL begins with http:// or https://, or is written plain:URL, env:NAME or file:PATH".to_owned()
        })
    }
}

/// A header value, bare or by reference.
#[derive(Clone, Debug, PartialEq)]
pub enum HeaderRef {
    /// Written out.
    Bare(String),
    /// To be looked up; its value is a secret.
    Ref(SecretRef),
}

impl HeaderRef {
    /// Parses a reference, or takes the text as it is.
    ///
    /// # Errors
    /// A sentence that does not repeat the text, when a reference names nothing.
    pub fn parse(text: &str) -> Result<Self, String> {
        if ["plain:", "env:", "file:"].iter().any(|scheme| text.starts_with(scheme)) {
            return SecretRef::parse(text).map(Self::Ref);
        }
        Ok(Self::Bare(text.to_owned()))
    }
}
