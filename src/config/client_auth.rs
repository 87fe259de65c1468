//! Whether what is asked of the clients of a host is asked on every listener that serves it.

use super::context::Context;
use super::diagnostics::Diagnostic;
use super::model::{Action, ClientAuth, ClientAuthMode, Config, HostPattern, Listener, Route};

/// Warns of every listener that serves without a certificate what another one demands one for.
pub(super) fn check(context: &Context<'_>, config: &Config) {
    for listener in &config.listeners {
        let auths = listener.tls.iter().flat_map(|tls| &tls.client_auth);
        for auth in auths.filter(|auth| auth.mode == ClientAuthMode::Require) {
            for other in &config.listeners {
                let is_other = other.name != listener.name && other.https_redirect.is_none();
                let Some((route, host)) =
                    is_other.then(|| unguarded(config, listener, auth, other)).flatten()
                else {
                    continue;
                };
                let host = host.map_or("any host".to_owned(), ToString::to_string);
                let message = format!(
                    "listener.{} asks clients of {host} for a certificate, and listener.{} serves \
                     route {} of it to everybody",
                    listener.name, other.name, route.name
                );
                context.push(Diagnostic::warning(auth.span.0, message).help(format!(
                    "set `https_redirect = true` on listener.{0}, have it ask for the same, or keep \
                     the route from it with `listeners`",
                    other.name
                )));
            }
        }
    }
}

/// A route that both serve, with a host of `auth` that `other` asks nothing of.
fn unguarded<'a>(
    config: &'a Config,
    listener: &Listener,
    auth: &'a ClientAuth,
    other: &Listener,
) -> Option<(&'a Route, Option<&'a HostPattern>)> {
    let serves = |route: &Route, listener: &Listener| {
        route.listeners.is_empty() || route.listeners.contains(&listener.name)
    };
    let common = config.routes.iter().filter(|route| {
        !matches!(route.action, Action::Redirect(_))
            && serves(route, listener)
            && serves(route, other)
    });
    for route in common {
        let asked: Vec<Option<&HostPattern>> = match (&*route.hosts, &*auth.hosts) {
            ([], []) => vec![None],
            // What the others of the same listener ask of a host of their own is theirs to tell.
            (hosts, []) => hosts.iter().map(Some).collect(),
            ([], asked) => asked.iter().map(Some).collect(),
            (hosts, asked) => {
                let meets = |host: &&HostPattern| asked.iter().any(|asked| overlap(host, asked));
                hosts.iter().filter(meets).map(Some).collect()
            }
        };
        if let Some(host) = asked.into_iter().find(|host| !asks(other, *host)) {
            return Some((route, host));
        }
    }
    None
}

/// Whether a listener demands a certificate of all clients of a host; `None`: of any.
fn asks(listener: &Listener, host: Option<&HostPattern>) -> bool {
    let auths = listener.tls.iter().flat_map(|tls| &tls.client_auth);
    auths.filter(|auth| auth.mode == ClientAuthMode::Require).any(|auth| {
        auth.hosts.is_empty()
            || host.is_some_and(|host| auth.hosts.iter().any(|asked| covers(asked, host)))
    })
}

fn overlap(a: &HostPattern, b: &HostPattern) -> bool {
    covers(a, b) || covers(b, a)
}

/// Whether every host of `narrow` is one of `wide`.
fn covers(wide: &HostPattern, narrow: &HostPattern) -> bool {
    let is_below = |name: &str, parent: &str| {
        name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.') && rest.len() > 1)
    };
    match (wide, narrow) {
        (HostPattern::Exact(wide), HostPattern::Exact(narrow)) => wide == narrow,
        (HostPattern::Wildcard(parent), HostPattern::Exact(name)) => is_below(name, parent),
        (HostPattern::Wildcard(wide), HostPattern::Wildcard(narrow)) => {
            wide == narrow || is_below(narrow, wide)
        }
        (HostPattern::Exact(_), HostPattern::Wildcard(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;

    fn warned(auth: &str, other: &str, routes: &str) -> String {
        let folder = Folder::new();
        for name in ["site.crt", "site.key", "ca.pem"] {
            folder.write(name, name);
        }
        let site = "tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]";
        folder.write(
            "c.toml",
            &format!(
                "[listener.web]\nbind = \"127.0.0.1:0\"\n{site}\n\
                 tls.client_auth = {{ mode = \"require\", ca = \"ca.pem\"{auth} }}\n\
                 [listener.other]\nbind = \"127.0.0.1:0\"\n{}\n{routes}",
                other.replace("SITE", site)
            ),
        );
        folder.shown(&folder.load("c.toml"))
    }

    const ANY: &str = "[[route]]\nrespond = {}\n";
    const API: &str = "[[route]]\nname = \"api\"\nhosts = [\"api.test\"]\nrespond = {}\n";
    const HOSTS: &str = ", hosts = [\"api.test\", \"*.in.test\"]";

    #[test]
    fn a_listener_that_serves_the_same_without_a_certificate_is_named() {
        for (auth, routes, host) in [
            ("", ANY, "clients of any host"),
            ("", API, "clients of api.test"),
            (HOSTS, API, "clients of api.test"),
            (HOSTS, ANY, "clients of api.test"),
            (HOSTS, "[[route]]\nhosts = [\"a.in.test\"]\nrespond = {}\n", "clients of a.in.test"),
        ] {
            for other in
                ["", "SITE", "SITE\ntls.client_auth = { mode = \"request\", ca = \"ca.pem\" }"]
            {
                let shown = warned(auth, other, routes);
                assert!(shown.contains("warning: listener.web asks"), "{auth} {other}: {shown}");
                assert!(shown.contains(host) && shown.contains("listener.other serves"), "{shown}");
            }
        }
    }

    #[test]
    fn a_listener_that_asks_for_the_same_or_serves_nothing_of_it_is_fine() {
        let same = "SITE\ntls.client_auth = { mode = \"require\", ca = \"ca.pem\" }";
        let apart = "[[route]]\nhosts = [\"api.test\"]\nlisteners = [\"web\"]\nrespond = {}\n\
                     [[route]]\nhosts = [\"open.test\"]\nrespond = {}\n";
        for (auth, other, routes) in [
            ("", "https_redirect = true", ANY),
            ("", same, ANY),
            (HOSTS, same, API),
            (HOSTS, "", apart),
            (HOSTS, "", "[[route]]\nhosts = [\"in.test\"]\nrespond = {}\n"),
        ] {
            assert_eq!(warned(auth, other, routes), "", "{auth} {other} {routes}");
        }
    }
}
