//! What a pool name stands for: balanced endpoints, or a folder.

use std::sync::Arc;
use std::time::Instant;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;

use super::Resources;
use crate::balance::{Endpoint, Pool, Previous};
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{self, Address, EndpointSpec, Name, PoolSource, Probe, Protocol};
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
    pub protocol: Protocol,
    /// By which all its endpoints are found.
    name: Option<Box<str>>,
    tls: Tls,
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
                let balanced = Balanced::build(spec, endpoints, zone, previous, now)?;
                Kind::Balanced(Box::new(balanced))
            }
            PoolSource::Dns(_) => {
                let same = previous.filter(|previous| previous.spec.source == spec.source);
                let found = same.and_then(Self::balanced).map(|before| before.pool.specs());
                let endpoints = found.unwrap_or_default();
                let balanced = Balanced::build(spec, &endpoints, zone, previous, now)?;
                Kind::Balanced(Box::new(balanced))
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

/// The name that stands for all endpoints of a pool, where they are found by one.
fn common_name(source: &PoolSource) -> Option<&str> {
    match source {
        PoolSource::Dns(name) => Some(name.host()),
        PoolSource::Endpoints(_) | PoolSource::Files(_) => None,
    }
}

/// Whether connections to endpoints of one pool could be those of the other: other TLS settings
/// make other connections, and so does another name to verify.
fn are_reached_alike(a: &model::Pool, b: &model::Pool) -> bool {
    let names_count = a.tls.as_ref().is_some_and(|tls| tls.sni.is_none());
    let are_alike =
        a.tls == b.tls && a.proxy_protocol == b.proxy_protocol && a.protocol == b.protocol;
    are_alike && (!names_count || common_name(&a.source) == common_name(&b.source))
}

/// What TLS is spoken, and the name that is verified where it is one for all endpoints.
#[derive(Debug, Default)]
struct Tls {
    config: Option<Arc<ClientConfig>>,
    /// That of probes, which may speak another protocol than requests.
    of_probes: Option<Arc<ClientConfig>>,
    spec: Option<model::UpstreamTls>,
    name: Option<ServerName<'static>>,
}

impl Tls {
    fn of(pool: &model::Pool) -> Result<Self, Diagnostic> {
        let Some(tls) = &pool.tls else { return Ok(Self::default()) };
        let problem = |error: tls::LoadError| {
            let problem = Diagnostic::error(tls.span, error.to_string());
            match error.help() {
                Some(help) => problem.help(help),
                None => problem,
            }
        };
        if let PoolSource::Endpoints(endpoints) = &pool.source {
            for endpoint in endpoints {
                tls::server_name(tls, &endpoint.address).map_err(problem)?;
            }
        }
        let name = common_name(&pool.source).map(|host| {
            let address = Address::Name { host: host.to_owned(), port: 0 };
            tls::server_name(tls, &address)
        });
        let config = |protocol| {
            let alpn = match protocol {
                Protocol::H1 => tls::ALPN_H1,
                Protocol::H2 => tls::ALPN_H2,
            };
            tls::client_config(tls, &[alpn]).map_err(problem)
        };
        let of_requests = config(pool.protocol)?;
        let is_grpc = |health: &model::Health| matches!(health.probe, Probe::Grpc { .. });
        let needs_other =
            pool.protocol != Protocol::H2 && pool.health.as_ref().is_some_and(is_grpc);
        let of_probes = if needs_other { config(Protocol::H2)? } else { of_requests.clone() };
        Ok(Self {
            config: Some(of_requests),
            of_probes: Some(of_probes),
            spec: Some(tls.clone()),
            name: name.transpose().map_err(problem)?,
        })
    }
}

impl Balanced {
    fn build(
        spec: &model::Pool,
        endpoints: &[EndpointSpec],
        zone: Option<&Name>,
        previous: Option<&Backend>,
        now: Instant,
    ) -> Result<Self, Diagnostic> {
        let previous = previous.and_then(|backend| {
            Some(Previous {
                pool: &backend.balanced()?.pool,
                is_reached_alike: are_reached_alike(&backend.spec, spec),
            })
        });
        let tls = Tls::of(spec)?;
        Ok(Self {
            pool: Arc::new(Pool::build(spec, endpoints, previous, zone, now)),
            dialer: Dialer {
                tls: tls.config.clone(),
                connect_timeout: spec.timeouts.connect,
                connections_max: spec.limits.connections_max,
                slot_timeout: spec.limits.queue_timeout,
                proxy_protocol: spec.proxy_protocol,
            },
            protocol: spec.protocol,
            name: common_name(&spec.source).map(Box::from),
            tls,
        })
    }

    /// What TLS probes speak; `None` without TLS.
    pub fn probe_tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.of_probes.as_ref()
    }

    /// The name that an endpoint's certificate must be for; `None` without TLS.
    pub fn server_name(&self, endpoint: &Endpoint) -> Option<ServerName<'static>> {
        let common = self.tls.name.clone();
        common.or_else(|| tls::server_name(self.tls.spec.as_ref()?, &endpoint.address).ok())
    }

    /// The Host of a request that has none of its own, such as a probe.
    pub fn default_host(&self, endpoint: &Endpoint) -> String {
        match (&self.name, &endpoint.address) {
            (Some(name), Address::Socket(address)) => format!("{name}:{}", address.port()),
            (_, Address::Unix(_)) => "localhost".to_owned(),
            (_, address) => address.to_string(),
        }
    }
}
