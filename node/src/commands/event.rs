//! `millrace event match`: tries event patterns on sample records, and says which part of a
//! pattern is not met.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use filter::{Filter, Missed, Record, Unmet};
use function::Manifest;
use gateway::Data;
use gateway::api::HeaderData;
use serde::Serialize;
use serde_json::Value;

use super::error::{CommandError, exit};
use super::produce::header;
use crate::cli::Globals;
use crate::output::{Format, Paint, print, print_json, printable};

/// What can be done with events.
#[derive(Debug, clap::Subcommand)]
pub enum EventCommand {
    /// Say whether records match event patterns, and what is not met.
    ///
    /// Exit status: 0 all of them match, 1 one does not.
    Match(MatchArgs),
}

/// What `millrace event match` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace event match --pattern '{\"value\":{\"c\":[{\"numeric\":[\">\",30]}]}}' '{\"c\":34.2}'
  millrace event match --pattern @hot.json @reading.json
  millrace event match --pattern @hot.json -k bed-4 -H source=edge '{\"c\":34.2}'
  millrace event match --trigger hot -f readings.jsonl       the filter of this folder's manifest
  millrace event match --pattern @hot.json --output json     from the lines of stdin")]
pub struct MatchArgs {
    /// A pattern as JSON, or @FILE; one of several has to match.
    #[arg(long = "pattern", value_name = "PATTERN", required_unless_present = "trigger")]
    pub patterns: Vec<String>,
    /// Take the filter of this trigger of a manifest: FUNCTION, or FUNCTION/TRIGGER.
    #[arg(long, value_name = "TRIGGER", conflicts_with = "patterns")]
    pub trigger: Option<String>,
    /// The folder where millrace.toml lies.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub app: PathBuf,
    /// The value of a record, or @FILE; without any, each line of stdin is one.
    #[arg(value_name = "VALUE")]
    pub values: Vec<String>,
    /// Take values from the lines of this file.
    #[arg(short, long, value_name = "FILE", conflicts_with = "values")]
    pub file: Option<PathBuf>,
    /// The key of these records.
    #[arg(short, long, value_name = "KEY")]
    pub key: Option<String>,
    /// A header of these records, as NAME=VALUE; may be given more than once.
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub headers: Vec<HeaderData>,
    /// Their topic.
    #[arg(long, default_value = "", value_name = "TOPIC")]
    pub topic: String,
    /// Their partition.
    #[arg(long, default_value_t, value_name = "NUMBER")]
    pub partition: i32,
    /// The offset of the first one.
    #[arg(long, default_value_t, value_name = "NUMBER")]
    pub offset: i64,
    /// Their timestamp, in milliseconds since 1970 [default: now].
    #[arg(long, value_name = "MILLISECONDS")]
    pub timestamp: Option<i64>,
}

/// What is said of a record, for programs.
#[derive(Debug, Serialize)]
struct Verdict {
    matches: bool,
    value: String,
    /// Why not: one entry for each alternative of the patterns.
    unmet: Vec<Alternative>,
}

#[derive(Debug, Serialize)]
struct Alternative {
    missed: Vec<Field>,
    /// Every field is met, but not within one element of an array.
    only_apart: bool,
}

#[derive(Debug, Serialize)]
struct Field {
    field: String,
    wanted: Value,
    found: Vec<Value>,
}

/// Carries it out.
///
/// # Errors
///
/// For a pattern that cannot be used, a file that cannot be read; without a message when a record
/// does not match.
pub fn run(command: &EventCommand, globals: &Globals) -> Result<(), CommandError> {
    let EventCommand::Match(args) = command;
    let filter = match &args.trigger {
        Some(trigger) => compile(&of_manifest(&args.app, trigger)?)?,
        None => compile(&args.patterns.iter().map(|it| parse(it)).collect::<Result<Vec<_>, _>>()?)?,
    };
    let verdicts: Vec<Verdict> = values(args)?
        .into_iter()
        .zip(args.offset..)
        .map(|(value, offset)| judge(&filter, args, &value, offset))
        .collect();
    match globals.output {
        Format::Json => print_json(&verdicts)?,
        Format::Table => print(&render(&verdicts, Paint::new(globals.colour_on_stdout())))?,
    }
    let all = verdicts.iter().all(|it| it.matches);
    if all { Ok(()) } else { Err(CommandError::silent(exit::FAILED)) }
}

fn compile(patterns: &[Value]) -> Result<Filter, CommandError> {
    Filter::compile(patterns).map_err(|error| {
        CommandError::new(exit::USAGE, error.code, error.to_string())
            .help(format!("expected {}", error.expected))
    })
}

fn parse(pattern: &str) -> Result<Value, CommandError> {
    serde_json::from_slice(&argument(pattern)?).map_err(|error| {
        let message = format!("--pattern is no JSON: {error}");
        let error = CommandError::new(exit::USAGE, "E0111", message);
        error.help("quote it for the shell, or write it into a file: --pattern @hot.json")
    })
}

/// The patterns of a trigger.
fn of_manifest(dir: &Path, wanted: &str) -> Result<Vec<Value>, CommandError> {
    let manifest = Manifest::load_unbuilt(dir)?;
    let triggers = manifest.functions.iter().flat_map(|function| {
        let only = function.triggers.len() == 1;
        function.triggers.iter().map(move |trigger| {
            let whole = format!("{}/{}", function.name, trigger.name);
            (if only { function.name.to_string() } else { whole.clone() }, whole, trigger)
        })
    });
    let triggers: Vec<_> = triggers.collect();
    let Some((_, _, trigger)) =
        triggers.iter().find(|(short, whole, _)| short == wanted || whole == wanted)
    else {
        let names: Vec<&str> = triggers.iter().map(|(short, ..)| &**short).collect();
        let message = format!("no trigger `{}`", wanted.escape_debug());
        let error = CommandError::new(exit::NOT_FOUND, "E0105", message);
        return Err(error.help(format!("the manifest has {}", names.join(", "))));
    };
    if trigger.filter.is_empty() {
        let message = format!("the trigger `{wanted}` has no filter: every record passes");
        let error = CommandError::new(exit::USAGE, "E0111", message);
        return Err(error.help("try a pattern with --pattern first"));
    }
    Ok(trigger.filter.clone())
}

/// What was typed, or the file that was named.
fn argument(text: &str) -> Result<Vec<u8>, CommandError> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.as_bytes().to_vec()) };
    std::fs::read(path).map_err(|error| CommandError::file("read", Path::new(path), &error))
}

fn values(args: &MatchArgs) -> Result<Vec<Vec<u8>>, CommandError> {
    /// More than any topic takes: a stream without an end is a mistake.
    const BYTES_MAX: u64 = 64 << 20;
    if !args.values.is_empty() {
        return args.values.iter().map(|value| argument(value)).collect();
    }
    let (input, name): (Box<dyn Read>, PathBuf) = match &args.file {
        None => (Box::new(io::stdin()), "stdin".into()),
        Some(path) => {
            let file =
                File::open(path).map_err(|error| CommandError::file("read", path, &error))?;
            (Box::new(file), path.clone())
        }
    };
    let lines = BufReader::new(input.take(BYTES_MAX)).split(b'\n');
    let lines = lines.collect::<Result<Vec<_>, _>>();
    let lines = lines.map_err(|error| CommandError::file("read", &name, &error))?;
    let values: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    if values.is_empty() {
        let error = CommandError::new(exit::USAGE, "E0111", "there is no record to match");
        return Err(error.help("give a value, @FILE, -f FILE, or lines on stdin"));
    }
    Ok(values)
}

fn judge(filter: &Filter, args: &MatchArgs, value: &[u8], offset: i64) -> Verdict {
    let header = |name: &str| {
        let last = args.headers.iter().rfind(|it| it.name.as_bytes() == name.as_bytes())?;
        last.value.as_ref().map(Data::as_bytes)
    };
    let record = Record {
        topic: &args.topic,
        partition: args.partition,
        offset,
        timestamp: args.timestamp.unwrap_or_else(|| bus::Timestamp::now().0),
        key: args.key.as_deref().map(str::as_bytes),
        value: Some(value),
        header: &header,
    };
    let unmet = filter.explain(&record);
    Verdict {
        matches: unmet.is_empty(),
        value: String::from_utf8_lossy(value).trim_end().to_owned(),
        unmet: unmet.into_iter().map(alternative).collect(),
    }
}

fn alternative(unmet: Unmet) -> Alternative {
    let json = |text: String| serde_json::from_str(&text).unwrap_or(Value::String(text));
    let field = |Missed { name, wanted, found }: Missed| Field {
        field: name,
        wanted: json(wanted),
        found: found.into_iter().map(json).collect(),
    };
    let only_apart = unmet.missed.is_empty();
    Alternative { missed: unmet.missed.into_iter().map(field).collect(), only_apart }
}

fn render(verdicts: &[Verdict], paint: Paint) -> String {
    let mut out = String::new();
    for verdict in verdicts {
        let word = if verdict.matches { paint.good("match   ") } else { paint.bad("no match") };
        out.push_str(&format!("{word}  {}\n", printable(&verdict.value)));
        for (index, it) in verdict.unmet.iter().enumerate() {
            if index > 0 {
                out.push_str("   or\n");
            }
            if it.only_apart {
                out.push_str("   no element of an array has all of it\n");
            }
            for field in &it.missed {
                out.push_str(&format!("   {}\n", printable(&explained(field))));
            }
        }
    }
    out
}

fn explained(field: &Field) -> String {
    let Field { field, wanted, found } = field;
    let wanted = match wanted {
        Value::String(word) => word.clone(),
        other => other.to_string(),
    };
    match found.as_slice() {
        [] => format!("{field} is absent, wanted {wanted}"),
        found => {
            let found: Vec<String> = found.iter().map(Value::to_string).collect();
            format!("{field} is {}, wanted {wanted}", found.join(" and "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pattern: &str, value: &str) -> String {
        let filter = compile(&[parse(pattern).unwrap()]).unwrap();
        let args = MatchArgs {
            patterns: Vec::new(),
            values: Vec::new(),
            trigger: None,
            app: PathBuf::new(),
            file: None,
            key: Some("bed-4".to_owned()),
            headers: vec![HeaderData { name: "source".into(), value: Some("edge".into()) }],
            topic: "readings".to_owned(),
            partition: 0,
            offset: 0,
            timestamp: None,
        };
        render(&[judge(&filter, &args, value.as_bytes(), 0)], Paint::default())
    }

    #[test]
    fn it_says_what_is_not_met() {
        let hot = r#"{"value":{"c":[{"numeric":[">",30]}]},"headers":{"source":["edge"]}}"#;
        assert_eq!(said(hot, r#"{"c":34.2}"#), "match     {\"c\":34.2}\n");
        let cold =
            "no match  {\"c\":[1,2]}\n   value.c is 1 and 2, wanted [{\"numeric\":[\">\",30]}]\n";
        assert_eq!(said(hot, r#"{"c":[1,2]}"#), cold);
        let nothing = "no match  {}\n   value.c is absent, wanted [{\"numeric\":[\">\",30]}]\n";
        assert_eq!(said(hot, "{}"), nothing);
        assert_eq!(said(hot, "no"), "no match  no\n   value is \"no\", wanted JSON\n");
        let apart = r#"{"value":{"a":{"b":[1],"c":[1]}}}"#;
        let value = r#"{"a":[{"b":1},{"c":1}]}"#;
        let expected = format!("no match  {value}\n   no element of an array has all of it\n");
        assert_eq!(said(apart, value), expected);
        let either = r#"{"$or":[{"key":["x"]},{"topic":["y"]}]}"#;
        let expected = "no match  1\n   key is \"bed-4\", wanted [\"x\"]\n   or\n   topic is \
                        \"readings\", wanted [\"y\"]\n";
        assert_eq!(said(either, "1"), expected);
    }

    #[test]
    fn a_pattern_that_cannot_be_used_is_an_error_with_a_code() {
        let error = parse("{").unwrap_err();
        assert_eq!((error.exit, error.code), (exit::USAGE, Some("E0111")));
        let error = compile(&[serde_json::json!({"value": {"c": 30}})]).unwrap_err();
        assert_eq!((error.exit, error.code), (exit::USAGE, Some("E0221")));
        assert!(error.message.starts_with("value.c: "), "{error}");
        assert_eq!(parse("@/no/such/file").unwrap_err().code, Some("E0110"));
    }
}
