//! What only one node of a cluster can do, done at that one, whichever was asked: positions are
//! moved by whoever owns their partitions, and a redrive or a replay is known where it runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::de::DeserializeOwned;

use crate::api::{API, Problem, Seek, Sought, SoughtPartition};
use crate::codes;
use crate::others::{NotHeard, Others, Owned, Question, Reply};
use crate::problem::Refusal;
use crate::read::Begin;
use crate::view::Operations;
use crate::whole::{LONG_PATIENCE, PATIENCE, ask, ask_all, not_heard, problem_of, understood};

/// Something that one node does in the background.
pub(crate) trait Background: DeserializeOwned {
    /// Whether it goes on.
    fn runs(&self) -> bool;
    /// When it began; RFC 3339, UTC.
    fn started(&self) -> &str;
    /// The same, with the name of the node that does it.
    #[must_use]
    fn of(self, node: String) -> Self;
}

/// The one that runs, else the last one of any node that answers.
pub(crate) async fn newest<T: Background>(
    others: &Arc<dyn Others>,
    target: &str,
    own: Option<T>,
) -> Option<T> {
    let own = own.map(|it| it.of(others.own_name()));
    if own.as_ref().is_some_and(T::runs) {
        return own;
    }
    let told = ask_all(others, &Question::get(target), PATIENCE).await;
    let told = told.into_iter().filter_map(|(node, reply)| Some((node, understood(reply).ok()?)));
    let all = own.into_iter().chain(told.map(|(node, it): (String, T)| it.of(node)));
    all.max_by(|a, b| (a.runs(), a.started()).cmp(&(b.runs(), b.started())))
}

/// Stops it wherever it runs.
pub(crate) async fn stop(others: &Arc<dyn Others>, target: &str) -> Result<(), Refusal> {
    let told = ask_all(others, &Question::delete(target), PATIENCE).await;
    match told.iter().find_map(|(node, reply)| Some((node, reply.as_ref().err()?))) {
        Some((node, error)) => Err(not_heard(node, error)
            .hint("it was stopped on all nodes that answer; if it runs on that one, it goes on")),
        None => Ok(()),
    }
}

/// Moves positions at the owners of their partitions. All of them say first what it would do, so
/// that what cannot be done changes nothing.
pub(crate) async fn seek(
    others: &Arc<dyn Others>,
    node: &dyn Operations,
    trigger: String,
    to: Begin,
    asked: Seek,
) -> Result<Sought, Refusal> {
    let meant = meant(others.shards(), &trigger, &asked);
    let me = others.own_name();
    if meant.iter().all(|it| it.owner.as_ref() == Some(&me)) {
        return Ok(node.seek(trigger, to, asked).await?);
    }
    let mut by_owner: BTreeMap<String, u32> = BTreeMap::new();
    for it in &meant {
        let owner = it.owner.clone().ok_or_else(|| {
            let detail = format!("nobody owns {}[{}] just now", it.topic, it.partition);
            Refusal::new(StatusCode::CONFLICT, codes::ELSEWHERE, detail)
                .hint("try again in a second")
        })?;
        *by_owner.entry(owner).or_default() += 1;
    }
    let owners: Vec<String> = by_owner.into_keys().collect();
    let round = async |dry_run| {
        let question = Seek { own: true, dry_run, ..asked.clone() };
        at_owners(others, node, &owners, (&trigger, to), question).await
    };
    let (preview, failed) = round(true).await;
    if let Some((owner, failure)) = failed.into_iter().next() {
        return Err(failure.refusal(&owner));
    }
    check_all(&meant, &preview)?;
    if asked.dry_run {
        return Ok(summed(trigger, true, preview));
    }
    let (moved, failed) = round(false).await;
    if let Some((owner, failure)) = failed.into_iter().next() {
        let hint = format!(
            "{} of {} partitions were moved: `millrace lag -p` shows which",
            moved.len(),
            meant.len()
        );
        return Err(failure.refusal(&owner).hint(hint));
    }
    check_all(&meant, &moved)?;
    Ok(summed(trigger, false, moved))
}

/// The shards that a seek is about.
fn meant(shards: Vec<Owned>, trigger: &str, asked: &Seek) -> Vec<Owned> {
    let is_meant = |it: &Owned| {
        it.trigger == trigger
            && asked.topic.as_ref().is_none_or(|topic| it.topic == *topic)
            && asked.partition.is_none_or(|partition| it.partition == partition)
    };
    shards.into_iter().filter(is_meant).collect()
}

/// Why an owner did not do it.
enum Failure {
    Refused(Refusal),
    Answered(Reply),
    NotHeard(NotHeard),
}

impl Failure {
    fn refusal(self, owner: &str) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::NotHeard(it) => not_heard(owner, &it),
            Self::Answered(reply) => {
                let Problem { detail, code, hints, .. } = problem_of(&reply);
                let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
                // A code of a later version has no page here.
                let known = codes::FORWARDED.iter().find(|known| **known == code);
                let code = known.copied().unwrap_or(codes::INTERNAL);
                let refusal = Refusal::new(status, code, format!("{owner}: {detail}"));
                hints.into_iter().fold(refusal, Refusal::hint)
            }
        }
    }
}

/// Asks all owners at once; what they did, and who did not.
async fn at_owners(
    others: &Arc<dyn Others>,
    node: &dyn Operations,
    owners: &[String],
    (trigger, to): (&str, Begin),
    question: Seek,
) -> (Vec<SoughtPartition>, Vec<(String, Failure)>) {
    let me = others.own_name();
    let target = format!("/v1/triggers/{trigger}:seek");
    let elsewhere = owners.iter().filter(|owner| **owner != me);
    let questions =
        elsewhere.map(|owner| (owner.clone(), Question::post(target.as_str(), &question)));
    let asked = ask(others, questions, LONG_PATIENCE);
    let mine = async {
        match owners.contains(&me) {
            true => Some(node.seek(trigger.to_owned(), to, question.clone()).await),
            false => None,
        }
    };
    let (mine, told) = tokio::join!(mine, asked.join_all());
    let (mut moved, mut failed) = (Vec::new(), Vec::new());
    match mine {
        Some(Ok(sought)) => moved.extend(sought.partitions),
        Some(Err(refused)) => failed.push((me, Failure::Refused(refused.into()))),
        None => {}
    }
    for (owner, reply) in told {
        match reply {
            Ok(reply) if reply.is_ok() => match understood::<Sought>(Ok(reply)) {
                Ok(sought) => moved.extend(sought.partitions),
                Err(why) => {
                    failed.push((owner, Failure::NotHeard(NotHeard { why, maybe_done: true })));
                }
            },
            Ok(reply) => failed.push((owner, Failure::Answered(reply))),
            Err(it) => failed.push((owner, Failure::NotHeard(it))),
        }
    }
    moved.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
    (moved, failed)
}

/// Whether every partition that was meant was answered for.
fn check_all(meant: &[Owned], told: &[SoughtPartition]) -> Result<(), Refusal> {
    let is_told = |it: &&Owned| {
        !told.iter().any(|told| (&told.topic, told.partition) == (&it.topic, it.partition))
    };
    let Some(missing) = meant.iter().find(is_told) else { return Ok(()) };
    let detail = format!(
        "{}[{}] goes to another node just now; {} of {} partitions were answered for",
        missing.topic,
        missing.partition,
        told.len(),
        meant.len()
    );
    Err(Refusal::new(StatusCode::CONFLICT, codes::ELSEWHERE, detail)
        .hint("try again in a second: what was moved already is moved to the same place"))
}

fn summed(trigger: String, dry_run: bool, partitions: Vec<SoughtPartition>) -> Sought {
    let sum = |of: fn(&SoughtPartition) -> u64| partitions.iter().map(of).sum();
    let (skipped, repeated) = (sum(|it| it.skipped), sum(|it| it.repeated));
    Sought { api: API, trigger, dry_run, partitions, skipped, repeated }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(trigger: &str, partition: i32) -> Owned {
        let (trigger, topic) = (trigger.to_owned(), "in".to_owned());
        Owned { trigger, topic, partition, ..Owned::default() }
    }

    #[test]
    fn a_partition_that_nobody_answered_for_is_named() {
        let shards = vec![owned("a/f/t", 0), owned("a/f/t", 1), owned("a/g/t", 0)];
        let all = meant(shards.clone(), "a/f/t", &Seek::default());
        assert_eq!(all, shards[..2]);
        let one = Seek { partition: Some(1), ..Seek::default() };
        assert_eq!(meant(shards.clone(), "a/f/t", &one), shards[1..2]);
        let other = Seek { topic: Some("other".to_owned()), ..Seek::default() };
        assert!(meant(shards, "a/f/t", &other).is_empty());
        let told = |partition| SoughtPartition {
            topic: "in".to_owned(),
            partition,
            skipped: 2,
            repeated: 1,
            ..SoughtPartition::default()
        };
        assert!(check_all(&all, &[told(0), told(1)]).is_ok());
        assert!(check_all(&all, &[told(1)]).is_err());
        let sum = summed("a/f/t".to_owned(), false, vec![told(0), told(1)]);
        assert_eq!((sum.skipped, sum.repeated), (4, 2));
    }
}
