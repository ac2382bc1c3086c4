//! Answers that come compressed although nobody asked for it: Marg tells providers `accept-encoding: identity`.
//!
//! What is compressed with gzip or zlib is unpacked as it arrives, since the caller may not understand it and nothing could be
//! read off it otherwise. Other encodings pass as they are, unread, under their name (`Coding::Opaque`).

use std::io::Write;

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

/// The most that one piece of an answer may become; more is an attack, or nonsense.
const MOST_BYTES: usize = 16 * 1024 * 1024;
/// So much is unpacked at a time; it becomes a thousand times as much at most.
const PIECE_BYTES: usize = 4 * 1024;

/// How an answer is encoded.
#[derive(Debug)]
pub enum Coding {
    /// Not at all.
    Plain,
    /// In a way that is undone here.
    Packed(Unpacker),
    /// In a way that is not.
    Opaque,
}

impl Coding {
    /// The coding that a `content-encoding` names (RFC 9110 section 8.4.1).
    pub fn of(content_encoding: Option<&str>) -> Self {
        match content_encoding.unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Self::Plain,
            "gzip" | "x-gzip" => Self::Packed(Unpacker::Gzip(Box::new(MultiGzDecoder::new(Vec::new())))),
            "deflate" => Self::Packed(Unpacker::Zlib { state: Box::new(Decompress::new(true)), ended: false }),
            _ => Self::Opaque,
        }
    }

    /// A piece of the answer as it was before it was encoded; as it is, if that cannot be known.
    ///
    /// # Errors
    /// If it is not what its encoding says, or grows beyond all measure.
    pub fn decode(&mut self, piece: Bytes) -> Result<Bytes, Corrupt> {
        match self {
            Self::Packed(unpacker) => unpacker.unpack(&piece),
            Self::Plain | Self::Opaque => Ok(piece),
        }
    }
}

impl Coding {
    /// Whether what was encoded has come to its own end. Nothing at all has not, if it is called encoded.
    pub fn is_whole(&mut self) -> bool {
        match self {
            Self::Packed(unpacker) => unpacker.is_whole(),
            Self::Plain | Self::Opaque => true,
        }
    }
}

/// Bytes that are not what their encoding says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// Undoes a compression, piece by piece.
#[derive(Debug)]
pub enum Unpacker {
    /// RFC 1952.
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// RFC 1950, which HTTP calls `deflate`.
    Zlib {
        /// The state; `flate2`'s writers do not tell a stream that lacks its end from a whole one.
        state: Box<Decompress>,
        /// Whether its end has come.
        ended: bool,
    },
}

impl Unpacker {
    fn unpack(&mut self, piece: &[u8]) -> Result<Bytes, Corrupt> {
        match self {
            Self::Gzip(decoder) => {
                for part in piece.chunks(PIECE_BYTES) {
                    let written = decoder.write_all(part).and_then(|()| decoder.flush());
                    if written.is_err() || decoder.get_ref().len() > MOST_BYTES {
                        return Err(Corrupt);
                    }
                }
                Ok(Bytes::from(std::mem::take(decoder.get_mut())))
            }
            Self::Zlib { state, ended } => inflate(state, ended, piece),
        }
    }

    fn is_whole(&mut self) -> bool {
        match self {
            Self::Gzip(decoder) => decoder.try_finish().is_ok(),
            Self::Zlib { ended, .. } => *ended,
        }
    }
}

/// What follows the end of the stream means nothing.
fn inflate(state: &mut Decompress, ended: &mut bool, piece: &[u8]) -> Result<Bytes, Corrupt> {
    let mut out = Vec::new();
    let begun = state.total_in();
    while !*ended {
        let before = (state.total_in(), out.len());
        let taken = usize::try_from(before.0 - begun).map_err(|_| Corrupt)?;
        out.reserve(PIECE_BYTES);
        let rest = piece.get(taken..).unwrap_or_default();
        let status = state.decompress_vec(rest, &mut out, FlushDecompress::None).map_err(|_| Corrupt)?;
        *ended = status == Status::StreamEnd;
        if out.len() > MOST_BYTES {
            return Err(Corrupt);
        }
        if (state.total_in(), out.len()) == before {
            break;
        }
    }
    Ok(Bytes::from(out))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    fn unpacked(coding: &str, packed: &[u8], size: usize) -> Result<Vec<u8>, Corrupt> {
        let mut coding = Coding::of(Some(coding));
        let mut out = Vec::new();
        for piece in packed.chunks(size) {
            out.extend_from_slice(&coding.decode(Bytes::copy_from_slice(piece))?);
        }
        Ok(out)
    }

    #[test]
    fn what_is_not_what_it_says_is_told() {
        assert_eq!(unpacked("gzip", b"data: plain\n\n and more of it", 100), Err(Corrupt));
        assert_eq!(unpacked("deflate", b"data: plain\n\n and more of it", 3), Err(Corrupt));
        let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
        bomb.write_all(&vec![0; 2 * MOST_BYTES]).unwrap();
        assert_eq!(unpacked("gzip", &bomb.finish().unwrap(), usize::MAX), Err(Corrupt));
    }

    #[test]
    fn a_packed_answer_is_unpacked_however_it_is_cut() {
        let text = "data: one\n\ndata: two\n\n".repeat(100);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        let gzip = gzip.finish().unwrap();
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(text.as_bytes()).unwrap();
        let zlib = zlib.finish().unwrap();
        for (name, packed) in [("gzip", &gzip), ("deflate", &zlib)] {
            let ends = |bytes: &[u8]| {
                let mut coding = Coding::of(Some(name));
                coding.decode(Bytes::copy_from_slice(bytes)).is_ok() && coding.is_whole()
            };
            for length in 1..packed.len() {
                assert!(!ends(&packed[..length]), "{name} that ends at {length}");
            }
            assert!(ends(packed), "{name}");
        }
        for size in [1, 7, 10_000] {
            for (coding, packed) in [("gzip", &gzip), ("X-GZip", &gzip), ("deflate", &zlib)] {
                assert_eq!(unpacked(coding, packed, size).unwrap(), text.as_bytes(), "{coding} by {size}");
            }
        }
        // Two members one behind the other are one text (RFC 1952 section 2.2).
        assert_eq!(unpacked("gzip", &[&gzip[..], &gzip].concat(), 50).unwrap(), text.repeat(2).as_bytes());
        for untouched in ["br", "zstd", "gzip, br"] {
            assert!(matches!(Coding::of(Some(untouched)), Coding::Opaque));
            assert_eq!(unpacked(untouched, b"bytes", 2).unwrap(), b"bytes");
        }
    }

    #[test]
    fn an_event_that_was_flushed_is_there_at_once() {
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        let mut coding = Coding::of(Some("gzip"));
        for event in ["data: one\n\n", "data: two\n\n"] {
            packer.write_all(event.as_bytes()).unwrap();
            packer.flush().unwrap();
            let piece = Bytes::from(std::mem::take(packer.get_mut()));
            assert_eq!(coding.decode(piece).unwrap(), event);
        }
    }
}
