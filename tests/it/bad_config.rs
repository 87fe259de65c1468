//! Configurations that cannot be run, and what is said about them.

use std::net::TcpListener;

use crate::support::proxy::run_with;
use crate::support::{Authority, Folder, Setup, proxy};

#[test]
fn every_problem_is_named_with_its_place_and_a_hint() {
    let config = "\
[process]
workrs = 2
[listener.web]
bind = \"127.0.0.1\"
[pool.app]
endpoints = [\"127.0.0.1:80\"]
timeouts.connect = \"1 parsec\"
[[route]]
pool = \"ap\"
paths = [\"/a*\"]
";
    for command in ["check", "run"] {
        let exit = run_with(command, config);
        assert_eq!(exit.code, Some(2), "{exit:?}");
        for problem in [
            "headwater.toml:2:1: error: unknown key `workrs`",
            "help: did you mean `workers`?",
            "headwater.toml:4:8: error:",
            "headwater.toml:7:20: error:",
            "headwater.toml:9:8: error: `route.pool`: there is no pool \"ap\"",
            "headwater.toml:10:10: error:",
        ] {
            assert!(exit.stderr.contains(problem), "{problem} is not in\n{}", exit.stderr);
        }
    }
}

#[test]
fn a_syntax_error_has_a_place() {
    let exit = run_with("check", "[listener.web]\nbind = \n");
    assert_eq!(exit.code, Some(2));
    assert!(exit.stderr.contains("headwater.toml:2:"), "{}", exit.stderr);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = Folder::new();
    let exit = proxy::run_to_end(&["run", "-c"], &folder.join("nowhere.toml"));
    assert_eq!(exit.code, Some(2));
    assert!(exit.stderr.contains("nowhere.toml"), "{}", exit.stderr);
}

#[test]
fn routes_that_tie_are_both_named() {
    let exit = run_with(
        "check",
        r#"
        [listener.web]
        bind = "127.0.0.1:0"
        [[route]]
        name = "first"
        paths = ["/same"]
        respond = { status = 200 }
        [[route]]
        name = "second"
        paths = ["/same"]
        respond = { status = 200 }
        "#,
    );
    assert_eq!(exit.code, Some(2), "{exit:?}");
    assert!(exit.stderr.contains("first") && exit.stderr.contains("second"), "{}", exit.stderr);
}

#[test]
fn a_key_that_does_not_fit_its_certificate_is_an_error() {
    let (authority, folder) = (Authority::new(), Folder::new());
    authority.write(&folder, "one", &["one.test"]);
    authority.write(&folder, "two", &["two.test"]);
    let setup = Setup::empty()
        .listener("tls.certificates = [{ cert = \"one.crt\", key = \"two.key\" }]")
        .text("[[route]]\nrespond = { status = 200 }");
    let path = folder.write("headwater.toml", setup.to_string());
    let exit = proxy::run_to_end(&["check", "-c"], &path);
    assert_eq!(exit.code, Some(2), "{exit:?}");
    assert!(exit.stderr.contains("two.key"), "{}", exit.stderr);
}

#[test]
fn a_setting_for_the_environment_must_be_there() {
    let exit = run_with("check", "[log]\naccess.to = \"${HEADWATER_TEST_UNSET}\"\n");
    assert_eq!(exit.code, Some(2));
    assert!(exit.stderr.contains("HEADWATER_TEST_UNSET"), "{}", exit.stderr);
    let default = "[listener.web]\nbind = \"${HEADWATER_TEST_UNSET:-127.0.0.1:0}\"\n\
                   [[route]]\nrespond = { status = 200 }\n";
    let exit = run_with("check", default);
    assert_eq!(exit.code, Some(0), "{exit:?}");
}

#[test]
fn an_admin_api_open_to_the_network_needs_a_token() {
    let exit = run_with(
        "check",
        "[admin]\nbind = \"0.0.0.0:9901\"\n[listener.web]\nbind = \"127.0.0.1:0\"\n\
         [[route]]\nrespond = { status = 200 }\n",
    );
    assert_eq!(exit.code, Some(2), "{exit:?}");
    assert!(exit.stderr.contains("token_file"), "{}", exit.stderr);
}

#[test]
fn a_port_of_another_process_is_named_and_ends_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let setup = Setup::empty()
        .listener(&format!("bind = \"{address}\""))
        .text("[[route]]\nrespond = { status = 200 }");
    let exit = run_with("run", &setup.to_string());
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains(&address.to_string()), "{}", exit.stderr);
}

#[test]
fn a_port_of_another_headwater_is_not_shared_silently() {
    let running =
        Setup::empty().text("[[route]]\nrespond = { status = 200, body = \"first\" }").start();
    let address = running.address();
    let setup = Setup::empty()
        .process("workers = 2")
        .listener(&format!("bind = \"{address}\""))
        .text("[[route]]\nrespond = { status = 200, body = \"second\" }");
    let exit = run_with("run", &setup.to_string());
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains(&address.to_string()), "{}", exit.stderr);
    assert_eq!(running.get("/", &[]).text(), "first");
}

#[test]
fn a_taken_admin_port_ends_the_start_too() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let setup = Setup::empty()
        .text(&format!("[admin]\nbind = \"{address}\"\n[[route]]\nrespond = {{ status = 200 }}"));
    let exit = run_with("run", &setup.to_string());
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.stderr.contains(&address.to_string()), "{}", exit.stderr);
}

#[test]
fn wrong_arguments_exit_with_2_and_help_with_0() {
    let folder = Folder::new();
    assert_eq!(proxy::run_to_end(&["rum", "-c"], folder.path()).code, Some(2));
    let help = proxy::run_to_end(&["run", "--help", "-c"], folder.path());
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("--config"), "{}", help.stdout);
}

#[test]
fn ties_of_routes_and_keys_of_pools_are_named_beside_other_problems() {
    let folder = Folder::new();
    let authority = Authority::new();
    let (a, b) = (authority.issue(&["a.test"]), authority.issue(&["b.test"]));
    folder.write("a.crt", a.cert);
    folder.write("b.key", b.key);
    let config = folder.write(
        "headwater.toml",
        "[admin]
tokn = 1
[listener.web]
bind = \"127.0.0.1:0\"
[pool.app]
endpoints = [\"127.0.0.1:80\"]
tls = { cert = \"a.crt\", key = \"b.key\" }
[[route]]
pool = \"app\"
[[route]]
pool = \"app\"
",
    );
    let exit = proxy::run_to_end(&["check", "-c"], &config);
    for problem in ["unknown key `tokn`", "match the same requests", "toml:7:"] {
        assert!(exit.stderr.contains(problem), "{problem} is not in\n{}", exit.stderr);
    }
}
