//! The TLS of others: OpenSSL, GnuTLS and curl through every version and kind of key, resumption by
//! ticket, groups, and a ClientHello in pieces.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::kx_group::{MLKEM768, SECP256R1, SECP384R1, X25519, X25519MLKEM768};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::{ClientConfig, NamedGroup, RootCertStore};

use crate::support::client::request;
use crate::support::{Authority, Client, Folder, HOST, Proxy, Setup, Tls};

/// A site with an ECDSA and an RSA key.
fn start() -> (Authority, Proxy) {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "site", &[HOST]);
    let rsa = rsa_key();
    let pair = authority.issue_for(&[HOST], &rsa);
    pair.write(&folder, "rsa");
    folder.write("ca.pem", authority.pem());
    let proxy = Setup::empty()
        .listener(
            "tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }, \
             { cert = \"rsa.crt\", key = \"rsa.key\" }]",
        )
        .text("[[route]]\nrespond = { status = 200, body = \"hello\" }")
        .start_in(folder);
    (authority, proxy)
}

/// Two thousand and forty-eight bits, as most have.
fn rsa_key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap()
}

/// What a command prints that sends `input`, on both outputs.
fn output(command: &mut Command, input: &str) -> String {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

fn closing_request() -> String {
    request("GET", "/", &["Connection: close"])
}

fn openssl(address: SocketAddr, folder: &Path, options: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-ign_eof", "-verify_return_error", "-CAfile", "ca.pem"])
        .args(["-connect", &address.to_string(), "-servername", HOST])
        .args(options)
        .current_dir(folder);
    let text = output(&mut command, &closing_request());
    assert!(text.contains("Verify return code: 0 (ok)"), "{options:?}: {text}");
    assert!(text.contains("HTTP/1.1 200 OK") && text.contains("hello"), "{options:?}: {text}");
    text
}

#[test]
fn openssl_connects_in_every_version_with_either_key_and_resumes_by_ticket() {
    let (_authority, proxy) = start();
    for (version, kind, options) in [
        ("TLSv1.2", "ECDSA", ["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"]),
        ("TLSv1.2", "RSA-PSS", ["-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"]),
        ("TLSv1.3", "ECDSA", ["-tls1_3", "-sigalgs", "ECDSA+SHA256"]),
        ("TLSv1.3", "RSA-PSS", ["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"]),
    ] {
        let session = format!("{version}-{kind}.session");
        let with = |more: [&str; 2]| {
            let options = [&options[..], &more].concat();
            openssl(proxy.address(), proxy.folder.path(), &options)
        };
        let first = with(["-sess_out", &session]);
        assert!(first.contains(&format!("New, {version}")), "{first}");
        assert!(first.contains(&format!("Peer signature type: {kind}")), "{first}");
        let second = with(["-sess_in", &session]);
        assert!(second.contains(&format!("Reused, {version}")), "{second}");
    }
    let ok = "headwater_tls_handshakes_total{listener=\"web\",result=\"ok\"}";
    assert_eq!(proxy.metric(ok), 8.0);
}

#[test]
fn an_old_client_is_given_the_rsa_certificate_and_a_modern_one_the_other() {
    let (_authority, proxy) = start();
    let text = |options: &[&str]| openssl(proxy.address(), proxy.folder.path(), options);
    assert!(text(&[]).contains("Peer signature type: ECDSA"));
    assert!(text(&["-tls1_2", "-sigalgs", "RSA+SHA256"]).contains("Peer signature type: RSA"));
}

#[test]
fn the_suite_is_chosen_by_our_order_but_for_clients_without_aes_in_hardware() {
    let (_authority, proxy) = start();
    let (tls_1_2, tls_1_3) = (["-tls1_2", "-cipher"], ["-tls1_3", "-ciphersuites"]);
    for (version, offer, agreed) in [
        (tls_1_3, "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        (
            tls_1_3,
            "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256",
            "TLS_CHACHA20_POLY1305_SHA256",
        ),
        (
            tls_1_2,
            "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES256-GCM-SHA384",
        ),
        (
            tls_1_2,
            "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-ECDSA-CHACHA20-POLY1305",
        ),
    ] {
        let options = [&version[..], &[offer]].concat();
        let text = openssl(proxy.address(), proxy.folder.path(), &options);
        assert!(text.contains(&format!("Cipher is {agreed}")), "{options:?}: {text}");
    }
}

#[test]
fn weak_versions_and_suites_are_not_spoken() {
    let (_authority, proxy) = start();
    for (options, reason) in [
        (&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"][..], "version"),
        (&["-tls1_2", "-cipher", "AES128-SHA"], "parameters"),
        (&["-tls1_2", "-cipher", "DHE-RSA-AES128-GCM-SHA256"], "parameters"),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA"], "parameters"),
    ] {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &proxy.address().to_string()]).args(options);
        let text = output(&mut command, "");
        assert!(text.contains("Cipher is (NONE)"), "{options:?}: {text}");
        let series = format!(
            "headwater_tls_handshake_failures_total{{listener=\"web\",peer=\"other\",\
             reason=\"{reason}\"}}"
        );
        crate::support::eventually("the failure to be counted", || {
            (proxy.metric(&series) >= 1.0).then_some(())
        });
    }
    let failed = "headwater_tls_handshakes_total{listener=\"web\",result=\"failed\"}";
    proxy.wait_for_metric(failed, 4.0);
}

#[test]
fn gnutls_connects_in_every_version_with_either_key_and_resumes_by_ticket() {
    let (_authority, proxy) = start();
    let port = proxy.address().port().to_string();
    for (version, key) in [
        ("1.2", "+ECDHE-ECDSA"),
        ("1.2", "-ECDHE-ECDSA"),
        ("1.3", "+SIGN-ECDSA-SECP256R1-SHA256"),
        ("1.3", "+SIGN-RSA-PSS-RSAE-SHA256"),
    ] {
        let signatures = if version == "1.3" { ":-SIGN-ALL" } else { "" };
        let priority = format!("NORMAL:-VERS-ALL:+VERS-TLS{version}{signatures}:{key}");
        let mut command = Command::new("gnutls-cli");
        command
            .args(["--x509cafile", "ca.pem", "--sni-hostname", HOST, "--verify-hostname", HOST])
            .args(["--port", &port, "--priority", &priority, "--resume", "--waitresumption"])
            .arg("127.0.0.1")
            .current_dir(proxy.folder.path());
        let text = output(&mut command, &closing_request());
        assert!(text.contains("The certificate is trusted"), "{priority}: {text}");
        assert!(text.contains(&format!("(TLS{version}")), "{priority}: {text}");
        assert!(text.contains("This is a resumed session"), "{priority}: {text}");
    }
}

#[test]
fn curl_connects_through_both_protocols() {
    let (_authority, proxy) = start();
    let port = proxy.address().port();
    for (option, version) in [("--http2", "2"), ("--http1.1", "1.1")] {
        for tls in ["1.2", "1.3"] {
            let mut command = Command::new("curl");
            command
                .args(["--silent", "--show-error", "--cacert", "ca.pem", option])
                .args(["--resolve", &format!("{HOST}:{port}:127.0.0.1"), "--tls-max", tls])
                .args(["--write-out", " %{http_version}", &format!("https://{HOST}:{port}/")])
                .current_dir(proxy.folder.path());
            assert_eq!(output(&mut command, ""), format!("hello {version}"), "{option} {tls}");
        }
    }
}

/// A client that offers these groups.
fn offering(authority: &Authority, groups: &[&'static dyn SupportedKxGroup]) -> Tls {
    let provider = CryptoProvider { kx_groups: groups.to_vec(), ..aws_lc_rs::default_provider() };
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Tls { config: Arc::new(config), name: HOST.to_owned() }
}

#[test]
fn the_hybrid_group_is_preferred_and_the_classic_ones_are_spoken() {
    let (authority, proxy) = start();
    for (groups, chosen) in [
        (&[X25519MLKEM768, X25519][..], NamedGroup::X25519MLKEM768),
        // The client has sent its part of this one: no further round trip.
        (&[X25519, X25519MLKEM768], NamedGroup::X25519),
        (&[X25519], NamedGroup::X25519),
        (&[SECP256R1], NamedGroup::secp256r1),
        (&[SECP384R1], NamedGroup::secp384r1),
    ] {
        let mut client = Client::tls(proxy.address(), &offering(&authority, groups));
        assert_eq!(client.get("/", &[]).status, 200);
        let group = client.session().negotiated_key_exchange_group().unwrap().name();
        assert_eq!(group, chosen);
    }
    assert!(Client::try_tls(proxy.address(), &offering(&authority, &[MLKEM768])).is_err());
}

#[test]
fn a_client_hello_in_pieces_is_put_together() {
    let (authority, proxy) = start();
    let tls = offering(&authority, &[X25519MLKEM768, X25519]);
    for size in [1, 7, 100, 1000] {
        let client = Client::tls_in_segments(proxy.address(), &tls, size);
        assert_eq!(client.unwrap().get("/", &[]).status, 200, "segments of {size} bytes");
    }
    for size in [32, 100, 1200] {
        let mut config = (*tls.config).clone();
        config.max_fragment_size = Some(size);
        let tls = Tls { config: Arc::new(config), name: HOST.to_owned() };
        let mut client = Client::tls(proxy.address(), &tls);
        assert_eq!(client.get("/", &[]).status, 200, "records of {size} bytes");
        let mut client = Client::tls_in_segments(proxy.address(), &tls, 11).unwrap();
        assert_eq!(client.get("/", &[]).status, 200, "records of {size} bytes in segments");
    }
}

#[test]
fn handshakes_beyond_the_limit_wait_for_a_place_and_are_told_apart() {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "site", &[HOST]);
    let proxy = Setup::empty()
        .listener("tls.certificates = [{ cert = \"site.crt\", key = \"site.key\" }]")
        .listener("limits.handshakes = 1\ntimeouts.handshake = \"500ms\"")
        .text("[[route]]\nrespond = {}")
        .start_in(folder);
    let tls = Tls::new(&authority);
    // One that says hello and no more, and one that finds no place meanwhile.
    let hello = Client::only_hello(proxy.address(), &tls);
    let silent = Client::connect(proxy.address());
    let results = |result: &str| {
        proxy.metric(&format!(
            "headwater_tls_handshakes_total{{listener=\"web\",result=\"{result}\"}}"
        ))
    };
    let mut waiting = Client::only_hello(proxy.address(), &tls);
    waiting.rest();
    crate::support::eventually("both to end", || {
        (results("timeout") + results("limit") >= 2.0).then_some(())
    });
    assert_eq!(Client::tls(proxy.address(), &tls).get("/", &[]).status, 200);
    drop((hello, silent));
}
