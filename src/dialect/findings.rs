//! What can be read off an answer: usage, model, id, end, first token, error.
//!
//! An ordinary delta costs a few substring searches; an event is parsed only if one of them hits, or while the model, the
//! id or the first token is still to come, or where more than one choice was asked for.

use std::sync::LazyLock;

use memchr::memmem;

use crate::dialect::openai::{cut, kind_of_image};
use crate::dialect::operation::Operation;
use crate::dialect::usage::{self, Missing, Report};
use crate::dialect::value::Value;
use crate::unit::usage::ServiceTier;

const NAME_LIMIT_BYTES: usize = 256;
const MESSAGE_LIMIT_BYTES: usize = 512;
/// After so many events without them, the model and the id are no longer looked for.
const PATIENCE_EVENTS: u32 = 32;

/// An error that the provider sent as an event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamError {
    /// The provider's sentence, at most 512 bytes; not cleaned of secrets (`upstream_error_body` cleans).
    pub message: String,
    /// The provider's `code`, else its `type`, if it gave one; at most 256 bytes.
    pub code: Option<String>,
}

/// What one event means for the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meaning {
    /// The caller regards the answer as finished.
    pub(super) last: bool,
    /// It carries usage and no choice: sent because usage was asked for, though other things may stand in it.
    pub(super) only_usage: bool,
    /// It speaks of an error.
    pub(super) error: bool,
}

#[derive(Debug)]
pub(super) struct Findings {
    pub(super) operation: Operation,
    pub(super) report: Option<Report>,
    /// What the first event of a stream of messages says; nothing by itself, as the output is still to come.
    opening: Option<Report>,
    /// More was written after the last report.
    stale: bool,
    pub(super) model: Option<String>,
    pub(super) id: Option<String>,
    pub(super) finish_reason: Option<String>,
    /// The answer said last that it is still being made.
    pub(super) running: bool,
    /// Something was read off an end whose beginning is gone.
    pub(super) cut: bool,
    pub(super) first_token: bool,
    pub(super) error: Option<StreamError>,
    pub(super) service_tier: Option<ServiceTier>,
    /// The images that the answer holds, so far; `None` if it does not say.
    pub(super) images: Option<u64>,
    pub(super) image_size: Option<String>,
    pub(super) image_quality: Option<String>,
    pub(super) endings: Endings,
    parsed: u32,
}

/// Which choices of a stream, or items of a response, have begun and ended, by the bits of their indexes; no more than 128
/// choices are ever asked for.
#[derive(Debug, Default)]
pub(super) struct Endings {
    /// More than one was asked for, so that each event says which it belongs to.
    pub(super) several: bool,
    begun: u128,
    ended: u128,
}

impl Endings {
    fn read(&mut self, choices: Value<'_>) {
        for choice in choices.elements() {
            // A lone one is itself, whatever number it has.
            let bit = if self.several { bit(choice.get("index")) } else { 1 };
            self.begun |= bit;
            if choice.get("finish_reason").is_some_and(|reason| reason.raw().len() > 2 && !reason.is_null()) {
                self.ended |= bit;
            }
        }
    }

    /// The text of an item ends a moment before the item does, and callers leave there.
    ///
    /// *Source*: <https://platform.openai.com/docs/api-reference/responses-streaming>.
    fn read_item(&mut self, kind: &str, index: Option<Value<'_>>) {
        let bit = bit(index);
        match kind {
            "response.output_item.added" => self.begun |= bit,
            "response.output_item.done" | "response.output_text.done" => {
                self.begun |= bit;
                self.ended |= bit;
            }
            _ => {}
        }
    }

    fn are_all(&self) -> bool {
        self.ended != 0 && self.begun == self.ended
    }
}

fn bit(index: Option<Value<'_>>) -> u128 {
    let index = index.and_then(Value::u64).unwrap_or(0);
    u32::try_from(index).ok().and_then(|index| 1_u128.checked_shl(index)).unwrap_or(0)
}

/// The searches, made once.
static FINDERS: LazyLock<Finders> = LazyLock::new(|| Finders {
    usage: memmem::Finder::new(b"\"usage\""),
    finish_reason: memmem::Finder::new(b"\"finish_reason\""),
    error: memmem::Finder::new(b"\"error\""),
    response: memmem::Finder::new(b"\"response\""),
    drawn: memmem::Finder::new(b"image_generation_call.completed"),
    added: memmem::Finder::new(b".added\""),
    done: memmem::Finder::new(b".done\""),
});

struct Finders {
    usage: memmem::Finder<'static>,
    finish_reason: memmem::Finder<'static>,
    error: memmem::Finder<'static>,
    response: memmem::Finder<'static>,
    drawn: memmem::Finder<'static>,
    added: memmem::Finder<'static>,
    done: memmem::Finder<'static>,
}

impl Findings {
    pub(super) fn new(operation: Operation) -> Self {
        Self {
            operation,
            report: None,
            opening: None,
            stale: false,
            model: None,
            id: None,
            finish_reason: None,
            running: false,
            cut: false,
            first_token: false,
            error: None,
            service_tier: None,
            images: None,
            image_size: None,
            image_quality: None,
            endings: Endings::default(),
            parsed: 0,
        }
    }

    /// Reads one event, framing and all.
    #[inline]
    pub(super) fn event(&mut self, event: &[u8]) -> Meaning {
        if !self.is_of_interest(event) {
            return Meaning::default();
        }
        self.read_event(event)
    }

    #[inline]
    fn is_of_interest(&self, event: &[u8]) -> bool {
        let finders = &*FINDERS;
        let sought = self.model.is_none() || self.id.is_none();
        !self.first_token
            || (sought && self.parsed < PATIENCE_EVENTS)
            || (self.report.is_some() && !self.stale)
            || has_value(&finders.usage, event)
            || (self.finish_reason.is_none() && has_value(&finders.finish_reason, event))
            || self.endings.several
            || mentions_error(event)
            // An event without an object is `[DONE]`, a comment, or not JSON.
            || memchr::memchr(b'{', event).is_none()
            || (self.speaks_responses()
                && (has_value(&finders.response, event) || finders.drawn.find(event).is_some()))
            || (self.operation == Operation::Responses
                && (finders.added.find(event).is_some() || finders.done.find(event).is_some()))
    }

    fn speaks_responses(&self) -> bool {
        matches!(self.operation, Operation::Responses | Operation::Passthrough)
    }

    fn read_event(&mut self, event: &[u8]) -> Meaning {
        let data = crate::dialect::sse::data(event);
        if data.trim_ascii().is_empty() {
            return Meaning::default();
        }
        if data.trim_ascii().starts_with(b"[DONE]") {
            return Meaning { last: true, ..Meaning::default() };
        }
        self.parsed = self.parsed.saturating_add(1);
        let parts = Parts::of(Value::whole(&data));
        let kind = parts.kind.and_then(Value::string).unwrap_or_default();
        let usage = self.read_parts(&parts);
        self.read_drawn(&parts, &kind);
        let matters = !self.first_token || (self.report.is_some() && !usage);
        let written = matters && self.holds_content(&parts, &kind);
        self.first_token |= written;
        self.stale |= written && !usage && self.report.is_some();
        if parts.error.is_none() && kind == "error" {
            self.keep_error(Value::whole(&data));
        }
        parts.choices.into_iter().for_each(|choices| self.endings.read(choices));
        if self.operation == Operation::Responses {
            self.endings.read_item(&kind, parts.output_index);
        }
        let no_choice = parts.choices.is_none_or(|choices| choices.elements().next().is_none());
        Meaning {
            last: matches!(&*kind, "response.completed" | "response.failed" | "response.incomplete"),
            only_usage: usage && parts.usage.is_some() && no_choice && parts.error.is_none(),
            error: mentions_error(event),
        }
    }

    /// Reads a JSON answer.
    pub(super) fn read(&mut self, answer: Value<'_>) {
        self.read_parts(&Parts::of(answer));
    }

    /// Counts the images that a stream says are finished.
    ///
    /// *Sources*: <https://platform.openai.com/docs/api-reference/images-streaming>, where the size and quality are beside the
    /// type; <https://platform.openai.com/docs/api-reference/responses-streaming/response/image_generation_call>.
    fn read_drawn(&mut self, parts: &Parts<'_>, kind: &str) {
        match kind {
            "image_generation.completed" | "image_edit.completed" => self.keep_image_kind(parts.size, parts.quality),
            "response.image_generation_call.completed" => {}
            _ => return,
        }
        self.images = Some(self.images.unwrap_or(0).saturating_add(1));
    }

    fn keep_image_kind(&mut self, size: Option<Value<'_>>, quality: Option<Value<'_>>) {
        let word = |value: Option<Value<'_>>| value.and_then(Value::string).and_then(|word| kind_of_image(&word));
        self.image_size = self.image_size.take().or_else(|| word(size));
        self.image_quality = self.image_quality.take().or_else(|| word(quality));
    }

    /// Counts the images of an answer: all of `data`, or the calls of the tool that draws.
    ///
    /// *Source*: <https://platform.openai.com/docs/api-reference/images/object>, where GPT Image names size and quality at the
    /// top; the item `image_generation_call` of <https://platform.openai.com/docs/api-reference/responses/object>.
    fn read_images(&mut self, answer: &Parts<'_>) {
        if let (Operation::Images, Some(data)) = (self.operation, answer.data) {
            self.images = Some(data.elements().count() as u64);
            self.keep_image_kind(answer.size, answer.quality);
        }
        if !self.speaks_responses() {
            return;
        }
        let mut drawn = 0_u64;
        for item in answer.output.iter().flat_map(|output| output.elements()) {
            let is = |key: &str, word: &str| item.get(key).and_then(Value::string).is_some_and(|found| found == word);
            if is("type", "image_generation_call") && !is("status", "failed") {
                drawn = drawn.saturating_add(1);
                self.keep_image_kind(item.get("size"), item.get("quality"));
            }
        }
        // A stream has counted them one by one before its last event lists them.
        self.images = if drawn > 0 { Some(self.images.unwrap_or(0).max(drawn)) } else { self.images };
    }

    /// Reads an answer or an event. Gives whether it carries usage.
    fn read_parts(&mut self, parts: &Parts<'_>) -> bool {
        let report = parts.usage(self.operation);
        if let Some(report) = report {
            self.report = Some(report.over(self.report.or(self.opening)));
            self.stale = false;
        }
        let opening = parts.opening().and_then(|usage| usage::read(self.operation, usage));
        self.opening = opening.or(self.opening);
        keep(&mut self.model, parts.model);
        keep(&mut self.model, parts.message.and_then(|message| message.present("model")));
        keep(&mut self.id, parts.id);
        keep(&mut self.finish_reason, parts.choices.and_then(finish_of_first));
        self.read_tier(parts);
        self.read_images(parts);
        if self.speaks_responses()
            && let Some(response) = parts.response
        {
            self.read_response(&Parts::of(response));
        } else if self.operation == Operation::Responses {
            self.read_response(parts);
        }
        if let Some(error) = parts.error {
            self.keep_error(error);
        }
        report.is_some()
    }

    /// *Source*: the response object, <https://platform.openai.com/docs/api-reference/responses/object>: `status` is
    /// `completed`, `failed`, `in_progress`, `cancelled`, `queued` or `incomplete`.
    fn read_response(&mut self, response: &Parts<'_>) {
        keep(&mut self.model, response.model);
        keep(&mut self.id, response.id);
        self.read_tier(response);
        self.read_images(response);
        let word = response.status.and_then(Value::string).unwrap_or_default();
        if !word.is_empty() {
            self.running = matches!(&*word, "in_progress" | "queued");
        }
        if !matches!(&*word, "" | "in_progress" | "queued") {
            let reason = response.incomplete_details.and_then(|details| details.present("reason"));
            keep(&mut self.finish_reason, reason.or(response.status));
        }
        if let Some(error) = response.error {
            self.keep_error(error);
        }
    }

    /// The last word counts: a stream of OpenAI begins with the tier that was asked for (`auto`) and ends with the one that
    /// served. Anthropic names it inside `usage`.
    fn read_tier(&mut self, parts: &Parts<'_>) {
        let inside = || parts.usage.or(parts.opening()).and_then(|usage| usage.present("service_tier"));
        let word = parts.service_tier.or_else(inside).and_then(Value::string);
        self.service_tier = word.map(|word| ServiceTier::of_word(&word)).or(self.service_tier);
    }

    /// Of what the reports say nothing: also of what was written after the last of them.
    pub(super) fn missing(&self) -> Missing {
        let missing = self.report.unwrap_or_default().missing;
        Missing { output: missing.output || (self.stale && self.operation.writes()), ..missing }
    }

    /// Whether every choice has ended, or every item of a response, and no report counts all that was written.
    pub(super) fn awaits_usage(&self) -> bool {
        self.endings.are_all() && (self.report.is_none() || self.stale)
    }

    fn keep_error(&mut self, error: Value<'_>) {
        if self.error.is_some() {
            return;
        }
        let text = error.string().or_else(|| error.get("message")?.string());
        let message = text.unwrap_or_else(|| "the provider sent an error without a message".into());
        let code = ["code", "type"].into_iter().find_map(|key| {
            let value = error.present(key)?;
            let text = value.string().unwrap_or_else(|| String::from_utf8_lossy(value.raw()));
            Some(cut(&text, NAME_LIMIT_BYTES).to_owned())
        });
        self.error = Some(StreamError { message: cut(&message, MESSAGE_LIMIT_BYTES).to_owned(), code });
    }

    fn holds_content(&self, parts: &Parts<'_>, kind: &str) -> bool {
        match self.operation {
            Operation::Chat | Operation::Completions => {
                parts.choices.is_some_and(|choices| choices.elements().any(choice_holds_content))
            }
            Operation::Responses => kind.ends_with(".delta"),
            // Of other streams every event is content.
            _ => true,
        }
    }

    /// Reads the end of an event whose beginning is gone. Only the event of a finished image carries usage.
    pub(super) fn event_tail(&mut self, tail: &[u8]) {
        self.tail(tail);
        if self.operation == Operation::Images && last_member(tail, b"\"usage\"").is_some() {
            self.images = Some(self.images.unwrap_or(0).saturating_add(1));
            self.keep_image_kind(last_member(tail, b"\"size\""), last_member(tail, b"\"quality\""));
        }
    }

    /// Reads the end of an answer, or of an event, whose beginning is gone: the last usage object in it, and the last
    /// model if none is known.
    pub(super) fn tail(&mut self, tail: &[u8]) {
        self.cut = true;
        if let Some(value) = last_member(tail, b"\"usage\"") {
            self.report = usage::read(self.operation, value).map(|report| report.over(self.report)).or(self.report);
            self.stale = false;
        }
        keep(&mut self.model, last_member(tail, b"\"model\""));
        let word = last_member(tail, b"\"service_tier\"").and_then(Value::string);
        self.service_tier = word.map(|word| ServiceTier::of_word(&word)).or(self.service_tier);
        keep(&mut self.finish_reason, last_member(tail, b"\"finish_reason\""));
    }
}

/// Whether a document or an event speaks of an error: by a key, a type, or the event's name.
#[inline]
pub(super) fn mentions_error(text: &[u8]) -> bool {
    text.starts_with(b"event: error") || has_value(&FINDERS.error, text)
}

/// Whether a word in quotes stands in an event, except as a key whose value is `null`. Inside a string its quotes would be
/// escaped, so a hit is a key, or a string of that very content, as in `"type":"error"`.
#[inline]
fn has_value(finder: &memmem::Finder<'_>, event: &[u8]) -> bool {
    finder.find_iter(event).any(|at| {
        let behind = event.get(at + finder.needle().len()..).unwrap_or_default().trim_ascii_start();
        behind.strip_prefix(b":").is_none_or(|value| !value.trim_ascii_start().starts_with(b"null"))
    })
}

/// The value behind the last place where a key stands.
fn last_member<'a>(tail: &'a [u8], key: &[u8]) -> Option<Value<'a>> {
    let mut end = tail.len();
    loop {
        let at = memmem::rfind(tail.get(..end)?, key)?;
        let behind = tail.get(at + key.len()..)?.trim_ascii_start();
        let value = behind.strip_prefix(b":").and_then(Value::first);
        if let Some(value) = value.filter(|value| !value.is_null()) {
            return Some(value);
        }
        end = at;
    }
}

/// Keeps the first whole, non-empty string.
fn keep(slot: &mut Option<String>, value: Option<Value<'_>>) {
    if slot.is_some() {
        return;
    }
    let whole = value.filter(|value| value.raw().len() > 2 && value.raw().ends_with(b"\""));
    *slot = whole.and_then(Value::string).map(|text| cut(&text, NAME_LIMIT_BYTES).to_owned());
}

/// The members of an answer, or of an event, that matter; `null` counts as absent. Found in one walk.
#[derive(Default)]
struct Parts<'a> {
    id: Option<Value<'a>>,
    model: Option<Value<'a>>,
    kind: Option<Value<'a>>,
    status: Option<Value<'a>>,
    incomplete_details: Option<Value<'a>>,
    choices: Option<Value<'a>>,
    response: Option<Value<'a>>,
    message: Option<Value<'a>>,
    error: Option<Value<'a>>,
    usage: Option<Value<'a>>,
    groq: Option<Value<'a>>,
    service_tier: Option<Value<'a>>,
    data: Option<Value<'a>>,
    output: Option<Value<'a>>,
    output_index: Option<Value<'a>>,
    size: Option<Value<'a>>,
    quality: Option<Value<'a>>,
}

impl<'a> Parts<'a> {
    fn of(answer: Value<'a>) -> Self {
        let mut parts = Self::default();
        for (name, value) in answer.members() {
            let slot = match &*name.bytes() {
                b"id" => &mut parts.id,
                b"model" => &mut parts.model,
                b"type" => &mut parts.kind,
                b"status" => &mut parts.status,
                b"incomplete_details" => &mut parts.incomplete_details,
                b"choices" => &mut parts.choices,
                b"response" => &mut parts.response,
                b"message" => &mut parts.message,
                b"error" => &mut parts.error,
                b"usage" => &mut parts.usage,
                b"x_groq" => &mut parts.groq,
                b"service_tier" => &mut parts.service_tier,
                b"data" => &mut parts.data,
                b"output" => &mut parts.output,
                b"output_index" => &mut parts.output_index,
                b"size" => &mut parts.size,
                b"quality" => &mut parts.quality,
                _ => continue,
            };
            *slot = Some(value).filter(|value| !value.is_null());
        }
        parts
    }

    /// The usage object of an event that opens a stream of messages; it holds the input, and of the output next to nothing.
    ///
    /// *Source*: `message_start` in <https://docs.claude.com/en/docs/build-with-claude/streaming>.
    fn opening(&self) -> Option<Value<'a>> {
        self.message.and_then(|message| message.present("usage"))
    }

    /// The usage object, read.
    ///
    /// *Sources*, in the order tried: `usage` (OpenAI, <https://platform.openai.com/docs/api-reference/chat/object>);
    /// `response.usage` (the terminal events of the Responses API,
    /// <https://platform.openai.com/docs/api-reference/responses-streaming>); `x_groq.usage` (the last chunk of a Groq
    /// stream, <https://console.groq.com/docs/api-reference>); `choices[0].usage` (the last chunk of a Moonshot stream,
    /// <https://platform.moonshot.ai/docs/api/chat>). What `speech.audio.done` counts is sound
    /// (<https://platform.openai.com/docs/api-reference/audio/speech-audio-done-event>).
    fn usage(&self, operation: Operation) -> Option<Report> {
        let spoken = self.kind.and_then(Value::string).is_some_and(|kind| kind == "speech.audio.done");
        let read = |usage| usage::read(operation, usage).map(|report| if spoken { report.spoken() } else { report });
        let inside = |part: Option<Value<'a>>| part.and_then(|part| part.get("usage")).and_then(read);
        self.usage
            .and_then(read)
            .or_else(|| inside(self.response))
            .or_else(|| inside(self.groq))
            .or_else(|| inside(self.choices.and_then(|choices| choices.elements().next())))
    }
}

/// The finish reason of choice 0, unless it is `null`.
fn finish_of_first(choices: Value<'_>) -> Option<Value<'_>> {
    let first = choices.elements().find(|choice| choice.get("index").and_then(Value::u64).unwrap_or(0) == 0)?;
    first.present("finish_reason")
}

/// Whether a choice of a chunk holds something that a model wrote.
///
/// *Source*: <https://platform.openai.com/docs/api-reference/chat-streaming>; `reasoning_content` at DeepSeek
/// (<https://api-docs.deepseek.com/guides/reasoning_model>), `reasoning` at OpenRouter and Groq.
fn choice_holds_content(choice: Value<'_>) -> bool {
    let written = |value: Value<'_>| match value.raw().first() {
        Some(b'"') => value.raw().len() > 2,
        Some(b'[') => value.elements().next().is_some(),
        Some(b'{') => true,
        _ => false,
    };
    let delta = choice.get("delta").or_else(|| choice.get("message"));
    let in_delta = delta.is_some_and(|delta| {
        delta.members().any(|(name, value)| !name.is("role") && !name.is("name") && written(value))
    });
    in_delta || choice.get("text").is_some_and(written)
}
