//! Kills a node on a real Kafka: outputs are acknowledged before the position moves, so a kill may
//! repeat some and loses none. Load and verdict are Python's, with a client that shares no code
//! with the node's; both work on while the node is down.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::app::{App, First};
use super::{Look, Mill, Pace, Scene, Shown};
use crate::demand;
use crate::harness::api::Api;
use crate::harness::kafka::{Broker, Kafka, Listeners};
use crate::harness::python::{self, Asked};
use crate::harness::rng::Rng;
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, Run, broken};

/// A client of Kafka in Python alone, with a protocol of its own.
const CLIENT: &str = "aiokafka==0.14.0";
/// What a look may take: with a million records, the last one.
const PATIENCE: Duration = Duration::from_secs(600);
/// How far behind the groups may be when there is nothing left to do, on a loaded machine.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// Records of one shard that a life repeats at most: those of its window, which may all be in the
/// commit that was on its way; and, where the position log was deleted, as many again of the second
/// by which the group is behind.
const REPEATS_MAX: u64 = 2 * 4_096;

/// Kills a chain that begins with a Python function, and has it judged.
pub(super) fn show(run: &Run, records: u64, kills: u64) -> Result<Shown, NotShown> {
    run.note("fetch Kafka and a client of it");
    let kafka = Kafka::fetch()?;
    let python = python::with(&[CLIENT])?;
    let dir = run.evidence.join("kafka");
    let broker = Broker::start(&kafka, &dir.join("broker"), Listeners::Plain)?;
    let address = broker.address();
    let mut judge = Asked::start(&python, "judge.py", &[&address, "chain"], &run.evidence)?;
    judge.ask("topics", PATIENCE)?;
    let count = records.to_string();
    let load = Asked::start(&python, "load.py", &[&address, "in", &count], &run.evidence)?;
    let node = dir.join("node");
    std::fs::create_dir_all(&node).during("make a folder")?;
    let app = App::make(&node, First::Python, Some(address))?;
    let scene = OnKafka { judge, load, records, pace: Pace::default(), began_at: None };
    let mut mill = Mill::new(app, scene, Rng::new(run.seed, 3));
    mill.run(run, records, kills)?;
    run.note("the final read, from the beginning");
    let judge = &mut mill.scene.judge;
    let last = judged(judge.ask(&format!("final {records}"), PATIENCE)?)?;
    let dead = number(&last, "dead_letters")?;
    demand!(dead == 0, "{dead} dead letters, but no record is bad");
    run.note("planting faults in copies of topics and in a group");
    let planted = judge.ask("planted", PATIENCE)?;
    let red = planted["red"].as_object().into_iter().flatten();
    let red: Vec<&str> = red.filter(|it| it.1.as_u64() > Some(0)).map(|it| it.0.as_str()).collect();
    demand!(red.len() == 3, "of dropped, reordered, advanced only {red:?} was found: {planted}");
    Ok(Shown {
        figures: Figures::default()
            .with("records", records)
            .with("outputs", number(&last, "outputs")?)
            .with("repeats_of_a_shard_max", number(&last, "repeats_most")?)
            .with("offset_behind_ms_max", number(&last, "behind_ms")?)
            .with("gaps", 0)
            .with("disorder", 0),
        red: red.len() as u64,
        tally: mill.tally,
    })
}

/// Kafka: records come from a producer that outlives the node, and are read by a consumer that
/// does not know it.
struct OnKafka {
    judge: Asked,
    load: Asked,
    records: u64,
    pace: Pace,
    began_at: Option<Instant>,
}

impl Scene for OnKafka {
    fn left(&mut self) -> Result<u64, NotShown> {
        let said = self.load.ask("left", PATIENCE)?;
        Ok(self.records - number(&said, "sent")?)
    }

    fn load(&mut self, _api: &Api, lives: u64) -> Result<(), NotShown> {
        // It goes on while the node is down.
        if let Some(began_at) = self.began_at.replace(Instant::now()) {
            self.pace.add(began_at.elapsed());
        }
        let (rate, most) = self.pace.share(self.left()?, lives);
        self.load.ask(&format!("rate {rate} {most}"), PATIENCE).map(drop)
    }

    fn hush(&mut self) -> Result<(), NotShown> {
        Ok(())
    }

    fn finish(&mut self, _api: &Api) -> Result<(), NotShown> {
        let said = self.load.ask("finish", PATIENCE)?;
        let acknowledged = number(&said, "acknowledged")?;
        let all = self.records;
        demand!(acknowledged == all, "{acknowledged} of {all} records were acknowledged");
        Ok(())
    }

    fn settle(&mut self) -> Result<(), NotShown> {
        let mut open = self.look()?.open;
        let settled = wait::until(SETTLED_WITHIN, || {
            if open == 0 {
                return Some(Ok(()));
            }
            wait::pause(Duration::from_millis(200));
            match self.look() {
                Ok(look) => open = look.open,
                Err(error) => return Some(Err(error)),
            }
            None
        });
        settled.ok_or_else(|| broken(format!("the groups are {open} behind, but not the node")))?
    }

    fn look(&mut self) -> Result<Look, NotShown> {
        let said = judged(self.judge.ask("look", PATIENCE)?)?;
        Ok(Look {
            outputs: number(&said, "new_outputs")?,
            open: number(&said, "open")?,
            repeats: number(&said, "repeats")?,
        })
    }
}

/// What the judge said, when it found nothing.
fn judged(said: Value) -> Result<Value, NotShown> {
    let is_green = said["findings"].as_object().is_some_and(serde_json::Map::is_empty);
    demand!(is_green, "{}: {}", said["findings"], said["accounts"]);
    let most = number(&said, "repeats_most")?;
    demand!(most <= REPEATS_MAX, "a life repeated {most} outputs of one shard");
    Ok(said)
}

fn number(said: &Value, name: &str) -> Result<u64, NotShown> {
    said[name].as_u64().ok_or_else(|| broken(format!("no {name} in {said}")))
}
