//! Whom a listener is behind: `front`, whom it believes, and whom it serves.

use http::HeaderName;
use ipnet::IpNet;

use super::address;
use super::diagnostics::{Invalid, shown};
use super::model::{ClientIpHeader, FileContent, Front, RangesFile, SpanOf};
use super::reader::Table;
use super::value::Value;

/// What the keys say.
pub(super) struct FrontKeys {
    pub(super) front: Front,
    pub(super) span: SpanOf,
    pub(super) trusted: Vec<IpNet>,
    pub(super) trusted_from: Option<RangesFile>,
    pub(super) client_ip_header: Option<ClientIpHeader>,
    pub(super) required: Option<Vec<IpNet>>,
    /// Not the same as a list: it may be built in or come from a file.
    pub(super) trusts_somebody: bool,
}

pub(super) fn read(table: &Table<'_>) -> FrontKeys {
    let front = table.read("front", |value| value.one_of(&Front::NAMES)).unwrap_or(Front::None);
    let trusted = table.read("trusted", networks).unwrap_or_default();
    let trusted_from = table.read("trusted_from", ranges_file);
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
            "write the address list of the CDN into a file, one network a line: \
             trusted_from = \"cloudfront.txt\""
        }
    }
}

fn ranges_file(value: &Value<'_>) -> Option<RangesFile> {
    const EXAMPLE: &str = "\"ranges.txt\"";
    let text = value.string(EXAMPLE)?;
    if text.contains("://") {
        value.invalid(
            Invalid::new("it is a URL, and only files are read")
                .help("fetch it into a file by a timer; the file is read again when it changes"),
        );
        return None;
    }
    let path = value.file_path(EXAMPLE)?;
    let read = value.context.files.borrow_mut().read(&path);
    let content = read
        .map(|bytes| FileContent { path: path.clone(), bytes })
        .map_err(|why| format!("cannot read {}: {why}", shown(&path)));
    Some(RangesFile { path, content, span: SpanOf(value.span) })
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
        assert!(said("trusted_from = \"https://a.test/x\"").contains("only files are read"));
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
