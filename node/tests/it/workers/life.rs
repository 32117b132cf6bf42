//! No process outlives its node: neither a worker, nor what it started, whoever is killed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{Function, Ground, call_each, within};

/// Its children: one that stays, one that leaves the session and is left by its parent.
const FAMILY: &str = r#"
import os, signal, subprocess, sys, time

MARK = sys.argv[0] = os.environ["MARK"]
subprocess.Popen(["/bin/sh", "-c", f"trap '' TERM; sleep 300 #{MARK}; true"])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/bin/sh", ["sh", "-c", f"trap '' TERM HUP; sleep 300 #{MARK}; true"])
    os._exit(0)

def handler(value, context):
    if value == "exit":
        os._exit(0)
    return value
"#;

/// Processes whose command line has this mark in it.
fn marked(mark: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|it| std::fs::read(it.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(mark)).count()
}

/// The children of a process, as far as the kernel tells.
fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    text.unwrap().split_whitespace().map(|it| it.parse().unwrap()).collect()
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// A mark that no other test has.
fn mark(of: &str) -> String {
    format!("mark-{}-{of}", std::process::id())
}

struct Node {
    child: Child,
    dir: tempfile::TempDir,
}

/// A node of the binary with a function that has a family.
fn start_node(mark: &str) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let app = dir.path().join("app");
    std::fs::create_dir_all(app.join("f")).unwrap();
    std::fs::write(app.join("f/app.py"), FAMILY).unwrap();
    let manifest = format!(
        "[app]\nname = \"family\"\n[topic.in]\npartitions = 1\n[function.f]\n\
         runtime = \"python3\"\npath = \"f\"\nhandler = \"app.handler\"\n\
         env = {{ MARK = \"{mark}\" }}\n[[function.f.trigger]]\ntopics = [\"in\"]\n"
    );
    std::fs::write(app.join("millrace.toml"), manifest).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_millrace"))
        .args(["serve", "--app"])
        .arg(&app)
        .arg("--data")
        .arg(dir.path().join("data"))
        .env("XDG_STATE_HOME", dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    within(Duration::from_secs(20), "the family is there", || marked(mark) == 2);
    within(Duration::from_secs(20), "the node is ready", || {
        let mut status = Command::new(env!("CARGO_BIN_EXE_millrace"));
        status.args(["status", "-o", "json"]).env("XDG_STATE_HOME", dir.path());
        String::from_utf8_lossy(&status.output().unwrap().stdout).contains("python3")
    });
    Node { child, dir }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may be dead already: that is the test.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The promise: two seconds.
const LIMIT: Duration = Duration::from_secs(2);

#[test]
fn a_killed_node_takes_its_workers_with_it() {
    let mark = mark("node");
    let node = start_node(&mark);
    kill(node.child.id());
    within(LIMIT, "all are gone", || marked(&mark) == 0);
}

#[test]
fn a_node_and_a_spawner_killed_at_once_take_their_workers_with_them() {
    let mark = mark("both");
    let node = start_node(&mark);
    let spawners = children(node.child.id());
    assert_eq!(spawners.len(), 1, "a node's one child is its spawner");
    for pid in [spawners[0], node.child.id()] {
        kill(pid);
    }
    within(LIMIT, "all are gone", || marked(&mark) == 0);
}

#[test]
fn a_node_that_is_told_to_end_leaves_nothing() {
    let mark = mark("term");
    let mut node = start_node(&mark);
    let pid = Pid::from_raw(i32::try_from(node.child.id()).unwrap()).unwrap();
    let scratch = node.dir.path().join("data/workers/scratch");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 1);
    kill_process(pid, Signal::TERM).unwrap();
    node.child.wait().unwrap();
    assert_eq!(marked(&mark), 0, "at once: it waited for them");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_spawner_is_replaced_and_its_workers_are_gone() {
    let ground = Ground::new();
    let mark = mark("spawner");
    let files = [("app.py", FAMILY)];
    let env = [("MARK", mark.as_str())];
    let function = Function { env: &env, ..Function::python(&files) };
    let pool = ground.pool(&function).await;
    assert_eq!(call_each(&pool, &["1"]).await.unwrap().ends, ["ok"]);
    within(LIMIT, "the family is there", || marked(&mark) == 2);
    let before = ground.workers.spawner_pid();
    kill(before);
    within(LIMIT, "all are gone", || marked(&mark) == 0);
    let answered = call_each(&pool, &["2"]).await.unwrap();
    assert_eq!(answered.ends, ["ok"], "nobody is charged for it");
    assert_ne!(ground.workers.spawner_pid(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_started_ends_with_it() {
    for has_namespaces in [true, false] {
        let ground = if has_namespaces { Ground::new() } else { Ground::without_namespaces() };
        let mark = mark(if has_namespaces { "worker" } else { "adopted" });
        let files = [("app.py", FAMILY)];
        let env = [("MARK", mark.as_str())];
        let function = Function { env: &env, ..Function::python(&files) };
        let pool = ground.pool(&function).await;
        pool.try_start().await.unwrap();
        within(LIMIT, "the family is there", || marked(&mark) == 2);
        call_each(&pool, &["\"exit\""]).await.unwrap_err();
        within(LIMIT, "all are gone", || marked(&mark) == 0);
        drop(pool);
        ground.workers.wait_gone(LIMIT).await;
        let scratch = ground.dir.path().join("workers/scratch");
        assert_eq!(entries(&scratch), 0, "no scratch folder is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_namespaces_too_nothing_outlives_the_spawner_or_the_pool() {
    let ground = Ground::without_namespaces();
    let mark = mark("plain");
    let files = [("app.py", FAMILY)];
    let env = [("MARK", mark.as_str())];
    let function = Function { env: &env, ..Function::python(&files) };
    let pool = ground.pool(&function).await;
    pool.try_start().await.unwrap();
    within(LIMIT, "the family is there", || marked(&mark) == 2);
    kill(ground.workers.spawner_pid());
    within(LIMIT, "all are gone", || marked(&mark) == 0);
    call_each(&pool, &["1"]).await.unwrap();
    within(LIMIT, "the family is there again", || marked(&mark) == 2);
    pool.drain().await;
    within(LIMIT, "all are gone", || marked(&mark) == 0);
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}
