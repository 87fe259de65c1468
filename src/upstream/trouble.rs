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

/// Why an exchange on a connection failed.
pub fn why_io_failed(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(tls) = inner {
        return format!("TLS: {tls}");
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::UnexpectedEof => "connection closed without an answer".to_owned(),
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
