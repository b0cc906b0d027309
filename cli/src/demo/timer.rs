//! Sleeps that end within about a tenth of a millisecond; the runtime's own are a whole one coarse.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use counterfoil_entry::clock;
use tokio::sync::oneshot;

/// More than this is a busy machine, not the time of waking.
const LATE_MAX_NS: u64 = 500_000;

/// A thread that wakes sleepers. It ends when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct Timer {
    shared: Arc<Shared>,
    /// Running mean of the time from a sleeper's point to its going on.
    late_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    due: BinaryHeap<Reverse<Sleeper>>,
    begun: u64,
    stopped: bool,
}

/// Ordered by time, then by age.
#[derive(Debug)]
struct Sleeper {
    at: (u64, u64),
    wake: oneshot::Sender<()>,
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Sleeper {}

impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sleeper {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Timer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::Builder::new()
            .name("timer".to_owned())
            .spawn(move || theirs.run())?;
        Ok(Self {
            shared,
            late_ns: AtomicU64::new(0),
        })
    }

    /// Sleeps until this point of the monotonic clock, in nanoseconds.
    ///
    /// Waking takes time. What it took lately is slept less, so that the sleeper goes on at that point in the mean.
    pub(crate) async fn sleep_until(&self, at_ns: u64) {
        let late = self.late_ns.load(Ordering::Relaxed);
        let wake_at = at_ns.saturating_sub(late);
        if wake_at <= clock::mono_ns() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        {
            let mut queue = self
                .shared
                .queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            queue.begun += 1;
            let at = (wake_at, queue.begun);
            queue.due.push(Reverse(Sleeper { at, wake }));
        }
        self.shared.changed.notify_one();
        // The thread lives as long as this handle, so the only other end is a panic there.
        let _woken = woken.await;
        let took = clock::mono_ns().saturating_sub(wake_at).min(LATE_MAX_NS);
        self.late_ns
            .store((late * 15 + took) / 16, Ordering::Relaxed);
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stopped = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        while !queue.stopped {
            let now = clock::mono_ns();
            let next = queue.due.peek().map(|Reverse(sleeper)| sleeper.at.0);
            match next {
                Some(at) if at <= now => {
                    if let Some(Reverse(sleeper)) = queue.due.pop() {
                        // Who sleeps may have gone away.
                        let _gone = sleeper.wake.send(());
                    }
                }
                Some(at) => {
                    let wait = Duration::from_nanos(at - now);
                    queue = self
                        .changed
                        .wait_timeout(queue, wait)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
                None => {
                    queue = self
                        .changed
                        .wait(queue)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sleep_ends_close_to_its_point() {
        let timer = Timer::start().unwrap();
        let mut off = Vec::new();
        for ns in [100_000, 700_000, 2_000_000, 5_000_000].repeat(8) {
            let at = clock::mono_ns() + ns;
            timer.sleep_until(at).await;
            let now = clock::mono_ns();
            assert!(now + LATE_MAX_NS >= at, "{now} is long before {at}");
            off.push(now.abs_diff(at));
        }
        off.sort_unstable();
        assert!(off[off.len() / 2] < 700_000, "{off:?}");
    }

    #[tokio::test]
    async fn sleepers_wake_in_order_of_their_times() {
        let timer = Timer::start().unwrap();
        let woken = Mutex::new(Vec::new());
        let sleep = async |ms: u64| {
            timer.sleep_until(clock::mono_ns() + ms * 1_000_000).await;
            woken.lock().unwrap().push(ms);
        };
        tokio::join!(sleep(40), sleep(5), sleep(20));
        assert_eq!(*woken.lock().unwrap(), [5, 20, 40]);
    }
}
