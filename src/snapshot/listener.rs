//! A listener, compiled: what a connection and its requests look up.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::limit::ConnectionLimit;
use super::stats::{self, ListenerStats};
use super::trusted::Trusted;
use crate::cidr::CidrSet;
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{self, Hsts};
use crate::front;
use crate::tls::ListenerTlsState;
use crate::tls::state::Plan;

#[derive(Debug)]
pub struct Listener {
    pub spec: model::Listener,
    /// The same number as long as the process runs, for counters.
    pub id: usize,
    /// `None` for a plain listener.
    pub tls: Option<Arc<ListenerTlsState>>,
    pub trusted: Trusted,
    /// Who is served although not trusted; `None`: everybody is.
    required: Option<CidrSet>,
    /// In which the front names a request.
    pub trace_field: Option<HeaderName>,
    /// The value of `Strict-Transport-Security`.
    pub hsts: Option<HeaderValue>,
    pub stats: Arc<ListenerStats>,
    pub limit: Arc<ConnectionLimit>,
    /// TLS handshakes under way.
    pub handshakes: Arc<ConnectionLimit>,
}

impl Listener {
    pub(super) fn build(
        spec: &model::Listener,
        previous: Option<&Arc<Self>>,
        connections: &Arc<ConnectionLimit>,
    ) -> Result<Arc<Self>, Vec<Diagnostic>> {
        if let Some(previous) = previous
            && previous.spec == *spec
        {
            return Ok(previous.clone());
        }
        let trusted = Trusted::build(spec, previous.map(|listener| &listener.trusted))
            .map_err(|problem| vec![problem])?;
        let before = previous.and_then(|listener| Some((listener, listener.tls.as_ref()?)));
        let tls = match (&spec.tls, before) {
            (None, _) => None,
            (Some(tls), Some((listener, before)))
                if listener.spec.tls.as_ref() == Some(tls)
                    && listener.spec.protocols == spec.protocols =>
            {
                Some(before.clone())
            }
            (Some(tls), before) => {
                Some(Arc::new(build_tls(spec, tls, before.map(|(_, before)| &**before))?))
            }
        };
        let limit = match previous {
            Some(previous) => {
                previous.limit.set_max(spec.limits.connections_max);
                previous.limit.clone()
            }
            None => ConnectionLimit::new(spec.limits.connections_max, connections),
        };
        let handshakes = match previous {
            Some(previous) => {
                previous.handshakes.set_max(spec.limits.handshakes_max);
                previous.handshakes.clone()
            }
            None => ConnectionLimit::of_process(spec.limits.handshakes_max),
        };
        Ok(Arc::new(Self {
            spec: spec.clone(),
            id: stats::listener_id(&spec.name),
            tls,
            trusted,
            required: spec.front_required.as_ref().map(|exempt| exempt.iter().copied().collect()),
            trace_field: front::trace_field(spec.front),
            hsts: spec.hsts.and_then(hsts),
            stats: previous.map(|listener| listener.stats.clone()).unwrap_or_default(),
            limit,
            handshakes,
        }))
    }

    /// Whether anything is asked of the clients of any host.
    pub(super) fn asks_clients(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.clients.is_empty())
    }

    /// Whether a peer is served at all, trusted or not.
    pub fn admits(&self, peer: IpAddr, is_trusted: bool) -> bool {
        is_trusted || self.required.as_ref().is_none_or(|exempt| exempt.contains(peer))
    }
}

/// RFC 6797 §6.1.
fn hsts(hsts: Hsts) -> Option<HeaderValue> {
    let subdomains = if hsts.subdomains { "; includeSubDomains" } else { "" };
    HeaderValue::try_from(format!("max-age={}{subdomains}", hsts.max_age.as_secs())).ok()
}

fn build_tls(
    spec: &model::Listener,
    tls: &model::ListenerTls,
    previous: Option<&ListenerTlsState>,
) -> Result<ListenerTlsState, Vec<Diagnostic>> {
    let plan = Plan { listener: &spec.name, tls, protocols: spec.protocols };
    ListenerTlsState::build(&plan, previous).map_err(|errors| {
        let described = errors.into_iter().map(|(span, error)| {
            let problem = Diagnostic::error(span, error.to_string());
            match error.help() {
                Some(help) => problem.help(help),
                None => problem,
            }
        });
        described.collect()
    })
}
