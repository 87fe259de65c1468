//! Signatures of calls of AWS: version 4, HMAC-SHA256 over a canonical form of the request.
//!
//! Only what calls of ours need: paths that stand in their canonical form, no query, a whole body.

use std::fmt::Write;
use std::time::SystemTime;

use aws_lc_rs::{digest, hmac};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Request};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::config::model::AwsCredentials;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const X_AMZ_DATE: HeaderName = HeaderName::from_static("x-amz-date");
const X_AMZ_SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

/// Whom a signature is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// Signs a request as of a moment. All of its fields and `Host` are signed.
///
/// # Errors
/// Something that cannot be written into a field, or no host; said without the credentials.
pub(super) fn sign(
    request: &mut Request<Bytes>,
    credentials: &AwsCredentials,
    scope: Scope<'_>,
    now: SystemTime,
) -> Result<(), String> {
    let now = OffsetDateTime::from(now);
    let stamp = now
        .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
        .map_err(|error| error.to_string())?;
    let day = &stamp[..8];
    let authority = request.uri().authority().ok_or("the URL has no host")?.clone();
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| error.to_string());
    let date = value(&stamp)?;
    request.headers_mut().insert(X_AMZ_DATE, date);
    if let Some(token) = &credentials.session_token {
        let mut token = value(&token.0).map_err(|_| "the session token is no field value")?;
        token.set_sensitive(true);
        request.headers_mut().insert(X_AMZ_SECURITY_TOKEN, token);
    }
    let (fields, names) = canonical_fields(request.headers(), authority.as_str())?;
    let canonical = format!(
        "{}\n{}\n\n{fields}\n{names}\n{}",
        request.method(),
        request.uri().path(),
        hex(digest::digest(&digest::SHA256, request.body()).as_ref()),
    );
    let of_whom = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let hashed = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let to_sign = format!("{ALGORITHM}\n{stamp}\n{of_whom}\n{hashed}");
    let secret = format!("AWS4{}", credentials.secret_access_key.0);
    let mut key = hmac(secret.as_bytes(), day);
    for part in [scope.region, scope.service, "aws4_request"] {
        key = hmac(key.as_ref(), part);
    }
    let signature = hex(hmac(key.as_ref(), &to_sign).as_ref());
    let mut authorization = value(&format!(
        "{ALGORITHM} Credential={}/{of_whom}, SignedHeaders={names}, Signature={signature}",
        credentials.access_key_id
    ))?;
    authorization.set_sensitive(true);
    request.headers_mut().insert(AUTHORIZATION, authorization);
    Ok(())
}

/// The fields by name with `Host` among them, and their names.
fn canonical_fields(headers: &HeaderMap, host: &str) -> Result<(String, String), String> {
    let mut fields = vec![(HOST.as_str(), host)];
    for (name, value) in headers {
        let value = value.to_str().map_err(|_| format!("{name} is not ASCII"))?;
        fields.push((name.as_str(), value.trim()));
    }
    fields.sort_unstable();
    let lines = fields.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let names: Vec<_> = fields.iter().map(|(name, _)| *name).collect();
    Ok((lines, names.join(";")))
}

fn hmac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::model::Secret;

    const SCOPE: Scope<'_> = Scope { region: "us-east-1", service: "service" };
    /// 2015-08-30 12:36:00, the moment of the published examples.
    const MOMENT: Duration = Duration::from_secs(1_440_938_160);

    fn signed(mut request: Request<Bytes>, token: Option<&str>) -> HeaderMap {
        let credentials = AwsCredentials {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into()),
            session_token: token.map(|token| Secret(token.into())),
        };
        sign(&mut request, &credentials, SCOPE, SystemTime::UNIX_EPOCH + MOMENT).unwrap();
        request.headers().clone()
    }

    fn request(method: &str, uri: &str) -> Request<Bytes> {
        Request::builder().method(method).uri(uri).body(Bytes::new()).unwrap()
    }

    /// The published suite of AWS: `get-vanilla`, `post-vanilla`, `post-sts-header-before`.
    #[test]
    fn signatures_are_those_of_the_published_examples() {
        const URL: &str = "https://example.amazonaws.com/";
        let expected = |names: &str, signature: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders={names}, Signature={signature}"
            )
        };
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBu\
                     FqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUp\
                     p2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q\
                     6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4\
                     rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        for (method, token, names, signature) in [
            (
                "GET",
                None,
                "host;x-amz-date",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "POST",
                None,
                "host;x-amz-date",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "POST",
                Some(token),
                "host;x-amz-date;x-amz-security-token",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ] {
            let headers = signed(request(method, URL), token);
            assert_eq!(headers["x-amz-date"], "20150830T123600Z");
            assert_eq!(headers[AUTHORIZATION], expected(names, signature).as_str());
        }
    }

    #[test]
    fn fields_and_body_are_signed_and_nothing_is_shown() {
        let mut call = request("POST", "https://a.test/2020-05-31/x");
        call.headers_mut().insert("content-type", HeaderValue::from_static("application/xml"));
        let plain = signed(call.clone(), None);
        let text = plain[AUTHORIZATION].to_str().unwrap();
        assert!(text.contains("SignedHeaders=content-type;host;x-amz-date,"), "{text}");
        *call.body_mut() = Bytes::from_static(b"x");
        assert_ne!(signed(call.clone(), None)[AUTHORIZATION], plain[AUTHORIZATION]);
        let shown = format!("{:?}", signed(call, Some("t0ken")));
        assert!(!shown.contains("t0ken") && !shown.contains("AKIDEXAMPLE"), "{shown}");
    }
}
