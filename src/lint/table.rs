//! The lints by name. `docs/lints.md` has the same table, and a test compares them.

use crate::config::diagnostics::{Diagnostic, Span};

/// Something that works, but not as meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lint {
    /// Shown in brackets behind each message.
    pub name: &'static str,
    /// What comes of it.
    pub why: &'static str,
    /// What to write instead.
    pub fix: &'static str,
}

pub(super) const ACME_CHALLENGE: Lint = Lint {
    name: "acme-challenge",
    why: "the authority is to see a TLS handshake (`challenge = \"tls-alpn-01\"`), and the front \
          of every listener with TLS ends TLS itself: each order fails",
    fix: "`challenge = \"http-01\"` in `[acme]`, or a certificate of Cloudflare's Origin CA",
};

pub(super) const CACHE_TAGS: Lint = Lint {
    name: "cache-tags",
    why: "Cloudflare takes 16 KiB of `Cache-Tag` with one answer and 1024 bytes of one tag, \
          CloudFront 50 tags of 256 bytes; what has more cannot be purged by all of its tags",
    fix: "fewer or shorter tags: a hash of a long list, or a tag for the page rather than for each \
          thing on it",
};

pub(super) const CERTIFICATE: Lint = Lint {
    name: "certificate",
    why: "a certificate or list has expired, ends soon (30, 7, 1 days), or cannot be used; \
          behind Cloudflare in mode Full (strict) that is a 526",
    fix: "a new one in the same files: they are taken without a restart",
};

pub(super) const CERTIFICATE_NAMES: Lint = Lint {
    name: "certificate-names",
    why: "no certificate of a listener covers a host of its routes: Cloudflare in mode Full \
          (strict) answers 526",
    fix: "a certificate for the host in `tls.certificates` or `tls.directory`, such as one of \
          Cloudflare's Origin CA, or `listeners` in the route",
};

pub(super) const DEADLINE: Lint = Lint {
    name: "deadline",
    why: "an answer may begin after more than 100 s: Cloudflare has given up by then with a 524, \
          and the endpoint works for nobody",
    fix: "`timeouts.first_byte = \"95s\"` in the pool or `timeout` in the route; for long jobs a \
          202 and a place to ask",
};

pub(super) const IDLE: Lint = Lint {
    name: "idle-timeout",
    why: "the front keeps idle connections as long as the listener or longer, and sends requests \
          into ones that are just being closed: a 520 at Cloudflare, a 502 elsewhere",
    fix: "leave `timeouts.idle` out: its default is longer than the front's",
};

pub(super) const RANGES_AGE: Lint = Lint {
    name: "ranges-age",
    why: "the list of the front's addresses is older than 90 days: a new one would not be \
          believed, and its visitors would count as one client",
    fix: "the URL of the list in `trusted_from`, or a timer that writes the file anew",
};

pub(super) const RANGES_SOURCE: Lint = Lint {
    name: "ranges-source",
    why: "what `trusted_from` names cannot be used; the list from before, or a built-in one, is",
    fix: "one network a line, in which `#` begins a comment, or the JSON of the front",
};

pub(super) const REDIRECT_LOOP: Lint = Lint {
    name: "redirect-loop",
    why: "a front that takes https from visitors and asks here by http (Cloudflare's mode \
          Flexible) is sent to https again, for ever: its `X-Forwarded-Proto` is not believed, or \
          not looked at",
    fix: "`front = \"cloudflare\"` on the plain listener too, and `https_redirect` rather than a \
          route that redirects",
};

pub(super) const SET_COOKIE: Lint = Lint {
    name: "set-cookie",
    why: "an answer that is meant to be cached sets a cookie: Cloudflare does not store it; \
          CloudFront takes the cookie off, or, where it forwards cookies, gives it to everybody",
    fix: "no cookie on such answers: `response_headers.remove = [\"set-cookie\"]`, or another \
          route for what needs it",
};

pub(super) const STALE_OFF: Lint = Lint {
    name: "stale-while-revalidate",
    why: "under Cloudflare's Origin Cache Control `s-maxage`, `must-revalidate`, \
          `proxy-revalidate` and `no-cache` switch `stale-while-revalidate` off: visitors wait \
          whenever something expires",
    fix: "a field for Cloudflare alone, without these: `front_cache = { ttl = \"10m\", \
          stale_while_revalidate = \"1m\" }` in the route, or `Cloudflare-CDN-Cache-Control: \
          max-age=600, stale-while-revalidate=60` from the origin",
};

pub(super) const VARY: Lint = Lint {
    name: "vary",
    why: "Cloudflare looks at no `Vary` but that on `Accept-Encoding`, and at no key of ours: it \
          gives one variant to everybody, unless a cache rule of the zone says otherwise",
    fix: "a cache rule for these fields, or `response_headers.set = { \
          Cloudflare-CDN-Cache-Control = \"no-store\" }`",
};

/// All of them, in the order of their names.
pub const LINTS: [&Lint; 12] = [
    &ACME_CHALLENGE,
    &CACHE_TAGS,
    &CERTIFICATE,
    &CERTIFICATE_NAMES,
    &DEADLINE,
    &IDLE,
    &RANGES_AGE,
    &RANGES_SOURCE,
    &REDIRECT_LOOP,
    &SET_COOKIE,
    &STALE_OFF,
    &VARY,
];

impl Lint {
    /// Says it of something. Without a place it is about an answer, not about the configuration.
    pub(super) fn at(
        &self,
        span: Option<Span>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic {
            severity: crate::config::diagnostics::Severity::Warning,
            span,
            lint: Some(self.name),
            ..Diagnostic::placeless(message)
        }
        .help(help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_docs_have_the_same_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/lints.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (_, table) = text.split_once("## The table").unwrap();
        let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| `")).collect();
        let row = |lint: &&Lint| format!("| `{}` | {} | {} |", lint.name, lint.why, lint.fix);
        let expected: Vec<_> = LINTS.iter().map(row).collect();
        assert_eq!(rows, expected, "docs/lints.md should have:\n{}", expected.join("\n"));
    }

    #[test]
    fn they_are_in_the_order_of_their_names() {
        assert!(LINTS.is_sorted_by(|a, b| a.name < b.name));
    }
}
