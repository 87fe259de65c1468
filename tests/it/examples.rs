//! The example configurations are correct.

use std::fs;
use std::path::Path;

use crate::support::{Authority, Folder, proxy};

const CONF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf");

/// A folder with every example and the certificates that they name.
fn examples() -> (Folder, Vec<String>) {
    let folder = Folder::new();
    let authority = Authority::new();
    let pair = authority.issue(&["example.com"]);
    for name in ["site", "client"] {
        folder.write(&format!("certs/{name}.crt"), &pair.cert);
        folder.write(&format!("certs/{name}.key"), &pair.key);
    }
    folder.write("certs/ca.crt", authority.pem());
    folder.write("certs/clients.crl", authority.revoking(&[13]));
    folder.write("certs/tickets.keys", "ab".repeat(48));
    folder.write("certs/cloudfront.txt", "192.0.2.0/24\n");
    folder.write("certs/maintenance.html", "<h1>Back soon</h1>");
    pair.write(&folder, "certs/sites/example");
    folder.write("certs/admin-token", "token\n");
    folder.write("certs/sticky-secret", "0123456789abcdef\n");
    folder.write("certs/cloudflare-token", "0123456789abcdef\n");
    let keys = "aws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = 0123456789abcdef\n";
    folder.write("certs/aws-credentials", format!("[default]\n{keys}"));
    fs::create_dir(folder.join("docs")).unwrap();
    fs::create_dir(folder.join("conf.d")).unwrap();
    let mut names = Vec::new();
    for entry in fs::read_dir(CONF).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.ends_with(".toml") {
            folder.write(&format!("conf/{name}"), fs::read(&path).unwrap());
            names.push(name);
        }
    }
    (folder, names)
}

fn assert_accepted(path: &Path) -> proxy::Exit {
    let exit = proxy::run_to_end(&["check", "-c"], path);
    assert_eq!(exit.code, Some(0), "{exit:?}");
    assert!(!exit.stderr.contains(": error:"), "{exit:?}");
    exit
}

#[test]
fn every_example_is_accepted() {
    let (folder, names) = examples();
    assert!(names.iter().any(|name| name == "headwater.toml"));
    assert!(names.iter().any(|name| name == "minimal.toml"));
    for name in names {
        let exit = assert_accepted(&folder.join(&format!("conf/{name}")));
        assert!(!exit.stderr.contains(": warning:"), "{exit:?}");
    }
}

#[test]
fn every_key_of_the_complete_example_may_be_on_at_once() {
    let (folder, _) = examples();
    let text = fs::read_to_string(folder.join("conf/headwater.toml")).unwrap();
    let is_key = |line: &str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| !c.is_whitespace()))
    };
    let all: String = text
        .lines()
        .map(|line| if is_key(line) { format!("{}\n", &line[1..]) } else { format!("{line}\n") })
        .collect();
    assert_accepted(&folder.write("conf/all.toml", all));
}
