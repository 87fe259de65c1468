//! What fronts take of an answer's head.

use http::HeaderMap;

use crate::config::model::Front;

/// Bytes of the status line, and of the fields that are written behind our back.
const UNSEEN_BYTES: usize = 128;
/// Bytes of a field beside its name and value.
const FIELD_BYTES: usize = 4;

/// Heads above this are an error to Cloudflare (its 520 for headers of more than 128 KB).
const CLOUDFLARE_BYTES_MAX: usize = 128 << 10;
/// What Cloudflare says elsewhere: in all, and of one field. What is above may pass or not.
const CLOUDFLARE_SURE_BYTES: usize = 32 << 10;
const CLOUDFLARE_SURE_FIELD_BYTES: usize = 16 << 10;
/// The quota of an ALB for the entire head of a response.
const ALB_BYTES_MAX: usize = 32 << 10;

/// Whether a front takes the head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    Fits,
    /// What is known of the front contradicts itself.
    Doubtful,
    TooLarge,
}

impl Fit {
    /// Of the head of an answer for `front`.
    pub fn of(front: Front, headers: &HeaderMap) -> Self {
        let (sure, field_sure, max) = match front {
            Front::Cloudflare => {
                (CLOUDFLARE_SURE_BYTES, CLOUDFLARE_SURE_FIELD_BYTES, CLOUDFLARE_BYTES_MAX)
            }
            Front::Alb => (ALB_BYTES_MAX, ALB_BYTES_MAX, ALB_BYTES_MAX),
            Front::None | Front::CloudFront | Front::Gclb => return Self::Fits,
        };
        let (mut bytes, mut longest) = (UNSEEN_BYTES, 0);
        for (name, value) in headers {
            let field = name.as_str().len() + value.len() + FIELD_BYTES;
            bytes += field;
            longest = longest.max(field);
        }
        if bytes > max {
            Self::TooLarge
        } else if bytes > sure || longest > field_sure {
            Self::Doubtful
        } else {
            Self::Fits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_held_to_what_each_front_takes() {
        for (fields, cloudflare, alb) in [
            (&[100][..], Fit::Fits, Fit::Fits),
            (&[16 << 10], Fit::Doubtful, Fit::Fits),
            (&[15 << 10, 15 << 10], Fit::Fits, Fit::Fits),
            (&[15 << 10, 15 << 10, 2 << 10], Fit::Doubtful, Fit::TooLarge),
            (&[60 << 10, 60 << 10], Fit::Doubtful, Fit::TooLarge),
            (&[64 << 10, 64 << 10], Fit::TooLarge, Fit::TooLarge),
        ] {
            let mut headers = HeaderMap::new();
            for bytes in fields {
                headers.append("x", "y".repeat(*bytes).parse().unwrap());
            }
            assert_eq!(Fit::of(Front::Cloudflare, &headers), cloudflare, "{fields:?}");
            assert_eq!(Fit::of(Front::Alb, &headers), alb, "{fields:?}");
            assert_eq!(Fit::of(Front::None, &headers), Fit::Fits);
        }
    }
}
