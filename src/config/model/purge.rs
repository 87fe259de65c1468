//! The caches in front of us that are cleared after ours.

use std::sync::Arc;

use super::Secret;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Purge {
    pub cloudflare: Option<CloudflarePurge>,
}

/// A zone of Cloudflare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudflarePurge {
    pub zone: Arc<str>,
    pub token: Secret,
    /// Without a slash at its end.
    pub api: Arc<str>,
    pub mode: FrontPurgeMode,
    pub plan: CloudflarePlan,
}

/// What becomes of what a front holds. A soft purge only ever invalidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontPurgeMode {
    /// It is gone.
    Purge,
    /// It is stale: asked for anew, with its validators.
    Invalidate,
}

/// What the limits of the API depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudflarePlan {
    Free,
    Pro,
    Business,
    Enterprise,
}
