//! Building the Prometheus text of one scrape.

use std::collections::BTreeMap;

use prometheus::proto;

use super::histogram::{LATENCY_BOUNDS, Totals};

/// The families of one scrape, merged by name.
#[derive(Default)]
pub struct Exposition {
    families: BTreeMap<&'static str, proto::MetricFamily>,
}

/// One family while series are added to it.
pub struct Family<'a>(&'a mut proto::MetricFamily);

type Labels<'a> = &'a [(&'static str, &'a str)];

impl Exposition {
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, proto::MetricType::COUNTER)
    }

    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, proto::MetricType::GAUGE)
    }

    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, proto::MetricType::HISTOGRAM)
    }

    fn family(&mut self, name: &'static str, help: &str, kind: proto::MetricType) -> Family<'_> {
        Family(self.families.entry(name).or_insert_with(|| {
            let mut family = proto::MetricFamily::default();
            family.set_name(name.to_owned());
            family.set_help(help.to_owned());
            family.set_field_type(kind);
            family
        }))
    }

    /// The text format, version 0.0.4, with what `others` collected elsewhere. Families without
    /// series are left out.
    pub fn encode(self, others: Vec<proto::MetricFamily>) -> Result<String, prometheus::Error> {
        let families: Vec<_> = self
            .families
            .into_values()
            .chain(others)
            .filter(|family| !family.get_metric().is_empty())
            .collect();
        prometheus::TextEncoder::new().encode_to_string(&families)
    }
}

impl Family<'_> {
    /// Adds one series of a counter or gauge.
    pub fn series(&mut self, labels: Labels<'_>, value: f64) -> &mut Self {
        let mut metric = metric(labels);
        if self.0.get_field_type() == proto::MetricType::COUNTER {
            let mut counter = proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.0.mut_metric().push(metric);
        self
    }

    /// Adds one series of a histogram.
    pub fn distribution(&mut self, labels: Labels<'_>, totals: &Totals) -> &mut Self {
        let mut cumulative = 0;
        let buckets = LATENCY_BOUNDS
            .iter()
            .zip(totals.buckets)
            .map(|(bound, count)| {
                cumulative += count;
                let mut bucket = proto::Bucket::default();
                bucket.set_upper_bound(*bound);
                bucket.set_cumulative_count(cumulative);
                bucket
            })
            .collect();
        let mut values = proto::Histogram::default();
        values.set_bucket(buckets);
        values.set_sample_count(totals.count());
        values.set_sample_sum(totals.sum_seconds);
        let mut metric = metric(labels);
        metric.set_histogram(values);
        self.0.mut_metric().push(metric);
        self
    }
}

fn metric(labels: Labels<'_>) -> proto::Metric {
    let labels = labels
        .iter()
        .map(|(name, value)| {
            let mut pair = proto::LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect();
    proto::Metric::from_label(labels)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::Histogram;

    #[test]
    fn series_of_one_name_share_one_family() {
        let mut scrape = Exposition::default();
        scrape.counter("x_total", "Help.").series(&[("a", "1")], 2.0);
        scrape.counter("x_total", "Help.").series(&[("a", "2")], 3.0);
        let text = scrape.encode(Vec::new()).expect("a well-formed family");
        assert_eq!(
            text,
            "# HELP x_total Help.\n# TYPE x_total counter\nx_total{a=\"1\"} 2\nx_total{a=\"2\"} 3\n"
        );
    }

    #[test]
    fn buckets_are_cumulative_and_end_in_infinity() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(1));
        histogram.observe(Duration::from_secs(100));
        let mut scrape = Exposition::default();
        scrape.histogram("t_seconds", "Help.").distribution(&[], &histogram.totals());
        let text = scrape.encode(Vec::new()).expect("a well-formed family");
        assert!(text.contains("t_seconds_bucket{le=\"0.001\"} 1\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{le=\"10\"} 1\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{le=\"+Inf\"} 2\n"), "{text}");
        assert!(text.contains("t_seconds_count 2\n"), "{text}");
    }

    #[test]
    fn a_family_without_series_is_left_out() {
        let mut scrape = Exposition::default();
        scrape.gauge("empty", "Help.");
        assert_eq!(scrape.encode(Vec::new()).expect("nothing to encode"), "");
    }
}
