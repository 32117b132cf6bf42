//! `millrace status`: what a node does, at a glance, and what needs a person, with the command
//! that shows more of it.

use gateway::api::{
    FunctionState, FunctionStatus, Health, HeldUp, MemberList, MemberState, NodeStatus,
    PausedTrigger, ShardState, Status,
};

use super::error::CommandError;
use super::program::{program, quoted};
use super::unheard;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, Rows, count, milliseconds, printable, since, span};

/// Shows what a node does.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace status                      functions, rates, failures and lag
  millrace status --node greenhouse    of one node of a cluster, or of several
  millrace status -o json              for programs")]
pub struct StatusArgs {}

/// Carries it out.
///
/// # Errors
///
/// When no node answers.
pub fn run(_args: &StatusArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect_about(globals)?;
    let status: Status = client.get("/v1/status")?;
    if globals.output == Format::Json {
        return output::print_json(&status);
    }
    let paint = Paint::new(globals.colour_on_stdout());
    // A node alone has none.
    let members: Option<MemberList> = client.get("/v1/members").ok();
    let cluster = members.map(|members| cluster(&members, paint)).unwrap_or_default();
    let text = render(&status, paint, &program());
    // The word for all of them stands behind what they are called.
    let cluster = match status.nodes.is_empty() || cluster.is_empty() {
        true => cluster,
        false => format!("{}  ", cluster.trim_end()),
    };
    output::print(&format!("{cluster}{text}"))
}

/// The cluster that the node belongs to, in a line.
fn cluster(list: &MemberList, paint: Paint) -> String {
    let leader = list.members.iter().find(|it| it.leads);
    let leader = leader.map_or_else(|| "no leader".to_owned(), |it| format!("leader {}", it.name));
    let silent = list.members.iter().filter(|it| it.state == MemberState::Unheard);
    let silent: Vec<&str> = silent.map(|it| it.name.as_str()).collect();
    let head = format!("CLUSTER {}  {} nodes, {leader}", list.cluster, list.members.len());
    match silent[..] {
        [] => format!("{}\n", printable(&head)),
        _ => {
            let silent = format!("not heard of: {}", silent.join(", "));
            format!("{}  {}\n", printable(&head), paint.bad(&printable(&silent)))
        }
    }
}

fn render(status: &Status, paint: Paint, program: &str) -> String {
    let node = &status.node;
    let table = functions(status).render(paint);
    let mut head = format!(
        "NODE {}  millrace {}, process {}, up {}, data {}",
        node.name,
        node.version,
        node.pid,
        span(node.uptime_ms),
        node.data_dir
    );
    let width = functions(status).render(Paint::default());
    let width = width.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let word = health(status.health);
    let gap = width.saturating_sub(head.chars().count() + word.len()).max(2);
    head.push_str(&" ".repeat(gap));
    let word = match status.health {
        Health::Healthy => paint.good(word),
        Health::Degraded => paint.bad(word),
        Health::Starting | Health::Draining => paint.doubtful(word),
    };
    let mut out = match status.nodes.as_slice() {
        [] => format!("{}{word}\n", printable(&head)),
        nodes => format!("{word}\n{}", nodes_of(nodes, status).render(paint)),
    };
    out.push_str(if table.is_empty() { "no functions\n" } else { &table });
    if let Some(feed) = &status.feed {
        let line = format!(
            "feed {} -> {}  {}/s  row {} of {}, round {}, {}",
            feed.file,
            feed.topic,
            feed.rate_per_s,
            count(feed.next_row),
            count(feed.rows),
            count(feed.rounds + 1),
            feed.state
        );
        out.push_str(&format!("{}\n", printable(&line)));
    }
    let shards = &status.shards;
    if shards.running < shards.total {
        let line = format!(
            "shards: {} of {} running, {} starting, {} stopped",
            shards.running, shards.total, shards.starting, shards.stopped
        );
        out.push_str(&format!("{line}      {program} lag -p\n"));
    }
    if shards.unheard != 0 {
        let line = format!("shards: {} run on no node that answers", shards.unheard);
        out.push_str(&format!("{} {line}      {program} lag -p\n", paint.bad("!")));
    }
    out.push_str(&unheard::lines(&status.unheard, paint, program));
    for warning in &status.warnings {
        out.push_str(&format!("{} {}\n", paint.doubtful("!"), printable(warning)));
    }
    for PausedTrigger { trigger, since: at } in &status.paused {
        let ago = since(at).map(|ago| format!(" {ago} ago")).unwrap_or_default();
        let line = format!("{trigger}: paused{ago}    {program} trigger resume {trigger}");
        out.push_str(&format!("{} {}\n", paint.doubtful("!"), printable(&line)));
    }
    for it in &status.held_up {
        out.push_str(&format!("{} {}\n", paint.bad("!"), printable(&held_up(it, program))));
    }
    let is_told = |function: &FunctionStatus| {
        let name = format!("{}/{}", function.app, function.name);
        function.state == FunctionState::Stopped
            && status.held_up.iter().any(|it| it.function == name)
    };
    for function in status.functions.iter().filter(|it| !is_told(it)) {
        if let Some(line) = hint(function, program) {
            out.push_str(&format!("{} {}\n", paint.bad("!"), printable(&line)));
        }
        if let Some(line) = parked(function) {
            out.push_str(&format!("{} {}\n", paint.doubtful("!"), printable(&line)));
        }
    }
    out
}

/// The nodes that answered, and those that did not.
fn nodes_of(nodes: &[NodeStatus], status: &Status) -> Rows {
    let mut rows = Rows::new(&["NODE", "VERSION", ">PID", ">UP", ">SHARDS", "HEALTH"]);
    for it in nodes {
        rows.push(vec![
            it.node.clone(),
            it.version.clone(),
            it.pid.to_string(),
            span(it.uptime_ms),
            count(it.shards.total.into()),
            health(it.health).to_owned(),
        ]);
    }
    for it in &status.unheard {
        let unknown = || "?".to_owned();
        let health = "not heard of".to_owned();
        rows.push(vec![it.node.clone(), unknown(), unknown(), unknown(), unknown(), health]);
    }
    rows
}

fn functions(status: &Status) -> Rows {
    let mut head = vec!["FUNCTION", "RUNTIME", "FROM", ">RATE/s"];
    // Few functions have a filter, and lines are long.
    let has_filtered = status.functions.iter().any(|it| it.filtered != 0);
    head.extend(has_filtered.then_some(">FILTERED"));
    head.extend([">P50", ">P99", ">ERR", ">LAG", ">INST", "REVISION", "STATE"]);
    let mut rows = Rows::new(&head);
    for function in &status.functions {
        let revision = match since(&function.revision_since) {
            Some(since) => format!("{} ({since})", function.revision),
            None => function.revision.clone(),
        };
        let time = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), milliseconds);
        let mut row = vec![
            name(status, function),
            function.runtime.clone(),
            function.reads.join(", "),
            rate(function.rate_per_s),
        ];
        row.extend(has_filtered.then(|| count(function.filtered)));
        row.extend([
            time(function.p50_ms),
            time(function.p99_ms),
            error_ratio(function.error_ratio),
            function.lag.map_or_else(|| "?".to_owned(), count),
            output::instances(function.instances),
            revision,
            state(function.state).to_owned(),
        ]);
        rows.push(row);
    }
    rows
}

/// The application's name only where there are several.
fn name(status: &Status, function: &FunctionStatus) -> String {
    match status.apps.len() {
        0 | 1 => function.name.clone(),
        _ => format!("{}/{}", function.app, function.name),
    }
}

fn rate(per_s: f64) -> String {
    if per_s > 0.0 && per_s < 10.0 {
        return format!("{per_s:.1}");
    }
    count(per_s.max(0.0).round() as u64)
}

fn error_ratio(ratio: Option<f64>) -> String {
    match ratio {
        None => "-".to_owned(),
        Some(ratio) if ratio >= 0.01 => format!("{:.1}% !", ratio * 100.0),
        Some(ratio) => format!("{:.1}%", ratio * 100.0),
    }
}

/// Which trigger does not go on, where, why, and the command that says what to do.
fn held_up(it: &HeldUp, program: &str) -> String {
    let state = match it.state {
        ShardState::Waiting => "waits",
        _ => "stopped",
    };
    let partitions: Vec<String> = it.partitions.iter().map(ToString::to_string).collect();
    let (topic, partitions) = (&it.topic, partitions.join(","));
    let HeldUp { trigger, code, message, .. } = it;
    let node = it.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    format!(
        "{trigger}: {state} at {topic}[{partitions}]{node}: {code} \"{message}\"    {program} explain {code}"
    )
}

/// What needs a person, and the command that shows more of it.
fn hint(function: &FunctionStatus, program: &str) -> Option<String> {
    let error = function.last_error.as_ref()?;
    let needs = match function.state {
        FunctionState::Stopped => "stopped".to_owned(),
        FunctionState::Stale => "the new revision was refused, the one before runs on".to_owned(),
        _ if error.recent == 0 => return None,
        _ => format!("{} of the last {} failed", count(error.recent), count(error.recent_of)),
    };
    let ago = since(&error.at).map(|ago| format!(", {ago} ago")).unwrap_or_default();
    let place = error.record.as_ref().map(|record| format!(" at {record}")).unwrap_or_default();
    let mut line =
        format!("{}: {needs}: {} \"{}\"{place}{ago}", function.name, error.code, error.message);
    if let Some(topic) = &error.dead_letter {
        line.push_str(&format!("    {program} consume {} --meta --end", quoted(topic)));
    }
    Some(line)
}

/// What waits for its next attempt in park topics.
fn parked(function: &FunctionStatus) -> Option<String> {
    let FunctionStatus { name, parked, .. } = function;
    let records = if *parked == 1 { "record is" } else { "records are" };
    (0 < *parked)
        .then(|| format!("{name}: {} {records} parked behind a key that fails", count(*parked)))
}

const fn health(health: Health) -> &'static str {
    match health {
        Health::Starting => "starting",
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::Draining => "draining",
    }
}

const fn state(state: FunctionState) -> &'static str {
    match state {
        FunctionState::Starting => "starting",
        FunctionState::Running => "running",
        FunctionState::Failing => "failing",
        FunctionState::Stale => "stale",
        FunctionState::Paused => "paused",
        FunctionState::Stopped => "stopped",
        FunctionState::Draining => "draining",
    }
}

#[cfg(test)]
mod tests {
    use gateway::api::{FeedStatus, InstanceCounts, LastError, NodeInfo, ShardCounts};

    use gateway::api::MemberInfo;

    use super::*;

    fn sample() -> Status {
        let tidy = FunctionStatus {
            app: "weather".into(),
            name: "tidy".into(),
            runtime: "wasm".into(),
            revision: "3f2a1b".into(),
            state: FunctionState::Failing,
            reads: vec!["readings".into()],
            rate_per_s: 812.4,
            p50_ms: Some(0.31),
            p99_ms: Some(3.0),
            error_ratio: Some(0.021),
            lag: Some(1_400),
            instances: InstanceCounts { busy: 1, warm: 3, max: 8, queued: 0, wanted: 2 },
            last_error: Some(LastError {
                code: "Reading.Number".into(),
                message: "wind\x1b[2J".into(),
                record: Some("readings[2]@18".into()),
                recent: 3,
                recent_of: 140,
                dead_letter: Some("readings.unusable".into()),
                ..LastError::default()
            }),
            ..FunctionStatus::default()
        };
        let gale = FunctionStatus {
            app: "weather".into(),
            name: "gale".into(),
            runtime: "wasm".into(),
            revision: "9".into(),
            state: FunctionState::Running,
            reads: vec!["observations".into()],
            ..FunctionStatus::default()
        };
        let node = NodeInfo {
            name: "weather".into(),
            version: "0.1.0".into(),
            pid: 7,
            data_dir: "/d".into(),
            uptime_ms: 125_000,
            ..NodeInfo::default()
        };
        let feed = FeedStatus {
            file: "weather.csv".into(),
            topic: "readings".into(),
            rate_per_s: 200.0,
            rows: 8_000,
            next_row: 812,
            state: "running".into(),
            ..FeedStatus::default()
        };
        Status {
            node,
            apps: vec!["weather".into()],
            health: Health::Degraded,
            functions: vec![tidy, gale],
            shards: ShardCounts { total: 8, running: 7, starting: 1, stopped: 0, unheard: 0 },
            feed: Some(feed),
            ..Status::default()
        }
    }

    #[test]
    fn a_cluster_says_who_leads_and_who_is_missing() {
        let member = |name: &str, leads, state| MemberInfo {
            name: name.to_owned(),
            leads,
            state,
            ..MemberInfo::default()
        };
        let mut list = MemberList { cluster: "plant".into(), ..MemberList::default() };
        list.members =
            vec![member("a", true, MemberState::Up), member("b", false, MemberState::Up)];
        assert_eq!(cluster(&list, Paint::default()), "CLUSTER plant  2 nodes, leader a\n");
        list.members[1].state = MemberState::Unheard;
        list.members[0].leads = false;
        let said = cluster(&list, Paint::default());
        assert_eq!(said, "CLUSTER plant  2 nodes, no leader  not heard of: b\n");
    }

    #[test]
    fn a_glance_says_what_runs_and_what_needs_a_person() {
        let text = render(&sample(), Paint::default(), "millrace");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("NODE weather  millrace 0.1.0, process 7, up 2m, data /d  "));
        assert!(lines[0].ends_with("degraded"), "{text}");
        assert!(lines[1].starts_with("FUNCTION  RUNTIME  FROM"), "{text}");
        let tidy: Vec<&str> = lines[2].split_whitespace().collect();
        let expected = "tidy wasm readings 812 0.31 ms 3.0 ms 2.1% ! 1,400 1/2/8 3f2a1b failing";
        assert_eq!(tidy.join(" "), expected);
        let gale: Vec<&str> = lines[3].split_whitespace().collect();
        assert_eq!(gale.join(" "), "gale wasm observations 0 - - - ? 0/0/0 9 running");
        assert_eq!(
            lines[4],
            "feed weather.csv -> readings  200/s  row 812 of 8,000, round 1, running"
        );
        assert!(lines[5].starts_with("shards: 7 of 8 running, 1 starting, 0 stopped"), "{text}");
        let expected = "! tidy: 3 of the last 140 failed: Reading.Number \"wind\\u{1b}[2J\" at \
            readings[2]@18    millrace consume readings.unusable --meta --end";
        assert_eq!(lines[6], expected);
    }

    #[test]
    fn a_trigger_that_does_not_go_on_is_named_once_with_what_to_do() {
        let mut status = sample();
        status.functions[0].state = FunctionState::Stopped;
        status.held_up = vec![HeldUp {
            trigger: "weather/tidy/readings".into(),
            function: "weather/tidy".into(),
            topic: "readings".into(),
            partitions: vec![0, 3],
            state: ShardState::Stopped,
            node: None,
            code: "E0419".into(),
            message: "unknown topic readings".into(),
        }];
        let text = render(&status, Paint::default(), "millrace");
        let expected = "! weather/tidy/readings: stopped at readings[0,3]: E0419 \"unknown topic \
                        readings\"    millrace explain E0419";
        let hints: Vec<&str> = text.lines().filter(|line| line.starts_with('!')).collect();
        assert_eq!(hints, [expected]);
    }

    #[test]
    fn several_applications_are_told_apart() {
        let status = Status { apps: vec!["a".into(), "b".into()], ..sample() };
        assert!(render(&status, Paint::default(), "millrace").contains("weather/tidy"));
        let empty = render(&Status::default(), Paint::default(), "millrace");
        assert!(empty.contains("no functions"));
    }
}
