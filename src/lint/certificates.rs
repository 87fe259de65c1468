//! Lints of certificates: whether they can be used, and whether there is one for each host.

use super::site::{Fronted, Site};
use super::table::{CERTIFICATE, CERTIFICATE_NAMES};
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{self, Front, HostPattern, Section};
use crate::tls::ListenerTlsState;

/// Hosts of a route that are named.
const HOSTS_SHOWN: usize = 3;

/// What is to be said of the certificates of a listener, or of those that answer for one host.
pub(super) fn usable(
    site: &Site<'_>,
    spec: &model::Listener,
    host: Option<&str>,
) -> Vec<Diagnostic> {
    let state = site.compiled(spec).and_then(|listener| listener.tls.as_ref());
    let (Some(state), Some(tls)) = (state, &spec.tls) else { return Vec::new() };
    let warnings = state.warnings(tls, host, site.now).into_iter();
    let help = "write the right one into the same files; they are taken without a restart";
    warnings.map(|(span, text)| CERTIFICATE.at(Some(span), text, help)).collect()
}

/// Hosts of a route for which Cloudflare would get no certificate; where one is asked about, only
/// that one.
pub(super) fn names(
    site: &Site<'_>,
    route: &model::Route,
    on: &[Fronted<'_>],
    host: Option<&str>,
) -> Option<Diagnostic> {
    let asked = host.map(|host| vec![HostPattern::Exact(host.to_owned())]);
    let hosts = asked.as_ref().unwrap_or(&route.hosts);
    let fronted = on.iter().filter(|it| it.front == Front::Cloudflare);
    let (spec, state) = fronted.filter_map(|it| Some((it.spec, tls(site, it.spec)?))).next()?;
    let missing: Vec<String> = hosts
        .iter()
        .filter(|host| is_missing(site, host, state))
        .map(ToString::to_string)
        .collect();
    let (first, rest) = missing.split_first()?;
    let mut shown = first.clone();
    for more in rest.iter().take(HOSTS_SHOWN - 1) {
        shown = format!("{shown}, {more}");
    }
    if missing.len() > HOSTS_SHOWN {
        shown = format!("{shown} and {} more", missing.len() - HOSTS_SHOWN);
    }
    let message = format!(
        "route.{}: no certificate of listener.{} is for {shown}: Cloudflare answers 526 in mode \
         Full (strict)",
        route.name, spec.name
    );
    let help = format!(
        "add a certificate for it to [listener.{}], or name in `listeners` where the route belongs",
        spec.name
    );
    let place = site.place(Section::Route, &route.name, "hosts");
    Some(CERTIFICATE_NAMES.at(place, message, help))
}

fn tls<'a>(site: &Site<'a>, spec: &model::Listener) -> Option<&'a ListenerTlsState> {
    site.compiled(spec)?.tls.as_deref()
}

/// A host that another listener has a certificate for may belong there, and one that is still to be
/// issued comes later.
fn is_missing(site: &Site<'_>, host: &HostPattern, state: &ListenerTlsState) -> bool {
    let is_ordered = |name: &str| {
        let orders = site.config.acme.iter().flat_map(|acme| &acme.certificates);
        orders.flat_map(|order| &order.hosts).any(|host| **host == *name)
    };
    let is_elsewhere = || {
        let others = site.config.listeners.iter().filter_map(|spec| tls(site, spec));
        others.into_iter().any(|state| state.certificates.covers(host))
    };
    !state.certificates.covers(host)
        && !matches!(host, HostPattern::Exact(name) if is_ordered(name))
        && !is_elsewhere()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::super::testing::{pointed_at, said_in};
    use super::*;
    use crate::front::ranges;
    use crate::snapshot::testing::of_text;
    use crate::tls::generate::self_signed;

    fn taken() -> SystemTime {
        ranges::built_in_taken(Front::Cloudflare).unwrap()
    }

    /// The files of certificates for these names, `a.crt` and so on.
    fn files(names: &[&[&str]]) -> Vec<(String, String)> {
        let mut files = Vec::new();
        for (names, file) in names.iter().zip(["a", "b"]) {
            let made = self_signed(names, taken()).unwrap();
            files.push((format!("{file}.crt"), made.cert));
            files.push((format!("{file}.key"), made.key));
        }
        files
    }

    fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
        files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect()
    }

    fn listener(name: &str, file: &str, lines: &str) -> String {
        format!(
            "[listener.{name}]\nbind = \"0.0.0.0:0\"\n{lines}\n\
             tls.certificates = [{{ cert = \"{file}.crt\", key = \"{file}.key\" }}]\n"
        )
    }

    const CLOUDFLARE: &str = "front = \"cloudflare\"";

    fn told(listeners: &str, hosts: &str) -> Vec<(&'static str, String)> {
        let files = files(&[&["a.test", "*.a.test"], &["b.test", "192.0.2.7"]]);
        let text = format!("{listeners}[[route]]\nhosts = {hosts}\nrespond = {{}}");
        said_in(&text, &borrowed(&files), Duration::ZERO)
    }

    #[test]
    fn every_host_of_a_route_behind_cloudflare_has_a_certificate() {
        let web = listener("web", "a", CLOUDFLARE);
        for hosts in ["[\"a.test\"]", "[\"www.a.test\", \"*.a.test\"]"] {
            assert_eq!(told(&web, hosts), [], "{hosts}");
        }
        for hosts in ["[\"b.test\"]", "[\"a.test\", \"x.www.a.test\"]", "[\"*.b.test\"]"] {
            assert_eq!(told(&web, hosts), [("certificate-names", hosts.to_owned())]);
        }
        let direct = listener("web", "a", "");
        assert_eq!(told(&direct, "[\"b.test\"]"), []);
    }

    #[test]
    fn a_host_of_another_listener_belongs_there() {
        let both = listener("web", "a", CLOUDFLARE) + &listener("other", "b", "");
        assert_eq!(told(&both, "[\"b.test\"]"), []);
        assert_eq!(told(&both, "[\"c.test\"]").len(), 1);
    }

    #[test]
    fn a_certificate_that_is_ordered_is_not_missed() {
        let acme = "[acme]\naccept_terms = true\nfolder = \"/\"\n\
                    certificates = { c = [\"c.test\"] }\n";
        let web = acme.to_owned() + &listener("web", "a", CLOUDFLARE);
        assert_eq!(told(&web, "[\"c.test\"]"), []);
        assert_eq!(told(&web, "[\"d.test\"]").len(), 1);
    }

    #[test]
    fn hosts_beyond_three_are_counted() {
        let files = files(&[&["a.test"]]);
        let text = listener("web", "a", CLOUDFLARE)
            + "[[route]]\nhosts = [\"b\", \"c\", \"d\", \"e\", \"f\"]\nrespond = {}";
        let snapshot = of_text(&text, &borrowed(&files), None);
        let found = super::super::all(&snapshot, taken());
        let shown = "is for b, c, d and 2 more: Cloudflare";
        assert!(found[0].message.contains(shown), "{}", found[0].message);
    }

    #[test]
    fn an_end_is_told_of_the_certificate_that_answers() {
        let files = files(&[&["a.test"], &["b.test"]]);
        let text = "[listener.web]\nbind = \"0.0.0.0:0\"\ntls.certificates = [\
                    { cert = \"a.crt\", key = \"a.key\" }, { cert = \"b.crt\", key = \"b.key\" }]\n\
                    [[route]]\nrespond = {}";
        let snapshot = of_text(text, &borrowed(&files), None);
        let later = taken() + Duration::from_secs(400 * 24 * 60 * 60);
        let all = super::super::all(&snapshot, later);
        assert!(all.iter().all(|it| it.lint == Some("certificate")), "{all:?}");
        assert_eq!(all.len(), 2);
        let asked = super::super::of_request(&snapshot, "web", "b.test", None, later);
        assert_eq!(asked.len(), 1);
        assert!(pointed_at(text, &asked[0]).contains("b.crt"));
        assert!(asked[0].message.contains("for b.test expired on "), "{}", asked[0].message);
    }
}
