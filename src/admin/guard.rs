//! Who may ask.
//!
//! With a token, whoever has it; probes and scrapes need none. Without one, this machine: the API
//! is then on a loopback address or a unix socket, and what is left to fear is a browser that runs
//! there. It is kept out by the name it asks for (DNS rebinding), by the origin it names, and by a
//! content type that no form can send (CSRF).

use std::hint::black_box;
use std::net::IpAddr;

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode};

use super::reply::Refusal;
use super::socket::Reach;
use crate::config::model::Admin;
use crate::route::host;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Who may ask, by the running configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access<'a> {
    Token(&'a str),
    /// No browser that was led here.
    Local {
        any_host: bool,
    },
    /// Probes and scrapes alone.
    Nobody,
}

impl<'a> Access<'a> {
    /// The address was bound at the start, and the configuration may have changed since: it must
    /// not open to the network what was bound for holders of a token.
    pub(super) fn of(admin: Option<&'a Admin>, reach: Reach) -> Self {
        match (admin, reach) {
            (None, _) => Self::Nobody,
            (Some(Admin { token: Some(token), .. }), _) => Self::Token(&token.0),
            (Some(_), Reach::Network) => Self::Nobody,
            (Some(_), Reach::Loopback) => Self::Local { any_host: false },
            (Some(_), Reach::Unix) => Self::Local { any_host: true },
        }
    }

    /// Whether `request` may be answered; `is_public` for probes and scrapes.
    pub(super) fn admit(self, request: &Parts, is_public: bool) -> Result<(), Refusal> {
        match self {
            Self::Token(_) | Self::Nobody if is_public => Ok(()),
            Self::Token(token) => require_token(&request.headers, token),
            Self::Nobody => Err(forbidden(
                "the running configuration turns the admin API off or gives it no token; \
                 restart, or reload by signal",
            )),
            Self::Local { any_host } => {
                if !any_host && !names_this_machine(request) {
                    return Err(forbidden(
                        "without a token the Host must be an IP address or localhost",
                    ));
                }
                if is_cross_site(request) {
                    return Err(forbidden("without a token no other site may ask"));
                }
                Ok(())
            }
        }
    }

    /// Whether an admitted request that changes something may do so.
    pub(super) fn admit_change(self, headers: &HeaderMap) -> Result<(), Refusal> {
        if !matches!(self, Self::Local { .. }) || is_json(headers) {
            return Ok(());
        }
        let message = "without a token the Content-Type must be application/json";
        Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
    }
}

fn forbidden(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, message)
}

fn require_token(headers: &HeaderMap, token: &str) -> Result<(), Refusal> {
    let given = single(headers, &AUTHORIZATION).and_then(|value| value.split_once(' '));
    match given {
        Some((scheme, given))
            if scheme.eq_ignore_ascii_case("bearer")
                && is_same(given.trim().as_bytes(), token.as_bytes()) =>
        {
            Ok(())
        }
        _ => Err(Refusal::new(StatusCode::UNAUTHORIZED, "a bearer token is needed")
            .with(WWW_AUTHENTICATE, "Bearer")),
    }
}

/// Compares in a time that depends on the lengths alone.
fn is_same(given: &[u8], expected: &[u8]) -> bool {
    let difference = given.iter().zip(expected).fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
    given.len() == expected.len() && black_box(difference) == 0
}

/// Whether the request is for an IP address or `localhost`, wherever it says so.
fn names_this_machine(request: &Parts) -> bool {
    let is_local = |authority: &str| {
        host::normalize(authority).is_ok_and(|host| {
            let name = host.name.trim_start_matches('[').trim_end_matches(']');
            name == "localhost" || name.parse::<IpAddr>().is_ok()
        })
    };
    single(&request.headers, &HOST).is_some_and(is_local)
        && request.uri.authority().is_none_or(|authority| is_local(authority.as_str()))
}

/// Whether a browser sends this for a page of another site. Following a link to a page is fine.
fn is_cross_site(request: &Parts) -> bool {
    let headers = &request.headers;
    let is_navigation = request.method == Method::GET
        && headers.get(SEC_FETCH_MODE).is_some_and(|mode| mode == "navigate");
    if headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "cross-site") && !is_navigation {
        return true;
    }
    if !headers.contains_key(ORIGIN) {
        return false;
    }
    let origin = single(headers, &ORIGIN).and_then(|origin| origin.split_once("://"));
    let host = single(headers, &HOST);
    match (origin, host) {
        (Some((_, origin)), Some(host)) => !origin.eq_ignore_ascii_case(host),
        _ => true,
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    single(headers, &CONTENT_TYPE).is_some_and(|value| {
        let essence = value.split(';').next().unwrap_or_default();
        essence.trim().eq_ignore_ascii_case("application/json")
    })
}

/// The text of a field that stands exactly once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    value.to_str().ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use http::Request;

    use super::*;
    use crate::config::model::{BindAddress, Secret};

    const LOCAL: Access<'_> = Access::Local { any_host: false };

    fn parts(method: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/api/status");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[track_caller]
    fn assert_admitted(access: Access<'_>, fields: &[(&str, &str)]) {
        assert!(access.admit(&parts("GET", fields), false).is_ok(), "{fields:?}");
    }

    #[track_caller]
    fn assert_refused(access: Access<'_>, fields: &[(&str, &str)], status: StatusCode) {
        let refusal = access.admit(&parts("GET", fields), false).unwrap_err();
        assert_eq!(refusal.status, status, "{fields:?}");
    }

    #[test]
    fn without_a_token_the_host_is_an_address_or_localhost() {
        for host in ["127.0.0.1", "127.0.0.1:9901", "[::1]:9901", "LOCALHOST:80", "localhost"] {
            assert_admitted(LOCAL, &[("host", host)]);
        }
        for host in ["evil.test", "evil.test:9901", "localhost.evil.test", "127.0.0.1.nip.io", ""] {
            assert_refused(LOCAL, &[("host", host)], StatusCode::FORBIDDEN);
        }
        assert_refused(LOCAL, &[], StatusCode::FORBIDDEN);
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_refused(LOCAL, &twice, StatusCode::FORBIDDEN);
    }

    #[test]
    fn a_name_in_the_target_counts_like_one_in_host() {
        let mut parts = parts("GET", &[("host", "localhost")]);
        parts.uri = "http://evil.test/api/status".parse().unwrap();
        assert!(LOCAL.admit(&parts, false).is_err());
    }

    #[test]
    fn probes_too_need_a_local_host_without_a_token() {
        assert!(LOCAL.admit(&parts("GET", &[("host", "evil.test")]), true).is_err());
    }

    #[test]
    fn a_unix_socket_takes_any_host() {
        assert_admitted(Access::Local { any_host: true }, &[("host", "anything")]);
        assert_admitted(Access::Local { any_host: true }, &[]);
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let host = ("host", "localhost:9901");
        assert_admitted(LOCAL, &[host, ("origin", "http://localhost:9901")]);
        for origin in ["http://evil.test", "http://localhost:80", "null"] {
            assert_refused(LOCAL, &[host, ("origin", origin)], StatusCode::FORBIDDEN);
        }
        let cross = ("sec-fetch-site", "cross-site");
        assert_refused(LOCAL, &[host, cross], StatusCode::FORBIDDEN);
        assert_admitted(LOCAL, &[host, ("sec-fetch-site", "same-origin")]);
    }

    #[test]
    fn a_link_from_another_site_may_be_followed_but_no_form_sent() {
        let fields = [
            ("host", "localhost"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ];
        assert_admitted(LOCAL, &fields);
        assert!(LOCAL.admit(&parts("POST", &fields), false).is_err());
    }

    #[test]
    fn without_a_token_a_change_must_be_json() {
        let change = |content_type| {
            let fields: Vec<_> =
                Option::into_iter(content_type).map(|value| ("content-type", value)).collect();
            LOCAL.admit_change(&parts("POST", &fields).headers)
        };
        assert!(change(Some("application/json")).is_ok());
        assert!(change(Some("Application/JSON; charset=utf-8")).is_ok());
        for other in [None, Some("text/plain"), Some("application/jsonx")] {
            assert_eq!(change(other).unwrap_err().status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        assert!(Access::Token("t").admit_change(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn a_token_is_compared_whole_and_its_host_does_not_matter() {
        let access = Access::Token("s3cret");
        for value in ["Bearer s3cret", "bearer s3cret"] {
            assert_admitted(access, &[("host", "admin.example"), ("authorization", value)]);
        }
        for value in ["Bearer s3cre", "Bearer s3cretx", "Bearer S3CRET", "Basic s3cret", "s3cret"] {
            assert_refused(access, &[("authorization", value)], StatusCode::UNAUTHORIZED);
        }
        assert_refused(access, &[], StatusCode::UNAUTHORIZED);
        let twice = [("authorization", "Bearer s3cret"), ("authorization", "Bearer s3cret")];
        assert_refused(access, &twice, StatusCode::UNAUTHORIZED);
        assert!(access.admit(&parts("GET", &[]), true).is_ok());
    }

    #[test]
    fn a_reload_opens_nothing_that_was_bound_for_holders_of_a_token() {
        let admin = |token: Option<&str>| Admin {
            bind: BindAddress::Unix(PathBuf::from("/run/admin.sock")),
            token: token.map(|token| Secret(token.into())),
            ready_requires: Vec::new(),
        };
        let (with, without) = (admin(Some("t")), admin(None));
        assert_eq!(Access::of(Some(&with), Reach::Network), Access::Token("t"));
        assert_eq!(Access::of(Some(&without), Reach::Network), Access::Nobody);
        assert_eq!(Access::of(None, Reach::Loopback), Access::Nobody);
        assert_eq!(Access::of(Some(&without), Reach::Loopback), LOCAL);
        assert_refused(Access::Nobody, &[("host", "localhost")], StatusCode::FORBIDDEN);
        assert!(Access::Nobody.admit(&parts("GET", &[]), true).is_ok());
    }
}
