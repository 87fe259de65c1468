//! Why connections to endpoints fail, in plain words, because operators read them.

use std::io;
use std::time::Duration;

use crate::error::{Error, Kind};

/// Why there is no connection, of which `timeout` was the longest wait.
pub fn why_unconnected(error: &Error, timeout: Duration) -> String {
    if error.kind() == Kind::ConnectTimeout {
        return format!("no connection within {}", shown(timeout));
    }
    let Some(error) = error.cause().and_then(|cause| cause.downcast_ref::<io::Error>()) else {
        return error.to_string();
    };
    match error.kind() {
        io::ErrorKind::TimedOut => format!("no connection within {}", shown(timeout)),
        io::ErrorKind::NotFound => "there is no such socket".to_owned(),
        // Connecting alone reads nothing, so this is the handshake.
        io::ErrorKind::UnexpectedEof => "TLS: connection closed during the handshake".to_owned(),
        _ => why_io_failed(error),
    }
}

/// Why a request failed, where there is more to say than its kind.
pub fn why_failed(error: &Error) -> Option<String> {
    if let Kind::BadRequest(rule) = error.kind() {
        return Some(rule.to_owned());
    }
    let cause = error.cause()?;
    if let Some(inner) = cause.downcast_ref::<Error>() {
        return why_failed(inner).or_else(|| Some(inner.kind().as_str().to_owned()));
    }
    if let Some(io) = cause.downcast_ref::<io::Error>() {
        return Some(why_io_failed(io));
    }
    if let Some(h2) = cause.downcast_ref::<h2::Error>() {
        return Some(why_h2_failed(h2));
    }
    Some(cause.to_string())
}

/// Why a stream or a connection of HTTP/2 ended.
fn why_h2_failed(error: &h2::Error) -> String {
    if let Some(io) = error.get_io() {
        return match io.kind() {
            io::ErrorKind::UnexpectedEof => "connection closed".to_owned(),
            _ => why_io_failed(io),
        };
    }
    let Some(reason) = error.reason() else { return format!("HTTP/2: {error}") };
    let (code, text) = (u32::from(reason), reason.description());
    let said = match (error.is_reset(), error.is_remote()) {
        (true, true) => "the endpoint reset the stream",
        (true, false) => "the answer breaks a rule of HTTP/2",
        (false, true) => "the endpoint ended the connection with GOAWAY",
        (false, false) => "the endpoint breaks a rule of HTTP/2, or speaks another protocol",
    };
    format!("{said}: {text} (code {code})")
}

/// What TLS does not like, without the names of a library's types.
fn why_tls_failed(error: &rustls::Error) -> String {
    use rustls::{CertificateError as Bad, Error};
    match error {
        Error::InvalidCertificate(bad) => {
            let why = match bad {
                Bad::Expired | Bad::ExpiredContext { .. } => "it has expired",
                Bad::NotValidYet | Bad::NotValidYetContext { .. } => "it is not valid yet",
                Bad::Revoked => "it is revoked",
                Bad::UnknownIssuer => "its issuer is not trusted (`tls.ca`)",
                Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                    "it is not for the name that is asked for (`tls.server_name`)"
                }
                Bad::BadSignature => "its signature is wrong",
                Bad::BadEncoding => "it cannot be read",
                _ => "it cannot be used for a server",
            };
            format!("invalid peer certificate: {why}")
        }
        Error::AlertReceived(alert) => {
            format!("the endpoint refused the handshake: {}", words(&format!("{alert:?}")))
        }
        Error::PeerIncompatible(why) => {
            format!("nothing that both support: {}", words(&format!("{why:?}")))
        }
        Error::PeerMisbehaved(why) => {
            format!("the endpoint breaks a rule: {}", words(&format!("{why:?}")))
        }
        Error::InvalidMessage(_) => {
            "what came is not TLS; does the endpoint speak it on this port?".to_owned()
        }
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "a message that has no place there".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The name of a variant as words: `HandshakeFailure` is "handshake failure".
fn words(variant: &str) -> String {
    let mut text = String::with_capacity(variant.len() + 8);
    for letter in variant.chars().take_while(char::is_ascii_alphanumeric) {
        if letter.is_ascii_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// Why an exchange on a connection failed.
pub fn why_io_failed(error: &io::Error) -> String {
    let inner = error.get_ref();
    if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return format!("TLS: {}", why_tls_failed(tls));
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        // With more to say, it is one of ours.
        io::ErrorKind::UnexpectedEof if inner.is_none() => {
            "connection closed without an answer".to_owned()
        }
        io::ErrorKind::BrokenPipe => "connection closed by the endpoint".to_owned(),
        _ => error.to_string(),
    }
}

/// A wait as operators read it.
pub fn shown(timeout: Duration) -> String {
    if timeout.subsec_nanos() == 0 {
        format!("{} s", timeout.as_secs())
    } else {
        format!("{} ms", timeout.as_millis())
    }
}
