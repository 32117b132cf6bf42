//! What Prometheus reads: what the node's parts count, and beside it what is so at this moment.
//! The latter is written here for what there is now, so that nothing of a trigger that is gone stays.

use std::collections::BTreeMap;

use crate::api::{Health, Lag, ShardState, Status};
use crate::view::ProcessFigures;

/// Every state of a partition, with the word of its label.
const STATES: [(ShardState, &str); 6] = [
    (ShardState::Starting, "starting"),
    (ShardState::Running, "running"),
    (ShardState::Waiting, "waiting"),
    (ShardState::Paused, "paused"),
    (ShardState::Draining, "draining"),
    (ShardState::Stopped, "stopped"),
];

/// Families of the text format, each with its help and type once.
#[derive(Debug, Default)]
struct Families(BTreeMap<&'static str, (&'static str, &'static str, String)>);

impl Families {
    fn add(
        &mut self,
        name: &'static str,
        kind: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        let (_, _, lines) = self.0.entry(name).or_insert_with(|| (kind, help, String::new()));
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        lines.push_str(&format!("{name}{labels} {value}\n"));
    }

    fn gauge(
        &mut self,
        name: &'static str,
        help: &'static str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        self.add(name, "gauge", help, labels, value);
    }

    fn render(self) -> String {
        let mut out = String::new();
        for (name, (kind, help, lines)) in self.0 {
            out.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}\n"));
        }
        out
    }
}

/// As the text format wants label values.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// What is so now. Without a lag, because the bus does not answer, it is not a number: unknown is
/// not zero.
pub(crate) fn render(status: &Status, lag: Option<&Lag>, process: &ProcessFigures) -> String {
    let mut families = Families::default();
    let node = [("version", status.node.version.as_str()), ("node", &status.node.name)];
    families.gauge("millrace_build_info", "Which Millrace runs, under which name.", &node, 1.0);
    families.gauge(
        "millrace_node_degraded",
        "Whether something of the node needs a person.",
        &[],
        f64::from(u8::from(status.health == Health::Degraded)),
    );
    functions(&mut families, status);
    if let Some(lag) = lag {
        triggers(&mut families, status, lag);
    }
    process_figures(&mut families, process);
    families.render()
}

fn functions(families: &mut Families, status: &Status) {
    for function in &status.functions {
        let labels = [("app", function.app.as_str()), ("function", &function.name)];
        let pool = function.instances;
        for (state, count) in [("busy", pool.busy), ("warm", pool.warm)] {
            families.gauge(
                "millrace_function_instances",
                "Instances of a function: busy ones run, warm ones wait for work.",
                &[labels[0], labels[1], ("state", state)],
                count.into(),
            );
        }
        families.gauge(
            "millrace_function_instances_max",
            "The most instances that a function may have.",
            &labels,
            pool.max.into(),
        );
        families.gauge(
            "millrace_function_instances_wanted",
            "Instances that a function has work for, by what waits and how that grows.",
            &labels,
            pool.wanted.into(),
        );
        families.gauge(
            "millrace_function_invocations_queued",
            "Invocations that wait for an instance.",
            &labels,
            pool.queued.into(),
        );
        families.gauge(
            "millrace_function_records_in_flight",
            "Records that a function runs on now.",
            &labels,
            function.in_flight as f64,
        );
    }
}

fn triggers(families: &mut Families, status: &Status, lag: &Lag) {
    for trigger in &lag.triggers {
        let (app, function) = trigger.function.split_once('/').unwrap_or(("", &trigger.function));
        let labels = [("app", app), ("function", function), ("trigger", &trigger.trigger)];
        let count = |lag: Option<u64>| lag.map_or(f64::NAN, |lag| lag as f64);
        families.gauge(
            "millrace_trigger_lag_records",
            "Records between a trigger's positions and the ends of its topics; NaN is unknown.",
            &labels,
            count(trigger.lag),
        );
        let worst = trigger.partitions.iter().map(|partition| partition.lag);
        let worst = worst.max_by_key(|lag| lag.unwrap_or(u64::MAX)).flatten();
        families.gauge(
            "millrace_trigger_lag_worst_partition_records",
            "The same of the partition that is furthest behind.",
            &labels,
            count(worst),
        );
        let is_paused = status.paused.iter().any(|it| it.trigger == trigger.trigger);
        families.gauge(
            "millrace_trigger_paused",
            "Whether somebody paused a trigger.",
            &labels,
            f64::from(u8::from(is_paused)),
        );
        for (state, word) in STATES {
            let there = trigger.partitions.iter().filter(|it| it.state == state).count();
            families.gauge(
                "millrace_trigger_partitions",
                "Partitions that a trigger reads, by how it is there.",
                &[labels[0], labels[1], labels[2], ("state", word)],
                there as f64,
            );
        }
    }
}

fn process_figures(families: &mut Families, process: &ProcessFigures) {
    families.add(
        "process_cpu_seconds_total",
        "counter",
        "CPU time of the node's process, without its workers.",
        &[],
        process.cpu_s,
    );
    families.gauge(
        "process_start_time_seconds",
        "When the node's process started, since the Unix epoch.",
        &[],
        process.started_s,
    );
    let known = [
        (
            "process_resident_memory_bytes",
            "Memory of the node's process, without its workers.",
            process.resident_bytes,
        ),
        ("process_open_fds", "Descriptors that the node's process has open.", process.open_fds),
        ("process_max_fds", "Descriptors that it may have open.", process.max_fds),
        ("process_threads", "Threads of the node's process.", process.threads),
        (
            "millrace_data_available_bytes",
            "What the file system of the data folder has left.",
            process.data_available_bytes,
        ),
        (
            "millrace_data_size_bytes",
            "How large the file system of the data folder is.",
            process.data_size_bytes,
        ),
    ];
    for (name, help, value) in known {
        if let Some(value) = value {
            families.gauge(name, help, &[], value as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{FunctionStatus, InstanceCounts, PartitionLag, PausedTrigger, TriggerLag};

    #[test]
    fn each_family_has_its_help_once_and_unknown_is_no_number() {
        let function = |name: &str| FunctionStatus {
            app: "a".into(),
            name: name.into(),
            instances: InstanceCounts { busy: 2, max: 8, ..InstanceCounts::default() },
            ..FunctionStatus::default()
        };
        let status = Status {
            functions: vec![function("f"), function("g\"\n")],
            paused: vec![PausedTrigger { trigger: "a/f/f".into(), ..PausedTrigger::default() }],
            ..Status::default()
        };
        let partition = |lag, state| PartitionLag { lag, state, ..PartitionLag::default() };
        let trigger = |id: &str, lag, partitions| TriggerLag {
            trigger: id.into(),
            function: "a/f".into(),
            lag,
            partitions,
        };
        let known =
            vec![partition(Some(3), ShardState::Paused), partition(Some(4), ShardState::Paused)];
        let unknown =
            vec![partition(Some(3), ShardState::Running), partition(None, ShardState::Stopped)];
        let triggers = vec![trigger("a/f/f", Some(7), known), trigger("a/f/g", None, unknown)];
        let lag = Lag { triggers, ..Lag::default() };
        let text = render(&status, Some(&lag), &ProcessFigures::default());
        for line in [
            "millrace_function_instances{app=\"a\",function=\"f\",state=\"busy\"} 2",
            "millrace_function_instances_max{app=\"a\",function=\"g\\\"\\n\"} 8",
            "millrace_trigger_lag_records{app=\"a\",function=\"f\",trigger=\"a/f/f\"} 7",
            "millrace_trigger_lag_records{app=\"a\",function=\"f\",trigger=\"a/f/g\"} NaN",
            "millrace_trigger_lag_worst_partition_records{app=\"a\",function=\"f\",trigger=\"a/f/f\"} 4",
            "millrace_trigger_paused{app=\"a\",function=\"f\",trigger=\"a/f/f\"} 1",
            "millrace_trigger_partitions{app=\"a\",function=\"f\",trigger=\"a/f/g\",state=\"stopped\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line}: {text}");
        }
        let helps = text.lines().filter(|line| line.starts_with("# HELP "));
        let names: Vec<&str> = helps.filter_map(|line| line.split(' ').nth(2)).collect();
        let mut once = names.clone();
        once.dedup();
        assert_eq!(names, once);
        assert!(!text.contains("process_open_fds"), "unknown is left out");
    }
}
