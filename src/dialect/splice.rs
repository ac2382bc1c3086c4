//! The places at which a body may be changed for a target, and the change.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::dialect::urlencoded;
use crate::dialect::value::escape_into;

/// Where a body can be changed.
#[derive(Clone, Debug)]
pub(super) enum Splice {
    /// Nowhere.
    Nothing,
    /// A JSON object.
    Json(Json),
    /// A form: at the content of its part `model`.
    Form { model: Range<usize> },
    /// A form in the manner of a query: at the value of its field `model`.
    Urlencoded { model: Range<usize> },
}

/// Where a JSON object can be changed.
#[derive(Clone, Debug)]
pub(super) struct Json {
    /// Behind its brace.
    pub(super) inside: usize,
    /// It has no member.
    pub(super) empty: bool,
    /// At the value of `model`.
    pub(super) model: Option<Range<usize>>,
    /// At `stream_options`.
    pub(super) stream_options: StreamOptions,
    /// At fields of an output ceiling that are `null`.
    pub(super) null_ceilings: Vec<(CeilingField, Range<usize>)>,
}

/// The field that bounds the output tokens of one answer; vendors differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CeilingField {
    /// `max_tokens`: chat at most vendors, and completions everywhere.
    MaxTokens,
    /// `max_completion_tokens`: chat at OpenAI and those that followed; it covers reasoning.
    /// Source: <https://platform.openai.com/docs/api-reference/chat/create#chat-create-max_completion_tokens>
    MaxCompletionTokens,
    /// `max_output_tokens`: responses.
    MaxOutputTokens,
}

impl CeilingField {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxOutputTokens => "max_output_tokens",
        }
    }
}

/// What a target is told otherwise than the caller said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// Another model.
    pub model: Option<&'a str>,
    /// Usage is asked for on a stream whose caller did not ask.
    pub ask_usage: bool,
    /// A ceiling on output tokens, where the caller named none.
    pub ceiling: Option<(CeilingField, u64)>,
}

/// What the body says of `stream_options`.
#[derive(Clone, Debug)]
pub(super) enum StreamOptions {
    /// Nothing.
    Absent,
    /// `null`, here.
    Null(Range<usize>),
    /// An object without `include_usage`; its content begins here.
    Silent { inside: usize, empty: bool },
    /// `include_usage` is `false` or `null`, here.
    Declined(Range<usize>),
    /// `include_usage` is `true`.
    Asked,
}

/// Bytes that take the place of a span of the body.
struct Change {
    span: Range<usize>,
    text: Cow<'static, [u8]>,
}

impl Splice {
    /// The body with those changes; the same bytes if there are none.
    pub(super) fn apply(&self, body: &Bytes, changes: &Changes<'_>) -> Bytes {
        let mut all: [Option<Change>; 3] = [None, None, None];
        match self {
            Self::Nothing => {}
            Self::Form { model } => {
                let plain = changes.model.map(without_controls);
                all[0] = plain.map(|name| Change { span: model.clone(), text: Cow::Owned(name.into_bytes()) });
            }
            Self::Urlencoded { model } => {
                let plain = changes.model.map(|name| urlencoded::encoded(&without_controls(name)));
                all[0] = plain.map(|name| Change { span: model.clone(), text: Cow::Owned(name.into_bytes()) });
            }
            Self::Json(json) => {
                let quoted = changes.model.map(quoted);
                all[0] = quoted.zip(json.model.clone()).map(|(name, span)| Change { span, text: Cow::Owned(name) });
                all[1] = json.stream_options.asking(json.inside).filter(|_| changes.ask_usage);
                all[2] = changes.ceiling.map(|(field, tokens)| json.bounding(field, tokens));
            }
        }
        all.sort_by_key(|change| change.as_ref().map_or(usize::MAX, |change| change.span.start));
        replace(body, all.into_iter().flatten())
    }
}

impl Json {
    /// The change that puts a ceiling on the output: in the place of a `null` of that name, else as a new first member.
    fn bounding(&self, field: CeilingField, tokens: u64) -> Change {
        if let Some((_, span)) = self.null_ceilings.iter().find(|(other, _)| *other == field) {
            return Change { span: span.clone(), text: Cow::Owned(tokens.to_string().into_bytes()) };
        }
        let comma = if self.empty { "" } else { "," };
        let text = format!("\"{}\":{tokens}{comma}", field.name());
        Change { span: self.inside..self.inside, text: Cow::Owned(text.into_bytes()) }
    }
}

impl StreamOptions {
    /// The change that makes the body ask for usage.
    fn asking(&self, inside: usize) -> Option<Change> {
        let (span, text): (_, &'static [u8]) = match self {
            // A stream was asked for, so the object has another member and the comma belongs.
            Self::Absent => (inside..inside, b"\"stream_options\":{\"include_usage\":true},"),
            Self::Null(span) => (span.clone(), b"{\"include_usage\":true}"),
            Self::Silent { inside, empty: true } => (*inside..*inside, b"\"include_usage\":true"),
            Self::Silent { inside, empty: false } => (*inside..*inside, b"\"include_usage\":true,"),
            Self::Declined(span) => (span.clone(), b"true"),
            Self::Asked => return None,
        };
        Some(Change { span, text: Cow::Borrowed(text) })
    }
}

fn without_controls(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).collect()
}

fn quoted(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 2);
    out.push(b'"');
    escape_into(&without_controls(name), &mut out);
    out.push(b'"');
    out
}

/// The body with spans replaced; changes come in order and do not overlap.
fn replace(body: &Bytes, changes: impl Iterator<Item = Change>) -> Bytes {
    let mut out = None;
    let mut done = 0;
    for Change { span, text } in changes {
        let out = out.get_or_insert_with(|| BytesMut::with_capacity(body.len() + 320));
        out.extend_from_slice(body.get(done..span.start).unwrap_or_default());
        out.extend_from_slice(&text);
        done = span.end;
    }
    match out {
        None => body.clone(),
        Some(mut out) => {
            out.extend_from_slice(body.get(done..).unwrap_or_default());
            out.freeze()
        }
    }
}
