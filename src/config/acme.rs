//! `[acme]`: certificates that we get ourselves.

use std::sync::Arc;

use super::context::Context;
use super::diagnostics::{Diagnostic, Invalid, shown};
use super::model::{Acme, AcmeCertificate, Challenge, Listener, SpanOf};
use super::purge::base_url;
use super::reader::{Entry, Table};
use super::value::Value;

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Hosts of one certificate: what public authorities take.
const HOSTS_MAX: usize = 100;
/// Certificates; each has its own order.
const CERTIFICATES_MAX: usize = 1000;

pub(super) fn read(table: Table<'_>) -> Option<Acme> {
    const HOSTS: &str = "{ site = [\"example.com\"] }";
    let directory = table
        .read("directory", |value| value.parse("a URL", LETS_ENCRYPT, base_url))
        .unwrap_or_else(|| LETS_ENCRYPT.into());
    let ca = table.read("ca", |value| value.file("\"ca.crt\""));
    let contact = table.read("contact", |value| {
        value.list("[\"mailto:ops@example.com\"]", |item| {
            item.parse("an address", "\"mailto:ops@example.com\"", contact)
        })
    });
    let challenge_span = SpanOf(table.value("challenge").map_or(table.span, |value| value.span));
    let challenge = table.read("challenge", |value| {
        value.one_of(&Challenge::ALL.map(|challenge| (challenge.as_str(), challenge)))
    });
    let terms = table.required("accept_terms", "true");
    let folder = table.required("folder", "\"../acme\"");
    let certificates = table.required("certificates", HOSTS);
    table.finish();
    if let Some(value) = &terms
        && value.boolean() == Some(false)
    {
        value.invalid(
            Invalid::new("without consent to its terms an authority issues nothing")
                .help("read the terms of the authority, then write true"),
        );
    }
    let folder = folder.and_then(|value| self::folder(&value));
    let certificates = certificates.and_then(|value| self::certificates(&value));
    terms?;
    Some(Acme {
        directory,
        ca,
        contact: contact.unwrap_or_default(),
        challenge: challenge.unwrap_or(Challenge::Http01),
        challenge_span,
        folder: folder?,
        certificates: certificates?,
    })
}

/// An authority that is to see handshakes needs somebody who makes them.
pub(super) fn has_listener(context: &Context<'_>, acme: &Acme, listeners: &[Listener]) {
    if acme.challenge != Challenge::TlsAlpn01 || listeners.iter().any(|it| it.tls.is_some()) {
        return;
    }
    let message = "`acme.challenge`: \"tls-alpn-01\" is a TLS handshake, and no listener has TLS";
    let help = "add `tls.certificates` to a listener, or write challenge = \"http-01\"";
    context.push_missing(Diagnostic::error(acme.challenge_span.0, message).help(help));
}

fn folder(value: &Value<'_>) -> Option<std::path::PathBuf> {
    let path = value.file_path("\"../acme\"")?;
    // What is missing is made, for this user alone, when the process starts.
    let nearest = path.ancestors().find(|path| path.exists());
    if nearest.is_some_and(|nearest| !nearest.is_dir()) {
        value.invalid(
            Invalid::new(format!("{} cannot be a folder", shown(&path)))
                .help("name a folder, or where one can be made: the keys are kept in it"),
        );
        return None;
    }
    Some(path)
}

fn certificates(value: &Value<'_>) -> Option<Vec<AcmeCertificate>> {
    let entries = value.table()?.entries();
    if entries.is_empty() || entries.len() > CERTIFICATES_MAX {
        value.invalid(Invalid::new(format!("1 to {CERTIFICATES_MAX} certificates are possible")));
        return None;
    }
    let mut certificates = Vec::with_capacity(entries.len());
    for Entry { key, key_span, value } in entries {
        let is_name =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
        if !key.bytes().all(is_name) || key.starts_with('.') || key.len() > 100 || key.is_empty() {
            let message = format!("{key:?} cannot be the name of a file");
            let help = "write lower case letters, digits, `-`, `_` and `.`";
            value.context.push(Diagnostic::error(key_span, message).help(help));
            continue;
        }
        let hosts = value.non_empty_list("[\"example.com\"]", |item| {
            item.parse("a host name", "\"example.com\"", host)
        });
        let Some(hosts) = hosts else { continue };
        if hosts.len() > HOSTS_MAX {
            value.invalid(Invalid::new(format!("more than {HOSTS_MAX} hosts in one certificate")));
            continue;
        }
        certificates.push(AcmeCertificate { name: key.into(), hosts });
    }
    Some(certificates)
}

fn contact(text: &str) -> Result<Arc<str>, Invalid> {
    if text.strip_prefix("mailto:").is_some_and(|rest| rest.contains('@')) {
        return Ok(text.into());
    }
    Err(Invalid::new(format!("{text:?} is no address")).help("write \"mailto:ops@example.com\""))
}

fn host(text: &str) -> Result<Arc<str>, Invalid> {
    let name = text.to_ascii_lowercase();
    if name.contains('*') {
        return Err(Invalid::new(format!("{text:?}: a wildcard needs a challenge by DNS"))
            .help("name each host; by HTTP an authority sees one host at a time"));
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_address = name.parse::<std::net::Ipv4Addr>().is_ok();
    if name.len() > 253 || is_address || !name.split('.').all(is_label) {
        return Err(
            Invalid::new(format!("{text:?} is not a host name")).help("write \"example.com\"")
        );
    }
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    const REST: &str = "[listener.web]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {}\n";
    const ENOUGH: &str =
        "accept_terms = true\nfolder = \".\"\ncertificates = { site = [\"A.test\", \"b.test\"] }";

    fn load(lines: &str) -> (String, Option<Acme>) {
        let folder = Folder::new();
        folder.write("c.toml", &format!("[acme]\n{lines}\n{REST}"));
        let loaded = folder.load("c.toml");
        (folder.shown(&loaded), loaded.draft.acme)
    }

    #[test]
    fn hosts_a_folder_and_consent_are_enough() {
        let (shown, acme) = load(ENOUGH);
        assert_eq!(shown, "");
        let acme = acme.unwrap();
        assert_eq!(&*acme.directory, LETS_ENCRYPT);
        assert_eq!(acme.certificates[0].hosts, ["a.test".into(), "b.test".into()]);
    }

    #[test]
    fn a_challenge_by_tls_needs_a_listener_with_tls() {
        let lines = format!("{ENOUGH}\nchallenge = \"tls-alpn-01\"");
        let (shown, _) = load(&lines);
        assert!(shown.contains("no listener has TLS"), "{shown}");
        let (shown, acme) = load(&format!("{ENOUGH}\nchallenge = \"http-01\""));
        assert_eq!((shown.as_str(), acme.unwrap().challenge), ("", Challenge::Http01));
        let folder = Folder::new();
        folder.write("a.crt", "CERT");
        folder.write("a.key", "KEY");
        let tls = "tls.certificates = [{ cert = \"a.crt\", key = \"a.key\" }]\n";
        let rest = REST.replace("[[route]]", &format!("{tls}[[route]]"));
        folder.write("c.toml", &format!("[acme]\n{lines}\n{rest}"));
        let loaded = folder.load("c.toml");
        assert_eq!(folder.shown(&loaded), "");
        assert_eq!(loaded.draft.acme.unwrap().challenge, Challenge::TlsAlpn01);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (lines, message) in [
            (ENOUGH.replace("accept_terms = true", ""), "`acme.accept_terms` is missing"),
            (ENOUGH.replace("true", "false"), "consent"),
            (ENOUGH.replace("\".\"", "\"c.toml/acme\""), "cannot be a folder"),
            (ENOUGH.replace("A.test", "*.a.test"), "a wildcard needs a challenge by DNS"),
            (ENOUGH.replace("A.test", "10.0.0.1"), "is not a host name"),
            (ENOUGH.replace("A.test", "a_b"), "is not a host name"),
            (ENOUGH.replace("site =", "\"../x\" ="), "cannot be the name of a file"),
            (format!("{ENOUGH}\ncontact = [\"ops\"]"), "is no address"),
            (format!("{ENOUGH}\nchallenge = \"dns-01\""), "is not a value of this key"),
            (format!("{ENOUGH}\ndirectory = \"http://ca.test/\""), "everybody on the way"),
        ] {
            let (shown, _) = load(&lines);
            assert!(shown.contains("error") && shown.contains(message), "{lines}: {shown}");
        }
    }
}
