//! Requests of HTTP/2 that break a rule of their form (RFC 9113 §8.1.1): errors of their streams.
//!
//! The listener sees them before hyper does and puts a request in their place that can be parsed
//! and says what is wrong. It has a protocol that no client can ask for: the listener lets none
//! pass that holds a space.

use http::request::Parts;
use http::{HeaderMap, Method};

use super::deliver;
use super::exchange::Exchange;
use super::reply::ReplyBody;
use super::upgrade;
use crate::error::Kind;

/// A rule that a header list breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    FieldName,
    FieldValue,
    ConnectionField,
    Te,
    UnknownPseudoField,
    RepeatedPseudoField,
    LatePseudoField,
    Status,
    Method,
    Scheme,
    Path,
    Authority,
    Protocol,
    MissingMethod,
    MissingScheme,
    MissingPath,
    ConnectTarget,
    ConnectBody,
    ProtocolOfOther,
    ContentLength,
    ContentLengths,
    MissingBody,
    OwnDependency,
    PseudoFieldInTrailers,
    TooLarge,
}

impl Rule {
    const ALL: [Self; 25] = [
        Self::FieldName,
        Self::FieldValue,
        Self::ConnectionField,
        Self::Te,
        Self::UnknownPseudoField,
        Self::RepeatedPseudoField,
        Self::LatePseudoField,
        Self::Status,
        Self::Method,
        Self::Scheme,
        Self::Path,
        Self::Authority,
        Self::Protocol,
        Self::MissingMethod,
        Self::MissingScheme,
        Self::MissingPath,
        Self::ConnectTarget,
        Self::ConnectBody,
        Self::ProtocolOfOther,
        Self::ContentLength,
        Self::ContentLengths,
        Self::MissingBody,
        Self::OwnDependency,
        Self::PseudoFieldInTrailers,
        Self::TooLarge,
    ];

    fn kind(self) -> Kind {
        Kind::BadRequest(match self {
            Self::FieldName => "the name of a field is empty, in upper case or no token",
            Self::FieldValue => "the value of a field holds control characters",
            Self::ConnectionField => "a field that belongs to a connection of HTTP/1.1",
            Self::Te => "TE is not trailers",
            Self::UnknownPseudoField => "a pseudo-field that is not known",
            Self::RepeatedPseudoField => "a pseudo-field stands twice",
            Self::LatePseudoField => "a pseudo-field stands behind other fields",
            Self::Status => ":status in a request",
            Self::Method => "the method is no token",
            Self::Scheme => "the scheme is not valid",
            Self::Path => "the path is not valid",
            Self::Authority => "the authority is not valid",
            Self::Protocol => "the protocol of a CONNECT is not valid",
            Self::MissingMethod => "the method is missing",
            Self::MissingScheme => "the scheme is missing",
            Self::MissingPath => "the path is missing",
            Self::ConnectTarget => "CONNECT with a scheme or a path",
            Self::ConnectBody => "CONNECT with a Content-Length",
            Self::ProtocolOfOther => "a protocol without CONNECT",
            Self::ContentLength => "Content-Length is no number",
            Self::ContentLengths => "Content-Length stands twice and differs",
            Self::MissingBody => "Content-Length without a body",
            Self::OwnDependency => "a stream that depends on itself",
            Self::PseudoFieldInTrailers => "a pseudo-field in trailers",
            Self::TooLarge => return Kind::HeadTooLarge,
        })
    }

    /// The protocol of a request that stands for a malformed one with this method.
    pub fn marker(self, method: &str) -> String {
        format!(" {} {method}", self as u8)
    }

    fn of_marker(marker: &str) -> Option<(Self, Method)> {
        let (number, method) = marker.strip_prefix(' ')?.split_once(' ')?;
        let rule = Self::ALL.get(number.parse::<usize>().ok()?)?;
        Some((*rule, Method::from_bytes(method.as_bytes()).ok()?))
    }
}

/// What is wrong with the request that this one stands for, which gets its method back.
pub(super) fn unmask(parts: &mut Parts) -> Option<Kind> {
    if parts.method != Method::CONNECT {
        return None;
    }
    let (rule, method) = Rule::of_marker(upgrade::extended(parts)?.as_str())?;
    parts.method = method;
    Some(rule.kind())
}

/// Answers, and resets the stream after that.
pub(super) fn answer(
    exchange: Exchange,
    asked: &HeaderMap,
    kind: Kind,
) -> http::Response<ReplyBody> {
    let mut response = deliver::error(exchange, asked, kind);
    response.body_mut().reset_at_end();
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_comes_back_from_its_marker() {
        for (index, rule) in Rule::ALL.into_iter().enumerate() {
            assert_eq!(rule as usize, index);
            let (known, method) = Rule::of_marker(&rule.marker("PUT")).expect("a marker");
            assert_eq!((known, method), (rule, Method::PUT));
        }
        for other in ["websocket", "0 GET", " 99 GET", " 0", "", " 0 G T"] {
            assert!(Rule::of_marker(other).is_none(), "{other:?}");
        }
    }
}
