//! Answers that come compressed although nobody asked for it: Marg tells providers `accept-encoding: identity`.
//!
//! What is compressed with gzip or zlib is unpacked as it arrives, since the caller may not understand it and nothing could be
//! read off it otherwise. Other encodings pass as they are, unread, under their name (`Coding::Opaque`).

use std::io::Write;

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};

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
            "deflate" => Self::Packed(Unpacker::Zlib(Box::new(ZlibDecoder::new(Vec::new())))),
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

/// Bytes that are not what their encoding says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// Undoes a compression, piece by piece.
#[derive(Debug)]
pub enum Unpacker {
    /// RFC 1952.
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// RFC 1950, which HTTP calls `deflate`.
    Zlib(Box<ZlibDecoder<Vec<u8>>>),
}

impl Unpacker {
    fn unpack(&mut self, piece: &[u8]) -> Result<Bytes, Corrupt> {
        for part in piece.chunks(PIECE_BYTES) {
            let written = match self {
                Self::Gzip(decoder) => decoder.write_all(part).and_then(|()| decoder.flush()),
                Self::Zlib(decoder) => decoder.write_all(part).and_then(|()| decoder.flush()),
            };
            if written.is_err() || self.out().len() > MOST_BYTES {
                return Err(Corrupt);
            }
        }
        Ok(Bytes::from(std::mem::take(self.out())))
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zlib(decoder) => decoder.get_mut(),
        }
    }
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
