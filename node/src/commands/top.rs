//! `millrace top`: what a node does, on a screen that is drawn anew every second, with the rates
//! between two looks.

mod model;
mod screen;

use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::time::{Duration, Instant};

use gateway::api::{InstanceList, Status};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use self::model::{Look, Model};
use super::error::{CommandError, exit};
use crate::cli::Globals;
use crate::client::Client;
use crate::output::Format;

/// How long a key waits to be seen at most.
const KEYS_EVERY: Duration = Duration::from_millis(100);

/// Shows what a node does on a screen that is drawn anew every second.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  millrace top                 q ends it, s sorts by another column, i shows instances
  millrace top --every 5       a look every 5 seconds
  millrace top --sort lag      who is furthest behind comes first")]
pub struct TopArgs {
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "1",
        value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub every: u64,
    /// What to sort by.
    #[arg(long, value_enum, default_value_t, value_name = "COLUMN")]
    pub sort: Sort,
}

/// What the first function is the first by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Its name.
    #[default]
    Name,
    /// Most records settled a second.
    Rate,
    /// Most failures a second.
    Failures,
    /// Most records behind.
    Lag,
}

impl Sort {
    const fn next(self) -> Self {
        match self {
            Self::Name => Self::Rate,
            Self::Rate => Self::Failures,
            Self::Failures => Self::Lag,
            Self::Lag => Self::Name,
        }
    }
}

/// Carries it out: returns when somebody ends it.
///
/// # Errors
///
/// When no node answers at first, or there is no terminal.
pub fn run(args: &TopArgs, globals: &Globals) -> Result<(), CommandError> {
    let is_terminal = std::io::stdout().is_terminal() && std::io::stdin().is_terminal();
    if globals.output == Format::Json || !is_terminal {
        let failed = CommandError::new(exit::USAGE, "E0513", "top draws on a terminal");
        return Err(failed.help("for programs: millrace status -o json, millrace ps -o json"));
    }
    let client = Client::connect_about(globals)?;
    // A node that does not answer is an error in words, before the screen is taken.
    let mut model = Model::new(args.sort);
    model.on_look(Instant::now(), look(&client));
    if let Some(error) = model.take_first_error() {
        return Err(error);
    }
    // While this one is kept, the other thread looks.
    let (looks, _go_on) = looks(client, Duration::from_secs(args.every));
    let has_colour = globals.colour_on_stdout();
    let mut terminal = ratatui::try_init()?;
    let ended = follow(&mut model, &looks, |model| {
        terminal.draw(|frame| screen::draw(frame, model, has_colour)).map(drop)
    });
    ratatui::try_restore()?;
    Ok(ended?)
}

/// Draws until somebody ends it.
fn follow(
    model: &mut Model,
    looks: &Receiver<Result<Look, CommandError>>,
    mut draw: impl FnMut(&Model) -> std::io::Result<()>,
) -> std::io::Result<()> {
    draw(model)?;
    loop {
        let mut is_new = false;
        while let Ok(look) = looks.try_recv() {
            model.on_look(Instant::now(), look);
            is_new = true;
        }
        if event::poll(KEYS_EVERY)? {
            is_new = true;
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    KeyCode::Char('c') if is_control => return Ok(()),
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('s') => model.sort = model.sort.next(),
                    KeyCode::Char('i') => model.shows_instances ^= true,
                    KeyCode::Char(' ') => model.is_held ^= true,
                    _ => {}
                }
            }
        }
        if is_new {
            draw(model)?;
        }
    }
}

fn look(client: &Client) -> Result<Look, CommandError> {
    let status: Status = client.get("/v1/status")?;
    // A node of an earlier version has no such list.
    let instances = client.get::<InstanceList>("/v1/instances").unwrap_or_default();
    Ok(Look { status, instances: instances.instances })
}

/// A look every so often, from a thread of its own: a node that is slow to answer makes no key
/// wait.
fn looks(client: Client, every: Duration) -> (Receiver<Result<Look, CommandError>>, Sender<()>) {
    let (tell, told) = sync_channel(1);
    let (go_on, ends) = channel();
    std::thread::spawn(move || {
        loop {
            let is_over = ends.recv_timeout(every) == Err(RecvTimeoutError::Disconnected);
            if is_over || tell.send(look(&client)).is_err() {
                return;
            }
        }
    });
    (told, go_on)
}
