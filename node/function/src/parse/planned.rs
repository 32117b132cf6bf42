//! What the product's plan knows and this version does not carry out: refused by name, with what
//! can be done instead, so that nothing is accepted and then ignored.

/// A key or word of the plan.
#[derive(Debug)]
pub(super) struct Planned {
    /// As written in a manifest; a `*` at the end stands for anything.
    word: &'static str,
    /// What it will do.
    pub(super) what: &'static str,
    /// What to do until then.
    pub(super) instead: &'static str,
}

impl Planned {
    pub(super) fn is(&self, word: &str) -> bool {
        match self.word.strip_suffix('*') {
            Some(start) => word.starts_with(start),
            None => self.word == word,
        }
    }
}

const fn plan(word: &'static str, what: &'static str, instead: &'static str) -> Planned {
    Planned { word, what, instead }
}

pub(super) const TOP: &[Planned] = &[
    plan("source", "sources come later", "append with `millrace produce` or `[dev.feed]`"),
    plan("workflow", "workflows come later", "chain functions by topics"),
    plan("schema", "schema checks come later", "check values in the function"),
    plan("kafka", "Kafka comes later, and belongs to the node", "use the embedded bus"),
];

pub(super) const TOPIC: &[Planned] = &[
    plan("compact", "it is a word of another key", "write `cleanup = \"compact\"`"),
    plan("schema", "schema checks come later", "check values in the function"),
    plan("replication", "one node holds one copy", "take it out"),
];

pub(super) const RUNTIMES: &[Planned] = &[
    plan("java*", "only Python and Node.js have bootstraps", BOOTSTRAP),
    plan("dotnet*", "only Python and Node.js have bootstraps", BOOTSTRAP),
    plan("ruby*", "only Python and Node.js have bootstraps", BOOTSTRAP),
    plan("go*", "only Python and Node.js have bootstraps", BOOTSTRAP),
];

const BOOTSTRAP: &str = "start it from a `bootstrap`, runtime = \"provided\"";

pub(super) const FUNCTION: &[Planned] = &[
    plan("env", "a component sees no environment", "compile settings into the function"),
    plan("secrets", "secrets come later", "keep what needs a secret outside"),
    plan("url", "function URLs come later", "append with `millrace produce`"),
    plan("layers", "layers come later", "put all into the package"),
    plan("state", "state per key comes later", "keep state outside"),
    plan("alias", "aliases come later", "name the function itself"),
    plan("canary", "canaries come later", "deploy a second function"),
    plan("cpu", "processor limits come later", "use `timeout` and `instances`"),
    plan("ephemeral-storage", "no limit of files is enforced yet", "take it out"),
];

const EGRESS: &str = "take it out: a component reaches no network, a process is not held back";

pub(super) const ALLOW: &[Planned] = &[
    plan("egress", "no limit of what a process reaches is enforced yet", EGRESS),
    plan("secrets", "secrets come later", "take it out"),
    plan("state", "state per key comes later", "take it out"),
    plan("invoke", "functions call each other through topics", "use `produce`"),
    plan("buckets", "object stores come later", "take it out"),
    plan("files", "no limit of files is enforced yet", "take it out"),
];

pub(super) const INSTANCES: &[Planned] = &[
    plan("concurrency", "one batch runs in an instance at a time", "raise `max`"),
    plan("idle", "idle instances expire by themselves", "use `warm`"),
];

pub(super) const TRIGGER: &[Planned] = &[
    plan("registry", "schema registries come later", "decode in the function"),
    plan("transform", "input transforms come later", "transform in the function"),
    plan("window", "windows over records come later", "`batch = { window = \"5ms\" }` gathers"),
    plan("topics-regex", "patterns of topics come later", "name each topic"),
    plan("group", "groups belong to Kafka", "take it out: a trigger has its own positions"),
    plan("rate", "rate limits come later", "use `instances`"),
];

pub(super) const EVENTS: &[Planned] =
    &[plan("cloudevents", "CloudEvents come later", "take event out: \"record\"")];

/// What only processes have.
pub(super) const LAMBDA: Planned =
    plan("lambda", "Lambda events are for processes", "take event out: \"record\"");
pub(super) const JSON: Planned =
    plan("json", "a component gets the bytes", "decode in the function");

pub(super) const DECODES: &[Planned] = &[
    plan("avro", "decoding by schema comes later", "decode in the function"),
    plan("protobuf", "decoding by schema comes later", "decode in the function"),
];

pub(super) const DELIVERIES: &[Planned] =
    &[plan("at-most-once", "it can lose records", "\"exactly-once\" costs no more here")];

pub(super) const RETRY: &[Planned] = &[
    plan("partial", "every record has its own result anyway", "take it out"),
    plan("on", "every failure is tried again", "name those that are not in `no-retry`"),
    plan("delays", "`backoff` says it", "backoff = [\"5m\", \"30m\", \"2h\"]"),
    plan("budget", "retry budgets come later", "use `attempts`"),
];

pub(super) const OUTPUT: &[Planned] = &[
    plan("key", "the key stays", "set the key in the function"),
    plan("partition", "the key decides", "set the partition in the function"),
    plan("encode", "values are bytes", "encode in the function"),
    plan("schema", "schema checks come later", "check values in the function"),
    plan("headers", "headers come from the function", "set them in the function"),
];

pub(super) const DEV: &[Planned] =
    &[plan("listen", "ports are the node's", "use `millrace dev --help`")];

pub(super) const FEED: &[Planned] = &[
    plan("timestamp", "records are stamped when they are appended", "take it out"),
    plan("delimiter", "columns are separated by commas", "convert the file"),
];
