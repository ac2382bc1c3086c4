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
    /// The sum, class by class; at most `u64::MAX` each.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            cache_read: self.cache_read.saturating_add(other.cache_read),
            cache_write_5m: self.cache_write_5m.saturating_add(other.cache_write_5m),
            cache_write_1h: self.cache_write_1h.saturating_add(other.cache_write_1h),
            input_audio: self.input_audio.saturating_add(other.input_audio),
            input_image: self.input_image.saturating_add(other.input_image),
            output: self.output.saturating_add(other.output),
            reasoning: self.reasoning.saturating_add(other.reasoning),
            output_audio: self.output_audio.saturating_add(other.output_audio),
            output_image: self.output_image.saturating_add(other.output_image),
        }
    }

    /// The input of one count and the output of another.
    pub fn of_sides(input: &Self, output: &Self) -> Self {
        let Self { output: text, reasoning, output_audio, output_image, .. } = *output;
        Self { output: text, reasoning, output_audio, output_image, ..*input }
    }

    /// The counts in the order of the fields.
    pub fn counts(&self) -> [u64; 10] {
        // Taken apart without `..`, so that a class that is added is missed by the compiler, not in a bill.
        let Self {
            input,
            cache_read,
            cache_write_5m,
            cache_write_1h,
            input_audio,
            input_image,
            output,
            reasoning,
            output_audio,
            output_image,
        } = *self;
        [
            input,
            cache_read,
            cache_write_5m,
            cache_write_1h,
            input_audio,
            input_image,
            output,
            reasoning,
            output_audio,
            output_image,
        ]
    }

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

/// The images that a model drew in one exchange, all of one kind. Where a provider counts the tokens of an image, those are in
/// [`Usage`]; this is for prices by the piece.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Images {
    /// How many.
    pub count: u64,
    /// Their size as the provider named it, else as the caller did, such as `1024x1536`; `None` if neither said. At most 32
    /// bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Their quality, likewise, such as `hd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<String>,
}

/// How urgently a provider served an exchange; prices differ by it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ServiceTier {
    /// The ordinary way.
    #[default]
    Standard,
    /// Later, in a batch.
    Batch,
    /// When there is room.
    Flex,
    /// Before others.
    Priority,
}

impl ServiceTier {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Standard, Self::Batch, Self::Flex, Self::Priority];

    /// The tier that a provider's word means; [`ServiceTier::Standard`] for a word that names no other.
    ///
    /// *Sources*: OpenAI's `service_tier` (`auto`, `default`, `flex`, `scale`, `priority`, and `fast` for the same),
    /// <https://platform.openai.com/docs/api-reference/chat/object>; Anthropic's `usage.service_tier` (`standard`,
    /// `priority`, `batch`), <https://docs.claude.com/en/api/service-tiers>; Groq's (`on_demand`, `flex`, `auto`),
    /// <https://console.groq.com/docs/service-tiers>. OpenAI's `scale` is paid for by the month, so its tokens count as
    /// ordinary ones.
    pub fn of_word(word: &str) -> Self {
        match word {
            "batch" => Self::Batch,
            "flex" => Self::Flex,
            "priority" | "fast" => Self::Priority,
            _ => Self::Standard,
        }
    }

    /// The word for it, the same as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Batch => "batch",
            Self::Flex => "flex",
            Self::Priority => "priority",
        }
    }
}

/// Who counted the tokens of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The provider reported them.
    Reported,
    /// Marg counted the text that was sent and delivered, or the side of them that the provider's report leaves out, because
    /// the provider reported nothing, not all of it, or what cannot be true.
    Estimated,
}
