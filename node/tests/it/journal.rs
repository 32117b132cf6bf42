//! A node whose standard error is the journal's tells the journal by field what it and its functions
//! say; a socket of the test stands for the journal's.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use crate::harness::{User, ended};

const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 1

[function.tell]
runtime = "python3"
path    = "tell"
handler = "app.tell"

[[function.tell.trigger]]
topics = ["in"]
"#;

const CODE: &str = "def tell(value, context):\n    print('heard', value, context.trace)\n";

/// Waits for an entry with this in its message; its fields, which are all of one line here.
fn entry(socket: &UnixDatagram, said: &str) -> BTreeMap<String, String> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let length = socket.recv(&mut bytes).unwrap_or_else(|_| panic!("nobody says {said}"));
        let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
        let fields = text.lines().map(|line| line.split_once('=').unwrap());
        let fields: BTreeMap<_, _> =
            fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if fields["MESSAGE"].contains(said) {
            return fields;
        }
    }
}

#[test]
fn a_node_under_the_journal_says_everything_by_field() {
    let user = User::new();
    let app = user.folder().join("app");
    std::fs::create_dir_all(app.join("tell")).unwrap();
    std::fs::write(app.join("millrace.toml"), MANIFEST).unwrap();
    std::fs::write(app.join("tell/app.py"), CODE).unwrap();
    let path = user.folder().join("journal");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let stderr = File::create(user.folder().join("stderr")).unwrap();
    let is = stderr.metadata().unwrap();
    let mut serve =
        user.command("serve --data data --app app --traces-endpoint http://127.0.0.1:9");
    serve.env("JOURNAL_STREAM", format!("{}:{}", is.st_dev(), is.st_ino()));
    serve.env("MILLRACE_JOURNAL", &path).env_remove("MILLRACE_LOG");
    let mut node = serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn().unwrap();

    let ready = entry(&socket, "the node is ready");
    assert_eq!((&*ready["PRIORITY"], &*ready["SYSLOG_IDENTIFIER"]), ("6", "millrace"));
    user.run("produce in \"hello\"").ok();
    let heard = entry(&socket, "heard hello");
    assert_eq!((&*heard["PRIORITY"], &*heard["MILLRACE_FUNCTION"]), ("6", "tell"));
    let (invocation, trace) = (&heard["MILLRACE_INVOCATION"], &heard["TRACE_ID"]);
    assert!(heard["MESSAGE"].contains(trace.as_str()) && trace.len() == 32, "{heard:?}");
    let said = user.run(&format!("logs --invocation {invocation} -o json")).ok();
    assert!(said.contains("heard hello") && said.contains(trace.as_str()), "{said}");
    assert_eq!(user.run("logs --invocation 9-9-9").ok(), "");

    rustix::process::kill_process(
        rustix::process::Pid::from_child(&node),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    entry(&socket, "drained");
    assert!(ended(&mut node).success());
    let stderr = std::fs::read_to_string(user.folder().join("stderr")).unwrap();
    assert_eq!(stderr, "", "nothing is said twice");
}
