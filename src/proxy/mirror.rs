//! Copies of requests for another pool, whose answers nobody reads.
//!
//! A copy is a task of its own, beside the request that it copies: it has no part in that one's
//! time or fate. It is sent once, waits in no queue, and is given up where it would be in the way:
//! at most so many are under way on a worker, and bodies are copied up to what is kept of them.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::attempt::Sending;
use super::deadlines;
use super::forward::{Answer, Asker, Outgoing, Trace};
use super::local::{Local, Place};
use super::retry;
use super::tries::{Tries, Waiting};
use crate::error::{Error, Kind};
use crate::snapshot::stats::Mirrored;
use crate::snapshot::{BackendKind, Mirror};
use crate::timer::TimerSlot;
use crate::upstream::{Nudge, Upload};

/// Copies under way on one worker.
const COPIES_MAX: usize = 128;
/// The whole of one copy, unless the mirror's pool has a `total` that is shorter.
const COPY_TIMEOUT: Duration = Duration::from_secs(60);
/// Of an answer, this much is read, so that its connection can be used again; what is longer is
/// broken off.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Begins to copy a request, if it is one of those that are.
pub(super) fn begin(local: &Rc<Local>, mirror: &Arc<Mirror>, outgoing: &Outgoing) {
    if mirror.share < 1.0 && local.rng.unit() >= mirror.share {
        return;
    }
    // A change of protocol has only one other side.
    let place = outgoing.upgrade.is_none().then(|| Place::take(&local.copies, COPIES_MAX));
    let Some(place) = place.flatten() else { return mirror.stats.mirrored(Mirrored::Dropped) };
    let upload = outgoing.upload.as_ref().map(|upload| upload.whole());
    let mut copy = Outgoing {
        method: outgoing.method.clone(),
        uri: outgoing.uri.clone(),
        headers: outgoing.headers.clone(),
        upload: None,
        client: None,
        ahead_bytes_max: None,
        upgrade: None,
        is_call: outgoing.is_call,
        asker: Asker::unmirrored(outgoing.asker.as_deref()),
    };
    let (local, mirror) = (local.clone(), mirror.clone());
    local.clone().aside.spawn("mirror", async move {
        let _place = place;
        let deadline = Instant::now() + COPY_TIMEOUT;
        if let Some(whole) = upload {
            // The request itself may leave its body unread, or its client may break it off.
            let Ok(Ok(whole)) = timeout_at(deadline, whole).await else {
                return mirror.stats.mirrored(Mirrored::Dropped);
            };
            copy.upload = Some(Upload::copy(whole, &local.buffers));
        }
        let result = match send(&local, &mirror, &copy, deadline).await {
            Ok(()) => Mirrored::Answered,
            Err(error) if error.kind() == Kind::QueueFull => Mirrored::Dropped,
            Err(error) => {
                tracing::debug!(%error, pool = %mirror.backend.spec.name, "copy failed");
                Mirrored::Failed
            }
        };
        mirror.stats.mirrored(result);
    });
}

async fn send(
    local: &Rc<Local>,
    mirror: &Mirror,
    copy: &Outgoing,
    deadline: Instant,
) -> Result<(), Error> {
    let backend = &mirror.backend;
    let BackendKind::Balanced(balanced) = &backend.kind else { return Ok(()) };
    let mut trace = Trace::default();
    let timers = TimerSlot::default();
    let timeouts = &backend.spec.timeouts;
    let whole = deadlines::whole(Instant::now(), None, timeouts, (&copy.method, &copy.headers));
    let whole = whole.map_or(deadline, |whole| whole.min(deadline));
    let sending = Sending {
        local,
        balanced,
        outgoing: copy,
        keepalive: backend.spec.keepalive,
        announces: timeouts.announce,
        deadlines: deadlines::of_tries(timeouts, copy, Some(whole)),
        timers: &timers,
        is_idempotent: retry::is_idempotent(&copy.method),
        nudge: Nudge::default(),
    };
    match Tries::new(&sending, &mut trace, Waiting::Never).run().await? {
        Answer::Response(response) => {
            let mut body = response.into_body();
            let mut left = ANSWER_BYTES_MAX;
            while let Some(frame) = body.frame().await.transpose()? {
                let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, bytes::Bytes::len))
                else {
                    break;
                };
                left = rest;
            }
            Ok(())
        }
        Answer::Upgraded(_) => Err(Kind::BadResponse.into()),
    }
}
