//! What the cache keeps, beside a plain LRU of the same size: hit ratios by requests and by bytes on
//! seeded traces.
//!
//! | trace | is |
//! |---|---|
//! | zipf | 60,000 objects, asked for by Zipf's law with exponent 0.9 |
//! | one-hit | the same, and as many requests for objects that are asked for once |
//! | scan | the same, and after every 40,000 requests a crawler that takes 15,000 of the objects in a row |
//! | shift | the same, but what is popular changes four times |
//!
//! Objects have 1 KiB to 1 MiB, most of them little: together about eight times what fits. They go
//! the way of real ones: look-up, fetch, fill, eviction.
//!
//!     cargo bench --bench admission

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement prints, and has nobody to hand an error to"
)]
#![expect(unreachable_pub, reason = "a bench exports nothing: `pub` is for its own modules")]

mod lru;
mod trace;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater::cache::freshness::LifetimeSource;
use headwater::cache::key::{KeyBuffer, primary};
use headwater::cache::policy::PolicyField;
use headwater::cache::storable::Terms;
use headwater::cache::{Cache, Head, Join, Lookup};
use headwater::config::model;
use headwater::fields::Fields;
use http::header::{CONTENT_TYPE, ETAG};
use http::{HeaderMap, HeaderValue, StatusCode};
use lru::Lru;
use trace::{Request, Trace};

const BYTES_MAX: u64 = 64 << 20;
/// What the LRU counts for each object beside its body, as the cache does.
const OVERHEAD_BYTES: u64 = 640;

#[derive(Default)]
struct Tally {
    requests: u64,
    hits: u64,
    bytes: u64,
    hit_bytes: u64,
}

impl Tally {
    fn count(&mut self, request: &Request, is_hit: bool) {
        self.requests += 1;
        self.bytes += request.bytes;
        if is_hit {
            self.hits += 1;
            self.hit_bytes += request.bytes;
        }
    }

    fn show(&self) -> String {
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole as f64;
        format!(
            "{:>6.1} % {:>6.1} %",
            share(self.hits, self.requests),
            share(self.hit_bytes, self.bytes)
        )
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    println!("{:<8} {:>9}   {:<17}   {:<17}", "trace", "requests", "headwater", "LRU");
    println!(
        "{:<8} {:>9}   {:>8} {:>8}   {:>8} {:>8}",
        "", "", "requests", "bytes", "requests", "bytes"
    );
    for trace in Trace::ALL {
        let requests = trace.requests();
        let ours = runtime.block_on(of_cache(&requests));
        let lru = of_lru(&requests);
        println!("{:<8} {:>9}   {}   {}", trace.name(), requests.len(), ours.show(), lru.show());
    }
}

async fn of_cache(requests: &[Request]) -> Tally {
    let cache = Cache::new(
        &model::Cache {
            memory_bytes_max: BYTES_MAX,
            object_bytes_max: BYTES_MAX / 4,
            variants_max: 16,
            status_key: false,
            name: "bench".into(),
        },
        1,
    );
    let body = Bytes::from(vec![b'x'; 1 << 20]);
    let mut tally = Tally::default();
    for request in requests {
        tally.count(request, ask(&cache, request, &body).await);
    }
    tally
}

/// One request; whether it was a hit.
async fn ask(cache: &Arc<Cache>, request: &Request, body: &Bytes) -> bool {
    let (mut buffer, mut other) = (KeyBuffer::default(), KeyBuffer::default());
    let path = format!("/{}", request.object);
    let key = primary("a.test", &path, None, &mut buffer, cache.hasher());
    let none = HeaderMap::new();
    if let Lookup::Fresh(_) = cache.lookup(key, || &none, &mut other, Instant::now()) {
        return true;
    }
    let Join::Lead(lead) = cache.join(key, &none) else { panic!("nobody else fetches") };
    let Ok(mut fill) = lead.fill(head(), Some(request.bytes), &none) else { return false };
    let mut left = usize::try_from(request.bytes).expect("small");
    while left > 0 {
        let piece = left.min(16 << 10);
        assert!(fill.push(body.slice(..piece)).await);
        left -= piece;
    }
    fill.finish();
    false
}

fn head() -> Head {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("image/png"));
    headers.insert(ETAG, HeaderValue::from_static("\"0123456789abcdef\""));
    Head {
        status: StatusCode::OK,
        fields: Fields::from(&headers),
        own_control: None,
        terms: Terms {
            lifetime: Duration::from_secs(3600),
            source: LifetimeSource::MaxAge,
            field: PolicyField::CacheControl,
            revalidate_always: false,
            must_revalidate: false,
            for_authorized: false,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: None,
        },
        initial_age: Duration::ZERO,
        received: Instant::now(),
        may_code: false,
        tags: Box::default(),
    }
}

fn of_lru(requests: &[Request]) -> Tally {
    let mut lru = Lru::new(BYTES_MAX);
    let mut tally = Tally::default();
    for request in requests {
        tally.count(request, lru.ask(request.object, request.bytes + OVERHEAD_BYTES));
    }
    tally
}
