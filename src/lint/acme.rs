//! Lints of certificates that are ordered: whether the authority can see what it wants to see.

use super::site::Site;
use super::table::ACME_CHALLENGE;
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{Challenge, Front};

/// An authority that wants a handshake gets that of the front, which knows nothing of it.
pub(super) fn challenge(site: &Site<'_>) -> Option<Diagnostic> {
    let acme = site.config.acme.as_ref().filter(|acme| acme.challenge == Challenge::TlsAlpn01)?;
    let of_tls = site.config.listeners.iter().filter(|spec| spec.tls.is_some());
    let fronts: Vec<_> = of_tls.map(|spec| site.fronted(spec)).collect();
    // One that clients reach directly may be where the host leads.
    if fronts.iter().any(|it| it.front == Front::None) {
        return None;
    }
    let fronted = fronts.first()?;
    let title = fronted.front.title();
    let message = format!(
        "acme: \"tls-alpn-01\" cannot work behind {title}, which is in front of listener.{}: it ends \
         TLS, so that the authority shakes hands with {title} and not with us",
        fronted.spec.name
    );
    let help = match fronted.front {
        Front::Cloudflare => {
            "write challenge = \"http-01\" and have a listener on port 80 behind Cloudflare, or \
             leave [acme] out and use a certificate of Cloudflare's Origin CA"
        }
        Front::CloudFront | Front::Alb | Front::Gclb | Front::None => {
            "write challenge = \"http-01\", or leave [acme] out: the certificate that visitors see \
             is that of the front"
        }
    };
    Some(ACME_CHALLENGE.at(Some(acme.challenge_span.0), message, help))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::said_in;
    use crate::tls::generate::self_signed;

    fn told(challenge: &str, listeners: &[&str]) -> Vec<(&'static str, String)> {
        let made = self_signed(&["a.test"], std::time::SystemTime::now()).unwrap();
        let mut text = format!(
            "[acme]\naccept_terms = true\nfolder = \"/\"\ncertificates = {{ c = [\"a.test\"] }}\n\
             {challenge}\n"
        );
        for (number, lines) in listeners.iter().enumerate() {
            text +=
                &format!("[listener.l{number}]\nbind = \"0.0.0.0:{}\"\n{lines}\n", 8000 + number);
        }
        let files = [("a.crt", made.cert.as_str()), ("a.key", made.key.as_str())];
        let mut found = said_in(&text, &files, Duration::ZERO);
        found.retain(|(lint, _)| *lint == "acme-challenge");
        found
    }

    #[test]
    fn a_front_that_ends_tls_makes_the_handshake_itself() {
        const TLS: &str = "tls.certificates = [{ cert = \"a.crt\", key = \"a.key\" }]";
        let by_tls = "challenge = \"tls-alpn-01\"";
        for front in ["cloudflare", "cloudfront", "alb", "gclb"] {
            let behind = format!("front = \"{front}\"\ntrusted = [\"10.0.0.0/8\"]");
            let behind_tls = format!("{behind}\n{TLS}");
            let expected = [("acme-challenge", "\"tls-alpn-01\"".to_owned())];
            assert_eq!(told(by_tls, &[&behind_tls]), expected);
            // A listener without TLS is no way for a handshake.
            assert_eq!(told(by_tls, &[&behind_tls, "front = \"none\""]), expected);
            assert_eq!(told(by_tls, &[&behind_tls, TLS]), []);
            assert_eq!(told("challenge = \"http-01\"", &[&behind_tls]), []);
            assert_eq!(told("", &[&behind_tls]), []);
        }
        assert_eq!(told(by_tls, &[TLS]), []);
    }
}
