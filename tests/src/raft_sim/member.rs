//! One simulated member: the real core over a disk that can lose what was not synced, and a state
//! that is the list of its commands.

use std::collections::{BTreeMap, BTreeSet};

use cluster::{Cut, Group, Image, Limits, RequestId, Write};

use super::Bug;
use super::judge::{Judge, READ, number_of, unpack};

/// What a member has asked the group for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) number: u64,
    /// How many commands had been acknowledged by then.
    pub(crate) before: usize,
}

/// A read that a member waits for.
#[derive(Debug)]
pub(crate) struct AskedRead {
    /// How many commands had been acknowledged by then.
    pub(crate) before: usize,
    /// Up to which index somebody had read by then.
    pub(crate) floor: u64,
    /// The last tick of its process at which it may end.
    pub(crate) until: u64,
}

/// What ends with the process.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) group: Group,
    /// The numbers of the commands that were applied, in order.
    pub(crate) state: Vec<u8>,
    pub(crate) numbers: BTreeSet<u64>,
    pub(crate) asked: BTreeMap<RequestId, Asked>,
    pub(crate) reads: BTreeMap<RequestId, AskedRead>,
    pub(crate) requests: u64,
    pub(crate) ticks: u64,
}

impl Process {
    pub(crate) fn next_request(&mut self, member: u64) -> RequestId {
        self.requests += 1;
        RequestId { member, number: self.requests }
    }

    pub(crate) fn restore(&mut self, state: &[u8]) {
        self.state = unpack(state).0.to_vec();
        self.numbers = self.state.chunks(8).map(number_of).collect();
    }

    pub(crate) fn apply(&mut self, command: &[u8]) -> Result<(), String> {
        let number = number_of(command);
        if number & READ == 0 {
            self.state.extend_from_slice(&number.to_le_bytes());
            if !self.numbers.insert(number) {
                return Err(format!("CLU-1: {number} is applied twice"));
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) disk: Image,
    /// Written, and gone with the power.
    pub(crate) unsynced: Vec<Write>,
    pub(crate) process: Option<Process>,
    starts: u64,
}

impl Member {
    pub(crate) fn new(id: u64, first: &Write) -> Self {
        let mut disk = Image::default();
        disk.carry_out(first);
        Self { id, disk, unsynced: Vec::new(), process: None, starts: 0 }
    }

    pub(crate) fn start(&mut self, limits: Limits, seed: u64) -> Result<(), String> {
        self.starts += 1;
        let seed = seed ^ (self.id << 40) ^ (self.starts << 48);
        let image = self.disk.clone();
        let state = image.checkpoint.state.clone();
        let group = Group::new(self.id, image, limits, seed)?;
        let mut process = Process {
            group,
            state: Vec::new(),
            numbers: BTreeSet::new(),
            asked: BTreeMap::new(),
            reads: BTreeMap::new(),
            // A number is unique in a group for ever.
            requests: self.starts << 32,
            ticks: 0,
        };
        process.restore(&state);
        self.process = Some(process);
        Ok(())
    }

    /// Carries out a write as the bug has it.
    pub(crate) fn write(
        &mut self,
        write: &Write,
        bug: Option<Bug>,
        judge: &mut Judge,
    ) -> Result<(), String> {
        match bug {
            Some(Bug::SkippedSync | Bug::SentBeforeSync) => {
                self.unsynced.push(write.clone());
                return Ok(());
            }
            Some(Bug::InstallInTwo) if matches!(write.cut, Cut::All(_)) => {
                let first = Write { checkpoint: write.checkpoint.clone(), ..Write::default() };
                self.disk.carry_out(&first);
                self.unsynced.push(write.clone());
                return judge.disk(&self.disk, &first);
            }
            Some(Bug::CheckpointAlone) if matches!(write.cut, Cut::Through(_)) => {
                self.disk.carry_out(&Write { hard: None, ..write.clone() });
            }
            Some(Bug::MembersApart) if write.checkpoint.is_some() => {
                let mut write = write.clone();
                if let Some(checkpoint) = &mut write.checkpoint {
                    checkpoint.members = self.disk.checkpoint.members.clone();
                }
                self.disk.carry_out(&write);
            }
            Some(Bug::SuffixKept) => {
                let before = self.disk.entries.clone();
                self.disk.carry_out(write);
                let last = self.disk.last().index;
                if !write.entries.is_empty() {
                    self.disk.entries.extend(before.into_iter().filter(|it| last < it.index));
                }
            }
            _ => self.disk.carry_out(write),
        }
        judge.disk(&self.disk, write)
    }

    /// What was written without a sync reaches the disk after all.
    pub(crate) fn sync(&mut self, judge: &mut Judge) -> Result<(), String> {
        for write in std::mem::take(&mut self.unsynced) {
            self.disk.carry_out(&write);
            judge.disk(&self.disk, &write)?;
        }
        Ok(())
    }

    /// The process is gone, and what was not synced with it; how many writes that were.
    pub(crate) fn crash(&mut self) -> usize {
        self.process = None;
        std::mem::take(&mut self.unsynced).len()
    }
}
