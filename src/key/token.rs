//! Tokens: how they are made, how a typo is told from a stranger, and the only form in which they are kept.
//!
//! A token is a prefix, a body of 43 characters drawn uniformly from `0-9 A-Z a-z` (256.03 bits of entropy) and a checksum of
//! six. Letters and digits survive headers, shells and a double click. The checksum is a CRC-32 of prefix and body, so every
//! single mistyped character is refused for certain, without a look-up (`every_single_substitution_is_refused`); it is no
//! secret and protects against typos only. What is kept is the BLAKE3 hash under a key that lives outside the database, so a
//! copy of the database neither yields tokens nor lets anybody test guesses.

use std::fmt;

use data_encoding::HEXLOWER_PERMISSIVE;
use secrecy::zeroize::Zeroize;
use secrecy::{ExposeSecret, SecretBox};

use crate::error::{Error, Kind, Result};
use crate::unit::secret::Secret;

/// The keyed hash of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

/// The key that tokens are hashed with: 32 bytes, wiped from memory when dropped, invisible to `Debug`.
pub struct HashKey(SecretBox<[u8; 32]>);

impl HashKey {
    /// Takes the key from 64 hexadecimal digits; white space around them is not part of it.
    ///
    /// # Errors
    /// `invalid_request` when it is anything else; the text does not repeat the value.
    pub fn from_hex(text: &Secret) -> Result<Self> {
        let mut bytes = HEXLOWER_PERMISSIVE.decode(text.expose().trim().as_bytes()).map_err(|_| not_a_hash_key())?;
        let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| not_a_hash_key());
        bytes.zeroize();
        Ok(Self(SecretBox::new(Box::new(key?))))
    }

    /// Draws a new key from the operating system.
    ///
    /// # Errors
    /// `internal_error` when the operating system has no random numbers.
    pub fn generate() -> Result<Self> {
        let mut key = Box::new([0_u8; 32]);
        getrandom::fill(key.as_mut_slice()).map_err(no_randomness)?;
        Ok(Self(SecretBox::new(key)))
    }

    /// The key as 64 lower-case hexadecimal digits, for the file that keeps it.
    pub fn to_hex(&self) -> Secret {
        Secret::new(data_encoding::HEXLOWER.encode(self.0.expose_secret()))
    }

    /// Hashes a token; the token may be anything. Costs one BLAKE3 compression for tokens up to 64 bytes.
    pub fn hash(&self, token: &str) -> TokenHash {
        TokenHash(*blake3::keyed_hash(self.0.expose_secret(), token.as_bytes()).as_bytes())
    }
}

impl Clone for HashKey {
    fn clone(&self) -> Self {
        Self(SecretBox::new(Box::new(*self.0.expose_secret())))
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("[hash key]")
    }
}

fn not_a_hash_key() -> Error {
    Error::new(Kind::InvalidRequest, "The key for token hashes has 64 hexadecimal digits.")
}

fn no_randomness(cause: getrandom::Error) -> Error {
    Error::new(Kind::Internal, "The operating system gives no random numbers.").because(cause.to_string())
}

/// How a token begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenStyle {
    /// `marg_live_…`, for applications.
    Marg,
    /// `sk-…`, for applications that insist on OpenAI's form.
    OpenAi,
    /// `sk-ant-…`, for applications that insist on Anthropic's form.
    Anthropic,
    /// `marg_admin_…`, for people and programs on the admin side.
    Admin,
}

impl TokenStyle {
    /// All styles, a longer prefix before any that it begins with.
    const ALL: [Self; 4] = [Self::Marg, Self::Admin, Self::Anthropic, Self::OpenAi];

    /// The beginning of such tokens.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Marg => "marg_live_",
            Self::OpenAi => "sk-",
            Self::Anthropic => "sk-ant-",
            Self::Admin => "marg_admin_",
        }
    }
}

/// A new token, shown once.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The token. It is nowhere else.
    pub token: Secret,
    /// Its beginning and its end, as in `marg_live_ab3d…x9k2`, so that people can recognise it: it gives away 24 of the 256 bits.
    pub hint: String,
}

/// The characters of a body, in ASCII order.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 62^43 is just above 2^256.
const BODY_CHARS: usize = 43;
/// 62^6 is above 2^32.
const CHECK_CHARS: usize = 6;
/// How many characters of either end a hint shows.
const HINT_CHARS: usize = 4;

/// Makes a token with randomness from the operating system.
///
/// # Errors
/// `internal_error` when the operating system has no random numbers.
pub fn mint(style: TokenStyle) -> Result<Minted> {
    let prefix = style.prefix();
    // Reserved in full, so that no half-made token is left behind in a block that was outgrown.
    let mut token = String::with_capacity(prefix.len() + BODY_CHARS + CHECK_CHARS);
    token.push_str(prefix);
    push_random(&mut token, prefix.len() + BODY_CHARS)?;
    let check = checksum(&token);
    token.extend(check.iter().map(|byte| char::from(*byte)));
    let head: String = token.chars().take(prefix.len() + HINT_CHARS).collect();
    let tail: String = token.chars().skip(prefix.len() + BODY_CHARS + CHECK_CHARS - HINT_CHARS).collect();
    Ok(Minted { hint: format!("{head}…{tail}"), token: Secret::new(token) })
}

/// Appends random characters until the text is `len` bytes long. Bytes of 248 and above are thrown away, so that each of the 62
/// characters is equally likely.
fn push_random(text: &mut String, len: usize) -> Result<()> {
    let mut pool = [0_u8; 64];
    while text.len() < len {
        getrandom::fill(&mut pool).map_err(no_randomness)?;
        let usable = pool.iter().filter(|byte| **byte < 248);
        let chars = usable.filter_map(|byte| ALPHABET.get(usize::from(byte % 62))).map(|byte| char::from(*byte));
        text.extend(chars.take(len - text.len()));
    }
    pool.zeroize();
    Ok(())
}

/// Whether a text can be a token that [`mint`] made: a known prefix, the right length and alphabet, a matching checksum. Costs
/// well below a microsecond and allocates nothing.
pub fn well_formed(text: &str) -> bool {
    let Some(style) = TokenStyle::ALL.into_iter().find(|style| text.starts_with(style.prefix())) else { return false };
    let body_end = style.prefix().len() + BODY_CHARS;
    if text.len() != body_end + CHECK_CHARS {
        return false;
    }
    let Some((front, check)) = text.split_at_checked(body_end) else { return false };
    let alphanumeric = front.bytes().skip(style.prefix().len()).all(|byte| byte.is_ascii_alphanumeric());
    alphanumeric && check.as_bytes() == checksum(front)
}

/// The CRC-32 (IEEE 802.3) of a text in base 62, most significant digit first.
fn checksum(text: &str) -> [u8; CHECK_CHARS] {
    let mut rest = crc32fast::hash(text.as_bytes());
    let mut digits = [b'0'; CHECK_CHARS];
    for digit in digits.iter_mut().rev() {
        // The remainder is below 62, so the look-up always succeeds.
        *digit = ALPHABET.get((rest % 62) as usize).copied().unwrap_or(b'0');
        rest /= 62;
    }
    digits
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const STYLES: [TokenStyle; 4] = TokenStyle::ALL;

    #[test]
    fn every_single_substitution_is_refused() {
        for style in STYLES {
            let minted = mint(style).unwrap();
            let token = minted.token.expose();
            for position in 0..token.len() {
                for wrong in (0x20..0x7f).map(char::from).filter(|wrong| !token[position..].starts_with(*wrong)) {
                    let mut text = token.to_owned();
                    text.replace_range(position..=position, wrong.encode_utf8(&mut [0; 4]));
                    assert!(!well_formed(&text), "{text} passed for {token}");
                }
            }
        }
    }

    #[test]
    fn truncated_extended_and_foreign_texts_are_refused() {
        let minted = mint(TokenStyle::Marg).unwrap();
        let token = minted.token.expose();
        for cut in 0..token.len() {
            assert!(!well_formed(&token[..cut]));
        }
        for text in
            [&format!("{token}0"), &format!(" {token}"), &token.to_uppercase(), "", "sk-", "marg_live_é", "Bearer"]
        {
            assert!(!well_formed(text), "{text}");
        }
        // A character of several bytes over the place where the checksum begins.
        assert!(!well_formed(&format!("sk-{}ééé{}", "a".repeat(42), "b")));
    }

    #[test]
    fn swapped_neighbours_are_refused() {
        let minted = mint(TokenStyle::OpenAi).unwrap();
        let token = minted.token.expose();
        for position in 3..token.len() - 1 {
            let mut bytes = token.as_bytes().to_vec();
            bytes.swap(position, position + 1);
            let swapped = String::from_utf8(bytes).unwrap();
            assert!(swapped == token || !well_formed(&swapped), "{swapped}");
        }
    }

    #[test]
    fn each_style_makes_well_formed_tokens_with_its_prefix_and_a_short_hint() {
        for style in STYLES {
            let minted = mint(style).unwrap();
            let token = minted.token.expose();
            assert!(well_formed(token) && token.starts_with(style.prefix()), "{token}");
            assert_eq!(minted.hint.chars().count(), style.prefix().len() + 9, "{}", minted.hint);
            assert!(token.starts_with(minted.hint.split('…').next().unwrap()));
            assert!(token.ends_with(minted.hint.split('…').next_back().unwrap()));
            assert!(!format!("{minted:?}").contains(token));
        }
    }

    #[test]
    fn tokens_do_not_repeat_and_use_the_whole_alphabet() {
        let tokens: HashSet<String> =
            (0..500).map(|_| mint(TokenStyle::Marg).unwrap().token.expose().to_owned()).collect();
        assert_eq!(tokens.len(), 500);
        let used: HashSet<char> = tokens.iter().flat_map(|token| token[10..53].chars()).collect();
        assert_eq!(used.len(), 62);
    }

    #[test]
    fn a_hash_key_survives_hex_and_never_prints() {
        let key = HashKey::generate().unwrap();
        let again = HashKey::from_hex(&Secret::new(format!(" {}\n", key.to_hex().expose().to_uppercase()))).unwrap();
        assert_eq!(key.hash("token"), again.hash("token"));
        assert_ne!(key.hash("token"), key.hash("Token"));
        assert_ne!(key.hash("token"), HashKey::generate().unwrap().hash("token"));
        assert!(!format!("{key:?}").contains(key.to_hex().expose()));
    }

    #[test]
    fn a_hash_key_of_another_length_is_refused_without_repeating_it() {
        for text in ["", "00", &"0".repeat(63), &"0".repeat(66), &"zz".repeat(32)] {
            let error = HashKey::from_hex(&Secret::new(text)).unwrap_err();
            assert!(text.len() < 3 || !error.text().contains(text), "{error}");
        }
    }
}
