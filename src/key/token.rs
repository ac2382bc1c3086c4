//! Tokens.

/// The keyed hash of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);
