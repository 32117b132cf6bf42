//! The records that are measured with: readings of devices as JSON of 208 bytes, keyed by device,
//! and how many of them the filter keeps.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::{Value, json};

use super::broker::Broker;
use super::{INPUT, PARTITIONS};
use crate::Failed;
use crate::environment::own_cpu;
use crate::figures::rounded;

/// Bytes of a record's value.
const VALUE_BYTES: usize = 208;
/// How many devices there are.
const DEVICES: u64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(120);

/// What was loaded.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) records: u64,
    /// How many of them the filter keeps.
    pub(crate) kept: u64,
    /// What a record cost here and at the broker.
    pub(crate) figures: Value,
}

/// Random numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    /// One of `0..sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Fills the input topic.
pub(crate) fn fill(broker: &Broker, records: u64) -> Result<Loaded, Failed> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &broker.address)
        .set("partitioner", "murmur2_random")
        .set("enable.idempotence", "true")
        .create()?;
    let (mut dice, mut kept, mut enriched) = (Dice(0x6d69_6c6c), 0, Vec::new());
    let (mut key, mut value) = (String::new(), String::new());
    let (started_at, cpu, broker_cpu) = (Instant::now(), own_cpu(), broker.cpu()?);
    for seq in 0..records {
        reading(&mut dice, seq, &mut key, &mut value);
        kept += u64::from(iot::enrich(value.as_bytes(), &mut enriched)?);
        let mut record = BaseRecord::to(INPUT).key(&key).payload(&value);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        if seq % 500 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(PATIENCE)?;
    let (took, cpu) = (started_at.elapsed(), own_cpu() - cpu);
    let broker_cpu = broker.cpu()? - broker_cpu;
    let loaded = broker.reach(INPUT, PARTITIONS)?;
    if loaded != records {
        return Err(format!("{loaded} records of {records} were loaded").into());
    }
    let each = |cpu: Duration| rounded(cpu.as_secs_f64() * 1e6 / records as f64, 3);
    let figures = json!({
        "client_us": each(cpu),
        "broker_us": each(broker_cpu),
        "per_second": (records as f64 / took.as_secs_f64()).round(),
    });
    Ok(Loaded { records, kept, figures })
}

/// Writes one reading and its key.
fn reading(dice: &mut Dice, seq: u64, key: &mut String, value: &mut String) {
    key.clear();
    value.clear();
    let device = dice.roll(DEVICES);
    write!(key, "dev-{device:06}").expect("a string takes any text");
    let mut hundredths = |from: i32, sides| f64::from(from + dice.roll(sides) as i32) / 100.0;
    let celsius = hundredths(-500, 4_000);
    let humidity = hundredths(0, 10_000);
    let hectopascal = hundredths(95_000, 10_000);
    let volt = hundredths(300, 120);
    let rssi = 40 + dice.roll(60);
    let at = 1_764_000_000_000 + seq * 20;
    write!(
        value,
        r#"{{"device":"{key}","site":"plant-{}","seq":{seq},"at":{at},"celsius":{celsius},"humidity":{humidity},"hectopascal":{hectopascal},"volt":{volt},"rssi":-{rssi},"status":"ok","firmware":"2.4.1","note":""#,
        device % 10,
    )
    .expect("a string takes any text");
    while value.len() < VALUE_BYTES - 2 {
        value.push('.');
    }
    value.push_str("\"}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_have_their_size_and_two_in_three_are_kept() {
        let (mut dice, mut key, mut value) = (Dice(1), String::new(), String::new());
        let (mut kept, mut enriched) = (0, Vec::new());
        for seq in 0..10_000 {
            reading(&mut dice, seq * 10_000, &mut key, &mut value);
            assert_eq!((key.len(), value.len()), (10, VALUE_BYTES), "{value}");
            kept += i32::from(iot::enrich(value.as_bytes(), &mut enriched).unwrap());
        }
        assert!((6_600..7_000).contains(&kept), "{kept}");
    }
}
