//! Lints of a listener: how long it keeps connections, whom it sends to https, whom it believes.

use std::net::IpAddr;
use std::time::Duration;

use super::site::Site;
use super::table::{IDLE, RANGES_AGE, RANGES_FILE, REDIRECT_LOOP};
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{self, BindAddress, Front, Section};
use crate::front::ranges;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A list as old as this has likely missed a change.
const RANGES_OLD: Duration = DAY.saturating_mul(90);

pub(super) fn lints(site: &Site<'_>, spec: &model::Listener) -> Vec<Diagnostic> {
    let all = [
        idle(site, spec),
        redirect_loop(site, spec),
        ranges_file(site, spec),
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

fn ranges_file(site: &Site<'_>, spec: &model::Listener) -> Option<Diagnostic> {
    let trouble = site.compiled(spec)?.trusted.trouble.as_ref()?;
    let message = format!("listener.{}: {trouble}", spec.name);
    let place = site.place(Section::Listener, &spec.name, "trusted_from");
    Some(RANGES_FILE.at(place, message, "write one network a line; # begins a comment"))
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
    let help = match spec.front {
        Front::Cloudflare => {
            "fetch https://www.cloudflare.com/ips-v4 and ips-v6 into one file by a timer, and name \
             it: trusted_from = \"cloudflare.txt\""
        }
        _ => "have a timer fetch the list anew into the file of `trusted_from`",
    };
    let key = if spec.trusted_from.is_some() { "trusted_from" } else { "front" };
    Some(RANGES_AGE.at(site.place(Section::Listener, &spec.name, key), message, help))
}
