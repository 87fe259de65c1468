//! From a file to a snapshot: the steps that a start, a check and a reload share.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::config::diagnostics::{self, Diagnostic};
use crate::config::model::SpanOf;
use crate::config::{self, Accepted, Loaded, Refused};
use crate::lint;
use crate::snapshot::{self, Resources, Snapshot};

/// Of the files that the process may open, kept for what is no client and no endpoint: sockets that
/// listen, files, look-ups, probes, the admin API. Of few files, one in so many.
const SPARE_DESCRIPTORS: u64 = 512;
const SPARE_SHARE: u64 = 8;
/// A client's own, and one to an endpoint.
const DESCRIPTORS_PER_CLIENT: u64 = 2;

/// A snapshot that is ready to be published.
#[derive(Debug)]
pub struct Compiled {
    pub snapshot: Snapshot,
    pub warnings: Vec<Diagnostic>,
}

/// Reads a configuration file, with the environment of the process.
pub fn load(path: &Path) -> Loaded {
    config::load(path, &|name| std::env::var(name).ok())
}

/// Compiles what was loaded, or says everything that is wrong with it.
pub fn compile(
    loaded: Loaded,
    previous: Option<&Snapshot>,
    resources: &Resources,
    descriptors_max: u64,
) -> Result<Compiled, Box<Refused>> {
    if loaded.has_errors() {
        // What the draft would be refused for is looked at all the same: all problems at once.
        let Loaded { mut diagnostics, sources, draft, .. } = loaded;
        diagnostics.extend(snapshot::further_problems(&draft, resources));
        diagnostics::sort(&mut diagnostics);
        return Err(Box::new(Refused { diagnostics, sources }));
    }
    let Accepted { mut config, mut warnings, sources } = loaded.into_config().map_err(Box::new)?;
    warnings.extend(fit_connections(&mut config, descriptors_max));
    match Snapshot::build(Arc::new(config), previous, resources) {
        Ok(mut snapshot) => {
            warnings.extend(lint::all(&snapshot, SystemTime::now()));
            diagnostics::sort(&mut warnings);
            snapshot.sources = Arc::new(sources);
            Ok(Compiled { snapshot, warnings })
        }
        Err(problems) => {
            let mut diagnostics = warnings;
            diagnostics.extend(problems);
            diagnostics::sort(&mut diagnostics);
            Err(Box::new(Refused { diagnostics, sources }))
        }
    }
}

/// How many client connections a process may have that may open so many files: each needs its own
/// and, for its requests, one to an endpoint.
pub fn connections_max(descriptors_max: u64) -> usize {
    let spare = SPARE_DESCRIPTORS.min(descriptors_max / SPARE_SHARE);
    let possible = (descriptors_max - spare) / DESCRIPTORS_PER_CLIENT;
    usize::try_from(possible).unwrap_or(usize::MAX).max(1)
}

/// Lowers bounds on connections to what the limit on open files allows, and warns where somebody
/// has written one.
fn fit_connections(config: &mut config::model::Config, descriptors_max: u64) -> Vec<Diagnostic> {
    let possible = connections_max(descriptors_max);
    let mut warnings = Vec::new();
    for listener in &mut config.listeners {
        let limits = &mut listener.limits;
        let wanted = limits.connections_max;
        limits.connections_max = wanted.min(possible);
        if let Some(SpanOf(span)) = limits.connections_at
            && wanted > possible
        {
            let text = format!(
                "listener.{}: limits.connections = {wanted} is lowered to {possible}, as the \
                 process may open {descriptors_max} files, two for each client",
                listener.name
            );
            warnings.push(Diagnostic {
                severity: diagnostics::Severity::Warning,
                ..Diagnostic::error(span, text)
                    .help("raise the hard limit on open files (ulimit -Hn, LimitNOFILE)")
            });
        }
    }
    warnings
}

/// Raises the limit on open files to what the process may have; how many that is.
pub fn raise_descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current.unwrap_or(u64::MAX);
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(_) => limit.current.unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> config::model::Config {
        let folder = std::env::temp_dir().join(format!("headwater-fit-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("headwater.toml");
        std::fs::write(&path, text).expect("a file");
        let config = load(&path).into_config().expect("a good configuration").config;
        let _ = std::fs::remove_dir_all(folder);
        config
    }

    #[test]
    fn bounds_on_connections_fit_the_limit_on_files_and_written_ones_are_warned_of() {
        let mut config = config(
            "[listener.web]\nbind = \"127.0.0.1:0\"\nlimits.connections = 5000\n\
             [[route]]\nrespond = { status = 204 }\n",
        );
        assert!(fit_connections(&mut config, 20_000).is_empty());
        assert_eq!(config.listeners[0].limits.connections_max, 5000);
        let warnings = fit_connections(&mut config, 1024);
        assert_eq!(config.listeners[0].limits.connections_max, 448);
        assert!(!warnings[0].is_error() && warnings[0].message.contains("lowered to 448"));
        assert!(warnings[0].span.is_some(), "it has its place");
        config.listeners[0].limits.connections_at = None;
        config.listeners[0].limits.connections_max = 50_000;
        assert!(fit_connections(&mut config, 1024).is_empty(), "nobody has written it");
        assert_eq!(config.listeners[0].limits.connections_max, 448);
    }
}
