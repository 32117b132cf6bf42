//! Deploys to a real node: planned, carried out, refused, rolled back, and still there after a
//! kill, from the node's own store alone.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use millrace::discovery::NodeFile;
use serde_json::{Value, json};

use crate::harness::{Said, User, ended};

const PATIENCE: Duration = Duration::from_secs(60);

/// A function that marks what passes, and one beside it that never changes.
const MANIFEST: &str = r#"
[app]
name = "mill"

[topic.in]
partitions = 2

[function.mark]
runtime = "python3"
path    = "mark"
handler = "app.mark"

[[function.mark.trigger]]
topics = ["in"]
output = { topic = "out" }

[function.side]
runtime = "python3"
path    = "side"
handler = "app.side"

[[function.side.trigger]]
topics = ["in"]
output = { topic = "beside" }
"#;

fn marks(mark: &str) -> String {
    format!("def mark(value, context):\n    return \"{mark} \" + value\n")
}

/// A node without folders, and an application beside it.
pub(crate) struct Mill {
    pub(crate) user: User,
    node: Option<Child>,
    /// Of `serve`, beside the data folder.
    arguments: &'static str,
}

impl Mill {
    fn new() -> Self {
        let side = "def side(value, context):\n    return value\n";
        Self::with(MANIFEST, &[("mark/app.py", &marks("one")), ("side/app.py", side)])
    }

    /// With this manifest and these files beside it.
    pub(crate) fn with(manifest: &str, files: &[(&str, &str)]) -> Self {
        let mut this = Self { user: User::new(), node: None, arguments: "" };
        this.write("millrace.toml", manifest);
        for (file, text) in files {
            this.write(file, text);
        }
        this.serve();
        this
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.user.folder().join("app").join(file)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.user.folder().join("data")
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn serve(&mut self) {
        let mut command = self.user.command(&format!("serve --data data {}", self.arguments));
        let log = std::fs::File::create(self.user.folder().join("node.log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.node = Some(child.unwrap());
        self.until("the node is ready", |mill| {
            let node = mill.file()?;
            let url = format!("{}/readyz", node.url);
            ureq::get(url).call().is_ok().then_some(())
        });
    }

    /// SIGKILL, and a new process in its place.
    pub(crate) fn kill_and_serve(&mut self) {
        let mut node = self.node.take().unwrap();
        node.kill().unwrap();
        ended(&mut node);
        self.serve();
    }

    /// What the running node wrote about itself.
    pub(crate) fn file(&self) -> Option<NodeFile> {
        let pid = self.node.as_ref()?.id();
        let files = std::fs::read_dir(self.user.nodes()).ok()?;
        files.filter_map(|entry| std::fs::read(entry.ok()?.path()).ok()).find_map(|bytes| {
            serde_json::from_slice::<NodeFile>(&bytes).ok().filter(|file| file.pid == pid)
        })
    }

    pub(crate) fn until<T>(&self, what: &str, mut ask: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            let log = std::fs::read_to_string(self.user.folder().join("node.log"));
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}: {log:?}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn run(&self, line: &str) -> Said {
        self.user.run(line)
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.run(&format!("{line} -o json")).ok()).unwrap()
    }

    /// Produces a value and waits for what `mark` makes of it.
    pub(crate) fn passes(&self, value: &str, expected: &str) {
        self.run(&format!("produce in \"{value}\" -k key")).ok();
        let last = self.until("an output", |mill| {
            let out = mill.run("consume out --end").ok();
            let last = out.lines().last()?.to_owned();
            last.ends_with(&format!(" {value}\"")).then_some(last)
        });
        assert_eq!(last, format!("\"{expected} {value}\""));
    }

    /// Asks the control API itself.
    pub(crate) fn ask(
        &self,
        verb: &str,
        path: &str,
        version: Option<u64>,
        body: &[u8],
    ) -> (u16, Value) {
        let node = self.file().unwrap();
        let mut request = ureq::http::Request::builder()
            .method(verb)
            .uri(format!("{}{path}", node.url))
            .header("authorization", format!("Bearer {}", node.token));
        if let Some(version) = version {
            request = request.header("if-match", format!("\"{version}\""));
        }
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let agent = ureq::Agent::new_with_config(config);
        let mut answer = agent.run(request.body(body).unwrap()).unwrap();
        let status = answer.status().as_u16();
        let body = answer.body_mut().read_to_vec().unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    pub(crate) fn proposal(&self) -> Value {
        let package = |name: &str| {
            let package = function::Package::from_dir(&self.path(name)).unwrap();
            package.digest().to_string()
        };
        let manifest = std::fs::read_to_string(self.path("millrace.toml")).unwrap();
        let packages = json!({"mark": package("mark"), "side": package("side")});
        json!({"manifest": manifest, "packages": packages})
    }

    pub(crate) fn packages(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.data().join("packages")).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        entries.map(|entry| name(entry).into_string().unwrap()).collect()
    }
}

impl Drop for Mill {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node {
            node.kill().ok();
            node.wait().ok();
        }
    }
}

#[test]
fn a_deploy_is_planned_carried_out_and_there_after_a_kill() {
    let mut mill = Mill::new();
    let plan = mill.run("plan app");
    assert_eq!((plan.status, plan.err.as_str()), (Some(9), ""), "{plan:?}");
    assert!(plan.out.contains("+ function mark  python3  "), "{plan:?}");
    assert!(plan.out.contains("mill: 2 to add, 5 topics to make\nnext: "), "{plan:?}");
    let said = mill.run("deploy app").ok();
    assert!(said.contains("\nmark      deployed  v1 "), "{said}");
    assert_eq!(mill.run("plan app").ok(), "mill: nothing to do: 2 unchanged\n");
    mill.passes("a", "one");
    let before = mill.json("functions");

    mill.kill_and_serve();
    assert_eq!(mill.json("functions"), before);
    assert_eq!(mill.run("plan app").ok(), "mill: nothing to do: 2 unchanged\n");
    mill.passes("b", "one");
    assert_eq!(mill.run("consume out --end").ok(), "\"one a\"\n\"one b\"\n", "positions stayed");

    mill.write("mark/app.py", &marks("two"));
    let manifest = MANIFEST.replace("[function.side]", "timeout = \"5s\"\n\n[function.side]");
    let manifest = manifest.replace("timeout", "batch = { records = 7 }\n# timeout");
    mill.write("millrace.toml", &manifest);
    let plan = mill.run("plan app");
    assert!(plan.out.contains("  ~ trigger mark\n      batch.records  100 -> 7\n"), "{plan:?}");
    assert!(plan.out.contains("    code  "), "{plan:?}");
    assert!(plan.out.contains("mill: 1 to change, 1 unchanged\n"), "{plan:?}");
    let said = mill.run("deploy app").ok();
    assert!(said.contains("\nmark      deployed   v2 "), "{said}");
    assert!(said.contains("\nside      unchanged  v1 "), "{said}");
    mill.passes("c", "two");
    mill.kill_and_serve();
    mill.passes("d", "two");
}

#[test]
fn a_revision_that_cannot_start_is_refused_and_the_one_before_runs_on() {
    let mut mill = Mill::new();
    mill.run("deploy app").ok();
    for (broken, named) in [
        ("def mark(:\n", "Runtime.UserCodeSyntaxError"),
        ("import nowhere\ndef mark(value): pass\n", "Runtime.ImportModuleError"),
        ("def other(value): pass\n", "Runtime.HandlerNotFound"),
    ] {
        mill.write("mark/app.py", broken);
        let said = mill.run("deploy app");
        assert_eq!(said.status, Some(1), "{said:?}");
        assert!(said.out.contains("\nmark      refused    v1 "), "{said:?}");
        let expected = format!("error[E0315]: function `mark` cannot start: {named}");
        assert!(said.err.starts_with(&expected), "{said:?}");
        assert!(said.err.contains("runs on; mend it and deploy again"), "{said:?}");
        assert!(
            said.err.contains("error[E0521]: 1 of 2 functions of mill was refused"),
            "{said:?}"
        );
        mill.passes(named, "one");
        let status = mill.json("status");
        assert_eq!(status["functions"][0]["state"], "stale");
        assert_eq!(status["functions"][0]["last_error"]["code"], "E0315");
    }
    assert_eq!(mill.json("functions mark")["revisions"].as_array().unwrap().len(), 1);
    assert_eq!(mill.packages().len(), 4, "two archives, two folders: what was refused is gone");
    mill.kill_and_serve();
    mill.passes("after-the-kill", "one");

    // A component that is none, in a function that is new.
    let wasm = "[function.more]\nruntime = \"wasm\"\npath = \"more\"\nhandler = \"more.wasm\"\n\
                [[function.more.trigger]]\ntopics = [\"in\"]\noutput = { topic = \"more\" }\n";
    mill.write("millrace.toml", &format!("{MANIFEST}\n{wasm}"));
    mill.write("more/more.wasm", "no component");
    mill.write("mark/app.py", &marks("two"));
    let said = mill.run("deploy app -o json");
    assert_eq!(said.status, Some(1), "{said:?}");
    let deployed: Value = serde_json::from_str(&said.out).unwrap();
    let functions = deployed["functions"].as_array().unwrap();
    let outcomes: Vec<&Value> = functions.iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, ["deployed", "refused", "unchanged"]);
    assert_eq!(
        (&functions[1]["error"]["code"], &functions[1]["runs"]),
        (&json!("E0301"), &Value::Null)
    );
    mill.passes("b", "two");
}

#[test]
fn a_rollback_leads_to_what_ran_before_and_an_alias_names_it() {
    let mut mill = Mill::new();
    mill.run("rollback mark").failed(3, "E0506");
    mill.run("deploy app").ok();
    mill.run("rollback mark").failed(3, "E0522");
    mill.passes("a", "one");
    for mark in ["two", "three"] {
        mill.write("mark/app.py", &marks(mark));
        mill.run("deploy app").ok();
    }
    mill.passes("b", "three");
    let said = mill.run("rollback mill/mark").ok();
    assert!(said.starts_with("mill/mark  v3 ") && said.contains(" -> v2 "), "{said}");
    mill.passes("c", "two");
    mill.kill_and_serve();
    mill.passes("d", "two");
    assert!(mill.run("alias set mark stable").ok().contains("\nstable      v2  "));
    mill.run("alias set mark v7 v3").failed(2, "E0527");
    mill.run("alias set mark old v9").failed(3, "E0522");
    mill.run("rollback mark --to v1").ok();
    mill.passes("e", "one");
    let said = mill.run("rollback mark --to stable").ok();
    assert!(said.contains("  v1 ") && said.contains(" -> v2 "), "{said}");
    assert!(mill.run("rollback mark --to v2").ok().ends_with(" runs already\n"));
    let revisions = mill.run("functions mark").ok();
    let rows: Vec<&str> = revisions.lines().skip(2).collect();
    assert_eq!(rows.len(), 3, "{revisions}");
    assert!(
        rows[1].starts_with("    v2 ") && rows[1].ends_with("  current  stable"),
        "{revisions}"
    );
    mill.run("alias delete mark stable").ok();
    mill.run("alias delete mark stable").failed(3, "E0522");
    assert_eq!(mill.run("alias list mark").ok(), "mill/mark has no aliases\n");
    mill.passes("f", "two");
    assert_eq!(mill.run("consume out --end").ok().lines().count(), 6, "each record once");

    // The revision of before cannot start any more: nothing changes.
    let digest =
        mill.json("functions mark")["revisions"][2]["package"].as_str().unwrap().to_owned();
    let archive = mill.data().join("packages").join(&digest);
    std::fs::write(&archive, "damaged").unwrap();
    mill.kill_and_serve();
    mill.run("rollback mark --to v1").failed(78, "E0525");
    mill.passes("g", "two");
}

#[test]
fn the_newest_twenty_revisions_are_kept_and_no_other_package() {
    let mill = Mill::new();
    mill.run("deploy app").ok();
    mill.run("alias set mark first").ok();
    for number in 2..=24 {
        mill.write("mark/app.py", &marks(&number.to_string()));
        mill.run("deploy app").ok();
    }
    let revisions = mill.json("functions mark");
    let numbers = revisions["revisions"].as_array().unwrap().iter();
    let numbers: Vec<u64> = numbers.map(|it| it["number"].as_u64().unwrap()).collect();
    let expected: Vec<u64> = (5..=24).rev().chain([1]).collect();
    assert_eq!(numbers, expected);
    let archives = || mill.packages().iter().filter(|name| !name.ends_with(".d")).count();
    assert_eq!(archives(), 21 + 1, "those of mark, and that of side");
    mill.run("alias delete mark first").ok();
    assert_eq!(archives(), 20 + 1);
    mill.run("remove mill").failed(2, "E0517");
    mill.run("remove nobody --yes").failed(3, "E0506");
    mill.run("remove mill --yes").ok();
    assert!(mill.packages().is_empty());
    assert!(mill.run("functions").ok().starts_with("no functions\n"));
    assert!(mill.run("topic list").ok().contains("\nout "), "topics stay");
}

#[test]
fn what_goes_needs_a_yes_and_the_rest_stays() {
    let mill = Mill::new();
    mill.run("deploy app").ok();
    mill.passes("a", "one");
    let (less, _) = MANIFEST.split_once("[function.side]").unwrap();
    mill.write("millrace.toml", less);
    let said = mill.run("deploy app");
    assert_eq!(said.status, Some(2), "{said:?}");
    assert!(
        said.err.starts_with("error[E0517]: 1 function will go, with their positions."),
        "{said:?}"
    );
    assert_eq!(mill.json("functions")["functions"].as_array().unwrap().len(), 2);
    let said = mill.run("deploy app --yes").ok();
    assert!(said.contains("- function side  "), "{said}");
    assert!(said.contains("! topic beside  is not needed any more, and stays: "), "{said}");
    assert!(said.contains("\nside      removed    -\n"), "{said}");
    mill.passes("b", "one");
    mill.write("millrace.toml", &less.replace("partitions = 2", "partitions = 3"));
    assert!(mill.run("plan app").out.contains("partitions  2 -> 3"));
    mill.run("deploy app").failed_after_its_plan(5, "E0408");
    mill.passes("c", "one");
}

#[test]
fn what_was_looked_at_is_what_is_replaced() {
    let mill = Mill::new();
    let proposal = serde_json::to_vec(&mill.proposal()).unwrap();
    let (status, plan) = mill.ask("POST", "/v1/apps/mill:plan", None, &proposal);
    assert_eq!((status, &plan["version"]), (200, &json!(0)));
    assert_eq!(plan["missing"].as_array().unwrap().len(), 2);
    let (status, refused) = mill.ask("POST", "/v1/apps/mill:deploy", Some(0), &proposal);
    assert_eq!((status, &refused["code"]), (409, &json!("E0524")), "nothing was sent yet");
    mill.run("deploy app").ok();
    let (status, refused) = mill.ask("POST", "/v1/apps/mill:deploy", Some(0), &proposal);
    assert_eq!((status, &refused["code"]), (409, &json!("E0520")), "somebody was quicker");
    let (status, same) = mill.ask("POST", "/v1/apps/mill:deploy", Some(1), &proposal);
    assert_eq!((status, &same["version"]), (200, &json!(1)), "nothing changed");
    let stale = mill.ask("POST", "/v1/functions/mill/mark:rollback", Some(7), b"{}");
    assert_eq!((stale.0, &stale.1["code"]), (409, &json!("E0520")));
    let stale = mill.ask("DELETE", "/v1/apps/mill", Some(7), b"");
    assert_eq!((stale.0, &stale.1["code"]), (409, &json!("E0520")));
    let other = mill.ask("POST", "/v1/apps/other:plan", None, &proposal);
    assert_eq!((other.0, &other.1["code"]), (400, &json!("E0513")));
    let text = mill.proposal()["manifest"].as_str().unwrap().replace("python3", "pascal");
    let broken = json!({"manifest": text, "packages": {}});
    let broken = mill.ask("POST", "/v1/apps/mill:deploy", None, broken.to_string().as_bytes());
    assert_eq!((broken.0, &broken.1["code"]), (422, &json!("E0205")));
    mill.passes("a", "one");
}

#[test]
fn only_a_package_of_its_digest_is_taken() {
    let mill = Mill::new();
    let package = function::Package::from_dir(&mill.path("mark")).unwrap();
    let (path, archive) = (format!("/v1/packages/{}", package.digest()), package.archive());
    for (path, bytes) in [
        (path.as_str(), &archive[1..]),
        (path.as_str(), b""),
        ("/v1/packages/0123", &archive[..]),
        (&format!("/v1/packages/{}", "0".repeat(64)), &archive[..]),
    ] {
        let (status, refused) = mill.ask("PUT", path, None, bytes);
        assert_eq!((status, &refused["code"]), (400, &json!("E0523")), "{path}");
    }
    let escape = |name: &str| {
        let mut bytes = (name.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&1_u64.to_le_bytes());
        bytes.push(b'x');
        bytes
    };
    for name in ["../escaped", "/tmp/escaped", "a/../../escaped"] {
        let (status, refused) = mill.ask("PUT", &path, None, &escape(name));
        assert_eq!((status, &refused["code"]), (400, &json!("E0523")), "{name}");
    }
    assert!(mill.packages().is_empty());
    assert_eq!(mill.ask("PUT", &path, None, &archive).0, 204);
    assert_eq!(mill.packages(), [package.digest().to_string()]);
    assert!(!Path::new("/tmp/escaped").exists());
}

#[test]
fn a_damaged_package_stops_its_function_alone_and_a_deploy_mends_it() {
    let mut mill = Mill::new();
    mill.run("deploy app").ok();
    mill.passes("a", "one");
    let package = function::Package::from_dir(&mill.path("mark")).unwrap().digest();
    let archive = mill.data().join("packages").join(package.to_string());
    let mut bytes = std::fs::read(&archive).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 0x20;
    std::fs::write(&archive, bytes).unwrap();
    mill.kill_and_serve();
    let status = mill.json("status");
    let of = |name: usize, key: &str| status["functions"][name][key].clone();
    assert_eq!((of(0, "name"), of(0, "state")), (json!("mark"), json!("stopped")));
    assert_eq!(status["functions"][0]["last_error"]["code"], "E0525");
    assert_eq!((of(1, "name"), of(1, "state")), (json!("side"), json!("running")));
    mill.run("produce in \"b\" -k key").ok();
    mill.until("the other function runs", |mill| {
        mill.run("consume beside --end").ok().contains("\"b\"").then_some(())
    });
    assert_eq!(mill.run("consume out --end").ok().lines().count(), 1);
    mill.run("deploy app").ok();
    mill.passes("c", "one");
    assert_eq!(mill.run("consume out --end").ok(), "\"one a\"\n\"one b\"\n\"one c\"\n");
}

#[test]
fn what_cannot_start_now_is_tried_again_and_a_broken_folder_leaves_what_was_deployed() {
    let mut mill = Mill::new();
    let flag = mill.user.folder().join("flag");
    std::fs::write(&flag, "").unwrap();
    mill.write("mark/app.py", &format!("open({flag:?})\n{}", marks("one")));
    mill.run("deploy app").ok();
    mill.passes("a", "one");
    std::fs::remove_file(&flag).unwrap();
    mill.kill_and_serve();
    assert_eq!(mill.json("status")["functions"][0]["state"], "stopped");
    assert_eq!(mill.json("functions")["functions"].as_array().unwrap().len(), 2);
    mill.run("produce in \"b\" -k key").ok();
    std::fs::write(&flag, "").unwrap();
    mill.until("it runs at last", |mill| {
        let state = mill.json("status")["functions"][0]["state"].clone();
        (state == "running").then_some(())
    });
    mill.passes("c", "one");
    assert_eq!(mill.run("consume out --end").ok(), "\"one a\"\n\"one b\"\n\"one c\"\n");

    // Started with a folder that is broken by now, it runs what was deployed.
    mill.write("mark/app.py", "def mark(:\n");
    mill.arguments = "--app app";
    mill.kill_and_serve();
    assert_eq!(mill.json("status")["functions"][0]["state"], "stale");
    mill.passes("d", "one");
    mill.write("mark/app.py", &marks("two"));
    mill.kill_and_serve();
    mill.passes("e", "two");
}
