//! From a TOML file to a [`model::Config`], with everything that is wrong with it.
//!
//! [`load`] reads the file and what it includes, and walks the tree of tables section by section.
//! It never stops at a problem: each becomes a [`Diagnostic`] with its place and a hint, and the
//! rest is read on. What could be read is the draft, so that later stages (certificates, ties of
//! routes) can add their findings to the same list. Files that the configuration names are read
//! here too: inside, nothing is left to check.
//!
//! ```text
//! files, syntax        bytes → trees with places
//! sections             the tables of all files, joined
//! reader, value        typed questions to a tree; context gathers the answers' problems
//! units, address, path, pattern, template, interpolate    text → values
//! globals, listener, pool, route                 one section each: table → model
//! balancing, dns, health, conditions, split, edits    parts of pools and routes
//! validate             what concerns the whole
//! describe             model → JSON for the admin API
//! ```
//!
//! Deliberately absent: serde (it stops at the first error), any runtime type, and watching.

mod acme;
mod address;
mod aws;
mod balancing;
mod client_auth;
mod conditions;
mod context;
pub mod describe;
pub mod diagnostics;
mod dns;
mod edits;
mod files;
mod globals;
mod health;
pub mod host;
mod interpolate;
mod listener;
mod listener_front;
mod listener_tls;
pub mod model;
mod path;
mod pattern;
mod pool;
mod pool_files;
mod purge;
mod reader;
mod route;
mod route_access;
mod route_cache;
mod route_errors;
mod route_front;
mod sections;
mod self_signed;
mod split;
mod suggest;
mod syntax;
mod template;
#[cfg(test)]
mod testing;
mod units;
mod validate;
mod value;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use context::Context;
use diagnostics::{Diagnostic, FileId, Invalid, Sources, shown};
use model::{Config, Places};
use reader::Table;
use sections::{Section, Sections};
use validate::Defined;
use value::Value;

/// What came of loading a configuration.
#[derive(Debug)]
pub struct Loaded {
    pub sources: Sources,
    /// Everything that was found, sorted by place.
    pub diagnostics: Vec<Diagnostic>,
    /// What could be read, with defaults for what could not. Without errors it is the whole
    /// configuration; with errors it serves only to find more of them.
    pub draft: Config,
    /// Every file that was read or tried, and the folders of include patterns: absolute, as named,
    /// symbolic links not resolved. A change of any of them may change the configuration.
    pub files: Vec<PathBuf>,
    /// Equal when none of them changed.
    pub digest: u64,
}

/// A configuration that was refused, and why.
#[derive(Debug)]
pub struct Refused {
    pub diagnostics: Vec<Diagnostic>,
    pub sources: Sources,
}

/// A configuration without errors.
#[derive(Debug)]
pub struct Accepted {
    pub config: Config,
    pub warnings: Vec<Diagnostic>,
    pub sources: Sources,
}

impl Loaded {
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }

    /// The configuration, if there is no error among the diagnostics.
    pub fn into_config(self) -> Result<Accepted, Refused> {
        let Self { sources, diagnostics, draft, .. } = self;
        if diagnostics.iter().any(Diagnostic::is_error) {
            return Err(Refused { diagnostics, sources });
        }
        Ok(Accepted { config: draft, warnings: diagnostics, sources })
    }
}

/// Loads a configuration file, with the environment as a function so that it can be another one.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Loaded {
    let context = Context::new(env);
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let draft = match read_source(&context, &path) {
        Ok((file, text)) => read_all(&context, file, &text),
        Err(why) => {
            context.set_incomplete();
            let message = format!("cannot read {}: {why}", shown(&path));
            let help = "name the configuration with --config FILE or $HEADWATER_CONFIG";
            context.push(Diagnostic::placeless(message).help(help));
            read_config(&context, Vec::new())
        }
    };
    let (diagnostics, sources, files) = context.finish();
    Loaded { sources, diagnostics, draft, files: files.watched(), digest: files.digest() }
}

/// The main file and all that it includes.
fn read_all(context: &Context<'_>, main: FileId, text: &Arc<str>) -> Config {
    let tree = syntax::parse(context, main, text);
    let included = include(context, main, &tree);
    let trees: Vec<_> =
        included.iter().map(|(file, text)| (*file, syntax::parse(context, *file, text))).collect();
    let mut roots = vec![Table::root(context, main, &tree)];
    roots.extend(trees.iter().map(|(file, tree)| Table::root(context, *file, tree)));
    read_config(context, roots)
}

/// The files that `include` names, each once.
fn include(
    context: &Context<'_>,
    main: FileId,
    tree: &toml::de::DeTable<'_>,
) -> Vec<(FileId, Arc<str>)> {
    let mut seen = Vec::new();
    let root = Table::root(context, main, tree);
    let patterns = root.read("include", |value| {
        value.list("[\"conf.d/*.toml\"]", |item| {
            let is_meant = !context.is_broken(item.span);
            is_meant.then(|| included_paths(item)).flatten().map(|paths| (paths, item.span))
        })
    });
    let mut sources = Vec::new();
    for (paths, span) in patterns.unwrap_or_default() {
        for path in paths {
            if seen.contains(&path) {
                continue;
            }
            match read_source(context, &path) {
                Ok(source) => sources.push(source),
                Err(why) => {
                    context.set_incomplete();
                    let message = format!("`include`: cannot read {}: {why}", shown(&path));
                    let help = "a relative path is relative to the file that names it";
                    context.push(Diagnostic::error(span, message).help(help));
                }
            }
            seen.push(path);
        }
    }
    sources
}

/// The files of one pattern, sorted by name; the main file, when it matches, is left out.
fn included_paths(value: &Value<'_>) -> Option<Vec<PathBuf>> {
    let path = value.file_path("\"conf.d/*.toml\"")?;
    let is_pattern = |text: &str| text.contains(['*', '?']);
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let written = folder.strip_prefix(value.folder()).unwrap_or(&folder);
    if is_pattern(&written.to_string_lossy()) {
        value.invalid(
            Invalid::new("`*` and `?` may only stand in the name of the file, not of its folder")
                .help("include each folder by its own pattern: \"conf.d/*.toml\""),
        );
        return None;
    }
    if !is_pattern(name) {
        return Some(vec![path]);
    }
    let mut paths = value.context.files.borrow_mut().matching(&folder, name);
    let main = value.context.path(value.span.file);
    paths.retain(|path| Some(path) != main.as_ref());
    if paths.is_empty() {
        let warning = value.warning("no file matches the pattern");
        value.context.push(warning.help(format!("the folder is {}", shown(&folder))));
    }
    Some(paths)
}

/// The text of a configuration file.
fn read_source(context: &Context<'_>, path: &Path) -> Result<(FileId, Arc<str>), String> {
    let bytes = context.files.borrow_mut().read(path)?;
    let text: Arc<str> = match std::str::from_utf8(&bytes) {
        Ok(text) => text.into(),
        Err(error) => {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned();
            let (line, column) = diagnostics::end(&before);
            return Err(format!("it is not UTF-8 at line {line}, column {column}"));
        }
    };
    let file = context.add_source(path.to_owned(), text.clone());
    file.map(|file| (file, text)).ok_or_else(|| "there are too many files".to_owned())
}

fn read_config<'a>(context: &'a Context<'a>, roots: Vec<Table<'a>>) -> Config {
    let Sections { process, admin, log, cache, purge, acme, listeners, pools, routes } =
        sections::join(context, roots);
    let names = |sections: &[Section<'_>]| {
        sections.iter().map(|section| (section.name.clone(), section.span)).collect()
    };
    let defined =
        Defined { listeners: names(&listeners), pools: names(&pools), routes: routes.len() };
    let mut places = Places::default();
    for (of, sections) in [(model::Section::Listener, &listeners), (model::Section::Pool, &pools)] {
        for section in sections {
            places.insert(of, section.name.clone(), section.table.places());
        }
    }
    let read_route = |(index, table): (usize, Table<'_>)| {
        let written = table.places();
        let reading = route::read(index + 1, table);
        places.insert(model::Section::Route, reading.name.clone(), written);
        reading
    };
    let routes: Vec<_> = routes.into_iter().enumerate().map(read_route).collect();
    validate::route_names_are_distinct(context, &routes);
    let (admin, admin_span) = globals::admin(admin);
    let listeners: Vec<_> =
        listeners.into_iter().map(|section| listener::read(section.name, section.table)).collect();
    validate::addresses_are_distinct(context, admin.as_ref(), admin_span, &listeners);
    let has_acme = acme.is_some();
    let mut config = Config {
        process: globals::process(process),
        admin,
        log: globals::log(log),
        cache: globals::cache(cache),
        purge: purge::read(purge),
        acme: acme.and_then(acme::read),
        listeners: listeners.into_iter().filter_map(|reading| reading.listener).collect(),
        pools: pools
            .into_iter()
            .filter_map(|section| pool::read(section.name, section.table))
            .collect(),
        routes: routes.into_iter().filter_map(|reading| reading.route).collect(),
        places,
    };
    self_signed::settle(context, &mut config, has_acme);
    client_auth::check(context, &config);
    // One that could not be read may have TLS.
    if let Some(acme) = &config.acme
        && config.listeners.len() == defined.listeners.len()
    {
        acme::has_listener(context, acme, &config.listeners);
    }
    validate::check(context, &defined);
    config
}

#[cfg(test)]
mod tests {
    use super::model::*;
    use super::testing::{Folder, diagnostics};
    use super::*;
    use std::time::Duration;

    const MINIMAL: &str = r#"
[listener.web]
bind = "0.0.0.0:8443"
tls.certificates = [{ cert = "../certs/site.crt", key = "../certs/site.key" }]

[pool.app]
endpoints = ["10.0.0.1:8080", "10.0.0.2:8080"]

[[route]]
pool = "app"
"#;

    fn minimal() -> (Folder, Config) {
        let folder = Folder::new();
        folder.write("certs/site.crt", "CERT");
        folder.write("certs/site.key", "KEY");
        folder.write("conf/minimal.toml", MINIMAL);
        let loaded = folder.load("conf/minimal.toml");
        assert_eq!(folder.shown(&loaded), "");
        let config = loaded.into_config().unwrap().config;
        (folder, config)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_minimal_file_has_the_documented_defaults_of_the_process() {
        let (_folder, config) = minimal();
        assert_eq!(
            config.process,
            Process {
                workers: host::cpus(),
                drain_timeout: seconds(25),
                shutdown_delay: Duration::ZERO,
                buffer_bytes_max: 128 << 20,
                zone: None,
                resolvers: Vec::new(),
            }
        );
        let admin = config.admin.unwrap();
        assert_eq!(admin.bind.to_string(), "127.0.0.1:9901");
        assert_eq!((admin.token, admin.ready_requires.len()), (None, 0));
        assert_eq!(
            config.log,
            Log {
                level: "info".to_owned(),
                format: LogFormat::Text,
                access: AccessLog {
                    to: AccessTarget::Stdout,
                    format: AccessFormat::Json,
                    sample: 1.0,
                },
            }
        );
        assert_eq!(
            config.cache,
            Cache {
                memory_bytes_max: 256 << 20,
                object_bytes_max: 32 << 20,
                variants_max: 16,
                status_key: false,
                name: "headwater".into(),
            }
        );
    }

    #[test]
    fn the_minimal_file_has_the_documented_defaults_of_a_listener() {
        let (_folder, config) = minimal();
        let listener = &config.listeners[0];
        assert_eq!((&*listener.name, config.listeners.len()), ("web", 1));
        assert_eq!(listener.bind[0].value.to_string(), "0.0.0.0:8443");
        let tls = listener.tls.as_ref().unwrap();
        assert_eq!((tls.certificates.len(), tls.min_version), (1, TlsVersion::V1_2));
        assert_eq!(listener.protocols, Protocols { h1: true, h2: true });
        assert!(listener.trusted.is_empty());
        assert_eq!((&listener.client_ip_header, listener.https_redirect), (&None, None));
        assert_eq!(
            listener.timeouts,
            ListenerTimeouts {
                handshake: seconds(10),
                header: seconds(10),
                body: seconds(30),
                body_rate: 500,
                body_grace: seconds(10),
                write: seconds(30),
                idle: seconds(75),
            }
        );
        assert_eq!(
            listener.limits,
            ListenerLimits {
                connections_max: 50_000,
                connections_at: None,
                handshakes_max: 4096,
                header_bytes_max: 32 << 10,
                headers_max: 100,
                uri_bytes_max: 16 << 10,
                streams_max: 256,
            }
        );
    }

    #[test]
    fn the_minimal_file_has_the_documented_defaults_of_a_pool() {
        let (_folder, config) = minimal();
        let pool = config.pool("app").unwrap();
        let endpoint = |text: &str| EndpointSpec {
            address: Address::Socket(text.parse().unwrap()),
            weight: 1,
            backup: false,
            zone: None,
        };
        assert_eq!(
            *pool,
            Pool {
                name: "app".into(),
                source: PoolSource::Endpoints(vec![
                    endpoint("10.0.0.1:8080"),
                    endpoint("10.0.0.2:8080"),
                ]),
                dns: DnsRules { loopback: false, ttl_min: seconds(1), ttl_max: seconds(60) },
                protocol: Protocol::H1,
                tls: None,
                proxy_protocol: None,
                balance: Balance::Ewma,
                sticky: None,
                slow_start: Duration::ZERO,
                panic_below: 0.5,
                health: None,
                outlier: Some(Outlier {
                    failures: 5,
                    eject_for: seconds(30),
                    eject_max: 0.5,
                    slow_factor: Some(5),
                }),
                limits: PoolLimits {
                    connections_max: 1024,
                    requests_max: 4096,
                    tunnels_max: 512,
                    idle_max: 256,
                    queue_max: 1024,
                    queue_timeout: seconds(1),
                    client_share: 0.25,
                },
                retry: Some(Retry {
                    attempts: 2,
                    on_connect: true,
                    on_reset: true,
                    on_timeout: false,
                    on_statuses: StatusSet(vec![(502, 504)]),
                    budget: 0.2,
                    hedge_after: Some(HedgeAfter::Auto),
                }),
                timeouts: PoolTimeouts {
                    connect: seconds(1),
                    first_byte: seconds(30),
                    idle: seconds(30),
                    total: None,
                    tunnel: Duration::from_secs(3600),
                    announce: false,
                },
                buffer: PoolBuffers { request_bytes_max: 64 << 10, response_bytes_max: 64 << 10 },
                keepalive: seconds(60),
            }
        );
    }

    #[test]
    fn the_minimal_file_has_the_documented_defaults_of_a_route() {
        let (_folder, config) = minimal();
        let route = &config.routes[0];
        assert_eq!(
            *route,
            Route {
                name: "route-1".into(),
                hosts: Vec::new(),
                paths: vec![PathPattern::Prefix(String::new())],
                conditions: RequestConditions::default(),
                listeners: Vec::new(),
                priority: 0,
                action: Action::Pool("app".into()),
                rewrite: Rewrite::default(),
                request_headers: HeaderEdits::default(),
                response_headers: HeaderEdits::default(),
                allow: Vec::new(),
                deny: Vec::new(),
                errors: Vec::new(),
                timeout: None,
                body_bytes_max: 100 << 20,
                buffer: true,
                mirror: None,
                compress: true,
                websocket: true,
                cache: Some(Arc::new(RouteCache::default())),
                front_cache: None,
                span: route.span,
            }
        );
    }

    #[test]
    fn the_same_content_has_the_same_digest_and_any_change_another() {
        let (folder, _) = minimal();
        let load = || folder.load("conf/minimal.toml");
        let before = load();
        assert_eq!(before.digest, load().digest);
        let watched = ["conf/../certs/site.crt", "conf/../certs/site.key", "conf/minimal.toml"];
        assert_eq!(before.files, watched.map(|name| folder.path().join(name)));
        folder.write("certs/site.key", "OTHER");
        assert_ne!(before.digest, load().digest);
        assert_ne!(before.draft, load().draft);
    }

    #[test]
    fn spans_take_no_part_in_a_comparison() {
        let (folder, config) = minimal();
        folder.write("conf/minimal.toml", &format!("# moved\n\n{MINIMAL}"));
        assert_eq!(folder.load("conf/minimal.toml").draft, config);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_one_error_and_is_watched() {
        let folder = Folder::new();
        let loaded = folder.load("none.toml");
        assert_eq!(
            folder.shown(&loaded),
            "error: cannot read none.toml: it does not exist\n  \
             help: name the configuration with --config FILE or $HEADWATER_CONFIG\n"
        );
        assert_eq!(loaded.files, [folder.path().join("none.toml")]);
        assert!(loaded.has_errors() && loaded.into_config().is_err());
        std::fs::write(folder.path().join("bad.toml"), b"a = 1\nb = \"\xff\"").unwrap();
        let shown = folder.shown(&folder.load("bad.toml"));
        assert!(shown.contains("it is not UTF-8 at line 2, column 6"), "{shown}");
    }

    #[test]
    fn warnings_do_not_refuse_a_configuration() {
        let folder = Folder::new();
        folder.write("c.toml", &format!("include = [\"x/*.toml\"]{MINIMAL}").replace("../", ""));
        folder.write("certs/site.crt", "CERT");
        folder.write("certs/site.key", "KEY");
        let loaded = folder.load("c.toml");
        assert_eq!(
            folder.shown(&loaded).lines().next(),
            Some("c.toml:1:12: warning: `include`: no file matches the pattern")
        );
        assert!(loaded.files.contains(&folder.path().join("x")));
        assert_eq!(loaded.into_config().unwrap().warnings.len(), 1);
    }

    #[test]
    fn nothing_is_included_from_a_broken_line() {
        let folder = Folder::new();
        folder.write("a.toml", "x = 1\n");
        folder.write("c.toml", "include = [\"a.toml\" \"b.toml\"]\n");
        let loaded = folder.load("c.toml");
        assert_eq!(folder.shown(&loaded).matches("error:").count(), 1);
        assert_eq!(loaded.files, [folder.path().join("c.toml")]);
    }

    #[test]
    fn a_plain_file_to_include_must_exist_and_folders_have_no_wildcards() {
        let shown = diagnostics("include = [\"a.toml\", \"*/b.toml\"]\n");
        assert!(
            shown.contains("c.toml:1:12: error: `include`: cannot read a.toml: it does not exist"),
            "{shown}"
        );
        assert!(shown.contains("c.toml:1:22: error: `include`: `*` and `?` may only"), "{shown}");
    }

    #[test]
    fn a_pattern_that_matches_the_main_file_leaves_it_out() {
        let (folder, _) = minimal();
        folder.write("conf/minimal.toml", &format!("include = [\"*.toml\"]{MINIMAL}"));
        folder.write("conf/more.toml", "[cache]\nname = \"edge\"\n");
        let loaded = folder.load("conf/minimal.toml");
        assert_eq!(folder.shown(&loaded), "");
        assert_eq!(&*loaded.draft.cache.name, "edge");
    }

    #[test]
    fn strings_are_filled_in_from_the_environment() {
        let folder = Folder::new();
        let text = "[process]\nworkers = \"${WORKERS}\"\ndrain_timeout = \"${NONE:-7s}\"\n\
                    [listener.a]\nbind = \"127.0.0.1:${PORT}\"\nlimits.headers = \"${WORKERS}\"\n\
                    [[route]]\nrespond = { body = \"$${PORT}\" }\nwebsocket = \"${OFF}\"\n";
        let path = folder.write("c.toml", text);
        let env = |name: &str| match name {
            "WORKERS" => Some("3".to_owned()),
            "PORT" => Some("81".to_owned()),
            "OFF" => Some("false".to_owned()),
            _ => None,
        };
        let config = load(&path, &env).draft;
        assert_eq!((config.process.workers, config.process.drain_timeout), (3, seconds(7)));
        assert_eq!(config.listeners[0].bind[0].value.to_string(), "127.0.0.1:81");
        assert_eq!(config.listeners[0].limits.headers_max, 3);
        assert!(matches!(&config.routes[0].action, Action::Respond(respond)
            if &respond.body[..] == b"${PORT}"));
        assert!(!config.routes[0].websocket);
        let shown = folder.shown(&folder.load("c.toml"));
        assert!(
            shown.contains(
                "c.toml:5:8: error: `listener.a.bind`: the environment variable PORT is not set"
            ),
            "{shown}"
        );
    }

    #[test]
    fn every_problem_of_every_file_is_reported_in_order() {
        let folder = Folder::new();
        folder.write(
            "c.toml",
            "include = [\"d.toml\"]\n[log]\nformat = \"xml\"\nlvel = \"info\"\n\
             [listener.web]\nbind = \"127.0.0.1:0\"\ntimeouts.idle = \"75\"\n",
        );
        folder.write(
            "d.toml",
            "[pool.app]\nendpoints = [\"é:1\", 5]\n\n[[route]]\npool = \"ap\"\npaths = [\"x\"]\n",
        );
        let loaded = folder.load("c.toml");
        let shown = folder.shown(&loaded);
        let places: Vec<_> = shown
            .lines()
            .filter(|line| !line.starts_with(' '))
            .map(|line| line.split(": ").next().unwrap_or_default())
            .collect();
        assert_eq!(
            places,
            [
                "c.toml:3:10",
                "c.toml:4:1",
                "c.toml:7:17",
                "d.toml:2:14",
                "d.toml:2:21",
                "d.toml:5:8",
                "d.toml:6:10"
            ],
            "{shown}"
        );
        assert_eq!(loaded.draft.listeners.len(), 1);
    }

    #[test]
    fn wrong_types_everywhere_never_stop_the_reading() {
        for text in [
            "process = 1\nadmin = []\nlog = \"x\"\ncache = true\nlistener = 5\npool = \"x\"\nroute = 1",
            "listener.a = 1\npool.b = []\nroute = [1, {}]\ninclude = \"x\"",
            "include = [1, \"\", \"/\"]\nlog.access = 1\n[pool.x]\nlimits = 1\ntimeouts = []\ntls = 5",
            "route = { pool = 1 }",
            "[[listener]]\nx = 1\n[[pool.x]]\n[[process]]\n[route.a]",
        ] {
            let shown = diagnostics(text);
            assert!(shown.contains("error: "), "{text}");
        }
    }
}
