//! Draws what `millrace top` knows: a head, a line for each function, and one for each instance.

use gateway::api::{FunctionState, FunctionStatus, Health, InstanceState};
use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::Sort;
use super::model::Model;
use crate::output::{bytes, count, instances, milliseconds, printable, span};

/// Where colour means something; without it, bold does.
#[derive(Clone, Copy)]
struct Tone(bool);

impl Tone {
    fn of(self, color: Color) -> Style {
        if self.0 { Style::new().fg(color) } else { Style::new() }
    }

    fn bad(self) -> Style {
        self.of(Color::Red).add_modifier(Modifier::BOLD)
    }
}

/// Draws the whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, has_colour: bool) {
    let tone = Tone(has_colour);
    let instances = if model.shows_instances { model.instances().len() as u16 + 2 } else { 0 };
    let [head, sums, functions, below, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Min(2),
        Constraint::Max(instances),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let (node, word) = head_of(model);
    let style = match model.status().health {
        Health::Healthy => tone.of(Color::Green),
        Health::Degraded => tone.bad(),
        Health::Starting | Health::Draining => tone.of(Color::Yellow),
    };
    frame.render_widget(Paragraph::new(node), head);
    let word = Paragraph::new(word).style(style).alignment(Alignment::Right);
    frame.render_widget(word, head);
    frame.render_widget(Paragraph::new(sums_of(model)), sums);
    frame.render_widget(functions_of(model, tone), functions);
    if model.shows_instances {
        frame.render_widget(instances_of(model), below);
    }
    let (text, style) = match model.failure() {
        Some(failure) => {
            (format!("the node does not answer: {}", printable(&failure.message)), tone.bad())
        }
        None if model.is_held => ("held: space goes on".to_owned(), tone.of(Color::Yellow)),
        None => {
            let sort = match model.sort {
                Sort::Name => "name",
                Sort::Rate => "rate",
                Sort::Failures => "failures",
                Sort::Lag => "lag",
            };
            let text = format!("q quit   s sort ({sort})   i instances   space hold");
            (text, Style::new().add_modifier(Modifier::DIM))
        }
    };
    frame.render_widget(Paragraph::new(text).style(style), foot);
}

fn head_of(model: &Model) -> (String, &'static str) {
    let node = &model.status().node;
    let word = match model.status().health {
        Health::Starting => "starting",
        Health::Healthy => "healthy",
        Health::Degraded => "degraded",
        Health::Draining => "draining",
    };
    let status = model.status();
    if let Some(cluster) = &status.cluster {
        let (there, silent) = (status.nodes.len(), status.unheard.iter());
        let silent: Vec<&str> = silent.map(|it| it.node.as_str()).collect();
        let mut text = format!("CLUSTER {cluster}  {} nodes", there + silent.len());
        if !silent.is_empty() {
            text.push_str(&format!(", not heard of: {}", silent.join(", ")));
        }
        return (printable(&text).into_owned(), word);
    }
    let up = span(node.uptime_ms);
    let text =
        format!("NODE {}  millrace {}, process {}, up {up}", node.name, node.version, node.pid);
    (printable(&text).into_owned(), word)
}

fn sums_of(model: &Model) -> String {
    let status = model.status();
    let total = model.total();
    let lag = status.functions.iter().map(|it| it.lag).sum::<Option<u64>>();
    let busy: u32 = status.functions.iter().map(|it| it.instances.busy).sum();
    format!(
        "{} records/s settled, {} failures/s, lag {} ({}), {busy} of {} instances busy",
        rate(total.settled),
        rate(total.failed),
        lag.map_or_else(|| "unknown".to_owned(), count),
        trend(total.lag),
        model.instances().len(),
    )
}

fn functions_of<'a>(model: &Model, tone: Tone) -> Table<'a> {
    let has_apps = 1 < model.status().apps.len();
    let rows = model.functions().into_iter().map(|(it, pace)| {
        let name = if has_apps { format!("{}/{}", it.app, it.name) } else { it.name.clone() };
        let fails = 0.0 < pace.failed.unwrap_or(0.0);
        let cells = [
            left(&name),
            right(&rate(pace.settled)),
            right(&rate(pace.failed)).style(if fails { tone.bad() } else { Style::new() }),
            right(&it.p50_ms.map_or_else(|| "-".to_owned(), milliseconds)),
            right(&it.p99_ms.map_or_else(|| "-".to_owned(), milliseconds)),
            right(&it.lag.map_or_else(|| "?".to_owned(), count)),
            right(&trend(pace.lag)),
            right(&count(it.in_flight)),
            right(&instances(it.instances)),
            right(&count(it.parked)),
            state(it, tone),
        ];
        Row::new(cells)
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(11),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Length(8),
    ];
    let titles = ["RATE/s", "FAIL/s", "P50", "P99", "LAG", "TREND", "IN FLIGHT", "INST", "PARKED"];
    let head = [left("FUNCTION")].into_iter().chain(titles.map(right)).chain([left("STATE")]);
    Table::new(rows, widths).header(Row::new(head).style(dim())).column_spacing(1)
}

fn instances_of<'a>(model: &Model) -> Table<'a> {
    let rows = model.instances().iter().map(|it| {
        let state = match it.state {
            InstanceState::Starting => "starting",
            InstanceState::Warm => "warm",
            InstanceState::Busy => "busy",
        };
        Row::new([
            left(&it.function),
            left(&it.instance),
            right(&it.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
            left(state),
            right(&span(it.age_ms)),
            right(&count(it.invocations)),
            right(&it.memory_bytes.map_or_else(|| "-".to_owned(), bytes)),
        ])
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(5),
        Constraint::Length(10),
        Constraint::Length(9),
    ];
    let head = [left("FUNCTION"), left("INSTANCE"), right("PID"), left("STATE")];
    let head = head.into_iter().chain(["AGE", "RUNS", "MEMORY"].map(right));
    let head = Row::new(head).style(dim()).top_margin(1);
    Table::new(rows, widths).header(head).column_spacing(1)
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

fn left<'a>(text: &str) -> Cell<'a> {
    Cell::new(printable(text).into_owned())
}

fn right<'a>(text: &str) -> Cell<'a> {
    let line = Line::from(printable(text).into_owned()).alignment(Alignment::Right);
    Cell::new(Text::from(line))
}

fn state<'a>(it: &FunctionStatus, tone: Tone) -> Cell<'a> {
    let (word, style) = match it.state {
        FunctionState::Starting => ("starting", tone.of(Color::Yellow)),
        FunctionState::Running => ("running", tone.of(Color::Green)),
        FunctionState::Failing => ("failing", tone.bad()),
        FunctionState::Stale => ("stale", tone.bad()),
        FunctionState::Paused => ("paused", tone.of(Color::Yellow)),
        FunctionState::Stopped => ("stopped", tone.bad()),
        FunctionState::Draining => ("draining", tone.of(Color::Yellow)),
    };
    Cell::new(word).style(style)
}

fn rate(per_s: Option<f64>) -> String {
    match per_s {
        None => "-".to_owned(),
        Some(it) if 0.0 < it && it < 10.0 => format!("{it:.1}"),
        Some(it) => count(it.max(0.0).round() as u64),
    }
}

/// How lag changes: up is behind.
fn trend(per_s: Option<f64>) -> String {
    match per_s.map(f64::round) {
        None => "-".to_owned(),
        Some(0.0) => "steady".to_owned(),
        Some(it) if it < 0.0 => format!("-{}/s", count((-it) as u64)),
        Some(it) => format!("+{}/s", count(it as u64)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use gateway::api::{InstanceInfo, Status};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::model::Look;
    use super::*;

    fn look(settled: u64, lag: u64) -> Look {
        let function = FunctionStatus {
            app: "weather".into(),
            name: "tidy\x1b[2J".into(),
            state: FunctionState::Running,
            p50_ms: Some(0.31),
            settled,
            lag: Some(lag),
            ..FunctionStatus::default()
        };
        let mut status = Status { apps: vec!["weather".into()], ..Status::default() };
        status.functions = vec![function];
        status.node.name = "weather".into();
        status.health = Health::Healthy;
        let instance = InstanceInfo {
            function: "weather/tidy".into(),
            instance: "i-4".into(),
            pid: Some(4_711),
            memory_bytes: Some(12 << 20),
            ..InstanceInfo::default()
        };
        Look { status, instances: vec![instance] }
    }

    fn drawn(model: &Model) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(110, 10)).unwrap();
        terminal.draw(|frame| draw(frame, model, false)).unwrap();
        let buffer = terminal.backend().buffer();
        let cells: Vec<&str> = buffer.content().iter().map(|it| it.symbol()).collect();
        cells.chunks(110).map(|line| line.concat().trim_end().to_owned()).collect()
    }

    #[test]
    fn the_screen_shows_rates_trends_and_instances() {
        let (now, mut model) = (Instant::now(), Model::new(Sort::Name));
        model.on_look(now, Ok(look(0, 1_400)));
        model.on_look(now + Duration::from_secs(1), Ok(look(812, 1_000)));
        model.shows_instances = true;
        let lines = drawn(&model);
        assert!(
            lines[0].starts_with("NODE weather") && lines[0].ends_with("healthy"),
            "{lines:#?}"
        );
        let sums = "812 records/s settled, 0 failures/s, lag 1,000 (-400/s), 0 of 1 instances busy";
        assert_eq!(lines[1], sums);
        let words: Vec<&str> = lines[4].split_whitespace().collect();
        assert_eq!(
            words.join(" "),
            "tidy\\u{1b}[2J 812 0 0.31 ms - 1,000 -400/s 0 0/0/0 0 running"
        );
        assert!(lines[8].contains("i-4") && lines[8].contains("12.0 MiB"), "{lines:#?}");
        assert!(lines[9].starts_with("q quit"), "{lines:#?}");
    }

    #[test]
    fn a_small_screen_holds_what_it_can() {
        let mut model = Model::new(Sort::Name);
        model.on_look(Instant::now(), Ok(look(0, 0)));
        for (width, height) in [(1, 1), (20, 3), (200, 60)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &model, true)).unwrap();
        }
    }
}
