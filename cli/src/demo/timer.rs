//! Sleeps that end within about a tenth of a millisecond; the runtime's own are a whole one coarse.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use counterfoil_entry::clock;
use tokio::sync::oneshot;

/// A thread that wakes sleepers. It ends when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct Timer {
    shared: Arc<Shared>,
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
        Ok(Self { shared })
    }

    /// Sleeps for so many nanoseconds; not at all for less than a twentieth of a millisecond.
    pub(crate) async fn sleep(&self, ns: u64) {
        if ns < 50_000 {
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
            let at = (clock::mono_ns().saturating_add(ns), queue.begun);
            queue.due.push(Reverse(Sleeper { at, wake }));
        }
        self.shared.changed.notify_one();
        // The thread lives as long as this handle, so the only other end is a panic there.
        let _woken = woken.await;
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
    async fn a_sleep_is_never_too_short_and_rarely_much_too_long() {
        let timer = Timer::start().unwrap();
        let mut late = Vec::new();
        for ns in [100_000, 700_000, 2_000_000, 5_000_000].repeat(5) {
            let from = clock::mono_ns();
            timer.sleep(ns).await;
            let took = clock::mono_ns() - from;
            assert!(took >= ns, "{took} of {ns}");
            late.push(took - ns);
        }
        late.sort_unstable();
        assert!(late[late.len() / 2] < 700_000, "{late:?}");
    }

    #[tokio::test]
    async fn sleepers_wake_in_order_of_their_times() {
        let timer = Timer::start().unwrap();
        let woken = Mutex::new(Vec::new());
        let sleep = async |ms: u64| {
            timer.sleep(ms * 1_000_000).await;
            woken.lock().unwrap().push(ms);
        };
        tokio::join!(sleep(40), sleep(5), sleep(20));
        assert_eq!(*woken.lock().unwrap(), [5, 20, 40]);
    }
}
