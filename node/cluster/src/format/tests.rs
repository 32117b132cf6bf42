//! The bytes of the first format, and of the state before there were formats, as they were written:
//! whoever changes what a build writes under format 1 finds these red, and has to raise the format.

use std::collections::{BTreeMap, BTreeSet};

use bus::{Epoch, ShardId, Timestamp};

use super::*;
use crate::group::RequestId;
use crate::state::{
    App, Ca, CaChange, Function, History, Kept, MemberChange, Placing, Spent, SubscriberChange,
    SubscriberToken, Trigger,
};

/// One line each: what it is, and its bytes.
const PINNED: &str = include_str!("pinned.txt");

fn pinned(what: &str) -> &'static str {
    let line = PINNED.lines().find_map(|it| it.strip_prefix(what)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("nothing is pinned of {what}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let pairs = (0..hex.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

const BOTH: Formats = Formats { oldest: 1, newest: 2 };

/// How many commands the first format has.
const COMMANDS: usize = 20;

/// Its place among the commands. Whoever adds one adds a sample of it, and of a later format unless
/// no build of the one before has been let out.
const fn place(command: &Command) -> usize {
    match command {
        Command::Deploy { .. } => 0,
        Command::Remove { .. } => 1,
        Command::AssignByName { .. } => 2,
        Command::Rollback { .. } => 3,
        Command::Alias { .. } => 4,
        Command::Pause { .. } => 5,
        Command::Resume { .. } => 6,
        Command::Redrive { .. } => 7,
        Command::Member { .. } => 8,
        Command::Token { .. } => 9,
        Command::Assign { .. } => 10,
        Command::Hand { .. } => 11,
        Command::Unfit { .. } => 12,
        Command::Stop { .. } => 13,
        Command::Ready { .. } => 14,
        Command::Restore { .. } => 15,
        Command::Subscriber { .. } => 16,
        Command::Ca { .. } => 17,
        Command::Reads { .. } => 18,
        Command::Raise { .. } => 19,
        #[cfg(feature = "next-version")]
        Command::Note { .. } => 20,
    }
}

fn app(revision: &str) -> App {
    let function = Function {
        revision: revision.to_owned(),
        package: "sha256:1".to_owned(),
        spec: "{}".to_owned(),
    };
    App {
        functions: [("f".to_owned(), function)].into(),
        triggers: triggers(),
        topics: [("in".to_owned(), "{\"partitions\":2}".to_owned())].into(),
    }
}

fn triggers() -> BTreeMap<String, Trigger> {
    let topics = BTreeMap::from([("in".to_owned(), 2)]);
    BTreeMap::from([("a/f/t".to_owned(), Trigger { function: "f".to_owned(), topics })])
}

fn ca(byte: u8) -> Ca {
    Ca { key: [byte; 32], certificate: vec![byte, 1], bridge: vec![byte, 2] }
}

fn members() -> Vec<Command> {
    let join = |name: &str, byte: u8, token: Option<Spent>| MemberChange::Join {
        name: name.to_owned(),
        address: "10.0.0.1:7070".to_owned(),
        key: [byte; 32],
        token,
    };
    let start = MemberChange::Start {
        address: "10.0.0.1:7071".to_owned(),
        incarnation: 3,
        version: "0.1.0".to_owned(),
    };
    let changes = [
        (1, join("edge-1", 1, None)),
        (1, start),
        (1, MemberChange::Promote),
        (2, join("edge-2", 2, Some(Spent { hash: [9; 32], at: 150 }))),
        (2, MemberChange::Drain),
        (3, join("edge-3", 3, None)),
        (3, MemberChange::Undrain),
        (3, MemberChange::Remove),
    ];
    changes.map(|(member, change)| Command::Member { member, change }).into()
}

fn moves(ends: u64, to: u64) -> Vec<Placing> {
    vec![Placing { shard: ShardId(1), ends: Epoch(ends), to }]
}

fn restore() -> Command {
    let kept = Kept {
        number: 4,
        function: app("r4").functions["f"].clone(),
        at: Timestamp(40),
        before: Some("r3".to_owned()),
    };
    let aliases = BTreeMap::from([("live".to_owned(), "r4".to_owned())]);
    let history = History::restored(vec![kept], aliases).unwrap();
    Command::Restore {
        name: "b".to_owned(),
        app: App { triggers: BTreeMap::new(), ..app("r4") },
        histories: [("f".to_owned(), history)].into(),
        paused: [("b/f/t".to_owned(), Timestamp(41))].into(),
        expects: None,
    }
}

fn subscriber() -> SubscriberToken {
    SubscriberToken {
        hash: [5; 32],
        name: "board".to_owned(),
        topics: vec!["out.*".to_owned()],
        at: 100,
        until: 900,
        revoked: None,
    }
}

/// Each command once at least, with each kind of change, in an order in which all of them change
/// something or are refused by name.
fn samples() -> Vec<Command> {
    let (name, function) = ("a".to_owned(), "f".to_owned());
    let begin = CaChange::Begin { from: ca(1), to: ca(2), at: 500, window_s: 60 };
    let deploy = |revision: &str, expects| Command::Deploy {
        name: name.clone(),
        app: app(revision),
        expects,
        at: Timestamp(7),
    };
    let mut all = vec![Command::Token { hash: [9; 32], at: 100, until: 200 }];
    all.extend(members());
    all.extend([
        deploy("r1", None),
        deploy("r2", Some(1)),
        Command::Rollback {
            name: name.clone(),
            function: function.clone(),
            revision: "r1".to_owned(),
            triggers: triggers(),
            expects: None,
        },
        Command::Alias {
            name: name.clone(),
            function,
            alias: "live".to_owned(),
            revision: Some("r2".to_owned()),
        },
        Command::AssignByName { shards: vec![ShardId(2)], owner: "edge-1".to_owned() },
        Command::Assign { moves: moves(0, 1) },
        Command::Hand { moves: moves(1, 2) },
        Command::Pause { trigger: "a/f/t".to_owned(), at: Timestamp(8) },
        Command::Resume { trigger: "a/f/u".to_owned() },
        Command::Redrive { topic: "a.dead".to_owned() },
        Command::Unfit { member: 2, function: "a/f".to_owned(), revision: Some("r1".to_owned()) },
        Command::Stop { member: 2 },
        Command::Ready { member: 3 },
        restore(),
        Command::Remove { name: "c".to_owned() },
        Command::Subscriber { id: 6, change: SubscriberChange::Make(subscriber()) },
        Command::Subscriber { id: 6, change: SubscriberChange::Revoke { at: 800 } },
        Command::Ca { change: begin },
        Command::Ca { change: CaChange::Done { member: 1, turn: 1 } },
        Command::Ca { change: CaChange::Step { turn: 1, at: 501, is_early: false } },
        Command::Ca { change: CaChange::Abort { turn: 9 } },
        Command::Reads { member: 1, formats: BOTH },
        Command::Raise { format: 1 },
    ]);
    all
}

/// What all of them lead to.
fn sample() -> State {
    let mut state = State::default();
    for (number, command) in (1_u64 << 32..).zip(samples()) {
        let request = RequestId { member: 1, number };
        state.apply_logged(request, &Logged::Command(Box::new(command)));
    }
    state
}

#[test]
fn commands_of_the_first_format_are_written_as_ever() {
    let samples = samples();
    let known: BTreeSet<usize> = samples.iter().map(place).collect();
    assert!(known.iter().copied().eq(0..COMMANDS), "one has no sample: {known:?}");
    for (number, command) in samples.iter().enumerate() {
        let bytes = encode_command(command, 1).unwrap();
        let what = format!("command-{number}");
        assert_eq!(hex(&bytes), pinned(&what), "{what} is {command:?}");
        let read = decode_command(&bytes_of(pinned(&what)), 1).unwrap();
        assert_eq!(read, Logged::Command(Box::new(command.clone())), "{what}");
    }
}

#[test]
fn a_state_of_the_first_format_is_written_as_ever() {
    let state = sample();
    assert_eq!(state.format(), 1);
    assert_eq!(hex(&encode_state(&state).unwrap()), pinned("state"));
    assert_eq!(decode_state(&bytes_of(pinned("state"))).unwrap(), state);
}

/// What a build of before wrote: all of that but what members read.
#[test]
fn a_state_of_before_there_were_formats_is_read() {
    let mut read = decode_state(&bytes_of(pinned("unversioned"))).unwrap();
    assert!(read.authorities().rotation().is_some(), "a rotation is on its way");
    assert_eq!((read.format(), read.reads().len()), (1, 0));
    read.apply(&Command::Reads { member: 1, formats: BOTH }).unwrap();
    assert_eq!(read, sample());
}
