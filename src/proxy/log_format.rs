//! The text of one access log line.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::Version;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::access_log::Record;
use crate::cache::status::push_number;
use crate::config::model::{AccessField, AccessFormat, AccessPart};

/// `10/Oct/2000:13:55:36 +0000`, as the combined format wants it.
const COMMON_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");

/// RFC 3339 without the fraction, which follows in milliseconds.
const UTC_SECOND: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
/// Length of such a text, in bytes.
const SECOND_BYTES: usize = 19;

thread_local! {
    /// The second that was written last, and its text: a line costs no calendar.
    static SECOND: Cell<(u64, [u8; SECOND_BYTES])> = const { Cell::new((0, [b'0'; SECOND_BYTES])) };
}

/// Appends a line for `record`.
pub(super) fn line(out: &mut Vec<u8>, format: &AccessFormat, record: &Record<'_>, now: SystemTime) {
    match format {
        AccessFormat::Json => json(out, record, now),
        AccessFormat::Combined => combined(out, record, now),
        AccessFormat::Template(parts) => {
            for part in parts {
                match part {
                    AccessPart::Literal(text) => out.extend_from_slice(text.as_bytes()),
                    AccessPart::Field(field) => match value(*field, record, now) {
                        Value::Absent => out.push(b'-'),
                        Value::Bytes(bytes) => escape_plain(out, bytes),
                        Value::Time(time) => push_time(out, time),
                        Value::Ip(ip) => push_ip(out, ip),
                        Value::Number(number) => number.write(out),
                    },
                }
            }
        }
    }
    out.push(b'\n');
}

enum Value<'a> {
    Absent,
    Bytes(&'a [u8]),
    Time(SystemTime),
    Ip(IpAddr),
    Number(Number),
}

#[derive(Clone, Copy)]
enum Number {
    Whole(u64),
    /// With three digits behind the point.
    Millis(Duration),
}

impl Number {
    fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Whole(number) => push_number(out, number),
            Self::Millis(duration) => {
                let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
                push_number(out, micros / 1000);
                out.push(b'.');
                push_three(out, micros % 1000);
            }
        }
    }
}

fn value<'a>(field: AccessField, record: &'a Record<'_>, now: SystemTime) -> Value<'a> {
    let text = |text: &'a str| Value::Bytes(text.as_bytes());
    let optional = |bytes: Option<&'a [u8]>| bytes.map_or(Value::Absent, Value::Bytes);
    match field {
        AccessField::Time => Value::Time(now),
        AccessField::ClientIp => Value::Ip(record.client_ip),
        AccessField::PeerIp => Value::Ip(record.peer_ip),
        AccessField::Listener => text(record.listener),
        AccessField::Route => text(record.route),
        AccessField::Method => text(record.method),
        AccessField::Scheme => text(record.scheme),
        AccessField::Host => optional(record.host.as_deref()),
        AccessField::Path => text(record.path),
        AccessField::Query => optional(record.query.map(str::as_bytes)),
        AccessField::Protocol => text(protocol(record.version)),
        AccessField::Status => Value::Number(Number::Whole(record.finished.status.as_u16().into())),
        AccessField::DurationMs => Value::Number(Number::Millis(record.finished.duration)),
        AccessField::RequestBytes => Value::Number(Number::Whole(record.finished.request_bytes)),
        AccessField::ResponseBytes => Value::Number(Number::Whole(record.finished.response_bytes)),
        AccessField::Cache => optional(record.finished.cache.map(|c| c.as_str().as_bytes())),
        AccessField::Pool => optional(record.pool.map(str::as_bytes)),
        AccessField::Endpoint => optional(record.endpoint.map(str::as_bytes)),
        AccessField::UpstreamMs => record
            .upstream
            .map_or(Value::Absent, |duration| Value::Number(Number::Millis(duration))),
        AccessField::Attempts => Value::Number(Number::Whole(record.attempts.into())),
        AccessField::RequestId => Value::Bytes(record.request_id),
        AccessField::FrontId => optional(record.front_id),
        AccessField::UserAgent => optional(record.user_agent),
        AccessField::Referer => optional(record.referer),
        AccessField::Error => optional(record.error.map(str::as_bytes)),
        AccessField::Reason => optional(record.reason.map(str::as_bytes)),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// RFC 3339 to the millisecond, always of the same length.
fn push_time(out: &mut Vec<u8>, now: SystemTime) {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (mut second, mut text) = SECOND.get();
    if second != since.as_secs() {
        second = since.as_secs();
        let _ = OffsetDateTime::from(now).format_into(&mut text.as_mut_slice(), UTC_SECOND);
        SECOND.set((second, text));
    }
    out.extend_from_slice(&text);
    out.push(b'.');
    push_three(out, since.subsec_millis().into());
    out.push(b'Z');
}

fn push_ip(out: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            for (index, octet) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                push_number(out, octet.into());
            }
        }
        IpAddr::V6(ip) => {
            // Writing to a vector cannot fail.
            let _ = write!(out, "{ip}");
        }
    }
}

/// Three digits of a number below 1000.
fn push_three(out: &mut Vec<u8>, number: u64) {
    let digit = |divisor| b'0' + (number / divisor % 10) as u8;
    out.extend_from_slice(&[digit(100), digit(10), digit(1)]);
}

/// One object with every field that has a value, in the order of [`AccessField::NAMES`].
fn json(out: &mut Vec<u8>, record: &Record<'_>, now: SystemTime) {
    out.push(b'{');
    let mut first = true;
    for (name, field) in AccessField::NAMES {
        let value = value(field, record, now);
        if matches!(value, Value::Absent) {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        match value {
            Value::Absent => {}
            Value::Number(number) => number.write(out),
            Value::Bytes(bytes) => json_string(out, bytes),
            Value::Time(time) => {
                out.push(b'"');
                push_time(out, time);
                out.push(b'"');
            }
            Value::Ip(ip) => {
                out.push(b'"');
                push_ip(out, ip);
                out.push(b'"');
            }
        }
    }
    out.push(b'}');
}

fn json_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        out.extend_from_slice(bytes);
        out.push(b'"');
        return;
    }
    // Header values may hold any bytes; JSON is UTF-8.
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => {
                let mut buffer = [0; 4];
                out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            }
        }
    }
    out.push(b'"');
}

/// Keeps one request on one line and quotes closed, as Apache does.
fn escape_plain(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0x20..=0x7e => out.push(*byte),
            byte => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
}

fn combined(out: &mut Vec<u8>, record: &Record<'_>, now: SystemTime) {
    let time = OffsetDateTime::from(now).format(COMMON_TIME).unwrap_or_default();
    let mut head = String::new();
    // Writing to a string cannot fail.
    let _ = write!(head, "{} - - [{time}] \"{} ", record.client_ip, record.method);
    out.extend_from_slice(head.as_bytes());
    escape_plain(out, record.path.as_bytes());
    if let Some(query) = record.query {
        out.push(b'?');
        escape_plain(out, query.as_bytes());
    }
    let mut tail = String::new();
    let finished = record.finished;
    let _ = write!(
        tail,
        " {}\" {} {} \"",
        protocol(record.version),
        finished.status.as_u16(),
        finished.response_bytes
    );
    out.extend_from_slice(tail.as_bytes());
    escape_plain(out, record.referer.unwrap_or(b"-"));
    out.extend_from_slice(b"\" \"");
    escape_plain(out, record.user_agent.unwrap_or(b"-"));
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::cache::status::CacheStatus;
    use crate::snapshot::stats::Finished;

    const FINISHED: Finished = Finished {
        listener_id: 0,
        status: StatusCode::OK,
        duration: Duration::from_micros(1500),
        request_bytes: 0,
        response_bytes: 12,
        cache: Some(CacheStatus::Hit),
        coding: None,
    };

    fn text(format: &AccessFormat) -> String {
        let record = Record {
            client_ip: IpAddr::from([192, 0, 2, 7]),
            peer_ip: IpAddr::from([10, 0, 0, 1]),
            listener: "web",
            route: "assets",
            method: "GET",
            scheme: "https",
            host: Some(b"example.com".to_vec()),
            path: "/a",
            query: Some("b=\"1\""),
            version: Version::HTTP_2,
            finished: &FINISHED,
            pool: None,
            endpoint: None,
            upstream: None,
            attempts: 0,
            request_id: b"abc",
            front_id: None,
            user_agent: Some(b"line\nbreak \xff"),
            referer: None,
            error: None,
            reason: None,
        };
        let mut out = Vec::new();
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500_000_000_123);
        line(&mut out, format, &record, now);
        String::from_utf8(out).expect("every format is text")
    }

    #[test]
    fn a_json_line_is_one_object_without_absent_fields() {
        let line = text(&AccessFormat::Json);
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["time"], "2017-07-14T02:40:00.123Z");
        assert_eq!(value["status"], 200);
        assert_eq!(value["duration_ms"], 1.5);
        assert_eq!(value["cache"], "hit");
        assert_eq!(value["user_agent"], "line\nbreak \u{fffd}");
        assert!(value.get("pool").is_none());
    }

    #[test]
    fn the_combined_format_escapes_what_would_break_its_quotes_and_lines() {
        assert_eq!(
            text(&AccessFormat::Combined),
            "192.0.2.7 - - [14/Jul/2017:02:40:00 +0000] \"GET /a?b=\\\"1\\\" HTTP/2.0\" 200 12 \"-\" \"line\\x0abreak \\xff\"\n"
        );
    }

    #[test]
    fn a_template_shows_a_dash_for_what_is_absent() {
        let format = AccessFormat::Template(vec![
            AccessPart::Field(AccessField::ClientIp),
            AccessPart::Literal(" ".into()),
            AccessPart::Field(AccessField::Pool),
            AccessPart::Literal(" ".into()),
            AccessPart::Field(AccessField::DurationMs),
        ]);
        assert_eq!(text(&format), "192.0.2.7 - 1.500\n");
    }
}
