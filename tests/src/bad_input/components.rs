//! Components that misbehave: each costs its own records, which end as dead letters with the
//! cause by name, and nobody else's.

use std::collections::BTreeSet;

use crate::bad_input::ground::{Function, Ground, arrived, header, records, stop, values};
use crate::demand;
use crate::harness::binaries;
use crate::promise::{During, NotShown};

/// Serves `bad` beside `identity` and demands that it is refused by name while the other runs.
fn cannot_start(ground: &Ground, bytes: &[u8], words: &[&str]) -> Result<(), NotShown> {
    let component = ground.dir.join("bad.wasm");
    std::fs::write(&component, bytes).during("write a component")?;
    let bad = Function { name: "bad", component, keys: "" };
    ground.application(&[Function::of("identity"), bad])?;
    let (node, api) = ground.serve()?;
    api.produce("identity.in", &records(&["fine"]))?;
    arrived(&api, "identity.out", 1)?;
    api.produce("bad.in", &records(&["waits"]))?;
    let said = format!("{}{}", node.text(), api.status()?);
    for word in words {
        demand!(said.contains(word), "neither the node nor its status says {word:?}: {said}");
    }
    demand!(api.records("bad.dead", 10).map_or(true, |it| it.is_empty()), "a record was charged");
    stop(node)
}

pub(super) fn missing_import(ground: &Ground) -> Result<(), NotShown> {
    let path = binaries::component("wants_more");
    let bytes = std::fs::read(path).during("read a component")?;
    cannot_start(ground, &bytes, &["test:wants-more/database"])
}

pub(super) fn no_component(ground: &Ground) -> Result<(), NotShown> {
    cannot_start(ground, b"this is no component", &["bad"])
}

/// Has `function` process good records and one bad one: the good ones come out, the bad one is a
/// dead letter with this code, and `identity` beside it runs on.
fn charged(ground: &Ground, function: Function<'_>, bad: &str, code: &str) -> Result<(), NotShown> {
    let name = function.name;
    ground.application(&[Function::of("identity"), function])?;
    let (node, api) = ground.serve()?;
    api.produce(&format!("{name}.in"), &records(&["good 1", bad, "good 2", "good 3"]))?;
    api.produce("identity.in", &records(&["fine"]))?;
    arrived(&api, "identity.out", 1)?;
    let dead = arrived(&api, &format!("{name}.dead"), 1)?;
    let out = arrived(&api, &format!("{name}.out"), 3)?;
    demand!(dead.len() == 1, "{} dead letters instead of one", dead.len());
    demand!(dead[0]["value"] == bad, "the dead letter is {}", dead[0]["value"]);
    let found = header(&dead[0], "millrace-dead-error-type");
    demand!(found == Some(code), "the dead letter's code is {found:?} instead of {code}");
    let message = header(&dead[0], "millrace-dead-error-message");
    demand!(message.is_some_and(|it| !it.is_empty()), "the dead letter has no message");
    let attempts = header(&dead[0], "millrace-dead-attempts");
    demand!(attempts == Some("2"), "the dead letter says {attempts:?} attempts instead of 2");
    let good: BTreeSet<String> = ["good 1", "good 2", "good 3"].map(str::to_owned).into();
    demand!(values(&out) == good, "outputs are {:?}", values(&out));
    stop(node)
}

pub(super) fn trap(ground: &Ground) -> Result<(), NotShown> {
    charged(ground, Function::of("trap"), "trap", "Runtime.ExitError")
}

pub(super) fn endless_loop(ground: &Ground) -> Result<(), NotShown> {
    charged(ground, Function::of("spin"), "spin", "Sandbox.Timedout")
}

pub(super) fn memory_bomb(ground: &Ground) -> Result<(), NotShown> {
    charged(ground, Function::of("bomb"), "bomb", "Runtime.OutOfMemory")
}

pub(super) fn topic_not_allowed(ground: &Ground) -> Result<(), NotShown> {
    charged(ground, Function::of("misbehave"), "topic", "Millrace.OutputTopic")
}

pub(super) fn output_too_large(ground: &Ground) -> Result<(), NotShown> {
    charged(ground, Function::of("misbehave"), "large", "Millrace.OutputTooLarge")
}

pub(super) fn truncated_answer(ground: &Ground) -> Result<(), NotShown> {
    charged(ground, Function::of("misbehave"), "truncated", "Millrace.BrokenAnswer")
}

pub(super) fn partition_not_there(ground: &Ground) -> Result<(), NotShown> {
    charged(ground, Function::of("misbehave"), "partition", "Millrace.OutputPartition")
}

pub(super) fn strange_result(ground: &Ground) -> Result<(), NotShown> {
    charged(ground, Function::of("misbehave"), "foreign", "Millrace.BrokenAnswer")
}
