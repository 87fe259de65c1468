//! Lints of certificates: whether they can be used, and whether there is one for each host.

use super::site::{Fronted, Site};
use super::table::{CERTIFICATE_EXPIRY, CERTIFICATE_NAMES};
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
    let help = "write a new one into the same files; they are taken without a restart";
    warnings.map(|(span, text)| CERTIFICATE_EXPIRY.at(Some(span), text, help)).collect()
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
