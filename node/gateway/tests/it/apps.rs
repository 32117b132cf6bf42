//! Applications: what is asked reaches the node as it was asked, and what it refuses comes back.

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_gateway::api::{
    AliasList, DeadLetterChoice, DeadLetterInfo, DeadLetterList, Deployed, Effective, Examination,
    FunctionList, InstanceList, InvocationInfo, LogLines, LogQuestion, Plan, Proposal,
    RecordAccount, Redrive, RedriveStatus, Replay, ReplayStatus, RevisionList, RolledBack, Seek,
    Sought, TailLines, TailQuestion, Target, Trial, Tried, TriggerInfo, TriggerList, UpgradeStatus,
};
use millrace_gateway::{Applications, Begin, Data, Operations, Refused};
use serde_json::json;

use crate::harness::Served;

/// The largest package of these tests.
const PACKAGE_BYTES_MAX: usize = 1_000;

/// Notes what it is asked. It has an application `a` at version 7, and no other.
#[derive(Debug, Default)]
pub(crate) struct Asked(Mutex<Vec<String>>);

impl Asked {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn known(app: &str) -> Result<(), Refused> {
    let unknown = || Refused {
        status: 404,
        code: "E0506",
        detail: "there is none".into(),
        hints: vec!["`millrace functions` lists them".into()],
    };
    if app == "a" { Ok(()) } else { Err(unknown()) }
}

#[async_trait]
impl Applications for Asked {
    fn functions(&self) -> FunctionList {
        FunctionList { api: 1, ..FunctionList::default() }
    }

    fn revisions(&self, app: &str, function: &str) -> Result<RevisionList, Refused> {
        self.note(format!("revisions of {app}/{function}"));
        known(app).map(|()| RevisionList { version: 7, ..RevisionList::default() })
    }

    fn aliases(&self, app: &str, _function: &str) -> Result<AliasList, Refused> {
        known(app).map(|()| AliasList::default())
    }

    async fn set_alias(
        &self,
        app: String,
        function: String,
        alias: String,
        target: Target,
    ) -> Result<AliasList, Refused> {
        self.note(format!("{alias} of {app}/{function} to {:?}", target.to));
        Ok(AliasList::default())
    }

    async fn delete_alias(
        &self,
        app: String,
        function: String,
        alias: String,
    ) -> Result<AliasList, Refused> {
        self.note(format!("no {alias} of {app}/{function}"));
        Ok(AliasList::default())
    }

    async fn plan(&self, app: String, proposal: Proposal) -> Result<Plan, Refused> {
        self.note(format!("plan {app} {}", proposal.manifest));
        known(&app).map(|()| Plan { version: 7, ..Plan::default() })
    }

    fn package_bytes_max(&self) -> usize {
        PACKAGE_BYTES_MAX
    }

    async fn receive(&self, digest: String, archive: Bytes) -> Result<(), Refused> {
        self.note(format!("{} bytes for {digest}", archive.len()));
        Ok(())
    }

    async fn deploy(
        &self,
        app: String,
        proposal: Proposal,
        expects: Option<u64>,
    ) -> Result<Deployed, Refused> {
        self.note(format!("deploy {app} {} at {expects:?}", proposal.packages.len()));
        known(&app).map(|()| Deployed { version: 8, ..Deployed::default() })
    }

    async fn roll_back(
        &self,
        app: String,
        function: String,
        target: Target,
        expects: Option<u64>,
    ) -> Result<RolledBack, Refused> {
        self.note(format!("{app}/{function} back to {:?} at {expects:?}", target.to));
        Ok(RolledBack { version: 9, ..RolledBack::default() })
    }

    async fn try_here(&self, trial: Trial) -> Tried {
        self.note(format!("try {}", trial.revision));
        Tried { api: 1, ..Tried::default() }
    }

    async fn remove(&self, app: String, expects: Option<u64>) -> Result<Deployed, Refused> {
        self.note(format!("remove {app} at {expects:?}"));
        known(&app).map(|()| Deployed::default())
    }
}

#[async_trait]
impl Operations for Asked {
    fn upgrade(&self) -> UpgradeStatus {
        UpgradeStatus { format: 1, newest: 2, ..UpgradeStatus::default() }
    }

    async fn finish_upgrade(&self) -> Result<UpgradeStatus, Refused> {
        self.note("finish the upgrade".to_owned());
        Ok(UpgradeStatus { format: 2, newest: 2, ..UpgradeStatus::default() })
    }

    async fn logs(&self, asked: LogQuestion) -> Result<LogLines, Refused> {
        self.note(format!("logs of {:?} from {:?}", asked.function, asked.from));
        Ok(LogLines { next: 8, ..LogLines::default() })
    }

    fn effective(&self) -> Effective {
        Effective { api: 1, ..Effective::default() }
    }

    async fn instances(&self) -> InstanceList {
        InstanceList { api: 1, ..InstanceList::default() }
    }

    async fn examine(&self) -> Examination {
        Examination { api: 1, ..Examination::default() }
    }

    fn triggers(&self) -> TriggerList {
        let lag = |it: &str| TriggerInfo { trigger: it.into(), ..TriggerInfo::default() };
        TriggerList {
            unheard: Vec::new(),
            api: 1,
            triggers: vec![lag("a/f/f"), lag("nobody/knows/it")],
        }
    }

    async fn set_paused(&self, trigger: String, paused: bool) -> Result<TriggerInfo, Refused> {
        self.note(format!("{trigger} paused {paused}"));
        known(trigger.split('/').next().unwrap()).map(|()| TriggerInfo::default())
    }

    async fn seek(&self, trigger: String, to: Begin, asked: Seek) -> Result<Sought, Refused> {
        self.note(format!("{trigger} to {to:?}, partition {:?}", asked.partition));
        Ok(Sought { dry_run: asked.dry_run, ..Sought::default() })
    }

    async fn replay(
        &self,
        trigger: String,
        (from, to): (Begin, Begin),
        asked: Replay,
    ) -> Result<ReplayStatus, Refused> {
        self.note(format!("{trigger} again from {from:?} to {to:?} into {:?}", asked.into));
        Ok(ReplayStatus::default())
    }

    fn replay_status(&self, trigger: &str) -> Option<ReplayStatus> {
        (trigger == "a/f/f").then(ReplayStatus::default)
    }

    fn stop_replay(&self, trigger: &str) {
        self.note(format!("stop {trigger}"));
    }

    async fn dead_letters(
        &self,
        topic: String,
        asked: DeadLetterChoice,
    ) -> Result<DeadLetterList, Refused> {
        self.note(format!("letters of {topic} by {:?} for {:?}", asked.trigger, asked.cause));
        Ok(DeadLetterList::default())
    }

    async fn dead_letter(
        &self,
        topic: String,
        partition: i32,
        offset: i64,
    ) -> Result<DeadLetterInfo, Refused> {
        self.note(format!("letter {topic}[{partition}]@{offset}"));
        known("nobody").map(|()| unreachable!("it is refused"))
    }

    async fn edit_dead_letter(
        &self,
        topic: String,
        partition: i32,
        offset: i64,
        value: Data,
    ) -> Result<DeadLetterInfo, Refused> {
        self.note(format!("{topic}[{partition}]@{offset} is {:?}", value.as_bytes()));
        known("nobody").map(|()| unreachable!("it is refused"))
    }

    async fn redrive(
        &self,
        topic: String,
        asked: Redrive,
        purge: bool,
    ) -> Result<RedriveStatus, Refused> {
        self.note(format!("redrive {topic} purge {purge} rate {:?}", asked.rate));
        Ok(RedriveStatus::default())
    }

    fn redrive_status(&self, topic: &str) -> Option<RedriveStatus> {
        (topic == "in").then(RedriveStatus::default)
    }

    async fn record(
        &self,
        topic: String,
        partition: i32,
        offset: i64,
    ) -> Result<RecordAccount, Refused> {
        self.note(format!("record {topic}[{partition}]@{offset}"));
        Ok(RecordAccount { topic, partition, offset, ..RecordAccount::default() })
    }

    async fn invocation(&self, id: String) -> Result<InvocationInfo, Refused> {
        self.note(format!("invocation {id}"));
        known("nobody").map(|()| unreachable!("it is refused"))
    }

    async fn tail(&self, asked: TailQuestion) -> Result<TailLines, Refused> {
        self.note(format!("tail of {:?} from {:?}", asked.function, asked.from));
        Ok(TailLines::default())
    }

    fn stop_redrive(&self, topic: &str) {
        self.note(format!("stop {topic}"));
    }
}

#[test]
fn what_is_asked_of_replays_reaches_the_node() {
    let served = Served::new();
    let path = "/v1/triggers/a/f/f";
    let asked = json!({"from": "earliest", "to": "9", "into": "x"});
    assert_eq!(served.post(&format!("{path}:replay"), &asked).ok()["state"], "preview");
    let nowhere = json!({"from": "", "to": "latest"});
    served.post(&format!("{path}:replay"), &nowhere).refused(400, "E0513");
    assert_eq!(served.get(&format!("{path}/replay")).ok()["state"], "preview");
    served.get("/v1/triggers/a/f/g/replay").refused(404, "E0506");
    assert_eq!(served.delete(&format!("{path}/replay")).status, 204);
    let expected = ["a/f/f again from Start(Earliest) to Offset(9) into Some(\"x\")", "stop a/f/f"];
    assert_eq!(served.asked.take(), expected);
}

#[test]
fn what_is_asked_of_dead_letters_reaches_the_node() {
    let served = Served::new();
    served.get("/v1/dead-letters/in?trigger=a/f/f&cause=a%20b").ok();
    served.get("/v1/dead-letters/in/1/7").refused(404, "E0506");
    served.put("/v1/dead-letters/in/1/7", br#"{"value":{"$bytes":"/w=="}}"#).refused(404, "E0506");
    served.post("/v1/dead-letters/in:redrive", &json!({"rate": 5})).ok();
    served.post("/v1/dead-letters/in:purge", &json!({})).ok();
    assert_eq!(served.get("/v1/dead-letters/in/redrive").ok()["state"], "preview");
    assert_eq!(served.delete("/v1/dead-letters/in/redrive").status, 204);
    let expected = [
        "letters of in by Some(\"a/f/f\") for Some(\"a b\")",
        "letter in[1]@7",
        "in[1]@7 is [255]",
        "redrive in purge false rate Some(5)",
        "redrive in purge true rate None",
        "stop in",
    ];
    assert_eq!(served.asked.take(), expected);

    served.get("/v1/dead-letters/nowhere").refused(404, "E0404");
    served.get("/v1/dead-letters/nowhere/0/0").refused(404, "E0404");
    served.get("/v1/dead-letters/out/redrive").refused(404, "E0506");
    served.post("/v1/dead-letters/nowhere:redrive", &json!({})).refused(404, "E0404");
    served.post("/v1/dead-letters/in:delete", &json!({})).refused(404, "E0506");
    served.post("/v1/dead-letters/in", &json!({})).refused(404, "E0506");
    for bad in [json!({"rate": 0}), json!({"limit": 0}), json!({"causes": "x"})] {
        served.post("/v1/dead-letters/in:redrive", &bad).refused(400, "E0513");
    }
    served.get("/v1/dead-letters/in?causes=x").refused(400, "E0513");
    served.put("/v1/dead-letters/in/1/7", b"{}").refused(400, "E0513");
    assert!(served.asked.take().is_empty());
}

#[test]
fn what_is_asked_of_records_and_invocations_reaches_the_node() {
    let served = Served::new();
    let account = served.get("/v1/records/in/1/7").ok();
    assert_eq!((&account["topic"], &account["offset"]), (&json!("in"), &json!(7)));
    served.get("/v1/invocations/4-2-118").refused(404, "E0506");
    served.get("/v1/tail?function=f&from=a/f/f@7").ok();
    served.get("/v1/tail?functions=f").refused(400, "E0513");
    let expected =
        ["record in[1]@7", "invocation 4-2-118", "tail of Some(\"f\") from Some(\"a/f/f@7\")"];
    assert_eq!(served.asked.take(), expected);

    served.get("/v1/records/nowhere/1/7").refused(404, "E0404");
    served.get("/v1/records/in/1").refused(404, "E0506");
    assert!(served.asked.take().is_empty());
}

#[test]
fn what_an_operator_asks_reaches_the_node() {
    let served = Served::new();
    let list = served.get("/v1/triggers").ok();
    assert_eq!(list["triggers"][1]["lag"], json!(null), "unknown is not zero");
    assert_eq!(served.get("/v1/doctor").ok()["findings"], json!([]));
    assert_eq!(served.get("/v1/config").ok()["functions"], json!({}));
    assert_eq!(served.get("/v1/instances").ok()["instances"], json!([]));
    assert_eq!(served.get("/v1/logs?function=f&from=7").ok()["next"], 8);
    served.get("/v1/logs?functions=f").refused(400, "E0513");
    served.post("/v1/triggers/a/f/f:pause", &json!({})).ok();
    served.post("/v1/triggers/a/f/f:resume", &json!({})).ok();
    served.post("/v1/triggers/b/f/f:resume", &json!({})).refused(404, "E0506");
    let path = "/v1/triggers/a/f/f:seek";
    let sought = served.post(path, &json!({"to": "7", "partition": 2, "dry_run": true})).ok();
    assert_eq!(sought["dry_run"], true);
    served.post(path, &json!({"to": "latest"})).ok();
    let expected = [
        "logs of Some(\"f\") from Some(7)",
        "a/f/f paused true",
        "a/f/f paused false",
        "b/f/f paused false",
        "a/f/f to Offset(7), partition Some(2)",
        "a/f/f to Start(Latest), partition None",
    ];
    assert_eq!(served.asked.take(), expected);
    for bad in [json!({}), json!({"to": "newest"}), json!({"to": "1", "partitions": 2})] {
        served.post(path, &bad).refused(400, "E0513");
    }
    served.post("/v1/triggers/a/f/f:stop", &json!({})).refused(404, "E0506");
    served.post("/v1/triggers/a/f/f", &json!({})).refused(404, "E0506");
    assert!(served.asked.take().is_empty());
}

#[test]
fn what_is_asked_reaches_the_node_with_its_version() {
    let served = Served::new();
    let proposal = json!({"manifest": "x", "packages": {"f": "0"}});
    let plan = served.post("/v1/apps/a:plan", &proposal);
    assert_eq!((plan.status, plan.tag.as_deref()), (200, Some("\"7\"")), "{plan:?}");
    assert_eq!(served.post("/v1/apps/a:deploy", &proposal).tag.as_deref(), Some("\"8\""));
    for tag in ["\"7\"", "7"] {
        served.post_at("/v1/apps/a:deploy", tag, &proposal).ok();
    }
    served.post_at("/v1/apps/a:deploy", "*", &proposal).ok();
    served.post_at("/v1/functions/a/f:rollback", "\"7\"", &json!({"to": "v3"})).ok();
    served.post("/v1/functions/a/f:rollback", &json!({})).ok();
    served.put("/v1/functions/a/f/aliases/stable", b"{\"to\":\"v3\"}").ok();
    served.delete("/v1/functions/a/f/aliases/stable").ok();
    assert_eq!(served.get("/v1/functions/a/f/revisions").tag.as_deref(), Some("\"7\""));
    served.get("/v1/functions/a/f/aliases").ok();
    assert_eq!(served.put("/v1/packages/00", &[0; PACKAGE_BYTES_MAX]).status, 204);
    let trial = json!({"spec": "{}", "revision": "9f2", "package": "00"});
    assert_eq!(served.post("/v1/node:try", &trial).ok()["lacks"], json!([]));
    served.delete("/v1/apps/a").ok();
    assert_eq!(served.get("/v1/functions").ok()["api"], 1);
    let expected = [
        "plan a x",
        "deploy a 1 at None",
        "deploy a 1 at Some(7)",
        "deploy a 1 at Some(7)",
        "deploy a 1 at None",
        "a/f back to Some(\"v3\") at Some(7)",
        "a/f back to None at None",
        "stable of a/f to Some(\"v3\")",
        "no stable of a/f",
        "revisions of a/f",
        "1000 bytes for 00",
        "try 9f2",
        "remove a at None",
    ];
    assert_eq!(served.asked.take(), expected);
}

#[test]
fn what_cannot_be_asked_is_refused_here_and_the_rest_by_the_node() {
    let served = Served::new();
    let proposal = json!({"manifest": "x", "packages": {}});
    served.post_at("/v1/apps/a:deploy", "\"seven\"", &proposal).refused(400, "E0513");
    served.post("/v1/apps/a:deploy", &json!({"manifest": "x"})).refused(400, "E0513");
    served.post("/v1/apps/a:deploy", &json!({"manifests": "x"})).refused(400, "E0513");
    served.post("/v1/apps/a:undo", &proposal).refused(404, "E0506");
    served.post("/v1/apps/a", &proposal).refused(404, "E0506");
    served.post("/v1/functions/a/f", &json!({})).refused(404, "E0506");
    served.get("/v1/apps/a").refused(405, "E0506");
    served.put("/v1/packages/00", &[0; PACKAGE_BYTES_MAX + 1]).refused(413, "E0513");
    assert!(served.asked.take().is_empty());

    let unknown = served.post("/v1/apps/b:deploy", &proposal);
    unknown.refused(404, "E0506");
    assert_eq!(unknown.json()["hints"], json!(["`millrace functions` lists them"]));
    served.post("/v1/apps/b:plan", &proposal).refused(404, "E0506");
    served.get("/v1/functions/b/f/revisions").refused(404, "E0506");
    served.delete("/v1/apps/b").refused(404, "E0506");
    for path in ["/v1/functions", "/v1/functions/a/f/revisions"] {
        let answer = served.raw(
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        );
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
}
