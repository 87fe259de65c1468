//! The blocking threads for file work, one set for the whole process.
//!
//! Looking a file up or reading it may block for as long as the disk likes, and a worker must not.
//! Every worker hands its jobs to the same [`Reader`], so the number of threads does not grow with
//! the number of workers. A job holds a place in the queue until a thread takes it; callers wait
//! for a place without blocking.
//!
//! Deliberately absent: priorities, and a bound on how long one job may take. A disk that hangs
//! holds its thread; the callers' own deadlines end their requests.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::tags::Tags;
use crate::error::{Error, Kind};

/// A bounded set of threads that run file jobs in the order of their arrival.
///
/// Dropping it ends the threads without joining them, because the last owner may be a worker: each
/// finishes the job at hand, skips the queued ones (nobody is left to wait for them) and returns.
#[derive(Debug)]
pub struct Reader {
    queue: SyncSender<Job>,
    /// Free places in the queue. As many as the channel holds, so sending never blocks.
    places: Arc<Semaphore>,
    /// The entity tags of the files that were read.
    pub(super) tags: Arc<Tags>,
}

struct Job {
    work: Box<dyn FnOnce() + Send>,
    place: OwnedSemaphorePermit,
}

impl Reader {
    /// Starts `threads` threads, with at most `queue_max` jobs waiting for one; both at least 1.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(threads: usize, queue_max: usize) -> io::Result<Arc<Self>> {
        let queue_max = queue_max.clamp(1, Semaphore::MAX_PERMITS);
        let (queue, jobs) = mpsc::sync_channel(queue_max);
        let jobs = Arc::new(Mutex::new(jobs));
        for number in 0..threads.max(1) {
            let jobs = Arc::clone(&jobs);
            thread::Builder::new()
                .name(format!("files-{number}"))
                .spawn(move || run_jobs(&jobs))?;
        }
        Ok(Arc::new(Self {
            queue,
            places: Arc::new(Semaphore::new(queue_max)),
            tags: Arc::default(),
        }))
    }

    /// Runs `work` on one of the threads. A caller that is dropped cancels a job that has not
    /// begun; one that has begun runs on, and its result is dropped on its thread.
    ///
    /// # Errors
    /// [`Kind::Internal`] when the job panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let place = Arc::clone(&self.places)
            .acquire_owned()
            .await
            .map_err(|closed| Error::caused(Kind::Internal, closed))?;
        let (result, caller) = oneshot::channel();
        let work = Box::new(move || {
            if !result.is_closed() {
                // Fails only when the caller left meanwhile.
                drop(result.send(work()));
            }
        });
        self.queue
            .try_send(Job { work, place })
            .map_err(|_| Error::caused(Kind::Internal, "the file threads have ended"))?;
        caller.await.map_err(|_| Error::caused(Kind::Internal, "a file job panicked"))
    }
}

fn run_jobs(jobs: &Mutex<Receiver<Job>>) {
    loop {
        // One thread waits in `recv`, the others for the lock: a job wakes exactly one of them.
        let next = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { work, place }) = next else { return };
        drop(place);
        // The panic hook has reported it, and the caller sees its channel closed.
        drop(catch_unwind(AssertUnwindSafe(work)));
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;

    /// Far above anything a passing test needs.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// A job that reports its start and then waits until the returned sender is dropped.
    fn gate() -> (impl FnOnce() + Send + 'static, Receiver<()>, SyncSender<()>) {
        let (began, has_begun) = mpsc::sync_channel(1);
        let (open, opened) = mpsc::sync_channel(1);
        let job = move || {
            began.send(()).expect("the test waits");
            let _ = opened.recv_timeout(PATIENCE);
        };
        (job, has_begun, open)
    }

    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn a_job_runs_on_a_named_thread_and_its_result_comes_back() {
        let reader = Reader::start(1, 1).expect("starts");
        let name = reader.run(|| thread::current().name().map(str::to_owned)).await;
        assert_eq!(name.expect("runs").as_deref(), Some("files-0"));
    }

    #[tokio::test]
    async fn callers_wait_for_a_place_once_the_queue_is_full() {
        let reader = Reader::start(1, 2).expect("starts");
        let (job, has_begun, open) = gate();
        let mut running = pin!(reader.run(job));
        assert!(!poll_once(running.as_mut()));
        has_begun.recv_timeout(PATIENCE).expect("the thread took the job");

        let mut first = pin!(reader.run(|| 1));
        let mut second = pin!(reader.run(|| 2));
        let mut third = pin!(reader.run(|| 3));
        assert!(!poll_once(first.as_mut()));
        assert_eq!(reader.places.available_permits(), 1);
        assert!(!poll_once(second.as_mut()));
        assert!(!poll_once(third.as_mut()));
        assert_eq!(reader.places.available_permits(), 0);

        drop(open);
        assert!(running.await.is_ok());
        assert_eq!(first.await.ok(), Some(1));
        assert_eq!(second.await.ok(), Some(2));
        assert_eq!(third.await.ok(), Some(3));
        assert_eq!(reader.places.available_permits(), 2);
    }

    #[tokio::test]
    async fn a_caller_that_leaves_cancels_its_queued_job() {
        let reader = Reader::start(1, 4).expect("starts");
        let (job, has_begun, open) = gate();
        let mut running = pin!(reader.run(job));
        assert!(!poll_once(running.as_mut()));
        has_begun.recv_timeout(PATIENCE).expect("the thread took the job");

        let ran = Arc::new(AtomicBool::new(false));
        {
            let ran = Arc::clone(&ran);
            let mut queued = pin!(reader.run(move || ran.store(true, Ordering::SeqCst)));
            assert!(!poll_once(queued.as_mut()));
        }
        drop(open);
        assert!(running.await.is_ok());
        assert!(reader.run(|| ()).await.is_ok(), "a later job shows that the queue was drained");
        assert!(!ran.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_caller_that_leaves_mid_job_costs_nobody_else_anything() {
        let reader = Reader::start(1, 1).expect("starts");
        let (job, has_begun, open) = gate();
        {
            let mut running = pin!(reader.run(job));
            assert!(!poll_once(running.as_mut()));
            has_begun.recv_timeout(PATIENCE).expect("the thread took the job");
        }
        drop(open);
        assert_eq!(reader.run(|| 7).await.ok(), Some(7));
    }

    #[tokio::test]
    async fn a_job_that_panics_is_an_error_and_its_thread_lives_on() {
        let reader = Reader::start(1, 1).expect("starts");
        let failed: Result<(), Error> =
            reader.run(|| std::panic::resume_unwind(Box::new("broken"))).await;
        assert_eq!(failed.err().map(|error| error.kind()), Some(Kind::Internal));
        assert_eq!(reader.run(|| 7).await.ok(), Some(7));
    }

    #[tokio::test]
    async fn dropping_the_reader_ends_its_threads() {
        struct AtThreadEnd(SyncSender<()>);
        impl Drop for AtThreadEnd {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        thread_local! {
            static LOCAL: std::cell::RefCell<Option<AtThreadEnd>> =
                const { std::cell::RefCell::new(None) };
        }

        let reader = Reader::start(1, 1).expect("starts");
        let (ended, has_ended) = mpsc::sync_channel(1);
        let plant = move || LOCAL.with(|local| local.replace(Some(AtThreadEnd(ended))).is_none());
        assert_eq!(reader.run(plant).await.ok(), Some(true));
        assert!(has_ended.try_recv().is_err());
        drop(reader);
        assert_eq!(has_ended.recv_timeout(PATIENCE), Ok(()));
    }
}
