//! Errors in OpenAI's shape.

use bytes::Bytes;

use crate::error::Error;

/// The body of an error answer.
pub fn error_body(_error: &Error) -> Bytes {
    Bytes::new()
}

/// The body for the caller of an error that a provider gave.
pub fn upstream_error_body(_status: u16, _body: &[u8], _secrets: &[&str], _hosts: &[&str]) -> Bytes {
    Bytes::new()
}
