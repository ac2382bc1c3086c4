//! Shapes that several nouns share: their schemas for the document, and the checks that hold requests to them.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use utoipa::openapi::schema::{
    AnyOfBuilder, ArrayBuilder, KnownFormat, Object, ObjectBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::admin::respond::Refusal;
use crate::admin::time::Time;
use crate::error::{Error, Kind, StoreError};
use crate::key::draft::{
    MAX_ADDRESSES, MAX_CAP_TOKENS, MAX_LABEL_NAME_CHARS, MAX_LABEL_VALUE_CHARS, MAX_LABELS, MAX_MODELS,
};
use crate::key::party_draft::MAX_DESCRIPTION_CHARS;
use crate::unit::clock::Timestamp;
use crate::unit::glob::Glob;

/// How many items a list holds when the request does not say.
const DEFAULT_LIMIT: u32 = 50;
/// The most items of a list.
pub const MAX_LIMIT: u32 = 1000;
/// The longest word to search for, in characters.
const MAX_WORD_CHARS: usize = 128;

/// Free labels by name. A name that is given twice is refused.
#[derive(Debug, Default)]
pub struct Labels(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Labels;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Labels, A::Error> {
                let mut labels = BTreeMap::new();
                while let Some((name, value)) = pairs.next_entry::<String, String>()? {
                    if labels.insert(name, value).is_some() {
                        return Err(A::Error::custom("a label is given twice"));
                    }
                }
                Ok(Labels(labels))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

impl PartialSchema for Labels {
    fn schema() -> RefOr<Schema> {
        let name = text(1, MAX_LABEL_NAME_CHARS, Some(NAME));
        let value = text(0, MAX_LABEL_VALUE_CHARS, Some(r"^[^\x00-\x1f\x7f-\x9f]*$"));
        ObjectBuilder::new()
            .property_names(Some(Schema::Object(name)))
            .additional_properties(Some(RefOr::T(Schema::Object(value))))
            .max_properties(Some(MAX_LABELS))
            .into()
    }
}

impl ToSchema for Labels {}

/// Reads a count or null. JSON Schema calls `7.0` an integer, too, and some clients write it so; beyond 2^53 they must not.
pub fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else { return Ok(None) };
    let whole = number.as_f64().filter(|float| float.fract() == 0.0 && (0.0..=EXACT).contains(float));
    // The bounds above keep it inside a u64.
    let count = number.as_u64().or(whole.map(|float| float as u64));
    count.map(Some).ok_or_else(|| D::Error::custom(format_args!("{number} is no whole number from 0 on")))
}

/// The same, for a field in which null and being left out differ.
pub fn some_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    count(deserializer).map(Some)
}

/// A text for people without control characters, which is not only white space.
const NAME: &str = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$";

/// A text without control characters; what [`is_plain`] takes.
pub const PLAIN: &str = r"^[^\x00-\x1f\x7f-\x9f]+$";

/// A name: 1 to 128 characters.
pub fn name() -> Object {
    let mut schema = text(1, MAX_WORD_CHARS, Some(NAME));
    schema.description = Some("A text for people, not only white space, without control characters.".to_owned());
    schema
}

/// A name, or null.
pub fn name_or_null() -> Object {
    let mut schema = name();
    schema.schema_type = SchemaType::from_iter([Type::String, Type::Null]);
    schema
}

/// A list of model patterns.
pub fn patterns() -> ArrayBuilder {
    ArrayBuilder::new()
        .items(RefOr::T(Schema::Object(text(1, Glob::MAX_CHARS, Some(PLAIN)))))
        .max_items(Some(MAX_MODELS))
        .description(Some(
            "Patterns of the models that it may ask for (`*` any run, `?` one character); empty allows all.",
        ))
}

/// The same, or null.
pub fn patterns_or_null() -> ArrayBuilder {
    patterns().schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
}

/// What something is for.
pub fn description() -> Object {
    let mut schema = text(0, MAX_DESCRIPTION_CHARS, Some(r"^[^\x00-\x09\x0b-\x1f\x7f-\x9f]*$"));
    schema.description = Some("What it is for; at most 1,024 characters, line ends included.".to_owned());
    schema
}

/// The same, or null.
pub fn description_or_null() -> Object {
    let mut schema = description();
    schema.schema_type = SchemaType::from_iter([Type::String, Type::Null]);
    schema
}

/// A cap on the tokens of one request, or null for none.
pub fn cap() -> Object {
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Integer, Type::Null]))
        .minimum(Some(1))
        .maximum(Some(MAX_CAP_TOKENS))
        .description(Some("Tokens; null is no cap."))
        .build()
}

/// A list of addresses and networks.
pub fn networks() -> ArrayBuilder {
    let known = |format: KnownFormat| {
        Schema::Object(
            ObjectBuilder::new().schema_type(Type::String).format(Some(SchemaFormat::KnownFormat(format))).build(),
        )
    };
    let octet = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let four = format!(r"^{octet}\.{octet}\.{octet}\.{octet}/(3[0-2]|[12]?[0-9])$");
    let six = "^([0-9a-f]{1,4}:){1,7}:/(12[0-8]|1[01][0-9]|[1-9]?[0-9])$";
    let one = AnyOfBuilder::new()
        .item(RefOr::T(known(KnownFormat::Ipv4)))
        .item(RefOr::T(known(KnownFormat::Ipv6)))
        .item(RefOr::T(Schema::Object(text(9, 18, Some(&four)))))
        .item(RefOr::T(Schema::Object(text(4, 43, Some(six)))))
        .build();
    ArrayBuilder::new()
        .items(RefOr::T(Schema::AnyOf(one)))
        .max_items(Some(MAX_ADDRESSES))
        .description(Some("Addresses or networks that it may be used from; empty allows all."))
}

/// The same, or null.
pub fn networks_or_null() -> ArrayBuilder {
    networks().schema_type(SchemaType::from_iter([Type::Array, Type::Null]))
}

fn text(min: usize, max: usize, pattern: Option<&str>) -> Object {
    ObjectBuilder::new().schema_type(Type::String).min_length(Some(min)).max_length(Some(max)).pattern(pattern).build()
}

/// Checks model patterns before anything else is: of any script, as names of models are.
///
/// # Errors
/// `InvalidRequest` that names the field.
pub fn check_patterns(field: &'static str, patterns: &[String]) -> Result<(), Refusal> {
    if patterns.iter().all(|pattern| is_plain(pattern, Glob::MAX_CHARS)) {
        return Ok(());
    }
    let text =
        format!("A pattern for models has 1 to {} characters, none of them a control character.", Glob::MAX_CHARS);
    Err(Refusal::invalid(field, text))
}

/// Whether a text is not empty, has at most so many characters and no control character among them.
pub fn is_plain(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

/// Checks that an expiry lies ahead.
///
/// # Errors
/// `Conflict`, because only the clock says what lies ahead.
pub fn check_ahead(expiry: Option<Time>, now: Timestamp) -> Result<(), Refusal> {
    match expiry {
        Some(at) if at.0 <= now => {
            Err(Error::new(Kind::Conflict, "The expiry does not lie ahead.").param("expires_at").into())
        }
        _ => Ok(()),
    }
}

/// The number of items asked for, or the default.
///
/// # Errors
/// `InvalidRequest` outside 1 to [`MAX_LIMIT`].
pub fn check_limit(limit: Option<u32>) -> Result<usize, Refusal> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if (1..=MAX_LIMIT).contains(&limit) {
        return Ok(limit as usize);
    }
    Err(Refusal::invalid("limit", format!("The limit is 1 to {MAX_LIMIT}.")))
}

/// Checks a word to search for.
///
/// # Errors
/// `InvalidRequest` when it is empty or too long.
pub fn check_word(field: &'static str, word: Option<&str>) -> Result<(), Refusal> {
    match word {
        Some(word) if word.is_empty() || word.chars().count() > MAX_WORD_CHARS => {
            Err(Refusal::invalid(field, format!("`{field}` has 1 to {MAX_WORD_CHARS} characters.")))
        }
        _ => Ok(()),
    }
}

/// A label written `name=value`.
///
/// # Errors
/// `InvalidRequest` when it is written otherwise.
pub fn label(text: &str) -> Result<(String, String), Refusal> {
    let pair = text.split_once('=').filter(|(name, value)| {
        (1..=64).contains(&name.chars().count()) && value.chars().count() <= 256 && !text.chars().any(char::is_control)
    });
    pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| Refusal::invalid("label", "A label is written name=value."))
}

/// The refusal for a store's error about one thing.
pub fn missing_or(error: StoreError, what: &str) -> Refusal {
    match error {
        StoreError::NotFound => Refusal::missing(what),
        other => Error::from(other).into(),
    }
}
