//! What functions said, on all nodes: merged by time. Each node numbers its lines itself, so where
//! to go on is a number for each.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::api::{API, LogLines, LogQuestion, Unheard};
use crate::others::{Others, Question};
use crate::problem::Refusal;
use crate::routes::App;
use crate::triggers::node;
use crate::whole::{PATIENCE, ask, understood};

/// How long nodes wait for a first line: who is not there is named that often.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// How long the others have, once one has said something.
const GRACE: Duration = Duration::from_millis(200);
/// Lines of an answer, unless more are asked for.
const LINES: usize = 1_000;

/// Asks all nodes; `query` is that of the request.
pub(crate) async fn of_all(
    app: &App,
    others: &Arc<dyn Others>,
    asked: LogQuestion,
    query: &str,
) -> Result<LogLines, Refusal> {
    let mut after = match &asked.after {
        Some(text) => parse(text)
            .ok_or_else(|| Refusal::bad("`after` is what the answer before gave as `after`"))?,
        None => BTreeMap::new(),
    };
    let wait = Duration::from_millis(asked.wait_ms).min(WAIT_MAX);
    let me = others.own_name();
    let questions = others.names().into_iter().map(|node| {
        let target = target(query, after.get(&node).copied(), wait);
        (node, Question::get(target))
    });
    let mut waiting = ask(others, questions, PATIENCE + wait);
    let own = node(app)?;
    let mine = LogQuestion {
        from: after.get(&me).copied(),
        after: None,
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        ..asked.clone()
    };
    let mut mine = std::pin::pin!(own.logs(mine));
    let (mut is_mine_told, mut until) = (false, None::<Instant>);
    let (mut told, mut unheard) = (Vec::new(), Vec::new());
    while !is_mine_told || !waiting.is_empty() {
        let late = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        let (node, said) = tokio::select! {
            said = &mut mine, if !is_mine_told => {
                is_mine_told = true;
                (me.clone(), Ok(said?))
            }
            Some(answer) = waiting.join_next() => match answer {
                Ok((node, reply)) => (node, understood(reply)),
                // Nothing in it panics, and nobody aborts it.
                Err(_gone) => continue,
            },
            () = late => break,
        };
        match said {
            Ok(said) => {
                if until.is_none() && !wait.is_zero() && !said.lines.is_empty() {
                    until = Some(Instant::now() + GRACE);
                }
                after.insert(node.clone(), said.next);
                told.push((node, said));
            }
            Err(why) => unheard.push(Unheard { node, why }),
        }
    }
    unheard.sort_by(|a, b| a.node.cmp(&b.node));
    let max = if asked.after.is_some() { usize::MAX } else { asked.max.unwrap_or(LINES) };
    Ok(merge(told, &after, &me, unheard, max))
}

/// The same question for one node.
fn target(query: &str, from: Option<u64>, wait: Duration) -> String {
    let is_kept = |it: &&str| {
        let name = it.split('=').next().unwrap_or_default();
        !matches!(name, "" | "after" | "from" | "wait_ms")
    };
    let kept = query.split('&').filter(is_kept).map(str::to_owned);
    let from = from.map(|from| format!("from={from}"));
    let wait = format!("wait_ms={}", wait.as_millis());
    let all: Vec<String> = kept.chain(from).chain([wait]).collect();
    format!("/v1/logs?{}", all.join("&"))
}

/// The newest lines of all, oldest first.
fn merge(
    told: Vec<(String, LogLines)>,
    after: &BTreeMap<String, u64>,
    me: &str,
    unheard: Vec<Unheard>,
    max: usize,
) -> LogLines {
    let mut lines = Vec::new();
    for (node, said) in told {
        lines.extend(said.lines.into_iter().map(|mut it| {
            it.node = Some(node.clone());
            it
        }));
    }
    lines.sort_by(|a, b| (&a.at, &a.node, a.number).cmp(&(&b.at, &b.node, b.number)));
    lines.drain(..lines.len().saturating_sub(max));
    let next = after.get(me).copied().unwrap_or_default();
    LogLines { api: API, lines, next, after: Some(written(after)), unheard }
}

/// `node@number`, with commas.
fn written(after: &BTreeMap<String, u64>) -> String {
    let each: Vec<String> = after.iter().map(|(node, next)| format!("{node}@{next}")).collect();
    each.join(",")
}

fn parse(text: &str) -> Option<BTreeMap<String, u64>> {
    let each = text.split(',').filter(|it| !it.is_empty());
    each.map(|it| {
        let (node, next) = it.rsplit_once('@')?;
        Some((node.to_owned(), next.parse().ok()?))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use crate::api::LogEntry;

    use super::*;

    #[test]
    fn where_to_go_on_is_read_back_and_each_node_gets_its_own() {
        let after = BTreeMap::from([("edge-1".to_owned(), 7), ("edge-2".to_owned(), 0)]);
        assert_eq!(parse(&written(&after)).unwrap(), after);
        for bad in ["edge-1", "edge-1@", "edge-1@x", "edge-1@-1"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        let query = "max=3&after=edge-1%407&function=f&wait_ms=25000&from=9";
        let expected = "/v1/logs?max=3&function=f&from=7&wait_ms=1000";
        assert_eq!(target(query, Some(7), WAIT_MAX), expected);
        assert_eq!(target("", None, Duration::ZERO), "/v1/logs?wait_ms=0");
    }

    #[test]
    fn lines_of_all_nodes_come_by_time_and_the_newest_are_kept() {
        let line = |at: &str, number| LogEntry { at: at.into(), number, ..LogEntry::default() };
        let said = |lines: Vec<LogEntry>| LogLines { lines, next: 9, ..LogLines::default() };
        let told = vec![
            ("a".to_owned(), said(vec![line("1", 0), line("3", 1), line("3", 2)])),
            ("b".to_owned(), said(vec![line("2", 5), line("3", 6)])),
        ];
        let after = BTreeMap::from([("a".to_owned(), 9), ("c".to_owned(), 4)]);
        let merged = merge(told, &after, "a", Vec::new(), 4);
        let each = merged.lines.iter().map(|it| (it.node.as_deref().unwrap(), it.number));
        let expected = [("b", 5), ("a", 1), ("a", 2), ("b", 6)];
        assert_eq!(each.collect::<Vec<_>>(), expected);
        assert_eq!((merged.next, merged.after.as_deref()), (9, Some("a@9,c@4")));
    }
}
