//! The calls of the protocol over our own client.

use std::pin::Pin;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

use crate::outgoing::Client;

pub(super) struct Http(pub(super) Client);

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let request = Request::from_parts(head, body.to_bytes());
            let answer = client.send(request).await.map_err(|error| Error::Other(error.into()))?;
            Ok(BytesResponse::from(answer.map(Full::new)))
        })
    }
}
