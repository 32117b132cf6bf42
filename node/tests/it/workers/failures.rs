//! Each way in which a process can fail, by the name that the Runtime API has for it.

use std::time::Duration;

use frame::Order;
use runtime::{FailureKind, Invoke as _, Language};

use super::{Function, Ground, JSON, PATIENCE, call, call_each};

const PYTHON: &str = r#"
import os, time

def handler(value, context):
    if value == "exit":
        os._exit(3)
    if value == "exit well":
        os._exit(0)
    if value == "system exit":
        raise SystemExit(4)
    if value == "kill":
        os.kill(os.getpid(), 9)
    if value == "abort":
        os.abort()
    if value == "sleep":
        time.sleep(60)
    if value == "close":
        os.close(3)
        time.sleep(60)
    if value == "eat":
        hoard = []
        while True:
            hoard.append(b"x" * (8 << 20))
    if value == "shout":
        os.write(1, b"y" * (1 << 20))
    return os.getpid()
"#;

const JAVASCRIPT: &str = r#"
exports.handler = (value) => {
  if (value === "exit") process.exit(3);
  if (value === "exit well") process.exit(0);
  if (value === "abort") process.abort();
  if (value === "sleep") for (;;);
  if (value === "uncaught") { setTimeout(() => { throw new Error("late"); }, 1); return new Promise(() => {}); }
  if (value === "rejected") { Promise.reject(new Error("lost")); return new Promise(() => {}); }
  if (value === "eat") { const hoard = []; for (;;) hoard.push(Buffer.alloc(8 << 20, 1)); }
  return process.pid;
};
"#;

/// Each value, the kind of its failure, and how it is told.
type Cases = [(&'static str, FailureKind, &'static str, &'static str)];

async fn fails(function: &Function<'_>, cases: &Cases) {
    let ground = Ground::new();
    let pool = ground.pool(function).await;
    for (value, kind, code, message) in cases {
        let value = format!("\"{value}\"");
        let records = [(None, value.as_str())];
        let limit = Duration::from_millis(1_500);
        let limit = if value.contains("eat") { PATIENCE } else { limit };
        let failure = call(&pool, JSON, Order::Key, limit, &records).await.unwrap_err();
        assert_eq!((failure.kind, failure.code()), (*kind, *code), "{value}: {failure}");
        assert!(failure.message.contains(message), "{value}: {failure}");
        assert!(failure.kind.is_charged(), "{value}");
        let answered = call_each(&pool, &["1"]).await.unwrap();
        assert_eq!(answered.ends, ["ok"], "after {value} another process runs");
    }
    assert_eq!(pool.stats().started, cases.len() as u64 + 1);
}

const EXIT: &str = "Runtime.ExitError";

#[tokio::test]
async fn every_end_of_a_python_process_has_its_name() {
    let cases = [
        ("exit", FailureKind::Crash, EXIT, "exit status 3"),
        ("exit well", FailureKind::Crash, EXIT, "without providing a reason"),
        ("system exit", FailureKind::Crash, EXIT, "exit status 4"),
        ("kill", FailureKind::Crash, EXIT, "signal: killed"),
        ("abort", FailureKind::Crash, EXIT, "signal: aborted"),
        ("sleep", FailureKind::Timeout, "Sandbox.Timedout", "Task timed out after 1.50 seconds"),
        ("close", FailureKind::Timeout, "Sandbox.Timedout", "RequestId: "),
        ("eat", FailureKind::OutOfMemory, "Runtime.OutOfMemory", "256 MiB"),
    ];
    fails(&Function::python(&[("app.py", PYTHON)]), &cases).await;
}

#[tokio::test]
async fn every_end_of_a_node_process_has_its_name() {
    let cases = [
        ("exit", FailureKind::Crash, EXIT, "exit status 3"),
        ("exit well", FailureKind::Crash, EXIT, "without providing a reason"),
        ("abort", FailureKind::Crash, EXIT, "signal: aborted"),
        ("sleep", FailureKind::Timeout, "Sandbox.Timedout", "Task timed out after 1.50 seconds"),
        ("uncaught", FailureKind::Crash, EXIT, "exit status"),
        ("rejected", FailureKind::Crash, EXIT, "exit status 128"),
        ("eat", FailureKind::OutOfMemory, "Runtime.OutOfMemory", "256 MiB"),
    ];
    fails(&Function::node(&[("index.js", JAVASCRIPT)]), &cases).await;
}

#[tokio::test]
async fn where_there_are_no_control_groups_the_node_sees_to_the_limit() {
    // A child of the worker counts for it, in whatever session it is.
    let child = "import subprocess, sys\n\
        EAT = \"import time; hoard = b'x' * (300 << 20); time.sleep(60)\"\n\
        def handler(value, context):\n\
        \x20   if value == 'child':\n\
        \x20       subprocess.run([sys.executable, '-c', EAT], start_new_session=True)\n\
        \x20   return value\n";
    for (code, value) in [(PYTHON, "\"eat\""), (child, "\"child\"")] {
        let ground = Ground::without_control_groups();
        let pool = ground.pool(&Function::python(&[("app.py", code)])).await;
        let failure = call_each(&pool, &[value]).await.unwrap_err();
        assert_eq!(failure.code(), "Runtime.OutOfMemory", "{failure}");
        assert_eq!(call_each(&pool, &["1"]).await.unwrap().ends, ["ok"]);
    }
}

#[tokio::test]
async fn what_is_written_without_an_end_is_cut_and_harms_nothing() {
    let ground = Ground::new();
    let pool = ground.pool(&Function::python(&[("app.py", PYTHON)])).await;
    let answered = call_each(&pool, &["\"shout\""]).await.unwrap();
    assert_eq!(answered.ends, ["ok"]);
    let log = ground.log();
    let cut = "more than 64 KiB of log: the rest is left out";
    assert!(log.iter().any(|line| line == cut), "{} lines", log.len());
    assert!(log.iter().map(String::len).sum::<usize>() < 70 << 10);
    call_each(&pool, &["1"]).await.unwrap();
    assert_eq!(pool.stats().started, 1, "the same process goes on");
}

/// A start that fails: the code that a function's author is told, and part of the message.
async fn cannot_start(function: &Function<'_>, code: &str, message: &str) {
    let ground = Ground::new();
    let pool = ground.pool(function).await;
    let failure = pool.try_start().await.unwrap_err();
    assert_eq!((failure.kind, failure.code()), (FailureKind::Start, code), "{failure}");
    assert!(failure.message.contains(message), "{failure}");
    assert!(!failure.kind.is_charged());
    let again = call_each(&pool, &["1"]).await.unwrap_err();
    assert!(again.message.contains("tried again in 1 s"), "{again}");
    assert_eq!(again.code(), code);
}

#[tokio::test]
async fn a_python_function_that_cannot_start_says_why() {
    let python = |code| Function::python(code);
    let absent = [("app.py", "import nowhere_to_be_found")];
    cannot_start(
        &python(&absent),
        "Runtime.ImportModuleError",
        "Unable to import module 'app': No module named 'nowhere_to_be_found'",
    )
    .await;
    cannot_start(&python(&[("app.py", "x = 1")]), "Runtime.HandlerNotFound", "'handler' missing")
        .await;
    let code = "Runtime.UserCodeSyntaxError";
    cannot_start(&python(&[("app.py", "def f(:\n")]), code, "Syntax error in module 'app'").await;
    cannot_start(&python(&[("app.py", "1 / 0")]), "ZeroDivisionError", "division by zero").await;
    cannot_start(&python(&[("app.py", "raise SystemExit(5)")]), EXIT, "exit status 5").await;
    let function = Function { handler: "app", ..python(&[("app.py", "")]) };
    cannot_start(&function, "Runtime.MalformedHandlerName", "Bad handler 'app'").await;
}

#[tokio::test]
async fn a_node_function_that_cannot_start_says_why() {
    let node = |code| Function::node(code);
    let absent = [("index.js", "require('nowhere')")];
    cannot_start(&node(&absent), "Runtime.ImportModuleError", "Cannot find module 'nowhere'").await;
    let absent = [("index.mjs", "import 'nowhere'")];
    cannot_start(&node(&absent), "Runtime.ImportModuleError", "Cannot find package 'nowhere'")
        .await;
    cannot_start(&node(&[("index.js", "x = 1")]), "Runtime.HandlerNotFound", "not exported").await;
    let code = "Runtime.UserCodeSyntaxError";
    cannot_start(&node(&[("index.js", "const = 1")]), code, "SyntaxError").await;
    cannot_start(&node(&[("index.js", "throw new RangeError('x')")]), "RangeError", "x").await;
    cannot_start(&node(&[("index.js", "process.exit(5)")]), EXIT, "exit status 5").await;
    let function = Function { handler: "index", ..node(&[("index.js", "")]) };
    cannot_start(&function, "Runtime.MalformedHandlerName", "Bad handler 'index'").await;
}

#[tokio::test]
async fn an_executable_that_cannot_run_says_why() {
    let provided = |code| Function::provided(code);
    let code = "Runtime.InvalidEntrypoint";
    cannot_start(&provided(&[("other", "")]), code, "No such file").await;
    cannot_start(&provided(&[("bootstrap", "no format")]), code, "Exec format error").await;
    cannot_start(&provided(&[("bootstrap", "#!/bin/sh\nexit 7\n")]), EXIT, "exit status 7").await;
}

#[tokio::test]
async fn a_start_that_takes_too_long_is_given_a_second_chance_and_no_third() {
    let ground = Ground::new();
    let code = "import time, os\nprint('begins', flush=True)\n\
        time.sleep(float(os.environ['PAUSE']))\ndef handler(value, context):\n    return value\n";
    let files = [("app.py", code)];
    let base = || Function {
        start_max: Duration::from_millis(300),
        timeout: Duration::from_secs(2),
        ..Function::python(&files)
    };
    let slow = Function { env: &[("PAUSE", "0.8")], ..base() };
    let pool = ground.pool(&slow).await;
    assert_eq!(call_each(&pool, &["1"]).await.unwrap().ends, ["ok"]);
    assert_eq!(ground.log().len(), 2, "two processes began");
    let slower = Function { env: &[("PAUSE", "9")], ..base() };
    let pool = ground.pool(&slower).await;
    let failure = call_each(&pool, &["1"]).await.unwrap_err();
    assert_eq!((failure.kind, failure.code()), (FailureKind::Start, "Sandbox.Timedout"));
    assert!(failure.message.contains("did not start within 2.00 seconds"), "{failure}");
}

#[tokio::test]
async fn an_interpreter_that_is_not_there_is_named() {
    let ground = Ground::new();
    let missing = ground.workers.program(Language::Python(Some(99))).await.unwrap_err();
    assert!(missing.to_string().contains("looked for `python3.99` in "), "{missing}");
}
