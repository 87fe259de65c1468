//! What a listener needs to accept TLS, and how it follows from what was there before.
//!
//! A certificate whose files did not change is not read again. One of a folder whose files are
//! wrong at the moment goes on as it was: whoever writes them may be in the middle of it, and the
//! next change of the files is looked at anyway.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::server::ProducesTickets;

use super::client_auth::{ClientPolicies, ClientPolicy, Terms};
use super::error::{LoadError, Source};
use super::expiry::Standing;
use super::generate;
use super::load::{self, Certificate};
use super::resolver::CertificateSet;
use super::server::{Common, ServerConfigs};
use super::tickets::{self, TicketKeys};
use crate::config::diagnostics::Span;
use crate::config::model::{
    CertificateFiles, CertificateFolder, FileContent, ListenerTls, Protocols, SelfSigned,
};

/// What a certificate that we make is known by, in the place of a file.
const STAND_IN: &str = "self-signed";
/// It is made anew with the first reload in the last thirty days of that.
const STAND_IN_LIFE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[derive(Debug)]
pub struct ListenerTlsState {
    /// Those named one by one, in their order, then those of the folder.
    pub certificates: Arc<CertificateSet>,
    /// What is asked of clients, by host.
    pub clients: ClientPolicies,
    /// Pairs of the folder that cannot be used as they are.
    pub problems: Vec<PairProblem>,
    /// For clients of which nothing is asked.
    open: ServerConfigs,
    /// Random ones, by their terms; none is that nothing is asked. Clients resume across reloads.
    tickets: Vec<(Option<Terms>, Arc<dyn ProducesTickets>)>,
}

/// A pair of a folder that cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairProblem {
    pub cert: PathBuf,
    pub why: String,
    /// The certificate from before goes on.
    pub is_kept: bool,
}

/// What the state of a listener is built from.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Its name.
    pub listener: &'a str,
    pub tls: &'a ListenerTls,
    pub protocols: Protocols,
}

/// Everything that is wrong, with its place.
pub type Problems = Vec<(Span, LoadError)>;

impl ListenerTlsState {
    /// Reads what is new, and takes over from `previous` what did not change.
    pub fn build(plan: &Plan<'_>, previous: Option<&Self>) -> Result<Self, Problems> {
        let mut errors = Problems::new();
        let found = certificates(plan.tls, previous).map_err(|found| errors.extend(found)).ok();
        let keys = match &plan.tls.ticket_keys {
            Some(file) => TicketKeys::parse(&file.value)
                .map(Some)
                .map_err(|error| errors.push((file.span, error)))
                .ok(),
            None => Some(None),
        };
        let (Some((certificates, problems)), Some(keys)) = (found, keys) else {
            // What clients are asked for may be wrong as well: all at once.
            let nothing = Self::assemble(plan, CertificateSet::default(), Vec::new(), None, None);
            errors.extend(nothing.err().into_iter().flatten());
            return Err(errors);
        };
        Self::assemble(plan, CertificateSet::new(certificates), problems, keys, previous)
    }

    fn assemble(
        plan: &Plan<'_>,
        certificates: CertificateSet,
        problems: Vec<PairProblem>,
        keys: Option<TicketKeys>,
        previous: Option<&Self>,
    ) -> Result<Self, Problems> {
        let ListenerTls { min_version, client_auth, .. } = plan.tls;
        let certificates = Arc::new(certificates);
        let common = Common {
            certificates: certificates.clone(),
            protocols: plan.protocols,
            min_version: *min_version,
        };
        let ticketer = |terms: Option<Terms>| match &keys {
            Some(keys) => {
                let terms = terms.as_ref().map(<[u8; _]>::as_slice).unwrap_or_default();
                keys.ticketer(plan.listener, terms)
            }
            None => match previous.and_then(|previous| previous.random_tickets(terms)) {
                Some(tickets) => Ok(tickets),
                None => tickets::random(),
            },
        };
        let clients = ClientPolicies::build(client_auth, |verifier| {
            common.configs(ticketer(Some(verifier.terms))?, Some(verifier.verifier.clone()))
        })?;
        // Not the fault of one certificate; the first place shows at least the right listener.
        let place =
            |error| plan.place().map(|span| (span, error)).into_iter().collect::<Problems>();
        let open =
            ticketer(None).and_then(|tickets| common.configs(tickets, None)).map_err(place)?;
        let tickets = if keys.is_some() {
            Vec::new()
        } else {
            let of = |policy: &Arc<ClientPolicy>| (Some(policy.terms), policy.configs.ticketer());
            clients.all().map(of).chain([(None, open.ticketer())]).collect()
        };
        Ok(Self { certificates, clients, problems, open, tickets })
    }

    fn random_tickets(&self, terms: Option<Terms>) -> Option<Arc<dyn ProducesTickets>> {
        let (_, tickets) = self.tickets.iter().find(|(known, _)| *known == terms)?;
        Some(tickets.clone())
    }

    /// How a connection is accepted that asks for `sni`, and what is asked of its client.
    pub fn accept(&self, sni: Option<&str>) -> (&ServerConfigs, Option<&Arc<ClientPolicy>>) {
        match self.clients.of(sni) {
            Some(policy) => (&policy.configs, Some(policy)),
            None => (&self.open, None),
        }
    }

    /// What of certificates, authorities and lists ends soon or has ended at the time `now`.
    pub fn expiries(&self, now: SystemTime) -> Vec<(Standing, String)> {
        let certificates = self.certificates.certificates().iter();
        let certificates = certificates.filter_map(|certificate| {
            Some((certificate.validity.standing(now), certificate.expiry(now)?))
        });
        certificates.chain(self.clients.expiries(now)).collect()
    }

    /// What is doubtful at the time `now`, of all certificates or of those that answer for `host`;
    /// `tls` is what this was built from and lends the places.
    pub fn warnings(
        &self,
        tls: &ListenerTls,
        host: Option<&str>,
        now: SystemTime,
    ) -> Vec<(Span, String)> {
        let answering = host.map(|host| self.certificates.presented(host));
        let is_meant = |index: &usize| answering.is_none_or(|some| some.contains(index));
        let named = tls.certificates.iter().map(|files| files.span);
        let folder = tls.directory.as_ref().map(|folder| folder.span.0);
        let places = named.chain(std::iter::repeat(folder).map_while(|folder| folder));
        let certificates = self.certificates.certificates().iter().zip(places);
        let certificates = certificates.enumerate().filter(|(index, _)| is_meant(index));
        let warnings = certificates.flat_map(|(_, (certificate, span))| {
            certificate.warnings(now).into_iter().map(move |warning| (span, warning))
        });
        let problems = self.problems.iter().filter_map(|it| Some((folder?, it.to_string())));
        problems.chain(warnings).chain(self.clients.warnings(now)).collect()
    }
}

impl Plan<'_> {
    fn place(&self) -> Option<Span> {
        let named = self.tls.certificates.first().map(|files| files.span);
        let folder = self.tls.directory.as_ref().map(|folder| folder.span.0);
        named.or(folder).or_else(|| self.tls.self_signed.as_ref().map(|made| made.span.0))
    }
}

impl std::fmt::Display for PairProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let outcome = match self.is_kept {
            true => "the certificate from before goes on until the files are right",
            false => "it is left out until the files are right",
        };
        write!(f, "{}: {outcome}", self.why)
    }
}

/// The certificates of before, by the file of their chain.
#[derive(Default)]
struct Known<'a>(HashMap<&'a Path, &'a Arc<Certificate>>);

impl<'a> Known<'a> {
    fn of(previous: Option<&'a ListenerTlsState>) -> Self {
        let certificates = previous.map(|previous| previous.certificates.certificates());
        let certificates = certificates.unwrap_or_default().iter();
        Self(certificates.map(|certificate| (certificate.path(), certificate)).collect())
    }

    /// Reads a pair, unless it is the same as before.
    /// Those of a folder.
    fn below(&self, folder: Option<&CertificateFolder>) -> Vec<Arc<Certificate>> {
        let is_of = |path: &Path| folder.is_some_and(|folder| path.starts_with(&folder.path));
        let below = self.0.iter().filter(|(path, _)| is_of(path));
        below.map(|(_, certificate)| Arc::clone(certificate)).collect()
    }

    fn load(&self, files: &CertificateFiles) -> Result<Arc<Certificate>, LoadError> {
        match self.0.get(&*files.cert.path) {
            Some(known) if known.files == *files => Ok(Arc::clone(known)),
            _ => load::certificate(files).map(Arc::new),
        }
    }
}

/// All certificates, and what is wrong with the folder; or every one that is named and broken.
fn certificates(
    tls: &ListenerTls,
    previous: Option<&ListenerTlsState>,
) -> Result<(Vec<Arc<Certificate>>, Vec<PairProblem>), Problems> {
    let known = Known::of(previous);
    let mut certificates = Vec::new();
    let mut errors = Problems::new();
    for files in &tls.certificates {
        match known.load(files) {
            Ok(certificate) => certificates.push(certificate),
            Err(error) => errors.push((files.span, error)),
        }
    }
    let mut problems = Vec::new();
    for pair in tls.directory.iter().flat_map(|folder| &folder.pairs) {
        let loaded = match &pair.files {
            Ok(files) => known.load(files).map_err(|error| error.to_string()),
            Err(why) => Err(why.clone()),
        };
        match (loaded, known.0.get(&*pair.cert)) {
            (Ok(certificate), _) => certificates.push(certificate),
            (Err(why), before) => {
                certificates.extend(before.map(|it| Arc::clone(it)));
                let is_kept = before.is_some();
                problems.push(PairProblem { cert: pair.cert.clone(), why, is_kept });
            }
        }
    }
    if certificates.is_empty() && errors.is_empty() {
        if let Some(made) = &tls.self_signed {
            let kept = known.below(tls.directory.as_ref());
            for certificate in kept {
                let (cert, why) = (certificate.path().to_owned(), "its files are gone".to_owned());
                problems.push(PairProblem { cert, why, is_kept: true });
                certificates.push(certificate);
            }
            if certificates.is_empty() {
                match stand_in(made, &known, SystemTime::now()) {
                    Ok(certificate) => certificates.push(certificate),
                    Err(error) => errors.push((made.span.0, error)),
                }
            }
        } else if let Some(folder) = &tls.directory {
            let span = folder.span.0;
            let unusable = |it: &PairProblem| (span, LoadError::Pair { why: it.why.clone() });
            errors.extend(problems.iter().map(unusable));
        }
    }
    if errors.is_empty() { Ok((certificates, problems)) } else { Err(errors) }
}

/// A certificate that we make; that of before, as long as it is for the same and lives long enough.
fn stand_in(
    made: &SelfSigned,
    known: &Known<'_>,
    now: SystemTime,
) -> Result<Arc<Certificate>, LoadError> {
    let path = Path::new(STAND_IN);
    if let Some(before) = known.0.get(path)
        && before.names.iter().map(ToString::to_string).eq(made.names.iter().cloned())
        && before.validity.standing(now) == Standing::Valid
    {
        return Ok(Arc::clone(before));
    }
    let unusable =
        |source: Source| LoadError::Certificate { path: path.to_owned(), position: 1, source };
    let title = if made.is_trial { "headwater trial" } else { "headwater, until one is issued" };
    let pair = generate::signed_for(title, made.names.clone(), STAND_IN_LIFE, now)
        .map_err(|error| unusable(error.into()))?;
    let file =
        |text: String| FileContent { path: path.to_owned(), bytes: text.into_bytes().into() };
    let (cert, key) = (file(pair.cert), file(pair.key));
    let files = CertificateFiles { cert, key, span: made.span.0 };
    load::certificate(&files).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::{FolderPair, SpanOf};
    use crate::tls::testing::{self, DAY, Key, files, listener, plan, span};

    fn build(tls: &ListenerTls, previous: Option<&ListenerTlsState>) -> ListenerTlsState {
        ListenerTlsState::build(&plan(tls), previous).unwrap()
    }

    /// A listener with a folder of these pairs.
    fn folder(pairs: Vec<(&str, Result<CertificateFiles, String>)>) -> ListenerTls {
        let mut tls = listener(Vec::new());
        let pairs = pairs.into_iter().map(|(cert, files)| FolderPair {
            cert: cert.into(),
            files: files.map(|files| named(cert, files)),
        });
        let pairs = pairs.collect();
        tls.directory = Some(CertificateFolder {
            path: "certs".into(),
            exists: true,
            pairs,
            span: SpanOf(span(40)),
        });
        tls
    }

    fn named(cert: &str, mut files: CertificateFiles) -> CertificateFiles {
        files.cert.path = cert.into();
        files
    }

    fn names(state: &ListenerTlsState) -> Vec<String> {
        let certificates = state.certificates.certificates().iter();
        certificates.map(|certificate| certificate.names[0].to_string()).collect()
    }

    #[test]
    fn every_broken_certificate_of_a_listener_is_reported_with_its_place() {
        let mut broken = files(&["a.test"], Key::Ecdsa);
        broken.cert.bytes = Arc::from(*b"");
        broken.span = span(10);
        let sound = files(&["b.test"], Key::Ecdsa);
        let mut swapped = files(&["c.test"], Key::Ecdsa);
        std::mem::swap(&mut swapped.cert, &mut swapped.key);
        swapped.span = span(30);

        let tls = listener(vec![broken, sound, swapped]);
        let errors = ListenerTlsState::build(&plan(&tls), None).unwrap_err();
        let places: Vec<Span> = errors.iter().map(|(span, _)| *span).collect();
        assert_eq!(places, [span(10), span(30)]);
    }

    #[test]
    fn a_warning_points_at_its_own_certificate() {
        let now = SystemTime::now();
        let long = files(&["a.test"], Key::Ecdsa);
        let mut brief = testing::generated(&["b.test"], now);
        brief.span = span(20);
        let tls = listener(vec![long, brief]);
        let state = build(&tls, None);

        assert_eq!(state.warnings(&tls, None, now), []);
        let later = state.warnings(&tls, None, now + Duration::from_secs(30 * DAY));
        assert_eq!(later.len(), 1);
        assert_eq!(later[0].0, span(20));
        assert!(later[0].1.contains("expired"), "{}", later[0].1);
    }

    #[test]
    fn what_did_not_change_is_not_read_again() {
        let (a, b) = (files(&["a.test"], Key::Ecdsa), files(&["b.test"], Key::Ecdsa));
        let (a, b) = (named("a.crt", a), named("b.crt", b));
        let first = build(&listener(vec![a.clone(), b]), None);
        let other = named("b.crt", files(&["c.test"], Key::Ecdsa));
        let second = build(&listener(vec![a, other]), Some(&first));
        let (first, second) = (first.certificates, second.certificates);
        assert!(Arc::ptr_eq(&first.certificates()[0], &second.certificates()[0]));
        assert!(!Arc::ptr_eq(&first.certificates()[1], &second.certificates()[1]));
    }

    #[test]
    fn half_of_a_pair_keeps_the_certificate_that_was_there() {
        let (a, b) = (files(&["a.test"], Key::Ecdsa), files(&["b.test"], Key::Ecdsa));
        let first = build(&folder(vec![("a.crt", Ok(a.clone())), ("b.crt", Ok(b))]), None);
        assert_eq!(
            (names(&first), first.problems.len()),
            (vec!["a.test".into(), "b.test".into()], 0)
        );

        let mut half = files(&["a.test"], Key::Ecdsa);
        half.key = a.key;
        let tls = folder(vec![("a.crt", Ok(half)), ("b.crt", Err("cannot read b.key".into()))]);
        let second = build(&tls, Some(&first));
        assert_eq!(names(&second), ["a.test", "b.test"]);
        let old = &first.certificates.certificates()[0];
        assert!(Arc::ptr_eq(old, &second.certificates.certificates()[0]));
        assert!(second.problems.iter().all(|problem| problem.is_kept));
        let warnings = second.warnings(&tls, None, SystemTime::now());
        assert!(warnings[0].1.contains("does not belong"), "{warnings:?}");
        assert!(warnings[1].1.contains("cannot read b.key: the certificate from before goes on"));
        assert!(warnings.iter().all(|(place, _)| *place == span(40)));

        // Still wrong, and still kept; then right, and new.
        let third = build(&tls, Some(&second));
        assert_eq!(names(&third), ["a.test", "b.test"]);
        let fourth =
            build(&folder(vec![("a.crt", Ok(files(&["c.test"], Key::Ecdsa)))]), Some(&third));
        assert_eq!((names(&fourth), fourth.problems.len()), (vec!["c.test".into()], 0));
    }

    #[test]
    fn what_we_make_stands_in_until_there_is_another_and_never_after() {
        let made = SelfSigned {
            names: vec!["a.test".into(), "*.b.test".into(), "::1".into()],
            is_trial: false,
            span: SpanOf(span(40)),
        };
        let empty = || ListenerTls { self_signed: Some(made.clone()), ..folder(Vec::new()) };
        let first = build(&empty(), None);
        assert_eq!(names(&first), ["a.test"]);
        assert!(!first.certificates.misdirected("a.test", "x.b.test"));
        let again = build(&empty(), Some(&first));
        let of = |state: &ListenerTlsState| state.certificates.certificates()[0].clone();
        assert!(Arc::ptr_eq(&of(&first), &of(&again)), "browsers have been told to go on with it");
        let issued = files(&["c.test"], Key::Ecdsa);
        let mut full = folder(vec![("certs/c.crt", Ok(issued))]);
        full.self_signed = Some(made.clone());
        let second = build(&full, Some(&again));
        assert_eq!(names(&second), ["c.test"]);
        // Its files are lost: nobody is shown a certificate of ours instead.
        let third = build(&empty(), Some(&second));
        assert_eq!(names(&third), ["c.test"]);
        assert!(third.problems[0].is_kept);
    }

    #[test]
    fn a_folder_with_one_good_pair_starts_and_one_with_none_does_not() {
        let bad = || ("b.crt", Err("cannot read b.key".to_owned()));
        let good = ("a.crt", Ok(files(&["a.test"], Key::Ecdsa)));
        let state = build(&folder(vec![good, bad()]), None);
        assert_eq!((names(&state), state.problems[0].is_kept), (vec!["a.test".into()], false));
        let errors = ListenerTlsState::build(&plan(&folder(vec![bad()])), None).unwrap_err();
        assert_eq!(errors[0].0, span(40));
        assert_eq!(errors[0].1.to_string(), "cannot read b.key");
    }
}
