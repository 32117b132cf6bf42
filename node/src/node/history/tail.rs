//! Invocations as they end, read from the histories while somebody follows: who does not follow costs
//! nothing. Where to go on is told to the one who asks, and nothing of it is kept here.

use std::collections::BTreeMap;
use std::time::Duration;

use bus::{Offset, Timestamp, TopicPartition};
use dispatch::history::{Entry, Kept, Run, Spans};
use dispatch::{InvocationId, InvocationName, Standing};
use gateway::api::{API, TailLine, TailLines, TailQuestion};

use super::library::search;
use super::{range, wall};
use crate::commands::error::{CommandError, exit};
use crate::node::restore::as_kept;
use crate::node::status::rfc3339;
use crate::node::triggers::of_bus;
use crate::node::{Node, topics};

/// The longest wait for a first line, and how often it is looked for.
const WAIT_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What one answer reads of each history at most.
const BYTES_MAX: usize = 1 << 20;

impl Node {
    pub(in crate::node) async fn tail_lines(
        &self,
        asked: &TailQuestion,
    ) -> Result<TailLines, CommandError> {
        let followed = self.followed(asked.function.as_deref())?;
        let mut from = parse(asked.from.as_deref().unwrap_or_default())?;
        let until =
            tokio::time::Instant::now() + Duration::from_millis(asked.wait_ms).min(WAIT_MAX);
        loop {
            let mut lines = Vec::new();
            for (trigger, attempts_max) in &followed {
                let Some(topic) = topics::history_of(&self.inner, trigger) else { continue };
                let bus = &*self.inner.bus;
                let place = TopicPartition::new(topic, 0);
                let marks = bus.watermarks(&place).await.map_err(|error| of_bus(&error))?;
                let next = from.entry(trigger.clone()).or_insert(marks.end.0);
                let mut found = Vec::new();
                let bounds = (Offset(*next), marks.end);
                let searched = search(bus, &place, bounds, BYTES_MAX, |record| {
                    *next = record.offset.0 + 1;
                    found.extend(record.value.and_then(Entry::decode));
                    true
                });
                searched.await.map_err(|error| of_bus(&error))?;
                for entry in found {
                    for run in &entry.runs {
                        lines.push(self.line(trigger, *attempts_max, &entry, run).await);
                    }
                }
            }
            if !lines.is_empty() || until <= tokio::time::Instant::now() {
                lines.sort_by(|a, b| (&a.at, &a.invocation).cmp(&(&b.at, &b.invocation)));
                return Ok(TailLines { api: API, lines, next: written(&from) });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The triggers of a function, or all, and how many attempts each makes.
    fn followed(&self, function: Option<&str>) -> Result<Vec<(String, Option<u32>)>, CommandError> {
        let found: Vec<(String, Option<u32>)> = self.state(|state| {
            let apps = state.apps().iter();
            let all = apps.flat_map(|(app, it)| it.triggers.iter().map(move |of| (app, it, of)));
            let meant = all.filter(|(app, _, (_, trigger))| {
                function.is_none_or(|wanted| {
                    trigger.function == wanted || format!("{app}/{}", trigger.function) == wanted
                })
            });
            meant
                .map(|(_, app, (id, trigger))| {
                    let spec = app.functions.get(&trigger.function).map(as_kept);
                    let name = id.rsplit('/').next().unwrap_or_default();
                    let attempts = spec.and_then(Result::ok).and_then(|(spec, _)| {
                        let mut all = spec.triggers.into_iter();
                        all.find(|it| it.name.as_str() == name).map(|it| it.retry.attempts)
                    });
                    (id.clone(), attempts)
                })
                .collect()
        });
        match (found.is_empty(), function) {
            (true, Some(function)) => {
                let message = format!("there is no function {function}");
                Err(CommandError::new(exit::NOT_FOUND, "E0506", message)
                    .help("`millrace functions` lists those there are"))
            }
            _ => Ok(found),
        }
    }

    async fn line(
        &self,
        trigger: &str,
        attempts_max: Option<u32>,
        entry: &Entry,
        run: &Run,
    ) -> TailLine {
        let count = |spans: &[(u32, Spans)]| spans.iter().map(|(_, it)| it.count()).sum::<u64>();
        let records = count(&run.records);
        let kept = match &run.kept {
            Kept::Nothing => 0,
            Kept::All => records,
            Kept::Some(kept) => count(kept),
        };
        let shard = bus::ShardId(entry.shard);
        let number = InvocationId(run.number);
        let name = InvocationName { shard, epoch: bus::Epoch(entry.epoch), number };
        let place = |index: u32| entry.places.get(index as usize);
        let first = run.failed.first().map(|it| (it.partition, it.offset)).or_else(|| {
            let (index, spans) = run.records.first().filter(|_| run.is_whole)?;
            Some((*index, spans.runs().next()?.0))
        });
        let mut next_try_at = None;
        if let Some((index, offset)) = first
            && let Some((topic, partition)) = place(index)
            && let Some(handle) = self.handle_of(shard)
        {
            let at = TopicPartition::new(topic.as_str(), *partition);
            if let Some(Standing::Retrying { due_at, .. } | Standing::Parked { due_at, .. }) =
                handle.standing(at, Offset(offset)).await
            {
                next_try_at = due_at.map(wall);
            }
        }
        let spans = run.records.first().and_then(|(index, spans)| {
            let (topic, partition) = place(*index)?;
            let (first, last) = (spans.runs().next()?.0, spans.runs().last()?.1);
            Some(range(&format!("{topic}[{partition}]"), first, last))
        });
        let (error_type, error_message) = run.errors.first().cloned().unzip();
        TailLine {
            at: rfc3339(Timestamp(run.at)),
            trigger: trigger.to_owned(),
            invocation: name.to_string(),
            revision: run.revision.clone(),
            outcome: match (kept == records, kept) {
                (true, _) => "ok",
                (false, 0) => "fail",
                (false, _) => "part",
            }
            .to_owned(),
            range: spans.unwrap_or_default(),
            records,
            kept,
            run_us: run.run_us,
            cold: run.start_us.is_some(),
            attempt: run.attempts.iter().map(|it| it.2).max().unwrap_or(1),
            attempts_max,
            next_try_at,
            error_type,
            error_message,
        }
    }
}

/// `trigger@offset`, with commas.
fn written(from: &BTreeMap<String, i64>) -> String {
    let each: Vec<String> = from.iter().map(|(id, next)| format!("{id}@{next}")).collect();
    each.join(",")
}

fn parse(text: &str) -> Result<BTreeMap<String, i64>, CommandError> {
    let each = text.split(',').filter(|it| !it.is_empty());
    let parsed = each.map(|it| {
        let (id, next) = it.rsplit_once('@')?;
        Some((id.to_owned(), next.parse().ok().filter(|it| 0 <= *it)?))
    });
    parsed.collect::<Option<_>>().ok_or_else(|| {
        let message = "`from` is what the answer before gave as `next`";
        CommandError::new(exit::USAGE, "E0513", message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_go_on_is_read_back_and_nothing_else_is_taken() {
        let from = BTreeMap::from([("a/f/t".to_owned(), 7), ("a/g/t".to_owned(), 0)]);
        assert_eq!(parse(&written(&from)).unwrap(), from);
        assert!(parse("").unwrap().is_empty());
        for bad in ["a", "a@", "a@-1", "a@x", "a/f/t@7,b"] {
            assert_eq!(parse(bad).unwrap_err().code, Some("E0513"), "{bad}");
        }
    }
}
