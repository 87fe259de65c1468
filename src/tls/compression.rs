//! Certificates compressed (RFC 8879), each once.
//!
//! rustls would keep what it has compressed in a list behind a lock that every handshake takes and
//! walks along: right for two certificates, not for a thousand. Here it is a map in shards. What
//! clients offer is brotli (Chromium) or zlib (Safari).

use std::io::Write;
use std::sync::{Arc, LazyLock};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use rustls::CertificateCompressionAlgorithm;
use rustls::compress::{CertCompressor, CompressionFailed, CompressionLevel};

/// The preferred first.
pub(super) const COMPRESSORS: [&dyn CertCompressor; 2] = [&Brotli, &Zlib];

/// Compressed chains that are kept of each algorithm.
const CHAINS_MAX: usize = 4096;
/// Best effort of both: a chain is compressed once in the life of a process.
const BROTLI_QUALITY: u32 = 9;
/// The smallest window: a chain is a few kilobytes.
const BROTLI_WINDOW_BITS: u32 = 16;
const BROTLI_BUFFER_BYTES: usize = 4096;

// The keys are our own certificates: a fast hash will do.
type Compressed = Cache<Vec<u8>, Arc<[u8]>, UnitWeighter, foldhash::fast::RandomState>;

fn empty() -> Compressed {
    let (hasher, lifecycle) = (foldhash::fast::RandomState::default(), DefaultLifecycle::default());
    Cache::with(CHAINS_MAX, CHAINS_MAX as u64, UnitWeighter, hasher, lifecycle)
}

/// What was compressed before, or is now.
fn kept(
    known: &Compressed,
    input: Vec<u8>,
    compress: impl FnOnce(&[u8]) -> std::io::Result<Vec<u8>>,
) -> Result<Vec<u8>, CompressionFailed> {
    if let Some(compressed) = known.get(&input) {
        return Ok(compressed.to_vec());
    }
    let compressed = compress(&input).map_err(|_| CompressionFailed)?;
    known.insert(input, compressed.as_slice().into());
    Ok(compressed)
}

#[derive(Debug)]
struct Brotli;

impl CertCompressor for Brotli {
    fn compress(&self, input: Vec<u8>, _: CompressionLevel) -> Result<Vec<u8>, CompressionFailed> {
        static KNOWN: LazyLock<Compressed> = LazyLock::new(empty);
        kept(&KNOWN, input, |input| {
            let mut writer = brotli::CompressorWriter::new(
                Vec::with_capacity(input.len()),
                BROTLI_BUFFER_BYTES,
                BROTLI_QUALITY,
                BROTLI_WINDOW_BITS,
            );
            writer.write_all(input)?;
            Ok(writer.into_inner())
        })
    }

    fn algorithm(&self) -> CertificateCompressionAlgorithm {
        CertificateCompressionAlgorithm::Brotli
    }
}

#[derive(Debug)]
struct Zlib;

impl CertCompressor for Zlib {
    fn compress(&self, input: Vec<u8>, _: CompressionLevel) -> Result<Vec<u8>, CompressionFailed> {
        static KNOWN: LazyLock<Compressed> = LazyLock::new(empty);
        kept(&KNOWN, input, |input| {
            let output = Vec::with_capacity(input.len());
            let mut writer = ZlibEncoder::new(output, Compression::best());
            writer.write_all(input)?;
            writer.finish()
        })
    }

    fn algorithm(&self) -> CertificateCompressionAlgorithm {
        CertificateCompressionAlgorithm::Zlib
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_compressed_is_the_same_the_second_time_and_unpacks() {
        let chain: Vec<u8> = (0..3000_u32).map(|at| (at % 61) as u8).collect();
        for compressor in COMPRESSORS {
            let compress = || compressor.compress(chain.clone(), CompressionLevel::Interactive);
            let (first, second) = (compress().unwrap(), compress().unwrap());
            assert_eq!(first, second);
            assert!(first.len() < chain.len() / 4, "{}", first.len());
            let mut plain = Vec::new();
            match compressor.algorithm() {
                CertificateCompressionAlgorithm::Brotli => {
                    brotli::Decompressor::new(&first[..], 4096).read_to_end(&mut plain)
                }
                _ => flate2::read::ZlibDecoder::new(&first[..]).read_to_end(&mut plain),
            }
            .unwrap();
            assert_eq!(plain, chain);
        }
    }
}
