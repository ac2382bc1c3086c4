//! A reader of JSON values where they lie, without a tree.
//!
//! It trusts nothing: on bytes that no one validated, or that are cut off, it stops early and never panics, recurses or
//! allocates more than the strings asked for. A value that is cut off reads as far as it goes. On a document that `json`
//! validated it is exact. Looking up a member walks over its siblings, at several GB/s.

use std::borrow::Cow;

use crate::dialect::json::{Type, first_of_word};

/// One value: its bytes, from its first to behind its last.
#[derive(Clone, Copy, Debug)]
pub struct Value<'a>(&'a [u8]);

impl<'a> Value<'a> {
    /// The first value in some bytes, space before it skipped; `None` if there is none. What follows is ignored.
    pub fn first(bytes: &'a [u8]) -> Option<Self> {
        let bytes = trim(bytes);
        let length = skip(bytes)?;
        bytes.get(..length).map(Self)
    }

    /// The value that some bytes are, space around it taken off. Cheaper than `first`, which looks for the end; what
    /// stands behind the value, if anything does, is seen by no method but `raw`.
    pub fn whole(bytes: &'a [u8]) -> Self {
        Self(bytes.trim_ascii())
    }

    /// The value's own bytes.
    pub fn raw(self) -> &'a [u8] {
        self.0
    }

    /// What it is, judged by its first byte.
    pub fn kind(self) -> Type {
        match self.0.first() {
            Some(b'{') => Type::Object,
            Some(b'[') => Type::Array,
            Some(b'"') => Type::String,
            Some(b't' | b'f') => Type::Bool,
            Some(b'n') => Type::Null,
            _ => Type::Number,
        }
    }

    /// The string, decoded; `None` if it is not one. Half of a surrogate pair and bytes that are not UTF-8 become U+FFFD.
    pub fn string(self) -> Option<Cow<'a, str>> {
        let content = self.0.strip_prefix(b"\"")?;
        let (length, _) = string_length(content);
        let raw = content.get(..length)?;
        if memchr::memchr(b'\\', raw).is_some() {
            return Some(Cow::Owned(unescape(raw)));
        }
        Some(match simdutf8::basic::from_utf8(raw) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(raw),
        })
    }

    /// The number, if it is written as a whole one (no fraction, no exponent) and fits.
    pub fn u64(self) -> Option<u64> {
        digits(self.0).and_then(|text| text.parse().ok())
    }

    /// The number, if it is written as a whole one and fits.
    pub fn i64(self) -> Option<i64> {
        let magnitude = self.0.strip_prefix(b"-").unwrap_or(self.0);
        digits(magnitude)?;
        std::str::from_utf8(self.0).ok()?.parse().ok()
    }

    /// The number, if it is one.
    pub fn f64(self) -> Option<f64> {
        let first = self.0.first()?;
        if *first != b'-' && !first.is_ascii_digit() {
            return None;
        }
        std::str::from_utf8(self.0).ok()?.parse().ok()
    }

    /// The truth value, if it is one.
    pub fn boolean(self) -> Option<bool> {
        match self.0 {
            b"true" => Some(true),
            b"false" => Some(false),
            _ => None,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(self) -> bool {
        self.0 == b"null"
    }

    /// The elements of an array, in order; none if it is not one.
    pub fn elements(self) -> Elements<'a> {
        Elements { rest: self.0.strip_prefix(b"[").unwrap_or_default() }
    }

    /// The members of an object, in order; none if it is not one.
    pub fn members(self) -> Members<'a> {
        Members { rest: self.0.strip_prefix(b"{").unwrap_or_default() }
    }

    /// The first member with a key.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        self.members().find(|(name, _)| name.is(key)).map(|(_, value)| value)
    }

    /// The member with a key, unless it is `null`.
    pub fn present(self, key: &str) -> Option<Value<'a>> {
        self.get(key).filter(|value| !value.is_null())
    }
}

/// A key as it lies between its quotes.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// Whether it decodes to this text.
    pub fn is(self, text: &str) -> bool {
        self.0 == text.as_bytes() || (self.0.contains(&b'\\') && unescape(self.0) == text)
    }

    /// The key, decoded.
    pub fn decode(self) -> Cow<'a, str> {
        if self.0.contains(&b'\\') { Cow::Owned(unescape(self.0)) } else { String::from_utf8_lossy(self.0) }
    }

    /// The bytes of the key, decoded: enough to compare it, and without a check for UTF-8.
    pub fn bytes(self) -> Cow<'a, [u8]> {
        if self.0.contains(&b'\\') { Cow::Owned(unescape(self.0).into_bytes()) } else { Cow::Borrowed(self.0) }
    }
}

/// The elements of an array.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let rest = trim(self.rest);
        self.rest = &[];
        let value = Value::first(rest)?;
        self.rest = behind_comma(rest.get(value.0.len()..)?);
        Some(value)
    }
}

/// The members of an object.
#[derive(Clone, Debug)]
pub struct Members<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Members<'a> {
    type Item = (Name<'a>, Value<'a>);

    fn next(&mut self) -> Option<(Name<'a>, Value<'a>)> {
        let content = trim(self.rest).strip_prefix(b"\"");
        self.rest = &[];
        let content = content?;
        let (length, closed) = string_length(content);
        if !closed {
            return None;
        }
        let name = Name(content.get(..length)?);
        let rest = trim(trim(content.get(length + 1..)?).strip_prefix(b":")?);
        let value = Value::first(rest)?;
        self.rest = behind_comma(rest.get(value.0.len()..)?);
        Some((name, value))
    }
}

/// What follows the comma; nothing if there is none, which ends the iteration.
fn behind_comma(rest: &[u8]) -> &[u8] {
    trim(rest).strip_prefix(b",").unwrap_or_default()
}

fn trim(bytes: &[u8]) -> &[u8] {
    let space = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t')).count();
    bytes.get(space..).unwrap_or_default()
}

/// The text of a run of ASCII digits without a leading zero; `None` if it is anything else.
fn digits(bytes: &[u8]) -> Option<&str> {
    let plain = bytes.iter().all(u8::is_ascii_digit) && (bytes.len() == 1 || bytes.first() != Some(&b'0'));
    if plain && !bytes.is_empty() { std::str::from_utf8(bytes).ok() } else { None }
}

/// The length of the value at the beginning of some bytes; of what there is, if it is cut off.
fn skip(bytes: &[u8]) -> Option<usize> {
    match bytes.first()? {
        b'"' => {
            let (length, closed) = string_length(bytes.get(1..)?);
            Some(1 + length + usize::from(closed))
        }
        b'{' | b'[' => Some(skip_container(bytes)),
        b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => Some(
            bytes
                .iter()
                .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')))
                .unwrap_or(bytes.len()),
        ),
        _ => None,
    }
}

/// Skips to behind the bracket that closes the first one; which kind closes which is not checked.
fn skip_container(bytes: &[u8]) -> usize {
    let mut at = 0;
    let mut depth = 0_usize;
    while let Some(rest) = bytes.get(at..) {
        at += until_structure(rest);
        match bytes.get(at) {
            Some(b'"') => {
                let (length, closed) = string_length(bytes.get(at + 1..).unwrap_or_default());
                at += 1 + length + usize::from(closed);
                continue;
            }
            Some(b'{' | b'[') => depth += 1,
            Some(b'}' | b']') => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            Some(_) => {}
            None => break,
        }
        at += 1;
    }
    bytes.len()
}

/// The distance to the next quote or bracket; the length if there is none. Long runs of numbers (embeddings) are passed
/// a vector at a time.
#[inline]
fn until_structure(bytes: &[u8]) -> usize {
    let (chunks, tail) = bytes.as_chunks::<16>();
    for (index, chunk) in chunks.iter().enumerate() {
        let hit = chunk.iter().fold(0, |hit, byte| hit | u8::from(is_structure(*byte)));
        if hit != 0 {
            let inside = chunk.iter().position(|byte| is_structure(*byte)).unwrap_or(0);
            return index * 16 + inside;
        }
    }
    chunks.len() * 16 + tail.iter().position(|byte| is_structure(*byte)).unwrap_or(tail.len())
}

#[inline]
fn is_structure(byte: u8) -> bool {
    // With bit 5 set, square brackets become curly ones.
    (byte == b'"') | ((byte | 0x20) == b'{') | ((byte | 0x20) == b'}')
}

/// The length of a string's content up to its closing quote, and whether there is one.
#[inline]
fn string_length(content: &[u8]) -> (usize, bool) {
    // Most strings are keys and words: a search by vectors takes longer to begin than they are long.
    if let Some(length) = content.first_chunk().and_then(first_of_word)
        && content.get(length) == Some(&b'"')
    {
        return (length, true);
    }
    let mut at = 0;
    while let Some(found) = content.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += found;
        if content.get(at) == Some(&b'"') {
            return (at, true);
        }
        at += 2;
    }
    (content.len(), false)
}

/// Decodes the content of a string. An escape that is not one, or is cut off, ends in U+FFFD or nothing.
pub(super) fn unescape(raw: &[u8]) -> String {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let (plain, escape) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        rest = unescape_one(escape, &mut out);
    }
    out.extend_from_slice(rest);
    String::from_utf8(out).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// Decodes the escape at the beginning of some bytes and gives what follows it.
fn unescape_one<'a>(escape: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let simple = match escape.get(1) {
        Some(b'b') => 0x08,
        Some(b'f') => 0x0C,
        Some(b'n') => b'\n',
        Some(b'r') => b'\r',
        Some(b't') => b'\t',
        Some(b'u') => return unescape_unicode(escape, out),
        Some(other) => *other,
        None => return &[],
    };
    out.push(simple);
    escape.get(2..).unwrap_or_default()
}

fn unescape_unicode<'a>(escape: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let Some(high) = code_unit(escape) else {
        return escape.get(2..).unwrap_or_default();
    };
    let low = escape.get(6..).and_then(code_unit);
    let (character, length) = match (high, low) {
        (0xD800..=0xDBFF, Some(low @ 0xDC00..=0xDFFF)) => {
            (char::from_u32(0x1_0000 + ((u32::from(high) & 0x3FF) << 10) + (u32::from(low) & 0x3FF)), 12)
        }
        _ => (char::from_u32(u32::from(high)), 6),
    };
    let mut buffer = [0; 4];
    out.extend_from_slice(character.unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut buffer).as_bytes());
    escape.get(length..).unwrap_or_default()
}

/// The UTF-16 code unit of an escape `\uXXXX` at the beginning of some bytes.
pub(super) fn code_unit(bytes: &[u8]) -> Option<u16> {
    let hex = bytes.strip_prefix(b"\\u")?.first_chunk::<4>()?;
    hex.iter().try_fold(0_u16, |unit, digit| {
        let digit = char::from(*digit).to_digit(16).and_then(|digit| u16::try_from(digit).ok())?;
        Some((unit << 4) | digit)
    })
}

/// Writes a text as the inside of a JSON string (RFC 8259 section 7), without quotes.
pub fn escape_into(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Value<'_> {
        Value::first(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_value_that_is_cut_off_reads_as_far_as_it_goes() {
        let value = read(r#"{"choices":[{"message":{"content":"half of a sen"#);
        let choice = value.get("choices").and_then(|choices| choices.elements().next()).unwrap();
        assert_eq!(choice.get("message").unwrap().get("content").unwrap().string().unwrap(), "half of a sen");
        assert_eq!(read(r#""cut \u00"#).string().unwrap(), "cut 00");
        assert_eq!(read(r#""cut \"#).string().unwrap(), "cut ");
        assert!(read(r#"{"key"#).members().next().is_none());
    }

    #[test]
    fn nonsense_ends_early_instead_of_panicking() {
        for text in ["}", ",", "{]", "[}", "{\"a\" 1}", "{\"a\":}", "[,]", "{\"a\":1 \"b\":2}", "\u{0}", "[[[[[["] {
            if let Some(value) = Value::first(text.as_bytes()) {
                assert!(value.elements().count() <= 1, "{text}");
                assert!(value.members().count() <= 1, "{text}");
            }
        }
        assert!(Value::first(b"").is_none());
        assert!(Value::first(b"  ").is_none());
    }

    #[test]
    fn numbers_are_whole_only_if_written_so() {
        assert_eq!(read("5").u64(), Some(5));
        assert_eq!(read("5.0").u64(), None);
        assert_eq!(read("5e0").u64(), None);
        assert_eq!(read("-5").u64(), None);
        assert_eq!(read("-5").i64(), Some(-5));
        assert_eq!(read("05").u64(), None);
        assert_eq!(read("\"5\"").u64(), None);
        assert_eq!(read("99999999999999999999999").u64(), None);
        assert_eq!(read("1.5e3").f64(), Some(1500.0));
        assert_eq!(read("null").f64(), None);
    }

    #[test]
    fn keys_and_strings_are_decoded() {
        let value = read(r#"{ "mod\u0065l" : "a\"b\\\n\ud83d\ude00" , "x" : [ 1 , true , null ] }"#);
        assert_eq!(value.get("model").unwrap().string().unwrap(), "a\"b\\\n😀");
        assert_eq!(value.get("x").unwrap().elements().count(), 3);
        assert!(value.present("y").is_none());
        assert_eq!(read(r#""\ud83d""#).string().unwrap(), "\u{FFFD}");
    }

    #[test]
    fn an_escaped_text_reads_back_the_same() {
        let text = "quote \" backslash \\ line \n\r\t bell \u{7} nul \u{0} é 😀";
        let mut written = vec![b'"'];
        escape_into(text, &mut written);
        written.push(b'"');
        assert_eq!(serde_json::from_slice::<String>(&written).unwrap(), text);
        assert_eq!(Value::first(&written).unwrap().string().unwrap(), text);
    }
}
