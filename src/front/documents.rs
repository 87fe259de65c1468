//! The JSON in which fronts publish their addresses.
//!
//! Cloudflare: `https://api.cloudflare.com/client/v4/ips`. CloudFront: AWS's `ip-ranges.json`, which
//! has all of AWS, or CloudFront's own `list-cloudfront-ips`. Google: `prefixes` as in `goog.json`.

use serde::Deserialize;

use super::ranges::Unusable;
use crate::config::model::Front;

/// The networks in AWS's list that are CloudFront's: where it answers, and from where it asks.
const CLOUDFRONT_SERVICES: [&str; 2] = ["CLOUDFRONT", "CLOUDFRONT_ORIGIN_FACING"];
/// Google's networks that belong to whoever rents a machine.
const GOOGLE_CUSTOMERS: &str = "Google Cloud";

/// All forms at once: what is not there is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    success: Option<bool>,
    result: Option<CloudflareResult>,
    prefixes: Vec<Prefix>,
    ipv6_prefixes: Vec<Prefix>,
    #[serde(rename = "CLOUDFRONT_GLOBAL_IP_LIST")]
    cloudfront_global: Vec<String>,
    #[serde(rename = "CLOUDFRONT_REGIONAL_EDGE_IP_LIST")]
    cloudfront_regional: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CloudflareResult {
    ipv4_cidrs: Vec<String>,
    ipv6_cidrs: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Prefix {
    ip_prefix: Option<String>,
    ipv6_prefix: Option<String>,
    #[serde(rename = "ipv4Prefix")]
    ipv4: Option<String>,
    #[serde(rename = "ipv6Prefix")]
    ipv6: Option<String>,
    service: Option<String>,
}

/// The networks of a document, as they are written.
pub(super) fn words(text: &str, front: Front) -> Result<Vec<String>, Unusable> {
    let document: Document = serde_json::from_str(text)
        .map_err(|error| Unusable::NotDocument(format!("it is not such JSON: {error}")))?;
    if document.success == Some(false) {
        return Err(Unusable::NotDocument("it says that it is an error".to_owned()));
    }
    let mut words = Vec::new();
    if let Some(result) = document.result {
        words.extend(result.ipv4_cidrs);
        words.extend(result.ipv6_cidrs);
    }
    words.extend(document.cloudfront_global);
    words.extend(document.cloudfront_regional);
    for prefix in document.prefixes.into_iter().chain(document.ipv6_prefixes) {
        let is_of_aws = prefix.ip_prefix.is_some() || prefix.ipv6_prefix.is_some();
        let service = prefix.service.as_deref().unwrap_or_default();
        if is_of_aws && front != Front::CloudFront {
            let why = "it lists services of AWS, of which only CloudFront is a front";
            return Err(Unusable::NotDocument(why.to_owned()));
        }
        if service == GOOGLE_CUSTOMERS {
            let why = "it lists addresses of Google's customers, which anybody can rent";
            return Err(Unusable::NotDocument(why.to_owned()));
        }
        if is_of_aws && !CLOUDFRONT_SERVICES.contains(&service) {
            continue;
        }
        let Prefix { ip_prefix, ipv6_prefix, ipv4, ipv6, .. } = prefix;
        words.extend([ip_prefix, ipv6_prefix, ipv4, ipv6].into_iter().flatten());
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::super::ranges::parse;
    use super::*;

    fn shown(text: &str, front: Front) -> Result<Vec<String>, String> {
        let networks = parse(text.as_bytes(), front).map_err(|why| why.to_string())?;
        Ok(networks.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn each_front_is_read_in_the_form_in_which_it_publishes() {
        let expected = Ok(vec!["192.0.2.0/24".to_owned(), "2001:db8::/32".to_owned()]);
        let cloudflare = r#"{"result":{"ipv4_cidrs":["192.0.2.0/24"],
            "ipv6_cidrs":["2001:db8::/32"],"etag":"x"},"success":true,"errors":[]}"#;
        assert_eq!(shown(cloudflare, Front::Cloudflare), expected);
        let aws = r#"{"syncToken":"1","prefixes":[
            {"ip_prefix":"198.51.100.0/24","region":"eu","service":"EC2"},
            {"ip_prefix":"192.0.2.0/24","region":"GLOBAL","service":"CLOUDFRONT"}],
            "ipv6_prefixes":[{"ipv6_prefix":"2001:db8::/32","service":"CLOUDFRONT_ORIGIN_FACING"}]}"#;
        assert_eq!(shown(aws, Front::CloudFront), expected);
        let own = r#"{"CLOUDFRONT_GLOBAL_IP_LIST":["192.0.2.0/24"],
            "CLOUDFRONT_REGIONAL_EDGE_IP_LIST":["2001:db8::/32"]}"#;
        assert_eq!(shown(own, Front::CloudFront), expected);
        let google = r#"{"syncToken":"1","creationTime":"2026","prefixes":[
            {"ipv4Prefix":"192.0.2.0/24"},{"ipv6Prefix":"2001:db8::/32"}]}"#;
        assert_eq!(shown(google, Front::Gclb), expected);
    }

    #[test]
    fn a_document_of_somebody_else_is_not_believed() {
        let aws = r#"{"prefixes":[{"ip_prefix":"192.0.2.0/24","service":"EC2"}]}"#;
        for (text, front, why) in [
            (aws, Front::Alb, "only CloudFront is a front"),
            (aws, Front::CloudFront, "it holds no network"),
            (
                r#"{"prefixes":[{"ipv4Prefix":"192.0.2.0/24","service":"Google Cloud"}]}"#,
                Front::Gclb,
                "anybody can rent",
            ),
            (
                r#"{"success":false,"result":{"ipv4_cidrs":["192.0.2.0/24"]}}"#,
                Front::Cloudflare,
                "it says that it is an error",
            ),
            ("{}", Front::Cloudflare, "it holds no network"),
            ("{\"result\":", Front::Cloudflare, "not such JSON"),
            (
                r#"{"result":{"ipv4_cidrs":["192.0.2.0/24","<html>"]}}"#,
                Front::Cloudflare,
                "\"<html>\" is not a network",
            ),
            (r#"{"result":{"ipv4_cidrs":["0.0.0.0/0"]}}"#, Front::Cloudflare, "is too wide"),
        ] {
            let shown = shown(text, front).unwrap_err();
            assert!(shown.contains(why), "{text}: {shown}");
        }
    }
}
