//! What a figure was measured on, and how much of the machine it had: printed beside every result,
//! since a figure without it cannot be repeated.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::Failed;

/// Share of the machine that others may use before a run is noisy.
const OTHERS_MAX: f64 = 0.20;

/// CPU time of this process so far, all threads.
pub(crate) fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Ticks of the whole machine: busy (without steal), stolen, and all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ticks {
    busy: u64,
    steal: u64,
    all: u64,
}

impl Ticks {
    pub(crate) fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default();
        let columns: Vec<u64> =
            line.split_whitespace().skip(1).take(8).map(|it| it.parse().unwrap_or(0)).collect();
        let [user, nice, system, idle, iowait, irq, softirq, steal] = columns[..] else {
            return Self::default();
        };
        let busy = user + nice + system + irq + softirq;
        Self { busy, steal, all: busy + idle + iowait + steal }
    }

    /// The share of the machine that others and steal had since `before`, while what is measured
    /// used `ours`.
    pub(crate) fn others_since(self, before: Self, ours: Duration) -> f64 {
        // The kernel counts a hundred ticks a second for everybody who asks.
        let ours = ours.as_secs_f64() * 100.0;
        let busy = (self.busy - before.busy) as f64;
        let steal = (self.steal - before.steal) as f64;
        let all = (self.all - before.all).max(1) as f64;
        ((busy - ours).max(0.0) + steal) / all
    }
}

/// Time, own CPU and the machine's ticks since it was made.
#[derive(Debug)]
pub(crate) struct Meter {
    at: Instant,
    cpu: Duration,
    ticks: Ticks,
}

/// What a [`Meter`] saw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) took: Duration,
    pub(crate) cpu: Duration,
    /// Steal and other processes, as a share of the machine.
    pub(crate) others: f64,
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self { at: Instant::now(), cpu: own_cpu(), ticks: Ticks::now() }
    }

    pub(crate) fn stop(&self) -> Seen {
        let (took, cpu) = (self.at.elapsed(), own_cpu() - self.cpu);
        Seen { took, cpu, others: Ticks::now().others_since(self.ticks, cpu) }
    }
}

/// Whether a result is marked noisy: the same contender twice was not the same, or others had
/// too much of the machine.
pub(crate) fn is_noisy(a_a: f64, others: f64) -> bool {
    !(0.95..=1.05).contains(&a_a) || OTHERS_MAX < others
}

/// Kibibytes from a line of this process's status.
pub(crate) fn resident_mib(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found = status.lines().find_map(|it| it.strip_prefix(line)?.strip_prefix(':'));
    let kib = found.and_then(|it| it.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// The machine and the disk under `dir`, while nothing of ours runs.
pub(crate) fn describe(dir: &Path) -> Result<Map<String, Value>, Failed> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    let (p50, p99) = fdatasync(dir)?;
    let command: Vec<String> = std::env::args().skip(1).collect();
    let described = json!({
        "command": format!("millrace-bench {}", command.join(" ")),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "kernel": rustix::system::uname().release().to_string_lossy(),
        "load_average": load,
        "fdatasync_p50_us": p50,
        "fdatasync_p99_us": p99,
    });
    match described {
        Value::Object(map) => Ok(map),
        _ => Ok(Map::new()),
    }
}

/// How long 4 KiB take to be durable here: median and p99 of 200, in microseconds.
fn fdatasync(dir: &Path) -> Result<(f64, f64), Failed> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let at = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(at.elapsed().as_secs_f64() * 1e6);
    }
    let times = crate::figures::Sorted::new(times);
    Ok((times.at(0.5), times.at(0.99)))
}
