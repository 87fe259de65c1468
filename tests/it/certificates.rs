//! Certificates of folders, and what happens while they change.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Authority, Client, Folder, HOST, Pair, Proxy, Setup, Tls, eventually, proxy};

const HELLO: &str = "[[route]]\nrespond = { status = 200, body = \"hello\" }";
const PROBLEMS: &str = "headwater_tls_certificate_problems{listener=\"web\"}";

fn setup() -> Setup {
    Setup::empty().listener("tls.directory = \"certs\"").text(HELLO)
}

fn start(folder: Folder) -> Proxy {
    let proxy = setup().start_in(folder);
    // Answered by whoever watches the files, who then watches.
    assert_eq!(proxy.api_post("/api/reload", "").status, 200);
    proxy
}

fn shown(proxy: &Proxy, tls: &Tls, name: &str) -> Vec<u8> {
    Client::tls(proxy.address(), &tls.named(name)).certificate().to_vec()
}

fn wait_for(proxy: &Proxy, tls: &Tls, name: &str, pair: &Pair) {
    eventually("the new certificate", || {
        let client = Client::try_tls(proxy.address(), &tls.named(name)).ok()?;
        (client.certificate() == pair.der).then_some(())
    });
}

#[test]
fn a_folder_of_certificates_is_served_and_followed() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let a = authority.write(&folder, "certs/a", &["a.test"]);
    let b = authority.write(&folder, "certs/b/tls", &["b.test", "*.b.test"]);
    let default = authority.write(&folder, "certs/default", &["default.test"]);
    let proxy = start(folder);
    let tls = Tls::new(&authority);
    assert_eq!(shown(&proxy, &tls, "a.test"), a.der.as_ref());
    assert_eq!(shown(&proxy, &tls, "x.b.test"), b.der.as_ref());
    let unknown = Client::tls(proxy.address(), &tls.named("default.test").nameless());
    assert_eq!(unknown.certificate(), default.der);

    let newer = authority.write(&proxy.folder, "certs/a", &["a.test"]);
    wait_for(&proxy, &tls, "a.test", &newer);
    let c = authority.write(&proxy.folder, "certs/c", &["c.test"]);
    wait_for(&proxy, &tls, "c.test", &c);
    let d = authority.write(&proxy.folder, "certs/d/tls", &["d.test"]);
    wait_for(&proxy, &tls, "d.test", &d);
    fs::remove_file(proxy.folder.join("certs/c.crt")).unwrap();
    fs::remove_file(proxy.folder.join("certs/c.key")).unwrap();
    eventually("the certificate to be gone", || {
        Client::try_tls(proxy.address(), &tls.named("c.test")).is_err().then_some(())
    });
    let status = proxy.api_get("/api/status").json();
    assert_eq!(status["listeners"][0]["certificates"], 4);
    let end = "headwater_tls_certificate_not_after_timestamp_seconds{name=\"d.test\"}";
    assert!(proxy.metric(end) > 1.7e9);
}

#[test]
fn a_secret_of_kubernetes_is_followed_through_its_swap() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let old = authority.write(&folder, "certs/site/..1/tls", &[HOST]);
    folder.write("certs/site/..1/ca.crt", authority.pem());
    let site = folder.join("certs/site");
    symlink("..1", site.join("..data")).unwrap();
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(format!("..data/{name}"), site.join(name)).unwrap();
    }
    let proxy = start(folder);
    let tls = Tls::new(&authority);
    assert_eq!(shown(&proxy, &tls, HOST), old.der.as_ref());
    assert_eq!(proxy.metric(PROBLEMS), 0.0);

    let new = authority.write(&proxy.folder, "certs/site/..2/tls", &[HOST]);
    let site = proxy.folder.join("certs/site");
    symlink("..2", site.join("..data_tmp")).unwrap();
    fs::rename(site.join("..data_tmp"), site.join("..data")).unwrap();
    wait_for(&proxy, &tls, HOST, &new);
}

#[test]
fn half_of_a_pair_keeps_the_certificate_of_before_and_is_reported() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let old = authority.write(&folder, "certs/site", &[HOST]);
    authority.write(&folder, "certs/other", &["other.test"]);
    let proxy = start(folder);
    let tls = Tls::new(&authority);
    let new = authority.issue(&[HOST]);
    for half in [&new.cert[..], &new.cert[..200], "", "garbage"] {
        proxy.folder.write("certs/site.crt", half);
        proxy.wait_for_metric(PROBLEMS, 1.0);
        assert_eq!(shown(&proxy, &tls, HOST), old.der.as_ref());
        let other = authority.write(&proxy.folder, "certs/other", &["other.test"]);
        wait_for(&proxy, &tls, "other.test", &other);
        proxy.folder.write("certs/site.crt", &old.cert);
        proxy.wait_for_metric(PROBLEMS, 0.0);
    }
    proxy.folder.write("certs/site.crt", &new.cert);
    proxy.wait_for_metric(PROBLEMS, 1.0);
    let line = proxy.wait_for_log("site.key does not belong to the certificate");
    assert!(line.contains("WARN") && line.contains("from before goes on"), "{line}");
    let status = proxy.api_get("/api/status").json();
    let problem = status["listeners"][0]["certificate_problems"][0].as_str().unwrap();
    assert!(problem.contains("certs/site.key does not belong"), "{problem}");
    assert_eq!(proxy.metric("headwater_config_last_reload_successful"), 1.0);

    // A start has nothing from before: the others are served.
    let checked = proxy::run_to_end(&["check", "-c"], &proxy.folder.join("headwater.toml"));
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stderr.contains("it is left out until the files are right"), "{checked:?}");

    proxy.folder.write("certs/site.key", &new.key);
    wait_for(&proxy, &tls, HOST, &new);
    proxy.wait_for_metric(PROBLEMS, 0.0);
}

#[test]
fn a_certificate_without_its_key_an_expired_one_and_none_at_all_are_told() {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.expired(&["old.test", "older.test"]).write(&folder, "certs/old");
    folder.write("certs/alone.crt", authority.issue(&["alone.test"]).cert);
    folder.write("headwater.toml", setup().to_string());
    let check = || proxy::run_to_end(&["check", "-c"], &folder.join("headwater.toml"));
    let checked = check();
    assert_eq!(checked.code, Some(0), "{checked:?}");
    for text in
        ["certs/alone.key: it does not exist", "certs/old.crt for old.test and 1 more expired on "]
    {
        assert!(checked.stderr.contains(text), "{checked:?}");
    }
    fs::remove_file(folder.join("certs/old.crt")).unwrap();
    fs::remove_file(folder.join("certs/old.key")).unwrap();
    let checked = check();
    assert_eq!(checked.code, Some(2), "{checked:?}");
    assert!(checked.stderr.contains("error: cannot read"), "{checked:?}");
}

#[test]
fn an_end_that_is_near_is_said_at_the_start() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let soon = |params: &mut rcgen::CertificateParams| {
        params.not_after =
            (std::time::SystemTime::now() + Duration::from_secs(6 * 24 * 3600 + 60)).into();
    };
    authority
        .issue_with(&[HOST], &rcgen::PKCS_ECDSA_P256_SHA256, soon)
        .write(&folder, "certs/site");
    let proxy = start(folder);
    let line = proxy.wait_for_log("certs/site.crt for site.test expires on");
    assert!(line.contains("in 6 days"), "{line}");
}

/// Handshakes in a loop until told to stop; how many there were.
fn hammer(proxy: &Proxy, tls: &Tls, during: impl FnOnce()) -> usize {
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    Client::tls(proxy.address(), tls);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Also where it panics: the others would not end.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    done.into_inner()
}

#[test]
fn no_handshake_fails_while_a_certificate_is_swapped_or_half_written() {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "certs/site", &[HOST]);
    let proxy = start(folder);
    let tls = Tls::new(&authority);
    let done = hammer(&proxy, &tls, || {
        for _ in 0..3 {
            let new = authority.issue(&[HOST]);
            proxy.folder.write("certs/site.crt", &new.cert);
            proxy.wait_for_metric(PROBLEMS, 1.0);
            proxy.folder.write("certs/site.key", &new.key);
            wait_for(&proxy, &tls, HOST, &new);
        }
    });
    assert!(done > 50, "only {done} handshakes");
    let failed = "headwater_tls_handshakes_total{listener=\"web\",result=\"failed\"}";
    assert_eq!(proxy.metric(failed), 0.0);
}

#[test]
fn a_thousand_names_are_loaded_in_less_than_two_seconds() {
    const NAMES: usize = 1000;
    let (authority, folder) = (Authority::new(), Folder::new());
    for number in 0..NAMES {
        let name = format!("site-{number}.test");
        authority.write(&folder, &format!("certs/{name}"), &[&name]);
    }
    let begin = Instant::now();
    let proxy = setup().start_in(folder);
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    let tls = Tls::new(&authority);
    for number in [0, 1, 500, NAMES - 1] {
        Client::tls(proxy.address(), &tls.named(&format!("site-{number}.test")));
    }
    // What did not change is not read again.
    let begin = Instant::now();
    authority.write(&proxy.folder, "certs/site-7.test", &["site-7.test"]);
    assert_eq!(proxy.api_post("/api/reload", "").status, 200);
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(2), "it took {took:?}");
}

#[test]
fn the_keys_of_tickets_are_shared_and_change_without_being_told() {
    let authority = Authority::new();
    let pair = authority.issue(&[HOST]);
    let tickets = "tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]\n\
                   tls.ticket_keys = \"tickets.keys\"";
    let fleet = || {
        let folder = Folder::new();
        pair.write(&folder, "site");
        folder.write("tickets.keys", "ab".repeat(48));
        let proxy = Setup::empty().listener(tickets).text(HELLO).start_in(folder);
        assert_eq!(proxy.api_post("/api/reload", "").status, 200);
        proxy
    };
    let (one, two) = (fleet(), fleet());
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let tls = Tls::with(&authority, version, &["http/1.1"]);
        let resumes = |proxy: &Proxy| {
            let mut client = Client::tls(proxy.address(), &tls);
            assert_eq!(client.get("/", &[]).status, 200);
            client.session().handshake_kind() == Some(rustls::HandshakeKind::Resumed)
        };
        assert!(!resumes(&one));
        assert!(resumes(&two));
        assert!(resumes(&one));
    }
    let tls = Tls::with(&authority, &rustls::version::TLS12, &["http/1.1"]);
    let kind = |proxy: &Proxy| {
        let mut client = Client::tls(proxy.address(), &tls);
        assert_eq!(client.get("/", &[]).status, 200);
        client.session().handshake_kind()
    };
    kind(&one);
    // A new key that encrypts, the old one still decrypts; then it is gone.
    let (generation, keys) =
        (one.generation(), format!("{}\n{}\n", "cd".repeat(48), "ab".repeat(48)));
    one.folder.write("tickets.keys", keys);
    eventually("the keys to be read", || (one.generation() > generation).then_some(()));
    assert_eq!(kind(&one), Some(rustls::HandshakeKind::Resumed));
    let generation = one.generation();
    one.folder.write("tickets.keys", "ef".repeat(48));
    eventually("the keys to be read", || (one.generation() > generation).then_some(()));
    assert_ne!(kind(&one), Some(rustls::HandshakeKind::Resumed));
    // What is no key changes nothing.
    one.folder.write("tickets.keys", "secret");
    one.wait_for_metric("headwater_config_last_reload_successful", 0.0);
    assert!(one.wait_for_log("line 1 of").contains("neither base64 nor hexadecimal"));
    assert_eq!(kind(&one), Some(rustls::HandshakeKind::Resumed));
}
