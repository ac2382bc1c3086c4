//! The preset table: what is known of each provider that speaks OpenAI's wire, one row each.

use crate::provider::config::Auth;

/// A row of the table, by its name in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preset(&'static Row);

/// What is known of a provider.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    /// The name in the configuration.
    pub name: &'static str,
    /// Other names that are understood in the configuration.
    pub aliases: &'static [&'static str],
    /// The URL that paths such as `/chat/completions` are appended to.
    pub base_url: BaseUrl,
    /// How its credential is sent.
    pub auth: Auth,
    /// The environment variable that usually holds its key; `marg demo` looks there. None for servers of one's own, which
    /// need no credential.
    pub key_variable: Option<&'static str>,
    /// Its id in the price list `genai-prices`, if it is there.
    pub price_provider: Option<&'static str>,
    /// Whether `stream_options.include_usage` is understood, so that it may be added to a streamed request.
    pub stream_usage: bool,
    /// The vendor page that says so.
    pub source: &'static str,
}

/// Where a preset's provider is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseUrl {
    /// At the same place for everybody.
    Known(&'static str),
    /// At a place of one's own, which the configuration must give; this is its form.
    Given(&'static str),
}

/// Every preset, in the order in which `marg demo` prefers them as default provider.
pub const TABLE: &[Row] = &[Row {
    name: "openai",
    aliases: &[],
    base_url: BaseUrl::Known("https://api.openai.com/v1"),
    auth: Auth::Bearer,
    key_variable: Some("OPENAI_API_KEY"),
    price_provider: Some("openai"),
    stream_usage: true,
    source: "https://platform.openai.com/docs/api-reference",
}];

impl Preset {
    /// The row.
    pub fn row(self) -> &'static Row {
        self.0
    }

    /// Whether its provider is at the same place for everybody, so that the configuration need not say where.
    pub fn has_known_url(self) -> bool {
        matches!(self.0.base_url, BaseUrl::Known(_))
    }

    /// The preset of a name or alias.
    pub fn named(name: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.name == name || row.aliases.contains(&name)).map(Self)
    }
}
