//! A full disk: sources are refused with a code, the node stays up, what was acknowledged is
//! there, and it goes on by itself when there is room.

use std::time::Duration;

use crate::bad_input::ground::{Function, Ground, PATIENCE, records, stop};
use crate::demand;
use crate::harness::api::{Api, ApiError, ToProduce};
use crate::harness::mounts::SmallDisk;
use crate::harness::node::Node;
use crate::harness::{binaries, wait};
use crate::promise::{During, NotShown, broken};

/// Small enough to fill in a moment, large enough for the reserve to be seen.
const DISK_BYTES: u64 = 96 << 20;

pub(super) fn full(ground: &Ground) -> Result<(), NotShown> {
    ground.application(&[Function::of("identity")])?;
    std::fs::create_dir_all(&ground.data).during("make the data directory")?;
    let disk = SmallDisk::mount(&ground.data, DISK_BYTES)?;
    let (mut node, api) = serve(ground, &disk)?;

    // Half of it by something else, the rest by records.
    let ballast = disk.path().join("ballast");
    let half = vec![0_u8; usize::try_from(DISK_BYTES / 2).unwrap_or(0)];
    std::fs::write(&ballast, half).during("half fill the disk")?;
    let acknowledged = fill(&api)?;
    demand!(node.is_running(), "the node ended on a full disk: {}", node.tail());
    demand!(api.get("/healthz").is_ok(), "the node does not answer on a full disk");
    let again = api.produce("identity.in", &records(&["refused"]));
    demand!(is_refusal(&again), "an append on a full disk: {again:?}");

    // What else can be written is written: not even the reserve is left.
    let rest = disk.path().join("rest");
    let mut written = std::fs::File::create(&rest).during("fill the disk")?;
    while std::io::Write::write_all(&mut written, &[0_u8; 64 << 10]).is_ok() {}
    drop(written);
    let again = api.produce("identity.in", &records(&["refused"]));
    demand!(is_refusal(&again), "an append on a disk without any room: {again:?}");
    demand!(node.is_running(), "the node ended without any room: {}", node.tail());

    // Room again: nobody does anything else.
    std::fs::remove_file(&rest).during("make room")?;
    std::fs::remove_file(&ballast).during("make room")?;
    let goes_on = wait::until(PATIENCE, || {
        wait::pause(Duration::from_millis(50));
        api.produce("identity.in", &records(&["room"])).ok()
    });
    demand!(goes_on.is_some(), "appends are still refused when there is room: {}", node.tail());
    let expected = acknowledged + 1;
    let drained = wait::until(PATIENCE, || (api.lag().ok()? == 0).then_some(()));
    demand!(drained.is_some(), "the lag is {:?} when there is room: {}", api.lag(), node.tail());
    has_all(&api, expected)?;
    stop(node)?;
    let (node, api) = serve(ground, &disk)?;
    has_all(&api, expected)?;
    stop(node)
}

/// A node whose data directory is the small disk.
fn serve(ground: &Ground, disk: &SmallDisk) -> Result<(Node, Api), NotShown> {
    let mut command = disk.enter(&binaries::millrace());
    ground.environment(&mut command);
    command.arg("serve").arg("--app").arg(&ground.app).arg("--data").arg(&ground.data);
    let mut node = Node::start(&mut command, &ground.dir.join("node.log"))?;
    let api = Api::of(&ground.dir.join("state"), &mut node, PATIENCE)?;
    Ok((node, api))
}

/// Everything that was acknowledged is there, and went through the function once.
fn has_all(api: &Api, expected: usize) -> Result<(), NotShown> {
    for topic in ["identity.in", "identity.out"] {
        let there = api.end_of(topic)?;
        let is_all = usize::try_from(there).is_ok_and(|there| there == expected);
        demand!(is_all, "{topic} has {there} records, {expected} were acknowledged");
    }
    Ok(())
}

/// Appends until the node refuses even one small record; how many it acknowledged.
fn fill(api: &Api) -> Result<usize, NotShown> {
    let batch: Vec<ToProduce> = (0..200)
        .map(|number| ToProduce {
            key: format!("key-{number}").into_bytes(),
            value: "x".repeat(1_000).into_bytes(),
        })
        .collect();
    let mut acknowledged = 0;
    for records in [&batch[..], &batch[..1]] {
        acknowledged += fill_with(api, records)?;
    }
    Ok(acknowledged)
}

fn fill_with(api: &Api, records: &[ToProduce]) -> Result<usize, NotShown> {
    let mut acknowledged = 0;
    for _append in 0..5_000 {
        let answer = api.produce("identity.in", records);
        match answer {
            Ok(()) => acknowledged += records.len(),
            Err(_) if is_refusal(&answer) => return Ok(acknowledged),
            Err(error) => return Err(broken(format!("not refused but: {error}"))),
        }
    }
    Err(broken("the small disk does not fill"))
}

/// Refused for want of room, by its code (`millrace explain E0401`).
fn is_refusal(answer: &Result<(), ApiError>) -> bool {
    matches!(answer, Err(ApiError::Refused { code, status: 503 | 507, .. }) if code == "E0401")
}
