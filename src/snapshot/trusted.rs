//! Whom a listener believes: what the configuration names, the list that it names, and what is
//! built in for its front.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::cidr::CidrSet;
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{self, Front, RangesFile, RangesSource};
use crate::front::ranges;
use crate::metrics::Counter;

#[derive(Debug)]
pub struct Trusted {
    /// Changes while the listener stays where the list is fetched.
    believed: ArcSwap<Believed>,
    fetches: Arc<Fetches>,
}

/// Attempts to fetch a list, by their end.
#[derive(Debug, Default)]
struct Fetches([Counter; Fetch::ALL.len()]);

/// How an attempt to fetch a list ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    Changed,
    Unchanged,
    /// There was no answer, or another one than a list.
    Failed,
    /// The list is not believed.
    Refused,
}

impl Fetch {
    pub const ALL: [Self; 4] = [Self::Changed, Self::Unchanged, Self::Failed, Self::Refused];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }
}

/// Who is believed at one moment.
#[derive(Debug)]
struct Believed {
    set: CidrSet,
    front: Front,
    /// Of the file or the URL, or built in: what is kept when those go bad.
    listed: Vec<IpNet>,
    /// When the list was made, or fetched last; `None` where it does not change, or nobody knows.
    made_at: Option<SystemTime>,
    /// Why the file or the URL is not used as it is, and what is used instead.
    trouble: Option<String>,
    /// Of the list that was fetched.
    version: Option<u64>,
}

/// A list that was fetched, or why there is no newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Changes with everything that follows.
    pub version: u64,
    /// None yet.
    pub networks: Option<Arc<[IpNet]>>,
    /// When it was last seen to be so.
    pub at: Option<SystemTime>,
    pub trouble: Option<String>,
}

impl Trusted {
    pub(super) fn build(
        spec: &model::Listener,
        previous: Option<&Self>,
    ) -> Result<Self, Diagnostic> {
        let before = previous.map(|previous| previous.believed.load());
        let believed = Believed::build(spec, before.as_deref().map(|before| &**before))?;
        let fetches = previous.map(|previous| previous.fetches.clone()).unwrap_or_default();
        Ok(Self { believed: ArcSwap::from_pointee(believed), fetches })
    }

    /// Counts an attempt to fetch the list.
    pub fn fetched(&self, result: Fetch) {
        self.fetches.0[result as usize].increment();
    }

    pub fn fetches(&self, result: Fetch) -> u64 {
        self.fetches.0[result as usize].value()
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.believed.load().set.contains(address)
    }

    /// Takes a list that was fetched for the listener.
    pub fn take(&self, spec: &model::Listener, fetched: &Fetched) {
        let before = self.believed.load();
        if before.version == Some(fetched.version) {
            return;
        }
        let (listed, made_at) = match &fetched.networks {
            Some(networks) => (networks.to_vec(), fetched.at),
            None => (before.listed.clone(), before.made_at),
        };
        let trouble = fetched.trouble.clone();
        let version = Some(fetched.version);
        self.believed
            .store(Arc::new(Believed { version, ..Believed::new(spec, listed, made_at, trouble) }));
    }

    /// The networks beside those of `trusted`.
    pub fn listed(&self) -> Vec<IpNet> {
        self.believed.load().listed.clone()
    }

    pub fn trouble(&self) -> Option<String> {
        self.believed.load().trouble.clone()
    }

    /// For how long the list has not been made anew. A file that is written again with the same
    /// content is new, and no reload: it is looked at now.
    pub fn age(&self, spec: &model::Listener, now: SystemTime) -> Option<Duration> {
        let believed = self.believed.load();
        let file = match &spec.trusted_from {
            Some(RangesSource::File(file)) if believed.trouble.is_none() => Some(file),
            _ => None,
        };
        let written = file.and_then(|file| modified(&file.path));
        let made_at = written.or(believed.made_at)?;
        Some(now.duration_since(made_at).unwrap_or_default())
    }
}

impl Believed {
    fn build(spec: &model::Listener, previous: Option<&Self>) -> Result<Self, Diagnostic> {
        let built_in = || {
            let listed = ranges::built_in(spec.front);
            (listed, ranges::built_in_taken(spec.front))
        };
        let kept = previous.filter(|kept| kept.front == spec.front && !kept.listed.is_empty());
        let (file, why) = match &spec.trusted_from {
            None => {
                let (listed, made_at) = built_in();
                return Ok(Self::new(spec, listed, made_at, None));
            }
            // What was believed before stays until the list has come.
            Some(RangesSource::Url(_)) => {
                let (listed, made_at) =
                    kept.map_or_else(built_in, |kept| (kept.listed.clone(), kept.made_at));
                return Ok(Self::new(spec, listed, made_at, None));
            }
            Some(RangesSource::File(file)) => match networks_of(file, spec.front) {
                Ok(listed) => return Ok(Self::new(spec, listed, modified(&file.path), None)),
                Err(why) => (file, why),
            },
        };
        let (listed, made_at, instead) = match kept {
            Some(kept) => (kept.listed.clone(), kept.made_at, "the list from before is kept"),
            None => {
                let (listed, made_at) = built_in();
                (listed, made_at, "the built-in list is used")
            }
        };
        let path = file.path.display();
        if listed.is_empty() && spec.trusted.is_empty() {
            let text = format!("listener.{}: {path} cannot be used: {why}", spec.name);
            return Err(Diagnostic::error(file.span.0, text)
                .help("it holds one network a line, such as 192.0.2.0/24; # begins a comment"));
        }
        let instead = if listed.is_empty() { "only `trusted` counts" } else { instead };
        if previous.is_some() {
            tracing::error!(listener = %spec.name, file = %path, "{why}; {instead}");
        }
        Ok(Self::new(spec, listed, made_at, Some(format!("{path}: {why}; {instead}"))))
    }

    fn new(
        spec: &model::Listener,
        listed: Vec<IpNet>,
        made_at: Option<SystemTime>,
        trouble: Option<String>,
    ) -> Self {
        let set = spec.trusted.iter().chain(&listed).copied().collect();
        Self { set, front: spec.front, listed, made_at, trouble, version: None }
    }
}

fn networks_of(file: &RangesFile, front: Front) -> Result<Vec<IpNet>, String> {
    let content = file.content.as_ref().map_err(Clone::clone)?;
    ranges::parse(&content.bytes, front).map_err(|why| why.to_string())
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
