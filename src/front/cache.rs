//! What the caches of fronts read: the field that is for them, and how many tags they take.

use http::HeaderName;

use crate::config::model::Front;

/// The field in which a front is told for how long it keeps an answer (RFC 9213). Where the front
/// has none of its own it is the one for all caches of the kind.
pub fn control_field(front: Front) -> HeaderName {
    HeaderName::from_static(match front {
        Front::Cloudflare => "cloudflare-cdn-cache-control",
        Front::None | Front::CloudFront | Front::Alb | Front::Gclb => "cdn-cache-control",
    })
}

/// Whether the cache of a front is known to heed [`control_field`].
pub fn heeds_control_field(front: Front) -> bool {
    front == Front::Cloudflare
}

/// What a front takes of tags with one answer. An object with more could not be purged by all of
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagLimits {
    /// Of the whole field.
    pub bytes_max: usize,
    pub tags_max: usize,
    /// Of one tag.
    pub tag_bytes_max: usize,
}

impl TagLimits {
    pub fn of(front: Front) -> Self {
        match front {
            Front::CloudFront => Self { bytes_max: 16 << 10, tags_max: 50, tag_bytes_max: 256 },
            Front::None | Front::Cloudflare | Front::Alb | Front::Gclb => {
                Self { bytes_max: 16 << 10, tags_max: usize::MAX, tag_bytes_max: 1024 }
            }
        }
    }

    pub fn hold(&self, tally: &TagTally) -> bool {
        tally.bytes <= self.bytes_max
            && tally.tags <= self.tags_max
            && tally.longest <= self.tag_bytes_max
            && !tally.has_odd
    }
}

/// The tags of an answer, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TagTally {
    /// Of the lines, with a comma between them.
    bytes: usize,
    tags: usize,
    longest: usize,
    /// One has a character that is not visible ASCII.
    has_odd: bool,
}

impl TagTally {
    /// Counts a line of `Cache-Tag`.
    pub fn add(&mut self, line: &[u8]) {
        self.bytes += line.len() + usize::from(self.bytes > 0);
        for tag in line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if !tag.is_empty() {
                self.tags += 1;
                self.longest = self.longest.max(tag.len());
                self.has_odd |= !tag.iter().all(u8::is_ascii_graphic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(front: Front, lines: &[&str]) -> bool {
        let mut tally = TagTally::default();
        for line in lines {
            tally.add(line.as_bytes());
        }
        TagLimits::of(front).hold(&tally)
    }

    #[test]
    fn tags_are_held_to_what_each_front_takes() {
        let long = |bytes: usize| "x".repeat(bytes);
        let many = |tags: usize| vec!["t"; tags].join(",");
        for (lines, cloudflare, cloudfront) in [
            (vec![], true, true),
            (vec!["a, b".to_owned(), "c".to_owned()], true, true),
            (vec![long(256)], true, true),
            (vec![long(257)], true, false),
            (vec![long(1024)], true, false),
            (vec![long(1025)], false, false),
            (vec![many(50)], true, true),
            (vec![many(51)], true, false),
            (vec![many(8192)], true, false),
            (vec![many(8192), "t".to_owned()], false, false),
            (vec!["a b".to_owned()], false, false),
            (vec!["é".to_owned()], false, false),
        ] {
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            let shown: String = lines.iter().flat_map(|line| line.chars().take(20)).collect();
            assert_eq!(fits(Front::Cloudflare, &lines), cloudflare, "{shown}");
            assert_eq!(fits(Front::CloudFront, &lines), cloudfront, "{shown}");
        }
    }
}
