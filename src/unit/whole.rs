//! Reading whole numbers as JSON Schema has them: a number with an empty fraction, such as `3.0`, is an integer, too
//! (JSON Schema Validation 2020-12, section 6.1.1). Generators and languages with one kind of number write it so.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A whole number from 0 to 4,294,967,295.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole(pub u32);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;
        impl Visitor<'_> for Number {
            type Value = Whole;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a whole number from 0 to 4294967295")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Whole, E> {
                u32::try_from(number).map(Whole).map_err(|_| E::custom(format!("{number} is too large")))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Whole, E> {
                u64::try_from(number)
                    .map_err(|_| E::custom(format!("{number} is less than 0")))
                    .and_then(|number| self.visit_u64(number))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Whole, E> {
                if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
                    return Ok(Whole(number as u32));
                }
                Err(E::custom(format!("{number} is not a whole number from 0 to 4294967295")))
            }
        }
        deserializer.deserialize_u32(Number)
    }
}

/// Reads one, for `#[serde(deserialize_with = …)]`.
///
/// # Errors
/// When it is something else.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    Whole::deserialize(deserializer).map(|Whole(number)| number)
}

/// Reads one that may be null, for `#[serde(default, deserialize_with = …)]`.
///
/// # Errors
/// When it is something else.
pub fn whole_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    Option::<Whole>::deserialize(deserializer).map(|number| number.map(|Whole(number)| number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<u32> {
        serde_json::from_str(text).ok().map(|Whole(number)| number)
    }

    #[test]
    fn what_is_no_whole_number_is_refused() {
        for text in ["1.5", "-1", "-0.5", "4294967296", "4294967296.0", "1e300", "\"1\"", "null", "true"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn an_empty_fraction_makes_no_difference() {
        for (text, number) in [("0", 0), ("0.0", 0), ("7", 7), ("7.0", 7), ("7e2", 700), ("4294967295.0", u32::MAX)] {
            assert_eq!(read(text), Some(number), "{text}");
        }
    }
}
