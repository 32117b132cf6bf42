//! The names of what this crate counts. There are no labels: a series per topic or partition
//! would grow with what users make.

/// Records that sources and commits appended.
pub(crate) const APPENDED_RECORDS: &str = "millrace_bus_appended_records_total";
/// Bytes of the batches appended.
pub(crate) const APPENDED_BYTES: &str = "millrace_bus_appended_bytes_total";
/// Records handed to readers.
pub(crate) const READ_RECORDS: &str = "millrace_bus_read_records_total";
/// Reads that went to the journal because the batch was no longer in memory.
pub(crate) const COLD_READS: &str = "millrace_bus_cold_reads_total";
/// Journal writes, each with its syncs.
pub(crate) const JOURNAL_COMMITS: &str = "millrace_bus_journal_commits_total";
/// Operations that shared journal writes.
pub(crate) const JOURNAL_OPERATIONS: &str = "millrace_bus_journal_operations_total";
/// How long a journal write took, syncs included.
pub(crate) const JOURNAL_COMMIT_SECONDS: &str = "millrace_bus_journal_commit_seconds";
/// Operations refused because their epoch was over.
pub(crate) const FENCED: &str = "millrace_bus_fenced_total";
/// Operations refused because the disk was full.
pub(crate) const DISK_FULL: &str = "millrace_bus_disk_full_total";
/// Appends refused because too much was waiting.
pub(crate) const BUSY: &str = "millrace_bus_busy_total";
/// Bytes that retention deleted.
pub(crate) const RETENTION_DELETED_BYTES: &str = "millrace_bus_retention_deleted_bytes_total";
/// Bytes that retention would delete, but for a position that still needs them.
pub(crate) const RETENTION_HELD_BYTES: &str = "millrace_bus_retention_held_bytes";
/// Writes to the position log that failed; the journal has what they held.
pub(crate) const POSITION_LOG_ERRORS: &str = "millrace_bus_position_log_errors_total";
/// Times the journal was opened again after an I/O error.
pub(crate) const JOURNAL_REOPENS: &str = "millrace_bus_journal_reopens_total";
/// Records that a look at the queue found although nobody woke the reader of a Kafka partition.
pub(crate) const KAFKA_LATE_WAKES: &str = "millrace_bus_kafka_late_wakes_total";
/// Commits of a group's offsets that failed; they are tried again.
pub(crate) const KAFKA_OFFSET_ERRORS: &str = "millrace_bus_kafka_offset_errors_total";

/// Tells the recorder what each of these is, once it is there.
pub fn describe_metrics() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_counter!(APPENDED_RECORDS, "Records that sources and commits appended.");
    describe_counter!(APPENDED_BYTES, "Bytes of the batches appended.");
    describe_counter!(READ_RECORDS, "Records handed to readers.");
    describe_counter!(
        COLD_READS,
        "Reads that went to the journal because the batch was no longer in memory."
    );
    describe_counter!(JOURNAL_COMMITS, "Journal writes, each with its syncs.");
    describe_counter!(JOURNAL_OPERATIONS, "Operations that shared journal writes.");
    describe_histogram!(JOURNAL_COMMIT_SECONDS, "How long a journal write took, syncs included.");
    describe_counter!(FENCED, "Operations refused because their epoch was over.");
    describe_counter!(DISK_FULL, "Operations refused because the disk was full.");
    describe_counter!(BUSY, "Appends refused because too much was waiting.");
    describe_counter!(RETENTION_DELETED_BYTES, "Bytes that retention deleted.");
    describe_gauge!(
        RETENTION_HELD_BYTES,
        "Bytes that retention would delete, but for a position that still needs them."
    );
    describe_counter!(
        POSITION_LOG_ERRORS,
        "Writes to the position log that failed; the journal has what they held."
    );
    describe_counter!(JOURNAL_REOPENS, "Times the journal was opened again after an I/O error.");
    describe_counter!(
        KAFKA_LATE_WAKES,
        "Records that a look at the queue found although nobody woke the reader of a Kafka partition."
    );
    describe_counter!(
        KAFKA_OFFSET_ERRORS,
        "Commits of a group's offsets that failed; they are tried again."
    );
    // What was never counted is zero, not absent: an alert on its increase sees the first.
    for name in [
        APPENDED_RECORDS,
        APPENDED_BYTES,
        READ_RECORDS,
        COLD_READS,
        JOURNAL_COMMITS,
        JOURNAL_OPERATIONS,
        FENCED,
        DISK_FULL,
        BUSY,
        RETENTION_DELETED_BYTES,
        POSITION_LOG_ERRORS,
        JOURNAL_REOPENS,
        KAFKA_LATE_WAKES,
        KAFKA_OFFSET_ERRORS,
    ] {
        metrics::counter!(name).increment(0);
    }
}
