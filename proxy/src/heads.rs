//! Heads of HTTP/1.1 whose lines end in CRLF. The HTTP library takes a bare LF for a line's end as
//! well; who stands before this proxy may not, and so read other requests than it does.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use hyper::body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the library is handed in the place of a bare LF: no head may hold it, so that it answers
/// 400, and the refusal is written into the books as that of any malformed head.
const FORBIDDEN: u8 = 0;
const READ_BYTES: usize = 8 << 10;

/// Where the body of the request ends whose head was read last, as the library found it.
#[derive(Debug, Clone)]
pub(crate) struct Framing(Arc<AtomicU64>);

const UNKNOWN: u64 = u64::MAX;
const CHUNKED: u64 = u64::MAX - 1;

impl Framing {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(UNKNOWN)))
    }

    /// The service tells it when it is given a request: before the library reads on.
    pub(crate) fn tell(&self, body: &impl Body) {
        let length = if body.is_end_stream() {
            Some(0)
        } else {
            body.size_hint().exact()
        };
        self.0.store(length.unwrap_or(CHUNKED), Ordering::Relaxed);
    }

    fn take(&self) -> u64 {
        self.0.swap(UNKNOWN, Ordering::Relaxed)
    }
}

/// A connection on which a bare LF ends no line of a head.
#[derive(Debug)]
pub(crate) struct StrictHeads<T> {
    inner: T,
    framing: Framing,
    state: State,
    /// What was read and not handed on.
    held: BytesMut,
    /// How much of it may be handed on.
    cleared: usize,
}

#[derive(Debug)]
enum State {
    Head(Head),
    /// A head was handed on: what follows is the library's to say.
    HeadRead,
    Length(u64),
    Chunks(Chunks),
    /// Nothing is looked at any more: the library has refused, or will.
    Blind,
}

impl<T> StrictHeads<T> {
    pub(crate) fn new(inner: T, framing: Framing) -> Self {
        Self {
            inner,
            framing,
            state: State::Head(Head::default()),
            held: BytesMut::new(),
            cleared: 0,
        }
    }

    /// Looks at what is held and not cleared. Afterwards something is cleared, or more must be read.
    fn clear(&mut self) {
        while self.cleared == 0 && !self.held.is_empty() {
            match &mut self.state {
                State::Head(head) => match head.look(&mut self.held) {
                    Looked::All => self.cleared = self.held.len(),
                    Looked::End(at) => {
                        self.cleared = at;
                        self.state = State::HeadRead;
                    }
                    Looked::Bad => self.state = State::Blind,
                },
                State::HeadRead => self.state = State::after(self.framing.take()),
                State::Length(0) => self.state = State::Head(Head::default()),
                State::Length(left) => {
                    let held = u64::try_from(self.held.len()).unwrap_or(u64::MAX);
                    let taken = held.min(*left);
                    *left -= taken;
                    self.cleared = usize::try_from(taken).unwrap_or(self.held.len());
                }
                State::Chunks(chunks) => match chunks.look(&self.held) {
                    Looked::All => self.cleared = self.held.len(),
                    Looked::End(at) => {
                        self.cleared = at;
                        self.state = State::Head(Head::default());
                    }
                    Looked::Bad => self.state = State::Blind,
                },
                State::Blind => self.cleared = self.held.len(),
            }
        }
    }

    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.cleared.min(buf.remaining());
        buf.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.advance(count);
        self.cleared -= count;
    }
}

impl State {
    const fn after(framing: u64) -> Self {
        match framing {
            UNKNOWN => Self::Blind,
            CHUNKED => Self::Chunks(Chunks::new()),
            length => Self::Length(length),
        }
    }
}

/// What came of looking at some bytes.
enum Looked {
    /// They all belong to what is looked at.
    All,
    /// It ends at this place.
    End(usize),
    /// It is malformed.
    Bad,
}

/// A head as far as it has come.
#[derive(Debug, Default)]
struct Head {
    has_begun: bool,
    line_bytes: usize,
    after_cr: bool,
}

impl Head {
    fn look(&mut self, bytes: &mut [u8]) -> Looked {
        for (at, byte) in bytes.iter_mut().enumerate() {
            if *byte != b'\n' {
                self.line_bytes += usize::from(self.after_cr) + usize::from(*byte != b'\r');
                self.after_cr = *byte == b'\r';
                continue;
            }
            if !self.after_cr {
                *byte = FORBIDDEN;
                return Looked::Bad;
            }
            let is_empty = self.line_bytes == 0;
            // empty lines before a request line are skipped (RFC 9112 2.2)
            if is_empty && self.has_begun {
                return Looked::End(at + 1);
            }
            self.has_begun |= !is_empty;
            self.line_bytes = 0;
            self.after_cr = false;
        }
        Looked::All
    }
}

/// A chunked body as far as it has come. Only its end is looked for: what is malformed in it, the
/// library refuses.
#[derive(Debug)]
enum Chunks {
    /// In a size line: its digits so far, and whether they are over.
    Size(u64, bool),
    /// In data, and the CRLF after it.
    Data(u64),
    /// In the trailers: bytes of the current line, but for CR.
    Trailers(usize),
}

impl Chunks {
    const fn new() -> Self {
        Self::Size(0, false)
    }

    fn look(&mut self, bytes: &[u8]) -> Looked {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            let mut taken = 1;
            match self {
                Self::Size(0, _) if byte == b'\n' => *self = Self::Trailers(0),
                Self::Size(size, _) if byte == b'\n' => *self = Self::Data(size.saturating_add(2)),
                Self::Size(size, over @ false) => match char::from(byte).to_digit(16) {
                    Some(_) if *size >> 60 != 0 => return Looked::Bad,
                    Some(digit) => *size = *size << 4 | u64::from(digit),
                    None => *over = true,
                },
                Self::Size(_, true) => {}
                Self::Data(left) => {
                    let here = bytes.len() - at;
                    taken = usize::try_from(*left).unwrap_or(here).min(here);
                    *left -= u64::try_from(taken).unwrap_or(*left);
                    if *left == 0 {
                        *self = Self::new();
                    }
                }
                Self::Trailers(0) if byte == b'\n' => return Looked::End(at + 1),
                Self::Trailers(line_bytes) => match byte {
                    b'\n' => *line_bytes = 0,
                    b'\r' => {}
                    _ => *line_bytes += 1,
                },
            }
            at += taken;
        }
        Looked::All
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for StrictHeads<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            this.clear();
            if this.cleared > 0 {
                this.hand_on(buf);
                return Poll::Ready(Ok(()));
            }
            let mut space = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.held.extend_from_slice(read.filled());
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for StrictHeads<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Hands `text` in pieces of `piece` bytes; tells `framings` one after the other, each when the
    /// library has read a head. Gives what the library would read, by head and body.
    async fn read(text: &str, piece: usize, framings: &[u64]) -> Vec<String> {
        let pieces = text.as_bytes().chunks(piece).map(<[u8]>::to_vec);
        let mut inner = Pieces(pieces.collect());
        let framing = Framing::new();
        let mut stream = StrictHeads::new(&mut inner, framing.clone());
        let mut parts = vec![String::new()];
        let mut framings = framings.iter();
        let mut some = [0; 64];
        while let Ok(count @ 1..) = stream.read(&mut some).await {
            let part = parts.last_mut().unwrap();
            part.push_str(&String::from_utf8_lossy(&some[..count]));
            if matches!(stream.state, State::HeadRead) && stream.cleared == 0 {
                if let Some(next) = framings.next() {
                    framing.0.store(*next, Ordering::Relaxed);
                }
                parts.push(String::new());
            }
        }
        parts
    }

    /// A reader that gets its bytes in pieces.
    struct Pieces(std::collections::VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(piece) = self.0.pop_front() {
                buf.put_slice(&piece);
            }
            Poll::Ready(Ok(()))
        }
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

    #[tokio::test]
    async fn good_requests_pass_as_they_are_however_they_come_in() {
        let post = "POST / HTTP/1.1\r\nhost: a\r\n\r\n";
        let body = "a\nb\n\nc";
        let chunks = "3;x=y\r\n\n\n\n\r\na\r\n0123456789\r\n0\r\nx: y\r\n\r\n";
        let text = format!("\r\n{GET}{post}{body}{GET}{post}{chunks}{GET}");
        for piece in [1, 2, 3, 7, 64] {
            let parts = read(&text, piece, &[0, 6, 0, CHUNKED, 0]).await;
            let expected = [
                format!("\r\n{GET}"),
                post.to_owned(),
                format!("{body}{GET}"),
                post.to_owned(),
                format!("{chunks}{GET}"),
                String::new(),
            ];
            assert_eq!(parts, expected, "pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn a_bare_lf_in_any_head_becomes_what_no_head_may_hold() {
        for (text, framings) in [
            (GET.replace("\r\n", "\n"), &[][..]),
            (GET.replacen("\r\n", "\n", 1), &[]),
            (format!("\n{GET}"), &[]),
            ("GET / HTTP/1.1\r\nhost: a\r\n\n".to_owned(), &[]),
            (format!("{GET}{}", GET.replace("\r\n", "\n")), &[0]),
            (format!("{GET}abc{}", GET.replace("\r\n", "\n")), &[3]),
            (
                format!("{GET}0\r\n\r\n{}", GET.replace("\r\n", "\n")),
                &[CHUNKED],
            ),
        ] {
            for piece in [1, 5, 64] {
                let read = read(&text, piece, framings).await.concat();
                assert!(read.contains('\0'), "{text:?}: {read:?}");
                assert_eq!(read.len(), text.len());
            }
        }
    }

    #[test]
    fn the_library_tells_where_a_body_ends() {
        let framing = Framing::new();
        framing.tell(&Empty::<bytes::Bytes>::new());
        assert_eq!(framing.take(), 0);
        assert_eq!(framing.take(), UNKNOWN);
        framing.tell(&Full::new(bytes::Bytes::from_static(b"abc")));
        assert_eq!(framing.take(), 3);
        framing.tell(&Unending);
        assert_eq!(framing.take(), CHUNKED);
    }

    /// A body of unknown length.
    struct Unending;

    impl Body for Unending {
        type Data = bytes::Bytes;
        type Error = io::Error;
        fn poll_frame(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, io::Error>>> {
            Poll::Pending
        }
    }
}
