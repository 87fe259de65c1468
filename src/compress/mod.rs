//! Content codings (RFC 9110 §8.4): which one a client gets, what may be put into one, how, and
//! what the fields of the result say.
//!
//! Everything here is pure but the encoders, which turn bytes into bytes. When a response is coded,
//! and where the result is kept, is decided by the proxy and the cache. Deliberately absent:
//! decoding (what an origin has coded is passed on as it is), `deflate` (clients disagree about what
//! it means) and `compress`.

pub mod eligible;
pub mod encode;
pub mod fields;
pub mod negotiate;
pub mod turns;

use http::HeaderValue;

/// A content coding that we can produce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Brotli,
    Zstd,
    Gzip,
}

impl Coding {
    /// In the order of our preference.
    pub const ALL: [Self; 3] = [Self::Brotli, Self::Zstd, Self::Gzip];

    /// Its place in [`Self::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The value of `Content-Encoding`.
    pub fn value(self) -> HeaderValue {
        HeaderValue::from_static(self.as_str())
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coding_is_found_at_its_index() {
        for (index, coding) in Coding::ALL.into_iter().enumerate() {
            assert_eq!(coding.index(), index);
        }
    }
}
