//! What the lints look at: a configuration, its places, and who is in front of each listener.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderName;

use crate::config::diagnostics::Span;
use crate::config::model::{self, Config, Front, Name, Section};
use crate::front::ranges;
use crate::snapshot::{Listener, Snapshot};

/// So many of Cloudflare's networks among those that are trusted are no accident.
const NETWORKS_MIN: usize = 8;

pub(super) struct Site<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) config: &'a Config,
    pub(super) now: SystemTime,
}

/// A listener, and who is in front of it.
#[derive(Clone, Copy)]
pub(super) struct Fronted<'a> {
    pub(super) spec: &'a model::Listener,
    /// Also where only the addresses say so.
    pub(super) front: Front,
}

impl<'a> Site<'a> {
    pub(super) fn new(snapshot: &'a Snapshot, now: SystemTime) -> Self {
        Self { snapshot, config: &snapshot.config, now }
    }

    pub(super) fn compiled(&self, spec: &model::Listener) -> Option<&'a Arc<Listener>> {
        self.snapshot.listeners.get(&spec.name)
    }

    /// A listener without `front` that believes Cloudflare's addresses is behind it all the same.
    pub(super) fn fronted(&self, spec: &'a model::Listener) -> Fronted<'a> {
        let front = match spec.front {
            Front::None if self.trusts_cloudflare(spec) => Front::Cloudflare,
            named => named,
        };
        Fronted { spec, front }
    }

    fn trusts_cloudflare(&self, spec: &model::Listener) -> bool {
        let listed = self.compiled(spec).map(|it| it.trusted.listed()).unwrap_or_default();
        if spec.trusted.len() + listed.len() < NETWORKS_MIN {
            return false;
        }
        let theirs = ranges::built_in(Front::Cloudflare);
        let is_theirs = |network: &&ipnet::IpNet| theirs.contains(network);
        spec.trusted.iter().chain(&listed).filter(is_theirs).count() >= NETWORKS_MIN
    }

    /// The listeners on which a route may match.
    pub(super) fn listeners_of(&self, route: &model::Route) -> Vec<Fronted<'a>> {
        let is_on = |spec: &&model::Listener| {
            route.listeners.is_empty() || route.listeners.contains(&spec.name)
        };
        self.config.listeners.iter().filter(is_on).map(|spec| self.fronted(spec)).collect()
    }

    pub(super) fn place(&self, section: Section, name: &Name, path: &str) -> Option<Span> {
        self.config.places.of(section, name, path)
    }

    /// Where a route says what is in a field of its answers; `None` where it does not.
    pub(super) fn place_of_edit(&self, route: &model::Route, name: &HeaderName) -> Option<Span> {
        let paths = ["response_headers.add", "response_headers.set", "respond.headers"];
        let path = paths
            .into_iter()
            .map(|table| format!("{table}.{name}"))
            .find(|path| self.config.places.has(Section::Route, &route.name, path))?;
        self.place(Section::Route, &route.name, &path)
    }
}
