//! JavaScript functions on our bootstrap.

use frame::Order;

use super::{Function, Ground, JSON, LAMBDA, PATIENCE, call, call_each};

const RETURNS: &str = r#"
function* few(value) {
  yield value;
  yield Promise.resolve({ $outputs: [{ value: "chosen", topic: "other" }] });
  yield undefined;
  yield 9;
}
async function* several() { yield 1; yield 2; }
const made = {
  undefined: () => undefined,
  null: () => null,
  object: () => ({ a: 1.5, "é": [true, null] }),
  list: () => [1, 2],
  text: () => "x",
  false: () => false,
  bytes: () => Buffer.from([1, 114, 97, 119]),
  generator: () => few("y"),
  "async generator": () => several(),
  promise: () => Promise.resolve({ b: 2 }),
  empty: () => ({}),
  outputs: () => ({ $outputs: [
    { value: { c: 3 } },
    { value: Buffer.from("raw"), key: null, topic: "t", partition: 2 },
    { value: { $bytes: "AQ==" }, key: "k", headers: { h: "v", n: null } },
    { value: null, key: { $bytes: "a2V5" } },
  ] }),
  throw: () => { throw new TypeError("no good"); },
  reject: () => Promise.reject(new RangeError("later")),
  half: async function* () { yield 1; throw new Error("gone"); },
  "no value": () => ({ $outputs: [{ key: "k" }] }),
};
exports.handler = (kind) => made[kind]();
exports.back = (kind, context, callback) =>
  setTimeout(() => callback(kind === "bad" ? new Error("called back") : null, kind), 1);
"#;

#[tokio::test]
async fn every_kind_of_value_becomes_what_the_contract_says() {
    let ground = Ground::new();
    let pool = ground.pool(&Function::node(&[("index.js", RETURNS)])).await;
    let cases: &[(&str, &[&str])] = &[
        ("undefined", &[]),
        ("null", &[]),
        ("object", &["0 {\"a\":1.5,\"é\":[true,null]}"]),
        ("list", &["0 [1,2]"]),
        ("text", &["0 \"x\""]),
        ("false", &["0 false"]),
        ("bytes", &["0 \u{1}raw"]),
        ("generator", &["0 \"y\"", "0 \"chosen\" to other", "0 9"]),
        ("async generator", &["0 1", "0 2"]),
        ("promise", &["0 {\"b\":2}"]),
        ("empty", &["0 {}"]),
        (
            "outputs",
            &[
                "0 {\"c\":3}",
                "0 raw to t no key in 2",
                "0 \u{1} key k h=v n=-",
                "0 tombstone key key",
            ],
        ),
    ];
    for (kind, expected) in cases {
        let answered = call_each(&pool, &[&format!("\"{kind}\"")]).await.unwrap();
        assert_eq!(answered.ends, ["ok"], "{kind}");
        assert_eq!(answered.outputs, *expected, "{kind}");
    }
    let values = ["\"throw\"", "\"reject\"", "\"half\"", "not json", "\"no value\"", "\"text\""];
    let answered = call_each(&pool, &values).await.unwrap();
    let starts = [
        "TypeError: no good",
        "RangeError: later",
        "Error: gone",
        "Millrace.Decode: not JSON",
        "Millrace.OutputInvalid: one of `$outputs` has no `value`",
        "ok",
    ];
    for (end, start) in answered.ends.iter().zip(starts) {
        assert!(end.starts_with(start), "{end} instead of {start}");
    }
    assert_eq!(answered.outputs, ["5 \"x\""]);
}

#[tokio::test]
async fn a_failed_record_holds_back_what_its_order_says() {
    let ground = Ground::new();
    let pool = ground.pool(&Function::node(&[("index.js", RETURNS)])).await;
    let records = [
        (Some("a"), "\"text\""),
        (Some("b"), "\"reject\""),
        (Some("a"), "\"promise\""),
        (Some("b"), "\"text\""),
        (None, "\"text\""),
    ];
    let failed = "RangeError: later";
    for (order, expected) in [
        (Order::None, ["ok", failed, "ok", "ok", "ok"]),
        (Order::Key, ["ok", failed, "ok", "not run", "ok"]),
        (Order::Partition, ["ok", failed, "not run", "not run", "not run"]),
    ] {
        let answered = call(&pool, JSON, order, PATIENCE, &records).await.unwrap();
        assert_eq!(answered.ends, expected, "{order:?}");
    }
}

#[tokio::test]
async fn a_handler_that_calls_back_is_waited_for() {
    let ground = Ground::new();
    let function = Function { handler: "index.back", ..Function::node(&[("index.js", RETURNS)]) };
    let pool = ground.pool(&function).await;
    let answered = call_each(&pool, &["1", "\"bad\"", "2"]).await.unwrap();
    assert_eq!(answered.ends, ["ok", "Error: called back", "ok"]);
    assert_eq!(answered.outputs, ["0 1", "2 2"]);
}

const MODULE: &str = r#"
const [, name] = await Promise.all([1, "loaded"]);
export const handler = async (value, context) => {
  console.log("said by %s", value);
  return [
    name, context.topic, context.partition, context.offset, context.timestamp, context.attempt,
    String(context.key), context.headers.map(([n, v]) => [n, v && [...v]]), context.idempotencyKey,
    context.trigger, context.functionName, context.memoryLimitInMB,
    context.getRemainingTimeInMillis() > 0, process.env.LIMIT ?? null,
    process.env.CARGO_MANIFEST_DIR ?? null, context.trace, process.env._X_AMZN_TRACE_ID,
  ];
};
"#;

#[tokio::test]
async fn a_module_knows_where_its_record_lies_and_nothing_of_the_node() {
    let ground = Ground::new();
    let files = [("src/index.mjs", MODULE)];
    let function = Function {
        handler: "src/index.handler",
        env: &[("LIMIT", "30")],
        ..Function::node(&files)
    };
    let pool = ground.pool(&function).await;
    let answered = call(&pool, JSON, Order::Key, PATIENCE, &[(Some("k"), "5")]).await.unwrap();
    let expected = "0 [\"loaded\",\"in\",3,10,1000,2,\"k\",\
        [[\"trace\",[118,220,0]],[\"none\",null]],\"dev/app/probe/main/in/3/10\",\
        \"app/probe/main\",\"probe\",\"256\",true,\"30\",null,\
        \"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\",\
        \"Root=1-4bf92f35-77b34da6a3ce929d0e0e4736;Parent=00f067aa0ba902b7;Sampled=1\"]";
    assert_eq!(
        (answered.ends, answered.outputs),
        (vec!["ok".to_owned()], vec![expected.to_owned()])
    );
    let log = ground.log();
    let line = log.iter().find(|line| line.contains("said by 5")).unwrap();
    assert!(line.contains("\\tINFO\\tsaid by 5"), "{line}");
}

#[tokio::test]
async fn a_lambda_handler_gets_the_event_and_answers_for_its_records() {
    let ground = Ground::new();
    let code = "exports.handler = async (event) => ({ batchItemFailures: \
        event.records['in-3'].filter((it) => Buffer.from(it.value, 'base64') == 'bad')\
        .map((it) => ({ itemIdentifier: { partition: 'in-3', offset: it.offset } })) });";
    let pool = ground.pool(&Function::node(&[("index.js", code)])).await;
    let records = [(None, "x"), (None, "bad")];
    let answered = call(&pool, LAMBDA, Order::Key, PATIENCE, &records).await.unwrap();
    let reported = "Function.BatchItemFailure: the function reported it in batchItemFailures";
    assert_eq!(answered.ends, ["ok", reported]);
}
