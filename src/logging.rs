//! The program log: one line an event on stderr, its level and format changed by a reload.
//!
//! An event is handed to a thread that writes (`lines`): whoever logs waits for nobody who reads.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal, Write};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Layer, Layered, SubscriberExt};
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::model::{Log, LogFormat};
use crate::lines::Lines;

/// How much of the log may wait to be written, in bytes.
pub const QUEUE_BYTES: usize = 1 << 20;

type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Format = Box<dyn Layer<Filtered> + Send + Sync>;

/// What a reload changes.
#[derive(Clone)]
pub struct ProgramLog {
    filter: Handle<EnvFilter, Registry>,
    format: Handle<Format, Filtered>,
    lines: Lines,
}

impl fmt::Debug for ProgramLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProgramLog")
    }
}

impl ProgramLog {
    /// Begins to log, once in a process; a second call changes nothing that is written.
    pub fn start(config: &Log, lines: Lines) -> Self {
        let (filter, filter_handle) = reload::Layer::new(filter(config));
        let (format, format_handle) = reload::Layer::new(format(config.format, &lines));
        // Fails only where a subscriber is there already, as in tests.
        let _ = tracing_subscriber::registry().with(filter).with(format).try_init();
        Self { filter: filter_handle, format: format_handle, lines }
    }

    pub fn change(&self, before: &Log, now: &Log) {
        // Fails only if the subscriber is gone, and then there is nothing to change.
        if before.level != now.level {
            let _ = self.filter.reload(filter(now));
        }
        if before.format != now.format {
            let _ = self.format.reload(format(now.format, &self.lines));
        }
    }
}

fn filter(config: &Log) -> EnvFilter {
    EnvFilter::new(&config.level)
}

fn format(format: LogFormat, lines: &Lines) -> Format {
    let lines = lines.clone();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(move || Event(lines.clone()))
        .log_internal_errors(false);
    match format {
        LogFormat::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }
}

/// Takes what is written of one event, which is all of it in one piece.
struct Event(Lines);

impl Write for Event {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // What is dropped is counted, and told when there is room again.
        let _ = self.0.push(event.to_vec());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Has panics written to the log, and by nobody to stderr, which may be a pipe that nobody reads.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string);
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => Some(backtrace.to_string()),
            _ => None,
        };
        tracing::error!(thread, place, backtrace, "panicked: {message}");
    }));
}
