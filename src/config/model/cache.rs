//! What a route asks of the cache.

use super::*;

/// `route.cache`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteCache {
    /// Freshness of 200, 203, 204, 300, 301 and 308 where the response gives none.
    pub ttl: Option<Duration>,
    /// Freshness of the same codes whatever the response says, unless it may not be shared.
    pub ttl_force: Option<Duration>,
    /// Freshness of other codes where the response gives none.
    pub status_ttl: Vec<(u16, Duration)>,
    /// Guess a lifetime from Last-Modified where nothing else gives one.
    pub heuristic: bool,
    /// How long past its end a response answers while it is fetched anew, where the response does
    /// not say.
    pub stale_while_revalidate: Option<Duration>,
    /// How long past its end a response stands in for an error, where the response does not say.
    pub stale_if_error: Option<Duration>,
    pub client_directives: ClientDirectives,
    pub key: KeyRules,
    /// Fields that are forwarded though they override what the key is made of.
    pub forward: Vec<HeaderName>,
    pub bypass: Bypass,
    pub set_cookie: SetCookie,
    /// Further tags of all responses, in lower case.
    pub tags: Vec<String>,
    /// A response is stored from this many requests on.
    pub min_uses: MinUses,
    pub wait: FetchWait,
}

/// How long a request waits for somebody else's fetch before others may begin beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FetchWait {
    /// By what the pool and the key have taken so far.
    #[default]
    Auto,
    Fixed(Duration),
}

/// How many requests it takes until a response is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinUses(pub u32);

impl Default for MinUses {
    fn default() -> Self {
        Self(1)
    }
}

/// What a client's `Cache-Control` about freshness counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientDirectives {
    #[default]
    Ignore,
    Obey,
}

/// What becomes of a response with Set-Cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetCookie {
    /// It is not stored.
    #[default]
    Bypass,
    /// It is stored without its cookies.
    Strip,
    /// It is stored with them.
    Store,
}

/// What the key of a response consists of, beside host and path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRules {
    pub query: QueryKey,
    /// Parameters are sorted by their names.
    pub sort_query: bool,
    pub headers: Vec<HeaderName>,
    pub cookies: Vec<String>,
    pub scheme: bool,
    /// The pool that a split chose.
    pub split: bool,
}

impl Default for KeyRules {
    fn default() -> Self {
        Self {
            query: QueryKey::All,
            sort_query: false,
            headers: Vec::new(),
            cookies: Vec::new(),
            scheme: true,
            split: false,
        }
    }
}

impl KeyRules {
    /// Whether the key is host, path and query as they came.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// Whether there are parts beside host, path and query.
    pub fn has_parts(&self) -> bool {
        self.scheme || self.split || !self.headers.is_empty() || !self.cookies.is_empty()
    }
}

/// Which parameters of a query count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum QueryKey {
    #[default]
    All,
    None,
    Only(Vec<NamePattern>),
    Ignore(Vec<NamePattern>),
}

/// Requests that go past the cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bypass {
    pub cookies: Vec<NamePattern>,
    pub headers: Vec<HeaderName>,
}

/// A name, or the beginning of names, `"utm_*"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamePattern {
    Exact(String),
    Prefix(String),
}

impl NamePattern {
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => name == exact,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}
