//! The fields of a `multipart/form-data` body (RFC 7578) that Marg acts on.
//!
//! Bounded: at most 256 parts, 8 KiB of head a part, a boundary of at most 70 bytes; content is skipped by a substring
//! search. A form that could be read in two ways (a field named twice, a head that breaks the grammar, no last boundary)
//! is refused, so that the provider sees the model that Marg saw.

use std::ops::Range;

use memchr::memmem;

use crate::error::{Error, Kind};

const PARTS_LIMIT: usize = 256;
const HEAD_LIMIT_BYTES: usize = 8 * 1024;
/// RFC 2046 section 5.1.1.
const BOUNDARY_LIMIT_BYTES: usize = 70;
/// A field that Marg reads is a word or a number, not a document.
const FIELD_LIMIT_BYTES: usize = 1024;

/// What a form says.
#[derive(Debug, Default)]
pub(super) struct Form {
    /// The content of the part `model`.
    pub(super) model: Option<Range<usize>>,
    pub(super) stream: bool,
    pub(super) choices: Option<u64>,
    pub(super) size: Option<String>,
    pub(super) quality: Option<String>,
    pub(super) end_user: Option<String>,
    /// Bytes of the part `prompt`.
    pub(super) text_bytes: u64,
    /// Whether a part is a file.
    pub(super) files: bool,
}

fn malformed(text: &'static str) -> Error {
    Error::new(Kind::InvalidRequest, text)
}

/// Reads a form.
///
/// # Errors
/// `InvalidRequest` if the form is malformed or beyond a bound.
pub(super) fn read(content_type: &str, body: &[u8]) -> Result<Form, Error> {
    let boundary = boundary(content_type).ok_or_else(|| malformed("the content type names no valid boundary"))?;
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(&delimiter);
    let mut form = Form::default();
    let mut at = first_part(body, &boundary, &finder)?;
    for _ in 0..PARTS_LIMIT {
        let rest = body.get(at..).unwrap_or_default();
        if rest.starts_with(b"--") {
            return Ok(form);
        }
        let padding = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        if !rest.get(padding..).is_some_and(|line| line.starts_with(b"\r\n")) {
            return Err(malformed("the form holds a malformed boundary line"));
        }
        let head_start = at + padding + 2;
        let (head, content_start) = head(body, head_start)?;
        let length = finder
            .find(body.get(content_start.saturating_sub(2)..).unwrap_or_default())
            .ok_or_else(|| malformed("the form has no last boundary"))?;
        // The search begins at the line end of the head, because content may be empty.
        let content_end = (content_start - 2 + length).max(content_start);
        form.take(&Part::parse(head)?, content_start..content_end, body)?;
        at = content_start - 2 + length + delimiter.len();
    }
    Err(malformed("the form has more than 256 parts"))
}

/// The position behind the first boundary.
fn first_part(body: &[u8], boundary: &str, finder: &memmem::Finder<'_>) -> Result<usize, Error> {
    if body.strip_prefix(b"--").is_some_and(|rest| rest.starts_with(boundary.as_bytes())) {
        return Ok(2 + boundary.len());
    }
    let window = body.get(..body.len().min(HEAD_LIMIT_BYTES)).unwrap_or_default();
    match finder.find(window) {
        // A preamble (RFC 2046 section 5.1.1) is for readers who know no parts, so they would read it.
        Some(found) if !window.get(..found).unwrap_or_default().trim_ascii().is_empty() => {
            Err(malformed("the form holds something before its first boundary"))
        }
        Some(found) => Ok(found + finder.needle().len()),
        None => Err(malformed("the form does not begin with its boundary")),
    }
}

/// A part's head, and where its content begins.
fn head(body: &[u8], start: usize) -> Result<(&str, usize), Error> {
    let rest = body.get(start..).unwrap_or_default();
    let window = rest.get(..rest.len().min(HEAD_LIMIT_BYTES)).unwrap_or_default();
    let length =
        memmem::find(window, b"\r\n\r\n").ok_or_else(|| malformed("a part of the form has no complete head"))?;
    let head = std::str::from_utf8(window.get(..length).unwrap_or_default())
        .map_err(|_| malformed("the head of a part of the form is not UTF-8"))?;
    Ok((head, start + length + 4))
}

/// What the head of a part says.
struct Part {
    name: String,
    file: bool,
}

impl Part {
    fn parse(head: &str) -> Result<Self, Error> {
        if head.split("\r\n").any(|line| line.chars().any(|c| c.is_control() && c != '\t')) {
            return Err(malformed("the head of a part of the form holds a control character"));
        }
        let mut dispositions = head.split("\r\n").filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
        });
        let (Some(disposition), None) = (dispositions.next(), dispositions.next()) else {
            return Err(malformed("a part of the form must have one content-disposition"));
        };
        let parameters = parameters(disposition).ok_or_else(|| malformed("a content-disposition is malformed"))?;
        // RFC 7578 section 4.2 forbids `name*`; a reader that knows it would prefer it.
        let mut names = parameters.iter().filter(|(key, _)| key == "name" || key == "name*");
        let (Some((_, name)), None) = (names.next().filter(|(key, _)| key == "name"), names.next()) else {
            return Err(malformed("a part of the form must have one name"));
        };
        let file = parameters.iter().any(|(key, _)| key == "filename" || key == "filename*");
        Ok(Self { name: name.clone(), file })
    }
}

impl Form {
    fn take(&mut self, part: &Part, span: Range<usize>, body: &[u8]) -> Result<(), Error> {
        if part.file {
            self.files = true;
            // A file of that name could be the field to a lenient reader.
            return match part.name.as_str() {
                "model" => Err(malformed("the field model must not be a file")),
                "n" | "stream" => Err(malformed("the fields n and stream must not be files")),
                _ => Ok(()),
            };
        }
        if part.name == "prompt" || part.name == "input" {
            self.text_bytes = self.text_bytes.saturating_add(span.len() as u64);
        }
        if !matches!(part.name.as_str(), "model" | "stream" | "n" | "user" | "size" | "quality") {
            return Ok(());
        }
        let content = body.get(span.clone()).unwrap_or_default();
        let text = std::str::from_utf8(content).ok().filter(|text| text.len() <= FIELD_LIMIT_BYTES);
        let text = text.ok_or_else(|| malformed("a field of the form is too long or not UTF-8"))?;
        if part.name == "model" {
            if self.model.replace(span).is_some() {
                return Err(malformed("the form names a model twice").param("model"));
            }
        } else {
            self.field(&part.name, text);
        }
        Ok(())
    }

    /// Takes a field that is a word or a number.
    pub(super) fn field(&mut self, name: &str, text: &str) {
        match name {
            // Readers differ in what they take for true, and in which of two they take; the larger wish counts.
            "stream" => {
                self.stream |= !matches!(text.trim().to_ascii_lowercase().as_str(), "" | "false" | "0" | "no" | "off")
            }
            "n" => self.choices = self.choices.max(Some(text.trim().parse().unwrap_or(u64::MAX))),
            "size" => self.size = Some(text.to_owned()),
            "quality" => self.quality = Some(text.to_owned()),
            "user" => self.end_user = Some(text.to_owned()).filter(|user| !user.is_empty()),
            _ => {}
        }
    }
}

/// The boundary that a content type names, checked (RFC 2046 section 5.1.1).
fn boundary(content_type: &str) -> Option<String> {
    let parameters = parameters(content_type)?;
    let mut boundaries = parameters.into_iter().filter(|(key, _)| key == "boundary");
    let (_, boundary) = boundaries.next()?;
    let sound = (1..=BOUNDARY_LIMIT_BYTES).contains(&boundary.len())
        && boundary.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte))
        && boundaries.next().is_none();
    sound.then_some(boundary)
}

/// The parameters behind the first `;` of a header value, names in lower case, quotes taken off; `None` if malformed.
fn parameters(value: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = match value.split_once(';') {
        Some((_, rest)) => rest.trim(),
        None => return Some(found),
    };
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (text, behind) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                let (text, behind) = after.split_at_checked(end)?;
                (text.trim().to_owned(), behind)
            }
        };
        found.push((name.trim().to_ascii_lowercase(), text));
        rest = match behind.trim_start() {
            "" => "",
            more => more.strip_prefix(';')?.trim(),
        };
    }
    Some(found)
}

/// A quoted string without its opening quote: its text, and what is behind its closing one.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut text = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, quoted.get(at + 1..)?)),
            // Browsers write a quote as %22 and a Windows path with bare backslashes; only these two are escapes.
            '\\' if quoted.get(at + 1..).is_some_and(|rest| rest.starts_with(['"', '\\'])) => {
                text.push(characters.next()?.1);
            }
            _ => text.push(character),
        }
    }
    None
}
