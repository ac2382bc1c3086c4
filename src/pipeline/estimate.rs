//! **Estimate**: the most that an exchange can consume at any target of its plan.
//!
//! What is reserved must be an upper bound, or a limit could be exceeded. Text is bounded by its bytes, which costs nothing
//! and is several times too much; only when that does not fit are its tokens counted (`exact_input`). Output is bounded by the
//! ceiling that the provider is told. Money is the dearest target's, at the dearest class of token that can occur.

use std::sync::Arc;

use crate::budget::Amounts;
use crate::catalog::prices::PriceQuery;
use crate::catalog::tokens;
use crate::catalog::{Drawn, Media};
use crate::dialect::{self, Facts, Operation, Runs};
use crate::kavach::call::PriceClass;
use crate::pipeline::attempt::Step;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::settle::signed;
use crate::telemetry::metrics::METRICS;
use crate::unit::money::NanoUsd;
use crate::unit::usage::{ServiceTier, Usage};

/// What one image takes at most, where it is not known how a model sees it: at OpenAI 8 tiles of 170 tokens and 85 more, at others
/// below 5,000. Source: <https://platform.openai.com/docs/guides/images-vision#calculating-costs>.
const IMAGE_TOKENS: u64 = 5_000;
/// The same for `gpt-4o-mini`, whose images count 8 × 5,667 + 2,833 tokens. Source: as above.
const IMAGE_TOKENS_4O_MINI: u64 = 48_169;
/// What one image that a model draws takes at most: 6,240 tokens for 1024 × 1536 at high quality.
/// Source: <https://platform.openai.com/docs/guides/image-generation#cost-and-latency>.
const DRAWN_IMAGE_TOKENS: u64 = 6_500;
/// Tokens of speech for a byte of text, at most: 20 a second, and nobody needs a second for fewer than three characters.
const SPEECH_TOKENS_A_BYTE: u64 = 8;
/// What moderates where a call names no model.
const DEFAULT_MODERATION_MODEL: &str = "omni-moderation-latest";
/// What a model reads at most, where the list does not say.
const CONTEXT_TOKENS: u64 = 128_000;
/// A count of tokens that is believed without a look at the model: what the largest models read.
const PLAUSIBLE_TOKENS: u64 = 1_000_000;
/// So many times a model may read and write all that it can within one answer: the tools of a provider take turns with it.
const TURNS: u64 = 16;
/// Words that vendors add to every request.
pub(super) const OVERHEAD_TOKENS: u64 = 64;
/// Longer texts are counted on a thread that may block.
const COUNT_INLINE_BYTES: usize = 16 * 1024;

impl Exchange {
    /// The most that this exchange can consume when its output has that ceiling and its input at most so many tokens.
    pub(super) fn most(&self, input_tokens: u64, ceiling: Option<u64>) -> Amounts {
        if self.runs == Runs::Nothing {
            return Amounts { usd: Some(0), ..Amounts::default() };
        }
        let Some(facts) = &self.facts else { return Amounts::default() };
        let output = self.most_output(facts, ceiling);
        let usd = self.most_usd(facts, input_tokens, output);
        Amounts { usd: usd.map(NanoUsd::nanos), input_tokens: signed(input_tokens), output_tokens: signed(output) }
    }

    /// The bound of the input that costs nothing to find, with what the request refers to.
    pub(super) fn input_bound(&self) -> u64 {
        self.with_references(self.written_bound())
    }

    /// Whether the model reads something that is not in the body.
    pub(super) fn refers(&self) -> bool {
        let refers = |facts: &Facts| facts.refers || facts.continues.is_some() || self.is_online(facts);
        self.runs != Runs::Nothing && self.facts.as_ref().is_some_and(refers)
    }

    /// Whether a model is asked for by a name that has the provider search the web.
    ///
    /// *Source*: <https://openrouter.ai/docs/guides/routing/model-variants/online>.
    fn is_online(&self, facts: &Facts) -> bool {
        let is_online = |model: &str| model.ends_with(":online");
        self.plan.iter().any(|step| is_online(&step.model))
            || facts.other_models(&self.body).iter().any(|model| is_online(model))
    }

    /// So many written tokens and what the request refers to: a stored answer that is known by its tokens, anything else by all
    /// that the model can read.
    fn with_references(&self, written: u64) -> u64 {
        let Some(facts) = self.facts.as_ref().filter(|_| self.refers()) else { return written };
        let known = facts.continues.as_deref().filter(|_| !facts.refers && !self.is_online(facts));
        match known.and_then(|id| self.gateway.contexts.recall(id)) {
            Some(before) => written.saturating_add(before),
            None => written.max(self.context_window()),
        }
    }

    /// The most that a model of the plan reads.
    fn context_window(&self) -> u64 {
        let window =
            |step: &Step| self.live.catalog.context_window(&self.standard_price(step)).unwrap_or(CONTEXT_TOKENS);
        self.plan.iter().map(window).max().unwrap_or(CONTEXT_TOKENS)
    }

    /// The bound of what is written in the body for a model to read.
    pub(super) fn written_bound(&self) -> u64 {
        let Some(facts) = self.facts.as_ref().filter(|_| self.runs != Runs::Nothing) else { return 0 };
        if self.body.is_empty() {
            return 0;
        }
        facts.input_tokens_most.saturating_add(self.image_tokens(facts)).saturating_add(OVERHEAD_TOKENS)
    }

    /// The input's tokens, counted, with what the request refers to.
    pub(super) async fn exact_input(&self) -> u64 {
        let written = self.written_input().await;
        self.with_references(written)
    }

    /// The written tokens, counted, with what a count may miss: two fifths for models whose words are not known, and what vendors
    /// add; never above the bound.
    pub(super) async fn written_input(&self) -> u64 {
        let words = self.input_words().await;
        let known = self.plan.iter().all(|step| tokens::is_known(&step.model));
        let margin = if known { OVERHEAD_TOKENS } else { OVERHEAD_TOKENS.saturating_add(words * 2 / 5) };
        words.saturating_add(margin).min(self.written_bound())
    }

    /// The input's tokens, counted as the first target's model counts them. Costs about a millisecond for 20 KB.
    pub(super) async fn input_words(&self) -> u64 {
        let Some(facts) = self.facts.as_ref().filter(|_| self.runs != Runs::Nothing) else { return 0 };
        let modalities = facts.modalities;
        let is_media = modalities.audio_input || modalities.file_input || modalities.video_input;
        if is_media || self.body.len() > dialect::TEXT_LIMIT_BYTES {
            // Media that are no images have no words to count, and of a text beyond the limit only the beginning is read.
            return self.written_bound();
        }
        let model = self.plan.first().map(|step| step.model.clone()).unwrap_or_default();
        let (operation, body) = (facts.operation, self.body.clone());
        let count = move || words(&model, operation, &body);
        let words = if self.body.len() > COUNT_INLINE_BYTES {
            tokio::task::spawn_blocking(count).await.unwrap_or_else(|_| self.written_bound())
        } else {
            count()
        };
        words.saturating_add(self.image_tokens(facts)).min(self.written_bound())
    }

    pub(super) fn image_tokens(&self, facts: &Facts) -> u64 {
        let mini = self.plan.iter().any(|step| step.model.contains("4o-mini"));
        facts.images.saturating_mul(if mini { IMAGE_TOKENS_4O_MINI } else { IMAGE_TOKENS })
    }

    pub(super) fn most_output(&self, facts: &Facts, ceiling: Option<u64>) -> u64 {
        let choices = facts.choices.max(1);
        match facts.operation {
            Operation::Chat | Operation::Completions | Operation::Responses => {
                let each = facts.max_output_tokens.or(ceiling).unwrap_or(0);
                // Where the ceiling is not OpenAI's own kind, reasoning may come on top of it.
                let beside = facts.reasoning
                    && facts.operation == Operation::Chat
                    && self.plan.iter().any(|step| step.ceiling_field(facts.operation).name() == "max_tokens");
                let beside = if beside { each.max(facts.reasoning_tokens) } else { 0 };
                each.saturating_add(beside).saturating_mul(choices)
            }
            Operation::Images => choices.saturating_mul(DRAWN_IMAGE_TOKENS),
            Operation::Audio => facts.input_tokens_most.saturating_mul(SPEECH_TOKENS_A_BYTE),
            Operation::Passthrough => {
                // Its body is not changed, so where it names no ceiling nobody is told one.
                let open = self.live.settings.default_max_output_tokens;
                self.writing.most(facts.max_output_tokens.or(ceiling), open).saturating_mul(choices)
            }
            _ => 0,
        }
    }

    /// The dearest target's price, at the dearest model that it may turn to; nothing if one of them has none. A request without a
    /// body and without a model consumes nothing that anybody prices: it asks for a list, or a state.
    fn most_usd(&self, facts: &Facts, input: u64, output: u64) -> Option<NanoUsd> {
        let most = |step: &Step| {
            let others = self.other_steps(step);
            let costs = std::iter::once(step).chain(&others).map(|step| self.most_usd_at(step, facts, input, output));
            costs.reduce(|one, other| Some(one?.max(other?))).flatten()
        };
        self.plan.iter().map(most).try_fold(NanoUsd::ZERO, |dearest, cost| cost.map(|cost| dearest.max(cost)))
    }

    /// The same target with each other model that the provider may turn to by the request's own words. Costs nothing where there
    /// are none.
    pub(super) fn other_steps(&self, step: &Step) -> Vec<Step> {
        let others = self.facts.as_ref().map(|facts| facts.other_models(&self.body)).unwrap_or_default();
        let with = |model| Step { model, provider: Arc::clone(&step.provider), permit: None };
        others.into_iter().map(with).collect()
    }

    /// The same at one target.
    pub(super) fn most_usd_at(&self, step: &Step, facts: &Facts, input: u64, output: u64) -> Option<NanoUsd> {
        if self.body.is_empty() && facts.model.is_none() {
            return Some(NanoUsd::ZERO);
        }
        let modalities = facts.modalities;
        let media = Media {
            input_audio: modalities.audio_input,
            input_image: modalities.image_input || modalities.video_input,
            output_audio: modalities.audio_output || facts.operation == Operation::Audio,
            output_image: modalities.image_output,
            cache_1h: memchr::memmem::find(&self.body, b"\"1h\"").is_some(),
            drawn: Drawn {
                most: facts.images_drawn,
                size: facts.image_size.as_deref(),
                quality: facts.image_quality.as_deref(),
            },
        };
        let tier = facts.service_tier.as_deref().map_or(ServiceTier::Standard, ServiceTier::of_word);
        let query = step.provider.price_query(self.priced_as(step), self.record.started_at, tier);
        self.live.catalog.most(&query, input, output, media)
    }

    /// Whether a provider's count can be true. Counts beyond what was reserved are, since the provider bills them; counts that are
    /// many times what the model reads, what was reserved and what was sent are not, and would block a limit until it resets. Then
    /// Marg counts itself. Costs two comparisons unless a count is beyond a million.
    pub(super) fn believes(&self, usage: &Usage, delivered_bytes: u64) -> bool {
        let counts = [
            (usage.input_total(), self.reserved.input_tokens, self.record.bytes_in),
            (usage.output_total(), self.reserved.output_tokens, delivered_bytes),
        ];
        if counts.iter().all(|(count, ..)| *count <= PLAUSIBLE_TOKENS) {
            return true;
        }
        let window = self.context_window().max(PLAUSIBLE_TOKENS);
        let most =
            |reserved: i64, bytes: u64| window.max(bytes).max(reserved.max(0).unsigned_abs()).saturating_mul(TURNS);
        if counts.iter().all(|(count, reserved, bytes)| *count <= most(*reserved, *bytes)) {
            return true;
        }
        let provider = self.record.provider.as_deref().unwrap_or("none");
        METRICS.disbelieved.with_label_values(&[provider]).inc();
        tracing::warn!(
            id = %self.record.id,
            provider,
            input_tokens = usage.input_total(),
            output_tokens = usage.output_total(),
            "a provider reported a count of tokens that cannot be true; it is counted here instead"
        );
        false
    }

    /// The model by whose price a target is billed. A call that names none leaves the choice to the provider; for moderations
    /// that choice is known.
    ///
    /// *Source*: <https://platform.openai.com/docs/api-reference/moderations/create>.
    pub(super) fn priced_as<'a>(&self, step: &'a Step) -> &'a str {
        let operation = self.facts.as_ref().map(|facts| facts.operation);
        if step.model.is_empty() && operation == Some(Operation::Moderations) {
            return DEFAULT_MODERATION_MODEL;
        }
        &step.model
    }

    /// How dear the output of a target is.
    pub(super) fn price_class(&self, step: &Step) -> PriceClass {
        PriceClass::of(self.live.catalog.most(&self.standard_price(step), 0, 1_000_000, Media::default()))
    }

    /// A target in the list of prices, in the usual tier.
    fn standard_price<'a>(&self, step: &'a Step) -> PriceQuery<'a> {
        step.provider.price_query(&step.model, self.record.started_at, ServiceTier::Standard)
    }
}

/// The words of a request, as a model counts them, with the frames of messages where it is known how they count, and the tokens that
/// the request gives as such. Costs about a millisecond for 20 KB.
pub(super) fn words(model: &str, operation: Operation, body: &[u8]) -> u64 {
    let words = tokens::count(model, &dialect::request_text(operation, body));
    let frames = if tokens::is_known(model) { dialect::frame_tokens(operation, body) } else { 0 };
    words.saturating_add(frames).saturating_add(dialect::tokens_given(body))
}
