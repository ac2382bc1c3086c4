//! Taking a mapping apart, key by key, noting every fault with its position and going on.
//!
//! Each verb of `Table` reads one key and always gives a value: what is written, or the default when the key is left out or
//! at fault. `Table::end` then refuses the keys that nobody asked for. Texts of faults repeat a value only where it cannot
//! be a secret: numbers, words of a closed list, and keys.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::keys::{self, Bounds};
use crate::config::problem::{Mark, Report};
use crate::config::suggest;
use crate::config::tree::{Name, Node, Value};

/// What all tables of one text share.
pub(super) struct Decoder {
    pub(super) report: Report,
    /// The path of every key that was asked for, in the form of `keys::KEYS`.
    pub(super) asked: BTreeSet<String>,
}

/// A mapping that is being taken apart.
pub(super) struct Table<'a, 'n> {
    decoder: &'a mut Decoder,
    at: Place,
    entries: Vec<(&'n Name, &'n Node)>,
    names: Vec<&'static str>,
    missing: Vec<&'static str>,
    broken: bool,
}

/// Where a value is.
#[derive(Clone, Debug)]
struct Place {
    mark: Mark,
    /// The path as in the text: `providers.x.enabled`.
    path: String,
    /// The path as in `keys::KEYS`: `providers.*.enabled`.
    pattern: String,
}

impl Place {
    fn key(&self, name: &str, mark: Mark) -> Self {
        Self { mark, path: join(&self.path, name), pattern: join(&self.pattern, name) }
    }

    fn item(&self, index: usize, mark: Mark) -> Self {
        Self { mark, path: format!("{}[{index}]", self.path), pattern: format!("{}[]", self.pattern) }
    }
}

/// A path with one more name: joined by a dot, or quoted in brackets if the name holds other than letters, digits, `_`, `-`.
pub(super) fn join(path: &str, name: &str) -> String {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-*".contains(&byte)) {
        return format!("{path}[{:?}]", suggest::shorten(name));
    }
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl Decoder {
    pub(super) fn new(report: Report) -> Self {
        Self { report, asked: BTreeSet::new() }
    }

    /// Takes the whole text apart; `None` is a text without content.
    pub(super) fn root<T>(&mut self, node: Option<&Node>, decode: impl FnOnce(&mut Table<'_, '_>) -> T) -> T {
        let at = Place { mark: Mark::default(), path: String::new(), pattern: String::new() };
        self.table(node, at, decode)
    }

    fn table<T>(&mut self, node: Option<&Node>, at: Place, decode: impl FnOnce(&mut Table<'_, '_>) -> T) -> T {
        let mut table =
            Table { decoder: self, at, entries: Vec::new(), names: Vec::new(), missing: Vec::new(), broken: false };
        if let Some(node) = node {
            table.open(node);
        }
        let value = decode(&mut table);
        table.end();
        value
    }
}

impl<'n> Table<'_, 'n> {
    fn open(&mut self, node: &'n Node) {
        match &node.value {
            Value::Map { entries, broken } => {
                self.broken = *broken;
                for (name, value) in entries {
                    self.enter(name, value);
                }
            }
            _ if node.is_null() => {}
            _ => {
                // Nothing can be missing from what is not a mapping at all.
                self.broken = true;
                self.fault_at(node.mark, format!("expected a mapping (key: value), found {}", node.kind()));
            }
        }
    }

    fn enter(&mut self, name: &'n Name, value: &'n Node) {
        let path = join(&self.at.path, &name.text);
        if let Some((first, _)) = self.entries.iter().find(|(known, _)| known.text == name.text) {
            let text = format!("this key is already given in line {}; keep one of them", first.mark.line);
            self.decoder.report.error_at(name.mark, &path, text);
            return;
        }
        let scalar = matches!(value.value, Value::Scalar { .. }) && !value.is_null();
        self.decoder.report.place(&path, if scalar { value.mark } else { name.mark });
        self.entries.push((name, value));
    }

    fn end(mut self) {
        let names = std::mem::take(&mut self.names);
        for (name, _) in self.entries.iter().filter(|(name, _)| !names.contains(&name.text.as_str())) {
            let path = join(&self.at.path, &name.text);
            // The misspelt key and the missing one are one mistake.
            let meant = suggest::meant(&name.text, &names);
            self.missing.retain(|missing| Some(*missing) != meant);
            self.decoder.report.error_at(name.mark, &path, suggest::unknown_key(&name.text, &names));
        }
        for name in std::mem::take(&mut self.missing) {
            self.fault_at(self.at.mark, format!("`{name}` is missing"));
        }
    }

    /// The node of a key, and its place; the key counts as known from now on.
    fn take(&mut self, name: &'static str) -> (Option<&'n Node>, Place) {
        self.names.push(name);
        let found = self.entries.iter().find(|(known, _)| known.text == name).map(|(name, node)| (name.mark, *node));
        let place = self.at.key(name, found.map_or(self.at.mark, |(mark, _)| mark));
        self.decoder.asked.insert(place.pattern.clone());
        (found.map(|(_, node)| node), place)
    }

    /// Notes a fault at one of this table's keys, or at the table if the key is left out, unless there is one already.
    pub(super) fn fault(&mut self, name: &str, text: impl Into<String>) {
        let found = self.entries.iter().find(|(known, _)| known.text == name).map(|(name, node)| (name.mark, *node));
        let (mark, path) = match found {
            Some((mark, node)) => (if node.is_null() { mark } else { node.mark }, join(&self.at.path, name)),
            None => (self.at.mark, self.at.path.clone()),
        };
        if !self.broken && !self.decoder.report.has_error(&path) {
            self.decoder.report.error_at(mark, &path, text);
        }
    }

    fn wrong(&mut self, node: &Node, place: &Place, text: impl Into<String>) {
        let mark = if node.is_null() { place.mark } else { node.mark };
        self.decoder.report.error_at(mark, &place.path, text);
    }

    fn fault_at(&mut self, mark: Mark, text: String) {
        self.decoder.report.error_at(mark, &self.at.path, text);
    }

    /// A whole number within the bounds of `keys`.
    pub(super) fn number<T: TryFrom<u64>>(&mut self, name: &'static str, default: T) -> T {
        self.bare_number(name).unwrap_or(default)
    }

    /// Like `number`, for a key that must be given.
    pub(super) fn required_number<T: TryFrom<u64>>(&mut self, name: &'static str) -> Option<T> {
        self.require(name);
        self.bare_number(name)
    }

    /// Like `number`, for a key without a default.
    pub(super) fn optional_number<T: TryFrom<u64>>(&mut self, name: &'static str) -> Option<T> {
        self.bare_number(name)
    }

    fn bare_number<T: TryFrom<u64>>(&mut self, name: &'static str) -> Option<T> {
        let (node, place) = self.take(name);
        let node = node?;
        let (least, most) = match keys::key(&place.pattern).map(|key| key.bounds) {
            Some(Bounds::Number(least, most)) => (least, most),
            _ => (0, u64::MAX),
        };
        let wanted = format!("write a whole number{} from {least} to {most}", unit(name));
        let fault = match &node.value {
            Value::Scalar { text, quoted: false } if !node.is_null() => {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                let number = text.parse::<u64>().ok().filter(|number| digits && (least..=most).contains(number));
                if let Some(number) = number.and_then(|number| T::try_from(number).ok()) {
                    return Some(number);
                }
                let what = if digits { "is out of range" } else { "is not a whole number" };
                format!("{} {what}; {wanted}", suggest::shorten(text))
            }
            Value::Scalar { quoted: true, .. } => {
                format!("expected a number, found a quoted text; {wanted}, without quotes")
            }
            _ => format!("expected a number, found {}; {wanted}", node.kind()),
        };
        self.wrong(node, &place, fault);
        None
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let (node, place) = self.take(name);
        node.and_then(|node| self.truth(node, &place)).unwrap_or(default)
    }

    /// `true`, `false`, or left out or null.
    pub(super) fn optional_flag(&mut self, name: &'static str) -> Option<bool> {
        let (node, place) = self.take(name);
        node.filter(|node| !node.is_null()).and_then(|node| self.truth(node, &place))
    }

    fn truth(&mut self, node: &Node, place: &Place) -> Option<bool> {
        match &node.value {
            Value::Scalar { text, quoted: false } if matches!(text.as_str(), "true" | "True" | "TRUE") => Some(true),
            Value::Scalar { text, quoted: false } if matches!(text.as_str(), "false" | "False" | "FALSE") => {
                Some(false)
            }
            _ => {
                self.wrong(node, place, format!("expected true or false, found {}", node.kind()));
                None
            }
        }
    }

    /// A text in which `parse` sees its meaning; `None` when left out, null or at fault.
    pub(super) fn text<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (node, place) = self.take(name);
        let node = node.filter(|node| !node.is_null())?;
        self.scalar(node, &place, parse)
    }

    /// Like `text`, for a key that has a default and may therefore not be null.
    pub(super) fn text_or<T>(
        &mut self,
        name: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        let (node, place) = self.take(name);
        match node {
            Some(node) => self.scalar(node, &place, parse).unwrap_or(default),
            None => default,
        }
    }

    /// Like `text`, for a key that must be given.
    pub(super) fn required<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.require(name);
        self.text(name, parse)
    }

    /// Notes that a key must be given.
    pub(super) fn require(&mut self, name: &'static str) {
        let given = self.entries.iter().any(|(known, node)| known.text == name && !node.is_null());
        if !given && !self.broken {
            self.missing.push(name);
        }
    }

    /// Whether a key is written at all.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(known, _)| known.text == name)
    }

    /// A list of texts, bounded by `keys`; items at fault are left out.
    pub(super) fn texts<T>(&mut self, name: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let (node, place) = self.take(name);
        let mut texts = Vec::new();
        for (node, place) in self.items(node, &place) {
            match self.scalar(node, &place, &parse) {
                Some(text) => texts.push(text),
                None => self.decoder.report.left_out(&place.path),
            }
        }
        texts
    }

    /// A list of mappings, bounded by `keys`; items that `decode` gives up are left out, and those beyond the bound are not
    /// looked at, because what compares each with each would take the longer for it.
    pub(super) fn tables<T>(
        &mut self,
        name: &'static str,
        mut decode: impl FnMut(&mut Table<'_, '_>) -> Option<T>,
    ) -> Vec<T> {
        let (node, place) = self.take(name);
        let mut tables = Vec::new();
        let most = most_items(&place).unwrap_or(usize::MAX);
        for (node, at) in self.items(node, &place).into_iter().take(most) {
            let path = at.path.clone();
            if node.is_null() {
                self.decoder.report.error_at(at.mark, &path, "expected a mapping (key: value), found nothing");
            }
            match self.decoder.table(Some(node), at, &mut decode) {
                Some(table) => tables.push(table),
                None => self.decoder.report.left_out(&path),
            }
        }
        tables
    }

    /// A part that holds other keys; left out or empty it is read as one without keys.
    pub(super) fn section<T>(&mut self, name: &'static str, decode: impl FnOnce(&mut Table<'_, '_>) -> T) -> T {
        let (node, place) = self.take(name);
        self.decoder.table(node, place, decode)
    }

    /// A part that may be left out altogether.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        decode: impl FnOnce(&mut Table<'_, '_>) -> T,
    ) -> Option<T> {
        let (node, place) = self.take(name);
        let node = node.filter(|node| !node.is_null())?;
        Some(self.decoder.table(Some(node), place, decode))
    }

    /// Mappings under names that the user chooses, bounded by `keys`.
    pub(super) fn named<T>(
        &mut self,
        name: &'static str,
        mut decode: impl FnMut(&mut Table<'_, '_>) -> T,
    ) -> BTreeMap<String, T> {
        let mut named = BTreeMap::new();
        for (name, node, place) in self.children(name) {
            named.insert(name.to_owned(), self.decoder.table(Some(node), place, &mut decode));
        }
        named
    }

    /// Texts under names that the user chooses, bounded by `keys`; those at fault are left out.
    pub(super) fn named_texts<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> BTreeMap<String, T> {
        let mut named = BTreeMap::new();
        for (name, node, place) in self.children(name) {
            if let Some(value) = self.scalar(node, &place, &parse) {
                named.insert(name.to_owned(), value);
            }
        }
        named
    }

    /// The entries of a mapping whose names the user chooses.
    fn children(&mut self, name: &'static str) -> Vec<(&'n str, &'n Node, Place)> {
        let (node, place) = self.take(name);
        let Some(node) = node else { return Vec::new() };
        let mut inner = Table {
            decoder: &mut *self.decoder,
            at: place,
            entries: Vec::new(),
            names: Vec::new(),
            missing: Vec::new(),
            broken: false,
        };
        inner.open(node);
        let (at, entries) = (inner.at, inner.entries);
        self.bound(node, &at, entries.len());
        let place =
            |name: &Name| Place { mark: name.mark, path: join(&at.path, &name.text), pattern: join(&at.pattern, "*") };
        entries.into_iter().map(|(name, node)| (name.text.as_str(), node, place(name))).collect()
    }

    fn items(&mut self, node: Option<&'n Node>, place: &Place) -> Vec<(&'n Node, Place)> {
        let Some(node) = node.filter(|node| !node.is_null()) else { return Vec::new() };
        let Value::List(items) = &node.value else {
            self.wrong(node, place, format!("expected a list, found {}; write [item] or - item", node.kind()));
            return Vec::new();
        };
        self.bound(node, place, items.len());
        let items: Vec<(&Node, Place)> =
            items.iter().enumerate().map(|(index, node)| (node, place.item(index, node.mark))).collect();
        for (node, place) in &items {
            self.decoder.report.place(&place.path, node.mark);
        }
        items
    }

    fn bound(&mut self, node: &Node, place: &Place, count: usize) {
        if let Some(most) = most_items(place)
            && count > most
        {
            self.wrong(node, place, format!("there are {count} items; the most is {most}"));
        }
    }

    fn scalar<T>(&mut self, node: &Node, place: &Place, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let parsed = match &node.value {
            Value::Scalar { text, .. } if !node.is_null() => parse(text),
            Value::Map { .. } => Err("expected a text, found a mapping; a colon that belongs to a text has no space \
                                      after it, or the text stands in quotes"
                .to_owned()),
            _ => Err(format!("expected a text, found {}", node.kind())),
        };
        match parsed {
            Ok(value) => Some(value),
            Err(text) => {
                self.wrong(node, place, text);
                None
            }
        }
    }
}

/// The most items that a list or mapping may have.
fn most_items(place: &Place) -> Option<usize> {
    match keys::key(&place.pattern).map(|key| key.bounds) {
        Some(Bounds::Items(most)) => Some(most),
        _ => None,
    }
}

/// The unit that a key's name ends with, for a sentence.
fn unit(name: &str) -> &'static str {
    match name.rsplit('_').next() {
        Some("ms") => " of milliseconds",
        Some("bytes") => " of bytes",
        Some("days") => " of days",
        _ => "",
    }
}
