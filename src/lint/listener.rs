//! Lints of a listener: how long it keeps connections, whom it sends to https, whom it believes.

use std::net::IpAddr;
use std::time::Duration;

use super::site::Site;
use super::table::{IDLE, RANGES_AGE, RANGES_SOURCE, REDIRECT_LOOP};
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{self, BindAddress, Front, RangesSource, Section};
use crate::front::ranges;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A list as old as this has likely missed a change.
const RANGES_OLD: Duration = DAY.saturating_mul(90);

pub(super) fn lints(site: &Site<'_>, spec: &model::Listener) -> Vec<Diagnostic> {
    let all = [
        idle(site, spec),
        redirect_loop(site, spec),
        ranges_source(site, spec),
        ranges_age(site, spec),
    ];
    all.into_iter().flatten().collect()
}

fn idle(site: &Site<'_>, spec: &model::Listener) -> Option<Diagnostic> {
    let front = site.fronted(spec).front;
    let kept = front.keepalive_secs()?;
    let idle = spec.timeouts.idle;
    if idle > Duration::from_secs(kept) {
        return None;
    }
    let limit = match front {
        // As the distribution has it.
        Front::CloudFront => "up to ",
        _ => "",
    };
    let message = format!(
        "listener.{}: idle connections are closed after {} s, and {} keeps them {limit}{kept} s: \
         it would send requests into closed ones",
        spec.name,
        idle.as_secs_f64(),
        front.title()
    );
    let help = match spec.front {
        Front::None => format!("write front = \"{}\"", front.as_str()),
        named => format!(
            "leave it out: behind {} the default is {} s",
            named.title(),
            named.idle_default_secs()
        ),
    };
    Some(IDLE.at(site.place(Section::Listener, &spec.name, "timeouts.idle"), message, help))
}

/// A plain listener beside one that is behind Cloudflare gets the requests of a zone in mode
/// Flexible, and does not believe what they say of their scheme.
fn redirect_loop(site: &Site<'_>, spec: &model::Listener) -> Option<Diagnostic> {
    spec.https_redirect?;
    if site.fronted(spec).front != Front::None || !is_reachable(spec) || believes(site, spec) {
        return None;
    }
    let behind =
        site.config.listeners.iter().find(|it| site.fronted(it).front == Front::Cloudflare)?;
    let message = format!(
        "listener.{}: Cloudflare, which is in front of listener.{}, is sent to https here again \
         and again where the zone is in mode Flexible: its X-Forwarded-Proto is not believed",
        spec.name, behind.name
    );
    let place = site.place(Section::Listener, &spec.name, "https_redirect");
    let help = format!("write front = \"cloudflare\" in [listener.{}], too", spec.name);
    Some(REDIRECT_LOOP.at(place, message, help))
}

/// Whether somebody from outside of this machine can come.
fn is_reachable(spec: &model::Listener) -> bool {
    spec.bind.iter().any(|bind| match &bind.value {
        BindAddress::Tcp(address) => !address.ip().is_loopback(),
        BindAddress::Unix(_) => false,
    })
}

fn believes(site: &Site<'_>, spec: &model::Listener) -> bool {
    let some: Option<IpAddr> =
        ranges::built_in(Front::Cloudflare).first().map(|network| network.addr());
    let trusted = site.compiled(spec).map(|listener| &listener.trusted);
    trusted.zip(some).is_some_and(|(trusted, address)| trusted.contains(address))
}

fn ranges_source(site: &Site<'_>, spec: &model::Listener) -> Option<Diagnostic> {
    let trouble = site.compiled(spec)?.trusted.trouble()?;
    let message = format!("listener.{}: {trouble}", spec.name);
    let place = site.place(Section::Listener, &spec.name, "trusted_from");
    let help = match spec.trusted_from {
        Some(RangesSource::Url(_)) => "name another list, or the networks in `trusted`",
        _ => "write one network a line; # begins a comment",
    };
    Some(RANGES_SOURCE.at(place, message, help))
}

fn ranges_age(site: &Site<'_>, spec: &model::Listener) -> Option<Diagnostic> {
    let age = site.compiled(spec)?.trusted.age(spec, site.now)?;
    if age <= RANGES_OLD {
        return None;
    }
    let whose = match spec.front {
        Front::None => String::new(),
        front => format!(" of {}", front.title()),
    };
    let message = format!(
        "listener.{}: the addresses{whose} are {} days old: a new one would not be believed, and \
         its visitors would count as one client",
        spec.name,
        age.as_secs() / DAY.as_secs()
    );
    let help = match (&spec.trusted_from, spec.front) {
        (Some(RangesSource::Url(_)), _) => "see in the log why it cannot be fetched",
        (_, Front::Cloudflare) => {
            "have the list fetched: trusted_from = \"https://api.cloudflare.com/client/v4/ips\""
        }
        _ => "have it fetched, trusted_from = \"https://…\", or write the file anew by a timer",
    };
    let key = if spec.trusted_from.is_some() { "trusted_from" } else { "front" };
    Some(RANGES_AGE.at(site.place(Section::Listener, &spec.name, key), message, help))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{said, said_in};
    use super::*;

    fn listener(lines: &str) -> String {
        format!("[listener.web]\nbind = \"0.0.0.0:8080\"\n{lines}")
    }

    fn idle_of(lines: &str) -> Vec<String> {
        let found = said(&listener(lines));
        assert!(found.iter().all(|(lint, _)| *lint == "idle-timeout"), "{found:?}");
        found.into_iter().map(|(_, at)| at).collect()
    }

    #[test]
    fn idle_connections_outlive_those_of_the_front() {
        let trusted = "trusted = [\"10.0.0.0/8\"]";
        for (front, kept, longer) in [
            ("cloudflare", 900, 901),
            ("gclb", 600, 601),
            ("alb", 60, 61),
            ("cloudfront", 120, 121),
        ] {
            let with =
                |idle| format!("front = \"{front}\"\n{trusted}\ntimeouts.idle = \"{idle}s\"");
            assert_eq!(idle_of(&with(kept)), [format!("\"{kept}s\"")], "{front}");
            assert!(idle_of(&with(longer)).is_empty(), "{front}");
            assert!(idle_of(&format!("front = \"{front}\"\n{trusted}")).is_empty(), "{front}");
        }
        assert!(idle_of("timeouts.idle = \"1s\"").is_empty());
        assert!(idle_of(&format!("{trusted}\ntimeouts.idle = \"1s\"")).is_empty());
    }

    #[test]
    fn who_believes_cloudflare_is_behind_it_whatever_front_says() {
        let theirs = ranges::built_in(Front::Cloudflare);
        let list: Vec<_> = theirs.iter().map(|network| format!("\"{network}\"")).collect();
        let trusted = format!("trusted = [{}]", list.join(", "));
        // The key is not written: the listener is what is pointed at.
        let found = idle_of(&trusted);
        assert!(found.len() == 1 && found[0].starts_with('['), "{found:?}");
        assert!(idle_of(&format!("{trusted}\ntimeouts.idle = \"16m\"")).is_empty());
        let few = format!("trusted = [{}]", list[..2].join(", "));
        assert!(idle_of(&few).is_empty());
    }

    /// A listener of https behind Cloudflare, here plain for the sake of the test, and one that
    /// sends visitors there.
    fn with_plain(lines: &str) -> Vec<(&'static str, String)> {
        let plain = format!("[listener.plain]\nhttps_redirect = true\n{lines}\n");
        said(&format!("{}\n{plain}", listener("front = \"cloudflare\"")))
    }

    #[test]
    fn a_plain_listener_beside_one_of_cloudflare_believes_its_scheme() {
        let outside = "bind = \"0.0.0.0:80\"";
        assert_eq!(with_plain(outside), [("redirect-loop", "true".to_owned())]);
        assert_eq!(with_plain(&format!("{outside}\ntrusted = [\"10.0.0.0/8\"]")).len(), 1);
        for lines in [
            "bind = \"127.0.0.1:80\"",
            "bind = \"unix:plain.sock\"",
            "bind = \"0.0.0.0:80\"\nfront = \"cloudflare\"",
            "bind = \"0.0.0.0:80\"\ntrusted = [\"0.0.0.0/0\"]",
            "bind = \"0.0.0.0:80\"\nfront = \"alb\"\ntrusted = [\"10.0.0.0/8\"]",
        ] {
            assert_eq!(with_plain(lines), [], "{lines}");
        }
        // Nobody is in front.
        assert_eq!(said(&listener("https_redirect = true")), []);
    }

    #[test]
    fn lists_of_addresses_get_old() {
        let built_in = listener("front = \"cloudflare\"");
        let quarter = RANGES_OLD + Duration::from_secs(1);
        assert_eq!(said_in(&built_in, &[], Duration::ZERO), []);
        // The list of this release may be older than the release.
        let found = said_in(&built_in, &[], quarter);
        assert_eq!(found, [("ranges-age", "\"cloudflare\"".to_owned())]);
        assert_eq!(said_in(&listener("front = \"gclb\""), &[], quarter), []);
        assert_eq!(said_in(&listener("trusted = [\"10.0.0.0/8\"]"), &[], quarter), []);
    }

    #[test]
    fn a_list_that_cannot_be_used_is_named() {
        let named = listener("front = \"cloudflare\"\ntrusted_from = \"list.txt\"");
        let found = said_in(&named, &[("list.txt", "<html>")], Duration::ZERO);
        assert_eq!(found, [("ranges-source", "\"list.txt\"".to_owned())]);
        assert_eq!(said_in(&named, &[("list.txt", "192.0.2.0/24")], Duration::ZERO), []);
    }
}
