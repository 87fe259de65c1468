//! The API of a front: whether it is configured, which call is next, and what comes of it.

use std::time::Duration;

use tokio::time::Instant;

use super::FrontName;
use super::bucket::Bucket;
use super::cloudflare;
use super::invalidations::Invalidations;
use super::jobs::{Batch, Jobs};
use super::operation::Kind;
use super::outcome::Outcome;
use crate::config::model::{CloudflarePlan, CloudflarePurge, Purge};
use crate::outgoing::Client;

/// With what is remembered between calls.
#[derive(Debug)]
pub(super) enum Api {
    Cloudflare(Limits),
    CloudFront(Box<Invalidations>),
}

/// Of a plan of Cloudflare.
#[derive(Debug)]
pub(super) struct Limits {
    calls: Bucket,
    /// URLs among what calls name.
    urls: Bucket,
}

/// What is to be done now.
#[derive(Debug)]
pub(super) enum Next {
    Call(Batch),
    /// Nothing, for so long.
    Wait(Duration),
    Nothing,
}

impl Api {
    pub(super) fn new(front: FrontName, now: Instant) -> Self {
        match front {
            FrontName::Cloudflare => {
                let (calls, urls) = cloudflare::rates(CloudflarePlan::Free);
                let (calls, urls) = (Bucket::new(calls, now), Bucket::new(urls, now));
                Self::Cloudflare(Limits { calls, urls })
            }
            FrontName::CloudFront => Self::CloudFront(Box::new(Invalidations::new(now))),
        }
    }

    /// Operations that one call may name.
    pub(super) fn per_call(front: FrontName) -> usize {
        match front {
            FrontName::Cloudflare => cloudflare::OPERATIONS_PER_CALL,
            FrontName::CloudFront => Invalidations::ITEMS_PER_CALL,
        }
    }

    /// The next call for these jobs.
    pub(super) fn next(&mut self, config: &Purge, jobs: &Jobs, now: Instant) -> Next {
        match self {
            Self::Cloudflare(limits) => match &config.cloudflare {
                Some(config) => limits.next(config, jobs, now),
                None => Next::Nothing,
            },
            Self::CloudFront(invalidations) => invalidations.next(jobs, now),
        }
    }

    pub(super) async fn call(&mut self, config: &Purge, client: &Client, batch: &Batch) -> Outcome {
        match (self, &config.cloudflare, &config.cloudfront) {
            (Self::Cloudflare(_), Some(config), _) => {
                let request =
                    cloudflare::request(config, batch.mode, batch.kind, &batch.operations);
                match request {
                    Ok(request) => cloudflare::outcome(client.send(request).await),
                    Err(why) => Outcome::Refused(why),
                }
            }
            (Self::CloudFront(invalidations), _, Some(config)) => {
                invalidations.call(config, client, batch).await
            }
            _ => Outcome::Denied("the front is not configured".to_owned()),
        }
    }

    /// Asks how far an accepted call is, if one is due; when to ask again.
    pub(super) async fn follow(&mut self, config: &Purge, client: &Client) -> Option<Instant> {
        match (self, &config.cloudfront) {
            (Self::CloudFront(invalidations), Some(config)) => {
                invalidations.follow(config, client).await
            }
            _ => None,
        }
    }

    /// Whether an accepted call for a purge is still being worked on.
    pub(super) fn is_busy_with(&self, job: u64) -> bool {
        match self {
            Self::Cloudflare(_) => false,
            Self::CloudFront(invalidations) => invalidations.is_busy_with(job),
        }
    }

    /// A purge is over; why something of it that was accepted was not done, if that is known.
    pub(super) fn forget(&mut self, job: u64) -> Option<String> {
        match self {
            Self::Cloudflare(_) => None,
            Self::CloudFront(invalidations) => invalidations.forget(job),
        }
    }
}

impl Limits {
    fn next(&mut self, config: &CloudflarePurge, jobs: &Jobs, now: Instant) -> Next {
        let Some(batch) = jobs.batch(config.mode, |_| cloudflare::OPERATIONS_PER_CALL) else {
            return Next::Nothing;
        };
        match self.allowance(config, &batch, now) {
            Ok(()) => Next::Call(batch),
            Err(wait) => Next::Wait(wait),
        }
    }

    /// Takes what a call costs, or says how long to wait.
    fn allowance(
        &mut self,
        config: &CloudflarePurge,
        batch: &Batch,
        now: Instant,
    ) -> Result<(), Duration> {
        let (calls, urls) = cloudflare::rates(config.plan);
        self.calls.change(calls);
        self.urls.change(urls);
        if batch.kind == Kind::Url {
            self.urls.take(batch.operations.len() as f64, now)?;
        }
        self.calls.take(1.0, now)
    }
}
