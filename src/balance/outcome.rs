//! What an answer says of the endpoint that gave it.

use http::{HeaderMap, HeaderName, StatusCode};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Ordered by how much it speaks against the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The endpoint did what it was asked for.
    Good,
    /// It declined, which is cheap and no proof of speed: 4xx.
    Declined,
    /// It failed, for itself or because the request fails everywhere: 5xx, a body that breaks off.
    Failed,
    /// It cannot serve: 502, 503, 504, UNAVAILABLE.
    Unavailable,
}

impl Outcome {
    pub fn of_status(status: StatusCode) -> Self {
        match status.as_u16() {
            502..=504 => Self::Unavailable,
            500.. => Self::Failed,
            400.. => Self::Declined,
            _ => Self::Good,
        }
    }

    /// Of a call of gRPC, whose status stands in its trailers or, where there is nothing else, in
    /// its head. `None` where there is none.
    pub fn of_call(fields: &HeaderMap) -> Option<Self> {
        let code = fields.get(&GRPC_STATUS)?.to_str().ok()?.parse();
        Some(match code {
            Ok(0) => Self::Good,
            // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, DATA_LOSS.
            Ok(2 | 4 | 12 | 13 | 15) => Self::Failed,
            Ok(14) => Self::Unavailable,
            Ok(1_u32..) => Self::Declined,
            Err(_) => Self::Failed,
        })
    }

    pub(super) fn is_failure(self) -> bool {
        self >= Self::Failed
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn statuses_and_calls_say_what_they_mean() {
        let of = |code: u16| Outcome::of_status(StatusCode::from_u16(code).unwrap());
        assert_eq!([200, 304, 101].map(of), [Outcome::Good; 3]);
        assert_eq!([400, 404, 429, 499].map(of), [Outcome::Declined; 4]);
        assert_eq!([500, 501, 507, 599].map(of), [Outcome::Failed; 4]);
        assert_eq!([502, 503, 504].map(of), [Outcome::Unavailable; 3]);
        let of_call = |code: &'static str| {
            Outcome::of_call(&HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(code))]))
        };
        assert_eq!(of_call("0"), Some(Outcome::Good));
        assert_eq!(["5", "7", "16"].map(of_call), [Some(Outcome::Declined); 3]);
        assert_eq!(["13", "2", "x"].map(of_call), [Some(Outcome::Failed); 3]);
        assert_eq!(of_call("14"), Some(Outcome::Unavailable));
        assert_eq!(Outcome::of_call(&HeaderMap::new()), None);
    }
}
