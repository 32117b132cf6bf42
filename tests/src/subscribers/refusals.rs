//! Who must not follow: each try ends with its own word and status, is counted under its reason and
//! no other, and stands in the log.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use subscriber::{Client, From, Token};

use super::stage::{Stage, topic};
use super::timing;
use crate::demand;
use crate::harness::api::ToProduce;
use crate::harness::wait;
use crate::promise::{During, Figures, NotShown, broken};

const PATIENCE: Duration = Duration::from_secs(60);

/// What was seen of one try.
#[derive(Clone, Debug)]
struct Tried {
    reason: &'static str,
    status: Option<i32>,
    wanted: i32,
    printed: String,
    said: String,
    before: BTreeMap<String, u64>,
    after: BTreeMap<String, u64>,
    log: String,
}

impl Tried {
    fn judge(&self) -> Result<(), String> {
        let reason = self.reason;
        if !self.printed.is_empty() || self.status != Some(self.wanted) {
            return Err(format!("{reason}: status {:?}, {}", self.status, self.said));
        }
        if !self.said.contains(&format!("({reason})")) {
            return Err(format!("{reason}: it was told {}", self.said));
        }
        let grew: Vec<&str> = self
            .after
            .iter()
            .filter(|(reason, count)| self.before.get(*reason) != Some(count))
            .map(|(reason, _)| reason.as_str())
            .collect();
        if grew != [reason] {
            return Err(format!("{reason}: {grew:?} was counted"));
        }
        match self.log.contains(&line_of(reason)) {
            true => Ok(()),
            false => Err(format!("{reason}: not in the log")),
        }
    }

    fn planted(&self) -> Vec<Self> {
        let plant = |change: &dyn Fn(&mut Self)| {
            let mut tried = self.clone();
            change(&mut tried);
            tried
        };
        vec![
            plant(&|it| it.printed = "a record".to_owned()),
            plant(&|it| it.status = Some(0)),
            plant(&|it| it.said = "(another)".to_owned()),
            plant(&|it| it.after = it.before.clone()),
            plant(&|it| {
                it.after.insert("another".to_owned(), 1);
            }),
            plant(&|it| it.log.clear()),
        ]
    }
}

fn line_of(reason: &str) -> String {
    format!("reason=\"{reason}\"")
}

fn try_to_follow(
    stage: &Stage,
    token: &str,
    topic: &str,
    (reason, wanted): (&'static str, i32),
) -> Result<Tried, NotShown> {
    std::fs::write(stage.folder().join("token"), token).during("write a token")?;
    let (before, door) = (stage.refusals()?, stage.door.to_string());
    let words = ["consume", topic, "--live", "--node", &door, "--token-file", "token", "-n", "1"];
    let resume = stage.folder().join("resume").exists();
    let words = [&words[..], if resume { &["--resume", "resume"] } else { &[] }].concat();
    let said = stage.say(&words)?;
    let (status, printed, after) = (said.status, said.stdout, stage.refusals()?);
    // The line may be on its way to us.
    let line = line_of(reason);
    let logged = || Some(stage.log()).filter(|log| log.contains(&line));
    let log = wait::until(Duration::from_secs(5), logged).unwrap_or_default();
    Ok(Tried { reason, status, wanted, printed, said: said.stderr, before, after, log })
}

/// With a resume file that says this.
fn try_to_resume(
    stage: &Stage,
    (token, resume): (&str, &str),
    topic: &str,
    reason: &'static str,
) -> Result<Tried, NotShown> {
    let path = stage.folder().join("resume");
    std::fs::write(&path, resume).during("write a resume file")?;
    let tried = try_to_follow(stage, token, topic, (reason, 5));
    std::fs::remove_file(&path).during("remove a resume file")?;
    tried
}

/// Where a subscriber of this topic is that has seen nothing.
fn resume_of(stage: &Stage, token: &str, topic: &str) -> Result<subscriber::ResumeToken, NotShown> {
    let token: Token = token.parse().during("read a token")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.during("start a runtime")?.block_on(async {
        let client = Client::new(token, [stage.door.to_string()]).during("make a client")?;
        let client = client.with_timing(timing());
        let records = client.subscribe(&[topic], From::Earliest).await.during("subscribe")?;
        Ok(records.resume_token().clone())
    })
}

pub(super) fn run(stage: &Stage) -> Result<Figures, NotShown> {
    for name in ["readings", "near", "near.two"] {
        stage.topic(&topic(name, 1))?;
    }
    stage.topic(&json!({ "name": "near.brief", "partitions": 1, "retention_bytes": 100_000 }))?;
    let (good, _) = stage.token("near*", "1h")?;
    let (brief, _) = stage.token("near*", "1s")?;
    let (revoked, id) = stage.token("near*", "1h")?;
    stage.run(&["token", "revoke", &id])?;
    wait::pause(Duration::from_secs(2));
    let flipped = if good.ends_with('0') { "1" } else { "0" };
    let unknown = format!("{}{flipped}", &good[..good.len() - 1]);
    let mut all = vec![
        try_to_follow(stage, &unknown, "near", ("unknown-token", 4))?,
        try_to_follow(stage, &brief, "near", ("expired-token", 4))?,
        try_to_follow(stage, &revoked, "near", ("revoked-token", 4))?,
        try_to_follow(stage, &good, "readings", ("unlisted-topic", 4))?,
        try_to_follow(stage, &good, "near.none", ("unknown-topic", 3))?,
    ];
    let mut resume = resume_of(stage, &good, "near.two")?;
    let there = resume.to_string();
    all.push(try_to_resume(stage, (&good, &there), "near", "foreign-resume")?);
    resume.advance(0, 0, 4_711);
    let beyond = resume.to_string();
    all.push(try_to_resume(stage, (&good, &beyond), "near.two", "beyond-end")?);
    stage.run(&["topic", "delete", "near.two", "--yes"])?;
    stage.topic(&topic("near.two", 1))?;
    all.push(try_to_resume(stage, (&good, &there), "near.two", "foreign-resume")?);
    let early = resume_of(stage, &good, "near.brief")?.to_string();
    expire(stage)?;
    all.push(try_to_resume(stage, (&good, &early), "near.brief", "records-gone")?);
    let mut red = 0;
    for tried in &all {
        tried.judge().map_err(broken)?;
        for planted in tried.planted() {
            demand!(planted.judge().is_err(), "a planted fault stayed green: {planted:?}");
            red += 1;
        }
    }
    untold(stage, &good)?;
    damaged(stage, &good, &early)?;
    let refused = all.len() + 2;
    Ok(Figures::default().with("refused", refused).with("refusals_red", red))
}

/// Produces until the first records of the topic are gone.
fn expire(stage: &Stage) -> Result<(), NotShown> {
    let api = stage.api()?;
    let record = || ToProduce { key: b"k".to_vec(), value: vec![b'x'; 20_000] };
    let gone = wait::until(PATIENCE, || {
        api.produce("near.brief", &[record(), record(), record()]).ok()?;
        let about = api.get("/v1/topics/near.brief").ok()?;
        let about: serde_json::Value = serde_json::from_str(&about).ok()?;
        (0 < about["watermarks"][0]["start"].as_i64()?).then_some(())
    });
    gone.ok_or_else(|| broken("nothing expired"))
}

/// A node that does not show the CA that the token names hears nothing of the token.
fn untold(stage: &Stage, good: &str) -> Result<(), NotShown> {
    let before = stage.refusals()?;
    let digit = if &good[5..6] == "0" { "1" } else { "0" };
    std::fs::write(stage.folder().join("token"), format!("mrs1-{digit}{}", &good[6..]))
        .during("write a token")?;
    let door = stage.door.to_string();
    let words = ["consume", "near", "--live", "--node", &door, "--token-file", "token", "-n", "1"];
    let said = stage.say(&words)?;
    demand!(said.status == Some(4), "another CA: status {:?}, {}", said.status, said.all());
    demand!(said.stderr.contains("it was told nothing"), "another CA: {}", said.stderr);
    demand!(stage.refusals()? == before, "a node was told a token of another CA");
    Ok(())
}

/// A resume file that is not whole is told here already.
fn damaged(stage: &Stage, good: &str, resume: &str) -> Result<(), NotShown> {
    std::fs::write(stage.folder().join("token"), good).during("write a token")?;
    let cut = &resume[..resume.len() - 3];
    std::fs::write(stage.folder().join("resume"), cut).during("write a resume file")?;
    let door = stage.door.to_string();
    let words = ["consume", "near", "--live", "--node", &door, "--token-file", "token"];
    let said = stage.say(&[&words[..], &["--resume", "resume", "-n", "1"]].concat())?;
    std::fs::remove_file(stage.folder().join("resume")).during("remove a resume file")?;
    let is_told = said.status == Some(5) && said.stderr.contains("E0591");
    demand!(is_told, "a damaged resume file: status {:?}, {}", said.status, said.all());
    Ok(())
}
