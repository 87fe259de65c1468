//! When a certificate is renewed: when its authority says so (RFC 9773), or by its life.

use std::time::{Duration, SystemTime};

use super::held::Held;

/// Of a life, after which a certificate is renewed where the authority has no opinion: long before
/// its end, so that failures have time to be noticed, and right for lives of six days and of ninety.
const RENEW_AFTER: f64 = 2.0 / 3.0;
/// Of a life, after which it is renewed whatever the authority says.
const RENEW_AT_LATEST: f64 = 0.9;
/// Between two looks at what an authority says, whatever it asks for (RFC 9773 §4.3.2).
pub(super) const ASK_MIN: Duration = Duration::from_secs(60);
pub(super) const ASK_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// After a look that failed; doubled with each that follows.
pub(super) const ASK_AGAIN_MAX: Duration = Duration::from_secs(6 * 60 * 60);

/// When an authority wants a certificate to be renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: SystemTime,
    pub(super) end: SystemTime,
    /// A page that says why.
    pub(super) explanation: Option<String>,
}

/// The moment in it that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suggestion {
    pub(super) window: Window,
    chosen: SystemTime,
}

/// What decided when to renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// There is none that fits.
    Missing,
    Life,
    Authority,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Life => "life",
            Self::Authority => "authority",
        }
    }
}

impl Suggestion {
    /// A moment of the window, by a number in `0.0..1.0`: so an authority has its orders spread. A
    /// window that is said again keeps its moment.
    pub(super) fn new(window: Window, before: Option<&Self>, random: f64) -> Result<Self, String> {
        let Ok(length) = window.end.duration_since(window.start) else {
            return Err("the window for the renewal ends before it begins".to_owned());
        };
        if let Some(before) = before
            && (before.window.start, before.window.end) == (window.start, window.end)
        {
            return Ok(Self { window, chosen: before.chosen });
        }
        let chosen = window.start + length.mul_f64(random);
        Ok(Self { window, chosen })
    }
}

/// When a certificate is to be ordered, and why then.
pub(super) fn planned(
    held: Option<&Held>,
    suggestion: Option<&Suggestion>,
) -> (SystemTime, Reason) {
    let Some(held) = held else { return (SystemTime::UNIX_EPOCH, Reason::Missing) };
    let after = |share| held.not_before + held.life().mul_f64(share);
    match suggestion {
        Some(suggestion) if suggestion.chosen <= after(RENEW_AT_LATEST) => {
            (suggestion.chosen, Reason::Authority)
        }
        Some(_) => (after(RENEW_AT_LATEST), Reason::Life),
        None => (after(RENEW_AFTER), Reason::Life),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::generate::self_signed;

    const HOUR: Duration = Duration::from_secs(3600);

    fn held() -> Held {
        let made = self_signed(&["a.test"], SystemTime::now()).unwrap();
        Held::of(made.cert.as_bytes()).unwrap()
    }

    fn window(start: SystemTime, end: SystemTime) -> Window {
        Window { start, end, explanation: None }
    }

    fn share(held: &Held, at: SystemTime) -> f64 {
        at.duration_since(held.not_before).unwrap().div_duration_f64(held.life())
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let held = held();
        let (at, reason) = planned(Some(&held), None);
        assert!((share(&held, at) - 2.0 / 3.0).abs() < 1e-6);
        assert_eq!(reason, Reason::Life);
        assert_eq!(planned(None, None), (SystemTime::UNIX_EPOCH, Reason::Missing));
    }

    #[test]
    fn an_authority_may_want_it_earlier_or_later_but_not_too_late() {
        let held = held();
        let early = held.not_before + HOUR;
        let suggestion = Suggestion::new(window(early, early + 2 * HOUR), None, 0.5).unwrap();
        assert_eq!(planned(Some(&held), Some(&suggestion)), (early + HOUR, Reason::Authority));
        let later = held.not_before + held.life().mul_f64(0.8);
        let suggestion = Suggestion::new(window(later, later), None, 0.5).unwrap();
        assert_eq!(planned(Some(&held), Some(&suggestion)), (later, Reason::Authority));
        let end = held.not_after;
        let suggestion = Suggestion::new(window(end, end + HOUR), None, 0.5).unwrap();
        let (at, reason) = planned(Some(&held), Some(&suggestion));
        assert!((share(&held, at) - RENEW_AT_LATEST).abs() < 1e-6);
        assert_eq!(reason, Reason::Life);
    }

    #[test]
    fn a_window_that_is_said_again_keeps_its_moment() {
        let now = SystemTime::now();
        let first = Suggestion::new(window(now, now + HOUR), None, 0.2).unwrap();
        let again = Suggestion::new(window(now, now + HOUR), Some(&first), 0.9).unwrap();
        assert_eq!(again.chosen, first.chosen);
        let other = Suggestion::new(window(now, now + 2 * HOUR), Some(&first), 0.5).unwrap();
        assert_eq!(other.chosen, now + HOUR);
        assert!(Suggestion::new(window(now, now - HOUR), None, 0.0).is_err());
    }
}
