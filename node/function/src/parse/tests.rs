//! A manifest with every kind of mistake, against the text it must lead to.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bus::Timestamp;

use crate::{
    Batch, Delivery, Diagnostics, Feed, Fresh, Instances, Manifest, Order, Retry, Start, Topic,
};

const GOOD: &str = r#"
[app]
name = "greenhouse"

[topic.readings]
partitions = 4
retention = { age = "7d", bytes = "1GiB" }
record-bytes-max = "64KiB"

[function.tidy]
runtime = "wasm"
handler = "tidy.wasm"
path = "functions/tidy"
memory = "32MiB"
timeout = "2s"
instances = { warm = 1, max = 4, fresh = "record" }
allow = { produce = ["side"] }

[[function.tidy.trigger]]
topics = ["readings"]
start = 2013-01-01T00:00:00Z
order = "partition"
delivery = "exactly-once"
batch = { records = 500, bytes = "2MiB", window = "200ms" }
event = "record"
decode = "none"
retry = { attempts = 5, backoff = "100ms..1m", max-age = "1h", bisect = false }
dead-letter = "readings.dead"
output = { topic = "clean" }

[function.gale]
runtime = "wasm"
handler = "gale.wasm"
path = "functions/gale"

[[function.gale.trigger]]
topics = ["clean"]
output = { topic = "alerts" }

[dev.feed]
file = "data/weather.csv"
topic = "readings"
key = "origin"
rate = 1000
loop = true
"#;

fn errors(text: &str) -> Diagnostics {
    Manifest::parse(text, "millrace.toml").expect_err("the manifest has a mistake")
}

/// `GOOD` with one line put after the line that starts with `after`.
fn good_with(after: &str, line: &str) -> String {
    let at = GOOD.find(after).expect("the line is there");
    let end = at + GOOD[at..].find('\n').expect("lines end");
    format!("{}\n{line}{}", &GOOD[..end], &GOOD[end..])
}

#[test]
fn a_good_manifest_says_what_it_says() {
    let manifest = Manifest::parse(GOOD, "millrace.toml").unwrap();
    assert!(manifest.warnings.is_empty(), "{}", manifest.warnings);
    assert_eq!(manifest.app, "greenhouse");
    let topic = &manifest.topics[0];
    assert_eq!((topic.name.as_str(), topic.partitions), ("readings", 4));
    assert_eq!(topic.retention.age, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(topic.retention.bytes, Some(1 << 30));
    assert_eq!(topic.record_bytes_max, 64 << 10);
    let tidy = manifest.function("tidy").unwrap();
    assert_eq!(tidy.memory_bytes, 32 << 20);
    assert_eq!(tidy.timeout, Duration::from_secs(2));
    let tidied = Instances { warm: 1, max: 4, fresh: Fresh::Record, ..Instances::default() };
    assert_eq!(tidy.instances, tidied);
    let trigger = &tidy.triggers[0];
    assert_eq!(trigger.name, "tidy");
    assert_eq!(manifest.trigger_id(tidy, trigger), "greenhouse/tidy/tidy");
    assert_eq!(trigger.start, Start::At(Timestamp(1_356_998_400_000)));
    assert_eq!((trigger.order, trigger.delivery), (Order::Partition, Delivery::ExactlyOnce));
    let window = Duration::from_millis(200);
    assert_eq!(trigger.batch, Batch { records: 500, bytes: 2 << 20, window });
    let retry = Retry {
        attempts: 5,
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(60),
        pauses: Vec::new(),
        age_max: Some(Duration::from_secs(3_600)),
        bisect: false,
        no_retry: Vec::new(),
    };
    assert_eq!(trigger.retry, retry);
    assert_eq!(trigger.dead_letter, "readings.dead");
    assert_eq!(trigger.output_topic.as_deref(), Some("clean"));
    assert!(tidy.may_produce(trigger, "clean") && tidy.may_produce(trigger, "side"));
    assert!(!tidy.may_produce(trigger, "readings"));
    let feed = Feed {
        file: "data/weather.csv".to_owned(),
        topic: "readings".to_owned(),
        key: Some("origin".to_owned()),
        rate: 1000,
        repeat: true,
    };
    assert_eq!(manifest.feed, Some(feed));
}

#[test]
fn bounds_of_instances_are_read_and_compared() {
    let with = |instances: &str| {
        let line = format!("instances = {{ {instances} }}\n");
        Manifest::parse(&good_with("[function.gale]", &line), "millrace.toml")
    };
    let read = with("cluster-warm = 2, cluster-max = 5").unwrap();
    let gale = read.function("gale").unwrap().instances;
    assert_eq!((gale.cluster_warm, gale.cluster_max), (2, Some(5)));
    for (wrong, said) in [
        ("warm = 9", "`warm` is larger than `max`"),
        ("warm = 2, cluster-max = 1", "`warm` is larger than `cluster-max`"),
        ("cluster-warm = 3, cluster-max = 2", "`cluster-warm` is larger than `cluster-max`"),
        ("cluster-max = 0", "`cluster-max`"),
    ] {
        let errors = with(wrong).unwrap_err().to_string();
        assert!(errors.contains(said), "{wrong}: {errors}");
    }
}

#[test]
fn labels_are_names_each_once() {
    let with = |labels: &str| {
        Manifest::parse(
            &good_with("[function.gale]", &format!("labels = {labels}\n")),
            "millrace.toml",
        )
    };
    let read = with("[\"gpu\", \"arm64\"]").unwrap();
    let labels: Vec<&str> =
        read.function("gale").unwrap().labels.iter().map(AsRef::as_ref).collect();
    assert_eq!(labels, ["arm64", "gpu"]);
    for (wrong, said) in [
        ("[\"gpu\", \"gpu\"]", "`labels` names \"gpu\" twice"),
        ("[\"GPU\"]", "cannot be the name of a label"),
        ("\"gpu\"", "takes a list of strings"),
    ] {
        let errors = with(wrong).unwrap_err().to_string();
        assert!(errors.contains(said), "{wrong}: {errors}");
    }
}

#[test]
fn what_is_not_said_has_its_default() {
    let manifest = Manifest::parse(GOOD, "millrace.toml").unwrap();
    let gale = manifest.function("gale").unwrap();
    assert_eq!(gale.memory_bytes, 64 << 20);
    assert_eq!(gale.instances, Instances::default());
    let trigger = &gale.triggers[0];
    assert_eq!(trigger.dead_letter, "greenhouse.gale.dead");
    assert_eq!((trigger.start, trigger.order), (Start::Earliest, Order::Key));
    assert_eq!(trigger.batch.records, 100);
    assert_eq!(trigger.retry.attempts, 3);
}

#[test]
fn topics_that_are_only_written_get_the_partitions_of_what_is_read() {
    let manifest = Manifest::parse(GOOD, "millrace.toml").unwrap();
    let all = manifest.all_topics();
    let found: Vec<(&str, i32)> =
        all.iter().map(|topic| (topic.name.as_str(), topic.partitions)).collect();
    let expected = [
        ("readings", 4),
        ("clean", 4),
        ("side", 4),
        ("readings.dead", 4),
        ("alerts", 4),
        ("greenhouse.gale.dead", 4),
    ];
    assert_eq!(found, expected);
    assert_eq!(all[1].record_bytes_max, Topic::RECORD_BYTES_MAX);
}

#[test]
fn specs_survive_being_stored() {
    let manifest = Manifest::parse(GOOD, "millrace.toml").unwrap();
    let text = serde_json::to_string(&manifest).unwrap();
    assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
}

#[test]
fn ten_different_mistakes_are_ten_errors() {
    let found = errors(include_str!("testdata/ten_mistakes.toml"));
    let text = found.render(false);
    assert_eq!(text, include_str!("testdata/ten_mistakes.txt"), "\n{text}");
    assert_eq!(found.error_count(), 10);
    let mut codes: Vec<&str> = found.iter().map(|one| one.code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), 10, "each mistake is another: {codes:?}");
}

#[test]
fn a_mistake_of_syntax_hides_no_other() {
    let found = errors(include_str!("testdata/syntax.toml"));
    let text = found.render(false);
    assert_eq!(text, include_str!("testdata/syntax.txt"), "\n{text}");
}

#[test]
fn what_the_plan_knows_and_this_version_does_not_is_refused_by_name() {
    let function = "path = \"functions/gale\"";
    let trigger = "[[function.gale.trigger]]";
    let cases: &[(&str, &str)] = &[
        ("[app]", "name = \"x\"\n[source.morning.timer]\nschedule = \"0 6 * * *\"\n[ignored]"),
        ("[app]", "name = \"x\"\n[workflow.order]\ndefinition = \"x.json\"\n[ignored]"),
        ("[app]", "name = \"x\"\n[kafka]\nbrokers = \"localhost\"\n[ignored]"),
        ("[topic.readings]", "compact = true"),
        ("[topic.readings]", "schema = \"x\""),
        (function, "env = { LIMIT = \"30\" }"),
        (function, "url = { route = \"GET /x\" }"),
        (function, "secrets = [\"pg\"]"),
        (function, "layers = [\"x\"]"),
        (function, "state = { ttl = \"1h\" }"),
        (function, "allow = { egress = [\"example.com:443\"] }"),
        (function, "allow = { secrets = [\"pg\"] }"),
        (function, "allow = { state = [\"carts\"] }"),
        (function, "allow = { invoke = [\"tidy\"] }"),
        (function, "instances = { concurrency = 2 }"),
        (trigger, "registry = \"http://registry\""),
        (trigger, "event = \"lambda\""),
        (trigger, "event = \"cloudevents\""),
        (trigger, "decode = \"json\""),
        (trigger, "decode = \"avro\""),
        (trigger, "decode = \"protobuf\""),
        (trigger, "delivery = \"at-most-once\""),
        (trigger, "retry = { partial = true }"),
    ];
    for (after, line) in cases {
        let found = errors(&good_with(after, line));
        let refused = found.iter().filter(|one| one.code == "E0207").count();
        assert_eq!(refused, 1, "{line}\n{found}");
    }
    for runtime in ["java21", "ruby3.3", "dotnet8", "go1.x"] {
        let found = errors(
            &GOOD
                .replace("\"wasm\"\nhandler = \"gale", &format!("\"{runtime}\"\nhandler = \"gale")),
        );
        assert_eq!((found.len(), found.0[0].code), (1, "E0207"), "{found}");
        assert!(found.0[0].message.contains(runtime), "{found}");
    }
}

/// One mistake put into the good manifest, the code it must lead to, and what is said of it.
#[test]
fn every_mistake_has_its_code_and_line() {
    let function = "path = \"functions/gale\"";
    let trigger = "[[function.gale.trigger]]";
    let cases: &[(&str, &str, &str, &str)] = &[
        ("[app]", "nmae = \"x\"", "E0203", "did you mean `name`"),
        ("[topic.readings]", "partition = 1", "E0203", "did you mean `partitions`"),
        ("[topic.readings]", "colour = 1", "E0203", "its keys are partitions, retention"),
        (function, "memory = true", "E0204", "a boolean"),
        (function, "memory = \"0B\"", "E0211", "1MiB to 4GiB"),
        (function, "memory = \"64\"", "E0210", "has no unit"),
        (function, "timeout = 10", "E0204", "did you mean `timeout = \"10s\"`"),
        (function, "timeout = \"0s\"", "E0211", "10ms to 1d"),
        (function, "instances = { warm = 9 }", "E0212", "9 kept warm, 8 allowed"),
        (function, "instances = { max = 0 }", "E0211", "1 to 1000"),
        (function, "instances = { fresh = \"batches\" }", "E0205", "fresh = \"batch\""),
        (function, "instances = 8", "E0204", "a table"),
        (function, "allow = { produce = [\"*\"] }", "E0209", "there are no patterns"),
        (function, "allow = { produce = [\"a\", \"a\"] }", "E0213", "twice"),
        (function, "allow = { produce = [1] }", "E0204", "an integer"),
        (function, "trigger = { topics = [\"x\"] }\n[function.q]", "E0204", "[[function.gale"),
        (trigger, "name = \"Bad\"", "E0208", "did you mean `bad`"),
        (trigger, "start = \"2013-01-01\"", "E0205", "RFC 3339"),
        (trigger, "start = 2013-01-01T00:00:00", "E0205", "offset"),
        (trigger, "start = \"lates\"", "E0205", "start = \"latest\""),
        (trigger, "start = 5", "E0204", "an integer"),
        (trigger, "order = \"keys\"", "E0205", "order = \"key\""),
        (trigger, "batch = { records = 0 }", "E0211", "1 to 10000"),
        (trigger, "batch = { records = 10001 }", "E0211", "1 to 10000"),
        (trigger, "batch = { window = \"1h\" }", "E0211", "0ms to 5m"),
        (trigger, "batch = { size = 5 }", "E0203", "not a key of `batch` of"),
        (trigger, "batch-size = 5", "E0203", "batch = { records = 100 }"),
        (trigger, "retry = { attempts = 0 }", "E0211", "1 to 10000"),
        (trigger, "retry = { backoff = \"0s\" }", "E0211", "not tried again at once"),
        (trigger, "retry = { backoff = \"1s..\" }", "E0210", "backoff = \"1s..30s\""),
        (trigger, "retry = { backoff = \"3s..1s\" }", "E0212", "the longest"),
        (trigger, "retry = { backoff = [] }", "E0211", "1 to 100"),
        (trigger, "retry = { backoff = [\"5m\", \"8d\"] }", "E0211", "1ms to 7d"),
        (trigger, "retry = { backoff = [\"5m\", \"0s\"] }", "E0211", "1ms to 7d"),
        (trigger, "retry = { backoff = [\"5\"] }", "E0210", "[\"5m\", \"30m\", \"2h\"]"),
        (trigger, "retry = { backoff = [5] }", "E0204", "an integer"),
        (
            trigger,
            "retry = { attempts = 2, backoff = [\"1s\", \"5m\"] }",
            "E0212",
            "`attempts = 3`",
        ),
        (trigger, "retry = { max-age = \"0s\" }", "E0211", "1s to"),
        (trigger, "retry = { no-retry = \"ValueError\" }", "E0204", "no-retry = [\"ValueError\"]"),
        (trigger, "retry = { no-retry = [\"*\"] }", "E0205", "attempts = 1"),
        (trigger, "retry = { no-retry = [\"A*b\"] }", "E0205", "Sandbox.*"),
        (trigger, "circuit = { failures = \"0%\" }", "E0211", "failures = \"50%\""),
        (trigger, "circuit = { failures = 50 }", "E0204", "an integer"),
        (trigger, "circuit = { failures = \"half\" }", "E0211", "1% to 100%"),
        (trigger, "circuit = { attempts = 0 }", "E0211", "1 to 10000"),
        (trigger, "circuit = { window = \"10ms\" }", "E0211", "1s to 1h"),
        (trigger, "circuit = { pause = \"5m..5s\" }", "E0212", "the longest"),
        (trigger, "circuit = { pause = \"5\" }", "E0210", "pause = \"5s..5m\""),
        (trigger, "circuit = { probe = 5 }", "E0203", "circuit"),
        (trigger, "circuit = true", "E0204", "a table"),
        (trigger, "dead-letter = \"clean\"", "E0215", "its dead letters"),
        (trigger, "dead-letter = \"\"", "E0209", "empty"),
        (trigger, "filter = { value = { c = 30 } }", "E0221", "a list, even of one: c = [30]"),
        (trigger, "filter = { c = [30] }", "E0222", "fields of JSON stand under value"),
        (trigger, "filter = { value = { c = [{ gt = 3 }] } }", "E0222", "`gt` is no operator"),
        (trigger, "filter = []", "E0221", "no pattern"),
        (trigger, "filter = { value = { at = [2026-01-01] } }", "E0204", "cannot hold a date"),
        (trigger, "filter = { value = { c = [nan] } }", "E0204", "a number that is none"),
        ("[dev.feed]", "rates = 1", "E0203", "did you mean `rate`"),
    ];
    for (after, line, code, says) in cases {
        let text = good_with(after, line);
        let found = errors(&text);
        let one = found.iter().find(|one| one.code == *code);
        let one = one.unwrap_or_else(|| panic!("{line}\n{found}"));
        assert!(one.render(false).contains(says), "{line}: {says}\n{found}");
        let place = one.place.as_ref().expect("a mistake of a line has a place");
        assert_eq!(place.text, text.lines().nth(place.line - 1).unwrap());
    }
}

/// A part of the good manifest replaced.
#[test]
fn what_does_not_fit_together_is_found() {
    let cases: &[(&str, &str, &str, &str)] = &[
        ("topic = \"alerts\"", "topic = \"clean\"", "E0215", "its output"),
        ("topic = \"readings\"\nkey", "topic = \"reading\"\nkey", "E0216", "readings"),
        ("topic = \"readings\"\nkey", "topic = \"clean\"\nkey", "E0216", "is declared"),
        ("topics = [\"clean\"]", "topics = [\"clena\"]", "E0216", "did you mean `clean`"),
        ("topics = [\"clean\"]", "topics = []", "E0205", "cannot be empty"),
        ("topics = [\"clean\"]", "topics = [\"clean\", \"clean\"]", "E0213", "twice"),
        ("topics = [\"clean\"]", "", "E0206", "`topics` is missing"),
        ("name = \"greenhouse\"", "", "E0206", "`name` is missing"),
        ("[app]\nname = \"greenhouse\"", "", "E0206", "`app` is missing"),
        ("path = \"functions/gale\"", "", "E0206", "`path` is missing"),
        ("path = \"functions/gale\"", "path = \"\"", "E0205", "cannot be empty"),
        ("handler = \"gale.wasm\"", "", "E0206", "`handler` is missing"),
        ("[topic.readings]", "[topic.readings.raw]", "E0203", "[topic.\"readings.raw\"]"),
        ("[[function.gale.trigger]]", "[function.gale.trigger]", "E0204", "two brackets"),
        ("file = \"data/weather.csv\"", "", "E0206", "`file` is missing"),
    ];
    for (from, to, code, says) in cases {
        assert!(GOOD.contains(from), "{from}");
        let found = errors(&GOOD.replace(from, to));
        let one = found.iter().find(|one| one.code == *code);
        let one = one.unwrap_or_else(|| panic!("{to}\n{found}"));
        assert!(one.render(false).contains(says), "{to}: {says}\n{found}");
    }
}

#[test]
fn triggers_of_one_function_have_names_of_their_own() {
    let second = "[[function.gale.trigger]]\nname = \"NAME\"\ntopics = [\"readings\"]\n";
    let named = GOOD.replace("topics = [\"clean\"]", "name = \"clean\"\ntopics = [\"clean\"]");
    let good = format!("{named}{}", second.replace("NAME", "late"));
    assert_eq!(Manifest::parse(&good, "m").unwrap().functions[1].triggers.len(), 2);
    let found = errors(&format!("{named}{}", second.replace("NAME", "clean")));
    assert_eq!((found.len(), found.0[0].code), (1, "E0213"), "{found}");
    let found = errors(&format!("{GOOD}{}", second.replace("NAME", "late")));
    assert_eq!((found.len(), found.0[0].code), (1, "E0214"), "{found}");
}

#[test]
fn a_long_loop_and_a_function_that_nothing_starts_are_doubts() {
    let text = GOOD.replace("topic = \"alerts\"", "topic = \"readings\"");
    let warnings = Manifest::parse(&text, "m").unwrap().warnings;
    assert_eq!((warnings.len(), warnings.0[0].code), (1, "W0201"), "{warnings}");
    let text = GOOD.replace("[\"side\"]", "[\"readings\"]");
    let warnings = Manifest::parse(&text, "m").unwrap().warnings;
    assert_eq!((warnings.len(), warnings.0[0].code), (1, "W0201"), "{warnings}");
    let idle = "[function.idle]\nruntime = \"wasm\"\nhandler = \"x\"\npath = \"x\"\n";
    let warnings = Manifest::parse(&format!("{GOOD}{idle}"), "m").unwrap().warnings;
    assert_eq!((warnings.len(), warnings.0[0].code), (1, "W0202"), "{warnings}");
}

#[test]
fn files_are_looked_for_and_what_was_tried_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    let codes = |found: &Diagnostics| -> Vec<&str> { found.iter().map(|one| one.code).collect() };
    let missing = Manifest::load(dir.path()).unwrap_err();
    assert_eq!(codes(&missing), ["E0201"]);
    assert!(missing.render(false).contains("tried: "), "{missing}");

    fs::write(at("millrace.toml"), GOOD).unwrap();
    let found = Manifest::load(dir.path()).unwrap_err();
    assert_eq!(codes(&found), ["E0218", "E0218", "E0219"], "{found}");

    for folder in ["functions/tidy", "functions/gael", "data"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    fs::write(at("functions/tidy/Cargo.toml"), "").unwrap();
    fs::write(at("data/weather.csv"), "Origin,year\nEWR,2013\n").unwrap();
    let found = Manifest::load(dir.path()).unwrap_err();
    assert_eq!(codes(&found), ["E0218", "E0218", "E0219"], "{found}");
    let text = found.render(false);
    for says in [
        "`millrace build` makes it",
        "did you mean `path = \"functions/gael\"`",
        "did you mean `key = \"Origin\"`",
        "functions/tidy/tidy.wasm",
    ] {
        assert!(text.contains(says), "{says}\n{text}");
    }

    fs::rename(at("functions/gael"), at("functions/gale")).unwrap();
    fs::write(at("data/weather.csv"), "origin,year\r\nEWR,2013\r\n").unwrap();
    Manifest::load_unbuilt(dir.path()).unwrap();
    assert_eq!(codes(&Manifest::load(dir.path()).unwrap_err()), ["E0218", "E0218"]);
    for name in ["tidy", "gale"] {
        fs::write(at(&format!("functions/{name}/{name}.wasm")), "").unwrap();
    }
    Manifest::load(dir.path()).unwrap();

    for (from, to) in [
        ("path = \"functions/gale\"", "path = \"../gale\""),
        ("path = \"functions/gale\"", "path = \"/etc\""),
        ("handler = \"gale.wasm\"", "handler = \"../tidy/tidy.wasm\""),
        ("data/weather.csv", "../weather.csv"),
    ] {
        fs::write(at("millrace.toml"), GOOD.replace(from, to)).unwrap();
        let found = Manifest::load(dir.path()).unwrap_err();
        assert_eq!(codes(&found), ["E0217"], "{to}\n{found}");
    }
    fs::write(at("millrace.toml"), b"\xff\xfe").unwrap();
    assert_eq!(codes(&Manifest::load(dir.path()).unwrap_err()), ["E0201"]);
}

#[test]
fn the_example_applications_are_read_without_a_mistake() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut read = 0;
    for entry in fs::read_dir(examples).into_iter().flatten().map(Result::unwrap) {
        if entry.path().join(crate::FILE_NAME).is_file() {
            let manifest = Manifest::load_unbuilt(&entry.path());
            let manifest = manifest.unwrap_or_else(|found| panic!("{found}"));
            assert!(manifest.warnings.is_empty(), "{}", manifest.warnings);
            read += 1;
        }
    }
    assert!(read > 0, "there are examples");
}

/// Whatever is cut off or flipped, the answer is a manifest or mistakes with places in the text.
#[test]
fn no_damage_to_a_manifest_makes_it_panic() {
    let check = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        if let Err(found) = Manifest::parse(&text, "m") {
            assert!(!found.is_empty());
            for place in found.iter().filter_map(|one| one.place.as_ref()) {
                assert!(place.line <= text.matches('\n').count() + 1);
            }
            assert!(!found.render(true).is_empty());
        }
    };
    for cut in 0..GOOD.len() {
        check(&GOOD.as_bytes()[..cut]);
        check(&GOOD.as_bytes()[cut..]);
    }
    for at in (0..GOOD.len()).step_by(3) {
        for with in [b'"', b'[', b']', b'{', b'}', b'=', b'\n', b'\'', b'#', b'.', 0, 0xff] {
            let mut bytes = GOOD.as_bytes().to_vec();
            bytes[at] = with;
            check(&bytes);
        }
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes[at] ^= 1 << (at % 8);
        check(&bytes);
    }
    for nasty in [
        "[",
        "[[",
        "]",
        "=",
        "\"",
        "\"\"\"",
        "a.",
        "[a",
        "[[a]",
        "{",
        "a = [",
        "a = {",
        "a = [\n1,\n2",
        "a = \"\"\"\nx\n",
        "\u{feff}",
        "[function]\n[function]",
    ] {
        check(nasty.as_bytes());
        check(format!("{GOOD}{nasty}").as_bytes());
    }
    check("[".repeat(100_000).as_bytes());
    check(format!("a = {}", "[".repeat(100_000)).as_bytes());
    check(format!("{}a = 1", "b.".repeat(100_000)).as_bytes());
}

#[test]
fn a_filter_is_one_pattern_or_several_in_any_form_of_toml() {
    let trigger = "[[function.gale.trigger]]";
    let patterns = |lines: &str| {
        let manifest = Manifest::parse(&good_with(trigger, lines), "millrace.toml").unwrap();
        let all = manifest.function("gale").unwrap().triggers[0].filter.clone();
        all.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let one = [r#"{"value":{"c":[{"numeric":[">",30]}]}}"#];
    assert_eq!(patterns("filter = { value = { c = [{ numeric = [\">\", 30] }] } }"), one);
    assert_eq!(patterns("filter.value.c = [{ numeric = [\">\", 30] }]"), one);
    let two = [r#"{"key":["a"]}"#, r#"{"partition":[0,1.5]}"#];
    assert_eq!(patterns("filter = [{ key = [\"a\"] }, { partition = [0, 1.5] }]"), two);
    let tables = "[[function.gale.trigger.filter]]\nkey = [\"a\"]\n\
                  [[function.gale.trigger.filter]]\npartition = [0, 1.5]\n\n[dev.feed]";
    let manifest = Manifest::parse(&GOOD.replace("[dev.feed]", tables), "millrace.toml").unwrap();
    let gale = manifest.function("gale").unwrap();
    assert_eq!(gale.triggers[0].filter.iter().map(ToString::to_string).collect::<Vec<_>>(), two);
}

#[test]
fn a_mistake_in_a_filter_is_shown_where_it_stands() {
    let trigger = "[[function.gale.trigger]]";
    let shown = |line: &str| {
        let found = errors(&good_with(trigger, line));
        assert_eq!(found.len(), 1, "{found}");
        let place = found.0[0].place.clone().unwrap();
        assert_eq!(place.text, line);
        place
    };
    let line = "filter = { value = { c = [1, { gt = 30 }] } }";
    assert_eq!(shown(line).column, line.find("gt").unwrap() + 1);
    let line = "filter = [{ key = [\"a\"] }, { key = [5] }]";
    assert_eq!(shown(line).column, line.find('5').unwrap() + 1);
    let line = "filter = { value.c = 30 }";
    assert_eq!(shown(line).column, line.find("30").unwrap() + 1);
}

#[test]
fn a_list_of_pauses_says_how_often_a_record_is_tried() {
    let retry = |line: &str| {
        let text = good_with("topics = [\"clean\"]", line);
        let manifest = Manifest::parse(&text, "millrace.toml").unwrap();
        manifest.functions.last().unwrap().triggers[0].retry.clone()
    };
    let listed = retry("retry = { backoff = [\"5m\", \"30m\", \"2h\"] }");
    let minutes = |minutes: &[u64]| -> Vec<Duration> {
        minutes.iter().map(|it| Duration::from_secs(60 * it)).collect()
    };
    assert_eq!((listed.attempts, listed.pauses), (4, minutes(&[5, 30, 120])));
    let more = retry("retry = { attempts = 9, backoff = [\"5m\"] }");
    assert_eq!((more.attempts, more.pauses), (9, minutes(&[5])), "the last one repeats");
}

const ON_FAILURE: &str = "on-failure = \"readings.failed\"";

#[test]
fn destinations_are_read_and_become_topics() {
    let both = format!("on-success = \"done\"\n{ON_FAILURE}");
    let text = good_with("[[function.tidy.trigger]]", &both);
    let manifest = Manifest::parse(&text, "millrace.toml").unwrap();
    assert!(manifest.warnings.is_empty(), "{}", manifest.warnings);
    let trigger = &manifest.function("tidy").unwrap().triggers[0];
    let named: Vec<_> = trigger.destinations().collect();
    assert_eq!(named, [("on-success", "done"), ("on-failure", "readings.failed")]);
    for name in ["done", "readings.failed"] {
        let topic = manifest.all_topics().into_iter().find(|it| it.name == name);
        assert_eq!(topic.map(|it| it.partitions), Some(4), "as many as what is read");
    }
    let text = serde_json::to_string(&manifest).unwrap();
    assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
    // Who has none keeps the name of its revision.
    let without = Manifest::parse(GOOD, "millrace.toml").unwrap();
    assert!(!serde_json::to_string(&without).unwrap().contains("on_"));
}

#[test]
fn a_destination_that_cannot_be_is_refused_where_it_stands() {
    let cases = [
        ("on-success = \"readings\"", "E0215", "its `on-success` messages"),
        ("on-failure = \"readings\"", "E0215", "its `on-failure` messages"),
        ("on-success = \"readings.dead\"", "E0224", "its dead letters"),
        ("on-failure = \"clean\"", "E0224", "its outputs"),
        ("on-failure = \"side\"", "E0224", "`allow.produce`"),
        ("on-failure = \"millrace.park.x\"", "E0224", "the node's own"),
        ("on-failure = \"a b\"", "E0209", "cannot be the name"),
        ("on-sucess = \"x\"", "E0203", "did you mean `on-success`"),
    ];
    for (line, code, says) in cases {
        let found = errors(&good_with("[[function.tidy.trigger]]", line));
        let one = found.iter().find(|one| one.code == code);
        let one = one.unwrap_or_else(|| panic!("{line}\n{found}"));
        assert!(one.render(false).contains(says), "{line}: {says}\n{found}");
        assert_eq!(one.place.as_ref().unwrap().text, line);
    }
    let compacted = "[topic.told]\ncleanup = \"compact\"\n";
    let text = good_with("[[function.tidy.trigger]]", "on-success = \"told\"");
    let found = errors(&format!("{text}{compacted}"));
    assert!(found.render(false).contains("E0224") && found.len() == 1, "{found}");
}

#[test]
fn messages_about_messages_end_or_are_refused() {
    let watch = "[function.watch]\nruntime = \"wasm\"\nhandler = \"x\"\npath = \"x\"\n\
                 [[function.watch.trigger]]\ntopics = [\"readings.failed\"]\n";
    let text = good_with("[[function.tidy.trigger]]", ON_FAILURE);
    let warnings = Manifest::parse(&format!("{text}{watch}"), "m").unwrap().warnings;
    assert!(warnings.is_empty(), "who reads them is no loop: {warnings}");
    // A failure of the one is a failure of the other, for ever.
    let found = errors(&format!("{text}{watch}on-failure = \"readings\"\n"));
    let loops: Vec<_> = found.iter().filter(|one| one.code == "E0215").collect();
    assert_eq!((loops.len(), found.error_count()), (2, 2), "{found}");
    // An output of the one is a doubt: it may know when to stop.
    let text = format!("{text}{watch}output = {{ topic = \"readings\" }}\n");
    let warnings = Manifest::parse(&text, "m").unwrap().warnings;
    assert_eq!((warnings.len(), warnings.0[0].code), (1, "W0201"), "{warnings}");
}
