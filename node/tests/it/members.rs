//! Nodes of a cluster as an operator meets them: real processes on loopback that are founded,
//! joined, killed, removed and wiped.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use exchange::{Authority, Identity, Life};
use serde_json::{Value, json};

use crate::harness::{Said, User, ended};

const PATIENCE: Duration = Duration::from_secs(90);

fn pause(time: Duration) {
    let until = Instant::now() + time;
    while Instant::now() < until {
        std::thread::park_timeout(until.saturating_duration_since(Instant::now()));
    }
}

/// A cluster of one user's nodes, each with a folder and a port of its own.
struct Nodes {
    user: User,
    ports: Vec<u16>,
    running: Vec<Option<Child>>,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl Nodes {
    /// `edge-0` founded it and runs.
    fn found() -> Self {
        let mut nodes = Self { user: User::new(), ports: Vec::new(), running: Vec::new() };
        let at = nodes.place();
        let line = format!("init --data n0 --name edge-0 --cluster mill --peers-listen {at}");
        let said = nodes.user.run(&line).ok();
        assert!(said.starts_with("founded cluster mill-") && said.contains("serve --data n0"));
        nodes.serve(0);
        nodes.until("it leads", 0, |list| list[0]["leads"] == json!(true));
        nodes
    }

    /// A port that was free just now.
    fn place(&mut self) -> String {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        self.ports.push(port);
        self.running.push(None);
        format!("127.0.0.1:{port}")
    }

    fn data(&self, number: usize) -> PathBuf {
        self.user.folder().join(format!("n{number}"))
    }

    fn serve(&mut self, number: usize) {
        let mut command = self.user.command(&format!("serve --data n{number}"));
        let log = std::fs::File::options()
            .append(true)
            .create(true)
            .open(self.user.folder().join(format!("log{number}")))
            .unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.running[number] = Some(child.unwrap());
    }

    fn kill(&mut self, number: usize) {
        let mut child = self.running[number].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn token(&self, from: usize) -> String {
        let said = self.user.run(&format!("node token --node edge-{from}"));
        assert_eq!(said.status, Some(0), "{said:?}");
        assert!(said.err.contains("next: "), "{said:?}");
        said.out.trim().to_owned()
    }

    fn try_join(&mut self, token: &str, name: &str, through: usize) -> (usize, Said) {
        let peer = self.ports[through];
        let at = self.place();
        let number = self.running.len() - 1;
        let line = format!(
            "join {token} --peer 127.0.0.1:{peer} --data n{number} --name {name} --peers-listen {at}"
        );
        (number, self.user.run(&line))
    }

    fn join(&mut self, through: usize) -> usize {
        let (token, name) = (self.token(through), format!("edge-{}", self.running.len()));
        let (number, said) = self.try_join(&token, &name, through);
        said.ok();
        self.serve(number);
        self.until_votes(through, &name);
        number
    }

    fn until_votes(&self, ask: usize, name: &str) {
        self.until(&format!("{name} votes"), ask, |list| {
            list.iter().any(|it| it["name"] == json!(name) && it["role"] == json!("voter"))
        });
    }

    /// What a command prints as JSON, however it ends.
    #[track_caller]
    fn json(&self, line: &str) -> Value {
        let said = self.user.run(&format!("{line} -o json"));
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{line}: {error}: {said:?}"))
    }

    fn list(&self, ask: usize) -> Option<Vec<Value>> {
        let said = self.user.run(&format!("node list -o json --node edge-{ask}"));
        let list: Value = serde_json::from_str(&said.out).ok()?;
        list["members"].as_array().cloned()
    }

    #[track_caller]
    fn until(&self, what: &str, ask: usize, so: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            let list = self.list(ask);
            if let Some(list) = list.clone().filter(|list| so(list)) {
                return list;
            }
            let log = |it| std::fs::read_to_string(self.user.folder().join(it)).unwrap_or_default();
            assert!(
                Instant::now() < until,
                "not {what}: {list:?}\n{}\n{}",
                log("log0"),
                log("log1")
            );
            pause(Duration::from_millis(100));
        }
    }
}

#[test]
fn three_nodes_form_a_cluster_that_outlives_its_leader_and_one_that_lost_its_disk_stays_out() {
    let mut nodes = Nodes::found();
    nodes.user.run("init --data n0 --peers-listen 127.0.0.1:7400").failed(5, "E0575");
    let used = nodes.token(0);
    let (first, said) = nodes.try_join(&used, "edge-1", 0);
    said.ok();
    nodes.try_join(&used, "edge-9", 0).1.failed(4, "E0574");
    nodes.running.pop();
    nodes.ports.pop();
    nodes.serve(first);
    // Whoever knows that it votes lets others in.
    nodes.until_votes(1, "edge-1");
    let second = nodes.join(1);
    let kept = nodes.user.folder().join("kept");
    std::fs::create_dir(&kept).unwrap();
    for file in std::fs::read_dir(nodes.data(second).join("cluster")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), kept.join(file.file_name())).unwrap();
    }

    nodes.kill(0);
    let killed = Instant::now();
    let drained = nodes.user.run("node drain edge-1 --node edge-2").ok();
    assert!(drained.contains("draining"), "{drained}");
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    let list = nodes.until("its silence is seen", 1, |list| list[0]["state"] == json!("unheard"));
    assert_eq!(list.len(), 3);
    nodes.serve(0);
    // `init` has opened its log once.
    nodes.until("it is back", 0, |list| {
        list.iter().all(|it| it["state"] == json!("up")) && list[0]["starts"] == json!(3)
    });
    nodes.user.run("node undrain edge-1 --node edge-0").ok();
    let leads = nodes.user.run("raft transfer edge-0 --node edge-1").ok();
    assert_eq!(leads, "edge-0 leads\n");

    // Its disk is gone; what it shows of itself was in a backup.
    nodes.kill(second);
    std::fs::remove_dir_all(nodes.data(second)).unwrap();
    std::fs::create_dir(nodes.data(second)).unwrap();
    std::fs::rename(&kept, nodes.data(second).join("cluster")).unwrap();
    nodes.serve(second);
    let mut child = nodes.running[second].take().unwrap();
    assert_eq!(ended(&mut child).code(), Some(78), "CLU-6");
    let log = std::fs::read_to_string(nodes.user.folder().join(format!("log{second}"))).unwrap();
    assert!(log.contains("error[E0423]"), "{log}");
    nodes.user.run("node remove edge-2 --node edge-1").ok();
    nodes.user.run("node remove edge-2 --node edge-1").failed(3, "E0572");
    // Its id is never used again.
    let third = nodes.join(0);
    let list = nodes.list(1).unwrap();
    assert_eq!(list.iter().map(|it| it["id"].clone()).collect::<Vec<_>>(), [1, 2, 4]);

    // One that is removed while it runs is told, and does not come back.
    let name = format!("edge-{third}");
    nodes.user.run(&format!("node remove {name} --node edge-0")).ok();
    let mut child = nodes.running[third].take().unwrap();
    assert_eq!(ended(&mut child).code(), Some(78));
    nodes.serve(third);
    let mut child = nodes.running[third].take().unwrap();
    assert_eq!(ended(&mut child).code(), Some(78));

    // Without a quorum nothing is changed, and it says so.
    nodes.kill(1);
    pause(Duration::from_secs(3));
    nodes.user.run("node remove edge-1 --node edge-0").failed(6, "E0570");
    let status = nodes.user.run("raft status --node edge-0").ok();
    assert!(status.contains("voters      edge-0, edge-1"), "{status}");
}

#[test]
fn any_node_answers_for_all_and_names_the_one_that_is_silent() {
    let mut nodes = Nodes::found();
    nodes.join(0);
    let third = nodes.join(0);
    let names = |list: &Value, field: &str| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.map(|it| it[field].as_str().unwrap_or_default().to_owned()).collect()
    };
    // All of them run here, and all answer alike: none has to be named.
    let status = nodes.json("status");
    assert_eq!(names(&status["nodes"], "node"), ["edge-0", "edge-1", "edge-2"], "{status}");
    assert_eq!(status["unheard"], Value::Null, "{status}");
    let shown = nodes.user.run("status").ok();
    assert!(shown.starts_with("CLUSTER mill-") && shown.contains("\nedge-2  "), "{shown}");
    let mut found = names(&nodes.json("doctor")["findings"], "node");
    found.dedup();
    assert_eq!(found, ["edge-0", "edge-1", "edge-2"]);
    // One of them alone, also by way of another.
    let one = nodes.json("status --node edge-1");
    assert_eq!((&one["node"]["name"], &one["nodes"]), (&json!("edge-1"), &Value::Null));
    let log = nodes.json("raft status --node edge-0");
    assert_eq!(log["name"], json!("edge-0"));
    nodes.user.run("status --node edge-9").failed(3, "E0572");

    nodes.kill(third);
    for line in ["status", "lag", "ps", "trigger list"] {
        let asked_at = Instant::now();
        let (said, took) = (nodes.json(line), asked_at.elapsed());
        assert_eq!(names(&said["unheard"], "node"), ["edge-2"], "{line}: {said}");
        assert!(took < Duration::from_secs(5), "{line} took {took:?}");
    }
    let shown = nodes.user.run("status").ok();
    assert!(shown.contains("degraded") && shown.contains("edge-2 does not answer"), "{shown}");
    let doctor = nodes.user.run("doctor");
    assert_eq!(doctor.status, Some(1), "{doctor:?}");
    assert!(doctor.out.contains("fail  edge-2  node"), "{doctor:?}");
    nodes.user.run("lag --node edge-2").failed(6, "E0578");
    let logs = nodes.user.run("logs -n 5");
    assert!(logs.status == Some(0) && logs.err.contains("edge-2 does not answer"), "{logs:?}");
    // It is back, and heard again.
    nodes.serve(third);
    let until = Instant::now() + PATIENCE;
    while nodes.json("status")["unheard"] != Value::Null {
        assert!(Instant::now() < until, "it is not heard again");
        pause(Duration::from_millis(100));
    }
}

#[test]
fn one_node_goes_on_without_a_quorum_that_is_lost_for_good_and_the_old_ones_stay_out() {
    let mut nodes = Nodes::found();
    let (first, second) = (nodes.join(0), nodes.join(0));
    let recover = |nodes: &Nodes, more: &str| nodes.user.run(&format!("raft recover {more}"));
    recover(&nodes, "--data n0").failed(1, "E0402");
    recover(&nodes, "--data nowhere").failed(5, "E0575");
    nodes.until("edge-0 has the CA", 0, |_| nodes.data(0).join("cluster/ca.json").exists());
    for number in [first, second] {
        nodes.kill(number);
    }
    pause(Duration::from_secs(3));
    nodes.user.run("node drain edge-1 --node edge-0").failed(6, "E0570");
    nodes.kill(0);

    // Survivors are compared by what their logs hold; nothing is changed by it.
    let survey = |nodes: &Nodes, number: usize| -> Value {
        let said = recover(nodes, &format!("--data n{number} -o json")).ok();
        serde_json::from_str(&said).unwrap()
    };
    let found = survey(&nodes, 0);
    assert_eq!(found, survey(&nodes, 0));
    assert_eq!((&found["recovered"], &found["node"]), (&json!(false), &json!("edge-0")));
    assert_eq!(found["removes"], json!([{"id": 2, "name": "edge-1"}, {"id": 3, "name": "edge-2"}]));
    let place = |found: &Value| {
        (found["last"]["term"].as_u64().unwrap(), found["last"]["index"].as_u64().unwrap())
    };
    assert!(place(&survey(&nodes, first)) <= place(&found), "it led to the end: {found}");
    assert!(found["committed"].as_u64().unwrap() <= place(&found).1);
    assert!(found["in_doubt"].is_array(), "{found}");
    let told = recover(&nodes, "--data n0").ok();
    for part in ["removes    edge-1 (id 2), edge-2 (id 3)", "nothing was changed", "--yes"] {
        assert!(told.contains(part), "{told}");
    }

    let told = recover(&nodes, "--data n0 --yes").ok();
    assert!(told.contains("edge-0 is the only node of the cluster now"), "{told}");
    recover(&nodes, "--data n0 --yes").failed(5, "E0580");
    nodes.serve(0);
    let list = nodes.until("it leads", 0, |list| list[0]["leads"] == json!(true));
    assert_eq!(list.len(), 1, "{list:?}");
    nodes.user.run("node drain edge-0 --node edge-0").ok();
    nodes.user.run("node undrain edge-0 --node edge-0").ok();

    // Those that were thought to be dead come back, and are a majority of what they know: each is
    // told, and ends.
    for number in [first, second] {
        nodes.serve(number);
    }
    for number in [first, second] {
        let mut child = nodes.running[number].take().unwrap();
        assert_eq!(ended(&mut child).code(), Some(78));
        let log = nodes.user.folder().join(format!("log{number}"));
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("error[E0424]"), "{log}");
    }
    let refused = std::fs::read_to_string(nodes.user.folder().join("log0")).unwrap();
    assert!(refused.contains("removed-member") || refused.contains("removed"), "{refused}");
    // Others join, under ids that nobody had.
    nodes.join(0);
    let list = nodes.list(0).unwrap();
    assert_eq!(list.iter().map(|it| it["id"].clone()).collect::<Vec<_>>(), [1, 104]);
}

#[test]
fn a_certificate_is_renewed_without_a_restart_and_its_node_is_heard_all_the_time() {
    let mut nodes = Nodes::found();
    let other = nodes.join(0);
    nodes.kill(other);
    // As if it had been issued 25 of 30 days ago.
    let folder = nodes.data(other).join("cluster");
    let file = folder.join("identity.json");
    let authority = Authority::load(&nodes.data(0).join("cluster/ca.json")).unwrap();
    let identity = Identity::load(&file).unwrap();
    let now = u64::try_from(bus::Timestamp::now().0 / 1_000).unwrap();
    let old = Life::new(now - 25 * 24 * 3_600, 30 * 24 * 3_600);
    let issued = authority.issue(identity.name(), &identity.public_key(), old).unwrap();
    identity.renewed(issued, authority.certificate().clone()).unwrap().save(&file).unwrap();
    nodes.serve(other);
    let until = Instant::now() + PATIENCE;
    while Identity::load(&file).unwrap().life().until <= old.until {
        assert!(Instant::now() < until, "it is not renewed");
        pause(Duration::from_millis(100));
    }
    nodes.until("both are up", 0, |list| list.iter().all(|it| it["state"] == json!("up")));
}

#[test]
fn a_node_that_is_alone_says_so() {
    let user = User::new();
    user.start("greenhouse");
    for line in ["node list", "node token", "raft status", "ca status", "ca rotate"] {
        user.run(line).failed(5, "E0575");
    }
    user.run("join mrj1-nonsense --peer 127.0.0.1:1 --data x --peers-listen 127.0.0.1:7400")
        .failed(4, "E0574");
    user.run("init --data x --peers-listen 0.0.0.0:7400").failed(2, "E0111");
}
