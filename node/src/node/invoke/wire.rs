//! A pure core: what crosses between two members about synchronous invocations, as bytes. How much
//! time is left stands in the head of the exchange's frame.
//!
//! All integers are little endian; texts and values are a u32 length and their bytes.
//!
//! ```text
//! question  u8 version, 1     u8 what: 1 news, 2 run
//!   news    u16 count, then the names of functions, app/name
//!   run     function, revision, invocation, traceparent (or empty), input
//! answer    u8 version, 1     u8 what, as asked
//!   news    u16 count, each: function, u8 runs; if so: revision, load
//!   run     revision, load, u8 cold, u32 queue us, u32 run us, u8 outcome, then
//!           1 answered: u8 has a value, value      2 failed: u8 timed out, code, message
//!           3 not begun: u8 why, message           4 in doubt: message
//! load      u32 idle, busy, queued, max, u8 starts fast
//! ```
//!
//! - **IW-1** what an encoder wrote decodes to the same values.
//! - **IW-2** no bytes make a decoder panic, or hold more than it was given; what follows the end
//!   is refused.

use bytes::Bytes;
use cluster::invoking::{Load, Said};

const VERSION: u8 = 1;
const NEWS: u8 = 1;
const RUN: u8 = 2;

/// Functions that are asked about at once, at most.
pub(super) const NEWS_MAX: usize = 1_024;

/// One invocation, on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    /// app/name.
    pub(super) function: String,
    /// The revision that is wanted.
    pub(super) revision: String,
    /// Its name, unique in the cluster.
    pub(super) invocation: String,
    /// A `traceparent`, or empty.
    pub(super) trace: String,
    /// What the function is given.
    pub(super) input: Bytes,
}

/// What one member asks another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    /// How these functions stand.
    News(Vec<String>),
    /// Run this.
    Run(Call),
}

/// How a function stands, where it runs.
pub(super) type News = Vec<(String, Option<Said>)>;

/// Why an invocation was not begun. Nothing of the function ran for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotBegun {
    /// Too many wait for the function there.
    Busy,
    /// The function, or that revision of it, does not run there.
    NotHere,
    /// The node ends.
    Ending,
    /// No instance could be started.
    Start,
}

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its outputs are in their topics.
    Answered(Option<Bytes>),
    /// The function failed, or took too long.
    Failed { code: String, message: String, timed_out: bool },
    /// It did not run.
    NotBegun(NotBegun, String),
    /// It ran, or may have; what became of it is not known.
    InDoubt(String),
}

/// What a member says of an invocation that it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) revision: String,
    /// How the function stands afterwards.
    pub(super) load: Load,
    pub(super) cold: bool,
    pub(super) queue_us: u32,
    pub(super) run_us: u32,
    pub(super) outcome: Outcome,
}

impl Question {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Writer(Vec::new());
        match self {
            Self::News(functions) => {
                out.0.extend([VERSION, NEWS]);
                let functions = &functions[..functions.len().min(NEWS_MAX)];
                out.0.extend((functions.len() as u16).to_le_bytes());
                functions.iter().for_each(|it| out.text(it));
            }
            Self::Run(call) => {
                let Call { function, revision, invocation, trace, input } = call;
                let texts = function.len() + revision.len() + invocation.len() + trace.len();
                out.0.reserve(2 + 5 * 4 + texts + input.len());
                out.0.extend([VERSION, RUN]);
                [function, revision, invocation, trace].into_iter().for_each(|it| out.text(it));
                out.bytes(input);
            }
        }
        out.0.into()
    }

    /// Reads one; `None` for everything else.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut rest = Reader::begin(bytes)?;
        let question = match rest.byte()? {
            NEWS => {
                let count = usize::from(rest.short()?);
                let functions = (0..count).map(|_| rest.text()).collect::<Option<Vec<_>>>()?;
                (count <= NEWS_MAX).then_some(Self::News(functions))?
            }
            RUN => Self::Run(Call {
                function: rest.text()?,
                revision: rest.text()?,
                invocation: rest.text()?,
                trace: rest.text()?,
                input: rest.bytes()?,
            }),
            _ => return None,
        };
        rest.end(question)
    }
}

/// Writes the answer to a question for news.
pub(super) fn encode_news(news: &News) -> Bytes {
    let mut out = Writer(vec![VERSION, NEWS]);
    out.0.extend((news.len().min(NEWS_MAX) as u16).to_le_bytes());
    for (function, said) in news.iter().take(NEWS_MAX) {
        out.text(function);
        out.0.push(u8::from(said.is_some()));
        if let Some(said) = said {
            out.text(&said.revision);
            out.load(said.load);
        }
    }
    out.0.into()
}

/// Reads it.
pub(super) fn decode_news(bytes: &Bytes) -> Option<News> {
    let mut rest = Reader::begin(bytes)?;
    if rest.byte()? != NEWS {
        return None;
    }
    let count = usize::from(rest.short()?);
    let mut one = || {
        let function = rest.text()?;
        let said = match rest.flag()? {
            true => Some(Said { revision: rest.text()?, load: rest.load()? }),
            false => None,
        };
        Some((function, said))
    };
    let news = (0..count).map(|_| one()).collect::<Option<News>>()?;
    rest.end(news)
}

impl Report {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Writer(vec![VERSION, RUN]);
        out.text(&self.revision);
        out.load(self.load);
        out.0.push(u8::from(self.cold));
        out.word(self.queue_us);
        out.word(self.run_us);
        match &self.outcome {
            Outcome::Answered(value) => {
                out.0.extend([1, u8::from(value.is_some())]);
                out.bytes(value.as_deref().unwrap_or_default());
            }
            Outcome::Failed { code, message, timed_out } => {
                out.0.extend([2, u8::from(*timed_out)]);
                out.text(code);
                out.text(message);
            }
            Outcome::NotBegun(why, message) => {
                let why = match why {
                    NotBegun::Busy => 1,
                    NotBegun::NotHere => 2,
                    NotBegun::Ending => 3,
                    NotBegun::Start => 4,
                };
                out.0.extend([3, why]);
                out.text(message);
            }
            Outcome::InDoubt(message) => {
                out.0.push(4);
                out.text(message);
            }
        }
        out.0.into()
    }

    /// Reads one; `None` for everything else.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut rest = Reader::begin(bytes)?;
        if rest.byte()? != RUN {
            return None;
        }
        let revision = rest.text()?;
        let load = rest.load()?;
        let cold = rest.flag()?;
        let (queue_us, run_us) = (rest.word()?, rest.word()?);
        let outcome = match rest.byte()? {
            1 => {
                let has_value = rest.flag()?;
                let value = rest.bytes()?;
                Outcome::Answered(has_value.then_some(value))
            }
            2 => {
                let timed_out = rest.flag()?;
                Outcome::Failed { code: rest.text()?, message: rest.text()?, timed_out }
            }
            3 => {
                let why = match rest.byte()? {
                    1 => NotBegun::Busy,
                    2 => NotBegun::NotHere,
                    3 => NotBegun::Ending,
                    4 => NotBegun::Start,
                    _ => return None,
                };
                Outcome::NotBegun(why, rest.text()?)
            }
            4 => Outcome::InDoubt(rest.text()?),
            _ => return None,
        };
        rest.end(Self { revision, load, cold, queue_us, run_us, outcome })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn word(&mut self, word: u32) {
        self.0.extend(word.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.word(u32::try_from(bytes.len()).expect("limits are far below 4 GiB"));
        self.0.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn load(&mut self, load: Load) {
        let Load { idle, busy, queued, max, starts_fast } = load;
        [idle, busy, queued, max].into_iter().for_each(|it| self.word(it));
        self.0.push(u8::from(starts_fast));
    }
}

struct Reader<'a> {
    all: &'a Bytes,
    at: usize,
}

impl<'a> Reader<'a> {
    fn begin(all: &'a Bytes) -> Option<Self> {
        let mut this = Self { all, at: 0 };
        (this.byte()? == VERSION).then_some(this)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.all.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|it| it[0])
    }

    fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    fn word(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Shares what it was given.
    fn bytes(&mut self) -> Option<Bytes> {
        let length = self.word()? as usize;
        let taken = self.take(length)?;
        Some(self.all.slice_ref(taken))
    }

    fn text(&mut self) -> Option<String> {
        let length = self.word()? as usize;
        std::str::from_utf8(self.take(length)?).ok().map(str::to_owned)
    }

    fn load(&mut self) -> Option<Load> {
        Some(Load {
            idle: self.word()?,
            busy: self.word()?,
            queued: self.word()?,
            max: self.word()?,
            starts_fast: self.flag()?,
        })
    }

    fn end<T>(&self, value: T) -> Option<T> {
        (self.at == self.all.len()).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    fn load() -> Load {
        Load { idle: 1, busy: 2, queued: 3, max: 4, starts_fast: true }
    }

    fn questions() -> Vec<Question> {
        vec![
            Question::News(Vec::new()),
            Question::News(vec!["a/f".to_owned(), "b/g".to_owned()]),
            Question::Run(Call {
                function: "a/f".to_owned(),
                revision: "0123456789ab".to_owned(),
                invocation: "call-1".to_owned(),
                trace: String::new(),
                input: Bytes::from_static(b"{\"c\":34}"),
            }),
        ]
    }

    fn reports() -> Vec<Report> {
        let failed = |timed_out| Outcome::Failed {
            code: "ValueError".to_owned(),
            message: "no such bed".to_owned(),
            timed_out,
        };
        let outcomes = [
            Outcome::Answered(None),
            Outcome::Answered(Some(Bytes::new())),
            Outcome::Answered(Some(Bytes::from_static(b"\x00\xff"))),
            failed(false),
            failed(true),
            Outcome::NotBegun(NotBegun::Busy, "full".to_owned()),
            Outcome::NotBegun(NotBegun::NotHere, String::new()),
            Outcome::NotBegun(NotBegun::Ending, String::new()),
            Outcome::NotBegun(NotBegun::Start, "no python".to_owned()),
            Outcome::InDoubt("the disk is full".to_owned()),
        ];
        let report = |outcome| Report {
            revision: "0123456789ab".to_owned(),
            load: load(),
            cold: true,
            queue_us: 7,
            run_us: u32::MAX,
            outcome,
        };
        outcomes.map(report).into()
    }

    fn all_bytes() -> Vec<Bytes> {
        let news = vec![
            ("a/f".to_owned(), Some(Said { revision: "r".to_owned(), load: load() })),
            ("a/g".to_owned(), None),
        ];
        let mut all: Vec<Bytes> = questions().iter().map(Question::encode).collect();
        all.extend(reports().iter().map(Report::encode));
        all.push(encode_news(&news));
        assert_eq!(decode_news(&encode_news(&news)), Some(news));
        all
    }

    #[test]
    fn iw_1_what_is_written_is_read() {
        for question in questions() {
            assert_eq!(Question::decode(&question.encode()), Some(question));
        }
        for report in reports() {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
    }

    fn decode_all(bytes: &Bytes) -> usize {
        usize::from(Question::decode(bytes).is_some())
            + usize::from(Report::decode(bytes).is_some())
            + usize::from(decode_news(bytes).is_some())
    }

    #[test]
    fn iw_2_what_is_cut_longer_or_of_another_version_is_refused() {
        for bytes in all_bytes() {
            for end in 0..bytes.len() {
                assert_eq!(decode_all(&bytes.slice(..end)), 0, "cut at {end}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(decode_all(&longer.into()), 0);
            let mut other = bytes.to_vec();
            other[0] = 2;
            assert_eq!(decode_all(&other.into()), 0);
        }
    }

    #[test]
    fn iw_2_no_bytes_end_a_decoder() {
        let mut random = SmallRng::seed_from_u64(7);
        let all = all_bytes();
        for round in 0..100_000 {
            let mut bytes = all[round % all.len()].to_vec();
            for _ in 0..random.random_range(1..4) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            decode_all(&bytes.into());
        }
    }
}
