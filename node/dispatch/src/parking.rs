//! A pure core: what of a shard lies in its park topic, and what of it is to be read back when.
//!
//! A parked record is settled in the position and still owed. Only a slip of it stays in memory:
//! which record it is, where its envelope lies, when it is due. The slips of a token are a line in
//! the order of their offsets, tried from the front; a record without an order is a line by itself.
//!
//! ```text
//!              too many held                 due                 read back
//!  held token ──────────────▶ slips, in order ───▶ ripe, by place ─────────▶ a part, run first
//!                                  ▲                                              │
//!                                  └────── later records of the token, failures ◀─┘
//! ```
//!
//! - **PK-1** every slip has an envelope that is durable, or in the commit that settles its record
//!   in the position.
//! - **PK-2** of one line nothing is read back while a record of it runs, or is held in memory.
//! - **PK-5** what a shard begins with beyond its position waits until everything before it was read:
//!   on Kafka a position that was moved back may tell a record and not one of its token before it.
//! - **PK-3** a record that comes behind the slips of its token never runs before them: it is parked,
//!   or, where all of them run already, follows in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use bus::Offset;

use crate::command::Wanted;
use crate::records::{Queue, RecordId, Records};

/// Records that are parked one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lot {
    /// Those of a token.
    Token(u64),
    /// One without an order: its partition and offset.
    Single(u16, Offset),
}

/// What stays in memory of a parked record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slip {
    pub(crate) partition: u16,
    pub(crate) offset: Offset,
    /// Where its envelope lies, or before it; `None` until that is durable.
    pub(crate) place: Option<Offset>,
    pub(crate) attempts: u32,
    /// When it may be tried, if not at once.
    pub(crate) due: Option<Instant>,
    /// Key, value and headers.
    pub(crate) bytes: u32,
    /// How many nodes may have ended while it ran; `None` once this shard has outlived it, or parked it
    /// itself.
    pub(crate) ended: Option<u32>,
}

/// So many ends and more: it is read back alone.
const ALONE: u32 = 2;

impl Slip {
    fn is_alone(&self) -> bool {
        self.ended.is_some_and(|it| ALONE <= it)
    }
}

#[derive(Debug)]
struct Line {
    /// By offset.
    slips: VecDeque<Slip>,
    /// How many of them were read back, or are being.
    busy: usize,
    /// How many are read back next: one after a failure, twice as many after each that ends well.
    run: usize,
    strand: u16,
    /// Nothing of it is tried before the shard has read so far.
    from: Option<Offset>,
    /// Later records of the token that wait in memory.
    followers: Queue,
    follower_bytes: u64,
}

/// Records of lines that go on without one.
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) strand: u16,
    pub(crate) followers: Queue,
    pub(crate) bytes: u64,
}

/// A record that was read back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) lot: Lot,
    pub(crate) slip: Slip,
    pub(crate) strand: u16,
}

/// All that is parked.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    lines: BTreeMap<Lot, Line>,
    /// Lines whose front is not due yet. An entry that is not what its line says is stale.
    waiting: BTreeSet<(Instant, Lot)>,
    /// Lines that can be read back, by the place of their front. Stale entries as above.
    ripe: BTreeSet<(Offset, Lot)>,
    /// What is being read back: the line, and how many of its first slips.
    loading: Vec<(Lot, usize)>,
    busy: usize,
    slips: usize,
    /// Lines that wait until their shard has read so far: partition, offset.
    unread: BTreeSet<(u16, Offset, Lot)>,
}

impl Parking {
    #[inline]
    pub(crate) fn has_token(&self, token: u64) -> bool {
        !self.lines.is_empty() && self.lines.contains_key(&Lot::Token(token))
    }

    /// How many records are parked.
    pub(crate) const fn len(&self) -> usize {
        self.slips
    }

    /// What is known of a parked record. Looks at all of them.
    pub(crate) fn find(&self, partition: u16, offset: Offset) -> Option<&Slip> {
        let mut slips = self.lines.values().flat_map(|line| &line.slips);
        slips.find(|it| (it.partition, it.offset) == (partition, offset))
    }

    /// All slips, with their lines and strands.
    pub(crate) fn slips(&self) -> impl Iterator<Item = (Lot, u16, &Slip)> {
        self.lines
            .iter()
            .flat_map(|(lot, line)| line.slips.iter().map(move |slip| (*lot, line.strand, slip)))
    }

    /// Records of it that were read back, or are being.
    pub(crate) const fn busy(&self) -> usize {
        self.busy
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Parks a record, or says anew how often and when it is tried.
    pub(crate) fn park(&mut self, lot: Lot, strand: u16, slip: Slip) -> bool {
        let line = self.lines.entry(lot).or_insert_with(|| Line {
            slips: VecDeque::new(),
            busy: 0,
            run: 1,
            strand,
            from: None,
            followers: Queue::default(),
            follower_bytes: 0,
        });
        match line.slips.binary_search_by_key(&slip.offset, |it| it.offset) {
            Ok(at) => {
                let place = line.slips[at].place;
                line.slips[at] = Slip { place: slip.place.or(place), ..slip };
                false
            }
            Err(at) => {
                line.slips.insert(at, slip);
                self.slips += 1;
                true
            }
        }
    }

    /// Lets the line of a record wait until the shard has read past the record (PK-5).
    pub(crate) fn wait_for(&mut self, lot: Lot, partition: u16, offset: Offset) {
        if let Some(line) = self.lines.get_mut(&lot) {
            line.from = line.from.max(Some(offset));
            self.unread.insert((partition, offset, lot));
        }
    }

    /// The shard has read the partition up to `newest`: lines that waited for that.
    pub(crate) fn have_read(&mut self, partition: u16, newest: Offset) -> Vec<Lot> {
        let mut lots = Vec::new();
        let first = (partition, Offset(i64::MIN), Lot::Token(0));
        while let Some(&it) = self.unread.range(first..).next() {
            if it.0 != partition || newest <= it.1 {
                break;
            }
            self.unread.remove(&it);
            if let Some(line) = self.lines.get_mut(&it.2)
                && line.from <= Some(it.1)
            {
                line.from = None;
                lots.push(it.2);
            }
        }
        lots
    }

    /// Whether a line waits for records to be read.
    pub(crate) fn has_unread(&self) -> bool {
        !self.unread.is_empty()
    }

    /// The envelope of a record is durable.
    pub(crate) fn placed(&mut self, lot: Lot, offset: Offset, place: Offset) {
        let Some(line) = self.lines.get_mut(&lot) else { return };
        if let Ok(at) = line.slips.binary_search_by_key(&offset, |it| it.offset) {
            line.slips[at].place = Some(place);
        }
    }

    /// How many nodes may have ended while a record ran.
    pub(crate) fn doubt(&mut self, lot: Lot, offset: Offset, ended: Option<u32>) {
        let Some(line) = self.lines.get_mut(&lot) else { return };
        if let Ok(at) = line.slips.binary_search_by_key(&offset, |it| it.offset) {
            line.slips[at].ended = ended;
        }
    }

    /// Whether what is to be read back next is to be alone.
    pub(crate) fn next_is_alone(&mut self, is_held: impl Fn(Lot) -> bool) -> bool {
        while let Some(&(place, lot)) = self.ripe.first() {
            if let Some(front) = self.ripe_front(place, lot, &is_held) {
                return front.is_alone();
            }
            self.ripe.pop_first();
        }
        false
    }

    /// The front of a line that is ripe, unless the entry that says so is stale.
    fn ripe_front(&self, place: Offset, lot: Lot, is_held: impl Fn(Lot) -> bool) -> Option<&Slip> {
        let line = self.lines.get(&lot)?;
        let front = line.slips.front().filter(|it| it.place == Some(place))?;
        let is_stale = line.busy != 0 || line.from.is_some() || is_held(lot);
        (!is_stale).then_some(front)
    }

    /// A record is settled.
    pub(crate) fn settled(&mut self, lot: Lot, offset: Offset, run_max: usize) {
        let line = self.lines.get_mut(&lot).expect("PK-1: a parked record has a slip");
        let at = line.slips.binary_search_by_key(&offset, |it| it.offset);
        line.slips.remove(at.expect("PK-1: a parked record has a slip"));
        line.run = run_max.min(2 * line.run);
        self.slips -= 1;
    }

    /// The record at the front failed.
    pub(crate) fn failed(&mut self, lot: Lot) {
        if let Some(line) = self.lines.get_mut(&lot) {
            line.run = 1;
        }
    }

    /// A record that was read back is settled, held, or let go of.
    pub(crate) fn idle(&mut self, lot: Lot) {
        if let Some(line) = self.lines.get_mut(&lot) {
            line.busy -= 1;
        }
        self.busy -= 1;
    }

    /// Whether a later record of the token may wait in memory: all before it run already.
    pub(crate) fn may_follow(&self, token: u64, is_held: bool, followers_max: usize) -> bool {
        self.lines.get(&Lot::Token(token)).is_some_and(|line| {
            let all_run = !is_held && line.busy == line.slips.len();
            all_run && (line.followers.count as usize) < followers_max
        })
    }

    /// Lets a later record of the token wait in memory.
    pub(crate) fn follow(&mut self, records: &mut Records, token: u64, record: RecordId) {
        let bytes = records.entry(record).bytes;
        if let Some(line) = self.lines.get_mut(&Lot::Token(token)) {
            line.followers.push_back(records, record);
            line.follower_bytes += u64::from(bytes);
        }
    }

    /// Takes the records that wait in memory behind the token's slips.
    pub(crate) fn take_followers(&mut self, token: u64) -> Queue {
        let line = self.lines.get_mut(&Lot::Token(token));
        line.map_or_else(Queue::default, |line| {
            line.follower_bytes = 0;
            std::mem::take(&mut line.followers)
        })
    }

    /// Looks what a line waits for. One without slips ends; what waited behind it goes on.
    pub(crate) fn reconsider(&mut self, lot: Lot, is_held: bool) -> Option<Returned> {
        let line = self.lines.get(&lot)?;
        let Some(front) = line.slips.front() else {
            let Line { strand, followers, follower_bytes: bytes, .. } = self.lines.remove(&lot)?;
            return Some(Returned { strand, followers, bytes });
        };
        // PK-2, PK-5.
        if is_held || line.busy != 0 || line.from.is_some() {
            return None;
        }
        if let Some(place) = front.place {
            match front.due {
                Some(due) => drop(self.waiting.insert((due, lot))),
                None => drop(self.ripe.insert((place, lot))),
            }
        }
        None
    }

    /// Takes note of the time.
    pub(crate) fn ripen(&mut self, now: Instant, is_held: impl Fn(Lot) -> bool) {
        while let Some(&(due, lot)) = self.waiting.first() {
            if now < due {
                return;
            }
            self.waiting.pop_first();
            let Some(line) = self.lines.get_mut(&lot) else { continue };
            let Some(front) = line.slips.front_mut().filter(|it| it.due == Some(due)) else {
                continue;
            };
            front.due = None;
            let over = self.reconsider(lot, is_held(lot));
            debug_assert!(over.is_none(), "a line with a front goes on");
        }
    }

    /// What to read back next, by place: at most so many records and bytes, at least one.
    pub(crate) fn load(
        &mut self,
        records_max: usize,
        bytes_max: usize,
        is_held: impl Fn(Lot) -> bool,
    ) -> Vec<Wanted> {
        let (mut wanted, mut bytes) = (Vec::new(), 0);
        if !self.loading.is_empty() {
            return wanted;
        }
        while let Some(&(place, lot)) = self.ripe.first() {
            if records_max <= wanted.len() || bytes_max <= bytes {
                break;
            }
            let Some(front) = self.ripe_front(place, lot, &is_held) else {
                self.ripe.pop_first();
                continue;
            };
            let is_alone = front.is_alone();
            if is_alone && !wanted.is_empty() {
                break;
            }
            self.ripe.pop_first();
            let line = self.lines.get_mut(&lot).expect("it has a front");
            let (mut count, mut last) = (0, place);
            for slip in line.slips.iter().take(line.run) {
                let Some(place) = slip.place.filter(|place| last <= *place) else { break };
                let is_full = records_max <= wanted.len() || bytes_max <= bytes;
                if 0 < count && (is_full || slip.attempts != 0 || slip.is_alone()) {
                    break;
                }
                let partition = u32::from(slip.partition);
                wanted.push(Wanted { partition, offset: slip.offset, place });
                bytes += slip.bytes as usize;
                (count, last) = (count + 1, place);
                if slip.attempts != 0 || is_alone {
                    break;
                }
            }
            line.busy = count;
            self.busy += count;
            self.loading.push((lot, count));
            if is_alone {
                break;
            }
        }
        wanted.sort_by_key(|it| it.place);
        wanted
    }

    /// What was being read back is there, as far as `is_there` says. Of each line comes what is
    /// there from its front on; the lines of the rest are to be looked at again.
    pub(crate) fn loaded(&mut self, is_there: impl Fn(&Slip) -> bool) -> (Vec<Read>, Vec<Lot>) {
        let (mut read, mut again) = (Vec::new(), Vec::new());
        for (lot, count) in std::mem::take(&mut self.loading) {
            let line = self.lines.get_mut(&lot).expect("a line that is busy stays");
            let slips = line.slips.iter().take(count).take_while(|slip| is_there(slip));
            let strand = line.strand;
            let before = read.len();
            read.extend(slips.map(|slip| Read { lot, slip: *slip, strand }));
            let missing = count - (read.len() - before);
            line.busy -= missing;
            self.busy -= missing;
            if line.busy == 0 {
                again.push(lot);
            }
        }
        (read, again)
    }
}
