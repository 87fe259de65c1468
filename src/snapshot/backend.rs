//! What a pool name stands for: balanced endpoints, or a folder.

use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::Resources;
use crate::balance::{Endpoint, Pool, Previous};
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{self, Address, Name, PoolSource};
use crate::files::Folder;
use crate::tls;
use crate::upstream::Dialer;

#[derive(Debug)]
pub struct Backend {
    pub spec: model::Pool,
    /// Of this process, when the backend was built.
    zone: Option<Name>,
    pub kind: Kind,
}

#[derive(Debug)]
pub enum Kind {
    Balanced(Box<Balanced>),
    Folder(Folder),
}

/// Endpoints, and how to reach them.
#[derive(Debug)]
pub struct Balanced {
    pub pool: Arc<Pool>,
    pub dialer: Dialer,
    tls: Option<model::UpstreamTls>,
}

impl Backend {
    pub(super) fn is_built_from(&self, spec: &model::Pool, zone: Option<&Name>) -> bool {
        self.spec == *spec && self.zone.as_ref() == zone
    }

    pub(super) fn build(
        spec: &model::Pool,
        zone: Option<&Name>,
        previous: Option<&Self>,
        resources: &Resources,
        now: Instant,
    ) -> Result<Self, Diagnostic> {
        let kind = match &spec.source {
            PoolSource::Files(origin) => Kind::Folder(Folder::new(origin, resources.files.clone())),
            PoolSource::Endpoints(endpoints) => {
                let previous = previous.and_then(|backend| {
                    Some(Previous {
                        pool: &backend.balanced()?.pool,
                        // Connections to another TLS identity are other connections.
                        is_reached_alike: backend.spec.tls == spec.tls
                            && backend.spec.proxy_protocol == spec.proxy_protocol,
                    })
                });
                Kind::Balanced(Box::new(Balanced {
                    pool: Arc::new(Pool::build(spec, endpoints, previous, zone, now)),
                    dialer: Dialer {
                        tls: client_config(spec)?,
                        connect_timeout: spec.timeouts.connect,
                        connections_max: spec.limits.connections_max,
                        slot_timeout: spec.limits.queue_timeout,
                        proxy_protocol: spec.proxy_protocol,
                    },
                    tls: spec.tls.clone(),
                }))
            }
        };
        Ok(Self { spec: spec.clone(), zone: zone.cloned(), kind })
    }

    pub fn balanced(&self) -> Option<&Balanced> {
        match &self.kind {
            Kind::Balanced(balanced) => Some(balanced),
            Kind::Folder(_) => None,
        }
    }
}

fn client_config(spec: &model::Pool) -> Result<Option<Arc<ClientConfig>>, Diagnostic> {
    let Some(tls) = &spec.tls else { return Ok(None) };
    let problem = |error: tls::LoadError| {
        let problem = Diagnostic::error(tls.span, error.to_string());
        match error.help() {
            Some(help) => problem.help(help),
            None => problem,
        }
    };
    if let PoolSource::Endpoints(endpoints) = &spec.source {
        for endpoint in endpoints {
            tls::server_name(tls, &endpoint.address).map_err(problem)?;
        }
    }
    tls::client_config(tls, &[tls::ALPN_H1]).map(Some).map_err(problem)
}

impl Balanced {
    /// The name that an endpoint's certificate must be for; `None` without TLS.
    pub fn server_name(&self, endpoint: &Endpoint) -> Option<ServerName<'static>> {
        tls::server_name(self.tls.as_ref()?, &endpoint.address).ok()
    }

    /// The Host of a request that has none of its own, such as a probe.
    pub fn default_host(address: &Address) -> String {
        match address {
            Address::Unix(_) => "localhost".to_owned(),
            Address::Socket(_) | Address::Name { .. } => address.to_string(),
        }
    }
}
