//! A folder that answers as an origin, in place of endpoints.
//!
//! It answers GET and HEAD with files: validators, preconditions, ranges, `index.html`, redirects
//! to a folder's slash, compressed siblings. What touches the disk runs on the threads of one
//! process-wide [`Reader`], usually as a single job per request. Deliberately absent: lists of
//! folders, writing, compression (only siblings that lie ready are used), and error pages: a
//! status without a body leaves them to the proxy.

mod body;
mod conditional;
mod content_type;
mod encoding;
mod navigation;
mod reader;
mod representation;
mod resolve;
mod tags;
#[cfg(test)]
mod testing;
mod version;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};

use self::body::Content;
use self::conditional::{Preconditions, Validators, Verdict};
pub use self::reader::Reader;
use self::representation::Representation;
use self::resolve::{Located, Miss, Root, Wanted};
use self::tags::Tags;
use crate::body::Body;
use crate::compress::negotiate::Accepted;
use crate::config::model::{FileCacheControl, FilesOrigin};
use crate::error::{Error, Kind, is_ours};
use crate::range::{Multipart, Piece, Ranges, Selection, Span};
pub use content_type::of as content_type;

/// One `files` pool.
#[derive(Debug)]
pub struct Folder {
    reader: Arc<Reader>,
    site: Arc<Site>,
}

/// What the jobs of all requests share.
#[derive(Debug)]
struct Site {
    root: PathBuf,
    fallback: Option<Wanted>,
    cache_control: FileCacheControl,
    tags: Arc<Tags>,
}

/// What a request demands of the file that its path leads to.
struct Terms {
    is_head: bool,
    accepted: Accepted,
    preconditions: Preconditions,
    ranges: Option<Ranges>,
    /// The path may be one that the application routes in the browser.
    may_navigate: bool,
    /// And a browser goes there: the fallback answers where there is no file.
    is_navigation: bool,
}

/// The file that answers a request.
struct Found {
    representation: Representation,
    cache_control: Option<HeaderValue>,
    is_fallback: bool,
}

/// What one job found.
enum Answer {
    Response(Response<Content>),
    /// A folder that was asked for without its slash.
    SlashMissing,
}

impl Folder {
    /// Opens nothing: a root that is missing now may be mounted later.
    pub fn new(origin: &FilesOrigin, reader: Arc<Reader>) -> Self {
        let site = Site {
            root: origin.root.clone(),
            fallback: origin.fallback.as_deref().map(Wanted::file),
            cache_control: origin.cache_control.clone(),
            tags: reader.tags.clone(),
        };
        Self { reader, site: Arc::new(site) }
    }

    /// Answers one request. `path` is in normal form and begins with a slash; `query` has no `?`.
    ///
    /// A path that is hidden, outside the root or no regular file is 404 like one that does not
    /// exist, but never answered by the fallback; what the operating system denies is 403. Error
    /// statuses have no body.
    ///
    /// # Errors
    /// [`Kind::Exhausted`] when we have no descriptor left, [`Kind::Internal`] when the root is missing or the disk fails, [`Kind::Truncated`] when the
    /// file changes while it is read. The body of the response fails in the same ways.
    pub async fn respond(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, Error> {
        if *method != Method::GET && *method != Method::HEAD {
            return Ok(method_not_allowed());
        }
        let wanted = Wanted::parse(path);
        let terms = Terms::new(method, path, headers);
        let site = Arc::clone(&self.site);
        match self.reader.run(move || site.answer(wanted, &terms)).await?? {
            Answer::Response(response) => {
                Ok(response.map(|content| content.into_body(&self.reader)))
            }
            Answer::SlashMissing => redirect_to_slash(path, query),
        }
    }
}

impl Terms {
    fn new(method: &Method, path: &str, headers: &HeaderMap) -> Self {
        let is_head = *method == Method::HEAD;
        let may_navigate = !navigation::has_extension(path);
        Self {
            is_head,
            accepted: Accepted::of(headers),
            preconditions: Preconditions::from_headers(headers),
            // RFC 9110 §14.2: GET is the only method with ranges.
            ranges: if is_head { None } else { Ranges::from_headers(headers) },
            may_navigate,
            is_navigation: may_navigate && navigation::takes_html(headers),
        }
    }
}

impl Site {
    /// All of a request that touches the disk, except the rest of a long body. Blocks.
    fn answer(&self, wanted: Result<Wanted, Miss>, terms: &Terms) -> Result<Answer, Error> {
        let response = match self.find(wanted, terms) {
            Ok(Some(found)) => self.represent(found, terms)?,
            Ok(None) => return Ok(Answer::SlashMissing),
            Err(Miss::Absent) => self.absent(terms),
            Err(Miss::Refused) => empty(StatusCode::NOT_FOUND),
            Err(Miss::Forbidden) => empty(StatusCode::FORBIDDEN),
            Err(Miss::Failed(error)) => {
                let kind = if is_ours(&error) { Kind::Exhausted } else { Kind::Internal };
                return Err(Error::caused(kind, error));
            }
        };
        Ok(Answer::Response(response))
    }

    /// The file that answers, the fallback included; `None` for a folder without its slash.
    fn find(&self, wanted: Result<Wanted, Miss>, terms: &Terms) -> Result<Option<Found>, Miss> {
        let root = Root::open(&self.root).map_err(Miss::Failed)?;
        let mut is_fallback = false;
        let located = match (wanted.and_then(|wanted| root.locate(&wanted)), &self.fallback) {
            (Err(Miss::Absent), Some(fallback)) if terms.is_navigation => {
                is_fallback = true;
                match root.locate(fallback)? {
                    Located::Folder => Err(Miss::Absent),
                    file @ Located::File { .. } => Ok(file),
                }
            }
            (located, _) => located,
        };
        let Located::File { entry, names } = located? else { return Ok(None) };
        // Parts of a compressed form are of no use to a client that holds parts of the plain one.
        let accepted = terms.ranges.is_none().then_some(&terms.accepted);
        let representation = Representation::choose(&root, &entry, &names, accepted)?;
        let name = Path::new("/").join(&names);
        let cache_control = self.cache_control.of(name.as_os_str().as_bytes()).cloned();
        Ok(Some(Found { representation, cache_control, is_fallback }))
    }

    /// A bare 404. Where a fallback might have answered, another client gets that.
    fn absent(&self, terms: &Terms) -> Response<Content> {
        let mut response = empty(StatusCode::NOT_FOUND);
        if self.fallback.is_some() && terms.may_navigate {
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
        }
        response
    }

    /// The response for a file that exists, in the order of RFC 9110 §13.2.2. Blocks.
    fn represent(&self, found: Found, terms: &Terms) -> Result<Response<Content>, Error> {
        let now = SystemTime::now();
        let Representation { source, coding, .. } = &found.representation;
        let validators = source.validators(&self.tags, *coding, now)?;
        let verdict = terms.preconditions.evaluate(&validators);
        if verdict == Verdict::Failed {
            return Ok(empty(StatusCode::PRECONDITION_FAILED));
        }
        let mut headers = found.headers(&validators)?;
        if verdict == Verdict::NotModified {
            return Ok(with_headers(StatusCode::NOT_MODIFIED, headers, Content::EMPTY));
        }

        let Representation { source, coding, content_type, .. } = found.representation;
        let size = source.bytes();
        let preconditions = &terms.preconditions;
        let ranges = terms.ranges.as_ref().filter(|_| preconditions.allow_range(&validators, now));
        let selection = ranges.map_or(Selection::Whole, |ranges| ranges.select(size));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(coding) = coding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
        }
        let (status, pieces) = match selection {
            Selection::Unsatisfiable => return unsatisfiable(size),
            Selection::Whole => {
                (StatusCode::OK, Span::whole(size).map(Piece::Span).into_iter().collect())
            }
            Selection::Spans(spans) => {
                (StatusCode::PARTIAL_CONTENT, partial(&spans, size, content_type, &mut headers)?)
            }
        };
        let bytes: u64 = pieces.iter().map(Piece::bytes).sum();
        headers.insert(header::CONTENT_LENGTH, bytes.into());
        let content =
            if terms.is_head { Content::EMPTY } else { Content::read(source, pieces, bytes)? };
        Ok(with_headers(status, headers, content))
    }
}

impl Found {
    /// The fields of 200, 206 and 304 alike.
    fn headers(&self, validators: &Validators) -> Result<HeaderMap, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ETAG, validators.etag.clone());
        if let Some(modified) = validators.modified {
            headers.insert(header::LAST_MODIFIED, value(httpdate::fmt_http_date(modified))?);
        }
        let vary = match (self.is_fallback, self.representation.varies) {
            (true, true) => Some("accept, accept-encoding"),
            (true, false) => Some("accept"),
            (false, true) => Some("accept-encoding"),
            (false, false) => None,
        };
        if let Some(vary) = vary {
            headers.insert(header::VARY, HeaderValue::from_static(vary));
        }
        if let Some(cache_control) = &self.cache_control {
            headers.insert(header::CACHE_CONTROL, cache_control.clone());
        }
        Ok(headers)
    }
}

/// The pieces of a 206, and the fields that say which they are.
fn partial(
    spans: &[Span],
    size: u64,
    content_type: &str,
    headers: &mut HeaderMap,
) -> Result<Vec<Piece>, Error> {
    if let [span] = spans {
        headers.insert(header::CONTENT_RANGE, value(span.content_range(size))?);
        return Ok(vec![Piece::Span(*span)]);
    }
    let multipart = Multipart::new(spans, Some(content_type.as_bytes()), size);
    headers.insert(header::CONTENT_TYPE, value(multipart.content_type)?);
    Ok(multipart.pieces)
}

fn unsatisfiable(size: u64) -> Result<Response<Content>, Error> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_RANGE, value(Span::unsatisfied(size))?);
    Ok(with_headers(StatusCode::RANGE_NOT_SATISFIABLE, headers, Content::EMPTY))
}

/// A reference relative to the request's own path, since a route may have rewritten the one that
/// we see. `./` keeps a colon from making a scheme of the name, and the whole from naming a host.
fn redirect_to_slash(path: &str, query: Option<&str>) -> Result<Response<Body>, Error> {
    let name = path.rsplit('/').next().unwrap_or_default();
    let location = match query {
        None => format!("./{name}/"),
        Some(query) => format!("./{name}/?{query}"),
    };
    let headers = HeaderMap::from_iter([(header::LOCATION, value(location)?)]);
    Ok(with_headers(StatusCode::PERMANENT_REDIRECT, headers, Body::Empty))
}

fn method_not_allowed() -> Response<Body> {
    let headers = HeaderMap::from_iter([(header::ALLOW, HeaderValue::from_static("GET, HEAD"))]);
    with_headers(StatusCode::METHOD_NOT_ALLOWED, headers, Body::Empty)
}

fn empty(status: StatusCode) -> Response<Content> {
    with_headers(status, HeaderMap::new(), Content::EMPTY)
}

fn with_headers<B>(status: StatusCode, headers: HeaderMap, body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn value(text: String) -> Result<HeaderValue, Error> {
    HeaderValue::try_from(text).map_err(|error| Error::caused(Kind::Internal, error))
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};
    use std::time::{Duration, UNIX_EPOCH};

    use http::HeaderName;

    use super::testing::{TempDir, collect, next, pattern};
    use super::*;
    use crate::config::model::FilePattern;

    /// 2025-01-01 12:00:00 UTC.
    const MODIFIED: &str = "Wed, 01 Jan 2025 12:00:00 GMT";
    /// Of the digest of the bytes.
    const ETAG: &str = "\"hNiYd_DUBB77a_kaFvAkjw\"";

    type Fields<'a> = &'a [(HeaderName, &'a str)];

    struct Fixture {
        dir: TempDir,
        folder: Folder,
    }

    impl Fixture {
        /// With `digits.txt` in it: ten bytes, of a known version.
        fn new() -> Self {
            Self::with(None)
        }

        fn with(fallback: Option<&str>) -> Self {
            let dir = TempDir::new();
            let modified = UNIX_EPOCH + Duration::from_secs(1_735_732_800);
            dir.write_at("digits.txt", "0123456789", modified);
            let origin = FilesOrigin {
                root: dir.path().to_owned(),
                fallback: fallback.map(str::to_owned),
                cache_control: FileCacheControl(vec![(
                    FilePattern::Any,
                    HeaderValue::from_static("max-age=60"),
                )]),
            };
            let reader = Reader::start(2, 16).expect("starts");
            Self { folder: Folder::new(&origin, reader), dir }
        }

        async fn request(&self, method: Method, target: &str, fields: Fields<'_>) -> Answered {
            let (path, query) = match target.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (target, None),
            };
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(name, HeaderValue::from_str(value).expect("is a value"));
            }
            let response = self.folder.respond(&method, path, query, &headers).await;
            let (head, body) = response.expect("answers").into_parts();
            let body = collect(body).await.expect("reads");
            Answered { status: head.status, headers: head.headers, body }
        }

        async fn get(&self, target: &str, fields: Fields<'_>) -> Answered {
            self.request(Method::GET, target, fields).await
        }
    }

    struct Answered {
        status: StatusCode,
        headers: HeaderMap,
        body: Vec<u8>,
    }

    impl Answered {
        fn field(&self, name: HeaderName) -> Option<&str> {
            self.headers.get(name).map(|value| value.to_str().expect("is text"))
        }

        fn text(&self) -> &str {
            std::str::from_utf8(&self.body).expect("is text")
        }
    }

    #[tokio::test]
    async fn a_file_comes_with_all_that_describes_it() {
        let answered = Fixture::new().get("/digits.txt", &[]).await;
        assert_eq!(answered.status, StatusCode::OK);
        assert_eq!(answered.text(), "0123456789");
        for (name, expected) in [
            (header::CONTENT_LENGTH, Some("10")),
            (header::CONTENT_TYPE, Some("text/plain; charset=utf-8")),
            (header::ETAG, Some(ETAG)),
            (header::LAST_MODIFIED, None),
            (header::ACCEPT_RANGES, Some("bytes")),
            (header::CACHE_CONTROL, Some("max-age=60")),
            (header::CONTENT_ENCODING, None),
            (header::VARY, None),
        ] {
            assert_eq!(answered.field(name.clone()), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn head_has_the_fields_of_get_and_no_body() {
        let site = Fixture::new();
        site.dir.write("long.bin", pattern(300_000));
        for path in ["/digits.txt", "/long.bin", "/absent"] {
            let get = site.get(path, &[]).await;
            let head = site.request(Method::HEAD, path, &[]).await;
            assert_eq!((head.status, &head.headers), (get.status, &get.headers), "{path}");
            assert!(head.body.is_empty());
        }
    }

    #[tokio::test]
    async fn a_range_means_nothing_to_head() {
        let site = Fixture::new();
        let head = site.request(Method::HEAD, "/digits.txt", &[(header::RANGE, "bytes=0-1")]).await;
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.field(header::CONTENT_LENGTH), Some("10"));
    }

    #[tokio::test]
    async fn other_methods_are_told_which_are_allowed() {
        let site = Fixture::new();
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let answered = site.request(method, "/digits.txt", &[]).await;
            assert_eq!(answered.status, StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(answered.field(header::ALLOW), Some("GET, HEAD"));
        }
    }

    #[tokio::test]
    async fn what_is_not_there_is_a_bare_404() {
        let site = Fixture::new();
        for path in ["/absent", "/digits.txt/", "/.env", "/%2e%2e/etc/passwd", "/..%2f", "//"] {
            let answered = site.get(path, &[]).await;
            assert_eq!(answered.status, StatusCode::NOT_FOUND, "{path}");
            assert!(answered.body.is_empty() && answered.headers.is_empty(), "{path}");
        }
    }

    #[tokio::test]
    async fn a_folder_without_its_slash_redirects_to_it_with_the_query() {
        let site = Fixture::new();
        site.dir.write("a/b c/index.html", "here");
        site.dir.write("x:y/index.html", "here");
        for (target, location) in [
            ("/a", "./a/"),
            ("/a/b%20c?q=1&r=/", "./b%20c/?q=1&r=/"),
            ("/a/b%20c?", "./b%20c/?"),
            ("/x:y", "./x:y/"),
        ] {
            let answered = site.get(target, &[]).await;
            assert_eq!(answered.status, StatusCode::PERMANENT_REDIRECT, "{target}");
            assert_eq!(answered.field(header::LOCATION), Some(location), "{target}");
            assert_eq!(answered.field(header::CACHE_CONTROL), None);
        }
        assert_eq!(site.get("/a/b%20c/", &[]).await.text(), "here");
    }

    #[tokio::test]
    async fn no_redirect_names_another_host() {
        let site = Fixture::new();
        site.dir.write("evil.example/index.html", "here");
        let answered = site.get("//evil.example", &[]).await;
        assert_eq!(answered.status, StatusCode::NOT_FOUND);
        assert_eq!(answered.field(header::LOCATION), None);
    }

    #[tokio::test]
    async fn the_fallback_answers_for_what_is_absent_but_not_for_what_is_refused() {
        let site = Fixture::with(Some("/app/index.html"));
        site.dir.write("app/index.html", "app");
        site.dir.write(".env", "secret");
        std::os::unix::fs::symlink("/etc/passwd", site.dir.path().join("out")).expect("links");
        let page = [(header::ACCEPT, "text/html,application/xhtml+xml,*/*;q=0.8")];
        for path in ["/absent", "/users/7", "/digits.txt/", "/empty/", "/", "/v1.2"] {
            let answered = site.get(path, &page).await;
            assert_eq!((answered.status, answered.text()), (StatusCode::OK, "app"), "{path}");
            assert_eq!(answered.field(header::CONTENT_TYPE), Some("text/html; charset=utf-8"));
            assert_eq!(answered.field(header::VARY), Some("accept"));
        }
        for path in ["/.env", "/.absent", "/out", "/%2e%2e/x"] {
            assert_eq!(site.get(path, &page).await.status, StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[tokio::test]
    async fn the_fallback_answers_navigations_alone() {
        let site = Fixture::with(Some("/index.html"));
        site.dir.write("index.html", "app");
        for (path, accept, vary) in [
            ("/assets/app.1a2b.js", "text/html", None),
            ("/logo.png", "text/html,*/*", None),
            ("/api/users", "application/json", Some("accept")),
            ("/api/users", "*/*", Some("accept")),
            ("/api/users", "text/html;q=0, */*", Some("accept")),
        ] {
            let answered = site.get(path, &[(header::ACCEPT, accept)]).await;
            assert_eq!(answered.status, StatusCode::NOT_FOUND, "{path} {accept}");
            assert_eq!(answered.field(header::VARY), vary, "{path} {accept}");
        }
    }

    #[tokio::test]
    async fn well_known_files_are_served_and_other_hidden_ones_are_not() {
        let site = Fixture::new();
        for name in [".well-known/security.txt", ".well-known/.env", "a/.well-known/x", ".git/x"] {
            site.dir.write(name, "text");
        }
        for (path, status) in [
            ("/.well-known/security.txt", StatusCode::OK),
            ("/.well-known/.env", StatusCode::NOT_FOUND),
            ("/a/.well-known/x", StatusCode::NOT_FOUND),
            ("/.git/x", StatusCode::NOT_FOUND),
            ("/.well-known", StatusCode::PERMANENT_REDIRECT),
        ] {
            assert_eq!(site.get(path, &[]).await.status, status, "{path}");
        }
    }

    #[tokio::test]
    async fn a_fallback_that_is_missing_or_a_folder_leaves_a_404() {
        for fallback in ["/absent.html", "/folder", "/", "/.."] {
            let site = Fixture::with(Some(fallback));
            site.dir.write("folder/index.html", "here");
            assert_eq!(site.get("/x", &[]).await.status, StatusCode::NOT_FOUND, "{fallback}");
        }
    }

    #[tokio::test]
    async fn one_range_is_a_206_that_says_which() {
        let site = Fixture::new();
        for (range, content_range, text) in [
            ("bytes=0-0", "bytes 0-0/10", "0"),
            ("bytes=9-", "bytes 9-9/10", "9"),
            ("bytes=-3", "bytes 7-9/10", "789"),
            ("bytes=-99", "bytes 0-9/10", "0123456789"),
            ("bytes=1-2,2-4", "bytes 1-4/10", "1234"),
        ] {
            let answered = site.get("/digits.txt", &[(header::RANGE, range)]).await;
            assert_eq!(answered.status, StatusCode::PARTIAL_CONTENT, "{range}");
            assert_eq!(answered.field(header::CONTENT_RANGE), Some(content_range), "{range}");
            let length = text.len().to_string();
            assert_eq!(answered.field(header::CONTENT_LENGTH), Some(length.as_str()), "{range}");
            assert_eq!(answered.text(), text, "{range}");
            assert_eq!(answered.field(header::ETAG), Some(ETAG));
            assert_eq!(answered.field(header::CACHE_CONTROL), Some("max-age=60"));
        }
    }

    #[tokio::test]
    async fn a_range_beyond_the_file_is_a_416_that_says_the_length() {
        let site = Fixture::new();
        site.dir.write("empty.txt", "");
        for (path, content_range) in [("/digits.txt", "bytes */10"), ("/empty.txt", "bytes */0")] {
            let answered = site.get(path, &[(header::RANGE, "bytes=10-")]).await;
            assert_eq!(answered.status, StatusCode::RANGE_NOT_SATISFIABLE);
            assert_eq!(answered.field(header::CONTENT_RANGE), Some(content_range));
            assert!(answered.body.is_empty());
        }
    }

    #[tokio::test]
    async fn an_empty_file_is_a_200_of_length_zero() {
        let site = Fixture::new();
        site.dir.write("empty.txt", "");
        for fields in [&[][..], &[(header::RANGE, "bytes=-5")]] {
            let answered = site.get("/empty.txt", fields).await;
            assert_eq!(answered.status, StatusCode::OK);
            assert_eq!(answered.field(header::CONTENT_LENGTH), Some("0"));
            assert!(answered.body.is_empty());
        }
    }

    #[tokio::test]
    async fn ranges_apart_are_a_multipart_of_the_announced_length() {
        let site = Fixture::new();
        let answered = site.get("/digits.txt", &[(header::RANGE, "bytes=7-8,0-1")]).await;
        assert_eq!(answered.status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(answered.field(header::CONTENT_RANGE), None);
        let length = answered.body.len().to_string();
        assert_eq!(answered.field(header::CONTENT_LENGTH), Some(length.as_str()));
        let content_type = answered.field(header::CONTENT_TYPE).expect("has a type");
        let boundary =
            content_type.strip_prefix("multipart/byteranges; boundary=").expect("is multipart");
        let parts: Vec<_> = answered.text().split(&format!("--{boundary}")).collect();
        let [before, first, second, end] = parts[..] else { unreachable!("{parts:?}") };
        assert_eq!((before, end), ("", "--\r\n"));
        assert!(first.contains("Content-Range: bytes 7-8/10\r\n\r\n78\r\n"));
        assert!(second.contains("Content-Range: bytes 0-1/10\r\n\r\n01\r\n"));
    }

    #[tokio::test]
    async fn a_range_of_a_changed_file_is_the_whole_new_file() {
        let site = Fixture::new();
        for (if_range, status) in [
            (ETAG, StatusCode::PARTIAL_CONTENT),
            ("\"older\"", StatusCode::OK),
            ("Tue, 31 Dec 2024 12:00:00 GMT", StatusCode::OK),
        ] {
            let fields = [(header::RANGE, "bytes=0-1"), (header::IF_RANGE, if_range)];
            let answered = site.get("/digits.txt", &fields).await;
            assert_eq!(answered.status, status, "{if_range}");
        }
    }

    #[tokio::test]
    async fn a_version_that_the_client_holds_is_a_304_with_its_validators() {
        let site = Fixture::new();
        for fields in [
            &[(header::IF_NONE_MATCH, ETAG)][..],
            &[(header::IF_NONE_MATCH, ETAG), (header::RANGE, "bytes=0-1")],
        ] {
            for method in [Method::GET, Method::HEAD] {
                let answered = site.request(method, "/digits.txt", fields).await;
                assert_eq!(answered.status, StatusCode::NOT_MODIFIED, "{fields:?}");
                assert!(answered.body.is_empty());
                assert_eq!(answered.field(header::ETAG), Some(ETAG));
                assert_eq!(answered.field(header::CACHE_CONTROL), Some("max-age=60"));
                assert_eq!(answered.field(header::CONTENT_LENGTH), None);
            }
        }
    }

    #[tokio::test]
    async fn a_time_confirms_only_a_file_that_was_written_at_it() {
        let site = Fixture::new();
        let held = |time| [(header::IF_MODIFIED_SINCE, time)];
        let answered = site.get("/digits.txt", &held(MODIFIED)).await;
        assert_eq!(answered.status, StatusCode::OK, "its time was set");
        assert_eq!(answered.field(header::LAST_MODIFIED), None);

        site.dir.write("new.txt", "here");
        let new = site.get("/new.txt", &[]).await;
        let time = new.field(header::LAST_MODIFIED).expect("has a time");
        let answered = site.get("/new.txt", &held(time)).await;
        assert_eq!(answered.status, StatusCode::NOT_MODIFIED);
        let range = [(header::RANGE, "bytes=0-1"), (header::IF_RANGE, MODIFIED)];
        assert_eq!(site.get("/digits.txt", &range).await.status, StatusCode::OK);
    }

    #[tokio::test]
    async fn a_version_that_the_client_insists_on_and_is_gone_is_a_412() {
        let site = Fixture::new();
        site.dir.write("new.txt", "here");
        for field in [
            (header::IF_MATCH, "\"older\""),
            (header::IF_UNMODIFIED_SINCE, "Tue, 31 Dec 2024 12:00:00 GMT"),
        ] {
            let answered = site.get("/new.txt", &[field]).await;
            assert_eq!(answered.status, StatusCode::PRECONDITION_FAILED);
            assert!(answered.body.is_empty());
        }
    }

    #[tokio::test]
    async fn preconditions_say_nothing_about_what_is_absent() {
        let answered = Fixture::new().get("/absent", &[(header::IF_MATCH, "*")]).await;
        assert_eq!(answered.status, StatusCode::NOT_FOUND);
    }

    #[tokio::test]
    async fn a_compressed_sibling_is_sent_to_whoever_takes_it_and_varies_for_all() {
        let site = Fixture::new();
        site.dir.write("digits.txt.br", "br");
        site.dir.write("digits.txt.gz", "gz!");
        for (accepted, coding, text) in [
            ("gzip, br", Some("br"), "br"),
            ("gzip", Some("gzip"), "gz!"),
            ("identity", None, "0123456789"),
        ] {
            let answered = site.get("/digits.txt", &[(header::ACCEPT_ENCODING, accepted)]).await;
            assert_eq!(answered.field(header::CONTENT_ENCODING), coding, "{accepted}");
            assert_eq!(answered.text(), text, "{accepted}");
            assert_eq!(answered.field(header::VARY), Some("accept-encoding"));
            assert_eq!(answered.field(header::CONTENT_TYPE), Some("text/plain; charset=utf-8"));
            let etag = answered.field(header::ETAG).expect("has a tag");
            assert_eq!(etag == ETAG, coding.is_none(), "{accepted}");

            let held = [(header::ACCEPT_ENCODING, accepted), (header::IF_NONE_MATCH, etag)];
            let answered = site.get("/digits.txt", &held).await;
            assert_eq!(answered.status, StatusCode::NOT_MODIFIED, "{accepted}");
            assert_eq!(answered.field(header::VARY), Some("accept-encoding"));
        }
    }

    #[tokio::test]
    async fn a_range_is_always_of_the_plain_file() {
        let site = Fixture::new();
        site.dir.write("digits.txt.br", "br");
        let fields = [(header::ACCEPT_ENCODING, "br"), (header::RANGE, "bytes=8-")];
        let answered = site.get("/digits.txt", &fields).await;
        assert_eq!((answered.status, answered.text()), (StatusCode::PARTIAL_CONTENT, "89"));
        assert_eq!(answered.field(header::CONTENT_ENCODING), None);
        assert_eq!(answered.field(header::VARY), Some("accept-encoding"));
    }

    #[tokio::test]
    async fn a_long_file_arrives_whole_and_in_part() {
        let site = Fixture::new();
        let content = pattern(1_000_000);
        site.dir.write("long.bin", &content);
        let whole = site.get("/long.bin", &[]).await;
        assert_eq!(whole.field(header::CONTENT_LENGTH), Some("1000000"));
        assert!(whole.body == content);
        let part = site.get("/long.bin", &[(header::RANGE, "bytes=1000-400999")]).await;
        assert_eq!(part.field(header::CONTENT_LENGTH), Some("400000"));
        assert!(part.body == content[1000..401_000]);
    }

    #[tokio::test]
    async fn a_file_that_changes_while_it_is_sent_breaks_off() {
        let site = Fixture::new();
        site.dir.write("long.bin", pattern(1_000_000));
        let headers = HeaderMap::new();
        let response = site.folder.respond(&Method::GET, "/long.bin", None, &headers).await;
        let mut body = response.expect("answers").into_body();
        assert!(next(&mut body).await.is_some_and(|chunk| chunk.is_ok()));
        let modified = UNIX_EPOCH + Duration::from_secs(1);
        site.dir.write_at("long.bin", "short", modified);
        let error = collect(body).await.expect_err("the body must not end");
        assert_eq!(error.kind(), Kind::Truncated);
    }

    #[tokio::test]
    async fn a_root_that_is_missing_is_our_failure() {
        let site = Fixture::new();
        std::fs::remove_dir_all(site.dir.path()).expect("removes");
        let headers = HeaderMap::new();
        let response = site.folder.respond(&Method::GET, "/digits.txt", None, &headers).await;
        assert_eq!(response.err().map(|error| error.kind()), Some(Kind::Internal));
    }

    #[tokio::test]
    async fn a_client_that_leaves_mid_job_disturbs_no_other() {
        let site = Fixture::new();
        let headers = HeaderMap::new();
        for _ in 0..100 {
            let respond = site.folder.respond(&Method::GET, "/digits.txt", None, &headers);
            let mut respond = std::pin::pin!(respond);
            let _ = respond.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        assert_eq!(site.get("/digits.txt", &[]).await.text(), "0123456789");
    }
}
