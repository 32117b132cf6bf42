//! A pure core: what members say to each other, as bytes.
//!
//! ```text
//! head       u8 version, u8 what it is, u64 incarnation of the sender,
//!            u8 length of the cluster's name, the name
//! messages   head, then of each: u32 length, a raft message (protobuf)
//! checkpoint head, u64 length and SHA-256 of the state that goes with it, one raft message
//!            without that state
//! proposal   head, u64 member, u64 number, the command
//! ```
//!
//! All integers are little endian.
//!
//! - **WR-1** no bytes make it panic, recurse, or hold more than a small multiple of them. The
//!   parser of raft's messages recurses through protobuf groups that it does not know
//!   (RUSTSEC-2024-0437), so bytes are walked before it gets them, and groups are refused.
//! - **WR-2** a state is taken only if it is the one that its message names by SHA-256.

use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message};
use sha2::{Digest, Sha256};

use crate::group::{RequestId, carries_checkpoint};

const VERSION: u8 = 1;
const MESSAGES: u8 = 1;
const CHECKPOINT: u8 = 2;
const PROPOSAL: u8 = 3;

/// Entries of one message: more than fit into 1 MiB of the shortest ones.
const ENTRIES_MAX: usize = 64 << 10;

/// Why bytes are not what a member says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("they are cut short")]
    Short,
    #[error("of a version that is not spoken here")]
    Version,
    #[error("of another cluster")]
    Cluster,
    #[error("a group in a raft message")]
    Group,
    #[error("no raft message")]
    Message,
    #[error("more entries than a message has")]
    Entries,
    #[error("of another sender than it came from")]
    Sender,
    #[error("a checkpoint that is not the one of its digest")]
    Digest,
}

impl WireError {
    /// The label of its counter.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Short | Self::Message => "malformed",
            Self::Version => "unknown-version",
            Self::Cluster => "foreign-cluster",
            Self::Group => "group",
            Self::Entries => "entries",
            Self::Sender => "foreign-sender",
            Self::Digest => "digest",
        }
    }
}

/// Whose process says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) cluster: String,
    pub(crate) incarnation: u64,
}

/// A proposal on its way to the leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Whose it is.
    pub request: RequestId,
    /// What is proposed.
    pub command: Vec<u8>,
}

/// The state that a message goes with, and that it is of no use without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// How many bytes it has.
    pub length: u64,
    /// SHA-256 of them.
    pub digest: [u8; 32],
}

/// What came.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    Messages(Vec<Message>),
    Checkpoint(Want, Box<Message>),
    Proposal(Proposal),
}

/// A raft message as bytes.
pub(crate) fn encode(message: &Message) -> Vec<u8> {
    message.write_to_bytes().expect("a message in memory can be written")
}

/// Takes the state out of a message that has one.
pub(crate) fn take_state(message: &mut Message) -> Option<Vec<u8>> {
    carries_checkpoint(message).then(|| message.mut_snapshot().take_data().to_vec())
}

/// Raft messages that were [encoded](encode), in one piece.
pub(crate) fn messages(sender: &Sender, messages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = head(sender, MESSAGES);
    for message in messages {
        bytes.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(message);
    }
    bytes
}

/// A raft message whose state goes apart from it.
pub(crate) fn checkpoint(sender: &Sender, message: &[u8], state: &[u8]) -> Vec<u8> {
    let mut bytes = head(sender, CHECKPOINT);
    bytes.extend((state.len() as u64).to_le_bytes());
    bytes.extend(Sha256::digest(state));
    bytes.extend(message);
    bytes
}

/// A proposal.
pub(crate) fn proposal(sender: &Sender, proposal: &Proposal) -> Vec<u8> {
    let mut bytes = head(sender, PROPOSAL);
    bytes.extend(proposal.request.member.to_le_bytes());
    bytes.extend(proposal.request.number.to_le_bytes());
    bytes.extend(&proposal.command);
    bytes
}

fn head(sender: &Sender, what: u8) -> Vec<u8> {
    let name = sender.cluster.as_bytes();
    let length = u8::try_from(name.len()).expect("the name of a cluster has 63 bytes at most");
    let mut bytes = vec![VERSION, what];
    bytes.extend(sender.incarnation.to_le_bytes());
    bytes.push(length);
    bytes.extend(name);
    bytes
}

/// What `from` said, and which incarnation of it.
pub(crate) fn decode(cluster: &str, from: u64, bytes: &[u8]) -> Result<(u64, Said), WireError> {
    let mut rest = bytes;
    let [version, what] = take(&mut rest)?;
    if version != VERSION {
        return Err(WireError::Version);
    }
    let incarnation = u64::from_le_bytes(take(&mut rest)?);
    let [length] = take(&mut rest)?;
    if slice(&mut rest, usize::from(length))? != cluster.as_bytes() {
        return Err(WireError::Cluster);
    }
    let said = match what {
        MESSAGES => {
            let mut messages = Vec::new();
            while !rest.is_empty() {
                let length = u32::from_le_bytes(take(&mut rest)?);
                let length = usize::try_from(length).map_err(|_| WireError::Short)?;
                let message = parse(from, slice(&mut rest, length)?)?;
                if carries_checkpoint(&message) {
                    return Err(WireError::Message);
                }
                messages.push(message);
            }
            Said::Messages(messages)
        }
        CHECKPOINT => {
            let length = u64::from_le_bytes(take(&mut rest)?);
            let want = Want { length, digest: take(&mut rest)? };
            let message = parse(from, rest)?;
            if !carries_checkpoint(&message) {
                return Err(WireError::Message);
            }
            Said::Checkpoint(want, Box::new(message))
        }
        PROPOSAL => {
            let member = u64::from_le_bytes(take(&mut rest)?);
            let number = u64::from_le_bytes(take(&mut rest)?);
            if member != from {
                return Err(WireError::Sender);
            }
            let request = RequestId { member, number };
            Said::Proposal(Proposal { request, command: rest.to_vec() })
        }
        _ => return Err(WireError::Version),
    };
    Ok((incarnation, said))
}

/// Puts the state back that was taken out (WR-2).
pub(crate) fn put_state(
    mut message: Message,
    want: &Want,
    state: Vec<u8>,
) -> Result<Message, WireError> {
    let digest: [u8; 32] = Sha256::digest(&state).into();
    if want.length != state.len() as u64 || want.digest != digest {
        return Err(WireError::Digest);
    }
    message.mut_snapshot().data = state.into();
    Ok(message)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], WireError> {
    let (taken, left) = rest.split_first_chunk().ok_or(WireError::Short)?;
    *rest = left;
    Ok(*taken)
}

fn slice<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], WireError> {
    let (taken, left) = rest.split_at_checked(length).ok_or(WireError::Short)?;
    *rest = left;
    Ok(taken)
}

fn parse(from: u64, bytes: &[u8]) -> Result<Message, WireError> {
    walk(bytes)?;
    let message = Message::parse_from_bytes(bytes).map_err(|_bad| WireError::Message)?;
    if message.from != from {
        return Err(WireError::Sender);
    }
    for entry in &message.entries {
        check_change(entry)?;
    }
    Ok(message)
}

/// The data of a change of members is parsed when it is applied.
fn check_change(entry: &Entry) -> Result<(), WireError> {
    let is_change = entry.get_entry_type() != EntryType::EntryNormal;
    if is_change { fields(&entry.data, |_field, _bytes| Ok(())) } else { Ok(()) }
}

/// Where the parser goes into what a field holds: `(message, field, what it holds)`.
const INNER: [(Part, u64, Part); 4] = [
    (Part::Message, 7, Part::Leaf),
    (Part::Message, 9, Part::Snapshot),
    (Part::Snapshot, 2, Part::Metadata),
    (Part::Metadata, 1, Part::Leaf),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Message,
    Snapshot,
    Metadata,
    Leaf,
}

/// Looks at every field that the parser will look at, without recursion.
fn walk(bytes: &[u8]) -> Result<(), WireError> {
    let mut open = vec![(Part::Message, bytes)];
    let mut inner_parts = 0;
    while let Some((part, bytes)) = open.pop() {
        fields(bytes, |field, bytes| {
            let inner = INNER.iter().find(|(at, it, _)| *at == part && *it == field);
            if let Some((_, _, inner)) = inner {
                inner_parts += 1;
                if ENTRIES_MAX < inner_parts {
                    return Err(WireError::Entries);
                }
                open.push((*inner, bytes));
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The fields of one message; `each` gets those that have a length.
fn fields<'a>(
    mut rest: &'a [u8],
    mut each: impl FnMut(u64, &'a [u8]) -> Result<(), WireError>,
) -> Result<(), WireError> {
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match tag & 7 {
            0 => drop(varint(&mut rest)?),
            1 => drop(take::<8>(&mut rest)?),
            2 => {
                let length = varint(&mut rest)?;
                let length = usize::try_from(length).map_err(|_| WireError::Short)?;
                each(tag >> 3, slice(&mut rest, length)?)?;
            }
            5 => drop(take::<4>(&mut rest)?),
            3 | 4 => return Err(WireError::Group),
            _ => return Err(WireError::Message),
        }
    }
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Result<u64, WireError> {
    let mut value = 0_u64;
    for shift in (0..70).step_by(7) {
        let [byte] = take(rest)?;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or_default();
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(WireError::Message)
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::MessageType;

    use super::*;

    fn sender() -> Sender {
        Sender { cluster: "mill".to_owned(), incarnation: 7 }
    }

    fn append(entries: usize) -> Message {
        let entry = |index| Entry { index, data: vec![9; 40].into(), ..Entry::default() };
        let mut message = Message { from: 3, to: 1, term: 5, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.entries = (0..entries as u64).map(entry).collect::<Vec<_>>().into();
        message
    }

    fn snapshot(state: &[u8]) -> Message {
        let mut message = Message { from: 3, to: 1, term: 5, ..Message::default() };
        message.set_msg_type(MessageType::MsgSnapshot);
        message.mut_snapshot().data = state.to_vec().into();
        message.mut_snapshot().mut_metadata().index = 12;
        message.mut_snapshot().mut_metadata().mut_conf_state().voters = vec![1, 2, 3];
        message
    }

    #[test]
    fn what_was_said_is_heard_and_no_cut_of_it_is() {
        let all = [append(0), append(3)];
        let bytes = messages(&sender(), &all.each_ref().map(encode));
        assert_eq!(decode("mill", 3, &bytes), Ok((7, Said::Messages(all.to_vec()))));
        let request = RequestId { member: 3, number: 9 };
        let asked = Proposal { request, command: vec![1, 2, 3] };
        let bytes = proposal(&sender(), &asked);
        assert_eq!(decode("mill", 3, &bytes), Ok((7, Said::Proposal(asked))));
        assert_eq!(decode("mill", 2, &bytes), Err(WireError::Sender));
        for length in 0..15 {
            assert!(decode("mill", 3, &bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_state_goes_apart_and_another_one_is_not_taken() {
        let whole = snapshot(b"state");
        let mut sent = whole.clone();
        let state = take_state(&mut sent).unwrap();
        assert_eq!((state.as_slice(), take_state(&mut append(1))), (b"state".as_slice(), None));
        let bytes = checkpoint(&sender(), &encode(&sent), &state);
        let Ok((7, Said::Checkpoint(want, came))) = decode("mill", 3, &bytes) else {
            panic!("{bytes:?}");
        };
        for other in [b"stale".as_slice(), b"stat"] {
            let put = put_state(*came.clone(), &want, other.to_vec());
            assert_eq!(put, Err(WireError::Digest), "WR-2");
        }
        assert_eq!(put_state(*came, &want, state), Ok(whole.clone()));
        // Among others it is not taken, for then nobody has checked its state.
        let among = messages(&sender(), &[encode(&whole)]);
        assert_eq!(decode("mill", 3, &among), Err(WireError::Message));
    }

    #[test]
    fn who_lies_about_cluster_or_sender_is_not_heard() {
        let bytes = messages(&sender(), &[encode(&append(1))]);
        assert_eq!(decode("mile", 3, &bytes), Err(WireError::Cluster));
        assert_eq!(decode("mill", 2, &bytes), Err(WireError::Sender));
        let later = [&[2], &bytes[1..]].concat();
        assert_eq!(decode("mill", 3, &later), Err(WireError::Version));
    }

    /// RUSTSEC-2024-0437: unknown groups, at every level that the parser goes into.
    #[test]
    fn groups_are_refused_before_the_parser_recurses_into_them() {
        let groups = vec![0xfb_u8; 4_000_000];
        let inside = |field: u64, bytes: &[u8]| {
            let mut outer = vec![u8::try_from(field << 3 | 2).unwrap()];
            let mut length = bytes.len();
            while 0x80 <= length {
                outer.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
                length >>= 7;
            }
            outer.push(u8::try_from(length).unwrap());
            outer.extend(bytes);
            outer
        };
        let group = [0xfb, 0x01];
        let metadata = inside(2, &inside(1, &group));
        for message in [
            groups[..].to_vec(),
            group.to_vec(),
            inside(7, &group),
            inside(9, &group),
            inside(9, &metadata),
        ] {
            let bytes = messages(&sender(), &[message]);
            let refused = decode("mill", 3, &bytes);
            assert!(matches!(refused, Err(WireError::Group | WireError::Message)), "{refused:?}");
        }
        let mut change = append(1);
        change.entries[0].set_entry_type(EntryType::EntryConfChange);
        change.entries[0].data = group.to_vec().into();
        let bytes = messages(&sender(), &[encode(&change)]);
        assert_eq!(decode("mill", 3, &bytes), Err(WireError::Group));
        // An honest one of that size passes.
        assert!(decode("mill", 3, &messages(&sender(), &[encode(&append(9_000))])).is_ok());
        let many = inside(7, &[]).repeat(ENTRIES_MAX + 1);
        assert_eq!(decode("mill", 3, &messages(&sender(), &[many])), Err(WireError::Entries));
    }

    #[test]
    fn no_flipped_byte_makes_it_panic() {
        let bytes = messages(&sender(), &[encode(&append(2)), encode(&append(0))]);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                drop(decode("mill", 3, &flipped));
            }
        }
    }
}
