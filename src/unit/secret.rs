//! Secrets and references to them.
//!
//! A configuration names a secret by reference (`plain:…`, `env:NAME`, `file:PATH`); `config` resolves references at load,
//! because only it may read the environment. A resolved secret prints as `[secret]` and is wiped from memory when dropped.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};

/// A resolved secret. `Debug` shows nothing of it; it cannot be serialised.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a text that must not be shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself. Call it only where the secret leaves for its purpose: a header, a hash, a connection string.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("[secret]")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

/// Where a secret is to be found. `Debug` and `Display` never show a `plain:` value.
#[derive(Clone, PartialEq)]
pub enum SecretRef {
    /// The value itself, written in the file as `plain:VALUE`.
    Plain(Secret),
    /// The name of an environment variable, written `env:NAME`.
    Env(String),
    /// The path of a file whose content is the value, written `file:PATH`; one trailing line end is not part of it.
    File(String),
}

impl SecretRef {
    /// Parses `plain:VALUE`, `env:NAME` or `file:PATH`.
    ///
    /// # Errors
    /// A sentence that says what to write. A bare value is refused, so that no key is pasted by mistake; the sentence
    /// does not repeat the value.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("plain", value)) if !value.is_empty() => Ok(Self::Plain(Secret::new(value))),
            Some(("env", name)) if is_variable_name(name) => Ok(Self::Env(name.to_owned())),
            Some(("file", path)) if !path.is_empty() => Ok(Self::File(path.to_owned())),
            Some(("env", name)) if !name.is_empty() => {
                Err("the name of a variable has the characters A-Z a-z 0-9 _ only".to_owned())
            }
            Some(("plain" | "env" | "file", _)) => {
                Err("the reference names nothing; write plain:VALUE, env:NAME or file:PATH".to_owned())
            }
            _ => Err("a secret is written as plain:VALUE, env:NAME or file:PATH, never bare".to_owned()),
        }
    }
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl fmt::Display for SecretRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(_) => out.write_str("plain:[secret]"),
            Self::Env(name) => write!(out, "env:{name}"),
            Self::File(path) => write!(out, "file:{path}"),
        }
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_value_is_refused_and_not_repeated() {
        let sentence = SecretRef::parse("sk-very-secret").unwrap_err();
        assert!(!sentence.contains("very-secret"), "{sentence}");
    }

    #[test]
    fn a_name_that_no_variable_has_is_told_from_none() {
        let sentence = SecretRef::parse("env:MY-VAR").unwrap_err();
        assert!(sentence.contains("name of a variable"), "{sentence}");
        assert!(SecretRef::parse("env:").unwrap_err().contains("names nothing"));
    }

    #[test]
    fn a_plain_value_never_prints() {
        let reference = SecretRef::parse("plain:hunter2").unwrap();
        assert!(!format!("{reference} {reference:?}").contains("hunter2"));
    }
}
