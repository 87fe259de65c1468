//! What is asked of clients, by the host that they come for.
//!
//! A [`ClientPolicy`] is one set of terms: whether a certificate must be shown, whose authority is
//! believed, what they have revoked. It has a TLS configuration of its own, with tickets that no
//! other one can read. The names that a policy is for are looked up twice: by the name that a
//! connection asks for, which decides what its handshake demands, and by the host of each request
//! on it, which must not be one that demands something else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::client::own_roots;
use super::error::LoadError;
use super::expiry::{Standing, Validity};
use super::resolver::{HOST_BYTES_MAX, normal};
use super::server::ServerConfigs;
use super::{pem, provider};
use crate::config::diagnostics::Span;
use crate::config::model::{ClientAuth, ClientAuthMode, FileContent, HostPattern};

/// The authority of the certificate that Cloudflare shows for all its customers alike.
const CLOUDFLARE_AUTHORITY: &[u8] = include_bytes!("cloudflare_origin_pull_ca.pem");

// The keys come from the operator, only the look-ups from strangers.
type Map<K> = HashMap<K, usize, foldhash::fast::RandomState>;

/// Equal where the same is asked of clients: by the contents of the files, not their names.
pub(super) type Terms = [u8; digest::SHA256_OUTPUT_LEN];

/// One set of terms.
#[derive(Debug)]
pub struct ClientPolicy {
    pub(super) terms: Terms,
    pub configs: ServerConfigs,
    verifier: Arc<dyn ClientCertVerifier>,
    /// Of authorities and lists, with what they are called.
    validities: Vec<(String, Validity)>,
    span: Span,
}

/// A verifier that has no configuration yet.
pub(super) struct Verifier {
    pub(super) terms: Terms,
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    validities: Vec<(String, Validity)>,
}

/// The policies of a listener, by host.
#[derive(Debug, Default)]
pub struct ClientPolicies {
    policies: Vec<Arc<ClientPolicy>>,
    exact: Map<String>,
    /// By the name without its `*.`; one or more labels before it.
    wildcard: Map<String>,
    /// For hosts that none of them names.
    others: Option<usize>,
}

impl ClientPolicies {
    /// `build` makes the configurations that demand what a verifier does.
    pub(super) fn build(
        specs: &[ClientAuth],
        build: impl Fn(&Verifier) -> Result<ServerConfigs, LoadError>,
    ) -> Result<Self, Vec<(Span, LoadError)>> {
        let mut policies = Self::default();
        let mut errors = Vec::new();
        for spec in specs {
            let span = spec.span.0;
            let built = verifier(spec).and_then(|verifier| Ok((build(&verifier)?, verifier)));
            match built {
                Ok((configs, Verifier { terms, verifier, validities })) => {
                    policies.add(spec, ClientPolicy { terms, configs, verifier, validities, span });
                }
                Err(error) => errors.push((span, error)),
            }
        }
        if errors.is_empty() { Ok(policies) } else { Err(errors) }
    }

    fn add(&mut self, spec: &ClientAuth, policy: ClientPolicy) {
        let index = self.policies.len();
        self.policies.push(Arc::new(policy));
        if spec.hosts.is_empty() {
            self.others = Some(index);
        }
        for host in &spec.hosts {
            match host {
                HostPattern::Exact(name) => self.exact.insert(name.clone(), index),
                HostPattern::Wildcard(name) => self.wildcard.insert(name.clone(), index),
            };
        }
    }

    pub fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ClientPolicy>> {
        self.policies.iter()
    }

    /// What is asked of the clients of a host: its own name, the longest wildcard, or what is
    /// asked of all others. Without a name it is that as well.
    pub fn of(&self, host: Option<&str>) -> Option<&Arc<ClientPolicy>> {
        if self.policies.is_empty() {
            return None;
        }
        let mut buffer = [0; HOST_BYTES_MAX];
        let host = host.and_then(|host| normal(host, &mut buffer));
        let index = host.and_then(|host| self.named(host)).or(self.others)?;
        self.policies.get(index)
    }

    fn named(&self, host: &str) -> Option<usize> {
        if let Some(index) = self.exact.get(host) {
            return Some(*index);
        }
        if self.wildcard.is_empty() {
            return None;
        }
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(index) = self.wildcard.get(parent) {
                return Some(*index);
            }
            rest = parent;
        }
        None
    }

    /// What of authorities and lists ends soon or has ended at the time `now`.
    pub(super) fn expiries(&self, now: SystemTime) -> impl Iterator<Item = (Standing, String)> {
        let validities = self.policies.iter().flat_map(|policy| &policy.validities);
        validities.filter_map(move |(what, it)| Some((it.standing(now), it.warning(what, now)?)))
    }

    /// What is doubtful about authorities and lists at the time `now`.
    pub(super) fn warnings(&self, now: SystemTime) -> impl Iterator<Item = (Span, String)> {
        self.policies.iter().flat_map(move |policy| {
            let warnings =
                policy.validities.iter().filter_map(move |(what, it)| it.warning(what, now));
            warnings.map(|warning| (policy.span, warning))
        })
    }
}

impl ClientPolicy {
    /// Whether what is asked is the same, though it may have been read at another time.
    pub fn asks_the_same_as(&self, other: &Self) -> bool {
        self.terms == other.terms
    }

    /// Whether a chain that was shown, its own certificate first, is good now. That the client has
    /// its key was proven when it was shown.
    pub fn admits(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let Some((own, issuers)) = chain.split_first() else {
            return Err(rustls::Error::NoCertificatesPresented);
        };
        self.verifier.verify_client_cert(own, issuers, UnixTime::now()).map(drop)
    }
}

fn verifier(spec: &ClientAuth) -> Result<Verifier, LoadError> {
    let embedded = || FileContent {
        path: "cloudflare_origin_pull_ca.pem".into(),
        bytes: CLOUDFLARE_AUTHORITY.into(),
    };
    let authority = spec.ca.clone().unwrap_or_else(embedded);
    let roots = own_roots(&authority)?;
    let mut validities = authority_validities(&authority)?;
    let mut lists = Vec::new();
    for file in &spec.crl {
        for list in pem::revocation_lists(file)? {
            validities.extend(list_validity(file, &list)?);
            lists.push(list);
        }
    }
    let verifier = build_verifier(spec.mode, roots, lists).map_err(|source| {
        let path = spec.crl.first().map_or(&authority.path, |file| &file.path).clone();
        LoadError::RevocationList { path, source: source.into() }
    })?;
    Ok(Verifier { terms: terms(spec, &authority), verifier, validities })
}

/// A list that is out of date counts as none: who keeps us from fetching a newer one must not gain
/// by it. The whole chain is judged.
fn build_verifier(
    mode: ClientAuthMode,
    roots: RootCertStore,
    lists: Vec<rustls_pki_types::CertificateRevocationListDer<'static>>,
) -> Result<Arc<dyn ClientCertVerifier>, rustls::server::VerifierBuilderError> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .with_crls(lists)
        .enforce_revocation_expiration();
    match mode {
        ClientAuthMode::Require => builder.build(),
        ClientAuthMode::Request => builder.allow_unauthenticated().build(),
    }
}

fn terms(spec: &ClientAuth, authority: &FileContent) -> Terms {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[u8::from(spec.mode == ClientAuthMode::Require)]);
    for file in std::iter::once(authority).chain(&spec.crl) {
        context.update(&u64::try_from(file.bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(&file.bytes);
    }
    let mut terms = Terms::default();
    terms.copy_from_slice(context.finish().as_ref());
    terms
}

fn authority_validities(file: &FileContent) -> Result<Vec<(String, Validity)>, LoadError> {
    let path = file.path.display();
    let certificates = pem::certificates(file)?;
    let parsed = certificates.iter().filter_map(|der| X509Certificate::from_der(der).ok());
    let validities = parsed.map(|(_, certificate)| Validity {
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    });
    Ok(validities.map(|validity| (format!("the authority of clients {path}"), validity)).collect())
}

/// Of a list that says when the next one comes.
fn list_validity(file: &FileContent, list: &[u8]) -> Result<Option<(String, Validity)>, LoadError> {
    let unusable = |reason: String| LoadError::RevocationList {
        path: file.path.clone(),
        source: reason.into(),
    };
    let (_, parsed) = CertificateRevocationList::from_der(list)
        .map_err(|error| unusable(format!("it is not in the form of X.509 ({error})")))?;
    let Some(next) = parsed.next_update() else { return Ok(None) };
    let validity =
        Validity { not_before: parsed.last_update().timestamp(), not_after: next.timestamp() };
    Ok(Some((format!("the list of revoked certificates {}", file.path.display()), validity)))
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
        IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    };
    use rustls::{ClientConfig, HandshakeKind};
    use std::time::Duration;

    use super::*;
    use crate::config::model::{ListenerTls, Located, SpanOf};
    use crate::tls::ListenerTlsState;
    use crate::tls::failure::Failure;
    use crate::tls::testing::{
        Accepting, DAY, Key, file, files, handshake, listener, params, plan, span,
    };

    /// An authority of clients.
    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn new(name: &str) -> Self {
            let mut params = params(&[name]);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn file(&self) -> FileContent {
            file("clients.crt", self.0.pem().as_bytes())
        }

        /// A client with this serial number and what `change` makes of its certificate.
        fn client(&self, serial: u64, change: impl FnOnce(&mut CertificateParams)) -> Client {
            let mut params = params(&["client.test"]);
            params.serial_number = Some(SerialNumber::from(serial));
            change(&mut params);
            let key = KeyPair::generate().unwrap();
            let issuer: &Issuer<'static, KeyPair> = &self.0;
            let chain = vec![params.signed_by(&key, issuer).unwrap().der().clone()];
            Client { chain, key: key.serialize_der() }
        }

        fn revoking(&self, serial: u64, next: SystemTime) -> FileContent {
            let now = SystemTime::now() - Duration::from_secs(7 * DAY);
            let revoked = RevokedCertParams {
                serial_number: SerialNumber::from(serial),
                revocation_time: now.into(),
                reason_code: None,
                invalidity_date: None,
            };
            let list = CertificateRevocationListParams {
                this_update: now.into(),
                next_update: next.into(),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: vec![revoked],
                key_identifier_method: KeyIdMethod::Sha256,
            };
            let issuer: &Issuer<'static, KeyPair> = &self.0;
            file("clients.crl", list.signed_by(issuer).unwrap().pem().unwrap().as_bytes())
        }
    }

    struct Client {
        chain: Vec<CertificateDer<'static>>,
        key: Vec<u8>,
    }

    impl Client {
        fn config(&self) -> Arc<ClientConfig> {
            let key = rustls_pki_types::PrivatePkcs8KeyDer::from(self.key.clone());
            let config = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Accepting::default()))
                .with_client_auth_cert(self.chain.clone(), key.into());
            Arc::new(config.unwrap())
        }
    }

    fn anonymous() -> Arc<ClientConfig> {
        Accepting::default().config()
    }

    fn asking(mode: ClientAuthMode, ca: FileContent, hosts: &[&str]) -> ClientAuth {
        let host = |host: &&str| match host.strip_prefix("*.") {
            Some(name) => HostPattern::Wildcard(name.to_owned()),
            None => HostPattern::Exact((*host).to_owned()),
        };
        ClientAuth {
            mode,
            ca: Some(ca),
            crl: Vec::new(),
            hosts: hosts.iter().map(host).collect(),
            span: SpanOf(span(50)),
        }
    }

    fn site(client_auth: Vec<ClientAuth>) -> ListenerTls {
        let mut tls = listener(vec![files(&["a.test", "*.b.test"], Key::Ecdsa)]);
        tls.client_auth = client_auth;
        tls
    }

    fn build(tls: &ListenerTls, previous: Option<&ListenerTlsState>) -> ListenerTlsState {
        ListenerTlsState::build(&plan(tls), previous).unwrap()
    }

    /// How a client fares that asks for `name`: whether it resumed, or why it was refused.
    async fn fare(
        state: &ListenerTlsState,
        client: &Arc<ClientConfig>,
        name: &str,
    ) -> Result<Option<HandshakeKind>, Failure> {
        let (configs, _) = state.accept(Some(name));
        handshake(configs.for_offer(&[]), client, name).await.map(|done| done.kind()).map_err(
            |error| {
                // The server's error, as the client's is only an alert.
                Failure::of(&error)
            },
        )
    }

    #[tokio::test]
    async fn only_the_named_hosts_demand_a_certificate() {
        let authority = Authority::new("one");
        let client = authority.client(7, |_| {}).config();
        let auth = asking(ClientAuthMode::Require, authority.file(), &["a.test", "*.b.test"]);
        let state = build(&site(vec![auth]), None);
        for name in ["a.test", "x.b.test", "x.y.b.test"] {
            assert!(fare(&state, &anonymous(), name).await.is_err(), "{name}");
            assert!(fare(&state, &client, name).await.is_ok(), "{name}");
        }
        for name in ["b.test", "c.test", "a.test.c.test"] {
            assert!(fare(&state, &anonymous(), name).await.is_ok(), "{name}");
        }
        assert!(state.accept(None).1.is_none());
        assert!(state.accept(Some("A.test.")).1.is_some());
    }

    #[tokio::test]
    async fn a_host_that_none_names_gets_what_is_asked_of_all_others() {
        let (one, two) = (Authority::new("one"), Authority::new("two"));
        let state = build(
            &site(vec![
                asking(ClientAuthMode::Require, one.file(), &["a.test"]),
                asking(ClientAuthMode::Request, two.file(), &[]),
            ]),
            None,
        );
        assert!(fare(&state, &anonymous(), "a.test").await.is_err());
        assert!(fare(&state, &anonymous(), "b.test").await.is_ok());
        assert!(fare(&state, &two.client(1, |_| {}).config(), "b.test").await.is_ok());
        // A bad one is refused even where none is needed.
        assert!(fare(&state, &one.client(1, |_| {}).config(), "b.test").await.is_err());
        assert!(state.accept(None).1.is_some());
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_told_apart() {
        let (authority, other) = (Authority::new("one"), Authority::new("two"));
        let now = SystemTime::now();
        let mut auth = asking(ClientAuthMode::Require, authority.file(), &[]);
        auth.crl = vec![authority.revoking(13, now + Duration::from_secs(60 * DAY))];
        let state = build(&site(vec![auth.clone()]), None);
        let policy = state.accept(None).1.unwrap().clone();
        let verdict =
            |client: &Client| policy.admits(&client.chain).map_err(|error| Failure::of_tls(&error));
        let expired = authority.client(7, |params| {
            params.not_after = (now - Duration::from_secs(DAY)).into();
        });
        assert_eq!(verdict(&authority.client(7, |_| {})), Ok(()));
        assert_eq!(verdict(&authority.client(13, |_| {})), Err(Failure::CertificateRevoked));
        assert_eq!(verdict(&expired), Err(Failure::CertificateExpired));
        assert_eq!(verdict(&other.client(7, |_| {})), Err(Failure::CertificateUnknownIssuer));
        let nothing = Client { chain: Vec::new(), key: Vec::new() };
        assert_eq!(verdict(&nothing), Err(Failure::CertificateMissing));

        auth.crl = vec![authority.revoking(13, now - Duration::from_secs(DAY))];
        let tls = site(vec![auth]);
        let state = build(&tls, None);
        let stale = state.accept(None).1.unwrap().admits(&authority.client(7, |_| {}).chain);
        let failure = stale.map_err(|error| Failure::of_tls(&error));
        assert_eq!(failure, Err(Failure::CertificateUnknownStatus));
        let warnings = state.warnings(&tls, None, now);
        assert!(warnings[0].1.contains("revoked certificates clients.crl expired"), "{warnings:?}");
        assert_eq!(warnings[0].0, span(50));
    }

    /// CVE-2025-23419 and its kind.
    async fn no_session_crosses(ticket_keys: Option<&str>) {
        let (authority, other) = (Authority::new("one"), Authority::new("two"));
        let with = |auth: Vec<ClientAuth>| {
            let mut tls = site(auth);
            tls.ticket_keys = ticket_keys.map(|keys| Located {
                value: file("tickets.keys", keys.as_bytes()),
                span: span(60),
            });
            tls
        };
        let asking = |mode, authority: &Authority| asking(mode, authority.file(), &["a.test"]);
        let open = build(&with(vec![]), None);
        let client = authority.client(7, |_| {}).config();
        assert_eq!(fare(&open, &client, "a.test").await, Ok(Some(HandshakeKind::Full)));
        assert_eq!(fare(&open, &client, "a.test").await, Ok(Some(HandshakeKind::Resumed)));
        let anonymous = anonymous();
        assert!(fare(&open, &anonymous, "a.test").await.is_ok());

        let strict = build(&with(vec![asking(ClientAuthMode::Require, &authority)]), Some(&open));
        assert!(fare(&strict, &anonymous, "a.test").await.is_err());
        assert_eq!(fare(&strict, &client, "a.test").await, Ok(Some(HandshakeKind::Full)));
        assert_eq!(fare(&strict, &client, "a.test").await, Ok(Some(HandshakeKind::Resumed)));

        let same = build(&with(vec![asking(ClientAuthMode::Require, &authority)]), Some(&strict));
        assert_eq!(fare(&same, &client, "a.test").await, Ok(Some(HandshakeKind::Resumed)));

        let elsewhere = build(&with(vec![asking(ClientAuthMode::Require, &other)]), Some(&same));
        assert!(fare(&elsewhere, &client, "a.test").await.is_err());
        let mut revoked = asking(ClientAuthMode::Require, &authority);
        revoked.crl = vec![authority.revoking(7, SystemTime::now() + Duration::from_secs(DAY))];
        let revoked = build(&with(vec![revoked]), Some(&same));
        assert!(fare(&revoked, &client, "a.test").await.is_err());
    }

    #[tokio::test]
    async fn no_session_crosses_what_is_asked_of_clients_with_random_keys() {
        no_session_crosses(None).await;
    }

    #[tokio::test]
    async fn no_session_crosses_what_is_asked_of_clients_with_shared_keys() {
        no_session_crosses(Some(&"ab".repeat(48))).await;
    }

    #[tokio::test]
    async fn a_fleet_with_shared_keys_resumes_each_others_sessions() {
        let keys =
            Located { value: file("tickets.keys", "cd".repeat(80).as_bytes()), span: span(60) };
        let one = || {
            let mut tls = site(vec![]);
            tls.ticket_keys = Some(keys.clone());
            build(&tls, None)
        };
        let client = anonymous();
        assert_eq!(fare(&one(), &client, "a.test").await, Ok(Some(HandshakeKind::Full)));
        assert_eq!(fare(&one(), &client, "a.test").await, Ok(Some(HandshakeKind::Resumed)));
    }

    #[test]
    fn the_authority_of_cloudflare_is_built_in() {
        let mut auth = asking(ClientAuthMode::Require, file("", b""), &[]);
        auth.ca = None;
        let tls = site(vec![auth]);
        let state = build(&tls, None);
        let policy = state.accept(None).1.unwrap();
        let stranger = Authority::new("one").client(7, |_| {});
        let refused = policy.admits(&stranger.chain).map_err(|error| Failure::of_tls(&error));
        assert_eq!(refused, Err(Failure::CertificateUnknownIssuer));
    }

    #[test]
    fn files_that_are_none_are_told_at_their_place() {
        let authority = Authority::new("one");
        let mut no_ca = asking(ClientAuthMode::Require, file("clients.crt", b""), &["a.test"]);
        no_ca.span = SpanOf(span(10));
        let mut no_list = asking(ClientAuthMode::Require, authority.file(), &["b.test"]);
        no_list.crl = vec![file("clients.crl", authority.file().bytes.as_ref())];
        let mut garbage = asking(ClientAuthMode::Require, authority.file(), &["c.test"]);
        garbage.crl = vec![file("garbage.crl", &[0x30, 0x82, 0xff])];
        let tls = site(vec![no_ca, no_list, garbage]);
        let errors = ListenerTlsState::build(&plan(&tls), None).unwrap_err();
        let said: Vec<_> = errors.iter().map(|(_, error)| error.to_string()).collect();
        assert_eq!(errors[0].0, span(10));
        assert!(said[0].contains("no PEM block of a certificate found in clients.crt"), "{said:?}");
        assert!(
            said[1].contains("of a list of revoked certificates found in clients.crl; the file")
        );
        assert!(said[2].contains("revoked certificates garbage.crl is not usable"), "{said:?}");
    }
}
