//! `cargo prove`: lists the promises, runs those that are named, and says in one line of figures
//! whether they hold. Exit status 0 holds, 1 broken, 2 usage, 77 could not be checked.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command talks on its streams")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use millrace_tests::harness::binaries;
use millrace_tests::promise::{Figures, NotShown, Promise, Run, broken, seconds};
use millrace_tests::promises::{self, PROMISES};

/// What the command line asked for.
#[derive(Debug, Default)]
struct Asked {
    names: Vec<String>,
    ci: bool,
    full: bool,
    json: bool,
    no_build: bool,
    seed: Option<u64>,
    flags: BTreeMap<String, u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(status) = millrace_tests::hidden::dispatch(&arguments) {
        return status;
    }
    let asked = match parse(&arguments) {
        Ok(Some(asked)) => asked,
        Ok(None) => {
            list();
            return ExitCode::SUCCESS;
        }
        Err(why) => {
            eprintln!("error: {why}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    prove(&asked)
}

const USAGE: &str = "\
usage: cargo prove                                     list the promises
       cargo prove NAME... [--full] [--seed N] [--json] [--FLAG N]...
       cargo prove --ci [--seed N] [--json]            all of them, with CI's budget
       --no-build                                      take the node's binary as it lies there";

fn parse(arguments: &[String]) -> Result<Option<Asked>, String> {
    let mut asked = Asked::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--ci" => asked.ci = true,
            "--full" => asked.full = true,
            "--json" => asked.json = true,
            "--no-build" => asked.no_build = true,
            "-h" | "--help" => return Ok(None),
            flag if flag.starts_with("--") => {
                let (name, value) = match flag[2..].split_once('=') {
                    Some((name, value)) => (name, value.to_owned()),
                    None => (&flag[2..], rest.next().cloned().unwrap_or_default()),
                };
                let value = value.replace('_', "").parse();
                let value = value.map_err(|_| format!("--{name} takes a number"))?;
                if name == "seed" {
                    asked.seed = Some(value);
                } else {
                    asked.flags.insert(name.to_owned(), value);
                }
            }
            name => asked.names.push(name.to_owned()),
        }
    }
    if asked.ci {
        if !asked.names.is_empty() || asked.full || !asked.flags.is_empty() {
            return Err("--ci runs every promise with CI's budget".to_owned());
        }
        asked.names = PROMISES.iter().map(|promise| promise.name.to_owned()).collect();
    }
    if asked.names.is_empty() {
        return if arguments.is_empty() { Ok(None) } else { Err("name a promise".to_owned()) };
    }
    for name in &asked.names {
        let Some(promise) = promises::find(name) else {
            return Err(format!("there is no promise {name:?}; `cargo prove` lists them"));
        };
        if let Some(flag) = asked.flags.keys().find(|flag| !promise.flags.contains(&flag.as_str()))
        {
            let takes: Vec<String> = promise.flags.iter().map(|it| format!("--{it}")).collect();
            return Err(format!("{name} takes no --{flag}, but {takes:?}"));
        }
    }
    Ok(Some(asked))
}

fn list() {
    println!("{USAGE}\n");
    for promise in PROMISES {
        println!("{}\n    {}", promise.name, promise.says);
        println!("    needs: {}", promise.needs);
        println!("    full:  {}", promise.full);
        let skip = if promise.may_skip { "; may be skipped" } else { "" };
        println!("    CI:    {}{skip}", promise.ci);
        if !promise.flags.is_empty() {
            let flags: Vec<String> = promise.flags.iter().map(|it| format!("--{it} N")).collect();
            println!("    flags: {}", flags.join(" "));
        }
    }
}

/// How one promise ended.
struct Ended {
    promise: &'static Promise,
    seed: u64,
    took: Duration,
    outcome: Result<Figures, NotShown>,
    evidence: PathBuf,
}

fn prove(asked: &Asked) -> ExitCode {
    if !asked.no_build
        && let Err(why) = binaries::build()
    {
        eprintln!("error: {why}");
        return ExitCode::FAILURE;
    }
    let seed = asked.seed.unwrap_or_else(|| rand::random::<u64>() % 1_000_000);
    let mut all = Vec::new();
    for name in &asked.names {
        let promise = promises::find(name).expect("names were checked");
        let ended = prove_one(promise, asked, seed);
        report(&ended, asked);
        all.push(ended);
    }
    if asked.ci {
        all.iter_mut().for_each(hold_to_floors);
    }
    if all.len() > 1 {
        table(&all);
        counts(&all);
        // Whoever sees only the end of a long log sees what broke.
        all.iter().filter(|it| it.outcome.is_err()).for_each(|it| report(it, asked));
    }
    last_line(&all, asked);
    status(&all, asked.ci)
}

fn prove_one(promise: &'static Promise, asked: &Asked, seed: u64) -> Ended {
    let evidence = binaries::target().join("prove").join(format!("{}-{seed}", promise.name));
    // What a run of the same seed left behind says nothing about this one.
    drop(std::fs::remove_dir_all(&evidence));
    let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg}")
        .expect("the template is constant");
    let progress = ProgressBar::new_spinner().with_style(style).with_prefix(promise.name);
    progress.enable_steady_tick(Duration::from_millis(200));
    eprintln!("{} (seed {seed}) ...", promise.name);
    let started_at = Instant::now();
    let outcome = match std::fs::create_dir_all(&evidence) {
        Err(error) => Err(broken(format!("make {}: {error}", evidence.display()))),
        Ok(()) => {
            let mut run = Run {
                full: asked.full,
                seed,
                flags: asked.flags.clone(),
                evidence: evidence.clone(),
                progress: progress.clone(),
            };
            (promise.run)(&mut run)
        }
    };
    progress.finish_and_clear();
    if !matches!(outcome, Err(NotShown::Broken(_))) {
        drop(std::fs::remove_dir_all(&evidence));
    }
    Ended { promise, seed, took: started_at.elapsed(), outcome, evidence }
}

fn report(ended: &Ended, asked: &Asked) {
    let Ended { promise, seed, took, outcome, evidence } = ended;
    let took = took.as_secs_f64();
    match outcome {
        Ok(figures) => eprintln!("{} holds ({took:.1} s): {figures}", promise.name),
        Err(why @ NotShown::Unchecked(_)) => eprintln!("{} {why}", promise.name),
        Err(why @ NotShown::Broken(_)) => {
            eprintln!("{} is {why}", promise.name);
            let full = if asked.full { " --full" } else { "" };
            let flags: String =
                asked.flags.iter().map(|(name, value)| format!(" --{name} {value}")).collect();
            eprintln!("  repeat:   cargo prove {}{full} --seed {seed}{flags}", promise.name);
            eprintln!("  evidence: {}", evidence.display());
        }
    }
}

fn verdict(ended: &Ended) -> &'static str {
    match ended.outcome {
        Ok(_) => "holds",
        Err(NotShown::Broken(_)) => "BROKEN",
        Err(NotShown::Unchecked(_)) => "unchecked",
    }
}

fn table(all: &[Ended]) {
    eprintln!("\n{:<18} {:<10} {:>8}  figures", "promise", "verdict", "took");
    for ended in all {
        let took = format!("{:.1} s", ended.took.as_secs_f64());
        let text = match &ended.outcome {
            Ok(figures) => figures.to_string(),
            Err(why) => why.to_string(),
        };
        eprintln!("{:<18} {:<10} {:>8}  {text}", ended.promise.name, verdict(ended), took);
    }
}

/// What CI counts, over all promises.
fn counts(all: &[Ended]) {
    let sum = |name: &str| -> u64 {
        let figures = all.iter().filter_map(|ended| ended.outcome.as_ref().ok());
        figures.filter_map(|figures| figures.number(name)).sum()
    };
    let skips = all.iter().filter(|it| matches!(it.outcome, Err(NotShown::Unchecked(_)))).count();
    let counted = ["seeds", "crash_points", "kills", "red_controls", "cases"];
    let counted: Vec<String> =
        counted.iter().map(|name| format!("{} {}", name.replace('_', " "), sum(name))).collect();
    eprintln!("counts: {}, skips {skips}", counted.join(", "));
}

/// A promise that holds over fewer cases than its floor has not been shown.
fn hold_to_floors(ended: &mut Ended) {
    let Ok(figures) = &ended.outcome else { return };
    for (name, floor) in ended.promise.floors {
        let counted = figures.number(name).unwrap_or(0);
        if counted < *floor {
            ended.outcome = Err(broken(format!("{name} {counted} is below {floor}")));
            return;
        }
    }
}

/// The last line of stdout is one line of figures.
fn last_line(all: &[Ended], asked: &Asked) {
    let lines: Vec<(String, Figures)> = all
        .iter()
        .map(|ended| {
            let figures = ended.outcome.clone().unwrap_or_else(|why| {
                let why: String = why.to_string().replace('\n', "; ").chars().take(300).collect();
                Figures::default().with("why", why)
            });
            let figures = figures
                .with("verdict", verdict(ended))
                .with("took_s", seconds(ended.took))
                .under_seed(ended.seed);
            (ended.promise.name.to_owned(), figures)
        })
        .collect();
    if asked.json {
        let json: serde_json::Map<String, serde_json::Value> =
            lines.iter().map(|(name, figures)| (name.clone(), figures.json())).collect();
        println!("{}", serde_json::Value::Object(json));
    } else {
        let text: Vec<String> =
            lines.iter().map(|(name, figures)| format!("{name}: {figures}")).collect();
        println!("{}", text.join(" | "));
    }
}

fn status(all: &[Ended], ci: bool) -> ExitCode {
    let is_unchecked = |ended: &Ended| {
        let forgiven = ci && ended.promise.may_skip;
        matches!(ended.outcome, Err(NotShown::Unchecked(_))) && !forgiven
    };
    if all.iter().any(|ended| matches!(ended.outcome, Err(NotShown::Broken(_)))) {
        ExitCode::from(1)
    } else if all.iter().any(is_unchecked) {
        ExitCode::from(77)
    } else {
        ExitCode::SUCCESS
    }
}
