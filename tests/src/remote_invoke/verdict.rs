//! What callers were told, held against what the runs themselves said, and every way to be wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use super::app::{Line, Said};

/// How long after its caller's end a run may go on.
const ENDED_WITHIN: Duration = Duration::from_secs(2);
/// How soon a caller hears that the node of its call is gone.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// What a caller was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// An answer, from this node.
    Answered { node: String },
    /// The function failed, as it had to.
    Failed,
    /// Not run: refused for its load.
    Refused,
    /// Its time was over, so long after it was sent and by how much after its deadline.
    Late { over: Duration },
    /// It may have run: so long after its node was gone.
    MayHaveRun { after: Duration },
    /// It hung up.
    HungUp,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Called {
    /// When the caller had its end.
    pub(super) at: std::time::Instant,
    pub(super) told: Told,
    /// The trace that it was given.
    pub(super) trace: Option<String>,
}

/// All of a run of the promise.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) calls: BTreeMap<u64, Called>,
    pub(super) lines: Vec<Line>,
}

impl Seen {
    fn said(&self, call: u64) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.call == call)
    }

    /// # Errors
    ///
    /// What is wrong.
    pub(super) fn judge(&self) -> Result<(), String> {
        for line in &self.lines {
            if !self.calls.contains_key(&line.call) {
                return Err(format!("call {} ran, and nobody made it", line.call));
            }
        }
        self.calls.iter().try_for_each(|(id, called)| self.judge_one(*id, called))
    }

    fn judge_one(&self, id: u64, called: &Called) -> Result<(), String> {
        let begun: Vec<(&str, &str)> = self
            .said(id)
            .filter_map(|line| match &line.said {
                Said::Begin { node, trace } => Some((node.as_str(), trace.as_str())),
                _ => None,
            })
            .collect();
        let ends = self.said(id).filter(|line| line.said == Said::End).count();
        if 1 < begun.len() {
            return Err(format!("call {id} ran {} times: {:?}", begun.len(), called.told));
        }
        if let (Some(trace), [(_, seen)]) = (&called.trace, begun.as_slice())
            && trace != seen
        {
            return Err(format!("call {id} has the trace {seen}, not {trace}"));
        }
        match (&called.told, begun.as_slice()) {
            (Told::Answered { node }, [(ran, _)]) if node == ran && ends == 1 => Ok(()),
            (Told::Failed, [_]) => Ok(()),
            (Told::Refused, []) => Ok(()),
            (Told::Late { over }, _) if HEARD_WITHIN < *over => {
                Err(format!("call {id} ended {over:?} after its time"))
            }
            (Told::MayHaveRun { after }, _) if HEARD_WITHIN < *after => {
                Err(format!("call {id} heard of it {after:?} after its node was gone"))
            }
            (Told::Late { .. } | Told::HungUp, [_]) if ends == 0 => self.is_ended(id, called),
            // Its time was over before anything ran.
            (Told::Late { .. }, []) | (Told::MayHaveRun { .. }, _) => Ok(()),
            (told, begun) => Err(format!("call {id}: {told:?}, began {begun:?}, ended {ends}")),
        }
    }

    /// Whether what ran it is gone soon after its caller was.
    fn is_ended(&self, id: u64, called: &Called) -> Result<(), String> {
        let gone = self.said(id).find(|line| line.said == Said::Gone);
        match gone.map(|line| line.at.saturating_duration_since(called.at)) {
            Some(after) if after <= ENDED_WITHIN => Ok(()),
            after => Err(format!("what ran call {id} went on after its caller: {after:?}")),
        }
    }

    /// Each way to be wrong, one planted in a copy each.
    pub(super) fn planted(&self) -> Vec<(&'static str, Self)> {
        let mut planted = Vec::new();
        let find = |wanted: &dyn Fn(&Told) -> bool| {
            self.calls.iter().find(|(_, it)| wanted(&it.told)).map(|(id, _)| *id)
        };
        let mut plant = |what, id: Option<u64>, change: &dyn Fn(&mut Self, u64)| {
            let mut seen = self.clone();
            if let Some(id) = id {
                change(&mut seen, id);
            }
            planted.push((what, seen));
        };
        let first = |seen: &Self, id: u64, said: &dyn Fn(&Said) -> bool| {
            seen.lines.iter().position(|line| line.call == id && said(&line.said))
        };
        let is_begin = |said: &Said| matches!(said, Said::Begin { .. });
        let again = |seen: &mut Self, id: u64| {
            let at = first(seen, id, &is_begin).expect("it ran");
            let line = seen.lines[at].clone();
            seen.lines.push(line);
        };
        let drop_line = |seen: &mut Self, id: u64, said: &dyn Fn(&Said) -> bool| {
            let at = first(seen, id, said).expect("it was said");
            seen.lines.remove(at);
        };
        let answered = find(&|told| matches!(told, Told::Answered { .. }));
        let is_lost = |told: &Told| matches!(told, Told::MayHaveRun { .. });
        let mut lost = self.calls.iter().filter(|(id, it)| {
            is_lost(&it.told) && self.said(**id).any(|line| is_begin(&line.said))
        });
        let lost = lost.next().map(|(id, _)| *id);
        let is_late = |told: &Told| matches!(told, Told::Late { .. });
        let mut late = self.calls.iter().filter(|(id, it)| {
            is_late(&it.told) && self.said(**id).any(|line| is_begin(&line.said))
        });
        let late = late.next().map(|(id, _)| *id);
        let hung_up = find(&|told| *told == Told::HungUp);
        let refused = find(&|told| *told == Told::Refused);
        plant("an answered call ran twice", answered, &again);
        plant("a lost call ran twice", lost, &again);
        plant("an answer of nobody", answered, &|seen, id| drop_line(seen, id, &is_begin));
        plant("an answer before the end", answered, &|seen, id| {
            drop_line(seen, id, &|said| *said == Said::End);
        });
        plant("an answer of another node", answered, &|seen, id| {
            let told = Told::Answered { node: "edge-9".to_owned() };
            seen.calls.get_mut(&id).expect("it was made").told = told;
        });
        plant("a refused call ran", refused, &|seen, id| {
            let (at, node) = (std::time::Instant::now(), "edge-1".to_owned());
            let said = Said::Begin { node, trace: "-".to_owned() };
            seen.lines.push(Line { at, call: id, said });
        });
        for (what, id) in [("a late call goes on", late), ("who hung up goes on", hung_up)] {
            plant(what, id, &|seen, id| drop_line(seen, id, &|said| *said == Said::Gone));
        }
        plant("a call that nobody waited for was finished", hung_up, &|seen, id| {
            seen.lines.push(Line { at: std::time::Instant::now(), call: id, said: Said::End });
        });
        plant("a deadline that is not kept", late, &|seen, id| {
            let told = Told::Late { over: 2 * HEARD_WITHIN };
            seen.calls.get_mut(&id).expect("it was made").told = told;
        });
        plant("a dead node that is heard of late", lost, &|seen, id| {
            let told = Told::MayHaveRun { after: 2 * HEARD_WITHIN };
            seen.calls.get_mut(&id).expect("it was made").told = told;
        });
        let traced = self.calls.iter().find(|(_, it)| it.trace.is_some()).map(|(id, _)| *id);
        plant("a trace that is lost", traced, &|seen, id| {
            seen.calls.get_mut(&id).expect("it was made").trace = Some("another".to_owned());
        });
        plant("a call that nobody made", answered, &|seen, id| {
            seen.calls.remove(&id);
        });
        planted
    }
}
