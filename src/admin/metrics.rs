//! `GET /metrics`: every family of the process, written on a thread aside.
//!
//! What owns a feature writes its own series; here are those of the process as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use http::StatusCode;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;

use super::Context;
use super::reloads::ReloadRecord;
use super::reply::Refusal;
use crate::config::model::Front;
use crate::metrics::Exposition;
use crate::purge::Shared;
use crate::snapshot::{Fetch, Snapshot};
use crate::tls::CertificateName;

/// The label of requests that match no route.
const UNROUTED: &str = "none";

/// Everything that one scrape reads.
pub(super) struct Scrape {
    snapshot: Arc<Snapshot>,
    reloads: ReloadRecord,
    program_log_dropped: u64,
    access_log_dropped: u64,
    purges: Shared,
}

impl Scrape {
    pub(super) fn of(context: &Context, snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            reloads: context.reloads.record(),
            purges: context.purges.clone(),
            program_log_dropped: context.program_log.dropped(),
            access_log_dropped: context.access_log.dropped(),
        }
    }

    /// The exposition. With many endpoints it takes long.
    pub(super) fn encode(&self) -> Result<String, Refusal> {
        let mut out = Exposition::default();
        self.collect_traffic(&mut out);
        self.collect_certificates(&mut out);
        self.collect_certificate_problems(&mut out);
        self.collect_trusted(&mut out);
        self.collect_config(&mut out);
        for (result, counter) in [
            ("issued", &self.snapshot.challenges.issued),
            ("failed", &self.snapshot.challenges.failed),
        ] {
            out.counter("headwater_acme_orders_total", "Orders of certificates, by their end.")
                .series(&[("result", result)], counter.value() as f64);
        }
        for (result, counter) in [
            ("revoked", &self.snapshot.challenges.revoked),
            ("failed", &self.snapshot.challenges.not_revoked),
        ] {
            out.counter(
                "headwater_acme_revocations_total",
                "Revocations of certificates that were replaced, by their end.",
            )
            .series(&[("result", result)], counter.value() as f64);
        }
        self.purges.collect(&self.snapshot.config, &mut out);
        out.counter(
            "headwater_access_log_dropped_total",
            "Lines of the access log that were dropped: what takes them is slow or fails.",
        )
        .series(&[], self.access_log_dropped as f64);
        out.counter(
            "headwater_log_dropped_total",
            "Lines of the program log that were dropped: what takes them is slow or fails.",
        )
        .series(&[], self.program_log_dropped as f64);
        out.gauge("headwater_build_info", "Always 1; the version is a label.")
            .series(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        out.encode(ProcessCollector::for_self().collect()).map_err(|error| {
            tracing::error!(%error, "metrics cannot be written");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written")
        })
    }

    fn collect_traffic(&self, out: &mut Exposition) {
        let snapshot = &self.snapshot;
        let listeners: Vec<_> = snapshot
            .config
            .listeners
            .iter()
            .filter_map(|spec| snapshot.listeners.get(&spec.name))
            .collect();
        let ids: Vec<(usize, &str)> =
            listeners.iter().map(|listener| (listener.id, &*listener.spec.name)).collect();
        let is_fronted = listeners.iter().any(|listener| listener.spec.front != Front::None);
        for route in &snapshot.routes {
            route.stats.collect(&route.spec.name, &ids, out);
            if is_fronted {
                route.stats.collect_oversized(&route.spec.name, out);
            }
            if route.front_cache.is_some() {
                route.stats.collect_front(&route.spec.name, out);
            }
        }
        snapshot.unrouted.collect(UNROUTED, &ids, out);
        for listener in listeners {
            listener.stats.collect(&listener.spec.name, listener.tls.is_some(), out);
        }
        for pool in &snapshot.config.pools {
            let backend = snapshot.backends.get(&pool.name);
            if let Some(balanced) = backend.and_then(|backend| backend.balanced()) {
                balanced.pool.collect(out);
            }
        }
        snapshot.cache.collect(out);
    }

    /// Certificates of one name are one series: the one that expires first matters.
    fn collect_certificates(&self, out: &mut Exposition) {
        let mut ends: BTreeMap<String, i64> = BTreeMap::new();
        let listeners = self.snapshot.listeners.values();
        for tls in listeners.filter_map(|listener| listener.tls.as_ref()) {
            for certificate in tls.certificates.certificates() {
                let name = certificate.names.first().map(CertificateName::to_string);
                let end =
                    ends.entry(name.unwrap_or_default()).or_insert(certificate.validity.not_after);
                *end = certificate.validity.not_after.min(*end);
            }
        }
        for (name, end) in &ends {
            out.gauge(
                "headwater_tls_certificate_not_after_timestamp_seconds",
                "When the first certificate of this name expires.",
            )
            .series(&[("name", name)], *end as f64);
        }
    }

    /// Pairs of folders that are not right, and what is served instead.
    fn collect_certificate_problems(&self, out: &mut Exposition) {
        for listener in self.snapshot.listeners.values() {
            let Some(tls) = &listener.tls else { continue };
            out.gauge(
                "headwater_tls_certificate_problems",
                "Certificates of a folder that cannot be used as they are.",
            )
            .series(&[("listener", &listener.spec.name)], tls.problems.len() as f64);
        }
    }

    /// The lists of the fronts' addresses.
    fn collect_trusted(&self, out: &mut Exposition) {
        let now = SystemTime::now();
        for listener in self.snapshot.listeners.values() {
            let (spec, trusted) = (&listener.spec, &listener.trusted);
            if spec.front == Front::None && spec.trusted_from.is_none() {
                continue;
            }
            let label = ("listener", &*spec.name);
            out.gauge("headwater_trusted_ranges", "Networks of the front that are believed.")
                .series(&[label], trusted.listed().len() as f64);
            out.gauge(
                "headwater_trusted_ranges_problem",
                "1 if the list of the front's networks cannot be used, and others are.",
            )
            .series(&[label], f64::from(u8::from(trusted.trouble().is_some())));
            let url = spec.trusted_from.as_ref().and_then(|from| from.url());
            for result in url.map_or(&[][..], |_| &Fetch::ALL) {
                out.counter(
                    "headwater_trusted_ranges_fetches_total",
                    "Attempts to fetch the list of the front's networks, by their end.",
                )
                .series(&[label, ("result", result.as_str())], trusted.fetches(*result) as f64);
            }
            if let Some(age) = trusted.age(spec, now) {
                out.gauge(
                    "headwater_trusted_ranges_age_seconds",
                    "Since when the list of the front's networks has not been made anew.",
                )
                .series(&[label], age.as_secs_f64());
            }
        }
    }

    fn collect_config(&self, out: &mut Exposition) {
        let reloads = &self.reloads;
        let since_epoch = reloads.succeeded_at.duration_since(SystemTime::UNIX_EPOCH);
        out.gauge("headwater_config_generation", "Counts the configurations that took effect.")
            .series(&[], self.snapshot.generation as f64);
        out.gauge("headwater_config_last_reload_successful", "1 unless the last reload failed.")
            .series(&[], f64::from(u8::from(reloads.is_successful())));
        out.gauge(
            "headwater_config_last_reload_timestamp_seconds",
            "When a configuration was last read without errors.",
        )
        .series(&[], since_epoch.map_or(0.0, |since| since.as_secs() as f64));
        for (result, count) in [("success", reloads.succeeded), ("failure", reloads.failed)] {
            out.counter("headwater_config_reloads_total", "Reloads, by their result.")
                .series(&[("result", result)], count as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::time::{Duration, Instant};

    use super::super::ReloadLog;
    use super::super::testing::{certificates, snapshot};
    use super::*;
    use crate::balance::Reply;
    use crate::cache::status::CacheStatus;
    use crate::compress::Coding;
    use crate::snapshot::stats::Finished;

    fn scrape(snapshot: Snapshot) -> Scrape {
        let log = ReloadLog::default();
        log.failed("no".to_owned());
        let succeeded_at = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        let reloads = ReloadRecord { succeeded_at, ..log.record() };
        Scrape {
            snapshot: Arc::new(snapshot),
            reloads,
            program_log_dropped: 2,
            access_log_dropped: 3,
            purges: Arc::default(),
        }
    }

    /// Two of everything, each with some traffic.
    fn busy() -> Snapshot {
        let folder = certificates("site.test");
        let at = folder.path().display();
        let snapshot = snapshot(&format!(
            "[listener.a]\nbind = \"127.0.0.1:0\"\n\
             tls.certificates = [{{ cert = \"{at}/site.crt\", key = \"{at}/site.key\" }}]\n\
             [listener.b]\nbind = \"127.0.0.1:0\"\n\
             [pool.app]\nendpoints = [\"10.0.0.1:80\", \"10.0.0.2:80\"]\nhealth.path = \"/\"\n\
             [pool.other]\nendpoints = [\"10.0.0.1:80\"]\n\
             [pool.found]\ndns = \"app.test:80\"\n\
             [[route]]\nname = \"one\"\npool = \"app\"\npaths = [\"/one\"]\ncache = true\n\
             [[route]]\nname = \"two\"\npool = \"other\"\npaths = [\"/two\"]\n"
        ));
        for route in snapshot.routes.iter().map(|route| &route.stats).chain([&snapshot.unrouted]) {
            for (listener_id, status) in
                snapshot.listeners.values().map(|listener| listener.id).zip([200, 404])
            {
                route.count(&Finished {
                    listener_id,
                    status: StatusCode::from_u16(status).unwrap(),
                    duration: Duration::from_millis(3),
                    request_bytes: 1,
                    response_bytes: 2,
                    cache: Some(CacheStatus::Hit),
                    coding: Some(Coding::Brotli),
                });
            }
        }
        let now = Instant::now();
        for backend in snapshot.backends.values() {
            let pool = &backend.balanced().unwrap().pool;
            pool.stats.discovered.answered(now);
            for member in pool.members().iter() {
                let reply = Reply::whole(StatusCode::OK, Duration::from_millis(1));
                pool.responded(&member.endpoint, reply, now);
            }
        }
        snapshot
    }

    /// Checks the rules of the text format; the samples by series.
    fn parse(text: &str) -> HashMap<String, f64> {
        let mut types: HashMap<&str, &str> = HashMap::new();
        let mut helps = HashSet::new();
        let mut closed = HashSet::new();
        let mut family = "";
        let mut samples = HashMap::new();
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(helps.insert(name), "HELP of {name} stands twice");
                assert!(!help.is_empty(), "{name} has no help");
                continue;
            }
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(types.insert(name, kind).is_none(), "TYPE of {name} stands twice");
                assert!(closed.insert(name), "the samples of {name} do not stand together");
                family = name;
                continue;
            }
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let suffixes: &[&str] = match types[family] {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            let belongs = suffixes.iter().any(|suffix| name == format!("{family}{suffix}"));
            assert!(belongs, "{series} is a sample of {family}");
            if types[family] == "counter" {
                assert!(family.ends_with("_total"), "{family}");
            }
            let value = value.parse().unwrap();
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} stands twice");
        }
        assert_eq!(helps, types.keys().copied().collect());
        samples
    }

    #[test]
    fn a_scrape_is_a_valid_exposition_with_every_family() {
        let text = scrape(busy()).encode().unwrap();
        let samples = parse(&text);
        let families = [
            "http_requests_total",
            "http_request_duration_seconds_count",
            "http_requests_in_flight",
            "http_request_bytes_total",
            "http_response_bytes_total",
            "cache_requests_total",
            "http_coded_responses_total",
            "cache_bytes",
            "cache_bytes_max",
            "cache_objects",
            "cache_evictions_total",
            "cache_purged_total",
            "upstream_requests_total",
            "upstream_duration_seconds_count",
            "upstream_connect_seconds_count",
            "upstream_connections",
            "endpoint_healthy",
            "endpoint_requests_in_flight",
            "endpoint_latency_ewma_seconds",
            "health_checks_total",
            "ejections_total",
            "dns_lookups_total",
            "dns_records_ignored_total",
            "dns_answer_age_seconds",
            "retries_total",
            "retry_budget_exhausted_total",
            "connections",
            "connections_accepted_total",
            "connections_rejected_total",
            "tls_handshakes_total",
            "tls_handshake_seconds_count",
            "tls_certificate_not_after_timestamp_seconds",
            "http_parse_errors_total",
            "config_generation",
            "config_last_reload_successful",
            "config_last_reload_timestamp_seconds",
            "config_reloads_total",
            "access_log_dropped_total",
            "log_dropped_total",
            "tls_certificate_problems",
            "build_info",
        ];
        let names: HashSet<_> =
            samples.keys().map(|series| series.split('{').next().unwrap()).collect();
        for family in families {
            assert!(names.contains(&*format!("headwater_{family}")), "{family} is missing");
        }
        assert!(names.contains("process_resident_memory_bytes"));
    }

    #[test]
    fn the_figures_of_the_process_are_its_own() {
        let samples = parse(&scrape(busy()).encode().unwrap());
        assert_eq!(samples["headwater_access_log_dropped_total"], 3.0);
        assert_eq!(samples["headwater_log_dropped_total"], 2.0);
        assert_eq!(samples["headwater_config_generation"], 1.0);
        assert_eq!(samples["headwater_config_last_reload_successful"], 0.0);
        assert_eq!(samples["headwater_config_last_reload_timestamp_seconds"], 7.0);
        assert_eq!(samples["headwater_config_reloads_total{result=\"failure\"}"], 1.0);
        let expiry = "headwater_tls_certificate_not_after_timestamp_seconds{name=\"site.test\"}";
        assert!(samples[expiry] > 1.7e9);
    }
}
