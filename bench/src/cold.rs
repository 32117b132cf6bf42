//! The price of a fresh instance, inside the pool: for a first record, for every record, and for
//! every batch of 500.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use frame::{Context, Order, RequestBuilder, Response};
use runtime::{Calling, Engine, EngineConfig, Fresh, Invocation, Invoke as _, PoolConfig};
use serde_json::{Value, json};

use crate::Failed;
use crate::environment::Meter;
use crate::figures::{Sorted, rounded};
use crate::mill::{BATCH, COMPONENT, VALUE_BYTES};

const STARTS: u64 = 10_000;
const WARM_UP: u64 = 1_000;

pub(crate) async fn run(dir: &Path) -> Result<Value, Failed> {
    let engine = Engine::new(EngineConfig::new(dir.join("cache")))?;
    let module = engine.load(COMPONENT)?;
    let pool = |fresh| engine.pool(&module, PoolConfig { fresh, ..PoolConfig::new("identity") });

    let per_batch = pool(Fresh::Batch);
    let (mut inside, mut called) = (Vec::new(), Vec::new());
    let meter = Meter::start();
    for id in 0..WARM_UP + STARTS {
        let invocation = request(id, 1);
        let at = Instant::now();
        let answer = per_batch.invoke(invocation).await?;
        let whole = at.elapsed();
        Response::parse(&answer.frame, id, 1)?;
        if !answer.cold {
            return Err("an instance was not fresh".into());
        }
        if WARM_UP <= id {
            inside.push(micros(answer.start + answer.run));
            called.push(micros(whole));
        }
    }
    let others = meter.stop().others;
    let (inside, called) = (Sorted::new(inside), Sorted::new(called));
    let record = cost(&pool(Fresh::Record), 200).await?;
    let batch = cost(&per_batch, 4_000).await?;
    let reused = cost(&pool(Fresh::Never), 4_000).await?;
    Ok(json!({
        "starts": STARTS,
        "cold_p50_us": inside.at(0.5),
        "cold_p99_us": inside.at(0.99),
        "cold_call_p50_us": called.at(0.5),
        "cold_call_p99_us": called.at(0.99),
        "fresh_per_record_us": rounded(record, 3),
        "fresh_per_record_per_second_core": (1e6 / record).round(),
        "fresh_per_batch_us": rounded(batch, 4),
        "reused_us": rounded(reused, 4),
        "others": rounded(others, 3),
    }))
}

/// Microseconds of CPU a record, whole process, over this many batches one after the other.
async fn cost(pool: &runtime::Pool, batches: u64) -> Result<f64, Failed> {
    let mut cpu = Duration::ZERO;
    for id in 0..batches + batches / 10 {
        let invocation = request(id, BATCH);
        let before = crate::environment::own_cpu();
        let answer = pool.invoke(invocation).await?;
        // Taken after an answer, not after the instance went: what it leaves is paid by the next.
        let spent = crate::environment::own_cpu() - before;
        let response = Response::parse(&answer.frame, id, BATCH)?;
        if response.outputs().count() != BATCH {
            return Err("a record was lost".into());
        }
        if batches / 10 <= id {
            cpu += spent;
        }
    }
    Ok(micros(cpu) / (batches as f64 * BATCH as f64))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn request(batch_id: u64, records: usize) -> Invocation {
    let context = Context {
        cluster: "bench",
        function: "identity",
        revision: "1",
        trigger: "bench/identity/identity",
        trace: "",
        deadline_ms: bus::Timestamp::now().0 + 30_000,
    };
    let mut builder = RequestBuilder::new(batch_id, Order::Key, &context, &[("in", 0)]);
    for index in 0..records {
        let (key, value) = (index.to_le_bytes(), [b'v'; VALUE_BYTES]);
        builder.push(0, index as i64, 0, 1, Some(&key), Some(&value), &[], 0);
    }
    let frame = Bytes::from(builder.finish());
    Invocation {
        frame,
        batch_id,
        records: records as u32,
        timeout: Duration::from_secs(30),
        calling: Calling::default(),
        is_risky: false,
        ends_with_caller: false,
        named: runtime::Named::default(),
    }
}
