//! What the cache did for a request: the vocabulary of metrics, logs and `Cache-Status`.

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
    /// What was looked up, where that is to be shown.
    pub key: Option<&'a str>,
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
    Request {
        status: Option<u16>,
        stored: bool,
    },
    /// The origin failed, with this answer if any, and what is stored stands in for it.
    StoodIn {
        status: Option<u16>,
    },
    Bypass,
    /// The method kept the cache out of it.
    Method,
    /// Served from another request's fetch.
    Collapsed(Forward),
    /// Neither stored nor asked for.
    Nothing,
}

/// Why a request that the cache takes part in goes to the origin (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forward {
    Miss,
    Stale,
    /// What is stored is fresh, but the client asked for more.
    Request,
}

impl Forward {
    /// The origin answered with this status.
    pub fn answered(self, status: Option<u16>, stored: bool) -> FieldKind {
        match self {
            Self::Miss => FieldKind::Miss { stored },
            Self::Stale => FieldKind::Stale { status, stored },
            Self::Request => FieldKind::Request { status, stored },
        }
    }
}

impl FieldKind {
    /// Whether the origin was not asked for this answer.
    pub fn is_from_store(self) -> bool {
        matches!(self, Self::Hit | Self::Collapsed(_) | Self::StoodIn { .. })
    }

    fn forward_status(self) -> Option<u16> {
        match self {
            Self::Stale { status, .. }
            | Self::Request { status, .. }
            | Self::StoodIn { status } => status,
            _ => None,
        }
    }

    fn is_stored(self) -> bool {
        matches!(
            self,
            Self::Miss { stored: true }
                | Self::Stale { stored: true, .. }
                | Self::Request { stored: true, .. }
        )
    }
}

/// Writes a number in decimal digits. Every hit needs two of them, and the machinery of
/// formatting costs more than the rest of a field.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
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
    out.extend_from_slice(&digits[at..]);
}

/// Writes a string of structured fields (RFC 9651 §4.1.6); what may not stand in one becomes `?`.
fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0x20..=0x7e => out.push(byte),
            _ => out.push(b'?'),
        }
    }
    out.push(b'"');
}

impl StatusField<'_> {
    /// Writes the member.
    pub fn push(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.cache.as_bytes());
        let parameters: &[u8] = match self.kind {
            FieldKind::Hit => b"; hit",
            FieldKind::Miss { .. } => b"; fwd=miss",
            FieldKind::Stale { .. } | FieldKind::StoodIn { .. } => b"; fwd=stale",
            FieldKind::Request { .. } => b"; fwd=request",
            FieldKind::Bypass => b"; fwd=bypass",
            FieldKind::Method => b"; fwd=method",
            FieldKind::Nothing => b"",
            FieldKind::Collapsed(Forward::Miss) => b"; fwd=miss; collapsed",
            FieldKind::Collapsed(Forward::Stale) => b"; fwd=stale; collapsed",
            FieldKind::Collapsed(Forward::Request) => b"; fwd=request; collapsed",
        };
        out.extend_from_slice(parameters);
        if let Some(status) = self.kind.forward_status() {
            out.extend_from_slice(b"; fwd-status=");
            push_number(out, status.into());
        }
        if self.kind.is_stored() {
            out.extend_from_slice(b"; stored");
        }
        if let Some(ttl) = self.ttl {
            out.extend_from_slice(b"; ttl=");
            if ttl < 0 {
                out.push(b'-');
            }
            push_number(out, ttl.unsigned_abs());
        }
        if let Some(detail) = self.detail {
            out.extend_from_slice(b"; detail=");
            out.extend_from_slice(detail.as_bytes());
        }
        if let Some(key) = self.key {
            out.extend_from_slice(b"; key=");
            push_string(out, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_structured_items_with_parameters() {
        let field = |kind, ttl, detail| {
            let mut text = Vec::new();
            StatusField { cache: "headwater", kind, ttl, detail, key: None }.push(&mut text);
            String::from_utf8(text).expect("text")
        };
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
        assert_eq!(
            field(FieldKind::Hit, Some(i64::MIN), None),
            format!("headwater; hit; ttl={}", i64::MIN)
        );
        let collapsed = |why| field(FieldKind::Collapsed(why), None, None);
        assert_eq!(collapsed(Forward::Miss), "headwater; fwd=miss; collapsed");
        assert_eq!(collapsed(Forward::Stale), "headwater; fwd=stale; collapsed");
        let mut text = Vec::new();
        let key = Some("h/a\"b?c");
        let shown = StatusField { cache: "hw", kind: FieldKind::Hit, ttl: None, detail: None, key };
        shown.push(&mut text);
        assert_eq!(text, b"hw; hit; key=\"h/a\\\"b?c\"");
        let stood_in = FieldKind::StoodIn { status: Some(503) };
        assert_eq!(
            field(stood_in, Some(-12), Some("stale-if-error")),
            "headwater; fwd=stale; fwd-status=503; ttl=-12; detail=stale-if-error"
        );
        assert_eq!(
            field(FieldKind::Request { status: Some(304), stored: true }, Some(9), None),
            "headwater; fwd=request; fwd-status=304; stored; ttl=9"
        );
    }
}
