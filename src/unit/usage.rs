//! What an exchange consumed, in disjoint classes.
//!
//! Providers count in overlapping ways (OpenAI's `prompt_tokens` contains `cached_tokens`, Anthropic's `input_tokens` does
//! not). Each dialect converts its own way of counting to these classes, which never overlap, so that prices can be
//! multiplied and sums taken without knowing who counted.

use serde::{Deserialize, Serialize};

/// Token counts by class; each token is in exactly one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct Usage {
    /// Input tokens that no cache served, text.
    pub input: u64,
    /// Input tokens read from the provider's prompt cache.
    pub cache_read: u64,
    /// Input tokens written to a cache that lives five minutes (or the provider's only kind of cache).
    pub cache_write_5m: u64,
    /// Input tokens written to a cache that lives one hour.
    pub cache_write_1h: u64,
    /// Audio input tokens that no cache served.
    pub input_audio: u64,
    /// Image input tokens, where the provider counts them apart.
    pub input_image: u64,
    /// Output tokens, text, without reasoning.
    pub output: u64,
    /// Output tokens spent on reasoning.
    pub reasoning: u64,
    /// Audio output tokens.
    pub output_audio: u64,
    /// Image output tokens.
    pub output_image: u64,
}

impl Usage {
    /// All input tokens, of every class.
    pub fn input_total(&self) -> u64 {
        [self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h, self.input_audio, self.input_image]
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// All output tokens, of every class.
    pub fn output_total(&self) -> u64 {
        [self.output, self.reasoning, self.output_audio, self.output_image]
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// Who counted the tokens of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The provider reported them.
    Reported,
    /// Marg counted the text that was sent and delivered, because the provider reported nothing.
    Estimated,
}
