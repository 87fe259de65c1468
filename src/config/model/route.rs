//! Routes: which requests they match, and what becomes of them.

use super::*;

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub name: Name,
    /// Empty: any host.
    pub hosts: Vec<HostPattern>,
    /// At least one.
    pub paths: Vec<PathPattern>,
    pub conditions: RequestConditions,
    /// Empty: all listeners.
    pub listeners: Vec<Name>,
    pub priority: i64,
    pub action: Action,
    pub rewrite: Rewrite,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
    /// Networks that clients must come from; empty: any.
    pub allow: Vec<IpNet>,
    /// Networks that clients may not come from, before `allow`.
    pub deny: Vec<IpNet>,
    /// Pages of the operator in place of ours.
    pub errors: Vec<ErrorPage>,
    pub timeout: Option<Duration>,
    /// Bytes of a request body.
    pub body_bytes_max: u64,
    /// Bodies may be taken ahead of those who read them.
    pub buffer: bool,
    pub mirror: Option<Mirror>,
    /// Text is sent in a content coding to whoever takes one.
    pub compress: bool,
    pub websocket: bool,
    /// `None`: the cache is neither asked nor filled.
    pub cache: Option<Arc<RouteCache>>,
    /// What the cache of a front is told of all answers.
    pub front_cache: Option<FrontCache>,
    /// Where the route begins, for errors about ties.
    pub span: SpanOf,
}

/// Lower case, without port and trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    Exact(String),
    /// `*.example.com` is held as `example.com`: one or more labels before it.
    Wildcard(String),
}

/// Patterns match the path in its normal form.
#[derive(Debug, Clone)]
pub enum PathPattern {
    Exact(String),
    /// `/a/*` is held as `/a`; `/*` as the empty string. Matches the prefix itself, with a slash, and below.
    Prefix(String),
    Regex(Regex),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(prefix) => write!(f, "{prefix}/*"),
            Self::Regex(regex) => write!(f, "~{regex}"),
        }
    }
}

impl PartialEq for PathPattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Pool(Name),
    /// At least one.
    Split(Vec<Share>),
    Redirect(Redirect),
    Respond(Respond),
}

/// The page for errors with these statuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    pub statuses: StatusSet,
    pub file: FileContent,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    /// Expands to the Location.
    pub to: Template,
    /// A 3xx status that takes a Location.
    pub status: StatusCode,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Respond {
    pub status: StatusCode,
    pub body: bytes::Bytes,
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rewrite {
    /// Normal form, starts with a slash, ends without one.
    pub strip_prefix: Option<String>,
    /// Normal form, starts with a slash, ends without one.
    pub add_prefix: Option<String>,
    pub host: Option<HeaderValue>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct HeaderEdits {
    pub remove: Vec<HeaderName>,
    pub set: Vec<(HeaderName, Template)>,
    pub add: Vec<(HeaderName, Template)>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// Text with places that are filled in for each request. Literal parts hold only bytes that may
/// stand in a header value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(pub Vec<TemplatePart>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplatePart {
    Literal(String),
    Variable(Variable),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    ClientIp,
    Host,
    RequestId,
    Scheme,
    /// The path, percent-encoded.
    Path,
    /// The query with its `?`, or nothing. Redirects only.
    Query,
}

impl Template {
    /// The text of a template without variables.
    pub fn as_literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [TemplatePart::Literal(text)] => Some(text),
            _ => None,
        }
    }
}
