//! Requests of the control API with bodies that are nonsense, or nearly right: each is answered, what
//! is refused has its code, and the node goes on.

use serde_json::{Value, json};

use crate::bad_input::ground::{Function, Ground, PATIENCE, records, stop};
use crate::demand;
use crate::harness::api::{Api, ApiError};
use crate::harness::rng::Rng;
use crate::harness::wait;
use crate::promise::{NotShown, broken};

/// How many of each kind.
const REQUESTS: u64 = 1_500;

const PATHS: [&str; 6] = [
    "/v1/topics/identity.in/records",
    "/v1/topics/identity.in:fetch",
    "/v1/topics/nowhere/records",
    "/v1/topics",
    "/v1/apps/bad:plan",
    "/v1/apps/bad:deploy",
];

pub(super) fn nonsense(ground: &Ground) -> Result<(), NotShown> {
    ground.application(&[Function::of("identity")])?;
    let (mut node, api) = ground.serve()?;
    let mut rng = Rng::new(ground.seed, 77);
    let mut refused = 0;
    for number in 0..REQUESTS {
        let path = PATHS[rng.draw(PATHS.len() as u64) as usize];
        let body = if path.ends_with("/records") { batch(&mut rng) } else { value(&mut rng, 0) };
        // A connection that is closed behind a refusal takes a request along that was sent on it
        // meanwhile: the same one on another connection has to be answered.
        let first = api.post(path, &body);
        let answer = match first {
            Err(ApiError::Lost(_)) => api.post(path, &body),
            answer => answer,
        };
        match answer {
            Ok(_) => {}
            Err(ApiError::Refused { status, code, body: said }) => {
                let is_named = (400..500).contains(&status) && code.starts_with('E');
                demand!(is_named, "{number}: {path} {body}: {status} {said}");
                refused += 1;
            }
            Err(ApiError::Lost(why)) => {
                let tail = node.tail();
                return Err(broken(format!("{number}: {path} {body}: {why}; {tail}")));
            }
        }
    }
    demand!(REQUESTS / 4 < refused, "only {refused} were refused");
    demand!(node.is_running(), "the node ended: {}", node.tail());
    is_well(&api)?;
    stop(node)
}

/// What was appended, however strange, goes through; and so does what follows.
fn is_well(api: &Api) -> Result<(), NotShown> {
    api.produce("identity.in", &records(&["after"]))?;
    let is_through = || {
        let ended = api.end_of("identity.out").ok()? + api.end_of("identity.dead").ok()?;
        (api.end_of("identity.in").ok()? == ended).then_some(ended)
    };
    let ended = wait::until(PATIENCE, is_through);
    let sent = api.end_of("identity.in")?;
    demand!(ended.is_some_and(|it| 100 < it), "{ended:?} of {sent} records ended");
    Ok(())
}

/// A call to append: nonsense, records with garbage in every place, or ones of the right shape whose
/// keys, values and headers are strange.
fn batch(rng: &mut Rng) -> Value {
    let kind = rng.draw(5);
    if kind == 0 {
        return value(rng, 0);
    }
    let strange = |rng: &mut Rng| {
        let header = |rng: &mut Rng| json!({ "name": text(rng), "value": text(rng) });
        let headers: Vec<Value> = (0..rng.draw(4)).map(|_| header(rng)).collect();
        json!({ "key": text(rng), "value": text(rng), "headers": headers })
    };
    let garbage = |rng: &mut Rng| {
        let mut record = json!({});
        for name in ["key", "value", "headers", "timestamp_ms", "partition", "bogus"] {
            if rng.draw(3) == 0 {
                record[name] = value(rng, 1);
            }
        }
        record
    };
    let count = rng.draw(5);
    let records: Vec<Value> =
        (0..count).map(|_| if kind == 1 { garbage(rng) } else { strange(rng) }).collect();
    json!({ "records": records })
}

fn text(rng: &mut Rng) -> String {
    let draw = |rng: &mut Rng| match rng.draw(6) {
        0 => char::from(rng.draw(32) as u8),
        1 => char::from_u32(0x1_f300 + rng.draw(300) as u32).unwrap_or('\u{fffd}'),
        2 => ['\u{202e}', '\u{0}', '\r', '\n', '"', '\\', '/', '\u{feff}'][rng.draw(8) as usize],
        _ => char::from(b'a' + rng.draw(26) as u8),
    };
    let length = [0, 1, 5, 40, 3_000][rng.draw(5) as usize];
    (0..length).map(|_| draw(rng)).collect()
}

fn value(rng: &mut Rng, depth: u32) -> Value {
    let many = rng.draw(4);
    match rng.draw(if depth < 3 { 10 } else { 7 }) {
        0 => Value::Null,
        1 => json!(rng.draw(2) == 0),
        2 => json!(rng.draw(1 << 40).cast_signed() - (1 << 39)),
        3 => json!(i64::MIN),
        4 => json!(1.5e300),
        5 | 6 => json!(text(rng)),
        7 => (0..many).map(|_| value(rng, depth + 1)).collect(),
        8 => json!({ "records": (0..many).map(|_| value(rng, depth + 1)).collect::<Vec<Value>>() }),
        _ => (0..many).map(|_| (text(rng), value(rng, depth + 1))).collect(),
    }
}
