//! `[purge]`: caches in front of us that are cleared after ours.

use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;

use super::aws;
use super::diagnostics::Invalid;
use super::globals;
use super::model::{
    CloudFrontPurge, CloudFrontTags, CloudflarePlan, CloudflarePurge, FrontPurgeMode, Purge,
};
use super::reader::Table;

const CLOUDFLARE_API: &str = "https://api.cloudflare.com/client/v4";
const CLOUDFRONT_API: &str = "https://cloudfront.amazonaws.com";

pub(super) fn read(table: Table<'_>) -> Purge {
    let cloudflare = table.read("cloudflare", |value| value.table().and_then(cloudflare));
    let cloudfront = table.read("cloudfront", |value| value.table().and_then(cloudfront));
    table.finish();
    Purge { cloudflare, cloudfront }
}

fn cloudfront(table: Table<'_>) -> Option<CloudFrontPurge> {
    const DISTRIBUTION: &str = "\"EDFDVBD6EXAMPLE\"";
    const FILE: &str = "\"/run/secrets/aws-credentials\"";
    let id = table.required("distribution", DISTRIBUTION);
    let id = id.and_then(|value| value.parse("a distribution", DISTRIBUTION, distribution));
    let profile = table.read("profile", |value| value.string("\"default\""));
    let profile = profile.as_deref().unwrap_or("default");
    let credentials = table.required("credentials_file", FILE).and_then(|value| {
        let content = value.file(FILE)?;
        aws::credentials(&content.bytes, profile).map_err(|why| value.invalid(why)).ok()
    });
    let api = table.read("api", |value| value.parse("a URL", CLOUDFRONT_API, base_url));
    let tags = table.read("tags", |value| value.one_of(&TAGS));
    table.finish();
    Some(CloudFrontPurge {
        distribution: id?,
        credentials: credentials?,
        api: api.unwrap_or_else(|| CLOUDFRONT_API.into()),
        tags: tags.unwrap_or(CloudFrontTags::Tags),
    })
}

pub(super) const TAGS: [(&str, CloudFrontTags); 2] =
    [("tags", CloudFrontTags::Tags), ("all", CloudFrontTags::All)];

/// It becomes a part of a path.
fn distribution(text: &str) -> Result<Arc<str>, Invalid> {
    if (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(text.into());
    }
    Err(Invalid::new(format!("{text:?} is not the id of a distribution"))
        .help("write its id, such as EDFDVBD6EXAMPLE, not its domain name"))
}

fn cloudflare(table: Table<'_>) -> Option<CloudflarePurge> {
    const ZONE: &str = "\"023e105f4ecef8ad9ca31a8372d0c353\"";
    const TOKEN: &str = "\"/run/secrets/cloudflare-token\"";
    let zone = table.required("zone", ZONE).and_then(|value| value.parse("a zone", ZONE, zone));
    let token = table.required("token_file", TOKEN).and_then(|value| globals::token(&value));
    let api = table.read("api", |value| value.parse("a URL", CLOUDFLARE_API, base_url));
    let modes = [("purge", FrontPurgeMode::Purge), ("invalidate", FrontPurgeMode::Invalidate)];
    let mode = table.read("mode", |value| value.one_of(&modes));
    let plan = table.read("plan", |value| value.one_of(&PLANS));
    table.finish();
    Some(CloudflarePurge {
        zone: zone?,
        token: token?,
        api: api.unwrap_or_else(|| CLOUDFLARE_API.into()),
        mode: mode.unwrap_or(FrontPurgeMode::Purge),
        plan: plan.unwrap_or(CloudflarePlan::Free),
    })
}

pub(super) const PLANS: [(&str, CloudflarePlan); 4] = [
    ("free", CloudflarePlan::Free),
    ("pro", CloudflarePlan::Pro),
    ("business", CloudflarePlan::Business),
    ("enterprise", CloudflarePlan::Enterprise),
];

/// It becomes a part of a path.
fn zone(text: &str) -> Result<Arc<str>, Invalid> {
    if (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(text.into());
    }
    Err(Invalid::new(format!("{text:?} is not the id of a zone"))
        .help("write the 32 hex digits that the overview of the zone shows, not its name"))
}

/// A URL to which paths are added; a secret is sent to it, so it is https unless it stays on this
/// machine.
pub(super) fn base_url(text: &str) -> Result<Arc<str>, Invalid> {
    let text = text.trim_end_matches('/');
    safe_url(text, "everybody on the way would see what is sent")
}

/// A URL that is https, or stays on this machine.
pub(super) fn safe_url(text: &str, danger: &str) -> Result<Arc<str>, Invalid> {
    let example = "write \"https://host/path\"";
    let uri: Uri = text
        .parse()
        .map_err(|error| Invalid::new(format!("{text:?} is not a URL: {error}")).help(example))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_local = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    match uri.scheme_str() {
        _ if host.is_empty() => {
            Err(Invalid::new(format!("{text:?} is not an absolute URL")).help(example))
        }
        Some("https") => Ok(text.into()),
        Some("http") if is_local => Ok(text.into()),
        Some("http") => Err(Invalid::new(format!("over http {danger}"))
            .help("write https://; http is for this machine alone")),
        _ => Err(Invalid::new(format!("{text:?} is not an http or https URL")).help(example)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Folder;
    use super::*;

    const REST: &str = "[listener.web]\nbind = \"127.0.0.1:0\"\n[[route]]\nrespond = {}\n";

    #[test]
    fn a_distribution_has_credentials_of_a_profile() {
        let folder = Folder::new();
        let keys = "aws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = s3cret\n";
        folder.write("aws", &format!("[default]\n{keys}[other]\n{keys}aws_session_token=t0ken\n"));
        let load = |lines: &str| {
            folder.write("c.toml", &format!("[purge.cloudfront]\n{lines}\n{REST}"));
            let loaded = folder.load("c.toml");
            (folder.shown(&loaded), loaded.draft.purge.cloudfront)
        };
        let enough = "distribution = \"EDFD\"\ncredentials_file = \"aws\"";
        let (shown, front) = load(enough);
        assert_eq!(shown, "");
        let front = front.unwrap();
        assert_eq!((&*front.api, front.tags), (CLOUDFRONT_API, CloudFrontTags::Tags));
        assert_eq!(&*front.credentials.access_key_id, "AKIDEXAMPLE");
        assert!(front.credentials.session_token.is_none());
        assert!(!format!("{front:?}").contains("s3cret"));
        let (shown, front) = load(&format!("{enough}\nprofile = \"other\"\ntags = \"all\""));
        assert_eq!(shown, "");
        let front = front.unwrap();
        assert_eq!(
            (&*front.credentials.session_token.unwrap().0, front.tags),
            ("t0ken", CloudFrontTags::All)
        );
        for (lines, message) in [
            ("credentials_file = \"aws\"".to_owned(), "distribution"),
            ("distribution = \"EDFD\"".to_owned(), "credentials_file"),
            (enough.replace("EDFD", "d1.cloudfront.net"), "is not the id of a distribution"),
            (format!("{enough}\nprofile = \"none\""), "has no profile"),
            (format!("{enough}\ntags = \"some\""), "is not a value of this key"),
            (format!("{enough}\napi = \"http://a.test\""), "would see what is sent"),
        ] {
            let (shown, _) = load(&lines);
            assert!(shown.contains(message), "{lines}: {shown}");
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }

    fn load(lines: &str) -> (String, Option<CloudflarePurge>) {
        let folder = Folder::new();
        folder.write("token", "s3cret\n");
        folder.write("c.toml", &format!("[purge.cloudflare]\n{lines}\n{REST}"));
        let loaded = folder.load("c.toml");
        (folder.shown(&loaded), loaded.draft.purge.cloudflare)
    }

    #[test]
    fn a_zone_and_a_token_are_enough() {
        let (shown, read) = load("zone = \"abc1\"\ntoken_file = \"token\"");
        assert_eq!(shown, "");
        let read = read.unwrap();
        assert_eq!((&*read.zone, &*read.token.0, &*read.api), ("abc1", "s3cret", CLOUDFLARE_API));
        assert_eq!((read.mode, read.plan), (FrontPurgeMode::Purge, CloudflarePlan::Free));
        let all = "zone = \"a\"\ntoken_file = \"token\"\napi = \"http://127.0.0.1:1/x/\"\n\
                   mode = \"invalidate\"\nplan = \"enterprise\"";
        let (shown, read) = load(all);
        assert_eq!(shown, "");
        assert_eq!(&*read.unwrap().api, "http://127.0.0.1:1/x");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let rest = "zone = \"a\"\ntoken_file = \"token\"\n";
        for (lines, message) in [
            ("zone = \"a\"".to_owned(), "`purge.cloudflare.token_file` is missing"),
            ("zone = \"example.com\"\ntoken_file = \"token\"".to_owned(), "not the id of a zone"),
            ("zone = \"a\"\ntoken_file = \"none\"".to_owned(), "it does not exist"),
            (format!("{rest}api = \"http://api.example/\""), "everybody on the way"),
            (format!("{rest}api = \"/client\""), "not an absolute URL"),
            (format!("{rest}api = \"ftp://a/\""), "not an http or https URL"),
            (format!("{rest}mode = \"soft\""), "write `purge` or `invalidate`"),
            (format!("{rest}plan = \"gold\""), "`enterprise`"),
            (format!("{rest}zones = []"), "did you mean `zone`"),
        ] {
            let (shown, _) = load(&lines);
            assert!(shown.contains("error") && shown.contains(message), "{lines}: {shown}");
        }
    }
}
