//! What a client says of itself, in the order in which it says it: whoever has taken a record from a
//! partition finds here all that the client said before it asked for that record.

use std::ffi::c_int;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

use crate::queue::text_of;

/// The log of a consumer, which it does not get with its other events from here on.
pub struct LogQueue<C: ConsumerContext> {
    queue: NonNull<native::rd_kafka_queue_t>,
    consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: Threads: a queue may be used from any thread.
unsafe impl<C: ConsumerContext> Send for LogQueue<C> {}
// SAFETY: as above.
unsafe impl<C: ConsumerContext> Sync for LogQueue<C> {}

impl<C: ConsumerContext> fmt::Debug for LogQueue<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogQueue").finish_non_exhaustive()
    }
}

impl<C: ConsumerContext> LogQueue<C> {
    /// Has what the consumer logs come here. `None` when it has no log that could: rdkafka makes all of
    /// its clients with one.
    pub fn of(consumer: Arc<BaseConsumer<C>>) -> Option<Self> {
        let client = consumer.client().native_ptr();
        // SAFETY: Alive, by `consumer`.
        let queue = NonNull::new(unsafe { native::rd_kafka_queue_new(client) })?;
        // From here on it is destroyed whatever comes.
        let log = Self { queue, consumer };
        // SAFETY: Alive. The queue is ours and not null.
        let error = unsafe { native::rd_kafka_set_log_queue(client, queue.as_ptr()) };
        (error == native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(log)
    }

    /// Shows each line that there is to `each`, with its level (7 is the least) and its facility, and
    /// waits for none.
    pub fn take(&self, mut each: impl FnMut(i32, &str, &str)) {
        loop {
            // SAFETY: Alive. Threads. A timeout of 0 never waits.
            let event = unsafe { native::rd_kafka_queue_poll(self.queue.as_ptr(), 0) };
            let Some(event) = NonNull::new(event) else { return };
            let (mut facility, mut text, mut level) = (ptr::null(), ptr::null(), 0 as c_int);
            // SAFETY: the event is ours until it is destroyed below; the texts belong to it.
            let is_log = unsafe {
                native::rd_kafka_event_log(
                    event.as_ptr(),
                    &raw mut facility,
                    &raw mut text,
                    &raw mut level,
                )
            };
            if is_log == 0 {
                each(level, &text_of(facility), &text_of(text));
            }
            // SAFETY: it is destroyed once.
            unsafe { native::rd_kafka_event_destroy(event.as_ptr()) };
        }
    }
}

impl<C: ConsumerContext> Drop for LogQueue<C> {
    fn drop(&mut self) {
        // SAFETY: Alive. The log goes to the client's own queue again before this one is let go.
        unsafe {
            native::rd_kafka_set_log_queue(self.consumer.client().native_ptr(), ptr::null_mut());
            native::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}
