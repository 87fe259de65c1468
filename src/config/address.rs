//! Addresses, host names, host patterns and networks as text.
//!
//! Nothing is resolved here: a name is only checked to be one.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use http::HeaderValue;
use ipnet::IpNet;

use super::diagnostics::Invalid;
use super::model::{Address, BindAddress, HostPattern};

/// `sun_path` of Linux, without the closing NUL.
const UNIX_PATH_BYTES_MAX: usize = 107;
/// RFC 1035 §2.3.4, as text.
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Where to accept. Port 0 asks the system for a free one.
pub(super) fn bind(text: &str, folder: &Path) -> Result<BindAddress, Invalid> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path, folder).map(BindAddress::Unix);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(BindAddress::Tcp(address));
    }
    let invalid = Invalid::new(format!("{text:?} is not an address to listen on"));
    let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
    Err(invalid.help(match port {
        Some(port) => format!(
            "write an IP address and a port: \"0.0.0.0:{port}\", \"[::]:{port}\" or \
             \"127.0.0.1:{port}\""
        ),
        None => "write \"0.0.0.0:8080\", \"[::]:8080\" or \"unix:/run/app.sock\"".to_owned(),
    }))
}

/// Where to connect to.
pub(super) fn endpoint(text: &str, folder: &Path) -> Result<Address, Invalid> {
    const HELP: &str = "write \"10.0.0.1:80\", \"[::1]:80\", \"name.example:80\" or \
                        \"unix:/run/app.sock\"";
    let invalid = || Invalid::new(format!("{text:?} is not an address")).help(HELP);
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path, folder).map(Address::Unix);
    }
    if let Some((_, rest)) = text.split_once("://") {
        let bare = rest.split('/').next().unwrap_or_default();
        return Err(Invalid::new(format!("{text:?} is a URL, not an address"))
            .help(format!("write \"{bare}\" with a port; `tls = {{}}` in the pool means https")));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(no_port(text)) } else { Ok(Address::Socket(address)) };
    }
    if text.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) {
        return Err(Invalid::new(format!("{text:?} has no port"))
            .help(format!("write \"[{text}]:80\" with the port of the endpoint")));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(no_port(text));
    };
    let port = match port.parse::<u16>() {
        Ok(port) if port > 0 && !host.is_empty() => port,
        _ => return Err(invalid()),
    };
    if host.contains(':') {
        return Err(Invalid::new(format!("{text:?} is not an address"))
            .help(format!("put brackets around an IPv6 address: \"[{host}]:{port}\"")));
    }
    Ok(Address::Name { host: dns_name(host)?, port })
}

fn no_port(text: &str) -> Invalid {
    Invalid::new(format!("{text:?} has no port")).help("write a port from 1 to 65535 at its end")
}

fn unix_path(path: &str, folder: &Path) -> Result<PathBuf, Invalid> {
    let path = folder.join(path);
    if path == folder || path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(Invalid::new("the path of the unix socket is missing")
            .help("write \"unix:/run/app.sock\""));
    }
    let length = path.as_os_str().len();
    if length > UNIX_PATH_BYTES_MAX {
        return Err(Invalid::new(format!(
            "the path of the unix socket has {length} bytes; the system allows \
             {UNIX_PATH_BYTES_MAX}"
        )));
    }
    Ok(path)
}

/// A DNS name in lower case; a trailing dot stays. Underscores are allowed: they are not of host
/// names, but names of services have them.
pub(super) fn dns_name(text: &str) -> Result<String, Invalid> {
    let invalid = |why: &str| Invalid::new(format!("{text:?} is not a DNS name: {why}"));
    if !text.is_ascii() {
        return Err(
            invalid("it is not ASCII").help("write the ASCII form of the name, with \"xn--\"")
        );
    }
    let bare = text.strip_suffix('.').unwrap_or(text);
    if bare.is_empty() || bare.len() > NAME_BYTES_MAX {
        return Err(invalid("it must have 1 to 253 characters"));
    }
    for label in bare.split('.') {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return Err(invalid("a label must have 1 to 63 characters"));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !label.bytes().all(allowed) || label.starts_with('-') || label.ends_with('-') {
            return Err(invalid(
                "a label has letters, digits, `_` and `-`, which may not begin or end it",
            ));
        }
    }
    // RFC 3696 §2: no top-level domain is a number, so this was meant to be an IP address.
    if bare.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(Invalid::new(format!("{text:?} is neither an IP address nor a DNS name"))
            .help("each of the four numbers is from 0 to 255, without leading zeros"));
    }
    Ok(text.to_ascii_lowercase())
}

/// The hosts of a route: an exact name, an IP address, or `*.` and a name.
pub(super) fn host_pattern(text: &str) -> Result<HostPattern, Invalid> {
    let invalid = |why: &str| Invalid::new(format!("{text:?} is not a host: {why}"));
    if text == "*" {
        return Err(invalid("`*` alone stands for nothing")
            .help("leave `hosts` out to match every host, or write \"*.example.com\""));
    }
    if text.contains('/') {
        return Err(invalid("it has a scheme or a path").help("write \"example.com\" alone"));
    }
    let unbracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    match unbracketed.unwrap_or(text).parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) if unbracketed.is_none() => {
            return Ok(HostPattern::Exact(address.to_string()));
        }
        Ok(IpAddr::V6(address)) => return Ok(HostPattern::Exact(format!("[{address}]"))),
        _ => {}
    }
    if text.contains(':') {
        return Err(invalid("it has a port")
            .help("leave the port out: a route of one port is a route with `listeners`"));
    }
    let (wildcard, name) = match text.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, text),
    };
    if name.contains('*') {
        return Err(invalid("`*` may only be the whole first label").help("\"*.example.com\""));
    }
    let mut name = dns_name(name)?;
    if name.ends_with('.') {
        name.pop();
    }
    Ok(if wildcard { HostPattern::Wildcard(name) } else { HostPattern::Exact(name) })
}

/// A value of the Host header: a name or an IP address, with or without a port.
pub(super) fn authority(text: &str) -> Result<HeaderValue, Invalid> {
    let invalid = || {
        Invalid::new(format!("{text:?} is not a value of the Host header"))
            .help("write \"name\", \"name:8080\", \"10.0.0.1\" or \"[::1]:8080\"")
    };
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) || host.contains('*') {
        return Err(invalid());
    }
    // An IPv6 address without brackets would be read as a name and a port.
    if host.contains(':') && !host.starts_with('[') {
        return Err(invalid());
    }
    let HostPattern::Exact(host) = host_pattern(host).map_err(|_| invalid())? else {
        return Err(invalid());
    };
    let value = port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
    HeaderValue::from_str(&value).map_err(|_| invalid())
}

/// A network in CIDR form; a bare address is a network of one.
pub(super) fn network(text: &str) -> Result<IpNet, Invalid> {
    let bare = text.parse::<IpAddr>().ok().map(IpNet::from);
    bare.or_else(|| text.parse::<IpNet>().ok()).map(|network| network.trunc()).ok_or_else(|| {
        Invalid::new(format!("{text:?} is not a network"))
            .help("write \"10.0.0.0/8\", \"2001:db8::/32\" or one address")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> &'static Path {
        Path::new("/etc/hw")
    }

    #[test]
    fn endpoints_are_sockets_names_and_unix_paths() {
        for (text, shown) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[::1]:443", "[::1]:443"),
            ("Name.Example:80", "name.example:80"),
            ("my_app:8080", "my_app:8080"),
            ("app.default.svc.cluster.local.:80", "app.default.svc.cluster.local.:80"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
            ("unix:app.sock", "unix:/etc/hw/app.sock"),
        ] {
            assert_eq!(endpoint(text, here()).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "app",
            "10.0.0.1",
            "10.0.0.1:0",
            "app:0",
            "app:65536",
            ":80",
            "::1",
            "::1:80",
            "10.0.0.256:80",
            "010.0.0.1:80",
            "-a:80",
            "a..b:80",
            "a b:80",
            "bücher:80",
            "unix:",
            "http://app:80",
            "*.a:80",
        ] {
            assert!(endpoint(text, here()).is_err(), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert!(endpoint(&long, here()).unwrap_err().message.contains("108 bytes"));
    }

    #[test]
    fn the_hint_for_an_address_fits_the_mistake() {
        let help = |text| endpoint(text, here()).unwrap_err().help.unwrap();
        assert!(help("http://app:80/x").starts_with("write \"app:80\" with a port"));
        assert!(help("::1").starts_with("write \"[::1]:80\""));
        assert!(help("fe80::1:2:x:80").contains("brackets"));
        assert!(help("app").contains("port"));
    }

    #[test]
    fn a_listener_binds_to_addresses_not_names() {
        assert_eq!(bind("[::]:0", here()).unwrap().to_string(), "[::]:0");
        assert_eq!(bind("unix:a.sock", here()).unwrap().to_string(), "unix:/etc/hw/a.sock");
        for text in [":8080", "8080", "*:8080", "localhost:8080"] {
            let help = bind(text, here()).unwrap_err().help.unwrap();
            assert!(help.contains("\"0.0.0.0:8080\""), "{text}: {help}");
        }
        assert!(bind("nonsense", here()).is_err());
    }

    #[test]
    fn hosts_are_names_wildcards_and_addresses() {
        let exact = |text: &str| Ok(HostPattern::Exact(text.to_owned()));
        assert_eq!(host_pattern("Example.COM."), exact("example.com"));
        assert_eq!(host_pattern("10.0.0.1"), exact("10.0.0.1"));
        assert_eq!(host_pattern("::0:1"), exact("[::1]"));
        assert_eq!(host_pattern("[::1]"), exact("[::1]"));
        assert_eq!(
            host_pattern("*.Example.com"),
            Ok(HostPattern::Wildcard("example.com".to_owned()))
        );
        for text in [
            "",
            "*",
            "*.",
            "a.*.com",
            "*a.com",
            "*.*.com",
            "a:80",
            "http://a",
            "a/b",
            "bücher.de",
            "[10.0.0.1]",
            "a b",
            ".a",
        ] {
            assert!(host_pattern(text).is_err(), "{text}");
        }
        let help = host_pattern("bücher.de").unwrap_err().help.unwrap();
        assert!(help.contains("xn--"));
    }

    #[test]
    fn an_authority_may_have_a_port() {
        for text in ["internal", "internal:8080", "10.0.0.1:80", "[::1]", "[::1]:80"] {
            assert_eq!(authority(text).unwrap(), text);
        }
        for text in ["", "a b", "::1", "a:x", "*.a", "a:80:90", "[10.0.0.1]:80"] {
            assert!(authority(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_bare_address_is_a_network_of_one() {
        for (text, shown) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("::1", "::1/128"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), shown);
        }
        for text in ["", "10.0.0.0/33", "10.0.0/8", "example.com"] {
            assert!(network(text).is_err(), "{text}");
        }
    }
}
