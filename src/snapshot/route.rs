//! A route with what its names stand for.

use std::collections::HashMap;
use std::sync::Arc;

use super::backend::Backend;
use super::stats::RouteStats;
use crate::cache::key_spec::KeySpec;
use crate::config::diagnostics::Diagnostic;
use crate::config::model::{self, Name};
use crate::route::conditions;
use crate::route::table::Tie;

#[derive(Debug)]
pub struct Route {
    pub spec: model::Route,
    pub action: Action,
    /// How the cache's keys are made.
    pub key: KeySpec,
    pub stats: Arc<RouteStats>,
}

#[derive(Debug)]
pub enum Action {
    Forward(Arc<Backend>),
    Redirect(model::Redirect),
    Respond(model::Respond),
}

impl Route {
    /// `None` if its pool could not be built.
    pub(super) fn new(
        spec: &model::Route,
        backends: &HashMap<Name, Arc<Backend>>,
        stats: RouteStats,
    ) -> Option<Self> {
        let action = match &spec.action {
            model::Action::Pool(name) => Action::Forward(backends.get(name)?.clone()),
            model::Action::Redirect(redirect) => Action::Redirect(redirect.clone()),
            model::Action::Respond(respond) => Action::Respond(respond.clone()),
        };
        let rules = spec.cache.as_ref().map(|cache| cache.key.clone()).unwrap_or_default();
        let key = KeySpec::new(&rules, conditions::describe(spec));
        Some(Self { spec: spec.clone(), action, key, stats: Arc::new(stats) })
    }
}

pub(super) fn describe_tie(config: &model::Config, tie: &Tie) -> Diagnostic {
    let (a, b) = (&config.routes[tie.a], &config.routes[tie.b]);
    Diagnostic::error(
        b.span.0,
        format!("routes `{}` and `{}` match the same requests: {}", a.name, b.name, tie.reason),
    )
    .note(a.span.0, format!("route `{}` is here", a.name))
    .help("give one of them a `priority`, or a condition that tells them apart")
}
