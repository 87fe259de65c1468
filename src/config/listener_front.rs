//! Whom a listener is behind: `front`, whom it believes, and whom it serves.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::address;
use super::diagnostics::{Invalid, shown};
use super::model::{
    ClientIpHeader, FileContent, Front, RangesFile, RangesSource, RangesUrl, SpanOf,
};
use super::purge::safe_url;
use super::reader::Table;
use super::value::Value;

/// How often a list is fetched anew.
const REFRESH: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 60 * 60);
const REFRESH_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);

/// What the keys say.
pub(super) struct FrontKeys {
    pub(super) front: Front,
    pub(super) span: SpanOf,
    pub(super) trusted: Vec<IpNet>,
    pub(super) trusted_from: Option<RangesSource>,
    pub(super) client_ip_header: Option<ClientIpHeader>,
    pub(super) required: Option<Vec<IpNet>>,
    /// Not the same as a list: it may be built in or come from a file.
    pub(super) trusts_somebody: bool,
}

pub(super) fn read(table: &Table<'_>) -> FrontKeys {
    let front = table.read("front", |value| value.one_of(&Front::NAMES)).unwrap_or(Front::None);
    let trusted = table.read("trusted", networks).unwrap_or_default();
    let trusted_from = table.read("trusted_from", ranges_source);
    let trusted_from = refreshed(table, trusted_from);
    let is_named = table.value("trusted").is_some() || table.value("trusted_from").is_some();
    let trusts_somebody = !trusted.is_empty() || trusted_from.is_some() || front.has_addresses();
    if let Some(value) = table.value("front")
        && front.needs_addresses()
        && !is_named
    {
        value.invalid(
            Invalid::new(format!("nothing says which peers are {}", front.title()))
                .help(addresses_help(front)),
        );
    }
    let client_ip_header = table.read("client_ip_header", |value| {
        if !trusts_somebody && !front.needs_addresses() {
            let warning = value.warning("no peer is trusted, so it is never read");
            value.context.push(warning.help("name the proxies in front in `trusted`"));
        }
        client_ip_header(value, front)
    });
    let required = table.read("front_required", |value| {
        let is_on = value.boolean()?;
        if is_on && !trusts_somebody && !front.needs_addresses() {
            value.invalid(
                Invalid::new("no peer is trusted, so every connection would be closed")
                    .help("set `front`, or name the proxies in front in `trusted`"),
            );
        }
        Some(is_on)
    });
    let exempt = table.read("front_exempt", |value| {
        if required != Some(true) {
            let warning = value.warning("it has no effect without `front_required`");
            value.context.push(warning.help("add front_required = true"));
        }
        networks(value)
    });
    FrontKeys {
        front,
        span: SpanOf(table.value("front").map_or_else(|| table.span, |value| value.span)),
        trusted,
        trusted_from,
        client_ip_header: client_ip_header.or_else(|| default_header(front)),
        required: (required == Some(true)).then(|| exempt.unwrap_or_default()),
        trusts_somebody,
    }
}

fn networks(value: &Value<'_>) -> Option<Vec<IpNet>> {
    value.list("[\"10.0.0.0/8\"]", |item| {
        item.parse("a network", "\"10.0.0.0/8\"", address::network)
    })
}

fn addresses_help(front: Front) -> &'static str {
    match front {
        Front::Alb => "name the subnets of the load balancer: trusted = [\"10.0.0.0/16\"]",
        _ => {
            "name the address list of the CDN: \
             trusted_from = \"https://ip-ranges.amazonaws.com/ip-ranges.json\", or a file"
        }
    }
}

fn ranges_source(value: &Value<'_>) -> Option<RangesSource> {
    const EXAMPLE: &str = "\"ranges.txt\"";
    let text = value.string(EXAMPLE)?;
    if text.contains("://") {
        let url = value.parse("a URL", "\"https://www.cloudflare.com/ips-v4\"", |text| {
            safe_url(text, "anybody on the way could have himself believed")
        });
        let (refresh, span) = (REFRESH_DEFAULT, SpanOf(value.span));
        return url.map(|url| RangesSource::Url(RangesUrl { url, refresh, span }));
    }
    let path = value.file_path(EXAMPLE)?;
    let read = value.context.files.borrow_mut().read(&path);
    let content = read
        .map(|bytes| FileContent { path: path.clone(), bytes })
        .map_err(|why| format!("cannot read {}: {why}", shown(&path)));
    Some(RangesSource::File(RangesFile { path, content, span: SpanOf(value.span) }))
}

/// With the interval of the key beside it.
fn refreshed(table: &Table<'_>, source: Option<RangesSource>) -> Option<RangesSource> {
    let refresh = table.read("trusted_refresh", |value| {
        if table.value("trusted_from").is_none() || matches!(source, Some(RangesSource::File(_))) {
            let warning = value.warning("it has no effect without a URL in `trusted_from`");
            value.context.push(warning.help("a file is read again whenever it changes"));
        }
        value.duration(&REFRESH)
    });
    match (source, refresh) {
        (Some(RangesSource::Url(url)), Some(refresh)) => {
            Some(RangesSource::Url(RangesUrl { refresh, ..url }))
        }
        (source, _) => source,
    }
}

fn default_header(front: Front) -> Option<ClientIpHeader> {
    match front {
        Front::Cloudflare => {
            Some(ClientIpHeader::Single(HeaderName::from_static("cf-connecting-ip")))
        }
        Front::Gclb => Some(ClientIpHeader::SecondForwardedFor),
        Front::None | Front::CloudFront | Front::Alb => None,
    }
}

fn client_ip_header(value: &Value<'_>, front: Front) -> Option<ClientIpHeader> {
    value.parse("the name of a header", "\"x-forwarded-for\"", |text| {
        let name = HeaderName::from_bytes(text.as_bytes());
        let name =
            name.map_err(|_| Invalid::new(format!("{text:?} is not the name of a header")))?;
        Ok(match front {
            _ if name != "x-forwarded-for" => ClientIpHeader::Single(name),
            Front::Gclb => ClientIpHeader::SecondForwardedFor,
            _ => ClientIpHeader::ForwardedFor,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::model::Listener;
    use super::super::testing::{config_of, diagnostics_of};
    use super::*;

    fn listener(lines: &str) -> Listener {
        let text = format!("[listener.web]\nbind = \"127.0.0.1:0\"\n{lines}");
        config_of(&text).listeners.remove(0)
    }

    fn said(lines: &str) -> String {
        diagnostics_of(&format!("[listener.web]\nbind = \"127.0.0.1:0\"\n{lines}"))
    }

    #[test]
    fn a_front_brings_its_client_header_and_its_idle_time() {
        for (lines, header, idle) in [
            ("", None, 75),
            ("front = \"none\"", None, 75),
            ("front = \"cloudflare\"", Some("cf-connecting-ip"), 930),
            ("front = \"cloudfront\"\ntrusted = [\"10.0.0.0/8\"]", None, 125),
            ("front = \"alb\"\ntrusted = [\"10.0.0.0/8\"]", None, 75),
            ("front = \"gclb\"", Some("second"), 620),
            ("front = \"cloudflare\"\nclient_ip_header = \"x-real-ip\"", Some("x-real-ip"), 930),
        ] {
            let listener = listener(lines);
            let named = listener.client_ip_header.as_ref().map(|header| match header {
                ClientIpHeader::ForwardedFor => "x-forwarded-for",
                ClientIpHeader::SecondForwardedFor => "second",
                ClientIpHeader::Single(name) => name.as_str(),
            });
            assert_eq!(named, header, "{lines}");
            assert_eq!(listener.timeouts.idle.as_secs(), idle, "{lines}");
        }
        let own = listener("front = \"gclb\"\ntimeouts.idle = \"700s\"");
        assert_eq!(own.timeouts.idle.as_secs(), 700);
    }

    #[test]
    fn who_cannot_be_known_by_address_must_be_named() {
        for front in ["cloudfront", "alb"] {
            let shown = said(&format!("front = \"{front}\""));
            assert!(shown.contains("c.toml:3:9: error: `listener.web.front`: nothing says"));
            let shown = said(&format!("front = \"{front}\"\ntrusted = [\"10.0.0.0/8\"]"));
            assert!(!shown.contains("nothing says"), "{shown}");
        }
        assert!(said("front = \"cloudfare\"").contains("is not a value of this key"));
    }

    #[test]
    fn a_list_may_be_fetched_as_long_as_nobody_can_change_it_on_its_way() {
        let refresh = |lines: &str| {
            let from = listener(&format!("front = \"cloudfront\"\n{lines}")).trusted_from.unwrap();
            from.url().map(|url| (url.url.to_string(), url.refresh.as_secs()))
        };
        let url = "https://a.test/x/";
        assert_eq!(refresh(&format!("trusted_from = \"{url}\"")), Some((url.into(), 86_400)));
        let local = "trusted_from = \"http://127.0.0.1:1/x\"\ntrusted_refresh = \"5m\"";
        assert_eq!(refresh(local), Some(("http://127.0.0.1:1/x".into(), 300)));
        let shown = said("trusted_from = \"http://a.test/x\"");
        assert!(shown.contains("anybody on the way could have himself believed"), "{shown}");
        assert!(said("trusted_from = \"ftp://a.test/x\"").contains("not an http or https URL"));
        let early = format!("trusted_from = \"{url}\"\ntrusted_refresh = \"10ms\"");
        assert!(said(&early).contains("1s"), "{}", said(&early));
        let shown = said("front = \"gclb\"\ntrusted_refresh = \"1h\"");
        assert!(shown.contains("no effect without a URL"), "{shown}");
    }

    #[test]
    fn only_the_front_may_be_required_where_it_is_known() {
        let required = listener("front = \"cloudflare\"\nfront_required = true").front_required;
        assert_eq!(required, Some(Vec::new()));
        let lines = "front = \"gclb\"\nfront_required = true\nfront_exempt = [\"10.0.0.0/8\"]";
        assert_eq!(listener(lines).front_required.map(|exempt| exempt.len()), Some(1));
        assert_eq!(listener("front = \"gclb\"\nfront_required = false").front_required, None);
        assert!(said("front_required = true").contains("every connection would be closed"));
        let shown = said("front_exempt = [\"10.0.0.0/8\"]");
        assert!(shown.contains("no effect without `front_required`"), "{shown}");
    }
}
