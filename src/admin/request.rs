//! Reading the body of a request, within bounds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout;

use super::reply::Refusal;

const BODY_BYTES_MAX: usize = 1 << 20;
/// An overlong body is read this far: closing on bytes that the client still sends could destroy
/// the answer on its way.
const BODY_BYTES_DRAINED_MAX: usize = 8 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The whole body, or why not.
pub(super) async fn read<B>(headers: &HeaderMap, body: B) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    // Who asks before sending need not be let to send.
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 && headers.contains_key(header::EXPECT) {
        return Err(too_large());
    }
    match timeout(BODY_TIMEOUT, collect(body)).await {
        Ok(read) => read,
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time")),
    }
}

async fn collect<B>(mut body: B) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut kept = BytesMut::new();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Refusal::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))
        })?;
        let Some(data) = frame.data_ref() else { continue };
        seen += data.len();
        if seen > BODY_BYTES_DRAINED_MAX {
            break;
        }
        if seen <= BODY_BYTES_MAX {
            kept.extend_from_slice(data);
        }
    }
    if seen > BODY_BYTES_MAX { Err(too_large()) } else { Ok(kept.freeze()) }
}

fn too_large() -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 1 MiB")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http::HeaderValue;
    use http_body::Frame;
    use http_body_util::Full;

    use super::*;

    /// A body that never comes.
    struct Silent;

    impl Body for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    async fn status_of(headers: &HeaderMap, bytes: usize) -> Result<usize, StatusCode> {
        let body = Full::new(Bytes::from(vec![b' '; bytes]));
        read(headers, body).await.map(|read| read.len()).map_err(|refusal| refusal.status)
    }

    #[tokio::test]
    async fn a_body_of_one_mebibyte_is_read_and_one_byte_more_refused() {
        let headers = HeaderMap::new();
        assert_eq!(status_of(&headers, BODY_BYTES_MAX).await, Ok(BODY_BYTES_MAX));
        let refused = Err(StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(status_of(&headers, BODY_BYTES_MAX + 1).await, refused);
        let asking =
            HeaderMap::from_iter([(header::EXPECT, HeaderValue::from_static("100-continue"))]);
        assert_eq!(status_of(&asking, BODY_BYTES_MAX + 1).await, refused);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let refusal = read(&HeaderMap::new(), Silent).await.unwrap_err();
        assert_eq!(refusal.status, StatusCode::REQUEST_TIMEOUT);
    }
}
