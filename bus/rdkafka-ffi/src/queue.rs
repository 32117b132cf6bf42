//! The queue of one assigned partition: taken from the consumer's own queue, emptied by the
//! batch without waiting, and able to say when it is no longer empty.

use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{IsError, RDKafkaErrorCode};
use rdkafka::types::RDKafka;

/// Called on a thread of librdkafka, under the queue's lock, when the queue is no longer empty.
/// It must neither block nor call into librdkafka.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// The queue of one partition of a consumer. While it exists, the partition's records are here
/// and nowhere else; what is not taken stays in librdkafka's bounded prefetch, which is
/// backpressure.
pub struct PartitionQueue<C: ConsumerContext> {
    queue: NonNull<native::rd_kafka_queue_t>,
    /// Twice boxed, for a thin pointer that the callback can be given.
    _wake: Box<Wake>,
    consumer: Arc<BaseConsumer<C>>,
    topic: CString,
    partition: i32,
}

// SAFETY: Threads: a queue may be used from any thread, and `Wake` is `Send + Sync`.
unsafe impl<C: ConsumerContext> Send for PartitionQueue<C> {}
// SAFETY: as above.
unsafe impl<C: ConsumerContext> Sync for PartitionQueue<C> {}

impl<C: ConsumerContext> fmt::Debug for PartitionQueue<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartitionQueue").finish_non_exhaustive()
    }
}

impl<C: ConsumerContext> PartitionQueue<C> {
    /// Splits the partition's queue off the consumer's, before the partition is assigned. `None`
    /// when the name cannot be one of a topic.
    pub fn split(
        consumer: Arc<BaseConsumer<C>>,
        topic: &str,
        partition: i32,
        wake: Wake,
    ) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        // SAFETY: Alive, by `consumer`. Copied: the name is.
        let queue = unsafe {
            native::rd_kafka_queue_get_partition(
                consumer.client().native_ptr(),
                topic.as_ptr(),
                partition,
            )
        };
        let queue = NonNull::new(queue)?;
        let wake = Box::new(wake);
        // SAFETY: the queue is ours and not null. Forwarding to nowhere keeps its records in it,
        // also through later assignments (RD_KAFKA_Q_F_FWD_APP).
        unsafe { native::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut()) };
        // SAFETY: `wake` stays where it is, in its box, until `drop` has taken the callback away.
        unsafe {
            native::rd_kafka_queue_cb_event_enable(
                queue.as_ptr(),
                Some(on_event),
                ptr::from_ref::<Wake>(&wake).cast_mut().cast::<c_void>(),
            );
        }
        Some(Self { queue, _wake: wake, consumer, topic, partition })
    }

    /// One past the last record of the partition, as the brokers said when they answered the last
    /// fetch; asks nobody. `None` before the first answer.
    #[must_use]
    pub fn end_known(&self) -> Option<i64> {
        let (mut low, mut high) = (0, 0);
        // SAFETY: Alive. Threads. Copied: both numbers are written before the call returns.
        let error = unsafe {
            native::rd_kafka_get_watermark_offsets(
                self.consumer.client().native_ptr(),
                self.topic.as_ptr(),
                self.partition,
                &raw mut low,
                &raw mut high,
            )
        };
        // Below zero: not known yet.
        (!error.is_error() && 0 <= high).then_some(high)
    }

    /// Takes up to `at_most` messages, in order, without waiting, and shows each to `each`. Fewer
    /// than `at_most` means that the queue was empty then: the next message calls the wake.
    pub fn take(&self, at_most: usize, mut each: impl FnMut(&Message<'_>)) -> usize {
        let mut taken = Taken { messages: vec![ptr::null_mut(); at_most], count: 0 };
        // SAFETY: Alive. The array has room for `at_most` pointers; a timeout of 0 never waits.
        let count = unsafe {
            native::rd_kafka_consume_batch_queue(
                self.queue.as_ptr(),
                0,
                taken.messages.as_mut_ptr(),
                at_most,
            )
        };
        taken.count = usize::try_from(count).unwrap_or(0);
        for message in &taken.messages[..taken.count] {
            // SAFETY: librdkafka filled the first `count` places with messages that are ours
            // until they are destroyed, which `taken` does after this loop.
            each(&Message { raw: unsafe { &**message } });
        }
        taken.count
    }
}

impl<C: ConsumerContext> Drop for PartitionQueue<C> {
    fn drop(&mut self) {
        // SAFETY: Alive. Taking the callback away takes the queue's lock, under which it is
        // called: afterwards nobody calls `wake` any more, and it may be freed.
        unsafe {
            native::rd_kafka_queue_cb_event_enable(self.queue.as_ptr(), None, ptr::null_mut());
            native::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

extern "C" fn on_event(_client: *mut RDKafka, wake: *mut c_void) {
    // SAFETY: it is the pointer that `split` gave, to a box that outlives the callback.
    let wake = unsafe { &*wake.cast::<Wake>() };
    wake();
}

/// Messages that are destroyed when it is dropped, also by a panic of who looks at them.
struct Taken {
    messages: Vec<*mut native::rd_kafka_message_t>,
    count: usize,
}

impl Drop for Taken {
    fn drop(&mut self) {
        for message in &self.messages[..self.count] {
            // SAFETY: each of the first `count` is a message of ours, destroyed once.
            unsafe { native::rd_kafka_message_destroy(*message) };
        }
    }
}

/// A record as it was consumed, or an error of its partition.
pub struct Message<'a> {
    raw: &'a native::rd_kafka_message_t,
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message").field("offset", &self.offset()).finish_non_exhaustive()
    }
}

impl<'a> Message<'a> {
    /// The error that this is instead of a record, and librdkafka's account of it.
    #[must_use]
    pub fn error(&self) -> Option<(RDKafkaErrorCode, String)> {
        if !self.raw.err.is_error() {
            return None;
        }
        // SAFETY: the message lives; the text belongs to it or is constant.
        let text = unsafe { native::rd_kafka_message_errstr(self.raw) };
        Some((self.raw.err.into(), text_of(text)))
    }

    /// Where it lies in its partition.
    #[must_use]
    pub const fn offset(&self) -> i64 {
        self.raw.offset
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: a record's key is `key_len` bytes that live as long as the message.
        unsafe { bytes_of(self.raw.key.cast(), self.raw.key_len) }
    }

    /// Its value; `None` is a tombstone.
    #[must_use]
    pub fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: as for the key.
        unsafe { bytes_of(self.raw.payload.cast(), self.raw.len) }
    }

    /// Milliseconds since the Unix epoch; `None` when it was never stamped.
    #[must_use]
    pub fn timestamp(&self) -> Option<i64> {
        let mut kind = native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives, and `kind` is written only during the call.
        let time = unsafe { native::rd_kafka_message_timestamp(self.raw, &raw mut kind) };
        (kind != native::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE)
            .then_some(time)
    }

    /// Shows each header's name and value, in order. librdkafka gives a name only up to its first
    /// zero byte.
    pub fn headers(&self, mut each: impl FnMut(&'a [u8], Option<&'a [u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives; the list it gives stays its own.
        let code = unsafe { native::rd_kafka_message_headers(self.raw, &raw mut headers) };
        if code.is_error() {
            // There are none, or they cannot be read; the record itself was checked by its CRC.
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut length) = (ptr::null::<c_char>(), ptr::null(), 0);
            // SAFETY: the list lives as long as the message; past its end it says so.
            let code = unsafe {
                native::rd_kafka_header_get_all(
                    headers,
                    index,
                    &raw mut name,
                    &raw mut value,
                    &raw mut length,
                )
            };
            if code.is_error() {
                return;
            }
            // SAFETY: a name ends with a zero byte, a value has `length` bytes, and both live as
            // long as the message.
            let (name, value) =
                unsafe { (CStr::from_ptr(name).to_bytes(), bytes_of(value.cast(), length)) };
            each(name, value);
        }
    }
}

/// `length` bytes at `start`, or nothing for a null pointer.
///
/// # Safety
///
/// Unless it is null, `start` must point to `length` bytes that live for `'a`.
unsafe fn bytes_of<'a>(start: *const u8, length: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise.
    Some(unsafe { slice::from_raw_parts(start, length) })
}

/// A copy of a text of librdkafka's.
pub(crate) fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: texts that librdkafka hands out end with a zero byte.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
