//! `[listener.NAME.tls]`: certificates, ticket keys, and what is asked of clients.
//!
//! Files are read here; what is in them is checked where TLS is set up. A folder is read as it is:
//! a pair of which a part is missing may be in the middle of being written, so it is kept as such.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::address;
use super::diagnostics::{Diagnostic, Invalid, Span, shown};
use super::model::{
    CertificateFiles, CertificateFolder, ClientAuth, ClientAuthMode, FileContent, FolderPair,
    HostPattern, ListenerTls, Located, SelfSigned, SpanOf, TlsVersion,
};
use super::reader::Table;
use super::value::Value;

/// Pairs of one folder.
const PAIRS_MAX: usize = 20_000;
/// The pair of a folder that answers unknown names.
const DEFAULT_PAIR: &str = "default";
/// What a secret of Kubernetes holds beside a pair.
const AUTHORITY_OF_SECRET: &str = "ca.crt";
/// What to do about a folder that is none.
pub(super) const FOLDER_HELP: &str =
    "name a folder; a relative path is relative to the file that names it";
const EXAMPLE: &str = "[{ cert = \"site.crt\", key = \"site.key\" }]";

#[derive(Clone, Copy)]
enum Mode {
    Require,
    Request,
    Cloudflare,
}

/// A table, or `"self-signed"`.
pub(super) fn read(value: &Value<'_>) -> Option<Option<ListenerTls>> {
    if value.is_string() {
        value.one_of(&[("self-signed", ())])?;
        let span = SpanOf(value.span);
        let made = SelfSigned { names: Vec::new(), is_trial: true, span };
        return Some(Some(ListenerTls {
            certificates: Vec::new(),
            directory: None,
            self_signed: Some(made),
            min_version: TlsVersion::V1_2,
            ticket_keys: None,
            client_auth: Vec::new(),
        }));
    }
    value.table().map(read_table)
}

fn read_table(table: Table<'_>) -> Option<ListenerTls> {
    let folder_value = table.value("directory");
    let pairs =
        |value: &Value<'_>| value.non_empty_list(EXAMPLE, |item| item.table().and_then(pair));
    let certificates = if folder_value.is_some() {
        Some(table.read("certificates", pairs).unwrap_or_default())
    } else {
        let certificates = table.required("certificates", EXAMPLE).and_then(|value| pairs(&value));
        certificates.filter(|certificates| !certificates.is_empty())
    };
    let directory = folder_value.as_ref().map(folder);
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let min_version = table.read("min_version", |value| value.one_of(&versions));
    let ticket_keys = table.read("ticket_keys", |value| {
        value.file("\"tickets.keys\"").map(|file| Located { value: file, span: value.span })
    });
    let client_auth = table.read("client_auth", client_auths).unwrap_or_default();
    table.finish();
    let directory = match directory {
        Some(folder) => Some(folder?),
        None => None,
    };
    Some(ListenerTls {
        certificates: certificates?,
        directory,
        self_signed: None,
        min_version: min_version.unwrap_or(TlsVersion::V1_2),
        ticket_keys,
        client_auth,
    })
}

/// A pair of PEM files.
fn pair(table: Table<'_>) -> Option<CertificateFiles> {
    let file = |key, example| table.required(key, example).and_then(|value| value.file(example));
    let (cert, key) = (file("cert", "\"site.crt\""), file("key", "\"site.key\""));
    let span = table.span;
    table.finish();
    Some(CertificateFiles { cert: cert?, key: key?, span })
}

/// Every `NAME.crt` with its `NAME.key`, and the `tls.crt` with its `tls.key` in each folder below.
/// One that does not exist or holds none may be that of `[acme]` ([`super::self_signed`]).
fn folder(value: &Value<'_>) -> Option<CertificateFolder> {
    let path = value.file_path("\"../certs\"")?;
    if !path.is_dir() {
        // It is watched all the same.
        let _none = value.context.files.borrow_mut().matching(&path, "*");
        if path.exists() {
            value.invalid(
                Invalid::new(format!("{} is not a folder", shown(&path))).help(FOLDER_HELP),
            );
            return None;
        }
        let (pairs, span) = (Vec::new(), SpanOf(value.span));
        return Some(CertificateFolder { path, exists: false, pairs, span });
    }
    let mut certs = chains(value, &path);
    if certs.len() > PAIRS_MAX {
        value.invalid(Invalid::new(format!(
            "{} holds more than {PAIRS_MAX} certificates",
            shown(&path)
        )));
        certs.truncate(PAIRS_MAX);
    }
    let pairs = certs.into_iter().map(|cert| folder_pair(value, cert)).collect();
    Some(CertificateFolder { path, exists: true, pairs, span: SpanOf(value.span) })
}

/// Where the chains of a folder are or should be, the default first.
fn chains(value: &Value<'_>, path: &Path) -> Vec<PathBuf> {
    let mut files = value.context.files.borrow_mut();
    let mut certs: BTreeMap<PathBuf, ()> = BTreeMap::new();
    let keys = files.matching(path, "*.key");
    for key in &keys {
        certs.insert(key.with_extension("crt"), ());
    }
    for cert in files.matching(path, "*.crt") {
        let is_authority = cert.file_name().is_some_and(|name| name == AUTHORITY_OF_SECRET);
        if !is_authority || certs.contains_key(&cert) {
            certs.insert(cert, ());
        }
    }
    for folder in files.folders(path) {
        let found = ["tls.crt", "tls.key"].map(|name| files.matching(&folder, name));
        if found.iter().any(|found| !found.is_empty()) {
            certs.insert(folder.join("tls.crt"), ());
        }
    }
    let mut certs: Vec<_> = certs.into_keys().collect();
    // Stable: the others stay sorted.
    certs.sort_by_key(|cert| !is_default(cert, path));
    certs
}

fn is_default(cert: &Path, folder: &Path) -> bool {
    let name = if cert.parent() == Some(folder) { cert.file_stem() } else { folder_name(cert) };
    name.is_some_and(|name| name == DEFAULT_PAIR)
}

fn folder_name(cert: &Path) -> Option<&std::ffi::OsStr> {
    cert.parent().and_then(Path::file_name)
}

fn folder_pair(value: &Value<'_>, cert: PathBuf) -> FolderPair {
    let read = |path: PathBuf| match value.context.files.borrow_mut().read(&path) {
        Ok(bytes) => Ok(FileContent { path, bytes }),
        Err(why) => Err(format!("cannot read {}: {why}", shown(&path))),
    };
    // Both are tried, so that a change of either is noticed.
    let files = match (read(cert.clone()), read(cert.with_extension("key"))) {
        (Ok(cert), Ok(key)) => Ok(CertificateFiles { cert, key, span: value.span }),
        (Err(why), _) | (_, Err(why)) => Err(why),
    };
    FolderPair { cert, files }
}

/// One table or a list of them.
fn client_auths(value: &Value<'_>) -> Option<Vec<ClientAuth>> {
    const EXAMPLE: &str = "[{ mode = \"require\", ca = \"clients.crt\", hosts = [\"a.example\"] }]";
    let one = |value: &Value<'_>| value.table().and_then(client_auth);
    let auths = if value.is_list() {
        value.non_empty_list(EXAMPLE, one)?
    } else {
        one(value).into_iter().collect()
    };
    hosts_are_distinct(value, &auths);
    Some(auths)
}

fn client_auth(table: Table<'_>) -> Option<ClientAuth> {
    let modes =
        [("require", Mode::Require), ("request", Mode::Request), ("cloudflare", Mode::Cloudflare)];
    let mode_value = table.required("mode", "\"require\"");
    let mode = mode_value.as_ref().and_then(|value| value.one_of(&modes));
    let ca = match mode {
        Some(Mode::Require | Mode::Request) => table.required("ca", "\"clients.crt\""),
        Some(Mode::Cloudflare) | None => table.value("ca"),
    };
    if let (Some(Mode::Cloudflare), Some(value), None) = (mode, &mode_value, &ca) {
        let warning = value.warning(
            "the certificate that is checked is the same for all customers of Cloudflare: it \
             proves that a request came through Cloudflare, not that it came through your zone",
        );
        table.context.push(warning.help(
            "upload a certificate of your own for the zone or host at Cloudflare, and name its \
             authority with `ca`",
        ));
    }
    let ca = ca.and_then(|value| value.file("\"clients.crt\""));
    let crl = table.read("crl", |value| {
        if value.is_list() {
            return value.non_empty_list("[\"a.crl\"]", |item| item.file("\"a.crl\""));
        }
        value.file("\"clients.crl\"").map(|file| vec![file])
    });
    let hosts = table.read("hosts", |value| {
        value.non_empty_list("[\"api.example.com\"]", |item| {
            item.parse("a host", "\"api.example.com\"", address::host_pattern)
        })
    });
    let span = SpanOf(table.span);
    table.finish();
    let mode = match mode? {
        Mode::Require | Mode::Cloudflare => ClientAuthMode::Require,
        Mode::Request => ClientAuthMode::Request,
    };
    let (crl, hosts) = (crl.unwrap_or_default(), hosts.unwrap_or_default());
    Some(ClientAuth { mode, ca, crl, hosts, span })
}

/// Of two rules for one host none could win.
fn hosts_are_distinct(value: &Value<'_>, auths: &[ClientAuth]) {
    let mut seen: HashMap<Option<&HostPattern>, Span> = HashMap::new();
    for auth in auths {
        let hosts: Vec<Option<&HostPattern>> =
            if auth.hosts.is_empty() { vec![None] } else { auth.hosts.iter().map(Some).collect() };
        for host in hosts {
            let Some(first) = seen.insert(host, auth.span.0) else { continue };
            let what = match host {
                Some(host) => format!("{host} is named twice"),
                None => "two of them are without `hosts`".to_owned(),
            };
            let message = format!("`{}`: {what}", value.path);
            value.context.push(
                Diagnostic::error(auth.span.0, message)
                    .help("what is asked of the clients of a host is said once")
                    .note(first, "the first one is here"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Listener;
    use super::super::testing::Folder;
    use super::*;

    const REST: &str = "[[route]]\nrespond = {}\n";

    fn text(lines: &str) -> String {
        format!("[listener.web]\nbind = \"127.0.0.1:0\"\n{lines}\n{REST}")
    }

    /// What is said, and the listener, if it could be read.
    fn load(folder: &Folder, lines: &str) -> (String, Option<Listener>) {
        folder.write("c.toml", &text(lines));
        let mut loaded = folder.load("c.toml");
        let shown = folder.shown(&loaded);
        (shown, loaded.draft.listeners.pop())
    }

    fn with_site() -> Folder {
        let folder = Folder::new();
        for name in ["site.crt", "site.key", "ca.pem", "other.pem", "list.crl"] {
            folder.write(name, name);
        }
        folder
    }

    fn tls(folder: &Folder, lines: &str) -> ListenerTls {
        let (shown, listener) = load(folder, lines);
        listener.and_then(|listener| listener.tls).expect(&shown)
    }

    const SITE: &str = "tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]\n";

    #[test]
    fn a_folder_is_read_pair_by_pair() {
        let folder = Folder::new();
        for name in ["b.crt", "b.key", "a.crt", "a.key", "secret/tls.crt", "secret/tls.key"] {
            folder.write(&format!("certs/{name}"), name);
        }
        for name in ["notes.txt", "ca.crt", ".hidden.crt", "secret/ca.crt", "empty/readme"] {
            folder.write(&format!("certs/{name}"), name);
        }
        let tls = tls(&folder, "tls.directory = \"certs\"");
        let pairs = tls.directory.unwrap().pairs;
        let names: Vec<_> = pairs
            .iter()
            .map(|pair| pair.cert.strip_prefix(folder.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(names, ["certs/a.crt", "certs/b.crt", "certs/secret/tls.crt"]);
        let files = pairs[2].files.as_ref().unwrap();
        assert_eq!(
            (&*files.cert.bytes, &*files.key.bytes),
            (&b"secret/tls.crt"[..], &b"secret/tls.key"[..])
        );
    }

    #[test]
    fn the_pair_called_default_comes_first() {
        for name in ["default.crt", "default/tls.crt"] {
            let folder = Folder::new();
            for cert in ["a.crt", name, "z.crt"] {
                folder.write(&format!("certs/{cert}"), "");
                folder.write(&format!("certs/{}", cert.replace(".crt", ".key")), "");
            }
            let pairs = tls(&folder, "tls.directory = \"certs\"").directory.unwrap().pairs;
            assert!(pairs[0].cert.ends_with(name), "{pairs:?}");
        }
    }

    #[test]
    fn half_a_pair_is_no_error_and_both_halves_are_watched() {
        let folder = Folder::new();
        folder.write("certs/a.crt", "");
        folder.write("certs/b.key", "");
        folder.write("c.toml", &text("tls.directory = \"certs\""));
        let loaded = folder.load("c.toml");
        assert_eq!(folder.shown(&loaded), "");
        let directory = loaded.draft.listeners[0].tls.as_ref().unwrap().directory.as_ref().unwrap();
        let said: Vec<_> = directory.pairs.iter().map(|p| p.files.clone().unwrap_err()).collect();
        assert!(said[0].contains("a.key: it does not exist"), "{said:?}");
        assert!(said[1].contains("b.crt: it does not exist"), "{said:?}");
        for name in ["certs", "certs/a.key", "certs/b.crt"] {
            assert!(loaded.files.contains(&folder.path().join(name)), "{name}");
        }
    }

    #[test]
    fn a_folder_must_be_one_with_certificates() {
        let folder = with_site();
        folder.write("empty/readme", "");
        for (lines, message) in [
            ("tls.directory = \"none\"", "none does not exist"),
            ("tls.directory = \"site.crt\"", "site.crt is not a folder"),
            ("tls.directory = \"empty\"", "empty holds no certificate"),
        ] {
            let (shown, _) = load(&folder, lines);
            assert!(shown.contains(message), "{shown}");
        }
        let (shown, _) = load(&folder, &format!("{SITE}tls.directory = \"empty\""));
        assert_eq!(shown, "", "the folder may fill later");
    }

    #[test]
    fn client_auth_is_one_table_or_a_list() {
        let folder = with_site();
        let auth = "tls.client_auth = { mode = \"request\", ca = \"ca.pem\", crl = \"list.crl\" }";
        let one = tls(&folder, &format!("{SITE}{auth}")).client_auth;
        assert_eq!((one.len(), one[0].mode), (1, ClientAuthMode::Request));
        assert_eq!((one[0].crl.len(), one[0].hosts.len()), (1, 0));
        let list = "tls.client_auth = [{ mode = \"require\", ca = \"ca.pem\", \
                    hosts = [\"A.example\", \"*.b.example\"] }, { mode = \"request\", \
                    ca = \"other.pem\", crl = [\"list.crl\", \"other.pem\"] }]";
        let list = tls(&folder, &format!("{SITE}{list}")).client_auth;
        assert_eq!(list[0].hosts[0], HostPattern::Exact("a.example".into()));
        assert_eq!(list[1].crl.len(), 2);
    }

    #[test]
    fn what_is_wrong_with_client_auth_is_said() {
        let folder = with_site();
        for (auth, message) in [
            ("{ mode = \"require\" }", "tls.client_auth.ca` is missing"),
            ("{ ca = \"ca.pem\" }", "tls.client_auth.mode` is missing"),
            ("{ mode = \"optional\", ca = \"ca.pem\" }", "write `require`, `request` or"),
            ("{ mode = \"require\", ca = \"none.pem\" }", "none.pem: it does not exist"),
            ("{ mode = \"require\", ca = \"ca.pem\", crl = \"x\" }", "x: it does not exist"),
            ("{ mode = \"require\", ca = \"ca.pem\", hosts = [\"a:1\"] }", "it has a port"),
            ("{ mode = \"require\", ca = \"ca.pem\", hosts = [] }", "the list is empty"),
            ("{ mode = \"require\", ca = \"ca.pem\", depth = 1 }", "unknown key `depth`"),
            ("[]", "the list is empty"),
            ("true", "must be a table"),
            (
                "[{ mode = \"require\", ca = \"ca.pem\" }, { mode = \"request\", ca = \"ca.pem\" }]",
                "two of them are without `hosts`",
            ),
            (
                "[{ mode = \"require\", ca = \"ca.pem\", hosts = [\"a\"] }, \
                 { mode = \"request\", ca = \"ca.pem\", hosts = [\"A\"] }]",
                "a is named twice",
            ),
        ] {
            let (shown, _) = load(&folder, &format!("{SITE}tls.client_auth = {auth}"));
            assert!(shown.contains("error") && shown.contains(message), "{auth}: {shown}");
        }
    }

    #[test]
    fn the_certificate_of_all_customers_is_warned_of() {
        let folder = with_site();
        let (shown, listener) =
            load(&folder, &format!("{SITE}tls.client_auth = {{ mode = \"cloudflare\" }}"));
        assert!(shown.contains("warning") && shown.contains("not that it came through your zone"));
        assert_eq!(listener.unwrap().tls.unwrap().client_auth[0].ca, None);
        let own = "tls.client_auth = { mode = \"cloudflare\", ca = \"ca.pem\" }";
        let (shown, _) = load(&folder, &format!("{SITE}{own}"));
        assert_eq!(shown, "");
    }
}
