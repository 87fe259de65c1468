//! Lints of cookies that the configuration has on answers that are cached.

use http::header::SET_COOKIE;

use super::fields;
use super::route;
use super::site::Site;
use super::table::SET_COOKIE as COOKIES;
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{self, Front, Section, SetCookie};

/// Cookies of our own on answers that are meant to be cached.
pub(super) fn sticky(site: &Site<'_>, route: &model::Route, front: Front) -> Option<Diagnostic> {
    if !route::is_meant_to_be_stored(route) {
        return None;
    }
    let pool = route::pools(site, route).into_iter().find(|pool| pool.sticky.is_some())?;
    let cookie = &pool.sticky.as_ref()?.cookie;
    let message = format!(
        "route.{}: its answers are cached, and those to new clients set the cookie {cookie} of \
         pool.{}: {}",
        route.name,
        pool.name,
        fields::of_cookies(front)
    );
    let key = if route.front_cache.is_some() { "front_cache" } else { "cache.ttl" };
    let place = site.place(Section::Route, &route.name, key);
    let mut found = COOKIES.at(
        place,
        message,
        "lead what is cached to a pool without `sticky`, or leave its lifetime out",
    );
    if let Some(there) = site.place(Section::Pool, &pool.name, "sticky") {
        found = found.note(there, "the cookie is set here");
    }
    Some(found)
}

/// Cookies of the origin that our cache keeps and gives to everybody.
pub(super) fn stored(site: &Site<'_>, route: &model::Route, front: Front) -> Option<Diagnostic> {
    let rules = route.cache.as_ref()?;
    if rules.set_cookie != SetCookie::Store || route.response_headers.remove.contains(&SET_COOKIE) {
        return None;
    }
    let message = format!(
        "route.{}: its answers are stored with their cookies: {}",
        route.name,
        fields::of_cookies(front)
    );
    let help = "write set_cookie = \"strip\", and response_headers.remove = [\"set-cookie\"], so that \
                the first answer has none either";
    Some(COOKIES.at(site.place(Section::Route, &route.name, "cache.set_cookie"), message, help))
}
