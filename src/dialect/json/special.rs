//! The search for the bytes that matter inside a string: quotes, backslashes and control characters.
//!
//! Sixty-four bytes at a time become a mask with a bit for each special byte: a prompt is full of escapes, and going from
//! one to the next by separate searches costs twice as much. Long plain text is searched with `memchr`, which finds the
//! widest vectors of the machine at run time.

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES * 0x80;

/// How many bytes one mask covers.
pub(super) const MASK_BYTES: usize = 64;

/// The length of the beginning of some bytes, in steps of 64, that holds no special byte. Worth its call where a mask has
/// just come out empty; text full of escapes is quicker by masks alone.
#[inline]
pub(super) fn plain_chunks(bytes: &[u8]) -> usize {
    let run = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
    let (chunks, _) = bytes.get(..run).unwrap_or_default().as_chunks::<MASK_BYTES>();
    chunks.iter().position(has_control).unwrap_or(chunks.len()) * MASK_BYTES
}

/// Without an early exit, so that it becomes a few comparisons of vectors.
#[inline]
fn has_control(chunk: &[u8; MASK_BYTES]) -> bool {
    chunk.iter().fold(false, |found, byte| found | (*byte < 0x20))
}

/// Which of the next bytes, 64 at most, are special (bit 0 is the first).
#[inline]
pub(super) fn special_mask(bytes: &[u8]) -> u64 {
    match bytes.first_chunk() {
        Some(chunk) => mask_of(chunk),
        None => {
            // The end of the document: filled up with what is not special.
            let mut chunk = [b' '; MASK_BYTES];
            if let Some(beginning) = chunk.get_mut(..bytes.len()) {
                beginning.copy_from_slice(bytes);
            }
            mask_of(&chunk)
        }
    }
}

/// Sixteen bytes at a time: a comparison of vectors and its bits are one instruction each, which the compiler does not find by
/// itself in the other form (20 µs for 200 KB, this takes 7). SSE2 is part of the architecture, so nothing is asked at run time.
#[cfg(target_arch = "x86_64")]
#[inline]
fn mask_of(chunk: &[u8; MASK_BYTES]) -> u64 {
    use safe_arch::{
        bitor_m128i, cmp_eq_mask_i8_m128i, load_unaligned_m128i, min_u8_m128i, move_mask_i8_m128i, set_splat_i8_m128i,
    };
    let (quote, backslash, last_control) =
        (set_splat_i8_m128i(0x22), set_splat_i8_m128i(0x5C), set_splat_i8_m128i(0x1F));
    let (lanes, _) = chunk.as_chunks::<16>();
    lanes.iter().rev().fold(0, |mask, lane| {
        let bytes = load_unaligned_m128i(lane);
        let marks = bitor_m128i(cmp_eq_mask_i8_m128i(bytes, quote), cmp_eq_mask_i8_m128i(bytes, backslash));
        let controls = cmp_eq_mask_i8_m128i(min_u8_m128i(bytes, last_control), bytes);
        let hits = move_mask_i8_m128i(bitor_m128i(marks, controls));
        (mask << 16) | u64::from(hits.cast_unsigned() & 0xFFFF)
    })
}

#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn mask_of(chunk: &[u8; MASK_BYTES]) -> u64 {
    // The comparisons become vectors only in this form, a map over a whole array: loops over its words stay scalar.
    let flags = chunk.map(|byte| u8::from(is_special(byte)));
    // Each product moves the flags of eight bytes side by side into its highest byte; none of them meet.
    let gather = |word: &[u8; 8]| u64::from_le_bytes(*word).wrapping_mul(0x0102_0408_1020_4080) >> 56;
    let (words, _) = flags.as_chunks::<8>();
    words.iter().rev().fold(0, |mask, word| (mask << 8) | gather(word))
}

/// The position of the first special byte of a word.
#[inline]
pub(in crate::dialect) fn first_of_word(word: &[u8; 8]) -> Option<usize> {
    let hits = hits(u64::from_le_bytes(*word));
    (hits != 0).then(|| hits.trailing_zeros() as usize / 8)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specials_are_found_at_every_place() {
        for length in 0..140 {
            for special in [b'"', b'\\', 0x00, 0x1f, b'\n'] {
                for at in 0..length {
                    // High bytes, spaces and the neighbours of the specials must not be taken for them.
                    for other in [b'!', 0x20, b'#', b']', b'[', 0x7f, 0x80, 0xa2, 0xdc, 0x9f, 0xff] {
                        let mut bytes = vec![other; length];
                        bytes[at] = special;
                        let plain = plain_chunks(&bytes);
                        assert!(plain <= at && plain.is_multiple_of(MASK_BYTES));
                        let mask = special_mask(&bytes[plain..]);
                        assert_eq!(mask, 1_u64.checked_shl((at - plain) as u32).unwrap_or(0), "{at} of {length}");
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
                let mut chunk = [0x80; MASK_BYTES];
                chunk[16..24].copy_from_slice(&word);
                let expected = chunk.iter().rev().fold(0, |mask, byte| (mask << 1) | u64::from(is_special(*byte)));
                assert_eq!(special_mask(&chunk), expected, "{word:x?}");
                assert_eq!(first_of_word(&word), word.iter().position(|byte| is_special(*byte)), "{word:x?}");
            }
        }
    }
}
