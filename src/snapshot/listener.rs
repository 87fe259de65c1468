//! A listener, compiled: what a connection and its requests look up.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::server::ProducesTickets;

use super::limit::ConnectionLimit;
use super::stats::{self, ListenerStats};
use crate::cidr::CidrSet;
use crate::config::diagnostics::Diagnostic;
use crate::config::model;
use crate::tls::{self, ListenerTlsState};

#[derive(Debug)]
pub struct Listener {
    pub spec: model::Listener,
    /// The same number as long as the process runs, for counters.
    pub id: usize,
    /// `None` for a plain listener.
    pub tls: Option<Arc<Tls>>,
    pub trusted: CidrSet,
    pub stats: Arc<ListenerStats>,
    pub limit: Arc<ConnectionLimit>,
}

/// The TLS side of a listener.
#[derive(Debug)]
pub struct Tls {
    pub state: ListenerTlsState,
    /// Session tickets outlive certificates: clients resume across reloads.
    tickets: Arc<dyn ProducesTickets>,
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
        let before = previous.and_then(|listener| listener.tls.as_ref().map(|tls| (listener, tls)));
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
        Ok(Arc::new(Self {
            spec: spec.clone(),
            id: stats::listener_id(&spec.name),
            tls,
            trusted: spec.trusted.iter().copied().collect(),
            stats: previous.map(|listener| listener.stats.clone()).unwrap_or_default(),
            limit,
        }))
    }

    /// What is doubtful about the certificates.
    pub(super) fn warnings(&self, now: SystemTime) -> Vec<Diagnostic> {
        let (Some(state), Some(spec)) = (&self.tls, &self.spec.tls) else { return Vec::new() };
        let warnings = state.state.warnings(spec, now);
        warnings.into_iter().map(|(span, text)| Diagnostic::warning(span, text)).collect()
    }
}

fn build_tls(
    spec: &model::Listener,
    tls: &model::ListenerTls,
    previous: Option<&Tls>,
) -> Result<Tls, Vec<Diagnostic>> {
    let tickets = match previous {
        Some(previous) => previous.tickets.clone(),
        None => tls::tickets().map_err(|error| vec![Diagnostic::placeless(error.to_string())])?,
    };
    let state =
        ListenerTlsState::build(tls, spec.protocols, tickets.clone()).map_err(|errors| {
            errors
                .into_iter()
                .map(|(span, error)| {
                    let problem = Diagnostic::error(span, error.to_string());
                    match error.help() {
                        Some(help) => problem.help(help),
                        None => problem,
                    }
                })
                .collect::<Vec<_>>()
        })?;
    Ok(Tls { state, tickets })
}
