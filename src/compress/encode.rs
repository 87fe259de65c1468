//! Encoders: bytes in, coded bytes out, a slice at a time.
//!
//! A worker serves all its connections by turns, so no call may take long: whoever encodes gives a
//! piece at a time and lets others have their turn in between ([`turns`](super::turns)). What the
//! levels cost was measured on text of 1 MiB: 13.6, 4.2 and 13.3 ms for br, zstd and gzip at
//! [`Effort::Passing`], 9.3, 3.1 and 5.3 ms at [`Effort::Hurried`], 39, 13 and 34 ms at
//! [`Effort::Kept`]. The longest piece takes about 0.55 ms, a block of zstd or a slice of br.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::Coding;

/// A slice of what is kept, in bytes: what was encoded is flushed behind each, wherever the body
/// came from, so that the result is the same each time.
pub const SLICE_BYTES: usize = 12 << 10;
/// Bodies of at most this size are encoded for one client in one go, in bytes.
pub const WHOLE_BYTES_MAX: usize = 24 << 10;
/// What is encoded before the clock is looked at, in bytes.
pub const PIECE_BYTES: usize = 8 << 10;
/// A coded form of at least this share of the plain one, in percent, is not worth decoding.
const WORTH_PERCENT_MAX: u64 = 95;

/// How hard an encoder tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// For one client: quick, and with at most about 1.2 MiB for each encoder.
    Passing,
    /// The same while many wait for their encoder.
    Hurried,
    /// For everybody who comes: smaller, and with at most about 4 MiB for each encoder.
    Kept,
}

/// An encoder of one body. Dropped before [`Self::finish`], it leaves the coding without its end.
pub struct Encoder(Kind);

enum Kind {
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gzip(GzEncoder<Vec<u8>>),
}

/// Between the brotli encoder and its output, in bytes.
const BROTLI_BUFFER_BYTES: usize = 4 << 10;

impl Encoder {
    /// # Errors
    /// There is no memory for it.
    pub fn new(coding: Coding, effort: Effort) -> io::Result<Self> {
        Ok(Self(match coding {
            Coding::Brotli => {
                // Quality and the logarithm of the window; above quality 5 a slice takes too long.
                let (quality, window) = match effort {
                    Effort::Hurried => (1, 17),
                    Effort::Passing => (3, 17),
                    Effort::Kept => (5, 20),
                };
                let out = Vec::new();
                let writer =
                    brotli::CompressorWriter::new(out, BROTLI_BUFFER_BYTES, quality, window);
                Kind::Brotli(Box::new(writer))
            }
            Coding::Zstd => {
                // Browsers take windows of up to 8 MiB (RFC 9659).
                let (level, window) = match effort {
                    Effort::Hurried => (1, 17),
                    Effort::Passing => (3, 17),
                    Effort::Kept => (6, 20),
                };
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
                encoder.window_log(window)?;
                Kind::Zstd(encoder)
            }
            Coding::Gzip => {
                let level = match effort {
                    Effort::Hurried => 1,
                    Effort::Passing => 4,
                    Effort::Kept => 6,
                };
                Kind::Gzip(GzEncoder::new(Vec::new(), Compression::new(level)))
            }
        }))
    }

    /// Encodes a slice; what is ready of the output, which may be nothing yet.
    ///
    /// # Errors
    /// The encoder failed, and is of no more use.
    pub fn write(&mut self, slice: &[u8]) -> io::Result<Vec<u8>> {
        self.writer().write_all(slice)?;
        Ok(self.take())
    }

    /// Brings out all that was put in, so that a decoder can show it.
    ///
    /// # Errors
    /// The encoder failed, and is of no more use.
    pub fn flush(&mut self) -> io::Result<Vec<u8>> {
        self.writer().flush()?;
        Ok(self.take())
    }

    /// Ends the coding.
    ///
    /// # Errors
    /// The encoder failed.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self.0 {
            Kind::Brotli(writer) => Ok(writer.into_inner()),
            Kind::Zstd(encoder) => encoder.finish(),
            Kind::Gzip(encoder) => encoder.finish(),
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match &mut self.0 {
            Kind::Brotli(writer) => writer,
            Kind::Zstd(encoder) => encoder,
            Kind::Gzip(encoder) => encoder,
        }
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(match &mut self.0 {
            Kind::Brotli(writer) => writer.get_mut(),
            Kind::Zstd(encoder) => encoder.get_mut(),
            Kind::Gzip(encoder) => encoder.get_mut(),
        })
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Kind::Brotli(_) => "Encoder(br)",
            Kind::Zstd(_) => "Encoder(zstd)",
            Kind::Gzip(_) => "Encoder(gzip)",
        })
    }
}

/// What the coded form of `bytes` may be long at most to be worth it, in bytes.
pub fn worth_bytes_max(bytes: u64) -> u64 {
    bytes - bytes / 100 * (100 - WORTH_PERCENT_MAX)
}

/// A whole body of at most [`WHOLE_BYTES_MAX`] in a coding. `None` where that is not worth it.
pub fn whole(coding: Coding, body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(coding, Effort::Passing).ok()?;
    let mut coded = encoder.write(body).ok()?;
    coded.extend_from_slice(&encoder.finish().ok()?);
    (coded.len() as u64 <= worth_bytes_max(body.len() as u64)).then_some(coded)
}

#[cfg(test)]
pub mod tests {
    use std::io::Read;

    use super::*;

    pub fn decode(coding: Coding, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        match coding {
            Coding::Brotli => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut plain)?,
            Coding::Zstd => zstd::stream::read::Decoder::new(bytes)?.read_to_end(&mut plain)?,
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain)?,
        };
        Ok(plain)
    }

    /// As much as comes out of a coding that goes on.
    fn decode_begun(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut plain = vec![0; 1 << 16];
        let mut reader: Box<dyn Read + '_> = match coding {
            Coding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).expect("a decoder")),
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
        };
        let mut filled = 0;
        while let Ok(read @ 1..) = reader.read(&mut plain[filled..]) {
            filled += read;
        }
        plain.truncate(filled);
        plain
    }

    fn text(bytes: usize) -> Vec<u8> {
        (0..)
            .flat_map(|line: u32| format!("line {line}, {}\n", line * 7).into_bytes())
            .take(bytes)
            .collect()
    }

    #[test]
    fn slices_decode_to_what_they_were_and_are_smaller() {
        let text = text(100_000);
        for coding in Coding::ALL {
            for effort in [Effort::Hurried, Effort::Passing, Effort::Kept] {
                let mut encoder = Encoder::new(coding, effort).expect("an encoder");
                let mut coded = Vec::new();
                for slice in text.chunks(SLICE_BYTES) {
                    coded.extend(encoder.write(slice).expect("writes"));
                }
                coded.extend(encoder.finish().expect("ends"));
                assert!(coded.len() < text.len() / 2, "{coding:?} {effort:?}: {}", coded.len());
                assert!(decode(coding, &coded).expect("decodes") == text, "{coding:?} {effort:?}");
            }
        }
    }

    #[test]
    fn what_was_flushed_can_be_decoded_before_more_comes() {
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(coding, Effort::Passing).expect("an encoder");
            let mut coded = encoder.write(b"event: one\n\n").expect("writes");
            coded.extend(encoder.flush().expect("flushes"));
            assert_eq!(decode_begun(coding, &coded), b"event: one\n\n", "{coding:?}");
        }
    }

    #[test]
    fn a_coding_without_its_end_is_no_coding() {
        for coding in Coding::ALL {
            let mut encoder = Encoder::new(coding, Effort::Passing).expect("an encoder");
            let mut coded = encoder.write(&text(5000)).expect("writes");
            coded.extend(encoder.flush().expect("flushes"));
            assert!(decode(coding, &coded).is_err(), "{coding:?}");
        }
    }

    #[test]
    fn what_hardly_gets_smaller_is_not_worth_it() {
        assert_eq!(worth_bytes_max(10_000), 9_500);
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(5000)
        .collect();
        for coding in Coding::ALL {
            assert!(whole(coding, &noise).is_none(), "{coding:?}");
            let text = text(5000);
            let coded = whole(coding, &text).expect("worth it");
            assert_eq!(decode(coding, &coded).expect("decodes"), text, "{coding:?}");
        }
    }
}
