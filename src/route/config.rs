//! The `routes:` part of the configuration, and the shape of stored routes.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::unit::glob::Glob;
use crate::unit::object::{object, objects, whole};

/// One route. It has `to` or `split`, not both; `fallback` may follow either.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteConfig {
    /// A name for logs and the ledger; left out, `route-N` by position from 1. At most 64 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which calls it takes; everything given must match, nothing given matches all.
    #[serde(rename = "match", deserialize_with = "object")]
    pub matches: RouteMatch,
    /// The first target.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub to: Option<TargetConfig>,
    /// Or: one of these, drawn by weight for each call.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "objects")]
    pub split: Vec<SplitConfig>,
    /// The targets after it, in order; each is tried at most once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub fallback: Vec<TargetConfig>,
}

/// Which calls a route takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteMatch {
    /// A pattern for the model that the caller names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub model: Option<Glob>,
    /// A pattern for the key's team; a key without a team never matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub team: Option<Glob>,
}

/// One side of a split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitConfig {
    /// The target.
    #[schema(value_type = String)]
    pub to: TargetConfig,
    /// Its share: 0 (drained) to 1,000,000; at least one side has more than 0.
    #[serde(deserialize_with = "whole")]
    pub weight: u32,
}

/// A target, written `provider` (the model stays as asked) or `provider:model`. Only the first colon separates, so models
/// such as `llama3:8b` can be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetConfig {
    /// The provider's name.
    pub provider: String,
    /// The model to ask of it instead of the one named by the caller.
    pub model: Option<String>,
}

impl TargetConfig {
    /// Parses `provider` or `provider:model`.
    ///
    /// # Errors
    /// A sentence, when a part is empty, too long or holds control characters.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (provider, model) = match text.split_once(':') {
            Some((provider, model)) => (provider, Some(model)),
            None => (text, None),
        };
        if provider.is_empty() || model.is_some_and(str::is_empty) {
            return Err(format!("{text:?} is not a target; write provider or provider:model"));
        }
        if text.len() > 320 || text.chars().any(char::is_control) {
            return Err("a target has at most 320 bytes and no control characters".to_owned());
        }
        Ok(Self { provider: provider.to_owned(), model: model.map(str::to_owned) })
    }
}

impl fmt::Display for TargetConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.provider)?;
        self.model.as_ref().map_or(Ok(()), |model| write!(out, ":{model}"))
    }
}

impl Serialize for TargetConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TargetConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}
