//! Dates as a cache reads them (RFC 9110 §5.6.7, RFC 9111 §4.2).
//!
//! A cache takes all three formats in any case, and no zone but GMT. A year of two digits is the
//! latest one that is not more than fifty years ahead. The day of the week must be one, but says
//! nothing: origins get it wrong.

use std::time::SystemTime;

use http::header::GetAll;
use http::{HeaderMap, HeaderName, HeaderValue};
use time::OffsetDateTime;

/// The longest date, `Wednesday, 09-Nov-94 08:49:37 GMT`, with room for odd spaces, in bytes.
const DATE_BYTES_MAX: usize = 48;
const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
/// RFC 9110 §5.6.7: what seems to be further ahead is of the century before.
const YEARS_AHEAD_MAX: i32 = 50;

/// Reads a date, as seen at `now`. `None` for what is none.
pub fn parse(value: &HeaderValue, now: SystemTime) -> Option<SystemTime> {
    let text = std::str::from_utf8(value.as_bytes().trim_ascii()).ok()?;
    if text.len() > DATE_BYTES_MAX || !text.is_ascii() {
        return None;
    }
    let is_short = text.contains('-');
    if !is_short && let Ok(date) = httpdate::parse_http_date(text) {
        return Some(date);
    }
    let text = in_case(text);
    on_any_day(&if is_short { with_full_year(&text, now)? } else { text })
}

/// Reads a date whose day of the week may be wrong.
fn on_any_day(text: &str) -> Option<SystemTime> {
    let (day, rest) = text.split_at_checked(3)?;
    let is_day = DAYS.iter().any(|name| name.starts_with(day));
    let mut right = DAYS.iter().filter(|_| is_day).map(|name| format!("{}{rest}", &name[..3]));
    right.find_map(|text| httpdate::parse_http_date(&text).ok())
}

/// The date in a field that must stand once: of several lines none counts.
pub fn single(headers: &HeaderMap, name: &HeaderName, now: SystemTime) -> Option<SystemTime> {
    only(headers.get_all(name)).and_then(|value| parse(value, now))
}

fn only(values: GetAll<'_, HeaderValue>) -> Option<&HeaderValue> {
    let mut values = values.iter();
    values.next().filter(|_| values.next().is_none())
}

/// In the case of the grammar: names begin with a capital, and the zone is all capitals.
fn in_case(text: &str) -> String {
    let mut before = ' ';
    let mut fixed: String = text
        .chars()
        .map(|c| {
            let begins = !std::mem::replace(&mut before, c).is_ascii_alphabetic();
            if begins { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
        })
        .collect();
    if fixed.ends_with(" Gmt") {
        fixed.replace_range(fixed.len() - 3.., "GMT");
    }
    fixed
}

/// A date with a year of two digits, `Sunday, 06-Nov-94 08:49:37 GMT`, in the first format. `None`
/// for what is none.
fn with_full_year(text: &str, now: SystemTime) -> Option<String> {
    let (name, rest) = text.split_once(", ")?;
    let name = DAYS.contains(&name).then(|| name.get(..3)).flatten()?;
    let (date, time) = rest.split_once(' ')?;
    let [day, month, year] = date.split('-').collect::<Vec<_>>().try_into().ok()?;
    let has_digits = year.bytes().all(|byte| byte.is_ascii_digit());
    if day.len() != 2 || month.len() != 3 || year.len() != 2 || !has_digits {
        return None;
    }
    let year: i32 = year.parse().ok()?;
    let latest = OffsetDateTime::from(now).year() + YEARS_AHEAD_MAX;
    let year = latest - (latest - year).rem_euclid(100);
    Some(format!("{name}, {day} {month} {year} {time}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SystemTime {
        httpdate::parse_http_date(text).unwrap()
    }

    fn read(text: &str) -> Option<SystemTime> {
        parse(&HeaderValue::from_bytes(text.as_bytes()).unwrap(), at(NOW))
    }

    const NOW: &str = "Wed, 25 Nov 2026 08:49:37 GMT";

    #[test]
    fn all_formats_are_read_in_any_case() {
        let expected = Some(at("Sun, 06 Nov 1994 08:49:37 GMT"));
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "SUN, 06 nov 1994 08:49:37 gmt",
            "sUn, 06 NOV 1994 08:49:37 gMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "SUNDAY, 06-NOV-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "sun nov  6 08:49:37 1994",
            " Sun, 06 Nov 1994 08:49:37 GMT ",
            "Mon, 06 Nov 1994 08:49:37 GMT",
            "Tuesday, 06-Nov-94 08:49:37 GMT",
            "Wed Nov  6 08:49:37 1994",
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "tomorrow",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 AEST",
            "Sun, 06 Nov 1994 08:49:37 +0000",
            "Sun 06 Nov 1994 08:49:37 GMT",
            "Sun, 06  Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT",
            "Day, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06-Nov-94 08:49:37 GMT",
            "Sunday, 6-Nov-94 08:49:37 GMT",
            "Tuesday, 06-Nov-+1 08:49:37 GMT",
            "Sun, 6 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994 8:49:37 GMT",
            "Sun, 06 Nov 1994 08.49.37 GMT",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 25:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GM\u{fc}",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_year_of_two_digits_is_at_most_fifty_years_ahead() {
        for (text, expected) in [
            ("Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("Sunday, 06-Nov-75 08:49:37 GMT", "Wed, 06 Nov 2075 08:49:37 GMT"),
            ("Sunday, 06-Nov-77 08:49:37 GMT", "Sun, 06 Nov 1977 08:49:37 GMT"),
            ("Sunday, 06-Nov-50 08:49:37 GMT", "Sun, 06 Nov 2050 08:49:37 GMT"),
            ("Tuesday, 06-Nov-01 08:49:37 GMT", "Tue, 06 Nov 2001 08:49:37 GMT"),
        ] {
            assert_eq!(read(text), Some(at(expected)), "{text}");
        }
    }

    #[test]
    fn of_several_lines_none_counts() {
        let mut headers = HeaderMap::new();
        let name = http::header::EXPIRES;
        let value = HeaderValue::from_static(NOW);
        headers.append(&name, value.clone());
        assert!(single(&headers, &name, at(NOW)).is_some());
        headers.append(&name, value);
        assert!(single(&headers, &name, at(NOW)).is_none());
    }
}
