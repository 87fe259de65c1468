//! What the cache did for a request: the vocabulary of metrics, logs and `Cache-Status`.

use std::fmt;

/// The outcome of a request on a cacheable route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheStatus {
    Hit,
    /// Answered with a stale response.
    Stale,
    /// The origin confirmed what was stored.
    Revalidated,
    /// Answered from a fetch that another request began.
    Collapsed,
    /// Fetched, and storable.
    Miss,
    /// The request kept the cache out of it.
    Bypass,
    /// Fetched, and not storable.
    Uncacheable,
}

impl CacheStatus {
    pub const ALL: [Self; 7] = [
        Self::Hit,
        Self::Stale,
        Self::Revalidated,
        Self::Collapsed,
        Self::Miss,
        Self::Bypass,
        Self::Uncacheable,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Stale => "stale",
            Self::Revalidated => "revalidated",
            Self::Collapsed => "collapsed",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
            Self::Uncacheable => "uncacheable",
        }
    }
}

/// One member of a `Cache-Status` field (RFC 9211), ours.
#[derive(Debug, Clone, Copy)]
pub struct StatusField<'a> {
    pub cache: &'a str,
    pub kind: FieldKind,
    /// Seconds of freshness left; negative when stale.
    pub ttl: Option<i64>,
    pub detail: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    Hit,
    Miss {
        stored: bool,
    },
    Stale {
        status: Option<u16>,
        stored: bool,
    },
    Bypass,
    /// The method kept the cache out of it.
    Method,
    /// Served from another request's fetch.
    Collapsed,
}

/// Writes the member for a hit: the form that every hit needs, without the machinery of
/// formatting.
pub fn push_hit(out: &mut impl Extend<u8>, cache: &str, ttl: i64) {
    out.extend(cache.bytes());
    out.extend(*b"; hit; ttl=");
    if ttl < 0 {
        out.extend(*b"-");
    }
    push_number(out, ttl.unsigned_abs());
}

/// Writes a number in decimal digits.
pub fn push_number(out: &mut impl Extend<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend(digits[at..].iter().copied());
}

impl fmt::Display for StatusField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cache)?;
        match self.kind {
            FieldKind::Hit => f.write_str("; hit")?,
            FieldKind::Miss { stored } => {
                f.write_str("; fwd=miss")?;
                if stored {
                    f.write_str("; stored")?;
                }
            }
            FieldKind::Stale { status, stored } => {
                f.write_str("; fwd=stale")?;
                if let Some(status) = status {
                    write!(f, "; fwd-status={status}")?;
                }
                if stored {
                    f.write_str("; stored")?;
                }
            }
            FieldKind::Bypass => f.write_str("; fwd=bypass")?,
            FieldKind::Method => f.write_str("; fwd=method")?,
            FieldKind::Collapsed => f.write_str("; fwd=miss; collapsed")?,
        }
        if let Some(ttl) = self.ttl {
            write!(f, "; ttl={ttl}")?;
        }
        if let Some(detail) = self.detail {
            f.write_str("; detail=")?;
            f.write_str(detail)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_way_to_a_hit_says_the_same() {
        for ttl in [0, 7, 42, -3, i64::MAX, i64::MIN] {
            let mut text = Vec::new();
            push_hit(&mut text, "headwater", ttl);
            let field = StatusField {
                cache: "headwater",
                kind: FieldKind::Hit,
                ttl: Some(ttl),
                detail: None,
            };
            assert_eq!(String::from_utf8(text), Ok(field.to_string()));
        }
    }

    #[test]
    fn fields_are_structured_items_with_parameters() {
        let field =
            |kind, ttl, detail| StatusField { cache: "headwater", kind, ttl, detail }.to_string();
        assert_eq!(field(FieldKind::Hit, Some(42), None), "headwater; hit; ttl=42");
        assert_eq!(
            field(FieldKind::Miss { stored: true }, None, None),
            "headwater; fwd=miss; stored"
        );
        assert_eq!(
            field(FieldKind::Miss { stored: false }, None, Some("private")),
            "headwater; fwd=miss; detail=private"
        );
        assert_eq!(
            field(FieldKind::Stale { status: Some(304), stored: true }, Some(60), None),
            "headwater; fwd=stale; fwd-status=304; stored; ttl=60"
        );
        assert_eq!(field(FieldKind::Collapsed, None, None), "headwater; fwd=miss; collapsed");
    }
}
