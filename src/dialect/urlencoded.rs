//! `application/x-www-form-urlencoded`, as bodies and queries are: the fields that Marg acts on, and a model's name put in.
//!
//! One that could be read in two ways (a model named twice, or beside a semicolon, which old servers take for an ampersand) is
//! refused, so that the provider sees the model that Marg saw.
//!
//! *Source*: <https://url.spec.whatwg.org/#application/x-www-form-urlencoded>.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;

use crate::dialect::multipart::Form;
use crate::error::{Error, Kind};

/// A name that is longer than this, as it is written, is none that Marg reads.
const NAME_LIMIT_BYTES: usize = 64;

/// Reads a body.
///
/// # Errors
/// `InvalidRequest` if it could be read in two ways.
///
/// *Cost*: one pass; allocates for the fields that are read only.
pub(super) fn read(body: &[u8]) -> Result<Form, Error> {
    let mut form = Form { model: model(body)?, ..Form::default() };
    for (name, span) in pairs(body) {
        let content = body.get(span.clone()).unwrap_or_default();
        match &*name {
            b"prompt" | b"input" => form.text_bytes = form.text_bytes.saturating_add(span.len() as u64),
            b"stream" | b"n" | b"user" | b"size" | b"quality" => {
                form.field(&String::from_utf8_lossy(&name), &String::from_utf8_lossy(&decoded(content)));
            }
            _ => {}
        }
    }
    Ok(form)
}

/// Where the value of `model` is, in letters of any size; `None` if none is named, or an empty one.
///
/// # Errors
/// `InvalidRequest` if it is named twice, or beside a semicolon.
pub(super) fn model(text: &[u8]) -> Result<Option<Range<usize>>, Error> {
    let is_model = |name: &[u8]| name.eq_ignore_ascii_case(b"model");
    let mut found = None;
    for (name, span) in pairs(text) {
        let piece = text.get(span.clone()).unwrap_or_default();
        let behind = piece.split(|byte| *byte == b';').skip(1).any(|more| is_model(&name_of(more)));
        let beside = is_model(&name) && piece.contains(&b';');
        let before = name.contains(&b';') && name.split(|byte| *byte == b';').any(|part| is_model(part.trim_ascii()));
        if behind || beside || before || (is_model(&name) && found.replace(span).is_some()) {
            return Err(
                Error::new(Kind::InvalidRequest, "`model` is named in a way that could be read in two").param("model")
            );
        }
    }
    Ok(found.filter(|span| !span.is_empty()))
}

/// A value, decoded.
pub(super) fn decoded(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(value);
    }
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        let pair = after.first_chunk::<2>().filter(|_| *first == b'%');
        let byte = pair.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(if *first == b'+' { b' ' } else { *first });
                rest = after;
            }
        }
    }
    Cow::Owned(out)
}

/// A text, encoded so that it can be a value, or a segment of a path.
pub(super) fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a text does not fail.
            let _written = write!(out, "%{byte:02X}");
        }
        out
    })
}

/// The pairs, names decoded.
fn pairs(text: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Range<usize>)> {
    let mut start = 0;
    text.split(|byte| *byte == b'&').map(move |piece| {
        let from = start;
        start += piece.len() + 1;
        let equals = memchr::memchr(b'=', piece).map_or(piece.len(), |at| at + 1);
        (name_of(piece), from + equals..from + piece.len())
    })
}

fn name_of(piece: &[u8]) -> Cow<'_, [u8]> {
    let name = piece.split(|byte| *byte == b'=').next().unwrap_or_default();
    if name.len() > 3 * NAME_LIMIT_BYTES && !name.contains(&b';') { Cow::Borrowed(b"") } else { decoded(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Option<String> {
        let span = model(text.as_bytes()).unwrap()?;
        Some(String::from_utf8(decoded(text[span].as_bytes()).into_owned()).unwrap())
    }

    #[test]
    fn a_model_that_could_be_read_in_two_ways_is_refused() {
        for text in [
            "model=a&model=b",
            "model=a&Model=a",
            "model=a&mod%65l=b",
            "model=a;model=b",
            "model=a;x=1",
            "x=1;model=a",
            "x;model=a",
            "x=1;%6Dodel=b&model=a",
        ] {
            assert!(model(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_model_is_found_however_it_is_encoded() {
        for text in ["", "model", "model=", "x=model", "models=a", "prompt=model%3Da", "a=1;b=2"] {
            assert_eq!(named(text), None, "{text}");
        }
        for text in ["model=a%2Fb+c", "x=1&MODEL=a%2fb%20c&y", "&&m%6fdel=a/b+c"] {
            assert_eq!(named(text).as_deref(), Some("a/b c"), "{text}");
        }
        assert_eq!(encoded("a/b c:ü"), "a%2Fb%20c%3A%C3%BC");
    }
}
