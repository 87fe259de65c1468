//! What a fetch came to, and whom its answer is for.

use std::sync::Arc;

use http::HeaderMap;

use super::entry::{Entry, Head};
use super::flight::Flight;
use super::key::{Key, KeyBuffer, KeyHasher, KeyRef};
use super::reuse::Fault;
use super::storable::Refusal;
use super::tags::Tag;
use super::variants::Search;
use super::vary::VaryFields;

/// What a fetch came to.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The answer is shared: read it from the flight.
    Streaming(Arc<Shared>),
    /// Another fetch had brought a fresh response, or this one was given up: look again.
    Found,
    /// The origin confirmed a stored response.
    Confirmed { entry: Arc<Entry>, scope: Scope },
    /// This fetch brought an answer for everybody before the one that is asked about did.
    Overtaken(Arc<Flight>),
    /// The answer belongs to one request only; everybody fetches alone.
    Alone(Refusal),
    /// The fetch failed before there was an answer that anybody could share. Whoever may takes
    /// what is stored.
    Failed(Fault),
}

impl Outcome {
    /// Whether there is an answer for everybody.
    pub(super) fn is_for_everybody(&self) -> bool {
        matches!(self, Self::Streaming(_) | Self::Confirmed { .. } | Self::Overtaken(_))
    }
}

/// Which requests a response answers.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Of its URL, with the form of the query that counts.
    pub(super) primary: Key,
    /// What counts of a query, where that is not all of it.
    pub(super) search: Option<Search>,
    /// What selects this variant, where the URL varies.
    pub(super) variant: Option<Variant>,
}

/// The fields by which a URL varies, and the key of one of its variants.
#[derive(Debug, Clone)]
pub(super) struct Variant {
    pub(super) fields: VaryFields,
    pub(super) key: Key,
}

/// What a response may be purged by, beside its URL.
#[derive(Debug)]
pub(super) struct Marks {
    pub(super) tags: Box<[Tag]>,
    /// It answers other queries as well.
    pub(super) by_search: bool,
}

/// The head of a shared answer.
#[derive(Debug)]
pub struct Shared {
    pub head: Head,
    /// Of the body in bytes, where it is known ahead.
    pub length: Option<u64>,
    pub scope: Scope,
    /// It is stored at the same time.
    pub is_stored: bool,
}

impl Scope {
    /// Whether it holds a request for this URL with these fields.
    pub fn holds(&self, primary: KeyRef<'_>, request: &HeaderMap, hasher: &KeyHasher) -> bool {
        let mut buffer = KeyBuffer::default();
        let primary = match &self.search {
            None => primary,
            Some(search) => match search.key(primary, &mut buffer, hasher) {
                Some(key) => key,
                None => return false,
            },
        };
        equivalent::Equivalent::equivalent(&primary, &self.primary)
            && self.variant.as_ref().is_none_or(|variant| {
                variant.fields.variant_key_owned(primary, request, hasher) == variant.key
            })
    }
}
