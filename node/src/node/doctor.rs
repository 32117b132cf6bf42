//! What keeps a node from working well, each with its remedy: the machine under it, which can be
//! examined without a node too, and what the node knows of its functions, triggers and bus. Nothing
//! is changed but a small file that is written and taken away.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use gateway::NodeView as _;
use gateway::api::{API, Examination, Finding, FunctionState, ShardState, Verdict};
use rustix::process::{Resource, getrlimit};

use super::Node;
use super::prepare::language_of;

/// Syncs that the disk is asked for; the slowest two are its p99, near enough.
const SYNCS: usize = 60;
/// A journal that is synced slower than this feels it in every record.
const SYNC_SLOW: Duration = Duration::from_millis(20);
/// What is synced each time.
const SYNC_BYTES: usize = 4_096;
/// Shares of the disk that are left, below which somebody should look, or act.
const DISK_LOW: (f64, f64) = (0.10, 0.03);
/// Descriptors for some hundred functions and clients.
const DESCRIPTORS_MIN: u64 = 4_096;
/// Dead letters that go sooner than somebody has looked are lost.
const DEAD_LETTERS_KEPT: Duration = Duration::from_secs(3 * 24 * 3_600);
/// How long the brokers may take to answer.
const BROKERS_PATIENCE: Duration = Duration::from_secs(5);
/// 2026-01-01: a clock before it is wrong.
const CLOCK_MIN_MS: i64 = 1_767_225_600_000;

pub(super) fn ok(subject: &str, found: impl Into<String>) -> Finding {
    Finding { subject: subject.to_owned(), found: found.into(), ..Finding::default() }
}

pub(super) fn bad(
    verdict: Verdict,
    subject: &str,
    found: impl Into<String>,
    code: &str,
    remedy: &str,
) -> Finding {
    let (remedy, code) = (Some(remedy.to_owned()), Some(code.to_owned()));
    Finding { verdict, remedy, code, ..ok(subject, found) }
}

/// The machine, as a node with its data in this folder finds it. Blocks.
#[must_use]
pub fn examine_machine(data_dir: &Path) -> Vec<Finding> {
    let mut findings = vec![room(data_dir), syncs(data_dir)];
    findings.push(descriptors(getrlimit(Resource::Nofile).current));
    let text = |path: &str| fs::read_to_string(path).ok();
    let root = rustix::process::geteuid().is_root();
    findings.push(namespaces(root, text));
    let kept = ["/run/systemd/timesync/synchronized", "/run/chrony/chronyd.pid", "/run/ntpd.pid"];
    let kept = kept.into_iter().find(|path| Path::new(path).exists());
    findings.push(clock(bus::Timestamp::now().0, kept));
    findings
}

fn room(data_dir: &Path) -> Finding {
    let Ok(disk) = rustix::fs::statvfs(data_dir) else {
        let found = format!("{} cannot be looked at", data_dir.display());
        return bad(
            Verdict::Fail,
            "data",
            found,
            "E0410",
            "choose a folder that this user may use",
        );
    };
    // As df has it: what is kept for root is no part of it.
    let all = disk.f_blocks.saturating_sub(disk.f_bfree) + disk.f_bavail;
    left(data_dir, disk.f_bavail as f64 / all.max(1) as f64)
}

fn left(data_dir: &Path, share: f64) -> Finding {
    let found = format!("{}: {:.0}% of the disk is free", data_dir.display(), share * 100.0);
    let remedy = "give topics a `retention`, or the disk more room";
    match share {
        share if share < DISK_LOW.1 => bad(Verdict::Fail, "data", found, "E0401", remedy),
        share if share < DISK_LOW.0 => bad(Verdict::Warn, "data", found, "W0401", remedy),
        _ => ok("data", found),
    }
}

fn syncs(data_dir: &Path) -> Finding {
    match measure(data_dir) {
        Ok(took) => synced(took),
        Err(error) => {
            let found = format!("a file in {} cannot be synced: {error}", data_dir.display());
            bad(
                Verdict::Fail,
                "disk",
                found,
                "E0412",
                "look at the disk and at who owns the folder",
            )
        }
    }
}

/// How long each sync took, the slowest last.
fn measure(data_dir: &Path) -> std::io::Result<Vec<Duration>> {
    let mut file = tempfile::tempfile_in(data_dir)?;
    let mut took = Vec::with_capacity(SYNCS);
    for _sync in 0..SYNCS {
        let started_at = Instant::now();
        file.write_all(&[7; SYNC_BYTES])?;
        file.sync_data()?;
        took.push(started_at.elapsed());
    }
    took.sort();
    Ok(took)
}

fn synced(took: Vec<Duration>) -> Finding {
    let at = |share: usize| took.get((took.len() * share / 100).min(took.len() - 1)).copied();
    let (half, most) = (at(50).unwrap_or_default(), at(98).unwrap_or_default());
    let ms = |time: Duration| crate::output::milliseconds(time.as_secs_f64() * 1e3);
    let found = format!("fdatasync p50 {}, p99 {}", ms(half), ms(most));
    let remedy = "put the data on a local disk that keeps its promises quickly: an SSD, no network";
    match SYNC_SLOW < most {
        true => bad(Verdict::Warn, "disk", found, "W0601", remedy),
        false => ok("disk", found),
    }
}

fn descriptors(limit: Option<u64>) -> Finding {
    let Some(limit) = limit.filter(|limit| *limit < DESCRIPTORS_MIN) else {
        let found = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("up to {limit}"));
        return ok("descriptors", found);
    };
    let found = format!("up to {limit}, and {DESCRIPTORS_MIN} are needed for many functions");
    bad(Verdict::Warn, "descriptors", found, "W0602", "LimitNOFILE=65536 in the unit, or ulimit -n")
}

fn namespaces(is_root: bool, read: impl Fn(&str) -> Option<String>) -> Finding {
    let is = |path: &str, value: &str| read(path).is_some_and(|text| text.trim() == value);
    let forbidden = [
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ];
    let forbids = forbidden.iter().find(|(path, value)| is(path, value));
    match forbids.filter(|_| !is_root) {
        None => ok("namespaces", "workers may have process namespaces of their own"),
        Some((path, value)) => {
            let found =
                format!("{path} is {value}: what a worker leaves behind is adopted, not ended");
            let remedy = "let users make namespaces: the sysctl that is named, the other way round";
            bad(Verdict::Warn, "namespaces", found, "W0604", remedy)
        }
    }
}

fn clock(now_ms: i64, kept_by: Option<&str>) -> Finding {
    let time = super::status::rfc3339(bus::Timestamp(now_ms));
    if now_ms < CLOCK_MIN_MS {
        let found = format!("{time} is long past: ages and retention are wrong");
        return bad(Verdict::Fail, "clock", found, "W0605", "timedatectl set-ntp true");
    }
    match kept_by {
        Some(file) => ok("clock", format!("{time}, kept by what writes {file}")),
        None => {
            let found = format!("{time}; nothing was found that keeps it right");
            bad(Verdict::Warn, "clock", found, "W0605", "timedatectl set-ntp true, or run chrony")
        }
    }
}

impl Node {
    /// Examines the machine, then what only a node knows.
    pub(super) async fn examine(&self) -> Examination {
        let data_dir = self.inner.data_dir.clone();
        let machine = tokio::task::spawn_blocking(move || examine_machine(&data_dir)).await;
        let mut findings = machine.unwrap_or_default();
        findings.push(match self.inner.workers.limits_memory() {
            true => ok("memory limits", "kept by the kernel, in a control group for each worker"),
            false => bad(
                Verdict::Warn,
                "memory limits",
                "no control group can be made: the node looks every 50 ms instead",
                "W0603",
                "Delegate=memory in the unit",
            ),
        });
        findings.extend(self.interpreters().await);
        findings.extend(self.work());
        findings.extend(self.examine_trust());
        findings.extend(self.brokers().await);
        Examination { api: API, findings }
    }

    /// The interpreter of each runtime that is deployed.
    async fn interpreters(&self) -> Vec<Finding> {
        let mut wanted = std::collections::BTreeMap::new();
        self.state(|state| {
            for function in state.apps().values().flat_map(|app| app.functions.values()) {
                if let Ok((spec, _)) = super::restore::as_kept(function)
                    && spec.runtime.is_process()
                {
                    wanted.insert(spec.runtime.to_string(), language_of(spec.runtime));
                }
            }
        });
        let mut findings = Vec::new();
        for (name, language) in wanted {
            if language == runtime::Language::Provided {
                continue;
            }
            findings.push(match self.inner.workers.program(language).await {
                Ok(program) => ok(&name, format!("{} {}", program.path.display(), program.version)),
                Err(error) => bad(
                    Verdict::Fail,
                    &name,
                    error.to_string(),
                    "E0316",
                    "install it, or name one that is there as `runtime`",
                ),
            });
        }
        findings
    }

    /// Functions and triggers that do not work.
    fn work(&self) -> Vec<Finding> {
        let status = self.status();
        let mut findings = Vec::new();
        for function in &status.functions {
            let verdict = match function.state {
                FunctionState::Stopped => Verdict::Fail,
                FunctionState::Stale => Verdict::Warn,
                _ => continue,
            };
            let error = function.last_error.clone().unwrap_or_default();
            let code = if error.code.is_empty() { "E0312" } else { &error.code };
            let subject = format!("function {}/{}", function.app, function.name);
            let remedy = "mend it and deploy again";
            findings.push(bad(verdict, &subject, error.message.clone(), code, remedy));
        }
        for it in &status.held_up {
            let (verdict, verb) = match it.state {
                ShardState::Stopped => (Verdict::Fail, "stopped"),
                _ => (Verdict::Warn, "waits"),
            };
            let found = format!("{verb} at {}{:?}: {}", it.topic, it.partitions, it.message);
            let remedy = format!("millrace explain {}", it.code);
            findings.push(bad(
                verdict,
                &format!("trigger {}", it.trigger),
                found,
                &it.code,
                &remedy,
            ));
        }
        for it in &status.paused {
            findings
                .push(ok(&format!("trigger {}", it.trigger), format!("paused since {}", it.since)));
        }
        if findings.is_empty() {
            let count = status.functions.len();
            findings.push(ok("functions", format!("all {count} run, and no trigger is held up")));
        }
        findings
    }

    /// Kafka, where that is the bus: whether it answers, and whether its topics keep what they must.
    async fn brokers(&self) -> Vec<Finding> {
        let Some(kafka) = &self.inner.kafka else {
            return vec![ok("bus", "the node's own")];
        };
        let asked = tokio::time::timeout(BROKERS_PATIENCE, self.inner.bus.topics()).await;
        let topics = match asked {
            Ok(Ok(topics)) => topics,
            Ok(Err(error)) => {
                let code = dispatch::StopReason::of(&error).code();
                let remedy = "are they running, and advertised under a name that resolves here?";
                return vec![bad(Verdict::Fail, "kafka", error.to_string(), code, remedy)];
            }
            Err(_elapsed) => {
                let found =
                    format!("{} does not answer within {BROKERS_PATIENCE:?}", kafka.brokers);
                let remedy = "are they running, and is nothing between them and this machine?";
                return vec![bad(Verdict::Fail, "kafka", found, "E0415", remedy)];
            }
        };
        let mut findings =
            vec![ok("kafka", format!("{} answers, {} topics", kafka.brokers, topics.len()))];
        let dead: Vec<String> =
            self.trigger_list().triggers.into_iter().filter_map(|it| it.dead_letter).collect();
        for info in topics.iter().filter(|it| dead.iter().any(|name| **name == *it.spec.name)) {
            findings.extend(kept(&info.spec.name, info.spec.retention.age));
        }
        findings
    }
}

/// Whether a topic of dead letters keeps them until somebody has looked.
fn kept(topic: &str, age: Option<Duration>) -> Option<Finding> {
    let age = age.filter(|age| *age < DEAD_LETTERS_KEPT)?;
    let found = format!("keeps dead letters for {} only", function::format_duration(age));
    let remedy = "raise its retention.ms: what went cannot be put back";
    Some(bad(Verdict::Warn, &format!("topic {topic}"), found, "W0606", remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_low_before_it_is_full() {
        let verdict = |share| left(Path::new("/d"), share).verdict;
        assert_eq!([0.5, 0.09, 0.02].map(verdict), [Verdict::Ok, Verdict::Warn, Verdict::Fail]);
    }

    #[test]
    fn one_slow_sync_of_many_is_no_slow_disk() {
        let mut took = vec![Duration::from_micros(300); SYNCS - 1];
        took.push(Duration::from_secs(1));
        assert_eq!(synced(took.clone()).found, "fdatasync p50 0.30 ms, p99 0.30 ms");
        took[1..].fill(Duration::from_millis(30));
        let slow = synced(took);
        assert_eq!((slow.verdict, slow.code.as_deref()), (Verdict::Warn, Some("W0601")));
    }

    #[test]
    fn limits_and_switches_are_named() {
        assert_eq!(descriptors(Some(1_024)).verdict, Verdict::Warn);
        assert_eq!(descriptors(Some(65_536)).verdict, Verdict::Ok);
        assert_eq!(descriptors(None).verdict, Verdict::Ok);
        let read = |path: &str| path.ends_with("userns_clone").then(|| "0\n".to_owned());
        let found = namespaces(false, read);
        assert!(found.found.starts_with("/proc/sys/kernel/unprivileged_userns_clone is 0"));
        assert_eq!(namespaces(true, read).verdict, Verdict::Ok, "root may");
        assert_eq!(namespaces(false, |_| None).verdict, Verdict::Ok);
        assert_eq!(clock(0, None).verdict, Verdict::Fail);
        assert_eq!(clock(CLOCK_MIN_MS, None).verdict, Verdict::Warn);
        assert_eq!(clock(CLOCK_MIN_MS, Some("/run/x")).verdict, Verdict::Ok);
        let day = Duration::from_secs(24 * 3_600);
        assert_eq!(kept("t", Some(day)).map(|it| it.code), Some(Some("W0606".to_owned())));
        assert_eq!(kept("t", None).or_else(|| kept("t", Some(7 * day))), None);
    }

    #[test]
    fn every_finding_that_is_not_well_has_a_remedy_and_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let mut findings = examine_machine(dir.path());
        findings.extend(examine_machine(&dir.path().join("missing")));
        assert!(findings.iter().any(|it| it.verdict == Verdict::Fail), "{findings:?}");
        for it in findings.iter().filter(|it| it.verdict != Verdict::Ok) {
            let code = it.code.as_deref().unwrap();
            assert!(it.remedy.is_some() && function::explain(code).is_some(), "{it:?}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
