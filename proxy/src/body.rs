//! The two bodies of a call: they pass every frame on at once, count, and write the final entry
//! before the last frame of the response is released.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::app::Kept;
use crate::call::{Call, OpenCall};
use crate::headers::clean_trailers;
use crate::waits::Waiting;

/// A body that broke off.
#[derive(Debug, thiserror::Error)]
#[error("passing the body on")]
pub(crate) struct BodyError(#[source] hyper::Error);

/// The request's body on its way to the next hop.
#[derive(Debug)]
pub(crate) struct RequestBody {
    /// None for a request that is repeated, which never has a body.
    inner: Option<Incoming>,
    call: Arc<Call>,
    remaining: Option<u64>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, headers: &HeaderMap, call: Arc<Call>) -> Self {
        if inner.is_end_stream() {
            call.upload_complete();
        }
        Self {
            inner: Some(inner),
            call,
            remaining: declared_length(headers),
        }
    }

    /// The body of a request that has none.
    pub(crate) const fn empty(call: Arc<Call>) -> Self {
        Self {
            inner: None,
            call,
            remaining: None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let body = self.get_mut();
        let Some(inner) = &mut body.inner else {
            return Poll::Ready(None);
        };
        match Pin::new(&mut *inner).poll_frame(cx) {
            Poll::Pending => {
                // what may still come after the declared length is an end, for which nobody waits
                if body.remaining != Some(0) {
                    body.call.turn_while_uploading(Waiting::Caller);
                }
                Poll::Pending
            }
            Poll::Ready(None) => {
                body.call.upload_complete();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    let bytes = data.len() as u64;
                    body.call.uploaded(bytes);
                    body.remaining = body.remaining.map(|left| left.saturating_sub(bytes));
                }
                if frame.is_trailers() || body.remaining == Some(0) || inner.is_end_stream() {
                    body.call.upload_complete();
                }
                Poll::Ready(Some(Ok(cleaned(frame))))
            }
            Poll::Ready(Some(Err(error))) => {
                body.call.upload_broken();
                Poll::Ready(Some(Err(BodyError(error))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

/// The response's body on its way to the caller.
#[derive(Debug)]
pub(crate) struct ResponseBody(Source);

#[derive(Debug)]
enum Source {
    /// What the next hop sends. Boxed, as it holds the call.
    NextHop(Box<Relayed>),
    /// What this proxy says itself; its entry is written already.
    Own(Option<Bytes>),
}

#[derive(Debug)]
struct Relayed {
    inner: Incoming,
    call: OpenCall,
    /// Body bytes still due by the declared length; unknown when none was declared, and for gRPC,
    /// whose result comes after the last byte.
    remaining: Option<u64>,
    kept: Option<Kept>,
}

/// What the relayed response answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answering<'a> {
    pub(crate) method: &'a Method,
    pub(crate) grpc: bool,
}

impl ResponseBody {
    /// A body that this proxy made; the caller has written the entry before.
    pub(crate) fn own(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        Self(Source::Own((!text.is_empty()).then_some(text)))
    }

    /// Passes on what the next hop sends. A response without a body completes the call here, before
    /// its head is released.
    pub(crate) fn relay(
        inner: Incoming,
        status: StatusCode,
        headers: &HeaderMap,
        answering: Answering<'_>,
        call: OpenCall,
        kept: Option<Kept>,
    ) -> Self {
        let remaining = if answering.grpc {
            None
        } else {
            declared_length(headers)
        };
        let mut relayed = Relayed {
            inner,
            call,
            remaining,
            kept,
        };
        let empty = relayed.inner.is_end_stream()
            || remaining == Some(0)
            || answering.method == Method::HEAD
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        if empty {
            relayed.complete(0, None);
        }
        Self(Source::NextHop(Box::new(relayed)))
    }
}

impl Relayed {
    fn complete(&mut self, bytes: u64, trailers: Option<&HeaderMap>) {
        self.call.complete(bytes, trailers);
        if let Some(kept) = self.kept.take()
            && self.call.is_upload_complete()
        {
            kept.give_back();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.call.turn(Waiting::Nobody);
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Pending => {
                self.call.turn(Waiting::Upstream);
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.complete(0, None);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    let bytes = data.len() as u64;
                    self.remaining = self.remaining.map(|left| left.saturating_sub(bytes));
                    if self.remaining == Some(0) || self.inner.is_end_stream() {
                        self.complete(bytes, None);
                    } else {
                        self.call.downloaded(bytes);
                    }
                } else {
                    self.complete(0, frame.trailers_ref());
                }
                Poll::Ready(Some(Ok(cleaned(frame))))
            }
            Poll::Ready(Some(Err(error))) => {
                self.kept = None;
                self.call.break_off("upstream_reset");
                Poll::Ready(Some(Err(BodyError(error))))
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().0 {
            Source::NextHop(relayed) => relayed.poll(cx),
            Source::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::NextHop(relayed) => relayed.inner.is_end_stream(),
            Source::Own(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::NextHop(relayed) => relayed.inner.size_hint(),
            Source::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

/// The frame without what trailers may not say.
fn cleaned(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
