//! The thread that writes what foreign systems sent, as the collector's own rows: nothing is
//! acknowledged before it is synced.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use counterfoil_entry::entry::Entry;
use counterfoil_entry::id::{ALS_LANE, Epoch, OTLP_LANE, RetentionClass};
use counterfoil_entry::record::HeaderRef;
use counterfoil_entry::rows::SpanRow;
use counterfoil_entry::table::TableId;
use counterfoil_spool::{AppendError, Gauges, Lane, Spool};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use super::trouble::Trouble;

/// Requests that wait for the disk; one more waits in its connection.
const QUEUE_DEPTH: usize = 64;
/// Requests that share one `fdatasync` at most.
const GROUP_MAX: usize = 64;
/// Bytes that a row takes in the spool besides its fields: frame, writer, stream.
const ROW_HEAD_BYTES: usize = 512;

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Rows {
    Spans(Vec<SpanRow>),
    Entries(Vec<Entry>),
}

#[derive(Debug)]
struct Job {
    rows: Rows,
    to: oneshot::Sender<Result<(), Trouble>>,
}

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Desk(Sender<Job>);

/// The thread's own: lanes, and how full their spool is.
#[derive(Debug)]
pub(crate) struct Clerk {
    spans: (Lane, RetentionClass),
    entries: (Lane, RetentionClass),
    gauges: Arc<Gauges>,
    spool_bytes_max: u64,
}

impl Desk {
    /// Starts the thread; it ends when the desk is dropped.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn open(clerk: Clerk) -> io::Result<(Self, JoinHandle<()>)> {
        let (jobs, queue) = channel(QUEUE_DEPTH);
        let thread = std::thread::Builder::new()
            .name("foreign rows".to_owned())
            .spawn(move || clerk.run(queue))?;
        Ok((Self(jobs), thread))
    }

    /// Writes `rows`, all or none of them as far as the spool's room decides; they are on the disk when
    /// this returns.
    ///
    /// # Errors
    /// [`Trouble`] when they are not: the sender is to keep them.
    pub(crate) async fn write(&self, rows: Rows) -> Result<(), Trouble> {
        let (to, answer) = oneshot::channel();
        let sent = self.0.send(Job { rows, to }).await;
        sent.map_err(|_| Trouble::Closing)?;
        answer.await.unwrap_or(Err(Trouble::Closing))
    }
}

impl Clerk {
    /// Who writes into `spool`, of which at most `spool_bytes_max` may be filled.
    pub(crate) fn new(
        spool: &Spool,
        spool_bytes_max: u64,
        (spans, entries): (RetentionClass, RetentionClass),
    ) -> Self {
        Self {
            spans: (spool.lane(OTLP_LANE), spans),
            entries: (spool.lane(ALS_LANE), entries),
            gauges: spool.gauges(),
            spool_bytes_max,
        }
    }

    fn run(mut self, mut jobs: Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let others = std::iter::from_fn(|| jobs.try_recv().ok());
            let group: Vec<_> = std::iter::once(first)
                .chain(others.take(GROUP_MAX - 1))
                .map(|job| (job.to, self.append(&job.rows)))
                .collect();
            // One sync brings the rows of both lanes to the disk.
            let synced = self.spans.0.sync();
            if let Err(error) = &synced {
                tracing::error!(%error, "rows of foreign systems cannot be synced");
            }
            for (to, appended) in group {
                let outcome = match &synced {
                    Ok(()) => appended,
                    Err(_) => appended.and(Err(Trouble::Disk)),
                };
                // Who hung up sends again; what was written stays.
                drop(to.send(outcome));
            }
        }
    }

    fn append(&mut self, rows: &Rows) -> Result<(), Trouble> {
        match rows {
            Rows::Spans(rows) => {
                let needed = needed(rows, SpanRow::encode);
                if !self.has_room(needed) {
                    return Err(Trouble::SpoolFull);
                }
                let (lane, class) = &mut self.spans;
                for row in rows {
                    let appended = lane.append(TableId::Spans, class, |header, out| {
                        row.encode(header, out);
                    });
                    appended.map_err(|error| trouble(&error))?;
                }
            }
            Rows::Entries(rows) => {
                let has_room = self.has_room(needed(rows, Entry::encode));
                let (lane, class) = &mut self.entries;
                if !has_room {
                    // Nobody will send them again: the next statement tells how many there were.
                    for _ in rows {
                        let counted = lane.count_drop(TableId::Entries, class, "spool_full");
                        counted.map_err(|error| trouble(&error))?;
                    }
                    return Err(Trouble::SpoolFull);
                }
                for row in rows {
                    let appended = lane.append(TableId::Entries, class, |header, out| {
                        row.encode(header, out);
                    });
                    appended.map_err(|error| trouble(&error))?;
                }
            }
        }
        Ok(())
    }

    /// Whether the spool takes `needed` bytes; nobody else writes into it.
    fn has_room(&self, needed: usize) -> bool {
        let needed = u64::try_from(needed).unwrap_or(u64::MAX);
        self.gauges.spool_bytes().saturating_add(needed) <= self.spool_bytes_max
    }
}

/// Bytes that `rows` take in the spool, at most.
fn needed<T>(rows: &[T], encode: impl Fn(&T, &HeaderRef<'_>, &mut Vec<u8>)) -> usize {
    let header = HeaderRef {
        writer: "",
        epoch: Epoch(0),
        stream: "",
        seq: 0,
    };
    let mut bytes = Vec::new();
    rows.iter().fold(0_usize, |sum, row| {
        bytes.clear();
        encode(row, &header, &mut bytes);
        sum.saturating_add(bytes.len() + ROW_HEAD_BYTES)
    })
}

fn trouble(error: &AppendError) -> Trouble {
    tracing::error!(%error, "a row of a foreign system is not written");
    match error {
        AppendError::Full => Trouble::SpoolFull,
        AppendError::Closed => Trouble::Closing,
        AppendError::TooLarge | AppendError::Io(_) => Trouble::Disk,
    }
}
