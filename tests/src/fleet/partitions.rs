//! Three nodes and their Kafka in a network that is cut: a node from the others, in one direction
//! only, in a ring, on and off, and from Kafka alone. Nothing is lost meanwhile and keys keep their
//! order in every epoch; what a node on the wrong side still puts out ends soon; when the network
//! is whole again everything is settled.

use std::time::Duration;

use bus::Timestamp;

use super::{Mill, NODES, Seen};
use crate::demand;
use crate::harness::network::{Network, Place};
use crate::harness::wait;
use crate::promise::{Figures, NotShown, Run, broken};

/// Records a second.
const RATE: u64 = 500;
/// How long a cut between nodes is at least and at most.
const CUT: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(8));
/// Before others take over, who is cut off goes on.
const STILL_ITS_OWN: Duration = Duration::from_millis(700);
/// By when a node that does not reach Kafka is relieved.
const RELIEVED_WITHIN: Duration = Duration::from_secs(30);
/// How long results of an old epoch may come after the first of the next, in milliseconds: a node
/// that hears of nobody finds the higher epoch in Kafka.
const STALE_MS_MAX: i64 = 5_000;
/// Who was gone often has to be heard of for half a minute before it gets its share.
const SHARED_WITHIN: Duration = Duration::from_secs(90);

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// A node from the others.
    Full,
    /// What a node sends to the others.
    Mute,
    /// What the others send to a node.
    Deaf,
    /// Each node hears one neighbour, and not the other: no two can talk.
    Ring,
    /// A node from the others, on and off.
    Flapping,
    /// A node from Kafka.
    Kafka,
}

const CUTS: [Cut; 6] = [Cut::Full, Cut::Kafka, Cut::Mute, Cut::Ring, Cut::Deaf, Cut::Flapping];

/// Shows it.
///
/// # Errors
///
/// When it is broken; unchecked without root, Python, Java, Maven, or what they have to fetch.
pub fn run(run: &mut Run) -> Result<Figures, NotShown> {
    let cuts = run.count("cuts", 8, 60);
    let network = Network::of(NODES)?;
    let mut split =
        Split { mill: Mill::start_in(&network, run, RATE, 11)?, network, seen: Seconds::default() };
    for number in 0..cuts {
        let cut = CUTS[number as usize % CUTS.len()];
        let victim = split.mill.rng.draw(NODES as u64) as usize;
        run.note(format!("cut {} of {cuts}: {cut:?} of edge-{}", number + 1, victim + 1));
        split.cut(cut, victim)?;
    }
    let back_ms = split.mill.look()?.back_ms();
    let Split { mut mill, seen, .. } = split;
    let figures = mill.finish(run)?;
    Ok(Figures::default()
        .with("cuts", cuts)
        .with("stale_ms_max", seen.stale_ms.iter().copied().max().unwrap_or_default())
        .with("relieved_ms_max", seen.relieved_ms.iter().copied().max().unwrap_or_default())
        .with("offset_back_ms_max", back_ms)
        .with_all(figures))
}

/// What the cuts have shown, in milliseconds.
#[derive(Debug, Default)]
struct Seconds {
    stale_ms: Vec<i64>,
    relieved_ms: Vec<u64>,
}

struct Split {
    mill: Mill,
    network: Network,
    seen: Seconds,
}

impl Split {
    /// Cuts, looks, heals, and waits until all is well again.
    fn cut(&mut self, cut: Cut, victim: usize) -> Result<(), NotShown> {
        self.wait_for_shares()?;
        let before = self.mill.settle()?;
        let links = links(cut, victim);
        let at = Timestamp::now();
        if cut == Cut::Flapping {
            self.flap(&links)?;
        } else {
            self.carry_out(&links)?;
            self.look_during(cut, at, &before)?;
        }
        self.network.heal()?;
        for (from, to) in &links {
            demand!(self.network.answers(*from, *to)?, "{from:?} does not reach {to:?} again");
        }
        let after = self.mill.settle()?;
        let stale = after.stale_for(&before);
        if let Some(late) = stale.iter().find(|it| STALE_MS_MAX < **it) {
            return Err(broken(format!("{cut:?}: an old epoch put out results for {late} ms")));
        }
        self.seen.stale_ms.extend(stale);
        Ok(())
    }

    fn carry_out(&self, links: &[(Place, Place)]) -> Result<(), NotShown> {
        for (from, to) in links {
            self.network.cut(*from, *to)?;
        }
        let (from, to) = links[0];
        demand!(!self.network.answers(from, to)?, "{from:?} reaches {to:?} although it is cut");
        Ok(())
    }

    fn flap(&mut self, links: &[(Place, Place)]) -> Result<(), NotShown> {
        let (shortest, longest) = (Duration::from_millis(200), Duration::from_millis(1_500));
        for _ in 0..6 {
            self.carry_out(links)?;
            wait::pause(self.mill.rng.time(shortest, longest));
            self.network.heal()?;
            wait::pause(self.mill.rng.time(shortest, longest));
        }
        Ok(())
    }

    fn look_during(&mut self, cut: Cut, at: Timestamp, before: &Seen) -> Result<(), NotShown> {
        let (shortest, longest) = CUT;
        let length = self.mill.rng.time(shortest, longest);
        match cut {
            Cut::Kafka => {
                let relieved =
                    wait::until(RELIEVED_WITHIN, || self.resumed(at, before).transpose());
                let mut silent = || self.mill.look().map(|it| format!("{:?}", it.silent_since(at)));
                let Some(seen) = relieved else {
                    return Err(broken(format!("nobody relieved it: silent are {}", silent()?)));
                };
                demand!(seen?.epochs() != before.epochs(), "no shard was moved");
                self.seen.relieved_ms.push((Timestamp::now().0 - at.0).cast_unsigned());
            }
            Cut::Ring | Cut::Full | Cut::Mute | Cut::Deaf => {
                wait::pause(STILL_ITS_OWN);
                let still = self.resumed(at, before)?;
                demand!(still.is_some(), "{cut:?}: a node without the others stopped at once");
                wait::pause(length);
                let late = Timestamp(Timestamp::now().0 - 1_500);
                let seen = self.mill.look()?;
                let silent = seen.silent_since(late);
                demand!(silent.is_empty(), "{cut:?}: silent are {silent:?}");
                let has_moved = seen.epochs() != before.epochs();
                demand!(has_moved == (cut != Cut::Ring), "{cut:?}: shards moved: {has_moved}");
            }
            Cut::Flapping => {}
        }
        Ok(())
    }

    /// What is seen once every shard has put out something since then.
    fn resumed(&mut self, at: Timestamp, before: &Seen) -> Result<Option<Seen>, NotShown> {
        let seen = self.mill.look()?;
        Ok(seen.resumed_since(at, before).then_some(seen))
    }

    /// Waits until every node has shards: who was gone has to be heard of for a while first.
    fn wait_for_shares(&self) -> Result<(), NotShown> {
        let mut shares = Vec::new();
        let shared = wait::until(SHARED_WITHIN, || {
            let members = self.mill.fleet.slots[0].members().ok()?;
            shares = members.iter().filter_map(|it| it["shards"].as_u64()).collect();
            (shares.len() == NODES && shares.iter().all(|it| 0 < *it)).then_some(())
        });
        shared.ok_or_else(|| broken(format!("not every node has shards: {shares:?}")))
    }
}

/// The directions that are cut.
fn links(cut: Cut, victim: usize) -> Vec<(Place, Place)> {
    let me = Place::Node(victim);
    let others = (1..NODES).map(|step| Place::Node((victim + step) % NODES));
    let away = others.clone().map(|other| (me, other));
    let home = others.map(|other| (other, me));
    match cut {
        Cut::Full | Cut::Flapping => away.chain(home).collect(),
        Cut::Mute => away.collect(),
        Cut::Deaf => home.collect(),
        Cut::Ring => {
            (0..NODES).map(|it| (Place::Node(it), Place::Node((it + 1) % NODES))).collect()
        }
        Cut::Kafka => vec![(me, Place::Hub), (Place::Hub, me)],
    }
}
