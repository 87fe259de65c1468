//! `headwater demo`: the proxy in front of three pods, with nothing to install or to write.
//!
//! The pods run in this process. What the proxy reads from files (its configuration, a generated
//! certificate, a small site) is in a temporary folder that is removed at the end.

mod pod;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::server::{self, Exit};
use crate::tls::generate;
use pod::Pod;

/// Ports that are nice to have; if one is taken, any free one serves.
const HTTP_PORT: u16 = 8080;
const HTTPS_PORT: u16 = 8443;
const ADMIN_PORT: u16 = 9901;
/// What the slow pod adds to every answer.
const SLOW: Duration = Duration::from_millis(150);

const INDEX: &str = "<!doctype html>\n<html lang=\"en\">\n<title>headwater demo</title>\n\
    <link rel=\"stylesheet\" href=\"style.css\">\n<h1>It works</h1>\n\
    <p>This page is a file; <a href=\"/api/hello\">/api/hello</a> is answered by one of three \
    pods, <a href=\"/cached/hello\">/cached/hello</a> from the cache.</p>\n";
const STYLE: &str = "body { font: 1.1rem/1.5 sans-serif; max-width: 40rem; margin: 3rem auto }\n";

/// Runs until it is told to stop.
pub(super) fn run() -> Exit {
    match prepare() {
        Ok(demo) => {
            let _ = io::stdout().write_all(demo.greeting().as_bytes());
            server::run(&demo.folder.0.join("headwater.toml"))
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: the demo cannot be prepared: {error}");
            Exit::StartFailed
        }
    }
}

struct Demo {
    folder: Folder,
    http: u16,
    https: u16,
    admin: u16,
    pods: [SocketAddr; 3],
}

fn prepare() -> io::Result<Demo> {
    let folder = Folder::new()?;
    let certificate =
        generate::self_signed(&["localhost"], SystemTime::now()).map_err(io::Error::other)?;
    std::fs::write(folder.0.join("demo.crt"), certificate.cert)?;
    std::fs::write(folder.0.join("demo.key"), certificate.key)?;
    let site = folder.0.join("site");
    std::fs::create_dir(&site)?;
    std::fs::write(site.join("index.html"), INDEX)?;
    std::fs::write(site.join("style.css"), STYLE)?;
    let pod = |name, delay| Pod { name, delay }.start();
    let pods = [pod("pod-1", Duration::ZERO)?, pod("pod-2", SLOW)?, pod("pod-3", Duration::ZERO)?];
    let demo = Demo {
        http: free_port(HTTP_PORT)?,
        https: free_port(HTTPS_PORT)?,
        admin: free_port(ADMIN_PORT)?,
        folder,
        pods,
    };
    std::fs::write(demo.folder.0.join("headwater.toml"), demo.configuration())?;
    Ok(demo)
}

/// The wanted port if nobody has it, else another one.
fn free_port(wanted: u16) -> io::Result<u16> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bind(wanted).or_else(|_| bind(0))?.local_addr().map(|address| address.port())
}

impl Demo {
    fn configuration(&self) -> String {
        let Self { http, https, admin, .. } = self;
        let endpoints: Vec<_> = self.pods.iter().map(|pod| format!("\"{pod}\"")).collect();
        let endpoints = endpoints.join(", ");
        format!(
            r#"[process]
drain_timeout = "5s"

[admin]
bind = "127.0.0.1:{admin}"

[listener.http]
bind = "127.0.0.1:{http}"

[listener.https]
bind = "127.0.0.1:{https}"
tls.certificates = [{{ cert = "demo.crt", key = "demo.key" }}]

[pool.app]
endpoints = [{endpoints}]
health = {{ path = "/healthz", interval = "1s" }}

[pool.site]
files = "site"
cache_control = "max-age=60"

[[route]]
name = "site"
pool = "site"

[[route]]
name = "api"
paths = ["/api/*"]
pool = "app"
cache = false

[[route]]
name = "cached"
paths = ["/cached/*"]
pool = "app"

[[route]]
name = "old"
paths = ["/old/*"]
redirect = {{ to = "/api/hello" }}
"#
        )
    }

    fn greeting(&self) -> String {
        let Self { http, https, admin, .. } = self;
        let config = self.folder.0.join("headwater.toml");
        let config = config.display();
        let [first, second, third] = self.pods;
        format!(
            "headwater demo: three pods behind one proxy

  http://127.0.0.1:{http}/          a small site, served from a folder through the cache
  https://localhost:{https}/         the same over TLS and HTTP/2 (a generated certificate)
  http://127.0.0.1:{admin}/metrics   Prometheus metrics; /api/status, /api/pools, /api/cache

  pods: pod-1 {first}, pod-2 {second} (slow: {slow} ms), pod-3 {third}

Worth trying:
  curl -i http://127.0.0.1:{http}/api/hello             # which pod answers? mostly not the slow one
  curl -i http://127.0.0.1:{http}/cached/hello          # twice: Cache-Status and Age
  curl -k --http2 -i https://localhost:{https}/cached/hello
  curl http://{third}/flaky/on                # pod-3 answers 503 to every other request...
  for i in 1 2 3 4 5 6; do curl -s http://127.0.0.1:{http}/api/hello; done  # ...and nobody sees it
  curl http://{first}/stop                    # pod-1 is gone for 15 s, without a failed request
  curl http://127.0.0.1:{admin}/api/pools               # who is healthy, and why not
  curl -X POST -H 'Content-Type: application/json' -d '{{\"all\":true}}' http://127.0.0.1:{admin}/api/cache/purge
  $EDITOR {config}    # a change is taken at once, a mistake is refused

Ctrl-C stops it.

",
            slow = SLOW.as_millis(),
        )
    }
}

/// A temporary folder, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("headwater-demo-{}", std::process::id()));
        create_private(&path)?;
        Ok(Self(path))
    }
}

/// Nobody else has a say in what the proxy reads. Fails if it is there already.
fn create_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_configuration_of_the_demo_is_accepted_without_a_warning() {
        let demo = prepare().expect("a temporary folder and free ports");
        let loaded = config::load(&demo.folder.0.join("headwater.toml"), &|_| None);
        assert_eq!(loaded.diagnostics, []);
        assert!(demo.greeting().contains("/api/hello"));
    }
}
