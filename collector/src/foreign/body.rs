//! Bodies of foreign requests: read in bounds of size, time and memory.

use std::io::Read;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::door::PEER_TIMEOUT;
use super::trouble::Trouble;

/// Bytes of a message at most, as sent and unpacked.
pub(crate) const MESSAGE_BYTES_MAX: usize = 4 << 20;
const TOO_LARGE: Trouble = Trouble::TooLarge("4 MiB");

/// A body on its way. What was read and not taken counts against the room that all share, so that a
/// slow peer holds no more than it has sent.
#[derive(Debug)]
pub(crate) struct Body {
    incoming: Incoming,
    room: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    buffer: BytesMut,
    is_ended: bool,
}

impl Body {
    /// Over `incoming`; `room` is in KiB.
    pub(crate) fn new(incoming: Incoming, room: Arc<Semaphore>) -> Self {
        Self {
            incoming,
            room,
            held: None,
            buffer: BytesMut::new(),
            is_ended: false,
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// [`Trouble`] when it is too large or does not come in time, or there is no room.
    pub(crate) async fn whole(&mut self) -> Result<Bytes, Trouble> {
        let deadline = Instant::now() + PEER_TIMEOUT;
        while self.more(Some(deadline)).await? {
            if self.buffer.len() > MESSAGE_BYTES_MAX {
                return Err(TOO_LARGE);
            }
        }
        Ok(self.buffer.split().freeze())
    }

    /// The next length-prefixed message of gRPC: whether it is compressed, and its bytes; `None` at the
    /// end of the body. Waits for its first byte until `begin`, for ever without one.
    ///
    /// # Errors
    /// [`Trouble`] when it is too large or does not come in time, or there is no room.
    pub(crate) async fn message(
        &mut self,
        begin: Option<Instant>,
    ) -> Result<Option<(bool, Bytes)>, Trouble> {
        self.release();
        let mut deadline = begin;
        loop {
            if let [flag, a, b, c, d, ..] = self.buffer[..] {
                let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                if len > MESSAGE_BYTES_MAX {
                    return Err(TOO_LARGE);
                }
                if flag > 1 {
                    return Err(malformed("its message has an unknown flag"));
                }
                if self.buffer.len() >= 5 + len {
                    self.buffer.advance(5);
                    return Ok(Some((flag == 1, self.buffer.split_to(len).freeze())));
                }
            }
            if !self.buffer.is_empty() && (deadline.is_none() || deadline == begin) {
                deadline = Some(Instant::now() + PEER_TIMEOUT);
            }
            if !self.more(deadline).await? {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(malformed("its last message is cut")),
                };
            }
        }
    }

    /// Gives back the room of messages that were taken.
    fn release(&mut self) {
        if self.buffer.is_empty() {
            self.held = None;
            // A buffer that once was large is not kept for a peer that may never need it again.
            self.buffer = BytesMut::new();
        }
    }

    /// Reads on; `false` at the end.
    async fn more(&mut self, deadline: Option<Instant>) -> Result<bool, Trouble> {
        if self.is_ended {
            return Ok(false);
        }
        let frame = match deadline {
            Some(deadline) => timeout_at(deadline, self.incoming.frame())
                .await
                .map_err(|_| Trouble::Slow)?,
            None => self.incoming.frame().await,
        };
        let Some(frame) = frame else {
            self.is_ended = true;
            return Ok(false);
        };
        let frame = frame.map_err(|_| Trouble::Gone)?;
        if let Some(data) = frame.data_ref() {
            self.hold(data.len())?;
            self.buffer.extend_from_slice(data);
        }
        Ok(true)
    }

    fn hold(&mut self, bytes: usize) -> Result<(), Trouble> {
        let needed = (self.buffer.len() + bytes).div_ceil(1024);
        let held = self
            .held
            .as_ref()
            .map_or(0, OwnedSemaphorePermit::num_permits);
        let more = u32::try_from(needed.saturating_sub(held)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.room).try_acquire_many_owned(more);
        let permit = permit.map_err(|_| Trouble::Busy)?;
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        Ok(())
    }
}

/// `packed` without its gzip; never more than [`MESSAGE_BYTES_MAX`].
///
/// # Errors
/// [`Trouble::TooLarge`] for what would become larger, [`Trouble::Malformed`] for what is no gzip.
pub(crate) fn gunzip(packed: &[u8]) -> Result<Bytes, Trouble> {
    let limit = u64::try_from(MESSAGE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut plain = Vec::new();
    GzDecoder::new(packed)
        .take(limit + 1)
        .read_to_end(&mut plain)
        .map_err(|_| malformed("it is not the gzip that it is said to be"))?;
    if plain.len() > MESSAGE_BYTES_MAX {
        return Err(TOO_LARGE);
    }
    Ok(Bytes::from(plain))
}

pub(crate) fn malformed(why: impl Into<String>) -> Trouble {
    Trouble::Malformed(why.into())
}
