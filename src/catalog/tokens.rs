//! Counting tokens.

/// The number of tokens of a text for a model.
pub fn count(_model: &str, text: &str) -> u64 {
    text.len().div_ceil(4) as u64
}
