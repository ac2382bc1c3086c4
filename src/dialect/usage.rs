//! Usage objects of OpenAI's wire, in every vendor's spelling, as disjoint classes.
//!
//! Details that a vendor counts inside a total are taken out of it; details that it counts outside (told apart by
//! `total_tokens`) are added. Fields that are not whole, non-negative numbers are ignored; a detail larger than what
//! contains it is cut to it; sums saturate. Absent or `null` usage is `None`; zeros are zeros. One golden file a vendor
//! under `tests/golden/dialect/usage/` holds this (`golden::every_vendor_counts_as_its_file_says`).

use crate::dialect::operation::Operation;
use crate::dialect::value::Value;
use crate::unit::usage::Usage;

/// Reads a usage object; `None` if it is not one, is cut off (its last number may be half of one) or names no count.
///
/// *Sources*, beside OpenAI's own (`prompt_tokens` contains `prompt_tokens_details.*`, `completion_tokens` contains
/// `completion_tokens_details.*`; the Responses and Images APIs say `input_tokens`, `output_tokens`):
/// - DeepSeek: `prompt_tokens` is `prompt_cache_hit_tokens` + `prompt_cache_miss_tokens`
///   (<https://api-docs.deepseek.com/guides/kv_cache>).
/// - OpenRouter: `prompt_tokens_details.cache_write_tokens` (<https://openrouter.ai/docs/use-cases/usage-accounting>).
/// - Moonshot: `cached_tokens` beside the totals (<https://platform.moonshot.ai/docs/api/chat>).
/// - Anthropic: `input_tokens` excludes `cache_read_input_tokens` and `cache_creation_input_tokens`
///   (<https://docs.claude.com/en/docs/build-with-claude/prompt-caching>).
/// - xAI: `reasoning_tokens` are outside `completion_tokens` and inside `total_tokens`
///   (<https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/grok/capabilities/reasoning>).
/// - Google's OpenAI-compatible endpoint: thinking shows only in `total_tokens`
///   (<https://discuss.ai.google.dev/t/question-with-usage-in-openai-compatibility/98760>).
/// - Perplexity: `reasoning_tokens` beside the totals are billed apart from `completion_tokens`, and `citation_tokens`
///   like input (<https://docs.perplexity.ai/getting-started/pricing>).
/// - Mistral: `prompt_audio_seconds` beside the totals, the tokens of that sound in `total_tokens` alone; cached tokens as
///   `num_cached_tokens` or in `prompt_token_details` (<https://docs.mistral.ai/capabilities/audio/>).
pub fn read(operation: Operation, usage: Value<'_>) -> Option<Report> {
    if !usage.raw().ends_with(b"}") {
        return None;
    }
    let counts = Counts::collect(usage);
    counts.any().then(|| Report { usage: counts.disjoint(operation), missing: counts.missing(operation) })
}

/// What a provider reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The counts; zeros where it said nothing.
    pub usage: Usage,
    /// Of what it said nothing.
    pub missing: Missing,
}

/// Which sides of an exchange a report says nothing of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Nothing of the input, and it cannot be told from a total.
    pub input: bool,
    /// Nothing of the output, where there is one.
    pub output: bool,
}

impl Report {
    /// This report, and of what it says nothing, what an earlier one of the same answer said.
    pub fn over(self, earlier: Option<Self>) -> Self {
        let Some(earlier) = earlier else { return self };
        let (input, output) =
            (self.missing.input && !earlier.missing.input, self.missing.output && !earlier.missing.output);
        let usage = Usage::of_sides(
            if input { &earlier.usage } else { &self.usage },
            if output { &earlier.usage } else { &self.usage },
        );
        let missing = Missing { input: self.missing.input && !input, output: self.missing.output && !output };
        Self { usage, missing }
    }
}

impl Report {
    /// The report of an answer that was spoken: its output is sound.
    pub fn spoken(mut self) -> Self {
        self.usage.output_audio = self.usage.output_audio.saturating_add(std::mem::take(&mut self.usage.output));
        self
    }
}

/// The counts as a vendor wrote them; `None` where it wrote none.
#[derive(Default)]
struct Counts {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cache_hit: Option<u64>,
    cache_miss: Option<u64>,
    cached: Option<u64>,
    citations: Option<u64>,
    reasoning: Option<u64>,
    /// Mistral counts the sound that it heard in seconds, and its tokens in the total alone.
    heard: bool,
    /// Counts beside `input_tokens`, as Anthropic has them.
    beside_read: Option<u64>,
    beside_write: Option<u64>,
    beside_write_1h: Option<u64>,
    input_details: Details,
    output_details: Details,
    /// The totals are called `prompt_tokens` and `completion_tokens`.
    prompt_named: bool,
}

#[derive(Default)]
struct Details {
    present: bool,
    cached: Option<u64>,
    cached_audio: Option<u64>,
    cache_write: Option<u64>,
    reasoning: Option<u64>,
    audio: Option<u64>,
    image: Option<u64>,
    text: Option<u64>,
}

impl Counts {
    fn collect(usage: Value<'_>) -> Self {
        let mut counts = Self::default();
        for (name, value) in usage.members() {
            match &*name.bytes() {
                b"prompt_tokens" => {
                    counts.input = value.u64().or(counts.input);
                    counts.prompt_named = true;
                }
                b"completion_tokens" => counts.output = value.u64().or(counts.output),
                b"input_tokens" => counts.input = counts.input.or(value.u64()),
                b"output_tokens" => counts.output = counts.output.or(value.u64()),
                b"total_tokens" => counts.total = value.u64(),
                b"prompt_cache_hit_tokens" => counts.cache_hit = value.u64(),
                b"prompt_cache_miss_tokens" => counts.cache_miss = value.u64(),
                b"cached_tokens" | b"num_cached_tokens" => counts.cached = value.u64().or(counts.cached),
                b"citation_tokens" => counts.citations = value.u64(),
                b"reasoning_tokens" => counts.reasoning = value.u64(),
                b"prompt_audio_seconds" => counts.heard = value.f64().is_some_and(|seconds| seconds > 0.0),
                b"cache_read_input_tokens" => counts.beside_read = value.u64(),
                b"cache_creation_input_tokens" => counts.beside_write = value.u64(),
                b"cache_creation" => {
                    counts.beside_write_1h = value.get("ephemeral_1h_input_tokens").and_then(Value::u64);
                }
                b"prompt_tokens_details"
                | b"prompt_token_details"
                | b"input_tokens_details"
                | b"input_token_details" => {
                    counts.input_details.collect(value);
                }
                b"completion_tokens_details" | b"output_tokens_details" | b"output_token_details" => {
                    counts.output_details.collect(value);
                }
                _ => {}
            }
        }
        if counts.input.is_none() && (counts.cache_hit.is_some() || counts.cache_miss.is_some()) {
            let hit = counts.cache_hit.unwrap_or(0);
            counts.input = Some(hit.saturating_add(counts.cache_miss.unwrap_or(0)));
        }
        counts
    }

    fn any(&self) -> bool {
        self.input.is_some() || self.output.is_some() || self.total.is_some()
    }

    /// A total tells one side if it names the other; alone it is the input, where there is no output.
    fn missing(&self, operation: Operation) -> Missing {
        let writes = operation.writes();
        let (input, output, total) = (self.input.is_some(), self.output.is_some(), self.total.is_some());
        Missing { input: !input && !(total && (output || !writes)), output: writes && !output && !(total && input) }
    }

    fn disjoint(&self, operation: Operation) -> Usage {
        let mut usage = Usage::default();
        let outside_cache = self.input_classes(&mut usage);
        let mut beyond = self.beyond(outside_cache);
        let unnamed = self.output_details.reasoning.or(self.reasoning).is_none();
        if unnamed && (self.heard || operation == Operation::Audio) {
            usage.input_audio = usage.input_audio.saturating_add(std::mem::take(&mut beyond));
        }
        self.output_classes(operation, beyond, &mut usage);
        usage
    }

    /// What the total has beyond the input, the output and what a cache served or took beside them.
    fn beyond(&self, outside_cache: u64) -> u64 {
        match (self.input, self.output) {
            (Some(input), Some(output)) => {
                let sum = input.saturating_add(output).saturating_add(outside_cache);
                self.total.unwrap_or(0).saturating_sub(sum)
            }
            _ => 0,
        }
    }

    /// Splits the input. Gives the tokens that a cache served or took and that `input` does not contain.
    fn input_classes(&self, usage: &mut Usage) -> u64 {
        let details = &self.input_details;
        // A total tells the input that is not named; an endpoint without output may give nothing but a total.
        let missing = || self.total.map(|total| total.saturating_sub(self.output.unwrap_or(0)));
        let total = self.input.or_else(missing).unwrap_or(0);
        let inside_read = details.cached.or(self.cache_hit).or(self.cached);
        let inside_write = details.cache_write;
        let beside = [self.beside_read, self.beside_write].into_iter().flatten().fold(0, u64::saturating_add);
        let outside = inside_read.is_none() && inside_write.is_none() && beside > 0 && self.cache_is_outside(beside);
        let read = inside_read.or(self.beside_read).unwrap_or(0);
        let write = inside_write.or(self.beside_write).unwrap_or(0);

        let mut rest = Rest(if outside { total.saturating_add(beside) } else { total });
        usage.cache_read = rest.take(read);
        let write = rest.take(write);
        usage.cache_write_1h = self.beside_write_1h.unwrap_or(0).min(write);
        usage.cache_write_5m = write - usage.cache_write_1h;
        usage.input_audio = rest.take(details.audio.unwrap_or(0).saturating_sub(details.cached_audio.unwrap_or(0)));
        usage.input_image = rest.take(details.image.unwrap_or(0));
        usage.input = rest.0.saturating_add(self.citations.unwrap_or(0));
        if outside { beside } else { 0 }
    }

    /// Whether counts named like Anthropic's stand outside the input total: always beside `input_tokens` without
    /// details, which is Anthropic's own shape; beside `prompt_tokens` only if the numbers say so.
    fn cache_is_outside(&self, beside: u64) -> bool {
        if !self.prompt_named && !self.input_details.present {
            return true;
        }
        let input = self.input.unwrap_or(0);
        let sum = input.saturating_add(beside).saturating_add(self.output.unwrap_or(0));
        beside > input || self.total == Some(sum)
    }

    fn output_classes(&self, operation: Operation, beyond: u64, usage: &mut Usage) {
        let details = &self.output_details;
        // A total tells the output that is not named.
        let missing = || self.total.zip(self.input).map(|(total, input)| total.saturating_sub(input));
        let total = self.output.or_else(missing).unwrap_or(0);
        let mut rest = Rest(total);
        usage.reasoning = match details.reasoning.or(self.reasoning) {
            Some(reasoning) if reasoning > 0 && (beyond == reasoning || self.reasoning_is_apart(reasoning)) => {
                reasoning
            }
            Some(reasoning) => rest.take(reasoning),
            None if self.prompt_named => beyond,
            None => 0,
        };
        usage.output_audio = rest.take(details.audio.unwrap_or(0));
        let images = match (operation, details.image) {
            (_, Some(images)) => images,
            // The output of an image endpoint is an image, unless it says how much of it is text.
            (Operation::Images, None) => rest.0.saturating_sub(details.text.unwrap_or(0)),
            _ => 0,
        };
        usage.output_image = rest.take(images);
        usage.output = rest.0;
    }

    /// Perplexity's shape: reasoning beside the totals, with the tokens of its research.
    fn reasoning_is_apart(&self, reasoning: u64) -> bool {
        self.output_details.reasoning.is_none()
            && (self.citations.is_some() || reasoning > self.output.unwrap_or(0))
            && self.output.is_some()
    }
}

impl Details {
    fn collect(&mut self, details: Value<'_>) {
        for (name, value) in details.members() {
            self.present = true;
            match &*name.bytes() {
                b"cached_tokens" => self.cached = value.u64(),
                b"cache_write_tokens" | b"cache_creation_tokens" | b"cache_creation_input_tokens" => {
                    self.cache_write = value.u64();
                }
                b"cached_tokens_details" => self.cached_audio = value.get("audio_tokens").and_then(Value::u64),
                b"reasoning_tokens" => self.reasoning = value.u64(),
                b"audio_tokens" => self.audio = value.u64(),
                b"image_tokens" => self.image = value.u64(),
                b"text_tokens" => self.text = value.u64(),
                _ => {}
            }
        }
    }
}

/// What is left of a total.
struct Rest(u64);

impl Rest {
    /// Takes a part out, or all that is left if the part is larger.
    fn take(&mut self, part: u64) -> u64 {
        let taken = part.min(self.0);
        self.0 -= taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Usage> {
        report(text).map(|report| report.usage)
    }

    fn report(text: &str) -> Option<Report> {
        read(Operation::Chat, Value::first(text.as_bytes()).unwrap())
    }

    #[test]
    fn absent_and_null_are_not_zero() {
        assert_eq!(of("null"), None);
        assert_eq!(of("{}"), None);
        assert_eq!(of("[1]"), None);
        assert_eq!(of("\"usage\""), None);
        assert_eq!(of(r#"{"type":"duration","seconds":9}"#), None);
        assert_eq!(of(r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#), Some(Usage::default()));
    }

    #[test]
    fn fields_that_are_not_counts_are_ignored() {
        let usage =
            of(r#"{"prompt_tokens":-5,"completion_tokens":7.5,"total_tokens":"9","prompt_cache_hit_tokens":3}"#);
        assert_eq!(usage, Some(Usage { cache_read: 3, ..Usage::default() }));
        let usage = of(r#"{"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":null,"total_tokens":1e9}"#);
        assert_eq!(usage, Some(Usage { input: 10, output: 2, ..Usage::default() }));
    }

    #[test]
    fn an_output_that_is_not_named_is_what_the_total_has_beyond_the_input() {
        let usage = of(r#"{"prompt_tokens":10,"completion_tokens":null,"total_tokens":15}"#);
        assert_eq!(usage, Some(Usage { input: 10, output: 5, ..Usage::default() }));
        let usage = of(r#"{"prompt_tokens":10,"total_tokens":10}"#);
        assert_eq!(usage, Some(Usage { input: 10, ..Usage::default() }));
    }

    #[test]
    fn an_input_that_is_not_named_is_what_the_total_has_beyond_the_output() {
        for text in [
            r#"{"completion_tokens":5,"total_tokens":105}"#,
            r#"{"prompt_tokens":null,"completion_tokens":5,"total_tokens":105}"#,
            r#"{"prompt_tokens":100.0,"completion_tokens":5,"total_tokens":105}"#,
        ] {
            let expected = Usage { input: 100, output: 5, ..Usage::default() };
            assert_eq!(report(text), Some(Report { usage: expected, missing: Missing::default() }), "{text}");
        }
    }

    #[test]
    fn what_a_report_says_nothing_of_is_not_zero() {
        let missing = |text: &str| report(text).map(|report| (report.missing.input, report.missing.output));
        assert_eq!(missing(r#"{"prompt_tokens":10}"#), Some((false, true)));
        assert_eq!(missing(r#"{"completion_tokens":10}"#), Some((true, false)));
        assert_eq!(missing(r#"{"total_tokens":10}"#), Some((true, true)));
        assert_eq!(missing(r#"{"prompt_tokens":10,"completion_tokens":0}"#), Some((false, false)));
        assert_eq!(missing(r#"{"prompt_tokens":10,"total_tokens":12}"#), Some((false, false)));
        let embedding = read(Operation::Embeddings, Value::first(br#"{"total_tokens":7}"#).unwrap()).unwrap();
        assert_eq!(embedding, Report { usage: Usage { input: 7, ..Usage::default() }, missing: Missing::default() });
        // A later report that says less leaves what an earlier one said.
        let (first, last) = (report(r#"{"prompt_tokens":10}"#), report(r#"{"completion_tokens":5}"#).unwrap());
        let usage = Usage { input: 10, output: 5, ..Usage::default() };
        assert_eq!(last.over(first), Report { usage, missing: Missing::default() });
        assert_eq!(last.over(None), last);
    }

    #[test]
    fn a_detail_larger_than_its_total_is_cut() {
        let usage = of(
            r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":90,"audio_tokens":7},
                "completion_tokens_details":{"reasoning_tokens":99,"audio_tokens":99}}"#,
        );
        assert_eq!(usage, Some(Usage { cache_read: 10, reasoning: 5, ..Usage::default() }));
    }

    #[test]
    fn absurd_numbers_saturate() {
        let most = u64::MAX;
        let usage = of(&format!(
            r#"{{"input_tokens":{most},"output_tokens":{most},"total_tokens":{most},"citation_tokens":{most},
                "cache_read_input_tokens":{most},"cache_creation_input_tokens":{most}}}"#
        ));
        let usage = usage.unwrap();
        assert_eq!(usage.input_total(), u64::MAX);
        assert_eq!(usage.output_total(), u64::MAX);
        assert_eq!(of("{\"prompt_tokens\":99999999999999999999999999}"), None);
    }

    #[test]
    fn reasoning_outside_the_output_is_told_by_the_total() {
        let outside = of(r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":35,
                "completion_tokens_details":{"reasoning_tokens":20}}"#);
        assert_eq!(outside, Some(Usage { input: 10, output: 5, reasoning: 20, ..Usage::default() }));
        let inside = of(r#"{"prompt_tokens":10,"completion_tokens":25,"total_tokens":35,
                "completion_tokens_details":{"reasoning_tokens":20}}"#);
        assert_eq!(inside, Some(Usage { input: 10, output: 5, reasoning: 20, ..Usage::default() }));
    }
}
