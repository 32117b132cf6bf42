//! The faults that are planted in what surrounds the cores, and the invariant that each breaks.

use crate::raft_sim;

/// A fault that is planted in the simulated surroundings of the cores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bug {
    /// BUG-4: outputs and position in two journal writes, the position first.
    PositionFirst,
    /// BUG-4: outputs and position in two journal writes, the outputs first.
    OutputsFirst,
    /// BUG-3: the bus compares no epochs.
    NoEpochCheck,
    /// BUG-1: acknowledged before the sync.
    AckBeforeSync,
    /// The completion map is dropped at recovery.
    CompletionsDropped,
    /// A dead letter is left out of its commit.
    DeadLetterLeftOut,
    /// The results of an older invocation are taken for those of the newest.
    AnswerOfAnother,
    /// The filter is not asked.
    FilterIgnored,
    /// The filter's answers are taken for those on the records that follow.
    FilterShifted,
    /// BUG-11, on Kafka: position and completion map go to the position log in two batches.
    MapApart,
    /// A record is settled in the position, and its envelope left out.
    EnvelopeLeftOut,
    /// A parked record is settled, and its tombstone left out.
    TombstoneLeftOut,
    /// On Kafka: tombstones are produced before the outputs that they rest on.
    TombstoneFirst,
    /// A shard begins without what its park topic holds.
    ParkForgotten,
    /// BUG-3, on Kafka: the epochs in the group's notes are not looked at.
    EpochsIgnored,
    /// A destination is not told of a record.
    MessageLeftOut,
    /// It is told twice.
    MessageTwice,
    /// BUG-4, on Kafka: the position goes to its log before the outputs are produced. The checker is
    /// not told of it, so that it has to miss what is lost.
    PositionBeforeOutputs,
    /// BUG-1, of the raft log.
    SkippedSync,
    /// BUG-2: votes and answers leave before the write is synced.
    SentBeforeSync,
    /// BUG-8: a member comes back under its old id without its disk.
    OldId,
    /// BUG-9: a checkpoint of another member is installed in two writes.
    InstallInTwo,
    /// BUG-10: a deploy is acknowledged before a quorum keeps its package.
    DeployedEarly,
    /// The planner hears of everybody: who is gone keeps its shards.
    NobodyRelieved,
}

impl Bug {
    pub(super) const ALL: [Self; 17] = [
        Self::PositionFirst,
        Self::OutputsFirst,
        Self::NoEpochCheck,
        Self::AckBeforeSync,
        Self::CompletionsDropped,
        Self::DeadLetterLeftOut,
        Self::AnswerOfAnother,
        Self::FilterIgnored,
        Self::FilterShifted,
        Self::MapApart,
        Self::EpochsIgnored,
        Self::EnvelopeLeftOut,
        Self::TombstoneLeftOut,
        Self::TombstoneFirst,
        Self::ParkForgotten,
        Self::MessageLeftOut,
        Self::MessageTwice,
    ];

    /// Those that a life of a whole fleet has to notice.
    pub(super) const OF_FLEET: [Self; 9] = [
        Self::SkippedSync,
        Self::SentBeforeSync,
        Self::EpochsIgnored,
        Self::PositionBeforeOutputs,
        Self::OldId,
        Self::InstallInTwo,
        Self::DeployedEarly,
        Self::ParkForgotten,
        Self::NobodyRelieved,
    ];

    /// As the member of a raft group knows it.
    pub(super) const fn of_raft(self) -> Option<raft_sim::Bug> {
        match self {
            Self::SkippedSync => Some(raft_sim::Bug::SkippedSync),
            Self::SentBeforeSync => Some(raft_sim::Bug::SentBeforeSync),
            Self::InstallInTwo => Some(raft_sim::Bug::InstallInTwo),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::PositionFirst => "position_first",
            Self::OutputsFirst => "outputs_first",
            Self::NoEpochCheck => "no_epoch_check",
            Self::AckBeforeSync => "ack_before_sync",
            Self::CompletionsDropped => "completions_dropped",
            Self::DeadLetterLeftOut => "dead_letter_left_out",
            Self::AnswerOfAnother => "answer_of_another",
            Self::FilterIgnored => "filter_ignored",
            Self::FilterShifted => "filter_shifted",
            Self::MapApart => "map_apart",
            Self::EpochsIgnored => "epochs_ignored",
            Self::EnvelopeLeftOut => "envelope_left_out",
            Self::TombstoneLeftOut => "tombstone_left_out",
            Self::TombstoneFirst => "tombstone_first",
            Self::MessageLeftOut => "message_left_out",
            Self::MessageTwice => "message_twice",
            Self::PositionBeforeOutputs => "position_before_outputs",
            Self::SkippedSync => "skipped_sync",
            Self::SentBeforeSync => "sent_before_sync",
            Self::OldId => "old_id",
            Self::InstallInTwo => "install_in_two",
            Self::DeployedEarly => "deployed_early",
            Self::ParkForgotten => "park_forgotten",
            Self::NobodyRelieved => "nobody_relieved",
        }
    }

    /// The invariant that it has to break, where one is named.
    pub(super) const fn breaks(self) -> &'static str {
        match self {
            Self::FilterIgnored => "SD-8",
            Self::MapApart => "DEL-7",
            Self::EpochsIgnored => "OWN-5",
            Self::EnvelopeLeftOut => "DEL-7",
            Self::TombstoneFirst | Self::ParkForgotten | Self::PositionBeforeOutputs => "DEL-1",
            Self::MessageLeftOut => "DEL-7",
            Self::MessageTwice => "DEL-2",
            Self::SkippedSync => "CLU-2",
            Self::SentBeforeSync => "CLU-1",
            Self::OldId => "CLU-6",
            Self::InstallInTwo => "CLU-7",
            Self::DeployedEarly => "CLU-3",
            Self::NobodyRelieved => "OWN-4",
            _ => "",
        }
    }
}
