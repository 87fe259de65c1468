//! CloudFront: what an operation is there, its calls and its answers.
//!
//! `POST /2020-05-31/distribution/ID/invalidation` accepts an invalidation, which then is in progress
//! for some seconds; `GET …/invalidation/ID` says when it is complete. An item is a path, which may end
//! with `*`, or `#` and a tag.

use std::borrow::Cow;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE};
use http::{HeaderMap, Request, Response, StatusCode};

use super::operation::Operation;
use super::outcome::{Outcome, retry_after};
use super::sigv4::{Scope, sign};
use crate::config::model::{CloudFrontPurge, CloudFrontTags};
use crate::outgoing;

/// It is a service of the whole world, and signed for here.
const SCOPE: Scope<'_> = Scope { region: "us-east-1", service: "cloudfront" };
const VERSION: &str = "2020-05-31";
/// Of an error that is quoted, in characters.
const QUOTED_MAX: usize = 300;
/// Errors of the clock: ours is not that of AWS.
const CLOCK: [&str; 2] = ["RequestTimeTooSkewed", "RequestExpired"];
const CREDENTIALS: [&str; 9] = [
    "AccessDenied",
    "ExpiredToken",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "NoSuchDistribution",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];
const LIMITS: [&str; 4] =
    ["Throttling", "ThrottlingException", "TooManyInvalidationsInProgress", "TooManyRequests"];

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The invalidation with this id; whether it is complete.
    Invalidation(String, bool),
    /// The clock of AWS says this.
    Clock(SystemTime),
    Failure(Outcome),
}

/// The item of an invalidation that an operation is.
pub(super) fn item(operation: &Operation, tags: CloudFrontTags) -> Cow<'_, str> {
    match operation {
        Operation::Url(url) => {
            let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            rest.find('/').map_or("/", |at| &rest[at..]).into()
        }
        Operation::Prefix(prefix) => {
            let path = prefix.find('/').map_or("/", |at| &prefix[at..]);
            format!("{path}*").into()
        }
        Operation::Tag(tag) if tags == CloudFrontTags::Tags => format!("#{tag}").into(),
        // A distribution has all of its hosts in one space of paths.
        Operation::Tag(_) | Operation::Host(_) | Operation::All => "/*".into(),
    }
}

pub(super) fn is_wildcard(item: &str) -> bool {
    item.ends_with('*') && !item.starts_with('#')
}

/// The call that invalidates these. The reference tells it from all others: with the same one, the
/// same is not done twice.
///
/// # Errors
/// The configuration makes no request; said without the credentials.
pub(super) fn create(
    config: &CloudFrontPurge,
    reference: &str,
    items: &[String],
    now: SystemTime,
) -> Result<Request<Bytes>, String> {
    let paths: String =
        items.iter().map(|item| format!("<Path>{}</Path>", escaped(item))).collect();
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<InvalidationBatch \
         xmlns=\"http://cloudfront.amazonaws.com/doc/{VERSION}/\"><Paths><Quantity>{}</Quantity>\
         <Items>{paths}</Items></Paths><CallerReference>{}</CallerReference></InvalidationBatch>",
        items.len(),
        escaped(reference),
    );
    let request = Request::post(collection(config))
        .header(CONTENT_TYPE, "application/xml")
        .body(Bytes::from(body));
    signed(request, config, now)
}

/// The call that asks how far an invalidation is.
///
/// # Errors
/// As [`create`].
pub(super) fn ask(
    config: &CloudFrontPurge,
    id: &str,
    now: SystemTime,
) -> Result<Request<Bytes>, String> {
    signed(Request::get(format!("{}/{id}", collection(config))).body(Bytes::new()), config, now)
}

fn collection(config: &CloudFrontPurge) -> String {
    format!("{}/{VERSION}/distribution/{}/invalidation", config.api, config.distribution)
}

fn signed(
    request: http::Result<Request<Bytes>>,
    config: &CloudFrontPurge,
    now: SystemTime,
) -> Result<Request<Bytes>, String> {
    let mut request = request.map_err(|error| error.to_string())?;
    sign(&mut request, &config.credentials, SCOPE, now)?;
    Ok(request)
}

/// What an answer means.
pub(super) fn answer(answer: Result<Response<Bytes>, outgoing::Error>) -> Answer {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Answer::Failure(Outcome::Lost(error.to_string())),
    };
    read(answer.status(), answer.headers(), answer.body())
}

/// What an answer with this status, these fields and this body means.
pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(body);
    if status.is_success() {
        let (id, state) = (element(&text, "Id"), element(&text, "Status"));
        return match (id, state) {
            (Some(id), Some(state)) if is_id(&id) => {
                Answer::Invalidation(id.into_owned(), state == "Completed")
            }
            _ => {
                let why = format!("status {}: it is no invalidation", status.as_u16());
                Answer::Failure(Outcome::Unable(why, None))
            }
        };
    }
    let code = element(&text, "Code").unwrap_or_default();
    let message = element(&text, "Message").unwrap_or_default();
    if CLOCK.contains(&&*code) || (code == "SignatureDoesNotMatch" && is_of_clock(&message)) {
        let theirs = headers.get(DATE).and_then(|date| date.to_str().ok());
        if let Some(theirs) = theirs.and_then(|date| httpdate::parse_http_date(date).ok()) {
            return Answer::Clock(theirs);
        }
    }
    let mut why = format!("status {}", status.as_u16());
    if !code.is_empty() {
        let said: String = format!(": {code}: {message}").chars().take(QUOTED_MAX).collect();
        why.push_str(&said);
    }
    let after = retry_after(headers, SystemTime::now());
    Answer::Failure(match status {
        _ if LIMITS.contains(&&*code) => Outcome::Limited(why, after),
        _ if CREDENTIALS.contains(&&*code) || CLOCK.contains(&&*code) => Outcome::Denied(why),
        StatusCode::TOO_MANY_REQUESTS => Outcome::Limited(why, after),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Outcome::Denied(why),
        StatusCode::REQUEST_TIMEOUT => Outcome::Unable(why, after),
        status if status.is_client_error() => Outcome::Refused(why),
        // Redirects too: whoever sends one is not the API.
        _ => Outcome::Unable(why, after),
    })
}

/// So AWS says it where the time is far off: "Signature expired: …", "Signature not yet current: …".
fn is_of_clock(message: &str) -> bool {
    message.starts_with("Signature expired") || message.starts_with("Signature not yet current")
}

/// It becomes a part of a path.
pub(super) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The text of the first element of a name that has nothing but text in it. The answers of the API are
/// flat enough for that; what is no such element is not found.
fn element<'a>(xml: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, rest) = rest.split_once('<')?;
    rest.strip_prefix('/')?.strip_prefix(name)?.strip_prefix('>')?;
    if !text.contains('&') {
        return Some(text.into());
    }
    let mut plain = text.to_owned();
    for (entity, character) in
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")]
    {
        plain = plain.replace(entity, character);
    }
    Some(plain.into())
}

fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(['&', '<', '>', '"', '\'']) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            other => escaped.push(other),
        }
    }
    escaped.into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;
    use crate::config::model::{AwsCredentials, Secret};

    fn error(status: u16, code: &str, message: &str) -> Answer {
        let body = format!(
            "<?xml version=\"1.0\"?><ErrorResponse xmlns=\"http://x/\"><Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
        );
        let date = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
        let headers = HeaderMap::from_iter([(DATE, date)]);
        read(StatusCode::from_u16(status).unwrap(), &headers, body.as_bytes())
    }

    #[test]
    fn operations_are_paths_wildcards_and_tags() {
        for (operation, expected, wildcard) in [
            (Operation::Url("https://a.test/~x?b=1".into()), "/~x?b=1", false),
            (Operation::Url("https://a.test/".into()), "/", false),
            (Operation::Prefix("a.test/shop/".into()), "/shop/*", true),
            (Operation::Tag("One".into()), "#One", false),
            (Operation::Host("a.test".into()), "/*", true),
            (Operation::All, "/*", true),
        ] {
            let item = item(&operation, CloudFrontTags::Tags);
            assert_eq!((&*item, is_wildcard(&item)), (expected, wildcard));
        }
        assert_eq!(item(&Operation::Tag("a".into()), CloudFrontTags::All), "/*");
        assert!(!is_wildcard("#a*"));
    }

    #[test]
    fn a_call_names_its_paths_and_hides_its_credentials() {
        let config = CloudFrontPurge {
            distribution: "EDFD".into(),
            credentials: AwsCredentials {
                access_key_id: "AKID".into(),
                secret_access_key: Secret("s3cret".into()),
                session_token: Some(Secret("t0ken".into())),
            },
            api: "https://api.test".into(),
            tags: CloudFrontTags::Tags,
        };
        let items = ["/a?b&c".to_owned(), "#<t>".to_owned()];
        let call = create(&config, "r-1", &items, SystemTime::now()).unwrap();
        assert_eq!(call.uri(), "https://api.test/2020-05-31/distribution/EDFD/invalidation");
        let body = String::from_utf8(call.body().to_vec()).unwrap();
        assert!(body.contains("<Quantity>2</Quantity>"), "{body}");
        assert!(body.contains("<Path>/a?b&amp;c</Path><Path>#&lt;t&gt;</Path>"), "{body}");
        assert!(body.contains("<CallerReference>r-1</CallerReference>"), "{body}");
        let shown = format!("{call:?}");
        assert!(["s3cret", "t0ken", "AKID"].iter().all(|it| !shown.contains(it)), "{shown}");
        let ask = ask(&config, "I2J0", SystemTime::now()).unwrap();
        assert!(ask.uri().path().ends_with("/invalidation/I2J0"));
    }

    #[test]
    fn an_invalidation_is_in_progress_until_it_is_completed() {
        let body = |state: &str| {
            format!(
                "<Invalidation xmlns=\"http://x/\"><Id>I2J0I21PCUYOIK</Id><Status>{state}</Status>\
                 <InvalidationBatch><Paths/></InvalidationBatch></Invalidation>"
            )
        };
        let read = |text: &str| read(StatusCode::CREATED, &HeaderMap::new(), text.as_bytes());
        let expected = |is_complete| Answer::Invalidation("I2J0I21PCUYOIK".into(), is_complete);
        assert_eq!(read(&body("InProgress")), expected(false));
        assert_eq!(read(&body("Completed")), expected(true));
        for text in ["", "<html>", "<Id>a/b</Id><Status>Completed</Status>", "<Id>a</Id>"] {
            assert!(matches!(read(text), Answer::Failure(Outcome::Unable(..))), "{text}");
        }
    }

    #[test]
    fn errors_are_told_apart_by_their_code() {
        let failure = |status, code| match error(status, code, "a &amp; b") {
            Answer::Failure(outcome) => outcome,
            other => unreachable!("{other:?}"),
        };
        let expected = Outcome::Refused("status 400: InvalidArgument: a & b".into());
        assert_eq!(failure(400, "InvalidArgument"), expected);
        assert!(matches!(failure(400, "TooManyInvalidationsInProgress"), Outcome::Limited(..)));
        assert!(matches!(failure(400, "Throttling"), Outcome::Limited(..)));
        assert!(matches!(failure(403, "SignatureDoesNotMatch"), Outcome::Denied(_)));
        assert!(matches!(failure(404, "NoSuchDistribution"), Outcome::Denied(_)));
        assert!(matches!(failure(403, "Else"), Outcome::Denied(_)));
        assert!(matches!(failure(500, "InternalError"), Outcome::Unable(..)));
        assert!(matches!(failure(302, ""), Outcome::Unable(..)));
        let theirs = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(error(403, "RequestTimeTooSkewed", "x"), Answer::Clock(theirs));
        let old = error(403, "SignatureDoesNotMatch", "Signature expired: 1 is now earlier than 2");
        assert_eq!(old, Answer::Clock(theirs));
    }
}
