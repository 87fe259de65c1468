//! What can only be said about the configuration as a whole: names that refer to each other,
//! addresses that clash, sections that nothing uses.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::context::{Context, Reference, Referent};
use super::diagnostics::{Diagnostic, Span};
use super::listener;
use super::model::{Admin, BindAddress, Name};
use super::route;
use super::suggest;

/// What is defined, whether or not it could be read.
pub(super) struct Defined {
    pub(super) listeners: Vec<(Name, Span)>,
    pub(super) pools: Vec<(Name, Span)>,
    /// How many `[[route]]` there are.
    pub(super) routes: usize,
}

/// What must hold between sections, once all of them have been read.
pub(super) fn check(context: &Context<'_>, defined: &Defined) {
    something_to_do(context, defined);
    let references = context.references.take();
    references_exist(context, &references, defined);
    pools_are_used(context, &references, defined);
}

fn something_to_do(context: &Context<'_>, defined: &Defined) {
    let missing = |what: &str, help: &str| {
        context.push_missing(Diagnostic::placeless(what).help(help));
    };
    if defined.listeners.is_empty() {
        missing("there is no listener", "add [listener.web] with bind = \"0.0.0.0:8443\"");
    }
    if defined.routes == 0 {
        missing("there is no route", "add [[route]] with pool = \"app\"");
    }
}

impl Defined {
    fn names(&self, of: Referent) -> impl Iterator<Item = &str> {
        let names = match of {
            Referent::Pool => &self.pools,
            Referent::Listener => &self.listeners,
        };
        names.iter().map(|(name, _)| &**name)
    }

    fn has(&self, reference: &Reference) -> bool {
        self.names(reference.to).any(|name| name == reference.name)
    }
}

fn references_exist(context: &Context<'_>, references: &[Reference], defined: &Defined) {
    for reference in references.iter().filter(|reference| !defined.has(reference)) {
        let what = match reference.to {
            Referent::Pool => "pool",
            Referent::Listener => "listener",
        };
        let known: Vec<&str> = defined.names(reference.to).collect();
        let help = match suggest::nearest(&reference.name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("add [{what}.{}]", reference.name),
            None => format!("defined are: {}", known.join(", ")),
        };
        let message = format!("`{}`: there is no {what} {:?}", reference.path, reference.name);
        context.push_missing(Diagnostic::error(reference.span, message).help(help));
    }
}

fn pools_are_used(context: &Context<'_>, references: &[Reference], defined: &Defined) {
    let by_routes: Vec<_> = references
        .iter()
        .filter(|reference| reference.to == Referent::Pool && reference.path.starts_with("route."))
        .collect();
    // A name that is not defined may be meant to be any of them.
    if !by_routes.iter().all(|reference| defined.has(reference)) {
        return;
    }
    for (name, span) in &defined.pools {
        if !by_routes.iter().any(|reference| *reference.name == **name) {
            let warning = Diagnostic::warning(*span, format!("no route uses [pool.{name}]"));
            context.push_missing(warning.help("name it in a route, or leave it out"));
        }
    }
}

/// The first route of a name keeps it.
pub(super) fn route_names_are_distinct(context: &Context<'_>, readings: &[route::Reading]) {
    let mut seen: HashMap<&Name, Span> = HashMap::new();
    for route::Reading { name, name_span, .. } in readings {
        match seen.get(name) {
            Some(first) => context.push(
                Diagnostic::error(name_span.0, format!("two routes have the name {name:?}"))
                    .help("a route without a name is called `route-N` by its place in the files")
                    .note(*first, "the first one is here"),
            ),
            None => {
                seen.insert(name, name_span.0);
            }
        }
    }
}

pub(super) fn addresses_are_distinct(
    context: &Context<'_>,
    admin: Option<&Admin>,
    admin_span: Option<Span>,
    listeners: &[listener::Reading],
) {
    let admin = admin.map(|admin| (&admin.bind, admin_span, "admin".to_owned()));
    let listeners = listeners.iter().flat_map(|listener| {
        let who = format!("listener.{}", listener.name);
        listener.bind.iter().map(move |bind| (&bind.value, Some(bind.span), who.clone()))
    });
    let mut seen: Vec<(&BindAddress, Option<Span>, String)> = Vec::new();
    for (address, span, who) in admin.into_iter().chain(listeners) {
        if let Some((first, first_span, first_who)) =
            seen.iter().find(|(first, _, _)| clash(first, address))
        {
            let message = if *first == address {
                format!("{address} is already the address of [{first_who}]")
            } else {
                format!("{address} clashes with {first} of [{first_who}]")
            };
            let mut diagnostic = Diagnostic::placeless(message).help("take another port");
            diagnostic.span = span;
            // The address of the admin API may be a default, written nowhere.
            diagnostic.related.extend(first_span.map(|first| (first, "taken here".to_owned())));
            context.push(diagnostic);
        }
        seen.push((address, span, who));
    }
}

/// An unspecified address takes its port on all addresses of its family. Port 0 is another one
/// each time.
fn clash(a: &BindAddress, b: &BindAddress) -> bool {
    let covers =
        |a: &SocketAddr, b: &SocketAddr| a.ip().is_unspecified() && a.is_ipv4() == b.is_ipv4();
    match (a, b) {
        (BindAddress::Tcp(a), BindAddress::Tcp(b)) => {
            a.port() != 0 && a.port() == b.port() && (a == b || covers(a, b) || covers(b, a))
        }
        (BindAddress::Unix(a), BindAddress::Unix(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{config_of, diagnostics, diagnostics_of};

    #[test]
    fn an_empty_configuration_says_what_is_missing() {
        assert_eq!(
            diagnostics(""),
            "error: there is no listener\n  help: add [listener.web] with bind = \"0.0.0.0:8443\"\n\
             error: there is no route\n  help: add [[route]] with pool = \"app\"\n"
        );
    }

    #[test]
    fn a_name_that_is_not_defined_gets_the_nearest() {
        let shown = diagnostics_of(
            "[admin]\nready_requires = [\"other\"]\n[[route]]\npool = \"ap\"\nlisteners = [\"wbe\"]\n",
        );
        assert_eq!(
            shown,
            "c.toml:2:19: error: `admin.ready_requires`: there is no pool \"other\"\n  \
             help: defined are: app\n\
             c.toml:4:8: error: `route.pool`: there is no pool \"ap\"\n  \
             help: did you mean `app`?\n\
             c.toml:5:14: error: `route.listeners`: there is no listener \"wbe\"\n  \
             help: did you mean `web`?\n"
        );
    }

    #[test]
    fn a_pool_that_no_route_uses_is_a_warning() {
        let shown =
            diagnostics_of("[pool.b]\nendpoints = [\"b:1\"]\n[admin]\nready_requires = [\"b\"]\n");
        assert_eq!(
            shown,
            "c.toml:1:1: warning: no route uses [pool.b]\n  \
             help: name it in a route, or leave it out\n"
        );
    }

    #[test]
    fn a_listener_that_is_wrong_still_takes_its_address() {
        let shown = diagnostics_of(
            "[listener.a]\nbind = \"127.0.0.1:80\"\ntls = {}\n\
             [listener.b]\nbind = \"127.0.0.1:80\"",
        );
        assert!(
            shown.contains("c.toml:5:8: error: 127.0.0.1:80 is already the address"),
            "{shown}"
        );
    }

    #[test]
    fn a_pool_that_is_wrong_still_exists() {
        let shown = diagnostics_of("[pool.app]\nendpoints = [\"a\"]");
        assert_eq!(shown.matches("error:").count(), 1, "{shown}");
    }

    #[test]
    fn addresses_that_clash_are_shown_with_both_places() {
        let shown = diagnostics_of(
            "[listener.a]\nbind = [\"0.0.0.0:80\", \"[::]:80\"]\n\
             [listener.b]\nbind = [\"127.0.0.1:80\", \"[::]:80\", \"127.0.0.1:9901\"]",
        );
        assert_eq!(
            shown,
            "c.toml:4:9: error: 127.0.0.1:80 clashes with 0.0.0.0:80 of [listener.a]\n  \
             help: take another port\n  c.toml:2:9: note: taken here\n\
             c.toml:4:25: error: [::]:80 is already the address of [listener.a]\n  \
             help: take another port\n  c.toml:2:23: note: taken here\n\
             c.toml:4:36: error: 127.0.0.1:9901 is already the address of [admin]\n  \
             help: take another port\n"
        );
    }

    #[test]
    fn free_ports_and_other_families_do_not_clash() {
        let config = config_of(
            "[listener.a]\nbind = [\"127.0.0.1:0\", \"127.0.0.1:0\", \"0.0.0.0:81\", \"[::]:81\", \"unix:a\", \"unix:b\"]",
        );
        assert_eq!(config.listeners[0].bind.len(), 6);
    }

    #[test]
    fn names_of_routes_are_distinct() {
        let shown = diagnostics_of(
            "[[route]]\nname = \"route-2\"\nhosts = [\"a\"]\npool = \"app\"\n\n[[route]]\npool = \"app\"",
        );
        assert_eq!(
            shown,
            "c.toml:6:1: error: two routes have the name \"route-2\"\n  \
             help: a route without a name is called `route-N` by its place in the files\n  \
             c.toml:2:8: note: the first one is here\n"
        );
    }
}
