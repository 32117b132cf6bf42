//! A life of a whole cluster: machines that agree by the real raft group on what the real planner
//! wants, follow it by the real core of ownership, and run their shards in front of one Kafka. What
//! befalls them is in [`faults`], what people want of them in [`client`]; then they heal, all of
//! them or a quorum, and everything has to be settled in time.

use std::collections::{BTreeMap, BTreeSet};

use bus::{Handed, ShardId};
use cluster::{Command, Image, Limits, MemberChange, Message, RequestId, State};

use super::{Event, World};
use crate::harness::rng::Rng;
use crate::raft_sim::judge::Judge;
use crate::raft_sim::member::Member;

mod client;
mod faults;
mod group;
mod healing;
mod life;
mod machine;
mod owning;
mod packages;
mod roll;

pub(in crate::sim) use life::FleetLife;
use machine::Machine;
use packages::Deploying;
use roll::Roll;

/// Between two ticks of a member, in microseconds.
const TICK: u64 = 50_000;

/// What happens to a fleet.
#[derive(Debug)]
pub(super) enum FleetEvent {
    Tick {
        home: usize,
        process: u64,
    },
    /// A raft message arrives.
    Message {
        home: usize,
        message: Box<Message>,
    },
    /// What its sender hears of a message.
    Fate {
        home: usize,
        process: u64,
        to: u64,
        fate: Fate,
    },
    /// A command reaches whoever was taken for the leader.
    Forward {
        home: usize,
        request: RequestId,
        command: Vec<u8>,
    },
    /// A home brings what it runs to what the state says.
    Converge {
        home: usize,
        process: u64,
    },
    /// What was to end has had its time.
    Cut {
        home: usize,
        life: u64,
    },
    /// The bus has had its time to say where the next owner goes on.
    Released {
        home: usize,
        process: u64,
        shard: usize,
    },
    /// The owner before says where a shard has ended that comes here.
    Handed {
        home: usize,
        from: usize,
        shard: usize,
        handed: Box<Handed>,
    },
    /// A shard that has ended here is given away, again if need be.
    Give {
        home: usize,
        process: u64,
        shard: ShardId,
    },
    /// Kafka did not answer a recovery: once more.
    Recover {
        home: usize,
        process: u64,
        shard: usize,
        epoch: u64,
    },
    /// A package reaches a home, which is asked to keep it.
    Package {
        home: usize,
        package: u64,
        from: usize,
    },
    /// The word that it is kept.
    Kept {
        home: usize,
        process: u64,
        package: u64,
        by: u64,
    },
    /// A home asks another for a package that it lacks.
    Want {
        home: usize,
        package: u64,
        by: usize,
    },
    /// People want something.
    Client,
    Fault,
    Restart {
        home: usize,
    },
    /// Somebody looks whether it is over.
    Look,
}

impl FleetEvent {
    /// The home that has to do something about it.
    pub(super) const fn home(&self) -> Option<usize> {
        match self {
            Self::Tick { home, .. }
            | Self::Message { home, .. }
            | Self::Fate { home, .. }
            | Self::Forward { home, .. }
            | Self::Converge { home, .. }
            | Self::Cut { home, .. }
            | Self::Released { home, .. }
            | Self::Handed { home, .. }
            | Self::Give { home, .. }
            | Self::Recover { home, .. }
            | Self::Package { home, .. }
            | Self::Kept { home, .. }
            | Self::Want { home, .. } => Some(*home),
            Self::Client | Self::Fault | Self::Restart { .. } | Self::Look => None,
        }
    }
}

/// What the sender of a message learns of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Checkpoint { arrived: bool },
    Unreachable,
}

/// How far a life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Everything happens.
    Faults,
    /// Nothing more does, since then: all of it has to be settled.
    Healed(u64),
    /// A machine has joined a fleet at rest, at that time.
    Joining(u64),
    Over,
}

/// A link that does not carry, and whether it ever did not.
#[derive(Clone, Copy, Debug)]
struct Gap {
    until: u64,
    /// Which fault it belongs to.
    cut: u64,
}

/// The state that a group is founded with: its members are in it.
fn founded(ids: &[u64]) -> Vec<u8> {
    let mut state = State::default();
    for member in ids {
        let (name, key) = (format!("n{member}"), [*member as u8; 32]);
        let join = MemberChange::Join { name, address: String::new(), key, token: None };
        for change in [join, MemberChange::Promote] {
            let command = Command::Member { member: *member, change };
            state.apply(&command).expect("nobody was there before");
        }
    }
    machine::encode_state(&[], &state)
}

/// See the module's head. Empty in lives without one.
#[derive(Debug)]
pub(super) struct Fleet {
    /// By home; some have no machine yet, or none any more.
    machines: Vec<Machine>,
    judge: Judge,
    roll: Roll,
    limits: Limits,
    phase: Phase,
    /// The highest number of a command.
    numbers: u64,
    /// The highest id that was given to anybody.
    newest: u64,
    /// Ids whose disk is lost.
    dead: BTreeSet<u64>,
    /// The home that stays broken when the others heal.
    broken: Option<usize>,
    gaps: BTreeMap<(usize, usize), Gap>,
    /// Cuts that lost something, and stops that held something up.
    struck: BTreeSet<u64>,
    next_cut: u64,
    /// Homes that drain, until when, and whether a shard has left them.
    draining: BTreeMap<usize, (u64, bool)>,
    /// Members that are to be removed.
    leaving: BTreeSet<u64>,
    heir: Option<u64>,
    deploys: BTreeMap<u64, Deploying>,
    next_package: u64,
    /// Until when each home has no Kafka.
    cut_off: Vec<u64>,
    /// Of those, where nothing was held up yet.
    has_no_kafka: BTreeSet<usize>,
    /// By package, until its deploy is acknowledged: the members that had it durably.
    keepers: BTreeMap<u64, BTreeSet<u64>>,
    /// Packages of deploys that were acknowledged.
    kept: BTreeSet<u64>,
    /// Who owned each shard when a machine joined at rest; and the owners of late, since when.
    before: BTreeMap<ShardId, u64>,
    quiet: (u64, BTreeMap<ShardId, u64>),
    network: Rng,
    people: Rng,
    life: FleetLife,
}

impl Fleet {
    pub(super) fn none() -> Self {
        Self::new(0, 0, 0)
    }

    /// The first machines of a group, and room for more.
    pub(super) fn new(seed: u64, founders: u64, homes: usize) -> Self {
        let ids: Vec<u64> = (1..=founders).collect();
        let founding = Image::founding(ids.clone(), founded(&ids));
        let mut rng = Rng::new(seed, 9);
        let mut machines: Vec<Machine> =
            ids.iter().map(|id| Machine::new(Member::new(*id, &founding))).collect();
        machines.resize_with(homes, || Machine::new(Member::new(0, &Image::joining())));
        let (entries, trailing) = (10 + rng.draw(60), rng.draw(12));
        Self {
            machines,
            judge: Judge::new(&ids),
            roll: Roll::default(),
            limits: Limits { entries, trailing, ..Limits::default() },
            phase: Phase::Faults,
            numbers: 0,
            newest: founders,
            dead: BTreeSet::new(),
            broken: None,
            gaps: BTreeMap::new(),
            struck: BTreeSet::new(),
            next_cut: 0,
            draining: BTreeMap::new(),
            leaving: BTreeSet::new(),
            heir: None,
            deploys: BTreeMap::new(),
            next_package: 0,
            cut_off: vec![0; homes],
            has_no_kafka: BTreeSet::new(),
            keepers: BTreeMap::new(),
            kept: BTreeSet::new(),
            before: BTreeMap::new(),
            quiet: (0, BTreeMap::new()),
            network: Rng::new(seed, 10),
            people: Rng::new(seed, 11),
            life: FleetLife::default(),
        }
    }

    pub(super) const fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    pub(super) fn life(&self) -> FleetLife {
        FleetLife { checks: self.judge.checks + self.roll.checks, ..self.life }.summed()
    }

    /// Where a member's machine is.
    fn home_of(&self, id: u64) -> Option<usize> {
        self.machines.iter().position(|it| it.raft.id == id && id != 0)
    }
}

impl World {
    /// All machines that there are start.
    pub(super) fn open_fleet(&mut self) -> Result<(), String> {
        for home in 0..self.fleet.machines.len() {
            if self.fleet.machines[home].raft.id != 0 {
                self.start_machine(home)?;
            }
        }
        self.after(100_000, 1, Event::Fleet(FleetEvent::Look));
        self.after(50_000, 200_000, Event::Fleet(FleetEvent::Client));
        self.after(2_000_000, 500_000, Event::Fleet(FleetEvent::Fault));
        Ok(())
    }

    /// A process begins on a machine.
    fn start_machine(&mut self, home: usize) -> Result<(), String> {
        self.open_home(home)?;
        self.start_member(home)
    }

    /// Whether the process that an event is for still runs.
    fn runs(&self, home: usize, process: u64) -> bool {
        self.kafka.runs(home, process)
    }

    /// The process of a home, as events for it name it.
    fn process(&self, home: usize) -> u64 {
        self.kafka.homes[home].process
    }

    fn shard_of(&self, id: ShardId) -> usize {
        self.ground.ids().iter().position(|it| *it == id).expect("a shard of the application")
    }

    pub(super) fn on_fleet(&mut self, event: FleetEvent) -> Result<(), String> {
        match event {
            FleetEvent::Tick { home, process } if self.runs(home, process) => self.tick(home),
            FleetEvent::Message { home, message } => self.receive(home, *message),
            FleetEvent::Fate { home, process, to, fate } if self.runs(home, process) => {
                self.input(home, |process| match fate {
                    Fate::Checkpoint { arrived } => process.group.checkpoint_sent(to, arrived),
                    Fate::Unreachable => process.group.unreachable(to),
                })
            }
            FleetEvent::Forward { home, request, command } => {
                self.take_forwarded(home, request, command)
            }
            FleetEvent::Converge { home, process } if self.runs(home, process) => {
                self.converge(home)
            }
            FleetEvent::Cut { home, life } => self.cut_short(home, life),
            FleetEvent::Released { home, process, shard } if self.runs(home, process) => {
                self.released(home, shard)
            }
            FleetEvent::Handed { home, from, shard, handed } => {
                self.inherit(home, from, shard, *handed);
                Ok(())
            }
            FleetEvent::Give { home, process, shard } if self.runs(home, process) => {
                self.give_away(home, shard)
            }
            FleetEvent::Recover { home, process, shard, epoch } if self.runs(home, process) => {
                self.recover_again(home, shard, epoch)
            }
            FleetEvent::Package { home, package, from } => self.keep_package(home, package, from),
            FleetEvent::Kept { home, process, package, by } if self.runs(home, process) => {
                self.package_kept(home, package, by)
            }
            FleetEvent::Want { home, package, by } => self.want_package(home, package, by),
            FleetEvent::Client => self.people_act(),
            FleetEvent::Fault => self.fault(),
            FleetEvent::Restart { home } => self.restart_machine(home),
            FleetEvent::Look => self.look(),
            // For a process that is gone.
            _ => Ok(()),
        }
    }
}
