//! Has this node take its share of the instances that a function may have in the whole cluster, and
//! tells the planner which functions have such a maximum: [`cluster::shares`] decides.

use std::collections::BTreeMap;

use cluster::State;
use cluster::shares::Limits;
use function::FunctionSpec;

/// What a function's settings say of the whole cluster, if anything.
pub(super) fn limits_of(spec: &FunctionSpec) -> Option<Limits> {
    let it = spec.instances;
    let limits = Limits { warm: it.cluster_warm, max: it.cluster_max, each: it.max };
    (0 < limits.warm || limits.max.is_some()).then_some(limits)
}

/// The maxima of all functions that are deployed. Settings are read once for each revision.
#[derive(Debug, Default)]
pub(super) struct Maxima(BTreeMap<String, (String, Option<u32>)>);

impl Maxima {
    /// Of those that have one.
    pub(super) fn of(&mut self, state: &State) -> BTreeMap<String, u32> {
        let before = std::mem::take(&mut self.0);
        for (app, it) in state.apps() {
            for (name, function) in &it.functions {
                let name = format!("{app}/{name}");
                let known = before.get(&name).filter(|(of, _)| *of == function.revision);
                let max = known.map_or_else(|| maximum(&function.spec), |(_, max)| *max);
                self.0.insert(name, (function.revision.clone(), max));
            }
        }
        let limited = self.0.iter().filter_map(|(name, (_, max))| Some((name.clone(), (*max)?)));
        limited.collect()
    }
}

/// Settings that this build cannot read say nothing.
fn maximum(spec: &str) -> Option<u32> {
    serde_json::from_str::<FunctionSpec>(spec).ok()?.instances.cluster_max
}
