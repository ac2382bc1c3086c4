//! The search for the bytes that matter inside a string: quotes, backslashes and control characters.
//!
//! Long plain text is searched with `memchr` and tested for control characters in words that the compiler widens to vectors;
//! without intrinsics of our own, since those are unsafe.

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES * 0x80;

/// The length of the beginning of some bytes, in steps of 64, that holds no special byte.
#[inline]
pub(super) fn plain_chunks(bytes: &[u8]) -> usize {
    // Text full of escapes is not worth a search.
    if bytes.first_chunk::<32>().is_none_or(|chunk| special_mask(chunk).0 != 0) {
        return 0;
    }
    let run = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
    let (chunks, _) = bytes.get(..run).unwrap_or_default().as_chunks::<64>();
    chunks.iter().position(has_control).unwrap_or(chunks.len()) * 64
}

/// Whether a byte below 0x20 is among these: a borrow out of a byte whose own high bit is clear (the word-wise test for a
/// lesser byte, exact as to whether there is one).
#[inline]
fn has_control(chunk: &[u8; 64]) -> bool {
    let (words, _) = chunk.as_chunks::<8>();
    let lesser = |word: &[u8; 8]| {
        let word = u64::from_le_bytes(*word);
        word.wrapping_sub(ONES * 0x20) & !word & HIGHS
    };
    words.iter().fold(0, |hit, word| hit | lesser(word)) != 0
}

/// Which of the next bytes, 32 at most, are special (bit 0 is the first), and how many were looked at.
#[inline]
pub(super) fn special_mask(bytes: &[u8]) -> (u32, usize) {
    if let Some(chunk) = bytes.first_chunk::<32>() {
        let (words, _) = chunk.as_chunks::<8>();
        let mask = words.iter().rev().fold(0, |mask, word| (mask << 8) | gather(hits(u64::from_le_bytes(*word))));
        return (mask, 32);
    }
    let mask = bytes.iter().rev().fold(0, |mask, byte| (mask << 1) | u32::from(is_special(*byte)));
    (mask, bytes.len())
}

/// The position of the first special byte of a word.
#[inline]
pub(super) fn first_of_word(word: &[u8; 8]) -> Option<usize> {
    let hits = hits(u64::from_le_bytes(*word));
    (hits != 0).then(|| hits.trailing_zeros() as usize / 8)
}

#[inline]
fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}

/// The high bit of every byte of a word that is special, exactly: the sums stay inside their bytes because the high bit
/// of each is taken out first.
#[inline]
fn hits(word: u64) -> u64 {
    let low = word & !HIGHS;
    let differs = |byte: u64| (low ^ (ONES * byte)).wrapping_add(!HIGHS);
    let above_controls = low.wrapping_add(ONES * 0x60);
    !(differs(0x22) & differs(0x5C) & above_controls) & !word & HIGHS
}

/// The high bits of eight bytes, side by side.
#[inline]
fn gather(hits: u64) -> u32 {
    // Each product moves one bit to its place in the highest byte; none of them meet.
    ((hits >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specials_are_found_at_every_place() {
        for length in 0..100 {
            for special in [b'"', b'\\', 0x00, 0x1f, b'\n'] {
                for at in 0..length {
                    // High bytes, spaces and the neighbours of the specials must not be taken for them.
                    for other in [b'!', 0x20, b'#', b']', b'[', 0x7f, 0x80, 0xa2, 0xdc, 0x9f, 0xff] {
                        let mut bytes = vec![other; length];
                        bytes[at] = special;
                        let plain = plain_chunks(&bytes);
                        assert!(plain <= at || plain.is_multiple_of(32));
                        let (mask, looked_at) = special_mask(&bytes[plain..]);
                        assert_eq!(looked_at, (length - plain).min(32));
                        assert_eq!(mask, 1_u32.checked_shl((at - plain) as u32).unwrap_or(0), "{at} of {length}");
                        if let Some(word) = bytes[at..].first_chunk() {
                            assert_eq!(first_of_word(word), Some(0));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_byte_is_told_rightly_in_any_company() {
        for byte in 0..=255_u8 {
            for other in 0..=255_u8 {
                let word = [other, byte, other, byte, byte, other, other, byte];
                let mut chunk = [0x80; 32];
                chunk[16..24].copy_from_slice(&word);
                let expected = chunk.iter().rev().fold(0, |mask, byte| (mask << 1) | u32::from(is_special(*byte)));
                assert_eq!(special_mask(&chunk), (expected, 32), "{word:x?}");
            }
        }
    }
}
