//! Certificates that we make ourselves, and folders of certificates that are empty: what that means
//! depends on the rest of the configuration.

use super::context::Context;
use super::diagnostics::{Diagnostic, shown};
use super::listener_tls::FOLDER_HELP;
use super::model::{Acme, CertificateFolder, Config, HostPattern, ListenerTls, Route, SelfSigned};

/// Names of one certificate.
const NAMES_MAX: usize = 100;
/// How whoever tries something on this machine names it.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Names the hosts of trials, has certificates by ACME stood in for until the first is issued, and
/// refuses any other listener without a certificate. `has_acme`: there is a section, read or not.
pub(super) fn settle(context: &Context<'_>, config: &mut Config, has_acme: bool) {
    let Config { listeners, routes, acme, .. } = config;
    for listener in listeners {
        let Some(tls) = &mut listener.tls else { continue };
        if let Some(trial) = &mut tls.self_signed {
            let own = routes.iter().filter(|route| {
                route.listeners.is_empty() || route.listeners.contains(&listener.name)
            });
            trial.names = trial_names(own);
            continue;
        }
        let Some(folder) = &tls.directory else { continue };
        match acme {
            Some(acme) if acme.folder == folder.path => {
                tls.self_signed = Some(stand_in(acme, folder));
            }
            None if has_acme => {}
            _ => refuse_empty(context, &listener.name, tls, folder),
        }
    }
}

fn trial_names<'a>(routes: impl Iterator<Item = &'a Route>) -> Vec<String> {
    let mut names: Vec<_> = LOCAL.map(str::to_owned).into();
    for host in routes.flat_map(|route| &route.hosts) {
        let name = match host {
            HostPattern::Exact(name) => name.trim_matches(['[', ']']).to_owned(),
            HostPattern::Wildcard(_) => host.to_string(),
        };
        if names.len() < NAMES_MAX && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn stand_in(acme: &Acme, folder: &CertificateFolder) -> SelfSigned {
    let hosts = acme.certificates.iter().flat_map(|certificate| &certificate.hosts);
    let names = hosts.take(NAMES_MAX).map(ToString::to_string).collect();
    SelfSigned { names, is_trial: false, span: folder.span }
}

fn refuse_empty(
    context: &Context<'_>,
    listener: &str,
    tls: &ListenerTls,
    folder: &CertificateFolder,
) {
    let (what, help) = if !folder.exists {
        ("does not exist", FOLDER_HELP)
    } else if tls.certificates.is_empty() && folder.pairs.is_empty() {
        let help = "put NAME.crt and NAME.key into it, or tls.crt and tls.key into a folder of it";
        ("holds no certificate", help)
    } else {
        return;
    };
    let message = format!("`listener.{listener}.tls.directory`: {} {what}", shown(&folder.path));
    context.push(Diagnostic::error(folder.span.0, message).help(help));
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;

    const ROUTES: &str = "[[route]]\nhosts = [\"a.test\", \"*.b.test\"]\nlisteners = [\"web\"]\n\
                          respond = {}\n[[route]]\nhosts = [\"c.test\"]\nlisteners = [\"other\"]\n\
                          respond = {}\n[listener.other]\nbind = \"127.0.0.1:0\"\n";

    fn load(text: &str) -> (String, Vec<String>) {
        let folder = Folder::new();
        folder.write("c.toml", &format!("{text}\n{ROUTES}"));
        let loaded = folder.load("c.toml");
        let web = loaded.draft.listeners.iter().find(|listener| &*listener.name == "web");
        let tls = web.and_then(|web| web.tls.clone());
        let names = tls.and_then(|tls| tls.self_signed).map(|made| made.names);
        (folder.shown(&loaded), names.unwrap_or_default())
    }

    #[test]
    fn a_trial_is_for_this_machine_and_the_hosts_of_its_routes() {
        let (shown, names) = load("[listener.web]\nbind = \"127.0.0.1:0\"\ntls = \"self-signed\"");
        assert_eq!(shown, "");
        assert_eq!(names, ["localhost", "127.0.0.1", "::1", "a.test", "*.b.test"]);
        let (shown, _) = load("[listener.web]\nbind = \"127.0.0.1:0\"\ntls = \"selfsigned\"");
        assert!(shown.contains("write `self-signed`"), "{shown}");
    }

    #[test]
    fn the_folder_of_acme_may_be_empty_or_missing_and_no_other() {
        let listener = "[listener.web]\nbind = \"127.0.0.1:0\"\ntls.directory = \"certs\"\n";
        let acme = |folder: &str| {
            format!(
                "{listener}[acme]\naccept_terms = true\nfolder = \"{folder}\"\n\
                 certificates = {{ site = [\"a.test\", \"b.test\"] }}\n"
            )
        };
        let (shown, names) = load(&acme("certs"));
        assert_eq!(shown, "");
        assert_eq!(names, ["a.test", "b.test"]);
        for text in [listener, &acme("others")] {
            let (shown, names) = load(text);
            assert!(shown.contains("certs does not exist"), "{shown}");
            assert!(names.is_empty());
        }
    }
}
