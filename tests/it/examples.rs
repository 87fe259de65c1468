//! The example configurations are correct.

use std::fs;
use std::path::Path;
use std::process::Command;

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

/// Names of files and folders that the Dockerfile copies from here.
fn copied() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = fs::read_to_string(root.join("Dockerfile")).unwrap();
    let mut names = Vec::new();
    for line in file.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let words: Vec<_> = line.split_whitespace().collect();
        if !words[0].starts_with("--") {
            names.extend(words[..words.len() - 1].iter().map(ToString::to_string));
        }
    }
    names
}

#[test]
fn the_image_is_built_from_files_that_make_a_package() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (names, folder) = (copied(), Folder::new());
    let ignore = fs::read_to_string(root.join(".dockerignore")).unwrap();
    for name in &names {
        assert!(ignore.lines().any(|line| line == format!("!{name}")), "{name} is left out");
        let copy =
            Command::new("cp").arg("-R").args([&root.join(name), &folder.join(name)]).status();
        assert!(copy.unwrap().success());
    }
    // cargo looks for every target of the manifest.
    let metadata = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(folder.join("."))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&metadata.stderr).into_owned();
    assert!(metadata.status.success(), "{said}");
    let packages: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    for target in packages["packages"][0]["targets"].as_array().unwrap() {
        let path = Path::new(target["src_path"].as_str().unwrap());
        assert!(path.exists(), "{} is not copied", path.display());
    }
}

#[test]
fn the_example_for_kubernetes_is_accepted_and_its_pool_is_a_headless_service() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes");
    let text = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    let map = text("configmap.yaml");
    let (_, block) = map.split_once("headwater.toml: |\n").unwrap();
    let folder = Folder::new();
    let home = format!("{}/", folder.join("etc").display());
    let config: String = block
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or_default())
        .map(|line| line.replace("/etc/headwater/", &home) + "\n")
        .collect();
    let pair = Authority::new().issue(&["example.com"]);
    folder.write("etc/certs/tls.crt", &pair.cert);
    folder.write("etc/certs/tls.key", &pair.key);
    folder.write("etc/admin/token", "token\n");
    assert_accepted(&folder.write("headwater.toml", &config));
    // A name with one virtual address would be one endpoint, whatever is behind it.
    assert!(config.contains("\ndns = \"app.default.svc.cluster.local:8080\"\n"), "{config}");
    let service = text("app.yaml");
    for line in ["  name: app", "  clusterIP: None", "    - { name: http, port: 8080 }"] {
        assert!(service.lines().any(|other| other == line), "{line}");
    }
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
