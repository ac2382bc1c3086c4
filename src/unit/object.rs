//! Reading structures from JSON objects only. The derived readers also take a list of the fields in order, which nobody means.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// A value that is written as an object.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Only<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Only<T> {
            type Value = Object<T>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Only(PhantomData))
    }
}

/// Reads one object, for `#[serde(deserialize_with = …)]`.
///
/// # Errors
/// When it is something else, or those of `T`.
pub fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// Reads a list of objects, for `#[serde(deserialize_with = …)]`.
///
/// # Errors
/// When it is something else, or those of `T`.
pub fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let list = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(list.into_iter().map(|Object(value)| value).collect())
}

/// Reads a whole number, for `#[serde(deserialize_with = …)]`. JSON knows no difference between `5` and `5.0` (RFC 8259 section
/// 6), and neither does JSON Schema.
///
/// # Errors
/// When it is something else, or outside the range of a `u32`.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct Whole;
    impl Visitor<'_> for Whole {
        type Value = u32;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a whole number from 0 to 4294967295")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<u32, E> {
            u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<u32, E> {
            u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<u32, E> {
            if number.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&number) {
                return Err(E::invalid_value(Unexpected::Float(number), &self));
            }
            // In range and without a fraction, so nothing is cut off.
            Ok(number as u32)
        }
    }
    deserializer.deserialize_any(Whole)
}

/// Like [`whole`], where null is taken too.
///
/// # Errors
/// Those of [`whole`].
pub fn whole_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    #[derive(Deserialize)]
    struct Number(#[serde(deserialize_with = "whole")] u32);
    Ok(Option::<Number>::deserialize(deserializer)?.map(|Number(number)| number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pair {
        one: u8,
        two: u8,
    }

    #[test]
    fn a_list_is_no_object() {
        assert!(serde_json::from_str::<Pair>("[1,2]").is_ok(), "which is why this module is here");
        assert!(serde_json::from_str::<Object<Pair>>("[1,2]").is_err());
        assert!(serde_json::from_str::<Object<Pair>>("{\"one\":1,\"two\":2,\"three\":3}").is_err());
        let Object(Pair { one, two }) = serde_json::from_str("{\"one\":1,\"two\":2}").unwrap();
        assert_eq!((one, two), (1, 2));
    }

    #[test]
    fn a_whole_number_may_have_a_point() {
        let read = |text: &str| whole_or_null(&mut serde_json::Deserializer::from_str(text)).ok();
        assert!(
            ["1.5", "-1", "-1.0", "4294967296", "4294967296.0", "1e300", "\"1\"", "true"]
                .iter()
                .all(|text| read(text).is_none())
        );
        assert_eq!(
            (read("5"), read("5.0"), read("1e3"), read("null")),
            (Some(Some(5)), Some(Some(5)), Some(Some(1000)), Some(None))
        );
    }
}
