//! What the simulated cluster agrees on: the real replicated state over a list of commands that no
//! crash loses. Every assignment is replayed from the start, which has to give the same state.

use bus::{Epoch, ShardId};
use cluster::{App, Command, Function, Placing, State, Trigger};

use super::plan::Plan;

/// The application of a plan, with functions of this revision.
pub(super) fn application(plan: &Plan, number: u64) -> App {
    let mut app = App::default();
    for (at, trigger) in plan.triggers.iter().enumerate() {
        let function = format!("f{at}");
        let spec = Function {
            revision: format!("r{number}"),
            package: format!("p{number}"),
            spec: "{}".to_owned(),
        };
        app.functions.insert(function.clone(), spec);
        let partitions = plan.partitions[trigger.source] as u32;
        let topics = [(format!("t{}", trigger.source), partitions)].into();
        app.triggers.insert(format!("sim/f{at}/x"), Trigger { function, topics });
    }
    app
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Ground {
    commands: Vec<Command>,
    state: State,
    ids: Vec<ShardId>,
    /// Trigger and partition of each shard.
    places: Vec<(usize, usize)>,
}

impl Ground {
    pub(super) fn new(plan: &Plan) -> Self {
        let app = application(plan, 1);
        let at = bus::Timestamp(0);
        let deploy = Command::Deploy { name: "sim".to_owned(), app, expects: None, at };
        let mut state = State::default();
        state.apply(&deploy).expect("the application is whole");
        let (ids, places) = state
            .shards()
            .iter()
            .map(|(&id, shard)| {
                let own = |trigger: &usize| shard.trigger == format!("sim/f{trigger}/x");
                let trigger = (0..plan.triggers.len()).find(own).expect("a trigger's shard");
                (id, (trigger, shard.partition as usize))
            })
            .unzip();
        Self { commands: vec![deploy], state, ids, places }
    }

    /// Trigger and partition of each shard.
    pub(super) fn places(&self) -> &[(usize, usize)] {
        &self.places
    }

    /// The shards' identities.
    pub(super) fn ids(&self) -> &[ShardId] {
        &self.ids
    }

    /// Assigns these shards anew; their epochs.
    pub(super) fn assign(&mut self, shards: &[usize]) -> Result<Vec<Epoch>, String> {
        let ids: Vec<ShardId> = shards.iter().map(|&shard| self.ids[shard]).collect();
        let before: Vec<Epoch> = ids.iter().map(|id| self.state.shards()[id].epoch).collect();
        let moves = ids.iter().zip(&before).map(|(&shard, &ends)| Placing { shard, ends, to: 1 });
        let command = Command::Assign { moves: moves.collect() };
        self.commands.push(command);
        let mut state = State::default();
        for command in &self.commands {
            state.apply(command).map_err(|why| format!("RS-4: {why}"))?;
        }
        self.state = state;
        let epochs: Vec<Epoch> = ids.iter().map(|id| self.state.shards()[id].epoch).collect();
        if before.iter().zip(&epochs).any(|(before, epoch)| before.0 + 1 != epoch.0) {
            return Err(format!("RS-1: from {before:?} to {epochs:?}"));
        }
        Ok(epochs)
    }
}
