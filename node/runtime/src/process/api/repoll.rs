//! Polls a future again at once when it woke itself.
//!
//! hyper reads a request's body in the same task as whoever waits for it, and wakes that task for
//! each part. To tokio a task that is woken while it runs is one that yields: it goes to the end of
//! the queue, and another thread is woken to look at it. That cost two system calls and a change of
//! threads for every answer of a worker.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;

/// Polls in a row before others get their turn.
const POLLS_MAX: u32 = 32;

/// See the [module documentation](self).
#[derive(Debug)]
pub(super) struct Repoll<F> {
    future: Pin<Box<F>>,
    woken: Arc<Woken>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Woken {
    /// Since the last poll began.
    again: AtomicBool,
    /// Who wakes it then need not tell the task.
    polled: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.again.store(true, Ordering::SeqCst);
        if !self.polled.load(Ordering::SeqCst) {
            self.task.wake();
        }
    }
}

impl<F: Future> Repoll<F> {
    pub(super) fn new(future: F) -> Self {
        let woken = Arc::<Woken>::default();
        Self { future: Box::pin(future), waker: Arc::clone(&woken).into(), woken }
    }
}

impl<F: Future> Future for Repoll<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        this.woken.task.register(context.waker());
        for _poll in 0..POLLS_MAX {
            this.woken.polled.store(true, Ordering::SeqCst);
            this.woken.again.store(false, Ordering::SeqCst);
            let polled = this.future.as_mut().poll(&mut Context::from_waker(&this.waker));
            this.woken.polled.store(false, Ordering::SeqCst);
            // Whoever wakes it from here on tells the task.
            if polled.is_ready() || !this.woken.again.load(Ordering::SeqCst) {
                return polled;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    /// Ready at this poll; wakes itself at every other.
    fn ready_at(last: u32) -> impl Future<Output = u32> {
        let mut polls = 0;
        poll_fn(move |context| {
            polls += 1;
            if polls == last {
                return Poll::Ready(polls);
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[test]
    fn who_wakes_itself_is_polled_again_at_once() {
        let mut repoll = Repoll::new(ready_at(POLLS_MAX));
        let polled = Pin::new(&mut repoll).poll(&mut Context::from_waker(Waker::noop()));
        assert_eq!(polled, Poll::Ready(POLLS_MAX));
    }

    #[tokio::test]
    async fn others_get_their_turn_and_no_wake_is_lost() {
        assert_eq!(Repoll::new(ready_at(10 * POLLS_MAX)).await, 10 * POLLS_MAX);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let waits = tokio::spawn(Repoll::new(receiver));
        tokio::time::sleep(Duration::from_millis(5)).await;
        sender.send(7).unwrap();
        assert_eq!(waits.await.unwrap(), Ok(7));
    }
}
