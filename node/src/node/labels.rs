//! Functions that only nodes with their labels may run. A node that lacks some says so, as it does of
//! a function that cannot start, and the planner gives their shards to others. Whoever deploys one
//! without having its labels has it tried where they are: nothing that cannot start is let in.

use std::time::Duration;

use function::{FunctionSpec, Name};
use gateway::api::{API, FunctionError, Problem, Trial, Tried};
use gateway::{Others as _, Question, Verb};

use super::prepare::{Named, Refused, Source, prepare};
use super::restore::as_kept;
use super::{Inner, Node};

/// What a function is refused with where its labels are not.
pub(super) const LACKS: &str = "E0443";
/// How long a start may take elsewhere, with the package on its way.
const TRIAL: Duration = Duration::from_secs(60);

impl Inner {
    /// The labels of a function that this node lacks. A node that belongs to no cluster runs all that
    /// there is: there is nobody else to do it.
    pub(super) fn lacking<'a>(&self, spec: &'a FunctionSpec) -> Vec<&'a Name> {
        match &self.peers {
            Some(_) => spec.labels.iter().filter(|it| !self.labels.contains(*it)).collect(),
            None => Vec::new(),
        }
    }

    /// Refuses what only others may run.
    pub(super) fn check_labels(&self, spec: &FunctionSpec) -> Result<(), Refused> {
        let lacking = self.lacking(spec);
        if lacking.is_empty() {
            return Ok(());
        }
        Err((LACKS, format!("{} lacks {}", self.name, words(&lacking))))
    }
}

impl Node {
    /// Has a function started, and ended again, at a node that has its labels. This one must have its
    /// package.
    pub(super) async fn try_elsewhere(&self, named: &Named) -> Result<(), Refused> {
        let Some(peers) = &self.inner.peers else { return Ok(()) };
        let trial = Trial {
            spec: serde_json::to_string(&named.spec).expect("a spec is plain data"),
            revision: named.revision.to_string(),
            package: named.package.clone(),
        };
        let body = serde_json::to_string(&trial).expect("texts can be written");
        let mut unheard = Vec::new();
        for node in peers.names() {
            let target = "/v1/node:try".to_owned();
            let question = Question { verb: Verb::Post, target, body: body.clone() };
            let said = match peers.ask(&node, question, TRIAL).await {
                Ok(reply) => tried(&reply),
                Err(not_heard) => Err(not_heard.why),
            };
            match said {
                Ok(tried) if !tried.lacks.is_empty() => {}
                Ok(Tried { error: None, .. }) => return Ok(()),
                Ok(Tried { error: Some(error), .. }) => {
                    // The other node's build may know codes that this one does not.
                    let code = function::codes().into_iter().find(|it| it.code == error.code);
                    let code = code.map_or("E0315", |it| it.code);
                    return Err((code, format!("at {node}: {}", error.message)));
                }
                Err(why) => unheard.push(format!("{node}: {why}")),
            }
        }
        let labels: Vec<&Name> = named.spec.labels.iter().collect();
        let mut message = format!("no node of the cluster that answers has {}", words(&labels));
        if !unheard.is_empty() {
            message.push_str(&format!("; not heard of {}", unheard.join(", ")));
        }
        Err((LACKS, message))
    }

    /// The other side of that.
    pub(super) async fn try_for_another(&self, trial: &Trial) -> Tried {
        let known = cluster::Function {
            revision: trial.revision.clone(),
            package: trial.package.clone(),
            spec: trial.spec.clone(),
        };
        let outcome = async {
            let (spec, kept) = as_kept(&known)?;
            let lacks: Vec<String> =
                self.inner.lacking(&spec).into_iter().map(ToString::to_string).collect();
            if lacks.is_empty() {
                let ready = prepare(&self.inner, Source::Kept(&kept), &spec, None).await?;
                ready.pool.drain().await;
            }
            Ok(lacks)
        };
        match outcome.await {
            Ok(lacks) => Tried { api: API, lacks, error: None },
            Err((code, message)) => {
                let error = FunctionError { code: String::from(code), message };
                Tried { api: API, lacks: Vec::new(), error: Some(error) }
            }
        }
    }
}

fn tried(reply: &gateway::Reply) -> Result<Tried, String> {
    if reply.status == 200 {
        return serde_json::from_slice(&reply.body).map_err(|error| error.to_string());
    }
    let problem = serde_json::from_slice::<Problem>(&reply.body);
    Err(problem.map_or_else(|_| format!("status {}", reply.status), |it| it.detail))
}

/// `the label gpu`, `the labels arm64 and gpu`.
fn words(labels: &[&Name]) -> String {
    let all: Vec<&str> = labels.iter().map(|it| it.as_str()).collect();
    match all.split_last() {
        Some((last, [])) => format!("the label {last}"),
        Some((last, rest)) => format!("the labels {} and {last}", rest.join(", ")),
        None => "no label".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_told_in_words() {
        let names: Vec<Name> = ["a", "b", "c"].iter().map(|it| Name::parse(it).unwrap()).collect();
        let told = |count: usize| words(&names[..count].iter().collect::<Vec<_>>());
        assert_eq!(told(1), "the label a");
        assert_eq!(told(3), "the labels a, b and c");
    }
}
