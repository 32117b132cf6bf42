//! What a record costs that is filtered: CPU of a whole node, from the bus to the position.

use std::path::Path;
use std::time::Duration;

use crate::harness::api::{Api, ToProduce};
use crate::harness::{binaries, wait};
use crate::promise::{During, NotShown, Run, broken};

/// CPU of a node for a record of [`VALUE_BYTES`] that is filtered, microseconds.
pub(super) const CPU_US_MAX: f64 = 1.5;

/// Length of each value.
pub(super) const VALUE_BYTES: usize = 200;
/// Records of one request.
const BATCH: u64 = 2_000;
const PARTITIONS: u64 = 2;
/// What Linux counts CPU in, whatever its own clock.
const TICKS_PER_SECOND: f64 = 100.0;
const PATIENCE: Duration = Duration::from_secs(120);

const TOPIC: &str = "[app]\nname = \"sieve\"\n[topic.in]\npartitions = 2\n";

const FUNCTION: &str = r#"
[function.never]
runtime = "wasm"
path    = "."
handler = "identity.wasm"

[[function.never.trigger]]
topics = ["in"]
start  = "earliest"
filter = { value = { c = [{ numeric = [">", 50] }], station = [{ prefix = "north-" }] } }
"#;

/// CPU of a filtered record in microseconds: that of a node which starts, filters all there are
/// and has written its position, less that of one which starts and finds nothing to do.
pub(super) fn measure(run: &Run, records: u64) -> Result<f64, NotShown> {
    let (app, folder) = (run.evidence.join("sieve"), run.evidence.clone());
    std::fs::create_dir_all(&app).during("make a folder")?;
    let component = binaries::root().join("tests/components/identity.wasm");
    std::fs::copy(component, app.join("identity.wasm")).during("copy a component")?;
    manifest(&app, TOPIC)?;
    serve(&app, &folder, |api| {
        (0..records).step_by(BATCH as usize).try_for_each(|first| {
            let numbers = first..records.min(first + BATCH);
            let records: Vec<ToProduce> = numbers.map(record).collect();
            Ok(api.produce("in", &records)?)
        })
    })?;
    manifest(&app, &format!("{TOPIC}{FUNCTION}"))?;
    let done = |api: &Api| {
        let settled = wait::until(PATIENCE, || {
            let filtered = api.metric("millrace_trigger_records_filtered_total").ok()?;
            (api.lag().ok()? == 0).then_some(filtered)
        });
        settled.ok_or_else(|| broken("the records were not filtered in time"))
    };
    let mut filtered = 0;
    let working = serve(&app, &folder, |api| {
        filtered = done(api)?;
        Ok(())
    })?;
    if filtered != records {
        return Err(broken(format!("{filtered} of {records} records were filtered")));
    }
    let idle = serve(&app, &folder, |api| match done(api)? {
        0 => Ok(()),
        again => Err(broken(format!("{again} records were filtered again"))),
    })?;
    Ok(working.saturating_sub(idle).as_secs_f64() * 1e6 / records as f64)
}

fn manifest(app: &Path, text: &str) -> Result<(), NotShown> {
    std::fs::write(app.join("millrace.toml"), text).during("write a manifest")
}

/// CPU of a node from its start until `work` is done.
fn serve(
    app: &Path,
    folder: &Path,
    work: impl FnOnce(&Api) -> Result<(), NotShown>,
) -> Result<Duration, NotShown> {
    let (mut node, api) = Api::serve(app, folder, PATIENCE)?;
    work(&api)?;
    let cpu = cpu_of(node.pid()).ok_or_else(|| broken("the node's CPU cannot be read"))?;
    node.stop(rustix::process::Signal::TERM, PATIENCE)?;
    Ok(cpu)
}

/// User and system time of a process, all threads.
fn cpu_of(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything; what follows it does not.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let ticks = ticks()? + ticks()?;
    Some(Duration::from_secs_f64(ticks as f64 / TICKS_PER_SECOND))
}

/// A reading, as devices send them.
pub(super) fn record(number: u64) -> ToProduce {
    let mut value = format!(
        "{{\"station\":\"north-{}\",\"seq\":{number},\"c\":{}.5,\"humidity\":61,\"wind\":\
         {{\"gust\":3.5,\"from\":\"NW\"}},\"battery\":3.71,\"ok\":true,\"tags\":[\"roof\",\"new\"],\
         \"note\":\"",
        number % 97,
        number % 40,
    );
    let rest = VALUE_BYTES - value.len() - 2;
    value.push_str(&".".repeat(rest));
    value.push_str("\"}");
    let key = format!("station-{}", number % (50 * PARTITIONS)).into_bytes();
    ToProduce { key, value: value.into_bytes() }
}
