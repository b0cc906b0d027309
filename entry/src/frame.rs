//! Framed files of the spool and the journal, and batches: `docs/format.md` section 4.

/// Largest frame that a reader takes (bytes). A batch is at most 4 MiB; the rest is room.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Appends a frame to `out`: `u32 len | u32 crc | u8 kind | payload`.
///
/// The payload must be shorter than [`FRAME_BYTES_MAX`]; a longer one could not be read back.
pub fn write_frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    write_frame_with(out, kind, |out| out.extend_from_slice(payload));
}

/// As [`write_frame`], with the payload written straight into `out` by `payload`.
pub fn write_frame_with(out: &mut Vec<u8>, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.push(kind);
    payload(out);
    let body = out.get(start + 8..).unwrap_or_default();
    debug_assert!(body.len() <= FRAME_BYTES_MAX, "a frame stays readable");
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let crc = crc32fast::hash(body).to_be_bytes();
    let head = out.iter_mut().skip(start);
    head.zip(len.iter().chain(&crc))
        .for_each(|(byte, value)| *byte = *value);
}

/// One whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: u8,
    /// The payload.
    pub payload: &'a [u8],
    /// Where the frame ends, counted from where the reader began.
    pub end: usize,
}

/// Reads whole frames and stops before the first that is cut or damaged.
#[derive(Debug, Clone)]
pub struct FrameReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> FrameReader<'a> {
    /// A reader of `bytes`, which begin at a frame (after the magic).
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Where the whole frames read so far end.
    #[must_use]
    pub const fn valid_bytes(&self) -> usize {
        self.at
    }

    /// Whether bytes follow the whole frames: a cut or damaged one.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.at < self.bytes.len()
    }
}

impl<'a> Iterator for FrameReader<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let (len, rest) = self.bytes.get(self.at..)?.split_first_chunk()?;
        let (crc, rest) = rest.split_first_chunk()?;
        let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
        if len > FRAME_BYTES_MAX {
            return None;
        }
        let body = rest.get(..len)?;
        let (kind, payload) = body.split_first()?;
        if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
            return None;
        }
        self.at += 8 + len;
        Some(Frame {
            kind: *kind,
            payload,
            end: self.at,
        })
    }
}

/// Appends a record to a batch: `u32 len | R`.
pub fn push_record(batch: &mut Vec<u8>, record: &[u8]) {
    batch.extend_from_slice(
        &u32::try_from(record.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    batch.extend_from_slice(record);
}

/// A batch that ends inside a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the batch ends inside a record")]
pub struct CutBatch;

/// The records of a batch, in order. After an error there is no further item.
pub fn records(batch: &[u8]) -> impl Iterator<Item = Result<&[u8], CutBatch>> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = split_record(rest);
        rest = record.map_or(&[][..], |(_, tail)| tail);
        Some(record.map(|(head, _)| head).ok_or(CutBatch))
    })
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        payloads
            .iter()
            .for_each(|payload| write_frame(&mut out, 7, payload));
        out
    }

    proptest! {
        #[test]
        fn a_cut_file_keeps_its_whole_frames(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..8),
            cut in any::<proptest::sample::Index>(),
        ) {
            let whole = file(&payloads);
            let cut = cut.index(whole.len());
            let mut reader = FrameReader::new(&whole[..cut]);
            let read: Vec<Vec<u8>> = reader.by_ref().map(|frame| frame.payload.to_vec()).collect();
            prop_assert!(read.len() < payloads.len());
            prop_assert_eq!(&payloads[..read.len()], &read[..]);
            prop_assert_eq!(reader.is_cut(), reader.valid_bytes() < cut);
        }

        #[test]
        fn no_frame_from_a_flipped_byte_on_is_read(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 1..8),
            at in any::<proptest::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let mut bytes = file(&payloads);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let mut reader = FrameReader::new(&bytes);
            reader.by_ref().for_each(drop);
            prop_assert!(reader.valid_bytes() <= at);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            FrameReader::new(&bytes).for_each(drop);
            records(&bytes).for_each(drop);
        }
    }

    #[test]
    fn a_batch_gives_its_records_back_and_tells_when_it_is_cut() {
        let mut batch = Vec::new();
        push_record(&mut batch, b"one");
        push_record(&mut batch, b"");
        assert_eq!(
            records(&batch).collect::<Vec<_>>(),
            [Ok(&b"one"[..]), Ok(&b""[..])]
        );
        batch.pop();
        assert_eq!(records(&batch).last(), Some(Err(CutBatch)));
    }
}
