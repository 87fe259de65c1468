//! The program log: one line an event on stderr, its level and format changed by a reload.

use std::fmt;
use std::io::IsTerminal;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::model::{Log, LogFormat};

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;

/// What a reload changes.
#[derive(Clone)]
pub struct ProgramLog {
    filter: Handle<EnvFilter, Registry>,
    lines: Handle<Lines, Filtered>,
}

impl fmt::Debug for ProgramLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgramLog")
    }
}

impl ProgramLog {
    /// Begins to log, once in a process; a second call changes nothing that is written.
    pub fn start(config: &Log) -> Self {
        let (filter, filter_handle) = reload::Layer::new(filter(config));
        let (lines, lines_handle) = reload::Layer::new(lines(config.format));
        // Fails only where a subscriber is there already, as in tests.
        let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
        Self { filter: filter_handle, lines: lines_handle }
    }

    pub fn change(&self, before: &Log, now: &Log) {
        // Fails only if the subscriber is gone, and then there is nothing to change.
        if before.level != now.level {
            let _ = self.filter.reload(filter(now));
        }
        if before.format != now.format {
            let _ = self.lines.reload(lines(now.format));
        }
    }
}

fn filter(config: &Log) -> EnvFilter {
    EnvFilter::new(&config.level)
}

fn lines(format: LogFormat) -> Lines {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}
