//! gRPC over HTTP/2, as far as two services need it: one message, or a stream of them, and an answer.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use prost::Message;

use super::body::gunzip;
use super::door::Answer;
use super::trouble::Trouble;

const ENCODINGS: &str = "identity, gzip";

/// Checks that `request` is a gRPC call; whether its compressed messages are gzip.
///
/// # Errors
/// [`Trouble::Unsupported`].
pub(crate) fn check(request: &Request<Incoming>) -> Result<bool, Trouble> {
    let header = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
    let is_grpc = header("content-type").is_some_and(|kind| {
        let rest = kind.strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+proto"))
    });
    if request.method() != Method::POST || !is_grpc {
        let expected = "only gRPC with protobuf is spoken here";
        return Err(Trouble::Unsupported(expected));
    }
    match header("grpc-encoding") {
        None | Some(b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(_) => Err(Trouble::Unsupported(
            "only the encodings identity and gzip are taken",
        )),
    }
}

/// The bytes of a message that came `is_packed` or not, in a call whose encoding `is_gzip` or none.
///
/// # Errors
/// [`Trouble`] when it is packed and cannot be unpacked.
pub(crate) fn plain((is_packed, message): (bool, Bytes), is_gzip: bool) -> Result<Bytes, Trouble> {
    match (is_packed, is_gzip) {
        (false, _) => Ok(message),
        (true, true) => gunzip(&message),
        (true, false) => Err(super::body::malformed(
            "its message is compressed, and the call names no encoding",
        )),
    }
}

/// The answer `message`, with the status OK.
pub(crate) fn answer(message: &impl Message) -> Response<Answer> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    framed.put_slice(&message.encode_to_vec());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(framed.freeze()).with_trailers(async move { Some(Ok(trailers)) });
    with_head(body.boxed())
}

/// The answer that nothing was taken, for this reason.
pub(crate) fn refusal(trouble: &Trouble) -> Response<Answer> {
    let mut response = with_head(Full::default().boxed());
    let headers = response.headers_mut();
    headers.insert(
        "grpc-status",
        HeaderValue::from(u16::from(trouble.grpc_status())),
    );
    // Percent-encoding as the protocol wants it is not needed for what is printable ASCII.
    let text: String = trouble
        .to_string()
        .chars()
        .map(|c| {
            if c.is_ascii_graphic() && c != '%' {
                c
            } else {
                ' '
            }
        })
        .collect();
    if let Ok(text) = HeaderValue::from_str(&text) {
        headers.insert("grpc-message", text);
    }
    response
}

fn with_head(body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert("grpc-accept-encoding", HeaderValue::from_static(ENCODINGS));
    response
}
