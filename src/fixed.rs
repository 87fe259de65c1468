//! Settings that are read at start only.
//!
//! A configuration that is taken later runs with those of the start. That it asks for others is said
//! as long as it is so.

use crate::config::Loaded;
use crate::config::diagnostics::{Diagnostic, Severity};
use crate::config::model::{BindAddress, Config};

/// As they were at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    workers: usize,
    /// `None` if there is no admin API.
    admin: Option<BindAddress>,
}

impl Fixed {
    pub fn of(config: &Config) -> Self {
        let admin = config.admin.as_ref().map(|admin| admin.bind.clone());
        Self { workers: config.process.workers, admin }
    }

    /// Puts what runs into what was loaded, with a warning for each difference.
    pub fn hold(&self, loaded: &mut Loaded) {
        let draft = &mut loaded.draft;
        let asked = Self::of(draft);
        if asked.workers != self.workers {
            draft.process.workers = self.workers;
            let (runs, asked) = (self.workers, asked.workers);
            loaded.diagnostics.push(warning(
                "process.workers",
                &runs.to_string(),
                &asked.to_string(),
            ));
        }
        if asked.admin != self.admin {
            match (&self.admin, &mut draft.admin) {
                (Some(runs), Some(admin)) => admin.bind = runs.clone(),
                // An API that is no longer wanted answers probes alone.
                (Some(_), None) => {}
                (None, admin) => *admin = None,
            }
            let (runs, asked) = (shown(self.admin.as_ref()), shown(asked.admin.as_ref()));
            loaded.diagnostics.push(warning("admin.bind", &runs, &asked));
        }
    }
}

fn shown(bind: Option<&BindAddress>) -> String {
    bind.map_or_else(|| "off".to_owned(), ToString::to_string)
}

fn warning(key: &str, runs: &str, asked: &str) -> Diagnostic {
    let message =
        format!("{key} is read at start: {runs} goes on until a restart makes it {asked}");
    Diagnostic { severity: Severity::Warning, ..Diagnostic::placeless(message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn loaded(text: &str) -> Loaded {
        let folder = std::env::temp_dir().join(format!("headwater-fixed-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(format!("{}.toml", text.len()));
        std::fs::write(&path, text).expect("a file");
        config::load(&path, &|_| None)
    }

    fn held(start: &str, later: &str) -> (Config, Vec<String>) {
        let mut later = loaded(later);
        let known = later.diagnostics.len();
        Fixed::of(&loaded(start).draft).hold(&mut later);
        let said = later.diagnostics.drain(known..).map(|it| it.message).collect();
        (later.draft, said)
    }

    #[test]
    fn what_runs_goes_on_and_what_was_asked_for_is_said() {
        let start = "[process]\nworkers = 2\n[admin]\nbind = \"127.0.0.1:1\"\n";
        let later = "[process]\nworkers = 30\n[admin]\nbind = \"127.0.0.1:2\"\n";
        let (config, said) = held(start, later);
        assert_eq!(config.process.workers, 2);
        assert_eq!(shown(config.admin.as_ref().map(|admin| &admin.bind)), "127.0.0.1:1");
        assert_eq!(
            said,
            [
                "process.workers is read at start: 2 goes on until a restart makes it 30",
                "admin.bind is read at start: 127.0.0.1:1 goes on until a restart makes it \
                 127.0.0.1:2",
            ]
        );
        assert!(held(start, start).1.is_empty());
    }

    #[test]
    fn an_api_that_is_turned_off_or_on_waits_for_a_restart() {
        let (on, off) =
            ("[process]\nworkers = 1\n", "[process]\nworkers = 1\n[admin]\nbind = \"off\"\n");
        let (config, said) = held(on, off);
        assert!(config.admin.is_none(), "nobody may ask it any more");
        assert!(
            said[0].contains("127.0.0.1:9901 goes on until a restart makes it off"),
            "{said:?}"
        );
        let (config, said) = held(off, on);
        assert!(config.admin.is_none(), "nothing listens");
        assert!(
            said[0].contains("off goes on until a restart makes it 127.0.0.1:9901"),
            "{said:?}"
        );
    }
}
