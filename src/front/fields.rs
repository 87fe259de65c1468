//! The fields in which fronts tell about a client and its request.

use http::HeaderName;

use crate::config::model::Front;

/// Whether a field is one in which proxies tell who the client is and by which scheme it came,
/// behind whatever front. Frameworks believe them. From peers that are not trusted it is taken off.
pub fn is_about_client(name: &str) -> bool {
    let Some((first, rest)) = name.split_once('-') else { return name == "forwarded" };
    match first {
        "x" => matches!(
            rest,
            "forwarded"
                | "forwarded-for"
                | "forwarded-proto"
                | "forwarded-host"
                | "forwarded-port"
                | "forwarded-by"
                | "forwarded-client-ip"
                | "forwarded-https"
                | "forwarded-protocol"
                | "forwarded-scheme"
                | "forwarded-ssl"
                | "original-forwarded-for"
                | "original-proto"
                | "scheme"
                | "url-scheme"
                | "https"
                | "real-ip"
                | "client-ip"
                | "cluster-client-ip"
                | "originating-ip"
                | "remote-ip"
                | "remote-addr"
                | "proxyuser-ip"
                | "azure-clientip"
                | "azure-socketip"
                | "envoy-external-address"
                | "amz-cf-id"
        ),
        "cf" | "cloudfront" => true,
        "front" => rest == "end-https",
        "forwarded" => matches!(rest, "for" | "proto"),
        "true" | "client" => matches!(rest, "client-ip" | "ip"),
        "fastly" => matches!(rest, "client-ip" | "ssl"),
        "wl" => matches!(rest, "proxy-client-ip" | "proxy-ssl"),
        "proxy" => rest == "client-ip",
        _ => false,
    }
}

/// Whether a field is one by which applications let a request override its own URL, method or host.
/// None of it is in a cache key, so that such a request brings an answer that is not its URL's.
pub fn is_override(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("x-") else { return false };
    matches!(
        rest,
        "original-url"
            | "original-uri"
            | "original-host"
            | "rewrite-url"
            | "rewrite-uri"
            | "http-method-override"
            | "http-method"
            | "method-override"
            | "http-path-override"
            | "http-host-override"
            | "host"
            | "host-override"
            | "forwarded-server"
            | "forwarded-prefix"
            | "forwarded-path"
            | "forwarded-uri"
            | "forwarded-url"
            | "forwarded-context"
            | "script-name"
            | "proxy-url"
    )
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
