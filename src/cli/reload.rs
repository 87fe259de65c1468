//! `headwater reload`: has a running proxy take its configuration, and fails if that is refused.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::api::{self, Answer};
use crate::compile;
use crate::config::Loaded;
use crate::config::diagnostics;
use crate::server::Exit;

/// For every step of the answer: certificates are read and names resolved before it comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asks the proxy whose configuration `config` is. Its address and token are taken from there,
/// unless `admin` names another address.
pub(super) fn ask(config: &Path, admin: Option<String>) -> Exit {
    // The proxy has the last word on the configuration; here it only says where that is.
    let loaded = compile::load(config);
    let bind = loaded.draft.admin.as_ref().map(|admin| admin.bind.to_string());
    let Some(address) = admin.or(bind) else {
        say("the admin API is off; send SIGHUP, and look into the log\n");
        return Exit::StartFailed;
    };
    let mut head = "POST /api/reload HTTP/1.1\r\nContent-Type: application/json\r\n\
                    Content-Length: 0\r\n"
        .to_owned();
    if let Some(token) = loaded.draft.admin.as_ref().and_then(|admin| admin.token.as_ref()) {
        let _ = write!(head, "Authorization: Bearer {}\r\n", token.0);
    }
    match api::ask(&address, &head, PATIENCE) {
        Ok(answer) => told(&answer),
        Err(error) => {
            if loaded.has_errors() {
                return refused(&loaded);
            }
            say(&format!("no answer from {address}: {error}\n"));
            Exit::StartFailed
        }
    }
}

/// A configuration that does not even say whom to ask.
fn refused(loaded: &Loaded) -> Exit {
    say(&diagnostics::render(&loaded.diagnostics, &loaded.sources));
    Exit::Refused
}

fn told(answer: &Answer) -> Exit {
    let said: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match answer.status {
        200 => {
            say(&lines(&said["warnings"]));
            let what = if said["changed"] == true { "taken" } else { "unchanged" };
            say(&format!("configuration {} is {what}\n", said["generation"]));
            Exit::Clean
        }
        422 => {
            say(&lines(&said["problems"]));
            say("the configuration is refused; the running one goes on\n");
            Exit::Refused
        }
        status => {
            let why = said["error"].as_str().unwrap_or(answer.body.trim());
            say(&format!("not reloaded: {status} {why}\n"));
            Exit::StartFailed
        }
    }
}

/// Problems or warnings as `headwater check` prints them.
fn lines(reports: &Value) -> String {
    let mut text = String::new();
    for report in reports.as_array().into_iter().flatten() {
        if let Some(file) = report["file"].as_str() {
            let _ = write!(text, "{file}:{}:{}: ", report["line"], report["column"]);
        }
        let word = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
        let _ = write!(text, "{}: {}", word("severity"), word("message"));
        if let Some(lint) = report["lint"].as_str() {
            let _ = write!(text, " [{lint}]");
        }
        text.push('\n');
        if let Some(help) = report["help"].as_str() {
            let _ = writeln!(text, "  help: {help}");
        }
    }
    text
}

fn say(text: &str) {
    // Nobody is left to tell when stderr is closed.
    let _ = io::stderr().write_all(text.as_bytes());
}
