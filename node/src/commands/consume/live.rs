//! `millrace consume --live`: follows a topic over QUIC from wherever a node lets subscribers in. The
//! resume file is behind what was printed: an end by Ctrl-C, SIGTERM or `-n` leaves both in step, and
//! a kill between the two prints those few records again.

use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use gateway::Data;
use gateway::api::{HeaderData, RecordData};
use subscriber::{Client, Error, From, Reason, Record, Subscription};
use tokio::signal::unix::{SignalKind, signal};

use super::{ConsumeArgs, Style, write_record};
use crate::cli::Globals;
use crate::commands::error::{CommandError, exit};
use crate::commands::program::program;
use crate::commands::serve::runtime;
use crate::output::{Format, Paint};

/// The largest resume file.
const RESUME_BYTES_MAX: u64 = 4 << 20;

/// What `--live` needs beside the topic.
#[derive(Debug, clap::Args)]
pub struct LiveArgs {
    /// Follow the topic over QUIC: --node is then the address, or several with commas, where nodes
    /// let subscribers in.
    #[arg(long, requires = "token_file", conflicts_with_all = ["end", "partition"])]
    pub live: bool,
    /// The file with a token of `millrace token create`.
    #[arg(long, requires = "live", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Go on where this file says, and keep it at what was printed; made when it is not there.
    #[arg(long, requires = "live", value_name = "FILE")]
    pub resume: Option<PathBuf>,
}

/// Carries it out.
///
/// # Errors
///
/// `E0590` when the cluster refuses, `E0591` when the resume file is of no use, `E0503` when nobody
/// answers, and what files say.
pub(super) fn run(args: &ConsumeArgs, globals: &Globals) -> Result<(), CommandError> {
    let Some(addresses) = globals.node.as_deref().filter(|it| !it.is_empty()) else {
        return Err(CommandError::new(exit::USAGE, "E0111", "--live needs an address")
            .help("where a node lets subscribers in: --node edge-1.example:7500"));
    };
    let token_file = args.live.token_file.as_deref().expect("clap demands it with --live");
    let token = std::fs::read_to_string(token_file);
    let token = token.map_err(|error| CommandError::file("read", token_file, &error))?;
    let token = token.parse().map_err(|error: subscriber::TokenError| {
        let message = format!("{} has {error}", token_file.display());
        CommandError::new(exit::DENIED, "E0590", message)
            .help(format!("on a node of the cluster: {} token create --topic TOPIC", program()))
    })?;
    let from = begin(args)?;
    let client =
        Client::new(token, addresses.split(',').map(str::trim).filter(|it| !it.is_empty()));
    let client = client.map_err(|error| explain(&error))?;
    let style = Style {
        is_json: globals.output == Format::Json,
        has_meta: args.meta,
        is_terminal: io::stdout().is_terminal(),
        paint: Paint::new(globals.colour_on_stdout()),
    };
    runtime()?.block_on(follow(&client, args, from, style))
}

/// Where it begins: the resume file's place, else what `--from` says.
fn begin(args: &ConsumeArgs) -> Result<From, CommandError> {
    if let Some(path) = args.live.resume.as_deref()
        && let Some(text) = read_resume(path)?
    {
        let resume = text.parse().map_err(|error: subscriber::ResumeError| {
            resume_refused(format!("{} has {error}", path.display()))
        })?;
        return Ok(From::Resume(resume));
    }
    match args.from.as_str() {
        "earliest" => Ok(From::Earliest),
        "latest" => Ok(From::Latest),
        other => {
            let message = format!("--live cannot begin at `{}`", other.escape_debug());
            Err(CommandError::new(exit::USAGE, "E0111", message)
                .help("--from earliest or latest, or --resume FILE to go on"))
        }
    }
}

/// What a resume file says; `None` when there is none yet.
fn read_resume(path: &Path) -> Result<Option<String>, CommandError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CommandError::file("read", path, &error)),
        Ok(about) if RESUME_BYTES_MAX < about.len() => {
            return Err(resume_refused(format!("{} is no resume file", path.display())));
        }
        Ok(_) => {}
    }
    let read = std::fs::read_to_string(path);
    read.map(Some).map_err(|error| CommandError::file("read", path, &error))
}

async fn follow(
    client: &Client,
    args: &ConsumeArgs,
    from: From,
    style: Style,
) -> Result<(), CommandError> {
    let failed = |error: io::Error| CommandError::from(error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let topics = [args.topic.as_str()];
    let mut records = tokio::select! {
        opened = client.subscribe(&topics, from) => opened.map_err(|error| explain(&error))?,
        _asked = terminate.recv() => return Err(CommandError::silent(exit::INTERRUPTED)),
        _asked = interrupt.recv() => return Err(CommandError::silent(exit::INTERRUPTED)),
    };
    let resume = args.live.resume.as_deref();
    let mut out = BufWriter::new(io::stdout().lock());
    let mut left = args.number;
    // Also before the first record: `--from latest` began here.
    keep(&mut out, resume, &records)?;
    let ended = loop {
        if left == Some(0) {
            break Ok(());
        }
        let record = tokio::select! {
            biased;
            _asked = terminate.recv() => break Err(CommandError::silent(exit::INTERRUPTED)),
            _asked = interrupt.recv() => break Err(CommandError::silent(exit::INTERRUPTED)),
            next = records.next() => match next {
                Ok(record) => record,
                Err(error) => break Err(explain(&error)),
            },
        };
        write_record(&mut out, &data_of(&record), style)?;
        left = left.map(|left| left - 1);
        if records.waiting() == 0 {
            keep(&mut out, resume, &records)?;
        }
    };
    keep(&mut out, resume, &records)?;
    ended
}

/// Prints what was gathered, then moves the resume file behind it.
fn keep(
    out: &mut impl Write,
    resume: Option<&Path>,
    records: &Subscription,
) -> Result<(), CommandError> {
    out.flush()?;
    let Some(path) = resume else { return Ok(()) };
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    let folder = folder.unwrap_or_else(|| Path::new("."));
    let write = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        writeln!(file, "{}", records.resume_token())?;
        file.as_file().sync_all()?;
        file.persist(path).map(drop).map_err(|error| error.error)
    };
    write().map_err(|error| CommandError::file("write", path, &error))
}

fn data_of(record: &Record) -> RecordData {
    let data = |bytes: &bytes::Bytes| Data::from(&bytes[..]);
    let time = jiff::Timestamp::from_millisecond(record.timestamp).ok();
    RecordData {
        topic: record.topic.to_string(),
        partition: i32::try_from(record.partition).unwrap_or(i32::MAX),
        offset: record.offset,
        timestamp: time.map(|time| format!("{time:.3}")),
        timestamp_ms: record.timestamp,
        key: record.key.as_ref().map(data),
        value: record.value.as_ref().map(data),
        headers: record
            .headers
            .iter()
            .map(|it| HeaderData { name: data(&it.name), value: it.value.as_ref().map(data) })
            .collect(),
    }
}

fn resume_refused(message: String) -> CommandError {
    CommandError::new(exit::CONFLICT, "E0591", message).help(
        "decide what to do about what is missing or comes again, then remove the file and begin \
         with --from earliest or latest",
    )
}

/// As a person reads it.
fn explain(error: &Error) -> CommandError {
    let message = crate::output::printable(&error.to_string()).into_owned();
    let denied = || CommandError::new(exit::DENIED, "E0590", message.clone());
    match error {
        Error::NoAddress => CommandError::new(exit::USAGE, "E0111", message)
            .help("where a node lets subscribers in: --node edge-1.example:7500"),
        Error::Unreachable { .. } => CommandError::new(exit::UNREACHABLE, "E0503", message)
            .help("look at [subscribers] of the node's file, and whether UDP reaches it"),
        Error::Untrusted { .. } => {
            denied().help("the node at this address is of another cluster than the token")
        }
        Error::Refused { reason, .. } if reason.is_about_resume() => resume_refused(message),
        Error::Refused { reason: Reason::UnknownTopic, .. } => {
            CommandError::new(exit::NOT_FOUND, "E0404", message)
                .help(format!("on a node of the cluster: {} topic list", program()))
        }
        Error::Refused { reason, .. } if reason.is_retryable() => {
            CommandError::new(exit::UNREACHABLE, "E0590", message).help("try again later")
        }
        Error::Refused { reason: Reason::UnlistedTopic, .. } => denied().help(format!(
            "a token that lists it: {} token create --topic TOPIC on a node of the cluster",
            program()
        )),
        Error::Refused { .. } => {
            denied().help(format!("a new one: {} token create on a node of the cluster", program()))
        }
        Error::Protocol { .. } => CommandError::new(exit::FAILED, "E0590", message)
            .help("the node may be of another version"),
    }
}
