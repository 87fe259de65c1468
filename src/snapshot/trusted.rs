//! Whom a listener believes: what the configuration names, the file that it names, and what is
//! built in for its front.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use crate::cidr::CidrSet;
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{self, Front, RangesFile};
use crate::front::ranges;

#[derive(Debug)]
pub struct Trusted {
    set: CidrSet,
    front: Front,
    /// Of the file, or built in: what is kept when the file goes bad.
    listed: Vec<IpNet>,
    /// When the list was made; `None` where it does not change, or nobody knows.
    made_at: Option<SystemTime>,
    /// Why the file is not used as it is, and what is used instead.
    pub trouble: Option<String>,
}

impl Trusted {
    pub(super) fn build(
        spec: &model::Listener,
        previous: Option<&Self>,
    ) -> Result<Self, Diagnostic> {
        let built_in = || {
            let listed = ranges::built_in(spec.front);
            (listed, ranges::built_in_taken(spec.front))
        };
        let Some(file) = &spec.trusted_from else {
            let (listed, made_at) = built_in();
            return Ok(Self::new(spec, listed, made_at, None));
        };
        let why = match networks_of(file) {
            Ok(listed) => return Ok(Self::new(spec, listed, modified(&file.path), None)),
            Err(why) => why,
        };
        let kept = previous.filter(|kept| kept.front == spec.front && !kept.listed.is_empty());
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
        Self { set, front: spec.front, listed, made_at, trouble }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.set.contains(address)
    }

    /// The networks beside those of `trusted`.
    pub fn listed(&self) -> &[IpNet] {
        &self.listed
    }

    /// For how long the list has not been made anew. A file that is written again with the same
    /// content is new, and no reload: it is looked at now.
    pub fn age(&self, spec: &model::Listener, now: SystemTime) -> Option<Duration> {
        let file = spec.trusted_from.as_ref().filter(|_| self.trouble.is_none());
        let written = file.and_then(|file| modified(&file.path));
        let made_at = written.or(self.made_at)?;
        Some(now.duration_since(made_at).unwrap_or_default())
    }
}

fn networks_of(file: &RangesFile) -> Result<Vec<IpNet>, String> {
    let content = file.content.as_ref().map_err(Clone::clone)?;
    ranges::parse(&content.bytes).map_err(|why| why.to_string())
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}
