//! A strict scanner of JSON (RFC 8259): one pass over the whole document, no recursion, no tree.
//!
//! Refused, beyond what the grammar refuses: nesting deeper than 128, an object that names a key twice (compared decoded,
//! so `"mod\u0065l"` equals `"model"`), half of a surrogate pair, a byte order mark. What passes reads the same at every
//! strict parser, so what Marg judged is what the provider sees. Time is linear, except for the keys of one large object,
//! which are sorted; memory beyond the document is 12 bytes for each key of the objects that are open
//! (`deep_nesting_is_refused_at_once`, `a_million_keys_are_handled`). A visitor sees every value as it passes; nothing is
//! kept. Reading values again is `value`'s work.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use crate::dialect::value;
use crate::error::{Error, Kind};

/// How many containers may be open at once.
pub const DEPTH_LIMIT: usize = 128;
/// The largest document, in bytes.
const LENGTH_LIMIT: usize = i32::MAX as usize;
/// Up to this many keys are compared one by one; objects with more are sorted when they close.
const FEW_KEYS: usize = 24;

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

/// Why a document is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// The byte at which it stops being acceptable.
    pub offset: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Something else was expected.
    Expected(&'static str),
    /// A byte is not UTF-8.
    NotUtf8,
    /// A control character stands unescaped in a string.
    ControlCharacter,
    /// A backslash begins no escape.
    BadEscape,
    /// Half of a surrogate pair.
    LoneSurrogate,
    /// A string does not end.
    OpenString,
    /// A number breaks the grammar.
    BadNumber,
    /// More containers are open than allowed.
    TooDeep,
    /// A key stands twice in one object; its first 64 characters.
    TwiceKey(String),
    /// Something follows the document.
    Trailing,
    /// The document is larger than the scanner takes.
    TooLong,
}

impl fmt::Display for JsonError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset;
        match &self.fault {
            Fault::Expected(what) => write!(out, "expected {what} at byte {at}"),
            Fault::NotUtf8 => write!(out, "the text is not UTF-8 at byte {at}"),
            Fault::ControlCharacter => write!(out, "a string holds a control character at byte {at}"),
            Fault::BadEscape => write!(out, "a string holds an invalid escape at byte {at}"),
            Fault::LoneSurrogate => write!(out, "a string holds half of a surrogate pair at byte {at}"),
            Fault::OpenString => write!(out, "the string that begins at byte {at} does not end"),
            Fault::BadNumber => write!(out, "invalid number at byte {at}"),
            Fault::TooDeep => write!(out, "nested deeper than {DEPTH_LIMIT} levels (byte {at})"),
            Fault::TwiceKey(key) => write!(out, "the key \"{key}\" appears twice (byte {at})"),
            Fault::Trailing => write!(out, "something follows the document at byte {at}"),
            Fault::TooLong => write!(out, "the document is larger than 2 GiB"),
        }
    }
}

impl std::error::Error for JsonError {}

impl From<JsonError> for Error {
    fn from(fault: JsonError) -> Self {
        Error::new(Kind::InvalidRequest, format!("the body is not valid JSON: {fault}"))
    }
}

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
        let opening = self.at;
        let start = opening + 1;
        let mut escaped = false;
        self.at = start;
        loop {
            self.at += until_special(self.document.get(self.at..).unwrap_or_default());
            match self.document.get(self.at) {
                Some(b'"') => {
                    let text = Text { start, end: self.at, escaped };
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return self.fail(Fault::ControlCharacter),
                None => return Err(JsonError { offset: opening, fault: Fault::OpenString }),
            }
        }
    }

    #[inline]
    fn escape(&mut self) -> Result<(), JsonError> {
        match self.document.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                Ok(())
            }
            Some(b'u') => self.unicode_escape(),
            _ => self.fail(Fault::BadEscape),
        }
    }

    fn unicode_escape(&mut self) -> Result<(), JsonError> {
        let rest = self.document.get(self.at..).unwrap_or_default();
        match value::code_unit(rest) {
            None => self.fail(Fault::BadEscape),
            Some(0xDC00..=0xDFFF) => self.fail(Fault::LoneSurrogate),
            Some(0xD800..=0xDBFF) => match rest.get(6..).and_then(value::code_unit) {
                Some(0xDC00..=0xDFFF) => {
                    self.at += 12;
                    Ok(())
                }
                _ => self.fail(Fault::LoneSurrogate),
            },
            Some(_) => {
                self.at += 6;
                Ok(())
            }
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

/// The distance to the next byte that ends a run of plain string content: a quote, a backslash or a control character;
/// the length if there is none.
#[inline]
fn until_special(bytes: &[u8]) -> usize {
    let (chunks, tail) = bytes.as_chunks::<32>();
    for (index, chunk) in chunks.iter().enumerate() {
        // Without branches inside, the compiler tests the whole chunk with a few vector instructions.
        let hit = chunk.iter().fold(0, |hit, byte| hit | u8::from(is_special(*byte)));
        if hit != 0 {
            return index * 32 + first_special(chunk);
        }
    }
    let behind = tail.iter().position(|byte| is_special(*byte)).unwrap_or(tail.len());
    chunks.len() * 32 + behind
}

#[inline]
fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}

/// The position of the first special byte of a chunk that has one, eight bytes at a time.
#[inline]
fn first_special(chunk: &[u8; 32]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES * 0x80;
    let (words, _) = chunk.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * 0x22);
        let backslash = word ^ (ONES * 0x5C);
        // Each term sets the high bit of every byte that matches; false hits arise only above a true one, so the lowest
        // bit is exact.
        let hits = ((quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word))
            & HIGHS;
        if hits != 0 {
            return index * 8 + hits.trailing_zeros() as usize / 8;
        }
    }
    0
}

/// The keys of the objects that are open, outermost first.
#[derive(Default)]
struct Keys {
    kept: Vec<Key>,
    /// The decoded bytes of keys with escapes.
    decoded: Vec<u8>,
}

/// A key: where its decoded bytes are (`length` has the high bit set if among `Keys::decoded`) and where it stands.
#[derive(Clone, Copy)]
struct Key {
    start: u32,
    length: u32,
    at: u32,
}

const DECODED: u32 = 1 << 31;

/// A position in a document, which `LENGTH_LIMIT` keeps below 2 GiB.
fn short(position: usize) -> u32 {
    u32::try_from(position).unwrap_or(u32::MAX)
}

impl Keys {
    fn len(&self) -> u32 {
        short(self.kept.len())
    }

    fn bytes<'a>(&'a self, key: Key, document: &'a [u8]) -> &'a [u8] {
        let from = if key.length & DECODED != 0 { self.decoded.as_slice() } else { document };
        let start = key.start as usize;
        from.get(start..start + (key.length & !DECODED) as usize).unwrap_or_default()
    }

    /// Keeps a key of the innermost object; if that object has few keys, compares it with them.
    #[inline]
    fn add(&mut self, first: u32, text: Text, document: &[u8]) -> Result<(), JsonError> {
        let at = short(text.start);
        let mut key = Key { start: at, length: short(text.end - text.start), at };
        if text.escaped {
            key.start = short(self.decoded.len());
            self.decoded.extend_from_slice(text.decode(document).as_bytes());
            key.length = (short(self.decoded.len()) - key.start) | DECODED;
        }
        let siblings = self.kept.get(first as usize..).unwrap_or_default();
        if siblings.len() < FEW_KEYS {
            let bytes = self.bytes(key, document);
            if siblings.iter().any(|other| self.bytes(*other, document) == bytes) {
                return Err(twice(bytes, key));
            }
        }
        self.kept.push(key);
        Ok(())
    }

    /// Forgets the keys of the innermost object, after comparing them all if they are many.
    #[inline]
    fn close(&mut self, first: u32, document: &[u8]) -> Result<(), JsonError> {
        let siblings = self.kept.get(first as usize..).unwrap_or_default();
        if siblings.len() > FEW_KEYS {
            self.compare_all(siblings, document)?;
        }
        if let Some(key) = siblings.iter().find(|key| key.length & DECODED != 0) {
            self.decoded.truncate(key.start as usize);
        }
        self.kept.truncate(first as usize);
        Ok(())
    }

    /// Sorts by hash, then by bytes: however the hashes collide, time stays `n log n`, so the hash needs no secret.
    #[cold]
    fn compare_all(&self, siblings: &[Key], document: &[u8]) -> Result<(), JsonError> {
        let mut order: Vec<(u64, Key)> = siblings.iter().map(|key| (hash(self.bytes(*key, document)), *key)).collect();
        order.sort_unstable_by(|(left_hash, left), (right_hash, right)| {
            left_hash
                .cmp(right_hash)
                .then_with(|| self.bytes(*left, document).cmp(self.bytes(*right, document)))
                .then_with(|| left.at.cmp(&right.at))
        });
        let again = order.windows(2).filter_map(|pair| match pair {
            [(a, left), (b, right)] if a == b && self.bytes(*left, document) == self.bytes(*right, document) => {
                Some(*right)
            }
            _ => None,
        });
        match again.min_by_key(|key| key.at) {
            Some(key) => Err(twice(self.bytes(key, document), key)),
            None => Ok(()),
        }
    }
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cold]
fn twice(bytes: &[u8], key: Key) -> JsonError {
    let name = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).take(64).collect();
    // The span begins behind the quote; the sentence points at the quote.
    JsonError { offset: (key.at as usize).saturating_sub(1), fault: Fault::TwiceKey(name) }
}

#[cfg(test)]
mod tests;
