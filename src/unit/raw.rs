//! JSON that is kept as it was written.
//!
//! A value that one room writes and another only carries is written once: it goes into whatever JSON it becomes a part of byte
//! by byte, without being read, escaped or built again.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// One JSON value as text. Equal if the texts are.
#[derive(Clone)]
pub struct Raw(Box<RawValue>);

impl Raw {
    /// The JSON of a value.
    ///
    /// # Errors
    /// As `serde_json`: a map whose keys are no texts, or a value that refuses to be written.
    pub fn of(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        serde_json::value::to_raw_value(value).map(Self)
    }

    /// A text that is one JSON value.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text).map(Self)
    }

    /// The text.
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

impl fmt::Debug for Raw {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.text())
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Raw {}

impl Serialize for Raw {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(out)
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(from).map(Self)
    }
}

/// Reads a value that may stand there as itself, or as a text that holds it, as older records have it; nothing for an empty text.
pub fn value_or_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Raw>, D::Error> {
    let Some(raw) = Option::<Raw>::deserialize(from)? else { return Ok(None) };
    if !raw.text().starts_with('"') {
        return Ok(Some(raw));
    }
    let text: String = serde_json::from_str(raw.text()).map_err(Error::custom)?;
    if text.is_empty() { Ok(None) } else { Raw::parse(text).map(Some).map_err(Error::custom) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holder {
        #[serde(default, deserialize_with = "value_or_text", skip_serializing_if = "Option::is_none")]
        held: Option<Raw>,
    }

    #[test]
    fn a_value_goes_through_other_json_as_it_is() {
        let holder = Holder { held: Some(Raw::parse("{\"b\":1, \"a\":[\"\\u0041\"]}".to_owned()).unwrap()) };
        let text = serde_json::to_string(&holder).unwrap();
        assert_eq!(text, "{\"held\":{\"b\":1, \"a\":[\"\\u0041\"]}}");
        assert_eq!(serde_json::from_str::<Holder>(&text).unwrap(), holder);
    }

    #[test]
    fn what_older_records_hold_as_a_text_is_read_as_the_value_in_it() {
        let read = |text: &str| serde_json::from_str::<Holder>(text).map(|holder| holder.held).ok();
        assert_eq!(read("{\"held\":\"{\\\"a\\\":1}\"}"), Some(Some(Raw::parse("{\"a\":1}".to_owned()).unwrap())));
        assert_eq!(read("{\"held\":\"\"}"), Some(None));
        assert_eq!(read("{}"), Some(None));
        assert_eq!(read("{\"held\":\"{\"}"), None);
    }
}
