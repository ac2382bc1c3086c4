//! The places at which a body may be changed for a target, and the change.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::dialect::value::escape_into;

/// Where a body can be changed.
#[derive(Clone, Debug)]
pub(super) enum Splice {
    /// Nowhere.
    Nothing,
    /// A JSON object: behind its brace, at the value of `model`, at `stream_options`.
    Json { inside: usize, model: Option<Range<usize>>, stream_options: StreamOptions },
    /// A form: at the content of its part `model`.
    Form { model: Range<usize> },
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
    /// The body with another model, or asking for usage, or both; the same bytes if neither.
    pub(super) fn apply(&self, body: &Bytes, rename: Option<&str>, ask_usage: bool) -> Bytes {
        let mut changes: [Option<Change>; 2] = [None, None];
        match self {
            Self::Nothing => {}
            Self::Form { model } => {
                let plain = rename.map(without_controls);
                changes[0] = plain.map(|name| Change { span: model.clone(), text: Cow::Owned(name.into_bytes()) });
            }
            Self::Json { inside, model, stream_options } => {
                let quoted = rename.map(quoted);
                changes[0] = quoted.zip(model.clone()).map(|(name, span)| Change { span, text: Cow::Owned(name) });
                changes[1] = stream_options.asking(*inside).filter(|_| ask_usage);
            }
        }
        changes.sort_by_key(|change| change.as_ref().map_or(usize::MAX, |change| change.span.start));
        replace(body, changes.into_iter().flatten())
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
