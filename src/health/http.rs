//! A probe over HTTP: the status of the answer decides, and what its body says where that is asked.

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use memchr::memmem;

use super::converse::converse;
use super::probe::Target;
use crate::config::model::{HttpProbe, ProbeFields, Protocol};
use crate::upstream::UpstreamIo;

/// How much of a body is looked through, in bytes.
const BODY_BYTES_MAX: usize = 64 << 10;

const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("headwater-health/", env!("CARGO_PKG_VERSION")));

/// Asks once; fails with the reason in words.
pub(super) async fn check(
    io: UpstreamIo,
    target: &Target,
    probe: &HttpProbe,
) -> Result<(), String> {
    let mut request = Request::new(Full::default());
    *request.method_mut() = probe.method.clone();
    if target.protocol == Protocol::H1 {
        *request.uri_mut() = probe.path.clone().into();
        request.headers_mut().insert(HOST, target.host.clone());
    } else {
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = target.uri(probe.path.clone()).map_err(|error| error.to_string())?;
    }
    add_fields(request.headers_mut(), &probe.fields);
    if target.protocol == Protocol::H1 {
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let read = async |response: Response<Incoming>| {
        let status = response.status();
        let text = probe.body_contains.as_deref().filter(|_| probe.expect.contains(status));
        let found = match text {
            Some(text) => contains(response.into_body(), text.as_bytes()).await?,
            None => true,
        };
        Ok((status, found))
    };
    let (status, found) = converse(io, target.protocol, request, read).await?;
    verdict(probe, status, found)
}

fn verdict(probe: &HttpProbe, status: StatusCode, found: bool) -> Result<(), String> {
    if !probe.expect.contains(status) {
        return Err(format!("status {}", status.as_u16()));
    }
    match &probe.body_contains {
        Some(text) if !found => Err(format!("the body does not contain {text:?}")),
        _ => Ok(()),
    }
}

/// The fields of the configuration, and who asks.
pub(super) fn add_fields(headers: &mut HeaderMap, fields: &ProbeFields) {
    headers.insert(USER_AGENT, AGENT);
    for (name, value) in &fields.headers {
        headers.insert(name.clone(), value.clone());
    }
}

/// Whether `text` stands in what is looked through of a body.
async fn contains(mut body: Incoming, text: &[u8]) -> Result<bool, hyper::Error> {
    let mut seen: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        // It may begin in what came before.
        let from = seen.len().saturating_sub(text.len() - 1);
        take(&mut seen, &data);
        if memmem::find(&seen[from..], text).is_some() {
            return Ok(true);
        }
        if seen.len() == BODY_BYTES_MAX {
            break;
        }
    }
    Ok(false)
}

fn take(seen: &mut Vec<u8>, data: &Bytes) {
    let room = BODY_BYTES_MAX - seen.len();
    seen.extend_from_slice(&data[..data.len().min(room)]);
}
