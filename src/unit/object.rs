//! Reading structures from JSON objects only. The derived readers also take a list of the fields in order, which nobody means.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
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
}
