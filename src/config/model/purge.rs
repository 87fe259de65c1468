//! The caches in front of us that are cleared after ours.

use std::sync::Arc;

use super::Secret;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Purge {
    pub cloudflare: Option<CloudflarePurge>,
    pub cloudfront: Option<CloudFrontPurge>,
}

/// A distribution of CloudFront.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudFrontPurge {
    pub distribution: Arc<str>,
    pub credentials: AwsCredentials,
    /// Without a slash at its end.
    pub api: Arc<str>,
    pub tags: CloudFrontTags,
}

/// Who calls an API of AWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsCredentials {
    pub access_key_id: Arc<str>,
    pub secret_access_key: Secret,
    /// Of credentials that expire.
    pub session_token: Option<Secret>,
}

/// What a purge of tags is for CloudFront.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudFrontTags {
    /// The same: the distribution is told which field holds the tags.
    Tags,
    /// It knows no tags, so everything goes.
    All,
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
