//! Admin calls that block until they are answered: the ids of topics, and the committed offsets
//! of any group, with their metadata.
//!
//! **Requests to a group's coordinator must not time out while the coordinator is away.** When it
//! is back, librdkafka 2.12 takes up the request that is over and reads freed memory, which ends
//! the process (confluentinc/librdkafka issue 4605, pull request 5397). So they have the longest
//! time there is, an hour, and who waits for one says when to give up; the client must then
//! never be destroyed. Whoever asks should first see that the brokers answer at all, and must use
//! a consumer with a `group.id`: on other clients an answer of "not coordinator" is followed into
//! a null pointer (`rd_kafka_handle_OffsetFetch`). A consumer is what these calls take.

use std::ffi::{CString, c_char};
use std::ptr::{self, NonNull};
use std::slice;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::bindings as native;
use rdkafka::client::{Client, ClientContext};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{IsError, RDKafkaErrorCode};

use native::rd_kafka_admin_op_t as Op;

use crate::queue::text_of;

/// How much longer than the request itself its result is waited for: the client answers every
/// request, at the latest when it has timed out.
const GRACE: Duration = Duration::from_secs(5);
/// The longest time that librdkafka takes.
const LONGEST: Duration = Duration::from_secs(3_600);
/// How often somebody who waits is asked whether to go on.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// An admin call that did not happen, or not for one of its topics or partitions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct AdminError {
    /// Which error it is.
    pub code: RDKafkaErrorCode,
    /// librdkafka's or the broker's account of it.
    pub reason: String,
}

impl AdminError {
    fn new(code: native::rd_kafka_resp_err_t, reason: *const c_char) -> Self {
        let code = RDKafkaErrorCode::from(code);
        let reason = text_of(reason);
        Self { code, reason: if reason.is_empty() { code.to_string() } else { reason } }
    }
}

/// A topic that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its id, unlike that of every topic before or after it.
    pub id: u128,
    /// How many partitions it has.
    pub partitions: usize,
}

/// What became of one name in [`describe_topics`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The name asked for.
    pub name: String,
    /// The topic of that name, or why there is none.
    pub found: Result<Description, AdminError>,
}

/// A committed offset of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupOffset {
    /// Of which topic.
    pub topic: String,
    /// Of which partition.
    pub partition: i32,
    /// The next record that the group reads; negative when none was committed.
    pub offset: i64,
    /// What was committed with it.
    pub metadata: String,
}

/// Describes topics, one answer per name, in no particular order. Blocks.
///
/// # Errors
///
/// When the call as a whole failed.
pub fn describe_topics<C: ClientContext>(
    client: &Client<C>,
    names: &[&str],
    timeout: Duration,
) -> Result<Vec<Described>, AdminError> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let names = names.iter().map(|name| c_string(name)).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: Copied: the collection has its own names.
    let topics = unsafe {
        native::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len())
    };
    let call = Call::new(client, Op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, timeout)?;
    // SAFETY: Alive. Copied: the call keeps nothing of `topics`, which is destroyed once, here.
    unsafe {
        native::rd_kafka_DescribeTopics(
            client.native_ptr(),
            topics,
            call.options.as_ptr(),
            call.queue.as_ptr(),
        );
        native::rd_kafka_TopicCollection_destroy(topics);
    }
    let event = call.wait(&|| false)?;
    // SAFETY: the event is the result of this call, and everything read below belongs to it and
    // lives until it is dropped at the end.
    let described = unsafe {
        let result = native::rd_kafka_event_DescribeTopics_result(event.raw.as_ptr());
        let mut count = 0;
        let topics = native::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        let topics = array(topics, count);
        topics.iter().map(|topic| description(*topic)).collect()
    };
    Ok(described)
}

/// # Safety
///
/// `topic` must be of a result that lives.
unsafe fn description(topic: *const native::rd_kafka_TopicDescription_t) -> Described {
    // SAFETY: by the caller's promise; what is asked of the topic belongs to it.
    unsafe {
        let name = text_of(native::rd_kafka_TopicDescription_name(topic));
        if let Some(error) = error_of(native::rd_kafka_TopicDescription_error(topic)) {
            return Described { name, found: Err(error) };
        }
        let id = native::rd_kafka_TopicDescription_topic_id(topic);
        let high = native::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned();
        let low = native::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned();
        let mut partitions = 0;
        native::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
        let id = u128::from(high) << 64 | u128::from(low);
        Described { name, found: Ok(Description { id, partitions }) }
    }
}

/// Commits offsets, with their metadata, for a group that nobody need be a member of. Blocks,
/// until `give_up` says so: then the client must not be destroyed any more.
///
/// # Errors
///
/// When the call failed, or for the first partition that was refused:
/// [`RDKafkaErrorCode::UnknownMemberId`] when somebody subscribes in that group,
/// [`RDKafkaErrorCode::InProgress`] when it was given up.
pub fn alter_group_offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    offsets: &TopicPartitionList,
    give_up: &dyn Fn() -> bool,
) -> Result<(), AdminError> {
    let client = with_group(consumer)?;
    let group = c_string(group)?;
    let call = Call::new(client, Op::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS, LONGEST)?;
    // SAFETY: Alive. Copied: group and list are, by `new`; the request is destroyed once.
    unsafe {
        let mut request =
            native::rd_kafka_AlterConsumerGroupOffsets_new(group.as_ptr(), offsets.ptr());
        native::rd_kafka_AlterConsumerGroupOffsets(
            client.native_ptr(),
            &raw mut request,
            1,
            call.options.as_ptr(),
            call.queue.as_ptr(),
        );
        native::rd_kafka_AlterConsumerGroupOffsets_destroy(request);
    }
    let event = call.wait(give_up)?;
    // SAFETY: as in `describe_topics`.
    unsafe {
        let result = native::rd_kafka_event_AlterConsumerGroupOffsets_result(event.raw.as_ptr());
        let mut count = 0;
        let groups =
            native::rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &raw mut count);
        partitions_of(array(groups, count)).map(drop)
    }
}

/// Every offset that a group has committed. A group without any has none. Blocks as
/// [`alter_group_offsets`] does.
///
/// # Errors
///
/// When the call failed, or for the first partition whose offset could not be read.
pub fn list_group_offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    give_up: &dyn Fn() -> bool,
) -> Result<Vec<GroupOffset>, AdminError> {
    let client = with_group(consumer)?;
    let group = c_string(group)?;
    let call = Call::new(client, Op::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS, LONGEST)?;
    // SAFETY: as in `alter_group_offsets`; no list means all partitions.
    unsafe {
        let mut request =
            native::rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), ptr::null());
        native::rd_kafka_ListConsumerGroupOffsets(
            client.native_ptr(),
            &raw mut request,
            1,
            call.options.as_ptr(),
            call.queue.as_ptr(),
        );
        native::rd_kafka_ListConsumerGroupOffsets_destroy(request);
    }
    let event = call.wait(give_up)?;
    // SAFETY: as in `describe_topics`.
    unsafe {
        let result = native::rd_kafka_event_ListConsumerGroupOffsets_result(event.raw.as_ptr());
        let mut count = 0;
        let groups =
            native::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &raw mut count);
        partitions_of(array(groups, count))
    }
}

/// Forgets committed offsets of a group. Blocks as [`alter_group_offsets`] does.
///
/// # Errors
///
/// When the call failed, or for the first partition that was refused.
pub fn delete_group_offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    partitions: &TopicPartitionList,
    give_up: &dyn Fn() -> bool,
) -> Result<(), AdminError> {
    let client = with_group(consumer)?;
    let group = c_string(group)?;
    let call = Call::new(client, Op::RD_KAFKA_ADMIN_OP_DELETECONSUMERGROUPOFFSETS, LONGEST)?;
    // SAFETY: as in `alter_group_offsets`.
    unsafe {
        let mut request =
            native::rd_kafka_DeleteConsumerGroupOffsets_new(group.as_ptr(), partitions.ptr());
        native::rd_kafka_DeleteConsumerGroupOffsets(
            client.native_ptr(),
            &raw mut request,
            1,
            call.options.as_ptr(),
            call.queue.as_ptr(),
        );
        native::rd_kafka_DeleteConsumerGroupOffsets_destroy(request);
    }
    let event = call.wait(give_up)?;
    // SAFETY: as in `describe_topics`.
    unsafe {
        let result = native::rd_kafka_event_DeleteConsumerGroupOffsets_result(event.raw.as_ptr());
        let mut count = 0;
        let groups =
            native::rd_kafka_DeleteConsumerGroupOffsets_result_groups(result, &raw mut count);
        partitions_of(array(groups, count)).map(drop)
    }
}

/// The client of a consumer that has a group of its own.
fn with_group<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Result<&Client<C>, AdminError> {
    if consumer.group_metadata().is_some() {
        return Ok(consumer.client());
    }
    let reason = "the consumer has no group.id".to_owned();
    Err(AdminError { code: RDKafkaErrorCode::InvalidArgument, reason })
}

/// The partitions of the one group that was asked for, or the first error among them.
///
/// # Safety
///
/// The groups must be of a result that lives.
unsafe fn partitions_of(
    groups: &[*const native::rd_kafka_group_result_t],
) -> Result<Vec<GroupOffset>, AdminError> {
    let mut found = Vec::new();
    for group in groups {
        // SAFETY: by the caller's promise; the list and its elements belong to the group.
        unsafe {
            if let Some(error) = error_of(native::rd_kafka_group_result_error(*group)) {
                return Err(error);
            }
            let list = native::rd_kafka_group_result_partitions(*group);
            let Some(list) = list.as_ref() else { continue };
            for one in array(list.elems, usize::try_from(list.cnt).unwrap_or(0)) {
                if one.err.is_error() {
                    return Err(AdminError::new(one.err, ptr::null()));
                }
                let metadata = array(one.metadata.cast::<u8>(), one.metadata_size);
                found.push(GroupOffset {
                    topic: text_of(one.topic),
                    partition: one.partition,
                    offset: one.offset,
                    metadata: String::from_utf8_lossy(metadata).into_owned(),
                });
            }
        }
    }
    Ok(found)
}

/// `count` things at `start`; none at a null pointer.
///
/// # Safety
///
/// Unless it is null, `start` must point to `count` values that live for `'a`.
unsafe fn array<'a, T>(start: *const T, count: usize) -> &'a [T] {
    if start.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: by the caller's promise.
    unsafe { slice::from_raw_parts(start, count) }
}

/// # Safety
///
/// `error` must be null or belong to a result that lives.
unsafe fn error_of(error: *const native::rd_kafka_error_t) -> Option<AdminError> {
    if error.is_null() {
        return None;
    }
    // SAFETY: by the caller's promise; the text belongs to the error.
    unsafe {
        let code = native::rd_kafka_error_code(error);
        code.is_error().then(|| AdminError::new(code, native::rd_kafka_error_string(error)))
    }
}

fn c_string(text: &str) -> Result<CString, AdminError> {
    CString::new(text).map_err(|error| AdminError {
        code: RDKafkaErrorCode::InvalidArgument,
        reason: error.to_string(),
    })
}

/// A request's options, and the queue that its answer comes to.
struct Call {
    options: NonNull<native::rd_kafka_AdminOptions_t>,
    queue: NonNull<native::rd_kafka_queue_t>,
    timeout: Duration,
}

impl Call {
    /// The caller keeps `client` alive until the call is dropped: it lives on the caller's stack.
    fn new<C: ClientContext>(
        client: &Client<C>,
        op: Op,
        timeout: Duration,
    ) -> Result<Self, AdminError> {
        let failed = || AdminError {
            code: RDKafkaErrorCode::Fail,
            reason: "could not make a request".to_owned(),
        };
        // SAFETY: Alive, by `client`.
        let options = unsafe { native::rd_kafka_AdminOptions_new(client.native_ptr(), op) };
        let options = NonNull::new(options).ok_or_else(failed)?;
        // SAFETY: Alive. From here on `Call` destroys both.
        let queue = NonNull::new(unsafe { native::rd_kafka_queue_new(client.native_ptr()) });
        let queue = queue.ok_or_else(failed)?;
        let call = Self { options, queue, timeout };
        let mut reason: [c_char; 512] = [0; 512];
        // SAFETY: the options are ours, and `reason` has the length given.
        let code = unsafe {
            native::rd_kafka_AdminOptions_set_request_timeout(
                call.options.as_ptr(),
                millis(timeout),
                reason.as_mut_ptr(),
                reason.len(),
            )
        };
        if code.is_error() { Err(AdminError::new(code, reason.as_ptr())) } else { Ok(call) }
    }

    /// The answer, if it is not an error.
    fn wait(self, give_up: &dyn Fn() -> bool) -> Result<Event, AdminError> {
        let until = Instant::now() + self.timeout + GRACE;
        let failed = |code, reason: &str| Err(AdminError { code, reason: reason.to_owned() });
        let event = loop {
            // SAFETY: Alive; the event that comes is ours.
            let event =
                unsafe { native::rd_kafka_queue_poll(self.queue.as_ptr(), millis(ASK_EVERY)) };
            if let Some(raw) = NonNull::new(event) {
                break Event { raw };
            }
            if give_up() {
                return failed(RDKafkaErrorCode::InProgress, "given up");
            }
            if until <= Instant::now() {
                return failed(RDKafkaErrorCode::OperationTimedOut, "no answer");
            }
        };
        // SAFETY: the event lives, and its text belongs to it.
        unsafe {
            let code = native::rd_kafka_event_error(event.raw.as_ptr());
            if code.is_error() {
                let reason = native::rd_kafka_event_error_string(event.raw.as_ptr());
                return Err(AdminError::new(code, reason));
            }
        }
        Ok(event)
    }
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

impl Drop for Call {
    fn drop(&mut self) {
        // SAFETY: both are ours and destroyed once. A late answer finds the queue's last
        // reference gone and is destroyed by librdkafka.
        unsafe {
            native::rd_kafka_AdminOptions_destroy(self.options.as_ptr());
            native::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// An answer; what was read from it must be gone when it is dropped.
struct Event {
    raw: NonNull<native::rd_kafka_event_t>,
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it is ours and destroyed once.
        unsafe { native::rd_kafka_event_destroy(self.raw.as_ptr()) };
    }
}
