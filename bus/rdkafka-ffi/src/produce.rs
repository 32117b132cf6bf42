//! Producing with a cached topic handle: one call per record, without a C string of the topic's
//! name for each, headers as raw bytes and with duplicates.

use std::ffi::{CString, c_void};
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdkafka::bindings as native;
use rdkafka::error::{IsError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

use native::rd_kafka_vtype_t as Kind;
use native::rd_kafka_vu_s__bindgen_ty_1 as Union;
use native::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 as Memory;

/// A topic as a producer sees it. The deliveries come to the producer's context, each with the
/// number that its record was given.
pub struct ProducerTopic<C: ProducerContext<DeliveryOpaque = usize> + 'static> {
    topic: NonNull<native::rd_kafka_topic_t>,
    producer: Arc<BaseProducer<C>>,
}

// SAFETY: Threads: a topic handle may be used from any thread.
unsafe impl<C: ProducerContext<DeliveryOpaque = usize> + 'static> Send for ProducerTopic<C> {}
// SAFETY: as above.
unsafe impl<C: ProducerContext<DeliveryOpaque = usize> + 'static> Sync for ProducerTopic<C> {}

impl<C: ProducerContext<DeliveryOpaque = usize> + 'static> fmt::Debug for ProducerTopic<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerTopic").finish_non_exhaustive()
    }
}

/// A record on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a, H> {
    /// The partition it goes to.
    pub partition: i32,
    /// Milliseconds since the Unix epoch; librdkafka takes 0 for "now".
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// How many headers there are, for their list to have the right size at once.
    pub header_count: usize,
    /// Names and values, in order.
    pub headers: H,
}

impl<C: ProducerContext<DeliveryOpaque = usize> + 'static> ProducerTopic<C> {
    /// A handle of this topic. It need not exist.
    ///
    /// # Errors
    ///
    /// When the name cannot be one of a topic.
    pub fn new(producer: Arc<BaseProducer<C>>, name: &str) -> Result<Self, RDKafkaErrorCode> {
        let name = CString::new(name).map_err(|_zero_byte| RDKafkaErrorCode::InvalidArgument)?;
        // SAFETY: Alive, by `producer`. Copied: the name is. Without a configuration the
        // producer's own holds.
        let topic = unsafe {
            native::rd_kafka_topic_new(
                producer.client().native_ptr(),
                name.as_ptr(),
                ptr::null_mut(),
            )
        };
        let topic = NonNull::new(topic).ok_or(RDKafkaErrorCode::InvalidTopic)?;
        Ok(Self { topic, producer })
    }

    /// Hands a record to the producer, which copies it. Does not wait. `number` comes back with
    /// its delivery, and only if this succeeded.
    ///
    /// # Errors
    ///
    /// [`RDKafkaErrorCode::QueueFull`] when it may be tried again later, others when it may not.
    pub fn produce<'a>(
        &self,
        record: Outgoing<'a, impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>>,
        number: usize,
    ) -> Result<(), RDKafkaErrorCode> {
        const FLAGS: i32 = native::RD_KAFKA_MSG_F_COPY;
        let part = |vtype, u| native::rd_kafka_vu_t { vtype, u };
        let mut parts = [
            part(Kind::RD_KAFKA_VTYPE_RKT, Union { rkt: self.topic.as_ptr() }),
            part(Kind::RD_KAFKA_VTYPE_PARTITION, Union { i32_: record.partition }),
            part(Kind::RD_KAFKA_VTYPE_MSGFLAGS, Union { i: FLAGS }),
            part(Kind::RD_KAFKA_VTYPE_TIMESTAMP, Union { i64_: record.timestamp }),
            part(Kind::RD_KAFKA_VTYPE_KEY, Union { mem: memory(record.key) }),
            part(Kind::RD_KAFKA_VTYPE_VALUE, Union { mem: memory(record.value) }),
            part(Kind::RD_KAFKA_VTYPE_OPAQUE, Union { ptr: number as *mut c_void }),
            part(Kind::RD_KAFKA_VTYPE_END, Union { i: 0 }),
        ];
        let headers = (record.header_count != 0)
            .then(|| NativeHeaders::of(record.header_count, record.headers))
            .transpose()?;
        let mut count = parts.len() - 1;
        if let Some(headers) = &headers {
            parts[count] =
                part(Kind::RD_KAFKA_VTYPE_HEADERS, Union { headers: headers.list.as_ptr() });
            count += 1;
        }
        // SAFETY: Alive. Copied: key and value are, by the flag. Each part has the member that
        // its type names. The opaque is a number, never followed as a pointer: the context's
        // `DeliveryOpaque` is `usize`.
        let error = unsafe {
            native::rd_kafka_produceva(self.producer.client().native_ptr(), parts.as_ptr(), count)
        };
        if error.is_null() {
            if let Some(headers) = headers {
                // The message owns the list now.
                std::mem::forget(headers);
            }
            return Ok(());
        }
        // SAFETY: a non-null error is ours, read once and destroyed once.
        let code = unsafe {
            let code = native::rd_kafka_error_code(error);
            native::rd_kafka_error_destroy(error);
            code
        };
        Err(code.into())
    }
}

impl<C: ProducerContext<DeliveryOpaque = usize> + 'static> Drop for ProducerTopic<C> {
    fn drop(&mut self) {
        // SAFETY: Alive, and destroyed once. Messages in flight hold references of their own.
        unsafe { native::rd_kafka_topic_destroy(self.topic.as_ptr()) };
    }
}

/// A null pointer is a null key or value, a pointer with length 0 an empty one.
fn memory(bytes: Option<&[u8]>) -> Memory {
    match bytes {
        Some(bytes) => Memory { ptr: bytes.as_ptr().cast_mut().cast(), size: bytes.len() },
        None => Memory { ptr: ptr::null_mut(), size: 0 },
    }
}

/// A list of headers that no message owns yet.
struct NativeHeaders {
    list: NonNull<native::rd_kafka_headers_t>,
}

impl NativeHeaders {
    fn of<'a>(
        count: usize,
        headers: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<Self, RDKafkaErrorCode> {
        // SAFETY: it makes an empty list with room for `count`.
        let list = unsafe { native::rd_kafka_headers_new(count) };
        let list = Self { list: NonNull::new(list).ok_or(RDKafkaErrorCode::Fail)? };
        for (name, value) in headers {
            let (start, length) = match value {
                Some(value) => (value.as_ptr(), signed(value.len())?),
                None => (ptr::null(), 0),
            };
            // SAFETY: the list is ours. Copied: name and value are, with the lengths given.
            let code = unsafe {
                native::rd_kafka_header_add(
                    list.list.as_ptr(),
                    name.as_ptr().cast(),
                    signed(name.len())?,
                    start.cast(),
                    length,
                )
            };
            if code.is_error() {
                return Err(code.into());
            }
        }
        Ok(list)
    }
}

fn signed(length: usize) -> Result<isize, RDKafkaErrorCode> {
    isize::try_from(length).map_err(|_too_long| RDKafkaErrorCode::MessageSizeTooLarge)
}

impl Drop for NativeHeaders {
    fn drop(&mut self) {
        // SAFETY: it is still ours: `produce` forgets it once a message has taken it over.
        unsafe { native::rd_kafka_headers_destroy(self.list.as_ptr()) };
    }
}
