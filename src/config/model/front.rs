//! Whom a listener is behind.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{FileContent, SpanOf};

/// Who stands between the clients and a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// Nobody in particular: `trusted` says whom to believe.
    None,
    Cloudflare,
    CloudFront,
    Alb,
    Gclb,
}

impl Front {
    pub const NAMES: [(&'static str, Self); 5] = [
        ("none", Self::None),
        ("cloudflare", Self::Cloudflare),
        ("cloudfront", Self::CloudFront),
        ("alb", Self::Alb),
        ("gclb", Self::Gclb),
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cloudflare => "cloudflare",
            Self::CloudFront => "cloudfront",
            Self::Alb => "alb",
            Self::Gclb => "gclb",
        }
    }

    /// What its operators call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::None => "no front",
            Self::Cloudflare => "Cloudflare",
            Self::CloudFront => "CloudFront",
            Self::Alb => "an ALB",
            Self::Gclb => "a Google load balancer",
        }
    }

    /// Whether its addresses are the customer's own or too many to be built in.
    pub fn needs_addresses(self) -> bool {
        matches!(self, Self::CloudFront | Self::Alb)
    }

    /// Whether its addresses are built in.
    pub fn has_addresses(self) -> bool {
        matches!(self, Self::Cloudflare | Self::Gclb)
    }

    /// How long it keeps an idle connection to us, in seconds; `None` where nobody knows.
    pub fn keepalive_secs(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Cloudflare => Some(900),
            // As long as it may be set to.
            Self::CloudFront => Some(120),
            Self::Alb => Some(60),
            Self::Gclb => Some(600),
        }
    }

    /// How long a listener behind it keeps idle connections unless told otherwise, in seconds:
    /// longer than the front, which would otherwise send requests into a connection that ends.
    pub fn idle_default_secs(self) -> u64 {
        match self {
            Self::None | Self::Alb => 75,
            Self::Cloudflare => 930,
            Self::CloudFront => 125,
            Self::Gclb => 620,
        }
    }
}

/// Where the addresses of a front come from.
#[derive(Debug, Clone, PartialEq)]
pub enum RangesSource {
    File(RangesFile),
    Url(RangesUrl),
}

/// A list that is fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct RangesUrl {
    /// https, or http to this machine.
    pub url: Arc<str>,
    /// How often it is fetched anew.
    pub refresh: Duration,
    pub span: SpanOf,
}

impl RangesSource {
    pub fn url(&self) -> Option<&RangesUrl> {
        match self {
            Self::Url(url) => Some(url),
            Self::File(_) => None,
        }
    }

    /// The path or the URL.
    pub fn shown(&self) -> String {
        match self {
            Self::File(file) => file.path.display().to_string(),
            Self::Url(url) => url.url.to_string(),
        }
    }
}

/// The file of `trusted_from`. What cannot be used of it now may be in the middle of being written.
#[derive(Debug, Clone, PartialEq)]
pub struct RangesFile {
    pub path: PathBuf,
    /// Its content, not yet parsed, or why there is none.
    pub content: Result<FileContent, String>,
    pub span: SpanOf,
}

/// `route.front_cache`: what the cache of a front is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FrontCache {
    /// For how long it keeps an answer; `None`: as the answer says.
    pub ttl: Option<Duration>,
    /// Only with `ttl`.
    pub stale_while_revalidate: Option<Duration>,
    /// Only with `ttl`.
    pub stale_if_error: Option<Duration>,
    /// In lower case, in order, those of our own cache among them.
    pub tags: Vec<String>,
}
