//! YAML (1.2) as a tree in which every key and value knows its position.
//!
//! Scalars stay text: what they mean is decided by the key that they belong to, so `no`, `1.10` and `2026-01-01` are what
//! was written. Nesting is bounded, and so is the size of the tree with its aliases expanded, whatever the text is. Tags,
//! merge keys, several documents and keys that are not text are refused. A broken text gives the part before the break.

use std::collections::HashMap;

use serde_saphyr::granit_parser::{ErrorKind, Event, Marker, Options, Parser, ScalarStyle, ScanError};

use crate::config::problem::{Mark, Report};

/// The deepest nesting; the configuration needs five levels.
const MAX_DEPTH: usize = 32;
/// The most that a tree may weigh, aliases expanded: its texts, and [`NODE_WEIGHT`] for each node.
const MAX_WEIGHT: usize = 16 * 1024 * 1024;
const NODE_WEIGHT: usize = 64;

/// A value.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) value: Value,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// A text; `quoted` says that it can only be a text, not a number or null.
    Scalar { text: String, quoted: bool },
    /// `- item` or `[item]`.
    List(Vec<Node>),
    /// `key: value` or `{key: value}`; `broken` says that the text ends or breaks before the mapping does.
    Map { entries: Vec<(Name, Node)>, broken: bool },
}

/// A key.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) mark: Mark,
    pub(super) text: String,
}

impl Node {
    /// Whether it is written as nothing: empty, `~` or `null`.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, quoted: false }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for a sentence.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map { .. } => "a mapping",
        }
    }
}

/// Reads a text. `None` for a text without content; faults go to the report, and what was read before them is returned.
pub(super) fn read(text: &str, report: &mut Report) -> Option<Node> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut builder = Builder { open: Vec::new(), root: None, anchors: HashMap::new(), weight: 0 };
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(text, options) {
        let step = match event {
            Err(error) => Err(Fault { mark: mark(error.marker()), text: explain(&error) }),
            Ok((Event::DocumentStart(..), span)) => {
                documents += 1;
                let second =
                    Fault { mark: mark(&span.start), text: "a second document; one file holds one".to_owned() };
                if documents > 1 { Err(second) } else { Ok(()) }
            }
            Ok((event, span)) => builder.take(event, mark(&span.start), report),
        };
        if let Err(fault) = step {
            report.broken_at(fault.mark, fault.text);
            builder.close_all();
            break;
        }
    }
    builder.root
}

fn explain(error: &ScanError) -> String {
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => format!("nested more than {MAX_DEPTH} levels deep"),
        ErrorKind::UnknownAnchor => "this alias names no anchor before it".to_owned(),
        ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation | ErrorKind::TabNotAllowed => {
            "a tab stands where only blanks may; indent with blanks".to_owned()
        }
        _ => format!("this is not YAML: {}", error.info()),
    }
}

/// A fault that ends the reading.
struct Fault {
    mark: Mark,
    text: String,
}

struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    weight: usize,
}

/// A list or mapping whose end has not come yet.
struct Open {
    mark: Mark,
    anchor: usize,
    body: Body,
}

enum Body {
    List(Vec<Node>),
    Map { entries: Vec<(Name, Node)>, key: Key },
}

/// What is known of the next entry of a mapping.
enum Key {
    Awaited,
    Read(Name),
    /// It was not a text; its value is skipped.
    Refused,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, mark: Mark, report: &mut Report) -> Result<(), Fault> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), mark, report);
                self.spend(NODE_WEIGHT.saturating_add(text.len()), mark)?;
                let quoted = style != ScalarStyle::Plain;
                self.add(Node { mark, value: Value::Scalar { text: text.into_owned(), quoted } }, anchor, report)
            }
            Event::SequenceStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), mark, report);
                self.enter(Open { mark, anchor, body: Body::List(Vec::new()) })
            }
            Event::MappingStart(_, anchor, tag) => {
                refuse_tag(tag.is_some(), mark, report);
                self.enter(Open { mark, anchor, body: Body::Map { entries: Vec::new(), key: Key::Awaited } })
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => self.close(open, false, report),
                None => Ok(()),
            },
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    return Err(Fault { mark, text: "this alias stands inside what it names".to_owned() });
                };
                let node = Node { mark, value: node.value.clone() };
                self.spend(weigh(&node), mark)?;
                self.add(node, 0, report)
            }
            _ => Ok(()),
        }
    }

    fn enter(&mut self, open: Open) -> Result<(), Fault> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Fault { mark: open.mark, text: format!("nested more than {MAX_DEPTH} levels deep") });
        }
        self.spend(NODE_WEIGHT, open.mark)?;
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self, open: Open, broken: bool, report: &mut Report) -> Result<(), Fault> {
        let value = match open.body {
            Body::List(items) => Value::List(items),
            Body::Map { entries, .. } => Value::Map { entries, broken },
        };
        self.add(Node { mark: open.mark, value }, open.anchor, report)
    }

    /// Puts a finished node where it belongs.
    fn add(&mut self, node: Node, anchor: usize, report: &mut Report) -> Result<(), Fault> {
        if anchor > 0 {
            self.spend(weigh(&node), node.mark)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.body) {
            None => self.root = Some(node),
            Some(Body::List(items)) => items.push(node),
            Some(Body::Map { entries, key }) => match (std::mem::replace(key, Key::Awaited), node.value) {
                (Key::Read(name), value) => entries.push((name, Node { mark: node.mark, value })),
                (Key::Refused, _) => {}
                (Key::Awaited, Value::Scalar { text, .. }) => *key = Key::Read(Name { mark: node.mark, text }),
                (Key::Awaited, _) => {
                    *key = Key::Refused;
                    report.error_at(
                        node.mark,
                        "",
                        "a key must be a plain text; quote it if it holds brackets or braces",
                    );
                }
            },
        }
        Ok(())
    }

    /// Ends what is still open, from the inside, after a break.
    fn close_all(&mut self) {
        let mut inner: Option<Node> = None;
        while let Some(open) = self.open.pop() {
            let value = match open.body {
                Body::List(mut items) => {
                    items.extend(inner);
                    Value::List(items)
                }
                Body::Map { mut entries, key } => {
                    if let (Key::Read(name), Some(node)) = (key, inner) {
                        entries.push((name, node));
                    }
                    Value::Map { entries, broken: true }
                }
            };
            inner = Some(Node { mark: open.mark, value });
        }
        self.root = self.root.take().or(inner);
    }

    fn spend(&mut self, weight: usize, mark: Mark) -> Result<(), Fault> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight > MAX_WEIGHT {
            return Err(Fault { mark, text: "the file is too large with its aliases expanded".to_owned() });
        }
        Ok(())
    }
}

fn refuse_tag(tagged: bool, mark: Mark, report: &mut Report) {
    if tagged {
        report.error_at(
            mark,
            "",
            "tags such as !!str are not understood; write the bare value, in quotes if it is a text",
        );
    }
}

fn weigh(node: &Node) -> usize {
    let inside = match &node.value {
        Value::Scalar { text, .. } => text.len(),
        Value::List(items) => items.iter().map(weigh).fold(0, usize::saturating_add),
        Value::Map { entries, .. } => entries
            .iter()
            .map(|(name, node)| name.text.len().saturating_add(NODE_WEIGHT).saturating_add(weigh(node)))
            .fold(0, usize::saturating_add),
    };
    inside.saturating_add(NODE_WEIGHT)
}

/// The parser counts lines from 1 and columns from 0.
fn mark(marker: &Marker) -> Mark {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Mark { line: number(marker.line()), column: number(marker.col()).saturating_add(1) }
}
