//! `millrace describe`: all that a node knows of one function, trigger, topic or application, gathered
//! from what the control API says of it elsewhere.

use std::collections::BTreeMap;

use gateway::api::{
    FunctionInfo, FunctionList, FunctionStatus, Lag, Status, Topic, TriggerInfo, TriggerLag,
    TriggerList,
};
use serde::Serialize;

use super::error::{CommandError, exit};
use super::lag::word;
use super::topic::path_of;
use crate::cli::Globals;
use crate::client::Client;
use crate::output::{self, Format, Paint, count, count_or_unknown, printable};

/// Shows all that is known of something.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace describe function hot-alert      its revision, triggers, positions and state
  millrace describe trigger greenhouse/hot-alert/readings
  millrace describe topic readings
  millrace describe app greenhouse -o json     for programs")]
pub struct DescribeArgs {
    /// What it is.
    #[arg(value_enum)]
    pub kind: Kind,
    /// Its name, or the end of it.
    pub name: String,
}

/// What can be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A function: FUNCTION or APP/FUNCTION.
    Function,
    /// A trigger: APP/FUNCTION/TRIGGER, or the end of it.
    Trigger,
    /// A topic.
    Topic,
    /// An application.
    App,
}

/// A function, a trigger or an application with what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Description {
    api: u32,
    functions: Vec<Function>,
    triggers: Vec<Trigger>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Function {
    /// What it does.
    status: FunctionStatus,
    /// What is deployed, where the state has it.
    deployed: Option<FunctionInfo>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
struct Trigger {
    /// What it is.
    trigger: TriggerInfo,
    /// Where it is.
    positions: Option<TriggerLag>,
}

/// Carries it out.
///
/// # Errors
///
/// `E0506` when there is no such thing, `E0507` when several are meant.
pub fn run(args: &DescribeArgs, globals: &Globals) -> Result<(), CommandError> {
    let client = Client::connect(globals)?;
    let paint = Paint::new(globals.colour_on_stdout());
    if args.kind == Kind::Topic {
        path_of(&args.name)?;
        let topic: Topic = client.get(&format!("/v1/topics/{}", args.name))?;
        if globals.output == Format::Json {
            return output::print_json(&topic);
        }
        return output::print(&render_topic(&topic, paint));
    }
    let found = choose(all(&client)?, args.kind, &args.name)?;
    if globals.output == Format::Json {
        return output::print_json(&found);
    }
    output::print(&render(&found, paint))
}

fn all(client: &Client) -> Result<Description, CommandError> {
    let status: Status = client.get("/v1/status")?;
    let deployed: FunctionList = client.get("/v1/functions")?;
    let triggers: TriggerList = client.get("/v1/triggers")?;
    let lag: Lag = client.get("/v1/lag")?;
    let mut deployed: BTreeMap<(String, String), FunctionInfo> =
        deployed.functions.into_iter().map(|it| ((it.app.clone(), it.name.clone()), it)).collect();
    let mut positions: BTreeMap<String, TriggerLag> =
        lag.triggers.into_iter().map(|it| (it.trigger.clone(), it)).collect();
    let functions = status.functions.into_iter().map(|status| {
        let deployed = deployed.remove(&(status.app.clone(), status.name.clone()));
        Function { status, deployed }
    });
    let triggers = triggers.triggers.into_iter().map(|trigger| {
        let positions = positions.remove(&trigger.trigger);
        Trigger { trigger, positions }
    });
    Ok(Description {
        api: status.api,
        functions: functions.collect(),
        triggers: triggers.collect(),
    })
}

/// What is meant, with all that belongs to it.
fn choose(all: Description, kind: Kind, name: &str) -> Result<Description, CommandError> {
    let end = format!("/{name}");
    let is_meant = |id: &str| id == name || id.ends_with(&end);
    let id = |it: &Function| format!("{}/{}", it.status.app, it.status.name);
    let mut names: Vec<String> = match kind {
        Kind::Function => all.functions.iter().map(id).filter(|it| is_meant(it)).collect(),
        Kind::Trigger => {
            let ids = all.triggers.iter().map(|it| it.trigger.trigger.clone());
            ids.filter(|it| is_meant(it)).collect()
        }
        Kind::App | Kind::Topic => {
            let apps = all.functions.iter().map(|it| it.status.app.clone());
            apps.filter(|it| it == name).collect()
        }
    };
    names.sort();
    names.dedup();
    if let Some(exact) = names.iter().find(|it| *it == name).cloned() {
        names = vec![exact];
    }
    let [meant] = names.as_slice() else {
        let what = match kind {
            Kind::Function => "function",
            Kind::Trigger => "trigger",
            Kind::App | Kind::Topic => "application",
        };
        let several = CommandError::new(exit::USAGE, "E0507", format!("{name} may be several"));
        let none =
            CommandError::new(exit::NOT_FOUND, "E0506", format!("there is no {what} {name}"));
        return Err(match names.is_empty() {
            true => none.help("`millrace status` and `millrace trigger list` name those there are"),
            false => several.help(format!("one of {}", names.join(", "))),
        });
    };
    let within = format!("{meant}/");
    let Description { api, functions, triggers } = all;
    let functions = functions.into_iter().filter(|it| match kind {
        Kind::Trigger => meant.starts_with(&format!("{}/", id(it))),
        _ => id(it) == *meant || it.status.app == *meant,
    });
    let triggers = triggers.into_iter().filter(|it| {
        let id = &it.trigger.trigger;
        *id == *meant || id.starts_with(&within)
    });
    Ok(Description { api, functions: functions.collect(), triggers: triggers.collect() })
}

fn render(found: &Description, paint: Paint) -> String {
    let mut out = String::new();
    for Function { status, deployed } in &found.functions {
        out.push_str(&format!(
            "{}\n",
            paint.bold(&format!("function {}/{}", status.app, status.name))
        ));
        let mut line = |name: &str, text: String| line(&mut out, paint, name, &text);
        line("runtime", status.runtime.clone());
        line("revision", format!("{}, since {}", status.revision, status.revision_since));
        if let Some(it) = deployed {
            line(
                "deployed",
                format!("v{}, {}, of {} kept", it.runs.number, it.deployed, it.revisions),
            );
            if !it.aliases.is_empty() {
                line("aliases", it.aliases.join(", "));
            }
        }
        line("state", format!("{:?}", status.state).to_lowercase());
        line("reads", status.reads.join(", "));
        line("writes", status.writes.join(", "));
        line(
            "settled",
            format!("{}, of these filtered {}", count(status.settled), count(status.filtered)),
        );
        line(
            "failed",
            format!(
                "{} attempts, {} dead letters",
                count(status.failed),
                count(status.dead_lettered)
            ),
        );
        line(
            "waiting",
            format!("{} in flight, {} parked", count(status.in_flight), count(status.parked)),
        );
        line("lag", count_or_unknown(status.lag));
        if let Some(error) = &status.last_error {
            line("error", format!("{}: {}  {}", error.code, error.message, error.at));
        }
    }
    for Trigger { trigger, positions } in &found.triggers {
        out.push_str(&format!("{}\n", paint.bold(&format!("trigger {}", trigger.trigger))));
        let mut line = |name: &str, text: String| line(&mut out, paint, name, &text);
        line("state", word(trigger.state).to_owned());
        if let Some(since) = &trigger.paused_since {
            line("paused", format!("since {since}"));
        }
        line("reads", trigger.topics.join(", "));
        line("output", trigger.output.clone().unwrap_or_else(|| "-".to_owned()));
        line("dead", trigger.dead_letter.clone().unwrap_or_else(|| "unknown".to_owned()));
        let told = [("on-success", &trigger.on_success), ("on-failure", &trigger.on_failure)];
        for (name, topic) in told {
            topic.iter().for_each(|topic| line(name, topic.clone()));
        }
        for it in &trigger.held_up {
            line(
                "held up",
                format!("{} {:?}: {} {}", it.topic, it.partitions, it.code, it.message),
            );
        }
        for it in positions.iter().flat_map(|it| &it.partitions) {
            let next = it.next.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
            let lag = count_or_unknown(it.lag);
            let place = format!("{}[{}]", it.topic, it.partition);
            line(
                "position",
                format!("{place} next {next} of {}, lag {lag}, epoch {}", it.end, it.epoch),
            );
        }
    }
    out
}

fn line(out: &mut String, paint: Paint, name: &str, text: &str) {
    out.push_str(&format!("  {} {}\n", paint.dim(&format!("{name:<9}")), printable(text)));
}

fn render_topic(topic: &Topic, paint: Paint) -> String {
    let mut out = format!("{}\n", paint.bold(&format!("topic {}", topic.name)));
    line(&mut out, paint, "readers", &topic.readers.join(", "));
    for marks in &topic.watermarks {
        let text = format!(
            "[{}] {}..{}, {}",
            marks.partition,
            marks.start,
            marks.end,
            output::bytes(marks.bytes)
        );
        line(&mut out, paint, "partition", &text);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Description {
        let function = |app: &str, name: &str| Function {
            status: FunctionStatus {
                app: app.to_owned(),
                name: name.to_owned(),
                ..FunctionStatus::default()
            },
            deployed: None,
        };
        let trigger = |id: &str| Trigger {
            trigger: TriggerInfo { trigger: id.to_owned(), ..TriggerInfo::default() },
            positions: None,
        };
        Description {
            api: 1,
            functions: vec![function("a", "f"), function("a", "g"), function("b", "f")],
            triggers: vec![trigger("a/f/t"), trigger("a/g/t"), trigger("b/f/u")],
        }
    }

    #[test]
    fn a_name_or_the_end_of_it_chooses_and_what_belongs_to_it_comes_along() {
        let chosen = |kind, name: &str| {
            let found = choose(all(), kind, name)?;
            let functions = found.functions.iter();
            let functions = functions.map(|it| format!("{}/{}", it.status.app, it.status.name));
            let triggers = found.triggers.iter().map(|it| it.trigger.trigger.clone());
            Ok::<_, CommandError>(functions.chain(triggers).collect::<Vec<_>>())
        };
        assert_eq!(chosen(Kind::Function, "g").unwrap(), ["a/g", "a/g/t"]);
        assert_eq!(chosen(Kind::Function, "b/f").unwrap(), ["b/f", "b/f/u"]);
        assert_eq!(chosen(Kind::Trigger, "u").unwrap(), ["b/f", "b/f/u"]);
        assert_eq!(chosen(Kind::App, "a").unwrap(), ["a/f", "a/g", "a/f/t", "a/g/t"]);
        assert_eq!(chosen(Kind::Function, "f").unwrap_err().code, Some("E0507"));
        assert_eq!(chosen(Kind::Trigger, "t").unwrap_err().code, Some("E0507"));
        assert_eq!(chosen(Kind::App, "c").unwrap_err().code, Some("E0506"));
    }
}
