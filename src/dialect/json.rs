//! A strict scanner of JSON (RFC 8259): one pass over the whole document, no recursion, no tree.
//!
//! Refused, beyond what the grammar refuses: nesting deeper than 128, an object that names a key twice (compared decoded,
//! so `"mod\u0065l"` equals `"model"`), half of a surrogate pair, a byte order mark. What passes reads the same at every
//! strict parser, so what Marg judged is what the provider sees. Time is linear, except for the keys of one large object,
//! which are sorted; memory beyond the document is 12 bytes for each key of the objects that are open
//! (`deep_nesting_is_refused_at_once`, `a_million_keys_are_handled`). A visitor sees every value as it passes; nothing is
//! kept. Reading values again is `value`'s work.

use std::borrow::Cow;
use std::ops::Range;

use crate::dialect::json::keys::Keys;
use crate::dialect::json::special::{MASK_BYTES, plain_chunks, special_mask};
use crate::dialect::value;

mod fault;
mod keys;
mod special;

pub use crate::dialect::json::fault::{Fault, JsonError};
pub(super) use crate::dialect::json::special::first_of_word;

/// How many containers may be open at once.
pub const DEPTH_LIMIT: usize = 128;
/// The largest document, in bytes.
const LENGTH_LIMIT: usize = i32::MAX as usize;

/// A string in the document: the span between its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    /// The first byte after the opening quote.
    pub start: usize,
    /// The closing quote.
    pub end: usize,
    /// Whether it holds an escape.
    pub escaped: bool,
}

impl Text {
    /// The bytes between the quotes, decoded.
    pub fn decode<'a>(&self, document: &'a [u8]) -> Cow<'a, str> {
        let raw = document.get(self.start..self.end).unwrap_or_default();
        if self.escaped { Cow::Owned(value::unescape(raw)) } else { String::from_utf8_lossy(raw) }
    }
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `{…}`.
    Object,
    /// `[…]`.
    Array,
    /// `"…"`.
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Bool,
    /// `null`.
    Null,
}

/// Sees every value of a document, in order. Depth counts the containers around the value: the document itself is at 0,
/// its members at 1.
pub trait Visit {
    /// A string, number or literal ended. `key` is there if it is a member of an object.
    fn scalar(&mut self, _depth: usize, _key: Option<Text>, _kind: Type, _span: Range<usize>) {}
    /// An object or array began at a byte.
    fn open(&mut self, _depth: usize, _key: Option<Text>, _kind: Type, _at: usize) {}
    /// The object or array that is open at this depth ended before a byte.
    fn close(&mut self, _depth: usize, _kind: Type, _end: usize) {}
}

/// The visitor that only lets a document be validated.
impl Visit for () {}

/// A member of the top-level object: the spans of its key (with quotes) and of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The key, decoded by `Text::decode`.
    pub key: Text,
    /// The value's bytes, without space around them.
    pub value: Range<usize>,
}

/// Validates a document and gives the members of its top-level object, in order; none if it is not an object.
///
/// # Errors
/// The first fault found.
pub fn members(document: &[u8]) -> Result<Vec<Member>, JsonError> {
    struct Collect(Vec<Member>, Option<Member>);
    impl Visit for Collect {
        fn scalar(&mut self, depth: usize, key: Option<Text>, _kind: Type, span: Range<usize>) {
            if let (1, Some(key)) = (depth, key) {
                self.0.push(Member { key, value: span });
            }
        }
        fn open(&mut self, depth: usize, key: Option<Text>, _kind: Type, at: usize) {
            if let (1, Some(key)) = (depth, key) {
                self.1 = Some(Member { key, value: at..at });
            }
        }
        fn close(&mut self, depth: usize, _kind: Type, end: usize) {
            if let (1, Some(mut member)) = (depth, self.1.take_if(|_| depth == 1)) {
                member.value.end = end;
                self.0.push(member);
            }
        }
    }
    let mut collect = Collect(Vec::new(), None);
    scan(document, &mut collect)?;
    Ok(collect.0)
}

/// Validates a document and shows every value to a visitor. What a visitor saw of a document that is refused in the end
/// means nothing.
///
/// # Errors
/// The first fault found (duplicate keys of an object with many keys are found when it closes).
///
/// *Cost*: several GB/s in strings, about 1 GB/s elsewhere; nothing is allocated unless an object has keys.
pub fn scan<V: Visit>(document: &[u8], visit: &mut V) -> Result<(), JsonError> {
    if document.len() > LENGTH_LIMIT {
        return Err(JsonError { offset: LENGTH_LIMIT, fault: Fault::TooLong });
    }
    if simdutf8::basic::from_utf8(document).is_err() {
        let offset = simdutf8::compat::from_utf8(document).map_or_else(|error| error.valid_up_to(), |_| 0);
        return Err(JsonError { offset, fault: Fault::NotUtf8 });
    }
    Scanner { document, at: 0, depth: 0, open: [Open::default(); DEPTH_LIMIT], keys: Keys::default() }.run(visit)
}

/// A container that is open: what it is, and where its keys begin among the keys kept.
#[derive(Clone, Copy, Default)]
struct Open {
    object: bool,
    first_key: u32,
}

struct Scanner<'a> {
    document: &'a [u8],
    at: usize,
    depth: usize,
    open: [Open; DEPTH_LIMIT],
    keys: Keys,
}

/// What comes next after a value.
enum Next {
    Value(Option<Text>),
    Closed,
    End,
}

impl Scanner<'_> {
    fn run<V: Visit>(mut self, visit: &mut V) -> Result<(), JsonError> {
        let mut key = None;
        self.space();
        loop {
            let mut next = self.value(key, visit)?;
            while let Next::Closed = next {
                next = self.after_value(visit)?;
            }
            match next {
                Next::Value(member) => key = member,
                _ => return Ok(()),
            }
        }
    }

    #[inline]
    fn peek(&self) -> u8 {
        // A zero byte is legal nowhere outside strings, so it can stand for the end.
        self.document.get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    fn fail<T>(&self, fault: Fault) -> Result<T, JsonError> {
        Err(JsonError { offset: self.at, fault })
    }

    /// Reads a scalar, or opens a container and finds its first value.
    #[inline]
    fn value<V: Visit>(&mut self, key: Option<Text>, visit: &mut V) -> Result<Next, JsonError> {
        let start = self.at;
        let kind = match self.peek() {
            b'"' => {
                self.string()?;
                Type::String
            }
            b'{' => return self.enter(key, Type::Object, visit),
            b'[' => return self.enter(key, Type::Array, visit),
            b'-' | b'0'..=b'9' => {
                self.number()?;
                Type::Number
            }
            b't' => self.literal(b"true", Type::Bool)?,
            b'f' => self.literal(b"false", Type::Bool)?,
            b'n' => self.literal(b"null", Type::Null)?,
            _ => return self.fail(Fault::Expected("a value")),
        };
        visit.scalar(self.depth, key, kind, start..self.at);
        Ok(Next::Closed)
    }

    fn enter<V: Visit>(&mut self, key: Option<Text>, kind: Type, visit: &mut V) -> Result<Next, JsonError> {
        let first_key = self.keys.len();
        let Some(slot) = self.open.get_mut(self.depth) else {
            return self.fail(Fault::TooDeep);
        };
        *slot = Open { object: kind == Type::Object, first_key };
        visit.open(self.depth, key, kind, self.at);
        self.depth += 1;
        self.at += 1;
        self.space();
        match (kind, self.peek()) {
            (Type::Object, b'}') | (Type::Array, b']') => self.leave(visit),
            (Type::Object, _) => self.key(),
            _ => Ok(Next::Value(None)),
        }
    }

    fn leave<V: Visit>(&mut self, visit: &mut V) -> Result<Next, JsonError> {
        self.depth -= 1;
        self.at += 1;
        let Some(Open { object, first_key }) = self.open.get(self.depth).copied() else {
            return Ok(Next::End);
        };
        if object {
            self.keys.close(first_key, self.document)?;
        }
        visit.close(self.depth, if object { Type::Object } else { Type::Array }, self.at);
        Ok(Next::Closed)
    }

    #[inline]
    fn after_value<V: Visit>(&mut self, visit: &mut V) -> Result<Next, JsonError> {
        self.space();
        let Some(innermost) = self.depth.checked_sub(1) else {
            return if self.at == self.document.len() { Ok(Next::End) } else { self.fail(Fault::Trailing) };
        };
        let object = self.open.get(innermost).is_some_and(|open| open.object);
        match (object, self.peek()) {
            (true, b'}') | (false, b']') => self.leave(visit),
            (_, b',') => {
                self.at += 1;
                self.space();
                if object { self.key() } else { Ok(Next::Value(None)) }
            }
            (true, _) => self.fail(Fault::Expected("a comma or a closing brace")),
            (false, _) => self.fail(Fault::Expected("a comma or a closing bracket")),
        }
    }

    #[inline]
    fn key(&mut self) -> Result<Next, JsonError> {
        if self.peek() != b'"' {
            return self.fail(Fault::Expected("a key in quotes"));
        }
        let first_key = self.open.get(self.depth.wrapping_sub(1)).map_or(0, |open| open.first_key);
        let key = self.string()?;
        self.keys.add(first_key, key, self.document)?;
        self.space();
        if self.peek() != b':' {
            return self.fail(Fault::Expected("a colon"));
        }
        self.at += 1;
        self.space();
        Ok(Next::Value(Some(key)))
    }

    fn literal(&mut self, word: &'static [u8], kind: Type) -> Result<Type, JsonError> {
        if !self.document.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            return self.fail(Fault::Expected("a value"));
        }
        self.at += word.len();
        Ok(kind)
    }

    /// Reads a string from its opening quote to behind its closing one.
    #[inline]
    fn string(&mut self) -> Result<Text, JsonError> {
        let start = self.at + 1;
        // Most strings are keys and words: often the first eight bytes hold the end.
        let word = self.document.get(start..).and_then(|rest| rest.first_chunk::<8>());
        if let Some(length) = word.and_then(first_of_word)
            && self.document.get(start + length) == Some(&b'"')
        {
            self.at = start + length + 1;
            return Ok(Text { start, end: start + length, escaped: false });
        }
        self.long_string(start)
    }

    fn long_string(&mut self, start: usize) -> Result<Text, JsonError> {
        let mut escaped = false;
        self.at = start;
        while self.at < self.document.len() {
            let base = self.at;
            let rest = self.document.get(base..).unwrap_or_default();
            let mut specials = special_mask(rest);
            self.at += MASK_BYTES;
            if specials == 0 {
                self.at += plain_chunks(rest.get(MASK_BYTES..).unwrap_or_default());
            }
            while specials != 0 {
                let place = specials.trailing_zeros();
                let at = base + place as usize;
                match self.document.get(at) {
                    Some(b'"') => {
                        self.at = at + 1;
                        return Ok(Text { start, end: at, escaped });
                    }
                    Some(b'\\') => {
                        escaped = true;
                        let behind = self.escape(at)?;
                        self.at = self.at.max(behind);
                        // What the escape took is no longer special. Nearly all take two bytes, and then the next round
                        // need not wait for what was read here.
                        specials &= match u32::try_from(behind - at) {
                            Ok(2) => !(3 << place),
                            length => u64::MAX.checked_shl(place + length.unwrap_or(u64::BITS)).unwrap_or(0),
                        };
                    }
                    _ => return Err(JsonError { offset: at, fault: Fault::ControlCharacter }),
                }
            }
        }
        Err(JsonError { offset: start - 1, fault: Fault::OpenString })
    }

    /// The byte behind the escape that begins at a backslash.
    #[inline]
    fn escape(&self, at: usize) -> Result<usize, JsonError> {
        match self.document.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => self.unicode_escape(at),
            _ => Err(JsonError { offset: at, fault: Fault::BadEscape }),
        }
    }

    fn unicode_escape(&self, at: usize) -> Result<usize, JsonError> {
        let rest = self.document.get(at..).unwrap_or_default();
        let bad = |fault| Err(JsonError { offset: at, fault });
        match value::code_unit(rest) {
            None => bad(Fault::BadEscape),
            Some(0xDC00..=0xDFFF) => bad(Fault::LoneSurrogate),
            Some(0xD800..=0xDBFF) => match rest.get(6..).and_then(value::code_unit) {
                Some(0xDC00..=0xDFFF) => Ok(at + 12),
                _ => bad(Fault::LoneSurrogate),
            },
            Some(_) => Ok(at + 6),
        }
    }

    fn number(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        let bad = JsonError { offset: start, fault: Fault::BadNumber };
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            b'0' => self.at += 1,
            b'1'..=b'9' => {
                self.digits();
            }
            _ => return Err(bad),
        }
        if self.peek() == b'.' {
            self.at += 1;
            if !self.digits() {
                return Err(bad);
            }
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            if !self.digits() {
                return Err(bad);
            }
        }
        // A digit can only be left over behind a leading zero.
        if self.peek().is_ascii_digit() { Err(bad) } else { Ok(()) }
    }

    fn digits(&mut self) -> bool {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        self.at > start
    }
}

#[cfg(test)]
mod tests;
