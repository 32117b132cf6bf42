//! How commands end, and how they find their node.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use millrace::discovery::NodeFile;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{User, ended};

#[test]
fn help_and_versions_are_successes_and_misuse_is_not() {
    let user = User::new();
    let help = user.run("--help").ok();
    assert!(help.starts_with("Examples:\n"), "{help}");
    assert!(user.run("produce --help").ok().starts_with("Examples:\n"));
    assert_eq!(user.run("--version").ok(), format!("millrace {}\n", env!("CARGO_PKG_VERSION")));
    for line in ["", "prodcue", "produce", "lag --outptu json", "lag -o yaml", "consume t -n 0"] {
        let said = user.run(line);
        assert_eq!(said.status, Some(2), "{said:?}");
        assert!(said.out.is_empty() && !said.err.is_empty(), "{said:?}");
    }
    assert!(user.run("prodcue").err.contains("produce"));
}

#[test]
fn event_match_ends_as_its_records_match() {
    let user = User::new();
    let hot = r#"event match --pattern {"value":{"c":[{"numeric":[">",30]}]}}"#;
    assert_eq!(user.run(&format!(r#"{hot} {{"c":34.2}}"#)).ok(), "match     {\"c\":34.2}\n");
    let said = user.run(&format!(r#"{hot} {{"c":34.2}} {{"c":21}}"#));
    assert_eq!(said.status, Some(1), "{said:?}");
    assert!(
        said.out.ends_with("   value.c is 21, wanted [{\"numeric\":[\">\",30]}]\n"),
        "{said:?}"
    );
    assert!(said.err.is_empty(), "{said:?}");
    let said = user.run(&format!(r#"{hot} {{"c":21}} -o json"#));
    let verdicts: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(verdicts[0]["unmet"][0]["missed"][0]["found"], serde_json::json!([21]), "{said:?}");
    user.run(r#"event match --pattern {"value":{"c":30}} 1"#).failed(2, "E0221");
    user.run("event match --trigger hot 1").failed(78, "E0201");
}

#[test]
fn without_a_node_commands_say_how_to_start_one() {
    let user = User::new();
    for line in [
        "status",
        "lag",
        "topic list",
        "topic create a",
        "topic describe a",
        "topic delete a",
        "produce a b",
        "consume a -n 1",
        "status --node x",
        "functions",
        "rollback a/b",
        "alias list a/b",
        "remove a",
    ] {
        let said = user.run(line);
        said.failed(6, "E0502");
        let binary = env!("CARGO_BIN_EXE_millrace");
        assert!(said.err.contains(&format!("{binary} dev ")), "as it can be typed: {said:?}");
    }
}

#[test]
fn a_node_is_found_by_its_name_its_folder_or_its_url() {
    let user = User::new();
    let one = user.start("greenhouse");
    user.run("topic list").ok();
    let other = user.start("glasshouse");
    let said = user.run("topic list");
    said.failed(2, "E0504");
    assert!(said.err.contains(&one.url) && said.err.contains(&other.url), "{said:?}");
    assert!(!said.err.contains(&one.token), "{said:?}");
    user.run("topic list --node g").failed(2, "E0507");
    user.run("topic list --node x").failed(3, "E0506");
    for node in ["gr", "greenhouse", &one.url, &one.data_dir] {
        user.run(&format!("topic create made-by-{} --node {node}", node.len())).ok();
    }
    let list = user.command("topic list").env("MILLRACE_NODE", "green").output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert_eq!(list.lines().filter(|line| line.starts_with("made-by-")).count(), 4, "{list}");
    assert!(!user.run("topic list --node glasshouse").ok().contains("made-by-"));
    let mut by_token = user.command("topic list");
    by_token.env("MILLRACE_NODE", &one.url).env("MILLRACE_TOKEN", "wrong");
    assert_eq!(by_token.output().unwrap().status.code(), Some(4));
}

#[test]
fn a_node_that_refuses_or_does_not_answer_is_told_apart() {
    let user = User::new();
    let node = user.start("greenhouse");
    user.register(&NodeFile { token: "wrong".into(), ..node.clone() });
    user.run("status").failed(4, "E0505");
    // Nobody listens on the port of a listener that is gone.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    user.register(&NodeFile { url: format!("http://127.0.0.1:{port}"), ..node.clone() });
    user.run("status").failed(6, "E0503");
    user.register(&node);
    user.run("consume nothing -n 1").failed(3, "E0404");
    user.run("produce nothing x").failed(3, "E0404");
    user.run("topic describe nothing").failed(3, "E0404");
    user.run("topic create readings --partitions 7").failed(5, "E0408");
    user.run("topic delete readings --yes").failed(5, "E0510");
    user.run("consume readings --from newest -n 1").failed(1, "E0513");
    user.run("consume a/b").failed(2, "E0209");
    user.run("produce readings x -p 2").failed(3, "E0405");
}

#[test]
fn a_file_of_a_node_that_was_killed_is_no_node() {
    let user = User::new();
    let node = user.start("greenhouse");
    let gone = NodeFile { name: "gone".into(), pid: u32::try_from(i32::MAX).unwrap(), ..node };
    user.register(&gone);
    user.run("topic list").ok();
    assert!(!user.nodes().join("gone.json").exists());
    assert!(user.nodes().join("greenhouse.json").exists());
}

#[test]
fn ctrl_c_is_status_130() {
    let user = User::new();
    user.start("greenhouse");
    user.run("produce readings x").ok();
    let mut command = user.command("consume readings");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "x\n");
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(ended(&mut child).code(), Some(130));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let user = User::new();
    user.start("greenhouse");
    let lines = format!("{}\n", "x".repeat(1_000)).repeat(500);
    user.run_with("produce readings", lines.as_bytes()).ok();
    let mut command = user.command("consume readings --end");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // Dropped after a line: the rest does not fit into the pipe.
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ended = ended(&mut child);
    let err = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
    assert_eq!((ended.code(), err.as_str()), (Some(0), ""));
}
