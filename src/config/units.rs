//! Values with units as text: durations, sizes, percentages and status sets.
//!
//! A duration or a size is exactly one number and one unit; sums such as `1h30m` are not of this
//! language. Each parser has its counterpart that shows a value as the user would write it.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::diagnostics::Invalid;

/// Ten years: longer is a typing error, and any clock can still be added to it.
pub(super) const DURATION_MAX: Duration = Duration::from_secs(3650 * 86_400);

/// Longest first, so that a value is shown in the largest unit that divides it.
const DURATION_UNITS_MS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Largest first within each kind; binary units are preferred when a size is shown.
const SIZE_UNITS_BYTES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

const DURATION_HELP: &str =
    "write one number and one unit: \"250ms\", \"5s\", \"2m\", \"1h\" or \"7d\"";
const SIZE_HELP: &str = "write one number and one unit: \"512B\", \"64KiB\", \"10MB\" or \"1GiB\" \
                         (MB is 1000 KB, MiB is 1024 KiB)";

pub(super) fn duration(text: &str) -> Result<Duration, Invalid> {
    let (number, unit) = split_unit(text);
    if number.is_empty() {
        return Err(Invalid::new(format!("{text:?} is not a duration")).help(DURATION_HELP));
    }
    if unit.is_empty() {
        return Err(Invalid::new(format!("the duration {text:?} has no unit"))
            .help(format!("write \"{number}s\" if seconds are meant")));
    }
    let Some((_, unit_ms)) = DURATION_UNITS_MS.iter().find(|(name, _)| *name == unit) else {
        return Err(Invalid::new(format!("{text:?} is not a duration")).help(DURATION_HELP));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*unit_ms))
        .map(Duration::from_millis)
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| Invalid::new(format!("the duration {text:?} is longer than ten years")))
}

pub(super) fn size(text: &str) -> Result<u64, Invalid> {
    let (number, unit) = split_unit(text);
    if number.is_empty() {
        return Err(Invalid::new(format!("{text:?} is not a size")).help(SIZE_HELP));
    }
    // Nothing is nothing in every unit.
    if unit.is_empty() && number.bytes().all(|digit| digit == b'0') {
        return Ok(0);
    }
    if unit.is_empty() {
        return Err(Invalid::new(format!("the size {text:?} has no unit"))
            .help(format!("write \"{number}B\" if bytes are meant")));
    }
    let Some((_, unit_bytes)) = SIZE_UNITS_BYTES.iter().find(|(name, _)| *name == unit) else {
        return Err(Invalid::new(format!("{text:?} is not a size")).help(SIZE_HELP));
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*unit_bytes))
        .filter(|bytes| i64::try_from(*bytes).is_ok())
        .ok_or_else(|| Invalid::new(format!("the size {text:?} is too large")))
}

/// `"500B/s"` in bytes a second.
pub(super) fn rate(text: &str) -> Result<u64, Invalid> {
    const HELP: &str = "write a size and `/s`: \"500B/s\", \"10KB/s\" or \"1MiB/s\"";
    let Some(amount) = text.strip_suffix("/s") else {
        let invalid = Invalid::new(format!("{text:?} is not a rate"));
        return Err(match size(text) {
            Ok(bytes) => invalid.help(format!("write \"{}/s\"", show_size(bytes))),
            Err(_) => invalid.help(HELP),
        });
    };
    size(amount).map_err(|invalid| Invalid::new(invalid.message).help(HELP))
}

/// `"20%"` as 0.2.
pub(super) fn percentage(text: &str) -> Result<f64, Invalid> {
    let invalid = || {
        Invalid::new(format!("{text:?} is not a percentage from 0% to 100%")).help("write \"20%\"")
    };
    let number = text.strip_suffix('%').ok_or_else(invalid)?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(invalid());
    }
    let percent: f64 = number.parse().map_err(|_| invalid())?;
    if percent <= 100.0 { Ok(percent / 100.0) } else { Err(invalid()) }
}

/// One item of a status set, `"304"` or `"200-299"`, as an inclusive range within `allowed`.
pub(super) fn statuses(text: &str, allowed: &RangeInclusive<u16>) -> Result<(u16, u16), Invalid> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>().ok().filter(|code| digits && allowed.contains(code))
    };
    match (code(low), code(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        _ => {
            let (min, max) = (allowed.start(), allowed.end());
            Err(Invalid::new(format!("{text:?} is no status or range of statuses"))
                .help(format!("write \"503\" or \"500-599\", within {min} to {max}")))
        }
    }
}

/// Leading digits, and the rest.
fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len()))
}

pub(super) fn show_duration(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    DURATION_UNITS_MS
        .iter()
        .find(|(_, unit_ms)| ms.is_multiple_of(*unit_ms))
        .map_or_else(|| format!("{ms}ms"), |(unit, unit_ms)| format!("{}{unit}", ms / unit_ms))
}

pub(super) fn show_size(bytes: u64) -> String {
    if bytes == 0 {
        return "0B".to_owned();
    }
    SIZE_UNITS_BYTES
        .iter()
        .find(|(_, unit_bytes)| bytes.is_multiple_of(*unit_bytes))
        .map_or_else(|| format!("{bytes}B"), |(unit, size)| format!("{}{unit}", bytes / size))
}

pub(super) fn show_rate(bytes: u64) -> String {
    format!("{}/s", show_size(bytes))
}

pub(super) fn show_percentage(ratio: f64) -> String {
    // Binary fractions of decimal percents: two digits are more than anybody writes.
    format!("{}%", (ratio * 10_000.0).round() / 100.0)
}

pub(super) fn show_statuses((low, high): (u16, u16)) -> String {
    if low == high { low.to_string() } else { format!("{low}-{high}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_one_number_and_one_unit() {
        for (text, ms) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("0s", 0),
            ("007s", 7_000),
            ("3650d", 315_360_000_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        let wrong = ["", "s", "5", "-5s", "+5s", "1.5s", "1h30m", "5 s", "5S", "5sec", "3651d"];
        for text in wrong.into_iter().chain(["99999999999999999999s", "9999999999999999999d"]) {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_without_unit_gets_the_unit_suggested() {
        let invalid = duration("5").unwrap_err();
        assert_eq!(invalid.message, "the duration \"5\" has no unit");
        assert_eq!(invalid.help.as_deref(), Some("write \"5s\" if seconds are meant"));
    }

    #[test]
    fn sizes_are_decimal_or_binary_by_their_unit() {
        for (text, bytes) in [
            ("512B", 512),
            ("64KiB", 65_536),
            ("10MB", 10_000_000),
            ("10MiB", 10_485_760),
            ("1GiB", 1 << 30),
            ("2KB", 2_000),
            ("0", 0),
            ("0B", 0),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "64", "64K", "64kib", "-1B", "1.5GiB", "KiB", "99999999TiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_sizes_by_the_second() {
        for (text, bytes) in
            [("500B/s", 500), ("10KB/s", 10_000), ("1MiB/s", 1 << 20), ("0B/s", 0), ("0/s", 0)]
        {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for text in ["", "500", "/s", "500/s", "500B", "500B/m", "500B /s", "-1B/s", "500 B/s"] {
            assert!(rate(text).is_err(), "{text}");
        }
        let invalid = rate("500B").unwrap_err();
        assert_eq!(invalid.help.as_deref(), Some("write \"500B/s\""));
        assert_eq!(show_rate(500), "500B/s");
    }

    #[test]
    fn percentages_are_shares() {
        for (text, share) in [("20%", 0.2), ("0%", 0.0), ("100%", 1.0), ("12.5%", 0.125)] {
            assert_eq!(percentage(text), Ok(share), "{text}");
        }
        for text in ["20", "%", "101%", "-1%", "1e1%", "NaN%", "1.2.3%"] {
            assert!(percentage(text).is_err(), "{text}");
        }
    }

    #[test]
    fn statuses_are_single_or_ranges() {
        assert_eq!(statuses("304", &(100..=599)), Ok((304, 304)));
        assert_eq!(statuses("200-299", &(100..=599)), Ok((200, 299)));
        for text in ["", "2xx", "299-200", "99", "600", "0200", "200-", "-200", "200-299-300"] {
            assert!(statuses(text, &(100..=599)).is_err(), "{text}");
        }
        assert!(statuses("204", &(400..=599)).is_err());
    }

    #[test]
    fn values_are_shown_as_they_would_be_written() {
        for text in ["250ms", "5s", "90s", "2m", "36h", "7d", "0s"] {
            assert_eq!(show_duration(duration(text).unwrap()), text);
        }
        for text in ["512B", "64KiB", "10MB", "256MiB", "1GiB", "0B"] {
            assert_eq!(show_size(size(text).unwrap()), text);
        }
        assert_eq!(show_percentage(percentage("12.5%").unwrap()), "12.5%");
        assert_eq!(show_percentage(0.07), "7%");
        assert_eq!(show_statuses((200, 299)), "200-299");
        assert_eq!(show_statuses((304, 304)), "304");
    }
}
