//! Pages of the operator in place of ours, for the errors of a route.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use crate::config::model::{self, StatusSet};
use crate::files;

#[derive(Debug)]
pub struct ErrorPages(Vec<(StatusSet, Page)>);

/// One page.
#[derive(Debug)]
pub struct Page {
    pub content_type: HeaderValue,
    pub body: Bytes,
    pub is_json: bool,
}

impl ErrorPages {
    pub(super) fn new(spec: &model::Route) -> Self {
        let page = |page: &model::ErrorPage| {
            let content_type = files::content_type(&page.file.path);
            let is_json = content_type.contains("json");
            let content_type = HeaderValue::from_static(content_type);
            let body = Bytes::copy_from_slice(&page.file.bytes);
            (page.statuses.clone(), Page { content_type, body, is_json })
        };
        Self(spec.errors.iter().map(page).collect())
    }

    /// The page for a status.
    pub fn of(&self, status: StatusCode) -> Option<&Page> {
        self.0.iter().find(|(statuses, _)| statuses.contains(status)).map(|(_, page)| page)
    }
}
