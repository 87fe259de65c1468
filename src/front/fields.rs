//! The fields in which fronts tell about a client and its request.

use http::HeaderName;

use crate::config::model::Front;

/// Whether a field is one in which proxies tell who the client is, behind whatever front. From
/// peers that are not trusted it is taken off.
pub fn is_about_client(name: &str) -> bool {
    matches!(
        name,
        "x-forwarded-for"
            | "x-forwarded-proto"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "forwarded"
            | "true-client-ip"
            | "x-real-ip"
            | "x-amz-cf-id"
    ) || name.starts_with("cf-")
        || name.starts_with("cloudfront-")
}

/// Whether a front writes this field itself, so that a visitor of it cannot. Without a front whoever
/// is trusted is believed in all of them.
pub fn is_written_by(front: Front, name: &str) -> bool {
    match front {
        Front::None => true,
        _ if matches!(name, "x-forwarded-for" | "x-forwarded-proto") => true,
        Front::Cloudflare => name.starts_with("cf-"),
        Front::CloudFront => name.starts_with("cloudfront-") || name == "x-amz-cf-id",
        Front::Alb => matches!(name, "x-forwarded-port" | "x-amzn-trace-id"),
        Front::Gclb => name == "x-cloud-trace-context",
    }
}

/// The field in which a front names a request.
pub fn trace_field(front: Front) -> Option<HeaderName> {
    let name = match front {
        Front::None => return None,
        Front::Cloudflare => "cf-ray",
        Front::CloudFront => "x-amz-cf-id",
        Front::Alb => "x-amzn-trace-id",
        Front::Gclb => "x-cloud-trace-context",
    };
    Some(HeaderName::from_static(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_front_passes_on_is_not_its_own_word() {
        for (front, name, is_own) in [
            (Front::None, "x-real-ip", true),
            (Front::Cloudflare, "cf-connecting-ip", true),
            (Front::Cloudflare, "cf-ray", true),
            (Front::Cloudflare, "true-client-ip", false),
            (Front::Cloudflare, "x-forwarded-host", false),
            (Front::Cloudflare, "cloudfront-viewer-address", false),
            (Front::CloudFront, "cloudfront-viewer-address", true),
            (Front::CloudFront, "cf-connecting-ip", false),
            (Front::Alb, "cf-connecting-ip", false),
            (Front::Alb, "x-amzn-trace-id", true),
            (Front::Gclb, "x-cloud-trace-context", true),
            (Front::Gclb, "x-real-ip", false),
            (Front::Gclb, "x-forwarded-for", true),
        ] {
            assert_eq!(is_written_by(front, name), is_own, "{front:?} {name}");
        }
    }
}
