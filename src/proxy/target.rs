//! What a request is for, checked: its host, path and query.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, HOST};
use http::{Method, Version};

use super::client::{ClientConnection, Protocol};
use super::headers;
use crate::error::Kind;
use crate::route::host::{self, Authority};
use crate::route::path;

/// The target of a request in its normal form.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// In normal form, as it is forwarded; empty where HTTP/1.0 sent none.
    pub authority: Cow<'a, str>,
    /// Lower case, without port and trailing dot.
    pub host: Cow<'a, str>,
    /// Of the authority, where it is not the scheme's own.
    pub port: Option<u16>,
    pub path: Cow<'a, str>,
    pub query: Option<&'a str>,
}

/// A target that outlives the head it was read from.
#[derive(Debug)]
pub(super) struct Owned {
    authority: String,
    host: String,
    port: Option<u16>,
    path: String,
    query: Option<String>,
}

impl Owned {
    pub(super) fn as_target(&self) -> Target<'_> {
        Target {
            authority: Cow::Borrowed(&self.authority),
            host: Cow::Borrowed(&self.host),
            port: self.port,
            path: Cow::Borrowed(&self.path),
            query: self.query.as_deref(),
        }
    }
}

impl<'a> Target<'a> {
    pub(super) fn into_owned(self) -> Owned {
        Owned {
            authority: self.authority.into_owned(),
            host: self.host.into_owned(),
            port: self.port,
            path: self.path.into_owned(),
            query: self.query.map(str::to_owned),
        }
    }

    /// Checks a head against the rules that hyper leaves to its user.
    pub(super) fn of(
        request: &'a http::request::Parts,
        connection: &ClientConnection,
        number: u64,
    ) -> Result<Self, Kind> {
        if let Some(rule) = connection.violation_of(number) {
            return Err(Kind::BadRequest(rule));
        }
        let limits = &connection.listener.spec.limits;
        if connection.protocol == Protocol::H2 && request.headers.len() > limits.headers_max {
            return Err(Kind::HeadTooLarge);
        }
        let path_and_query = request.uri.path_and_query();
        if path_and_query.is_some_and(|target| target.as_str().len() > limits.uri_bytes_max) {
            return Err(Kind::UriTooLong);
        }
        // HTTP/2 has no chunked bodies and so no second length; HTTP/1.1 was checked in the raw.
        if request.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
            return Err(Kind::BadRequest("Content-Length stands twice"));
        }
        let scheme = request.uri.scheme_str();
        if scheme.is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
            return Err(Kind::BadRequest("the scheme of the target is neither http nor https"));
        }
        let raw = authority(request)?;
        let Authority { host, port, text: authority } = if raw.is_empty() {
            Authority { host: Cow::Borrowed(""), port: None, text: Cow::Borrowed("") }
        } else {
            host::authority(raw, || headers::scheme(connection, &request.headers))
                .map_err(|error| Kind::BadRequest(error.as_str()))?
        };
        if matches!(request.method, Method::CONNECT | Method::TRACE) {
            return Err(Kind::MethodNotAllowed);
        }
        let path = request.uri.path();
        let path = if path == "*" && request.method == Method::OPTIONS {
            Cow::Borrowed(path)
        } else {
            path::normalize(path).map_err(|error| Kind::BadRequest(error.as_str()))?
        };
        Ok(Self { authority, host, port, path, query: request.uri.query() })
    }
}

/// The one authority of a request (RFC 9113 §8.3.1). What an absolute target of HTTP/1.1 names
/// stands above Host (RFC 9112 §3.2.2).
fn authority(request: &http::request::Parts) -> Result<&str, Kind> {
    let mut hosts = request.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Kind::BadRequest("Host stands twice"));
    }
    let host = host
        .map(|host| host.to_str().map_err(|_| Kind::BadRequest("Host is not visible ASCII")))
        .transpose()?;
    let target = request.uri.authority().map(http::uri::Authority::as_str);
    match (target, host) {
        (Some(target), Some(host))
            if request.version == Version::HTTP_2 && !target.eq_ignore_ascii_case(host) =>
        {
            Err(Kind::BadRequest("Host differs from the authority of the target"))
        }
        (Some(target), _) if target.contains('@') => {
            Err(Kind::BadRequest("the authority holds user information"))
        }
        (Some(_), None) if request.version == Version::HTTP_11 => {
            Err(Kind::BadRequest("Host is missing"))
        }
        (Some(target), _) => Ok(target),
        (None, Some("")) => Err(Kind::BadRequest("Host is empty")),
        (None, Some(host)) => Ok(host),
        (None, None) if request.version == Version::HTTP_10 => Ok(""),
        (None, None) => Err(Kind::BadRequest("Host is missing")),
    }
}
