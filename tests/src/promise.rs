//! What a promise is: a name, a sentence, a budget, and code that comes back with figures or with
//! the reason why it has none. The list is what `cargo prove` knows and tests/README.md shows.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::PathBuf;

use indicatif::ProgressBar;
use serde_json::Value;

/// One promise of the project that is more than a unit test.
#[derive(Clone, Copy)]
pub struct Promise {
    /// How it is called.
    pub name: &'static str,
    /// What holds, in one sentence.
    pub says: &'static str,
    /// What the machine must have beside Rust.
    pub needs: &'static str,
    /// The flags it takes beside the common ones.
    pub flags: &'static [&'static str],
    /// How long the full run takes.
    pub full: &'static str,
    /// What CI runs, and how long that takes.
    pub ci: &'static str,
    /// Whether CI goes on when it could not be checked.
    pub may_skip: bool,
    /// Figures that CI does not accept below these counts: a suite that silently stopped is worse
    /// than none.
    pub floors: &'static [(&'static str, u64)],
    /// Shows it.
    pub run: fn(&mut Run) -> Result<Figures, NotShown>,
}

impl fmt::Debug for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promise").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a promise has not been shown to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotShown {
    /// It is broken. Exit status 1.
    Broken(String),
    /// It could not be checked on this machine. Exit status 77.
    Unchecked(String),
}

impl Display for NotShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(why) => write!(f, "broken: {why}"),
            Self::Unchecked(why) => write!(f, "could not be checked: {why}"),
        }
    }
}

impl std::error::Error for NotShown {}

/// A [`NotShown::Broken`] with this reason.
pub fn broken(why: impl Display) -> NotShown {
    NotShown::Broken(why.to_string())
}

/// Turns any failure of a step into a broken promise that names the step.
pub trait During<T> {
    /// Names what was being done.
    ///
    /// # Errors
    ///
    /// [`NotShown::Broken`] with `what` and the failure.
    fn during(self, what: impl Display) -> Result<T, NotShown>;
}

impl<T, E: Display> During<T> for Result<T, E> {
    fn during(self, what: impl Display) -> Result<T, NotShown> {
        self.map_err(|error| broken(format!("{what}: {error:#}")))
    }
}

/// Breaks the promise unless the condition holds.
#[macro_export]
macro_rules! demand {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::promise::broken(format!($($why)+)));
        }
    };
}

/// What was measured and counted, in the order it is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures(Vec<(String, Value)>);

impl Figures {
    /// Adds a figure at the end, or replaces the one of this name.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.0.iter_mut().find(|(it, _)| it == name) {
            Some((_, held)) => *held = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Adds a figure and goes on, for short lists.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.set(name, value);
        self
    }

    /// Adds all figures of another and goes on.
    #[must_use]
    pub fn with_all(mut self, other: Self) -> Self {
        self.extend("", other);
        self
    }

    /// Adds the figures of a part, under names that begin with `of`.
    pub fn extend(&mut self, of: &str, part: Self) {
        for (name, value) in part.0 {
            self.set(&format!("{of}{name}"), value);
        }
    }

    /// Puts the seed first.
    #[must_use]
    pub fn under_seed(mut self, seed: u64) -> Self {
        self.0.insert(0, ("seed".to_owned(), seed.into()));
        self
    }

    /// The value of a figure, if it is a whole number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.0.iter().find(|(it, _)| it == name).and_then(|(_, value)| value.as_u64())
    }

    /// All of them as one JSON object.
    #[must_use]
    pub fn json(&self) -> Value {
        Value::Object(self.0.iter().cloned().collect())
    }
}

impl Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            match value {
                Value::String(text) => write!(f, "{comma}{name} {text}")?,
                other => write!(f, "{comma}{name} {other}")?,
            }
        }
        Ok(())
    }
}

/// A difference of times as a figure, in seconds with two digits.
#[must_use]
pub fn seconds(time: std::time::Duration) -> Value {
    rounded(time.as_secs_f64(), 2)
}

/// A number with so many digits behind the point.
#[must_use]
pub fn rounded(number: f64, digits: i32) -> Value {
    let scale = 10_f64.powi(digits);
    ((number * scale).round() / scale).into()
}

/// One run of one promise: its budget, its seed, and where its evidence goes.
#[derive(Debug)]
pub struct Run {
    /// The counts of the closing note instead of CI's.
    pub full: bool,
    /// Everything random follows from it.
    pub seed: u64,
    /// Counts given on the command line, by flag without dashes.
    pub flags: BTreeMap<String, u64>,
    /// A folder of this run. Kept when the promise is broken.
    pub evidence: PathBuf,
    /// Progress on stderr.
    pub progress: ProgressBar,
}

impl Run {
    /// The count of a flag: as given, or that of the budget.
    #[must_use]
    pub fn count(&self, flag: &str, ci: u64, full: u64) -> u64 {
        self.flags.get(flag).copied().unwrap_or(if self.full { full } else { ci })
    }

    /// Says what is being done, on stderr and in the evidence.
    pub fn note(&self, what: impl Display) {
        let line = what.to_string();
        self.progress.set_message(line.clone());
        if self.progress.is_hidden() {
            self.progress.suspend(|| note_plainly(&line));
        }
        let path = self.evidence.join("prove.log");
        let open = std::fs::OpenOptions::new().create(true).append(true).open(path);
        if let Ok(mut log) = open {
            let at = bus::Timestamp::now();
            // The evidence is best effort: a full disk must not change the verdict.
            drop(std::io::Write::write_all(&mut log, format!("{at} {line}\n").as_bytes()));
        }
    }
}

#[expect(clippy::print_stderr, reason = "progress of a command, where there is no terminal")]
fn note_plainly(line: &str) {
    eprintln!("  {line}");
}

/// Runs `work`, whose panics are caught and judged, and need not be printed as well.
pub fn panics_unprinted<T>(work: impl FnOnce() -> T) -> T {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let done = work();
    std::panic::set_hook(before);
    done
}
