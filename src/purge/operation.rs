//! What is purged, in terms that every front knows.

/// One thing to purge. Hosts are in lower case and without port, paths in normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// One absolute URL.
    Url(String),
    Tag(String),
    /// `host/path`, and all that begins so.
    Prefix(String),
    Host(String),
    All,
}

/// Kinds that a call does not mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Url,
    Tag,
    Prefix,
    Host,
    All,
}

impl Operation {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Url(_) => Kind::Url,
            Self::Tag(_) => Kind::Tag,
            Self::Prefix(_) => Kind::Prefix,
            Self::Host(_) => Kind::Host,
            Self::All => Kind::All,
        }
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::Url(text) | Self::Tag(text) | Self::Prefix(text) | Self::Host(text) => text,
            Self::All => "",
        }
    }
}
